//! Who is in the cluster, and who is not.

use crate::stage::{Stage, node_line};
use serde_json::json;

#[test]
fn a_fourth_node_joins_through_a_follower() {
    let stage = Stage::new();
    let nodes = stage.cluster(3);
    nodes[0].put("k", "v");
    let follower = (stage.leader(&nodes) + 1) % 3;
    let fourth = stage.run(&format!(
        "hraftd -id node3 -haddr localhost:11003 -raddr localhost:12003 -join localhost:1100{follower} ~/node3"
    ));
    assert_eq!(fourth.value("k"), "v");
    fourth.put("k", "from the fourth");
    for node in &nodes {
        assert_eq!(node.value("k"), "from the fourth");
        stage.until("everyone counts four voters", || (node.status().voters().len() == 4).then_some(()));
    }
}

/// hraftd took such a node for a voter at once, and with it a cluster of one lost its quorum.
#[test]
fn nobody_joins_from_a_dead_address() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let voters = nodes[0].status().voters();
    let body = json!({"id": "ghost", "addr": format!("localhost:{}", stage.port(12009))}).to_string();
    for node in &nodes {
        let answer = node.call("POST", "/join", &body);
        assert!(answer.status >= 500, "{answer:?}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty());
    }
    for node in &nodes {
        assert_eq!(node.status().voters(), voters);
    }
    nodes.pop().unwrap().kill();
    nodes[0].put("two of three", "are a majority");
}

#[test]
fn a_wiped_node_comes_back_as_a_new_member_in_place_of_the_old() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    nodes[0].put("k", "v");
    let wiped = (stage.leader(&nodes) + 1) % 3;
    nodes.remove(wiped).kill();
    std::fs::remove_dir_all(stage.path(&format!("node{wiped}"))).unwrap();

    let join = if wiped == 0 { "11001" } else { "11000" };
    let back = stage.run(&format!(
        "hraftd -id node{wiped} -haddr localhost:1100{wiped} -raddr localhost:1200{wiped} -join localhost:{join} ~/node{wiped}"
    ));
    assert_eq!(back.value("k"), "v");
    assert_eq!(back.status().voters(), ["node0", "node1", "node2"]);
    for node in &nodes {
        stage.until("the others agree", || (node.status().voters() == ["node0", "node1", "node2"]).then_some(()));
    }

    // It counts: with it and one other there is a majority.
    nodes.pop().unwrap().kill();
    back.put("k", "new");
    assert_eq!(nodes[0].value("k"), "new");
}

#[test]
fn joining_again_changes_nothing() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let before = nodes[0].get("/status").json();
    let body = json!({"id": "node1", "addr": format!("localhost:{}", stage.port(12001))}).to_string();
    for node in &nodes {
        let answer = node.call("POST", "/join", &body);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    }
    nodes.remove(1).kill();
    let again = stage.run(&node_line(1));
    assert_eq!(again.status().voters(), ["node0", "node1", "node2"]);
    assert_eq!(nodes[0].get("/status").json()["followers"], before["followers"]);
}

#[test]
fn a_removed_member_says_so_and_does_not_come_back() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    nodes[0].put("k", "v");
    let ended = stage.finish("quorate member remove node2 --ask localhost:11000");
    assert!(ended.status.success() && ended.said.contains("node2 is no member any more"), "{ended:?}");
    for node in &nodes[..2] {
        stage.until("two voters are left", || (node.status().voters() == ["node0", "node1"]).then_some(()));
    }
    let removed = nodes.pop().unwrap();
    stage.until("the removed node knows", || (removed.try_get("/key/k").ok()?.status == 410).then_some(()));
    for answer in [removed.get("/key/k?level=none"), removed.call("POST", "/key", r#"{"k":"w"}"#)] {
        assert_eq!(answer.status, 410);
        assert!(answer.json()["error"].as_str().unwrap().contains("removed"), "{answer:?}");
    }
    nodes[1].put("k", "still two");

    removed.kill();
    let ended = stage.finish(&node_line(2));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.contains("removed"), "{}", ended.said);
}

#[test]
fn a_data_folder_in_use_is_refused_in_one_line() {
    let stage = Stage::new();
    let node = stage.run("hraftd -id node0 ~/node0");
    node.put("k", "v");
    let ended = stage.finish("hraftd -id node0 -haddr localhost:11005 -raddr localhost:12005 ~/node0");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.starts_with("hraftd: ") && ended.said.lines().count() == 1, "{}", ended.said);
    assert!(ended.said.contains("node0") && ended.said.contains("in use"), "{}", ended.said);
    assert_eq!(node.value("k"), "v");
}

#[test]
fn a_folder_keeps_its_name() {
    let stage = Stage::new();
    stage.run("hraftd -id node0 ~/node0").kill();
    let ended = stage.finish("hraftd -id another ~/node0");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.said.contains("node0") && ended.said.contains("another"), "{}", ended.said);
}
