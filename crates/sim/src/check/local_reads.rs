//! What one process shows never goes back: the view that it publishes is of an ever newer position.

use crate::HostNumber;
use base::Position;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct LocalReads {
    published: BTreeMap<HostNumber, Position>,
}

impl LocalReads {
    pub fn restarted(&mut self, host: HostNumber) {
        self.published.remove(&host);
    }

    pub fn published(&mut self, host: HostNumber, position: Position) -> Result<(), String> {
        match self.published.insert(host, position) {
            Some(before) if before > position => Err(format!("h{host} showed {before:?} and then {position:?}")),
            _ => Ok(()),
        }
    }
}
