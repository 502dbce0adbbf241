//! What a put costs, in time and memory: `cargo run --release -p kv --example cost`.
//!
//! Keys of 16 bytes, values of 100, one session, a view published every 64 commands as a node does. Memory is what the
//! allocator has handed out (resident set, so with the allocator's own waste).

use base::Position;
use base::rng::Rng;
use bytes::Bytes;
use kv::{Command, Operation, RequestId, SessionId, Store};
#[allow(clippy::disallowed_types, reason = "it measures time")]
use std::time::Instant;

const COMMANDS_A_TURN: u64 = 64;

fn main() {
    for keys in [1_000, 100_000, 1_000_000] {
        let before = resident_bytes();
        let mut life = Life::new();
        let fill = life.puts(0..keys);
        let filled = resident_bytes() - before;
        let mut rng = Rng::new(1);
        let overwrite = life.puts((0..1_000_000).map(|_| rng.below(keys)));
        let after = resident_bytes() - before;
        let view = life.store.view();
        let get = timed(1_000_000, || {
            for _ in 0..1_000_000 {
                assert!(view.get(&key(rng.below(keys))).unwrap().is_some());
            }
        });
        let scan = timed(10_000, || {
            for _ in 0..10_000 {
                assert!(view.range(&key(rng.below(keys)), None).take(100).count() > 0);
            }
        });
        let mut bytes = 0;
        let frozen = life.store.frozen();
        let checkpoint = timed(keys, || {
            let written = frozen.write_to(&mut |piece| {
                bytes += piece.len();
                Ok::<(), storage::StorageError>(())
            });
            written.unwrap();
        });
        println!(
            "{keys:>8} keys: first put {fill:.2} us, overwrite {overwrite:.2} us, get {get:.2} us, 100-key scan \
             {scan:.1} us, checkpoint {checkpoint:.2} us and {} bytes a key; {} bytes of memory a key, {} after a \
             million overwrites",
            bytes as u64 / keys,
            filled / keys,
            after / keys,
        );
    }
}

struct Life {
    store: Store,
    number: u64,
    /// As a server would hold it: the newest, replaced each turn.
    published: kv::View,
}

impl Life {
    fn new() -> Life {
        let mut store = Store::in_memory();
        store.apply(Position { index: 1, term: 1 }, &Command::Register { session: SESSION }).unwrap();
        let published = store.view();
        Life { store, number: 0, published }
    }

    fn puts(&mut self, keys: impl Iterator<Item = u64>) -> f64 {
        let mut count = 0;
        let mut spent = 0.0;
        let mut turn = Vec::new();
        for at in keys {
            count += 1;
            self.number += 1;
            let low_water = self.number.saturating_sub(COMMANDS_A_TURN).max(1);
            let request = RequestId { session: SESSION, number: self.number, low_water };
            let operations = vec![Operation::Put { key: key(at), value: Bytes::from_static(&[b'v'; 100]) }];
            let position = Position { index: self.number + 1, term: 1 };
            turn.push((position, Command::Write { request, accepted_ms: 0, idempotency: None, operations }));
            if turn.len() as u64 == COMMANDS_A_TURN {
                spent += self.turn(&mut turn);
            }
        }
        spent += self.turn(&mut turn);
        spent / count as f64
    }

    /// In microseconds.
    fn turn(&mut self, turn: &mut Vec<(Position, Command)>) -> f64 {
        let spent = timed(1, || {
            for (position, command) in turn.iter() {
                self.store.apply(*position, command).unwrap();
            }
            self.published = self.store.view();
        });
        turn.clear();
        spent
    }
}

const SESSION: SessionId = SessionId { node: 1, boot: 1 };

fn key(at: u64) -> Bytes {
    Bytes::from(format!("{:016x}", base::rng::hash(&[at])))
}

/// Microseconds for each of `count`.
#[allow(clippy::disallowed_types, reason = "it measures time")]
fn timed(count: u64, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}
