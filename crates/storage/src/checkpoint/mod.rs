//! Checkpoints: the state of one group at one position, in one file.

use base::{GroupId, Position};

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
