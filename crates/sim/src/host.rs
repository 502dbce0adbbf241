//! One machine: a disk, and at times a process on it.

use crate::disk::{Disk, Folder};
use crate::{HostNumber, Micros};
use base::{ClusterId, GroupId, Incarnation, Index, NodeId, Position};
use bytes::Bytes;
use node::{Event, Node, Status, Ticket, WriteId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use storage::checkpoint::CheckpointInfo;
use storage::log::{Log, LogWrite, SpareJob};

pub(crate) struct Host {
    pub number: HostNumber,
    pub name: String,
    pub address: String,
    pub disk: Disk,
    pub process: Option<Process>,
    /// How often a process was started here: what was meant for an earlier one does not reach a later one.
    pub life: u64,
    pub paused_until: Micros,
    /// How long a tick of its clock takes.
    pub tick_micros: Micros,
    pub wall_clock: WallClock,
    /// Until then each sync takes long.
    pub disk_slow_until: Micros,
    /// How often it moved to another address.
    pub moves: u64,
}

/// What a host believes of the time of day. Each has its own, which goes at its own pace and jumps.
pub(crate) struct WallClock {
    pub set_at: Micros,
    pub set_to_ms: u64,
    pub per_cent: u64,
}

impl WallClock {
    pub fn unix_ms(&self, now: Micros) -> u64 {
        self.set_to_ms + (now - self.set_at) * self.per_cent / 100 / 1_000
    }
}

/// A process; without a node as long as its folder belongs to no cluster.
pub(crate) struct Process {
    pub folder: Folder,
    pub node: Option<Running>,
    /// Who this process can talk to, and where, beside those in its configuration.
    pub callers: BTreeMap<NodeId, HostNumber>,
    pub connected: BTreeSet<NodeId>,
    /// The members that it has called.
    pub called: BTreeSet<NodeId>,
    pub inbox: Vec<Event>,
    pub turn_is_due: bool,
    pub tick_is_due: bool,
    pub jobs: VecDeque<Job>,
    /// Flushes and merges under way.
    pub upkeep: Vec<(GroupId, storage::engine::disk::Job)>,
    /// Requests that wait for their answer.
    pub asked: BTreeMap<Ticket, u64>,
    pub next_ticket: Ticket,
}

pub(crate) struct Running {
    pub node: Node,
    pub cluster: ClusterId,
    pub id: NodeId,
    pub log: Log,
    pub unwritten: VecDeque<(WriteId, LogWrite)>,
    pub syncing: Option<WriteId>,
    pub last_synced: WriteId,
    pub view: Option<kv::View>,
    pub known_commit: Index,
    pub status: Arc<Status>,
}

/// What the background thread of a process works on, one after another.
pub(crate) enum Job {
    WriteCheckpoint { group: GroupId, position: Position, frozen: kv::Frozen },
    DropCheckpoints { group: GroupId },
    ReadChunk { to: NodeId, info: CheckpointInfo, offset: u64, max_bytes: usize },
    BeginIncoming { from: NodeId, info: CheckpointInfo },
    StoreChunk { info: CheckpointInfo, offset: u64, bytes: Bytes },
    FinishIncoming { info: CheckpointInfo },
    PrepareSpare(SpareJob),
    RememberRemoval(String),
}

/// What a message carries beside its content: the handshake of the connection that it came by. Without content it is the
/// handshake alone.
#[derive(Clone)]
pub(crate) struct Letter {
    pub from_host: HostNumber,
    pub from_life: u64,
    pub cluster: ClusterId,
    pub from: NodeId,
    pub to: NodeId,
    pub to_incarnation: Option<Incarnation>,
    pub bytes: Bytes,
}

impl Host {
    /// No write and no sync is told to fail.
    pub fn mend_disk(&self) {
        self.disk.memory.fail_write_after(u64::MAX);
        self.disk.memory.fail_sync_after(u64::MAX);
    }

    pub fn running(&self) -> Option<&Running> {
        self.process.as_ref()?.node.as_ref()
    }

    pub fn running_mut(&mut self) -> Option<&mut Running> {
        self.process.as_mut()?.node.as_mut()
    }
}

impl Process {
    pub fn new(folder: Folder) -> Process {
        Process {
            folder,
            node: None,
            callers: BTreeMap::new(),
            connected: BTreeSet::new(),
            called: BTreeSet::new(),
            inbox: Vec::new(),
            turn_is_due: false,
            tick_is_due: false,
            jobs: VecDeque::new(),
            upkeep: Vec::new(),
            asked: BTreeMap::new(),
            next_ticket: 1,
        }
    }

    /// The event that answers the job.
    pub fn perform(&mut self, job: Job) -> Option<Event> {
        let folder = &mut self.folder;
        Some(match job {
            Job::WriteCheckpoint { group, position, frozen } => {
                let result = folder.write_checkpoint(group, position, &frozen).map_err(|error| error.to_string());
                Event::CheckpointWritten { group, result }
            }
            Job::DropCheckpoints { group } => {
                // The next start takes them away.
                let _ = folder.drop_checkpoints(group);
                return None;
            }
            Job::ReadChunk { to, info, offset, max_bytes } => {
                let result = folder.read_chunk(&info, offset, max_bytes).map_err(|error| error.to_string());
                Event::ChunkRead { to, info, offset, result }
            }
            Job::BeginIncoming { from, info } => {
                let result = folder.begin_incoming(from, &info);
                Event::Incoming { info, result }
            }
            Job::StoreChunk { info, offset, bytes } => {
                let result = folder.store_chunk(&info, offset, &bytes);
                Event::Incoming { info, result }
            }
            Job::FinishIncoming { info } => {
                let result = folder.finish_incoming(&info).map(Box::new);
                Event::Installed { info, result }
            }
            Job::PrepareSpare(job) => {
                if let (Ok(spare), Some(running)) = (job.run(|| ()), &mut self.node) {
                    running.log.add_spare(spare);
                }
                return None;
            }
            Job::RememberRemoval(reason) => {
                // Its node would be told again.
                let _ = folder.remember_removal(&reason);
                return None;
            }
        })
    }
}
