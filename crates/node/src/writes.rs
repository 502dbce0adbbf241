//! Writes that were asked of this node, from their arrival to their answer.
//!
//! Each gets a number of this node's session and travels to the leader as an encoded command, as often as it takes:
//! after a leader change, and again when nothing is heard of it for a while. The session table in the state machine
//! lets it take effect once. It is answered when this node itself applies it, so no answer can be lost on the way back,
//! and a local read that follows an acknowledged write on the same node sees it.
//!
//! A strong read is a write of nothing: it goes the same way, and is answered when this node has applied all that came
//! before it in the log. It changes nothing, so when it fails, it is known that nothing was changed.
//!
//! Not handled: fairness among clients.

use crate::event::{Failure, Outcome, Ticket};
use base::NodeId;
use bytes::Bytes;
use kv::{Action, Answer, Command, Decided, IdempotencyKey, Operation, Refusal, RequestId, SessionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A forwarded command that was not applied after this long is sent again.
const RESEND_TICKS: u64 = 20;
/// Requests in flight at this node, below the state machine's window of [`kv::WINDOW`].
const MAX_PENDING: usize = 8192;
const MAX_PENDING_BYTES: usize = 64 * 1024 * 1024;
/// Commands of one frame to the leader.
const MAX_FORWARD_BYTES: usize = 1024 * 1024;

pub(crate) struct Writes {
    session: SessionId,
    registered: bool,
    register_sent: Option<u64>,
    next_number: u64,
    /// By number.
    pending: BTreeMap<u64, Pending>,
    /// Requests that came before the session was registered: they have no number yet.
    early: VecDeque<Early>,
    /// Numbers to send in the next turn.
    outbox: BTreeSet<u64>,
    /// About how much that is: what is answered or given up before it is sent still counts.
    outbox_bytes: usize,
    size_bytes: usize,
    /// What the wall clock showed at the last tick.
    unix_ms: u64,
}

struct Pending {
    ticket: Ticket,
    purpose: Purpose,
    command: Bytes,
    deadline: u64,
    sent: Option<u64>,
}

struct Early {
    ticket: Ticket,
    purpose: Purpose,
    work: Work,
    idempotency: Option<IdempotencyKey>,
    size_bytes: usize,
    deadline: u64,
}

enum Work {
    Operations(Vec<Operation>),
    Action(Action),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Write,
    Read,
}

impl Writes {
    pub(crate) fn new(node: NodeId, boot: u64) -> Writes {
        Writes {
            session: SessionId { node, boot },
            registered: false,
            register_sent: None,
            next_number: 1,
            pending: BTreeMap::new(),
            early: VecDeque::new(),
            outbox: BTreeSet::new(),
            outbox_bytes: 0,
            size_bytes: 0,
            unix_ms: 0,
        }
    }

    pub(crate) fn set_wall_clock(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    pub(crate) fn wall_clock(&self) -> u64 {
        self.unix_ms
    }

    pub(crate) fn request(
        &mut self,
        ticket: Ticket,
        operations: Vec<Operation>,
        idempotency: Option<IdempotencyKey>,
        deadline: u64,
    ) -> Result<(), Failure> {
        kv::check_operations(&operations).map_err(over_limit)?;
        let size_bytes = operations.iter().map(size_bytes).sum::<usize>();
        let work = Work::Operations(operations);
        self.accept(Early { ticket, purpose: Purpose::Write, work, idempotency, size_bytes, deadline })
    }

    pub(crate) fn act(
        &mut self,
        ticket: Ticket,
        action: Action,
        idempotency: Option<IdempotencyKey>,
        deadline: u64,
    ) -> Result<(), Failure> {
        action.check().map_err(over_limit)?;
        let size_bytes = action.bytes();
        let work = Work::Action(action);
        self.accept(Early { ticket, purpose: Purpose::Write, work, idempotency, size_bytes, deadline })
    }

    pub(crate) fn request_read(&mut self, ticket: Ticket, deadline: u64) -> Result<(), Failure> {
        let (work, idempotency) = (Work::Operations(Vec::new()), None);
        self.accept(Early { ticket, purpose: Purpose::Read, work, idempotency, size_bytes: 0, deadline })
    }

    fn accept(&mut self, early: Early) -> Result<(), Failure> {
        let full = self.pending.len() + self.early.len() >= MAX_PENDING;
        let window = self.next_number - self.low_water() >= kv::WINDOW - 1;
        if full || window || self.size_bytes + early.size_bytes > MAX_PENDING_BYTES {
            return Err(Failure::Overloaded(format!(
                "{} requests are in flight on this node, which is as many as it takes; nothing was changed: try again in a moment",
                self.pending.len() + self.early.len()
            )));
        }
        if self.registered {
            self.number(early);
        } else {
            self.size_bytes += early.size_bytes;
            self.early.push_back(early);
        }
        Ok(())
    }

    fn number(&mut self, early: Early) {
        let number = self.next_number;
        let request = RequestId { session: self.session, number, low_water: self.low_water() };
        let Early { ticket, purpose, work, idempotency, deadline, .. } = early;
        let accepted_ms = self.unix_ms;
        let command = match work {
            Work::Operations(operations) => Command::Write { request, accepted_ms, idempotency, operations },
            Work::Action(action) => Command::Act { request: Some(request), accepted_ms, idempotency, action },
        };
        let command = command.encode();
        self.next_number += 1;
        self.size_bytes += command.len();
        self.outbox_bytes += command.len();
        self.pending.insert(number, Pending { ticket, purpose, command, deadline, sent: None });
        self.outbox.insert(number);
    }

    /// Every number below it has been answered or given up.
    fn low_water(&self) -> u64 {
        self.pending.first_key_value().map_or(self.next_number, |(&number, _)| number)
    }

    /// What is to be sent to the leader now.
    pub(crate) fn take_commands(&mut self, now: u64) -> Vec<Bytes> {
        let mut commands = Vec::new();
        if !self.registered && self.register_sent.is_none_or(|sent| sent + RESEND_TICKS <= now) {
            self.register_sent = Some(now);
            commands.push(Command::Register { session: self.session }.encode());
        }
        self.outbox_bytes = 0;
        for number in std::mem::take(&mut self.outbox) {
            if let Some(pending) = self.pending.get_mut(&number) {
                pending.sent = Some(now);
                commands.push(pending.command.clone());
            }
        }
        commands
    }

    pub(crate) fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    pub(crate) fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }

    pub(crate) fn wants_to_send(&self, now: u64) -> bool {
        !self.outbox.is_empty() || (!self.registered && self.register_sent.is_none_or(|s| s + RESEND_TICKS <= now))
    }

    /// The leader may have none of what was sent: send it all again.
    pub(crate) fn resend_all(&mut self) {
        self.register_sent = None;
        self.outbox.extend(self.pending.keys().copied());
        self.outbox_bytes = self.size_bytes;
    }

    /// Forwarded commands that nothing was heard of.
    pub(crate) fn resend_overdue(&mut self, now: u64) {
        let overdue = |p: &Pending| p.sent.is_some_and(|sent| sent + RESEND_TICKS <= now);
        self.outbox.extend(self.pending.iter().filter(|(_, p)| overdue(p)).map(|(&number, _)| number));
    }

    /// Whether somebody here waits for what comes of it.
    pub(crate) fn waits_for(&self, request: &RequestId) -> bool {
        request.session == self.session && self.pending.contains_key(&request.number)
    }

    /// A command of ours was applied.
    pub(crate) fn applied(
        &mut self,
        request: &RequestId,
        answer: &Answer,
        decided: Option<Decided>,
    ) -> Option<(Ticket, Outcome)> {
        if request.session != self.session {
            return None;
        }
        // Refused as a copy of one that came before its session did: the one that counts is still to come.
        if *answer == Answer::Refused(Refusal::UnknownSession) {
            self.registered = false;
            return None;
        }
        let pending = self.pending.remove(&request.number)?;
        self.outbox.remove(&request.number);
        self.size_bytes -= pending.command.len();
        let outcome = match pending.purpose {
            Purpose::Write => written(answer, decided),
            Purpose::Read => read(answer),
        };
        Some((pending.ticket, outcome))
    }

    /// Looks at the state machine after something else than a write of ours changed it: is the session registered,
    /// and, after a snapshot, what became of the writes in flight?
    pub(crate) fn look_at(&mut self, store: &kv::Store, replies: &mut Vec<(Ticket, Outcome)>) {
        self.registered = store.session(self.session.node) == Some(self.session.boot);
        if !self.registered {
            return;
        }
        let requests: Vec<RequestId> = (self.pending.keys())
            .map(|&number| RequestId { session: self.session, number, low_water: self.low_water() })
            .collect();
        for request in requests {
            if let Some(answer) = store.answer(&request) {
                replies.extend(self.applied(&request, &answer, None));
            }
        }
        while let Some(early) = self.early.pop_front() {
            self.size_bytes -= early.size_bytes;
            self.number(early);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.early.is_empty()
    }

    /// Gives up what is past its time.
    pub(crate) fn expire(&mut self, now: u64, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        let late: Vec<u64> = self.pending.iter().filter(|(_, p)| p.deadline <= now).map(|(&n, _)| n).collect();
        for number in late {
            if let Some(pending) = self.pending.remove(&number) {
                self.outbox.remove(&number);
                self.size_bytes -= pending.command.len();
                let failure = match (pending.purpose, pending.sent) {
                    (Purpose::Read, _) => read_too_late(why),
                    (Purpose::Write, None) => not_sent(why),
                    (Purpose::Write, Some(_)) => Failure::Unknown(format!(
                        "the write was not confirmed within its time limit ({why}); its outcome is unknown: it may or \
                         may not take effect, once; read the key, or retry with an Idempotency-Key"
                    )),
                };
                replies.push((pending.ticket, Outcome::Failed(failure)));
            }
        }
        let (late, early): (VecDeque<_>, VecDeque<_>) = self.early.drain(..).partition(|e| e.deadline <= now);
        self.early = early;
        for early in late {
            self.size_bytes -= early.size_bytes;
            let failure = match early.purpose {
                Purpose::Write => not_sent(why),
                Purpose::Read => read_too_late(why),
            };
            replies.push((early.ticket, Outcome::Failed(failure)));
        }
    }

    /// This node can't learn any more what becomes of its writes.
    pub(crate) fn fail_all(&mut self, why: &str, replies: &mut Vec<(Ticket, Outcome)>) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            let failure = match (pending.purpose, pending.sent) {
                (Purpose::Write, Some(_)) => {
                    Failure::Unknown(format!("{why}; the write's outcome is unknown: it may or may not take effect"))
                }
                _ => Failure::Removed(why.to_owned()),
            };
            replies.push((pending.ticket, Outcome::Failed(failure)));
        }
        for early in std::mem::take(&mut self.early) {
            replies.push((early.ticket, Outcome::Failed(Failure::Removed(why.to_owned()))));
        }
        self.outbox.clear();
        self.size_bytes = 0;
    }
}

/// Splits commands into frames of a bounded size.
pub(crate) fn frames(commands: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut frames: Vec<Vec<Bytes>> = Vec::new();
    let mut size = usize::MAX;
    for command in commands {
        if size.saturating_add(command.len()) > MAX_FORWARD_BYTES {
            frames.push(Vec::new());
            size = 0;
        }
        size += command.len();
        if let Some(frame) = frames.last_mut() {
            frame.push(command);
        }
    }
    frames
}

fn size_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Put { key, value } => key.len() + value.len() + 16,
        Operation::Delete { key } => key.len() + 16,
    }
}

fn over_limit(over: kv::OverLimit) -> Failure {
    Failure::Invalid(format!("{over}; nothing was changed"))
}

fn not_sent(why: &str) -> Failure {
    Failure::Unavailable(format!(
        "the write could not be sent to a leader within its time limit ({why}); nothing was changed: try again"
    ))
}

fn read_too_late(why: &str) -> Failure {
    Failure::Unavailable(format!(
        "the read did not come back through the log within its time limit ({why}); nothing was changed: try again, or \
         read with level=none if stale data will do"
    ))
}

/// The entry came to its place, and all before it is applied.
fn read(answer: &Answer) -> Outcome {
    match answer {
        Answer::Done { .. } => Outcome::Readable,
        answer => Outcome::Failed(Failure::Unavailable(format!(
            "the cluster refused the read's entry in the log ({answer:?}); nothing was changed: try again"
        ))),
    }
}

fn written(answer: &Answer, results: Option<Decided>) -> Outcome {
    match *answer {
        Answer::Done { revision, changed } => Outcome::Written { revision, changed },
        Answer::Decided { succeeded, revision, changed } => Outcome::Decided { succeeded, revision, changed, results },
        Answer::Granted { lease, ttl_seconds } => Outcome::Granted { lease, ttl_seconds },
        Answer::Registered => Outcome::Done,
        Answer::Refused(Refusal::KeyReused) => Outcome::Failed(Failure::KeyReused(
            "this Idempotency-Key was used before with a different request; nothing was changed: use a new key".into(),
        )),
        Answer::Refused(Refusal::OverLimit) => Outcome::Failed(Failure::Invalid(
            "the write is larger than this store takes; nothing was changed: split it".into(),
        )),
        Answer::Refused(Refusal::NoLease) => Outcome::Failed(Failure::NotFound(
            "there is no such lease, or it has ended; nothing was changed: grant a new one".into(),
        )),
        Answer::Refused(Refusal::LeaseExists) => Outcome::Failed(Failure::Exists(
            "a lease of that number is there already; nothing was changed: choose another, or let the store choose"
                .into(),
        )),
        Answer::Refused(Refusal::Compacted) => {
            Outcome::Failed(Failure::Compacted("that revision has been compacted already; nothing was changed".into()))
        }
        Answer::Refused(Refusal::FutureRevision) => Outcome::Failed(Failure::FutureRevision(
            "that revision is still to come; nothing was changed: name the current one or an older one".into(),
        )),
        Answer::Refused(refusal) => Outcome::Failed(Failure::Unknown(format!(
            "the cluster refused the write ({refusal:?}); its outcome is unknown: read the key before trying again"
        ))),
    }
}
