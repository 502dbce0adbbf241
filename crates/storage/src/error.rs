//! What can go wrong with what is on disk, sorted by what follows from it.

use std::{fmt, io};

/// Every variant is for the node's operator: none of them is a wrong request, and none goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The bytes are not those that were written and synced. The node must not run on them.
    #[error(
        "{file} is damaged at offset {offset}: {what}; restore the data folder from a backup, or empty it and let the \
         node join the cluster again as a new member"
    )]
    Damaged { file: String, offset: u64, what: String },

    /// Another process holds the folder's lock. Nothing was touched.
    #[error("the data folder {folder} is in use by another process; stop that process or choose another folder")]
    InUse { folder: String },

    /// The file was written by another version of the program. Nothing was touched.
    #[error(
        "{file} has format version {found}, but this program knows {known}; run the version of the program that wrote it"
    )]
    UnknownFormat { file: String, found: u32, known: u32 },

    /// The file system refused. After a failed write or sync of the log the process must end: the kernel may have
    /// dropped the pages and called them clean, so trying again proves nothing.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl StorageError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> StorageError {
        StorageError::Io { what: what.into(), source }
    }

    /// A row of the ordered engine does not say what its owner once wrote there, though the file it came from is whole.
    pub fn damaged_row(key: &[u8], what: impl fmt::Display) -> StorageError {
        StorageError::damaged(format!("the state's row {}", key.escape_ascii()), 0, what.to_string())
    }

    pub(crate) fn damaged(file: impl Into<String>, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { file: file.into(), offset, what: what.into() }
    }
}
