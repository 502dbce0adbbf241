//! What HTTP needs of a node: the little window through which every dialect looks inward.

use crate::handle::{Handle, Identity, Phase};
use crate::leader::Leader;
use crate::metrics::Metrics;
use crate::watch::Hub;
use base::{Index, NodeId};
use kv::View;
use node::{Failure, Outcome, Request, Status};
use std::sync::Arc;
use std::time::Duration;

/// A member that answers for the whole cluster.
pub trait Cluster: Send + Sync + 'static {
    /// May be dropped at any time; the request may take effect all the same.
    fn request(&self, request: Request, limit: Duration) -> impl Future<Output = Outcome> + Send;

    /// What `bring` asks for is asked as one: the node need not begin before the last of it is there.
    fn together<R>(&self, bring: impl FnOnce() -> R) -> R
    where
        Self: Sized,
    {
        bring()
    }

    /// The state that this node has published last, without asking anyone. It was published before the outcome of any
    /// request that it needs to show.
    fn view(&self) -> Result<View, Failure>;

    /// The node's own view of the cluster. Never waits.
    fn status(&self) -> Arc<Status>;

    /// Who this node is, whether a member or not.
    fn identity(&self) -> Arc<Identity>;

    fn leader(&self) -> Option<Leader>;

    /// For how long what [`Cluster::view`] gives may have been out of date: the time since the last contact with the
    /// leader. `strict`: unless all that is known to be committed is applied, also at least the age of the newest write
    /// that is. `None`: this node can't tell.
    fn age(&self, strict: bool) -> Option<Duration>;

    /// For whoever wants to know of every change of [`Cluster::view`].
    fn hub(&self) -> &Arc<Hub>;

    fn metrics(&self) -> &Metrics;

    fn phase(&self) -> Phase;

    /// The highest index that this node knows to be committed.
    fn known_commit(&self) -> Index;

    /// Where the clients of a member reach it, as far as this node knows.
    fn url(&self, member: NodeId) -> Option<String>;
}

impl Cluster for Handle {
    fn request(&self, request: Request, limit: Duration) -> impl Future<Output = Outcome> + Send {
        Handle::request(self, request, limit)
    }

    fn together<R>(&self, bring: impl FnOnce() -> R) -> R {
        Handle::together(self, bring)
    }

    fn view(&self) -> Result<View, Failure> {
        if let Some(reason) = &self.status().removed {
            return Err(Failure::Removed(reason.clone()));
        }
        Handle::view(self).ok_or_else(|| {
            Failure::Unavailable("this node is no member of a cluster yet; ask another one, or wait".into())
        })
    }

    fn status(&self) -> Arc<Status> {
        Handle::status(self)
    }

    fn identity(&self) -> Arc<Identity> {
        Handle::identity(self)
    }

    fn leader(&self) -> Option<Leader> {
        Handle::leader(self).map(|leader| (*leader).clone())
    }

    fn age(&self, strict: bool) -> Option<Duration> {
        self.data_age(strict)
    }

    fn hub(&self) -> &Arc<Hub> {
        Handle::hub(self)
    }

    fn metrics(&self) -> &Metrics {
        Handle::metrics(self)
    }

    fn phase(&self) -> Phase {
        Handle::phase(self)
    }

    fn known_commit(&self) -> Index {
        Handle::known_commit(self)
    }

    fn url(&self, member: NodeId) -> Option<String> {
        Handle::url(self, member)
    }
}
