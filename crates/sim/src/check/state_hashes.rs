//! Replicas that applied the same entries are in the same state.

use crate::HostNumber;
use base::Index;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct StateHashes {
    seen: BTreeMap<Index, (u64, HostNumber)>,
}

impl StateHashes {
    pub fn saw(&mut self, host: HostNumber, index: Index, hash: u64) -> Result<(), String> {
        match *self.seen.entry(index).or_insert((hash, host)) {
            (known, _) if known == hash => Ok(()),
            (_, other) => Err(format!("h{other} and h{host} differ after entry {index}")),
        }
    }
}
