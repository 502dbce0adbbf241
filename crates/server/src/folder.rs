//! The data folder: who this node is, its checkpoints and its log, held by one process at a time.
//!
//! ```text
//! FOLDER/lock           held while the process runs
//!        identity       incarnation, name, address, cluster and id
//!        name           the name alone, if the node gave it to itself
//!        state/         the state, in tables
//!        checkpoints/   or else the state at some position, the newest two; beside tables only while one is sent
//!        log/           everything since
//! ```
//!
//! Not handled: more than one group.

use crate::config::Engine;
use crate::handle;
use base::{FIRST_GROUP, GroupId, NodeId, Position};
use bytes::Bytes;
use kv::{Home, LoadError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::StorageError;
use storage::checkpoint::{self, CheckpointInfo, CheckpointReader, CheckpointWriter, IncomingCheckpoint};
use storage::engine::disk::DiskOptions;
use storage::files::{Files, Lock, MemFiles, RealFiles};
use storage::identity::{self, Identity, lock_folder};
use storage::log::{GroupWrite, Log, LogOptions, LogWrite, RecoveredGroup};

/// The folder of the disk engine.
const TABLES: &str = "state";

/// Of a checkpoint that is loaded, between two moments in which others may have the processor.
const PIECE_BYTES: usize = 16 * 1024;

pub struct Folder {
    files: Arc<dyn Files>,
    path: PathBuf,
    checkpoints: PathBuf,
    state: Home,
    identity: Mutex<Option<Identity>>,
    _lock: Box<dyn Lock>,
}

/// What a node begins with.
pub struct Opened {
    pub store: kv::Store,
    /// Oldest first.
    pub checkpoints: Vec<CheckpointInfo>,
    pub log: Log,
    pub group: Option<RecoveredGroup>,
}

impl Folder {
    /// Makes the folder if need be, and takes it for this process.
    pub fn open(path: &Path, in_memory: bool, engine: Engine) -> Result<Folder, StorageError> {
        let files: Arc<dyn Files> = if in_memory { Arc::new(MemFiles::new()) } else { Arc::new(RealFiles::new()) };
        let lock = lock_folder(&files, path)?;
        let identity = Identity::load(&files, path)?;
        let checkpoints = path.join("checkpoints");
        let state = match engine {
            Engine::Disk { memory_bytes } if !in_memory => {
                let options = DiskOptions::within(memory_bytes);
                Home::Disk { files: files.clone(), folder: path.join(TABLES), options }
            }
            Engine::Disk { .. } | Engine::Memory => Home::Memory,
        };
        Ok(Folder { files, path: path.to_path_buf(), checkpoints, state, identity: Mutex::new(identity), _lock: lock })
    }

    /// `None`: nothing was ever started on this folder.
    pub fn identity(&self) -> Option<Identity> {
        self.stored().clone()
    }

    /// Whether nothing was ever kept here.
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        let names = self.files.list(&self.path);
        let names = names
            .map_err(|source| StorageError::Io { what: format!("cannot list {}", self.path.display()), source })?;
        let tables = if names.iter().any(|name| name == TABLES) { self.has_tables()? } else { false };
        Ok(!tables && names.iter().all(|name| [identity::LOCK_FILE, TABLES].contains(&&name[..])))
    }

    /// Shows the node's name in a file of its own, and says what it is: what the identity says, or else the file, or
    /// else `drawn`. The file is there first, so a process that dies in between has told nobody another name.
    pub fn keep_name(&self, drawn: &str) -> Result<String, StorageError> {
        let shown = || identity::load_name(&self.files, &self.path);
        let (name, is_shown) = match self.identity() {
            Some(identity) => (identity.name.clone(), shown().is_ok_and(|shown| shown == Some(identity.name))),
            None => shown()?.map_or((drawn.to_string(), false), |name| (name, true)),
        };
        if !is_shown {
            identity::store_name(&self.files, &self.path, &name)?;
        }
        Ok(name)
    }

    /// Remembers durably who this node is.
    pub fn introduce(&self, me: &handle::Identity) -> Result<(), StorageError> {
        self.change(me, |_| {})
    }

    /// Counts one more start of the node, and says how many there were.
    pub fn next_boot(&self, me: &handle::Identity) -> Result<u64, StorageError> {
        let mut boot = 0;
        self.change(me, |identity| {
            identity.boot += 1;
            boot = identity.boot;
        })?;
        Ok(boot)
    }

    /// The node is no member any more.
    pub fn remember_removal(&self, me: &handle::Identity, reason: String) -> Result<(), StorageError> {
        self.change(me, |identity| identity.removed = Some(reason))
    }

    pub fn open_state(&self) -> Result<Opened, StorageError> {
        // A former process may have died between making a folder in it and syncing this.
        let synced = self.files.sync_folder(&self.path);
        synced.map_err(|source| StorageError::Io { what: format!("cannot sync {}", self.path.display()), source })?;
        let tables = self.state.open()?;
        let durable = tables.as_ref().map(kv::Store::applied).unwrap_or_default();
        checkpoint::remove_leftovers(&self.files, &self.checkpoints, durable)?;
        let mut checkpoints = checkpoint::list(&self.files, &self.checkpoints, FIRST_GROUP)?;
        let store = match (tables, checkpoints.last()) {
            (Some(store), _) => store,
            (None, Some(newest)) => self.load(newest, || ())?,
            (None, None) => kv::Store::new(self.state.engine()?),
        };
        if store.is_durable() {
            checkpoint::keep_newest(&self.files, &self.checkpoints, FIRST_GROUP, 0)?;
            checkpoints.clear();
        } else {
            self.refuse_tables()?;
        }
        let (mut log, mut groups) = Log::open(self.files.clone(), &self.path.join("log"), LogOptions::default())?;
        let mut group = groups.remove(&FIRST_GROUP);
        if group.is_none() && store.applied().index > 0 {
            // A cluster was founded here, and its log goes on from there.
            let start = store.applied();
            let reset = GroupWrite { group: FIRST_GROUP, reset: Some(start), ..GroupWrite::default() };
            log.append(&LogWrite { groups: vec![reset] })?;
            log.sync()?;
            group = Some(RecoveredGroup { start, ..RecoveredGroup::default() });
        }
        Ok(Opened { store, checkpoints, log, group })
    }

    /// Says between the pieces that others may go first.
    pub fn write_checkpoint(
        &self,
        group: GroupId,
        position: Position,
        frozen: &kv::Frozen,
        mut give_way: impl FnMut(),
    ) -> Result<CheckpointInfo, StorageError> {
        let mut writer = CheckpointWriter::create(&self.files, &self.checkpoints, group, position)?;
        frozen.write_to(&mut |bytes| {
            give_way();
            writer.write(bytes)
        })?;
        writer.finish()
    }

    /// Those that are whole.
    pub fn drop_checkpoints(&self, group: GroupId) -> Result<(), StorageError> {
        checkpoint::keep_newest(&self.files, &self.checkpoints, group, 0)
    }

    /// Where the state of a new cluster is to go.
    pub fn state(&self) -> &Home {
        &self.state
    }

    /// A node that keeps its state in memory knows nothing of what is in tables.
    fn refuse_tables(&self) -> Result<(), StorageError> {
        if !self.has_tables()? {
            return Ok(());
        }
        Err(StorageError::Io {
            what: format!("the state of this node is in {}", self.path.join(TABLES).display()),
            source: std::io::Error::other(
                "start it with the disk engine, as before; to change over, let it join again with an empty folder",
            ),
        })
    }

    fn has_tables(&self) -> Result<bool, StorageError> {
        let tables = self.path.join(TABLES);
        let look = || Ok(self.files.exists(&tables)? && !self.files.list(&tables)?.is_empty());
        look().map_err(|source| StorageError::Io { what: format!("cannot list {}", tables.display()), source })
    }

    pub fn read_chunk(
        &self,
        info: &CheckpointInfo,
        offset: u64,
        max_bytes: usize,
    ) -> Result<bytes::Bytes, StorageError> {
        checkpoint::read_chunk(&self.files, &self.checkpoints, info, offset, max_bytes)
    }

    /// Says between the pieces that others may go first.
    fn load(&self, info: &CheckpointInfo, mut give_way: impl FnMut()) -> Result<kv::Store, StorageError> {
        let mut reader = CheckpointReader::open(&self.files, &self.checkpoints, info)?;
        let mut block = Bytes::new();
        let mut next_piece = || {
            give_way();
            if block.is_empty() {
                let Some(next) = reader.next_block()? else { return Ok(None) };
                block = next;
            }
            Ok(Some(block.split_to(block.len().min(PIECE_BYTES))))
        };
        kv::Store::load(self.state.engine()?, &mut next_piece).map_err(|error| match error {
            LoadError::Source(error) | LoadError::Storage(error) => error,
            LoadError::Malformed(what) => StorageError::Damaged {
                file: format!("the checkpoint at index {} in {}", info.position.index, self.checkpoints.display()),
                offset: 0,
                what: what.to_string(),
            },
        })
    }

    /// Durable when it returns.
    fn change(&self, me: &handle::Identity, change: impl FnOnce(&mut Identity)) -> Result<(), StorageError> {
        let handle::Identity { name, address, incarnation, cluster, url: _ } = me.clone();
        let mut stored = self.stored();
        let (boot, removed) = stored.as_ref().map_or((0, None), |stored| (stored.boot, stored.removed.clone()));
        let mut identity = Identity { incarnation, name, address, cluster, boot, removed };
        change(&mut identity);
        identity.store(&self.files, &self.path)?;
        *stored = Some(identity);
        Ok(())
    }

    fn stored(&self) -> MutexGuard<'_, Option<Identity>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The checkpoints that are arriving, by group.
#[derive(Default)]
pub struct Arriving {
    groups: BTreeMap<GroupId, (CheckpointInfo, IncomingCheckpoint)>,
}

impl Arriving {
    /// Starts, or goes on where the same checkpoint from the same node broke off. Says how many bytes are here.
    pub fn begin(&mut self, folder: &Folder, from: NodeId, info: &CheckpointInfo) -> Result<u64, StorageError> {
        self.groups.remove(&info.group);
        let incoming = IncomingCheckpoint::resume(&folder.files, &folder.checkpoints, info, from)?;
        let received = incoming.received_bytes();
        self.groups.insert(info.group, (info.clone(), incoming));
        Ok(received)
    }

    /// A chunk that does not follow is left out; the answer says which one would.
    pub fn store(&mut self, info: &CheckpointInfo, offset: u64, bytes: &[u8]) -> Result<u64, String> {
        let (_, incoming) = self.expected(info)?;
        if offset == incoming.received_bytes() {
            incoming.write(offset, bytes).map_err(|error| error.to_string())?;
        }
        Ok(incoming.received_bytes())
    }

    /// Verifies it, makes it durable, and loads it, and says between the pieces that others may go first.
    pub fn finish(
        &mut self,
        folder: &Folder,
        info: &CheckpointInfo,
        give_way: impl FnMut(),
    ) -> Result<kv::Store, String> {
        self.expected(info)?;
        let Some((_, incoming)) = self.groups.remove(&info.group) else {
            return Err(format!("no checkpoint of group {} is arriving", info.group));
        };
        let installed = incoming.finish().and_then(|()| folder.load(info, give_way));
        let store = installed.map_err(|error| error.to_string())?;
        if store.is_durable()
            && let Err(error) = folder.drop_checkpoints(info.group)
        {
            tracing::warn!("a checkpoint that nobody needs any more stays until the next start: {error}");
        }
        Ok(store)
    }

    fn expected(&mut self, info: &CheckpointInfo) -> Result<&mut (CheckpointInfo, IncomingCheckpoint), String> {
        let arriving = self.groups.get_mut(&info.group).filter(|(expected, _)| expected == info);
        arriving.ok_or_else(|| format!("the checkpoint at index {} is not arriving", info.position.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Incarnation;
    use std::fs;

    fn open(path: &Path) -> Folder {
        Folder::open(path, false, Engine::default()).unwrap()
    }

    /// Whatever happens between the two files, and to the one that only shows it, a node has one name.
    #[test]
    fn a_node_keeps_the_name_that_it_was_known_by() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("name");
        let keep = |drawn| open(temporary.path()).keep_name(drawn).unwrap();
        // The process died before it had an identity.
        assert_eq!([keep("1111111"), keep("2222222")], ["1111111", "1111111"]);

        let me = handle::Identity {
            name: "1111111".into(),
            address: "localhost:1".into(),
            url: String::new(),
            incarnation: Incarnation(1),
            cluster: None,
        };
        open(temporary.path()).introduce(&me).unwrap();
        for spoilt in [Some(&b"other"[..]), Some(b""), None] {
            match spoilt {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            assert_eq!(keep("3333333"), "1111111");
            assert_eq!(fs::read(&file).unwrap(), b"1111111");
        }
    }

    #[test]
    fn a_name_that_was_put_there_is_taken() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("name"), "mine\n").unwrap();
        assert_eq!(open(temporary.path()).keep_name("1111111").unwrap(), "mine");
        fs::write(temporary.path().join("name"), "").unwrap();
        open(temporary.path()).keep_name("1111111").unwrap_err();
    }
}
