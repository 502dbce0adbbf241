//! The log: one a process, shared by all groups.
//!
//! Entries, hard states, purges and configurations of all groups go into one ordered stream of batches, so that one
//! write and one sync serve them all. The stream is cut into segments: zero-filled files of fixed size, used again when
//! nothing in them is needed any more. Each segment opens with what the log knew of every group, so that a segment may
//! go without regard to those after it, and a group whose few old entries would hold segments back has them copied
//! forward. Term and vote also stand in two small files of their own (`slots`).
//!
//! **Torn or damaged.** A crash leaves the last, unsynced writes whole, torn, or not there at all; a batch that is not
//! whole is then simply the end of the log. A batch that was synced must be whole. Which of the two it is, the rest of
//! the log says: each record names the last record that was known to be synced when it was written, each segment is
//! synced whole before the next one begins, and a seal follows when the log falls idle and at close ([`Log::seal`]).
//!
//! **What the disk never got.** After a crash of the process, or a failed sync, the page cache may show bytes that are
//! not on the disk and never will be. So [`Log::open`] writes all that stands in the last segment, and both slots, anew
//! and syncs them before it returns. The new segment says which one it replaces, so the old tail can't come back.
//!
//! **A failed write or sync ends the log**: every later call fails. The caller must stop and open it again.
//!
//! Not handled: repair of damage. A flip in the last batch of a log that was not sealed can't be told from a torn write
//! and drops that batch; so does a file cut short. The lock against a second process is the data folder's, not the
//! log's.

pub(crate) mod envelope;
pub(crate) mod record;
mod replay;
pub(crate) mod segment;
pub(crate) mod slots;
mod writer;

pub use segment::{Spare, SpareJob};
pub use writer::{Log, LogOptions};

use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use base::{GroupId, Index, NodeId, Position, Term};
use bytes::Bytes;
use std::path::Path;

/// What a replica must remember of itself (Raft paper, figure 2), and how far it knows the log to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    pub vote: NodeId,
    pub commit: Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    Normal = 0,
    /// A change of the group's configuration.
    Change = 1,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub position: Position,
    pub kind: EntryKind,
    pub data: Bytes,
    pub context: Bytes,
}

/// What one group wants written. Carried out in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupWrite {
    pub group: GroupId,
    pub hard_state: Option<HardState>,
    /// A snapshot was installed: all entries go, the log starts after this position.
    pub reset: Option<Position>,
    /// Contiguous. They overwrite whatever stands at the first one's index and after it.
    pub entries: Vec<LogEntry>,
    /// Entries up to and including this one may go.
    pub purge_to: Option<Position>,
    /// The group's configuration, opaque here.
    pub configuration: Option<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogWrite {
    pub groups: Vec<GroupWrite>,
}

/// What the log holds of one group when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    pub hard_state: HardState,
    /// Just before the first entry.
    pub start: Position,
    pub entries: Vec<LogEntry>,
    pub configuration: Bytes,
}

fn io(what: &str, path: &Path, source: std::io::Error) -> StorageError {
    StorageError::io(format!("could not {what} {}", path.display()), source)
}

fn read_file(files: &dyn Files, path: &Path) -> Result<Vec<u8>, StorageError> {
    let file = files.open(path, OpenMode::Read).map_err(|e| io("open", path, e))?;
    let length = file.length().map_err(|e| io("measure", path, e))?;
    read_start(&*file, path, length)
}

/// The first bytes of a file; fewer if it is shorter.
fn read_start(file: &dyn File, path: &Path, length: u64) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(filled as u64, &mut bytes[filled..]).map_err(|e| io("read", path, e))? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
