//! The drop-in for raftd: its command line, its HTTP, and its way of naming a node.
//!
//! One port on all interfaces carries clients and peers. `-h` is a value here, the host that the node advertises, and
//! only `-help` asks for the usage. Left at `localhost`, a node that joins advertises the address from which it reaches
//! the member that it joins, which on one machine is localhost again.
//!
//! Not handled: nothing of the original's. Ours are `-compact-after`, `-compact-above`, `-level` and `-no-forward`.

use crate::goflag::{Flags, Line};
use crate::{keeping, run};
use server::http::{Dialect, Settings};
use server::{Begin, Config, Join, Name, Persistence, Words, init_logs};
use std::process::ExitCode;

pub fn main(program: &str, arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let flags = flags();
    let usage = format!("Usage: {program} [arguments] <data-path>\n{flags}");
    let line = match flags.parse_or_tell(&usage, arguments) {
        Ok(line) => line,
        Err(told) => return told,
    };
    if line.rest.is_empty() {
        eprintln!("{usage}Data path argument required");
        return ExitCode::FAILURE;
    }
    init_logs(verbosity(&line));
    run::told("raftd", configure(&line).and_then(run::serve))
}

fn flags() -> Flags {
    keeping::flags(Flags::new())
        .number("p", 4001, "port for clients and for the traffic among the nodes, on all interfaces")
        .text("h", LOCALHOST, "host name at which the others reach this node")
        .text("join", "", "host:port of a member of the cluster to join")
        .text(
            "level",
            "linearizable",
            "read level of requests without ?level=: none, weak, linearizable, strong or auto",
        )
        .switch("no-forward", "refuse writes on a node that does not lead, instead of forwarding them")
        .switch("v", "verbose logging")
        .switch("debug", "log elections, too")
        .switch("trace", "log every message among the nodes, too")
}

fn verbosity(line: &Line) -> u8 {
    let levels = ["trace", "debug", "v"].into_iter().zip([3, 2, 1]);
    levels.into_iter().find(|(name, _)| line.switch(name)).map_or(0, |(_, level)| level)
}

fn configure(line: &Line) -> Result<Config, String> {
    let [folder, strays @ ..] = &line.rest[..] else { return Err("no data path given".into()) };
    if !strays.is_empty() {
        tracing::warn!("the data path is {folder}, the first one given; {} is ignored", strays.join(" "));
    }
    let (host, port) = (line.text("h"), line.number("p"));
    let join = |member| Join { member, words: Words::Raftd, persistence: Persistence::UntilRefused, learner: false };
    Ok(Config {
        name: Name::Drawn,
        http_listen: format!(":{port}"),
        raft_listen: format!(":{port}"),
        advertise: (host != LOCALHOST).then(|| format!("{host}:{port}")),
        begin: line.optional("join").map_or(Begin::Found, |member| Begin::Join(join(member))),
        http: Settings {
            read_level: line.text("level").parse()?,
            forward: !line.switch("no-forward"),
            dialects: vec![Dialect::Raftd],
            ..Settings::default()
        },
        engine: keeping::engine(line)?,
        compaction: keeping::compaction(line)?,
        ..Config::new(folder)
    })
}

const LOCALHOST: &str = "localhost";

#[cfg(test)]
mod tests {
    use super::*;
    use server::http::Level;
    use std::path::Path;

    fn parsed(line: &str) -> Line {
        flags().parse(line.split_whitespace().map(str::to_string)).unwrap()
    }

    fn configured(line: &str) -> Result<Config, String> {
        configure(&parsed(line))
    }

    #[test]
    fn the_nodes_of_the_walkthrough() {
        let config = configured("-p 4001 ~/node.1").unwrap();
        assert_eq!((config.http_listen.as_str(), config.raft_listen.as_str()), (":4001", ":4001"));
        assert_eq!((config.name, config.begin, config.advertise), (Name::Drawn, Begin::Found, None));
        assert_eq!(config.folder, Path::new("~/node.1"));
        assert_eq!(config.http.dialects, [Dialect::Raftd]);
        assert!(config.http.forward);

        let config = configured("-p 4002 -join localhost:4001 ~/node.2").unwrap();
        assert_eq!(config.http_listen, ":4002");
        let Begin::Join(join) = config.begin else { panic!("it joins") };
        assert_eq!((join.member.as_str(), join.words), ("localhost:4001", Words::Raftd));
    }

    #[test]
    fn the_port_has_a_default_and_h_is_a_host_name() {
        let config = configured("-h db1.example ~/node.1").unwrap();
        assert_eq!((config.http_listen.as_str(), config.advertise.as_deref()), (":4001", Some("db1.example:4001")));
    }

    #[test]
    fn ours() {
        let config = configured("-no-forward -level none ~/node.1").unwrap();
        assert_eq!((config.http.forward, config.http.read_level), (false, Level::None));
        assert!(configured("-level quick ~/node.1").unwrap_err().contains("linearizable"));
        assert_eq!(configured("~/node.1 ~/node.2").unwrap().folder, Path::new("~/node.1"), "as Go's programs do");
    }

    #[test]
    fn the_logs_rise_in_detail() {
        for (line, level) in [("", 0), ("-v", 1), ("-debug", 2), ("-trace", 3), ("-v -debug", 2), ("-trace -v", 3)] {
            assert_eq!(verbosity(&parsed(line)), level, "{line}");
        }
    }
}
