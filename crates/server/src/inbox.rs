//! The one way in: everything that happens to the node waits here until the node's thread takes it.
//!
//! The node's thread takes all that is there at once, so a batch costs one lock, and it is woken only if it sleeps. While
//! the node would only keep writes or reads for later, they let it sleep on.
//! Three kinds of senders, three rules for a full inbox: a client's request is refused at once; a peer's connection
//! waits for room, which slows that peer through TCP; an answer to one of the node's own effects always fits, because
//! the node asked for it and the number it asks for is bounded.
//!
//! Not handled: fairness among connections.

use base::NodeId;
use kv::Operation;
use node::{Event, Message, Outcome, ReadLevel, Request};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// A request waits in the inbox for microseconds; so many of them mean that the node can't keep up.
const MAX_WAITING: usize = 8192;
/// How much of requests may wait, and how much of peers' messages.
const MAX_REQUEST_BYTES: usize = 64 << 20;
const MAX_PEER_BYTES: usize = 64 << 20;
/// More than a few: worth a turn of the node's thread in any case.
const MANY: usize = 1024;
const MANY_BYTES: usize = 128 << 10;

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
    /// Among what waits.
    writes: usize,
    reads: usize,
    /// What is no reason to take anything.
    can_wait: CanWait,
    /// There is something else, or very much.
    hurry: bool,
    /// So many threads are about to bring more requests ([`Inbox::together`]).
    held: usize,
}

/// So many requests of a kind the node would only gather ([`node::Node::gathers_writes`],
/// [`node::Node::gathers_reads`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CanWait {
    pub writes: usize,
    pub reads: usize,
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
        match request {
            Request::Write { .. } | Request::Act { .. } => state.writes += 1,
            Request::Read(ReadLevel::Linearizable) => state.reads += 1,
            _ => state.hurry = true,
        }
        state.hurry |= bytes >= MANY_BYTES || state.waiting.len() >= MANY;
        state.waiting.push(Input::Request { request, limit_ticks, reply });
        if state.held == 0 || state.hurry {
            self.wake(state);
        }
        Ok(())
    }

    /// The requests that `bring` asks for come as one: the first does not wake the node, but the last. Unless that would be
    /// very many.
    pub fn together<R>(&self, bring: impl FnOnce() -> R) -> R {
        let held = Held::begin(self);
        let result = bring();
        drop(held);
        result
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
                    state.hurry = true;
                    self.wake(state);
                    return Ok(());
                }
            }
            taken.await;
        }
    }

    /// Appends all that waits to `batch`; sleeps until something does, or until `deadline`. While all that comes is a few
    /// that `can_wait`, it sleeps on.
    pub fn take(&self, deadline: Instant, can_wait: CanWait, batch: &mut Vec<Input>) {
        let mut state = self.lock();
        state.can_wait = can_wait;
        while !state.is_due() {
            let now = Instant::now();
            if now >= deadline {
                break;
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
        (state.writes, state.reads, state.hurry) = (0, 0, false);
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
            state.hurry = true;
            self.wake(state);
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let is_awaited = state.sleeping && state.is_due();
        // One call is enough: until the sleeper has got the lock, others would call in vain, at the price of a system call.
        state.sleeping &= !is_awaited;
        drop(state);
        if is_awaited {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change to the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Held<'a>(&'a Inbox);

impl<'a> Held<'a> {
    fn begin(inbox: &'a Inbox) -> Held<'a> {
        inbox.lock().held += 1;
        Held(inbox)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.held -= 1;
        self.0.wake(state);
    }
}

impl State {
    fn is_due(&self) -> bool {
        let waits = |count: usize, can_wait: usize| count == 0 || count < can_wait;
        self.hurry || !waits(self.writes, self.can_wait.writes) || !waits(self.reads, self.can_wait.reads)
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
    use std::sync::Arc;
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);
    const WRITES: CanWait = CanWait { writes: usize::MAX, reads: 0 };

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
        inbox.take(Instant::now(), CanWait::default(), &mut batch);
        batch.len()
    }

    /// Falls asleep, and tells how much there was when something woke it.
    fn sleeper(inbox: &Arc<Inbox>, can_wait: CanWait) -> JoinHandle<usize> {
        let sleeper = thread::spawn({
            let inbox = inbox.clone();
            move || {
                let mut batch = Vec::new();
                inbox.take(Instant::now() + LONG, can_wait, &mut batch);
                batch.len()
            }
        });
        while !inbox.lock().sleeping {
            thread::yield_now();
        }
        sleeper
    }

    fn write(inbox: &Inbox, bytes: usize) -> Result<(), Refused> {
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from(vec![0; bytes]));
        let operations = vec![Operation::Put { key, value }];
        inbox.request(Request::Write { operations, idempotency: None }, 1, oneshot::channel().0)
    }

    #[test]
    fn a_few_that_can_wait_let_it_sleep_and_come_out_with_what_wakes_it() {
        let inbox = open();
        write(&inbox, 1).unwrap();
        let sleeper = self::sleeper(&inbox, WRITES);
        write(&inbox, 1).unwrap();
        assert!(!inbox.lock().is_due());
        read(&inbox).unwrap();
        assert_eq!(sleeper.join().unwrap(), 3);

        read(&inbox).unwrap();
        let sleeper = self::sleeper(&inbox, CanWait { reads: usize::MAX, writes: 0 });
        read(&inbox).unwrap();
        assert!(!inbox.lock().is_due());
        write(&inbox, 1).unwrap();
        assert_eq!(sleeper.join().unwrap(), 3);
    }

    #[test]
    fn many_wake_it() {
        let inbox = open();
        let large = sleeper(&inbox, WRITES);
        write(&inbox, MANY_BYTES).unwrap();
        assert_eq!(large.join().unwrap(), 1);
        for (can_wait, enough) in [(usize::MAX, MANY + 1), (3, 3)] {
            let many = sleeper(&inbox, CanWait { writes: can_wait, reads: 0 });
            (1..enough).for_each(|_| write(&inbox, 1).unwrap());
            assert!(!inbox.lock().is_due());
            write(&inbox, 1).unwrap();
            assert_eq!(many.join().unwrap(), enough);
        }
    }

    #[test]
    fn requests_that_come_together_wake_it_once_all_are_there() {
        let inbox = open();
        let sleeper = sleeper(&inbox, CanWait::default());
        inbox.together(|| {
            (0..3).for_each(|_| write(&inbox, 1).unwrap());
            assert!(inbox.lock().sleeping, "nothing called it yet");
        });
        assert_eq!(sleeper.join().unwrap(), 3);
    }

    #[test]
    fn nothing_else_waits_for_requests_that_come_together_to_be_there() {
        let inbox = open();
        let brings: [fn(&Inbox); 2] =
            [|inbox: &Inbox| inbox.event(Event::Tick { unix_ms: 0 }), |inbox| write(inbox, MANY_BYTES).unwrap()];
        for bring in brings {
            let sleeper = sleeper(&inbox, CanWait::default());
            inbox.together(|| {
                bring(&inbox);
                assert_eq!(sleeper.join().unwrap(), 1);
            });
        }
    }

    #[test]
    fn what_comes_wakes_the_one_who_sleeps_and_comes_out_at_once() {
        let inbox = open();
        let sleeper = sleeper(&inbox, CanWait::default());
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
