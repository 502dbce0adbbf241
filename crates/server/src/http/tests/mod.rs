//! The dialects as a client sees them: bytes in, bytes out, over a connection of the real kind, in front of a cluster
//! that is a map. Each row of a dialect's description has a line in a table here.

mod admin;
mod connections;
mod distributor;
mod hraftd;
mod raft_kv;
mod raftd;
mod reads;
mod v1;
mod values;

use super::map::{Asked, Map};
use super::*;
use crate::Leader;
use base::rng::Rng;
use bytes::Bytes;
use kv::{IdempotencyKey, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, Operation};
use node::membership::{self, Configuration};
use node::{Failure, ReadLevel, Status};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

struct Server {
    front: Arc<Front<Member<Map>>>,
    peer: SocketAddr,
}

impl Server {
    fn new() -> Server {
        Server::with_settings(settings())
    }

    fn with_settings(settings: Settings) -> Server {
        let peer = "127.0.0.1:50000".parse().unwrap();
        Server { front: Arc::new(Front::new(Member::new(Map::default(), settings))), peer }
    }

    fn with(pairs: &[(&str, &str)]) -> Server {
        let server = Server::new();
        for (key, value) in pairs {
            server.cluster().put(key.as_bytes(), value.as_bytes());
        }
        server
    }

    /// Every request to the cluster fails like this.
    fn fail(self, failure: Failure) -> Server {
        *self.cluster().failure.lock().unwrap() = Some(failure);
        self
    }

    fn cluster(&self) -> &Map {
        &self.front.service().cluster
    }

    fn connect(&self) -> DuplexStream {
        self.open().0
    }

    fn open(&self) -> (DuplexStream, JoinHandle<()>) {
        let (client, served) = duplex(1 << 16);
        (client, tokio::spawn(serve(served, self.peer, self.front.clone())))
    }

    /// Sends the bytes over a connection of their own, says that they are all, and waits until the server is done.
    async fn send(&self, bytes: &[u8]) -> Answered {
        let (client, serving) = self.open();
        let (mut reader, mut writer) = tokio::io::split(client);
        let write = async {
            // A server that has heard enough need not listen to the end.
            let _ = writer.write_all(bytes).await;
            let _ = writer.shutdown().await;
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut answer));
        read.unwrap();
        serving.await.expect("the connection must not panic");
        let answer = Answered::parse(&answer);
        v1::openapi::check(bytes, &answer);
        answer
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answered {
        self.send(&request(method, path, &[], body.as_bytes())).await
    }

    async fn get(&self, path: &str) -> Answered {
        self.call("GET", path, "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answered {
        self.call("POST", path, body).await
    }

    /// What the cluster was asked since the last look.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.cluster().asked.lock().unwrap())
    }

    fn content(&self) -> BTreeMap<Vec<u8>, Bytes> {
        let view = self.cluster().store.lock().unwrap().view();
        view.range(b"", None).map(Result::unwrap).map(|(key, found)| (key.to_vec(), found.value)).collect()
    }
}

fn settings() -> Settings {
    Settings::default()
}

/// The view of a node that follows the leader of that name.
fn led_by(name: &str) -> Status {
    let leader = membership::Member { name: name.into(), address: "there:1".into(), incarnation: base::Incarnation(1) };
    Status { node: 2, leader: Some(1), configuration: Arc::new(Configuration::bootstrap(leader)), ..Status::default() }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn put(pairs: &[(&str, &str)]) -> Asked {
    let operation = |(key, value): &(&str, &str)| Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    Asked::Write(pairs.iter().map(operation).collect(), None)
}

fn content(pairs: &[(&str, &str)]) -> BTreeMap<Vec<u8>, Bytes> {
    pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

/// An answer as it came over the wire. All empty if none came.
#[derive(Debug, Default)]
struct Answered {
    status: u16,
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
    /// The same as text, with a replacement for what is not UTF-8.
    body: String,
}

impl Answered {
    /// Reads one answer and leaves the connection open.
    async fn read(client: &mut (impl AsyncRead + Unpin)) -> Answered {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(client.read_u8().await.expect("an answer's head"));
        }
        let length = Answered::parse(&bytes).header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        client.read_exact(&mut body).await.expect("an answer's body");
        Answered::parse(&[bytes, body].concat())
    }

    fn parse(bytes: &[u8]) -> Answered {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            assert_eq!(bytes, b"", "half an answer");
            return Answered::default();
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let bytes = bytes[end + 4..].to_vec();
        let (line, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        Answered {
            status: line.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers.lines().map(header).collect(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// It must be an error with that status, whose sentence contains `reason`.
    #[track_caller]
    fn expect_error(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        let error = self.json()["error"].as_str().expect("an error is a sentence").to_owned();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }

    /// It must be a problem with that status and code, whose sentence contains `reason`.
    #[track_caller]
    fn expect_problem(&self, status: u16, code: &str, reason: &str) -> serde_json::Value {
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/problem+json")), "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{problem}");
        let detail = problem["detail"].as_str().expect("a sentence");
        assert!(detail.contains(reason), "{detail:?} does not say {reason:?}");
        let outcome = problem["outcome"].as_str().expect("what became of it");
        assert!(["applied", "not_applied", "unknown"].contains(&outcome) && problem["retryable"].is_boolean());
        problem
    }

    /// It must be an error with that status in plain text, one sentence and a newline, that contains `reason`.
    #[track_caller]
    fn expect_sentence(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(self.body.ends_with('\n') && self.body.lines().count() == 1, "{:?}", self.body);
        assert!(self.body.contains(reason), "{:?} does not say {reason:?}", self.body);
    }
}
