//! Tables: sorted files that are written once, and read until nothing names them any more.
//!
//! ```text
//! table:   preamble | block … | filter, CRC-32C | index, CRC-32C | foot
//! index:   blocks: varint | (key of the last entry: blob | its sequence: varint | length of the block: varint) …
//! foot:    where the filter begins: u64 | where the index begins: u64 | entries: u64 | CRC-32C: u32
//! ```
//!
//! All checksums cover the table's id and the place where they lie, so nothing of another table or another place is
//! ever taken for what it is not. Filter and index are read when a table is opened and stay in memory; blocks are read
//! when they are needed, through a cache, and judged each time they come from the disk.
//!
//! Not handled: packing. Values are stored as they are.

use super::block::{Block, BlockWriter, seal};
use super::entry::{Place, in_order};
use super::filter::{self, Filter};
use crate::StorageError;
use crate::engine::{Key, Sequence};
use crate::files::{File, Files, OpenMode};
use crate::preamble::{Format, PREAMBLE_BYTES};
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

const FORMAT: Format = Format { magic: *b"QRTTABLE", version: 1 };
const FOOT_BYTES: u64 = 28;
/// Collected before they are written.
const BUFFER_BYTES: usize = 128 * 1024;
/// Between two syncs of a table being written: one huge sync at the end would hold up the log's, on the same disk.
const SYNC_EVERY_BYTES: u64 = 1 << 20;

/// Names a table: never used twice in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TableId {
    pub generation: u32,
    pub number: u32,
}

impl TableId {
    pub(super) fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.to_string())
    }

    fn seed(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.number)
    }
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}-{:08x}.table", self.generation, self.number)
    }
}

/// What the manifest says of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableInfo {
    pub id: TableId,
    pub size_bytes: u64,
    pub entries: u64,
}

/// Writes one table, in order.
pub(super) struct TableWriter {
    id: TableId,
    path: PathBuf,
    file: Box<dyn File>,
    block_bytes: usize,
    block: BlockWriter,
    /// Of the last entry in the block.
    last: (Vec<u8>, Sequence),
    /// Blocks that are finished and not written.
    buffer: Vec<u8>,
    written_bytes: u64,
    synced_bytes: u64,
    index: Writer,
    blocks: u64,
    hashes: Vec<u64>,
    entries: u64,
}

impl TableWriter {
    pub(super) fn create(
        files: &dyn Files,
        folder: &Path,
        id: TableId,
        block_bytes: usize,
    ) -> Result<TableWriter, StorageError> {
        let path = id.path(folder);
        let file = files.open(&path, OpenMode::Create).map_err(|error| cannot_write(&path, error))?;
        let mut preamble = Writer::with_capacity(PREAMBLE_BYTES);
        FORMAT.write(&mut preamble);
        Ok(TableWriter {
            id,
            path,
            file,
            block_bytes,
            block: BlockWriter::default(),
            last: (Vec::new(), 0),
            buffer: preamble.into_vec(),
            written_bytes: 0,
            synced_bytes: 0,
            index: Writer::new(),
            blocks: 0,
            hashes: Vec::new(),
            entries: 0,
        })
    }

    pub(super) fn push(&mut self, key: &[u8], sequence: Sequence, value: Option<&[u8]>) -> Result<(), StorageError> {
        if self.entries == 0 || self.last.0 != key {
            self.hashes.push(filter::hash(key));
        }
        self.entries += 1;
        self.block.push(key, sequence, value);
        self.last.0.clear();
        self.last.0.extend_from_slice(key);
        self.last.1 = sequence;
        if self.block.len() >= self.block_bytes { self.end_block() } else { Ok(()) }
    }

    /// How long the file is so far.
    pub(super) fn size_bytes(&self) -> u64 {
        self.written_bytes + (self.buffer.len() + self.block.len()) as u64
    }

    /// The content is durable when it returns; the name is once the folder is synced.
    pub(super) fn finish(mut self, files: &dyn Files, cache: &Arc<BlockCache>) -> Result<Table, StorageError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let filter = Filter::of(&std::mem::take(&mut self.hashes));
        let filter_begin = self.append_sealed(filter.as_bytes());
        let mut index = Writer::new();
        index.varint(self.blocks);
        index.raw(self.index.as_slice());
        let index_begin = self.append_sealed(index.as_slice());
        let mut foot = Writer::with_capacity(FOOT_BYTES as usize);
        foot.u64(filter_begin);
        foot.u64(index_begin);
        foot.u64(self.entries);
        self.append_sealed(foot.as_slice());
        self.write()?;
        self.sync()?;
        let info = TableInfo { id: self.id, size_bytes: self.written_bytes, entries: self.entries };
        let index = Index::open(index.into_bytes(), PREAMBLE_BYTES as u64, filter_begin).expect("it was just written");
        // Opened anew, to read only.
        let file = files.open(&self.path, OpenMode::Read).map_err(|error| cannot_read(&self.path, error))?;
        Ok(Table { info, path: self.path, file, filter, index, cache: cache.clone() })
    }

    fn end_block(&mut self) -> Result<(), StorageError> {
        let offset = self.written_bytes + self.buffer.len() as u64;
        let block = self.block.finish(self.id.seed(), offset);
        self.buffer.extend_from_slice(&block);
        self.index.blob(&self.last.0);
        self.index.varint(self.last.1);
        self.index.varint(block.len() as u64);
        self.blocks += 1;
        if self.buffer.len() >= BUFFER_BYTES { self.write() } else { Ok(()) }
    }

    /// Puts bytes and their checksum behind what is there, and says where they begin.
    fn append_sealed(&mut self, bytes: &[u8]) -> u64 {
        let begin = self.written_bytes + self.buffer.len() as u64;
        self.buffer.extend_from_slice(bytes);
        self.buffer.extend_from_slice(&seal(self.id.seed(), begin, bytes).to_le_bytes());
        begin
    }

    fn write(&mut self) -> Result<(), StorageError> {
        self.file.write_at(self.written_bytes, &self.buffer).map_err(|error| cannot_write(&self.path, error))?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written_bytes - self.synced_bytes >= SYNC_EVERY_BYTES { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.synced_bytes = self.written_bytes;
        self.file.sync().map_err(|error| cannot_write(&self.path, error))
    }
}

/// Blocks of all tables that were read lately.
pub(super) type BlockCache = Cache<(TableId, u32), Block, BlockSize, Xxh3DefaultBuilder>;

pub(super) fn new_cache(bytes: usize, block_bytes: usize) -> BlockCache {
    let hasher = Xxh3DefaultBuilder::new();
    Cache::with(bytes / block_bytes, bytes as u64, BlockSize, hasher, DefaultLifecycle::default())
}

#[derive(Clone)]
pub(super) struct BlockSize;

impl Weighter<(TableId, u32), Block> for BlockSize {
    fn weight(&self, _: &(TableId, u32), block: &Block) -> u64 {
        block.size_bytes() as u64 + 64
    }
}

/// A table to be read, by anyone.
pub(super) struct Table {
    pub(super) info: TableInfo,
    path: PathBuf,
    file: Box<dyn File>,
    filter: Filter,
    index: Index,
    cache: Arc<BlockCache>,
}

impl Table {
    pub(super) fn open(
        files: &dyn Files,
        folder: &Path,
        info: TableInfo,
        cache: &Arc<BlockCache>,
    ) -> Result<Table, StorageError> {
        let path = info.id.path(folder);
        let name = path.display().to_string();
        let damaged = |offset, what: &str| StorageError::damaged(name.clone(), offset, what);
        let file = files.open(&path, OpenMode::Read).map_err(|error| cannot_read(&path, error))?;
        let length = file.length().map_err(|error| cannot_read(&path, error))?;
        if length != info.size_bytes || length < PREAMBLE_BYTES as u64 + FOOT_BYTES {
            return Err(damaged(length.min(info.size_bytes), "its length is not what the manifest says"));
        }
        let read = |from: u64, to: u64| -> Result<Vec<u8>, StorageError> {
            let mut bytes = vec![0; (to - from) as usize];
            let count = file.read_at(from, &mut bytes).map_err(|error| cannot_read(&path, error))?;
            let sum = bytes.split_off(bytes.len().saturating_sub(4));
            let whole = count == bytes.len() + 4 && sum == seal(info.id.seed(), from, &bytes).to_le_bytes();
            if whole { Ok(bytes) } else { Err(damaged(from, "a checksum does not match")) }
        };
        let mut preamble = [0; PREAMBLE_BYTES];
        file.read_at(0, &mut preamble).map_err(|error| cannot_read(&path, error))?;
        FORMAT.check(&preamble, &name)?;
        let mut foot = Reader::new(read(length - FOOT_BYTES, length)?.into());
        let mut number = || foot.u64().unwrap_or_default();
        let (filter_begin, index_begin, entries) = (number(), number(), number());
        let ordered = PREAMBLE_BYTES as u64 <= filter_begin
            && filter_begin.checked_add(4).is_some_and(|end| end <= index_begin)
            && index_begin.checked_add(4).is_some_and(|end| end <= length - FOOT_BYTES);
        if !ordered || entries != info.entries {
            return Err(damaged(length - FOOT_BYTES, "its foot is not what the manifest says"));
        }
        let filter = Filter::open(read(filter_begin, index_begin)?).ok_or(damaged(filter_begin, "its filter"))?;
        let index = Index::open(read(index_begin, length - FOOT_BYTES)?.into(), PREAMBLE_BYTES as u64, filter_begin)
            .map_err(|_| damaged(index_begin, "its index"))?;
        Ok(Table { info, path, file, filter, index, cache: cache.clone() })
    }

    pub(super) fn may_have(&self, hash: u64) -> bool {
        self.filter.may_have(hash)
    }

    pub(super) fn blocks(&self) -> usize {
        self.index.blocks.len()
    }

    /// The first block whose last entry is at or behind a place; [`Table::blocks`] if there is none.
    pub(super) fn seek(&self, place: Place<'_>) -> usize {
        self.index.seek(place)
    }

    /// The place of the last entry.
    pub(super) fn last(&self) -> Place<'_> {
        self.index.last_of(self.index.blocks.len() - 1)
    }

    pub(super) fn block(&self, at: usize) -> Result<Block, StorageError> {
        let home = (self.info.id, at as u32);
        if let Some(block) = self.cache.get(&home) {
            return Ok(block);
        }
        let block = self.read_block(at)?;
        self.cache.insert(home, block.clone());
        Ok(block)
    }

    /// Without the cache, which a merge would sweep clean.
    pub(super) fn read_block(&self, at: usize) -> Result<Block, StorageError> {
        let IndexEntry { offset, length, .. } = self.index.blocks[at];
        let mut bytes = vec![0; length as usize];
        let count = self.file.read_at(offset, &mut bytes).map_err(|error| cannot_read(&self.path, error))?;
        bytes.truncate(count);
        Block::open(Bytes::from(bytes), self.info.id.seed(), offset)
            .map_err(|what| StorageError::damaged(self.path.display().to_string(), offset, what))
    }

    /// What it keeps in memory as long as it is open.
    pub(super) fn pinned_bytes(&self) -> usize {
        self.filter.as_bytes().len() + self.index.keys.len() + self.index.blocks.len() * size_of::<IndexEntry>()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where each block lies, and its last entry.
struct Index {
    keys: Vec<u8>,
    blocks: Vec<IndexEntry>,
}

struct IndexEntry {
    offset: u64,
    sequence: Sequence,
    length: u32,
    /// Where the key ends in [`Index::keys`].
    key_end: u32,
}

impl Index {
    /// Blocks lie one behind the other, from one offset to another.
    fn open(bytes: Bytes, begin: u64, end: u64) -> Result<Index, Malformed> {
        let wrong = Malformed("index of a table");
        let mut reader = Reader::new(bytes);
        let count = reader.count()?;
        let mut index = Index { keys: Vec::new(), blocks: Vec::with_capacity(count) };
        let mut offset = begin;
        for _ in 0..count {
            index.keys.extend_from_slice(&reader.blob()?);
            let sequence = reader.varint()?;
            let length = u32::try_from(reader.varint()?).map_err(|_| wrong)?;
            let key_end = u32::try_from(index.keys.len()).map_err(|_| wrong)?;
            index.blocks.push(IndexEntry { offset, sequence, length, key_end });
            offset = offset.checked_add(u64::from(length)).filter(|&offset| offset <= end).ok_or(wrong)?;
        }
        reader.finish()?;
        let in_order = (1..count).all(|at| in_order(index.last_of(at - 1), index.last_of(at)) == Ordering::Less);
        if offset == end && count > 0 && in_order { Ok(index) } else { Err(wrong) }
    }

    fn last_of(&self, block: usize) -> Place<'_> {
        let begin = block.checked_sub(1).map_or(0, |before| self.blocks[before].key_end as usize);
        let IndexEntry { sequence, key_end, .. } = self.blocks[block];
        (&self.keys[begin..key_end as usize], sequence)
    }

    fn seek(&self, place: Place<'_>) -> usize {
        let (mut low, mut high) = (0, self.blocks.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match in_order(self.last_of(middle), place) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

/// Tables that follow each other in order, and together hold what was written in one stretch of time.
pub(super) struct Run {
    pub(super) tables: Vec<Arc<Table>>,
}

impl Run {
    pub(super) fn size_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.info.size_bytes).sum()
    }

    /// The first table whose last entry is at or behind a place.
    pub(super) fn seek(&self, place: Place<'_>) -> usize {
        self.tables.partition_point(|table| in_order(table.last(), place) == Ordering::Less)
    }

    /// The newest version of a key that a sequence sees, if there is any here: where it lies.
    pub(super) fn find(
        &self,
        key: &Key,
        hash: u64,
        sequence: Sequence,
    ) -> Result<Option<(Block, usize)>, StorageError> {
        let place = (key.as_slice(), sequence);
        // Most of the time a run is one table, which says no.
        let Some(table) = self.tables.get(self.seek(place)).filter(|table| table.may_have(hash)) else {
            return Ok(None);
        };
        let block = table.block(table.seek(place))?;
        let at = block.seek(place);
        let found = at < block.len() && block.entry(at).key == key.as_slice();
        Ok(found.then_some((block, at)))
    }
}

pub(super) fn cannot_write(path: &Path, error: std::io::Error) -> StorageError {
    StorageError::io(format!("cannot write {}", path.display()), error)
}

pub(super) fn cannot_read(path: &Path, error: std::io::Error) -> StorageError {
    StorageError::io(format!("cannot read {}", path.display()), error)
}
