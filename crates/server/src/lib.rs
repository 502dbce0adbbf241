//! A running node: its sockets, threads and files, around the pure one of `node`.
//!
//! [`Server::start`] opens the data folder and the ports and sets several kinds of threads to work: the node's own
//! ([`driver`]), the log's ([`disk`]), one for the engine's tables ([`upkeep`]), one for checkpoints ([`background`]), and the runtime's, which serve the
//! connections of clients ([`http`]) and peers ([`peer`]). They talk through the node's inbox ([`inbox`]) and through
//! values that the node publishes ([`handle`]).
//!
//! Not handled: TLS, and authentication of clients and peers.

mod address;
mod background;
mod backup;
mod config;
mod disk;
mod driver;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handle;
pub mod http;
mod inbox;
mod join;
mod leader;
mod leisure;
mod listen;
mod logs;
mod metrics;
mod notices;
mod peer;
pub mod restore;
mod start;
mod upkeep;
pub mod watch;
mod worker;

pub use config::{Begin, Compaction, Config, DEFAULT_MEMORY_BYTES, Engine, Join, LEAST_MEMORY_BYTES, Name};
pub use config::{Persistence, Words};
pub use handle::{Handle, Identity, Phase};
pub use leader::Leader;
pub use listen::HttpPort;
pub use logs::init_logs;
pub use node::Role;
pub use start::{End, Server, StartError, runtime};
