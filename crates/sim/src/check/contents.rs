//! The store holds what the model holds: every key with its revisions, every lease with its keys, how far the past is
//! compacted, and when the last write was accepted.

use super::model::{Held, key_value};
use super::{Model, in_words, past};
use base::Index;
use bytes::Bytes;
use kv::{KeyRange, Lease, Query, View};
use std::fmt::{Debug, Display};

/// Looking at all of the past each time would take too long.
const PAST_IS_LOOKED_AT: Index = 8;

pub fn contents(model: &Model, view: &View) -> Result<(), String> {
    let index = view.applied().index;
    let mut there = 0;
    for key in model.keys() {
        let expected = model.at(key, index).map(key_value);
        let found = view.get(key).map_err(in_words)?;
        there += u64::from(found.is_some());
        same(index, || format!("{key:?}"), &found, &expected)?;
    }
    same(index, || "number of keys", &view.len(), &there)?;
    same(index, || "revision", &view.revision(), &model.revision_at(index))?;
    same(index, || "oldest revision", &view.compacted(), &model.compacted_at(index))?;
    same(index, || "time of the last write", &view.accepted_ms(), &model.accepted_ms_at(index))?;
    leases(model, view, index)?;
    if index.is_multiple_of(PAST_IS_LOOKED_AT) {
        let (oldest, newest) = (model.compacted_at(index), model.revision_at(index));
        let revision = oldest + (index / PAST_IS_LOOKED_AT * 7) % (newest - oldest + 1);
        past::page_at(model, view, revision, &Query { count: true, ..Query::new(KeyRange::all()) })?;
    }
    Ok(())
}

fn leases(model: &Model, view: &View, index: Index) -> Result<(), String> {
    let expected = model.leases_at(index);
    let found = view.leases(0).collect::<Result<Vec<Lease>, _>>().map_err(in_words)?;
    same(index, || "number of leases", &view.lease_count(), &(expected.len() as u64))?;
    let lease = |(&id, held): (&u64, &Held)| Lease { id, ttl_seconds: held.ttl_seconds, since: held.since };
    same(index, || "leases", &found, &expected.iter().map(lease).collect())?;
    for id in expected.into_keys() {
        let keys = view.lease_keys(id, b"").collect::<Result<Vec<Bytes>, _>>().map_err(in_words)?;
        let is_of_it = |key: &&Bytes| model.at(key, index).is_some_and(|version| version.lease == id);
        same(index, || format!("keys of lease {id}"), &keys, &model.keys().filter(is_of_it).cloned().collect())?;
    }
    Ok(())
}

fn same<T: PartialEq + Debug, W: Display>(
    index: Index,
    what: impl FnOnce() -> W,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("after entry {index}: {} is {found:?} instead of {expected:?}", what())),
    }
}
