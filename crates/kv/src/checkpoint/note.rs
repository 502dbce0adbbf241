//! Goes on with an engine that outlived the process.
//!
//! A note has what is in no row, and what can be counted: the head of a checkpoint and the sessions, each record behind
//! its length. The engine has the rest. A start takes a look at few of its rows, however many keys there are: the
//! idempotency entries, whose order is remembered in memory, the leases, and the ends of the row of blocks. What it looks at
//! must fit the note. What it does not look at is believed as far as the engine's checksums are.

use super::{Loader, SESSION, session_record};
use crate::history::Entries;
use crate::keys::{CHANGES_END, DATA_END, IDEMPOTENCY_END, Key, LEASES_END};
use crate::store::Store;
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;
use storage::StorageError;
use storage::engine::{AnyEngine, AnyView, Batch, Engine, View as _};

impl Store {
    /// What of the state is neither in the engine nor to be found there: small, and taken along when the engine makes
    /// itself durable.
    pub(crate) fn note(&self) -> Bytes {
        let mut note = Writer::new();
        note.blob(self.small().head().as_slice());
        for (node, session) in &self.sessions {
            note.blob(session_record(*node, session).as_slice());
        }
        note.into_bytes()
    }

    /// Takes the store apart into what [`Store::open`] puts together again.
    pub fn apart(mut self) -> Result<(AnyEngine, Bytes), StorageError> {
        // Entries that wrote nothing count as well.
        if self.engine.sequence() < self.head.applied.index {
            self.engine.write(self.head.applied.index, Batch::new())?;
        }
        let note = self.note();
        Ok((self.engine, note))
    }

    /// The store of an engine and the note of the same moment.
    pub fn open(engine: AnyEngine, note: Bytes) -> Result<Store, StorageError> {
        let mut loader = read(engine, note).map_err(damaged)?;
        let view = loader.store.engine.view();
        loader.check_counts(&view)?;
        loader.find_idempotency_keys(&view)?;
        loader.find_blocks(&view)?;
        loader.check_tail()?;
        drop(view);
        let Loader { mut store, idempotency, keys, leases, .. } = loader;
        store.idempotency = idempotency.into();
        (store.head.keys, store.head.leases) = (keys, leases);
        store.engine.evict_below(store.head.compacted.index);
        Ok(store)
    }
}

fn read(engine: AnyEngine, note: Bytes) -> Result<Loader, Malformed> {
    let mut note = Reader::new(note);
    let mut loader = Loader::from_head(engine, Reader::new(note.blob()?))?;
    for _ in 0..loader.sessions {
        let mut record = Reader::new(note.blob()?);
        if record.u8()? != SESSION {
            return Err(Malformed("note: kind of a record"));
        }
        loader.session(record)?;
    }
    note.finish()?;
    Ok(loader)
}

impl Loader {
    fn check_counts(&self, view: &AnyView) -> Result<(), StorageError> {
        let leases = view.count(CHANGES_END, Some(LEASES_END))? == self.leases;
        if leases && view.sequence() == self.store.head.applied.index {
            return Ok(());
        }
        Err(damaged(Malformed("note: it is of another moment than the tables")))
    }

    fn find_idempotency_keys(&mut self, view: &AnyView) -> Result<(), StorageError> {
        for row in view.range(DATA_END, Some(IDEMPOTENCY_END)) {
            let (home, first_use) = row?;
            // The first byte says what kind of key it is.
            let name = home.slice(1..);
            let found = self.idempotency(&name, first_use);
            found.map_err(|malformed| Key::Idempotency(&name).damaged(malformed))?;
        }
        let complete = self.idempotency.iter().all(|name| !name.is_empty());
        if complete { Ok(()) } else { Err(damaged(Malformed("note: count of idempotency keys"))) }
    }

    /// The first block, which may be of revisions that were compacted; and of the last, what the tail goes on from.
    fn find_blocks(&mut self, view: &AnyView) -> Result<(), StorageError> {
        let mut blocks = view.range(IDEMPOTENCY_END, Some(CHANGES_END));
        if let Some((home, _)) = blocks.next().transpose()? {
            let Some(Key::Changes { first, part: 0 }) = Key::decode(&home) else {
                return Err(StorageError::damaged_row(&home, "it should begin a block of revisions"));
            };
            self.store.swept = first;
            let last = blocks.next_back().transpose()?.map_or(home, |(home, _)| home);
            self.read_last_block(&last, view)?;
        }
        let oldest = self.store.head.compacted.revision.max(1);
        if (1..=oldest).contains(&self.store.swept) {
            return Ok(());
        }
        Err(Key::Changes { first: oldest, part: 0 }.damaged("the revision's block is missing"))
    }

    /// `home`: of any of its parts.
    fn read_last_block(&mut self, home: &[u8], view: &AnyView) -> Result<(), StorageError> {
        let Some(Key::Changes { first, .. }) = Key::decode(home) else {
            return Err(StorageError::damaged_row(home, "it should be a part of a block of revisions"));
        };
        let key = Key::Changes { first, part: 0 };
        let block =
            view.get(key.encode().as_slice())?.ok_or_else(|| key.damaged("the block's first part is missing"))?;
        let read = Entries::of_block(first, block).and_then(|(_, entries)| self.entries(entries));
        read.map_err(|malformed| key.damaged(malformed))?;
        // The keys in its later parts are not looked at.
        self.changes.owed = 0;
        if self.changes.last.revision + 1 == self.store.tail.first {
            return Ok(());
        }
        Err(key.damaged("the newest block does not meet what the note goes on with"))
    }

    fn check_tail(&mut self) -> Result<(), StorageError> {
        let (head, tail) = (self.store.head, &self.store.tail);
        let tail = Entries::new(tail.first, tail.entries());
        self.entries(tail).map_err(damaged)?;
        let last = self.changes.last;
        let complete = (last.revision, last.past_bytes, self.changes.owed) == (head.revision, head.past_bytes, 0);
        if complete { Ok(()) } else { Err(damaged(Malformed("note: newest revision"))) }
    }
}

fn damaged(malformed: Malformed) -> StorageError {
    StorageError::Damaged { file: "the manifest of the state".into(), offset: 0, what: malformed.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command, IdempotencyKey, Operation, RequestId, SessionId};
    use base::Position;
    use storage::engine::Batch;

    const SESSION: SessionId = SessionId { node: 1, boot: 1 };

    fn apply(store: &mut Store, command: &Command) {
        let position = Position { index: store.applied().index + 1, term: 1 };
        store.apply(position, command).unwrap();
    }

    fn act(store: &mut Store, action: Action) {
        apply(store, &Command::Act { request: None, accepted_ms: 0, idempotency: None, action });
    }

    /// With a thousand revisions, the first half of them compacted and about to be taken out, two idempotency keys and a
    /// lease.
    fn store() -> Store {
        let mut store = Store::in_memory();
        apply(&mut store, &Command::Register { session: SESSION });
        for number in 1..=1_000 {
            let request = RequestId { session: SESSION, number, low_water: number };
            let idempotency = (number <= 2)
                .then(|| IdempotencyKey { key: Bytes::copy_from_slice(&number.to_be_bytes()), fingerprint: number });
            let operations = vec![Operation::Put { key: "k".into(), value: "v".into() }];
            apply(&mut store, &Command::Write { request, accepted_ms: 0, idempotency, operations });
        }
        act(&mut store, Action::Grant { lease: 7, ttl_seconds: 60 });
        act(&mut store, Action::Compact { revision: 500 });
        store
    }

    #[test]
    fn an_opened_store_goes_on_where_it_was() {
        let store = store();
        let (swept, first, content) = (store.swept, store.tail.first, store.content_hash().unwrap());
        assert!(1 < swept && swept < 400, "{swept}");
        let (engine, note) = store.apart().unwrap();
        let mut store = Store::open(engine, note).unwrap();
        assert_eq!((store.swept, store.tail.first, store.content_hash().unwrap()), (swept, first, content));
        assert!(store.view().at(499).is_err() && store.view().at(500).is_ok());
        for index in store.applied().index + 1..=store.applied().index + 20 {
            store.apply_empty(Position { index, term: 1 }).unwrap();
        }
        assert!(store.swept > 400, "{}", store.swept);
    }

    #[test]
    fn what_is_missing_or_wrong_in_the_engine_is_noticed() {
        let key = |key: Key| Bytes::copy_from_slice(key.encode().as_slice());
        let (oldest_block, newest_block) = {
            let view = store().engine.view();
            let mut blocks = view.range(IDEMPOTENCY_END, Some(CHANGES_END)).map(|row| row.unwrap().0);
            (blocks.next().unwrap(), blocks.last().unwrap())
        };
        let once = key(Key::Idempotency(&1u64.to_be_bytes()));
        let rows: [(&Bytes, Option<&'static [u8]>); 6] = [
            (&newest_block, None),
            (&newest_block, Some(b"no block")),
            (&once, None),
            (&once, Some(b"no answer")),
            (&key(Key::Lease(7)), None),
            (&key(Key::Lease(8)), Some(b"")),
        ];
        for (row, change) in rows {
            let (mut engine, note) = store().apart().unwrap();
            let (row, mut batch) = (engine_key(row), Batch::new());
            match change {
                Some(value) => batch.put(row, Bytes::from_static(value)),
                None => batch.delete(row),
            }
            engine.write(engine.sequence(), batch).unwrap();
            assert!(matches!(Store::open(engine, note), Err(StorageError::Damaged { .. })), "{change:?}");
        }
        // All blocks up to the one that the oldest revision is in.
        let store = store();
        let mut batch = Batch::new();
        let mut first = oldest_block;
        while first <= key(Key::Changes { first: 500, part: 0 }) {
            batch.delete(engine_key(&first));
            let view = store.engine.view();
            let mut rows = view.range(&[&first[..], &[0]].concat(), None);
            first = rows.next().unwrap().unwrap().0;
        }
        let (mut engine, note) = store.apart().unwrap();
        engine.write(engine.sequence(), batch).unwrap();
        let error = Store::open(engine, note).err().unwrap().to_string();
        assert!(error.contains("block is missing"), "{error}");
    }

    fn engine_key(bytes: &[u8]) -> storage::engine::Key {
        storage::engine::Key::new(bytes)
    }

    #[test]
    fn a_note_that_is_older_than_the_engine_is_refused() {
        let mut store = store();
        let note = store.note();
        act(&mut store, Action::Grant { lease: 8, ttl_seconds: 60 });
        act(&mut store, Action::Revoke { lease: 8 });
        let error = Store::open(store.apart().unwrap().0, note).err().unwrap().to_string();
        assert!(error.contains("another moment"), "{error}");
    }
}
