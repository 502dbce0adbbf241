//! What reading from a socket holds to, whatever comes. It never panics and always comes to an end; what is accepted is
//! read again as the same.
//!
//! Each function is a fuzz target (`fuzz/`), and the tests replay what is kept of its corpus.

mod http;
mod join;

pub use http::{requests as http_requests, v1_requests};
pub use join::answer as join_answer;

use crate::address::Address;
use crate::peer::frame::{self, Frames, MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES};
use crate::peer::hello::{Answer, Call};
use crate::peer::{opened, opening};
use bytes::{Bytes, BytesMut};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The first words of a connection between nodes, as they are and as the payload of a whole frame.
pub fn peer_handshake(bytes: &[u8]) {
    if let Some(payload) = opening_of(bytes) {
        calls_and_answers(payload);
    }
    let mut frames = Frames::default();
    frames.push(|w| w.raw(bytes));
    let payload = opening_of(&opened(frames));
    assert_eq!(payload.as_deref(), (bytes.len() <= MAX_HANDSHAKE_BYTES).then_some(bytes));
    payload.into_iter().for_each(calls_and_answers);
}

/// What follows on that connection. The first byte says in what pieces it arrives.
pub fn peer_frames(bytes: &[u8]) {
    let Some((&piece_bytes, stream)) = bytes.split_first() else { return };
    let (mut buffer, mut taken) = (BytesMut::new(), Frames::default());
    for piece in stream.chunks(usize::from(piece_bytes).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::take(&mut buffer, MAX_FRAME_BYTES) {
                Ok(Some(payload)) => {
                    let _ = node::Message::decode(payload.clone());
                    taken.push(|w| w.raw(&payload));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert_eq!([&taken.into_vec(), &buffer[..]].concat(), stream);
}

/// An address as it is configured, or as a peer gives it.
pub fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(address) = Address::parse(text) {
        // As it is dialled, which for all interfaces is localhost.
        let dialled = Address::parse(&address.to_string()).expect("what is shown is an address");
        assert_eq!(dialled.to_string(), address.to_string());
        assert!(address.is_on_all_interfaces() || dialled == address, "{address:?} is dialled as {dialled:?}");
    }
}

fn calls_and_answers(payload: Bytes) {
    let encoded = |encode: &dyn Fn(&mut base::codec::Writer)| {
        let mut w = base::codec::Writer::new();
        encode(&mut w);
        w.into_bytes()
    };
    if let Ok(call) = Call::decode(payload.clone()) {
        assert_eq!(Call::decode(encoded(&|w| call.encode(w))), Ok(call));
    }
    if let Ok(answer) = Answer::decode(payload) {
        assert_eq!(Answer::decode(encoded(&|w| answer.encode(w))), Ok(answer));
    }
}

/// The payload of the first frame, if a connection that ends behind these bytes has one.
fn opening_of(bytes: &[u8]) -> Option<Bytes> {
    let (mut stream, mut buffer) = (bytes, BytesMut::new());
    let read = pin!(opening(&mut stream, &mut buffer)).poll(&mut Context::from_waker(Waker::noop()));
    match read {
        Poll::Ready(read) => read.ok(),
        Poll::Pending => panic!("all that it reads is there"),
    }
}

#[cfg(test)]
#[path = "../../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_requests() {
        replay::corpus("server_http_requests", http_requests);
    }

    #[test]
    fn the_corpus_of_requests_to_v1() {
        replay::corpus("server_v1_requests", v1_requests);
    }

    #[test]
    fn the_corpus_of_answers_to_a_join() {
        replay::corpus("server_join_answer", join_answer);
    }

    #[test]
    fn the_corpus_of_handshakes() {
        replay::corpus("server_peer_handshake", peer_handshake);
    }

    #[test]
    fn the_corpus_of_frames() {
        replay::corpus("server_peer_frames", peer_frames);
    }

    #[test]
    fn the_corpus_of_addresses() {
        replay::corpus("server_address", address);
    }
}
