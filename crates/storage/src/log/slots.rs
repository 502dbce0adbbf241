//! Term and vote of every group, kept a second time in two small files of their own.
//!
//! A lost vote is the one loss that peers cannot make good: the node might vote twice in a term. So whenever a term or
//! vote changes, the whole table is written to the older of the two slots, with the next sequence number, and synced
//! before the log's sync returns. At open the higher valid slot counts, and the higher of slot and log.
//!
//! Only the slot that is being written can be torn, and only in a log that is durably unsealed: the segment is synced
//! before a slot is touched. Hence:
//! - in a sealed log both slots must be valid and must be those that the seal names, else one is damaged;
//! - in an unsealed log one of them may be invalid (a crash tore it), but the other must be at least as new as the
//!   newest slot that any record of the log knows to be synced;
//! - neither valid is damage, except before the first slot was ever synced.
//!
//! Not handled: a flip, in an unsealed log, in a slot that no record of the log names yet. It can't be told from a
//! tear, and loses nothing: the log holds the same term and vote.

use super::{HardState, envelope, record};
use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use base::codec::{Malformed, Reader};
use base::{GroupId, NodeId, Term};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const MAGIC: &[u8; 8] = b"QVotes\0\n";
pub const NAMES: [&str; 2] = ["votes-a", "votes-b"];

pub type Votes = BTreeMap<GroupId, (Term, NodeId)>;

/// What was found at open.
pub struct FoundSlots {
    /// Which of the two may be written to: the other is surely on the disk.
    writable: usize,
    sequence: u64,
    pub votes: Votes,
}

impl FoundSlots {
    pub fn exist(&self) -> bool {
        self.sequence > 0
    }
}

/// Reads both slots and judges them by what the log knows: the newest slot that was surely synced, and whether a seal
/// says that both were whole and nothing was written since.
pub fn read(
    files: &dyn Files,
    folder: &Path,
    synced_sequence: u64,
    is_sealed: bool,
) -> Result<FoundSlots, StorageError> {
    let mut slots = [read_one(files, &folder.join(NAMES[0]))?, read_one(files, &folder.join(NAMES[1]))?];
    for (slot, other) in [(0, 1), (1, 0)] {
        let Err(problem) = &slots[slot] else { continue };
        let other_suffices = slots[other].as_ref().is_ok_and(|other| other.sequence >= synced_sequence);
        if is_sealed || !(other_suffices || synced_sequence == 0) {
            let what = format!("{problem}, but the log knows that it was whole");
            return Err(StorageError::damaged(folder.join(NAMES[slot]).display().to_string(), 0, what));
        }
    }
    let sequence_of = |slot: usize| slots[slot].as_ref().map_or(0, |slot| slot.sequence);
    let newest = if sequence_of(0) > sequence_of(1) { 0 } else { 1 };
    let (high, low) = (sequence_of(newest), sequence_of(1 - newest));
    if high < synced_sequence || is_sealed && (high != synced_sequence || low + 1 != high) {
        let what = format!("it holds sequences {high} and {low}, but the log knows of {synced_sequence}");
        return Err(StorageError::damaged(folder.join(NAMES[newest]).display().to_string(), 0, what));
    }
    // A slot is written only while the other is on the disk. So beside a torn one, the other is. If both are whole, the
    // newest may be in the page cache only, but then the other is on the disk; unless a record says that the newest is.
    let writable = if high > synced_sequence && slots[1 - newest].is_ok() { newest } else { 1 - newest };
    let votes = std::mem::replace(&mut slots[newest], Err(String::new())).map_or_else(|_| Votes::new(), |s| s.votes);
    Ok(FoundSlots { writable, sequence: high, votes })
}

/// The two slots of an open log.
pub struct Slots {
    files: [Box<dyn File>; 2],
    paths: [PathBuf; 2],
    lengths: [u64; 2],
    newest: usize,
    sequence: u64,
    buffer: Vec<u8>,
}

impl Slots {
    /// Writes both anew, since what was read may never have reached the disk. The caller syncs the folder.
    pub fn open(
        files: &dyn Files,
        folder: &Path,
        found: &FoundSlots,
        table: &BTreeMap<GroupId, HardState>,
    ) -> Result<Slots, StorageError> {
        let paths = NAMES.map(|name| folder.join(name));
        let open = |path: &PathBuf| files.open(path, OpenMode::Create).map_err(|e| super::io("open", path, e));
        let opened = [open(&paths[0])?, open(&paths[1])?];
        let mut slots = Slots {
            files: opened,
            paths,
            lengths: [0; 2],
            newest: 1 - found.writable,
            sequence: found.sequence,
            buffer: Vec::new(),
        };
        slots.write(table.iter().map(|(&group, state)| (group, state)))?;
        slots.write(table.iter().map(|(&group, state)| (group, state)))?;
        Ok(slots)
    }

    /// The newest that is synced.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn size_bytes(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// Puts a changed table into the older slot and syncs it.
    pub fn write<'a>(&mut self, table: impl Iterator<Item = (GroupId, &'a HardState)>) -> Result<(), StorageError> {
        let (slot, sequence) = (1 - self.newest, self.sequence + 1);
        encode(&mut self.buffer, sequence, table);
        let (file, path) = (&self.files[slot], &self.paths[slot]);
        file.write_at(0, &self.buffer).map_err(|e| super::io("write", path, e))?;
        let length = self.buffer.len() as u64;
        if file.length().map_err(|e| super::io("measure", path, e))? != length {
            file.set_length(length).map_err(|e| super::io("cut", path, e))?;
        }
        file.sync().map_err(|e| super::io("sync", path, e))?;
        self.lengths[slot] = length;
        self.newest = slot;
        self.sequence = sequence;
        Ok(())
    }
}

struct Slot {
    sequence: u64,
    votes: Votes,
}

/// Outer error: the file system, or another version. Inner: what is wrong with the content.
fn read_one(files: &dyn Files, path: &Path) -> Result<Result<Slot, String>, StorageError> {
    if !files.exists(path).map_err(|e| super::io("look for", path, e))? {
        return Ok(Err("it is missing".into()));
    }
    let bytes = super::read_file(files, path)?;
    match envelope::open(path, &bytes, MAGIC) {
        Ok(whole) if whole.len() < bytes.len() => Ok(Err("more follows its end".into())),
        Ok(whole) => Ok(decode(&whole[envelope::PREFIX_BYTES..]).map_err(|e| e.to_string())),
        Err(StorageError::Damaged { what, .. }) => Ok(Err(what)),
        Err(error) => Err(error),
    }
}

fn encode<'a>(buffer: &mut Vec<u8>, sequence: u64, table: impl Iterator<Item = (GroupId, &'a HardState)>) {
    envelope::begin(buffer, MAGIC);
    record::put_varint(buffer, sequence);
    for (group, state) in table {
        record::put_varint(buffer, group);
        record::put_varint(buffer, state.term);
        record::put_varint(buffer, state.vote);
    }
    envelope::finish(buffer);
}

fn decode(content: &[u8]) -> Result<Slot, Malformed> {
    let mut reader = Reader::new(Bytes::copy_from_slice(content));
    let sequence = record::countable(reader.varint()?)?;
    let mut votes = Votes::new();
    while reader.remaining() > 0 {
        votes.insert(reader.varint()?, (reader.varint()?, reader.varint()?));
    }
    Ok(Slot { sequence, votes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_that_nothing_could_follow_is_refused() {
        let mut content = Vec::new();
        record::put_varint(&mut content, 7);
        assert!(decode(&content).is_ok());
        content.clear();
        record::put_varint(&mut content, u64::MAX);
        assert!(decode(&content).is_err());
    }
}
