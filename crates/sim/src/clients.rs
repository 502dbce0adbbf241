//! Clients of single keys, that ask one thing after another, and remember what they were told.
//!
//! Every value is written once. Some writes carry an idempotency key and are tried again, on another host, as long as
//! their outcome is unknown. Batches tie keys two and two, so that a history can be judged in time.
//!
//! Reads are of all levels. Linearizable and strong ones stand in the history. A weak one must show a state that was, and
//! none older than what every leader that may answer is known to have; a local one any state that was.

use crate::check::{Judgement, Model};
use crate::{Answer, HostNumber, IS_READ, Micros, SECOND, World, check};
use base::Index;
use base::rng::Rng;
use bytes::Bytes;
use kv::{IdempotencyKey, Operation, View, fingerprint};
use lincheck::{History, OperationId};
use node::{Failure, Outcome, ReadLevel, Request, TICKS_PER_SECOND};
use std::collections::BTreeMap;

/// Alarms: from here on a client's number.
pub const CLIENT: u64 = 1 << 32;
/// … and from here on a question that a client waits for no longer.
pub const GIVE_UP: u64 = 1 << 36;

const MOST_ATTEMPTS: u64 = 4;

pub struct Clients {
    rng: Rng,
    history: History,
    clients: Vec<Option<Current>>,
    /// Who waits for the answer to which question.
    waiting: BTreeMap<u64, usize>,
    keys: u64,
    value_bytes: u64,
    think: Micros,
    next_value: u64,
    begun: u64,
    is_over: bool,
}

/// What a client is at.
struct Current {
    wants: Wants,
    attempts: u64,
    /// An attempt may have taken effect.
    unsure: bool,
}

enum Wants {
    Read { id: OperationId, level: ReadLevel, key: Bytes },
    WeakRead { key: Bytes, not_before: Index },
    Write { id: OperationId, operations: Vec<Operation>, idempotency: Option<IdempotencyKey> },
}

impl Clients {
    pub fn new(mut rng: Rng, count: usize, mean_think: Micros) -> Clients {
        Clients {
            history: History::new(),
            clients: (0..count).map(|_| None).collect(),
            waiting: BTreeMap::new(),
            keys: 2 * rng.between(1, 3),
            value_bytes: *rng.pick(&[16, 16, 100, 400]),
            think: mean_think,
            next_value: 0,
            begun: 0,
            is_over: false,
            rng,
        }
    }

    pub fn begin(&mut self, world: &mut World) {
        for client in 0..self.clients.len() {
            self.think(world, client);
        }
    }

    /// How many operations were begun.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// No new operations from now on.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    pub fn are_done(&self) -> bool {
        self.clients.iter().all(Option::is_none)
    }

    fn think(&mut self, world: &mut World, client: usize) {
        world.alarm(self.rng.below(2 * self.think + 1), CLIENT + client as u64);
    }

    /// A client has thought enough.
    pub fn wake(&mut self, world: &mut World, client: usize) {
        if self.clients[client].is_some() {
            return self.attempt(world, client);
        }
        if self.is_over {
            return;
        }
        self.begun += 1;
        world.totals.operations += 1;
        let wants = match self.rng.below(100) {
            0..=11 => {
                self.read_locally(world);
                return self.think(world, client);
            }
            12..=21 => Wants::WeakRead { key: self.key(), not_before: world.any_leader_has() },
            n @ 22..=49 => {
                let level = if n < 30 { ReadLevel::Strong } else { ReadLevel::Linearizable };
                let key = self.key();
                let id = self.history.invoke(client as u64, lincheck::Operation::get(key.to_vec()), world.now());
                Wants::Read { id, level, key }
            }
            _ => {
                let operations = self.operations();
                let idempotency = self.rng.chance(500).then(|| {
                    let key = Bytes::from(format!("op-{}", self.begun));
                    IdempotencyKey { fingerprint: fingerprint([key.as_ref()]), key }
                });
                let id = self.history.invoke(client as u64, for_history(&operations), world.now());
                Wants::Write { id, operations, idempotency }
            }
        };
        self.clients[client] = Some(Current { wants, attempts: 0, unsure: false });
        self.attempt(world, client);
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{}", self.rng.below(self.keys)))
    }

    fn value(&mut self) -> Bytes {
        self.next_value += 1;
        let length = self.value_bytes as usize;
        Bytes::from(format!("v{}{:.<length$}", self.next_value, "", length = length))
    }

    fn operations(&mut self) -> Vec<Operation> {
        let key = self.key();
        match self.rng.below(100) {
            0..=14 => vec![Operation::Delete { key }],
            15..=29 => {
                let first = self.rng.below(self.keys / 2) * 2;
                let key = |n: u64| Bytes::from(format!("k{n}"));
                let second = if self.rng.chance(300) {
                    Operation::Delete { key: key(first + 1) }
                } else {
                    Operation::Put { key: key(first + 1), value: self.value() }
                };
                vec![Operation::Put { key: key(first), value: self.value() }, second]
            }
            _ => vec![Operation::Put { key, value: self.value() }],
        }
    }

    fn read_locally(&mut self, world: &mut World) {
        let (host, key) = (host_to_ask(&mut self.rng, world), self.key());
        let Some(view) = world.view(host).filter(|_| !world.is_paused(host)) else {
            world.totals.operations_failed += 1;
            return;
        };
        let result = shows_what_was(&world.checks.model, view, &key);
        world.checks.must("a local read shows a state that was", result.map_err(|what| format!("h{host}: {what}")));
        world.totals.reads_local += 1;
        world.totals.operations_ok += 1;
    }

    fn attempt(&mut self, world: &mut World, client: usize) {
        let host = host_to_ask(&mut self.rng, world);
        let Some(current) = &mut self.clients[client] else { return };
        current.attempts += 1;
        let request = match &current.wants {
            Wants::Read { level, .. } => Request::Read(*level),
            Wants::WeakRead { .. } => Request::Read(ReadLevel::Weak),
            Wants::Write { operations, idempotency, .. } => {
                Request::Write { operations: operations.clone(), idempotency: idempotency.clone() }
            }
        };
        let now = world.now();
        world.trace.note(now, Some(host), &[30, client as u64], || match &current.wants {
            Wants::Read { level, key, .. } => format!("is asked by client {client}: {} ? ({level:?})", text(key)),
            Wants::WeakRead { key, .. } => format!("is asked by client {client}: {} ? (Weak)", text(key)),
            Wants::Write { operations, .. } => format!("is asked by client {client}: {}", describe(operations)),
        });
        let limit_ticks = self.rng.between(TICKS_PER_SECOND / 2, 4 * TICKS_PER_SECOND);
        let question = world.ask(host, limit_ticks, request);
        self.waiting.insert(question, client);
        // A client whose host is silent gives up a little later.
        world.alarm((limit_ticks + 20) * SECOND / TICKS_PER_SECOND, GIVE_UP + question);
    }

    pub fn give_up(&mut self, world: &mut World, question: u64) {
        self.answered(world, question, Answer::Lost);
    }

    pub fn answered(&mut self, world: &mut World, question: u64, answer: Answer) {
        let Some(client) = self.waiting.remove(&question) else { return };
        let Some(mut current) = self.clients[client].take() else { return };
        let now = world.now();
        world.trace.note(now, None, &[31, client as u64], || format!("client {client} hears: {}", told(&answer)));
        match (&current.wants, answer) {
            (Wants::Read { id, level, key }, Answer::Outcome(Outcome::Readable, Some(view))) => {
                let value = view.get(key).expect(IS_READ).map(|found| found.value.to_vec());
                self.history.complete(*id, lincheck::Outcome::Read(value), now);
                match level {
                    ReadLevel::Strong => world.totals.reads_strong += 1,
                    ReadLevel::Linearizable | ReadLevel::Weak => world.totals.reads_linearizable += 1,
                }
                world.totals.operations_ok += 1;
            }
            (Wants::WeakRead { key, not_before }, Answer::Outcome(Outcome::Readable, Some(view))) => {
                let result = shows_what_was(&world.checks.model, &view, key);
                world.checks.must("a weak read shows a state that was", result);
                let result = check::weak_read(&view, *not_before);
                world.checks.must("a weak read shows what its leader had", result);
                world.totals.reads_weak += 1;
                world.totals.operations_ok += 1;
            }
            (Wants::Read { .. } | Wants::WeakRead { .. }, answer) => {
                world.checks.must("a read is answered as one", failed_as_a_read(&answer));
                if let Wants::Read { id, .. } = current.wants {
                    self.history.failed(id);
                }
                world.totals.operations_failed += 1;
            }
            (Wants::Write { id, operations, .. }, Answer::Outcome(Outcome::Written { revision, .. }, _)) => {
                let values = values(operations);
                let result = world.checks.acknowledged.written(&world.checks.model, &values, revision);
                world.checks.must("an acknowledged write took effect", result);
                self.history.complete(*id, lincheck::Outcome::Done, now);
                world.totals.operations_ok += 1;
            }
            (Wants::Write { id, operations, idempotency }, answer) => {
                match answer {
                    Answer::Lost | Answer::Outcome(Outcome::Failed(Failure::Unknown(_)), _) => current.unsure = true,
                    Answer::NobodyThere => {}
                    Answer::Outcome(
                        Outcome::Failed(
                            Failure::Unavailable(_)
                            | Failure::Overloaded(_)
                            | Failure::Removed(_)
                            | Failure::Invalid(_),
                        ),
                        _,
                    ) => {}
                    Answer::Outcome(outcome, _) => {
                        world.checks.must("a write is answered as one", Err(format!("{outcome:?}")));
                    }
                }
                if current.unsure && idempotency.is_some() && current.attempts < MOST_ATTEMPTS {
                    world.totals.retries += 1;
                    self.clients[client] = Some(current);
                    return self.think(world, client);
                }
                if current.unsure {
                    self.history.unknown(*id);
                    world.totals.operations_unknown += 1;
                } else {
                    world.checks.acknowledged.refused(values(operations));
                    self.history.failed(*id);
                    world.totals.operations_failed += 1;
                }
            }
        }
        self.think(world, client);
    }

    /// At the end of a life.
    pub fn judge(&self, world: &mut World) {
        match check::judge(&self.history) {
            Judgement::Linearizable => {}
            Judgement::Undecided => world.totals.undecided += 1,
            Judgement::Violation(what) => {
                world.checks.must("linearizability (Herlihy and Wing, 1990)", Err(what));
            }
        }
    }
}

/// Mostly one that is up.
pub fn host_to_ask(rng: &mut Rng, world: &World) -> HostNumber {
    let hosts = world.hosts();
    let up: Vec<HostNumber> = hosts.iter().copied().filter(|&host| world.node(host).is_some()).collect();
    if up.is_empty() || rng.chance(50) { *rng.pick(&hosts) } else { *rng.pick(&up) }
}

fn shows_what_was(model: &Model, view: &View, key: &Bytes) -> Result<(), String> {
    let (index, found) = (view.applied().index, view.get(key).map_err(check::in_words)?.map(|found| found.value));
    let expected = model.at(key, index).map(|version| &version.value);
    match found.as_ref() == expected {
        true => Ok(()),
        false => Err(format!("{key:?} = {found:?} at {index} instead of {expected:?}")),
    }
}

/// It changes nothing, so it is always known that it changed nothing.
pub fn failed_as_a_read(answer: &Answer) -> Result<(), String> {
    match answer {
        Answer::NobodyThere | Answer::Lost => Ok(()),
        Answer::Outcome(Outcome::Failed(failure), _) => match failure {
            Failure::Unavailable(_) | Failure::Overloaded(_) | Failure::Removed(_) => Ok(()),
            failure => Err(format!("{failure:?}")),
        },
        Answer::Outcome(outcome, _) => Err(format!("{outcome:?}")),
    }
}

fn values(operations: &[Operation]) -> Vec<Bytes> {
    let value = |operation: &Operation| match operation {
        Operation::Put { value, .. } => Some(value.clone()),
        Operation::Delete { .. } => None,
    };
    operations.iter().filter_map(value).collect()
}

fn for_history(operations: &[Operation]) -> lincheck::Operation {
    match operations {
        [Operation::Put { key, value }] => lincheck::Operation::put(key.to_vec(), value.to_vec()),
        [Operation::Delete { key }] => lincheck::Operation::delete(key.to_vec()),
        batch => {
            let write = |operation: &Operation| match operation {
                Operation::Put { key, value } => (key.to_vec(), Some(value.to_vec())),
                Operation::Delete { key } => (key.to_vec(), None),
            };
            lincheck::Operation::Batch(batch.iter().map(write).collect())
        }
    }
}

fn describe(operations: &[Operation]) -> String {
    let one = |operation: &Operation| match operation {
        Operation::Put { key, value } => format!("{}={}", text(key), text(value)),
        Operation::Delete { key } => format!("{} gone", text(key)),
    };
    operations.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Outcome(Outcome::Readable, Some(view)) => format!("readable at {}", view.applied().index),
        Answer::Outcome(outcome, _) => format!("{outcome:?}"),
        Answer::NobodyThere => "nobody listens".into(),
        Answer::Lost => "nothing any more".into(),
    }
}

/// Values are padded with dots.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('.').to_owned()
}
