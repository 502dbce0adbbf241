//! Accepts connections and hands each to HTTP or to the peers.
//!
//! Where one port carries both, the first byte tells them apart: no HTTP request begins with that of a peer's preface.
//!
//! Not handled: limits per client; all clients together have one.

use crate::address;
use crate::http;
use crate::peer::{Peers, frame};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

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
        Reception { peers, http, http_connections: Semaphore::new(MAX_HTTP_CONNECTIONS) }
    }

    /// Accepts until `closing` turns true, then waits for the connections to end; aborting it ends them at once.
    pub async fn receive(
        self: Arc<Reception>,
        listener: TcpListener,
        carries: Carries,
        closing: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        let mut closed = closing.clone();
        let mut closed = std::pin::pin!(closed.wait_for(|closing| *closing));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = &mut closed => break,
            };
            match accepted {
                // Beyond the limit it is better to close at once than to keep someone waiting without an end.
                Ok((stream, from)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(self.clone().route(stream, from, carries));
                }
                Ok((_, from)) => tracing::debug!(%from, "too many connections"),
                Err(error) => {
                    // Mostly too many open files: some of them will be closed soon.
                    tracing::debug!(%error, "can't accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn route(self: Arc<Reception>, stream: TcpStream, from: SocketAddr, carries: Carries) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
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
            tracing::debug!(%from, "too many HTTP connections");
            return;
        };
        if address::tune(&stream).is_ok() {
            http::serve(stream, from, self.http.clone()).await;
        }
    }
}

const MAX_CONNECTIONS: usize = 10_000;
/// The rest is for peers.
const MAX_HTTP_CONNECTIONS: usize = 9_000;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(30);
