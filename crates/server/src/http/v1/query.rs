//! A query's parameters, strictly: decoded once, each known and given at most once.
//!
//! In a query `+` is a space, as every program that encodes forms writes it; a plus is `%2B`.

use super::super::answer::Refusal;
use super::super::path;
use super::super::read::Wish;
use bytes::Bytes;
use std::borrow::Cow;

/// What says how fresh a read must be.
pub const WISH: &[&str] = &["level", "freshness", "freshness_strict", "linearizable_timeout"];

pub struct Parameters<'a> {
    given: Vec<(&'static str, Cow<'a, [u8]>)>,
}

impl<'a> Parameters<'a> {
    pub fn parse(query: Option<&'a str>, known: &[&[&'static str]]) -> Result<Parameters<'a>, Refusal> {
        let mut given: Vec<(&str, Cow<[u8]>)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let Some(name) = known.iter().copied().flatten().find(|known| known.as_bytes() == &name[..]) else {
                return Err(unknown(&name, known));
            };
            if given.iter().any(|(given, _)| given == name) {
                return Err(Refusal::invalid(format!("the parameter {name} is given twice; give it once")));
            }
            given.push((name, decode(value)?));
        }
        Ok(Parameters { given })
    }

    /// Any bytes.
    pub fn bytes(&self, name: &str) -> Option<Bytes> {
        self.value(name).map(Bytes::copy_from_slice)
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let text = self.value(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| Refusal::invalid(format!("the parameter {name} is no UTF-8 text")))
    }

    /// `true` or `false`, which it is if it is not given.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.value(name) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                Err(Refusal::invalid(format!("{name}={other} is not understood; it may be true or false")))
            }
        }
    }

    /// A revision, a lease, a count: none of them is above what fits where numbers are signed.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.value(name) else { return Ok(None) };
        whole_number(text).map(Some).ok_or_else(|| {
            let text = String::from_utf8_lossy(text);
            Refusal::invalid(format!("{name}={text} is no number from 0 to {}", i64::MAX))
        })
    }

    /// If [`WISH`] is among what is known.
    pub fn wish(&self) -> Result<Wish, Refusal> {
        for name in WISH {
            self.text(name)?;
        }
        self.flag("freshness_strict")?;
        Wish::of(|name| self.value(name).and_then(|value| std::str::from_utf8(value).ok()))
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| &value[..])
    }
}

/// Decimal digits and nothing else.
pub fn whole_number(text: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    (number <= i64::MAX as u64).then_some(number)
}

fn decode(text: &str) -> Result<Cow<'_, [u8]>, Refusal> {
    if !text.contains('+') {
        return path::decode(text).map_err(Refusal::invalid);
    }
    let spaced = text.replace('+', " ");
    Ok(Cow::Owned(path::decode(&spaced).map_err(Refusal::invalid)?.into_owned()))
}

fn unknown(name: &[u8], known: &[&[&str]]) -> Refusal {
    let name = String::from_utf8_lossy(name);
    let known: Vec<&str> = known.iter().copied().flatten().copied().collect();
    Refusal::invalid(match &known[..] {
        [] => format!("this path takes no parameters, and {name:?} is given"),
        _ => format!("there is no parameter {name:?} here; there are {}", known.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&[&str]] = &[&["prefix", "limit", "reverse"], WISH];

    #[test]
    fn values_are_decoded_once() {
        let given = Parameters::parse(Some("prefix=a%2Fb+c%2B%ff&limit=10&reverse=true&&"), KNOWN).unwrap();
        assert_eq!(given.value("prefix").unwrap(), &b"a/b c+\xff"[..]);
        assert_eq!((given.number("limit").unwrap(), given.flag("reverse").unwrap()), (Some(10), true));
        let none = Parameters::parse(None, KNOWN).unwrap();
        assert_eq!((none.value("prefix"), none.number("limit").unwrap()), (None, None));
        assert!(!none.flag("reverse").unwrap());
        assert_eq!(Parameters::parse(Some("prefix"), KNOWN).unwrap().value("prefix").unwrap(), b"");
        let timeout = Parameters::parse(Some("linearizable_timeout=5%C2%B5s"), KNOWN).unwrap().wish().unwrap().timeout;
        assert_eq!(timeout, Some(std::time::Duration::from_micros(5)));
    }

    #[test]
    fn what_is_not_understood_is_refused_and_says_why() {
        let error = |refusal: Refusal| String::from_utf8(refusal.body()).unwrap();
        for (query, reason) in [
            ("Prefix=a", "no parameter \\\"Prefix\\\" here; there are prefix, limit, reverse, level"),
            ("prefix=a&prefix=a", "given twice"),
            ("prefix=%zz", "two hex digits"),
            ("%=a", "two hex digits"),
        ] {
            let refused = error(Parameters::parse(Some(query), KNOWN).err().unwrap());
            assert!(refused.contains(reason), "{query}: {refused}");
        }
        for value in ["", "-1", "+1", "1.0", "1e3", "9223372036854775808", "00000000000000000001", "x", "%31x"] {
            let query = format!("limit={value}&reverse={value}");
            let given = Parameters::parse(Some(&query), KNOWN).unwrap();
            assert!(error(given.number("limit").unwrap_err()).contains("is no number"), "{value}");
            assert!(error(given.flag("reverse").unwrap_err()).contains("true or false"), "{value}");
        }
        for query in ["level=quick", "freshness_strict=1", "level=%ff", "freshness=soon"] {
            assert!(Parameters::parse(Some(query), KNOWN).unwrap().wish().is_err(), "{query}");
        }
    }
}
