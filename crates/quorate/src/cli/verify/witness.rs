//! What a watch saw of a run, held against what the clients were told.

use super::super::Failure;
use super::workload::{End, Write};
use client::{Change, Watch};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// By revision: the key, and its value unless it was deleted. The workload changes one key a revision.
pub type Seen = BTreeMap<u64, (String, Option<String>)>;

/// Everything up to that revision.
pub async fn collect(mut watch: Watch, until: u64, patience: Duration) -> Result<Seen, Failure> {
    let mut seen = Seen::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while seen.last_key_value().is_none_or(|(revision, _)| *revision < until) && watch.revision() < until {
        let next = timeout(patience, watch.next()).await;
        let missing = |_| Failure::no(format!("the watch did not show revision {until}, which was acknowledged"));
        let revision = next.map_err(missing)??;
        if let [change] = &revision.changes[..] {
            let value = match change {
                Change::Put { kv, .. } => Some(text(&kv.value)),
                Change::Delete { .. } => None,
            };
            seen.insert(revision.revision, (text(change.key()), value));
        } else {
            let problem = format!(
                "revision {} changes {} keys; every request changed one",
                revision.revision,
                revision.changes.len()
            );
            return Err(Failure::no(problem));
        }
    }
    Ok(seen)
}

/// What they disagree about, if anything.
pub fn judge(writes: &[Write], seen: &Seen) -> Option<String> {
    let newest = seen.last_key_value().map_or(0, |(revision, _)| *revision);
    // What became of each value that was ever sent; values are unique.
    let mut at: BTreeMap<&str, u64> = BTreeMap::new();
    // The one before, of the same key: its revision, unless that was a delete.
    let mut before: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let mut last: BTreeMap<&str, Option<u64>> = BTreeMap::new();
    for (revision, (key, value)) in seen {
        if let Some(value) = value
            && let Some(first) = at.insert(value, *revision)
        {
            return Some(format!(
                "the value {value} was put once and watched twice, at revisions {first} and {revision}"
            ));
        }
        before.insert(*revision, last.get(key.as_str()).copied().flatten());
        last.insert(key, value.as_ref().map(|_| *revision));
    }
    for Write { key, value, after, end } in writes {
        let shown = value.as_deref().unwrap_or("nothing");
        match (end, value) {
            (End::Done(revision), _) if *revision > newest => {}
            (End::Done(revision), _) if seen.get(revision) != Some(&(key.clone(), value.clone())) => {
                let instead = seen
                    .get(revision)
                    .map_or_else(|| "no change".to_string(), |(key, value)| format!("{key} = {value:?}"));
                return Some(format!(
                    "{key} = {shown} was acknowledged at revision {revision}, where the watch saw {instead}"
                ));
            }
            (End::Nothing, Some(value)) if at.contains_key(value.as_str()) => {
                return Some(format!(
                    "{key} = {value} was refused, and yet watched at revision {}",
                    at[value.as_str()]
                ));
            }
            _ => {}
        }
        // Whether its outcome is known or not: if it happened, its condition held.
        let Some((after, revision)) = after.zip(value.as_deref().and_then(|value| at.get(value))) else { continue };
        if before[revision] != Some(after) {
            let found = before[revision].map_or_else(|| "no such key".to_string(), |found| format!("revision {found}"));
            return Some(format!(
                "{key} = {shown} was to follow on revision {after} alone, and at revision {revision} it replaced {found}"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &str, after: Option<u64>, end: End) -> Write {
        Write { key: "k".into(), value: Some(value.into()), after, end }
    }

    fn seen(changes: &[(u64, Option<&str>)]) -> Seen {
        changes.iter().map(|(revision, value)| (*revision, ("k".to_string(), value.map(str::to_string)))).collect()
    }

    #[test]
    fn a_run_that_agrees() {
        let delete = Write { key: "k".into(), value: None, after: None, end: End::Done(4) };
        let writes = [
            put("a", None, End::Done(2)),
            put("b", Some(2), End::Done(3)),
            put("refused", Some(2), End::Nothing),
            delete,
            put("happened", None, End::Unknown),
            put("did not", None, End::Unknown),
            put("later", None, End::Done(9)),
        ];
        let seen = seen(&[(2, Some("a")), (3, Some("b")), (4, None), (6, Some("happened"))]);
        assert_eq!(judge(&writes, &seen), None);
    }

    #[test]
    fn each_lie_is_found() {
        let changes = [(2, Some("a")), (3, Some("b")), (4, None), (5, Some("c"))];
        for (write, expected) in [
            (put("a", None, End::Done(3)), "where the watch saw"),
            (put("lost", None, End::Done(1)), "no change"),
            (put("b", None, End::Nothing), "refused, and yet watched"),
            (put("c", Some(3), End::Done(5)), "replaced no such key"),
            (put("b", Some(1), End::Unknown), "replaced revision 2"),
        ] {
            let found = judge(std::slice::from_ref(&write), &seen(&changes)).unwrap_or_default();
            assert!(found.contains(expected), "{write:?}: {found}");
        }
        let twice = seen(&[(2, Some("a")), (3, Some("a"))]);
        assert!(judge(&[], &twice).unwrap().contains("watched twice"));
    }
}
