//! What the node counts about itself, for monitoring.
//!
//! Counting is a relaxed atomic addition, two for a duration, by whoever sees it happen. Everything else that is shown is
//! looked up when somebody asks (`http::v1::metrics`). `docs/metrics.md` lists what there is.

mod histogram;
pub mod process;
pub mod text;

pub use histogram::Histogram;

use base::NodeId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Default)]
pub struct Metrics {
    pub leader_changes: Counter,
    /// Writes and other changes that were asked for here and are not answered.
    pub proposals_pending: Counter,
    pub proposals_failed: Counter,
    pub reads_failed: Counter,
    /// Between the question whether this node may read and the answer.
    pub read_index: Histogram,
    pub log_sync: Histogram,
    /// Of the log's files, as they are on the disk.
    pub log_bytes: Counter,
    /// Of the node's thread: everything that came in since the last turn, and applying what was committed.
    pub turn: Histogram,
    pub flushes: Upkept,
    pub merges: Upkept,
    pub http: Http,
    traffic: Mutex<BTreeMap<NodeId, Arc<Traffic>>>,
}

/// Jobs of the engine's upkeep, of one kind.
#[derive(Default)]
pub struct Upkept {
    pub running: Counter,
    pub done: Counter,
    /// Of the tables that they wrote.
    pub written_bytes: Counter,
}

/// Rises only, unless it is set.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes to and from one peer.
#[derive(Default)]
pub struct Traffic {
    pub sent_bytes: Counter,
    pub received_bytes: Counter,
}

impl Metrics {
    /// Of that peer, from now on. Kept until the process ends.
    pub fn traffic(&self, peer: NodeId) -> Arc<Traffic> {
        self.all_traffic(|all| all.entry(peer).or_default().clone())
    }

    pub fn each_traffic(&self) -> Vec<(NodeId, Arc<Traffic>)> {
        self.all_traffic(|all| all.iter().map(|(&peer, traffic)| (peer, traffic.clone())).collect())
    }

    fn all_traffic<T>(&self, look: impl FnOnce(&mut BTreeMap<NodeId, Arc<Traffic>>) -> T) -> T {
        look(&mut self.traffic.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Requests of clients, by what they are about.
#[derive(Default)]
pub struct Http {
    handlers: [Handler; Class::ALL.len()],
}

#[derive(Default)]
pub struct Handler {
    /// By the first digit of the status, from 2 on.
    answers: [Counter; 4],
    /// Until the answer began.
    pub duration: Histogram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    KvRead,
    KvWrite,
    Transaction,
    Lease,
    Watch,
    /// Of one of the other programs whose requests are understood.
    Dialect,
    Admin,
}

impl Class {
    pub const ALL: [Class; 7] =
        [Class::KvRead, Class::KvWrite, Class::Transaction, Class::Lease, Class::Watch, Class::Dialect, Class::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Class::KvRead => "kv_read",
            Class::KvWrite => "kv_write",
            Class::Transaction => "txn",
            Class::Lease => "lease",
            Class::Watch => "watch",
            Class::Dialect => "dialect",
            Class::Admin => "admin",
        }
    }
}

impl Http {
    pub fn note(&self, class: Class, status: u16, took: Duration) {
        let handler = &self.handlers[class as usize];
        let digit = usize::from(status / 100).clamp(2, 5);
        handler.answers[digit - 2].add(1);
        handler.duration.note(took);
    }

    pub fn each(&self) -> impl Iterator<Item = (Class, &Handler)> {
        Class::ALL.into_iter().zip(&self.handlers)
    }
}

impl Handler {
    /// `2xx` and how many answers had such a status, and so on.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(self.answers.iter().map(Counter::get))
    }
}
