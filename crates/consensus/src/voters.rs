//! Who votes: plain, ordered copies of what `raft` keeps in hash sets.

use base::NodeId;
use base::codec::{Malformed, Reader, Writer};
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

/// The voters and learners of a group. During a joint change `voters_outgoing` is the old set, and both must agree
/// (Raft thesis, section 4.3). Every list is sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voters {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub voters_outgoing: Vec<NodeId>,
    pub learners_next: Vec<NodeId>,
    pub auto_leave: bool,
}

impl Voters {
    pub fn encode(&self, w: &mut Writer) {
        for list in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            w.varint(list.len() as u64);
            list.iter().for_each(|&id| w.varint(id));
        }
        w.bool(self.auto_leave);
    }

    pub fn decode(r: &mut Reader) -> Result<Voters, Malformed> {
        let mut list = || -> Result<Vec<NodeId>, Malformed> {
            let list: Vec<NodeId> = (0..r.count()?).map(|_| r.varint()).collect::<Result<_, _>>()?;
            if list.is_sorted_by(|a, b| a < b) { Ok(list) } else { Err(Malformed("order of the voters")) }
        };
        let (voters, learners, voters_outgoing, learners_next) = (list()?, list()?, list()?, list()?);
        Ok(Voters { voters, learners, voters_outgoing, learners_next, auto_leave: r.bool()? })
    }

    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether those make a majority; during a joint change, one of either set.
    pub fn is_majority(&self, is_among: impl Fn(NodeId) -> bool) -> bool {
        let most = |list: &[NodeId]| list.iter().filter(|&&id| is_among(id)).count() * 2 > list.len();
        most(&self.voters) && (!self.is_joint() || most(&self.voters_outgoing))
    }

    pub fn contains(&self, id: NodeId) -> bool {
        [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next].iter().any(|list| list.contains(&id))
    }

    pub(crate) fn from_raft(state: &ConfState) -> Voters {
        let sorted = |list: &[u64]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        Voters {
            voters: sorted(&state.voters),
            learners: sorted(&state.learners),
            voters_outgoing: sorted(&state.voters_outgoing),
            learners_next: sorted(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    pub(crate) fn to_raft(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }
}

/// A change of the voters. More than one id makes it a joint change, which is left by itself once it is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub add_voters: Vec<NodeId>,
    pub add_learners: Vec<NodeId>,
    pub remove: Vec<NodeId>,
}

impl Change {
    /// The empty change: leave the joint configuration.
    pub(crate) fn leave() -> ConfChangeV2 {
        ConfChangeV2::default()
    }

    pub(crate) fn to_raft(&self) -> ConfChangeV2 {
        let single = |kind: ConfChangeType| {
            move |&node_id: &NodeId| ConfChangeSingle { change_type: kind, node_id, ..ConfChangeSingle::default() }
        };
        let changes: Vec<ConfChangeSingle> = (self.add_voters.iter().map(single(ConfChangeType::AddNode)))
            .chain(self.add_learners.iter().map(single(ConfChangeType::AddLearnerNode)))
            .chain(self.remove.iter().map(single(ConfChangeType::RemoveNode)))
            .collect();
        ConfChangeV2 { transition: ConfChangeTransition::Auto, changes: changes.into(), ..ConfChangeV2::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half_of_either_set() {
        let voters = Voters { voters: vec![1, 2, 3, 4], ..Voters::default() };
        let is_majority = |voters: &Voters, ids: &[NodeId]| voters.is_majority(|id| ids.contains(&id));
        assert!(is_majority(&voters, &[1, 2, 4]) && !is_majority(&voters, &[1, 2]));
        let joint = Voters { voters_outgoing: vec![1, 5, 6], ..voters };
        assert!(is_majority(&joint, &[1, 2, 3, 5]) && !is_majority(&joint, &[1, 2, 3]));
        assert!(!is_majority(&Voters::default(), &[1]));
    }

    #[test]
    fn lists_out_of_order_are_refused() {
        let decoded = |voters: Vec<NodeId>| {
            let mut w = Writer::new();
            Voters { voters, ..Voters::default() }.encode(&mut w);
            Voters::decode(&mut Reader::new(w.into_bytes()))
        };
        assert!(decoded(vec![1, 2, 3]).is_ok());
        assert!(decoded(vec![2, 1]).is_err());
        assert!(decoded(vec![1, 1]).is_err());
    }
}
