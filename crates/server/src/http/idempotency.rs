//! `Idempotency-Key`: a client's own name for a write, under which it can send it again.
//!
//! Source: the IETF draft "The Idempotency-Key HTTP Header Field".

use super::answer::Refusal;
use bytes::Bytes;
use hyper::Request;
use kv::{IdempotencyKey, MAX_IDEMPOTENCY_KEY_BYTES};

/// The request's key, with a fingerprint of what the request says: method, path and body.
pub fn key<B>(request: &Request<B>, body: &[u8]) -> Result<Option<IdempotencyKey>, Refusal> {
    let Some(key) = request.headers().get("idempotency-key") else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(Refusal::invalid(format!(
            "an Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes; nothing was changed"
        )));
    }
    let fingerprint = kv::fingerprint([request.method().as_str().as_bytes(), request.uri().path().as_bytes(), body]);
    Ok(Some(IdempotencyKey { key: Bytes::copy_from_slice(key), fingerprint }))
}
