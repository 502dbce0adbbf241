//! A member of a cluster as clients see it: the dialects that it speaks, and what all of them do alike.
//!
//! A dialect is a module with a [`Call`]: a request that it understood. Which paths belong to which dialect is the
//! dialects' own affair; no two claim the same. Administration ([`admin`]) is the same whatever is spoken besides.
//!
//! A change goes to the leader from any member. Where forwarding is turned off, members that do not lead refuse it as
//! the programs of old did, each dialect in its own words, and a header tells who leads.

use super::answer::{Answer, Form, Refusal, header_text};
use super::body::Input;
use super::cluster::Cluster;
use super::{Level, Service, admin, class, distributor, hraftd, raft_kv, raftd, v1};
use crate::handle::Handle;
use crate::metrics::Class;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use kv::Operation;
use node::{Outcome, Role};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle as Runtime;
use tokio::sync::Semaphore;

#[derive(Clone, Debug)]
pub struct Settings {
    /// For reads that do not say which level they want.
    pub read_level: Level,
    /// How long a request may wait for its outcome.
    pub request_limit: Duration,
    /// Whether a member that does not lead takes changes and hands them to the one that does.
    pub forward: bool,
    pub dialects: Vec<Dialect>,
    /// Conditions and steps of one transaction, those of nested ones included.
    pub max_transaction_operations: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            read_level: Level::default(),
            request_limit: Duration::from_secs(10),
            forward: true,
            dialects: Dialect::ALL.to_vec(),
            max_transaction_operations: 128,
        }
    }
}

/// Whose HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Hraftd,
    Raftd,
    RaftKv,
    Distributor,
}

impl Dialect {
    pub const ALL: [Dialect; 4] = [Dialect::Hraftd, Dialect::Raftd, Dialect::RaftKv, Dialect::Distributor];
    pub const NAMES: &str = "hraftd, raftd, raft-kv or distributor";

    /// What there is to ask for, in the words of an error.
    fn paths(self) -> &'static str {
        match self {
            Dialect::Hraftd => "/key, /key/NAME",
            Dialect::Raftd => "/db/NAME",
            Dialect::RaftKv => "/keys/NAME/, /cluster/join/",
            Dialect::Distributor => "/set, /get/NAME, /delete/NAME",
        }
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Dialect, String> {
        let found = Dialect::ALL.into_iter().find(|dialect| dialect.to_string() == text);
        found.ok_or_else(|| format!("there is no dialect {text:?}; it may be {}", Dialect::NAMES))
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Hraftd => "hraftd",
            Dialect::Raftd => "raftd",
            Dialect::RaftKv => "raft-kv",
            Dialect::Distributor => "distributor",
        })
    }
}

/// A request that a dialect understood: its path and query, its body not read yet.
pub trait Call: Sized + Send {
    /// What the dialect's errors look like.
    const FORM: Form;

    /// `None` if the path is none of this dialect's.
    fn parse<B>(request: &Request<B>) -> Option<Result<Self, Refusal>>;

    /// Whether only the leader can do it.
    fn changes(&self) -> bool;

    /// What a member that does not lead answers to a change if it may not forward it.
    fn not_the_leader() -> Refusal;

    fn perform<C: Cluster>(
        self,
        request: &mut Request<Input>,
        peer: SocketAddr,
        member: &Arc<Member<C>>,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send;
}

/// The service of one node.
pub struct Member<C = Handle> {
    pub(super) cluster: C,
    pub(super) settings: Settings,
    /// A backup that is being sent keeps what it has to send, whatever becomes of it meanwhile.
    pub(super) backups: Arc<Semaphore>,
    /// A read that takes long goes on when nobody waits for it any more, on a thread that others need too.
    pub(super) long_reads: Arc<Semaphore>,
}

impl<C: Cluster> Service for Member<C> {
    async fn answer(self: &Arc<Self>, request: &mut Request<Input>, peer: SocketAddr) -> Result<Answer, Refusal> {
        let (began, class) = (Instant::now(), class::of(request.method(), request.uri().path()));
        let answer = self.answer_in_its_dialect(request, peer).await;
        self.count(class, &answer, began);
        answer
    }

    fn leisure(&self) -> Option<Runtime> {
        self.cluster.hub().leisure()
    }
}

impl<C: Cluster> Member<C> {
    async fn answer_in_its_dialect(
        self: &Arc<Self>,
        request: &mut Request<Input>,
        peer: SocketAddr,
    ) -> Result<Answer, Refusal> {
        for dialect in &self.settings.dialects {
            let answer = match dialect {
                Dialect::Hraftd => self.speak::<hraftd::Call>(request, peer).await,
                Dialect::Raftd => self.speak::<raftd::Call>(request, peer).await,
                Dialect::RaftKv => self.speak::<raft_kv::Call>(request, peer).await,
                Dialect::Distributor => self.speak::<distributor::Call>(request, peer).await,
            };
            if let Some(answer) = answer {
                return answer;
            }
        }
        if let Some(answer) = self.speak::<admin::Call>(request, peer).await {
            return answer;
        }
        // In a box, so that what a connection keeps for the others' requests stays small.
        if let Some(answer) = Box::pin(self.speak::<v1::Call>(request, peer)).await {
            return answer;
        }
        let paths: Vec<_> = self.settings.dialects.iter().map(|dialect| dialect.paths()).collect();
        let text = format!(
            "nothing is at this path; there are {}, /v1 (which /v1/openapi.json describes), /status, /join and /remove",
            paths.join(", ")
        );
        Err(Refusal::new(StatusCode::NOT_FOUND, text))
    }
}

impl<C: Cluster> Member<C> {
    pub fn new(cluster: C, settings: Settings) -> Member<C> {
        let (backups, long_reads) = (Semaphore::new(MAX_BACKUPS), Semaphore::new(MAX_LONG_READS));
        Member { cluster, settings, backups: Arc::new(backups), long_reads: Arc::new(long_reads) }
    }

    async fn speak<D: Call>(
        self: &Arc<Self>,
        request: &mut Request<Input>,
        peer: SocketAddr,
    ) -> Option<Result<Answer, Refusal>> {
        let answer = match D::parse(request)? {
            Ok(call) => self.carry_out(call, request, peer).await,
            Err(refusal) => Err(refusal),
        };
        Some(answer.map_err(|refusal| refusal.in_form(D::FORM)))
    }

    async fn carry_out<D: Call>(
        self: &Arc<Self>,
        call: D,
        request: &mut Request<Input>,
        peer: SocketAddr,
    ) -> Result<Answer, Refusal> {
        if call.changes() && !self.takes_changes() {
            return Err(self.point_to_leader(D::not_the_leader()));
        }
        call.perform(request, peer, self).await
    }

    /// A request that came in the body of another one, and is understood already.
    pub(super) async fn answer_within<D: Call>(
        self: &Arc<Self>,
        call: D,
        mut request: Box<Request<Input>>,
        peer: SocketAddr,
    ) -> Answer {
        let (began, class) = (Instant::now(), class::of(request.method(), request.uri().path()));
        let answer = self.carry_out(call, &mut request, peer).await.map_err(|refusal| refusal.in_form(D::FORM));
        self.count(class, &answer, began);
        answer.unwrap_or_else(Refusal::into_answer)
    }

    fn count(&self, class: Class, answer: &Result<Answer, Refusal>, began: Instant) {
        let status = answer.as_ref().map_or_else(Refusal::status, |answer| answer.status());
        self.cluster.metrics().http.note(class, status.as_u16(), began.elapsed());
    }

    /// Applied atomically. Nothing at all is done for no operations.
    pub(super) async fn write(
        &self,
        operations: Vec<Operation>,
        idempotency: Option<kv::IdempotencyKey>,
    ) -> Result<(), Refusal> {
        if operations.is_empty() {
            return Ok(());
        }
        self.ask(node::Request::Write { operations, idempotency }, self.settings.request_limit).await
    }

    /// Returns once the cluster has done it.
    pub(super) async fn ask(&self, request: node::Request, limit: Duration) -> Result<(), Refusal> {
        self.outcome_within(request, limit).await.map(drop)
    }

    /// The same, and tells what came of it.
    pub(super) async fn outcome(&self, request: node::Request) -> Result<Outcome, Refusal> {
        self.outcome_within(request, self.settings.request_limit).await
    }

    async fn outcome_within(&self, request: node::Request, limit: Duration) -> Result<Outcome, Refusal> {
        // In a box: every future on the way here would have it in it twice.
        match Box::pin(self.cluster.request(request, limit)).await {
            Outcome::Failed(failure) => Err(failure.into()),
            outcome => Ok(outcome),
        }
    }

    fn takes_changes(&self) -> bool {
        self.settings.forward || self.cluster.status().role == Role::Leader
    }

    fn point_to_leader(&self, refusal: Refusal) -> Refusal {
        let Some(leader) = self.cluster.leader() else { return refusal };
        let mut headers: Vec<(HeaderName, HeaderValue)> =
            vec![(LEADER, header_text(&leader.name)), (LEADER_ADDRESS, header_text(&leader.address))];
        headers.extend(leader.url.map(|url| (LEADER_URL, header_text(&url))));
        refusal.with_headers(headers)
    }
}

pub const LEADER: HeaderName = HeaderName::from_static("quorate-leader");
/// Where its peers reach it.
pub const LEADER_ADDRESS: HeaderName = HeaderName::from_static("quorate-leader-address");
/// Where its clients reach it.
pub const LEADER_URL: HeaderName = HeaderName::from_static("quorate-leader-url");

/// So many may be sent at a time.
const MAX_BACKUPS: usize = 2;
/// So many may be made at a time: enough to keep a disk busy, and few of the threads that there are for such work.
pub const MAX_LONG_READS: usize = 32;
