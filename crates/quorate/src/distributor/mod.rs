//! The distributor: one address in front of many clusters, each of which has a share of the keys.
//!
//! A key's slot says which shard it belongs to ([`shards`]). Each shard is a cluster of its own, of our nodes or of any
//! that speak hraftd's HTTP; the distributor asks all of its nodes for their status to know who leads ([`view`]),
//! sends requests there, and on trouble looks again and tries again until the request's time is over ([`shard`],
//! [`verdict`]). [`front`] is its own HTTP.
//!
//! It keeps nothing: any number of distributors may stand before the same shards, as long as all are given the same
//! shards in the same order. With others, keys would be looked for where they are not.
//!
//! Every write has an `Idempotency-Key` under which it is tried again, so that our nodes apply it once: the newest 65,536
//! keys of a shard, to be exact. Servers that don't know such keys may apply a write twice if the first try's answer was
//! lost, even after another client's write to the same key.
//!
//! Not handled: moving keys when the shards change; requests over several keys; a leader that only its followers can
//! reach, though ours would forward; an `Idempotency-Key` that a client uses for keys of different shards, each of which
//! takes it for new.

mod front;
mod shard;
mod verdict;
mod view;

use crate::ask;
use crate::run::{Signals, runtime};
use clap::Parser;
use front::Distributor;
use server::{HttpPort, init_logs};
use shard::Shard;
use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// One address in front of many clusters, each of which has a share of the keys.
#[derive(Debug, Parser)]
#[command(name = "distributor", version)]
pub struct Args {
    /// Address to serve clients on; :PORT is all interfaces
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    listen: String,
    /// HTTP addresses of one shard's nodes; once for each shard, and always in the same order
    #[arg(
        long = "shard",
        value_name = "HOST:PORT,…",
        default_values = ["localhost:11000,localhost:11001,localhost:11002", "localhost:11100,localhost:11101,localhost:11102"]
    )]
    shards: Vec<Nodes>,
    /// How long a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    time_limit: u64,
    /// Log more; twice for still more
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Serves until a signal asks to stop. An error is a sentence for a person.
pub fn run(args: Args) -> Result<(), String> {
    init_logs(args.verbose);
    let count = check(&args.shards)?;
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let port = HttpPort::open(&args.listen).await?;
        let shards: Vec<_> =
            (0..).zip(&args.shards).map(|(number, Nodes(nodes))| Arc::new(Shard::new(number, nodes))).collect();
        let told: Vec<_> =
            shards.iter().map(|shard| format!("shard {} is {}", shard.number, shard.addresses())).collect();
        tracing::info!("serving at {}: {}", port.url(), told.join("; "));

        let mut watching = JoinSet::new();
        for shard in &shards {
            shard.clone().watch(&mut watching);
        }
        let distributor = Distributor::new(shards, count, Duration::from_secs(args.time_limit))?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(port.serve(distributor, async { drop(stopped.await) }));
        let signal = signals.next().await;
        tracing::info!("{signal}: finishing what is in flight");
        drop(stop);
        signals.at_most_once_more(async { drop(serving.await) }).await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// The nodes of one shard, as they are dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nodes(Vec<String>);

impl FromStr for Nodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Nodes, String> {
        let node = |given: &str| {
            let address = ask::dialled(given.trim());
            let is_complete = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            is_complete.then_some(address).ok_or_else(|| {
                format!("{given:?} is no address; give HOST:PORT,HOST:PORT,… such as localhost:11000,localhost:11001")
            })
        };
        text.split(',').map(node).collect::<Result<_, _>>().map(Nodes)
    }
}

/// How many shards there are.
fn check(shards: &[Nodes]) -> Result<NonZeroU16, String> {
    let mut seen = BTreeSet::new();
    for address in shards.iter().flat_map(|Nodes(nodes)| nodes) {
        if !seen.insert(address) {
            return Err(format!("{address} is named twice: a node belongs to one shard, once"));
        }
    }
    let count = u16::try_from(shards.len()).ok().filter(|&count| count <= shards::SLOTS).and_then(NonZeroU16::new);
    count.ok_or_else(|| format!("{} shards are none or too many; there may be 1 to {}", shards.len(), shards::SLOTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn by_default_it_stands_before_the_six_nodes_of_the_original() {
        let args = parse("distributor").unwrap();
        assert_eq!((args.listen.as_str(), args.time_limit), (":8080", 10));
        let nodes = |text: &str| text.parse::<Nodes>().unwrap();
        assert_eq!(
            args.shards,
            [
                nodes("localhost:11000,localhost:11001,localhost:11002"),
                nodes("localhost:11100,localhost:11101,localhost:11102")
            ]
        );
        assert_eq!(check(&args.shards), Ok(NonZeroU16::new(2).unwrap()));
    }

    #[test]
    fn groups_of_any_number_and_size() {
        let args = parse("distributor --shard :1,2 --shard http://a:3/ --shard b:4,c:5,d:6").unwrap();
        let given: Vec<Vec<String>> = args.shards.iter().map(|Nodes(nodes)| nodes.clone()).collect();
        assert_eq!(given, [&["localhost:1", "localhost:2"][..], &["a:3"], &["b:4", "c:5", "d:6"]]);
    }

    #[test]
    fn what_is_no_group_is_refused_in_words() {
        for group in ["localhost", "a:1,,b:2", ",", "a:1,b:x", "a:70000"] {
            let error = parse(&format!("distributor --shard {group}")).unwrap_err();
            assert!(error.contains("give HOST:PORT"), "{error}");
        }
        let args = parse("distributor --shard a:1,b:2 --shard c:3,a:1").unwrap();
        assert!(check(&args.shards).unwrap_err().contains("a:1 is named twice"));
        assert!(parse("distributor --time-limit 0").is_err());
    }
}
