//! What nodes say to each other, and its bytes.
//!
//! The frame around it (length, checksum, version, who is who) belongs to the server; these are the contents. A
//! message that does not decode to the last byte is refused whole.
//!
//! Not handled: authentication. A peer that knows the cluster id is believed.

use crate::event::{Failure, Outcome};
use base::codec::{Malformed, Reader, Writer};
use base::{GroupId, Index, Position};
use bytes::Bytes;
use storage::checkpoint::CheckpointInfo;

#[derive(Clone, Debug)]
pub enum Message {
    Raft {
        group: GroupId,
        message: consensus::Message,
    },
    /// Commands (encoded) for the leader to propose. Not answered: the sender sees them applied, or sends them again.
    Forward {
        group: GroupId,
        commands: Vec<Bytes>,
    },
    /// From which index on may the sender serve the reads it holds? If they are weak, the leader's word is enough.
    ReadIndex {
        group: GroupId,
        id: u64,
        weak: bool,
    },
    ReadIndexReply {
        group: GroupId,
        id: u64,
        index: Index,
    },
    /// A request about members, for the leader.
    Admin {
        id: u64,
        limit_ticks: u64,
        request: Admin,
    },
    AdminReply {
        id: u64,
        outcome: Outcome,
    },
    /// The leader has a checkpoint for you; `message` is the snapshot message to step once it is installed.
    SnapshotOffer {
        info: CheckpointInfo,
        message: consensus::Message,
    },
    SnapshotWant {
        info: CheckpointInfo,
        offset: u64,
    },
    SnapshotChunk {
        info: CheckpointInfo,
        offset: u64,
        bytes: Bytes,
    },
    /// The receiver gave up, or the sender has that checkpoint no more.
    SnapshotFailed {
        info: CheckpointInfo,
    },
}

/// A request about members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// The node at that peer address wants to be a member under that name: a voter, or a learner that stays one.
    Join {
        name: String,
        address: String,
        learner: bool,
    },
    /// The learner of that name shall vote.
    Promote {
        name: String,
    },
    Remove {
        name: String,
    },
    /// To the voter of that name, or to the one that is furthest.
    Transfer {
        name: Option<String>,
    },
}

impl Message {
    pub fn encode(&self, w: &mut Writer) {
        match self {
            Message::Raft { group, message } => {
                w.u8(1);
                w.varint(*group);
                message.encode(w);
            }
            Message::Forward { group, commands } => {
                w.u8(2);
                w.varint(*group);
                w.varint(commands.len() as u64);
                commands.iter().for_each(|command| w.blob(command));
            }
            Message::ReadIndex { group, id, weak } => {
                w.u8(3);
                w.varint(*group);
                w.varint(*id);
                w.bool(*weak);
            }
            Message::ReadIndexReply { group, id, index } => {
                w.u8(4);
                w.varint(*group);
                w.varint(*id);
                w.varint(*index);
            }
            Message::Admin { id, limit_ticks, request } => {
                w.u8(5);
                w.varint(*id);
                w.varint(*limit_ticks);
                encode_admin(request, w);
            }
            Message::AdminReply { id, outcome } => {
                w.u8(6);
                w.varint(*id);
                encode_outcome(outcome, w);
            }
            Message::SnapshotOffer { info, message } => {
                w.u8(7);
                encode_info(info, w);
                message.encode(w);
            }
            Message::SnapshotWant { info, offset } => {
                w.u8(8);
                encode_info(info, w);
                w.varint(*offset);
            }
            Message::SnapshotChunk { info, offset, bytes } => {
                w.u8(9);
                encode_info(info, w);
                w.varint(*offset);
                w.blob(bytes);
            }
            Message::SnapshotFailed { info } => {
                w.u8(10);
                encode_info(info, w);
            }
        }
    }

    pub fn decode(bytes: Bytes) -> Result<Message, Malformed> {
        let mut r = Reader::new(bytes);
        let message = match r.u8()? {
            1 => Message::Raft { group: r.varint()?, message: raft_message(&mut r, false)? },
            2 => {
                let group = r.varint()?;
                let commands = (0..r.count()?).map(|_| r.blob()).collect::<Result<_, _>>()?;
                Message::Forward { group, commands }
            }
            3 => Message::ReadIndex { group: r.varint()?, id: r.varint()?, weak: r.bool()? },
            4 => Message::ReadIndexReply { group: r.varint()?, id: r.varint()?, index: r.varint()? },
            5 => Message::Admin { id: r.varint()?, limit_ticks: r.varint()?, request: decode_admin(&mut r)? },
            6 => Message::AdminReply { id: r.varint()?, outcome: decode_outcome(&mut r)? },
            7 => {
                let info = decode_info(&mut r)?;
                let message = raft_message(&mut r, true)?;
                if message.snapshot() != Some(info.position) {
                    return Err(Malformed("snapshot offer"));
                }
                Message::SnapshotOffer { info, message }
            }
            8 => Message::SnapshotWant { info: decode_info(&mut r)?, offset: r.varint()? },
            9 => Message::SnapshotChunk { info: decode_info(&mut r)?, offset: r.varint()?, bytes: r.blob()? },
            10 => Message::SnapshotFailed { info: decode_info(&mut r)? },
            _ => return Err(Malformed("message type")),
        };
        r.finish()?;
        Ok(message)
    }
}

/// Snapshot messages come in offers, and nothing else does.
fn raft_message(r: &mut Reader, in_offer: bool) -> Result<consensus::Message, Malformed> {
    let message = consensus::Message::decode(r)?;
    if message.snapshot().is_some() != in_offer {
        return Err(Malformed("raft message in the wrong place"));
    }
    Ok(message)
}

fn encode_info(info: &CheckpointInfo, w: &mut Writer) {
    for field in [info.group, info.position.index, info.position.term, info.size_bytes] {
        w.varint(field);
    }
    w.u32(info.checksum);
}

fn decode_info(r: &mut Reader) -> Result<CheckpointInfo, Malformed> {
    Ok(CheckpointInfo {
        group: r.varint()?,
        position: Position { index: r.varint()?, term: r.varint()? },
        size_bytes: r.varint()?,
        checksum: r.u32()?,
    })
}

fn encode_admin(request: &Admin, w: &mut Writer) {
    match request {
        Admin::Join { name, address, learner } => {
            w.u8(if *learner { 4 } else { 1 });
            w.text(name);
            w.text(address);
        }
        Admin::Remove { name } => {
            w.u8(2);
            w.text(name);
        }
        Admin::Transfer { name } => {
            w.u8(3);
            w.bool(name.is_some());
            name.iter().for_each(|name| w.text(name));
        }
        Admin::Promote { name } => {
            w.u8(5);
            w.text(name);
        }
    }
}

fn decode_admin(r: &mut Reader) -> Result<Admin, Malformed> {
    match r.u8()? {
        tag @ (1 | 4) => Ok(Admin::Join { name: r.text()?, address: r.text()?, learner: tag == 4 }),
        2 => Ok(Admin::Remove { name: r.text()? }),
        3 => Ok(Admin::Transfer { name: if r.bool()? { Some(r.text()?) } else { None } }),
        5 => Ok(Admin::Promote { name: r.text()? }),
        _ => Err(Malformed("admin request")),
    }
}

fn encode_outcome(outcome: &Outcome, w: &mut Writer) {
    match outcome {
        Outcome::Written { revision, changed } => {
            w.u8(1);
            w.varint(*revision);
            w.u32(*changed);
        }
        Outcome::Readable => w.u8(2),
        Outcome::Done => w.u8(3),
        Outcome::Decided { .. } | Outcome::Granted { .. } | Outcome::LeaseTime { .. } | Outcome::Frozen(_) => {
            unreachable!("these are answered by the node that was asked, and never travel")
        }
        Outcome::Failed(failure) => {
            let (tag, text) = match failure {
                Failure::Invalid(text) => (10, text),
                Failure::Unavailable(text) => (11, text),
                Failure::Overloaded(text) => (12, text),
                Failure::Unknown(text) => (13, text),
                Failure::KeyReused(text) => (14, text),
                Failure::Removed(text) => (15, text),
                Failure::NotFound(text) => (16, text),
                Failure::Exists(text) => (17, text),
                Failure::Compacted(text) => (18, text),
                Failure::FutureRevision(text) => (19, text),
            };
            w.u8(tag);
            w.text(text);
        }
    }
}

fn decode_outcome(r: &mut Reader) -> Result<Outcome, Malformed> {
    Ok(match r.u8()? {
        1 => Outcome::Written { revision: r.varint()?, changed: r.u32()? },
        2 => Outcome::Readable,
        3 => Outcome::Done,
        tag => Outcome::Failed({
            let text = r.text()?;
            match tag {
                10 => Failure::Invalid(text),
                11 => Failure::Unavailable(text),
                12 => Failure::Overloaded(text),
                13 => Failure::Unknown(text),
                14 => Failure::KeyReused(text),
                15 => Failure::Removed(text),
                16 => Failure::NotFound(text),
                17 => Failure::Exists(text),
                18 => Failure::Compacted(text),
                19 => Failure::FutureRevision(text),
                _ => return Err(Malformed("outcome")),
            }
        }),
    })
}
