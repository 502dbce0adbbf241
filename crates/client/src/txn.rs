//! Transactions: if all conditions hold, one list of steps, else the other; all at one revision.

use crate::kv::Boxed;
use crate::net::Ask;
use crate::wire::insert_bytes;
use crate::{Client, Error, KeyValue, Range};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::future::IntoFuture;

impl Client {
    /// To be filled in, then awaited.
    pub fn txn(&self) -> Txn {
        Txn { client: self.clone(), parts: Parts::default() }
    }

    /// A transaction as the API writes it, with the answer as the API gives it.
    pub async fn txn_json(&self, txn: &Value) -> Result<Value, Error> {
        self.call(Ask::write(Method::POST, "/v1/txn").with_json(txn)).await?.json()
    }
}

/// A transaction that has not been sent; awaiting it does that.
#[must_use = "it is sent when it is awaited"]
#[derive(Clone, Debug)]
pub struct Txn {
    client: Client,
    parts: Parts,
}

#[derive(Clone, Debug, Default)]
struct Parts {
    conditions: Vec<Value>,
    then: Vec<Value>,
    otherwise: Vec<Value>,
}

impl Txn {
    /// One more condition; all must hold.
    pub fn when(mut self, condition: Condition) -> Txn {
        self.parts.conditions.push(condition.0.into());
        self
    }

    /// One more step if the conditions hold.
    pub fn then(mut self, step: Step) -> Txn {
        self.parts.then.push(step.0);
        self
    }

    /// One more step if they don't.
    pub fn otherwise(mut self, step: Step) -> Txn {
        self.parts.otherwise.push(step.0);
        self
    }
}

impl Parts {
    fn json(self) -> Value {
        json!({ "if": self.conditions, "then": self.then, "else": self.otherwise })
    }
}

impl IntoFuture for Txn {
    type Output = Result<TxnDone, Error>;
    type IntoFuture = Boxed<TxnDone>;

    fn into_future(self) -> Boxed<TxnDone> {
        Box::pin(async move {
            self.client.call(Ask::write(Method::POST, "/v1/txn").with_json(&self.parts.json())).await?.json()
        })
    }
}

/// What must hold of a key, or of every key of a range.
#[derive(Clone, Debug)]
pub struct Condition(Map<String, Value>);

impl Condition {
    pub fn exists(range: Range) -> Condition {
        Condition::on(range, "exists", true.into())
    }

    pub fn absent(range: Range) -> Condition {
        Condition::on(range, "exists", false.into())
    }

    pub fn value(range: Range, is: Is, value: impl AsRef<[u8]>) -> Condition {
        let mut condition = Map::new();
        range.write_json(&mut condition);
        insert_bytes(&mut condition, "value", value.as_ref());
        Condition(condition).is(is)
    }

    pub fn version(range: Range, is: Is, version: u64) -> Condition {
        Condition::on(range, "version", version.into()).is(is)
    }

    pub fn create_revision(range: Range, is: Is, revision: u64) -> Condition {
        Condition::on(range, "create_revision", revision.into()).is(is)
    }

    pub fn mod_revision(range: Range, is: Is, revision: u64) -> Condition {
        Condition::on(range, "mod_revision", revision.into()).is(is)
    }

    pub fn lease(range: Range, is: Is, lease: u64) -> Condition {
        Condition::on(range, "lease", lease.into()).is(is)
    }

    fn on(range: Range, what: &str, value: Value) -> Condition {
        let mut condition = Map::new();
        range.write_json(&mut condition);
        condition.insert(what.to_string(), value);
        Condition(condition)
    }

    fn is(mut self, is: Is) -> Condition {
        let sign = match is {
            Is::Equal => "=",
            Is::NotEqual => "!=",
            Is::Less => "<",
            Is::Greater => ">",
        };
        self.0.insert("is".to_string(), sign.into());
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Equal,
    NotEqual,
    Less,
    Greater,
}

/// What is done in a transaction; each step gives one [`StepDone`].
#[derive(Clone, Debug)]
pub struct Step(Value);

impl Step {
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Step {
        Step::put_with(key, value, 0)
    }

    /// A put of a key that ends with the lease.
    pub fn put_with(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, lease: u64) -> Step {
        let mut put = Map::new();
        insert_bytes(&mut put, "key", key.as_ref());
        insert_bytes(&mut put, "value", value.as_ref());
        if lease != 0 {
            put.insert("lease".to_string(), lease.into());
        }
        Step(json!({ "put": put }))
    }

    pub fn get(key: impl AsRef<[u8]>) -> Step {
        let mut get = Map::new();
        insert_bytes(&mut get, "key", key.as_ref());
        Step(json!({ "get": get }))
    }

    pub fn range(range: Range) -> Step {
        let mut asked = Map::new();
        range.as_bounds().write_json(&mut asked);
        Step(json!({ "range": asked }))
    }

    pub fn delete(range: Range) -> Step {
        let mut delete = Map::new();
        range.write_json(&mut delete);
        Step(json!({ "delete": delete }))
    }

    /// A transaction within; its client is not used.
    pub fn txn(txn: Txn) -> Step {
        Step(json!({ "txn": txn.parts.json() }))
    }

    /// Tell what was there before; for puts and deletes.
    pub fn previous(mut self) -> Step {
        for name in ["put", "delete"] {
            if let Some(step) = self.0.get_mut(name).and_then(Value::as_object_mut) {
                step.insert("previous".to_string(), true.into());
            }
        }
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TxnDone {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// The store's revision after it; a new one only if something was changed.
    pub revision: u64,
    /// How many keys were changed.
    #[serde(default)]
    pub changed: u64,
    /// One for each step of the list that was done. Nothing if this is the answer to a repeat, whose results the
    /// server does not remember: then read what you need.
    #[serde(default)]
    pub results: Option<Vec<StepDone>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepDone {
    Put {
        #[serde(default)]
        previous: Option<KeyValue>,
    },
    Get {
        #[serde(default)]
        kv: Option<KeyValue>,
    },
    Range {
        #[serde(default)]
        kvs: Vec<KeyValue>,
        #[serde(default)]
        more: bool,
        #[serde(default)]
        count: Option<u64>,
    },
    Delete {
        deleted: u64,
        #[serde(default)]
        previous: Vec<KeyValue>,
    },
    Txn {
        succeeded: bool,
        #[serde(default)]
        results: Vec<StepDone>,
    },
}

impl TxnDone {
    /// What the get at that place of the list found; nothing if there is no key, or no get at that place.
    pub fn got(&self, at: usize) -> Option<&KeyValue> {
        match self.results.as_ref()?.get(at)? {
            StepDone::Get { kv } => kv.as_ref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_transaction_is_written_as_the_api_says() {
        let client = Client::new(["n:1"]).unwrap();
        let inner = client.txn().then(Step::get(b"\xff"));
        let txn = client
            .txn()
            .when(Condition::mod_revision(Range::key("k"), Is::Equal, 7))
            .when(Condition::absent(Range::prefix("p/")))
            .when(Condition::value(Range::between("a", "b"), Is::NotEqual, "v"))
            .then(Step::put_with("k", "v", 5).previous())
            .then(Step::range(Range::key("k")))
            .otherwise(Step::delete(Range::all()))
            .otherwise(Step::txn(inner));
        assert_eq!(
            txn.parts.json(),
            json!({
                "if": [
                    {"key": "k", "mod_revision": 7, "is": "="},
                    {"prefix": "p/", "exists": false},
                    {"start": "a", "end": "b", "value": "v", "is": "!="},
                ],
                "then": [
                    {"put": {"key": "k", "value": "v", "lease": 5, "previous": true}},
                    {"range": {"start": "k", "end": "k\0"}},
                ],
                "else": [
                    {"delete": {"prefix": ""}},
                    {"txn": {"if": [], "then": [{"get": {"key_base64": "/w=="}}], "else": []}},
                ],
            })
        );
    }

    #[test]
    fn results_are_read() {
        let kv = json!({"key": "k", "value": "v", "create_revision": 1, "mod_revision": 2, "version": 2, "lease": 0});
        let done: TxnDone = serde_json::from_value(json!({
            "succeeded": true, "revision": 9, "changed": 1, "results": [
                {"put": {"previous": null}}, {"get": {"kv": kv}}, {"range": {"kvs": [kv], "more": false, "count": 1}},
                {"delete": {"deleted": 1, "previous": [kv]}}, {"txn": {"succeeded": false, "results": [{"get": {"kv": null}}]}},
            ],
        }))
        .unwrap();
        assert_eq!(done.got(1).unwrap().value, Bytes::from("v"));
        assert_eq!((done.got(0), done.got(9)), (None, None));
        let replayed: TxnDone =
            serde_json::from_value(json!({"succeeded": true, "revision": 9, "results": null, "replayed": true}))
                .unwrap();
        assert_eq!(replayed.results, None);
    }
}
