//! Log Matching (Raft paper, section 5.3): if two logs contain an entry with the same index and term, then the logs are
//! identical in all entries up through the given index.
//!
//! It is enough that an index and a term always name the same content after the same predecessor: the rest follows by
//! induction. Entries count once they are durable; what never was may be replaced by others of the same term, by a sole
//! voter that forgot it.

use crate::HostNumber;
use base::Position;
use std::collections::BTreeMap;
use storage::log::LogEntry;

#[derive(Default)]
pub struct LogMatching {
    entries: BTreeMap<Position, (Position, u32, HostNumber)>,
}

impl LogMatching {
    pub fn durable(&mut self, host: HostNumber, before: Position, entry: &LogEntry) -> Result<(), String> {
        let content = base::checksum_append(base::checksum(&[entry.kind as u8]), &entry.data);
        let content = base::checksum_append(content, &entry.context);
        let known = *self.entries.entry(entry.position).or_insert((before, content, host));
        if known.0 != before {
            return Err(format!(
                "{:?} follows {:?} on h{} and {before:?} on h{host}",
                entry.position, known.0, known.2
            ));
        }
        if known.1 != content {
            return Err(format!("{:?} has one content on h{} and another on h{host}", entry.position, known.2));
        }
        Ok(())
    }
}
