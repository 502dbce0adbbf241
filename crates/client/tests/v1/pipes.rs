//! Requests that are under way at the same time share a connection, and nothing else changes for them.

use crate::stand_in::{Fault, StandIn};
use crate::{client, soon};
use client::{Client, Error};
use std::time::Duration;
use tokio::task::JoinSet;

/// So many puts at the same time, to keys of their own.
async fn put_many(client: &Client, count: usize) -> Vec<Result<(), Error>> {
    let mut tasks = JoinSet::new();
    for at in 0..count {
        let client = client.clone();
        tasks.spawn(async move { client.put(format!("k/{at}"), vec![at as u8; 3]).await.map(drop) });
    }
    tasks.join_all().await
}

#[tokio::test]
async fn what_is_under_way_together_shares_a_connection() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    client.put("alone", "v").await.unwrap();
    assert_eq!((node.connections(), node.seen("POST /v1/pipeline").len()), (1, 0), "one alone needs no pipe");

    assert!(put_many(&client, 200).await.iter().all(Result::is_ok));
    assert_eq!(node.seen("POST /v1/pipeline").len(), 1);
    assert_eq!(node.seen("PUT /v1/kv/k").len(), 200);
    let connections = node.connections();
    assert!(connections <= 3, "{connections}");

    // Of any bytes.
    for at in [1, 200_usize] {
        let kv = client.get(format!("k/{}", at - 1)).await.unwrap().unwrap();
        assert_eq!((kv.value, kv.version), (vec![at as u8 - 1; 3].into(), 1));
    }
    assert!(put_many(&client, 200).await.iter().all(Result::is_ok));
    assert_eq!(node.connections(), connections, "no other is needed");
    assert_eq!(client.get("k/7").await.unwrap().unwrap().version, 2);
    assert_eq!(client.get("none").await.unwrap(), None);
}

/// Answers are lost after the writes were done: their repeats must not do them again.
#[tokio::test]
async fn when_a_pipe_breaks_each_of_its_writes_is_repeated_under_its_own_key() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    for _ in 0..3 {
        node.fault("PUT /v1/kv/k%2F7", Fault::DoAndDrop);
    }
    assert!(put_many(&client, 50).await.iter().all(Result::is_ok));
    assert_eq!(node.store.revision(), 50);
    let mut keys: Vec<String> =
        node.seen("PUT").iter().map(|request| request.headers["idempotency-key"].clone()).collect();
    assert!(keys.len() > 50, "{}", keys.len());
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 50);
}

#[tokio::test]
async fn one_that_hangs_keeps_no_other_waiting() {
    let node = StandIn::start().await;
    let client = client(&[&node]).with_time_limit(Duration::from_millis(500));
    node.fault("PUT /v1/kv/k%2F7", Fault::Hang);
    let done = put_many(&client, 50).await;
    let failed: Vec<_> = done.into_iter().filter_map(Result::err).collect();
    assert!(matches!(&failed[..], [Error::Unknown(_)]), "{failed:?}");
    assert!(put_many(&client, 50).await.iter().all(Result::is_ok), "it goes on");
}

#[tokio::test]
async fn a_node_without_pipelines_is_asked_as_before() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    node.fault("POST /v1/pipeline", Fault::problem(404, "not_found", "not_applied", false));
    for _ in 0..2 {
        assert!(put_many(&client, 50).await.iter().all(Result::is_ok));
    }
    assert_eq!(node.store.revision(), 100);
    assert_eq!(node.seen("POST /v1/pipeline").len(), 1, "it is asked once");
}

#[tokio::test]
async fn a_client_that_goes_takes_its_connections_along() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    put_many(&client, 50).await;
    assert!(node.open_connections() > 0);
    drop(client);
    soon(async {
        while node.open_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
