//! raftd's users: the commands of its README, and what they hope for when nodes die.

use crate::stage::{Answer, Program, Stage, request};
use rustix::process::Signal;
use std::fs;

const FIRST: &str = "raftd -p 4001 ~/node.1";
const SECOND: &str = "raftd -p 4002 -join localhost:4001 ~/node.2";
const THIRD: &str = "raftd -p 4003 -join localhost:4001 ~/node.3";

/// Each line of the README, the leader's death included; writes to followers go through besides.
#[test]
fn the_walkthrough_of_raftd() {
    let stage = Stage::new();
    let says = |line: &str, body: &str| {
        let answer = stage.curl(line);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{line}");
    };

    let first = stage.run(FIRST);
    says("curl -X POST http://localhost:4001/db/my_key -d 'FOO'", "");
    says("curl http://localhost:4001/db/my_key", "FOO");

    let second = stage.run(SECOND);
    let third = stage.run(THIRD);
    says("curl -XPOST localhost:4001/db/foo -d 'bar'", "");
    says("curl localhost:4001/db/foo", "bar");
    says("curl localhost:4002/db/foo", "bar");
    says("curl localhost:4003/db/foo", "bar");
    says("curl -XPOST localhost:4003/db/foo -d 'by a follower'", "");
    says("curl localhost:4001/db/foo", "by a follower");

    // Killing the leader elects a new one; nobody waits for it but the request.
    first.kill();
    says("curl -XPOST localhost:4002/db/foo -d 'without the first'", "");
    says("curl localhost:4003/db/foo", "without the first");

    // It has joined already, and needs no -join to come back.
    let first = stage.run(FIRST);
    says("curl localhost:4001/db/foo", "without the first");
    says("curl -XPOST localhost:4001/db/foo -d 'bar'", "");
    says("curl localhost:4002/db/foo", "bar");
    says("curl localhost:4001/db/my_key", "FOO");
    for node in [&first, &second, &third] {
        assert_eq!(node.status().voters().len(), 3);
    }
}

#[test]
fn with_no_forward_a_follower_denies_writes_in_raftds_words() {
    let stage = Stage::new();
    let plain = |line: &str| line.replace("raftd ", "raftd -no-forward ");
    let first = stage.run(&plain(FIRST));
    let others = [stage.run(&plain(SECOND)), stage.run(&plain(THIRD))];
    post(&first, "foo", "bar");
    first.kill();
    let leader = &others[stage.leader(&others)];

    let first = stage.run(&plain(FIRST));
    let answer = stage.curl("curl -XPOST localhost:4001/db/foo -d 'denied'");
    assert_eq!((answer.status, answer.body.as_str()), (400, "raft.Server: Not current leader\n"));
    assert!(answer.head.contains(&format!("\r\nquorate-leader: {}", leader.status().me)), "{answer:?}");
    assert_eq!(value(&first, "foo"), "bar");
    post(leader, "foo", "taken");
    assert_eq!(value(&first, "foo"), "taken");
}

#[test]
fn two_nodes_and_one_killed_deny_writes_until_it_is_back() {
    let stage = Stage::new();
    let first = stage.run(FIRST);
    let second = stage.run(SECOND);
    for number in 0..20 {
        post(if number % 2 == 0 { &first } else { &second }, &format!("key{number}"), &format!("value{number}"));
    }

    let name = second.status().me;
    second.kill();
    let answer = try_post(&first, "foo", "bar");
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    assert!(answer.body.ends_with('\n') && !answer.body.starts_with('{'), "a sentence: {answer:?}");
    assert_eq!(first.get("/db/key1?level=none").body, "value1", "what it has can be seen");
    stage.until("the log tells why, and who is silent", || {
        let said = first.said();
        said.lines()
            .any(|line| line.contains("WARN") && line.contains("no majority") && line.contains(&name))
            .then_some(())
    });

    let second = stage.run("raftd -p 4002 ~/node.2");
    post(&first, "foo", "new");
    let mended = || first.said().contains("writes and linearizable reads go on").then_some(());
    stage.until("the log tells that it works again", mended);
    for node in [&first, &second] {
        assert_eq!(value(node, "foo"), "new");
        for number in 0..20 {
            assert_eq!(value(node, &format!("key{number}")), format!("value{number}"));
        }
    }
}

#[test]
fn a_value_is_any_bytes() {
    let stage = Stage::new();
    let nodes = [stage.run(FIRST), stage.run(SECOND)];
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = all_bytes.iter().copied().cycle().take(1_000_000).collect();
    for (key, value) in [("all", &all_bytes), ("large", &large), ("empty", &Vec::new()), ("%00%FF", &all_bytes)] {
        let path = format!("/db/{key}");
        let answer = nodes[1].send(&request("POST", &path, value));
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{key}");
        for node in &nodes {
            let answer = node.get(&path);
            assert!(answer.status == 200 && answer.bytes == *value, "{key}: {} bytes", answer.bytes.len());
            assert!(answer.head.contains("\r\ncontent-type: application/octet-stream"), "{}", answer.head);
        }
    }
    assert_eq!(nodes[0].get("/db/missing").status, 200);
    assert_eq!(nodes[0].get("/db/missing").body, "");
}

#[test]
fn a_node_names_itself_once_and_for_all() {
    let stage = Stage::new();
    let first = stage.run(FIRST);
    let second = stage.run(SECOND);
    let name_in = |folder: &str| fs::read_to_string(stage.path(folder).join("name")).unwrap();
    let names = [name_in("node.1"), name_in("node.2")];
    for (name, node) in names.iter().zip([&first, &second]) {
        let digits = name.bytes().filter(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count();
        assert_eq!((name.len(), digits), (7, 7), "{name:?}");
        assert_eq!(node.status().me, *name);
    }
    assert_ne!(names[0], names[1]);

    second.kill();
    let second = stage.run(SECOND);
    assert!(second.said().contains("WARN") && second.said().contains("need not join"), "{}", second.said());
    assert_eq!(second.status().me, names[1]);
    assert_eq!(name_in("node.2"), names[1]);
    assert_eq!(first.status().voters().len(), 2);
}

/// Two nodes that find each other again after both were stopped.
#[test]
fn the_logs_rise_in_detail() {
    for (flag, shows) in [("", 0), ("-v ", 1), ("-debug ", 2), ("-trace ", 3)] {
        let stage = Stage::new();
        let lines = [FIRST, SECOND].map(|line| line.replace("raftd ", &format!("raftd {flag}")));
        let nodes = [stage.run(&lines[0]), stage.run(&lines[1])];
        post(&nodes[0], "k", "v");
        for node in &nodes {
            node.signal(Signal::TERM);
        }
        let mut said: String = nodes.map(|node| node.ended().said).concat();
        let mut nodes = lines.map(|line| stage.start(&line));
        for node in &mut nodes {
            stage.until_it_serves(node);
        }
        said += &nodes.map(|node| node.terminate().said).concat();

        for (words, at) in [
            ("leads in term", 0),
            ("votes now", 1),
            ("became candidate at term", 2),
            ("cast vote for", 2),
            (": I vote for you in term", 2),
            (": heartbeat of the leader in term", 3),
        ] {
            assert_eq!(said.contains(words), shows >= at, "{flag}, {words}: {said}");
        }
    }
}

#[test]
fn raftd_reads_its_flags_as_go_does() {
    let stage = Stage::new();
    for (line, code, words) in [
        ("raftd -p 4001", 1, "Usage: "),
        ("raftd -help", 0, "  -p int\n    \t"),
        ("raftd ~/node.1 -h", 2, "flag needs an argument: -h\nUsage: "),
        ("raftd -p http ~/node.1", 2, "invalid value \"http\" for flag -p: parse error\nUsage: "),
        ("raftd -level quick ~/node.1", 1, "raftd: there is no read level \"quick\""),
    ] {
        let ended = stage.finish(line);
        assert_eq!(ended.status.code(), Some(code), "{line}: {ended:?}");
        assert!(ended.said.contains(words), "{line}: {}", ended.said);
    }
    assert!(!stage.path("node.1").exists(), "a mistake makes no folder");

    let node = stage.run("raftd --p=4001 -h 127.0.0.1 ~/node.1");
    let address = node.get("/status").json()["me"]["address"].as_str().unwrap().to_string();
    assert_eq!(address, format!("127.0.0.1:{}", stage.port(4001)), "the name that it advertises");
}

fn try_post(node: &Program, key: &str, value: &str) -> Answer {
    node.call("POST", &format!("/db/{key}"), value)
}

#[track_caller]
fn post(node: &Program, key: &str, value: &str) {
    let answer = try_post(node, key, value);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{answer:?}");
}

#[track_caller]
fn value(node: &Program, key: &str) -> String {
    let answer = node.get(&format!("/db/{key}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}
