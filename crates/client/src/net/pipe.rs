//! Many requests over one connection: the client's end of `/v1/pipeline`.
//!
//! Requests are lines in the body of one request, answers lines in the body of its answer, told apart by their ids. Whatever
//! is to be sent while the connection is busy goes out together, so the more tasks share a pipe, the less each
//! request costs.
//!
//! As for any connection, what matters most is to tell a request that certainly never left from one that may have
//! arrived: one whose line the connection has not taken yet never left.

use super::endpoint::{Answer, Failure, MAX_ANSWER_BYTES, Message, sentence};
use crate::wire;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// What reading these answers comes to, while somebody waits for some of them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_all(lines: &[u8]) {
    let shared = Shared::default();
    let waiting: Vec<_> = (0..4)
        .map(|id| {
            let (reply, answer) = oneshot::channel();
            shared.state().waiting.insert(id, reply);
            answer
        })
        .collect();
    let read = lines.split(|&byte| byte == b'\n').try_for_each(|line| shared.take(&Bytes::copy_from_slice(line)));
    if let Err(why) = read {
        assert!(!why.is_empty(), "an end without a reason");
    }
    shared.end(End::Broken("there are no more".to_string()));
    for mut answer in waiting {
        assert!(answer.try_recv().is_ok(), "nobody waits any more");
    }
}

const MAX_HEADERS: usize = 100;

/// A connection that stands, and a pipeline on it. Clones share it; the last one that goes ends it.
#[derive(Clone, Debug)]
pub(crate) struct Pipe(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.end(End::Broken("nobody needs it any more".to_string()));
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines that the connection has not taken yet.
    unsent: BytesMut,
    /// The connection waits for one.
    sender: Option<Waker>,
    next: u64,
    /// Those below this have been taken.
    first_unsent: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Answer, Failure>>>,
    /// Answers so far.
    answered: u64,
    /// What is new of who leads, for the next answer to tell.
    news: HeaderMap,
    /// Why the other side takes no more requests. It still answers those that it has begun.
    last_word: Option<String>,
    end: Option<End>,
}

#[derive(Clone, Debug)]
enum End {
    /// The other side does not know of pipelines.
    NotSpoken,
    Broken(String),
}

impl Pipe {
    /// Over a stream that stands already. The first lines go with the head, and no answer to it is waited for.
    pub async fn over(stream: TcpStream, host: HeaderValue) -> Result<Pipe, Failure> {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, driver) = shaken.map_err(|error| Failure::NotSent(sentence(&error)))?;
        // Its error, if any, also reaches whoever waits for an answer.
        tokio::spawn(async move { driver.await.ok() });
        let shared = Arc::new(Shared::default());
        let mut request = hyper::Request::new(Lines { shared: shared.clone() });
        *request.method_mut() = Method::POST;
        *request.uri_mut() = hyper::Uri::from_static("/v1/pipeline");
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        tokio::spawn({
            let shared = Reader(shared.clone());
            async move {
                let end = match sender.send_request(request).await {
                    Ok(response) => shared.0.read(response).await,
                    Err(error) => End::Broken(sentence(&error)),
                };
                shared.0.end(end);
            }
        });
        Ok(Pipe(Arc::new(Owner { shared })))
    }

    /// Whether it takes another request.
    pub fn is_open(&self) -> bool {
        let state = self.0.shared.state();
        state.end.is_none() && state.last_word.is_none()
    }

    /// The other side has no pipelines, and did nothing of what was sent.
    pub fn is_not_spoken(&self) -> bool {
        matches!(self.0.shared.state().end, Some(End::NotSpoken))
    }

    /// Sends it and waits for the answer, whatever its status.
    pub async fn exchange(&self, message: &Message, until: Instant) -> Result<Answer, Failure> {
        let (reply, answer) = oneshot::channel();
        let shared = &*self.0.shared;
        let (id, answered) = {
            let mut state = shared.state();
            if let Some(end) = &state.end {
                return Err(Failure::NotSent(end.to_string()));
            }
            if let Some(why) = &state.last_word {
                return Err(Failure::NotSent(why.clone()));
            }
            let id = state.next;
            state.next += 1;
            write_line(&mut state.unsent, id, message);
            state.waiting.insert(id, reply);
            if let Some(sender) = state.sender.take() {
                sender.wake();
            }
            (id, state.answered)
        };
        let _gone = Gone { shared, id };
        match timeout_at(until, answer).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(Failure::Unanswered("the connection ended".to_string())),
            Err(_) => {
                // Who has said nothing at all since may be gone for good: the next one shall find out.
                if shared.state().answered == answered {
                    shared.end(End::Broken("it has fallen silent".to_string()));
                }
                Err(Failure::Unanswered("no answer in time".to_string()))
            }
        }
    }
}

/// Nobody waits for that answer any more.
struct Gone<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.shared.state().waiting.remove(&self.id);
    }
}

/// Who reads the answers. If it is dropped half-way, as a runtime does that ends, nobody waits for more.
struct Reader(Arc<Shared>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.end(End::Broken("the connection was given up".to_string()));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change to it is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads answers until there are no more, and says why.
    async fn read(&self, response: Response<Incoming>) -> End {
        let (head, mut body) = response.into_parts();
        match head.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return End::NotSpoken,
            status => return End::Broken(format!("it takes no pipeline, with status {status}")),
        }
        self.state().news = head.headers;
        let mut begun = BytesMut::new();
        loop {
            let mut bytes = match body.frame().await {
                None => {
                    let last_word = self.state().last_word.clone();
                    return End::Broken(last_word.unwrap_or("the connection was closed".to_string()));
                }
                Some(Err(error)) => return End::Broken(sentence(&error)),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
                let mut line = bytes.split_to(end);
                bytes.advance(1);
                if !begun.is_empty() {
                    begun.extend_from_slice(&line);
                    line = begun.split().freeze();
                }
                if let Err(why) = self.take(&line) {
                    return End::Broken(why);
                }
            }
            if begun.len() + bytes.len() > MAX_ANSWER_BYTES {
                return End::Broken(format!("an answer of more than {MAX_ANSWER_BYTES} bytes"));
            }
            begun.extend_from_slice(&bytes);
        }
    }

    fn take(&self, line: &Bytes) -> Result<(), String> {
        let told: Told = serde_json::from_slice(line).map_err(|error| format!("it sent no answer: {error}"))?;
        if let Some(error) = told.error {
            self.close(error.detail);
            return Ok(());
        }
        let mut state = self.state();
        if let Some(leader) = told.leader.and_then(|leader| HeaderValue::try_from(leader).ok()) {
            state.news.insert(HeaderName::from_static("quorate-leader"), leader);
        }
        let Some(id) = told.id else { return Ok(()) };
        state.answered += 1;
        let status = StatusCode::from_u16(told.status.unwrap_or_default());
        let status = status.map_err(|error| format!("it sent no answer: {error}"))?;
        // Nobody may wait for it any more.
        let Some(waiting) = state.waiting.remove(&id) else { return Ok(()) };
        let mut headers = std::mem::take(&mut state.news);
        drop(state);
        // As many as any answer has; a map of headers panics when it is given more than it can count.
        for (name, value) in told.headers.unwrap_or_default().into_iter().take(MAX_HEADERS) {
            let (name, value) = (HeaderName::try_from(name), HeaderValue::try_from(value));
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.insert(name, value);
            }
        }
        let body = told.body.map(|body| line.slice_ref(body.get().as_bytes())).unwrap_or_default();
        // Who does not wait any more needs no answer.
        let _ = waiting.send(Ok(Answer { status, headers, body }));
        Ok(())
    }

    /// Nothing more is sent. Who waits for the answer to what was sent goes on waiting.
    fn close(&self, why: String) {
        let mut state = self.state();
        state.unsent.clear();
        let first_unsent = state.first_unsent;
        for (_, waiting) in state.waiting.split_off(&first_unsent) {
            let _ = waiting.send(Err(Failure::NotSent(why.clone())));
        }
        state.last_word.get_or_insert(why);
    }

    /// Everybody who waits is told; the first reason stands.
    fn end(&self, end: End) {
        let mut state = self.state();
        let end = state.end.get_or_insert(end).clone();
        let first_unsent = if matches!(end, End::NotSpoken) { 0 } else { state.first_unsent };
        for (id, waiting) in std::mem::take(&mut state.waiting) {
            let failure = if id < first_unsent { Failure::Unanswered } else { Failure::NotSent };
            let _ = waiting.send(Err(failure(end.to_string())));
        }
        if let Some(sender) = state.sender.take() {
            sender.wake();
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::NotSpoken => f.write_str("it has no pipelines"),
            End::Broken(why) => f.write_str(why),
        }
    }
}

/// The body of the request: lines, as long as there may be any.
struct Lines {
    shared: Arc<Shared>,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut state = self.shared.state();
        if state.end.is_some() {
            return Poll::Ready(None);
        }
        if state.unsent.is_empty() {
            match &mut state.sender {
                Some(sender) => sender.clone_from(context.waker()),
                sender => *sender = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        state.first_unsent = state.next;
        Poll::Ready(Some(Ok(Frame::data(state.unsent.split().freeze()))))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.end(End::Broken("the connection ended".to_string()));
    }
}

/// All answers are JSON, and it shows by itself what is.
fn write_line(into: &mut BytesMut, id: u64, message: &Message) {
    into.extend_from_slice(format!("{{\"id\":{id},\"method\":\"{}\",\"path\":", message.method).as_bytes());
    wire::write_text(into, &message.path);
    let is_told = |name: &HeaderName| *name != ACCEPT && *name != CONTENT_TYPE;
    let mut headers = message.headers.iter().filter(|(name, _)| is_told(name)).peekable();
    if headers.peek().is_some() {
        into.extend_from_slice(b",\"headers\":{");
        for (at, (name, value)) in headers.enumerate() {
            into.extend_from_slice(if at > 0 { b"," } else { b"" });
            wire::write_text(into, name.as_str());
            into.extend_from_slice(b":");
            wire::write_text(into, &String::from_utf8_lossy(value.as_bytes()));
        }
        into.extend_from_slice(b"}");
    }
    if !message.body.is_empty() {
        match std::str::from_utf8(&message.body) {
            Ok(text) => {
                into.extend_from_slice(b",\"body\":");
                wire::write_text(into, text);
            }
            Err(_) => {
                into.extend_from_slice(b",\"body_base64\":");
                wire::write_text(into, &wire::base64(&message.body));
            }
        }
    }
    into.extend_from_slice(b"}\n");
}

/// An answer, or what is told beside.
#[derive(Deserialize)]
struct Told<'a> {
    id: Option<u64>,
    status: Option<u16>,
    headers: Option<BTreeMap<String, String>>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    leader: Option<String>,
    error: Option<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    /// As a node does that is stopped.
    #[test]
    fn after_its_last_word_the_other_side_answers_what_it_has_begun() {
        let shared = Shared::default();
        let mut asked = [0, 1, 2].map(|id| {
            let (reply, answer) = oneshot::channel();
            shared.state().waiting.insert(id, reply);
            answer
        });
        (shared.state().first_unsent, shared.state().next) = (2, 3);
        let take = |line: &'static [u8]| shared.take(&Bytes::from_static(line));
        take(br#"{"error":{"code":"node_stopping","detail":"this node is stopping"}}"#).unwrap();
        assert!(matches!(asked[2].try_recv(), Ok(Err(Failure::NotSent(why))) if why == "this node is stopping"));
        assert!(matches!(asked[0].try_recv(), Err(TryRecvError::Empty)));
        take(br#"{"id":0,"status":200,"body":{"revision":7}}"#).unwrap();
        assert_eq!(asked[0].try_recv().unwrap().unwrap().body, r#"{"revision":7}"#);
        shared.end(End::Broken("the connection was closed".to_string()));
        assert!(matches!(asked[1].try_recv(), Ok(Err(Failure::Unanswered(_)))));
    }
}
