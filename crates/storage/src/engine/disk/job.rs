//! What is done beside the engine: flushes, merges, and taking away what they made superfluous.
//!
//! A job goes in steps of bounded work, so that whoever runs it can do something more urgent in between, and a
//! simulator can let the process die there. All of it ends with the manifest: until that is durable, nothing that was
//! written counts, and the next start clears it away.

use super::cursor::RunCursor;
use super::entry::{Home, Place, in_order};
use super::manifest::{self, Durable, Name};
use super::memtable::Memtable;
use super::table::{Run, Table, TableWriter, cannot_write};
use super::{LATE_RUNS, Sealed, Shared, Superfluous};
use crate::StorageError;
use crate::engine::{Key, Sequence};
use crate::files::Removal;
use bytes::Bytes;
use std::cmp::Ordering;
use std::io::ErrorKind;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

/// How much a step writes at the most.
const STEP_BYTES: u64 = 256 * 1024;

/// A piece of work beside the engine, for any thread. After an error it is of no use, and neither is the engine as far
/// as the disk goes: the process must end, as after a failed write of the log.
pub struct Job {
    shared: Arc<Shared>,
    work: Box<Work>,
}

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    Flush,
    Merge,
    /// Of what is superfluous.
    Removal,
}

/// What a job came to, for [`super::DiskEngine::finish`].
pub struct Finished {
    pub(super) shared: Arc<Shared>,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Flushed { run: Option<Arc<Run>> },
    Merged { inputs: Vec<Arc<Run>>, run: Option<Arc<Run>> },
    Removed,
    Discarded,
}

enum Work {
    Flush(Flush),
    Merge(Merge),
    Remove(Removals),
    Discard,
}

struct Removals {
    superfluous: Superfluous,
    /// A file that is being freed.
    freed: Option<Removal>,
}

struct Flush {
    memtable: Arc<Memtable>,
    note: Bytes,
    sequence: Sequence,
    threshold: Sequence,
    retain: Retain,
    /// The last entry that was looked at.
    last: Option<Home>,
    writer: RunWriter,
}

struct Merge {
    /// Newest first.
    inputs: Vec<Arc<Run>>,
    /// None before the first step.
    cursors: Option<Vec<RunCursor>>,
    retain: Retain,
    writer: RunWriter,
}

impl Job {
    pub(super) fn flush(shared: &Arc<Shared>, sealed: &Sealed) -> Job {
        let bottom = shared.durable().runs.is_empty();
        let (retain, writer) = (Retain::new(shared, sealed.threshold, bottom), RunWriter::new(shared));
        let Sealed { memtable, sequence, threshold, note } = sealed;
        let (memtable, note) = (memtable.clone(), note.clone());
        let (sequence, threshold) = (*sequence, *threshold);
        let work = Work::Flush(Flush { memtable, note, sequence, threshold, retain, last: None, writer });
        Job { shared: shared.clone(), work: Box::new(work) }
    }

    /// `bottom`: the oldest run is among them.
    pub(super) fn merge(shared: &Arc<Shared>, inputs: Vec<Arc<Run>>, bottom: bool) -> Job {
        let threshold = shared.durable().threshold;
        let (retain, writer) = (Retain::new(shared, threshold, bottom), RunWriter::new(shared));
        let work = Work::Merge(Merge { inputs, cursors: None, retain, writer });
        Job { shared: shared.clone(), work: Box::new(work) }
    }

    pub(super) fn remove(shared: &Arc<Shared>, superfluous: Superfluous) -> Job {
        Job { shared: shared.clone(), work: Box::new(Work::Remove(Removals { superfluous, freed: None })) }
    }

    pub(super) fn discard(shared: &Arc<Shared>) -> Job {
        Job { shared: shared.clone(), work: Box::new(Work::Discard) }
    }

    /// Does a little, and gives what it came to when all is done and durable. Where the engine was discarded meanwhile
    /// nothing is left to do: what the job was reading and writing is gone.
    pub fn step(&mut self) -> Result<Option<Finished>, StorageError> {
        let shared = &self.shared;
        let outcome = match &mut *self.work {
            _ if shared.is_discarded.load(Relaxed) => Some(Outcome::Discarded),
            Work::Flush(flush) => flush.step(shared)?,
            Work::Merge(merge) => merge.step(shared)?,
            Work::Remove(removals) => removals.step(shared)?,
            Work::Discard => {
                shared.is_discarded.store(true, Relaxed);
                // A state that arrived and was not wanted may go further than the one that is, and be taken for it after a
                // crash. So its manifest goes before any of the tables that it names.
                let manifest = Name::Manifest { generation: shared.generation };
                super::remove(&*shared.files, &shared.folder.join(manifest.to_string()))?;
                let synced = shared.files.sync_folder(&shared.folder);
                synced.map_err(|error| cannot_write(&shared.folder, error))?;
                let names = super::names(&*shared.files, &shared.folder)?;
                let is_other = |name: Name| name.generation() != shared.generation;
                super::clear(&*shared.files, &shared.folder, &names, is_other)?;
                Some(Outcome::Discarded)
            }
        };
        Ok(outcome.map(|outcome| Finished { shared: shared.clone(), outcome }))
    }

    pub fn kind(&self) -> JobKind {
        match &*self.work {
            Work::Flush(_) => JobKind::Flush,
            Work::Merge(_) => JobKind::Merge,
            Work::Remove(_) | Work::Discard => JobKind::Removal,
        }
    }

    /// Whether so many runs wait to be merged that reads suffer, and writes soon have to wait.
    pub fn is_late(&self) -> bool {
        self.kind() == JobKind::Merge && self.shared.durable().runs.len() >= LATE_RUNS
    }

    /// How much work it is, about: the smaller goes first. Flushes come before all else, as memory waits for them.
    pub fn size_bytes(&self) -> u64 {
        match &*self.work {
            Work::Flush(_) => 0,
            Work::Merge(merge) => merge.inputs.iter().map(|run| run.size_bytes()).sum(),
            Work::Remove(_) | Work::Discard => 1,
        }
    }
}

impl Finished {
    /// Whether what was sealed first, of what was not durable before, is durable now.
    pub fn is_flush(&self) -> bool {
        matches!(self.outcome, Outcome::Flushed { .. })
    }

    /// How large the tables are that it wrote.
    pub fn written_bytes(&self) -> u64 {
        match &self.outcome {
            Outcome::Flushed { run } | Outcome::Merged { run, .. } => run.as_ref().map_or(0, |run| run.size_bytes()),
            Outcome::Removed | Outcome::Discarded => 0,
        }
    }
}

impl Flush {
    fn step(&mut self, shared: &Shared) -> Result<Option<Outcome>, StorageError> {
        let begin = self.writer.written_bytes();
        let mut next = self.memtable.behind(self.last.as_ref());
        for _ in 0..shared.options.step_entries {
            let Some(entry) = next else { break };
            let (place, value) = (entry.place(), entry.value());
            if self.retain.keeps(place, value.is_some()) {
                self.writer.push(place, value.as_deref())?;
            }
            self.last = Some(Home::new(place.0, place.1));
            if self.writer.written_bytes() - begin >= STEP_BYTES {
                return Ok(None);
            }
            next = entry.next();
        }
        if next.is_some() {
            return Ok(None);
        }
        let run = self.writer.finish()?;
        shared.settle(|durable| {
            (durable.sequence, durable.note) = (self.sequence, self.note.clone());
            durable.threshold = self.threshold;
            durable.runs.splice(0..0, run.clone());
        })?;
        Ok(Some(Outcome::Flushed { run }))
    }
}

impl Merge {
    fn step(&mut self, shared: &Shared) -> Result<Option<Outcome>, StorageError> {
        let Some(cursors) = &mut self.cursors else {
            let cursors = self.inputs.iter().map(|run| RunCursor::through(run.clone()));
            self.cursors = Some(cursors.collect::<Result<_, _>>()?);
            return Ok(None);
        };
        let begin = self.writer.written_bytes();
        for _ in 0..shared.options.step_entries {
            let Some(first) = first_of(cursors) else {
                let (inputs, run) = (self.inputs.clone(), self.writer.finish()?);
                shared.settle(|durable| replace(&mut durable.runs, &inputs, run.clone()))?;
                return Ok(Some(Outcome::Merged { inputs, run }));
            };
            let cursor = &mut cursors[first];
            if let Some(place) = cursor.place()
                && self.retain.keeps(place, cursor.is_value())
            {
                self.writer.push(place, cursor.bytes())?;
            }
            cursor.advance()?;
            if self.writer.written_bytes() - begin >= STEP_BYTES {
                break;
            }
        }
        Ok(None)
    }
}

impl Removals {
    fn step(&mut self, shared: &Shared) -> Result<Option<Outcome>, StorageError> {
        while self.freed.is_none()
            && let Some(table) = self.superfluous.tables.pop()
        {
            self.freed = match Removal::begin(&*shared.files, table.path()) {
                // What is superfluous is removed by whoever comes first.
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                begun => begun.map_err(|error| cannot_write(table.path(), error))?,
            };
        }
        if let Some(freed) = &mut self.freed {
            if freed.step().map_err(|error| cannot_write(&shared.folder, error))? {
                self.freed = None;
            }
            return Ok(None);
        }
        self.superfluous.memtables.clear();
        Ok(Some(Outcome::Removed))
    }
}

/// Of cursors at one place the first, which is the newest.
fn first_of(cursors: &[RunCursor]) -> Option<usize> {
    let mut first: Option<(usize, Place<'_>)> = None;
    for (at, cursor) in cursors.iter().enumerate() {
        if let Some(place) = cursor.place()
            && first.is_none_or(|(_, first)| in_order(place, first) == Ordering::Less)
        {
            first = Some((at, place));
        }
    }
    first.map(|(at, _)| at)
}

/// Puts the merged run in the place of those that it was made of.
pub(super) fn replace(runs: &mut Vec<Arc<Run>>, inputs: &[Arc<Run>], merged: Option<Arc<Run>>) {
    let first = runs.iter().position(|run| Arc::ptr_eq(run, &inputs[0])).expect("what is merged is there until then");
    let replaced: Vec<Arc<Run>> = runs.splice(first..first + inputs.len(), merged).collect();
    assert!(replaced.iter().zip(inputs).all(|(run, input)| Arc::ptr_eq(run, input)), "runs keep their order");
}

/// Decides which versions anybody can still ask for. It is shown all of them, in order, of one place the newest first.
struct Retain {
    /// Keys from here on have no past.
    boundary: Key,
    /// Nobody asks for what was superseded at or before it.
    threshold: Sequence,
    /// There is nothing older beneath, so that a deletion need not be remembered.
    bottom: bool,
    last: Option<Home>,
    /// The version that all who are left can see was shown.
    covered: bool,
}

impl Retain {
    fn new(shared: &Shared, threshold: Sequence, bottom: bool) -> Retain {
        let boundary = shared.boundary.clone();
        Retain { boundary, threshold, bottom, last: None, covered: false }
    }

    fn keeps(&mut self, (key, sequence): Place<'_>, is_value: bool) -> bool {
        match &mut self.last {
            Some(last) if last.key.as_slice() == key => {
                if last.sequence == sequence || self.covered {
                    return false;
                }
                last.sequence = sequence;
            }
            _ => {
                self.last = Some(Home::new(key, sequence));
                self.covered = false;
            }
        }
        if sequence > self.threshold && key < self.boundary.as_slice() {
            return true;
        }
        self.covered = true;
        is_value || !self.bottom
    }
}

/// Writes a run, table by table.
pub(super) struct RunWriter {
    shared: Arc<Shared>,
    table: Option<TableWriter>,
    tables: Vec<Arc<Table>>,
    finished_bytes: u64,
}

impl RunWriter {
    pub(super) fn new(shared: &Arc<Shared>) -> RunWriter {
        RunWriter { shared: shared.clone(), table: None, tables: Vec::new(), finished_bytes: 0 }
    }

    pub(super) fn push(&mut self, (key, sequence): Place<'_>, value: Option<&[u8]>) -> Result<(), StorageError> {
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(self.shared.create_table()?),
        };
        table.push(key, sequence, value)?;
        if table.size_bytes() >= self.shared.options.table_bytes { self.end_table() } else { Ok(()) }
    }

    fn end_table(&mut self) -> Result<(), StorageError> {
        if let Some(table) = self.table.take() {
            let table = table.finish(&*self.shared.files, &self.shared.cache)?;
            self.finished_bytes += table.info.size_bytes;
            self.tables.push(Arc::new(table));
        }
        Ok(())
    }

    fn written_bytes(&self) -> u64 {
        self.finished_bytes + self.table.as_ref().map_or(0, TableWriter::size_bytes)
    }

    /// `None`: there was nothing to write.
    pub(super) fn finish(&mut self) -> Result<Option<Arc<Run>>, StorageError> {
        self.end_table()?;
        let tables = std::mem::take(&mut self.tables);
        Ok((!tables.is_empty()).then(|| Arc::new(Run { tables })))
    }
}

impl Shared {
    /// Changes what is durable: in the manifest first.
    pub(super) fn settle(&self, change: impl FnOnce(&mut Durable)) -> Result<(), StorageError> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = durable.clone();
        change(&mut next);
        manifest::write(&*self.files, &self.folder, self.generation, &next)?;
        *durable = next;
        Ok(())
    }
}
