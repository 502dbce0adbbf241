//! Keys by which the server knows a write that it has seen: random for each client, then counted.

use hyper::header::{HeaderName, HeaderValue};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

#[derive(Debug)]
pub(crate) struct Keys {
    prefix: u128,
    next: AtomicU64,
}

impl Keys {
    pub fn new() -> Result<Keys, String> {
        let mut prefix = [0; 16];
        getrandom::fill(&mut prefix).map_err(|error| format!("the system gives no randomness: {error}"))?;
        Ok(Keys { prefix: u128::from_ne_bytes(prefix), next: AtomicU64::new(1) })
    }

    pub fn next(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        HeaderValue::try_from(format!("{:032x}-{number}", self.prefix)).expect("hexadecimal digits are a header value")
    }

    /// A number that two clients hardly share, to shift their pauses against each other.
    pub fn seed(&self) -> u64 {
        self.prefix as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_writes_share_a_key() {
        let (one, other) = (Keys::new().unwrap(), Keys::new().unwrap());
        let drawn = [one.next(), one.next(), other.next(), other.next()];
        for (at, key) in drawn.iter().enumerate() {
            assert!(key.len() >= 34 && !drawn[at + 1..].contains(key), "{drawn:?}");
        }
    }
}
