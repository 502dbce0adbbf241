//! Random lives of the engine against a model that keeps a whole copy of the state at every sequence, with crashes and
//! power cuts; a death at every single step of flushes and merges; and damage at every byte.

use super::cursor::RunCursor;
use super::*;
use crate::files::{File, Lock, MemFiles};
use base::rng::Rng;
use std::collections::BTreeMap;
use std::io;

type State = BTreeMap<Vec<u8>, Vec<u8>>;

const FOLDER: &str = "/engine";
const PAST_ENDS: &[u8] = b"g";

/// So small that a life of some hundred writes has many tables, of many blocks.
fn options() -> DiskOptions {
    DiskOptions {
        memory_bytes: 64 * 1024,
        memtable_bytes: 2 * 1024,
        block_bytes: 128,
        table_bytes: 1024,
        step_entries: 10,
    }
}

fn create(files: &Arc<dyn Files>) -> DiskEngine {
    DiskEngine::create(files.clone(), Path::new(FOLDER), options(), Key::new(PAST_ENDS)).unwrap()
}

fn open(files: &Arc<dyn Files>) -> Option<(DiskEngine, Bytes)> {
    DiskEngine::open(files.clone(), Path::new(FOLDER), options(), Key::new(PAST_ENDS)).unwrap()
}

/// The states at all sequences, and what the owner knows.
#[derive(Clone)]
struct Model {
    states: BTreeMap<Sequence, State>,
    threshold: Sequence,
}

impl Model {
    fn new() -> Model {
        Model { states: BTreeMap::from([(0, State::new())]), threshold: 0 }
    }

    fn sequence(&self) -> Sequence {
        *self.states.keys().last().unwrap()
    }

    fn state(&self, sequence: Sequence) -> &State {
        self.states.range(..=sequence).next_back().unwrap().1
    }

    /// A batch that both take.
    fn write(&mut self, engine: &mut DiskEngine, rng: &mut Rng) -> Result<(), StorageError> {
        let sequence = self.sequence() + rng.between(1, 3);
        let mut state = self.state(sequence).clone();
        let mut batch = Batch::new();
        for _ in 0..rng.between(0, 6) {
            // Some of them too long to lie within a `Key`.
            let key = vec![b'a' + rng.below(10) as u8; *rng.pick(&[1, 2, 3, 30, 31, 40])];
            if rng.chance(300) {
                batch.delete(Key::new(&key));
                state.remove(&key);
            } else {
                let value = vec![rng.below(256) as u8; rng.below(200) as usize];
                batch.put(Key::new(&key), Bytes::from(value.clone()));
                state.insert(key, value);
            }
        }
        self.states.insert(sequence, state);
        engine.write(sequence, batch)
    }

    /// What comes after a sequence never was.
    fn cut(&mut self, sequence: Sequence) {
        self.states.split_off(&(sequence + 1));
    }
}

/// A view shows what the model remembers. One of the past says nothing of keys without one.
fn check(view: &DiskView, model: &Model, is_past: bool, what: &dyn std::fmt::Debug) {
    let to = if is_past { Some(PAST_ENDS) } else { None };
    let state = model.state(view.sequence());
    let expected: Vec<(Bytes, Bytes)> = state
        .iter()
        .filter(|(key, _)| to.is_none_or(|to| &key[..] < to))
        .map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
        .collect();
    let at = view.sequence();
    let found: Vec<_> = view.range(b"", to).map(Result::unwrap).collect();
    assert_eq!(found, expected, "{what:?}, at {at}");
    let mut backwards: Vec<_> = view.range(b"", to).rev().map(Result::unwrap).collect();
    backwards.reverse();
    assert_eq!(backwards, expected, "{what:?}, backwards at {at}");
    assert_eq!(view.count(b"b", to).unwrap(), view.range(b"b", to).count() as u64, "{what:?}");
    for (key, value) in &expected {
        assert_eq!(view.get(key).unwrap().as_ref(), Some(value), "{what:?}, at {at}");
        assert_eq!(view.get(&[key, &b"x"[..]].concat()).unwrap(), None, "{what:?}, at {at}");
    }
}

/// Everything that can still be asked for.
fn check_all(engine: &DiskEngine, model: &Model, what: &dyn std::fmt::Debug) {
    check(&engine.view(), model, false, what);
    let reach: Vec<Sequence> = (model.threshold..=engine.sequence()).collect();
    for &sequence in reach.iter().step_by(reach.len() / 8 + 1).chain(reach.last()) {
        let view = engine.view().at(sequence);
        check(&view.expect("it is within reach"), model, true, what);
    }
    assert!(model.threshold == 0 || engine.view().at(model.threshold - 1).is_none());
    check_history(engine, model, model.threshold, what);
}

fn check_history(engine: &DiskEngine, model: &Model, since: Sequence, what: &dyn std::fmt::Debug) {
    let (mut found, until) = (BTreeMap::new(), engine.sequence());
    let history = engine.view().history(since).unwrap();
    for row in history.versions(b"", PAST_ENDS) {
        let (key, versions) = row.unwrap();
        assert!(versions.is_sorted_by_key(|version| version.sequence));
        assert!(versions[0].sequence > since || versions[0].value.is_some(), "{what:?}");
        found.insert(key.to_vec(), versions);
    }
    for at in (since..=until).step_by((until - since) as usize / 8 + 1) {
        for (key, versions) in &found {
            let version = versions.iter().rev().find(|version| version.sequence <= at);
            let value = version.and_then(|version| version.value.as_deref());
            assert_eq!(value, model.state(at).get(key).map(|value| &value[..]), "{what:?}: {key:?} at {at}");
            assert_eq!(history.get(key, at).unwrap().as_deref(), value, "{what:?}: {key:?} at {at}");
        }
        let missing = model.state(at).keys().find(|key| &key[..] < PAST_ENDS && !found.contains_key(*key));
        assert_eq!(missing, None, "{what:?} at {at}");
    }
}

#[test]
fn engine_and_model_agree_whenever_the_power_goes() {
    for seed in 0..20 {
        life(seed);
    }
}

fn life(seed: u64) {
    let mut rng = Rng::new(seed);
    let disk = MemFiles::with_faults();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let (mut engine, mut model) = (create(&files), Model::new());
    let mut jobs: Vec<Job> = Vec::new();
    // What is sealed and not flushed yet, and what was the last that is.
    let (mut sealed, mut durable): (VecDeque<(Sequence, Sequence)>, _) = (VecDeque::new(), (0, 0));
    let mut views: Vec<(DiskView, bool, Model)> = Vec::new();
    let keeps_past = rng.chance(700);
    for step in 0..600 {
        let what = (seed, step);
        model.write(&mut engine, &mut rng).unwrap();
        if engine.is_full() || rng.chance(20) {
            let sequence = engine.sequence();
            engine.seal(Bytes::copy_from_slice(&sequence.to_le_bytes()));
            sealed.push_back((sequence, model.threshold));
        }
        if rng.chance(500) {
            jobs.extend(engine.next_job());
        }
        if !jobs.is_empty() && rng.chance(800) {
            let at = rng.below(jobs.len() as u64) as usize;
            if let Some(finished) = jobs[at].step().unwrap() {
                drop(jobs.swap_remove(at));
                if engine.finish(finished) {
                    durable = sealed.pop_front().unwrap();
                }
            }
        }
        if rng.chance(if keeps_past { 30 } else { 900 }) {
            model.threshold = model.threshold.max(rng.between(0, engine.sequence()));
            engine.evict_below(model.threshold);
        }
        match rng.below(20) {
            0 if views.len() < 10 => views.push((engine.view(), false, model.clone())),
            1 if views.len() < 10 => {
                let at = rng.between(0, engine.sequence());
                views.extend(engine.view().at(at).map(|view| (view, at < engine.sequence(), model.clone())));
            }
            2 | 3 if !views.is_empty() => drop(views.swap_remove(rng.below(views.len() as u64) as usize)),
            4 => check(&engine.view(), &model, false, &what),
            5 => views.iter().for_each(|(view, is_past, model)| check(view, model, *is_past, &what)),
            6 if rng.chance(200) => check_all(&engine, &model, &what),
            _ => {}
        }
        if rng.chance(15) {
            // The owner writes its log before: what is lost here it would write again.
            jobs.clear();
            views.clear();
            disk.crash(&mut rng);
            let begun = sealed.front().copied();
            let reopened = open(&files);
            let is_new = reopened.is_none();
            let (opened, note) = reopened.unwrap_or_else(|| (create(&files), Bytes::from_static(&[0; 8])));
            engine = opened;
            let found = u64::from_le_bytes(note[..].try_into().unwrap());
            let then = [Some(durable), begun].into_iter().flatten().find(|(sequence, _)| *sequence == found);
            durable = then.unwrap_or_else(|| panic!("{what:?}: {found}, but {durable:?} was durable"));
            assert!(!is_new || found == 0, "{what:?}");
            // All that the owner had not given up by then is still there.
            model.cut(found);
            model.threshold = durable.1;
            engine.evict_below(model.threshold);
            sealed = VecDeque::new();
            check_all(&engine, &model, &what);
        }
    }
    engine.seal(Bytes::new());
    drop((jobs, views));
    let (mut engine, _) = open(&files).unwrap_or_else(|| (create(&files), Bytes::new()));
    engine.settle().unwrap();
}

/// A file system that dies: after so many changes none succeeds any more.
struct Dying {
    disk: MemFiles,
    left: Arc<AtomicU64>,
}

struct DyingFile {
    file: Box<dyn File>,
    left: Arc<AtomicU64>,
}

fn lives(left: &AtomicU64) -> io::Result<()> {
    let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    before.map(|_| ()).map_err(|_| io::Error::other("the process is dead"))
}

impl Files for Dying {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.create_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        if mode != OpenMode::Read {
            lives(&self.left)?;
        }
        Ok(Box::new(DyingFile { file: self.disk.open(path, mode)?, left: self.left.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        lives(&self.left)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lives(&self.left)?;
        self.disk.remove(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        lives(&self.left)?;
        self.disk.sync_folder(folder)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }
}

impl File for DyingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        lives(&self.left)?;
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        lives(&self.left)?;
        self.file.sync()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        lives(&self.left)?;
        self.file.set_length(length)
    }
}

/// Writes, seals, flushes and merges until it is through or dead. Says what was durable for sure, what may be, and the
/// model of the moment.
fn scenario(files: Arc<dyn Files>) -> (Sequence, Sequence, Model) {
    let (mut model, mut rng, mut durable) = (Model::new(), Rng::new(7), 0);
    let created = DiskEngine::create(files, Path::new(FOLDER), options(), Key::new(PAST_ENDS));
    let Ok(mut engine) = created else { return (0, 0, model) };
    for round in 1..=9 {
        for _ in 0..12 {
            model.write(&mut engine, &mut rng).unwrap();
        }
        if round == 6 {
            // From here on merges leave the past away.
            model.threshold = engine.sequence() - 20;
            engine.evict_below(model.threshold);
        }
        let sequence = engine.sequence();
        engine.seal(Bytes::copy_from_slice(&sequence.to_le_bytes()));
        if engine.settle().is_err() {
            return (durable, sequence, model);
        }
        durable = sequence;
    }
    (durable, durable, model)
}

/// At every change of a file, of a name, and at every sync: the process dies there, with or without the power.
#[test]
fn a_death_at_any_step_of_a_flush_or_a_merge_loses_nothing() {
    let unlimited = Arc::new(AtomicU64::new(u64::MAX));
    scenario(Arc::new(Dying { disk: MemFiles::with_faults(), left: unlimited.clone() }));
    let steps = u64::MAX - unlimited.load(Ordering::Relaxed);
    assert!(steps > 150, "{steps} steps");
    for step in 0..steps {
        for power in 0..4 {
            let disk = MemFiles::with_faults();
            let left = Arc::new(AtomicU64::new(step));
            let (durable, perhaps, mut model) = scenario(Arc::new(Dying { disk: disk.clone(), left }));
            match power {
                0 => disk.crash_keeping(&mut |_, _| true),
                1 => disk.crash_keeping(&mut |_, _| false),
                seed => disk.crash(&mut Rng::new(step * 10 + seed)),
            }
            let files: Arc<dyn Files> = Arc::new(disk.clone());
            let opened = open(&files);
            let found = opened.as_ref().map_or(0, |(_, note)| u64::from_le_bytes(note[..].try_into().unwrap()));
            assert!([durable, perhaps].contains(&found), "step {step}: {found}, not {durable} or {perhaps}");
            let Some((mut engine, _)) = opened else { continue };
            model.cut(found);
            model.threshold = model.threshold.min(found);
            engine.evict_below(model.threshold);
            check_all(&engine, &model, &(step, power));
            // And it goes on.
            let mut rng = Rng::new(step);
            for _ in 0..10 {
                model.write(&mut engine, &mut rng).unwrap();
            }
            engine.seal(Bytes::from_static(&[9; 8]));
            engine.settle().unwrap();
            drop(engine);
            let (mut engine, note) = open(&files).unwrap();
            assert_eq!(&note[..], [9; 8]);
            engine.evict_below(model.threshold);
            check_all(&engine, &model, &(step, power));
        }
    }
}

/// A flipped byte is an error that names the file, or does not matter; never another value.
#[test]
fn damage_is_named_and_never_read_as_a_value() {
    let disk = MemFiles::new();
    let (_, _, mut model) = scenario(Arc::new(disk.clone()));
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let (engine, _) = open(&files).unwrap();
    model.threshold = engine.sequence();
    check(&engine.view(), &model, false, &"whole");
    let names = files.list(Path::new(FOLDER)).unwrap();
    assert!(names.len() > 3, "{names:?}");
    let mut noticed = 0;
    for name in names {
        let path = Path::new(FOLDER).join(&name);
        let length = disk.read_all(&path).unwrap().len() as u64;
        for at in 0..length {
            disk.flip(&path, at, 0x04).unwrap();
            let found = (|| {
                let opened = DiskEngine::open(files.clone(), Path::new(FOLDER), options(), Key::new(PAST_ENDS))?;
                let view = opened.expect("it was there").0.view();
                view.range(b"", None).collect::<Result<Vec<_>, _>>()?;
                model.state(view.sequence()).keys().try_for_each(|key| view.get(key).map(|_| ()))?;
                check(&view, &model, false, &(&name, at));
                Ok::<(), StorageError>(())
            })();
            if let Err(error) = found {
                assert!(error.to_string().contains(&name), "{error}");
                noticed += 1;
            }
            disk.flip(&path, at, 0x04).unwrap();
        }
    }
    assert!(noticed > 1_000, "{noticed} noticed");
}

/// A state that is loaded takes the place of the one before only when it is complete and durable.
#[test]
fn what_is_loaded_comes_in_whole_or_not_at_all() {
    let disk = MemFiles::with_faults();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let mut old = create(&files);
    let mut batch = Batch::new();
    batch.put(Key::new(b"old"), Bytes::from_static(b"1"));
    old.write(5, batch).unwrap();
    old.seal(Bytes::from_static(b"old"));
    old.settle().unwrap();
    let view = old.view();

    let load = |through: bool| {
        let mut new = create(&files);
        for key in 0..200u8 {
            for sequence in [10, 20] {
                new.load(sequence, Key::new(&[b'a', key]), Some(Bytes::from(vec![sequence as u8; 40]))).unwrap();
            }
        }
        new.end_loading(20, 15).unwrap();
        if through {
            new.seal(Bytes::from_static(b"new"));
            new.settle().unwrap();
        }
        new
    };
    drop(load(false));
    disk.crash(&mut Rng::new(1));
    let (reopened, note) = open(&files).unwrap();
    assert_eq!((&note[..], reopened.get(b"old").unwrap()), (&b"old"[..], Some(Bytes::from_static(b"1"))));
    drop(load(true));
    // Views of the old one go on, though its files are gone.
    reopened.discard().step().unwrap();
    assert_eq!(reopened.view().get(b"old").unwrap(), Some(Bytes::from_static(b"1")));
    drop(view);
    disk.crash(&mut Rng::new(2));
    let (mut reopened, note) = open(&files).unwrap();
    reopened.evict_below(15);
    assert_eq!((&note[..], reopened.get(b"old").unwrap()), (&b"new"[..], None));
    assert_eq!(reopened.view().at(15).unwrap().count(b"", None).unwrap(), 200);
    assert_eq!(reopened.view().at(15).unwrap().get(&[b'a', 7]).unwrap(), Some(Bytes::from(vec![10; 40])));
    assert_eq!(reopened.view().get(&[b'a', 7]).unwrap(), Some(Bytes::from(vec![20; 40])));
}

/// A snapshot had arrived that nobody wanted any more. It was taken from the disk, the power failed, and its manifest was
/// there again, without its tables. It went further than the state that was used, so the node did not start any more.
#[test]
fn what_is_discarded_is_whole_or_not_there_when_the_power_goes() {
    for seed in 0..50 {
        let disk = MemFiles::with_faults();
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let mut used = create(&files);
        put(&mut used, 1);
        used.seal(Bytes::from_static(b"used"));
        used.settle().unwrap();
        let mut unwanted = create(&files);
        for n in 1..=50 {
            unwanted.load(n, key(n), Some(Bytes::from_static(&[0; 100]))).unwrap();
        }
        unwanted.end_loading(50, 50).unwrap();
        unwanted.seal(Bytes::from_static(b"unwanted"));
        unwanted.settle().unwrap();

        if seed % 2 == 0 {
            disk.fail_sync_after(1);
        }
        let _ = unwanted.discard().step();
        disk.crash(&mut Rng::new(seed));
        let (engine, note) = open(&files).unwrap();
        let keys = if &note[..] == b"used" { 1 } else { 50 };
        assert_eq!(engine.view().count(b"", None).unwrap(), keys, "{note:?}, seed {seed}");
    }
}

/// An engine that nothing was written to was discarded when another took its place, and had the same name as that one.
#[test]
fn engines_in_one_folder_keep_out_of_each_others_way() {
    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let (first, mut second) = (create(&files), create(&files));
    second.seal(Bytes::from_static(b"second"));
    second.settle().unwrap();
    first.discard().step().unwrap();
    assert_eq!(open(&files).unwrap().1, Bytes::from_static(b"second"));
}

/// A snapshot took the place of an engine that was being merged. The merge looked for the table that it had begun, did not
/// find it, and the node stopped; or it wrote all of the old state to the disk once more.
#[test]
fn a_job_of_an_engine_that_is_discarded_leaves_nothing_behind() {
    // After a few steps nothing is written yet, later a table is begun, and then some are done.
    for steps in 0.. {
        let files: Arc<dyn Files> = Arc::new(MemFiles::new());
        let mut engine = create(&files);
        let mut merge = loop {
            (0..200).for_each(|n| put(&mut engine, n));
            engine.seal(Bytes::new());
            let flush = engine.next_job().unwrap();
            assert_eq!(flush.kind(), JobKind::Flush);
            engine.finish(run(flush));
            let next = std::iter::from_fn(|| engine.next_job());
            if let Some(merge) = next.into_iter().find(|job| job.kind() == JobKind::Merge) {
                break merge;
            }
        };
        if (0..steps).any(|_| merge.step().unwrap().is_some()) {
            assert!(steps > 5, "it is done too early to see anything");
            break;
        }
        let mut flush = {
            put(&mut engine, 1);
            engine.seal(Bytes::new());
            engine.next_job().unwrap()
        };
        engine.discard().step().unwrap();
        for job in [&mut merge, &mut flush] {
            let finished = job.step().unwrap().expect("there is nothing left to do");
            assert_eq!(finished.written_bytes(), 0);
        }
        drop((merge, flush, engine));
        assert_eq!(files.list(Path::new(FOLDER)).unwrap(), Vec::<String>::new(), "after {steps} steps");
    }
}

/// Runs do not pile up, and what nobody needs any more leaves the disk.
#[test]
fn overwriting_the_same_keys_keeps_the_folder_small() {
    let disk = MemFiles::new();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let mut engine = create(&files);
    for sequence in 1..=5_000 {
        let mut batch = Batch::new();
        batch.put(Key::new(&[b'a', (sequence % 20) as u8]), Bytes::from(vec![0; 50]));
        engine.write(sequence, batch).unwrap();
        engine.evict_below(sequence);
        if engine.is_full() {
            engine.seal(Bytes::new());
            engine.settle().unwrap();
            assert!(engine.content.runs.len() < 8, "{} runs", engine.content.runs.len());
        }
    }
    assert!(disk.total_bytes() < 40_000, "{} bytes", disk.total_bytes());
    assert_eq!(engine.view().count(b"", None).unwrap(), 20);
}

/// Data that grows: an entry is rewritten once for every factor of four, and runs do not pile up.
#[test]
fn what_grows_is_rewritten_once_for_every_factor_of_four() {
    const FLUSHES: u64 = 1024;
    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let (mut engine, mut rng) = (create(&files), Rng::new(1));
    let (mut flushes, mut flushed_bytes, mut written_bytes) = (0, 0, 0);
    while flushes < FLUSHES {
        while !engine.is_full() {
            put(&mut engine, rng.next_u64());
        }
        engine.seal(Bytes::new());
        while let Some(job) = engine.next_job() {
            let finished = run(job);
            written_bytes += finished.written_bytes();
            if finished.is_flush() {
                flushes += 1;
                flushed_bytes += finished.written_bytes();
            }
            engine.finish(finished);
        }
        assert_few_runs(&engine, flushes);
    }
    let (times, factors) = (written_bytes as f64 / flushed_bytes as f64, (FLUSHES as f64).log(4.0));
    assert!((factors..=factors + 1.0).contains(&times), "all was written {times} times");
}

/// What is flushed and merged is of any size, some of it overwritten and hardly there any more, and merges of two sizes
/// are under way meanwhile.
#[test]
fn runs_of_all_sizes_do_not_pile_up() {
    for seed in 0..20 {
        let files: Arc<dyn Files> = Arc::new(MemFiles::new());
        let (mut engine, mut rng) = (create(&files), Rng::new(seed));
        let mut jobs: Vec<Job> = Vec::new();
        for flushes in 1..=300 {
            let (most, keys) = (*rng.pick(&[2, 5, 20]), *rng.pick(&[4, u64::MAX]));
            for _ in 0..rng.below(most) {
                put(&mut engine, rng.below(keys));
            }
            engine.evict_below(engine.sequence());
            engine.seal(Bytes::new());
            while !engine.sealed.is_empty() || rng.chance(800) {
                jobs.extend(engine.next_job());
                jobs.sort_by_key(|job| std::cmp::Reverse(job.size_bytes()));
                let Some(smallest) = jobs.last_mut() else { break };
                if let Some(finished) = smallest.step().unwrap() {
                    jobs.pop();
                    engine.finish(finished);
                }
            }
            if rng.chance(50) {
                jobs.drain(..).for_each(|job| _ = engine.finish(run(job)));
                engine.settle().unwrap();
                assert_few_runs(&engine, flushes);
            }
        }
    }
}

/// A merge that leaves older runs beneath drops what was superseded, but remembers deletions: what they delete may lie there.
#[test]
fn a_merge_of_the_newest_runs_keeps_one_version_of_a_key() {
    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let mut engine = create(&files);
    (0..100).for_each(|key| put(&mut engine, key));
    engine.seal(Bytes::new());
    for _ in 0..4 {
        (0..5).for_each(|key| put(&mut engine, key));
        let mut batch = Batch::new();
        batch.delete(key(5));
        engine.write(engine.sequence() + 1, batch).unwrap();
        engine.evict_below(engine.sequence());
        engine.seal(Bytes::new());
    }
    engine.settle().unwrap();
    let entries: Vec<usize> = engine.content.runs.iter().map(entries).collect();
    assert_eq!(entries, [6, 100]);
    assert_eq!(engine.view().count(b"", None).unwrap(), 99);
}

fn entries(run: &Arc<Run>) -> usize {
    let mut cursor = RunCursor::through(run.clone()).unwrap();
    let mut count = 0;
    while cursor.place().is_some() {
        count += 1;
        cursor.advance().unwrap();
    }
    count
}

fn key(key: u64) -> Key {
    Key::new(&[&b"a"[..], &key.to_be_bytes()].concat())
}

fn put(engine: &mut DiskEngine, key: u64) {
    let mut batch = Batch::new();
    batch.put(self::key(key), Bytes::from_static(&[0; 100]));
    engine.write(engine.sequence() + 1, batch).unwrap();
}

fn run(mut job: Job) -> Finished {
    std::iter::repeat_with(|| job.step().unwrap()).find_map(|finished| finished).unwrap()
}

/// Whoever runs a job lets others have the processor between two steps.
#[test]
fn a_step_is_a_little_work() {
    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let options = DiskOptions { memtable_bytes: 1 << 20, step_entries: 100, ..options() };
    let mut engine = DiskEngine::create(files, Path::new(FOLDER), options, Key::new(PAST_ENDS)).unwrap();
    let mut kinds = Vec::new();
    for _ in 0..4 {
        (0..1_000).for_each(|key| put(&mut engine, key));
        engine.seal(Bytes::new());
        while let Some(mut job) = engine.next_job() {
            kinds.push(job.kind());
            let mut steps = 1;
            let finished = loop {
                if let Some(finished) = job.step().unwrap() {
                    break finished;
                }
                steps += 1;
            };
            assert!(steps >= 10 || job.kind() == JobKind::Removal, "{:?} in {steps} steps", job.kind());
            engine.finish(finished);
        }
    }
    assert!(kinds.contains(&JobKind::Flush) && kinds.contains(&JobKind::Merge), "{kinds:?}");
}

/// While a merge of one size and one of the next were under way, what was flushed meanwhile was not merged at all, and writes
/// had to wait for the longer of the two.
#[test]
fn two_long_merges_do_not_hold_up_a_short_one() {
    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let mut engine = create(&files);
    let mut keys = 0;
    // What four flushes of so many keys give to merge.
    let mut merges_after = |keys_each: u64| {
        let mut merges = Vec::new();
        for _ in 0..RUNS_OF_A_SIZE {
            (0..keys_each).for_each(|n| put(&mut engine, keys + n));
            keys += keys_each;
            engine.seal(Bytes::new());
            while let Some(job) = engine.next_job() {
                match job.kind() {
                    JobKind::Flush | JobKind::Removal => drop(engine.finish(run(job))),
                    JobKind::Merge => merges.push(job),
                }
            }
        }
        merges
    };
    let (longest, long, short) = (merges_after(1_000), merges_after(250), merges_after(10));
    assert_eq!([longest.len(), long.len(), short.len()], [1, 1, 1]);
    assert_eq!(merges_after(10).len(), 0, "one of a size is enough");
    assert!(!longest[0].is_late(), "sixteen runs are no reason to hurry");
    assert_eq!(merges_after(10).len() + merges_after(10).len(), 0);
    assert!(longest[0].is_late());
}

/// Three of each size that so many flushes can come to.
fn assert_few_runs(engine: &DiskEngine, flushes: u64) {
    let sizes: Vec<u64> = engine.content.runs.iter().map(|run| run.size_bytes()).collect();
    let most = 3 * ((flushes as f64).log(4.0) as usize + 1);
    assert!(sizes.len() <= most, "{} runs after {flushes} flushes: {sizes:?}", sizes.len());
}

/// Giving back a memtable's memory takes its time: that is for a job, and never for whoever lets go of the last view of it.
#[test]
fn a_flushed_memtable_goes_with_a_job_once_no_view_sees_it() {
    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let mut engine = create(&files);
    let mut batch = Batch::new();
    batch.put(Key::new(b"k"), Bytes::from_static(b"v"));
    engine.write(1, batch).unwrap();
    let view = engine.view();
    let memtable = Arc::downgrade(&engine.content.memtables[0]);
    engine.seal(Bytes::new());
    engine.settle().unwrap();
    assert_eq!(engine.content.memtables.len(), 1);
    assert!(engine.next_job().is_none(), "a view still sees it");

    drop(view);
    assert!(memtable.upgrade().is_some());
    let job = engine.next_job().unwrap();
    assert_eq!(job.kind(), JobKind::Removal);
    assert!(memtable.upgrade().is_some());
    let finished = run(job);
    assert!(memtable.upgrade().is_none());
    engine.finish(finished);
    assert!(engine.next_job().is_none());
}
