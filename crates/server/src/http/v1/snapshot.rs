//! The whole state as a file: `/v1/snapshot`.

use super::super::answer::{self, Answer, Refusal};
use super::super::body::Input;
use super::super::cluster::Cluster;
use super::super::member::Member;
use super::{Parameters, REVISION, number};
use crate::backup::{self, Piece, Pieces};
use bytes::Bytes;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::{Body, Frame};
use hyper::header::CONTENT_DISPOSITION;
use node::{Outcome, ReadLevel};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;

/// Nothing is missing in it that was acknowledged before the request came.
pub async fn get<C: Cluster>(request: &mut Request<Input>, member: &Member<C>) -> Result<Answer, Refusal> {
    Parameters::parse(request.uri().query(), &[])?;
    let Ok(permit) = member.backups.clone().try_acquire_owned() else {
        let text = "this node is sending as many backups as it may; try again when one of them is done";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, text).to_be_retried());
    };
    member.ask(node::Request::Read(ReadLevel::Linearizable), member.settings.request_limit).await?;
    let frozen = match member.outcome(node::Request::Freeze).await? {
        Outcome::Frozen(frozen) => frozen,
        other => return Err(super::unexpected(&other)),
    };
    let cluster = member.cluster.identity().cluster.map_or(base::ClusterId(0), |(cluster, _)| cluster);
    let revision = frozen.revision();
    let sent = Sent { pieces: backup::send(frozen, cluster), ended: false, _permit: permit };
    let mut answer = answer::streamed(answer::BYTES, Box::pin(sent));
    let name = format!("attachment; filename=\"quorate-{revision}.backup\"");
    answer.headers_mut().insert(CONTENT_DISPOSITION, answer::header_text(&name));
    answer.headers_mut().insert(REVISION, number(revision));
    Ok(answer)
}

struct Sent {
    pieces: Pieces,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::More(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Piece::End) => {
                self.ended = true;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(io::Error::other("the backup was given up")))),
        }
    }
}
