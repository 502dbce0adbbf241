//! One who watches: a cursor, and the patience to wait.

use super::ring::Found;
use super::{Before, End, Hub, Kind, News, Wish};
use bytes::Bytes;
use kv::{Change, OutOfReach, ReadError, Revision};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Duration, Instant, timeout_at};

/// Tells every revision from its first on. Dropping it ends it.
pub struct Watcher {
    hub: Arc<Hub>,
    wish: Arc<Wish>,
    /// The cursor: everything before it was told, or was not wanted.
    next: u64,
    news: watch::Receiver<News>,
    /// What was there when it began was told, and so was that.
    caught_up: bool,
    slow: bool,
    /// When somebody should be told that it lives, and how often that was since the last change.
    tell_at: Instant,
    quiet: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Revisions with changes that are wanted, each whole, encoded one after another.
    Changes(Bytes),
    /// Everything up to this revision was told.
    Progress(u64),
    /// Nothing happened for a while.
    Heartbeat,
    /// What comes next is gone: the oldest revision that there is. The last event.
    Compacted { next: u64, oldest: u64 },
    /// What comes next can't be read, for this reason. The last event.
    Failed(String),
    /// The last event.
    End(End),
}

/// What there is for a watcher without waiting.
#[derive(Debug)]
enum Step {
    Batch(Bytes),
    /// Some revisions, none of which is wanted.
    Passed,
    Nothing,
    Compacted {
        oldest: u64,
    },
    Failed(String),
}

impl Watcher {
    /// The revision that it tells next, or a later one.
    pub fn cursor(&self) -> u64 {
        self.next
    }

    pub(super) fn new(hub: Arc<Hub>, wish: Wish, from: u64) -> Watcher {
        Watcher {
            news: hub.news.subscribe(),
            hub,
            wish: Arc::new(wish),
            next: from.max(1),
            caught_up: false,
            slow: false,
            tell_at: Instant::now() + QUIET,
            quiet: 0,
        }
    }

    /// Waits for whatever comes next. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Event {
        loop {
            // What is told from here on wakes it.
            if let Some(end) = self.news.borrow_and_update().end.clone() {
                return Event::End(end);
            }
            match self.take() {
                Step::Batch(text) => {
                    (self.tell_at, self.quiet) = (Instant::now() + QUIET, 0);
                    return Event::Changes(text);
                }
                Step::Passed => {
                    yield_now().await;
                    continue;
                }
                Step::Compacted { oldest } => return Event::Compacted { next: self.next, oldest },
                Step::Failed(why) => return Event::Failed(why),
                Step::Nothing if !self.caught_up => {
                    self.caught_up = true;
                    return Event::Progress(self.next - 1);
                }
                Step::Nothing => {}
            }
            // The hub, which this keeps, has the sender.
            if timeout_at(self.tell_at, self.news.changed()).await.is_err() {
                self.tell_at = Instant::now() + QUIET;
                self.quiet += 1;
                return if self.quiet.is_multiple_of(2) { Event::Progress(self.next - 1) } else { Event::Heartbeat };
            }
        }
    }

    fn take(&mut self) -> Step {
        if let Some((text, next)) = self.hub.batches().get(&self.wish, self.next) {
            self.next = next;
            return Step::Batch(text);
        }
        let to_round = (BATCH_REVISIONS - self.next % BATCH_REVISIONS) as usize;
        let found = self.hub.ring().from(self.next, self.wish.previous, to_round);
        self.set_slow(matches!(found, Found::Behind(_)) && self.caught_up);
        match found {
            Found::Ahead => Step::Nothing,
            Found::Here(revisions) => self.take_from(revisions.into_iter()),
            Found::Behind(until) => self.take_history(until),
        }
    }

    fn take_history(&mut self, until: u64) -> Step {
        let Some(view) = self.hub.view() else { return Step::Nothing };
        if self.next > view.revision() {
            // The ring is about to be filled.
            return Step::Nothing;
        }
        match view.changes(self.next, self.wish.keys.clone(), self.wish.previous) {
            Ok(changes) => {
                let ahead = usize::try_from(until.saturating_sub(self.next)).unwrap_or(usize::MAX);
                let changes = changes.take(if ahead == 0 { MAX_PASSED } else { ahead.min(MAX_PASSED) });
                let mut failed = None;
                let read = changes.map_while(|revision| revision.map_err(|error| failed = Some(error)).ok());
                match (self.take_from(read), failed) {
                    // What was read before it is told first.
                    (Step::Nothing, Some(error)) => Step::Failed(error.to_string()),
                    (step, _) => step,
                }
            }
            Err(ReadError::OutOfReach(OutOfReach::Compacted { oldest, .. })) => Step::Compacted { oldest },
            Err(ReadError::OutOfReach(OutOfReach::Future { .. })) => Step::Nothing,
            Err(ReadError::Storage(error)) => Step::Failed(error.to_string()),
        }
    }

    /// Encodes what is wanted of these, up to about a batch, and goes on behind it.
    fn take_from<R: std::borrow::Borrow<Revision>>(&mut self, revisions: impl Iterator<Item = R>) -> Step {
        let from = self.next;
        let mut text = Vec::new();
        let before = if self.wish.previous { Before::Shown } else { Before::Hidden };
        for revision in revisions {
            let revision = revision.borrow();
            let wanted: Vec<&Change> = revision.changes.iter().filter(|change| self.wish.wants(change)).collect();
            if !wanted.is_empty() {
                (self.wish.encoding.encode)(revision.revision, &wanted, before, &mut text);
            }
            self.next = revision.revision + 1;
            if !text.is_empty() && (text.len() >= BATCH_BYTES || self.next.is_multiple_of(BATCH_REVISIONS)) {
                break;
            }
        }
        if text.is_empty() {
            return if self.next > from { Step::Passed } else { Step::Nothing };
        }
        let text = Bytes::from(text);
        self.hub.batches().keep(&self.wish, from, &text, self.next);
        Step::Batch(text)
    }

    fn set_slow(&mut self, slow: bool) {
        if self.slow != slow {
            self.slow = slow;
            match slow {
                true => self.hub.slow.fetch_add(1, Ordering::Relaxed),
                false => self.hub.slow.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.set_slow(false);
        self.hub.leave(&self.wish);
    }
}

impl Wish {
    fn wants(&self, change: &Change) -> bool {
        let kind = if change.now.is_some() { Kind::Put } else { Kind::Delete };
        self.only.is_none_or(|only| only == kind) && self.keys.contains(&change.key)
    }
}

/// After this long without anything a sign of life is due: a heartbeat, then progress, in turn.
const QUIET: Duration = Duration::from_millis(2500);
/// A batch is full with so many bytes, or when it comes to a multiple of so many revisions.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_REVISIONS: u64 = 256;
/// So many revisions of history without anything wanted are looked at in one go.
const MAX_PASSED: usize = 2048;
