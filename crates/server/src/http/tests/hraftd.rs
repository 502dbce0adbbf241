//! The dialect of hraftd, row by row, and its edges.

use super::*;

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
async fn anything_else_is_404() {
    let server = Server::new();
    for path in [
        "/",
        "//key/x",
        "/Key/a",
        "/KEY",
        "/keyfoo",
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
    server.cluster().put(b"raw", b"\xff\xfe");
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
    let key = |key: &str, method: &str, path: &str, body: &str| {
        let raw = request(method, path, &[("Idempotency-Key", key)], body.as_bytes());
        async move {
            let server = Server::new();
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

    let server = Server::new();
    for bad in ["", &"x".repeat(256)] {
        let raw = request("POST", "/key", &[("Idempotency-Key", bad)], br#"{"a":"1"}"#);
        server.send(&raw).await.expect_error(400, "Idempotency-Key");
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn where_nothing_is_forwarded_a_follower_refuses_changes_and_points_to_the_leader() {
    let server = Server::with_settings(Settings { forward: false, ..settings() });
    let status = Status { role: node::Role::Follower, ..led_by("node0") };
    server.cluster().set_status(status.clone());
    *server.cluster().leader.lock().unwrap() = Some(Leader {
        name: "node0".into(),
        address: "localhost:12000".into(),
        url: Some("http://localhost:11000".into()),
    });
    for (method, path, body) in [
        ("POST", "/key", r#"{"a":"1"}"#),
        ("DELETE", "/key/a", ""),
        ("POST", "/join", r#"{"id":"n","addr":"a:1"}"#),
        ("DELETE", "/remove", r#"{"id":"n"}"#),
    ] {
        let answer = server.call(method, path, body).await;
        answer.expect_error(500, "not the leader");
        assert_eq!(answer.header("quorate-leader"), Some("node0"));
        assert_eq!(answer.header("quorate-leader-address"), Some("localhost:12000"));
        assert_eq!(answer.header("quorate-leader-url"), Some("http://localhost:11000"));
    }
    assert_eq!(server.get("/key/a").await.status, 200, "it reads by itself");
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable)]);

    server.cluster().set_status(Status { role: node::Role::Leader, ..status });
    assert_eq!(server.post("/key", r#"{"a":"1"}"#).await.status, 200);
    assert_eq!(server.asked(), [put(&[("a", "1")])]);
}
