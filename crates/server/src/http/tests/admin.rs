//! Joining, leaving and looking at the cluster.

use super::*;

#[tokio::test]
async fn join_asks_the_cluster_and_completes_an_address_without_a_host() {
    let rows = [
        ("127.0.0.1:5", "localhost:12001", "localhost:12001"),
        ("127.0.0.1:5", "[::1]:12001", "[::1]:12001"),
        ("10.1.2.3:5", ":12001", "10.1.2.3:12001"),
        ("10.1.2.3:5", "12001", "10.1.2.3:12001"),
        ("[::ffff:10.1.2.3]:5", ":12001", "10.1.2.3:12001"),
        ("[fe80::1]:5", ":12001", "[fe80::1]:12001"),
        ("10.1.2.3:5", "0.0.0.0:12001", "10.1.2.3:12001"),
    ];
    for (asker, given, address) in rows {
        let server = Server { peer: asker.parse().unwrap(), ..Server::new() };
        let body = json!({"addr": given, "id": "node1"}).to_string();
        let answer = server.post("/join", &body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(server.asked(), [Asked::Join("node1".into(), address.into())]);
    }
}

#[tokio::test]
async fn status_is_the_nodes_own_view_and_asks_nobody() {
    let server = Server::new().fail(Failure::Unavailable("nobody may be asked".into()));
    let member = |name: &str, port: u16| membership::Member {
        name: name.into(),
        address: format!("localhost:{port}"),
        incarnation: base::Incarnation(1),
    };
    let mut configuration = Configuration::bootstrap(member("node0", 12000));
    configuration.members.extend([(2, member("node1", 12001)), (3, member("node2", 12002))]);
    configuration.voters.voters = vec![1, 2];
    configuration.voters.learners = vec![3];
    let mut status = Status { node: 2, leader: Some(1), configuration: Arc::new(configuration), ..Status::default() };
    let shown = |name: &str, port: u16| json!({"id": name, "address": format!("localhost:{port}")});

    server.cluster().set_status(status.clone());
    let answer = server.get("/status").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(
        answer.json(),
        json!({"me": shown("node1", 12001), "leader": shown("node0", 12000), "followers": [shown("node1", 12001)]}),
        "a learner is no follower yet"
    );

    let mut joint = (*status.configuration).clone();
    joint.voters.voters = vec![1, 3];
    joint.voters.voters_outgoing = vec![1, 2];
    server.cluster().set_status(Status { configuration: Arc::new(joint), ..status.clone() });
    assert_eq!(
        server.get("/status").await.json()["followers"],
        json!([shown("node1", 12001)]),
        "a change shows once it is complete"
    );

    status.leader = None;
    server.cluster().set_status(status);
    assert_eq!(
        server.get("/status").await.json(),
        json!({
            "me": shown("node1", 12001),
            "leader": {"id": "", "address": ""},
            "followers": [shown("node0", 12000), shown("node1", 12001)]
        })
    );

    server.cluster().set_status(Status::default());
    assert_eq!(
        server.get("/status").await.json(),
        json!({"me": {"id": "me", "address": "here:1"}, "leader": {"id": "", "address": ""}, "followers": []}),
        "a node that has not joined yet"
    );
}

#[tokio::test]
async fn join_and_remove_take_exactly_their_fields() {
    let server = Server::new();
    let bad_joins = [
        "",
        "null",
        "{}",
        "[]",
        "no JSON",
        r#"{"id":"n"}"#,
        r#"{"addr":"a:1"}"#,
        r#"{"ID":"n","addr":"a:1"}"#,
        r#"{"id":"n","addr":"a:1","more":"x"}"#,
        r#"{"id":1,"addr":"a:1"}"#,
        r#"{"id":"n","addr":null}"#,
        r#"{"id":"","addr":"a:1"}"#,
        r#"{"id":"n","addr":"a:1"} x"#,
        r#"{"id":"n","addr":"a:1","learner":"true"}"#,
        r#"{"learner":true}"#,
        r#"{"id":"n","addr":"localhost"}"#,
        r#"{"id":"n","addr":"localhost:0"}"#,
        r#"{"id":"n","addr":"localhost:99999"}"#,
        r#"{"id":"n","addr":":"}"#,
    ];
    for body in bad_joins {
        server.post("/join", body).await.expect_error(400, "addr");
    }
    for body in ["", "{}", r#"{"id":""}"#, r#"{"name":"n"}"#, r#"{"id":"n","addr":"a:1"}"#, r#"{"id":7}"#] {
        server.call("DELETE", "/remove", body).await.expect_error(400, "id");
    }
    assert_eq!(server.asked(), []);

    for (flag, asked) in
        [("true", Asked::JoinAsLearner("n".into(), "a:1".into())), ("false", Asked::Join("n".into(), "a:1".into()))]
    {
        let body = format!(r#"{{"id":"n","addr":"a:1","learner":{flag}}}"#);
        assert_eq!(server.post("/join", &body).await.status, 200);
        assert_eq!(server.asked(), [asked]);
    }

    assert_eq!(server.call("DELETE", "/remove", r#"{"id":"node2"}"#).await.status, 200);
    assert_eq!(server.asked(), [Asked::Remove("node2".into())]);
}
