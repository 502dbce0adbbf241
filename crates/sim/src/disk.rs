//! A host's disk, and what a node's process does on it: the same as `server`'s data folder, on a disk in memory that
//! loses what was not synced.
//!
//! Not handled: misdirected writes and flipped bits; storage's own tests have them.

use base::{ClusterId, FIRST_GROUP, GroupId, Incarnation, NodeId, Position};
use bytes::Bytes;
use kv::Home;
use node::membership::Member;
use std::path::PathBuf;
use std::sync::Arc;
use storage::StorageError;
use storage::checkpoint::{self, CheckpointInfo, CheckpointReader, CheckpointWriter, IncomingCheckpoint};
use storage::engine::disk::DiskOptions;
use storage::files::{Files, Lock, MemFiles};
use storage::identity::{Identity, lock_folder};
use storage::log::{Log, LogOptions, RecoveredGroup};

pub struct Disk {
    pub memory: MemFiles,
    files: Arc<dyn Files>,
    folder: PathBuf,
    segment_size_bytes: u64,
    tables: Option<DiskOptions>,
}

/// A folder that a process holds.
pub struct Folder {
    files: Arc<dyn Files>,
    path: PathBuf,
    checkpoints: PathBuf,
    segment_size_bytes: u64,
    state: Home,
    pub identity: Identity,
    arriving: Option<(CheckpointInfo, IncomingCheckpoint)>,
    _lock: Box<dyn Lock>,
}

/// What a node begins with.
pub struct Opened {
    pub store: kv::Store,
    pub checkpoints: Vec<CheckpointInfo>,
    pub log: Log,
    pub group: Option<RecoveredGroup>,
}

impl Disk {
    /// With `tables` for nodes that keep their state in them.
    pub fn new(segment_size_bytes: u64, tables: Option<DiskOptions>) -> Disk {
        let memory = MemFiles::with_faults();
        let files: Arc<dyn Files> = Arc::new(memory.clone());
        Disk { memory, files, folder: PathBuf::from("/data"), segment_size_bytes, tables }
    }

    /// Takes the folder for a process. An empty one gets its identity, drawn by `incarnation`.
    pub fn take(
        &self,
        name: &str,
        address: &str,
        incarnation: impl FnOnce() -> Incarnation,
    ) -> Result<Folder, StorageError> {
        let lock = lock_folder(&self.files, &self.folder)?;
        let (identity, is_new) = match Identity::load(&self.files, &self.folder)? {
            Some(identity) => (identity, false),
            None => {
                let (name, address) = (name.to_owned(), address.to_owned());
                (Identity { incarnation: incarnation(), name, address, cluster: None, boot: 0, removed: None }, true)
            }
        };
        let folder = Folder {
            files: self.files.clone(),
            path: self.folder.clone(),
            checkpoints: self.folder.join("checkpoints"),
            segment_size_bytes: self.segment_size_bytes,
            state: match self.tables {
                Some(options) => Home::Disk { files: self.files.clone(), folder: self.folder.join("state"), options },
                None => Home::Memory,
            },
            identity,
            arriving: None,
            _lock: lock,
        };
        if is_new {
            folder.store_identity()?;
        }
        Ok(folder)
    }
}

impl Folder {
    fn store_identity(&self) -> Result<(), StorageError> {
        self.identity.store(&self.files, &self.path)
    }

    /// Founds a cluster: its first checkpoint is on disk before the identity says that there is one.
    pub fn found(&mut self, cluster: ClusterId) -> Result<(), StorageError> {
        let Identity { name, address, incarnation, .. } = self.identity.clone();
        let store = node::bootstrap(Member { name, address, incarnation });
        self.write_checkpoint(FIRST_GROUP, store.applied(), &store.frozen())?;
        self.welcome(cluster, 1)
    }

    /// A cluster lets this folder in.
    pub fn welcome(&mut self, cluster: ClusterId, id: NodeId) -> Result<(), StorageError> {
        self.identity.cluster = Some((cluster, id));
        self.store_identity()
    }

    pub fn next_boot(&mut self) -> Result<u64, StorageError> {
        self.identity.boot += 1;
        self.store_identity()?;
        Ok(self.identity.boot)
    }

    pub fn remember_removal(&mut self, reason: &str) -> Result<(), StorageError> {
        self.identity.removed = Some(reason.to_owned());
        self.store_identity()
    }

    pub fn open_state(&self) -> Result<Opened, StorageError> {
        let tables = self.state.open()?;
        let durable = tables.as_ref().map(kv::Store::applied).unwrap_or_default();
        checkpoint::remove_leftovers(&self.files, &self.checkpoints, durable)?;
        let mut checkpoints = checkpoint::list(&self.files, &self.checkpoints, FIRST_GROUP)?;
        let store = match (tables, checkpoints.last()) {
            (Some(store), _) => store,
            (None, Some(newest)) => self.load(newest)?,
            (None, None) => kv::Store::new(self.state.engine()?),
        };
        if store.is_durable() {
            self.drop_checkpoints(FIRST_GROUP)?;
            checkpoints.clear();
        }
        let options = LogOptions {
            segment_size_bytes: self.segment_size_bytes,
            spare_segments: 1,
            copy_forward_beyond_segments: 3,
        };
        let (log, mut groups) = Log::open(self.files.clone(), &self.path.join("log"), options)?;
        Ok(Opened { store, checkpoints, log, group: groups.remove(&FIRST_GROUP) })
    }

    pub fn write_checkpoint(
        &self,
        group: GroupId,
        position: Position,
        frozen: &kv::Frozen,
    ) -> Result<CheckpointInfo, StorageError> {
        let mut writer = CheckpointWriter::create(&self.files, &self.checkpoints, group, position)?;
        frozen.write_to(&mut |bytes| writer.write(bytes))?;
        writer.finish()
    }

    pub fn read_chunk(&self, info: &CheckpointInfo, offset: u64, max_bytes: usize) -> Result<Bytes, StorageError> {
        checkpoint::read_chunk(&self.files, &self.checkpoints, info, offset, max_bytes)
    }

    pub fn begin_incoming(&mut self, from: NodeId, info: &CheckpointInfo) -> Result<u64, String> {
        self.arriving = None;
        let incoming = IncomingCheckpoint::resume(&self.files, &self.checkpoints, info, from).map_err(text)?;
        let received = incoming.received_bytes();
        self.arriving = Some((info.clone(), incoming));
        Ok(received)
    }

    pub fn store_chunk(&mut self, info: &CheckpointInfo, offset: u64, bytes: &[u8]) -> Result<u64, String> {
        let Some((_, incoming)) = self.arriving.as_mut().filter(|(arriving, _)| arriving == info) else {
            return Err("no such checkpoint is arriving".into());
        };
        if offset == incoming.received_bytes() {
            incoming.write(offset, bytes).map_err(text)?;
        }
        Ok(incoming.received_bytes())
    }

    pub fn finish_incoming(&mut self, info: &CheckpointInfo) -> Result<kv::Store, String> {
        let Some((_, incoming)) = self.arriving.take_if(|(arriving, _)| arriving == info) else {
            return Err("no such checkpoint is arriving".into());
        };
        incoming.finish().map_err(text)?;
        let store = self.load(info).map_err(text)?;
        if store.is_durable() {
            self.drop_checkpoints(info.group).map_err(text)?;
        }
        Ok(store)
    }

    pub fn drop_checkpoints(&self, group: GroupId) -> Result<(), StorageError> {
        checkpoint::keep_newest(&self.files, &self.checkpoints, group, 0)
    }

    fn load(&self, info: &CheckpointInfo) -> Result<kv::Store, StorageError> {
        let mut reader = CheckpointReader::open(&self.files, &self.checkpoints, info)?;
        kv::Store::load(self.state.engine()?, &mut || reader.next_block()).map_err(|error| match error {
            kv::LoadError::Source(error) | kv::LoadError::Storage(error) => error,
            kv::LoadError::Malformed(what) => {
                let file = self.checkpoints.display().to_string();
                StorageError::Damaged { file, offset: 0, what: what.to_string() }
            }
        })
    }
}

fn text(error: StorageError) -> String {
    error.to_string()
}
