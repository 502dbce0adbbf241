//! How much of the past a node keeps, as the drop-ins are told it.

use crate::goflag::{Flags, Line};
use bytesize::ByteSize;
use server::Compaction;

pub fn flags(flags: Flags) -> Flags {
    flags.text("compact-after", "1h", "compact what was superseded longer ago; 0s: whatever its age, keep it").text(
        "compact-above",
        "1GiB",
        "compact the oldest of the past beyond that size; 0: whatever its size, keep it",
    )
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
