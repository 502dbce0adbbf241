//! A backup: a group's whole state as one stream of bytes, made while it is sent, and kept wherever its user likes.
//!
//! ```text
//! head   preamble (16 bytes), cluster, index, term, revision, checksum
//! block  length, the bytes, checksum
//! ...
//! end    length 0, the number of the blocks' bytes, checksum
//! ```
//!
//! Every checksum covers all of the file before it but the other checksums (of something and its own checksum every CRC is
//! the same), so a block of another file, in another place, or twice is found where it stands, and whatever is missing at
//! the end leaves a file without an end.
//!
//! Not handled: compression, and going on with a stream that broke off.

use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use crate::preamble::{Format, PREAMBLE_BYTES};
use base::codec::{Malformed, Reader, Writer};
use base::{ClusterId, Position, checksum_append};
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// What is in the file, for people and for who restores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupHead {
    /// Whose state it is.
    pub cluster: ClusterId,
    pub position: Position,
    pub revision: u64,
}

/// Makes the stream, piece by piece.
pub struct BackupWriter {
    checksum: u32,
    payload_bytes: u64,
}

/// No block may be longer.
pub const MAX_BLOCK_BYTES: usize = 4 << 20;

const FORMAT: Format = Format { magic: *b"QRTBCKUP", version: 1 };
const HEAD_BYTES: usize = PREAMBLE_BYTES + 16 + 3 * 8;
const CHECKSUM_BYTES: usize = 4;

impl BackupWriter {
    /// And the first bytes of the stream.
    pub fn begin(head: &BackupHead) -> (BackupWriter, Bytes) {
        let mut w = Writer::with_capacity(HEAD_BYTES + CHECKSUM_BYTES);
        FORMAT.write(&mut w);
        w.u128(head.cluster.0);
        w.u64(head.position.index);
        w.u64(head.position.term);
        w.u64(head.revision);
        let mut writer = BackupWriter { checksum: 0, payload_bytes: 0 };
        let head = writer.sealed(w);
        (writer, head)
    }

    /// Panics if the block is empty or longer than [`MAX_BLOCK_BYTES`].
    pub fn block(&mut self, payload: &[u8]) -> Bytes {
        assert!((1..=MAX_BLOCK_BYTES).contains(&payload.len()), "a block of {} bytes", payload.len());
        let mut w = Writer::with_capacity(4 + payload.len() + CHECKSUM_BYTES);
        w.u32(payload.len() as u32);
        w.raw(payload);
        self.payload_bytes += payload.len() as u64;
        self.sealed(w)
    }

    /// The last bytes of the stream.
    pub fn end(mut self) -> Bytes {
        let mut w = Writer::with_capacity(4 + 8 + CHECKSUM_BYTES);
        w.u32(0);
        w.u64(self.payload_bytes);
        self.sealed(w)
    }

    fn sealed(&mut self, mut w: Writer) -> Bytes {
        self.checksum = checksum_append(self.checksum, w.as_slice());
        w.u32(self.checksum);
        w.into_bytes()
    }
}

/// Reads a backup once, from its beginning to its end.
pub struct BackupReader {
    name: String,
    file: Box<dyn File>,
    head: BackupHead,
    length: u64,
    offset: u64,
    checksum: u32,
    payload_bytes: u64,
    ended: bool,
}

impl BackupReader {
    /// Judges the head.
    pub fn open(files: &Arc<dyn Files>, path: &Path) -> Result<BackupReader, StorageError> {
        let name = path.display().to_string();
        let open = || {
            let file = files.open(path, OpenMode::Read)?;
            let length = file.length()?;
            Ok((file, length))
        };
        let (file, length) = open().map_err(|error| StorageError::io(format!("cannot open {name}"), error))?;
        let head = BackupHead { cluster: ClusterId(0), position: Position::default(), revision: 0 };
        let mut reader =
            BackupReader { name, file, head, length, offset: 0, checksum: 0, payload_bytes: 0, ended: false };
        let preamble = reader.read_at(0, PREAMBLE_BYTES.min(length as usize))?;
        FORMAT.check(&preamble, &reader.name)?;
        let head = reader.take(HEAD_BYTES)?;
        reader.check_sum(0)?;
        let parse = || -> Result<BackupHead, Malformed> {
            let mut r = Reader::new(head.slice(PREAMBLE_BYTES..));
            let cluster = ClusterId(r.u128()?);
            let position = Position { index: r.u64()?, term: r.u64()? };
            Ok(BackupHead { cluster, position, revision: r.u64()? })
        };
        reader.head = parse().map_err(|_| reader.damaged(0, "its head is cut short"))?;
        Ok(reader)
    }

    pub fn head(&self) -> &BackupHead {
        &self.head
    }

    /// `None`, once, at the end of the file, if all of it is as it was written; only then is what came before to be
    /// relied on.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.ended {
            return Ok(None);
        }
        let began = self.offset;
        let length = self.number::<4>()?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_BLOCK_BYTES {
            return Err(self.damaged(began, "no block is that long"));
        }
        if length > 0 {
            let payload = self.take(length)?;
            self.check_sum(began)?;
            self.payload_bytes += length as u64;
            return Ok(Some(payload));
        }
        let payload_bytes = u64::from_le_bytes(self.number::<8>()?);
        self.check_sum(began)?;
        if payload_bytes != self.payload_bytes {
            return Err(self.damaged(began, "its end does not match what came before"));
        }
        if self.offset != self.length {
            return Err(self.damaged(self.offset, "it goes on after its end"));
        }
        self.ended = true;
        Ok(None)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], StorageError> {
        let bytes = self.take(N)?;
        let mut number = [0; N];
        number.copy_from_slice(&bytes);
        Ok(number)
    }

    /// The next bytes, which go into the checksum.
    fn take(&mut self, count: usize) -> Result<Bytes, StorageError> {
        let bytes = self.read_at(self.offset, count)?;
        self.offset += count as u64;
        self.checksum = checksum_append(self.checksum, &bytes);
        Ok(bytes)
    }

    fn check_sum(&mut self, began: u64) -> Result<(), StorageError> {
        let stored = self.read_at(self.offset, CHECKSUM_BYTES)?;
        self.offset += CHECKSUM_BYTES as u64;
        if stored[..] == self.checksum.to_le_bytes() {
            Ok(())
        } else {
            Err(self.damaged(began, "a checksum does not match"))
        }
    }

    fn read_at(&self, offset: u64, count: usize) -> Result<Bytes, StorageError> {
        if self.length < offset.saturating_add(count as u64) {
            return Err(self.damaged(self.length, "it is cut short: it was not written to its end"));
        }
        let mut bytes = vec![0; count];
        let read = self
            .file
            .read_at(offset, &mut bytes)
            .and_then(|read| if read == count { Ok(()) } else { Err(io::Error::from(ErrorKind::UnexpectedEof)) });
        read.map_err(|error| StorageError::io(format!("cannot read {} at offset {offset}", self.name), error))?;
        Ok(Bytes::from(bytes))
    }

    fn damaged(&self, offset: u64, what: &str) -> StorageError {
        StorageError::damaged(&self.name, offset, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::MemFiles;

    const HEAD: BackupHead =
        BackupHead { cluster: ClusterId(7 << 64 | 9), position: Position { index: 8, term: 3 }, revision: 5 };

    fn written() -> Vec<u8> {
        let (mut writer, head) = BackupWriter::begin(&HEAD);
        let blocks = [&b"first"[..], b"second", &[0; 40]].map(|payload| writer.block(payload));
        [&[head][..], &blocks, &[writer.end()]].concat().concat()
    }

    fn read(bytes: &[u8]) -> Result<(BackupHead, Vec<Bytes>), StorageError> {
        let files: Arc<dyn Files> = Arc::new(MemFiles::new());
        let path = Path::new("/backup");
        files.open(path, OpenMode::Create).unwrap().write_at(0, bytes).unwrap();
        let mut reader = BackupReader::open(&files, path)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block()? {
            blocks.push(block);
        }
        assert_eq!(reader.next_block()?, None);
        Ok((*reader.head(), blocks))
    }

    #[test]
    fn what_is_written_is_read() {
        let (head, blocks) = read(&written()).unwrap();
        assert_eq!(head, HEAD);
        assert_eq!(blocks, [&b"first"[..], b"second", &[0; 40]]);
    }

    #[test]
    fn every_flip_and_every_end_that_is_not_the_end_is_found() {
        let whole = written();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                let found = read(&flipped);
                let damaged = matches!(found, Err(StorageError::Damaged { .. }));
                assert!(damaged, "bit {bit} of byte {at}: {found:?}");
            }
            let found = read(&whole[..at]);
            assert!(matches!(found, Err(StorageError::Damaged { .. })), "cut after {at}: {found:?}");
        }
        read(&[&whole[..], b"\0"].concat()).unwrap_err();
        read(&[&whole[..], &whole[..]].concat()).unwrap_err();
    }

    #[test]
    fn blocks_have_their_places() {
        let (mut writer, head) = BackupWriter::begin(&HEAD);
        let (first, second) = (writer.block(b"first"), writer.block(b"first"));
        let end = writer.end();
        read(&[&head[..], &first, &second, &end].concat()).unwrap();
        for wrong in [vec![&head, &second, &first, &end], vec![&head, &first, &first, &end], vec![&head, &first, &end]]
        {
            read(&wrong.iter().flat_map(|bytes| bytes.to_vec()).collect::<Vec<u8>>()).unwrap_err();
        }
    }
}
