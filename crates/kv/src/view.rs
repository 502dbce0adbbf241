//! The state at one moment, readable from any thread while the store moves on.
//!
//! A view keeps the versions of the keys that it sees in memory, so it should not be held for long without need.

use crate::keys::{DATA_END, Key};
use crate::record;
use base::Position;
use bytes::Bytes;
use storage::engine::{self, MemoryView, View as _};

#[derive(Clone)]
pub struct View {
    pub(crate) engine: MemoryView,
    pub(crate) head: Head,
}

/// The counters that belong to a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub applied: Position,
    pub revision: u64,
    pub keys: u64,
    pub state_hash: u64,
    pub accepted_ms: u64,
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
}

impl View {
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

    /// The position up to which entries have been applied.
    pub fn applied(&self) -> Position {
        self.head.applied
    }

    pub fn revision(&self) -> u64 {
        self.head.revision
    }

    /// When the last write that was applied (or refused) here had been accepted, by the wall clock of the node that was
    /// asked for it (Unix time). It may go back from one write to the next. 0: not known, or there was none.
    pub fn accepted_ms(&self) -> u64 {
        self.head.accepted_ms
    }

    pub fn state_hash(&self) -> u64 {
        self.head.state_hash
    }

    /// How many keys there are.
    pub fn len(&self) -> u64 {
        self.head.keys
    }

    pub fn is_empty(&self) -> bool {
        self.head.keys == 0
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
    fn from_record(record: Bytes) -> KeyValue {
        let (meta, value) = record::decode(record).expect("the engine holds what was put into it");
        let record::Meta { create_revision, mod_revision, version } = meta;
        KeyValue { value, create_revision, mod_revision, version }
    }
}

fn from_row((key, record): (Bytes, Bytes)) -> (Bytes, KeyValue) {
    // Behind the byte that says what kind of key it is.
    (key.slice(1..), KeyValue::from_record(record))
}
