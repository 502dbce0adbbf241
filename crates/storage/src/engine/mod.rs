//! The ordered engine: where a group's state lives, behind a small trait.
//!
//! An engine maps keys to values, both bytes, in the order of the keys, and keeps several versions of a key apart by
//! the *sequence* at which each was written. One owner writes: every batch carries a sequence that is not below any
//! before it, and is seen whole or not at all. Anyone may read: a [`View`] is pinned to one sequence, costs next to
//! nothing to take and to clone, and gives the same answers for as long as it lives, on any thread, while the owner
//! writes on.
//!
//! What was superseded is the *past*. It stays until the owner has said that nobody will ask for it any more
//! ([`Engine::evict_below`]), and from a view one gets at all of it that is left: as a view of an earlier sequence
//! ([`View::at`]), or as the row of all versions ([`View::history`]), which is how the past is written to a checkpoint
//! and read back from it ([`Engine::load`]). Keys from a boundary on, which is given to the engine when it is made,
//! have no past: their superseded versions go as soon as no live view sees them. That is for rows which are overwritten
//! or deleted often and whose past is nobody's concern.
//!
//! [`memory`] is the engine of tests, of a part of the simulator's lives and of nodes that keep their state in memory.
//! [`disk`] keeps it in sorted tables, and makes it durable beside the owner's thread; [`any`] is the one of them that a
//! node was started with. Reading can fail, which `memory` never does.
//!
//! Not handled: deleting a range.

pub mod any;
pub mod disk;
mod key;
pub mod memory;
#[cfg(test)]
mod tests;

use crate::StorageError;
pub use any::{AnyEngine, AnyHistory, AnyView};
use bytes::Bytes;
pub use key::Key;
pub use memory::{MemoryEngine, MemoryHistory, MemoryView};

/// The order of writes. The owner chooses the numbers; they never fall.
pub type Sequence = u64;

/// The writing side, owned by one thread.
///
/// Deterministic: what an engine answers depends on the calls made to it and on nothing else. After an error from
/// [`Engine::write`] or [`Engine::load`] the engine may hold a part of what it was given, so the owner must stop using
/// it. An error from reading names the damaged file; whoever gets it can do without that answer, or not go on.
pub trait Engine {
    type View: View;

    /// The newest value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Looks at the newest value of a key where it lies.
    fn look<T>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, StorageError>;

    /// Applies the batch at `sequence`, in its order: when it names a key twice, the later change holds. Several
    /// batches may share a sequence as long as no view was taken in between.
    ///
    /// Panics if `sequence` is below that of an earlier batch, or not above that of a live view.
    fn write(&mut self, sequence: Sequence, batch: Batch) -> Result<(), StorageError>;

    /// The sequence of the newest batch; 0 if there was none.
    fn sequence(&self) -> Sequence;

    /// What is there now.
    fn view(&self) -> Self::View;

    /// Nobody will ask for the past below `sequence` any more, and nobody gets it. What was superseded at or before it
    /// is taken out by [`Engine::tidy`], unless a live view or history sees it. A lower threshold than before has no
    /// effect, and one beyond the newest batch means that batch.
    fn evict_below(&mut self, sequence: Sequence);

    /// Takes out up to so many versions that nobody will ask for.
    fn tidy(&mut self, versions: usize);

    /// Puts a version in place, or a deletion, while an engine is being filled that nobody has read or written yet. Keys
    /// come in their order, and a key's versions in theirs.
    fn load(&mut self, sequence: Sequence, key: Key, value: Option<Bytes>) -> Result<(), StorageError>;

    /// All is loaded, and was written up to `sequence`; the past reaches back to `threshold`.
    fn end_loading(&mut self, sequence: Sequence, threshold: Sequence) -> Result<(), StorageError>;
}

/// The state at one sequence, readable from any thread.
pub trait View: Clone + Send + Sync {
    type History: History;
    type Range<'a>: DoubleEndedIterator<Item = Result<(Bytes, Bytes), StorageError>>
    where
        Self: 'a;

    fn sequence(&self) -> Sequence;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Every key from `from` on and before `to`, in order; `None` means to the last. Empty if `to` is not above
    /// `from`.
    fn range(&self, from: &[u8], to: Option<&[u8]>) -> Self::Range<'_>;

    /// How many rows [`View::range`] would give. It looks at each, but copies none.
    fn count(&self, from: &[u8], to: Option<&[u8]>) -> Result<u64, StorageError>;

    /// What was there at an earlier sequence: `None` if that is still to come, or was evicted. Says nothing of keys that
    /// have no past.
    fn at(&self, sequence: Sequence) -> Option<Self>;

    /// All that was there at `since` and came after it, up to this view: `None` if it was evicted. Nothing of it goes
    /// while the history lives, so that should not be long.
    fn history(&self, since: Sequence) -> Option<Self::History>;
}

/// A piece of the past, readable from any thread. Says nothing of keys that have no past.
pub trait History: Send + Sync {
    type Versions<'a>: Iterator<Item = Result<(Bytes, Vec<Version>), StorageError>>
    where
        Self: 'a;

    /// The value of a key at a sequence, which must lie within this history.
    fn get(&self, key: &[u8], sequence: Sequence) -> Result<Option<Bytes>, StorageError>;

    /// Every key from `from` on and before `to` that had a value, in order, with its versions, oldest first. The first
    /// is what was there at the beginning, if anything was; it has its own, older sequence.
    fn versions(&self, from: &[u8], to: &[u8]) -> Self::Versions<'_>;
}

/// From `sequence` on a key had this value, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub sequence: Sequence,
    pub value: Option<Bytes>,
}

/// Changes that become visible together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<(Key, Option<Bytes>)>,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    pub fn with_capacity(changes: usize) -> Batch {
        Batch { changes: Vec::with_capacity(changes) }
    }

    /// The engine keeps `value` as it is: a slice of something large would keep all of that in memory.
    pub fn put(&mut self, key: Key, value: Bytes) {
        self.changes.push((key, Some(value)));
    }

    /// Deleting a key that is not there changes nothing.
    pub fn delete(&mut self, key: Key) {
        self.changes.push((key, None));
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
