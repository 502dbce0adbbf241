//! Keeps a connection to one peer: dials, introduces itself, sends what is queued, and dials again when it breaks.
//!
//! The pause between attempts grows and is drawn at random, so that nodes that lost each other do not dial in step; it
//! ends early when the peer itself calls.

use super::frame::Frames;
use super::hello::{Answer, Call, Hello};
use super::outgoing::{Outgoing, Over, Waiting};
use super::{HANDSHAKE_LIMIT, Trouble, WRITE_LIMIT, call};
use crate::address;
use crate::handle::Handle;
use base::rng::Rng;
use base::{ClusterId, Incarnation, NodeId};
use node::Event;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

/// Whom to dial, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    pub cluster: ClusterId,
    pub me: NodeId,
    pub id: NodeId,
    /// For people.
    pub name: String,
    pub incarnation: Incarnation,
    /// Tried in turn.
    pub addresses: Vec<String>,
}

/// Never returns; whoever drops the peer aborts it.
pub async fn keep_connected(handle: Handle, outgoing: Arc<Outgoing>) {
    let first = outgoing.target();
    let mut rng = Rng::new(base::rng::hash(&[handle.identity().incarnation.0, first.id]));
    let mut pause = FIRST_PAUSE;
    let mut attempt = 0;
    let mut troubles = Troubles::default();
    loop {
        let target = outgoing.target();
        let address = &target.addresses[attempt % target.addresses.len()];
        let peer = format!("{} at {address}", target.name);
        attempt += 1;
        match introduce(&handle, &target, address).await {
            Ok((stream, Answer::Welcome(url))) => {
                handle.shared().leadership.set_url(target.id, &url);
                (pause, attempt) = (FIRST_PAUSE, attempt - 1);
                troubles = Troubles::default();
                tracing::debug!("connected to {peer}");
                let why = send(&handle, &outgoing, target.id, stream).await;
                // Meanwhile its name may be known, or another one.
                tracing::debug!("lost {} at {address}: {why}", outgoing.target().name);
            }
            Ok((_, Answer::Removed(reason))) => {
                tracing::debug!("{peer} says: {reason}");
                handle.shared().inbox.event(Event::ToldRemoved { by: target.id });
                pause = LAST_PAUSE;
            }
            Ok((_, Answer::Refused(reason))) => {
                let trouble = format!("{peer} refuses this node: {reason}");
                if troubles.is_new(&trouble) {
                    tracing::warn!("{trouble}");
                }
                pause = LAST_PAUSE;
            }
            Ok((_, Answer::Greeting(_))) => pause = LAST_PAUSE,
            Err(error) => {
                let trouble = format!("can't reach {peer}: {error}");
                if troubles.is_new(&trouble) {
                    tracing::debug!("{trouble}; trying until it is there");
                }
            }
        }
        let jitter = Duration::from_micros(rng.below(pause.as_micros() as u64));
        tokio::select! {
            () = sleep(pause / 2 + jitter) => pause = (pause * 2).min(LAST_PAUSE),
            () = outgoing.until_it_calls() => {}
        }
    }
}

/// What went wrong since the last connection, to tell each trouble once.
#[derive(Default)]
struct Troubles {
    told: Vec<String>,
}

impl Troubles {
    fn is_new(&mut self, trouble: &str) -> bool {
        let is_new = self.told.iter().all(|told| told != trouble);
        if is_new {
            self.told.truncate(MAX_TROUBLES - 1);
            self.told.insert(0, trouble.to_string());
        }
        is_new
    }
}

async fn introduce(handle: &Handle, target: &Target, address: &str) -> Result<(TcpStream, Answer), Trouble> {
    let identity = handle.identity();
    let hello = Hello {
        cluster: target.cluster,
        from: target.me,
        from_incarnation: identity.incarnation,
        from_name: identity.name.clone(),
        from_address: identity.address.clone(),
        from_url: identity.url.clone(),
        to: target.id,
        to_incarnation: target.incarnation,
    };
    let introduced = timeout(HANDSHAKE_LIMIT, async {
        let mut stream = address::connect(address).await?;
        let answer = call(&mut stream, &Call::Hello(hello)).await?;
        Ok((stream, answer))
    });
    introduced.await.map_err(|_| Trouble::NoAnswer)?
}

/// Lets the node's thread use the connection until it breaks; says why it did.
async fn send(handle: &Handle, outgoing: &Outgoing, id: NodeId, stream: TcpStream) -> Trouble {
    let (mut reading, writing) = stream.into_split();
    let writing = Arc::new(writing);
    outgoing.connect(writing.clone());
    handle.shared().inbox.event(Event::PeerUp { node: id });
    let why = tokio::select! {
        why = write_what_waits(outgoing, &writing) => why,
        why = end_of(&mut reading) => why,
    };
    outgoing.disconnect();
    handle.shared().inbox.event(Event::PeerDown { node: id });
    why
}

async fn write_what_waits(outgoing: &Outgoing, socket: &OwnedWriteHalf) -> Trouble {
    let mut waiting = Waiting::default();
    loop {
        if let Err(Over) = outgoing.take(&mut waiting).await {
            return Trouble::Slow;
        }
        let mut bytes = std::mem::take(&mut waiting.rest);
        let mut messages = waiting.messages.drain(..).peekable();
        loop {
            if let Err(why) = write_all(socket, &bytes).await {
                return why;
            }
            if messages.peek().is_none() {
                break;
            }
            let mut frames = Frames::with_capacity(WRITE_BYTES);
            while frames.len() < WRITE_BYTES
                && let Some(message) = messages.next()
            {
                frames.push(|w| message.encode(w));
            }
            bytes = frames.into_vec();
            outgoing.traffic.sent_bytes.add(bytes.len() as u64);
        }
    }
}

async fn write_all(socket: &OwnedWriteHalf, mut bytes: &[u8]) -> Result<(), Trouble> {
    while !bytes.is_empty() {
        timeout(WRITE_LIMIT, socket.writable()).await.map_err(|_| Trouble::Stuck)??;
        match socket.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Nothing comes back on a connection that we dialled, except its end.
async fn end_of(reading: &mut OwnedReadHalf) -> Trouble {
    match reading.read(&mut [0; 16]).await {
        Ok(0) => Trouble::Ended,
        Ok(_) => Trouble::Stranger,
        Err(error) => error.into(),
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// More than a peer's addresses and the ways to fail at one.
const MAX_TROUBLES: usize = 16;
const WRITE_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_is_told_once_until_there_are_too_many() {
        let mut troubles = Troubles::default();
        assert_eq!(["a", "b", "a", "b"].map(|trouble| troubles.is_new(trouble)), [true, true, false, false]);
        for number in 0..MAX_TROUBLES {
            assert!(troubles.is_new(&number.to_string()));
        }
        assert!(troubles.is_new("a"));
        assert_eq!(troubles.told.len(), MAX_TROUBLES);
    }
}
