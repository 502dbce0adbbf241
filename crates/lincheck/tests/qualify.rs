//! A checker that never objects is worth nothing. Two judges qualify ours:
//!
//! - Lives of a small store, generated from a seed, are accepted; the same lives with one thing done wrong are
//!   rejected. That they must be follows from real time alone, by a few lines that share nothing with the checker.
//! - On thousands of tiny histories it agrees with a search that tries everything.

use lincheck::{DEFAULT_BUDGET, History, Operation, OperationId, Outcome, Verdict, check};
use std::collections::BTreeMap;

type Value = Option<Vec<u8>>;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

// ---- Lives of a correct store ----

#[derive(Clone)]
struct Request {
    client: u64,
    operation: Operation,
    invoked: u64,
    /// `None`: the client gave up on it.
    completed: Option<u64>,
}

/// One thing that happens inside the store, at a time of its own.
#[derive(Clone)]
struct Effect {
    at: u64,
    request: usize,
    /// Empty for a read.
    writes: Vec<(Vec<u8>, Value)>,
}

#[derive(Clone)]
struct Life {
    requests: Vec<Request>,
    effects: Vec<Effect>,
    answers: BTreeMap<usize, Value>,
}

struct Shape {
    clients: u64,
    operations: u64,
    keys: u64,
    unknown_percent: u64,
    batch_percent: u64,
    delete_percent: u64,
}

impl Shape {
    /// Some wrongs need places that are rare in other lives.
    fn rich_in(mut self, wrong: Wrong) -> Shape {
        match wrong {
            Wrong::TornBatch => (self.clients, self.keys, self.batch_percent, self.delete_percent) = (2, 2, 15, 1),
            Wrong::SeenThenUnseen => (self.clients, self.unknown_percent) = (3, 25),
            _ => {}
        }
        self
    }

    fn random(rng: &mut Rng) -> Shape {
        Shape {
            clients: 2 + rng.below(9),
            operations: 40 + rng.below(160),
            keys: 1 + rng.below(4),
            unknown_percent: rng.below(20),
            batch_percent: rng.below(20),
            delete_percent: 5 + rng.below(15),
        }
    }
}

impl Life {
    fn new(rng: &mut Rng, shape: &Shape) -> Life {
        let mut life = Life { requests: Vec::new(), effects: Vec::new(), answers: BTreeMap::new() };
        let mut free_at = vec![0; shape.clients as usize];
        for number in 0..shape.operations {
            // Times are multiples of 10,000 and a number of their own, so no two are equal.
            let client = rng.below(shape.clients);
            let invoked = free_at[client as usize] + 10_000 * (1 + rng.below(20)) + number;
            let duration = 10_000 * (2 + rng.below(100));
            let is_unknown = rng.below(100) < shape.unknown_percent;
            let patience = if is_unknown { 10 } else { 1 };
            free_at[client as usize] = invoked + duration;

            let key = |rng: &mut Rng| format!("k{}", rng.below(shape.keys)).into_bytes();
            let value = format!("v{number}").into_bytes();
            let dice = rng.below(100);
            let (operation, writes) = if dice < shape.batch_percent {
                let mut writes = BTreeMap::new();
                for _ in 0..2 + rng.below(2) {
                    let gone = rng.below(8) == 0;
                    writes.insert(key(rng), if gone { None } else { Some(value.clone()) });
                }
                let writes: Vec<_> = writes.into_iter().collect();
                (Operation::Batch(writes.clone()), writes)
            } else if dice < shape.batch_percent + shape.delete_percent {
                let key = key(rng);
                (Operation::Delete { key: key.clone() }, vec![(key, None)])
            } else if dice < 65 {
                let key = key(rng);
                (Operation::Put { key: key.clone(), value: value.clone() }, vec![(key, Some(value))])
            } else {
                (Operation::Get { key: key(rng) }, Vec::new())
            };
            if !is_unknown || rng.below(2) == 0 {
                let at = invoked + 1 + rng.below(patience * duration - 2);
                life.effects.push(Effect { at, request: number as usize, writes });
            }
            let completed = (!is_unknown).then_some(invoked + duration);
            life.requests.push(Request { client, operation, invoked, completed });
        }
        life.live();
        life
    }

    /// What the store answers, given when things take effect in it.
    fn live(&mut self) {
        self.effects.sort_by_key(|effect| (effect.at, effect.request));
        self.answers.clear();
        let mut store: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
        for effect in &self.effects {
            match &self.requests[effect.request].operation {
                Operation::Get { key } => {
                    let answer = store.get(key).cloned().flatten();
                    if self.requests[effect.request].completed.is_some() {
                        self.answers.insert(effect.request, answer);
                    }
                }
                _ => store.extend(effect.writes.iter().cloned()),
            }
        }
    }

    /// What the clients saw of it, and which request each operation is.
    fn history(&self) -> (History, BTreeMap<OperationId, usize>) {
        self.history_of(&(0..self.requests.len()).collect::<Vec<_>>())
    }

    fn history_of(&self, requests: &[usize]) -> (History, BTreeMap<OperationId, usize>) {
        let mut events = Vec::new();
        for &number in requests {
            events.push((self.requests[number].invoked, number, false));
            events.extend(self.requests[number].completed.map(|at| (at, number, true)));
        }
        events.sort();
        let mut history = History::new();
        let mut ids = BTreeMap::new();
        for (at, number, is_end) in events {
            let request = &self.requests[number];
            if !is_end {
                ids.insert(number, history.invoke(request.client, request.operation.clone(), at));
            } else if let Operation::Get { .. } = request.operation {
                history.complete(ids[&number], Outcome::Read(self.answers[&number].clone()), at);
            } else {
                history.complete(ids[&number], Outcome::Done, at);
            }
        }
        (history, ids.into_iter().map(|(number, id)| (id, number)).collect())
    }

    fn writes(&self, request: usize) -> Vec<(Vec<u8>, Value)> {
        match &self.requests[request].operation {
            Operation::Get { .. } => Vec::new(),
            Operation::Put { key, value } => vec![(key.clone(), Some(value.clone()))],
            Operation::Delete { key } => vec![(key.clone(), None)],
            Operation::Batch(writes) => writes.clone(),
        }
    }

    fn is_write_to(&self, request: usize, key: &[u8]) -> bool {
        self.writes(request).iter().any(|(written, _)| written == key)
    }

    /// The last effect before the one at `place` that gave this key a value, cut down to that.
    fn latest_put(&self, key: &[u8], place: usize) -> Option<Effect> {
        let gives = |effect: &&Effect| effect.writes.iter().any(|(k, value)| k == key && value.is_some());
        let mut effect = self.effects[..place].iter().rev().find(gives)?.clone();
        effect.writes.retain(|(k, _)| k == key);
        Some(effect)
    }

    /// In real time `a` was over when `b` began.
    fn before(&self, a: usize, b: usize) -> bool {
        self.requests[a].completed.is_some_and(|completed| completed < self.requests[b].invoked)
    }

    /// Every completed read: its request, its key, and who wrote what it returned.
    fn reads(&self) -> Vec<(usize, &[u8], Option<usize>)> {
        let mut writers = BTreeMap::new();
        for at in 0..self.requests.len() {
            for (key, value) in self.writes(at).into_iter().filter(|(_, value)| value.is_some()) {
                writers.insert((key, value), at);
            }
        }
        let mut reads = Vec::new();
        for (&read, answer) in &self.answers {
            if let Operation::Get { key } = &self.requests[read].operation {
                reads.push((read, key.as_slice(), writers.get(&(key.clone(), answer.clone())).copied()));
            }
        }
        reads
    }
}

// ---- What may never be, by real time alone ----

/// A read returned what `replaced` wrote, though `newer` began after that was done, and was done before the read began.
fn is_stale(life: &Life, newer: Option<usize>) -> bool {
    let newer: Vec<usize> = newer.map_or_else(|| (0..life.requests.len()).collect(), |newer| vec![newer]);
    life.reads().into_iter().any(|(read, key, replaced)| {
        replaced.is_some_and(|replaced| {
            newer
                .iter()
                .any(|&newer| life.before(replaced, newer) && life.before(newer, read) && life.is_write_to(newer, key))
        })
    })
}

/// One read saw the batch, and a later one saw on another of its keys what was there before the batch began.
fn is_torn(life: &Life, batch: usize) -> bool {
    let reads = life.reads();
    reads.iter().any(|&(first, _, writer)| {
        writer == Some(batch)
            && reads.iter().any(|&(second, key, older)| {
                life.before(first, second)
                    && life.is_write_to(batch, key)
                    && older.is_some_and(|older| life.before(older, batch))
            })
    })
}

/// `older` was done before `newer` began; a read saw `newer`, and a later one `older`.
fn is_unseen(life: &Life, key: &[u8], newer: usize, older: usize) -> bool {
    let reads: Vec<_> = life.reads().into_iter().filter(|&(_, read_key, _)| read_key == key).collect();
    reads.iter().any(|&(first, _, writer)| {
        writer == Some(newer)
            && reads.iter().any(|&(second, _, writer)| writer == Some(older) && life.before(first, second))
    })
}

// ---- One thing done wrong ----

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    StaleRead,
    LostWrite,
    ReorderedPair,
    AppliedTwice,
    TornBatch,
    NeverWritten,
    Resurrected,
    SeenThenUnseen,
}

const WRONGS: [Wrong; 8] = [
    Wrong::StaleRead,
    Wrong::LostWrite,
    Wrong::ReorderedPair,
    Wrong::AppliedTwice,
    Wrong::TornBatch,
    Wrong::NeverWritten,
    Wrong::Resurrected,
    Wrong::SeenThenUnseen,
];

/// The life with this wrong done somewhere in it, if there is a place where a client could tell.
fn mutate(life: &Life, wrong: Wrong, rng: &mut Rng) -> Option<Life> {
    let count = life.requests.len();
    let start = rng.below(count as u64) as usize;
    (start..start + count).map(|at| at % count).filter(|&at| fits(life, wrong, at)).find_map(|at| {
        let mut mutant = life.clone();
        do_wrong(&mut mutant, wrong, at, rng).filter(|shows| *shows).map(|_| mutant)
    })
}

fn fits(life: &Life, wrong: Wrong, at: usize) -> bool {
    let Request { operation, completed, .. } = &life.requests[at];
    match wrong {
        Wrong::StaleRead | Wrong::NeverWritten => life.answers.contains_key(&at),
        Wrong::LostWrite => matches!(operation, Operation::Put { .. }) && completed.is_some(),
        Wrong::Resurrected => matches!(operation, Operation::Delete { .. }) && completed.is_some(),
        Wrong::ReorderedPair | Wrong::AppliedTwice => {
            !matches!(operation, Operation::Get { .. }) && completed.is_some()
        }
        Wrong::TornBatch => matches!(operation, Operation::Batch(_)),
        Wrong::SeenThenUnseen => matches!(operation, Operation::Put { .. }) && completed.is_none(),
    }
}

/// Does the wrong at this request, and says whether a client could tell. `None`: it can't be done there.
fn do_wrong(life: &mut Life, wrong: Wrong, at: usize, rng: &mut Rng) -> Option<bool> {
    let end = life.effects.last()?.at;
    let key = match &life.requests[at].operation {
        Operation::Get { key } | Operation::Put { key, .. } | Operation::Delete { key } => key.clone(),
        Operation::Batch(writes) => writes.first()?.0.clone(),
    };
    let happened = life.effects.iter().position(|effect| effect.request == at);
    match wrong {
        Wrong::StaleRead => {
            let newer = life.reads().into_iter().find(|&(read, ..)| read == at)?.2?;
            let older = (0..life.requests.len()).filter(|&older| life.before(older, newer));
            let older = older.flat_map(|older| life.writes(older)).find(|(k, value)| *k == key && value.is_some())?;
            life.answers.insert(at, older.1);
            Some(is_stale(life, Some(newer)))
        }
        Wrong::NeverWritten => {
            life.answers.insert(at, Some(b"from nowhere".to_vec()));
            Some(true)
        }
        Wrong::LostWrite => {
            life.effects.remove(happened?);
            life.live();
            Some(is_stale(life, Some(at)))
        }
        Wrong::Resurrected => {
            let mut again = life.latest_put(&key, happened?)?;
            again.at = life.effects[happened?].at + rng.below(end - life.effects[happened?].at + 1);
            life.effects.push(again);
            life.live();
            Some(is_stale(life, Some(at)))
        }
        Wrong::AppliedTwice => {
            let mut again = life.effects[happened?].clone();
            again.at += 1 + rng.below(end - again.at + 1);
            life.effects.push(again);
            life.live();
            Some(is_stale(life, None))
        }
        Wrong::ReorderedPair => {
            let first = happened?;
            let second = (first + 1..life.effects.len())
                .find(|&second| life.effects[second].writes.iter().any(|(k, _)| *k == key))?;
            let times = (life.effects[first].at, life.effects[second].at);
            (life.effects[second].at, life.effects[first].at) = times;
            life.live();
            Some(is_stale(life, None))
        }
        Wrong::TornBatch => {
            let writes = &mut life.effects[happened?].writes;
            writes.remove(rng.below(writes.len() as u64) as usize);
            life.live();
            Some(is_torn(life, at))
        }
        Wrong::SeenThenUnseen => {
            let read = life.reads().into_iter().find(|&(_, _, writer)| writer == Some(at))?.0;
            let mut undo = life.latest_put(&key, happened?)?;
            undo.at = life.effects.iter().find(|effect| effect.request == read)?.at + 1;
            let older = undo.request;
            life.effects.push(undo);
            life.live();
            Some(life.before(older, at) && is_unseen(life, &key, at, older))
        }
    }
}

#[test]
fn correct_lives_are_accepted() {
    for seed in 0..1000 {
        let mut rng = Rng(seed);
        let shape = Shape::random(&mut rng);
        let life = Life::new(&mut rng, &shape);
        assert_eq!(check(&life.history().0, DEFAULT_BUDGET), Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn every_wrong_is_caught_and_shown_in_few_operations() {
    for wrong in WRONGS {
        let (mut lives, mut operations) = (0, 0);
        for seed in 0.. {
            if lives == 200 {
                break;
            }
            let mut rng = Rng(seed);
            let shape = Shape::random(&mut rng).rich_in(wrong);
            let life = Life::new(&mut rng, &shape);
            let Some(life) = mutate(&life, wrong, &mut rng) else { continue };
            let (history, ids) = life.history();
            let Verdict::Violation(violation) = check(&history, DEFAULT_BUDGET) else {
                panic!("{wrong:?}, seed {seed}: not caught");
            };
            lives += 1;
            operations += violation.operations.len();

            let shown: Vec<usize> = violation.operations.iter().map(|id| ids[id]).collect();
            let (shown, _) = life.history_of(&shown);
            let again = check(&shown, DEFAULT_BUDGET);
            assert!(
                matches!(again, Verdict::Violation(_)),
                "{wrong:?}, seed {seed}: what it shows proves it\n{violation}"
            );
            assert_eq!(violation.explanation.lines().count(), 1 + violation.operations.len());
        }
        assert!(operations < 4 * lives, "{wrong:?}: {operations} operations to show {lives} violations");
    }
}

// ---- A search that tries everything ----

/// Puts every remaining operation next, whatever the order of invocation, and every unknown one also never.
fn exists_order(life: &Life, left: &mut Vec<usize>, store: &mut BTreeMap<Vec<u8>, Value>) -> bool {
    if left.iter().all(|&at| life.requests[at].completed.is_none()) {
        return true;
    }
    for place in 0..left.len() {
        let next = left[place];
        if left.iter().any(|&other| other != next && life.before(other, next)) {
            continue;
        }
        if let (Operation::Get { key }, Some(answer)) = (&life.requests[next].operation, life.answers.get(&next))
            && store.get(key).cloned().flatten() != *answer
        {
            continue;
        }
        let before = store.clone();
        store.extend(life.writes(next));
        left.remove(place);
        let found = exists_order(life, left, store);
        left.insert(place, next);
        *store = before;
        if found {
            return true;
        }
    }
    false
}

#[test]
fn agrees_with_trying_everything() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..20_000 {
        let mut rng = Rng(seed);
        let keys = 1 + rng.below(3);
        let values = 1 + rng.below(4);
        let mut life = Life { requests: Vec::new(), effects: Vec::new(), answers: BTreeMap::new() };
        for number in 0..3 + rng.below(5) {
            let key = |rng: &mut Rng| vec![b'a' + rng.below(keys) as u8];
            let value = |rng: &mut Rng| vec![b'0' + rng.below(values) as u8];
            let operation = match rng.below(8) {
                0..=3 => Operation::Get { key: key(&mut rng) },
                4..=5 => Operation::Put { key: key(&mut rng), value: value(&mut rng) },
                6 => Operation::Delete { key: key(&mut rng) },
                _ => {
                    let mut writes = BTreeMap::new();
                    for _ in 0..2 {
                        let value = value(&mut rng);
                        writes.insert(key(&mut rng), (rng.below(3) > 0).then_some(value));
                    }
                    Operation::Batch(writes.into_iter().collect())
                }
            };
            let invoked = 100 * rng.below(10) + number;
            let completed = (rng.below(5) > 0).then_some(invoked + 100 * (1 + rng.below(5)));
            if let (Operation::Get { .. }, Some(_)) = (&operation, completed) {
                let answer = (rng.below(4) > 0).then(|| value(&mut rng));
                life.answers.insert(number as usize, answer);
            }
            life.requests.push(Request { client: number, operation, invoked, completed });
        }
        let mut all: Vec<usize> = (0..life.requests.len()).collect();
        let verdict = check(&life.history().0, DEFAULT_BUDGET);
        if exists_order(&life, &mut all, &mut BTreeMap::new()) {
            good += 1;
            assert_eq!(verdict, Verdict::Linearizable, "seed {seed}");
        } else {
            bad += 1;
            assert!(matches!(verdict, Verdict::Violation(_)), "seed {seed}: {verdict:?}");
        }
    }
    assert!(good > 3000 && bad > 3000, "{good} good and {bad} bad histories are no fair trial");
}

// ---- Size, limits, words ----

/// Ten clients, a thousand operations and unknown ones on a single key take about as many steps as operations.
#[test]
fn a_thousand_operations_on_one_key_stay_within_a_small_budget() {
    for seed in 0..50 {
        let mut rng = Rng(seed);
        let shape =
            Shape { clients: 10, operations: 1000, keys: 1, unknown_percent: 5, batch_percent: 0, delete_percent: 5 };
        let life = Life::new(&mut rng, &shape);
        assert_eq!(check(&life.history().0, 20_000), Verdict::Linearizable, "seed {seed}");
        for wrong in [Wrong::StaleRead, Wrong::LostWrite, Wrong::NeverWritten] {
            let Some(life) = mutate(&life, wrong, &mut rng) else { continue };
            let verdict = check(&life.history().0, 200_000);
            assert!(matches!(verdict, Verdict::Violation(_)), "{wrong:?}, seed {seed}: {verdict:?}");
        }
    }
}

#[test]
fn an_exhausted_budget_is_said() {
    let mut rng = Rng(7);
    let shape =
        Shape { clients: 10, operations: 200, keys: 1, unknown_percent: 5, batch_percent: 0, delete_percent: 5 };
    let life = Life::new(&mut rng, &shape);
    assert_eq!(check(&life.history().0, 3), Verdict::GaveUp);
}

#[test]
fn a_stale_read_reads_like_this() {
    let mut history = History::new();
    for (client, key) in [(1, "other"), (2, "x")] {
        let put = history.invoke(client, Operation::put(key, "old"), 10);
        history.complete(put, Outcome::Done, 20);
    }
    let put = history.invoke(1, Operation::put("x", "new"), 30);
    history.complete(put, Outcome::Done, 40);
    let lost = history.invoke(3, Operation::delete("x"), 45);
    history.unknown(lost);
    let get = history.invoke(2, Operation::get("x"), 50);
    history.complete(get, Outcome::Read(Some(b"old".to_vec())), 160);
    let Verdict::Violation(violation) = check(&history, DEFAULT_BUDGET) else { panic!("a stale read") };
    assert_eq!(violation.keys, [b"x".to_vec()]);
    assert_eq!(
        violation.to_string(),
        r#"not linearizable: no order of these 3 operations explains what came back
  [ 10 ..  20] client 2: put "x" = "old" -> done
  [ 30 ..  40] client 1: put "x" = "new" -> done
  [ 50 .. 160] client 2: get "x" -> "old""#
    );
}

#[test]
fn what_was_there_before_and_what_certainly_failed() {
    let mut history = History::new();
    history.initially("x", "start");
    let failed = history.invoke(1, Operation::put("x", "refused"), 1);
    history.failed(failed);
    let get = history.invoke(1, Operation::get("x"), 2);
    history.complete(get, Outcome::Read(Some(b"start".to_vec())), 3);
    assert_eq!(check(&history, DEFAULT_BUDGET), Verdict::Linearizable);

    let get = history.invoke(1, Operation::get("x"), 4);
    history.complete(get, Outcome::Read(Some(b"refused".to_vec())), 5);
    assert!(matches!(check(&history, DEFAULT_BUDGET), Verdict::Violation(_)));
}

/// Events of one tick happened in the order in which they were recorded.
#[test]
fn equal_times_keep_the_order_of_recording() {
    let mut history = History::new();
    let put = history.invoke(1, Operation::put("x", "a"), 5);
    history.complete(put, Outcome::Done, 5);
    let get = history.invoke(2, Operation::get("x"), 5);
    history.complete(get, Outcome::Read(None), 5);
    assert!(matches!(check(&history, DEFAULT_BUDGET), Verdict::Violation(_)));
}

#[test]
fn the_same_history_gives_the_same_words() {
    let mut rng = Rng(11);
    let shape = Shape::random(&mut rng);
    let life = Life::new(&mut rng, &shape);
    let life = mutate(&life, Wrong::NeverWritten, &mut rng).unwrap();
    assert_eq!(check(&life.history().0, DEFAULT_BUDGET), check(&life.history().0, DEFAULT_BUDGET));
}
