//! quorate, the program: everything behind one name.

use clap::{Parser, Subcommand};
use quorate::{bench, dev, member, run, serve, status};
use std::process::ExitCode;

/// A replicated key-value store over Raft: HTTP in front, consensus behind, your data on a majority of disks.
#[derive(Parser)]
#[command(name = "quorate", version, arg_required_else_help = true)]
struct Quorate {
    /// Log more; twice for still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node
    Serve(serve::Args),
    /// Run three nodes on this machine, to try things out
    Dev(dev::Args),
    /// Ask nodes how they see their cluster
    Status(status::Args),
    /// Change who is in the cluster
    Member(member::Args),
    /// Measure how fast a cluster is
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let Quorate { verbose, command } = Quorate::parse();
    server::init_logs(verbose);
    let done = match command {
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Status(args) => return status::run(args),
        Command::Member(args) => member::run(args),
        Command::Bench(args) => bench::run(args),
    };
    run::told("quorate", done)
}
