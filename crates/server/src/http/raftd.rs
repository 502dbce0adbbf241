//! The dialect of raftd: `/db/KEY`, with values as they are. Its `/join` is in [`super::admin`].
//!
//! A key is one segment of the path, a value is a whole body, and both may be any bytes: what JSON can't carry goes in
//! and out here. A `%2F` within the segment is a slash of the key. Errors are plain sentences.
//!
//! | request | answer |
//! |---|---|
//! | `POST /db/KEY` any bytes | 200 when they are the key's value |
//! | `GET /db/KEY` | 200 and the value; nothing for a missing key, which `Quorate-Found: false` tells from an empty one |
//!
//! Not handled: deleting, for which raftd has no word; hraftd's `DELETE /key/KEY` does it where that is spoken too.

use super::answer::{self, Answer, Form, Refusal};
use super::body::Input;
use super::cluster::Cluster;
use super::limits::{check_key, check_value};
use super::member::{self, Member};
use super::read::Wish;
use super::{body, idempotency, path};
use bytes::Bytes;
use hyper::{Method, Request, StatusCode};
use kv::Operation;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Set { key: Bytes },
    Get { key: Bytes, wish: Wish },
}

impl member::Call for Call {
    const FORM: Form = Form::Text;

    fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        let below = request.uri().path().strip_prefix("/db")?;
        (below.is_empty() || below.starts_with('/')).then(|| parse(request.method(), below, request.uri().query()))
    }

    fn changes(&self) -> bool {
        matches!(self, Call::Set { .. })
    }

    /// To the letter: raftd's clients look for these words.
    fn not_the_leader() -> Refusal {
        Refusal::invalid("raft.Server: Not current leader")
    }

    async fn perform<C: Cluster>(
        self,
        request: &mut Request<Input>,
        _peer: SocketAddr,
        member: &Arc<Member<C>>,
    ) -> Result<Answer, Refusal> {
        match self {
            Call::Set { key } => {
                let value = body::read(request.body_mut()).await?;
                check_value(&value)?;
                let idempotency = idempotency::key(request, &value)?;
                member.write(vec![Operation::Put { key, value }], idempotency).await?;
                Ok(answer::empty())
            }
            Call::Get { key, wish } => {
                let found = member.read(&key, &wish).await?;
                let value = found.value.clone().unwrap_or_default();
                Ok(found.told_in(answer::raw(value)))
            }
        }
    }
}

/// `below`: what follows `/db`, from its slash.
fn parse(method: &Method, below: &str, query: Option<&str>) -> Result<Call, Refusal> {
    let key = one_key(below)?;
    match *method {
        Method::POST => Ok(Call::Set { key }),
        Method::GET | Method::HEAD => Ok(Call::Get { key, wish: Wish::parse(query)? }),
        _ => Err(Refusal::method("GET, HEAD, POST")),
    }
}

/// The key in `/KEY`. What is not one segment was no path of raftd's at all.
fn one_key(below: &str) -> Result<Bytes, Refusal> {
    let segment = below.strip_prefix('/').unwrap_or("");
    if segment.is_empty() || segment.contains('/') {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "the path must name exactly one key, as in /db/NAME; a slash within a key is written %2F",
        ));
    }
    let key = path::decode(segment).map_err(Refusal::invalid)?;
    check_key(&key)?;
    Ok(Bytes::from(key.into_owned()))
}
