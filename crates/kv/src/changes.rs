//! The past revision by revision, for watches that begin in it or fell behind.
//!
//! Nothing of the past goes while a reader like this lives, so one should not be held for long: read some revisions, drop
//! it, and go on later from where it ended.

use crate::history::Entries;
use crate::keys::Key;
use crate::range::KeyRange;
use crate::view::{KeyValue, OutOfReach, ReadError, View};
use base::Index;
use base::codec::Malformed;
use bytes::Bytes;
use std::fmt;
use storage::StorageError;
use storage::engine::{AnyHistory, History as _, View as _};

/// Gives each revision whole, in order, up to that of the view. An error is the last that it gives. Made by
/// [`View::changes`].
pub struct Changes {
    view: View,
    past: AnyHistory,
    /// Where the past begins that can be looked at.
    since: Index,
    entries: Entries,
    next: u64,
    keys: KeyRange,
    previous: bool,
}

/// What one revision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    pub revision: u64,
    /// In the order of the keys, each once. Empty if none of the keys is among those asked for.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    /// `None`: it was deleted.
    pub now: Option<KeyValue>,
    /// What it was before, if that was asked for; `None` if it was not there, or that is compacted.
    pub previous: Option<KeyValue>,
}

impl View {
    /// What happened to some keys from that revision on. The first revision that can be asked for is the compacted one; what
    /// was there before it is not known. Beyond the newest there is nothing.
    pub fn changes(&self, from: u64, keys: KeyRange, previous: bool) -> Result<Changes, ReadError> {
        let oldest = self.compacted();
        if from < oldest {
            return Err(OutOfReach::Compacted { revision: from, oldest }.into());
        }
        let next = from.max(1);
        let before = self.entry((next - 1).clamp(oldest, self.revision()))?;
        // A view that is older than a compaction can still ask for what is gone.
        let gone = OutOfReach::Compacted { revision: from, oldest: from.saturating_add(1) };
        let past = self.engine.history(before.index).ok_or(gone)?;
        let mut entries = self.entries(next)?;
        if next > 1 && next <= self.revision() && entries.first() < next {
            entries.find(next - 1).map_err(|malformed| damaged(next - 1, malformed))?;
        }
        Ok(Changes { view: self.clone(), past, since: before.index, entries, next, keys, previous })
    }
}

impl Changes {
    fn read(&mut self) -> Result<Revision, StorageError> {
        let revision = self.next;
        let intact = |malformed: Malformed| damaged(revision, malformed);
        let mut changed = self.entries.next().map_err(intact)?;
        if changed.is_none() {
            self.entries = self.view.entries(revision)?;
            changed = self.entries.next().map_err(intact)?;
        }
        let changed = changed.ok_or_else(|| damaged(revision, "it has no entry"))?;
        let (mut changes, mut part) = (Vec::new(), 0);
        loop {
            while let Some(key) = self.entries.key().map_err(intact)? {
                if self.keys.contains(&key) {
                    changes.push(self.change(key, changed.index)?);
                }
            }
            part += 1;
            match self.next_part(part)? {
                Some(row) => self.entries.go_on(row),
                None => break,
            }
        }
        self.next += 1;
        Ok(Revision { revision: changed.revision, changes })
    }

    fn change(&self, key: Bytes, index: Index) -> Result<Change, StorageError> {
        let home = Key::Data(&key).encode();
        let at = |index| {
            let record = self.past.get(home.as_slice(), index)?;
            record.map(|record| KeyValue::from_record(&key, record)).transpose()
        };
        let previous = if self.previous && index > self.since { at(index - 1)? } else { None };
        Ok(Change { now: at(index)?, previous, key })
    }

    /// The rest of a revision whose keys did not all fit into its block.
    fn next_part(&self, part: u32) -> Result<Option<Bytes>, StorageError> {
        if self.entries.owed() == 0 {
            return Ok(None);
        }
        let Some(first) = self.view.block_of(self.next)? else { return Ok(None) };
        self.view.engine.get(Key::Changes { first, part }.encode().as_slice())
    }
}

impl Iterator for Changes {
    type Item = Result<Revision, StorageError>;

    fn next(&mut self) -> Option<Result<Revision, StorageError>> {
        if self.next > self.view.revision() {
            return None;
        }
        let revision = self.read();
        if revision.is_err() {
            self.next = u64::MAX;
        }
        Some(revision)
    }
}

/// What is said of that revision, wherever it is.
fn damaged(revision: u64, what: impl fmt::Display) -> StorageError {
    Key::Changes { first: revision, part: 0 }.damaged(what)
}
