//! The newest revisions, in memory, for all who watch. Bounded by their number and by what they take.

use bytes::Bytes;
use kv::{Change, KeyValue, Revision};
use std::collections::VecDeque;
use std::sync::Arc;

/// Holds revisions without a gap, up to the one before [`Ring::next`].
#[derive(Default)]
pub struct Ring {
    revisions: VecDeque<Arc<Revision>>,
    bytes: usize,
    /// 0: it was never filled.
    next: u64,
    /// From this revision on it is known what was there before; `None`: of none.
    previous_since: Option<u64>,
}

/// Where a cursor is.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// In the ring: these revisions are next.
    Here(Vec<Arc<Revision>>),
    /// Ahead of everything that there is.
    Ahead,
    /// It has to be read from history, up to the revision before this one.
    Behind(u64),
}

pub const MAX_REVISIONS: usize = 65_536;
pub const MAX_BYTES: usize = 8 << 20;

impl Ring {
    /// The revision to be pushed next, if `newest` is the newest that there is. What could not stay anyway, and what came
    /// before the ring was filled, is left out. `previous`: whether it will be known what was there before.
    pub fn go_on(&mut self, newest: u64, previous: bool) -> u64 {
        if self.next == 0 {
            self.skip_to(newest + 1);
        } else if newest.saturating_sub(self.next) >= MAX_REVISIONS as u64 {
            self.skip_to(newest + 1 - MAX_REVISIONS as u64);
        }
        if !previous {
            self.previous_since = None;
        } else if self.previous_since.is_none() {
            self.previous_since = Some(self.next);
        }
        self.next
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of everything, and goes on there.
    pub fn skip_to(&mut self, next: u64) {
        self.revisions.clear();
        self.bytes = 0;
        self.next = next;
    }

    /// The newest always stays, however large it is.
    pub fn push(&mut self, mut revision: Revision) {
        assert_eq!(revision.revision, self.next, "the ring has no gaps");
        revision.changes.iter_mut().for_each(own);
        self.next += 1;
        self.bytes += weight(&revision);
        self.revisions.push_back(Arc::new(revision));
        while self.revisions.len() > MAX_REVISIONS || (self.bytes > MAX_BYTES && self.revisions.len() > 1) {
            self.bytes -= self.revisions.pop_front().map_or(0, |oldest| weight(&oldest));
        }
    }

    /// What is next for a cursor, and no more than so many.
    pub fn from(&self, cursor: u64, previous: bool, max: usize) -> Found {
        if cursor >= self.next && self.next > 0 {
            return Found::Ahead;
        }
        let mut first = self.next - self.revisions.len() as u64;
        if previous {
            first = first.max(self.previous_since.unwrap_or(self.next));
        }
        if cursor < first || self.next == 0 {
            return Found::Behind(first);
        }
        let at = self.revisions.len() - (self.next - cursor) as usize;
        Found::Here(self.revisions.range(at..).take(max).cloned().collect())
    }
}

/// What is small lies in one large piece of memory with much else, which it would keep in memory when the store has no
/// more use for it.
fn own(change: &mut Change) {
    let values = [&mut change.now, &mut change.previous].into_iter().flatten().map(|found| &mut found.value);
    for bytes in values.chain([&mut change.key]).filter(|bytes| bytes.len() < SHARED_FROM_BYTES) {
        *bytes = Bytes::copy_from_slice(bytes);
    }
}

/// Values as large as this lie in memory of their own, and are shared with the store as long as that has them.
const SHARED_FROM_BYTES: usize = 16 << 10;

/// About how many bytes of memory it takes.
fn weight(revision: &Revision) -> usize {
    let value = |found: &Option<KeyValue>| found.as_ref().map_or(0, |found| found.value.len());
    let change =
        |change: &Change| size_of::<Change>() + change.key.len() + value(&change.now) + value(&change.previous);
    REVISION_BYTES + revision.changes.iter().map(change).sum::<usize>()
}

/// A revision without its changes, with its counters and its place.
const REVISION_BYTES: usize = size_of::<Revision>() + 24;
