//! The order in which all that the engine holds lies, in memory and in tables: by key, and of one key the newest first.

use crate::engine::{Key, Sequence};
use std::cmp::Ordering;

/// Where a version of a key lies. The newest version that a sequence sees is the first at or behind `(key, sequence)`.
pub(super) type Place<'a> = (&'a [u8], Sequence);

pub(super) fn in_order(one: Place<'_>, other: Place<'_>) -> Ordering {
    one.0.cmp(other.0).then(other.1.cmp(&one.1))
}

/// A place that is kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub key: Key,
    pub sequence: Sequence,
}

impl Home {
    pub(super) fn new(key: &[u8], sequence: Sequence) -> Home {
        Home { key: Key::new(key), sequence }
    }

    /// Before all versions of a key.
    pub(super) fn before(key: &[u8]) -> Home {
        Home::new(key, Sequence::MAX)
    }

    pub(super) fn place(&self) -> Place<'_> {
        (self.key.as_slice(), self.sequence)
    }
}

impl PartialOrd for Home {
    fn partial_cmp(&self, other: &Home) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Home {
    fn cmp(&self, other: &Home) -> Ordering {
        in_order(self.place(), other.place())
    }
}
