//! Leases: keys that end unless their owner says in time that it still lives.

use crate::error::Problem;
use crate::net::Ask;
use crate::wire::{Query, read, written};
use crate::{Client, Deleted, Error};
use bytes::Bytes;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// It is kept alive so many times within its time to live, so that a few failures don't lose it.
const KEEPALIVES_PER_TTL: u32 = 3;
const RETRY_EVERY: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub id: u64,
    /// Time to live, in seconds: it ends when it was not kept alive for so long.
    pub ttl: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct LeaseInfo {
    pub id: u64,
    /// In seconds.
    pub ttl: u64,
    /// Until it ends, if nobody keeps it alive.
    pub remaining: Duration,
    /// The keys that end with it, the first thousand.
    pub keys: Vec<Bytes>,
    pub has_more_keys: bool,
}

impl Client {
    /// A new lease. `ttl` is rounded up to whole seconds.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<Lease, Error> {
        self.grant(json!({ "ttl": whole_seconds(ttl) })).await
    }

    /// The same, with an id of the caller's choice, which must not be in use.
    pub async fn grant_lease_as(&self, id: u64, ttl: Duration) -> Result<Lease, Error> {
        self.grant(json!({ "ttl": whole_seconds(ttl), "id": id })).await
    }

    async fn grant(&self, body: serde_json::Value) -> Result<Lease, Error> {
        self.call(Ask::write(Method::POST, "/v1/leases").with_json(&body)).await?.json()
    }

    /// Begins the lease's time anew. See [`LeaseKeeper`] for who does that in the background.
    pub async fn keep_alive(&self, lease: u64) -> Result<Lease, Error> {
        self.call(Ask::write(Method::POST, format!("/v1/leases/{lease}/keepalive"))).await?.json()
    }

    /// Ends the lease, and every key attached to it.
    pub async fn revoke_lease(&self, lease: u64) -> Result<Deleted, Error> {
        self.call(Ask::write(Method::DELETE, format!("/v1/leases/{lease}"))).await?.json()
    }

    pub async fn lease(&self, lease: u64) -> Result<LeaseInfo, Error> {
        self.call(Ask::read(format!("/v1/leases/{lease}"), self.level)).await?.json()
    }

    /// All of them.
    pub async fn leases(&self) -> Result<Vec<Lease>, Error> {
        #[derive(Deserialize)]
        struct Page {
            leases: Vec<Lease>,
            #[serde(default)]
            more: bool,
            #[serde(rename = "continue")]
            next: Option<String>,
        }
        let mut leases = Vec::new();
        let mut query = Query::default();
        loop {
            let page: Page = self.call(Ask::read(query.after("/v1/leases"), self.level)).await?.json()?;
            leases.extend(page.leases);
            match page.next {
                Some(next) if page.more => {
                    query = Query::default();
                    query.add("continue", next);
                }
                _ => return Ok(leases),
            }
        }
    }
}

/// As it travels.
#[derive(Serialize, Deserialize)]
struct Written {
    id: u64,
    ttl: u64,
    /// In seconds.
    remaining: f64,
    keys: Vec<WrittenKey>,
    #[serde(default)]
    more: bool,
}

#[derive(Serialize, Deserialize)]
struct WrittenKey {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

impl TryFrom<Written> for LeaseInfo {
    type Error = String;

    fn try_from(w: Written) -> Result<LeaseInfo, String> {
        let keys = w.keys.into_iter().map(|w| read("key", w.key, w.key_base64)?.ok_or("a row without its key".into()));
        let remaining = Duration::try_from_secs_f64(w.remaining.max(0.0)).unwrap_or(Duration::MAX);
        let keys = keys.collect::<Result<Vec<Bytes>, String>>()?;
        Ok(LeaseInfo { id: w.id, ttl: w.ttl, remaining, keys, has_more_keys: w.more })
    }
}

impl From<LeaseInfo> for Written {
    fn from(info: LeaseInfo) -> Written {
        let keys = info.keys.iter().map(|key| {
            let (key, key_base64) = written(key);
            WrittenKey { key, key_base64 }
        });
        let remaining = info.remaining.as_secs_f64();
        Written { id: info.id, ttl: info.ttl, remaining, keys: keys.collect(), more: info.has_more_keys }
    }
}

fn whole_seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}

/// Keeps a lease alive in the background until it is dropped, and says when it is lost.
///
/// It counts as lost as soon as the server says so, or when nobody confirmed it for its time to live, counted from
/// before the last confirmed request: so this side never believes in a lease longer than the cluster does, as long as
/// both clocks run equally fast.
///
/// Dropping it does not end the lease; it then ends by itself after its time to live. [`LeaseKeeper::revoke`] ends it
/// at once.
#[derive(Debug)]
pub struct LeaseKeeper {
    client: Client,
    lease: Lease,
    lost: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl LeaseKeeper {
    /// Grants a lease and keeps it.
    pub async fn grant(client: &Client, ttl: Duration) -> Result<LeaseKeeper, Error> {
        let began = Instant::now();
        let lease = client.grant_lease(ttl).await?;
        Ok(LeaseKeeper::begin(client, lease, began))
    }

    /// Keeps a lease that exists already, beginning now.
    pub async fn keep(client: &Client, lease: u64) -> Result<LeaseKeeper, Error> {
        let began = Instant::now();
        let lease = client.keep_alive(lease).await?;
        Ok(LeaseKeeper::begin(client, lease, began))
    }

    fn begin(client: &Client, lease: Lease, confirmed: Instant) -> LeaseKeeper {
        let (tell, lost) = watch::channel(None);
        let keeping = client.clone();
        let task = tokio::spawn(async move {
            let reason = keep_until_lost(&keeping, lease, confirmed).await;
            tell.send_replace(Some(reason));
        });
        LeaseKeeper { client: client.clone(), lease, lost, task }
    }

    pub fn id(&self) -> u64 {
        self.lease.id
    }

    pub fn lease(&self) -> Lease {
        self.lease
    }

    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Waits until the lease is lost, and says why. It may be called as often as needed, and dropped at any time.
    pub async fn lost(&self) -> Error {
        let mut lost = self.lost.clone();
        let reason = match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "its keeper ended".to_string(),
        };
        Error::LeaseLost(Box::new(Problem::own("lease_lost", format!("lease {} is lost: {reason}", self.lease.id))))
    }

    /// Ends the lease, and every key attached to it. No error if it ended before.
    pub async fn revoke(self) -> Result<(), Error> {
        self.task.abort();
        match self.client.revoke_lease(self.lease.id).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns why it is lost.
async fn keep_until_lost(client: &Client, lease: Lease, mut confirmed: Instant) -> String {
    let ttl = Duration::from_secs(lease.ttl);
    // The end of a lease is kept here, not in the calls: they may go on as long as it lives.
    let client = client.with_time_limit(ttl);
    let mut next = confirmed + ttl / KEEPALIVES_PER_TTL;
    loop {
        sleep_until(next).await;
        let end = confirmed + ttl;
        let asked = Instant::now();
        let why = match timeout_at(end, client.keep_alive(lease.id)).await {
            Ok(Ok(_)) => {
                confirmed = asked;
                next = confirmed + ttl / KEEPALIVES_PER_TTL;
                continue;
            }
            Ok(Err(Error::NotFound(_))) => return "the cluster says that it has ended".to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_string(),
        };
        next = Instant::now() + RETRY_EVERY;
        if next >= end {
            sleep_until(end).await;
            return format!("it could not be kept alive for {} s ({why})", lease.ttl);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_never_shortened() {
        let whole = |ms| whole_seconds(Duration::from_millis(ms));
        assert_eq!([whole(0), whole(1), whole(1000), whole(1001)], [1, 1, 1, 2]);
    }
}
