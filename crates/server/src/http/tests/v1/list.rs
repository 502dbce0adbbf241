//! Many keys.

use super::*;
use crate::http::member::MAX_LONG_READS;
use kv::Action;
use std::time::Duration;

/// Keys a to e at revisions 1 to 5, and b once more at 6.
fn five() -> Server {
    Server::with(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"), ("b", "6")])
}

fn names(page: &serde_json::Value) -> String {
    let name = |row: &serde_json::Value| row["key"].as_str().expect("a key that is text").to_string();
    page["kvs"].as_array().expect("rows").iter().map(name).collect()
}

#[tokio::test]
async fn a_list_tells_each_key_in_full() {
    let answer = five().get("/v1/kv?start=a&end=c").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!((answer.header("quorate-revision"), answer.header("quorate-level")), (Some("6"), Some("linearizable")));
    let expected = json!({"revision": 6, "more": false, "kvs": [
        {"key": "a", "value": "1", "create_revision": 1, "mod_revision": 1, "version": 1, "lease": 0},
        {"key": "b", "value": "6", "create_revision": 2, "mod_revision": 6, "version": 2, "lease": 0},
    ]});
    assert_eq!(answer.json(), expected);
    let server = five();
    assert_eq!(
        server.get("/v1/kv?level=none&revision=0").await.json(),
        json!({"revision": 0, "more": false, "kvs": []})
    );
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_list_is_of_the_keys_that_are_named() {
    let server = Server::new();
    for key in [&b"a"[..], b"a/1", b"a/2", b"a0", b"b", b"\xff", b"\xff\xff"] {
        server.cluster().put(key, b"");
    }
    let rows: [(&str, &[&str]); 13] = [
        ("", &["a", "a/1", "a/2", "a0", "b", "/w==", "//8="]),
        ("prefix=", &["a", "a/1", "a/2", "a0", "b", "/w==", "//8="]),
        ("prefix=a", &["a", "a/1", "a/2", "a0"]),
        ("prefix=a/", &["a/1", "a/2"]),
        ("prefix=a%2F&reverse=true", &["a/2", "a/1"]),
        ("prefix=%ff", &["/w==", "//8="]),
        ("prefix=%FF%ff", &["//8="]),
        ("prefix=c", &[]),
        ("start=a0", &["a0", "b", "/w==", "//8="]),
        ("start=&end=a0", &["a", "a/1", "a/2"]),
        ("end=a/2", &["a", "a/1"]),
        ("start=b&end=a", &[]),
        ("start=b&end=b", &[]),
    ];
    for (query, expected) in rows {
        let page = server.get(&format!("/v1/kv?{query}")).await.json();
        let name = |row: &serde_json::Value| row.get("key").unwrap_or(&row["key_base64"]).as_str().unwrap().to_string();
        let found: Vec<_> = page["kvs"].as_array().unwrap().iter().map(name).collect();
        assert_eq!(found, expected, "{query}");
        let count = server.get(&format!("/v1/kv?count_only=true&{query}")).await.json();
        assert_eq!(count, json!({"revision": 7, "kvs": [], "more": false, "count": expected.len()}), "{query}");
    }
}

#[tokio::test]
async fn pages_are_of_one_revision_in_either_direction() {
    for (order, pages) in [("", ["ab", "cd", "e"]), ("&reverse=true", ["ed", "cb", "a"])] {
        let server = five();
        let list = format!("/v1/kv?limit=2&count=true{order}");
        let mut page = server.get(&list).await.json();
        for (at, expected) in pages.iter().enumerate() {
            assert_eq!((names(&page).as_str(), &page["revision"], &page["count"]), (*expected, &json!(6), &json!(5)));
            assert_eq!(page["more"], at < 2, "{order} {at}");
            let Some(token) = page["continue"].as_str() else {
                assert_eq!(at, 2, "{order}");
                break;
            };
            // What happens meanwhile is not in the pages.
            for key in ["aa", "bb", "cc", "dd", "ee"] {
                server.cluster().put(key.as_bytes(), b"later");
            }
            let next = server.get(&format!("{list}&continue={token}")).await;
            assert_eq!(next.header("quorate-revision"), Some("6"));
            page = next.json();
        }
    }
    let server = five();
    let token = server.get("/v1/kv?limit=2").await.json()["continue"].as_str().unwrap().to_string();
    server.cluster().act(Action::Compact { revision: 6 }, None);
    assert_eq!(names(&server.get(&format!("/v1/kv?limit=2&continue={token}")).await.json()), "cd");
    server.cluster().put(b"f", b"7");
    server.cluster().act(Action::Compact { revision: 7 }, None);
    let gone = server.get(&format!("/v1/kv?continue={token}")).await;
    assert_eq!(gone.expect_problem(410, "compacted", "")["oldest"], 7);
}

#[tokio::test]
async fn a_token_that_was_made_up_is_refused() {
    let server = five();
    let token = server.get("/v1/kv?prefix=a&limit=1").await.json();
    assert_eq!((&token["more"], token.get("continue")), (&json!(false), None));
    let token = server.get("/v1/kv?limit=2").await.json()["continue"].as_str().unwrap().to_string();
    for query in [
        "continue=".to_string(),
        "continue=x".to_string(),
        "continue=%ff".to_string(),
        format!("continue={token}A"),
        format!("continue={token}&start=c"),
        format!("continue={token}&end=b"),
        format!("continue={token}&prefix=a"),
        format!("continue={token}&revision=5"),
        "continue=AAAAAAAAAAA".to_string(),
        format!("continue=AAAAAAAAAAZ{}", "x".repeat(6000)),
    ] {
        server.get(&format!("/v1/kv?{query}")).await.expect_problem(400, "invalid", "continue");
    }
    assert_eq!(names(&server.get(&format!("/v1/kv?continue={token}&revision=6")).await.json()), "cde");
    // That much a start and a revision could have said as well.
    server.get("/v1/kv?continue=AAAAAAAAAP9h").await.expect_problem(400, "future_revision", "still to come");
    assert_eq!(names(&server.get("/v1/kv?continue=AAAAAAAAAANh").await.json()), "bc");
}

#[tokio::test]
async fn a_page_ends_at_its_rows_and_at_its_bytes() {
    let server = Server::new();
    for at in 0..1100 {
        server.cluster().put(format!("small/{at:05}").as_bytes(), b"");
    }
    let rows = |answer: Answered| answer.json()["kvs"].as_array().unwrap().len();
    assert_eq!(rows(server.get("/v1/kv").await), 1000);
    assert_eq!(rows(server.get("/v1/kv?limit=10000").await), 1100);
    assert_eq!(rows(server.get("/v1/kv?limit=1").await), 1);
    for limit in ["0", "10001", "x", "-1", ""] {
        let reason = if limit == "0" || limit == "10001" { "1 to 10000" } else { "is no number" };
        server.get(&format!("/v1/kv?limit={limit}")).await.expect_problem(400, "invalid", reason);
    }

    let server = Server::new();
    for key in 0..6 {
        server.cluster().put(format!("{key}").as_bytes(), &vec![b'v'; 1_400_000]);
    }
    let page = server.get("/v1/kv").await.json();
    assert_eq!((names(&page).as_str(), &page["more"]), ("012", &json!(true)));
    let next = server.get(&format!("/v1/kv?continue={}", page["continue"].as_str().unwrap())).await.json();
    assert_eq!((names(&next).as_str(), &next["more"]), ("345", &json!(false)));
    let keys = server.get("/v1/kv?keys_only=true").await.json();
    assert_eq!((names(&keys).as_str(), keys["kvs"][0].get("value")), ("012345", None));
}

#[tokio::test]
async fn only_so_many_long_lists_are_made_at_a_time() {
    let server = Server::with_settings(Settings { request_limit: Duration::from_millis(50), ..settings() });
    let long_reads = server.front.service().long_reads.clone();
    let all = long_reads.try_acquire_many(u32::try_from(MAX_LONG_READS).unwrap()).unwrap();
    for query in ["count_only=true", "limit=1&count=true", "limit=1000"] {
        let refused = server.get(&format!("/v1/kv?level=none&{query}")).await;
        refused.expect_problem(429, "overloaded", "try again");
    }
    assert_eq!(server.get("/v1/kv?level=none&limit=100").await.status, 200, "it is short");
    drop(all);
    assert_eq!(server.get("/v1/kv?level=none&count_only=true").await.status, 200);
}

#[tokio::test]
async fn what_a_list_does_not_understand_is_400() {
    let server = five();
    for (query, reason) in [
        ("prefix=a&start=b", "in one way"),
        ("prefix=a&end=b", "in one way"),
        ("end=", "the end is empty"),
        ("reverse", "true or false"),
        ("keys_only=1", "true or false"),
        ("sort=key", "no parameter \"sort\""),
        ("key=a", "no parameter \"key\""),
        ("prefix=a&prefix=b", "given twice"),
    ] {
        server.get(&format!("/v1/kv?{query}")).await.expect_problem(400, "invalid", reason);
    }
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    for name in ["prefix", "start", "end"] {
        server.get(&format!("/v1/kv?{name}={long}")).await.expect_problem(413, "too_large", &MAX_KEY_BYTES.to_string());
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn deleting_many_says_how_many_and_wants_to_be_told_which() {
    let rows = [
        ("prefix=b", 1, "acde"),
        ("start=b&end=d", 2, "ade"),
        ("start=c", 3, "ab"),
        ("end=b", 1, "bcde"),
        ("prefix=", 5, ""),
        ("prefix=x", 0, "abcde"),
    ];
    for (query, deleted, left) in rows {
        let server = five();
        let answer = server.call("DELETE", &format!("/v1/kv?{query}"), "").await;
        let revision = if deleted == 0 { 6 } else { 7 };
        assert_eq!(answer.json(), json!({"revision": revision, "deleted": deleted}), "{query}");
        assert_eq!(answer.header("quorate-revision"), Some(revision.to_string().as_str()));
        assert_eq!(names(&server.get("/v1/kv").await.json()), left, "{query}");
    }
    let server = five();
    let headers = [("Idempotency-Key", "one")];
    let delete = request("DELETE", "/v1/kv?start=d", &headers, b"");
    let first = server.send(&delete).await;
    server.cluster().put(b"f", b"");
    assert_eq!(server.send(&delete).await.body, first.body, "once");
    let other = server.send(&request("DELETE", "/v1/kv?start=a", &headers, b"")).await;
    other.expect_problem(422, "idempotency_key_reused", "");
    assert_eq!(names(&server.get("/v1/kv").await.json()), "abcf");

    server.call("DELETE", "/v1/kv", "").await.expect_problem(400, "invalid", "an empty prefix means all");
    server.call("DELETE", "/v1/kv?limit=1", "").await.expect_problem(400, "invalid", "prefix, start, end");
    let conditional = server.send(&request("DELETE", "/v1/kv?prefix=", &[("If-Match", "*")], b"")).await;
    conditional.expect_problem(400, "invalid", "/v1/txn");
    assert_eq!(names(&server.get("/v1/kv").await.json()), "abcf");
}
