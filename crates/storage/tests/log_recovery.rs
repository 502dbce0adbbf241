//! What the log gives back when it is opened again, after crashes, cuts, flips and refusals.

mod log_support;

use base::Position;
use log_support::*;
use std::path::Path;
use storage::StorageError;
use storage::files::{Files, MemFiles};
use storage::log::{GroupWrite, HardState, LogOptions, LogWrite};

#[test]
fn what_was_synced_is_there_after_a_crash() {
    let disk = MemFiles::with_faults();
    let (mut log, recovered) = open(&disk, tiny()).unwrap();
    assert!(recovered.is_empty());
    log.append(&entries(1, 1, 1, 3)).unwrap();
    log.append(&vote(1, 1, 2)).unwrap();
    log.sync().unwrap();
    log.append(&entries(1, 1, 4, 1)).unwrap();
    disk.crash_keeping(&mut |_, _| false);

    let (_, recovered) = open(&disk, tiny()).unwrap();
    let group = &recovered[&1];
    assert_eq!(group.hard_state, HardState { term: 1, vote: 2, commit: 0 });
    assert_eq!(group.entries, entries(1, 1, 1, 3).groups[0].entries);
}

#[test]
fn entries_overwrite_a_suffix_and_a_purge_takes_a_prefix() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    log.append(&entries(1, 1, 1, 9)).unwrap();
    log.append(&entries(1, 2, 5, 2)).unwrap();
    log.append(&purge(1, 3, 1)).unwrap();
    log.append(&configuration(1, b"three nodes")).unwrap();
    log.sync().unwrap();
    drop(log);

    let (mut log, recovered) = open(&disk, tiny()).unwrap();
    let group = &recovered[&1];
    assert_eq!(positions(group), [(4, 1), (5, 2), (6, 2)]);
    assert_eq!(group.start, Position { index: 3, term: 1 });
    assert_eq!(&group.configuration[..], b"three nodes");

    let position = Position { index: 20, term: 4 };
    log.append(&one(GroupWrite { group: 1, reset: Some(position), ..GroupWrite::default() })).unwrap();
    log.append(&entries(1, 4, 21, 2)).unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, recovered) = open(&disk, tiny()).unwrap();
    assert_eq!(recovered[&1].start, position);
    assert_eq!(positions(&recovered[&1]), [(21, 4), (22, 4)]);
}

#[test]
fn an_append_larger_than_a_segment_gets_one_of_its_size() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    let large = one(GroupWrite { group: 1, entries: vec![entry(1, 1, 100_000)], ..GroupWrite::default() });
    log.append(&entries(2, 1, 1, 1)).unwrap();
    log.append(&large).unwrap();
    log.append(&entries(1, 1, 2, 1)).unwrap();
    log.seal().unwrap();
    drop(log);
    for _ in 0..3 {
        let (_, recovered) = open(&disk, tiny()).unwrap();
        assert_eq!(recovered[&1].entries[0], large.groups[0].entries[0]);
        assert_eq!(positions(&recovered[&1]), [(1, 1), (2, 1)]);
        assert_eq!(positions(&recovered[&2]), [(1, 1)]);
    }
}

/// The last three records, each synced, cut off byte by byte: what is left are the whole ones.
#[test]
fn a_log_cut_anywhere_keeps_its_whole_batches() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, LogOptions::default_with(4096)).unwrap();
    let mut ends = vec![];
    for index in 1..=5 {
        log.append(&entries(1, 1, index, 1)).unwrap();
        log.sync().unwrap();
        ends.push(end_of_records(&disk.read_all(&segment(1)).unwrap()) as u64);
    }
    drop(log);
    let path = segment(1);
    for cut in ends[1]..=ends[4] + 16 {
        let disk = disk.fork();
        disk.truncate(&path, cut).unwrap();
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        let (_, recovered) = open(&disk, LogOptions::default_with(4096)).unwrap();
        assert_eq!(positions(&recovered[&1]).len(), whole, "cut at {cut} of {ends:?}");
    }
}

/// Later sectors of an unsynced batch may reach the disk without earlier ones.
#[test]
fn every_subset_of_the_last_batchs_sectors_may_be_missing() {
    let disk = MemFiles::with_faults();
    let options = LogOptions::default_with(8192);
    let (mut log, _) = open(&disk, options.clone()).unwrap();
    log.append(&entries(1, 1, 1, 2)).unwrap();
    log.sync().unwrap();
    let large = one(GroupWrite { group: 1, entries: vec![entry(3, 1, 2500)], ..GroupWrite::default() });
    log.append(&large).unwrap();
    let sectors = disk.unsynced_sectors();
    assert!((5..=8).contains(&sectors.len()), "{sectors:?}");
    for kept in 0..1u32 << sectors.len() {
        let disk = disk.fork();
        let mut at = 0;
        disk.crash_keeping(&mut |_, _| {
            at += 1;
            kept >> (at - 1) & 1 == 1
        });
        assert_eq!(at, sectors.len());
        let (_, recovered) = open(&disk, options.clone()).unwrap();
        let whole = kept + 1 == 1 << sectors.len();
        assert_eq!(recovered[&1].entries.len(), if whole { 3 } else { 2 }, "kept {kept:b}");
    }
}

#[test]
fn every_flipped_byte_of_a_sealed_log_and_of_its_slots_is_damage() {
    let disk = MemFiles::with_faults();
    let options = LogOptions::default_with(2048);
    let (mut log, _) = open(&disk, options.clone()).unwrap();
    log.append(&configuration(1, b"one node")).unwrap();
    log.append(&vote(1, 3, 1)).unwrap();
    log.sync().unwrap();
    for index in 1..=12 {
        log.append(&one(GroupWrite { group: 1, entries: vec![entry(index, 3, 150)], ..GroupWrite::default() }))
            .unwrap();
        log.sync().unwrap();
    }
    log.append(&vote(1, 4, 1)).unwrap();
    log.seal().unwrap();
    drop(log);

    let names: Vec<String> =
        disk.list(Path::new(FOLDER)).unwrap().into_iter().filter(|name| !name.starts_with("spare-")).collect();
    assert!(names.len() >= 4, "two segments and two slots: {names:?}");
    for name in names {
        let path = Path::new(FOLDER).join(&name);
        let content = disk.read_all(&path).unwrap();
        let end = if name.starts_with("votes-") { content.len() } else { end_of_records(&content) };
        for at in 0..end as u64 {
            for mask in [0x01, 0x80, 0xff] {
                let disk = disk.fork();
                disk.flip(&path, at, mask).unwrap();
                let before = disk.digest();
                match open(&disk, options.clone()) {
                    Err(StorageError::Damaged { file, .. }) => assert!(file.ends_with(&name), "{file} for {name}"),
                    Err(other) => panic!("{name} at {at}: {other}"),
                    Ok(_) => panic!("{name} at {at} of {end}: not noticed"),
                }
                assert_eq!(disk.digest(), before, "a damaged log is left as it is");
            }
        }
        // What lies behind the last record is nobody's.
        for at in end as u64..content.len() as u64 {
            let disk = disk.fork();
            disk.flip(&path, at, 0xff).unwrap();
            assert_eq!(open(&disk, options.clone()).unwrap().1[&1].entries.len(), 12);
        }
    }
    open(&disk, options).unwrap();
}

#[test]
fn a_lost_slot_or_segment_of_a_sealed_log_is_damage() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    for index in 1..=30 {
        log.append(&entries(1, 1, index, 1)).unwrap();
        log.append(&vote(1, index, 1)).unwrap();
        log.sync().unwrap();
    }
    log.seal().unwrap();
    drop(log);
    let names = disk.list(Path::new(FOLDER)).unwrap();
    let needed: Vec<&String> = names.iter().filter(|name| !name.starts_with("spare-")).collect();
    assert!(needed.len() > 4);
    // The newest segment is known to none of the others.
    let newest = needed.iter().filter(|name| name.starts_with("segment-")).max().unwrap();
    for name in needed.iter().filter(|name| *name != newest) {
        let disk = disk.fork();
        disk.remove(&Path::new(FOLDER).join(name)).unwrap();
        assert!(matches!(open(&disk, tiny()), Err(StorageError::Damaged { .. })), "{name}");
    }
}

#[test]
fn another_format_version_is_refused_by_name() {
    let disk = MemFiles::with_faults();
    drop(open(&disk, tiny()).unwrap());
    for name in ["votes-a", "votes-b", "segment-0000000000000001"] {
        let disk = disk.fork();
        let path = Path::new(FOLDER).join(name);
        let mut content = disk.read_all(&path).unwrap();
        content[8] = 7;
        let length = u32::from_le_bytes(content[12..16].try_into().unwrap()) as usize;
        let sum = base::checksum_append(base::checksum(&content[..16]), &content[20..length]);
        content[16..20].copy_from_slice(&sum.to_le_bytes());
        disk.write_all(&path, &content).unwrap();
        let error = open(&disk, tiny()).err().unwrap();
        assert!(matches!(&error, StorageError::UnknownFormat { found: 7, known: 1, .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// A process dies between a write and its sync; the next one reads the bytes from the page cache, and then the power
/// goes. What the open had returned must be there.
#[test]
fn what_open_returned_survives_a_crash_right_after() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    log.append(&entries(1, 1, 1, 4)).unwrap();
    log.sync().unwrap();
    log.append(&entries(1, 2, 3, 3)).unwrap();
    log.append(&vote(1, 2, 3)).unwrap();
    disk.fail_sync_after(1);
    log.sync().unwrap_err();
    drop(log);

    let (log, first) = open(&disk, tiny()).unwrap();
    assert_eq!(positions(&first[&1]), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]);
    disk.crash_keeping(&mut |_, _| false);
    drop(log);
    let (_, second) = open(&disk, tiny()).unwrap();
    assert_eq!(first, second);
}

/// The tail that one life read as torn may not come back in the next.
#[test]
fn an_old_tail_never_comes_back() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    log.append(&entries(1, 1, 1, 1)).unwrap();
    log.sync().unwrap();
    log.append(&entries(1, 1, 2, 1)).unwrap();
    log.append(&entries(1, 1, 3, 1)).unwrap();
    let whole = disk.fork();
    let first = whole.read_all(&segment(1)).unwrap();
    disk.crash_keeping(&mut |_, _| false);
    let (mut log, recovered) = open(&disk, tiny()).unwrap();
    assert_eq!(positions(&recovered[&1]), [(1, 1)]);
    log.append(&entries(1, 5, 2, 1)).unwrap();
    log.sync().unwrap();
    drop(log);
    // As if the removal of the old segment had been undone, and the disk had thought better of its tail.
    disk.write_all(&segment(1), &first).unwrap();
    let (_, recovered) = open(&disk, tiny()).unwrap();
    assert_eq!(positions(&recovered[&1]), [(1, 1), (2, 5)]);
}

/// A torn write of a slot leaves the other; a vote that was synced is never lost.
#[test]
fn a_vote_survives_any_crash_while_the_next_one_is_written() {
    for seed in 0..300 {
        let disk = MemFiles::with_faults();
        let mut rng = base::rng::Rng::new(seed);
        let mut log = open(&disk, tiny()).unwrap().0;
        for term in 1..=5 {
            if rng.chance(300) {
                disk.fail_sync_after(rng.between(1, 6));
            }
            let written = log.append(&many_votes(term, seed % 7 + 1));
            let synced = written.and_then(|()| if rng.chance(500) { log.seal() } else { log.sync() });
            if synced.is_err() || rng.chance(400) {
                if rng.chance(500) {
                    disk.crash(&mut rng);
                }
                disk.fail_sync_after(1000);
                let (again, recovered) = open(&disk, tiny()).unwrap();
                log = again;
                let known = recovered.get(&119).map_or(0, |group| group.hard_state.term);
                assert!(known == term || synced.is_err() && known + 1 == term, "seed {seed}: {known} of {term}");
                for term in known + 1..=term {
                    log.append(&many_votes(term, seed % 7 + 1)).unwrap();
                    log.sync().unwrap();
                }
            }
        }
    }
}

/// A slot may be written only while the other one is on the disk, whichever of them is the newest. An open that always
/// began with the newest lost it to the second of two failures.
#[test]
fn a_vote_survives_opens_that_fail_one_after_another() {
    let disk = MemFiles::with_faults();
    let (mut log, _) = open(&disk, tiny()).unwrap();
    for term in 1..=3 {
        log.append(&many_votes(term, 2)).unwrap();
        log.sync().unwrap();
    }
    let after_sync = disk.fork();
    log.append(&entries(1, 3, 1, 1)).unwrap();
    log.sync().unwrap();
    let after_entries = disk.fork();
    log.seal().unwrap();
    let after_seal = disk.fork();
    log.append(&many_votes(4, 2)).unwrap();
    disk.fail_sync_after(2);
    log.sync().unwrap_err();
    let mut failed = 0;
    for (disk, term) in [(after_sync, 3), (after_entries, 3), (after_seal, 3), (disk, 4)] {
        for (first, second, third) in (0..300).map(|n| (n % 10, n / 10 % 10, n / 100)) {
            let disk = disk.fork();
            for (round, fail_at) in [first, second, third].into_iter().enumerate() {
                if fail_at % 2 == 0 {
                    disk.fail_sync_after(fail_at / 2 + 4)
                } else {
                    disk.fail_write_after(fail_at / 2 + 2)
                }
                failed += u32::from(open(&disk, tiny()).is_err());
                // The odd sectors of what was not synced, or the even ones, arrive; once the power stays.
                if round != 1 {
                    disk.crash_keeping(&mut |_, sector| sector % 2 == fail_at % 2);
                }
            }
            disk.fail_sync_after(1000);
            disk.fail_write_after(1000);
            let (_, recovered) = open(&disk, tiny()).unwrap();
            assert_eq!(recovered[&119].hard_state.term, term, "{first} {second} {third}");
        }
    }
    assert!(failed > 1500, "{failed}");
}

/// A table of several sectors, so that a slot can tear inside.
fn many_votes(term: u64, vote: u64) -> LogWrite {
    let hard_state = Some(HardState { term, vote, commit: 0 });
    let group = |group| GroupWrite { group, hard_state, ..GroupWrite::default() };
    LogWrite { groups: (0..120).map(group).collect() }
}
