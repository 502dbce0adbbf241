//! A request's body, within its limits of size and time.

use super::MAX_BODY_BYTES;
use super::answer::Refusal;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use std::time::Duration;
use tokio::time::timeout;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// The whole body. A `Content-Length` over the limit is refused before a byte of it is read.
pub async fn read(body: &mut Incoming) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(over_limit());
    }
    match timeout(BODY_LIMIT, collect(body)).await {
        Ok(collected) => collected,
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s; nothing was changed", BODY_LIMIT.as_secs()),
        )
        .closing()),
    }
}

async fn collect(body: &mut Incoming) -> Result<Bytes, Refusal> {
    let Some(first) = next(body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut whole = BytesMut::from(first);
    while let Some(more) = next(body).await? {
        if whole.len() + more.len() > MAX_BODY_BYTES {
            return Err(over_limit());
        }
        whole.extend_from_slice(&more);
    }
    Ok(whole.freeze())
}

/// The next bytes; trailers are read over.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::invalid(format!("the body did not arrive whole ({error}); nothing was changed")).closing()
        })?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn over_limit() -> Refusal {
    Refusal::too_large(format!(
        "the body is larger than {MAX_BODY_BYTES} bytes, the limit; nothing was changed; send it in several requests"
    ))
    .closing()
}
