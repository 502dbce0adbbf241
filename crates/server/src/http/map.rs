//! A cluster that is a store and nothing else, for tests and fuzzing.

use super::cluster::Cluster;
use crate::handle::{Identity, Phase};
use crate::leader::Leader;
use crate::metrics::Metrics;
use crate::watch::Hub;
use base::{Index, NodeId, Position};
use bytes::Bytes;
use kv::{Action, Answer, Command, IdempotencyKey, Operation, RequestId, SessionId, Store, View};
use node::{Failure, Outcome, ReadLevel, Status};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Map {
    pub store: Mutex<Store>,
    pub hub: Arc<Hub>,
    pub metrics: Metrics,
    pub phase: Mutex<Phase>,
    pub asked: Mutex<Vec<Asked>>,
    /// Of the last request.
    pub limit: Mutex<Duration>,
    pub failure: Mutex<Option<Failure>>,
    pub status: Mutex<Arc<Status>>,
    pub identity: Arc<Identity>,
    pub leader: Mutex<Option<Leader>>,
    /// By the last contact with the leader, and by the data's own time.
    pub ages: Mutex<[Option<Duration>; 2]>,
}

impl Default for Map {
    fn default() -> Map {
        let identity = Identity {
            name: "me".into(),
            address: "here:1".into(),
            url: "http://here:2".into(),
            incarnation: base::Incarnation(1),
            cluster: None,
        };
        let mut store = Store::in_memory();
        store.apply(Position { index: 1, term: 1 }, &Command::Register { session: SESSION }).unwrap();
        let hub = Arc::new(Hub::default());
        hub.publish(store.view());
        Map {
            store: Mutex::new(store),
            hub,
            metrics: Metrics::default(),
            phase: Mutex::new(Phase::Running),
            asked: Mutex::default(),
            limit: Mutex::default(),
            failure: Mutex::default(),
            status: Mutex::default(),
            identity: Arc::new(identity),
            leader: Mutex::default(),
            ages: Mutex::default(),
        }
    }
}

impl Map {
    pub fn set_status(&self, status: Status) {
        *self.status.lock().unwrap() = Arc::new(status);
    }

    pub fn put(&self, key: &[u8], value: &[u8]) {
        let put = Operation::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) };
        self.write(vec![put], None);
    }

    pub fn write(&self, operations: Vec<Operation>, idempotency: Option<IdempotencyKey>) -> Outcome {
        self.apply(|request| Command::Write { request, accepted_ms: 0, idempotency, operations })
    }

    pub fn act(&self, action: Action, idempotency: Option<IdempotencyKey>) -> Outcome {
        self.apply(|request| Command::Act { request: Some(request), accepted_ms: 0, idempotency, action })
    }

    fn apply(&self, command: impl FnOnce(RequestId) -> Command) -> Outcome {
        let mut store = self.store.lock().unwrap();
        let index = store.applied().index + 1;
        let command = command(RequestId { session: SESSION, number: index, low_water: index });
        if let Err(over) = command.check() {
            return Outcome::Failed(Failure::Invalid(over.to_string()));
        }
        let (answer, results) = store.apply_for(Position { index, term: 1 }, &command).unwrap();
        self.hub.publish(store.view());
        let failed = |failure: fn(String) -> Failure, why: kv::Refusal| Outcome::Failed(failure(format!("{why:?}")));
        match answer {
            Answer::Done { revision, changed } => Outcome::Written { revision, changed },
            Answer::Decided { succeeded, revision, changed } => {
                Outcome::Decided { succeeded, revision, changed, results }
            }
            Answer::Granted { lease, ttl_seconds } => Outcome::Granted { lease, ttl_seconds },
            Answer::Registered => Outcome::Done,
            Answer::Refused(why) => match why {
                kv::Refusal::KeyReused => failed(Failure::KeyReused, why),
                kv::Refusal::NoLease => failed(Failure::NotFound, why),
                kv::Refusal::LeaseExists => failed(Failure::Exists, why),
                kv::Refusal::Compacted => failed(Failure::Compacted, why),
                kv::Refusal::FutureRevision => failed(Failure::FutureRevision, why),
                _ => failed(Failure::Unknown, why),
            },
        }
    }
}

impl Cluster for Map {
    async fn request(&self, request: node::Request, limit: Duration) -> Outcome {
        *self.limit.lock().unwrap() = limit;
        if let Some(failure) = &*self.failure.lock().unwrap() {
            return Outcome::Failed(failure.clone());
        }
        let asked = match &request {
            node::Request::Read(level) => Asked::Read(*level),
            node::Request::Write { operations, idempotency } => Asked::Write(operations.clone(), idempotency.clone()),
            node::Request::Act { action, idempotency } => Asked::Act(action.clone(), idempotency.clone()),
            node::Request::LeaseTime { lease } => Asked::LeaseTime(*lease),
            node::Request::Freeze => Asked::Freeze,
            node::Request::Join { name, address, learner: false } => Asked::Join(name.clone(), address.clone()),
            node::Request::Join { name, address, learner: true } => Asked::JoinAsLearner(name.clone(), address.clone()),
            node::Request::Promote { name } => Asked::Promote(name.clone()),
            node::Request::Remove { name } => Asked::Remove(name.clone()),
            node::Request::Transfer { name } => Asked::Transfer(name.clone()),
        };
        self.asked.lock().unwrap().push(asked);
        match request {
            node::Request::Write { operations, idempotency } => self.write(operations, idempotency),
            node::Request::Act { action, idempotency } => self.act(action, idempotency),
            node::Request::LeaseTime { lease } => {
                let lease = self.store.lock().unwrap().view().lease(lease).unwrap();
                // Half of it, always.
                Outcome::LeaseTime { remaining_ms: lease.map(|lease| lease.ttl_seconds * 500) }
            }
            node::Request::Freeze => Outcome::Frozen(Arc::new(self.store.lock().unwrap().frozen())),
            node::Request::Read(_) => Outcome::Readable,
            _ => Outcome::Done,
        }
    }

    fn view(&self) -> Result<View, Failure> {
        Ok(self.store.lock().unwrap().view())
    }

    fn status(&self) -> Arc<Status> {
        self.status.lock().unwrap().clone()
    }

    fn identity(&self) -> Arc<Identity> {
        self.identity.clone()
    }

    fn leader(&self) -> Option<Leader> {
        self.leader.lock().unwrap().clone()
    }

    fn age(&self, strict: bool) -> Option<Duration> {
        self.ages.lock().unwrap()[usize::from(strict)]
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn phase(&self) -> Phase {
        self.phase.lock().unwrap().clone()
    }

    fn known_commit(&self) -> Index {
        self.store.lock().unwrap().applied().index
    }

    fn url(&self, member: NodeId) -> Option<String> {
        (member == 1).then(|| "http://there:2".into())
    }
}

/// What a cluster was asked.
#[derive(Debug, PartialEq)]
pub enum Asked {
    Read(ReadLevel),
    Write(Vec<Operation>, Option<IdempotencyKey>),
    Act(Action, Option<IdempotencyKey>),
    LeaseTime(u64),
    Freeze,
    Join(String, String),
    JoinAsLearner(String, String),
    Promote(String),
    Remove(String),
    Transfer(Option<String>),
}

const SESSION: SessionId = SessionId { node: 1, boot: 1 };
