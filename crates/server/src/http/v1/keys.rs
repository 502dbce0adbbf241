//! One key: `/v1/kv/{key}`.
//!
//! A plain write goes the short way ([`node::Request::Write`]). One that has conditions, a lease, or wants to know what was
//! there, is a transaction. What a transaction read is not remembered for whoever sends it again; here it is read once
//! more, from the revision at which it was applied, so that a retried request gets the answer of the first as long as
//! that revision can be read.

use super::super::answer::{self, Answer, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::limits::{check_key, check_value};
use super::super::member::Member;
use super::super::read::Seen;
use super::super::{body, idempotency};
use super::negotiate::{Conditions, etag, prefers};
use super::query::{Parameters, WISH};
use super::{REVISION, number, wire};
use bytes::Bytes;
use hyper::header::{ACCEPT, ETAG, HeaderName, HeaderValue, VARY};
use hyper::{Request, StatusCode};
use kv::{Action, IdempotencyKey, KeyRange, Operation, Picture, Query, Step, StepResult, Transaction, View};
use node::Outcome;

pub async fn get<C: Cluster>(key: Bytes, request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    check_key(&key)?;
    let query = Parameters::parse(request.uri().query(), &[&["revision"], WISH])?;
    let (revision, wish) = (query.number("revision")?, query.wish()?);
    let conditions = Conditions::of(request)?;
    let within = request.body().is_within_another();
    let as_json = match request.headers().contains_key(ACCEPT) {
        true => prefers(request, "application/json", "application/octet-stream"),
        false => within,
    };

    let Seen { view, headers } = member.see(&wish).await?;
    let (picture, headers) = picture(&view, revision, headers)?;
    let found = picture.get(&key)?;
    let mod_revision = found.as_ref().map(|found| found.mod_revision);
    if !conditions.let_match(mod_revision) {
        return Err(precondition_failed(mod_revision).with_headers(headers));
    }
    let Some(found) = found else {
        let key = String::from_utf8_lossy(&key);
        let text = format!("there is no key {key:?} at revision {}", picture.revision());
        return Err(Refusal::new(StatusCode::NOT_FOUND, text).coded("key_not_found").with_headers(headers));
    };
    let mut answer = if conditions.already_known(mod_revision) {
        let mut answer = answer::empty();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else if as_json {
        let mut body = Vec::with_capacity(wire::key_size_bytes(&key, &found));
        let mut object = wire::Writer::new(&mut body);
        wire::key_fields(&mut object, &key, &found, true);
        object.number("revision", picture.revision());
        object.end();
        answer::json(body)
    } else {
        answer::raw(found.value)
    };
    if within && answer.status().is_success() {
        // It has no headers there.
        return Ok(answer);
    }
    let told = answer.headers_mut();
    told.extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
    told.insert(ETAG, etag(found.mod_revision));
    told.insert(VARY, HeaderValue::from_static("accept"));
    told.insert(CREATE_REVISION, number(found.create_revision));
    told.insert(VERSION, number(found.version));
    if found.lease > 0 {
        told.insert(LEASE, number(found.lease));
    }
    Ok(answer)
}

pub async fn put<C: Cluster>(key: Bytes, request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    check_key(&key)?;
    let query = Parameters::parse(request.uri().query(), &[&["lease", "previous"]])?;
    let (lease, previous) = (query.number("lease")?.unwrap_or(0), query.flag("previous")?);
    let conditions = Conditions::of(request)?;
    let value = body::read(request.body_mut()).await?;
    check_value(&value)?;
    let idempotency = idempotency::key_of_all(request, &value)?;

    let mut body = Vec::with_capacity(64);
    let mut object = wire::Writer::new(&mut body);
    let revision = if conditions.are_none() && lease == 0 && !previous {
        let written = write(Operation::Put { key, value }, idempotency, member).await?;
        object.number("revision", written.revision);
        written.revision
    } else {
        let step = Step::Put { key: key.clone(), value, lease, previous };
        let applied = Box::pin(apply(&key, step, conditions, idempotency, member)).await?;
        object.number("revision", applied.revision);
        let was = match applied.result {
            Some(StepResult::Put { previous }) => Some(previous),
            _ => applied.view.and_then(|view| view.get(&key).ok()),
        };
        match was {
            _ if !previous => {}
            Some(Some(was)) => wire::write_key(object.field("previous"), &key, &was, true),
            Some(None) => object.null("previous"),
            None => object.flag("replayed", true),
        }
        applied.revision
    };
    object.end();
    let mut answer = answer::json(body);
    if !request.body().is_within_another() {
        answer.headers_mut().insert(REVISION, number(revision));
        answer.headers_mut().insert(ETAG, etag(revision));
    }
    Ok(answer)
}

pub async fn delete<C: Cluster>(
    key: Bytes,
    request: &mut Request<Input>,
    member: &Member<C>,
) -> Result<Answer, Refusal> {
    check_key(&key)?;
    let previous = Parameters::parse(request.uri().query(), &[&["previous"]])?.flag("previous")?;
    let conditions = Conditions::of(request)?;
    let idempotency = idempotency::key_of_all(request, b"")?;

    let mut body = Vec::with_capacity(64);
    let mut object = wire::Writer::new(&mut body);
    let revision = if conditions.are_none() && !previous {
        let written = write(Operation::Delete { key }, idempotency, member).await?;
        object.number("revision", written.revision);
        object.number("deleted", written.changed);
        written.revision
    } else {
        let step = Step::Delete { keys: KeyRange::single(key.clone()), previous };
        let applied = Box::pin(apply(&key, step, conditions, idempotency, member)).await?;
        object.number("revision", applied.revision);
        object.number("deleted", applied.changed);
        let was = match applied.result {
            Some(StepResult::Delete { previous, .. }) => Some(previous.into_iter().next().map(|(_, was)| was)),
            _ if applied.changed == 0 => Some(None),
            _ => applied.view.and_then(|view| view.get(&key).ok()),
        };
        match was {
            _ if !previous => {}
            Some(was) => object.array("previous", was, |into, was| wire::write_key(into, &key, &was, true)),
            None => object.flag("replayed", true),
        }
        applied.revision
    };
    object.end();
    let mut answer = answer::json(body);
    answer.headers_mut().insert(REVISION, number(revision));
    Ok(answer)
}

/// What a write came to.
pub struct Written {
    pub revision: u64,
    pub changed: u64,
}

/// The short way.
async fn write<C: Cluster>(
    operation: Operation,
    idempotency: Option<IdempotencyKey>,
    member: &Member<C>,
) -> Result<Written, Refusal> {
    let request = node::Request::Write { operations: vec![operation], idempotency };
    match member.outcome(request).await? {
        Outcome::Written { revision, changed } => Ok(Written { revision, changed: u64::from(changed) }),
        other => Err(super::unexpected(&other)),
    }
}

struct Applied {
    revision: u64,
    changed: u64,
    /// `None` if it is not remembered.
    result: Option<StepResult>,
    /// The state before it, where that can be read.
    view: Option<Picture>,
}

/// One step, if the conditions hold when its turn comes.
async fn apply<C: Cluster>(
    key: &Bytes,
    step: Step,
    conditions: Conditions,
    idempotency: Option<IdempotencyKey>,
    member: &Member<C>,
) -> Result<Applied, Refusal> {
    let look = Query { keys_only: true, ..Query::new(KeyRange::single(key.clone())) };
    let transaction =
        Transaction { compares: conditions.compares(key), success: vec![step], failure: vec![Step::Range(look)] };
    let outcome = super::act(Action::Transaction(transaction), idempotency, member).await?;
    let Outcome::Decided { succeeded, revision, changed, results } = outcome else {
        return Err(super::unexpected(&outcome));
    };
    let result = results.and_then(|decided| decided.results.into_iter().next());
    // What was applied is not undone by an answer that can't say all.
    let past = |revision: u64| member.cluster.view().ok().and_then(|view| view.at(revision).ok());
    if succeeded {
        let view = if result.is_none() { past(revision.saturating_sub(1)) } else { None };
        return Ok(Applied { revision, changed: u64::from(changed), result, view });
    }
    let found = match result {
        Some(StepResult::Range(page)) => page.rows.into_iter().next().map(|(_, found)| found),
        _ => past(revision).map(|then| then.get(key)).transpose()?.flatten(),
    };
    let refusal = precondition_failed(found.map(|found| found.mod_revision));
    Err(refusal.with_headers(vec![(REVISION, number(revision))]))
}

/// The state that is asked for, and the headers that tell which one it is.
pub fn picture(
    view: &View,
    revision: Option<u64>,
    mut headers: Vec<(HeaderName, HeaderValue)>,
) -> Result<(Picture, Vec<(HeaderName, HeaderValue)>), Refusal> {
    let picture = match revision.map(|revision| view.at(revision)) {
        None => Picture::clone(view),
        Some(Ok(picture)) => picture,
        Some(Err(error)) => {
            headers.push((REVISION, number(view.revision())));
            return Err(super::not_read(error).with_headers(headers));
        }
    };
    headers.push((REVISION, number(picture.revision())));
    Ok((picture, headers))
}

fn precondition_failed(found: Option<u64>) -> Refusal {
    let refusal = |text: String| Refusal::new(StatusCode::PRECONDITION_FAILED, text);
    match found {
        Some(revision) => refusal(format!(
            "the condition does not hold: the key was changed last at revision {revision}; read it, then decide again"
        ))
        .with("revision", revision),
        None => refusal("the condition does not hold: there is no such key; nothing was changed".to_string()),
    }
}

pub const CREATE_REVISION: HeaderName = HeaderName::from_static("quorate-create-revision");
/// How often the key was put since it was made.
pub const VERSION: HeaderName = HeaderName::from_static("quorate-version");
/// The lease that the key ends with.
pub const LEASE: HeaderName = HeaderName::from_static("quorate-lease");
