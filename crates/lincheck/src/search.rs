//! The search for an order, for one object: a few registers that batches tie together, most often just one.
//!
//! From a configuration (which operations are done, and what each register holds) an operation may come next if no
//! other that is not yet done completed before it began. A depth-first search tries them; a memo holds the
//! configurations that led nowhere. What keeps it fast are steps that need no trying, because whenever an order
//! exists from here, one exists that begins with that step:
//!
//! - A read of what a register holds now comes at once: it changes nothing.
//! - A write of what no remaining read returns comes at once, if no remaining read needs what it replaces.
//! - A write that replaces what a remaining read needs, with nobody left to write it again, can't come now.
//! - An unknown write that nobody reads never happened; one to a single key comes directly before a read of it.
//!
//! The memo keeps 128-bit hashes instead of configurations (Zobrist's, from a fixed seed). Two of them colliding could
//! hide an order, which is as likely as guessing a 128-bit number in a million tries.
//!
//! Not handled: nothing is kept between searches.

use crate::{Moment, OperationId};
use std::collections::{BTreeMap, BTreeSet};

/// A register and a value it may hold, as one number.
type Cell = u32;

pub(crate) enum Found {
    Order,
    NoOrder,
    GaveUp,
}

#[derive(Clone)]
pub(crate) struct Object {
    pub operations: Vec<Step>,
    register_of: Vec<u32>,
    initially: Vec<Cell>,
}

#[derive(Clone)]
pub(crate) struct Step {
    pub id: OperationId,
    action: Action,
    invoked: Moment,
    /// `None`: unknown.
    completed: Option<Moment>,
}

#[derive(Clone)]
enum Action {
    Read(Cell),
    Write(Vec<Cell>),
}

/// Looks for an order within `budget` configurations, and takes what it used off the budget.
pub(crate) fn search(object: &Object, budget: &mut u64) -> Found {
    match Search::new(object) {
        Some(search) => search.run(budget),
        None => Found::NoOrder,
    }
}

impl Object {
    /// What had happened by `horizon`: what began later is left out, what completed later counts as unknown.
    pub fn until(&self, horizon: Moment) -> Object {
        let mut object = self.clone();
        object.operations.retain(|step| step.invoked <= horizon);
        for step in &mut object.operations {
            step.completed = step.completed.filter(|&completed| completed <= horizon);
        }
        object.operations.retain(|step| step.completed.is_some() || matches!(step.action, Action::Write(_)));
        object
    }

    /// When answers arrived, in order.
    pub fn completions(&self) -> Vec<Moment> {
        let mut completions: Vec<_> = self.operations.iter().filter_map(|step| step.completed).collect();
        completions.sort();
        completions
    }

    /// The object without the operations at `from..to`, except for writes that a remaining read may have read: without
    /// those it would be a different story. What is left has an order if the whole has one.
    pub fn without(&self, from: usize, to: usize) -> Object {
        let inside = |at: usize| (from..to).contains(&at);
        let mut read = vec![false; self.register_of.len()];
        for (at, step) in self.operations.iter().enumerate() {
            if let Action::Read(cell) = step.action
                && !inside(at)
            {
                read[cell as usize] = true;
            }
        }
        let mut object = Object { operations: Vec::new(), ..self.clone() };
        for (at, step) in self.operations.iter().enumerate() {
            let needed = match &step.action {
                Action::Read(_) => false,
                Action::Write(cells) => cells.iter().any(|&cell| read[cell as usize]),
            };
            if !inside(at) || needed {
                object.operations.push(step.clone());
            }
        }
        object
    }
}

/// Turns keys and values into numbers.
pub(crate) struct Builder<'a> {
    initial_values: &'a BTreeMap<Vec<u8>, Vec<u8>>,
    registers: BTreeMap<&'a [u8], u32>,
    cells: BTreeMap<(u32, Option<&'a [u8]>), Cell>,
    object: Object,
}

impl<'a> Builder<'a> {
    pub fn new(initial_values: &'a BTreeMap<Vec<u8>, Vec<u8>>) -> Builder<'a> {
        Builder {
            initial_values,
            registers: BTreeMap::new(),
            cells: BTreeMap::new(),
            object: Object { operations: Vec::new(), register_of: Vec::new(), initially: Vec::new() },
        }
    }

    pub fn read(
        &mut self,
        id: OperationId,
        key: &'a [u8],
        value: Option<&'a [u8]>,
        invoked: Moment,
        completed: Option<Moment>,
    ) {
        let action = Action::Read(self.cell(key, value));
        self.object.operations.push(Step { id, action, invoked, completed });
    }

    pub fn write(
        &mut self,
        id: OperationId,
        writes: &BTreeMap<&'a [u8], Option<&'a [u8]>>,
        invoked: Moment,
        completed: Option<Moment>,
    ) {
        let action = Action::Write(writes.iter().map(|(key, value)| self.cell(key, *value)).collect());
        self.object.operations.push(Step { id, action, invoked, completed });
    }

    pub fn build(mut self) -> Object {
        self.object.operations.sort_by_key(|step| step.invoked);
        self.object
    }

    fn cell(&mut self, key: &'a [u8], value: Option<&'a [u8]>) -> Cell {
        let register = match self.registers.get(key) {
            Some(&register) => register,
            None => {
                let register = self.registers.len() as u32;
                self.registers.insert(key, register);
                let initial_value = self.initial_values.get(key).map(Vec::as_slice);
                let initially = self.cell_of(register, initial_value);
                self.object.initially.push(initially);
                register
            }
        };
        self.cell_of(register, value)
    }

    fn cell_of(&mut self, register: u32, value: Option<&'a [u8]>) -> Cell {
        let next = self.object.register_of.len() as Cell;
        let cell = *self.cells.entry((register, value)).or_insert(next);
        if cell == next {
            self.object.register_of.push(register);
        }
        cell
    }
}

/// Invocations and completions in order of time, as a doubly linked list from which what is done is lifted and to
/// which it is returned (Knuth's dancing links). Entry 0 is the head, and the end.
#[derive(Clone, Copy)]
struct Entry {
    next: usize,
    previous: usize,
    step: usize,
    is_completion: bool,
}

struct Search<'a> {
    object: &'a Object,
    entries: Vec<Entry>,
    invocation: Vec<usize>,
    completion: Vec<Option<usize>>,
    completed_left: usize,

    /// What each register holds.
    state: Vec<Cell>,
    /// For each cell: how many remaining reads return it, and how many remaining writes may set it.
    reads_left: Vec<u32>,
    writes_left: Vec<u32>,

    /// What is done, in order, and beside it what each write replaced.
    done: Vec<usize>,
    replaced: Vec<Cell>,
    configuration: u128,
    seen: BTreeSet<u128>,
}

/// A point to come back to: how much was done there, and what may be tried next.
struct Branch {
    done: usize,
    choices: Vec<usize>,
}

impl<'a> Search<'a> {
    /// `None` if some read returned what nobody can have written by then.
    fn new(object: &'a Object) -> Option<Search<'a>> {
        let cells = object.register_of.len();
        let mut reads_left = vec![0; cells];
        let mut first_write: Vec<Option<Moment>> = vec![None; cells];
        for step in &object.operations {
            match &step.action {
                Action::Read(cell) => reads_left[*cell as usize] += 1,
                Action::Write(cells) => {
                    for &cell in cells {
                        first_write[cell as usize].get_or_insert(step.invoked);
                    }
                }
            }
        }

        let mut moments = Vec::new();
        let mut writes_left = vec![0; cells];
        for (at, step) in object.operations.iter().enumerate() {
            match &step.action {
                Action::Read(cell) => {
                    let is_initial = object.initially.contains(cell);
                    let is_written = first_write[*cell as usize].is_some_and(|first| Some(first) < step.completed);
                    if !is_initial && !is_written {
                        return None;
                    }
                }
                Action::Write(cells) => {
                    if step.completed.is_none() && cells.iter().all(|&cell| reads_left[cell as usize] == 0) {
                        continue;
                    }
                    for &cell in cells {
                        writes_left[cell as usize] += 1;
                    }
                }
            }
            moments.push((step.invoked, at, false));
            moments.extend(step.completed.map(|completed| (completed, at, true)));
        }
        moments.sort();

        let mut search = Search {
            object,
            entries: vec![Entry { next: 0, previous: 0, step: usize::MAX, is_completion: false }],
            invocation: vec![0; object.operations.len()],
            completion: vec![None; object.operations.len()],
            completed_left: 0,
            state: object.initially.clone(),
            reads_left,
            writes_left,
            done: Vec::new(),
            replaced: Vec::new(),
            configuration: 0,
            seen: BTreeSet::new(),
        };
        for (_, step, is_completion) in moments {
            let entry = search.entries.len();
            search.entries.push(Entry { next: 0, previous: entry - 1, step, is_completion });
            search.entries[entry - 1].next = entry;
            search.entries[0].previous = entry;
            if is_completion {
                search.completion[step] = Some(entry);
                search.completed_left += 1;
            } else {
                search.invocation[step] = entry;
            }
        }
        Some(search)
    }

    fn run(mut self, budget: &mut u64) -> Found {
        let mut branches: Vec<Branch> = Vec::new();
        loop {
            self.settle();
            if self.completed_left == 0 {
                return Found::Order;
            }
            if self.seen.insert(self.configuration) {
                if *budget == 0 {
                    return Found::GaveUp;
                }
                *budget -= 1;
                branches.push(Branch { done: self.done.len(), choices: self.choices() });
            }
            loop {
                let Some(branch) = branches.last_mut() else { return Found::NoOrder };
                let choice = branch.choices.pop();
                let done = branch.done;
                while self.done.len() > done {
                    self.undo();
                }
                match choice {
                    Some(step) => break self.perform(step),
                    None => branches.pop(),
                };
            }
        }
    }

    /// Takes the steps that need no trying, until none is left.
    fn settle(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            let mut at = self.entries[0].next;
            while at != 0 && !self.entries[at].is_completion {
                let step = self.entries[at].step;
                let is_free = match &self.object.operations[step].action {
                    Action::Read(cell) => self.holds(*cell),
                    Action::Write(cells) => {
                        let unread = |cell: Cell| self.reads_left[cell as usize] == 0;
                        self.completion[step].is_some()
                            && cells.iter().all(|&cell| unread(cell) && unread(self.held_beside(cell)))
                    }
                };
                if is_free {
                    self.perform(step);
                    changed = true;
                }
                at = self.entries[at].next;
            }
        }
    }

    /// The writes that may come next, the best last: those that complete first are the likeliest.
    fn choices(&self) -> Vec<usize> {
        let mut writes = Vec::new();
        let mut wanted = BTreeSet::new();
        let mut at = self.entries[0].next;
        while at != 0 && !self.entries[at].is_completion {
            let step = self.entries[at].step;
            match &self.object.operations[step].action {
                Action::Read(cell) => {
                    wanted.insert(*cell);
                }
                Action::Write(cells) => writes.push((step, cells)),
            }
            at = self.entries[at].next;
        }
        writes.retain(|&(step, cells)| {
            let destroys = cells.iter().any(|&cell| {
                let held = self.held_beside(cell);
                held != cell && self.reads_left[held as usize] > 0 && self.writes_left[held as usize] == 0
            });
            let is_pointless = self.completion[step].is_none()
                && match cells.as_slice() {
                    [cell] => !wanted.contains(cell),
                    cells => cells.iter().all(|&cell| self.reads_left[cell as usize] == 0),
                };
            !destroys && !is_pointless
        });
        // A `None` (unknown) is tried last; entries are in order of time.
        writes.sort_by_key(|&(step, _)| std::cmp::Reverse(self.completion[step].unwrap_or(usize::MAX)));
        writes.into_iter().map(|(step, _)| step).collect()
    }

    fn holds(&self, cell: Cell) -> bool {
        self.held_beside(cell) == cell
    }

    /// What the register of `cell` holds now.
    fn held_beside(&self, cell: Cell) -> Cell {
        self.state[self.object.register_of[cell as usize] as usize]
    }

    fn perform(&mut self, step: usize) {
        let object = self.object;
        match &object.operations[step].action {
            Action::Read(cell) => self.reads_left[*cell as usize] -= 1,
            Action::Write(cells) => {
                for &cell in cells {
                    let held = &mut self.state[object.register_of[cell as usize] as usize];
                    self.configuration ^= cell_hash(*held) ^ cell_hash(cell);
                    self.replaced.push(*held);
                    *held = cell;
                    self.writes_left[cell as usize] -= 1;
                }
            }
        }
        self.configuration ^= step_hash(step);
        self.done.push(step);
        // The completion first: what follows the invocation is then what follows both.
        if let Some(entry) = self.completion[step] {
            self.lift(entry);
            self.completed_left -= 1;
        }
        self.lift(self.invocation[step]);
    }

    fn undo(&mut self) {
        let Some(step) = self.done.pop() else { return };
        let object = self.object;
        self.put_back(self.invocation[step]);
        if let Some(entry) = self.completion[step] {
            self.put_back(entry);
            self.completed_left += 1;
        }
        self.configuration ^= step_hash(step);
        match &object.operations[step].action {
            Action::Read(cell) => self.reads_left[*cell as usize] += 1,
            Action::Write(cells) => {
                for &cell in cells.iter().rev() {
                    let Some(held) = self.replaced.pop() else { return };
                    self.configuration ^= cell_hash(held) ^ cell_hash(cell);
                    self.state[object.register_of[cell as usize] as usize] = held;
                    self.writes_left[cell as usize] += 1;
                }
            }
        }
    }

    fn lift(&mut self, entry: usize) {
        let Entry { next, previous, .. } = self.entries[entry];
        self.entries[previous].next = next;
        self.entries[next].previous = previous;
    }

    fn put_back(&mut self, entry: usize) {
        let Entry { next, previous, .. } = self.entries[entry];
        self.entries[previous].next = entry;
        self.entries[next].previous = entry;
    }
}

fn step_hash(step: usize) -> u128 {
    hash(2 * step as u64)
}

fn cell_hash(cell: Cell) -> u128 {
    hash(2 * u64::from(cell) + 1)
}

/// 128 well-mixed bits for a number: SplitMix64's finalizer (Steele, Lea and Flood, 2014), twice.
fn hash(number: u64) -> u128 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let low = mix(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1));
    let high = mix(number.wrapping_mul(0xd1b5_4a32_d192_ed03).wrapping_add(0x0f1e_2d3c_4b5a_6978));
    (u128::from(high) << 64) | u128::from(low)
}
