//! The drop-in for hraftd: its command line, as its users have typed it since 2015.
//!
//! Not handled: nothing of the original's. Ours are `-compact-after`, `-compact-above`, `-advertise`, `-level`, `-no-forward` and `-v`.

use crate::goflag::{Flags, Line};
use crate::{keeping, run};
use server::http::{Dialect, Settings};
use server::{Begin, Config, Name, init_logs};
use std::process::ExitCode;

pub fn main(program: &str, arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let flags = flags();
    let usage = format!("Usage: {program} [options] <raft-data-path>\n{flags}");
    let line = match flags.parse_or_tell(&usage, arguments) {
        Ok(line) => line,
        Err(told) => return told,
    };
    init_logs(u8::from(line.switch("v")));
    run::told("hraftd", configure(&line).and_then(run::serve))
}

fn flags() -> Flags {
    keeping::flags(Flags::new())
        .text("id", "", "node ID; if not set, the Raft address")
        .text("haddr", "localhost:11000", "address to serve HTTP on; :PORT is all interfaces")
        .text("raddr", "localhost:12000", "address for the traffic among the nodes; may equal -haddr")
        .text("join", "", "HTTP address of a member of the cluster to join")
        .text("advertise", "", "Raft address that the other nodes dial, if it is not -raddr")
        .text(
            "level",
            "linearizable",
            "read level of requests without ?level=: none, weak, linearizable, strong or auto",
        )
        .switch("no-forward", "refuse writes on a node that does not lead, instead of forwarding them")
        .switch("inmem", "keep everything in memory: nothing outlives the process")
        .switch("v", "log more")
}

fn configure(line: &Line) -> Result<Config, String> {
    let Some((folder, strays)) = line.rest.split_last() else {
        return Err(
            "no Raft data path given: name the folder for this node's data, as in `hraftd -id node0 ~/node0`".into()
        );
    };
    if !strays.is_empty() {
        tracing::warn!("the data path is {folder}, the last one given; {} is ignored", strays.join(" "));
    }
    Ok(Config {
        name: Name::given_or_peer_address(line.optional("id")),
        http_listen: line.text("haddr").to_string(),
        raft_listen: line.text("raddr").to_string(),
        advertise: line.optional("advertise"),
        begin: Begin::join_or_found(line.optional("join")),
        in_memory: line.switch("inmem"),
        http: Settings {
            read_level: line.text("level").parse()?,
            forward: !line.switch("no-forward"),
            dialects: vec![Dialect::Hraftd],
            ..Settings::default()
        },
        engine: keeping::engine(line)?,
        compaction: keeping::compaction(line)?,
        ..Config::new(folder)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use server::http::Level;
    use std::path::Path;

    fn configured(line: &str) -> Result<Config, String> {
        configure(&flags().parse(line.split_whitespace().map(str::to_string)).unwrap())
    }

    #[test]
    fn the_first_node_of_the_walkthrough() {
        let config = configured("-id node0 ~/node0").unwrap();
        assert_eq!(config.name, Name::Given("node0".into()));
        assert_eq!((config.http_listen.as_str(), config.raft_listen.as_str()), ("localhost:11000", "localhost:12000"));
        assert_eq!((config.begin, config.advertise, config.in_memory), (Begin::Found, None, false));
        assert_eq!(config.folder, Path::new("~/node0"));
        assert_eq!(config.http.read_level, Level::Linearizable);
    }

    #[test]
    fn the_last_path_counts_as_in_the_walkthrough_of_2015() {
        let config = configured("~/node0 -haddr 11001 -raddr 12001 -join :11000 ~/node1").unwrap();
        assert_eq!(config.folder, Path::new("~/node1"));
        assert_eq!((config.http_listen.as_str(), config.raft_listen.as_str()), ("11001", "12001"));
        assert_eq!(config.name, Name::PeerAddress);
        assert_eq!(config.begin, Begin::join_or_found(Some(":11000".into())));
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        assert!(configured("-id x").unwrap_err().contains("no Raft data path"));
        assert!(configured("-level quick path").unwrap_err().contains("none, weak"));
        assert!(configured("-inmem -level=none path").unwrap().in_memory);
    }
}
