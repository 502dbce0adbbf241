//! Who is in the cluster: `/status`, `/join` and `/remove`, on every node whatever dialects it speaks.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | 200 with this node's own view |
//! | `POST /join` `{"id":"node1","addr":"localhost:12001"}` | 200 when the node there votes (hraftd) |
//! | `POST /join` `{"id":"node1","addr":"localhost:12001","learner":true}` | 200 when it has caught up; it stays a learner |
//! | `POST /join` `{"name":"2f7a1c0","connectionString":"http://localhost:4002"}` | the same (raftd) |
//! | `DELETE /remove` `{"id":"node1"}` | 200 when it is no member (rqlite) |

use super::answer::{self, Answer, Form, Refusal};
use super::body::Input;
use super::cluster::Cluster;
use super::member::{self, Member};
use super::{body, json};
use crate::address::{self, Address};
use crate::handle::Identity;
use hyper::{Method, Request, StatusCode};
use node::Status;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    Join,
    Remove,
    Status,
}

impl member::Call for Call {
    const FORM: Form = Form::Error;

    fn parse<B>(request: &Request<B>) -> Option<Result<Call, Refusal>> {
        let (methods, names, call) = match request.uri().path() {
            "/status" => (&[Method::GET, Method::HEAD][..], "GET, HEAD", Call::Status),
            "/join" => (&[Method::POST][..], "POST", Call::Join),
            "/remove" => (&[Method::DELETE][..], "DELETE", Call::Remove),
            _ => return None,
        };
        Some(if methods.contains(request.method()) { Ok(call) } else { Err(Refusal::method(names)) })
    }

    fn changes(&self) -> bool {
        *self != Call::Status
    }

    fn not_the_leader() -> Refusal {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "this node is not the leader, and does not forward: ask the leader",
        )
    }

    async fn perform<C: Cluster>(
        self,
        request: &mut Request<Input>,
        peer: SocketAddr,
        member: &Arc<Member<C>>,
    ) -> Result<Answer, Refusal> {
        match self {
            Call::Join => {
                let (name, address, learner) = parse_join(&body::read(request.body_mut()).await?)?;
                member.join(name, address, learner, peer.ip()).await?;
            }
            Call::Remove => {
                let expected = "the body must be a JSON object with exactly this string: id";
                let object = json::object(&body::read(request.body_mut()).await?, expected)?;
                let [name] = json::exactly(object, ["id"])
                    .ok_or_else(|| Refusal::invalid(format!("{expected}; nothing was changed")))?;
                member.ask(node::Request::Remove { name }, member.settings.request_limit).await?;
            }
            Call::Status => {
                return Ok(answer::json(status(&member.cluster.status(), &member.cluster.identity())));
            }
        }
        Ok(answer::empty())
    }
}

impl<C: Cluster> Member<C> {
    /// Lets the node at that peer address in, as a voter, or as a learner that stays one. `asker`: where an address without a
    /// host is.
    pub(super) async fn join(
        &self,
        name: String,
        address: String,
        learner: bool,
        asker: IpAddr,
    ) -> Result<(), Refusal> {
        let address = complete_address(address, asker)?;
        self.ask(node::Request::Join { name, address, learner }, self.settings.request_limit).await
    }

    /// The same, where a node has no name but its address; or the one that the cluster knows the node there by.
    pub(super) async fn join_by_address(&self, address: String, asker: IpAddr) -> Result<(), Refusal> {
        let configuration = &self.cluster.status().configuration;
        let address = address::as_known(complete_address(address, asker)?, configuration).await;
        let name = configuration.by_address(&address).map_or(&address, |(_, member)| &member.name).clone();
        self.join(name, address, false, asker).await
    }
}

/// Name and peer address, in the words of either program, and whether it is to stay a learner, in ours.
fn parse_join(body: &[u8]) -> Result<(String, String, bool), Refusal> {
    const EXPECTED: &str = "the body must be a JSON object with exactly these strings: id, addr (or, as raftd says it: \
                            name, connectionString), and may have \"learner\": true";
    let (object, learner) = json::object_with_flag(body, "learner", EXPECTED)?;
    let is_raftd = object.0.iter().any(|(field, _)| field == "connectionString");
    let fields = json::exactly(object, if is_raftd { ["name", "connectionString"] } else { ["id", "addr"] });
    let [name, address] = fields.ok_or_else(|| Refusal::invalid(format!("{EXPECTED}; nothing was changed")))?;
    if !is_raftd {
        return Ok((name, address, learner));
    }
    let bare = address.strip_prefix("http://").map(|address| address.trim_end_matches('/').to_string());
    let wrong = || Refusal::invalid("connectionString must be http://HOST:PORT; nothing was changed");
    Ok((name, bare.ok_or_else(wrong)?, learner))
}

/// An address without a host (`:12001`, the bare port, or all interfaces) is at the one who asks.
fn complete_address(given: String, asker: IpAddr) -> Result<String, Refusal> {
    let wrong =
        |why: String| Refusal::invalid(format!("the address must be the peer address of the node that joins: {why}"));
    let address = Address::parse(&given).map_err(wrong)?;
    if address.port() == 0 {
        return Err(wrong("no node can be reached at port 0".to_string()));
    }
    if !address.is_on_all_interfaces() {
        return Ok(given);
    }
    Ok(SocketAddr::new(asker.to_canonical(), address.port()).to_string())
}

fn status(status: &Status, identity: &Identity) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        me: Member<'a>,
        leader: Member<'a>,
        followers: Vec<Member<'a>>,
    }
    #[derive(Default, Serialize)]
    struct Member<'a> {
        id: &'a str,
        address: &'a str,
    }
    let configuration = &status.configuration;
    // While a change is under way its outcome is not sure yet: the voters are those from before.
    let voters = &configuration.voters;
    let voters = if voters.is_joint() { &voters.voters_outgoing } else { &voters.voters };
    let member = |id| configuration.members.get(&id).map(|m| Member { id: &m.name, address: &m.address });
    let body = Body {
        me: member(status.node).unwrap_or(Member { id: &identity.name, address: &identity.address }),
        leader: status.leader.and_then(member).unwrap_or_default(),
        followers: voters.iter().filter(|&&id| Some(id) != status.leader).filter_map(|&id| member(id)).collect(),
    };
    serde_json::to_vec(&body).expect("strings are always JSON")
}
