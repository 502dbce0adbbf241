//! Writing a checkpoint of this node's own state.

use super::format::{BLOCK_BYTES, BLOCK_HEAD_BYTES, Foot, Head, Shape};
use super::{CheckpointInfo, KEPT, Name, SYNC_EVERY_BYTES, keep_newest, names, remove};
use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use base::{GroupId, Position, checksum, checksum_append};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Takes a group's state in pieces of any size. Without [`CheckpointWriter::finish`] there is no checkpoint.
pub struct CheckpointWriter {
    files: Arc<dyn Files>,
    folder: PathBuf,
    path: PathBuf,
    file: Box<dyn File>,
    head: Head,
    /// The block being filled, behind room for its checksum.
    block: Vec<u8>,
    /// The blocks written, and how long the file is.
    blocks: u64,
    payload_bytes: u64,
    written_bytes: u64,
    synced_bytes: u64,
    checksum: u32,
}

impl CheckpointWriter {
    /// Removes what is left of the group's earlier unfinished ones: a group writes one at a time.
    pub fn create(
        files: &Arc<dyn Files>,
        folder: &Path,
        group: GroupId,
        position: Position,
    ) -> Result<CheckpointWriter, StorageError> {
        files.create_folder(folder).map_err(|error| cannot_write(folder, error))?;
        for (text, name) in names(files, folder)? {
            if matches!(name, Name::Unfinished { group: found, .. } if found == group) {
                remove(files, &folder.join(text))?;
            }
        }
        let path = folder.join(Name::Unfinished { group, position }.to_string());
        let head = Head { group, position };
        let bytes = head.write();
        let begin = || {
            let file = files.open(&path, OpenMode::Create)?;
            file.write_at(0, &bytes)?;
            Ok(file)
        };
        let file = begin().map_err(|error| {
            let _ = files.remove(&path);
            cannot_write(&path, error)
        })?;
        Ok(CheckpointWriter {
            files: files.clone(),
            folder: folder.to_path_buf(),
            path,
            file,
            head,
            block: empty_block(),
            blocks: 0,
            payload_bytes: 0,
            written_bytes: bytes.len() as u64,
            synced_bytes: 0,
            checksum: checksum(&bytes),
        })
    }

    /// After an error the unfinished file is gone, and so is this checkpoint.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            let room = BLOCK_BYTES + BLOCK_HEAD_BYTES as usize - self.block.len();
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(part);
            bytes = rest;
            if part.len() == room {
                self.write_block().map_err(|error| self.give_up(error))?;
            }
        }
        Ok(())
    }

    /// Durable when it returns; then the group keeps its newest two.
    pub fn finish(mut self) -> Result<CheckpointInfo, StorageError> {
        let foot = self.write_rest().map_err(|error| self.give_up(error))?;
        let CheckpointWriter { files, folder, path, file, head, .. } = self;
        drop(file);
        let Head { group, position } = head;
        let place = folder.join(Name::Whole { group, position }.to_string());
        let publish = || {
            files.rename(&path, &place)?;
            files.sync_folder(&folder)
        };
        publish().map_err(|error| cannot_write(&place, error))?;
        keep_newest(&files, &folder, group, KEPT)?;
        Ok(foot.info(head))
    }

    fn write_rest(&mut self) -> io::Result<Foot> {
        if self.block.len() > BLOCK_HEAD_BYTES as usize {
            self.write_block()?;
        }
        let shape = Shape { blocks: self.blocks, payload_bytes: self.payload_bytes };
        let foot = Foot { shape, checksum: self.checksum };
        self.file.write_at(self.written_bytes, &foot.write(self.head))?;
        self.file.sync()?;
        Ok(foot)
    }

    fn write_block(&mut self) -> io::Result<()> {
        let (head, payload) = self.block.split_at_mut(BLOCK_HEAD_BYTES as usize);
        head.copy_from_slice(&self.head.block_checksum(self.blocks, payload).to_le_bytes());
        self.payload_bytes += payload.len() as u64;
        self.file.write_at(self.written_bytes, &self.block)?;
        self.blocks += 1;
        self.written_bytes += self.block.len() as u64;
        self.checksum = checksum_append(self.checksum, &self.block);
        self.block = empty_block();
        if self.written_bytes - self.synced_bytes >= SYNC_EVERY_BYTES {
            self.file.sync()?;
            self.synced_bytes = self.written_bytes;
        }
        Ok(())
    }

    fn give_up(&self, error: io::Error) -> StorageError {
        // If it can't be removed either, the first error says enough; the next writer or start tries again.
        let _ = self.files.remove(&self.path);
        cannot_write(&self.path, error)
    }
}

fn empty_block() -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK_BYTES + BLOCK_HEAD_BYTES as usize);
    block.extend_from_slice(&[0; BLOCK_HEAD_BYTES as usize]);
    block
}

pub(super) fn cannot_write(path: &Path, error: io::Error) -> StorageError {
    StorageError::io(format!("cannot write {}", path.display()), error)
}
