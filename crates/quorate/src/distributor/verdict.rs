//! What an answer of a node, or none, means for the request that was sent.
//!
//! | from the node | it may have happened | then |
//! |---|---|---|
//! | 2xx | | that is the answer |
//! | 400, 406, 413, 422 and their like | no | that is the answer: another node would say the same |
//! | no connection | no | try again |
//! | a connection that broke, silence | yes | try again |
//! | 500, of which hraftd does not say whether it is no leader or lost the lead half-way through | yes | try again |
//! | 502, 504 | yes | try again |
//! | 503, 410 | no | try again |
//! | 429 | no | try again, not before it wants |
//! | anything else | | it is no hraftd |

use super::view::in_short;
use client::header;
use client::hraftd::{Error, Response};
use std::time::Duration;

#[derive(Debug)]
pub enum Verdict {
    /// To be handed on, good or bad.
    Answer(Response),
    Again(Again),
    /// No hraftd would say that; the reason is in words.
    Stranger(String),
}

/// Why to try again, and when.
#[derive(Debug, PartialEq, Eq)]
pub struct Again {
    pub reason: String,
    pub may_have_happened: bool,
    /// Not before.
    pub pause: Duration,
}

pub fn judge(result: Result<Response, Error>) -> Verdict {
    let again = |reason, may_have_happened| Again { reason, may_have_happened, pause: Duration::ZERO };
    let response = match result {
        Ok(response) => response,
        Err(error @ Error::Unreachable { .. }) => return Verdict::Again(again(in_short(&error), false)),
        Err(error @ Error::Unknown { .. }) => return Verdict::Again(again(in_short(&error), true)),
        Err(error) => return Verdict::Stranger(in_short(&error)),
    };
    let said = || format!("answers with status {}: {}", response.status.as_u16(), response.reason());
    match response.status.as_u16() {
        200..300 | 400 | 406 | 408 | 411..=417 | 421..=424 | 431 => Verdict::Answer(response),
        500 | 502 | 504 => Verdict::Again(again(said(), true)),
        503 | 410 => Verdict::Again(again(said(), false)),
        429 => Verdict::Again(Again { pause: wanted_pause(&response), ..again(said(), false) }),
        _ => Verdict::Stranger(said()),
    }
}

/// `Retry-After` in seconds; a date, which no node of ours sends, counts as a moment.
fn wanted_pause(response: &Response) -> Duration {
    let seconds = response.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(Duration::ZERO, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::StatusCode;
    use client::header::{HeaderMap, RETRY_AFTER};

    fn answer(status: u16) -> Result<Response, Error> {
        let headers = match status {
            429 => HeaderMap::from_iter([(RETRY_AFTER, "2".parse().unwrap())]),
            _ => HeaderMap::new(),
        };
        let status = StatusCode::from_u16(status).unwrap();
        Ok(Response { status, headers, body: r#"{"error":"so it is"}"#.into(), address: "a:1".into() })
    }

    /// Whether it may have happened, and when to try again; `None` for what is final.
    fn again(result: Result<Response, Error>) -> Option<(bool, Duration)> {
        match judge(result) {
            Verdict::Again(Again { may_have_happened, pause, .. }) => Some((may_have_happened, pause)),
            Verdict::Answer(_) | Verdict::Stranger(_) => None,
        }
    }

    #[test]
    fn good_answers_and_refusals_for_good_are_handed_on() {
        for status in [200, 204, 400, 406, 413, 422] {
            assert!(matches!(judge(answer(status)), Verdict::Answer(_)), "{status}");
        }
    }

    #[test]
    fn what_did_not_happen_is_tried_again() {
        let unreachable = Error::Unreachable { address: "a:1".into(), reason: "connection refused".into() };
        for result in [answer(503), answer(410), Err(unreachable)] {
            assert_eq!(again(result), Some((false, Duration::ZERO)));
        }
        assert_eq!(again(answer(429)), Some((false, Duration::from_secs(2))));
    }

    #[test]
    fn what_may_have_happened_is_tried_again_and_not_forgotten() {
        let unknown = Error::Unknown { address: "a:1".into(), reason: "closed".into() };
        for result in [answer(500), answer(502), answer(504), Err(unknown)] {
            assert_eq!(again(result), Some((true, Duration::ZERO)));
        }
    }

    #[test]
    fn what_is_no_hraftd_is_named() {
        for status in [301, 401, 404, 405, 501] {
            let Verdict::Stranger(reason) = judge(answer(status)) else { panic!("{status}") };
            assert_eq!(reason, format!("answers with status {status}: so it is"));
        }
        let error = Error::Unintelligible { address: "a:1".into(), what: "no JSON".into() };
        assert!(matches!(judge(Err(error)), Verdict::Stranger(reason) if reason.contains("no JSON")));
    }
}
