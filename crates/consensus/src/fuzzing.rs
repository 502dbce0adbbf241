//! What reading a Raft message holds to: it never panics, and what is accepted is read again as the same.
//!
//! A fuzz target (`fuzz/`); the tests replay what is kept of its corpus.
//!
//! Not handled: what a message does to a replica.

use crate::Message;
use base::codec::{Reader, Writer};
use bytes::Bytes;

pub fn message(bytes: &[u8]) {
    let Ok(message) = Message::decode(&mut Reader::new(Bytes::copy_from_slice(bytes))) else { return };
    let mut w = Writer::new();
    message.encode(&mut w);
    let mut r = Reader::new(w.into_bytes());
    let again = Message::decode(&mut r).expect("what was encoded is decoded");
    assert_eq!(again.0, message.0);
    r.finish().expect("nothing is left");
    assert_ne!(message.kind(), "local");
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_messages() {
        replay::corpus("consensus_message", message);
    }
}
