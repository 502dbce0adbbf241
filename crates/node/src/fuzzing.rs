//! What reading a peer's message, or the members, holds to: it never panics, and what is accepted is read again as the
//! same.
//!
//! Each function is a fuzz target (`fuzz/`), and the tests replay what is kept of its corpus.
//!
//! Not handled: what a message does to a node.

use crate::Message;
use crate::membership::{Configuration, MemberChange};
use base::codec::{Reader, Writer};
use bytes::Bytes;

pub fn message(bytes: &[u8]) {
    let encoded = |message: &Message| {
        let mut w = Writer::new();
        message.encode(&mut w);
        w.into_bytes()
    };
    if let Ok(message) = Message::decode(Bytes::copy_from_slice(bytes)) {
        let written = encoded(&message);
        let again = Message::decode(written.clone()).expect("what was encoded is decoded");
        assert_eq!(encoded(&again), written);
    }
}

/// A configuration behind its length, then a change of it.
pub fn membership(bytes: &[u8]) {
    let mut r = Reader::new(Bytes::copy_from_slice(bytes));
    let configuration = r.blob().unwrap_or_default();
    let Ok(mut configuration) = Configuration::decode(configuration) else { return };
    assert_eq!(Configuration::decode(configuration.encode()), Ok(configuration.clone()));
    let Ok(change) = MemberChange::decode(r.rest()) else { return };
    assert_eq!(MemberChange::decode(change.encode()), Ok(change.clone()));
    if configuration.admits(&change) {
        let voters = configuration.voters.clone();
        configuration.apply(&change, voters);
        assert_eq!(Configuration::decode(configuration.encode()), Ok(configuration));
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_messages() {
        replay::corpus("node_message", message);
    }

    #[test]
    fn the_corpus_of_the_membership() {
        replay::corpus("node_membership", membership);
    }
}
