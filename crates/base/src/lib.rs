//! What every room shares: ids, the byte codec, checksums, and seeded randomness.
//!
//! Nothing here knows Raft, keys or files.

pub mod codec;
pub mod rng;

use std::fmt;

/// A Raft term.
pub type Term = u64;
/// A position in a group's log. The first entry has index 1; 0 means "before the log".
pub type Index = u64;
/// A node's Raft id within its cluster: given out once, never reused. 0 means "nobody".
pub type NodeId = u64;
/// A Raft group within the process. Every node has group 0.
pub type GroupId = u64;

/// The group that every cluster starts with.
pub const FIRST_GROUP: GroupId = 0;

/// A log entry's place: index and term together name it uniquely (Raft paper, section 5.3, Log Matching).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub index: Index,
    pub term: Term,
}

/// Names one cluster for ever; drawn at random by the node that bootstraps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names one life of a data folder: drawn at random when the folder is made. A wiped folder has another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// CRC-32C (Castagnoli), the checksum of everything that goes to disk or to a peer.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a [`checksum`] over more bytes: `checksum(a ++ b) == checksum_append(checksum(a), b)`.
pub fn checksum_append(so_far: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(so_far, bytes)
}
