//! State Machine Safety (Raft paper, section 5.4.3): if a server has applied a log entry at a given index, no other
//! server will ever apply a different log entry for the same index.

use base::{Index, Term};
use storage::log::LogEntry;

/// What was applied anywhere, in order. The first entry, index 1, is the cluster's foundation and in no log.
#[derive(Default)]
pub struct Committed {
    entries: Vec<LogEntry>,
    /// For each, the first term that it was certainly committed in, or a later one.
    terms: Vec<Term>,
}

const FIRST: Index = 2;

impl Committed {
    pub fn last(&self) -> Index {
        self.entries.len() as Index + FIRST - 1
    }

    pub fn same(&self, entry: &LogEntry) -> Result<(), String> {
        let index = entry.position.index;
        match index.checked_sub(FIRST).and_then(|at| self.entries.get(at as usize)) {
            Some(known) if known == entry => Ok(()),
            Some(known) => Err(format!(
                "another entry was applied at index {index} elsewhere: {:?} there, {:?} here",
                known.position, entry.position
            )),
            None => Err(format!("entry {index} was applied, which is before the first")),
        }
    }

    /// A host in that term is the first to apply the entry.
    pub fn next(&mut self, entry: LogEntry, term: Term) -> Result<(), String> {
        if entry.position.index != self.last() + 1 {
            return Err(format!("entry {} was applied, but nobody applied those before", entry.position.index));
        }
        self.terms.push(term.max(self.terms.last().copied().unwrap_or(0)));
        self.entries.push(entry);
        Ok(())
    }

    /// The newest entry that was committed in a term before that one.
    pub fn newest_before(&self, term: Term) -> Option<&LogEntry> {
        self.entries[..self.terms.partition_point(|&t| t < term)].last()
    }
}
