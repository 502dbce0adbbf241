//! `fjall`: lsm-tree with a journal, and workers that flush and compact. The journal is not synced, since ours would be
//! the log; its bytes count all the same. Its own brake holds back puts: four sealed memtables wait at most.

use super::Engine;
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use std::time::Duration;

pub struct Fjall {
    database: Database,
    rows: Keyspace,
    batch: Option<fjall::OwnedWriteBatch>,
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So often nothing may have changed before it counts as settled: a worker pauses between two compactions.
const QUIET_LOOKS: u32 = 10;

impl Fjall {
    pub fn open(folder: &Path, memory: usize) -> Result<Fjall, String> {
        let builder = Database::builder(folder).cache_size(memory as u64 / 3).worker_threads(2);
        let database = builder.open().map_err(told)?;
        let options = move || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(memory as u64 / 6)
                .data_block_compression_policy(CompressionPolicy::disabled())
                .manual_journal_persist(true)
        };
        let rows = database.keyspace("rows", options).map_err(told)?;
        Ok(Fjall { database, rows, batch: None })
    }
}

impl Engine for Fjall {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.rows.get(key).map_err(told)?;
        let batch = self.batch.get_or_insert_with(|| self.database.batch());
        batch.insert(&self.rows, key, value);
        Ok(())
    }

    fn end_turn(&mut self) -> Result<(), String> {
        self.batch.take().map_or(Ok(()), |batch| batch.commit().map_err(told))
    }

    fn settle(&mut self) -> Result<(), String> {
        self.rows.rotate_memtable_and_wait().map_err(told)?;
        self.database.persist(PersistMode::SyncAll).map_err(told)?;
        let (mut before, mut quiet) = (usize::MAX, 0);
        while quiet < QUIET_LOOKS {
            std::thread::sleep(LOOK_EVERY);
            let completed = self.database.compactions_completed();
            let is_busy = self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0;
            quiet = if is_busy || completed != before { 0 } else { quiet + 1 };
            before = completed;
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<bool, String> {
        Ok(self.rows.get(key).map_err(told)?.is_some())
    }

    fn scan(&self, from: &[u8], rows: usize) -> Result<usize, String> {
        let mut found = 0;
        for row in self.rows.range(from..).take(rows) {
            std::hint::black_box(row.into_inner().map_err(told)?);
            found += 1;
        }
        Ok(found)
    }
}

fn told(error: fjall::Error) -> String {
    format!("fjall: {error}")
}
