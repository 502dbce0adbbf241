//! Where a node keeps its state and how much of the past, as the drop-ins are told it.

use crate::goflag::{Flags, Line};
use bytesize::ByteSize;
use server::{Compaction, Engine, LEAST_MEMORY_BYTES};

pub fn flags(flags: Flags) -> Flags {
    flags
        .text("compact-after", "1h", "compact what was superseded longer ago; 0s: whatever its age, keep it")
        .text("compact-above", "1GiB", "compact the oldest of the past beyond that size; 0: whatever its size, keep it")
        .text("engine", "disk", "where the state lies while the node runs: disk or memory")
        .text("memory", "96MiB", "how much memory the disk engine has for writes and for what is read often")
}

pub fn engine(line: &Line) -> Result<Engine, String> {
    let memory = line.text("memory");
    match line.text("engine") {
        "disk" => {
            Ok(Engine::Disk { memory_bytes: memory_bytes(memory).map_err(|e| format!("-memory {memory}: {e}"))? })
        }
        "memory" => Ok(Engine::Memory),
        other => Err(format!("-engine {other}: there are disk and memory")),
    }
}

/// As it is written on a command line.
pub fn memory_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<ByteSize>().map_err(|error| format!("{error}; write it as 256MiB"))?.as_u64();
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes < LEAST_MEMORY_BYTES {
        return Err(format!("a node needs {} at the least", ByteSize(LEAST_MEMORY_BYTES as u64)));
    }
    Ok(bytes)
}

pub fn compaction(line: &Line) -> Result<Compaction, String> {
    let after = line.text("compact-after");
    let above = line.text("compact-above");
    Ok(Compaction {
        after: humantime::parse_duration(after)
            .map_err(|error| format!("-compact-after {after}: {error}; write it as 30m or 7d"))?,
        above_bytes: above
            .parse::<ByteSize>()
            .map_err(|error| format!("-compact-above {above}: {error}; write it as 256MiB"))?
            .as_u64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn told(line: &str) -> Result<Compaction, String> {
        compaction(&flags(Flags::new()).parse(line.split_whitespace().map(str::to_string)).unwrap())
    }

    #[test]
    fn the_engine_is_as_it_is_told() {
        let told =
            |line: &str| engine(&flags(Flags::new()).parse(line.split_whitespace().map(str::to_string)).unwrap());
        assert_eq!(told(""), Ok(Engine::default()));
        assert_eq!(told("-memory 1GiB"), Ok(Engine::Disk { memory_bytes: 1 << 30 }));
        assert_eq!(told("-engine memory"), Ok(Engine::Memory));
        assert!(told("-memory 1").unwrap_err().contains("8.0 MiB"));
        assert!(told("-engine tape").unwrap_err().contains("disk"));
    }

    #[test]
    fn the_past_is_bounded_as_it_is_told() {
        assert_eq!(told(""), Ok(Compaction::default()));
        let bounds = Compaction { after: Duration::from_secs(90 * 60), above_bytes: 64 << 20 };
        assert_eq!(told("-compact-after 90m -compact-above=64MiB"), Ok(bounds));
        assert_eq!(
            told("-compact-after 0s -compact-above 0"),
            Ok(Compaction { after: Duration::ZERO, above_bytes: 0 })
        );
        assert!(told("-compact-after soon").unwrap_err().contains("30m"));
        assert!(told("-compact-above much").unwrap_err().contains("256MiB"));
    }
}
