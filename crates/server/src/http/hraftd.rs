//! The dialect of hraftd: `/key`. Its `/join` and `/status` are in [`super::admin`].
//!
//! What hraftd's users type works unchanged. Where hraftd loses, alters or accepts what it should not, this one
//! refuses with a reason: junk after the object, bytes that are no UTF-8, the empty key, which could never be read
//! back. A `%2F` within a path segment is a slash of the key, so that every key which can be set can be read.
//!
//! | request | answer |
//! |---|---|
//! | `POST /key` `{"k1":"v1","k2":"v2"}` | 200 when all keys are set, atomically |
//! | `GET /key/k` | 200 `{"k":"v"}`, a missing key has the value `""` |
//! | `DELETE /key/k` | 200, also when it was missing |
//!
//! Not handled: keys and values that are not UTF-8, which JSON can't carry; a read of one says so.

use super::answer::{self, Answer, Form, Refusal};
use super::body::Input;
use super::cluster::Cluster;
use super::limits::{check_key, check_value};
use super::member::{self, Member};
use super::read::Wish;
use super::{body, idempotency, json, path};
use hyper::{Method, Request, StatusCode};
use kv::{MAX_OPERATIONS, Operation};
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Set,
    Get { key: String, wish: Wish },
    Delete { key: String },
}

impl member::Call for Call {
    const FORM: Form = Form::Error;

    fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        let below = request.uri().path().strip_prefix("/key")?;
        (below.is_empty() || below.starts_with('/')).then(|| parse(request.method(), below, request.uri().query()))
    }

    fn changes(&self) -> bool {
        !matches!(self, Call::Get { .. })
    }

    fn not_the_leader() -> Refusal {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "this node is not the leader, and does not forward: ask the leader",
        )
    }

    async fn perform<C: Cluster>(
        self,
        request: &mut Request<Input>,
        _peer: SocketAddr,
        member: &Arc<Member<C>>,
    ) -> Result<Answer, Refusal> {
        match self {
            Call::Get { key, wish } => return get(&key, &wish, member).await,
            Call::Set => {
                let body = body::read(request.body_mut()).await?;
                member.write(parse_pairs(&body)?, idempotency::key(request, &body)?).await?;
            }
            Call::Delete { key } => {
                let idempotency = idempotency::key(request, b"")?;
                member.write(vec![Operation::Delete { key: key.into() }], idempotency).await?;
            }
        }
        Ok(answer::empty())
    }
}

/// `below`: what follows `/key`, from its slash.
fn parse(method: &Method, below: &str, query: Option<&str>) -> Result<Call, Refusal> {
    match *method {
        Method::POST => Ok(Call::Set),
        Method::DELETE => Ok(Call::Delete { key: one_key(below)? }),
        Method::GET | Method::HEAD => Ok(Call::Get { key: one_key(below)?, wish: Wish::parse(query)? }),
        _ => Err(Refusal::method("GET, HEAD, POST, DELETE")),
    }
}

async fn get<C: Cluster>(key: &str, wish: &Wish, member: &Member<C>) -> Result<Answer, Refusal> {
    let found = member.read(key.as_bytes(), wish).await?;
    let value = found.value.clone().unwrap_or_default();
    let value = json::text(&value)?;
    let mut body = Vec::with_capacity(key.len() + value.len() + 16);
    body.push(b'{');
    json::write_text(&mut body, key);
    body.push(b':');
    json::write_text(&mut body, value);
    body.push(b'}');
    Ok(found.told_in(answer::json(body)))
}

/// The key in `/KEY`, the only segment below `/key`.
fn one_key(below: &str) -> Result<String, Refusal> {
    let segment = below.strip_prefix('/').unwrap_or("");
    if segment.is_empty() || segment.contains('/') {
        return Err(Refusal::invalid(
            "the path must name exactly one key, as in /key/NAME; a slash within a key is written %2F",
        ));
    }
    let key = path::decode(segment).map_err(Refusal::invalid)?;
    check_key(&key)?;
    String::from_utf8(key.into_owned())
        .map_err(|_| Refusal::invalid("the key in the path is not UTF-8, so JSON could not carry it"))
}

fn parse_pairs(body: &[u8]) -> Result<Vec<Operation>, Refusal> {
    let json::Object(pairs) =
        json::object(body, r#"the body must be one JSON object of strings, as in {"key":"value"}"#)?;
    if pairs.len() > MAX_OPERATIONS {
        let count = pairs.len();
        return Err(Refusal::too_large(format!(
            "{count} keys in one request are over the limit of {MAX_OPERATIONS}; nothing was changed"
        )));
    }
    for (key, value) in &pairs {
        check_key(key.as_bytes())?;
        check_value(value.as_bytes())?;
    }
    let put = |(key, value): (String, String)| Operation::Put { key: key.into(), value: value.into() };
    // Of a key that comes twice the store takes the last, as JSON's users expect.
    Ok(pairs.into_iter().map(put).collect())
}
