//! One key.

use super::*;
use kv::{Action, Step};

/// What was written at revisions 1 to 3, of which the last belongs to another key.
async fn three() -> Server {
    let server = Server::new();
    for (key, value) in [("k", "one"), ("k", "two"), ("other", "x")] {
        assert_eq!(server.call("PUT", &format!("/v1/kv/{key}"), value).await.status, 200);
    }
    server.asked();
    server
}

async fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answered {
    server.send(&request(method, path, headers, body.as_bytes())).await
}

#[tokio::test]
async fn a_value_is_its_bytes_and_its_headers_tell_the_rest() {
    let server = three().await;
    let answer = server.get("/v1/kv/k").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "two"));
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("etag", "\"2\""),
        ("vary", "accept"),
        ("quorate-revision", "3"),
        ("quorate-create-revision", "1"),
        ("quorate-version", "2"),
        ("quorate-level", "linearizable"),
        ("quorate-node", "me"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert_eq!((answer.header("quorate-lease"), answer.header("quorate-found")), (None, None));
    let head = server.call("HEAD", "/v1/kv/k", "").await;
    assert_eq!((head.status, head.body.as_str(), head.header("content-length")), (200, "", Some("3")));

    let missing = server.get("/v1/kv/missing").await;
    missing.expect_problem(404, "key_not_found", "no key \"missing\" at revision 3");
    assert_eq!(
        (missing.header("quorate-revision"), missing.header("quorate-level")),
        (Some("3"), Some("linearizable"))
    );
}

#[tokio::test]
async fn as_json_it_says_the_same() {
    let server = three().await;
    let json_of = |path| {
        let server = &server;
        async move {
            let answer = ask(server, "GET", path, &[("Accept", "application/json")], "").await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
            answer.json()
        }
    };
    let expected = json!({"key": "k", "value": "two", "create_revision": 1, "mod_revision": 2, "version": 2, "lease": 0,
        "revision": 3});
    assert_eq!(json_of("/v1/kv/k").await, expected);
    server.cluster().put(b"\xff", b"\x80");
    let expected = json!({"key_base64": "/w==", "value_base64": "gA==", "create_revision": 4, "mod_revision": 4,
        "version": 1, "lease": 0, "revision": 4});
    assert_eq!(json_of("/v1/kv/%FF").await, expected);
}

#[tokio::test]
async fn a_key_is_the_rest_of_the_path_decoded_once() {
    let rows: [(&str, &[u8]); 9] = [
        ("/v1/kv/a/b", b"a/b"),
        ("/v1/kv/a%2Fb%2f", b"a/b/"),
        ("/v1/kv//a//", b"/a//"),
        ("/v1/kv/../x/.", b"../x/."),
        ("/v1/kv/%2520", b"%20"),
        ("/v1/kv/a+b", b"a+b"),
        ("/v1/kv/%00%ff", b"\0\xff"),
        ("/v1/kv/\u{e9}", "\u{e9}".as_bytes()),
        ("/v1/kv/a%3Fb", b"a?b"),
    ];
    for (path, key) in rows {
        let server = Server::new();
        assert_eq!(server.call("PUT", path, "found").await.status, 200, "{path}");
        assert_eq!(server.content().into_iter().collect::<Vec<_>>(), [(key.to_vec(), Bytes::from("found"))]);
        assert_eq!(server.get(path).await.body, "found", "{path}");
        assert_eq!(server.call("DELETE", path, "").await.json()["deleted"], 1);
        assert_eq!(server.content(), content(&[]), "{path}");
    }
    Server::new().get("/v1/kv/").await.expect_problem(400, "invalid", "must not be empty");
}

#[tokio::test]
async fn what_was_there_at_an_earlier_revision_can_be_read_until_it_is_compacted() {
    let server = three().await;
    let answer = server.get("/v1/kv/k?revision=1&level=none").await;
    assert_eq!((answer.body.as_str(), answer.header("etag")), ("one", Some("\"1\"")));
    assert_eq!((answer.header("quorate-revision"), answer.header("quorate-level")), (Some("1"), Some("none")));
    server.get("/v1/kv/other?revision=2").await.expect_problem(404, "key_not_found", "revision 2");
    server.get("/v1/kv/k?revision=0").await.expect_problem(404, "key_not_found", "revision 0");
    let future = server.get("/v1/kv/k?revision=4").await;
    assert_eq!(future.expect_problem(400, "future_revision", "still to come")["newest"], 3);
    assert_eq!(future.header("quorate-revision"), Some("3"));
    server.cluster().act(Action::Compact { revision: 2 }, None);
    let gone = server.get("/v1/kv/k?revision=1").await;
    assert_eq!(gone.expect_problem(410, "compacted", "oldest that can be read is 2")["oldest"], 2);
    assert_eq!(server.get("/v1/kv/k?revision=2").await.body, "two");
}

#[tokio::test]
async fn a_reader_that_has_it_already_is_told_so() {
    let server = three().await;
    let rows = [
        ("If-None-Match", "\"2\"", 304),
        ("If-None-Match", "W/\"1\", \"2\"", 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", "\"1\"", 200),
        ("If-Match", "\"2\"", 200),
        ("If-Match", "*", 200),
        ("If-Match", "\"1\"", 412),
        ("If-Match", "two", 400),
    ];
    for (header, value, status) in rows {
        let answer = ask(&server, "GET", "/v1/kv/k", &[(header, value)], "").await;
        assert_eq!(answer.status, status, "{header}: {value}");
        if status == 304 {
            assert_eq!((answer.header("etag"), answer.bytes.len()), (Some("\"2\""), 0));
            assert_eq!((answer.header("quorate-revision"), answer.header("quorate-version")), (Some("3"), Some("2")));
        }
    }
    let missing = ask(&server, "GET", "/v1/kv/missing", &[("If-None-Match", "*")], "").await;
    missing.expect_problem(404, "key_not_found", "");
}

#[tokio::test]
async fn a_plain_write_is_a_plain_write() {
    let server = Server::new();
    let answer = server.call("PUT", "/v1/kv/k", "v").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"revision": 1})));
    assert_eq!((answer.header("etag"), answer.header("quorate-revision")), (Some("\"1\""), Some("1")));
    assert_eq!(server.asked(), [put(&[("k", "v")])]);
    assert_eq!(server.call("PUT", "/v1/kv/k?lease=0&previous=false", "").await.json(), json!({"revision": 2}));
    assert_eq!(server.asked(), [put(&[("k", "")])]);
    let answer = server.call("DELETE", "/v1/kv/k", "").await;
    assert_eq!(answer.json(), json!({"revision": 3, "deleted": 1}));
    assert_eq!(server.call("DELETE", "/v1/kv/k", "").await.json(), json!({"revision": 3, "deleted": 0}));
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_condition_is_judged_when_the_write_is_applied() {
    let rows = [
        ("If-Match", "\"2\"", "k", true),
        ("If-Match", "\"1\"", "k", false),
        ("If-Match", "\"3\"", "k", false),
        ("If-Match", "*", "k", true),
        ("If-Match", "*", "missing", false),
        ("If-Match", "\"2\"", "missing", false),
        ("If-None-Match", "*", "k", false),
        ("If-None-Match", "*", "missing", true),
        ("If-None-Match", "\"2\"", "k", false),
        ("If-None-Match", "\"1\", \"3\"", "k", true),
        ("If-None-Match", "\"2\"", "missing", true),
    ];
    for (header, value, key, holds) in rows {
        for method in ["PUT", "DELETE"] {
            let server = three().await;
            let answer = ask(&server, method, &format!("/v1/kv/{key}"), &[(header, value)], "new").await;
            let said = format!("{method} {key} {header}: {value}");
            assert!(matches!(&server.asked()[..], [Asked::Act(Action::Transaction(_), None)]), "{said}");
            if holds {
                let deleted = (method == "DELETE").then_some(u64::from(key == "k"));
                let revision = if deleted == Some(0) { 3 } else { 4 };
                assert_eq!((answer.status, &answer.json()["revision"]), (200, &json!(revision)), "{said}");
                assert_eq!(answer.json().get("deleted"), deleted.map(|count| json!(count)).as_ref(), "{said}");
                continue;
            }
            let problem = answer.expect_problem(412, "precondition_failed", "does not hold");
            assert_eq!(problem.get("revision"), (key == "k").then_some(&json!(2)), "{said}");
            assert_eq!((answer.header("quorate-revision"), server.content().len()), (Some("3"), 2), "{said}");
            assert_eq!(server.get("/v1/kv/k").await.body, "two", "{said}");
        }
    }
    let both = [("If-Match", "\"1\""), ("If-None-Match", "*")];
    ask(&three().await, "PUT", "/v1/kv/k", &both, "").await.expect_problem(412, "precondition_failed", "");
    let wrong = ask(&three().await, "PUT", "/v1/kv/k", &[("If-Match", "2")], "").await;
    wrong.expect_problem(400, "invalid", "in quotes");
}

#[tokio::test]
async fn what_was_there_before_is_told_on_request() {
    let server = three().await;
    let was = json!({"key": "k", "value": "two", "create_revision": 1, "mod_revision": 2, "version": 2, "lease": 0});
    let answer = server.call("PUT", "/v1/kv/k?previous=true", "three").await;
    assert_eq!(answer.json(), json!({"revision": 4, "previous": was}));
    let answer = server.call("PUT", "/v1/kv/new?previous=true", "1").await;
    assert_eq!(answer.json(), json!({"revision": 5, "previous": null}));
    let was = json!({"key": "k", "value": "three", "create_revision": 1, "mod_revision": 4, "version": 3, "lease": 0});
    let answer = server.call("DELETE", "/v1/kv/k?previous=true", "").await;
    assert_eq!(answer.json(), json!({"revision": 6, "deleted": 1, "previous": [was]}));
    let answer = server.call("DELETE", "/v1/kv/k?previous=true", "").await;
    assert_eq!(answer.json(), json!({"revision": 6, "deleted": 0, "previous": []}));
}

#[tokio::test]
async fn a_key_can_belong_to_a_lease() {
    let server = Server::new();
    let put = |lease: &str| format!("/v1/kv/k?lease={lease}");
    server.call("PUT", &put("7"), "v").await.expect_problem(404, "lease_not_found", "");
    server.cluster().act(Action::Grant { lease: 7, ttl_seconds: 60 }, None);
    assert_eq!(server.call("PUT", &put("7"), "v").await.json(), json!({"revision": 1}));
    assert_eq!(server.get("/v1/kv/k").await.header("quorate-lease"), Some("7"));
    server.call("PUT", "/v1/kv/k", "v").await;
    assert_eq!(server.get("/v1/kv/k").await.header("quorate-lease"), None, "a plain write takes it out again");
    for lease in ["x", "-1", "9223372036854775808"] {
        server.call("PUT", &put(lease), "v").await.expect_problem(400, "invalid", "is no number from 0");
    }
}

#[tokio::test]
async fn a_write_that_is_sent_again_gets_the_answer_of_the_first() {
    for (method, path, condition) in [
        ("PUT", "/v1/kv/k", None),
        ("PUT", "/v1/kv/k?previous=true", Some(("If-Match", "\"2\""))),
        ("PUT", "/v1/kv/new?previous=true", Some(("If-None-Match", "*"))),
        ("PUT", "/v1/kv/k", Some(("If-None-Match", "*"))),
        ("PUT", "/v1/kv/new", Some(("If-Match", "*"))),
        ("DELETE", "/v1/kv/k?previous=true", None),
        ("DELETE", "/v1/kv/new?previous=true", None),
    ] {
        let server = three().await;
        let headers: Vec<_> = condition.into_iter().chain([("Idempotency-Key", "one")]).collect();
        let first = ask(&server, method, path, &headers, "new").await;
        for other in ["k", "new"] {
            server.cluster().put(other.as_bytes(), b"somebody else's");
        }
        let again = ask(&server, method, path, &headers, "new").await;
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{method} {path}");
        assert_eq!(again.header("quorate-revision"), first.header("quorate-revision"), "{method} {path}");
        assert_eq!(again.header("etag"), first.header("etag"), "{method} {path}");
    }

    let server = three().await;
    let headers = [("Idempotency-Key", "one")];
    let path = "/v1/kv/k?previous=true";
    ask(&server, "PUT", path, &headers, "new").await;
    server.cluster().act(Action::Compact { revision: 4 }, None);
    let again = ask(&server, "PUT", path, &headers, "new").await;
    assert_eq!(again.json(), json!({"revision": 4, "replayed": true}), "nobody knows any more what was there");
}

#[tokio::test]
async fn the_same_name_for_another_request_is_refused() {
    let first = ("PUT", "/v1/kv/k", ("If-None-Match", "\"1\""), "new");
    for (method, path, condition, body) in [
        ("DELETE", "/v1/kv/k", ("If-None-Match", "\"1\""), "new"),
        ("PUT", "/v1/kv/other", ("If-None-Match", "\"1\""), "new"),
        ("PUT", "/v1/kv/k?previous=true", ("If-None-Match", "\"1\""), "new"),
        ("PUT", "/v1/kv/k", ("If-None-Match", "\"9\""), "new"),
        ("PUT", "/v1/kv/k", ("If-Match", "\"1\""), "new"),
        ("PUT", "/v1/kv/k", ("If-None-Match", "\"1\""), "newer"),
    ] {
        let server = three().await;
        let named = |condition| [condition, ("Idempotency-Key", "one")];
        assert_eq!(ask(&server, first.0, first.1, &named(first.2), first.3).await.status, 200);
        let refused = ask(&server, method, path, &named(condition), body).await;
        refused.expect_problem(422, "idempotency_key_reused", "");
        assert_eq!(ask(&server, first.0, first.1, &named(first.2), first.3).await.status, 200);
    }
    let bad = ask(&Server::new(), "PUT", "/v1/kv/k", &[("Idempotency-Key", "")], "").await;
    bad.expect_problem(400, "invalid", "Idempotency-Key");
}

#[tokio::test]
async fn reads_have_levels_and_bounds_as_everywhere() {
    let server = three().await;
    for (level, asked) in [
        ("linearizable", Some(ReadLevel::Linearizable)),
        ("weak", Some(ReadLevel::Weak)),
        ("strong", Some(ReadLevel::Strong)),
        ("none", None),
    ] {
        let answer = server.get(&format!("/v1/kv/k?level={level}")).await;
        assert_eq!((answer.body.as_str(), answer.header("quorate-level")), ("two", Some(level)));
        assert_eq!(server.asked(), asked.map(Asked::Read).into_iter().collect::<Vec<_>>());
    }
    server.get("/v1/kv/k?level=quick").await.expect_problem(400, "invalid", Level::NAMES);
    server.get("/v1/kv/k?level=none&freshness=1s").await.expect_problem(503, "unavailable", "not heard of a leader");
    server.get("/v1/kv/k?levle=none").await.expect_problem(400, "invalid", "no parameter \"levle\"");
    server.call("PUT", "/v1/kv/k?level=none", "").await.expect_problem(400, "invalid", "there are lease, previous");
}

#[tokio::test]
async fn over_a_limit_is_413_and_names_it() {
    let server = Server::new();
    for (path, body, limit) in [
        (format!("/v1/kv/{}", "k".repeat(MAX_KEY_BYTES + 1)), String::new(), MAX_KEY_BYTES),
        ("/v1/kv/k".to_string(), "v".repeat(MAX_VALUE_BYTES + 1), MAX_VALUE_BYTES),
        ("/v1/kv/k".to_string(), "v".repeat(MAX_BODY_BYTES + 1), MAX_BODY_BYTES),
    ] {
        server.call("PUT", &path, &body).await.expect_problem(413, "too_large", &limit.to_string());
    }
    let longest = format!("/v1/kv/{}", "%6b".repeat(MAX_KEY_BYTES));
    assert_eq!(server.call("PUT", &longest, &"v".repeat(MAX_VALUE_BYTES)).await.status, 200);
    assert_eq!(server.get(&longest).await.bytes.len(), MAX_VALUE_BYTES);
}

#[tokio::test]
async fn a_step_that_tells_nothing_asks_for_nothing() {
    let server = three().await;
    ask(&server, "PUT", "/v1/kv/k", &[("If-Match", "*")], "new").await;
    let Some(Asked::Act(Action::Transaction(transaction), None)) = server.asked().pop() else {
        panic!("no transaction")
    };
    assert!(matches!(&transaction.success[..], [Step::Put { previous: false, lease: 0, .. }]));
}
