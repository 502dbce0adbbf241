//! Many keys: `/v1/kv`.
//!
//! A list comes in pages, bounded by rows and by bytes. Where one ends a token tells where the next begins, and at which
//! revision, so that all pages show one state of the store. The token is only looked at, never trusted: one that was made
//! up can ask for nothing but what a start, an end and a revision can.

use super::super::answer::{self, Answer, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::idempotency;
use super::super::member::Member;
use super::super::read::Seen;
use super::keys::picture;
use super::negotiate::Conditions;
use super::query::{Parameters, WISH};
use super::range::{ENDS, Ends};
use super::{REVISION, number, wire};
use bytes::Bytes;
use hyper::Request;
use kv::{Action, KeyRange, KeyValue, MAX_KEY_BYTES, Picture, Query, Step, Transaction};
use node::Outcome;
use storage::StorageError;

/// Rows of a page: as many as are given unless the request says how many, and as many as it may say.
pub const PAGE_ROWS: u64 = 1000;
pub const MAX_PAGE_ROWS: u64 = 10_000;
/// A page ends with the row that reaches this, as it is written. The store gives no more than that of keys and values.
pub const PAGE_BYTES: usize = kv::MAX_PAGE_BYTES;
/// A page of more rows is made beside the threads that serve connections.
const LIGHT_ROWS: u64 = 256;

pub async fn get<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    let asked = Asked::parse(request.uri().query())?;
    let Seen { view, headers } = member.see(&asked.parameters.wish()?).await?;
    let (picture, headers) = picture(&view, asked.revision, headers)?;
    let Asked { page, .. } = asked;
    let is_light = page.limit <= LIGHT_ROWS && !page.count;
    let read =
        if is_light { page.read(&picture) } else { super::read_beside(member, move || page.read(&picture)).await? };
    let mut answer = answer::json(read?);
    answer.headers_mut().extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
    Ok(answer)
}

pub async fn delete<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    let keys = ends(&Parameters::parse(request.uri().query(), &[ENDS])?).range()?.ok_or_else(|| {
        Refusal::invalid(
            "name the keys to delete by prefix, or by start and end; an empty prefix means all; nothing was changed",
        )
    })?;
    if !Conditions::of(request)?.are_none() {
        return Err(Refusal::invalid("If-Match and If-None-Match are about one key; for many use POST /v1/txn"));
    }
    let idempotency = idempotency::key_of_all(request, b"")?;
    let step = Step::Delete { keys, previous: false };
    let transaction = Transaction { success: vec![step], ..Transaction::default() };
    match super::act(Action::Transaction(transaction), idempotency, member).await? {
        Outcome::Decided { revision, changed, .. } => Ok(deleted(revision, changed)),
        other => Err(super::unexpected(&other)),
    }
}

/// The answer to whatever did nothing but to delete keys.
pub fn deleted(revision: u64, keys: u32) -> Answer {
    let mut body = Vec::with_capacity(48);
    let mut object = wire::Writer::new(&mut body);
    object.number("revision", revision);
    object.number("deleted", u64::from(keys));
    object.end();
    let mut answer = answer::json(body);
    answer.headers_mut().insert(REVISION, number(revision));
    answer
}

struct Asked<'a> {
    parameters: Parameters<'a>,
    revision: Option<u64>,
    page: Page,
}

/// Which part of a list is wanted.
struct Page {
    keys: KeyRange,
    after: Option<Bytes>,
    limit: u64,
    reverse: bool,
    keys_only: bool,
    count: bool,
    count_only: bool,
}

impl<'a> Asked<'a> {
    fn parse(query: Option<&'a str>) -> Result<Asked<'a>, Refusal> {
        let own = &["limit", "continue", "reverse", "keys_only", "count", "count_only", "revision"];
        let parameters = Parameters::parse(query, &[ENDS, own, WISH])?;
        let keys = ends(&parameters).range()?.unwrap_or_else(KeyRange::all);
        let mut revision = parameters.number("revision")?;
        let mut after = None;
        if let Some(token) = parameters.text("continue")? {
            let (of, last) = parse_token(token).filter(|(_, last)| keys.contains(last)).ok_or_else(|| {
                Refusal::invalid(
                    "continue is not what an earlier page of this list said: send it as it came, with the same keys",
                )
            })?;
            if revision.is_some_and(|revision| revision != of) {
                return Err(Refusal::invalid("continue has a revision of its own; leave the parameter revision out"));
            }
            (revision, after) = (Some(of), Some(last));
        }
        let count_only = parameters.flag("count_only")?;
        let page = Page {
            keys,
            after,
            limit: limit(parameters.number("limit")?)?,
            reverse: parameters.flag("reverse")?,
            keys_only: parameters.flag("keys_only")?,
            count: parameters.flag("count")? || count_only,
            count_only,
        };
        Ok(Asked { parameters, revision, page })
    }
}

impl Page {
    fn read(self, picture: &Picture) -> Result<Vec<u8>, StorageError> {
        let Page { keys, after, limit, reverse: descending, keys_only, count, count_only } = self;
        let mut body = Vec::with_capacity(1024);
        let mut object = wire::Writer::new(&mut body);
        object.number("revision", picture.revision());
        if count_only {
            object.array("kvs", [], |_, ()| {});
            object.flag("more", false);
            object.number("count", picture.count(&keys)?);
            object.end();
            return Ok(body);
        }
        let query = Query { keys, descending, after, limit: Some(limit), keys_only, count };
        let found = picture.query(&query)?;
        let mut room = PAGE_BYTES;
        let (rows, is_whole) = write_rows(object.field("kvs"), &found.rows, !keys_only, &mut room);
        let more = found.more || !is_whole;
        object.flag("more", more);
        if let Some((last, _)) = found.rows[..rows].last().filter(|_| more) {
            object.text("continue", &token(picture.revision(), last));
        }
        if let Some(count) = found.count {
            object.number("count", count);
        }
        object.end();
        Ok(body)
    }
}

/// Writes rows as long as there is room, and at least one. Tells how many, and whether that was all.
pub fn write_rows(
    into: &mut Vec<u8>,
    rows: &[(Bytes, KeyValue)],
    with_values: bool,
    room: &mut usize,
) -> (usize, bool) {
    let mut written = 0;
    into.push(b'[');
    for (key, found) in rows {
        if written > 0 {
            if *room == 0 {
                break;
            }
            into.push(b',');
        }
        let begin = into.len();
        wire::write_key(into, key, found, with_values);
        *room = room.saturating_sub(into.len() - begin);
        written += 1;
    }
    into.push(b']');
    (written, written == rows.len())
}

/// How many rows are wanted, within what is given.
pub fn limit(given: Option<u64>) -> Result<u64, Refusal> {
    match given.unwrap_or(PAGE_ROWS) {
        limit @ 1..=MAX_PAGE_ROWS => Ok(limit),
        other => Err(Refusal::invalid(format!(
            "limit={other} is out of range; it may be 1 to {MAX_PAGE_ROWS}, and count_only gives no rows at all"
        ))),
    }
}

fn ends(parameters: &Parameters) -> Ends {
    Ends {
        key: None,
        prefix: parameters.bytes("prefix"),
        start: parameters.bytes("start"),
        end: parameters.bytes("end"),
    }
}

/// Where the next page begins: behind this key, at this revision.
fn token(revision: u64, last: &[u8]) -> String {
    wire::token(&[&revision.to_be_bytes()[..], last].concat())
}

fn parse_token(token: &str) -> Option<(u64, Bytes)> {
    let bytes = wire::parse_token(token)?;
    let (revision, last) = bytes.split_first_chunk()?;
    let revision = u64::from_be_bytes(*revision);
    ((1..=MAX_KEY_BYTES).contains(&last.len())).then(|| (revision, Bytes::copy_from_slice(last)))
}
