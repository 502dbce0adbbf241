//! What must hold, whatever happens. One property a file, named by the paper that asks for it.
//!
//! The checks see what hosts ask their disks to write, what their disks know to be durable, what they apply, publish
//! and answer; nothing of what they think. The model that judges contents shares no rule with the store.

mod acknowledged;
mod answers;
mod chores;
mod contents;
mod durable_log;
mod election_safety;
mod leader_completeness;
mod linearizable;
mod local_reads;
mod log_matching;
mod model;
mod own_disk_first;
mod past;
mod shadow;
mod state_hashes;
mod state_machine_safety;
mod weak_reads;

pub use acknowledged::Acknowledged;
pub use answers::{answer, in_the_log};
pub use linearizable::{Judgement, judge};
pub use model::{Model, NAME};
pub use past::{change, in_reach, out_of_reach, page_at};
pub use weak_reads::weak_read;

use crate::{HostNumber, Micros};
use base::{Index, Position, Term};
use chores::Chores;
use durable_log::durable_log;
use election_safety::ElectionSafety;
use kv::View;
use leader_completeness::leader_completeness;
use local_reads::LocalReads;
use log_matching::LogMatching;
use node::{Node, Role, WriteId};
use own_disk_first::own_disk_first;
use shadow::Shadow;
use state_hashes::StateHashes;
use state_machine_safety::Committed;
use std::collections::BTreeMap;
use storage::StorageError;
use storage::log::{LogWrite, RecoveredGroup};

#[derive(Default)]
pub struct Checks {
    violations: Vec<String>,
    /// Leave out what looks at disks: the other checks must find by themselves what comes of a disk that lies.
    blind_to_disks: bool,
    hosts: BTreeMap<HostNumber, Watched>,
    election_safety: ElectionSafety,
    log_matching: LogMatching,
    committed: Committed,
    state_hashes: StateHashes,
    local_reads: LocalReads,
    pub acknowledged: Acknowledged,
    pub chores: Chores,
    pub model: Model,
    /// Now, by the fastest clock of the world.
    pub time: Micros,
}

/// What the checks know of a host.
#[derive(Default)]
struct Watched {
    shadow: Shadow,
    applied: Position,
    leads: Option<Term>,
    /// What was committed when it was elected last.
    committed_at_election: Index,
}

impl Checks {
    pub fn new(blind_to_disks: bool) -> Checks {
        Checks { blind_to_disks, ..Checks::default() }
    }

    /// What went wrong so far.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    pub fn must(&mut self, property: &str, result: Result<(), String>) {
        if let Err(what) = result {
            self.violations.push(format!("{property}: {what}"));
        }
    }

    /// The newest index that is known to be committed, and applied somewhere.
    pub fn committed_to(&self) -> Index {
        self.committed.last()
    }

    pub fn committed_at_election(&self, host: HostNumber) -> Index {
        self.hosts.get(&host).map_or(0, |watched| watched.committed_at_election)
    }

    pub fn elections(&self) -> u64 {
        self.election_safety.elections()
    }

    /// A folder was emptied, so nothing is known of its host any more.
    pub fn wiped(&mut self, host: HostNumber) {
        self.hosts.remove(&host);
    }

    /// A process came up on a host and found this.
    pub fn recovered(&mut self, host: HostNumber, applied: Position, log: Option<&RecoveredGroup>) {
        let watched = self.hosts.entry(host).or_default();
        let mut found = durable_log(&watched.shadow, log);
        if found.is_ok() && applied.index < watched.shadow.checkpoint.index {
            found = Err(format!("a checkpoint at {} was there", watched.shadow.checkpoint.index));
        }
        if self.blind_to_disks {
            found = Ok(());
        }
        watched.shadow.recover(log, applied);
        (watched.applied, watched.leads) = (applied, None);
        for (before, entry) in watched.shadow.durable.with_predecessors() {
            let matching = self.log_matching.durable(host, before, entry);
            self.violations.extend(matching.err().map(|e| format!("log matching (Raft paper, 5.3): {e}")));
        }
        self.must("what was synced is there after a crash", found.map_err(|e| format!("h{host}: {e}")));
        self.local_reads.restarted(host);
    }

    pub fn checkpoint_is_durable(&mut self, host: HostNumber, position: Position) {
        let checkpoint = &mut self.hosts.entry(host).or_default().shadow.checkpoint;
        *checkpoint = (*checkpoint).max(position);
    }

    pub fn asked_to_write(&mut self, host: HostNumber, id: WriteId, write: &LogWrite) {
        for entry in write.groups.iter().flat_map(|group| &group.entries) {
            self.chores.written(entry.position, self.time);
        }
        self.hosts.entry(host).or_default().shadow.write(id, write);
    }

    pub fn synced(&mut self, host: HostNumber, id: WriteId) {
        let watched = self.hosts.entry(host).or_default();
        for (before, entry) in watched.shadow.sync(id) {
            let matching = self.log_matching.durable(host, before, &entry);
            self.violations.extend(matching.err().map(|e| format!("log matching (Raft paper, 5.3): {e}")));
        }
    }

    /// A node took a turn; its writes were told already.
    pub fn turned(&mut self, host: HostNumber, node: &Node) {
        let status = node.status();
        let watched = self.hosts.entry(host).or_default();
        let (leads, term) = (status.role == Role::Leader, status.term);
        if leads && watched.leads != Some(term) {
            (watched.leads, watched.committed_at_election) = (Some(term), self.committed.last());
            let safe = self.election_safety.leads(term, status.node);
            let complete = leader_completeness(&self.committed, &watched.shadow, term);
            self.must("election safety (Raft paper, 5.2)", safe);
            self.must("leader completeness (Raft paper, 5.4)", complete.map_err(|e| format!("h{host}: {e}")));
        }
        let Some(store) = node.store(base::FIRST_GROUP) else { return };
        let applied = store.applied();
        self.applied_to(host, applied, term);
        let same = self.state_hashes.saw(host, applied.index, store.state_hash());
        self.must("equal states at equal positions", same);
    }

    fn applied_to(&mut self, host: HostNumber, applied: Position, term: Term) {
        let watched = self.hosts.entry(host).or_default();
        let mut before = watched.applied;
        watched.applied = applied;
        // A snapshot took the place of everything up to it.
        if watched.shadow.written.start > before {
            before = watched.shadow.written.start;
        }
        let (mut found, mut effects, mut chores) = (Vec::new(), Vec::new(), Vec::new());
        for index in before.index + 1..=applied.index {
            let Some(entry) = watched.shadow.written.entry(index) else {
                found.push(Err(format!("entry {index} was applied, but it is not in the log")));
                continue;
            };
            if !self.blind_to_disks {
                found.push(own_disk_first(&watched.shadow, entry.position));
            }
            if index <= self.committed.last() {
                found.push(self.committed.same(entry));
            } else {
                found.push(self.committed.next(entry.clone(), term));
                self.chores.applied(index, self.time);
                match self.model.apply(entry) {
                    Ok(done) => {
                        let index_of = |revision| self.model.index_of(revision);
                        chores.extend(done.iter().map(|chore| self.chores.done(entry.position, chore, index_of)));
                    }
                    Err(what) => effects.push(Err(what)),
                }
            }
        }
        for result in found {
            self.must("state machine safety (Raft paper, 5.4.3)", result.map_err(|e| format!("h{host}: {e}")));
        }
        for result in effects {
            self.must("no write takes effect twice (Raft paper, 8)", result);
        }
        for result in chores {
            self.must("nothing ends before its time", result);
        }
    }

    /// All is applied that anybody ever called committed.
    pub fn all_is_known(&mut self) {
        let result = self.local_reads.nothing_was_made_up(self.committed.last());
        self.must("what is called committed is committed", result);
    }

    /// A node in that term shows a new state. (One that applied its own removal has no other any more.)
    pub fn published(&mut self, host: HostNumber, view: &View, known_commit: Index, term: Term) {
        self.applied_to(host, view.applied(), term);
        let same = self.state_hashes.saw(host, view.applied().index, view.state_hash());
        self.must("equal states at equal positions", same);
        let result = contents::contents(&self.model, view);
        self.must("the store holds what the model holds", result.map_err(|e| format!("h{host}: {e}")));
        let result = self.local_reads.knows(host, view.applied().index, known_commit);
        self.must("what is applied is known to be committed", result);
        let result = self.local_reads.published(host, view.applied());
        self.must("what a node shows never goes back", result);
    }
}

/// For a check that has to read the state.
pub fn in_words(error: StorageError) -> String {
    error.to_string()
}
