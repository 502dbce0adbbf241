//! hraftd's dialect: what requests look like, and what their answers mean.

use super::{Error, Level, Response, Status};
use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a path segment may carry as it is (RFC 3986, "unreserved").
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const SHOWN_REASON_CHARS: usize = 500;

/// Ready to be sent, as often as needed: a clone shares its bytes.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Request {
    pub fn get(key: &str, level: Level) -> Result<Request, Error> {
        let mut path = key_path(key)?;
        if level != Level::Default {
            path.put_slice(b"?level=");
            path.put_slice(level.name().as_bytes());
        }
        Request::new(Method::GET, path.freeze(), Bytes::new())
    }

    /// All of them at once, or none.
    pub fn put(pairs: &[(&str, &str)]) -> Result<Request, Error> {
        let size: usize = pairs.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
        let mut body = BytesMut::with_capacity(size + 2).writer();
        for (at, (key, value)) in pairs.iter().enumerate() {
            body.get_mut().put_u8(if at == 0 { b'{' } else { b',' });
            check_key(key)?;
            let written = serde_json::to_writer(&mut body, key).and_then(|()| {
                body.get_mut().put_u8(b':');
                serde_json::to_writer(&mut body, value)
            });
            written.map_err(|_| Error::BadRequest("a key or value can't be written as JSON: use plain text"))?;
        }
        let mut body = body.into_inner();
        body.put_slice(if pairs.is_empty() { b"{}" } else { b"}" });
        let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Ok(Request::new(Method::POST, Bytes::from_static(b"/key"), body.freeze())?.with_headers(json))
    }

    pub fn delete(key: &str) -> Result<Request, Error> {
        Request::new(Method::DELETE, key_path(key)?.freeze(), Bytes::new())
    }

    pub fn status() -> Request {
        Request::plain(Method::GET, Uri::from_static("/status"), Bytes::new())
    }

    /// With a key such as this a write may be sent again without fear: it is applied once. Other servers than ours may
    /// not know of it.
    pub fn with_idempotency_key(mut self, key: HeaderValue) -> Request {
        self.headers.insert(IDEMPOTENCY_KEY, key);
        self
    }

    /// `query` as it goes over the wire, such as `level=none`.
    pub fn with_query(mut self, query: &str) -> Result<Request, Error> {
        let path = format!("{}?{query}", self.uri.path());
        self.uri = path.parse().map_err(|_| Error::BadRequest("this can't be the query of an HTTP request"))?;
        Ok(self)
    }

    pub(crate) fn new(method: Method, path: Bytes, body: Bytes) -> Result<Request, Error> {
        let uri = Uri::from_maybe_shared(path)
            .map_err(|_| Error::BadRequest("this can't be the path of an HTTP request: is the key too long?"))?;
        Ok(Request::plain(method, uri, body))
    }

    pub(crate) fn with_headers(self, headers: HeaderMap) -> Request {
        Request { headers, ..self }
    }

    fn plain(method: Method, uri: Uri, body: Bytes) -> Request {
        Request { method, uri, headers: HeaderMap::new(), body }
    }

    /// It changes nothing, so it may be sent again.
    pub fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() { Err(Error::BadRequest("the empty key can't be stored: give it a name")) } else { Ok(()) }
}

fn key_path(key: &str) -> Result<BytesMut, Error> {
    check_key(key)?;
    let mut path = BytesMut::with_capacity(5 + key.len() + 20);
    path.put_slice(b"/key/");
    match key {
        // A path may be tidied up on its way, unless these are escaped.
        "." => path.put_slice(b"%2E"),
        ".." => path.put_slice(b"%2E%2E"),
        _ => {
            let _ = write!(path, "{}", utf8_percent_encode(key, ESCAPED));
        }
    }
    Ok(path)
}

impl Response {
    /// What a [`Request::get`] found. A missing key reads as the empty text: the dialect doesn't tell them apart.
    pub fn value_of(&self, key: &str) -> Result<String, Error> {
        let mut values: BTreeMap<String, String> = self.parse()?;
        values.remove(key).ok_or_else(|| self.unintelligible("the answer does not name the key"))
    }

    /// What a [`Request::status`] found.
    pub fn view(&self) -> Result<Status, Error> {
        self.parse()
    }

    /// Why a request was refused, in the server's words: those of `{"error":"…"}`, or else the text as it is.
    pub fn reason(&self) -> String {
        #[derive(Deserialize)]
        struct Told {
            error: String,
        }
        let text = match serde_json::from_slice(&self.body) {
            Ok(Told { error }) => error.into(),
            Err(_) => String::from_utf8_lossy(&self.body),
        };
        match text.trim() {
            "" => "it gave no reason".to_string(),
            text => text.chars().take(SHOWN_REASON_CHARS).collect(),
        }
    }

    fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| self.unintelligible(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(key: &str) -> String {
        Request::get(key, Level::Default).unwrap().uri.to_string()
    }

    #[test]
    fn keys_are_one_segment_of_the_path() {
        assert_eq!(path("user1"), "/key/user1");
        assert_eq!(path("a.b-c_d~e"), "/key/a.b-c_d~e");
        assert_eq!(path("a/b c+d%20?e#f&g"), "/key/a%2Fb%20c%2Bd%2520%3Fe%23f%26g");
        assert_eq!(path("é\0"), "/key/%C3%A9%00");
        assert_eq!(path(".."), "/key/%2E%2E");
        assert_eq!(path("..."), "/key/...");
    }

    #[test]
    fn levels_go_into_the_query() {
        assert_eq!(Request::get("k", Level::None).unwrap().uri, "/key/k?level=none");
        for (level, name) in Level::ALL {
            assert_eq!(name.parse(), Ok(level));
            assert_eq!(level.to_string(), name);
        }
        let error = "sloppy".parse::<Level>().unwrap_err();
        assert!(error.contains("linearizable"), "{error}");
    }

    #[test]
    fn a_query_and_an_idempotency_key_come_on_top() {
        let request = Request::get("a?b", Level::Default).unwrap().with_query("level=none&freshness=1s").unwrap();
        assert_eq!(request.uri, "/key/a%3Fb?level=none&freshness=1s");
        let request = Request::put(&[("k", "v")]).unwrap().with_idempotency_key(HeaderValue::from_static("once"));
        assert_eq!(request.headers[CONTENT_TYPE], "application/json");
        assert_eq!(request.headers["Idempotency-Key"], "once");
    }

    #[test]
    fn a_put_is_a_json_object() {
        let body = |pairs: &[(&str, &str)]| Request::put(pairs).unwrap().body;
        assert_eq!(body(&[("k", "v")]), r#"{"k":"v"}"#);
        assert_eq!(body(&[("a\"b", "c\n"), ("é", "")]), r#"{"a\"b":"c\n","é":""}"#);
        assert_eq!(body(&[]), "{}");
    }

    #[test]
    fn the_empty_key_is_not_sent() {
        for result in [Request::get("", Level::None), Request::put(&[("", "v")]), Request::delete("")] {
            assert!(matches!(result, Err(Error::BadRequest(_))));
        }
    }

    #[test]
    fn a_key_too_long_for_a_path_is_an_error() {
        assert!(matches!(Request::delete(&"k".repeat(70_000)), Err(Error::BadRequest(_))));
    }
}
