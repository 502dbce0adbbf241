//! Every change as it comes: `/v1/watch`.
//!
//! The answer never ends by itself. It is a stream of server-sent events, as browsers read them, or of lines of JSON; in
//! either, all changes of one revision are one event. What drives it is a [`Watcher`], which is asked for more when the
//! connection has taken what came before.

use super::super::answer::{self, Answer, Form, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::member::Member;
use super::super::moving::MayWait;
use super::super::read::Seen;
use super::negotiate::prefers;
use super::query::{WISH, whole_number};
use super::range::{ENDS, Ends};
use super::{Parameters, REVISION, number, out_of_reach, wire};
use crate::watch::{Before, Encoding, Event, Kind, Watcher, Wish};
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body, Frame};
use hyper::header::{CACHE_CONTROL, CONNECTION, HeaderName, HeaderValue};
use kv::{Change, KeyRange, OutOfReach};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pub async fn get<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    let query = Parameters::parse(request.uri().query(), &[OWN, ENDS, WISH])?;
    let encoding = if prefers(request, "application/x-ndjson", "text/event-stream") { &LINES } else { &EVENTS };
    let wish = Wish { keys: keys(&query)?, only: only(&query)?, previous: query.flag("prev")?, encoding };
    let from = match last_event_id(request)? {
        Some(last) => Some(last + 1),
        None => query.number("revision")?.map(|revision| revision.max(1)),
    };

    let Seen { view, mut headers } = member.see(&query.wish()?).await?;
    let from = from.unwrap_or(view.revision() + 1);
    headers.push((REVISION, number(from - 1)));
    if from < view.compacted() {
        let gone = OutOfReach::Compacted { revision: from, oldest: view.compacted() };
        return Err(out_of_reach(&gone).with_headers(headers));
    }
    drop(view);
    let is_lines = encoding == &LINES;
    let told = Told { next: Some(Box::pin(next(member.cluster.hub().watch(wish, from)))), is_lines };
    let content_type = if is_lines { "application/x-ndjson" } else { "text/event-stream" };
    let mut answer = answer::streamed(HeaderValue::from_static(content_type), Box::pin(told));
    answer.extensions_mut().insert(MayWait);
    // Nothing else shall go on where this goes on.
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.headers_mut().extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
    Ok(answer)
}

const OWN: &[&str] = &["key", "revision", "prev", "only"];

fn keys(query: &Parameters) -> Result<KeyRange, Refusal> {
    let given = |name| query.bytes(name);
    let ends = Ends { key: given("key"), prefix: given("prefix"), start: given("start"), end: given("end") };
    Ok(ends.range()?.unwrap_or_else(KeyRange::all))
}

fn only(query: &Parameters) -> Result<Option<Kind>, Refusal> {
    match query.text("only")? {
        None => Ok(None),
        Some("put") => Ok(Some(Kind::Put)),
        Some("delete") => Ok(Some(Kind::Delete)),
        Some(other) => Err(Refusal::invalid(format!("only={other} is not understood; it may be put or delete"))),
    }
}

/// Where an earlier stream ended. Browsers send it by themselves, and empty if there was no event.
fn last_event_id<B>(request: &Request<B>) -> Result<Option<u64>, Refusal> {
    let Some(value) = request.headers().get(LAST_EVENT_ID) else { return Ok(None) };
    if value.is_empty() {
        return Ok(None);
    }
    let last = whole_number(value.as_bytes()).filter(|&last| last < i64::MAX as u64);
    let wrong = || Refusal::invalid("Last-Event-ID takes the id of an event, which is a revision, as in 17");
    last.map(Some).ok_or_else(wrong)
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The body: one event after another.
struct Told {
    /// `None`: that was the last.
    next: Option<Next>,
    is_lines: bool,
}

type Next = Pin<Box<dyn Future<Output = (Watcher, Event)> + Send>>;

async fn next(mut watcher: Watcher) -> (Watcher, Event) {
    let event = watcher.next().await;
    (watcher, event)
}

impl Body for Told {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let Some(waiting) = &mut self.next else { return Poll::Ready(None) };
            let (watcher, event) = ready!(waiting.as_mut().poll(context));
            let is_last = matches!(event, Event::Compacted { .. } | Event::Failed(_) | Event::End(_));
            self.next = if is_last { None } else { Some(Box::pin(next(watcher))) };
            let text = write(event, self.is_lines);
            if !text.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
        }
    }
}

/// Nothing, if this form has no word for it.
fn write(event: Event, is_lines: bool) -> Bytes {
    match event {
        Event::Changes(text) => text,
        Event::Progress(revision) if is_lines => format!("{{\"progress\":{{\"revision\":{revision}}}}}\n").into(),
        Event::Progress(revision) => {
            format!("id: {revision}\nevent: progress\ndata: {{\"revision\":{revision}}}\n\n").into()
        }
        Event::Heartbeat if is_lines => Bytes::new(),
        Event::Heartbeat => Bytes::from_static(b": heartbeat\n\n"),
        Event::Compacted { next, oldest } => {
            write_problem(out_of_reach(&OutOfReach::Compacted { revision: next, oldest }), is_lines)
        }
        Event::Failed(why) => write_problem(Refusal::unreadable(why), is_lines),
        Event::End(end) => {
            write_problem(super::over(end, "go on at another member, from the last event's id"), is_lines)
        }
    }
}

fn write_problem(refusal: Refusal, is_lines: bool) -> Bytes {
    let problem = refusal.in_form(Form::Problem).body();
    let [before, after] = if is_lines { ["{\"error\":", "}\n"] } else { ["event: error\ndata: ", "\n\n"] };
    [before.as_bytes(), &problem, after.as_bytes()].concat().into()
}

static EVENTS: Encoding = Encoding { name: "events", encode: encode_event };
static LINES: Encoding = Encoding { name: "lines", encode: encode_line };

fn encode_event(revision: u64, changes: &[&Change], before: Before, into: &mut Vec<u8>) {
    into.extend_from_slice(b"id: ");
    into.extend_from_slice(revision.to_string().as_bytes());
    into.extend_from_slice(b"\nevent: change\ndata: ");
    write_revision(revision, changes, before, into);
    into.extend_from_slice(b"\n\n");
}

fn encode_line(revision: u64, changes: &[&Change], before: Before, into: &mut Vec<u8>) {
    into.extend_from_slice(b"{\"change\":");
    write_revision(revision, changes, before, into);
    into.extend_from_slice(b"}\n");
}

/// JSON of one line: text in it has its line ends escaped.
fn write_revision(revision: u64, changes: &[&Change], before: Before, into: &mut Vec<u8>) {
    let mut object = wire::Writer::new(into);
    object.number("revision", revision);
    object.array("changes", changes, |into, change| {
        let mut object = wire::Writer::new(into);
        match &change.now {
            Some(now) => {
                object.text("type", "put");
                wire::key_fields(&mut object, &change.key, now, true);
            }
            None => {
                object.text("type", "delete");
                object.bytes("key", &change.key);
            }
        }
        if let Some(previous) = &change.previous
            && before == Before::Shown
        {
            wire::write_key(object.field("previous"), &change.key, previous, true);
        }
        object.end();
    });
    object.end();
}
