//! What reading commands and checkpoints holds to, whatever they say. It never panics; what is accepted is read again as
//! the same; and a store goes on from it.
//!
//! Each function is a fuzz target (`fuzz/`), and the tests replay what is kept of its corpus.

use crate::checkpoint::END;
use crate::{Command, Operation, RequestId, SessionId, Store};
use base::Position;
use base::codec::{Reader, Writer};
use bytes::Bytes;
use std::convert::Infallible;
use storage::StorageError;
use xxhash_rust::xxh3::xxh3_64;

/// What log entries hold, one after the other, each behind its length.
pub fn commands(bytes: &[u8]) {
    let mut entries = Reader::new(Bytes::copy_from_slice(bytes));
    let mut store = Store::in_memory();
    let mut position = Position { index: 0, term: 1 };
    while entries.remaining() > 0 {
        let entry = entries.blob().unwrap_or_else(|_| entries.rest());
        position.index += 1;
        match Command::decode(entry) {
            Ok(command) => {
                assert_eq!(Command::decode(command.encode()), Ok(command.clone()));
                store.apply(position, &command).expect(IN_MEMORY);
            }
            Err(_) => store.apply_empty(position).expect(IN_MEMORY),
        }
    }
    assert_is_read_again(&store);
}

/// A checkpoint's stream, as it is and as one whose end has the right hash.
pub fn checkpoint(bytes: &[u8]) {
    let mut end = Writer::new();
    end.u8(END);
    end.u64(xxh3_64(bytes));
    let mut length = Writer::new();
    length.varint(end.len() as u64);
    for stream in [bytes, &[bytes, length.as_slice(), end.as_slice()].concat()] {
        if let Some(mut store) = load(stream, 50) {
            assert_is_read_again(&store);
            go_on(&mut store);
            assert_is_read_again(&store);
        }
    }
}

fn go_on(store: &mut Store) {
    let Position { index, term } = store.applied();
    let session = SessionId { node: 1, boot: u64::MAX };
    store.apply(Position { index: index + 1, term }, &Command::Register { session }).expect(IN_MEMORY);
    let view = store.view();
    let keys = view.range(b"", None).map(|row| row.expect(IN_MEMORY).0);
    let mut operations: Vec<Operation> = keys.map(|key| Operation::Delete { key }).collect();
    operations.push(Operation::Put { key: Bytes::from("k"), value: Bytes::from("v") });
    let request = RequestId { session, number: 1, low_water: 1 };
    let write = Command::Write { request, accepted_ms: 0, idempotency: None, operations };
    store.apply(Position { index: index + 2, term }, &write).expect(IN_MEMORY);
}

fn assert_is_read_again(store: &Store) {
    let mut stream = Vec::new();
    let written = store.frozen().write_to(&mut |piece| {
        stream.extend_from_slice(piece);
        Ok::<(), StorageError>(())
    });
    written.expect(IN_MEMORY);
    let again = load(&stream, 64).expect("what was written is loaded");
    assert_eq!((again.applied(), again.state_hash()), (store.applied(), store.state_hash()));
    assert_eq!(again.content_hash().expect(IN_MEMORY), store.content_hash().expect(IN_MEMORY));
    assert_eq!(again.view().range(b"", None).count() as u64, store.len());
}

fn load(stream: &[u8], block_bytes: usize) -> Option<Store> {
    let mut blocks = stream.chunks(block_bytes).map(Bytes::copy_from_slice);
    Store::load(crate::Home::Memory.engine().unwrap(), &mut || Ok::<_, Infallible>(blocks.next())).ok()
}

const IN_MEMORY: &str = "the engine in memory never fails, and holds what was put into it";

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_commands() {
        replay::corpus("kv_commands", commands);
    }

    #[test]
    fn the_corpus_of_checkpoints() {
        replay::corpus("kv_checkpoint", checkpoint);
    }
}
