//! The ordered engine: where a group's state lives, behind a small trait.
//!
//! An engine maps keys to values, both bytes, in the order of the keys, and keeps several versions of a key apart by
//! the *sequence* at which each was written. One owner writes: every batch carries a sequence that is not below any
//! before it, and is seen whole or not at all. Anyone may read: a [`View`] is pinned to one sequence, costs next to
//! nothing to take and to clone, and gives the same answers for as long as it lives, on any thread, while the owner
//! writes on. A version that was superseded stays until the owner has said that nobody will ask for it any more
//! ([`Engine::evict_below`]) and the last view that sees it is gone.
//!
//! [`memory`] is the engine of tests, of the simulator and of nodes that keep their state in memory. The trait is cut
//! so that one over sorted files fits: its reads at a sequence number are such an engine's snapshot reads, the batch
//! is its memtable write, eviction is its compaction's threshold. That is also why reading can fail, with an error
//! that for `memory` cannot happen.
//!
//! Not handled: durability (the Raft log is the write-ahead log; a flush will be added with the engine that needs
//! one), more than one keyspace an engine, and deleting a range.

mod key;
pub mod memory;
#[cfg(test)]
mod tests;

use bytes::Bytes;
pub use key::Key;
pub use memory::{MemoryEngine, MemoryView};

/// The order of writes. The owner chooses the numbers; they never fall.
pub type Sequence = u64;

/// The writing side, owned by one thread.
///
/// Deterministic: what an engine answers depends on the calls made to it and on nothing else. After an error from
/// [`Engine::write`] the engine may hold a part of the batch, so the owner must stop using it.
pub trait Engine {
    type Error: std::error::Error + Send + Sync + 'static;
    type View: View<Error = Self::Error>;

    /// The newest value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;

    /// Applies the batch at `sequence`, in its order: when it names a key twice, the later change holds. Several
    /// batches may share a sequence (a load from a checkpoint does that) as long as no view was taken in between.
    ///
    /// Panics if `sequence` is below that of an earlier batch, or not above that of a live view.
    fn write(&mut self, sequence: Sequence, batch: Batch) -> Result<(), Self::Error>;

    /// The sequence of the newest batch; 0 if there was none.
    fn sequence(&self) -> Sequence;

    /// What is there now.
    fn view(&self) -> Self::View;

    /// What was there at `sequence`: `None` if that is still to come, or was evicted.
    fn view_at(&self, sequence: Sequence) -> Option<Self::View>;

    /// Nobody will ask for a view below `sequence` any more. Whatever was superseded at or before it goes as soon as
    /// no live view sees it. A lower threshold than before has no effect, and one beyond the newest batch means that
    /// batch.
    fn evict_below(&mut self, sequence: Sequence);
}

/// The state at one sequence, readable from any thread.
pub trait View: Clone + Send + Sync {
    type Error: std::error::Error + Send + Sync + 'static;
    type Range<'a>: DoubleEndedIterator<Item = Result<(Bytes, Bytes), Self::Error>>
    where
        Self: 'a;

    fn sequence(&self) -> Sequence;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;

    /// Every key from `from` on and before `to`, in order; `None` means to the last. Empty if `to` is not above
    /// `from`.
    fn range(&self, from: &[u8], to: Option<&[u8]>) -> Self::Range<'_>;
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
