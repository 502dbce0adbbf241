//! Linearizability (Herlihy and Wing, 1990), judged by `lincheck` from what clients saw.

use lincheck::{DEFAULT_BUDGET, History, Verdict};

pub enum Judgement {
    Linearizable,
    Undecided,
    Violation(String),
}

pub fn judge(history: &History) -> Judgement {
    match lincheck::check(history, DEFAULT_BUDGET) {
        Verdict::Linearizable => Judgement::Linearizable,
        Verdict::GaveUp => Judgement::Undecided,
        Verdict::Violation(violation) => Judgement::Violation(violation.to_string()),
    }
}
