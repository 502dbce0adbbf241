//! Letting the past go.

use super::*;

#[tokio::test]
async fn the_past_ends_where_it_is_compacted() {
    let server = Server::with(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let compact = |body: &'static str| server.post("/v1/compact", body);
    let answer = compact(r#"{"revision":2}"#).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"revision": 2})));
    assert_eq!(answer.header("quorate-revision"), Some("3"));
    server.get("/v1/kv/a?revision=1").await.expect_problem(410, "compacted", "");
    for gone in [r#"{"revision":2}"#, r#"{"revision":0}"#] {
        assert_eq!(compact(gone).await.expect_problem(410, "compacted", "")["oldest"], 2);
    }
    assert_eq!(compact(r#"{"revision":4}"#).await.expect_problem(400, "future_revision", "")["newest"], 3);
    for wrong in ["", "{}", "[]", "[3]", "7", r#"{"revision":-1}"#, r#"{"revision":"2"}"#, r#"{"revision":3,"x":1}"#] {
        let refused = compact(wrong).await;
        refused.expect_problem(400, "invalid", r#"as in {"revision":17}"#);
    }
    server.post("/v1/compact?revision=3", r#"{"revision":3}"#).await.expect_problem(400, "invalid", "no parameters");
    assert_eq!(compact(r#"{"revision":3}"#).await.status, 200);
}
