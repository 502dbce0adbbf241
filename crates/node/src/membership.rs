//! Who is in the cluster: the replicated configuration.

use base::codec::{Malformed, Reader, Writer};
use base::{Incarnation, NodeId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use storage::identity::{MAX_NAME_BYTES, is_name};

/// A host name has 253 bytes at most.
pub const MAX_ADDRESS_BYTES: usize = 300;
/// More than any cluster needs, so that a configuration has room in the store whatever its members are called.
pub const MAX_MEMBERS: usize = 256;

/// One member, voter or learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What its user calls it (`-id`).
    pub name: String,
    /// Where its peers reach it, as it was given.
    pub address: String,
    /// The life of its folder that was admitted. Another life is another member.
    pub incarnation: Incarnation,
}

/// The members and their roles. Replicated state: changed by applied log entries only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub members: BTreeMap<NodeId, Member>,
    pub voters: consensus::Voters,
    /// The learners that stay learners until somebody asks to promote them. The others are on their way to vote.
    pub staying: BTreeSet<NodeId>,
    /// The next Raft id to give out. Every smaller id that is no member was removed and never comes back.
    pub next_id: NodeId,
}

impl Configuration {
    /// The first configuration of a new cluster: its only voter.
    pub fn bootstrap(founder: Member) -> Configuration {
        Configuration {
            members: BTreeMap::from([(1, founder)]),
            voters: consensus::Voters { voters: vec![1], ..Default::default() },
            staying: BTreeSet::new(),
            next_id: 2,
        }
    }

    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.voters.contains(&node) || self.voters.voters_outgoing.contains(&node)
    }

    /// A learner that is not on its way to vote.
    pub fn stays(&self, node: NodeId) -> bool {
        self.staying.contains(&node)
    }

    /// It was a member once and is none now.
    pub fn was_removed(&self, node: NodeId) -> bool {
        node != 0 && node < self.next_id && !self.members.contains_key(&node)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.members.len() >= MAX_MEMBERS
    }

    pub fn by_name(&self, name: &str) -> Option<(NodeId, &Member)> {
        self.members.iter().find(|(_, m)| m.name == name).map(|(&id, m)| (id, m))
    }

    pub fn learner_by_name(&self, name: &str) -> Option<NodeId> {
        let is_called_so = |id: &&NodeId| self.members.get(id).is_some_and(|member| member.name == name);
        self.voters.learners.iter().find(is_called_so).copied()
    }

    pub fn by_address(&self, address: &str) -> Option<(NodeId, &Member)> {
        self.members.iter().find(|(_, m)| m.address == address).map(|(&id, m)| (id, m))
    }

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        w.varint(self.next_id);
        w.varint(self.members.len() as u64);
        for (&id, member) in &self.members {
            w.varint(id);
            member.encode(&mut w);
        }
        self.voters.encode(&mut w);
        // Behind what was there before any learner could stay, so that older bytes mean what they meant.
        if !self.staying.is_empty() {
            w.varint(self.staying.len() as u64);
            self.staying.iter().for_each(|&id| w.varint(id));
        }
        w.into_bytes()
    }

    /// No bytes at all are the configuration of a node that has not heard from its cluster yet.
    pub fn decode(bytes: Bytes) -> Result<Configuration, Malformed> {
        if bytes.is_empty() {
            return Ok(Configuration::default());
        }
        let mut r = Reader::new(bytes);
        let next_id = r.varint()?;
        // The next after it is counted from it.
        if next_id > NodeId::MAX / 4 {
            return Err(Malformed("next id"));
        }
        let mut members = BTreeMap::new();
        for _ in 0..r.count()? {
            members.insert(r.varint()?, Member::decode(&mut r)?);
        }
        let voters = consensus::Voters::decode(&mut r)?;
        let mut staying = BTreeSet::new();
        if r.remaining() > 0 {
            for _ in 0..r.count()? {
                staying.insert(r.varint()?);
            }
        }
        if !staying.iter().all(|id| voters.learners.contains(id)) {
            return Err(Malformed("learners that stay"));
        }
        r.finish()?;
        Ok(Configuration { members, voters, staying, next_id })
    }
}

/// For people.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// Whether a member can be called so and be reached there; if not, why.
pub(crate) fn check_member(name: &str, address: &str) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!("a member's name has 1 to {MAX_NAME_BYTES} bytes, and no control characters"));
    }
    if address.len() > MAX_ADDRESS_BYTES || address.contains(char::is_control) {
        return Err(format!("a member's address has at most {MAX_ADDRESS_BYTES} bytes, and no control characters"));
    }
    Ok(())
}

impl Member {
    fn is_possible(&self) -> bool {
        check_member(&self.name, &self.address).is_ok()
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.text(&self.name);
        w.text(&self.address);
        w.u64(self.incarnation.0);
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Member, Malformed> {
        Ok(Member { name: r.text()?, address: r.text()?, incarnation: Incarnation(r.u64()?) })
    }
}

/// A change of the members, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member, which does not vote: yet, or until it is promoted if it `stays`. `id` is the configuration's next.
    AddLearner {
        id: NodeId,
        member: Member,
        stays: bool,
    },
    /// The learner stays one until it is promoted, under that name and address.
    Stay {
        id: NodeId,
        member: Member,
    },
    /// The learner votes from now on; the member whose place it takes, if any, goes in the same joint change.
    Promote {
        id: NodeId,
        replaces: Option<NodeId>,
    },
    Remove {
        id: NodeId,
    },
    /// The same node under a new address or name.
    Update {
        id: NodeId,
        member: Member,
    },
}

impl MemberChange {
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        match self {
            MemberChange::AddLearner { id, member, stays } => {
                w.u8(if *stays { 5 } else { 1 });
                w.varint(*id);
                member.encode(&mut w);
            }
            MemberChange::Promote { id, replaces } => {
                w.u8(2);
                w.varint(*id);
                w.varint(replaces.unwrap_or(0));
            }
            MemberChange::Remove { id } => {
                w.u8(3);
                w.varint(*id);
            }
            MemberChange::Update { id, member } => {
                w.u8(4);
                w.varint(*id);
                member.encode(&mut w);
            }
            MemberChange::Stay { id, member } => {
                w.u8(6);
                w.varint(*id);
                member.encode(&mut w);
            }
        }
        w.into_bytes()
    }

    pub fn decode(bytes: Bytes) -> Result<MemberChange, Malformed> {
        let mut r = Reader::new(bytes);
        let tag = r.u8()?;
        let id = r.varint()?;
        let change = match tag {
            1 | 5 => MemberChange::AddLearner { id, member: Member::decode(&mut r)?, stays: tag == 5 },
            2 => MemberChange::Promote { id, replaces: Some(r.varint()?).filter(|&id| id != 0) },
            3 => MemberChange::Remove { id },
            4 => MemberChange::Update { id, member: Member::decode(&mut r)? },
            6 => MemberChange::Stay { id, member: Member::decode(&mut r)? },
            _ => return Err(Malformed("member change")),
        };
        r.finish()?;
        Ok(change)
    }

    /// What it means for the voters.
    pub fn voter_change(&self) -> consensus::Change {
        let mut change = consensus::Change::default();
        match *self {
            MemberChange::AddLearner { id, .. } | MemberChange::Stay { id, .. } => change.add_learners.push(id),
            MemberChange::Promote { id, replaces } => {
                change.add_voters.push(id);
                change.remove.extend(replaces);
            }
            MemberChange::Remove { id } => change.remove.push(id),
            MemberChange::Update { id, .. } => change.add_voters.push(id),
        }
        change
    }
}

impl Configuration {
    /// Does the change make sense now? Asked by the leader before proposing it and by every replica before applying
    /// it, so all agree, whatever came in between.
    pub fn admits(&self, change: &MemberChange) -> bool {
        match change {
            MemberChange::AddLearner { id, member, .. } => {
                *id == self.next_id && !self.is_full() && member.is_possible() && !self.voters.is_joint()
            }
            MemberChange::Stay { id, member } => {
                self.voters.learners.contains(id) && member.is_possible() && !self.voters.is_joint()
            }
            MemberChange::Promote { id, replaces } => {
                self.voters.learners.contains(id)
                    && replaces.is_none_or(|old| old != *id && self.members.contains_key(&old))
                    && !self.voters.is_joint()
            }
            MemberChange::Remove { id } => {
                let others = self.voters.voters.iter().any(|voter| voter != id);
                self.members.contains_key(id) && others && !self.voters.is_joint()
            }
            // Adding a voter that is one changes nothing; a learner would be promoted by it.
            MemberChange::Update { id, member } => {
                self.voters.voters.contains(id) && member.is_possible() && !self.voters.is_joint()
            }
        }
    }

    /// Applies a change that it [admits](Self::admits); `voters` are the group's after the change.
    pub fn apply(&mut self, change: &MemberChange, voters: consensus::Voters) {
        match change {
            MemberChange::AddLearner { id, member, stays } => {
                self.members.insert(*id, member.clone());
                if *stays {
                    self.staying.insert(*id);
                }
                self.next_id = id + 1;
            }
            MemberChange::Stay { id, member } => {
                self.members.insert(*id, member.clone());
                self.staying.insert(*id);
            }
            MemberChange::Update { id, member } => {
                self.members.insert(*id, member.clone());
            }
            MemberChange::Promote { .. } | MemberChange::Remove { .. } => {}
        }
        self.set_voters(voters);
    }

    /// New voters; who is in none of their lists is no member any more.
    pub fn set_voters(&mut self, voters: consensus::Voters) {
        self.members.retain(|&id, _| voters.contains(id));
        self.staying.retain(|id| voters.learners.contains(id));
        self.voters = voters;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member { name: name.into(), address: format!("{name}:1"), incarnation: Incarnation(7) }
    }

    #[test]
    fn configurations_and_changes_survive_their_bytes() {
        let mut configuration = Configuration::bootstrap(member("a"));
        configuration.members.insert(2, member("b"));
        configuration.voters.learners.push(2);
        assert_eq!(Configuration::decode(configuration.encode()).unwrap(), configuration);
        configuration.staying.insert(2);
        assert_eq!(Configuration::decode(configuration.encode()).unwrap(), configuration);
        for change in [
            MemberChange::AddLearner { id: 3, member: member("c"), stays: false },
            MemberChange::AddLearner { id: 3, member: member("c"), stays: true },
            MemberChange::Stay { id: 2, member: member("d") },
            MemberChange::Promote { id: 3, replaces: Some(2) },
            MemberChange::Promote { id: 3, replaces: None },
            MemberChange::Remove { id: 1 },
            MemberChange::Update { id: 1, member: member("z") },
        ] {
            assert_eq!(MemberChange::decode(change.encode()).unwrap(), change);
        }
    }

    #[test]
    fn an_id_that_none_could_follow_is_refused() {
        let configuration = Configuration { next_id: NodeId::MAX, ..Configuration::bootstrap(member("a")) };
        assert_eq!(Configuration::decode(configuration.encode()), Err(Malformed("next id")));
    }

    /// Raft ids are never reused: an id below the next one that is no member is a tombstone.
    #[test]
    fn a_removed_id_stays_removed() {
        let mut configuration = Configuration::bootstrap(member("a"));
        let add = MemberChange::AddLearner { id: 2, member: member("b"), stays: true };
        assert!(configuration.admits(&add));
        let voters = |voters: &[u64], learners: &[u64]| consensus::Voters {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..Default::default()
        };
        configuration.apply(&add, voters(&[1], &[2]));
        assert!(configuration.stays(2));
        let remove = MemberChange::Remove { id: 2 };
        assert!(configuration.admits(&remove));
        configuration.apply(&remove, voters(&[1], &[]));
        assert!(configuration.was_removed(2) && !configuration.was_removed(3) && !configuration.was_removed(1));
        assert!(!configuration.admits(&add), "id 2 was given out before");
        assert!(!configuration.stays(2));
    }

    #[test]
    fn only_a_learner_stays_one() {
        let mut configuration = Configuration::bootstrap(member("a"));
        assert!(!configuration.admits(&MemberChange::Stay { id: 1, member: member("a") }), "it votes");
        configuration.staying.insert(1);
        assert_eq!(Configuration::decode(configuration.encode()), Err(Malformed("learners that stay")));
    }

    /// Entries that are in a log already are judged by it too.
    #[test]
    fn a_name_or_address_that_no_member_can_have_is_not_admitted() {
        let mut configuration = Configuration::bootstrap(member("a"));
        configuration.members.insert(2, member("b"));
        configuration.voters.learners.push(2);
        configuration.next_id = 3;
        let named = |name: String, address: String| Member { name, address, incarnation: Incarnation(7) };
        for (name_bytes, address_bytes, admitted) in
            [(255, 300, true), (0, 300, false), (256, 300, false), (255, 301, false)]
        {
            let member = named("x".repeat(name_bytes), "y".repeat(address_bytes));
            for change in [
                MemberChange::AddLearner { id: 3, member: member.clone(), stays: false },
                MemberChange::Stay { id: 2, member: member.clone() },
                MemberChange::Update { id: 1, member },
            ] {
                assert_eq!(configuration.admits(&change), admitted, "{change:?}");
            }
        }
        for (name, address) in [("c\n", "c:1"), ("c", "c:1\u{7f}")] {
            let member = named(name.into(), address.into());
            assert!(!configuration.admits(&MemberChange::AddLearner { id: 3, member, stays: true }));
        }
    }

    #[test]
    fn the_largest_configuration_has_room_in_the_store() {
        let longest = Member { name: "x".repeat(255), address: "y".repeat(300), incarnation: Incarnation(u64::MAX) };
        let mut configuration = Configuration::bootstrap(longest.clone());
        configuration.next_id = NodeId::MAX / 8;
        let mut learners = Vec::new();
        loop {
            let add = MemberChange::AddLearner { id: configuration.next_id, member: longest.clone(), stays: true };
            if !configuration.admits(&add) {
                break;
            }
            learners.push(configuration.next_id);
            assert!(learners.len() < 1_000, "there is no end to it");
            let voters = consensus::Voters { voters: vec![1], learners: learners.clone(), ..Default::default() };
            configuration.apply(&add, voters);
        }
        assert_eq!(configuration.members.len(), 256);
        assert!(configuration.encode().len() < kv::MAX_CONFIGURATION_BYTES / 4, "voters that change are told twice");
        // Who is there can still go.
        assert!(configuration.admits(&MemberChange::Remove { id: learners[0] }));
    }

    #[test]
    fn the_last_voter_stays() {
        let configuration = Configuration::bootstrap(member("a"));
        assert!(!configuration.admits(&MemberChange::Remove { id: 1 }));
    }
}
