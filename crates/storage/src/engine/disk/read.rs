//! Reading at a sequence: one key, rows in either direction, all versions of a stretch.

use super::cursor::{Cursor, RunCursor};
use super::entry::{Home, in_order};
use super::{Content, filter};
use crate::StorageError;
use crate::engine::{Key, Sequence, Version};
use bytes::Bytes;
use std::cmp::Ordering;

/// After so many steps over versions that nobody wants, a cursor leaps over the rest.
const STEPS_BEFORE_A_LEAP: usize = 8;

impl Content {
    /// Looks at the version of a key that a sequence sees, where it lies.
    pub(super) fn look<T>(
        &self,
        key: &[u8],
        sequence: Sequence,
        look: impl FnOnce(Option<&[u8]>) -> T,
    ) -> Result<T, StorageError> {
        let (home, hash) = (Home::new(key, sequence), filter::hash(key));
        for memtable in &self.memtables {
            if let Some(value) = memtable.find(&home, hash) {
                return Ok(look(value.as_deref()));
            }
        }
        for run in &self.runs {
            if let Some((block, at)) = run.find(&home.key, hash, sequence)? {
                return Ok(look(block.entry(at).value));
            }
        }
        Ok(look(None))
    }

    pub(super) fn get(&self, key: &[u8], sequence: Sequence) -> Result<Option<Bytes>, StorageError> {
        let (home, hash) = (Home::new(key, sequence), filter::hash(key));
        for memtable in &self.memtables {
            if let Some(value) = memtable.find(&home, hash) {
                return Ok(value.clone());
            }
        }
        for run in &self.runs {
            if let Some((block, at)) = run.find(&home.key, hash, sequence)? {
                return Ok(block.value(at));
            }
        }
        Ok(None)
    }

    fn cursors(&self) -> Vec<Cursor<'_>> {
        let memory = self.memtables.iter().map(|memtable| Cursor::in_memory(memtable));
        memory.chain(self.runs.iter().map(|run| Cursor::Run(RunCursor::new(run.clone())))).collect()
    }
}

/// Forwards through what a sequence sees, all sources merged.
pub(super) struct Forward<'a> {
    /// Newest first, so of two entries at one place the first is the right one.
    cursors: Vec<Cursor<'a>>,
    to: Option<Key>,
    /// Which cursor is at the next entry.
    next: Option<usize>,
}

impl<'a> Forward<'a> {
    pub(super) fn new(content: &'a Content, from: &[u8], to: Option<&[u8]>) -> Result<Forward<'a>, StorageError> {
        let (mut cursors, from) = (content.cursors(), Home::before(from));
        for cursor in &mut cursors {
            cursor.seek(&from)?;
        }
        let mut forward = Forward { cursors, to: to.map(Key::new), next: None };
        forward.choose();
        Ok(forward)
    }

    fn choose(&mut self) {
        let mut next = None;
        for (at, cursor) in self.cursors.iter().enumerate() {
            let Some(place) = cursor.place() else { continue };
            if self.to.as_ref().is_some_and(|to| place.0 >= to.as_slice()) {
                continue;
            }
            if next.is_none_or(|(_, first)| in_order(place, first) == Ordering::Less) {
                next = Some((at, place));
            }
        }
        self.next = next.map(|(at, _)| at);
    }

    fn current(&self) -> Option<&Cursor<'a>> {
        self.next.map(|at| &self.cursors[at])
    }

    fn advance(&mut self) -> Result<(), StorageError> {
        if let Some(at) = self.next {
            self.cursors[at].advance()?;
            self.choose();
        }
        Ok(())
    }

    /// Passes all that lies before a place.
    fn pass(&mut self, home: &Home) -> Result<(), StorageError> {
        let mut steps = 0;
        while let Some(at) = self.next
            && let Some(place) = self.cursors[at].place()
            && in_order(place, home.place()) == Ordering::Less
        {
            if steps < STEPS_BEFORE_A_LEAP {
                self.cursors[at].advance()?;
            } else {
                self.cursors[at].seek(home)?;
            }
            steps += 1;
            self.choose();
        }
        Ok(())
    }

    /// Goes on to the next key that has a value at a sequence, and shows it.
    pub(super) fn next_row<T>(
        &mut self,
        sequence: Sequence,
        mut show: impl FnMut(&[u8], &Cursor<'_>) -> T,
    ) -> Result<Option<T>, StorageError> {
        loop {
            let Some((key, newest)) = self.current().and_then(Cursor::place) else { return Ok(None) };
            if newest > sequence {
                let home = Home::new(key, sequence);
                self.pass(&home)?;
                continue;
            }
            let cursor = self.current().expect("there is an entry");
            let shown = cursor.is_value().then(|| show(key, cursor));
            // Older versions, and the same one in an older source.
            let oldest = Home::new(key, 0);
            self.pass(&oldest)?;
            while self.current().and_then(Cursor::place).is_some_and(|place| place == oldest.place()) {
                self.advance()?;
            }
            if shown.is_some() {
                return Ok(shown);
            }
        }
    }

    /// The next key's versions after `since` and up to `until`, and before them what was there at `since`; oldest first.
    pub(super) fn next_versions(
        &mut self,
        since: Sequence,
        until: Sequence,
    ) -> Result<Option<(Bytes, Vec<Version>)>, StorageError> {
        loop {
            let Some((key, _)) = self.current().and_then(Cursor::place) else { return Ok(None) };
            let (newest, oldest) = (Home::new(key, until), Home::new(key, 0));
            self.pass(&newest)?;
            let mut versions: Vec<Version> = Vec::new();
            while let Some(cursor) = self.current()
                && let Some((key, sequence)) = cursor.place()
                && key == oldest.key.as_slice()
            {
                if versions.last().is_none_or(|newer| newer.sequence > sequence) {
                    // A deletion at the beginning says no more than its absence.
                    if sequence > since || cursor.is_value() {
                        versions.push(Version { sequence, value: cursor.value() });
                    }
                    if sequence <= since {
                        break;
                    }
                }
                self.advance()?;
            }
            self.pass(&oldest)?;
            while self.current().and_then(Cursor::place).is_some_and(|place| place == oldest.place()) {
                self.advance()?;
            }
            if !versions.is_empty() {
                versions.reverse();
                return Ok(Some((Bytes::copy_from_slice(oldest.key.as_slice()), versions)));
            }
        }
    }
}

/// Backwards through what a sequence sees.
pub(super) struct Backward<'a> {
    content: &'a Content,
    cursors: Vec<Cursor<'a>>,
    from: Key,
}

impl<'a> Backward<'a> {
    pub(super) fn new(content: &'a Content, from: &[u8], to: Option<&[u8]>) -> Result<Backward<'a>, StorageError> {
        let (mut cursors, to) = (content.cursors(), to.map(Key::new));
        for cursor in &mut cursors {
            cursor.seek_before(to.as_ref())?;
        }
        Ok(Backward { content, cursors, from: Key::new(from) })
    }

    pub(super) fn next_row(&mut self, sequence: Sequence) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        loop {
            let keys = self.cursors.iter().filter_map(|cursor| cursor.place().map(|(key, _)| key));
            let Some(key) = keys.max().filter(|&key| key >= self.from.as_slice()).map(Key::new) else {
                return Ok(None);
            };
            for cursor in &mut self.cursors {
                if cursor.place().is_some_and(|(at, _)| at == key.as_slice()) {
                    cursor.seek_before(Some(&key))?;
                }
            }
            if let Some(value) = self.content.get(key.as_slice(), sequence)? {
                return Ok(Some((Bytes::copy_from_slice(key.as_slice()), value)));
            }
        }
    }
}
