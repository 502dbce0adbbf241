//! Our own engines, through the trait that the store uses.

use super::Engine;
use bytes::Bytes;
use storage::engine::{Batch, Engine as _, Key, MemoryEngine, MemoryView, Sequence, View as _};

pub struct Ours {
    engine: MemoryEngine,
    batch: Batch,
    view: MemoryView,
    sequence: Sequence,
}

impl Ours {
    pub fn in_memory() -> Ours {
        let engine = MemoryEngine::new();
        let view = engine.view();
        Ours { engine, batch: Batch::new(), view, sequence: 0 }
    }
}

impl Engine for Ours {
    /// Every put is an entry of the log of its own, with its own sequence.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.engine.look(key, |before| std::hint::black_box(before.is_some())).map_err(told)?;
        self.sequence += 1;
        self.batch.put(Key::new(key), Bytes::copy_from_slice(value));
        self.engine.write(self.sequence, std::mem::take(&mut self.batch)).map_err(told)
    }

    /// Nothing of the past is kept, as for the other engines.
    fn end_turn(&mut self) -> Result<(), String> {
        self.view = self.engine.view();
        self.engine.evict_below(self.sequence);
        self.engine.tidy(128);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        self.end_turn()
    }

    fn get(&self, key: &[u8]) -> Result<bool, String> {
        Ok(self.view.get(key).map_err(told)?.is_some())
    }

    fn scan(&self, from: &[u8], rows: usize) -> Result<usize, String> {
        let mut found = 0;
        for row in self.view.range(from, None).take(rows) {
            std::hint::black_box(row.map_err(told)?);
            found += 1;
        }
        Ok(found)
    }
}

fn told(error: impl std::error::Error) -> String {
    error.to_string()
}
