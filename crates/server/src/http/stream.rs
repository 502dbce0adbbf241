//! The connection under hyper: it watches what happens, and gives hyper's own refusals a body.
//!
//! hyper answers a request that it can't parse by itself, with an empty body. Such an answer is the only 4xx head
//! that is written while no answer of ours is on its way, so it is easy to tell, and is replaced by one that says
//! what is wrong.

use super::answer::{Refusal, Stream};
use super::{MAX_HEAD_BYTES, MAX_HEADERS};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// What a connection is at. Shared by its stream, its service, its patrol and a body that comes bit by bit, which are
/// all one task: the atomics are for the compiler's eyes, and order nothing.
#[derive(Default)]
pub struct Activity {
    serving: AtomicBool,
    requests: AtomicU64,
    head_begun: AtomicBool,
    unflushed: AtomicBool,
    input_left: AtomicBool,
    may_wait: AtomicBool,
}

impl Activity {
    pub fn request_began(&self) {
        self.serving.store(true, Relaxed);
        self.head_begun.store(false, Relaxed);
        self.requests.store(self.requests() + 1, Relaxed);
    }

    /// The answer is hyper's to write.
    pub fn request_ended(&self) {
        self.serving.store(false, Relaxed);
        self.unflushed.store(true, Relaxed);
    }

    /// The client may still be sending what nobody will read.
    pub fn leave_input(&self) {
        self.input_left.store(true, Relaxed);
    }

    /// There is no hurry with the rest of what this connection carries.
    pub fn let_wait(&self) {
        self.may_wait.store(true, Relaxed);
    }

    pub fn may_wait(&self) -> bool {
        self.may_wait.load(Relaxed)
    }

    pub fn is_serving(&self) -> bool {
        self.serving.load(Relaxed)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Some of a request's head is here, and not all of it.
    pub fn head_has_begun(&self) -> bool {
        self.head_begun.load(Relaxed)
    }

    pub fn input_is_left(&self) -> bool {
        self.input_left.load(Relaxed)
    }
}

/// A body that comes bit by bit: as long as there is more of it, its request is still being served.
pub struct Serving {
    inner: Stream,
    activity: Arc<Activity>,
}

impl Serving {
    pub fn new(inner: Stream, activity: Arc<Activity>) -> Serving {
        Serving { inner, activity }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.activity.request_ended();
    }
}

impl Body for Serving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.inner.as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pub struct Guarded<'a, S> {
    inner: S,
    activity: &'a Activity,
    /// Written instead of hyper's bytes, and how much of it already is.
    instead: Option<(Vec<u8>, usize)>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Guarded<'a, S> {
    pub fn new(inner: S, activity: &'a Activity) -> Guarded<'a, S> {
        Guarded { inner, activity, instead: None }
    }

    /// Writes a refusal as the last words on this connection.
    pub async fn say(&mut self, refusal: &Refusal) {
        // Who does not read it has missed it.
        let _ = self.inner.write_all(&last_words(refusal)).await;
        let _ = self.inner.shutdown().await;
        self.activity.leave_input();
    }

    /// Whether these bytes are hyper's own refusal.
    fn is_refusal(&self, bytes: &[u8]) -> bool {
        let ours = self.activity.unflushed.load(Relaxed) || self.activity.is_serving();
        !ours && bytes.starts_with(b"HTTP/1.") && bytes.get(9) == Some(&b'4')
    }

    fn replace(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            self.activity.leave_input();
            self.instead = Some((last_words(&explain(&bytes[9..bytes.len().min(12)])), 0));
        }
        while let Some((words, written)) = &mut self.instead {
            if *written == words.len() {
                break;
            }
            match ready!(Pin::new(&mut self.inner).poll_write(context, &words[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        self.instead = None;
        Poll::Ready(Ok(bytes.len()))
    }
}

fn explain(status: &[u8]) -> Refusal {
    match status {
        b"431" => Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!(
                "the limits are {MAX_HEAD_BYTES} bytes for a request's line and headers, and {MAX_HEADERS} headers"
            ),
        ),
        b"414" => Refusal::new(
            StatusCode::URI_TOO_LONG,
            format!("the path is too long; the limit is {MAX_HEAD_BYTES} bytes for a request's line and headers"),
        ),
        _ => Refusal::invalid("this is no HTTP/1.1 request; look at its first line, its path and its headers"),
    }
}

fn last_words(refusal: &Refusal) -> Vec<u8> {
    let body = refusal.body();
    let mut words = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        refusal.status(),
        body.len()
    )
    .into_bytes();
    words.extend_from_slice(&body);
    words
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, into);
        if into.filled().len() > before && !self.activity.is_serving() {
            self.activity.head_begun.store(true, Relaxed);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_refusal(bytes) {
            return self.replace(bytes, context);
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices
            && self.is_refusal(only)
        {
            return self.replace(only, context);
        }
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes only when it has written all that it had.
        self.activity.unflushed.store(false, Relaxed);
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
