//! `cargo xtask bench-peers`: three nodes of ours against three of etcd, on this machine, by the same closed loop.
//!
//! The two take turns, a fresh cluster each time, and what is compared are the medians of the rounds: a noisy machine
//! then hurts both alike. Both keep their data on the same disk and sync every write as they do by default. Writes go
//! to the leader, reads are spread over all members. Our clients speak HTTP/1.1, each over a connection of its own;
//! etcd's speak gRPC, sixteen to a connection.
//!
//! Besides the load: how soon after the leader's death a write succeeds, how much memory 100,000 keys take, and what
//! an idle node costs.
//!
//! Not handled: other machines, other sizes than three, TLS, and load from more than one thread.

pub(crate) mod cluster;
mod etcd;
mod process;
mod report;

use client::load::{self, Plan};
use cluster::{Cluster, Programs, System};
use report::{Comparison, Unit};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How often each system is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How long each load is measured, after a second of warm-up
    #[arg(short, long, default_value_t = 5)]
    seconds: u64,

    /// Only these loads
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LOAD,…")]
    only: Vec<Kind>,

    /// Only the loads with these numbers of clients
    #[arg(short, long, value_delimiter = ',', value_name = "N,…")]
    clients: Vec<usize>,

    /// Only these systems
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [System::Ours, System::Etcd])]
    systems: Vec<System>,

    /// Instead of load: time from `kill -9` of the leader to the next write, ten times a system
    #[arg(long)]
    failover: bool,

    /// Instead of load: resident memory of a node with 100,000 keys
    #[arg(long)]
    memory: bool,

    /// Instead of load: processor time of a node that has nothing to do, over ten seconds
    #[arg(long)]
    idle: bool,

    /// etcd's program; looked for in PATH unless given
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,

    /// Where the nodes keep their data and logs; emptied first [default: bench-peers in cargo's target folder]
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,

    /// Print the results as one JSON object
    #[arg(long)]
    json: bool,

    /// Our programs are built already
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Durable writes
    Writes,
    /// Linearizable reads
    Reads,
    /// Reads of what a node has; etcd calls them serializable
    Local,
}

#[derive(Clone, Copy, Debug)]
struct Load {
    kind: Kind,
    clients: usize,
}

const LOADS: [Load; 6] = [
    Load { kind: Kind::Writes, clients: 1 },
    Load { kind: Kind::Writes, clients: 64 },
    Load { kind: Kind::Writes, clients: 256 },
    Load { kind: Kind::Reads, clients: 64 },
    Load { kind: Kind::Reads, clients: 256 },
    Load { kind: Kind::Local, clients: 64 },
];

const FAILOVERS: usize = 10;
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_millis(10);
const MEMORY_KEYS: u64 = 100_000;
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(10);

pub fn run(args: Args) -> Result<(), String> {
    let target = target_folder()?;
    if !args.no_build {
        build_for_release()?;
        if cfg!(debug_assertions) {
            // The load itself must be light, so the rest is up to this program's own release build.
            return run_release_build(&target);
        }
    }
    let loads = args.loads();
    if loads.is_empty() {
        return Err("no load is left by --only and --clients: see --help for what there is".to_string());
    }
    let programs = Programs {
        ours: target.join("release").join(format!("hraftd{}", std::env::consts::EXE_SUFFIX)),
        etcd: if args.systems.contains(&System::Etcd) {
            etcd::find_program(args.etcd.as_deref())?
        } else {
            PathBuf::new()
        },
        more: &[],
    };
    let folder = args.folder.clone().unwrap_or_else(|| target.join("bench-peers"));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let comparisons = runtime.map_err(|error| format!("can't start: {error}"))?.block_on(async {
        // Whatever ends first, dropping the other kills the nodes.
        tokio::select! {
            measured = measure(&args, &loads, &programs, &folder) => measured,
            () = interrupted() => Err("interrupted; the nodes are stopped".to_string()),
        }
    })?;
    let text = if args.json { report::to_json(&comparisons) } else { report::to_text(&comparisons) };
    println!("{text}");
    Ok(())
}

impl Args {
    fn loads(&self) -> Vec<Load> {
        let is_wanted = |load: &Load| {
            (self.only.is_empty() || self.only.contains(&load.kind))
                && (self.clients.is_empty() || self.clients.contains(&load.clients))
        };
        LOADS.into_iter().filter(is_wanted).collect()
    }

    fn plan(&self, load: Load) -> Plan {
        Plan {
            clients: load.clients,
            measured: Duration::from_secs(self.seconds),
            read_percent: if load.kind == Kind::Writes { 0 } else { 100 },
            ..Plan::default()
        }
    }
}

impl Load {
    fn name(self) -> String {
        let kind = match self.kind {
            Kind::Writes => "writes",
            Kind::Reads => "linearizable reads",
            Kind::Local => "local reads",
        };
        let plural = if self.clients == 1 { "" } else { "s" };
        format!("{kind}, {} client{plural}", self.clients)
    }
}

async fn measure(args: &Args, loads: &[Load], programs: &Programs, folder: &Path) -> Result<Vec<Comparison>, String> {
    let mut comparisons = Vec::new();
    let wants_load = !(args.failover || args.memory || args.idle);
    for round in 1..=if wants_load { args.rounds } else { 1 } {
        for &system in &args.systems {
            let cluster = Cluster::start(system, programs, folder).await?;
            if wants_load {
                say(&format!("round {round} of {}: {system}", args.rounds));
                measure_loads(args, loads, &cluster, &mut comparisons).await?;
                continue;
            }
            say(&format!("{system}"));
            if args.idle {
                measure_idle(&cluster, &mut comparisons).await?;
            }
            if args.memory {
                measure_memory(&cluster, &mut comparisons).await?;
            }
            if args.failover {
                measure_failover(cluster, &mut comparisons).await?;
            }
        }
    }
    Ok(comparisons)
}

async fn measure_loads(
    args: &Args,
    loads: &[Load],
    cluster: &Cluster,
    comparisons: &mut Vec<Comparison>,
) -> Result<(), String> {
    fill(cluster, Plan::default().keys).await?;
    for &load in loads {
        let plan = args.plan(load);
        let drivers = cluster.drivers(load.kind, load.clients).await?;
        let report = load::run(&plan, drivers, |_| {}).await?;
        let summary = report.summary(&report.all());
        say(&format!(
            "  {}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, errors {:?}",
            load.name(),
            summary.per_second,
            summary.p50_us as f64 / 1000.0,
            summary.p99_us as f64 / 1000.0,
            report.errors
        ));
        let system = cluster.system();
        report::add(comparisons, &load.name(), Unit::PerSecond, system, summary.per_second);
        report::add(comparisons, &format!("{}: p99", load.name()), Unit::Ms, system, summary.p99_us as f64 / 1000.0);
        let errors = report.error_count();
        if errors > 0 {
            report::add(comparisons, &format!("{}: errors", load.name()), Unit::Count, system, errors as f64);
        }
    }
    Ok(())
}

async fn fill(cluster: &Cluster, keys: u64) -> Result<(), String> {
    let drivers = cluster.drivers(Kind::Writes, 64).await?;
    load::fill(&Plan { keys, ..Plan::default() }, drivers)
        .await
        .map(drop)
        .map_err(|kind| format!("{} refused a write: {kind}; see {}", cluster.system(), cluster.folder().display()))
}

async fn measure_idle(cluster: &Cluster, comparisons: &mut Vec<Comparison>) -> Result<(), String> {
    tokio::time::sleep(SETTLE).await;
    let began = Instant::now();
    let before = cluster.cpu_times()?;
    tokio::time::sleep(IDLE).await;
    let elapsed = began.elapsed();
    for (before, after) in before.into_iter().zip(cluster.cpu_times()?) {
        let percent = 100.0 * (after - before).as_secs_f64() / elapsed.as_secs_f64();
        say(&format!("  an idle node: {percent:.2} % of a core"));
        report::add(comparisons, "an idle node", Unit::PercentOfCore, cluster.system(), percent);
    }
    Ok(())
}

async fn measure_memory(cluster: &Cluster, comparisons: &mut Vec<Comparison>) -> Result<(), String> {
    fill(cluster, MEMORY_KEYS).await?;
    for bytes in cluster.resident_bytes()? {
        let megabytes = bytes as f64 / 1e6;
        say(&format!("  a node with 100,000 keys: {megabytes:.1} MB"));
        report::add(comparisons, "a node with 100,000 keys", Unit::Megabytes, cluster.system(), megabytes);
    }
    Ok(())
}

async fn measure_failover(mut cluster: Cluster, comparisons: &mut Vec<Comparison>) -> Result<(), String> {
    for attempt in 1..=FAILOVERS {
        let leader = cluster.wait_until_healthy().await?;
        cluster.probe(leader).await.map_err(|kind| format!("a healthy leader refused a write: {kind}"))?;
        let began = Instant::now();
        cluster.kill(leader)?;
        first_write(&cluster, leader).await?;
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        say(&format!("  failover {attempt} of {FAILOVERS}: {ms:.0} ms"));
        report::add(comparisons, "first write after kill -9 of the leader", Unit::Ms, cluster.system(), ms);
        cluster.restart(leader)?;
    }
    Ok(())
}

/// A probe sent at a bad moment may hang until its time limit, so a fresh one leaves for each survivor all the time.
async fn first_write(cluster: &Cluster, dead: usize) -> Result<(), String> {
    let began = Instant::now();
    let mut probes = JoinSet::new();
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    while began.elapsed() < FAILOVER_LIMIT {
        tokio::select! {
            _ = ticks.tick() => {
                for survivor in (0..cluster.size()).filter(|&node| node != dead) {
                    probes.spawn(cluster.probe(survivor));
                }
            }
            Some(result) = probes.join_next() => {
                if let Ok(Ok(())) = result {
                    return Ok(());
                }
            }
        }
    }
    Err(format!("{}: no write succeeded within {FAILOVER_LIMIT:?} after the leader's death", cluster.system()))
}

fn say(line: &str) {
    eprintln!("{line}");
}

/// This program is at `target/PROFILE/xtask`.
pub(crate) fn target_folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("can't tell where this program is: {error}"))?;
    let folder = program.parent().and_then(Path::parent);
    folder.map(Path::to_path_buf).ok_or_else(|| format!("{} is not in a target folder", program.display()))
}

pub(crate) fn build_for_release() -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--package", "quorate", "--package", "xtask"]);
    match build.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo build --release failed ({status})")),
        Err(error) => Err(format!("can't run cargo: {error}")),
    }
}

pub(crate) fn run_release_build(target: &Path) -> Result<(), String> {
    let program = target.join("release").join(format!("xtask{}", std::env::consts::EXE_SUFFIX));
    let status = Command::new(&program).args(std::env::args_os().skip(1)).arg("--no-build").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the chore ended with {status}")),
        Err(error) => Err(format!("can't run {}: {error}", program.display())),
    }
}

async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn loads(line: &str) -> Vec<String> {
        let args = Program::try_parse_from(line.split(' ')).unwrap().args;
        args.loads().into_iter().map(Load::name).collect()
    }

    #[test]
    fn loads_are_chosen_by_kind_and_clients() {
        assert_eq!(loads("bench-peers").len(), LOADS.len());
        assert_eq!(
            loads("bench-peers --only writes,local --clients 1,64"),
            ["writes, 1 client", "writes, 64 clients", "local reads, 64 clients"]
        );
        assert_eq!(loads("bench-peers -c 7"), [""; 0]);
        assert!(Program::try_parse_from(["bench-peers", "--only", "dreams"]).is_err());
    }

    #[test]
    fn a_plan_has_the_size_that_figures_are_quoted_for() {
        let args = Program::try_parse_from(["bench-peers", "-s", "2"]).unwrap().args;
        let plan = args.plan(Load { kind: Kind::Reads, clients: 64 });
        assert_eq!((plan.key_size_bytes, plan.value_size_bytes, plan.read_percent), (16, 100, 100));
        assert_eq!((plan.clients, plan.measured), (64, Duration::from_secs(2)));
        plan.validate().unwrap();
    }
}
