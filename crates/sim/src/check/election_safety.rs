//! Election Safety (Raft paper, section 5.2): at most one leader can be elected in a given term.

use base::{NodeId, Term};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
}

impl ElectionSafety {
    pub fn leads(&mut self, term: Term, node: NodeId) -> Result<(), String> {
        match *self.leaders.entry(term).or_insert(node) {
            leader if leader == node => Ok(()),
            leader => Err(format!("nodes {leader} and {node} both lead in term {term}")),
        }
    }

    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }
}
