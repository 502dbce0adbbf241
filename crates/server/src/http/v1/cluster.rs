//! The cluster and this node in it: `/v1/status`, `/v1/members`, `/v1/leader`, and whether it is well: `/livez`, `/readyz`.
//!
//! What is shown is this node's own view. Only `/readyz` asks others.

use super::super::answer::{self, Answer, Form, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::member::Member;
use super::super::{body, json};
use super::{Parameters, wire};
use crate::handle::Phase;
use hyper::{Request, StatusCode};
use node::{ReadLevel, Role, Status};
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;

pub fn status<C: Cluster>(request: &Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let (status, me, leader) = (member.cluster.status(), member.cluster.identity(), member.cluster.leader());
    // In this order: what is applied is known to be committed.
    let view = member.cluster.view().ok();
    let commit = member.cluster.known_commit().max(status.commit);
    let mut body = Vec::with_capacity(512);
    let mut object = wire::Writer::new(&mut body);
    let mut node = wire::Writer::new(object.field("node"));
    node.text("name", &me.name);
    node.text("address", &me.address);
    node.text("url", &me.url);
    match me.cluster {
        Some((_, id)) => node.number("id", id),
        None => node.null("id"),
    }
    node.end();
    match me.cluster {
        Some((cluster, _)) => object.text("cluster", &format!("{:032x}", cluster.0)),
        None => object.null("cluster"),
    }
    object.text("version", env!("CARGO_PKG_VERSION"));
    object.text("role", role(status.role));
    object.number("term", status.term);
    match leader {
        Some(leader) => {
            let mut shown = wire::Writer::new(object.field("leader"));
            shown.text("name", &leader.name);
            shown.text("address", &leader.address);
            if let Some(url) = &leader.url {
                shown.text("url", url);
            }
            shown.end();
        }
        None => object.null("leader"),
    }
    object.number("commit", commit);
    let mut of_view = |name, number: Option<u64>| match number {
        Some(number) => object.number(name, number),
        None => object.null(name),
    };
    let view = view.as_ref();
    of_view("applied", view.map(|view| view.applied().index));
    of_view("revision", view.map(|view| view.revision()));
    of_view("compacted", view.map(|view| view.compacted()));
    of_view("keys", view.map(|view| view.len()));
    of_view("past_bytes", view.map(|view| view.past_bytes()));
    object.text("phase", phase(&member.cluster.phase()));
    object.end();
    Ok(answer::json(body))
}

pub fn members<C: Cluster>(request: &Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let status = member.cluster.status();
    let mut body = Vec::with_capacity(512);
    let mut object = wire::Writer::new(&mut body);
    object.array("members", &status.configuration.members, |into, (&id, known)| {
        let mut object = wire::Writer::new(into);
        object.number("id", id);
        object.text("name", &known.name);
        object.text("address", &known.address);
        if let Some(url) = member.cluster.url(id) {
            object.text("url", &url);
        }
        object.text("role", if status.configuration.is_voter(id) { "voter" } else { "learner" });
        object.flag("leader", status.leader == Some(id));
        object.end();
    });
    object.end();
    Ok(answer::json(body))
}

/// Answered when the node there votes; a learner, which stays one, when it has caught up.
pub async fn add<C: Cluster>(
    request: &mut Request<Input>,
    asker: SocketAddr,
    member: &Member<C>,
) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let expected =
        "the body must be a JSON object with exactly these strings: name, address, and may have \"learner\": true";
    let (object, learner) = json::object_with_flag(&body::read(request.body_mut()).await?, "learner", expected)?;
    let fields = json::exactly(object, ["name", "address"]);
    let [name, address] = fields.ok_or_else(|| Refusal::invalid(format!("{expected}; nothing was changed")))?;
    member.join(name, address, learner, asker.ip()).await?;
    Ok(answer::json("{}"))
}

/// Answered when it votes. A learner that does not catch up in time stays what it is.
pub async fn promote<C: Cluster>(name: &[u8], request: &Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let asked = node::Request::Promote { name: String::from_utf8_lossy(name).into_owned() };
    match member.outcome(asked).await {
        // Only the leader knows for sure who is a member: one that was just let in may be unknown here.
        Err(refusal) if refusal.status() == StatusCode::NOT_FOUND => Err(refusal.coded("member_not_found")),
        answered => answered.map(|_| answer::json("{}")),
    }
}

pub async fn remove<C: Cluster>(
    name: &[u8],
    request: &mut Request<Input>,
    member: &Member<C>,
) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let name = known(name, &member.cluster.status())?;
    member.ask(node::Request::Remove { name }, member.settings.request_limit).await?;
    Ok(answer::json("{}"))
}

pub async fn lead<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        to: Option<String>,
    }
    Parameters::parse(request.uri().query(), &[])?;
    let body = body::read(request.body_mut()).await?;
    let Asked { to } = if body.is_empty() { Asked::default() } else { wire::parse(&body, r#"{"to":"node1"}, or {}"#)? };
    if let Some(to) = &to {
        known(to.as_bytes(), &member.cluster.status())?;
    }
    member.ask(node::Request::Transfer { name: to }, member.settings.request_limit).await?;
    Ok(answer::json("{}"))
}

/// The process serves requests; there is no reason to start it anew.
pub fn live() -> Answer {
    answer::full(answer::TEXT, "ok\n")
}

/// The node can do what clients ask of it.
pub async fn ready<C: Cluster>(member: &Member<C>) -> Answer {
    let not_ready = |why: String| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why).to_be_retried().in_form(Form::Text).into_answer()
    };
    match member.cluster.phase() {
        Phase::Running => {}
        Phase::Removed(reason) => return not_ready(reason),
        other => return not_ready(format!("this node is {}", phase(&other))),
    }
    if member.cluster.status().leader.is_none() {
        return not_ready("no leader is known".to_string());
    }
    let limit = READY_LIMIT.min(member.settings.request_limit);
    match member.ask(node::Request::Read(ReadLevel::Linearizable), limit).await {
        Ok(()) => answer::full(answer::TEXT, "ok\n"),
        Err(refusal) => not_ready(refusal.text().to_string()),
    }
}

/// The member of that name, as this node knows them.
fn known(name: &[u8], status: &Status) -> Result<String, Refusal> {
    let name = String::from_utf8_lossy(name).into_owned();
    if status.configuration.by_name(&name).is_some() {
        return Ok(name);
    }
    let text = format!("there is no member {name:?}; GET /v1/members lists them");
    Err(Refusal::new(StatusCode::NOT_FOUND, text).coded("member_not_found"))
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Learner => "learner",
    }
}

fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Joining => "joining",
        Phase::Waiting => "waiting",
        Phase::Running => "running",
        Phase::Removed(_) => "removed",
        Phase::Stopping => "stopping",
    }
}

/// Whoever asks whether a node is ready waits for a second or so.
const READY_LIMIT: Duration = Duration::from_millis(900);
