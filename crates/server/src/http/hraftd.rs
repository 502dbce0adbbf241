//! The dialect of hraftd: `/key`, `/status` and `/join`, and `/remove` as its bigger sister rqlite spells it.
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
//! | `POST /join` `{"id":"node1","addr":"localhost:12001"}` | 200 when the node there votes |
//! | `DELETE /remove` `{"id":"node1"}` | 200 when it is no member |
//! | `GET /status` | 200 with this node's own view |
//!
//! Not handled: keys and values that are not UTF-8, which JSON can't carry; a read of one says so.

use super::answer::{self, Answer, Refusal};
use super::cluster::{Cluster, Level};
use super::{Context, body, path};
use crate::address::Address;
use crate::handle::Identity;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use kv::{IdempotencyKey, MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, Operation};
use node::{Outcome, Status};
use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request of this dialect, its path and query understood, its body not read yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Set,
    Get { key: String, level: Option<Level> },
    Delete { key: String },
    Join,
    Remove,
    Status,
}

impl Call {
    /// `None` if the path is none of this dialect's.
    pub fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        let path = request.uri().path();
        let method = request.method();
        if let Some(below) = path.strip_prefix("/key")
            && (below.is_empty() || below.starts_with('/'))
        {
            return Some(Call::parse_key(method, below, request.uri().query()));
        }
        Some(match path {
            "/status" => allow(method, &[Method::GET, Method::HEAD], "GET, HEAD", Call::Status),
            "/join" => allow(method, &[Method::POST], "POST", Call::Join),
            "/remove" => allow(method, &[Method::DELETE], "DELETE", Call::Remove),
            _ => return None,
        })
    }

    /// `below`: what follows `/key`, from its slash.
    fn parse_key(method: &Method, below: &str, query: Option<&str>) -> Result<Call, Refusal> {
        match *method {
            Method::POST => Ok(Call::Set),
            Method::DELETE => Ok(Call::Delete { key: one_key(below)? }),
            Method::GET | Method::HEAD => {
                let key = one_key(below)?;
                let level = path::parameter(query, "level").map(str::parse).transpose().map_err(Refusal::invalid)?;
                Ok(Call::Get { key, level })
            }
            _ => Err(Refusal::method("GET, HEAD, POST, DELETE")),
        }
    }

    pub async fn perform<C: Cluster>(
        self,
        request: &mut Request<Incoming>,
        peer: SocketAddr,
        context: &Context<C>,
    ) -> Result<Answer, Refusal> {
        match self {
            Call::Get { key, level } => get(key, level.unwrap_or(context.settings.read_level), context).await,
            Call::Set => {
                let body = body::read(request.body_mut()).await?;
                let idempotency = idempotency(request, &body)?;
                write(parse_pairs(&body)?, idempotency, context).await
            }
            Call::Delete { key } => {
                let idempotency = idempotency(request, b"")?;
                write(vec![Operation::Delete { key: key.into() }], idempotency, context).await
            }
            Call::Join => {
                let [name, address] = parse_fields(&body::read(request.body_mut()).await?, ["id", "addr"])?;
                let address = complete_address(address, peer.ip())?;
                done(context, node::Request::Join { name, address }).await
            }
            Call::Remove => {
                let [name] = parse_fields(&body::read(request.body_mut()).await?, ["id"])?;
                done(context, node::Request::Remove { name }).await
            }
            Call::Status => Ok(answer::json(status(&context.cluster.status(), &context.cluster.identity()))),
        }
    }
}

async fn get<C: Cluster>(key: String, level: Level, context: &Context<C>) -> Result<Answer, Refusal> {
    if level == Level::Linearizable {
        done(context, node::Request::Read).await?;
    }
    let value = context.cluster.get(key.as_bytes())?.unwrap_or_default();
    let Ok(value) = std::str::from_utf8(&value) else {
        return Err(Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "the value is not UTF-8, so JSON can't carry it; it was written through another interface, read it there",
        ));
    };
    let mut body = Vec::with_capacity(key.len() + value.len() + 16);
    body.push(b'{');
    write_text(&mut body, &key);
    body.push(b':');
    write_text(&mut body, value);
    body.push(b'}');
    Ok(answer::json(body))
}

async fn write<C: Cluster>(
    operations: Vec<Operation>,
    idempotency: Option<IdempotencyKey>,
    context: &Context<C>,
) -> Result<Answer, Refusal> {
    if operations.is_empty() {
        return Ok(answer::empty());
    }
    done(context, node::Request::Write { operations, idempotency }).await
}

/// An empty answer once the cluster has done it.
async fn done<C: Cluster>(context: &Context<C>, request: node::Request) -> Result<Answer, Refusal> {
    match context.cluster.request(request, context.settings.request_limit).await {
        Outcome::Written { .. } | Outcome::Readable | Outcome::Done => Ok(answer::empty()),
        Outcome::Failed(failure) => Err(failure.into()),
    }
}

fn status(status: &Status, identity: &Identity) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        me: Member<'a>,
        leader: Member<'a>,
        followers: Vec<Member<'a>>,
    }
    #[derive(Default, Serialize)]
    struct Member<'a> {
        id: &'a str,
        address: &'a str,
    }
    let configuration = &status.configuration;
    // While a change is under way its outcome is not sure yet: the voters are those from before.
    let voters = &configuration.voters;
    let voters = if voters.is_joint() { &voters.voters_outgoing } else { &voters.voters };
    let member = |id| configuration.members.get(&id).map(|m| Member { id: &m.name, address: &m.address });
    let body = Body {
        me: member(status.node).unwrap_or(Member { id: &identity.name, address: &identity.address }),
        leader: status.leader.and_then(member).unwrap_or_default(),
        followers: voters.iter().filter(|&&id| Some(id) != status.leader).filter_map(|&id| member(id)).collect(),
    };
    serde_json::to_vec(&body).expect("strings are always JSON")
}

fn allow(method: &Method, methods: &[Method], names: &'static str, call: Call) -> Result<Call, Refusal> {
    if methods.contains(method) { Ok(call) } else { Err(Refusal::method(names)) }
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
    let key = String::from_utf8(key.into_owned())
        .map_err(|_| Refusal::invalid("the key in the path is not UTF-8, so JSON could not carry it"))?;
    check_key(&key)?;
    Ok(key)
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.len() > MAX_KEY_BYTES {
        let bytes = key.len();
        return Err(Refusal::too_large(format!("a key of {bytes} bytes is over the limit of {MAX_KEY_BYTES} bytes")));
    }
    Ok(())
}

fn parse_pairs(body: &[u8]) -> Result<Vec<Operation>, Refusal> {
    let Object(pairs) = parse(body, r#"the body must be one JSON object of strings, as in {"key":"value"}"#)?;
    if pairs.len() > MAX_OPERATIONS {
        let count = pairs.len();
        return Err(Refusal::too_large(format!(
            "{count} keys in one request are over the limit of {MAX_OPERATIONS}; nothing was changed"
        )));
    }
    for (key, value) in &pairs {
        if key.is_empty() {
            return Err(Refusal::invalid("a key must not be empty, it could never be read back; nothing was changed"));
        }
        check_key(key)?;
        if value.len() > MAX_VALUE_BYTES {
            let bytes = value.len();
            return Err(Refusal::too_large(format!(
                "a value of {bytes} bytes is over the limit of {MAX_VALUE_BYTES} bytes; nothing was changed"
            )));
        }
    }
    let put = |(key, value): (String, String)| Operation::Put { key: key.into(), value: value.into() };
    // Of a key that comes twice the store takes the last, as JSON's users expect.
    Ok(pairs.into_iter().map(put).collect())
}

/// The values of an object that has exactly these fields, all of them strings that are not empty.
fn parse_fields<const N: usize>(body: &[u8], names: [&str; N]) -> Result<[String; N], Refusal> {
    let expected = format!("the body must be a JSON object with exactly these strings: {}", names.join(", "));
    let Object(pairs) = parse(body, &expected)?;
    let mut fields: BTreeMap<_, _> = pairs.into_iter().collect();
    let values = names.map(|name| fields.remove(name).unwrap_or_default());
    if !fields.is_empty() || values.iter().any(String::is_empty) {
        return Err(Refusal::invalid(format!("{expected}; nothing was changed")));
    }
    Ok(values)
}

fn parse(body: &[u8], expected: &str) -> Result<Object, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("{expected}; nothing was changed: {error}")))
}

/// A JSON object of strings as it came, with its duplicates. `null` in its place is an empty object, and in a
/// value's place an empty string, as it was for Go.
struct Object(Vec<(String, String)>);

struct Text(String);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_unit<E>(self) -> Result<Object, E> {
                Ok(Object(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, Text(value))) = map.next_entry::<String, Text>()? {
                    pairs.push((key, value));
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(String::new()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

fn idempotency(request: &Request<Incoming>, body: &[u8]) -> Result<Option<IdempotencyKey>, Refusal> {
    let Some(key) = request.headers().get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(Refusal::invalid(format!(
            "an Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes; nothing was changed"
        )));
    }
    let fingerprint = kv::fingerprint([request.method().as_str().as_bytes(), request.uri().path().as_bytes(), body]);
    Ok(Some(IdempotencyKey { key: Bytes::copy_from_slice(key), fingerprint }))
}

/// An address without a host (`:12001`, the bare port, or all interfaces) is at the one who asks.
fn complete_address(given: String, asker: IpAddr) -> Result<String, Refusal> {
    let wrong = |why: String| Refusal::invalid(format!("addr must be the peer address of the node that joins: {why}"));
    let address = Address::parse(&given).map_err(wrong)?;
    if address.port() == 0 {
        return Err(wrong("no node can be reached at port 0".to_string()));
    }
    if !address.is_on_all_interfaces() {
        return Ok(given);
    }
    Ok(SocketAddr::new(asker.to_canonical(), address.port()).to_string())
}

fn write_text(into: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(into, text).expect("a string is always JSON, and memory takes any bytes");
}
