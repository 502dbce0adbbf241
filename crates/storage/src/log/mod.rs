//! The log: one a process, shared by all groups.

use base::{GroupId, Index, NodeId, Position, Term};
use bytes::Bytes;

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
