//! Every key that goes to the engine.
//!
//! | first byte | then | value |
//! |---|---|---|
//! | 1 | a user's key | its record (`record.rs`) |
//! | 2 | an idempotency key | what it was first used for, and the answer (`sessions.rs`) |
//!
//! 0 and 3 onwards are free; 255 stays so, that every kind of key has an end that is a key.

use storage::engine;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    Data(&'a [u8]),
    Idempotency(&'a [u8]),
}

impl<'a> Key<'a> {
    pub fn encode(self) -> engine::Key {
        match self {
            Key::Data(key) => engine::Key::prefixed(&[DATA], key),
            Key::Idempotency(key) => engine::Key::prefixed(&[IDEMPOTENCY], key),
        }
    }

    pub fn decode(bytes: &'a [u8]) -> Option<Key<'a>> {
        match bytes.split_first()? {
            (&DATA, key) => Some(Key::Data(key)),
            (&IDEMPOTENCY, key) => Some(Key::Idempotency(key)),
            _ => None,
        }
    }
}

/// Before the first and after the last user's key.
pub const DATA_END: &[u8] = &[DATA + 1];

const DATA: u8 = 1;
const IDEMPOTENCY: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_do_not_meet() {
        for key in [&b""[..], b"a", b"\xff\xff", &[1; 300]] {
            for home in [Key::Data(key), Key::Idempotency(key)] {
                assert_eq!(Key::decode(home.encode().as_slice()), Some(home));
            }
            assert!(Key::Data(key).encode().as_slice() < DATA_END);
            assert!(Key::Idempotency(key).encode().as_slice() >= DATA_END);
        }
        assert_eq!(Key::decode(b""), None);
        assert_eq!(Key::decode(b"\x00a"), None);
        assert_eq!(Key::decode(b"\xffa"), None);
    }
}
