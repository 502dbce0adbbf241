//! How a file says what it is: eight letters, a format version, and a checksum of both, so that a damaged version is
//! told apart from another one.
//!
//! Not handled: reading the formats of other versions.

use crate::StorageError;
use base::codec::Writer;

pub(crate) const PREAMBLE_BYTES: usize = 16;

pub(crate) struct Format {
    pub magic: [u8; 8],
    pub version: u32,
}

impl Format {
    pub fn write(&self, writer: &mut Writer) {
        let mut preamble = Writer::with_capacity(PREAMBLE_BYTES);
        preamble.raw(&self.magic);
        preamble.u32(self.version);
        preamble.u32(base::checksum(preamble.as_slice()));
        writer.raw(preamble.as_slice());
    }

    /// Judges the first bytes of `file`.
    pub fn check(&self, bytes: &[u8], file: &str) -> Result<(), StorageError> {
        let Some(preamble) = bytes.first_chunk::<PREAMBLE_BYTES>() else {
            return Err(StorageError::damaged(file, bytes.len() as u64, "it ends within its first bytes"));
        };
        let (said, sum) = preamble.split_at(PREAMBLE_BYTES - 4);
        if sum != base::checksum(said).to_le_bytes() || said[..8] != self.magic {
            return Err(StorageError::damaged(file, 0, "its first bytes do not say what it is"));
        }
        let mut version = [0; 4];
        version.copy_from_slice(&said[8..]);
        match u32::from_le_bytes(version) {
            found if found == self.version => Ok(()),
            found => Err(StorageError::UnknownFormat { file: file.to_string(), found, known: self.version }),
        }
    }
}
