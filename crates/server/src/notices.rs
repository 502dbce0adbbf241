//! What the node has to say, as lines for the person who runs it.
//!
//! Raft's own steps come with the target `raft`, and the node makes them only if somebody listens to it.
//!
//! Not handled: saying it to clients; they have their answers.

use node::{Notice, Verbosity};
use tracing::Level;

/// How much of Raft's steps anybody wants to read.
pub fn verbosity() -> Verbosity {
    if tracing::enabled!(target: "raft", Level::TRACE) {
        Verbosity::Details
    } else if tracing::enabled!(target: "raft", Level::DEBUG) {
        Verbosity::Steps
    } else {
        Verbosity::Silent
    }
}

/// `in_touch`: a leader was known already. Until then a node that was started again goes over changes of the members
/// that were told in an earlier life.
pub fn tell(notice: &Notice, in_touch: bool) {
    match notice {
        Notice::LeaderChanged { term, me: true, .. } => tracing::info!("this node leads in term {term}"),
        Notice::LeaderChanged { term, leader, .. } => tracing::info!("{leader} leads in term {term}"),
        Notice::MemberChanged(what) if in_touch => tracing::debug!("{what}"),
        Notice::MemberChanged(_) => {}
        Notice::SnapshotInstalled { position, .. } => {
            tracing::debug!("caught up by a snapshot of all entries up to {}", position.index);
        }
        Notice::Trouble(what) => tracing::warn!("{what}"),
        Notice::Mended(what) => tracing::info!("{what}"),
        Notice::Step { step, .. } if step.level == Verbosity::Details => {
            tracing::trace!(target: "raft", "{}", step.text);
        }
        Notice::Step { step, .. } => tracing::debug!(target: "raft", "{}", step.text),
    }
}
