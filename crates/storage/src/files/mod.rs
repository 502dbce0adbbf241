//! All access to files goes through these two traits, so that tests and the simulator can lose, tear, flip and refuse
//! what the disk was given.
//!
//! Not handled: memory maps, links, permissions beyond the data folder's.

mod memory;
mod real;
mod removal;

pub use memory::{MemFiles, NAME, SECTOR_BYTES};
pub use real::RealFiles;
pub(crate) use removal::Removal;

use std::io;
use std::path::Path;

/// A file system, or what plays one.
pub trait Files: Send + Sync + 'static {
    /// Creates the folder and its parents, for the owner only. Durable when it returns; a folder that exists is left
    /// as it is.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>>;
    /// Durable once [`Files::sync_folder`] of the folder(s) returned.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes creations, renames and removals in the folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Held until dropped, or until the process ends. `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    Read,
    /// The file must exist.
    Write,
    /// Makes the file if it does not exist; keeps what is in it.
    Create,
}

/// An open file. Reads and writes name their place, so it can be shared.
pub trait File: Send + Sync {
    /// As many bytes as there are from `offset` on, at most the buffer's length.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// All of them, growing the file if need be. Durable only after a sync.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content (and the length) durable. After a failure the content is unknown: the caller must not retry,
    /// but stop.
    fn sync(&self) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    fn set_length(&self, length: u64) -> io::Result<()>;
}

/// A held lock.
pub trait Lock: Send + Sync {}
