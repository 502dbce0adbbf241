//! What one look at an engine costs: `cargo bench -p storage --bench engine`.
//!
//! Keys of 16 bytes, values of 100, 100,000 keys. A put is a batch of its own at a sequence of its own, as the store
//! writes it; a view is taken every 64, as a node publishes it; the past is evicted as it comes up.

use base::rng::{Rng, hash};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use storage::engine::{Batch, Engine, Key, MemoryEngine, Sequence, View};

const KEYS: u64 = 100_000;
const PUTS_A_TURN: u64 = 64;
const SCAN_KEYS: usize = 100;

fn memory(criterion: &mut Criterion) {
    engine(criterion, "memory", MemoryEngine::new());
}

fn engine<E: Engine>(criterion: &mut Criterion, name: &str, mut engine: E) {
    let mut sequence = 0;
    for place in 0..KEYS {
        put(&mut engine, &mut sequence, place);
    }
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

criterion_group!(benches, memory);
criterion_main!(benches);
