//! Short words for what the tests of the log write.
#![allow(dead_code, reason = "each test program uses some of them")]

use base::{GroupId, Index, NodeId, Position, Term};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::StorageError;
use storage::files::MemFiles;
use storage::log::{EntryKind, GroupWrite, HardState, Log, LogEntry, LogOptions, LogWrite, RecoveredGroup};

pub const FOLDER: &str = "/data/log";

pub fn open(disk: &MemFiles, options: LogOptions) -> Result<(Log, BTreeMap<GroupId, RecoveredGroup>), StorageError> {
    Log::open(Arc::new(disk.clone()), Path::new(FOLDER), options)
}

/// Segments that a handful of entries fills.
pub fn tiny() -> LogOptions {
    LogOptions { copy_forward_beyond_segments: 4, ..LogOptions::default_with(1024) }
}

pub trait DefaultWith {
    fn default_with(segment_size_bytes: u64) -> LogOptions;
}

impl DefaultWith for LogOptions {
    fn default_with(segment_size_bytes: u64) -> LogOptions {
        LogOptions { segment_size_bytes, ..LogOptions::default() }
    }
}

pub fn segment(sequence: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("segment-{sequence:016x}"))
}

/// Where a segment's records end: behind its last byte that is not zero, and the padding of a batch, which reaches to a
/// place where a seal still fits into the sector.
pub fn end_of_records(content: &[u8]) -> usize {
    let end = content.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1).next_multiple_of(16);
    if end % 512 > 384 { end.next_multiple_of(512) } else { end }
}

pub fn one(write: GroupWrite) -> LogWrite {
    LogWrite { groups: vec![write] }
}

/// The data follows from the place, so that a wrong entry shows.
pub fn entry(index: Index, term: Term, length: usize) -> LogEntry {
    let seed = base::rng::hash(&[index, term]);
    let data: Vec<u8> = (0..length).map(|at| (seed >> (at % 8 * 8)) as u8 | 1).collect();
    LogEntry {
        position: Position { index, term },
        kind: if index.is_multiple_of(5) { EntryKind::Change } else { EntryKind::Normal },
        data: data.into(),
        context: Bytes::copy_from_slice(&index.to_be_bytes()),
    }
}

pub fn entries(group: GroupId, term: Term, first: Index, count: u64) -> LogWrite {
    let entries = (first..first + count).map(|index| entry(index, term, 40)).collect();
    one(GroupWrite { group, entries, ..GroupWrite::default() })
}

pub fn vote(group: GroupId, term: Term, vote: NodeId) -> LogWrite {
    one(GroupWrite { group, hard_state: Some(HardState { term, vote, commit: 0 }), ..GroupWrite::default() })
}

pub fn purge(group: GroupId, index: Index, term: Term) -> LogWrite {
    one(GroupWrite { group, purge_to: Some(Position { index, term }), ..GroupWrite::default() })
}

pub fn configuration(group: GroupId, configuration: &[u8]) -> LogWrite {
    let configuration = Some(Bytes::copy_from_slice(configuration));
    one(GroupWrite { group, configuration, ..GroupWrite::default() })
}

pub fn positions(group: &RecoveredGroup) -> Vec<(Index, Term)> {
    group.entries.iter().map(|entry| (entry.position.index, entry.position.term)).collect()
}
