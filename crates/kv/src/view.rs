//! The state at one moment, readable from any thread while the store moves on, and from there the states before it.
//!
//! A view keeps what it sees in memory, one version of each key, so it should not be held for long without need.

use crate::history::{Changed, Entries};
use crate::keys::{DATA_END, IDEMPOTENCY_END, Key};
use crate::range::{KeyEnd, KeyRange, Query};
use crate::record;
use base::{Index, Position};
use bytes::Bytes;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use storage::engine::{self, MemoryView, View as _};

/// The newest state of a store at the moment it was taken. Reads as the [`Picture`] of its revision.
#[derive(Clone)]
pub struct View {
    state: Arc<State>,
}

struct State {
    now: Picture,
    head: Head,
    /// The revisions that are in no row of the engine.
    tail: Entries,
}

/// All keys as they were at one revision.
#[derive(Clone)]
pub struct Picture {
    pub(crate) engine: MemoryView,
    revision: u64,
}

/// The counters that belong to a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub applied: Position,
    pub revision: u64,
    pub keys: u64,
    pub leases: u64,
    pub state_hash: u64,
    pub accepted_ms: u64,
    /// As in the newest revision's entry.
    pub past_bytes: u64,
    pub compacted: Compacted,
}

/// The oldest revision that can be read, with what its entry says. Without any compaction: revision 0, before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compacted {
    pub revision: u64,
    pub index: Index,
    pub past_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub value: Bytes,
    /// Of the request that made the key.
    pub create_revision: u64,
    /// Of the last request that changed it.
    pub mod_revision: u64,
    /// How often it has been put since it was made.
    pub version: u64,
    /// The lease that it ends with; 0 for none.
    pub lease: u64,
}

/// What a [`Query`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub rows: Vec<(Bytes, KeyValue)>,
    /// The limit left something out.
    pub more: bool,
    pub count: Option<u64>,
}

/// A revision that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfReach {
    /// It is below the oldest that is kept.
    Compacted { revision: u64, oldest: u64 },
    /// It is still to come.
    Future { revision: u64, newest: u64 },
}

impl View {
    pub(crate) fn new(engine: MemoryView, head: Head, tail: Entries) -> View {
        View { state: Arc::new(State { now: Picture { engine, revision: head.revision }, head, tail }) }
    }

    pub(crate) fn head(&self) -> &Head {
        &self.state.head
    }

    /// The position up to which entries have been applied.
    pub fn applied(&self) -> Position {
        self.state.head.applied
    }

    /// When the last write that was applied (or refused) here had been accepted, by the wall clock of the node that was
    /// asked for it (Unix time). It may go back from one write to the next. 0: not known, or there was none.
    pub fn accepted_ms(&self) -> u64 {
        self.state.head.accepted_ms
    }

    pub fn state_hash(&self) -> u64 {
        self.state.head.state_hash
    }

    /// How many keys there are.
    pub fn len(&self) -> u64 {
        self.state.head.keys
    }

    pub fn is_empty(&self) -> bool {
        self.state.head.keys == 0
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> u64 {
        self.state.head.compacted.revision
    }

    /// About how many bytes the past takes that compaction could free.
    pub fn past_bytes(&self) -> u64 {
        self.state.head.past_bytes - self.state.head.compacted.past_bytes
    }

    /// The oldest revision down to which the past takes no more than so many bytes.
    pub fn oldest_within(&self, past_bytes: u64) -> u64 {
        let wanted = self.state.head.past_bytes.saturating_sub(past_bytes);
        let (mut low, mut high) = (self.state.head.compacted.revision, self.state.head.revision);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.changed(middle).is_ok_and(|changed| changed.past_bytes >= wanted) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// All keys as they were when that revision was the newest.
    pub fn at(&self, revision: u64) -> Result<Picture, OutOfReach> {
        let changed = self.changed(revision)?;
        if revision == self.state.head.revision {
            return Ok(self.state.now.clone());
        }
        // A view that is older than a compaction can still ask for what is gone.
        let gone = OutOfReach::Compacted { revision, oldest: revision + 1 };
        let engine = self.state.now.engine.at(changed.index).ok_or(gone)?;
        Ok(Picture { engine, revision })
    }

    pub(crate) fn changed(&self, revision: u64) -> Result<Changed, OutOfReach> {
        let Compacted { revision: oldest, index, past_bytes } = self.state.head.compacted;
        if revision < oldest {
            return Err(OutOfReach::Compacted { revision, oldest });
        }
        if revision > self.state.head.revision {
            return Err(OutOfReach::Future { revision, newest: self.state.head.revision });
        }
        if revision == oldest {
            return Ok(Changed { revision, index, past_bytes, keys: 0 });
        }
        let found = self.entries(revision).find(revision);
        Ok(found.ok().flatten().expect("every revision above the compacted has an entry"))
    }

    /// What is said of some revisions, that one among them.
    pub(crate) fn entries(&self, revision: u64) -> Entries {
        let Some(first) = self.block_of(revision) else { return self.state.tail.clone() };
        let Ok(block) = self.state.now.engine.get(Key::Changes { first, part: 0 }.encode().as_slice());
        let block = block.and_then(|block| Entries::of_block(first, block).ok());
        block.expect("the engine holds what was put into it").1
    }

    /// The first revision of the block that this one is in; `None` if it is in the tail.
    pub(crate) fn block_of(&self, revision: u64) -> Option<u64> {
        if revision >= self.state.tail.first() {
            return None;
        }
        let after = Key::Changes { first: revision, part: 1 }.encode();
        let row = self.state.now.engine.range(IDEMPOTENCY_END, Some(after.as_slice())).next_back();
        let Ok((home, _)) = row.expect("revisions that are not in the tail are in a block");
        match Key::decode(&home) {
            Some(Key::Changes { first, .. }) => Some(first),
            _ => unreachable!("between the ends of its kind"),
        }
    }
}

impl Deref for View {
    type Target = Picture;

    fn deref(&self) -> &Picture {
        &self.state.now
    }
}

impl Picture {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        let Ok(record) = self.engine.get(Key::Data(key).encode().as_slice());
        record.map(KeyValue::from_record)
    }

    /// Every key from `from` on and before `to` (`None`: to the last), in order, or backwards by `rev()`.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_> {
        let from = Key::Data(from).encode();
        let to = to.map(|to| Key::Data(to).encode());
        let to = to.as_ref().map_or(DATA_END, engine::Key::as_slice);
        Range { rows: self.engine.range(from.as_slice(), Some(to)) }
    }

    /// How many of these keys there are.
    pub fn count(&self, keys: &KeyRange) -> u64 {
        let Bounds { from, to } = Bounds::of(keys);
        let Ok(count) = self.engine.count(from.as_slice(), Some(to.as_ref().map_or(DATA_END, engine::Key::as_slice)));
        count
    }

    pub fn query(&self, query: &Query) -> Page {
        let count = query.count.then(|| self.count(&query.keys));
        if let KeyEnd::Single = query.keys.end {
            return self.query_one(query, count);
        }
        let Bounds { mut from, mut to } = Bounds::of(&query.keys);
        if let Some(after) = &query.after {
            if query.descending {
                let after = Key::Data(after).encode();
                to = Some(to.map_or(after.clone(), |to| to.min(after)));
            } else {
                from = from.max(Key::Data(&[after, &[0][..]].concat()).encode());
            }
        }
        let to = to.as_ref().map_or(DATA_END, engine::Key::as_slice);
        let rows = Range { rows: self.engine.range(from.as_slice(), Some(to)) };
        let (rows, more) = if query.descending { take(rows.rev(), query) } else { take(rows, query) };
        Page { rows, more, count }
    }

    fn query_one(&self, query: &Query, count: Option<u64>) -> Page {
        let key = &query.keys.start;
        let on_this_page = match &query.after {
            Some(after) if query.descending => key < after,
            Some(after) => key > after,
            None => true,
        };
        let found = self.get(key).filter(|_| on_this_page).map(|found| (key.clone(), found));
        let (rows, more) = take(found.into_iter(), query);
        Page { rows, more, count }
    }
}

fn take(mut rows: impl Iterator<Item = (Bytes, KeyValue)>, query: &Query) -> (Vec<(Bytes, KeyValue)>, bool) {
    let limit = query.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut taken: Vec<_> = rows.by_ref().take(limit).collect();
    if query.keys_only {
        taken.iter_mut().for_each(|(_, found)| found.value = Bytes::new());
    }
    let more = query.limit.is_some() && rows.next().is_some();
    (taken, more)
}

/// All rows of a range, in order.
pub(crate) fn rows<'a>(engine: &'a MemoryView, keys: &KeyRange) -> Range<'a> {
    let Bounds { from, to } = Bounds::of(keys);
    let to = to.as_ref().map_or(DATA_END, engine::Key::as_slice);
    Range { rows: engine.range(from.as_slice(), Some(to)) }
}

/// The engine's keys of a range.
struct Bounds {
    from: engine::Key,
    /// `None`: to the last.
    to: Option<engine::Key>,
}

impl Bounds {
    fn of(keys: &KeyRange) -> Bounds {
        let to = match &keys.end {
            KeyEnd::Single => Some(Key::Data(&[&keys.start, &[0][..]].concat()).encode()),
            KeyEnd::Before(end) => Some(Key::Data(end).encode()),
            KeyEnd::Last => None,
        };
        Bounds { from: Key::Data(&keys.start).encode(), to }
    }
}

pub struct Range<'a> {
    rows: <MemoryView as engine::View>::Range<'a>,
}

impl Iterator for Range<'_> {
    type Item = (Bytes, KeyValue);

    fn next(&mut self) -> Option<(Bytes, KeyValue)> {
        let Ok(row) = self.rows.next()?;
        Some(from_row(row))
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<(Bytes, KeyValue)> {
        let Ok(row) = self.rows.next_back()?;
        Some(from_row(row))
    }
}

impl KeyValue {
    pub(crate) fn from_record(record: Bytes) -> KeyValue {
        let (meta, value) = record::decode(record).expect("the engine holds what was put into it");
        let record::Meta { create_revision, mod_revision, version, lease } = meta;
        KeyValue { value, create_revision, mod_revision, version, lease }
    }
}

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutOfReach::Compacted { revision, oldest } => {
                write!(f, "revision {revision} has been compacted; the oldest that can be read is {oldest}")
            }
            OutOfReach::Future { revision, newest } => {
                write!(f, "revision {revision} is still to come; the newest is {newest}")
            }
        }
    }
}

impl std::error::Error for OutOfReach {}

fn from_row((key, record): (Bytes, Bytes)) -> (Bytes, KeyValue) {
    // Behind the byte that says what kind of key it is.
    (key.slice(1..), KeyValue::from_record(record))
}
