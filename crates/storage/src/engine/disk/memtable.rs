//! What was written and is in no table yet, which one thread writes and all read: a skip list of keys (Pugh, 1990), an index
//! of them by their hashes, and behind each key its versions, the newest first.
//!
//! A search in a list is one cache miss after another, and most that is asked for is one key. So one key is looked for in
//! the index, and the list is for ranges, and for where a key comes that is new. An old version is found in about as many
//! steps as the logarithm of their number has: marks among them know one that is much older.
//!
//! Keys that share a place of the index are few, or some of them are not in it: so whoever chooses keys whose hashes collide
//! makes reads as slow as a search in the list, and not slower.
//!
//! Nothing is ever taken out, and all goes at once. So keys, versions and values lie in large pieces of memory in the order
//! in which they came, and name each other by numbers: what a write takes is not one allocation after another, which
//! would have to be given back one after another as well.
//!
//! Source: Myers, "An applicative random-access stack" (1983), for which older version is known.

use super::entry::{Home, Place};
use super::filter;
use super::slab::{Link, Number, Slab};
use crate::engine::{Key, Sequence};
use base::rng::Rng;
use bytes::{Bytes, BytesMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a key takes beside its bytes: its entry, its places in lists above the lowest, and its part of the index.
const KEY_BYTES: usize = 80;
/// What a version takes beside its value.
const VERSION_BYTES: usize = 64;

/// For so many bytes of a memtable the index has a place.
const BYTES_A_PLACE: usize = 256;
/// So many keys share a place at the most.
const MAX_SHARING: u8 = 8;
/// A quarter of the keys of a level are on the next one, too.
const LEVELS: usize = 12;
/// Memory is taken in so many pieces until the memtable is full, about.
const PIECES: usize = 96;
const MAX_PIECE_BYTES: usize = 256 << 10;

pub(super) struct Memtable {
    keys: Slab<Entry>,
    versions: Slab<Version>,
    /// The next keys on the levels above the lowest: of one key one after another, upwards.
    links: Slab<Link>,
    /// Where each level begins.
    first: [Link; LEVELS],
    /// As many places as a power of two; what is in one is a chain.
    index: Box<[Link]>,
    hand: Mutex<Hand>,
    size_bytes: AtomicUsize,
}

/// What only the writer needs.
struct Hand {
    /// Where small values are laid, one behind the other.
    values: BytesMut,
    piece_bytes: usize,
    rng: Rng,
}

struct Entry {
    key: Key,
    newest: Link,
    /// The next key.
    next: Link,
    /// The first of its links on the levels above the lowest.
    links: Option<Number>,
    /// Another key in the same place of the index, and how many there are from here on.
    neighbour: Option<Number>,
    sharing: u8,
}

struct Version {
    sequence: Sequence,
    /// `None`: it was deleted.
    value: Option<Bytes>,
    older: Option<Number>,
    /// Of a mark, one that is much older; of another, the newest mark that is older.
    leap: Option<Number>,
    /// So many are older.
    depth: u32,
}

/// Only every eighth version has a leap of its own, as it takes a look at three others.
fn is_mark(depth: u32) -> bool {
    depth.is_multiple_of(8)
}

/// One version of one key.
pub(super) struct MemEntry<'a> {
    memtable: &'a Memtable,
    entry: &'a Entry,
    version: &'a Version,
}

impl Memtable {
    /// `capacity_bytes` is about how large it will become.
    pub(super) fn new(capacity_bytes: usize) -> Memtable {
        let places = (capacity_bytes / BYTES_A_PLACE).clamp(1, 1 << 20).next_power_of_two();
        let piece_bytes = (capacity_bytes / PIECES).min(MAX_PIECE_BYTES);
        let slab_bits = |entry_bytes: usize| (piece_bytes / entry_bytes).max(1).ilog2();
        Memtable {
            keys: Slab::new(slab_bits(size_of::<Entry>())),
            versions: Slab::new(slab_bits(size_of::<Version>())),
            // There are far fewer of them, so their pieces are smaller.
            links: Slab::new(slab_bits(size_of::<Version>())),
            first: Default::default(),
            index: (0..places).map(|_| Link::default()).collect(),
            hand: Mutex::new(Hand { values: BytesMut::new(), piece_bytes, rng: Rng::new(0) }),
            size_bytes: AtomicUsize::new(0),
        }
    }

    /// A later change at the same sequence takes the place of an earlier one.
    pub(super) fn insert(&self, sequence: Sequence, key: Key, value: Option<Bytes>) {
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        let mut size = VERSION_BYTES + value.as_ref().map_or(0, Bytes::len);
        let value = value.map(|value| hand.lay(value));
        let hash = filter::hash(key.as_slice());
        if let Some(entry) = self.entry(&key, hash) {
            let newest = self.newest(entry);
            let before = if newest.sequence < sequence { entry.newest.get() } else { newest.older };
            entry.newest.set(self.add_version(before, sequence, value));
        } else {
            size += KEY_BYTES + key.as_slice().len();
            let newest = self.add_version(None, sequence, value);
            self.add_key(key, hash, newest, hand.levels());
        }
        self.size_bytes.fetch_add(size, Ordering::Relaxed);
    }

    fn add_version(&self, older: Option<Number>, sequence: Sequence, value: Option<Bytes>) -> Number {
        let before = older.map(|older| self.versions.get(older));
        let depth = before.map_or(0, |before| before.depth + 1);
        let leap = before.and_then(|before| if is_mark(before.depth) { older } else { before.leap });
        let leap = if is_mark(depth) { leap.map(|mark| self.leap_from(mark)) } else { leap };
        self.versions.push(Version { sequence, value, older, leap, depth })
    }

    /// Where a mark leaps to, of which `newest` is the next older one: two leaps of one length make one of twice that length.
    fn leap_from(&self, newest: Number) -> Number {
        let first = self.versions.get(newest);
        let second = first.leap.map(|second| self.versions.get(second));
        match second.and_then(|second| Some((second.depth, second.leap?))) {
            Some((second, leap)) if first.depth - second == second - self.versions.get(leap).depth => leap,
            _ => newest,
        }
    }

    fn add_key(&self, key: Key, hash: u64, newest: Number, levels: usize) {
        let (before, _) = self.around(|other| *other < key);
        let links = |level: usize| self.link(before[level], level);
        let mut first = None;
        for level in 1..=levels {
            let link = self.links.push(Link::to(links(level).get()));
            first.get_or_insert(link);
        }
        let place = self.place(hash);
        let neighbour = place.get();
        let sharing = neighbour.map_or(0, |neighbour| self.keys.get(neighbour).sharing) + 1;
        let (newest, next) = (Link::to(Some(newest)), Link::to(links(0).get()));
        let number = self.keys.push(Entry { key, newest, next, links: first, neighbour, sharing });
        // Whoever finds it in the list finds it in the index too.
        if sharing <= MAX_SHARING {
            place.set(number);
        }
        for level in 0..=levels {
            links(level).set(number);
        }
    }

    fn entry(&self, key: &Key, hash: u64) -> Option<&Entry> {
        let first = self.place(hash).get().map(|first| self.keys.get(first));
        let mut at = first;
        while let Some(entry) = at {
            if entry.key == *key {
                return Some(entry);
            }
            at = entry.neighbour.map(|neighbour| self.keys.get(neighbour));
        }
        let is_full = first.is_some_and(|first| first.sharing == MAX_SHARING);
        if is_full { self.at_or_behind_key(key).filter(|entry| entry.key == *key) } else { None }
    }

    fn place(&self, hash: u64) -> &Link {
        // As many as a power of two: the lowest bits.
        &self.index[hash as usize & (self.index.len() - 1)]
    }

    /// Where a place lies: between the last key on each level that comes before it, `None` where there is none, and the
    /// first one behind it.
    fn around(&self, is_before: impl Fn(&Key) -> bool) -> ([Option<Number>; LEVELS], Option<Number>) {
        let mut before = [None; LEVELS];
        let (mut at, mut behind) = (None, None);
        for level in (0..LEVELS).rev() {
            loop {
                let next = self.link(at, level).get();
                // What was behind the place on the level above is so on this one.
                if next == behind || !next.is_some_and(|next| is_before(&self.keys.get(next).key)) {
                    behind = next;
                    break;
                }
                at = next;
            }
            before[level] = at;
        }
        // Not what follows the one before it now: the writer may have put another key there since.
        (before, behind)
    }

    /// What follows a key on a level; without one, what is first there.
    fn link(&self, key: Option<Number>, level: usize) -> &Link {
        let Some(key) = key else { return &self.first[level] };
        let entry = self.keys.get(key);
        if level == 0 {
            return &entry.next;
        }
        let number = entry.links.and_then(|first| first.checked_add(level as u32 - 1));
        self.links.get(number.expect("it is on that level"))
    }

    fn at_or_behind_key(&self, key: &Key) -> Option<&Entry> {
        let (_, behind) = self.around(|other| other < key);
        behind.map(|behind| self.keys.get(behind))
    }

    fn newest(&self, entry: &Entry) -> &Version {
        self.versions.get(entry.newest.get().expect("every key has a version"))
    }

    /// The newest that a sequence sees, of this version and the older ones.
    fn at<'a>(&'a self, mut version: &'a Version, sequence: Sequence) -> Option<&'a Version> {
        while version.sequence > sequence {
            let leap = version.leap.map(|leap| self.versions.get(leap)).filter(|leap| leap.sequence > sequence);
            version = leap.or_else(|| version.older.map(|older| self.versions.get(older)))?;
        }
        Some(version)
    }

    fn newest_of<'a>(&'a self, entry: &'a Entry) -> MemEntry<'a> {
        MemEntry { memtable: self, entry, version: self.newest(entry) }
    }

    /// About how much memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// What the newest version of a key that a sequence sees holds, if there is any here. `hash` is the key's.
    pub(super) fn find(&self, wanted: &Home, hash: u64) -> Option<&Option<Bytes>> {
        let entry = self.entry(&wanted.key, hash)?;
        self.at(self.newest(entry), wanted.sequence).map(|version| &version.value)
    }

    pub(super) fn at_or_behind(&self, home: &Home) -> Option<MemEntry<'_>> {
        let entry = self.at_or_behind_key(&home.key)?;
        if entry.key != home.key {
            return Some(self.newest_of(entry));
        }
        match self.at(self.newest(entry), home.sequence) {
            Some(version) => Some(MemEntry { memtable: self, entry, version }),
            None => self.next_key(entry),
        }
    }

    /// The first entry behind a place; of all without one.
    pub(super) fn behind(&self, home: Option<&Home>) -> Option<MemEntry<'_>> {
        let Some(home) = home else {
            return self.first[0].get().map(|first| self.newest_of(self.keys.get(first)));
        };
        let entry = self.at_or_behind(home)?;
        if entry.place() == home.place() { entry.next() } else { Some(entry) }
    }

    /// An entry of the last key before one; of all without one.
    pub(super) fn before(&self, key: Option<&Key>) -> Option<MemEntry<'_>> {
        let (before, _) = self.around(|other| key.is_none_or(|key| other < key));
        before[0].map(|before| self.newest_of(self.keys.get(before)))
    }

    fn next_key<'a>(&'a self, entry: &'a Entry) -> Option<MemEntry<'a>> {
        entry.next.get().map(|next| self.newest_of(self.keys.get(next)))
    }
}

impl Hand {
    /// Copies a value to where it goes with all others, unless it is large enough to go alone.
    fn lay(&mut self, value: Bytes) -> Bytes {
        if value.is_empty() || value.len() > self.piece_bytes / 32 {
            return value;
        }
        if self.values.capacity() < value.len() {
            self.values = BytesMut::with_capacity(self.piece_bytes);
        }
        self.values.extend_from_slice(&value);
        self.values.split().freeze()
    }

    /// On how many levels above the lowest the next key is.
    fn levels(&mut self) -> usize {
        (self.rng.next_u64().trailing_zeros() as usize / 2).min(LEVELS - 1)
    }
}

impl<'a> MemEntry<'a> {
    pub(super) fn place(&self) -> Place<'a> {
        (self.entry.key.as_slice(), self.version.sequence)
    }

    pub(super) fn value(&self) -> &'a Option<Bytes> {
        &self.version.value
    }

    pub(super) fn next(self) -> Option<MemEntry<'a>> {
        match self.version.older {
            Some(older) => Some(MemEntry { version: self.memtable.versions.get(older), ..self }),
            None => self.memtable.next_key(self.entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

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
                    let found = memtable.find(&wanted, filter::hash(wanted.key.as_slice())).cloned();
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
    fn a_key_with_very_many_versions_is_searched_in_time() {
        let memtable = Memtable::new(1 << 20);
        const VERSIONS: u64 = 300_000;
        for sequence in 1..=VERSIONS {
            memtable.insert(sequence, Key::new(b"hot"), Some(Bytes::new()));
        }
        let version = |number: Number| memtable.versions.get(number);
        let newest = memtable.newest(memtable.entry(&Key::new(b"hot"), filter::hash(b"hot")).unwrap());
        for sequence in [1, 2, 77_777, VERSIONS / 2, VERSIONS - 1] {
            let (mut steps, mut at) = (0, newest);
            while at.sequence > sequence {
                let leap = at.leap.map(version).filter(|leap| leap.sequence > sequence);
                at = leap.or(at.older.map(version)).unwrap();
                steps += 1;
            }
            assert!(at.sequence == sequence && steps <= 60, "{steps} steps to {sequence}");
        }
    }

    /// Ascending, as many write their keys, and at random.
    #[test]
    fn a_new_key_finds_its_place_in_few_steps() {
        const KEYS: u64 = 100_000;
        for scatter in [1, 0x9e37_79b9_7f4a_7c15u64] {
            let memtable = Memtable::new(16 << 20);
            for key in 0..KEYS {
                memtable.insert(key, Key::new(&key.wrapping_mul(scatter).to_be_bytes()), None);
            }
            for key in 0..100 {
                let (wanted, steps) = (Key::new(&(u64::MAX / 100 * key).to_be_bytes()), Cell::new(0));
                memtable.around(|other| {
                    steps.set(steps.get() + 1);
                    *other < wanted
                });
                assert!(steps.get() < 120, "{} steps", steps.get());
            }
        }
    }

    /// Also where the writer puts one key after another just before it, and it is in no place of the index.
    #[test]
    fn a_key_that_is_there_is_found_while_others_come() {
        const KEYS: u64 = 50_000;
        let memtable = Memtable::new(1);
        // These take all places that there are.
        (0..10).for_each(|key| memtable.insert(1, Key::new(&u64::to_be_bytes(key)), None));
        memtable.insert(1, Key::new(&u64::MAX.to_be_bytes()), Some(Bytes::from("there")));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                (10..KEYS).for_each(|key| memtable.insert(2, Key::new(&key.to_be_bytes()), None));
            });
            let wanted = home(u64::MAX, 1);
            let hash = filter::hash(wanted.key.as_slice());
            while !writer.is_finished() {
                assert_eq!(memtable.find(&wanted, hash), Some(&Some(Bytes::from("there"))));
                assert_eq!(memtable.at_or_behind(&wanted).unwrap().place(), wanted.place());
            }
        });
    }
}
