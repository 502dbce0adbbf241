//! The whole state as a stream of bytes, and back.
//!
//! A stream is a row of records, each a varint length and then so many bytes, the first of which says what it is:
//!
//! | | record | how many |
//! |---|---|---|
//! | 1 | head: format, position, counters, configuration, members | one, first |
//! | 2 | a node's session | in the order of the nodes |
//! | 5 | a version of a user's key: key, sequence, whether it is there, record | in the order of the keys, oldest first |
//! | 3 | another row of the engine: key, value | in the order of the keys |
//! | 4 | end: XXH3 of all bytes before this record | one, last |
//!
//! A key's versions are those that can still be read: what was there at the compacted revision, and all that came
//! after. Equal states give equal bytes, however much of what was compacted an engine still holds. Writing takes no more memory than one buffer and the largest record; reading, no
//! more than the largest record beside the store that is being made. Loading believes nothing: lengths, order, counts and revisions
//! are checked as they come, and the hash at the end, so that a store is either the one that was written or an error.
//!
//! Not handled: files, their checksums, and naming a damaged place: that is up to whoever supplies the blocks.

mod note;

use crate::command::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES, MAX_LEASE, MAX_TTL_SECONDS, MAX_VALUE_BYTES};
use crate::history::{Changed, Entries, Tail};
use crate::keys::{CHANGES_END, DATA_END, IDEMPOTENCY_END, Key, LEASE_KEYS_END};
use crate::leases::Lease;
use crate::record::{self, Meta};
use crate::sessions::{FirstUse, Session, answered_revision};
use crate::store::{MAX_CONFIGURATION_BYTES, MAX_IDEMPOTENCY_KEYS, Store};
use crate::view::{Compacted, Head, View};
use base::codec::{Malformed, Reader, Writer};
use base::{Index, NodeId, Position};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use storage::StorageError;
use storage::engine::{AnyEngine, AnyHistory, Engine, History as _, Version, View as _};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// A store's whole state at one moment. Belongs on the thread that writes the checkpoint.
pub struct Frozen {
    pub(crate) view: View,
    pub(crate) past: AnyHistory,
    pub(crate) tail: Tail,
    pub(crate) configuration: Bytes,
    pub(crate) members: Option<BTreeSet<NodeId>>,
    pub(crate) sessions: BTreeMap<NodeId, Session>,
    pub(crate) idempotency_count: u64,
    pub(crate) idempotency_next: u64,
}

#[derive(Debug)]
pub enum LoadError<E> {
    /// The blocks could not be had.
    Source(E),
    /// They are not what a store wrote.
    Malformed(Malformed),
    /// The engine could not take them.
    Storage(StorageError),
}

/// By their state hashes.
impl PartialEq for Frozen {
    fn eq(&self, other: &Frozen) -> bool {
        (self.view.applied(), self.view.state_hash()) == (other.view.applied(), other.view.state_hash())
    }
}

impl Eq for Frozen {}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen at {:?}, revision {}", self.view.applied(), self.view.revision())
    }
}

impl Frozen {
    pub fn applied(&self) -> Position {
        self.view.applied()
    }

    pub fn state_hash(&self) -> u64 {
        self.view.state_hash()
    }

    pub fn revision(&self) -> u64 {
        self.view.revision()
    }

    pub fn configuration(&self) -> &Bytes {
        &self.configuration
    }

    /// Writes the stream in pieces of some tens of kilobytes, or as large as one record.
    pub fn write_to<E: From<StorageError>>(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut pieces = Pieces { sink, buffer: Vec::with_capacity(PIECE_BYTES), hash: Xxh3::new() };
        self.write_records(&mut pieces)?;
        let mut end = Writer::with_capacity(9);
        end.u8(END);
        end.u64(pieces.hash.digest());
        pieces.record(end.as_slice())?;
        pieces.flush()
    }

    /// The hash that ends the stream.
    pub fn content_hash(&self) -> Result<u64, StorageError> {
        let mut nowhere = |_: &[u8]| Ok::<(), StorageError>(());
        let mut pieces = Pieces { sink: &mut nowhere, buffer: Vec::with_capacity(PIECE_BYTES), hash: Xxh3::new() };
        self.write_records(&mut pieces)?;
        Ok(pieces.hash.digest())
    }

    fn write_records<E: From<StorageError>>(&self, pieces: &mut Pieces<'_, E>) -> Result<(), E> {
        pieces.record(self.small().head().as_slice())?;
        for (node, session) in &self.sessions {
            pieces.record(session_record(*node, session).as_slice())?;
        }
        for versions in self.past.versions(&[], DATA_END) {
            let (key, versions) = versions?;
            for Version { sequence, value } in versions {
                let mut record = Writer::with_capacity(key.len() + value.as_ref().map_or(0, Bytes::len) + 22);
                record.u8(VERSION);
                record.blob(&key);
                record.varint(sequence);
                record.bool(value.is_some());
                record.raw(&value.unwrap_or_default());
                pieces.record(record.as_slice())?;
            }
        }
        self.write_rows(DATA_END, IDEMPOTENCY_END, pieces)?;
        // Blocks of revisions that were compacted may still be there.
        if let Some(first) = self.view.block_of(self.view.compacted().max(1))? {
            self.write_rows(Key::Changes { first, part: 0 }.encode().as_slice(), CHANGES_END, pieces)?;
        }
        self.write_rows(CHANGES_END, LEASE_KEYS_END, pieces)
    }

    fn write_rows<E: From<StorageError>>(&self, from: &[u8], to: &[u8], pieces: &mut Pieces<'_, E>) -> Result<(), E> {
        for row in self.view.engine.range(from, Some(to)) {
            let (key, value) = row?;
            let mut record = Writer::with_capacity(key.len() + value.len() + 11);
            record.u8(ROW);
            record.blob(&key);
            record.raw(&value);
            pieces.record(record.as_slice())?;
        }
        Ok(())
    }

    fn small(&self) -> Small<'_> {
        Small {
            head: self.view.head(),
            tail: &self.tail,
            configuration: &self.configuration,
            members: self.members.as_ref(),
            sessions: &self.sessions,
            idempotency_count: self.idempotency_count,
            idempotency_next: self.idempotency_next,
        }
    }
}

impl Store {
    /// Makes a store from the blocks of a stream, cut anywhere. `next` gives `None` after the last.
    /// It goes to an empty engine, and is durable when this returns, if the engine makes it so. Of what can't be loaded
    /// nothing stays on the disk.
    pub fn load<E>(
        engine: AnyEngine,
        next: &mut dyn FnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<Store, LoadError<E>> {
        let discard = engine.discard();
        let loaded = Store::load_into(engine, next);
        if let (Err(_), Some(mut discard)) = (&loaded, discard) {
            // Why the load failed says more than that what it left stays until the next start.
            let _ = discard.step();
        }
        loaded
    }

    fn load_into<E>(
        engine: AnyEngine,
        next: &mut dyn FnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<Store, LoadError<E>> {
        let mut records = Records { next, block: Bytes::new(), hash: Xxh3::new() };
        let mut loader = Loader::from_head(engine, Reader::new(records.record()?))?;
        loop {
            let so_far = records.hash.digest();
            let mut record = Reader::new(records.record()?);
            match record.u8()? {
                SESSION => loader.session(record)?,
                VERSION => loader.version(record)?,
                ROW => loader.row(record)?,
                END => {
                    if record.u64()? != so_far {
                        return Err(Malformed("checkpoint: its content is not what its hash says").into());
                    }
                    record.finish()?;
                    records.finish()?;
                    let mut store = loader.finish()?;
                    store.settle().map_err(LoadError::Storage)?;
                    return Ok(store);
                }
                _ => return Err(Malformed("checkpoint: kind of a record").into()),
            }
        }
    }
}

impl Store {
    fn small(&self) -> Small<'_> {
        Small {
            head: &self.head,
            tail: &self.tail,
            configuration: &self.configuration,
            members: self.members.as_ref(),
            sessions: &self.sessions,
            idempotency_count: self.idempotency.len() as u64,
            idempotency_next: self.idempotency_next,
        }
    }
}

/// A state without what is in the engine.
struct Small<'a> {
    head: &'a Head,
    tail: &'a Tail,
    configuration: &'a Bytes,
    members: Option<&'a BTreeSet<NodeId>>,
    sessions: &'a BTreeMap<NodeId, Session>,
    idempotency_count: u64,
    idempotency_next: u64,
}

impl Small<'_> {
    fn head(&self) -> Writer {
        let Head { applied, revision, keys, leases, state_hash, accepted_ms, past_bytes, compacted } = *self.head;
        let mut record = Writer::new();
        record.u8(HEAD);
        record.varint(FORMAT);
        record.varint(applied.index);
        record.varint(applied.term);
        record.varint(revision);
        record.varint(keys);
        record.varint(leases);
        record.u64(state_hash);
        record.u64(accepted_ms);
        record.varint(past_bytes);
        record.varint(compacted.revision);
        record.varint(compacted.index);
        record.varint(compacted.past_bytes);
        record.varint(self.tail.first);
        record.blob(&self.tail.entries());
        record.varint(self.idempotency_count);
        record.varint(self.idempotency_next);
        record.varint(self.sessions.len() as u64);
        record.blob(self.configuration);
        record.bool(self.members.is_some());
        if let Some(members) = self.members {
            record.varint(members.len() as u64);
            for member in members {
                record.varint(*member);
            }
        }
        record
    }
}

fn session_record(node: NodeId, session: &Session) -> Writer {
    let mut record = Writer::new();
    record.u8(SESSION);
    record.varint(node);
    session.encode(&mut record);
    record
}

/// A store in the making, and what is still owed to it.
struct Loader {
    store: Store,
    sessions: u64,
    keys: u64,
    leases: u64,
    lease_ids: BTreeSet<u64>,
    /// Keys with a lease that the lease has not named yet: how many, and the sum of their hashes.
    leased_keys: u64,
    leased: u64,
    /// The keys of the idempotency entries by their order; empty where one is still to come.
    idempotency: Vec<Bytes>,
    last_node: Option<NodeId>,
    /// Of the last row or version.
    last_key: Bytes,
    last_version: LastVersion,
    /// How many versions came after the compacted revision.
    versions: u64,
    changes: Changes,
}

/// The last version of the key that is being loaded.
#[derive(Clone, Copy, Default)]
struct LastVersion {
    sequence: u64,
    /// `None`: the key was deleted, or not there yet.
    meta: Option<Meta>,
}

/// What was loaded of revisions.
#[derive(Default)]
struct Changes {
    /// The newest.
    last: Changed,
    /// The first revision and the last part of the block whose last revision has more keys.
    open: Option<(u64, u32)>,
    /// Keys of that revision that were not named yet.
    owed: u64,
    /// Keys of all revisions after the compacted one.
    keys: u64,
}

impl Loader {
    fn from_head(engine: AnyEngine, mut record: Reader) -> Result<Loader, Malformed> {
        if record.u8()? != HEAD || record.varint()? != FORMAT {
            return Err(Malformed("checkpoint: its beginning, or it is of another version"));
        }
        let applied = Position { index: record.varint()?, term: record.varint()? };
        let (revision, keys, leases) = (record.varint()?, record.varint()?, record.varint()?);
        let (state_hash, accepted_ms, past_bytes) = (record.u64()?, record.u64()?, record.varint()?);
        let compacted = Compacted { revision: record.varint()?, index: record.varint()?, past_bytes: record.varint()? };
        let tail = Tail::load(record.varint()?, Bytes::copy_from_slice(&record.blob()?))?;
        let (idempotency_count, idempotency_next) = (record.varint()?, record.varint()?);
        if idempotency_count > idempotency_next || idempotency_count > MAX_IDEMPOTENCY_KEYS as u64 {
            return Err(Malformed("checkpoint: count of idempotency keys"));
        }
        // An entry takes one revision at the most, and brings one idempotency key at the most. And all are counted on.
        let history = compacted.revision <= revision
            && compacted.index <= applied.index
            && compacted.past_bytes <= past_bytes
            && past_bytes <= MAX_PAST_BYTES
            && (compacted.revision > 0 || compacted == Compacted::default())
            && compacted.revision <= compacted.index
            && (1..=revision.saturating_add(1)).contains(&tail.first);
        let counted = applied.index <= Index::MAX / 4;
        if revision > applied.index || idempotency_next > applied.index || !counted || !history {
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
            engine,
            head: Head { applied, revision, keys: 0, leases: 0, state_hash, accepted_ms, past_bytes, compacted },
            configuration: Bytes::copy_from_slice(&configuration),
            members,
            sessions: BTreeMap::new(),
            idempotency: VecDeque::new(),
            idempotency_next,
            swept: tail.first,
            tail,
            sealed: VecDeque::new(),
        };
        Ok(Loader {
            store,
            sessions,
            keys,
            leases,
            lease_ids: BTreeSet::new(),
            leased_keys: 0,
            leased: 0,
            idempotency: vec![Bytes::new(); idempotency_count as usize],
            last_node: None,
            last_key: Bytes::new(),
            last_version: LastVersion::default(),
            versions: 0,
            changes: Changes::default(),
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

    fn version<E>(&mut self, mut record: Reader) -> Result<(), LoadError<E>> {
        let key = record.blob()?;
        let sequence = record.varint()?;
        // Copied, as it would keep the whole block.
        let value = if record.bool()? { Some(Bytes::copy_from_slice(&record.rest())) } else { None };
        record.finish()?;
        let Some(Key::Data(user_key)) = Key::decode(&key) else { return Err(Malformed("checkpoint: key").into()) };
        if key < self.last_key || !(1..=MAX_KEY_BYTES).contains(&user_key.len()) {
            return Err(Malformed("checkpoint: order of the keys").into());
        }
        if key != self.last_key {
            self.end_key();
        }
        let Head { applied, revision, compacted, .. } = self.store.head;
        let last = self.last_version;
        let is_past = sequence <= compacted.index;
        let meta = match &value {
            Some(value) => {
                let (meta, value) = record::decode(value.clone())?;
                let follows = match last.meta {
                    Some(last) => {
                        meta.create_revision == last.create_revision
                            && Some(meta.version) == last.version.checked_add(1)
                            && meta.mod_revision > last.mod_revision
                    }
                    None if is_past => {
                        1 <= meta.version && meta.version - 1 <= meta.mod_revision - meta.create_revision
                    }
                    None => meta.version == 1 && meta.create_revision == meta.mod_revision,
                };
                let fits = 1 <= meta.create_revision && meta.mod_revision <= revision;
                let side = is_past == (meta.mod_revision <= compacted.revision);
                if !follows || !fits || !side || value.len() > MAX_VALUE_BYTES {
                    return Err(Malformed("checkpoint: record of a key").into());
                }
                Some(meta)
            }
            // What is deleted was there.
            None if is_past || last.meta.is_none() => return Err(Malformed("checkpoint: deletion of a key").into()),
            None => None,
        };
        if sequence <= last.sequence || sequence > applied.index || (is_past && last.sequence > 0) {
            return Err(Malformed("checkpoint: order of a key's versions").into());
        }
        self.versions += u64::from(!is_past);
        self.last_version = LastVersion { sequence, meta };
        self.last_key = Bytes::copy_from_slice(&key);
        self.store.engine.load(sequence, Key::Data(user_key).encode(), value).map_err(LoadError::Storage)
    }

    /// The versions of a key are complete.
    fn end_key(&mut self) {
        self.store.head.keys += u64::from(self.last_version.meta.is_some());
        if let Some(Meta { lease, .. }) = self.last_version.meta.filter(|meta| meta.lease != 0) {
            self.leased_keys += 1;
            self.leased = self.leased.wrapping_add(leased_hash(lease, &self.last_key));
        }
        self.last_version = LastVersion::default();
    }

    fn row<E>(&mut self, mut record: Reader) -> Result<(), LoadError<E>> {
        self.end_key();
        let key = record.blob()?;
        let value = Bytes::copy_from_slice(&record.rest());
        if key <= self.last_key {
            return Err(Malformed("checkpoint: order of the keys").into());
        }
        let home = Key::decode(&key).ok_or(Malformed("checkpoint: key"))?;
        match home {
            Key::Data(_) => return Err(Malformed("checkpoint: kind of a row").into()),
            Key::Idempotency(name) => self.idempotency(name, value.clone())?,
            Key::Changes { first, part: 0 } => self.block(first, value.clone())?,
            Key::Changes { first, part } => self.part(first, part, value.clone())?,
            Key::Lease(id) => self.lease(id, value.clone())?,
            Key::Leased(id, user_key) => self.lease_key(id, user_key, &value)?,
        }
        let loaded = self.store.engine.load(self.store.head.applied.index, home.encode(), Some(value));
        loaded.map_err(LoadError::Storage)?;
        self.last_key = Bytes::copy_from_slice(&key);
        Ok(())
    }

    /// Blocks follow each other without a gap, up to the tail, and the first has the compacted revision in it.
    fn block(&mut self, first: u64, block: Bytes) -> Result<(), Malformed> {
        let Head { compacted, .. } = self.store.head;
        let (revisions, entries) = Entries::of_block(first, block)?;
        let is_oldest = self.changes.last == Changed::default();
        let after = first.checked_add(revisions).filter(|_| revisions > 0).ok_or(Malformed("checkpoint: block"))?;
        let fits = if is_oldest {
            (1..=compacted.revision.max(1)).contains(&first) && after > compacted.revision
        } else {
            first == self.changes.last.revision + 1
        };
        if !fits || after > self.store.tail.first || self.changes.owed > 0 {
            return Err(Malformed("checkpoint: order of the blocks"));
        }
        if is_oldest {
            self.store.swept = first;
        }
        self.entries(entries)?;
        self.changes.open = Some((first, 0));
        if self.changes.last.revision + 1 == after { Ok(()) } else { Err(Malformed("checkpoint: block")) }
    }

    fn part(&mut self, first: u64, part: u32, keys: Bytes) -> Result<(), Malformed> {
        if self.changes.open != Some((first, part - 1)) || self.changes.owed == 0 || keys.is_empty() {
            return Err(Malformed("checkpoint: part of a block"));
        }
        self.changes.open = Some((first, part));
        let mut reader = Reader::new(keys);
        while reader.remaining() > 0 {
            check_key(&reader.blob()?)?;
            self.changes.owed = self.changes.owed.checked_sub(1).ok_or(Malformed("checkpoint: keys of a part"))?;
        }
        Ok(())
    }

    fn entries(&mut self, mut entries: Entries) -> Result<(), Malformed> {
        let Head { applied, compacted, .. } = self.store.head;
        while let Some(changed) = entries.next()? {
            let last = self.changes.last;
            let rises = last.index < changed.index && last.past_bytes < changed.past_bytes;
            let here = Compacted { revision: changed.revision, index: changed.index, past_bytes: changed.past_bytes };
            let side = match changed.revision.cmp(&compacted.revision) {
                Ordering::Less => here.index < compacted.index && here.past_bytes < compacted.past_bytes,
                Ordering::Equal => here == compacted,
                Ordering::Greater => here.index > compacted.index && here.past_bytes > compacted.past_bytes,
            };
            // Only the last revision of a block has keys outside of it.
            if !rises || !side || changed.keys == 0 || changed.index > applied.index || self.changes.owed > 0 {
                return Err(Malformed("checkpoint: entry of a revision"));
            }
            if changed.revision > compacted.revision {
                let keys = self.changes.keys.checked_add(changed.keys);
                self.changes.keys = keys.ok_or(Malformed("checkpoint: count of changes"))?;
            }
            while let Some(key) = entries.key()? {
                check_key(&key)?;
            }
            (self.changes.last, self.changes.owed) = (changed, entries.owed());
        }
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

    fn lease(&mut self, id: u64, value: Bytes) -> Result<(), Malformed> {
        let Lease { ttl_seconds, since, .. } = Lease::decode(id, value)?;
        let time = (1..=MAX_TTL_SECONDS).contains(&ttl_seconds) && (1..=self.store.head.applied.index).contains(&since);
        if !time || !(1..=MAX_LEASE).contains(&id) {
            return Err(Malformed("checkpoint: lease"));
        }
        self.store.head.leases += 1;
        self.lease_ids.insert(id);
        Ok(())
    }

    /// Leases and users' keys came before.
    fn lease_key(&mut self, id: u64, user_key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let key = Key::Data(user_key).encode();
        self.leased = self.leased.wrapping_sub(leased_hash(id, key.as_slice()));
        let owed = self.leased_keys.checked_sub(1).filter(|_| self.lease_ids.contains(&id) && value.is_empty());
        self.leased_keys = owed.ok_or(Malformed("checkpoint: key of a lease"))?;
        Ok(())
    }

    fn finish<E>(mut self) -> Result<Store, LoadError<E>> {
        self.end_key();
        let tail = Entries::new(self.store.tail.first, self.store.tail.entries());
        let Head { applied, revision, keys, past_bytes, compacted, .. } = self.store.head;
        // With the compacted revision in the tail there is no block.
        let before = if tail.first() <= compacted.revision.max(1) { 0 } else { tail.first() - 1 };
        let meets = (self.changes.last.revision, self.changes.owed) == (before, 0);
        self.entries(tail)?;
        let Changes { last, owed, keys: changes, .. } = self.changes;
        let complete = keys == self.keys
            && (self.store.head.leases, self.leased_keys, self.leased) == (self.leases, 0, 0)
            && self.store.sessions.len() as u64 == self.sessions
            && self.idempotency.iter().all(|key| !key.is_empty())
            && meets
            && (last.revision, last.past_bytes, owed) == (revision, past_bytes, 0)
            && changes == self.versions;
        if !complete {
            return Err(Malformed("checkpoint: counts").into());
        }
        self.store.idempotency = self.idempotency.into();
        self.store.engine.end_loading(applied.index, compacted.index).map_err(LoadError::Storage)?;
        Ok(self.store)
    }
}

/// Of a pair that both the key's record and the lease must name.
fn leased_hash(lease: u64, home: &[u8]) -> u64 {
    xxh3_64_with_seed(home, lease)
}

fn check_key(key: &[u8]) -> Result<(), Malformed> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) { Ok(()) } else { Err(Malformed("checkpoint: length of a key")) }
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
            LoadError::Storage(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for LoadError<E> {}

const FORMAT: u64 = 2;
/// So little that whoever writes it can let others have the processor in between.
const PIECE_BYTES: usize = 16 * 1024;
/// No record is longer: the largest are the head with the longest configuration and a row with the largest value.
const MAX_RECORD_BYTES: usize = 2 * 1024 * 1024;
const MAX_LENGTH_BYTES: usize = 4;
/// More than any store ever writes; so that counting on does not overflow.
const MAX_PAST_BYTES: u64 = 1 << 62;

const HEAD: u8 = 1;
const SESSION: u8 = 2;
const ROW: u8 = 3;
pub(crate) const END: u8 = 4;
const VERSION: u8 = 5;
