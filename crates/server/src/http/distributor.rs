//! The dialect of the sharded hraftd's distributor: `/set`, `/get` and `/delete`, pair by pair.
//!
//! It was made for hands and Postman, in Spanish: a pair is a `clave` and its `valor`. Whoever says `key` and `value`
//! is answered with these. A node speaks it for its own cluster; the program `distributor` speaks it for many, with
//! what is public here.
//!
//! | request | answer |
//! |---|---|
//! | `POST /set` `{"clave":"k","valor":"v"}` | 200 when the pair is stored |
//! | `GET /get?clave=k`, `GET /get/k` | 200 `{"clave":"k","valor":"v"}`; 404 for a missing key |
//! | `DELETE /delete?clave=k`, `DELETE /delete/k` | 200, also when it was missing |
//!
//! In a query `+` is a space, as forms write it, and a plus is `%2B`; in a path it is a plus.
//!
//! Not handled: several pairs at once, for which the original has no word.

use super::answer::{self, Answer, Form, Refusal};
use super::body::Input;
use super::cluster::Cluster;
use super::limits::{check_key, check_value};
use super::member::{self, Member};
use super::read::Wish;
use super::{body, idempotency, json, path};
use hyper::{Method, Request, StatusCode};
use kv::Operation;
use std::net::SocketAddr;
use std::sync::Arc;

/// A request of this dialect; that of [`Call::Set`] has its pair in the body.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Set,
    Get { key: String, names: Names, wish: Wish },
    Delete { key: String },
}

/// What a key and a value are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    pub key: &'static str,
    pub value: &'static str,
}

pub const SPANISH: Names = Names { key: "clave", value: "valor" };
pub const ENGLISH: Names = Names { key: "key", value: "value" };

impl Call {
    /// `None` if the path is none of this dialect's.
    pub fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        let path = request.uri().path().strip_prefix('/')?;
        let (word, below) = path.split_once('/').map_or((path, None), |(word, below)| (word, Some(below)));
        let (method, query) = (request.method(), request.uri().query());
        Some(match word {
            "set" if below.is_none() => match *method {
                Method::POST => Ok(Call::Set),
                _ => Err(Refusal::method("POST")),
            },
            "get" => match *method {
                Method::GET | Method::HEAD => Call::get(below, query),
                _ => Err(Refusal::method("GET, HEAD")),
            },
            "delete" => match *method {
                Method::DELETE => one_key(below, query).map(|(key, _)| Call::Delete { key }),
                _ => Err(Refusal::method("DELETE")),
            },
            _ => return None,
        })
    }

    fn get(below: Option<&str>, query: Option<&str>) -> Result<Call, Refusal> {
        let (key, names) = one_key(below, query)?;
        Ok(Call::Get { key, names, wish: Wish::parse(query)? })
    }
}

impl member::Call for Call {
    const FORM: Form = Form::Error;

    fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        Call::parse(request)
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
            Call::Get { key, names, wish } => {
                let found = member.read(key.as_bytes(), &wish).await?;
                let answer = match &found.value {
                    Some(value) => pair(names, &key, json::text(value)?),
                    None => missing(&key).into_answer(),
                };
                return Ok(found.told_in(answer));
            }
            Call::Set => {
                let body = body::read(request.body_mut()).await?;
                let (key, value) = parse_pair(&body)?;
                let operation = Operation::Put { key: key.into(), value: value.into() };
                member.write(vec![operation], idempotency::key(request, &body)?).await?;
            }
            Call::Delete { key } => {
                // The path may not name the key, so the key goes into the fingerprint.
                let idempotency = idempotency::key(request, key.as_bytes())?;
                member.write(vec![Operation::Delete { key: key.into() }], idempotency).await?;
            }
        }
        Ok(answer::empty())
    }
}

/// The pair that the body of a [`Call::Set`] names.
pub fn parse_pair(body: &[u8]) -> Result<(String, String), Refusal> {
    const EXPECTED: &str = "the body must be a JSON object with exactly these strings: clave, valor (or key, value)";
    let json::Object(fields) = json::object(body, EXPECTED)?;
    let (mut key, mut value, mut names) = (None, None, None);
    for (name, text) in fields {
        let (place, spoken) = match name.as_str() {
            "clave" => (&mut key, SPANISH),
            "valor" => (&mut value, SPANISH),
            "key" => (&mut key, ENGLISH),
            "value" => (&mut value, ENGLISH),
            _ => return Err(Refusal::invalid(format!("{EXPECTED}; there is also {name:?}; nothing was changed"))),
        };
        if *names.get_or_insert(spoken) != spoken {
            return Err(Refusal::invalid(format!("{EXPECTED}, not a mixture of both; nothing was changed")));
        }
        *place = Some(text);
    }
    let (Some(key), Some(value)) = (key, value) else {
        return Err(Refusal::invalid(format!("{EXPECTED}; one of them is missing; nothing was changed")));
    };
    check_key(key.as_bytes())?;
    check_value(value.as_bytes())?;
    Ok((key, value))
}

/// The answer to a [`Call::Get`] that found something.
pub fn pair(names: Names, key: &str, value: &str) -> Answer {
    let mut body = Vec::with_capacity(key.len() + value.len() + 32);
    for (before, text) in [(b'{', names.key), (b':', key), (b',', names.value), (b':', value)] {
        body.push(before);
        json::write_text(&mut body, text);
    }
    body.push(b'}');
    answer::json(body)
}

/// The answer to a [`Call::Get`] that found nothing.
pub fn missing(key: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no key {key:?}"))
}

/// The key, from the path below the word or from the query, and what it is called there.
fn one_key(below: Option<&str>, query: Option<&str>) -> Result<(String, Names), Refusal> {
    let expected = || {
        Refusal::invalid(
            "name exactly one key, as in ?clave=NAME, ?key=NAME or /NAME; a slash in the path's name is written %2F",
        )
    };
    if below.is_some_and(|name| name.contains('/')) {
        return Err(expected());
    }
    let in_path = below.map(|text| (text.to_string(), SPANISH));
    let in_query = |names: Names| path::parameter(query, names.key).map(|text| (text.replace('+', " "), names));
    let mut given = [in_path, in_query(SPANISH), in_query(ENGLISH)].into_iter().flatten();
    let (Some((text, names)), None) = (given.next(), given.next()) else { return Err(expected()) };
    let key = path::decode(&text).map_err(Refusal::invalid)?;
    check_key(&key)?;
    let key = String::from_utf8(key.into_owned())
        .map_err(|_| Refusal::invalid("the key is not UTF-8, so JSON could not carry it"))?;
    Ok((key, names))
}
