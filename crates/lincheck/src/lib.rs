//! Was this history linearizable? Judges what clients saw, and knows nothing of how the store works.
//!
//! A [`History`] says what each client asked, when, and what came back. [`check`] looks for one order of all
//! operations that respects real time (what completed before another began comes first) and in which every read
//! returns what the latest write before it left. If there is none, it names the fewest operations that show it.
//!
//! The model is a map of registers: put, delete, get, and batches of writes that happen all at once. Linearizability
//! is a local property (Herlihy and Wing, 1990, section 3.2), so keys are judged apart, and keys that a batch ties
//! together are judged as one object. The search is Wing and Gong's (1993) with Lowe's memo of configurations
//! ("Testing for linearizability", 2017); `search.rs` says which steps it takes without trying others.
//!
//! An operation whose outcome nobody knows (a timeout) may take effect at any time after it began, once, or never.
//!
//! Unique values make the search fast; equal ones are judged correctly too. Time and memory are bounded by a budget
//! of configurations, and the same history always gives the same verdict, to the letter.
//!
//! Not handled: reads of several keys at one moment, ranges, compare-and-set, and answers that tell what a write
//! replaced.

mod explain;
mod search;

use std::collections::BTreeMap;
use std::fmt;

/// Enough for thousands of operations on one key; about 30 MB of memo when it is used up.
pub const DEFAULT_BUDGET: u64 = 1_000_000;

/// Judges a history. `budget` bounds how many configurations (sets of operations done so far, and the state they left)
/// the search may look at, over all keys.
pub fn check(history: &History, budget: u64) -> Verdict {
    let mut left = budget;
    let mut gave_up = false;
    for object in history.objects() {
        match search::search(&object, &mut left) {
            search::Found::Order => {}
            search::Found::NoOrder => return Verdict::Violation(explain::explain(history, object)),
            search::Found::GaveUp => gave_up = true,
        }
    }
    if gave_up { Verdict::GaveUp } else { Verdict::Linearizable }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Violation(Violation),
    /// The budget was used up before an order was found or ruled out.
    GaveUp,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The keys concerned, sorted.
    pub keys: Vec<Vec<u8>>,
    /// A few operations that contradict each other, ordered by when they began. None can be left out.
    pub operations: Vec<OperationId>,
    /// The same for people, one operation a line.
    pub explanation: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explanation)
    }
}

/// What clients asked and what they saw.
///
/// Times are any numbers that never run backwards. What is recorded with equal times counts as having happened in the
/// order of recording; so whoever merges records of several threads needs a clock fine enough to tell them apart.
#[derive(Clone, Debug, Default)]
pub struct History {
    initially: BTreeMap<Vec<u8>, Vec<u8>>,
    records: Vec<Record>,
    events: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(usize);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Get {
        key: Vec<u8>,
    },
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        key: Vec<u8>,
    },
    /// All at once, in this order: each key and its new value, or `None` to delete it.
    Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>),
}

impl Operation {
    pub fn get(key: impl Into<Vec<u8>>) -> Operation {
        Operation::Get { key: key.into() }
    }

    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Operation {
        Operation::Put { key: key.into(), value: value.into() }
    }

    pub fn delete(key: impl Into<Vec<u8>>) -> Operation {
        Operation::Delete { key: key.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write was acknowledged.
    Done,
    /// What the get returned.
    Read(Option<Vec<u8>>),
}

#[derive(Clone, Debug)]
struct Record {
    client: u64,
    operation: Operation,
    invoked: Moment,
    end: End,
}

#[derive(Clone, Debug)]
enum End {
    /// Nothing was heard of it, now or ever.
    Unknown,
    /// It certainly took no effect.
    Failed,
    Completed(Moment, Outcome),
}

/// A point in real time; `event` tells events of the same tick apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    at: u64,
    event: u64,
}

impl History {
    pub fn new() -> History {
        History::default()
    }

    /// What a key holds before the history begins; nothing, unless told.
    pub fn initially(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.initially.insert(key.into(), value.into());
    }

    /// A client sends an operation. Until its end is recorded, its outcome counts as unknown.
    pub fn invoke(&mut self, client: u64, operation: Operation, at: u64) -> OperationId {
        let invoked = self.moment(at);
        self.records.push(Record { client, operation, invoked, end: End::Unknown });
        OperationId(self.records.len() - 1)
    }

    /// The client got its answer. Panics if the answer is not one that this kind of operation gives.
    pub fn complete(&mut self, id: OperationId, outcome: Outcome, at: u64) {
        let completed = self.moment(at);
        let record = &mut self.records[id.0];
        let is_get = matches!(record.operation, Operation::Get { .. });
        assert_eq!(is_get, matches!(outcome, Outcome::Read(_)), "{:?} cannot end with {outcome:?}", record.operation);
        assert!(record.invoked < completed, "an operation completes after it began");
        record.end = End::Completed(completed, outcome);
    }

    /// The client gave up waiting: it may take effect once, at any time from its invocation on, or never.
    pub fn unknown(&mut self, id: OperationId) {
        self.records[id.0].end = End::Unknown;
    }

    /// The client knows that it took no effect and never will.
    pub fn failed(&mut self, id: OperationId) {
        self.records[id.0].end = End::Failed;
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn moment(&mut self, at: u64) -> Moment {
        self.events += 1;
        Moment { at, event: self.events }
    }

    /// The history as the search sees it: one object for each key or group of keys tied by batches, keys and values as
    /// numbers, and without what can have no bearing on the verdict.
    fn objects(&self) -> Vec<search::Object> {
        let mut keys = Keys::default();
        for record in &self.records {
            if !matches!(record.end, End::Failed) {
                keys.tie(&record.operation);
            }
        }
        let mut objects = BTreeMap::new();
        for (at, record) in self.records.iter().enumerate() {
            let (kind, completed) = match (&record.operation, &record.end) {
                (_, End::Failed) | (Operation::Get { .. }, End::Unknown) => continue,
                (Operation::Get { key }, End::Completed(completed, Outcome::Read(value))) => {
                    (Kind::Read(key, value.as_deref()), Some(*completed))
                }
                (Operation::Get { .. }, End::Completed(_, Outcome::Done)) => unreachable!("complete() refuses it"),
                (write, End::Unknown) => (Kind::Write(writes(write)), None),
                (write, End::Completed(completed, _)) => (Kind::Write(writes(write)), Some(*completed)),
            };
            let first_key = match &kind {
                Kind::Read(key, _) => *key,
                Kind::Write(writes) => match writes.keys().next() {
                    Some(key) => *key,
                    None => continue,
                },
            };
            let object = objects.entry(keys.group(first_key)).or_insert_with(|| search::Builder::new(&self.initially));
            match kind {
                Kind::Read(key, value) => object.read(OperationId(at), key, value, record.invoked, completed),
                Kind::Write(writes) => object.write(OperationId(at), &writes, record.invoked, completed),
            }
        }
        objects.into_values().map(search::Builder::build).collect()
    }
}

enum Kind<'a> {
    Read(&'a [u8], Option<&'a [u8]>),
    Write(BTreeMap<&'a [u8], Option<&'a [u8]>>),
}

/// What a write leaves in each key it touches.
fn writes(operation: &Operation) -> BTreeMap<&[u8], Option<&[u8]>> {
    match operation {
        Operation::Get { .. } => BTreeMap::new(),
        Operation::Put { key, value } => [(key.as_slice(), Some(value.as_slice()))].into(),
        Operation::Delete { key } => [(key.as_slice(), None)].into(),
        Operation::Batch(writes) => writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect(),
    }
}

/// Groups of keys that batches tie together (union by find, with halved paths).
#[derive(Default)]
struct Keys<'a> {
    numbers: BTreeMap<&'a [u8], usize>,
    parents: Vec<usize>,
}

impl<'a> Keys<'a> {
    fn tie(&mut self, operation: &'a Operation) {
        match operation {
            Operation::Get { key } | Operation::Put { key, .. } | Operation::Delete { key } => {
                self.number(key);
            }
            Operation::Batch(writes) => {
                for pair in writes.windows(2) {
                    let (a, b) = (self.number(&pair[0].0), self.number(&pair[1].0));
                    let (a, b) = (self.root(a), self.root(b));
                    self.parents[a.max(b)] = a.min(b);
                }
                if let [(key, _)] = writes.as_slice() {
                    self.number(key);
                }
            }
        }
    }

    fn group(&mut self, key: &'a [u8]) -> usize {
        let number = self.number(key);
        self.root(number)
    }

    fn number(&mut self, key: &'a [u8]) -> usize {
        let next = self.parents.len();
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.parents.push(next);
        }
        number
    }

    fn root(&mut self, mut number: usize) -> usize {
        while self.parents[number] != number {
            self.parents[number] = self.parents[self.parents[number]];
            number = self.parents[number];
        }
        number
    }
}
