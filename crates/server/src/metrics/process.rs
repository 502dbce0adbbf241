//! What the operating system counts of this process, under the names that every Prometheus client uses. Only on Linux,
//! which tells it in files that are none of our data.

use super::text::Text;
use std::fs;

/// Adds what can be had.
pub fn write(text: &mut Text) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Stat::parse(&stat)) {
        text.seconds("process_cpu_seconds_total", "CPU time of this process, of user and system.", stat.cpu_seconds);
        text.number("process_virtual_memory_bytes", "Virtual memory of this process.", stat.virtual_bytes);
        if let Some(booted) = fs::read_to_string("/proc/stat").ok().and_then(|stat| boot_time(&stat)) {
            let started = booted as f64 + stat.started_seconds;
            text.gauge("process_start_time_seconds", "When this process started, in Unix time.", started);
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kilobytes) = after(&status, "VmRSS:") {
        text.number("process_resident_memory_bytes", "Resident memory of this process.", kilobytes * 1024);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        text.number("process_open_fds", "Open file descriptors.", open.count() as u64);
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = after(&limits, "Max open files") {
        text.number("process_max_fds", "File descriptors that may be open.", most);
    }
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    /// Since the system booted.
    started_seconds: f64,
    virtual_bytes: u64,
}

impl Stat {
    /// See proc_pid_stat(5). The program's name, in parentheses, may hold anything.
    fn parse(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // The first of these is the third field.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_seconds: (number(14)? + number(15)?) as f64 / TICKS_PER_SECOND,
            started_seconds: number(22)? as f64 / TICKS_PER_SECOND,
            virtual_bytes: number(23)?,
        })
    }
}

fn boot_time(stat: &str) -> Option<u64> {
    after(stat, "btime")
}

/// The first number on the line that begins so.
fn after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What Linux shows times in, on every machine that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_that_the_manual_names() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 2500 4096 21";
        let expected = Stat { cpu_seconds: 2.0, started_seconds: 25.0, virtual_bytes: 4096 };
        assert_eq!(Stat::parse(stat), Some(expected));
        assert_eq!(
            after("Max open files            1024                 4096     files\n", "Max open files"),
            Some(1024)
        );
        assert_eq!(after("cpu 1\nbtime 1700000000\n", "btime"), Some(1_700_000_000));
    }
}
