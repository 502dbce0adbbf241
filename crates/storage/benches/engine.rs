//! What one look at an engine costs: `cargo bench -p storage --bench engine`.
//!
//! Keys of 16 bytes, values of 100, 100,000 keys. A put is a batch of its own at a sequence of its own, as the store
//! writes it; a view is taken every 64, as a node publishes it; the past is evicted as it comes up.

use base::rng::{Rng, hash};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use storage::engine::disk::{DiskEngine, DiskOptions};
use storage::engine::{Batch, Engine, Key, MemoryEngine, Sequence, View};
use storage::files::RealFiles;

const KEYS: u64 = 100_000;
const PUTS_A_TURN: u64 = 64;
const SCAN_KEYS: usize = 100;

fn memory(criterion: &mut Criterion) {
    engine(criterion, "memory", MemoryEngine::new(), |_, _| {});
}

/// What is there at the beginning lies in a table, and in the system's page cache if not in the engine's own. Flushes
/// and merges are done here and now, so they are part of what a put costs.
fn disk(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cargo's folder can be written to");
    let (files, options) = (Arc::new(RealFiles::new()), DiskOptions::within(96 << 20));
    let empty = DiskEngine::create(files, &folder.path().join("tables"), options, key_beyond_all());
    engine(criterion, "disk", empty.expect("an empty folder"), |engine, is_filled| {
        if is_filled || engine.is_full() {
            engine.seal(Bytes::new());
            engine.settle().expect("the disk works");
        }
    });
}

/// `keep_up` is called once when the engine is filled, and after each turn.
fn engine<E: Engine>(criterion: &mut Criterion, name: &str, mut engine: E, keep_up: impl Fn(&mut E, bool)) {
    let mut sequence = 0;
    for place in 0..KEYS {
        put(&mut engine, &mut sequence, place);
    }
    keep_up(&mut engine, true);
    let mut rng = Rng::new(1);
    let mut group = criterion.benchmark_group(name);

    group.throughput(Throughput::Elements(PUTS_A_TURN));
    let mut published = engine.view();
    group.bench_function("64 overwrites", |bencher| {
        bencher.iter(|| {
            for _ in 0..PUTS_A_TURN {
                put(&mut engine, &mut sequence, rng.below(KEYS));
            }
            published = engine.view();
            engine.evict_below(sequence);
            engine.tidy(2 * PUTS_A_TURN as usize);
            keep_up(&mut engine, false);
        });
    });
    let view = published;
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            let value = view.get(key(rng.below(KEYS)).as_slice()).expect("the engine is whole");
            assert!(black_box(value).is_some());
        });
    });
    group.bench_function("get of a missing key", |bencher| {
        bencher.iter(|| {
            let value = view.get(key(KEYS + rng.below(KEYS)).as_slice()).expect("the engine is whole");
            assert!(black_box(value).is_none());
        });
    });
    group.throughput(Throughput::Elements(SCAN_KEYS as u64));
    group.bench_function("scan of 100 keys", |bencher| {
        bencher.iter(|| {
            let from = key(rng.below(KEYS));
            for row in view.range(from.as_slice(), None).take(SCAN_KEYS) {
                black_box(row.expect("the engine is whole"));
            }
        });
    });
    group.finish();
}

fn put(engine: &mut impl Engine, sequence: &mut Sequence, place: u64) {
    *sequence += 1;
    let mut batch = Batch::with_capacity(1);
    batch.put(key(place), Bytes::copy_from_slice(&[b'v'; 100]));
    engine.write(*sequence, batch).expect("the engine is whole");
}

/// Scattered, and of 16 bytes.
fn key(place: u64) -> Key {
    Key::prefixed(&hash(&[place]).to_be_bytes(), &place.to_be_bytes())
}

fn key_beyond_all() -> Key {
    Key::new(&[0xff; 17])
}

criterion_group!(benches, memory, disk);
criterion_main!(benches);
