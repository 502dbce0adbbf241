//! Locks that end with their owner.
//!
//! A lock held elsewhere protects only as far as the two sides agree on time: an owner that was suspended for longer
//! than its lease believes that it holds the lock until it looks. So what is protected should check the **token**:
//! it grows from owner to owner, and whoever has seen a higher one refuses a lower one. For data in this store
//! [`Lock::condition`] does that within a transaction.

use crate::error::Problem;
use crate::kv::Boxed;
use crate::queue::Place;
use crate::{Client, Condition, Error, Is, Range};
use bytes::Bytes;
use std::future::IntoFuture;
use std::time::Duration;
use tokio::time::timeout;

const DEFAULT_TTL: Duration = Duration::from_secs(15);

impl Client {
    /// To be awaited, which takes as long as others hold it.
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockRequest {
        let name = Bytes::copy_from_slice(name.as_ref());
        LockRequest { client: self.clone(), name, ttl: DEFAULT_TTL, patience: None }
    }
}

/// A lock that was not asked for; awaiting it does that.
///
/// Dropping the future half-way leaves the line when the lease ends, after its time to live at the latest.
#[must_use = "it is asked for when it is awaited"]
#[derive(Clone, Debug)]
pub struct LockRequest {
    client: Client,
    name: Bytes,
    ttl: Duration,
    patience: Option<Duration>,
}

impl LockRequest {
    /// How long others must wait after the owner died. 15 s unless told.
    pub fn ttl(mut self, ttl: Duration) -> LockRequest {
        self.ttl = ttl;
        self
    }

    /// Give up after that time, with an [`Error::Unavailable`] of the code `lock_held`; zero: hold it at once or not
    /// at all.
    pub fn wait_at_most(mut self, patience: Duration) -> LockRequest {
        self.patience = Some(patience);
        self
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<Lock, Error>;
    type IntoFuture = Boxed<Lock>;

    fn into_future(self) -> Boxed<Lock> {
        Box::pin(async move {
            let place = Place::join(&self.client, &self.name, Bytes::new(), self.ttl).await?;
            let turn = match self.patience {
                None => place.wait_for_turn().await,
                // One look is always taken.
                Some(patience) => match place.is_first().await {
                    Ok(true) => Ok(()),
                    Ok(false) => match timeout(patience, place.wait_for_turn()).await {
                        Ok(turn) => turn,
                        Err(_) => Err(held(&self.name)),
                    },
                    Err(error) => Err(error),
                },
            };
            match turn {
                Ok(()) => Ok(Lock { place }),
                Err(error) => {
                    // Others must not wait for one that gave up.
                    place.give_up().await;
                    Err(error)
                }
            }
        })
    }
}

fn held(name: &[u8]) -> Error {
    let detail = format!("somebody else holds the lock {}", String::from_utf8_lossy(name));
    Error::Unavailable(Box::new(Problem::own("lock_held", detail)))
}

/// A lock that is held until it is unlocked, or until its lease is lost. Its lease is kept alive in the background.
///
/// Dropping it stops that: others then get the lock after its time to live. [`Lock::unlock`] hands it on at once.
#[derive(Debug)]
pub struct Lock {
    place: Place,
}

impl Lock {
    /// Higher than that of every owner before.
    pub fn token(&self) -> u64 {
        self.place.create_revision()
    }

    /// The key that stands for it.
    pub fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// Holds in a transaction as long as this owner has the lock.
    pub fn condition(&self) -> Condition {
        Condition::create_revision(Range::key(self.key()), Is::Equal, self.token())
    }

    pub fn is_lost(&self) -> bool {
        self.place.keeper().is_lost()
    }

    /// Waits until the lock is lost, and says why. Whatever is done under the lock should end then.
    pub async fn lost(&self) -> Error {
        self.place.keeper().lost().await
    }

    /// Hands it on. It can't take the lock from anybody else, even if it was lost meanwhile.
    pub async fn unlock(self) -> Result<(), Error> {
        self.place.leave().await
    }
}
