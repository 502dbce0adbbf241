//! Quorate's own interface, `/v1`: on every node, whatever dialects it speaks besides.
//!
//! [`ROUTES`] is what there is; `openapi.json` describes it for users, and the tests hold the two against each other. A
//! request is a [`Call`]: the route that it takes, and what its path names. Each module has the functions of one kind of
//! thing; they parse query, headers and body, ask the cluster in its terms, and write the answer ([`wire`]).
//!
//! Errors are problems (RFC 9457, [`super::answer::Form::Problem`]): a code for programs, a sentence for people, whether
//! the same request may be sent again, and what became of it.

mod cluster;
mod compact;
mod keys;
mod leases;
mod list;
mod metrics;
mod negotiate;
mod pipeline;
mod query;
mod range;
mod snapshot;
mod transaction;
mod watch;
mod wire;

use super::answer::{self, Answer, Done, Form, Refusal};
use super::body::Input;
use super::cluster::Cluster;
use super::member::{self, Member};
use super::path;
use crate::watch::End;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use kv::{Action, IdempotencyKey, OutOfReach, ReadError};
use node::Outcome;
use query::Parameters;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::timeout;

/// What there is. The first row that fits counts.
pub const ROUTES: &[Route] = &[
    Route(Verb::Get, "/v1/kv/{key}", To::GetKey),
    Route(Verb::Put, "/v1/kv/{key}", To::PutKey),
    Route(Verb::Delete, "/v1/kv/{key}", To::DeleteKey),
    Route(Verb::Get, "/v1/kv", To::List),
    Route(Verb::Delete, "/v1/kv", To::DeleteRange),
    Route(Verb::Post, "/v1/txn", To::Transact),
    Route(Verb::Get, "/v1/leases", To::ListLeases),
    Route(Verb::Post, "/v1/leases", To::GrantLease),
    Route(Verb::Get, "/v1/leases/{id}", To::GetLease),
    Route(Verb::Delete, "/v1/leases/{id}", To::RevokeLease),
    Route(Verb::Post, "/v1/leases/{id}/keepalive", To::KeepLease),
    Route(Verb::Post, "/v1/compact", To::Compact),
    Route(Verb::Post, "/v1/pipeline", To::Pipeline),
    Route(Verb::Get, "/v1/watch", To::Watch),
    Route(Verb::Get, "/v1/snapshot", To::Snapshot),
    Route(Verb::Get, "/v1/status", To::Status),
    Route(Verb::Get, "/v1/members", To::Members),
    Route(Verb::Post, "/v1/members", To::AddMember),
    Route(Verb::Post, "/v1/members/{name}/promote", To::PromoteMember),
    Route(Verb::Delete, "/v1/members/{name}", To::RemoveMember),
    Route(Verb::Post, "/v1/leader", To::Lead),
    Route(Verb::Get, "/metrics", To::Metrics),
    Route(Verb::Get, "/livez", To::Live),
    Route(Verb::Get, "/readyz", To::Ready),
    Route(Verb::Get, "/v1/openapi.json", To::Describe),
];

/// Method, path, and where it leads. `{key}` is all of the rest of a path with its slashes, any other name in braces one
/// segment that is not empty.
#[derive(Clone, Copy, Debug)]
pub struct Route(pub Verb, pub &'static str, pub To);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// HEAD is answered as well.
    Get,
    Put,
    Post,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    GetKey,
    PutKey,
    DeleteKey,
    List,
    DeleteRange,
    Transact,
    ListLeases,
    GrantLease,
    GetLease,
    RevokeLease,
    KeepLease,
    Compact,
    Pipeline,
    Watch,
    Snapshot,
    Status,
    Members,
    AddMember,
    PromoteMember,
    RemoveMember,
    Lead,
    Metrics,
    Live,
    Ready,
    Describe,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    verb: Verb,
    to: To,
    /// What stands in the path for the name in braces, decoded.
    named: Bytes,
}

impl member::Call for Call {
    const FORM: Form = Form::Problem;

    fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        let path = request.uri().path();
        let mut allow = Vec::new();
        for &Route(verb, pattern, to) in ROUTES {
            let Some(named) = named(pattern, path) else { continue };
            if verb.takes(request.method()) {
                let named = path::decode(named).map_err(Refusal::invalid);
                return Some(named.map(|named| Call { verb, to, named: Bytes::copy_from_slice(&named) }));
            }
            allow.push(verb.names());
        }
        if !allow.is_empty() {
            return Some(Err(Refusal::method(allow.join(", "))));
        }
        let below = path.strip_prefix("/v1")?;
        let text = "nothing is at this path; GET /v1/openapi.json describes what there is below /v1";
        (below.is_empty() || below.starts_with('/')).then(|| Err(Refusal::new(StatusCode::NOT_FOUND, text)))
    }

    fn changes(&self) -> bool {
        // Whether a member votes every node can say, and a pipeline is what is in it.
        self.verb != Verb::Get && !matches!(self.to, To::PromoteMember | To::Pipeline)
    }

    fn not_the_leader() -> Refusal {
        let text = "this node is not the leader, and does not forward: ask the leader";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).coded("not_leader").to_be_retried()
    }

    async fn perform<C: Cluster>(
        self,
        request: &mut Request<Input>,
        peer: SocketAddr,
        member: &Arc<Member<C>>,
    ) -> Result<Answer, Refusal> {
        // What is rare is in a box of its own: as large as all of it together, it would be paid for by each request.
        let answer = match self.to {
            To::GetKey => keys::get(self.named, request, member).await,
            To::PutKey => keys::put(self.named, request, member).await,
            To::DeleteKey => Box::pin(keys::delete(self.named, request, member)).await,
            _ => Box::pin(self.perform_rare(request, peer, member)).await,
        };
        answer.map_err(|refusal| {
            let named = request.headers().contains_key("idempotency-key");
            if named && refusal.status() == StatusCode::GATEWAY_TIMEOUT { refusal.retryable() } else { refusal }
        })
    }
}

impl Call {
    async fn perform_rare<C: Cluster>(
        self,
        request: &mut Request<Input>,
        peer: SocketAddr,
        member: &Arc<Member<C>>,
    ) -> Result<Answer, Refusal> {
        match self.to {
            To::GetKey | To::PutKey | To::DeleteKey => unreachable!("these are not rare"),
            To::List => list::get(request, member).await,
            To::DeleteRange => list::delete(request, member).await,
            To::Transact => transaction::post(request, member).await,
            To::ListLeases => leases::list(request, member).await,
            To::GrantLease => leases::grant(request, member).await,
            To::GetLease => leases::get(&self.named, request, member).await,
            To::RevokeLease => leases::revoke(&self.named, request, member).await,
            To::KeepLease => leases::keep_alive(&self.named, request, member).await,
            To::Compact => compact::post(request, member).await,
            To::Pipeline => pipeline::post(request, peer, member),
            To::Watch => watch::get(request, member).await,
            To::Snapshot => snapshot::get(request, member).await,
            To::Status => cluster::status(request, member),
            To::Members => cluster::members(request, member),
            To::AddMember => cluster::add(request, peer, member).await,
            To::PromoteMember => cluster::promote(&self.named, request, member).await,
            To::RemoveMember => cluster::remove(&self.named, request, member).await,
            To::Lead => cluster::lead(request, member).await,
            To::Metrics => Ok(metrics::get(member)),
            To::Live => Ok(cluster::live()),
            To::Ready => Ok(cluster::ready(member).await),
            To::Describe => Parameters::parse(request.uri().query(), &[]).map(|_| answer::json(OPENAPI)),
        }
    }
}

impl Verb {
    pub fn takes(self, method: &Method) -> bool {
        match self {
            Verb::Get => *method == Method::GET || *method == Method::HEAD,
            Verb::Put => *method == Method::PUT,
            Verb::Post => *method == Method::POST,
            Verb::Delete => *method == Method::DELETE,
        }
    }

    /// The methods, as the header `Allow` lists them.
    pub fn names(self) -> &'static str {
        match self {
            Verb::Get => "GET, HEAD",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        }
    }
}

/// What stands in the path where the pattern has braces; nothing if it has none. `None`: it is another path.
pub fn named<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else { return (pattern == path).then_some("") };
    let (name, after) = rest.split_once('}')?;
    let named = path.strip_prefix(before)?.strip_suffix(after)?;
    (name == "key" || !(named.is_empty() || named.contains('/'))).then_some(named)
}

/// Does what is done less often than plain writes.
async fn act<C: Cluster>(
    action: Action,
    idempotency: Option<IdempotencyKey>,
    member: &Member<C>,
) -> Result<Outcome, Refusal> {
    let outcome = member.outcome(node::Request::Act { action, idempotency }).await;
    // Leases are all that an action may miss or find too much.
    outcome.map_err(|refusal| match refusal.status() {
        StatusCode::NOT_FOUND => refusal.coded("lease_not_found"),
        StatusCode::CONFLICT => refusal.coded("lease_exists"),
        _ => refusal,
    })
}

/// Makes a read that may go on for as long as there are keys. It waits for its turn: others may be at it.
async fn read_beside<C: Cluster, T: Send + 'static>(
    member: &Member<C>,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let turn = timeout(member.settings.request_limit, member.long_reads.clone().acquire_owned()).await;
    let Ok(Ok(permit)) = turn else {
        let text = "this node makes as many long reads as it may; try again, or ask for fewer keys at a time";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, text).to_be_retried());
    };
    let read = move || {
        let _permit = permit;
        read()
    };
    beside(read).await
}

/// Runs what may take long where it keeps no other request waiting.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a read did not come to its end");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the read did not come to its end; see the node's log")
            .done(Done::NotApplied)
    })
}

fn not_read(error: ReadError) -> Refusal {
    match error {
        ReadError::OutOfReach(why) => out_of_reach(&why),
        ReadError::Storage(error) => error.into(),
    }
}

fn out_of_reach(why: &OutOfReach) -> Refusal {
    let text = why.to_string();
    match *why {
        OutOfReach::Compacted { oldest, .. } => {
            Refusal::new(StatusCode::GONE, text).coded("compacted").with("oldest", oldest)
        }
        OutOfReach::Future { newest, .. } => Refusal::invalid(text).coded("future_revision").with("newest", newest),
    }
}

/// Why an answer that goes on and on ends here.
fn over(end: End, what_next: &str) -> Refusal {
    match end {
        End::Removed(reason) => Refusal::new(StatusCode::GONE, reason).coded("removed"),
        End::Stopping => {
            let text = format!("this node is stopping; {what_next}");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).coded("node_stopping").to_be_retried()
        }
    }
}

/// The node answers what it is asked: this is for the compiler's eyes, and for whoever breaks that.
fn unexpected(outcome: &Outcome) -> Refusal {
    tracing::error!(?outcome, "an answer to another question");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the node gave an answer to another question; see its log")
}

/// The store's revision that an answer shows or has made.
pub const REVISION: HeaderName = HeaderName::from_static("quorate-revision");

fn number(number: u64) -> HeaderValue {
    HeaderValue::from(number)
}

pub const OPENAPI: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    use super::super::map::Map;
    use super::super::member::{MAX_LONG_READS, Settings};
    use super::*;
    use std::time::Duration;
    use tokio::time::sleep;

    /// Whoever repeats such a request and goes away each time would take all the threads that there are for it.
    #[tokio::test]
    async fn a_long_read_counts_until_it_ends_though_nobody_waits_for_it() {
        let settings = Settings { request_limit: Duration::from_millis(50), ..Settings::default() };
        let member = Member::new(Map::default(), settings);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let ended = Arc::new(std::sync::Mutex::new(ended));
        for _ in 0..MAX_LONG_READS {
            let ended = ended.clone();
            let long = read_beside(&member, move || ended.lock().unwrap().recv());
            assert!(timeout(Duration::from_millis(1), long).await.is_err(), "it goes on");
        }
        let refusal = read_beside(&member, || ()).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::TOO_MANY_REQUESTS, "{}", refusal.text());
        drop(end);
        while member.long_reads.available_permits() < MAX_LONG_READS {
            sleep(Duration::from_millis(1)).await;
        }
        read_beside(&member, || ()).await.unwrap();
    }

    #[test]
    fn a_pattern_has_one_name() {
        let rows = [
            ("/v1/txn", "/v1/txn", Some("")),
            ("/v1/txn", "/v1/txn/", None),
            ("/v1/kv/{key}", "/v1/kv/a/b%2Fc", Some("a/b%2Fc")),
            ("/v1/kv/{key}", "/v1/kv/", Some("")),
            ("/v1/kv/{key}", "/v1/kv", None),
            ("/v1/leases/{id}", "/v1/leases/7", Some("7")),
            ("/v1/leases/{id}", "/v1/leases/", None),
            ("/v1/leases/{id}", "/v1/leases/7/keepalive", None),
            ("/v1/leases/{id}/keepalive", "/v1/leases/7/keepalive", Some("7")),
            ("/v1/leases/{id}/keepalive", "/v1/leases//keepalive", None),
        ];
        for (pattern, path, expected) in rows {
            assert_eq!(named(pattern, path), expected, "{pattern} {path}");
        }
    }
}
