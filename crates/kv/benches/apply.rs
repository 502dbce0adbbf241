//! What applying a put costs: `cargo bench -p kv --bench apply`.
//!
//! Keys of 16 bytes, values of 100, one session, 64 commands a turn, after which a view is taken, as a node publishes
//! it. The past is compacted every 256 turns.

use base::Position;
use base::rng::{Rng, hash};
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kv::{Action, Command, Operation, RequestId, SessionId, Store};
use std::hint::black_box;

const TURN: u64 = 64;
const NEW_KEYS: u64 = 6_400;
const COMPACT_EVERY: u64 = 256 * TURN;
const SESSION: SessionId = SessionId { node: 1, boot: 1 };

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(NEW_KEYS));
    group.bench_function("6,400 new keys", |bencher| {
        bencher.iter_batched_ref(Life::new, |life| life.puts(0..NEW_KEYS), BatchSize::PerIteration);
    });
    for (name, keys) in [("1,000", 1_000), ("100,000", 100_000)] {
        let mut life = Life::new();
        life.puts(0..keys);
        let mut rng = Rng::new(1);
        group.throughput(Throughput::Elements(TURN));
        group.bench_function(format!("64 overwrites, {name} keys"), |bencher| {
            bencher.iter(|| life.puts((0..TURN).map(|_| rng.below(keys))));
        });
    }
    group.finish();
}

struct Life {
    store: Store,
    index: u64,
    number: u64,
    /// As a server would hold it: the newest, replaced each turn.
    published: kv::View,
}

impl Life {
    fn new() -> Life {
        let store = Store::in_memory();
        let published = store.view();
        let mut life = Life { store, index: 0, number: 0, published };
        life.apply(&Command::Register { session: SESSION });
        life
    }

    fn puts(&mut self, places: impl Iterator<Item = u64>) {
        for place in places {
            self.number += 1;
            let low_water = self.number.saturating_sub(TURN).max(1);
            let request = RequestId { session: SESSION, number: self.number, low_water };
            let operations = vec![Operation::Put { key: key(place), value: Bytes::from_static(&[b'v'; 100]) }];
            self.apply(&Command::Write { request, accepted_ms: 0, idempotency: None, operations });
            if self.number.is_multiple_of(TURN) {
                self.published = self.store.view();
            }
            if self.number.is_multiple_of(COMPACT_EVERY) {
                let action = Action::Compact { revision: self.store.revision() };
                self.apply(&Command::Act { request: None, accepted_ms: 0, idempotency: None, action });
            }
        }
    }

    fn apply(&mut self, command: &Command) {
        self.index += 1;
        let _ = black_box(self.store.apply(Position { index: self.index, term: 1 }, command));
    }
}

fn key(place: u64) -> Bytes {
    Bytes::from(format!("{:016x}", hash(&[place])))
}

criterion_group!(benches, apply);
criterion_main!(benches);
