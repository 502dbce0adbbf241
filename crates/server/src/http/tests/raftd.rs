//! The dialect of raftd, row by row, and its edges.

use super::*;

#[tokio::test]
async fn post_sets_a_key_to_the_bodys_bytes() {
    let all_bytes: Vec<u8> = (0..=255).collect();
    for value in [&b"FOO"[..], b"", b"{\"a\":\"b\"}", b"a=1&b=2\n", &all_bytes, &vec![b'v'; MAX_VALUE_BYTES]] {
        let server = Server::new();
        let answer = server.send(&request("POST", "/db/my_key", &[], value)).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("content-length"), Some("0"));
        let put = Operation::Put { key: "my_key".into(), value: Bytes::copy_from_slice(value) };
        assert_eq!(server.asked(), [Asked::Write(vec![put], None)]);

        let answer = server.get("/db/my_key").await;
        assert_eq!(answer.status, 200);
        assert!(answer.bytes == value, "{} bytes became {}", value.len(), answer.bytes.len());
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        assert_eq!(answer.header("quorate-found"), None);
    }
}

#[tokio::test]
async fn a_missing_key_reads_as_nothing_and_a_header_tells() {
    let server = Server::with(&[("empty", "")]);
    for (path, found) in [("/db/missing", Some("false")), ("/db/empty", None)] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!((answer.header("content-length"), answer.header("quorate-found")), (Some("0"), found));
    }
}

#[tokio::test]
async fn a_key_is_any_bytes_of_one_segment_decoded_once() {
    let rows: [(&str, &[u8]); 9] = [
        ("/db/a%2Fb", b"a/b"),
        ("/db/%2520", b"%20"),
        ("/db/a+b", b"a+b"),
        ("/db/..", b".."),
        ("/db/%00%FF%fe", b"\0\xff\xfe"),
        ("/db/%C3%A9", "é".as_bytes()),
        ("/db/é", "é".as_bytes()),
        ("/db/%3F?level=none", b"?"),
        ("/db/%2f", b"/"),
    ];
    for (path, key) in rows {
        let server = Server::new();
        assert_eq!(server.post(path, "found").await.status, 200, "{path}");
        assert_eq!(server.content(), BTreeMap::from([(key.to_vec(), Bytes::from_static(b"found"))]), "{path}");
        assert_eq!(server.get(path).await.body, "found", "{path}");
    }
}

#[tokio::test]
async fn what_is_not_one_key_is_refused_in_a_sentence() {
    let server = Server::new();
    let long = format!("/db/{}", "k".repeat(MAX_KEY_BYTES + 1));
    let rows = [
        ("/db", 404, "exactly one key"),
        ("/db/", 404, "exactly one key"),
        ("/db/a/b", 404, "exactly one key"),
        ("/db/a/", 404, "exactly one key"),
        ("/db//a", 404, "exactly one key"),
        ("/db?a", 404, "exactly one key"),
        ("/db/%zz", 400, "two hex digits"),
        ("/db/a%2", 400, "two hex digits"),
        (&long, 413, "4096"),
    ];
    for (path, status, reason) in rows {
        for method in ["GET", "HEAD", "POST"] {
            let answer = server.call(method, path, "v").await;
            assert_eq!((answer.status, answer.body.is_empty()), (status, method == "HEAD"), "{method} {path}");
            if method != "HEAD" {
                answer.expect_sentence(status, reason);
            }
        }
    }
    server.get("/dbx/a").await.expect_error(404, "/db/NAME");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn other_methods_are_405_and_say_which_are_right() {
    let server = Server::with(&[("a", "1")]);
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        let answer = server.call(method, "/db/a", "v").await;
        answer.expect_sentence(405, "GET, HEAD, POST");
        assert_eq!(answer.header("allow"), Some("GET, HEAD, POST"));
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let server = Server::with(&[("k", "value")]);
    let answer = server.call("HEAD", "/db/k", "").await;
    assert_eq!((answer.status, answer.body.as_str(), answer.header("content-length")), (200, "", Some("5")));
}

#[tokio::test]
async fn a_value_over_the_limit_is_413_and_changes_nothing() {
    let server = Server::new();
    for (bytes, limit) in [(MAX_VALUE_BYTES + 1, MAX_VALUE_BYTES), (MAX_BODY_BYTES + 1, MAX_BODY_BYTES)] {
        let answer = server.send(&request("POST", "/db/k", &[], &vec![0; bytes])).await;
        answer.expect_sentence(413, &limit.to_string());
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_failure_is_a_sentence() {
    let server = Server::new().fail(Failure::Unavailable("no majority answers".into()));
    for answer in [server.post("/db/a", "1").await, server.get("/db/a").await] {
        answer.expect_sentence(503, "no majority answers");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn reads_take_a_level_and_a_wrong_one_is_refused() {
    let server = Server::with(&[("k", "v")]);
    assert_eq!(server.get("/db/k?level=none").await.body, "v");
    assert_eq!(server.asked(), []);
    assert_eq!(server.get("/db/k").await.body, "v");
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable)]);
    server.get("/db/k?level=quick").await.expect_sentence(400, "quick");
}

#[tokio::test]
async fn a_write_goes_with_its_idempotency_key() {
    let server = Server::new();
    assert_eq!(server.send(&request("POST", "/db/k", &[("Idempotency-Key", "one")], b"v")).await.status, 200);
    assert!(matches!(&server.asked()[..], [Asked::Write(_, Some(IdempotencyKey { key, .. }))] if key == "one"));
    server.send(&request("POST", "/db/k", &[("Idempotency-Key", "")], b"v")).await.expect_sentence(400, "Idempotency");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn where_nothing_is_forwarded_a_follower_says_what_raftd_said() {
    let server = Server::with_settings(Settings { forward: false, ..settings() });
    server.cluster().set_status(Status { role: node::Role::Follower, ..led_by("2f7a1c0") });
    *server.cluster().leader.lock().unwrap() =
        Some(Leader { name: "2f7a1c0".into(), address: "localhost:4001".into(), url: None });
    let answer = server.post("/db/foo", "bar").await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "raft.Server: Not current leader\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("quorate-leader"), Some("2f7a1c0"));
    assert_eq!(answer.header("quorate-leader-address"), Some("localhost:4001"));
    assert_eq!(server.get("/db/foo").await.status, 200);
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable)]);
}

#[tokio::test]
async fn alone_it_answers_for_its_own_paths_and_for_administration() {
    let server = Server::with_settings(Settings { dialects: vec![Dialect::Raftd], ..settings() });
    assert_eq!(server.post("/db/k", "v").await.status, 200);
    assert_eq!(server.get("/status").await.status, 200);
    server.get("/key/k").await.expect_error(404, "there are /db/NAME, /v1");

    let server = Server::with_settings(Settings { dialects: vec![Dialect::Hraftd], ..settings() });
    server.get("/db/k").await.expect_error(404, "there are /key");
}

#[tokio::test]
async fn join_is_understood_in_raftds_words() {
    let server = Server { peer: "10.1.2.3:5".parse().unwrap(), ..Server::new() };
    for (given, address) in [
        ("http://localhost:4002", "localhost:4002"),
        ("http://localhost:4002/", "localhost:4002"),
        ("http://[::1]:4002", "[::1]:4002"),
        ("http://:4002", "10.1.2.3:4002"),
    ] {
        let body = json!({"name": "2f7a1c0", "connectionString": given}).to_string();
        let answer = server.post("/join", &body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{given}");
        assert_eq!(server.asked(), [Asked::Join("2f7a1c0".into(), address.into())]);
    }
    for body in [
        r#"{"connectionString":"http://localhost:4002"}"#,
        r#"{"name":"","connectionString":"http://localhost:4002"}"#,
        r#"{"name":"n","connectionString":""}"#,
        r#"{"name":"n","connectionString":"localhost:4002"}"#,
        r#"{"name":"n","connectionString":"https://localhost:4002"}"#,
        r#"{"name":"n","connectionString":"http://localhost:4002","more":"x"}"#,
        r#"{"name":"n","connectionString":4002}"#,
        r#"{"name":"n","addr":"localhost:4002"}"#,
        r#"{"id":"n","connectionString":"http://localhost:4002"}"#,
    ] {
        server.post("/join", body).await.expect_error(400, "connectionString");
    }
    server.post("/join", r#"{"name":"n","connectionString":"http://localhost"}"#).await.expect_error(400, "HOST:PORT");
    server.post("/join", r#"{"name":"n","connectionString":"http://h:0"}"#).await.expect_error(400, "port 0");
    assert_eq!(server.asked(), []);
}
