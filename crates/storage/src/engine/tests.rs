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
    assert_eq!([first.get(b"a").unwrap(), first.get(b"c").unwrap()], [Some(Bytes::from("1")), None]);
    assert_eq!([engine.get(b"a").unwrap(), engine.get(b"b").unwrap()], [None, Some(Bytes::from("3"))]);
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
    evict(&mut engine, 1);
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
    evict(&mut engine, 2);
    assert_eq!(all(&view), [("a", "2")].map(owned));
    assert_eq!(engine.versions(), 2);
}

#[test]
fn a_past_sequence_can_be_read_until_it_is_evicted() {
    let mut engine = MemoryEngine::new();
    for sequence in 1..=5 {
        write(&mut engine, sequence, &[("a", Some(&sequence.to_string()))]);
    }
    assert_eq!(all(&engine.view().at(2).unwrap()), [("a", "2")].map(owned));
    assert_eq!(all(&engine.view().at(0).unwrap()), []);
    assert!(engine.view().at(6).is_none());
    evict(&mut engine, 4);
    assert!(engine.view().at(3).is_none());
    assert_eq!(all(&engine.view().at(4).unwrap()), [("a", "4")].map(owned));
    evict(&mut engine, 2);
    assert!(engine.view().at(3).is_none());
    evict(&mut engine, u64::MAX);
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
        evict(&mut engine, sequence);
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
    evict(&mut engine, 1_000_000);
    assert_eq!(engine.versions(), 1000);
}

#[test]
fn deleted_keys_leave_nothing_behind() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 1, &[("a", Some("1")), ("b", Some("1"))]);
    let view = engine.view();
    write(&mut engine, 2, &[("a", None), ("b", None), ("nothing", None)]);
    evict(&mut engine, 2);
    assert_eq!(all(&view).len(), 2);
    assert_eq!(engine.versions(), 4);
    drop(view);
    evict(&mut engine, 2);
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

/// Superseded versions go a few at a time, but cannot be asked for any more at once.
#[test]
fn tidying_goes_in_steps() {
    let mut engine = MemoryEngine::new();
    for sequence in 1..=10 {
        write(&mut engine, sequence, &[("a", Some("v")), ("b", Some("v"))]);
    }
    engine.evict_below(8);
    assert!(engine.view().at(7).is_none() && engine.view().history(7).is_none());
    assert_eq!(engine.versions(), 20);
    engine.tidy(5);
    assert_eq!(engine.versions(), 15);
    engine.tidy(100);
    assert_eq!(engine.versions(), 6);
    assert_eq!(all(&engine.view().at(8).unwrap()).len(), 2);
}

#[test]
fn keys_without_a_past_keep_what_a_view_sees_and_no_more() {
    let mut engine = MemoryEngine::without_past_from(Key::new(b"b"));
    write(&mut engine, 1, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]);
    write(&mut engine, 2, &[("a", Some("2")), ("b", Some("2")), ("c", None)]);
    assert_eq!(engine.versions(), 3);
    let view = engine.view();
    write(&mut engine, 3, &[("a", Some("3")), ("b", Some("3")), ("c", Some("3"))]);
    write(&mut engine, 4, &[("a", Some("4")), ("b", None)]);
    assert_eq!(all(&view), [("a", "2"), ("b", "2")].map(owned));
    // Of `b` the value that is seen and the deletion.
    assert_eq!(engine.versions(), 4 + 2 + 1);
    drop(view);
    engine.tidy(1);
    assert_eq!(engine.versions(), 4 + 1);
    assert_eq!(all(&engine.view()), [("a", "4"), ("c", "3")].map(owned));
    assert_eq!(engine.view().at(1).unwrap().get(b"a").unwrap(), Some(Bytes::from("1")));
}

#[test]
fn a_history_has_every_version_and_lets_none_go() {
    let mut engine = MemoryEngine::new();
    write(&mut engine, 1, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]);
    write(&mut engine, 3, &[("a", Some("3")), ("c", None)]);
    write(&mut engine, 5, &[("a", None), ("b", Some("5")), ("d", Some("5"))]);
    let history = engine.view().history(3).unwrap();
    write(&mut engine, 7, &[("a", Some("7")), ("e", Some("7"))]);
    evict(&mut engine, 7);
    let version = |sequence, value: Option<&'static str>| Version { sequence, value: value.map(Bytes::from) };
    let expected = [
        ("a", vec![version(3, Some("3")), version(5, None)]),
        ("b", vec![version(1, Some("1")), version(5, Some("5"))]),
        ("d", vec![version(5, Some("5"))]),
    ];
    let found: Vec<_> = history.versions(b"", b"z").map(Result::unwrap).collect();
    assert_eq!(found, expected.map(|(key, versions)| (Bytes::from(key), versions)));
    assert_eq!(history.versions(b"b", b"d").count(), 1);
    assert_eq!([history.get(b"b", 4).unwrap(), history.get(b"a", 5).unwrap()], [Some(Bytes::from("1")), None]);
    assert!(engine.view().at(5).is_none());
    drop(history);
    engine.tidy(usize::MAX);
    assert_eq!(engine.versions(), 4);
}

/// A key may be overwritten a million times an hour, and each of its old values be asked for and taken out.
#[test]
fn any_place_in_a_long_history_is_near() {
    let mut engine = MemoryEngine::new();
    let (mut rng, mut threshold) = (Rng::new(1), 0);
    for sequence in 1..=200_000 {
        write(&mut engine, sequence, &[("a", Some("v"))]);
        if rng.chance(100) && sequence > 100_000 {
            threshold = threshold.max(rng.between(0, sequence - 50_000));
            engine.evict_below(threshold);
            engine.tidy(300);
        }
        if rng.chance(10) {
            let steps = engine.steps(b"a", rng.between(threshold, sequence));
            assert!(steps < 120, "{steps} steps at {sequence}");
        }
    }
    let oldest = 200_000 - engine.versions() as u64 + 1;
    assert!((50_000..190_000).contains(&oldest));
    assert!(engine.steps(b"a", oldest) < 120);
}

/// Random lives: all views and histories, old and new, show what the model remembers, no version is kept that nobody
/// needs, and an engine that is loaded with the versions of another is its equal.
#[test]
fn engine_and_model_agree() {
    for seed in 0..40 {
        life(seed);
    }
}

type State = BTreeMap<Vec<u8>, Vec<u8>>;

const PAST_ENDS: &[u8] = b"g";

/// What a life remembers.
#[derive(Default)]
struct Past {
    states: BTreeMap<Sequence, State>,
    /// Who wrote each version: key -> sequences, deletions included, as far as they concern a key that was there.
    written: BTreeMap<Vec<u8>, BTreeSet<Sequence>>,
}

/// A view, and whether it shows keys without a past too.
struct Seen {
    view: MemoryView,
    is_whole: bool,
}

fn life(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut engine = MemoryEngine::without_past_from(Key::new(PAST_ENDS));
    let mut model = State::new();
    let mut past = Past { states: BTreeMap::from([(0, model.clone())]), ..Past::default() };
    let mut views: Vec<Seen> = Vec::new();
    let mut histories: Vec<(Sequence, MemoryHistory, Sequence)> = Vec::new();
    let mut threshold = 0;
    let keeps_history = rng.chance(500);
    for _ in 0..400 {
        let sequence = engine.sequence() + rng.between(1, 3);
        let mut batch = Batch::new();
        for _ in 0..rng.between(0, 4) {
            // Some of them too long to lie within a `Key`.
            let key = vec![b'a' + rng.below(8) as u8; *rng.pick(&[1, 2, 30, 31, 40])];
            if rng.chance(350) {
                batch.delete(Key::new(&key));
                if model.remove(&key).is_some() {
                    past.written.entry(key).or_default().insert(sequence);
                }
            } else {
                let value = rng.next_u64().to_le_bytes().to_vec();
                batch.put(Key::new(&key), Bytes::from(value.clone()));
                model.insert(key.clone(), value);
                past.written.entry(key).or_default().insert(sequence);
            }
        }
        engine.write(sequence, batch).unwrap();
        for skipped in *past.states.keys().last().unwrap() + 1..sequence {
            let before = past.states[&(skipped - 1)].clone();
            past.states.insert(skipped, before);
        }
        past.states.insert(sequence, model.clone());
        let at = rng.between(0, sequence);
        match rng.below(6) {
            0 if views.len() < 20 => views.push(Seen { view: engine.view(), is_whole: true }),
            1 if views.len() < 20 => {
                views.extend(engine.view().at(at).map(|view| Seen { view, is_whole: at == sequence }));
            }
            2 if !views.is_empty() => drop(views.swap_remove(rng.below(views.len() as u64) as usize)),
            3 if histories.len() < 3 => {
                histories.extend(engine.view().history(at).map(|history| (at, history, sequence)));
            }
            4 if !histories.is_empty() => drop(histories.swap_remove(rng.below(histories.len() as u64) as usize)),
            _ => {}
        }
        if !keeps_history || rng.chance(100) {
            threshold = if keeps_history { threshold.max(rng.between(0, sequence)) } else { sequence };
            evict(&mut engine, threshold);
            let held = histories.iter().map(|(since, ..)| *since).fold(threshold, Sequence::min);
            let untils: Vec<Sequence> = histories.iter().map(|(.., until)| *until).collect();
            let (least, most) = past.needed(&views, held, &untils);
            let versions = engine.versions();
            assert!((least..=most).contains(&versions), "seed {seed}: {versions} versions, {least} to {most} needed");
        }
        for Seen { view, is_whole } in &views {
            let to = if *is_whole { None } else { Some(PAST_ENDS) };
            let expected = rows(&past.states[&view.sequence()], to);
            let found: Vec<_> = view.range(b"", to).map(Result::unwrap).collect();
            assert_eq!(found, expected, "seed {seed}, at {}", view.sequence());
            let mut backwards: Vec<_> = view.range(b"", to).rev().map(Result::unwrap).collect();
            backwards.reverse();
            assert_eq!(backwards, expected, "seed {seed}, at {}", view.sequence());
            assert_eq!(view.count(b"b", to).unwrap(), view.range(b"b", to).count() as u64, "seed {seed}");
        }
        for (since, history, until) in &histories {
            let at = rng.between(*since, *until);
            for key in past.written.keys().filter(|key| &key[..] < PAST_ENDS) {
                let expected = past.states[&at].get(key).map(|value| Bytes::from(value.clone()));
                assert_eq!(history.get(key, at).unwrap(), expected, "seed {seed}, {since} to {until} at {at}");
            }
        }
        if rng.chance(20) {
            let (since, until) = (rng.between(threshold, sequence), sequence);
            loaded_is_equal(&engine.view().history(since).unwrap(), since, until, &past);
        }
    }
}

fn loaded_is_equal(history: &MemoryHistory, since: Sequence, until: Sequence, past: &Past) {
    let mut loaded = MemoryEngine::without_past_from(Key::new(PAST_ENDS));
    for row in history.versions(b"", PAST_ENDS) {
        let (key, versions) = row.unwrap();
        for Version { sequence, value } in versions {
            loaded.load(sequence, Key::new(&key), value).unwrap();
        }
    }
    loaded.end_loading(until, since).unwrap();
    for at in since..=until {
        assert_eq!(all(&loaded.view().at(at).unwrap()), rows(&past.states[&at], Some(PAST_ENDS)));
    }
    assert!(since == 0 || loaded.view().at(since - 1).is_none());
    evict(&mut loaded, until);
    assert_eq!(loaded.versions(), rows(&past.states[&until], Some(PAST_ENDS)).len());
}

fn rows(state: &State, to: Option<&[u8]>) -> Vec<(Bytes, Bytes)> {
    let rows = state.iter().filter(|(key, _)| to.is_none_or(|to| &key[..] < to));
    rows.map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone()))).collect()
}

impl Past {
    /// Counts the versions that someone can still read. Deletions with nothing older below them say no more than their
    /// absence would, so they may be there or not, but none alone. Views and histories
    /// that do not show keys without a past may keep versions of them or not.
    fn needed(&self, views: &[Seen], threshold: Sequence, untils: &[Sequence]) -> (usize, usize) {
        let (mut least, mut most) = (0, 0);
        for (key, sequences) in &self.written {
            let has_past = &key[..] < PAST_ENDS;
            let (mut kept, mut optional): (Vec<Sequence>, usize) = (Vec::new(), 0);
            for &from in sequences {
                let to = sequences.range(from + 1..).next().copied().unwrap_or(Sequence::MAX);
                let by = |is_whole| {
                    let sees = |seen: &&Seen| (from..to).contains(&seen.view.sequence()) && seen.is_whole == is_whole;
                    views.iter().any(|seen| sees(&seen))
                };
                if to == Sequence::MAX || has_past && (to > threshold || by(false)) || by(true) {
                    kept.push(from);
                } else if by(false) || untils.iter().any(|until| (from..to).contains(until)) {
                    optional += 1;
                }
            }
            let deletions = kept.iter().take_while(|sequence| !self.states[sequence].contains_key(key)).count();
            least += kept.len() - deletions;
            most += if kept.len() + optional == 1 { kept.len() - deletions } else { kept.len() + optional };
        }
        (least, most)
    }
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
            evict(&mut engine, sequence);
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

fn evict(engine: &mut MemoryEngine, sequence: Sequence) {
    engine.evict_below(sequence);
    engine.tidy(usize::MAX);
}

fn all(view: &MemoryView) -> Vec<(Bytes, Bytes)> {
    view.range(b"", None).map(Result::unwrap).collect()
}

fn owned((key, value): (&'static str, &'static str)) -> (Bytes, Bytes) {
    (Bytes::from(key), Bytes::from(value))
}
