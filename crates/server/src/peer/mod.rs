//! Connections to and from the other nodes.
//!
//! A node dials every other member and sends on the connections that it dialled; it receives on those that were
//! dialled to it. Both kinds begin with a handshake ([`hello`]) that settles who is who, and then carry frames
//! ([`frame`]). The node's thread writes a turn's messages to a peer at once; what the socket does not take waits in a
//! bounded queue for the task of the connection ([`outgoing`]). While a peer is not connected, messages to it are
//! dropped: Raft sends again. A peer that doesn't keep up until its queue is full loses its connection, and with it
//! what was queued.
//!
//! Whom to dial is in the cluster's configuration. A node that was just let in has none yet, so that a caller tells
//! the address where it can be called back; that is also how a member is found that came back somewhere else.
//!
//! Not handled: more than one connection to a peer, so a large chunk of a snapshot delays what comes after it.

mod dial;
pub mod frame;
pub mod hello;
mod outgoing;
#[cfg(test)]
mod tests;

use crate::address;
use crate::handle::Handle;
use base::codec::Malformed;
use base::{ClusterId, Incarnation, NodeId};
use bytes::{Bytes, BytesMut};
use frame::{Frames, MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES, OPENING_BYTES, PREFACE, VERSION};
use hello::{Answer, Call, Hello, Verdict};
use node::membership::Configuration;
use node::{Event, Greeting, Message};
use outgoing::Outgoing;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// A caller that belongs to a cluster lets this node, which belongs to none, in under that id.
pub struct Admission {
    pub cluster: ClusterId,
    pub id: NodeId,
    /// Sent once the folder says so durably and the node runs.
    pub done: oneshot::Sender<Result<(), String>>,
}

pub struct Peers {
    handle: Handle,
    runtime: Runtime,
    admissions: mpsc::Sender<Admission>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    configuration: Arc<Configuration>,
    /// Whom we dial.
    links: BTreeMap<NodeId, Link>,
    /// Who dialled us, by the newest connection of each.
    callers: BTreeMap<NodeId, Caller>,
    next_caller: u64,
    closed: bool,
}

struct Link {
    outgoing: Arc<Outgoing>,
    task: AbortHandle,
}

struct Caller {
    number: u64,
    name: String,
    address: String,
    incarnation: Incarnation,
    /// The connection ends when this goes.
    _hang_up: oneshot::Sender<()>,
}

impl Peers {
    pub fn new(handle: Handle, admissions: mpsc::Sender<Admission>) -> Arc<Peers> {
        Arc::new(Peers { handle, runtime: Runtime::current(), admissions, book: Mutex::default() })
    }

    /// Queues messages, in their order, and leaves `messages` empty.
    pub fn send(&self, to: NodeId, messages: &mut Vec<Message>) {
        let outgoing = self.book().links.get(&to).map(|link| link.outgoing.clone());
        match outgoing {
            Some(outgoing) => outgoing.push(messages),
            None => messages.clear(),
        }
    }

    /// From now on these are the members: dials those that are new, drops those that are gone.
    pub fn set_configuration(self: &Arc<Peers>, configuration: &Arc<Configuration>) {
        let mut book = self.book();
        if Arc::ptr_eq(&book.configuration, configuration) || book.configuration == *configuration {
            return;
        }
        book.configuration = configuration.clone();
        // They would go on believing that they are members: their next call is told otherwise.
        book.callers.retain(|&id, _| !configuration.was_removed(id));
        self.dial_whom_we_should(&mut book);
    }

    /// Serves one connection that came in, from its first byte.
    pub async fn accept(self: Arc<Peers>, mut stream: TcpStream, from: SocketAddr) {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let introduced = timeout(HANDSHAKE_LIMIT, self.be_introduced(&mut stream, &mut buffer));
        match introduced.await.unwrap_or(Err(Trouble::Silent)) {
            Ok((Call::Hello(hello), Answer::Welcome(_))) => self.serve(&hello, &mut stream, &mut buffer).await,
            Ok((Call::Hello(hello), Answer::Refused(reason))) => {
                tracing::debug!("{} at {} is refused: {reason}", hello.from_name, hello.from_address);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!("a connection from {from} was closed: {error}"),
        }
    }

    /// Asks the node at that address who it is.
    pub async fn greet(&self, address: &str) -> Result<Greeting, String> {
        let asked = timeout(HANDSHAKE_LIMIT, async {
            let mut stream = address::connect(address).await?;
            call(&mut stream, &Call::WhoIsThere).await
        });
        match asked.await {
            Ok(Ok(Answer::Greeting(greeting))) => Ok(greeting),
            Ok(Ok(other)) => Err(format!("{address} answered a greeting with {other:?}")),
            Ok(Err(error)) => Err(format!("no node answers at {address}: {error}")),
            Err(_) => Err(format!("no node answers at {address} within {} s", HANDSHAKE_LIMIT.as_secs())),
        }
    }

    /// Ends all connections and dials no more.
    pub fn close(&self) {
        let mut book = self.book();
        book.closed = true;
        book.callers.clear();
        for link in std::mem::take(&mut book.links).into_values() {
            link.task.abort();
        }
    }

    async fn be_introduced(&self, stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<(Call, Answer), Trouble> {
        address::tune(stream)?;
        let call = Call::decode(opening(stream, buffer).await?)?;
        let answer = self.answer(&call).await;
        let mut frames = Frames::default();
        frames.push(|w| answer.encode(w));
        stream.write_all(&opened(frames)).await?;
        Ok((call, answer))
    }

    async fn serve(self: &Arc<Peers>, hello: &Hello, stream: &mut TcpStream, buffer: &mut BytesMut) {
        let (number, hung_up) = self.caller_came(hello);
        let end = tokio::select! {
            end = self.listen(stream, hello.from, buffer) => end,
            _ = hung_up => Ok(()),
        };
        self.caller_left(hello.from, number);
        match end {
            // The connection the other way ends as well, and that is told.
            Ok(()) | Err(Trouble::Ended | Trouble::Stopped | Trouble::Socket(_)) => {}
            Err(error) => {
                tracing::debug!(
                    "the connection from {} at {} was closed: {error}",
                    hello.from_name,
                    hello.from_address
                );
            }
        }
    }

    async fn answer(&self, call: &Call) -> Answer {
        loop {
            let configuration = self.book().configuration.clone();
            let identity = self.handle.identity();
            match hello::judge(call, &identity, &self.handle.phase(), &configuration) {
                Verdict::Answer(answer) => return answer,
                Verdict::Admit { cluster, id } => {
                    let (done, admitted) = oneshot::channel();
                    let asked = self.admissions.send(Admission { cluster, id, done }).await.is_ok();
                    match if asked { admitted.await.ok() } else { None } {
                        Some(Ok(())) => return Answer::Welcome(self.handle.identity().url.clone()),
                        Some(Err(reason)) => return Answer::Refused(reason),
                        // Another caller was first: judge again by what this node has become.
                        None if self.handle.identity().cluster.is_some() => {}
                        None => return Answer::Refused(format!("{} is not joining a cluster", identity.name)),
                    }
                }
            }
        }
    }

    /// Takes messages from a welcome caller until either side ends.
    async fn listen(&self, stream: &mut TcpStream, from: NodeId, buffer: &mut BytesMut) -> Result<(), Trouble> {
        let mut messages = Vec::new();
        let traffic = self.handle.metrics().traffic(from);
        loop {
            let mut bytes = 0;
            while let Some(payload) = frame::take(buffer, MAX_FRAME_BYTES)? {
                bytes += payload.len();
                messages.push(Message::decode(payload)?);
                if bytes > READ_BYTES * 16 {
                    break;
                }
            }
            if !messages.is_empty() {
                traffic.received_bytes.add(bytes as u64);
                self.handle.shared().leadership.heard(from, &messages);
                let taken = self.handle.shared().inbox.peer(from, &mut messages, bytes).await;
                taken.map_err(|_| Trouble::Stopped)?;
                continue;
            }
            // Only when the last allocation is used up: what was read out of it may keep it alive.
            if buffer.capacity() - buffer.len() < READ_BYTES / 8 {
                buffer.reserve(READ_BYTES);
            }
            if stream.read_buf(buffer).await? == 0 {
                return Err(Trouble::Ended);
            }
        }
    }

    fn caller_came(self: &Arc<Peers>, hello: &Hello) -> (u64, oneshot::Receiver<()>) {
        let (hang_up, hung_up) = oneshot::channel();
        let mut book = self.book();
        let number = book.next_caller;
        book.next_caller += 1;
        let caller = Caller {
            number,
            name: hello.from_name.clone(),
            address: hello.from_address.clone(),
            incarnation: hello.from_incarnation,
            _hang_up: hang_up,
        };
        let unknown = book.callers.keys().filter(|&id| !book.configuration.members.contains_key(id)).count();
        if book.closed || unknown > MAX_UNKNOWN_CALLERS {
            // `caller` goes, and the connection with it.
            return (number, hung_up);
        }
        self.handle.shared().leadership.set_url(hello.from, &hello.from_url);
        let news = &self.handle.shared().inbox;
        if book.callers.insert(hello.from, caller).is_some() {
            news.event(Event::PeerDown { node: hello.from });
        }
        news.event(Event::PeerUp { node: hello.from });
        self.dial_whom_we_should(&mut book);
        if let Some(link) = book.links.get(&hello.from) {
            link.outgoing.is_there();
        }
        (number, hung_up)
    }

    fn caller_left(self: &Arc<Peers>, id: NodeId, number: u64) {
        let mut book = self.book();
        if book.callers.get(&id).is_some_and(|caller| caller.number == number) {
            book.callers.remove(&id);
            self.handle.shared().inbox.event(Event::PeerDown { node: id });
            self.dial_whom_we_should(&mut book);
        }
    }

    /// Members, and callers that may become members or are ones without our knowing it yet.
    fn dial_whom_we_should(self: &Arc<Peers>, book: &mut Book) {
        let Some((cluster, me)) = self.handle.identity().cluster.filter(|_| !book.closed) else {
            return;
        };
        let Book { configuration, links, callers, .. } = book;
        let wanted = |id: &NodeId| *id != me && (configuration.members.contains_key(id) || callers.contains_key(id));
        links.retain(|id, link| {
            let keep = wanted(id);
            if !keep {
                link.task.abort();
            }
            keep
        });
        let ids = configuration.members.keys().chain(callers.keys()).filter(|id| wanted(id));
        for &id in ids {
            let member = configuration.members.get(&id);
            let caller = callers.get(&id);
            let mut addresses: Vec<String> = Vec::new();
            addresses.extend(member.map(|member| member.address.clone()));
            addresses.extend(caller.map(|caller| caller.address.clone()).filter(|a| !addresses.contains(a)));
            let known = member.map(|m| (&m.name, m.incarnation)).or(caller.map(|c| (&c.name, c.incarnation)));
            let Some((name, incarnation)) = known.map(|(name, incarnation)| (name.clone(), incarnation)) else {
                continue;
            };
            let target = dial::Target { cluster, me, id, name, incarnation, addresses };
            match links.get(&id) {
                Some(link) => link.outgoing.aim(target),
                None => {
                    let outgoing = Arc::new(Outgoing::new(target, self.handle.metrics().traffic(id)));
                    let task = dial::keep_connected(self.handle.clone(), outgoing.clone());
                    let task = self.runtime.spawn(task).abort_handle();
                    links.insert(id, Link { outgoing, task });
                }
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the peer closed the connection")]
    Ended,
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("not a peer of ours")]
    Stranger,
    #[error("the peer speaks version {0} of the peer protocol, this program {VERSION}")]
    Version(u8),
    #[error("the peer did not say who it is in time")]
    Silent,
    #[error("this node stopped")]
    Stopped,
    #[error("the peer took nothing for {} s", WRITE_LIMIT.as_secs())]
    Stuck,
    #[error("the peer is too slow for what it is sent, or the socket broke")]
    Slow,
    #[error("no answer within {} s", HANDSHAKE_LIMIT.as_secs())]
    NoAnswer,
}

/// Makes the caller's half of the handshake.
async fn call(stream: &mut TcpStream, call: &Call) -> Result<Answer, Trouble> {
    let mut frames = Frames::default();
    frames.push(|w| call.encode(w));
    stream.write_all(&opened(frames)).await?;
    let mut buffer = BytesMut::new();
    Ok(Answer::decode(opening(stream, &mut buffer).await?)?)
}

pub fn opened(frames: Frames) -> Vec<u8> {
    [&PREFACE[..], &[VERSION], &frames.into_vec()].concat()
}

/// Reads the other side's preface and its first frame.
pub async fn opening<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> Result<Bytes, Trouble> {
    let more = async |stream: &mut S, buffer: &mut BytesMut| match stream.read_buf(buffer).await? {
        0 => Err(Trouble::Ended),
        _ => Ok(()),
    };
    while buffer.len() < OPENING_BYTES {
        if !PREFACE.starts_with(&buffer[..buffer.len().min(PREFACE.len())]) {
            return Err(Trouble::Stranger);
        }
        more(stream, buffer).await?;
    }
    let opening = buffer.split_to(OPENING_BYTES);
    if opening[..PREFACE.len()] != PREFACE {
        return Err(Trouble::Stranger);
    }
    if opening[PREFACE.len()] != VERSION {
        return Err(Trouble::Version(opening[PREFACE.len()]));
    }
    loop {
        if let Some(payload) = frame::take(buffer, MAX_HANDSHAKE_BYTES)? {
            return Ok(payload);
        }
        more(stream, buffer).await?;
    }
}

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const WRITE_LIMIT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 64 * 1024;
/// Nodes that were let in a moment ago, from the view of one that lags behind. More are not the cluster's.
const MAX_UNKNOWN_CALLERS: usize = 16;
