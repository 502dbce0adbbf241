//! `lsm-tree` as our design would use it: no log of its own, a memtable that is sealed when it is full, one thread that
//! flushes and one that compacts. One memtable may wait while the next fills; then puts wait.

use super::Engine;
use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

pub struct Lsm {
    shared: Arc<Shared>,
    sequence: SequenceNumberCounter,
    visible: SequenceNumberCounter,
    memtable_bytes: u64,
}

struct Shared {
    tree: AnyTree,
    visible: SequenceNumberCounter,
    todo: Mutex<Todo>,
    changed: Condvar,
}

#[derive(Default)]
struct Todo {
    /// Sealed, and not flushed yet.
    sealed: usize,
    /// A flush came since the last look at the levels.
    levels_changed: bool,
    is_compacting: bool,
    failed: Option<String>,
}

impl Lsm {
    pub fn open(folder: &Path, memory: usize) -> Result<Lsm, String> {
        let (sequence, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let cache = Arc::new(Cache::with_capacity_bytes(memory as u64 / 3));
        let config = Config::new(folder, sequence.clone(), visible.clone()).use_cache(cache);
        let tree = config.open().map_err(told)?;
        let next = tree.get_highest_seqno().map_or(0, |highest| highest + 1);
        sequence.set(next);
        visible.set(next);
        let shared = Shared { tree, visible: visible.clone(), todo: Mutex::default(), changed: Condvar::new() };
        let shared = Arc::new(shared);
        for work in [Shared::flush, Shared::compact] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Err(error) = work(&shared) {
                    shared.lock().failed = Some(told(error));
                    shared.changed.notify_all();
                }
            });
        }
        Ok(Lsm { shared, sequence, visible, memtable_bytes: memory as u64 / 3 })
    }

    fn seal(&self) -> Result<(), String> {
        self.shared.wait_until(|todo| todo.sealed == 0)?;
        if self.shared.tree.rotate_memtable().is_some() {
            self.shared.lock().sealed += 1;
            self.shared.changed.notify_all();
        }
        Ok(())
    }
}

impl Engine for Lsm {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let sequence = self.sequence.next();
        self.shared.tree.get(key, sequence).map_err(told)?;
        let (_, memtable) = self.shared.tree.insert(key, value, sequence);
        if memtable >= self.memtable_bytes { self.seal() } else { Ok(()) }
    }

    fn end_turn(&mut self) -> Result<(), String> {
        self.visible.fetch_max(self.sequence.get());
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        self.seal()?;
        self.shared.wait_until(|todo| todo.sealed == 0 && !todo.levels_changed && !todo.is_compacting)
    }

    fn get(&self, key: &[u8]) -> Result<bool, String> {
        Ok(self.shared.tree.get(key, self.visible.get()).map_err(told)?.is_some())
    }

    fn scan(&self, from: &[u8], rows: usize) -> Result<usize, String> {
        let mut found = 0;
        for row in self.shared.tree.range(from.., self.visible.get(), None).take(rows) {
            std::hint::black_box(row.into_inner().map_err(told)?);
            found += 1;
        }
        Ok(found)
    }
}

impl Shared {
    fn flush(&self) -> lsm_tree::Result<()> {
        loop {
            let mut todo = self.lock();
            while todo.sealed == 0 {
                todo = self.changed.wait(todo).unwrap_or_else(PoisonError::into_inner);
            }
            drop(todo);
            let lock = self.tree.get_flush_lock();
            self.tree.flush(&lock, self.visible.get())?;
            drop(lock);
            let mut todo = self.lock();
            todo.sealed -= 1;
            todo.levels_changed = true;
            self.changed.notify_all();
        }
    }

    /// The tree does not say whether there was something to compact, but its version tells.
    fn compact(&self) -> lsm_tree::Result<()> {
        // Tables of 16 MiB, since the first level takes four of them and should not take all of a million keys.
        let strategy = Arc::new(Leveled::default().with_table_target_size(16 << 20));
        loop {
            let mut todo = self.lock();
            while !todo.levels_changed {
                todo.is_compacting = false;
                self.changed.notify_all();
                todo = self.changed.wait(todo).unwrap_or_else(PoisonError::into_inner);
            }
            todo.levels_changed = false;
            todo.is_compacting = true;
            drop(todo);
            loop {
                let before = self.tree.current_version().id();
                self.tree.compact(strategy.clone(), self.visible.get())?;
                if self.tree.current_version().id() == before {
                    break;
                }
            }
        }
    }

    fn wait_until(&self, mut is_met: impl FnMut(&Todo) -> bool) -> Result<(), String> {
        let mut todo = self.lock();
        loop {
            if let Some(reason) = &todo.failed {
                return Err(reason.clone());
            }
            if is_met(&todo) {
                return Ok(());
            }
            todo = self.changed.wait(todo).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(error: lsm_tree::Error) -> String {
    format!("lsm-tree: {error}")
}
