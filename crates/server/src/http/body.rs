//! A request's body, within its limits of size and time.

use super::MAX_BODY_BYTES;
use super::answer::Refusal;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// The body of a request: as it comes over a connection, or there already, where a request came in another one's body.
#[derive(Debug)]
pub enum Input {
    Wire(Incoming),
    /// Nothing once it was read.
    Whole(Bytes),
}

impl Input {
    /// Whether the request came in another one's body, and is answered there ([`super::v1`]'s pipeline).
    pub fn is_within_another(&self) -> bool {
        matches!(self, Input::Whole(_))
    }
}

impl Default for Input {
    fn default() -> Input {
        Input::Whole(Bytes::new())
    }
}

impl Body for Input {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Input::Wire(incoming) => Pin::new(incoming).poll_frame(context),
            Input::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Input::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Input::Wire(incoming) => incoming.is_end_stream(),
            Input::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Input::Wire(incoming) => incoming.size_hint(),
            Input::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// The whole body. A `Content-Length` over the limit is refused before a byte of it is read.
pub async fn read(body: &mut Input) -> Result<Bytes, Refusal> {
    if let Input::Whole(bytes) = body {
        let whole = std::mem::take(bytes);
        return if whole.len() > MAX_BODY_BYTES { Err(over_limit()) } else { Ok(whole) };
    }
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(over_limit());
    }
    // In a box: a request whose body is there keeps no room for it.
    match Box::pin(timeout(BODY_LIMIT, collect(body))).await {
        Ok(collected) => collected,
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s; nothing was changed", BODY_LIMIT.as_secs()),
        )
        .closing()),
    }
}

async fn collect(body: &mut Input) -> Result<Bytes, Refusal> {
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
async fn next(body: &mut Input) -> Result<Option<Bytes>, Refusal> {
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
