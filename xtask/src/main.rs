//! `cargo xtask`: the project's own chores. One module each; this file only finds the right one.

mod bench_latency;
mod bench_peers;
mod bench_watchers;
mod endurance;
mod sim;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Draw latency over time, while nodes flush and merge and a new one joins
    BenchLatency(bench_latency::Args),
    /// Measure three nodes of ours and of etcd, ZooKeeper and Redis in turn, and print the ratios
    BenchPeers(Box<bench_peers::Args>),
    /// Measure what a thousand watchers of what is written cost the writers
    BenchWatchers(bench_watchers::Args),
    /// Write a million times to a thousand keys with a node away, and check folder, restart and catch-up
    Endurance(endurance::Args),
    /// Live the lives of simulated clusters: one to read, or many to count
    Sim(sim::Args),
}

fn main() -> ExitCode {
    let done = match Xtask::parse().chore {
        Chore::BenchLatency(args) => bench_latency::run(args),
        Chore::BenchPeers(args) => bench_peers::run(*args),
        Chore::BenchWatchers(args) => bench_watchers::run(args),
        Chore::Endurance(args) => endurance::run(args),
        Chore::Sim(args) => sim::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}
