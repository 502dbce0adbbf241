//! Tells the person who runs the node why nothing works, once, and that it works again, once.
//!
//! Two things are told: that this node leads no longer because no majority of the voters answers it, and that no leader
//! is known for longer than two elections take. Both name the voters that are silent. Whom the node hears is counted by
//! the messages that came: a connection may stand for long after the machine at its other end is gone. Voters hear of
//! each other only while there is no leader, by its heartbeats else.
//!
//! Not handled: a cluster that stops and goes on every few seconds is told about each time.

use crate::TICKS_PER_SECOND;
use crate::event::Notice;
use crate::membership::{Configuration, Member};
use base::{NodeId, Term};
use consensus::Group;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Watch {
    me: NodeId,
    election_ticks: u64,
    /// When each was last heard.
    heard: BTreeMap<NodeId, u64>,
    /// The term that this node led at the last look.
    led: Option<Term>,
    leader_lost: Option<u64>,
    trouble_is_told: bool,
}

impl Watch {
    pub(crate) fn new(me: NodeId, election_ticks: u64) -> Watch {
        Watch { me, election_ticks, heard: BTreeMap::new(), led: None, leader_lost: None, trouble_is_told: false }
    }

    pub(crate) fn heard(&mut self, from: NodeId, now: u64) {
        self.heard.insert(from, now);
    }

    /// Once a tick.
    pub(crate) fn look(&mut self, now: u64, group: &Group, configuration: &Configuration) -> Option<Notice> {
        let led = std::mem::replace(&mut self.led, group.is_leader().then(|| group.term()));
        if let Some(leader) = group.leader() {
            self.leader_lost = None;
            // A leader that has not committed anything in its term may still be without a majority.
            let works = !group.is_leader() || group.can_read();
            return (works && std::mem::take(&mut self.trouble_is_told))
                .then(|| self.works_again(leader, configuration));
        }
        let lost = *self.leader_lost.get_or_insert(now);
        // Without a majority it steps down in its term; else because of a higher one.
        let deposed = led == Some(group.term());
        let waits = now - lost >= 4 * self.election_ticks;
        if self.trouble_is_told || !(deposed || waits) || configuration.voters.voters.is_empty() {
            return None;
        }
        self.trouble_is_told = true;
        let why = match deposed {
            true => self.no_longer_leads(now, configuration),
            false => self.no_leader(now, now - lost, configuration),
        };
        Some(Notice::Trouble(format!("{why}, writes and linearizable reads wait, and fail at their time limit")))
    }

    fn no_longer_leads(&self, now: u64, configuration: &Configuration) -> String {
        let hears = self.hearing(now, self.election_ticks, configuration).in_words(configuration);
        format!(
            "this node leads no longer, for no majority of the voters answers it: it {hears}; until a majority is back"
        )
    }

    fn no_leader(&self, now: u64, ticks: u64, configuration: &Configuration) -> String {
        let seconds = ticks as f64 / TICKS_PER_SECOND as f64;
        if !configuration.is_voter(self.me) {
            return format!(
                "no leader was heard for {seconds:.1} s, and this node has no vote to elect one; until one is heard"
            );
        }
        // Whoever stands for election asks the others at least so often.
        let hearing = self.hearing(now, 2 * self.election_ticks, configuration);
        let hears = hearing.in_words(configuration);
        match hearing.is_majority {
            true => format!("no leader was elected for {seconds:.1} s, though this node {hears}; until one is"),
            false => format!("no leader is known for {seconds:.1} s: this node {hears}; until a majority is back"),
        }
    }

    fn works_again(&self, leader: NodeId, configuration: &Configuration) -> Notice {
        let leader = match configuration.members.get(&leader) {
            Some(_) if leader == self.me => "this node".to_owned(),
            Some(member) => member.to_string(),
            None => format!("node {leader}"),
        };
        Notice::Mended(format!("{leader} leads: writes and linearizable reads go on"))
    }

    /// Which voters were heard within that time.
    fn hearing(&self, now: u64, ticks: u64, configuration: &Configuration) -> Hearing {
        let is_heard = |id: &NodeId| *id == self.me || self.heard.get(id).is_some_and(|&heard| heard + ticks > now);
        let halves = [&configuration.voters.voters, &configuration.voters.voters_outgoing];
        let voters: BTreeSet<NodeId> = halves.into_iter().flatten().copied().collect();
        Hearing {
            voters: voters.len(),
            silent: voters.into_iter().filter(|id| !is_heard(id)).collect(),
            is_majority: configuration.voters.is_majority(|id| is_heard(&id)),
        }
    }
}

struct Hearing {
    voters: usize,
    silent: Vec<NodeId>,
    is_majority: bool,
}

impl Hearing {
    fn in_words(&self, configuration: &Configuration) -> String {
        let name = |id: &NodeId| configuration.members.get(id).map_or_else(|| format!("node {id}"), Member::to_string);
        let heard = format!("hears {} of {} voters, itself included", self.voters - self.silent.len(), self.voters);
        match self.silent.iter().map(name).collect::<Vec<_>>() {
            silent if silent.is_empty() => heard,
            silent => format!("{heard}, and nothing of {}", silent.join(" and ")),
        }
    }
}
