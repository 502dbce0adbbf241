//! What a client was told of its action is what the log says: unless it is one that can't be, the action is there, applied after it was asked for, and
//! came to just that. (That it was applied only once is for the model to see.)
//!
//! All actions stand in one order, so this is linearizability (Herlihy and Wing, 1990) of all of them together: each took
//! effect in its entry, between question and answer.

use super::model::{Model, is_valid};
use base::Index;
use kv::{Action, Answer, Refusal};
use node::{Failure, Outcome};

/// `after`: what was applied when it was asked for. Gives the index of the entry.
pub fn in_the_log(model: &Model, action: &Action, after: Index, outcome: &Outcome) -> Result<Index, String> {
    if let Outcome::Failed(Failure::Invalid(_)) = outcome {
        // Whoever was asked saw it at once.
        let legal = || format!("{action:?} was answered with {outcome:?}, though nothing is wrong with it");
        return if is_valid(action) { Err(legal()) } else { Ok(after) };
    }
    let Some(told) = answer(outcome) else { return Err(format!("{action:?} was answered with {outcome:?}")) };
    let steps = if let Outcome::Decided { results, .. } = outcome { results.as_ref() } else { None };
    let mut equal = model.acted_after(after).iter().filter(|acted| acted.action == *action).peekable();
    if equal.peek().is_none() {
        return Err(format!("{action:?} was answered with {outcome:?}, but never applied"));
    }
    let came_to = |index, what: &dyn std::fmt::Debug| format!("entry {index} came to {what:?}");
    let mut others = Vec::new();
    for acted in equal {
        if acted.answer != told {
            others.push(came_to(acted.index, &acted.answer));
        } else if steps.is_some() && steps != acted.decided.as_ref() {
            others.push(came_to(acted.index, &acted.decided));
        } else {
            return Ok(acted.index);
        }
    }
    Err(format!("{action:?} was answered with {outcome:?}, but {}", others.join(", ")))
}

/// `None`: it says nothing of what the log says.
pub fn answer(outcome: &Outcome) -> Option<Answer> {
    Some(match *outcome {
        Outcome::Written { revision, changed } => Answer::Done { revision, changed },
        Outcome::Decided { succeeded, revision, changed, .. } => Answer::Decided { succeeded, revision, changed },
        Outcome::Granted { lease, ttl_seconds } => Answer::Granted { lease, ttl_seconds },
        Outcome::Failed(ref failure) => Answer::Refused(match failure {
            Failure::NotFound(_) => Refusal::NoLease,
            Failure::Exists(_) => Refusal::LeaseExists,
            Failure::Compacted(_) => Refusal::Compacted,
            Failure::FutureRevision(_) => Refusal::FutureRevision,
            Failure::KeyReused(_) => Refusal::KeyReused,
            Failure::Invalid(_) => Refusal::OverLimit,
            Failure::Unavailable(_) | Failure::Overloaded(_) | Failure::Unknown(_) | Failure::Removed(_) => {
                return None;
            }
        }),
        _ => return None,
    })
}
