//! A second opinion on what the committed entries mean: keys with their revisions, sessions, idempotency keys, members.
//!
//! It is written from the rules as the documentation states them, and shares with the store nothing but the bytes of a
//! command. It keeps all of its past, so a replica that is behind can be judged too.

use base::{Index, NodeId};
use bytes::Bytes;
use kv::{Command, IdempotencyKey, Operation, RequestId};
use node::membership::MemberChange;
use std::collections::{BTreeMap, BTreeSet};
use storage::log::{EntryKind, LogEntry};

#[derive(Default)]
pub struct Model {
    /// Each key's values, by the index from which on they stood.
    keys: BTreeMap<Bytes, Vec<(Index, Option<Version>)>>,
    revisions: Vec<(Index, u64)>,
    /// When writes were accepted, by the index of their entry.
    accepted: Vec<(Index, u64)>,
    revision: u64,
    sessions: BTreeMap<NodeId, Session>,
    idempotency: BTreeSet<Bytes>,
    members: Members,
    /// Where each value took effect.
    effects: BTreeMap<Bytes, u64>,
    pub members_changed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub value: Bytes,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
}

#[derive(Default)]
struct Session {
    boot: u64,
    low_water: u64,
    answered: BTreeSet<u64>,
}

struct Members {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    /// The voters before, while a joint change lasts.
    outgoing: BTreeSet<NodeId>,
    next: NodeId,
}

impl Default for Members {
    fn default() -> Members {
        Members { voters: [1].into(), learners: BTreeSet::new(), outgoing: BTreeSet::new(), next: 2 }
    }
}

impl Model {
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// The key as it was once everything up to that index was applied.
    pub fn at(&self, key: &[u8], index: Index) -> Option<&Version> {
        let past = self.keys.get(key)?;
        past[..past.partition_point(|(from, _)| *from <= index)].last()?.1.as_ref()
    }

    pub fn revision_at(&self, index: Index) -> u64 {
        let at = self.revisions.partition_point(|(from, _)| *from <= index);
        self.revisions[..at].last().map_or(0, |(_, revision)| *revision)
    }

    pub fn accepted_ms_at(&self, index: Index) -> u64 {
        let at = self.accepted.partition_point(|(from, _)| *from <= index);
        self.accepted[..at].last().map_or(0, |(_, accepted_ms)| *accepted_ms)
    }

    /// The revision at which that value was written.
    pub fn effect(&self, value: &Bytes) -> Option<u64> {
        self.effects.get(value).copied()
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

    pub fn apply(&mut self, entry: &LogEntry) -> Result<(), String> {
        let index = entry.position.index;
        match entry.kind {
            EntryKind::Change => {
                if self.members.apply(&entry.context) {
                    self.members_changed += 1;
                    let members = &self.members;
                    self.sessions.retain(|&node, _| members.contains(node));
                }
                Ok(())
            }
            EntryKind::Normal if entry.data.is_empty() => Ok(()),
            EntryKind::Normal => match Command::decode(entry.data.clone()) {
                Ok(Command::Register { session }) => {
                    let newer = self.sessions.get(&session.node).is_none_or(|old| old.boot < session.boot);
                    if newer && self.members.contains(session.node) {
                        self.sessions.insert(session.node, Session { boot: session.boot, ..Session::default() });
                    }
                    Ok(())
                }
                Ok(Command::Write { request, accepted_ms, idempotency, operations }) => {
                    self.accepted.push((index, accepted_ms));
                    self.write(index, &request, idempotency, &operations)
                }
                Ok(Command::Act { .. }) => Err(format!("entry {index} is an action, which no client here asks for")),
                Err(error) => Err(format!("entry {index} was proposed with {error}")),
            },
        }
    }

    fn write(
        &mut self,
        index: Index,
        request: &RequestId,
        idempotency: Option<IdempotencyKey>,
        operations: &[Operation],
    ) -> Result<(), String> {
        let session = self.sessions.get_mut(&request.session.node).filter(|s| s.boot == request.session.boot);
        let Some(session) = session else { return Ok(()) };
        session.low_water = session.low_water.max(request.low_water);
        if request.number < session.low_water || !session.answered.insert(request.number) {
            return Ok(());
        }
        if let Some(IdempotencyKey { key, .. }) = &idempotency
            && self.idempotency.contains(key)
        {
            return Ok(());
        }
        self.change(index, operations)?;
        self.idempotency.extend(idempotency.map(|idempotency| idempotency.key));
        Ok(())
    }

    fn change(&mut self, index: Index, operations: &[Operation]) -> Result<(), String> {
        let wanted: BTreeMap<&Bytes, Option<&Bytes>> = operations
            .iter()
            .map(|operation| match operation {
                Operation::Put { key, value } => (key, Some(value)),
                Operation::Delete { key } => (key, None),
            })
            .collect();
        let revision = self.revision + 1;
        for (key, value) in wanted {
            let past = self.keys.entry(key.clone()).or_default();
            let before = past.last().and_then(|(_, version)| version.clone());
            let after = match (value, before) {
                (None, None) => continue,
                (None, Some(_)) => None,
                (Some(value), before) => {
                    if let Some(first) = self.effects.insert(value.clone(), revision) {
                        return Err(format!("the write of {value:?} took effect twice, at {first} and at {revision}"));
                    }
                    Some(Version {
                        value: value.clone(),
                        create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
                        mod_revision: revision,
                        version: before.map_or(0, |before| before.version) + 1,
                    })
                }
            };
            past.push((index, after));
            self.revision = revision;
        }
        if self.revision == revision {
            self.revisions.push((index, revision));
        }
        Ok(())
    }
}

impl Members {
    fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node) || self.outgoing.contains(&node)
    }

    /// False: the change made no sense when its turn came.
    fn apply(&mut self, context: &Bytes) -> bool {
        if context.is_empty() {
            return !std::mem::take(&mut self.outgoing).is_empty();
        }
        if !self.outgoing.is_empty() {
            return false;
        }
        match MemberChange::decode(context.clone()) {
            Ok(MemberChange::AddLearner { id, .. }) if id == self.next => {
                self.next += 1;
                self.learners.insert(id)
            }
            Ok(MemberChange::Promote { id, replaces })
                if self.learners.contains(&id) && replaces.is_none_or(|old| old != id && self.contains(old)) =>
            {
                if let Some(old) = replaces {
                    self.outgoing = self.voters.clone();
                    self.voters.remove(&old);
                    self.learners.remove(&old);
                }
                self.learners.remove(&id);
                self.voters.insert(id)
            }
            Ok(MemberChange::Remove { id }) if self.contains(id) && self.voters.iter().any(|&voter| voter != id) => {
                self.voters.remove(&id) | self.learners.remove(&id)
            }
            Ok(MemberChange::Update { id, .. }) => self.voters.contains(&id),
            _ => false,
        }
    }
}
