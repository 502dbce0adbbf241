//! What keys, values and their history look like on the wire.
//!
//! Bytes that are text travel as `key`, others as `key_base64`, so that people can read what is text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A key and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct KeyValue {
    pub key: Bytes,
    /// Empty if only keys were asked for.
    pub value: Bytes,
    /// The revision that made the key; another one after it was deleted and made again.
    pub create_revision: u64,
    /// The revision that last changed it.
    pub mod_revision: u64,
    /// How often it was put since it was made.
    pub version: u64,
    /// The lease that it ends with; 0 if none.
    pub lease: u64,
}

/// One key, or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(pub(crate) Bounds);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    Key(Bytes),
    Prefix(Bytes),
    Between(Bytes, Option<Bytes>),
}

impl Range {
    pub fn all() -> Range {
        Range::prefix("")
    }

    pub fn key(key: impl AsRef<[u8]>) -> Range {
        Range(Bounds::Key(Bytes::copy_from_slice(key.as_ref())))
    }

    /// All keys that begin so.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Range {
        Range(Bounds::Prefix(Bytes::copy_from_slice(prefix.as_ref())))
    }

    /// From this key on, to the last.
    pub fn from(start: impl AsRef<[u8]>) -> Range {
        Range(Bounds::Between(Bytes::copy_from_slice(start.as_ref()), None))
    }

    /// From the first to the second, without the second.
    pub fn between(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Range {
        let end = Bytes::copy_from_slice(end.as_ref());
        Range(Bounds::Between(Bytes::copy_from_slice(start.as_ref()), Some(end)))
    }

    /// As names and bytes, for whoever writes it down.
    fn fields(&self) -> Vec<(&'static str, &Bytes)> {
        match &self.0 {
            Bounds::Key(key) => vec![("key", key)],
            Bounds::Prefix(prefix) => vec![("prefix", prefix)],
            Bounds::Between(start, end) => {
                [("start", start)].into_iter().chain(end.as_ref().map(|end| ("end", end))).collect()
            }
        }
    }

    pub(crate) fn write_to(&self, query: &mut Query) {
        self.fields().into_iter().for_each(|(name, bytes)| query.bytes(name, bytes));
    }

    pub(crate) fn write_json(&self, object: &mut Map<String, Value>) {
        self.fields().into_iter().for_each(|(name, bytes)| insert_bytes(object, name, bytes));
    }

    /// A list takes no key: the same as bounds. The next key after `k` is `k` and a zero byte.
    pub(crate) fn as_bounds(&self) -> Range {
        match &self.0 {
            Bounds::Key(key) => Range::between(key, [key, &b"\0"[..]].concat()),
            _ => self.clone(),
        }
    }
}

/// What follows the path, escaped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(String);

impl Query {
    pub fn bytes(&mut self, name: &str, value: &[u8]) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(percent_encode(value, ESCAPED));
    }

    pub fn add(&mut self, name: &str, value: impl ToString) {
        self.bytes(name, value.to_string().as_bytes());
    }

    pub fn flag(&mut self, name: &str, is_set: bool) {
        if is_set {
            self.add(name, "true");
        }
    }

    pub fn after(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

/// `/v1/kv/` and the key, in one piece: nothing on the way may take a slash or dots in it for steps.
pub(crate) fn key_path(key: &[u8]) -> String {
    let mut path = "/v1/kv/".to_string();
    if key.iter().all(|&byte| byte == b'.') {
        path.extend(key.iter().map(|_| "%2E"));
    } else {
        path.extend(percent_encode(key, ESCAPED));
    }
    path
}

/// What a path or query may carry as it is (RFC 3986, "unreserved").
pub(crate) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    let (text, base64) = written(bytes);
    match (text, base64) {
        (Some(text), _) => object.insert(name.to_string(), text.into()),
        (_, base64) => object.insert(format!("{name}_base64"), base64.unwrap_or_default().into()),
    };
}

/// As JSON has it, in its quotes.
pub(crate) fn write_text(into: &mut BytesMut, text: &str) {
    serde_json::to_writer(into.writer(), text).expect("a string is always JSON, and memory takes any bytes");
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn written(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_string()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

pub(crate) fn read(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(Bytes::from(text))),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(|bytes| Some(Bytes::from(bytes)))
            .map_err(|error| format!("{name}_base64: {error}")),
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64")),
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    #[serde(default)]
    lease: u64,
}

impl TryFrom<Written> for KeyValue {
    type Error = String;

    fn try_from(w: Written) -> Result<KeyValue, String> {
        Ok(KeyValue {
            key: read("key", w.key, w.key_base64)?.ok_or("a row without its key")?,
            value: read("value", w.value, w.value_base64)?.unwrap_or_default(),
            create_revision: w.create_revision,
            mod_revision: w.mod_revision,
            version: w.version,
            lease: w.lease,
        })
    }
}

impl From<KeyValue> for Written {
    fn from(kv: KeyValue) -> Written {
        let (key, key_base64) = written(&kv.key);
        let (value, value_base64) = written(&kv.value);
        let KeyValue { create_revision, mod_revision, version, lease, .. } = kv;
        Written { key, key_base64, value, value_base64, create_revision, mod_revision, version, lease }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_travel_as_text_where_they_are_text() {
        for (key, value, expected) in [
            (&b"k"[..], &b"v\n"[..], json!({"key": "k", "value": "v\n"})),
            (b"\xff", b"", json!({"key_base64": "/w==", "value": ""})),
            (b"k", b"\0\xff\xfe", json!({"key": "k", "value_base64": "AP/+"})),
        ] {
            let mut expected = expected;
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            for name in ["create_revision", "mod_revision", "version", "lease"] {
                expected[name] = json!(3);
            }
            let kv = KeyValue { key, value, create_revision: 3, mod_revision: 3, version: 3, lease: 3 };
            assert_eq!(serde_json::to_value(&kv).unwrap(), expected);
            assert_eq!(serde_json::from_value::<KeyValue>(expected).unwrap(), kv);
        }
    }

    #[test]
    fn a_row_that_says_too_little_or_too_much_is_refused() {
        let revisions = r#""create_revision":1,"mod_revision":1,"version":1"#;
        for row in [r#""value":"v""#, r#""key":"k","key_base64":"aw==""#, r#""key_base64":"?""#] {
            assert!(serde_json::from_str::<KeyValue>(&format!("{{{row},{revisions}}}")).is_err(), "{row}");
        }
    }

    #[test]
    fn a_key_is_one_piece_of_the_path() {
        assert_eq!(key_path(b"a/b c%"), "/v1/kv/a%2Fb%20c%25");
        assert_eq!(key_path(b".."), "/v1/kv/%2E%2E");
        assert_eq!(key_path(b"\xff..."), "/v1/kv/%FF...");
    }

    #[test]
    fn ranges_are_spelled_in_the_query() {
        for (range, expected) in [
            (Range::all(), "?prefix="),
            (Range::prefix("a&b"), "?prefix=a%26b"),
            (Range::from("a"), "?start=a"),
            (Range::between("a", "b"), "?start=a&end=b"),
            (Range::key("a").as_bounds(), "?start=a&end=a%00"),
        ] {
            let mut query = Query::default();
            range.write_to(&mut query);
            assert_eq!(query.after(""), expected);
        }
    }
}
