//! Random lives of a store beside a model written apart ([`model`]).
//!
//! A second replica applies the same commands after encoding and decoding them, and is now and then replaced by one
//! loaded from its own checkpoint, or opened again from its engine and a note: all three must agree at every step.
//!
//! `KV_MODEL_COMMANDS=1000000 cargo test -p kv --test model` takes more than a slice of it.

mod model;

use base::rng::Rng;
use base::{NodeId, Position};
use bytes::Bytes;
use kv::{Action, Command, Compare, Expired, IdempotencyKey, KeyRange, Operation, OutOfReach, Picture, Query};
use kv::{Relation, RequestId, SessionId, Step, Store, Target, Transaction, View, WINDOW};
use model::{Model, State};
use std::collections::BTreeMap;
use storage::StorageError;

/// Commands of one life.
const A_LIFE: u64 = 2_000;

#[test]
fn store_and_model_agree() {
    let commands = std::env::var("KV_MODEL_COMMANDS").ok().and_then(|count| count.parse().ok()).unwrap_or(60_000);
    for seed in 0..commands / A_LIFE {
        life(seed, A_LIFE);
    }
}

fn life(seed: u64, commands: u64) {
    let mut rng = Rng::new(seed);
    let mut model = Model::new();
    let (mut straight, mut reloaded) = (Store::in_memory(), Store::in_memory());
    let mut position = Position { index: 0, term: 1 };
    let mut next_numbers: BTreeMap<SessionId, u64> = BTreeMap::new();
    let mut held: Vec<Held> = Vec::new();
    for _ in 0..commands {
        position.index += rng.between(1, 2);
        position.term += u64::from(rng.chance(10));
        match rng.below(100) {
            0 => {
                straight.apply_empty(position).unwrap();
                reloaded.apply_empty(position).unwrap();
            }
            1 => {
                let members: Vec<NodeId> = (1..=4).filter(|_| rng.chance(800)).collect();
                let configuration = Bytes::from(format!("{members:?} {}", rng.below(3)));
                model.set_members(&members);
                straight.set_configuration(position, configuration.clone(), &members);
                reloaded.set_configuration(position, configuration, &members);
            }
            _ => {
                let command = command(&mut rng, &model, &mut next_numbers);
                let expected = (model.apply(position.index, &command), model.decided.clone());
                let found = straight.apply_for(position, &command).unwrap();
                assert_eq!(found, expected, "seed {seed}, {position:?}: {command:?}");
                let decoded = Command::decode(command.encode()).unwrap();
                assert_eq!(decoded, command, "seed {seed}");
                assert_eq!(reloaded.apply(position, &decoded).unwrap(), expected.0, "seed {seed}, {position:?}");
            }
        }
        assert_eq!(straight.state_hash(), reloaded.state_hash(), "seed {seed}, {position:?}");
        assert_eq!((straight.revision(), straight.applied()), (model.revision(), position), "seed {seed}");
        assert_eq!(reloaded.view().accepted_ms(), model.accepted_ms, "seed {seed}, {position:?}");
        let asked = request(&mut rng, &mut next_numbers.clone());
        if model.sessions.contains_key(&asked.session.node) {
            assert_eq!(straight.answer(&asked), model.answer(&asked), "seed {seed}, {position:?}: {asked:?}");
        }
        if rng.chance(5) {
            reloaded = if rng.chance(500) { reload(&reloaded, &mut rng) } else { reopen(reloaded) };
            assert_eq!(reloaded.content_hash().unwrap(), straight.content_hash().unwrap(), "seed {seed}, {position:?}");
        }
        if rng.chance(20) {
            same(seed, &straight, &reloaded, &model);
        }
        if rng.chance(30) {
            look_at_the_past(seed, &mut rng, &straight.view(), &model);
            look_at_the_past(seed, &mut rng, &reloaded.view(), &model);
        }
        if rng.chance(10) {
            let view = if rng.chance(500) { straight.view() } else { reloaded.view() };
            let picture = view.at(rng.between(model.compacted, model.revision())).unwrap();
            held.push(Held { view, picture });
            if held.len() > 5 {
                held.swap_remove(rng.below(5) as usize).check(seed, &mut rng, &model);
            }
        }
    }
    same(seed, &straight, &reloaded, &model);
}

/// What a reader holds while the store moves on.
struct Held {
    view: View,
    picture: Picture,
}

impl Held {
    fn check(&self, seed: u64, rng: &mut Rng, model: &Model) {
        for picture in [&self.picture, &*self.view] {
            assert_eq!(&content(picture), &model.states[picture.revision() as usize], "seed {seed}: a view changed");
        }
        let revision = rng.below(self.view.revision() + 1);
        match self.view.at(revision) {
            Ok(picture) => assert_eq!(&content(&picture), &model.states[revision as usize], "seed {seed}"),
            Err(error) => {
                let is_compacted = matches!(error.out_of_reach(), Some(OutOfReach::Compacted { .. }));
                assert!(is_compacted && revision < model.compacted, "seed {seed}: {error}");
            }
        }
    }
}

fn same(seed: u64, straight: &Store, reloaded: &Store, model: &Model) {
    for store in [straight, reloaded] {
        let view = store.view();
        assert_eq!(&content(&view), model.now(), "seed {seed}");
        assert_eq!(view.len(), model.now().len() as u64, "seed {seed}");
        for (key, expected) in model.now() {
            assert_eq!(view.get(key).unwrap().as_ref(), Some(expected), "seed {seed}");
        }
        assert!(view.leases(0).map(Result::unwrap).eq(model.leases.values().copied()), "seed {seed}");
        assert_eq!(view.lease_count(), model.leases.len() as u64, "seed {seed}");
        for lease in model.leases.values() {
            assert_eq!(view.lease(lease.id).unwrap(), Some(*lease), "seed {seed}");
            let keys = model.now().iter().filter(|(_, found)| found.lease == lease.id).map(|(key, _)| key.clone());
            assert!(view.lease_keys(lease.id, b"").map(Result::unwrap).eq(keys), "seed {seed}");
        }
        for node in 0..6 {
            assert_eq!(store.session(node), model.sessions.get(&node).map(|session| session.boot), "seed {seed}");
        }
    }
}

fn look_at_the_past(seed: u64, rng: &mut Rng, view: &View, model: &Model) {
    let (oldest, newest) = (model.compacted, model.revision());
    assert_eq!((view.compacted(), view.revision()), (oldest, newest), "seed {seed}");
    let revision = rng.below(newest + 3);
    let picture = match view.at(revision) {
        Ok(picture) => picture,
        Err(error) if revision < oldest => {
            return assert_eq!(error.out_of_reach(), Some(OutOfReach::Compacted { revision, oldest }), "seed {seed}");
        }
        Err(error) => {
            return assert_eq!(error.out_of_reach(), Some(OutOfReach::Future { revision, newest }), "seed {seed}");
        }
    };
    let state = &model.states[revision as usize];
    assert_eq!(picture.revision(), revision);
    assert_eq!(&content(&picture), state, "seed {seed}: revision {revision}");
    for _ in 0..5 {
        let query = query(rng);
        let found = picture.query(&query).unwrap();
        assert_eq!(found, model::query(state, &query), "seed {seed}: revision {revision}, {query:?}");
    }
    let from = rng.between(oldest, newest + 2);
    let (keys, previous) = (model::range_of(key(rng), key(rng), rng.below(5)), rng.chance(500));
    let changes = view.changes(from, keys.clone(), previous).unwrap().take(rng.below(200) as usize);
    for (next, revision) in (from.max(1)..).zip(changes) {
        let (revision, expected) = (revision.unwrap(), model.changes(next, &keys, previous));
        assert_eq!((revision.revision, revision.changes), (next, expected), "seed {seed}, from {from}");
    }
    if oldest > 0 {
        let error = OutOfReach::Compacted { revision: oldest - 1, oldest };
        let found = view.changes(oldest - 1, keys, previous).err().and_then(|error| error.out_of_reach());
        assert_eq!(found, Some(error), "seed {seed}");
    }
    let bytes = rng.below(view.past_bytes() * 2 + 2);
    let kept = view.oldest_within(bytes).unwrap();
    assert!((oldest..=newest).contains(&kept), "seed {seed}");
    assert!(kept > oldest || view.past_bytes() <= bytes, "seed {seed}");
}

fn query(rng: &mut Rng) -> Query {
    let keys = model::range_of(key(rng), key(rng), rng.below(5));
    Query {
        keys,
        descending: rng.chance(500),
        after: rng.chance(300).then(|| key(rng)),
        limit: rng.chance(500).then(|| rng.below(20)),
        keys_only: rng.chance(200),
        count: rng.chance(300),
    }
}

fn content(picture: &Picture) -> State {
    picture.range(b"", None).map(Result::unwrap).collect()
}

fn command(rng: &mut Rng, model: &Model, next_numbers: &mut BTreeMap<SessionId, u64>) -> Command {
    if rng.chance(30) {
        return Command::Register { session: session(rng) };
    }
    let (accepted_ms, idempotency) = (rng.below(1000), idempotency(rng));
    if rng.chance(400) {
        let request = rng.chance(900).then(|| request(rng, next_numbers));
        return Command::Act { request, accepted_ms, idempotency, action: action(rng, model) };
    }
    let operations = (0..rng.below(5)).map(|_| operation(rng)).collect();
    Command::Write { request: request(rng, next_numbers), accepted_ms, idempotency, operations }
}

fn idempotency(rng: &mut Rng) -> Option<IdempotencyKey> {
    rng.chance(200)
        .then(|| IdempotencyKey { key: Bytes::from(format!("key {}", rng.below(200))), fingerprint: rng.below(10) / 9 })
}

fn action(rng: &mut Rng, model: &Model) -> Action {
    match rng.below(100) {
        0..3 => Action::Compact { revision: rng.between(model.compacted.saturating_sub(2), model.revision() + 2) },
        3..8 => Action::Grant { lease: rng.below(8), ttl_seconds: rng.between(1, 100) },
        8..12 => Action::KeepAlive { lease: lease(rng, model) },
        12..14 => Action::Revoke { lease: lease(rng, model) },
        14..17 => Action::Expire {
            leases: (0..rng.below(4))
                .map(|_| {
                    let lease = lease(rng, model);
                    let since = model.leases.get(&lease).map_or(1, |lease| lease.since);
                    Expired { lease, since: since - u64::from(rng.chance(200)) }
                })
                .collect(),
        },
        _ => Action::Transaction(transaction(rng, model, 1)),
    }
}

/// Mostly one that is there.
fn lease(rng: &mut Rng, model: &Model) -> u64 {
    let place = rng.below(model.leases.len() as u64 + 1) as usize;
    model.leases.keys().nth(place).copied().unwrap_or(rng.below(8))
}

fn transaction(rng: &mut Rng, model: &Model, depth: u64) -> Transaction {
    let compares = (0..rng.below(3)).map(|_| compare(rng, model)).collect();
    let mut branch = || (0..rng.below(4)).map(|_| step(rng, model, depth)).collect();
    Transaction { compares, success: branch(), failure: branch() }
}

/// One that has a chance to hold.
fn compare(rng: &mut Rng, model: &Model) -> Compare {
    let one = key(rng);
    let found = model.now().get(&one);
    let near = |rng: &mut Rng, number: u64| (number + rng.below(2)).saturating_sub(rng.below(2));
    let target = match rng.below(6) {
        0 => Target::Value(found.map_or(Bytes::new(), |found| found.value.clone())),
        1 => Target::Version(near(rng, found.map_or(0, |found| found.version))),
        2 => Target::CreateRevision(near(rng, found.map_or(0, |found| found.create_revision))),
        3 => Target::ModRevision(near(rng, found.map_or(0, |found| found.mod_revision))),
        4 => Target::Lease(near(rng, found.map_or(0, |found| found.lease))),
        _ => Target::Exists(rng.chance(500)),
    };
    let relation = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater][rng.below(4) as usize];
    let keys = if rng.chance(700) { KeyRange::single(one) } else { model::range_of(one, key(rng), rng.below(5)) };
    Compare { keys, relation, target }
}

fn step(rng: &mut Rng, model: &Model, depth: u64) -> Step {
    match rng.below(10) {
        0..4 => Step::Put {
            key: key(rng),
            value: Bytes::from(vec![rng.next_u64() as u8; rng.below(20) as usize]),
            lease: if rng.chance(500) { lease(rng, model) } else { 0 },
            previous: rng.chance(500),
        },
        4..6 => {
            let keys = match rng.below(3) {
                0 => model::range_of(key(rng), key(rng), rng.below(5)),
                _ => KeyRange::single(key(rng)),
            };
            Step::Delete { keys, previous: rng.chance(500) }
        }
        6..8 if depth < 4 => Step::Transaction(transaction(rng, model, depth + 1)),
        _ => Step::Range(query(rng)),
    }
}

fn operation(rng: &mut Rng) -> Operation {
    let key = key(rng);
    match rng.below(3) {
        0 => Operation::Delete { key },
        _ => Operation::Put { key, value: Bytes::from(vec![rng.next_u64() as u8; rng.below(200) as usize]) },
    }
}

fn key(rng: &mut Rng) -> Bytes {
    match rng.below(200) {
        0 => Bytes::new(),
        1 => Bytes::from(vec![255; rng.between(1, 100) as usize]),
        2..10 => Bytes::from("k"),
        _ => Bytes::from(format!("k{}", rng.below(60))),
    }
}

/// Mostly the session's next number; else an old one again, one ahead, or one out of the window.
fn request(rng: &mut Rng, next_numbers: &mut BTreeMap<SessionId, u64>) -> RequestId {
    let session = session(rng);
    let next = next_numbers.entry(session).or_insert(1);
    let number = match rng.below(20) {
        0..3 => next.saturating_sub(rng.below(30)),
        3 => *next + rng.below(20),
        4 if rng.chance(100) => *next + WINDOW + rng.below(50) - 40,
        _ => {
            *next += 1;
            *next - 1
        }
    };
    let low_water = match rng.below(100) {
        0 => number + rng.below(5),
        _ => number.saturating_sub(rng.below(40)),
    };
    RequestId { session, number, low_water }
}

fn session(rng: &mut Rng) -> SessionId {
    let boot = if rng.chance(970) { 5 } else { rng.between(1, 9) };
    SessionId { node: rng.between(1, 5), boot }
}

/// As after a restart: what is not in the engine, and was not noted, is gone.
fn reopen(store: Store) -> Store {
    let configuration = store.configuration().clone();
    let (engine, note) = store.apart().unwrap();
    let opened = Store::open(engine, note).unwrap();
    assert_eq!(opened.configuration(), &configuration);
    opened
}

fn reload(store: &Store, rng: &mut Rng) -> Store {
    let mut stream = Vec::new();
    let written = store.frozen().write_to(&mut |piece| {
        stream.extend_from_slice(piece);
        Ok::<(), StorageError>(())
    });
    written.unwrap();
    let mut rest = Bytes::from(stream);
    let loaded = Store::load(kv::Home::Memory.engine().unwrap(), &mut || {
        let block = rest.split_to(rest.len().min(rng.below(3000) as usize));
        Ok::<_, ()>((!block.is_empty() || !rest.is_empty()).then_some(block))
    })
    .unwrap();
    assert_eq!(loaded.configuration(), store.configuration());
    loaded
}
