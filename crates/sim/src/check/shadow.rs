//! A host's log as the checks know it: what it asked to be written, and what of that is durable.

use base::{Index, Position};
use node::WriteId;
use std::collections::VecDeque;
use storage::log::{GroupWrite, HardState, LogEntry, LogWrite, RecoveredGroup};

#[derive(Default)]
pub struct Shadow {
    pub written: Image,
    pub durable: Image,
    pub unsynced: VecDeque<(WriteId, LogWrite)>,
    /// The newest checkpoint that is on disk.
    pub checkpoint: Position,
}

#[derive(Clone, Debug, Default)]
pub struct Image {
    pub hard_state: HardState,
    /// Just before the first entry.
    pub start: Position,
    pub entries: VecDeque<LogEntry>,
}

impl Shadow {
    pub fn write(&mut self, id: WriteId, write: &LogWrite) {
        write.groups.iter().for_each(|group| self.written.apply(group));
        self.unsynced.push_back((id, write.clone()));
    }

    /// Everything up to that write is durable. The entries that became so, each with its predecessor's position.
    pub fn sync(&mut self, id: WriteId) -> Vec<(Position, LogEntry)> {
        let mut entries = Vec::new();
        while let Some((_, write)) = self.unsynced.pop_front_if(|(unsynced, _)| *unsynced <= id) {
            for group in write.groups {
                self.durable.apply(&group);
                for entry in group.entries {
                    let before = self.durable.position(entry.position.index - 1);
                    entries.extend(before.map(|before| (before, entry)));
                }
            }
        }
        entries
    }

    pub fn recover(&mut self, log: Option<&RecoveredGroup>, applied: Position) {
        let log = log.cloned().unwrap_or_else(|| RecoveredGroup { start: applied, ..RecoveredGroup::default() });
        self.durable = Image { hard_state: log.hard_state, start: log.start, entries: log.entries.into() };
        self.written = self.durable.clone();
        self.unsynced.clear();
        self.checkpoint = applied;
    }
}

impl Image {
    pub fn apply(&mut self, write: &GroupWrite) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(reset) = write.reset {
            self.start = reset;
            self.entries.clear();
        }
        if let Some(first) = write.entries.first() {
            while self.entries.back().is_some_and(|last| last.position.index >= first.position.index) {
                self.entries.pop_back();
            }
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(purged) = write.purge_to {
            while let Some(gone) = self.entries.pop_front_if(|first| first.position.index <= purged.index) {
                self.start = gone.position;
            }
            self.start = self.start.max(purged);
        }
    }

    pub fn entry(&self, index: Index) -> Option<&LogEntry> {
        let first = self.entries.front()?.position.index;
        self.entries.get(index.checked_sub(first)? as usize)
    }

    pub fn position(&self, index: Index) -> Option<Position> {
        if index == self.start.index { Some(self.start) } else { self.entry(index).map(|entry| entry.position) }
    }

    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.start, |entry| entry.position)
    }

    pub fn with_predecessors(&self) -> impl Iterator<Item = (Position, &LogEntry)> {
        let before = std::iter::once(self.start).chain(self.entries.iter().map(|entry| entry.position));
        before.zip(&self.entries)
    }
}
