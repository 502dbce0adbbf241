//! The one way in: everything that happens to the node waits here until the node's thread takes it.
//!
//! The node's thread takes all that is there at once, so a batch costs one lock, and it is woken only if it sleeps.
//! Three kinds of senders, three rules for a full inbox: a client's request is refused at once; a peer's connection
//! waits for room, which slows that peer through TCP; an answer to one of the node's own effects always fits, because
//! the node asked for it and the number it asks for is bounded.
//!
//! Not handled: fairness among connections.

use base::NodeId;
use kv::Operation;
use node::{Event, Message, Outcome, Request};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// A request waits in the inbox for microseconds; so many of them mean that the node can't keep up.
const MAX_WAITING: usize = 8192;
/// How much of requests may wait, and how much of peers' messages.
const MAX_REQUEST_BYTES: usize = 64 << 20;
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
    request_bytes: usize,
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
        (state.request_bytes, state.peer_bytes) = (0, 0);
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
        let bytes = state.request_bytes + weight(&request);
        if state.waiting.len() >= MAX_WAITING || bytes > MAX_REQUEST_BYTES {
            return Err(Refused::Full);
        }
        state.request_bytes = bytes;
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
        (state.request_bytes, state.peer_bytes) = (0, 0);
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

fn weight(request: &Request) -> usize {
    match request {
        Request::Write { operations, .. } => operations.iter().map(operation_bytes).sum(),
        Request::Act { action, .. } => action.bytes(),
        Request::Read(_) | Request::LeaseTime { .. } | Request::Freeze => 0,
        Request::Join { .. } | Request::Promote { .. } | Request::Remove { .. } | Request::Transfer { .. } => 0,
    }
}

fn operation_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Put { key, value } => key.len() + value.len(),
        Operation::Delete { key } => key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use node::ReadLevel;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    fn open() -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        inbox.open();
        inbox
    }

    fn read(inbox: &Inbox) -> Result<(), Refused> {
        inbox.request(Request::Read(ReadLevel::Linearizable), 1, oneshot::channel().0)
    }

    fn taken(inbox: &Inbox) -> usize {
        let mut batch = Vec::new();
        inbox.take(Instant::now(), &mut batch);
        batch.len()
    }

    #[test]
    fn what_comes_wakes_the_one_who_sleeps_and_comes_out_at_once() {
        let inbox = open();
        let sleeper = thread::spawn({
            let inbox = inbox.clone();
            move || {
                let mut batch = Vec::new();
                inbox.take(Instant::now() + LONG, &mut batch);
                batch.len()
            }
        });
        while !inbox.lock().sleeping {
            thread::yield_now();
        }
        let began = Instant::now();
        inbox.event(Event::Tick { unix_ms: 0 });
        assert_eq!(sleeper.join().unwrap(), 1);
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn nobody_sleeps_beyond_the_deadline() {
        assert_eq!(taken(&open()), 0);
    }

    #[test]
    fn a_full_inbox_refuses_requests_but_not_what_the_node_waits_for() {
        let inbox = open();
        for _ in 0..MAX_WAITING {
            read(&inbox).unwrap();
        }
        assert_eq!(read(&inbox), Err(Refused::Full));
        inbox.event(Event::LogWritten { id: 1 });
        assert_eq!(taken(&inbox), MAX_WAITING + 1);
        read(&inbox).unwrap();
    }

    #[test]
    fn an_inbox_full_of_bytes_refuses_more_of_them() {
        let inbox = open();
        let value = Bytes::from(vec![0; MAX_REQUEST_BYTES / 4]);
        let write = || {
            let operations = vec![Operation::Put { key: Bytes::from_static(b"k"), value: value.clone() }];
            inbox.request(Request::Write { operations, idempotency: None }, 1, oneshot::channel().0)
        };
        assert_eq!([write(), write(), write(), write()], [Ok(()), Ok(()), Ok(()), Err(Refused::Full)]);
        read(&inbox).unwrap();
        taken(&inbox);
        write().unwrap();
    }

    #[tokio::test]
    async fn a_peer_waits_for_room() {
        let inbox = open();
        let mut message = vec![Message::ReadIndex { group: 0, id: 1, weak: false }];
        inbox.peer(2, &mut message.clone(), MAX_PEER_BYTES).await.unwrap();
        let waits = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.peer(2, &mut message, 1).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        assert_eq!(taken(&inbox), 1);
        waits.await.unwrap().unwrap();
        assert_eq!(taken(&inbox), 1);
    }

    #[tokio::test]
    async fn a_closed_inbox_takes_nothing_and_gives_back_what_was_left() {
        let inbox = open();
        read(&inbox).unwrap();
        assert_eq!(inbox.close().len(), 1);
        assert_eq!(read(&inbox), Err(Refused::Closed));
        inbox.event(Event::Tick { unix_ms: 0 });
        assert_eq!(inbox.peer(2, &mut Vec::new(), 0).await, Err(Refused::Closed));
        assert_eq!(taken(&inbox), 0);
    }
}
