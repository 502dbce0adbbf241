//! Walking through one memtable or one run, entry by entry, in either direction.

use super::block::Block;
use super::entry::{Home, Place};
use super::memtable::{MemEntry, Memtable};
use super::table::Run;
use crate::StorageError;
use crate::engine::{Key, Sequence};
use bytes::Bytes;
use std::sync::Arc;

/// At an entry, or at an end.
pub(super) enum Cursor<'a> {
    Memory { memtable: &'a Memtable, entry: Option<MemEntry<'a>> },
    Run(RunCursor),
}

impl<'a> Cursor<'a> {
    pub(super) fn in_memory(memtable: &'a Memtable) -> Cursor<'a> {
        Cursor::Memory { memtable, entry: None }
    }

    pub(super) fn place(&self) -> Option<Place<'_>> {
        match self {
            Cursor::Memory { entry, .. } => entry.as_ref().map(MemEntry::place),
            Cursor::Run(run) => run.place(),
        }
    }

    /// Whether the entry has a value; else it is a deletion.
    pub(super) fn is_value(&self) -> bool {
        match self {
            Cursor::Memory { entry, .. } => entry.as_ref().is_some_and(|entry| entry.value().is_some()),
            Cursor::Run(run) => run.is_value(),
        }
    }

    pub(super) fn value(&self) -> Option<Bytes> {
        match self {
            Cursor::Memory { entry, .. } => entry.as_ref().and_then(|entry| entry.value().clone()),
            Cursor::Run(run) => run.value(),
        }
    }

    /// Goes to the first entry at or behind a place.
    pub(super) fn seek(&mut self, home: &Home) -> Result<(), StorageError> {
        match self {
            Cursor::Memory { memtable, entry } => *entry = memtable.at_or_behind(home),
            Cursor::Run(run) => run.seek(home.place())?,
        }
        Ok(())
    }

    /// Goes to an entry of the last key before one; `None`: of the last of all.
    pub(super) fn seek_before(&mut self, key: Option<&Key>) -> Result<(), StorageError> {
        match self {
            Cursor::Memory { memtable, entry } => *entry = memtable.before(key),
            Cursor::Run(run) => run.seek_before(key.map(|key| (key.as_slice(), Sequence::MAX)))?,
        }
        Ok(())
    }

    pub(super) fn advance(&mut self) -> Result<(), StorageError> {
        match self {
            Cursor::Memory { entry, .. } => *entry = entry.take().and_then(MemEntry::next),
            Cursor::Run(run) => run.advance()?,
        }
        Ok(())
    }
}

pub(super) struct RunCursor {
    run: Arc<Run>,
    /// Reads past the cache.
    past_cache: bool,
    table: usize,
    block: usize,
    /// The block and the entry in it; `None` at an end.
    at: Option<(Block, usize)>,
}

impl RunCursor {
    pub(super) fn new(run: Arc<Run>) -> RunCursor {
        RunCursor { run, past_cache: false, table: 0, block: 0, at: None }
    }

    /// At the first entry, for whoever reads all of it once.
    pub(super) fn through(run: Arc<Run>) -> Result<RunCursor, StorageError> {
        let mut cursor = RunCursor { run, past_cache: true, table: 0, block: 0, at: None };
        cursor.enter(0, 0, |_| 0)?;
        Ok(cursor)
    }

    pub(super) fn place(&self) -> Option<Place<'_>> {
        let (block, at) = self.at.as_ref()?;
        let entry = block.entry(*at);
        Some((entry.key, entry.sequence))
    }

    pub(super) fn is_value(&self) -> bool {
        self.bytes().is_some()
    }

    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.at.as_ref().and_then(|(block, at)| block.entry(*at).value)
    }

    pub(super) fn value(&self) -> Option<Bytes> {
        self.at.as_ref().and_then(|(block, at)| block.value(*at))
    }

    fn seek(&mut self, place: Place<'_>) -> Result<(), StorageError> {
        let table = self.run.seek(place);
        let block = self.run.tables.get(table).map_or(0, |table| table.seek(place));
        self.enter(table, block, |block| block.seek(place))
    }

    fn seek_before(&mut self, place: Option<Place<'_>>) -> Result<(), StorageError> {
        match place {
            Some(place) => {
                self.seek(place)?;
                self.retreat()
            }
            None => {
                let table = self.run.tables.len();
                (self.table, self.block, self.at) = (table, 0, None);
                self.retreat()
            }
        }
    }

    pub(super) fn advance(&mut self) -> Result<(), StorageError> {
        let Some((block, at)) = &mut self.at else { return Ok(()) };
        *at += 1;
        if *at < block.len() {
            return Ok(());
        }
        let (table, block) = (self.table, self.block + 1);
        if block < self.run.tables[table].blocks() {
            self.enter(table, block, |_| 0)
        } else {
            self.enter(table + 1, 0, |_| 0)
        }
    }

    /// From the end it goes to the last entry.
    fn retreat(&mut self) -> Result<(), StorageError> {
        if let Some((_, at)) = &mut self.at
            && *at > 0
        {
            *at -= 1;
            return Ok(());
        }
        let last = |block: &Block| block.len() - 1;
        if self.block > 0 {
            self.enter(self.table, self.block - 1, last)
        } else if let Some(table) = self.table.checked_sub(1) {
            let block = self.run.tables[table].blocks() - 1;
            self.enter(table, block, last)
        } else {
            self.at = None;
            Ok(())
        }
    }

    /// Goes to an entry of a block, or to the end if there is no such table.
    fn enter(&mut self, table: usize, block: usize, entry: impl FnOnce(&Block) -> usize) -> Result<(), StorageError> {
        let near = self.at.take().filter(|_| (self.table, self.block) == (table, block));
        (self.table, self.block) = (table, block);
        let Some(home) = self.run.tables.get(table) else { return Ok(()) };
        let block = match near {
            Some((block, _)) => block,
            None if self.past_cache => home.read_block(block)?,
            None => home.block(block)?,
        };
        let at = entry(&block);
        self.at = Some((block, at));
        Ok(())
    }
}
