//! Watches: who wants to know what changes is told every change once, in order, however slowly it reads.
//!
//! A [`Watcher`] is a cursor, the next revision that it wants, and pulls. Nobody pushes, so nobody has to keep anything
//! for it: what a watcher costs that never reads is the cursor, and one batch that waits for its connection. The node's
//! thread knows nothing of watchers but that there are some, and then says that there is news.
//!
//! 1. The node's thread publishes a view with a new revision ([`Hub::publish`]).
//! 2. While anybody watches, one task reads what the new revisions changed and puts it into the [`ring`]. Then it
//!    pauses: for a few milliseconds, or for longer if very many watch, so that under load every watcher makes one write of
//!    many revisions, and is woken once for it.
//! 3. Each watcher takes from its cursor on what is in the ring. One whose cursor has fallen out of it, or begins in the
//!    past, reads the store's history in small steps until it is in the ring; no view is held between two of them.
//! 4. What is taken is encoded as one batch, and watchers that want the same thing from the same revision on share it
//!    ([`batches`]). Batches end at round numbers, so that watchers which fell behind at different places soon do.
//!
//! Connections with a watch on them go on on a thread of a lower priority ([`crate::leisure`]): where there is more to tell
//! than the machine can carry beside its other work, watchers fall behind, and the others go on.
//!
//! Not handled: telling watchers apart from other requests in how many there may be.

mod batches;
mod ring;
#[cfg(test)]
mod tests;
mod watcher;

pub use watcher::{Event, Watcher};

use crate::leisure::Leisure;
use arc_swap::ArcSwapOption;
use batches::Batches;
use kv::{Change, KeyRange, ReadError, Revision, View};
use ring::Ring;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::sleep;

/// What a watcher wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub keys: KeyRange,
    /// Only changes of that kind.
    pub only: Option<Kind>,
    /// With what was there before.
    pub previous: bool,
    pub encoding: &'static Encoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
}

/// Whether what was there before is written. It may be known because somebody else wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Shown,
    Hidden,
}

/// How changes are written. One is as good as its name: two of one name write the same.
#[derive(Debug)]
pub struct Encoding {
    pub name: &'static str,
    /// Appends one revision, of which these changes are wanted.
    pub encode: fn(u64, &[&Change], Before, &mut Vec<u8>),
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Encoding) -> bool {
        self.name == other.name
    }
}

impl Eq for Encoding {}

/// Why there will be no more news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Stopping,
    /// With the reason, for people.
    Removed(String),
}

/// The state that the node published last, and all who want to know of every change of it.
pub struct Hub {
    view: ArcSwapOption<View>,
    /// Of that view. Written by the node's thread only.
    revision: AtomicU64,
    /// Somebody watches, so the task that fills the ring wants to be told.
    filling: AtomicBool,
    published: Notify,
    /// Locked before the ring and the batches, if together.
    watchers: Mutex<Watchers>,
    ring: Mutex<Ring>,
    batches: Mutex<Batches>,
    /// From the task that fills the ring to the watchers.
    news: watch::Sender<News>,
    slow: AtomicUsize,
    leisure: Leisure,
}

#[derive(Default)]
struct Watchers {
    count: usize,
    /// How many of them want to see what was there before.
    previous: usize,
    /// There is a task that fills the ring.
    filled: bool,
}

#[derive(Clone, Debug, Default)]
struct News {
    /// Everything before that revision is in the ring, or was.
    next: u64,
    end: Option<End>,
}

/// What there is to tell of watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub watchers: usize,
    /// Those among them that read history because the ring has moved on.
    pub slow: usize,
    pub ring_revisions: usize,
    pub ring_bytes: usize,
}

impl Default for Hub {
    fn default() -> Hub {
        Hub {
            view: ArcSwapOption::empty(),
            revision: AtomicU64::new(0),
            filling: AtomicBool::new(false),
            published: Notify::new(),
            watchers: Mutex::default(),
            ring: Mutex::default(),
            batches: Mutex::default(),
            news: watch::Sender::default(),
            slow: AtomicUsize::new(0),
            leisure: Leisure::default(),
        }
    }
}

impl Hub {
    /// Called by the node's thread alone.
    pub fn publish(&self, view: View) {
        let revision = view.revision();
        self.view.store(Some(Arc::new(view)));
        if self.revision.load(Ordering::Relaxed) == revision {
            return;
        }
        self.revision.store(revision, Ordering::Relaxed);
        // Either this sees that the task is filling, or the task, which says so before it looks, sees this view.
        fence(Ordering::SeqCst);
        if self.filling.load(Ordering::Relaxed) {
            self.published.notify_one();
        }
    }

    /// What was published last. `None`: nothing yet.
    pub fn view(&self) -> Option<View> {
        self.view.load().as_deref().cloned()
    }

    /// Tells everything from that revision on, which may be still to come. If it is compacted, or will be when its turn
    /// comes, the watcher is told so. Called within the runtime that shall do the work.
    pub fn watch(self: &Arc<Hub>, wish: Wish, from: u64) -> Watcher {
        let mut watchers = self.watchers();
        watchers.count += 1;
        watchers.previous += usize::from(wish.previous);
        if !watchers.filled {
            watchers.filled = true;
            tokio::spawn(self.clone().fill());
        }
        drop(watchers);
        Watcher::new(self.clone(), wish, from)
    }

    /// Every watcher is told, and so is every one that still comes.
    pub fn end(&self, end: End) {
        self.news.send_modify(|news| news.end = Some(end));
    }

    /// Where watchers are best driven, so that they cost the others little.
    pub fn leisure(&self) -> Option<Runtime> {
        self.leisure.runtime()
    }

    /// Returns once there will be no more news.
    pub async fn ended(&self) -> End {
        let ended = self.news.subscribe().wait_for(|news| news.end.is_some()).await.map(|news| news.end.clone());
        ended.ok().flatten().unwrap_or(End::Stopping)
    }

    pub fn counts(&self) -> Counts {
        let watchers = self.watchers().count;
        let ring = self.ring();
        Counts {
            watchers,
            slow: self.slow.load(Ordering::Relaxed),
            ring_revisions: ring.len(),
            ring_bytes: ring.bytes(),
        }
    }

    fn leave(&self, wish: &Wish) {
        let mut watchers = self.watchers();
        watchers.count -= 1;
        watchers.previous -= usize::from(wish.previous);
        let last = watchers.count == 0;
        drop(watchers);
        if last {
            self.published.notify_one();
        }
    }

    /// Keeps the ring filled as long as anybody watches.
    async fn fill(self: Arc<Hub>) {
        self.filling.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while let Some(watchers) = self.goes_on() {
            while self.fill_some() {
                yield_now().await;
            }
            sleep(pause(watchers)).await;
            self.published.notified().await;
        }
    }

    /// How many watch; `None` if nobody does, and then the ring is empty and the next who comes has it filled again.
    fn goes_on(&self) -> Option<usize> {
        let mut watchers = self.watchers();
        if watchers.count > 0 {
            return Some(watchers.count);
        }
        watchers.filled = false;
        self.filling.store(false, Ordering::Relaxed);
        *self.ring() = Ring::default();
        *self.batches() = Batches::default();
        None
    }

    /// Whether there is more.
    fn fill_some(&self) -> bool {
        let Some(view) = self.view() else { return false };
        let previous = self.watchers().previous > 0;
        let newest = view.revision();
        let next = self.ring().go_on(newest, previous);
        if next > newest {
            self.tell(next);
            return false;
        }
        let Ok(read) = read_some(&view, next, previous) else {
            // Before it could be read the view has jumped; or it can't be read at all. Watchers find out in their own
            // way, each when it comes to that.
            self.ring().skip_to(newest + 1);
            self.tell(newest + 1);
            return false;
        };
        drop(view);
        let mut ring = self.ring();
        read.into_iter().for_each(|revision| ring.push(revision));
        let next = ring.next();
        drop(ring);
        self.tell(next);
        next <= newest
    }

    fn tell(&self, next: u64) {
        self.news.send_if_modified(|news| std::mem::replace(&mut news.next, next) != next);
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        lock(&self.watchers)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        lock(&self.batches)
    }
}

/// Every change under these locks is whole before anything can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_some(view: &View, next: u64, previous: bool) -> Result<Vec<Revision>, ReadError> {
    let changes = view.changes(next, KeyRange::all(), previous)?;
    Ok(changes.take(FILLED_AT_ONCE).collect::<Result<_, _>>()?)
}

/// How long everybody is left alone after some news.
fn pause(watchers: usize) -> Duration {
    let for_all = PAUSE_EACH * u32::try_from(watchers).unwrap_or(u32::MAX);
    for_all.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// To wake a watcher and to write to its connection takes some ten microseconds; so all of them take a fraction of a core.
const PAUSE_EACH: Duration = Duration::from_micros(100);
/// Revisions between two looks at whatever else the runtime's thread has to do.
const FILLED_AT_ONCE: usize = 256;
