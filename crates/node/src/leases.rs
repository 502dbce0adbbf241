//! How much of its time each lease has left, by this replica's own measure.
//!
//! Time is not replicated. Every replica begins to count when it applies the entry that granted a lease or kept it alive,
//! so whoever leads next has counted all along, and nothing is cut short: an entry is applied after it was proposed, and so
//! after whoever asked for it began to count. A replica that starts, or installs a checkpoint, gives all leases their whole
//! time again.
//!
//! When a lease's time is over, the leader proposes to end it, and says which entry it counted from. If a keep-alive came in
//! between, that one is newer, and the store leaves the lease alone.
//!
//! Not handled: clocks. Ticks are all the time there is, so a node whose ticks come too fast ends leases early.

use crate::TICKS_PER_SECOND;
use base::Index;
use kv::{Action, Answer, Expired, Lease, Store};
use std::collections::{BTreeMap, BTreeSet};
use storage::StorageError;

/// Leases that one proposal ends, …
const MOST_AT_ONCE: usize = 256;
/// … and proposals of a tick.
const MOST_PROPOSALS: usize = 4;
/// An end that was proposed and did not come is proposed again after this long.
const RETRY_TICKS: u64 = 20;
/// The tick during which the count began was not whole, and a tick that comes late may be followed by the next too soon.
const SPARE_TICKS: u64 = 2;

#[derive(Default)]
pub(crate) struct Leases {
    running: BTreeMap<u64, Running>,
    /// When to look at which lease: at its end, or later, if its end was proposed.
    agenda: BTreeSet<(u64, u64)>,
}

struct Running {
    since: Index,
    ends: u64,
    /// Where it is on the agenda.
    look: u64,
}

impl Leases {
    /// Nothing is known of how long the leases of this store have run: they have their whole time from now on.
    pub(crate) fn begin(store: &Store, now: u64) -> Result<Leases, StorageError> {
        let mut leases = Leases::default();
        for lease in store.view().leases(0) {
            leases.count(lease?, now);
        }
        Ok(leases)
    }

    /// The action was applied, and answered so.
    pub(crate) fn applied(
        &mut self,
        action: &Action,
        answer: &Answer,
        store: &Store,
        now: u64,
    ) -> Result<(), StorageError> {
        match action {
            Action::Grant { .. } => match answer {
                Answer::Granted { lease, .. } => self.look_at([*lease], store, now),
                _ => Ok(()),
            },
            Action::KeepAlive { lease } | Action::Revoke { lease } => self.look_at([*lease], store, now),
            Action::Expire { leases } => self.look_at(leases.iter().map(|expired| expired.lease), store, now),
            Action::Compact { .. } | Action::Transaction(_) => Ok(()),
        }
    }

    /// A copy of a request changes nothing, so it is the store that knows what came of it.
    fn look_at(&mut self, ids: impl IntoIterator<Item = u64>, store: &Store, now: u64) -> Result<(), StorageError> {
        let view = store.view();
        for id in ids {
            match view.lease(id)? {
                Some(lease) if self.running.get(&id).is_some_and(|running| running.since == lease.since) => {}
                Some(lease) => self.count(lease, now),
                None => self.forget(id),
            }
        }
        Ok(())
    }

    fn count(&mut self, lease: Lease, now: u64) {
        self.forget(lease.id);
        let ticks = lease.ttl_seconds.saturating_mul(TICKS_PER_SECOND);
        let ends = now.saturating_add(ticks).saturating_add(SPARE_TICKS);
        self.running.insert(lease.id, Running { since: lease.since, ends, look: ends });
        self.agenda.insert((ends, lease.id));
    }

    fn forget(&mut self, id: u64) {
        if let Some(running) = self.running.remove(&id) {
            self.agenda.remove(&(running.look, id));
        }
    }

    /// As leader: what to propose to end, in some proposals.
    pub(crate) fn due(&mut self, now: u64) -> Vec<Vec<Expired>> {
        let mut proposals: Vec<Vec<Expired>> = Vec::new();
        while let Some(&(look, id)) = self.agenda.first()
            && look <= now
        {
            self.agenda.pop_first();
            let running = self.running.get_mut(&id).expect("what is on the agenda runs");
            running.look = now + RETRY_TICKS;
            self.agenda.insert((running.look, id));
            let expired = Expired { lease: id, since: running.since };
            match proposals.last_mut().filter(|last| last.len() < MOST_AT_ONCE) {
                Some(last) => last.push(expired),
                None => proposals.push(vec![expired]),
            }
            if proposals.len() == MOST_PROPOSALS && proposals[MOST_PROPOSALS - 1].len() == MOST_AT_ONCE {
                break;
            }
        }
        proposals
    }

    /// `None`: there is no such lease.
    pub(crate) fn remaining_ms(&self, id: u64, now: u64) -> Option<u64> {
        let ticks = self.running.get(&id)?.ends.saturating_sub(SPARE_TICKS).saturating_sub(now);
        Some(ticks.saturating_mul(1_000 / TICKS_PER_SECOND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Position;
    use kv::Command;

    struct World {
        store: Store,
        leases: Leases,
        now: u64,
    }

    impl World {
        fn new() -> World {
            World { store: Store::in_memory(), leases: Leases::default(), now: 0 }
        }

        fn apply(&mut self, action: Action) -> Answer {
            let position = Position { index: self.store.applied().index + 1, term: 1 };
            let command = Command::Act { request: None, accepted_ms: 0, idempotency: None, action: action.clone() };
            let answer = self.store.apply(position, &command).unwrap();
            self.leases.applied(&action, &answer, &self.store, self.now).unwrap();
            answer
        }

        fn grant(&mut self, lease: u64, ttl_seconds: u64) {
            let answer = self.apply(Action::Grant { lease, ttl_seconds });
            assert_eq!(answer, Answer::Granted { lease, ttl_seconds });
        }

        /// The first tick at which something is due, and what.
        fn wait(&mut self) -> (u64, Vec<u64>) {
            loop {
                self.now += 1;
                let due = self.leases.due(self.now).concat();
                if !due.is_empty() {
                    return (self.now, due.into_iter().map(|expired| expired.lease).collect());
                }
            }
        }
    }

    #[test]
    fn a_lease_is_due_after_its_whole_time_and_a_keep_alive_gives_it_all_again() {
        let mut world = World::new();
        world.now = 7;
        world.grant(1, 5);
        world.grant(2, 3);
        world.now = 40;
        assert_eq!(world.leases.remaining_ms(1, 40), Some(3_350));
        world.apply(Action::KeepAlive { lease: 2 });
        assert_eq!(world.leases.remaining_ms(2, 40), Some(3_000));
        assert_eq!(world.wait(), (40 + 60 + SPARE_TICKS, vec![2]));
        assert_eq!(world.leases.remaining_ms(2, world.now), Some(0), "it is there until it is ended");
        assert_eq!(world.wait(), (7 + 100 + SPARE_TICKS, vec![1]));
        assert_eq!(world.leases.remaining_ms(3, world.now), None);
    }

    #[test]
    fn an_end_that_does_not_come_is_proposed_again() {
        let mut world = World::new();
        world.grant(1, 1);
        let first = world.wait().0;
        assert_eq!(world.wait(), (first + RETRY_TICKS, vec![1]));
        world.apply(Action::Revoke { lease: 1 });
        assert_eq!(world.leases.remaining_ms(1, world.now), None);
        assert!(world.leases.agenda.is_empty() && world.leases.running.is_empty());
    }

    /// The keep-alive was committed, but not applied yet, when the end was proposed.
    #[test]
    fn a_keep_alive_on_its_way_saves_the_lease() {
        let mut world = World::new();
        world.grant(1, 1);
        let leases = loop {
            world.now += 1;
            if let Some(due) = world.leases.due(world.now).pop() {
                break due;
            }
        };
        world.apply(Action::KeepAlive { lease: 1 });
        let kept_alive = world.now;
        world.apply(Action::Expire { leases });
        assert_eq!(world.wait(), (kept_alive + TICKS_PER_SECOND + SPARE_TICKS, vec![1]));
    }

    #[test]
    fn who_starts_from_a_checkpoint_gives_all_leases_their_whole_time() {
        let mut world = World::new();
        world.grant(1, 5);
        world.now = 90;
        world.leases = Leases::begin(&world.store, world.now).unwrap();
        assert_eq!(world.wait(), (90 + 100 + SPARE_TICKS, vec![1]));
    }

    #[test]
    fn very_many_leases_end_bit_by_bit_and_each_is_proposed_once() {
        let mut world = World::new();
        (1..=5_000).for_each(|id| world.grant(id, 1));
        let (mut seen, mut ticks) = (BTreeSet::new(), 0);
        while seen.len() < 5_000 {
            world.now += 1;
            let due = world.leases.due(world.now);
            ticks += u64::from(!due.is_empty());
            assert!(due.len() <= MOST_PROPOSALS && due.iter().all(|proposal| proposal.len() <= MOST_AT_ONCE));
            for leases in due {
                assert!(leases.iter().all(|expired| seen.insert(expired.lease)), "one is proposed twice");
                world.apply(Action::Expire { leases });
            }
        }
        assert_eq!(ticks, 5);
        assert!(world.leases.agenda.is_empty() && world.leases.running.is_empty());
    }

    #[test]
    fn the_longest_lease_there_can_be_is_counted() {
        let mut world = World::new();
        world.grant(1, kv::MAX_TTL_SECONDS);
        assert_eq!(world.leases.remaining_ms(1, world.now), Some(kv::MAX_TTL_SECONDS * 1_000));
    }
}
