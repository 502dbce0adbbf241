//! The whole state as a stream of bytes, and back.
//!
//! A stream is a row of records, each a varint length and then so many bytes, the first of which says what it is:
//!
//! | | record | how many |
//! |---|---|---|
//! | 1 | head: format, position, counters, configuration, members | one, first |
//! | 2 | a node's session | in the order of the nodes |
//! | 3 | a row of the engine: key, value | in the order of the keys |
//! | 4 | end: XXH3 of all bytes before this record | one, last |
//!
//! Equal states give equal bytes. Writing takes no more memory than one buffer and the largest record; reading, no
//! more than the largest record beside the store that is being made. Loading believes nothing: lengths, order, counts and revisions
//! are checked as they come, and the hash at the end, so that a store is either the one that was written or an error.
//!
//! Not handled: files, their checksums, and naming a damaged place: that is up to whoever supplies the blocks.

use crate::command::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::keys::Key;
use crate::record;
use crate::sessions::{FirstUse, Session, answered_revision};
use crate::store::{MAX_CONFIGURATION_BYTES, MAX_IDEMPOTENCY_KEYS, Store};
use crate::view::{Head, View};
use base::codec::{Malformed, Reader, Writer};
use base::{Index, NodeId, Position};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use storage::engine::{Batch, Engine, MemoryEngine, View as _};
use xxhash_rust::xxh3::Xxh3;

/// A store's whole state at one moment. Belongs on the thread that writes the checkpoint.
pub struct Frozen {
    pub(crate) view: View,
    pub(crate) configuration: Bytes,
    pub(crate) members: Option<BTreeSet<NodeId>>,
    pub(crate) sessions: BTreeMap<NodeId, Session>,
    pub(crate) idempotency_count: u64,
    pub(crate) idempotency_next: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum LoadError<E> {
    /// The blocks could not be had.
    Source(E),
    /// They are not what a store wrote.
    Malformed(Malformed),
}

impl Frozen {
    pub fn applied(&self) -> Position {
        self.view.applied()
    }

    pub fn state_hash(&self) -> u64 {
        self.view.state_hash()
    }

    pub fn configuration(&self) -> &Bytes {
        &self.configuration
    }

    /// Writes the stream in pieces of some tens of kilobytes, or as large as one record.
    pub fn write_to<E>(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut pieces = Pieces { sink, buffer: Vec::with_capacity(PIECE_BYTES), hash: Xxh3::new() };
        self.write_records(&mut pieces)?;
        let mut end = Writer::with_capacity(9);
        end.u8(END);
        end.u64(pieces.hash.digest());
        pieces.record(end.as_slice())?;
        pieces.flush()
    }

    /// The hash that ends the stream.
    pub fn content_hash(&self) -> u64 {
        let mut nowhere = |_: &[u8]| Ok::<(), Infallible>(());
        let mut pieces = Pieces { sink: &mut nowhere, buffer: Vec::with_capacity(PIECE_BYTES), hash: Xxh3::new() };
        let Ok(()) = self.write_records(&mut pieces);
        pieces.hash.digest()
    }

    fn write_records<E>(&self, pieces: &mut Pieces<'_, E>) -> Result<(), E> {
        pieces.record(self.head().as_slice())?;
        for (node, session) in &self.sessions {
            let mut record = Writer::new();
            record.u8(SESSION);
            record.varint(*node);
            session.encode(&mut record);
            pieces.record(record.as_slice())?;
        }
        for row in self.view.engine.range(&[], None) {
            let Ok((key, value)) = row;
            let mut record = Writer::with_capacity(key.len() + value.len() + 11);
            record.u8(ROW);
            record.blob(&key);
            record.raw(&value);
            pieces.record(record.as_slice())?;
        }
        Ok(())
    }

    fn head(&self) -> Writer {
        let Head { applied, revision, keys, state_hash, accepted_ms } = self.view.head;
        let mut record = Writer::new();
        record.u8(HEAD);
        record.varint(FORMAT);
        record.varint(applied.index);
        record.varint(applied.term);
        record.varint(revision);
        record.varint(keys);
        record.u64(state_hash);
        record.u64(accepted_ms);
        record.varint(self.idempotency_count);
        record.varint(self.idempotency_next);
        record.varint(self.sessions.len() as u64);
        record.blob(&self.configuration);
        record.bool(self.members.is_some());
        if let Some(members) = &self.members {
            record.varint(members.len() as u64);
            for member in members {
                record.varint(*member);
            }
        }
        record
    }
}

impl Store {
    /// Makes a store from the blocks of a stream, cut anywhere. `next` gives `None` after the last.
    pub fn load<E>(next: &mut dyn FnMut() -> Result<Option<Bytes>, E>) -> Result<Store, LoadError<E>> {
        let mut records = Records { next, block: Bytes::new(), hash: Xxh3::new() };
        let mut loader = Loader::from_head(Reader::new(records.record()?))?;
        loop {
            let so_far = records.hash.digest();
            let mut record = Reader::new(records.record()?);
            match record.u8()? {
                SESSION => loader.session(record)?,
                ROW => loader.row(record)?,
                END => {
                    if record.u64()? != so_far {
                        return Err(Malformed("checkpoint: its content is not what its hash says").into());
                    }
                    record.finish()?;
                    records.finish()?;
                    return Ok(loader.finish()?);
                }
                _ => return Err(Malformed("checkpoint: kind of a record").into()),
            }
        }
    }
}

/// A store in the making, and what is still owed to it.
struct Loader {
    store: Store,
    sessions: u64,
    keys: u64,
    /// The keys of the idempotency entries by their order; empty where one is still to come.
    idempotency: Vec<Bytes>,
    last_node: Option<NodeId>,
    last_key: Bytes,
    batch: Batch,
    batch_bytes: usize,
}

impl Loader {
    fn from_head(mut record: Reader) -> Result<Loader, Malformed> {
        if record.u8()? != HEAD || record.varint()? != FORMAT {
            return Err(Malformed("checkpoint: its beginning, or it is of another version"));
        }
        let applied = Position { index: record.varint()?, term: record.varint()? };
        let (revision, keys) = (record.varint()?, record.varint()?);
        let (state_hash, accepted_ms) = (record.u64()?, record.u64()?);
        let (idempotency_count, idempotency_next) = (record.varint()?, record.varint()?);
        if idempotency_count > idempotency_next || idempotency_count > MAX_IDEMPOTENCY_KEYS as u64 {
            return Err(Malformed("checkpoint: count of idempotency keys"));
        }
        // An entry takes one revision at the most, and brings one idempotency key at the most. And all are counted on.
        if revision > applied.index || idempotency_next > applied.index || applied.index > Index::MAX / 4 {
            return Err(Malformed("checkpoint: counters"));
        }
        let sessions = record.varint()?;
        let configuration = record.blob()?;
        if configuration.len() > MAX_CONFIGURATION_BYTES {
            return Err(Malformed("checkpoint: configuration"));
        }
        let members = match record.bool()? {
            true => Some(decode_members(&mut record)?),
            false => None,
        };
        record.finish()?;
        let store = Store {
            engine: MemoryEngine::new(),
            head: Head { applied, revision, keys: 0, state_hash, accepted_ms },
            configuration: Bytes::copy_from_slice(&configuration),
            members,
            sessions: BTreeMap::new(),
            idempotency: VecDeque::new(),
            idempotency_next,
        };
        Ok(Loader {
            store,
            sessions,
            keys,
            idempotency: vec![Bytes::new(); idempotency_count as usize],
            last_node: None,
            last_key: Bytes::new(),
            batch: Batch::new(),
            batch_bytes: 0,
        })
    }

    fn session(&mut self, mut record: Reader) -> Result<(), Malformed> {
        let node = record.varint()?;
        let session = Session::decode(&mut record)?;
        record.finish()?;
        let in_order = self.last_node.is_none_or(|last| last < node) && self.last_key.is_empty();
        let member = self.store.members.as_ref().is_none_or(|members| members.contains(&node));
        if !in_order || !member || session.newest_revision() > self.store.head.revision {
            return Err(Malformed("checkpoint: session"));
        }
        self.last_node = Some(node);
        self.store.sessions.insert(node, session);
        Ok(())
    }

    fn row(&mut self, mut record: Reader) -> Result<(), Malformed> {
        let key = record.blob()?;
        // Copied, as it would keep the whole block.
        let value = Bytes::copy_from_slice(&record.rest());
        if key <= self.last_key {
            return Err(Malformed("checkpoint: order of the keys"));
        }
        let home = match Key::decode(&key).ok_or(Malformed("checkpoint: key"))? {
            Key::Data(user_key) => {
                self.data(user_key, value.clone())?;
                Key::Data(user_key).encode()
            }
            Key::Idempotency(name) => {
                self.idempotency(name, value.clone())?;
                Key::Idempotency(name).encode()
            }
        };
        self.batch_bytes += key.len() + value.len();
        self.batch.put(home, value);
        self.last_key = Bytes::copy_from_slice(&key);
        if self.batch_bytes >= PIECE_BYTES {
            self.write_batch();
        }
        Ok(())
    }

    fn data(&mut self, key: &[u8], value: Bytes) -> Result<(), Malformed> {
        let (meta, value) = record::decode(value)?;
        let revisions = 1 <= meta.create_revision && meta.mod_revision <= self.store.head.revision;
        let version = 1 <= meta.version && meta.version - 1 <= meta.mod_revision - meta.create_revision;
        let size = (1..=MAX_KEY_BYTES).contains(&key.len()) && value.len() <= MAX_VALUE_BYTES;
        if !revisions || !version || !size {
            return Err(Malformed("checkpoint: record of a key"));
        }
        self.store.head.keys += 1;
        Ok(())
    }

    fn idempotency(&mut self, key: &[u8], value: Bytes) -> Result<(), Malformed> {
        let first = FirstUse::decode(value)?;
        let oldest = self.store.idempotency_next - self.idempotency.len() as u64;
        let place = first.order.checked_sub(oldest).and_then(|place| usize::try_from(place).ok());
        let place = place.and_then(|place| self.idempotency.get_mut(place)).filter(|place| place.is_empty());
        let known = answered_revision(&first.answer) <= self.store.head.revision;
        let size = (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len());
        let Some(place) = place.filter(|_| known && size) else {
            return Err(Malformed("checkpoint: idempotency key"));
        };
        *place = Bytes::copy_from_slice(key);
        Ok(())
    }

    fn write_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let Ok(()) = self.store.engine.write(self.store.head.applied.index, batch);
    }

    fn finish(mut self) -> Result<Store, Malformed> {
        self.write_batch();
        let complete = self.store.head.keys == self.keys
            && self.store.sessions.len() as u64 == self.sessions
            && self.idempotency.iter().all(|key| !key.is_empty());
        if !complete {
            return Err(Malformed("checkpoint: counts"));
        }
        self.store.idempotency = self.idempotency.into();
        Ok(self.store)
    }
}

fn decode_members(record: &mut Reader) -> Result<BTreeSet<NodeId>, Malformed> {
    let mut members = BTreeSet::new();
    for _ in 0..record.count()? {
        let member = record.varint()?;
        if members.last().is_some_and(|last| *last >= member) {
            return Err(Malformed("checkpoint: order of the members"));
        }
        members.insert(member);
    }
    Ok(members)
}

/// Collects records into pieces for the sink.
struct Pieces<'a, E> {
    sink: &'a mut dyn FnMut(&[u8]) -> Result<(), E>,
    buffer: Vec<u8>,
    hash: Xxh3,
}

impl<E> Pieces<'_, E> {
    fn record(&mut self, record: &[u8]) -> Result<(), E> {
        assert!(record.len() <= MAX_RECORD_BYTES, "a checkpoint record of {} bytes", record.len());
        let mut length = Writer::with_capacity(10);
        length.varint(record.len() as u64);
        self.hash.update(length.as_slice());
        self.hash.update(record);
        self.buffer.extend_from_slice(length.as_slice());
        self.buffer.extend_from_slice(record);
        if self.buffer.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), E> {
        (self.sink)(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Cuts blocks into records.
struct Records<'a, E> {
    next: &'a mut dyn FnMut() -> Result<Option<Bytes>, E>,
    block: Bytes,
    hash: Xxh3,
}

impl<E> Records<'_, E> {
    fn record(&mut self) -> Result<Bytes, LoadError<E>> {
        let mut length = 0;
        for at in 0..MAX_LENGTH_BYTES {
            let byte = self.take(1)?[0];
            length |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                break;
            }
            if at + 1 == MAX_LENGTH_BYTES {
                return Err(Malformed("checkpoint: length of a record").into());
            }
        }
        if length > MAX_RECORD_BYTES {
            return Err(Malformed("checkpoint: length of a record").into());
        }
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, LoadError<E>> {
        while self.block.is_empty() && length > 0 {
            self.fetch()?;
        }
        let bytes = if self.block.len() >= length {
            self.block.split_to(length)
        } else {
            let mut whole = Vec::new();
            while whole.len() < length {
                if self.block.is_empty() {
                    self.fetch()?;
                }
                let some = self.block.len().min(length - whole.len());
                whole.extend_from_slice(&self.block.split_to(some));
            }
            Bytes::from(whole)
        };
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn fetch(&mut self) -> Result<(), LoadError<E>> {
        match (self.next)().map_err(LoadError::Source)? {
            Some(block) => self.block = block,
            None => return Err(Malformed("checkpoint: it ends too early").into()),
        }
        Ok(())
    }

    /// Nothing may follow.
    fn finish(mut self) -> Result<(), LoadError<E>> {
        while self.block.is_empty() {
            match (self.next)().map_err(LoadError::Source)? {
                Some(block) => self.block = block,
                None => return Ok(()),
            }
        }
        Err(Malformed("checkpoint: it goes on after its end").into())
    }
}

impl<E> From<Malformed> for LoadError<E> {
    fn from(malformed: Malformed) -> LoadError<E> {
        LoadError::Malformed(malformed)
    }
}

impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Source(error) => error.fmt(f),
            LoadError::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for LoadError<E> {}

const FORMAT: u64 = 1;
const PIECE_BYTES: usize = 64 * 1024;
/// No record is longer: the largest are the head with the longest configuration and a row with the largest value.
const MAX_RECORD_BYTES: usize = 2 * 1024 * 1024;
const MAX_LENGTH_BYTES: usize = 4;

const HEAD: u8 = 1;
const SESSION: u8 = 2;
const ROW: u8 = 3;
pub(crate) const END: u8 = 4;
