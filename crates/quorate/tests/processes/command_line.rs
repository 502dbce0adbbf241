//! What the programs say to the person who starts them.

use crate::stage::{Stage, exchange, request};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn hraftd_reads_its_flags_as_go_does() {
    let stage = Stage::new();
    let ended = stage.finish("hraftd -h");
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.said.contains("Usage: ") && ended.said.contains("  -haddr string\n    \t"), "{}", ended.said);

    let ended = stage.finish("hraftd --nope ~/node0");
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.said.starts_with("flag provided but not defined: -nope\nUsage: "), "{}", ended.said);

    let ended = stage.finish("hraftd -id node0");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.said.contains("no Raft data path") && ended.said.lines().count() == 1, "{}", ended.said);

    for spelling in ["-id node0", "-id=node0", "--id node0", "--id=node0"] {
        let node = stage.run(&format!("hraftd {spelling} -inmem=true ~/unused"));
        assert_eq!(node.status().me, "node0", "{spelling}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let stage = Stage::new();
    let _node = stage.run("hraftd -id node0 ~/node0");
    let ended = stage.finish("hraftd -id node1 -haddr localhost:11000 -raddr localhost:12001 ~/node1");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.said.contains(&stage.port(11000).to_string()), "{}", ended.said);
}

#[test]
fn a_join_that_is_refused_ends_the_program_with_the_reason() {
    let stage = Stage::new();
    let node = stage.run("hraftd -id node0 ~/node0");
    // It tells its members an address that is none of theirs to dial: itself.
    let ended = stage.finish("hraftd -id node1 -haddr localhost:11001 -raddr localhost:12001 -join nonsense ~/node1");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.contains("HOST:PORT"), "{}", ended.said);
    assert_eq!(node.status().voters(), ["node0"]);
}

#[test]
fn quorate_alone_lists_its_commands() {
    let stage = Stage::new();
    let ended = stage.finish("quorate");
    for command in ["serve", "dev", "put", "get", "status", "member", "bench", "verify"] {
        assert!(ended.said.contains(&format!("\n  {command} ")), "{command} is missing: {}", ended.said);
    }
}

#[test]
fn status_shows_every_nodes_view() {
    let stage = Stage::new();
    let _nodes = stage.cluster(3);
    let ended = stage.finish("quorate status localhost:11000 :11001");
    assert!(ended.status.success(), "{ended:?}");
    let rows: Vec<Vec<&str>> = ended.said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        (&rows[1][1..4], &rows[1][8..]),
        (&["node0", "leader", "node0"][..], &["node0,", "node1,", "node2"][..])
    );
    assert_eq!(
        (&rows[2][1..4], &rows[2][8..]),
        (&["node1", "follower", "node0"][..], &["node0,", "node1,", "node2"][..])
    );

    let ended = stage.finish("quorate status --json localhost:11002 localhost:11009");
    assert_eq!(ended.status.code(), Some(1), "one of them does not answer");
    let reports: serde_json::Value = serde_json::from_str(&ended.said).unwrap();
    assert_eq!(reports[0]["status"]["node"]["name"], json!("node2"));
    assert!(reports[1]["error"].as_str().unwrap().contains("can't reach"));
}

#[test]
fn dev_runs_three_nodes_and_finds_their_data_again() {
    let stage = Stage::new();
    let port = stage.port(11000);
    let start = || {
        let mut dev = stage.start("quorate dev --port 11000 ~/data");
        stage.until("three nodes are up", || {
            assert_eq!(dev.has_ended(), None, "{}", dev.said());
            dev.said().contains("Ctrl-C stops all three").then_some(())
        });
        dev
    };
    let value = |number: u16| {
        exchange(&format!("localhost:{}", port + number), &request("GET", "/key/user1", "")).unwrap().body
    };

    let dev = start();
    assert!(dev.said().contains(&format!("http://localhost:{}", port + 2)), "{}", dev.said());
    dev.put("user1", "batman");
    for number in 0..3 {
        assert_eq!(value(number), r#"{"user1":"batman"}"#);
    }
    assert_eq!(dev.status().voters(), ["node1", "node2", "node3"]);

    let second = stage.finish("quorate dev --port 11000 ~/other");
    assert_eq!(second.status.code(), Some(1));
    assert!(second.said.contains("taken") && second.said.contains("--port"), "{}", second.said);

    dev.signal(Signal::INT);
    let ended = dev.ended();
    assert!(ended.status.success(), "{ended:?}");

    let dev = start();
    for number in 0..3 {
        assert_eq!(value(number), r#"{"user1":"batman"}"#);
    }
    drop(dev);
}
