//! What the leader does by itself comes in time, and never too early: no lease is ended before its whole time has passed
//! since the entry that gave it that time was first applied anywhere, and no revision is compacted for its age before it is
//! so old.
//!
//! Time is that of the fastest clock there is: a node knows no other time than its own ticks.

use super::model::Chore;
use crate::{Micros, SECOND};
use base::{Index, Position};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Chores {
    /// When each entry was first written to a log …
    written: BTreeMap<Position, Micros>,
    /// … and first applied.
    applied: BTreeMap<Index, Micros>,
    /// How old a revision must be; 0: revisions are not compacted for their age, or for that and something else.
    pub compact_after: Micros,
    pub leases_ended: u64,
    pub compactions: u64,
}

impl Chores {
    pub fn written(&mut self, position: Position, now: Micros) {
        self.written.entry(position).or_insert(now);
    }

    pub fn applied(&mut self, index: Index, now: Micros) {
        self.applied.insert(index, now);
    }

    /// `index_of`: the entry that made the revision.
    pub fn done(&mut self, entry: Position, chore: &Chore, index_of: impl Fn(u64) -> Index) -> Result<(), String> {
        let proposed = self.written.get(&entry).copied().unwrap_or(Micros::MAX);
        let since = |index| proposed.saturating_sub(self.applied.get(&index).copied().unwrap_or(0));
        match chore {
            Chore::Ended { lease, held } => {
                self.leases_ended += 1;
                let lived = since(held.since);
                match lived >= held.ttl_seconds * SECOND {
                    true => Ok(()),
                    false => Err(format!(
                        "lease {lease} of {} s was ended {lived} us after entry {} gave it its whole time",
                        held.ttl_seconds, held.since
                    )),
                }
            }
            Chore::Compacted { revision } => {
                self.compactions += 1;
                let age = since(index_of(*revision));
                match age >= self.compact_after {
                    true => Ok(()),
                    false => Err(format!("revision {revision} was made the oldest {age} us after it was new")),
                }
            }
        }
    }
}
