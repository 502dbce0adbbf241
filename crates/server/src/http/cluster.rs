//! What HTTP needs of a node: the little window through which every dialect looks inward.

use crate::handle::{Handle, Identity};
use bytes::Bytes;
use node::{Failure, Outcome, Request, Role, Status};
use std::sync::Arc;
use std::time::Duration;

/// A member that answers for the whole cluster.
pub trait Cluster: Send + Sync + 'static {
    /// May be dropped at any time; the request may take effect all the same.
    fn request(&self, request: Request, limit: Duration) -> impl Future<Output = Outcome> + Send;

    /// The value in the state that this node has published last, without asking anyone.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure>;

    /// The node's own view of the cluster. Never waits.
    fn status(&self) -> Arc<Status>;

    /// Who this node is, whether a member or not.
    fn identity(&self) -> Arc<Identity>;

    fn leader(&self) -> Option<Leader>;

    /// For how long what [`Cluster::get`] gives may have been out of date: the time since the last contact with the
    /// leader. `strict`: unless all that is known to be committed is applied, also at least the age of the newest write
    /// that is. `None`: this node can't tell.
    fn age(&self, strict: bool) -> Option<Duration>;
}

/// Who leads, as far as the node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// Where its clients reach it, if it told.
    pub url: Option<String>,
}

impl Cluster for Handle {
    fn request(&self, request: Request, limit: Duration) -> impl Future<Output = Outcome> + Send {
        Handle::request(self, request, limit)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        if let Some(reason) = &self.status().removed {
            return Err(Failure::Removed(reason.clone()));
        }
        match self.view() {
            Some(view) => Ok(view.get(key).map(|found| found.value)),
            None => {
                Err(Failure::Unavailable("this node is no member of a cluster yet; ask another one, or wait".into()))
            }
        }
    }

    fn status(&self) -> Arc<Status> {
        Handle::status(self)
    }

    fn identity(&self) -> Arc<Identity> {
        Handle::identity(self)
    }

    fn leader(&self) -> Option<Leader> {
        let status = self.status();
        let leader = status.configuration.members.get(&status.leader?)?;
        Some(Leader { name: leader.name.clone(), address: leader.address.clone(), url: None })
    }

    fn age(&self, _strict: bool) -> Option<Duration> {
        (self.status().role == Role::Leader).then_some(Duration::ZERO)
    }
}
