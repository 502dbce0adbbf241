//! What a durable store needs beside: when to seal it, the jobs that make it durable and keep it in shape, and how
//! writes are held back while those are behind.
//!
//! A seal is due when the store's memory for writes is full, when much of the log depends on it, and when nothing was
//! applied for a while, so that a node which is started again has little to replay. What was sealed becomes durable in
//! the order of the seals, and then the log before it may go.

use crate::event::{Effect, Failure};
use base::GroupId;
use storage::StorageError;
use storage::engine::disk::{Fill, Job};

/// With so much of its memory for writes taken, a leader proposes once a tick only, …
const SLOW_PERCENT: usize = 80;
/// After so long without an entry …
const IDLE_TICKS: u64 = 30;
/// … a seal is worth its while with so much of log.
const IDLE_LOG_BYTES: u64 = 128 * 1024;

#[derive(Default)]
pub(crate) struct Upkeep {
    /// Bytes of log applied since the last seal.
    log_bytes: u64,
    /// The tick of the last applied entry, and of the last proposal under pressure.
    applied_at: u64,
    proposed_at: u64,
    /// To be given out in this turn.
    jobs: Vec<Job>,
}

/// How far the writes are ahead of the flushes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pressure {
    None,
    /// Proposals are to be few.
    High,
    /// Nothing may be added.
    Full,
}

pub(crate) fn pressure(store: &kv::Store) -> Pressure {
    let Fill { used_bytes, bound_bytes } = store.fill();
    if bound_bytes == 0 || used_bytes * 100 < bound_bytes * SLOW_PERCENT {
        Pressure::None
    } else if used_bytes < bound_bytes {
        Pressure::High
    } else {
        Pressure::Full
    }
}

/// What a client is told whose write comes too early.
pub(crate) fn refuse() -> Failure {
    Failure::Overloaded(
        "writes come faster than this node can bring them to its disk, and its memory for them is full; nothing was \
         changed: try again in a moment, or give it more with --memory"
            .to_owned(),
    )
}

impl Upkeep {
    /// Of the log that is to be replayed at the start.
    pub(crate) fn new(log_bytes: u64) -> Upkeep {
        Upkeep { log_bytes, ..Upkeep::default() }
    }

    pub(crate) fn applied(&mut self, log_bytes: u64, now: u64) {
        self.log_bytes += log_bytes;
        self.applied_at = now;
    }

    /// Whether a leader under high pressure may propose at this tick; it may once.
    pub(crate) fn may_propose(&mut self, pressure: Pressure, now: u64) -> bool {
        let may = match pressure {
            Pressure::None => true,
            Pressure::High => self.proposed_at < now,
            Pressure::Full => false,
        };
        if may {
            self.proposed_at = now;
        }
        may
    }

    /// Once a turn.
    pub(crate) fn keep(
        &mut self,
        group: GroupId,
        store: &mut kv::Store,
        seal_after_bytes: u64,
        now: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StorageError> {
        let idle = self.log_bytes >= IDLE_LOG_BYTES && self.applied_at + IDLE_TICKS <= now;
        // Without a flush under way, or much more can be written in the time of it.
        let due = store.is_full() || (!store.is_flushing() && (self.log_bytes >= seal_after_bytes || idle));
        if due {
            store.seal()?;
            self.log_bytes = 0;
        }
        while let Some(job) = store.next_job() {
            self.jobs.push(job);
        }
        effects.extend(self.jobs.drain(..).map(|job| Effect::Upkeep { group, job }));
        Ok(())
    }

    /// Another store, which is durable, is in the place of this one.
    pub(crate) fn replaced(&mut self, store: &kv::Store) {
        self.log_bytes = 0;
        self.discard(store);
    }

    /// What a store has on disk is of no use any more.
    pub(crate) fn discard(&mut self, store: &kv::Store) {
        self.jobs.extend(store.discard());
    }
}
