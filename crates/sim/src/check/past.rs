//! The past is what it was: a read at an earlier revision gives exactly the state of that revision, and a watch each
//! revision, whole, in order, with what it changed. Or they say that it is compacted, if it is, or still to come.

use super::model::{is_within, key_value, page};
use super::{Model, in_words};
use base::Index;
use kv::{Change, KeyRange, OutOfReach, Page, Query, ReadError, Revision, View};

/// Reads a page at that revision, and judges it. `None`: it is compacted, or still to come.
pub fn page_at(model: &Model, view: &View, revision: u64, query: &Query) -> Result<Option<Page>, String> {
    match view.at(revision) {
        Err(why) => out_of_reach(model, view, revision, why).map(|()| None),
        Ok(picture) => {
            in_reach(model, view, revision)?;
            let expected = page(&model.all_at(model.index_of(revision)), query);
            let found = picture.query(query).map_err(in_words)?;
            match found == expected && picture.revision() == revision {
                true => Ok(Some(found)),
                false => Err(format!("{query:?} at revision {revision} gives {found:?} instead of {expected:?}")),
            }
        }
    }
}

pub fn in_reach(model: &Model, view: &View, revision: u64) -> Result<(), String> {
    let index = view.applied().index;
    let (oldest, newest) = (model.compacted_at(index), model.revision_at(index));
    match (oldest..=newest).contains(&revision) {
        true => Ok(()),
        false => Err(format!("revision {revision} was read at {index}, where there are {oldest} to {newest}")),
    }
}

pub fn out_of_reach(model: &Model, view: &View, revision: u64, why: ReadError) -> Result<(), String> {
    let index = view.applied().index;
    let (compacted, newest) = (model.compacted_at(index), model.revision_at(index));
    // A view that is older than a compaction may have lost what was compacted, or still have it.
    let compacted_by_now = model.compacted_at(Index::MAX);
    let is_so = match why.out_of_reach().ok_or_else(|| why.to_string())? {
        OutOfReach::Compacted { revision: named, oldest } => {
            let by_then = revision < compacted && oldest == compacted;
            let since = revision < compacted_by_now && oldest <= compacted_by_now && oldest > revision;
            named == revision && (by_then || since)
        }
        OutOfReach::Future { revision: named, newest: told } => {
            named == revision && told == newest && revision > newest
        }
    };
    match is_so {
        true => Ok(()),
        false => Err(format!("revision {revision}, at {index} ({compacted} to {newest}), is {why:?}")),
    }
}

/// A watch that began at `oldest`, if that was compacted then, was given this as revision `next`.
pub fn change(
    model: &Model,
    found: &Revision,
    next: u64,
    keys: &KeyRange,
    previous: bool,
    oldest: u64,
) -> Result<(), String> {
    if found.revision != next || next > model.revision() {
        return Err(format!("revision {} came instead of {next}", found.revision));
    }
    let index = model.index_of(next);
    let expected: Vec<Change> = (model.changed_by(next).iter())
        .filter(|key| is_within(keys, key))
        .map(|key| Change {
            key: key.clone(),
            now: model.at(key, index).map(key_value),
            // What was there before the oldest revision nobody knows.
            previous: if previous && next > oldest { model.at(key, index - 1).map(key_value) } else { None },
        })
        .collect();
    match found.changes == expected {
        true => Ok(()),
        false => Err(format!("revision {next} is {:?} instead of {expected:?}", found.changes)),
    }
}
