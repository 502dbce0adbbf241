//! The programs: `quorate`, and the drop-ins for those that it stands in for.
//!
//! Each command is a module; what several share is [`run`] (a node in this process until a signal), [`ask`] (one HTTP
//! question) and [`goflag`] (command lines as Go reads them). Everything that a node does is in `server`.

pub mod ask;
pub mod bench;
pub mod dev;
pub mod distributor;
pub mod goflag;
pub mod hraftd;
pub mod member;
pub mod raft_kv;
pub mod raftd;
pub mod run;
pub mod serve;
pub mod status;
