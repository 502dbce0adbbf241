//! Transactions: conditions on what is there, and what to do if all of them hold, or if not.
//!
//! Every condition is judged before anything is done, those of nested transactions too, so it is the state before the
//! transaction that decides. What is then done is one change of one revision, and reads see what was written before
//! them in the same transaction. A key can be put once in one way through the transaction, and not be deleted as well:
//! that would be two changes of one key in one revision. The two branches of a transaction are different ways.
//!
//! Semantics are etcd's, but for [`Target::Exists`], which etcd's users write as a version above 0, and for reads,
//! whose size is bounded ([`MAX_TRANSACTION_ROWS`], [`MAX_TRANSACTION_BYTES`]).
//!
//! Not handled: reads at past revisions within a transaction.

use crate::command::{MAX_KEY_BYTES, MAX_VALUE_BYTES, OverLimit};
use crate::range::{KeyEnd, KeyRange, Query};
use crate::view::{KeyValue, Page};
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;

/// Transactions within transactions, the outermost included.
pub const MAX_TRANSACTION_DEPTH: usize = 8;
/// Conditions and steps, nested ones included. Servers may allow less.
pub const MAX_TRANSACTION_OPERATIONS: usize = 2048;
/// What the ranges of one transaction give together; the rest is to be read by other means, at its revision. Of rows that reach
/// [`crate::MAX_PAGE_BYTES`] together before, each range still gives one. A single key is always given.
pub const MAX_TRANSACTION_ROWS: u64 = 10_000;
/// What is given of what deletes took ends with the row that reaches this, single keys that are read included. Nobody should put
/// so much into one answer, or think that it is all.
pub const MAX_TRANSACTION_BYTES: usize = 32 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold; none at all do.
    pub compares: Vec<Compare>,
    pub success: Vec<Step>,
    pub failure: Vec<Step>,
}

/// Holds if it does for every key of the range. A range without any key is judged as one key that is not there: it has
/// version 0, revisions 0 and lease 0, and no value, so that every comparison of its value fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub keys: KeyRange,
    pub relation: Relation,
    pub target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Less,
    Greater,
}

/// What is found is on the left of the [`Relation`], what is given here on the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Value(Bytes),
    Version(u64),
    CreateRevision(u64),
    ModRevision(u64),
    Lease(u64),
    /// Whether there is any key in the range. A key that is there is more than one that is not.
    Exists(bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Put {
        key: Bytes,
        value: Bytes,
        /// 0: none.
        lease: u64,
        /// Whether to tell what was there before.
        previous: bool,
    },
    Delete {
        keys: KeyRange,
        previous: bool,
    },
    /// Also how one key is got.
    Range(Query),
    Transaction(Transaction),
}

/// What came of a transaction, step by step. Only the first node that applies it for somebody who asked knows that; a
/// request that is sent again is told no more than [`crate::Answer::Decided`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    pub succeeded: bool,
    /// In the order of the branch's steps.
    pub results: Vec<StepResult>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepResult {
    Put {
        previous: Option<KeyValue>,
    },
    Delete {
        deleted: u64,
        /// Empty unless it was asked for; no more than [`MAX_TRANSACTION_ROWS`] and [`MAX_TRANSACTION_BYTES`].
        previous: Vec<(Bytes, KeyValue)>,
    },
    Range(Page),
    Transaction(Decided),
}

impl Transaction {
    /// How many steps and compares there are, whichever way it goes.
    pub fn operations(&self) -> usize {
        let steps = self.success.iter().chain(&self.failure);
        let nested = |step: &Step| if let Step::Transaction(inner) = step { inner.operations() } else { 0 };
        self.compares.len() + steps.map(|step| 1 + nested(step)).sum::<usize>()
    }

    pub(crate) fn check(&self) -> Result<(), OverLimit> {
        self.check_depth(1)?;
        let count = self.operations();
        if count > MAX_TRANSACTION_OPERATIONS {
            return Err(OverLimit::TransactionOperations { count });
        }
        self.check_sizes()?;
        self.check_ways().map(drop)
    }

    fn check_depth(&self, depth: usize) -> Result<(), OverLimit> {
        if depth > MAX_TRANSACTION_DEPTH {
            return Err(OverLimit::Depth);
        }
        for step in self.success.iter().chain(&self.failure) {
            if let Step::Transaction(inner) = step {
                inner.check_depth(depth + 1)?;
            }
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), OverLimit> {
        for compare in &self.compares {
            check_range(&compare.keys)?;
            if let Target::Value(value) = &compare.target {
                check_value(value)?;
            }
        }
        for step in self.success.iter().chain(&self.failure) {
            match step {
                Step::Put { key, value, .. } => {
                    if key.is_empty() {
                        return Err(OverLimit::EmptyKey);
                    }
                    check_key(key)?;
                    check_value(value)?;
                }
                Step::Delete { keys, .. } => check_range(keys)?,
                Step::Range(query) => {
                    check_range(&query.keys)?;
                    query.after.iter().try_for_each(check_key)?;
                }
                Step::Transaction(inner) => inner.check_sizes()?,
            }
        }
        Ok(())
    }

    /// Whatever way it goes: no key is put twice, and none is put and deleted.
    fn check_ways(&self) -> Result<Touched, OverLimit> {
        let mut success = Touched::of(&self.success)?;
        let failure = Touched::of(&self.failure)?;
        // Only one of the two happens. To what stands beside this transaction, both may.
        success.puts.extend(failure.puts);
        success.deletes.extend(failure.deletes);
        Ok(success)
    }

    pub(crate) fn bytes(&self) -> usize {
        let compares: usize = (self.compares.iter())
            .map(|c| range_bytes(&c.keys) + if let Target::Value(value) = &c.target { value.len() } else { 0 } + 24)
            .sum();
        let steps = self.success.iter().chain(&self.failure).map(|step| {
            24 + match step {
                Step::Put { key, value, .. } => key.len() + value.len(),
                Step::Delete { keys, .. } => range_bytes(keys),
                Step::Range(query) => range_bytes(&query.keys) + query.after.as_ref().map_or(0, Bytes::len) + 16,
                Step::Transaction(inner) => inner.bytes(),
            }
        });
        compares + steps.sum::<usize>() + 24
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.varint(self.compares.len() as u64);
        for compare in &self.compares {
            compare.encode(writer);
        }
        for branch in [&self.success, &self.failure] {
            writer.varint(branch.len() as u64);
            for step in branch {
                step.encode(writer);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Transaction, Malformed> {
        let mut left = MAX_TRANSACTION_OPERATIONS;
        Transaction::decode_within(reader, 1, &mut left)
    }

    fn decode_within(reader: &mut Reader, depth: usize, left: &mut usize) -> Result<Transaction, Malformed> {
        if depth > MAX_TRANSACTION_DEPTH {
            return Err(Malformed("depth of a transaction"));
        }
        let count = |reader: &mut Reader, left: &mut usize| {
            let count = reader.count()?;
            *left = left.checked_sub(count).ok_or(Malformed("count of operations"))?;
            Ok(count)
        };
        let compares = count(reader, left)?;
        let compares = (0..compares).map(|_| Compare::decode(reader)).collect::<Result<_, _>>()?;
        let mut branch = |left: &mut usize| -> Result<Vec<Step>, Malformed> {
            let steps = count(reader, left)?;
            (0..steps).map(|_| Step::decode(reader, depth, left)).collect()
        };
        Ok(Transaction { compares, success: branch(left)?, failure: branch(left)? })
    }
}

/// The keys that one way through a transaction may change.
#[derive(Default)]
struct Touched {
    puts: Vec<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Touched {
    fn of(branch: &[Step]) -> Result<Touched, OverLimit> {
        let mut all = Touched::default();
        // What one step of the branch may put, no other may put or delete.
        let mut seen = std::collections::BTreeSet::new();
        for step in branch {
            let mut here = match step {
                Step::Put { key, .. } => Touched { puts: vec![key.clone()], deletes: Vec::new() },
                Step::Delete { keys, .. } => Touched { puts: Vec::new(), deletes: vec![keys.clone()] },
                Step::Range(_) => continue,
                Step::Transaction(inner) => inner.check_ways()?,
            };
            here.puts.sort();
            here.puts.dedup();
            let touched_before = here.deletes.iter().any(|range| any_within(&seen, range));
            let deleted_before = here.puts.iter().any(|key| all.deletes.iter().any(|range| range.contains(key)));
            if touched_before || deleted_before || here.puts.iter().any(|key| seen.contains(key)) {
                return Err(OverLimit::KeyTwice);
            }
            seen.extend(here.puts.iter().cloned());
            all.puts.append(&mut here.puts);
            all.deletes.append(&mut here.deletes);
        }
        Ok(all)
    }
}

fn any_within(keys: &std::collections::BTreeSet<Bytes>, range: &KeyRange) -> bool {
    keys.range(range.start.clone()..).next().is_some_and(|key| range.contains(key))
}

fn check_key(key: &Bytes) -> Result<(), OverLimit> {
    if key.len() > MAX_KEY_BYTES { Err(OverLimit::Key { bytes: key.len() }) } else { Ok(()) }
}

fn check_value(value: &Bytes) -> Result<(), OverLimit> {
    if value.len() > MAX_VALUE_BYTES { Err(OverLimit::Value { bytes: value.len() }) } else { Ok(()) }
}

fn check_range(range: &KeyRange) -> Result<(), OverLimit> {
    check_key(&range.start)?;
    if let KeyEnd::Before(end) = &range.end { check_key(end) } else { Ok(()) }
}

fn range_bytes(range: &KeyRange) -> usize {
    range.start.len() + if let KeyEnd::Before(end) = &range.end { end.len() } else { 0 }
}

impl Compare {
    fn encode(&self, writer: &mut Writer) {
        encode_range(&self.keys, writer);
        writer.u8(match self.relation {
            Relation::Equal => 1,
            Relation::NotEqual => 2,
            Relation::Less => 3,
            Relation::Greater => 4,
        });
        let mut number = |kind, number| {
            writer.u8(kind);
            writer.varint(number);
        };
        match &self.target {
            Target::Value(value) => {
                writer.u8(1);
                writer.blob(value);
            }
            Target::Version(version) => number(2, *version),
            Target::CreateRevision(revision) => number(3, *revision),
            Target::ModRevision(revision) => number(4, *revision),
            Target::Lease(lease) => number(5, *lease),
            Target::Exists(exists) => number(6, u64::from(*exists)),
        }
    }

    fn decode(reader: &mut Reader) -> Result<Compare, Malformed> {
        let keys = decode_range(reader)?;
        let relation = match reader.u8()? {
            1 => Relation::Equal,
            2 => Relation::NotEqual,
            3 => Relation::Less,
            4 => Relation::Greater,
            _ => return Err(Malformed("relation")),
        };
        let target = match reader.u8()? {
            1 => Target::Value(reader.blob()?),
            2 => Target::Version(reader.varint()?),
            3 => Target::CreateRevision(reader.varint()?),
            4 => Target::ModRevision(reader.varint()?),
            5 => Target::Lease(reader.varint()?),
            6 => Target::Exists(match reader.varint()? {
                0 => false,
                1 => true,
                _ => return Err(Malformed("existence")),
            }),
            _ => return Err(Malformed("target of a comparison")),
        };
        Ok(Compare { keys, relation, target })
    }
}

impl Step {
    fn encode(&self, writer: &mut Writer) {
        match self {
            Step::Put { key, value, lease, previous } => {
                writer.u8(1);
                writer.blob(key);
                writer.blob(value);
                writer.varint(*lease);
                writer.bool(*previous);
            }
            Step::Delete { keys, previous } => {
                writer.u8(2);
                encode_range(keys, writer);
                writer.bool(*previous);
            }
            Step::Range(query) => {
                writer.u8(3);
                encode_query(query, writer);
            }
            Step::Transaction(inner) => {
                writer.u8(4);
                inner.encode(writer);
            }
        }
    }

    fn decode(reader: &mut Reader, depth: usize, left: &mut usize) -> Result<Step, Malformed> {
        match reader.u8()? {
            1 => Ok(Step::Put {
                key: reader.blob()?,
                value: reader.blob()?,
                lease: reader.varint()?,
                previous: reader.bool()?,
            }),
            2 => Ok(Step::Delete { keys: decode_range(reader)?, previous: reader.bool()? }),
            3 => Ok(Step::Range(decode_query(reader)?)),
            4 => Ok(Step::Transaction(Transaction::decode_within(reader, depth + 1, left)?)),
            _ => Err(Malformed("step of a transaction")),
        }
    }
}

fn encode_range(range: &KeyRange, writer: &mut Writer) {
    writer.blob(&range.start);
    match &range.end {
        KeyEnd::Single => writer.u8(1),
        KeyEnd::Before(end) => {
            writer.u8(2);
            writer.blob(end);
        }
        KeyEnd::Last => writer.u8(3),
    }
}

fn decode_range(reader: &mut Reader) -> Result<KeyRange, Malformed> {
    let start = reader.blob()?;
    let end = match reader.u8()? {
        1 => KeyEnd::Single,
        2 => KeyEnd::Before(reader.blob()?),
        3 => KeyEnd::Last,
        _ => return Err(Malformed("end of a range")),
    };
    Ok(KeyRange { start, end })
}

fn encode_query(query: &Query, writer: &mut Writer) {
    encode_range(&query.keys, writer);
    for flag in [query.descending, query.keys_only, query.count, query.after.is_some(), query.limit.is_some()] {
        writer.bool(flag);
    }
    if let Some(after) = &query.after {
        writer.blob(after);
    }
    if let Some(limit) = query.limit {
        writer.varint(limit);
    }
}

fn decode_query(reader: &mut Reader) -> Result<Query, Malformed> {
    let keys = decode_range(reader)?;
    let (descending, keys_only, count) = (reader.bool()?, reader.bool()?, reader.bool()?);
    let (after, limit) = (reader.bool()?, reader.bool()?);
    let after = if after { Some(reader.blob()?) } else { None };
    let limit = if limit { Some(reader.varint()?) } else { None };
    Ok(Query { keys, descending, after, limit, keys_only, count })
}
