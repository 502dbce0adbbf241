//! The way of messages to one peer, from the node's thread to the socket.
//!
//! Mostly the socket takes what there is at once, so the node's thread writes it by itself: waking another thread for
//! it would cost more than the write. What the socket doesn't take, and all that comes until it has, waits in a bounded
//! queue for the task of the connection.

use super::dial::Target;
use super::frame::Frames;
use crate::metrics::Traffic;
use node::Message;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// More than Raft ever has in flight to one peer; a peer that lets so much pile up is better off without.
const MAX_QUEUED: usize = 16 * 1024;
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Larger batches are left to the task, as encoding them takes the node's thread too long.
const MAX_AT_ONCE_BYTES: usize = 256 * 1024;

pub struct Outgoing {
    pub traffic: Arc<Traffic>,
    state: Mutex<State>,
    changed: Notify,
    there: Notify,
}

struct State {
    target: Target,
    /// `None` while the peer is not connected.
    socket: Option<Arc<OwnedWriteHalf>>,
    /// The task is writing; whatever comes has to wait for its turn.
    task_writes: bool,
    /// Bytes that the socket did not take. They come before the queue.
    rest: Vec<u8>,
    queue: Vec<Message>,
    queued_bytes: usize,
}

/// What waits for the task, in this order.
#[derive(Default)]
pub struct Waiting {
    pub rest: Vec<u8>,
    pub messages: Vec<Message>,
}

/// The connection is over: the peer took too little of what was meant for it, or the socket broke.
#[derive(Debug)]
pub struct Over;

impl Outgoing {
    pub fn new(target: Target, traffic: Arc<Traffic>) -> Outgoing {
        let state =
            State { target, socket: None, task_writes: false, rest: Vec::new(), queue: Vec::new(), queued_bytes: 0 };
        Outgoing { traffic, state: Mutex::new(state), changed: Notify::new(), there: Notify::new() }
    }

    /// Sends messages if the peer is connected; they are gone otherwise. Leaves `messages` empty.
    pub fn push(&self, messages: &mut Vec<Message>) {
        let mut state = self.state();
        let Some(socket) = state.socket.clone() else {
            messages.clear();
            return;
        };
        let bytes = messages.iter().map(weight).sum::<usize>();
        if !state.task_writes && state.rest.is_empty() && state.queue.is_empty() && bytes <= MAX_AT_ONCE_BYTES {
            match write_at_once(&socket, messages, &self.traffic) {
                Ok(rest) if rest.is_empty() => return,
                Ok(rest) => state.rest = rest,
                Err(_) => state.disconnect(),
            }
        } else {
            state.queued_bytes += bytes;
            if state.queue.is_empty() {
                std::mem::swap(&mut state.queue, messages);
            } else {
                state.queue.append(messages);
            }
            if state.queued_bytes > MAX_QUEUED_BYTES || state.queue.len() > MAX_QUEUED {
                state.disconnect();
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until something is left to the task, and takes all of it. Whoever calls this has written what the last
    /// call gave.
    pub async fn take(&self, waiting: &mut Waiting) -> Result<(), Over> {
        loop {
            {
                let mut state = self.state();
                if state.socket.is_none() {
                    return Err(Over);
                }
                state.task_writes = !state.rest.is_empty() || !state.queue.is_empty();
                if state.task_writes {
                    state.queued_bytes = 0;
                    waiting.rest = std::mem::take(&mut state.rest);
                    std::mem::swap(&mut state.queue, &mut waiting.messages);
                    return Ok(());
                }
            }
            self.changed.notified().await;
        }
    }

    pub fn connect(&self, socket: Arc<OwnedWriteHalf>) {
        self.state().socket = Some(socket);
    }

    pub fn disconnect(&self) {
        self.state().disconnect();
    }

    pub fn aim(&self, target: Target) {
        self.state().target = target;
    }

    pub fn target(&self) -> Target {
        self.state().target.clone()
    }

    /// The peer called: dialling it will work now.
    pub fn is_there(&self) {
        self.there.notify_one();
    }

    pub async fn until_it_calls(&self) {
        self.there.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn disconnect(&mut self) {
        self.socket = None;
        self.task_writes = false;
        self.rest = Vec::new();
        self.queue = Vec::new();
        self.queued_bytes = 0;
    }
}

/// Gives back what the socket did not take.
fn write_at_once(socket: &OwnedWriteHalf, messages: &mut Vec<Message>, traffic: &Traffic) -> io::Result<Vec<u8>> {
    let mut frames = Frames::with_capacity(1024);
    for message in messages.drain(..) {
        frames.push(|w| message.encode(w));
    }
    let mut bytes = frames.into_vec();
    traffic.sent_bytes.add(bytes.len() as u64);
    let mut taken = 0;
    while taken < bytes.len() {
        match socket.try_write(&bytes[taken..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    bytes.drain(..taken);
    Ok(bytes)
}

/// About how much memory a message holds.
fn weight(message: &Message) -> usize {
    let content = match message {
        Message::Raft { message, .. } => message.entries() * 256,
        Message::Forward { commands, .. } => commands.iter().map(bytes::Bytes::len).sum(),
        Message::SnapshotChunk { bytes, .. } => bytes.len(),
        _ => 0,
    };
    content + 128
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;
    use base::{ClusterId, Incarnation};
    use bytes::BytesMut;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    fn outgoing() -> Outgoing {
        let target = Target {
            cluster: ClusterId(1),
            me: 1,
            id: 2,
            name: "b".into(),
            incarnation: Incarnation(1),
            addresses: vec!["localhost:1".into()],
        };
        Outgoing::new(target, Arc::default())
    }

    fn messages(count: u64) -> Vec<Message> {
        (0..count).map(|id| Message::ReadIndex { group: 0, id, weak: false }).collect()
    }

    fn ids(messages: &[Message]) -> Vec<u64> {
        let id = |message: &Message| match message {
            Message::ReadIndex { id, .. } => *id,
            other => panic!("{other:?}"),
        };
        messages.iter().map(id).collect()
    }

    /// Both ends of a connection: ours, and the peer's.
    async fn connection() -> (Arc<OwnedWriteHalf>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
        let (_, writing) = ours.unwrap().into_split();
        (Arc::new(writing), theirs.unwrap().0)
    }

    async fn next_id(stream: &mut TcpStream, buffer: &mut BytesMut) -> u64 {
        loop {
            if let Some(payload) = frame::take(buffer, 1000).unwrap() {
                return ids(&[Message::decode(payload).unwrap()])[0];
            }
            assert_ne!(stream.read_buf(buffer).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_sent_before_the_connection_is_gone_and_the_rest_arrives_in_order() {
        let outgoing = outgoing();
        outgoing.push(&mut messages(3));
        let (socket, mut peer) = connection().await;
        socket.writable().await.unwrap();
        outgoing.connect(socket);
        outgoing.push(&mut messages(2));
        outgoing.push(&mut messages(1));
        let mut buffer = BytesMut::new();
        for expected in [0, 1, 0] {
            assert_eq!(next_id(&mut peer, &mut buffer).await, expected);
        }
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_is_left_to_the_task_and_nothing_overtakes_it() {
        let outgoing = outgoing();
        let (socket, mut peer) = connection().await;
        socket.writable().await.unwrap();
        outgoing.connect(socket.clone());
        let mut sent = 0;
        while outgoing.state().rest.is_empty() {
            outgoing
                .push(&mut (sent..sent + 1000).map(|id| Message::ReadIndex { group: 0, id, weak: false }).collect());
            sent += 1000;
        }
        outgoing.push(&mut vec![Message::ReadIndex { group: 0, id: sent, weak: false }]);
        let mut waiting = Waiting::default();
        outgoing.take(&mut waiting).await.unwrap();
        outgoing.push(&mut vec![Message::ReadIndex { group: 0, id: sent + 1, weak: false }]);
        assert_eq!(ids(&waiting.messages), [sent]);

        let writing = async {
            let mut rest = &waiting.rest[..];
            while !rest.is_empty() {
                socket.writable().await.unwrap();
                let written = socket.try_write(rest).unwrap_or(0);
                rest = &rest[written..];
            }
        };
        let reading = async {
            let mut buffer = BytesMut::new();
            for expected in 0..sent {
                assert_eq!(next_id(&mut peer, &mut buffer).await, expected);
            }
        };
        tokio::join!(writing, reading);
        waiting.messages.clear();
        outgoing.take(&mut waiting).await.unwrap();
        assert_eq!(ids(&waiting.messages), [sent + 1]);
    }

    #[tokio::test]
    async fn a_full_queue_ends_the_connection_and_forgets_what_was_queued() {
        let outgoing = outgoing();
        let (socket, _peer) = connection().await;
        outgoing.connect(socket.clone());
        outgoing.state().task_writes = true;
        outgoing.push(&mut messages(MAX_QUEUED as u64 + 1));
        let mut waiting = Waiting::default();
        outgoing.take(&mut waiting).await.unwrap_err();
        outgoing.connect(socket);
        outgoing.state().task_writes = true;
        outgoing.push(&mut messages(1));
        outgoing.take(&mut waiting).await.unwrap();
        assert_eq!(ids(&waiting.messages), [0]);
    }

    #[tokio::test]
    async fn a_broken_connection_is_over() {
        let outgoing = outgoing();
        let (socket, peer) = connection().await;
        outgoing.connect(socket);
        drop(peer);
        let mut waiting = Waiting::default();
        let over = async {
            while outgoing.state().socket.is_some() {
                outgoing.push(&mut messages(1));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), over).await.unwrap();
        outgoing.take(&mut waiting).await.unwrap_err();
    }
}
