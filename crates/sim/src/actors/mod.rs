//! Clients of all that is more than a key: transactions, leases, compactions, and ranges read page by page, now and in the
//! past.
//!
//! They share their keys among themselves only. Every action stands in the log, and what it came to there is what its
//! client must be told ([`check::in_the_log`]); so their history needs no search for an order. Half of them carry an
//! idempotency key and are tried again as long as their outcome is unknown; now and then one takes the key of another.
//!
//! A walk reads a range page by page at one revision, from the published views of one host and then another, while the past
//! is being compacted.

mod wishes;

use crate::clients::{GIVE_UP, failed_as_a_read, host_to_ask};
use crate::{Answer, HostNumber, Micros, SECOND, World, check};
use base::Index;
use base::rng::Rng;
use bytes::Bytes;
use kv::{Action, IdempotencyKey, Query, View, fingerprint};
use node::{Failure, Outcome, ReadLevel, Request, TICKS_PER_SECOND};
use std::collections::BTreeMap;

/// Alarms: from here on an actor's number.
pub const ACTOR: u64 = 1 << 33;

const MOST_ATTEMPTS: u64 = 4;
const KEYS: u64 = 6;
/// Leases whose numbers their clients chose. Far above those that the store chooses.
const FIRST_LEASE: u64 = 1 << 40;
const LEASES: u64 = 4;
const LONGEST_LEASE_SECONDS: u64 = 8;

pub struct Actors {
    rng: Rng,
    actors: Vec<Option<Current>>,
    /// Who waits for the answer to which question.
    waiting: BTreeMap<u64, usize>,
    think: Micros,
    begun: u64,
    values: u64,
    /// Idempotency keys that were used.
    used: Vec<Bytes>,
    /// The newest entry that somebody was told of.
    acknowledged: Index,
    is_over: bool,
}

struct Current {
    wants: Wants,
    attempts: u64,
    /// An attempt may have taken effect.
    unsure: bool,
}

/// A view that somebody holds on to.
struct Held {
    host: HostNumber,
    life: u64,
    view: View,
}

enum Wants {
    Act { action: Action, idempotency: Option<IdempotencyKey>, asked_after: Index },
    Read { level: ReadLevel, not_before: Index },
    LeaseTime { lease: u64 },
    Walk { revision: u64, query: Query, view: Option<Held> },
}

impl Actors {
    pub fn new(rng: Rng, count: usize, mean_think: Micros) -> Actors {
        Actors {
            rng,
            actors: (0..count).map(|_| None).collect(),
            waiting: BTreeMap::new(),
            think: mean_think,
            begun: 0,
            values: 0,
            used: Vec::new(),
            acknowledged: 0,
            is_over: false,
        }
    }

    pub fn begin(&mut self, world: &mut World) {
        (0..self.actors.len()).for_each(|actor| self.think(world, actor));
    }

    /// Nothing new from now on.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    pub fn are_done(&self) -> bool {
        self.actors.iter().all(Option::is_none)
    }

    fn think(&mut self, world: &mut World, actor: usize) {
        world.alarm(self.rng.below(2 * self.think + 1), ACTOR + actor as u64);
    }

    pub fn wake(&mut self, world: &mut World, actor: usize) {
        if self.actors[actor].is_none() {
            if self.is_over {
                return;
            }
            let wants = self.wants(world);
            self.actors[actor] = Some(Current { wants, attempts: 0, unsure: false });
        }
        match self.actors[actor].take() {
            Some(Current { wants: Wants::Walk { revision, query, view }, attempts, .. }) => {
                self.actors[actor] = self.walk(world, revision, query, view, attempts);
                self.think(world, actor);
            }
            current => {
                self.actors[actor] = current;
                self.attempt(world, actor);
            }
        }
    }

    fn wants(&mut self, world: &World) -> Wants {
        self.begun += 1;
        let action = match self.rng.below(100) {
            0..=39 => Action::Transaction(self.transaction(world)),
            40..=49 => {
                let lease = if self.rng.chance(300) { 0 } else { FIRST_LEASE + self.rng.below(LEASES) };
                Action::Grant { lease, ttl_seconds: self.rng.between(1, LONGEST_LEASE_SECONDS) }
            }
            50..=62 => Action::KeepAlive { lease: self.lease(world) },
            63..=65 => Action::Revoke { lease: self.lease(world) },
            66..=69 => {
                let newest = world.checks.model.revision();
                Action::Compact { revision: (newest + 2).saturating_sub(self.rng.below(40)) }
            }
            70..=74 => return Wants::LeaseTime { lease: self.lease(world) },
            75..=84 => {
                let level = *self.rng.pick(&[ReadLevel::Linearizable, ReadLevel::Linearizable, ReadLevel::Strong]);
                return Wants::Read { level, not_before: self.acknowledged };
            }
            _ => {
                let model = &world.checks.model;
                let (oldest, newest) = (model.compacted_at(Index::MAX), model.revision());
                let revision = match self.rng.below(10) {
                    0 => self.rng.below(newest + 4),
                    1..=3 => oldest + self.rng.below(3),
                    _ => oldest + self.rng.below(newest - oldest + 1),
                };
                return Wants::Walk { revision, query: self.query(), view: None };
            }
        };
        let asked_after = world.checks.committed_to();
        Wants::Act { idempotency: self.idempotency(), action, asked_after }
    }

    fn idempotency(&mut self) -> Option<IdempotencyKey> {
        if !self.rng.chance(500) {
            return None;
        }
        let name = Bytes::from(format!("act-{}", self.begun));
        let fingerprint = fingerprint([name.as_ref()]);
        if !self.used.is_empty() && self.rng.chance(50) {
            return Some(IdempotencyKey { key: self.rng.pick(&self.used).clone(), fingerprint });
        }
        self.used.push(name.clone());
        Some(IdempotencyKey { key: name, fingerprint })
    }

    fn attempt(&mut self, world: &mut World, actor: usize) {
        let host = host_to_ask(&mut self.rng, world);
        let Some(current) = &mut self.actors[actor] else { return };
        current.attempts += 1;
        let request = match &current.wants {
            Wants::Act { action, idempotency, .. } => {
                Request::Act { action: action.clone(), idempotency: idempotency.clone() }
            }
            Wants::Read { level, .. } => Request::Read(*level),
            Wants::LeaseTime { lease } => Request::LeaseTime { lease: *lease },
            Wants::Walk { .. } => return,
        };
        let now = world.now();
        world.trace.note(now, Some(host), &[32, actor as u64], || format!("is asked by actor {actor}: {request:?}"));
        let limit_ticks = self.rng.between(TICKS_PER_SECOND / 2, 4 * TICKS_PER_SECOND);
        let question = world.ask(host, limit_ticks, request);
        self.waiting.insert(question, actor);
        // A client whose host is silent gives up a little later.
        world.alarm((limit_ticks + 20) * SECOND / TICKS_PER_SECOND, GIVE_UP + question);
    }

    pub fn give_up(&mut self, world: &mut World, question: u64) {
        self.answered(world, question, Answer::Lost);
    }

    pub fn answered(&mut self, world: &mut World, question: u64, answer: Answer) {
        let Some(actor) = self.waiting.remove(&question) else { return };
        let Some(mut current) = self.actors[actor].take() else { return };
        let now = world.now();
        world.trace.note(now, None, &[33, actor as u64], || format!("actor {actor} hears: {}", told(&answer)));
        match (&current.wants, answer) {
            (Wants::Act { action, asked_after, .. }, Answer::Outcome(outcome, _))
                if check::answer(&outcome).is_some() =>
            {
                self.hears(world, action, *asked_after, &outcome);
            }
            (Wants::Act { action, idempotency, .. }, answer) => {
                match answer {
                    Answer::Lost | Answer::Outcome(Outcome::Failed(Failure::Unknown(_)), _) => current.unsure = true,
                    Answer::NobodyThere
                    | Answer::Outcome(
                        Outcome::Failed(Failure::Unavailable(_) | Failure::Overloaded(_) | Failure::Removed(_)),
                        _,
                    ) => {}
                    Answer::Outcome(outcome, _) => {
                        world.checks.must("an action is answered as one", Err(format!("{outcome:?}")));
                    }
                }
                if current.unsure && idempotency.is_some() && current.attempts < MOST_ATTEMPTS {
                    world.totals.retries += 1;
                    self.actors[actor] = Some(current);
                    return self.think(world, actor);
                }
                if !current.unsure {
                    world.checks.acknowledged.refused(name_of(action).into_iter().collect());
                }
            }
            (Wants::Read { not_before, .. }, Answer::Outcome(Outcome::Readable, Some(view))) => {
                let shown = view.applied().index;
                let result = if shown >= *not_before { Ok(()) } else { Err(format!("{shown}, after {not_before}")) };
                world.checks.must("a read shows what was acknowledged before it", result);
            }
            (Wants::LeaseTime { lease }, Answer::Outcome(Outcome::LeaseTime { remaining_ms }, _)) => {
                let longest = if remaining_ms.is_some() { LONGEST_LEASE_SECONDS * 1_000 } else { 0 };
                let result = match remaining_ms.unwrap_or(0) <= longest {
                    true => Ok(()),
                    false => Err(format!("lease {lease} has {remaining_ms:?} ms left")),
                };
                world.checks.must("no lease has more than its time", result);
                world.totals.lease_times += 1;
            }
            (Wants::Read { .. } | Wants::LeaseTime { .. } | Wants::Walk { .. }, answer) => {
                world.checks.must("a read is answered as one", failed_as_a_read(&answer));
            }
        }
        self.think(world, actor);
    }

    /// What the log says became of the action.
    fn hears(&mut self, world: &mut World, action: &Action, asked_after: Index, outcome: &Outcome) {
        let found = check::in_the_log(&world.checks.model, action, asked_after, outcome);
        let totals = &mut world.totals;
        let counter = match (action, outcome) {
            (_, Outcome::Failed(_)) => &mut totals.actions_refused,
            (Action::Transaction(_), Outcome::Decided { succeeded: true, .. }) => &mut totals.transactions_succeeded,
            (Action::Transaction(_), _) => &mut totals.transactions_failed,
            (Action::Compact { .. }, _) => &mut totals.compactions_asked,
            (Action::Grant { .. }, _) => &mut totals.leases_granted,
            (Action::KeepAlive { .. }, _) => &mut totals.leases_kept_alive,
            (Action::Revoke { .. } | Action::Expire { .. }, _) => &mut totals.leases_revoked,
        };
        *counter += 1;
        if let Outcome::Decided { results, .. } = outcome {
            totals.results_seen += u64::from(results.is_some());
        }
        if let Outcome::Failed(_) = outcome {
            world.checks.acknowledged.refused(name_of(action).into_iter().collect());
        }
        match found {
            Ok(index) => self.acknowledged = self.acknowledged.max(index),
            Err(what) => world.checks.must("an action is answered as the log says", Err(what)),
        }
    }

    /// Reads one page more. `None`: that was the last.
    fn walk(
        &mut self,
        world: &mut World,
        revision: u64,
        mut query: Query,
        held: Option<Held>,
        attempts: u64,
    ) -> Option<Current> {
        let mut host = host_to_ask(&mut self.rng, world);
        let view = match held.filter(|held| world.still_shows(held.host, held.life)) {
            Some(held) => {
                host = held.host;
                held.view
            }
            None => world.view(host).cloned()?,
        };
        let life = world.life(host);
        let read = check::page_at(&world.checks.model, &view, revision, &query);
        let now = world.now();
        world.trace.note(now, Some(host), &[34, revision], || match &read {
            Ok(Some(page)) => format!("shows {} keys of revision {revision}, more: {}", page.rows.len(), page.more),
            Ok(None) => format!("has no revision {revision}"),
            Err(_) => String::new(),
        });
        match read {
            Err(what) => {
                world.checks.must("the past is what it was", Err(what));
                None
            }
            Ok(None) => {
                world.totals.past_out_of_reach += 1;
                None
            }
            Ok(Some(page)) => {
                world.totals.past_pages += 1;
                let last = page.rows.last().filter(|_| page.more)?.0.clone();
                world.totals.past_walks += u64::from(attempts == 0);
                query.after = Some(last);
                // Some go on with what they have in hand, though the store goes on without it.
                let view = self.rng.chance(300).then_some(Held { host, life, view });
                Some(Current { wants: Wants::Walk { revision, query, view }, attempts: attempts + 1, unsure: false })
            }
        }
    }
}

fn name_of(action: &Action) -> Option<Bytes> {
    let Action::Transaction(transaction) = action else { return None };
    Some(transaction.compares.first()?.keys.start.clone())
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Outcome(outcome, _) => format!("{outcome:?}"),
        Answer::NobodyThere => "nobody listens".into(),
        Answer::Lost => "nothing any more".into(),
    }
}
