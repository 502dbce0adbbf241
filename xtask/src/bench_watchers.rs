//! `cargo xtask bench-watchers`: what watchers of one hot prefix cost the writers.
//!
//! Three nodes on this machine, and a closed loop of writers at the leader, in turn without and with watchers, who all
//! watch the keys that are written, at the leader too: the worst place. What is compared is the median of the rounds.
//! The watchers' side runs in a process of its own, at the lowest priority, as it stands in for other machines. After
//! the writers stop it says how long it took until every watcher had seen the last change, and fails if one does not.
//!
//! Not handled: watchers that want different keys, and telling apart what the nodes and what the watchers' side take of
//! the processor; `GET /metrics` of the leader has the node's own.

use crate::bench_peers::cluster::{Cluster, Programs, System};
use crate::bench_peers::{Kind, build_for_release, run_release_build, target_folder};
use client::load::{self, Plan};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many watch
    #[arg(long, default_value_t = 1000)]
    watchers: usize,

    /// How many write
    #[arg(long, default_value_t = 64)]
    writers: usize,

    /// How often either is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How long each is measured, after a second of warm-up
    #[arg(short, long, default_value_t = 5)]
    seconds: u64,

    /// The programs are built already
    #[arg(long)]
    no_build: bool,

    /// Be the watchers, of the node at that address: what this command starts
    #[arg(long, value_name = "ADDRESS", hide = true)]
    watch: Option<String>,
}

pub fn run(args: Args) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("can't start: {error}"))?;
    if let Some(address) = &args.watch {
        return runtime.block_on(watch(address, args.watchers));
    }
    let target = target_folder()?;
    if !args.no_build {
        build_for_release()?;
        return run_release_build(&target);
    }
    let program = target.join("release").join(format!("hraftd{}", std::env::consts::EXE_SUFFIX));
    let programs = Programs { ours: program, ..Programs::default() };
    runtime.block_on(measure(&args, &programs, &target.join("bench-watchers")))
}

async fn measure(args: &Args, programs: &Programs, folder: &std::path::Path) -> Result<(), String> {
    let mut cluster = Cluster::start(System::Ours, programs, folder).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let leader = cluster.wait_until_healthy().await?;
        without.push(rate(args, &cluster).await?);
        let mut watchers = Watchers::start(cluster.address(leader), args.watchers)?;
        with.push(rate(args, &cluster).await?);
        let revision = revision(cluster.address(leader)).await?;
        let caught_up = watchers.catch_up(revision)?;
        watchers.end()?;
        println!(
            "round {round}: {:.0} writes/s without watchers, {:.0} with {}; {caught_up}",
            without[round - 1],
            with[round - 1],
            args.watchers
        );
    }
    let (without, with) = (median(&mut without), median(&mut with));
    println!("median: {without:.0} writes/s without, {with:.0} with {} watchers: {:.2}", args.watchers, with / without);
    Ok(())
}

async fn rate(args: &Args, cluster: &Cluster) -> Result<f64, String> {
    let plan = Plan { clients: args.writers, measured: Duration::from_secs(args.seconds), ..Plan::default() };
    let drivers = cluster.drivers(Kind::Writes, args.writers).await?;
    let report = load::run(&plan, drivers, |_| {}).await?;
    if report.error_count() > 0 {
        return Err(format!("{} writes failed: {:?}", report.error_count(), report.errors));
    }
    Ok(report.summary(&report.writes).per_second)
}

/// The store's, by a linearizable read.
async fn revision(address: &str) -> Result<u64, String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /v1/kv?limit=1&keys_only=true HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = ask.await.map_err(|error: std::io::Error| error.to_string())?;
    let header = answer.lines().find_map(|line| line.strip_prefix("quorate-revision: "));
    header.and_then(|revision| revision.trim().parse().ok()).ok_or_else(|| format!("no revision in {answer}"))
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The process that is all of them.
struct Watchers {
    process: Child,
    says: BufReader<ChildStdout>,
}

impl Watchers {
    /// Returns when all of them watch.
    fn start(address: &str, count: usize) -> Result<Watchers, String> {
        let failed = |error: std::io::Error| format!("can't start the watchers: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(program).args(["bench-watchers", "--watch", address, "--watchers"]);
        command.arg(count.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let says = BufReader::new(process.stdout.take().expect("piped"));
        let mut watchers = Watchers { process, says };
        match watchers.line()?.as_str() {
            "ready" => Ok(watchers),
            other => Err(format!("the watchers said {other:?}")),
        }
    }

    /// Returns when all of them have seen everything up to that revision, with what they say.
    fn catch_up(&mut self, revision: u64) -> Result<String, String> {
        let input = self.process.stdin.as_mut().expect("piped");
        writeln!(input, "{revision}").map_err(|error| format!("the watchers are gone: {error}"))?;
        self.line()
    }

    /// An error if they found something wrong.
    fn end(&mut self) -> Result<(), String> {
        match self.process.wait() {
            Ok(status) if status.success() => Ok(()),
            _ => Err("the watchers failed".to_string()),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.says.read_line(&mut line) {
            Ok(count) if count > 0 => Ok(line.trim().to_string()),
            _ => Err("the watchers ended".to_string()),
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What one watcher has seen.
#[derive(Default)]
struct Seen {
    bytes: AtomicU64,
    revision: AtomicU64,
}

/// Watches, says `ready`, waits to be told a revision, and says when everyone has seen it.
async fn watch(address: &str, count: usize) -> Result<(), String> {
    let mut all: Vec<Arc<Seen>> = Vec::new();
    for _ in 0..count {
        let seen = Arc::new(Seen::default());
        let mut stream = TcpStream::connect(address).await.map_err(|error| format!("can't watch: {error}"))?;
        let head = b"GET /v1/watch?prefix=k HTTP/1.0\r\n\r\n";
        stream.write_all(head).await.map_err(|error| format!("can't watch: {error}"))?;
        all.push(seen.clone());
        tokio::spawn(read(stream, seen));
    }
    // The first progress of each tells where it begins.
    while all.iter().any(|seen| seen.bytes.load(Ordering::Relaxed) == 0) {
        tokio::time::sleep(ASK_EVERY).await;
    }
    let first = all.iter().map(|seen| seen.revision.load(Ordering::Relaxed)).max().unwrap_or(0);
    println!("ready");
    let wanted = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let wanted = wanted.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let wanted: u64 = wanted.trim().parse().map_err(|_| "no revision was given".to_string())?;
    let began = Instant::now();
    let behind = |seen: &&Arc<Seen>| seen.revision.load(Ordering::Relaxed) < wanted;
    let lagging = all.iter().filter(behind).count();
    while all.iter().any(|seen| behind(&seen)) {
        if began.elapsed() > CATCH_UP_LIMIT {
            println!(
                "{} watchers have not seen revision {wanted} after {CATCH_UP_LIMIT:?}",
                all.iter().filter(behind).count()
            );
            return Err("not everyone has seen everything".to_string());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    let least = (wanted - first.min(wanted)) * SMALLEST_EVENT_BYTES;
    if all.iter().any(|seen| seen.bytes.load(Ordering::Relaxed) < least) {
        println!("watchers got too little for {} changes", wanted - first);
        return Err("the watchers did not see what was written".to_string());
    }
    let bytes: u64 = all.iter().map(|seen| seen.bytes.load(Ordering::Relaxed)).sum();
    println!(
        "when they stopped {lagging} watchers were behind, the last for {:.1} s; they got {:.1} GB",
        began.elapsed().as_secs_f64(),
        bytes as f64 / 1e9
    );
    Ok(())
}

async fn read(mut stream: TcpStream, seen: Arc<Seen>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut kept = 0;
    // The end of the stream shows as a revision that is never seen.
    while let Ok(count) = stream.read(&mut buffer[kept..]).await
        && count > 0
    {
        seen.bytes.fetch_add(count as u64, Ordering::Relaxed);
        let text = &buffer[..kept + count];
        if let Some(revision) = last_id(text) {
            seen.revision.store(revision, Ordering::Relaxed);
        }
        // So that an id is found that comes in two pieces.
        let rest = text.len().min(ID_BYTES);
        buffer.copy_within(kept + count - rest..kept + count, 0);
        kept = rest;
    }
}

/// Of the last whole line that is the id of an event.
fn last_id(text: &[u8]) -> Option<u64> {
    let mut end = text.len();
    while let Some(at) = text[..end].windows(5).rposition(|five| five == b"\nid: ") {
        let digits = &text[at + 5..];
        if let Some(length) = digits.iter().position(|&byte| byte == b'\n') {
            return std::str::from_utf8(&digits[..length]).ok()?.parse().ok();
        }
        end = at + 4;
    }
    None
}

const ASK_EVERY: Duration = Duration::from_millis(10);
/// They have what the others leave of the processor.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(300);
/// An event with a value of a hundred bytes is longer.
const SMALLEST_EVENT_BYTES: u64 = 100;
/// An id's line is not longer.
const ID_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_id_counts() {
        assert_eq!(last_id(b"x\nid: 7\nevent: change\ndata: {}\n\nid: 12\ndata"), Some(12));
        assert_eq!(last_id(b"x\nid: 7\nevent: change\n\nid: 1"), Some(7));
        assert_eq!(last_id(b"id: 1"), None);
    }
}
