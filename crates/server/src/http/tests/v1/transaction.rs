//! Transactions.

use super::*;
use kv::{Action, MAX_TRANSACTION_DEPTH};

/// Keys a and b at revisions 1 and 2, and a once more at 3.
fn two() -> Server {
    Server::with(&[("a", "1"), ("b", "2"), ("a", "3")])
}

async fn txn(server: &Server, body: serde_json::Value) -> Answered {
    server.post("/v1/txn", &body.to_string()).await
}

#[tokio::test]
async fn what_holds_chooses_what_is_done() {
    let server = two();
    let answer = txn(
        &server,
        json!({
            "if": [{"key": "a", "mod_revision": 3}, {"key": "c", "exists": false}],
            "then": [{"put": {"key": "c", "value": "new"}}, {"get": {"key": "c"}}],
            "else": [{"get": {"key": "a"}}],
        }),
    )
    .await;
    assert_eq!((answer.status, answer.header("quorate-revision")), (200, Some("4")));
    let kv = json!({"key": "c", "value": "new", "create_revision": 4, "mod_revision": 4, "version": 1, "lease": 0});
    let results = json!([{"put": {}}, {"get": {"kv": kv}}]);
    assert_eq!(answer.json(), json!({"succeeded": true, "revision": 4, "changed": 1, "results": results}));

    let again = json!({"if": [{"key": "c", "exists": false}], "then": [{"put": {"key": "c", "value": "x"}}],
        "else": [{"get": {"key": "c"}}, {"get": {"key": "missing"}}]});
    let results = json!([{"get": {"kv": kv}}, {"get": {"kv": null}}]);
    let expected = json!({"succeeded": false, "revision": 4, "changed": 0, "results": results});
    assert_eq!(txn(&server, again).await.json(), expected);
    let nothing = json!({"succeeded": true, "revision": 4, "changed": 0, "results": []});
    assert_eq!(txn(&server, json!({})).await.json(), nothing);
    assert_eq!(txn(&server, json!({"if": [], "then": [], "else": []})).await.json(), nothing);
}

#[tokio::test]
async fn conditions_are_what_they_say() {
    let rows = [
        (json!({"key": "a", "exists": true}), true),
        (json!({"key": "a", "exists": false}), false),
        (json!({"key": "a", "exists": false, "is": "!="}), true),
        (json!({"key": "c", "exists": false}), true),
        (json!({"prefix": "", "exists": true}), true),
        (json!({"key": "a", "value": "3"}), true),
        (json!({"key": "a", "value_base64": "Mw=="}), true),
        (json!({"key_base64": "YQ==", "value": "1"}), false),
        (json!({"key": "a", "value": "2", "is": ">"}), true),
        (json!({"key": "c", "value": ""}), false),
        (json!({"key": "a", "version": 2}), true),
        (json!({"key": "c", "version": 0}), true),
        (json!({"key": "a", "create_revision": 1, "is": "="}), true),
        (json!({"key": "a", "mod_revision": 3, "is": "<"}), false),
        (json!({"key": "a", "mod_revision": 4, "is": "<"}), true),
        (json!({"key": "a", "lease": 0}), true),
        (json!({"prefix": "", "mod_revision": 1, "is": ">"}), true),
        (json!({"start": "a", "end": "c", "version": 2}), false),
        (json!({"end": "b", "version": 2}), true),
        (json!({"start_base64": "Yg==", "version": 1}), true),
    ];
    let server = two();
    for (condition, holds) in rows {
        let answer = txn(&server, json!({"if": [condition]})).await;
        assert_eq!((answer.status, &answer.json()["succeeded"]), (200, &json!(holds)), "{condition}");
    }
}

#[tokio::test]
async fn each_step_tells_what_it_was_asked_for() {
    let a = json!({"key": "a", "value": "3", "create_revision": 1, "mod_revision": 3, "version": 2, "lease": 0});
    let b = json!({"key": "b", "value": "2", "create_revision": 2, "mod_revision": 2, "version": 1, "lease": 0});
    let keys = [&a, &b].map(|row| {
        let mut row = row.clone();
        row.as_object_mut().unwrap().remove("value");
        row
    });
    let rows = [
        (json!({"put": {"key": "a", "value": "x"}}), json!({"put": {}})),
        (json!({"put": {"key": "a", "value": "x", "previous": true}}), json!({"put": {"previous": a}})),
        (json!({"put": {"key": "c", "value_base64": "/w==", "previous": true}}), json!({"put": {"previous": null}})),
        (json!({"get": {"key_base64": "YQ=="}}), json!({"get": {"kv": a}})),
        (json!({"range": {}}), json!({"range": {"kvs": [a, b], "more": false}})),
        (json!({"range": {"prefix": "a"}}), json!({"range": {"kvs": [a], "more": false}})),
        (json!({"range": {"end": "b", "count": true}}), json!({"range": {"kvs": [a], "more": false, "count": 1}})),
        (json!({"range": {"limit": 1, "reverse": true}}), json!({"range": {"kvs": [b], "more": true}})),
        (json!({"range": {"keys_only": true}}), json!({"range": {"kvs": keys, "more": false}})),
        (json!({"range": {"count_only": true}}), json!({"range": {"kvs": [], "more": false, "count": 2}})),
        (json!({"delete": {"key": "a"}}), json!({"delete": {"deleted": 1}})),
        (json!({"delete": {"key": "c", "previous": true}}), json!({"delete": {"deleted": 0, "previous": []}})),
        (json!({"delete": {"prefix": "", "previous": true}}), json!({"delete": {"deleted": 2, "previous": [a, b]}})),
        (
            json!({"txn": {"if": [{"key": "a", "version": 1}], "else": [{"get": {"key": "b"}}]}}),
            json!({"txn": {"succeeded": false, "results": [{"get": {"kv": b}}]}}),
        ),
        (json!({"txn": {}}), json!({"txn": {"succeeded": true, "results": []}})),
    ];
    for (step, result) in rows {
        let answer = txn(&two(), json!({"then": [step]})).await;
        assert_eq!((answer.status, &answer.json()["results"]), (200, &json!([result])), "{step}");
    }
}

#[tokio::test]
async fn a_transaction_that_is_sent_again_is_done_once() {
    let server = two();
    let body = json!({"if": [{"key": "c", "exists": false}], "then": [{"put": {"key": "c", "value": "1"}}]});
    let raw = request("POST", "/v1/txn", &[("Idempotency-Key", "one")], body.to_string().as_bytes());
    let first = server.send(&raw).await;
    assert_eq!(first.json()["succeeded"], true);
    server.cluster().put(b"c", b"2");
    let again = server.send(&raw).await;
    let expected = json!({"succeeded": true, "revision": 4, "changed": 1, "results": null, "replayed": true});
    assert_eq!((again.json(), again.header("quorate-revision")), (expected, Some("4")));
    assert_eq!(server.get("/v1/kv/c").await.body, "2");
}

#[tokio::test]
async fn what_is_no_transaction_is_400_and_says_where_and_why() {
    let step = |step: &str| format!(r#"{{"then":[{step}]}}"#);
    let condition = |condition: &str| format!(r#"{{"if":[{condition}]}}"#);
    let rows = [
        (String::new(), "EOF"),
        ("[]".to_string(), "expected an object"),
        (r#"{"if":{}}"#.to_string(), "expected an array"),
        (r#"{"if":null}"#.to_string(), "expected an array"),
        (r#"{"iff":[]}"#.to_string(), "unknown field `iff`, expected one of `if`, `then`, `else`"),
        (r#"{"if":[],"if":[]}"#.to_string(), "duplicate field `if`"),
        (r#"{} {}"#.to_string(), "trailing characters"),
        (step("{}"), "exactly one field"),
        (step("[]"), "an object with one field"),
        (step(r#"{"get":{"key":"a"},"put":{}}"#), "exactly one field"),
        (step(r#"{"txn":{},"get":{"key":"a"}}"#), "exactly one field"),
        (step(r#"{"pat":{}}"#), "unknown field `pat`"),
        (step(r#"{"put":["k","v"]}"#), "expected an object"),
        (step(r#"{"put":{"key":"a"}}"#), "a put has a key and a value at line 1 column"),
        (step(r#"{"put":{"key":"","value":""}}"#), "must not be empty"),
        (step(r#"{"put":{"key":"a","value":null}}"#), "null"),
        (step(r#"{"put":{"key":"a","value":7}}"#), "integer `7`"),
        (step(r#"{"put":{"key":"a","value":"","value_base64":""}}"#), "give one of them"),
        (step(r#"{"put":{"key":"a","value_base64":"?"}}"#), "no base64"),
        (step(r#"{"put":{"key":"a","value":"","lease":-1}}"#), "integer `-1`"),
        (step(r#"{"put":{"key":"a","value":"","lease":9223372036854775808}}"#), "is above"),
        (step(r#"{"put":{"key":"a","value":"","limit":1}}"#), "a put has no field limit; it has key, value, lease"),
        (step(r#"{"put":{"key":"a","value":"","ttl":1}}"#), "unknown field `ttl`"),
        (step(r#"{"get":{}}"#), "a get has a key"),
        (step(r#"{"get":{"key":"a","prefix":"a"}}"#), "a get has no field prefix"),
        (step(r#"{"range":{"key":"a"}}"#), "a range has no field key"),
        (step(r#"{"range":{"limit":0}}"#), "1 to 10000"),
        (step(r#"{"range":{"prefix":"a","end":"b"}}"#), "in one way"),
        (step(r#"{"range":{"end":""}}"#), "the end is empty"),
        (step(r#"{"delete":{}}"#), "an empty prefix means all"),
        (step(r#"{"put":{"key":"a","value":""}},{"delete":{"key":"a"}}"#), "twice"),
        (condition(r#"{"key":"a"}"#), "exactly one of exists, value"),
        (condition(r#"{"key":"a","version":1,"lease":0}"#), "exactly one of exists, value"),
        (condition(r#"{"version":1}"#), "names a key"),
        (condition(r#"{"key":"a","prefix":"a","version":1}"#), "in one way"),
        (condition(r#"{"key":"a","version":1,"is":"=="}"#), "unknown variant `==`"),
        (condition(r#"{"key":"a","version":1.5}"#), "1.5"),
        (condition(r#"{"key":"a","version":1,"previous":true}"#), "a condition has no field previous"),
        (condition(r#"{"key":"\ud800","version":1}"#), ""),
    ];
    let server = two();
    for (body, reason) in rows {
        server.post("/v1/txn", &body).await.expect_problem(400, "invalid", reason);
    }
    server.post("/v1/txn?x=1", "{}").await.expect_problem(400, "invalid", "takes no parameters");
    assert_eq!(server.get("/v1/kv/a").await.body, "3");
    assert_eq!(server.get("/v1/kv/a").await.header("quorate-revision"), Some("3"));
    let lease = json!({"then": [{"put": {"key": "a", "value": "", "lease": 7}}]});
    txn(&server, lease).await.expect_problem(404, "lease_not_found", "");
}

#[tokio::test]
async fn limits_are_named() {
    let server = Server::with_settings(Settings { max_transaction_operations: 4, ..settings() });
    let get = json!({"get": {"key": "a"}});
    let fits = json!({"if": [{"key": "a", "exists": false}], "then": [{"txn": {"else": [get]}}], "else": [get]});
    assert_eq!(txn(&server, fits).await.status, 200);
    for too_many in [
        json!({"then": [get, get, get], "else": [get, get]}),
        json!({"if": vec![json!({"key": "a", "exists": false}); 5]}),
        json!({"then": [{"txn": {"then": [{"txn": {"then": [get, get, get]}}]}}]}),
    ] {
        txn(&server, too_many).await.expect_problem(400, "too_many_operations", "may have 4 operations");
    }
    // Whatever follows.
    let cut = r#"{"then":[{"txn":{}},{"txn":{}},{"txn":{}},{"txn":{}},{"txn":"#;
    server.post("/v1/txn", cut).await.expect_problem(400, "too_many_operations", "");
    let default = json!({"then": vec![get.clone(); 129]});
    txn(&two(), default).await.expect_problem(400, "too_many_operations", "may have 128 operations");
    assert_eq!(txn(&two(), json!({"then": vec![get; 128]})).await.status, 200);

    let nested = |depth| (1..depth).fold(json!({}), |inner, _| json!({"then": [{"txn": inner}]}));
    assert_eq!(txn(&two(), nested(MAX_TRANSACTION_DEPTH)).await.status, 200);
    let too_deep = txn(&two(), nested(MAX_TRANSACTION_DEPTH + 1)).await;
    too_deep.expect_problem(400, "invalid", &format!("deeper than {MAX_TRANSACTION_DEPTH}"));
    let bottomless = r#"{"then":[{"txn":"#.repeat(100_000);
    two().post("/v1/txn", &bottomless).await.expect_problem(400, "invalid", "deeper than");

    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let large = "v".repeat(MAX_VALUE_BYTES + 1);
    for (body, limit) in [
        (json!({"then": [{"put": {"key": long, "value": ""}}]}), MAX_KEY_BYTES),
        (json!({"then": [{"get": {"key": long}}]}), MAX_KEY_BYTES),
        (json!({"then": [{"delete": {"prefix": long}}]}), MAX_KEY_BYTES),
        (json!({"if": [{"end": long, "version": 1}]}), MAX_KEY_BYTES),
        (json!({"then": [{"put": {"key": "a", "value": large}}]}), MAX_VALUE_BYTES),
        (json!({"if": [{"key": "a", "value": large}]}), MAX_VALUE_BYTES),
        (json!({"then": [{"put": {"key": "a", "value": "v".repeat(MAX_BODY_BYTES)}}]}), MAX_BODY_BYTES),
    ] {
        txn(&server, body).await.expect_problem(413, "too_large", &limit.to_string());
    }
}

#[tokio::test]
async fn an_answer_is_no_larger_than_it_may_be() {
    let server = Server::new();
    for key in 0..9 {
        server.cluster().put(format!("{key}").as_bytes(), &vec![b'v'; 1_400_000]);
    }
    let ranges = json!({"then": [{"range": {}}, {"range": {"start": "5"}}, {"get": {"key": "8"}}]});
    let results = &txn(&server, ranges).await.json()["results"];
    let rows = |at: usize| results[at]["range"]["kvs"].as_array().unwrap().len();
    assert_eq!([rows(0), rows(1)], [3, 1], "as much as a page, and never none");
    assert_eq!([&results[0]["range"]["more"], &results[1]["range"]["more"]], [true, true]);
    assert_eq!(results[2]["get"]["kv"]["value"].as_str().unwrap().len(), 1_400_000);

    let too_much = |changes: bool| {
        let mut steps = vec![json!({"get": {"key": "0"}}); 13];
        steps.extend(changes.then(|| json!({"put": {"key": "new", "value": ""}})));
        json!({ "then": steps })
    };
    let read = txn(&server, too_much(false)).await;
    assert_eq!(read.expect_problem(413, "too_large", "at that revision")["outcome"], "not_applied");
    let changed = txn(&server, too_much(true)).await;
    let problem = changed.expect_problem(413, "too_large", "carried out at revision 10");
    assert_eq!((&problem["outcome"], &problem["revision"]), (&json!("applied"), &json!(10)));
    assert_eq!(changed.header("quorate-revision"), Some("10"));
    assert_eq!(server.get("/v1/kv/new").await.status, 200);
}

#[tokio::test]
async fn a_transaction_asks_the_cluster_once() {
    let server = two();
    txn(&server, json!({"then": [{"get": {"key": "a"}}]})).await;
    assert!(matches!(&server.asked()[..], [Asked::Act(Action::Transaction(_), None)]));
}
