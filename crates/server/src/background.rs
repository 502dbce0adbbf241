//! The thread for what takes long and nobody waits for: checkpoints, written, sent and received, and the log's spare
//! segments.
//!
//! One thing after another, in the order asked for. Failures are reported to the node, which goes on without; only
//! memory and the log are needed for that.
//!
//! Not handled: doing two things at once, so a checkpoint that is being written delays the chunks of another.

use crate::disk::SpareReturn;
use crate::folder::{Arriving, Folder};
use crate::handle::Handle;
use crate::{leisure, worker};
use base::{GroupId, NodeId, Position};
use bytes::Bytes;
use node::Event;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use storage::StorageError;
use storage::checkpoint::CheckpointInfo;
use storage::log::SpareJob;

/// The way to the background thread, which ends when the last of these is dropped.
#[derive(Clone)]
pub(crate) struct Background {
    jobs: Sender<Job>,
}

pub(crate) enum Job {
    WriteCheckpoint { group: GroupId, position: Position, frozen: kv::Frozen },
    DropCheckpoints { group: GroupId },
    ReadChunk { to: NodeId, info: CheckpointInfo, offset: u64, max_bytes: usize },
    BeginIncoming { from: NodeId, info: CheckpointInfo },
    StoreChunk { info: CheckpointInfo, offset: u64, bytes: Bytes },
    FinishIncoming { info: CheckpointInfo },
    MakeSpare { job: SpareJob, back: SpareReturn },
    RememberRemoval { reason: String },
}

impl Background {
    pub fn start(folder: Arc<Folder>, handle: Handle) -> std::io::Result<(Background, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        let thread = worker::start("background", move || {
            leisure::step_back(NICENESS);
            let mut arriving = Arriving::default();
            for job in queue {
                if let Some(event) = perform(&folder, &handle, &mut arriving, job) {
                    handle.shared().inbox.event(event);
                }
            }
        })?;
        Ok((Background { jobs }, thread))
    }

    pub fn ask(&self, job: Job) {
        // The thread lives as long as there is a way to it.
        let _ = self.jobs.send(job);
    }
}

/// About a tenth of a processor that others want as well: a node that joins takes longer, and nobody else does.
const NICENESS: i32 = 10;

fn perform(folder: &Folder, handle: &Handle, arriving: &mut Arriving, job: Job) -> Option<Event> {
    let words = |error: StorageError| error.to_string();
    Some(match job {
        Job::WriteCheckpoint { group, position, frozen } => {
            let result = folder.write_checkpoint(group, position, &frozen).map_err(words);
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
            let result = arriving.finish(folder, &info).map(Box::new);
            Event::Installed { info, result }
        }
        Job::MakeSpare { job, back } => {
            match job.run() {
                Ok(spare) => back.hand_back(spare),
                Err(error) => tracing::debug!("no spare segment for the log: {error}"),
            }
            return None;
        }
        Job::RememberRemoval { reason } => {
            if let Err(error) = folder.remember_removal(&handle.identity(), reason) {
                tracing::warn!("the data folder does not know yet that this node was removed: {error}");
            }
            return None;
        }
    })
}
