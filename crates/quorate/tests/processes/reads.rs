//! What each read level promises, with real nodes that die.

use crate::stage::{Answer, Stage};

#[test]
fn what_each_level_promises_while_nodes_die() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let leader = stage.leader(&nodes);
    let follower = &nodes[(leader + 1) % 3];
    nodes[leader].put("k", "new");

    // A follower serves each level by itself or asks the leader, and says what it did.
    for (level, served) in
        [("linearizable", "linearizable"), ("weak", "weak"), ("strong", "strong"), ("auto", "weak"), ("none", "none")]
    {
        let answer = follower.get(&format!("/key/k?level={level}"));
        assert_eq!(header(&answer, "quorate-level"), Some(served));
        assert_eq!(header(&answer, "quorate-node"), Some(follower.status().me.as_str()));
        assert_eq!(header(&answer, "quorate-leader"), Some(nodes[leader].status().me.as_str()));
        // Also at level none, which comes last: the reads before it waited for the write to be here.
        assert_eq!(answer.body, r#"{"k":"new"}"#, "{level}");
    }
    let fresh = follower.get("/key/k?level=none&freshness=5s&freshness_strict");
    assert!(header(&fresh, "quorate-age").is_some_and(|age| age.parse::<f64>().unwrap() < 5.0), "{fresh:?}");

    // Alone, it has nobody to ask: only what it has itself, as long as that is fresh enough.
    let alone = nodes.remove((leader + 1) % 3);
    nodes.into_iter().for_each(|node| node.kill());
    let refused = stage.until("its data is older than the bound", || {
        Some(alone.get("/key/k?level=none&freshness=300ms")).filter(|answer| answer.status == 503)
    });
    assert!(refused.body.contains("s old, and freshness=0.300s was asked for"), "{refused:?}");
    assert_eq!(alone.get("/key/k?level=none").body, r#"{"k":"new"}"#);
    let refused = alone.get("/key/k?linearizable_timeout=200ms");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("level=none"), "it says what would work: {refused:?}");
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let line = answer.head.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(": ")
}
