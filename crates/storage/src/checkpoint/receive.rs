//! Receiving a checkpoint from another node, in order, in chunks of any size.
//!
//! The unfinished file's name says what is being received and from whom, so a broken transfer goes on only with bytes
//! of the same checkpoint of the same sender. How much of it arrived is not noted anywhere: the blocks prove themselves.
//! Whatever is found is also written again, because what a former process left may be in the page cache only, and
//! marked clean there (design, decision 2).
//!
//! Not handled: chunks out of order; the caller asks for what follows [`IncomingCheckpoint::received_bytes`].

use super::format::{BLOCK_HEAD_BYTES, HEAD_BYTES, Head, Shape};
use super::read::{CheckedFile, CheckpointReader, inspect};
use super::write::cannot_write;
use super::{CheckpointInfo, KEPT, Name, SYNC_EVERY_BYTES, keep_newest, names, remove};
use crate::StorageError;
use crate::files::{File, Files, OpenMode};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A checkpoint that is arriving. Dropping it keeps what arrived, for [`IncomingCheckpoint::resume`].
pub struct IncomingCheckpoint {
    files: Arc<dyn Files>,
    folder: PathBuf,
    path: PathBuf,
    info: CheckpointInfo,
    /// None if the folder has this checkpoint already.
    file: Option<Box<dyn File>>,
    received_bytes: u64,
    synced_bytes: u64,
    /// After a failed sync nobody knows what is on the disk.
    sync_failed: bool,
}

impl IncomingCheckpoint {
    /// Begins, or goes on with what an earlier try from the same `source` left. Discards what the group was receiving
    /// otherwise.
    pub fn resume(
        files: &Arc<dyn Files>,
        folder: &Path,
        info: &CheckpointInfo,
        source: u64,
    ) -> Result<IncomingCheckpoint, StorageError> {
        let wanted = Name::Incoming { info: info.clone(), source };
        let path = folder.join(wanted.to_string());
        let Some(shape) = Shape::of(info.size_bytes) else {
            let what = format!("no checkpoint has {} bytes", info.size_bytes);
            return Err(cannot_write(&path, io::Error::new(ErrorKind::InvalidInput, what)));
        };
        files.create_folder(folder).map_err(|error| cannot_write(folder, error))?;
        let mut is_here = false;
        for (text, name) in names(files, folder)? {
            match name {
                Name::Incoming { info: found, .. } if found.group == info.group && wanted.to_string() != text => {
                    remove(files, &folder.join(text))?;
                }
                Name::Whole { group, position } if group == info.group && position == info.position => {
                    is_here = inspect(files, folder, group, position).is_ok_and(|found| found == *info);
                }
                _ => {}
            }
        }
        let mut incoming = IncomingCheckpoint {
            files: files.clone(),
            folder: folder.to_path_buf(),
            path,
            info: info.clone(),
            file: None,
            received_bytes: info.size_bytes,
            synced_bytes: info.size_bytes,
            sync_failed: false,
        };
        if !is_here {
            incoming.take_up(shape)?;
        }
        Ok(incoming)
    }

    /// The next chunk begins here.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// `offset` must be [`IncomingCheckpoint::received_bytes`], and there can't be more than the announced size.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        if offset != self.received_bytes || bytes.len() as u64 > self.info.size_bytes - offset {
            let what = format!(
                "{} bytes at offset {offset} do not follow {} of {} received",
                bytes.len(),
                self.received_bytes,
                self.info.size_bytes
            );
            return Err(cannot_write(&self.path, io::Error::new(ErrorKind::InvalidInput, what)));
        }
        let Some(file) = &self.file else { return Ok(()) };
        file.write_at(offset, bytes).map_err(|error| cannot_write(&self.path, error))?;
        self.received_bytes += bytes.len() as u64;
        if self.received_bytes - self.synced_bytes >= SYNC_EVERY_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Checks every byte, and makes it one of the group's checkpoints, of which it keeps the newest two. Durable when it
    /// returns. If a byte is wrong, all that was received is removed.
    pub fn finish(mut self) -> Result<(), StorageError> {
        if self.received_bytes != self.info.size_bytes {
            let what = format!("only {} of {} bytes were received", self.received_bytes, self.info.size_bytes);
            return Err(cannot_write(&self.path, io::Error::new(ErrorKind::UnexpectedEof, what)));
        }
        let place = self.folder.join(Name::Whole { group: self.info.group, position: self.info.position }.to_string());
        if self.file.is_some() {
            self.sync()?;
            self.file = None;
            self.check(&self.path, CheckpointReader::open_as(&self.files, &self.path, &self.info))?;
            self.files.rename(&self.path, &place).map_err(|error| cannot_write(&place, error))?;
        } else {
            self.check(&place, CheckpointReader::open_as(&self.files, &place, &self.info))?;
        }
        self.files.sync_folder(&self.folder).map_err(|error| cannot_write(&place, error))?;
        keep_newest(&self.files, &self.folder, self.info.group, KEPT)
    }

    fn check(&self, path: &Path, opened: Result<CheckpointReader, StorageError>) -> Result<(), StorageError> {
        let outcome = opened.and_then(CheckpointReader::read_to_end);
        if matches!(outcome, Err(StorageError::Damaged { .. } | StorageError::UnknownFormat { .. })) {
            remove(&self.files, path)?;
        }
        outcome
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let Some(file) = &self.file else { return Ok(()) };
        if self.sync_failed {
            let error = io::Error::other("an earlier sync failed, so what is on the disk is unknown");
            return Err(cannot_write(&self.path, error));
        }
        file.sync().map_err(|error| {
            self.sync_failed = true;
            cannot_write(&self.path, error)
        })?;
        self.synced_bytes = self.received_bytes;
        Ok(())
    }

    /// Goes through what is there, block by block, up to the first that is not whole.
    fn take_up(&mut self, shape: Shape) -> Result<(), StorageError> {
        let open = self.files.open(&self.path, OpenMode::Create);
        let file = open.map_err(|error| cannot_write(&self.path, error))?;
        let found = CheckedFile::open(&self.files, &self.path)?;
        let head = Head { group: self.info.group, position: self.info.position };
        let mut good_bytes = 0;
        if found.length >= HEAD_BYTES {
            let bytes = found.read(0, HEAD_BYTES as usize)?;
            if bytes == head.write() {
                file.write_at(0, &bytes).map_err(|error| cannot_write(&self.path, error))?;
                good_bytes = HEAD_BYTES;
            }
        }
        for number in 0..shape.blocks {
            let (offset, size) = (shape.block_offset(number), shape.block_size(number));
            if good_bytes != offset || found.length < offset + size as u64 {
                break;
            }
            let block = found.read(offset, size)?;
            let (sum, payload) = block.split_at(BLOCK_HEAD_BYTES as usize);
            if sum != head.block_checksum(number, payload).to_le_bytes() {
                break;
            }
            file.write_at(offset, &block).map_err(|error| cannot_write(&self.path, error))?;
            good_bytes = offset + size as u64;
        }
        let settle = || {
            file.set_length(good_bytes)?;
            file.sync()?;
            self.files.sync_folder(&self.folder)
        };
        settle().map_err(|error| cannot_write(&self.path, error))?;
        self.file = Some(file);
        self.received_bytes = good_bytes;
        self.synced_bytes = good_bytes;
        Ok(())
    }
}
