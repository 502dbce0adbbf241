//! Reads that the leader answers for: linearizable ones by ReadIndex (Raft thesis, section 6.4), weak ones on its word
//! alone.
//!
//! A linearizable round asks a quorum, through the leader, whether it still leads; every read that came before the round
//! began may be served once this node has applied the index that the round brought. One round is under way at a time;
//! what arrives meanwhile shares the next. A round is never repeated under the same context: on any change of role or
//! term, or when it takes too long, its reads go into a new one (etcd #20418 is what happens otherwise).
//!
//! Weak reads have a lane of their own, so they wait for no quorum, and no unconfirmed round can answer a linearizable
//! read. A leader that has committed an entry of its term answers them at once with its commit index; a follower asks
//! it, once for all weak reads that wait.
//!
//! Not handled: strong reads, which are entries of the log (`writes`).

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
    /// Rounds of both lanes are numbered from it, so that an answer belongs to one round of one lane.
    counter: u64,
    linearizable: Lane,
    weak: Lane,
    /// Reads whose index is known and not applied yet, oldest first.
    confirmed: Vec<(Index, Vec<Reader>)>,
}

/// Reads that share rounds.
#[derive(Default)]
struct Lane {
    waiting: Vec<Reader>,
    round: Option<Round>,
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
            linearizable: Lane::default(),
            weak: Lane::default(),
            confirmed: Vec::new(),
        }
    }

    pub(crate) fn request(&mut self, ticket: Ticket, weak: bool, deadline: u64) -> Result<(), Failure> {
        let waiting = &mut self.lane(weak).waiting;
        if waiting.len() >= MAX_WAITING {
            return Err(Failure::Overloaded("too many reads wait on this node: try again in a moment".into()));
        }
        waiting.push(Reader::Client { ticket, deadline });
        Ok(())
    }

    pub(crate) fn request_from_peer(&mut self, node: NodeId, id: u64, weak: bool) {
        let waiting = &mut self.lane(weak).waiting;
        // A newer round of the same peer stands for the older one, which it gave up.
        waiting.retain(|r| !matches!(r, Reader::Peer { node: n, .. } if *n == node));
        waiting.push(Reader::Peer { node, id });
    }

    /// A linearizable round is under way.
    pub(crate) fn is_asking(&self) -> bool {
        self.linearizable.round.is_some()
    }

    fn lane(&mut self, weak: bool) -> &mut Lane {
        if weak { &mut self.weak } else { &mut self.linearizable }
    }

    /// Begins the rounds that reads wait for.
    pub(crate) fn start(&mut self, group: &mut Group, now: u64, effects: &mut Vec<Effect>) {
        if group.is_leader() {
            if group.can_read() {
                self.ask_the_quorum(group, now);
                let weak = std::mem::take(&mut self.weak.waiting);
                self.confirm(weak, group.commit(), effects);
            }
        } else {
            self.ask_the_leader(group.leader(), now, effects);
        }
    }

    fn ask_the_quorum(&mut self, group: &mut Group, now: u64) {
        if self.linearizable.is_due() {
            self.counter += 1;
            self.linearizable.begin(self.counter, now);
            group.read_index(self.context(self.counter));
        }
    }

    fn ask_the_leader(&mut self, leader: Option<NodeId>, now: u64, effects: &mut Vec<Effect>) {
        for (lane, weak) in [(&mut self.linearizable, false), (&mut self.weak, true)] {
            // Their own leader will hear from them again; we are not it.
            lane.waiting.retain(|r| matches!(r, Reader::Client { .. }));
            if let Some(leader) = leader.filter(|_| lane.is_due()) {
                self.counter += 1;
                lane.begin(self.counter, now);
                let message = Message::ReadIndex { group: self.group, id: self.counter, weak };
                effects.push(Effect::Send { to: leader, message });
            }
        }
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
        let number = self.linearizable.round.as_ref().map(|round| round.number);
        if let Some(number) = number.filter(|&number| self.context(number) == *context) {
            let readers = self.linearizable.end(number);
            self.confirm(readers, index, effects);
        }
    }

    /// As follower: the leader answered the round of that id.
    pub(crate) fn confirmed_by_leader(&mut self, id: u64, index: Index, effects: &mut Vec<Effect>) {
        let mut readers = self.linearizable.end(id);
        readers.append(&mut self.weak.end(id));
        self.confirm(readers, index, effects);
    }

    fn confirm(&mut self, readers: Vec<Reader>, index: Index, effects: &mut Vec<Effect>) {
        let (clients, peers): (Vec<_>, Vec<_>) = readers.into_iter().partition(|r| matches!(r, Reader::Client { .. }));
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

    /// Role, term or leader changed: the rounds may never be answered, and their contexts must not be used again.
    pub(crate) fn restart(&mut self) {
        self.linearizable.restart();
        self.weak.restart();
    }

    pub(crate) fn tick(&mut self, now: u64, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        for (lane, what) in [
            (&mut self.linearizable, "the read could not be confirmed by a majority within its time limit"),
            (&mut self.weak, "no leader answered for the read within its time limit"),
        ] {
            if lane.round.as_ref().is_some_and(|round| round.started + ROUND_TICKS <= now) {
                lane.restart();
            }
            give_up(&mut lane.waiting, now, what, why, replies);
            if let Some(round) = &mut lane.round {
                give_up(&mut round.readers, now, what, why, replies);
            }
        }
        for (_, readers) in &mut self.confirmed {
            let what = "this node did not catch up with its leader within the read's time limit";
            give_up(readers, now, what, why, replies);
        }
        self.confirmed.retain(|(_, readers)| !readers.is_empty());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.linearizable.is_idle() && self.weak.is_idle() && self.confirmed.is_empty()
    }

    pub(crate) fn fail_all(&mut self, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        self.restart();
        let waiting = self.linearizable.waiting.drain(..).chain(self.weak.waiting.drain(..));
        let readers = waiting.chain(self.confirmed.drain(..).flat_map(|(_, readers)| readers));
        replies.extend(readers.filter_map(|reader| match reader {
            Reader::Client { ticket, .. } => Some((ticket, Outcome::Failed(Failure::Removed(why.to_owned())))),
            Reader::Peer { .. } => None,
        }));
    }
}

impl Lane {
    fn is_due(&self) -> bool {
        self.round.is_none() && !self.waiting.is_empty()
    }

    fn begin(&mut self, number: u64, now: u64) {
        self.round = Some(Round { number, started: now, readers: std::mem::take(&mut self.waiting) });
    }

    /// Those who waited for the round of that number, if it is the one that is under way.
    fn end(&mut self, number: u64) -> Vec<Reader> {
        self.round.take_if(|round| round.number == number).map_or(Vec::new(), |round| round.readers)
    }

    fn restart(&mut self) {
        if let Some(mut round) = self.round.take() {
            round.readers.append(&mut self.waiting);
            self.waiting = round.readers;
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none()
    }
}

/// Answers those whose time is up.
fn give_up(readers: &mut Vec<Reader>, now: u64, what: &str, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
    readers.retain(|reader| match reader {
        Reader::Client { ticket, deadline } if *deadline <= now => {
            let text = format!("{what} ({why}): try again, or read with level=none if stale data will do");
            replies.push((*ticket, Outcome::Failed(Failure::Unavailable(text))));
            false
        }
        _ => true,
    });
}
