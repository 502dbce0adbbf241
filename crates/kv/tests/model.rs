//! Random lives of a store beside a model written apart: plain maps, no hashes, no bytes, nothing shared with the store
//! but the types of its door.
//!
//! A second replica applies the same commands after encoding and decoding them, and is now and then replaced by one
//! loaded from its own checkpoint: all three must agree at every step.

use base::rng::Rng;
use base::{NodeId, Position};
use bytes::Bytes;
use kv::{Answer, Command, IdempotencyKey, KeyValue, Operation, Refusal, RequestId, SessionId, Store, View, WINDOW};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Model {
    keys: BTreeMap<Bytes, KeyValue>,
    revision: u64,
    accepted_ms: u64,
    members: Option<BTreeSet<NodeId>>,
    sessions: BTreeMap<NodeId, ModelSession>,
    first_uses: BTreeMap<Bytes, (u64, Answer)>,
}

struct ModelSession {
    boot: u64,
    low_water: u64,
    answers: BTreeMap<u64, Answer>,
}

impl Model {
    fn apply(&mut self, command: &Command) -> Answer {
        match command {
            Command::Register { session: SessionId { node, boot } } => {
                if self.members.as_ref().is_some_and(|members| !members.contains(node)) {
                    return Answer::Refused(Refusal::NotAMember);
                }
                let known = self.sessions.get(node).map(|session| session.boot);
                if known > Some(*boot) {
                    return Answer::Refused(Refusal::OlderBoot);
                }
                if known != Some(*boot) {
                    let fresh = ModelSession { boot: *boot, low_water: 1, answers: BTreeMap::new() };
                    self.sessions.insert(*node, fresh);
                }
                Answer::Registered
            }
            Command::Write { request, accepted_ms, idempotency, operations } => {
                self.accepted_ms = *accepted_ms;
                let Some(session) = self.sessions.get_mut(&request.session.node) else {
                    return Answer::Refused(Refusal::UnknownSession);
                };
                if request.session.boot < session.boot {
                    return Answer::Refused(Refusal::OlderBoot);
                }
                if request.session.boot > session.boot {
                    return Answer::Refused(Refusal::UnknownSession);
                }
                session.low_water = session.low_water.max(request.low_water);
                let low_water = session.low_water;
                session.answers.retain(|number, _| *number >= low_water);
                if request.number < low_water {
                    return Answer::Refused(Refusal::Stale);
                }
                if request.number >= low_water + WINDOW {
                    return Answer::Refused(Refusal::WindowExceeded);
                }
                if let Some(answer) = session.answers.get(&request.number) {
                    return *answer;
                }
                let answer = self.decide(idempotency.as_ref(), operations);
                let session = self.sessions.get_mut(&request.session.node).unwrap();
                session.answers.insert(request.number, answer);
                answer
            }
        }
    }

    fn decide(&mut self, idempotency: Option<&IdempotencyKey>, operations: &[Operation]) -> Answer {
        if operations.iter().any(|operation| operation.key().is_empty()) {
            return Answer::Refused(Refusal::OverLimit);
        }
        if let Some(IdempotencyKey { key, fingerprint }) = idempotency
            && let Some((first, answer)) = self.first_uses.get(key)
        {
            return if first == fingerprint { *answer } else { Answer::Refused(Refusal::KeyReused) };
        }
        let mut wanted: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for operation in operations {
            match operation {
                Operation::Put { key, value } => wanted.insert(key.clone(), Some(value.clone())),
                Operation::Delete { key } => wanted.insert(key.clone(), None),
            };
        }
        wanted.retain(|key, value| value.is_some() || self.keys.contains_key(key));
        let changed = wanted.len() as u32;
        if changed > 0 {
            self.revision += 1;
        }
        for (key, value) in wanted {
            let before = self.keys.remove(&key);
            if let Some(value) = value {
                let create_revision = before.as_ref().map_or(self.revision, |before| before.create_revision);
                let version = before.map_or(0, |before| before.version) + 1;
                self.keys.insert(key, KeyValue { value, create_revision, mod_revision: self.revision, version });
            }
        }
        let answer = Answer::Done { revision: self.revision, changed };
        if let Some(IdempotencyKey { key, fingerprint }) = idempotency {
            self.first_uses.insert(key.clone(), (*fingerprint, answer));
        }
        answer
    }

    fn set_members(&mut self, members: &[NodeId]) {
        let members: BTreeSet<NodeId> = members.iter().copied().collect();
        self.sessions.retain(|node, _| members.contains(node));
        self.members = Some(members);
    }

    fn answer(&self, request: &RequestId) -> Option<Answer> {
        let session = self.sessions.get(&request.session.node)?;
        if request.session.boot < session.boot {
            return Some(Answer::Refused(Refusal::OlderBoot));
        }
        if request.session.boot > session.boot {
            return None;
        }
        if request.number < session.low_water {
            return Some(Answer::Refused(Refusal::Stale));
        }
        session.answers.get(&request.number).copied()
    }
}

#[test]
fn store_and_model_agree() {
    for seed in 0..30 {
        life(seed, 3_000);
    }
}

fn life(seed: u64, commands: u64) {
    let mut rng = Rng::new(seed);
    let mut model = Model::default();
    let (mut straight, mut reloaded) = (Store::new(), Store::new());
    let mut position = Position { index: 0, term: 1 };
    let mut next_numbers: BTreeMap<SessionId, u64> = BTreeMap::new();
    let mut held: Option<(View, BTreeMap<Bytes, KeyValue>)> = None;
    for _ in 0..commands {
        position.index += rng.between(1, 2);
        position.term += u64::from(rng.chance(10));
        match rng.below(100) {
            0 => {
                straight.apply_empty(position);
                reloaded.apply_empty(position);
            }
            1 => {
                let members: Vec<NodeId> = (1..=4).filter(|_| rng.chance(800)).collect();
                let configuration = Bytes::from(format!("{members:?} {}", rng.below(3)));
                model.set_members(&members);
                straight.set_configuration(position, configuration.clone(), &members);
                reloaded.set_configuration(position, configuration, &members);
            }
            _ => {
                let command = command(&mut rng, &mut next_numbers);
                let expected = model.apply(&command);
                assert_eq!(straight.apply(position, &command), expected, "seed {seed}, {position:?}: {command:?}");
                let decoded = Command::decode(command.encode()).unwrap();
                assert_eq!(decoded, command, "seed {seed}");
                assert_eq!(reloaded.apply(position, &decoded), expected, "seed {seed}, {position:?}");
            }
        }
        assert_eq!(straight.state_hash(), reloaded.state_hash(), "seed {seed}, {position:?}");
        assert_eq!((straight.revision(), straight.applied()), (model.revision, position), "seed {seed}");
        assert_eq!(reloaded.view().accepted_ms(), model.accepted_ms, "seed {seed}, {position:?}");
        let asked = request(&mut rng, &mut next_numbers.clone());
        if model.sessions.contains_key(&asked.session.node) {
            assert_eq!(straight.answer(&asked), model.answer(&asked), "seed {seed}, {position:?}: {asked:?}");
        }
        if rng.chance(5) {
            reloaded = reload(&reloaded, &mut rng);
            assert_eq!(reloaded.content_hash(), straight.content_hash(), "seed {seed}, {position:?}");
        }
        if rng.chance(20) {
            same(seed, &straight, &reloaded, &model);
        }
        if rng.chance(10) {
            if let Some((view, keys)) = held.take() {
                assert_eq!(content(&view), keys, "seed {seed}: a view changed");
            }
            held = Some((straight.view(), model.keys.clone()));
        }
    }
    same(seed, &straight, &reloaded, &model);
}

fn same(seed: u64, straight: &Store, reloaded: &Store, model: &Model) {
    for store in [straight, reloaded] {
        let view = store.view();
        assert_eq!(content(&view), model.keys, "seed {seed}");
        assert_eq!(view.len(), model.keys.len() as u64, "seed {seed}");
        for (key, expected) in &model.keys {
            assert_eq!(view.get(key).as_ref(), Some(expected), "seed {seed}");
        }
        for node in 0..6 {
            assert_eq!(store.session(node), model.sessions.get(&node).map(|session| session.boot), "seed {seed}");
        }
    }
}

fn content(view: &View) -> BTreeMap<Bytes, KeyValue> {
    view.range(b"", None).collect()
}

fn command(rng: &mut Rng, next_numbers: &mut BTreeMap<SessionId, u64>) -> Command {
    if rng.chance(30) {
        return Command::Register { session: session(rng) };
    }
    let operations = (0..rng.below(5)).map(|_| operation(rng)).collect();
    let idempotency = rng.chance(200).then(|| IdempotencyKey {
        key: Bytes::from(format!("key {}", rng.below(200))),
        fingerprint: rng.below(10) / 9,
    });
    Command::Write { request: request(rng, next_numbers), accepted_ms: rng.below(1000), idempotency, operations }
}

fn operation(rng: &mut Rng) -> Operation {
    let key = match rng.below(200) {
        0 => Bytes::new(),
        1 => Bytes::from(vec![255; rng.between(1, 100) as usize]),
        _ => Bytes::from(format!("k{}", rng.below(60))),
    };
    match rng.below(3) {
        0 => Operation::Delete { key },
        _ => Operation::Put { key, value: Bytes::from(vec![rng.next_u64() as u8; rng.below(200) as usize]) },
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

fn reload(store: &Store, rng: &mut Rng) -> Store {
    let mut stream = Vec::new();
    let written = store.frozen().write_to(&mut |piece| {
        stream.extend_from_slice(piece);
        Ok::<(), ()>(())
    });
    assert_eq!(written, Ok(()));
    let mut rest = Bytes::from(stream);
    let loaded = Store::load(&mut || {
        let block = rest.split_to(rest.len().min(rng.below(3000) as usize));
        Ok::<_, ()>((!block.is_empty() || !rest.is_empty()).then_some(block))
    })
    .unwrap();
    assert_eq!(loaded.configuration(), store.configuration());
    loaded
}
