//! A Raft message and its bytes.
//!
//! Refused when decoding, because no honest peer sends them: the crate's local messages, and proposals, reads and
//! transfers (whole requests are forwarded one floor up instead). Snapshots carry a position and voters only; the data
//! travels as a checkpoint beside them.

use base::codec::{Malformed, Reader, Writer};
use base::{Index, NodeId, Position, Term};
use raft::eraftpb::{self, Entry, EntryType, MessageType, Snapshot, SnapshotMetadata};
use std::fmt;

use crate::Voters;

/// A message from one replica of a group to another.
#[derive(Clone, Debug)]
pub struct Message(pub(crate) eraftpb::Message);

impl Message {
    pub fn from(&self) -> NodeId {
        self.0.from
    }

    pub fn to(&self) -> NodeId {
        self.0.to
    }

    pub fn term(&self) -> Term {
        self.0.term
    }

    /// The position of the snapshot that this message announces, if it does.
    pub fn snapshot(&self) -> Option<Position> {
        (self.0.msg_type == MessageType::MsgSnapshot).then(|| {
            let meta = self.0.get_snapshot().get_metadata();
            Position { index: meta.index, term: meta.term }
        })
    }

    /// From a leader of its term: an append, a heartbeat or a snapshot.
    pub fn is_from_leader(&self) -> bool {
        use MessageType::*;
        matches!(self.0.msg_type, MsgAppend | MsgHeartbeat | MsgSnapshot)
    }

    /// Whether it brings entries of the log.
    pub fn has_entries(&self) -> bool {
        self.0.msg_type == MessageType::MsgAppend && !self.0.entries.is_empty()
    }

    /// One word for people: what kind of message it is.
    pub fn kind(&self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self.0.msg_type).map_or("local", |(_, _, name)| name)
    }

    /// It asks for votes or for a campaign, or answers that.
    pub fn is_of_election(&self) -> bool {
        use MessageType::*;
        let requests = matches!(self.0.msg_type, MsgRequestPreVote | MsgRequestVote | MsgTimeoutNow);
        requests || matches!(self.0.msg_type, MsgRequestPreVoteResponse | MsgRequestVoteResponse)
    }

    /// The index it speaks of, for people.
    pub fn index(&self) -> Index {
        self.0.index
    }

    pub fn entries(&self) -> usize {
        self.0.entries.len()
    }

    pub fn encode(&self, w: &mut Writer) {
        let m = &self.0;
        let tag = KINDS.iter().find(|(kind, ..)| *kind == m.msg_type).map_or(0, |(_, tag, _)| *tag);
        assert!(tag != 0, "{:?} never leaves the node", m.msg_type);
        w.u8(tag);
        for field in [m.from, m.to, m.term, m.log_term, m.index, m.commit, m.commit_term, m.reject_hint] {
            w.varint(field);
        }
        w.varint(m.request_snapshot);
        w.bool(m.reject);
        w.blob(&m.context);
        w.varint(m.entries.len() as u64);
        let mut index = 0;
        for entry in m.entries.iter() {
            assert!(index == 0 || entry.index == index + 1, "entries of a message are contiguous");
            index = entry.index;
            w.varint(entry.term);
            w.u8(entry_tag(entry.entry_type));
            w.blob(&entry.data);
            w.blob(&entry.context);
        }
        if m.msg_type == MessageType::MsgSnapshot {
            let meta = m.get_snapshot().get_metadata();
            w.varint(meta.index);
            w.varint(meta.term);
            Voters::from_raft(meta.get_conf_state()).encode(w);
        }
    }

    pub fn decode(r: &mut Reader) -> Result<Message, Malformed> {
        let tag = r.u8()?;
        let Some(&(msg_type, ..)) = KINDS.iter().find(|(_, t, _)| *t == tag) else {
            return Err(Malformed("raft message type"));
        };
        let mut m = eraftpb::Message { msg_type, ..Default::default() };
        for field in [
            &mut m.from,
            &mut m.to,
            &mut m.term,
            &mut m.log_term,
            &mut m.index,
            &mut m.commit,
            &mut m.commit_term,
            &mut m.reject_hint,
        ] {
            *field = r.varint()?;
        }
        m.request_snapshot = r.varint()?;
        m.reject = r.bool()?;
        m.context = r.blob()?;
        let count = r.count()?;
        if count > 0 && msg_type != MessageType::MsgAppend {
            return Err(Malformed("entries outside an append"));
        }
        // Indexes and terms near the end of their range are refused, so that no sum of them can overflow.
        if m.index > Index::MAX / 4 || m.commit > Index::MAX / 4 || m.term == 0 || m.term > Term::MAX / 4 {
            return Err(Malformed("raft message"));
        }
        let mut entries = Vec::with_capacity(count.min(4096));
        let mut last_term = m.log_term;
        for at in 0..count {
            let term = r.varint()?;
            if term < last_term || term > m.term {
                return Err(Malformed("entry term"));
            }
            last_term = term;
            let entry_type = entry_type(r.u8()?)?;
            let index = m.index + 1 + at as u64;
            entries.push(Entry { entry_type, term, index, data: r.blob()?, context: r.blob()?, ..Default::default() });
        }
        m.entries = entries.into();
        if msg_type == MessageType::MsgSnapshot {
            let (index, term) = (r.varint()?, r.varint()?);
            if index == 0 || index > Index::MAX / 4 || term > m.term {
                return Err(Malformed("snapshot position"));
            }
            m.set_snapshot(snapshot(Position { index, term }, &Voters::decode(r)?));
        }
        Ok(Message(m))
    }
}

/// What the sender says.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use MessageType::*;
        let Message(m) = self;
        let (term, index) = (m.term, m.index);
        match (m.msg_type, m.reject) {
            (MsgRequestPreVote, _) => write!(f, "would you vote for me in term {term}?"),
            (MsgRequestPreVoteResponse, false) => write!(f, "I would vote for you in term {term}"),
            (MsgRequestPreVoteResponse, true) => write!(f, "I would not vote for you, the term is {term}"),
            (MsgRequestVote, _) => write!(f, "vote for me in term {term}"),
            (MsgRequestVoteResponse, false) => write!(f, "I vote for you in term {term}"),
            (MsgRequestVoteResponse, true) => write!(f, "I do not vote for you in term {term}"),
            (MsgTimeoutNow, _) => write!(f, "take over from me, who leads in term {term}"),
            (MsgAppend, _) => match m.entries.len() {
                0 => write!(f, "nothing new after entry {index}; committed is {}", m.commit),
                1 => write!(f, "here is entry {}; committed is {}", index + 1, m.commit),
                count => {
                    let last = index + count as u64;
                    write!(f, "here are entries {} to {last}; committed is {}", index + 1, m.commit)
                }
            },
            (MsgAppendResponse, false) => write!(f, "I have all entries up to {index}"),
            (MsgAppendResponse, true) => write!(f, "I have no such entry {index}; try {}", m.reject_hint),
            (MsgHeartbeat, _) => write!(f, "heartbeat of the leader in term {term}; committed is {}", m.commit),
            (MsgHeartbeatResponse, _) => write!(f, "heartbeat heard"),
            (MsgSnapshot, _) => {
                let up_to = self.snapshot().unwrap_or_default().index;
                write!(f, "here is a snapshot of all entries up to {up_to}")
            }
            _ => f.write_str(self.kind()),
        }
    }
}

pub(crate) fn snapshot(position: Position, voters: &Voters) -> Snapshot {
    let mut metadata = SnapshotMetadata { index: position.index, term: position.term, ..Default::default() };
    metadata.set_conf_state(voters.to_raft());
    let mut snapshot = Snapshot::default();
    snapshot.set_metadata(metadata);
    snapshot
}

pub(crate) fn entry_tag(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChangeV2 | EntryType::EntryConfChange => 1,
    }
}

fn entry_type(tag: u8) -> Result<EntryType, Malformed> {
    match tag {
        0 => Ok(EntryType::EntryNormal),
        1 => Ok(EntryType::EntryConfChangeV2),
        _ => Err(Malformed("entry type")),
    }
}

/// Every message that may cross the network: its type, its tag on the wire, its name for people.
const KINDS: &[(MessageType, u8, &str)] = &[
    (MessageType::MsgAppend, 1, "append"),
    (MessageType::MsgAppendResponse, 2, "append-response"),
    (MessageType::MsgRequestVote, 3, "vote"),
    (MessageType::MsgRequestVoteResponse, 4, "vote-response"),
    (MessageType::MsgRequestPreVote, 5, "pre-vote"),
    (MessageType::MsgRequestPreVoteResponse, 6, "pre-vote-response"),
    (MessageType::MsgHeartbeat, 7, "heartbeat"),
    (MessageType::MsgHeartbeatResponse, 8, "heartbeat-response"),
    (MessageType::MsgSnapshot, 9, "snapshot"),
    (MessageType::MsgTimeoutNow, 10, "timeout-now"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn round_trip(message: &Message) -> Message {
        let mut w = Writer::new();
        message.encode(&mut w);
        let mut r = Reader::new(w.into_bytes());
        let back = Message::decode(&mut r).unwrap();
        r.finish().unwrap();
        back
    }

    #[test]
    fn an_append_survives_the_wire() {
        let entry =
            |index, data: &'static [u8]| Entry { index, term: 3, data: Bytes::from_static(data), ..Default::default() };
        let mut m =
            eraftpb::Message { msg_type: MessageType::MsgAppend, from: 1, to: 2, term: 3, ..Default::default() };
        (m.index, m.log_term, m.commit) = (6, 2, 5);
        m.entries = vec![entry(7, b"a"), entry(8, b"")].into();
        let message = Message(m);
        assert_eq!(round_trip(&message).0, message.0);
    }

    #[test]
    fn a_snapshot_survives_the_wire() {
        let mut m = eraftpb::Message { msg_type: MessageType::MsgSnapshot, term: 9, ..Default::default() };
        let voters = Voters { voters: vec![1, 2], learners: vec![3], ..Default::default() };
        m.set_snapshot(snapshot(Position { index: 10, term: 4 }, &voters));
        let back = round_trip(&Message(m.clone()));
        assert_eq!(back.0, m);
        assert_eq!(back.snapshot(), Some(Position { index: 10, term: 4 }));
    }

    #[test]
    fn a_message_reads_as_what_its_sender_says() {
        let message = |msg_type| eraftpb::Message { msg_type, term: 3, index: 6, commit: 5, ..Default::default() };
        let says = |m: eraftpb::Message| Message(m).to_string();
        assert_eq!(says(message(MessageType::MsgRequestVote)), "vote for me in term 3");
        let refusal = eraftpb::Message { reject: true, ..message(MessageType::MsgRequestVoteResponse) };
        assert_eq!(says(refusal), "I do not vote for you in term 3");
        for (count, words) in [
            (0, "nothing new after entry 6; committed is 5"),
            (1, "here is entry 7; committed is 5"),
            (3, "here are entries 7 to 9; committed is 5"),
        ] {
            let append =
                eraftpb::Message { entries: vec![Entry::default(); count].into(), ..message(MessageType::MsgAppend) };
            assert_eq!(says(append), words);
        }
        for (msg_type, _, _) in KINDS {
            assert!(says(message(*msg_type)).contains(' '), "{msg_type:?} has no words");
        }
    }

    /// The crate panics on some of these when stepped; none may come from the wire.
    #[test]
    fn what_no_honest_peer_sends_is_refused() {
        for tag in [0u8, 11, 12, 255] {
            let mut w = Writer::new();
            w.u8(tag);
            w.raw(&[0; 32]);
            assert!(Message::decode(&mut Reader::new(w.into_bytes())).is_err());
        }
    }

    #[test]
    fn a_term_that_none_could_follow_is_refused() {
        let decoded = |term| {
            let mut w = Writer::new();
            Message(eraftpb::Message { msg_type: MessageType::MsgHeartbeat, term, ..Default::default() })
                .encode(&mut w);
            Message::decode(&mut Reader::new(w.into_bytes()))
        };
        assert!(decoded(1 << 40).is_ok());
        assert_eq!(decoded(Term::MAX).unwrap_err(), Malformed("raft message"));
    }

    #[test]
    fn an_entry_of_a_later_term_than_its_message_is_refused() {
        let mut m = eraftpb::Message { msg_type: MessageType::MsgAppend, term: 3, ..Default::default() };
        m.entries = vec![Entry { index: 1, term: 4, ..Default::default() }].into();
        let mut w = Writer::new();
        Message(m).encode(&mut w);
        assert_eq!(Message::decode(&mut Reader::new(w.into_bytes())).unwrap_err(), Malformed("entry term"));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = base::rng::Rng::new(7);
        for _ in 0..20_000 {
            let length = rng.below(80) as usize;
            let mut bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
            if let Some(first) = bytes.first_mut() {
                *first = 1 + (*first % 10);
            }
            let _ = Message::decode(&mut Reader::new(Bytes::from(bytes)));
        }
    }
}
