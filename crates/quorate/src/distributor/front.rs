//! The distributor's own HTTP: the dialect of `/set`, `/get` and `/delete`, and the state of all shards at `/status`.
//!
//! A request's answer names its shard in a header, whether it is good or bad. What the node told in headers of its own
//! is handed on.
//!
//! Where hraftd's `GET /key/k` answers the empty value, our nodes tell in a header whether the key is missing. Others
//! don't; from them an empty value counts as a missing key.

use super::shard::{Failure, Shard};
use client::Level;
use client::hraftd::{self, Response};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use server::http::body::Input;
use server::http::distributor::{Call, Names, missing, pair, parse_pair};
use server::http::{Answer, Refusal, Service, answer, body};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub struct Distributor {
    shards: Vec<Arc<Shard>>,
    count: NonZeroU16,
    time_limit: Duration,
    idempotency_keys: IdempotencyKeys,
}

impl Service for Distributor {
    async fn answer(self: &Arc<Self>, request: &mut Request<Input>, _peer: SocketAddr) -> Result<Answer, Refusal> {
        let Some(call) = Call::parse(request) else { return self.elsewhere(request) };
        match call? {
            Call::Get { key, names, .. } => self.read(&key, names, request.uri().query()).await,
            Call::Set => {
                let (key, value) = parse_pair(&body::read(request.body_mut()).await?)?;
                self.write(&key, hraftd::Request::put(&[(&key, &value)]), request).await
            }
            Call::Delete { key } => self.write(&key, hraftd::Request::delete(&key), request).await,
        }
    }
}

impl Distributor {
    /// `count`: how many shards these are.
    pub fn new(shards: Vec<Arc<Shard>>, count: NonZeroU16, time_limit: Duration) -> Result<Distributor, String> {
        Ok(Distributor { shards, count, time_limit, idempotency_keys: IdempotencyKeys::new()? })
    }

    async fn read(&self, key: &str, names: Names, query: Option<&str>) -> Result<Answer, Refusal> {
        let mut asked = hraftd::Request::get(key, Level::Default).map_err(unsendable)?;
        if let Some(query) = passed_on(query) {
            asked = asked.with_query(&query).map_err(unsendable)?;
        }
        let shard = self.shard_of(key);
        let result = shard.send(&asked, self.time_limit).await;
        let outcome = match &result {
            Ok(response) => done(response).and_then(|()| found(key, names, response)),
            Err(Failure::Stranger(text)) => Err(stranger(text)),
            // A read that may have happened without an answer is none.
            Err(Failure::NotDone(text) | Failure::Unknown(text)) => Err(unavailable(text)),
        };
        Ok(signed(outcome, shard, result.ok()))
    }

    async fn write(
        &self,
        key: &str,
        asked: Result<hraftd::Request, hraftd::Error>,
        request: &Request<Input>,
    ) -> Result<Answer, Refusal> {
        let theirs = request.headers().get("idempotency-key").cloned();
        let idempotency_key = theirs.unwrap_or_else(|| self.idempotency_keys.next());
        let asked = asked.map_err(unsendable)?.with_idempotency_key(idempotency_key);
        let shard = self.shard_of(key);
        let result = shard.send(&asked, self.time_limit).await;
        let outcome = match &result {
            Ok(response) => done(response).map(|()| answer::empty()),
            Err(Failure::Stranger(text)) => Err(stranger(text)),
            Err(Failure::NotDone(text)) => Err(unavailable(&format!("nothing was changed: {text}"))),
            Err(Failure::Unknown(text)) => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!(
                    "the outcome is unknown, the write may or may not take effect: {text}; read the key to find out \
                     before you write again, or send the same again under the same Idempotency-Key, if it had one"
                ),
            )),
        };
        Ok(signed(outcome, shard, result.ok()))
    }

    fn shard_of(&self, key: &str) -> &Shard {
        &self.shards[usize::from(shards::shard_of(key.as_bytes(), self.count))]
    }

    fn elsewhere(&self, request: &Request<Input>) -> Result<Answer, Refusal> {
        if request.uri().path() != "/status" {
            let text = "nothing is at this path; there are /set, /get/NAME, /delete/NAME and /status";
            return Err(Refusal::new(StatusCode::NOT_FOUND, text));
        }
        match *request.method() {
            Method::GET | Method::HEAD => Ok(answer::json(status(&self.shards, self.count))),
            _ => Err(Refusal::method("GET, HEAD")),
        }
    }
}

/// Names for writes that have none, of which no two are alike, whichever distributor gave them.
struct IdempotencyKeys {
    ours: u64,
    count: AtomicU64,
}

impl IdempotencyKeys {
    fn new() -> Result<IdempotencyKeys, String> {
        let ours = getrandom::u64().map_err(|error| format!("no randomness from the system: {error}"))?;
        Ok(IdempotencyKeys { ours, count: AtomicU64::new(0) })
    }

    fn next(&self) -> HeaderValue {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("distributor-{:016x}-{number}", self.ours)).expect("visible ASCII")
    }
}

/// The query without the key's name, which is in the path when a node is asked.
fn passed_on(query: Option<&str>) -> Option<String> {
    let names_key = |pair: &&str| matches!(pair.split('=').next(), Some("clave" | "key"));
    let rest: Vec<_> = query?.split('&').filter(|pair| !names_key(pair)).collect();
    (!rest.is_empty()).then(|| rest.join("&"))
}

/// A refusal of a node's own is handed on in its words.
fn done(response: &Response) -> Result<(), Refusal> {
    if response.status.is_success() { Ok(()) } else { Err(Refusal::new(response.status, response.reason())) }
}

fn found(key: &str, names: Names, response: &Response) -> Result<Answer, Refusal> {
    let no_hraftd = |error: hraftd::Error| Refusal::new(StatusCode::BAD_GATEWAY, error.to_string());
    let value = response.value_of(key).map_err(no_hraftd)?;
    if value.is_empty() && is_missing(response) {
        return Ok(missing(key).into_answer());
    }
    Ok(pair(names, key, &value))
}

/// Whether an empty value stands for none at all. Who says nothing of it is none of our nodes.
fn is_missing(response: &Response) -> bool {
    let is_ours = response.headers.contains_key("quorate-node");
    !is_ours || response.headers.get("quorate-found").is_some_and(|found| found == "false")
}

fn signed(outcome: Result<Answer, Refusal>, shard: &Shard, response: Option<Response>) -> Answer {
    let mut answer = outcome.unwrap_or_else(Refusal::into_answer);
    let headers = answer.headers_mut();
    for (name, value) in response.iter().flat_map(|response| &response.headers) {
        if name.as_str().starts_with("quorate-") {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(SHARD, shard.number.into());
    answer
}

/// Which shard the key belongs to, from 0.
const SHARD: HeaderName = HeaderName::from_static("quorate-shard");

fn unavailable(text: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text.to_string()).to_be_retried()
}

fn stranger(text: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, format!("{text}; is that the HTTP address of a node?"))
}

fn unsendable(error: hraftd::Error) -> Refusal {
    Refusal::invalid(error.to_string())
}

fn status(shards: &[Arc<Shard>], count: NonZeroU16) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        shards: Vec<Part<'a>>,
    }
    #[derive(Serialize)]
    struct Part<'a> {
        shard: u16,
        first_slot: u16,
        last_slot: u16,
        leader: Leader<'a>,
        members: Vec<Member<'a>>,
    }
    #[derive(Default, Serialize)]
    struct Leader<'a> {
        id: &'a str,
        address: &'a str,
    }
    #[derive(Serialize)]
    struct Member<'a> {
        id: &'a str,
        address: &'a str,
        reachable: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    let views: Vec<_> = shards.iter().map(|shard| (shard.number, shard.view())).collect();
    let parts = views.iter().map(|(number, view)| {
        let slots = shards::slots_of(*number, count);
        let leader = view.leader().map(|leader| &view.nodes()[leader]);
        Part {
            shard: *number,
            first_slot: slots.start,
            last_slot: slots.end - 1,
            leader: leader.map(|node| Leader { id: &node.id, address: &node.address }).unwrap_or_default(),
            members: (view.nodes().iter())
                .map(|node| Member {
                    id: &node.id,
                    address: &node.address,
                    reachable: node.is_reachable(),
                    error: node.trouble(),
                })
                .collect(),
        }
    });
    serde_json::to_vec(&Body { shards: parts.collect() }).expect("strings are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::header::HeaderMap;

    fn told(headers: &[(&'static str, &'static str)]) -> Response {
        let pairs =
            headers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Response {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter(pairs),
            body: "{}".into(),
            address: "a:1".into(),
        }
    }

    #[test]
    fn an_empty_value_is_one_only_if_the_node_can_tell() {
        assert!(is_missing(&told(&[])), "hraftd can't");
        assert!(is_missing(&told(&[("quorate-node", "node0"), ("quorate-found", "false")])));
        assert!(!is_missing(&told(&[("quorate-node", "node0")])));
    }

    #[test]
    fn the_query_goes_on_without_the_key() {
        for (query, rest) in [
            (None, None),
            (Some("clave=a"), None),
            (Some("key=a"), None),
            (Some("level=none"), Some("level=none")),
            (Some("level=none&key=a&freshness=1s"), Some("level=none&freshness=1s")),
        ] {
            assert_eq!(passed_on(query).as_deref(), rest);
        }
    }

    #[test]
    fn no_two_idempotency_keys_are_alike() {
        let (one, other) = (IdempotencyKeys::new().unwrap(), IdempotencyKeys::new().unwrap());
        let keys: std::collections::BTreeSet<_> =
            [&one, &one, &other, &other].map(|keys| keys.next().to_str().unwrap().to_string()).into();
        assert_eq!(keys.len(), 4);
    }
}
