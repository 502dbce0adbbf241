//! The engine that a node was started with, whichever it is.
//!
//! What is above is written against these types rather than being generic over the engine: which one it is is known
//! only when the process starts, and one `match` a call is all that it costs.

use super::memory::{self, MemoryEngine, MemoryHistory, MemoryView};
use super::{Batch, Engine, History, Key, Sequence, Version, View};
use crate::StorageError;
use bytes::Bytes;

pub enum AnyEngine {
    Memory(MemoryEngine),
}

#[derive(Clone)]
pub enum AnyView {
    Memory(MemoryView),
}

pub enum AnyHistory {
    Memory(MemoryHistory),
}

/// The rows of a range.
pub enum AnyRange<'a> {
    Memory(memory::Range<'a>),
}

/// The keys of a range with their versions.
pub enum AnyVersions<'a> {
    Memory(memory::Versions<'a>),
}

impl Engine for AnyEngine {
    type View = AnyView;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.get(key),
        }
    }

    fn look<T>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.look(key, look),
        }
    }

    fn write(&mut self, sequence: Sequence, batch: Batch) -> Result<(), StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.write(sequence, batch),
        }
    }

    fn sequence(&self) -> Sequence {
        match self {
            AnyEngine::Memory(engine) => engine.sequence(),
        }
    }

    fn view(&self) -> AnyView {
        match self {
            AnyEngine::Memory(engine) => AnyView::Memory(engine.view()),
        }
    }

    fn evict_below(&mut self, sequence: Sequence) {
        match self {
            AnyEngine::Memory(engine) => engine.evict_below(sequence),
        }
    }

    fn tidy(&mut self, versions: usize) {
        match self {
            AnyEngine::Memory(engine) => engine.tidy(versions),
        }
    }

    fn load(&mut self, sequence: Sequence, key: Key, value: Option<Bytes>) -> Result<(), StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.load(sequence, key, value),
        }
    }

    fn end_loading(&mut self, sequence: Sequence, threshold: Sequence) -> Result<(), StorageError> {
        match self {
            AnyEngine::Memory(engine) => engine.end_loading(sequence, threshold),
        }
    }
}

impl View for AnyView {
    type History = AnyHistory;
    type Range<'a> = AnyRange<'a>;

    fn sequence(&self) -> Sequence {
        match self {
            AnyView::Memory(view) => view.sequence(),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self {
            AnyView::Memory(view) => view.get(key),
        }
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> AnyRange<'_> {
        match self {
            AnyView::Memory(view) => AnyRange::Memory(view.range(from, to)),
        }
    }

    fn count(&self, from: &[u8], to: Option<&[u8]>) -> Result<u64, StorageError> {
        match self {
            AnyView::Memory(view) => view.count(from, to),
        }
    }

    fn at(&self, sequence: Sequence) -> Option<AnyView> {
        match self {
            AnyView::Memory(view) => view.at(sequence).map(AnyView::Memory),
        }
    }

    fn history(&self, since: Sequence) -> Option<AnyHistory> {
        match self {
            AnyView::Memory(view) => view.history(since).map(AnyHistory::Memory),
        }
    }
}

impl History for AnyHistory {
    type Versions<'a> = AnyVersions<'a>;

    fn get(&self, key: &[u8], sequence: Sequence) -> Result<Option<Bytes>, StorageError> {
        match self {
            AnyHistory::Memory(history) => history.get(key, sequence),
        }
    }

    fn versions(&self, from: &[u8], to: &[u8]) -> AnyVersions<'_> {
        match self {
            AnyHistory::Memory(history) => AnyVersions::Memory(history.versions(from, to)),
        }
    }
}

impl Iterator for AnyRange<'_> {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            AnyRange::Memory(rows) => rows.next(),
        }
    }
}

impl DoubleEndedIterator for AnyRange<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            AnyRange::Memory(rows) => rows.next_back(),
        }
    }
}

impl Iterator for AnyVersions<'_> {
    type Item = Result<(Bytes, Vec<Version>), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            AnyVersions::Memory(versions) => versions.next(),
        }
    }
}
