//! The thread that owns the node: takes all that has come in, lets the node take one turn, and carries out what it
//! asks for.
//!
//! It never waits for anything but its inbox. Disk, network and clients work on threads of their own and answer by the
//! inbox. A tick that the thread was too late for is left out rather than made up for: after a long pause of the
//! process the node should not believe that an election timeout's worth of silence has passed at once.

use crate::background::{self, Background};
use crate::disk::LogThread;
use crate::handle::{Handle, Phase, unix_ms};
use crate::inbox::{CanWait, Input};
use crate::notices;
use crate::peer::Peers;
use crate::upkeep::Upkeep;
use crate::watch;
use crate::worker;
use base::NodeId;
use node::{Effect, Event, Message, Node, Outcome, Status, TICKS_PER_SECOND, Ticket};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;

pub(crate) struct Driver {
    pub node: Node,
    pub handle: Handle,
    pub peers: Arc<Peers>,
    pub log: LogThread,
    pub background: Background,
    pub upkeep: Upkeep,
    pub runtime: Runtime,
}

/// Why the node's thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Drained,
    Halted,
    Removed(String),
}

impl Driver {
    /// Runs the node until it drained, was removed or shall halt. Requests that are left are answered.
    pub fn run(self) -> Ended {
        let inbox = self.handle.clone();
        let inbox = &inbox.shared().inbox;
        let mut running = Running {
            driver: self,
            replies: HashMap::new(),
            next_ticket: 1,
            pending: 0,
            led_by: None,
            outgoing: BTreeMap::new(),
            began: Instant::now(),
        };
        let mut batch = Vec::new();
        let began = running.began;
        let mut next_tick = Instant::now() + TICK;
        let ended = 'run: loop {
            let node = &running.driver.node;
            let can_wait = CanWait { writes: node.gathers_writes(), reads: node.gathers_reads() };
            let gathers_until = node.gathers_until_micros().map(|micros| began + Duration::from_micros(micros));
            inbox.take(gathers_until.map_or(next_tick, |until| until.min(next_tick)), can_wait, &mut batch);
            for input in batch.drain(..) {
                if let Some(ended) = running.take(input) {
                    break 'run ended;
                }
            }
            let now = Instant::now();
            if now >= next_tick {
                running.driver.node.handle(Event::Tick { unix_ms: unix_ms() });
                next_tick = (next_tick + TICK).max(now + TICK / 2);
            }
            if let Some(ended) = running.turn() {
                break ended;
            }
        };
        running.end(&ended);
        ended
    }
}

struct Running {
    driver: Driver,
    replies: HashMap<Ticket, (oneshot::Sender<Outcome>, bool)>,
    next_ticket: Ticket,
    /// Of the replies, those that are not for reads.
    pending: u64,
    /// The last leader that was known.
    led_by: Option<NodeId>,
    /// A turn's messages by peer. Empty between turns; kept for their room.
    outgoing: BTreeMap<NodeId, Vec<Message>>,
    /// What the node's clock of microseconds counts from.
    began: Instant,
}

impl Running {
    fn take(&mut self, input: Input) -> Option<Ended> {
        match input {
            Input::Event(event) => {
                if let Event::Peer { from, message } = &event {
                    notices::received(*from, message, self.driver.node.status());
                }
                self.driver.node.handle(event);
            }
            Input::Request { request, limit_ticks, reply } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                let only_reads = request.only_reads();
                if !only_reads {
                    self.pending += 1;
                    self.driver.handle.metrics().proposals_pending.set(self.pending);
                }
                self.replies.insert(ticket, (reply, only_reads));
                self.driver.node.handle(Event::Request { ticket, limit_ticks, request });
            }
            Input::Halt => return Some(Ended::Halted),
        }
        None
    }

    fn turn(&mut self) -> Option<Ended> {
        let mut ended = None;
        let in_touch = self.driver.node.status().leader.is_some();
        let began = Instant::now();
        let effects = self.driver.node.turn((began - self.began).as_micros() as u64);
        self.driver.handle.metrics().turn.note(began.elapsed());
        for effect in effects {
            match effect {
                Effect::Drained => ended = Some(Ended::Drained),
                Effect::Removed { reason } => ended = Some(Ended::Removed(reason)),
                Effect::Failed { reason } => worker::end_the_process("the state can't be read", &reason),
                Effect::Notice(notice) => notices::tell(&notice, in_touch),
                other => self.carry_out(other),
            }
        }
        for (&to, messages) in self.outgoing.iter_mut().filter(|(_, messages)| !messages.is_empty()) {
            notices::sent(to, messages, self.driver.node.status());
            self.driver.peers.send(to, messages);
        }
        ended
    }

    fn carry_out(&mut self, effect: Effect) {
        let driver = &mut self.driver;
        match effect {
            Effect::Send { to, message } => self.outgoing.entry(to).or_default().push(message),
            Effect::WriteLog { id, write } => driver.log.write(id, write),
            Effect::Reply { ticket, outcome } => {
                if let Some((reply, only_reads)) = self.replies.remove(&ticket) {
                    let metrics = driver.handle.metrics();
                    if !only_reads {
                        self.pending -= 1;
                        metrics.proposals_pending.set(self.pending);
                    }
                    if matches!(outcome, Outcome::Failed(_)) {
                        let failed = if only_reads { &metrics.reads_failed } else { &metrics.proposals_failed };
                        failed.add(1);
                    }
                    // Whoever asked may have gone.
                    let _ = reply.send(outcome);
                }
            }
            Effect::PublishView { group: base::FIRST_GROUP, view, known_commit } => {
                let shared = driver.handle.shared();
                shared.known_commit.store(known_commit, Ordering::Relaxed);
                shared.hub.publish(view);
            }
            Effect::PublishView { .. } => {}
            Effect::PublishStatus(status) => self.publish_status(status),
            Effect::Greet { id, address } => {
                let (peers, handle) = (driver.peers.clone(), driver.handle.clone());
                driver.runtime.spawn(async move {
                    let result = peers.greet(&address).await;
                    handle.shared().inbox.event(Event::Greeted { id, result });
                });
            }
            Effect::WriteCheckpoint { group, position, frozen } => {
                driver.background.ask(background::Job::WriteCheckpoint { group, position, frozen });
            }
            Effect::DropCheckpoints { group } => driver.background.ask(background::Job::DropCheckpoints { group }),
            Effect::Upkeep { group, job } => driver.upkeep.ask(group, job),
            Effect::ReadChunk { to, info, offset, max_bytes } => {
                driver.background.ask(background::Job::ReadChunk { to, info, offset, max_bytes });
            }
            Effect::BeginIncoming { from, info } => {
                driver.background.ask(background::Job::BeginIncoming { from, info });
            }
            Effect::StoreChunk { info, offset, bytes } => {
                driver.background.ask(background::Job::StoreChunk { info, offset, bytes });
            }
            Effect::FinishIncoming { info } => driver.background.ask(background::Job::FinishIncoming { info }),
            Effect::Notice(_) | Effect::Removed { .. } | Effect::Drained | Effect::Failed { .. } => {
                unreachable!("the turn's own")
            }
        }
    }

    fn publish_status(&mut self, status: Arc<Status>) {
        let driver = &mut self.driver;
        let shared = driver.handle.shared();
        notices::tell_members(&shared.status.load(), &status);
        driver.peers.set_configuration(&status.configuration);
        if status.leader.is_some() && status.leader != self.led_by {
            self.led_by = status.leader;
            shared.metrics.leader_changes.add(1);
        }
        shared.leadership.set_status(&status, &driver.handle.identity());
        shared.status.store(status);
    }

    /// Answers what will not be answered any more, and lets go of everything.
    fn end(self, ended: &Ended) {
        let Running { driver, replies, .. } = self;
        let phase = match ended {
            Ended::Removed(reason) => Phase::Removed(reason.clone()),
            Ended::Drained | Ended::Halted => Phase::Stopping,
        };
        if let Phase::Removed(reason) = &phase {
            driver.background.ask(background::Job::RememberRemoval { reason: reason.clone() });
            driver.peers.close();
        }
        driver.handle.shared().hub.end(match &phase {
            Phase::Removed(reason) => watch::End::Removed(reason.clone()),
            _ => watch::End::Stopping,
        });
        driver.handle.shared().phase.send_replace(phase);
        let not_begun = driver.handle.shared().inbox.close();
        for input in not_begun {
            if let Input::Request { reply, .. } = input {
                let _ = reply.send(Outcome::Failed(driver.handle.why_closed()));
            }
        }
        for (reply, only_reads) in replies.into_values() {
            let _ = reply.send(Outcome::Failed(driver.handle.gone_while_it_worked(only_reads)));
        }
        if *ended != Ended::Halted {
            driver.log.seal();
        }
    }
}

const TICK: Duration = Duration::from_nanos(1_000_000_000 / TICKS_PER_SECOND);
