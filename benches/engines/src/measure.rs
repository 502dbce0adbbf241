//! What the system says of this process. Linux only.

use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Processor time and bytes written since it began.
pub struct Meter {
    began: Instant,
    cpu: Duration,
    written: u64,
}

impl Meter {
    pub fn start() -> Result<Meter, String> {
        Ok(Meter { began: Instant::now(), cpu: cpu_time()?, written: written_bytes()? })
    }

    /// What it came to, for so many operations.
    pub fn stop(self, operations: u64) -> Result<Value, String> {
        let each = |total: f64| rounded(total / operations as f64);
        Ok(json!({
            "cpu_us": each((cpu_time()? - self.cpu).as_secs_f64() * 1e6),
            "wall_us": each(self.began.elapsed().as_secs_f64() * 1e6),
            "written_bytes": each((written_bytes()? - self.written) as f64),
        }))
    }
}

pub fn resident_mb() -> Result<f64, String> {
    status_mb("VmRSS:")
}

pub fn peak_resident_mb() -> Result<f64, String> {
    status_mb("VmHWM:")
}

pub fn folder_bytes(folder: &Path) -> Result<u64, String> {
    let cant = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(cant)? {
        let entry = entry.map_err(cant)?;
        let metadata = entry.metadata().map_err(cant)?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Three digits behind the point are enough to read.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// User and system time of all threads: fields 14 and 15, in hundredths of a second.
fn cpu_time() -> Result<Duration, String> {
    let stat = proc_file("stat")?;
    let ticks = stat.rsplit_once(')').and_then(|(_, fields)| {
        let mut fields = fields.split_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    });
    ticks.map(|ticks| Duration::from_millis(10 * ticks)).ok_or_else(|| format!("can't read this: {stat}"))
}

/// What this process made the system write to disk, now or later.
fn written_bytes() -> Result<u64, String> {
    let io = proc_file("io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).ok_or_else(|| format!("can't read this: {io}"))
}

fn status_mb(name: &str) -> Result<f64, String> {
    let status = proc_file("status")?;
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next());
    let kilobytes: Option<f64> = kilobytes.and_then(|number| number.parse().ok());
    kilobytes.map(|kilobytes| rounded(kilobytes * 1024.0 / 1e6)).ok_or_else(|| format!("there is no {name}"))
}

fn proc_file(name: &str) -> Result<String, String> {
    let path = format!("/proc/self/{name}");
    std::fs::read_to_string(&path).map_err(|error| format!("can't read {path}: {error}"))
}
