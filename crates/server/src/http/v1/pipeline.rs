//! Many requests over one connection: `/v1/pipeline`.
//!
//! A request of its own costs either side more in HTTP and TCP than all that the store does for it. Here requests are lines
//! in the body of one, and their answers lines in the body of its answer: one segment carries many of them, one wakeup is for
//! many. A line is what it would be as a request, and goes the same way: method, path, headers, body, and an `id`, which
//! the answer repeats. Requests are carried out beside one another and answered as they are done, so whoever wants
//! one after the other waits for the first one's answer.
//!
//! No more is read while so much is under way or waits for the client to read that it would take memory: the client's
//! connection then waits, as it would for any slow server.
//!
//! Not handled: answers without an end (watches, backups), which have a connection of their own.

use super::super::answer::{self, Answer, Body, Done, Form, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::member::{self, LEADER, Member};
use super::super::read::NODE;
use super::super::{MAX_BODY_BYTES, MAX_HEADERS};
use super::{Call, Parameters, To, wire};
use crate::watch::End;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A body of the largest size, in base64, and what is around it.
const MAX_LINE_BYTES: usize = MAX_BODY_BYTES / 3 * 4 + 256 * 1024;
const MAX_ID_BYTES: usize = 128;
/// What may be under way at a time, in requests for one key, ...
const MAX_WEIGHT: usize = 1024;
/// ... one of which a range or a transaction outweighs, as it may have that much larger an answer.
const HEAVY: usize = 128;
/// So much of lines may be under way.
const MAX_BYTES: usize = 16 << 20;
/// With so much of answers to be sent no other is looked at.
const ENOUGH_BYTES: usize = 256 << 10;
/// A pipeline without any request for so long, or at most twice that, is ended.
const IDLE: Duration = Duration::from_secs(300);

pub fn post<C: Cluster>(
    request: &mut Request<Input>,
    peer: SocketAddr,
    member: &Arc<Member<C>>,
) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let ended = {
        let hub = member.cluster.hub().clone();
        Box::pin(async move { hub.ended().await })
    };
    let told_leader = leader_of(member);
    let mut answer = answer::empty();
    let told = answer.headers_mut();
    told.insert(CONTENT_TYPE, LINES);
    told.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    told.insert(NODE, answer::header_text(&member.cluster.identity().name));
    if let Some(leader) = &told_leader {
        told.insert(LEADER, answer::header_text(leader));
    }
    let pipeline = Pipeline {
        member: member.clone(),
        peer,
        input: Some(std::mem::take(request.body_mut())),
        lines: Lines::default(),
        under_way: FuturesUnordered::new(),
        weight: 0,
        bytes: 0,
        told_leader,
        ended,
        idle: Box::pin(sleep(IDLE)),
        is_idle: true,
    };
    *answer.body_mut() = Body::Stream(Box::pin(pipeline));
    Ok(answer)
}

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The body of the answer. It does all the work, whenever it is asked for more.
struct Pipeline<C> {
    member: Arc<Member<C>>,
    peer: SocketAddr,
    /// `None`: no more is read.
    input: Option<Input>,
    lines: Lines,
    under_way: FuturesUnordered<UnderWay>,
    weight: usize,
    bytes: usize,
    told_leader: Option<String>,
    /// The node takes no more requests.
    ended: Pin<Box<dyn Future<Output = End> + Send>>,
    idle: Pin<Box<Sleep>>,
    /// Nothing came since `idle` began to count.
    is_idle: bool,
}

type UnderWay = Pin<Box<dyn Future<Output = Carried> + Send>>;

/// A request that is done.
struct Carried {
    id: Id,
    answer: Answer,
    weight: usize,
    bytes: usize,
}

impl<C: Cluster> hyper::body::Body for Pipeline<C> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let mut into = Vec::new();
        let member = this.member.clone();
        member.cluster.together(|| {
            while into.len() < ENOUGH_BYTES {
                let has_read = this.read(context, &mut into);
                let has_answered = this.answer(context, &mut into);
                if !(has_read || has_answered) {
                    break;
                }
            }
        });
        if !into.is_empty() {
            this.tell_leader(&mut into);
            return Poll::Ready(Some(Ok(Frame::data(into.into()))));
        }
        if this.input.is_none() && this.under_way.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

impl<C: Cluster> Pipeline<C> {
    /// Begins with as many requests as there are and as may be under way. Whether it did anything.
    fn read(&mut self, context: &mut Context<'_>, into: &mut Vec<u8>) -> bool {
        if self.input.is_some() {
            if let Poll::Ready(end) = self.ended.as_mut().poll(context) {
                self.end(into, super::over(end, "no more requests are read: go on at another member"));
            } else if self.idle.as_mut().poll(context).is_ready() {
                if std::mem::replace(&mut self.is_idle, true) && self.under_way.is_empty() {
                    self.input = None;
                }
                self.idle.as_mut().reset(Instant::now() + IDLE);
                // So that it wakes when that is over.
                let _ = self.idle.as_mut().poll(context);
            }
        }
        let mut has_read = false;
        // What is not understood is answered at once.
        while self.has_room() && into.len() < ENOUGH_BYTES {
            match self.lines.next() {
                Ok(Some(line)) => self.begin(line, into),
                Ok(None) if !self.read_more(context, into) => break,
                Ok(None) => {}
                Err(refusal) => self.end(into, refusal),
            }
            has_read = true;
            self.is_idle = false;
        }
        has_read
    }

    fn has_room(&self) -> bool {
        let has_any = self.input.is_some() || self.lines.has_any();
        has_any && self.weight < MAX_WEIGHT && self.bytes < MAX_BYTES
    }

    /// Whether there was more.
    fn read_more(&mut self, context: &mut Context<'_>, into: &mut Vec<u8>) -> bool {
        let Some(input) = &mut self.input else { return false };
        match Pin::new(input).poll_frame(context) {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    self.lines.push(bytes);
                }
                true
            }
            Poll::Ready(Some(Err(error))) => {
                self.end(into, Refusal::invalid(format!("the pipeline broke off ({error})")));
                false
            }
            Poll::Ready(None) => {
                self.input = None;
                self.lines.end();
                true
            }
        }
    }

    /// Carries out what was begun, and reads no more.
    fn end(&mut self, into: &mut Vec<u8>, why: Refusal) {
        self.input = None;
        self.lines = Lines::default();
        write_error(into, why);
    }

    fn begin(&mut self, line: Bytes, into: &mut Vec<u8>) {
        let (id, understood) = understand(&line);
        let (call, request) = match understood {
            Ok(understood) => understood,
            Err(refusal) => return write_answer(into, &id, refusal.in_form(Form::Problem).into_answer()),
        };
        let weight = if call.to.is_of_one_key() { 1 } else { HEAVY };
        let bytes = line.len();
        self.weight += weight;
        self.bytes += bytes;
        let (member, peer) = (self.member.clone(), self.peer);
        self.under_way.push(Box::pin(async move {
            let answer = member.answer_within(call, request, peer).await;
            Carried { id, answer, weight, bytes }
        }));
    }

    /// Writes the answers that are there, but not many more than enough. Whether there was any.
    fn answer(&mut self, context: &mut Context<'_>, into: &mut Vec<u8>) -> bool {
        let mut has_any = false;
        while into.len() < ENOUGH_BYTES
            && let Poll::Ready(Some(carried)) = self.under_way.poll_next_unpin(context)
        {
            self.weight -= carried.weight;
            self.bytes -= carried.bytes;
            write_answer(into, &carried.id, carried.answer);
            has_any = true;
        }
        has_any
    }

    /// Clients that know who leads spare the others the forwarding.
    fn tell_leader(&mut self, into: &mut Vec<u8>) {
        let leader = leader_of(&self.member);
        if leader.is_some() && leader != self.told_leader {
            let mut line = wire::Writer::new(into);
            line.text("leader", leader.as_deref().unwrap_or_default());
            line.end();
            into.push(b'\n');
            self.told_leader = leader;
        }
    }
}

fn leader_of<C: Cluster>(member: &Member<C>) -> Option<String> {
    let status = member.cluster.status();
    status.leader.and_then(|id| status.configuration.members.get(&id)).map(|leader| leader.name.clone())
}

impl To {
    fn is_of_one_key(self) -> bool {
        matches!(self, To::GetKey | To::PutKey | To::DeleteKey)
    }

    fn ends(self) -> bool {
        !matches!(self, To::Watch | To::Snapshot | To::Pipeline)
    }
}

type Understood = (Call, Box<Request<Input>>);

/// JSON, as it came.
struct Id(Box<str>);

/// The line's id as far as it has one, and what the line asks for.
fn understand(line: &[u8]) -> (Id, Result<Understood, Refusal>) {
    match serde_json::from_slice::<wire::Object<Line>>(line) {
        Ok(wire::Object(line)) => match id_of(line.id) {
            Some(id) => (id, request_of(&line)),
            None => {
                let text =
                    format!("an id is a number or a string, of at most {MAX_ID_BYTES} bytes; nothing was changed");
                (Id("null".into()), Err(Refusal::invalid(text)))
            }
        },
        Err(error) => {
            let named = serde_json::from_slice::<wire::Object<Named>>(line)
                .ok()
                .and_then(|wire::Object(named)| id_of(named.id));
            (
                named.unwrap_or(Id("null".into())),
                Err(Refusal::invalid(format!("{EXPECTED}; nothing was changed: {error}"))),
            )
        }
    }
}

fn id_of(id: &RawValue) -> Option<Id> {
    let id = id.get();
    (id.len() <= MAX_ID_BYTES && !id.starts_with(['{', '['])).then(|| Id(id.into()))
}

const EXPECTED: &str = r#"a line is {"id":1,"method":"PUT","path":"/v1/kv/NAME","body":"VALUE"}, and may have "headers", and "body_base64" in place of "body""#;

/// A line of which no more is understood.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
}

fn request_of(line: &Line) -> Result<Understood, Refusal> {
    let mut request = Box::new(Request::new(Input::Whole(line.body()?)));
    *request.method_mut() = Method::from_bytes(line.method.as_bytes())
        .map_err(|_| Refusal::invalid("a method is GET, PUT, POST or DELETE; nothing was changed"))?;
    *request.uri_mut() = line
        .path
        .starts_with('/')
        .then(|| line.path.parse::<Uri>().ok())
        .flatten()
        .ok_or_else(|| Refusal::invalid("a path is as in /v1/kv/NAME?level=none, escaped; nothing was changed"))?;
    let headers = request.headers_mut();
    // A map of headers panics when it is given more than it can count.
    if line.headers.as_ref().is_some_and(|headers| headers.0.len() > MAX_HEADERS) {
        let text = format!("a request has at most {MAX_HEADERS} headers; nothing was changed");
        return Err(Refusal::invalid(text));
    }
    for (name, value) in line.headers.iter().flat_map(|headers| &headers.0) {
        let wrong = || Refusal::invalid(format!("{name:?} is no header, or has no value that one may have"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    let call = <Call as member::Call>::parse(&request).unwrap_or_else(|| {
        Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "a pipeline takes what GET /v1/openapi.json describes, and nothing else",
        ))
    })?;
    if !call.to.ends() {
        return Err(Refusal::invalid("this answer has no end of its own, so it needs a connection of its own"));
    }
    Ok((call, request))
}

/// One request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    headers: Option<Headers<'a>>,
    /// Text, or JSON as it is.
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    body_base64: Option<Text<'a>>,
}

impl Line<'_> {
    fn body(&self) -> Result<Bytes, Refusal> {
        let text = match self.body {
            Some(body) if body.get().starts_with('"') => {
                let Text(text) = serde_json::from_str(body.get())
                    .map_err(|error| Refusal::invalid(format!("the body is no text: {error}")))?;
                Some(Bytes::copy_from_slice(text.as_bytes()))
            }
            Some(body) => Some(Bytes::copy_from_slice(body.get().as_bytes())),
            None => None,
        };
        let base64 = self.body_base64.as_ref().map(|Text(base64)| base64.as_bytes());
        Ok(wire::either("body", text, base64).map_err(Refusal::invalid)?.unwrap_or_default())
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// In their order.
struct Headers<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Headers<'a>, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Headers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Headers(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// `{"id":1,"status":200,"body":…}`, with the headers where it is no plain success.
fn write_answer(into: &mut Vec<u8>, id: &Id, answer: Answer) {
    let (head, body) = answer.into_parts();
    let mut line = wire::Writer::new(into);
    line.field("id").extend_from_slice(id.0.as_bytes());
    line.number("status", head.status.as_u16().into());
    if !head.status.is_success() {
        write_headers(&mut line, &head.headers);
    }
    let body = match body {
        Body::Full(mut full) => {
            // It is there as a whole.
            let frame = futures_util::FutureExt::now_or_never(full.frame()).flatten();
            frame.and_then(|frame| frame.ok()?.into_data().ok()).unwrap_or_default()
        }
        Body::Stream(_) => Bytes::new(),
    };
    let is_json = head.headers.get(CONTENT_TYPE).is_some_and(|told| told.as_bytes().ends_with(b"json"));
    if is_json {
        let into = line.field("body");
        // Only between its parts can JSON have ends of lines.
        for piece in body.trim_ascii_end().split(|&byte| byte == b'\n') {
            into.extend_from_slice(piece);
        }
    } else if !body.is_empty() {
        line.bytes("body", &body);
    }
    line.end();
    into.push(b'\n');
}

fn write_headers(line: &mut wire::Writer, headers: &HeaderMap) {
    let mut object = wire::Writer::new(line.field("headers"));
    for (name, value) in headers.iter().filter(|(name, _)| *name != CONTENT_TYPE) {
        object.text(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
    }
    object.end();
}

/// What is about no request, but about the pipeline.
fn write_error(into: &mut Vec<u8>, refusal: Refusal) {
    let mut line = wire::Writer::new(into);
    line.field("error").extend_from_slice(&refusal.done(Done::NotApplied).in_form(Form::Problem).body());
    line.end();
    into.push(b'\n');
}

/// Cuts what comes into lines.
#[derive(Default)]
struct Lines {
    /// What came last, from the first byte that is in no line yet.
    fresh: Bytes,
    /// The beginning of a line that goes on in `fresh`.
    begun: BytesMut,
    has_ended: bool,
}

impl Lines {
    /// Only when all lines are taken that were there.
    fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.fresh.is_empty());
        self.fresh = bytes;
    }

    /// What is there without an end is a line too.
    fn end(&mut self) {
        self.has_ended = true;
    }

    fn has_any(&self) -> bool {
        !(self.fresh.is_empty() && self.begun.is_empty())
    }

    /// The next line that is not empty.
    fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let end = self.fresh.iter().position(|&byte| byte == b'\n');
            let is_over = self.begun.len() + end.unwrap_or(self.fresh.len()) > MAX_LINE_BYTES;
            if is_over {
                let text = format!("a line is longer than {MAX_LINE_BYTES} bytes, the limit; no more is read");
                return Err(Refusal::too_large(text));
            }
            let line = match end {
                Some(end) => {
                    let line = self.fresh.split_to(end);
                    self.fresh.advance(1);
                    self.with_begun(line)
                }
                None => {
                    let rest = std::mem::take(&mut self.fresh);
                    if !(self.has_ended && self.has_begun_or(&rest)) {
                        self.begun.extend_from_slice(&rest);
                        return Ok(None);
                    }
                    self.with_begun(rest)
                }
            };
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn has_begun_or(&self, rest: &Bytes) -> bool {
        !(self.begun.is_empty() && rest.is_empty())
    }

    fn with_begun(&mut self, rest: Bytes) -> Bytes {
        if self.begun.is_empty() {
            return rest;
        }
        self.begun.extend_from_slice(&rest);
        self.begun.split().freeze()
    }
}
