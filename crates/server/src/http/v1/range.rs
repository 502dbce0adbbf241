//! Which keys are meant: one, those with a prefix, or those from a start on and before an end.

use super::super::answer::Refusal;
use super::super::limits::check_key;
use bytes::Bytes;
use kv::{KeyEnd, KeyRange};

/// As they were given.
#[derive(Default)]
pub struct Ends {
    pub key: Option<Bytes>,
    pub prefix: Option<Bytes>,
    pub start: Option<Bytes>,
    pub end: Option<Bytes>,
}

/// What may be given.
pub const ENDS: &[&str] = &["prefix", "start", "end"];

impl Ends {
    /// `None` if nothing was given.
    pub fn range(self) -> Result<Option<KeyRange>, Refusal> {
        let Ends { key, prefix, start, end } = self;
        for end in [&prefix, &start, &end].into_iter().flatten().filter(|end| !end.is_empty()) {
            check_key(end)?;
        }
        if end.as_ref().is_some_and(Bytes::is_empty) {
            return Err(Refusal::invalid(
                "the end is empty, so that no key is before it; leave it out to mean the last key",
            ));
        }
        Ok(match (key, prefix, start, end) {
            (None, None, None, None) => None,
            (Some(key), None, None, None) => {
                check_key(&key)?;
                Some(KeyRange::single(key))
            }
            (None, Some(prefix), None, None) => Some(KeyRange::prefix(prefix)),
            (None, None, start, end) => {
                Some(KeyRange { start: start.unwrap_or_default(), end: end.map_or(KeyEnd::Last, KeyEnd::Before) })
            }
            _ => {
                return Err(Refusal::invalid(
                    "name the keys in one way: a key, or a prefix, or a start and an end (or one of these two)",
                ));
            }
        })
    }
}
