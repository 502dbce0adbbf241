//! Scenarios as scripts, each with its expected output beside it, in a quiet world: every message takes a
//! millisecond, every sync too, and nothing fails but what the script breaks.
//!
//! To see what a changed node does to them: `UPDATE_GOLDENFILES=1 cargo test -p sim --test scripts`, and read the diff.

use bytes::Bytes;
use goldenscript::{Command, Context, Runner};
use kv::{IdempotencyKey, Operation, fingerprint};
use node::{Failure, Outcome, ReadLevel, Request, TICKS_PER_SECOND};
use sim::{Answer, HostNumber, Notable, SECOND, Settings, World};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/", stringify!($name));
            goldenscript::run(&mut Script::new(), path).unwrap();
        })*
    };
}

scripts! {
    a_cluster_of_three
    answer_to_an_earlier_life
    bytes_that_never_reached_the_disk
    deposed_leader_serves_no_read
    duplicate_requests
    hung_disk_gives_way
    join_to_nowhere
    leader_removes_itself
    read_before_a_commit_in_the_term
    reads_of_every_level
    removed_server_does_not_disturb
    replacing_one_of_two
    snapshot_races_apply
    sole_voter_with_a_learner_restarts
    wiped_node_under_its_old_id
}

/// How long a command waits for an answer.
const PATIENCE: u64 = 15 * SECOND;
const LIMIT_TICKS: u64 = 10 * TICKS_PER_SECOND;

struct Script {
    world: World,
    answers: BTreeMap<u64, Answer>,
    /// Sent, and not asked for again.
    sent: Vec<(String, u64)>,
    /// Every value is written once: the model relies on it.
    filled: u64,
}

impl Script {
    fn new() -> Script {
        Script { world: World::new(Settings::quiet()), answers: BTreeMap::new(), sent: Vec::new(), filled: 0 }
    }

    fn step(&mut self, until: u64) -> bool {
        match self.world.step(until) {
            None => return false,
            Some(Notable::Answered { question, answer }) => {
                self.answers.insert(question, answer);
            }
            Some(Notable::Alarm(_) | Notable::Nothing) => {}
        }
        assert_eq!(self.world.checks.violations(), &[] as &[String]);
        true
    }

    fn run_for(&mut self, micros: u64) {
        let until = self.world.now() + micros;
        while self.step(until) {}
    }

    fn wait(&mut self, question: u64) -> Answer {
        let until = self.world.now() + PATIENCE;
        while !self.answers.contains_key(&question) && self.step(until) {}
        self.answers.remove(&question).unwrap_or(Answer::Lost)
    }

    fn ask(&mut self, host: HostNumber, request: Request) -> String {
        let question = self.world.ask(host, LIMIT_TICKS, request);
        let answer = self.wait(question);
        told(&answer)
    }

    fn cluster(&mut self, size: usize) {
        let first = self.world.add_host();
        self.world.start(first, true);
        self.run_for(SECOND);
        for _ in 1..size {
            let host = self.world.add_host();
            self.world.start(host, false);
            let told = self.ask(first, self.join(host));
            assert_eq!(told, "done", "h{host} joins");
        }
        self.run_for(SECOND);
    }

    fn join(&self, host: HostNumber) -> Request {
        Request::Join { name: self.world.name(host), address: self.world.address(host) }
    }

    fn leader(&mut self) -> String {
        match self.world.leader() {
            Some(host) => format!("h{host}"),
            None => "nobody".into(),
        }
    }

    /// Runs until another host than that one leads.
    fn elect(&mut self, not: HostNumber) -> Result<String, Box<dyn Error>> {
        let until = self.world.now() + PATIENCE;
        while self.world.leader().is_none_or(|leader| leader == not) {
            if !self.step(until) {
                return Err("nobody else was elected".into());
            }
        }
        Ok(self.leader())
    }

    fn status(&mut self) -> String {
        let mut output = String::new();
        for host in self.world.hosts() {
            let line = match self.world.node(host).map(|node| (node, node.status())) {
                Some((_, status)) if status.removed.is_some() => format!("node {}, removed", status.node),
                Some((_, status)) => {
                    let configuration = &status.configuration;
                    let names = |ids: &[u64]| {
                        let name =
                            |id| configuration.members.get(id).map_or("?".into(), |m| format!("{}={id}", m.name));
                        ids.iter().map(name).collect::<Vec<String>>().join(" ")
                    };
                    let voters = &configuration.voters;
                    let mut line = format!("node {}, {:?}, voters {}", status.node, status.role, names(&voters.voters));
                    if !voters.learners.is_empty() {
                        let _ = write!(line, ", learners {}", names(&voters.learners));
                    }
                    line
                }
                None if self.world.waits_to_join(host) => "waits to be let in".into(),
                None if self.world.is_up(host) => "says that it was removed".into(),
                None => "down".into(),
            };
            let _ = writeln!(output, "h{host}: {line}");
        }
        output
    }

    /// Do all voters that are up hold the same?
    fn agree(&mut self) -> Result<String, Box<dyn Error>> {
        let mut states = Vec::new();
        for host in self.world.hosts() {
            if let Some(store) = self.world.node(host).and_then(|node| node.store(base::FIRST_GROUP)) {
                states.push((store.applied(), store.content_hash(), store.revision()));
            }
        }
        match states.first() {
            Some(first) if states.iter().all(|state| state == first) => {
                Ok(format!("{} nodes agree on revision {}\n", states.len(), first.2))
            }
            _ => Err(format!("{states:?}").into()),
        }
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word);
        }
        let mut pairs = Vec::new();
        while let Some((key, value)) = args.next_key() {
            pairs.push((key, value));
        }
        let number = |at: usize| -> Result<usize, Box<dyn Error>> {
            let word = words.get(at).ok_or("a word is missing")?;
            let digits: String = word.chars().filter(char::is_ascii_digit).collect();
            Ok(digits.parse()?)
        };
        let line = |text: String| Ok(text + "\n");
        match command.name.as_str() {
            "world" => {
                let mut settings = Settings::quiet();
                for (key, value) in pairs {
                    match key {
                        "checkpoint_after_bytes" => settings.checkpoint_after_bytes = value.parse()?,
                        "log_cache_bytes" => settings.log_cache_bytes = value.parse()?,
                        other => return Err(format!("no such setting: {other}").into()),
                    }
                }
                self.world = World::new(settings);
            }
            "cluster" => {
                self.cluster(number(0)?);
                return line(format!("led by {}", self.leader()));
            }
            "put" | "send" => {
                let mut idempotency = None;
                let mut operations = Vec::new();
                for (key, value) in pairs {
                    if key == "once" {
                        let key = Bytes::copy_from_slice(value.as_bytes());
                        idempotency = Some(IdempotencyKey { fingerprint: fingerprint([key.as_ref()]), key });
                    } else {
                        let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
                        operations.push(Operation::Put { key: copy(key), value: copy(value) });
                    }
                }
                let request = Request::Write { operations, idempotency };
                if command.name == "put" {
                    return line(self.ask(number(0)?, request));
                }
                let question = self.world.ask(number(0)?, LIMIT_TICKS, request);
                self.sent.push(("the write".into(), question));
            }
            "fill" => {
                for n in 0..number(1)? {
                    self.filled += 1;
                    let value = Bytes::from(format!("{}-{:.<100}", self.filled, ""));
                    let operations = vec![Operation::Put { key: Bytes::from(format!("fill{}", n % 10)), value }];
                    let told = self.ask(number(0)?, Request::Write { operations, idempotency: None });
                    assert!(told.starts_with("revision"), "{told}");
                }
            }
            "get" => {
                let question = self.world.ask(number(0)?, LIMIT_TICKS, Request::Read(level(&pairs)?));
                return match self.wait(question) {
                    Answer::Outcome(Outcome::Readable, Some(view)) => line(value(&view, words[1])),
                    answer => line(told(&answer)),
                };
            }
            "send-get" => {
                let question = self.world.ask(number(0)?, LIMIT_TICKS, Request::Read(level(&pairs)?));
                self.sent.push(("the read".into(), question));
            }
            "peek" => {
                let view = self.world.view(number(0)?).ok_or("it shows nothing")?;
                return line(value(view, words[1]));
            }
            "send-join" => {
                let request = self.join(number(0)?);
                let question = self.world.ask(number(1)?, LIMIT_TICKS, request);
                self.sent.push(("the join".into(), question));
            }
            "answers" => {
                let mut output = String::new();
                for (what, question) in &self.sent {
                    let answer = self.answers.get(question).map_or("nothing yet".into(), told);
                    let _ = writeln!(output, "{what}: {answer}");
                }
                return Ok(output);
            }
            "join" => {
                let request = self.join(number(0)?);
                return line(self.ask(number(1)?, request));
            }
            "remove" => {
                let request = Request::Remove { name: words[0].to_owned() };
                return line(self.ask(number(1)?, request));
            }
            "transfer" => {
                let request = Request::Transfer { name: Some(words[0].to_owned()) };
                return line(self.ask(number(1)?, request));
            }
            "new" => {
                let host = self.world.add_host();
                self.world.start(host, false);
                return line(format!("h{host}"));
            }
            "crash" => self.world.crash(number(0)?),
            "power-cut" => self.world.hosts().into_iter().for_each(|host| self.world.crash(host)),
            "start" => self.world.start(number(0)?, false),
            "wipe" => {
                self.world.wipe(number(0)?);
                self.world.start(number(0)?, false);
            }
            "hang-disk" => self.world.slow_disk(number(0)?, number(1)? as u64 * SECOND),
            "isolate" => {
                let host = number(0)?;
                for other in self.world.hosts() {
                    self.world.cut(host, other);
                    self.world.cut(other, host);
                }
            }
            "cut" => self.world.cut(number(0)?, number(1)?),
            "heal" => self.world.network.heal(),
            "run" => self.run_for(number(0)? as u64 * SECOND),
            "run-ms" => self.run_for(number(0)? as u64 * SECOND / 1_000),
            "leader" => return line(self.leader()),
            "elect-other-than" => return line(self.elect(number(0)?)?),
            "term" => {
                let leader = self.world.leader().ok_or("nobody leads")?;
                let term = self.world.node(leader).map_or(0, |node| node.status().term);
                return line(format!("term {term}"));
            }
            "snapshots" => return line(format!("{} installed", self.world.totals.snapshots_installed.min(1))),
            "status" => return Ok(self.status()),
            "agree" => return self.agree(),
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(String::new())
    }
}

fn level(pairs: &[(&str, &str)]) -> Result<ReadLevel, String> {
    match pairs.first() {
        None => Ok(ReadLevel::Linearizable),
        Some(("level", "weak")) => Ok(ReadLevel::Weak),
        Some(("level", "strong")) => Ok(ReadLevel::Strong),
        Some((key, value)) => Err(format!("no such level of a read: {key}={value}")),
    }
}

fn value(view: &kv::View, key: &str) -> String {
    match view.get(key.as_bytes()) {
        Some(found) => format!("{} (version {})", String::from_utf8_lossy(&found.value), found.version),
        None => "no such key".into(),
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Outcome(Outcome::Written { revision, .. }, _) => format!("revision {revision}"),
        Answer::Outcome(Outcome::Readable, _) => "readable".into(),
        Answer::Outcome(Outcome::Done, _) => "done".into(),
        Answer::Outcome(Outcome::Failed(failure), _) => match failure {
            Failure::Invalid(text) => format!("invalid: {text}"),
            Failure::Unavailable(text) => format!("unavailable: {text}"),
            Failure::Overloaded(text) => format!("overloaded: {text}"),
            Failure::Unknown(text) => format!("unknown: {text}"),
            Failure::KeyReused(text) => format!("key reused: {text}"),
            Failure::Removed(text) => format!("removed: {text}"),
            Failure::NotFound(text) => format!("not found: {text}"),
            Failure::Exists(text) => format!("exists: {text}"),
            Failure::Compacted(text) => format!("compacted: {text}"),
            Failure::FutureRevision(text) => format!("still to come: {text}"),
        },
        Answer::Outcome(outcome, _) => format!("{outcome:?}"),
        Answer::NobodyThere => "nobody is there".into(),
        Answer::Lost => "lost".into(),
    }
}
