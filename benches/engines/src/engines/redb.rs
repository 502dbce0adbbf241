//! `redb` under an overlay: puts go to a sorted map; a full one is committed by a thread, as one sorted batch in one
//! durable transaction, while the next fills. Reads look at both maps first. Only the newest version of a key is kept,
//! which flatters it: our views and our past would need more.

use super::{Engine, OVERHEAD_BYTES};
use crate::work::{KEY_BYTES, Key};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

type Overlay = BTreeMap<Key, Box<[u8]>>;
type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

pub struct Redb {
    database: Arc<Database>,
    active: Overlay,
    active_bytes: usize,
    overlay_bytes: usize,
    frozen: Option<Arc<Overlay>>,
    rows: Rows,
    commits: Sender<Arc<Overlay>>,
    committed: Receiver<Result<(), redb::Error>>,
}

impl Redb {
    pub fn open(folder: &Path, memory: usize) -> Result<Redb, String> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(memory / 3).create(folder.join("rows.redb")).map_err(told)?;
        let database = Arc::new(database);
        commit(&database, &Overlay::new()).map_err(told)?;
        let rows = newest(&database)?;
        let (commits, to_commit) = channel::<Arc<Overlay>>();
        let (tell, committed) = channel();
        let committing = Arc::clone(&database);
        std::thread::spawn(move || {
            for overlay in to_commit {
                let _ = tell.send(commit(&committing, &overlay));
            }
        });
        let overlay_bytes = memory / 3;
        Ok(Redb {
            database,
            active: Overlay::new(),
            active_bytes: 0,
            overlay_bytes,
            frozen: None,
            rows,
            commits,
            committed,
        })
    }

    fn freeze(&mut self) -> Result<(), String> {
        self.wait_for_commit()?;
        let overlay = Arc::new(std::mem::take(&mut self.active));
        self.active_bytes = 0;
        self.frozen = Some(Arc::clone(&overlay));
        self.commits.send(overlay).map_err(|_| "the committing thread is gone".to_string())
    }

    fn wait_for_commit(&mut self) -> Result<(), String> {
        if self.frozen.is_some() {
            self.committed.recv().map_err(|_| "the committing thread is gone".to_string())?.map_err(told)?;
            self.rows = newest(&self.database)?;
            self.frozen = None;
        }
        Ok(())
    }

    fn overlays(&self) -> impl Iterator<Item = &Overlay> {
        std::iter::once(&self.active).chain(self.frozen.as_deref())
    }
}

impl Engine for Redb {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.get(key)?;
        let key: Key = key.try_into().map_err(|_| "a key of another size")?;
        if self.active.insert(key, value.into()).is_none() {
            self.active_bytes += KEY_BYTES + value.len() + OVERHEAD_BYTES;
        }
        if self.active_bytes >= self.overlay_bytes { self.freeze() } else { Ok(()) }
    }

    fn end_turn(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        self.freeze()?;
        self.wait_for_commit()
    }

    fn get(&self, key: &[u8]) -> Result<bool, String> {
        if self.overlays().any(|overlay| overlay.contains_key(key)) {
            return Ok(true);
        }
        Ok(self.rows.get(key).map_err(told)?.is_some())
    }

    /// Scans are measured when all is committed, so nothing has to be merged in.
    fn scan(&self, from: &[u8], rows: usize) -> Result<usize, String> {
        assert!(self.overlays().all(|overlay| overlay.is_empty()), "settle first");
        let mut found = 0;
        for row in self.rows.range(from..).map_err(told)?.take(rows) {
            let (key, value) = row.map_err(told)?;
            std::hint::black_box((key.value().to_vec(), value.value().to_vec()));
            found += 1;
        }
        Ok(found)
    }
}

fn commit(database: &Database, overlay: &Overlay) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // Else the whole file is read after a crash.
    transaction.set_quick_repair(true);
    let mut rows = transaction.open_table(ROWS)?;
    for (key, value) in overlay {
        rows.insert(key.as_slice(), value.as_ref())?;
    }
    drop(rows);
    transaction.commit()?;
    Ok(())
}

fn newest(database: &Database) -> Result<Rows, String> {
    database.begin_read().map_err(told)?.open_table(ROWS).map_err(told)
}

fn told(error: impl Into<redb::Error>) -> String {
    format!("redb: {}", error.into())
}
