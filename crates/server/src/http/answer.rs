//! Answers, good and bad. A bad one is a [`Refusal`]: a status, and a sentence that says what to do about it.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use node::Failure;
use serde::Serialize;
use std::borrow::Cow;

pub type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub fn empty() -> Answer {
    Response::new(Full::default())
}

pub fn json(body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

/// Any bytes, as they are.
pub fn raw(body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
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
    allow: Option<&'static str>,
    retry: bool,
    close: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
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
}

impl Refusal {
    pub fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            status,
            text: text.into(),
            form: Form::Error,
            allow: None,
            retry: false,
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

    pub fn method(allow: &'static str) -> Refusal {
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
        };
        serde_json::to_vec(&Body { code, error: &self.text }).expect("a string is always JSON")
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn into_answer(self) -> Answer {
        let mut answer = Response::new(Full::new(self.body().into()));
        *answer.status_mut() = self.status;
        let content_type = if self.form == Form::Text { TEXT } else { JSON };
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
        answer.headers_mut().extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        if let Some(allow) = self.allow {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.retry {
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
        let (status, text) = match failure {
            Failure::Invalid(text) => (StatusCode::BAD_REQUEST, text),
            Failure::Unavailable(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
            Failure::Overloaded(text) => (StatusCode::TOO_MANY_REQUESTS, text),
            Failure::Unknown(text) => (StatusCode::GATEWAY_TIMEOUT, say_unknown(text)),
            Failure::KeyReused(text) => (StatusCode::UNPROCESSABLE_ENTITY, text),
            Failure::Removed(text) | Failure::Compacted(text) => (StatusCode::GONE, text),
            Failure::NotFound(text) => (StatusCode::NOT_FOUND, text),
            Failure::Exists(text) => (StatusCode::CONFLICT, text),
            Failure::FutureRevision(text) => (StatusCode::BAD_REQUEST, text),
        };
        let retry = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        Refusal { retry, ..Refusal::new(status, text) }
    }
}

/// Whoever reads the answer must learn that the request may have happened, whatever words the node chose.
fn say_unknown(text: String) -> String {
    if text.contains("unknown") {
        return text;
    }
    format!("the outcome is unknown, the request may or may not take effect: {text}")
}
