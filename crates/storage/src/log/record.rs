//! The records of a segment: batches and seals, and how to tell a whole one from anything else.
//!
//! A record opens with a 64-byte header that names its segment, its offset and its number, so that what a recycled
//! file still holds of a former life is never taken for a record of this one:
//!
//! ```text
//! magic u32 | header checksum u32 | body checksum u32 | body length u32 | segment u64 | offset u64 | number u64
//! | last number known synced u64 | vote slots' sequence known synced u64 | zero u64
//! ```
//!
//! A batch's body is a row of sections, one a group, then zeros. Records start at multiples of 16, and a batch ends
//! where a seal still fits into the sector: **a seal is two copies of its header in one sector**. A sector is written
//! whole or not at all, so one good copy beside a bad one is damage, never a tear, and a flipped byte of a seal is
//! noticed although no record follows it.

use super::{EntryKind, GroupWrite, HardState, LogEntry};
use base::codec::{Malformed, Reader};
use base::{GroupId, Index, Position, checksum};
use bytes::Bytes;
use std::ops::Range;

/// The unit in which a disk tears writes.
const SECTOR_BYTES: u64 = 512;
const ALIGNMENT: u64 = 16;
pub const HEADER_BYTES: usize = 64;
pub const SEAL_BYTES: u64 = 2 * HEADER_BYTES as u64;
/// More than a batch ever grows by when it is finished.
pub const MOST_PADDING_BYTES: u64 = ALIGNMENT + SEAL_BYTES;

const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"QLgB");
const SEAL_MAGIC: u32 = u32::from_le_bytes(*b"QLgS");

/// What a record says of its place and of what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub segment: u64,
    pub offset: u64,
    pub number: u64,
    /// All records up to this number were synced when this one was written.
    pub synced_number: u64,
    /// The vote slot with this sequence was synced when this one was written.
    pub votes_sequence: u64,
}

/// Starts a batch in a buffer that is used again and again.
pub fn begin_batch(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
}

pub fn put_group(buffer: &mut Vec<u8>, write: &GroupWrite) {
    let mut parts = 0;
    for (part, present) in [
        (HARD_STATE, write.hard_state.is_some()),
        (RESET, write.reset.is_some()),
        (ENTRIES, !write.entries.is_empty()),
        (PURGE, write.purge_to.is_some()),
        (CONFIGURATION, write.configuration.is_some()),
    ] {
        if present {
            parts |= part;
        }
    }
    buffer.extend_from_slice(&[SECTION, parts]);
    put_varint(buffer, write.group);
    if let Some(hard_state) = write.hard_state {
        put_hard_state(buffer, hard_state);
    }
    if let Some(position) = write.reset {
        put_position(buffer, position);
    }
    if !write.entries.is_empty() {
        put_entries(buffer, &write.entries);
    }
    if let Some(position) = write.purge_to {
        put_position(buffer, position);
    }
    if let Some(configuration) = &write.configuration {
        put_blob(buffer, configuration);
    }
}

/// Entries that stand elsewhere in the log and are written again, so that their old place may go.
pub fn put_copies(buffer: &mut Vec<u8>, group: GroupId, entries: &[LogEntry]) {
    buffer.extend_from_slice(&[SECTION, ENTRIES | COPIED]);
    put_varint(buffer, group);
    put_entries(buffer, entries);
}

/// How long a batch in `buffer` is once it is finished at `offset`.
pub fn finished_length(buffer: &[u8], offset: u64) -> u64 {
    room_for_seal(offset + buffer.len() as u64) - offset
}

/// Pads the batch and fills in its header. False if it is too long to be written.
pub fn finish_batch(buffer: &mut Vec<u8>, stamp: Stamp) -> bool {
    let length = finished_length(buffer, stamp.offset);
    let Ok(body_length) = u32::try_from(length - HEADER_BYTES as u64) else {
        return false;
    };
    buffer.resize(length as usize, 0);
    let body_checksum = checksum(&buffer[HEADER_BYTES..]);
    let header = encode_header(BATCH_MAGIC, body_length, body_checksum, stamp);
    buffer[..HEADER_BYTES].copy_from_slice(&header);
    true
}

pub fn encode_seal(buffer: &mut Vec<u8>, stamp: Stamp) {
    let second = Stamp { offset: stamp.offset + HEADER_BYTES as u64, ..stamp };
    buffer.clear();
    buffer.extend_from_slice(&encode_header(SEAL_MAGIC, 0, 0, stamp));
    buffer.extend_from_slice(&encode_header(SEAL_MAGIC, 0, 0, second));
}

/// The first place at or after `offset` where a record may start with room for a seal in its sector.
pub fn room_for_seal(offset: u64) -> u64 {
    let aligned = offset.next_multiple_of(ALIGNMENT);
    if aligned % SECTOR_BYTES > SECTOR_BYTES - SEAL_BYTES { aligned.next_multiple_of(SECTOR_BYTES) } else { aligned }
}

/// A whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Batch { stamp: Stamp, body: Range<usize> },
    Seal { stamp: Stamp },
}

/// The record at `offset`, if a whole one with that number stands there.
pub fn read(segment_bytes: &[u8], segment: u64, offset: u64, number: u64) -> Option<Record> {
    let header = read_header(segment_bytes, segment, offset).filter(|h| h.stamp.number == number)?;
    if header.is_seal {
        let second = read_header(segment_bytes, segment, offset + HEADER_BYTES as u64)?;
        let whole = second.is_seal && second.stamp.number == number;
        return whole.then_some(Record::Seal { stamp: header.stamp });
    }
    let start = usize::try_from(offset).ok()?.checked_add(HEADER_BYTES)?;
    let body = start..start.checked_add(header.body_length as usize)?;
    let bytes = segment_bytes.get(body.clone())?;
    (checksum(bytes) == header.body_checksum).then_some(Record::Batch { stamp: header.stamp, body })
}

/// Whether anything in the segment proves that the record which should stand at `offset` was synced there. Then its
/// absence is damage; else it is what a crash leaves of a last write.
pub fn was_synced(segment_bytes: &[u8], segment: u64, offset: u64, number: u64) -> bool {
    if let Some(header) = read_header(segment_bytes, segment, offset)
        && header.is_seal
        && header.stamp.number == number
    {
        return has_damaged_copy(segment_bytes, header.stamp);
    }
    let mut at = offset + ALIGNMENT;
    while at < segment_bytes.len() as u64 {
        if let Some(header) = read_header(segment_bytes, segment, at)
            && (header.stamp.synced_number >= number || header.is_seal && header.stamp.number >= number)
        {
            return true;
        }
        at += ALIGNMENT;
    }
    false
}

/// Whether the second copy of a seal, whose first is whole, was written and then changed. A write that failed half-way
/// also leaves the first copy alone, but then what stood behind it before differs from a copy in the checksum at least.
fn has_damaged_copy(segment_bytes: &[u8], first: Stamp) -> bool {
    const CHECKSUM_BYTES: usize = 4;
    let offset = first.offset + HEADER_BYTES as u64;
    let expected = encode_header(SEAL_MAGIC, 0, 0, Stamp { offset, ..first });
    let found = segment_bytes.get(offset as usize..offset as usize + HEADER_BYTES);
    found.is_some_and(|found| found.iter().zip(&expected).filter(|(a, b)| a != b).count() < CHECKSUM_BYTES)
}

/// What one section of a batch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub write: GroupWrite,
    /// The entries were there before: they overwrite nothing after them.
    pub copied: bool,
}

pub fn decode_batch(body: Bytes) -> Result<Vec<Section>, Malformed> {
    let mut reader = Reader::new(body);
    let mut sections = Vec::new();
    while reader.remaining() > 0 {
        match reader.u8()? {
            SECTION => sections.push(decode_section(&mut reader)?),
            0 if reader.rest().iter().all(|&byte| byte == 0) => break,
            _ => return Err(Malformed("section")),
        }
    }
    Ok(sections)
}

pub fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

pub fn put_blob(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

pub fn put_position(buffer: &mut Vec<u8>, position: Position) {
    put_varint(buffer, position.index);
    put_varint(buffer, position.term);
}

pub fn put_hard_state(buffer: &mut Vec<u8>, hard_state: HardState) {
    put_varint(buffer, hard_state.term);
    put_varint(buffer, hard_state.vote);
    put_varint(buffer, hard_state.commit);
}

pub fn read_position(reader: &mut Reader) -> Result<Position, Malformed> {
    Ok(Position { index: countable(reader.varint()?)?, term: reader.varint()? })
}

/// What others count on from. Near the end of its range it is refused, so that no sum overflows.
pub fn countable(number: u64) -> Result<u64, Malformed> {
    if number > u64::MAX / 4 { Err(Malformed("number")) } else { Ok(number) }
}

pub fn read_hard_state(reader: &mut Reader) -> Result<HardState, Malformed> {
    Ok(HardState { term: reader.varint()?, vote: reader.varint()?, commit: reader.varint()? })
}

/// Opens a section; a zero in its place ends the batch.
const SECTION: u8 = 1;

const HARD_STATE: u8 = 1;
const RESET: u8 = 1 << 1;
const ENTRIES: u8 = 1 << 2;
const PURGE: u8 = 1 << 3;
const CONFIGURATION: u8 = 1 << 4;
const COPIED: u8 = 1 << 5;
const ALL_PARTS: u8 = HARD_STATE | RESET | ENTRIES | PURGE | CONFIGURATION | COPIED;

fn put_entries(buffer: &mut Vec<u8>, entries: &[LogEntry]) {
    put_varint(buffer, entries.first().map_or(0, |entry| entry.position.index));
    put_varint(buffer, entries.len() as u64);
    for entry in entries {
        put_varint(buffer, entry.position.term);
        buffer.push(entry.kind as u8);
        put_blob(buffer, &entry.data);
        put_blob(buffer, &entry.context);
    }
}

fn decode_section(reader: &mut Reader) -> Result<Section, Malformed> {
    let parts = reader.u8()?;
    if parts & !ALL_PARTS != 0 {
        return Err(Malformed("parts"));
    }
    let has = |part: u8| parts & part != 0;
    let mut write = GroupWrite { group: reader.varint()?, ..GroupWrite::default() };
    if has(HARD_STATE) {
        write.hard_state = Some(read_hard_state(reader)?);
    }
    if has(RESET) {
        write.reset = Some(read_position(reader)?);
    }
    if has(ENTRIES) {
        let first: Index = countable(reader.varint()?)?;
        let count = reader.count()?;
        write.entries.reserve_exact(count);
        for at in 0..count as u64 {
            let position = Position { index: first + at, term: reader.varint()? };
            let kind = match reader.u8()? {
                0 => EntryKind::Normal,
                1 => EntryKind::Change,
                _ => return Err(Malformed("entry kind")),
            };
            write.entries.push(LogEntry { position, kind, data: reader.blob()?, context: reader.blob()? });
        }
    }
    if has(PURGE) {
        write.purge_to = Some(read_position(reader)?);
    }
    if has(CONFIGURATION) {
        write.configuration = Some(reader.blob()?);
    }
    Ok(Section { write, copied: has(COPIED) })
}

struct Header {
    stamp: Stamp,
    is_seal: bool,
    body_checksum: u32,
    body_length: u32,
}

fn encode_header(magic: u32, body_length: u32, body_checksum: u32, stamp: Stamp) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&magic.to_le_bytes());
    header[8..12].copy_from_slice(&body_checksum.to_le_bytes());
    header[12..16].copy_from_slice(&body_length.to_le_bytes());
    let fields = [stamp.segment, stamp.offset, stamp.number, stamp.synced_number, stamp.votes_sequence];
    for (field, place) in fields.iter().zip(header[16..56].chunks_exact_mut(8)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    let own = header_checksum(&header);
    header[4..8].copy_from_slice(&own.to_le_bytes());
    header
}

fn read_header(segment_bytes: &[u8], segment: u64, offset: u64) -> Option<Header> {
    let start = usize::try_from(offset).ok()?;
    let header: &[u8; HEADER_BYTES] = segment_bytes.get(start..start.checked_add(HEADER_BYTES)?)?.try_into().ok()?;
    let is_seal = match u32_at(header, 0) {
        BATCH_MAGIC => false,
        SEAL_MAGIC => true,
        _ => return None,
    };
    let stamp = Stamp {
        segment: u64_at(header, 16),
        offset: u64_at(header, 24),
        number: u64_at(header, 32),
        synced_number: u64_at(header, 40),
        votes_sequence: u64_at(header, 48),
    };
    let is_here = stamp.segment == segment && stamp.offset == offset;
    (is_here && u32_at(header, 4) == header_checksum(header)).then_some(Header {
        stamp,
        is_seal,
        body_checksum: u32_at(header, 8),
        body_length: u32_at(header, 12),
    })
}

/// Over all of the header but the checksum itself.
fn header_checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    base::checksum_append(checksum(&header[0..4]), &header[8..])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
