//! The open log: appending, syncing, rolling to the next segment, and letting old segments go.

use super::record::{self, Stamp};
use super::replay::{GroupReplay, Replay};
use super::segment::{self, GroupHeader, Header, Spare, SpareJob};
use super::slots::{self, Slots};
use super::{GroupWrite, HardState, LogEntry, LogWrite, RecoveredGroup, envelope};
use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use base::{GroupId, Index, Position};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct LogOptions {
    pub segment_size_bytes: u64,
    /// So many segments that are no longer needed are kept for use as new ones; the rest are removed. A checkpoint lets
    /// several go at once, and each that is not kept costs its size in zeros when the next one is made.
    pub spare_segments: usize,
    /// While there are more segments than this, what little still lives in the oldest is copied into the next new one.
    pub copy_forward_beyond_segments: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_size_bytes: 16 << 20, spare_segments: 6, copy_forward_beyond_segments: 8 }
    }
}

pub struct Log {
    files: Arc<dyn Files>,
    folder: PathBuf,
    options: LogOptions,
    groups: BTreeMap<GroupId, LiveGroup>,
    /// Full ones, oldest first, then the one that is written to.
    segments: VecDeque<Segment>,
    file: Box<dyn File>,
    path: PathBuf,
    /// Where the next record goes.
    offset: u64,
    /// Of the last record that was written.
    number: u64,
    synced_number: u64,
    is_sealed: bool,
    is_poisoned: bool,
    slots: Slots,
    votes_changed: bool,
    /// Entries were purged or overwritten, so a segment may have become needless.
    entries_freed: bool,
    spares: Vec<Spare>,
    next_spare: u64,
    spare_is_being_made: bool,
    buffer: Vec<u8>,
}

impl Log {
    /// Reads the log in `folder`, or begins one there. What it returns is on the disk.
    pub fn open(
        files: Arc<dyn Files>,
        folder: &Path,
        options: LogOptions,
    ) -> Result<(Log, BTreeMap<GroupId, RecoveredGroup>), StorageError> {
        make_folder(&*files, folder)?;
        let names = files.list(folder).map_err(|e| super::io("list", folder, e))?;
        let sequences: Vec<u64> = names.iter().filter_map(|name| segment::sequence_of(name)).collect();
        let (headers, replaced) = chain(&*files, folder, sequences)?;

        let mut replay = Replay::default();
        let mut segments = VecDeque::new();
        let (mut votes_sequence, mut is_sealed) = (0, false);
        for (at, header) in headers.iter().enumerate() {
            let path = segment::path(folder, header.sequence);
            let bytes = super::read_file(&*files, &path)?;
            let end = replay.read_segment(&path, &bytes, headers.get(at + 1).map(|next| next.previous_number))?;
            votes_sequence = votes_sequence.max(end.votes_sequence);
            is_sealed = end.is_sealed;
            segments.push_back(Segment {
                sequence: header.sequence,
                size_bytes: bytes.len() as u64,
                last_number: end.number,
            });
        }
        let found_slots = slots::read(&*files, folder, votes_sequence, is_sealed)?;
        if headers.is_empty() && found_slots.exist() {
            let path = segment::path(folder, 1);
            return Err(StorageError::damaged(path.display().to_string(), 0, "there are votes, but no segment"));
        }
        if let Some((group, index)) = replay.first_gap() {
            let path = segment::path(folder, headers.first().map_or(1, |header| header.sequence));
            let what = format!("entry {index} of group {group} is neither in this segment nor in a later one");
            return Err(StorageError::damaged(path.display().to_string(), 0, what));
        }
        for (&group, &(term, vote)) in &found_slots.votes {
            let state = &mut replay.groups.entry(group).or_default().hard_state;
            if (term, vote) > (state.term, state.vote) {
                (state.term, state.vote) = (term, vote);
            }
        }

        // All is read and found good; from here on things are changed.
        remove_spares(&*files, folder, &names)?;
        let last = segments.pop_back();
        let sequence = last.as_ref().map_or(0, |last| last.sequence) + 1;
        let copies = match &last {
            Some(last) => entries_in(&replay, last.sequence),
            None => Vec::new(),
        };
        let mut groups: BTreeMap<GroupId, LiveGroup> =
            replay.groups.iter().map(|(&group, state)| (group, LiveGroup::from_replay(state))).collect();
        let made = make_segment(
            &*files,
            folder,
            NewSegment {
                header: Header {
                    sequence,
                    previous: headers.last().map_or(0, |last| last.previous),
                    previous_number: headers.last().map_or(0, |last| last.previous_number),
                    synced_number: 0,
                    votes_sequence,
                    groups: headers_of(&groups),
                },
                copies: &copies,
                room_bytes: 0,
                size_bytes: options.segment_size_bytes,
                spare_number: 0,
            },
            &mut Vec::new(),
        )?;
        if let Some(last) = &last {
            groups.values_mut().for_each(|group| group.move_runs(last.sequence, sequence));
        }
        segments.push_back(Segment { sequence, size_bytes: made.size_bytes, last_number: made.number });
        let table = groups.iter().map(|(&group, state)| (group, state.hard_state)).collect();
        let slots = Slots::open(&*files, folder, &found_slots, &table)?;
        files.sync_folder(folder).map_err(|e| super::io("sync", folder, e))?;

        let mut log = Log {
            files,
            folder: folder.to_path_buf(),
            options,
            groups,
            segments,
            file: made.file,
            path: segment::path(folder, sequence),
            offset: made.offset,
            number: made.number,
            synced_number: made.number,
            is_sealed: false,
            is_poisoned: false,
            slots,
            votes_changed: false,
            entries_freed: false,
            spares: Vec::new(),
            next_spare: 1,
            spare_is_being_made: false,
            buffer: Vec::new(),
        };
        for replaced in replaced {
            log.retire(replaced, 0)?;
        }
        if let Some(last) = last {
            log.retire(last.sequence, last.size_bytes)?;
        }
        log.drop_needless()?;
        let recovered = replay.groups.into_iter().map(|(group, state)| (group, state.into_recovered())).collect();
        Ok((log, recovered))
    }

    /// Writes a batch. It is durable after the next [`Log::sync`], which may serve many appends.
    ///
    /// Panics if entries leave a gap or reach below the group's start: the caller is wrong then, not the disk.
    pub fn append(&mut self, write: &LogWrite) -> Result<(), StorageError> {
        self.check_alive()?;
        if write.groups.is_empty() {
            return Ok(());
        }
        self.assert_legal(write);
        record::begin_batch(&mut self.buffer);
        for group in &write.groups {
            record::put_group(&mut self.buffer, group);
        }
        let written = self.write_batch();
        self.poison_if_failed(written)?;
        for group in &write.groups {
            self.note(group);
        }
        Ok(())
    }

    /// Makes durable all that was appended. Terms and votes are then also in a slot.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.check_alive()?;
        let synced = self.sync_all();
        self.poison_if_failed(synced)
    }

    /// Says that all was synced, so that from now on any damage is noticed. For a log that falls idle, and at close.
    /// Syncs; does nothing if nothing was written since the last seal.
    pub fn seal(&mut self) -> Result<(), StorageError> {
        self.check_alive()?;
        if self.is_sealed {
            return Ok(());
        }
        let sealed = self.write_seal();
        self.poison_if_failed(sealed)
    }

    pub fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// The making of the next segment, if none is ready, to be run elsewhere and handed back to [`Log::add_spare`].
    /// Without one the log makes it by itself when it needs it.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        let is_needed = self.spares.is_empty() && !self.spare_is_being_made && self.options.spare_segments > 0;
        if self.is_poisoned || !is_needed {
            return None;
        }
        self.spare_is_being_made = true;
        let path = self.new_spare_path();
        Some(SpareJob { files: self.files.clone(), path, size_bytes: self.options.segment_size_bytes })
    }

    pub fn add_spare(&mut self, spare: Spare) {
        self.spare_is_being_made = false;
        if self.spares.len() < self.options.spare_segments {
            self.spares.push(spare);
        } else {
            // One too many does no harm: the next open removes it.
            let _ = self.files.remove(&spare.path);
        }
    }

    /// What all files of the log take.
    pub fn size_bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|segment| segment.size_bytes).sum();
        let spares: u64 = self.spares.iter().map(|spare| spare.size_bytes).sum();
        segments + spares + self.slots.size_bytes()
    }

    fn check_alive(&self) -> Result<(), StorageError> {
        if self.is_poisoned {
            let source = io::Error::other("an earlier write or sync of the log failed; the process must end");
            return Err(super::io("use", &self.folder, source));
        }
        Ok(())
    }

    fn poison_if_failed<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        self.is_poisoned |= result.is_err();
        result
    }

    fn assert_legal(&self, write: &LogWrite) {
        for write in &write.groups {
            let group = self.groups.get(&write.group);
            let (mut start, mut last) = group.map_or((0, 0), |group| (group.start.index, group.last));
            if let Some(reset) = write.reset {
                (start, last) = (reset.index, reset.index);
            }
            if let Some(first) = write.entries.first() {
                let first = first.position.index;
                assert!(first > start && first <= last + 1, "entry {first} does not fit into {start}..={last}");
                let mut places = write.entries.iter().map(|entry| entry.position.index).zip(first..);
                assert!(places.all(|(index, place)| index == place), "entries from {first} on leave a gap");
            }
        }
    }

    /// Keeps what must be known of the log without reading it.
    fn note(&mut self, write: &GroupWrite) {
        let segment = self.segments.back().map_or(0, |segment| segment.sequence);
        let group = self.groups.entry(write.group).or_default();
        if let Some(state) = write.hard_state {
            self.votes_changed |= (state.term, state.vote) != (group.hard_state.term, group.hard_state.vote);
            group.hard_state = state;
        }
        if let Some(reset) = write.reset {
            self.entries_freed |= !group.runs.is_empty();
            group.reset(reset);
        }
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            let (first, last) = (first.position.index, last.position.index);
            self.entries_freed |= first <= group.last;
            group.extend(first, last, segment, write.entries.iter().map(entry_size_bytes).sum());
        }
        if let Some(position) = write.purge_to {
            self.entries_freed = true;
            group.purge(position);
        }
        if let Some(configuration) = &write.configuration {
            group.configuration = configuration.clone();
        }
    }

    /// Writes the batch in the buffer, in the next segment if it does not fit into this one.
    fn write_batch(&mut self) -> Result<(), StorageError> {
        let size_bytes = self.segments.back().map_or(0, |segment| segment.size_bytes);
        if self.offset + record::finished_length(&self.buffer, self.offset) + record::SEAL_BYTES > size_bytes {
            // Wherever it will start, it grows by less than this when padded.
            self.roll(self.buffer.len() as u64 + record::MOST_PADDING_BYTES + record::SEAL_BYTES)?;
        }
        let stamp = self.next_stamp();
        if !record::finish_batch(&mut self.buffer, stamp) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "a batch must be shorter than 4 GiB");
            return Err(super::io("write", &self.path, source));
        }
        self.write_record()?;
        self.is_sealed = false;
        Ok(())
    }

    fn next_stamp(&self) -> Stamp {
        Stamp {
            segment: self.segments.back().map_or(0, |segment| segment.sequence),
            offset: self.offset,
            number: self.number + 1,
            synced_number: self.synced_number,
            votes_sequence: self.slots.sequence(),
        }
    }

    fn write_record(&mut self) -> Result<(), StorageError> {
        self.file.write_at(self.offset, &self.buffer).map_err(|e| super::io("write", &self.path, e))?;
        self.offset += self.buffer.len() as u64;
        self.number += 1;
        if let Some(segment) = self.segments.back_mut() {
            segment.last_number = self.number;
        }
        Ok(())
    }

    fn sync_segment(&mut self) -> Result<(), StorageError> {
        if self.synced_number < self.number {
            self.file.sync().map_err(|e| super::io("sync", &self.path, e))?;
            self.synced_number = self.number;
        }
        Ok(())
    }

    fn sync_all(&mut self) -> Result<(), StorageError> {
        // The segment first: a slot may be torn only where the log shows durably that it is not sealed.
        self.sync_segment()?;
        if self.votes_changed {
            self.slots.write(self.groups.iter().map(|(&group, state)| (group, &state.hard_state)))?;
            self.votes_changed = false;
        }
        if self.entries_freed {
            self.drop_needless()?;
            self.entries_freed = false;
        }
        Ok(())
    }

    fn write_seal(&mut self) -> Result<(), StorageError> {
        self.sync_all()?;
        let stamp = self.next_stamp();
        record::encode_seal(&mut self.buffer, stamp);
        self.write_record()?;
        self.sync_segment()?;
        self.is_sealed = true;
        Ok(())
    }

    /// Begins the next segment, with at least so much room.
    fn roll(&mut self, room_bytes: u64) -> Result<(), StorageError> {
        self.sync_segment()?;
        let previous = self.segments.back().map_or(0, |segment| segment.sequence);
        let sequence = previous + 1;
        let (emptied, copies) = self.copies_forward()?;
        let spare_number = self.next_spare;
        self.next_spare += 1;
        self.spare_is_being_made = false;
        let made = make_segment(
            &*self.files,
            &self.folder,
            NewSegment {
                header: Header {
                    sequence,
                    previous,
                    previous_number: self.number,
                    synced_number: 0,
                    votes_sequence: self.slots.sequence(),
                    groups: headers_of(&self.groups),
                },
                copies: &copies,
                room_bytes,
                size_bytes: self.options.segment_size_bytes,
                spare_number,
            },
            &mut self.spares,
        )?;
        for emptied in emptied {
            self.groups.values_mut().for_each(|group| group.move_runs(emptied, sequence));
            self.entries_freed = true;
        }
        self.segments.push_back(Segment { sequence, size_bytes: made.size_bytes, last_number: made.number });
        self.path = segment::path(&self.folder, sequence);
        self.file = made.file;
        self.offset = made.offset;
        self.number = made.number;
        self.synced_number = made.number;
        Ok(())
    }

    /// The oldest segments that are too many and hold little that lives, and what that is.
    fn copies_forward(&self) -> Result<(Vec<u64>, Copies), StorageError> {
        let (mut emptied, mut copies) = (Vec::new(), Copies::new());
        let mut budget_bytes = self.options.segment_size_bytes / 2;
        let too_many = (self.segments.len() + 1).saturating_sub(self.options.copy_forward_beyond_segments.max(1));
        for segment in self.segments.iter().take(too_many) {
            let in_segment = |run: &&Run| run.segment == segment.sequence;
            let runs = || self.groups.iter().map(|(&id, group)| (id, group.runs.iter().filter(in_segment)));
            let live_bytes: u64 = runs().flat_map(|(_, runs)| runs.map(|run| run.size_bytes)).sum();
            if live_bytes > budget_bytes {
                break;
            }
            budget_bytes -= live_bytes;
            emptied.push(segment.sequence);
            if runs().all(|(_, mut runs)| runs.next().is_none()) {
                continue;
            }
            let path = segment::path(&self.folder, segment.sequence);
            let bytes = super::read_file(&*self.files, &path)?;
            let mut replay = Replay::default();
            replay.read_segment(&path, &bytes, Some(segment.last_number))?;
            for (group, runs) in runs() {
                for run in runs {
                    let entries = replay.groups.get(&group).and_then(|state| state.range(run.first, run.last));
                    let entries = entries.ok_or_else(|| {
                        let what = format!("entries {} to {} of group {group} are not in it", run.first, run.last);
                        StorageError::damaged(path.display().to_string(), 0, what)
                    })?;
                    copies.push((group, entries));
                }
            }
        }
        Ok((emptied, copies))
    }

    /// Lets the oldest segments go in which nothing lives. Only after a sync: what freed them must be durable.
    fn drop_needless(&mut self) -> Result<(), StorageError> {
        let runs = self.groups.values().flat_map(|group| &group.runs);
        let oldest_needed = runs.map(|run| run.segment).min().unwrap_or(u64::MAX);
        while self.segments.len() > 1 && self.segments.front().is_some_and(|oldest| oldest.sequence < oldest_needed) {
            if let Some(oldest) = self.segments.pop_front() {
                self.retire(oldest.sequence, oldest.size_bytes)?;
            }
        }
        Ok(())
    }

    /// Makes a spare of a segment, or removes it. Durable when this returns: segments must go in their order, and one
    /// that is written to again must not be found under its old name.
    fn retire(&mut self, sequence: u64, size_bytes: u64) -> Result<(), StorageError> {
        let path = segment::path(&self.folder, sequence);
        let is_wanted = self.spares.len() < self.options.spare_segments;
        let spare_path = (is_wanted && size_bytes == self.options.segment_size_bytes).then(|| self.new_spare_path());
        match &spare_path {
            Some(spare_path) => self.files.rename(&path, spare_path).map_err(|e| super::io("rename", &path, e))?,
            None => self.files.remove(&path).map_err(|e| super::io("remove", &path, e))?,
        }
        self.files.sync_folder(&self.folder).map_err(|e| super::io("sync", &self.folder, e))?;
        if let Some(path) = spare_path {
            let file = self.files.open(&path, OpenMode::Write).map_err(|e| super::io("open", &path, e))?;
            self.spares.push(Spare { file, path, size_bytes });
        }
        Ok(())
    }

    fn new_spare_path(&mut self) -> PathBuf {
        self.next_spare += 1;
        segment::spare_path(&self.folder, self.next_spare - 1)
    }
}

struct Segment {
    sequence: u64,
    size_bytes: u64,
    last_number: u64,
}

/// What is kept of a group in memory; its entries are not.
#[derive(Default)]
struct LiveGroup {
    hard_state: HardState,
    configuration: Bytes,
    start: Position,
    last: Index,
    /// Where the entries from `start` to `last` stand, in the order of their indexes.
    runs: VecDeque<Run>,
}

/// Neighbouring entries in one segment.
struct Run {
    first: Index,
    last: Index,
    segment: u64,
    /// About: what is cut off is assumed to be of average size.
    size_bytes: u64,
}

impl LiveGroup {
    fn from_replay(state: &GroupReplay) -> LiveGroup {
        let mut group = LiveGroup {
            hard_state: state.hard_state,
            configuration: state.configuration.clone(),
            start: state.start,
            last: state.start.index,
            runs: VecDeque::new(),
        };
        for (entry, segment) in state.entries.values() {
            group.extend(entry.position.index, entry.position.index, *segment, entry_size_bytes(entry));
        }
        group
    }

    fn reset(&mut self, position: Position) {
        self.start = position;
        self.last = position.index;
        self.runs.clear();
    }

    fn purge(&mut self, position: Position) {
        if position.index <= self.start.index {
            return;
        }
        self.start = position;
        self.last = self.last.max(position.index);
        while let Some(run) = self.runs.front_mut() {
            if run.last > position.index {
                run.cut(run.first.max(position.index + 1), run.last);
                break;
            }
            self.runs.pop_front();
        }
    }

    /// Entries were written, over whatever stood from `first` on.
    fn extend(&mut self, first: Index, last: Index, segment: u64, size_bytes: u64) {
        while let Some(run) = self.runs.back_mut() {
            if run.first < first {
                run.cut(run.first, run.last.min(first - 1));
                break;
            }
            self.runs.pop_back();
        }
        self.last = last;
        match self.runs.back_mut() {
            Some(run) if run.segment == segment => {
                run.last = last;
                run.size_bytes += size_bytes;
            }
            _ => self.runs.push_back(Run { first, last, segment, size_bytes }),
        }
    }

    fn move_runs(&mut self, from: u64, to: u64) {
        self.runs.iter_mut().filter(|run| run.segment == from).for_each(|run| run.segment = to);
    }
}

impl Run {
    fn cut(&mut self, first: Index, last: Index) {
        let (left, whole) = (last - first + 1, self.last - self.first + 1);
        self.size_bytes = (u128::from(self.size_bytes) * u128::from(left) / u128::from(whole)) as u64;
        (self.first, self.last) = (first, last);
    }
}

fn entry_size_bytes(entry: &LogEntry) -> u64 {
    // Term, kind and two lengths take about so much.
    const FRAME_BYTES: usize = 8;
    (entry.data.len() + entry.context.len() + FRAME_BYTES) as u64
}

fn headers_of(groups: &BTreeMap<GroupId, LiveGroup>) -> BTreeMap<GroupId, GroupHeader> {
    let header = |group: &LiveGroup| GroupHeader {
        hard_state: group.hard_state,
        configuration: group.configuration.clone(),
        start: group.start,
        last: group.last,
    };
    groups.iter().map(|(&id, group)| (id, header(group))).collect()
}

/// Entries to be written a second time.
type Copies = Vec<(GroupId, Vec<LogEntry>)>;

/// All entries that stand in a segment.
fn entries_in(replay: &Replay, segment: u64) -> Copies {
    let mut copies = Copies::new();
    for (&group, state) in &replay.groups {
        let mut next = None;
        for (entry, _) in state.entries.values().filter(|(_, place)| *place == segment) {
            let index = entry.position.index;
            match copies.last_mut() {
                Some((_, entries)) if next == Some(index) => entries.push(entry.clone()),
                _ => copies.push((group, vec![entry.clone()])),
            }
            next = Some(index + 1);
        }
    }
    copies
}

struct NewSegment<'a> {
    header: Header,
    copies: &'a Copies,
    /// What must still fit in behind the copies.
    room_bytes: u64,
    /// At least.
    size_bytes: u64,
    /// Names the file until it is a segment, if no spare will do.
    spare_number: u64,
}

struct MadeSegment {
    file: Box<dyn File>,
    size_bytes: u64,
    offset: u64,
    number: u64,
}

/// Writes the header and the copies, syncs them, and only then gives the file the name of a segment.
fn make_segment(
    files: &dyn Files,
    folder: &Path,
    mut new: NewSegment<'_>,
    spares: &mut Vec<Spare>,
) -> Result<MadeSegment, StorageError> {
    let mut content = Vec::new();
    new.header.encode(&mut content);
    let number = put_copies(&mut content, &new.header, new.copies);
    new.header.synced_number = number;
    let mut header = Vec::new();
    new.header.encode(&mut header);
    content[..header.len()].copy_from_slice(&header);
    let needed_bytes = content.len() as u64 + new.room_bytes.max(record::SEAL_BYTES);

    let (file, spare_path, size_bytes) = match spares.pop_if(|spare| spare.size_bytes >= needed_bytes) {
        Some(spare) => {
            spare.file.write_at(0, &content).map_err(|e| super::io("write", &spare.path, e))?;
            (spare.file, spare.path, spare.size_bytes)
        }
        None => {
            let path = segment::spare_path(folder, new.spare_number);
            let size_bytes = new.size_bytes.max(needed_bytes);
            let file = files.open(&path, OpenMode::Create).map_err(|e| super::io("make", &path, e))?;
            file.write_at(0, &content).map_err(|e| super::io("write", &path, e))?;
            segment::fill(&*file, &path, content.len() as u64, size_bytes, || ())?;
            (file, path, size_bytes)
        }
    };
    file.sync().map_err(|e| super::io("sync", &spare_path, e))?;
    let path = segment::path(folder, new.header.sequence);
    files.rename(&spare_path, &path).map_err(|e| super::io("rename", &spare_path, e))?;
    files.sync_folder(folder).map_err(|e| super::io("sync", folder, e))?;
    Ok(MadeSegment { file, size_bytes, offset: content.len() as u64, number })
}

/// Appends batches of copies to a segment's content. Returns the last one's number.
fn put_copies(content: &mut Vec<u8>, header: &Header, copies: &Copies) -> u64 {
    /// A batch of copies ends when it has so much.
    const ENOUGH_BYTES: usize = 1 << 20;
    let mut number = header.previous_number;
    let mut buffer = Vec::new();
    let mut finish = |buffer: &mut Vec<u8>, content: &mut Vec<u8>| {
        number += 1;
        let stamp = Stamp {
            segment: header.sequence,
            offset: content.len() as u64,
            number,
            synced_number: header.previous_number,
            votes_sequence: header.votes_sequence,
        };
        let is_short_enough = record::finish_batch(buffer, stamp);
        assert!(is_short_enough, "an entry that was in a batch fits into one");
        content.extend_from_slice(buffer);
        record::begin_batch(buffer);
    };
    record::begin_batch(&mut buffer);
    for (group, entries) in copies {
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let mut bytes = buffer.len();
            let count = rest.iter().take_while(|entry| {
                let fits = bytes < ENOUGH_BYTES;
                bytes += entry_size_bytes(entry) as usize;
                fits
            });
            let (now, later) = rest.split_at(count.count());
            record::put_copies(&mut buffer, *group, now);
            rest = later;
            if bytes >= ENOUGH_BYTES {
                finish(&mut buffer, content);
            }
        }
    }
    if buffer.len() > record::HEADER_BYTES {
        finish(&mut buffer, content);
    }
    number
}

/// The headers of the segments that make up the log, oldest first, and the segments that were replaced by others.
fn chain(files: &dyn Files, folder: &Path, mut sequences: Vec<u64>) -> Result<(Vec<Header>, Vec<u64>), StorageError> {
    let (mut headers, mut replaced): (VecDeque<Header>, Vec<u64>) = Default::default();
    sequences.sort_unstable();
    for sequence in sequences.into_iter().rev() {
        let path = segment::path(folder, sequence);
        if let Some(next) = headers.front() {
            if sequence > next.previous {
                replaced.push(sequence);
                continue;
            }
            if sequence < next.previous {
                let missing = segment::path(folder, next.previous).display().to_string();
                return Err(StorageError::damaged(missing, 0, "it is missing"));
            }
        }
        let header = read_header(files, &path)?;
        if header.sequence != sequence || header.previous >= sequence {
            let what = format!("its header is that of segment {:016x}", header.sequence);
            return Err(StorageError::damaged(path.display().to_string(), 0, what));
        }
        headers.push_front(header);
    }
    Ok((headers.into(), replaced))
}

fn read_header(files: &dyn Files, path: &Path) -> Result<Header, StorageError> {
    let file = files.open(path, OpenMode::Read).map_err(|e| super::io("open", path, e))?;
    let length = file.length().map_err(|e| super::io("measure", path, e))?;
    let prefix = super::read_start(&*file, path, length.min(envelope::PREFIX_BYTES as u64))?;
    let claimed = envelope::claimed_length(&prefix);
    let bytes = super::read_start(&*file, path, length.min(claimed))?;
    Header::decode(path, &bytes).map(|(header, _)| header)
}

fn make_folder(files: &dyn Files, folder: &Path) -> Result<(), StorageError> {
    if !files.exists(folder).map_err(|e| super::io("look for", folder, e))? {
        files.create_folder(folder).map_err(|e| super::io("make", folder, e))?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            files.sync_folder(parent).map_err(|e| super::io("sync", parent, e))?;
        }
    }
    Ok(())
}

/// Spares of a former life may hold half of a segment that never got its name, under a sequence that will be used
/// again: none of them is ever written to.
fn remove_spares(files: &dyn Files, folder: &Path, names: &[String]) -> Result<(), StorageError> {
    for name in names.iter().filter(|name| segment::is_spare(name)) {
        let path = folder.join(name);
        files.remove(&path).map_err(|e| super::io("remove", &path, e))?;
    }
    files.sync_folder(folder).map_err(|e| super::io("sync", folder, e))
}
