//! Answers, good and bad. A bad one is a [`Refusal`]: a status, and a sentence that says what to do about it.
//!
//! An answer's body is there as a whole, or it comes bit by bit ([`streamed`]); the one costs nothing for the other.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use node::Failure;
use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use storage::StorageError;

pub type Answer = Response<Body>;

/// The body of an answer.
pub enum Body {
    Full(Full<Bytes>),
    Stream(Stream),
}

/// An error ends the connection, so that nobody takes what came so far for all of it.
pub type Stream = Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = io::Error> + Send>>;

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Body::Full(full) => Pin::new(full).poll_frame(context).map_err(|never| match never {}),
            Body::Stream(stream) => stream.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(full) => full.is_end_stream(),
            Body::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(full) => full.size_hint(),
            Body::Stream(stream) => stream.size_hint(),
        }
    }
}

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

pub fn empty() -> Answer {
    Response::new(Body::Full(Full::default()))
}

pub fn json(body: impl Into<Bytes>) -> Answer {
    full(JSON, body)
}

/// Any bytes, as they are.
pub fn raw(body: impl Into<Bytes>) -> Answer {
    full(BYTES, body)
}

pub fn full(content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::Full(Full::new(body.into())));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// What comes bit by bit. The connection counts as busy until the body has ended or is dropped.
pub fn streamed(content_type: HeaderValue, body: Stream) -> Answer {
    let mut answer = Response::new(Body::Stream(body));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// The text as a header can carry it: what is not visible ASCII is percent-encoded.
pub fn header_text(text: &str) -> HeaderValue {
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let encoded = || -> String {
        let encode = |byte: u8| if visible(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(encode).collect()
    };
    let value = if text.bytes().all(visible) { HeaderValue::from_str(text) } else { HeaderValue::from_str(&encoded()) };
    value.expect("visible ASCII is a header's value")
}

/// Why a request is not done.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    text: Cow<'static, str>,
    form: Form,
    /// If it is not the one that goes with the status.
    code: Option<&'static str>,
    /// If it is not the one that goes with the status.
    done: Option<Done>,
    extras: Map<String, Value>,
    allow: Option<Cow<'static, str>>,
    retry: bool,
    retry_after: bool,
    close: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What became of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Applied,
    NotApplied,
    Unknown,
}

/// What the body of a refusal looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"error":"…"}`
    Error,
    /// `{"code":503,"error":"…"}`
    Code,
    /// The sentence itself, and a newline.
    Text,
    /// `{"type":"about:blank","title":"…","status":503,"code":"…","detail":"…","retryable":true,"outcome":"…"}`, and
    /// what else there is to say (RFC 9457).
    Problem,
}

impl Refusal {
    pub fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            status,
            text: text.into(),
            form: Form::Error,
            code: None,
            done: None,
            extras: Map::new(),
            allow: None,
            retry: false,
            retry_after: false,
            close: false,
            headers: Vec::new(),
        }
    }

    pub fn invalid(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, text)
    }

    pub fn too_large(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    /// What is asked for is there, and can't be read: for this node's operator.
    pub fn unreadable(why: String) -> Refusal {
        tracing::error!("a read failed: {why}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why).done(Done::NotApplied)
    }

    pub fn method(allow: impl Into<Cow<'static, str>>) -> Refusal {
        let allow = allow.into();
        let text = format!("this path does not understand that method, but {allow}");
        Refusal { allow: Some(allow), ..Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text) }
    }

    /// The connection can't be used after it, as the rest of the request was not read.
    pub fn closing(mut self) -> Refusal {
        self.close = true;
        self
    }

    /// The same request may succeed in a moment.
    pub fn to_be_retried(mut self) -> Refusal {
        self.retry = true;
        self.retry_after = true;
        self
    }

    /// The same request can be sent again without harm.
    pub fn retryable(mut self) -> Refusal {
        self.retry = true;
        self
    }

    /// For programs: one of the codes that the interface's description lists.
    pub fn coded(mut self, code: &'static str) -> Refusal {
        self.code = Some(code);
        self
    }

    pub fn done(mut self, done: Done) -> Refusal {
        self.done = Some(done);
        self
    }

    /// Says one thing more, in a form that has room for it.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Refusal {
        self.extras.insert(name.to_string(), value.into());
        self
    }

    pub fn in_form(mut self, form: Form) -> Refusal {
        self.form = form;
        self
    }

    pub fn with_headers(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Refusal {
        self.headers = headers;
        self
    }

    pub fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            code: Option<u16>,
            error: &'a str,
        }
        let code = match self.form {
            Form::Error => None,
            Form::Code => Some(self.status.as_u16()),
            Form::Text => return format!("{}\n", self.text).into_bytes(),
            Form::Problem => return self.problem(),
        };
        serde_json::to_vec(&Body { code, error: &self.text }).expect("a string is always JSON")
    }

    fn problem(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            code: &'static str,
            detail: &'a str,
            retryable: bool,
            outcome: &'static str,
            #[serde(flatten)]
            extras: &'a Map<String, Value>,
        }
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code(),
            detail: &self.text,
            retryable: self.retry,
            outcome: match self.done.unwrap_or(done_by_status(self.status)) {
                Done::Applied => "applied",
                Done::NotApplied => "not_applied",
                Done::Unknown => "unknown",
            },
            extras: &self.extras,
        };
        serde_json::to_vec(&problem).expect("strings and numbers are always JSON")
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn code(&self) -> &'static str {
        self.code.unwrap_or(code_by_status(self.status))
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn into_answer(self) -> Answer {
        let content_type = match self.form {
            Form::Error | Form::Code => JSON,
            Form::Text => TEXT,
            Form::Problem => PROBLEM,
        };
        let mut answer = full(content_type, self.body());
        *answer.status_mut() = self.status;
        answer.headers_mut().extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        if let Some(allow) = self.allow {
            answer.headers_mut().insert(ALLOW, header_text(&allow));
        }
        if self.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.close {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let refusal = |status, text: String| Refusal::new(status, text);
        match failure {
            Failure::Invalid(text) => refusal(StatusCode::BAD_REQUEST, text),
            Failure::Unavailable(text) => refusal(StatusCode::SERVICE_UNAVAILABLE, text).to_be_retried(),
            Failure::Overloaded(text) => refusal(StatusCode::TOO_MANY_REQUESTS, text).to_be_retried(),
            Failure::Unknown(text) => refusal(StatusCode::GATEWAY_TIMEOUT, say_unknown(text)),
            Failure::KeyReused(text) => refusal(StatusCode::UNPROCESSABLE_ENTITY, text),
            Failure::Removed(text) => refusal(StatusCode::GONE, text).coded("removed"),
            Failure::Compacted(text) => refusal(StatusCode::GONE, text).coded("compacted"),
            Failure::NotFound(text) => refusal(StatusCode::NOT_FOUND, text),
            Failure::Exists(text) => refusal(StatusCode::CONFLICT, text),
            Failure::FutureRevision(text) => refusal(StatusCode::BAD_REQUEST, text).coded("future_revision"),
        }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Refusal {
        Refusal::unreadable(error.to_string())
    }
}

fn code_by_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "invalid",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::REQUEST_TIMEOUT => "request_timeout",
        StatusCode::CONFLICT => "conflict",
        StatusCode::GONE => "gone",
        StatusCode::PRECONDITION_FAILED => "precondition_failed",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::UNPROCESSABLE_ENTITY => "idempotency_key_reused",
        StatusCode::TOO_MANY_REQUESTS => "overloaded",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        StatusCode::GATEWAY_TIMEOUT => "unknown_outcome",
        _ => "internal",
    }
}

fn done_by_status(status: StatusCode) -> Done {
    match status {
        StatusCode::GATEWAY_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR => Done::Unknown,
        _ => Done::NotApplied,
    }
}

/// Whoever reads the answer must learn that the request may have happened, whatever words the node chose.
fn say_unknown(text: String) -> String {
    if text.contains("unknown") {
        return text;
    }
    format!("the outcome is unknown, the request may or may not take effect: {text}")
}
