//! Consensus for one group: the only room that names the `raft` crate.
//!
//! [`Group`] drives `raft::RawNode` in its one legal order with asynchronous log writes, and hides its sharp edges:
//!
//! 1. [`Group::advance`] takes a `Ready`. A leader's messages leave at once, in parallel with its own log write; a
//!    follower's wait until what they speak of is on disk (Raft paper, figure 2: "persistent state … before
//!    responding"). Heartbeat responses are the exception, once the term they carry is on disk.
//! 2. The caller writes the entries, and says [`Group::persisted`] only after the fsync. So a leader never counts, nor
//!    applies, what its own disk does not have (etcd #14370).
//! 3. The caller applies what is committed and says so with [`Group::applied`], after [`Group::apply_change`] for a
//!    change of voters.
//!
//! Election timeouts are seeded: a function of seed, node, group and term, so the same life replays.
//!
//! Messages go to peers in our own format ([`Message::encode`]): the protobuf parser that comes with the crate never
//! reads a byte from the network.
//!
//! Not handled: fetching entries from disk. What a follower may need is kept in memory up to a bound; a follower that
//! is behind that gets a snapshot.

mod cache;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod group;
mod steps;
mod voters;
mod wire;

pub use group::{Committed, Group, Progress, Role, Settings, Start, StepRefused, Turn};
pub use steps::{Step, Verbosity};
pub use voters::{Change, Voters};
pub use wire::Message;
