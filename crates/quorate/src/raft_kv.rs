//! The drop-in for raft-kv: set up by the environment or by options, which win.
//!
//! A variable is read as if its option stood first on the command line; one that is empty counts as none. Every other
//! variable is ignored, also `IDENTIFIER` and `HTTP`, which raft-kv's files set. As raft-kv's users expect, the program
//! says every two seconds how its node stands, whatever else is logged.
//!
//! Not handled: nothing of the original's. Ours are `--compact-after`, `--compact-above`, `--port`, `--read-level`, `--no-forward`, `--health` and `-v`.

use crate::goflag::{Flags, Line, Stop};
use crate::{ask, keeping, run};
use server::http::{Dialect, Settings};
use server::{Begin, Config, Handle, Join, Persistence, Role, Words, init_logs};
use std::convert::Infallible;
use std::io::{Write, stderr};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

/// Which variable stands for which option.
const VARIABLES: [(&str, &str); 5] =
    [("BIND", "bind"), ("JOIN", "join"), ("BOOTSTRAP", "bootstrap"), ("DATA_DIR", "datadir"), ("PORT", "port")];
const STATE_INTERVAL: Duration = Duration::from_secs(2);

/// `variable`: the environment.
pub fn main(
    program: &str,
    arguments: impl IntoIterator<Item = String>,
    variable: impl Fn(&str) -> Option<String>,
) -> ExitCode {
    let line = match parse(arguments, variable) {
        Ok(line) => line,
        Err(Stop::Help) => {
            eprint!("Usage: {program} [options]\n{}", flags());
            return ExitCode::SUCCESS;
        }
        Err(Stop::Wrong(reason)) => {
            eprintln!("raft-kv: {reason}; `{program} --help` tells what there is");
            return ExitCode::from(2);
        }
    };
    init_logs(u8::from(line.switch("v")));
    if line.switch("health") {
        return run::told("raft-kv", check_health(&line));
    }
    run::told("raft-kv", configure(&line).and_then(|config| run::serve_beside(config, say_state)))
}

fn flags() -> Flags {
    keeping::flags(Flags::new())
        .text("bind", "127.0.0.1:3000", "BIND: Raft address, which is the node's ID too")
        .text("join", "", "JOIN: HTTP address of a member of the cluster to join; asked until it lets the node in")
        .switch("bootstrap", "BOOTSTRAP: found a cluster, if the data folder is empty")
        .text("datadir", "/tmp/data/", "DATA_DIR: folder for this node's data")
        .text("port", "8080", "PORT: serve HTTP on this port of all interfaces")
        .text(
            "read-level",
            "linearizable",
            "read level of requests without ?level=: none, weak, linearizable, strong or auto",
        )
        .switch("no-forward", "refuse writes on a node that does not lead, instead of forwarding them")
        .switch("health", "ask the node that runs on this port whether it serves, and exit with 0 if so")
        .switch("v", "log more")
}

fn parse(arguments: impl IntoIterator<Item = String>, variable: impl Fn(&str) -> Option<String>) -> Result<Line, Stop> {
    let flags = flags();
    let mut environment = Vec::new();
    for (name, flag) in VARIABLES {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
        let argument = format!("--{flag}={value}");
        // Alone first, so that the error names the variable.
        if flags.parse([argument.clone()]).is_err() {
            return Err(Stop::Wrong(format!("{name}={value} is no boolean; give True or False")));
        }
        environment.push(argument);
    }
    let line = flags.parse(environment.into_iter().chain(arguments))?;
    match line.rest.first() {
        Some(stray) => Err(Stop::Wrong(format!("{stray:?} is no option"))),
        None => Ok(line),
    }
}

fn configure(line: &Line) -> Result<Config, String> {
    Ok(Config {
        http_listen: format!(":{}", port(line)?),
        raft_listen: line.text("bind").to_string(),
        begin: begin(line.switch("bootstrap"), line.optional("join")),
        http: Settings {
            read_level: line.text("read-level").parse()?,
            forward: !line.switch("no-forward"),
            dialects: vec![Dialect::RaftKv],
            ..Settings::default()
        },
        engine: keeping::engine(line)?,
        compaction: keeping::compaction(line)?,
        ..Config::new(line.text("datadir"))
    })
}

/// A node that is told neither waits until its address is posted to a member.
fn begin(bootstrap: bool, join: Option<String>) -> Begin {
    match join {
        Some(member) if bootstrap => Begin::Contradictory(format!(
            "BOOTSTRAP and JOIN={member} exclude each other on an empty data folder: unset BOOTSTRAP to join that \
             cluster, or JOIN to found another one"
        )),
        Some(member) => {
            Begin::Join(Join { member, words: Words::RaftKv, persistence: Persistence::ForEver, learner: false })
        }
        None if bootstrap => Begin::Found,
        None => Begin::Wait,
    }
}

fn port(line: &Line) -> Result<u16, String> {
    let given = line.text("port");
    given.parse().map_err(|_| format!("PORT={given} is no port; give a number from 1 to 65535"))
}

/// A node that can read by itself is healthy, also without a leader: to start it again would not help.
fn check_health(line: &Line) -> Result<(), String> {
    ask::ask(&format!("localhost:{}", port(line)?), "GET", "/keys/health/?level=none", "")?.ok().map(|_| ())
}

async fn say_state(handle: Handle) -> Infallible {
    loop {
        sleep(STATE_INTERVAL).await;
        let leader = handle.leader();
        let address = leader.as_ref().map(|leader| leader.address.as_str());
        // Nobody may be left to read it.
        let _ = stderr().write_all(state(handle.status().role, address).as_bytes());
    }
}

fn state(role: Role, leader: Option<&str>) -> String {
    let name = match role {
        Role::Leader => "Leader",
        Role::Candidate => "Candidate",
        Role::Follower | Role::Learner => "Follower",
    };
    format!("[DEBUG] state={name} leader={}\n", leader.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use server::http::Level;
    use std::path::Path;

    fn parsed(line: &str, environment: &[(&str, &str)]) -> Result<Line, Stop> {
        let variable = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        parse(line.split_whitespace().map(str::to_string), variable)
    }

    fn configured(line: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        configure(&parsed(line, environment).unwrap())
    }

    fn joins(member: &str) -> Begin {
        Begin::Join(Join {
            member: member.into(),
            words: Words::RaftKv,
            persistence: Persistence::ForEver,
            learner: false,
        })
    }

    #[test]
    fn what_nobody_says_is_as_in_raft_kv() {
        let ignored = [("IDENTIFIER", "node_1"), ("HTTP", "True"), ("BIND", ""), ("BOOTSTRAP", ""), ("PORT", "")];
        for environment in [&[][..], &ignored] {
            let config = configured("", environment).unwrap();
            assert_eq!((config.raft_listen.as_str(), config.http_listen.as_str()), ("127.0.0.1:3000", ":8080"));
            assert_eq!((config.folder.as_path(), config.begin), (Path::new("/tmp/data/"), Begin::Wait));
            assert_eq!((config.http.read_level, config.http.forward), (Level::Linearizable, true));
            assert_eq!(config.http.dialects, [Dialect::RaftKv]);
        }
    }

    #[test]
    fn the_environment_and_the_options_say_the_same_and_the_options_win() {
        let first = [("BIND", "10.1.0.101:4001"), ("BOOTSTRAP", "True"), ("DATA_DIR", "/data"), ("PORT", "81")];
        let options = "--bind=10.1.0.101:4001 --bootstrap --datadir /data --port 81";
        for (line, environment) in [("", &first[..]), (options, &[]), (options, &[("PORT", "82"), ("BIND", "x:1")])] {
            let config = configured(line, environment).unwrap();
            assert_eq!((config.raft_listen.as_str(), config.http_listen.as_str()), ("10.1.0.101:4001", ":81"));
            assert_eq!((config.folder.as_path(), config.begin), (Path::new("/data"), Begin::Found));
        }
        for (line, environment) in [("--join 10.1.0.101:8080", &[][..]), ("", &[("JOIN", "10.1.0.101:8080")])] {
            assert_eq!(configured(line, environment).unwrap().begin, joins("10.1.0.101:8080"));
        }
        assert_eq!(configured("--bootstrap=false", &[("BOOTSTRAP", "1")]).unwrap().begin, Begin::Wait);
    }

    #[test]
    fn bootstrap_is_a_boolean_as_go_reads_it() {
        for (value, begin) in [
            ("1", Begin::Found),
            ("t", Begin::Found),
            ("True", Begin::Found),
            ("TRUE", Begin::Found),
            ("0", Begin::Wait),
            ("f", Begin::Wait),
            ("False", Begin::Wait),
        ] {
            assert_eq!(configured("", &[("BOOTSTRAP", value)]).unwrap().begin, begin, "{value}");
            assert_eq!(configured(&format!("--bootstrap={value}"), &[]).unwrap().begin, begin, "{value}");
        }
        for value in ["yes", "tRUE", "2", " "] {
            let Err(Stop::Wrong(reason)) = parsed("", &[("BOOTSTRAP", value)]) else { panic!("{value} was taken") };
            assert!(reason.contains(&format!("BOOTSTRAP={value} is no boolean")), "{reason}");
        }
    }

    #[test]
    fn to_found_a_cluster_and_to_join_one_exclude_each_other() {
        let config = configured("--bootstrap", &[("JOIN", "10.1.0.101:8080")]).unwrap();
        let Begin::Contradictory(reason) = config.begin else { panic!("{config:?}") };
        assert!(reason.contains("BOOTSTRAP") && reason.contains("JOIN=10.1.0.101:8080"), "{reason}");
        assert_eq!(configured("--bootstrap=0 --join :1", &[]).unwrap().begin, joins(":1"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, reason) in
            [("node0", "no option"), ("--nope", "not defined: -nope"), ("--bind", "needs an argument")]
        {
            let Err(Stop::Wrong(said)) = parsed(line, &[]) else { panic!("{line} was taken") };
            assert!(said.contains(reason), "{said}");
        }
        for port in ["http", "-1", "65536"] {
            assert!(configured("", &[("PORT", port)]).unwrap_err().contains(&format!("PORT={port}")));
        }
        assert!(configured("--read-level quick", &[]).unwrap_err().contains("quick"));
    }

    #[test]
    fn the_state_in_the_words_of_raft_kv() {
        assert_eq!(state(Role::Leader, Some("10.1.0.101:4001")), "[DEBUG] state=Leader leader=10.1.0.101:4001\n");
        assert_eq!(state(Role::Candidate, None), "[DEBUG] state=Candidate leader=\n");
        for role in [Role::Follower, Role::Learner] {
            assert_eq!(state(role, Some("10.1.0.101:4001")), "[DEBUG] state=Follower leader=10.1.0.101:4001\n");
        }
    }
}
