//! HTTP: connections, their limits, and which dialect answers.
//!
//! A connection is driven by hyper; what hyper leaves to its user is here. Bodies over the limit are refused before
//! they are buffered, head blocks over theirs by hyper with a body that we add (see [`stream`]); who sends slowly or
//! nothing at all is dropped by a patrol that looks at each connection every few seconds and costs a request nothing.
//! A connection that we close while the client still sends is drained for a moment, since closing it at once would
//! reset it and take our answer away from under the client's eyes.
//!
//! A request is parsed once, at the edge, into a dialect's own call; the call asks the [`Cluster`] in the node's
//! terms, and the outcome becomes an [`answer`]. Nothing of HTTP or JSON travels further in. One module is one
//! dialect: [`hraftd`] for now. Another one is another module and another line in [`respond`].
//!
//! Not handled: TLS, compression, HTTP/2, and a limit on the number of connections, which is the listener's affair.

mod answer;
mod body;
mod cluster;
mod hraftd;
mod path;
mod stream;
#[cfg(test)]
mod tests;

pub use cluster::{Cluster, Level};

use crate::handle::Handle;
use answer::{Answer, Refusal};
use hyper::body::{Body, Incoming};
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use stream::{Activity, Guarded};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// A request's body as a whole. More than any command may carry, so that what is over is over by this limit first.
pub const MAX_BODY_BYTES: usize = kv::MAX_COMMAND_BYTES;
/// Request line and headers together. Room for the longest key with every byte percent-encoded.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;
pub const MAX_HEADERS: usize = 100;

/// How often a connection's patrol comes round.
const PATROL: Duration = Duration::from_secs(5);
/// A request's head must be complete within that many rounds.
const HEAD_ROUNDS: u32 = 4;
/// A connection without any request is closed after that many.
const IDLE_ROUNDS: u32 = 120;
/// How long and how much a connection that we close is still read.
const LINGER: Duration = Duration::from_secs(3);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// What all connections of one node share.
pub struct Context<C = Handle> {
    cluster: C,
    settings: Settings,
    closing: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// For reads that do not say which level they want.
    pub read_level: Level,
    /// How long a request may wait for its outcome.
    pub request_limit: Duration,
}

impl<C: Cluster> Context<C> {
    pub fn new(cluster: C, settings: Settings) -> Context<C> {
        Context { cluster, settings, closing: watch::Sender::new(false) }
    }

    /// Lets every connection answer the request that it has in hand, and no other.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// Serves one connection until either side ends it or [`Context::close`] is called.
pub async fn serve<S, C>(stream: S, peer: SocketAddr, context: Arc<Context<C>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Cluster,
{
    let activity = Activity::default();
    let mut stream = Guarded::new(stream, &activity);
    let end = drive(&mut stream, peer, &context, &activity).await;
    if let End::Slow = end {
        let text = format!("the request's head did not arrive within {} s", (PATROL * HEAD_ROUNDS).as_secs());
        stream.say(&Refusal::new(StatusCode::REQUEST_TIMEOUT, text)).await;
    }
    if activity.input_is_left() && !*context.closing.borrow() {
        linger(&mut stream).await;
    }
}

enum End {
    /// hyper is done with it.
    Done,
    /// Half a request's head was there for too long.
    Slow,
    Idle,
}

async fn drive<S, C>(stream: &mut Guarded<'_, S>, peer: SocketAddr, context: &Context<C>, activity: &Activity) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Cluster,
{
    let service = service_fn(|request| async move {
        activity.request_began();
        let answer = answer(request, peer, context, activity).await;
        activity.request_ended();
        Ok::<_, Infallible>(answer)
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES * 2)
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut closing = context.closing.subscribe();
    let mut told_to_close = false;
    let mut patrol = interval(PATROL);
    patrol.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut requests, mut head_rounds, mut idle_rounds) = (0, 0, 0);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return End::Done;
            }
            _ = closing.wait_for(|closing| *closing), if !told_to_close => {
                told_to_close = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = patrol.tick() => {
                let served = activity.requests();
                if activity.is_serving() || served != requests {
                    (requests, head_rounds, idle_rounds) = (served, 0, 0);
                    continue;
                }
                idle_rounds += 1;
                head_rounds = if activity.head_has_begun() { head_rounds + 1 } else { 0 };
                if head_rounds > HEAD_ROUNDS {
                    return End::Slow;
                }
                if idle_rounds > IDLE_ROUNDS {
                    return End::Idle;
                }
            }
        }
    }
}

async fn answer<C: Cluster>(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    context: &Context<C>,
    activity: &Activity,
) -> Answer {
    let outcome = respond(&mut request, peer, context).await;
    if !request.body().is_end_stream() {
        activity.leave_input();
    }
    outcome.unwrap_or_else(Refusal::into_answer)
}

async fn respond<C: Cluster>(
    request: &mut Request<Incoming>,
    peer: SocketAddr,
    context: &Context<C>,
) -> Result<Answer, Refusal> {
    if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
        return Err(Refusal::invalid("an HTTP/1.1 request must have a Host header; add one and send it again"));
    }
    if let Some(call) = hraftd::Call::parse(request) {
        return call?.perform(request, peer, context).await;
    }
    Err(Refusal::new(
        StatusCode::NOT_FOUND,
        "nothing is at this path; there are /key, /key/NAME, /status, /join and /remove",
    ))
}

/// Reads on until the client is done sending or has read our answer and closed.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Guarded<'_, S>) {
    let mut scratch = vec![0; 64 * 1024];
    let _ = timeout(LINGER, async {
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    })
    .await;
}
