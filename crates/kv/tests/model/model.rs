//! The store, written a second time: plain maps that forget nothing, no hashes, no bytes, nothing shared with the store
//! but the types of its door.

use base::NodeId;
use bytes::Bytes;
use kv::{
    Action, Answer, Change, Command, IdempotencyKey, KeyEnd, KeyRange, KeyValue, Operation, Page, Query, Refusal,
    RequestId, SessionId, WINDOW,
};
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

    pub fn apply(&mut self, command: &Command) -> Answer {
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
        if let Some(IdempotencyKey { key, fingerprint }) = idempotency
            && let Some((first, answer)) = self.first_uses.get(key)
        {
            return if first == fingerprint { *answer } else { Answer::Refused(Refusal::KeyReused) };
        }
        let answer = match work {
            Work::Operations(operations) => self.write(operations),
            Work::Action(Action::Compact { revision }) => self.compact(*revision),
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
