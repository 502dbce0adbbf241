//! `Idempotency-Key`: a client's own name for a write, under which it can send it again.
//!
//! Source: the IETF draft "The Idempotency-Key HTTP Header Field".

use super::answer::Refusal;
use bytes::Bytes;
use hyper::Request;
use hyper::header::{IF_MATCH, IF_NONE_MATCH};
use kv::{IdempotencyKey, MAX_IDEMPOTENCY_KEY_BYTES};

/// The request's key, with a fingerprint of what the request says: method, path and body.
pub fn key<B>(request: &Request<B>, body: &[u8]) -> Result<Option<IdempotencyKey>, Refusal> {
    let told = [request.method().as_str().as_bytes(), request.uri().path().as_bytes(), body];
    named(request, || kv::fingerprint(told))
}

/// The same, where the query and the conditions say something too.
pub fn key_of_all<B>(request: &Request<B>, body: &[u8]) -> Result<Option<IdempotencyKey>, Refusal> {
    named(request, || {
        let header = |name| request.headers().get_all(name).iter();
        let conditions = [IF_MATCH, IF_NONE_MATCH].map(|name| {
            let values: Vec<&[u8]> = header(name).map(|value| value.as_bytes()).collect();
            values.join(&b", "[..])
        });
        let uri = request.uri();
        kv::fingerprint([
            request.method().as_str().as_bytes(),
            uri.path().as_bytes(),
            uri.query().unwrap_or_default().as_bytes(),
            &conditions[0],
            &conditions[1],
            body,
        ])
    })
}

fn named<B>(request: &Request<B>, fingerprint: impl FnOnce() -> u64) -> Result<Option<IdempotencyKey>, Refusal> {
    let Some(key) = request.headers().get("idempotency-key") else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(Refusal::invalid(format!(
            "an Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes; nothing was changed"
        )));
    }
    Ok(Some(IdempotencyKey { key: Bytes::copy_from_slice(key), fingerprint: fingerprint() }))
}
