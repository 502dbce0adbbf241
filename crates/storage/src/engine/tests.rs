//! Rules of the engine one by one, and a life of random writes, views and evictions against a model that keeps a whole
//! copy of the state at every sequence. All of it on every kind of engine there is, and at the end of the file what
//! concerns the one in memory alone: how many versions it keeps, and how near they are.

use super::disk::{DiskEngine, DiskOptions};
use super::*;
use crate::files::MemFiles;
use base::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Memory,
    /// On disk, with all of it in the memtable.
    Memtable,
    /// On disk, sealed and flushed after every write, and merged as far as it goes.
    Tables,
}

/// An engine of some kind.
struct Tested {
    engine: AnyEngine,
    kind: Kind,
}

impl Tested {
    fn new(kind: Kind) -> Tested {
        Tested::without_past_from(kind, Key::new(&[0xff; 8]))
    }

    fn without_past_from(kind: Kind, boundary: Key) -> Tested {
        // So small that some hundred writes give many tables, of many blocks.
        let options = DiskOptions {
            memtable_bytes: 2 << 10,
            block_bytes: 128,
            table_bytes: 1 << 10,
            ..DiskOptions::within(64 << 10)
        };
        let engine = match kind {
            Kind::Memory => AnyEngine::Memory(MemoryEngine::without_past_from(boundary)),
            Kind::Memtable | Kind::Tables => {
                let files = Arc::new(MemFiles::new());
                AnyEngine::Disk(DiskEngine::create(files, Path::new("/engine"), options, boundary).unwrap())
            }
        };
        Tested { engine, kind }
    }

    /// After every write.
    fn settle(&mut self) {
        if let Kind::Tables = self.kind {
            self.engine.seal(Bytes::new());
            self.engine.settle().unwrap();
        }
    }

    /// In memory nothing is kept that nobody needs. On disk it goes when merges come upon it.
    fn assert_versions(&self, versions: usize) {
        if let AnyEngine::Memory(engine) = &self.engine {
            assert_eq!(engine.versions(), versions);
        }
    }
}

impl Deref for Tested {
    type Target = AnyEngine;

    fn deref(&self) -> &AnyEngine {
        &self.engine
    }
}

impl DerefMut for Tested {
    fn deref_mut(&mut self) -> &mut AnyEngine {
        &mut self.engine
    }
}

macro_rules! on_every_kind {
    ($($rule:ident)*) => {
        mod in_memory {
            $(#[test] fn $rule() { super::$rule(super::Kind::Memory) })*
        }
        mod in_a_memtable {
            $(#[test] fn $rule() { super::$rule(super::Kind::Memtable) })*
        }
        mod in_tables {
            $(#[test] fn $rule() { super::$rule(super::Kind::Tables) })*
        }
    };
}

on_every_kind! {
    a_view_sees_its_moment_and_nothing_later
    ranges_are_half_open_and_run_both_ways
    the_later_of_two_changes_in_a_batch_holds
    the_earlier_of_two_changes_in_a_batch_leaves_nothing_behind
    a_past_sequence_can_be_read_until_it_is_evicted
    deleted_keys_leave_nothing_behind
    keys_without_a_past_keep_what_a_view_sees_and_no_more
    a_history_has_every_version_and_lets_none_go
    engine_and_model_agree
    readers_see_whole_batches_only
}

fn a_view_sees_its_moment_and_nothing_later(kind: Kind) {
    let mut engine = Tested::new(kind);
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

fn ranges_are_half_open_and_run_both_ways(kind: Kind) {
    let mut engine = Tested::new(kind);
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

fn the_later_of_two_changes_in_a_batch_holds(kind: Kind) {
    let mut engine = Tested::new(kind);
    write(&mut engine, 1, &[("a", Some("1")), ("a", None), ("b", None), ("b", Some("1")), ("b", Some("2"))]);
    evict(&mut engine, 1);
    assert_eq!(all(&engine.view()), [("b", "2")].map(owned));
    engine.assert_versions(1);
}

/// Both were versions of one sequence once, and the wrong one of them was taken out later.
fn the_earlier_of_two_changes_in_a_batch_leaves_nothing_behind(kind: Kind) {
    let mut engine = Tested::new(kind);
    write(&mut engine, 1, &[("a", Some("1")), ("a", None), ("a", Some("2")), ("b", Some("1")), ("b", None)]);
    let view = engine.view();
    engine.assert_versions(1);
    write(&mut engine, 2, &[("a", None), ("a", Some("3"))]);
    evict(&mut engine, 2);
    assert_eq!(all(&view), [("a", "2")].map(owned));
    engine.assert_versions(2);
}

fn a_past_sequence_can_be_read_until_it_is_evicted(kind: Kind) {
    let mut engine = Tested::new(kind);
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
    engine.assert_versions(1);
    assert_eq!(all(&engine.view()), [("a", "5")].map(owned));
}

fn deleted_keys_leave_nothing_behind(kind: Kind) {
    let mut engine = Tested::new(kind);
    write(&mut engine, 1, &[("a", Some("1")), ("b", Some("1"))]);
    let view = engine.view();
    write(&mut engine, 2, &[("a", None), ("b", None), ("nothing", None)]);
    evict(&mut engine, 2);
    assert_eq!(all(&view).len(), 2);
    engine.assert_versions(4);
    drop(view);
    evict(&mut engine, 2);
    engine.assert_versions(0);
    write(&mut engine, 3, &[("a", Some("3"))]);
    assert_eq!(all(&engine.view()), [("a", "3")].map(owned));
}

#[test]
#[should_panic(expected = "sequence 4 after 5")]
fn sequences_do_not_fall_in_memory() {
    let_a_sequence_fall(Kind::Memory);
}

#[test]
#[should_panic(expected = "sequence 4 after 5")]
fn sequences_do_not_fall_on_disk() {
    let_a_sequence_fall(Kind::Memtable);
}

fn let_a_sequence_fall(kind: Kind) {
    let mut engine = Tested::new(kind);
    write(&mut engine, 5, &[("a", Some("5"))]);
    write(&mut engine, 4, &[("a", Some("4"))]);
}

fn keys_without_a_past_keep_what_a_view_sees_and_no_more(kind: Kind) {
    let mut engine = Tested::without_past_from(kind, Key::new(b"b"));
    write(&mut engine, 1, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]);
    write(&mut engine, 2, &[("a", Some("2")), ("b", Some("2")), ("c", None)]);
    engine.assert_versions(3);
    let view = engine.view();
    write(&mut engine, 3, &[("a", Some("3")), ("b", Some("3")), ("c", Some("3"))]);
    write(&mut engine, 4, &[("a", Some("4")), ("b", None)]);
    assert_eq!(all(&view), [("a", "2"), ("b", "2")].map(owned));
    // Of `b` the value that is seen and the deletion.
    engine.assert_versions(4 + 2 + 1);
    drop(view);
    engine.tidy(1);
    engine.assert_versions(4 + 1);
    assert_eq!(all(&engine.view()), [("a", "4"), ("c", "3")].map(owned));
    assert_eq!(engine.view().at(1).unwrap().get(b"a").unwrap(), Some(Bytes::from("1")));
}

fn a_history_has_every_version_and_lets_none_go(kind: Kind) {
    let mut engine = Tested::new(kind);
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
    engine.assert_versions(4);
}

/// Random lives: all views and histories, old and new, show what the model remembers, no version is kept that nobody
/// needs, and an engine that is loaded with the versions of another is its equal.
fn engine_and_model_agree(kind: Kind) {
    let lives = if let Kind::Tables = kind { 10 } else { 40 };
    for seed in 0..lives {
        life(kind, seed);
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
    view: AnyView,
    is_whole: bool,
}

fn life(kind: Kind, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut engine = Tested::without_past_from(kind, Key::new(PAST_ENDS));
    let mut model = State::new();
    let mut past = Past { states: BTreeMap::from([(0, model.clone())]), ..Past::default() };
    let mut views: Vec<Seen> = Vec::new();
    let mut histories: Vec<(Sequence, AnyHistory, Sequence)> = Vec::new();
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
        engine.settle();
        for skipped in *past.states.keys().last().unwrap() + 1..sequence {
            let before = past.states[&(skipped - 1)].clone();
            past.states.insert(skipped, before);
        }
        past.states.insert(sequence, model.clone());
        // The oldest that can be asked for, or any.
        let at = if rng.chance(500) { threshold } else { rng.between(0, sequence) };
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
            if let AnyEngine::Memory(engine) = &engine.engine {
                let versions = engine.versions();
                assert!(
                    (least..=most).contains(&versions),
                    "seed {seed}: {versions} versions, {least} to {most} needed"
                );
            }
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
            loaded_is_equal(kind, &engine.view().history(since).unwrap(), since, until, &past);
        }
    }
}

fn loaded_is_equal(kind: Kind, history: &AnyHistory, since: Sequence, until: Sequence, past: &Past) {
    let mut loaded = Tested::without_past_from(kind, Key::new(PAST_ENDS));
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
    loaded.assert_versions(rows(&past.states[&until], Some(PAST_ENDS)).len());
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
#[allow(clippy::disallowed_methods, reason = "the engine is read from other threads")]
fn readers_see_whole_batches_only(kind: Kind) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut engine = Tested::new(kind);
    let published = arc_swap::ArcSwap::from_pointee(engine.view());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (published, done) = (&published, &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let view = AnyView::clone(&published.load());
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
        let last: Sequence = if let Kind::Memory = kind { 20_000 } else { 2_000 };
        for sequence in 1..=last {
            let mut batch = Batch::new();
            for key in 0..20u8 {
                match sequence % 10 {
                    0 => batch.delete(Key::new(&[key])),
                    _ => batch.put(Key::new(&[key]), Bytes::copy_from_slice(&sequence.to_le_bytes())),
                }
            }
            engine.write(sequence, batch).unwrap();
            engine.settle();
            published.store(std::sync::Arc::new(engine.view()));
            evict(&mut engine, sequence);
        }
        done.store(true, Ordering::Release);
    });
}

fn write(engine: &mut Tested, sequence: Sequence, changes: &[(&str, Option<&str>)]) {
    change(&mut engine.engine, sequence, changes);
    engine.settle();
}

fn change(engine: &mut impl Engine, sequence: Sequence, changes: &[(&str, Option<&str>)]) {
    let mut batch = Batch::with_capacity(changes.len());
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(Key::new(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes())),
            None => batch.delete(Key::new(key.as_bytes())),
        }
    }
    engine.write(sequence, batch).unwrap();
}

fn evict(engine: &mut Tested, sequence: Sequence) {
    engine.evict_below(sequence);
    engine.tidy(usize::MAX);
    engine.settle();
}

fn all(view: &impl View) -> Vec<(Bytes, Bytes)> {
    view.range(b"", None).map(Result::unwrap).collect()
}

fn owned((key, value): (&'static str, &'static str)) -> (Bytes, Bytes) {
    (Bytes::from(key), Bytes::from(value))
}

// In memory only.

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
        engine.tidy(usize::MAX);
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
    engine.tidy(usize::MAX);
    assert_eq!(engine.versions(), 1000);
}

/// Dropping a chain version by version, each from within the one before, would overflow the stack.
#[test]
fn a_long_history_can_be_dropped() {
    let mut engine = MemoryEngine::new();
    for sequence in 1..=300_000 {
        change(&mut engine, sequence, &[("a", Some("v"))]);
    }
    assert_eq!(engine.versions(), 300_000);
}

#[test]
#[should_panic(expected = "a view would see sequence 5 change")]
fn what_a_view_sees_is_not_written_to() {
    let mut engine = MemoryEngine::new();
    change(&mut engine, 5, &[("a", Some("5"))]);
    let _view = engine.view();
    change(&mut engine, 5, &[("b", Some("5"))]);
}

/// Superseded versions go a few at a time, but cannot be asked for any more at once.
#[test]
fn tidying_goes_in_steps() {
    let mut engine = MemoryEngine::new();
    for sequence in 1..=10 {
        change(&mut engine, sequence, &[("a", Some("v")), ("b", Some("v"))]);
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

/// A key may be overwritten a million times an hour, and each of its old values be asked for and taken out.
#[test]
fn any_place_in_a_long_history_is_near() {
    let mut engine = MemoryEngine::new();
    let (mut rng, mut threshold) = (Rng::new(1), 0);
    for sequence in 1..=200_000 {
        change(&mut engine, sequence, &[("a", Some("v"))]);
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
