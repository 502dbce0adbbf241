//! What is repeated and what is not, and what the caller is told when it was in vain.

use crate::stand_in::{Fault, StandIn, Store};
use crate::{client, dead_address, soon};
use client::{Client, Error, Level, Outcome};
use std::time::{Duration, Instant};

#[tokio::test]
async fn what_never_left_is_sent_to_another() {
    let node = StandIn::start().await;
    for _ in 0..8 {
        let client = Client::new([dead_address().await, node.url(), dead_address().await]).unwrap();
        client.put("k", "v").await.unwrap();
        client.get("k").await.unwrap();
    }
    assert_eq!(node.seen("PUT").len(), 8);
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_changed() {
    let client = Client::new([dead_address().await, dead_address().await]).unwrap();
    let client = client.with_time_limit(Duration::from_secs(60)).with_unreachable_limit(Duration::from_millis(300));
    let began = Instant::now();
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)) && error.code() == "unreachable", "{error}");
    assert_eq!(error.problem().outcome, Outcome::NotApplied);
    assert!(error.to_string().starts_with("nothing was changed: can't reach"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "it does not wait for the time limit");
}

/// The answer is lost after the write was done: its repeat must not do it again.
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_repeated_under_the_same_key() {
    let a = StandIn::start().await;
    let client = client(&[&a]);
    client.put("k", "1").await.unwrap();
    a.fault("PUT", Fault::DoAndDrop);
    let done = client.put("k", "2").if_match(1).await.unwrap();
    assert_eq!((done.revision, a.store.revision()), (2, 2), "the repeat would fail if it were another write");
    let keys: Vec<String> = a.seen("PUT").iter().map(|request| request.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys[1] == keys[2] && keys[0] != keys[1], "{keys:?}");
}

#[tokio::test]
async fn every_write_has_a_key_of_its_own_and_no_read_has_one() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    client.put("k", "v").await.unwrap();
    client.delete("k").await.unwrap();
    client.delete_prefix("k").await.unwrap();
    client.txn().await.unwrap();
    let lease = client.grant_lease(Duration::from_secs(60)).await.unwrap();
    client.keep_alive(lease.id).await.unwrap();
    client.get("k").await.unwrap();
    let mut keys: Vec<String> =
        node.seen("").iter().filter_map(|r| r.headers.get("idempotency-key").cloned()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6);
    assert!(!node.seen("GET")[0].headers.contains_key("idempotency-key"));
}

#[tokio::test]
async fn a_write_that_nobody_confirms_is_unknown() {
    let node = StandIn::start().await;
    let client = client(&[&node]).with_time_limit(Duration::from_millis(300));
    node.fault("PUT", Fault::Hang);
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)) && error.code() == "unanswered", "{error}");
    assert!(error.to_string().starts_with("outcome unknown: "), "{error}");
    // Then nobody can be reached any more: that does not make it known.
    node.fault("DELETE", Fault::DoAndDrop);
    for _ in 0..100 {
        node.fault("DELETE", Fault::problem(503, "unavailable", "not_applied", true));
    }
    assert!(matches!(client.delete("k").await, Err(Error::Unknown(_))));
}

#[tokio::test]
async fn a_read_that_nobody_answers_is_repeated_and_at_last_unavailable() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    node.fault("GET", Fault::Drop);
    node.fault("GET", Fault::problem(504, "unknown_outcome", "unknown", true));
    assert_eq!(client.get("k").await.unwrap(), None);
    assert_eq!(node.seen("GET").len(), 3);
    node.fault("GET", Fault::Hang);
    let error = client.with_time_limit(Duration::from_millis(200)).get("k").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn an_answer_that_says_so_is_asked_again_and_no_other() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    node.fault("PUT", Fault::problem(503, "unavailable", "not_applied", true));
    node.fault("PUT", Fault::problem(504, "unknown_outcome", "unknown", true));
    client.put("k", "v").await.unwrap();
    let seen = node.seen("PUT");
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.headers["idempotency-key"] == seen[0].headers["idempotency-key"]));
    for (status, code, expected) in [
        (400, "invalid", "Invalid"),
        (413, "too_large", "Invalid"),
        (422, "idempotency_key_reused", "Invalid"),
        (404, "lease_not_found", "NotFound"),
        (412, "precondition_failed", "PreconditionFailed"),
        (500, "internal", "Faulty"),
    ] {
        node.fault("PUT", Fault::problem(status, code, "not_applied", false));
        let error = client.put("k", "v").await.unwrap_err();
        assert!(format!("{error:?}").starts_with(&format!("{expected}(")) && error.code() == code, "{error:?}");
    }
    assert_eq!(node.seen("PUT").len(), 9, "none of these was repeated");
}

#[tokio::test]
async fn retry_after_is_kept_to_unless_another_can_do_it() {
    let (node, store) = (StandIn::start().await, Store::new());
    let busy = |node: &StandIn| {
        let Fault::Answer(status, mut headers, body) = Fault::problem(429, "overloaded", "not_applied", true) else {
            unreachable!()
        };
        headers.push(("retry-after", "1".to_string()));
        node.fault("PUT", Fault::Answer(status, headers, body));
    };
    busy(&node);
    let began = Instant::now();
    client(&[&node]).put("k", "v").await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    let nodes = [StandIn::serve("n1", &store).await, StandIn::serve("n2", &store).await];
    busy(&nodes[0]);
    let client = client(&[&nodes[0], &nodes[1]]);
    for _ in 0..2 {
        client.put("k", "v").await.unwrap();
    }
    assert_eq!(
        nodes[0].seen("PUT").len() + nodes[1].seen("PUT").len(),
        2 + usize::from(!nodes[0].seen("PUT").is_empty())
    );
}

#[tokio::test]
async fn one_that_hangs_does_not_use_up_the_time_of_the_others() {
    let store = Store::new();
    let nodes = [StandIn::serve("n1", &store).await, StandIn::serve("n2", &store).await];
    let client = client(&[&nodes[0], &nodes[1]]).with_time_limit(Duration::from_secs(6));
    for node in &nodes {
        node.fault("GET /v1/kv", Fault::Hang);
        node.say("quorate-node", if std::ptr::eq(node, &nodes[0]) { "n1" } else { "n2" });
    }
    // Both hang once; the third attempt is answered.
    soon(client.get("k")).await.unwrap();
    assert_eq!(nodes[0].seen("GET /v1/kv").len() + nodes[1].seen("GET /v1/kv").len(), 3);
}

#[tokio::test]
async fn what_needs_the_leader_goes_to_it_once_it_is_known() {
    let store = Store::new();
    let nodes = [StandIn::serve("n1", &store).await, StandIn::serve("n2", &store).await];
    nodes.iter().for_each(|node| node.say("Quorate-Leader-Url", &nodes[1].url()));
    let client = client(&[&nodes[0], &nodes[1]]);
    // Whoever is asked says who leads.
    client.get("k").await.unwrap();
    let before = nodes[1].seen("").len();
    for _ in 0..5 {
        client.put("k", "v").await.unwrap();
        client.get("k").await.unwrap();
    }
    assert_eq!(nodes[1].seen("").len(), before + 10);
    let local = client.with_level(Level::None);
    let asked = || nodes[0].seen("GET /v1/kv/").len() + nodes[1].seen("GET /v1/kv/").len();
    let before = asked();
    local.get("k").await.unwrap();
    assert_eq!(asked(), before + 1, "anybody may answer a local read");
}

#[tokio::test]
async fn the_leader_is_found_by_asking_for_the_status() {
    let store = Store::new();
    let nodes = [StandIn::serve("n1", &store).await, StandIn::serve("n2", &store).await];
    let status = |name: &str| {
        let leader = serde_json::json!({ "name": "n2", "address": "h:2", "url": nodes[1].url() });
        let body = serde_json::json!({ "node": { "name": name, "address": "h:1", "url": null }, "leader": leader });
        Fault::Answer(200, Vec::new(), body.to_string())
    };
    nodes[0].fault("GET /v1/status", status("n1"));
    nodes[1].fault("GET /v1/status", status("n2"));
    let client = client(&[&nodes[0], &nodes[1]]);
    client.put("k", "v").await.unwrap();
    soon(async {
        // The question is asked beside the calls, so the first few may go anywhere.
        loop {
            let before = nodes[0].seen("PUT").len();
            for _ in 0..20 {
                client.put("k", "v").await.unwrap();
            }
            if nodes[0].seen("PUT").len() == before {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_member_that_was_removed_is_not_asked_again() {
    let (node, store) = (StandIn::start().await, Store::new());
    node.fault("GET", Fault::problem(410, "removed", "not_applied", false));
    let error = client(&[&node]).get("k").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)) && error.code() == "removed", "{error}");
    let nodes = [StandIn::serve("n1", &store).await, StandIn::serve("n2", &store).await];
    nodes[0].fault("GET /v1/kv", Fault::problem(410, "removed", "not_applied", false));
    let client = client(&[&nodes[0], &nodes[1]]);
    for _ in 0..3 {
        assert_eq!(client.get("k").await.unwrap(), None);
    }
}

#[tokio::test]
async fn removing_what_an_earlier_attempt_removed_is_a_success() {
    let node = StandIn::start().await;
    node.fault("DELETE /v1/members", Fault::Drop);
    client(&[&node]).remove_member("gone").await.unwrap();
    // Asked to remove itself, a node does so, and then speaks as one that was removed.
    let other = StandIn::serve("n2", &node.store).await;
    let removed = || Fault::problem(410, "removed", "not_applied", false);
    other.fault("DELETE /v1/members", removed());
    assert!(matches!(client(&[&other]).remove_member("gone").await, Err(Error::Unknown(_))));
    other.fault("DELETE /v1/members", removed());
    [&node, &other].iter().for_each(|node| node.say("Quorate-Leader-Url", &other.url()));
    let both = client(&[&node, &other]);
    // So that the one to be removed is asked first.
    both.get("k").await.unwrap();
    both.remove_member("gone").await.unwrap();
    assert_eq!(other.seen("DELETE").len(), 2);
    assert!(matches!(client(&[&node]).remove_member("gone").await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn what_is_no_answer_of_ours_is_named() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    node.fault("GET", Fault::Answer(404, Vec::new(), "404 page not found".to_string()));
    let error = client.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Faulty(_)) && error.to_string().contains("right port"), "{error}");
    node.fault("GET", Fault::Answer(200, Vec::new(), "batman".to_string()));
    assert!(matches!(client.get("k").await, Err(Error::Faulty(_))), "a value without revisions");
    // A proxy that can't reach the node: the write may have passed through it before.
    node.fault("PUT", Fault::Answer(502, Vec::new(), "<html>".to_string()));
    client.put("k", "v").await.unwrap();
    assert_eq!(node.seen("PUT").len(), 2);
}
