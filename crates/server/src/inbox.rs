//! The one way in: everything that happens to the node waits here until the node's thread takes it.
//!
//! The node's thread takes all that is there at once, so a batch costs one lock, and it is woken only if it sleeps.
//! Three kinds of senders, three rules for a full inbox: a client's request is refused at once; a peer's connection
//! waits for room, which slows that peer through TCP; an answer to one of the node's own effects always fits, because
//! the node asked for it and the number it asks for is bounded.
//!
//! Not handled: fairness among connections.

use base::NodeId;
use node::{Event, Message, Outcome, Request};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// A request waits in the inbox for microseconds; so many of them mean that the node can't keep up.
const MAX_WAITING: usize = 8192;
/// How much of peers' messages may wait.
const MAX_PEER_BYTES: usize = 64 << 20;

pub(crate) enum Input {
    Event(Event),
    Request {
        request: Request,
        limit_ticks: u64,
        reply: oneshot::Sender<Outcome>,
    },
    /// Stop at once, as a crash would.
    Halt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    /// No node takes from here (yet, or any more).
    Closed,
}

#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    taken: Notify,
}

#[derive(Default)]
struct State {
    waiting: Vec<Input>,
    peer_bytes: usize,
    open: bool,
    sleeping: bool,
}

impl Inbox {
    /// From now on a node takes from here.
    pub fn open(&self) {
        self.lock().open = true;
    }

    /// No more requests and peer messages; gives back what nobody took.
    pub fn close(&self) -> Vec<Input> {
        let mut state = self.lock();
        state.open = false;
        state.peer_bytes = 0;
        let rest = std::mem::take(&mut state.waiting);
        drop(state);
        self.taken.notify_waiters();
        rest
    }

    pub fn request(&self, request: Request, limit_ticks: u64, reply: oneshot::Sender<Outcome>) -> Result<(), Refused> {
        let mut state = self.lock();
        if !state.open {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(Refused::Full);
        }
        state.waiting.push(Input::Request { request, limit_ticks, reply });
        self.wake(state);
        Ok(())
    }

    /// An answer to an effect, or news that is as rare as connections are.
    pub fn event(&self, event: Event) {
        self.put(Input::Event(event));
    }

    pub fn halt(&self) {
        self.put(Input::Halt);
    }

    /// All messages of one read from a peer's connection, in their order; leaves `messages` empty. Waits for room.
    pub async fn peer(&self, from: NodeId, messages: &mut Vec<Message>, bytes: usize) -> Result<(), Refused> {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            {
                let mut state = self.lock();
                if !state.open {
                    return Err(Refused::Closed);
                }
                // One batch always fits into an inbox without any, however large it is.
                let fits = state.peer_bytes + bytes <= MAX_PEER_BYTES && state.waiting.len() < MAX_WAITING;
                if fits || state.peer_bytes == 0 {
                    state.peer_bytes += bytes;
                    let events = messages.drain(..).map(|message| Input::Event(Event::Peer { from, message }));
                    state.waiting.extend(events);
                    self.wake(state);
                    return Ok(());
                }
            }
            taken.await;
        }
    }

    /// Appends all that waits to `batch`; sleeps until something does, or until `deadline`.
    pub fn take(&self, deadline: Instant, batch: &mut Vec<Input>) {
        let mut state = self.lock();
        while state.waiting.is_empty() {
            let now = Instant::now();
            if now >= deadline {
                return;
            }
            state.sleeping = true;
            state = self
                .arrived
                .wait_timeout(state, deadline - now)
                .map(|w| w.0)
                .unwrap_or_else(|poisoned| poisoned.into_inner().0);
            state.sleeping = false;
        }
        state.peer_bytes = 0;
        if batch.is_empty() {
            std::mem::swap(&mut state.waiting, batch);
        } else {
            batch.append(&mut state.waiting);
        }
        drop(state);
        self.taken.notify_waiters();
    }

    fn put(&self, input: Input) {
        let mut state = self.lock();
        if state.open {
            state.waiting.push(input);
            self.wake(state);
        }
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let sleeping = state.sleeping;
        drop(state);
        if sleeping {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change to the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
