//! Quorate's own interface, row by row, and its edges.

mod cluster;
mod compact;
mod damage;
mod keys;
mod leases;
mod list;
mod metrics;
pub mod openapi;
mod pipeline;
mod snapshot;
mod transaction;
mod watch;

use super::*;

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let server = Server::new();
    server.get("/v1").await.expect_problem(404, "not_found", "/v1/openapi.json");
    server.get("/v1/nothing").await.expect_problem(404, "not_found", "/v1/openapi.json");
    server.get("/v1x").await.expect_error(404, "nothing is at this path");
    let refused = server.call("POST", "/v1/kv/a", "").await;
    refused.expect_problem(405, "method_not_allowed", "GET, HEAD, PUT, DELETE");
    assert_eq!(refused.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    server.get("/v1/kv/%zz").await.expect_problem(400, "invalid", "hex digits");
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    server.get(&format!("/v1/kv/{long}")).await.expect_problem(413, "too_large", &MAX_KEY_BYTES.to_string());
}

#[tokio::test]
async fn a_failure_says_what_became_of_the_request_and_whether_to_send_it_again() {
    let rows = [
        (Failure::Invalid("no".into()), 400, "invalid", false, "not_applied"),
        (Failure::Unavailable("no leader".into()), 503, "unavailable", true, "not_applied"),
        (Failure::Overloaded("too much".into()), 429, "overloaded", true, "not_applied"),
        (Failure::Unknown("it took too long".into()), 504, "unknown_outcome", false, "unknown"),
        (Failure::KeyReused("another body".into()), 422, "idempotency_key_reused", false, "not_applied"),
        (Failure::Removed("removed by node0".into()), 410, "removed", false, "not_applied"),
        (Failure::Compacted("gone".into()), 410, "compacted", false, "not_applied"),
        (Failure::FutureRevision("to come".into()), 400, "future_revision", false, "not_applied"),
        (Failure::NotFound("no lease".into()), 404, "lease_not_found", false, "not_applied"),
        (Failure::Exists("a lease".into()), 409, "lease_exists", false, "not_applied"),
    ];
    for (failure, status, code, retryable, outcome) in rows {
        let server = Server::new().fail(failure);
        let answer = match status {
            409 => server.post("/v1/leases", r#"{"ttl":60}"#).await,
            _ => server.call("PUT", "/v1/kv/a?lease=7", "1").await,
        };
        let problem = answer.expect_problem(status, code, "");
        assert_eq!((&problem["retryable"], &problem["outcome"]), (&json!(retryable), &json!(outcome)), "{problem}");
        assert_eq!(problem["title"], StatusCode::from_u16(status).unwrap().canonical_reason().unwrap());
        assert_eq!(answer.header("retry-after"), retryable.then_some("1"));
    }
    let server = Server::new().fail(Failure::Unknown("it took too long".into()));
    let named = server.send(&request("PUT", "/v1/kv/a", &[("Idempotency-Key", "one")], b"1")).await;
    assert_eq!(named.expect_problem(504, "unknown_outcome", "unknown")["retryable"], true, "it names itself");
}

#[tokio::test]
async fn where_nothing_is_forwarded_a_follower_points_to_the_leader() {
    let server = Server::with_settings(Settings { forward: false, ..settings() });
    server.cluster().set_status(Status { role: node::Role::Follower, ..led_by("node0") });
    *server.cluster().leader.lock().unwrap() =
        Some(Leader { name: "node0".into(), address: "a:1".into(), url: Some("http://a:2".into()) });
    for method in ["PUT", "DELETE"] {
        let answer = server.call(method, "/v1/kv/a", "").await;
        answer.expect_problem(503, "not_leader", "ask the leader");
        assert_eq!(answer.header("quorate-leader-url"), Some("http://a:2"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(server.get("/v1/kv/a").await.status, 404, "it reads by itself");
}
