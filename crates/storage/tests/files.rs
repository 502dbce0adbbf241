//! The two file systems do the same, and the one in memory fails in the ways that it says.

use base::rng::Rng;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use storage::files::{Files, MemFiles, NAME, OpenMode, RealFiles, SECTOR_BYTES};

const SECTOR: usize = SECTOR_BYTES as usize;

fn path(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

/// With the folder `/d`.
fn disk() -> MemFiles {
    let disk = MemFiles::with_faults();
    disk.create_folder(Path::new("/d")).unwrap();
    disk
}

/// Bytes that differ from sector to sector, and are nowhere zero.
fn filled(with: u8, sectors: usize) -> Vec<u8> {
    (0..sectors).flat_map(|sector| vec![with + sector as u8; SECTOR]).collect()
}

/// A file that is synced in content and name.
fn put(disk: &MemFiles, name: &str, bytes: &[u8]) {
    disk.write_all(&path(name), bytes).unwrap();
}

fn lose_all(disk: &MemFiles) {
    disk.crash_keeping(&mut |_, _| false);
}

fn on_both(check: impl Fn(&dyn Files, &Path)) {
    let temporary = tempfile::tempdir().unwrap();
    check(&RealFiles, &temporary.path().join("x/y"));
    check(&MemFiles::new(), Path::new("x/y"));
    check(&MemFiles::with_faults(), Path::new("/x/y"));
}

#[test]
fn both_read_what_was_written() {
    on_both(|files, folder| {
        files.create_folder(folder).unwrap();
        files.create_folder(folder).unwrap();
        let name = folder.join("f");
        assert_eq!(files.open(&name, OpenMode::Read).err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(files.open(&name, OpenMode::Write).err().unwrap().kind(), ErrorKind::NotFound);
        let file = files.open(&name, OpenMode::Create).unwrap();
        file.write_at(5000, b"tail").unwrap();
        file.write_at(0, b"head").unwrap();
        assert_eq!(file.length().unwrap(), 5004);
        let mut buffer = [1; 8];
        assert_eq!(file.read_at(5002, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"il");
        assert_eq!(file.read_at(2, &mut buffer).unwrap(), 8);
        assert_eq!(&buffer, b"ad\0\0\0\0\0\0");
        assert_eq!(file.read_at(5004, &mut buffer).unwrap(), 0);
        assert_eq!(file.read_at(9999, &mut buffer).unwrap(), 0);
        file.set_length(2).unwrap();
        file.set_length(6).unwrap();
        file.sync().unwrap();
        let again = files.open(&name, OpenMode::Create).unwrap();
        assert_eq!(again.read_at(0, &mut buffer).unwrap(), 6);
        assert_eq!(&buffer[..6], b"he\0\0\0\0");
        let read_only = files.open(&name, OpenMode::Read).unwrap();
        assert!(read_only.write_at(0, b"x").is_err());
        assert!(read_only.set_length(0).is_err());
    });
}

#[test]
fn both_list_rename_and_remove() {
    on_both(|files, folder| {
        assert_eq!(files.list(folder).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(files.open(&folder.join("a"), OpenMode::Create).err().unwrap().kind(), ErrorKind::NotFound);
        files.create_folder(&folder.join("sub")).unwrap();
        for name in ["c", "a", "b"] {
            files.open(&folder.join(name), OpenMode::Create).unwrap().write_at(0, name.as_bytes()).unwrap();
        }
        assert_eq!(files.list(folder).unwrap(), ["a", "b", "c", "sub"]);
        let open = files.open(&folder.join("b"), OpenMode::Read).unwrap();
        files.rename(&folder.join("a"), &folder.join("b")).unwrap();
        files.remove(&folder.join("c")).unwrap();
        files.sync_folder(folder).unwrap();
        assert_eq!(files.list(folder).unwrap(), ["b", "sub"]);
        assert!(files.exists(&folder.join("b")).unwrap() && files.exists(folder).unwrap());
        assert!(!files.exists(&folder.join("a")).unwrap());
        let mut byte = [0];
        files.open(&folder.join("b"), OpenMode::Read).unwrap().read_at(0, &mut byte).unwrap();
        assert_eq!(&byte, b"a");
        open.read_at(0, &mut byte).unwrap();
        assert_eq!(&byte, b"b", "an open file outlives its name");
        for missing in [files.remove(&folder.join("a")), files.rename(&folder.join("a"), &folder.join("z"))] {
            assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        }
    });
}

#[test]
fn both_lock_once() {
    on_both(|files, folder| {
        files.create_folder(folder).unwrap();
        let lock = files.lock(&folder.join("lock")).unwrap();
        assert_eq!(files.lock(&folder.join("lock")).err().unwrap().kind(), ErrorKind::WouldBlock);
        files.lock(&folder.join("other")).unwrap();
        drop(lock);
        files.lock(&folder.join("lock")).unwrap();
    });
}

#[cfg(unix)]
#[test]
fn real_folders_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("data/log");
    RealFiles.create_folder(&folder).unwrap();
    for folder in [folder.as_path(), folder.parent().unwrap()] {
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

/// Random writes, changes of length and reads against a plain vector.
#[test]
fn the_one_in_memory_behaves_as_a_vector_does() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let disk = if seed % 2 == 0 { MemFiles::new() } else { MemFiles::with_faults() };
        let file = disk.open(Path::new("f"), OpenMode::Create).unwrap();
        let mut model: Vec<u8> = Vec::new();
        for _ in 0..200 {
            let offset = rng.below(20_000) as usize;
            match rng.below(8) {
                0 => {
                    file.set_length(offset as u64).unwrap();
                    model.resize(offset, 0);
                }
                1 => file.sync().unwrap(),
                2..5 => {
                    let byte = if rng.chance(300) { 0 } else { rng.next_u64() as u8 };
                    let bytes = vec![byte; rng.between(1, 9000) as usize];
                    file.write_at(offset as u64, &bytes).unwrap();
                    model.resize(model.len().max(offset + bytes.len()), 0);
                    model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
                _ => {
                    let mut buffer = vec![7; rng.below(9000) as usize];
                    let count = file.read_at(offset as u64, &mut buffer).unwrap();
                    let start = offset.min(model.len());
                    assert_eq!(buffer[..count], model[start..(start + buffer.len()).min(model.len())]);
                }
            }
            assert_eq!(file.length().unwrap(), model.len() as u64);
        }
        assert_eq!(disk.read_all(Path::new("f")).unwrap(), model);
    }
}

/// Every subset of the unsynced sectors can be what a crash leaves, and nothing else can.
#[test]
fn a_crash_keeps_or_loses_each_unsynced_sector() {
    let disk = disk();
    put(&disk, "f", &filled(1, 3));
    let file = disk.open(&path("f"), OpenMode::Write).unwrap();
    // The last third of sector 1 up to the middle of sector 4: two are overwritten in part or whole, two are new.
    let (start, end) = (SECTOR + 340, 4 * SECTOR + 256);
    file.write_at(start as u64, &vec![99; end - start]).unwrap();
    let new = disk.read_all(&path("f")).unwrap();
    let unsynced = disk.unsynced_sectors();
    assert_eq!(unsynced, [1, 2, 3, 4].map(|sector| (path("f"), sector)));
    let mut seen = BTreeSet::new();
    for subset in 0..16u64 {
        let kept = |sector: usize| (1..5).contains(&sector) && subset & (1 << (sector - 1)) != 0;
        let fork = disk.fork();
        fork.crash_keeping(&mut |path, sector| {
            assert!(unsynced.contains(&(path.to_path_buf(), sector)));
            kept(sector as usize)
        });
        let mut expected = filled(1, 3);
        let length = if kept(4) {
            end
        } else if kept(3) {
            4 * SECTOR
        } else {
            3 * SECTOR
        };
        expected.resize(length, 0);
        for sector in (1..5).filter(|&sector| kept(sector)) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(length);
            expected[range.clone()].copy_from_slice(&new[range]);
        }
        let found = fork.read_all(&path("f")).unwrap();
        assert_eq!(found, expected, "subset {subset:04b}");
        assert_eq!(fork.unsynced_sectors(), []);
        fork.crash_keeping(&mut |_, _| panic!("all is decided"));
        assert_eq!(fork.read_all(&path("f")).unwrap(), expected, "what a crash left stays");
        seen.insert(found);
    }
    assert_eq!(seen.len(), 16);
    assert_eq!(disk.read_all(&path("f")).unwrap(), new, "a fork is a disk of its own");
    file.sync().unwrap();
    lose_all(&disk);
    assert_eq!(disk.read_all(&path("f")).unwrap(), new);
}

#[test]
fn a_crash_chosen_at_random_reaches_every_subset_and_repeats_by_its_seed() {
    let disk = disk();
    put(&disk, "f", &filled(1, 3));
    disk.open(&path("f"), OpenMode::Write).unwrap().write_at(0, &filled(50, 3)).unwrap();
    let crashed = |seed| {
        let fork = disk.fork();
        fork.crash(&mut Rng::new(seed));
        fork.digest()
    };
    let states: BTreeSet<u64> = (0..200).map(crashed).collect();
    assert_eq!(states.len(), 8);
    assert_eq!(crashed(7), crashed(7));
}

#[test]
fn a_length_that_was_not_synced_may_go_back() {
    let disk = disk();
    put(&disk, "f", &filled(1, 4));
    disk.open(&path("f"), OpenMode::Write).unwrap().set_length(SECTOR_BYTES + 100).unwrap();
    let lengths: BTreeSet<usize> = (0..8u64)
        .map(|subset| {
            let fork = disk.fork();
            assert_eq!(fork.unsynced_sectors().len(), 3);
            fork.crash_keeping(&mut |_, sector| subset & (1 << (sector - 1)) != 0);
            fork.read_all(&path("f")).unwrap().len()
        })
        .collect();
    assert_eq!(lengths, BTreeSet::from([SECTOR + 100, 2 * SECTOR, 3 * SECTOR, 4 * SECTOR]));
    let fork = disk.fork();
    lose_all(&fork);
    assert_eq!(fork.read_all(&path("f")).unwrap(), filled(1, 4));

    put(&disk, "g", b"");
    let file = disk.open(&path("g"), OpenMode::Write).unwrap();
    file.set_length(100_000).unwrap();
    let fork = disk.fork();
    lose_all(&fork);
    assert_eq!(fork.read_all(&path("g")).unwrap(), b"");
    disk.crash_keeping(&mut |_, _| true);
    assert_eq!(disk.read_all(&path("g")).unwrap(), vec![0; 100_000]);
}

/// Cut, then grown again over what was there: the old bytes may come back, and nothing else.
#[test]
fn a_file_cut_and_written_again_goes_back_to_what_was_synced() {
    let disk = disk();
    put(&disk, "f", &filled(1, 3));
    let file = disk.open(&path("f"), OpenMode::Write).unwrap();
    file.set_length(10).unwrap();
    file.write_at(600, &[77; 400]).unwrap();
    lose_all(&disk);
    assert_eq!(disk.read_all(&path("f")).unwrap(), filled(1, 3));
}

#[test]
fn names_that_were_not_synced_may_go_back() {
    let disk = disk();
    for name in ["moved", "overwritten", "removed"] {
        put(&disk, name, name.as_bytes());
    }
    disk.open(&path("created"), OpenMode::Create).unwrap().sync().unwrap();
    disk.rename(&path("moved"), &path("overwritten")).unwrap();
    disk.remove(&path("removed")).unwrap();
    assert_eq!(disk.unsynced_names(), ["created", "overwritten", "removed"].map(path));
    let mut states = BTreeSet::new();
    for subset in 0..8 {
        let fork = disk.fork();
        let mut asked = 0;
        fork.crash_keeping(&mut |_, sector| {
            assert_eq!(sector, NAME);
            asked += 1;
            subset & (1 << (asked - 1)) != 0
        });
        assert_eq!(asked, 3);
        let names = fork.list(Path::new("/d")).unwrap();
        let kept = |bit: u32| subset & (1 << bit) != 0;
        assert_eq!(names.contains(&"created".to_string()), kept(0));
        assert_eq!(names.contains(&"moved".to_string()), !kept(1));
        let content = fork.read_all(&path("overwritten")).unwrap();
        assert_eq!(content, if kept(1) { &b"moved"[..] } else { b"overwritten" });
        assert_eq!(names.contains(&"removed".to_string()), !kept(2));
        states.insert(fork.digest());
    }
    assert_eq!(states.len(), 8);
    disk.sync_folder(Path::new("/d")).unwrap();
    assert_eq!(disk.unsynced_names(), Vec::<PathBuf>::new());
    lose_all(&disk);
    assert_eq!(disk.list(Path::new("/d")).unwrap(), ["created", "overwritten"]);
}

/// What was written to a file whose overwriting is then undone is undone as well.
#[test]
fn a_file_that_comes_back_has_only_what_was_synced() {
    let disk = disk();
    put(&disk, "f", b"old");
    put(&disk, "g", b"other");
    disk.open(&path("f"), OpenMode::Write).unwrap().write_at(0, b"new").unwrap();
    disk.rename(&path("g"), &path("f")).unwrap();
    assert_eq!(disk.unsynced_sectors(), [(path("f"), 0)]);
    lose_all(&disk);
    assert_eq!(disk.read_all(&path("f")).unwrap(), b"old");
    assert_eq!(disk.read_all(&path("g")).unwrap(), b"other");
}

#[test]
fn a_crash_ends_handles_and_locks_of_the_life_before() {
    let disk = disk();
    put(&disk, "f", b"content");
    let file = disk.open(&path("f"), OpenMode::Write).unwrap();
    let old_lock = disk.lock(&path("lock")).unwrap();
    disk.sync_folder(Path::new("/d")).unwrap();
    lose_all(&disk);
    assert!(file.read_at(0, &mut [0]).is_err());
    assert!(file.write_at(0, b"x").is_err());
    assert!(file.sync().is_err() && file.length().is_err() && file.set_length(0).is_err());
    let _lock = disk.lock(&path("lock")).unwrap();
    drop((file, old_lock));
    assert_eq!(disk.lock(&path("lock")).err().unwrap().kind(), ErrorKind::WouldBlock, "the new life's lock holds");
    assert_eq!(disk.read_all(&path("f")).unwrap(), b"content");
}

/// As on ext4: fsync fails once, the next one succeeds, reads show the bytes, and the disk never had them.
#[test]
fn after_a_failed_sync_the_bytes_show_until_the_crash() {
    let disk = disk();
    put(&disk, "f", &filled(1, 3));
    let file = disk.open(&path("f"), OpenMode::Write).unwrap();
    file.write_at(0, &filled(50, 2)).unwrap();
    disk.fail_sync_after(1);
    assert!(file.sync().is_err());
    assert_eq!(disk.unsynced_sectors(), [], "they count as clean");
    file.sync().unwrap();
    assert_eq!(disk.read_all(&path("f")).unwrap(), [filled(50, 2), filled(3, 1)].concat());
    file.write_at(SECTOR_BYTES, &filled(51, 1)).unwrap();
    file.sync().unwrap();
    disk.crash_keeping(&mut |_, _| true);
    let expected = [filled(1, 1), filled(51, 1), filled(3, 1)].concat();
    assert_eq!(disk.read_all(&path("f")).unwrap(), expected, "what was written again and synced is there");
}

/// What a failed sync forgot is forgotten for good once the file was cut there and synced.
#[test]
fn a_sync_after_a_cut_settles_what_an_earlier_one_lost() {
    let disk = disk();
    put(&disk, "f", &filled(1, 2));
    let file = disk.open(&path("f"), OpenMode::Write).unwrap();
    file.write_at(0, &filled(50, 2)).unwrap();
    disk.fail_sync_after(1);
    assert!(file.sync().is_err());
    for length in [0, 2 * SECTOR_BYTES] {
        file.set_length(length).unwrap();
        file.sync().unwrap();
    }
    lose_all(&disk);
    assert_eq!(disk.read_all(&path("f")).unwrap(), vec![0; 2 * SECTOR]);
}

#[test]
fn the_chosen_call_fails_and_no_other() {
    let disk = disk();
    let file = disk.open(&path("f"), OpenMode::Create).unwrap();
    disk.fail_write_after(2);
    file.write_at(0, b"1234").unwrap();
    assert!(file.write_at(0, b"abcd").is_err());
    assert_eq!(disk.read_all(&path("f")).unwrap(), b"ab34", "half of it arrived");
    file.write_at(0, b"done").unwrap();
    disk.fail_sync_after(2);
    file.sync().unwrap();
    assert!(disk.sync_folder(Path::new("/d")).is_err());
    assert_eq!(disk.unsynced_names(), [path("f")]);
    disk.sync_folder(Path::new("/d")).unwrap();
    lose_all(&disk);
    assert_eq!(disk.read_all(&path("f")).unwrap(), b"done");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let disk = disk();
    let file = disk.open(&path("f"), OpenMode::Create).unwrap();
    disk.set_capacity(Some(10));
    file.write_at(0, b"12345678").unwrap();
    assert_eq!(file.write_at(8, b"9abc").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.read_all(&path("f")).unwrap(), b"123456789a");
    assert_eq!(file.set_length(11).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_at(0, b"overwritin").unwrap();
    assert_eq!(disk.total_bytes(), 10);
    assert_eq!(file.write_at(100, b"x").unwrap_err().kind(), ErrorKind::StorageFull);
    disk.set_capacity(None);
    file.write_at(10, b"g").unwrap();
    disk.set_capacity(Some(5));
    file.set_length(3).unwrap();
    disk.remove(&path("f")).unwrap();
    assert_eq!(disk.total_bytes(), 0);
}

#[test]
fn damage_outlives_a_crash() {
    let disk = disk();
    put(&disk, "f", b"abc");
    disk.flip(&path("f"), 1, 0x03).unwrap();
    lose_all(&disk);
    assert_eq!(disk.read_all(&path("f")).unwrap(), b"aac");
    disk.truncate(&path("f"), 2).unwrap();
    lose_all(&disk);
    assert_eq!(disk.read_all(&path("f")).unwrap(), b"aa");
    assert!(disk.flip(&path("f"), 2, 1).is_err());
    assert!(disk.flip(&path("g"), 0, 1).is_err());
}

#[test]
fn the_digest_tells_contents_and_names_but_not_how_they_came_about() {
    let (one, other) = (disk(), disk());
    put(&one, "f", &[0; 10_000]);
    let file = other.open(&path("f"), OpenMode::Create).unwrap();
    file.write_at(0, &filled(1, 8)).unwrap();
    file.set_length(0).unwrap();
    file.set_length(10_000).unwrap();
    assert_eq!(one.digest(), other.digest());
    let mut seen = BTreeSet::from([one.digest()]);
    one.flip(&path("f"), 9_999, 1).unwrap();
    assert!(seen.insert(one.digest()));
    other.rename(&path("f"), &path("g")).unwrap();
    assert!(seen.insert(other.digest()));
    one.truncate(&path("f"), 9_999).unwrap();
    assert!(seen.insert(one.digest()));
}
