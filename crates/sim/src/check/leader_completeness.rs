//! Leader Completeness (Raft paper, section 5.4): if a log entry is committed in a given term, then that entry will be
//! present in the logs of the leaders for all higher-numbered terms.
//!
//! By Log Matching it is enough to look at the newest such entry.

use super::shadow::Shadow;
use super::state_machine_safety::Committed;
use base::Term;

pub fn leader_completeness(committed: &Committed, shadow: &Shadow, term: Term) -> Result<(), String> {
    let Some(entry) = committed.newest_before(term) else { return Ok(()) };
    let position = entry.position;
    if position.index < shadow.written.start.index || shadow.written.position(position.index) == Some(position) {
        return Ok(());
    }
    Err(format!(
        "it leads in term {term}, but its log (from {:?} to {:?}) lacks {position:?}, which was committed before",
        shadow.written.start,
        shadow.written.last()
    ))
}
