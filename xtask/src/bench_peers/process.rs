//! A node as a child process: its log in a file, its end with ours, and what the system says about it.
//!
//! Not handled: our own death by `kill -9`, after which the nodes live on.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(program: &Path, arguments: &[OsString], log: &Path) -> Result<Process, String> {
        let cant = |error| format!("can't start {}: {error}", program.display());
        let log = File::options().create(true).append(true).open(log).map_err(cant)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().map_err(cant)?).stderr(log);
        Ok(Process { child: command.spawn().map_err(cant)? })
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), String> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| format!("can't kill a node: {error}"))
    }

    /// Why it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    pub fn cpu_time(&self) -> Result<Duration, String> {
        cpu_time(&self.child.id().to_string())
    }

    /// What it made the system write to disk, now or later.
    pub fn written_bytes(&self) -> Result<u64, String> {
        let io = self.proc_file("io")?;
        parse_written_bytes(&io).ok_or_else(|| "there is no write_bytes in a process's io".to_string())
    }

    pub fn resident_bytes(&self) -> Result<u64, String> {
        let status = self.proc_file("status")?;
        parse_resident_bytes(&status).ok_or_else(|| "there is no VmRSS in a process's status".to_string())
    }

    fn proc_file(&self, name: &str) -> Result<String, String> {
        proc_file(&self.child.id().to_string(), name)
    }
}

/// Of this process itself.
pub fn own_cpu_time() -> Result<Duration, String> {
    cpu_time("self")
}

fn cpu_time(process: &str) -> Result<Duration, String> {
    let stat = proc_file(process, "stat")?;
    parse_cpu_ticks(&stat).map(|ticks| TICK * ticks).ok_or_else(|| format!("can't read this: {stat}"))
}

fn proc_file(process: &str, name: &str) -> Result<String, String> {
    let path = format!("/proc/{process}/{name}");
    std::fs::read_to_string(&path).map_err(|error| format!("can't read {path} (this needs Linux): {error}"))
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill();
    }
}

/// Linux tells processor time in hundredths of a second, whatever the kernel ticks at.
const TICK: Duration = Duration::from_millis(10);

/// User and system time: fields 14 and 15, counted after the program's name, which may hold anything.
fn parse_cpu_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn parse_written_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

fn parse_resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Ports that nothing uses at this moment. All are held until all are found, so they differ.
pub fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: std::io::Result<Vec<_>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let ports: std::io::Result<Vec<u16>> = listeners
        .and_then(|listeners| listeners.iter().map(|listener| listener.local_addr().map(|at| at.port())).collect());
    ports.map_err(|error| format!("can't find free ports: {error}"))
}

/// Looks for a program as a shell does.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(&file)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 123";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(TICK * 300, Duration::from_secs(3));
        assert_eq!(parse_cpu_ticks("42 (etcd) S 1"), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(parse_resident_bytes("Name:\tetcd\nVmRSS:\t   2048 kB\nThreads:\t9\n"), Some(2 << 20));
        assert_eq!(parse_resident_bytes("Name:\tetcd\n"), None);
    }

    #[test]
    fn written_bytes_are_those_that_reach_the_disk() {
        assert_eq!(parse_written_bytes("wchar: 9\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n"), Some(4096));
        assert_eq!(parse_written_bytes("wchar: 9\n"), None);
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(6).unwrap();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 6);
    }

    #[cfg(unix)]
    #[test]
    fn a_process_logs_ends_and_is_gone_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let arguments = ["-c".into(), "echo started; exec sleep 600".into()];
        let mut process = Process::start(Path::new("/bin/sh"), &arguments, &log).unwrap();
        while std::fs::read_to_string(&log).unwrap() != "started\n" {
            assert_eq!(process.ended(), None);
            std::thread::yield_now();
        }
        if cfg!(target_os = "linux") {
            assert!(process.resident_bytes().unwrap() > 0);
            assert!(process.cpu_time().unwrap() < Duration::from_secs(60));
        }
        process.kill().unwrap();
        assert!(process.ended().unwrap().contains("9"));
        let error = Process::start(Path::new("/no/such/program"), &[], &log).map(drop).unwrap_err();
        assert!(error.contains("/no/such/program"), "{error}");
    }
}
