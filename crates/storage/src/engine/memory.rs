//! The engine in memory: a lock-free ordered map from each key to the chain of its versions.
//!
//! The map (a skip list) finds a key's cell; the cell's head points at the newest version, and each version at the
//! one it superseded. The owner puts a new version in front by swapping one pointer, so overwriting a key needs one
//! search and moves nothing. A reader takes the head and walks to the first version that is not younger than its view;
//! versions of a batch that is still being written are all younger than every view, so nobody sees half a batch.
//!
//! A live view holds a *pin* at its sequence. The version that was written at `a` and superseded at `b` is seen by the
//! views of `a..b`. Once it lies below the eviction threshold, the newest live pin in that interval becomes its
//! keeper; when that pin dies, the next lower one in the interval does, and when there is none, the version is
//! unlinked. So what is kept is exactly what a live view can see: a checkpoint that takes a minute holds one old
//! version a key at the most, however often the keys are overwritten meanwhile. A deletion is a version too, and
//! when it is the last of its chain the key leaves the map.
//!
//! Not handled: long histories. Reading or unlinking an old version walks the chain from its newest, one version at a
//! time, which is right while the threshold follows the writes.

use super::{Batch, Engine, Key, Sequence, View};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

pub struct MemoryEngine {
    cells: Arc<Cells>,
    sequence: Sequence,
    /// No view below this can be had.
    threshold: Sequence,
    /// Versions superseded above the threshold, oldest first.
    history: VecDeque<Superseded>,
    /// Every sequence that some view is pinned to, with the superseded versions that it keeps.
    pins: RefCell<BTreeMap<Sequence, Pin>>,
}

#[derive(Clone)]
pub struct MemoryView {
    cells: Arc<Cells>,
    sequence: Arc<Sequence>,
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
}

enum Content {
    Value(Bytes),
    /// Carries the key, to take it out of the map when this is all that is left.
    Deleted(Box<[u8]>),
}

/// The version of `cell` that was written at `written`, no longer the newest since `superseded`.
struct Superseded {
    cell: Arc<Cell>,
    written: Sequence,
    superseded: Sequence,
}

struct Pin {
    /// Shared with the views; alone here when all of them are gone.
    sequence: Arc<Sequence>,
    keeps: Vec<Superseded>,
}

impl MemoryEngine {
    pub fn new() -> MemoryEngine {
        MemoryEngine {
            cells: Arc::new(SkipMap::new()),
            sequence: 0,
            threshold: 0,
            history: VecDeque::new(),
            pins: RefCell::default(),
        }
    }

    fn put(&mut self, sequence: Sequence, key: Key, mut value: Bytes) {
        let mut found = true;
        let insert = || {
            found = false;
            let content = Content::Value(std::mem::take(&mut value));
            let first = Version { sequence, content, older: ArcSwapOption::empty() };
            Arc::new(Cell { head: ArcSwap::from_pointee(first) })
        };
        let cell = Arc::clone(self.cells.get_or_insert_with(key, insert).value());
        if found {
            self.supersede(sequence, cell, Content::Value(value));
        }
    }

    fn delete(&mut self, sequence: Sequence, key: Key) {
        let Some(cell) = self.cells.get(key.as_slice()).map(|entry| Arc::clone(entry.value())) else { return };
        if cell.head.load().value().is_some() {
            self.supersede(sequence, cell, Content::Deleted(key.as_slice().into()));
        }
    }

    fn supersede(&mut self, sequence: Sequence, cell: Arc<Cell>, content: Content) {
        let head = cell.head.load_full();
        if head.sequence == sequence {
            // The same batch wrote it: nobody will ever see it, so the new version takes its place.
            let newest = Version { sequence, content, older: ArcSwapOption::new(head.older.load_full()) };
            cell.head.store(Arc::new(newest));
            self.remove_if_nothing_is_left(&cell);
            return;
        }
        let written = head.sequence;
        let newest = Version { sequence, content, older: ArcSwapOption::new(Some(head)) };
        cell.head.store(Arc::new(newest));
        self.history.push_back(Superseded { cell, written, superseded: sequence });
    }

    /// Hands what dead pins kept to the next pins that see it.
    fn drop_dead_pins(&mut self) {
        let pins = self.pins.get_mut();
        let mut homeless = Vec::new();
        // Asking for the only reference, unlike reading its count, orders the views' last reads before what follows.
        pins.retain(|_, pin| {
            let live = Arc::get_mut(&mut pin.sequence).is_none();
            if !live {
                homeless.append(&mut pin.keeps);
            }
            live
        });
        for version in homeless {
            self.keep_or_unlink(version);
        }
    }

    fn keep_or_unlink(&mut self, version: Superseded) {
        let seen_by = version.written..version.superseded;
        match self.pins.get_mut().range_mut(seen_by).next_back() {
            Some((_, pin)) => pin.keeps.push(version),
            None => self.unlink(&version),
        }
    }

    fn unlink(&self, version: &Superseded) {
        let mut newer = version.cell.head.load_full();
        while let Some(older) = newer.older.load_full() {
            if older.sequence == version.written {
                newer.older.store(older.older.load_full());
                break;
            }
            newer = older;
        }
        self.remove_if_nothing_is_left(&version.cell);
    }

    fn remove_if_nothing_is_left(&self, cell: &Cell) {
        let head = cell.head.load();
        if let Content::Deleted(key) = &head.content
            && head.older.load().is_none()
        {
            self.cells.remove::<[u8]>(key);
        }
    }

    fn pinned(&self, sequence: Sequence) -> MemoryView {
        let mut pins = self.pins.borrow_mut();
        let pin = pins.entry(sequence).or_insert_with(|| Pin { sequence: Arc::new(sequence), keeps: Vec::new() });
        MemoryView { cells: Arc::clone(&self.cells), sequence: Arc::clone(&pin.sequence) }
    }

    /// How many versions there are, to show that none is kept too long.
    #[cfg(test)]
    pub(super) fn versions(&self) -> usize {
        let chain = |entry: crossbeam_skiplist::map::Entry<'_, Key, Arc<Cell>>| {
            let first = entry.value().head.load_full();
            std::iter::successors(Some(first), |version| version.older.load_full()).count()
        };
        self.cells.iter().map(chain).sum()
    }
}

impl Default for MemoryEngine {
    fn default() -> MemoryEngine {
        MemoryEngine::new()
    }
}

impl Engine for MemoryEngine {
    type Error = Infallible;
    type View = MemoryView;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.cells.get(key).and_then(|entry| entry.value().head.load().value()))
    }

    fn write(&mut self, sequence: Sequence, batch: Batch) -> Result<(), Infallible> {
        assert!(sequence >= self.sequence, "sequence {sequence} after {}", self.sequence);
        if sequence == self.sequence {
            self.drop_dead_pins();
            assert!(!self.pins.get_mut().contains_key(&sequence), "a view would see sequence {sequence} change");
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
        self.pinned(self.sequence)
    }

    fn view_at(&self, sequence: Sequence) -> Option<MemoryView> {
        (self.threshold..=self.sequence).contains(&sequence).then(|| self.pinned(sequence))
    }

    fn evict_below(&mut self, sequence: Sequence) {
        self.threshold = self.threshold.max(sequence.min(self.sequence));
        self.drop_dead_pins();
        while self.history.front().is_some_and(|version| version.superseded <= self.threshold) {
            if let Some(version) = self.history.pop_front() {
                self.keep_or_unlink(version);
            }
        }
    }
}

impl View for MemoryView {
    type Error = Infallible;
    type Range<'a> = Range<'a>;

    fn sequence(&self) -> Sequence {
        *self.sequence
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.cells.get(key).and_then(|entry| entry.value().at(*self.sequence)))
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_> {
        let cells = match to {
            Some(to) if to <= from => None,
            Some(to) => Some(self.cells.range((Bound::Included(Key::new(from)), Bound::Excluded(Key::new(to))))),
            None => Some(self.cells.range((Bound::Included(Key::new(from)), Bound::Unbounded))),
        };
        Range { cells, sequence: *self.sequence }
    }
}

pub struct Range<'a> {
    /// `None`: nothing lies between the bounds.
    cells: Option<CellRange<'a>>,
    sequence: Sequence,
}

impl Iterator for Range<'_> {
    type Item = Result<(Bytes, Bytes), Infallible>;

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

impl Cell {
    fn at(&self, sequence: Sequence) -> Option<Bytes> {
        let head = self.head.load();
        if head.sequence <= sequence {
            return head.value();
        }
        let mut version = head.older.load_full()?;
        while version.sequence > sequence {
            let older = version.older.load_full()?;
            version = older;
        }
        version.value()
    }
}

impl Version {
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
