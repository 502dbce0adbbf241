//! What a command's bytes cost: `cargo bench -p kv --bench command`. A put of 100 bytes to a key of 16.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kv::{Command, Operation, RequestId, SessionId};
use std::hint::black_box;

fn command(criterion: &mut Criterion) {
    let command = Command::Write {
        request: RequestId { session: SessionId { node: 1, boot: 7 }, number: 1_000_000, low_water: 999_900 },
        accepted_ms: 1_767_225_600_000,
        idempotency: None,
        operations: vec![Operation::Put {
            key: Bytes::from_static(b"k000000000001234"),
            value: Bytes::from_static(&[b'v'; 100]),
        }],
    };
    let bytes = command.encode();
    let mut group = criterion.benchmark_group("command");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&command).encode()));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Command::decode(black_box(&bytes).clone()).expect("it was encoded"));
    });
    group.finish();
}

criterion_group!(benches, command);
criterion_main!(benches);
