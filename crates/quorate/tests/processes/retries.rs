//! A write that is sent again and again around the death of a leader takes effect once.

use crate::stage::{Answer, PATIENCE, Stage, exchange};
use std::thread;
use std::time::Instant;

#[test]
fn a_write_sent_five_times_around_a_dead_leader_has_one_revision() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    nodes[0].put("before", "1");
    let before = revision(&nodes[0].call("PUT", "/v1/kv/marker", "x"));

    let leader = stage.leader(&nodes);
    let addresses: Vec<String> = nodes.iter().map(|node| node.http.clone()).collect();
    // Two before, one into the moment of its death, two after; the first to the leader itself.
    let early: Vec<_> = [leader, (leader + 1) % 3].map(|at| send(&addresses[at])).into_iter().collect();
    let dying = {
        let address = addresses[leader].clone();
        thread::spawn(move || exchange(&address, &once()).ok())
    };
    nodes.remove(leader).kill();
    let _ = dying.join().expect("a sender does not panic");
    let late = [1, 2].map(|step| send(&addresses[(leader + step) % 3]));

    let answers: Vec<Answer> = early.into_iter().chain(late).collect();
    for answer in &answers {
        assert_eq!((answer.status, revision(answer)), (200, before + 1), "{answers:?}");
    }
    let read = nodes[0].get("/v1/kv/once");
    assert!(read.head.contains(&format!("etag: \"{}\"", before + 1)), "{read:?}");
    assert!(read.head.contains("quorate-version: 1"), "{read:?}");

    // The same key for something else is a mistake that is told.
    let other = String::from_utf8(once()).unwrap().replace("value", "eulav");
    assert_eq!(nodes[0].send(other.as_bytes()).status, 422);
}

fn once() -> Vec<u8> {
    b"PUT /v1/kv/once HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIdempotency-Key: order-7\r\n\
      Content-Length: 5\r\n\r\nvalue"
        .to_vec()
}

/// Until it is answered with a success.
fn send(address: &str) -> Answer {
    let patience = Instant::now() + PATIENCE;
    loop {
        match exchange(address, &once()) {
            Ok(answer) if answer.status == 200 => return answer,
            answer => assert!(Instant::now() < patience, "{answer:?}"),
        }
    }
}

fn revision(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["revision"].as_u64().expect("a revision")
}
