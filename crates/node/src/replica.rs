//! One group's replica: its consensus, its state machine, and the requests that wait for them.
//!
//! As leader it also proposes what nobody asks for, its chores: to compact the past (`compaction`), and to end leases
//! (`leases`).

use crate::compaction::Compaction;
use crate::event::{Effect, Failure, Notice, Outcome, ReadLevel, Ticket};
use crate::gather::{Gathering, Waiting};
use crate::leases::Leases;
use crate::membership::{Configuration, MemberChange};
use crate::message::Message;
use crate::reads::Reads;
use crate::snapshots::Snapshots;
use crate::upkeep::{self, Pressure, Upkeep};
use crate::watch::Watch;
use crate::writes::{self, Writes};
use crate::{Settings, admin};
use base::rng::hash;
use base::{GroupId, Index, NodeId, Position, Term};
use bytes::Bytes;
use consensus::{Committed, Group, Start};
use kv::{Action, Answer, Command};
use std::collections::BTreeSet;
use std::sync::Arc;
use storage::StorageError;
use storage::checkpoint::CheckpointInfo;
use storage::engine::disk::Finished;
use storage::log::{GroupWrite, LogWrite, RecoveredGroup};

pub(crate) struct Replica {
    pub(crate) id: GroupId,
    me: NodeId,
    pub(crate) group: Group,
    pub(crate) store: kv::Store,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) writes: Writes,
    pub(crate) reads: Reads,
    pub(crate) snapshots: Snapshots,
    pub(crate) leases: Leases,
    upkeep: Upkeep,
    compaction: Compaction,
    watch: Watch,
    settings: Arc<Settings>,
    /// A loaded checkpoint whose snapshot message was stepped.
    arrived: Option<Box<kv::Store>>,
    /// Commands that followers forwarded, to be proposed in this turn, or in a later one while this leader gathers.
    forwarded: Vec<Bytes>,
    forwarded_bytes: usize,
    /// What this replica, as leader, wants done by itself, to be proposed in the same turn.
    chores: Vec<Bytes>,
    gathering: Gathering,
    /// Bytes of log applied since the newest checkpoint, where checkpoints make the state durable.
    log_bytes: u64,
    /// What the last turn saw: leader and term.
    saw: (Option<NodeId>, Term),
    /// The leader's connection broke, or there may be none: stand for election at that tick, unless one is heard of
    /// before.
    campaign_at: Option<u64>,
    /// This replica has heard of no leader since it started, nor stood for election.
    has_just_started: bool,
    /// The peers to which a connection stands.
    connected: BTreeSet<NodeId>,
    /// What recovery wants written.
    first_write: Option<GroupWrite>,
    /// The members changed, and the disk is to know that the change is committed.
    members_changed: bool,
    /// The position and the known commit index that were published last.
    published: (Position, Index),
}

impl Replica {
    /// Puts together what the disk held: the newest checkpoint's state and the log.
    pub(crate) fn recover(
        id: GroupId,
        settings: Arc<Settings>,
        store: kv::Store,
        checkpoints: Vec<CheckpointInfo>,
        log: Option<RecoveredGroup>,
        notices: &mut Vec<Notice>,
    ) -> Result<Replica, String> {
        let configuration = Configuration::decode(store.configuration().clone()).map_err(|e| e.to_string())?;
        let applied = store.applied();
        let is_new = log.is_none();
        let log = log.unwrap_or_default();
        let last = log.entries.last().map_or(log.start, |entry| entry.position);
        if log.start.index > applied.index {
            return Err(format!(
                "the log begins after entry {}, but the state beside it ends at {}: something is missing; restore the \
                 data folder from a backup, or empty it and let the node join again as a new member",
                log.start.index, applied.index
            ));
        }
        let meets = log.start == applied || log.entries.iter().any(|entry| entry.position == applied);
        let mut first_write = None;
        let (before, entries) = if meets {
            (log.start, log.entries)
        } else {
            // The first start after the cluster was founded; or a checkpoint was received, and then the process ended
            // before the log was told.
            if !is_new {
                notices.push(Notice::Trouble(format!(
                    "the state at entry {} is ahead of the log, which ends at {}: going on from the state",
                    applied.index, last.index
                )));
            }
            first_write = Some(GroupWrite {
                group: id,
                hard_state: Some(log.hard_state),
                reset: Some(applied),
                ..GroupWrite::default()
            });
            (applied, Vec::new())
        };
        let group_settings = consensus::Settings {
            node: settings.node,
            group: id,
            seed: settings.seed,
            election_ticks: settings.election_ticks as usize,
            heartbeat_ticks: settings.heartbeat_ticks as usize,
            // Who is near needs nothing that is not kept for everybody.
            far_behind_bytes: settings.far_behind_bytes.min(settings.log_cache_bytes / 2),
            verbosity: settings.verbosity,
            ..consensus::Settings::default()
        };
        let log_bytes = entries.iter().filter(|e| e.position.index > applied.index).map(|e| e.data.len() as u64).sum();
        let start =
            Start { hard_state: log.hard_state, applied, voters: configuration.voters.clone(), before, entries };
        let mut group = Group::new(group_settings, start)?;
        let snapshots = Snapshots::new(id, checkpoints, store.is_durable());
        if let Some(info) = snapshots.newest() {
            group.set_checkpoint(info.position, configuration.voters.clone());
        }
        group.shrink_cache(applied.index, settings.log_cache_bytes, settings.log_cache_bytes);
        let leases = Leases::begin(&store, 0).map_err(|error| error.to_string())?;
        let mut replica = Replica {
            id,
            me: settings.node,
            group,
            store,
            configuration: Arc::new(configuration),
            writes: Writes::new(settings.node, settings.boot),
            reads: Reads::new(settings.node, settings.boot, id),
            snapshots,
            leases,
            upkeep: Upkeep::new(log_bytes),
            compaction: Compaction::new(settings.compact_after_ticks, settings.compact_above_bytes),
            watch: Watch::new(settings.node, settings.election_ticks),
            settings,
            arrived: None,
            forwarded: Vec::new(),
            forwarded_bytes: 0,
            chores: Vec::new(),
            gathering: Gathering::default(),
            log_bytes,
            saw: (None, 0),
            campaign_at: None,
            has_just_started: true,
            connected: BTreeSet::new(),
            first_write,
            members_changed: false,
            published: (Position { index: u64::MAX, term: 0 }, 0),
        };
        replica.writes.look_at(&replica.store, &mut Vec::new());
        // The only voter has nobody to wait for.
        if replica.configuration.voters.voters == [replica.me] && !replica.configuration.voters.is_joint() {
            replica.group.campaign();
        }
        Ok(replica)
    }

    /// After an error, here or in a turn, the replica must not be used any more.
    pub(crate) fn tick(
        &mut self,
        now: u64,
        silent: bool,
        effects: &mut Vec<Effect>,
        replies: &mut Vec<(Ticket, Outcome)>,
        notices: &mut Vec<Notice>,
    ) -> Result<(), StorageError> {
        if !silent {
            self.group.tick();
        }
        notices.extend(self.watch.look(now, &self.group, &self.configuration));
        if self.campaign_at.is_some_and(|at| at <= now) {
            (self.campaign_at, self.has_just_started) = (None, false);
            self.group.campaign();
        }
        let why = self.why_nothing_happens();
        self.writes.expire(now, &why, replies);
        self.reads.tick(now, &why, replies);
        if !self.group.is_leader() {
            self.writes.resend_overdue(now);
        }
        self.snapshots.tick(now, &mut self.group, effects);
        self.compaction.tick(now, self.store.revision());
        if self.may_do_chores() {
            self.do_chores(now)?;
        }
        Ok(())
    }

    /// A leader that has not applied all that its predecessors committed does not know what is to be done.
    fn may_do_chores(&self) -> bool {
        let knows_all = self.store.applied().term == self.group.term();
        self.group.is_leader() && knows_all && !self.group.is_transferring()
    }

    fn do_chores(&mut self, now: u64) -> Result<(), StorageError> {
        let mut due: Vec<Action> = Vec::new();
        due.extend(self.compaction.due(now, || self.store.view())?.map(|revision| Action::Compact { revision }));
        due.extend(self.leases.due(now).into_iter().map(|leases| Action::Expire { leases }));
        let accepted_ms = self.writes.wall_clock();
        let command = |action| Command::Act { request: None, accepted_ms, idempotency: None, action }.encode();
        self.chores.extend(due.into_iter().map(command));
        Ok(())
    }

    /// For the errors of requests that time out.
    pub(crate) fn why_nothing_happens(&self) -> String {
        match self.group.leader() {
            None => "no leader is known: a majority of the voters must be up and connected".to_owned(),
            Some(leader) if leader == self.me => {
                "this node leads, but a majority of the voters does not answer".to_owned()
            }
            Some(leader) => match self.configuration.members.get(&leader) {
                Some(member) => format!("the leader is {member}"),
                None => "the leader is not reachable".to_owned(),
            },
        }
    }

    pub(crate) fn message(
        &mut self,
        from: NodeId,
        message: Message,
        now: u64,
        effects: &mut Vec<Effect>,
        trouble: &mut Vec<Notice>,
    ) {
        self.watch.heard(from, now);
        match message {
            Message::Raft { message, .. } => self.step(from, message, trouble),
            Message::Forward { commands, .. } => {
                if self.group.is_leader() {
                    let fits = |c: &Bytes| !c.is_empty() && c.len() <= kv::MAX_COMMAND_BYTES;
                    let commands = commands.into_iter().filter(fits);
                    self.forwarded.extend(commands.inspect(|c| self.forwarded_bytes += c.len()));
                }
            }
            Message::ReadIndex { id, weak, .. } => {
                if self.group.is_leader() {
                    self.reads.request_from_peer(from, id, weak);
                }
            }
            Message::ReadIndexReply { id, index, .. } => self.reads.confirmed_by_leader(id, index, effects),
            Message::SnapshotOffer { info, message } => {
                if message.from() == from
                    && self.snapshots.offered(from, info, message.clone(), now, &self.group, effects)
                {
                    self.step(from, message, trouble);
                }
            }
            Message::SnapshotWant { info, offset } => self.snapshots.wanted(from, info, offset, now, effects),
            Message::SnapshotChunk { info, offset, bytes } => {
                self.snapshots.chunk(from, info, offset, bytes, now, effects);
            }
            Message::SnapshotFailed { info } => self.snapshots.failed(from, &info, &mut self.group),
            Message::Admin { .. } | Message::AdminReply { .. } => {}
        }
    }

    fn step(&mut self, from: NodeId, message: consensus::Message, trouble: &mut Vec<Notice>) {
        if message.from() != from {
            return;
        }
        if message.is_from_leader() && message.term() >= self.group.term() {
            (self.campaign_at, self.has_just_started) = (None, false);
        }
        // As if it had been lost on the way: the leader sends no more than a window's worth, and again later.
        if message.has_entries() && upkeep::pressure(&self.store) == Pressure::Full {
            return;
        }
        let what = (message.kind(), message.index());
        if let Err(refused) = self.group.step(message)
            && self.configuration.members.contains_key(&from)
        {
            trouble.push(Notice::Trouble(format!(
                "refused a raft {} (index {}) of node {from}: {refused}",
                what.0, what.1
            )));
        }
    }

    pub(crate) fn peer_down(&mut self, peer: NodeId, now: u64) {
        self.connected.remove(&peer);
        self.group.report_unreachable(peer);
        self.snapshots.stop_sending(peer, &mut self.group);
        if self.group.leader() == Some(peer) && self.configuration.voters.voters.contains(&self.me) {
            self.group.expire_lease();
            self.campaign_at = Some(now + self.turn_to_stand(Some(peer)));
        }
        self.stand_soon_after_the_start(now);
    }

    pub(crate) fn peer_up(&mut self, peer: NodeId, now: u64) {
        self.connected.insert(peer);
        if self.group.leader() == Some(peer) {
            self.writes.resend_all();
        }
        // It may have just started, and need not wait for the next heartbeat to know who leads.
        if self.group.is_leader() {
            self.group.ping();
        }
        self.stand_soon_after_the_start(now);
    }

    /// When all voters start together there is no leader to wait for: whoever can talk to a majority stands. It asks for
    /// a pre-vote first, so where there is a leader, those that hear it do not answer, and no term changes. If nothing
    /// comes of it, the election timeout goes on.
    fn stand_soon_after_the_start(&mut self, now: u64) {
        if !self.has_just_started {
            return;
        }
        let voters = &self.configuration.voters;
        let is_there = |id| id == self.me || self.connected.contains(&id);
        let can_win = voters.voters.contains(&self.me) && voters.is_majority(is_there);
        self.campaign_at = match self.campaign_at {
            _ if !can_win => None,
            Some(at) => Some(at),
            None => Some(now + self.turn_to_stand(None)),
        };
    }

    /// After how many ticks this voter stands: each in turn, so that they do not split the vote. The order changes with
    /// the term, and all agree on it.
    fn turn_to_stand(&self, gone: Option<NodeId>) -> u64 {
        let voters = self.configuration.voters.voters.iter().copied();
        let others: Vec<NodeId> = voters.filter(|&id| Some(id) != gone).collect();
        let mine = others.iter().position(|&id| id == self.me).unwrap_or(0) as u64;
        let rank = (mine + hash(&[self.group.term()])) % others.len().max(1) as u64;
        1 + 2 * rank
    }

    /// A checkpoint that was sent to us is installed, or failed to be.
    pub(crate) fn installed(
        &mut self,
        info: &CheckpointInfo,
        result: Result<Box<kv::Store>, String>,
    ) -> Result<(), String> {
        let message = self.snapshots.installed(info, result.is_ok());
        let store = result?;
        match message {
            Some(message) => {
                self.leave_arrived();
                self.arrived = Some(store);
                let _ = self.group.step(message);
            }
            None => self.upkeep.discard(&store),
        }
        Ok(())
    }

    /// What arrived is not needed, for what it brings came by the log.
    fn leave_arrived(&mut self) {
        if let Some(store) = self.arrived.take() {
            self.upkeep.discard(&store);
        }
    }

    /// Some of the store's upkeep is done.
    pub(crate) fn upkeep_done(&mut self, finished: Finished) {
        if let Some(position) = self.store.finish(finished) {
            self.snapshots.may_purge(position);
        }
    }

    pub(crate) fn checkpoint_written(
        &mut self,
        result: Result<CheckpointInfo, String>,
        now: u64,
    ) -> Result<(), String> {
        self.snapshots.written(result, now, &mut self.group)
    }

    /// One turn: everything that came in since the last one goes out together. Returns the newest of the group's turns
    /// whose write is in the log write.
    pub(crate) fn turn(
        &mut self,
        now: u64,
        effects: &mut Vec<Effect>,
        replies: &mut Vec<(Ticket, Outcome)>,
        write: &mut LogWrite,
        notices: &mut Vec<Notice>,
    ) -> Result<Option<u64>, StorageError> {
        let mut newest = None;
        write.groups.extend(self.first_write.take());
        self.notice_leader_change();
        self.send_writes(now, effects);
        self.reads.start(&mut self.group, now, effects);
        while let Some(mut turn) = self.group.advance() {
            if turn.write.is_some() {
                newest = Some(turn.number);
            }
            write.groups.extend(turn.write.take());
            if let Some(position) = turn.snapshot {
                self.install(position, now, replies, notices)?;
            }
            let mut answered = 0;
            for committed in turn.committed {
                answered += usize::from(matches!(committed, Committed::Command { .. }));
                self.apply(committed, now, replies, notices)?;
            }
            if answered > 0 && self.group.is_leader() {
                self.gathering.committed(self.store.applied().index, answered, self.waiting());
            }
            for (context, index) in turn.reads {
                self.reads.confirmed_by_quorum(&context, index, effects);
            }
            if self.is_removed() {
                break;
            }
            self.notice_leader_change();
            // What became possible: a read round, or the writes that waited for the session.
            self.send_writes(now, effects);
            self.reads.start(&mut self.group, now, effects);
        }
        self.send_messages(now, effects);
        self.reads.applied(self.store.applied().index, replies);
        self.keep_house(now, effects)?;
        // After a restart the members are those of the newest change that is known to be committed. If nobody knew of a
        // removal any more, the vote of a node that is gone for good would be needed to learn of it again.
        if std::mem::take(&mut self.members_changed) {
            let hard_state = Some(self.group.hard_state());
            write.groups.push(GroupWrite { group: self.id, hard_state, ..GroupWrite::default() });
        }
        if let Some(position) = self.snapshots.take_purge(self.store.applied()) {
            let purge = GroupWrite { group: self.id, purge_to: Some(position), ..GroupWrite::default() };
            write.groups.push(purge);
        }
        let (applied, known_commit) = (self.store.applied(), self.group.known_commit());
        if self.published != (applied, known_commit) {
            self.published = (applied, known_commit);
            effects.push(Effect::PublishView { group: self.id, view: self.store.view(), known_commit });
        }
        notices.extend(self.group.take_steps().into_iter().map(|step| Notice::Step { group: self.id, step }));
        Ok(newest)
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.configuration.was_removed(self.me)
    }

    fn notice_leader_change(&mut self) {
        let sees = (self.group.leader(), self.group.term());
        if sees != self.saw {
            self.saw = sees;
            self.has_just_started &= sees.0.is_none();
            self.reads.restart();
            self.writes.resend_all();
            self.compaction.restart();
            self.forwarded.clear();
            self.forwarded_bytes = 0;
            self.gathering.restart();
            self.chores.clear();
        }
    }

    fn send_writes(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if self.group.is_leader() {
            let nothing = self.forwarded.is_empty() && self.chores.is_empty() && !self.writes.wants_to_send(now);
            if self.group.is_transferring() || nothing {
                return;
            }
            if self.gathers(now) > 0 {
                return self.gathering.waits(now);
            }
            let pressure = upkeep::pressure(&self.store);
            if !self.upkeep.may_propose(pressure, now) {
                // They come again.
                if pressure == Pressure::Full {
                    self.forwarded.clear();
                    self.forwarded_bytes = 0;
                }
                return;
            }
            let mut commands = std::mem::take(&mut self.forwarded);
            self.forwarded_bytes = 0;
            commands.append(&mut self.chores);
            commands.extend(self.writes.take_commands(now));
            let count = commands.len();
            // Refused whole when too much is uncommitted. Ours go again next turn; their senders send theirs again, and
            // chores come up again.
            if !self.group.propose(commands) {
                self.writes.resend_all();
            }
            self.gathering.proposed(self.group.last_index(), count);
        } else if let Some(leader) = self.group.leader()
            && self.writes.wants_to_send(now)
        {
            for commands in writes::frames(self.writes.take_commands(now)) {
                effects.push(Effect::Send { to: leader, message: Message::Forward { group: self.id, commands } });
            }
        }
    }

    pub(crate) fn begin_turn(&mut self, now_micros: u64, disk_works: bool) {
        self.gathering.begin_turn(now_micros, disk_works);
    }

    /// How many more commands this leader waits for before it proposes any.
    pub(crate) fn gathers(&self, now: u64) -> usize {
        if !self.group.is_leader() {
            return 0;
        }
        let ahead = self.group.last_index() - self.group.commit();
        self.gathering.lacks(ahead as usize, self.waiting(), now)
    }

    /// Until when, where it is not for others to end it.
    pub(crate) fn gathers_until_micros(&self) -> Option<u64> {
        self.gathering.until_micros()
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            commands: self.forwarded.len() + self.writes.outbox_len(),
            bytes: self.forwarded_bytes + self.writes.outbox_bytes(),
        }
    }

    fn send_messages(&mut self, now: u64, effects: &mut Vec<Effect>) {
        for message in self.group.take_messages() {
            if message.snapshot().is_some() {
                self.snapshots.offer(message, now, &mut self.group, effects);
            } else {
                effects.push(Effect::Send { to: message.to(), message: Message::Raft { group: self.id, message } });
            }
        }
    }

    fn apply(
        &mut self,
        committed: Committed,
        now: u64,
        replies: &mut Vec<(Ticket, Outcome)>,
        notices: &mut Vec<Notice>,
    ) -> Result<(), StorageError> {
        let position = committed.position();
        assert_eq!(position.index, self.store.applied().index + 1, "entries are applied in order, each once");
        let mut log_bytes = 48;
        match committed {
            Committed::Command { data, .. } => {
                log_bytes += data.len() as u64;
                match Command::decode(data) {
                    Ok(command) => self.apply_command(position, &command, now, replies)?,
                    Err(_) => self.store.apply_empty(position)?,
                }
            }
            Committed::Empty { .. } => self.store.apply_empty(position)?,
            Committed::Change { context, .. } => self.apply_change(position, context, notices)?,
            Committed::Leave { .. } => self.apply_leave(position, notices)?,
        }
        self.log_bytes += log_bytes;
        self.upkeep.applied(log_bytes, now);
        self.group.applied(position.index);
        Ok(())
    }

    fn apply_command(
        &mut self,
        position: Position,
        command: &Command,
        now: u64,
        replies: &mut Vec<(Ticket, Outcome)>,
    ) -> Result<(), StorageError> {
        // Only whoever waits for a transaction wants to know what its steps gave.
        let (answer, decided) = match command {
            Command::Act { request: Some(request), .. } if self.writes.waits_for(request) => {
                self.store.apply_for(position, command)?
            }
            _ => (self.store.apply(position, command)?, None),
        };
        if let Command::Act { action, .. } = command {
            self.leases.applied(action, &answer, &self.store, now)?;
        }
        match command {
            Command::Write { request, .. } | Command::Act { request: Some(request), .. } => {
                replies.extend(self.writes.applied(request, &answer, decided));
            }
            Command::Act { request: None, .. } => {}
            Command::Register { session } => {
                if session.node == self.me && answer == Answer::Registered {
                    self.writes.look_at(&self.store, replies);
                }
            }
        }
        Ok(())
    }

    /// Every replica decides alike whether the change still makes sense, then `raft` and the state learn of it together.
    fn apply_change(
        &mut self,
        position: Position,
        context: Bytes,
        notices: &mut Vec<Notice>,
    ) -> Result<(), StorageError> {
        let change = match MemberChange::decode(context) {
            Ok(change) if self.configuration.admits(&change) => change,
            _ => return self.store.apply_empty(position),
        };
        match self.group.apply_change(&change.voter_change()) {
            Ok(voters) => {
                let mut configuration = (*self.configuration).clone();
                configuration.apply(&change, voters);
                notices.push(Notice::MemberChanged(describe(&change, &self.configuration)));
                self.configure(position, configuration);
                Ok(())
            }
            Err(_) => self.store.apply_empty(position),
        }
    }

    fn apply_leave(&mut self, position: Position, notices: &mut Vec<Notice>) -> Result<(), StorageError> {
        if !self.configuration.voters.is_joint() {
            return self.store.apply_empty(position);
        }
        match self.group.apply_leave() {
            Ok(voters) => {
                let mut configuration = (*self.configuration).clone();
                configuration.set_voters(voters);
                for (id, member) in &self.configuration.members {
                    if !configuration.members.contains_key(id) {
                        notices.push(Notice::MemberChanged(format!("{member} was replaced")));
                    }
                }
                self.configure(position, configuration);
                Ok(())
            }
            Err(_) => self.store.apply_empty(position),
        }
    }

    fn configure(&mut self, position: Position, configuration: Configuration) {
        let members: Vec<NodeId> = configuration.members.keys().copied().collect();
        self.store.set_configuration(position, configuration.encode(), &members);
        self.configuration = Arc::new(configuration);
        self.members_changed = true;
    }

    /// `raft` accepted the snapshot: the state is now the checkpoint's.
    fn install(
        &mut self,
        position: Position,
        now: u64,
        replies: &mut Vec<(Ticket, Outcome)>,
        notices: &mut Vec<Notice>,
    ) -> Result<(), StorageError> {
        let store = self.arrived.take().expect("a snapshot is stepped only once its checkpoint is loaded");
        assert_eq!(store.applied(), position, "the checkpoint is the one that the snapshot names");
        let before = std::mem::replace(&mut self.store, *store);
        self.leases = Leases::begin(&self.store, now)?;
        self.configuration = Arc::new(
            Configuration::decode(self.store.configuration().clone()).expect("it was decoded when it was applied"),
        );
        if self.store.is_durable() {
            self.upkeep.replaced(&before);
            self.snapshots.may_purge(position);
        } else {
            self.group.set_checkpoint(position, self.configuration.voters.clone());
        }
        self.log_bytes = 0;
        self.writes.look_at(&self.store, replies);
        notices.push(Notice::SnapshotInstalled { group: self.id, position });
        Ok(())
    }

    /// Bounds the log: on disk by flushes or checkpoints, in memory by forgetting.
    fn keep_house(&mut self, now: u64, effects: &mut Vec<Effect>) -> Result<(), StorageError> {
        let durable = self.store.is_durable();
        if durable {
            if self.arrived.as_ref().is_some_and(|arrived| arrived.applied().index <= self.store.applied().index) {
                self.leave_arrived();
            }
            let seal_after_bytes = self.settings.checkpoint_after_bytes;
            self.upkeep.keep(self.id, &mut self.store, seal_after_bytes, now, effects)?;
        }
        let newest = self.snapshots.newest().map_or(0, |info| info.size_bytes);
        let due = !durable && self.log_bytes >= self.settings.checkpoint_after_bytes.max(newest);
        let wanted = self.group.take_checkpoint_wanted();
        if (due || wanted) && self.snapshots.can_write(self.store.applied(), now) && !self.is_removed() {
            self.log_bytes = 0;
            let (position, voters) = (self.store.applied(), self.configuration.voters.clone());
            self.snapshots.write(self.store.frozen(), position, voters, effects);
        }
        let limit = self.settings.log_cache_bytes;
        if self.group.cache_size_bytes() > limit {
            self.group.shrink_cache(self.snapshots.keep_after(), limit, 4 * limit);
        }
        Ok(())
    }

    /// This replica is none any more.
    pub(crate) fn fail_all(&mut self, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        self.writes.fail_all(why, replies);
        self.reads.fail_all(why, replies);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.writes.is_idle() && self.reads.is_idle()
    }

    pub(crate) fn successor(&self) -> Option<NodeId> {
        admin::best_successor(&self.group, &self.configuration, self.me)
    }

    pub(crate) fn read(&mut self, ticket: Ticket, level: ReadLevel, deadline: u64) -> Result<(), Failure> {
        match level {
            ReadLevel::Linearizable => self.reads.request(ticket, false, deadline),
            ReadLevel::Weak => self.reads.request(ticket, true, deadline),
            ReadLevel::Strong => self.writes.request_read(ticket, deadline),
        }
    }
}

fn describe(change: &MemberChange, before: &Configuration) -> String {
    let name = |id: &NodeId| before.members.get(id).map_or_else(|| format!("node {id}"), |m| m.name.clone());
    match change {
        MemberChange::AddLearner { member, stays: false, .. } => format!("{member} is catching up"),
        MemberChange::AddLearner { member, stays: true, .. } => format!("{member} is catching up, and stays a learner"),
        MemberChange::Stay { member, .. } => format!("{member} stays a learner"),
        MemberChange::Promote { id, replaces: None } => format!("{} votes now", name(id)),
        MemberChange::Promote { id, replaces: Some(_) } => {
            format!("{} votes now, in the place of an older member", name(id))
        }
        MemberChange::Remove { id } => format!("{} was removed", name(id)),
        MemberChange::Update { member, .. } => format!("{} is at {} now", member.name, member.address),
    }
}
