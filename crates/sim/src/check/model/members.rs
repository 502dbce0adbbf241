//! Who belongs to the cluster, change by change.

use base::NodeId;
use bytes::Bytes;
use node::membership::MemberChange;
use std::collections::BTreeSet;

pub struct Members {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// The voters before, while a joint change lasts.
    pub outgoing: BTreeSet<NodeId>,
    next: NodeId,
}

impl Default for Members {
    fn default() -> Members {
        Members { voters: [1].into(), learners: BTreeSet::new(), outgoing: BTreeSet::new(), next: 2 }
    }
}

impl Members {
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node) || self.outgoing.contains(&node)
    }

    /// False: the change made no sense when its turn came.
    pub fn apply(&mut self, context: &Bytes) -> bool {
        if context.is_empty() {
            return !std::mem::take(&mut self.outgoing).is_empty();
        }
        if !self.outgoing.is_empty() {
            return false;
        }
        match MemberChange::decode(context.clone()) {
            Ok(MemberChange::AddLearner { id, .. }) if id == self.next => {
                self.next += 1;
                self.learners.insert(id)
            }
            Ok(MemberChange::Stay { id, .. }) => self.learners.contains(&id),
            Ok(MemberChange::Promote { id, replaces })
                if self.learners.contains(&id) && replaces.is_none_or(|old| old != id && self.contains(old)) =>
            {
                if let Some(old) = replaces {
                    self.outgoing = self.voters.clone();
                    self.voters.remove(&old);
                    self.learners.remove(&old);
                }
                self.learners.remove(&id);
                self.voters.insert(id)
            }
            Ok(MemberChange::Remove { id }) if self.contains(id) && self.voters.iter().any(|&voter| voter != id) => {
                self.voters.remove(&id) | self.learners.remove(&id)
            }
            Ok(MemberChange::Update { id, .. }) => self.voters.contains(&id),
            _ => false,
        }
    }
}
