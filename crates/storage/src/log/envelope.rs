//! What segment headers and vote slots have in common: a magic number, a format version, a length and a checksum
//! before the content.
//!
//! ```text
//! magic 8 bytes | version u32 | length of all u32 | checksum of all but itself u32 | content
//! ```
//!
//! This prefix is the same in every version, so that a flipped byte in the version is damage, and only a file whose
//! checksum holds can be of another version.

use crate::StorageError;
use base::{checksum, checksum_append};
use std::path::Path;

pub const PREFIX_BYTES: usize = 20;

/// The first and only version so far of each file of the log.
pub const VERSION: u32 = 1;

/// Starts one in a buffer; the content is to be appended to it.
pub fn begin(buffer: &mut Vec<u8>, magic: &[u8; 8]) {
    buffer.clear();
    buffer.extend_from_slice(magic);
    buffer.extend_from_slice(&VERSION.to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
}

pub fn finish(buffer: &mut [u8]) {
    let length = u32::try_from(buffer.len()).expect("a table of groups has less than 4 GiB");
    buffer[12..16].copy_from_slice(&length.to_le_bytes());
    let own = own_checksum(buffer);
    buffer[16..20].copy_from_slice(&own.to_le_bytes());
}

/// The whole of what stands at the start of `bytes`, prefix included.
pub fn open<'a>(path: &Path, bytes: &'a [u8], magic: &[u8; 8]) -> Result<&'a [u8], StorageError> {
    let damaged = |what: &str| StorageError::damaged(path.display().to_string(), 0, what);
    if bytes.len() < PREFIX_BYTES {
        return Err(damaged("its header is cut short"));
    }
    if &bytes[..8] != magic {
        return Err(damaged("it does not start as such a file does"));
    }
    let whole = bytes.get(..u32_at(bytes, 12) as usize).filter(|whole| whole.len() >= PREFIX_BYTES);
    let whole = whole.ok_or_else(|| damaged("its header names an impossible length"))?;
    if own_checksum(whole) != u32_at(whole, 16) {
        return Err(damaged("its header does not match its checksum"));
    }
    match u32_at(whole, 8) {
        VERSION => Ok(whole),
        found => Err(StorageError::UnknownFormat { file: path.display().to_string(), found, known: VERSION }),
    }
}

/// How long the whole claims to be, going by its prefix.
pub fn claimed_length(prefix: &[u8]) -> u64 {
    if prefix.len() < PREFIX_BYTES { 0 } else { u64::from(u32_at(prefix, 12)) }
}

fn own_checksum(whole: &[u8]) -> u32 {
    checksum_append(checksum(&whole[..16]), &whole[PREFIX_BYTES..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}
