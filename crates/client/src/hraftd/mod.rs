//! hraftd's dialect, for what must speak to any server of that kind: the load that measures, and the distributor.
//!
//! [`Client`] knows several endpoints and moves on to the next when one can't be reached; any member accepts any
//! request, so there is no leader to look for. [`Connection`] is one connection to one endpoint, and what
//! [`load`](crate::load) measures with. [`Pool`] is as many of them as are needed at once. All wait no longer than a
//! time limit.
//!
//! A write is sent once. If the connection breaks or falls silent after that, the write may have happened or may yet
//! happen, and the error says so ([`Error::Unknown`]); nothing is repeated behind the caller's back but what certainly
//! never left, and reads.
//!
//! Not handled: TLS, values that are no text (hraftd's JSON can't carry them).

mod connection;
mod error;
mod pool;
mod request;

pub use crate::{DEFAULT_TIME_LIMIT, Level};
pub use connection::{Connection, Response};
pub use error::Error;
pub use pool::Pool;
pub use request::Request;

use serde::Deserialize;
use std::time::Duration;

/// One after the other: a client for a program that does one thing at a time. Make several for more.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<String>,
    current: usize,
    connection: Option<Connection>,
    time_limit: Duration,
}

/// A node's own view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    pub me: Member,
    /// Empty strings when no leader is known.
    pub leader: Member,
    pub followers: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    pub id: String,
    /// Where its peers reach it; not its HTTP address.
    pub address: String,
}

impl Status {
    pub fn is_leader(&self) -> bool {
        !self.me.id.is_empty() && self.me.id == self.leader.id
    }
}

impl Client {
    /// `endpoints` are HTTP addresses, `host:port`. Nothing is contacted yet.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Client {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Client { endpoints, current: 0, connection: None, time_limit: DEFAULT_TIME_LIMIT }
    }

    pub fn with_time_limit(mut self, time_limit: Duration) -> Client {
        self.time_limit = time_limit;
        self
    }

    /// A missing key reads as the empty text: the dialect doesn't tell them apart.
    pub async fn get(&mut self, key: &str, level: Level) -> Result<String, Error> {
        self.send(&Request::get(key, level)?).await?.value_of(key)
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.put_all(&[(key, value)]).await
    }

    /// All of them at once, or none.
    pub async fn put_all(&mut self, pairs: &[(&str, &str)]) -> Result<(), Error> {
        self.send(&Request::put(pairs)?).await.map(drop)
    }

    pub async fn delete(&mut self, key: &str) -> Result<(), Error> {
        self.send(&Request::delete(key)?).await.map(drop)
    }

    /// The view of the member that this client currently talks to.
    pub async fn status(&mut self) -> Result<Status, Error> {
        self.send(&Request::status()).await?.view()
    }

    /// Tries each endpoint once, beginning with the one that answered last, and that one again on a new connection: a
    /// kept connection may have been closed by the other side meanwhile.
    async fn send(&mut self, request: &Request) -> Result<Response, Error> {
        let mut result = Err(Error::NoEndpoints);
        for _ in 0..=self.endpoints.len() {
            let had_connection = self.connection.is_some();
            result = self.send_once(request).await;
            match &result {
                Err(Error::Unreachable { .. }) => {}
                Err(Error::Unknown { .. }) if request.is_read() => {}
                _ => return result,
            }
            self.connection = None;
            if !had_connection && !self.endpoints.is_empty() {
                self.current = (self.current + 1) % self.endpoints.len();
            }
        }
        result
    }

    async fn send_once(&mut self, request: &Request) -> Result<Response, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let address = self.endpoints.get(self.current).ok_or(Error::NoEndpoints)?;
                Connection::open(address).await?.with_time_limit(self.time_limit)
            }
        };
        let result = connection.send(request.clone()).await;
        if connection.is_open() {
            self.connection = Some(connection);
        }
        result
    }
}
