//! What goes wrong in a life, and when: crashes, power cuts, pauses, slow and failing disks, odd clocks, cuts of every
//! shape, and members that come and go meanwhile.
//!
//! Everything that is broken is mended after a while, but several things may be broken at once. Only a folder that is
//! wiped stays so: its machine comes back as a new member. One voter at a time, as Raft can't do without a majority of
//! what was promised to be kept.

use crate::world::DISK_ALARM;
use crate::{Answer, HostNumber, Micros, SECOND, World};
use base::NodeId;
use base::rng::Rng;
use node::{Failure, Outcome, Request, TICKS_PER_SECOND};
use std::collections::{BTreeMap, BTreeSet};

/// Alarms: the next trouble; the network heals; …
pub const TROUBLE: u64 = 1;
pub const MEND_NETWORK: u64 = 2;
/// … and from here on a host's number: it starts, …
pub const START: u64 = 1 << 20;
/// … it asks to be let in, …
pub const JOIN: u64 = 1 << 21;
/// … its clock is right again.
pub const MEND_CLOCK: u64 = 1 << 22;

pub struct Troubles {
    rng: Rng,
    most_hosts: usize,
    /// The mean time between two troubles.
    pace: Micros,
    /// Nothing but deaths, which come as fast as the returns.
    is_storm: bool,
    /// The power fails for all just when somebody was elected, half of the time: what was promised to a candidate is all
    /// that anybody's disk knows of the new term then.
    pub strikes_elections: bool,
    /// How many there were; none is struck before the troubles begin.
    elections: Option<u64>,
    happened: u64,
    cuts: u64,
    /// Hosts that ask to be let in until they are told that they are.
    joining: BTreeSet<HostNumber>,
    joins: BTreeMap<u64, HostNumber>,
    /// A removal or a transfer that is not answered yet.
    admin: Option<u64>,
    /// When the members were last to change.
    members_changed_at: u64,
    /// Members whose folder is gone.
    wiped: BTreeSet<NodeId>,
    is_over: bool,
}

impl Troubles {
    pub fn new(mut rng: Rng, most_hosts: usize) -> Troubles {
        let is_storm = rng.chance(100);
        let paces = if is_storm { [SECOND / 10, SECOND / 5, SECOND / 2] } else { [SECOND / 2, 2 * SECOND, 5 * SECOND] };
        Troubles {
            pace: *rng.pick(&paces),
            is_storm,
            strikes_elections: rng.chance(50),
            elections: None,
            rng,
            most_hosts,
            happened: 0,
            cuts: 0,
            joining: BTreeSet::new(),
            joins: BTreeMap::new(),
            admin: None,
            members_changed_at: 0,
            wiped: BTreeSet::new(),
            is_over: false,
        }
    }

    pub fn begin(&mut self, world: &mut World) {
        self.elections = Some(world.checks.elections());
        world.alarm(SECOND, TROUBLE);
    }

    /// To be asked after every step.
    pub fn look(&mut self, world: &mut World) {
        let elections = world.checks.elections();
        let is_new = self.elections.is_some_and(|seen| seen < elections);
        if is_new && self.strikes_elections && !self.is_over {
            self.elections = Some(elections);
            if self.rng.chance(500) {
                self.cut_the_power(world);
            }
        }
    }

    /// No more trouble; all that is broken is mended.
    pub fn end(&mut self, world: &mut World) {
        self.is_over = true;
        world.heal();
        for host in world.hosts() {
            world.start(host, false);
        }
    }

    /// Voters whose folder is gone are a majority, so nothing can go on.
    pub fn quorum_is_gone(&self, world: &World) -> bool {
        let voters = world.checks.model.voters();
        voters.intersection(&self.wiped).count() * 2 >= voters.len()
    }

    /// A new host, which asks to be let in.
    pub fn add(&mut self, world: &mut World) -> HostNumber {
        let host = world.add_host();
        self.start_joining(world, host);
        host
    }

    /// Somebody waits to be let in, or for the answer to a wish about members.
    pub fn members_may_change(&self) -> bool {
        !self.joining.is_empty() || self.admin.is_some()
    }

    fn start_joining(&mut self, world: &mut World, host: HostNumber) {
        self.members_changed_at = world.now();
        world.start(host, false);
        self.joining.insert(host);
        world.alarm(self.rng.below(SECOND / 10), JOIN + host as u64);
    }

    pub fn alarm(&mut self, world: &mut World, alarm: u64) {
        match alarm {
            TROUBLE if self.is_over => {}
            TROUBLE => {
                self.trouble(world);
                world.alarm(self.rng.between(self.pace / 10, 2 * self.pace), TROUBLE);
            }
            MEND_NETWORK => {
                world.network.heal();
                let now = world.now();
                world.trace.note(now, None, &[20], || "the network is whole again".into());
            }
            DISK_ALARM.. => world.alarm(self.rng.between(SECOND / 10, 3 * SECOND), START + (alarm - DISK_ALARM)),
            MEND_CLOCK.. => world.set_clock((alarm - MEND_CLOCK) as HostNumber, 100),
            JOIN.. => self.ask_to_join(world, (alarm - JOIN) as HostNumber),
            START.. => {
                let host = (alarm - START) as HostNumber;
                if self.rng.chance(50) && !self.is_over && !world.is_up(host) {
                    world.fail_the_disk(host, 12);
                }
                world.start(host, false);
            }
            _ => {}
        }
    }

    fn ask_to_join(&mut self, world: &mut World, host: HostNumber) {
        if !self.joining.contains(&host) {
            return;
        }
        // It moved, and the others were removed meanwhile: nobody is left to tell.
        if world.node_id(host).is_some_and(|id| world.checks.model.is_alone(id)) {
            self.joining.remove(&host);
            return;
        }
        let others: Vec<HostNumber> =
            world.hosts().into_iter().filter(|&other| other != host && world.node(other).is_some()).collect();
        if others.is_empty() || !world.is_up(host) {
            return world.alarm(SECOND, JOIN + host as u64);
        }
        if world.is_removed(host) {
            // It was let in and made no progress in time. It can only come back as a new one.
            world.wipe(host);
            world.start(host, false);
        }
        let member = *self.rng.pick(&others);
        let request = Request::Join { name: world.name(host), address: world.address(host), learner: false };
        let question = world.ask(member, 10 * TICKS_PER_SECOND, request);
        self.joins.insert(question, host);
        let now = world.now();
        world.trace.note(now, Some(host), &[21, member as u64], || format!("asks h{member} to let it in"));
    }

    /// True: the answer was to us.
    pub fn answered(&mut self, world: &mut World, question: u64, answer: &Answer) -> bool {
        if self.admin == Some(question) {
            self.admin = None;
            self.members_changed_at = world.now();
            self.tell(world, answer);
            return true;
        }
        let Some(host) = self.joins.remove(&question) else { return false };
        self.tell(world, answer);
        if matches!(answer, Answer::Outcome(Outcome::Done, _)) {
            self.joining.remove(&host);
            self.members_changed_at = world.now();
        } else {
            // Let in and given up again before it knew anybody who could tell it so: it does as the answer says.
            let refused = matches!(answer, Answer::Outcome(Outcome::Failed(Failure::Invalid(_)), _));
            if refused && world.node_id(host).is_some_and(|id| !world.checks.model.is_member(id)) {
                world.wipe(host);
                world.start(host, false);
            }
            world.alarm(self.rng.between(SECOND / 5, 2 * SECOND), JOIN + host as u64);
        }
        true
    }

    fn tell(&self, world: &mut World, answer: &Answer) {
        if let Answer::Outcome(outcome, _) = answer {
            let (now, line) = (world.now(), format!("the administrator hears: {outcome:?}"));
            world.trace.note(now, None, &[22], || line);
        }
    }

    fn trouble(&mut self, world: &mut World) {
        self.happened += 1;
        let hosts = world.hosts();
        let host = *self.rng.pick(&hosts);
        let leader = world.leader().unwrap_or(host);
        if self.rng.chance(100) {
            world.jump_wall_clock(*self.rng.pick(&hosts));
        }
        // Half of what happens to one happens to the leader.
        let victim = if self.rng.chance(400) { leader } else { host };
        match (self.happened, self.rng.below(100)) {
            (1, _) | (_, 0..=19) => self.crash(world, leader_first(self.happened, leader, victim)),
            (2, _) => self.cut(world, victim),
            _ if self.is_storm => self.crash(world, victim),
            (_, 20..=39) => self.cut(world, victim),
            (_, 40..=44) => self.cut_the_power(world),
            (_, 45..=54) => {
                let micros = if self.rng.chance(200) { 30 * SECOND } else { 3 * SECOND };
                world.pause(victim, self.rng.between(SECOND / 10, micros));
            }
            (_, 55..=61) => world.slow_disk(victim, self.rng.between(SECOND / 10, 8 * SECOND)),
            (_, 62..=66) => world.fail_the_disk(victim, 3),
            (_, 67..=71) => {
                let per_cent = *self.rng.pick(&[50, 75, 125, 200]);
                world.set_clock(victim, per_cent);
                world.alarm(self.rng.between(SECOND, 10 * SECOND), MEND_CLOCK + victim as u64);
            }
            (_, 72..=74) => world.drain(victim),
            (_, 75..=77) => {
                let other = *self.rng.pick(&hosts);
                world.broken_connection(victim, other, 0);
            }
            (_, 78..=84) => self.transfer(world),
            (_, 85..=88) => self.remove(world, host),
            (_, 89..=94) => self.replace(world, host),
            (_, 95..=96) => self.relocate(world, host),
            _ if hosts.len() < self.most_hosts => {
                self.add(world);
            }
            _ => {}
        }
    }

    /// Everywhere at once.
    fn cut_the_power(&mut self, world: &mut World) {
        world.totals.power_cuts += 1;
        for host in world.hosts() {
            self.crash(world, host);
        }
    }

    fn crash(&mut self, world: &mut World, host: HostNumber) {
        if world.is_up(host) {
            world.crash(host);
            let longest = match self.is_storm {
                true => SECOND / 10,
                false if self.rng.chance(700) => SECOND,
                false => 8 * SECOND,
            };
            world.alarm(self.rng.between(SECOND / 200, longest), START + host as u64);
        }
    }

    fn cut(&mut self, world: &mut World, victim: HostNumber) {
        self.cuts += 1;
        world.totals.partitions += 1;
        let hosts = world.hosts();
        let (mut left, mut right): (Vec<HostNumber>, Vec<HostNumber>) = (Vec::new(), Vec::new());
        for &host in &hosts {
            if self.rng.chance(500) { left.push(host) } else { right.push(host) }
        }
        let others: Vec<HostNumber> = hosts.iter().copied().filter(|&host| host != victim).collect();
        let both_ways = |world: &mut World, a: &[HostNumber], b: &[HostNumber]| {
            for (&a, &b) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
                world.cut(a, b);
                world.cut(b, a);
            }
        };
        match self.rng.below(6) {
            // Two halves.
            0 => both_ways(world, &left, &right),
            // One host alone, wholly or one way.
            1 => both_ways(world, &[victim], &others),
            2 => others.iter().for_each(|&other| world.cut(victim, other)),
            3 => others.iter().for_each(|&other| world.cut(other, victim)),
            // Two halves that only one host bridges.
            4 => {
                left.retain(|&host| host != victim);
                right.retain(|&host| host != victim);
                both_ways(world, &left, &right);
            }
            // One link.
            _ => {
                let other = *self.rng.pick(&others);
                both_ways(world, &[victim], &[other]);
            }
        }
        world.alarm(self.rng.between(SECOND / 2, 10 * SECOND), MEND_NETWORK);
    }

    fn transfer(&mut self, world: &mut World) {
        let hosts = world.hosts();
        let (asked, to) = (*self.rng.pick(&hosts), *self.rng.pick(&hosts));
        if self.admin.is_none() {
            world.totals.transfers += 1;
            let name = self.rng.chance(500).then(|| world.name(to));
            self.admin = Some(world.ask(asked, 5 * TICKS_PER_SECOND, Request::Transfer { name }));
        }
    }

    fn remove(&mut self, world: &mut World, host: HostNumber) {
        let asked = *self.rng.pick(&world.hosts());
        if self.admin.is_none() && !self.joining.contains(&host) && world.checks.model.voters().len() > 2 {
            self.members_changed_at = world.now();
            self.admin = Some(world.ask(asked, 10 * TICKS_PER_SECOND, Request::Remove { name: world.name(host) }));
            let now = world.now();
            world.trace.note(now, None, &[23], || format!("h{asked} is asked to remove n{host}"));
        }
    }

    /// A node comes back somewhere else, and says so. One at a time: two that moved could not find each other.
    fn relocate(&mut self, world: &mut World, host: HostNumber) {
        let is_member = world.node_id(host).is_some_and(|id| world.checks.model.voters().contains(&id));
        if is_member && self.joining.is_empty() {
            world.relocate(host);
            self.start_joining(world, host);
        }
    }

    /// A machine is replaced by another of the same name and address, with an empty disk.
    fn replace(&mut self, world: &mut World, host: HostNumber) {
        let Some(id) = world.node_id(host) else { return };
        let model = &world.checks.model;
        let was_member = model.is_member(id);
        let settled = self.admin.is_none()
            && self.joining.is_empty()
            && self.members_changed_at + 5 * SECOND < world.now()
            && !model.is_joint()
            && model.voters().len() > 2
            && model.voters().is_disjoint(&self.wiped);
        if was_member && !settled {
            return;
        }
        self.wiped.insert(id);
        world.wipe(host);
        self.start_joining(world, host);
    }
}

/// The first trouble of a life is the leader's death.
fn leader_first(happened: u64, leader: HostNumber, victim: HostNumber) -> HostNumber {
    if happened == 1 { leader } else { victim }
}
