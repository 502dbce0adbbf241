//! What can go wrong, by what it means for the caller.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;

/// Sorted by consequence. Only [`Error::Unknown`] leaves open whether a write happened; after any other error of a
/// write, nothing was changed by it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request makes no sense, and never will.
    #[error("{0}")]
    Invalid(Box<Problem>),
    /// There is no such lease or member. (A key that is not there is no error.)
    #[error("{0}")]
    NotFound(Box<Problem>),
    /// There is one already.
    #[error("{0}")]
    Exists(Box<Problem>),
    /// The key is not in the state that the write asked for.
    #[error("{0}")]
    PreconditionFailed(Box<Problem>),
    /// The revision asked for is forgotten.
    #[error("{0}")]
    Compacted(Box<Problem>),
    /// The lease ended, and with it the lock, the leadership, and every key attached to it.
    #[error("{0}")]
    LeaseLost(Box<Problem>),
    /// It could not be done for now, and nothing was changed: try again later.
    #[error("nothing was changed: {0}")]
    Unavailable(Box<Problem>),
    /// It may have happened, may yet happen, or not: read before you write again.
    #[error("outcome unknown: {0}. The change may have happened, or may yet happen: read to find out")]
    Unknown(Box<Problem>),
    /// The node has a fault, or does not speak this API.
    #[error("{0}")]
    Faulty(Box<Problem>),
}

/// What is wrong, for programs in `code`, for people in `detail`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Problem {
    /// One of the API's (`unavailable`, `precondition_failed`, …) or of this client's own: `unreachable`,
    /// `unanswered`, `unintelligible`, `lease_lost`, `lock_held`.
    pub code: String,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub retryable: bool,
    #[serde(default)]
    pub outcome: Outcome,
    /// What else the server says, such as `revision` or `oldest`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// Who said so; empty if it was this client.
    #[serde(skip)]
    pub endpoint: String,
    /// An earlier attempt of the same call may have taken effect: what is not there may have been removed by it.
    #[serde(skip)]
    pub repeated: bool,
}

/// Whether the request took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Applied,
    NotApplied,
    #[default]
    Unknown,
}

impl Error {
    pub fn problem(&self) -> &Problem {
        match self {
            Error::Invalid(problem)
            | Error::NotFound(problem)
            | Error::Exists(problem)
            | Error::PreconditionFailed(problem)
            | Error::Compacted(problem)
            | Error::LeaseLost(problem)
            | Error::Unavailable(problem)
            | Error::Unknown(problem)
            | Error::Faulty(problem) => problem,
        }
    }

    pub(crate) fn problem_mut(&mut self) -> &mut Problem {
        match self {
            Error::Invalid(problem)
            | Error::NotFound(problem)
            | Error::Exists(problem)
            | Error::PreconditionFailed(problem)
            | Error::Compacted(problem)
            | Error::LeaseLost(problem)
            | Error::Unavailable(problem)
            | Error::Unknown(problem)
            | Error::Faulty(problem) => problem,
        }
    }

    pub fn code(&self) -> &str {
        &self.problem().code
    }

    /// [`Error::PreconditionFailed`]: the mod revision of what is there, if anything is.
    pub fn revision(&self) -> Option<u64> {
        self.problem().extra.get("revision")?.as_u64()
    }

    /// [`Error::Compacted`]: the oldest revision that can still be had.
    pub fn oldest(&self) -> Option<u64> {
        self.problem().extra.get("oldest")?.as_u64()
    }

    /// By what the code of a final answer means.
    pub(crate) fn of(problem: Problem) -> Error {
        let of = match problem.code.as_str() {
            "key_not_found" | "lease_not_found" | "member_not_found" => Error::NotFound,
            "lease_exists" => Error::Exists,
            "precondition_failed" => Error::PreconditionFailed,
            "compacted" => Error::Compacted,
            "removed" | "overloaded" | "unavailable" | "not_leader" | "node_stopping" => Error::Unavailable,
            "unknown_outcome" => Error::Unknown,
            _ if problem.retryable => Error::Unavailable,
            _ if problem.outcome == Outcome::Unknown && problem.status >= 500 => Error::Unknown,
            _ if (400..500).contains(&problem.status) => Error::Invalid,
            _ => Error::Faulty,
        };
        of(Box::new(problem))
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Error {
        Error::Invalid(Box::new(Problem::own("invalid", detail)))
    }

    pub(crate) fn unintelligible(endpoint: &str, what: impl fmt::Display) -> Error {
        Error::Faulty(Box::new(Problem::unintelligible(endpoint, what)))
    }
}

impl Problem {
    /// One that no server told.
    pub(crate) fn own(code: &str, detail: impl Into<String>) -> Problem {
        Problem {
            code: code.to_string(),
            status: 0,
            title: String::new(),
            detail: detail.into(),
            retryable: false,
            outcome: Outcome::NotApplied,
            extra: Map::new(),
            endpoint: String::new(),
            repeated: false,
        }
    }

    pub(crate) fn unintelligible(endpoint: &str, what: impl fmt::Display) -> Problem {
        let detail = format!("{endpoint} does not answer as Quorate's /v1 does ({what}): is that the right port?");
        Problem::own("unintelligible", detail)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = [&self.detail, &self.title, &self.code].into_iter().find(|text| !text.is_empty());
        f.write_str(text.map_or("", |text| text.as_str()).trim_end_matches('.'))?;
        if self.endpoint.is_empty() { Ok(()) } else { write!(f, " ({}, {})", self.code, self.endpoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str, status: u16, outcome: &str, retryable: bool) -> Problem {
        let json = serde_json::json!({
            "code": code, "status": status, "title": "T", "detail": "Why.", "retryable": retryable,
            "outcome": outcome, "revision": 7, "type": "about:blank",
        });
        Problem { endpoint: "n:1".to_string(), ..serde_json::from_value(json).unwrap() }
    }

    #[test]
    fn a_code_decides_what_an_error_means() {
        assert!(matches!(Error::of(problem("lease_exists", 409, "not_applied", false)), Error::Exists(_)));
        assert!(matches!(Error::of(problem("too_large", 413, "not_applied", false)), Error::Invalid(_)));
        assert!(matches!(Error::of(problem("unknown_outcome", 504, "unknown", true)), Error::Unknown(_)));
        assert!(matches!(Error::of(problem("internal", 500, "unknown", false)), Error::Unknown(_)));
        assert!(matches!(Error::of(problem("internal", 500, "not_applied", false)), Error::Faulty(_)));
        assert!(matches!(Error::of(problem("news", 503, "not_applied", true)), Error::Unavailable(_)));
        let error = Error::of(problem("precondition_failed", 412, "not_applied", false));
        assert_eq!((error.code(), error.revision(), error.oldest()), ("precondition_failed", Some(7), None));
        assert_eq!(error.to_string(), "Why (precondition_failed, n:1)");
    }

    #[test]
    fn a_problem_without_an_outcome_leaves_it_open() {
        let problem: Problem = serde_json::from_str(r#"{"code":"x"}"#).unwrap();
        assert_eq!(problem.outcome, Outcome::Unknown);
    }
}
