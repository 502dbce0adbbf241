//! Which keys are meant, and which part of them, in which order, is wanted.

use bytes::Bytes;

/// Keys that lie together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: KeyEnd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyEnd {
    /// The start is the only key.
    Single,
    /// From the start on, and before this.
    Before(Bytes),
    /// From the start on, to the last key.
    Last,
}

/// A [page](crate::Page) ends with the row that reaches this, keys and values together, whatever was asked for. So a reader needs
/// no more memory than that and one row.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// What to read of some keys. [`Query::new`] asks for all, in order, as far as they fit on a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub keys: KeyRange,
    pub descending: bool,
    /// Only what comes after this key, in the order asked for: where the last page ended.
    pub after: Option<Bytes>,
    pub limit: Option<u64>,
    /// Leaves the values out.
    pub keys_only: bool,
    /// Also counts all of the keys, whatever the limit and the page. That takes a look at each of them.
    pub count: bool,
}

impl KeyRange {
    pub fn single(key: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: key.into(), end: KeyEnd::Single }
    }

    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: KeyEnd::Before(end.into()) }
    }

    pub fn from(start: impl Into<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end: KeyEnd::Last }
    }

    pub fn all() -> KeyRange {
        KeyRange::from(Bytes::new())
    }

    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let start: Bytes = prefix.into();
        let end = after_prefix(&start).map_or(KeyEnd::Last, |end| KeyEnd::Before(end.into()));
        KeyRange { start, end }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            KeyEnd::Single => key == self.start,
            KeyEnd::Before(end) => self.start <= key && key < end,
            KeyEnd::Last => self.start <= key,
        }
    }
}

impl Query {
    pub fn new(keys: KeyRange) -> Query {
        Query { keys, descending: false, after: None, limit: None, keys_only: false, count: false }
    }
}

/// The first of all byte strings that are above every one with this prefix.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_what_it_says() {
        let keys: [&[u8]; 7] = [b"", b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff"];
        let within = |range: KeyRange| keys.map(|key| u8::from(range.contains(key)));
        assert_eq!(within(KeyRange::all()), [1; 7]);
        assert_eq!(within(KeyRange::single("a")), [0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(within(KeyRange::from("b")), [0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(within(KeyRange::between("a", "b")), [0, 1, 1, 1, 0, 0, 0]);
        assert_eq!(within(KeyRange::between("b", "a")), [0; 7]);
        for prefix in keys {
            let expected = keys.map(|key| u8::from(key.starts_with(prefix)));
            assert_eq!(within(KeyRange::prefix(prefix)), expected, "{prefix:?}");
        }
    }
}
