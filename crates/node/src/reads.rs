//! Linearizable reads by ReadIndex (Raft thesis, section 6.4), shared by all reads that wait at the same moment.
//!
//! A round asks a quorum, through the leader, whether it still leads; every read that came before the round began may
//! be served once this node has applied the index that the round brought. One round is under way at a time; what
//! arrives meanwhile shares the next. A round is never repeated under the same context: on any change of role or term,
//! or when it takes too long, its reads go into a new one (etcd #20418 is what happens otherwise).

use crate::event::{Effect, Failure, Outcome, Ticket};
use crate::first_number;
use crate::message::Message;
use base::codec::Writer;
use base::{GroupId, Index, NodeId};
use bytes::Bytes;
use consensus::Group;

/// A round that got no answer by then is lost: `raft` drops them in silence.
const ROUND_TICKS: u64 = 6;
const MAX_WAITING: usize = 65_536;

pub(crate) struct Reads {
    node: NodeId,
    boot: u64,
    group: GroupId,
    counter: u64,
    waiting: Vec<Reader>,
    round: Option<Round>,
    /// Rounds that brought an index which is not applied yet, oldest first.
    confirmed: Vec<(Index, Vec<Reader>)>,
}

struct Round {
    number: u64,
    started: u64,
    readers: Vec<Reader>,
}

#[derive(Clone, Copy)]
enum Reader {
    Client {
        ticket: Ticket,
        deadline: u64,
    },
    /// A follower's round.
    Peer {
        node: NodeId,
        id: u64,
    },
}

impl Reads {
    pub(crate) fn new(node: NodeId, boot: u64, group: GroupId) -> Reads {
        Reads {
            node,
            boot,
            group,
            counter: first_number(boot),
            waiting: Vec::new(),
            round: None,
            confirmed: Vec::new(),
        }
    }

    pub(crate) fn request(&mut self, ticket: Ticket, deadline: u64) -> Result<(), Failure> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Failure::Overloaded("too many reads wait on this node: try again in a moment".into()));
        }
        self.waiting.push(Reader::Client { ticket, deadline });
        Ok(())
    }

    pub(crate) fn request_from_peer(&mut self, node: NodeId, id: u64) {
        // A newer round of the same peer stands for the older one, which it gave up.
        self.waiting.retain(|r| !matches!(r, Reader::Peer { node: n, .. } if *n == node));
        self.waiting.push(Reader::Peer { node, id });
    }

    /// Begins a round if reads wait and none is under way.
    pub(crate) fn start(&mut self, group: &mut Group, now: u64, effects: &mut Vec<Effect>) {
        if self.round.is_some() || self.waiting.is_empty() {
            return;
        }
        if group.is_leader() {
            if group.can_read() {
                let round = self.begin(now);
                group.read_index(self.context(round));
            }
            return;
        }
        // Their own leader will hear from them again; we are not it.
        self.waiting.retain(|r| matches!(r, Reader::Client { .. }));
        if let Some(leader) = group.leader().filter(|_| !self.waiting.is_empty()) {
            let id = self.begin(now);
            effects.push(Effect::Send { to: leader, message: Message::ReadIndex { group: self.group, id } });
        }
    }

    fn begin(&mut self, now: u64) -> u64 {
        self.counter += 1;
        self.round = Some(Round { number: self.counter, started: now, readers: std::mem::take(&mut self.waiting) });
        self.counter
    }

    /// Unique for ever: this node, this life of it, this round.
    fn context(&self, round: u64) -> Bytes {
        let mut w = Writer::with_capacity(24);
        w.u64(self.node);
        w.u64(self.boot);
        w.u64(round);
        w.into_bytes()
    }

    /// As leader: a quorum confirmed the round of that context.
    pub(crate) fn confirmed_by_quorum(&mut self, context: &Bytes, index: Index, effects: &mut Vec<Effect>) {
        if self.round.as_ref().is_some_and(|round| self.context(round.number) == *context) {
            self.confirm(index, effects);
        }
    }

    /// As follower: the leader answered the round of that id.
    pub(crate) fn confirmed_by_leader(&mut self, id: u64, index: Index, effects: &mut Vec<Effect>) {
        if self.round.as_ref().is_some_and(|round| round.number == id) {
            self.confirm(index, effects);
        }
    }

    fn confirm(&mut self, index: Index, effects: &mut Vec<Effect>) {
        let Some(round) = self.round.take() else { return };
        let (clients, peers): (Vec<_>, Vec<_>) =
            round.readers.into_iter().partition(|r| matches!(r, Reader::Client { .. }));
        for peer in peers {
            if let Reader::Peer { node, id } = peer {
                let message = Message::ReadIndexReply { group: self.group, id, index };
                effects.push(Effect::Send { to: node, message });
            }
        }
        if !clients.is_empty() {
            self.confirmed.push((index, clients));
        }
    }

    /// Answers the reads whose index is applied; the view they need is published before the replies.
    pub(crate) fn applied(&mut self, applied: Index, replies: &mut Vec<(Ticket, Outcome)>) {
        self.confirmed.retain_mut(|(index, readers)| {
            if *index > applied {
                return true;
            }
            replies.extend(readers.drain(..).filter_map(|reader| match reader {
                Reader::Client { ticket, .. } => Some((ticket, Outcome::Readable)),
                Reader::Peer { .. } => None,
            }));
            false
        });
    }

    /// Role, term or leader changed: the round may never be answered, and its context must not be used again.
    pub(crate) fn restart(&mut self) {
        if let Some(mut round) = self.round.take() {
            round.readers.append(&mut self.waiting);
            self.waiting = round.readers;
        }
    }

    pub(crate) fn tick(&mut self, now: u64, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        if self.round.as_ref().is_some_and(|round| round.started + ROUND_TICKS <= now) {
            self.restart();
        }
        let mut give_up = |reader: &Reader| match reader {
            Reader::Client { ticket, deadline } if *deadline <= now => {
                replies.push((
                    *ticket,
                    Outcome::Failed(Failure::Unavailable(format!(
                        "the read could not be confirmed by a majority within its time limit ({why}): try again, or \
                         read with level=none if stale data will do"
                    ))),
                ));
                false
            }
            _ => true,
        };
        self.waiting.retain(&mut give_up);
        if let Some(round) = &mut self.round {
            round.readers.retain(&mut give_up);
        }
        for (_, readers) in &mut self.confirmed {
            readers.retain(&mut give_up);
        }
        self.confirmed.retain(|(_, readers)| !readers.is_empty());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none() && self.confirmed.is_empty()
    }

    pub(crate) fn fail_all(&mut self, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        self.restart();
        let readers = self.waiting.drain(..).chain(self.confirmed.drain(..).flat_map(|(_, readers)| readers));
        replies.extend(readers.filter_map(|reader| match reader {
            Reader::Client { ticket, .. } => Some((ticket, Outcome::Failed(Failure::Removed(why.to_owned())))),
            Reader::Peer { .. } => None,
        }));
    }
}
