//! The store holds what the model holds, key by key, with its revisions; and when the last write was accepted.

use super::Model;
use kv::View;

pub fn contents(model: &Model, view: &View) -> Result<(), String> {
    let index = view.applied().index;
    let mut there = 0;
    for key in model.keys() {
        let expected = model.at(key, index);
        let found = view.get(key);
        there += u64::from(found.is_some());
        let same = match (&expected, &found) {
            (None, None) => true,
            (Some(e), Some(f)) => {
                (&e.value, e.create_revision, e.mod_revision, e.version)
                    == (&f.value, f.create_revision, f.mod_revision, f.version)
            }
            _ => false,
        };
        if !same {
            return Err(format!("after entry {index}, {key:?} is {found:?} instead of {expected:?}"));
        }
    }
    if there != view.len() {
        return Err(format!("after entry {index} it has {} keys instead of {there}", view.len()));
    }
    let revision = model.revision_at(index);
    if revision != view.revision() {
        return Err(format!("after entry {index} its revision is {} instead of {revision}", view.revision()));
    }
    let accepted_ms = model.accepted_ms_at(index);
    if accepted_ms != view.accepted_ms() {
        return Err(format!(
            "after entry {index} its last write was accepted at {} instead of {accepted_ms}",
            view.accepted_ms()
        ));
    }
    Ok(())
}
