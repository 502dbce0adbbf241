//! One address of the cluster, and connections to it. Small requests that are under way at the same time share one, a
//! [`Pipe`]; every other has one of its own, which is kept for the next.
//!
//! What matters most here is to tell a request that certainly never left from one that may have arrived; what may be
//! repeated depends on it.

use super::pipe::Pipe;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(3);
/// Beyond any page or value that the store gives.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;
/// More than that are in use at a peak only.
const MAX_IDLE: usize = 128;
/// A larger body has a connection of its own.
const MAX_SHARED_BYTES: usize = 64 << 10;
const DEFAULT_PORT: u16 = 11000;

/// What is sent, as often as needed: a clone shares its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub method: Method,
    /// Path and query, escaped.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Not a byte of the request left.
    NotSent(String),
    /// It may have arrived, or not.
    Unanswered(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotSent(reason) => write!(f, "not sent: {reason}"),
            Failure::Unanswered(reason) => write!(f, "not answered: {reason}"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `host:port`.
    address: String,
    host: HeaderValue,
    /// The one used last is the next to be used, so that those too many fall idle.
    idle: Mutex<Vec<Sender>>,
    sharing: tokio::sync::Mutex<Sharing>,
    /// So many requests wait for their answers.
    under_way: AtomicUsize,
}

#[derive(Debug)]
enum Sharing {
    /// Nobody needed it yet.
    Apart,
    Shared(Pipe),
    /// It could not be reached just then.
    Failed(Instant, Failure),
    /// The node is an older one, or something between us and it can't.
    Impossible,
}

type Sender = http1::SendRequest<Full<Bytes>>;

/// The head of an answer, and its body as it comes. Dropping it half-way closes the connection.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    sender: Sender,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Endpoint {
    /// `http://host:port`, `host:port`, `host` (then it is port 11000), `:port` or `port` of this machine.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        if text.starts_with("https://") {
            return Err(format!("{text}: https is not supported; put a proxy that speaks TLS before this client"));
        }
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let has_port = bare.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = match bare {
            _ if bare.parse::<u16>().is_ok() => format!("localhost:{bare}"),
            _ if bare.starts_with(':') => format!("localhost{bare}"),
            _ if has_port => bare.to_string(),
            _ => format!("{bare}:{DEFAULT_PORT}"),
        };
        let uri: Option<hyper::Uri> = format!("http://{address}/").parse().ok();
        let is_plain = !bare.is_empty()
            && uri.is_some_and(|uri| uri.path() == "/" && uri.port_u16().is_some() && !address.contains('@'));
        match HeaderValue::from_str(&address) {
            Ok(host) if is_plain => Ok(Endpoint {
                address,
                host,
                idle: Mutex::default(),
                sharing: tokio::sync::Mutex::new(Sharing::Apart),
                under_way: AtomicUsize::new(0),
            }),
            _ => Err(format!("{text:?} is no address of a node: give one such as http://127.0.0.1:11000")),
        }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the URL that a node is known by names this endpoint.
    pub fn is_at(&self, url: &str) -> bool {
        let plain = |address: &str| {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            let host = if matches!(host, "127.0.0.1" | "[::1]") { "localhost" } else { host };
            format!("{host}:{port}")
        };
        Endpoint::parse(url).is_ok_and(|other| plain(&other.address) == plain(&self.address))
    }

    /// Sends it and waits for the whole answer, whatever its status.
    pub async fn exchange(&self, message: &Message, until: Instant) -> Result<Answer, Failure> {
        let _under_way = UnderWay::begin(&self.under_way);
        if message.may_share()
            && let Some(pipe) = self.shared(until).await?
        {
            match pipe.exchange(message, until).await {
                // It may just have been closed: that says nothing of the endpoint.
                Err(Failure::NotSent(_)) => {}
                result => return result,
            }
        }
        let streamed = self.open(message, until).await?;
        self.finish(streamed, until).await
    }

    /// The pipe that all share, if there is one or it is time for one: a request on its way alone is as fast without.
    async fn shared(&self, until: Instant) -> Result<Option<Pipe>, Failure> {
        let began = Instant::now();
        let sharing = timeout_at(until, self.sharing.lock()).await;
        let mut sharing = sharing.map_err(|_| Failure::NotSent("it takes no connection in time".to_string()))?;
        match &*sharing {
            Sharing::Shared(pipe) if pipe.is_open() => return Ok(Some(pipe.clone())),
            Sharing::Shared(pipe) if pipe.is_not_spoken() => *sharing = Sharing::Impossible,
            // Whoever waited meanwhile knows it too.
            Sharing::Failed(at, failure) if *at > began => return Err(failure.clone()),
            _ => {}
        }
        if matches!(*sharing, Sharing::Impossible) || self.under_way.load(Relaxed) == 1 {
            return Ok(None);
        }
        match self.pipe(until).await {
            Ok(pipe) => {
                *sharing = Sharing::Shared(pipe.clone());
                Ok(Some(pipe))
            }
            Err(failure) => {
                *sharing = Sharing::Failed(Instant::now(), failure.clone());
                Err(failure)
            }
        }
    }

    /// Sends it and waits for the head of the answer.
    pub async fn open(&self, message: &Message, until: Instant) -> Result<Streamed, Failure> {
        // A kept connection may have been closed by the other side meanwhile: that says nothing of the endpoint.
        while let Some(sender) = self.kept() {
            match self.open_on(sender, message, until).await {
                Err(Failure::NotSent(_)) => {}
                result => return result,
            }
        }
        let sender = self.connect(until.min(Instant::now() + CONNECT_TIME_LIMIT)).await?;
        self.open_on(sender, message, until).await
    }

    /// Reads the rest of an answer and keeps the connection.
    pub async fn finish(&self, mut streamed: Streamed, until: Instant) -> Result<Answer, Failure> {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        loop {
            let chunk = timeout_at(until, streamed.chunk()).await;
            // Most answers arrive in one piece, which is then not copied.
            match chunk.map_err(|_| Failure::Unanswered("no whole answer in time".to_string()))? {
                Ok(None) => break,
                Ok(Some(data)) if first.len() + whole.len() + data.len() > MAX_ANSWER_BYTES => {
                    let size = data.len();
                    return Err(Failure::Unanswered(format!(
                        "an answer of more than {MAX_ANSWER_BYTES} bytes ({size})"
                    )));
                }
                Ok(Some(data)) if first.is_empty() && whole.is_empty() => first = data,
                Ok(Some(data)) => {
                    whole.extend_from_slice(&std::mem::take(&mut first));
                    whole.extend_from_slice(&data);
                }
                Err(reason) => return Err(Failure::Unanswered(reason)),
            }
        }
        let body = if whole.is_empty() { first } else { whole.freeze() };
        self.keep(streamed.sender);
        Ok(Answer { status: streamed.status, headers: streamed.headers, body })
    }

    async fn open_on(&self, mut sender: Sender, message: &Message, until: Instant) -> Result<Streamed, Failure> {
        let mut request = hyper::Request::new(Full::new(message.body.clone()));
        *request.method_mut() = message.method.clone();
        *request.uri_mut() = message.path.parse().map_err(|error| Failure::NotSent(format!("{error}")))?;
        *request.headers_mut() = message.headers.clone();
        request.headers_mut().insert(HOST, self.host.clone());

        match timeout_at(until, sender.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::NotSent(sentence(&error))),
            Err(_) => return Err(Failure::NotSent("the connection did not become ready in time".to_string())),
        }
        let answered = timeout_at(until, sender.try_send_request(request)).await;
        let answered = answered.map_err(|_| Failure::Unanswered("no answer in time".to_string()))?;
        let response = answered.map_err(|mut error| {
            // hyper hands a message back only if no byte of it was written.
            let was_sent = error.take_message().is_none();
            let reason = sentence(error.error());
            if was_sent { Failure::Unanswered(reason) } else { Failure::NotSent(reason) }
        })?;
        let (head, body) = response.into_parts();
        Ok(Streamed { status: head.status, headers: head.headers, body, sender })
    }

    /// A pipeline on a connection of its own.
    pub async fn pipe(&self, until: Instant) -> Result<Pipe, Failure> {
        let stream = self.reach(until.min(Instant::now() + CONNECT_TIME_LIMIT)).await?;
        Pipe::over(stream, self.host.clone()).await
    }

    async fn connect(&self, until: Instant) -> Result<Sender, Failure> {
        let shaken = http1::handshake(TokioIo::new(self.reach(until).await?)).await;
        let (sender, driver) = shaken.map_err(|error| Failure::NotSent(sentence(&error)))?;
        // Its error, if any, also reaches whoever waits for an answer.
        tokio::spawn(async move { driver.await.ok() });
        Ok(sender)
    }

    async fn reach(&self, until: Instant) -> Result<TcpStream, Failure> {
        let stream = match timeout_at(until, TcpStream::connect(&self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Failure::NotSent(error.to_string())),
            Err(_) => return Err(Failure::NotSent("it takes no connection in time".to_string())),
        };
        // Without it small requests are only slower.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }
}

struct UnderWay<'a>(&'a AtomicUsize);

impl UnderWay<'_> {
    fn begin(count: &AtomicUsize) -> UnderWay<'_> {
        count.fetch_add(1, Relaxed);
        UnderWay(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Message {
    /// Whether it keeps no other waiting that comes after it, nor does its answer.
    fn may_share(&self) -> bool {
        let is_small = ["/v1/kv/", "/v1/txn", "/v1/leases"].iter().any(|begin| self.path.starts_with(begin));
        is_small && self.body.len() <= MAX_SHARED_BYTES
    }
}

impl Streamed {
    /// The next piece of the body; nothing at its proper end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|error| sentence(&error))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// hyper's errors name their cause apart.
pub(super) fn sentence(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_what_is_usual() {
        for (given, expected) in [
            ("http://node.example:80", "node.example:80"),
            ("node.example:80/", "node.example:80"),
            ("node.example", "node.example:11000"),
            (":11001", "localhost:11001"),
            ("11001", "localhost:11001"),
            ("[::1]:11000", "[::1]:11000"),
        ] {
            assert_eq!(Endpoint::parse(given).unwrap().address(), expected, "{given}");
        }
        for wrong in ["", "https://node:1", "a b:1", "node:1/path", "me@node:1", "node:port"] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn loopback_has_several_names() {
        let endpoint = Endpoint::parse("localhost:11000").unwrap();
        assert!(endpoint.is_at("http://127.0.0.1:11000/") && endpoint.is_at("http://[::1]:11000"));
        assert!(!endpoint.is_at("http://localhost:11001") && !endpoint.is_at("nonsense?"));
    }
}
