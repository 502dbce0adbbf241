//! A row of the state can't be read: whoever asks for it is told so, and nobody else notices.

use super::watch::Reading;
use super::*;
use kv::Store;
use storage::engine::{Batch, Engine, Key};

/// Puts something in the row's place that no store has written, as if it had come with the last entry.
fn damage(server: &Server, row: &[u8]) {
    let Map { store, hub, .. } = server.cluster();
    let mut store = store.lock().unwrap();
    let taken = std::mem::replace(&mut *store, Store::in_memory());
    // Nobody may be looking at the last sequence.
    hub.publish(store.view());
    let (mut engine, note) = taken.apart().unwrap();
    let mut batch = Batch::new();
    batch.put(Key::new(row), Bytes::from_static(b"damage"));
    engine.write(engine.sequence(), batch).unwrap();
    *store = Store::open(engine, note).unwrap();
    hub.publish(store.view());
}

/// With the keys other and k, written at the revisions 1 and 2, of which k is damaged.
fn damaged() -> Server {
    let server = Server::with(&[("other", "1"), ("k", "2")]);
    damage(&server, b"\x01k");
    server
}

#[tokio::test]
async fn a_read_of_what_is_damaged_fails_and_says_where() {
    let server = damaged();
    for path in ["/v1/kv/k", "/v1/kv", "/v1/kv?count=true", "/v1/kv?prefix=k"] {
        let answer = server.get(path).await;
        answer.expect_problem(500, "internal", "row \\x01k is damaged");
        assert_eq!((&answer.json()["outcome"], &answer.json()["retryable"]), (&json!("not_applied"), &json!(false)));
    }
    assert_eq!(server.get("/v1/kv/other").await.body, "1");
    assert_eq!(server.get("/v1/kv?prefix=o").await.status, 200);
    server.get("/key/k").await.expect_error(500, "row \\x01k is damaged");
    assert_eq!(server.get("/key/other").await.status, 200);
    // Lists of leases read other rows.
    server.cluster().act(kv::Action::Grant { lease: 7, ttl_seconds: 60 }, None);
    damage(&server, b"\x04\0\0\0\0\0\0\0\x07");
    for path in ["/v1/leases", "/v1/leases/7"] {
        server.get(path).await.expect_problem(500, "internal", "is damaged");
    }
}

#[tokio::test]
async fn a_watch_of_what_is_damaged_ends_and_says_why() {
    let server = damaged();
    let watch = Reading::of(&server, "/v1/watch?revision=1", &[]).await;
    let told = watch.rest().await;
    let (change, error) = told.split_once("event: error\ndata: ").expect("an error ends it");
    assert!(change.starts_with("id: 1\nevent: change\n"), "{change}");
    let problem: serde_json::Value = serde_json::from_str(error.trim_end()).unwrap();
    assert_eq!((&problem["code"], &problem["status"]), (&json!("internal"), &json!(500)));
    assert!(problem["detail"].as_str().unwrap().contains("row \\x01k is damaged"), "{problem}");
    let mut other = Reading::of(&server, "/v1/watch?revision=1&key=other", &[]).await;
    other.until("event: progress\n").await;
}
