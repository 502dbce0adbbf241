//! The endpoints that a client was given, and what it has learned of them: which works, and which leads.
//!
//! Any member takes any request, but what needs the leader saves a hop if the leader is asked at once. Who leads is
//! read from the answers as they come (`Quorate-Leader-Url`, or the names in `Quorate-Node` and `Quorate-Leader`); if
//! they do not tell, all endpoints are asked for their status, beside the calls and rarely.
//!
//! Not handled: members that were not named at the start. Their own word for their address may be of another network.

use super::endpoint::{Answer, Endpoint, Message};
use super::keys::Keys;
use base::rng::Rng;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const SURVEY_EVERY: Duration = Duration::from_secs(5);
const SURVEY_TIME_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Fleet {
    endpoints: Vec<Endpoint>,
    pub keys: Keys,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Answered last.
    current: usize,
    leader: Option<usize>,
    /// Node names, as far as they are known.
    names: Vec<Option<String>>,
    surveyed: Option<Instant>,
    rng: Rng,
}

impl Fleet {
    pub fn new(addresses: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Fleet, String> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::parse(address.as_ref().trim())?;
            if endpoints.iter().all(|other| other.address() != endpoint.address()) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err("no endpoint is known: name at least one, such as http://127.0.0.1:11000".to_string());
        }
        let keys = Keys::new()?;
        let mut rng = Rng::new(keys.seed());
        let names = vec![None; endpoints.len()];
        // Clients that begin at the same time don't all begin with the same one.
        let current = rng.below(endpoints.len() as u64) as usize;
        let state = State { current, leader: None, names, surveyed: None, rng };
        Ok(Fleet { endpoints, keys, state: Mutex::new(state) })
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn endpoint(&self, at: usize) -> &Endpoint {
        &self.endpoints[at]
    }

    /// Which endpoints to ask, the best first.
    pub fn order(&self, prefers_leader: bool) -> Vec<usize> {
        let state = self.state();
        let first = state.leader.filter(|_| prefers_leader).unwrap_or(state.current);
        let from = |start: usize| (0..self.endpoints.len()).map(move |at| (start + at) % self.endpoints.len());
        std::iter::once(first).chain(from(state.current).filter(move |&at| at != first)).collect()
    }

    /// It answered, and nothing was wrong with it.
    pub fn works(&self, at: usize, prefers_leader: bool) {
        let mut state = self.state();
        // The leader is asked for what needs it; that says nothing against the other.
        if !(prefers_leader && state.leader == Some(at)) {
            state.current = at;
        }
    }

    /// It did not answer, or could not do it.
    pub fn fails(&self, at: usize) {
        let mut state = self.state();
        state.leader = state.leader.filter(|&leader| leader != at);
        if state.current == at {
            state.current = (at + 1) % self.endpoints.len();
        }
    }

    /// What the headers of an answer tell of who is who.
    pub fn learn(&self, at: usize, headers: &HeaderMap) {
        let told = |name: &str| {
            let text = headers.get(name)?.to_str().ok()?;
            (!text.is_empty()).then(|| percent_decode_str(text).decode_utf8_lossy().into_owned())
        };
        self.place(at, told("quorate-node"), told("quorate-leader"), told("quorate-leader-url"));
    }

    fn place(&self, at: usize, name: Option<String>, leader: Option<String>, leader_url: Option<String>) {
        let mut state = self.state();
        if name.is_some() {
            state.names[at] = name;
        }
        let by_url = leader_url.and_then(|url| self.endpoints.iter().position(|endpoint| endpoint.is_at(&url)));
        let by_name = || leader.and_then(|leader| state.names.iter().position(|name| name.as_ref() == Some(&leader)));
        if let Some(leader) = by_url.or_else(by_name) {
            state.leader = Some(leader);
        }
    }

    /// Between half of `pause` and all of it, so that clients that failed together don't come back together.
    pub fn jittered(&self, pause: Duration) -> Duration {
        let us = pause.as_micros() as u64;
        Duration::from_micros(self.state().rng.between(us / 2, us))
    }

    /// Finds out who leads, in the background, if nobody knows and nobody looked lately.
    pub fn survey(self: &Arc<Fleet>) {
        {
            let mut state = self.state();
            let is_recent = state.surveyed.is_some_and(|at| at.elapsed() < SURVEY_EVERY);
            if self.endpoints.len() == 1 || state.leader.is_some() || is_recent {
                return;
            }
            state.surveyed = Some(Instant::now());
        }
        for at in 0..self.endpoints.len() {
            let fleet = self.clone();
            tokio::spawn(async move { fleet.ask_status(at).await });
        }
    }

    async fn ask_status(&self, at: usize) {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let message = Message { method: Method::GET, path: "/v1/status".to_string(), headers, body: Bytes::new() };
        let Ok(Answer { status, body, .. }) =
            self.endpoints[at].exchange(&message, Instant::now() + SURVEY_TIME_LIMIT).await
        else {
            return;
        };
        #[derive(Deserialize)]
        struct Named {
            name: String,
            url: Option<String>,
        }
        #[derive(Deserialize)]
        struct Told {
            node: Named,
            leader: Option<Named>,
        }
        if let (true, Ok(Told { node, leader })) = (status.is_success(), serde_json::from_slice(&body)) {
            let (name, url) = leader.map_or((None, None), |leader| (Some(leader.name), leader.url));
            self.place(at, Some(node.name), name, url);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Fleet {
        let fleet = Fleet::new(["a:1", "b:1", "c:1", "a:1"]).unwrap();
        fleet.state().current = 0;
        fleet
    }

    fn headers(told: &[(&'static str, &str)]) -> HeaderMap {
        told.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_needs_the_leader_goes_to_it_first() {
        let fleet = fleet();
        assert_eq!(fleet.order(true), [0, 1, 2]);
        fleet.learn(0, &headers(&[("quorate-leader-url", "http://c:1")]));
        assert_eq!((fleet.order(true), fleet.order(false)), (vec![2, 0, 1], vec![0, 1, 2]));
        fleet.works(2, true);
        assert_eq!(fleet.order(false), [0, 1, 2], "others may still be asked what any can answer");
        fleet.fails(2);
        assert_eq!(fleet.order(true), [0, 1, 2]);
        fleet.fails(0);
        assert_eq!(fleet.order(true), [1, 2, 0]);
    }

    #[test]
    fn a_leader_is_known_by_its_name_too() {
        let fleet = fleet();
        fleet.learn(0, &headers(&[("quorate-node", "n%201"), ("quorate-leader", "n2")]));
        assert_eq!(fleet.order(true), [0, 1, 2], "nobody knows yet who n2 is");
        fleet.learn(1, &headers(&[("quorate-node", "n2"), ("quorate-leader", "n 1")]));
        assert_eq!(fleet.order(true), [0, 1, 2]);
        fleet.learn(0, &headers(&[("quorate-leader", "n2")]));
        assert_eq!(fleet.order(true), [1, 0, 2]);
    }

    #[test]
    fn no_endpoint_and_a_bad_one_are_said_at_once() {
        assert!(Fleet::new(Vec::<String>::new()).unwrap_err().contains("name at least one"));
        assert!(Fleet::new(["a:1", "no address"]).unwrap_err().contains("no address"));
    }
}
