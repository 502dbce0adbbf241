//! A node applies nothing that its own disk may still lose (etcd #14370: with a single voter, such an entry is
//! acknowledged and then gone).

use super::shadow::Shadow;
use base::Position;

pub fn own_disk_first(shadow: &Shadow, position: Position) -> Result<(), String> {
    let durable = position <= shadow.durable.start || shadow.durable.position(position.index) == Some(position);
    if durable { Ok(()) } else { Err(format!("{position:?} was applied before it was on this node's disk")) }
}
