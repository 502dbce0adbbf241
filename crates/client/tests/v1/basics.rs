//! Each method says the right thing on the wire and understands the answer.

use crate::client;
use crate::stand_in::StandIn;
use client::{Condition, Error, Is, Level, Range, Step};
use std::time::Duration;

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    for (key, value) in [(&b"plain"[..], &b"text"[..]), (b"a/b%2F?c", b""), (b"..", b"\0\n"), (b"\xff\0", b"\xfe")] {
        let done = client.put(key, value.to_vec()).await.unwrap();
        let kv = client.get(key).await.unwrap().unwrap();
        assert_eq!((&kv.key[..], &kv.value[..]), (key, value));
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (done.revision, done.revision, 1, 0));
    }
    assert_eq!(client.get("missing").await.unwrap(), None);
    let rows = client.list(Range::all()).all().await.unwrap().0;
    let keys: Vec<&[u8]> = rows.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!(keys, [&b".."[..], b"a/b%2F?c", b"plain", b"\xff\0"]);
    assert!(matches!(client.put("", "v").await, Err(Error::Invalid(_))), "the empty key is not sent");
}

#[tokio::test]
async fn conditions_are_headers() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let first = client.put("k", "1").if_absent().await.unwrap();
    let error = client.put("k", "2").if_absent().await.unwrap_err();
    assert!(matches!(error, Error::PreconditionFailed(_)) && error.revision() == Some(first.revision), "{error}");
    let second = client.put("k", "2").if_match(first.revision).previous().await.unwrap();
    assert_eq!(second.previous.unwrap().value, "1");
    assert!(client.put("k", "3").if_match(first.revision).await.is_err());
    assert!(client.put("k", "3").if_none_match(second.revision).await.is_err());
    assert!(client.put("other", "3").if_present().await.is_err());
    assert!(client.delete("k").if_match(first.revision).await.is_err());
    let deleted = client.delete("k").if_match(second.revision).previous().await.unwrap();
    assert_eq!((deleted.deleted, &deleted.previous[0].value[..]), (1, &b"2"[..]));
    let nothing = client.delete("k").await.unwrap();
    assert_eq!((nothing.deleted, nothing.revision), (0, deleted.revision));
}

#[tokio::test]
async fn a_list_goes_on_page_by_page_and_stops_where_told() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    for number in 0..8 {
        client.put(format!("k{number}"), "v").await.unwrap();
    }
    let mut pages = client.list(Range::prefix("k")).pages();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        assert_eq!(page.revision, 8);
        sizes.push(page.kvs.len());
    }
    assert_eq!(sizes, [3, 3, 2], "the stand-in gives three at a time");
    let (rows, revision) = client.list(Range::prefix("k")).limit(4).all().await.unwrap();
    assert_eq!((rows.len(), &rows[3].key[..], revision), (4, &b"k3"[..], 8));
    let mut rows = client.list(Range::between("k2", "k4")).rows();
    assert_eq!(rows.next().await.unwrap().unwrap().key, "k2");
    assert_eq!(rows.next().await.unwrap().unwrap().key, "k3");
    assert_eq!(rows.next().await.unwrap(), None);
    assert_eq!(client.count(Range::all()).await.unwrap(), 8);
    assert_eq!(client.count(Range::key("k1")).await.unwrap(), 1);
    assert_eq!(client.delete_prefix("k").await.unwrap().deleted, 8);
    assert_eq!(client.delete_range(Range::all()).await.unwrap().deleted, 0);
    let query = |on: &str| node.seen(on).pop().unwrap().line;
    let _ = client.with_level(Level::None).list(Range::from("a")).reverse().keys_only().at(3).next().await;
    assert_eq!(query("GET /v1/kv?"), "GET /v1/kv?level=none&reverse=true&keys_only=true&start=a&revision=3&limit=1000");
    let _ = client.get_at("k", 7).await;
    assert_eq!(query("GET /v1/kv/"), "GET /v1/kv/k?revision=7");
}

#[tokio::test]
async fn a_transaction_does_one_list_of_steps() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let put = client.put("k", "1").await.unwrap();
    let swap = |from: u64| {
        let condition = Condition::mod_revision(Range::key("k"), Is::Equal, from);
        client.txn().when(condition).then(Step::put("k", "2")).otherwise(Step::get("k"))
    };
    let done = swap(put.revision).await.unwrap();
    assert_eq!((done.succeeded, done.changed), (true, 1));
    let done = swap(put.revision).await.unwrap();
    assert!(!done.succeeded && done.got(0).unwrap().value == "2", "{done:?}");
    let json = serde_json::json!({"if": [], "then": [{"get": {"key": "k"}}], "else": []});
    assert_eq!(client.txn_json(&json).await.unwrap()["results"][0]["get"]["kv"]["value"], "2");
}

#[tokio::test]
async fn leases_are_granted_listed_kept_and_ended() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let lease = client.grant_lease(Duration::from_millis(59_001)).await.unwrap();
    assert_eq!(lease.ttl, 60);
    assert!(matches!(client.grant_lease_as(lease.id, Duration::from_secs(9)).await, Err(Error::Exists(_))));
    for id in [70, 80] {
        client.grant_lease_as(id, Duration::from_secs(60)).await.unwrap();
    }
    assert_eq!(client.leases().await.unwrap().len(), 3, "over several pages");
    client.put(b"\xff", "v").lease(lease.id).await.unwrap();
    assert_eq!(client.get(b"\xff").await.unwrap().unwrap().lease, lease.id);
    assert_eq!(client.keep_alive(lease.id).await.unwrap(), lease);
    let info = client.lease(lease.id).await.unwrap();
    assert_eq!((info.ttl, &info.keys[..], info.has_more_keys), (60, &[b"\xff"[..].into()][..], false));
    assert!(info.remaining > Duration::from_secs(50));
    assert_eq!(client.revoke_lease(lease.id).await.unwrap().deleted, 1);
    for error in
        [client.keep_alive(lease.id).await.unwrap_err(), client.put("k", "v").lease(lease.id).await.unwrap_err()]
    {
        assert!(matches!(&error, Error::NotFound(_)) && error.code() == "lease_not_found", "{error}");
    }
}

#[tokio::test]
async fn the_cluster_tells_and_is_told() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let status = client.status().await.unwrap();
    assert_eq!(
        (status.node.name.as_str(), status.leader, status.other["phase"].as_str()),
        ("n1", None, Some("running"))
    );
    assert_eq!(client.members().await.unwrap()[0].role, "voter");
    client.add_member("n/2", "h:2").await.unwrap();
    client.add_learner("n/3", "h:3").await.unwrap();
    assert_eq!(node.seen("POST /v1/members")[1].body, br#"{"address":"h:3","learner":true,"name":"n/3"}"#);
    client.promote_member("n/2").await.unwrap();
    client.remove_member("n/2").await.unwrap();
    assert!(matches!(client.remove_member("gone").await, Err(Error::NotFound(_))));
    client.transfer_leadership(Some("n/2")).await.unwrap();
    assert_eq!(node.seen("POST /v1/leader")[0].body, br#"{"to":"n/2"}"#);
    assert_eq!(node.seen("DELETE /v1/members/n%2F2").len(), 1);
    client.compact(5).await.unwrap();
    let error = client.compact(5).await.unwrap_err();
    assert!(matches!(error, Error::Compacted(_)) && error.oldest() == Some(5));
    let mut file = Vec::new();
    let snapshot = client.snapshot(&mut file).await.unwrap();
    assert_eq!((snapshot.revision, snapshot.bytes, file.len()), (7, 100_000, 100_000));
}

#[tokio::test]
async fn clones_share_connections_and_work_at_the_same_time() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    for _ in 0..5 {
        client.clone().put("k", "v").await.unwrap();
    }
    assert_eq!(node.connections(), 1);
    let puts = (0..20).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.put(format!("k{n}"), "v").await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    assert_eq!(client.count(Range::all()).await.unwrap(), 21);
}
