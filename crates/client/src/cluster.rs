//! The cluster itself: how it is, who is in it, and its data as a whole.

use crate::error::Problem;
use crate::net::Ask;
use crate::{Client, Error};
use hyper::Method;
use hyper::header::{ACCEPT, HeaderValue};
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// A node's own view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub node: Node,
    /// Nothing while the node has not joined one.
    #[serde(default)]
    pub cluster: Option<String>,
    #[serde(default)]
    pub version: String,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    pub term: u64,
    /// Nothing if none is known.
    pub leader: Option<Node>,
    /// A position in the log.
    pub commit: u64,
    /// Another; like what follows nothing while the node has no state.
    #[serde(default)]
    pub applied: Option<u64>,
    /// The store's revision on this node.
    #[serde(default)]
    pub revision: Option<u64>,
    /// Revisions before this one are forgotten.
    #[serde(default)]
    pub compacted: Option<u64>,
    #[serde(default)]
    pub keys: Option<u64>,
    /// What else the node says.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    /// Where its peers reach it.
    #[serde(default)]
    pub address: String,
    /// Where it serves clients.
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// Where it serves clients, if that is known.
    #[serde(default)]
    pub url: Option<String>,
    /// `voter` or `learner`.
    pub role: String,
    #[serde(default)]
    pub leader: bool,
}

/// What was written of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision that it holds.
    pub revision: u64,
    pub bytes: u64,
}

impl Client {
    /// Of the node that answers first. For another node's view, make a client with that endpoint alone.
    pub async fn status(&self) -> Result<Status, Error> {
        self.call(Ask::local("/v1/status")).await?.json()
    }

    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        #[derive(Deserialize)]
        struct Members {
            members: Vec<Member>,
        }
        let Members { members } = self.call(Ask::local("/v1/members")).await?.json()?;
        Ok(members)
    }

    /// Lets a node in, which must be running and wait for it at that address. It votes as soon as it has caught up.
    pub async fn add_member(&self, name: &str, address: &str) -> Result<(), Error> {
        let member = json!({ "name": name, "address": address });
        self.call(Ask::write(Method::POST, "/v1/members").with_json(&member)).await.map(drop)
    }

    /// Lets a node in as a learner: it has all that the others have and counts for no majority, until it is promoted.
    pub async fn add_learner(&self, name: &str, address: &str) -> Result<(), Error> {
        let member = json!({ "name": name, "address": address, "learner": true });
        self.call(Ask::write(Method::POST, "/v1/members").with_json(&member)).await.map(drop)
    }

    /// Makes a learner a voter, once it has caught up; no change if it is one.
    pub async fn promote_member(&self, name: &str) -> Result<(), Error> {
        self.call(Ask::write(Method::POST, format!("{}/promote", member_path(name)))).await.map(drop)
    }

    /// For good: its data folder can't come back.
    pub async fn remove_member(&self, name: &str) -> Result<(), Error> {
        match self.call(Ask::write(Method::DELETE, member_path(name))).await {
            Err(Error::NotFound(problem)) if problem.repeated => Ok(()),
            result => result.map(drop),
        }
    }

    /// Hands leadership to that member, or to whichever is best suited.
    pub async fn transfer_leadership(&self, to: Option<&str>) -> Result<(), Error> {
        let body = to.map_or(json!({}), |name| json!({ "to": name }));
        self.call(Ask::write(Method::POST, "/v1/leader").with_json(&body)).await.map(drop)
    }

    /// Forgets the past before that revision; what is current stays.
    pub async fn compact(&self, revision: u64) -> Result<(), Error> {
        let asked = json!({ "revision": revision });
        match self.call(Ask::write(Method::POST, "/v1/compact").with_json(&asked)).await {
            Err(Error::Compacted(problem)) if problem.repeated => Ok(()),
            result => result.map(drop),
        }
    }

    /// Copies the whole store into `writer`, in a file format that carries its own checksum. It is not begun anew when
    /// it breaks half-way: what was written is then of no use.
    ///
    /// Waiting for the next piece has the time limit of a call, the whole has none.
    pub async fn snapshot<W: AsyncWrite + Unpin>(&self, writer: &mut W) -> Result<Snapshot, Error> {
        let ask = Ask::local("/v1/snapshot").with_header(ACCEPT, HeaderValue::from_static("application/octet-stream"));
        let mut opened = self.open(ask).await?;
        let revision = crate::net::number(&opened.streamed.headers, "quorate-revision");
        let revision = revision.ok_or_else(|| Error::unintelligible(&opened.address, "a snapshot of no revision"))?;
        let broke = |reason: String| {
            let detail = format!("the snapshot broke off, what was written is of no use: {reason}");
            Error::Unavailable(Box::new(Problem::own("unanswered", detail)))
        };
        let mut bytes = 0;
        loop {
            let chunk = tokio::time::timeout(self.time_limit, opened.streamed.chunk()).await;
            match chunk.map_err(|_| broke(format!("{} fell silent", opened.address)))?.map_err(broke)? {
                Some(chunk) => {
                    bytes += chunk.len() as u64;
                    writer.write_all(&chunk).await.map_err(|error| broke(error.to_string()))?;
                }
                None => break,
            }
        }
        writer.flush().await.map_err(|error| broke(error.to_string()))?;
        Ok(Snapshot { revision, bytes })
    }
}

fn member_path(name: &str) -> String {
    format!("/v1/members/{}", utf8_percent_encode(name, crate::wire::ESCAPED))
}
