//! What was written and is in no table yet: a skip list in the engine's order, which one thread writes and all read.

use super::entry::Home;
use crate::engine::{Key, Sequence};
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an entry takes beside its key and value: the list's node, and what is counted and allocated around it.
const ENTRY_BYTES: usize = 112;

#[derive(Default)]
pub(super) struct Memtable {
    entries: SkipMap<Home, Option<Bytes>>,
    size_bytes: AtomicUsize,
}

pub(super) type MemEntry<'a> = Entry<'a, Home, Option<Bytes>>;

impl Memtable {
    /// A later change at the same sequence takes the place of an earlier one.
    pub(super) fn insert(&self, sequence: Sequence, key: Key, value: Option<Bytes>) {
        let size = ENTRY_BYTES + key.as_slice().len() + value.as_ref().map_or(0, Bytes::len);
        self.size_bytes.fetch_add(size, Ordering::Relaxed);
        self.entries.insert(Home { key, sequence }, value);
    }

    /// About how much memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// The newest version of a key that a sequence sees, if there is any here.
    pub(super) fn find(&self, wanted: &Home) -> Option<MemEntry<'_>> {
        self.at_or_behind(wanted).filter(|entry| entry.key().key == wanted.key)
    }

    pub(super) fn at_or_behind(&self, home: &Home) -> Option<MemEntry<'_>> {
        self.entries.lower_bound(Bound::Included(home))
    }

    pub(super) fn before(&self, home: &Home) -> Option<MemEntry<'_>> {
        self.entries.upper_bound(Bound::Excluded(home))
    }

    pub(super) fn last(&self) -> Option<MemEntry<'_>> {
        self.entries.back()
    }

    /// All that lies behind a place (`None`: all), in order.
    pub(super) fn behind(&self, home: Option<Home>) -> impl Iterator<Item = MemEntry<'_>> {
        let from = home.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded))
    }
}
