//! The engine that a node was started with, whichever it is.
//!
//! What is above is written against these types rather than being generic over the engine: which one it is is known
//! only when the process starts, and one `match` a call is all that it costs.

use super::disk::{self, DiskEngine, DiskHistory, DiskView, Fill, Finished, Job};
use super::memory::{self, MemoryEngine, MemoryHistory, MemoryView};
use super::{Batch, Engine, History, Key, Sequence, Version, View};
use crate::StorageError;
use bytes::Bytes;

pub enum AnyEngine {
    Memory(MemoryEngine),
    Disk(DiskEngine),
}

#[derive(Clone)]
pub enum AnyView {
    Memory(MemoryView),
    Disk(DiskView),
}

pub enum AnyHistory {
    Memory(MemoryHistory),
    Disk(DiskHistory),
}

/// The rows of a range.
pub enum AnyRange<'a> {
    Memory(memory::Range<'a>),
    Disk(disk::Range<'a>),
}

/// The keys of a range with their versions.
pub enum AnyVersions<'a> {
    Memory(memory::Versions<'a>),
    Disk(disk::Versions<'a>),
}

impl AnyEngine {
    /// Whether what is sealed becomes durable, so that the log before it may go.
    pub fn is_durable(&self) -> bool {
        matches!(self, AnyEngine::Disk(_))
    }

    /// Whether enough was written since the last seal to make it durable.
    pub fn is_full(&self) -> bool {
        match self {
            AnyEngine::Memory(_) => false,
            AnyEngine::Disk(engine) => engine.is_full(),
        }
    }

    pub fn fill(&self) -> Fill {
        match self {
            AnyEngine::Memory(_) => Fill::default(),
            AnyEngine::Disk(engine) => engine.fill(),
        }
    }

    /// See [`DiskEngine::seal`].
    pub fn seal(&mut self, note: Bytes) {
        if let AnyEngine::Disk(engine) = self {
            engine.seal(note);
        }
    }

    /// See [`DiskEngine::next_job`].
    pub fn next_job(&mut self) -> Option<Job> {
        match self {
            AnyEngine::Memory(_) => None,
            AnyEngine::Disk(engine) => engine.next_job(),
        }
    }

    /// See [`DiskEngine::owns`].
    pub fn owns(&self, finished: &Finished) -> bool {
        match self {
            AnyEngine::Memory(_) => false,
            AnyEngine::Disk(engine) => engine.owns(finished),
        }
    }

    /// See [`DiskEngine::finish`].
    pub fn finish(&mut self, finished: Finished) -> bool {
        match self {
            AnyEngine::Memory(_) => false,
            AnyEngine::Disk(engine) => engine.finish(finished),
        }
    }

    /// See [`DiskEngine::settle`].
    pub fn settle(&mut self) -> Result<(), StorageError> {
        match self {
            AnyEngine::Memory(_) => Ok(()),
            AnyEngine::Disk(engine) => engine.settle(),
        }
    }

    /// See [`DiskEngine::discard`].
    pub fn discard(&self) -> Option<Job> {
        match self {
            AnyEngine::Memory(_) => None,
            AnyEngine::Disk(engine) => Some(engine.discard()),
        }
    }
}

impl Engine for AnyEngine {
    type View = AnyView;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.get(key),
            AnyEngine::Disk(engine) => engine.get(key),
        }
    }

    fn look<T>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.look(key, look),
            AnyEngine::Disk(engine) => engine.look(key, look),
        }
    }

    fn write(&mut self, sequence: Sequence, batch: Batch) -> Result<(), StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.write(sequence, batch),
            AnyEngine::Disk(engine) => engine.write(sequence, batch),
        }
    }

    fn sequence(&self) -> Sequence {
        match self {
            AnyEngine::Memory(engine) => engine.sequence(),
            AnyEngine::Disk(engine) => engine.sequence(),
        }
    }

    fn view(&self) -> AnyView {
        match self {
            AnyEngine::Memory(engine) => AnyView::Memory(engine.view()),
            AnyEngine::Disk(engine) => AnyView::Disk(engine.view()),
        }
    }

    fn evict_below(&mut self, sequence: Sequence) {
        match self {
            AnyEngine::Memory(engine) => engine.evict_below(sequence),
            AnyEngine::Disk(engine) => engine.evict_below(sequence),
        }
    }

    fn tidy(&mut self, versions: usize) {
        match self {
            AnyEngine::Memory(engine) => engine.tidy(versions),
            AnyEngine::Disk(engine) => engine.tidy(versions),
        }
    }

    fn load(&mut self, sequence: Sequence, key: Key, value: Option<Bytes>) -> Result<(), StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.load(sequence, key, value),
            AnyEngine::Disk(engine) => engine.load(sequence, key, value),
        }
    }

    fn end_loading(&mut self, sequence: Sequence, threshold: Sequence) -> Result<(), StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.end_loading(sequence, threshold),
            AnyEngine::Disk(engine) => engine.end_loading(sequence, threshold),
        }
    }
}

impl View for AnyView {
    type History = AnyHistory;
    type Range<'a> = AnyRange<'a>;

    fn sequence(&self) -> Sequence {
        match self {
            AnyView::Memory(view) => view.sequence(),
            AnyView::Disk(view) => view.sequence(),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self {
            AnyView::Memory(view) => view.get(key),
            AnyView::Disk(view) => view.get(key),
        }
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> AnyRange<'_> {
        match self {
            AnyView::Memory(view) => AnyRange::Memory(view.range(from, to)),
            AnyView::Disk(view) => AnyRange::Disk(view.range(from, to)),
        }
    }

    fn count(&self, from: &[u8], to: Option<&[u8]>) -> Result<u64, StorageError> {
        match self {
            AnyView::Memory(view) => view.count(from, to),
            AnyView::Disk(view) => view.count(from, to),
        }
    }

    fn at(&self, sequence: Sequence) -> Option<AnyView> {
        match self {
            AnyView::Memory(view) => view.at(sequence).map(AnyView::Memory),
            AnyView::Disk(view) => view.at(sequence).map(AnyView::Disk),
        }
    }

    fn history(&self, since: Sequence) -> Option<AnyHistory> {
        match self {
            AnyView::Memory(view) => view.history(since).map(AnyHistory::Memory),
            AnyView::Disk(view) => view.history(since).map(AnyHistory::Disk),
        }
    }
}

impl History for AnyHistory {
    type Versions<'a> = AnyVersions<'a>;

    fn get(&self, key: &[u8], sequence: Sequence) -> Result<Option<Bytes>, StorageError> {
        match self {
            AnyHistory::Memory(history) => history.get(key, sequence),
            AnyHistory::Disk(history) => history.get(key, sequence),
        }
    }

    fn versions(&self, from: &[u8], to: &[u8]) -> AnyVersions<'_> {
        match self {
            AnyHistory::Memory(history) => AnyVersions::Memory(history.versions(from, to)),
            AnyHistory::Disk(history) => AnyVersions::Disk(history.versions(from, to)),
        }
    }
}

impl Iterator for AnyRange<'_> {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            AnyRange::Memory(rows) => rows.next(),
            AnyRange::Disk(rows) => rows.next(),
        }
    }
}

impl DoubleEndedIterator for AnyRange<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            AnyRange::Memory(rows) => rows.next_back(),
            AnyRange::Disk(rows) => rows.next_back(),
        }
    }
}

impl Iterator for AnyVersions<'_> {
    type Item = Result<(Bytes, Vec<Version>), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            AnyVersions::Memory(versions) => versions.next(),
            AnyVersions::Disk(versions) => versions.next(),
        }
    }
}
