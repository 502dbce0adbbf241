//! What HTTP needs of a node: the little window through which every dialect looks inward.

use crate::handle::{Handle, Identity};
use bytes::Bytes;
use node::{Failure, Outcome, Request, Status};
use std::str::FromStr;
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
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What this node has, however old.
    None,
    /// At least as new as everything that was acknowledged before the read came.
    #[default]
    Linearizable,
}

impl Level {
    pub const NAMES: &str = "none or linearizable";
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Ok(Level::None),
            "linearizable" => Ok(Level::Linearizable),
            _ => Err(format!("there is no read level {text:?}; it may be {}", Level::NAMES)),
        }
    }
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
}
