//! Keys: get, put, delete, and lists of them.

use crate::net::{Ask, Reply};
use crate::wire::{Query, key_path};
use crate::{Client, Error, KeyValue, Range};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde::Deserialize;
use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

/// Rows asked for at once.
const PAGE_ROWS: u64 = 1000;

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

impl Client {
    /// What the key holds; nothing if there is no such key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyValue>, Error> {
        self.get_as_of(key.as_ref(), None).await
    }

    /// What the key held at a past revision.
    pub async fn get_at(&self, key: impl AsRef<[u8]>, revision: u64) -> Result<Option<KeyValue>, Error> {
        self.get_as_of(key.as_ref(), Some(revision)).await
    }

    async fn get_as_of(&self, key: &[u8], revision: Option<u64>) -> Result<Option<KeyValue>, Error> {
        check(key)?;
        let mut query = self.read_query();
        if let Some(revision) = revision {
            query.add("revision", revision);
        }
        match self.call(Ask::read(query.after(&key_path(key)), self.level)).await {
            Err(Error::NotFound(problem)) if problem.code == "key_not_found" => Ok(None),
            reply => reply?.json().map(Some),
        }
    }

    /// To be awaited, after any conditions.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put {
        Put { change: Change::new(self, key.as_ref(), Method::PUT), value: value.into() }
    }

    /// To be awaited, after any conditions. Deleting what is not there changes nothing and is no error.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        Delete { change: Change::new(self, key.as_ref(), Method::DELETE) }
    }

    /// All keys of the range, at once.
    pub async fn delete_range(&self, range: Range) -> Result<Deleted, Error> {
        let mut query = Query::default();
        range.as_bounds().write_to(&mut query);
        self.call(Ask::write(Method::DELETE, query.after("/v1/kv"))).await?.json()
    }

    /// All keys that begin so, at once.
    pub async fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Deleted, Error> {
        self.delete_range(Range::prefix(prefix)).await
    }

    /// How many keys there are in the range.
    pub async fn count(&self, range: Range) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Counted {
            count: u64,
        }
        let mut query = self.read_query();
        range.as_bounds().write_to(&mut query);
        query.flag("count_only", true);
        let counted: Counted = self.call(Ask::read(query.after("/v1/kv"), self.level)).await?.json()?;
        Ok(counted.count)
    }

    /// Keys and values in the order of their keys, however many, all of one revision.
    pub fn list(&self, range: Range) -> List {
        List { client: self.clone(), range: range.as_bounds(), limit: None, query: self.read_query() }
    }
}

/// A put that has not been sent; awaiting it does that.
#[must_use = "it is sent when it is awaited"]
#[derive(Clone, Debug)]
pub struct Put {
    change: Change,
    value: Bytes,
}

/// A delete that has not been sent; awaiting it does that.
#[must_use = "it is sent when it is awaited"]
#[derive(Clone, Debug)]
pub struct Delete {
    change: Change,
}

#[derive(Clone, Debug)]
struct Change {
    client: Client,
    method: Method,
    key: Bytes,
    query: Vec<(&'static str, String)>,
    conditions: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PutDone {
    /// The revision that this put made: also the key's mod revision.
    pub revision: u64,
    /// What the key held before, if it was asked for and there was something.
    #[serde(default)]
    pub previous: Option<KeyValue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Deleted {
    /// The store's revision after it; a new one only if anything was deleted.
    pub revision: u64,
    /// How many keys there were.
    pub deleted: u64,
    /// What they held, if it was asked for.
    #[serde(default)]
    pub previous: Vec<KeyValue>,
}

impl Put {
    /// The key ends with this lease.
    pub fn lease(mut self, lease: u64) -> Put {
        self.change.query.push(("lease", lease.to_string()));
        self
    }

    /// Only if the key was last changed at this revision.
    pub fn if_match(mut self, mod_revision: u64) -> Put {
        self.change.condition(IF_MATCH, etag(mod_revision));
        self
    }

    /// Only if the key exists.
    pub fn if_present(mut self) -> Put {
        self.change.condition(IF_MATCH, HeaderValue::from_static("*"));
        self
    }

    /// Only if the key was not last changed at this revision.
    pub fn if_none_match(mut self, mod_revision: u64) -> Put {
        self.change.condition(IF_NONE_MATCH, etag(mod_revision));
        self
    }

    /// Only if there is no such key.
    pub fn if_absent(mut self) -> Put {
        self.change.condition(IF_NONE_MATCH, HeaderValue::from_static("*"));
        self
    }

    /// Tell what the key held before.
    pub fn previous(mut self) -> Put {
        self.change.query.push(("previous", "true".to_string()));
        self
    }
}

impl IntoFuture for Put {
    type Output = Result<PutDone, Error>;
    type IntoFuture = Boxed<PutDone>;

    fn into_future(self) -> Boxed<PutDone> {
        Box::pin(async move { self.change.send(self.value).await?.json() })
    }
}

impl Delete {
    /// Only if the key was last changed at this revision.
    pub fn if_match(mut self, mod_revision: u64) -> Delete {
        self.change.condition(IF_MATCH, etag(mod_revision));
        self
    }

    /// Tell what the key held.
    pub fn previous(mut self) -> Delete {
        self.change.query.push(("previous", "true".to_string()));
        self
    }
}

impl IntoFuture for Delete {
    type Output = Result<Deleted, Error>;
    type IntoFuture = Boxed<Deleted>;

    fn into_future(self) -> Boxed<Deleted> {
        Box::pin(async move { self.change.send(Bytes::new()).await?.json() })
    }
}

impl Change {
    fn new(client: &Client, key: &[u8], method: Method) -> Change {
        let key = Bytes::copy_from_slice(key);
        Change { client: client.clone(), method, key, query: Vec::new(), conditions: Vec::new() }
    }

    /// The last one of a kind counts.
    fn condition(&mut self, name: HeaderName, value: HeaderValue) {
        self.conditions.push((name, value));
    }

    async fn send(self, body: Bytes) -> Result<Reply, Error> {
        check(&self.key)?;
        let mut query = Query::default();
        self.query.iter().for_each(|(name, value)| query.add(name, value));
        let mut ask = Ask::write(self.method, query.after(&key_path(&self.key))).with_body(body);
        for (name, value) in self.conditions {
            ask = ask.with_header(name, value);
        }
        self.client.call(ask).await
    }
}

fn check(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() { Err(Error::invalid("the empty key can't be stored: give it a name")) } else { Ok(()) }
}

fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("digits in quotes are a header value")
}

/// A list that has not been asked for.
#[must_use = "it is asked for by rows(), pages() or all()"]
#[derive(Debug)]
pub struct List {
    client: Client,
    range: Range,
    limit: Option<u64>,
    query: Query,
}

impl List {
    /// At most so many rows in all.
    pub fn limit(mut self, rows: u64) -> List {
        self.limit = Some(rows);
        self
    }

    /// The last key first.
    pub fn reverse(mut self) -> List {
        self.query.flag("reverse", true);
        self
    }

    pub fn keys_only(mut self) -> List {
        self.query.flag("keys_only", true);
        self
    }

    /// As it was at that revision.
    pub fn at(self, revision: u64) -> Pages {
        Pages { at: Some(revision), ..self.pages() }
    }

    /// As many rows at a time as the server gives.
    pub fn pages(mut self) -> Pages {
        self.range.write_to(&mut self.query);
        Pages { client: self.client, query: self.query, at: None, left: self.limit, next: Next::First, revision: 0 }
    }

    /// Row by row; pages are asked for when they are needed.
    pub fn rows(self) -> Rows {
        self.pages().rows()
    }

    /// All rows, and the revision that they are of.
    pub async fn all(self) -> Result<(Vec<KeyValue>, u64), Error> {
        self.pages().all().await
    }
}

/// A list, page by page. All are of the first one's revision.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    query: Query,
    at: Option<u64>,
    left: Option<u64>,
    next: Next,
    revision: u64,
}

#[derive(Debug)]
enum Next {
    First,
    Continue(String),
    End,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Page {
    /// The one that all pages show.
    pub revision: u64,
    pub kvs: Vec<KeyValue>,
    /// Whether there are rows beyond this page.
    #[serde(default)]
    pub more: bool,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

impl Pages {
    /// Nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Page>, Error> {
        let mut query = self.query.clone();
        match &self.next {
            Next::End => return Ok(None),
            Next::First => self.at.iter().for_each(|revision| query.add("revision", revision)),
            Next::Continue(token) => query.add("continue", token),
        }
        query.add("limit", self.left.unwrap_or(PAGE_ROWS).min(PAGE_ROWS));
        let page: Page = self.client.call(Ask::read(query.after("/v1/kv"), self.client.level)).await?.json()?;
        self.revision = page.revision;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(page.kvs.len() as u64);
        }
        self.next = match &page.next {
            Some(token) if page.more && self.left != Some(0) => Next::Continue(token.clone()),
            _ => Next::End,
        };
        Ok(Some(page))
    }

    pub fn rows(self) -> Rows {
        Rows { pages: self, ready: VecDeque::new() }
    }

    pub async fn all(mut self) -> Result<(Vec<KeyValue>, u64), Error> {
        let mut rows = Vec::new();
        while let Some(page) = self.next().await? {
            rows.extend(page.kvs);
        }
        Ok((rows, self.revision))
    }
}

/// A list, row by row.
#[derive(Debug)]
pub struct Rows {
    pages: Pages,
    ready: VecDeque<KeyValue>,
}

impl Rows {
    /// Nothing after the last.
    pub async fn next(&mut self) -> Result<Option<KeyValue>, Error> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            match self.pages.next().await? {
                Some(page) => self.ready = page.kvs.into(),
                None => return Ok(None),
            }
        }
    }
}
