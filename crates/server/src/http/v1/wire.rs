//! Bytes and keys in JSON.
//!
//! A field `key` holds bytes as text if they are UTF-8. If they are not, there is `key_base64` in its place, and that is
//! read in requests as well.

use super::super::answer::Refusal;
use super::super::json::write_text;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use kv::KeyValue;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, Unexpected, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Writes a JSON object, field by field.
pub struct Writer<'a> {
    into: &'a mut Vec<u8>,
    begun: bool,
}

impl<'a> Writer<'a> {
    pub fn new(into: &'a mut Vec<u8>) -> Writer<'a> {
        into.push(b'{');
        Writer { into, begun: false }
    }

    pub fn end(self) {
        self.into.push(b'}');
    }

    /// The name; whoever asks for it writes the value.
    pub fn field(&mut self, name: &str) -> &mut Vec<u8> {
        self.name(name, "");
        self.into
    }

    pub fn number(&mut self, name: &str, number: u64) {
        self.field(name).extend_from_slice(number.to_string().as_bytes());
    }

    pub fn flag(&mut self, name: &str, flag: bool) {
        self.field(name).extend_from_slice(if flag { b"true" } else { b"false" });
    }

    pub fn null(&mut self, name: &str) {
        self.field(name).extend_from_slice(b"null");
    }

    pub fn text(&mut self, name: &str, text: &str) {
        write_text(self.field(name), text);
    }

    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(name, text),
            Err(_) => {
                self.name(name, "_base64");
                self.into.push(b'"');
                let at = self.into.len();
                self.into.resize(at + bytes.len().div_ceil(3) * 4, 0);
                STANDARD.encode_slice(bytes, &mut self.into[at..]).expect("room for four thirds of it");
                self.into.push(b'"');
            }
        }
    }

    /// An array, whose elements the function writes.
    pub fn array<T>(&mut self, name: &str, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Vec<u8>, T)) {
        array(self.field(name), items, write);
    }

    fn name(&mut self, name: &str, suffix: &str) {
        if self.begun {
            self.into.push(b',');
        }
        self.begun = true;
        self.into.push(b'"');
        self.into.extend_from_slice(name.as_bytes());
        self.into.extend_from_slice(suffix.as_bytes());
        self.into.extend_from_slice(b"\":");
    }
}

pub fn array<T>(into: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    into.push(b'[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            into.push(b',');
        }
        write(into, item);
    }
    into.push(b']');
}

/// A key with what is known of it. `with_value`: if it was read.
pub fn write_key(into: &mut Vec<u8>, key: &[u8], found: &KeyValue, with_value: bool) {
    let mut object = Writer::new(into);
    key_fields(&mut object, key, found, with_value);
    object.end();
}

pub fn key_fields(object: &mut Writer, key: &[u8], found: &KeyValue, with_value: bool) {
    object.bytes("key", key);
    if with_value {
        object.bytes("value", &found.value);
    }
    object.number("create_revision", found.create_revision);
    object.number("mod_revision", found.mod_revision);
    object.number("version", found.version);
    object.number("lease", found.lease);
}

/// About as many bytes as [`write_key`] writes.
pub fn key_size_bytes(key: &[u8], found: &KeyValue) -> usize {
    (key.len() + found.value.len()) / 3 * 4 + 160
}

/// What a field and its `_base64` say together.
pub fn either(
    name: &str,
    text: Option<impl Into<Bytes>>,
    base64: Option<impl AsRef<[u8]>>,
) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_base64 are given; give one of them")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => match STANDARD.decode(base64) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(_) => Err(format!("{name}_base64 is no base64, in its standard alphabet and with its padding")),
        },
        (None, None) => Ok(None),
    }
}

/// For where a token must stand in a query as it is.
pub fn token(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn parse_token(token: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(token).ok()
}

/// The request's body. `example`: what it should look like.
pub fn parse<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Refusal> {
    serde_json::from_slice(body).map(|Object(parsed)| parsed).map_err(|error| {
        Refusal::invalid(format!("the body must be a JSON object as in {example}; nothing was changed: {error}"))
    })
}

/// For a field that may be left out, but is no `null`.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A revision, a lease, a count: none of them is above what fits where numbers are signed.
#[derive(Clone, Copy)]
pub struct Number(pub u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number that is not negative")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                let fits = number <= i64::MAX as u64;
                if fits { Ok(Number(number)) } else { Err(E::custom(format!("{number} is above {}", i64::MAX))) }
            }

            /// Some write 60 as 60.0, and it is the same number. Above 2^53 it may be another one.
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Number, E> {
                let is_whole = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
                if is_whole {
                    Ok(Number(number as u64))
                } else {
                    Err(E::invalid_value(Unexpected::Float(number), &self))
                }
            }
        }
        deserializer.deserialize_u64(Whole)
    }
}

/// A struct that is read from an object only. By itself one is read from an array as well.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(key: &[u8], value: &[u8], with_value: bool) -> String {
        let value = Bytes::copy_from_slice(value);
        let found = KeyValue { value, create_revision: 1, mod_revision: 2, version: 3, lease: 4 };
        let mut into = Vec::new();
        write_key(&mut into, key, &found, with_value);
        String::from_utf8(into).unwrap()
    }

    #[test]
    fn bytes_are_text_if_they_can_be() {
        let rest = r#""create_revision":1,"mod_revision":2,"version":3,"lease":4}"#;
        assert_eq!(written(b"k\"", "é\n".as_bytes(), true), format!(r#"{{"key":"k\"","value":"é\n",{rest}"#));
        assert_eq!(
            written(b"\xff", b"\xfe\xff\0", true),
            format!(r#"{{"key_base64":"/w==","value_base64":"/v8A",{rest}"#)
        );
        assert_eq!(written(b"k", b"v", false), format!(r#"{{"key":"k",{rest}"#));
    }

    #[test]
    fn bytes_are_read_in_either_form_and_not_in_both() {
        let read =
            |text: Option<&str>, base64: Option<&str>| either("key", text.map(String::from), base64.map(String::from));
        assert_eq!(read(Some("é"), None), Ok(Some("é".into())));
        assert_eq!(read(None, Some("/w==")), Ok(Some(Bytes::from_static(b"\xff"))));
        assert_eq!(read(None, Some("")), Ok(Some(Bytes::new())));
        assert_eq!(read(None, None), Ok(None));
        for (text, base64) in [(Some("a"), Some("YQ==")), (None, Some("YQ")), (None, Some("_w==")), (None, Some(" "))] {
            assert!(read(text, base64).is_err(), "{text:?} {base64:?}");
        }
    }

    #[test]
    fn numbers_are_whole_however_they_are_written() {
        let read = |text: &str| serde_json::from_str::<Number>(text).ok().map(|Number(number)| number);
        let rows = [("0", 0), ("60", 60), ("60.0", 60), ("6e1", 60), ("9223372036854775807", i64::MAX as u64)];
        for (text, number) in rows {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for text in ["-1", "1.5", "-0.5", "1e300", "9223372036854775808", "9007199254740993.5", "\"1\"", "null", "true"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
