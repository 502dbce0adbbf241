//! Checkpoints: the state of one group at one position, in one file.
//!
//! A checkpoint is written beside its place, synced, and renamed into it, so a file under a checkpoint's name is always
//! a whole one; the last two of a group are kept. Names sort by group, then by position. Receiving one from another
//! node works the same way, but the unfinished file stays if the transfer breaks, and is gone on with.
//!
//! Every byte is covered by a checksum ([`format`] draws the layout). Opening and listing judge both ends of the file;
//! the blocks between are judged as they are read, so a reader must read to the end before it relies on what it read.
//!
//! Not handled: repair. A damaged checkpoint is an error that names the file and the offset.

mod format;
mod read;
mod receive;
mod write;

pub use format::BLOCK_BYTES;
pub use read::{CheckpointReader, read_chunk, verify};
pub use receive::IncomingCheckpoint;
pub use write::CheckpointWriter;

use crate::StorageError;
use crate::files::{Files, Removal};
use base::{GroupId, Position};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Names a checkpoint file and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    pub group: GroupId,
    pub position: Position,
    /// Of the whole file.
    pub size_bytes: u64,
    /// Of the whole file.
    pub checksum: u32,
}

/// As many as a group keeps: should the newest prove damaged, an operator can still go back to the one before.
const KEPT: usize = 2;

/// Between two syncs of a file being written: bounds what a broken transfer repeats, and spares the log, on the same
/// disk, one huge sync at the end.
const SYNC_EVERY_BYTES: u64 = 4 << 20;

/// A group's checkpoints, oldest first. Reads both ends of each file.
pub fn list(files: &Arc<dyn Files>, folder: &Path, group: GroupId) -> Result<Vec<CheckpointInfo>, StorageError> {
    let positions = positions(files, folder, group)?;
    positions.into_iter().map(|position| read::inspect(files, folder, group, position)).collect()
}

/// Removes all but the `count` newest checkpoints of a group.
pub fn keep_newest(files: &Arc<dyn Files>, folder: &Path, group: GroupId, count: usize) -> Result<(), StorageError> {
    let positions = positions(files, folder, group)?;
    // Not synced: a checkpoint that comes back after a crash is whole, and goes the next time.
    positions[..positions.len().saturating_sub(count)]
        .iter()
        .try_for_each(|&position| remove(files, &folder.join(Name::Whole { group, position }.to_string())))
}

/// For the start, before anything is written or received: removes files that never became checkpoints. Of those being
/// received one a group stays, to be gone on with, unless the group has a checkpoint that is as new, or a state that is
/// `durable` up to there without any. What is then in the folder is durable: a former process may have died between renaming
/// a checkpoint and syncing the folder, and the log must not be purged on the word of a name that a power loss would take
/// back.
pub fn remove_leftovers(files: &Arc<dyn Files>, folder: &Path, durable: Position) -> Result<(), StorageError> {
    let names = names(files, folder)?;
    let mut kept = BTreeSet::new();
    // From the newest on: names sort by group and position.
    for (text, name) in names.iter().rev() {
        let stays = match name {
            Name::Whole { .. } => true,
            Name::Unfinished { .. } => false,
            Name::Incoming { info, .. } => {
                let overtaken = names.iter().any(|(_, other)| {
                    matches!(other, Name::Whole { group, position }
                        if *group == info.group && *position >= info.position)
                });
                !overtaken && info.position > durable && kept.insert(info.group)
            }
        };
        if !stays {
            remove(files, &folder.join(text))?;
        }
    }
    let settle = || if files.exists(folder)? { files.sync_folder(folder) } else { Ok(()) };
    settle().map_err(|error| StorageError::io(format!("cannot sync {}", folder.display()), error))
}

/// What a file in the folder is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Whole { group: GroupId, position: Position },
    Unfinished { group: GroupId, position: Position },
    Incoming { info: CheckpointInfo, source: u64 },
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Whole { group, position } => {
                write!(f, "{group:016x}-{:016x}-{:016x}.checkpoint", position.index, position.term)
            }
            Name::Unfinished { group, position } => {
                write!(f, "{group:016x}-{:016x}-{:016x}.checkpoint.tmp", position.index, position.term)
            }
            Name::Incoming { info: CheckpointInfo { group, position, size_bytes, checksum }, source } => write!(
                f,
                "{group:016x}-{:016x}-{:016x}-{size_bytes:016x}-{checksum:016x}-{source:016x}.incoming",
                position.index, position.term
            ),
        }
    }
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Name> {
        let (numbers, ending) = text.split_once('.')?;
        let numbers: Vec<u64> =
            numbers.split('-').map(|number| u64::from_str_radix(number, 16).ok()).collect::<Option<_>>()?;
        let name = match (ending, &numbers[..]) {
            ("checkpoint", &[group, index, term]) => Name::Whole { group, position: Position { index, term } },
            ("checkpoint.tmp", &[group, index, term]) => Name::Unfinished { group, position: Position { index, term } },
            ("incoming", &[group, index, term, size_bytes, checksum, source]) => {
                let (position, checksum) = (Position { index, term }, u32::try_from(checksum).ok()?);
                Name::Incoming { info: CheckpointInfo { group, position, size_bytes, checksum }, source }
            }
            _ => return None,
        };
        // One file, one name: what would be written otherwise is not ours.
        (name.to_string() == text).then_some(name)
    }
}

/// Of all files in the folder that are ours, sorted. None if there is no folder.
fn names(files: &Arc<dyn Files>, folder: &Path) -> Result<Vec<(String, Name)>, StorageError> {
    let list = || if files.exists(folder)? { files.list(folder) } else { Ok(Vec::new()) };
    let texts = list().map_err(|error| StorageError::io(format!("cannot list {}", folder.display()), error))?;
    Ok(texts.into_iter().filter_map(|text| Name::parse(&text).map(|name| (text, name))).collect())
}

/// Of a group's whole checkpoints, oldest first.
fn positions(files: &Arc<dyn Files>, folder: &Path, group: GroupId) -> Result<Vec<Position>, StorageError> {
    let names = names(files, folder)?.into_iter();
    Ok(names
        .filter_map(|(_, name)| match name {
            Name::Whole { group: found, position } if found == group => Some(position),
            _ => None,
        })
        .collect())
}

fn remove(files: &Arc<dyn Files>, path: &Path) -> Result<(), StorageError> {
    let remove = || {
        if let Some(mut removal) = Removal::begin(&**files, path)? {
            while !removal.step()? {}
        }
        Ok(())
    };
    remove().map_err(|error| StorageError::io(format!("cannot remove {}", path.display()), error))
}
