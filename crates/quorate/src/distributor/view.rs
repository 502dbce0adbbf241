//! What is known of a shard's nodes, and who leads judging from that.
//!
//! A node leads if it says so itself: the `me` of its status is the `leader`. What a follower says of others may be out
//! of date and counts for nothing. Of two who claim it, the one that began later is right: who led before may not have
//! noticed yet that it is alone.
//!
//! Not handled: terms, of which hraftd's status says nothing; so of two claims that were found together, as at the
//! start, the wrong one may be taken for right until the node behind it notices.

use client::hraftd::{Error, Status};
use std::fmt;

/// The nodes of one shard, by their place on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    nodes: Vec<Node>,
    claims: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub address: String,
    /// What it calls itself; empty until it has told.
    pub id: String,
    state: State,
    /// Claims are numbered as they begin.
    claim: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has asked yet.
    Unasked,
    Answers {
        leader: String,
    },
    Lost {
        reason: String,
    },
}

impl View {
    pub fn new(addresses: &[String]) -> View {
        let node =
            |address: &String| Node { address: address.clone(), id: String::new(), state: State::Unasked, claim: None };
        View { nodes: addresses.iter().map(node).collect(), claims: 0 }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn leader(&self) -> Option<usize> {
        let claims = self.nodes.iter().enumerate().filter_map(|(number, node)| Some((node.claim?, number)));
        claims.max().map(|(_, number)| number)
    }

    /// That node told its status, or could not be asked for it.
    pub fn heard(&mut self, number: usize, told: Result<Status, Error>) {
        let node = &mut self.nodes[number];
        match told {
            Ok(status) => {
                if !status.is_leader() {
                    node.claim = None;
                } else if node.claim.is_none() {
                    self.claims += 1;
                    node.claim = Some(self.claims);
                }
                node.id = status.me.id;
                node.state = State::Answers { leader: status.leader.id };
            }
            Err(error) => {
                node.claim = None;
                node.state = State::Lost { reason: in_short(&error) };
            }
        }
    }
}

impl Node {
    pub fn is_reachable(&self) -> bool {
        matches!(self.state, State::Answers { .. })
    }

    /// Why it is not reachable.
    pub fn trouble(&self) -> Option<&str> {
        match &self.state {
            State::Lost { reason } => Some(reason),
            _ => None,
        }
    }
}

/// As in `localhost:11000 (follows node1)`.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.address)?;
        match &self.state {
            _ if self.claim.is_some() => write!(f, "(leads)"),
            State::Unasked => write!(f, "(has not answered yet)"),
            State::Answers { leader } if leader.is_empty() => write!(f, "(knows of no leader)"),
            State::Answers { leader } => write!(f, "(names {leader} as leader)"),
            State::Lost { reason } => write!(f, "({reason})"),
        }
    }
}

/// All of them, one after the other.
impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in self.nodes.iter().enumerate() {
            write!(f, "{}{node}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The address is named beside it.
pub fn in_short(error: &Error) -> String {
    match error {
        Error::Unreachable { reason, .. } => format!("can't be reached: {reason}"),
        Error::Unknown { reason, .. } => format!("does not answer: {reason}"),
        Error::Refused { status, message, .. } => format!("answers with status {status}: {message}"),
        Error::Unintelligible { what, .. } => format!("does not speak as hraftd does: {what}"),
        Error::BadRequest(_) | Error::NoEndpoints => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::hraftd::Member;

    fn view() -> View {
        View::new(&["a:1", "b:1", "c:1"].map(str::to_string))
    }

    fn status(me: &str, leader: &str) -> Result<Status, Error> {
        let member = |id: &str| Member { id: id.into(), address: String::new() };
        Ok(Status { me: member(me), leader: member(leader), followers: Vec::new() })
    }

    fn refused_connection() -> Error {
        Error::Unreachable { address: "x".into(), reason: "connection refused".into() }
    }

    #[test]
    fn who_says_so_itself_leads() {
        let mut view = view();
        assert_eq!(view.leader(), None);
        view.heard(0, status("a", "b"));
        assert_eq!(view.leader(), None, "a follower's word counts for nothing");
        view.heard(1, status("b", "b"));
        assert_eq!(view.leader(), Some(1));
        view.heard(1, status("b", ""));
        assert_eq!(view.leader(), None);
    }

    #[test]
    fn a_node_that_knows_nobody_does_not_lead() {
        let mut view = view();
        view.heard(0, status("", ""));
        assert_eq!(view.leader(), None);
    }

    #[test]
    fn of_two_claims_the_newer_one_counts_however_often_the_older_is_repeated() {
        let mut view = view();
        view.heard(1, status("b", "b"));
        view.heard(0, status("a", "a"));
        view.heard(1, status("b", "b"));
        assert_eq!(view.leader(), Some(0));
        view.heard(0, status("a", ""));
        assert_eq!(view.leader(), Some(1));
        view.heard(0, status("a", "a"));
        assert_eq!(view.leader(), Some(0), "a claim that begins again is a new one");
    }

    #[test]
    fn a_claim_ends_with_the_node() {
        let mut view = view();
        view.heard(0, status("a", "a"));
        view.heard(0, Err(refused_connection()));
        assert_eq!((view.leader(), view.nodes()[0].is_reachable()), (None, false));
        assert!(view.nodes()[0].trouble().unwrap().contains("connection refused"));
        view.heard(0, status("a", "a"));
        assert_eq!((view.leader(), view.nodes()[0].is_reachable()), (Some(0), true));
    }

    #[test]
    fn it_tells_how_every_node_is() {
        let mut view = view();
        view.heard(0, status("a", "a"));
        view.heard(1, status("b", ""));
        assert_eq!(view.to_string(), "a:1 (leads), b:1 (knows of no leader), c:1 (has not answered yet)");
        view.heard(0, status("a", "b"));
        view.heard(2, Err(refused_connection()));
        assert_eq!(
            view.to_string(),
            "a:1 (names b as leader), b:1 (knows of no leader), c:1 (can't be reached: connection refused)"
        );
    }
}
