//! Everything that outlives the process, and the only room that touches files: the shared log, checkpoints, the
//! identity file, and the ordered engine that holds the state.
//!
//! All of it reaches the disk through the small trait [`files::Files`], so that tests and the simulator can lose, tear,
//! flip and refuse what the disk was given.
//!
//! Not handled: repair. A damaged file stops the node with one line that names the file, the offset and the word
//! `damaged` ([`StorageError::Damaged`]).

pub mod backup;
pub mod checkpoint;
pub mod engine;
mod error;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod identity;
pub mod log;
mod preamble;

pub use error::StorageError;
