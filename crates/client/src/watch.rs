//! Watches: every revision that touches a range, in order, each exactly once.
//!
//! A watch knows up to which revision it has seen everything: from the changes themselves, and from the server's word
//! on what came without any. After a break, or a silence longer than the server ever keeps, it asks again for what
//! comes next, of whichever endpoint works; a revision that comes twice is dropped.
//!
//! Not handled: a limit on how long it tries to come back. It tries until it is dropped.

use crate::error::Problem;
use crate::kv::Boxed;
use crate::net::{Ask, MIN_PAUSE, Opened, number};
use crate::wire::{read, written};
use crate::{Client, Error, KeyValue, Range};
use bytes::{Buf, Bytes, BytesMut};
use hyper::header::{ACCEPT, HeaderValue};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::future::IntoFuture;
use std::time::Duration;

/// The server says something every few seconds.
const DEFAULT_SILENCE_LIMIT: Duration = Duration::from_secs(20);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Beyond anything that one revision may change.
const MAX_LINE_BYTES: usize = 256 << 20;

impl Client {
    /// To be awaited; from then on everything that happens is seen.
    pub fn watch(&self, range: Range) -> WatchRequest {
        WatchRequest {
            client: self.clone(),
            range,
            from: None,
            previous: false,
            only: None,
            silence_limit: DEFAULT_SILENCE_LIMIT,
        }
    }
}

/// A watch that has not begun; awaiting it does that.
#[must_use = "it begins when it is awaited"]
#[derive(Clone, Debug)]
pub struct WatchRequest {
    client: Client,
    range: Range,
    from: Option<u64>,
    previous: bool,
    only: Option<&'static str>,
    silence_limit: Duration,
}

/// What one revision changed in the range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub revision: u64,
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Change {
    Put { kv: KeyValue, previous: Option<KeyValue> },
    Delete { key: Bytes, previous: Option<KeyValue> },
}

impl Change {
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put { kv, .. } => &kv.key,
            Change::Delete { key, .. } => key,
        }
    }
}

impl Change {
    fn forget_previous(&mut self) {
        match self {
            Change::Put { previous, .. } | Change::Delete { previous, .. } => *previous = None,
        }
    }
}

impl WatchRequest {
    /// Beginning with that revision, which may be past or future.
    pub fn from(mut self, revision: u64) -> WatchRequest {
        self.from = Some(revision);
        self
    }

    /// Tell what each key held before.
    pub fn previous(mut self) -> WatchRequest {
        self.previous = true;
        self
    }

    pub fn only_puts(mut self) -> WatchRequest {
        self.only = Some("put");
        self
    }

    pub fn only_deletes(mut self) -> WatchRequest {
        self.only = Some("delete");
        self
    }

    /// How long nothing may be heard of the server until another is asked. 20 s unless told.
    pub fn silence_limit(mut self, limit: Duration) -> WatchRequest {
        self.silence_limit = limit;
        self
    }

    fn ask(&self, next: Option<u64>) -> Ask {
        let mut query = self.client.read_query();
        self.range.write_to(&mut query);
        if let Some(next) = next {
            query.add("revision", next);
        }
        query.flag("prev", self.previous);
        if let Some(only) = self.only {
            query.add("only", only);
        }
        let lines = HeaderValue::from_static("application/x-ndjson");
        Ask::local(query.after("/v1/watch")).with_header(ACCEPT, lines)
    }
}

impl IntoFuture for WatchRequest {
    type Output = Result<Watch, Error>;
    type IntoFuture = Boxed<Watch>;

    fn into_future(self) -> Boxed<Watch> {
        Box::pin(async move {
            let opened = self.client.open(self.ask(self.from)).await?;
            let begins_after = begins_after(&opened)?;
            let next = self.from.unwrap_or(begins_after + 1);
            let lines = Some(Lines::new(opened));
            Ok(Watch { request: self, next, lines, ready: VecDeque::new(), breaks: 0 })
        })
    }
}

fn begins_after(opened: &Opened) -> Result<u64, Error> {
    number(&opened.streamed.headers, "quorate-revision")
        .ok_or_else(|| Error::unintelligible(&opened.address, "a watch that does not say where it begins"))
}

/// A watch that has begun. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    request: WatchRequest,
    /// Everything before it was seen.
    next: u64,
    lines: Option<Lines>,
    ready: VecDeque<Revision>,
    /// How often in a row it broke before it said anything.
    breaks: u32,
}

impl Watch {
    /// Everything up to this revision has been handed out, or did not touch the range.
    pub fn revision(&self) -> u64 {
        self.ready.front().map_or(self.next, |revision| revision.revision) - 1
    }

    /// Waits for the next revision that changes anything in the range. Dropping the future loses nothing.
    ///
    /// After an error nothing more comes: [`Error::Compacted`] if the past that was asked for is forgotten, or, after
    /// a long break, what was missed meanwhile. Then list the range, and watch from the list's revision on.
    pub async fn next(&mut self) -> Result<Revision, Error> {
        loop {
            if let Some(revision) = self.ready.pop_front() {
                return Ok(revision);
            }
            let Some(lines) = &mut self.lines else {
                self.reopen().await?;
                continue;
            };
            match tokio::time::timeout(self.request.silence_limit, lines.next()).await {
                Ok(Ok(Some(line))) => {
                    self.breaks = 0;
                    self.take(line)?;
                }
                // The end, a break, or silence.
                Ok(Ok(None) | Err(Broken::Connection)) | Err(_) => self.leave(),
                Ok(Err(Broken::Sense(what))) => return Err(Error::unintelligible(&lines.opened.address, what)),
            }
        }
    }

    fn take(&mut self, line: Line) -> Result<(), Error> {
        match line {
            // Seen before the last break.
            Line::Change(revision) if revision.revision < self.next => {}
            Line::Change(mut revision) => {
                self.next = revision.revision + 1;
                if !self.request.previous {
                    // A server may tell more than it was asked for.
                    revision.changes.iter_mut().for_each(Change::forget_previous);
                }
                self.ready.push_back(revision);
            }
            Line::Progress { revision } => self.next = self.next.max(revision + 1),
            Line::Error(problem) => {
                self.leave();
                // It may say the same again at once.
                self.breaks = 1;
                match Error::of(problem) {
                    // Another endpoint can go on.
                    Error::Unavailable(_) | Error::Unknown(_) => {}
                    error => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Another endpoint is likely to do better.
    fn leave(&mut self) {
        if let Some(lines) = self.lines.take() {
            self.request.client.fleet.fails(lines.opened.endpoint);
        }
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        if self.breaks > 0 {
            let pause = MIN_PAUSE.saturating_mul(1 << self.breaks.min(10)).min(MAX_PAUSE);
            tokio::time::sleep(self.request.client.fleet.jittered(pause)).await;
        }
        self.breaks += 1;
        match self.request.client.open(self.request.ask(Some(self.next))).await {
            Ok(opened) => {
                begins_after(&opened)?;
                self.lines = Some(Lines::new(opened));
                Ok(())
            }
            Err(Error::Unavailable(_) | Error::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Change(Revision),
    Progress { revision: u64 },
    Error(Problem),
}

enum Broken {
    Connection,
    /// That is no line of a watch.
    Sense(String),
}

/// The lines of an answer, as they come.
#[derive(Debug)]
struct Lines {
    opened: Opened,
    buffer: BytesMut,
    /// So much of the buffer is known to hold no end of a line.
    searched: usize,
}

impl Lines {
    fn new(opened: Opened) -> Lines {
        Lines { opened, buffer: BytesMut::new(), searched: 0 }
    }

    async fn next(&mut self) -> Result<Option<Line>, Broken> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                let is_heartbeat = line.trim_ascii().is_empty() || line.starts_with(b":");
                if !is_heartbeat {
                    return serde_json::from_slice(&line).map(Some).map_err(|error| Broken::Sense(error.to_string()));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE_BYTES {
                return Err(Broken::Sense(format!("a line of more than {MAX_LINE_BYTES} bytes")));
            }
            match self.opened.streamed.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(_) => return Err(Broken::Connection),
            }
        }
    }
}

/// A key and what it holds are those of a [`KeyValue`]; a delete has the key alone.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    create_revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mod_revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<KeyValue>,
}

impl From<Change> for Written {
    fn from(change: Change) -> Written {
        match change {
            Change::Put { kv, previous } => {
                let (key, key_base64) = written(&kv.key);
                let (value, value_base64) = written(&kv.value);
                Written {
                    kind: "put".to_string(),
                    key,
                    key_base64,
                    value,
                    value_base64,
                    create_revision: Some(kv.create_revision),
                    mod_revision: Some(kv.mod_revision),
                    version: Some(kv.version),
                    lease: Some(kv.lease),
                    previous,
                }
            }
            Change::Delete { key, previous } => {
                let (key, key_base64) = written(&key);
                let (value, value_base64) = (None, None);
                let [create_revision, mod_revision, version, lease] = [None; 4];
                let kind = "delete".to_string();
                Written {
                    kind,
                    key,
                    key_base64,
                    value,
                    value_base64,
                    create_revision,
                    mod_revision,
                    version,
                    lease,
                    previous,
                }
            }
        }
    }
}

impl TryFrom<Written> for Change {
    type Error = String;

    fn try_from(w: Written) -> Result<Change, String> {
        let key = read("key", w.key, w.key_base64)?.ok_or("a change without its key")?;
        let previous = w.previous;
        match w.kind.as_str() {
            "put" => {
                let told = |number: Option<u64>| number.ok_or("a put without its revisions and version");
                let kv = KeyValue {
                    key,
                    value: read("value", w.value, w.value_base64)?.unwrap_or_default(),
                    create_revision: told(w.create_revision)?,
                    mod_revision: told(w.mod_revision)?,
                    version: told(w.version)?,
                    lease: w.lease.unwrap_or(0),
                };
                Ok(Change::Put { kv, previous })
            }
            "delete" => Ok(Change::Delete { key, previous }),
            other => Err(format!("a change of type {other:?}")),
        }
    }
}
