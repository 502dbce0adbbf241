//! `cargo xtask bench-peers`: three nodes of ours against three of etcd and of ZooKeeper, and one of Redis, on this
//! machine, by the same closed loop. Whichever of them are named or found are measured.
//!
//! The systems take turns, a fresh cluster each time, and what is compared is each round with the same round: a noisy
//! machine then hurts all alike. All keep their data on the same disk and sync every write as they do by default (Redis
//! is told to). Writes go to the leader, reads are spread over all members. etcd's clients speak gRPC, sixteen to a
//! connection, and so many of ours share a pipeline of `/v1`; beside it ours are measured with a connection each, and a
//! request of HTTP/1.1 at a time on it. ZooKeeper's and Redis's speak their own protocols, over a connection each.
//!
//! Processor time is that of all nodes and of the clients. Bytes written to disk are what the system wrote for all nodes
//! together, whatever for: log, data, and what was merged.
//!
//! Besides the load: how soon after the leader's death a write succeeds, and after the death of all a read; how much
//! memory many keys take, and what an idle node costs.
//!
//! Not handled: other machines, TLS, and load from more than one thread.

pub(crate) mod cluster;
mod etcd;
pub(crate) mod metrics;
mod plot;
mod process;
mod redis;
mod report;
mod zookeeper;

use client::load::{self, Driver, Plan};
use cluster::{Cluster, PeerDriver, Programs, System, Used};
use plot::Curves;
pub(crate) use report::with_thousands;
use report::{Comparisons, Told, Unit};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
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

    /// These numbers of clients [default: 1, 16, 64, 256 for writes, 64 and 256 for reads, 64 for local reads]
    #[arg(short, long, value_delimiter = ',', value_name = "N,…")]
    clients: Vec<usize>,

    /// Only these systems [default: ours, and all others that are named or found]
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,

    /// Instead of load: time from `kill -9` of the leader to the next write, twenty times a system
    #[arg(long)]
    failover: bool,

    /// Instead of load: resident memory of a node with many keys
    #[arg(long)]
    memory: bool,

    /// Instead of load: time from `kill -9` of all nodes with many keys to the first linearizable read
    #[arg(long)]
    restart: bool,

    /// Instead of load: processor time of a node that has nothing to do, over ten seconds
    #[arg(long)]
    idle: bool,

    /// Instead of load: the same load among many keys, which are written before; no part of --all
    #[arg(long)]
    many: bool,

    /// Load, and all that can be measured instead of it
    #[arg(long)]
    all: bool,

    /// How many keys are many
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,

    /// etcd's program; looked for in PATH unless given
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,

    /// The program of an older etcd
    #[arg(long, value_name = "PATH")]
    etcd_old: Option<PathBuf>,

    /// ZooKeeper's class path, as `java -cp` takes it [default: where Debian has it]
    #[arg(long, value_name = "CLASS PATH")]
    zookeeper: Option<String>,

    /// `redis-server`; looked for in PATH unless given
    #[arg(long, value_name = "PATH")]
    redis: Option<PathBuf>,

    /// What our nodes are told besides, one word each
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    ours: Vec<String>,

    /// Where the nodes keep their data and logs; emptied first [default: bench-peers in cargo's target folder]
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,

    /// Write the table here too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Draw rate and latency against clients, as an SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print the results as one JSON object
    #[arg(long)]
    json: bool,

    /// Our programs are built already
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
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

const FAILOVERS: usize = 20;
/// For the first answer after a death.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// So many are under way at the most.
const MAX_PROBES: usize = 500;
const FILL_CLIENTS: usize = 256;
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
    let (systems, programs) = args.find(&target)?;
    let folder = args.folder.clone().unwrap_or_else(|| target.join("bench-peers"));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let results = runtime.map_err(|error| format!("can't start: {error}"))?.block_on(async {
        // Whatever ends first, dropping the other kills the nodes.
        tokio::select! {
            measured = measure(&args, &systems, &programs, &folder) => measured,
            () = interrupted() => Err("interrupted; the nodes are stopped".to_string()),
        }
    })?;
    let table = results.comparisons.to_markdown();
    if let Some(out) = &args.out {
        std::fs::write(out, format!("{table}\n")).map_err(|error| format!("can't write {}: {error}", out.display()))?;
    }
    if let Some(plot) = &args.plot
        && !results.curves.draw(plot)?
    {
        say("one number of clients makes no curve: nothing was drawn");
    }
    println!("{}", if args.json { results.comparisons.to_json() } else { table });
    Ok(())
}

impl Args {
    fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for kind in Kind::ALL {
            if self.only.is_empty() || self.only.contains(&kind) {
                let clients = if self.clients.is_empty() { kind.clients() } else { &self.clients };
                loads.extend(clients.iter().map(|&clients| Load { kind, clients }));
            }
        }
        loads
    }

    fn plan(&self, load: Load) -> Plan {
        Plan {
            clients: load.clients,
            measured: Duration::from_secs(self.seconds),
            read_percent: if load.kind == Kind::Writes { 0 } else { 100 },
            ..Plan::default()
        }
    }

    fn wants_load(&self) -> bool {
        self.all || !(self.failover || self.memory || self.restart || self.idle || self.many)
    }

    /// What is measured, and with which programs. What was not asked for by name may be missing.
    fn find(&self, target: &Path) -> Result<(Vec<System>, Programs), String> {
        let mut programs = Programs {
            ours: target.join("release").join(format!("hraftd{}", std::env::consts::EXE_SUFFIX)),
            more: self.ours.iter().map(Into::into).collect(),
            ..Programs::default()
        };
        let mut systems = Vec::new();
        for system in System::ALL {
            let is_named = match system {
                System::Ours | System::Apart => false,
                System::Etcd => self.etcd.is_some(),
                System::EtcdOld => self.etcd_old.is_some(),
                System::Zookeeper => self.zookeeper.is_some(),
                System::Redis => self.redis.is_some(),
            };
            if !self.systems.is_empty() && !self.systems.contains(&system) {
                continue;
            }
            match self.find_one(system, &mut programs) {
                Ok(()) => systems.push(system),
                Err(reason) if is_named || self.systems.contains(&system) => return Err(reason),
                Err(reason) => say(&format!("left out: {reason}")),
            }
        }
        Ok((systems, programs))
    }

    fn find_one(&self, system: System, programs: &mut Programs) -> Result<(), String> {
        match system {
            System::Ours | System::Apart => {}
            System::Etcd => programs.etcd = etcd::find_program(self.etcd.as_deref())?,
            System::EtcdOld => {
                let given = self.etcd_old.as_deref().ok_or("an older etcd: name its program with --etcd-old")?;
                programs.etcd_old = etcd::find_program(Some(given))?;
            }
            System::Zookeeper => {
                programs.class_path = zookeeper::find_class_path(self.zookeeper.as_deref())?;
                programs.java = zookeeper::find_java()?;
            }
            System::Redis => programs.redis = redis::find_program(self.redis.as_deref())?,
        }
        Ok(())
    }
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Writes, Kind::Reads, Kind::Local];

    fn name(self) -> &'static str {
        match self {
            Kind::Writes => "writes",
            Kind::Reads => "linearizable reads",
            Kind::Local => "local reads",
        }
    }

    fn clients(self) -> &'static [usize] {
        match self {
            Kind::Writes => &[1, 16, 64, 256],
            Kind::Reads => &[64, 256],
            Kind::Local => &[64],
        }
    }
}

impl Load {
    fn name(self) -> String {
        let plural = if self.clients == 1 { "" } else { "s" };
        format!("{}, {} client{plural}", self.kind.name(), self.clients)
    }
}

#[derive(Default)]
struct Results {
    comparisons: Comparisons,
    curves: Curves,
}

async fn measure(args: &Args, systems: &[System], programs: &Programs, folder: &Path) -> Result<Results, String> {
    let mut results = Results::default();
    let loads = args.loads();
    if args.wants_load() {
        for round in 1..=args.rounds {
            for &system in systems {
                say(&format!("round {round} of {}: {system}", args.rounds));
                let cluster = Cluster::start(system, programs, folder).await?;
                fill(&cluster, Plan::default().keys).await?;
                measure_loads(args, &loads, Plan::default().keys, &cluster, &mut results).await?;
            }
        }
    }
    for &system in systems.iter().filter(|&&system| system != System::Apart) {
        let is_wanted = |flag: bool| flag || args.all;
        if is_wanted(args.idle) {
            let cluster = Cluster::start(system, programs, folder).await?;
            measure_idle(&cluster, &mut results.comparisons).await?;
        }
        if is_wanted(args.memory) || is_wanted(args.restart) || args.many {
            let mut cluster = Cluster::start(system, programs, folder).await?;
            say(&format!("{system}: {} keys", with_thousands(args.keys as f64)));
            let began = Instant::now();
            fill(&cluster, args.keys).await?;
            say(&format!("  filled at {:.0}/s", args.keys as f64 / began.elapsed().as_secs_f64()));
            if is_wanted(args.memory) {
                measure_memory(&cluster, args.keys, "", &mut results.comparisons)?;
            }
            if args.many {
                measure_loads(args, &loads, args.keys, &cluster, &mut results).await?;
                measure_memory(&cluster, args.keys, ", after load", &mut results.comparisons)?;
            }
            if is_wanted(args.restart) {
                measure_restarts(args, &mut cluster, &mut results.comparisons).await?;
            }
        }
        if is_wanted(args.failover) && system.size() > 1 {
            let cluster = Cluster::start(system, programs, folder).await?;
            measure_failover(cluster, &mut results.comparisons).await?;
        }
    }
    Ok(results)
}

async fn measure_loads(
    args: &Args,
    loads: &[Load],
    keys: u64,
    cluster: &Cluster,
    results: &mut Results,
) -> Result<(), String> {
    let system = cluster.system();
    for &load in loads {
        let (report, cost) = run_load(&Plan { keys, ..args.plan(load) }, load.kind, cluster).await?;
        let summary = report.summary(&report.all());
        let p99_ms = summary.p99_us as f64 / 1000.0;
        say(&format!(
            "  {}: {:.0}/s, p50 {:.2} ms, p99 {p99_ms:.2} ms, {:.1} us of CPU, {:.0} bytes to disk, errors {:?}",
            load.name(),
            summary.per_second,
            summary.p50_us as f64 / 1000.0,
            cost.cpu_us,
            cost.written_bytes,
            report.errors
        ));
        results.curves.add(load.kind, system, load.clients, summary.per_second, p99_ms);
        let mut add = |what: &str, unit, value| {
            let name = if what.is_empty() { load.name() } else { format!("{}: {what}", load.name()) };
            results.comparisons.add(&name, unit, Told::ByRound, system, value);
        };
        add("", Unit::PerSecond, summary.per_second);
        add("p50", Unit::Ms, summary.p50_us as f64 / 1000.0);
        add("p99", Unit::Ms, p99_ms);
        add("CPU each, nodes and clients", Unit::Us, cost.cpu_us);
        if load.kind == Kind::Writes {
            add("to disk each, all nodes", Unit::Bytes, cost.written_bytes);
            if let Some((flushed, merged)) = cost.flushed_and_merged_bytes {
                add("of it flushed", Unit::Bytes, flushed);
                add("of it merged", Unit::Bytes, merged);
            }
        }
        let errors = report.error_count();
        if errors > 0 {
            add("errors", Unit::Count, errors as f64);
        }
    }
    Ok(())
}

/// What one request cost, all processes together.
struct Cost {
    cpu_us: f64,
    written_bytes: f64,
    /// `None` if the nodes don't tell. Over the warm-up too.
    flushed_and_merged_bytes: Option<(f64, f64)>,
}

/// The cost is taken from the last second of the warm-up to the last of what is measured.
async fn run_load(plan: &Plan, kind: Kind, cluster: &Cluster) -> Result<(load::Report, Cost), String> {
    let answered = Rc::new(Cell::new(0));
    let count = |driver| Counted { driver, answered: answered.clone() };
    let drivers = cluster.drivers(kind, plan.clients).await?.into_iter().map(count).collect();
    let told_before = cluster.flushed_and_merged_bytes().await;
    let (mut before, mut after) = (None, None);
    let report = load::run(plan, drivers, |progress| {
        let sample = Some(cluster.used().map(|used| (used, answered.get())));
        if progress.is_warm_up {
            before = sample;
        } else {
            after = sample;
        }
    })
    .await?;
    let nothing = "nothing was measured";
    let ((before, first), (after, last)) = (before.ok_or(nothing)??, after.ok_or(nothing)??);
    let mut cost = Cost::of(before, after, last - first);
    let each = |before: f64, after: f64| (after - before) / answered.get().max(1) as f64;
    cost.flushed_and_merged_bytes = told_before
        .zip(cluster.flushed_and_merged_bytes().await)
        .map(|(before, after)| (each(before.0, after.0), each(before.1, after.1)));
    Ok((report, cost))
}

impl Cost {
    fn of(before: Used, after: Used, requests: u64) -> Cost {
        let requests = requests.max(1) as f64;
        Cost {
            cpu_us: (after.cpu - before.cpu).as_secs_f64() * 1e6 / requests,
            written_bytes: (after.written_bytes - before.written_bytes) as f64 / requests,
            flushed_and_merged_bytes: None,
        }
    }
}

/// A driver that counts its answers.
struct Counted {
    driver: PeerDriver,
    answered: Rc<Cell<u64>>,
}

impl Driver for Counted {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.driver.write(key, value).await.inspect(|()| self.answered.update(|answered| answered + 1))
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        self.driver.read(key).await.inspect(|()| self.answered.update(|answered| answered + 1))
    }
}

async fn fill(cluster: &Cluster, keys: u64) -> Result<(), String> {
    let drivers = cluster.drivers(Kind::Writes, FILL_CLIENTS).await?;
    load::fill(&Plan { keys, ..Plan::default() }, drivers)
        .await
        .map(drop)
        .map_err(|kind| format!("{} refused a write: {kind}; see {}", cluster.system(), cluster.folder().display()))
}

async fn measure_idle(cluster: &Cluster, comparisons: &mut Comparisons) -> Result<(), String> {
    tokio::time::sleep(SETTLE).await;
    let began = Instant::now();
    let before = cluster.cpu_times()?;
    tokio::time::sleep(IDLE).await;
    let elapsed = began.elapsed();
    for (before, after) in before.into_iter().zip(cluster.cpu_times()?) {
        let percent = 100.0 * (after - before).as_secs_f64() / elapsed.as_secs_f64();
        say(&format!("  an idle node: {percent:.2} % of a core"));
        comparisons.add("an idle node", Unit::PercentOfCore, Told::Median, cluster.system(), percent);
    }
    Ok(())
}

fn measure_memory(cluster: &Cluster, keys: u64, when: &str, comparisons: &mut Comparisons) -> Result<(), String> {
    let name = format!("a node with {} keys{when}", with_thousands(keys as f64));
    for bytes in cluster.resident_bytes()? {
        let megabytes = bytes as f64 / 1e6;
        say(&format!("  {name}: {megabytes:.1} MB"));
        comparisons.add(&name, Unit::Megabytes, Told::Median, cluster.system(), megabytes);
    }
    Ok(())
}

/// Kills all nodes at once, starts them again, and reads what was acknowledged last.
async fn measure_restarts(args: &Args, cluster: &mut Cluster, comparisons: &mut Comparisons) -> Result<(), String> {
    let keys = with_thousands(args.keys as f64);
    let name = format!("first linearizable read after kill -9 of all, {keys} keys");
    for attempt in 1..=args.rounds {
        let leader = cluster.wait_until_healthy().await?;
        cluster.probe(leader).await.map_err(|kind| format!("a healthy leader refused a write: {kind}"))?;
        let began = Instant::now();
        for node in 0..cluster.size() {
            cluster.kill(node)?;
        }
        for node in 0..cluster.size() {
            cluster.restart(node)?;
        }
        first_answer(cluster, None, Cluster::probe_read).await?;
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        say(&format!("  restart {attempt} of {}: {ms:.0} ms", args.rounds));
        comparisons.add(&name, Unit::Ms, Told::Median, cluster.system(), ms);
    }
    Ok(())
}

async fn measure_failover(mut cluster: Cluster, comparisons: &mut Comparisons) -> Result<(), String> {
    let name = "first write after kill -9 of the leader";
    say(&format!("{}: failover", cluster.system()));
    for attempt in 1..=FAILOVERS {
        let leader = cluster.wait_until_healthy().await?;
        cluster.probe(leader).await.map_err(|kind| format!("a healthy leader refused a write: {kind}"))?;
        let began = Instant::now();
        cluster.kill(leader)?;
        first_answer(&cluster, Some(leader), Cluster::probe).await?;
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        say(&format!("  failover {attempt} of {FAILOVERS}: {ms:.0} ms"));
        comparisons.add(name, Unit::Ms, Told::Median, cluster.system(), ms);
        comparisons.add(&format!("{name}, of {FAILOVERS}"), Unit::Ms, Told::Worst, cluster.system(), ms);
        cluster.restart(leader)?;
    }
    Ok(())
}

/// A probe sent at a bad moment may hang until its time limit, so a fresh one leaves for each survivor all the time.
async fn first_answer<P>(
    cluster: &Cluster,
    dead: Option<usize>,
    probe: impl Fn(&Cluster, usize) -> P,
) -> Result<(), String>
where
    P: Future<Output = Result<(), String>> + Send + 'static,
{
    let began = Instant::now();
    let mut probes = JoinSet::new();
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    while began.elapsed() < ANSWER_LIMIT {
        tokio::select! {
            _ = ticks.tick(), if probes.len() < MAX_PROBES => {
                for survivor in (0..cluster.size()).filter(|&node| Some(node) != dead) {
                    probes.spawn(probe(cluster, survivor));
                }
            }
            Some(result) = probes.join_next() => {
                if let Ok(Ok(())) = result {
                    return Ok(());
                }
            }
        }
    }
    Err(format!("{}: no answer within {ANSWER_LIMIT:?} after a death", cluster.system()))
}

pub(crate) fn say(line: &str) {
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

pub(crate) async fn interrupted() {
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

    fn args(line: &str) -> Args {
        Program::try_parse_from(line.split(' ')).unwrap().args
    }

    #[test]
    fn loads_are_chosen_by_kind_and_clients() {
        let loads = |line| args(line).loads().into_iter().map(Load::name).collect::<Vec<String>>();
        assert_eq!(loads("bench-peers").len(), 7);
        assert_eq!(
            loads("bench-peers --only writes,local --clients 1,7"),
            ["writes, 1 client", "writes, 7 clients", "local reads, 1 client", "local reads, 7 clients"]
        );
    }

    #[test]
    fn what_is_asked_for_by_name_must_be_there() {
        let find = |line| args(line).find(Path::new("target")).map(|(systems, _)| systems);
        let error = find("bench-peers --etcd-old /no/such/etcd").unwrap_err();
        assert!(error.contains("/no/such/etcd"), "{error}");
        let error = find("bench-peers --systems ours,etcd-old").unwrap_err();
        assert!(error.contains("--etcd-old"), "{error}");
        assert_eq!(find("bench-peers --systems ours"), Ok(vec![System::Ours]));
        assert!(!find("bench-peers").unwrap().contains(&System::EtcdOld));
    }

    #[test]
    fn a_cost_is_that_of_one_request() {
        let used = |ms, written_bytes| Used { cpu: Duration::from_millis(ms), written_bytes };
        let cost = Cost::of(used(1000, 500), used(3000, 4500), 100);
        assert_eq!((cost.cpu_us, cost.written_bytes), (20_000.0, 40.0));
    }

    #[test]
    fn a_plan_has_the_size_that_figures_are_quoted_for() {
        let args = args("bench-peers -s 2");
        let plan = args.plan(Load { kind: Kind::Reads, clients: 64 });
        assert_eq!((plan.key_size_bytes, plan.value_size_bytes, plan.read_percent), (16, 100, 100));
        assert_eq!((plan.clients, plan.measured), (64, Duration::from_secs(2)));
        plan.validate().unwrap();
    }
}
