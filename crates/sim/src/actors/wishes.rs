//! What actors ask for: which keys, which leases, which transactions.
//!
//! Mostly what is likely to come to something: conditions about what a host shows, leases that are there, keys that no other
//! step of the transaction changes. And now and then not.

use super::{Actors, FIRST_LEASE, KEYS, LEASES};
use crate::clients::host_to_ask;
use crate::{HostNumber, IS_READ, World, check};
use base::Index;
use bytes::Bytes;
use kv::{Compare, KeyRange, KeyValue, Query, Relation, Step, Target, Transaction};

impl Actors {
    fn key(&mut self) -> Bytes {
        key(self.rng.below(KEYS))
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        Bytes::from(format!("w{}", self.values))
    }

    /// Most likely one that is there.
    pub(super) fn lease(&mut self, world: &World) -> u64 {
        let there: Vec<u64> = world.checks.model.leases_at(Index::MAX).into_keys().collect();
        match there.is_empty() || self.rng.chance(200) {
            true => FIRST_LEASE + self.rng.below(LEASES),
            false => *self.rng.pick(&there),
        }
    }

    fn range(&mut self) -> KeyRange {
        match self.rng.below(6) {
            0 => KeyRange::all(),
            1 => KeyRange::prefix("t"),
            2 => KeyRange::from(self.key()),
            3 => KeyRange::between(self.key(), self.key()),
            _ => KeyRange::single(self.key()),
        }
    }

    pub(super) fn query(&mut self) -> Query {
        Query {
            keys: if self.rng.chance(500) { KeyRange::prefix("t") } else { self.range() },
            descending: self.rng.chance(300),
            after: self.rng.chance(100).then(|| self.key()),
            limit: self.rng.chance(700).then(|| self.rng.below(4)),
            keys_only: self.rng.chance(200),
            count: self.rng.chance(300),
        }
    }

    /// Its first condition, which always holds, names it.
    pub(super) fn transaction(&mut self, world: &World) -> Transaction {
        let name = [check::NAME, self.begun.to_string().as_bytes()].concat();
        let named = Compare { keys: KeyRange::single(name), relation: Relation::Equal, target: Target::Exists(false) };
        let mut keys: Vec<u64> = (0..KEYS).collect();
        for at in (1..keys.len()).rev() {
            keys.swap(at, self.rng.below(at as u64 + 1) as usize);
        }
        let keys: Vec<Bytes> = keys.into_iter().map(key).collect();
        let mut transaction = if self.rng.chance(400) {
            self.replace_what_was_seen(world, &keys[0])
        } else {
            self.any_transaction(world, &keys, 0)
        };
        transaction.compares.insert(0, named);
        transaction
    }

    /// A put that depends on nobody having been faster: what the conditions of plain writes come to.
    fn replace_what_was_seen(&mut self, world: &World, key: &Bytes) -> Transaction {
        let host = host_to_ask(&mut self.rng, world);
        let seen = found(world, host, key).map_or(0, |found| found.mod_revision);
        let compare = Compare {
            keys: KeyRange::single(key.clone()),
            relation: Relation::Equal,
            target: Target::ModRevision(seen),
        };
        let put = Step::Put { key: key.clone(), value: self.value(), lease: 0, previous: true };
        let get = Step::Range(Query::new(KeyRange::single(key.clone())));
        Transaction { compares: vec![compare], success: vec![put], failure: vec![get] }
    }

    /// Each key is given to one step, as a rule: a transaction that may change one twice is refused.
    fn any_transaction(&mut self, world: &World, keys: &[Bytes], depth: u64) -> Transaction {
        let compares = (0..self.rng.below(3)).map(|_| self.compare(world)).collect();
        let success = self.branch(world, keys, depth);
        let failure = self.branch(world, keys, depth);
        Transaction { compares, success, failure }
    }

    fn branch(&mut self, world: &World, keys: &[Bytes], depth: u64) -> Vec<Step> {
        let mut left = keys;
        let mut steps = Vec::new();
        for _ in 0..self.rng.below(4) {
            let Some((key, rest)) = left.split_first() else { break };
            let key = if self.rng.chance(20) { self.key() } else { key.clone() };
            left = rest;
            steps.push(match self.rng.below(10) {
                0..=3 => {
                    let lease = if self.rng.chance(400) { self.lease(world) } else { 0 };
                    Step::Put { key, value: self.value(), lease, previous: self.rng.chance(300) }
                }
                4..=5 => Step::Delete { keys: KeyRange::single(key), previous: self.rng.chance(500) },
                6 if steps.is_empty() => {
                    left = &[];
                    Step::Delete { keys: KeyRange::between(key, "t9"), previous: self.rng.chance(500) }
                }
                7 | 8 if depth < 2 => {
                    let (inner, outer) = rest.split_at(rest.len() / 2);
                    left = outer;
                    let mut nested = self.any_transaction(world, inner, depth + 1);
                    // What the steps before it do must not count.
                    nested.compares.extend(steps.iter().find_map(changed_by).map(|keys| Compare {
                        keys,
                        relation: Relation::Equal,
                        target: Target::Exists(self.rng.chance(500)),
                    }));
                    Step::Transaction(nested)
                }
                _ => Step::Range(self.query()),
            });
        }
        steps
    }

    /// Most likely about what is there.
    fn compare(&mut self, world: &World) -> Compare {
        let key = self.key();
        let host = host_to_ask(&mut self.rng, world);
        let found = found(world, host, &key);
        let n = self.rng.below(3);
        let near = |number: Option<u64>| (number.unwrap_or(0) + n).saturating_sub(1);
        let found = found.as_ref();
        let target = match self.rng.below(6) {
            0 => Target::Value(found.map_or(Bytes::from_static(b"w5"), |found| found.value.clone())),
            1 => Target::Version(near(found.map(|found| found.version))),
            2 => Target::CreateRevision(near(found.map(|found| found.create_revision))),
            3 => Target::ModRevision(near(found.map(|found| found.mod_revision))),
            4 => Target::Lease(found.map_or(0, |found| found.lease)),
            _ => Target::Exists(self.rng.chance(500)),
        };
        let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
        let keys = if self.rng.chance(200) { self.range() } else { KeyRange::single(key) };
        Compare { keys, relation: *self.rng.pick(&relations), target }
    }
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("t{n}"))
}

/// What that host shows.
fn found(world: &World, host: HostNumber, key: &Bytes) -> Option<KeyValue> {
    world.view(host).and_then(|view| view.get(key).expect(IS_READ))
}

fn changed_by(step: &Step) -> Option<KeyRange> {
    match step {
        Step::Put { key, .. } => Some(KeyRange::single(key.clone())),
        Step::Delete { keys, .. } => Some(keys.clone()),
        Step::Range(_) | Step::Transaction(_) => None,
    }
}
