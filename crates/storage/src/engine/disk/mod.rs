//! The engine of data that is larger than memory: a memtable that takes what is written, and sorted tables on disk that
//! it is flushed to (a log-structured merge tree: O'Neil and others, 1996).
//!
//! There is no log here: the Raft log is it. What is written is safe because it is in that log, and the log may go up to
//! where a flush has made it durable. So the owner says when a memtable is *sealed*, and gives a *note* with it: its own
//! state as of that moment. Sealed memtables are flushed one after another, oldest first, each with its note in the same
//! step, and after a restart the engine is what it was at one of these moments.
//!
//! Tables form *runs*: what was written in one stretch of time, in order. When four runs of about a size lie next to each
//! other they are merged into one (size-tiered, as each entry is then rewritten once for every factor of four that the
//! data has grown by, and not more). A read asks the memtables, then the runs from the newest on, and the first that
//! knows the key is right; filters in memory spare most of the runs.
//!
//! Flushes and merges are [`Job`]s: values that are run beside the engine, on any thread. Nothing of the engine changes
//! until [`DiskEngine::finish`] takes their outcome, and whoever reads keeps what it began with: tables are never
//! changed, and their files stay while any view has them. That is also how the past works: a view has all tables of its
//! moment, and with them all versions that were within reach then.
//!
//! Not handled: compression; repair.

mod block;
mod cursor;
mod entry;
mod filter;
mod job;
mod manifest;
mod memtable;
mod read;
mod slab;
mod table;
#[cfg(test)]
mod tests;

use super::{Batch, Engine, History, Key, Sequence, Version, View};
use crate::StorageError;
use crate::files::{Files, OpenMode};
use bytes::Bytes;
use job::{Outcome, RunWriter};
use manifest::{Durable, Manifest, Name};
use memtable::Memtable;
use read::{Backward, Forward};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use table::{BlockCache, Run, Table, TableId, TableWriter};

pub use job::{Finished, Job, JobKind};

/// So many runs of about a size are merged.
const RUNS_OF_A_SIZE: usize = 4;
/// A second one so that a long merge does not hold up the short ones behind it. Where two are long, a short one may begin
/// beside them.
const MERGES_AT_ONCE: usize = 2;
/// With so many runs reads have become slow: writes have to wait for merges.
const MOST_RUNS: usize = 48;
/// With so many, merges should be in a hurry. Where they keep up there are three of each size, and those that are being merged.
const LATE_RUNS: usize = MOST_RUNS / 2;

#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Two thirds of it for memtables, one for blocks, filters and indexes of tables.
    pub memory_bytes: usize,
    /// A memtable is full with so much.
    pub memtable_bytes: usize,
    pub block_bytes: usize,
    pub table_bytes: u64,
    /// How many entries a job looks at in a step: a hundred are some tenth of a millisecond.
    pub step_entries: usize,
}

impl DiskOptions {
    /// As is good for so much memory.
    pub fn within(memory_bytes: usize) -> DiskOptions {
        let (memtable_bytes, block_bytes, table_bytes) = (memory_bytes / 4, 8 * 1024, 32 << 20);
        DiskOptions { memory_bytes, memtable_bytes, block_bytes, table_bytes, step_entries: 100 }
    }

    fn memtables_bytes(&self) -> usize {
        self.memory_bytes / 3 * 2
    }

    fn tables_bytes(&self) -> usize {
        self.memory_bytes / 3
    }
}

/// How much of the memory for writes is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    pub used_bytes: usize,
    /// Writes should have been refused before. 0: there is no bound.
    pub bound_bytes: usize,
}

pub struct DiskEngine {
    shared: Arc<Shared>,
    sequence: Sequence,
    content: Arc<Content>,
    /// Oldest first; the flush of the first may be under way.
    sealed: VecDeque<Sealed>,
    flushing: bool,
    /// What is being merged.
    merging: Vec<Vec<Arc<Run>>>,
    /// Nothing but views has them any more.
    superfluous: Superfluous,
    removing: bool,
    loading: Option<Box<Loading>>,
}

/// What goes when nobody sees it any more, and beside the engine: to give back a memtable's memory takes longer than a turn
/// of its owner should.
#[derive(Default)]
struct Superfluous {
    tables: Vec<Arc<Table>>,
    memtables: Vec<Arc<Memtable>>,
}

impl Superfluous {
    /// What nobody sees.
    fn take_unseen(&mut self) -> Option<Superfluous> {
        let tables: Vec<_> = self.tables.extract_if(.., |table| Arc::strong_count(table) == 1).collect();
        let memtables: Vec<_> = self.memtables.extract_if(.., |memtable| Arc::strong_count(memtable) == 1).collect();
        let any = !(tables.is_empty() && memtables.is_empty());
        any.then_some(Superfluous { tables, memtables })
    }
}

struct Sealed {
    memtable: Arc<Memtable>,
    sequence: Sequence,
    /// What was evicted then. Later evictions count for merges only once they are durable with a note: after a restart
    /// the owner would not know of them yet.
    threshold: Sequence,
    note: Bytes,
}

/// All that there is at one moment, newest first.
struct Content {
    /// The first is being written.
    memtables: Vec<Arc<Memtable>>,
    runs: Vec<Arc<Run>>,
}

/// What the engine, its views and its jobs have in common.
struct Shared {
    files: Arc<dyn Files>,
    folder: PathBuf,
    generation: u32,
    options: DiskOptions,
    /// Keys from here on have no past.
    boundary: Key,
    cache: Arc<BlockCache>,
    next_table: AtomicU32,
    /// Nobody asks for what was superseded at or before it.
    threshold: AtomicU64,
    durable: Mutex<Durable>,
    /// Its files are being removed, or are gone. All jobs of an engine are stepped by one thread.
    is_discarded: AtomicBool,
}

/// A state on its way in, which is sorted already.
struct Loading {
    writer: RunWriter,
    key: Key,
    versions: Vec<(Sequence, Option<Bytes>)>,
}

impl DiskEngine {
    /// An empty engine, beside whatever is in the folder; it is found there by [`DiskEngine::open`] once something was
    /// sealed and flushed, and then in the place of what was there before.
    pub fn create(
        files: Arc<dyn Files>,
        folder: &Path,
        options: DiskOptions,
        boundary: Key,
    ) -> Result<DiskEngine, StorageError> {
        files.create_folder(folder).map_err(|error| table::cannot_write(folder, error))?;
        let newest = names(&*files, folder)?.into_iter().map(|(_, name)| name.generation()).max();
        let generation = newest.unwrap_or(0) + 1;
        // So that the next one, made before anything of this one is there, takes another.
        let taken = folder.join(Name::Unfinished { generation }.to_string());
        files.open(&taken, OpenMode::Create).map_err(|error| table::cannot_write(&taken, error))?;
        let shared = Shared::new(files, folder, generation, options, boundary);
        Ok(DiskEngine::of(shared, 0, Vec::new()))
    }

    /// The engine in a folder as it last was durable, with the note of that moment; `None` if there is none. Clears away
    /// what belongs to no such engine.
    pub fn open(
        files: Arc<dyn Files>,
        folder: &Path,
        options: DiskOptions,
        boundary: Key,
    ) -> Result<Option<(DiskEngine, Bytes)>, StorageError> {
        if !files.exists(folder).map_err(|error| table::cannot_read(folder, error))? {
            return Ok(None);
        }
        // What a dead process renamed may not be on disk yet, and on the word of it files are removed and the log is purged.
        files.sync_folder(folder).map_err(|error| table::cannot_write(folder, error))?;
        let names = names(&*files, folder)?;
        // Of a state that came in late, beside one that had gone on, the other is the newer one.
        let mut newest: Option<Manifest> = None;
        for (_, name) in &names {
            let Name::Manifest { generation } = name else { continue };
            let manifest = manifest::read(&*files, folder, *generation)?;
            if newest.as_ref().is_none_or(|newest| newest.sequence <= manifest.sequence) {
                newest = Some(manifest);
            }
        }
        let Some(manifest) = newest else {
            clear(&*files, folder, &names, |_| false)?;
            return Ok(None);
        };
        let generation = manifest.generation;
        let is_named = |id: TableId| manifest.runs.iter().flatten().any(|table| table.id == id);
        clear(&*files, folder, &names, |name| match name {
            Name::Table(id) => is_named(id),
            Name::Manifest { .. } => name.generation() == generation,
            Name::Unfinished { .. } => false,
        })?;
        let shared = Shared::new(files, folder, generation, options, boundary);
        let numbers = names.iter().filter_map(|(_, name)| match name {
            Name::Table(id) if id.generation == generation => Some(id.number),
            _ => None,
        });
        shared.next_table.store(numbers.max().unwrap_or(0) + 1, Ordering::Relaxed);
        let mut runs = Vec::new();
        for infos in manifest.runs {
            let open = |info| Table::open(&*shared.files, folder, info, &shared.cache).map(Arc::new);
            runs.push(Arc::new(Run { tables: infos.into_iter().map(open).collect::<Result<_, _>>()? }));
        }
        let (sequence, note) = (manifest.sequence, manifest.note);
        *shared.durable() = Durable { sequence, note: note.clone(), runs: runs.clone(), threshold: 0 };
        Ok(Some((DiskEngine::of(shared, sequence, runs), note)))
    }

    fn of(shared: Shared, sequence: Sequence, runs: Vec<Arc<Run>>) -> DiskEngine {
        let fresh = Arc::new(Memtable::new(shared.options.memtable_bytes));
        let engine = DiskEngine {
            shared: Arc::new(shared),
            sequence,
            content: Arc::new(Content { memtables: vec![fresh], runs }),
            sealed: VecDeque::new(),
            flushing: false,
            merging: Vec::new(),
            superfluous: Superfluous::default(),
            removing: false,
            loading: None,
        };
        engine.share_memory();
        engine
    }

    /// Whether a job's outcome is for this engine, and not for one that it replaced.
    pub fn owns(&self, finished: &Finished) -> bool {
        Arc::ptr_eq(&finished.shared, &self.shared)
    }

    /// Whether the memtable should be sealed.
    pub fn is_full(&self) -> bool {
        self.content.memtables[0].size_bytes() >= self.shared.options.memtable_bytes
    }

    pub fn fill(&self) -> Fill {
        let bound_bytes = self.shared.options.memtables_bytes();
        let written = self.content.memtables.iter().map(|memtable| memtable.size_bytes()).sum();
        let behind = bound_bytes * self.content.runs.len() / MOST_RUNS;
        Fill { used_bytes: std::cmp::max(written, behind), bound_bytes }
    }

    /// What was written so far is to be durable, with the owner's note of this moment, as soon as the jobs are done.
    /// All changes at one sequence must be written before.
    pub fn seal(&mut self, note: Bytes) {
        let memtable = self.content.memtables[0].clone();
        let threshold = self.shared.threshold();
        self.sealed.push_back(Sealed { memtable, sequence: self.sequence, threshold, note });
        let fresh = Arc::new(Memtable::new(self.shared.options.memtable_bytes));
        self.change(|content| content.memtables.insert(0, fresh));
    }

    /// Something that should be done beside the engine. There may be several at once; each is given once.
    pub fn next_job(&mut self) -> Option<Job> {
        if !self.flushing
            && let Some(sealed) = self.sealed.front()
        {
            self.flushing = true;
            return Some(Job::flush(&self.shared, sealed));
        }
        if let Some(count) = self.runs_to_merge()
            && self.may_merge(&self.content.runs[..count])
        {
            let inputs = self.content.runs[..count].to_vec();
            self.merging.push(inputs.clone());
            return Some(Job::merge(&self.shared, inputs, count == self.content.runs.len()));
        }
        if !self.removing
            && let Some(unseen) = self.superfluous.take_unseen()
        {
            self.removing = true;
            return Some(Job::remove(&self.shared, unseen));
        }
        None
    }

    /// Takes over what a job came to. Says whether what was sealed first, of what was not durable, is durable now. A job of
    /// an engine that this one replaced changes nothing.
    pub fn finish(&mut self, finished: Finished) -> bool {
        if !self.owns(&finished) {
            return false;
        }
        let is_flush = finished.is_flush();
        match finished.outcome {
            Outcome::Flushed { run } => {
                self.flushing = false;
                self.sealed.pop_front();
                self.superfluous.memtables.extend(self.content.memtables.last().cloned());
                self.change(|content| {
                    content.memtables.pop();
                    content.runs.splice(0..0, run);
                });
            }
            Outcome::Merged { inputs, run } => {
                self.merging.retain(|merging| !Arc::ptr_eq(&merging[0], &inputs[0]));
                self.change(|content| job::replace(&mut content.runs, &inputs, run));
                self.superfluous.tables.extend(inputs.iter().flat_map(|run| run.tables.clone()));
            }
            Outcome::Removed => self.removing = false,
            Outcome::Discarded => {}
        }
        self.share_memory();
        is_flush
    }

    /// Does all that there is to do, here and now.
    pub fn settle(&mut self) -> Result<(), StorageError> {
        while let Some(mut job) = self.next_job() {
            loop {
                if let Some(finished) = job.step()? {
                    self.finish(finished);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes all of it from the disk, for another engine is in its place. Views go on reading as long as they live.
    pub fn discard(&self) -> Job {
        Job::discard(&self.shared)
    }

    /// How many of the newest runs to merge now. A merge waits for four runs of one size, and takes the smaller ones before
    /// and between them along. Each size reaches to four times the one before it, and the first to twice a memtable, that
    /// flushes and what they are merged to lie in the midst of a size.
    fn runs_to_merge(&self) -> Option<usize> {
        let runs = &self.content.runs;
        let is_free = |run: &&Arc<Run>| !self.merging.iter().flatten().any(|merging| Arc::ptr_eq(merging, run));
        let free = runs.iter().take_while(is_free).count();
        let (mut floor, mut limit) = (0, 2 * self.shared.options.memtable_bytes as u64);
        loop {
            let count = runs[..free].iter().take_while(|run| run.size_bytes() <= limit).count();
            if runs[..count].iter().filter(|run| run.size_bytes() > floor).count() >= RUNS_OF_A_SIZE {
                return Some(count);
            }
            if count == free {
                return None;
            }
            (floor, limit) = (limit, limit * RUNS_OF_A_SIZE as u64);
        }
    }

    fn may_merge(&self, inputs: &[Arc<Run>]) -> bool {
        let size_bytes = |runs: &[Arc<Run>]| runs.iter().map(|run| run.size_bytes()).sum::<u64>();
        let is_short = |beside: &Vec<Arc<Run>>| size_bytes(inputs) * RUNS_OF_A_SIZE as u64 <= size_bytes(beside);
        self.merging.len() < MERGES_AT_ONCE || self.merging.iter().all(is_short)
    }

    fn change(&mut self, change: impl FnOnce(&mut Content)) {
        let Content { memtables, runs } = &*self.content;
        let mut content = Content { memtables: memtables.clone(), runs: runs.clone() };
        change(&mut content);
        self.content = Arc::new(content);
    }

    /// What tables keep in memory is taken from what there is for blocks.
    fn share_memory(&self) {
        let tables = self.content.runs.iter().flat_map(|run| &run.tables);
        let pinned: usize = tables.map(|table| table.pinned_bytes()).sum();
        let bytes = self.shared.options.tables_bytes();
        self.shared.cache.set_capacity(bytes.saturating_sub(pinned).max(bytes / 8) as u64);
    }
}

impl Engine for DiskEngine {
    type View = DiskView;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.content.get(key, Sequence::MAX)
    }

    fn look<T>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, StorageError> {
        self.content.look(key, Sequence::MAX, look)
    }

    fn write(&mut self, sequence: Sequence, batch: Batch) -> Result<(), StorageError> {
        assert!(sequence >= self.sequence, "sequence {sequence} after {}", self.sequence);
        let memtable = &self.content.memtables[0];
        for (key, value) in batch.changes {
            memtable.insert(sequence, key, value);
        }
        self.sequence = sequence;
        Ok(())
    }

    fn sequence(&self) -> Sequence {
        self.sequence
    }

    fn view(&self) -> DiskView {
        DiskView { shared: self.shared.clone(), content: self.content.clone(), sequence: self.sequence }
    }

    fn evict_below(&mut self, sequence: Sequence) {
        self.shared.threshold.fetch_max(sequence.min(self.sequence), Ordering::AcqRel);
    }

    /// Merges do it.
    fn tidy(&mut self, _versions: usize) {}

    fn load(&mut self, sequence: Sequence, key: Key, value: Option<Bytes>) -> Result<(), StorageError> {
        let shared = &self.shared;
        let loading = self.loading.get_or_insert_with(|| {
            let (writer, key) = (RunWriter::new(shared), key.clone());
            Box::new(Loading { writer, key, versions: Vec::new() })
        });
        if loading.key != key {
            loading.end_key()?;
            loading.key = key;
        }
        loading.versions.push((sequence, value));
        Ok(())
    }

    fn end_loading(&mut self, sequence: Sequence, threshold: Sequence) -> Result<(), StorageError> {
        if let Some(mut loading) = self.loading.take() {
            loading.end_key()?;
            let run = loading.writer.finish()?;
            self.shared.durable().runs.extend(run.clone());
            self.change(|content| content.runs.extend(run));
            self.share_memory();
        }
        self.sequence = sequence;
        self.evict_below(threshold);
        Ok(())
    }
}

/// The state at one sequence. It keeps what it sees: in memory what was not flushed then, on disk what was.
#[derive(Clone)]
pub struct DiskView {
    shared: Arc<Shared>,
    content: Arc<Content>,
    sequence: Sequence,
}

pub struct DiskHistory {
    view: DiskView,
    since: Sequence,
}

impl View for DiskView {
    type History = DiskHistory;
    type Range<'a> = Range<'a>;

    fn sequence(&self) -> Sequence {
        self.sequence
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.content.get(key, self.sequence)
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_> {
        let (from, to) = (Key::new(from), to.map(Key::new));
        Range { view: self, from, to, front: None, back: None, front_key: None, back_key: None, failed: false }
    }

    fn count(&self, from: &[u8], to: Option<&[u8]>) -> Result<u64, StorageError> {
        let mut rows = Forward::new(&self.content, from, to)?;
        let mut count = 0;
        while rows.next_row(self.sequence, |_, _| ())?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn at(&self, sequence: Sequence) -> Option<DiskView> {
        let within = (self.shared.threshold()..=self.sequence).contains(&sequence);
        within.then(|| DiskView { sequence, ..self.clone() })
    }

    fn history(&self, since: Sequence) -> Option<DiskHistory> {
        let within = (self.shared.threshold()..=self.sequence).contains(&since);
        within.then(|| DiskHistory { view: self.clone(), since })
    }
}

impl History for DiskHistory {
    type Versions<'a> = Versions<'a>;

    fn get(&self, key: &[u8], sequence: Sequence) -> Result<Option<Bytes>, StorageError> {
        assert!((self.since..=self.view.sequence).contains(&sequence), "sequence {sequence} of a history");
        self.view.content.get(key, sequence)
    }

    fn versions(&self, from: &[u8], to: &[u8]) -> Versions<'_> {
        let rows = Some(Forward::new(&self.view.content, from, Some(to)));
        Versions { rows, since: self.since, until: self.view.sequence }
    }
}

/// Both ends begin when they are first asked.
pub struct Range<'a> {
    view: &'a DiskView,
    from: Key,
    to: Option<Key>,
    front: Option<Forward<'a>>,
    back: Option<Backward<'a>>,
    /// The last key that either end gave.
    front_key: Option<Bytes>,
    back_key: Option<Bytes>,
    failed: bool,
}

impl Range<'_> {
    fn forwards(&mut self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let front = match &mut self.front {
            Some(front) => front,
            None => {
                let to = self.to.as_ref().map(Key::as_slice);
                self.front.insert(Forward::new(&self.view.content, self.from.as_slice(), to)?)
            }
        };
        let row = front.next_row(self.view.sequence, |key, cursor| {
            (Bytes::copy_from_slice(key), cursor.value().unwrap_or_default())
        })?;
        let row = row.filter(|(key, _)| self.back_key.as_ref().is_none_or(|back| key < back));
        if let Some((key, _)) = &row {
            self.front_key = Some(key.clone());
        }
        Ok(row)
    }

    fn backwards(&mut self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let back = match &mut self.back {
            Some(back) => back,
            None => {
                let to = self.to.as_ref().map(Key::as_slice);
                self.back.insert(Backward::new(&self.view.content, self.from.as_slice(), to)?)
            }
        };
        let row = back.next_row(self.view.sequence)?;
        let row = row.filter(|(key, _)| self.front_key.as_ref().is_none_or(|front| key > front));
        if let Some((key, _)) = &row {
            self.back_key = Some(key.clone());
        }
        Ok(row)
    }

    /// After an error there is nothing more.
    fn row(
        &mut self,
        row: Result<Option<(Bytes, Bytes)>, StorageError>,
    ) -> Option<Result<(Bytes, Bytes), StorageError>> {
        self.failed = row.is_err();
        row.transpose()
    }
}

impl Iterator for Range<'_> {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.forwards();
        self.row(row)
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.backwards();
        self.row(row)
    }
}

pub struct Versions<'a> {
    /// `None` after an error.
    rows: Option<Result<Forward<'a>, StorageError>>,
    since: Sequence,
    until: Sequence,
}

impl Iterator for Versions<'_> {
    type Item = Result<(Bytes, Vec<Version>), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.rows.take()? {
            Ok(mut rows) => {
                let row = rows.next_versions(self.since, self.until);
                self.rows = row.is_ok().then_some(Ok(rows));
                row
            }
            Err(error) => Err(error),
        };
        row.transpose()
    }
}

impl Loading {
    /// Tables have the newest version first.
    fn end_key(&mut self) -> Result<(), StorageError> {
        for (sequence, value) in self.versions.drain(..).rev() {
            self.writer.push((self.key.as_slice(), sequence), value.as_deref())?;
        }
        Ok(())
    }
}

impl Shared {
    fn new(files: Arc<dyn Files>, folder: &Path, generation: u32, mut options: DiskOptions, boundary: Key) -> Shared {
        // One that is flushed and one that is filled are to have room.
        options.memtable_bytes = options.memtable_bytes.min(options.memory_bytes / 4).max(1);
        let cache = table::new_cache(options.tables_bytes(), options.block_bytes);
        Shared {
            files,
            folder: folder.to_path_buf(),
            generation,
            options,
            boundary,
            cache: Arc::new(cache),
            next_table: AtomicU32::new(1),
            threshold: AtomicU64::new(0),
            durable: Mutex::new(Durable::default()),
            is_discarded: AtomicBool::new(false),
        }
    }

    fn create_table(&self) -> Result<TableWriter, StorageError> {
        let number = self.next_table.fetch_add(1, Ordering::Relaxed);
        let id = TableId { generation: self.generation, number };
        TableWriter::create(&*self.files, &self.folder, id, self.options.block_bytes)
    }

    fn threshold(&self) -> Sequence {
        self.threshold.load(Ordering::Acquire)
    }

    fn durable(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All files of engines in the folder.
fn names(files: &dyn Files, folder: &Path) -> Result<Vec<(String, Name)>, StorageError> {
    let texts = files.list(folder).map_err(|error| table::cannot_read(folder, error))?;
    Ok(texts.into_iter().filter_map(|text| Name::parse(&text).map(|name| (text, name))).collect())
}

/// Removes all files but those that stay.
fn clear(
    files: &dyn Files,
    folder: &Path,
    names: &[(String, Name)],
    stays: impl Fn(Name) -> bool,
) -> Result<(), StorageError> {
    for (text, name) in names {
        if !stays(*name) {
            remove(files, &folder.join(text))?;
        }
    }
    Ok(())
}

/// It may be gone already: what is superfluous is removed by whoever comes first.
fn remove(files: &dyn Files, path: &Path) -> Result<(), StorageError> {
    match files.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(table::cannot_write(path, error)),
        _ => Ok(()),
    }
}
