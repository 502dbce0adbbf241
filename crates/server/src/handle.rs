//! What the rest of the process holds of the running node: cheap to clone, safe to use from any thread.
//!
//! Requests go through the node's inbox; the state for local reads, the node's view of the cluster and its phase are
//! published values that are read without asking anybody.
//!
//! Not handled: waiting for news of anything but keys ([`crate::watch`]) and the phase; who wants to know more asks again.

use crate::address;
use crate::inbox::{Inbox, Refused};
use crate::leader::{Leader, Leadership};
use crate::metrics::Metrics;
use crate::watch::Hub;
use arc_swap::ArcSwap;
use base::{ClusterId, Incarnation, Index, NodeId};
use node::{Failure, Outcome, Request, Role, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It belongs to no cluster yet and asks a member to let it in.
    Joining,
    /// It belongs to no cluster yet and waits until it is let in.
    Waiting,
    Running,
    /// It is no member any more; the reason is for people.
    Removed(String),
    /// It hands over and finishes what is in flight.
    Stopping,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What its user calls it (`-id`).
    pub name: String,
    /// Where its peers reach it, as it was given.
    pub address: String,
    /// Where its clients reach it.
    pub url: String,
    pub incarnation: Incarnation,
    /// `None` until it is a member of one.
    pub cluster: Option<(ClusterId, NodeId)>,
}

impl Handle {
    /// Asks the node. A write whose outcome is not known at the limit ends as [`Failure::Unknown`]; dropping the future
    /// gives up waiting, not the request.
    pub async fn request(&self, request: Request, limit: Duration) -> Outcome {
        let request = match request {
            // Two spellings of one address are one address; the one that the cluster knows wins.
            Request::Join { name, address, learner } => {
                // In a box: it is rare, and large.
                let address = Box::pin(address::as_known(address, &self.status().configuration)).await;
                Request::Join { name, address, learner }
            }
            other => other,
        };
        let (only_reads, asks_leader) = (request.only_reads(), matches!(request, Request::Read(_)));
        let began = Instant::now();
        let (reply, answer) = oneshot::channel();
        match self.shared.inbox.request(request, ticks(limit), reply) {
            Ok(()) => {
                let outcome = answer.await;
                if asks_leader {
                    self.shared.metrics.read_index.note(began.elapsed());
                }
                outcome.unwrap_or_else(|_| Outcome::Failed(self.gone_while_it_worked(only_reads)))
            }
            Err(Refused::Full) => Outcome::Failed(Failure::Overloaded(
                "too many requests wait for this node; nothing was changed, try again in a moment".into(),
            )),
            Err(Refused::Closed) => Outcome::Failed(self.why_closed()),
        }
    }

    /// The node begins with the requests that `bring` asks for when the last of them is there.
    pub fn together<R>(&self, bring: impl FnOnce() -> R) -> R {
        self.shared.inbox.together(bring)
    }

    /// The newest state that this node has applied, for local reads. `None` until the node runs.
    pub fn view(&self) -> Option<kv::View> {
        self.shared.hub.view()
    }

    /// The highest index that this node knows, or was told by a leader, to be committed. If [`Handle::view`] is older, it
    /// lacks something that was acknowledged.
    pub fn known_commit(&self) -> Index {
        self.shared.known_commit.load(Ordering::Relaxed)
    }

    /// The node's own view of the cluster.
    pub fn status(&self) -> Arc<Status> {
        self.shared.status.load_full()
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<Arc<Leader>> {
        self.shared.leadership.leader()
    }

    /// Where the clients of a member reach it, as far as it told.
    pub fn url(&self, member: NodeId) -> Option<String> {
        self.shared.leadership.url(member)
    }

    /// The time since the last contact with the leader, which is none for the leader itself: it steps down when it
    /// hears of no majority. `None`: there was no contact in this life.
    pub fn contact_age(&self) -> Option<Duration> {
        if self.status().role == Role::Leader {
            return Some(Duration::ZERO);
        }
        self.shared.leadership.contact_age()
    }

    /// How old [`Handle::view`] may be at most, by two measures. Usually it is the time since the last contact with the
    /// leader: whatever was acknowledged before that had been committed then, though perhaps not arrived here. `strict`
    /// does not let that pass: where something is missing, the view is also as old as its newest write, by the clocks of
    /// the nodes that were asked. `None`: it can't be told.
    pub fn data_age(&self, strict: bool) -> Option<Duration> {
        let contact = self.contact_age()?;
        if !strict || self.status().role == Role::Leader {
            return Some(contact);
        }
        // In this order: what was known to be committed when the view was published is known now.
        let view = self.view()?;
        if view.applied().index >= self.known_commit() {
            return Some(contact);
        }
        let accepted_ms = Some(view.accepted_ms()).filter(|&ms| ms > 0)?;
        Some(contact.max(Duration::from_millis(unix_ms().saturating_sub(accepted_ms))))
    }

    pub fn identity(&self) -> Arc<Identity> {
        self.shared.identity.load_full()
    }

    pub fn phase(&self) -> Phase {
        self.shared.phase.borrow().clone()
    }

    /// Returns once the node is in a phase that `wanted` likes.
    pub async fn wait_for_phase(&self, wanted: impl FnMut(&Phase) -> bool) -> Phase {
        let mut phases = self.shared.phase.subscribe();
        let found = phases.wait_for(wanted).await.map(|phase| phase.clone());
        // The sender lives in `shared`, which this handle keeps.
        found.unwrap_or(Phase::Stopping)
    }

    /// For whoever wants to know of every change of that view.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(crate) fn new(identity: Identity) -> Handle {
        Handle {
            shared: Arc::new(Shared {
                inbox: Inbox::default(),
                hub: Arc::default(),
                metrics: Metrics::default(),
                known_commit: AtomicU64::new(0),
                status: ArcSwap::default(),
                leadership: Leadership::default(),
                identity: ArcSwap::from_pointee(identity),
                phase: watch::Sender::new(Phase::Joining),
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What became of a request that the node had begun.
    pub(crate) fn gone_while_it_worked(&self, only_reads: bool) -> Failure {
        if only_reads {
            return self.why_closed();
        }
        Failure::Unknown("this node stopped while it worked on the request, which may or may not take effect".into())
    }

    /// Why the node takes no request now.
    pub(crate) fn why_closed(&self) -> Failure {
        match self.phase() {
            Phase::Joining => Failure::Unavailable("this node has not joined its cluster yet; try again".into()),
            Phase::Waiting => Failure::Unavailable(
                "this node belongs to no cluster yet; ask a member of one to let it in, then try again".into(),
            ),
            Phase::Running | Phase::Stopping => {
                Failure::Unavailable("this node is stopping; ask another member".into())
            }
            Phase::Removed(reason) => Failure::Removed(reason),
        }
    }
}

/// The published values and the inbox: what the node's thread and everybody else have in common.
pub(crate) struct Shared {
    pub inbox: Inbox,
    /// Has the published view.
    pub hub: Arc<Hub>,
    pub metrics: Metrics,
    pub known_commit: AtomicU64,
    pub status: ArcSwap<Status>,
    pub leadership: Leadership,
    pub identity: ArcSwap<Identity>,
    pub phase: watch::Sender<Phase>,
}

/// What the wall clock shows; 0 if that is before 1970, which is no time.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Rounded up: a limit never gets shorter on its way.
pub(crate) fn ticks(limit: Duration) -> u64 {
    let per_tick = 1_000_000_000 / u128::from(node::TICKS_PER_SECOND);
    u64::try_from(limit.as_nanos().div_ceil(per_tick)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Position;
    use kv::{Command, RequestId, SessionId, Store};

    const HOUR_MS: u64 = 3_600_000;

    /// A follower that has just heard from its leader.
    fn follower() -> Handle {
        let me = Identity {
            name: "b".into(),
            address: "b:1".into(),
            url: String::new(),
            incarnation: Incarnation(1),
            cluster: None,
        };
        let handle = Handle::new(me);
        follow(&handle, 1);
        handle
    }

    fn follow(handle: &Handle, leader: NodeId) {
        let role = if leader == 2 { Role::Leader } else { Role::Follower };
        let status = Arc::new(Status { node: 2, role, leader: Some(leader), ..Status::default() });
        handle.shared.leadership.set_status(&status, &handle.identity());
        handle.shared.status.store(status);
    }

    /// What is applied ends at index 1, with a write that was accepted then.
    fn publish(handle: &Handle, accepted_ms: u64, known_commit: Index) {
        let mut store = Store::in_memory();
        let request = RequestId { session: SessionId { node: 1, boot: 1 }, number: 1, low_water: 1 };
        let write = Command::Write { request, accepted_ms, idempotency: None, operations: Vec::new() };
        store.apply(Position { index: 1, term: 1 }, &write).unwrap();
        handle.shared.known_commit.store(known_commit, Ordering::Relaxed);
        handle.shared.hub.publish(store.view());
    }

    #[test]
    fn a_view_that_lacks_something_is_as_old_as_its_newest_write() {
        let handle = follower();
        assert_eq!(handle.data_age(true), None);
        let hours = |strict| handle.data_age(strict).map(|age| age.as_secs() / 3600);
        publish(&handle, unix_ms() - 2 * HOUR_MS, 1);
        assert_eq!([hours(false), hours(true)], [Some(0), Some(0)]);
        publish(&handle, unix_ms() - 2 * HOUR_MS, 2);
        assert_eq!([hours(false), hours(true)], [Some(0), Some(2)]);
        // A clock that goes ahead makes nothing younger than the contact.
        publish(&handle, unix_ms() + 2 * HOUR_MS, 2);
        assert_eq!([hours(false), hours(true)], [Some(0), Some(0)]);
        publish(&handle, 0, 2);
        assert_eq!([hours(false), hours(true)], [Some(0), None]);
        follow(&handle, 2);
        assert_eq!([handle.data_age(false), handle.data_age(true)], [Some(Duration::ZERO); 2]);
    }
}
