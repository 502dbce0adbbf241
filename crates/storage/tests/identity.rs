//! The identity file and the folder's lock.

use base::{ClusterId, Incarnation};
use std::path::Path;
use std::sync::Arc;
use storage::StorageError;
use storage::files::{Files, MemFiles, RealFiles};
use storage::identity::{Identity, load_name, lock_folder, store_name};

fn folder() -> &'static Path {
    Path::new("/data")
}

fn identity() -> Identity {
    Identity {
        incarnation: Incarnation(0x0123_4567_89ab_cdef),
        name: "node1".to_string(),
        address: "127.0.0.1:12001".to_string(),
        cluster: Some((ClusterId(77), 3)),
        boot: 12,
        removed: None,
    }
}

fn disk() -> (MemFiles, Arc<dyn Files>) {
    let disk = MemFiles::with_faults();
    (disk.clone(), Arc::new(disk))
}

#[test]
fn what_is_stored_is_loaded() {
    let (_, files) = disk();
    assert_eq!(Identity::load(&files, folder()).unwrap(), None);
    let removed = Some("removed by an operator".to_string());
    for identity in [identity(), Identity { cluster: None, removed, name: String::new(), ..identity() }] {
        identity.store(&files, folder()).unwrap();
        assert_eq!(Identity::load(&files, folder()).unwrap(), Some(identity));
    }
}

#[test]
fn every_flipped_bit_is_damage() {
    let (disk, files) = disk();
    identity().store(&files, folder()).unwrap();
    let path = folder().join("identity");
    for offset in 0..disk.read_all(&path).unwrap().len() as u64 {
        for bit in 0..8 {
            disk.flip(&path, offset, 1 << bit).unwrap();
            let outcome = Identity::load(&files, folder());
            assert!(matches!(outcome, Err(StorageError::Damaged { .. })), "byte {offset}, bit {bit}: {outcome:?}");
            disk.flip(&path, offset, 1 << bit).unwrap();
        }
    }
    assert_eq!(Identity::load(&files, folder()).unwrap(), Some(identity()));
}

#[test]
fn cut_or_lengthened_by_any_byte_is_damage() {
    let (disk, files) = disk();
    identity().store(&files, folder()).unwrap();
    let path = folder().join("identity");
    let whole = disk.read_all(&path).unwrap();
    for length in 0..whole.len() {
        disk.write_all(&path, &whole[..length]).unwrap();
        let outcome = Identity::load(&files, folder());
        assert!(matches!(outcome, Err(StorageError::Damaged { .. })), "cut to {length}: {outcome:?}");
    }
    for more in [&b"\0"[..], b"x", &whole, &[0; 4096]] {
        disk.write_all(&path, &[&whole, more].concat()).unwrap();
        assert!(matches!(Identity::load(&files, folder()), Err(StorageError::Damaged { .. })));
    }
}

#[test]
fn another_format_version_is_said_to_be_one() {
    let (disk, files) = disk();
    let mut bytes = b"QRTIDENT\x07\0\0\0".to_vec();
    bytes.extend_from_slice(&base::checksum(&bytes).to_le_bytes());
    bytes.extend_from_slice(b"what that version keeps here");
    disk.write_all(&folder().join("identity"), &bytes).unwrap();
    let error = Identity::load(&files, folder()).unwrap_err();
    assert!(matches!(error, StorageError::UnknownFormat { found: 7, known: 1, .. }), "{error}");
}

/// The boot counter must never go back to one that was used, and an identity that was stored must be there.
#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_one_whole() {
    let old = identity();
    let new = Identity { boot: 13, address: "127.0.0.1:9".repeat(100), ..identity() };
    let (mut saw_old, mut saw_new) = (false, false);
    for seed in 0..200 {
        for step in 1..=4 {
            let (disk, files) = disk();
            old.store(&files, folder()).unwrap();
            match step {
                1 | 2 => disk.fail_write_after(step),
                _ => disk.fail_sync_after(step - 2),
            }
            new.store(&files, folder()).unwrap_err();
            disk.crash(&mut base::rng::Rng::new(seed));
            let found = Identity::load(&files, folder()).unwrap().unwrap();
            assert!(found == old || found == new, "step {step}, seed {seed}: {found:?}");
            saw_old |= found == old;
            saw_new |= found == new;
            new.store(&files, folder()).unwrap();
            disk.crash_keeping(&mut |_, _| false);
            assert_eq!(Identity::load(&files, folder()).unwrap(), Some(new.clone()));
        }
    }
    assert!(saw_old && saw_new);
}

/// The process died between the rename and the sync of the folder; then, later, the power fails.
#[test]
fn what_was_loaded_is_not_taken_back_by_a_crash() {
    let (disk, files) = disk();
    identity().store(&files, folder()).unwrap();
    let new = Identity { boot: 13, ..identity() };
    disk.fail_sync_after(2);
    new.store(&files, folder()).unwrap_err();
    assert_eq!(Identity::load(&files, folder()).unwrap(), Some(new.clone()));
    disk.crash_keeping(&mut |_, _| false);
    assert_eq!(Identity::load(&files, folder()).unwrap(), Some(new));
}

#[test]
fn a_full_disk_is_an_error_and_the_old_one_stays() {
    let (disk, files) = disk();
    identity().store(&files, folder()).unwrap();
    disk.set_capacity(Some(disk.total_bytes() + 20));
    let error = Identity { boot: 13, ..identity() }.store(&files, folder()).unwrap_err();
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
    assert_eq!(Identity::load(&files, folder()).unwrap(), Some(identity()));
    assert_eq!(files.list(folder()).unwrap(), ["identity"]);
}

#[test]
fn a_name_is_shown_as_text() {
    let (disk, files) = disk();
    assert_eq!(load_name(&files, folder()).unwrap(), None);
    store_name(&files, folder(), "2f0a9c1").unwrap();
    assert_eq!(disk.read_all(&folder().join("name")).unwrap(), b"2f0a9c1");
    assert_eq!(load_name(&files, folder()).unwrap().as_deref(), Some("2f0a9c1"));
    disk.write_all(&folder().join("name"), b"my own\n").unwrap();
    assert_eq!(load_name(&files, folder()).unwrap().as_deref(), Some("my own"));
}

#[test]
fn what_is_no_name_is_refused_in_words() {
    let (disk, files) = disk();
    for wrong in [&b""[..], b"\n", b"two\nlines", b"\xff", b"\0", &[b'a'; 256], &[b'a'; 1 << 20]] {
        disk.write_all(&folder().join("name"), wrong).unwrap();
        let error = load_name(&files, folder()).unwrap_err().to_string();
        assert!(error.contains("/data/name: it must hold the node's name"), "{error}");
    }
}

#[test]
fn a_second_process_is_refused_in_one_line_that_names_the_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let real = (temporary.path().join("data"), Arc::new(RealFiles) as Arc<dyn Files>);
    for (folder, files) in [(folder().to_path_buf(), disk().1), real] {
        let lock = lock_folder(&files, &folder).unwrap();
        let error = lock_folder(&files, &folder).err().unwrap();
        assert!(matches!(error, StorageError::InUse { .. }));
        let line = error.to_string();
        assert!(line.contains(&folder.display().to_string()) && !line.contains('\n'), "{line}");
        drop(lock);
        lock_folder(&files, &folder).unwrap();
    }
}

#[test]
fn on_a_real_disk_too() {
    let temporary = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let folder = temporary.path().join("a/b");
    identity().store(&files, &folder).unwrap();
    identity().store(&files, &folder).unwrap();
    assert_eq!(Identity::load(&files, &folder).unwrap(), Some(identity()));
    assert_eq!(files.list(&folder).unwrap(), ["identity"]);
}
