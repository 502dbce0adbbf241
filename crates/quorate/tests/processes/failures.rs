//! Nodes that die, and what must not be lost with them.

use crate::load::Load;
use crate::stage::{Stage, node_line};
use rustix::process::Signal;

#[test]
fn what_was_acknowledged_survives_the_leader() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let load = Load::start(&nodes);
    stage.until("writes go through", || (load.acknowledged() > 200).then_some(()));

    let number = stage.leader(&nodes);
    nodes.remove(number).kill();
    let before = load.acknowledged();
    stage.until("writes go on under another leader", || (load.acknowledged() > before + 200).then_some(()));

    // The same line brings it back; it joins nobody and learns what it missed.
    nodes.push(stage.run(&node_line(number)));
    let before = load.acknowledged();
    stage.until("writes go on with all three", || (load.acknowledged() > before + 200).then_some(()));
    load.stop().is_kept_by(&nodes);
}

#[test]
fn a_node_that_was_away_catches_up_by_itself() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let away = (stage.leader(&nodes) + 1) % 3;
    nodes.remove(away).kill();
    for number in 0..100 {
        nodes[0].put("counter", &number.to_string());
    }
    let back = stage.run(&node_line(away));
    stage.until("its own state has the last write", || {
        let answer = back.get("/key/counter?level=none");
        (answer.json()["counter"] == "99").then_some(())
    });
}

#[test]
fn five_nodes_live_without_any_two() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(5);
    nodes[4].put("before", "1");
    let leader = stage.leader(&nodes);
    nodes.remove(leader).kill();
    let other = nodes.remove(0);
    other.kill();
    for node in &nodes {
        node.put("after", &node.http);
        assert_eq!(node.value("before"), "1");
        assert_eq!(node.value("after"), node.http);
    }
}

/// The error comes within the request's limit, says whether the write may have happened, and the state stays readable.
#[test]
fn without_a_majority_writes_fail_and_come_back_with_it() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    nodes[0].put("k", "old");
    nodes.pop().unwrap().kill();
    nodes.pop().unwrap().kill();
    let alone = &nodes[0];
    let answer = alone.try_put("k", "new").unwrap();
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    assert!(!answer.json()["error"].as_str().unwrap().is_empty());
    let answer = alone.get("/key/k");
    assert!(matches!(answer.status, 503 | 504), "no stale answer passes for a linearizable one: {answer:?}");
    assert_eq!(alone.get("/key/k?level=none").body, r#"{"k":"old"}"#);
    assert_eq!(alone.get("/status").status, 200);

    nodes.push(stage.run(&node_line(1)));
    nodes[0].put("k", "newer");
    assert_eq!(nodes[1].value("k"), "newer");
}

/// A client that got no answer asks another node under the same key, and the write has happened once.
#[test]
fn a_write_is_applied_once_whoever_is_asked_again() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let request = |body: &str| {
        let length = body.len();
        format!(
            "POST /key HTTP/1.1\r\nHost: x\r\nIdempotency-Key: once\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    assert_eq!(nodes[1].send(&request(r#"{"k":"first"}"#)).status, 200);
    nodes[2].put("k", "second");
    let leader = stage.leader(&nodes);
    nodes.remove(leader).kill();
    for node in &nodes {
        assert_eq!(node.send(&request(r#"{"k":"first"}"#)).status, 200);
        assert_eq!(node.value("k"), "second", "the retry did not write again");
        let answer = node.send(&request(r#"{"k":"third"}"#));
        assert_eq!(answer.status, 422, "{answer:?}");
        assert_eq!(node.value("k"), "second");
    }
}

/// A leader that is told to stop hands over first: clients of the others notice nothing.
#[test]
fn sigterm_hands_leadership_over() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let leader = nodes.remove(stage.leader(&nodes));
    let load = Load::start(&nodes);
    stage.until("writes go through", || (load.acknowledged() > 100).then_some(()));

    let ended = leader.terminate();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.said.contains("SIGTERM") && ended.said.contains("stopped"), "{}", ended.said);
    let before = load.acknowledged();
    stage.until("writes go on", || (load.acknowledged() > before + 100).then_some(()));
    let told = load.stop();
    assert_eq!(told.failures, Vec::<String>::new());
    told.is_kept_by(&nodes);
}

#[test]
fn all_stopped_and_started_again_they_have_everything() {
    let stage = Stage::new();
    let nodes = stage.cluster(3);
    nodes[1].put("k", "v");
    for node in &nodes {
        node.signal(Signal::INT);
    }
    for node in nodes {
        let ended = node.ended();
        assert!(ended.status.success(), "{ended:?}");
    }
    let mut nodes: Vec<_> = (0..3).map(|number| stage.start(&node_line(number))).collect();
    for node in &mut nodes {
        stage.until_it_serves(node);
        assert_eq!(node.value("k"), "v");
    }
}
