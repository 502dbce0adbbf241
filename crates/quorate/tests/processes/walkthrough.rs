//! The walkthroughs that hraftd's users have followed, line by line.

use crate::stage::Stage;
use serde_json::json;

/// Each line of the README of 2024, and writes to followers too.
#[test]
fn the_walkthrough_of_2024() {
    let stage = Stage::new();
    let says = |line: &str, body: &str| {
        let answer = stage.curl(line);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{line}");
    };

    let _node0 = stage.run("hraftd -id node0 ~/node0");
    says(r#"curl -XPOST localhost:11000/key -d '{"foo": "bar"}'"#, "");
    says("curl -XGET localhost:11000/key/foo", r#"{"foo":"bar"}"#);
    says(r#"curl -XPOST localhost:11000/key -d '{"user1": "batman"}'"#, "");
    says("curl -XGET localhost:11000/key/user1", r#"{"user1":"batman"}"#);

    let node1 = stage.run("hraftd -id node1 -haddr :11001 -raddr :12001 -join :11000 ~/node1");
    let node2 = stage.run("hraftd -id node2 -haddr :11002 -raddr :12002 -join :11000 ~/node2");
    says("curl -XGET localhost:11000/key/user1", r#"{"user1":"batman"}"#);
    says("curl -XGET localhost:11001/key/user1", r#"{"user1":"batman"}"#);
    says("curl -XGET localhost:11002/key/user1", r#"{"user1":"batman"}"#);

    says(r#"curl -XPOST localhost:11000/key -d '{"user2": "robin"}'"#, "");
    says("curl -XGET localhost:11000/key/user2", r#"{"user2":"robin"}"#);
    says("curl -XGET localhost:11001/key/user2", r#"{"user2":"robin"}"#);
    says("curl -XGET localhost:11002/key/user2", r#"{"user2":"robin"}"#);

    for writer in [11000, 11001, 11002] {
        says(&format!(r#"curl -XPOST localhost:{writer}/key -d '{{"from": "user-{writer}"}}'"#), "");
        let written = format!("user-{writer}").replace(&writer.to_string(), &stage.port(writer).to_string());
        for reader in [11000, 11001, 11002] {
            says(&format!("curl -XGET localhost:{reader}/key/from"), &json!({ "from": written }).to_string());
        }
    }
    says("curl -XDELETE localhost:11002/key/user2", "");
    says("curl -XGET localhost:11001/key/user2", r#"{"user2":""}"#);

    assert!(node1.said().contains("serving at http://"), "one line says that it is up, and where");
    for node in [&node1, &node2] {
        assert_eq!(node.status().voters(), ["node0", "node1", "node2"]);
        assert_eq!(node.status().leader, "node0");
    }
}

/// To the letter: no ids, bare ports, and a stray first path that is the first node's folder.
#[test]
fn the_walkthrough_of_2015() {
    let stage = Stage::new();
    let says = |line: &str, body: &str| {
        let answer = stage.curl(line);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{line}");
    };

    let node0 = stage.run("hraftd ~/node0");
    says(r#"curl -v -XPOST localhost:11000/key -d '{"user1": "batman"}'"#, "");

    let node1 = stage.run("hraftd ~/node0 -haddr 11001 -raddr 12001 -join :11000 ~/node1");
    let _node2 = stage.run("hraftd ~/node0 -haddr 11002 -raddr 12002 -join :11000 ~/node2");
    says("curl -v -XGET localhost:11000/key/user1", r#"{"user1":"batman"}"#);
    says("curl -v -XGET localhost:11001/key/user1", r#"{"user1":"batman"}"#);
    says("curl -v -XGET localhost:11002/key/user1", r#"{"user1":"batman"}"#);

    says(r#"curl -v -XPOST localhost:11000/key -d '{"user2": "robin"}'"#, "");
    says("curl -v -XGET localhost:11000/key/user2", r#"{"user2":"robin"}"#);
    says("curl -v -XGET localhost:11001/key/user2", r#"{"user2":"robin"}"#);
    says("curl -v -XGET localhost:11002/key/user2", r#"{"user2":"robin"}"#);

    assert!(node1.said().contains("/node0 is ignored"), "{}", node1.said());
    let address = |port: u16| format!("localhost:{}", stage.port(port));
    let status = node0.status();
    assert_eq!((status.me.as_str(), status.leader.as_str()), (address(12000).as_str(), address(12000).as_str()));
    let mut addresses = [12000, 12001, 12002].map(address);
    addresses.sort();
    assert_eq!(status.voters(), addresses);
}

/// One port for everything, as `quorate serve` has it unless told otherwise.
#[test]
fn one_port_carries_clients_and_peers() {
    let stage = Stage::new();
    let a = stage.run("quorate serve --id a --http localhost:11000 ~/a");
    let b = stage.run("quorate serve --id b --http localhost:11001 --join localhost:11000 --data ~/b");
    a.put("k", "v");
    assert_eq!(b.value("k"), "v");
    assert_eq!(b.status().voters(), ["a", "b"]);
}

/// Killed and started again by the same line, a node finds its data, needs no join, and serves.
#[test]
fn a_node_alone_restarts_with_its_data() {
    let stage = Stage::new();
    let node = stage.run("hraftd -id node0 ~/node0");
    for number in 0..50 {
        node.put(&format!("k{number}"), &format!("v{number}"));
    }
    node.kill();
    let node = stage.run("hraftd ~/node0");
    assert_eq!(node.status().me, "node0", "the folder remembers the name");
    for number in 0..50 {
        assert_eq!(node.value(&format!("k{number}")), format!("v{number}"));
    }
}

#[test]
fn in_memory_nothing_outlives_the_process() {
    let stage = Stage::new();
    let node = stage.run("hraftd -id node0 -inmem ~/node0");
    node.put("k", "v");
    assert_eq!(node.value("k"), "v");
    node.kill();
    assert_eq!(stage.run("hraftd -id node0 -inmem ~/node0").value("k"), "");
    assert!(!stage.path("node0").join("log").exists());
}
