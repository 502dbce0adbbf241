//! What an open log does: segments that are used again, groups that lag, and failures that end it.

mod log_support;

use base::Position;
use log_support::*;
use std::path::Path;
use storage::StorageError;
use storage::files::{Files, MemFiles};
use storage::log::{GroupWrite, LogOptions};

#[test]
fn needless_segments_are_used_again_and_their_old_records_are_never_read() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    for index in 1..=2000 {
        log.append(&entries(1, 1, index, 1)).unwrap();
        if index % 10 == 0 {
            log.append(&purge(1, index - 5, 1)).unwrap();
            log.sync().unwrap();
            assert!(log.size_bytes() <= 8 * tiny().segment_size_bytes, "{} at {index}", log.size_bytes());
        }
        if index % 70 == 0 {
            // The power goes at any place of a segment that was used many times before.
            let disk = disk.fork();
            disk.crash_keeping(&mut |_, sector| sector % 2 == 0);
            let (_, recovered) = open(&disk, tiny()).unwrap();
            let group = &recovered[&1];
            let last = group.start.index + group.entries.len() as u64;
            assert!((index / 10 * 10..=index).contains(&last), "{last} at {index}");
            assert!(group.entries.iter().all(|found| *found == entry(found.position.index, 1, 40)));
        }
    }
    log.sync().unwrap();
    assert!(disk.total_bytes() <= 8 * tiny().segment_size_bytes);
    assert_eq!(disk.total_bytes(), log.size_bytes());
}

#[test]
fn a_lagging_groups_entries_are_copied_forward() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    log.append(&entries(7, 1, 1, 3)).unwrap();
    log.append(&entries(7, 2, 3, 2)).unwrap();
    for index in 1..=1500 {
        log.append(&entries(1, 1, index, 1)).unwrap();
        log.append(&purge(1, index, 1)).unwrap();
        log.sync().unwrap();
        assert!(log.size_bytes() <= 10 * tiny().segment_size_bytes, "{} at {index}", log.size_bytes());
        if index % 250 == 0 {
            let disk = disk.fork();
            disk.crash_keeping(&mut |_, _| false);
            let (_, recovered) = open(&disk, tiny()).unwrap();
            assert_eq!(positions(&recovered[&7]), [(1, 1), (2, 1), (3, 2), (4, 2)]);
            assert_eq!(recovered[&1].start.index, index);
        }
    }
    log.append(&entries(7, 3, 4, 2)).unwrap();
    log.seal().unwrap();
    drop(log);
    let (_, recovered) = open(&disk, tiny()).unwrap();
    assert_eq!(positions(&recovered[&7]), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3)]);
}

#[test]
fn a_failed_write_or_sync_ends_the_log() {
    for fail in [MemFiles::fail_sync_after, MemFiles::fail_write_after] {
        let disk = MemFiles::with_faults();
        let (mut log, _) = open(&disk, tiny()).unwrap();
        log.append(&entries(1, 1, 1, 1)).unwrap();
        log.sync().unwrap();
        fail(&disk, 1);
        let failed = log.append(&entries(1, 1, 2, 1)).and_then(|()| log.sync());
        assert!(matches!(failed, Err(StorageError::Io { .. })));
        log.append(&entries(1, 1, 2, 1)).unwrap_err();
        log.sync().unwrap_err();
        let last = log.seal().unwrap_err();
        assert!(last.to_string().contains("earlier write or sync"), "{last}");
        drop(log);
        disk.crash_keeping(&mut |_, _| true);
        let (_, recovered) = open(&disk, tiny()).unwrap();
        assert_eq!(positions(&recovered[&1]), [(1, 1)], "what failed is gone, what was synced is there");
    }
}

#[test]
fn a_full_disk_is_an_error_and_what_was_synced_stays() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    disk.set_capacity(Some(disk.total_bytes() + 2 * tiny().segment_size_bytes));
    let mut synced = 0;
    let error = loop {
        match log.append(&entries(1, 1, synced + 1, 1)).and_then(|()| log.sync()) {
            Ok(()) => synced += 1,
            Err(error) => break error,
        }
    };
    let StorageError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    log.sync().unwrap_err();
    drop(log);
    disk.set_capacity(None);
    let (_, recovered) = open(&disk, tiny()).unwrap();
    assert_eq!(recovered[&1].entries.len() as u64, synced);
}

#[test]
fn a_spare_made_elsewhere_becomes_the_next_segment() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    let job = log.spare_job().unwrap();
    assert!(log.spare_job().is_none(), "one at a time");
    let spare = to_another_thread(to_another_thread(job).run(|| ()).unwrap());
    log.add_spare(spare);
    assert!(log.spare_job().is_none(), "one is there");
    assert_eq!(log.size_bytes(), disk.total_bytes());
    // No room for another file: the roll must take the spare.
    disk.set_capacity(Some(disk.total_bytes()));
    let mut index = 0;
    while !disk.exists(&segment(2)).unwrap() {
        index += 1;
        log.append(&entries(1, 1, index, 1)).unwrap();
        log.sync().unwrap();
    }
    let job = log.spare_job().unwrap();
    assert!(job.run(|| ()).is_err());
    disk.set_capacity(None);
    while !disk.exists(&segment(3)).unwrap() {
        index += 1;
        log.append(&entries(1, 1, index, 1)).unwrap();
    }
    assert!(log.spare_job().is_some());
}

fn to_another_thread<T: Send>(it: T) -> T {
    it
}

#[test]
fn a_seal_is_written_once_and_ended_by_the_next_append() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, LogOptions::default_with(16_384)).unwrap();
    for index in 1..=20 {
        assert!(!log.is_sealed());
        log.append(&entries(1, 1, index, 1)).unwrap();
        log.seal().unwrap();
        assert!(log.is_sealed());
        let sealed = disk.digest();
        log.seal().unwrap();
        log.sync().unwrap();
        assert_eq!(disk.digest(), sealed);
        log.append(&one(GroupWrite { group: 1, ..GroupWrite::default() })).unwrap();
        let disk = disk.fork();
        disk.crash_keeping(&mut |_, _| false);
        assert_eq!(open(&disk, tiny()).unwrap().1[&1].entries.len() as u64, index);
    }
}

#[test]
fn a_purge_beyond_the_end_moves_the_start() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    log.append(&entries(1, 1, 1, 3)).unwrap();
    log.append(&purge(1, 10, 2)).unwrap();
    log.append(&entries(1, 2, 11, 1)).unwrap();
    log.seal().unwrap();
    drop(log);
    let (_, recovered) = open(&disk, tiny()).unwrap();
    assert_eq!(recovered[&1].start, Position { index: 10, term: 2 });
    assert_eq!(positions(&recovered[&1]), [(11, 2)]);
    assert!(disk.list(Path::new(FOLDER)).unwrap().len() >= 3);
}

/// The same calls give the same bytes: the simulator replays lives by their seed.
#[test]
fn the_same_calls_give_the_same_bytes() {
    let digest = || {
        let disk = MemFiles::with_faults();
        let (mut log, _) = open(&disk, tiny()).unwrap();
        for index in 1..=300 {
            log.append(&entries(index % 3, 1, index.div_ceil(3), 1)).unwrap();
            log.sync().unwrap();
        }
        log.seal().unwrap();
        disk.digest()
    };
    assert_eq!(digest(), digest());
}
