//! JSON bodies: objects of strings, as Go's programs read them and more strictly.
//!
//! Refused, where Go's decoder takes it: junk after the object, and bytes that are no UTF-8, which it would replace.

use super::answer::Refusal;
use hyper::StatusCode;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// A JSON object of strings as it came, with its duplicates. `null` in its place is an empty object, and in a
/// value's place an empty string, as it was for Go.
pub struct Object(pub Vec<(String, String)>);

/// `expected` says what the body should have been.
pub fn object(body: &[u8], expected: &str) -> Result<Object, Refusal> {
    serde_json::from_slice(body).map_err(|error| wrong(expected, &error))
}

/// The same, where one field may be there that is true or false; false if it is not there.
pub fn object_with_flag(body: &[u8], flag: &str, expected: &str) -> Result<(Object, bool), Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = reader.deserialize_any(WithFlag(flag)).and_then(|read| reader.end().map(|()| read));
    read.map_err(|error| wrong(expected, &error))
}

/// The string of that name in an object, whatever else is in it; empty if there is none. As Go has it, upper and lower
/// case are the same, and of several the last one counts.
pub fn field(body: &[u8], name: &str, expected: &str) -> Result<String, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let found = reader.deserialize_any(Field(name)).and_then(|found| reader.end().map(|()| found));
    found.map_err(|error| wrong(expected, &error))
}

/// The values of an object that has exactly these fields, all of them strings that are not empty.
pub fn exactly<const N: usize>(Object(pairs): Object, names: [&str; N]) -> Option<[String; N]> {
    let mut fields: BTreeMap<_, _> = pairs.into_iter().collect();
    let values = names.map(|name| fields.remove(name).unwrap_or_default());
    (fields.is_empty() && !values.iter().any(String::is_empty)).then_some(values)
}

/// The value as JSON can carry it, or the reason why it can't.
pub fn text(value: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(value).map_err(|_| {
        Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "the value is not UTF-8, so JSON can't carry it; it was written through another interface, read it there",
        )
    })
}

pub fn write_text(into: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(into, text).expect("a string is always JSON, and memory takes any bytes");
}

fn wrong(expected: &str, error: &serde_json::Error) -> Refusal {
    Refusal::invalid(format!("{expected}; nothing was changed: {error}"))
}

struct Field<'a>(&'a str);

impl<'de> Visitor<'de> for Field<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok(String::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let mut found = String::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.eq_ignore_ascii_case(self.0) {
                Text(found) = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct WithFlag<'a>(&'a str);

impl<'de> Visitor<'de> for WithFlag<'_> {
    type Value = (Object, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> Result<(Object, bool), E> {
        Ok((Object(Vec::new()), false))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(Object, bool), A::Error> {
        let (mut pairs, mut is_set) = (Vec::new(), false);
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                is_set = map.next_value()?;
            } else {
                let Text(value) = map.next_value()?;
                pairs.push((key, value));
            }
        }
        Ok((Object(pairs), is_set))
    }
}

struct Text(String);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_unit<E>(self) -> Result<Object, E> {
                Ok(Object(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, Text(value))) = map.next_entry::<String, Text>()? {
                    pairs.push((key, value));
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(String::new()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }
        }
        deserializer.deserialize_any(Value)
    }
}
