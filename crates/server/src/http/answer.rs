//! Answers, good and bad. A bad one is a [`Refusal`]: a status, and a sentence that says what to do about it.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use node::Failure;
use serde::Serialize;
use std::borrow::Cow;

pub type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub fn empty() -> Answer {
    Response::new(Full::default())
}

pub fn json(body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

/// Why a request is not done.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    text: Cow<'static, str>,
    allow: Option<&'static str>,
    retry: bool,
    close: bool,
}

impl Refusal {
    pub fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, text: text.into(), allow: None, retry: false, close: false }
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

    /// `{"error":"…"}`
    pub fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
        }
        serde_json::to_vec(&Body { error: &self.text }).expect("a string is always JSON")
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn into_answer(self) -> Answer {
        let mut answer = json(self.body());
        *answer.status_mut() = self.status;
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
            Failure::Removed(text) => (StatusCode::GONE, text),
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
