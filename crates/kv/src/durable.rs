//! Making a store durable by its engine: seals, and the jobs that follow from them.
//!
//! What lies in the engine and the little that does not become durable in one step, because the engine takes that little
//! along as a note ([`Store::note`]).

use crate::store::Store;
use base::Position;
use storage::StorageError;
use storage::engine::disk::{Fill, Finished, Job};
use storage::engine::{Batch, Engine};

impl Store {
    /// Whether seals make it durable; else only a checkpoint does.
    pub fn is_durable(&self) -> bool {
        self.engine.is_durable()
    }

    /// Whether so much was written since the last seal that it is time for one.
    pub fn is_full(&self) -> bool {
        self.engine.is_full()
    }

    /// How much of the memory for writes is taken.
    pub fn fill(&self) -> Fill {
        self.engine.fill()
    }

    /// What was applied so far is to be durable as soon as the jobs are done that follow from it.
    pub fn seal(&mut self) -> Result<(), StorageError> {
        // Entries that wrote nothing count as well where two states are compared for which is newer.
        self.engine.write(self.head.applied.index, Batch::new())?;
        let note = self.note();
        self.engine.seal(note);
        self.sealed.push_back(self.head.applied);
        Ok(())
    }

    /// See [`storage::engine::disk::DiskEngine::next_job`].
    pub fn next_job(&mut self) -> Option<Job> {
        self.engine.next_job()
    }

    /// What a finished job of this store has made durable, if it was a flush.
    pub fn made_durable(&self, finished: &Finished) -> Option<Position> {
        let is_ours = finished.is_flush() && self.engine.owns(finished);
        if is_ours { self.sealed.front().copied() } else { None }
    }

    /// Takes over what a job came to. Everything up to the position that it gives is durable now.
    pub fn finish(&mut self, finished: Finished) -> Option<Position> {
        if self.engine.finish(finished) { self.sealed.pop_front() } else { None }
    }

    /// Whether something is sealed and not durable yet.
    pub fn is_flushing(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Makes all of it durable, here and now, if seals do that.
    pub fn settle(&mut self) -> Result<(), StorageError> {
        if self.is_durable() {
            self.seal()?;
            self.engine.settle()?;
            self.sealed.clear();
        }
        Ok(())
    }

    /// Another store is in its place: takes from the disk what this one has there.
    pub fn discard(&self) -> Option<Job> {
        self.engine.discard()
    }
}
