//! What one process shows never goes back: the view that it publishes is of an ever newer position. What it calls
//! committed without having it is committed: it comes in time.

use crate::HostNumber;
use base::{Index, Position};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct LocalReads {
    published: BTreeMap<HostNumber, Position>,
    called_committed: Index,
}

impl LocalReads {
    pub fn restarted(&mut self, host: HostNumber) {
        self.published.remove(&host);
    }

    pub fn knows(&mut self, host: HostNumber, applied: Index, known_commit: Index) -> Result<(), String> {
        self.called_committed = self.called_committed.max(known_commit);
        match known_commit >= applied {
            true => Ok(()),
            false => Err(format!("h{host} applied {applied} and calls {known_commit} committed")),
        }
    }

    pub fn nothing_was_made_up(&self, committed: Index) -> Result<(), String> {
        match self.called_committed <= committed {
            true => Ok(()),
            false => Err(format!("{} was called committed, but the log ends at {committed}", self.called_committed)),
        }
    }

    pub fn published(&mut self, host: HostNumber, position: Position) -> Result<(), String> {
        match self.published.insert(host, position) {
            Some(before) if before > position => Err(format!("h{host} showed {before:?} and then {position:?}")),
            _ => Ok(()),
        }
    }
}
