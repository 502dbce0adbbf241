//! A node that is read from and does not vote, until it is promoted.

use crate::stage::{Program, Stage};

#[test]
fn a_learner_stays_one_wherever_it_moves_until_it_is_promoted() {
    let stage = Stage::new();
    let nodes = stage.cluster(3);
    nodes[0].put("k", "v");
    let line = "quorate serve --id reader --http localhost:11003 --join localhost:11000 --learner ~/reader";
    let reader = stage.run(line);
    let role = |node: &Program| -> Option<String> {
        let members = node.try_get("/v1/members").ok()?.json();
        let reader = members["members"].as_array()?.iter().find(|member| member["name"] == "reader")?.clone();
        Some(reader["role"].as_str()?.to_string())
    };
    assert_eq!(role(&nodes[1]).as_deref(), Some("learner"));
    assert_eq!(reader.value("k"), "v");

    // It moves to another port, and tells the cluster so; that makes it no voter.
    reader.kill();
    let reader = stage.run(&line.replace("11003", "11004"));
    let moved = format!(":{}", stage.port(11004));
    stage.until("the cluster knows where it is", || {
        nodes[1].try_get("/v1/members").ok()?.body.contains(&moved).then_some(())
    });
    assert_eq!(role(&nodes[1]).as_deref(), Some("learner"));

    let promoted = nodes[2].call("POST", "/v1/members/reader/promote", "");
    assert_eq!(promoted.status, 200, "{promoted:?}");
    stage.until("it votes", || (role(&nodes[1])? == "voter").then_some(()));
    assert_eq!(reader.value("k"), "v");
}
