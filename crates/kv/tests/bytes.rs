//! What goes over the wire and to disk: it is read back as it was, and whatever else arrives is an error, never a panic.

use base::Position;
use base::codec::{Malformed, Reader, Writer};
use bytes::Bytes;
use kv::{
    Action, Answer, Command, Compare, Expired, Home, IdempotencyKey, KeyEnd, KeyRange, KeyValue, LoadError, Operation,
};
use kv::{Picture, Query, Refusal, Relation, RequestId, SessionId, Step, Store, Target, Transaction};
use proptest::collection::vec;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use storage::StorageError;
use storage::engine::AnyEngine;
use storage::engine::disk::DiskOptions;
use storage::files::{Files, MemFiles};
use xxhash_rust::xxh3::xxh3_64;

proptest! {
    #[test]
    fn a_command_is_read_back(command in command()) {
        prop_assert_eq!(Command::decode(command.encode()), Ok(command));
    }

    #[test]
    fn a_command_cut_short_or_with_more_behind_it_is_refused(command in command(), cut in any::<prop::sample::Index>()) {
        let bytes = command.encode();
        prop_assert!(Command::decode(bytes.slice(..cut.index(bytes.len()))).is_err());
        prop_assert!(Command::decode([&bytes[..], &[0]].concat().into()).is_err());
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in vec(any::<u8>(), 0..200), kind in 0..4u8) {
        let _ = Command::decode(Bytes::from(bytes.clone()));
        let _ = Command::decode([&[kind], &bytes[..]].concat().into());
        let _ = Answer::decode(&mut Reader::new(bytes.into()));
    }

    #[test]
    fn no_flipped_byte_makes_decoding_panic(command in command(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut bytes = command.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = Command::decode(bytes.into());
    }

    #[test]
    fn an_answer_is_read_back(revision: u64, changed: u32) {
        let refused = Refusal::ALL.map(Answer::Refused);
        let more = [
            Answer::Registered,
            Answer::Done { revision, changed },
            Answer::Decided { succeeded: changed % 2 == 0, revision, changed },
            Answer::Granted { lease: revision, ttl_seconds: u64::from(changed) },
        ];
        for answer in refused.into_iter().chain(more) {
            let mut writer = Writer::new();
            answer.encode(&mut writer);
            let mut reader = Reader::new(writer.into_bytes());
            prop_assert_eq!(Answer::decode(&mut reader), Ok(answer));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn no_bytes_make_loading_panic(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(load(&bytes, 50).is_err());
    }

    #[test]
    fn no_lie_in_a_note_makes_opening_panic(at in any::<prop::sample::Index>(), byte: u8, more in vec(any::<u8>(), 0..3)) {
        let (engine, note) = sample().apart().unwrap();
        let mut lie = note.to_vec();
        let at = at.index(lie.len());
        lie.splice(at..at + 1, std::iter::once(byte).chain(more));
        open_and_read(engine, lie.into());
    }

    /// Changes whose checksum is right, so that the checks of the content itself must hold: what is loaded all the same
    /// must work.
    #[test]
    fn no_lie_under_a_right_hash_makes_a_store_panic(at in any::<prop::sample::Index>(), byte: u8, more in vec(any::<u8>(), 0..3)) {
        let stream = stream(&sample());
        let end = stream.len() - END_BYTES;
        let mut lie = stream[..end].to_vec();
        let at = at.index(end);
        lie.splice(at..at + 1, std::iter::once(byte).chain(more));
        if let Ok(mut store) = load(&sealed(&lie), 64) {
            let view = store.view();
            for revision in view.compacted()..=view.revision().min(view.compacted() + 200) {
                let _ = view.at(revision).map(|picture| picture.range(b"", None).count());
            }
            let _ = view.changes(view.compacted(), KeyRange::all(), true).map(|changes| changes.take(200).count());
            drop(view);
            let position = Position { index: store.applied().index.saturating_add(1), term: u64::MAX };
            if position.index > store.applied().index {
                store.apply(position, &write(u64::MAX, 1, "idempotent", "a")).unwrap();
                let position = position_after(position);
                store.apply(position, &Command::Register { session: SessionId { node: 1, boot: u64::MAX } }).unwrap();
                store.apply(position_after(position), &act(Action::Compact { revision: store.revision() })).unwrap();
            }
            prop_assert!(load(&self::stream(&store), 64).is_ok());
        }
    }
}

#[test]
fn a_count_that_the_input_merely_claims_is_refused() {
    let operations = vec![Operation::Delete { key: Bytes::from("a") }; kv::MAX_OPERATIONS + 1];
    let request = RequestId { session: SessionId { node: 1, boot: 1 }, number: 1, low_water: 1 };
    let command = Command::Write { request, accepted_ms: 5, idempotency: None, operations };
    assert_eq!(Command::decode(command.encode()), Err(Malformed("count of operations")));
    let leases = vec![Expired { lease: 1, since: 1 }; kv::MAX_OPERATIONS + 1];
    assert_eq!(Command::decode(act(Action::Expire { leases }).encode()), Err(Malformed("count of leases")));
    // Spread over nested ones, too.
    let half = vec![Step::Range(Query::new(KeyRange::all())); kv::MAX_TRANSACTION_OPERATIONS / 2];
    let inner = Transaction { success: half.clone(), ..Transaction::default() };
    let transaction = Transaction { success: vec![Step::Transaction(inner)], failure: half, ..Transaction::default() };
    let command = act(Action::Transaction(transaction));
    assert_eq!(Command::decode(command.encode()), Err(Malformed("count of operations")));
}

#[test]
fn a_deep_transaction_does_not_take_the_stack() {
    let nest = |depth: usize| {
        (1..depth).fold(Transaction::default(), |inner, _| Transaction {
            failure: vec![Step::Transaction(inner)],
            ..Transaction::default()
        })
    };
    let deepest = act(Action::Transaction(nest(kv::MAX_TRANSACTION_DEPTH)));
    assert_eq!(Command::decode(deepest.encode()), Ok(deepest));
    let deeper = act(Action::Transaction(nest(kv::MAX_TRANSACTION_DEPTH + 1)));
    assert_eq!(Command::decode(deeper.encode()), Err(Malformed("depth of a transaction")));
}

/// The bytes of commands and checkpoints outlive the program that wrote them.
#[test]
fn the_bytes_of_a_command_stay_as_they_are() {
    let command = write(7, 5, "i", "key");
    let expected = b"\x02\x01\x01\x07\x05\x06\x05\x04\x03\x02\x01\0\0\x01\x01i\x2a\0\0\0\0\0\0\0\x02\x01\x03key\x05value\x02\x04gone";
    assert_eq!(command.encode(), &expected[..]);
    let register = Command::Register { session: SessionId { node: 1, boot: 300 } };
    assert_eq!(register.encode(), &b"\x01\x01\xac\x02"[..]);
    let compact = act(Action::Compact { revision: 300 });
    assert_eq!(compact.encode(), &b"\x03\0\x09\0\0\0\0\0\0\0\0\x01\xac\x02"[..]);
    let head = b"\x03\0\x09\0\0\0\0\0\0\0\0";
    let transaction = Transaction {
        compares: vec![Compare {
            keys: KeyRange::single("a"),
            relation: Relation::Less,
            target: Target::ModRevision(5),
        }],
        success: vec![Step::Put { key: "a".into(), value: "v".into(), lease: 9, previous: true }],
        failure: vec![Step::Delete { keys: KeyRange::from("b"), previous: false }],
    };
    let expected = b"\x02\x01\x01a\x01\x03\x04\x05\x01\x01\x01a\x01v\x09\x01\x01\x02\x01b\x03\0";
    assert_eq!(act(Action::Transaction(transaction)).encode(), [&head[..], expected].concat());
    let expire = Action::Expire { leases: vec![Expired { lease: 3, since: 300 }] };
    assert_eq!(act(expire).encode(), [&head[..], b"\x06\x01\x03\xac\x02"].concat());
}

#[test]
fn a_checkpoint_holds_everything_however_it_is_cut() {
    let store = sample();
    let stream = stream(&store);
    for block in [1, 2, 3, 7, 64, stream.len()] {
        let loaded = load(&stream, block).unwrap();
        assert_eq!(loaded.content_hash().unwrap(), store.content_hash().unwrap());
        assert_eq!((loaded.state_hash(), loaded.applied()), (store.state_hash(), store.applied()));
        assert_eq!((loaded.configuration(), loaded.len()), (store.configuration(), store.len()));
        for revision in store.view().compacted()..=store.revision() {
            let (found, expected) = (loaded.view().at(revision).unwrap(), store.view().at(revision).unwrap());
            assert_eq!(rows(&found), rows(&expected), "revision {revision}");
        }
        assert!(loaded.view().at(39).is_err());
        assert_eq!(self::stream(&loaded), stream);
    }
}

#[test]
fn every_flipped_byte_of_a_checkpoint_is_noticed() {
    let stream = stream(&sample());
    for at in 0..stream.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = stream.clone();
            damaged[at] ^= flip;
            assert!(load(&damaged, 100).is_err(), "byte {at} ^ {flip}");
        }
    }
}

#[test]
fn no_flipped_byte_of_a_note_makes_opening_panic() {
    let stream = stream(&sample());
    let apart = || load(&stream, 1000).unwrap().apart().unwrap();
    let (engine, note) = apart();
    assert_eq!(self::stream(&Store::open(engine, note.clone()).unwrap()), stream);
    let mut opened = 0;
    for at in 0..note.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = note.to_vec();
            damaged[at] ^= flip;
            opened += u32::from(open_and_read(apart().0, damaged.into()));
        }
        assert!(!open_and_read(apart().0, note.slice(..at)), "cut to {at}");
    }
    // Some of it is beyond judging, such as a session's answers: that is what the manifest's checksum is for.
    assert!(opened < note.len() as u32, "{opened} of {} bytes, three times each", note.len());
}

fn open_and_read(engine: AnyEngine, note: Bytes) -> bool {
    let Ok(opened) = Store::open(engine, note) else { return false };
    let view = opened.view();
    for revision in view.compacted()..=view.revision().min(view.compacted() + 200) {
        let _ = view.at(revision).map(|picture| picture.range(b"", None).count());
    }
    let _ = view.changes(view.compacted(), KeyRange::all(), true).map(|changes| changes.take(200).count());
    true
}

#[test]
fn a_checkpoint_cut_short_or_with_more_behind_it_is_refused() {
    let stream = stream(&sample());
    for length in 0..stream.len() {
        assert!(load(&stream[..length], 100).is_err(), "{length} of {} bytes", stream.len());
    }
    assert!(load(&[&stream[..], &[0]].concat(), 100).is_err());
}

/// Structure is checked on its own, not only by the hash: rows out of order, twice, or not as many as announced.
#[test]
fn a_checkpoint_whose_parts_do_not_fit_is_refused() {
    let stream = stream(&sample());
    let records = records(&stream);
    let without = |gone: usize| {
        let kept = records.iter().enumerate().filter(|(at, _)| *at != gone);
        sealed(&kept.flat_map(|(_, record)| record.clone()).collect::<Vec<u8>>())
    };
    assert!(load(&sealed(&records.concat()), 100).is_ok());
    for at in 0..records.len() {
        assert!(load(&without(at), 100).is_err(), "without record {at}");
        let mut twice = records.clone();
        twice.insert(at, records[at].clone());
        assert!(load(&sealed(&twice.concat()), 100).is_err(), "record {at} twice");
        if at > 0 {
            let mut swapped = records.clone();
            swapped.swap(at - 1, at);
            assert!(load(&sealed(&swapped.concat()), 100).is_err(), "record {at} before the one before it");
        }
    }
}

/// As many rows as there are keys with a lease, each of a lease that is there, but one names another key.
#[test]
fn a_lease_that_names_another_key_is_refused() {
    let stream = stream(&sample());
    let mut records = records(&stream);
    // Length; kind of the record; length of the row's key, which begins with its kind.
    let named = records.iter_mut().rfind(|record| record[1] == 3 && record[3] == 5).unwrap();
    let last = named.last_mut().unwrap();
    assert_eq!(*last, b'b');
    *last = b'c';
    assert!(load(&sealed(&records.concat()), 100).is_err());
}

#[test]
fn the_source_s_own_error_is_handed_on() {
    assert!(matches!(
        Store::load(kv::Home::Memory.engine().unwrap(), &mut || Err("no disk")),
        Err(LoadError::Source("no disk"))
    ));
    let failed = sample().frozen().write_to(&mut |_| Err(StorageError::damaged_row(b"", "full")));
    assert!(failed.unwrap_err().to_string().contains("full"));
}

/// A disk that was full while a snapshot was loaded was fuller after each try.
#[test]
fn of_what_can_t_be_loaded_nothing_stays_on_the_disk() {
    let files: Arc<dyn Files> = Arc::new(MemFiles::new());
    let folder = Path::new("/state");
    // So small that some of it is in tables early.
    let options = DiskOptions { table_bytes: 64, block_bytes: 32, ..DiskOptions::within(1 << 20) };
    let home = Home::Disk { files: files.clone(), folder: folder.into(), options };
    let stream = stream(&sample());
    let blocks: Vec<Bytes> = stream.chunks(100).map(Bytes::copy_from_slice).collect();
    let mut most = 0;
    for whole in 0..blocks.len() {
        let mut blocks = blocks[..whole].iter();
        let failed = Store::load(home.engine().unwrap(), &mut || {
            most = most.max(files.list(folder).unwrap().len());
            blocks.next().cloned().map(Some).ok_or("no disk")
        });
        assert!(matches!(failed, Err(LoadError::Source("no disk"))));
        assert_eq!(files.list(folder).unwrap(), Vec::<String>::new());
    }
    assert!(most > 1, "only marks of engines were ever there");
    let mut blocks = blocks.into_iter();
    Store::load(home.engine().unwrap(), &mut || Ok::<_, ()>(blocks.next())).unwrap();
    assert!(home.open().unwrap().is_some());
}

/// A large state is written and read piece by piece.
#[test]
fn a_large_checkpoint_travels_in_small_pieces() {
    let mut store = Store::in_memory();
    let session = SessionId { node: 1, boot: 1 };
    store.apply(Position { index: 1, term: 1 }, &Command::Register { session }).unwrap();
    for at in 1..=200u64 {
        let request = RequestId { session, number: at, low_water: at };
        let key = Bytes::copy_from_slice(&at.to_be_bytes());
        let operations = vec![Operation::Put { key, value: vec![b'v'; 20_000].into() }];
        let command = Command::Write { request, accepted_ms: 5, idempotency: None, operations };
        store.apply(Position { index: at + 1, term: 1 }, &command).unwrap();
    }
    let mut largest = 0;
    let written = store.frozen().write_to(&mut |piece| {
        largest = largest.max(piece.len());
        Ok::<(), StorageError>(())
    });
    written.unwrap();
    assert!((20_000..100_000).contains(&largest), "{largest} bytes in one piece");
    assert_eq!(load(&stream(&store), 4096).unwrap().content_hash().unwrap(), store.content_hash().unwrap());
}

const END_BYTES: usize = 10;

/// Something of everything: members, two sessions with answers, keys, idempotency keys, a past and its beginning.
fn sample() -> Store {
    let mut store = Store::in_memory();
    let mut position = Position { index: 3, term: 2 };
    store.set_configuration(position, Bytes::from("members 1 and 2"), &[1, 2]);
    for node in [1, 2] {
        position = position_after(position);
        store.apply(position, &Command::Register { session: SessionId { node, boot: 1 } }).unwrap();
    }
    for (number, (idempotency, key)) in [("x", "a"), ("w", "bb"), ("x", "c"), ("y", "d"), ("z", "e")].iter().enumerate()
    {
        position = position_after(position);
        store.apply(position, &write(number as u64 * 2 + 1, 1, idempotency, key)).unwrap();
    }
    for number in 20..100 {
        position = position_after(position);
        store.apply(position, &small_write(number)).unwrap();
    }
    position = position_after(position);
    store.apply(position, &act(Action::Compact { revision: 40 })).unwrap();
    for (lease, keys) in [(7, &["a", "0"][..]), (8, &["bb"]), (9, &[])] {
        position = position_after(position);
        store.apply(position, &act(Action::Grant { lease, ttl_seconds: 60 + lease })).unwrap();
        let put =
            |key: &&str| Step::Put { key: key.to_string().into(), value: "leased".into(), lease, previous: false };
        let success = keys.iter().map(put).collect();
        position = position_after(position);
        store.apply(position, &act(Action::Transaction(Transaction { success, ..Transaction::default() }))).unwrap();
    }
    assert_eq!(store.view().lease_count(), 3);
    store
}

/// Puts and deletes turn by turn.
fn small_write(number: u64) -> Command {
    let session = SessionId { node: 1, boot: 1 };
    let key = Bytes::copy_from_slice(&[b'0' + (number % 5) as u8]);
    let operation =
        if number % 4 == 3 { Operation::Delete { key } } else { Operation::Put { key, value: Bytes::from("v") } };
    let request = RequestId { session, number, low_water: 1 };
    Command::Write { request, accepted_ms: 7, idempotency: None, operations: vec![operation] }
}

fn act(action: Action) -> Command {
    Command::Act { request: None, accepted_ms: 9, idempotency: None, action }
}

fn write(number: u64, low_water: u64, idempotency: &str, key: &str) -> Command {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Command::Write {
        request: RequestId { session: SessionId { node: 1, boot: 1 }, number, low_water },
        accepted_ms: 0x0102_0304_0506,
        idempotency: Some(IdempotencyKey { key: copy(idempotency), fingerprint: 42 }),
        operations: vec![
            Operation::Put { key: copy(key), value: copy("value") },
            Operation::Delete { key: copy("gone") },
        ],
    }
}

fn position_after(position: Position) -> Position {
    Position { index: position.index.saturating_add(1), ..position }
}

fn stream(store: &Store) -> Vec<u8> {
    let mut stream = Vec::new();
    let written = store.frozen().write_to(&mut |piece| {
        stream.extend_from_slice(piece);
        Ok::<(), StorageError>(())
    });
    written.unwrap();
    stream
}

fn rows(picture: &Picture) -> Vec<(Bytes, KeyValue)> {
    picture.range(b"", None).map(Result::unwrap).collect()
}

fn load(stream: &[u8], block: usize) -> Result<Store, LoadError<()>> {
    let mut blocks = stream.chunks(block).map(Bytes::copy_from_slice);
    Store::load(kv::Home::Memory.engine().unwrap(), &mut || Ok(blocks.next()))
}

/// The records but the last, which holds the hash; written for records shorter than 16,384 bytes.
fn records(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &stream[..stream.len() - END_BYTES];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (low, high) = (usize::from(rest[0]), usize::from(rest[1]));
        let length = if low < 128 { 1 + low } else { 2 + (low & 127) + (high << 7) };
        records.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
    records
}

/// With a last record whose hash is right.
fn sealed(records: &[u8]) -> Vec<u8> {
    [records, &[9, 4], &xxh3_64(records).to_le_bytes()].concat()
}

fn command() -> impl Strategy<Value = Command> {
    let session = (any::<u64>(), any::<u64>()).prop_map(|(node, boot)| SessionId { node, boot });
    let request = (session.clone(), any::<u64>(), any::<u64>());
    let request = request.prop_map(|(session, number, low_water)| RequestId { session, number, low_water });
    let idempotency = (blob(300), any::<u64>()).prop_map(|(key, fingerprint)| IdempotencyKey { key, fingerprint });
    let operation = prop_oneof![
        (blob(100), blob(1000)).prop_map(|(key, value)| Operation::Put { key, value }),
        blob(100).prop_map(|key| Operation::Delete { key }),
    ];
    let act = (prop::option::of(request.clone()), any::<u64>(), prop::option::of(idempotency.clone()), action());
    let act = act.prop_map(|(request, accepted_ms, idempotency, action)| Command::Act {
        request,
        accepted_ms,
        idempotency,
        action,
    });
    let write = (request, any::<u64>(), prop::option::of(idempotency), vec(operation, 0..10));
    let write = write.prop_map(|(request, accepted_ms, idempotency, operations)| Command::Write {
        request,
        accepted_ms,
        idempotency,
        operations,
    });
    prop_oneof![
        1 => session.prop_map(|session| Command::Register { session }),
        9 => write,
        9 => act,
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let number = any::<u64>;
    let expired = (number(), number()).prop_map(|(lease, since)| Expired { lease, since });
    prop_oneof![
        1 => number().prop_map(|revision| Action::Compact { revision }),
        1 => (number(), number()).prop_map(|(lease, ttl_seconds)| Action::Grant { lease, ttl_seconds }),
        1 => number().prop_map(|lease| Action::KeepAlive { lease }),
        1 => number().prop_map(|lease| Action::Revoke { lease }),
        1 => vec(expired, 0..5).prop_map(|leases| Action::Expire { leases }),
        4 => transaction().prop_map(Action::Transaction),
    ]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let flat = (vec(compare(), 0..4), vec(step(), 0..4), vec(step(), 0..4));
    let flat = flat.prop_map(|(compares, success, failure)| Transaction { compares, success, failure });
    flat.prop_recursive(3, 20, 3, |inner| {
        (vec(compare(), 0..3), vec(prop_oneof![step(), inner.prop_map(Step::Transaction)], 0..4))
            .prop_map(|(compares, failure)| Transaction { compares, success: Vec::new(), failure })
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation = prop::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    let target = prop_oneof![
        blob(50).prop_map(Target::Value),
        any::<u64>().prop_map(Target::Version),
        any::<u64>().prop_map(Target::CreateRevision),
        any::<u64>().prop_map(Target::ModRevision),
        any::<u64>().prop_map(Target::Lease),
        any::<bool>().prop_map(Target::Exists),
    ];
    (range(), relation, target).prop_map(|(keys, relation, target)| Compare { keys, relation, target })
}

fn step() -> impl Strategy<Value = Step> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let query = (range(), prop::option::of(blob(20)), prop::option::of(any::<u64>()), flags);
    let query = query.prop_map(|(keys, after, limit, (descending, keys_only, count))| Query {
        keys,
        descending,
        after,
        limit,
        keys_only,
        count,
    });
    prop_oneof![
        (blob(50), blob(50), any::<u64>(), any::<bool>()).prop_map(|(key, value, lease, previous)| Step::Put {
            key,
            value,
            lease,
            previous
        }),
        (range(), any::<bool>()).prop_map(|(keys, previous)| Step::Delete { keys, previous }),
        query.prop_map(Step::Range),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![Just(KeyEnd::Single), blob(20).prop_map(KeyEnd::Before), Just(KeyEnd::Last)];
    (blob(20), end).prop_map(|(start, end)| KeyRange { start, end })
}

fn blob(bytes: usize) -> impl Strategy<Value = Bytes> + Clone {
    vec(any::<u8>(), 0..bytes).prop_map(Bytes::from)
}
