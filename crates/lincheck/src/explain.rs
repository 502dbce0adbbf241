//! Makes a violation readable: the shortest beginning of the history that shows it, then as few of its operations as
//! still contradict each other.
//!
//! A read may always be left out, and a write when no remaining read returns what it wrote: an order of the whole is,
//! with those left out, an order of the rest. So a rest without an order convicts the whole.
//!
//! Not handled: the smallest set of all; what comes out is one of which nothing more can be left out.

use crate::search::{Found, Object, search};
use crate::{End, History, Operation, OperationId, Outcome, Violation};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Configurations each attempt to leave something out may look at; an attempt that needs more keeps it.
const ATTEMPT_BUDGET: u64 = 20_000;
const SHOWN_BYTES: usize = 60;

/// `object`, a part of `history`, is known to have no order.
pub(crate) fn explain(history: &History, object: Object) -> Violation {
    let operations: Vec<OperationId> =
        shrink(shortest_beginning(object)).operations.iter().map(|step| step.id).collect();
    let mut keys = BTreeSet::new();
    for id in &operations {
        match &history.records[id.0].operation {
            Operation::Get { key } | Operation::Put { key, .. } | Operation::Delete { key } => {
                keys.insert(key.clone());
            }
            Operation::Batch(writes) => keys.extend(writes.iter().map(|(key, _)| key.clone())),
        }
    }
    let explanation = describe(history, &operations);
    Violation { keys: keys.into_iter().collect(), operations, explanation }
}

/// A beginning of a linearizable history is linearizable, so the first that is not is found by halving.
fn shortest_beginning(object: Object) -> Object {
    let completions = object.completions();
    let (mut low, mut high) = (0, completions.len());
    let mut shortest = object.clone();
    while low < high {
        let middle = low + (high - low) / 2;
        let beginning = object.until(completions[middle]);
        if has_no_order(&beginning) {
            shortest = beginning;
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    shortest
}

/// Leaves out pieces, large ones first, while what is left still has no order (Zeller's delta debugging).
fn shrink(mut object: Object) -> Object {
    let mut piece = object.operations.len().div_ceil(2);
    loop {
        let before = object.operations.len();
        let mut from = 0;
        while from < object.operations.len() {
            let attempt = object.without(from, from + piece);
            if attempt.operations.len() < object.operations.len() && has_no_order(&attempt) {
                object = attempt;
            } else {
                from += piece;
            }
        }
        if piece > 1 {
            piece = piece.div_ceil(2);
        } else if object.operations.len() == before {
            return object;
        }
    }
}

fn has_no_order(object: &Object) -> bool {
    matches!(search(object, &mut ATTEMPT_BUDGET.clone()), Found::NoOrder)
}

fn describe(history: &History, operations: &[OperationId]) -> String {
    let mut text = match operations {
        [_] => "not linearizable: nobody can have written what this read returned".to_string(),
        _ => format!("not linearizable: no order of these {} operations explains what came back", operations.len()),
    };
    let time_width = operations.iter().map(|id| end_time(history, *id).len()).max().unwrap_or(0);
    for id in operations {
        let record = &history.records[id.0];
        let (from, to) = (record.invoked.at, end_time(history, *id));
        let _ = write!(text, "\n  [{from:>time_width$} .. {to:>time_width$}] client {}: ", record.client);
        let _ = match &record.operation {
            Operation::Get { key } => write!(text, "get {}", shown(key)),
            Operation::Put { key, value } => write!(text, "put {} = {}", shown(key), shown(value)),
            Operation::Delete { key } => write!(text, "delete {}", shown(key)),
            Operation::Batch(writes) => {
                let writes: Vec<String> = writes
                    .iter()
                    .map(|(key, value)| match value {
                        Some(value) => format!("{} = {}", shown(key), shown(value)),
                        None => format!("delete {}", shown(key)),
                    })
                    .collect();
                write!(text, "batch {}", writes.join(", "))
            }
        };
        text.push_str(&match &record.end {
            End::Completed(_, Outcome::Read(Some(value))) => format!(" -> {}", shown(value)),
            End::Completed(_, Outcome::Read(None)) => " -> nothing".to_string(),
            End::Completed(_, Outcome::Done) => " -> done".to_string(),
            End::Unknown => " -> outcome unknown".to_string(),
            End::Failed => " -> failed".to_string(),
        });
    }
    text
}

fn end_time(history: &History, id: OperationId) -> String {
    match &history.records[id.0].end {
        End::Completed(moment, _) => moment.at.to_string(),
        End::Unknown | End::Failed => "?".to_string(),
    }
}

fn shown(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN_BYTES) {
        Some(start) => format!("\"{}…\" ({} bytes)", start.escape_ascii(), bytes.len()),
        None => format!("\"{}\"", bytes.escape_ascii()),
    }
}
