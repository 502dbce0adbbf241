//! Readers on other threads see the published views only, each whole, while the store moves on; and a checkpoint
//! written on another thread is of one moment.
#![allow(clippy::disallowed_methods, reason = "views are read and checkpoints written on other threads")]

use base::Position;
use bytes::Bytes;
use kv::{Command, Operation, RequestId, SessionId, Store, View};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::StorageError;

const KEYS: u64 = 10;
const WRITES: u64 = 20_000;

#[test]
fn readers_on_other_threads_see_whole_batches_of_published_views() {
    let mut store = Store::in_memory();
    let session = SessionId { node: 1, boot: 1 };
    store.apply(Position { index: 1, term: 1 }, &Command::Register { session }).unwrap();
    let published = RwLock::new(store.view());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let view: View = published.read().unwrap().clone();
                    assert!(view.revision() >= last);
                    last = view.revision();
                    check(&view);
                }
            });
        }
        for number in 1..=WRITES {
            store.apply(Position { index: number + 1, term: 1 }, &write(session, number)).unwrap();
            if number % 7 == 0 {
                *published.write().unwrap() = store.view();
            }
            if number % (WRITES / 4) == 0 {
                let (frozen, hash) = (store.frozen(), store.state_hash());
                scope.spawn(move || {
                    let mut blocks = Vec::new();
                    let written = frozen.write_to(&mut |piece| {
                        blocks.push(Bytes::copy_from_slice(piece));
                        Ok::<(), StorageError>(())
                    });
                    written.unwrap();
                    let mut blocks = blocks.into_iter();
                    let loaded =
                        Store::load(kv::Home::Memory.engine().unwrap(), &mut || Ok::<_, ()>(blocks.next())).unwrap();
                    assert_eq!((loaded.state_hash(), loaded.revision()), (hash, number));
                    check(&loaded.view());
                });
            }
        }
        done.store(true, Ordering::Release);
    });
}

/// Every write puts its number into every key; every fifth deletes all but one.
fn write(session: SessionId, number: u64) -> Command {
    let operations = (0..KEYS).map(|key| {
        let key = Bytes::copy_from_slice(&key.to_be_bytes());
        match number % 5 {
            0 if key[7] > 0 => Operation::Delete { key },
            _ => Operation::Put { key, value: Bytes::copy_from_slice(&number.to_le_bytes()) },
        }
    });
    let request = RequestId { session, number, low_water: number };
    Command::Write { request, accepted_ms: 0, idempotency: None, operations: operations.collect() }
}

fn check(view: &View) {
    let number = view.revision();
    let keys = if number == 0 {
        0
    } else if number.is_multiple_of(5) {
        1
    } else {
        KEYS
    };
    assert_eq!((view.len(), view.range(b"", None).count() as u64), (keys, keys), "at revision {number}");
    for (_, key_value) in view.range(b"", None).rev().map(Result::unwrap) {
        assert_eq!((key_value.mod_revision, &key_value.value[..]), (number, &number.to_le_bytes()[..]));
    }
}
