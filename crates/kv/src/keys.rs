//! Every key that goes to the engine.
//!
//! | first byte | then | value |
//! |---|---|---|
//! | 1 | a user's key | its record (`record.rs`) |
//! | 2 | an idempotency key | what it was first used for, and the answer (`sessions.rs`) |
//! | 3 | a revision; the number of a part, but for the first | what it and those after it changed (`history.rs`) |
//! | 4 | a lease | its time (`leases.rs`) |
//! | 5 | a lease; a user's key | nothing: the key ends with the lease |
//!
//! Numbers are big-endian, so that their order is that of the keys. Only users' keys have a past in the engine.
//! 0 and 6 onwards are free; 255 stays so, that every kind of key has an end that is a key.

use std::fmt;
use storage::{StorageError, engine};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    Data(&'a [u8]),
    Idempotency(&'a [u8]),
    Changes { first: u64, part: u32 },
    Lease(u64),
    Leased(u64, &'a [u8]),
}

impl<'a> Key<'a> {
    pub fn encode(self) -> engine::Key {
        match self {
            Key::Data(key) => engine::Key::prefixed(&[DATA], key),
            Key::Idempotency(key) => engine::Key::prefixed(&[IDEMPOTENCY], key),
            Key::Changes { first, part: 0 } => engine::Key::prefixed(&[CHANGES], &first.to_be_bytes()),
            Key::Changes { first, part } => {
                let mut bytes = [0; 12];
                bytes[..8].copy_from_slice(&first.to_be_bytes());
                bytes[8..].copy_from_slice(&part.to_be_bytes());
                engine::Key::prefixed(&[CHANGES], &bytes)
            }
            Key::Lease(lease) => engine::Key::prefixed(&[LEASE], &lease.to_be_bytes()),
            Key::Leased(lease, key) => {
                let mut prefix = [LEASE_KEY; 9];
                prefix[1..].copy_from_slice(&lease.to_be_bytes());
                engine::Key::prefixed(&prefix, key)
            }
        }
    }

    /// The engine does not hold there what was put into it.
    pub fn damaged(self, what: impl fmt::Display) -> StorageError {
        StorageError::damaged_row(self.encode().as_slice(), what)
    }

    pub fn decode(bytes: &'a [u8]) -> Option<Key<'a>> {
        match bytes.split_first()? {
            (&DATA, key) => Some(Key::Data(key)),
            (&IDEMPOTENCY, key) => Some(Key::Idempotency(key)),
            (&CHANGES, key) => {
                let (first, part) = key.split_first_chunk()?;
                let part = if part.is_empty() { 0 } else { u32::from_be_bytes(part.try_into().ok()?) };
                let key = Key::Changes { first: u64::from_be_bytes(*first), part };
                // The first part has one name only.
                (part > 0 || bytes.len() == 9).then_some(key)
            }
            (&LEASE, lease) => Some(Key::Lease(u64::from_be_bytes(lease.try_into().ok()?))),
            (&LEASE_KEY, key) => {
                let (lease, key) = key.split_first_chunk()?;
                Some(Key::Leased(u64::from_be_bytes(*lease), key))
            }
            _ => None,
        }
    }
}

/// After the last user's key, and before the first key without a past.
pub const DATA_END: &[u8] = &[DATA + 1];
/// After the last idempotency key, and before the first revision.
pub const IDEMPOTENCY_END: &[u8] = &[IDEMPOTENCY + 1];
/// After the last revision, and before the first lease.
pub const CHANGES_END: &[u8] = &[CHANGES + 1];
/// After the last lease, and before the first key of one.
pub const LEASES_END: &[u8] = &[LEASE + 1];
/// After the last key of a lease.
pub const LEASE_KEYS_END: &[u8] = &[LEASE_KEY + 1];

const DATA: u8 = 1;
const IDEMPOTENCY: u8 = 2;
const CHANGES: u8 = 3;
const LEASE: u8 = 4;
const LEASE_KEY: u8 = 5;

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
            assert!((DATA_END..IDEMPOTENCY_END).contains(&Key::Idempotency(key).encode().as_slice()));
        }
        let mut last = engine::Key::new(IDEMPOTENCY_END);
        for first in [0, 1, 255, 256, u64::MAX] {
            for part in [0, 1, 255, 256, u32::MAX] {
                let home = Key::Changes { first, part };
                assert_eq!(Key::decode(home.encode().as_slice()), Some(home));
                assert!(last < home.encode());
                last = home.encode();
            }
        }
        assert!(last.as_slice() < CHANGES_END);
        for lease in [1, 255, 256, u64::MAX] {
            let home = Key::Lease(lease).encode();
            assert!((CHANGES_END..LEASES_END).contains(&home.as_slice()));
            assert_eq!(Key::decode(home.as_slice()), Some(Key::Lease(lease)));
            for key in [&b""[..], b"a", &[255; 300]] {
                let home = Key::Leased(lease, key).encode();
                assert!((LEASES_END..LEASE_KEYS_END).contains(&home.as_slice()));
                assert_eq!(Key::decode(home.as_slice()), Some(Key::Leased(lease, key)));
            }
        }
        for wrong in [
            &b""[..],
            b"\x00a",
            b"\xffa",
            &[4; 8],
            &[4; 10],
            &[5; 8],
            &[3; 8],
            &[3; 10],
            &[3, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
        ] {
            assert_eq!(Key::decode(wrong), None);
        }
    }
}
