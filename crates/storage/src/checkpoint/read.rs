//! Reading a checkpoint: its content, block by block, or its bytes, to be sent.

use super::format::{BLOCK_HEAD_BYTES, FOOT_BYTES, Foot, HEAD_BYTES, Head, Shape};
use super::{CheckpointInfo, Name};
use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use base::{GroupId, Position, checksum, checksum_append};
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// Reads a checkpoint once, from its beginning to its end.
pub struct CheckpointReader {
    file: CheckedFile,
    head: Head,
    foot: Foot,
    next_block: u64,
    checksum: u32,
}

impl CheckpointReader {
    pub fn open(
        files: &Arc<dyn Files>,
        folder: &Path,
        info: &CheckpointInfo,
    ) -> Result<CheckpointReader, StorageError> {
        let name = Name::Whole { group: info.group, position: info.position };
        CheckpointReader::open_as(files, &folder.join(name.to_string()), info)
    }

    /// The payload's next 64 KiB (the last piece may be shorter). None, once, when everything was read and the checksum
    /// of the whole file is right; only then is all that came before to be relied on.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, StorageError> {
        let shape = self.foot.shape;
        if self.next_block == shape.blocks {
            if self.checksum != self.foot.checksum {
                return Err(self.file.damaged(0, "the checksum of the whole does not match"));
            }
            return Ok(None);
        }
        let offset = shape.block_offset(self.next_block);
        let block = self.file.read(offset, shape.block_size(self.next_block))?;
        let payload = block.slice(BLOCK_HEAD_BYTES as usize..);
        if block[..BLOCK_HEAD_BYTES as usize] != self.head.block_checksum(self.next_block, &payload).to_le_bytes() {
            return Err(self.file.damaged(offset, "the checksum of a block does not match"));
        }
        self.checksum = checksum_append(self.checksum, &block);
        self.next_block += 1;
        Ok(Some(payload))
    }

    pub(super) fn open_as(
        files: &Arc<dyn Files>,
        path: &Path,
        info: &CheckpointInfo,
    ) -> Result<CheckpointReader, StorageError> {
        let file = CheckedFile::open(files, path)?;
        let head = Head { group: info.group, position: info.position };
        let foot = file.foot(head)?;
        if foot.info(head) != *info {
            return Err(file.damaged(foot.shape.foot_offset(), "it is not the checkpoint that was asked for"));
        }
        Ok(CheckpointReader { file, head, foot, next_block: 0, checksum: checksum(&head.write()) })
    }

    pub(super) fn read_to_end(mut self) -> Result<(), StorageError> {
        while self.next_block()?.is_some() {}
        Ok(())
    }
}

/// Reads all of a checkpoint and checks every byte.
pub fn verify(files: &Arc<dyn Files>, folder: &Path, info: &CheckpointInfo) -> Result<(), StorageError> {
    CheckpointReader::open(files, folder, info)?.read_to_end()
}

/// The file's bytes from `offset` on, as they are: at most `max_bytes`, fewer only at the end. Whoever receives them
/// checks them.
pub fn read_chunk(
    files: &Arc<dyn Files>,
    folder: &Path,
    info: &CheckpointInfo,
    offset: u64,
    max_bytes: usize,
) -> Result<Bytes, StorageError> {
    let name = Name::Whole { group: info.group, position: info.position };
    let file = CheckedFile::open(files, &folder.join(name.to_string()))?;
    if file.length != info.size_bytes {
        return Err(file.damaged(file.length.min(info.size_bytes), "its length is not that of the checkpoint"));
    }
    let count = info.size_bytes.saturating_sub(offset).min(max_bytes as u64);
    file.read(offset, count as usize)
}

/// Judges both ends of a checkpoint.
pub(super) fn inspect(
    files: &Arc<dyn Files>,
    folder: &Path,
    group: GroupId,
    position: Position,
) -> Result<CheckpointInfo, StorageError> {
    let head = Head { group, position };
    let file = CheckedFile::open(files, &folder.join(Name::Whole { group, position }.to_string()))?;
    Ok(file.foot(head)?.info(head))
}

/// A file that names itself in its errors.
pub(super) struct CheckedFile {
    name: String,
    file: Box<dyn File>,
    pub length: u64,
}

impl CheckedFile {
    pub fn open(files: &Arc<dyn Files>, path: &Path) -> Result<CheckedFile, StorageError> {
        let open = || {
            let file = files.open(path, OpenMode::Read)?;
            let length = file.length()?;
            Ok((file, length))
        };
        let name = path.display().to_string();
        let (file, length) = open().map_err(|error| StorageError::io(format!("cannot open {name}"), error))?;
        Ok(CheckedFile { name, file, length })
    }

    /// Exactly so many bytes.
    pub fn read(&self, offset: u64, count: usize) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; count];
        let read = self
            .file
            .read_at(offset, &mut bytes)
            .and_then(|read| if read == count { Ok(()) } else { Err(io::Error::from(ErrorKind::UnexpectedEof)) });
        read.map_err(|error| StorageError::io(format!("cannot read {} at offset {offset}", self.name), error))?;
        Ok(Bytes::from(bytes))
    }

    pub fn damaged(&self, offset: u64, what: &str) -> StorageError {
        StorageError::damaged(&self.name, offset, what)
    }

    fn foot(&self, head: Head) -> Result<Foot, StorageError> {
        head.check(&self.read(0, HEAD_BYTES.min(self.length) as usize)?, &self.name)?;
        let Some(shape) = Shape::of(self.length) else {
            return Err(self.damaged(self.length, "no checkpoint has its length"));
        };
        Foot::parse(&self.read(shape.foot_offset(), FOOT_BYTES as usize)?, head, shape, &self.name)
    }
}
