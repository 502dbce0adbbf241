//! The cluster and the node in it.

use super::*;
use crate::handle::Phase;

/// Of node1, which follows node0; node2 does not vote yet.
fn three() -> Status {
    let member = |name: &str, port: u16| membership::Member {
        name: name.into(),
        address: format!("localhost:{port}"),
        incarnation: base::Incarnation(1),
    };
    let mut configuration = Configuration::bootstrap(member("node0", 12000));
    configuration.members.extend([(2, member("node1", 12001)), (3, member("node2", 12002))]);
    configuration.voters.voters = vec![1, 2];
    configuration.voters.learners = vec![3];
    Status { node: 2, leader: Some(1), term: 7, configuration: Arc::new(configuration), ..Status::default() }
}

#[tokio::test]
async fn status_is_what_the_node_knows() {
    let server = Server::with(&[("a", "1"), ("b", "2")]);
    server.cluster().set_status(three());
    *server.cluster().leader.lock().unwrap() =
        Some(Leader { name: "node0".into(), address: "localhost:12000".into(), url: None });
    let expected = json!({
        "node": {"name": "me", "address": "here:1", "url": "http://here:2", "id": null},
        "cluster": null, "version": env!("CARGO_PKG_VERSION"), "role": "follower", "term": 7,
        "leader": {"name": "node0", "address": "localhost:12000"},
        "commit": 3, "applied": 3, "revision": 2, "compacted": 0, "keys": 2,
        "past_bytes": server.cluster().store.lock().unwrap().view().past_bytes(), "phase": "running",
    });
    assert_eq!(server.get("/v1/status").await.json(), expected);
    assert_eq!(server.asked(), []);
    server.get("/v1/status?x").await.expect_problem(400, "invalid", "no parameters");
}

#[tokio::test]
async fn members_are_listed_with_their_roles() {
    let server = Server::new();
    server.cluster().set_status(three());
    let expected = json!({"members": [
        {"id": 1, "name": "node0", "address": "localhost:12000", "url": "http://there:2", "role": "voter", "leader": true},
        {"id": 2, "name": "node1", "address": "localhost:12001", "role": "voter", "leader": false},
        {"id": 3, "name": "node2", "address": "localhost:12002", "role": "learner", "leader": false},
    ]});
    assert_eq!(server.get("/v1/members").await.json(), expected);
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn members_come_and_go_by_name() {
    let server = Server::new();
    server.cluster().set_status(three());
    let answer = server.post("/v1/members", r#"{"name":"node3","address":":12003"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert_eq!(server.asked(), [Asked::Join("node3".into(), "127.0.0.1:12003".into())]);
    let body = r#"{"name":"node3","address":":12003","learner":true}"#;
    assert_eq!(server.post("/v1/members", body).await.status, 200);
    assert_eq!(server.asked(), [Asked::JoinAsLearner("node3".into(), "127.0.0.1:12003".into())]);
    server.post("/v1/members", &body.replace("true", "1")).await.expect_problem(400, "invalid", "learner");
    for wrong in
        ["", "{}", r#"{"name":"a"}"#, r#"{"name":"a","address":"b:1","x":"y"}"#, r#"{"name":"a","address":"b"}"#]
    {
        server.post("/v1/members", wrong).await.expect_problem(400, "invalid", "address");
    }
    assert_eq!(server.call("DELETE", "/v1/members/node2", "").await.status, 200);
    assert_eq!(server.asked(), [Asked::Remove("node2".into())]);
    server.call("DELETE", "/v1/members/nobody", "").await.expect_problem(404, "member_not_found", "nobody");

    assert_eq!(server.post("/v1/members/node2/promote", "").await.status, 200);
    assert_eq!(server.asked(), [Asked::Promote("node2".into())]);
    let server = server.fail(Failure::NotFound("no member is called nobody".into()));
    server.post("/v1/members/nobody/promote", "").await.expect_problem(404, "member_not_found", "nobody");
}

#[tokio::test]
async fn leadership_is_handed_to_whom_is_named_or_to_anyone() {
    let server = Server::new();
    server.cluster().set_status(three());
    for (body, to) in [("", None), ("{}", None), (r#"{"to":null}"#, None), (r#"{"to":"node1"}"#, Some("node1"))] {
        assert_eq!(server.post("/v1/leader", body).await.status, 200, "{body}");
        assert_eq!(server.asked(), [Asked::Transfer(to.map(String::from))]);
    }
    server.post("/v1/leader", r#"{"to":"nobody"}"#).await.expect_problem(404, "member_not_found", "nobody");
    for wrong in ["[]", r#"{"to":7}"#, r#"{"too":"node1"}"#] {
        server.post("/v1/leader", wrong).await.expect_problem(400, "invalid", "to");
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_node_is_ready_if_it_can_read_what_was_written() {
    let server = Server::new();
    let sentence = |answer: Answered, status: u16, text: &str| {
        assert_eq!((answer.status, answer.header("content-type")), (status, Some("text/plain; charset=utf-8")));
        assert!(answer.body.contains(text) && answer.body.ends_with('\n'), "{}", answer.body);
    };
    sentence(server.get("/readyz").await, 503, "no leader is known");
    server.cluster().set_status(three());
    sentence(server.get("/readyz").await, 200, "ok");
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable)]);
    *server.cluster().failure.lock().unwrap() = Some(Failure::Unavailable("no majority".into()));
    sentence(server.get("/readyz").await, 503, "no majority");
    for (phase, text) in [
        (Phase::Joining, "joining"),
        (Phase::Waiting, "waiting"),
        (Phase::Stopping, "stopping"),
        (Phase::Removed("removed by node0".into()), "removed by node0"),
    ] {
        *server.cluster().phase.lock().unwrap() = phase;
        sentence(server.get("/readyz").await, 503, text);
    }
    sentence(server.get("/livez").await, 200, "ok");
}
