//! Keys that end together unless somebody keeps their lease alive: `/v1/leases`.

use super::super::answer::{self, Answer, Refusal, header_text};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::member::Member;
use super::super::read::Seen;
use super::super::{body, idempotency};
use super::list::{deleted, limit};
use super::query::{Parameters, WISH, whole_number};
use super::wire::Number;
use super::{REVISION, number, wire};
use hyper::header::{HeaderName, HeaderValue, LOCATION};
use hyper::{Request, StatusCode};
use kv::{Action, Lease, MAX_LEASE, MAX_TTL_SECONDS, View};
use node::Outcome;
use serde::Deserialize;

/// So many of a lease's keys are told.
const KEYS_TOLD: usize = 1000;

pub async fn grant<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        ttl: Number,
        #[serde(default, deserialize_with = "wire::given")]
        id: Option<Number>,
    }
    Parameters::parse(request.uri().query(), &[])?;
    let body = body::read(request.body_mut()).await?;
    let Asked { ttl: Number(ttl), id } = wire::parse(&body, r#"{"ttl":60}"#)?;
    let id = id.map(|Number(id)| id);
    if !(1..=MAX_TTL_SECONDS).contains(&ttl) {
        return Err(Refusal::invalid(format!(
            "a ttl of {ttl} is out of range; it may be 1 to {MAX_TTL_SECONDS} seconds"
        )));
    }
    if id.is_some_and(|id| !(1..=MAX_LEASE).contains(&id)) {
        return Err(Refusal::invalid(format!(
            "a lease's id may be 1 to {MAX_LEASE}; without one the store chooses it; nothing was changed"
        )));
    }
    let idempotency = idempotency::key_of_all(request, &body)?;
    let action = Action::Grant { lease: id.unwrap_or(0), ttl_seconds: ttl };
    let (id, mut answer) = granted(super::act(action, idempotency, member).await?)?;
    *answer.status_mut() = StatusCode::CREATED;
    answer.headers_mut().insert(LOCATION, header_text(&format!("/v1/leases/{id}")));
    Ok(answer)
}

/// An `Idempotency-Key` would be harmful here: of two requests that say the same each gives the lease its time.
pub async fn keep_alive<C: Cluster>(
    id: &[u8],
    request: &mut Request<Input>,
    member: &Member<C>,
) -> Result<Answer, Refusal> {
    let lease = parse_id(id)?;
    Parameters::parse(request.uri().query(), &[])?;
    Ok(granted(super::act(Action::KeepAlive { lease }, None, member).await?)?.1)
}

pub async fn revoke<C: Cluster>(
    id: &[u8],
    request: &mut Request<Input>,
    member: &Member<C>,
) -> Result<Answer, Refusal> {
    let lease = parse_id(id)?;
    Parameters::parse(request.uri().query(), &[])?;
    let idempotency = idempotency::key_of_all(request, b"")?;
    match super::act(Action::Revoke { lease }, idempotency, member).await? {
        Outcome::Written { revision, changed } => Ok(deleted(revision, changed)),
        other => Err(super::unexpected(&other)),
    }
}

pub async fn get<C: Cluster>(id: &[u8], request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    let id = parse_id(id)?;
    let wish = Parameters::parse(request.uri().query(), &[WISH])?.wish()?;
    let Seen { view, headers } = member.see(&wish).await?;
    let headers = with_revision(headers, &view);
    let missing = || {
        let text = format!("there is no lease {id}, or it has ended");
        Refusal::new(StatusCode::NOT_FOUND, text).coded("lease_not_found")
    };
    let Some(lease) = view.lease(id)? else { return Err(missing().with_headers(headers)) };
    let remaining_ms = match member.outcome(node::Request::LeaseTime { lease: id }).await? {
        Outcome::LeaseTime { remaining_ms: Some(remaining_ms) } => remaining_ms,
        Outcome::LeaseTime { remaining_ms: None } => return Err(missing().with_headers(headers)),
        other => return Err(super::unexpected(&other)),
    };

    let mut keys = view.lease_keys(id, b"");
    let told_keys = keys.by_ref().take(KEYS_TOLD).collect::<Result<Vec<_>, _>>()?;
    let more = keys.next().transpose()?.is_some();
    let mut body = Vec::with_capacity(256);
    let mut object = wire::Writer::new(&mut body);
    lease_fields(&mut object, &lease);
    let remaining = format!("{}.{:03}", remaining_ms / 1000, remaining_ms % 1000);
    object.field("remaining").extend_from_slice(remaining.as_bytes());
    object.array("keys", told_keys, |into, key| {
        let mut object = wire::Writer::new(into);
        object.bytes("key", &key);
        object.end();
    });
    object.flag("more", more);
    object.end();
    Ok(told(body, headers))
}

pub async fn list<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    let parameters = Parameters::parse(request.uri().query(), &[&["limit", "continue"], WISH])?;
    let limit = limit(parameters.number("limit")?)?;
    let after = parameters.text("continue")?.map(|token| {
        parse_token(token).ok_or_else(|| {
            Refusal::invalid("continue is not what an earlier page of this list said: send it as it came")
        })
    });
    let (after, wish) = (after.transpose()?.unwrap_or(0), parameters.wish()?);
    let Seen { view, headers } = member.see(&wish).await?;
    let headers = with_revision(headers, &view);

    let mut leases = view.leases(after);
    let page = leases.by_ref().take(usize::try_from(limit).unwrap_or(usize::MAX));
    let page = page.collect::<Result<Vec<Lease>, _>>()?;
    let more = leases.next().transpose()?.is_some();
    let last = page.last().map_or(0, |lease| lease.id);

    let mut body = Vec::with_capacity(1024);
    let mut object = wire::Writer::new(&mut body);
    object.array("leases", page, |into, lease| {
        let mut object = wire::Writer::new(into);
        lease_fields(&mut object, &lease);
        object.end();
    });
    object.flag("more", more);
    if more {
        object.text("continue", &wire::token(&last.to_be_bytes()));
    }
    object.end();
    Ok(told(body, headers))
}

fn granted(outcome: Outcome) -> Result<(u64, Answer), Refusal> {
    let Outcome::Granted { lease, ttl_seconds } = outcome else { return Err(super::unexpected(&outcome)) };
    let mut body = Vec::with_capacity(48);
    let mut object = wire::Writer::new(&mut body);
    object.number("id", lease);
    object.number("ttl", ttl_seconds);
    object.end();
    Ok((lease, answer::json(body)))
}

fn lease_fields(object: &mut wire::Writer, lease: &Lease) {
    object.number("id", lease.id);
    object.number("ttl", lease.ttl_seconds);
}

fn told(body: Vec<u8>, headers: Vec<(HeaderName, HeaderValue)>) -> Answer {
    let mut answer = answer::json(body);
    answer.headers_mut().extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
    answer
}

fn with_revision(mut headers: Vec<(HeaderName, HeaderValue)>, view: &View) -> Vec<(HeaderName, HeaderValue)> {
    headers.push((REVISION, number(view.revision())));
    headers
}

fn parse_id(id: &[u8]) -> Result<u64, Refusal> {
    whole_number(id)
        .filter(|id| *id > 0)
        .ok_or_else(|| Refusal::invalid(format!("the path must name a lease, which is a number from 1 to {MAX_LEASE}")))
}

fn parse_token(token: &str) -> Option<u64> {
    wire::parse_token(token)?.try_into().ok().map(u64::from_be_bytes)
}
