//! Transactions: `/v1/txn`. Its body is read in [`parse`], its answer written in [`results`].

mod parse;
mod results;

use super::super::answer::{self, Answer, Done, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::member::Member;
use super::super::{body, idempotency};
use super::query::Parameters;
use super::{REVISION, number, wire};
use bytes::Bytes;
use hyper::Request;
use kv::Action;
use node::Outcome;

pub use parse::parse;

/// More than that is not put into one answer.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// What is larger is written beside the threads that serve connections.
const LIGHT_BYTES: usize = 256 * 1024;

pub async fn post<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let body = body::read(request.body_mut()).await?;
    let idempotency = idempotency::key_of_all(request, &body)?;
    let (transaction, shape) = parse(&body, member.settings.max_transaction_operations)?;
    drop(body);
    let outcome = super::act(Action::Transaction(transaction), idempotency, member).await?;
    let Outcome::Decided { succeeded, revision, changed, results } = outcome else {
        return Err(super::unexpected(&outcome));
    };
    let size_bytes = results.as_ref().map_or(0, |decided| results::size_bytes(decided, &shape));
    if size_bytes > MAX_ANSWER_BYTES {
        let text = format!(
            "the transaction was carried out at revision {revision}, but what it read is more than {MAX_ANSWER_BYTES} \
             bytes, the limit; read it at that revision in several requests"
        );
        let done = if changed > 0 { Done::Applied } else { Done::NotApplied };
        let refusal = Refusal::too_large(text).done(done).with("revision", revision).with("succeeded", succeeded);
        return Err(refusal.with_headers(vec![(REVISION, number(revision))]));
    }
    let write = move || {
        let mut body = Vec::with_capacity(64 + size_bytes);
        let mut object = wire::Writer::new(&mut body);
        object.flag("succeeded", succeeded);
        object.number("revision", revision);
        object.number("changed", u64::from(changed));
        match &results {
            Some(decided) => results::write(object.field("results"), decided, &shape),
            None => {
                object.null("results");
                object.flag("replayed", true);
            }
        }
        object.end();
        body
    };
    let body = if size_bytes <= LIGHT_BYTES { write() } else { super::beside(write).await? };
    let mut answer = answer::json(body);
    answer.headers_mut().insert(REVISION, number(revision));
    Ok(answer)
}

/// What a transaction's answer looks like: of each branch, step by step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shape {
    then: Vec<StepShape>,
    otherwise: Vec<StepShape>,
}

#[derive(Debug, PartialEq, Eq)]
enum StepShape {
    /// The key, if it is to be told what was there.
    Put {
        previous: Option<Bytes>,
    },
    Get,
    Range {
        keys_only: bool,
        count_only: bool,
    },
    Delete {
        previous: bool,
    },
    Transaction(Shape),
}

impl Shape {
    fn branch(&self, succeeded: bool) -> &[StepShape] {
        if succeeded { &self.then } else { &self.otherwise }
    }
}
