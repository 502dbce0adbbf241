//! Connections to one endpoint, as many as are in use at once, kept for the next request.
//!
//! Not handled: a limit on connections in use, whoever sends has one on requests; and a kept connection that the other
//! side closed at the very moment of the next request, which ends as [`Error::Unknown`] as on any other connection.

use super::{Connection, Error, Request, Response};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// More than that are in use at a peak only.
const MAX_IDLE: usize = 128;

#[derive(Debug)]
pub struct Pool {
    address: String,
    /// The one used last is the next to be used, so that those too many fall idle.
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// `address` is `host:port`. Nothing is contacted yet.
    pub fn new(address: impl Into<String>) -> Pool {
        Pool { address: address.into(), idle: Mutex::default() }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// An answer with an error status is an answer here, not an [`Error`]. Dropping the future closes the connection
    /// that it used; the request may have been sent.
    pub async fn send(&self, request: &Request, time_limit: Duration) -> Result<Response, Error> {
        let deadline = Instant::now() + time_limit;
        let mut connection = match self.kept() {
            Some(connection) => connection,
            None => timeout_at(deadline, Connection::open(&self.address)).await.unwrap_or_else(|_| {
                let reason = format!("no answer within {time_limit:.0?}");
                Err(Error::Unreachable { address: self.address.clone(), reason })
            })?,
        };
        connection.set_time_limit(deadline.saturating_duration_since(Instant::now()));
        let result = connection.exchange(request.clone()).await;
        self.keep(connection);
        result
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.is_open() && idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}
