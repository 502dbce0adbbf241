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
use crate::command::{
    self, Action, Answer, Command, Expired, IdempotencyKey, MAX_LEASE, Operation, OverLimit, Refusal, RequestId,
    SessionId,
};
use crate::execute::{self, Edit, Failed};
use crate::history::{self, Changed, Entries, Tail};
use crate::keys::{DATA_END, Key};
use crate::leases::Lease;
use crate::record::{self, Meta};
use crate::sessions::{FirstUse, Seen, Session};
use crate::transaction::{Decided, Transaction};
use crate::view::{Compacted, Head, View};
use base::codec::{Malformed, Writer};
use base::{NodeId, Position};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use storage::StorageError;
use storage::engine::{self, AnyEngine, Batch, Engine, MemoryEngine, View as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many idempotency keys are remembered: the newest. Part of the replicated state machine.
pub const MAX_IDEMPOTENCY_KEYS: usize = 65_536;
/// So that a checkpoint's first record stays within what loading accepts.
pub const MAX_CONFIGURATION_BYTES: usize = 1024 * 1024;

pub struct Store {
    pub(crate) engine: AnyEngine,
    pub(crate) head: Head,
    pub(crate) configuration: Bytes,
    /// Who may have a session; `None` until the first configuration: anyone.
    pub(crate) members: Option<BTreeSet<NodeId>>,
    pub(crate) sessions: BTreeMap<NodeId, Session>,
    /// The keys of the idempotency entries, oldest first.
    pub(crate) idempotency: VecDeque<Bytes>,
    /// How many idempotency entries there have ever been: the next one's number.
    pub(crate) idempotency_next: u64,
    pub(crate) tail: Tail,
    /// The first revision of the oldest block in the engine. Not a part of the state: it follows the compacted revision
    /// in small steps.
    pub(crate) swept: u64,
    /// Where it was sealed and is not durable yet. Not a part of the state.
    pub(crate) sealed: VecDeque<Position>,
}

/// How many blocks of compacted revisions an applied entry takes out of the engine, …
const SWEPT_BLOCKS: usize = 2;
/// … and how many superseded versions, beside two for each that it supersedes.
const TIDIED_VERSIONS: usize = 64;

impl Store {
    /// An empty one, on an empty engine.
    pub fn new(engine: AnyEngine) -> Store {
        Store {
            engine,
            head: Head::default(),
            configuration: Bytes::new(),
            members: None,
            sessions: BTreeMap::new(),
            idempotency: VecDeque::new(),
            idempotency_next: 0,
            tail: Tail::new(1),
            swept: 1,
            sealed: VecDeque::new(),
        }
    }

    pub fn in_memory() -> Store {
        Store::new(AnyEngine::Memory(MemoryEngine::without_past_from(past_ends())))
    }

    /// Applies the command of the entry at `position`. Positions rise; there is no going back. An error is the engine's:
    /// the entry may be applied in part, and the store must not be used any more.
    pub fn apply(&mut self, position: Position, command: &Command) -> Result<Answer, StorageError> {
        self.perform(position, command, None)
    }

    /// The same, and tells what a transaction came to step by step, if this was the first time that it was applied.
    pub fn apply_for(
        &mut self,
        position: Position,
        command: &Command,
    ) -> Result<(Answer, Option<Decided>), StorageError> {
        let mut decided = None;
        let answer = self.perform(position, command, Some(&mut decided))?;
        Ok((answer, decided))
    }

    fn perform(&mut self, position: Position, command: &Command, wants: Wants<'_>) -> Result<Answer, StorageError> {
        self.advance(position);
        let answer = match command {
            Command::Register { session } => self.register(session),
            Command::Write { request, accepted_ms, idempotency, operations } => {
                self.accepted(*accepted_ms);
                self.once(request, idempotency.as_ref(), Work::Operations(operations), None)?
            }
            Command::Act { request, accepted_ms, idempotency, action } => {
                self.accepted(*accepted_ms);
                match request {
                    Some(request) => self.once(request, idempotency.as_ref(), Work::Action(action), wants)?,
                    None => self.decide(idempotency.as_ref(), Work::Action(action), wants)?,
                }
            }
        };
        self.tidy(&answer)?;
        Ok(answer)
    }

    /// Passes an entry that changes nothing but the position: a new leader's first, or one that can't be read.
    pub fn apply_empty(&mut self, position: Position) -> Result<(), StorageError> {
        self.advance(position);
        self.tidy(&Answer::Registered)
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
        self.mix_numbers(Mixed::Configuration, members.iter().copied());
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
    pub fn content_hash(&self) -> Result<u64, StorageError> {
        self.frozen().content_hash()
    }

    /// The state as it is now, for readers on any thread. Cheap.
    pub fn view(&self) -> View {
        View::new(self.engine.view(), self.head, Entries::new(self.tail.first, self.tail.entries()))
    }

    /// All of the state as it is now, to be written out on any thread. Copies the sessions, shares the rest.
    pub fn frozen(&self) -> Frozen {
        let view = self.view();
        let past = view.engine.history(self.head.compacted.index).expect("nothing above the compacted is evicted");
        Frozen {
            view,
            past,
            tail: self.tail.clone(),
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
        self.mix_numbers(Mixed::Position, [position.index, position.term]);
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
        self.mix_numbers(Mixed::Session, [id.node, id.boot]);
        Answer::Registered
    }

    fn accepted(&mut self, accepted_ms: u64) {
        self.head.accepted_ms = accepted_ms;
        self.mix_numbers(Mixed::Accepted, [accepted_ms]);
    }

    /// Does the work unless the request was answered before, or never will be.
    fn once(
        &mut self,
        request: &RequestId,
        idempotency: Option<&IdempotencyKey>,
        work: Work<'_>,
        wants: Wants<'_>,
    ) -> Result<Answer, StorageError> {
        let SessionId { node, boot } = request.session;
        let Some(session) = self.sessions.get_mut(&node) else {
            return Ok(Answer::Refused(Refusal::UnknownSession));
        };
        match boot.cmp(&session.boot) {
            Ordering::Less => return Ok(Answer::Refused(Refusal::OlderBoot)),
            Ordering::Greater => return Ok(Answer::Refused(Refusal::UnknownSession)),
            Ordering::Equal => {}
        }
        session.raise(request.low_water);
        let seen = session.look(request.number);
        self.mix_numbers(Mixed::LowWater, [node, request.low_water]);
        match seen {
            Seen::Answered(answer) => return Ok(answer),
            Seen::Forgotten => return Ok(Answer::Refused(Refusal::Stale)),
            Seen::TooFar => return Ok(Answer::Refused(Refusal::WindowExceeded)),
            Seen::Never => {}
        }
        let answer = self.decide(idempotency, work, wants)?;
        if let Some(session) = self.sessions.get_mut(&node) {
            session.record(request.number, answer);
        }
        let mut writer = Writer::with_capacity(32);
        writer.varint(request.number);
        answer.encode(&mut writer);
        self.mix(writer.as_slice());
        Ok(answer)
    }

    /// What a request that was not seen before in its session comes to.
    fn decide(
        &mut self,
        idempotency: Option<&IdempotencyKey>,
        work: Work<'_>,
        wants: Wants<'_>,
    ) -> Result<Answer, StorageError> {
        if command::check_idempotency(idempotency).and_then(|()| work.check()).is_err() {
            return Ok(Answer::Refused(Refusal::OverLimit));
        }
        if let Some(IdempotencyKey { key, fingerprint }) = idempotency
            && let Some(first) = self.first_use(key)?
        {
            let is_same = first.fingerprint == *fingerprint;
            return Ok(if is_same { first.answer } else { Answer::Refused(Refusal::KeyReused) });
        }
        let mut batch = Batch::with_capacity(work.len() + 2);
        let answer = match work {
            Work::Operations(operations) => {
                let (revision, changed) = self.change(last_of_each_key(operations), &mut batch)?;
                Answer::Done { revision, changed }
            }
            Work::Action(action) => self.act(action, &mut batch, wants)?,
        };
        if let Some(idempotency) = idempotency {
            self.remember(idempotency, answer, &mut batch);
        }
        if !batch.is_empty() {
            self.engine.write(self.head.applied.index, batch)?;
        }
        Ok(answer)
    }

    fn act(&mut self, action: &Action, batch: &mut Batch, wants: Wants<'_>) -> Result<Answer, StorageError> {
        match action {
            Action::Compact { revision } => self.compact(*revision),
            Action::Transaction(transaction) => self.transact(transaction, batch, wants),
            Action::Grant { lease, ttl_seconds } => self.grant(*lease, *ttl_seconds, batch),
            Action::KeepAlive { lease } => match Lease::find(*lease, &self.engine.view())? {
                Some(Lease { id, ttl_seconds, .. }) => Ok(self.give_time(id, ttl_seconds, batch)),
                None => Ok(Answer::Refused(Refusal::NoLease)),
            },
            Action::Revoke { lease } => match Lease::find(*lease, &self.engine.view())? {
                Some(lease) => self.end_leases(&[lease], batch),
                None => Ok(Answer::Refused(Refusal::NoLease)),
            },
            Action::Expire { leases } => {
                let mut over = self.those_over(leases)?;
                over.sort_by_key(|lease| lease.id);
                over.dedup();
                self.end_leases(&over, batch)
            }
        }
    }

    /// Those of the leases that nobody has kept alive since.
    fn those_over(&self, leases: &[Expired]) -> Result<Vec<Lease>, StorageError> {
        let view = self.engine.view();
        let mut over = Vec::with_capacity(leases.len());
        for expired in leases {
            over.extend(Lease::find(expired.lease, &view)?.filter(|lease| lease.since == expired.since));
        }
        Ok(over)
    }

    fn transact(
        &mut self,
        transaction: &Transaction,
        batch: &mut Batch,
        wants: Wants<'_>,
    ) -> Result<Answer, StorageError> {
        let revision = self.head.revision + 1;
        let done = execute::execute(transaction, self.engine.view(), revision, wants.is_some());
        let (decided, overlay) = match done {
            Ok(done) => done,
            Err(Failed::NoLease) => return Ok(Answer::Refused(Refusal::NoLease)),
            Err(Failed::Storage(error)) => return Err(error),
        };
        let (revision, changed) = self.change(overlay.edits(), batch)?;
        let succeeded = decided.succeeded;
        if let Some(wants) = wants {
            *wants = Some(decided);
        }
        Ok(Answer::Decided { succeeded, revision, changed })
    }

    fn grant(&mut self, wanted: u64, ttl_seconds: u64, batch: &mut Batch) -> Result<Answer, StorageError> {
        let view = self.engine.view();
        let is_there = |id| Lease::find(id, &view).map(|found| found.is_some());
        let mut id = wanted;
        if wanted == 0 {
            // No entry comes twice, so neither does this, unless somebody chose it.
            id = self.head.applied.index;
            while is_there(id)? {
                id = (xxh3_64_with_seed(&id.to_le_bytes(), 0) & MAX_LEASE).max(1);
            }
        } else if is_there(id)? {
            return Ok(Answer::Refused(Refusal::LeaseExists));
        }
        self.head.leases += 1;
        Ok(self.give_time(id, ttl_seconds, batch))
    }

    fn give_time(&mut self, id: u64, ttl_seconds: u64, batch: &mut Batch) -> Answer {
        let since = self.head.applied.index;
        batch.put(Key::Lease(id).encode(), Lease { id, ttl_seconds, since }.encode());
        self.mix_numbers(Mixed::Lease, [id, ttl_seconds, since]);
        Answer::Granted { lease: id, ttl_seconds }
    }

    /// All of their keys go in one revision.
    fn end_leases(&mut self, leases: &[Lease], batch: &mut Batch) -> Result<Answer, StorageError> {
        let view = self.view();
        let keys = leases.iter().flat_map(|lease| view.lease_keys(lease.id, b""));
        let mut keys = keys.collect::<Result<Vec<Bytes>, StorageError>>()?;
        drop(view);
        // No key has two leases.
        keys.sort();
        let (revision, changed) = self.change(keys.iter().map(|key| Edit { key, put: None }), batch)?;
        for lease in leases {
            self.head.leases -= 1;
            batch.delete(Key::Lease(lease.id).encode());
            self.mix_numbers(Mixed::LeaseEnded, [lease.id]);
        }
        Ok(Answer::Done { revision, changed })
    }

    fn compact(&mut self, revision: u64) -> Result<Answer, StorageError> {
        if revision <= self.head.compacted.revision {
            return Ok(Answer::Refused(Refusal::Compacted));
        }
        if revision > self.head.revision {
            return Ok(Answer::Refused(Refusal::FutureRevision));
        }
        let Changed { index, past_bytes, .. } = self.view().entry(revision)?;
        self.head.compacted = Compacted { revision, index, past_bytes };
        self.engine.evict_below(index);
        self.mix_numbers(Mixed::Compacted, [revision]);
        Ok(Answer::Done { revision: self.head.revision, changed: 0 })
    }

    /// Takes out a little of what was compacted.
    fn tidy(&mut self, answer: &Answer) -> Result<(), StorageError> {
        let changed = match answer {
            Answer::Done { changed, .. } | Answer::Decided { changed, .. } => *changed as usize,
            _ => 0,
        };
        if self.swept < self.head.compacted.revision.min(self.tail.first) {
            let mut batch = Batch::new();
            for _ in 0..SWEPT_BLOCKS {
                self.sweep(&mut batch)?;
            }
            if !batch.is_empty() {
                self.engine.write(self.head.applied.index, batch)?;
            }
        }
        self.engine.tidy(TIDIED_VERSIONS + 2 * changed);
        Ok(())
    }

    /// Deletes the oldest block, if nobody will ask for any of it.
    fn sweep(&mut self, batch: &mut Batch) -> Result<(), StorageError> {
        let key = Key::Changes { first: self.swept, part: 0 };
        let home = key.encode();
        let Some(block) = self.engine.get(home.as_slice())? else { return Ok(()) };
        let (revisions, _) = Entries::of_block(self.swept, block).map_err(|malformed| key.damaged(malformed))?;
        if self.swept + revisions > self.head.compacted.revision {
            return Ok(());
        }
        batch.delete(home);
        for part in 1.. {
            let home = Key::Changes { first: self.swept, part }.encode();
            if self.engine.look(home.as_slice(), |part| part.is_none())? {
                break;
            }
            batch.delete(home);
        }
        self.swept += revisions;
        Ok(())
    }

    /// Plans the edits into `batch`, all at one revision. They come in the order of their keys, each once. Gives the
    /// revision and how many keys really changed.
    fn change<'a>(
        &mut self,
        edits: impl IntoIterator<Item = Edit<'a>>,
        batch: &mut Batch,
    ) -> Result<(u64, u32), StorageError> {
        let revision = self.head.revision + 1;
        let edits = edits.into_iter();
        let (mut changed, mut superseded_bytes) = (Vec::with_capacity(edits.size_hint().0), 0);
        for Edit { key, put } in edits {
            let home = Key::Data(key).encode();
            let before = self.engine.look(home.as_slice(), |record| {
                record.map(|record| Ok((record::decode_meta(record)?.0, record.len()))).transpose()
            })?;
            let before = before.map_err(|malformed: Malformed| Key::Data(key).damaged(malformed))?;
            if let Some((_, record_bytes)) = before {
                superseded_bytes += history::superseded_bytes(key, record_bytes);
            }
            let lease = put.map_or(0, |(_, lease)| lease);
            let lease_before = before.map_or(0, |(before, _)| before.lease);
            if lease_before != lease {
                if lease_before != 0 {
                    batch.delete(Key::Leased(lease_before, key).encode());
                }
                if lease != 0 {
                    batch.put(Key::Leased(lease, key).encode(), Bytes::new());
                }
            }
            match put {
                Some((value, lease)) => {
                    let meta = match before {
                        Some((before, _)) => {
                            Meta { mod_revision: revision, version: before.version + 1, lease, ..before }
                        }
                        None => {
                            self.head.keys += 1;
                            Meta { create_revision: revision, mod_revision: revision, version: 1, lease }
                        }
                    };
                    let record = record::encode(meta, value);
                    self.mix(key);
                    self.mix(&record);
                    batch.put(home, record);
                }
                None => {
                    if before.is_none() {
                        continue;
                    }
                    self.head.keys -= 1;
                    self.mix(key);
                    self.mix_numbers(Mixed::Deleted, [revision]);
                    batch.delete(home);
                }
            }
            changed.push(&key[..]);
        }
        if !changed.is_empty() {
            self.enter(&changed, superseded_bytes, batch);
        }
        Ok((self.head.revision, changed.len() as u32))
    }

    /// Takes the next revision for a change of these keys.
    fn enter(&mut self, keys: &[&[u8]], superseded_bytes: u64, batch: &mut Batch) {
        let (count, key_bytes) = (keys.len() as u64, keys.iter().map(|key| key.len()).sum());
        let head = &mut self.head;
        head.revision += 1;
        head.past_bytes += superseded_bytes + history::entry_bytes(key_bytes, count);
        let (index, past_bytes) = (head.applied.index, head.past_bytes);
        let changed = Changed { revision: head.revision, index, past_bytes, keys: count };
        self.tail.push(changed, keys.iter().copied(), batch);
    }

    fn first_use(&self, key: &[u8]) -> Result<Option<FirstUse>, StorageError> {
        let home = Key::Idempotency(key);
        let first = self.engine.get(home.encode().as_slice())?.map(FirstUse::decode).transpose();
        first.map_err(|malformed| home.damaged(malformed))
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

    fn mix_numbers(&mut self, change: Mixed, numbers: impl IntoIterator<Item = u64>) {
        let mut bytes = [0; 17];
        bytes[0] = change as u8;
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[1] = at as u8;
            bytes[9..].copy_from_slice(&number.to_le_bytes());
            self.mix(&bytes);
        }
    }
}

/// Keys from here on have no past in the engine.
pub(crate) fn past_ends() -> engine::Key {
    engine::Key::new(DATA_END)
}

/// What a request asks for, once it is clear that it is to be done.
#[derive(Clone, Copy)]
enum Work<'a> {
    Operations(&'a [Operation]),
    Action(&'a Action),
}

impl Work<'_> {
    fn check(&self) -> Result<(), OverLimit> {
        match self {
            Work::Operations(operations) => command::check_operations(operations),
            Work::Action(action) => action.check(),
        }
    }

    /// About how many keys it changes.
    fn len(&self) -> usize {
        match self {
            Work::Operations(operations) => operations.len(),
            Work::Action(_) => 0,
        }
    }
}

/// Where to put what a transaction's steps gave, if anybody wants to know.
type Wants<'a> = Option<&'a mut Option<Decided>>;

/// In the order of their keys.
fn last_of_each_key(operations: &[Operation]) -> impl Iterator<Item = Edit<'_>> {
    let mut last: Vec<&Operation> = operations.iter().rev().collect();
    last.sort_by_key(|operation| operation.key());
    last.dedup_by_key(|operation| operation.key());
    last.into_iter().map(|operation| match operation {
        Operation::Put { key, value } => Edit { key, put: Some((value, 0)) },
        Operation::Delete { key } => Edit { key, put: None },
    })
}

/// Keeps the kinds of changes apart in the state hash.
#[derive(Clone, Copy)]
enum Mixed {
    Position = 1,
    Configuration,
    Session,
    LowWater,
    Deleted,
    Accepted,
    Compacted,
    Lease,
    LeaseEnded,
}
