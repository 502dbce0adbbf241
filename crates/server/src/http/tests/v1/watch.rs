//! Watches as their clients read them.

use super::*;
use crate::watch::End;
use kv::Action;

/// An answer that does not end.
pub struct Reading {
    client: DuplexStream,
    head: Answered,
    /// What came since the last look, without the marks of its chunks.
    body: String,
    raw: Vec<u8>,
    ended: bool,
}

impl Reading {
    pub async fn of(server: &Server, path: &str, headers: &[(&str, &str)]) -> Reading {
        let mut client = server.connect();
        client.write_all(&request("GET", path, headers, b"")).await.unwrap();
        let head = Answered::read(&mut client).await;
        Reading { client, head, body: String::new(), raw: Vec::new(), ended: false }
    }

    async fn some(&mut self) {
        let count = self.client.read_buf(&mut self.raw).await.unwrap();
        assert!(count > 0, "the connection ended within the answer: {}", self.body);
        while let Some(at) = self.raw.windows(2).position(|two| two == b"\r\n") {
            let length = usize::from_str_radix(std::str::from_utf8(&self.raw[..at]).unwrap(), 16).unwrap();
            if self.raw.len() < at + 2 + length + 2 {
                break;
            }
            self.ended |= length == 0;
            self.body.push_str(std::str::from_utf8(&self.raw[at + 2..at + 2 + length]).unwrap());
            self.raw.drain(..at + 2 + length + 2);
        }
    }

    /// What came up to the end of this text, which comes sooner or later.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.body.find(text) {
                let rest = self.body.split_off(at + text.len());
                return std::mem::replace(&mut self.body, rest);
            }
            self.some().await;
        }
    }

    pub async fn rest(mut self) -> String {
        while !self.ended {
            self.some().await;
        }
        self.body
    }
}

fn put_event(revision: u64, key: &str, value: &str, create: u64, version: u64) -> String {
    format!(
        "id: {revision}\nevent: change\ndata: {{\"revision\":{revision},\"changes\":[{{\"type\":\"put\",\"key\":\"{key}\",\
         \"value\":\"{value}\",\"create_revision\":{create},\"mod_revision\":{revision},\"version\":{version},\"lease\":0}}]}}\n\n"
    )
}

fn progress(revision: u64) -> String {
    format!("id: {revision}\nevent: progress\ndata: {{\"revision\":{revision}}}\n\n")
}

#[tokio::test]
async fn a_watch_tells_what_comes_after_the_state_that_was_read() {
    let server = Server::with(&[("a", "0")]);
    let mut watch = Reading::of(&server, "/v1/watch", &[]).await;
    assert_eq!((watch.head.status, watch.head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(watch.head.header("quorate-revision"), Some("1"));
    assert_eq!(watch.head.header("quorate-level"), Some("linearizable"));
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable)]);
    assert_eq!(watch.until("\n\n").await, progress(1));
    server.cluster().put(b"a", b"1");
    assert_eq!(watch.until("\n\n").await, put_event(2, "a", "1", 1, 2));
    server.cluster().put(b"b", b"line\nend");
    assert_eq!(watch.until("\n\n").await, put_event(3, "b", "line\\nend", 3, 1));
    let local = Reading::of(&server, "/v1/watch?level=none", &[]).await;
    assert_eq!((local.head.header("quorate-level"), local.head.header("quorate-revision")), (Some("none"), Some("3")));
    assert_eq!(server.asked(), []);
}

/// The ring is everybody's, and knows what was there before as soon as somebody wants it.
#[tokio::test]
async fn only_who_wants_it_is_told_what_was_there_before() {
    let server = Server::with(&[("a", "0")]);
    let mut without = Reading::of(&server, "/v1/watch", &[]).await;
    let mut with = Reading::of(&server, "/v1/watch?prev=true", &[]).await;
    without.until(&progress(1)).await;
    with.until(&progress(1)).await;
    server.cluster().put(b"a", b"1");
    assert_eq!(without.until("\n\n").await, put_event(2, "a", "1", 1, 2));
    assert!(with.until("\n\n").await.contains(r#""previous":{"key":"a","value":"0""#));
}

#[tokio::test]
async fn a_watch_goes_on_where_it_is_told_to() {
    let server = Server::new();
    for number in 1..=5 {
        server.cluster().put(b"a", number.to_string().as_bytes());
    }
    let from = |first: u64| -> String {
        let events = (first..=5).map(|revision| put_event(revision, "a", &revision.to_string(), 1, revision));
        events.chain([progress(5)]).collect()
    };
    for (query, last_event_id, first) in [
        ("?revision=1", None, 1),
        ("?revision=0", None, 1),
        ("?revision=4", None, 4),
        ("?revision=1", Some("3"), 4),
        ("", Some("0"), 1),
        ("?revision=5", Some(""), 5),
        ("", Some("5"), 6),
    ] {
        let headers: Vec<_> = last_event_id.iter().map(|&last| ("Last-Event-ID", last)).collect();
        let mut watch = Reading::of(&server, &format!("/v1/watch{query}"), &headers).await;
        assert_eq!(watch.head.header("quorate-revision"), Some((first - 1).to_string().as_str()));
        assert_eq!(watch.until(&progress(5)).await, from(first), "{query} {last_event_id:?}");
    }
    // One that is still to come is waited for.
    let mut watch = Reading::of(&server, "/v1/watch?revision=7", &[]).await;
    assert_eq!(watch.until("\n\n").await, progress(6));
    server.cluster().put(b"a", b"6");
    server.cluster().put(b"a", b"7");
    assert_eq!(watch.until("\n\n").await, put_event(7, "a", "7", 1, 7));
}

#[tokio::test]
async fn a_watch_tells_of_the_keys_and_the_kind_of_change_that_were_asked_for() {
    let server = Server::with(&[("a1", "x")]);
    let delete = |key: &'static str| Operation::Delete { key: key.into() };
    let put = |key: &'static str| Operation::Put { key: key.into(), value: "y".into() };
    server.cluster().write(vec![put("a1"), put("b"), put("a2")], None);
    server.cluster().write(vec![delete("a1")], None);
    server.cluster().write(vec![put("b")], None);
    let rows = [
        ("", vec![json!([1, "+a1"]), json!([2, "+a1", "+a2", "+b"]), json!([3, "-a1"]), json!([4, "+b"])]),
        ("key=a1", vec![json!([1, "+a1"]), json!([2, "+a1"]), json!([3, "-a1"])]),
        ("prefix=a", vec![json!([1, "+a1"]), json!([2, "+a1", "+a2"]), json!([3, "-a1"])]),
        ("prefix=", vec![json!([1, "+a1"]), json!([2, "+a1", "+a2", "+b"]), json!([3, "-a1"]), json!([4, "+b"])]),
        ("start=a2&end=b", vec![json!([2, "+a2"])]),
        ("start=a2", vec![json!([2, "+a2", "+b"]), json!([4, "+b"])]),
        ("end=a2", vec![json!([1, "+a1"]), json!([2, "+a1"]), json!([3, "-a1"])]),
        ("only=delete", vec![json!([3, "-a1"])]),
        ("prefix=b&only=put", vec![json!([2, "+b"]), json!([4, "+b"])]),
        ("prefix=%ff", vec![]),
    ];
    for (query, expected) in rows {
        let path = format!("/v1/watch?revision=1&{query}");
        let mut watch = Reading::of(&server, &path, &[("Accept", "application/x-ndjson")]).await;
        assert_eq!(watch.head.header("content-type"), Some("application/x-ndjson"));
        let lines = watch.until("{\"progress\":{\"revision\":4}}\n").await;
        let mut told = Vec::new();
        for line in lines.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let Some(change) = line.get("change") else { continue };
            let mut short = vec![change["revision"].clone()];
            for change in change["changes"].as_array().unwrap() {
                let sign = if change["type"] == "put" { "+" } else { "-" };
                short.push(json!(format!("{sign}{}", change["key"].as_str().unwrap())));
            }
            told.push(serde_json::Value::Array(short));
        }
        assert_eq!(told, expected, "{query}");
    }
}

#[tokio::test]
async fn what_was_there_before_is_told_if_it_is_asked_for() {
    let server = Server::with(&[("a", "0")]);
    server.cluster().write(vec![Operation::Delete { key: "a".into() }], None);
    server.cluster().write(vec![Operation::Put { key: b"\xff"[..].into(), value: b"\xfe"[..].into() }], None);
    let mut watch = Reading::of(&server, "/v1/watch?revision=2&prev=true", &[("Accept", "application/x-ndjson")]).await;
    let before = r#"{"key":"a","value":"0","create_revision":1,"mod_revision":1,"version":1,"lease":0}"#;
    let first =
        format!(r#"{{"change":{{"revision":2,"changes":[{{"type":"delete","key":"a","previous":{before}}}]}}}}"#);
    let second = "{\"change\":{\"revision\":3,\"changes\":[{\"type\":\"put\",\"key_base64\":\"/w==\",\
                  \"value_base64\":\"/g==\",\"create_revision\":3,\"mod_revision\":3,\"version\":1,\"lease\":0}]}}\n";
    assert_eq!(watch.until(second).await, format!("{first}\n{second}"));
}

#[tokio::test]
async fn what_is_compacted_is_refused_at_the_start_and_ends_a_watch_later() {
    let server = Server::new();
    for _ in 0..10 {
        server.cluster().put(b"a", b"1");
    }
    server.cluster().act(Action::Compact { revision: 5 }, None);
    let refused = server.get("/v1/watch?revision=4").await;
    assert_eq!(refused.expect_problem(410, "compacted", "")["oldest"], 5);
    assert_eq!(refused.header("quorate-revision"), Some("3"));
    let mut watch = Reading::of(&server, "/v1/watch?revision=5", &[]).await;
    watch.until(&progress(10)).await;

    // A watch that is behind when the past goes: as soon as it reads on.
    let hub = server.cluster().hub.clone();
    let wish = crate::watch::Wish {
        keys: kv::KeyRange::all(),
        only: None,
        previous: false,
        encoding: &crate::watch::Encoding { name: "none", encode: |_, _, _, _| {} },
    };
    assert_eq!(hub.watch(wish, 4).next().await, crate::watch::Event::Compacted { next: 4, oldest: 5 });
}

#[tokio::test]
async fn a_node_that_stops_says_so_and_ends_its_watches() {
    for (end, code) in [(End::Stopping, "node_stopping"), (End::Removed("why".into()), "removed")] {
        let server = Server::new();
        let mut watch = Reading::of(&server, "/v1/watch", &[]).await;
        let mut lines = Reading::of(&server, "/v1/watch", &[("Accept", "application/x-ndjson")]).await;
        watch.until(&progress(0)).await;
        lines.until("\n").await;
        server.cluster().hub.end(end);
        server.front.close();
        let (watch, lines) = (watch.rest().await, lines.rest().await);
        let data = watch.strip_prefix("event: error\ndata: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
        let problem: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(problem["code"], code);
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(line, json!({"error": problem}));
    }
}

#[tokio::test]
async fn a_watch_that_is_not_understood_is_refused() {
    let server = Server::new();
    for (query, reason) in [
        ("key=a&prefix=a", "in one way"),
        ("prefix=a&end=b", "in one way"),
        ("only=both", "put or delete"),
        ("revision=x", "no number"),
        ("prev=yes", "true or false"),
        ("level=quick", "level"),
        ("limit=5", "no parameter"),
    ] {
        server.get(&format!("/v1/watch?{query}")).await.expect_problem(400, "invalid", reason);
    }
    for wrong in ["x", "-1", "9223372036854775807", "1.5"] {
        let refused = server.send(&request("GET", "/v1/watch", &[("Last-Event-ID", wrong)], b"")).await;
        refused.expect_problem(400, "invalid", "Last-Event-ID");
    }
    assert_eq!(server.asked(), []);
    let server = Server::new().fail(Failure::Unavailable("no leader".into()));
    server.get("/v1/watch?revision=1").await.expect_problem(503, "unavailable", "no leader");
}

/// Whoever reads nothing costs nobody anything but what its connection holds.
#[tokio::test]
async fn a_watch_that_nobody_reads_ends_with_its_connection() {
    let server = Server::new();
    let (mut client, serving) = server.open();
    client.write_all(&request("GET", "/v1/watch?revision=1", &[], b"")).await.unwrap();
    let hub = server.cluster().hub.clone();
    while hub.counts().watchers == 0 {
        tokio::task::yield_now().await;
    }
    let mut other = Reading::of(&server, "/v1/watch?revision=1", &[]).await;
    for number in 1..=20_000 {
        server.cluster().put(b"a", b"1");
        if number % 100 == 0 {
            other.until(&format!("id: {number}\n")).await;
        }
    }
    drop(client);
    serving.await.unwrap();
    assert_eq!(hub.counts().watchers, 1);
}
