//! What a disk said to be durable is there after a crash; what it did not is there up to some point, in order.

use super::shadow::{Image, Shadow};
use storage::log::RecoveredGroup;

pub fn durable_log(shadow: &Shadow, log: Option<&RecoveredGroup>) -> Result<(), String> {
    let none = RecoveredGroup::default();
    let found = log.unwrap_or(&none);
    let mut expected = shadow.durable.clone();
    let mut why = differs(&expected, found);
    for (_, write) in &shadow.unsynced {
        if why.is_none() {
            break;
        }
        write.groups.iter().for_each(|group| expected.apply(group));
        why = differs(&expected, found);
    }
    match why {
        None => Ok(()),
        Some(why) => Err(format!("{why} (after {} unsynced writes)", shadow.unsynced.len())),
    }
}

/// The log may keep more at its front than it must.
fn differs(expected: &Image, found: &RecoveredGroup) -> Option<String> {
    let mut hard_state = found.hard_state;
    // A vote becomes durable in its slot before the write that it came with.
    if (hard_state.term, hard_state.vote) >= (expected.hard_state.term, expected.hard_state.vote) {
        (hard_state.term, hard_state.vote) = (expected.hard_state.term, expected.hard_state.vote);
    }
    if hard_state != expected.hard_state {
        return Some(format!("hard state {:?} instead of {:?}", found.hard_state, expected.hard_state));
    }
    if found.start.index > expected.start.index {
        return Some(format!("it begins after {:?} instead of {:?}", found.start, expected.start));
    }
    let last = found.entries.last().map_or(found.start, |entry| entry.position);
    if last != expected.last() {
        return Some(format!("it ends at {last:?} instead of {:?}", expected.last()));
    }
    let skip = (expected.start.index - found.start.index) as usize;
    let same = found.entries.iter().skip(skip).eq(&expected.entries);
    (!same).then(|| "entries differ".to_owned())
}
