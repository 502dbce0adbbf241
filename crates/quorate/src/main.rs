//! quorate, the program: everything behind one name.

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use quorate::cli::{
    self, EXIT_CODES, compact, completions, del, elect, get, lease, lock, member, put, range, restore, snapshot,
    status, txn, verify, watch,
};
use quorate::{bench, dev, run, serve};
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
    /// Run three nodes on this machine, to try things out
    Dev(dev::Args),
    /// Run one node
    Serve(serve::Args),
    /// Write a key
    Put(put::Args),
    /// Read a key
    Get(get::Args),
    /// Delete a key, or many at once
    Del(del::Args),
    /// Read many keys, in order
    Range(range::Args),
    /// Do several things at once, if conditions hold
    Txn(txn::Args),
    /// See what happens to keys, as it happens
    Watch(watch::Args),
    /// Keys that end unless somebody keeps them alive
    Lease(lease::Args),
    /// Hold a lock, by itself or while a command runs
    Lock(lock::Args),
    /// Of all who ask, one leads
    Elect(elect::Args),
    /// Ask nodes how they see their cluster
    Status(status::Args),
    /// Who is in the cluster, and changes to that
    Member(member::Args),
    /// Copy the whole store into a file
    Snapshot(snapshot::Args),
    /// Make a new cluster from such a file
    Restore(restore::Args),
    /// Forget the past before a revision
    Compact(compact::Args),
    /// Measure how fast a cluster is
    Bench(bench::Args),
    /// Check that a cluster keeps its promises
    Verify(verify::Args),
    /// Print what a shell needs to complete these command lines
    Completions(completions::Args),
}

/// By what one wants to do, in the order in which a newcomer needs them.
const GROUPS: &[(&str, &[&str])] = &[
    ("Run nodes", &["dev", "serve"]),
    ("Work with keys", &["put", "get", "del", "range", "txn", "watch"]),
    ("Coordinate programs", &["lease", "lock", "elect"]),
    ("Look after a cluster", &["status", "member", "snapshot", "restore", "compact"]),
    ("Measure and check", &["bench", "verify"]),
    ("Besides", &["completions", "help"]),
];

const FIRST_STEPS: &str = "\
First steps:
  quorate dev                       three nodes on this machine
  quorate put user1 batman          in another terminal
  quorate get user1
  quorate watch user                what happens to keys that begin so

The nodes to ask are those of --endpoints or QUORATE_ENDPOINTS (http://127.0.0.1:11000 unless told), one or
several with commas between. `quorate help COMMAND` explains a command.";

fn main() -> ExitCode {
    let matches = program().get_matches();
    let Quorate { verbose, command } = match Quorate::from_arg_matches(&matches) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    server::init_logs(verbose);
    let done = match command {
        Command::Serve(args) => return run::told("quorate", serve::run(args)),
        Command::Dev(args) => return run::told("quorate", dev::run(args)),
        Command::Bench(args) => bench::run(args),
        Command::Put(args) => put::run(args),
        Command::Get(args) => get::run(args),
        Command::Del(args) => del::run(args),
        Command::Range(args) => range::run(args),
        Command::Txn(args) => txn::run(args),
        Command::Watch(args) => watch::run(args),
        Command::Lease(args) => lease::run(args),
        Command::Lock(args) => lock::run(args),
        Command::Elect(args) => elect::run(args),
        Command::Status(args) => status::run(args),
        Command::Member(args) => member::run(args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Completions(args) => completions::run(args, program()),
    };
    cli::end(done)
}

/// With its commands in groups, which clap does not do by itself.
fn program() -> clap::Command {
    let mut program = Quorate::command();
    program.build();
    let mut text = String::from("{about}\n\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS {
        text += &format!("\n{title}:\n");
        for name in *names {
            let about = program.find_subcommand(name).and_then(|command| command.get_about());
            text += &format!("  {name:<12} {}\n", about.map(ToString::to_string).unwrap_or_default());
        }
    }
    text += &format!("\nOptions:\n{{options}}\n\n{FIRST_STEPS}\n\n{EXIT_CODES}");
    Quorate::command().help_template(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_is_in_one_group() {
        let mut program = Quorate::command();
        program.build();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        grouped.sort_unstable();
        let names: BTreeSet<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(grouped, names.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_commands_hold_together() {
        program().debug_assert();
    }
}
