//! What was written and is in no table yet, which one thread writes and all read: a skip list of keys, an index of them by
//! their hashes, and behind each key its versions, the newest first.
//!
//! A search in a list is one cache miss after another, and most that is asked for is one key. So one key is looked for in
//! the index, and the list is for ranges, and for a key's first version. An old version is found in about as many steps as
//! the logarithm of their number has: each knows, beside the next older one, one that is much older.
//!
//! Keys that share a place of the index are few, or some of them are not in it: so whoever chooses keys whose hashes collide
//! makes reads as slow as a search in the list, and not slower.
//!
//! Source: Myers, "An applicative random-access stack" (1983), for which older version is known.

use super::entry::{Home, Place};
use super::filter;
use crate::engine::{Key, Sequence};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a key takes beside itself: the nodes of list and index, and what is counted and allocated around them.
const KEY_BYTES: usize = 160;
/// What a version takes beside its value.
const VERSION_BYTES: usize = 96;

/// For so many bytes of a memtable the index has a place.
const BYTES_A_PLACE: usize = 512;
/// So many keys share a place at the most.
const MAX_SHARING: u8 = 8;

pub(super) struct Memtable {
    keys: SkipMap<Key, Arc<Versions>>,
    /// As many places as a power of two; what is in one is a chain.
    index: Box<[ArcSwapOption<Versions>]>,
    size_bytes: AtomicUsize,
}

/// Of one key.
struct Versions {
    key: Key,
    newest: ArcSwap<Version>,
    /// Another key in the same place of the index, and how many there are from here on.
    next: Option<Arc<Versions>>,
    sharing: u8,
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
    key: Entry<'a, Key, Arc<Versions>>,
    version: Arc<Version>,
}

impl Memtable {
    /// `capacity_bytes` is about how large it will become.
    pub(super) fn new(capacity_bytes: usize) -> Memtable {
        let places = (capacity_bytes / BYTES_A_PLACE).clamp(1, 1 << 20).next_power_of_two();
        let index = (0..places).map(|_| ArcSwapOption::empty()).collect();
        Memtable { keys: SkipMap::new(), index, size_bytes: AtomicUsize::new(0) }
    }

    /// A later change at the same sequence takes the place of an earlier one.
    pub(super) fn insert(&self, sequence: Sequence, key: Key, value: Option<Bytes>) {
        let mut size = VERSION_BYTES + value.as_ref().map_or(0, Bytes::len);
        let hash = filter::hash(key.as_slice());
        match self.versions(&key, hash) {
            Some(versions) => {
                let newest = &versions.newest;
                let before = Some(newest.load_full()).filter(|newest| newest.sequence < sequence);
                let before = before.or_else(|| newest.load().older.clone());
                newest.store(Version::after(before, sequence, value));
            }
            None => {
                size += KEY_BYTES + key.as_slice().len();
                let newest = ArcSwap::new(Version::after(None, sequence, value));
                let place = self.place(hash);
                let next = place.load_full();
                let sharing = next.as_ref().map_or(0, |next| next.sharing) + 1;
                if sharing <= MAX_SHARING {
                    let versions = Arc::new(Versions { key: key.clone(), newest, next, sharing });
                    // Whoever finds it in the list finds it in the index too.
                    place.store(Some(versions.clone()));
                    self.keys.insert(key, versions);
                } else {
                    let versions = Versions { key: key.clone(), newest, next: None, sharing };
                    self.keys.insert(key, Arc::new(versions));
                }
            }
        }
        self.size_bytes.fetch_add(size, Ordering::Relaxed);
    }

    fn versions(&self, key: &Key, hash: u64) -> Option<Arc<Versions>> {
        let first = self.place(hash).load();
        let mut at = first.as_ref();
        while let Some(versions) = at {
            if versions.key == *key {
                return Some(versions.clone());
            }
            at = versions.next.as_ref();
        }
        let is_full = first.as_ref().is_some_and(|first| first.sharing == MAX_SHARING);
        if is_full { self.keys.get(key).map(|entry| entry.value().clone()) } else { None }
    }

    fn place(&self, hash: u64) -> &ArcSwapOption<Versions> {
        // As many as a power of two: the lowest bits.
        &self.index[hash as usize & (self.index.len() - 1)]
    }

    /// About how much memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// What the newest version of a key that a sequence sees holds, if there is any here. `hash` is the key's.
    pub(super) fn find(&self, wanted: &Home, hash: u64) -> Option<Found> {
        let versions = self.versions(&wanted.key, hash)?;
        let version = versions.newest.load().at(wanted.sequence)?.clone();
        Some(Found(version))
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

/// A version that was asked for by its key.
pub(super) struct Found(Arc<Version>);

impl Found {
    pub(super) fn value(&self) -> &Option<Bytes> {
        &self.0.value
    }
}

impl<'a> MemEntry<'a> {
    fn newest_of(key: Entry<'a, Key, Arc<Versions>>) -> MemEntry<'a> {
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
            // Also where all keys share one place of the index, and some have none.
            let (memtable, keys) = (Memtable::new(rng.below(4096) as usize), 1 + rng.below(30));
            let mut written: Vec<(u64, Sequence, Option<Bytes>)> = Vec::new();
            let mut sequence = 0;
            for _ in 0..rng.below(200) {
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
                    let found =
                        memtable.find(&wanted, filter::hash(wanted.key.as_slice())).map(|entry| entry.value().clone());
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
        let memtable = Memtable::new(1 << 20);
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
