//! Who a node is, in one small file of its data folder, and the lock that keeps a second process out of the folder. A
//! node that gave itself its name shows it in a second file, as text.
//!
//! A file is replaced as a whole: written beside, synced, renamed, the folder synced. So after a crash it holds
//! either what was in it or what is new.
//!
//! Not handled: two folders with copies of one identity; the cluster tells them apart by their addresses.

use crate::StorageError;
use crate::files::{Files, Lock, OpenMode};
use crate::preamble::{Format, PREAMBLE_BYTES};
use base::codec::{Malformed, Reader, Writer};
use base::{ClusterId, Incarnation, NodeId};
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

pub(crate) const FILE: &str = "identity";
pub const LOCK_FILE: &str = "lock";
pub(crate) const NAME_FILE: &str = "name";
pub const MAX_NAME_BYTES: usize = 255;
const FORMAT: Format = Format { magic: *b"QRTIDENT", version: 1 };
/// The preamble, then length and checksum of the body.
const BODY_START: usize = PREAMBLE_BYTES + 8;
/// Nothing that we write comes near; what is larger is not ours to read into memory.
const LARGEST_BODY_BYTES: usize = 1 << 20;

/// What a node knows of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub incarnation: Incarnation,
    pub name: String,
    pub address: String,
    /// None until the node has bootstrapped or joined a cluster.
    pub cluster: Option<(ClusterId, NodeId)>,
    /// How many times the folder has been opened.
    pub boot: u64,
    /// Why the node is no longer a member, once it is not.
    pub removed: Option<String>,
}

impl Identity {
    /// None if the folder has none yet. What is returned is durable.
    pub fn load(files: &Arc<dyn Files>, folder: &Path) -> Result<Option<Identity>, StorageError> {
        let name = folder.join(FILE).display().to_string();
        match read(files, folder, FILE, BODY_START + LARGEST_BODY_BYTES)? {
            None => Ok(None),
            Some(bytes) => parse(Bytes::from(bytes), &name).map(Some),
        }
    }

    /// Durable when it returns.
    pub fn store(&self, files: &Arc<dyn Files>, folder: &Path) -> Result<(), StorageError> {
        let body = self.body();
        if body.len() > LARGEST_BODY_BYTES {
            let error = io::Error::new(ErrorKind::InvalidInput, "the name, address or reason is too long");
            return Err(StorageError::io(format!("cannot write {}", folder.join(FILE).display()), error));
        }
        replace(files, folder, FILE, &frame(&body))
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.incarnation.0);
        w.text(&self.name);
        w.text(&self.address);
        w.bool(self.cluster.is_some());
        if let Some((cluster, node)) = self.cluster {
            w.u128(cluster.0);
            w.u64(node);
        }
        w.u64(self.boot);
        w.bool(self.removed.is_some());
        if let Some(reason) = &self.removed {
            w.text(reason);
        }
        w.into_vec()
    }

    fn from_body(body: Bytes) -> Result<Identity, Malformed> {
        let mut r = Reader::new(body);
        let identity = Identity {
            incarnation: Incarnation(r.u64()?),
            name: r.text()?,
            address: r.text()?,
            cluster: if r.bool()? { Some((ClusterId(r.u128()?), r.u64()?)) } else { None },
            boot: r.u64()?,
            removed: if r.bool()? { Some(r.text()?) } else { None },
        };
        r.finish()?;
        Ok(identity)
    }
}

/// Whether a node can be called so.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.contains(char::is_control)
}

/// The name that the folder shows. None if it shows none.
pub fn load_name(files: &Arc<dyn Files>, folder: &Path) -> Result<Option<String>, StorageError> {
    let Some(bytes) = read(files, folder, NAME_FILE, MAX_NAME_BYTES + 1)? else { return Ok(None) };
    let name = String::from_utf8(bytes).unwrap_or_default().trim_end().to_owned();
    if !is_name(&name) {
        let what = "it must hold the node's name and nothing else, one line of text; mend it, or remove it";
        let file = folder.join(NAME_FILE);
        let error = io::Error::new(ErrorKind::InvalidData, what);
        return Err(StorageError::io(format!("cannot use {}", file.display()), error));
    }
    Ok(Some(name))
}

/// Durable when it returns.
pub fn store_name(files: &Arc<dyn Files>, folder: &Path, name: &str) -> Result<(), StorageError> {
    replace(files, folder, NAME_FILE, name.as_bytes())
}

/// Makes the folder if need be and takes it for this process alone, until the lock is dropped or the process ends.
pub fn lock_folder(files: &Arc<dyn Files>, folder: &Path) -> Result<Box<dyn Lock>, StorageError> {
    let name = folder.display().to_string();
    files.create_folder(folder).map_err(|error| StorageError::io(format!("cannot make the folder {name}"), error))?;
    files.lock(&folder.join(LOCK_FILE)).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => StorageError::InUse { folder: name },
        _ => StorageError::io(format!("cannot lock the folder {name}"), error),
    })
}

/// A whole file, or so much of it that it is seen to be longer than `limit_bytes`. None if there is none. What is returned
/// is durable: a former process may have died between renaming the file and syncing the folder.
fn read(
    files: &Arc<dyn Files>,
    folder: &Path,
    name: &str,
    limit_bytes: usize,
) -> Result<Option<Vec<u8>>, StorageError> {
    let path = folder.join(name);
    let read = || -> io::Result<Option<Vec<u8>>> {
        if !files.exists(&path)? {
            return Ok(None);
        }
        let file = files.open(&path, OpenMode::Read)?;
        let mut bytes = vec![0; file.length()?.min((limit_bytes + 1) as u64) as usize];
        let count = file.read_at(0, &mut bytes)?;
        bytes.truncate(count);
        files.sync_folder(folder)?;
        Ok(Some(bytes))
    };
    read().map_err(|error| StorageError::io(format!("cannot read {}", path.display()), error))
}

/// Durable when it returns.
fn replace(files: &Arc<dyn Files>, folder: &Path, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let path = folder.join(name);
    let beside = folder.join(format!("{name}.tmp"));
    let write = || -> io::Result<()> {
        files.create_folder(folder)?;
        let file = files.open(&beside, OpenMode::Create)?;
        file.set_length(0)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        drop(file);
        files.rename(&beside, &path)?;
        files.sync_folder(folder)
    };
    write().map_err(|error| {
        // It would be overwritten by the next try; if it can't be removed either, the first error says enough.
        let _ = files.remove(&beside);
        StorageError::io(format!("cannot write {}", path.display()), error)
    })
}

pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(BODY_START + body.len());
    FORMAT.write(&mut w);
    w.u32(body.len() as u32);
    w.u32(base::checksum_append(base::checksum(w.as_slice()), body));
    w.raw(body);
    w.into_vec()
}

fn parse(bytes: Bytes, file: &str) -> Result<Identity, StorageError> {
    FORMAT.check(&bytes, file)?;
    let damaged = |what: &str| StorageError::damaged(file, PREAMBLE_BYTES as u64, what);
    if bytes.len() < BODY_START {
        return Err(damaged("it is cut short"));
    }
    let body = bytes.slice(BODY_START..);
    // The length and the checksum are those of exactly this body, or something was changed, cut or added.
    if body.len() > LARGEST_BODY_BYTES || bytes[..BODY_START] != frame(&body)[..BODY_START] {
        return Err(damaged("its checksum does not match"));
    }
    Identity::from_body(body).map_err(|error| damaged(&error.to_string()))
}
