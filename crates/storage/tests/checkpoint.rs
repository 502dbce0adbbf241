//! Checkpoints on a disk that crashes, tears, flips and refuses.

use base::Position;
use base::rng::Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::StorageError;
use storage::checkpoint::{
    self, BLOCK_BYTES, CheckpointInfo, CheckpointReader, CheckpointWriter, IncomingCheckpoint, read_chunk,
};
use storage::files::{Files, MemFiles, RealFiles};

const GROUP: u64 = 5;
const SENDER: u64 = 2;

fn folder() -> &'static Path {
    Path::new("/data/checkpoints")
}

fn disk() -> (MemFiles, Arc<dyn Files>) {
    let disk = MemFiles::with_faults();
    (disk.clone(), Arc::new(disk))
}

fn at(index: u64) -> Position {
    Position { index, term: 3 }
}

fn payload(seed: u64, count: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| rng.next_u64() as u8).collect()
}

fn write(files: &Arc<dyn Files>, position: Position, payload: &[u8]) -> Result<CheckpointInfo, StorageError> {
    let mut writer = CheckpointWriter::create(files, folder(), GROUP, position)?;
    for piece in payload.chunks(10_007) {
        writer.write(piece)?;
    }
    writer.finish()
}

fn read(files: &Arc<dyn Files>, info: &CheckpointInfo) -> Result<Vec<u8>, StorageError> {
    let mut reader = CheckpointReader::open(files, folder(), info)?;
    let mut bytes = Vec::new();
    while let Some(block) = reader.next_block()? {
        bytes.extend_from_slice(&block);
    }
    Ok(bytes)
}

fn path(info: &CheckpointInfo) -> PathBuf {
    let Position { index, term } = info.position;
    folder().join(format!("{:016x}-{index:016x}-{term:016x}.checkpoint", info.group))
}

fn list(files: &Arc<dyn Files>) -> Vec<CheckpointInfo> {
    checkpoint::list(files, folder(), GROUP).unwrap()
}

fn is_damage<T>(outcome: &Result<T, StorageError>) -> bool {
    matches!(outcome, Err(StorageError::Damaged { .. }))
}

/// Sends all that the receiver does not have yet.
fn send(
    from: &Arc<dyn Files>,
    info: &CheckpointInfo,
    to: &mut IncomingCheckpoint,
    chunk_bytes: usize,
) -> Result<(), StorageError> {
    while to.received_bytes() < info.size_bytes {
        let offset = to.received_bytes();
        to.write(offset, &read_chunk(from, folder(), info, offset, chunk_bytes)?)?;
    }
    Ok(())
}

#[test]
fn what_is_written_is_read_whatever_its_size() {
    for count in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 200_000] {
        let (disk, files) = disk();
        let payload = payload(1, count);
        let info = write(&files, at(10), &payload).unwrap();
        assert_eq!(read(&files, &info).unwrap(), payload);
        assert_eq!(list(&files), std::slice::from_ref(&info));
        checkpoint::verify(&files, folder(), &info).unwrap();
        let bytes = disk.read_all(&path(&info)).unwrap();
        assert_eq!((bytes.len() as u64, base::checksum(&bytes)), (info.size_bytes, info.checksum));
    }
}

#[test]
fn every_flipped_bit_is_damage() {
    let (disk, files) = disk();
    let info = write(&files, at(10), &payload(1, 300)).unwrap();
    for offset in 0..info.size_bytes {
        for bit in 0..8 {
            disk.flip(&path(&info), offset, 1 << bit).unwrap();
            let outcome = read(&files, &info);
            assert!(is_damage(&outcome), "byte {offset}, bit {bit}: {outcome:?}");
            disk.flip(&path(&info), offset, 1 << bit).unwrap();
        }
    }
    read(&files, &info).unwrap();
}

#[test]
fn a_flipped_byte_in_any_block_is_damage_and_the_error_says_where() {
    let (disk, files) = disk();
    let info = write(&files, at(10), &payload(1, 3 * BLOCK_BYTES + 9)).unwrap();
    for offset in (0..info.size_bytes).step_by(4093) {
        disk.flip(&path(&info), offset, 0x40).unwrap();
        let error = checkpoint::verify(&files, folder(), &info).unwrap_err();
        let StorageError::Damaged { file, offset: found, .. } = &error else { panic!("{error}") };
        assert!(*found <= offset && *found + BLOCK_BYTES as u64 + 4 > offset, "flipped {offset}, found {found}");
        assert_eq!(Path::new(file), path(&info));
        assert!(error.to_string().contains("damaged"));
        disk.flip(&path(&info), offset, 0x40).unwrap();
    }
}

#[test]
fn cut_or_lengthened_by_any_byte_is_damage() {
    let (disk, files) = disk();
    let info = write(&files, at(10), &payload(1, 300)).unwrap();
    let whole = disk.read_all(&path(&info)).unwrap();
    for length in 0..whole.len() {
        disk.write_all(&path(&info), &whole[..length]).unwrap();
        assert!(is_damage(&read(&files, &info)), "cut to {length}");
        assert!(is_damage(&checkpoint::list(&files, folder(), GROUP)), "listed when cut to {length}");
    }
    for more in [&b"\0"[..], b"x", &[0; 70_000], &whole, &whole[whole.len() - 24..]] {
        disk.write_all(&path(&info), &[&whole, more].concat()).unwrap();
        assert!(is_damage(&read(&files, &info)), "{} bytes more", more.len());
        assert!(is_damage(&checkpoint::list(&files, folder(), GROUP)), "{} bytes more", more.len());
    }
}

/// Blocks that are whole in themselves, but belong elsewhere.
#[test]
fn exchanged_blocks_and_blocks_of_other_files_are_damage() {
    let (disk, files) = disk();
    let info = write(&files, at(10), &payload(1, 3 * BLOCK_BYTES)).unwrap();
    let other = write(&files, at(11), &payload(1, 3 * BLOCK_BYTES)).unwrap();
    let (whole, other) = (disk.read_all(&path(&info)).unwrap(), disk.read_all(&path(&other)).unwrap());
    let block = |number: usize| 44 + number * (BLOCK_BYTES + 4)..44 + (number + 1) * (BLOCK_BYTES + 4);
    let exchanged = [&whole[..44], &whole[block(1)], &whole[block(0)], &whole[block(2).start..]].concat();
    let foreign = [&whole[..44], &other[block(0)], &whole[block(1).start..]].concat();
    for wrong in [exchanged, foreign, other] {
        assert_eq!(wrong.len(), whole.len());
        disk.write_all(&path(&info), &wrong).unwrap();
        let first = CheckpointReader::open(&files, folder(), &info).and_then(|mut reader| reader.next_block());
        assert!(is_damage(&first));
    }
    let other = write(&files, at(12), &payload(2, 3 * BLOCK_BYTES)).unwrap();
    let other = disk.read_all(&path(&other)).unwrap();
    disk.write_all(&path(&info), &[&whole[..whole.len() - 24], &other[other.len() - 24..]].concat()).unwrap();
    let listed = checkpoint::list(&files, folder(), GROUP);
    assert!(is_damage(&listed), "the foot of another file: {listed:?}");
}

/// Every block and the foot prove themselves, but the foot is that of other blocks.
#[test]
fn the_checksum_of_the_whole_is_looked_at() {
    let (disk, files) = disk();
    let info = write(&files, at(10), &payload(1, 300)).unwrap();
    let mut bytes = disk.read_all(&path(&info)).unwrap();
    let foot = bytes.len() - 24;
    bytes[foot + 16] ^= 1;
    let sum = base::checksum_append(base::checksum(&bytes[16..40]), &bytes[foot..foot + 20]);
    bytes[foot + 20..].copy_from_slice(&sum.to_le_bytes());
    disk.write_all(&path(&info), &bytes).unwrap();
    let listed = list(&files);
    assert_eq!((listed[0].size_bytes, listed.len()), (info.size_bytes, 1), "both ends are right");
    assert!(is_damage(&checkpoint::verify(&files, folder(), &listed[0])));
}

#[test]
fn another_format_version_is_said_to_be_one() {
    let (disk, files) = disk();
    let info = write(&files, at(10), b"state").unwrap();
    let mut bytes = disk.read_all(&path(&info)).unwrap();
    bytes[8] = 9;
    let sum = base::checksum(&bytes[..12]).to_le_bytes();
    bytes[12..16].copy_from_slice(&sum);
    disk.write_all(&path(&info), &bytes).unwrap();
    let error = checkpoint::list(&files, folder(), GROUP).unwrap_err();
    assert!(matches!(error, StorageError::UnknownFormat { found: 9, known: 1, .. }), "{error}");
}

#[test]
fn a_group_keeps_its_newest_two_and_no_other_groups() {
    let (_, files) = disk();
    let mut other = CheckpointWriter::create(&files, folder(), GROUP + 1, at(1)).unwrap();
    other.write(b"another group").unwrap();
    let other = other.finish().unwrap();
    for index in [9, 10, 255, 4096] {
        write(&files, at(index), b"state").unwrap();
    }
    assert_eq!(list(&files).iter().map(|info| info.position).collect::<Vec<_>>(), [at(255), at(4096)]);
    assert_eq!(checkpoint::list(&files, folder(), GROUP + 1).unwrap(), [other]);
    checkpoint::keep_newest(&files, folder(), GROUP, 1).unwrap();
    assert_eq!(list(&files).iter().map(|info| info.position).collect::<Vec<_>>(), [at(4096)]);
}

/// Whichever call fails and whatever the disk then kept: the two before are there, and the new one only as a whole.
#[test]
fn a_crash_at_any_step_of_writing_leaves_the_old_and_never_half_a_new_one() {
    let state = payload(3, 2 * BLOCK_BYTES + 1000);
    let (mut failed, mut saw_new, mut saw_only_old) = (0, 0, 0);
    for step in 1..=20 {
        for seed in 0..20 {
            let (disk, files) = disk();
            let old: Vec<_> = [1, 2].map(|index| write(&files, at(index), &payload(index, 999)).unwrap()).into();
            if step <= 10 {
                disk.fail_write_after(step);
            } else {
                disk.fail_sync_after(step - 10);
            }
            let outcome = write(&files, at(3), &state);
            failed += u64::from(outcome.is_err());
            disk.crash(&mut Rng::new(seed));
            checkpoint::remove_leftovers(&files, folder(), Position::default()).unwrap();
            let found = list(&files);
            for info in &found {
                let expected = if info.position == at(3) { state.clone() } else { payload(info.position.index, 999) };
                assert_eq!(read(&files, info).unwrap(), expected, "step {step}, seed {seed}");
            }
            let has_new = found.last().unwrap().position == at(3);
            assert!(found.contains(&old[1]), "step {step}, seed {seed}");
            assert!(has_new || found == old, "step {step}, seed {seed}: {found:?}");
            assert!(has_new || outcome.is_err(), "step {step}, seed {seed}: it was reported written, and is gone");
            saw_new += u64::from(has_new);
            saw_only_old += u64::from(!has_new);
            assert!(files.list(folder()).unwrap().iter().all(|name| name.ends_with(".checkpoint")));
        }
    }
    assert!(failed > 0 && saw_new > 0 && saw_only_old > 0, "{failed} {saw_new} {saw_only_old}");
}

#[test]
fn a_crash_in_the_middle_of_writing_leaves_nothing_that_is_listed() {
    for written in [0, 100, BLOCK_BYTES, 5 * BLOCK_BYTES, 100 * BLOCK_BYTES] {
        let (disk, files) = disk();
        let old = write(&files, at(1), b"old").unwrap();
        let mut writer = CheckpointWriter::create(&files, folder(), GROUP, at(2)).unwrap();
        writer.write(&payload(2, written)).unwrap();
        disk.crash_keeping(&mut |_, _| true);
        assert!(writer.finish().is_err());
        assert_eq!(list(&files), std::slice::from_ref(&old));
        checkpoint::remove_leftovers(&files, folder(), Position::default()).unwrap();
        assert_eq!(files.list(folder()).unwrap().len(), 1);
        assert_eq!(read(&files, &old).unwrap(), b"old");
    }
}

#[test]
fn a_full_disk_is_an_error_that_leaves_room_again() {
    let (disk, files) = disk();
    let old = write(&files, at(1), &payload(1, 1000)).unwrap();
    let used = disk.total_bytes();
    disk.set_capacity(Some(used + 100_000));
    let error = write(&files, at(2), &payload(2, 150_000)).unwrap_err();
    assert!(matches!(&error, StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull));
    assert_eq!((disk.total_bytes(), list(&files)), (used, vec![old]));
    disk.set_capacity(None);
    write(&files, at(2), &payload(2, 150_000)).unwrap();
}

#[test]
fn an_abandoned_writer_leaves_no_file_behind_the_next_one() {
    let (_, files) = disk();
    for index in 1..=5 {
        let mut writer = CheckpointWriter::create(&files, folder(), GROUP, at(index)).unwrap();
        writer.write(b"abandoned").unwrap();
    }
    write(&files, at(6), b"state").unwrap();
    assert_eq!(files.list(folder()).unwrap().len(), 1);
}

#[test]
fn chunks_are_the_files_bytes() {
    let (disk, files) = disk();
    let info = write(&files, at(1), &payload(1, 100_000)).unwrap();
    let whole = disk.read_all(&path(&info)).unwrap();
    for (offset, max) in [(0, 1), (44, 65_540), (info.size_bytes - 3, 100), (info.size_bytes, 5), (u64::MAX, 5)] {
        let start = offset.min(info.size_bytes) as usize;
        let expected = &whole[start..(start + max).min(whole.len())];
        assert_eq!(read_chunk(&files, folder(), &info, offset, max).unwrap(), expected);
    }
    disk.truncate(&path(&info), info.size_bytes - 1).unwrap();
    assert!(is_damage(&read_chunk(&files, folder(), &info, 0, 10)));
}

#[test]
fn a_transfer_gives_the_same_file() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 250_000)).unwrap();
    for chunk_bytes in [999, 65_536, 1 << 20] {
        let (disk, receiver) = disk();
        for index in [1, 2] {
            write(&receiver, at(index), b"older").unwrap();
        }
        let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
        assert_eq!(incoming.received_bytes(), 0);
        send(&sender, &info, &mut incoming, chunk_bytes).unwrap();
        assert_eq!(list(&receiver).len(), 2, "not before it is finished");
        incoming.finish().unwrap();
        assert_eq!(list(&receiver).iter().map(|info| info.position).collect::<Vec<_>>(), [at(2), at(40)]);
        disk.crash_keeping(&mut |_, _| false);
        checkpoint::verify(&receiver, folder(), &info).unwrap();
        let whole = read_chunk(&sender, folder(), &info, 0, usize::MAX).unwrap();
        assert_eq!(disk.read_all(&path(&info)).unwrap(), whole);
    }
}

/// Cut at every chunk boundary by the connection, the process, or the power, with any of the unsynced sectors there.
#[test]
fn a_transfer_cut_anywhere_goes_on_and_gives_the_same_file() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 6 * BLOCK_BYTES + 77)).unwrap();
    let chunk_bytes = 50_000;
    for cut in 0..=info.size_bytes.div_ceil(chunk_bytes as u64) {
        for seed in 0..12 {
            let (disk, receiver) = disk();
            let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
            for _ in 0..cut {
                let offset = incoming.received_bytes();
                let chunk = read_chunk(&sender, folder(), &info, offset, chunk_bytes).unwrap();
                incoming.write(offset, &chunk).unwrap();
            }
            let before = incoming.received_bytes();
            if seed % 3 == 1 {
                disk.fail_write_after(1);
                let chunk = read_chunk(&sender, folder(), &info, before, chunk_bytes).unwrap();
                assert!(incoming.write(before, &chunk).is_err());
            }
            drop(incoming);
            match seed {
                0..4 => {}
                4 => disk.crash_keeping(&mut |_, _| true),
                _ => disk.crash(&mut Rng::new(seed)),
            }
            checkpoint::remove_leftovers(&receiver, folder(), Position::default()).unwrap();
            let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
            if seed <= 4 {
                let lost = before.saturating_sub(incoming.received_bytes());
                assert!(lost <= BLOCK_BYTES as u64 + 4, "cut {cut}, seed {seed}: {lost} bytes lost");
            }
            send(&sender, &info, &mut incoming, chunk_bytes).unwrap();
            incoming.finish().unwrap();
            disk.crash_keeping(&mut |_, _| false);
            checkpoint::verify(&receiver, folder(), &info).unwrap();
        }
    }
}

/// Syncs on the way bound what a power loss costs.
#[test]
fn after_a_crash_a_transfer_repeats_a_few_mebibytes_at_most() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 10 << 20)).unwrap();
    let (disk, receiver) = disk();
    let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    while incoming.received_bytes() < 9 << 20 {
        let offset = incoming.received_bytes();
        incoming.write(offset, &read_chunk(&sender, folder(), &info, offset, 1 << 18).unwrap()).unwrap();
    }
    disk.crash_keeping(&mut |_, _| false);
    let incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    assert!(incoming.received_bytes() > 4 << 20, "{}", incoming.received_bytes());
}

/// The page cache shows bytes that the disk never got, and calls them clean: a sync failed in the process before. What
/// is found must be written again, or the finished checkpoint is gone after the next power loss.
#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_not_believed() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 6 << 20)).unwrap();
    for failing in [1, 2] {
        let (disk, receiver) = disk();
        let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
        // The first comes on the way, the second at the end.
        disk.fail_sync_after(failing);
        assert_eq!(send(&sender, &info, &mut incoming, 1 << 20).is_err(), failing == 1);
        assert!(failing == 2 || send(&sender, &info, &mut incoming, 1 << 20).is_err(), "it is not tried again");
        assert!(incoming.finish().is_err());
        let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
        assert!(incoming.received_bytes() > 0);
        send(&sender, &info, &mut incoming, 1 << 20).unwrap();
        incoming.finish().unwrap();
        disk.crash_keeping(&mut |_, _| false);
        checkpoint::verify(&receiver, folder(), &info).unwrap();
    }
}

/// The same for the smallest there is, which has no block.
#[test]
fn what_a_failed_sync_left_of_a_head_is_not_believed() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), b"").unwrap();
    let (disk, receiver) = disk();
    let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    send(&sender, &info, &mut incoming, 50).unwrap();
    disk.fail_sync_after(1);
    assert!(incoming.finish().is_err());
    let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    assert_eq!(incoming.received_bytes(), 44);
    send(&sender, &info, &mut incoming, 50).unwrap();
    incoming.finish().unwrap();
    disk.crash_keeping(&mut |_, _| false);
    checkpoint::verify(&receiver, folder(), &info).unwrap();
}

#[test]
fn junk_in_place_of_what_was_received_is_not_gone_on_with() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 3 * BLOCK_BYTES)).unwrap();
    let whole = read_chunk(&sender, folder(), &info, 0, usize::MAX).unwrap();
    for good in [0, 44, 44 + BLOCK_BYTES + 4, whole.len()] {
        let (disk, receiver) = disk();
        drop(IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap());
        let partial = folder().join(&receiver.list(folder()).unwrap()[0]);
        disk.write_all(&partial, &[&whole[..good], &payload(9, 300_000)].concat()).unwrap();
        let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
        assert_eq!(incoming.received_bytes(), good.min(whole.len() - 24) as u64);
        send(&sender, &info, &mut incoming, 100_000).unwrap();
        incoming.finish().unwrap();
        checkpoint::verify(&receiver, folder(), &info).unwrap();
    }
}

#[test]
fn a_wrong_byte_on_the_way_removes_what_was_received() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 100_000)).unwrap();
    let whole = read_chunk(&sender, folder(), &info, 0, usize::MAX).unwrap();
    for offset in (0..whole.len()).step_by(1009).chain(whole.len() - 24..whole.len()) {
        let (_, receiver) = disk();
        let mut bytes = whole.to_vec();
        bytes[offset] ^= 1;
        let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
        incoming.write(0, &bytes).unwrap();
        assert!(is_damage(&incoming.finish()), "byte {offset}");
        assert_eq!(receiver.list(folder()).unwrap(), Vec::<String>::new());
    }
}

/// A whole checkpoint, but not the announced one: the checksum in the announcement is what was agreed on.
#[test]
fn another_checkpoint_than_the_announced_one_is_refused() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 100_000)).unwrap();
    let (_, other) = disk();
    let other_info = write(&other, at(40), &payload(2, 100_000)).unwrap();
    assert_eq!(info.size_bytes, other_info.size_bytes);
    let (_, receiver) = disk();
    let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    send(&other, &other_info, &mut incoming, 1 << 20).unwrap();
    assert!(is_damage(&incoming.finish()));
    assert_eq!(list(&receiver), []);
}

#[test]
fn chunks_out_of_place_beyond_the_size_or_too_few_are_refused() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 1000)).unwrap();
    let whole = read_chunk(&sender, folder(), &info, 0, usize::MAX).unwrap();
    let (disk, receiver) = disk();
    let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    assert!(incoming.write(1, &whole[1..]).is_err());
    assert!(incoming.write(0, &[&whole[..], b"x"].concat()).is_err());
    incoming.write(0, &whole[..500]).unwrap();
    assert!(incoming.write(0, &whole[..500]).is_err());
    assert!(incoming.write(500, &vec![0; whole.len()]).is_err());
    assert!(disk.total_bytes() <= info.size_bytes);
    assert!(incoming.finish().is_err());
    for size_bytes in [0, 67, 69, u64::MAX] {
        let info = CheckpointInfo { size_bytes, ..info.clone() };
        let wrong = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER);
        assert!(wrong.is_err() || size_bytes == u64::MAX, "no checkpoint has {size_bytes} bytes");
    }
}

#[test]
fn only_the_same_checkpoint_of_the_same_sender_is_gone_on_with() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 3 * BLOCK_BYTES)).unwrap();
    let begin = |receiver: &Arc<dyn Files>| {
        let mut incoming = IncomingCheckpoint::resume(receiver, folder(), &info, SENDER).unwrap();
        incoming.write(0, &read_chunk(&sender, folder(), &info, 0, 2 * BLOCK_BYTES).unwrap()).unwrap();
    };
    let others = [
        (info.clone(), SENDER + 1),
        (CheckpointInfo { checksum: info.checksum ^ 1, ..info.clone() }, SENDER),
        (CheckpointInfo { position: at(41), ..info.clone() }, SENDER),
    ];
    for (other, source) in others {
        let (_, receiver) = disk();
        begin(&receiver);
        assert_eq!(IncomingCheckpoint::resume(&receiver, folder(), &other, source).unwrap().received_bytes(), 0);
        assert_eq!(receiver.list(folder()).unwrap().len(), 1);
        let again = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
        assert_eq!(again.received_bytes(), 0, "it was discarded");
    }
    let (_, receiver) = disk();
    begin(&receiver);
    let other_group = CheckpointInfo { group: GROUP + 1, ..info.clone() };
    IncomingCheckpoint::resume(&receiver, folder(), &other_group, SENDER).unwrap();
    assert!(IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap().received_bytes() > 0);
}

/// The process died after the rename and before it was told so.
#[test]
fn a_checkpoint_that_is_here_already_needs_no_second_transfer() {
    let (_, sender) = disk();
    let info = write(&sender, at(40), &payload(1, 3 * BLOCK_BYTES)).unwrap();
    let (disk, receiver) = disk();
    let mut incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    send(&sender, &info, &mut incoming, 1 << 20).unwrap();
    // The sync of the folder, after that of the file.
    disk.fail_sync_after(2);
    assert!(incoming.finish().is_err());
    let incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    assert_eq!(incoming.received_bytes(), info.size_bytes);
    incoming.finish().unwrap();
    disk.crash_keeping(&mut |_, _| false);
    checkpoint::verify(&receiver, folder(), &info).unwrap();

    disk.flip(&path(&info), 1000, 1).unwrap();
    let incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    assert!(is_damage(&incoming.finish()));
    let incoming = IncomingCheckpoint::resume(&receiver, folder(), &info, SENDER).unwrap();
    assert_eq!(incoming.received_bytes(), 0, "the damaged one went");
}

#[test]
fn leftovers_go_but_for_one_transfer_a_group_that_is_still_wanted() {
    let (disk, files) = disk();
    let whole = write(&files, at(20), b"state").unwrap();
    let name = |index: u64, source: u64| {
        format!("{GROUP:016x}-{index:016x}-{:016x}-{:016x}-{:016x}-{source:016x}.incoming", 3, 500, 7)
    };
    disk.write_all(&folder().join(name(20, 1)), b"partial").unwrap();
    checkpoint::remove_leftovers(&files, folder(), Position::default()).unwrap();
    assert!(!files.exists(&folder().join(name(20, 1))).unwrap(), "there is a whole one as new");
    for text in [name(10, 1), name(20, 1), name(30, 1), name(30, 2)] {
        disk.write_all(&folder().join(text), b"partial").unwrap();
    }
    let tmp = path(&whole).to_str().unwrap().replace(".checkpoint", ".checkpoint.tmp");
    disk.write_all(Path::new(&tmp), b"unfinished").unwrap();
    disk.write_all(&folder().join("notes.txt"), b"not ours").unwrap();
    checkpoint::remove_leftovers(&files, folder(), Position::default()).unwrap();
    let whole = path(&whole).file_name().unwrap().to_str().unwrap().to_string();
    assert_eq!(files.list(folder()).unwrap(), [whole.clone(), name(30, 2), "notes.txt".to_string()]);
    // Beside tables there may be no checkpoint that says so.
    checkpoint::remove_leftovers(&files, folder(), Position { index: 29, term: 9 }).unwrap();
    assert!(files.exists(&folder().join(name(30, 2))).unwrap());
    checkpoint::remove_leftovers(&files, folder(), Position { index: 30, term: 3 }).unwrap();
    assert_eq!(files.list(folder()).unwrap(), [whole, "notes.txt".to_string()]);
}

/// The process died between the rename and the sync of the folder; the next one starts, purges its log by what it finds
/// here, and then the power fails.
#[test]
fn what_is_listed_after_the_start_is_not_taken_back_by_a_crash() {
    let (disk, files) = disk();
    write(&files, at(1), b"old").unwrap();
    disk.fail_sync_after(2);
    write(&files, at(2), b"new").unwrap_err();
    checkpoint::remove_leftovers(&files, folder(), Position::default()).unwrap();
    let found = list(&files);
    assert_eq!(found.last().unwrap().position, at(2));
    disk.crash_keeping(&mut |_, _| false);
    assert_eq!(list(&files), found);
    assert_eq!(read(&files, &found[1]).unwrap(), b"new");
}

#[test]
fn without_a_folder_there_are_no_checkpoints() {
    let (_, files) = disk();
    assert_eq!(list(&files), []);
    checkpoint::remove_leftovers(&files, folder(), Position::default()).unwrap();
}

#[test]
fn on_a_real_disk_too() {
    let temporary = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let (ours, theirs) = (temporary.path().join("a"), temporary.path().join("b"));
    let payload = payload(1, 300_000);
    let mut writer = CheckpointWriter::create(&files, &ours, GROUP, at(7)).unwrap();
    writer.write(&payload).unwrap();
    let info = writer.finish().unwrap();
    for _ in 0..4 {
        let mut incoming = IncomingCheckpoint::resume(&files, &theirs, &info, SENDER).unwrap();
        let offset = incoming.received_bytes();
        incoming.write(offset, &read_chunk(&files, &ours, &info, offset, 150_000).unwrap()).unwrap();
    }
    let mut incoming = IncomingCheckpoint::resume(&files, &theirs, &info, SENDER).unwrap();
    let offset = incoming.received_bytes();
    assert!(offset > 200_000, "{offset}");
    incoming.write(offset, &read_chunk(&files, &ours, &info, offset, 150_000).unwrap()).unwrap();
    incoming.finish().unwrap();
    checkpoint::verify(&files, &theirs, &info).unwrap();
    assert_eq!(checkpoint::list(&files, &theirs, GROUP).unwrap(), [info]);
}
