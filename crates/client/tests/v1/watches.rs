//! Watches: every revision once, in order, whatever breaks.

use crate::stand_in::{Fault, StandIn, Store};
use crate::{client, soon};
use client::{Change, Error, Range};
use std::time::Duration;
use tokio::net::TcpListener;

async fn keys(watch: &mut client::Watch, count: usize) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let revision = soon(watch.next()).await.unwrap();
        for change in &revision.changes {
            let sign = if matches!(change, Change::Put { .. }) { "+" } else { "-" };
            seen.push((revision.revision, format!("{sign}{}", String::from_utf8_lossy(change.key()))));
        }
    }
    seen
}

fn told(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(revision, key)| (*revision, key.to_string())).collect()
}

#[tokio::test]
async fn what_happens_after_it_began_is_seen() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    client.put("a1", "v").await.unwrap();
    let mut watch = client.watch(Range::prefix("a")).await.unwrap();
    assert_eq!(watch.revision(), 1);
    client.put("a2", "v").await.unwrap();
    client.put("b", "v").await.unwrap();
    client.delete_prefix("a").await.unwrap();
    assert_eq!(keys(&mut watch, 3).await, told(&[(2, "+a2"), (4, "-a1"), (4, "-a2")]));
    assert_eq!(watch.revision(), 4);
    let mut deletes = client.watch(Range::key("a2")).from(1).only_deletes().await.unwrap();
    assert_eq!(keys(&mut deletes, 1).await, told(&[(4, "-a2")]));
}

/// The connection breaks after each line: wherever that is, nothing is missing and nothing comes twice.
#[tokio::test]
async fn a_watch_goes_on_after_every_break() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    for number in 1..=5 {
        client.put(format!("k{number}"), "v").await.unwrap();
    }
    for _ in 0..4 {
        node.fault("GET /v1/watch", Fault::Cut(1));
    }
    node.fault("GET /v1/watch", Fault::Drop);
    node.fault("GET /v1/watch", Fault::problem(503, "unavailable", "not_applied", true));
    let mut watch = client.watch(Range::prefix("k")).from(2).await.unwrap();
    assert_eq!(keys(&mut watch, 4).await, told(&[(2, "+k2"), (3, "+k3"), (4, "+k4"), (5, "+k5")]));
    client.put("k6", "v").await.unwrap();
    assert_eq!(keys(&mut watch, 1).await, told(&[(6, "+k6")]));
    let from: Vec<String> =
        node.seen("GET /v1/watch").iter().map(|r| r.line.rsplit_once("revision=").unwrap().1.to_string()).collect();
    assert_eq!(from[..5], ["2", "3", "4", "5", "6"]);
}

/// What the server says about revisions without changes counts too: those are not asked for again.
#[tokio::test]
async fn progress_moves_the_place_to_go_on() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    client.put("other", "v").await.unwrap();
    node.fault("GET /v1/watch", Fault::Cut(1));
    let mut watch = client.watch(Range::key("k")).from(1).await.unwrap();
    let waiting = tokio::spawn(async move { (watch.next().await, watch) });
    soon(async {
        while node.seen("GET /v1/watch").len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(node.seen("GET /v1/watch")[1].line, "GET /v1/watch?key=k&revision=2");
    client.put("k", "v").await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().0.unwrap().revision, 2);
}

#[tokio::test]
async fn a_watch_goes_on_elsewhere_when_its_node_dies() {
    let store = Store::new();
    let mut nodes = vec![StandIn::serve("n1", &store).await, StandIn::serve("n2", &store).await];
    let client = client(&[&nodes[0], &nodes[1]]);
    let mut watch = client.watch(Range::all()).await.unwrap();
    client.put("before", "v").await.unwrap();
    assert_eq!(keys(&mut watch, 1).await, told(&[(1, "+before")]));
    let watched = nodes.iter().position(|node| !node.seen("GET /v1/watch").is_empty()).unwrap();
    drop(nodes.remove(watched));
    client.put("after", "v").await.unwrap();
    assert_eq!(keys(&mut watch, 1).await, told(&[(2, "+after")]));
}

/// Also one that repeats what it has sent before.
#[tokio::test]
async fn a_revision_that_comes_twice_is_handed_out_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let line = |revision: u64| {
            format!(r#"{{"change":{{"revision":{revision},"changes":[{{"type":"delete","key":"k"}}]}}}}"#) + "\n"
        };
        let lines = format!("{}{}\n: heartbeat\n{}{}", line(5), line(5), line(4), line(6));
        // In the middle of a line, too.
        let (first, second) = lines.split_at(30);
        let head = format!("HTTP/1.1 200 -\r\nQuorate-Revision: 4\r\nContent-Length: {}\r\n\r\n", lines.len() + 1);
        for piece in [head.as_str(), first, second] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = stream.read(&mut [0; 1024]).await;
    });
    let client = client::Client::new([address.to_string()]).unwrap();
    let mut watch = client.watch(Range::all()).from(5).await.unwrap();
    assert_eq!(keys(&mut watch, 2).await, told(&[(5, "-k"), (6, "-k")]));
}

/// A node that is suspended keeps its connections and says nothing.
#[tokio::test]
async fn silence_is_a_break() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    for _ in 0..2 {
        node.fault("GET /v1/watch", Fault::Silence);
    }
    let watch = client.watch(Range::all()).silence_limit(Duration::from_millis(100));
    let mut watch = watch.await.unwrap();
    client.put("k", "v").await.unwrap();
    assert_eq!(keys(&mut watch, 1).await, told(&[(1, "+k")]));
}

#[tokio::test]
async fn a_forgotten_past_is_an_error_at_the_start_and_later() {
    let node = StandIn::start().await;
    let client = client(&[&node]);
    for _ in 0..9 {
        client.put("k", "v").await.unwrap();
    }
    node.fault("GET /v1/watch", Fault::Cut(1));
    let mut watch = client.watch(Range::all()).from(2).await.unwrap();
    client.compact(8).await.unwrap();
    let error = client.watch(Range::all()).from(2).await.unwrap_err();
    assert!(matches!(error, Error::Compacted(_)) && error.oldest() == Some(8), "{error}");
    assert_eq!(soon(watch.next()).await.unwrap().revision, 2);
    assert!(matches!(soon(watch.next()).await, Err(Error::Compacted(_))), "after the break it is too late");
}
