//! The body of a transaction, read strictly and in one go.
//!
//! It is read straight into what the store takes, and counted on the way: a body that says too much is given up where it
//! does, whatever follows. What no JSON schema can say (one of these, not both of those) is said here, in words.

use super::super::super::answer::Refusal;
use super::super::super::limits::{check_key, check_value};
use super::super::list::limit;
use super::super::range::Ends;
use super::super::wire::{Number, Object, either, given};
use super::{Shape, StepShape};
use bytes::Bytes;
use kv::{Compare, KeyRange, MAX_TRANSACTION_DEPTH, Query, Relation, Step, Target, Transaction};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::fmt;

/// The transaction, and what its answer will look like. `max_operations`: conditions and steps together.
pub fn parse(body: &[u8], max_operations: usize) -> Result<(Transaction, Shape), Refusal> {
    let reading = Reading { max_operations, count: Cell::new(0), refusal: RefCell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = Whole { reading: &reading, depth: 1 }.deserialize(&mut deserializer);
    let parsed = parsed.and_then(|parsed| deserializer.end().map(|()| parsed));
    parsed.map_err(|error| {
        reading.refusal.take().unwrap_or_else(|| {
            Refusal::invalid(format!("the body must be a JSON object as in {EXAMPLE}; nothing was changed: {error}"))
        })
    })
}

const EXAMPLE: &str =
    r#"{"if":[{"key":"k","exists":false}],"then":[{"put":{"key":"k","value":"v"}}],"else":[{"get":{"key":"k"}}]}"#;

/// What all parts of one body have in common while it is read.
struct Reading {
    max_operations: usize,
    count: Cell<usize>,
    /// Why it is given up, where the JSON reader's own error could not say it.
    refusal: RefCell<Option<Refusal>>,
}

impl Reading {
    fn count<E: de::Error>(&self) -> Result<(), E> {
        self.count.set(self.count.get() + 1);
        if self.count.get() <= self.max_operations {
            return Ok(());
        }
        let text = format!(
            "a transaction may have {} operations, and this one has more (conditions and steps, those of nested \
             transactions included); nothing was changed: split it",
            self.max_operations
        );
        Err(self.give_up(Refusal::invalid(text).coded("too_many_operations")))
    }

    fn give_up<E: de::Error>(&self, refusal: Refusal) -> E {
        let error = E::custom(refusal.text());
        // The reader's error says where, this one what it is.
        if refusal.code() != "invalid" {
            *self.refusal.borrow_mut() = Some(refusal);
        }
        error
    }
}

/// One transaction. `depth`: 1 for the outermost.
#[derive(Clone, Copy)]
struct Whole<'a> {
    reading: &'a Reading,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = (Transaction, Shape);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.depth > MAX_TRANSACTION_DEPTH {
            let text = format!("transactions are nested deeper than {MAX_TRANSACTION_DEPTH}");
            return Err(de::Error::custom(text));
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = (Transaction, Shape);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Whole { reading, depth } = self;
        let (mut compares, mut then, mut otherwise) = (None, None, None);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "if" => set(&mut compares, "if", map.next_value_seed(Many(Condition { reading }))?)?,
                "then" => set(&mut then, "then", map.next_value_seed(Many(OneStep { reading, depth }))?)?,
                "else" => set(&mut otherwise, "else", map.next_value_seed(Many(OneStep { reading, depth }))?)?,
                other => return Err(de::Error::unknown_field(other, &["if", "then", "else"])),
            }
        }
        let (success, then) = then.unwrap_or_default().into_iter().unzip();
        let (failure, otherwise) = otherwise.unwrap_or_default().into_iter().unzip();
        let transaction = Transaction { compares: compares.unwrap_or_default(), success, failure };
        Ok((transaction, Shape { then, otherwise }))
    }
}

fn set<T, E: de::Error>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    if place.replace(value).is_some() { Err(E::duplicate_field(name)) } else { Ok(()) }
}

/// An array of these.
struct Many<S>(S);

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for Many<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for Many<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element_seed(self.0)? {
            all.push(one);
        }
        Ok(all)
    }
}

#[derive(Clone, Copy)]
struct Condition<'a> {
    reading: &'a Reading,
}

impl<'de> DeserializeSeed<'de> for Condition<'_> {
    type Value = Compare;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Compare, D::Error> {
        self.reading.count()?;
        let Object(fields) = Object::<Fields>::deserialize(deserializer)?;
        fields.condition().map_err(|refusal| self.reading.give_up(refusal))
    }
}

#[derive(Clone, Copy)]
struct OneStep<'a> {
    reading: &'a Reading,
    /// Of the transaction that it is a step of.
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for OneStep<'_> {
    type Value = (Step, StepShape);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.reading.count()?;
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneStep<'_> {
    type Value = (Step, StepShape);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one field: put, get, range, delete or txn")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let one = || de::Error::custom("a step has exactly one field: put, get, range, delete or txn");
        let name = map.next_key::<String>()?.ok_or_else(one)?;
        let step: fn(Fields) -> Result<(Step, StepShape), Refusal> = match name.as_str() {
            "put" => Fields::put,
            "get" => Fields::get,
            "range" => Fields::range,
            "delete" => Fields::delete,
            "txn" => {
                let nested = Whole { reading: self.reading, depth: self.depth + 1 };
                let (transaction, shape) = map.next_value_seed(nested)?;
                return match map.next_key::<String>()? {
                    None => Ok((Step::Transaction(transaction), StepShape::Transaction(shape))),
                    Some(_) => Err(one()),
                };
            }
            other => return Err(de::Error::unknown_field(other, &["put", "get", "range", "delete", "txn"])),
        };
        let Object(fields) = map.next_value::<Object<Fields>>()?;
        if map.next_key::<String>()?.is_some() {
            return Err(one());
        }
        step(fields).map_err(|refusal| self.reading.give_up(refusal))
    }
}

/// All that a condition or a step can say.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    #[serde(deserialize_with = "given")]
    key: Option<String>,
    #[serde(deserialize_with = "given")]
    key_base64: Option<String>,
    #[serde(deserialize_with = "given")]
    prefix: Option<String>,
    #[serde(deserialize_with = "given")]
    prefix_base64: Option<String>,
    #[serde(deserialize_with = "given")]
    start: Option<String>,
    #[serde(deserialize_with = "given")]
    start_base64: Option<String>,
    #[serde(deserialize_with = "given")]
    end: Option<String>,
    #[serde(deserialize_with = "given")]
    end_base64: Option<String>,
    #[serde(deserialize_with = "given")]
    value: Option<String>,
    #[serde(deserialize_with = "given")]
    value_base64: Option<String>,
    #[serde(deserialize_with = "given")]
    exists: Option<bool>,
    #[serde(deserialize_with = "given")]
    version: Option<Number>,
    #[serde(deserialize_with = "given")]
    create_revision: Option<Number>,
    #[serde(deserialize_with = "given")]
    mod_revision: Option<Number>,
    #[serde(deserialize_with = "given")]
    lease: Option<Number>,
    #[serde(deserialize_with = "given")]
    is: Option<Is>,
    #[serde(deserialize_with = "given")]
    previous: Option<bool>,
    #[serde(deserialize_with = "given")]
    limit: Option<Number>,
    #[serde(deserialize_with = "given")]
    reverse: Option<bool>,
    #[serde(deserialize_with = "given")]
    keys_only: Option<bool>,
    #[serde(deserialize_with = "given")]
    count: Option<bool>,
    #[serde(deserialize_with = "given")]
    count_only: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
enum Is {
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = ">")]
    Greater,
}

const KEY: &[&str] = &["key"];
const VALUE: &[&str] = &["value"];
const RANGE: &[&str] = &["prefix", "start", "end"];
const TARGETS: &[&str] = &["exists", "value", "version", "create_revision", "mod_revision", "lease"];

impl Fields {
    fn condition(mut self) -> Result<Compare, Refusal> {
        self.only("a condition", &[KEY, RANGE, TARGETS, &["is"]])?;
        let keys = self
            .keys()?
            .ok_or_else(|| Refusal::invalid("a condition names a key, or several by prefix, or by start and end"))?;
        let relation = match self.is {
            None | Some(Is::Equal) => Relation::Equal,
            Some(Is::NotEqual) => Relation::NotEqual,
            Some(Is::Less) => Relation::Less,
            Some(Is::Greater) => Relation::Greater,
        };
        let value = self.value()?;
        let number = |number: Option<Number>, target: fn(u64) -> Target| number.map(|Number(number)| target(number));
        let mut targets = [
            self.exists.map(Target::Exists),
            value.map(Target::Value),
            number(self.version, Target::Version),
            number(self.create_revision, Target::CreateRevision),
            number(self.mod_revision, Target::ModRevision),
            number(self.lease, Target::Lease),
        ]
        .into_iter()
        .flatten();
        match (targets.next(), targets.next()) {
            (Some(target), None) => Ok(Compare { keys, relation, target }),
            _ => Err(Refusal::invalid(format!("a condition is about exactly one of {}", TARGETS.join(", ")))),
        }
    }

    fn put(mut self) -> Result<(Step, StepShape), Refusal> {
        self.only("a put", &[KEY, VALUE, &["lease", "previous"]])?;
        let (key, value) = (self.one_key()?, self.value()?);
        let (Some(key), Some(value)) = (key, value) else {
            return Err(Refusal::invalid("a put has a key and a value"));
        };
        let Number(lease) = self.lease.unwrap_or(Number(0));
        let previous = self.previous.unwrap_or(false);
        let shape = StepShape::Put { previous: previous.then(|| key.clone()) };
        Ok((Step::Put { key, value, lease, previous }, shape))
    }

    fn get(mut self) -> Result<(Step, StepShape), Refusal> {
        self.only("a get", &[KEY])?;
        let key = self.one_key()?.ok_or_else(|| Refusal::invalid("a get has a key"))?;
        Ok((Step::Range(Query::new(KeyRange::single(key))), StepShape::Get))
    }

    fn range(mut self) -> Result<(Step, StepShape), Refusal> {
        self.only("a range", &[RANGE, &["limit", "reverse", "keys_only", "count", "count_only"]])?;
        let keys = self.keys()?.unwrap_or_else(KeyRange::all);
        let limit = limit(self.limit.map(|Number(limit)| limit))?;
        let (keys_only, count_only) = (self.keys_only.unwrap_or(false), self.count_only.unwrap_or(false));
        let query = Query {
            descending: self.reverse.unwrap_or(false),
            limit: Some(if count_only { 0 } else { limit }),
            keys_only,
            count: count_only || self.count.unwrap_or(false),
            ..Query::new(keys)
        };
        Ok((Step::Range(query), StepShape::Range { keys_only, count_only }))
    }

    fn delete(mut self) -> Result<(Step, StepShape), Refusal> {
        self.only("a delete", &[KEY, RANGE, &["previous"]])?;
        let keys = self.keys()?.ok_or_else(|| {
            Refusal::invalid(
                "a delete names a key, or several by prefix, or by start and end; an empty prefix means all",
            )
        })?;
        let previous = self.previous.unwrap_or(false);
        Ok((Step::Delete { keys, previous }, StepShape::Delete { previous }))
    }

    fn one_key(&mut self) -> Result<Option<Bytes>, Refusal> {
        let key = bytes("key", &mut self.key, &mut self.key_base64)?;
        key.iter().try_for_each(|key| check_key(key))?;
        Ok(key)
    }

    fn keys(&mut self) -> Result<Option<KeyRange>, Refusal> {
        let ends = Ends {
            key: bytes("key", &mut self.key, &mut self.key_base64)?,
            prefix: bytes("prefix", &mut self.prefix, &mut self.prefix_base64)?,
            start: bytes("start", &mut self.start, &mut self.start_base64)?,
            end: bytes("end", &mut self.end, &mut self.end_base64)?,
        };
        ends.range()
    }

    fn value(&mut self) -> Result<Option<Bytes>, Refusal> {
        let value = bytes("value", &mut self.value, &mut self.value_base64)?;
        value.iter().try_for_each(|value| check_value(value))?;
        Ok(value)
    }

    /// Nothing else may be given.
    fn only(&self, what: &str, allowed: &[&[&str]]) -> Result<(), Refusal> {
        let fields = [
            ("key", self.key.is_some() || self.key_base64.is_some()),
            ("prefix", self.prefix.is_some() || self.prefix_base64.is_some()),
            ("start", self.start.is_some() || self.start_base64.is_some()),
            ("end", self.end.is_some() || self.end_base64.is_some()),
            ("value", self.value.is_some() || self.value_base64.is_some()),
            ("exists", self.exists.is_some()),
            ("version", self.version.is_some()),
            ("create_revision", self.create_revision.is_some()),
            ("mod_revision", self.mod_revision.is_some()),
            ("lease", self.lease.is_some()),
            ("is", self.is.is_some()),
            ("previous", self.previous.is_some()),
            ("limit", self.limit.is_some()),
            ("reverse", self.reverse.is_some()),
            ("keys_only", self.keys_only.is_some()),
            ("count", self.count.is_some()),
            ("count_only", self.count_only.is_some()),
        ];
        let allowed: Vec<&str> = allowed.iter().copied().flatten().copied().collect();
        match fields.iter().find(|(name, is_given)| *is_given && !allowed.contains(name)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Refusal::invalid(format!("{what} has no field {name}; it has {}", allowed.join(", "))))
            }
        }
    }
}

fn bytes(name: &str, text: &mut Option<String>, base64: &mut Option<String>) -> Result<Option<Bytes>, Refusal> {
    either(name, text.take(), base64.take()).map_err(Refusal::invalid)
}
