//! Elections: of all who campaign under a name, one leads, until it resigns or its lease ends.
//!
//! The same line as for a [`Lock`](crate::Lock), with a value: what the leader proclaims, such as its address. What is
//! said there of tokens holds for leaders, too.

use crate::error::Problem;
use crate::queue::{Place, line};
use crate::{Client, Condition, Error, Is, KeyValue, Range, Watch};
use bytes::Bytes;
use std::time::Duration;

impl Client {
    pub fn election(&self, name: impl AsRef<[u8]>) -> Election {
        Election { client: self.clone(), name: Bytes::copy_from_slice(name.as_ref()) }
    }
}

#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    name: Bytes,
}

impl Election {
    /// Waits until it is elected. `ttl`: how long after a leader's death the next one leads.
    ///
    /// Dropping the future half-way ends the candidacy after its time to live at the latest.
    pub async fn campaign(&self, value: impl Into<Bytes>, ttl: Duration) -> Result<Leadership, Error> {
        let place = Place::join(&self.client, &self.name, value.into(), ttl).await?;
        match place.wait_for_turn().await {
            Ok(()) => Ok(Leadership { place }),
            Err(error) => {
                // Others must not wait for one that gave up.
                place.give_up().await;
                Err(error)
            }
        }
    }

    /// Who leads now, and what it proclaims.
    pub async fn leader(&self) -> Result<Option<KeyValue>, Error> {
        Ok(line(&self.client, &self.line()).await?.0.into_iter().next())
    }

    /// Tells who leads, now and whenever that or what is proclaimed changes.
    pub fn observe(&self) -> Observer {
        Observer { election: self.clone(), watch: None, told: None }
    }

    fn line(&self) -> Bytes {
        [&self.name[..], b"/"].concat().into()
    }
}

/// Being elected, until it resigns or its lease is lost. The lease is kept alive in the background.
#[derive(Debug)]
pub struct Leadership {
    place: Place,
}

impl Leadership {
    /// Higher than that of every leader before.
    pub fn token(&self) -> u64 {
        self.place.create_revision()
    }

    /// The key that stands for it.
    pub fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// Holds in a transaction as long as it leads.
    pub fn condition(&self) -> Condition {
        Condition::create_revision(Range::key(self.key()), Is::Equal, self.token())
    }

    /// Changes the value that others see.
    pub async fn proclaim(&self, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let lease = self.place.keeper().id();
        let txn = self.place.client().txn().when(self.condition());
        let done = txn.then(crate::Step::put_with(self.key(), value, lease)).await?;
        if done.succeeded {
            return Ok(());
        }
        Err(Error::LeaseLost(Box::new(Problem::own("lease_lost", "it leads no more: its key is gone"))))
    }

    pub fn is_lost(&self) -> bool {
        self.place.keeper().is_lost()
    }

    /// Waits until leadership is lost, and says why.
    pub async fn lost(&self) -> Error {
        self.place.keeper().lost().await
    }

    /// Lets the next one lead.
    pub async fn resign(self) -> Result<(), Error> {
        self.place.leave().await
    }
}

#[derive(Debug)]
pub struct Observer {
    election: Election,
    watch: Option<Watch>,
    told: Option<Option<KeyValue>>,
}

impl Observer {
    /// The leader, or nothing while nobody is elected. The first answer comes at once, the others when it changes;
    /// what lasted only a moment may be left out.
    pub async fn next(&mut self) -> Result<Option<KeyValue>, Error> {
        loop {
            if let (Some(watch), Some(_)) = (&mut self.watch, &self.told) {
                match watch.next().await {
                    Ok(_) => {}
                    // A look at the line tells as much as what was missed.
                    Err(Error::Compacted(_)) => self.watch = None,
                    Err(error) => return Err(error),
                }
            }
            let name = self.election.line();
            let (places, revision) = line(&self.election.client, &name).await?;
            if self.watch.is_none() {
                let watch = self.election.client.watch(Range::prefix(&name)).from(revision + 1);
                self.watch = Some(watch.await?);
            }
            let leader = places.into_iter().next();
            if self.told.as_ref() != Some(&leader) {
                self.told = Some(leader.clone());
                return Ok(leader);
            }
        }
    }
}
