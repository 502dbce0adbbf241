//! `quorate dev`: three nodes on loopback, to try things out.
//!
//! They run in this one process, each with its own folder, port and threads, and know each other only through their
//! sockets. One port a node carries clients and peers. The second and the third join the first; on a later start they
//! find their data and need to join nobody.
//!
//! Not handled: killing one of them. For that, start three of `quorate serve`.

use crate::run::{self, Signals};
use server::{Begin, Config, End, Name, Server};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

const NODES: u16 = 3;

#[derive(clap::Args)]
pub struct Args {
    /// Folder for the data of all three
    #[arg(value_name = "FOLDER", default_value = "quorate-data")]
    folder: PathBuf,
    /// Port of the first node; the others take the next two
    #[arg(long, default_value_t = 11000, value_parser = clap::value_parser!(u16).range(1..=i64::from(u16::MAX - NODES + 1)))]
    port: u16,
}

pub fn run(args: Args) -> Result<(), String> {
    check_ports(args.port)?;
    run::runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let mut servers = Vec::new();
        let started = tokio::select! {
            started = start(&args, &mut servers) => started,
            _ = signals.next() => Ok(()),
        };
        let ended = match started {
            Ok(()) if servers.len() == usize::from(NODES) => {
                println!("{}", welcome(&args.folder, args.port));
                tokio::select! {
                    reason = any_end(&servers) => Err(reason),
                    _ = signals.next() => Ok(()),
                }
            }
            other => other,
        };
        if ended.is_ok() {
            println!("Stopping all three …");
        }
        // The followers first, so that nobody hands leadership over to one that is about to stop as well.
        let stop = async {
            for server in servers.into_iter().rev() {
                server.stop().await;
            }
        };
        signals.at_most_once_more(stop).await;
        ended
    })
}

/// Returns when all three are members that serve.
async fn start(args: &Args, servers: &mut Vec<Server>) -> Result<(), String> {
    for number in 1..=NODES {
        let address = |number: u16| format!("localhost:{}", args.port + number - 1);
        let name = format!("node{number}");
        let config = Config {
            http_listen: address(number),
            raft_listen: address(number),
            begin: Begin::join_or_found((number > 1).then(|| address(1))),
            name: Name::Given(name.clone()),
            ..Config::new(args.folder.join(&name))
        };
        servers.push(Server::start(config).await.map_err(|error| format!("{name}: {error}"))?);
    }
    tokio::select! {
        () = all_vote(servers) => Ok(()),
        reason = any_end(servers) => Err(reason),
    }
}

async fn all_vote(servers: &[Server]) {
    for server in servers {
        let handle = server.handle();
        loop {
            let status = handle.status();
            let voters = &status.configuration.voters;
            if voters.voters.len() == usize::from(NODES) && !voters.is_joint() && status.leader.is_some() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Why one of them can't go on.
async fn any_end(servers: &[Server]) -> String {
    let [first, second, third] = servers else { return std::future::pending().await };
    let end = tokio::select! {
        end = first.wait() => end,
        end = second.wait() => end,
        end = third.wait() => end,
    };
    match end {
        End::Removed(reason) | End::Failed(reason) => reason,
    }
}

fn check_ports(first: u16) -> Result<(), String> {
    let is_taken = |&port: &u16| matches!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)), Err(error) if error.kind() == ErrorKind::AddrInUse);
    let taken: Vec<String> = (first..first + NODES).filter(is_taken).map(|port| port.to_string()).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let (ports, are) = if taken.len() == 1 { ("port", "is") } else { ("ports", "are") };
    let taken = taken.join(", ");
    Err(format!(
        "{ports} {taken} {are} taken by another program, perhaps another `quorate dev`; \
         stop it, or choose three other ports with --port {}",
        suggest(first)
    ))
}

fn suggest(first: u16) -> u16 {
    first.checked_add(100).filter(|port| port.checked_add(NODES).is_some()).unwrap_or(11000)
}

fn welcome(folder: &Path, port: u16) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let [first, second, third] = [port, port + 1, port + 2];
    format!(
        "
Three nodes are up. Their data is in {}

  node1  http://localhost:{first}
  node2  http://localhost:{second}
  node3  http://localhost:{third}

Try:

  curl -XPOST localhost:{first}/key -d '{{\"user1\": \"batman\"}}'
  curl localhost:{second}/key/user1
  curl localhost:{third}/status

Ctrl-C stops all three; the same command finds their data again.
",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_together_with_a_way_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().min(u16::MAX - NODES);
        let error = check_ports(port - 1).unwrap_err();
        assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
    }

    #[test]
    fn the_suggested_ports_exist() {
        assert_eq!(suggest(11000), 11100);
        assert_eq!(suggest(65533), 11000);
    }

    #[test]
    fn the_welcome_has_three_lines_to_copy() {
        let text = welcome(Path::new("/data"), 11000);
        assert_eq!(text.lines().filter(|line| line.starts_with("  curl ")).count(), 3);
        assert!(text.contains("in /data\n") && text.contains("http://localhost:11002"));
    }
}
