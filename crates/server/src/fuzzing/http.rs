//! Requests over HTTP, to a member of a cluster that is a map.

use crate::Leader;
use crate::http::map::Map;
use crate::http::{Answer, Front, Member, Refusal, Service, Settings, serve};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use node::{Failure, Role, Status};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime;

/// All that a client sends on one connection. The first byte says what the cluster is like, and whether the client says
/// that this was all.
///
/// The connection comes to an end, and whatever was answered is whole and no more than was asked.
pub fn requests(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let settings = Settings { forward: kind & 8 == 0, ..Settings::default() };
    let service = Watched { member: Member::new(cluster(kind), settings), answered: AtomicUsize::new(0) };
    let front = Arc::new(Front::new(service));
    // Its clock goes on by itself when nothing else does: whoever waits for nothing waits no longer than that.
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let answers = runtime.expect("a runtime of one thread").block_on(async {
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
        let (_, read) = tokio::join!(ask, reader.read_to_end(&mut answers));
        read.expect("a pipe in memory");
        serving.await.expect("the connection does not panic");
        answers
    });
    let mut answered = 0;
    let mut rest = &answers[..];
    while !rest.is_empty() {
        let (status, head, behind) = head_of(rest);
        rest = behind;
        if status < 200 {
            continue;
        }
        let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let method = header(METHOD);
        answered += usize::from(method.is_some());
        // What came before the service, or instead of it, is an error as JSON.
        if method == Some("HEAD") || method.is_none() && !rest.starts_with(b"{") {
            continue;
        }
        let length: usize = header("content-length").expect("an answer says how long it is").parse().expect("a number");
        assert!(status < 400 || length > 0, "an error without a word: {head:?}");
        rest = rest.get(length..).expect("a whole body");
    }
    assert_eq!(answered, front.service().answered.load(Relaxed), "{}", String::from_utf8_lossy(&answers));
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
    member: Member<Map>,
    answered: AtomicUsize,
}

impl Service for Watched {
    async fn answer(&self, request: &mut Request<Incoming>, peer: SocketAddr) -> Result<Answer, Refusal> {
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
    map.set_status(Status { role, ..Status::default() });
    map
}

const METHOD: &str = "method";
const PIPE_BYTES: usize = 64 * 1024;
