//! The store, written a second time: plain maps that forget nothing, no hashes, no bytes, nothing shared with the store
//! but the types of its door.

use base::NodeId;
use bytes::Bytes;
use kv::{Action, Answer, Change, Command, Decided, Expired, IdempotencyKey, KeyEnd, KeyRange, KeyValue, Lease};
use kv::{Compare, Operation, Page, Query, Refusal, Relation, RequestId, SessionId, Step, StepResult, Target};
use kv::{Transaction, WINDOW};
use std::collections::{BTreeMap, BTreeSet};

pub type State = BTreeMap<Bytes, KeyValue>;

#[derive(Default)]
pub struct Model {
    /// The state after each revision, beginning with revision 0.
    pub states: Vec<State>,
    pub compacted: u64,
    pub accepted_ms: u64,
    members: Option<BTreeSet<NodeId>>,
    pub sessions: BTreeMap<NodeId, ModelSession>,
    first_uses: BTreeMap<Bytes, (u64, Answer)>,
    pub leases: BTreeMap<u64, Lease>,
    /// What the last command's transaction gave, if it had one that was carried out.
    pub decided: Option<Decided>,
    index: u64,
}

pub struct ModelSession {
    pub boot: u64,
    low_water: u64,
    answers: BTreeMap<u64, Answer>,
}

enum Work<'a> {
    Operations(&'a [Operation]),
    Action(&'a Action),
}

impl Model {
    pub fn new() -> Model {
        Model { states: vec![State::new()], ..Model::default() }
    }

    pub fn revision(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    pub fn apply(&mut self, index: u64, command: &Command) -> Answer {
        (self.index, self.decided) = (index, None);
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
                self.once(request, idempotency.as_ref(), Work::Operations(operations))
            }
            Command::Act { request: Some(request), accepted_ms, idempotency, action } => {
                self.accepted_ms = *accepted_ms;
                self.once(request, idempotency.as_ref(), Work::Action(action))
            }
            Command::Act { request: None, accepted_ms, idempotency, action } => {
                self.accepted_ms = *accepted_ms;
                self.decide(idempotency.as_ref(), Work::Action(action))
            }
        }
    }

    fn once(&mut self, request: &RequestId, idempotency: Option<&IdempotencyKey>, work: Work<'_>) -> Answer {
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
        let answer = self.decide(idempotency, work);
        let session = self.sessions.get_mut(&request.session.node).unwrap();
        session.answers.insert(request.number, answer);
        answer
    }

    fn decide(&mut self, idempotency: Option<&IdempotencyKey>, work: Work<'_>) -> Answer {
        if let Work::Operations(operations) = work
            && operations.iter().any(|operation| operation.key().is_empty())
        {
            return Answer::Refused(Refusal::OverLimit);
        }
        if let Work::Action(Action::Transaction(transaction)) = work
            && !is_allowed(transaction)
        {
            return Answer::Refused(Refusal::OverLimit);
        }
        if let Some(IdempotencyKey { key, fingerprint }) = idempotency
            && let Some((first, answer)) = self.first_uses.get(key)
        {
            return if first == fingerprint { *answer } else { Answer::Refused(Refusal::KeyReused) };
        }
        let answer = match work {
            Work::Operations(operations) => self.write(operations),
            Work::Action(Action::Compact { revision }) => self.compact(*revision),
            Work::Action(Action::Transaction(transaction)) => self.transact(transaction),
            Work::Action(Action::Grant { lease, ttl_seconds }) => self.grant(*lease, *ttl_seconds),
            Work::Action(Action::KeepAlive { lease }) => match self.leases.get_mut(lease) {
                Some(found) => {
                    found.since = self.index;
                    Answer::Granted { lease: *lease, ttl_seconds: found.ttl_seconds }
                }
                None => Answer::Refused(Refusal::NoLease),
            },
            Work::Action(Action::Revoke { lease }) => match self.leases.remove(lease) {
                Some(_) => self.end(&BTreeSet::from([*lease])),
                None => Answer::Refused(Refusal::NoLease),
            },
            Work::Action(Action::Expire { leases }) => {
                let mut over = BTreeSet::new();
                for Expired { lease, since } in leases {
                    if self.leases.get(lease).is_some_and(|found| found.since == *since) {
                        self.leases.remove(lease);
                        over.insert(*lease);
                    }
                }
                self.end(&over)
            }
        };
        if let Some(IdempotencyKey { key, fingerprint }) = idempotency {
            self.first_uses.insert(key.clone(), (*fingerprint, answer));
        }
        answer
    }

    fn write(&mut self, operations: &[Operation]) -> Answer {
        let mut wanted: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for operation in operations {
            match operation {
                Operation::Put { key, value } => wanted.insert(key.clone(), Some(value.clone())),
                Operation::Delete { key } => wanted.insert(key.clone(), None),
            };
        }
        let mut state = self.now().clone();
        wanted.retain(|key, value| value.is_some() || state.contains_key(key));
        let changed = wanted.len() as u32;
        if changed > 0 {
            let revision = self.revision() + 1;
            for (key, value) in wanted {
                match value {
                    Some(value) => put(&mut state, key, value, revision),
                    None => _ = state.remove(&key),
                }
            }
            self.states.push(state);
        }
        Answer::Done { revision: self.revision(), changed }
    }

    fn grant(&mut self, wanted: u64, ttl_seconds: u64) -> Answer {
        // No life chooses a number as high as its entries' by itself.
        let id = if wanted == 0 { self.index } else { wanted };
        if self.leases.contains_key(&id) {
            return Answer::Refused(Refusal::LeaseExists);
        }
        self.leases.insert(id, Lease { id, ttl_seconds, since: self.index });
        Answer::Granted { lease: id, ttl_seconds }
    }

    fn end(&mut self, leases: &BTreeSet<u64>) -> Answer {
        let mut state = self.now().clone();
        state.retain(|_, found| !leases.contains(&found.lease));
        let changed = (self.now().len() - state.len()) as u32;
        if changed > 0 {
            self.states.push(state);
        }
        Answer::Done { revision: self.revision(), changed }
    }

    fn transact(&mut self, transaction: &Transaction) -> Answer {
        let (before, mut state) = (self.now().clone(), self.now().clone());
        let Some(decided) = self.go(transaction, &before, &mut state) else {
            return Answer::Refused(Refusal::NoLease);
        };
        let succeeded = decided.succeeded;
        self.decided = Some(decided);
        let keys: BTreeSet<&Bytes> = before.keys().chain(state.keys()).collect();
        let changed = keys.into_iter().filter(|key| before.get(*key) != state.get(*key)).count() as u32;
        if changed > 0 {
            self.states.push(state);
        }
        Answer::Decided { succeeded, revision: self.revision(), changed }
    }

    /// `None`: a lease is missing.
    fn go(&self, transaction: &Transaction, before: &State, state: &mut State) -> Option<Decided> {
        let succeeded = transaction.compares.iter().all(|compare| holds(compare, before));
        let branch = if succeeded { &transaction.success } else { &transaction.failure };
        let mut results = Vec::new();
        for step in branch {
            results.push(match step {
                Step::Put { key, value, lease, previous } => {
                    if *lease != 0 && !self.leases.contains_key(lease) {
                        return None;
                    }
                    let was = state.get(key).cloned().filter(|_| *previous);
                    put(state, key.clone(), value.clone(), self.revision() + 1);
                    state.get_mut(key).unwrap().lease = *lease;
                    StepResult::Put { previous: was }
                }
                Step::Delete { keys, previous } => {
                    let gone: Vec<_> = state.iter().filter(|(key, _)| is_meant(keys, key)).collect();
                    let gone: Vec<_> = gone.into_iter().map(|(key, found)| (key.clone(), found.clone())).collect();
                    gone.iter().for_each(|(key, _)| _ = state.remove(key));
                    let deleted = gone.len() as u64;
                    StepResult::Delete { deleted, previous: if *previous { gone } else { Vec::new() } }
                }
                Step::Range(wanted) => StepResult::Range(query(state, wanted)),
                Step::Transaction(inner) => StepResult::Transaction(self.go(inner, before, state)?),
            });
        }
        Some(Decided { succeeded, results })
    }

    fn compact(&mut self, revision: u64) -> Answer {
        if revision <= self.compacted {
            return Answer::Refused(Refusal::Compacted);
        }
        if revision > self.revision() {
            return Answer::Refused(Refusal::FutureRevision);
        }
        self.compacted = revision;
        Answer::Done { revision: self.revision(), changed: 0 }
    }

    pub fn changes(&self, revision: u64, keys: &KeyRange, previous: bool) -> Vec<Change> {
        let (before, after) = (&self.states[revision as usize - 1], &self.states[revision as usize]);
        let all: BTreeSet<&Bytes> = before.keys().chain(after.keys()).collect();
        let changed = all.into_iter().filter(|key| is_meant(keys, key) && before.get(*key) != after.get(*key));
        let known = previous && revision > self.compacted;
        changed
            .map(|key| Change {
                key: key.clone(),
                now: after.get(key).cloned(),
                previous: before.get(key).filter(|_| known).cloned(),
            })
            .collect()
    }

    pub fn set_members(&mut self, members: &[NodeId]) {
        let members: BTreeSet<NodeId> = members.iter().copied().collect();
        self.sessions.retain(|node, _| members.contains(node));
        self.members = Some(members);
    }

    pub fn answer(&self, request: &RequestId) -> Option<Answer> {
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

/// Tries every way through it.
fn is_allowed(transaction: &Transaction) -> bool {
    type Ways = Vec<(Vec<Bytes>, Vec<KeyRange>)>;
    fn ways(transaction: &Transaction) -> Option<Ways> {
        let mut all = Ways::new();
        for branch in [&transaction.success, &transaction.failure] {
            let mut here: Ways = vec![Default::default()];
            for step in branch {
                let next: Ways = match step {
                    Step::Put { key, .. } if key.is_empty() => return None,
                    Step::Put { key, .. } => vec![(vec![key.clone()], vec![])],
                    Step::Delete { keys, .. } => vec![(vec![], vec![keys.clone()])],
                    Step::Range(_) => vec![Default::default()],
                    Step::Transaction(inner) => ways(inner)?,
                };
                let mut longer = Ways::new();
                for (puts, deletes) in &here {
                    for (more_puts, more_deletes) in &next {
                        if more_puts.iter().any(|key| puts.contains(key) || deletes.iter().any(|d| is_meant(d, key))) {
                            return None;
                        }
                        if more_deletes.iter().any(|range| puts.iter().any(|key| is_meant(range, key))) {
                            return None;
                        }
                        let both = |a: &[Bytes], b: &[Bytes]| [a, b].concat();
                        longer.push((both(puts, more_puts), [&deletes[..], &more_deletes[..]].concat()));
                    }
                }
                here = longer;
            }
            all.extend(here);
        }
        Some(all)
    }
    ways(transaction).is_some()
}

fn holds(compare: &Compare, state: &State) -> bool {
    let found: Vec<&KeyValue> =
        state.iter().filter(|(key, _)| is_meant(&compare.keys, key)).map(|(_, found)| found).collect();
    let judge = |order: std::cmp::Ordering| match compare.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Less => order.is_lt(),
        Relation::Greater => order.is_gt(),
    };
    let missing = KeyValue { value: Bytes::new(), create_revision: 0, mod_revision: 0, version: 0, lease: 0 };
    let judged = if found.is_empty() { vec![&missing] } else { found.clone() };
    match &compare.target {
        Target::Exists(exists) => judge((!found.is_empty()).cmp(exists)),
        Target::Value(value) => !found.is_empty() && found.iter().all(|row| judge(row.value.cmp(value))),
        Target::Version(number) => judged.iter().all(|row| judge(row.version.cmp(number))),
        Target::CreateRevision(number) => judged.iter().all(|row| judge(row.create_revision.cmp(number))),
        Target::ModRevision(number) => judged.iter().all(|row| judge(row.mod_revision.cmp(number))),
        Target::Lease(number) => judged.iter().all(|row| judge(row.lease.cmp(number))),
    }
}

fn put(state: &mut State, key: Bytes, value: Bytes, revision: u64) {
    let before = state.remove(&key);
    let create_revision = before.as_ref().map_or(revision, |before| before.create_revision);
    let version = before.map_or(0, |before| before.version) + 1;
    state.insert(key, KeyValue { value, create_revision, mod_revision: revision, version, lease: 0 });
}

pub fn query(state: &State, query: &Query) -> Page {
    let mut rows: Vec<(Bytes, KeyValue)> = state
        .iter()
        .filter(|(key, _)| is_meant(&query.keys, key))
        .map(|(key, found)| (key.clone(), found.clone()))
        .collect();
    let count = query.count.then_some(rows.len() as u64);
    if query.descending {
        rows.reverse();
    }
    if let Some(after) = &query.after {
        rows.retain(|(key, _)| if query.descending { key < after } else { key > after });
    }
    let limit = query.limit.unwrap_or(u64::MAX);
    let more = rows.len() as u64 > limit;
    rows.truncate(limit.min(1000) as usize);
    if query.keys_only {
        rows.iter_mut().for_each(|(_, found)| found.value = Bytes::new());
    }
    Page { rows, more, count }
}

fn is_meant(keys: &KeyRange, key: &Bytes) -> bool {
    *key >= keys.start
        && match &keys.end {
            KeyEnd::Single => *key == keys.start,
            KeyEnd::Before(end) => key < end,
            KeyEnd::Last => true,
        }
}

pub fn range_of(a: Bytes, b: Bytes, kind: u64) -> KeyRange {
    match kind {
        0 => KeyRange::single(a),
        1 => KeyRange::between(a, b),
        2 => KeyRange::from(a),
        3 => KeyRange::all(),
        _ => KeyRange::prefix(a),
    }
}
