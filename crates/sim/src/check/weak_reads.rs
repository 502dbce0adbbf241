//! A weak read takes a leader's word: it shows all that the leader had committed when it was asked, and so all that was
//! committed before that leader was elected (leader completeness: Raft paper, 5.4).

use base::Index;
use kv::View;

/// `not_before`: what any leader had that could be asked.
pub fn weak_read(view: &View, not_before: Index) -> Result<(), String> {
    let shown = view.applied().index;
    match shown >= not_before {
        true => Ok(()),
        false => Err(format!("it shows {shown}, and every leader had {not_before} when it was asked")),
    }
}
