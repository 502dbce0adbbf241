//! Carries transactions out: judges the conditions, goes the way that they choose, and collects the changes.
//!
//! Nothing is changed here. Steps are taken one by one over the state before the transaction and an overlay of what the
//! steps before have done, and what lies in the overlay at the end is the change.

use crate::leases::Lease;
use crate::range::{KeyEnd, KeyRange, MAX_PAGE_BYTES, Query};
use crate::transaction::{Compare, Decided, Relation, Step, StepResult, Target, Transaction};
use crate::transaction::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_ROWS};
use crate::view::{KeyValue, Page, row, rows};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use storage::StorageError;
use storage::engine::AnyView;

/// What happens to a key.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    pub key: &'a Bytes,
    /// The new value and its lease; `None` deletes.
    pub put: Option<(&'a Bytes, u64)>,
}

/// The keys that a transaction changes, with what they will be.
#[derive(Default)]
pub struct Overlay {
    changes: BTreeMap<Bytes, Option<KeyValue>>,
}

impl Overlay {
    /// In the order of the keys.
    pub fn edits(&self) -> impl Iterator<Item = Edit<'_>> {
        self.changes.iter().map(|(key, now)| Edit { key, put: now.as_ref().map(|now| (&now.value, now.lease)) })
    }
}

/// Why a transaction was not carried out.
pub enum Failed {
    /// It names a lease that is not there.
    NoLease,
    Storage(StorageError),
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Failed {
        Failed::Storage(error)
    }
}

/// `revision`: what the transaction gets if it changes something. What the steps give is only collected if `wanted`.
pub fn execute(
    transaction: &Transaction,
    engine: AnyView,
    revision: u64,
    wanted: bool,
) -> Result<(Decided, Overlay), Failed> {
    let way = Way::choose(transaction, &engine)?;
    way.check_leases(&engine)?;
    let mut run = Run {
        engine,
        revision,
        wanted,
        rows_left: MAX_TRANSACTION_ROWS,
        page_bytes_left: MAX_PAGE_BYTES,
        bytes_left: MAX_TRANSACTION_BYTES,
        overlay: Overlay::default(),
    };
    let decided = run.go(&way)?;
    Ok((decided, run.overlay))
}

/// The steps that will be taken, now that all conditions are judged.
struct Way<'a> {
    succeeded: bool,
    /// With the way through each that is a transaction.
    steps: Vec<(&'a Step, Option<Way<'a>>)>,
}

impl<'a> Way<'a> {
    fn choose(transaction: &'a Transaction, engine: &AnyView) -> Result<Way<'a>, StorageError> {
        let mut succeeded = true;
        for compare in &transaction.compares {
            succeeded = succeeded && holds(compare, engine)?;
        }
        let steps = if succeeded { &transaction.success } else { &transaction.failure };
        let nested = |step: &'a Step| match step {
            Step::Transaction(inner) => Way::choose(inner, engine).map(Some),
            Step::Put { .. } | Step::Delete { .. } | Step::Range(_) => Ok(None),
        };
        let steps = steps.iter().map(|step| Ok((step, nested(step)?)));
        Ok(Way { succeeded, steps: steps.collect::<Result<_, StorageError>>()? })
    }

    fn check_leases(&self, engine: &AnyView) -> Result<(), Failed> {
        for (step, nested) in &self.steps {
            if let Step::Put { lease, .. } = step
                && *lease != 0
                && Lease::find(*lease, engine)?.is_none()
            {
                return Err(Failed::NoLease);
            }
            nested.iter().try_for_each(|way| way.check_leases(engine))?;
        }
        Ok(())
    }
}

/// etcd's `applyCompare`: every key must do, and where there is none, a key that is not there is judged.
fn holds(compare: &Compare, engine: &AnyView) -> Result<bool, StorageError> {
    let mut found = rows(engine, &compare.keys);
    let first = found.next().transpose()?;
    if let Target::Exists(wanted) = compare.target {
        return Ok(relates(first.is_some().cmp(&wanted), compare.relation));
    }
    let Some(first) = first else {
        return Ok(number_of(None, &compare.target).is_some_and(|order| relates(order, compare.relation)));
    };
    for row in std::iter::once(Ok(first)).chain(found) {
        let (_, row) = row?;
        let order = match &compare.target {
            Target::Value(value) => Some(row.value.cmp(value)),
            target => number_of(Some(&row), target),
        };
        if !order.is_some_and(|order| relates(order, compare.relation)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How the number that the target names compares with the target's. Nothing for what is no number.
fn number_of(row: Option<&KeyValue>, target: &Target) -> Option<Ordering> {
    let (found, wanted) = match target {
        Target::Version(version) => (row.map(|row| row.version), version),
        Target::CreateRevision(revision) => (row.map(|row| row.create_revision), revision),
        Target::ModRevision(revision) => (row.map(|row| row.mod_revision), revision),
        Target::Lease(lease) => (row.map(|row| row.lease), lease),
        Target::Value(_) | Target::Exists(_) => return None,
    };
    Some(found.unwrap_or(0).cmp(wanted))
}

fn relates(order: Ordering, relation: Relation) -> bool {
    match relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Less => order.is_lt(),
        Relation::Greater => order.is_gt(),
    }
}

struct Run {
    engine: AnyView,
    revision: u64,
    wanted: bool,
    /// For ranges, …
    rows_left: u64,
    page_bytes_left: usize,
    /// … and for all else.
    bytes_left: usize,
    overlay: Overlay,
}

impl Run {
    fn go(&mut self, way: &Way<'_>) -> Result<Decided, StorageError> {
        let mut results = Vec::new();
        for (step, nested) in &way.steps {
            let result = match (step, nested) {
                (Step::Put { key, value, lease, previous }, _) => self.put(key, value, *lease, *previous)?,
                (Step::Delete { keys, previous }, _) => self.delete(keys, *previous)?,
                (Step::Range(query), _) if self.wanted => StepResult::Range(self.range(query)?),
                (Step::Transaction(_), Some(way)) => StepResult::Transaction(self.go(way)?),
                (Step::Range(_) | Step::Transaction(_), _) => continue,
            };
            if self.wanted {
                results.push(result);
            }
        }
        Ok(Decided { succeeded: way.succeeded, results })
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: u64, previous: bool) -> Result<StepResult, StorageError> {
        // No step before this one can have changed the key.
        let before = row(&self.engine, key)?;
        let now = KeyValue {
            value: value.clone(),
            create_revision: before.as_ref().map_or(self.revision, |before| before.create_revision),
            mod_revision: self.revision,
            version: before.as_ref().map_or(0, |before| before.version) + 1,
            lease,
        };
        self.overlay.changes.insert(key.clone(), Some(now));
        Ok(StepResult::Put { previous: before.filter(|_| previous && self.wanted) })
    }

    fn delete(&mut self, keys: &KeyRange, previous: bool) -> Result<StepResult, StorageError> {
        let mut gone = Vec::new();
        let mut deleted = 0;
        for row in rows(&self.engine, keys) {
            let (key, before) = row?;
            // A step before this one may have deleted it, and can't have put it.
            if self.overlay.changes.contains_key(&key) {
                continue;
            }
            deleted += 1;
            self.overlay.changes.insert(key.clone(), None);
            if previous && self.wanted && self.rows_left > 0 && self.bytes_left > 0 {
                self.rows_left -= 1;
                self.bytes_left = self.bytes_left.saturating_sub(key.len() + before.value.len());
                gone.push((key, before));
            }
        }
        Ok(StepResult::Delete { deleted, previous: gone })
    }

    /// As [`crate::Picture::query`], of what the transaction has made so far.
    fn range(&mut self, query: &Query) -> Result<Page, StorageError> {
        let is_single = query.keys.end == KeyEnd::Single;
        let room_bytes = if is_single { &mut self.bytes_left } else { &mut self.page_bytes_left };
        let most_rows = if is_single { 1 } else { self.rows_left };
        let limit = query.limit.unwrap_or(u64::MAX).min(most_rows);
        let on_page = |key: &Bytes| match &query.after {
            Some(after) if query.descending => key < after,
            Some(after) => key > after,
            None => true,
        };
        let (mut taken, mut more, mut count) = (Vec::new(), false, 0);
        let mut visit = |key: Bytes, mut row: KeyValue| {
            count += 1;
            if !on_page(&key) || more {
                // It goes on only to count.
            } else if taken.len() as u64 >= limit || !taken.is_empty() && *room_bytes == 0 {
                more = true;
            } else {
                if query.keys_only {
                    row.value = Bytes::new();
                }
                *room_bytes = room_bytes.saturating_sub(key.len() + row.value.len());
                taken.push((key, row));
            }
            query.count || !more
        };
        let below = rows(&self.engine, &query.keys);
        let above = self.overlay.changes.range(query.keys.start.clone()..);
        let above = above.take_while(|(key, _)| query.keys.contains(key)).map(|(key, row)| (key.clone(), row.clone()));
        if query.descending {
            let order = |a: &Bytes, b: &Bytes| b.cmp(a);
            merge(below.rev(), above.collect::<Vec<_>>().into_iter().rev(), order, &mut visit)?;
        } else {
            merge(below, above, Bytes::cmp, &mut visit)?;
        }
        if !is_single {
            self.rows_left -= taken.len() as u64;
        }
        Ok(Page { rows: taken, more, count: query.count.then_some(count) })
    }
}

/// Both in the order given; where both have a key, what is above holds. Ends when `visit` has enough.
fn merge(
    below: impl Iterator<Item = Result<(Bytes, KeyValue), StorageError>>,
    above: impl Iterator<Item = (Bytes, Option<KeyValue>)>,
    order: impl Fn(&Bytes, &Bytes) -> Ordering,
    visit: &mut impl FnMut(Bytes, KeyValue) -> bool,
) -> Result<(), StorageError> {
    let (mut below, mut above) = (below.peekable(), above.peekable());
    loop {
        let which = match (below.peek(), above.peek()) {
            (None, None) => return Ok(()),
            (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(Ok((lower, _))), Some((upper, _))) => order(lower, upper),
        };
        let next = if which.is_lt() {
            below.next().transpose()?
        } else {
            if which.is_eq() {
                below.next();
            }
            above.next().and_then(|(key, row)| Some((key, row?)))
        };
        if let Some((key, row)) = next
            && !visit(key, row)
        {
            return Ok(());
        }
    }
}
