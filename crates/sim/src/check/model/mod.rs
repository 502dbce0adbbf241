//! A second opinion on what the committed entries mean: keys with their revisions, transactions, leases, compactions,
//! sessions, idempotency keys, members.
//!
//! It is written from the rules as the documentation states them, and shares with the store nothing but the bytes of a
//! command and the types of its answers. It keeps all of its past, so a replica that is behind can be judged too, and so
//! can what is read at a past revision.

mod members;
mod transactions;

pub use transactions::{is_within, page};

use base::{Index, NodeId};
use bytes::Bytes;
use kv::{Action, Answer, Command, Decided, Expired, IdempotencyKey, KeyValue, Operation, Refusal, RequestId};
use members::Members;
use std::collections::{BTreeMap, BTreeSet};
use storage::log::{EntryKind, LogEntry};
use transactions::{Changes, carry_out, may_change_a_key_twice};

#[derive(Default)]
pub struct Model {
    /// Each key's values, by the index from which on they stood.
    keys: BTreeMap<Bytes, Vec<(Index, Option<Version>)>>,
    /// Each lease in the same way.
    leases: BTreeMap<u64, Vec<(Index, Option<Held>)>>,
    /// From revision 1 on.
    revisions: Vec<Revision>,
    /// Which revision was the oldest, by the index from which on it was.
    compactions: Vec<(Index, u64)>,
    /// When writes were accepted, by the index of their entry.
    accepted: Vec<(Index, u64)>,
    sessions: BTreeMap<NodeId, Session>,
    idempotency: BTreeMap<Bytes, (u64, Answer)>,
    members: Members,
    /// Where each value, and each transaction, took effect.
    effects: BTreeMap<Bytes, u64>,
    acted: Vec<Acted>,
    pub members_changed: u64,
}

/// A transaction whose first condition is about a key that begins so is named by it, and takes effect once.
pub const NAME: &[u8] = b"op-";

/// All keys that are there.
pub type Keys = BTreeMap<Bytes, Version>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub value: Bytes,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
    pub lease: u64,
}

impl Version {
    fn put(before: Option<&Version>, value: Bytes, lease: u64, revision: u64) -> Version {
        Version {
            value,
            create_revision: before.map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.map_or(0, |before| before.version) + 1,
            lease,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub ttl_seconds: u64,
    /// The entry that granted it or kept it alive last.
    pub since: Index,
}

struct Revision {
    index: Index,
    /// In order.
    keys: Vec<Bytes>,
}

/// An action that somebody asked for, and what it came to.
pub struct Acted {
    pub index: Index,
    pub action: Action,
    pub answer: Answer,
    /// Unless an equal request was answered before.
    pub decided: Option<Decided>,
}

/// What a leader did by itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Chore {
    Ended { lease: u64, held: Held },
    Compacted { revision: u64 },
}

#[derive(Default)]
struct Session {
    boot: u64,
    low_water: u64,
    answered: BTreeSet<u64>,
}

impl Model {
    // What is known.

    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// The key as it was once everything up to that index was applied.
    pub fn at(&self, key: &[u8], index: Index) -> Option<&Version> {
        latest(self.keys.get(key)?, index)?.as_ref()
    }

    /// All keys as they were once everything up to that index was applied.
    pub fn all_at(&self, index: Index) -> Keys {
        let there = |(key, past): (&Bytes, &Vec<_>)| {
            let version: &Option<Version> = latest(past, index)?;
            Some((key.clone(), version.clone()?))
        };
        self.keys.iter().filter_map(there).collect()
    }

    pub fn leases_at(&self, index: Index) -> BTreeMap<u64, Held> {
        self.leases.iter().filter_map(|(id, past)| Some((*id, (*latest(past, index)?)?))).collect()
    }

    /// The revision of that index.
    pub fn revision_at(&self, index: Index) -> u64 {
        self.revisions.partition_point(|revision| revision.index <= index) as u64
    }

    pub fn revision(&self) -> u64 {
        self.revisions.len() as u64
    }

    /// The entry that made the revision. Before the first there was nothing.
    pub fn index_of(&self, revision: u64) -> Index {
        revision.checked_sub(1).map_or(0, |at| self.revisions[at as usize].index)
    }

    pub fn changed_by(&self, revision: u64) -> &[Bytes] {
        &self.revisions[revision as usize - 1].keys
    }

    /// The oldest revision that can be read.
    pub fn compacted_at(&self, index: Index) -> u64 {
        latest(&self.compactions, index).copied().unwrap_or(0)
    }

    pub fn accepted_ms_at(&self, index: Index) -> u64 {
        latest(&self.accepted, index).copied().unwrap_or(0)
    }

    /// The revision at which that value was written, or that transaction carried out.
    pub fn effect(&self, value: &Bytes) -> Option<u64> {
        self.effects.get(value).copied()
    }

    /// What was asked for and applied after that index.
    pub fn acted_after(&self, index: Index) -> &[Acted] {
        &self.acted[self.acted.partition_point(|acted| acted.index <= index)..]
    }

    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.members.voters
    }

    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(node)
    }

    /// The only member.
    pub fn is_alone(&self, node: NodeId) -> bool {
        let Members { voters, learners, outgoing, .. } = &self.members;
        voters.iter().eq([&node]) && learners.is_empty() && outgoing.is_empty()
    }

    pub fn is_joint(&self) -> bool {
        !self.members.outgoing.is_empty()
    }

    // What happens.

    /// Gives what a leader did by itself.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<Vec<Chore>, String> {
        let index = entry.position.index;
        match entry.kind {
            EntryKind::Change => {
                if self.members.apply(&entry.context) {
                    self.members_changed += 1;
                    let members = &self.members;
                    self.sessions.retain(|&node, _| members.contains(node));
                }
            }
            EntryKind::Normal if entry.data.is_empty() => {}
            EntryKind::Normal => match Command::decode(entry.data.clone()) {
                Ok(Command::Register { session }) => {
                    let newer = self.sessions.get(&session.node).is_none_or(|old| old.boot < session.boot);
                    if newer && self.members.contains(session.node) {
                        self.sessions.insert(session.node, Session { boot: session.boot, ..Session::default() });
                    }
                }
                Ok(Command::Write { request, accepted_ms, idempotency, operations }) => {
                    self.accepted.push((index, accepted_ms));
                    self.write(index, &request, idempotency, &operations)?;
                }
                Ok(Command::Act { request: Some(request), accepted_ms, idempotency, action }) => {
                    self.accepted.push((index, accepted_ms));
                    self.asked(index, &request, idempotency, action)?;
                }
                Ok(Command::Act { request: None, accepted_ms, idempotency: None, action }) => {
                    self.accepted.push((index, accepted_ms));
                    return self.chore(index, &action);
                }
                Ok(Command::Act { .. }) => {
                    return Err(format!("entry {index} is nobody's, and has an idempotency key"));
                }
                Err(error) => return Err(format!("entry {index} was proposed with {error}")),
            },
        }
        Ok(Vec::new())
    }

    fn write(
        &mut self,
        index: Index,
        request: &RequestId,
        idempotency: Option<IdempotencyKey>,
        operations: &[Operation],
    ) -> Result<(), String> {
        if !self.is_new(request) || self.earlier_answer(idempotency.as_ref()).is_some() {
            return Ok(());
        }
        let change = |operation: &Operation| match operation {
            Operation::Put { key, value } => (key.clone(), Some((value.clone(), 0))),
            Operation::Delete { key } => (key.clone(), None),
        };
        let changed = self.change(index, operations.iter().map(change).collect())?;
        self.remember(idempotency, Answer::Done { revision: self.revision(), changed });
        Ok(())
    }

    fn asked(
        &mut self,
        index: Index,
        request: &RequestId,
        idempotency: Option<IdempotencyKey>,
        action: Action,
    ) -> Result<(), String> {
        if !self.is_new(request) {
            return Ok(());
        }
        let is_valid = is_valid(&action);
        let (answer, decided) = match self.earlier_answer(idempotency.as_ref()) {
            _ if !is_valid => (Answer::Refused(Refusal::OverLimit), None),
            Some(answer) => (answer, None),
            None => {
                let (answer, decided) = self.act(index, &action)?;
                self.remember(idempotency, answer);
                (answer, decided)
            }
        };
        self.acted.push(Acted { index, action, answer, decided });
        Ok(())
    }

    fn chore(&mut self, index: Index, action: &Action) -> Result<Vec<Chore>, String> {
        match action {
            Action::Compact { revision } => match self.act(index, action)?.0 {
                Answer::Done { .. } => Ok(vec![Chore::Compacted { revision: *revision }]),
                // Proposed twice.
                Answer::Refused(Refusal::Compacted) => Ok(Vec::new()),
                answer => Err(format!("entry {index} is a leader's own compaction to {revision}, and {answer:?}")),
            },
            Action::Expire { leases } => {
                let over = self.over(leases).into_iter().map(|(lease, held)| Chore::Ended { lease, held }).collect();
                self.act(index, action)?;
                Ok(over)
            }
            action => Err(format!("entry {index} is nobody's: {action:?}")),
        }
    }

    fn act(&mut self, index: Index, action: &Action) -> Result<(Answer, Option<Decided>), String> {
        let answer = match action {
            Action::Compact { revision } if *revision <= self.compacted_at(index) => {
                Answer::Refused(Refusal::Compacted)
            }
            Action::Compact { revision } if *revision > self.revision() => Answer::Refused(Refusal::FutureRevision),
            Action::Compact { revision } => {
                self.compactions.push((index, *revision));
                Answer::Done { revision: self.revision(), changed: 0 }
            }
            Action::Transaction(transaction) => return self.transact(index, transaction),
            Action::Grant { lease, ttl_seconds } => {
                // Who leaves the choice to the store gets the number of the entry, which nobody here chooses himself.
                let lease = if *lease == 0 { index } else { *lease };
                match self.leases_at(index).contains_key(&lease) {
                    true => Answer::Refused(Refusal::LeaseExists),
                    false => self.hold(index, lease, *ttl_seconds),
                }
            }
            Action::KeepAlive { lease } => match self.leases_at(index).get(lease) {
                Some(held) => self.hold(index, *lease, held.ttl_seconds),
                None => Answer::Refused(Refusal::NoLease),
            },
            Action::Revoke { lease } => match self.leases_at(index).contains_key(lease) {
                true => self.end(index, &[*lease])?,
                false => Answer::Refused(Refusal::NoLease),
            },
            Action::Expire { leases } => {
                let over: Vec<u64> = self.over(leases).into_keys().collect();
                self.end(index, &over)?
            }
        };
        Ok((answer, None))
    }

    fn transact(&mut self, index: Index, transaction: &kv::Transaction) -> Result<(Answer, Option<Decided>), String> {
        let leases = self.leases_at(index).into_keys().collect();
        let revision = self.revision() + 1;
        match carry_out(transaction, &self.all_at(index), &leases, revision) {
            Err(refusal) => Ok((Answer::Refused(refusal), None)),
            Ok((decided, changes)) => {
                let changed = self.change(index, changes)?;
                let name = transaction.compares.first().map(|compare| compare.keys.start.clone());
                name.filter(|name| name.starts_with(NAME)).map_or(Ok(()), |name| self.took_effect(name))?;
                let (succeeded, revision) = (decided.succeeded, self.revision());
                Ok((Answer::Decided { succeeded, revision, changed }, Some(decided)))
            }
        }
    }

    fn hold(&mut self, index: Index, lease: u64, ttl_seconds: u64) -> Answer {
        self.leases.entry(lease).or_default().push((index, Some(Held { ttl_seconds, since: index })));
        Answer::Granted { lease, ttl_seconds }
    }

    /// Which of them were not kept alive since.
    fn over(&self, leases: &[Expired]) -> BTreeMap<u64, Held> {
        let held = self.leases_at(Index::MAX);
        let over = |expired: &Expired| Some((expired.lease, *held.get(&expired.lease)?, expired.since));
        leases.iter().filter_map(over).filter(|(_, held, since)| held.since == *since).map(|(l, h, _)| (l, h)).collect()
    }

    fn end(&mut self, index: Index, leases: &[u64]) -> Result<Answer, String> {
        let keys = self.all_at(index).into_iter().filter(|(_, version)| leases.contains(&version.lease));
        let changed = self.change(index, keys.map(|(key, _)| (key, None)).collect())?;
        for lease in leases {
            self.leases.entry(*lease).or_default().push((index, None));
        }
        Ok(Answer::Done { revision: self.revision(), changed })
    }

    /// How many keys were put or really deleted.
    fn change(&mut self, index: Index, changes: Changes) -> Result<u32, String> {
        let revision = self.revision() + 1;
        let mut keys = Vec::new();
        for (key, change) in changes {
            let past = self.keys.entry(key.clone()).or_default();
            let before = past.last().and_then(|(_, version)| version.as_ref());
            let after = match change {
                None if before.is_none() => continue,
                None => None,
                Some((value, lease)) => Some(Version::put(before, value, lease, revision)),
            };
            past.push((index, after));
            keys.push(key);
        }
        let changed = keys.len() as u32;
        if changed > 0 {
            let written: Vec<Bytes> = keys.iter().filter_map(|key| Some(self.at(key, index)?.value.clone())).collect();
            self.revisions.push(Revision { index, keys });
            written.into_iter().try_for_each(|value| self.took_effect(value))?;
        }
        Ok(changed)
    }

    /// At the newest revision.
    fn took_effect(&mut self, what: Bytes) -> Result<(), String> {
        let revision = self.revision();
        match self.effects.insert(what.clone(), revision) {
            Some(first) => Err(format!("the write of {what:?} took effect twice, at {first} and at {revision}")),
            None => Ok(()),
        }
    }

    /// Whether the request was not applied before, and may still be.
    fn is_new(&mut self, request: &RequestId) -> bool {
        let session = self.sessions.get_mut(&request.session.node).filter(|s| s.boot == request.session.boot);
        session.is_some_and(|session| {
            session.low_water = session.low_water.max(request.low_water);
            request.number >= session.low_water && session.answered.insert(request.number)
        })
    }

    fn earlier_answer(&self, idempotency: Option<&IdempotencyKey>) -> Option<Answer> {
        let IdempotencyKey { key, fingerprint } = idempotency?;
        let (first, answer) = self.idempotency.get(key)?;
        Some(if first == fingerprint { *answer } else { Answer::Refused(Refusal::KeyReused) })
    }

    fn remember(&mut self, idempotency: Option<IdempotencyKey>, answer: Answer) {
        self.idempotency.extend(idempotency.map(|IdempotencyKey { key, fingerprint }| (key, (fingerprint, answer))));
    }
}

/// What stood last at that index.
fn latest<T>(past: &[(Index, T)], index: Index) -> Option<&T> {
    past[..past.partition_point(|(from, _)| *from <= index)].last().map(|(_, what)| what)
}

pub fn key_value(version: &Version) -> KeyValue {
    let Version { value, create_revision, mod_revision, version, lease } = version.clone();
    KeyValue { value, create_revision, mod_revision, version, lease }
}
/// What no node proposes, and no store carries out.
pub fn is_valid(action: &Action) -> bool {
    !matches!(action, Action::Transaction(transaction) if may_change_a_key_twice(transaction))
}
