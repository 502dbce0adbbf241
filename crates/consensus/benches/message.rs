//! What a message between peers costs in bytes and back: `cargo bench -p consensus --bench message`. An append of 64
//! entries of 150 bytes, which a real leader made, and the follower's answer.

use base::codec::{Reader, Writer};
use bytes::Bytes;
use consensus::{Group, Message, Settings, Start, Voters};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const ENTRIES: usize = 64;

fn message(criterion: &mut Criterion) {
    let (append, answer) = append_and_answer();
    let mut group = criterion.benchmark_group("message");
    for (name, message) in [("append of 64", append), ("its answer", answer)] {
        let mut writer = Writer::new();
        message.encode(&mut writer);
        let bytes = writer.into_bytes();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode, {name}"), |bencher| {
            bencher.iter(|| {
                let mut writer = Writer::with_capacity(bytes.len());
                black_box(&message).encode(&mut writer);
                writer
            });
        });
        group.bench_function(format!("decode, {name}"), |bencher| {
            bencher.iter(|| Message::decode(&mut Reader::new(black_box(&bytes).clone())).expect("it was encoded"));
        });
    }
    group.finish();
}

fn append_and_answer() -> (Message, Message) {
    let mut leader = replica(1);
    let mut follower = replica(2);
    leader.campaign();
    // Votes, the vote, and the first entry, to and fro.
    for _ in 0..10 {
        pass(&mut leader, &mut follower);
        pass(&mut follower, &mut leader);
    }
    assert!(leader.is_leader());
    assert!(leader.propose(vec![Bytes::from_static(&[b'v'; 150]); ENTRIES]));
    let sent = pass(&mut leader, &mut follower);
    let append = sent.into_iter().find(|message| message.entries() == ENTRIES).expect("all in one message");
    let answer = pass(&mut follower, &mut leader).pop().expect("it answers");
    (append, answer)
}

fn replica(node: u64) -> Group {
    let voters = Voters { voters: vec![1, 2], ..Voters::default() };
    let start = Start { voters, ..Start::default() };
    Group::new(Settings { node, ..Settings::default() }, start).expect("an empty log")
}

/// Whatever one replica has to do, on a disk that takes no time; its messages go to the other.
fn pass(from: &mut Group, to: &mut Group) -> Vec<Message> {
    while let Some(turn) = from.advance() {
        from.persisted(turn.number);
        if let Some(last) = turn.committed.last() {
            from.applied(last.position().index);
        }
    }
    let sent = from.take_messages();
    for message in sent.clone() {
        to.step(message).expect("an honest message");
    }
    sent
}

criterion_group!(benches, message);
criterion_main!(benches);
