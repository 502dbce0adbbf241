//! The thread for what takes long and nobody waits for: checkpoints, written, sent and received.
//!
//! One thing after another, in the order asked for. Failures are reported to the node, which goes on without; only
//! memory and the log are needed for that.
//!
//! Not handled: doing two things at once, so a checkpoint that is being written delays the chunks of another.

use crate::folder::{Arriving, Folder};
use crate::handle::Handle;
use crate::leisure::{self, Pace};
use crate::worker;
use base::{GroupId, NodeId, Position};
use bytes::Bytes;
use node::Event;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use storage::StorageError;
use storage::checkpoint::CheckpointInfo;

/// The way to the background thread, which ends when this is dropped.
pub(crate) struct Background {
    jobs: Sender<Job>,
    waiting: Arc<AtomicUsize>,
}

pub(crate) enum Job {
    WriteCheckpoint { group: GroupId, position: Position, frozen: kv::Frozen },
    DropCheckpoints { group: GroupId },
    ReadChunk { to: NodeId, info: CheckpointInfo, offset: u64, max_bytes: usize },
    BeginIncoming { from: NodeId, info: CheckpointInfo },
    StoreChunk { info: CheckpointInfo, offset: u64, bytes: Bytes },
    FinishIncoming { info: CheckpointInfo },
    RememberRemoval { reason: String },
}

impl Background {
    pub fn start(folder: Arc<Folder>, handle: Handle) -> std::io::Result<(Background, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let behind = waiting.clone();
        let thread = worker::start("background", move || {
            leisure::step_back(NICENESS);
            let mut arriving = Arriving::default();
            for job in queue {
                behind.fetch_sub(1, Ordering::Relaxed);
                let mut pace = Pace::begin();
                // It rests only while no other job waits for it.
                let mut give_way = || match behind.load(Ordering::Relaxed) {
                    0 => pace.give_way(),
                    _ => leisure::give_way(),
                };
                if let Some(event) = perform(&folder, &handle, &mut arriving, job, &mut give_way) {
                    handle.shared().inbox.event(event);
                }
                give_way();
            }
        })?;
        Ok((Background { jobs, waiting }, thread))
    }

    pub fn ask(&self, job: Job) {
        // The thread lives as long as there is a way to it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.jobs.send(job);
    }
}

/// About a tenth of a processor that others want as well: a node that joins takes longer, and nobody else does.
const NICENESS: i32 = 10;

fn perform(
    folder: &Folder,
    handle: &Handle,
    arriving: &mut Arriving,
    job: Job,
    give_way: &mut dyn FnMut(),
) -> Option<Event> {
    let words = |error: StorageError| error.to_string();
    Some(match job {
        Job::WriteCheckpoint { group, position, frozen } => {
            let result = folder.write_checkpoint(group, position, &frozen, give_way).map_err(words);
            Event::CheckpointWritten { group, result }
        }
        Job::DropCheckpoints { group } => {
            if let Err(error) = folder.drop_checkpoints(group) {
                tracing::warn!("a checkpoint that nobody needs any more stays: {error}");
            }
            return None;
        }
        Job::ReadChunk { to, info, offset, max_bytes } => {
            let result = folder.read_chunk(&info, offset, max_bytes).map_err(words);
            Event::ChunkRead { to, info, offset, result }
        }
        Job::BeginIncoming { from, info } => {
            let result = arriving.begin(folder, from, &info).map_err(words);
            Event::Incoming { info, result }
        }
        Job::StoreChunk { info, offset, bytes } => {
            let result = arriving.store(&info, offset, &bytes);
            Event::Incoming { info, result }
        }
        Job::FinishIncoming { info } => {
            // No rests: where the others are few, all of them wait for this one.
            let result = arriving.finish(folder, &info, leisure::give_way).map(Box::new);
            Event::Installed { info, result }
        }
        Job::RememberRemoval { reason } => {
            if let Err(error) = folder.remember_removal(&handle.identity(), reason) {
                tracing::warn!("the data folder does not know yet that this node was removed: {error}");
            }
            return None;
        }
    })
}
