//! Segment files: their names, their headers, and how one is made.
//!
//! A segment gets its name only when its header, and the entries that were copied into it, are synced. So a segment's
//! header is never torn, whatever is wrong with it is damage, and each header tells up to which record the segment
//! before it was synced whole.

use super::{HardState, envelope, record};
use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use base::codec::{Malformed, Reader};
use base::{GroupId, Index, Position};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const MAGIC: &[u8; 8] = b"QLog\0\r\n\x1a";
/// A page, and no more: Linux keeps a file in pieces as large as the writes that made it (large folios), and counts a
/// whole piece as written whenever any of it is.
static ZEROS: [u8; 4096] = [0; 4096];

pub fn path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(name(sequence))
}

fn name(sequence: u64) -> String {
    format!("segment-{sequence:016x}")
}

/// The sequence in a segment's name. A name that says it otherwise than we would is not ours.
pub fn sequence_of(text: &str) -> Option<u64> {
    let sequence = u64::from_str_radix(text.strip_prefix("segment-")?, 16).ok()?;
    (name(sequence) == text).then_some(sequence)
}

pub fn spare_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("spare-{number:016x}"))
}

pub fn is_spare(name: &str) -> bool {
    name.starts_with("spare-")
}

/// What the log knew of a group when the segment was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    pub hard_state: HardState,
    pub configuration: Bytes,
    pub start: Position,
    pub last: Index,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub sequence: u64,
    /// The segment before this one, 0 if there was none. Segments between the two were replaced by this one.
    pub previous: u64,
    /// The last record of that segment; all up to it were synced.
    pub previous_number: u64,
    /// The last record that was synced in this segment before it got its name.
    pub synced_number: u64,
    pub votes_sequence: u64,
    pub groups: BTreeMap<GroupId, GroupHeader>,
}

impl Header {
    /// Padded, so that the first record may follow.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        envelope::begin(buffer, MAGIC);
        for field in [self.sequence, self.previous, self.previous_number, self.synced_number, self.votes_sequence] {
            // Fixed in length, so that the number of records does not move them.
            buffer.extend_from_slice(&field.to_le_bytes());
        }
        record::put_varint(buffer, self.groups.len() as u64);
        for (group, header) in &self.groups {
            record::put_varint(buffer, *group);
            record::put_hard_state(buffer, header.hard_state);
            record::put_position(buffer, header.start);
            record::put_varint(buffer, header.last);
            record::put_blob(buffer, &header.configuration);
        }
        buffer.resize(record::room_for_seal(buffer.len() as u64) as usize, 0);
        envelope::finish(buffer);
    }

    /// Also where the first record starts.
    pub fn decode(path: &Path, segment_bytes: &[u8]) -> Result<(Header, u64), StorageError> {
        let whole = envelope::open(path, segment_bytes, MAGIC)?;
        let content = Bytes::copy_from_slice(&whole[envelope::PREFIX_BYTES..]);
        let header = Header::decode_content(Reader::new(content))
            .map_err(|e| StorageError::damaged(path.display().to_string(), 0, format!("{e} in its header")))?;
        Ok((header, whole.len() as u64))
    }

    fn decode_content(mut reader: Reader) -> Result<Header, Malformed> {
        let mut header = Header {
            sequence: record::countable(reader.u64()?)?,
            previous: reader.u64()?,
            previous_number: record::countable(reader.u64()?)?,
            synced_number: reader.u64()?,
            votes_sequence: reader.u64()?,
            groups: BTreeMap::new(),
        };
        for _ in 0..reader.count()? {
            let group = reader.varint()?;
            let state = GroupHeader {
                hard_state: record::read_hard_state(&mut reader)?,
                start: record::read_position(&mut reader)?,
                last: record::countable(reader.varint()?)?,
                configuration: reader.blob()?,
            };
            if state.last < state.start.index {
                return Err(Malformed("last index"));
            }
            header.groups.insert(group, state);
        }
        Ok(header)
    }
}

/// A file that waits to become a segment: zeros, or what a former life left in it.
pub struct Spare {
    pub(super) file: Box<dyn File>,
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
}

/// Makes the next spare. To be run on a thread that may wait for the disk.
pub struct SpareJob {
    pub(super) files: Arc<dyn Files>,
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
}

impl SpareJob {
    /// Says after each sync that others may go first. A failure is no harm to the log: it makes the segment itself when it
    /// comes to need it.
    pub fn run(self, give_way: impl FnMut()) -> Result<Spare, StorageError> {
        let file = self.files.open(&self.path, OpenMode::Create).map_err(|e| super::io("make", &self.path, e))?;
        let filled = fill(&*file, &self.path, 0, self.size_bytes, give_way);
        if let Err(error) = filled.and_then(|()| file.sync().map_err(|e| super::io("sync", &self.path, e))) {
            drop(file);
            // What was written of it must not keep the disk full. If this fails too, the next open removes it.
            let _ = self.files.remove(&self.path);
            return Err(error);
        }
        Ok(Spare { file, path: self.path, size_bytes: self.size_bytes })
    }
}

/// Between two syncs of what is filled: one huge sync at the end would hold up those that writes wait for, on the same disk.
const SYNC_EVERY_BYTES: u64 = 1 << 20;

/// Writes zeros: a length alone, or `fallocate`, would leave extents that each first write must convert. The last of it
/// is not synced.
pub fn fill(file: &dyn File, path: &Path, from: u64, to: u64, mut give_way: impl FnMut()) -> Result<(), StorageError> {
    let (mut at, mut synced) = (from, from);
    while at < to {
        let length = (to - at).min(ZEROS.len() as u64);
        file.write_at(at, &ZEROS[..length as usize]).map_err(|e| super::io("fill", path, e))?;
        at += length;
        if at - synced >= SYNC_EVERY_BYTES && at < to {
            file.sync().map_err(|e| super::io("sync", path, e))?;
            synced = at;
            give_way();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_that_we_give_are_segments() {
        assert_eq!(sequence_of("segment-000000000000000e"), Some(14));
        for text in ["segment-000000000000000E", "segment-+00000000000000e", "segment-e", "segment-", "spare-1"] {
            assert_eq!(sequence_of(text), None, "{text}");
        }
    }
}
