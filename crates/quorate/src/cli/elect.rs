//! `quorate elect`: of all who ask, one leads.

use super::{Connect, Done, Failure, bytes, hold, print, print_json, seconds, text, wait_for};
use crate::run::Signals;
use client::KeyValue;
use serde_json::json;
use std::ffi::OsString;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "\
Whoever is elected leads until Ctrl-C or SIGTERM, or as long as its command runs, which finds in its environment
  QUORATE_ELECTION_TOKEN  a number that grows from leader to leader: let what is led refuse lower ones
  QUORATE_ELECTION_KEY    the key whose create revision is the token, for conditions of transactions
If leadership is lost, the command is told to end (SIGTERM), and the exit code is 1.")]
pub struct Args {
    name: OsString,
    /// What others see of the leader, such as its address
    #[arg(required_unless_present_any = ["leader", "observe"])]
    value: Option<OsString>,
    /// Only say who leads; 1 if nobody does
    #[arg(long, conflicts_with_all = ["value", "observe"])]
    leader: bool,
    /// Say who leads, now and whenever it changes
    #[arg(long, conflicts_with = "value")]
    observe: bool,
    /// How long after a leader's death the next one leads
    #[arg(long, default_value = "15", value_name = "SECONDS", value_parser = seconds)]
    ttl: Duration,
    /// What to run while elected
    #[arg(last = true, value_name = "COMMAND", requires = "value")]
    command: Vec<OsString>,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let election = args.connect.client()?.election(bytes(args.name));
        let is_json = args.connect.is_json();
        if args.leader {
            let leader = election.leader().await?.ok_or_else(|| Failure::no("nobody leads"))?;
            return tell(Some(&leader), is_json);
        }
        let Some(value) = args.value else {
            let mut observer = election.observe();
            loop {
                tell(observer.next().await?.as_ref(), is_json)?;
            }
        };
        let mut signals = Signals::listen().map_err(Failure::other)?;
        let leadership = tokio::select! {
            elected = election.campaign(bytes(value), args.ttl) => elected?,
            signal = signals.next() => return Err(Failure::no(format!("{signal}: it was not elected"))),
        };
        let key = String::from_utf8_lossy(leadership.key()).into_owned();
        let led = if args.command.is_empty() {
            if is_json {
                print_json(&json!({ "token": leadership.token(), "key": key }))?;
            } else {
                print(format_args!("elected, token {}", leadership.token()))?;
            }
            hold::until_signal(&mut signals, leadership.lost()).await
        } else {
            let variables = [("QUORATE_ELECTION_TOKEN", leadership.token().to_string()), ("QUORATE_ELECTION_KEY", key)];
            hold::while_running(&args.command, &variables, &mut signals, leadership.lost()).await
        };
        let resigned = leadership.resign().await;
        led.and(resigned.map_err(Failure::from))
    })
}

fn tell(leader: Option<&KeyValue>, is_json: bool) -> Done {
    match leader {
        leader if is_json => print_json(&json!({ "leader": leader })),
        Some(kv) => print(format_args!("{} (token {})", text::escaped(&kv.value), kv.create_revision)),
        None => print("nobody leads"),
    }
}
