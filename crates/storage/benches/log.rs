//! What one write of the log costs, on a real file below cargo's target folder: `cargo bench -p storage --bench log`.
//!
//! Entries of 150 bytes, which is a put of 100 bytes with all that goes with it. Without a sync it is the price of
//! encoding, checksum and the system's copy; with one it is the disk's. What is old is purged, so that segments are used
//! again as they are on a node.

use base::{FIRST_GROUP, Position};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::path::Path;
use std::sync::Arc;
use storage::files::RealFiles;
use storage::log::{EntryKind, GroupWrite, HardState, Log, LogEntry, LogOptions, LogWrite};

const ENTRY_BYTES: usize = 150;
const KEPT_ENTRIES: u64 = 10_000;

fn log(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cargo's folder can be written to");
    let mut group = criterion.benchmark_group("log");
    for (name, syncs) in [("append", false), ("append and sync", true)] {
        for entries in [1, 64] {
            let mut life = Life::open(&folder.path().join(format!("{name} {entries}")));
            group.throughput(Throughput::Elements(entries));
            group.bench_function(format!("{name}, {entries} at once"), |bencher| {
                bencher.iter(|| life.append(entries, syncs));
            });
        }
    }
    group.finish();
}

struct Life {
    log: Log,
    index: u64,
    data: Bytes,
}

impl Life {
    fn open(folder: &Path) -> Life {
        let (log, _) = Log::open(Arc::new(RealFiles::new()), folder, LogOptions::default()).expect("an empty folder");
        Life { log, index: 0, data: Bytes::from_static(&[b'v'; ENTRY_BYTES]) }
    }

    fn append(&mut self, entries: u64, syncs: bool) {
        let entry = |index| LogEntry {
            position: Position { index, term: 1 },
            kind: EntryKind::Normal,
            data: self.data.clone(),
            context: Bytes::new(),
        };
        let write = GroupWrite {
            group: FIRST_GROUP,
            hard_state: Some(HardState { term: 1, vote: 1, commit: self.index }),
            entries: (self.index + 1..=self.index + entries).map(entry).collect(),
            purge_to: self.index.checked_sub(KEPT_ENTRIES).map(|index| Position { index, term: 1 }),
            ..GroupWrite::default()
        };
        self.index += entries;
        self.log.append(&LogWrite { groups: vec![write] }).expect("the disk works");
        if syncs {
            self.log.sync().expect("the disk works");
        }
        // On a node this is done beside it.
        if let Some(job) = self.log.spare_job() {
            self.log.add_spare(job.run(|| ()).expect("the disk works"));
        }
    }
}

criterion_group!(benches, log);
criterion_main!(benches);
