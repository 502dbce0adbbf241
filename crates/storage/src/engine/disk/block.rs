//! Blocks: the pieces in which a table is written, read, checked and cached.
//!
//! ```text
//! entry:  key length: u16 | value length + 1, or 0 for a deletion: u32 | sequence: u64 | key | value
//! block:  entry … | where each entry begins: u32 … | entries: u32 | CRC-32C of table, place and all before: u32
//! ```
//!
//! Entries lie in the order of the engine: by key, and of one key the newest first. Nothing is packed: an entry is found
//! by halving, and read where it lies. The checksum also covers which table the block belongs to and where it lies
//! there, so that a block in another's place is noticed.

use super::entry::{Place, in_order};
use crate::engine::Sequence;
use base::{checksum, checksum_append};
use bytes::Bytes;
use std::cmp::Ordering;

const ENTRY_HEAD_BYTES: usize = 14;
const FOOT_BYTES: usize = 8;
/// Values below it are copied out of their block: a reader that keeps one would keep all of the block.
const COPIED_BYTES: usize = 4096;

/// A block being filled.
#[derive(Default)]
pub(super) struct BlockWriter {
    bytes: Vec<u8>,
    begins: Vec<u32>,
}

impl BlockWriter {
    pub(super) fn push(&mut self, key: &[u8], sequence: Sequence, value: Option<&[u8]>) {
        let key_bytes = u16::try_from(key.len()).expect("keys are short");
        let value_bytes = value.map_or(0, |value| u32::try_from(value.len()).expect("values are short") + 1);
        self.begins.push(self.bytes.len() as u32);
        self.bytes.extend_from_slice(&key_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&value_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&sequence.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() + 4 * self.begins.len() + FOOT_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begins.is_empty()
    }

    /// The bytes of the block at that place; the writer is empty again.
    pub(super) fn finish(&mut self, table: u64, offset: u64) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        for begin in &self.begins {
            bytes.extend_from_slice(&begin.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.begins.len() as u32).to_le_bytes());
        let sum = seal(table, offset, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        self.begins.clear();
        bytes
    }
}

/// A block that was read and found whole.
#[derive(Clone)]
pub(super) struct Block {
    bytes: Bytes,
    entries: usize,
}

/// One entry of a block, where it lies.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub key: &'a [u8],
    pub sequence: Sequence,
    pub value: Option<&'a [u8]>,
}

impl Block {
    /// The error says what is wrong with it.
    pub(super) fn open(bytes: Bytes, table: u64, offset: u64) -> Result<Block, &'static str> {
        let Some(content) = bytes.len().checked_sub(FOOT_BYTES) else { return Err("a block is too short") };
        if seal(table, offset, &bytes[..content + 4]) != u32_at(&bytes, content + 4) {
            return Err("the checksum of a block does not match");
        }
        let entries = u32_at(&bytes, content) as usize;
        let block = Block { bytes, entries };
        // What the checksum covers is what was written. Still, nothing that is read may lead out of the block.
        let begins = entries.checked_mul(4).and_then(|bytes| content.checked_sub(bytes));
        let fits = begins.is_some_and(|end| (0..entries).all(|at| block.entry_fits(at, end)));
        if fits && entries > 0 { Ok(block) } else { Err("the entries of a block do not lie within it") }
    }

    pub(super) fn len(&self) -> usize {
        self.entries
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn entry(&self, at: usize) -> Entry<'_> {
        let (key, value, sequence) = self.parts(at);
        Entry { key: &self.bytes[key], sequence, value: value.map(|value| &self.bytes[value]) }
    }

    /// The value of an entry, to keep.
    pub(super) fn value(&self, at: usize) -> Option<Bytes> {
        let (_, value, _) = self.parts(at);
        value.map(|value| {
            if value.len() < COPIED_BYTES {
                Bytes::copy_from_slice(&self.bytes[value])
            } else {
                self.bytes.slice(value)
            }
        })
    }

    /// The first entry at or behind a place; [`Block::len`] if there is none.
    pub(super) fn seek(&self, place: Place<'_>) -> usize {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle);
            match in_order((entry.key, entry.sequence), place) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    fn begin(&self, at: usize) -> usize {
        u32_at(&self.bytes, self.bytes.len() - FOOT_BYTES - 4 * (self.entries - at)) as usize
    }

    fn parts(&self, at: usize) -> (std::ops::Range<usize>, Option<std::ops::Range<usize>>, Sequence) {
        let begin = self.begin(at);
        let head = &self.bytes[begin..begin + ENTRY_HEAD_BYTES];
        let key_bytes = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let value_bytes = u32_at(head, 2) as usize;
        let sequence = u64::from_le_bytes(*head[6..].first_chunk().expect("the head's last eight"));
        let key = begin + ENTRY_HEAD_BYTES..begin + ENTRY_HEAD_BYTES + key_bytes;
        let value = (value_bytes > 0).then(|| key.end..key.end + value_bytes - 1);
        (key, value, sequence)
    }

    fn entry_fits(&self, at: usize, end: usize) -> bool {
        let begin = self.begin(at);
        if begin > end || end - begin < ENTRY_HEAD_BYTES {
            return false;
        }
        let (key, value, _) = self.parts(at);
        value.map_or(key.end, |value| value.end) <= end
    }
}

/// The checksum of something that belongs at one place of one table.
pub(super) fn seal(table: u64, offset: u64, bytes: &[u8]) -> u32 {
    let mut home = [0; 16];
    home[..8].copy_from_slice(&table.to_le_bytes());
    home[8..].copy_from_slice(&offset.to_le_bytes());
    checksum_append(checksum(&home), bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the block"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Vec<u8> {
        let mut writer = BlockWriter::default();
        writer.push(b"a", 7, Some(b"seven"));
        writer.push(b"a", 3, None);
        writer.push(b"b", 5, Some(b""));
        writer.finish(1, 64)
    }

    #[test]
    fn entries_are_found_and_read() {
        let block = Block::open(Bytes::from(block()), 1, 64).unwrap();
        let seek = |key: &[u8], sequence| block.seek((key, sequence));
        assert_eq!([seek(b"", 9), seek(b"a", 9), seek(b"a", 7), seek(b"a", 6), seek(b"a", 3)], [0, 0, 0, 1, 1]);
        assert_eq!([seek(b"a", 2), seek(b"aa", 0), seek(b"b", 5), seek(b"b", 4), seek(b"c", 9)], [2, 2, 2, 3, 3]);
        assert_eq!([block.value(0), block.value(1), block.value(2)], [Some("seven".into()), None, Some("".into())]);
    }

    #[test]
    fn every_flipped_byte_and_every_other_place_is_noticed() {
        let whole = block();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(Block::open(Bytes::from(damaged), 1, 64).is_err());
            assert!(Block::open(Bytes::copy_from_slice(&whole[..at]), 1, 64).is_err());
        }
        assert!(Block::open(Bytes::from(whole.clone()), 2, 64).is_err());
        assert!(Block::open(Bytes::from(whole), 1, 65).is_err());
    }
}
