//! What the engine holds for a user's key: revisions and value in one piece of memory, laid out as it would go to disk.
//!
//! `format: u8 = 1 | create revision: varint | mod - create revision: varint | version: varint | value`
//!
//! A record owns its bytes, so that a small value does not keep a whole frame of the network in memory.

use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
}

pub fn encode(meta: Meta, value: &[u8]) -> Bytes {
    let age = meta.mod_revision - meta.create_revision;
    let head = 1 + varint_bytes(meta.create_revision) + varint_bytes(age) + varint_bytes(meta.version);
    // In one allocation of just the size: one with room to spare would be moved, or stay too large.
    let mut record = Writer::with_capacity(head + value.len());
    record.u8(FORMAT);
    record.varint(meta.create_revision);
    record.varint(age);
    record.varint(meta.version);
    record.raw(value);
    record.into_bytes()
}

/// The value is a slice of the record.
pub fn decode(record: Bytes) -> Result<(Meta, Bytes), Malformed> {
    let mut reader = Reader::new(record);
    if reader.u8()? != FORMAT {
        return Err(Malformed("format of a record"));
    }
    let create_revision = reader.varint()?;
    let mod_revision = create_revision.checked_add(reader.varint()?).ok_or(Malformed("mod revision"))?;
    let version = reader.varint()?;
    Ok((Meta { create_revision, mod_revision, version }, reader.rest()))
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        for create_revision in [1, 127, 128, u64::MAX] {
            for value in [&b""[..], b"v", &[9; 1000]] {
                let meta = Meta { create_revision, mod_revision: u64::MAX, version: create_revision };
                assert_eq!(decode(encode(meta, value)), Ok((meta, Bytes::copy_from_slice(value))));
            }
        }
        for bits in 0..64 {
            for value in [(1u64 << bits) - 1, 1 << bits, u64::MAX] {
                let mut writer = Writer::new();
                writer.varint(value);
                assert_eq!(varint_bytes(value), writer.len());
            }
        }
        assert!(decode(Bytes::new()).is_err());
        assert!(decode(Bytes::from_static(&[2, 1, 1, 1])).is_err());
        assert!(decode(Bytes::from_static(&[1, 1])).is_err());
    }
}
