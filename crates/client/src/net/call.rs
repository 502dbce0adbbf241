//! One call: asks endpoint after endpoint until there is an answer, or the time is over.
//!
//! What is repeated, and why that is safe:
//!
//! | what happened | a read | a write |
//! |---|---|---|
//! | not a byte left | again | again |
//! | an answer says `retryable` and `not_applied` | again | again |
//! | no answer came, or one that says `unknown` | again | again, under the same idempotency key |
//! | any other error | told to the caller | told to the caller |
//!
//! An endpoint that failed is left alone for a while, twice as long each time and as long as its `Retry-After` says;
//! the others are asked meanwhile. If the time runs out, the error says whether any attempt may have got through.

use super::endpoint::{Answer, Failure, Message, Streamed};
use super::keys::IDEMPOTENCY_KEY;
use crate::error::{Error, Outcome, Problem};
use crate::{Client, Level};
use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// What a caller wants, before it is known who will be asked.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    message: Message,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any member answers it by itself.
    LocalRead,
    /// The leader saves a hop.
    Read,
    /// The same, and it changes something.
    Write,
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub(crate) struct Opened {
    pub streamed: Streamed,
    pub endpoint: usize,
    pub address: String,
}

/// A complete and successful answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub body: Bytes,
    pub address: String,
}

impl Ask {
    pub fn read(path: impl Into<String>, level: Level) -> Ask {
        let kind = if matches!(level, Level::None | Level::Auto) { Kind::LocalRead } else { Kind::Read };
        Ask::new(Method::GET, path.into(), kind)
    }

    pub fn write(method: Method, path: impl Into<String>) -> Ask {
        Ask::new(method, path.into(), Kind::Write)
    }

    pub fn local(path: impl Into<String>) -> Ask {
        Ask::new(Method::GET, path.into(), Kind::LocalRead)
    }

    fn new(method: Method, path: String, kind: Kind) -> Ask {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        Ask { message: Message { method, path, headers, body: Bytes::new() }, kind }
    }

    fn is_about_members(&self) -> bool {
        self.message.path.starts_with("/v1/members")
    }

    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Ask {
        self.message.headers.insert(name, value);
        self
    }

    pub fn with_body(mut self, body: Bytes) -> Ask {
        self.message.body = body;
        self
    }

    pub fn with_json(self, body: &serde_json::Value) -> Ask {
        self.with_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .with_body(Bytes::from(body.to_string()))
    }
}

impl Reply {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::unintelligible(&self.address, error))
    }
}

/// The number in a header, as it is or in the quotes of an ETag.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim_matches('"').parse().ok()
}

/// What an attempt came to.
enum Verdict<T> {
    Done(T),
    /// Ask again, this endpoint not before that time.
    Again(Again),
    Over(Error),
}

struct Again {
    problem: Problem,
    /// The attempt may have taken effect.
    is_open: bool,
    rest: Rest,
}

enum Rest {
    Usual,
    AtLeast(Duration),
    /// Not in this call.
    ForGood,
}

/// How one endpoint does in this call.
#[derive(Clone, Copy)]
struct Record {
    failures: u32,
    not_before: Option<Instant>,
    is_out: bool,
}

impl Client {
    /// The successful answer, complete.
    pub(crate) async fn call(&self, ask: Ask) -> Result<Reply, Error> {
        let judged = self.repeat(ask, |at, message, until| async move {
            let endpoint = self.fleet.endpoint(at);
            let address = endpoint.address();
            match endpoint.exchange(&message, until).await {
                Ok(answer) => {
                    self.fleet.learn(at, &answer.headers);
                    judge(address, answer, |answer| Reply { body: answer.body, address: address.to_string() })
                }
                Err(failure) => failed(address, failure),
            }
        });
        judged.await
    }

    /// The successful answer, as soon as its head is here. What follows is the caller's own matter.
    pub(crate) async fn open(&self, ask: Ask) -> Result<Opened, Error> {
        let opened = self.repeat(ask, |at, message, until| async move {
            let endpoint = self.fleet.endpoint(at);
            let address = endpoint.address();
            match endpoint.open(&message, until).await {
                Ok(streamed) if streamed.status.is_success() => {
                    self.fleet.learn(at, &streamed.headers);
                    Verdict::Done(Opened { streamed, endpoint: at, address: address.to_string() })
                }
                Ok(streamed) => match endpoint.finish(streamed, until).await {
                    Ok(answer) => judge(address, answer, |_| unreachable!("its status is an error")),
                    Err(failure) => failed(address, failure),
                },
                Err(failure) => failed(address, failure),
            }
        });
        opened.await
    }

    async fn repeat<T, F>(&self, mut ask: Ask, attempt: impl Fn(usize, Message, Instant) -> F) -> Result<T, Error>
    where
        F: Future<Output = Verdict<T>>,
    {
        let fleet = &self.fleet;
        let began = Instant::now();
        let deadline = began + self.time_limit;
        let is_write = ask.kind == Kind::Write;
        let prefers_leader = ask.kind != Kind::LocalRead;
        if is_write {
            ask.message.headers.insert(IDEMPOTENCY_KEY, fleet.keys.next());
        }
        // One that hangs must not use up the time in which another would have answered.
        let patience = if fleet.len() == 1 { self.time_limit } else { self.time_limit / 3 };
        let mut records = vec![Record { failures: 0, not_before: None, is_out: false }; fleet.len()];
        let mut may_have_happened = false;
        let mut was_reached = false;
        let mut last: Option<Problem> = None;
        loop {
            let now = Instant::now();
            let order = fleet.order(prefers_leader);
            let ready =
                order.iter().find(|&&at| !records[at].is_out && records[at].not_before.is_none_or(|t| t <= now));
            let Some(&at) = ready else {
                let next = records.iter().filter(|record| !record.is_out).filter_map(|record| record.not_before).min();
                let gives_up = if was_reached { deadline } else { deadline.min(began + self.unreachable_limit) };
                match next {
                    Some(next) if next < gives_up => sleep_until(next).await,
                    _ => return Err(given_up(last, may_have_happened)),
                }
                continue;
            };
            if now >= deadline {
                return Err(given_up(last, may_have_happened));
            }
            if prefers_leader {
                fleet.survey();
            }
            match attempt(at, ask.message.clone(), deadline.min(now + patience)).await {
                Verdict::Done(done) => {
                    fleet.works(at, prefers_leader);
                    return Ok(done);
                }
                Verdict::Over(mut error) => {
                    error.problem_mut().repeated = may_have_happened;
                    return Err(error);
                }
                Verdict::Again(Again { problem, is_open, rest }) => {
                    fleet.fails(at);
                    // A node that is no member any more can't tell whether it was this request that removed it.
                    let is_open = is_open || (problem.code == "removed" && ask.is_about_members());
                    may_have_happened |= is_open && is_write;
                    was_reached |= problem.code != "unreachable";
                    let record = &mut records[at];
                    let usual = MIN_PAUSE.saturating_mul(1 << record.failures.min(10)).min(MAX_PAUSE);
                    let pause = match rest {
                        Rest::Usual => fleet.jittered(usual),
                        // Never before, and somewhat later.
                        Rest::AtLeast(least) => least + fleet.jittered(usual),
                        Rest::ForGood => Duration::ZERO,
                    };
                    record.is_out |= matches!(rest, Rest::ForGood);
                    record.failures += 1;
                    record.not_before = Some(Instant::now() + pause);
                    last = Some(problem);
                }
            }
        }
    }
}

fn given_up(last: Option<Problem>, may_have_happened: bool) -> Error {
    let problem = last.unwrap_or_else(|| Problem::own("unreachable", "there was no time to ask anybody"));
    let error = if may_have_happened { Error::Unknown } else { Error::Unavailable };
    error(Box::new(problem))
}

fn failed<T>(address: &str, failure: Failure) -> Verdict<T> {
    let (code, is_open, detail) = match failure {
        Failure::NotSent(reason) => ("unreachable", false, format!("can't reach {address} ({reason})")),
        Failure::Unanswered(reason) => {
            ("unanswered", true, format!("{address} took the request and gave no answer ({reason})"))
        }
    };
    Verdict::Again(Again { problem: Problem::own(code, detail), is_open, rest: Rest::Usual })
}

fn judge<T>(address: &str, answer: Answer, done: impl FnOnce(Answer) -> T) -> Verdict<T> {
    if answer.status.is_success() {
        return Verdict::Done(done(answer));
    }
    let rest = retry_after(&answer.headers).map_or(Rest::Usual, Rest::AtLeast);
    let Ok(mut problem) = serde_json::from_slice::<Problem>(&answer.body) else {
        let problem = Problem { status: answer.status.as_u16(), ..Problem::unintelligible(address, answer.status) };
        // Something between us and the node may have answered, before or after it passed the request on.
        return match answer.status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Verdict::Again(Again { problem, is_open: true, rest })
            }
            _ => Verdict::Over(Error::Faulty(Box::new(problem))),
        };
    };
    problem.endpoint = address.to_string();
    problem.status = answer.status.as_u16();
    match (problem.code.as_str(), problem.outcome) {
        // Another member can do it.
        ("removed", _) => Verdict::Again(Again { problem, is_open: false, rest: Rest::ForGood }),
        (_, Outcome::NotApplied) if problem.retryable => Verdict::Again(Again { problem, is_open: false, rest }),
        ("unknown_outcome" | "internal", Outcome::Unknown) => Verdict::Again(Again { problem, is_open: true, rest }),
        (_, Outcome::Unknown) if problem.retryable => Verdict::Again(Again { problem, is_open: true, rest }),
        _ => Verdict::Over(Error::of(problem)),
    }
}

/// In seconds; the other form, a date, is never used by our servers.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
