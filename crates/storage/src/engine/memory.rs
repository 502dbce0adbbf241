//! The engine in memory: a lock-free ordered map from each key to the chain of its versions.
//!
//! The map (a skip list) finds a key's cell; the cell's head points at the newest version, and each version at the
//! one it superseded. The owner puts a new version in front by swapping one pointer, so overwriting a key needs one
//! search and moves nothing. A reader takes the head and walks to the first version that is not younger than its view;
//! versions of a batch that is still being written are all younger than every view, so nobody sees half a batch.
//!
//! A key that is overwritten often has a long chain. So some versions also point at one far behind them, in such
//! distances that any place in a chain of `n` is reached in about `log n` steps (skew-binary jumps: Myers, "An
//! applicative random-access stack", 1983). These pointers are weak: they keep nothing, and where their target is gone,
//! the walk goes on step by step.
//!
//! A live view holds a *pin* at its sequence. The version that was written at `a` and superseded at `b` is seen by the
//! views of `a..b`. Once it lies below the eviction threshold (or at once, if its key has no past), the newest live
//! pin in that interval becomes its keeper; when that pin dies, the next lower one in the interval does, and when there
//! is none, the version is unlinked. So below the threshold exactly that is kept which a live view can see: one old
//! version a key and view at the most, however often the keys are overwritten meanwhile. A live history holds the
//! threshold itself back. A deletion is a version too, and when it is the last of its chain the key leaves the map.
//!
//! Pins and holds lie in a registry behind a lock, since readers begin views of the past on their own threads; reading,
//! and cloning a view, takes no lock. Only the owner unlinks, a few versions a call, so that it never stops for long.

use super::{Batch, Engine, History, Key, Sequence, View};
use crate::StorageError;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub struct MemoryEngine {
    shared: Arc<Shared>,
    /// Keys from here on have no past.
    past_ends: Option<Key>,
    sequence: Sequence,
    /// Superseded versions of keys that have a past, oldest first.
    past: VecDeque<Superseded>,
    /// What pins kept that are gone.
    homeless: Vec<Superseded>,
}

/// The state at one sequence.
#[derive(Clone)]
pub struct MemoryView {
    pin: Arc<Pinned>,
}

/// All versions of some time.
pub struct MemoryHistory {
    view: MemoryView,
    since: Sequence,
}

struct Shared {
    cells: Cells,
    registry: Mutex<Registry>,
    /// A pin has died since the owner looked.
    pin_died: AtomicBool,
}

#[derive(Default)]
struct Registry {
    /// No view below this can be had.
    threshold: Sequence,
    /// Every sequence that some view is pinned to.
    pins: BTreeMap<Sequence, Pin>,
    /// Where live histories begin, and how many there.
    holds: BTreeMap<Sequence, usize>,
}

#[derive(Default)]
struct Pin {
    /// None is left: only its keeps are to be handed on.
    views: usize,
    keeps: Vec<Superseded>,
}

/// The views of one pin that were cloned from each other.
struct Pinned {
    shared: Arc<Shared>,
    sequence: Sequence,
}

type Cells = SkipMap<Key, Arc<Cell>>;
type CellRange<'a> = crossbeam_skiplist::map::Range<'a, Key, (Bound<Key>, Bound<Key>), Key, Arc<Cell>>;

struct Cell {
    head: ArcSwap<Version>,
}

struct Version {
    sequence: Sequence,
    content: Content,
    older: ArcSwapOption<Version>,
    /// Further behind than `older`.
    far: Option<Weak<Version>>,
    /// How many versions it was put on top of.
    depth: u64,
    /// It is in no chain any more, though somebody may still be looking at it. The owner's own note.
    unlinked: AtomicBool,
}

enum Content {
    Value(Bytes),
    /// Carries the key, to take it out of the map when this is all that is left.
    Deleted(Box<[u8]>),
}

/// The version of `cell` that was written at `written`, no longer the newest since `superseded`.
struct Superseded {
    cell: Arc<Cell>,
    /// The version in front of it, or one that was.
    newer: Option<Arc<Version>>,
    written: Sequence,
    superseded: Sequence,
}

impl MemoryEngine {
    /// All keys have a past.
    pub fn new() -> MemoryEngine {
        MemoryEngine {
            shared: Arc::new(Shared {
                cells: SkipMap::new(),
                registry: Mutex::default(),
                pin_died: AtomicBool::new(false),
            }),
            past_ends: None,
            sequence: 0,
            past: VecDeque::new(),
            homeless: Vec::new(),
        }
    }

    /// Keys from `boundary` on have no past.
    pub fn without_past_from(boundary: Key) -> MemoryEngine {
        MemoryEngine { past_ends: Some(boundary), ..MemoryEngine::new() }
    }

    fn put(&mut self, sequence: Sequence, key: Key, mut value: Bytes) {
        let has_past = self.has_past(&key);
        let mut found = true;
        let insert = || {
            found = false;
            let first = Version::first(sequence, Content::Value(std::mem::take(&mut value)));
            Arc::new(Cell { head: ArcSwap::from_pointee(first) })
        };
        let cell = Arc::clone(self.shared.cells.get_or_insert_with(key, insert).value());
        if found {
            self.supersede(sequence, cell, Content::Value(value), has_past);
        }
    }

    fn delete(&mut self, sequence: Sequence, key: Key) {
        let Some(cell) = self.shared.cells.get(key.as_slice()).map(|entry| Arc::clone(entry.value())) else { return };
        if cell.head.load().value().is_some() {
            let content = Content::Deleted(key.as_slice().into());
            self.supersede(sequence, cell, content, self.has_past(&key));
        }
    }

    fn has_past(&self, key: &Key) -> bool {
        self.past_ends.as_ref().is_none_or(|end| key < end)
    }

    fn supersede(&mut self, sequence: Sequence, cell: Arc<Cell>, content: Content, has_past: bool) {
        let head = cell.head.load_full();
        if head.sequence == sequence {
            // The same batch wrote it: nobody will ever see it, so the new version takes its place.
            head.unlinked.store(true, Ordering::Relaxed);
            cell.head.store(Arc::new(Version::in_the_place_of(&head, content)));
            self.shared.remove_if_nothing_is_left(&cell);
            return;
        }
        let written = head.sequence;
        let newest = Arc::new(Version::on_top_of(head, sequence, content));
        cell.head.store(Arc::clone(&newest));
        let version = Superseded { cell, newer: Some(newest), written, superseded: sequence };
        if has_past {
            self.past.push_back(version);
        } else {
            self.keep_or_unlink(version);
        }
    }

    fn keep_or_unlink(&self, version: Superseded) {
        if let Some(version) = self.shared.registry().keep(version) {
            self.shared.unlink(&version);
        }
    }

    /// What dead pins kept is to go to the next pins that see it.
    fn bury_dead_pins(&mut self) {
        if self.shared.pin_died.swap(false, Ordering::Acquire) {
            let homeless = &mut self.homeless;
            self.shared.registry().pins.retain(|_, pin| {
                if pin.views == 0 {
                    homeless.append(&mut pin.keeps);
                }
                pin.views > 0
            });
        }
    }

    /// How many versions there are, to show that none is kept too long.
    #[cfg(test)]
    pub(super) fn versions(&self) -> usize {
        let chain = |entry: crossbeam_skiplist::map::Entry<'_, Key, Arc<Cell>>| {
            let first = entry.value().head.load_full();
            std::iter::successors(Some(first), |version| version.older.load_full()).count()
        };
        self.shared.cells.iter().map(chain).sum()
    }

    /// How many versions of a key are looked at to find the one of a sequence.
    #[cfg(test)]
    pub(super) fn steps(&self, key: &[u8], sequence: Sequence) -> usize {
        let head = self.shared.cells.get(key).unwrap().value().head.load_full();
        let walk = std::iter::successors(Some(head), |version| {
            if version.sequence > sequence { version.towards(sequence) } else { None }
        });
        walk.count()
    }
}

impl Default for MemoryEngine {
    fn default() -> MemoryEngine {
        MemoryEngine::new()
    }
}

impl Engine for MemoryEngine {
    type View = MemoryView;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.shared.cells.get(key).and_then(|entry| entry.value().head.load().value()))
    }

    fn look<T>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, StorageError> {
        let Some(entry) = self.shared.cells.get(key) else { return Ok(look(None)) };
        match &entry.value().head.load().content {
            Content::Value(value) => Ok(look(Some(value))),
            Content::Deleted(_) => Ok(look(None)),
        }
    }

    fn write(&mut self, sequence: Sequence, batch: Batch) -> Result<(), StorageError> {
        assert!(sequence >= self.sequence, "sequence {sequence} after {}", self.sequence);
        if sequence == self.sequence {
            let seen = self.shared.registry().pins.get(&sequence).is_some_and(|pin| pin.views > 0);
            assert!(!seen, "a view would see sequence {sequence} change");
        }
        for (key, change) in batch.changes {
            match change {
                Some(value) => self.put(sequence, key, value),
                None => self.delete(sequence, key),
            }
        }
        self.sequence = sequence;
        Ok(())
    }

    fn sequence(&self) -> Sequence {
        self.sequence
    }

    fn view(&self) -> MemoryView {
        self.shared.pin(&mut self.shared.registry(), self.sequence)
    }

    fn evict_below(&mut self, sequence: Sequence) {
        let mut registry = self.shared.registry();
        registry.threshold = registry.threshold.max(sequence.min(self.sequence));
    }

    fn tidy(&mut self, versions: usize) {
        self.bury_dead_pins();
        let mut left = versions;
        while left > 0
            && let Some(version) = self.homeless.pop()
        {
            self.keep_or_unlink(version);
            left -= 1;
        }
        let registry = self.shared.registry();
        let threshold = registry.held_threshold();
        // Nobody can come to see what is below the threshold, so mostly one look at the pins is enough for all.
        let oldest_pin = registry.pins.first_key_value().map_or(Sequence::MAX, |(&sequence, _)| sequence);
        drop(registry);
        while left > 0
            && let Some(version) = self.past.pop_front_if(|version| version.superseded <= threshold)
        {
            if version.superseded <= oldest_pin {
                self.shared.unlink(&version);
            } else {
                self.keep_or_unlink(version);
            }
            left -= 1;
        }
    }

    fn load(&mut self, sequence: Sequence, key: Key, value: Option<Bytes>) -> Result<(), StorageError> {
        match value {
            Some(value) => self.put(sequence, key, value),
            None => self.delete(sequence, key),
        }
        Ok(())
    }

    fn end_loading(&mut self, sequence: Sequence, threshold: Sequence) -> Result<(), StorageError> {
        self.sequence = sequence;
        self.evict_below(threshold);
        self.past.make_contiguous().sort_by_key(|version| version.superseded);
        Ok(())
    }
}

impl View for MemoryView {
    type History = MemoryHistory;
    type Range<'a> = Range<'a>;

    fn sequence(&self) -> Sequence {
        self.pin.sequence
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let cells = &self.pin.shared.cells;
        Ok(cells.get(key).and_then(|entry| entry.value().at(self.pin.sequence)))
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_> {
        Range { cells: self.pin.shared.cells(from, to), sequence: self.pin.sequence }
    }

    fn count(&self, from: &[u8], to: Option<&[u8]>) -> Result<u64, StorageError> {
        let cells = self.pin.shared.cells(from, to).into_iter().flatten();
        Ok(cells.filter(|entry| entry.value().is_there_at(self.pin.sequence)).count() as u64)
    }

    fn at(&self, sequence: Sequence) -> Option<MemoryView> {
        let shared = &self.pin.shared;
        let mut registry = shared.registry();
        (registry.threshold..=self.pin.sequence).contains(&sequence).then(|| shared.pin(&mut registry, sequence))
    }

    fn history(&self, since: Sequence) -> Option<MemoryHistory> {
        let mut registry = self.pin.shared.registry();
        if !(registry.threshold..=self.pin.sequence).contains(&since) {
            return None;
        }
        *registry.holds.entry(since).or_default() += 1;
        Some(MemoryHistory { view: self.clone(), since })
    }
}

impl History for MemoryHistory {
    type Versions<'a> = Versions<'a>;

    fn get(&self, key: &[u8], sequence: Sequence) -> Result<Option<Bytes>, StorageError> {
        assert!((self.since..=self.view.pin.sequence).contains(&sequence), "sequence {sequence} of a history");
        let cells = &self.view.pin.shared.cells;
        Ok(cells.get(key).and_then(|entry| entry.value().at(sequence)))
    }

    fn versions(&self, from: &[u8], to: &[u8]) -> Versions<'_> {
        let cells = self.view.pin.shared.cells(from, Some(to));
        Versions { cells, since: self.since, until: self.view.pin.sequence }
    }
}

impl Drop for MemoryHistory {
    fn drop(&mut self) {
        let mut registry = self.view.pin.shared.registry();
        if let Some(holders) = registry.holds.get_mut(&self.since) {
            *holders -= 1;
            if *holders == 0 {
                registry.holds.remove(&self.since);
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut registry = self.shared.registry();
        if let Some(pin) = registry.pins.get_mut(&self.sequence) {
            pin.views -= 1;
            if pin.views == 0 {
                self.shared.pin_died.store(true, Ordering::Release);
            }
        }
    }
}

impl Registry {
    /// Gives the version to the newest pin that sees it, or back if there is none.
    fn keep(&mut self, version: Superseded) -> Option<Superseded> {
        let mut seen_by = self.pins.range_mut(version.written..version.superseded);
        match seen_by.rfind(|(_, pin)| pin.views > 0) {
            Some((_, pin)) => {
                // What is in front of it may go before it does, and must not be held up.
                pin.keeps.push(Superseded { newer: None, ..version });
                None
            }
            None => Some(version),
        }
    }

    /// Nobody can ask for what was superseded at or before it, nor is looking at it in a history.
    fn held_threshold(&self) -> Sequence {
        self.holds.first_key_value().map_or(self.threshold, |(&since, _)| since.min(self.threshold))
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pin(self: &Arc<Shared>, registry: &mut Registry, sequence: Sequence) -> MemoryView {
        registry.pins.entry(sequence).or_default().views += 1;
        MemoryView { pin: Arc::new(Pinned { shared: Arc::clone(self), sequence }) }
    }

    /// `None`: nothing lies between the bounds.
    fn cells(&self, from: &[u8], to: Option<&[u8]>) -> Option<CellRange<'_>> {
        match to {
            Some(to) if to <= from => None,
            Some(to) => Some(self.cells.range((Bound::Included(Key::new(from)), Bound::Excluded(Key::new(to))))),
            None => Some(self.cells.range((Bound::Included(Key::new(from)), Bound::Unbounded))),
        }
    }

    fn unlink(&self, version: &Superseded) {
        let in_front = version.newer.as_ref().filter(|newer| !newer.unlinked.load(Ordering::Relaxed));
        let mut newer = in_front.map_or_else(|| version.cell.head.load_full(), Arc::clone);
        while let Some(older) = newer.older.load_full() {
            if older.sequence == version.written {
                older.unlinked.store(true, Ordering::Relaxed);
                newer.older.store(older.older.load_full());
                break;
            }
            let far = newer.far().filter(|far| far.sequence > version.written && !far.unlinked.load(Ordering::Relaxed));
            newer = far.unwrap_or(older);
        }
        if !newer.is_value() {
            self.remove_if_nothing_is_left(&version.cell);
        }
    }

    fn remove_if_nothing_is_left(&self, cell: &Cell) {
        let head = cell.head.load();
        if let Content::Deleted(key) = &head.content
            && head.older.load().is_none()
        {
            self.cells.remove::<[u8]>(key);
        }
    }
}

pub struct Range<'a> {
    cells: Option<CellRange<'a>>,
    sequence: Sequence,
}

impl Iterator for Range<'_> {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let cells = self.cells.as_mut()?;
        loop {
            let entry = cells.next()?;
            if let Some(value) = entry.value().at(self.sequence) {
                return Some(Ok((Bytes::copy_from_slice(entry.key().as_slice()), value)));
            }
        }
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let cells = self.cells.as_mut()?;
        loop {
            let entry = cells.next_back()?;
            if let Some(value) = entry.value().at(self.sequence) {
                return Some(Ok((Bytes::copy_from_slice(entry.key().as_slice()), value)));
            }
        }
    }
}

pub struct Versions<'a> {
    cells: Option<CellRange<'a>>,
    since: Sequence,
    until: Sequence,
}

impl Iterator for Versions<'_> {
    type Item = Result<(Bytes, Vec<super::Version>), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let cells = self.cells.as_mut()?;
        loop {
            let entry = cells.next()?;
            let versions = entry.value().between(self.since, self.until);
            if !versions.is_empty() {
                return Some(Ok((Bytes::copy_from_slice(entry.key().as_slice()), versions)));
            }
        }
    }
}

impl Cell {
    fn at(&self, sequence: Sequence) -> Option<Bytes> {
        let head = self.head.load();
        if head.sequence <= sequence {
            return head.value();
        }
        head.find(sequence)?.value()
    }

    fn is_there_at(&self, sequence: Sequence) -> bool {
        let head = self.head.load();
        if head.sequence <= sequence {
            return head.is_value();
        }
        head.find(sequence).is_some_and(|version| version.is_value())
    }

    /// What was written after `since` and up to `until`, and before it what was there at `since`; oldest first.
    fn between(&self, since: Sequence, until: Sequence) -> Vec<super::Version> {
        let head = self.head.load_full();
        let newest = if head.sequence <= until { Some(head) } else { head.find(until) };
        let mut versions = Vec::new();
        let chain =
            std::iter::successors(
                newest,
                |version| {
                    if version.sequence > since { version.older.load_full() } else { None }
                },
            );
        for version in chain {
            // A deletion at the beginning says no more than its absence.
            if version.sequence > since || version.is_value() {
                versions.push(super::Version { sequence: version.sequence, value: version.value() });
            }
        }
        versions.reverse();
        versions
    }
}

impl Version {
    fn first(sequence: Sequence, content: Content) -> Version {
        Version::new(sequence, content, None, None, 0)
    }

    fn on_top_of(head: Arc<Version>, sequence: Sequence, content: Content) -> Version {
        let (far, depth) = (head.far_from_above(), head.depth + 1);
        Version::new(sequence, content, Some(head), far, depth)
    }

    fn in_the_place_of(head: &Version, content: Content) -> Version {
        Version::new(head.sequence, content, head.older.load_full(), head.far.clone(), head.depth)
    }

    fn new(
        sequence: Sequence,
        content: Content,
        older: Option<Arc<Version>>,
        far: Option<Weak<Version>>,
        depth: u64,
    ) -> Version {
        Version { sequence, content, older: ArcSwapOption::new(older), far, depth, unlinked: AtomicBool::new(false) }
    }

    /// Where a version on top of this one points far behind. Two jumps of equal length are followed by one over both.
    fn far_from_above(&self) -> Option<Weak<Version>> {
        // Most chains are short, and one step is as good as a jump over it.
        if self.depth < 2 {
            return None;
        }
        let behind = self.behind()?;
        let beyond = behind.behind()?;
        (self.depth - behind.depth == behind.depth - beyond.depth).then(|| Arc::downgrade(&beyond))
    }

    /// As far behind as this version points.
    fn behind(&self) -> Option<Arc<Version>> {
        if self.far.is_some() { self.far() } else { self.older.load_full() }
    }

    fn far(&self) -> Option<Arc<Version>> {
        self.far.as_ref().and_then(Weak::upgrade)
    }

    /// The newest version behind this one that is not younger than `sequence`.
    fn find(&self, sequence: Sequence) -> Option<Arc<Version>> {
        let mut version = self.towards(sequence)?;
        while version.sequence > sequence {
            version = version.towards(sequence)?;
        }
        Some(version)
    }

    fn towards(&self, sequence: Sequence) -> Option<Arc<Version>> {
        let far = self.far().filter(|far| far.sequence >= sequence);
        far.or_else(|| self.older.load_full())
    }

    fn is_value(&self) -> bool {
        matches!(self.content, Content::Value(_))
    }

    fn value(&self) -> Option<Bytes> {
        match &self.content {
            Content::Value(value) => Some(value.clone()),
            Content::Deleted(_) => None,
        }
    }
}

impl Drop for Version {
    /// Takes the chain down in a loop: left to itself, each version would drop the next from within its own drop, and
    /// a long history would overflow the stack.
    fn drop(&mut self) {
        let mut next = self.older.swap(None);
        while let Some(version) = next.and_then(Arc::into_inner) {
            next = version.older.swap(None);
        }
    }
}
