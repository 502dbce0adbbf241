//! What each revision changed: which keys, in which entry of the log, and how large the past has become.
//!
//! A revision's entry here names the index of its entry in the log, which is the sequence at which the engine keeps the
//! versions that it wrote. So it tells where a read at that revision has to look, and it is what watches read. Values are
//! not repeated: whether a key was put or deleted, and what it was before, the engine knows.
//!
//! Most revisions change a key or two, and a row of the engine for each would cost more than the change itself. So they
//! are collected in a [`Tail`], which lies beside the engine and goes along with every view, and written as a block of
//! some dozens when it is long enough. A revision with very many keys is a block of its own, in several parts.
//!
//! ```text
//! block:       revisions: varint | entries
//! entry:       index: varint | past bytes: varint | keys: varint | key: blob …
//! later part:  key: blob …
//! ```
//!
//! Index and past bytes are differences to the entry before, in the first entry of a block to 0.
//!
//! *Past bytes* counts what all revisions up to this one have left behind, compacted or not: their entries, and the
//! versions that they superseded, each with about what it takes in the memory engine. The difference of two entries
//! is what lies between them, without a look at it.

use crate::keys::Key;
use crate::record::varint_bytes;
use base::Index;
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;
use storage::engine::Batch;

/// What an entry takes beside its keys.
const ENTRY_BYTES: u64 = 16;
/// What a superseded version takes beside key and record.
const VERSION_BYTES: u64 = 144;
/// A block is full with so many revisions or bytes.
pub const BLOCK_REVISIONS: u64 = 64;
pub const BLOCK_BYTES: usize = 4 * 1024;
const PART_BYTES: usize = 64 * 1024;

/// One revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub revision: u64,
    pub index: Index,
    pub past_bytes: u64,
    /// How many keys.
    pub keys: u64,
}

/// The newest revisions, which are in no block yet.
#[derive(Clone, Debug)]
pub struct Tail {
    pub first: u64,
    entries: Writer,
    revisions: u64,
    last: Changed,
}

impl Tail {
    /// Of revisions from `first` on.
    pub fn new(first: u64) -> Tail {
        Tail { first, entries: Writer::new(), revisions: 0, last: Changed::default() }
    }

    /// Takes in the next revision; what is full goes into the batch.
    pub fn push<'a>(&mut self, changed: Changed, keys: impl Iterator<Item = &'a [u8]>, batch: &mut Batch) {
        self.begin_entry(changed);
        let mut part = 0;
        for key in keys {
            if self.entries.len() >= PART_BYTES {
                // Of many keys those that fit are in the block, the rest in parts behind it.
                self.write(part, batch);
                part += 1;
            }
            self.entries.blob(key);
        }
        if part > 0 || self.entries.len() >= BLOCK_BYTES || self.revisions >= BLOCK_REVISIONS {
            self.write(part, batch);
            *self = Tail::new(changed.revision + 1);
        }
    }

    fn begin_entry(&mut self, changed: Changed) {
        self.entries.varint(changed.index - self.last.index);
        self.entries.varint(changed.past_bytes - self.last.past_bytes);
        self.entries.varint(changed.keys);
        self.revisions += 1;
        self.last = changed;
    }

    fn write(&mut self, part: u32, batch: &mut Batch) {
        let entries = std::mem::take(&mut self.entries);
        let mut block = Writer::with_capacity(entries.len() + varint_bytes(self.revisions));
        if part == 0 {
            block.varint(self.revisions);
        }
        block.raw(entries.as_slice());
        batch.put(Key::Changes { first: self.first, part }.encode(), block.into_bytes());
    }

    pub fn entries(&self) -> Bytes {
        Bytes::copy_from_slice(self.entries.as_slice())
    }

    /// What [`Tail::entries`] gave.
    pub fn load(first: u64, entries: Bytes) -> Result<Tail, Malformed> {
        let mut tail = Tail::new(first);
        tail.entries.raw(&entries);
        let mut entries = Entries::new(first, entries);
        while let Some(changed) = entries.next()? {
            (tail.revisions, tail.last) = (tail.revisions + 1, changed);
        }
        Ok(tail)
    }
}

/// What superseding such a version adds to the past.
pub fn superseded_bytes(key: &[u8], record_bytes: usize) -> u64 {
    VERSION_BYTES + key.len() as u64 + record_bytes as u64
}

/// What an entry with such keys adds to the past.
pub fn entry_bytes(key_bytes: usize, keys: u64) -> u64 {
    ENTRY_BYTES + key_bytes as u64 + keys
}

/// Reads a block or a tail, revision by revision.
#[derive(Clone)]
pub struct Entries {
    rest: Reader,
    next: u64,
    last: Changed,
    /// Keys of the last revision that were not read yet.
    keys: u64,
}

impl Entries {
    pub fn new(first: u64, entries: Bytes) -> Entries {
        Entries { rest: Reader::new(entries), next: first, last: Changed::default(), keys: 0 }
    }

    /// The revision that [`Entries::next`] gives first.
    pub fn first(&self) -> u64 {
        self.next
    }

    /// How many revisions a block has, and what it says of them.
    pub fn of_block(first: u64, block: Bytes) -> Result<(u64, Entries), Malformed> {
        let mut reader = Reader::new(block);
        let revisions = reader.varint()?;
        Ok((revisions, Entries::new(first, reader.rest())))
    }

    pub fn next(&mut self) -> Result<Option<Changed>, Malformed> {
        while self.key()?.is_some() {}
        if self.rest.remaining() == 0 {
            return Ok(None);
        }
        let overflow = Malformed("difference of a revision");
        let changed = Changed {
            revision: self.next,
            index: self.last.index.checked_add(self.rest.varint()?).ok_or(overflow)?,
            past_bytes: self.last.past_bytes.checked_add(self.rest.varint()?).ok_or(overflow)?,
            keys: self.rest.varint()?,
        };
        (self.next, self.last, self.keys) = (self.next.checked_add(1).ok_or(overflow)?, changed, changed.keys);
        Ok(Some(changed))
    }

    /// The next key of the revision that [`Entries::next`] gave last; the rest may be in parts behind the block.
    pub fn key(&mut self) -> Result<Option<Bytes>, Malformed> {
        if self.keys == 0 || self.rest.remaining() == 0 {
            return Ok(None);
        }
        self.keys -= 1;
        self.rest.blob().map(Some)
    }

    /// Goes on in the next part.
    pub fn go_on(&mut self, part: Bytes) {
        self.rest = Reader::new(part);
    }

    /// Keys of the last revision that are not in what was given so far.
    pub fn owed(&self) -> u64 {
        self.keys
    }

    /// Goes to that revision.
    pub fn find(&mut self, revision: u64) -> Result<Option<Changed>, Malformed> {
        while let Some(changed) = self.next()? {
            if changed.revision == revision {
                return Ok(Some(changed));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::engine::{Engine, MemoryEngine, View as _};

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("key {number}"))
    }

    /// Revision `n` changes `n` keys, and one of them very many.
    #[test]
    fn what_is_pushed_is_found_in_blocks_and_tail() {
        let (mut engine, mut tail) = (MemoryEngine::new(), Tail::new(1));
        let count = |revision| if revision == 70 { 20_000 } else { revision % 10 + 1 };
        for revision in 1..=200 {
            let mut batch = Batch::new();
            let changed = Changed { revision, index: 3 * revision, past_bytes: 5 * revision, keys: count(revision) };
            let keys: Vec<Bytes> = (0..changed.keys).map(key).collect();
            tail.push(changed, keys.iter().map(|key| &key[..]), &mut batch);
            engine.write(revision, batch).unwrap();
            if revision % 7 == 0 {
                let loaded = Tail::load(tail.first, tail.entries()).unwrap();
                assert_eq!((loaded.revisions, loaded.entries()), (tail.revisions, tail.entries()));
                tail = loaded;
            }
        }
        let mut next = 1;
        for row in engine.view().range(&[], None) {
            let (home, row) = row.unwrap();
            let Some(Key::Changes { first, part: 0 }) = Key::decode(&home) else { continue };
            let (revisions, mut entries) = Entries::of_block(first, row).unwrap();
            assert_eq!(first, next);
            next += revisions;
            for revision in first..next {
                let changed = entries.next().unwrap().unwrap();
                assert_eq!((changed.revision, changed.index, changed.keys), (revision, 3 * revision, count(revision)));
                let mut part = 0;
                for number in 0..changed.keys {
                    let found = entries.key().unwrap().unwrap_or_else(|| {
                        part += 1;
                        let home = Key::Changes { first, part }.encode();
                        entries.go_on(engine.get(home.as_slice()).unwrap().unwrap());
                        entries.key().unwrap().unwrap()
                    });
                    assert_eq!(found, key(number));
                }
                assert_eq!((part > 0, entries.owed()), (revision == 70, 0));
            }
            assert_eq!(entries.next(), Ok(None));
        }
        assert_eq!(next, tail.first);
        let mut entries = Entries::new(tail.first, tail.entries());
        assert_eq!(entries.find(200).unwrap().unwrap().past_bytes, 1000);
        assert_eq!(entries.find(201), Ok(None));
    }
}
