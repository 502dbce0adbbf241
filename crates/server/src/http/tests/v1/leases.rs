//! Keys that end together.

use super::*;

async fn granted(server: &Server, body: &str) -> Answered {
    let answer = server.post("/v1/leases", body).await;
    assert_eq!(answer.status, 201, "{body}: {answer:?}");
    answer
}

#[tokio::test]
async fn a_lease_is_granted_kept_alive_and_revoked() {
    let server = Server::new();
    let answer = granted(&server, r#"{"ttl":60,"id":7}"#).await;
    assert_eq!((answer.json(), answer.header("location")), (json!({"id": 7, "ttl": 60}), Some("/v1/leases/7")));
    server.post("/v1/leases", r#"{"ttl":9,"id":7}"#).await.expect_problem(409, "lease_exists", "");
    let kept = server.post("/v1/leases/7/keepalive", "").await;
    assert_eq!((kept.status, kept.json()), (200, json!({"id": 7, "ttl": 60})));
    for key in ["a", "b"] {
        assert_eq!(server.call("PUT", &format!("/v1/kv/{key}?lease=7"), "v").await.status, 200);
    }
    let answer = server.get("/v1/leases/7").await;
    let expected = json!({"id": 7, "ttl": 60, "remaining": 30.0, "keys": [{"key": "a"}, {"key": "b"}], "more": false});
    assert_eq!((answer.json(), answer.header("quorate-revision")), (expected, Some("2")));
    assert_eq!(answer.header("quorate-level"), Some("linearizable"));
    let answer = server.call("DELETE", "/v1/leases/7", "").await;
    assert_eq!(answer.json(), json!({"revision": 3, "deleted": 2}));
    assert_eq!(server.content(), content(&[]));
    for (method, path) in [
        ("GET", "/v1/leases/7"),
        ("DELETE", "/v1/leases/7"),
        ("POST", "/v1/leases/7/keepalive"),
        ("GET", "/v1/leases/8"),
    ] {
        server.call(method, path, "").await.expect_problem(404, "lease_not_found", "");
    }
}

#[tokio::test]
async fn the_store_chooses_an_id_and_the_same_one_for_the_same_request() {
    let server = Server::new();
    let grant = request("POST", "/v1/leases", &[("Idempotency-Key", "one")], br#"{"ttl":60}"#);
    let first = server.send(&grant).await;
    assert_eq!(first.status, 201);
    let again = server.send(&grant).await;
    assert_eq!((again.status, &again.body, again.header("location")), (201, &first.body, first.header("location")));
    assert_ne!(granted(&server, r#"{"ttl":60}"#).await.body, first.body);
    assert_eq!(server.get("/v1/leases").await.json()["leases"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn leases_are_listed_in_pages() {
    let server = Server::new();
    for id in [5, 1, 3] {
        granted(&server, &format!(r#"{{"ttl":60,"id":{id}}}"#)).await;
    }
    let page = server.get("/v1/leases?limit=2&level=none").await;
    assert_eq!(page.header("quorate-revision"), Some("0"));
    let page = page.json();
    assert_eq!((&page["leases"], &page["more"]), (&json!([{"id": 1, "ttl": 60}, {"id": 3, "ttl": 60}]), &json!(true)));
    let token = page["continue"].as_str().unwrap();
    let page = server.get(&format!("/v1/leases?limit=2&continue={token}")).await.json();
    assert_eq!(page, json!({"leases": [{"id": 5, "ttl": 60}], "more": false}));
    for query in ["continue=x", "continue=", "limit=0", "limit=10001", "after=1"] {
        server.get(&format!("/v1/leases?{query}")).await.expect_problem(400, "invalid", "");
    }
}

#[tokio::test]
async fn a_lease_tells_its_first_keys() {
    let server = Server::new();
    granted(&server, r#"{"ttl":60,"id":7}"#).await;
    for key in 0..1001 {
        let put = kv::Step::Put { key: format!("{key:04}").into(), value: Bytes::new(), lease: 7, previous: false };
        let transaction = kv::Transaction { success: vec![put], ..kv::Transaction::default() };
        server.cluster().act(kv::Action::Transaction(transaction), None);
    }
    let lease = server.get("/v1/leases/7").await.json();
    let keys = lease["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[999], &lease["more"]), (1000, &json!({"key": "0999"}), &json!(true)));
}

#[tokio::test]
async fn what_is_no_lease_is_400() {
    let server = Server::new();
    for body in [
        "",
        "{}",
        "[60]",
        r#"{"ttl":0}"#,
        r#"{"ttl":-1}"#,
        r#"{"ttl":1.5}"#,
        r#"{"ttl":"60"}"#,
        r#"{"ttl":9000000001}"#,
        r#"{"ttl":60,"id":0}"#,
        r#"{"ttl":60,"id":null}"#,
        r#"{"ttl":60,"id":9223372036854775808}"#,
        r#"{"ttl":60,"TTL":60}"#,
        r#"{"ttl":60,"ttl":60}"#,
        r#"{"ttl":60} x"#,
    ] {
        server.post("/v1/leases", body).await.expect_problem(400, "invalid", "");
    }
    for id in ["0", "x", "-1", "9223372036854775808", "%37x"] {
        server.get(&format!("/v1/leases/{id}")).await.expect_problem(400, "invalid", "must name a lease");
    }
    server.get("/v1/leases/").await.expect_problem(404, "not_found", "");
    server.get("/v1/leases/7/keepalive").await.expect_problem(405, "method_not_allowed", "POST");
    assert_eq!(server.asked(), []);
}
