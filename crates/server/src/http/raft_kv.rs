//! The dialect of raft-kv: `/keys/KEY/` and `/cluster/join/`.
//!
//! Its users' paths end with a slash. Without it raft-kv redirects; here both forms are the same. A body is read as Go
//! reads it, except that junk behind the object and a value that is no string are refused instead of half understood.
//! A node is called by its peer address.
//!
//! | request | answer |
//! |---|---|
//! | `GET /keys/KEY/` | 200 `{"value":"…"}`, a missing key has the value `""` |
//! | `POST /keys/KEY/` `{"value":"…"}` | 200 `{"value":"…"}`, which was saved; `{}` saves `""` |
//! | `POST /cluster/join/` `{"address":"10.1.0.102:4002"}` | 200 `{}` when the node there votes |
//!
//! Not handled: values that are not UTF-8, which JSON can't carry; a read of one says so.

use super::answer::{self, Answer, Form, Refusal};
use super::body::Input;
use super::cluster::Cluster;
use super::limits::{check_key, check_value};
use super::member::{self, Member};
use super::read::Wish;
use super::{body, idempotency, json, path};
use bytes::Bytes;
use hyper::{Method, Request, StatusCode};
use kv::Operation;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Set { key: Bytes },
    Get { key: Bytes, wish: Wish },
    Join,
}

impl member::Call for Call {
    const FORM: Form = Form::Code;

    fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        let (method, path) = (request.method(), request.uri().path());
        if matches!(path, "/cluster/join/" | "/cluster/join") {
            return Some(if method == Method::POST { Ok(Call::Join) } else { Err(Refusal::method("POST")) });
        }
        let below = path.strip_prefix("/keys")?;
        (below.is_empty() || below.starts_with('/')).then(|| parse(method, below, request.uri().query()))
    }

    fn changes(&self) -> bool {
        !matches!(self, Call::Get { .. })
    }

    fn not_the_leader() -> Refusal {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this node is not the leader, and does not forward: ask the leader",
        )
    }

    async fn perform<C: Cluster>(
        self,
        request: &mut Request<Input>,
        peer: SocketAddr,
        member: &Arc<Member<C>>,
    ) -> Result<Answer, Refusal> {
        match self {
            Call::Get { key, wish } => {
                let found = member.read(&key, &wish).await?;
                let value = found.value.clone().unwrap_or_default();
                let body = with_value(json::text(&value)?);
                Ok(found.told_in(answer::json(body)))
            }
            Call::Set { key } => {
                let body = body::read(request.body_mut()).await?;
                let value = json::field(&body, "value", r#"the body must be a JSON object as in {"value":"text"}"#)?;
                check_value(value.as_bytes())?;
                let saved = with_value(&value);
                let put = Operation::Put { key, value: value.into() };
                member.write(vec![put], idempotency::key(request, &body)?).await?;
                Ok(answer::json(saved))
            }
            Call::Join => {
                let body = body::read(request.body_mut()).await?;
                let expected = r#"the body must be a JSON object as in {"address":"10.1.0.102:4002"}"#;
                member.join_by_address(json::field(&body, "address", expected)?, peer.ip()).await?;
                Ok(answer::json("{}"))
            }
        }
    }
}

/// `below`: what follows `/keys`, from its slash.
fn parse(method: &Method, below: &str, query: Option<&str>) -> Result<Call, Refusal> {
    match *method {
        Method::POST => Ok(Call::Set { key: one_key(below)? }),
        Method::GET | Method::HEAD => Ok(Call::Get { key: one_key(below)?, wish: Wish::parse(query)? }),
        _ => Err(Refusal::method("GET, HEAD, POST")),
    }
}

/// The key in `/KEY/` or `/KEY`, the only segment below `/keys`. Any bytes, since no answer repeats it.
fn one_key(below: &str) -> Result<Bytes, Refusal> {
    let segment = below.strip_prefix('/').unwrap_or("");
    let segment = segment.strip_suffix('/').unwrap_or(segment);
    if segment.is_empty() || segment.contains('/') {
        return Err(Refusal::invalid(
            "the path must name exactly one key, as in /keys/NAME/; a slash within a key is written %2F",
        ));
    }
    let key = path::decode(segment).map_err(Refusal::invalid)?;
    check_key(&key)?;
    Ok(Bytes::copy_from_slice(&key))
}

fn with_value(value: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(value.len() + 16);
    body.extend_from_slice(br#"{"value":"#);
    json::write_text(&mut body, value);
    body.push(b'}');
    body
}
