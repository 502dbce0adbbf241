//! Random lives of a log on a disk that crashes, forgets and refuses, against a model that shares no code with it.
//!
//! After every crash the log must hold what was synced, then possibly a few whole batches that were not. To see one
//! life again: `LOG_SEED=n cargo test -p storage --test log_model`; to see more of them, `LOG_LIVES=n`.

mod log_support;

use base::rng::Rng;
use base::{GroupId, Index, Position};
use bytes::Bytes;
use log_support::{entry, open};
use std::collections::BTreeMap;
use storage::files::MemFiles;
use storage::log::{GroupWrite, HardState, Log, LogEntry, LogOptions, LogWrite, RecoveredGroup};

#[test]
fn random_lives_lose_nothing_that_was_synced() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    if let Some(seed) = number("LOG_SEED") {
        Life::new(seed).run();
        return;
    }
    let mut totals = Totals::default();
    for seed in 0..number("LOG_LIVES").unwrap_or(400) {
        let life = std::panic::catch_unwind(|| Life::new(seed).run());
        let life = life.unwrap_or_else(|_| panic!("LOG_SEED={seed} cargo test -p storage --test log_model"));
        totals.add(&life);
    }
    println!("{totals:?}");
    assert!(totals.crashes > 1000 && totals.failed_opens > 100 && totals.failed_calls > 100, "{totals:?}");
    assert!(totals.unsynced_kept > 100 && totals.unsynced_lost > 100, "{totals:?}");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    for seed in 0..20 {
        assert_eq!(Life::new(seed).run().digest, Life::new(seed).run().digest, "seed {seed}");
    }
}

#[derive(Debug, Default)]
struct Totals {
    digest: u64,
    batches: u64,
    crashes: u64,
    failed_opens: u64,
    failed_calls: u64,
    unsynced_kept: u64,
    unsynced_lost: u64,
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.batches += other.batches;
        self.crashes += other.crashes;
        self.failed_opens += other.failed_opens;
        self.failed_calls += other.failed_calls;
        self.unsynced_kept += other.unsynced_kept;
        self.unsynced_lost += other.unsynced_lost;
    }
}

/// What the log should hold.
type Model = BTreeMap<GroupId, ModelGroup>;

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelGroup {
    hard_state: HardState,
    start: Position,
    entries: BTreeMap<Index, LogEntry>,
    configuration: Bytes,
}

impl ModelGroup {
    fn last(&self) -> Position {
        self.entries.last_key_value().map_or(self.start, |(_, entry)| entry.position)
    }

    fn apply(&mut self, write: &GroupWrite) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(reset) = write.reset {
            self.start = reset;
            self.entries.clear();
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|&index, _| index < first.position.index);
            self.entries.extend(write.entries.iter().map(|entry| (entry.position.index, entry.clone())));
        }
        if let Some(purge) = write.purge_to
            && purge.index > self.start.index
        {
            self.start = purge;
            self.entries.retain(|&index, _| index > purge.index);
        }
        if let Some(configuration) = &write.configuration {
            self.configuration = configuration.clone();
        }
    }
}

fn model_of(recovered: BTreeMap<GroupId, RecoveredGroup>) -> Model {
    let group = |group: RecoveredGroup| ModelGroup {
        hard_state: group.hard_state,
        start: group.start,
        entries: (group.start.index + 1..).zip(group.entries).collect(),
        configuration: group.configuration,
    };
    recovered.into_iter().map(|(id, state)| (id, group(state))).collect()
}

struct Life {
    rng: Rng,
    disk: MemFiles,
    options: LogOptions,
    groups: u64,
    synced: Model,
    /// The state after each batch since.
    unsynced: Vec<Model>,
    totals: Totals,
}

impl Life {
    fn new(seed: u64) -> Life {
        let mut rng = Rng::new(seed);
        let options = LogOptions {
            segment_size_bytes: 512 * rng.between(1, 6),
            spare_segments: rng.below(4) as usize,
            copy_forward_beyond_segments: rng.between(1, 6) as usize,
        };
        let groups = rng.between(1, 3);
        let disk = MemFiles::with_faults();
        Life { rng, disk, options, groups, synced: Model::new(), unsynced: Vec::new(), totals: Totals::default() }
    }

    fn run(mut self) -> Totals {
        for _ in 0..12 {
            let log = self.open();
            self.use_until_it_ends(log);
            // Else the process alone has died, and the next one reads the page cache.
            if self.rng.chance(700) {
                self.totals.crashes += 1;
                self.disk.crash(&mut self.rng);
            }
        }
        self.open();
        self.totals.digest = self.disk.digest();
        self.totals
    }

    fn open(&mut self) -> Log {
        loop {
            let is_refused = self.rng.chance(300);
            if is_refused && self.rng.chance(500) {
                self.disk.fail_sync_after(self.rng.between(1, 9));
            } else if is_refused {
                self.disk.fail_write_after(self.rng.between(1, 9));
            }
            match open(&self.disk, self.options.clone()) {
                Ok((log, recovered)) => {
                    self.forget_faults();
                    self.check(model_of(recovered));
                    assert_eq!(self.disk.total_bytes(), log.size_bytes(), "nothing is left lying about");
                    return log;
                }
                Err(error) => {
                    assert!(is_refused, "{error}");
                    assert!(error.to_string().contains("the disk was told"), "{error}");
                    self.totals.failed_opens += 1;
                    if self.rng.chance(700) {
                        self.disk.crash(&mut self.rng);
                    }
                    self.forget_faults();
                }
            }
        }
    }

    /// A fault that did not come to pass is put off beyond the life's end.
    fn forget_faults(&self) {
        self.disk.fail_sync_after(1 << 40);
        self.disk.fail_write_after(1 << 40);
    }

    fn check(&mut self, recovered: Model) {
        let kept = self.unsynced.iter().rposition(|state| *state == recovered);
        let at = kept.map_or(0, |at| at + 1);
        assert!(kept.is_some() || recovered == self.synced, "recovered {recovered:#?} of {:#?}", self.synced);
        self.totals.unsynced_kept += at as u64;
        self.totals.unsynced_lost += (self.unsynced.len() - at) as u64;
        self.synced = recovered;
        self.unsynced.clear();
    }

    fn use_until_it_ends(&mut self, mut log: Log) {
        if self.rng.chance(300) {
            self.disk.fail_sync_after(self.rng.between(1, 40));
        } else if self.rng.chance(300) {
            self.disk.fail_write_after(self.rng.between(1, 40));
        }
        for _ in 0..self.rng.below(60) {
            let result = match self.rng.below(10) {
                0..=5 => {
                    let write = self.draw_write();
                    let mut state = self.state().clone();
                    for group in &write.groups {
                        state.entry(group.group).or_default().apply(group);
                    }
                    // Even if it fails: some of it may have arrived.
                    self.unsynced.push(state);
                    self.totals.batches += 1;
                    log.append(&write)
                }
                6..=7 => log.sync().map(|()| self.all_is_synced()),
                8 => log.seal().map(|()| {
                    assert!(log.is_sealed());
                    self.all_is_synced();
                }),
                _ => {
                    if let Some(Ok(spare)) = log.spare_job().map(|job| job.run(|| ())) {
                        log.add_spare(spare);
                    }
                    Ok(())
                }
            };
            if let Err(error) = result {
                assert!(error.to_string().contains("the disk was told"), "{error}");
                self.totals.failed_calls += 1;
                log.append(&self.draw_write()).unwrap_err();
                log.sync().unwrap_err();
                break;
            }
        }
        self.forget_faults();
    }

    fn all_is_synced(&mut self) {
        if let Some(state) = self.unsynced.pop() {
            self.synced = state;
            self.unsynced.clear();
        }
    }

    fn state(&self) -> &Model {
        self.unsynced.last().unwrap_or(&self.synced)
    }

    fn draw_write(&mut self) -> LogWrite {
        let mut groups = Vec::new();
        for group in 1..=self.groups {
            // The higher its number, the more a group lags.
            if groups.is_empty() || self.rng.chance(600 / group) {
                let state = self.state().get(&group).cloned().unwrap_or_default();
                groups.push(self.draw_group(group, &state));
            }
        }
        LogWrite { groups }
    }

    fn draw_group(&mut self, group: GroupId, state: &ModelGroup) -> GroupWrite {
        let rng = &mut self.rng;
        let mut write = GroupWrite { group, ..GroupWrite::default() };
        let mut hard_state = state.hard_state;
        if rng.chance(150) {
            hard_state = HardState { term: hard_state.term + rng.between(1, 2), vote: rng.below(4), ..hard_state };
        }
        hard_state.term = hard_state.term.max(1);
        let (mut start, mut last) = (state.start, state.last());
        if rng.chance(30) {
            start = Position { index: last.index + rng.below(20), term: hard_state.term };
            last = start;
            write.reset = Some(start);
        }
        if rng.chance(800) {
            let mut first = last.index + 1;
            if rng.chance(200) {
                // A suffix goes; a new leader's term is new.
                hard_state = HardState { term: hard_state.term + 1, vote: 0, ..hard_state };
                first = rng.between(start.index + 1, last.index + 1);
            }
            let count = if rng.chance(50) { rng.between(5, 30) } else { rng.between(1, 4) };
            for index in first..first + count {
                let length = if rng.chance(20) { rng.between(500, 5000) } else { rng.below(120) };
                write.entries.push(entry(index, hard_state.term, length as usize));
            }
            last.index = first + count - 1;
        }
        if rng.chance(200 / group) && last.index > start.index {
            let index = rng.between(start.index + 1, last.index);
            write.purge_to = Some(Position { index, term: hard_state.term });
        }
        if rng.chance(100) {
            let byte = rng.below(256) as u8;
            write.configuration = Some(vec![byte; rng.below(60) as usize].into());
        }
        hard_state.commit = hard_state.commit.max(last.index.saturating_sub(rng.below(5)));
        if hard_state != state.hard_state {
            write.hard_state = Some(hard_state);
        }
        write
    }
}
