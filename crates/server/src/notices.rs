//! What the node has to say, as lines for the person who runs it.
//!
//! Who wants to watch Raft at work listens to the target `raft`: at debug it tells the steps that Raft takes, the
//! messages of elections, and the members with the numbers that Raft calls them by; at trace everything that nodes say
//! to each other. The node makes lines of its steps only if somebody listens.
//!
//! Not handled: what users wrote. No key or value is ever told.

use base::NodeId;
use node::membership::Configuration;
use node::{Admin, Message, Notice, Outcome, Status, Verbosity};
use tracing::Level;

/// `in_touch`: a leader was known already. Until then a node that was started again goes over changes of the members
/// that were told in an earlier life.
pub fn tell(notice: &Notice, in_touch: bool) {
    match notice {
        Notice::LeaderChanged { term, me: true, .. } => tracing::info!("this node leads in term {term}"),
        Notice::LeaderChanged { term, leader, .. } => tracing::info!("{leader} leads in term {term}"),
        Notice::MemberChanged(what) if in_touch => tracing::debug!("{what}"),
        Notice::MemberChanged(_) => {}
        Notice::SnapshotInstalled { position, .. } => {
            tracing::debug!("caught up by a snapshot of all entries up to {}", position.index);
        }
        Notice::Trouble(what) => tracing::warn!("{what}"),
        Notice::Mended(what) => tracing::info!("{what}"),
        Notice::Step { step, .. } if step.level == Verbosity::Details => {
            tracing::trace!(target: "raft", "raft: {}", step.text);
        }
        Notice::Step { step, .. } => tracing::debug!(target: "raft", "raft: {}", step.text),
    }
}

/// How much of Raft's steps anybody wants to read.
pub fn verbosity() -> Verbosity {
    if tracing::enabled!(target: "raft", Level::TRACE) {
        Verbosity::Details
    } else if is_watched() {
        Verbosity::Steps
    } else {
        Verbosity::Silent
    }
}

pub fn received(from: NodeId, message: &Message, status: &Status) {
    if is_watched() {
        tell_message("from", from, message, status);
    }
}

pub fn sent(to: NodeId, messages: &[Message], status: &Status) {
    if is_watched() {
        messages.iter().for_each(|message| tell_message("to", to, message, status));
    }
}

/// The node sees its cluster so from now on.
pub fn tell_members(before: &Status, now: &Status) {
    if is_watched() && before.configuration != now.configuration {
        tracing::debug!(target: "raft", "raft: {}", members(&now.configuration));
    }
}

fn is_watched() -> bool {
    tracing::enabled!(target: "raft", Level::DEBUG)
}

fn tell_message(way: &str, peer: NodeId, message: &Message, status: &Status) {
    let known = status.configuration.members.get(&peer);
    let peer = known.map_or_else(|| format!("member {peer}"), |member| member.name.clone());
    match message {
        Message::Raft { message, .. } if message.is_of_election() => {
            tracing::debug!(target: "raft", "{way} {peer}: {message}");
        }
        _ => tracing::trace!(target: "raft", "{way} {peer}: {}", words(message)),
    }
}

/// What the sender says.
fn words(message: &Message) -> String {
    match message {
        Message::Raft { message, .. } => message.to_string(),
        Message::Forward { commands, .. } if commands.len() == 1 => "propose a command for me".into(),
        Message::Forward { commands, .. } => format!("propose {} commands for me", commands.len()),
        Message::ReadIndex { id, weak: false, .. } => format!("from which entry on may I read? ({id})"),
        Message::ReadIndex { id, weak: true, .. } => format!("from which entry on may I read, on your word? ({id})"),
        Message::ReadIndexReply { id, index, .. } => format!("you may read from entry {index} on ({id})"),
        Message::Admin { request: Admin::Join { name, address, learner: false }, .. } => {
            format!("let {name} at {address} join")
        }
        Message::Admin { request: Admin::Join { name, address, learner: true }, .. } => {
            format!("let {name} at {address} join as a learner")
        }
        Message::Admin { request: Admin::Promote { name }, .. } => format!("let {name} vote"),
        Message::Admin { request: Admin::Remove { name }, .. } => format!("remove {name}"),
        Message::Admin { request: Admin::Transfer { name: None }, .. } => "let another node lead".into(),
        Message::Admin { request: Admin::Transfer { name: Some(name) }, .. } => format!("let {name} lead"),
        Message::AdminReply { outcome: Outcome::Failed(failure), .. } => format!("it failed: {failure:?}"),
        Message::AdminReply { .. } => "it is done".into(),
        Message::SnapshotOffer { info, .. } => {
            let (index, size) = (info.position.index, info.size_bytes);
            format!("I have a snapshot of all entries up to {index}, {size} bytes")
        }
        Message::SnapshotWant { info, offset } => {
            format!("I want the snapshot up to entry {}, from byte {offset} on", info.position.index)
        }
        Message::SnapshotChunk { info, offset, bytes } => {
            let (index, count) = (info.position.index, bytes.len());
            format!("here are {count} bytes of the snapshot up to entry {index}, from byte {offset} on")
        }
        Message::SnapshotFailed { info } => format!("no more of the snapshot up to entry {}", info.position.index),
    }
}

fn members(configuration: &Configuration) -> String {
    let words = configuration.members.iter().map(|(id, member)| {
        let votes = if configuration.is_voter(*id) { "" } else { ", without a vote" };
        format!("{id} is {}{votes}", member.name)
    });
    let words: Vec<String> = words.collect();
    format!("the members: {}", words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Incarnation;
    use node::membership::Member;

    #[test]
    fn the_members_are_told_with_their_numbers() {
        let member = |name: &str| Member { name: name.into(), address: name.into(), incarnation: Incarnation(1) };
        let mut configuration = Configuration::bootstrap(member("a"));
        configuration.members.insert(3, member("c"));
        assert_eq!(members(&configuration), "the members: 1 is a; 3 is c, without a vote");
    }

    #[test]
    fn messages_are_told_in_words_that_hold_nothing_of_users() {
        let commands = vec![bytes::Bytes::from_static(b"secret"); 2];
        for (message, expected) in [
            (Message::Forward { group: 0, commands }, "propose 2 commands for me"),
            (Message::ReadIndexReply { group: 0, id: 7, index: 9 }, "you may read from entry 9 on (7)"),
            (Message::AdminReply { id: 1, outcome: Outcome::Done }, "it is done"),
        ] {
            assert_eq!(words(&message), expected);
        }
    }
}
