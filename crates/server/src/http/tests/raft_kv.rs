//! The dialect of raft-kv, row by row, and its edges.

use super::*;

#[tokio::test]
async fn the_walkthrough() {
    let server = Server::new();
    let answer = server.get("/keys/some-key/").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"value":""}"#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("quorate-found"), Some("false"));

    let answer = server.post("/keys/some-key/", r#"{"value": "some-value"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"value":"some-value"}"#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable), put(&[("some-key", "some-value")])]);

    assert_eq!(server.get("/keys/some-key/").await.body, r#"{"value":"some-value"}"#);
}

#[tokio::test]
async fn the_last_slash_may_be_missing() {
    let server = Server::new();
    assert_eq!(server.post("/keys/k", r#"{"value":"v"}"#).await.body, r#"{"value":"v"}"#);
    for path in ["/keys/k", "/keys/k/", "/keys/k?level=none", "/keys/k/?level=none"] {
        assert_eq!(server.get(path).await.body, r#"{"value":"v"}"#, "{path}");
    }
    assert_eq!(server.call("HEAD", "/keys/k/", "").await.header("content-length"), Some("13"));
}

#[tokio::test]
async fn bodies_and_what_they_save() {
    let rows = [
        ("{}", ""),
        ("null", ""),
        (r#"{"value":""}"#, ""),
        (r#"{"value":null}"#, ""),
        (r#"{"value":"a","value":"b"}"#, "b"),
        (r#"{"Value":"a"}"#, "a"),
        (" {\t\"value\" : \"a\" }\r\n", "a"),
        (r#"{"other":"a"}"#, ""),
        (r#"{"a":1,"value":"v","b":[{"value":"w"}],"c":null,"values":true}"#, "v"),
        (r#"{"value":"<>&\u2028\u0000\ud83d\ude00"}"#, "<>&\u{2028}\0😀"),
    ];
    for (body, saved) in rows {
        let server = Server::new();
        let answer = server.post("/keys/k/", body).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "value": saved })), "{body}");
        assert_eq!(server.content(), content(&[("k", saved)]), "{body}");
        assert_eq!(server.get("/keys/k/").await.body, answer.body);
    }
}

#[tokio::test]
async fn bodies_that_are_400_and_change_nothing() {
    let rows: [(&[u8], &str); 16] = [
        (b"", "EOF"),
        (b"no JSON", "expected ident"),
        (b"[]", "expected an object"),
        (br#"["v"]"#, "expected an object"),
        (br#""v""#, "expected an object"),
        (b"7", "expected an object"),
        (b"{", "EOF"),
        (br#"{"value":"v""#, "EOF"),
        (br#"{"value":7}"#, "expected a string"),
        (br#"{"value":true}"#, "expected a string"),
        (br#"{"value":{}}"#, "expected a string"),
        (br#"{"value":["v"]}"#, "expected a string"),
        (br#"{"value":7,"value":"v"}"#, "expected a string"),
        (br#"{"value":"v"} x"#, "trailing characters"),
        (br#"{"value":"v"}{"value":"w"}"#, "trailing characters"),
        (b"{\"value\":\"\xff\"}", "unicode"),
    ];
    let server = Server::new();
    for (body, reason) in rows {
        let answer = server.send(&request("POST", "/keys/k/", &[], body)).await;
        expect_code(&answer, 400, reason);
        assert!(answer.body.contains("nothing was changed"), "{}", answer.body);
    }
    assert_eq!(server.asked(), []);
}

/// The answer does not repeat the key, so it need not be text.
#[tokio::test]
async fn a_key_is_one_segment_of_any_bytes_decoded_once() {
    let rows: [(&str, &[u8]); 8] = [
        ("a%2Fb", b"a/b"),
        ("%2520", b"%20"),
        ("a+b", b"a+b"),
        ("..", b".."),
        ("%00", b"\0"),
        ("%FF%fe", b"\xff\xfe"),
        ("é", "é".as_bytes()),
        ("%3F", b"?"),
    ];
    for (segment, key) in rows {
        let server = Server::new();
        assert_eq!(server.post(&format!("/keys/{segment}/"), r#"{"value":"v"}"#).await.status, 200);
        assert_eq!(server.content().into_keys().collect::<Vec<_>>(), [key], "{segment}");
        assert_eq!(server.get(&format!("/keys/{segment}")).await.body, r#"{"value":"v"}"#);
    }
    let server = Server::new();
    for path in ["/keys", "/keys/", "/keys//", "/keys/a/b", "/keys/a/b/", "/keys/a//", "/keys//a/", "/keys/%zz/"] {
        for method in ["GET", "POST"] {
            expect_code(&server.call(method, path, "{}").await, 400, "");
        }
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn other_methods_are_405_and_other_paths_404() {
    let server = Server::new();
    for (path, methods, allow) in [
        ("/keys/a/", &["PUT", "PATCH", "DELETE", "OPTIONS"][..], "GET, HEAD, POST"),
        ("/keys/", &["DELETE"], "GET, HEAD, POST"),
        ("/cluster/join/", &["GET", "HEAD", "PUT", "DELETE"], "POST"),
    ] {
        for method in methods {
            let answer = server.call(method, path, "{}").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
            assert!(*method == "HEAD" || answer.json()["code"] == 405);
        }
    }
    for path in ["/keysa/", "/Keys/a/", "//keys/a/", "/cluster", "/cluster/", "/cluster/join/x", "/cluster/join//"] {
        server.get(path).await.expect_error(404, "/keys/NAME/");
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_node_joins_under_its_address_or_the_name_that_the_cluster_knows() {
    let mut known = led_by("node0");
    let node3 = membership::Member {
        name: "node3".into(),
        address: "localhost:4003".into(),
        incarnation: base::Incarnation(1),
    };
    Arc::make_mut(&mut known.configuration).members.insert(3, node3);
    let rows = [
        (r#"{"address":"10.1.0.102:4002"}"#, "10.1.0.102:4002", "10.1.0.102:4002"),
        (r#"{"address":":4002","more":[]}"#, "10.1.2.3:4002", "10.1.2.3:4002"),
        (r#"{"address":"localhost:4003"}"#, "node3", "localhost:4003"),
        (r#"{"address":"127.0.0.1:4003"}"#, "node3", "localhost:4003"),
    ];
    for (body, name, address) in rows {
        let server = Server { peer: "10.1.2.3:5".parse().unwrap(), ..Server::new() };
        server.cluster().set_status(known.clone());
        for path in ["/cluster/join/", "/cluster/join"] {
            let answer = server.post(path, body).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "{}"), "{body}");
            assert_eq!(server.asked(), [Asked::Join(name.into(), address.into())], "{body}");
        }
    }

    let server = Server::new();
    for body in ["", "{}", "[]", r#"{"address":7}"#, r#"{"address":"localhost"}"#, r#"{"address":"localhost:0"}"#] {
        expect_code(&server.post("/cluster/join/", body).await, 400, "address");
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_value_that_json_cannot_carry_is_an_error_and_not_altered() {
    let server = Server::new();
    server.cluster().put(b"raw", b"\xff\xfe");
    expect_code(&server.get("/keys/raw/").await, 406, "not UTF-8");
}

#[tokio::test]
async fn over_a_limit_is_413_and_names_it() {
    let server = Server::new();
    let largest = "k".repeat(MAX_KEY_BYTES);
    let body = json!({ "value": "v".repeat(MAX_VALUE_BYTES) }).to_string();
    assert_eq!(server.post(&format!("/keys/{largest}/"), &body).await.status, 200);
    server.asked();

    let answer = server.post(&format!("/keys/{largest}k/"), r#"{"value":"v"}"#).await;
    expect_code(&answer, 413, &MAX_KEY_BYTES.to_string());
    let body = json!({ "value": "v".repeat(MAX_VALUE_BYTES + 1) }).to_string();
    expect_code(&server.post("/keys/k/", &body).await, 413, &MAX_VALUE_BYTES.to_string());
    let answer = server.post("/keys/k/", &" ".repeat(MAX_BODY_BYTES + 1)).await;
    expect_code(&answer, 413, &MAX_BODY_BYTES.to_string());
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_failure_has_its_code_in_the_body_too() {
    for (failure, status) in [
        (Failure::Unavailable("no leader".into()), 503),
        (Failure::Overloaded("too much".into()), 429),
        (Failure::Unknown("it took too long".into()), 504),
        (Failure::Removed("removed by node0".into()), 410),
    ] {
        let server = Server::new().fail(failure);
        for answer in [
            server.post("/keys/k/", r#"{"value":"v"}"#).await,
            server.get("/keys/k/").await,
            server.post("/cluster/join/", r#"{"address":"a:1"}"#).await,
        ] {
            expect_code(&answer, status, "");
        }
    }
}

#[tokio::test]
async fn where_nothing_is_forwarded_a_follower_refuses_changes_and_points_to_the_leader() {
    let server = Server::with_settings(Settings { forward: false, ..settings() });
    *server.cluster().leader.lock().unwrap() =
        Some(Leader { name: "10.1.0.101:4001".into(), address: "10.1.0.101:4001".into(), url: None });
    for (path, body) in [("/keys/k/", r#"{"value":"v"}"#), ("/cluster/join/", r#"{"address":"a:1"}"#)] {
        let answer = server.post(path, body).await;
        expect_code(&answer, 503, "not the leader");
        assert_eq!(answer.header("quorate-leader-address"), Some("10.1.0.101:4001"));
    }
    assert_eq!(server.get("/keys/k/").await.status, 200, "it reads by itself");
}

/// `{"code":…,"error":"…"}`
#[track_caller]
fn expect_code(answer: &Answered, status: u16, reason: &str) {
    answer.expect_error(status, reason);
    assert_eq!(answer.json()["code"], status);
}
