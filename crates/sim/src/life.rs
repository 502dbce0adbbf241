//! One life of a cluster: it forms, everything goes wrong, everything heals, and it must go on and agree.

use crate::actors::{ACTOR, Actors};
use crate::clients::{CLIENT, Clients, GIVE_UP};
use crate::troubles::Troubles;
use crate::watchers::{WATCHER, Watchers};
use crate::world::{self, DISK_ALARM};
use crate::{Answer, HostNumber, IS_READ, Micros, Notable, SECOND, Sabotage, Totals, Weather, World};
use base::rng::{Rng, hash};
use bytes::Bytes;
use kv::Operation;
use node::{Outcome, Request, TICKS_PER_SECOND};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use storage::engine::disk::DiskOptions;

/// Keeps a life's draws apart from its world's.
const LIFE: u64 = 1;
/// At the least.
const TROUBLED: Micros = 60 * SECOND;
const OPERATIONS: u64 = 500;
const BALLAST_BYTES: usize = 64 << 10;
/// For a cluster without trouble to form, and for one that healed to be whole again.
const FORMING_LIMIT: Micros = 120 * SECOND;
const HEALING_LIMIT: Micros = 120 * SECOND;
/// For what leaders do by themselves, once nobody asks for anything: the longest lease, the longest that the past is
/// kept, and some seconds.
const CHORES_LIMIT: Micros = 25 * SECOND;
/// Once all is well, on every member.
const WRITE_LIMIT: Micros = 30 * SECOND;

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub seed: u64,
    pub with_lines: bool,
    /// No node is told the time of day.
    pub no_wall_clocks: bool,
    /// Nobody asks for more than single keys: no transactions, leases, walks and watches.
    pub single_keys: bool,
    /// The power fails for all at every second election.
    pub power_fails_at_elections: bool,
    pub sabotage: Option<Sabotage>,
}

/// What came of a life.
#[derive(Clone, Debug)]
pub struct Life {
    pub seed: u64,
    /// Equal for equal lives only.
    pub digest: u64,
    pub totals: Totals,
    /// What should not have happened; a life ends with the first.
    pub violations: Vec<String>,
    pub lines: Vec<String>,
}

/// Lives it.
pub fn live(plan: &Plan) -> Life {
    let mut living = Living::new(plan);
    let ended = catch_unwind(AssertUnwindSafe(|| living.live()));
    let mut violations = living.world.checks.violations().to_vec();
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        violations.push(format!("nothing panics: {}", text.unwrap_or_default()));
    }
    let mut totals = living.world.totals.clone();
    totals.lives = 1;
    totals.simulated_seconds = living.world.now() / SECOND;
    totals.elections = living.world.checks.elections();
    totals.members_changed = living.world.checks.model.members_changed;
    totals.leases_ended = living.world.checks.chores.leases_ended;
    totals.compactions = living.world.checks.chores.compactions;
    totals.entries_applied = living.world.checks.committed_to();
    let (digest, lines) = (living.world.trace.digest(), living.world.trace.take_lines());
    Life { seed: plan.seed, digest, totals, violations, lines }
}

struct Living {
    world: World,
    clients: Clients,
    actors: Actors,
    watchers: Watchers,
    troubles: Troubles,
    size: usize,
    /// So many large values lie in the store, so that its checkpoints take several chunks.
    ballast: u64,
}

impl Living {
    fn new(plan: &Plan) -> Living {
        let mut rng = Rng::new(hash(&[plan.seed, LIFE]));
        let size = *rng.pick(&[3, 3, 5]);
        let small = rng.chance(600);
        let settings = world::Settings {
            seed: rng.next_u64(),
            with_lines: plan.with_lines,
            weather: Weather::draw(&mut rng),
            sync_micros: *rng.pick(&[(100, 1_000), (500, 5_000), (5_000, 30_000)]),
            hints: *rng.pick(&[0, 500, 1_000]),
            checkpoint_after_bytes: if small { rng.between(1_000, 20_000) } else { 1 << 20 },
            log_cache_bytes: if small { rng.between(1_000, 20_000) as usize } else { 1 << 20 },
            far_behind_bytes: if small { 2_000 } else { 256 * 1024 },
            segment_size_bytes: *rng.pick(&[8 << 10, 32 << 10, 128 << 10]),
            tables: rng.chance(600).then(|| DiskOptions {
                memory_bytes: *rng.pick(&[16 << 10, 64 << 10, 1 << 20]),
                memtable_bytes: *rng.pick(&[1 << 10, 4 << 10, 16 << 10]),
                block_bytes: *rng.pick(&[128, 1024]),
                table_bytes: *rng.pick(&[1 << 10, 16 << 10]),
                step_entries: *rng.pick(&[2, 100]),
            }),
            compact_after_ticks: *rng.pick(&[0, 4, 15]) * TICKS_PER_SECOND,
            compact_above_bytes: *rng.pick(&[0, 0, 4_000, 40_000]),
            wall_clocks: !plan.no_wall_clocks,
            sabotage: plan.sabotage,
        };
        let count = rng.between(3, 10);
        let think = TROUBLED * count / (OPERATIONS * rng.between(3, 6) / 2);
        let ballast = if rng.chance(100) { rng.between(8, 16) } else { 0 };
        let mut troubles = Troubles::new(rng.fork(), size + 2);
        troubles.strikes_elections |= plan.power_fails_at_elections;
        Living {
            world: World::new(settings),
            clients: Clients::new(rng.fork(), count as usize, think),
            actors: Actors::new(rng.fork(), if plan.single_keys { 0 } else { 3 }, SECOND),
            watchers: Watchers::new(rng.fork(), if plan.single_keys { 0 } else { 2 }),
            troubles,
            size,
            ballast,
        }
    }

    fn live(&mut self) {
        self.form();
        self.load_ballast();
        self.clients.begin(&mut self.world);
        self.actors.begin(&mut self.world);
        self.watchers.begin(&mut self.world);
        self.troubles.begin(&mut self.world);
        let end = self.world.now() + TROUBLED;
        let very_end = self.world.now() + 5 * TROUBLED;
        while self.world.now() < end || (self.clients.begun() < OPERATIONS && self.world.now() < very_end) {
            let until = self.world.now() + SECOND;
            self.run_until(until);
            if self.failed() {
                return;
            }
        }
        self.heal();
        if self.failed() {
            return;
        }
        let refused = self.world.checks.acknowledged.none_of_the_refused(&self.world.checks.model);
        self.world.checks.must("what was said to have changed nothing changed nothing", refused);
        self.clients.judge(&mut self.world);
    }

    fn failed(&self) -> bool {
        !self.world.checks.violations().is_empty()
    }

    /// The first host founds the cluster, the others join.
    fn form(&mut self) {
        let first = self.world.add_host();
        self.world.start(first, true);
        for _ in 1..self.size {
            self.troubles.add(&mut self.world);
        }
        let formed = self.wait_for(FORMING_LIMIT, |living| {
            living.world.checks.model.voters().len() == living.size && !living.troubles.members_may_change()
        });
        if !formed {
            self.world.checks.must("a cluster forms", Err(format!("not within {} s", FORMING_LIMIT / SECOND)));
        }
    }

    fn load_ballast(&mut self) {
        for n in 0..self.ballast {
            let value = Bytes::from(vec![n as u8; BALLAST_BYTES]);
            let operations = vec![Operation::Put { key: Bytes::from(format!("ballast{n}")), value }];
            let request = Request::Write { operations, idempotency: None };
            self.world.ask(1, 10 * TICKS_PER_SECOND, request);
            let until = self.world.now() + SECOND / 2;
            self.run_until(until);
        }
    }

    /// Everything is mended, and then every member must serve and all must agree.
    fn heal(&mut self) {
        self.clients.end();
        self.actors.end();
        self.troubles.end(&mut self.world);
        // A removal that was asked for before may come through only now, and leave too few.
        let is_stuck = |living: &Living| living.troubles.quorum_is_gone(&living.world);
        let whole = self.wait_for(HEALING_LIMIT, |living| is_stuck(living) || living.is_whole());
        if self.failed() {
            return;
        }
        if is_stuck(self) {
            self.world.totals.stuck += 1;
            let until = self.world.now() + 10 * SECOND;
            return self.run_until(until);
        }
        if !whole {
            let what = format!("not whole {} s after everything healed: {}", HEALING_LIMIT / SECOND, self.describe());
            return self.world.checks.must("what healed goes on", Err(what));
        }
        self.write_everywhere();
        let over = self.wait_for(CHORES_LIMIT, Living::chores_are_done);
        if !over && !self.failed() {
            let what = format!("not all {} s after the last of them: {}", CHORES_LIMIT / SECOND, self.describe());
            self.world.checks.must("leases end, and the past is compacted", Err(what));
        }
        let agreed = self.wait_for(WRITE_LIMIT, Living::all_agree);
        if !agreed && !self.failed() {
            let what = format!("no agreement {} s after the last write: {}", WRITE_LIMIT / SECOND, self.describe());
            self.world.checks.must("all members come to the same state", Err(what));
        }
        self.world.checks.all_is_known();
        if let Some(leader) = self.world.leader().filter(|_| agreed) {
            self.watchers.must_have_seen_all(&mut self.world, leader);
        }
    }

    /// No lease is left that nobody keeps alive, and no more of the past than allowed.
    fn chores_are_done(&self) -> bool {
        let Some(view) = self.world.leader().and_then(|leader| self.world.view(leader)) else { return false };
        let settings = &self.world.settings;
        let too_much = settings.compact_above_bytes > 0 && view.past_bytes() > settings.compact_above_bytes;
        let too_old = settings.compact_after_ticks > 0 && view.compacted() < view.revision();
        view.lease_count() == 0 && !too_much && !too_old
    }

    fn write_everywhere(&mut self) {
        let until = self.world.now() + WRITE_LIMIT;
        let mut missing: BTreeMap<HostNumber, Option<u64>> =
            self.members().unwrap_or_default().into_iter().map(|host| (host, None)).collect();
        while !missing.is_empty() && !self.failed() {
            // A removal whose outcome its client never learned may come through only now.
            missing.retain(|&host, _| !self.world.is_removed(host));
            for (host, asked) in missing.iter_mut().filter(|(_, asked)| asked.is_none()) {
                let value = Bytes::from(format!("last-{host}-{}", self.world.now()));
                let operations = vec![Operation::Put { key: Bytes::from_static(b"last"), value }];
                let request = Request::Write { operations, idempotency: None };
                *asked = Some(self.world.ask(*host, 10 * TICKS_PER_SECOND, request));
            }
            match self.world.step(until) {
                Some(Notable::Answered { question, answer }) => {
                    let asked = missing.iter().find(|(_, asked)| **asked == Some(question)).map(|(host, _)| *host);
                    match (asked, answer) {
                        (Some(host), Answer::Outcome(Outcome::Written { .. }, _)) => {
                            missing.remove(&host);
                        }
                        (Some(host), _) => {
                            missing.insert(host, None);
                        }
                        (None, answer) => self.answered(question, answer),
                    }
                }
                Some(Notable::Alarm(alarm)) => self.alarm(alarm),
                Some(Notable::Nothing) => {}
                None => {
                    let what = format!("no write on {:?}: {}", missing.keys(), self.describe());
                    self.world.checks.must("every member writes again", Err(what));
                }
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.clients.are_done()
            && self.actors.are_done()
            && !self.troubles.members_may_change()
            && self.members().is_some()
    }

    /// The hosts of all members, if every one of them is up, knows its leader and is a voter.
    fn members(&self) -> Option<Vec<HostNumber>> {
        let leader = self.world.leader()?;
        let configuration = &self.world.node(leader)?.status().configuration;
        if !configuration.voters.learners.is_empty() || configuration.voters.is_joint() {
            return None;
        }
        let ids = configuration.members.keys();
        ids.map(|&id| {
            self.world.host_of(id).filter(|&host| self.world.status(host).is_some_and(|s| s.leader.is_some()))
        })
        .collect()
    }

    fn all_agree(&self) -> bool {
        let Some(members) = self.members() else { return false };
        let mut states = members.iter().map(|&host| {
            let store = self.world.node(host)?.store(base::FIRST_GROUP)?;
            Some((store.applied(), store.state_hash(), store.content_hash().expect(IS_READ)))
        });
        let Some(Some(first)) = states.next() else { return false };
        first.0.index == self.world.checks.committed_to() && states.all(|state| state == Some(first))
    }

    fn describe(&self) -> String {
        let one = |host| match (self.world.node(host), self.world.is_up(host)) {
            (Some(node), _) => {
                let status = node.status();
                let applied = node.store(base::FIRST_GROUP).map_or(0, |store| store.applied().index);
                format!(
                    "h{host} is node {}, {:?} in term {} of leader {:?}, applied {applied}, {:?}{}",
                    status.node,
                    status.role,
                    status.term,
                    status.leader,
                    status.configuration.voters,
                    if status.removed.is_some() { ", removed" } else { "" }
                )
            }
            (None, true) if self.world.is_removed(host) => format!("h{host} was removed"),
            (None, true) => format!("h{host} waits to be let in"),
            (None, false) => format!("h{host} is down"),
        };
        self.world.hosts().into_iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn wait_for(&mut self, limit: Micros, is_so: impl Fn(&Living) -> bool) -> bool {
        let end = self.world.now() + limit;
        while !self.failed() {
            if is_so(self) {
                return true;
            }
            if self.world.now() >= end {
                return false;
            }
            let until = self.world.now() + SECOND / 5;
            self.run_until(until);
        }
        false
    }

    fn run_until(&mut self, until: Micros) {
        while let Some(notable) = self.world.step(until) {
            self.troubles.look(&mut self.world);
            match notable {
                Notable::Nothing => {}
                Notable::Alarm(alarm) => self.alarm(alarm),
                Notable::Answered { question, answer } => self.answered(question, answer),
            }
            if self.failed() {
                return;
            }
        }
    }

    fn alarm(&mut self, alarm: u64) {
        match alarm {
            DISK_ALARM.. => self.troubles.alarm(&mut self.world, alarm),
            GIVE_UP.. => {
                self.clients.give_up(&mut self.world, alarm - GIVE_UP);
                self.actors.give_up(&mut self.world, alarm - GIVE_UP);
            }
            WATCHER.. => self.watchers.wake(&mut self.world, (alarm - WATCHER) as usize),
            ACTOR.. => self.actors.wake(&mut self.world, (alarm - ACTOR) as usize),
            CLIENT.. => self.clients.wake(&mut self.world, (alarm - CLIENT) as usize),
            _ => self.troubles.alarm(&mut self.world, alarm),
        }
    }

    fn answered(&mut self, question: u64, answer: Answer) {
        if !self.troubles.answered(&mut self.world, question, &answer) {
            self.clients.answered(&mut self.world, question, answer.clone());
            self.actors.answered(&mut self.world, question, answer);
        }
    }
}
