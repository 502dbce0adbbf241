//! HTTP: connections, their limits, and which dialect answers.
//!
//! A connection is driven by hyper; what hyper leaves to its user is here. Bodies over the limit are refused before
//! they are buffered, head blocks over theirs by hyper with a body that we add (see [`stream`]); who sends slowly or
//! nothing at all is dropped by a patrol that looks at each connection every few seconds and costs a request nothing.
//! A connection that we close while the client still sends is drained for a moment, since closing it at once would
//! reset it and take our answer away from under the client's eyes.
//!
//! What answers is a [`Service`]: a [`Member`] of a cluster, or whoever else has a use for these connections. A request
//! is parsed once, at the edge, into a dialect's own call; the call asks the [`Cluster`] in the node's terms, and the
//! outcome becomes an [`Answer`]. Nothing of HTTP or JSON travels further in. One module is one dialect: [`hraftd`],
//! [`raftd`], [`raft_kv`], [`distributor`]. Another one is another module and another line in [`member`]. Quorate's own
//! interface is [`v1`], which is always there.
//!
//! Not handled: TLS, compression, HTTP/2, and a limit on the number of connections, which is the listener's affair.

mod admin;
pub mod answer;
pub mod body;
mod class;
mod cluster;
pub mod distributor;
mod hraftd;
mod idempotency;
mod json;
mod limits;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod map;
mod member;
mod moving;
pub mod path;
mod raft_kv;
mod raftd;
mod read;
mod stream;
#[cfg(test)]
mod tests;
mod v1;

pub use answer::{Answer, Refusal};
pub use cluster::Cluster;
pub use kv::MAX_TRANSACTION_OPERATIONS;
pub use member::{Dialect, Member, Settings};
pub use read::{Level, Wish};

use body::Input;
use hyper::body::Body;
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use moving::MayWait;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use stream::{Activity, Guarded, Serving};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::runtime::Handle;
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

/// Answers requests.
pub trait Service: Send + Sync + 'static {
    /// Reads the body if it wants to; `peer` is who asks. May be dropped at any time.
    fn answer(
        self: &Arc<Self>,
        request: &mut Request<Input>,
        peer: SocketAddr,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send;

    /// Where connections go on whose answer is one that may wait. `None`: where they are.
    fn leisure(&self) -> Option<Handle> {
        None
    }
}

/// What all connections to one service share.
pub struct Front<S = Member> {
    service: Arc<S>,
    closing: watch::Sender<bool>,
}

impl<S: Service> Front<S> {
    pub fn new(service: S) -> Front<S> {
        Front { service: Arc::new(service), closing: watch::Sender::new(false) }
    }

    pub fn service(&self) -> &S {
        &self.service
    }

    /// Lets every connection answer the request that it has in hand, and no other.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// Serves one connection until either side ends it or [`Front::close`] is called.
pub async fn serve<T, S>(stream: T, peer: SocketAddr, front: Arc<Front<S>>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    let activity = Arc::new(Activity::default());
    let here = Box::pin(serve_all(stream, peer, front.clone(), activity.clone()));
    moving::drive(here, &activity, || front.service.leisure()).await;
}

async fn serve_all<T, S>(stream: T, peer: SocketAddr, front: Arc<Front<S>>, activity: Arc<Activity>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    let mut stream = Guarded::new(stream, &activity);
    let end = drive(&mut stream, peer, &front, &activity).await;
    if let End::Slow = end {
        let text = format!("the request's head did not arrive within {} s", (PATROL * HEAD_ROUNDS).as_secs());
        stream.say(&Refusal::new(StatusCode::REQUEST_TIMEOUT, text)).await;
    }
    if activity.input_is_left() && !*front.closing.borrow() {
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

async fn drive<T, S>(stream: &mut Guarded<'_, T>, peer: SocketAddr, front: &Front<S>, activity: &Arc<Activity>) -> End
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    let service = service_fn(|request| async move {
        activity.request_began();
        let answer = answer(request.map(Input::Wire), peer, &front.service, activity).await;
        if answer.extensions().get::<MayWait>().is_some() {
            activity.let_wait();
        }
        let answer = answer.map(|body| match body {
            answer::Body::Stream(stream) => answer::Body::Stream(Box::pin(Serving::new(stream, activity.clone()))),
            full => {
                activity.request_ended();
                full
            }
        });
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
    let mut closing = front.closing.subscribe();
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

async fn answer<S: Service>(
    mut request: Request<Input>,
    peer: SocketAddr,
    service: &Arc<S>,
    activity: &Activity,
) -> Answer {
    let outcome = if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
        Err(Refusal::invalid("an HTTP/1.1 request must have a Host header; add one and send it again"))
    } else {
        service.answer(&mut request, peer).await
    };
    if !request.body().is_end_stream() {
        activity.leave_input();
    }
    outcome.unwrap_or_else(Refusal::into_answer)
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
