//! The layout of a checkpoint file:
//!
//! ```text
//! head   preamble (16 bytes), group, index, term (u64 each), checksum of all this
//! block  checksum of (head, the block's number, the bytes), then the bytes: 64 KiB, fewer only in the last block
//! ...
//! foot   blocks, payload bytes (u64 each), checksum of head and blocks, checksum of (head, all this)
//! ```
//!
//! Where each block lies follows from the file's length alone, so no length that is read has to be believed. A block of
//! another file or of another place in this one fails its checksum. The checksum of the whole file follows from the
//! foot, so a listing need not read the blocks to know it.
//!
//! Not handled: compression.

use super::CheckpointInfo;
use crate::StorageError;
use crate::preamble::{Format, PREAMBLE_BYTES};
use base::codec::{Malformed, Reader, Writer};
use base::{GroupId, Position, checksum, checksum_append};
use bytes::Bytes;

/// The payload of every block but the last.
pub const BLOCK_BYTES: usize = 64 << 10;

pub(super) const HEAD_BYTES: u64 = PREAMBLE_BYTES as u64 + 3 * 8 + 4;
pub(super) const BLOCK_HEAD_BYTES: u64 = 4;
pub(super) const FOOT_BYTES: u64 = 2 * 8 + 2 * 4;
const FULL_BLOCK_BYTES: u64 = BLOCK_HEAD_BYTES + BLOCK_BYTES as u64;
const FORMAT: Format = Format { magic: *b"QRTCHKPT", version: 1 };

/// The head of the one file that holds this group at this position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub group: GroupId,
    pub position: Position,
}

impl Head {
    pub fn write(self) -> Vec<u8> {
        let mut w = Writer::with_capacity(HEAD_BYTES as usize);
        FORMAT.write(&mut w);
        w.u64(self.group);
        w.u64(self.position.index);
        w.u64(self.position.term);
        w.u32(checksum(w.as_slice()));
        w.into_vec()
    }

    /// Are these the first bytes of that file?
    pub fn check(self, bytes: &[u8], file: &str) -> Result<(), StorageError> {
        FORMAT.check(bytes, file)?;
        if bytes != self.write() {
            return Err(StorageError::damaged(file, PREAMBLE_BYTES as u64, "its head is not that of its name"));
        }
        Ok(())
    }

    /// What the checksums of blocks and foot begin with.
    pub fn seed(self) -> u32 {
        checksum(&self.write()[PREAMBLE_BYTES..HEAD_BYTES as usize - 4])
    }

    pub fn block_checksum(self, number: u64, payload: &[u8]) -> u32 {
        checksum_append(checksum_append(self.seed(), &number.to_le_bytes()), payload)
    }
}

/// Where everything lies in a file of a given length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub blocks: u64,
    pub payload_bytes: u64,
}

impl Shape {
    /// None if no file has that length.
    pub fn of(size_bytes: u64) -> Option<Shape> {
        let inside = size_bytes.checked_sub(HEAD_BYTES + FOOT_BYTES)?;
        let blocks = inside.div_ceil(FULL_BLOCK_BYTES);
        let payload_bytes = inside.checked_sub(blocks * BLOCK_HEAD_BYTES)?;
        let shape = Shape { blocks, payload_bytes };
        (payload_bytes.div_ceil(BLOCK_BYTES as u64) == blocks).then_some(shape)
    }

    pub fn size_bytes(self) -> u64 {
        self.foot_offset() + FOOT_BYTES
    }

    pub fn block_offset(self, number: u64) -> u64 {
        (HEAD_BYTES + number * FULL_BLOCK_BYTES).min(self.foot_offset())
    }

    /// With its checksum.
    pub fn block_size(self, number: u64) -> usize {
        (self.block_offset(number + 1) - self.block_offset(number)) as usize
    }

    pub fn foot_offset(self) -> u64 {
        HEAD_BYTES + self.blocks * BLOCK_HEAD_BYTES + self.payload_bytes
    }
}

/// The foot of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foot {
    pub shape: Shape,
    /// Of head and blocks.
    pub checksum: u32,
}

impl Foot {
    pub fn write(self, head: Head) -> Vec<u8> {
        let mut w = Writer::with_capacity(FOOT_BYTES as usize);
        w.u64(self.shape.blocks);
        w.u64(self.shape.payload_bytes);
        w.u32(self.checksum);
        w.u32(checksum_append(head.seed(), w.as_slice()));
        w.into_vec()
    }

    /// The foot of a file of that shape.
    pub fn parse(bytes: &[u8], head: Head, shape: Shape, file: &str) -> Result<Foot, StorageError> {
        let parse = || -> Result<Foot, Malformed> {
            let mut r = Reader::new(Bytes::copy_from_slice(bytes));
            let shape = Shape { blocks: r.u64()?, payload_bytes: r.u64()? };
            Ok(Foot { shape, checksum: r.u32()? })
        };
        match parse() {
            Ok(foot) if foot.shape == shape && foot.write(head) == bytes => Ok(foot),
            _ => {
                Err(StorageError::damaged(file, shape.foot_offset(), "its end does not match its beginning or length"))
            }
        }
    }

    pub fn info(self, head: Head) -> CheckpointInfo {
        CheckpointInfo {
            group: head.group,
            position: head.position,
            size_bytes: self.shape.size_bytes(),
            checksum: checksum_append(self.checksum, &self.write(head)),
        }
    }
}
