//! A client of the store, for Rust: keys, transactions, leases, watches, locks and elections over `/v1`.
//!
//! [`Client`] is cheap to clone and may be used by many tasks at once. It knows several endpoints, keeps connections
//! to them, goes on with those that work, and asks the leader first for what needs it.
//!
//! ```
//! # mod stand_in { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/v1/stand_in.rs")); }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), client::Error> {
//! # let node = stand_in::StandIn::start().await;
//! # let (a, b) = (node.url(), "127.0.0.1:1");
//! use client::{Client, Condition, Is, Range, Step};
//!
//! let client = Client::new([a.as_str(), b])?;
//! let put = client.put("user1", "batman").await?;
//! let kv = client.get("user1").await?.expect("it was just put");
//! assert_eq!((&kv.value[..], kv.mod_revision), (&b"batman"[..], put.revision));
//!
//! // Only if nobody changed it since.
//! client.put("user1", "robin").if_match(kv.mod_revision).await?;
//! let error = client.put("user1", "joker").if_match(kv.mod_revision).await.unwrap_err();
//! assert!(matches!(error, client::Error::PreconditionFailed(_)));
//!
//! // Several keys at once.
//! let done = client
//!     .txn()
//!     .when(Condition::value(Range::key("user1"), Is::Equal, "robin"))
//!     .then(Step::put("user2", "alfred"))
//!     .then(Step::get("user1"))
//!     .await?;
//! assert!(done.succeeded);
//! assert_eq!(done.got(1).unwrap().value, "robin");
//!
//! // However many there are, all of one revision.
//! let mut rows = client.list(Range::prefix("user")).rows();
//! while let Some(kv) = rows.next().await? {
//!     println!("{:?} = {:?}", kv.key, kv.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Time and retries.** A call ends within its time limit ([`DEFAULT_TIME_LIMIT`] unless told). Until then it is
//! repeated wherever that is safe: reads always, writes if they certainly did not happen, and otherwise under one
//! idempotency key, by which the server knows a write that it has seen: it takes effect once, however often it is
//! sent. If the time runs out, [`Error`] says whether the write may have happened ([`Error::Unknown`]) or certainly
//! did not.
//!
//! **Watches** hand out every revision exactly once and come back by themselves after a break:
//!
//! ```
//! # mod stand_in { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/v1/stand_in.rs")); }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), client::Error> {
//! # let node = stand_in::StandIn::start().await;
//! # let client = client::Client::new([node.url()])?;
//! use client::{Change, Range};
//!
//! let mut watch = client.watch(Range::prefix("user")).await?;
//! client.put("user1", "batman").await?;
//! let revision = watch.next().await?;
//! assert!(matches!(&revision.changes[..], [Change::Put { kv, .. }] if kv.key == "user1"));
//! # Ok(())
//! # }
//! ```
//!
//! **Leases, locks, elections** end when their owner does not say in time that it still lives; that is done in the
//! background ([`LeaseKeeper`], [`Lock`], [`Leadership`]):
//!
//! ```
//! # mod stand_in { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/v1/stand_in.rs")); }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), client::Error> {
//! # let node = stand_in::StandIn::start().await;
//! # let client = client::Client::new([node.url()])?;
//! use client::Step;
//! use std::time::Duration;
//!
//! let lock = client.lock("jobs/cleaning").ttl(Duration::from_secs(5)).await?;
//! tokio::select! {
//!     reason = lock.lost() => eprintln!("stop at once: {reason}"),
//!     done = client.txn().when(lock.condition()).then(Step::put("cleaned", "yes")) => assert!(done?.succeeded),
//! }
//! lock.unlock().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`hraftd`] speaks the dialect of the program of that name, and [`load`] measures with it.
//!
//! Not handled: TLS; members that were not named as endpoints.

mod cluster;
mod election;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod hraftd;
mod kv;
mod lease;
mod level;
pub mod load;
mod lock;
mod net;
mod queue;
mod txn;
mod watch;
mod wire;

pub use bytes::Bytes;
pub use cluster::{Member, Node, Snapshot, Status};
pub use election::{Election, Leadership, Observer};
pub use error::{Error, Outcome, Problem};
pub use hyper::{Method, StatusCode, header};
pub use kv::{Delete, Deleted, List, Page, Pages, Put, PutDone, Rows};
pub use lease::{Lease, LeaseInfo, LeaseKeeper};
pub use level::Level;
pub use lock::{Lock, LockRequest};
pub use txn::{Condition, Is, Step, StepDone, Txn, TxnDone};
pub use watch::{Change, Revision, Watch, WatchRequest};
pub use wire::{KeyValue, Range};

use net::Fleet;
use std::sync::Arc;
use std::time::Duration;
use wire::Query;

/// Longer than a server's own, so that it is the server that says what happened.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(15);

/// The way to a cluster. Clones share connections, and what was learned of the endpoints.
#[derive(Clone, Debug)]
pub struct Client {
    fleet: Arc<Fleet>,
    time_limit: Duration,
    unreachable_limit: Duration,
    level: Level,
}

impl Client {
    /// `endpoints` are where nodes serve clients: `http://host:port` or `host:port`. Nothing is contacted yet.
    pub fn new(endpoints: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Client, Error> {
        let fleet = Arc::new(Fleet::new(endpoints).map_err(Error::invalid)?);
        let limit = DEFAULT_TIME_LIMIT;
        Ok(Client { fleet, time_limit: limit, unreachable_limit: limit, level: Level::Default })
    }

    /// How long a call may take in all, repeats included.
    pub fn with_time_limit(&self, time_limit: Duration) -> Client {
        Client { time_limit, ..self.clone() }
    }

    /// How long a call goes on while not one endpoint can be reached; as long as it may take, unless told.
    pub fn with_unreachable_limit(&self, unreachable_limit: Duration) -> Client {
        Client { unreachable_limit, ..self.clone() }
    }

    /// How fresh reads are; as the nodes are set up unless told, which is linearizable unless they are told.
    pub fn with_level(&self, level: Level) -> Client {
        Client { level, ..self.clone() }
    }

    fn read_query(&self) -> Query {
        let mut query = Query::default();
        if self.level != Level::Default {
            query.add("level", self.level);
        }
        query
    }
}
