//! A cluster that is a map, for tests and fuzzing.

use super::cluster::Cluster;
use crate::handle::Identity;
use crate::leader::Leader;
use bytes::Bytes;
use kv::{IdempotencyKey, Operation};
use node::{Failure, Outcome, ReadLevel, Status};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Map {
    pub data: Mutex<BTreeMap<Vec<u8>, Bytes>>,
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
        Map {
            data: Mutex::default(),
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
            node::Request::Join { name, address } => Asked::Join(name.clone(), address.clone()),
            node::Request::Remove { name } => Asked::Remove(name.clone()),
            _ => panic!("the dialect has no word for {request:?}"),
        };
        self.asked.lock().unwrap().push(asked);
        match request {
            node::Request::Write { operations, .. } => {
                let changed = operations.len() as u32;
                let mut data = self.data.lock().unwrap();
                for operation in operations {
                    match operation {
                        Operation::Put { key, value } => data.insert(key.to_vec(), value),
                        Operation::Delete { key } => data.remove(&key[..]),
                    };
                }
                Outcome::Written { revision: 1, changed }
            }
            node::Request::Read(_) => Outcome::Readable,
            _ => Outcome::Done,
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        Ok(self.data.lock().unwrap().get(key).cloned())
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
}

/// What a cluster was asked.
#[derive(Debug, PartialEq)]
pub enum Asked {
    Read(ReadLevel),
    Write(Vec<Operation>, Option<IdempotencyKey>),
    Join(String, String),
    Remove(String),
}
