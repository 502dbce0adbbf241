//! Requests over HTTP, to a member of a cluster that is a map.

use crate::Leader;
use crate::http::body::Input;
use crate::http::map::Map;
use crate::http::{Answer, Front, Member, Refusal, Service, Settings, serve};
use hyper::Request;
use hyper::header::HeaderValue;
use node::{Failure, Role, Status};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime;
use tokio::time::timeout;

/// All that a client sends on one connection. The first byte says what the cluster is like, and whether the client says
/// that this was all.
///
/// The connection comes to an end, and whatever was answered is whole and no more than was asked.
pub fn requests(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let (replies, answered) = converse(kind, bytes);
    let told = replies.iter().filter(|reply| reply.method.is_some()).count();
    assert_eq!(told, answered, "{replies:?}");
}

/// Requests to `/v1` in a form that is easier to come by: parted by lines of `--`, each a line of method and path, lines
/// of headers, an empty line, and the body. The first byte is as above.
///
/// The same holds, and every answer is what it says it is: a problem with a known code, or JSON, or bytes.
pub fn v1_requests(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let mut sent = Vec::new();
    for request in split(bytes, b"\n--\n") {
        let (head, body) = split_once(request, b"\n\n");
        let (line, headers) = split_once(head, b"\n");
        sent.extend_from_slice(line);
        sent.extend_from_slice(b" HTTP/1.1\r\nhost: localhost\r\n");
        for header in headers.split(|&byte| byte == b'\n').filter(|header| !header.is_empty()) {
            sent.extend_from_slice(header);
            sent.extend_from_slice(b"\r\n");
        }
        sent.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        sent.extend_from_slice(body);
    }
    // What fails is up to the bytes, and not why.
    for reply in converse(kind, &sent).0 {
        let json = || -> Value { serde_json::from_slice(&reply.body).expect("JSON") };
        match reply.content_type.as_deref() {
            Some("application/problem+json") if reply.has_body => {
                let problem = json();
                assert_eq!(problem["status"], reply.status);
                assert!(CODES.contains(&problem["code"].as_str().expect("a code")), "{problem}");
                assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
                assert!(reply.status != 500, "{problem}");
            }
            // A watch that is cut off may end in half a line.
            Some("application/x-ndjson") if reply.body.ends_with(b"\n") => {
                for line in reply.body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                    let line: Value = serde_json::from_slice(line).expect("a line is JSON");
                    assert!(line.is_object() && line["status"] != 500, "{line}");
                }
            }
            Some("application/json") if reply.has_body && reply.method.is_some() => assert!(json().is_object()),
            _ => assert!(reply.status != 500, "{reply:?}"),
        }
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    /// Of the request; `None` if it never came to the service.
    method: Option<String>,
    content_type: Option<String>,
    has_body: bool,
    body: Vec<u8>,
}

/// What is answered to these bytes, and how many requests came to the service.
fn converse(kind: u8, bytes: &[u8]) -> (Vec<Reply>, usize) {
    let settings = Settings { forward: kind & 8 == 0, ..Settings::default() };
    let service = Watched { member: Arc::new(Member::new(cluster(kind), settings)), answered: AtomicUsize::new(0) };
    let front = Arc::new(Front::new(service));
    // Its clock goes on by itself when nothing else does: whoever waits for nothing waits no longer than that.
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (answers, has_ended) = runtime.expect("a runtime of one thread").block_on(async {
        let (ours, theirs) = duplex(PIPE_BYTES);
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000));
        let serving = tokio::spawn(serve(theirs, peer, front.clone()));
        let (mut reader, mut writer) = tokio::io::split(ours);
        let ask = async {
            // A server that has heard enough need not listen to the end.
            let _ = writer.write_all(bytes).await;
            if kind & 32 == 0 {
                let _ = writer.shutdown().await;
            }
        };
        let mut answers = Vec::new();
        let listen = async { while reader.read_buf(&mut answers).await.expect("a pipe in memory") > 0 {} };
        // Some answers never end.
        let has_ended = timeout(LISTENED, async { tokio::join!(ask, listen) }).await.is_ok();
        drop((reader, writer));
        serving.await.expect("the connection does not panic");
        (answers, has_ended)
    });
    let mut replies = Vec::new();
    let mut rest = &answers[..];
    while !rest.is_empty() {
        let (status, head, behind) = head_of(rest);
        rest = behind;
        if status < 200 {
            continue;
        }
        let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let method = header(METHOD);
        // What came before the service, or instead of it, is an error as JSON.
        let is_bare = method == Some("HEAD") || status == 304 || method.is_none() && !rest.starts_with(b"{");
        let mut body = Vec::new();
        if header("transfer-encoding") == Some("chunked") && !is_bare {
            let is_whole = take_chunks(&mut rest, &mut body);
            assert!(is_whole || !has_ended, "half an answer: {head:?}");
        } else if !is_bare {
            let length = header("content-length").expect("an answer says how long it is");
            let (whole, behind) = rest.split_at_checked(length.parse().expect("a number")).expect("a whole body");
            assert!(status < 400 || !whole.is_empty(), "an error without a word: {head:?}");
            (body, rest) = (whole.to_vec(), behind);
        }
        replies.push(Reply {
            status,
            method: method.map(str::to_string),
            content_type: header("content-type").map(str::to_string),
            has_body: !is_bare,
            body,
        });
    }
    (replies, front.service().answered.load(Relaxed))
}

/// Whether the last of them is there.
fn take_chunks(rest: &mut &[u8], body: &mut Vec<u8>) -> bool {
    while !rest.is_empty() {
        let (length, behind) = split_once(rest, b"\r\n");
        let length = std::str::from_utf8(length).ok().and_then(|length| usize::from_str_radix(length, 16).ok());
        let length = length.expect("a chunk says how long it is");
        let Some((chunk, behind)) = behind.split_at_checked(length) else { break };
        body.extend_from_slice(chunk);
        *rest = behind.strip_prefix(b"\r\n").unwrap_or_default();
        if length == 0 {
            return true;
        }
    }
    *rest = &[];
    false
}

fn split<'a>(bytes: &'a [u8], by: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let whole = rest?;
        let (first, behind) = split_once(whole, by);
        rest = (first.len() < whole.len()).then_some(behind);
        Some(first)
    })
}

/// What is before the first of these, and what is behind it.
fn split_once<'a>(bytes: &'a [u8], by: &[u8]) -> (&'a [u8], &'a [u8]) {
    match bytes.windows(by.len()).position(|window| window == by) {
        Some(at) => (&bytes[..at], &bytes[at + by.len()..]),
        None => (bytes, &[]),
    }
}

/// The status, the other lines of the head, and what follows it.
fn head_of(answers: &[u8]) -> (u16, Vec<&str>, &[u8]) {
    let end = answers.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    let head = std::str::from_utf8(&answers[..end]).expect("a head is text");
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|line| line.get(2..5)).expect("a status line");
    let status = status.parse().expect("a status");
    assert!((100..600).contains(&status), "{line}");
    (status, lines.collect(), &answers[end + 4..])
}

/// Tells in each answer to which method it is.
struct Watched {
    member: Arc<Member<Map>>,
    answered: AtomicUsize,
}

impl Service for Watched {
    async fn answer(self: &Arc<Self>, request: &mut Request<Input>, peer: SocketAddr) -> Result<Answer, Refusal> {
        let method = HeaderValue::from_str(request.method().as_str()).expect("a method is a token");
        let answer = self.member.answer(request, peer).await;
        let mut answer = answer.unwrap_or_else(Refusal::into_answer);
        answer.headers_mut().insert(METHOD, method);
        self.answered.fetch_add(1, Relaxed);
        Ok(answer)
    }
}

/// Three bits choose how every request to the cluster fails, if it does; one more who leads.
fn cluster(kind: u8) -> Map {
    let why = "as the first byte says".to_string();
    let failure = match kind % 8 {
        1 => Some(Failure::Invalid(why)),
        2 => Some(Failure::Unavailable(why)),
        3 => Some(Failure::Overloaded(why)),
        4 => Some(Failure::Unknown(why)),
        5 => Some(Failure::KeyReused(why)),
        6 => Some(Failure::Removed(why)),
        _ => None,
    };
    let leader = Leader { name: "b".into(), address: "b:1".into(), url: Some("http://b:2".into()) };
    let role = if kind & 16 == 0 { Role::Leader } else { Role::Follower };
    let map = Map {
        failure: Mutex::new(failure),
        leader: Mutex::new(Some(leader)),
        ages: Mutex::new([Some(Duration::from_secs(1)), None]),
        ..Map::default()
    };
    for (key, value) in [(&b"a"[..], &b"1"[..]), (b"a/b", b"2"), (b"\xff", b"\xff")] {
        map.put(key, value);
    }
    map.set_status(Status { role, ..Status::default() });
    map
}

/// All that a problem's code may be.
const CODES: &[&str] = &[
    "invalid",
    "too_many_operations",
    "future_revision",
    "key_not_found",
    "lease_not_found",
    "member_not_found",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "lease_exists",
    "compacted",
    "removed",
    "precondition_failed",
    "too_large",
    "idempotency_key_reused",
    "overloaded",
    "unavailable",
    "not_leader",
    "node_stopping",
    "unknown_outcome",
];

const METHOD: &str = "method";
/// Longer than anything may take that ends.
const LISTENED: Duration = Duration::from_secs(30 * 60);
const PIPE_BYTES: usize = 64 * 1024;
