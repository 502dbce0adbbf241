//! What reading a data folder holds to, whatever its files say. It never panics and takes no memory that the files don't
//! account for; an error names the damage and leaves a log as it was; and what is accepted can be gone on with, and is
//! read again as the same.
//!
//! Each function is a fuzz target (`fuzz/`), and the tests replay what is kept of its corpus. A checksum stops nearly
//! all that a fuzzer comes up with, so most also put right checksums around what they are given.
//!
//! Not handled: files beyond a few kilobytes, such as a checkpoint of several blocks.

use crate::StorageError;
use crate::checkpoint::{self, CheckpointInfo, IncomingCheckpoint, Name};
use crate::files::{Files, MemFiles};
use crate::identity::{self, Identity};
use crate::log::{EntryKind, GroupWrite, Log, LogEntry, LogOptions, LogWrite, RecoveredGroup};
use crate::log::{envelope, record, segment, slots};
use base::codec::Reader;
use base::{GroupId, Position};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Segments and vote slots, put together from parts by [`LogParts`].
pub fn log(bytes: &[u8]) {
    let disk = MemFiles::new();
    disk.create_folder(Path::new(FOLDER)).expect("a disk in memory");
    LogParts::new(&disk).lay_out(bytes);
    let before = disk.digest();
    let Some((mut log, mut groups)) = accepted(open_log(&disk)) else {
        assert_eq!(disk.digest(), before, "a damaged log was changed");
        return;
    };
    for (&group, state) in &mut groups {
        let last = state.entries.last().map_or(state.start, |entry| entry.position);
        let position = Position { index: last.index + 1, ..last };
        let entry = LogEntry { position, kind: EntryKind::Normal, data: Bytes::from("more"), context: Bytes::new() };
        state.entries.push(entry.clone());
        let write = GroupWrite { group, entries: vec![entry], ..GroupWrite::default() };
        log.append(&LogWrite { groups: vec![write] }).expect("a disk in memory");
    }
    log.seal().expect("a disk in memory");
    drop(log);
    let (_, again) = open_log(&disk).expect("what was opened once opens again");
    assert_eq!(again, groups);
}

/// A checkpoint's file, read from this node's folder and received from a peer.
pub fn checkpoint(bytes: &[u8]) {
    let folder = Path::new(FOLDER);
    let field = |at: usize| bytes.get(at..at + 8).map_or(0, |field| u64::from_le_bytes(field.try_into().expect("8")));
    // Under the name that its own head wants.
    let (group, position) = (field(16), Position { index: field(24), term: field(32) });
    let disk = MemFiles::new();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    disk.write_all(&folder.join(Name::Whole { group, position }.to_string()), bytes).expect("a disk in memory");
    let listed = accepted(checkpoint::list(&files, folder, group));
    let info = CheckpointInfo { group, position, size_bytes: bytes.len() as u64, checksum: base::checksum(bytes) };
    let is_whole = accepted(checkpoint::verify(&files, folder, &info)).is_some();
    assert!(!is_whole || listed == Some(vec![info.clone()]), "a whole checkpoint is not listed: {listed:?}");

    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let received = receive(&files, &info, bytes);
    assert_eq!(received, is_whole, "a peer's checkpoint is judged like our own");
    let left = files.list(folder).expect("receiving makes the folder").len();
    assert_eq!(left, usize::from(received), "of what is refused nothing stays");
}

/// The identity file, and the name beside it.
pub fn identity(bytes: &[u8]) {
    let folder = Path::new(FOLDER);
    for file in [bytes, &identity::frame(bytes)] {
        let disk = MemFiles::new();
        disk.write_all(&folder.join(identity::FILE), file).expect("a disk in memory");
        let files: Arc<dyn Files> = Arc::new(disk);
        if let Some(found) = accepted(Identity::load(&files, folder)) {
            let found = found.expect("there is a file");
            found.store(&files, folder).expect("a disk in memory");
            assert_eq!(Identity::load(&files, folder).expect("it was just written"), Some(found));
        }
    }
    let disk = MemFiles::new();
    disk.write_all(&folder.join(identity::NAME_FILE), bytes).expect("a disk in memory");
    let files: Arc<dyn Files> = Arc::new(disk);
    if let Ok(name) = identity::load_name(&files, folder) {
        let name = name.expect("there is a file");
        identity::store_name(&files, folder, &name).expect("a disk in memory");
        assert_eq!(identity::load_name(&files, folder).expect("it was just written"), Some(name));
    }
}

/// The names of segments and checkpoints.
pub fn file_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(sequence) = segment::sequence_of(text) {
        assert_eq!(segment::path(Path::new(""), sequence), Path::new(text));
    }
    if let Some(name) = Name::parse(text) {
        assert_eq!(name.to_string(), text);
    }
}

/// Nothing but damage, or another version, may be wrong with what is on a disk that works.
fn accepted<T>(outcome: Result<T, StorageError>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(StorageError::Damaged { .. } | StorageError::UnknownFormat { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn open_log(disk: &MemFiles) -> Result<(Log, BTreeMap<GroupId, RecoveredGroup>), StorageError> {
    let options = LogOptions { segment_size_bytes: 4096, ..LogOptions::default() };
    Log::open(Arc::new(disk.clone()), Path::new(FOLDER), options)
}

/// In two transfers, the first of which breaks half-way.
fn receive(files: &Arc<dyn Files>, info: &CheckpointInfo, bytes: &[u8]) -> bool {
    let folder = Path::new(FOLDER);
    files.create_folder(folder).expect("a disk in memory");
    for end in [bytes.len() / 2, bytes.len()] {
        let Ok(mut incoming) = IncomingCheckpoint::resume(files, folder, info, SENDER) else {
            return false;
        };
        let offset = incoming.received_bytes();
        incoming.write(offset, &bytes[offset as usize..end]).expect("a disk in memory");
        if end == bytes.len() {
            return accepted(incoming.finish()).is_some();
        }
    }
    false
}

/// Makes the files of a log out of parts. A part is a byte that says what it is, and its content behind a length. What
/// is left over in that byte is the sequence of the vote slots that a record names.
struct LogParts<'a> {
    disk: &'a MemFiles,
    sequence: u64,
    /// Of the last record.
    number: u64,
    segment: Vec<u8>,
}

impl LogParts<'_> {
    fn new(disk: &MemFiles) -> LogParts<'_> {
        LogParts { disk, sequence: 1, number: 0, segment: Vec::new() }
    }

    fn lay_out(mut self, bytes: &[u8]) {
        let mut parts = Reader::new(Bytes::copy_from_slice(bytes));
        while let Ok(kind) = parts.u8() {
            let content = parts.blob().unwrap_or_else(|_| parts.rest());
            self.part(kind % 8, u64::from(kind / 8), &content);
        }
        self.end_segment();
    }

    fn part(&mut self, kind: u8, votes_sequence: u64, content: &[u8]) {
        match kind {
            0 => self.begin_segment(content),
            1 => self.batch(votes_sequence, content),
            2 => self.seal(votes_sequence),
            3 => self.slot(0, &in_envelope(slots::MAGIC, content)),
            4 => self.slot(1, &in_envelope(slots::MAGIC, content)),
            5 => self.slot(usize::from(votes_sequence > 0), content),
            6 => self.segment.extend_from_slice(content),
            _ => {
                self.end_segment();
                self.segment = content.to_vec();
            }
        }
    }

    /// The records that follow are of this segment, in whose header their numbers begin.
    fn begin_segment(&mut self, content: &[u8]) {
        self.end_segment();
        let mut header = Reader::new(Bytes::copy_from_slice(content));
        self.sequence = header.u64().unwrap_or(1);
        self.number = header.u64().and_then(|_previous| header.u64()).unwrap_or(0);
        let mut content = content.to_vec();
        let length = (envelope::PREFIX_BYTES + content.len()) as u64;
        content.resize(record::room_for_seal(length) as usize - envelope::PREFIX_BYTES, 0);
        self.segment = in_envelope(segment::MAGIC, &content);
    }

    fn end_segment(&mut self) {
        if !self.segment.is_empty() {
            let path = segment::path(Path::new(FOLDER), self.sequence);
            self.disk.write_all(&path, &std::mem::take(&mut self.segment)).expect("a disk in memory");
        }
    }

    fn batch(&mut self, votes_sequence: u64, content: &[u8]) {
        let mut buffer = Vec::new();
        record::begin_batch(&mut buffer);
        buffer.extend_from_slice(content);
        let stamp = self.next_stamp(votes_sequence);
        assert!(record::finish_batch(&mut buffer, stamp));
        self.segment.append(&mut buffer);
    }

    fn seal(&mut self, votes_sequence: u64) {
        let mut buffer = Vec::new();
        record::encode_seal(&mut buffer, self.next_stamp(votes_sequence));
        self.segment.append(&mut buffer);
    }

    fn next_stamp(&mut self, votes_sequence: u64) -> record::Stamp {
        let synced_number = self.number;
        self.number = self.number.wrapping_add(1);
        let offset = self.segment.len() as u64;
        record::Stamp { segment: self.sequence, offset, number: self.number, synced_number, votes_sequence }
    }

    fn slot(&self, which: usize, bytes: &[u8]) {
        self.disk.write_all(&Path::new(FOLDER).join(slots::NAMES[which]), bytes).expect("a disk in memory");
    }
}

fn in_envelope(magic: &[u8; 8], content: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::new();
    envelope::begin(&mut buffer, magic);
    buffer.extend_from_slice(content);
    envelope::finish(&mut buffer);
    buffer
}

const FOLDER: &str = "/data";
const SENDER: u64 = 2;

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_the_log() {
        replay::corpus("storage_log", log);
    }

    #[test]
    fn the_corpus_of_checkpoints() {
        replay::corpus("storage_checkpoint", checkpoint);
    }

    #[test]
    fn the_corpus_of_the_identity() {
        replay::corpus("storage_identity", identity);
    }

    #[test]
    fn the_corpus_of_file_names() {
        replay::corpus("storage_file_name", file_name);
    }
}
