//! What was written and is in no table yet, which one thread writes and all read: a skip list of keys, and behind each key
//! its versions, the newest first.
//!
//! A search in a large list is one cache miss after another, and what is written most is written again and again. So a
//! version of a key that is there already costs no place in the list, which stays as small as there are keys. An old
//! version is found in about as many steps as the logarithm of their number has: each knows, beside the next older one, one
//! that is much older.
//!
//! Source: Myers, "An applicative random-access stack" (1983), for which older version is known.

use super::entry::{Home, Place};
use crate::engine::{Key, Sequence};
use arc_swap::ArcSwap;
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a key takes beside itself: the list's node, and what is counted and allocated around it.
const KEY_BYTES: usize = 72;
/// What a version takes beside its value.
const VERSION_BYTES: usize = 96;

#[derive(Default)]
pub(super) struct Memtable {
    keys: SkipMap<Key, Versions>,
    size_bytes: AtomicUsize,
}

/// Of one key.
struct Versions {
    newest: ArcSwap<Version>,
}

struct Version {
    sequence: Sequence,
    /// `None`: it was deleted.
    value: Option<Bytes>,
    older: Option<Arc<Version>>,
    /// One much older, unless there is none.
    leap: Option<Arc<Version>>,
    /// So many are older.
    depth: u32,
}

/// One version of one key.
pub(super) struct MemEntry<'a> {
    key: Entry<'a, Key, Versions>,
    version: Arc<Version>,
}

impl Memtable {
    /// A later change at the same sequence takes the place of an earlier one.
    pub(super) fn insert(&self, sequence: Sequence, key: Key, value: Option<Bytes>) {
        let mut size = VERSION_BYTES + value.as_ref().map_or(0, Bytes::len);
        match self.keys.get(&key) {
            Some(entry) => {
                let newest = &entry.value().newest;
                let before = Some(newest.load_full()).filter(|newest| newest.sequence < sequence);
                let before = before.or_else(|| newest.load().older.clone());
                newest.store(Version::after(before, sequence, value));
            }
            None => {
                size += KEY_BYTES + key.as_slice().len();
                let newest = ArcSwap::new(Version::after(None, sequence, value));
                self.keys.insert(key, Versions { newest });
            }
        }
        self.size_bytes.fetch_add(size, Ordering::Relaxed);
    }

    /// About how much memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// The newest version of a key that a sequence sees, if there is any here.
    pub(super) fn find(&self, wanted: &Home) -> Option<MemEntry<'_>> {
        let key = self.keys.get(&wanted.key)?;
        let version = key.value().newest.load().at(wanted.sequence)?.clone();
        Some(MemEntry { key, version })
    }

    pub(super) fn at_or_behind(&self, home: &Home) -> Option<MemEntry<'_>> {
        let key = self.keys.lower_bound(Bound::Included(&home.key))?;
        if *key.key() != home.key {
            return Some(MemEntry::newest_of(key));
        }
        let newest = key.value().newest.load_full();
        match newest.at(home.sequence) {
            Some(version) => Some(MemEntry { version: version.clone(), key }),
            None => key.next().map(MemEntry::newest_of),
        }
    }

    /// The first entry behind a place; of all without one.
    pub(super) fn behind(&self, home: Option<&Home>) -> Option<MemEntry<'_>> {
        let Some(home) = home else { return self.keys.front().map(MemEntry::newest_of) };
        let entry = self.at_or_behind(home)?;
        if entry.place() == home.place() { entry.next() } else { Some(entry) }
    }

    /// An entry of the last key before one; of all without one.
    pub(super) fn before(&self, key: Option<&Key>) -> Option<MemEntry<'_>> {
        let bound = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.keys.upper_bound(bound).map(MemEntry::newest_of)
    }
}

impl<'a> MemEntry<'a> {
    fn newest_of(key: Entry<'a, Key, Versions>) -> MemEntry<'a> {
        MemEntry { version: key.value().newest.load_full(), key }
    }

    pub(super) fn place(&self) -> Place<'_> {
        (self.key.key().as_slice(), self.version.sequence)
    }

    pub(super) fn value(&self) -> &Option<Bytes> {
        &self.version.value
    }

    pub(super) fn next(self) -> Option<MemEntry<'a>> {
        match self.version.older.clone() {
            Some(version) => Some(MemEntry { key: self.key, version }),
            None => self.key.next().map(MemEntry::newest_of),
        }
    }
}

impl Version {
    fn after(older: Option<Arc<Version>>, sequence: Sequence, value: Option<Bytes>) -> Arc<Version> {
        let depth = older.as_ref().map_or(0, |older| older.depth + 1);
        let leap = older.as_ref().map(|older| match &older.leap {
            // Two leaps of one length make one of twice that length.
            Some(first)
                if let Some(second) = &first.leap
                    && older.depth - first.depth == first.depth - second.depth =>
            {
                second.clone()
            }
            _ => older.clone(),
        });
        Arc::new(Version { sequence, value, older, leap, depth })
    }

    /// The newest that a sequence sees, of this and the older ones.
    fn at(self: &Arc<Version>, sequence: Sequence) -> Option<&Arc<Version>> {
        let mut version = self;
        while version.sequence > sequence {
            let leap = version.leap.as_ref().filter(|leap| leap.sequence > sequence);
            version = leap.or(version.older.as_ref())?;
        }
        Some(version)
    }
}

/// One after another: by itself it would be one within another, as deep as there are versions.
impl Drop for Version {
    fn drop(&mut self) {
        let mut older = self.older.take();
        self.leap = None;
        while let Some(version) = older {
            older = Arc::into_inner(version).and_then(|mut version| {
                version.leap = None;
                version.older.take()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::rng::Rng;

    fn home(key: u64, sequence: Sequence) -> Home {
        Home::new(&key.to_be_bytes(), sequence)
    }

    /// Against a plain list of all that was written.
    #[test]
    fn every_version_is_found_from_every_place() {
        let mut rng = Rng::new(7);
        for _ in 0..20 {
            let (memtable, keys) = (Memtable::default(), 1 + rng.below(5));
            let mut written: Vec<(u64, Sequence, Option<Bytes>)> = Vec::new();
            let mut sequence = 0;
            for _ in 0..rng.below(300) {
                sequence += rng.below(3);
                let (key, value) = (2 * rng.below(keys), rng.chance(800).then(|| Bytes::from(sequence.to_string())));
                written.retain(|entry| (entry.0, entry.1) != (key, sequence));
                written.push((key, sequence, value.clone()));
                memtable.insert(sequence, Key::new(&key.to_be_bytes()), value);
            }
            written.sort_by_key(|&(key, sequence, _)| (key, u64::MAX - sequence));

            let mut entry = memtable.behind(None);
            for (key, sequence, value) in &written {
                let found = entry.expect("there is another");
                assert_eq!((found.place(), found.value()), (home(*key, *sequence).place(), value));
                entry = found.next();
            }
            assert!(entry.is_none());

            for key in 0..2 * keys + 1 {
                for at in 0..sequence + 2 {
                    let wanted = home(key, at);
                    let seen = written.iter().find(|entry| entry.0 == key && entry.1 <= at);
                    let found = memtable.find(&wanted).map(|entry| entry.value().clone());
                    assert_eq!(found, seen.map(|entry| entry.2.clone()));
                    let or_behind = written.iter().find(|entry| entry.0 > key || (entry.0 == key && entry.1 <= at));
                    let place = |entry: MemEntry<'_>| (entry.place().0.to_vec(), entry.place().1);
                    let expected = |entry: &(u64, Sequence, _)| (entry.0.to_be_bytes().to_vec(), entry.1);
                    assert_eq!(memtable.at_or_behind(&wanted).map(place), or_behind.map(expected));
                    let behind = written.iter().find(|entry| entry.0 > key || (entry.0 == key && entry.1 < at));
                    assert_eq!(memtable.behind(Some(&wanted)).map(place), behind.map(expected));
                }
                let before =
                    written.iter().rev().find(|entry| entry.0 < key).map(|entry| entry.0.to_be_bytes().to_vec());
                let found = memtable.before(Some(&Key::new(&key.to_be_bytes())));
                assert_eq!(found.map(|entry| entry.place().0.to_vec()), before);
            }
        }
    }

    #[test]
    fn a_key_with_very_many_versions_is_searched_and_dropped_in_time() {
        let memtable = Memtable::default();
        const VERSIONS: u64 = 300_000;
        for sequence in 1..=VERSIONS {
            memtable.insert(sequence, Key::new(b"hot"), Some(Bytes::new()));
        }
        let key = memtable.keys.get(&Key::new(b"hot")).unwrap();
        let newest = key.value().newest.load_full();
        for sequence in [1, 2, 77_777, VERSIONS / 2, VERSIONS - 1] {
            let (mut steps, mut version) = (0, &newest);
            while version.sequence > sequence {
                let leap = version.leap.as_ref().filter(|leap| leap.sequence > sequence);
                version = leap.or(version.older.as_ref()).unwrap();
                steps += 1;
            }
            assert!(version.sequence == sequence && steps <= 60, "{steps} steps to {sequence}");
        }
        // Somebody still looks at it when the rest goes.
        let kept = newest.at(VERSIONS / 2).unwrap().clone();
        drop((newest, key));
        drop(memtable);
        assert_eq!(kept.older.as_ref().unwrap().sequence, VERSIONS / 2 - 1);
    }
}
