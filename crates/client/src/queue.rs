//! Standing in a line, of which only the first may go: what locks and elections have in common.
//!
//! Whoever comes puts a key of its own below the name of the line, attached to a lease of its own. The order is that
//! of the revisions that made the keys. Each waits for the end of the key just before its own, so that an end wakes
//! one and not all. A key vanishes when its owner leaves or its lease ends.

use crate::error::Problem;
use crate::{Client, Error, KeyValue, LeaseKeeper, Level, Range};
use bytes::Bytes;
use std::time::Duration;

const GIVE_UP_LIMIT: Duration = Duration::from_secs(2);

/// A place in the line, and the lease that it stands and falls with.
#[derive(Debug)]
pub(crate) struct Place {
    client: Client,
    keeper: LeaseKeeper,
    line: Bytes,
    key: Bytes,
    create_revision: u64,
}

impl Place {
    /// At the end of the line.
    pub async fn join(client: &Client, name: &[u8], value: Bytes, ttl: Duration) -> Result<Place, Error> {
        if name.is_empty() {
            return Err(Error::invalid("a lock or election needs a name"));
        }
        let keeper = LeaseKeeper::grant(client, ttl).await?;
        let line: Bytes = [name, b"/"].concat().into();
        let key: Bytes = [&line[..], format!("{:016x}", keeper.id()).as_bytes()].concat().into();
        let put = client.put(&key, value).lease(keeper.id()).if_absent().await;
        let create_revision = match put {
            Ok(done) => done.revision,
            Err(error) => {
                // Whatever came of the put ends with the lease.
                quietly(keeper.revoke()).await;
                return Err(error);
            }
        };
        Ok(Place { client: client.clone(), keeper, line, key, create_revision })
    }

    /// Waits until nobody stands before it.
    pub async fn wait_for_turn(&self) -> Result<(), Error> {
        tokio::select! {
            turn = self.turn() => turn,
            lost = self.keeper.lost() => Err(lost),
        }
    }

    pub async fn is_first(&self) -> Result<bool, Error> {
        Ok(self.before().await?.0.is_none())
    }

    async fn turn(&self) -> Result<(), Error> {
        loop {
            let (before, revision) = self.before().await?;
            let Some(before) = before else { return Ok(()) };
            let watch = self.client.watch(Range::key(&before.key)).from(revision + 1).only_deletes();
            let ended = async { watch.await?.next().await };
            match ended.await {
                // If what was missed is forgotten, a look at the line tells as much.
                Ok(_) | Err(Error::Compacted(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Who stands just before it, at which revision. An error if it has lost its own place.
    async fn before(&self) -> Result<(Option<KeyValue>, u64), Error> {
        let (mut line, revision) = line(&self.client, &self.line).await?;
        if !line.iter().any(|kv| kv.key == self.key && kv.create_revision == self.create_revision) {
            let detail = "its key was deleted, by the end of its lease or by somebody else";
            return Err(Error::LeaseLost(Box::new(Problem::own("lease_lost", detail))));
        }
        line.retain(|kv| kv.create_revision < self.create_revision);
        Ok((line.pop(), revision))
    }

    /// Only this place's own key can go: it is named after the lease.
    pub async fn leave(self) -> Result<(), Error> {
        self.keeper.revoke().await
    }

    /// The same after something went wrong, which is what the caller wants to hear of, and soon. If it can't be done,
    /// the end of the lease does it.
    pub async fn give_up(self) {
        quietly(self.leave()).await;
    }

    pub fn keeper(&self) -> &LeaseKeeper {
        &self.keeper
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn key(&self) -> &Bytes {
        &self.key
    }

    pub fn create_revision(&self) -> u64 {
        self.create_revision
    }
}

async fn quietly(work: impl Future<Output = Result<(), Error>>) {
    let _ = tokio::time::timeout(GIVE_UP_LIMIT, work).await;
}

/// All who stand in the line, the first one first, and the revision at which they do.
pub(crate) async fn line(client: &Client, line: &[u8]) -> Result<(Vec<KeyValue>, u64), Error> {
    // Whatever the client reads with: who holds a lock is no matter of taste.
    let client = client.with_level(Level::Linearizable);
    let (mut kvs, revision) = client.list(Range::prefix(line)).all().await?;
    // The key of a lease: others may keep keys below the name, too.
    let is_place = |key: &[u8]| key.len() == line.len() + 16 && key[line.len()..].iter().all(u8::is_ascii_hexdigit);
    kvs.retain(|kv| is_place(&kv.key) && kv.lease != 0);
    kvs.sort_by_key(|kv| kv.create_revision);
    Ok((kvs, revision))
}
