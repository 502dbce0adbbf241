//! The manifest: which tables make up the engine, and the owner's note of the moment that they hold.
//!
//! ```text
//! manifest: preamble | body | CRC-32C of the body: u32
//! body:     generation: u32 | sequence: varint | note: blob | runs: varint | (tables: varint | table …) …
//! table:    number: varint | bytes: varint | entries: varint
//! ```
//!
//! It is written whole, beside its place, synced, and renamed into it, so that there is always one that is whole. A
//! generation is one filling of the engine: when another state is loaded, its tables and its manifest lie beside the
//! old ones under other names; the one whose manifest goes furthest counts, and the others are cleared away.

use super::table::{Run, TableId, TableInfo, cannot_read, cannot_write};
use crate::StorageError;
use crate::engine::Sequence;
use crate::files::{Files, OpenMode};
use crate::preamble::{Format, PREAMBLE_BYTES};
use base::checksum;
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

const FORMAT: Format = Format { magic: *b"QRTMANIF", version: 1 };

/// What is durable.
#[derive(Clone, Default)]
pub(super) struct Durable {
    pub sequence: Sequence,
    pub note: Bytes,
    /// Newest first.
    pub runs: Vec<Arc<Run>>,
    /// What was evicted at that sequence. The owner's note says it, so that the manifest need not.
    pub threshold: Sequence,
}

/// What a manifest says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub generation: u32,
    pub sequence: Sequence,
    pub note: Bytes,
    pub runs: Vec<Vec<TableInfo>>,
}

/// A file of the engine, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Table(TableId),
    Manifest { generation: u32 },
    Unfinished { generation: u32 },
}

impl Name {
    pub(super) fn parse(text: &str) -> Option<Name> {
        let (numbers, ending) = text.split_once('.')?;
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        let name = match (ending, numbers.split_once('-')) {
            ("table", Some((generation, number))) => {
                Name::Table(TableId { generation: hex(generation)?, number: hex(number)? })
            }
            ("manifest", None) => Name::Manifest { generation: hex(numbers)? },
            ("manifest.tmp", None) => Name::Unfinished { generation: hex(numbers)? },
            _ => return None,
        };
        // One file, one name: what would be written otherwise is not ours.
        (name.to_string() == text).then_some(name)
    }

    pub(super) fn generation(self) -> u32 {
        match self {
            Name::Table(TableId { generation, .. }) => generation,
            Name::Manifest { generation } | Name::Unfinished { generation } => generation,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Table(id) => id.fmt(f),
            Name::Manifest { generation } => write!(f, "{generation:08x}.manifest"),
            Name::Unfinished { generation } => write!(f, "{generation:08x}.manifest.tmp"),
        }
    }
}

/// Durable when it returns, with the names of all tables that it names. After an error either the one before or this
/// one is what the next start finds, so the files of both must stay.
pub(super) fn write(files: &dyn Files, folder: &Path, generation: u32, durable: &Durable) -> Result<(), StorageError> {
    let unfinished = folder.join(Name::Unfinished { generation }.to_string());
    let place = folder.join(Name::Manifest { generation }.to_string());
    let bytes = encode(generation, durable);
    let write = || {
        let file = files.open(&unfinished, OpenMode::Create)?;
        file.set_length(bytes.len() as u64)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        // A disk may keep the new name of the manifest and lose that of a table, if both are synced at once.
        files.sync_folder(folder)?;
        files.rename(&unfinished, &place)?;
        files.sync_folder(folder)
    };
    write().map_err(|error| cannot_write(&place, error))
}

pub(super) fn read(files: &dyn Files, folder: &Path, generation: u32) -> Result<Manifest, StorageError> {
    let path = folder.join(Name::Manifest { generation }.to_string());
    let read = || {
        let file = files.open(&path, OpenMode::Read)?;
        let mut bytes = vec![0; file.length()? as usize];
        let count = file.read_at(0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    };
    let bytes = read().map_err(|error| cannot_read(&path, error))?;
    let name = path.display().to_string();
    FORMAT.check(&bytes, &name)?;
    decode(Bytes::from(bytes).slice(PREAMBLE_BYTES..), generation)
        .map_err(|Malformed(what)| StorageError::damaged(name, PREAMBLE_BYTES as u64, what))
}

fn encode(generation: u32, durable: &Durable) -> Vec<u8> {
    let mut body = Writer::with_capacity(durable.note.len() + 256);
    body.u32(generation);
    body.varint(durable.sequence);
    body.blob(&durable.note);
    body.varint(durable.runs.len() as u64);
    for run in &durable.runs {
        body.varint(run.tables.len() as u64);
        for table in &run.tables {
            body.varint(table.info.id.number.into());
            body.varint(table.info.size_bytes);
            body.varint(table.info.entries);
        }
    }
    let mut whole = Writer::with_capacity(body.len() + PREAMBLE_BYTES + 4);
    FORMAT.write(&mut whole);
    whole.raw(body.as_slice());
    whole.u32(checksum(body.as_slice()));
    whole.into_vec()
}

fn decode(bytes: Bytes, generation: u32) -> Result<Manifest, Malformed> {
    let body_bytes = bytes.len().checked_sub(4).ok_or(Malformed("manifest: it is too short"))?;
    if checksum(&bytes[..body_bytes]).to_le_bytes() != bytes[body_bytes..] {
        return Err(Malformed("the checksum of the manifest does not match"));
    }
    let mut body = Reader::new(bytes.slice(..body_bytes));
    if body.u32()? != generation {
        return Err(Malformed("the manifest is that of another generation"));
    }
    let (sequence, note) = (body.varint()?, body.blob()?);
    let mut runs = Vec::new();
    for _ in 0..body.count()? {
        let mut tables = Vec::new();
        for _ in 0..body.count()? {
            let number = u32::try_from(body.varint()?).map_err(|_| Malformed("number of a table"))?;
            let id = TableId { generation, number };
            tables.push(TableInfo { id, size_bytes: body.varint()?, entries: body.varint()? });
        }
        if tables.is_empty() {
            return Err(Malformed("a run without tables"));
        }
        runs.push(tables);
    }
    body.finish()?;
    Ok(Manifest { generation, sequence, note, runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::MemFiles;

    #[test]
    fn names_are_read_back() {
        let id = TableId { generation: 1, number: 0xabc };
        for name in [Name::Table(id), Name::Manifest { generation: 7 }, Name::Unfinished { generation: u32::MAX }] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for wrong in ["", "1.manifest", "00000001.table", "0000000A.manifest", "00000001-00000002.manifest"] {
            assert_eq!(Name::parse(wrong), None);
        }
    }

    #[test]
    fn every_flipped_byte_of_a_manifest_is_noticed() {
        let (files, folder) = (MemFiles::new(), Path::new("/engine"));
        files.create_folder(folder).unwrap();
        let durable = Durable { sequence: 300, note: Bytes::from_static(b"note"), ..Durable::default() };
        write(&files, folder, 3, &durable).unwrap();
        let path = folder.join("00000003.manifest");
        let whole = files.read_all(&path).unwrap();
        let read = || read(&files, folder, 3);
        assert_eq!(read().unwrap(), Manifest { generation: 3, sequence: 300, note: durable.note, runs: Vec::new() });
        for at in 0..whole.len() {
            files.flip(&path, at as u64, 0x10).unwrap();
            let error = read().unwrap_err().to_string();
            assert!(error.contains("00000003.manifest"), "{error}");
            files.flip(&path, at as u64, 0x10).unwrap();
            files.truncate(&path, at as u64).unwrap();
            read().unwrap_err();
            files.write_all(&path, &whole).unwrap();
        }
    }
}
