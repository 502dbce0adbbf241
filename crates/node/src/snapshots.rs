//! Checkpoints: making them, sending them to followers that are too far behind, and receiving them.
//!
//! A checkpoint travels in chunks beside the normal traffic, pulled by the receiver one at a time, from the sender's
//! disk to the receiver's; neither holds more than a chunk in memory. What arrived stays on the receiver's disk, so the
//! same checkpoint from the same sender is resumed where it broke off. Only when all of it is durable and loaded does
//! the snapshot message enter `raft`.
//!
//! Where the state is durable by itself, checkpoints are made only when a follower needs one, and go when none does.

use crate::event::Effect;
use crate::message::Message;
use base::{GroupId, Index, NodeId, Position};
use bytes::Bytes;
use consensus::{Group, Voters};
use std::collections::BTreeMap;
use storage::checkpoint::CheckpointInfo;

const CHUNK_BYTES: usize = 256 * 1024;
/// A receiver that hears nothing asks again after this long …
const ASK_AGAIN_TICKS: u64 = 20;
/// … and either side gives up after this long.
const GIVE_UP_TICKS: u64 = 100;
/// A checkpoint that was only made to be sent goes after so long without use.
const DROP_AFTER_TICKS: u64 = 400;
/// After one that could not be written, mostly as the disk is full, the next is tried so much later.
const TRY_AGAIN_TICKS: u64 = 200;

pub(crate) struct Snapshots {
    group: GroupId,
    /// The newest two on disk, oldest first.
    checkpoints: Vec<CheckpointInfo>,
    /// The voters at the newest checkpoint being written.
    writing: Option<(Position, Voters)>,
    /// A checkpoint that was written for somebody, who was not offered it yet.
    fresh: Option<Index>,
    /// No other is written before this tick.
    not_before: u64,
    sending: BTreeMap<NodeId, Sending>,
    receiving: Option<Receiving>,
    /// The log below it may go, once someone writes to the log.
    purge: Option<Position>,
    /// The state is durable without checkpoints: they are only made to be sent.
    only_sends: bool,
    /// When a checkpoint was last made or sent.
    used_at: u64,
}

struct Sending {
    info: CheckpointInfo,
    last_heard: u64,
    matched: Index,
    /// The checkpoint is of no more use, but what was written since is.
    has_arrived: bool,
}

struct Receiving {
    from: NodeId,
    info: CheckpointInfo,
    message: consensus::Message,
    received: u64,
    last_heard: u64,
    last_asked: u64,
    busy: bool,
}

impl Snapshots {
    pub(crate) fn new(group: GroupId, checkpoints: Vec<CheckpointInfo>, only_sends: bool) -> Snapshots {
        Snapshots {
            group,
            checkpoints,
            writing: None,
            fresh: None,
            not_before: 0,
            sending: BTreeMap::new(),
            receiving: None,
            purge: None,
            only_sends,
            used_at: 0,
        }
    }

    pub(crate) fn newest(&self) -> Option<&CheckpointInfo> {
        self.checkpoints.last()
    }

    /// May a new checkpoint be written now? Not while one is, not when that would delete the one being sent, and not soon
    /// after one that failed.
    pub(crate) fn can_write(&self, applied: Position, now: u64) -> bool {
        let newest = self.newest().map_or(0, |info| info.position.index);
        let would_go = self.checkpoints.first().filter(|_| self.checkpoints.len() == 2);
        let in_use = would_go.is_some_and(|info| self.sending.values().any(|s| !s.has_arrived && s.info == *info));
        self.writing.is_none() && applied.index > newest && !in_use && self.not_before <= now
    }

    pub(crate) fn write(&mut self, frozen: kv::Frozen, position: Position, voters: Voters, effects: &mut Vec<Effect>) {
        self.writing = Some((position, voters));
        effects.push(Effect::WriteCheckpoint { group: self.group, position, frozen });
    }

    pub(crate) fn written(
        &mut self,
        result: Result<CheckpointInfo, String>,
        now: u64,
        group: &mut Group,
    ) -> Result<(), String> {
        let Some((position, voters)) = self.writing.take() else { return Ok(()) };
        let info = result.inspect_err(|_| self.not_before = now + TRY_AGAIN_TICKS)?;
        assert_eq!(info.position, position);
        group.set_checkpoint(position, voters);
        self.used_at = now;
        self.fresh = self.only_sends.then_some(position.index);
        self.add(info);
        Ok(())
    }

    /// Another checkpoint is on disk. Of the older ones only the newest stays.
    fn add(&mut self, info: CheckpointInfo) {
        if self.newest().is_some_and(|newest| newest.position.index >= info.position.index) {
            return;
        }
        self.checkpoints.push(info);
        if self.checkpoints.len() > 2 {
            self.checkpoints.remove(0);
        }
        // From the older of the two on the log stays, so that either is enough to start from.
        if self.checkpoints.len() == 2 && !self.only_sends {
            self.purge = Some(self.checkpoints[0].position);
        }
    }

    /// All up to there is durable without the log.
    pub(crate) fn may_purge(&mut self, position: Position) {
        self.purge = self.purge.max(Some(position));
    }

    /// Not before the state is there: of a checkpoint that arrived too late to be installed the log knows nothing.
    pub(crate) fn take_purge(&mut self, applied: Position) -> Option<Position> {
        self.purge.take_if(|position| position.index <= applied.index)
    }

    /// Entries after it must stay in memory, so that whoever receives a checkpoint can go on from there.
    pub(crate) fn keep_after(&self) -> Index {
        let sending = self.sending.values().map(|s| s.info.position.index.max(s.matched));
        let writing = self.writing.iter().map(|(position, _)| position.index);
        sending.chain(writing).chain(self.fresh).min().unwrap_or(Index::MAX)
    }

    // The sending side.

    /// `raft` wants that peer to have a snapshot.
    pub(crate) fn offer(
        &mut self,
        message: consensus::Message,
        now: u64,
        group: &mut Group,
        effects: &mut Vec<Effect>,
    ) {
        let to = message.to();
        let found = self.checkpoints.iter().find(|info| Some(info.position) == message.snapshot());
        let Some(info) = found.cloned() else {
            group.report_snapshot(to, false);
            return;
        };
        self.fresh = None;
        self.sending.insert(to, Sending { info: info.clone(), last_heard: now, matched: 0, has_arrived: false });
        effects.push(Effect::Send { to, message: Message::SnapshotOffer { info, message } });
    }

    pub(crate) fn wanted(
        &mut self,
        to: NodeId,
        info: CheckpointInfo,
        offset: u64,
        now: u64,
        effects: &mut Vec<Effect>,
    ) {
        match self.sending.get_mut(&to) {
            Some(sending) if sending.info == info && offset <= info.size_bytes => {
                sending.last_heard = now;
                if offset == info.size_bytes {
                    // All of it is there, and is being loaded.
                    sending.has_arrived = true;
                } else {
                    effects.push(Effect::ReadChunk { to, info, offset, max_bytes: CHUNK_BYTES });
                }
            }
            _ => effects.push(Effect::Send { to, message: Message::SnapshotFailed { info } }),
        }
    }

    pub(crate) fn chunk_read(
        &mut self,
        to: NodeId,
        info: CheckpointInfo,
        offset: u64,
        result: Result<Bytes, String>,
        group: &mut Group,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        if self.sending.get(&to).is_none_or(|sending| sending.info != info) {
            return Ok(());
        }
        match result {
            Ok(bytes) => {
                effects.push(Effect::Send { to, message: Message::SnapshotChunk { info, offset, bytes } });
                Ok(())
            }
            Err(error) => {
                self.stop_sending(to, group);
                effects.push(Effect::Send { to, message: Message::SnapshotFailed { info } });
                Err(error)
            }
        }
    }

    pub(crate) fn stop_sending(&mut self, to: NodeId, group: &mut Group) {
        if self.sending.remove(&to).is_some() {
            group.report_snapshot(to, false);
        }
    }

    // The receiving side.

    /// True: there is nothing to fetch, step the message as it is.
    pub(crate) fn offered(
        &mut self,
        from: NodeId,
        info: CheckpointInfo,
        message: consensus::Message,
        now: u64,
        group: &Group,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if info.position.index <= group.commit() || group.term_at(info.position.index) == Some(info.position.term) {
            return true;
        }
        if message.term() < group.term() {
            return true;
        }
        match &mut self.receiving {
            Some(r) if r.from == from && r.info == info => {
                r.message = message;
                r.last_heard = now;
                // A call that is under way asks for what comes next when it ends.
                if !r.busy {
                    self.ask(now, effects);
                }
            }
            // What is being verified or loaded is not interrupted; the offer will come again.
            Some(r) if r.busy && r.received == r.info.size_bytes => {}
            _ => {
                effects.push(Effect::BeginIncoming { from, info: info.clone() });
                let (last_heard, last_asked) = (now, now);
                let receiving = Receiving { from, info, message, received: 0, last_heard, last_asked, busy: true };
                self.receiving = Some(receiving);
            }
        }
        false
    }

    pub(crate) fn chunk(
        &mut self,
        from: NodeId,
        info: CheckpointInfo,
        offset: u64,
        bytes: Bytes,
        now: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(r) = &mut self.receiving else { return };
        let fits = !bytes.is_empty() && offset.saturating_add(bytes.len() as u64) <= info.size_bytes;
        if r.from == from && r.info == info && r.received == offset && !r.busy && fits {
            r.busy = true;
            r.last_heard = now;
            effects.push(Effect::StoreChunk { info, offset, bytes });
        }
    }

    /// So many bytes are on disk here.
    pub(crate) fn incoming(
        &mut self,
        info: CheckpointInfo,
        result: Result<u64, String>,
        now: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let Some(r) = self.receiving.as_mut().filter(|r| r.info == info) else { return Ok(()) };
        match result {
            Ok(received) => {
                r.received = received;
                r.last_heard = now;
                if received == info.size_bytes {
                    effects.push(Effect::FinishIncoming { info });
                } else {
                    r.busy = false;
                    self.ask(now, effects);
                }
                Ok(())
            }
            Err(error) => {
                self.stop_receiving(effects);
                Err(error)
            }
        }
    }

    /// All of it is here, verified and durable. The message to step now.
    pub(crate) fn installed(&mut self, info: &CheckpointInfo, arrived: bool) -> Option<consensus::Message> {
        let receiving = self.receiving.take_if(|r| r.info == *info);
        if arrived && !self.only_sends {
            self.add(info.clone());
        }
        receiving.filter(|_| arrived).map(|r| r.message)
    }

    /// The sender gave up; its next offer starts again.
    pub(crate) fn failed(&mut self, peer: NodeId, info: &CheckpointInfo, group: &mut Group) {
        self.receiving.take_if(|r| r.from == peer && r.info == *info && !r.busy);
        if self.sending.get(&peer).is_some_and(|sending| sending.info == *info) {
            self.stop_sending(peer, group);
        }
    }

    fn stop_receiving(&mut self, effects: &mut Vec<Effect>) {
        if let Some(r) = self.receiving.take() {
            effects.push(Effect::Send { to: r.from, message: Message::SnapshotFailed { info: r.info } });
        }
    }

    fn ask(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if let Some(r) = &mut self.receiving {
            r.last_asked = now;
            let message = Message::SnapshotWant { info: r.info.clone(), offset: r.received };
            effects.push(Effect::Send { to: r.from, message });
        }
    }

    pub(crate) fn tick(&mut self, now: u64, group: &mut Group, effects: &mut Vec<Effect>) {
        if self.sending.values().any(|s| !s.has_arrived) || self.writing.is_some() {
            self.used_at = now;
        }
        // Whoever it was written for does not ask for it any more.
        self.fresh.take_if(|_| self.used_at + GIVE_UP_TICKS <= now);
        if self.only_sends && !self.checkpoints.is_empty() && self.used_at + DROP_AFTER_TICKS <= now {
            self.checkpoints.clear();
            group.forget_checkpoint();
            effects.push(Effect::DropCheckpoints { group: self.group });
        }
        // A follower that is past its snapshot has said so to `raft`. What was written since must not go before it has that.
        self.sending.retain(|&to, sending| {
            let Some(progress) = group.progress(to) else { return false };
            if progress.matched > sending.matched {
                (sending.matched, sending.last_heard) = (progress.matched, now);
            }
            sending.has_arrived |= !progress.in_snapshot;
            progress.in_snapshot || group.is_leader() && progress.is_far_behind
        });
        let late: Vec<NodeId> =
            self.sending.iter().filter(|(_, s)| s.last_heard + GIVE_UP_TICKS <= now).map(|(&to, _)| to).collect();
        late.into_iter().for_each(|to| self.stop_sending(to, group));

        // While it is loaded, which may take long, the sender is to know that it is not given up.
        if let Some(r) = self.receiving.as_ref().filter(|r| !r.busy || r.received == r.info.size_bytes) {
            if !r.busy && r.last_heard + GIVE_UP_TICKS <= now {
                self.stop_receiving(effects);
            } else if r.last_asked + ASK_AGAIN_TICKS <= now {
                self.ask(now, effects);
            }
        }
    }
}
