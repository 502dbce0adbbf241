//! Founding a new cluster on the state in a backup.
//!
//! The keys are as they were, with their revisions, leases and the past that was kept; new revisions go on from there. All
//! else is new: the cluster, and its only member. So nodes and clients of the old cluster, which may still run, can't be
//! mistaken for this one's. The sessions of the old nodes are gone, and with them the protection of requests that were
//! under way; what was written under an idempotency key is still known. A lease has its whole time again, as after every
//! change of the leader.
//!
//! Not handled: restoring to a folder with something in it, and giving the old cluster's other members their state; they
//! start with empty folders and join.

use crate::address::Address;
#[cfg(test)]
use crate::backup;
use crate::config::Engine;
use crate::folder::Folder;
use crate::handle::Identity;
use crate::start::{StartError, check_name, random};
use base::{ClusterId, Incarnation, Position};
use kv::{Home, LoadError, Store};
use node::membership::{Configuration, Member};
use std::path::Path;
use std::sync::Arc;
use storage::StorageError;
use storage::backup::BackupReader;
use storage::files::{Files, RealFiles};

/// What was restored, for the person who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The old cluster.
    pub from: ClusterId,
    /// The new one.
    pub cluster: ClusterId,
    pub revision: u64,
    pub keys: u64,
}

/// Checks all of the file, then makes the folder, which must be empty or not there, that of the only member of a new
/// cluster: a node of that name, which peers reach at `address`. Blocks.
pub fn restore(file: &Path, folder: &Path, name: &str, address: &str) -> Result<Restored, StartError> {
    check_name(name)?;
    let reachable = Address::parse(address).map_err(StartError)?;
    if reachable.port() == 0 || reachable.is_on_all_interfaces() {
        return Err(StartError(format!(
            "other nodes can't reach {address}: give the address that they shall use, with its port"
        )));
    }
    let files: Arc<dyn Files> = Arc::new(RealFiles::new());
    let in_words = |error: StorageError| StartError(error.to_string());
    // All of it once, so that nothing is begun for one that is not whole.
    let mut whole = BackupReader::open(&files, file).map_err(|error| refused(file, error))?;
    while whole.next_block().map_err(|error| refused(file, error))?.is_some() {}

    let kept = Folder::open(folder, false, Engine::default()).map_err(in_words)?;
    if !kept.is_empty().map_err(in_words)? {
        return Err(StartError(format!(
            "the data folder {} is not empty; restore to an empty one, nothing was changed",
            folder.display()
        )));
    }
    let loaded = load(&files, file, kept.state());
    if loaded.is_err() {
        // Clears away what came of it.
        let _ = kept.state().open();
    }
    let (from, mut store) = loaded?;
    let incarnation = Incarnation(random()?);
    let founder = Member { name: name.to_string(), address: address.to_string(), incarnation };
    refound(&mut store, founder);
    let cluster = ClusterId(u128::from(random()?) << 64 | u128::from(random()?));
    store.settle().map_err(in_words)?;
    // The identity comes last: with it, the folder is that of a member.
    let me = Identity {
        name: name.to_string(),
        address: address.to_string(),
        url: String::new(),
        incarnation,
        cluster: Some((cluster, FOUNDER)),
    };
    kept.introduce(&me).map_err(in_words)?;
    Ok(Restored { from, cluster, revision: store.revision(), keys: store.len() })
}

fn load(files: &Arc<dyn Files>, file: &Path, home: &Home) -> Result<(ClusterId, Store), StartError> {
    let name = file.display();
    let refused = |error| refused(file, error);
    let mut reader = BackupReader::open(files, file).map_err(refused)?;
    let head = *reader.head();
    let engine = home.engine().map_err(refused)?;
    let store = Store::load(engine, &mut || reader.next_block()).map_err(|error| match error {
        LoadError::Source(error) => refused(error),
        LoadError::Storage(error) => StartError(error.to_string()),
        LoadError::Malformed(what) => {
            StartError(format!("the backup {name} can't be read: {what}; nothing was restored"))
        }
    })?;
    if (store.applied(), store.revision()) != (head.position, head.revision) {
        return Err(StartError(format!("the backup {name} holds another state than its head says")));
    }
    Ok((head.cluster, store))
}

fn refused(file: &Path, error: StorageError) -> StartError {
    match error {
        StorageError::Damaged { offset, what, .. } => StartError(format!(
            "the backup {} is damaged at offset {offset}: {what}; nothing was restored: take another backup",
            file.display()
        )),
        other => StartError(other.to_string()),
    }
}

/// All members and their sessions go, and this one comes, in two steps at positions where no entry will ever be.
fn refound(store: &mut Store, founder: Member) {
    let Position { index, term } = store.applied();
    let configuration = Configuration::bootstrap(founder).encode();
    store.set_configuration(Position { index: index + 1, term }, configuration.clone(), &[]);
    store.set_configuration(Position { index: index + 2, term }, configuration, &[FOUNDER]);
}

/// The id of a cluster's first member.
const FOUNDER: base::NodeId = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kv::{Action, Command, Operation, RequestId, SessionId};
    use storage::files::{MemFiles, OpenMode};

    const OLD: ClusterId = ClusterId(77);

    /// Of a cluster of two, with keys, a lease, a past, and a session of node 1 that has come far.
    fn old_store() -> Store {
        let mut store = Store::in_memory();
        let member =
            |name: &str| Member { name: name.into(), address: format!("{name}:1"), incarnation: Incarnation(9) };
        let mut configuration = Configuration::bootstrap(member("a"));
        configuration.members.insert(2, member("b"));
        (configuration.voters.voters, configuration.next_id) = (vec![1, 2], 3);
        store.set_configuration(Position { index: 1, term: 3 }, configuration.encode(), &[1, 2]);
        let session = SessionId { node: 1, boot: 40 };
        store.apply(Position { index: 2, term: 4 }, &Command::Register { session }).unwrap();
        let put = |key: &'static str, value: &'static str| Operation::Put { key: key.into(), value: value.into() };
        let writes = [
            vec![put("k", "1"), put("l", "1")],
            vec![put("k", "2")],
            vec![Operation::Delete { key: "l".into() }],
            vec![put("k", "3")],
        ];
        for (number, operations) in (1..).zip(writes) {
            let request = RequestId { session, number, low_water: 1 };
            let write = Command::Write { request, accepted_ms: 0, idempotency: None, operations };
            store.apply(Position { index: 2 + number, term: 4 }, &write).unwrap();
        }
        for (number, action) in
            [(5, Action::Compact { revision: 2 }), (6, Action::Grant { lease: 12, ttl_seconds: 60 })]
        {
            let request = Some(RequestId { session, number, low_water: 1 });
            let act = Command::Act { request, accepted_ms: 0, idempotency: None, action };
            store.apply(Position { index: 2 + number, term: 4 }, &act).unwrap();
        }
        store
    }

    fn write(folder: &Path, bytes: &[u8]) -> std::path::PathBuf {
        let path = folder.join("file.backup");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_is_restored_is_a_new_cluster_with_the_old_state() {
        let temporary = tempfile::tempdir().unwrap();
        let old = old_store();
        let file = write(temporary.path(), &backup::tests::file(&old.frozen(), OLD));
        let folder = temporary.path().join("data");
        let restored = restore(&file, &folder, "new", "localhost:7").unwrap();
        assert_eq!((restored.from, restored.revision, restored.keys), (OLD, 4, 1));
        assert_ne!(restored.cluster, OLD);

        let folder = Folder::open(&folder, false, Engine::default()).unwrap();
        let identity = folder.identity().unwrap();
        assert_eq!((identity.name.as_str(), identity.address.as_str()), ("new", "localhost:7"));
        assert_eq!((identity.cluster, identity.boot), (Some((restored.cluster, 1)), 0));
        let store = folder.open_state().unwrap().store;
        let configuration = Configuration::decode(store.configuration().clone()).unwrap();
        let founder = Member { name: "new".into(), address: "localhost:7".into(), incarnation: identity.incarnation };
        assert_eq!(configuration, Configuration::bootstrap(founder));
        // A session of node 1 would refuse the new node 1, which boots for the first time.
        assert_eq!([store.session(1), store.session(2)], [None, None]);
        let (view, before) = (store.view(), old.view());
        let rows = |view: &kv::View| view.range(b"", None).map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(rows(&view), rows(&before));
        assert_eq!(view.at(3).unwrap().get(b"k").unwrap().unwrap().value, "2");
        assert!(view.at(1).is_err());
        assert_eq!(view.lease(12).unwrap(), before.lease(12).unwrap());
        assert!(view.lease(12).unwrap().is_some());
    }

    #[test]
    fn only_a_whole_backup_is_taken_and_only_into_an_empty_folder() {
        let temporary = tempfile::tempdir().unwrap();
        let bytes = backup::tests::file(&old_store().frozen(), OLD);
        let folder = temporary.path().join("data");
        let error = |bytes: &[u8], name: &str, address: &str| {
            let file = write(temporary.path(), bytes);
            restore(&file, &folder, name, address).unwrap_err().to_string()
        };
        assert!(error(&bytes[..bytes.len() - 1], "a", "localhost:7").contains("cut short"));
        assert!(error(b"", "a", "localhost:7").contains("damaged at offset 0"));
        assert!(error(&bytes, "", "localhost:7").contains("id"));
        for address in [":7", "localhost:0", "localhost", "0.0.0.0:7"] {
            error(&bytes, "a", address);
        }
        assert!(!folder.exists(), "nothing was begun");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("mine"), "").unwrap();
        assert!(error(&bytes, "a", "localhost:7").contains("not empty"));
        std::fs::remove_file(folder.join("mine")).unwrap();
        restore(&write(temporary.path(), &bytes), &folder, "a", "localhost:7").unwrap();
        assert!(error(&bytes, "a", "localhost:7").contains("not empty"));
    }

    #[test]
    fn every_byte_of_a_backup_is_checked() {
        let bytes = backup::tests::file(&old_store().frozen(), OLD);
        let path = Path::new("/backup");
        let load = |bytes: &[u8]| {
            let files: Arc<dyn Files> = Arc::new(MemFiles::new());
            files.open(path, OpenMode::Create).unwrap().write_at(0, bytes).unwrap();
            load(&files, path, &Home::Memory).map(|(_, store)| store.state_hash())
        };
        assert_eq!(load(&bytes), Ok(old_store().state_hash()));
        for at in 0..bytes.len() {
            for mask in [1, 0x80, 0xff] {
                let mut flipped = bytes.clone();
                flipped[at] ^= mask;
                assert!(load(&flipped).is_err(), "byte {at} changed by {mask:#x}");
            }
            assert!(load(&bytes[..at]).is_err(), "cut after {at}");
        }
        load(&[&bytes[..], b"x"].concat()).unwrap_err();
    }

    #[test]
    fn a_head_that_belongs_to_another_state_is_refused() {
        let frozen = old_store().frozen();
        let head = storage::backup::BackupHead { cluster: OLD, position: frozen.applied(), revision: 3 };
        let (mut writer, first) = storage::backup::BackupWriter::begin(&head);
        let mut bytes: Vec<Bytes> = vec![first];
        frozen
            .write_to(&mut |block| {
                bytes.push(writer.block(block));
                Ok::<(), StorageError>(())
            })
            .unwrap();
        bytes.push(writer.end());
        let files: Arc<dyn Files> = Arc::new(MemFiles::new());
        let path = Path::new("/backup");
        files.open(path, OpenMode::Create).unwrap().write_at(0, &bytes.concat()).unwrap();
        assert!(load(&files, path, &Home::Memory).map(|_| ()).unwrap_err().to_string().contains("another state"));
    }
}
