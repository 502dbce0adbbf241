//! `quorate lock`: one at a time, in the whole cluster.

use super::{Connect, Done, Failure, bytes, hold, print, print_json, seconds, wait_for};
use crate::run::Signals;
use serde_json::json;
use std::ffi::OsString;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "\
With a command, the lock is held while it runs; its exit code is ours, and it finds in its environment
  QUORATE_LOCK_TOKEN  a number that grows from owner to owner: let what is protected refuse lower ones
  QUORATE_LOCK_KEY    the key whose create revision is the token, for conditions of transactions
If the lock is lost while the command runs, the command is told to end (SIGTERM), and the exit code is 1.
Without a command, the token is printed, and the lock is held until Ctrl-C or SIGTERM.")]
pub struct Args {
    name: OsString,
    /// How long others must wait after the owner died
    #[arg(long, default_value = "15", value_name = "SECONDS", value_parser = seconds)]
    ttl: Duration,
    /// Give up when it is not to be had within that time; 0: at once
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,
    /// What to run
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let mut signals = Signals::listen().map_err(Failure::other)?;
        let mut request = args.connect.client()?.lock(bytes(args.name)).ttl(args.ttl);
        if let Some(patience) = args.wait {
            request = request.wait_at_most(patience);
        }
        let lock = tokio::select! {
            lock = request => lock?,
            signal = signals.next() => return Err(Failure::no(format!("{signal}: the lock was not yet held"))),
        };
        let key = String::from_utf8_lossy(lock.key()).into_owned();
        let held = if args.command.is_empty() {
            if args.connect.is_json() {
                print_json(&json!({ "token": lock.token(), "key": key }))?;
            } else {
                print(format_args!("token {}", lock.token()))?;
            }
            hold::until_signal(&mut signals, lock.lost()).await
        } else {
            let variables = [("QUORATE_LOCK_TOKEN", lock.token().to_string()), ("QUORATE_LOCK_KEY", key)];
            hold::while_running(&args.command, &variables, &mut signals, lock.lost()).await
        };
        let unlocked = lock.unlock().await;
        // What happened while it was held is what matters more.
        held.and(unlocked.map_err(Failure::from))
    })
}
