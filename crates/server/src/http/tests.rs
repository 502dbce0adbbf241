//! The dialect as a client sees it: bytes in, bytes out, over a connection of the real kind, in front of a cluster
//! that is a map. Each row of the dialect's description has a line in a table here.

use super::*;
use crate::handle::Identity;
use base::rng::Rng;
use bytes::Bytes;
use kv::{IdempotencyKey, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, Operation};
use node::membership::{Configuration, Member};
use node::{Failure, Outcome, Status};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

// ---- Section 1: the requests of hraftd ----

#[tokio::test]
async fn post_sets_all_keys_at_once() {
    let server = Server::new();
    let answer = server.post("/key", r#"{"k1":"v1","k2":"v2"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("content-length"), Some("0"));
    assert_eq!(server.asked(), [put(&[("k1", "v1"), ("k2", "v2")])], "all in one write");
}

#[tokio::test]
async fn get_answers_the_value_and_the_empty_string_for_a_missing_key() {
    let server = Server::with(&[("k", "v")]);
    let answer = server.get("/key/k").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"k":"v"}"#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(server.get("/key/missing").await.body, r#"{"missing":""}"#);
}

#[tokio::test]
async fn delete_answers_the_same_whether_the_key_was_there_or_not() {
    let server = Server::with(&[("k", "v")]);
    for path in ["/key/k", "/key/k", "/key/never"] {
        let answer = server.call("DELETE", path, "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
    }
    assert_eq!(server.get("/key/k").await.body, r#"{"k":""}"#);
}

#[tokio::test]
async fn a_path_that_does_not_name_one_key_is_400() {
    let server = Server::with(&[("a", "1")]);
    for path in ["/key", "/key/", "/key/a/b", "/key/a/", "/key//a", "/key//", "/key?a", "/key/%zz", "/key/%ff"] {
        for method in ["GET", "DELETE"] {
            server.call(method, path, "").await.expect_error(400, "");
        }
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn other_methods_are_405_and_say_which_are_right() {
    let server = Server::new();
    let rows = [
        ("/key/a", &["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND"][..], "GET, HEAD, POST, DELETE"),
        ("/key", &["PUT", "PATCH", "OPTIONS"], "GET, HEAD, POST, DELETE"),
        ("/status", &["POST", "PUT", "DELETE", "OPTIONS"], "GET, HEAD"),
        ("/join", &["GET", "HEAD", "PUT", "DELETE"], "POST"),
        ("/remove", &["GET", "POST", "PUT"], "DELETE"),
    ];
    for (path, methods, allow) in rows {
        for method in methods {
            let answer = server.call(method, path, "{}").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        }
    }
    assert_eq!(server.asked(), []);
}

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
    let member = |name: &str, port: u16| Member {
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

    server.context.cluster.set_status(status.clone());
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
    server.context.cluster.set_status(Status { configuration: Arc::new(joint), ..status.clone() });
    assert_eq!(
        server.get("/status").await.json()["followers"],
        json!([shown("node1", 12001)]),
        "a change shows once it is complete"
    );

    status.leader = None;
    server.context.cluster.set_status(status);
    assert_eq!(
        server.get("/status").await.json(),
        json!({
            "me": shown("node1", 12001),
            "leader": {"id": "", "address": ""},
            "followers": [shown("node0", 12000), shown("node1", 12001)]
        })
    );

    server.context.cluster.set_status(Status::default());
    assert_eq!(
        server.get("/status").await.json(),
        json!({"me": {"id": "me", "address": "here:1"}, "leader": {"id": "", "address": ""}, "followers": []}),
        "a node that has not joined yet"
    );
}

#[tokio::test]
async fn anything_else_is_404() {
    let server = Server::new();
    for path in [
        "/",
        "//key/x",
        "/Key/a",
        "/KEY",
        "/keyfoo",
        "/keys/a",
        "/join/",
        "/status/",
        "/remove/",
        "/favicon.ico",
        "*",
        "/%6bey/a",
        "http://localhost/other",
    ] {
        server.call("GET", path, "").await.expect_error(404, "/key");
    }
    server.post("/keyfoo", r#"{"a":"1"}"#).await.expect_error(404, "");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_read_is_linearizable_unless_the_request_or_the_node_says_otherwise() {
    let server = Server::with(&[("k", "v")]);
    for path in ["/key/k", "/key/k?level=linearizable", "/key/k?level=LINEARIZABLE"] {
        assert_eq!(server.get(path).await.body, r#"{"k":"v"}"#);
        assert_eq!(server.asked(), [Asked::Read], "{path}");
    }
    assert_eq!(server.get("/key/k?x=1&level=none").await.body, r#"{"k":"v"}"#);
    assert_eq!(server.asked(), []);
    for level in ["quick", "", "non"] {
        server.get(&format!("/key/k?level={level}")).await.expect_error(400, "none or linearizable");
    }

    let server = Server::with_settings(Settings { read_level: Level::None, ..settings() });
    server.get("/key/k").await;
    assert_eq!(server.asked(), []);
    server.get("/key/k?level=linearizable").await;
    assert_eq!(server.asked(), [Asked::Read]);
}

// ---- Section 5: the edges ----

#[tokio::test]
async fn bodies_that_set_nothing_and_say_so() {
    let server = Server::new();
    for body in ["{}", "null", " {\n} "] {
        let answer = server.post("/key", body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{body}");
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn bodies_that_set_something() {
    let rows: [(&str, &[(&str, &str)]); 8] = [
        (r#"{"a":null}"#, &[("a", "")]),
        (r#"{"a":""}"#, &[("a", "")]),
        (r#"{"a":"1","b":"2","a":"3"}"#, &[("a", "3"), ("b", "2")]),
        (" \t\r\n{ \"a\" : \"1\" } \n", &[("a", "1")]),
        (r#"{"\u00e9\ud83d\ude00":"\u0000\n\""}"#, &[("é😀", "\0\n\"")]),
        (r#"{"a/b":"c","..":"d","%2f":"e"}"#, &[("%2f", "e"), ("..", "d"), ("a/b", "c")]),
        ("{\"é\":\"ü\"}", &[("é", "ü")]),
        (r#"{"a":"<>&\u2028"}"#, &[("a", "<>&\u{2028}")]),
    ];
    for (body, expected) in rows {
        let server = Server::new();
        let answer = server.post("/key", body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{body}");
        assert_eq!(server.content(), content(expected), "{body}");
    }
}

#[tokio::test]
async fn bodies_that_are_400_and_change_nothing() {
    let rows: [(&[u8], &str); 18] = [
        (b"", "EOF"),
        (b"[]", "invalid type"),
        (br#"["a"]"#, "invalid type"),
        (br#""a""#, "invalid type"),
        (b"7", "invalid type"),
        (b"{", "EOF"),
        (br#"{"a":"1""#, "EOF"),
        (b"{'a':'1'}", "key must be a string"),
        (br#"{"a":"1","b":2}"#, "expected a string"),
        (br#"{"a":"1","b":true}"#, "expected a string"),
        (br#"{"a":"1","b":{}}"#, "expected a string"),
        (br#"{"a":"1","b":["2"]}"#, "expected a string"),
        (br#"{"a":"1"} x"#, "trailing characters"),
        (br#"{"a":"1"}{"b":"2"}"#, "trailing characters"),
        (b"{\"a\":\"\xff\"}", "unicode"),
        (b"{\"\xc3\":\"1\"}", "unicode"),
        (br#"{"a":"\ud800"}"#, ""),
        (br#"{"":"1","b":"2"}"#, "must not be empty"),
    ];
    let server = Server::new();
    for (body, reason) in rows {
        let answer = server.send(&request("POST", "/key", &[], body)).await;
        answer.expect_error(400, reason);
        assert!(answer.body.contains("nothing was changed"), "{}", answer.body);
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn post_below_key_is_post_to_key() {
    let server = Server::new();
    for path in ["/key/", "/key/anything", "/key/a/b"] {
        assert_eq!(server.post(path, r#"{"a":"1"}"#).await.status, 200);
        assert_eq!(server.asked(), [put(&[("a", "1")])], "{path}");
    }
}

#[tokio::test]
async fn escapes_in_a_path_are_decoded_once() {
    let rows = [
        ("/key/a%2Fb", "a/b"),
        ("/key/a%2fb", "a/b"),
        ("/key/%2520", "%20"),
        ("/key/a+b", "a+b"),
        ("/key/a%20b", "a b"),
        ("/key/..", ".."),
        ("/key/%2e%2e", ".."),
        ("/key/%00", "\0"),
        ("/key/é", "é"),
        ("/key/%C3%A9", "é"),
        ("/key/%22", "\""),
        ("/key/%3F?level=none", "?"),
    ];
    for (path, key) in rows {
        let server = Server::with(&[(key, "found")]);
        let answer = server.get(path).await;
        assert_eq!(answer.json(), json!({key: "found"}), "{path}");
        assert_eq!(server.call("DELETE", path, "").await.status, 200);
        assert_eq!(server.content(), content(&[]), "{path}");
    }
}

#[tokio::test]
async fn every_key_and_value_comes_back_as_correct_json() {
    let odd = "<>&\u{2028}\u{2029}\u{7f}\\\"\n\0é😀/";
    let server = Server::new();
    server.post("/key", &json!({ odd: odd }).to_string()).await;
    let path: String = odd.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(server.get(&format!("/key/{path}")).await.json(), json!({ odd: odd }));
}

#[tokio::test]
async fn a_value_that_json_cannot_carry_is_an_error_and_not_altered() {
    let server = Server::new();
    server.context.cluster.data.lock().unwrap().insert(b"raw".to_vec(), Bytes::from_static(b"\xff\xfe"));
    server.get("/key/raw").await.expect_error(406, "not UTF-8");
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let server = Server::with(&[("k", "v")]);
    let answer = server.call("HEAD", "/key/k", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("content-length"), Some("9"));
    assert_eq!(server.call("HEAD", "/key/a/b", "").await.status, 400);
    assert_eq!(server.call("HEAD", "/status", "").await.status, 200);
}

#[tokio::test]
async fn large_keys_and_values_are_taken_up_to_their_limits() {
    let server = Server::new();
    for (key, value) in [(4000, 10), (MAX_KEY_BYTES, 10), (10, 1_000_000), (10, MAX_VALUE_BYTES)] {
        let body = json!({"k".repeat(key): "v".repeat(value)}).to_string();
        assert_eq!(server.post("/key", &body).await.status, 200, "{key} {value}");
    }
    assert_eq!(server.get(&format!("/key/{}", "%6b".repeat(MAX_KEY_BYTES))).await.status, 200);
}

#[tokio::test]
async fn over_a_limit_is_413_and_names_it() {
    let server = Server::new();
    let long_key = "k".repeat(MAX_KEY_BYTES + 1);
    let rows = [
        (json!({&long_key: "v"}).to_string(), MAX_KEY_BYTES),
        (json!({"a": "1", "k": "v".repeat(MAX_VALUE_BYTES + 1)}).to_string(), MAX_VALUE_BYTES),
        (format!("{{{}}}", vec![r#""k":"v""#; MAX_OPERATIONS + 1].join(",")), MAX_OPERATIONS),
        (" ".repeat(MAX_BODY_BYTES + 1), MAX_BODY_BYTES),
    ];
    for (body, limit) in rows {
        server.post("/key", &body).await.expect_error(413, &limit.to_string());
    }
    for method in ["GET", "DELETE"] {
        let path = format!("/key/{long_key}");
        server.call(method, &path, "").await.expect_error(413, &MAX_KEY_BYTES.to_string());
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    let server = Server::new();
    let mut client = server.connect();
    client.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 4194305\r\n\r\n").await.unwrap();
    let answer = Answered::read(&mut client).await;
    answer.expect_error(413, "4194304");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_chunked_body_is_refused_once_it_is_too_large() {
    let server = Server::new();
    let chunk = "x".repeat(65536);
    let mut raw = b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..80 {
        raw.extend_from_slice(format!("10000\r\n{chunk}\r\n").as_bytes());
    }
    server.send(&raw).await.expect_error(413, "4194304");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_head_over_its_limits_is_431_and_names_them() {
    let server = Server::new();
    let header = format!("X-Long: {}\r\n", "x".repeat(MAX_HEAD_BYTES));
    let many: String = (0..=MAX_HEADERS).map(|n| format!("X-{n}: 1\r\n")).collect();
    let endless = "x".repeat(MAX_HEAD_BYTES * 4);
    let rows = [
        format!("GET /key/a HTTP/1.1\r\nHost: x\r\n{header}\r\n"),
        format!("GET /key/a HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        format!("GET /key/{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(MAX_HEAD_BYTES)),
        format!("GET /key/a HTTP/1.1\r\nHost: x\r\nX-Endless: {endless}"),
    ];
    for raw in rows {
        let answer = server.send(raw.as_bytes()).await;
        answer.expect_error(431, &MAX_HEAD_BYTES.to_string());
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn what_is_no_request_is_400_with_a_reason() {
    let server = Server::new();
    let rows: [&[u8]; 8] = [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /key/a\r\n\r\n",
        b"GET /key/a HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /key/a HTTP/1.1\r\nbroken header\r\n\r\n",
        b"GET /key/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET /key/a HTTP/1.1\r\n\r\n",
    ];
    for raw in rows {
        server.send(raw).await.expect_error(400, "");
    }
    server.send(rows[7]).await.expect_error(400, "Host");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_body_cut_short_changes_nothing() {
    let server = Server::new();
    server.send(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"a\":\"1\"}").await;
    server.send(b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"a\":\"1\"}\r\n").await;
    server.send(b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n").await;
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn chunked_bodies_old_clients_and_any_content_type_work() {
    let rows: [&[u8]; 4] = [
        b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n5\r\n:\"1\"}\r\n0\r\n\r\n",
        b"POST /key HTTP/1.0\r\nContent-Length: 9\r\n\r\n{\"a\":\"1\"}",
        b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Type: application-type/json\r\nContent-Length: 9\r\n\r\n{\"a\":\"1\"}",
        b"POST http://x/key HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"a\":\"1\"}",
    ];
    for raw in rows {
        let server = Server::new();
        assert_eq!(server.send(raw).await.status, 200);
        assert_eq!(server.content(), content(&[("a", "1")]));
    }
}

#[tokio::test]
async fn who_waits_for_100_continue_gets_it() {
    let server = Server::new();
    let mut client = server.connect();
    let head = b"POST /key HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    client.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"{\"a\":\"1\"}").await.unwrap();
    assert_eq!(Answered::read(&mut client).await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_garbage_after_them_is_400() {
    let server = Server::with(&[("a", "1"), ("b", "2")]);
    let raw = b"GET /key/a HTTP/1.1\r\nHost: x\r\n\r\nGET /key/b HTTP/1.1\r\nHost: x\r\n\r\nGET /key/missing HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = server.connect();
    client.write_all(raw).await.unwrap();
    for expected in [r#"{"a":"1"}"#, r#"{"b":"2"}"#, r#"{"missing":""}"#] {
        assert_eq!(Answered::read(&mut client).await.body, expected);
    }
    client.write_all(b"garbage\r\n\r\n").await.unwrap();
    Answered::read(&mut client).await.expect_error(400, "no HTTP/1.1 request");
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

    assert_eq!(server.call("DELETE", "/remove", r#"{"id":"node2"}"#).await.status, 200);
    assert_eq!(server.asked(), [Asked::Remove("node2".into())]);
}

// ---- Ours ----

#[tokio::test]
async fn a_failure_says_what_happened_to_the_request() {
    let rows = [
        (Failure::Invalid("no".into()), 400, "no"),
        (Failure::Unavailable("no leader".into()), 503, "no leader"),
        (Failure::Overloaded("too much".into()), 429, "too much"),
        (Failure::Unknown("it took too long".into()), 504, "outcome is unknown"),
        (Failure::KeyReused("another body".into()), 422, "another body"),
        (Failure::Removed("removed by node0".into()), 410, "removed by node0"),
    ];
    for (failure, status, reason) in rows {
        let server = Server::new().fail(failure);
        let retry_after = matches!(status, 503 | 429).then_some("1");
        for answer in [
            server.post("/key", r#"{"a":"1"}"#).await,
            server.get("/key/a").await,
            server.call("DELETE", "/key/a", "").await,
            server.post("/join", r#"{"id":"n","addr":"a:1"}"#).await,
        ] {
            answer.expect_error(status, reason);
            assert_eq!(answer.header("retry-after"), retry_after);
        }
    }
}

#[tokio::test]
async fn an_idempotency_key_goes_with_a_fingerprint_of_the_request() {
    let server = Server::new();
    let key = |key: &str, method: &str, path: &str, body: &str| {
        let raw = request(method, path, &[("Idempotency-Key", key)], body.as_bytes());
        let server = &server;
        async move {
            assert_eq!(server.send(&raw).await.status, 200);
            match server.asked().remove(0) {
                Asked::Write(_, Some(IdempotencyKey { key, fingerprint })) => {
                    (String::from_utf8(key.to_vec()).unwrap(), fingerprint)
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let first = key("one", "POST", "/key", r#"{"a":"1"}"#).await;
    assert_eq!(first.0, "one");
    assert_eq!(key("one", "POST", "/key", r#"{"a":"1"}"#).await, first);
    assert_ne!(key("one", "POST", "/key", r#"{"a":"2"}"#).await.1, first.1);
    assert_ne!(key("one", "DELETE", "/key/a", "").await.1, key("one", "DELETE", "/key/b", "").await.1);

    for bad in ["", &"x".repeat(256)] {
        let raw = request("POST", "/key", &[("Idempotency-Key", bad)], br#"{"a":"1"}"#);
        server.send(&raw).await.expect_error(400, "Idempotency-Key");
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_head_slowly_is_told_and_dropped() {
    let server = Server::new();
    let mut client = server.connect();
    client.write_all(b"GET /key/a HTTP/1.1\r\nHos").await.unwrap();
    Answered::read(&mut client).await.expect_error(408, "head");
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_body_slowly_is_told_and_dropped() {
    let server = Server::new();
    let mut client = server.connect();
    client.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{").await.unwrap();
    Answered::read(&mut client).await.expect_error(408, "body");
    assert_eq!(server.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_minutes_and_then_closed() {
    let server = Server::with(&[("k", "v")]);
    let mut client = server.connect();
    for _ in 0..3 {
        tokio::time::sleep(PATROL * (IDLE_ROUNDS - 2)).await;
        client.write_all(&request("GET", "/key/k", &[], b"")).await.unwrap();
        assert_eq!(Answered::read(&mut client).await.body, r#"{"k":"v"}"#);
    }
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn closing_answers_the_request_in_hand_and_ends_every_connection() {
    let server = Server::new();
    let (mut busy, mut idle, mut fresh) = (server.connect(), server.connect(), server.connect());
    idle.write_all(&request("GET", "/key/k", &[], b"")).await.unwrap();
    assert_eq!(Answered::read(&mut idle).await.status, 200);
    busy.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        .await
        .unwrap();
    busy.read_exact(&mut [0; 25]).await.unwrap();

    server.context.close();
    for client in [&mut idle, &mut fresh] {
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
    busy.write_all(b"{\"a\":\"1\"}").await.unwrap();
    assert_eq!(Answered::read(&mut busy).await.status, 200);
    assert_eq!(busy.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(server.content(), content(&[("a", "1")]));
}

#[tokio::test]
async fn a_client_that_never_stops_sending_still_gets_its_answer() {
    let server = Server::new();
    let (mut reader, mut writer) = tokio::io::split(server.connect());
    let sending = tokio::spawn(async move {
        let _ = writer.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n").await;
        let megabyte = vec![b'x'; 1 << 20];
        while writer.write_all(&megabyte).await.is_ok() {}
    });
    Answered::read(&mut reader).await.expect_error(413, "limit");
    sending.await.unwrap();
}

#[tokio::test]
async fn a_thousand_random_byte_strings_change_nothing() {
    let server = Server::new();
    let mut rng = Rng::new(20_261_121);
    for round in 0..1000 {
        let length = rng.below(600) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
        if round % 2 == 0 {
            // Half of them begin like a request, so that they get further.
            let begins: [&[u8]; 3] = [b"POST /key HTTP/1.1\r\nHost: x\r\n", b"DELETE /key/", b"POST /join "];
            bytes.splice(0..0, rng.pick(&begins).iter().copied());
        }
        server.send(&bytes).await;
    }
    assert_eq!(server.asked(), []);
    assert_eq!(server.get("/key/a").await.status, 200);
}

// ---- The stage ----

struct Server {
    context: Arc<Context<Map>>,
    peer: SocketAddr,
}

impl Server {
    fn new() -> Server {
        Server::with_settings(settings())
    }

    fn with_settings(settings: Settings) -> Server {
        let peer = "127.0.0.1:50000".parse().unwrap();
        Server { context: Arc::new(Context::new(Map::default(), settings)), peer }
    }

    fn with(pairs: &[(&str, &str)]) -> Server {
        let server = Server::new();
        *server.context.cluster.data.lock().unwrap() = content(pairs);
        server
    }

    /// Every request to the cluster fails like this.
    fn fail(self, failure: Failure) -> Server {
        *self.context.cluster.failure.lock().unwrap() = Some(failure);
        self
    }

    fn connect(&self) -> DuplexStream {
        self.open().0
    }

    fn open(&self) -> (DuplexStream, JoinHandle<()>) {
        let (client, served) = duplex(1 << 16);
        (client, tokio::spawn(serve(served, self.peer, self.context.clone())))
    }

    /// Sends the bytes over a connection of their own, says that they are all, and waits until the server is done.
    async fn send(&self, bytes: &[u8]) -> Answered {
        let (client, serving) = self.open();
        let (mut reader, mut writer) = tokio::io::split(client);
        let write = async {
            // A server that has heard enough need not listen to the end.
            let _ = writer.write_all(bytes).await;
            let _ = writer.shutdown().await;
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut answer));
        read.unwrap();
        serving.await.expect("the connection must not panic");
        Answered::parse(&answer)
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answered {
        self.send(&request(method, path, &[], body.as_bytes())).await
    }

    async fn get(&self, path: &str) -> Answered {
        self.call("GET", path, "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answered {
        self.call("POST", path, body).await
    }

    /// What the cluster was asked since the last look.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.context.cluster.asked.lock().unwrap())
    }

    fn content(&self) -> BTreeMap<Vec<u8>, Bytes> {
        self.context.cluster.data.lock().unwrap().clone()
    }
}

fn settings() -> Settings {
    Settings { read_level: Level::Linearizable, request_limit: Duration::from_secs(10) }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn put(pairs: &[(&str, &str)]) -> Asked {
    let operation = |(key, value): &(&str, &str)| Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    Asked::Write(pairs.iter().map(operation).collect(), None)
}

fn content(pairs: &[(&str, &str)]) -> BTreeMap<Vec<u8>, Bytes> {
    pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

/// What a cluster was asked.
#[derive(Debug, PartialEq)]
enum Asked {
    Read,
    Write(Vec<Operation>, Option<IdempotencyKey>),
    Join(String, String),
    Remove(String),
}

/// A cluster that is a map.
struct Map {
    data: Mutex<BTreeMap<Vec<u8>, Bytes>>,
    asked: Mutex<Vec<Asked>>,
    failure: Mutex<Option<Failure>>,
    status: Mutex<Arc<Status>>,
    identity: Arc<Identity>,
}

impl Default for Map {
    fn default() -> Map {
        let identity =
            Identity { name: "me".into(), address: "here:1".into(), incarnation: base::Incarnation(1), cluster: None };
        Map {
            data: Mutex::default(),
            asked: Mutex::default(),
            failure: Mutex::default(),
            status: Mutex::default(),
            identity: Arc::new(identity),
        }
    }
}

impl Map {
    fn set_status(&self, status: Status) {
        *self.status.lock().unwrap() = Arc::new(status);
    }
}

impl Cluster for Map {
    async fn request(&self, request: node::Request, _limit: Duration) -> Outcome {
        if let Some(failure) = &*self.failure.lock().unwrap() {
            return Outcome::Failed(failure.clone());
        }
        let asked = match &request {
            node::Request::Read => Asked::Read,
            node::Request::Write { operations, idempotency } => Asked::Write(operations.clone(), idempotency.clone()),
            node::Request::Join { name, address } => Asked::Join(name.clone(), address.clone()),
            node::Request::Remove { name } => Asked::Remove(name.clone()),
            node::Request::Transfer { .. } => panic!("the dialect has no word for {request:?}"),
        };
        self.asked.lock().unwrap().push(asked);
        match request {
            node::Request::Write { operations, .. } => {
                let changed = operations.len() as u32;
                let mut data = self.data.lock().unwrap();
                for operation in operations {
                    match operation {
                        Operation::Put { key, value } => data.insert(key.to_vec(), value),
                        Operation::Delete { key } => data.remove(&key[..]),
                    };
                }
                Outcome::Written { revision: 1, changed }
            }
            node::Request::Read => Outcome::Readable,
            _ => Outcome::Done,
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        Ok(self.data.lock().unwrap().get(key).cloned())
    }

    fn status(&self) -> Arc<Status> {
        self.status.lock().unwrap().clone()
    }

    fn identity(&self) -> Arc<Identity> {
        self.identity.clone()
    }
}

/// An answer as it came over the wire. All empty if none came.
#[derive(Debug, Default)]
struct Answered {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answered {
    /// Reads one answer and leaves the connection open.
    async fn read(client: &mut (impl AsyncRead + Unpin)) -> Answered {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(client.read_u8().await.expect("an answer's head"));
        }
        let length = Answered::parse(&bytes).header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        client.read_exact(&mut body).await.expect("an answer's body");
        Answered::parse(&[bytes, body].concat())
    }

    fn parse(bytes: &[u8]) -> Answered {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert_eq!(text, "", "half an answer");
            return Answered::default();
        };
        let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        Answered {
            status: line.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers.lines().map(header).collect(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// It must be an error with that status, whose sentence contains `reason`.
    #[track_caller]
    fn expect_error(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        let error = self.json()["error"].as_str().expect("an error is a sentence").to_owned();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }
}
