//! Accepts connections and hands each to HTTP or to the peers.
//!
//! Where one port carries both, the first byte tells them apart: no HTTP request begins with that of a peer's preface.
//!
//! Not handled: limits per client; all clients together have one.

use crate::address::{self, Address};
use crate::http::{self, Front, Service};
use crate::peer::{Peers, frame};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    Http,
    Peers,
    Both,
}

/// Where connections go.
pub struct Reception {
    pub peers: Arc<Peers>,
    pub http: Arc<http::Front>,
    http_connections: Semaphore,
}

impl Reception {
    pub fn new(peers: Arc<Peers>, http: Arc<http::Front>) -> Reception {
        let http_connections = Semaphore::new(most_connections() / 10 * 9);
        Reception { peers, http, http_connections }
    }

    /// Accepts until `closing` turns true, then waits for the connections to end; aborting it ends them at once.
    pub async fn receive(
        self: Arc<Reception>,
        listener: TcpListener,
        carries: Carries,
        mut closing: watch::Receiver<bool>,
    ) {
        let closed = async { drop(closing.wait_for(|closing| *closing).await) };
        accept(listener, most_connections(), closed, |stream, from| self.clone().route(stream, from, carries)).await;
    }

    async fn route(self: Arc<Reception>, stream: TcpStream, from: SocketAddr, carries: Carries) {
        let is_peer = match carries {
            Carries::Http => false,
            Carries::Peers => true,
            Carries::Both => {
                let mut first = [0];
                match timeout(FIRST_BYTE_LIMIT, stream.peek(&mut first)).await {
                    Ok(Ok(1)) => first[0] == frame::PREFACE[0],
                    _ => return,
                }
            }
        };
        if is_peer {
            return self.peers.clone().accept(stream, from).await;
        }
        let Ok(_permit) = self.http_connections.try_acquire() else {
            tracing::debug!("{from} is not served: too many HTTP connections are open");
            return;
        };
        if address::tune(&stream).is_ok() {
            http::serve(stream, from, self.http.clone()).await;
        }
    }
}

/// A port that carries HTTP and nothing else, for a program that is no node.
pub struct HttpPort {
    listener: TcpListener,
    url: String,
}

impl HttpPort {
    /// `given` may lack the host, which is all interfaces then. An error is a sentence for a person.
    pub async fn open(given: &str) -> Result<HttpPort, String> {
        let address = Address::parse(given)?;
        let wrong = |error| format!("can't listen at {given}: {error}; choose another address or port");
        let listener = address.bind().await.map_err(wrong)?;
        let port = listener.local_addr().map_err(wrong)?.port();
        Ok(HttpPort { listener, url: format!("http://{}", address.with_port(port)) })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves until `closed`, then lets every connection answer the request that it has in hand.
    pub async fn serve<S: Service>(self, service: S, closed: impl Future<Output = ()>) {
        let front = Arc::new(Front::new(service));
        let closed = async {
            closed.await;
            front.close();
        };
        accept(self.listener, most_connections(), closed, |stream, from| {
            let front = front.clone();
            async move {
                if address::tune(&stream).is_ok() {
                    http::serve(stream, from, front).await;
                }
            }
        })
        .await;
    }
}

/// Accepts until `closed`, then waits for the connections to end; dropping it ends them at once.
async fn accept<C: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    limit: usize,
    closed: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr) -> C,
) {
    let mut connections = JoinSet::new();
    let mut told: Option<Instant> = None;
    let mut closed = pin!(closed);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut closed => break,
        };
        match accepted {
            // Beyond the limit it is better to close at once than to keep someone waiting without an end.
            Ok((stream, from)) if connections.len() < limit => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                connections.spawn(serve(stream, from));
            }
            Ok((_, from)) => tracing::debug!("{from} is not served: too many connections are open"),
            Err(error) => {
                // Mostly too many open files: some of them will be closed soon.
                if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                    tracing::warn!("can't accept connections: {error}; trying again");
                    told = Some(Instant::now());
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Of the files that the process may open, half is for the connections of a port at the most; the others are for the log and
/// the tables, without which a node has to stop. HTTP has nine tenths of that half, whatever port it comes by.
fn most_connections() -> usize {
    MAX_CONNECTIONS.min(most_files() / 2)
}

/// How many files the process may have open; as many as the system lets it have.
#[cfg(unix)]
fn most_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
fn most_files() -> usize {
    usize::MAX
}

const MAX_CONNECTIONS: usize = 10_000;
const TELL_AGAIN: Duration = Duration::from_secs(60);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(30);
