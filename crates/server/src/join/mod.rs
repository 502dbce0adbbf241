//! How a node that belongs to no cluster becomes a member of one.
//!
//! Its ports are open, but the node itself does not run yet. It asks a member of the cluster to let it in ([`ask`]), or
//! waits until somebody else has asked for it. The cluster's leader then greets it, to learn the incarnation of its
//! folder, and dials it with the id that it shall have: this is the admission, from which the node remembers whose
//! member it is, and runs. Who asks remembers its incarnation before, since that is what the cluster lets in.
//!
//! Not handled: two clusters that let in the same node. The first to dial it has it.

pub mod ask;

use crate::address::{self, Address};
use crate::config::{Join, Persistence};
use crate::folder::Folder;
use crate::handle::{Handle, Identity, Phase};
use crate::peer::Admission;
use crate::start::{End, Ports, Rising, blocking};
use ask::{Candidate, Joined};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A node that has to be let in first.
pub(crate) struct Newcomer {
    pub rising: Arc<Rising>,
    /// How long a member may take to let it in.
    pub limit: Duration,
    pub http: Address,
}

impl Newcomer {
    /// A node that listens everywhere is where its connection to the member begins.
    pub async fn join_after_finding_the_address(
        self,
        join: Join,
        name: Option<String>,
        ports: Ports,
        admissions: mpsc::Receiver<Admission>,
    ) {
        let handle = self.rising.handle.clone();
        let mut me = (*handle.identity()).clone();
        let mut patience = Patience::new(join.persistence);
        let host = loop {
            match ask::local_host_towards(&join.member).await {
                Ok(host) => break host,
                Err(error) => {
                    patience.wait(format!("can't reach {} to join its cluster: {error}", join.member)).await;
                }
            }
        };
        me.address = format!("{host}:{}", port_of(&me.address));
        me.name = name.unwrap_or_else(|| me.address.clone());
        me.url = self.http.url(&me.address);
        handle.shared().identity.store(Arc::new(me));
        let mut served = JoinSet::new();
        ports.open(&mut served);
        self.join(join, admissions).await;
        while served.join_next().await.is_some() {}
    }

    /// Asks to be let in and waits for the one who does it.
    pub async fn join(self, join: Join, admissions: mpsc::Receiver<Admission>) {
        let joined = async {
            self.remember_incarnation().await?;
            let asking = async {
                tokio::select! {
                    asked = self.ask_until_answered(&join) => asked,
                    // The answer may be lost, or somebody else have asked.
                    () = self.until_it_votes() => Ok(()),
                }
            };
            tokio::try_join!(asking, self.be_admitted(admissions)).map(|_| ())
        };
        self.end_with(joined).await;
    }

    /// Waits to be let in.
    pub async fn wait(self, admissions: mpsc::Receiver<Admission>) {
        tracing::info!(
            "listening at {}; this node belongs to no cluster yet: ask a member of one to let it in",
            self.rising.handle.identity().url
        );
        self.end_with(self.be_admitted(admissions)).await;
    }

    async fn end_with(&self, entry: impl Future<Output = Result<(), String>>) {
        let over = |phase: &Phase| !matches!(phase, Phase::Joining | Phase::Waiting | Phase::Running);
        tokio::select! {
            entered = entry => match entered {
                Ok(()) => tracing::info!("serving at {}", self.rising.handle.identity().url),
                Err(why) => {
                    self.rising.ended.send_replace(Some(End::Failed(why)));
                }
            },
            _ = self.rising.handle.wait_for_phase(over) => {}
        }
    }

    /// It has to be the same after a crash.
    async fn remember_incarnation(&self) -> Result<(), String> {
        let (folder, me) = (self.rising.folder.clone(), self.rising.handle.identity());
        let stored = blocking(move || folder.introduce(&me)).await.map_err(|error| error.to_string())?;
        stored.map_err(|error| format!("can't store this node's identity: {error}"))
    }

    async fn ask_until_answered(&self, join: &Join) -> Result<(), String> {
        let handle = &self.rising.handle;
        let mut patience = Patience::new(join.persistence);
        tracing::debug!("asking {} to let this node join its cluster", join.member);
        loop {
            let me = handle.identity();
            let may_give_up = || join.persistence == Persistence::UntilRefused && handle.phase() == Phase::Joining;
            match ask_for(&me.name, &me.address, join, self.limit).await {
                Joined::Yes => return Ok(()),
                Joined::Refused(why) if may_give_up() => return Err(why),
                Joined::Refused(why) | Joined::NotYet(why) => patience.wait(why).await,
            }
        }
    }

    /// And the change of the members is complete: until then a majority of the voters from before is needed as well,
    /// and whoever this node replaces still counts as one of them.
    async fn until_it_votes(&self) {
        loop {
            let status = self.rising.handle.status();
            let configuration = &status.configuration;
            if configuration.is_voter(status.node) && !configuration.voters.is_joint() {
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn be_admitted(&self, mut admissions: mpsc::Receiver<Admission>) -> Result<(), String> {
        let Some(Admission { cluster, id, done }) = admissions.recv().await else {
            return Err("nobody can let this node in any more".into());
        };
        tracing::debug!("let in by a cluster as its member {id}");
        let rising = self.rising.clone();
        let runs = blocking(move || rising.become_member(cluster, id).and_then(|()| rising.run_node()));
        let runs = runs.await.and_then(|runs| runs).map_err(|error| error.to_string());
        // The caller may have gone; it, or another one, calls again.
        let _ = done.send(runs.clone());
        // Callers that waited meanwhile are judged by what this node has become.
        drop(admissions);
        runs
    }
}

/// Tells the cluster where a member is now, if that is somewhere else than before.
pub(crate) async fn announce(
    handle: Handle,
    folder: Arc<Folder>,
    join: Join,
    everywhere_at_port: Option<u16>,
    http: Address,
    limit: Duration,
) {
    let Some(known) = address_in_configuration(&handle).await else { return };
    let mut address = handle.identity().address.clone();
    if let Some(port) = everywhere_at_port {
        match ask::local_host_towards(&join.member).await {
            Ok(host) => address = format!("{host}:{port}"),
            Err(error) => return tracing::warn!("can't reach {} to tell it this node's address: {error}", join.member),
        }
    }
    if address::as_known(address.clone(), &handle.status().configuration).await == known {
        return;
    }
    // It stays what it is, whatever it was told when it joined.
    let join = Join { learner: stays_a_learner(&handle), ..join };
    match ask_for(&handle.identity().name, &address, &join, limit).await {
        Joined::Yes => {
            let url = http.url(&address);
            let me = Arc::new(Identity { address, url, ..(*handle.identity()).clone() });
            handle.shared().identity.store(me.clone());
            if let Ok(Err(error)) = blocking(move || folder.introduce(&me)).await {
                tracing::warn!("can't store this node's new address: {error}");
            }
        }
        Joined::Refused(why) | Joined::NotYet(why) => {
            tracing::warn!("the cluster does not know yet that this node is at {address} now, not at {known}: {why}");
        }
    }
}

async fn ask_for(name: &str, address: &str, join: &Join, limit: Duration) -> Joined {
    ask::ask(&join.member, join.words, Candidate { name, address, learner: join.learner }, limit).await
}

fn stays_a_learner(handle: &Handle) -> bool {
    let status = handle.status();
    status.configuration.stays(status.node)
}

/// Where the cluster thinks this node is. `None` if it stops before it knows.
async fn address_in_configuration(handle: &Handle) -> Option<String> {
    loop {
        let status = handle.status();
        if let Some(member) = status.configuration.members.get(&status.node) {
            return Some(member.address.clone());
        }
        if handle.phase() != Phase::Running {
            return None;
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Pauses between attempts, which say only once why they are needed.
struct Patience {
    persistence: Persistence,
    pauses: u32,
    said: String,
}

impl Patience {
    fn new(persistence: Persistence) -> Patience {
        Patience { persistence, pauses: 0, said: String::new() }
    }

    async fn wait(&mut self, why: String) {
        if self.said != why {
            tracing::warn!("{why}; trying again");
            self.said = why;
        }
        self.pauses += 1;
        sleep(match self.persistence {
            Persistence::UntilRefused => Duration::from_millis(100 << self.pauses.min(4)),
            Persistence::ForEver => Duration::from_secs(1),
        })
        .await;
    }
}

fn port_of(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |(_, port)| port)
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);
