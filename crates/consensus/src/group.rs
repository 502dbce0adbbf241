//! One group's consensus, driven.

use base::rng::hash;
use base::{GroupId, Index, NodeId, Position, Term};
use bytes::Bytes;
use raft::eraftpb::{self, Entry, EntryType, MessageType};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use storage::log::{EntryKind, GroupWrite, HardState, LogEntry};

use crate::cache::EntryCache;
use crate::steps::Steps;
use crate::{Change, Message, Step, Verbosity, Voters, wire};

#[derive(Clone, Debug)]
pub struct Settings {
    pub node: NodeId,
    pub group: GroupId,
    /// Election timeouts are drawn from it.
    pub seed: u64,
    /// A follower that hears nothing for one to two times this long campaigns.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub max_message_bytes: u64,
    /// How many appends may be on their way to one follower.
    pub max_inflight_messages: usize,
    /// A follower that lacks more than this is sent a little at a time ([`FAR_BEHIND_MESSAGES`]).
    pub far_behind_bytes: usize,
    /// Proposals beyond this much uncommitted log are refused.
    pub max_uncommitted_bytes: u64,
    /// How much is handed out to be applied in one turn.
    pub max_committed_bytes: u64,
    /// How much of what `raft` says is kept for [`Group::take_steps`].
    pub verbosity: Verbosity,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            node: 0,
            group: base::FIRST_GROUP,
            seed: 0,
            election_ticks: 12,
            heartbeat_ticks: 2,
            max_message_bytes: 512 * 1024,
            max_inflight_messages: 64,
            far_behind_bytes: 1024 * 1024,
            max_uncommitted_bytes: 64 * 1024 * 1024,
            max_committed_bytes: 4 * 1024 * 1024,
            verbosity: Verbosity::Silent,
        }
    }
}

/// How many appends may be on their way to a follower that is far behind, at first.
const FAR_BEHIND_MESSAGES: usize = 2;

/// What a group starts from: the state that was applied, and the log that follows.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub hard_state: HardState,
    /// The state's position. Everything up to it is committed and applied.
    pub applied: Position,
    /// As of `applied`.
    pub voters: Voters,
    /// Just before the first of `entries`; at or before `applied`.
    pub before: Position,
    pub entries: Vec<LogEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

/// What one [`Group::advance`] asks for.
#[derive(Debug, Default)]
pub struct Turn {
    /// Name it in [`Group::persisted`] once `write` is on disk.
    pub number: u64,
    pub write: Option<GroupWrite>,
    /// A snapshot was accepted: the state is now the one of that checkpoint. (No need to say [`Group::applied`] for it.)
    pub snapshot: Option<Position>,
    /// To be applied, in order.
    pub committed: Vec<Committed>,
    /// Reads confirmed by a quorum: context, and the index that must be applied before they are served.
    pub reads: Vec<(Bytes, Index)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    Command {
        position: Position,
        data: Bytes,
    },
    /// A change of voters: apply it with [`Group::apply_change`] before saying [`Group::applied`].
    Change {
        position: Position,
        context: Bytes,
    },
    /// The end of a joint change: [`Group::apply_leave`].
    Leave {
        position: Position,
    },
    /// A leader's first entry, or a change that was refused.
    Empty {
        position: Position,
    },
}

impl Committed {
    pub fn position(&self) -> Position {
        match self {
            Committed::Command { position, .. }
            | Committed::Change { position, .. }
            | Committed::Leave { position }
            | Committed::Empty { position } => *position,
        }
    }
}

/// How far a follower is, as its leader knows.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub matched: Index,
    pub recently_active: bool,
    pub in_snapshot: bool,
    /// It lacks so much that it is sent a little at a time.
    pub is_far_behind: bool,
}

/// The message was not stepped, and why. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRefused(pub &'static str);

impl fmt::Display for StepRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

pub struct Group {
    raw: RawNode<EntryCache>,
    settings: Settings,
    /// Turns whose messages wait for the disk, oldest first.
    waiting: VecDeque<Waiting>,
    /// The newest term that is on disk.
    durable_term: Term,
    /// Messages that may leave now.
    outbox: Vec<Message>,
    /// The highest commit index that a leader told.
    told_commit: Index,
    /// Of those who are sent a little at a time.
    windows: BTreeMap<NodeId, Window>,
    steps: Steps,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    /// How many appends may be on their way.
    messages: usize,
    /// How far the follower was when the window was set.
    matched: Index,
}

struct Waiting {
    number: u64,
    /// Without a write of its own it only waits for those before it.
    on_disk: bool,
    term: Term,
    messages: Vec<Message>,
    /// It installs the snapshot of that index, which counts as applied once it is on disk.
    snapshot: Option<Index>,
}

impl Group {
    pub fn new(settings: Settings, start: Start) -> Result<Group, String> {
        let last = start.entries.last().map_or(start.before, |entry| entry.position);
        if start.before.index > start.applied.index || last.index < start.applied.index {
            return Err(format!(
                "the log (entries after {} up to {}) does not meet the state at {}",
                start.before.index, last.index, start.applied.index
            ));
        }
        let hard_state = eraftpb::HardState {
            term: start.hard_state.term.max(last.term).max(start.applied.term),
            vote: if start.hard_state.term >= last.term.max(start.applied.term) { start.hard_state.vote } else { 0 },
            commit: start.hard_state.commit.clamp(start.applied.index, last.index),
            ..Default::default()
        };
        let durable_term = start.hard_state.term;
        let config = Config {
            id: settings.node,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: start.applied.index,
            max_size_per_msg: settings.max_message_bytes,
            max_inflight_msgs: settings.max_inflight_messages,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: settings.max_uncommitted_bytes,
            max_committed_size_per_ready: settings.max_committed_bytes,
            ..Config::default()
        };
        let entries = start.entries.into_iter().map(to_raft).collect();
        let cache = EntryCache::new(start.before, entries, hard_state, &start.voters);
        let (steps, logger) = Steps::new(settings.verbosity);
        let raw = RawNode::new(&config, cache, &logger).map_err(|error| error.to_string())?;
        let mut group = Group {
            raw,
            settings,
            waiting: VecDeque::new(),
            durable_term,
            outbox: Vec::new(),
            told_commit: 0,
            windows: BTreeMap::new(),
            steps,
        };
        group.seed_timeout();
        Ok(group)
    }

    pub fn tick(&mut self) {
        // A sole voter elects itself within this call, which wants all of its log on disk.
        if self.is_sole_voter() && !self.is_leader() && !self.waiting.is_empty() {
            return;
        }
        if self.is_installing() {
            return;
        }
        self.raw.tick();
        self.seed_timeout();
        self.widen_windows();
    }

    /// Stand for election now (with a pre-vote, so a live leader is not disturbed).
    pub fn campaign(&mut self) {
        if self.is_leader() || !self.raw.raft.promotable() || (self.is_sole_voter() && !self.waiting.is_empty()) {
            return;
        }
        if self.is_installing() {
            return;
        }
        let _ = self.raw.campaign();
        self.seed_timeout();
    }

    /// As leader: lets everybody hear of it now.
    pub fn ping(&mut self) {
        self.raw.ping();
    }

    /// The leader seems dead: stop protecting it from elections, as if its lease had run out.
    pub fn expire_lease(&mut self) {
        if !self.is_leader() {
            let raft = &mut self.raw.raft;
            raft.election_elapsed = raft.election_elapsed.max(raft.election_timeout());
        }
    }

    /// Takes in a peer's message. Snapshots only once their checkpoint is installed.
    pub fn step(&mut self, message: Message) -> Result<(), StepRefused> {
        let Message(m) = message;
        if m.to != self.settings.node {
            return Err(StepRefused("meant for another node"));
        }
        let last = self.raw.raft.raft_log.last_index();
        match m.msg_type {
            // The crate panics on these: a leader that knows more of our log than is in it. Ours must have shrunk, which
            // can't be mended by going on.
            MessageType::MsgHeartbeat if m.term >= self.term() && m.commit > last => {
                return Err(StepRefused("a heartbeat commits more than this log holds"));
            }
            MessageType::MsgAppendResponse
                if !m.reject && self.is_leader() && m.term == self.term() && m.index > last =>
            {
                return Err(StepRefused("a follower acknowledges more than this log holds"));
            }
            MessageType::MsgAppend if m.term >= self.term() && self.contradicts_committed(&m) => {
                return Err(StepRefused("an append contradicts a committed entry"));
            }
            // It asks for a campaign.
            MessageType::MsgTimeoutNow if self.is_installing() => {
                return Err(StepRefused("a snapshot is being installed"));
            }
            _ => {}
        }
        let told = match m.msg_type {
            MessageType::MsgAppend => m.commit,
            MessageType::MsgHeartbeat => m.index,
            _ => 0,
        };
        let from = m.from;
        self.begin_gently(&m);
        let stepped = self.raw.step(m);
        self.seed_timeout();
        if self.windows.contains_key(&from) && !self.progress(from).is_some_and(|progress| progress.is_far_behind) {
            self.unlimit(from);
        }
        stepped.map_err(|_| StepRefused("from a node that is no replica of this group"))?;
        self.told_commit = self.told_commit.max(told);
        Ok(())
    }

    /// A follower that answers to a probe would be sent all that it lacks at once, in a turn of many milliseconds in which
    /// nobody else is served. One that is far behind gets a little, and more as it answers, until it is near.
    ///
    /// Only while nothing is on its way: `raft` sends nothing more until fewer are than it now may, and if those were
    /// lost, that would take long.
    fn begin_gently(&mut self, m: &eraftpb::Message) {
        let is_answer = m.msg_type == MessageType::MsgAppendResponse && !m.reject && m.term == self.term();
        let Some(progress) = self.raw.raft.prs().get(m.from).filter(|_| is_answer && self.is_leader()) else { return };
        let matched = progress.matched.max(m.index);
        if progress.state == ProgressState::Probe && self.is_far_behind(matched) {
            self.limit(m.from, Window { messages: FAR_BEHIND_MESSAGES, matched });
        }
    }

    /// Over a long way a little at a time would be too little for a follower to ever catch up. So one message more may be
    /// on its way after each tick in which it got on.
    fn widen_windows(&mut self) {
        for (peer, window) in self.windows.clone() {
            match self.progress(peer).filter(|_| self.is_leader()) {
                Some(progress) if progress.matched > window.matched => {
                    self.limit(peer, Window { messages: window.messages + 1, matched: progress.matched });
                }
                Some(_) => {}
                None => self.unlimit(peer),
            }
        }
    }

    fn limit(&mut self, peer: NodeId, window: Window) {
        if window.messages >= self.settings.max_inflight_messages {
            return self.unlimit(peer);
        }
        self.raw.raft.adjust_max_inflight_msgs(peer, window.messages);
        self.windows.insert(peer, window);
    }

    fn unlimit(&mut self, peer: NodeId) {
        self.raw.raft.adjust_max_inflight_msgs(peer, self.settings.max_inflight_messages);
        self.windows.remove(&peer);
    }

    fn is_far_behind(&self, matched: Index) -> bool {
        // What was proposed in this turn is not in memory where the rest is.
        let fresh = self.raw.raft.raft_log.unstable_entries().iter().map(|entry| entry.data.len()).sum::<usize>();
        self.raw.store().bytes_after(matched) + fresh > self.settings.far_behind_bytes
    }

    /// Proposes commands, all or none. False: nothing was proposed; not the leader, handing over, or too much is
    /// uncommitted.
    pub fn propose(&mut self, commands: Vec<Bytes>) -> bool {
        if !self.is_leader() || commands.is_empty() {
            return false;
        }
        let entries = commands.into_iter().map(|data| Entry { data, ..Default::default() }).collect::<Vec<_>>();
        self.propose_entries(entries)
    }

    /// Proposes a change of voters. The index it got, unless it was refused (another change is under way).
    pub fn propose_change(&mut self, change: &Change, context: Bytes) -> Option<Index> {
        if !self.is_leader() || self.raw.raft.has_pending_conf() || self.voters().is_joint() {
            return None;
        }
        self.propose_raft_change(change.to_raft(), context)
    }

    /// As leader: a change of voters may be in the log that is not applied yet.
    pub fn has_pending_change(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// Leaves a joint configuration whose leader was lost before it could. Does nothing if that is under way.
    pub fn leave_joint(&mut self) {
        if self.is_leader() && !self.raw.raft.has_pending_conf() && self.voters().is_joint() {
            self.propose_raft_change(Change::leave(), Bytes::new());
        }
    }

    fn propose_raft_change(&mut self, change: eraftpb::ConfChangeV2, context: Bytes) -> Option<Index> {
        self.raw.propose_conf_change(context.to_vec(), change).is_ok().then(|| self.last_index())
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> bool {
        let mut m =
            eraftpb::Message { msg_type: MessageType::MsgPropose, from: self.settings.node, ..Default::default() };
        m.entries = entries.into();
        self.raw.raft.step(m).is_ok()
    }

    /// May reads be asked of this leader? Not before it committed an entry in its term (Raft thesis, section 6.4).
    pub fn can_read(&self) -> bool {
        self.is_leader() && self.raw.raft.commit_to_current_term()
    }

    /// Asks a quorum whether we still lead. Answered in [`Turn::reads`], or never. `context` must never repeat.
    pub fn read_index(&mut self, context: Bytes) {
        assert!(self.can_read());
        self.raw.read_index(context.to_vec());
    }

    /// Hands leadership to that voter. Takes up to an election timeout, during which proposals are refused.
    pub fn transfer_leadership(&mut self, to: NodeId) {
        if self.is_leader() {
            self.raw.transfer_leader(to);
        }
    }

    pub fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// The next thing to do, or `None` when there is nothing.
    pub fn advance(&mut self) -> Option<Turn> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let number = ready.number();
        let term = self.raw.raft.term;
        let mut turn = Turn { number, ..Turn::default() };

        turn.reads = ready.take_read_states().into_iter().map(|r| (Bytes::from(r.request_ctx), r.index)).collect();
        if !ready.snapshot().is_empty() {
            let meta = ready.snapshot().get_metadata();
            let position = Position { index: meta.index, term: meta.term };
            self.raw.mut_store().reset(position);
            turn.snapshot = Some(position);
        }
        turn.committed = ready.take_committed_entries().into_iter().map(committed).collect();
        let entries = ready.take_entries();
        // A commit index alone is not worth a write: it is learned again after a restart.
        if ready.must_sync() {
            let raft = &self.raw.raft;
            turn.write = Some(GroupWrite {
                group: self.settings.group,
                hard_state: Some(HardState { term, vote: raft.vote, commit: raft.raft_log.committed }),
                reset: turn.snapshot,
                entries: entries.iter().map(from_raft).collect(),
                purge_to: None,
                configuration: None,
            });
        }
        self.raw.mut_store().append(entries);

        let now = ready.take_messages();
        let mut after = ready.take_persisted_messages();
        if self.durable_term < term {
            // A sole voter becomes leader before its new term is on disk. If its followers (learners) heard of that
            // term and it then forgot it, it would lead the same term twice, with other entries.
            after.extend(now);
        } else {
            self.send(now);
        }
        let early: Vec<_> = after
            .extract_if(.., |m| m.msg_type == MessageType::MsgHeartbeatResponse && m.term <= self.durable_term)
            .collect();
        self.send(early);
        self.waiting.push_back(Waiting {
            number,
            on_disk: turn.write.is_none(),
            term,
            messages: after.into_iter().map(Message).collect(),
            snapshot: turn.snapshot.map(|position| position.index),
        });
        self.raw.advance_append_async(ready);
        self.release();
        Some(turn)
    }

    /// The writes of that turn, and of all turns before it, are on disk.
    pub fn persisted(&mut self, number: u64) {
        for waiting in self.waiting.iter_mut().take_while(|w| w.number <= number) {
            if !waiting.on_disk {
                waiting.on_disk = true;
                self.durable_term = self.durable_term.max(waiting.term);
            }
        }
        self.release();
    }

    fn release(&mut self) {
        let (mut last, mut snapshot) = (None, None);
        while let Some(waiting) = self.waiting.pop_front_if(|w| w.on_disk) {
            last = Some(waiting.number);
            snapshot = waiting.snapshot.or(snapshot);
            self.send(waiting.messages.into_iter().map(|m| m.0).collect());
        }
        if let Some(number) = last {
            self.raw.on_persist_ready(number);
        }
        if let Some(index) = snapshot {
            self.raw.advance_apply_to(index);
        }
    }

    /// Queues messages, merging what says the same: appends that continue each other, and acknowledgements of which
    /// the last says it all.
    fn send(&mut self, messages: Vec<eraftpb::Message>) {
        for mut m in messages {
            // Its commit index is no higher than what the follower is known to have. The true one goes where `raft` does
            // not look, so that the follower knows after each contact whether it lacks something.
            if m.msg_type == MessageType::MsgHeartbeat {
                m.index = self.commit();
            }
            if let Some(Message(last)) = self.outbox.iter_mut().rev().find(|o| o.0.to == m.to) {
                let same = last.msg_type == m.msg_type && last.term == m.term && !last.reject && !m.reject;
                if same && m.msg_type == MessageType::MsgAppendResponse && last.index <= m.index {
                    *last = m;
                    continue;
                }
                let follows = last.index + last.entries.len() as u64 == m.index;
                if same && m.msg_type == MessageType::MsgAppend && follows && self.settings.fits(last, &m) {
                    last.commit = last.commit.max(m.commit);
                    let mut entries = last.take_entries().into_vec();
                    entries.append(&mut m.take_entries().into_vec());
                    last.entries = entries.into();
                    continue;
                }
            }
            self.outbox.push(Message(m));
        }
    }

    /// Messages that may leave now.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    /// What `raft` said since this was last asked.
    pub fn take_steps(&mut self) -> Vec<Step> {
        self.steps.take()
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: Index) {
        self.raw.advance_apply_to(index);
    }

    pub fn apply_change(&mut self, change: &Change) -> Result<Voters, String> {
        let state = self.raw.apply_conf_change(&change.to_raft()).map_err(|error| error.to_string())?;
        Ok(Voters::from_raft(&state))
    }

    pub fn apply_leave(&mut self) -> Result<Voters, String> {
        let state = self.raw.apply_conf_change(&Change::leave()).map_err(|error| error.to_string())?;
        Ok(Voters::from_raft(&state))
    }

    /// A checkpoint at that position can be sent to followers; `voters` as of that position.
    pub fn set_checkpoint(&mut self, position: Position, voters: Voters) {
        self.raw.mut_store().set_checkpoint(position, voters);
    }

    /// The checkpoint is gone: a follower that needs one has to wait for another.
    pub fn forget_checkpoint(&mut self) {
        self.raw.mut_store().forget_checkpoint();
    }

    /// Did a follower need a checkpoint newer than there is, since this was last asked?
    pub fn take_checkpoint_wanted(&mut self) -> bool {
        self.raw.store().take_checkpoint_wanted()
    }

    /// Keeps at most `limit_bytes` of applied entries in memory; entries after `keep_after` stay up to `hard_limit_bytes`.
    pub fn shrink_cache(&mut self, keep_after: Index, limit_bytes: usize, hard_limit_bytes: usize) {
        let applied = self.raw.raft.raft_log.applied;
        let cache = self.raw.mut_store();
        cache.shrink(applied.min(keep_after), limit_bytes);
        cache.shrink(applied, hard_limit_bytes);
    }

    /// Forgets the entries in memory up to `index`, which is applied.
    pub fn forget_to(&mut self, index: Index) {
        let applied = self.raw.raft.raft_log.applied;
        self.raw.mut_store().forget_to(index.min(applied));
    }

    pub fn cache_size_bytes(&self) -> usize {
        self.raw.store().size_bytes()
    }

    /// The connection to that peer broke: what was on its way may be lost.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        self.raw.report_unreachable(peer);
    }

    /// Sending the snapshot to that peer came to an end. Success is learned from its next response; failure is not.
    pub fn report_snapshot(&mut self, peer: NodeId, arrived: bool) {
        self.raw.report_snapshot(peer, if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// What this replica would have to remember if it ended now.
    pub fn hard_state(&self) -> HardState {
        let raft = &self.raw.raft;
        HardState { term: raft.term, vote: raft.vote, commit: raft.raft_log.committed }
    }

    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => Role::Follower,
        }
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id).filter(|&id| id != 0)
    }

    pub fn term(&self) -> Term {
        self.raw.raft.term
    }

    pub fn commit(&self) -> Index {
        self.raw.raft.raft_log.committed
    }

    /// The highest index that is known here to be committed, or was told by a leader: more than [`Group::commit`] where
    /// this replica is behind.
    pub fn known_commit(&self) -> Index {
        self.commit().max(self.told_commit)
    }

    pub fn last_index(&self) -> Index {
        self.raw.raft.raft_log.last_index()
    }

    /// The term of the entry at that index, if it is in memory.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.raw.raft.raft_log.term(index).ok().filter(|&term| term != 0 || index == 0)
    }

    pub fn voters(&self) -> Voters {
        Voters::from_raft(&self.raw.raft.prs().conf().to_conf_state())
    }

    pub fn progress(&self, peer: NodeId) -> Option<Progress> {
        self.raw.raft.prs().get(peer).map(|p| Progress {
            matched: p.matched,
            recently_active: p.recent_active,
            in_snapshot: p.state == ProgressState::Snapshot,
            is_far_behind: self.is_far_behind(p.matched),
        })
    }

    /// No log write is on its way to the disk.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && !self.raw.has_ready()
    }

    /// A snapshot was accepted and is not on disk yet. Until it counts as applied, a campaign would look for the entries
    /// before it, which are gone, and the crate panics.
    fn is_installing(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.snapshot.is_some())
    }

    fn is_sole_voter(&self) -> bool {
        self.raw.raft.prs().is_singleton() && self.raw.raft.promotable()
    }

    fn contradicts_committed(&self, m: &eraftpb::Message) -> bool {
        let committed = self.commit();
        m.entries
            .iter()
            .take_while(|e| e.index <= committed)
            .any(|e| self.raw.store().term_at(e.index).is_some_and(|term| term != e.term))
    }

    fn seed_timeout(&mut self) {
        let s = &self.settings;
        let spread = hash(&[s.seed, s.node, s.group, self.raw.raft.term]) % s.election_ticks as u64;
        self.raw.raft.set_randomized_election_timeout(s.election_ticks + spread as usize);
    }
}

impl Settings {
    fn fits(&self, a: &eraftpb::Message, b: &eraftpb::Message) -> bool {
        let size = |m: &eraftpb::Message| m.entries.iter().map(|e| e.data.len() as u64 + 32).sum::<u64>();
        b.entries.is_empty() || size(a) + size(b) <= self.max_message_bytes
    }
}

fn committed(entry: Entry) -> Committed {
    let position = Position { index: entry.index, term: entry.term };
    match entry.entry_type {
        EntryType::EntryNormal if entry.data.is_empty() => Committed::Empty { position },
        EntryType::EntryNormal => Committed::Command { position, data: entry.data },
        _ if entry.context.is_empty() => Committed::Leave { position },
        _ => Committed::Change { position, context: entry.context },
    }
}

fn from_raft(entry: &Entry) -> LogEntry {
    LogEntry {
        position: Position { index: entry.index, term: entry.term },
        kind: if wire::entry_tag(entry.entry_type) == 0 { EntryKind::Normal } else { EntryKind::Change },
        data: entry.data.clone(),
        context: entry.context.clone(),
    }
}

fn to_raft(entry: LogEntry) -> Entry {
    Entry {
        entry_type: match entry.kind {
            EntryKind::Normal => EntryType::EntryNormal,
            EntryKind::Change => EntryType::EntryConfChangeV2,
        },
        index: entry.position.index,
        term: entry.position.term,
        data: entry.data,
        context: entry.context,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    fn replica(node: NodeId) -> Group {
        let voters = Voters { voters: vec![1, 2], ..Voters::default() };
        let start = Start { voters, ..Start::default() };
        let settings = Settings {
            node,
            max_message_bytes: 1_000,
            max_inflight_messages: MOST,
            far_behind_bytes: 2_000,
            ..Settings::default()
        };
        Group::new(settings, start).unwrap()
    }

    /// Whatever one replica has to do, on a disk that takes no time, and what it has to say then.
    fn said(group: &mut Group) -> Vec<Message> {
        while let Some(turn) = group.advance() {
            group.persisted(turn.number);
            if let Some(last) = turn.committed.last() {
                group.applied(last.position().index);
            }
        }
        group.take_messages()
    }

    fn pass(from: &mut Group, to: &mut Group) -> usize {
        let said = said(from);
        let appends = said.iter().filter(|message| message.has_entries()).count();
        said.into_iter().for_each(|message| to.step(message).unwrap());
        appends
    }

    /// A leader, and a follower that hears it again after sixty appends were written without it.
    fn far_apart() -> (Group, Group) {
        let (mut leader, mut follower) = (replica(1), replica(2));
        leader.campaign();
        for _ in 0..10 {
            pass(&mut leader, &mut follower);
            pass(&mut follower, &mut leader);
        }
        assert!(leader.is_leader());
        for _ in 0..60 {
            assert!(leader.propose(vec![Bytes::from_static(&[b'v'; 900])]));
        }
        said(&mut leader);
        leader.report_unreachable(2);
        for _ in 0..2 {
            leader.tick();
            said(&mut leader);
        }
        (leader, follower)
    }

    /// How many appends go to the follower at once, until it has all.
    fn appends(leader: &mut Group, follower: &mut Group, mut before_each: impl FnMut(&mut Group)) -> Vec<usize> {
        let mut appends = Vec::new();
        for _ in 0..200 {
            before_each(leader);
            appends.push(pass(leader, follower));
            pass(follower, leader);
            if follower.commit() == leader.last_index() {
                break;
            }
        }
        assert_eq!(follower.commit(), leader.last_index());
        appends.retain(|&count| count > 0);
        appends
    }

    #[test]
    fn a_follower_that_is_far_behind_is_sent_little_until_it_is_near() {
        let (mut leader, mut follower) = far_apart();
        leader.ping();
        let appends = appends(&mut leader, &mut follower, |_| ());
        assert!(appends.len() > 25 && appends.iter().all(|&count| count <= FAR_BEHIND_MESSAGES), "{appends:?}");
        assert!(leader.windows.is_empty());
    }

    /// Over a long way, two at a time would be too little for it to ever catch up.
    #[test]
    fn more_and_more_is_on_its_way_to_a_follower_that_takes_long() {
        let (mut leader, mut follower) = far_apart();
        let appends = appends(&mut leader, &mut follower, Group::tick);
        let widest = appends.iter().copied().max();
        assert!(appends.windows(2).all(|two| two[1] <= two[0] + 1) && widest == Some(MOST), "{appends:?}");
    }

    #[test]
    fn windows_end_with_the_term() {
        let (mut leader, mut follower) = far_apart();
        leader.ping();
        let messages = |leader: &Group| leader.windows.get(&2).map(|window| window.messages);
        for _ in 0..4 {
            pass(&mut leader, &mut follower);
            pass(&mut follower, &mut leader);
        }
        assert_eq!(messages(&leader), Some(FAR_BEHIND_MESSAGES));
        let vote = eraftpb::Message {
            msg_type: MessageType::MsgRequestVote,
            from: 2,
            to: 1,
            term: leader.term() + 1,
            context: Bytes::from_static(raft::CAMPAIGN_TRANSFER),
            ..Default::default()
        };
        leader.step(Message(vote)).unwrap();
        assert!(!leader.is_leader() && messages(&leader).is_some());
        leader.tick();
        assert_eq!(messages(&leader), None);
        assert_eq!(leader.raw.raft.prs().get(2).unwrap().ins, raft::Inflights::new(MOST));
    }
}
