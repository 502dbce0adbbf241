//! What the engine holds for a user's key: revisions and value in one piece of memory, laid out as it would go to disk.
//!
//! `format: u8 | create revision: varint | mod - create revision: varint | version: varint | lease: varint | value`
//!
//! Format 1 has no lease, format 2 has one.
//!
//! A record owns its bytes, so that a small value does not keep a whole frame of the network in memory.

use base::codec::{Malformed, Writer, varint};
use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
    /// 0: none.
    pub lease: u64,
}

pub fn encode(meta: Meta, value: &[u8]) -> Bytes {
    let age = meta.mod_revision - meta.create_revision;
    let lease = if meta.lease == 0 { 0 } else { varint_bytes(meta.lease) };
    let head = 1 + varint_bytes(meta.create_revision) + varint_bytes(age) + varint_bytes(meta.version) + lease;
    // In one allocation of just the size: one with room to spare would be moved, or stay too large.
    let mut record = Writer::with_capacity(head + value.len());
    record.u8(if meta.lease == 0 { WITHOUT_LEASE } else { WITH_LEASE });
    record.varint(meta.create_revision);
    record.varint(age);
    record.varint(meta.version);
    if meta.lease != 0 {
        record.varint(meta.lease);
    }
    record.raw(value);
    record.into_bytes()
}

/// The value is a slice of the record.
pub fn decode(record: Bytes) -> Result<(Meta, Bytes), Malformed> {
    let (meta, value_bytes) = decode_meta(&record)?;
    Ok((meta, record.slice(record.len() - value_bytes..)))
}

/// Also how long the value is.
pub fn decode_meta(record: &[u8]) -> Result<(Meta, usize), Malformed> {
    let (&format, mut rest) = record.split_first().ok_or(Malformed("record"))?;
    let create_revision = varint(&mut rest)?;
    let mod_revision = create_revision.checked_add(varint(&mut rest)?).ok_or(Malformed("mod revision"))?;
    let version = varint(&mut rest)?;
    let lease = match format {
        WITHOUT_LEASE => 0,
        WITH_LEASE => Some(varint(&mut rest)?).filter(|&lease| lease > 0).ok_or(Malformed("lease of a record"))?,
        _ => return Err(Malformed("format of a record")),
    };
    Ok((Meta { create_revision, mod_revision, version, lease }, rest.len()))
}

pub fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

const WITHOUT_LEASE: u8 = 1;
const WITH_LEASE: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        for create_revision in [1, 127, 128, u64::MAX] {
            for value in [&b""[..], b"v", &[9; 1000]] {
                for lease in [0, 1, u64::MAX] {
                    let meta = Meta { create_revision, mod_revision: u64::MAX, version: create_revision, lease };
                    assert_eq!(decode(encode(meta, value)), Ok((meta, Bytes::copy_from_slice(value))));
                }
            }
        }
        for bits in 0..64 {
            for value in [(1u64 << bits) - 1, 1 << bits, u64::MAX] {
                let mut writer = Writer::new();
                writer.varint(value);
                assert_eq!(varint_bytes(value), writer.len());
            }
        }
        for wrong in [&[][..], &[3, 1, 1, 1], &[1, 1], &[2, 1, 1, 1], &[2, 1, 1, 1, 0]] {
            assert!(decode(Bytes::copy_from_slice(wrong)).is_err());
        }
    }
}
