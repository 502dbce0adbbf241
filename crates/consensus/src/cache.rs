//! The part of the log that is in memory: what `raft` reads while it runs.
//!
//! Entries are kept from some position on, up to a bound that the caller enforces with [`EntryCache::forget_to`]. A
//! follower that needs an older one gets a snapshot, if a checkpoint at or after our first entry exists; if none does,
//! the wish is noted for the caller to make one.

use base::{Index, Position};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

use crate::Voters;
use crate::wire;

pub(crate) struct EntryCache {
    /// Just before the first entry.
    before: Position,
    entries: VecDeque<Kept>,
    /// What was kept once and is forgotten.
    forgotten_bytes: u64,
    initial: (HardState, ConfState),
    checkpoint: Option<(Position, Voters)>,
    checkpoint_wanted: Cell<bool>,
}

struct Kept {
    entry: Entry,
    /// Of all that was kept so far, with it and before it.
    end_bytes: u64,
}

impl EntryCache {
    pub(crate) fn new(before: Position, entries: Vec<Entry>, hard_state: HardState, voters: &Voters) -> EntryCache {
        let mut cache = EntryCache {
            before,
            entries: VecDeque::new(),
            forgotten_bytes: 0,
            initial: (hard_state, voters.to_raft()),
            checkpoint: None,
            checkpoint_wanted: Cell::new(false),
        };
        cache.append(entries);
        cache
    }

    /// Adds entries, replacing any from the first one's index on.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.before.index, "entry {} was forgotten already", first.index);
        assert!(first.index <= self.last() + 1, "a gap before entry {}", first.index);
        while self.last() >= first.index {
            self.entries.pop_back().expect("last() >= first.index > before.index");
        }
        for entry in entries {
            let end_bytes = self.end_bytes() + size_bytes(&entry);
            self.entries.push_back(Kept { entry, end_bytes });
        }
    }

    /// Forgets everything: a snapshot at that position was installed.
    pub(crate) fn reset(&mut self, position: Position) {
        self.forgotten_bytes = self.end_bytes();
        self.entries.clear();
        self.before = position;
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn forget_to(&mut self, index: Index) {
        while self.first().is_some_and(|first| first <= index) {
            self.forget_first();
        }
    }

    /// Forgets old entries up to `index` until at most `limit_bytes` are kept.
    pub(crate) fn shrink(&mut self, index: Index, limit_bytes: usize) {
        while self.size_bytes() > limit_bytes && self.first().is_some_and(|first| first <= index) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(gone) = self.entries.pop_front() {
            self.forgotten_bytes = gone.end_bytes;
            self.before = Position { index: gone.entry.index, term: gone.entry.term };
        }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes_after(self.before.index)
    }

    /// How much comes after `index`, as far as it is kept.
    pub(crate) fn bytes_after(&self, index: Index) -> usize {
        let here = match index.checked_sub(self.before.index + 1) {
            Some(at) => self.entries.get(at as usize).map_or(self.end_bytes(), |kept| kept.end_bytes),
            None => self.forgotten_bytes,
        };
        (self.end_bytes() - here) as usize
    }

    fn end_bytes(&self) -> u64 {
        self.entries.back().map_or(self.forgotten_bytes, |kept| kept.end_bytes)
    }

    /// The newest checkpoint that can be sent.
    pub(crate) fn set_checkpoint(&mut self, position: Position, voters: Voters) {
        self.checkpoint = Some((position, voters));
    }

    /// There is none that could be sent.
    pub(crate) fn forget_checkpoint(&mut self) {
        self.checkpoint = None;
    }

    pub(crate) fn take_checkpoint_wanted(&self) -> bool {
        self.checkpoint_wanted.take()
    }

    pub(crate) fn term_at(&self, index: Index) -> Option<u64> {
        if index == self.before.index {
            return Some(self.before.term);
        }
        let at = index.checked_sub(self.before.index + 1)?;
        self.entries.get(at as usize).map(|kept| kept.entry.term)
    }

    fn first(&self) -> Option<Index> {
        self.entries.front().map(|kept| kept.entry.index)
    }

    fn last(&self) -> Index {
        self.before.index + self.entries.len() as u64
    }
}

impl Storage for EntryCache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.initial.0.clone(), self.initial.1.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entries up to {high} asked for, the last is {}", self.last());
        let limit = max_size.into().unwrap_or(u64::MAX);
        let first = (low - self.before.index - 1) as usize;
        let mut size = 0;
        // At least one, however large: else it could never be sent.
        let asked = self.entries.range(first..(high - self.before.index - 1) as usize).map(|kept| &kept.entry);
        let fitting = asked.take_while(|entry| {
            let before = size;
            size += size_bytes(entry);
            before == 0 || size <= limit
        });
        Ok(fitting.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.before.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.term_at(index).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match &self.checkpoint {
            // A replica refuses the snapshot of a time when it was not one.
            Some((position, voters))
                if position.index >= self.before.index.max(request_index) && voters.contains(to) =>
            {
                Ok(wire::snapshot(*position, voters))
            }
            _ => {
                self.checkpoint_wanted.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

fn size_bytes(entry: &Entry) -> u64 {
    // What an entry costs in memory beside its data, roughly.
    (entry.data.len() + entry.context.len() + std::mem::size_of::<Entry>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: Index, length: usize) -> Entry {
        Entry { index, term: 1, data: vec![b'v'; length].into(), ..Default::default() }
    }

    #[test]
    fn bytes_are_counted_behind_each_index() {
        let own = std::mem::size_of::<Entry>();
        let before = Position { index: 10, term: 1 };
        let entries = (11..=15).map(|index| entry(index, index as usize)).collect();
        let mut cache = EntryCache::new(before, entries, HardState::default(), &Voters::default());
        let after = |cache: &EntryCache| [0, 10, 11, 14, 15, 99].map(|index| cache.bytes_after(index));
        let all = 5 * own + 65;
        assert_eq!(after(&cache), [all, all, all - own - 11, own + 15, 0, 0]);

        cache.append(vec![entry(14, 100)]);
        let all = 4 * own + 11 + 12 + 13 + 100;
        assert_eq!(after(&cache), [all, all, all - own - 11, 0, 0, 0]);
        cache.forget_to(12);
        let rest = 2 * own + 113;
        assert_eq!(after(&cache), [rest, rest, rest, 0, 0, 0]);
        cache.append(vec![entry(13, 7)]);
        assert_eq!((cache.size_bytes(), cache.bytes_after(12), cache.bytes_after(13)), (own + 7, own + 7, 0));
        cache.reset(Position { index: 20, term: 2 });
        assert_eq!(cache.size_bytes(), 0);
        cache.append(vec![entry(21, 1), entry(22, 2)]);
        assert_eq!([20, 21, 22].map(|index| cache.bytes_after(index)), [2 * own + 3, own + 2, 0]);
    }
}
