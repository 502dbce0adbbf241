//! Watches: each follows some keys, revision by revision, from the published view of one host and then of another.
//!
//! All that a watch keeps is which revision comes next. Its host may die, or it changes hosts as it likes; it may be slow
//! and go on with a past that it has in hand, or be told that what it wants is compacted, and then it begins again at the
//! oldest there is. Whatever happens, it sees every revision once, whole, in order, with what the model says it changed.

use crate::clients::host_to_ask;
use crate::{HostNumber, Micros, SECOND, Sabotage, World, check};
use base::rng::Rng;
use kv::{Changes, KeyRange};

/// Alarms: from here on a watch's number.
pub const WATCHER: u64 = 1 << 34;

pub struct Watchers {
    rng: Rng,
    watches: Vec<Watch>,
}

struct Watch {
    keys: KeyRange,
    previous: bool,
    /// The next revision that it wants.
    next: u64,
    host: Option<HostNumber>,
    mean_pause: Micros,
    reading: Option<Reading>,
}

/// Changes that it took in hand and has not seen all of.
struct Reading {
    changes: Changes,
    /// The oldest revision that there was.
    oldest: u64,
}

impl Watchers {
    pub fn new(mut rng: Rng, count: usize) -> Watchers {
        let mut watch = |_| {
            let key = |n: u64| format!("t{n}");
            let first = rng.below(6);
            let keys = match rng.below(4) {
                0 | 1 => KeyRange::all(),
                2 => KeyRange::single(key(first)),
                _ => KeyRange::between(key(first), key(first + 3)),
            };
            let mean_pause = *rng.pick(&[SECOND / 10, SECOND / 2, SECOND]);
            Watch { keys, previous: rng.chance(700), next: 1, host: None, mean_pause, reading: None }
        };
        Watchers { watches: (0..count).map(&mut watch).collect(), rng }
    }

    pub fn begin(&mut self, world: &mut World) {
        (0..self.watches.len()).for_each(|watch| self.pause(world, watch));
    }

    fn pause(&mut self, world: &mut World, watch: usize) {
        let pause = self.rng.below(2 * self.watches[watch].mean_pause + 1);
        world.alarm(pause, WATCHER + watch as u64);
    }

    pub fn wake(&mut self, world: &mut World, at: usize) {
        let watch = &mut self.watches[at];
        if watch.reading.is_none() {
            let stays = watch.host.filter(|&host| world.view(host).is_some() && !self.rng.chance(50));
            let host = stays.unwrap_or_else(|| host_to_ask(&mut self.rng, world));
            world.totals.watches_resumed += u64::from(stays.is_none());
            let is_late = stays.is_none() && world.settings.sabotage == Some(Sabotage::ResumeTooLate);
            watch.host = Some(host);
            watch.open(world, host, watch.next + u64::from(is_late));
        }
        let most = if self.rng.chance(300) { self.rng.between(1, 10) as usize } else { usize::MAX };
        watch.read(world, most);
        self.pause(world, at);
    }

    /// Once nothing happens any more: everything that there is was seen.
    pub fn must_have_seen_all(&mut self, world: &mut World, host: HostNumber) {
        for watch in &mut self.watches {
            watch.read(world, usize::MAX);
            watch.open(world, host, watch.next);
            watch.read(world, usize::MAX);
            // One that was told of a compaction begins again at once.
            watch.open(world, host, watch.next);
            watch.read(world, usize::MAX);
            let revision = world.checks.model.revision();
            let result = match watch.next == revision + 1 {
                true => Ok(()),
                false => Err(format!("it wants {} next, and the last is {revision}", watch.next)),
            };
            world.checks.must("a watch sees everything", result);
        }
    }
}

impl Watch {
    fn open(&mut self, world: &mut World, host: HostNumber, from: u64) {
        if self.reading.is_some() {
            return;
        }
        let Some(view) = world.view(host).cloned() else { return };
        match view.changes(from, self.keys.clone(), self.previous) {
            Ok(changes) => {
                let result = match from >= world.checks.model.compacted_at(view.applied().index) {
                    true => Ok(()),
                    false => Err(format!("it is shown {from}, which is compacted")),
                };
                world.checks.must("a watch sees nothing that is compacted", result);
                self.reading = Some(Reading { changes, oldest: view.compacted() });
            }
            Err(why) => {
                let result = check::out_of_reach(&world.checks.model, &view, from, why);
                world.checks.must("a watch is told of compactions as they are", result);
                world.totals.watches_compacted += 1;
                self.next = self.next.max(view.compacted());
            }
        }
    }

    fn read(&mut self, world: &mut World, most: usize) {
        let Some(reading) = &mut self.reading else { return };
        for _ in 0..most {
            // A host that died takes what it had in tables along: the watch goes on elsewhere.
            let Ok(Some(revision)) = reading.changes.next().transpose() else {
                self.reading = None;
                return;
            };
            let model = &world.checks.model;
            let result = check::change(model, &revision, self.next, &self.keys, self.previous, reading.oldest);
            let (now, number) = (world.now(), self.next);
            world.trace.note(now, self.host, &[35, number, revision.changes.len() as u64], || {
                format!("tells a watch of {} changes in revision {number}", revision.changes.len())
            });
            world.checks.must("a watch sees every revision once, whole and in order", result);
            world.totals.watched += revision.changes.len() as u64;
            self.next += 1;
        }
    }
}
