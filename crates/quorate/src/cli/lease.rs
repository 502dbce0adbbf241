//! `quorate lease`: keys that end unless somebody keeps them alive.

use super::{Connect, Done, Failure, print, print_json, seconds, text, wait_for};
use crate::run::Signals;
use client::LeaseKeeper;
use serde_json::json;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make one, and print its id
    Grant {
        /// Time to live
        #[arg(value_name = "SECONDS", value_parser = seconds)]
        ttl: Duration,
        /// An id of your choice, which must not be in use
        #[arg(long)]
        id: Option<u64>,
        #[command(flatten)]
        connect: Connect,
    },
    /// Keep one alive until Ctrl-C; it then ends after its time to live
    Keepalive {
        id: u64,
        /// Only once
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// End one, and every key attached to it
    Revoke {
        id: u64,
        #[command(flatten)]
        connect: Connect,
    },
    /// How long one still lives, and which keys end with it
    Timetolive {
        id: u64,
        #[command(flatten)]
        connect: Connect,
    },
    /// All of them
    List {
        #[command(flatten)]
        connect: Connect,
    },
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        match args.command {
            Command::Grant { ttl, id, connect } => {
                let client = connect.client()?;
                let lease = match id {
                    Some(id) => client.grant_lease_as(id, ttl).await?,
                    None => client.grant_lease(ttl).await?,
                };
                if connect.is_json() { print_json(&lease) } else { print(lease.id) }
            }
            Command::Keepalive { id, once: true, connect } => {
                let lease = connect.client()?.keep_alive(id).await?;
                if connect.is_json() {
                    print_json(&lease)
                } else {
                    print(format_args!("lives for {} s more", lease.ttl))
                }
            }
            Command::Keepalive { id, once: false, connect } => {
                let mut signals = Signals::listen().map_err(Failure::other)?;
                let keeper = LeaseKeeper::keep(&connect.client()?, id).await?;
                print(format_args!("keeping lease {id} alive"))?;
                tokio::select! {
                    lost = keeper.lost() => Err(lost.into()),
                    _ = signals.next() => Ok(()),
                }
            }
            Command::Revoke { id, connect } => {
                let done = connect.client()?.revoke_lease(id).await?;
                if connect.is_json() {
                    return print(json!({ "revision": done.revision, "deleted": done.deleted }));
                }
                print(format_args!("ended, with {} keys", done.deleted))
            }
            Command::Timetolive { id, connect } => {
                let info = connect.client()?.lease(id).await?;
                if connect.is_json() {
                    return print_json(&info);
                }
                let remaining = info.remaining.as_secs_f64();
                print(format_args!("lease {id} ends in {remaining:.1} s of {} s", info.ttl))?;
                info.keys.iter().try_for_each(|key| print(format_args!("  {}", text::escaped(key))))?;
                if info.has_more_keys { print("  and more") } else { Ok(()) }
            }
            Command::List { connect } => {
                let leases = connect.client()?.leases().await?;
                if connect.is_json() {
                    return print_json(&json!({ "leases": leases }));
                }
                let heading = ["LEASE", "TTL"].map(str::to_string);
                let rows = leases.iter().map(|lease| [lease.id.to_string(), format!("{} s", lease.ttl)]);
                let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
                print(text::table(&rows).trim_end())
            }
        }
    })
}
