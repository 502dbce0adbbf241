//! One whole node, pure: events in, effects out.
//!
//! The node owns the Raft groups of its process and their state machines. Whoever drives it feeds [`Event`]s with
//! [`Node::handle`], then calls [`Node::turn`] once for all of them and carries out the [`Effect`]s in their order.
//! Same events, same effects, to the byte: there is no clock but [`Event::Tick`], no thread, no file, no socket.
//!
//! A write's way: [`Request::Write`] gets a number of this node's session (`writes`), is proposed here or forwarded to
//! the leader, is written to the log on a majority, committed, applied (`replica`), and answered by the node that was
//! asked. A read's way: `reads`, or that of a write if it is a strong one. Membership: `admin` and [`membership`]. Checkpoints and their transfer:
//! `snapshots`. What nobody asks for: `compaction` and `leases`. What a person should know when nothing works: `watch`.
//!
//! Not handled: more than one group. The node holds groups in the plural and writes one log for all of them, but only
//! the first exists until keys are spread over shards.

mod admin;
mod compaction;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gather;
mod leases;
pub mod membership;
mod message;
mod reads;
mod replica;
mod snapshots;
mod upkeep;
mod watch;
mod writes;

pub use consensus::{Step, Verbosity};
pub use event::*;
pub use message::{Admin, Message};

use admin::AdminDesk;
use base::{ClusterId, FIRST_GROUP, GroupId, NodeId, Position, Term};
use membership::{Configuration, Member};
use replica::Replica;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage::StorageError;
use storage::checkpoint::CheckpointInfo;
use storage::log::{GroupWrite, LogWrite, RecoveredGroup};

/// How many [`Event::Tick`]s the driver sends a second.
pub const TICKS_PER_SECOND: u64 = 20;

/// A leader gathers what is asked of it for at most about this long. A disk that is slower than that does not hold up what
/// the followers' disks can commit.
const GATHER_TICKS: u64 = 2;
/// A log write that is not done after this long: a leader hands over …
const SLOW_DISK_TICKS: u64 = 50;
/// … and, if it still leads after this long, falls silent, so that others may lead.
const HUNG_DISK_TICKS: u64 = 70;

#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub name: String,
    /// Rises by one at each start of the node, so that what an earlier life left under way is told apart.
    pub boot: u64,
    /// Election timeouts are drawn from it.
    pub seed: u64,
    /// A follower that hears nothing for one to two times this long campaigns.
    pub election_ticks: u64,
    pub heartbeat_ticks: u64,
    /// A checkpoint is due after this much log, or after as much as the last checkpoint's size if that is more.
    pub checkpoint_after_bytes: u64,
    /// How much of the log stays in memory for followers; one that is further behind gets a snapshot.
    pub log_cache_bytes: usize,
    /// One that lacks more of the log than this is sent a little at a time.
    pub far_behind_bytes: usize,
    /// A leader compacts what was superseded longer ago; 0: never because of age.
    pub compact_after_ticks: u64,
    /// … and what makes the past larger, by its estimate ([`kv::View::past_bytes`]); 0: never because of size.
    pub compact_above_bytes: u64,
    /// How much of Raft's own steps is told, as [`Notice::Step`].
    pub verbosity: Verbosity,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            cluster: ClusterId::default(),
            node: 0,
            name: String::new(),
            boot: 0,
            seed: 0,
            election_ticks: 12,
            heartbeat_ticks: 2,
            checkpoint_after_bytes: 48 * 1024 * 1024,
            log_cache_bytes: 12 * 1024 * 1024,
            far_behind_bytes: consensus::Settings::default().far_behind_bytes,
            compact_after_ticks: 3_600 * TICKS_PER_SECOND,
            compact_above_bytes: 1024 * 1024 * 1024,
            verbosity: Verbosity::Silent,
        }
    }
}

/// The state of a new cluster, whose only voter is `founder`, node 1. Its position is that of an entry which never
/// was, so every other node begins with a snapshot and learns the configuration from it.
pub fn bootstrap(founder: Member) -> kv::Store {
    let mut store = kv::Store::in_memory();
    store.set_configuration(Position { index: 1, term: 1 }, Configuration::bootstrap(founder).encode(), &[1]);
    store
}

pub struct Node {
    settings: Arc<Settings>,
    replicas: BTreeMap<GroupId, Replica>,
    admin: AdminDesk,
    now: u64,
    effects: Vec<Effect>,
    replies: Vec<(Ticket, Outcome)>,
    notices: Vec<Notice>,
    next_write: WriteId,
    writing: VecDeque<Writing>,
    status: Arc<Status>,
    /// The leader and the term that were told last.
    announced: (NodeId, Term),
    removed: Option<String>,
    /// It said so, and does nothing any more.
    failed: bool,
    drain: Drain,
    disk_is_slow: bool,
}

/// A log write on its way to the disk.
struct Writing {
    id: WriteId,
    since: u64,
    /// Each group's newest turn in it.
    numbers: Vec<(GroupId, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    Asked,
    Done,
}

impl Node {
    /// A node of one group, from the state of its newest checkpoint, the checkpoints on disk (oldest first), and its
    /// log. The error is for the person who starts it.
    pub fn new(
        settings: Settings,
        store: kv::Store,
        checkpoints: Vec<CheckpointInfo>,
        log: Option<RecoveredGroup>,
    ) -> Result<Node, String> {
        let settings = Arc::new(settings);
        let mut notices = Vec::new();
        let replica = Replica::recover(FIRST_GROUP, settings.clone(), store, checkpoints, log, &mut notices)?;
        Ok(Node {
            admin: AdminDesk::new(settings.node, settings.name.clone(), settings.cluster, settings.boot),
            replicas: BTreeMap::from([(FIRST_GROUP, replica)]),
            now: 0,
            effects: Vec::new(),
            replies: Vec::new(),
            notices,
            next_write: 1,
            writing: VecDeque::new(),
            status: Arc::new(Status::default()),
            announced: (0, 0),
            removed: None,
            failed: false,
            drain: Drain::No,
            disk_is_slow: false,
            settings,
        })
    }

    /// Takes in one event. What follows from it comes out of the next [`Node::turn`].
    pub fn handle(&mut self, event: Event) {
        if self.failed {
            return;
        }
        if self.removed.is_some() {
            return self.handle_removed(event);
        }
        match event {
            Event::Tick { unix_ms } => self.tick(unix_ms),
            Event::Peer { from, message } => self.message(from, message),
            Event::PeerUp { node } => {
                let now = self.now;
                self.replicas.values_mut().for_each(|r| r.peer_up(node, now));
            }
            Event::PeerDown { node } => {
                let now = self.now;
                self.replicas.values_mut().for_each(|r| r.peer_down(node, now));
            }
            Event::ToldRemoved { by } => self.remove(format!(
                "this node was removed from the cluster (node {by} says so); to let it join as a new member, stop it \
                 and start it with an empty data folder"
            )),
            Event::Request { ticket, limit_ticks, request } => self.request(ticket, limit_ticks, request),
            Event::LogWritten { id } => self.log_written(id),
            Event::Greeted { id, result } => {
                self.admin.greeted(id, result, &mut self.effects, &mut self.replies);
            }
            Event::CheckpointWritten { group, result } => {
                let result = self.replicas.get_mut(&group).map_or(Ok(()), |r| r.checkpoint_written(result, self.now));
                self.notice_error("writing a checkpoint failed, the log grows until one succeeds", result);
            }
            Event::UpkeepDone { group, finished } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.upkeep_done(finished);
                }
            }
            Event::ChunkRead { to, info, offset, result } => {
                let Some(r) = self.replicas.get_mut(&info.group) else { return };
                let result = r.snapshots.chunk_read(to, info, offset, result, &mut r.group, &mut self.effects);
                self.notice_error("reading a checkpoint for another node failed", result);
            }
            Event::Incoming { info, result } => {
                let Some(r) = self.replicas.get_mut(&info.group) else { return };
                let result = r.snapshots.incoming(info, result, self.now, &mut self.effects);
                self.notice_error("storing a checkpoint from another node failed", result);
            }
            Event::Installed { info, result } => {
                let result = self.replicas.get_mut(&info.group).map_or(Ok(()), |r| r.installed(&info, result));
                self.notice_error("installing a checkpoint from another node failed", result);
            }
            Event::Drain => self.drain = Drain::Asked,
        }
    }

    /// Everything that follows from the events since the last turn, to be carried out in this order.
    ///
    /// `now_micros` is what a monotonic clock shows. A leader measures by it how long it may wait for more writes to go
    /// with those that it has ([`Node::gathers_until_micros`]), and nothing else: it may be any number.
    pub fn turn(&mut self, now_micros: u64) -> Vec<Effect> {
        if let Err(error) = self.take_turn(now_micros) {
            self.fail(&error);
        }
        let mut effects = std::mem::take(&mut self.effects);
        effects.extend(self.replies.drain(..).map(|(ticket, outcome)| Effect::Reply { ticket, outcome }));
        effects.extend(self.notices.drain(..).map(Effect::Notice));
        effects
    }

    fn take_turn(&mut self, now_micros: u64) -> Result<(), StorageError> {
        if self.failed {
            return Ok(());
        }
        let mut write = LogWrite::default();
        let mut numbers = Vec::new();
        let disk_works = self.disk_works();
        for (&id, replica) in &mut self.replicas {
            replica.begin_turn(now_micros, disk_works);
            let number = replica.turn(self.now, &mut self.effects, &mut self.replies, &mut write, &mut self.notices)?;
            numbers.extend(number.map(|number| (id, number)));
        }
        if let Some(r) = self.replicas.get_mut(&FIRST_GROUP) {
            self.admin.turn(&mut r.group, &r.configuration, self.now, &mut self.effects, &mut self.replies);
        }
        if !write.groups.is_empty() {
            let id = self.next_write;
            self.next_write += 1;
            self.writing.push_back(Writing { id, since: self.now, numbers });
            self.effects.push(Effect::WriteLog { id, write: one_for_each_group(write) });
        }
        if self.replicas.values().any(Replica::is_removed) {
            self.remove(
                "this node was removed from the cluster; to let it join as a new member, stop it and start it with an \
                 empty data folder"
                    .to_owned(),
            );
        }
        self.publish_status();
        self.go_on_draining();
        if self.disk_hangs() {
            self.effects.retain(|effect| !matches!(effect, Effect::Send { message: Message::Raft { .. }, .. }));
        }
        Ok(())
    }

    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// So many writes that are asked of this node now would only wait to be proposed with others: a driver need not hurry
    /// with them. A few hundred kilobytes are worth a turn all the same.
    pub fn gathers_writes(&self) -> usize {
        self.replicas.get(&FIRST_GROUP).map_or(0, |replica| replica.gathers(self.now))
    }

    /// The same for linearizable reads: what comes while a round is under way shares the next.
    pub fn gathers_reads(&self) -> usize {
        let is_asking = self.replicas.get(&FIRST_GROUP).is_some_and(|replica| replica.reads.is_asking());
        if is_asking { usize::MAX } else { 0 }
    }

    /// While writes wait for others to go with them: when, by the clock that [`Node::turn`] is told of, the next turn should be at
    /// the latest.
    pub fn gathers_until_micros(&self) -> Option<u64> {
        self.replicas.get(&FIRST_GROUP).and_then(Replica::gathers_until_micros)
    }

    /// A log write is under way, and has not been for long.
    fn disk_works(&self) -> bool {
        !self.writing.is_empty() && self.oldest_write_ticks() < GATHER_TICKS
    }

    /// The state machine of a group, for checkers.
    pub fn store(&self, group: GroupId) -> Option<&kv::Store> {
        self.replicas.get(&group).map(|replica| &replica.store)
    }

    fn tick(&mut self, unix_ms: u64) {
        self.now += 1;
        let silent = self.disk_hangs();
        for replica in self.replicas.values_mut() {
            replica.writes.set_wall_clock(unix_ms);
            let ticked = replica.tick(self.now, silent, &mut self.effects, &mut self.replies, &mut self.notices);
            if let Err(error) = ticked {
                return self.fail(&error);
            }
        }
        let why = self.replicas.get(&FIRST_GROUP).map_or(String::new(), Replica::why_nothing_happens);
        self.admin.expire(self.now, &why, &mut self.replies);
        self.give_way_if_the_disk_is_slow();
    }

    fn message(&mut self, from: NodeId, message: Message) {
        let group = match &message {
            Message::Raft { group, .. }
            | Message::Forward { group, .. }
            | Message::ReadIndex { group, .. }
            | Message::ReadIndexReply { group, .. } => *group,
            Message::SnapshotOffer { info, .. }
            | Message::SnapshotWant { info, .. }
            | Message::SnapshotChunk { info, .. }
            | Message::SnapshotFailed { info } => info.group,
            Message::Admin { .. } | Message::AdminReply { .. } => FIRST_GROUP,
        };
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        // A removed member may not disturb (Raft thesis, section 4.2.3).
        if replica.configuration.was_removed(from) {
            return;
        }
        match message {
            Message::Admin { id, limit_ticks, request } if replica.group.is_leader() => {
                let deadline = self.now + limit_ticks.min(60 * TICKS_PER_SECOND);
                if let Some(failure) = self.admin.request_from_peer(from, id, request, deadline, self.now) {
                    let message = Message::AdminReply { id, outcome: Outcome::Failed(failure) };
                    self.effects.push(Effect::Send { to: from, message });
                }
            }
            Message::Admin { .. } => {}
            Message::AdminReply { id, outcome } => self.admin.reply_from_peer(from, id, outcome, &mut self.replies),
            message => replica.message(from, message, self.now, &mut self.effects, &mut self.notices),
        }
    }

    fn request(&mut self, ticket: Ticket, limit_ticks: u64, request: Request) {
        let deadline = self.now.saturating_add(limit_ticks.max(1));
        let accepted = match request {
            _ if self.drain != Drain::No => {
                Err(Failure::Unavailable("this node is shutting down; nothing was changed: ask another node".into()))
            }
            ref request if request.adds() && self.is_full() => Err(upkeep::refuse()),
            Request::Write { operations, idempotency } => {
                let replica = self.replicas.get_mut(&FIRST_GROUP);
                replica.map_or(Ok(()), |r| r.writes.request(ticket, operations, idempotency, deadline))
            }
            Request::Act { action, idempotency } => {
                let replica = self.replicas.get_mut(&FIRST_GROUP).expect("the first group is always there");
                replica.writes.act(ticket, action, idempotency, deadline)
            }
            Request::LeaseTime { lease } => {
                let leases = &self.replicas[&FIRST_GROUP].leases;
                let remaining_ms = leases.remaining_ms(lease, self.now);
                self.replies.push((ticket, Outcome::LeaseTime { remaining_ms }));
                Ok(())
            }
            Request::Freeze => {
                let replica = &self.replicas[&FIRST_GROUP];
                self.replies.push((ticket, Outcome::Frozen(Arc::new(replica.store.frozen()))));
                Ok(())
            }
            Request::Read(level) => {
                self.replicas.get_mut(&FIRST_GROUP).map_or(Ok(()), |r| r.read(ticket, level, deadline))
            }
            Request::Join { name, address, learner } => {
                self.admin.request(ticket, Admin::Join { name, address, learner }, deadline)
            }
            Request::Promote { name } => self.admin.request(ticket, Admin::Promote { name }, deadline),
            Request::Remove { name } => self.admin.request(ticket, Admin::Remove { name }, deadline),
            Request::Transfer { name } => self.admin.request(ticket, Admin::Transfer { name }, deadline),
        };
        if let Err(failure) = accepted {
            self.replies.push((ticket, Outcome::Failed(failure)));
        }
    }

    fn is_full(&self) -> bool {
        self.replicas.values().any(|replica| upkeep::pressure(&replica.store) == upkeep::Pressure::Full)
    }

    fn log_written(&mut self, id: WriteId) {
        while let Some(writing) = self.writing.pop_front_if(|w| w.id <= id) {
            for (group, number) in writing.numbers {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.group.persisted(number);
                }
            }
        }
    }

    fn notice_error(&mut self, what: &str, result: Result<(), String>) {
        if let Err(error) = result {
            self.notices.push(Notice::Trouble(format!("{what}: {error}")));
        }
    }

    fn publish_status(&mut self) {
        let Some(replica) = self.replicas.get(&FIRST_GROUP) else { return };
        let role = match replica.group.role() {
            consensus::Role::Leader => Role::Leader,
            consensus::Role::Candidate => Role::Candidate,
            consensus::Role::Follower if replica.configuration.is_voter(self.settings.node) => Role::Follower,
            consensus::Role::Follower => Role::Learner,
        };
        let (leader, term) = (replica.group.leader(), replica.group.term());
        if let Some(id) = leader.filter(|&id| self.announced != (id, term))
            && let Some(member) = replica.configuration.members.get(&id)
        {
            self.announced = (id, term);
            let (leader, me) = (member.name.clone(), id == self.settings.node);
            self.notices.push(Notice::LeaderChanged { group: FIRST_GROUP, term, leader, me });
        }
        let old = &self.status;
        let same = old.role == role
            && (old.leader, old.term) == (leader, term)
            && Arc::ptr_eq(&old.configuration, &replica.configuration)
            && old.removed == self.removed
            && old.node == self.settings.node;
        if !same {
            self.status = Arc::new(Status {
                node: self.settings.node,
                role,
                term,
                leader,
                commit: replica.group.commit(),
                configuration: replica.configuration.clone(),
                removed: self.removed.clone(),
            });
            self.effects.push(Effect::PublishStatus(self.status.clone()));
        }
    }

    /// Part of the state may be changed and part of it not: it is as if the process had died before this turn.
    fn fail(&mut self, error: &StorageError) {
        self.failed = true;
        self.replicas.clear();
        self.effects.clear();
        self.replies.clear();
        self.notices.clear();
        self.effects.push(Effect::Failed { reason: error.to_string() });
    }

    // Removal.

    fn remove(&mut self, reason: String) {
        if self.removed.is_some() {
            return;
        }
        for replica in self.replicas.values_mut() {
            replica.fail_all(&reason, &mut self.replies);
        }
        self.admin.fail_all(&reason, &mut self.replies);
        // The groups go before `raft` can notice that it is no member (it panics on some calls then).
        self.replicas.clear();
        self.removed = Some(reason.clone());
        let mut status = (*self.status).clone();
        (status.removed, status.leader, status.role) = (Some(reason.clone()), None, Role::Learner);
        self.status = Arc::new(status);
        self.effects.push(Effect::PublishStatus(self.status.clone()));
        self.effects.push(Effect::Removed { reason });
    }

    fn handle_removed(&mut self, event: Event) {
        match event {
            Event::Request { ticket, .. } => {
                let reason = self.removed.clone().unwrap_or_default();
                self.replies.push((ticket, Outcome::Failed(Failure::Removed(reason))));
            }
            Event::Drain => self.drain = Drain::Asked,
            _ => {}
        }
    }

    // Shutting down.

    fn go_on_draining(&mut self) {
        if self.drain != Drain::Asked {
            return;
        }
        let mut settled = self.admin.is_idle() && self.writing.is_empty();
        for replica in self.replicas.values_mut() {
            settled &= replica.is_idle();
            if let Some(successor) = replica.successor().filter(|_| replica.group.is_leader()) {
                settled = false;
                if !replica.group.is_transferring() {
                    replica.group.transfer_leadership(successor);
                }
            }
        }
        if settled {
            self.drain = Drain::Done;
            self.effects.push(Effect::Drained);
        }
    }

    // A disk that hangs under a leader that still sends heartbeats stops the whole group (hashicorp/raft #503).

    fn oldest_write_ticks(&self) -> u64 {
        self.writing.front().map_or(0, |writing| self.now - writing.since)
    }

    fn disk_hangs(&self) -> bool {
        self.oldest_write_ticks() >= HUNG_DISK_TICKS
    }

    fn give_way_if_the_disk_is_slow(&mut self) {
        let slow = self.oldest_write_ticks() >= SLOW_DISK_TICKS;
        if slow {
            for replica in self.replicas.values_mut().filter(|r| r.group.is_leader() && !r.group.is_transferring()) {
                if let Some(successor) = replica.successor() {
                    replica.group.transfer_leadership(successor);
                }
            }
            if !self.disk_is_slow {
                self.notices.push(Notice::Trouble(
                    "a write to the log has not come back for seconds: the disk hangs; this node hands leadership over"
                        .into(),
                ));
            }
        }
        self.disk_is_slow = slow;
    }
}

/// What a node asks of others is numbered from here on. An answer to what it asked in an earlier life may still be under
/// way, and must not be taken for one to what it asks now.
fn first_number(boot: u64) -> u64 {
    boot << 32
}

/// A turn may write for a group several times; the log takes what comes of it.
fn one_for_each_group(write: LogWrite) -> LogWrite {
    let mut groups: Vec<GroupWrite> = Vec::with_capacity(write.groups.len());
    for later in write.groups {
        match groups.iter_mut().find(|earlier| earlier.group == later.group) {
            Some(earlier) => follow(earlier, later),
            None => groups.push(later),
        }
    }
    LogWrite { groups }
}

/// Makes of two writes of a group one that leaves the same.
fn follow(earlier: &mut GroupWrite, later: GroupWrite) {
    if later.reset.is_some() {
        (earlier.reset, earlier.purge_to) = (later.reset, None);
        earlier.entries.clear();
    }
    if let Some(first) = later.entries.first() {
        let kept = earlier.entries.iter().take_while(|entry| entry.position.index < first.position.index).count();
        earlier.entries.truncate(kept);
        earlier.entries.extend(later.entries);
    }
    earlier.hard_state = later.hard_state.or(earlier.hard_state);
    earlier.purge_to = later.purge_to.max(earlier.purge_to);
    earlier.configuration = later.configuration.or(earlier.configuration.take());
}
