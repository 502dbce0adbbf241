//! The past revision by revision, for watches that begin in it or fell behind.
//!
//! Nothing of the past goes while a reader like this lives, so one should not be held for long: read some revisions, drop
//! it, and go on later from where it ended.

use crate::history::Entries;
use crate::keys::Key;
use crate::range::KeyRange;
use crate::view::{KeyValue, OutOfReach, View};
use base::Index;
use bytes::Bytes;
use storage::engine::{History as _, MemoryHistory, View as _};

/// Gives each revision whole, in order, up to that of the view. Made by [`View::changes`].
pub struct Changes {
    view: View,
    past: MemoryHistory,
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
    pub fn changes(&self, from: u64, keys: KeyRange, previous: bool) -> Result<Changes, OutOfReach> {
        let oldest = self.compacted();
        if from < oldest {
            return Err(OutOfReach::Compacted { revision: from, oldest });
        }
        let next = from.max(1);
        let before = self.changed((next - 1).clamp(oldest, self.revision()))?;
        // A view that is older than a compaction can still ask for what is gone.
        let gone = OutOfReach::Compacted { revision: from, oldest: from.saturating_add(1) };
        let past = self.engine.history(before.index).ok_or(gone)?;
        let mut entries = self.entries(next);
        if next > 1 && next <= self.revision() && entries.first() < next {
            entries.find(next - 1).expect("the engine holds what was put into it");
        }
        Ok(Changes { view: self.clone(), past, since: before.index, entries, next, keys, previous })
    }
}

impl Changes {
    fn change(&self, key: Bytes, index: Index) -> Change {
        let home = Key::Data(&key).encode();
        let at = |index| {
            let Ok(record) = self.past.get(home.as_slice(), index);
            record.map(KeyValue::from_record)
        };
        let previous = if self.previous && index > self.since { at(index - 1) } else { None };
        Change { now: at(index), previous, key }
    }

    /// The rest of a revision whose keys did not all fit into its block.
    fn next_part(&self, part: u32) -> Option<Bytes> {
        if self.entries.owed() == 0 {
            return None;
        }
        let first = self.view.block_of(self.next)?;
        let Ok(row) = self.view.engine.get(Key::Changes { first, part }.encode().as_slice());
        row
    }
}

impl Iterator for Changes {
    type Item = Revision;

    fn next(&mut self) -> Option<Revision> {
        if self.next > self.view.revision() {
            return None;
        }
        const INTACT: &str = "the engine holds what was put into it";
        let mut changed = self.entries.next().expect(INTACT);
        if changed.is_none() {
            self.entries = self.view.entries(self.next);
            changed = self.entries.next().expect(INTACT);
        }
        let changed = changed.expect("every revision above the compacted has an entry");
        let (mut changes, mut part) = (Vec::new(), 0);
        loop {
            while let Some(key) = self.entries.key().expect(INTACT) {
                if self.keys.contains(&key) {
                    changes.push(self.change(key, changed.index));
                }
            }
            part += 1;
            match self.next_part(part) {
                Some(row) => self.entries.go_on(row),
                None => break,
            }
        }
        self.next += 1;
        Some(Revision { revision: changed.revision, changes })
    }
}
