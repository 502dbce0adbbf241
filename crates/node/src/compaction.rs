//! When the past is compacted: what is older than a certain time, and what is more than certain bytes.
//!
//! Every replica remembers which revision was the newest at some moments, so that whichever comes to lead knows what is
//! old; the leader then proposes it. A replica that was just started, or was behind, takes revisions for younger than they
//! are, and compacts them later, never earlier.
//!
//! Not handled: watches and pages that still want what is compacted. They are told so.

use kv::View;
use std::collections::VecDeque;
use storage::StorageError;

/// How many moments are remembered, over the time that the past is kept.
const MOMENTS: u64 = 60;
/// Whether something is to be compacted is looked at once in so many ticks.
const LOOK_TICKS: u64 = 20;
/// A proposal of which nothing came in this time is made again.
const RETRY_TICKS: u64 = 100;

pub(crate) struct Compaction {
    /// 0: never because of age.
    after_ticks: u64,
    /// 0: never because of size.
    above_bytes: u64,
    /// Since when which revision was the newest, oldest first. At most one is older than `after_ticks`.
    moments: VecDeque<Moment>,
    proposed: Option<Moment>,
}

#[derive(Clone, Copy)]
struct Moment {
    at: u64,
    revision: u64,
}

impl Compaction {
    pub(crate) fn new(after_ticks: u64, above_bytes: u64) -> Compaction {
        Compaction { after_ticks, above_bytes, moments: VecDeque::new(), proposed: None }
    }

    /// A tick has passed, and that is the newest revision here.
    pub(crate) fn tick(&mut self, now: u64, revision: u64) {
        if self.after_ticks == 0 {
            return;
        }
        let is_new = self.moments.back().is_none_or(|last| last.revision < revision);
        if is_new && now.is_multiple_of((self.after_ticks / MOMENTS).max(1)) {
            self.moments.push_back(Moment { at: now, revision });
        }
        while self.moments.get(1).is_some_and(|second| second.at + self.after_ticks <= now) {
            self.moments.pop_front();
        }
    }

    /// As leader: the revision that is to be the oldest from now on. Once it was given, it counts as proposed.
    pub(crate) fn due(&mut self, now: u64, view: impl FnOnce() -> View) -> Result<Option<u64>, StorageError> {
        if !now.is_multiple_of(LOOK_TICKS) || (self.after_ticks == 0 && self.above_bytes == 0) {
            return Ok(None);
        }
        let view = view();
        if self.proposed.is_some_and(|p| view.compacted() < p.revision && now < p.at + RETRY_TICKS) {
            return Ok(None);
        }
        self.proposed = None;
        let old = self.moments.front().filter(|moment| moment.at + self.after_ticks <= now);
        let old = old.map_or(0, |moment| moment.revision);
        // Below the limit by some, so that it takes a while until it is reached again.
        let is_large = self.above_bytes > 0 && view.past_bytes() > self.above_bytes;
        let large = if is_large { view.oldest_within(self.above_bytes / 4 * 3)? } else { 0 };
        let revision = old.max(large).min(view.revision());
        if revision <= view.compacted() {
            return Ok(None);
        }
        self.proposed = Some(Moment { at: now, revision });
        Ok(Some(revision))
    }

    /// What was proposed may be lost.
    pub(crate) fn restart(&mut self) {
        self.proposed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Position;
    use kv::{Action, Command, Operation, RequestId, SessionId, Store};

    const SESSION: SessionId = SessionId { node: 1, boot: 1 };

    /// With so many revisions of one key.
    fn store(revisions: u64) -> Store {
        let mut store = Store::in_memory();
        store.apply(Position { index: 1, term: 1 }, &Command::Register { session: SESSION }).unwrap();
        write(&mut store, revisions);
        store
    }

    fn write(store: &mut Store, revisions: u64) {
        for _ in 0..revisions {
            let number = store.revision() + 1;
            let request = RequestId { session: SESSION, number, low_water: number };
            let operations = vec![Operation::Put { key: "k".into(), value: "v".into() }];
            let position = Position { index: store.applied().index + 1, term: 1 };
            store.apply(position, &Command::Write { request, accepted_ms: 0, idempotency: None, operations }).unwrap();
        }
    }

    fn compact(store: &mut Store, revision: u64) {
        let position = Position { index: store.applied().index + 1, term: 1 };
        let action = Action::Compact { revision };
        store.apply(position, &Command::Act { request: None, accepted_ms: 0, idempotency: None, action }).unwrap();
        assert_eq!(store.view().compacted(), revision);
    }

    fn run(compaction: &mut Compaction, store: &Store, ticks: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        let mut due = Vec::new();
        for now in ticks {
            compaction.tick(now, store.revision());
            due.extend(compaction.due(now, || store.view()).unwrap().map(|revision| (now, revision)));
        }
        due
    }

    #[test]
    fn what_was_the_newest_long_ago_is_compacted_and_nothing_younger() {
        let mut compaction = Compaction::new(1_200, 0);
        let mut store = store(3);
        assert_eq!(run(&mut compaction, &store, 1..600), []);
        write(&mut store, 4);
        // Revision 3 was the newest when the clock began, and 7 is since tick 600.
        assert_eq!(run(&mut compaction, &store, 600..1_300), [(1_220, 3)]);
        compact(&mut store, 3);
        assert_eq!(
            run(&mut compaction, &store, 1_300..3_000),
            (18..30).map(|n| (100 * n, 7)).collect::<Vec<_>>(),
            "and again, as nothing comes of it"
        );
        compact(&mut store, 7);
        assert_eq!(run(&mut compaction, &store, 3_000..9_000), [], "nothing is new");
    }

    #[test]
    fn few_moments_are_remembered() {
        let mut compaction = Compaction::new(1_200, 0);
        let mut store = store(0);
        for now in 1..5_000 {
            write(&mut store, 1);
            compaction.tick(now, store.revision());
            assert!(compaction.moments.len() as u64 <= MOMENTS + 2);
        }
        let oldest = compaction.moments[0];
        assert!(oldest.at + 1_200 <= 5_000 && oldest.at + 1_240 > 5_000, "{}", oldest.at);
    }

    #[test]
    fn more_past_than_allowed_is_compacted_to_three_quarters() {
        let mut compaction = Compaction::new(0, 10_000);
        let mut store = store(50);
        assert!(store.view().past_bytes() < 10_000);
        assert_eq!(run(&mut compaction, &store, 1..100), []);
        write(&mut store, 30);
        let past_bytes = store.view().past_bytes();
        assert!(past_bytes > 10_000);
        let due = run(&mut compaction, &store, 100..140);
        assert_eq!(due.len(), 1, "once while it is under way: {due:?}");
        compact(&mut store, due[0].1);
        let left = store.view().past_bytes();
        assert!((7_200..=7_500).contains(&left), "{left} of {past_bytes} bytes are left");
        assert_eq!(run(&mut compaction, &store, 140..1_000), []);
    }

    #[test]
    fn what_was_lost_with_the_leader_is_proposed_again_at_once() {
        let mut compaction = Compaction::new(0, 1_000);
        let store = store(50);
        assert_eq!(run(&mut compaction, &store, 1..60).len(), 1);
        compaction.restart();
        assert_eq!(run(&mut compaction, &store, 60..100).len(), 1);
    }

    #[test]
    fn nothing_is_compacted_when_both_are_off() {
        assert_eq!(run(&mut Compaction::new(0, 0), &store(100), 1..10_000), []);
    }
}
