//! The state at one moment, readable from any thread while the store moves on, and from there the states before it.
//!
//! A view keeps what it sees in memory, one version of each key, so it should not be held for long without need.

use crate::history::{Changed, Entries};
use crate::keys::{DATA_END, IDEMPOTENCY_END, Key};
use crate::range::{KeyEnd, KeyRange, MAX_PAGE_BYTES, Query};
use crate::record;
use base::{Index, Position};
use bytes::Bytes;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use storage::StorageError;
use storage::engine::{self, AnyView, View as _};

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
    pub(crate) engine: AnyView,
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
    /// The limit left something out, or the page was [full](crate::MAX_PAGE_BYTES).
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

/// Why a revision was not read.
#[derive(Debug)]
pub enum ReadError {
    OutOfReach(OutOfReach),
    /// The state on disk is damaged, or can't be read.
    Storage(StorageError),
}

impl View {
    pub(crate) fn new(engine: AnyView, head: Head, tail: Entries) -> View {
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
    pub fn oldest_within(&self, past_bytes: u64) -> Result<u64, StorageError> {
        let wanted = self.state.head.past_bytes.saturating_sub(past_bytes);
        let (mut low, mut high) = (self.state.head.compacted.revision, self.state.head.revision);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.past_bytes >= wanted {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// All keys as they were when that revision was the newest.
    pub fn at(&self, revision: u64) -> Result<Picture, ReadError> {
        self.check_reach(revision)?;
        if revision == self.state.head.revision {
            return Ok(self.state.now.clone());
        }
        // A view that is older than a compaction can still ask for what is gone.
        let gone = OutOfReach::Compacted { revision, oldest: revision + 1 };
        let engine = self.state.now.engine.at(self.entry(revision)?.index).ok_or(gone)?;
        Ok(Picture { engine, revision })
    }

    fn check_reach(&self, revision: u64) -> Result<(), OutOfReach> {
        let oldest = self.compacted();
        if revision < oldest {
            return Err(OutOfReach::Compacted { revision, oldest });
        }
        if revision > self.state.head.revision {
            return Err(OutOfReach::Future { revision, newest: self.state.head.revision });
        }
        Ok(())
    }

    /// What is said of a revision that is in reach.
    pub(crate) fn entry(&self, revision: u64) -> Result<Changed, StorageError> {
        let Compacted { revision: oldest, index, past_bytes } = self.state.head.compacted;
        if revision == oldest {
            return Ok(Changed { revision, index, past_bytes, keys: 0 });
        }
        let home = Key::Changes { first: revision, part: 0 };
        let found = self.entries(revision)?.find(revision).map_err(|malformed| home.damaged(malformed))?;
        found.ok_or_else(|| home.damaged("the revision has no entry"))
    }

    /// What is said of some revisions, that one among them.
    pub(crate) fn entries(&self, revision: u64) -> Result<Entries, StorageError> {
        let Some(first) = self.block_of(revision)? else { return Ok(self.state.tail.clone()) };
        let home = Key::Changes { first, part: 0 };
        let block = self.state.now.engine.get(home.encode().as_slice())?;
        let block = block.ok_or_else(|| home.damaged("the block's first part is missing"))?;
        let (_, entries) = Entries::of_block(first, block).map_err(|malformed| home.damaged(malformed))?;
        Ok(entries)
    }

    /// The first revision of the block that this one is in; `None` if it is in the tail.
    pub(crate) fn block_of(&self, revision: u64) -> Result<Option<u64>, StorageError> {
        if revision >= self.state.tail.first() {
            return Ok(None);
        }
        let after = Key::Changes { first: revision, part: 1 }.encode();
        let row = self.state.now.engine.range(IDEMPOTENCY_END, Some(after.as_slice())).next_back().transpose()?;
        match row.as_ref().map(|(home, _)| Key::decode(home)) {
            Some(Some(Key::Changes { first, .. })) => Ok(Some(first)),
            Some(_) | None => Err(Key::Changes { first: revision, part: 0 }.damaged("the revision's block is missing")),
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

    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StorageError> {
        row(&self.engine, key)
    }

    /// Every key from `from` on and before `to` (`None`: to the last), in order, or backwards by `rev()`.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_> {
        let from = Key::Data(from).encode();
        let to = to.map(|to| Key::Data(to).encode());
        let to = to.as_ref().map_or(DATA_END, engine::Key::as_slice);
        Range { rows: self.engine.range(from.as_slice(), Some(to)) }
    }

    /// How many of these keys there are.
    pub fn count(&self, keys: &KeyRange) -> Result<u64, StorageError> {
        let Bounds { from, to } = Bounds::of(keys);
        self.engine.count(from.as_slice(), Some(to.as_ref().map_or(DATA_END, engine::Key::as_slice)))
    }

    pub fn query(&self, query: &Query) -> Result<Page, StorageError> {
        let count = query.count.then(|| self.count(&query.keys)).transpose()?;
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
        let (rows, more) = if query.descending { take(rows.rev(), query) } else { take(rows, query) }?;
        Ok(Page { rows, more, count })
    }

    fn query_one(&self, query: &Query, count: Option<u64>) -> Result<Page, StorageError> {
        let key = &query.keys.start;
        let on_this_page = match &query.after {
            Some(after) if query.descending => key < after,
            Some(after) => key > after,
            None => true,
        };
        let found = self.get(key)?.filter(|_| on_this_page).map(|found| Ok((key.clone(), found)));
        let (rows, more) = take(found.into_iter(), query)?;
        Ok(Page { rows, more, count })
    }
}

type Row = (Bytes, KeyValue);

fn take(
    mut rows: impl Iterator<Item = Result<Row, StorageError>>,
    query: &Query,
) -> Result<(Vec<Row>, bool), StorageError> {
    let limit = query.limit.unwrap_or(u64::MAX);
    let (mut taken, mut room_bytes) = (Vec::new(), MAX_PAGE_BYTES);
    while (taken.len() as u64) < limit && room_bytes > 0 {
        let Some(row) = rows.next() else { return Ok((taken, false)) };
        let (key, mut found) = row?;
        if query.keys_only {
            found.value = Bytes::new();
        }
        room_bytes = room_bytes.saturating_sub(key.len() + found.value.len());
        taken.push((key, found));
    }
    let more = rows.next().transpose()?.is_some();
    Ok((taken, more))
}

/// What is there under a user's key.
pub(crate) fn row(engine: &AnyView, key: &[u8]) -> Result<Option<KeyValue>, StorageError> {
    let record = engine.get(Key::Data(key).encode().as_slice())?;
    record.map(|record| KeyValue::from_record(key, record)).transpose()
}

/// All rows of a range, in order.
pub(crate) fn rows<'a>(engine: &'a AnyView, keys: &KeyRange) -> Range<'a> {
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
    rows: <AnyView as engine::View>::Range<'a>,
}

impl Iterator for Range<'_> {
    type Item = Result<Row, StorageError>;

    fn next(&mut self) -> Option<Result<Row, StorageError>> {
        self.rows.next().map(|row| from_row(row?))
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Result<Row, StorageError>> {
        self.rows.next_back().map(|row| from_row(row?))
    }
}

impl KeyValue {
    pub(crate) fn from_record(key: &[u8], record: Bytes) -> Result<KeyValue, StorageError> {
        let (meta, value) = record::decode(record).map_err(|malformed| Key::Data(key).damaged(malformed))?;
        let record::Meta { create_revision, mod_revision, version, lease } = meta;
        Ok(KeyValue { value, create_revision, mod_revision, version, lease })
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

impl ReadError {
    /// `None`: something else is wrong.
    pub fn out_of_reach(&self) -> Option<OutOfReach> {
        match self {
            ReadError::OutOfReach(error) => Some(*error),
            ReadError::Storage(_) => None,
        }
    }
}

impl From<OutOfReach> for ReadError {
    fn from(error: OutOfReach) -> ReadError {
        ReadError::OutOfReach(error)
    }
}

impl From<StorageError> for ReadError {
    fn from(error: StorageError) -> ReadError {
        ReadError::Storage(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::OutOfReach(error) => error.fmt(f),
            ReadError::Storage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}

fn from_row((home, record): (Bytes, Bytes)) -> Result<Row, StorageError> {
    // Behind the byte that says what kind of key it is.
    let key = home.slice(1..);
    let found = KeyValue::from_record(&key, record)?;
    Ok((key, found))
}
