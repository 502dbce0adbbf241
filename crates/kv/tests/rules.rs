//! The rules of the store, one by one.

use base::{NodeId, Position};
use bytes::Bytes;
use kv::fingerprint;
use kv::{Action, Answer, Command, Compare, Decided, Expired, IdempotencyKey, KeyRange, KeyValue, Operation};
use kv::{MAX_IDEMPOTENCY_KEYS, MAX_KEY_BYTES, MAX_VALUE_BYTES, OutOfReach, OverLimit, Picture, Query, Refusal};
use kv::{Relation, RequestId, SessionId, Step, StepResult, Store, Target, Transaction, View, WINDOW};
use storage::StorageError;

/// A store with a session of node 1, boot 1, and an index that counts itself up.
struct Life {
    store: Store,
    index: u64,
    number: u64,
}

impl Life {
    fn new() -> Life {
        let mut life = Life { store: Store::in_memory(), index: 0, number: 0 };
        assert_eq!(life.register(1, 1), Answer::Registered);
        life
    }

    fn apply(&mut self, command: &Command) -> Answer {
        self.index += 1;
        self.store.apply(Position { index: self.index, term: 1 }, command).unwrap()
    }

    fn register(&mut self, node: NodeId, boot: u64) -> Answer {
        self.apply(&Command::Register { session: SessionId { node, boot } })
    }

    fn request(&mut self, request: RequestId, operations: &[Operation]) -> Answer {
        self.apply(&Command::Write { request, accepted_ms: 0, idempotency: None, operations: operations.to_vec() })
    }

    /// A request that was never sent before.
    fn write(&mut self, operations: &[Operation]) -> Answer {
        self.number += 1;
        self.request(id(1, 1, self.number, 1), operations)
    }

    fn act(&mut self, action: Action) -> Answer {
        self.number += 1;
        let request = Some(id(1, 1, self.number, 1));
        self.apply(&Command::Act { request, accepted_ms: 6, idempotency: None, action })
    }

    /// A transaction that is carried out.
    fn decide(&mut self, transaction: Transaction) -> (Answer, Decided) {
        self.number += 1;
        self.index += 1;
        let request = Some(id(1, 1, self.number, 1));
        let action = Action::Transaction(transaction);
        let command = Command::Act { request, accepted_ms: 6, idempotency: None, action };
        let (answer, decided) = self.store.apply_for(Position { index: self.index, term: 1 }, &command).unwrap();
        (answer, decided.unwrap_or_default())
    }

    fn write_once(&mut self, key: &str, body: &str, operations: &[Operation]) -> Answer {
        self.number += 1;
        let (key, fingerprint) = (Bytes::copy_from_slice(key.as_bytes()), fingerprint([body.as_bytes()]));
        self.apply(&Command::Write {
            request: id(1, 1, self.number, self.number),
            accepted_ms: 0,
            idempotency: Some(IdempotencyKey { key, fingerprint }),
            operations: operations.to_vec(),
        })
    }
}

#[test]
fn revisions_and_versions_count_as_in_etcd() {
    let mut life = Life::new();
    assert_eq!(life.write(&[put("a", "1")]), done(1, 1));
    assert_eq!(life.write(&[put("b", "1")]), done(2, 1));
    assert_eq!(life.write(&[put("a", "2")]), done(3, 1));
    assert_eq!(get(&life.store.view(), "a"), Some(("2".into(), 1, 3, 2)));
    assert_eq!(get(&life.store.view(), "b"), Some(("1".into(), 2, 2, 1)));

    // The same value again is a change.
    assert_eq!(life.write(&[put("b", "1")]), done(4, 1));
    assert_eq!(get(&life.store.view(), "b"), Some(("1".into(), 2, 4, 2)));

    // A deleted key starts over.
    assert_eq!(life.write(&[delete("a")]), done(5, 1));
    assert_eq!(get(&life.store.view(), "a"), None);
    assert_eq!(life.write(&[put("a", "3")]), done(6, 1));
    assert_eq!(get(&life.store.view(), "a"), Some(("3".into(), 6, 6, 1)));
    assert_eq!((life.store.len(), life.store.revision()), (2, 6));
}

/// Clocks differ and jump: what was accepted last counts, not what claims to be newest.
#[test]
fn the_time_of_the_last_write_is_a_part_of_the_state() {
    let mut life = Life::new();
    assert_eq!(life.store.view().accepted_ms(), 0);
    let write = |number, accepted_ms| Command::Write {
        request: id(1, 1, number, 1),
        accepted_ms,
        idempotency: None,
        operations: vec![put("a", "1")],
    };
    for (number, accepted_ms) in [(1, 900), (2, 300), (3, 500), (2, 300)] {
        life.apply(&write(number, accepted_ms));
        assert_eq!(life.store.view().accepted_ms(), accepted_ms);
    }
    let mut again = reload(&life.store);
    assert_eq!((again.view().accepted_ms(), again.content_hash().unwrap()), (300, life.store.content_hash().unwrap()));
    life.register(2, 1);
    assert_eq!(life.store.view().accepted_ms(), 300, "no write");

    let position = Position { index: life.index, term: 1 };
    again.apply(position, &Command::Register { session: SessionId { node: 2, boot: 1 } }).unwrap();
    assert_eq!(again.state_hash(), life.store.state_hash());
    let position = Position { index: life.index + 1, term: 1 };
    again.apply(position, &write(4, 7)).unwrap();
    life.apply(&write(4, 8));
    assert_ne!(again.state_hash(), life.store.state_hash());
}

#[test]
fn what_changes_nothing_takes_no_revision() {
    let mut life = Life::new();
    assert_eq!(life.write(&[delete("a")]), done(0, 0));
    assert_eq!(life.write(&[]), done(0, 0));
    assert_eq!(life.write(&[put("a", "1")]), done(1, 1));
    assert_eq!(life.write(&[delete("b"), delete("c")]), done(1, 0));
    assert_eq!(life.write(&[delete("a"), delete("b")]), done(2, 1));
    assert_eq!(life.write(&[delete("a")]), done(2, 0));
    // The key was not there before and is not there after.
    assert_eq!(life.write(&[put("a", "1"), delete("a")]), done(2, 0));
    life.index += 1;
    life.store.apply_empty(Position { index: life.index, term: 2 }).unwrap();
    assert_eq!(life.store.revision(), 2);
    assert!(life.store.is_empty());
}

#[test]
fn a_batch_takes_one_revision_and_counts_each_key_once() {
    let mut life = Life::new();
    assert_eq!(life.write(&[put("a", "1"), put("b", "1"), put("c", "1")]), done(1, 3));
    assert_eq!(life.write(&[put("a", "2"), delete("b"), put("d", "1"), delete("e")]), done(2, 3));
    let view = life.store.view();
    assert_eq!(get(&view, "a"), Some(("2".into(), 1, 2, 2)));
    assert_eq!(get(&view, "b"), None);
    assert_eq!(get(&view, "d"), Some(("1".into(), 2, 2, 1)));
    assert_eq!(life.store.len(), 3);

    // Of several operations on a key only the last counts: `a` is one version on, `c` was never away.
    assert_eq!(life.write(&[put("a", "3"), put("a", "4"), delete("c"), put("c", "2")]), done(3, 2));
    let view = life.store.view();
    assert_eq!(get(&view, "a"), Some(("4".into(), 1, 3, 3)));
    assert_eq!(get(&view, "c"), Some(("2".into(), 1, 3, 2)));
    assert_eq!(life.write(&[put("a", "5"), delete("a")]), done(4, 1));
    assert_eq!(get(&life.store.view(), "a"), None);
}

#[test]
fn a_request_sent_again_is_applied_once() {
    let mut life = Life::new();
    assert_eq!(life.request(id(1, 1, 1, 1), &[put("a", "1")]), done(1, 1));
    assert_eq!(life.request(id(1, 1, 2, 1), &[put("a", "2")]), done(2, 1));
    assert_eq!(life.request(id(1, 1, 1, 1), &[put("a", "1")]), done(1, 1));
    assert_eq!(get(&life.store.view(), "a"), Some(("2".into(), 1, 2, 2)));

    // Numbers may come in any order.
    assert_eq!(life.request(id(1, 1, 7, 1), &[put("b", "1")]), done(3, 1));
    assert_eq!(life.request(id(1, 1, 5, 1), &[put("c", "1")]), done(4, 1));
    assert_eq!(life.request(id(1, 1, 7, 1), &[put("b", "1")]), done(3, 1));
}

#[test]
fn what_is_below_the_low_water_mark_is_stale() {
    let mut life = Life::new();
    assert_eq!(life.request(id(1, 1, 1, 1), &[put("a", "1")]), done(1, 1));
    assert_eq!(life.request(id(1, 1, 3, 3), &[put("a", "3")]), done(2, 1));
    assert_eq!(life.request(id(1, 1, 1, 1), &[put("a", "1")]), refused(Refusal::Stale));
    // Never applied, but given up.
    assert_eq!(life.request(id(1, 1, 2, 1), &[put("a", "2")]), refused(Refusal::Stale));
    // An older claim does not lower the mark, and a claim beyond the request's own number makes it stale itself.
    assert_eq!(life.request(id(1, 1, 4, 1), &[put("a", "4")]), done(3, 1));
    assert_eq!(life.request(id(1, 1, 2, 1), &[put("a", "2")]), refused(Refusal::Stale));
    assert_eq!(life.request(id(1, 1, 5, 9), &[put("a", "5")]), refused(Refusal::Stale));
    assert_eq!(life.request(id(1, 1, 8, 1), &[put("a", "8")]), refused(Refusal::Stale));
    assert_eq!(life.request(id(1, 1, 0, 0), &[put("a", "0")]), refused(Refusal::Stale));
    assert_eq!(life.request(id(1, 1, 10, u64::MAX), &[put("a", "0")]), refused(Refusal::Stale));
    assert_eq!(life.request(id(1, 1, u64::MAX, 1), &[put("a", "end")]), done(4, 1));
    assert_eq!(get(&life.store.view(), "a"), Some(("end".into(), 1, 4, 4)));
}

#[test]
fn numbers_far_ahead_of_the_low_water_mark_are_refused() {
    let mut life = Life::new();
    assert_eq!(life.request(id(1, 1, WINDOW, 1), &[put("a", "1")]), done(1, 1));
    assert_eq!(life.request(id(1, 1, WINDOW + 1, 1), &[put("a", "2")]), refused(Refusal::WindowExceeded));
    assert_eq!(life.store.answer(&id(1, 1, WINDOW + 1, 1)), None);
    assert_eq!(life.request(id(1, 1, WINDOW + 1, 2), &[put("a", "3")]), done(2, 1));
    assert_eq!(life.request(id(1, 1, u64::MAX, 2), &[put("a", "4")]), refused(Refusal::WindowExceeded));
    assert_eq!(life.request(id(1, 1, WINDOW, 2), &[put("a", "1")]), done(1, 1));
}

#[test]
fn a_newer_boot_replaces_an_older_one() {
    let mut life = Life::new();
    assert_eq!(life.request(id(1, 1, 1, 1), &[put("a", "1")]), done(1, 1));
    assert_eq!(life.request(id(1, 2, 1, 1), &[put("a", "2")]), refused(Refusal::UnknownSession));
    assert_eq!(life.register(1, 2), Answer::Registered);
    assert_eq!(life.store.session(1), Some(2));
    assert_eq!(life.request(id(1, 1, 2, 1), &[put("a", "2")]), refused(Refusal::OlderBoot));
    assert_eq!(life.request(id(1, 1, 1, 1), &[put("a", "1")]), refused(Refusal::OlderBoot));
    assert_eq!(life.register(1, 1), refused(Refusal::OlderBoot));
    assert_eq!(life.request(id(1, 2, 1, 1), &[put("a", "3")]), done(2, 1));
    // Registering the same boot again forgets nothing.
    assert_eq!(life.register(1, 2), Answer::Registered);
    assert_eq!(life.request(id(1, 2, 1, 1), &[put("a", "3")]), done(2, 1));
    assert_eq!(life.request(id(2, 1, 1, 1), &[put("a", "4")]), refused(Refusal::UnknownSession));
    assert_eq!(get(&life.store.view(), "a"), Some(("3".into(), 1, 2, 2)));
}

#[test]
fn a_node_learns_what_became_of_its_requests() {
    let mut life = Life::new();
    assert_eq!(life.store.answer(&id(1, 1, 1, 1)), None);
    life.request(id(1, 1, 1, 1), &[put("a", "1")]);
    life.request(id(1, 1, 3, 1), &[delete("b")]);
    assert_eq!(life.store.answer(&id(1, 1, 1, 1)), Some(done(1, 1)));
    assert_eq!(life.store.answer(&id(1, 1, 2, 1)), None);
    assert_eq!(life.store.answer(&id(1, 1, 3, 1)), Some(done(1, 0)));
    life.request(id(1, 1, 4, 4), &[]);
    assert_eq!(life.store.answer(&id(1, 1, 2, 1)), Some(refused(Refusal::Stale)));
    assert_eq!(life.store.answer(&id(1, 2, 1, 1)), None);
    life.register(1, 3);
    assert_eq!(life.store.answer(&id(1, 2, 1, 1)), Some(refused(Refusal::OlderBoot)));
    // Nobody knows node 2, but it may still register; once there are members and it is not among them, it can't.
    assert_eq!(life.store.answer(&id(2, 1, 1, 1)), None);
    life.index += 1;
    life.store.set_configuration(Position { index: life.index, term: 1 }, Bytes::from("c"), &[1]);
    assert_eq!(life.store.answer(&id(2, 1, 1, 1)), Some(refused(Refusal::UnknownSession)));
}

#[test]
fn only_members_have_sessions() {
    let mut life = Life { store: Store::in_memory(), index: 0, number: 0 };
    life.store.set_configuration(Position::default(), Bytes::from("first"), &[1, 2]);
    assert_eq!(life.register(1, 1), Answer::Registered);
    assert_eq!(life.register(2, 1), Answer::Registered);
    assert_eq!(life.register(3, 1), refused(Refusal::NotAMember));
    assert_eq!(life.store.session(3), None);

    life.index += 1;
    life.store.set_configuration(Position { index: life.index, term: 1 }, Bytes::from("second"), &[1, 3]);
    assert_eq!(life.store.configuration(), "second");
    assert_eq!((life.store.session(1), life.store.session(2)), (Some(1), None));
    assert_eq!(life.request(id(2, 1, 1, 1), &[put("a", "1")]), refused(Refusal::UnknownSession));
    assert_eq!(life.register(2, 1), refused(Refusal::NotAMember));
    assert_eq!(life.register(3, 1), Answer::Registered);
}

#[test]
fn an_idempotency_key_gives_the_first_answer_in_any_session() {
    let mut life = Life::new();
    assert_eq!(life.write_once("k", "body", &[put("a", "1")]), done(1, 1));
    assert_eq!(life.write(&[put("a", "2")]), done(2, 1));
    assert_eq!(life.write_once("k", "body", &[put("a", "1")]), done(1, 1));
    assert_eq!(life.write_once("k", "other", &[put("a", "3")]), refused(Refusal::KeyReused));
    assert_eq!(life.write_once("l", "body", &[put("a", "4")]), done(3, 1));
    // Also where nothing was changed.
    assert_eq!(life.write_once("m", "body", &[delete("b")]), done(3, 0));
    assert_eq!(life.write(&[put("b", "1")]), done(4, 1));
    assert_eq!(life.write_once("m", "body", &[delete("b")]), done(3, 0));

    life.register(1, 2);
    let again = IdempotencyKey { key: Bytes::from("k"), fingerprint: fingerprint([&b"body"[..]]) };
    let again = Command::Write {
        request: id(1, 2, 1, 1),
        accepted_ms: 0,
        idempotency: Some(again),
        operations: vec![put("a", "1")],
    };
    assert_eq!(life.apply(&again), done(1, 1));
    assert_eq!(get(&life.store.view(), "a"), Some(("4".into(), 1, 3, 3)));
    assert_eq!(life.store.answer(&id(1, 2, 1, 1)), Some(done(1, 1)));
}

#[test]
fn the_oldest_idempotency_key_is_forgotten_first() {
    let mut life = Life::new();
    let count = MAX_IDEMPOTENCY_KEYS as u64;
    for at in 1..=count {
        assert_eq!(life.write_once(&at.to_string(), "", &[put("a", "")]), done(at, 1));
    }
    assert_eq!(life.write_once("1", "", &[put("a", "")]), done(1, 1));
    assert_eq!(life.write_once("one more", "", &[put("a", "")]), done(count + 1, 1));
    assert_eq!(life.write_once("2", "", &[put("a", "")]), done(2, 1));
    // A new key again, which makes room for itself at the cost of the second.
    assert_eq!(life.write_once("1", "", &[put("a", "")]), done(count + 2, 1));
    let mut life = Life { store: reload(&life.store), ..life };
    assert_eq!(life.write_once("3", "", &[put("a", "")]), done(3, 1));
    assert_eq!(life.write_once("2", "", &[put("a", "")]), done(count + 3, 1));
    assert_eq!(life.write_once("3", "", &[put("a", "")]), done(count + 4, 1));
    assert_eq!(life.store.content_hash().unwrap(), reload(&life.store).content_hash().unwrap());
}

#[test]
fn a_command_over_the_limits_is_refused_and_remembered() {
    let mut life = Life::new();
    let long = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
    let many = |count| (0..count).map(|_| delete("a")).collect::<Vec<_>>();
    let wrong = [
        (vec![put("", "1")], OverLimit::EmptyKey),
        (vec![Operation::Delete { key: long(MAX_KEY_BYTES + 1) }], OverLimit::Key { bytes: MAX_KEY_BYTES + 1 }),
        (
            vec![put("b", "1"), Operation::Put { key: Bytes::from("a"), value: long(MAX_VALUE_BYTES + 1) }],
            OverLimit::Value { bytes: MAX_VALUE_BYTES + 1 },
        ),
        (
            (0..3).map(|key| Operation::Put { key: long(key + 1), value: long(MAX_VALUE_BYTES) }).collect(),
            OverLimit::Command { bytes: 320 + 3 * (6 + MAX_VALUE_BYTES) + 6 },
        ),
        (many(kv::MAX_OPERATIONS + 1), OverLimit::Operations { count: kv::MAX_OPERATIONS + 1 }),
    ];
    for (operations, what) in wrong {
        life.number += 1;
        let request = id(1, 1, life.number, 1);
        let command = Command::Write { request, accepted_ms: 0, idempotency: None, operations };
        assert_eq!(command.check(), Err(what));
        assert_eq!(life.apply(&command), refused(Refusal::OverLimit));
        assert_eq!(life.store.answer(&request), Some(refused(Refusal::OverLimit)));
    }
    for bytes in [0, 256] {
        let key = "k".repeat(bytes);
        assert_eq!(life.write_once(&key, "", &[put("a", "1")]), refused(Refusal::OverLimit));
    }
    assert_eq!((life.store.revision(), life.store.is_empty()), (0, true));

    let largest = Operation::Put { key: long(MAX_KEY_BYTES), value: long(MAX_VALUE_BYTES) };
    assert_eq!(life.write(&[largest]), done(1, 1));
    assert_eq!(reload(&life.store).view().get(&long(MAX_KEY_BYTES)).unwrap().unwrap().value, long(MAX_VALUE_BYTES));
    assert_eq!(life.write(&many(kv::MAX_OPERATIONS)), done(1, 0));
}

/// The log and the peers' frames have room for [`kv::MAX_COMMAND_BYTES`]; what `check` lets through must fit.
#[test]
fn a_command_within_the_limits_fits_when_encoded() {
    let key = Bytes::from(vec![b'k'; 255]);
    let session = SessionId { node: u64::MAX, boot: u64::MAX };
    let command = |operations| Command::Write {
        request: RequestId { session, number: u64::MAX, low_water: u64::MAX },
        accepted_ms: u64::MAX,
        idempotency: Some(IdempotencyKey { key: key.clone(), fingerprint: u64::MAX }),
        operations,
    };
    for (key_bytes, value_bytes) in [(255, 0), (255, 1), (250, 5), (MAX_KEY_BYTES, 127), (1, MAX_VALUE_BYTES)] {
        let put = Operation::Put { key: vec![b'k'; key_bytes].into(), value: vec![b'v'; value_bytes].into() };
        let mut operations = Vec::new();
        while command(operations.clone()).check().is_ok() {
            assert!(command(operations.clone()).encode().len() <= kv::MAX_COMMAND_BYTES);
            let room = kv::MAX_OPERATIONS / 4;
            operations.extend(std::iter::repeat_n(put.clone(), (operations.len() / 2).clamp(1, room)));
        }
        while command(operations.clone()).check().is_err() {
            operations.pop();
        }
        assert!(command(operations).encode().len() <= kv::MAX_COMMAND_BYTES);
    }
}

/// All conditions are judged by what was there before the transaction, nested ones too.
#[test]
fn a_condition_does_not_see_what_its_transaction_does() {
    let mut life = Life::new();
    let missing = compare("a", Relation::Equal, Target::Version(0));
    let inner = Transaction { compares: vec![missing.clone()], success: vec![put_step("b", "2")], ..nothing() };
    let outer = Transaction {
        compares: vec![missing],
        success: vec![put_step("a", "1"), Step::Transaction(inner), get_step("a"), get_step("b")],
        ..nothing()
    };
    let (answer, decided) = life.decide(outer.clone());
    assert_eq!(answer, Answer::Decided { succeeded: true, revision: 1, changed: 2 });
    let [_, StepResult::Transaction(inner), StepResult::Range(a), StepResult::Range(b)] = &decided.results[..] else {
        panic!("{decided:?}")
    };
    assert!(inner.succeeded);
    let row = |value: &str| KeyValue {
        value: Bytes::copy_from_slice(value.as_bytes()),
        create_revision: 1,
        mod_revision: 1,
        version: 1,
        lease: 0,
    };
    assert_eq!((&a.rows[..], &b.rows[..]), (&[("a".into(), row("1"))][..], &[("b".into(), row("2"))][..]));
    let (answer, decided) = life.decide(outer);
    assert_eq!(answer, Answer::Decided { succeeded: false, revision: 1, changed: 0 });
    assert_eq!(decided, Decided::default());
}

/// As in etcd: without any key, one that is not there is judged, and it has no value.
#[test]
fn conditions_hold_as_in_etcd() {
    let mut life = Life::new();
    life.write(&[put("a", "1"), put("b", "2")]);
    life.write(&[put("b", "3")]);
    life.act(Action::Grant { lease: 7, ttl_seconds: 10 });
    let leased = Step::Put { key: "c".into(), value: "4".into(), lease: 7, previous: false };
    life.decide(Transaction { success: vec![leased], ..nothing() });
    use Relation::{Equal, Greater, Less, NotEqual};
    use Target::{CreateRevision, Exists, Lease, ModRevision, Value, Version};
    let single = |key: &str| KeyRange::single(Bytes::copy_from_slice(key.as_bytes()));
    for (keys, relation, target, expected) in [
        (single("a"), Equal, Value("1".into()), true),
        (single("a"), Less, Value("2".into()), true),
        (single("a"), NotEqual, Value("1".into()), false),
        (single("x"), NotEqual, Value("1".into()), false),
        (single("x"), Equal, Value("".into()), false),
        (single("x"), Equal, Version(0), true),
        (single("x"), Less, CreateRevision(1), true),
        (single("x"), Greater, ModRevision(0), false),
        (single("x"), Equal, Lease(0), true),
        (single("b"), Equal, Version(2), true),
        (single("b"), Equal, CreateRevision(1), true),
        (single("b"), Greater, ModRevision(1), true),
        (single("c"), Equal, Lease(7), true),
        (single("a"), Equal, Exists(true), true),
        (single("a"), Equal, Exists(false), false),
        (single("x"), Equal, Exists(false), true),
        (KeyRange::all(), Greater, ModRevision(0), true),
        (KeyRange::all(), Greater, ModRevision(1), false),
        (KeyRange::prefix("x"), Equal, Exists(true), false),
        (KeyRange::between("a", "c"), Equal, Lease(0), true),
        (KeyRange::from("a"), Equal, Lease(0), false),
    ] {
        let compares = vec![Compare { keys, relation, target }];
        let (answer, _) = life.decide(Transaction { compares: compares.clone(), ..nothing() });
        assert_eq!(answer, Answer::Decided { succeeded: expected, revision: 3, changed: 0 }, "{compares:?}");
    }
}

#[test]
fn a_transaction_that_could_change_a_key_twice_is_refused() {
    let delete = |keys| Step::Delete { keys, previous: false };
    let nested = |success, failure| Step::Transaction(Transaction { success, failure, ..nothing() });
    let all = |success| Transaction { success, ..nothing() };
    for (transaction, allowed) in [
        (all(vec![put_step("a", "1"), put_step("a", "2")]), false),
        (all(vec![put_step("a", "1"), delete(KeyRange::prefix("a"))]), false),
        (all(vec![delete(KeyRange::all()), put_step("a", "1")]), false),
        (all(vec![put_step("a", "1"), nested(vec![], vec![put_step("a", "1")])]), false),
        (all(vec![nested(vec![delete(KeyRange::single("a"))], vec![]), put_step("a", "1")]), false),
        (all(vec![nested(vec![put_step("a", "1")], vec![put_step("a", "2")])]), true),
        (all(vec![delete(KeyRange::all()), delete(KeyRange::single("a"))]), true),
        (all(vec![delete(KeyRange::between("b", "c")), put_step("a", "1"), put_step("c", "1")]), true),
        (Transaction { failure: vec![put_step("a", "1")], ..all(vec![put_step("a", "1")]) }, true),
    ] {
        let mut life = Life::new();
        let action = Action::Transaction(transaction.clone());
        let command = Command::Act { request: None, accepted_ms: 0, idempotency: None, action };
        let expected = if allowed { Ok(()) } else { Err(OverLimit::KeyTwice) };
        assert_eq!(command.check(), expected, "{transaction:?}");
        let refused = life.apply(&command) == refused(Refusal::OverLimit);
        assert_eq!(refused, !allowed, "{transaction:?}");
    }
    let wide = |count| Action::Transaction(all(vec![get_step("a"); count]));
    let check = |action| Command::Act { request: None, accepted_ms: 0, idempotency: None, action }.check();
    assert_eq!(check(wide(kv::MAX_TRANSACTION_OPERATIONS)), Ok(()));
    let count = kv::MAX_TRANSACTION_OPERATIONS + 1;
    assert_eq!(check(wide(count)), Err(OverLimit::TransactionOperations { count }));
}

/// However much the reads of a transaction find, what they give is bounded, and says that there is more.
#[test]
fn the_rows_that_a_transaction_gives_are_bounded() {
    let mut life = Life::new();
    let puts: Vec<Operation> = (0..kv::MAX_TRANSACTION_ROWS + 100).map(|key| put(&format!("{key:05}"), "")).collect();
    life.write(&puts);
    let read = || Step::Range(Query { count: true, ..Query::new(KeyRange::all()) });
    let (_, decided) = life.decide(Transaction { success: vec![get_step("00000"), read(), read()], ..nothing() });
    let [_, StepResult::Range(first), StepResult::Range(second)] = &decided.results[..] else { panic!() };
    let count = Some(puts.len() as u64);
    assert_eq!((first.rows.len() as u64, first.more, first.count), (kv::MAX_TRANSACTION_ROWS, true, count));
    assert_eq!((second.rows.len(), second.more, second.count), (0, true, count));
}

/// Rows may be large: a listing of a thousand took gigabytes before it was cut.
#[test]
fn the_bytes_that_a_page_takes_are_bounded() {
    let mut life = Life::new();
    let value = "v".repeat(1 << 20);
    for key in 0..40 {
        life.write(&[put(&format!("{key:02}"), &value)]);
    }
    for descending in [false, true] {
        let all = Query { descending, count: true, ..Query::new(KeyRange::all()) };
        let page = life.store.view().query(&all).unwrap();
        assert_eq!((page.rows.len(), page.more, page.count), (4, true, Some(40)));
        let names = life.store.view().query(&Query { keys_only: true, ..all }).unwrap();
        assert_eq!((names.rows.len(), names.more), (40, false));
    }

    let read = || Step::Range(Query::new(KeyRange::all()));
    let everything = Step::Delete { keys: KeyRange::all(), previous: true };
    let (_, decided) =
        life.decide(Transaction { success: vec![read(), read(), get_step("07"), everything], ..nothing() });
    let [
        StepResult::Range(first),
        StepResult::Range(second),
        StepResult::Range(single),
        StepResult::Delete { deleted, previous },
    ] = &decided.results[..]
    else {
        panic!()
    };
    assert_eq!((first.rows.len(), first.more), (4, true));
    assert_eq!((second.rows.len(), second.more), (1, true), "as much as a page, and never none");
    assert_eq!((single.rows.len(), single.more), (1, false), "a key that is there is never said not to be");
    assert_eq!((*deleted, previous.len()), (40, 31));
}

#[test]
fn a_repeated_transaction_is_told_what_it_came_to() {
    let mut life = Life::new();
    let transaction = Transaction {
        compares: vec![compare("a", Relation::Equal, Target::Exists(false))],
        success: vec![put_step("a", "1")],
        ..nothing()
    };
    let mut send = |number| {
        let idempotency = Some(IdempotencyKey { key: "once".into(), fingerprint: 1 });
        let action = Action::Transaction(transaction.clone());
        let command = Command::Act { request: Some(id(1, 1, number, 1)), accepted_ms: 0, idempotency, action };
        life.index += 1;
        life.store.apply_for(Position { index: life.index, term: 1 }, &command).unwrap()
    };
    let answer = Answer::Decided { succeeded: true, revision: 1, changed: 1 };
    assert!(matches!(send(1), (first, Some(_)) if first == answer));
    assert_eq!(send(1), (answer, None));
    assert_eq!(send(2), (answer, None));
    assert_eq!(life.store.revision(), 1);
}

#[test]
fn keys_end_with_their_lease_in_one_revision() {
    let mut life = Life::new();
    let granted = |lease, ttl_seconds| Answer::Granted { lease, ttl_seconds };
    assert_eq!(life.act(Action::Grant { lease: 7, ttl_seconds: 60 }), granted(7, 60));
    assert_eq!(life.act(Action::Grant { lease: 7, ttl_seconds: 5 }), refused(Refusal::LeaseExists));
    let Answer::Granted { lease: chosen, .. } = life.act(Action::Grant { lease: 0, ttl_seconds: 5 }) else { panic!() };
    assert_eq!(chosen, life.index);
    let leased =
        |key: &str, lease| Step::Put { key: key.to_string().into(), value: "v".into(), lease, previous: false };
    let mut transact = |success| life.decide(Transaction { success, ..nothing() }).0;
    assert_eq!(transact(vec![leased("x", 6)]), refused(Refusal::NoLease));
    transact(vec![leased("a", 7), leased("b", 7), leased("c", 7), leased("d", chosen)]);
    // Another lease, none, and a plain put: each takes the key from its lease.
    transact(vec![leased("b", chosen), leased("c", 0)]);
    life.write(&[put("d", "w")]);
    let keys = |life: &Life, lease| life.store.view().lease_keys(lease, b"").map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!((keys(&life, 7), keys(&life, chosen)), (vec![Bytes::from("a")], vec![Bytes::from("b")]));

    let since = |life: &Life, lease| life.store.view().lease(lease).unwrap().unwrap().since;
    let (before, other) = (since(&life, 7), since(&life, chosen));
    assert_eq!(life.act(Action::KeepAlive { lease: 7 }), granted(7, 60));
    let expire = |leases: &[(u64, u64)]| Action::Expire {
        leases: leases.iter().map(|&(lease, since)| Expired { lease, since }).collect(),
    };
    // It was kept alive since, so only the other one ends.
    assert_eq!(life.act(expire(&[(7, before), (chosen, other)])), done(4, 1));
    assert_eq!((keys(&life, 7).len(), life.store.view().lease(chosen).unwrap()), (1, None));
    assert_eq!(life.act(Action::KeepAlive { lease: chosen }), refused(Refusal::NoLease));
    life.decide(Transaction { success: vec![leased("e", 7)], ..nothing() });
    assert_eq!(life.act(expire(&[(7, since(&life, 7))])), done(6, 2));
    assert_eq!(life.act(Action::Revoke { lease: 7 }), refused(Refusal::NoLease));
    assert_eq!((life.store.len(), life.store.view().lease_count()), (2, 0));
    assert_eq!(life.act(Action::Grant { lease: 3, ttl_seconds: 1 }), granted(3, 1));
    assert_eq!(life.act(Action::Revoke { lease: 3 }), done(6, 0));
    for (lease, ttl_seconds) in [(0, 0), (1, kv::MAX_TTL_SECONDS + 1), (kv::MAX_LEASE + 1, 1)] {
        assert_eq!(life.act(Action::Grant { lease, ttl_seconds }), refused(Refusal::OverLimit));
    }
}

#[test]
fn a_range_of_a_view_is_half_open_and_runs_both_ways() {
    let mut life = Life::new();
    life.write_once("k", "", &[put("a", "1"), put("b", "2"), put("c", "3"), put("\u{10ffff}", "4")]);
    let view = life.store.view();
    life.write(&[delete("b"), put("c", "5")]);
    let keys = |from: &str, to: Option<&str>| {
        let range = || view.range(from.as_bytes(), to.map(str::as_bytes));
        let mut keys: Vec<Bytes> = range().map(|row| row.unwrap().0).collect();
        let backwards: Vec<Bytes> = range().rev().map(|row| row.unwrap().0).collect();
        keys.reverse();
        assert_eq!(keys, backwards);
        keys.reverse();
        keys
    };
    assert_eq!(keys("", None), ["a", "b", "c", "\u{10ffff}"]);
    assert_eq!(keys("b", Some("c")), ["b"]);
    assert_eq!(keys("b", Some("")), [""; 0]);
    assert_eq!(keys("d", None), ["\u{10ffff}"]);
    assert_eq!(view.range(b"c", None).next().unwrap().unwrap().1.value, "3");
    assert_eq!((view.len(), view.revision(), view.applied().index), (4, 1, 2));
    assert_eq!(life.store.view().range(b"", None).count(), 3);
}

#[test]
fn a_past_revision_is_read_as_it_was() {
    let mut life = Life::new();
    life.write(&[put("a", "1"), put("b", "1")]);
    life.write(&[put("a", "2"), delete("b")]);
    life.write(&[delete("b")]);
    life.write(&[put("b", "3")]);
    let view = life.store.view();
    let at = |revision, key: &str| get(&view.at(revision).unwrap(), key);
    assert_eq!((at(0, "a"), at(1, "a")), (None, Some(("1".into(), 1, 1, 1))));
    assert_eq!((at(1, "b"), at(2, "b")), (Some(("1".into(), 1, 1, 1)), None));
    assert_eq!((at(2, "a"), at(3, "a")), (Some(("2".into(), 1, 2, 2)), Some(("2".into(), 1, 2, 2))));
    assert_eq!(at(3, "b"), Some(("3".into(), 3, 3, 1)));
    assert_eq!(out_of_reach(&view, 4), Some(OutOfReach::Future { revision: 4, newest: 3 }));
}

#[test]
fn what_is_compacted_cannot_be_read_any_more() {
    let mut life = Life::new();
    for revision in 1..=300 {
        assert_eq!(life.write(&[put("a", &revision.to_string())]), done(revision, 1));
    }
    let (before, picture) = (life.store.view(), life.store.view().at(20).unwrap());
    assert_eq!(life.act(Action::Compact { revision: 301 }), refused(Refusal::FutureRevision));
    assert_eq!(life.act(Action::Compact { revision: 0 }), refused(Refusal::Compacted));
    assert_eq!(life.act(Action::Compact { revision: 100 }), done(300, 0));
    assert_eq!(life.act(Action::Compact { revision: 100 }), refused(Refusal::Compacted));
    let view = life.store.view();
    assert_eq!(out_of_reach(&view, 99), Some(OutOfReach::Compacted { revision: 99, oldest: 100 }));
    assert_eq!(get(&view.at(100).unwrap(), "a"), Some(("100".into(), 1, 100, 100)));
    assert_eq!(view.compacted(), 100);

    // Who had the picture before keeps it; who comes now is late, whatever view he has.
    life.write(&[]);
    assert_eq!(get(&picture, "a"), Some(("20".into(), 1, 20, 20)));
    assert!(matches!(out_of_reach(&before, 20), Some(OutOfReach::Compacted { .. })));
    assert_eq!(get(&before.at(150).unwrap(), "a"), Some(("150".into(), 1, 150, 150)));

    assert_eq!(life.act(Action::Compact { revision: 300 }), done(300, 0));
    assert_eq!(life.store.view().past_bytes(), 0);
    let loaded = reload(&life.store);
    assert_eq!(get(&loaded.view().at(300).unwrap(), "a"), Some(("300".into(), 1, 300, 300)));
    assert_eq!((loaded.view().at(299).is_err(), loaded.view().compacted()), (true, 300));
}

#[test]
fn the_past_is_measured() {
    let mut life = Life::new();
    assert_eq!((life.store.view().past_bytes(), life.store.view().oldest_within(0).unwrap()), (0, 0));
    for _ in 0..200 {
        life.write(&[put("a", &"v".repeat(1000))]);
    }
    let view = life.store.view();
    assert!((200_000..300_000).contains(&view.past_bytes()), "{} bytes", view.past_bytes());
    assert_eq!((view.oldest_within(0).unwrap(), view.oldest_within(u64::MAX).unwrap()), (200, 0));
    let half = view.oldest_within(view.past_bytes() / 2).unwrap();
    assert!((98..=102).contains(&half), "{half}");
    life.act(Action::Compact { revision: half });
    let left = life.store.view().past_bytes();
    assert!(left <= view.past_bytes() / 2 && left > view.past_bytes() / 3, "{left} bytes");
}

/// More keys than fit into one row of the engine or one record of a checkpoint.
#[test]
fn a_revision_may_change_very_many_keys() {
    let mut life = Life::new();
    let key = |number: usize| Bytes::from(format!("{number:0250}"));
    let puts: Vec<Operation> = (0..15_000).map(|n| Operation::Put { key: key(n), value: Bytes::new() }).collect();
    life.write(&[put("a", "1")]);
    assert_eq!(life.write(&puts), done(2, 15_000));
    for revision in 3..=200 {
        assert_eq!(life.write(&[put("a", "2")]), done(revision, 1));
    }
    let mut life = Life { store: reload(&life.store), ..life };
    assert_eq!(life.store.view().at(2).unwrap().count(&KeyRange::all()).unwrap(), 15_001);
    let changes = life.store.view().changes(1, KeyRange::all(), true).unwrap();
    let changes: Vec<usize> = changes.map(|revision| revision.unwrap().changes.len()).collect();
    assert_eq!((changes.len(), &changes[..4]), (200, &[1, 15_000, 1, 1][..]));
    assert_eq!(life.act(Action::Compact { revision: 2 }), done(200, 0));
    let mut life = Life { store: reload(&life.store), ..life };
    assert_eq!(life.act(Action::Compact { revision: 150 }), done(200, 0));
    assert_eq!(reload(&life.store).content_hash().unwrap(), life.store.content_hash().unwrap());
    assert_eq!(get(&life.store.view().at(150).unwrap(), "a"), Some(("2".into(), 1, 150, 149)));
}

/// A long listing is one picture, whatever is written meanwhile.
#[test]
fn pages_of_one_revision_fit_together() {
    let mut life = Life::new();
    let puts: Vec<Operation> = (0..100).map(|n| put(&format!("k{n:02}"), "1")).collect();
    life.write(&puts);
    for descending in [false, true] {
        let mut query = Query { limit: Some(7), descending, count: true, ..Query::new(KeyRange::prefix("k")) };
        let mut found = Vec::new();
        loop {
            life.write(&[put("k5", "2"), delete("k77"), put("k", "2")]);
            let page = life.store.view().at(1).unwrap().query(&query).unwrap();
            assert_eq!(page.count, Some(100));
            query.after = page.rows.last().map(|(key, _)| key.clone());
            found.extend(page.rows.into_iter().map(|(key, _)| key));
            if !page.more {
                break;
            }
        }
        if descending {
            found.reverse();
        }
        assert!(found.iter().eq(puts.iter().map(Operation::key)));
    }
}

/// Values are copied out of the frames that they came in, or a small value would keep a large frame in memory.
#[test]
fn a_stored_value_does_not_keep_its_frame() {
    let mut life = Life::new();
    let frame = Bytes::from(vec![b'x'; 1000]);
    life.write(&[Operation::Put { key: frame.slice(0..1), value: frame.slice(1..2) }]);
    let key = IdempotencyKey { key: frame.slice(5..9), fingerprint: 1 };
    let operations = vec![Operation::Delete { key: frame.slice(2..3) }];
    life.apply(&Command::Write { request: id(1, 1, 9, 1), accepted_ms: 0, idempotency: Some(key), operations });
    life.index += 1;
    life.store.set_configuration(Position { index: life.index, term: 1 }, frame.slice(3..4), &[1]);
    assert!(frame.is_unique());
}

#[test]
fn any_difference_shows_in_the_state_hash() {
    let base = |life: &mut Life| {
        life.write(&[put("a", "1"), put("b", "1")]);
    };
    let endings: [&dyn Fn(&mut Life); 16] = [
        &|life| _ = life.act(Action::Compact { revision: 1 }),
        &|_| {},
        &|life| life.store.apply_empty(Position { index: 10, term: 1 }).unwrap(),
        &|life| life.store.apply_empty(Position { index: 10, term: 2 }).unwrap(),
        &|life| life.store.apply_empty(Position { index: 11, term: 1 }).unwrap(),
        &|life| _ = life.write(&[put("a", "1")]),
        &|life| _ = life.write(&[put("a", "2")]),
        &|life| _ = life.write(&[put("b", "1")]),
        &|life| _ = life.write(&[delete("a")]),
        &|life| _ = life.write(&[delete("b")]),
        &|life| _ = life.write_once("k", "", &[put("a", "1")]),
        &|life| _ = life.write_once("l", "", &[put("a", "1")]),
        &|life| _ = life.write_once("k", "body", &[put("a", "1")]),
        &|life| _ = life.register(2, 1),
        &|life| _ = life.register(1, 2),
        &|life| life.store.set_configuration(Position { index: 10, term: 1 }, Bytes::new(), &[1]),
    ];
    let mut hashes: Vec<(u64, u64)> = Vec::new();
    for ending in endings {
        let mut life = Life::new();
        base(&mut life);
        ending(&mut life);
        let hash = (life.store.state_hash(), life.store.content_hash().unwrap());
        assert!(hashes.iter().all(|other| other.0 != hash.0 && other.1 != hash.1));
        hashes.push(hash);
        assert_eq!(life.store.view().state_hash(), hash.0);
    }
}

#[test]
#[should_panic(expected = "after Position")]
fn an_entry_is_not_applied_twice() {
    let mut life = Life::new();
    life.write(&[put("a", "1")]);
    life.index -= 1;
    life.write(&[put("a", "2")]);
}

#[test]
fn fingerprints_tell_parts_apart() {
    let parts: [&[&[u8]]; 5] = [&[], &[b""], &[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"]];
    for (at, left) in parts.iter().enumerate() {
        for (other, right) in parts.iter().enumerate() {
            assert_eq!(fingerprint(left.iter().copied()) == fingerprint(right.iter().copied()), at == other);
        }
    }
}

fn id(node: NodeId, boot: u64, number: u64, low_water: u64) -> RequestId {
    RequestId { session: SessionId { node, boot }, number, low_water }
}

fn nothing() -> Transaction {
    Transaction::default()
}

fn put_step(key: &str, value: &str) -> Step {
    let (key, value) = (key.to_string().into(), value.to_string().into());
    Step::Put { key, value, lease: 0, previous: false }
}

fn get_step(key: &str) -> Step {
    Step::Range(Query::new(KeyRange::single(key.to_string())))
}

fn compare(key: &str, relation: Relation, target: Target) -> Compare {
    Compare { keys: KeyRange::single(key.to_string()), relation, target }
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: Bytes::copy_from_slice(key.as_bytes()) }
}

fn done(revision: u64, changed: u32) -> Answer {
    Answer::Done { revision, changed }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal)
}

fn out_of_reach(view: &View, revision: u64) -> Option<OutOfReach> {
    view.at(revision).err()?.out_of_reach()
}

/// Value, create revision, mod revision, version.
fn get(view: &Picture, key: &str) -> Option<(String, u64, u64, u64)> {
    let KeyValue { value, create_revision, mod_revision, version, .. } = view.get(key.as_bytes()).unwrap()?;
    Some((String::from_utf8(value.to_vec()).unwrap(), create_revision, mod_revision, version))
}

fn reload(store: &Store) -> Store {
    let mut stream = Vec::new();
    let written = store.frozen().write_to(&mut |piece| {
        stream.extend_from_slice(piece);
        Ok::<(), StorageError>(())
    });
    written.unwrap();
    let mut blocks = stream.chunks(1000).map(Bytes::copy_from_slice);
    Store::load(kv::Home::Memory.engine().unwrap(), &mut || Ok::<_, ()>(blocks.next())).unwrap()
}
