//! Where a store's state lives.

use crate::store::Store;
use crate::store::past_ends;
use std::path::PathBuf;
use std::sync::Arc;
use storage::StorageError;
use storage::engine::disk::{DiskEngine, DiskOptions};
use storage::engine::{AnyEngine, MemoryEngine};
use storage::files::Files;

#[derive(Clone)]
pub enum Home {
    /// In memory: checkpoints make it durable.
    Memory,
    /// In sorted tables in a folder of its own: flushes make it durable.
    Disk { files: Arc<dyn Files>, folder: PathBuf, options: DiskOptions },
}

impl Home {
    /// An empty engine. One on disk takes the place of what is there once something was flushed.
    pub fn engine(&self) -> Result<AnyEngine, StorageError> {
        Ok(match self {
            Home::Memory => AnyEngine::Memory(MemoryEngine::without_past_from(past_ends())),
            Home::Disk { files, folder, options } => {
                AnyEngine::Disk(DiskEngine::create(files.clone(), folder, *options, past_ends())?)
            }
        })
    }

    /// The store as it last was durable here. `None`: it never was, or checkpoints tell.
    pub fn open(&self) -> Result<Option<Store>, StorageError> {
        let Home::Disk { files, folder, options } = self else { return Ok(None) };
        let opened = DiskEngine::open(files.clone(), folder, *options, past_ends())?;
        opened.map(|(engine, note)| Store::open(AnyEngine::Disk(engine), note)).transpose()
    }
}
