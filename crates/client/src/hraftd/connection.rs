//! One kept HTTP/1.1 connection to one endpoint; one request at a time.
//!
//! hyper drives the protocol in a task of its own, which ends with the connection. After a timeout the connection is
//! closed: a late answer must not be taken for that of the next request.
//!
//! Not handled: pipelining, redirects, informational and streamed answers.

use super::{DEFAULT_TIME_LIMIT, Error, Level, Request, Status};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(3);
/// Beyond any value the store keeps.
const MAX_ANSWER_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub struct Connection {
    address: Arc<str>,
    host: HeaderValue,
    sender: http1::SendRequest<Full<Bytes>>,
    time_limit: Duration,
    is_open: bool,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Who answered.
    pub address: Arc<str>,
}

impl Connection {
    /// `address` is `host:port`; without a host it is this machine's, as in `:11000`.
    pub async fn open(address: &str) -> Result<Connection, Error> {
        let unreachable = |reason: String| Error::Unreachable { address: address.to_string(), reason };
        let dialled = if address.starts_with(':') { format!("localhost{address}") } else { address.to_string() };
        let host = HeaderValue::from_str(&dialled).map_err(|_| unreachable("that is no address".to_string()))?;
        let stream = match timeout(CONNECT_TIME_LIMIT, TcpStream::connect(&dialled)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {CONNECT_TIME_LIMIT:?}"))),
        };
        stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        Connection::over(stream, address, host).await
    }

    /// Over a stream that stands already.
    pub(crate) async fn over<S>(stream: S, address: &str, host: HeaderValue) -> Result<Connection, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, driver) =
            shaken.map_err(|error| Error::Unreachable { address: address.to_string(), reason: error.to_string() })?;
        // Its error, if any, also reaches whoever waits for an answer.
        tokio::spawn(async move { driver.await.ok() });
        Ok(Connection { address: address.into(), host, sender, time_limit: DEFAULT_TIME_LIMIT, is_open: true })
    }

    pub fn with_time_limit(mut self, time_limit: Duration) -> Connection {
        self.time_limit = time_limit;
        self
    }

    pub fn set_time_limit(&mut self, time_limit: Duration) {
        self.time_limit = time_limit;
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it can take another request. An idle connection that the server closed may still look open.
    pub fn is_open(&self) -> bool {
        self.is_open && !self.sender.is_closed()
    }

    /// A missing key reads as the empty text: the dialect doesn't tell them apart.
    pub async fn get(&mut self, key: &str, level: Level) -> Result<String, Error> {
        self.send(Request::get(key, level)?).await?.value_of(key)
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.put_all(&[(key, value)]).await
    }

    /// All of them at once, or none.
    pub async fn put_all(&mut self, pairs: &[(&str, &str)]) -> Result<(), Error> {
        self.send(Request::put(pairs)?).await.map(drop)
    }

    pub async fn delete(&mut self, key: &str) -> Result<(), Error> {
        self.send(Request::delete(key)?).await.map(drop)
    }

    pub async fn status(&mut self) -> Result<Status, Error> {
        self.send(Request::status()).await?.view()
    }

    /// Anything else. An answer with an error status is an answer here, not an [`Error`].
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Response, Error> {
        let request = Request::new(method, Bytes::copy_from_slice(path.as_bytes()), body.into())?;
        self.exchange(request.with_headers(headers)).await
    }

    pub(crate) async fn send(&mut self, request: Request) -> Result<Response, Error> {
        self.exchange(request).await?.successful()
    }

    /// An answer with an error status is an answer here, not an [`Error`].
    pub async fn exchange(&mut self, request: Request) -> Result<Response, Error> {
        let time_limit = self.time_limit;
        // Until the whole answer is here, also when the caller drops this future half-way.
        let was_open = std::mem::replace(&mut self.is_open, false);
        if !was_open {
            return Err(self.unreachable("the connection was closed after an earlier failure".to_string()));
        }
        match timeout(time_limit, self.exchange_unlimited(request)).await {
            Ok(Ok(response)) => {
                self.is_open = true;
                Ok(response)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.unknown(format!("no answer within {time_limit:.0?}"))),
        }
    }

    async fn exchange_unlimited(&mut self, request: Request) -> Result<Response, Error> {
        self.sender.ready().await.map_err(|error| self.unreachable(sentence(&error)))?;
        let mut message = hyper::Request::new(Full::new(request.body));
        *message.method_mut() = request.method;
        *message.uri_mut() = request.uri;
        *message.headers_mut() = request.headers;
        message.headers_mut().insert(HOST, self.host.clone());

        let response = match self.sender.try_send_request(message).await {
            Ok(response) => response,
            Err(mut error) => {
                // hyper hands a message back only if no byte of it was written.
                let was_sent = error.take_message().is_none();
                let reason = sentence(error.error());
                return Err(if was_sent { self.unknown(reason) } else { self.unreachable(reason) });
            }
        };
        let (parts, body) = response.into_parts();
        let body = self.collect(body).await?;
        Ok(Response { status: parts.status, headers: parts.headers, body, address: self.address.clone() })
    }

    /// Most answers arrive in one piece, which is then not copied.
    async fn collect(&self, mut body: hyper::body::Incoming) -> Result<Bytes, Error> {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unknown(sentence(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + whole.len() + data.len() > MAX_ANSWER_BYTES {
                return Err(self.unintelligible(&format!("an answer of more than {MAX_ANSWER_BYTES} bytes")));
            }
            if first.is_empty() && whole.is_empty() {
                first = data;
            } else {
                whole.extend_from_slice(&std::mem::take(&mut first));
                whole.extend_from_slice(&data);
            }
        }
        Ok(if whole.is_empty() { first } else { whole.freeze() })
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { address: self.address.to_string(), reason }
    }

    fn unknown(&self, reason: String) -> Error {
        Error::Unknown { address: self.address.to_string(), reason }
    }

    fn unintelligible(&self, what: &str) -> Error {
        Error::Unintelligible { address: self.address.to_string(), what: what.to_string() }
    }
}

impl Response {
    /// An error status as an [`Error`].
    pub fn successful(self) -> Result<Response, Error> {
        if self.status.is_success() {
            return Ok(self);
        }
        let (address, status) = (self.address.to_string(), self.status.as_u16());
        Err(Error::Refused { address, status, message: self.reason() })
    }

    pub(crate) fn unintelligible(&self, what: &str) -> Error {
        Error::Unintelligible { address: self.address.to_string(), what: what.to_string() }
    }
}

/// hyper's errors name their cause apart.
fn sentence(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
