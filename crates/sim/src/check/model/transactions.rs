//! What a transaction comes to, from the rules as `kv::transaction` states them, in the plainest way there is: every way
//! through it is written out, and every step is taken on a copy of all keys.

use super::{Keys, Version, key_value};
use bytes::Bytes;
use kv::{
    Compare, Decided, KeyEnd, KeyRange, KeyValue, Page, Query, Refusal, Relation, Step, StepResult, Target, Transaction,
};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// What is to become of each key: its new value and lease, or nothing.
pub type Changes = BTreeMap<Bytes, Option<(Bytes, u64)>>;

/// On these keys, with these leases, as the next revision.
pub fn carry_out(
    transaction: &Transaction,
    before: &Keys,
    leases: &BTreeSet<u64>,
    revision: u64,
) -> Result<(Decided, Changes), Refusal> {
    let steps = taken(transaction, before);
    let no_lease = |step: &&Step| matches!(step, Step::Put { lease, .. } if *lease != 0 && !leases.contains(lease));
    if steps.iter().any(no_lease) {
        return Err(Refusal::NoLease);
    }
    let mut run = Run { before, now: before.clone(), revision, changes: Changes::new() };
    let decided = run.go(transaction);
    Ok((decided, run.changes))
}

/// Whether some way through it puts a key twice, or puts and deletes it.
pub fn may_change_a_key_twice(transaction: &Transaction) -> bool {
    let clash = |one: &Step, other: &Step| match (one, other) {
        (Step::Put { key: a, .. }, Step::Put { key: b, .. }) => a == b,
        (Step::Put { key, .. }, Step::Delete { keys, .. }) | (Step::Delete { keys, .. }, Step::Put { key, .. }) => {
            is_within(keys, key)
        }
        _ => false,
    };
    ways(transaction).iter().any(|way| {
        let pairs = way.iter().enumerate().flat_map(|(at, one)| way[at + 1..].iter().map(move |other| (one, other)));
        pairs.into_iter().any(|(one, other)| clash(one, other))
    })
}

/// Every sequence of plain steps that could be taken.
fn ways(transaction: &Transaction) -> Vec<Vec<&Step>> {
    let mut all = Vec::new();
    for branch in [&transaction.success, &transaction.failure] {
        let mut of_branch: Vec<Vec<&Step>> = vec![Vec::new()];
        for step in branch {
            let next = if let Step::Transaction(inner) = step { ways(inner) } else { vec![vec![step]] };
            let longer = |way: &Vec<_>| next.iter().map(|more| [&way[..], &more[..]].concat()).collect::<Vec<_>>();
            of_branch = of_branch.iter().flat_map(longer).collect();
        }
        all.extend(of_branch);
    }
    all
}

/// The plain steps that will be taken.
fn taken<'a>(transaction: &'a Transaction, before: &Keys) -> Vec<&'a Step> {
    let steps = branch(transaction, before).1;
    let plain = |step: &'a Step| if let Step::Transaction(inner) = step { taken(inner, before) } else { vec![step] };
    steps.iter().flat_map(plain).collect()
}

fn branch<'a>(transaction: &'a Transaction, before: &Keys) -> (bool, &'a [Step]) {
    match transaction.compares.iter().all(|compare| holds(compare, before)) {
        true => (true, &transaction.success),
        false => (false, &transaction.failure),
    }
}

fn holds(compare: &Compare, before: &Keys) -> bool {
    let relates = |order: Ordering| match compare.relation {
        Relation::Equal => order == Ordering::Equal,
        Relation::NotEqual => order != Ordering::Equal,
        Relation::Less => order == Ordering::Less,
        Relation::Greater => order == Ordering::Greater,
    };
    let found: Vec<&Version> = before.iter().filter(|(key, _)| is_within(&compare.keys, key)).map(|(_, v)| v).collect();
    let numbers = |number: fn(&Version) -> u64, wanted: &u64| match found.is_empty() {
        true => relates(0.cmp(wanted)),
        false => found.iter().all(|version| relates(number(version).cmp(wanted))),
    };
    match &compare.target {
        Target::Value(wanted) => !found.is_empty() && found.iter().all(|v| relates(v.value.cmp(wanted))),
        Target::Version(wanted) => numbers(|v| v.version, wanted),
        Target::CreateRevision(wanted) => numbers(|v| v.create_revision, wanted),
        Target::ModRevision(wanted) => numbers(|v| v.mod_revision, wanted),
        Target::Lease(wanted) => numbers(|v| v.lease, wanted),
        Target::Exists(wanted) => relates((!found.is_empty()).cmp(wanted)),
    }
}

struct Run<'a> {
    before: &'a Keys,
    now: Keys,
    revision: u64,
    changes: Changes,
}

impl Run<'_> {
    fn go(&mut self, transaction: &Transaction) -> Decided {
        let (succeeded, steps) = branch(transaction, self.before);
        Decided { succeeded, results: steps.iter().map(|step| self.step(step)).collect() }
    }

    fn step(&mut self, step: &Step) -> StepResult {
        match step {
            Step::Put { key, value, lease, previous } => {
                let old = self.now.get(key).cloned();
                self.now.insert(key.clone(), Version::put(old.as_ref(), value.clone(), *lease, self.revision));
                self.changes.insert(key.clone(), Some((value.clone(), *lease)));
                StepResult::Put { previous: old.filter(|_| *previous).map(|old| key_value(&old)) }
            }
            Step::Delete { keys, previous } => {
                let gone: Vec<Bytes> = self.now.keys().filter(|key| is_within(keys, key)).cloned().collect();
                let rows: Vec<(Bytes, KeyValue)> =
                    gone.iter().map(|key| (key.clone(), key_value(&self.now[key]))).collect();
                for key in &gone {
                    self.now.remove(key);
                    self.changes.insert(key.clone(), None);
                }
                let deleted = gone.len() as u64;
                StepResult::Delete { deleted, previous: if *previous { rows } else { Vec::new() } }
            }
            Step::Range(query) => StepResult::Range(page(&self.now, query)),
            Step::Transaction(inner) => StepResult::Transaction(self.go(inner)),
        }
    }
}

/// What a query finds.
pub fn page(keys: &Keys, query: &Query) -> Page {
    let mut rows: Vec<(Bytes, KeyValue)> =
        keys.iter().filter(|(key, _)| is_within(&query.keys, key)).map(|(k, v)| (k.clone(), key_value(v))).collect();
    let count = query.count.then_some(rows.len() as u64);
    if query.descending {
        rows.reverse();
    }
    if let Some(after) = &query.after {
        rows.retain(|(key, _)| if query.descending { key < after } else { key > after });
    }
    let limit = query.limit.unwrap_or(u64::MAX);
    let more = rows.len() as u64 > limit;
    if more {
        rows.truncate(limit as usize);
    }
    if query.keys_only {
        rows.iter_mut().for_each(|(_, row)| row.value = Bytes::new());
    }
    Page { rows, more, count }
}

pub fn is_within(range: &KeyRange, key: &Bytes) -> bool {
    let before_end = match &range.end {
        KeyEnd::Single => *key == range.start,
        KeyEnd::Before(end) => key < end,
        KeyEnd::Last => true,
    };
    before_end && *key >= range.start
}
