//! All that can happen to a node, and all that it can ask for.
//!
//! The set is closed: if a node should react to something that is not an [`Event`], an event is missing. Whoever
//! drives the node (the server with sockets and files, the simulator with neither) feeds events, calls
//! [`crate::Node::turn`], and carries out the effects in their order.

use crate::membership::Configuration;
use crate::message::Message;
use base::{GroupId, Incarnation, Index, NodeId, Position, Term};
use kv::{Action, Decided, IdempotencyKey, Operation};
use std::sync::Arc;
use storage::checkpoint::CheckpointInfo;
use storage::engine::disk::{Finished, Job};
use storage::log::LogWrite;

/// Names one request at the server that asked; the answer comes back under it.
pub type Ticket = u64;
/// Names one log write. Log writes end in the order in which they were asked for.
pub type WriteId = u64;

pub enum Event {
    /// One tick of the node's only clock has passed. What a wall clock shows at that moment (Unix time; 0: there is none)
    /// goes into writes, for [`kv::View::accepted_ms`], and touches nothing else: it may differ and jump as it likes.
    Tick {
        unix_ms: u64,
    },
    /// A frame from a peer whose connection proved that it is `from`.
    Peer {
        from: NodeId,
        message: Message,
    },
    /// A connection to that peer stands, in either direction.
    PeerUp {
        node: NodeId,
    },
    /// A connection with that peer broke. Also a hint that it died.
    PeerDown {
        node: NodeId,
    },
    /// A peer refuses to talk to us because we were removed from the cluster.
    ToldRemoved {
        by: NodeId,
    },
    Request {
        ticket: Ticket,
        limit_ticks: u64,
        request: Request,
    },
    /// Everything in that log write, and in all before it, is on disk.
    LogWritten {
        id: WriteId,
    },
    /// Answer to [`Effect::Greet`].
    Greeted {
        id: u64,
        result: Result<Greeting, String>,
    },
    /// Answer to [`Effect::WriteCheckpoint`]; an error is not fatal, the log just stays longer.
    CheckpointWritten {
        group: GroupId,
        result: Result<CheckpointInfo, String>,
    },
    /// Answer to [`Effect::Upkeep`].
    UpkeepDone {
        group: GroupId,
        finished: Finished,
    },
    /// Answer to [`Effect::ReadChunk`].
    ChunkRead {
        to: NodeId,
        info: CheckpointInfo,
        offset: u64,
        result: Result<bytes::Bytes, String>,
    },
    /// Answer to [`Effect::BeginIncoming`] and [`Effect::StoreChunk`]: that many bytes are here.
    Incoming {
        info: CheckpointInfo,
        result: Result<u64, String>,
    },
    /// Answer to [`Effect::FinishIncoming`]: verified, durable, and loaded.
    Installed {
        info: CheckpointInfo,
        result: Result<Box<kv::Store>, String>,
    },
    /// Hand leadership over and say [`Effect::Drained`] when nothing is left in flight.
    Drain,
}

/// What a client asks of the cluster.
#[derive(Clone, Debug)]
pub enum Request {
    /// Applied atomically, on the whole cluster, exactly once.
    Write { operations: Vec<Operation>, idempotency: Option<IdempotencyKey> },
    /// Whatever else changes the store, in the same way.
    Act { action: Action, idempotency: Option<IdempotencyKey> },
    /// How much of its time a lease has left, by this node's own measure: no less than by the leader's.
    LeaseTime { lease: u64 },
    /// The whole state as it is now on this node, for a backup.
    Freeze,
    /// Answered when this node's published view is as new as the level wants it.
    Read(ReadLevel),
    /// The node at that peer address wants to be a member. Answered when it votes; a learner, which stays one until it is
    /// promoted, when it has caught up. Without `learner`, a learner that stayed one is promoted.
    Join { name: String, address: String, learner: bool },
    /// The learner of that name shall vote, once it has caught up. Answered when it does; a voter does already.
    Promote { name: String },
    /// The member of that name shall be none.
    Remove { name: String },
    /// Another voter shall lead: the one of that name, or the one that is furthest.
    Transfer { name: Option<String> },
}

impl Request {
    /// It takes room in the log and in the store.
    pub(crate) fn adds(&self) -> bool {
        matches!(self, Request::Write { .. } | Request::Act { .. } | Request::Read(ReadLevel::Strong))
    }

    /// Nothing changes by it, whatever becomes of it.
    pub fn only_reads(&self) -> bool {
        matches!(self, Request::Read(_) | Request::Freeze | Request::LeaseTime { .. })
    }
}

/// How much a read asks of the cluster. (To read whatever this node has applied, ask nobody: read the published view.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// Nothing is missing that was acknowledged before the request came: a majority confirms that the leader leads.
    Linearizable,
    /// What the leader knew to be committed when it was asked. Nobody confirms it, so just after another was elected the
    /// deposed one may still answer, for up to an election timeout, and what the other acknowledged meanwhile is missing.
    Weak,
    /// As linearizable, by an entry in the log: the price of a write, and the proof that the log is being written.
    Strong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Written {
        revision: u64,
        changed: u32,
    },
    /// `results`: what the steps gave. `None` if the request was sent again and had been applied before, in which case they
    /// are not remembered.
    Decided {
        succeeded: bool,
        revision: u64,
        changed: u32,
        results: Option<Decided>,
    },
    /// The lease is there, and has its whole time.
    Granted {
        lease: u64,
        ttl_seconds: u64,
    },
    /// `None`: there is no such lease on this node.
    LeaseTime {
        remaining_ms: Option<u64>,
    },
    Frozen(Arc<kv::Frozen>),
    /// The view that was published before this reply serves the read.
    Readable,
    /// Membership or leadership is as the request wanted it.
    Done,
    Failed(Failure),
}

/// What a client must know of a failure: what happened to the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request can never succeed as it is. Nothing changed.
    Invalid(String),
    /// Nothing changed; the same request may succeed later.
    Unavailable(String),
    /// Too many requests are in flight here. Nothing changed.
    Overloaded(String),
    /// It may or may not take effect, once.
    Unknown(String),
    /// The idempotency key was used before with another request. Nothing changed.
    KeyReused(String),
    /// This node is no member any more. Nothing changed.
    Removed(String),
    /// What the request names is not there. Nothing changed.
    NotFound(String),
    /// What the request wants to make is there already. Nothing changed.
    Exists(String),
    /// The revision is compacted, or has been already. Nothing changed.
    Compacted(String),
    /// The revision is still to come. Nothing changed.
    FutureRevision(String),
}

pub enum Effect {
    Send {
        to: NodeId,
        message: Message,
    },
    /// Append, make durable, then [`Event::LogWritten`]. A failure to do so ends the process.
    WriteLog {
        id: WriteId,
        write: LogWrite,
    },
    Reply {
        ticket: Ticket,
        outcome: Outcome,
    },
    /// The state for local reads. Comes before the replies that need it.
    PublishView {
        group: GroupId,
        view: kv::View,
        /// The highest index that this node knows or was told by a leader to be committed. If the view is older, it lacks
        /// something that was acknowledged.
        known_commit: Index,
    },
    /// The node's own view of the cluster, whenever it changed. Whom to dial is in its configuration.
    PublishStatus(Arc<Status>),
    /// Ask the node at that peer address who it is. Answered by [`Event::Greeted`].
    Greet {
        id: u64,
        address: String,
    },
    WriteCheckpoint {
        group: GroupId,
        position: Position,
        frozen: kv::Frozen,
    },
    /// No checkpoint of the group is of use any more: those on disk may go.
    DropCheckpoints {
        group: GroupId,
    },
    /// Work that makes the group's state durable or keeps it in shape, to be run beside everything else: several jobs at
    /// once, step by step, the smaller first. A failure of one ends the process, as that of a log write does.
    Upkeep {
        group: GroupId,
        job: Job,
    },
    ReadChunk {
        to: NodeId,
        info: CheckpointInfo,
        offset: u64,
        max_bytes: usize,
    },
    /// Start or go on receiving that checkpoint from that node.
    BeginIncoming {
        from: NodeId,
        info: CheckpointInfo,
    },
    StoreChunk {
        info: CheckpointInfo,
        offset: u64,
        bytes: bytes::Bytes,
    },
    /// All bytes are here: verify, make durable, load.
    FinishIncoming {
        info: CheckpointInfo,
    },
    /// Something that the person who runs this node should read.
    Notice(Notice),
    /// This node was removed: remember it in the folder, serve nothing but the reason.
    Removed {
        reason: String,
    },
    /// After [`Event::Drain`]: the process may end.
    Drained,
    /// The state is damaged, or can't be read, so nothing can be applied any more. The only effect of its turn, of which
    /// nothing is carried out, and the last of all: the process ends, as after a log write that failed.
    Failed {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// By name, so it comes when the name is known.
    LeaderChanged {
        group: GroupId,
        term: Term,
        leader: String,
        me: bool,
    },
    MemberChanged(String),
    SnapshotInstalled {
        group: GroupId,
        position: Position,
    },
    Trouble(String),
    /// The end of a trouble that lasted.
    Mended(String),
    /// What `raft` says of itself, if [`crate::Settings::verbosity`] wants it.
    Step {
        group: GroupId,
        step: consensus::Step,
    },
}

/// How the node at a peer address introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub incarnation: Incarnation,
    /// The cluster it belongs to, and its id there; `None` for an empty folder.
    pub cluster: Option<(base::ClusterId, NodeId)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Follower,
    Candidate,
    Leader,
    Learner,
}

/// The node's own view of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub node: NodeId,
    pub role: Role,
    pub term: Term,
    pub leader: Option<NodeId>,
    pub commit: Index,
    pub configuration: Arc<Configuration>,
    /// Why this node serves nothing any more.
    pub removed: Option<String>,
}
