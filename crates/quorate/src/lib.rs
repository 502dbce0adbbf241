//! The programs: `quorate`, and the drop-ins for those that it stands in for.
//!
//! Commands that talk to a cluster are in [`cli`], each a module; those that run nodes, and the drop-ins, are beside it.
//! What several share is [`run`] (a node in this process until a signal), [`ask`] (one HTTP question to a node that speaks
//! another dialect) and [`goflag`] (command lines as Go reads them). Everything that a node does is in `server`, and everything on the way to it in `client`.

pub mod ask;
pub mod bench;
pub mod cli;
pub mod dev;
pub mod distributor;
pub mod goflag;
pub mod hraftd;
mod keeping;
pub mod raft_kv;
pub mod raftd;
pub mod run;
pub mod serve;
