//! What one turn of a node costs, without disk and network: `cargo bench -p node --bench turn`.
//!
//! A cluster of one takes in 64 puts, proposes them, hands out the log write, hears that it is done, applies them,
//! publishes the view and answers. So this is what the node's thread does for a batch, but for its peers. 10,000 keys
//! of 16 bytes, values of 100; the past is compacted at 64 MiB.

use base::rng::{Rng, hash};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kv::Operation;
use node::membership::Member;
use node::{Effect, Event, Node, Outcome, Request, Settings, WriteId};
use std::hint::black_box;

const PUTS: u64 = 64;
const KEYS: u64 = 10_000;
const TURNS_A_TICK: u64 = 64;

fn turn(criterion: &mut Criterion) {
    let mut life = Life::new();
    let mut rng = Rng::new(1);
    for _ in 0..KEYS / PUTS {
        life.turn(&mut rng);
    }
    let mut group = criterion.benchmark_group("turn");
    group.throughput(Throughput::Elements(PUTS));
    group.bench_function("64 puts", |bencher| bencher.iter(|| life.turn(&mut rng)));
    group.finish();
}

struct Life {
    node: Node,
    ticket: u64,
    turns: u64,
    /// As a server would hold it.
    published: Option<kv::View>,
}

impl Life {
    fn new() -> Life {
        let member =
            Member { name: "node1".to_string(), address: "node1:1".to_string(), incarnation: Default::default() };
        let settings = Settings {
            node: 1,
            name: "node1".to_string(),
            boot: 1,
            checkpoint_after_bytes: u64::MAX,
            compact_above_bytes: 64 << 20,
            ..Settings::default()
        };
        let node = Node::new(settings, node::bootstrap(member), Vec::new(), None).expect("a new cluster");
        let mut life = Life { node, ticket: 0, turns: 0, published: None };
        // It campaigns, leads, and opens its session.
        for _ in 0..100 {
            life.node.handle(Event::Tick { unix_ms: 0 });
            life.settle();
        }
        life
    }

    fn turn(&mut self, rng: &mut Rng) {
        for _ in 0..PUTS {
            self.ticket += 1;
            let key = Bytes::from(format!("{:016x}", hash(&[rng.below(KEYS)])));
            let operations = vec![Operation::Put { key, value: Bytes::from_static(&[b'v'; 100]) }];
            let request = Request::Write { operations, idempotency: None };
            self.node.handle(Event::Request { ticket: self.ticket, limit_ticks: 1_000, request });
        }
        self.turns += 1;
        if self.turns.is_multiple_of(TURNS_A_TICK) {
            self.node.handle(Event::Tick { unix_ms: 0 });
        }
        let answered = self.settle();
        assert_eq!(answered, PUTS, "all are answered at once");
    }

    /// Carries out what the node asks for, on a disk that takes no time, until it has nothing left to ask. How many
    /// requests were answered with success.
    fn settle(&mut self) -> u64 {
        let mut answered = 0;
        loop {
            let mut written: Option<WriteId> = None;
            for effect in self.node.turn(0) {
                match effect {
                    Effect::WriteLog { id, write } => {
                        black_box(write);
                        written = Some(id);
                    }
                    Effect::PublishView { view, .. } => self.published = Some(view),
                    Effect::Reply { outcome: Outcome::Written { .. }, .. } => answered += 1,
                    _ => {}
                }
            }
            match written {
                Some(id) => self.node.handle(Event::LogWritten { id }),
                None => return answered,
            }
        }
    }
}

criterion_group!(benches, turn);
criterion_main!(benches);
