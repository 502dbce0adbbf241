//! The queue of messages to one peer, between the node's thread and the task of the connection.

use super::dial::Target;
use node::Message;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// More than Raft ever has in flight to one peer; a peer that lets so much pile up is better off without.
const MAX_QUEUED: usize = 16 * 1024;
const MAX_QUEUED_BYTES: usize = 64 << 20;

pub struct Outgoing {
    state: Mutex<State>,
    changed: Notify,
    there: Notify,
}

struct State {
    target: Target,
    queue: Vec<Message>,
    bytes: usize,
    connected: bool,
}

/// The peer took less than was meant for it.
#[derive(Debug)]
pub struct Overflow;

impl Outgoing {
    pub fn new(target: Target) -> Outgoing {
        let state = State { target, queue: Vec::new(), bytes: 0, connected: false };
        Outgoing { state: Mutex::new(state), changed: Notify::new(), there: Notify::new() }
    }

    /// Queues messages if the peer is connected; they are gone otherwise.
    pub fn push(&self, messages: &mut Vec<Message>) {
        let mut state = self.state();
        if !state.connected {
            messages.clear();
            return;
        }
        state.bytes += messages.iter().map(weight).sum::<usize>();
        if state.queue.is_empty() {
            std::mem::swap(&mut state.queue, messages);
        } else {
            state.queue.append(messages);
        }
        if state.bytes > MAX_QUEUED_BYTES || state.queue.len() > MAX_QUEUED {
            state.disconnect();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for messages, and takes all that are queued.
    pub async fn take(&self, into: &mut Vec<Message>) -> Result<(), Overflow> {
        loop {
            {
                let mut state = self.state();
                if !state.connected {
                    return Err(Overflow);
                }
                if !state.queue.is_empty() {
                    state.bytes = 0;
                    std::mem::swap(&mut state.queue, into);
                    return Ok(());
                }
            }
            self.changed.notified().await;
        }
    }

    pub fn connect(&self) {
        self.state().connected = true;
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
        self.connected = false;
        self.queue = Vec::new();
        self.bytes = 0;
    }
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
    use super::*;
    use base::{ClusterId, Incarnation};

    fn outgoing() -> Outgoing {
        let target = Target {
            cluster: ClusterId(1),
            me: 1,
            id: 2,
            incarnation: Incarnation(1),
            addresses: vec!["localhost:1".into()],
        };
        Outgoing::new(target)
    }

    fn messages(count: u64) -> Vec<Message> {
        (0..count).map(|id| Message::ReadIndex { group: 0, id }).collect()
    }

    fn ids(messages: &[Message]) -> Vec<u64> {
        let id = |message: &Message| match message {
            Message::ReadIndex { id, .. } => *id,
            other => panic!("{other:?}"),
        };
        messages.iter().map(id).collect()
    }

    #[tokio::test]
    async fn messages_come_out_in_their_order_and_only_while_connected() {
        let outgoing = outgoing();
        outgoing.push(&mut messages(3));
        outgoing.connect();
        outgoing.push(&mut messages(2));
        outgoing.push(&mut messages(1));
        let mut taken = Vec::new();
        outgoing.take(&mut taken).await.unwrap();
        assert_eq!(ids(&taken), [0, 1, 0]);
    }

    #[tokio::test]
    async fn a_full_queue_ends_the_connection_and_forgets_what_was_queued() {
        let outgoing = outgoing();
        outgoing.connect();
        outgoing.push(&mut messages(MAX_QUEUED as u64 + 1));
        let mut taken = Vec::new();
        outgoing.take(&mut taken).await.unwrap_err();
        outgoing.connect();
        outgoing.push(&mut messages(1));
        outgoing.take(&mut taken).await.unwrap();
        assert_eq!(ids(&taken), [0]);
    }
}
