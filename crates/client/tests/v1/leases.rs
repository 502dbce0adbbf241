//! Lease keepers, and what stands on them: locks and elections.

use crate::stand_in::{Fault, StandIn, Store};
use crate::{client, soon};
use client::{Error, LeaseKeeper, Range, Step};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_kept_lease_outlives_its_time_and_a_dropped_one_does_not() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let keeper = LeaseKeeper::grant(&client, TTL).await.unwrap();
    client.put("k", "v").lease(keeper.id()).await.unwrap();
    // A keepalive that fails is tried again in time.
    node.fault("POST /v1/leases", Fault::Drop);
    node.fault("POST /v1/leases", Fault::problem(500, "internal", "not_applied", false));
    tokio::time::sleep(TTL * 2).await;
    assert!(!keeper.is_lost() && client.get("k").await.unwrap().is_some());
    assert!(node.seen("POST /v1/leases/").len() >= 4);

    drop(keeper);
    soon(async {
        while client.get("k").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_keeper_is_told_of_the_end() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let keeper = LeaseKeeper::grant(&client, TTL).await.unwrap();
    node.store.end_lease(keeper.id());
    let error = soon(keeper.lost()).await;
    assert!(matches!(error, Error::LeaseLost(_)) && error.code() == "lease_lost", "{error}");
    assert!(keeper.is_lost() && matches!(soon(keeper.lost()).await, Error::LeaseLost(_)), "as often as asked");
    keeper.revoke().await.unwrap();
    assert!(matches!(LeaseKeeper::keep(&client, 99).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn silence_ends_a_lease_not_before_its_time_and_not_much_later() {
    let node = StandIn::start().await;
    let began = Instant::now();
    let keeper = LeaseKeeper::grant(&client(&[&node]), TTL).await.unwrap();
    for _ in 0..100 {
        node.fault("POST /v1/leases", Fault::Drop);
    }
    let error = soon(keeper.lost()).await;
    assert!(error.to_string().contains("could not be kept alive"), "{error}");
    assert!(began.elapsed() >= TTL, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_lock_is_held_by_one_at_a_time_in_the_order_of_asking() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let (holders, order) = (Arc::new(AtomicU64::new(0)), Arc::new(std::sync::Mutex::new(Vec::new())));
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (client, holders, order) = (client.clone(), holders.clone(), order.clone());
            tokio::spawn(async move {
                let lock = client.lock("l").ttl(TTL * 20).await.unwrap();
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                order.lock().unwrap().push(lock.token());
                client.put("k", "v").await.unwrap();
                holders.fetch_sub(1, Ordering::SeqCst);
                lock.unlock().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        soon(task).await.unwrap();
    }
    let order = order.lock().unwrap().clone();
    assert!(order.len() == 6 && order.is_sorted(), "tokens grow: {order:?}");
    assert_eq!(client.count(Range::prefix("l/")).await.unwrap(), 0);
    assert_eq!(node.store.leases(), [0u64; 0]);
}

#[tokio::test]
async fn one_that_will_not_wait_leaves_no_trace() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let lock = client.lock("l").await.unwrap();
    for patience in [Duration::ZERO, Duration::from_millis(50)] {
        let error = client.lock("l").wait_at_most(patience).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)) && error.code() == "lock_held", "{error}");
    }
    assert_eq!(node.store.leases().len(), 1);
    lock.unlock().await.unwrap();
    client.lock("l").wait_at_most(Duration::ZERO).await.unwrap();
    // Keys of others below its name are none of its business.
    client.put("m/notes", "v").await.unwrap();
    client.lock("m").wait_at_most(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_lost_lock_is_told_and_its_condition_fails() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let lock = client.lock("l").ttl(TTL).await.unwrap();
    let write = |lock: &client::Lock| client.txn().when(lock.condition()).then(Step::put("k", "v"));
    assert!(write(&lock).await.unwrap().succeeded);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock("l").ttl(TTL).await.unwrap() }
    });
    let lease = client.get(lock.key()).await.unwrap().unwrap().lease;
    node.store.end_lease(lease);
    let next = soon(waiting).await.unwrap();
    assert!(next.token() > lock.token());
    assert!(!write(&lock).await.unwrap().succeeded, "the former owner writes no more, whether it knows or not");
    assert!(write(&next).await.unwrap().succeeded);
    assert!(matches!(soon(lock.lost()).await, Error::LeaseLost(_)));
    lock.unlock().await.unwrap();
    assert!(write(&next).await.unwrap().succeeded, "it unlocked nobody else's lock");
}

#[tokio::test]
async fn whoever_loses_its_place_while_waiting_is_told() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let _lock = client.lock("l").await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock("l").ttl(TTL).await }
    });
    let leases = soon(async {
        while client.count(Range::prefix("l/")).await.unwrap() < 2 {
            tokio::task::yield_now().await;
        }
        node.store.leases()
    })
    .await;
    node.store.end_lease(leases[1]);
    assert!(matches!(soon(waiting).await.unwrap(), Err(Error::LeaseLost(_))));
}

#[tokio::test]
async fn a_lock_goes_on_over_a_break_of_the_watch() {
    let store = Store::new();
    let nodes = [StandIn::serve("n1", &store).await, StandIn::serve("n2", &store).await];
    let client = client(&[&nodes[0], &nodes[1]]);
    let lock = client.lock("l").await.unwrap();
    nodes.iter().for_each(|node| node.fault("GET /v1/watch", Fault::Cut(0)));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock("l").await.unwrap() }
    });
    soon(async {
        while nodes.iter().map(|node| node.seen("GET /v1/watch").len()).sum::<usize>() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    lock.unlock().await.unwrap();
    soon(waiting).await.unwrap();
}

#[tokio::test]
async fn one_is_elected_and_the_next_follows() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    let election = client.election("e");
    let mut observer = election.observe();
    assert_eq!(soon(observer.next()).await.unwrap(), None);
    let first = election.campaign("a:1", TTL * 20).await.unwrap();
    assert_eq!(soon(observer.next()).await.unwrap().unwrap().value, "a:1");
    let campaign = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("b:1", TTL * 20).await.unwrap() }
    });
    first.proclaim("a:2").await.unwrap();
    assert_eq!(soon(observer.next()).await.unwrap().unwrap().value, "a:2");
    assert_eq!(election.leader().await.unwrap().unwrap().create_revision, first.token());
    let token = first.token();
    first.resign().await.unwrap();
    let second = soon(campaign).await.unwrap();
    assert!(second.token() > token && !second.is_lost());
    soon(async { while observer.next().await.unwrap().is_none_or(|kv| kv.value != "b:1") {} }).await;
    client.delete(second.key()).await.unwrap();
    assert!(matches!(second.proclaim("b:2").await, Err(Error::LeaseLost(_))));
}
