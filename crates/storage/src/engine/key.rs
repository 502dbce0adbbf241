//! A key as the engine holds it.
//!
//! Most keys are short, and every step of a search compares one, so those up to 30 bytes lie in the entry itself:
//! that saves an allocation a key and a cache miss a comparison.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

const SHORT_BYTES: usize = 30;

#[derive(Clone)]
pub struct Key(Content);

#[derive(Clone)]
enum Content {
    Short { length: u8, bytes: [u8; SHORT_BYTES] },
    Long(Box<[u8]>),
}

impl Key {
    pub fn new(bytes: &[u8]) -> Key {
        Key::prefixed(&[], bytes)
    }

    /// `prefix` followed by `bytes`.
    pub fn prefixed(prefix: &[u8], bytes: &[u8]) -> Key {
        let length = prefix.len() + bytes.len();
        if length > SHORT_BYTES {
            return Key(Content::Long([prefix, bytes].concat().into_boxed_slice()));
        }
        let mut short = [0; SHORT_BYTES];
        short[..prefix.len()].copy_from_slice(prefix);
        short[prefix.len()..length].copy_from_slice(bytes);
        Key(Content::Short { length: length as u8, bytes: short })
    }

    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Content::Short { length, bytes } => &bytes[..usize::from(*length)],
            Content::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_hold_their_bytes_and_their_order() {
        let long = [7u8; 100];
        for length in 0..=100 {
            for prefix in 0..=length {
                let key = Key::prefixed(&long[..prefix], &long[prefix..length]);
                assert_eq!(key.as_slice(), &long[..length]);
                assert_eq!(key.cmp(&Key::new(&long[..50])), length.cmp(&50));
            }
        }
        assert!(Key::new(b"b") > Key::new(&[b'a'; 40]));
        assert_eq!(std::mem::size_of::<Key>(), 32);
    }
}
