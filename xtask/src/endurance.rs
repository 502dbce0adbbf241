//! `cargo xtask endurance`: a million writes to a thousand keys, with one node away; then the bounds are checked that
//! an operator counts on who bounds the past: the data folder stays small, a restart is quick, and the node that was away
//! catches up by a snapshot.
//!
//! Not handled: other numbers of nodes; faults beyond the one node that is away, which are the simulator's.

use crate::bench_peers::cluster::{Cluster, Programs, System};
use crate::bench_peers::{build_for_release, target_folder};
use client::Level;
use client::hraftd::Connection;
use client::load::{Driver, HttpDriver};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

const KEYS: u64 = 1_000;
const CLIENTS: usize = 128;
/// Many times less than a million old versions take, so that compaction goes on all the time.
const MAX_PAST: &str = "64MiB";
const MAX_FOLDER_BYTES: u64 = 300 << 20;
const MAX_RESTART: Duration = Duration::from_secs(2);
const MAX_CATCH_UP: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many writes
    #[arg(long, default_value_t = 1_000_000)]
    writes: u64,

    /// Our programs are built already
    #[arg(long)]
    no_build: bool,
}

pub fn run(args: Args) -> Result<(), String> {
    if !args.no_build {
        build_for_release()?;
    }
    let target = target_folder()?;
    let program = target.join("release").join(format!("hraftd{}", std::env::consts::EXE_SUFFIX));
    let programs =
        Programs { ours: program, more: vec!["-compact-above".into(), MAX_PAST.into()], ..Programs::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let local = tokio::task::LocalSet::new();
    let work = local.run_until(endure(&args, &programs, &target));
    runtime.map_err(|error| format!("can't start: {error}"))?.block_on(work)
}

async fn endure(args: &Args, programs: &Programs, target: &Path) -> Result<(), String> {
    let mut cluster = Cluster::start(System::Ours, programs, &target.join("endurance")).await?;
    let leader = cluster.wait_until_healthy().await?;
    let away = (leader + 1) % cluster.size();
    write(cluster.address(leader), KEYS).await?;
    cluster.kill(away)?;
    let before = newest_generation(&cluster.data_folder(away))?;

    let began = Instant::now();
    write(cluster.address(leader), args.writes).await?;
    let took = began.elapsed();
    println!(
        "{} writes to {KEYS} keys: {:.1} s, {:.0}/s",
        args.writes,
        took.as_secs_f64(),
        args.writes as f64 / took.as_secs_f64()
    );

    let mut wrong = Vec::new();
    for node in (0..cluster.size()).filter(|&node| node != away) {
        let bytes = folder_bytes(&cluster.data_folder(node))?;
        println!("data folder of node{}: {:.0} MiB", node + 1, bytes as f64 / f64::from(1 << 20));
        if bytes > MAX_FOLDER_BYTES {
            wrong.push(format!("a data folder of {bytes} bytes is over {MAX_FOLDER_BYTES}"));
        }
    }

    let caught_up = time_until_served(&mut cluster, away).await?;
    let after = newest_generation(&cluster.data_folder(away))?;
    println!("the node that was away serves the newest data after {:.2} s", caught_up.as_secs_f64());
    if after <= before {
        wrong.push(format!(
            "the node that was away has the tables that it had ({after}): it did not catch up by a snapshot"
        ));
    }
    if caught_up > MAX_CATCH_UP {
        wrong.push(format!("catching up took {caught_up:?}"));
    }

    for node in 0..cluster.size() {
        cluster.kill(node)?;
        let restarted = time_until_served(&mut cluster, node).await?;
        println!("node{} serves {:.2} s after its start", node + 1, restarted.as_secs_f64());
        if restarted > MAX_RESTART {
            wrong.push(format!("a restart took {restarted:?}"));
        }
        cluster.wait_until_healthy().await?;
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// So many writes, all acknowledged, spread over the keys.
async fn write(address: &str, count: u64) -> Result<(), String> {
    let next = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    for _ in 0..CLIENTS {
        let driver = HttpDriver::connect([address.to_string()].into(), 0, Level::Linearizable).await;
        let driver = driver.map_err(|error| error.to_string())?;
        tasks.push(tokio::task::spawn_local(write_some(driver, next.clone(), count)));
    }
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    Ok(())
}

async fn write_some(mut driver: HttpDriver, next: Rc<Cell<u64>>, count: u64) -> Result<(), String> {
    while next.get() < count {
        let number = next.replace(next.get() + 1);
        driver.write(&format!("key-{:012}", number % KEYS), &format!("{number:0>100}")).await?;
    }
    Ok(())
}

/// Starts the node, and waits until it answers a linearizable read.
async fn time_until_served(cluster: &mut Cluster, node: usize) -> Result<Duration, String> {
    let began = Instant::now();
    cluster.restart(node)?;
    loop {
        let read = async {
            let mut connection = Connection::open(cluster.address(node)).await?;
            connection.get("key-000000000000", Level::Linearizable).await
        };
        match read.await {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > MAX_CATCH_UP * 2 => {
                return Err(format!("node{} does not serve: {error}", node + 1));
            }
            Err(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

/// The name of the newest manifest of the state's tables: a snapshot begins a new generation of them.
fn newest_generation(data: &Path) -> Result<String, String> {
    let entries = std::fs::read_dir(data.join("state")).map_err(|error| format!("no tables: {error}"))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.ends_with(".manifest")).max().unwrap_or_default())
}

fn folder_bytes(folder: &Path) -> Result<u64, String> {
    let mut bytes = 0;
    let entries = std::fs::read_dir(folder).map_err(|error| format!("can't read {}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        let about = entry.metadata().map_err(|error| error.to_string())?;
        bytes += if about.is_dir() { folder_bytes(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
