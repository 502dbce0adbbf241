//! Rules of the engine one by one, and a life of random writes, views and evictions against a model that keeps a whole
//! copy of the state at every sequence.

use super::*;
use base::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn a_view_sees_its_moment_and_nothing_later() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 1, &[("a", Some("1")), ("b", Some("1"))]);
    let first = engine.view();
    write(&mut engine, 2, &[("a", Some("2")), ("b", None), ("c", Some("2"))]);
    let second = engine.view();
    write(&mut engine, 3, &[("a", None), ("b", Some("3"))]);

    assert_eq!(all(&first), [("a", "1"), ("b", "1")].map(owned));
    assert_eq!(all(&second), [("a", "2"), ("c", "2")].map(owned));
    assert_eq!(all(&engine.view()), [("b", "3"), ("c", "2")].map(owned));
    assert_eq!((first.get(b"a"), first.get(b"c")), (Ok(Some(Bytes::from("1"))), Ok(None)));
    assert_eq!((engine.get(b"a"), engine.get(b"b")), (Ok(None), Ok(Some(Bytes::from("3")))));
    assert_eq!((first.sequence(), second.sequence(), engine.sequence()), (1, 2, 3));
}

#[test]
fn ranges_are_half_open_and_run_both_ways() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 1, &[("a", Some("")), ("b", Some("")), ("bb", Some("")), ("c", Some("")), ("d", Some(""))]);
    write(&mut engine, 2, &[("bb", None)]);
    let view = engine.view();
    let keys = |from: &str, to: Option<&str>| -> Vec<Bytes> {
        view.range(from.as_bytes(), to.map(str::as_bytes)).map(|row| row.unwrap().0).collect()
    };
    assert_eq!(keys("b", Some("d")), ["b", "c"]);
    assert_eq!(keys("", None), ["a", "b", "c", "d"]);
    assert_eq!(keys("aa", Some("bb")), ["b"]);
    assert_eq!(keys("b", Some("b")), [""; 0]);
    assert_eq!(keys("c", Some("b")), [""; 0]);
    assert_eq!(keys("e", None), [""; 0]);

    let backwards: Vec<Bytes> = view.range(b"b", None).rev().map(|row| row.unwrap().0).collect();
    assert_eq!(backwards, ["d", "c", "b"]);
    let mut ends = view.range(b"", None);
    let mut next = |back: bool| if back { ends.next_back() } else { ends.next() }.map(|row| row.unwrap().0);
    let met = [next(false), next(true), next(true), next(false), next(false), next(true)];
    assert_eq!(met, [Some("a"), Some("d"), Some("c"), Some("b"), None, None].map(|key| key.map(Bytes::from)));
}

#[test]
fn the_later_of_two_changes_in_a_batch_holds() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 1, &[("a", Some("1")), ("a", None), ("b", None), ("b", Some("1")), ("b", Some("2"))]);
    engine.evict_below(1);
    assert_eq!(all(&engine.view()), [("b", "2")].map(owned));
    assert_eq!(engine.versions(), 1);
}

/// Both were versions of one sequence once, and the wrong one of them was taken out later.
#[test]
fn the_earlier_of_two_changes_in_a_batch_leaves_nothing_behind() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 1, &[("a", Some("1")), ("a", None), ("a", Some("2")), ("b", Some("1")), ("b", None)]);
    let view = engine.view();
    assert_eq!(engine.versions(), 1);
    write(&mut engine, 2, &[("a", None), ("a", Some("3"))]);
    engine.evict_below(2);
    assert_eq!(all(&view), [("a", "2")].map(owned));
    assert_eq!(engine.versions(), 2);
}

#[test]
fn a_past_sequence_can_be_read_until_it_is_evicted() {
    let mut engine = MemoryEngine::new();
    for sequence in 1..=5 {
        write(&mut engine, sequence, &[("a", Some(&sequence.to_string()))]);
    }
    assert_eq!(all(&engine.view_at(2).unwrap()), [("a", "2")].map(owned));
    assert_eq!(all(&engine.view_at(0).unwrap()), []);
    assert!(engine.view_at(6).is_none());
    engine.evict_below(4);
    assert!(engine.view_at(3).is_none());
    assert_eq!(all(&engine.view_at(4).unwrap()), [("a", "4")].map(owned));
    engine.evict_below(2);
    assert!(engine.view_at(3).is_none());
    engine.evict_below(u64::MAX);
    assert_eq!(engine.versions(), 1);
    assert_eq!(all(&engine.view()), [("a", "5")].map(owned));
}

/// A checkpoint may take a minute; meanwhile the same keys are overwritten over and over.
#[test]
fn overwriting_does_not_grow_under_an_old_view() {
    let mut engine = MemoryEngine::new();
    let mut rng = Rng::new(1);
    let mut old = None;
    let mut published = engine.view();
    for sequence in 1..=1_000_000 {
        let mut batch = Batch::new();
        batch.put(Key::new(&rng.below(1000).to_le_bytes()), Bytes::from_static(b"value"));
        engine.write(sequence, batch).unwrap();
        engine.evict_below(sequence);
        if sequence % 64 == 0 {
            published = engine.view();
        }
        if sequence == 500_000 {
            old = Some((engine.view(), all(&engine.view())));
        }
        if sequence % 50_000 == 0 {
            assert!(engine.versions() <= 2000 + 64, "{} versions at {sequence}", engine.versions());
        }
    }
    let (view, content) = old.unwrap();
    assert_eq!(all(&view), content);
    assert_eq!(all(&published).len(), 1000);
    drop((view, published));
    engine.evict_below(1_000_000);
    assert_eq!(engine.versions(), 1000);
}

#[test]
fn deleted_keys_leave_nothing_behind() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 1, &[("a", Some("1")), ("b", Some("1"))]);
    let view = engine.view();
    write(&mut engine, 2, &[("a", None), ("b", None), ("nothing", None)]);
    engine.evict_below(2);
    assert_eq!(all(&view).len(), 2);
    assert_eq!(engine.versions(), 4);
    drop(view);
    engine.evict_below(2);
    assert_eq!(engine.versions(), 0);
    write(&mut engine, 3, &[("a", Some("3"))]);
    assert_eq!(all(&engine.view()), [("a", "3")].map(owned));
}

/// Dropping a chain version by version, each from within the one before, would overflow the stack.
#[test]
fn a_long_history_can_be_dropped() {
    let mut engine = MemoryEngine::new();
    for sequence in 1..=300_000 {
        write(&mut engine, sequence, &[("a", Some("v"))]);
    }
    assert_eq!(engine.versions(), 300_000);
}

#[test]
#[should_panic(expected = "sequence 4 after 5")]
fn sequences_do_not_fall() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 5, &[("a", Some("5"))]);
    write(&mut engine, 4, &[("a", Some("4"))]);
}

#[test]
#[should_panic(expected = "a view would see sequence 5 change")]
fn what_a_view_sees_is_not_written_to() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 5, &[("a", Some("5"))]);
    let _view = engine.view();
    write(&mut engine, 5, &[("b", Some("5"))]);
}

/// Random lives: all views, old and new, show what the model remembers, and no version is kept that no view needs.
#[test]
fn engine_and_model_agree() {
    for seed in 0..40 {
        life(seed);
    }
}

fn life(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut engine = MemoryEngine::new();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut states = BTreeMap::from([(0, model.clone())]);
    // Who wrote each version: key -> sequences, deletions included, as far as they concern a key that was there.
    let mut written: BTreeMap<Vec<u8>, BTreeSet<Sequence>> = BTreeMap::new();
    let mut views: Vec<MemoryView> = Vec::new();
    let mut threshold = 0;
    let keeps_history = rng.chance(300);
    for _ in 0..400 {
        let sequence = engine.sequence() + rng.between(1, 3);
        let mut batch = Batch::new();
        for _ in 0..rng.between(0, 4) {
            // Some of them too long to lie within a `Key`.
            let key = vec![b'a' + rng.below(8) as u8; *rng.pick(&[1, 2, 30, 31, 40])];
            if rng.chance(350) {
                batch.delete(Key::new(&key));
                if model.remove(&key).is_some() {
                    written.entry(key).or_default().insert(sequence);
                }
            } else {
                let value = rng.next_u64().to_le_bytes().to_vec();
                batch.put(Key::new(&key), Bytes::from(value.clone()));
                model.insert(key.clone(), value);
                written.entry(key).or_default().insert(sequence);
            }
        }
        engine.write(sequence, batch).unwrap();
        for skipped in *states.keys().last().unwrap() + 1..sequence {
            let before = states[&(skipped - 1)].clone();
            states.insert(skipped, before);
        }
        states.insert(sequence, model.clone());
        match rng.below(4) {
            0 if views.len() < 20 => views.push(engine.view()),
            1 if views.len() < 20 => views.extend(engine.view_at(rng.between(0, sequence))),
            2 if !views.is_empty() => drop(views.swap_remove(rng.below(views.len() as u64) as usize)),
            _ => {}
        }
        if !keeps_history || rng.chance(100) {
            threshold = if keeps_history { threshold.max(rng.between(0, sequence)) } else { sequence };
            engine.evict_below(threshold);
            let (least, most) = needed(&written, &views, threshold, &states);
            let versions = engine.versions();
            assert!((least..=most).contains(&versions), "seed {seed}: {versions} versions, {least} to {most} needed");
        }
        for view in &views {
            let state = &states[&view.sequence()];
            let expected: Vec<_> =
                state.iter().map(|(k, v)| (Bytes::from(k.clone()), Bytes::from(v.clone()))).collect();
            assert_eq!(all(view), expected, "seed {seed}, at {}", view.sequence());
            let mut backwards: Vec<_> = view.range(b"", None).rev().map(Result::unwrap).collect();
            backwards.reverse();
            assert_eq!(backwards, expected, "seed {seed}, at {}", view.sequence());
        }
    }
}

/// Counts the versions that someone can still read. Deletions with nothing older below them say no more than their
/// absence would, so they may be there or not, but none alone.
fn needed(
    written: &BTreeMap<Vec<u8>, BTreeSet<Sequence>>,
    views: &[MemoryView],
    threshold: Sequence,
    states: &BTreeMap<Sequence, BTreeMap<Vec<u8>, Vec<u8>>>,
) -> (usize, usize) {
    let (mut least, mut most) = (0, 0);
    for (key, sequences) in written {
        let mut kept: Vec<Sequence> = Vec::new();
        for &from in sequences {
            let to = sequences.range(from + 1..).next().copied().unwrap_or(Sequence::MAX);
            let seen = views.iter().any(|view| (from..to).contains(&view.sequence()));
            if to > threshold || seen {
                kept.push(from);
            }
        }
        let deletions = kept.iter().take_while(|sequence| !states[sequence].contains_key(key)).count();
        least += kept.len() - deletions;
        most += if kept.len() == 1 { kept.len() - deletions } else { kept.len() };
    }
    (least, most)
}

/// Readers on other threads, while the owner writes: all keys of a batch change together, forwards only.
#[test]
#[allow(clippy::disallowed_methods, reason = "the engine is read from other threads")]
fn readers_see_whole_batches_only() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut engine = MemoryEngine::new();
    let published = arc_swap::ArcSwap::from_pointee(engine.view());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (published, done) = (&published, &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let view = MemoryView::clone(&published.load());
                    assert!(view.sequence() >= last);
                    last = view.sequence();
                    let rows: Vec<(Bytes, Bytes)> = if (last ^ reader) & 1 == 0 {
                        view.range(b"", None).map(Result::unwrap).collect()
                    } else {
                        view.range(b"", None).rev().map(Result::unwrap).collect()
                    };
                    let expected = if last == 0 || last % 10 == 0 { 0 } else { 20 };
                    assert_eq!(rows.len(), expected, "at {last}");
                    assert!(rows.iter().all(|(_, value)| **value == last.to_le_bytes()));
                }
            });
        }
        for sequence in 1..=20_000u64 {
            let mut batch = Batch::new();
            for key in 0..20u8 {
                match sequence % 10 {
                    0 => batch.delete(Key::new(&[key])),
                    _ => batch.put(Key::new(&[key]), Bytes::copy_from_slice(&sequence.to_le_bytes())),
                }
            }
            engine.write(sequence, batch).unwrap();
            published.store(std::sync::Arc::new(engine.view()));
            engine.evict_below(sequence);
        }
        done.store(true, Ordering::Release);
    });
}

fn write(engine: &mut MemoryEngine, sequence: Sequence, changes: &[(&str, Option<&str>)]) {
    let mut batch = Batch::with_capacity(changes.len());
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(Key::new(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes())),
            None => batch.delete(Key::new(key.as_bytes())),
        }
    }
    engine.write(sequence, batch).unwrap();
}

fn all(view: &MemoryView) -> Vec<(Bytes, Bytes)> {
    view.range(b"", None).map(Result::unwrap).collect()
}

fn owned((key, value): (&'static str, &'static str)) -> (Bytes, Bytes) {
    (Bytes::from(key), Bytes::from(value))
}
