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
    entries: VecDeque<Entry>,
    size_bytes: usize,
    initial: (HardState, ConfState),
    checkpoint: Option<(Position, Voters)>,
    checkpoint_wanted: Cell<bool>,
}

impl EntryCache {
    pub(crate) fn new(before: Position, entries: Vec<Entry>, hard_state: HardState, voters: &Voters) -> EntryCache {
        let mut cache = EntryCache {
            before,
            entries: VecDeque::new(),
            size_bytes: 0,
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
            let gone = self.entries.pop_back().expect("last() >= first.index > before.index");
            self.size_bytes -= size_bytes(&gone);
        }
        for entry in entries {
            self.size_bytes += size_bytes(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Forgets everything: a snapshot at that position was installed.
    pub(crate) fn reset(&mut self, position: Position) {
        self.entries.clear();
        self.size_bytes = 0;
        self.before = position;
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn forget_to(&mut self, index: Index) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.forget_first();
        }
    }

    /// Forgets old entries up to `index` until at most `limit_bytes` are kept.
    pub(crate) fn shrink(&mut self, index: Index, limit_bytes: usize) {
        while self.size_bytes > limit_bytes && self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(gone) = self.entries.pop_front() {
            self.size_bytes -= size_bytes(&gone);
            self.before = Position { index: gone.index, term: gone.term };
        }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
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
        self.entries.get(at as usize).map(|entry| entry.term)
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
        let fitting = self.entries.range(first..(high - self.before.index - 1) as usize).take_while(|entry| {
            let before = size;
            size += size_bytes(entry) as u64;
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

fn size_bytes(entry: &Entry) -> usize {
    // What an entry costs in memory beside its data, roughly.
    entry.data.len() + entry.context.len() + std::mem::size_of::<Entry>()
}
