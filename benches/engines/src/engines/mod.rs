//! The engines, behind what the work needs of one.

mod fjall;
mod lsm;
mod ours;
mod redb;
mod tables;

use std::path::Path;

/// A reading engine gives what was put, whether or not it is on disk yet.
pub trait Engine {
    /// Reads what is there, as our store does, and puts the new value.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String>;

    /// What was put since the last turn is seen from now on.
    fn end_turn(&mut self) -> Result<(), String>;

    /// Waits until all is durable and nothing is left to do beside it.
    fn settle(&mut self) -> Result<(), String>;

    fn get(&self, key: &[u8]) -> Result<bool, String>;

    /// How many rows there were, up to `rows`. Every one is read, key and value.
    fn scan(&self, from: &[u8], rows: usize) -> Result<usize, String>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// `lsm-tree`, flushed and compacted by a thread of ours each
    LsmTree,
    /// `fjall`, which is lsm-tree with a journal and workers of its own
    Fjall,
    /// `redb`, under an overlay that is committed as one sorted batch
    Redb,
    /// Our engine on disk
    Tables,
    /// Our engine in memory: a bound, since nothing is made durable
    Memory,
}

impl Kind {
    /// `memory` is for what is not on disk yet, and for caches, in bytes.
    pub fn open(self, folder: &Path, memory: usize) -> Result<Box<dyn Engine>, String> {
        Ok(match self {
            Kind::LsmTree => Box::new(lsm::Lsm::open(folder, memory)?),
            Kind::Fjall => Box::new(fjall::Fjall::open(folder, memory)?),
            Kind::Redb => Box::new(redb::Redb::open(folder, memory)?),
            Kind::Tables => Box::new(tables::Tables::open(folder, memory)?),
            Kind::Memory => Box::new(ours::Ours::in_memory()),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::LsmTree => "lsm-tree",
            Kind::Fjall => "fjall",
            Kind::Redb => "redb",
            Kind::Tables => "tables",
            Kind::Memory => "memory",
        }
    }

    pub fn is_durable(self) -> bool {
        self != Kind::Memory
    }
}

/// What a small value costs beside its bytes while it is in memory, about alike for all: for a fair bound.
const OVERHEAD_BYTES: usize = 64;
