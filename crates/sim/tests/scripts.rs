//! Scenarios as scripts, each with its expected output beside it, in a quiet world: every message takes a
//! millisecond, every sync too, and nothing fails but what the script breaks.
//!
//! To see what a changed node does to them: `UPDATE_GOLDENFILES=1 cargo test -p sim --test scripts`, and read the diff.

use bytes::Bytes;
use goldenscript::{Command, Context, Runner};
use kv::{Action, Compare, IdempotencyKey, KeyRange, Operation, Relation, Step, Target, Transaction, fingerprint};
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
    all_members_start_again
    answer_to_an_earlier_life
    bytes_that_never_reached_the_disk
    compaction_of_what_is_old
    compaction_of_what_is_too_much
    deposed_leader_serves_no_read
    duplicate_requests
    hung_disk_gives_way
    join_to_nowhere
    joining_as_a_learner
    keep_alive_overtakes_the_end_of_a_lease
    leader_removes_itself
    lease_ends_after_the_death_of_its_leader
    lease_outlives_its_leaders
    read_before_a_commit_in_the_term
    reads_of_every_level
    removed_server_does_not_disturb
    replacing_one_of_two
    snapshot_races_apply
    sole_voter_with_a_learner_restarts
    watch_goes_on_at_another_host
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
    /// What each watch wants next.
    watches: BTreeMap<String, u64>,
}

impl Script {
    fn new() -> Script {
        Script {
            world: World::new(Settings::quiet()),
            answers: BTreeMap::new(),
            sent: Vec::new(),
            filled: 0,
            watches: BTreeMap::new(),
        }
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
        Request::Join { name: self.world.name(host), address: self.world.address(host), learner: false }
    }

    fn join_as_a_learner(&self, host: HostNumber) -> Request {
        Request::Join { name: self.world.name(host), address: self.world.address(host), learner: true }
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

    /// Runs until the host shows no such key any more.
    fn wait_for_the_end(&mut self, host: HostNumber, key: &str) -> Result<u64, Box<dyn Error>> {
        let begun = self.world.now();
        while self.world.view(host).is_none_or(|view| view.get(key.as_bytes()).unwrap().is_some()) {
            if !self.step(begun + PATIENCE) {
                return Err("it is still there".into());
            }
        }
        Ok(self.world.now() - begun)
    }

    /// What the watch has not seen of what the host shows.
    fn watch(&mut self, name: &str, host: HostNumber) -> Result<String, Box<dyn Error>> {
        let view = self.world.view(host).ok_or("it shows nothing")?;
        let next = self.watches.entry(name.to_owned()).or_insert(1);
        let changes = match view.changes(*next, KeyRange::all(), false) {
            Ok(changes) => changes,
            Err(why) => {
                *next = view.compacted();
                return Ok(format!("{why}\n"));
            }
        };
        let mut output = String::new();
        for revision in changes {
            let revision = revision?;
            assert_eq!(revision.revision, *next);
            *next += 1;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let change = |change: kv::Change| match change.now {
                Some(now) => format!("{}={}", text(&change.key), text(&now.value)),
                None => format!("{} gone", text(&change.key)),
            };
            let changes: Vec<String> = revision.changes.into_iter().map(change).collect();
            let _ = writeln!(output, "{}: {}", revision.revision, changes.join(", "));
        }
        if output.is_empty() { Ok("nothing new\n".into()) } else { Ok(output) }
    }

    /// Do all voters that are up hold the same?
    fn agree(&mut self) -> Result<String, Box<dyn Error>> {
        let mut states = Vec::new();
        for host in self.world.hosts() {
            if let Some(store) = self.world.node(host).and_then(|node| node.store(base::FIRST_GROUP)) {
                states.push((store.applied(), store.content_hash()?, store.revision()));
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
                        "compact_after_seconds" => {
                            settings.compact_after_ticks = value.parse::<u64>()? * TICKS_PER_SECOND;
                        }
                        "compact_above_bytes" => settings.compact_above_bytes = value.parse()?,
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
            "grant" | "keep-alive" | "revoke" | "compact" | "send-keep-alive" => {
                let n = number(1)? as u64;
                let action = match command.name.as_str() {
                    "grant" => Action::Grant { lease: n, ttl_seconds: number(2)? as u64 },
                    "revoke" => Action::Revoke { lease: n },
                    "compact" => Action::Compact { revision: n },
                    _ => Action::KeepAlive { lease: n },
                };
                let request = Request::Act { action, idempotency: None };
                if command.name != "send-keep-alive" {
                    return line(self.ask(number(0)?, request));
                }
                let question = self.world.ask(number(0)?, LIMIT_TICKS, request);
                self.sent.push(("the keep-alive".into(), question));
            }
            "put-leased" => {
                let lease = number(1)? as u64;
                let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
                let put = |(key, value): &(&str, &str)| Step::Put {
                    key: copy(key),
                    value: copy(value),
                    lease,
                    previous: false,
                };
                let transaction = Transaction { success: pairs.iter().map(put).collect(), ..Transaction::default() };
                let action = Action::Transaction(transaction);
                return line(self.ask(number(0)?, Request::Act { action, idempotency: None }));
            }
            "put-if-version" => {
                let (key, value) = *pairs.first().ok_or("a key is missing")?;
                let key = Bytes::copy_from_slice(key.as_bytes());
                let compare = Compare {
                    keys: KeyRange::single(key.clone()),
                    relation: Relation::Equal,
                    target: Target::Version(number(1)? as u64),
                };
                let value = Bytes::copy_from_slice(value.as_bytes());
                let put = Step::Put { key, value, lease: 0, previous: false };
                let transaction = Transaction { compares: vec![compare], success: vec![put], ..Transaction::default() };
                let action = Action::Transaction(transaction);
                return line(self.ask(number(0)?, Request::Act { action, idempotency: None }));
            }
            "lease" => return line(self.ask(number(0)?, Request::LeaseTime { lease: number(1)? as u64 })),
            "wait-for-the-end" => {
                let micros = self.wait_for_the_end(number(0)?, words[1])?;
                return line(format!("after {:.1} s", micros as f64 / SECOND as f64));
            }
            "watch" => return self.watch(words[0], number(1)?),
            "past" => {
                let view = self.world.view(number(0)?).ok_or("it shows nothing")?;
                let kept = format!("revisions {} to {} can be read", view.compacted(), view.revision());
                return line(kept);
            }
            "past-is-at-most" => {
                let (view, most) = (self.world.view(number(0)?).ok_or("it shows nothing")?, number(1)? as u64);
                let is_so = view.past_bytes() <= most;
                return line(if is_so { "yes".into() } else { format!("{} bytes", view.past_bytes()) });
            }
            "peek-at" => {
                let view = self.world.view(number(0)?).ok_or("it shows nothing")?;
                return match view.at(number(1)? as u64) {
                    Ok(picture) => line(value(&picture, words[2])),
                    Err(why) => line(why.to_string()),
                };
            }
            "applied" => {
                let view = self.world.view(number(0)?).ok_or("it shows nothing")?;
                return line(format!("entry {}", view.applied().index));
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
            "join-as-learner" => {
                let request = self.join_as_a_learner(number(0)?);
                return line(self.ask(number(1)?, request));
            }
            "promote" => {
                let request = Request::Promote { name: words[0].to_owned() };
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
            "crash-leader" => {
                let leader = self.world.leader().ok_or("nobody leads")?;
                self.world.crash(leader);
                return line(format!("h{leader} crashed"));
            }
            "start-all" => self.world.hosts().into_iter().for_each(|host| self.world.start(host, false)),
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

fn value(view: &kv::Picture, key: &str) -> String {
    match view.get(key.as_bytes()).unwrap() {
        Some(found) => format!("{} (version {})", String::from_utf8_lossy(&found.value), found.version),
        None => "no such key".into(),
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Outcome(Outcome::Written { revision, .. }, _) => format!("revision {revision}"),
        Answer::Outcome(Outcome::Decided { succeeded, revision, changed, .. }, _) => {
            let held = if *succeeded { "held" } else { "did not hold" };
            format!("the conditions {held}, revision {revision}, {changed} changed")
        }
        Answer::Outcome(Outcome::Granted { lease, ttl_seconds }, _) => format!("lease {lease} of {ttl_seconds} s"),
        Answer::Outcome(Outcome::LeaseTime { remaining_ms: Some(ms) }, _) => format!("{ms} ms are left"),
        Answer::Outcome(Outcome::LeaseTime { remaining_ms: None }, _) => "no such lease".into(),
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
