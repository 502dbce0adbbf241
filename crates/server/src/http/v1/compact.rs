//! Letting the past go: `/v1/compact`.

use super::super::answer::{self, Answer, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::member::Member;
use super::super::{body, idempotency};
use super::{Parameters, REVISION, number, wire};
use hyper::Request;
use kv::Action;
use node::Outcome;
use serde::Deserialize;

/// From now on nothing below that revision can be read.
pub async fn post<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        revision: wire::Number,
    }
    Parameters::parse(request.uri().query(), &[])?;
    let body = body::read(request.body_mut()).await?;
    let Asked { revision: wire::Number(revision) } = wire::parse(&body, r#"{"revision":17}"#)?;
    let idempotency = idempotency::key_of_all(request, &body)?;
    let outcome = super::act(Action::Compact { revision }, idempotency, member).await;
    let newest = match outcome.map_err(|refusal| name_ends(refusal, member))? {
        Outcome::Written { revision, .. } => revision,
        other => return Err(super::unexpected(&other)),
    };
    let mut body = Vec::new();
    let mut object = wire::Writer::new(&mut body);
    object.number("revision", revision);
    object.end();
    let mut answer = answer::json(body);
    answer.headers_mut().insert(REVISION, number(newest));
    Ok(answer)
}

/// Says between which revisions there is something to compact.
fn name_ends<C: Cluster>(refusal: Refusal, member: &Member<C>) -> Refusal {
    let Ok(view) = member.cluster.view() else { return refusal };
    match refusal.code() {
        "compacted" => refusal.with("oldest", view.compacted()),
        "future_revision" => refusal.with("newest", view.revision()),
        _ => refusal,
    }
}
