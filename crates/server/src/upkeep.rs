//! The thread of the engine's upkeep: flushes, which make the state durable, and merges, which keep it in shape.
//!
//! Several jobs may be under way; each step goes to the smallest, so that a flush never waits for a merge. The thread has
//! a lower priority than the others, and gives way to them after each step, unless many runs wait to be merged: where others
//! always want the processors, a large merge would never end. A job that fails ends the process, for what it
//! had to bring to the disk is not there, and nobody knows what is.

use crate::handle::Handle;
use crate::metrics::Upkept;
use crate::{leisure, worker};
use base::GroupId;
use node::Event;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use storage::StorageError;
use storage::engine::disk::{Job, JobKind};

/// The way to the thread, which ends when this is dropped, and leaves what is not finished to the next start.
pub(crate) struct Upkeep {
    jobs: Sender<(GroupId, Job)>,
}

impl Upkeep {
    pub fn start(handle: Handle) -> std::io::Result<(Upkeep, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        let thread = worker::start("upkeep", move || {
            leisure::step_back(NICENESS);
            if let Err(error) = serve(&queue, &handle) {
                tracing::error!("the state can't be brought to the disk, so this node stops: {error}");
                std::process::exit(1);
            }
        })?;
        Ok((Upkeep { jobs }, thread))
    }

    pub fn ask(&self, group: GroupId, job: Job) {
        // The thread lives as long as there is a way to it.
        let _ = self.jobs.send((group, job));
    }
}

fn serve(queue: &Receiver<(GroupId, Job)>, handle: &Handle) -> Result<(), StorageError> {
    let mut jobs: Vec<(GroupId, Job)> = Vec::new();
    loop {
        if jobs.is_empty() {
            let Ok(job) = queue.recv() else { return Ok(()) };
            jobs.push(job);
        }
        loop {
            match queue.try_recv() {
                Ok(job) => jobs.push(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        count_running(&jobs, handle);
        let is_late = jobs.iter().any(|(_, job)| job.is_late());
        let Some(smallest) = (0..jobs.len()).min_by_key(|&at| jobs[at].1.size_bytes()) else { continue };
        let (group, job) = &mut jobs[smallest];
        if let Some(finished) = job.step()? {
            let (group, kind) = (*group, job.kind());
            if let Some(upkept) = counted(kind, handle) {
                upkept.done.add(1);
                upkept.written_bytes.add(finished.written_bytes());
            }
            drop(jobs.remove(smallest));
            count_running(&jobs, handle);
            handle.shared().inbox.event(Event::UpkeepDone { group, finished });
        }
        if !is_late {
            leisure::give_way();
        }
    }
}

fn count_running(jobs: &[(GroupId, Job)], handle: &Handle) {
    for kind in [JobKind::Flush, JobKind::Merge] {
        if let Some(upkept) = counted(kind, handle) {
            upkept.running.set(jobs.iter().filter(|(_, job)| job.kind() == kind).count() as u64);
        }
    }
}

fn counted(kind: JobKind, handle: &Handle) -> Option<&Upkept> {
    let metrics = &handle.shared().metrics;
    match kind {
        JobKind::Flush => Some(&metrics.flushes),
        JobKind::Merge => Some(&metrics.merges),
        JobKind::Removal => None,
    }
}

/// About a third of what a thread of the node gets where both want all.
const NICENESS: i32 = 5;
