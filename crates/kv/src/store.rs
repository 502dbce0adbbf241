//! The store: applies committed entries in order, each in one atomic step.
//!
//! The engine holds what can grow large: users' records, and the idempotency entries. Sessions, configuration and the
//! counters are small and lie in the store itself; whatever must be read together with the engine (a [`View`], a
//! [`Frozen`] checkpoint) takes a copy of them along.
//!
//! The state hash is a chain: every entry, and every change that it makes, is hashed into what was there before. It
//! costs no look at the rest of the state, goes along in checkpoints, and two replicas that ever differed keep
//! differing hashes. What it can't see is memory or a checkpoint that changed by itself; [`Store::content_hash`] can.

use crate::checkpoint::Frozen;
use crate::command::{self, Answer, Command, IdempotencyKey, Operation, Refusal, RequestId, SessionId};
use crate::keys::Key;
use crate::record::{self, Meta};
use crate::sessions::{FirstUse, Seen, Session};
use crate::view::{Head, View};
use base::codec::Writer;
use base::{NodeId, Position};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use storage::engine::{Batch, Engine, MemoryEngine};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many idempotency keys are remembered: the newest. Part of the replicated state machine.
pub const MAX_IDEMPOTENCY_KEYS: usize = 65_536;
/// So that a checkpoint's first record stays within what loading accepts.
pub const MAX_CONFIGURATION_BYTES: usize = 1024 * 1024;

pub struct Store {
    pub(crate) engine: MemoryEngine,
    pub(crate) head: Head,
    pub(crate) configuration: Bytes,
    /// Who may have a session; `None` until the first configuration: anyone.
    pub(crate) members: Option<BTreeSet<NodeId>>,
    pub(crate) sessions: BTreeMap<NodeId, Session>,
    /// The keys of the idempotency entries, oldest first.
    pub(crate) idempotency: VecDeque<Bytes>,
    /// How many idempotency entries there have ever been: the next one's number.
    pub(crate) idempotency_next: u64,
}

impl Store {
    pub fn new() -> Store {
        Store {
            engine: MemoryEngine::new(),
            head: Head::default(),
            configuration: Bytes::new(),
            members: None,
            sessions: BTreeMap::new(),
            idempotency: VecDeque::new(),
            idempotency_next: 0,
        }
    }

    /// Applies the command of the entry at `position`. Positions rise; there is no going back.
    pub fn apply(&mut self, position: Position, command: &Command) -> Answer {
        self.advance(position);
        match command {
            Command::Register { session } => self.register(session),
            Command::Write { request, accepted_ms, idempotency, operations } => {
                self.head.accepted_ms = *accepted_ms;
                self.mix_numbers(Change::Accepted, [*accepted_ms]);
                self.write(request, idempotency.as_ref(), operations)
            }
        }
    }

    /// Passes an entry that changes nothing but the position: a new leader's first, or one that can't be read.
    pub fn apply_empty(&mut self, position: Position) {
        self.advance(position);
    }

    /// Takes over a configuration, which is opaque here but a part of the state. Sessions of nodes that are not among
    /// `members` end, and from now on only members can have one. A new store also takes its cluster's first
    /// configuration at position 0, where no entry is.
    ///
    /// Panics if it is longer than [`MAX_CONFIGURATION_BYTES`].
    pub fn set_configuration(&mut self, position: Position, configuration: Bytes, members: &[NodeId]) {
        assert!(configuration.len() <= MAX_CONFIGURATION_BYTES, "a configuration of {} bytes", configuration.len());
        if position != Position::default() || self.head.applied != Position::default() {
            self.advance(position);
        }
        let members: BTreeSet<NodeId> = members.iter().copied().collect();
        self.sessions.retain(|node, _| members.contains(node));
        self.mix(&configuration);
        self.mix_numbers(Change::Configuration, members.iter().copied());
        self.configuration = Bytes::copy_from_slice(&configuration);
        self.members = Some(members);
    }

    /// The configuration last set; empty if none was.
    pub fn configuration(&self) -> &Bytes {
        &self.configuration
    }

    /// What became of a request, as far as this store has applied: `None` if it has not been applied yet, and still
    /// may be. `Refused(Stale)` says that it was answered or given up, and that its answer is forgotten.
    pub fn answer(&self, request: &RequestId) -> Option<Answer> {
        let SessionId { node, boot } = request.session;
        let Some(session) = self.sessions.get(&node) else {
            let banned = self.members.as_ref().is_some_and(|members| !members.contains(&node));
            return banned.then_some(Answer::Refused(Refusal::UnknownSession));
        };
        match boot.cmp(&session.boot) {
            Ordering::Less => Some(Answer::Refused(Refusal::OlderBoot)),
            Ordering::Greater => None,
            Ordering::Equal => match session.look(request.number) {
                Seen::Answered(answer) => Some(answer),
                Seen::Forgotten => Some(Answer::Refused(Refusal::Stale)),
                Seen::Never | Seen::TooFar => None,
            },
        }
    }

    /// The boot of the node's session.
    pub fn session(&self, node: NodeId) -> Option<u64> {
        self.sessions.get(&node).map(|session| session.boot)
    }

    pub fn applied(&self) -> Position {
        self.head.applied
    }

    pub fn revision(&self) -> u64 {
        self.head.revision
    }

    /// How many keys there are.
    pub fn len(&self) -> u64 {
        self.head.keys
    }

    pub fn is_empty(&self) -> bool {
        self.head.keys == 0
    }

    /// Equal on all replicas that have applied the same entries.
    pub fn state_hash(&self) -> u64 {
        self.head.state_hash
    }

    /// A hash of the whole state computed afresh. Slow: reads everything.
    pub fn content_hash(&self) -> u64 {
        self.frozen().content_hash()
    }

    /// The state as it is now, for readers on any thread. Cheap.
    pub fn view(&self) -> View {
        View { engine: self.engine.view(), head: self.head }
    }

    /// All of the state as it is now, to be written out on any thread. Copies the sessions, shares the rest.
    pub fn frozen(&self) -> Frozen {
        Frozen {
            view: self.view(),
            configuration: self.configuration.clone(),
            members: self.members.clone(),
            sessions: self.sessions.clone(),
            idempotency_count: self.idempotency.len() as u64,
            idempotency_next: self.idempotency_next,
        }
    }

    fn advance(&mut self, position: Position) {
        let applied = self.head.applied;
        assert!(
            position.index > applied.index && position.term >= applied.term,
            "entry {position:?} after {applied:?}"
        );
        self.head.applied = position;
        self.mix_numbers(Change::Position, [position.index, position.term]);
    }

    fn register(&mut self, id: &SessionId) -> Answer {
        if self.members.as_ref().is_some_and(|members| !members.contains(&id.node)) {
            return Answer::Refused(Refusal::NotAMember);
        }
        match self.sessions.get(&id.node).map(|session| id.boot.cmp(&session.boot)) {
            Some(Ordering::Less) => return Answer::Refused(Refusal::OlderBoot),
            Some(Ordering::Equal) => return Answer::Registered,
            Some(Ordering::Greater) | None => {}
        }
        self.sessions.insert(id.node, Session::new(id.boot));
        self.mix_numbers(Change::Session, [id.node, id.boot]);
        Answer::Registered
    }

    fn write(&mut self, request: &RequestId, idempotency: Option<&IdempotencyKey>, operations: &[Operation]) -> Answer {
        let SessionId { node, boot } = request.session;
        let Some(session) = self.sessions.get_mut(&node) else {
            return Answer::Refused(Refusal::UnknownSession);
        };
        match boot.cmp(&session.boot) {
            Ordering::Less => return Answer::Refused(Refusal::OlderBoot),
            Ordering::Greater => return Answer::Refused(Refusal::UnknownSession),
            Ordering::Equal => {}
        }
        session.raise(request.low_water);
        let seen = session.look(request.number);
        self.mix_numbers(Change::LowWater, [node, request.low_water]);
        match seen {
            Seen::Answered(answer) => return answer,
            Seen::Forgotten => return Answer::Refused(Refusal::Stale),
            Seen::TooFar => return Answer::Refused(Refusal::WindowExceeded),
            Seen::Never => {}
        }
        let answer = self.decide(idempotency, operations);
        if let Some(session) = self.sessions.get_mut(&node) {
            session.record(request.number, answer);
        }
        let mut writer = Writer::with_capacity(32);
        writer.varint(request.number);
        answer.encode(&mut writer);
        self.mix(writer.as_slice());
        answer
    }

    /// What a request that was not seen before in its session comes to.
    fn decide(&mut self, idempotency: Option<&IdempotencyKey>, operations: &[Operation]) -> Answer {
        if command::check_write(idempotency, operations).is_err() {
            return Answer::Refused(Refusal::OverLimit);
        }
        if let Some(IdempotencyKey { key, fingerprint }) = idempotency
            && let Some(first) = self.first_use(key)
        {
            return if first.fingerprint == *fingerprint { first.answer } else { Answer::Refused(Refusal::KeyReused) };
        }
        let mut batch = Batch::with_capacity(operations.len() + 2);
        let answer = self.change(operations, &mut batch);
        if let Some(idempotency) = idempotency {
            self.remember(idempotency, answer, &mut batch);
        }
        if !batch.is_empty() {
            let index = self.head.applied.index;
            let Ok(()) = self.engine.write(index, batch);
            self.engine.evict_below(index);
        }
        answer
    }

    /// Plans the operations into `batch`, all at one revision.
    fn change(&mut self, operations: &[Operation], batch: &mut Batch) -> Answer {
        let revision = self.head.revision + 1;
        let mut changed = 0;
        for operation in last_of_each_key(operations) {
            let home = Key::Data(operation.key()).encode();
            let Ok(before) = self.engine.get(home.as_slice());
            match operation {
                Operation::Put { key, value } => {
                    let meta = match before {
                        Some(record) => {
                            let (before, _) = record::decode(record).expect("the engine holds what was put into it");
                            Meta { mod_revision: revision, version: before.version + 1, ..before }
                        }
                        None => {
                            self.head.keys += 1;
                            Meta { create_revision: revision, mod_revision: revision, version: 1 }
                        }
                    };
                    let record = record::encode(meta, value);
                    self.mix(key);
                    self.mix(&record);
                    batch.put(home, record);
                }
                Operation::Delete { key } => {
                    if before.is_none() {
                        continue;
                    }
                    self.head.keys -= 1;
                    self.mix(key);
                    self.mix_numbers(Change::Deleted, [revision]);
                    batch.delete(home);
                }
            }
            changed += 1;
        }
        if changed > 0 {
            self.head.revision = revision;
        }
        Answer::Done { revision: self.head.revision, changed }
    }

    fn first_use(&self, key: &[u8]) -> Option<FirstUse> {
        let Ok(value) = self.engine.get(Key::Idempotency(key).encode().as_slice());
        Some(FirstUse::decode(value?).expect("the engine holds what was put into it"))
    }

    fn remember(&mut self, IdempotencyKey { key, fingerprint }: &IdempotencyKey, answer: Answer, batch: &mut Batch) {
        if self.idempotency.len() >= MAX_IDEMPOTENCY_KEYS
            && let Some(oldest) = self.idempotency.pop_front()
        {
            batch.delete(Key::Idempotency(&oldest).encode());
        }
        let first = FirstUse { order: self.idempotency_next, fingerprint: *fingerprint, answer }.encode();
        self.mix(key);
        self.mix(&first);
        batch.put(Key::Idempotency(key).encode(), first);
        self.idempotency.push_back(Bytes::copy_from_slice(key));
        self.idempotency_next += 1;
    }

    fn mix(&mut self, bytes: &[u8]) {
        self.head.state_hash = xxh3_64_with_seed(bytes, self.head.state_hash);
    }

    fn mix_numbers(&mut self, change: Change, numbers: impl IntoIterator<Item = u64>) {
        let mut bytes = [0; 17];
        bytes[0] = change as u8;
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[1] = at as u8;
            bytes[9..].copy_from_slice(&number.to_le_bytes());
            self.mix(&bytes);
        }
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

/// In the order of their keys.
fn last_of_each_key(operations: &[Operation]) -> Vec<&Operation> {
    let mut last: Vec<&Operation> = operations.iter().rev().collect();
    last.sort_by_key(|operation| operation.key());
    last.dedup_by_key(|operation| operation.key());
    last
}

/// Keeps the kinds of changes apart in the state hash.
#[derive(Clone, Copy)]
enum Change {
    Position = 1,
    Configuration,
    Session,
    LowWater,
    Deleted,
    Accepted,
}
