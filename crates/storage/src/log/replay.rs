//! Reading segments: from the records to what each group holds.

use super::record::{self, Record, Section};
use super::segment::Header;
use super::{HardState, LogEntry, RecoveredGroup};
use crate::StorageError;
use base::codec::Malformed;
use base::{GroupId, Index, Position};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

/// What was read so far.
#[derive(Default)]
pub struct Replay {
    pub groups: BTreeMap<GroupId, GroupReplay>,
}

#[derive(Default)]
pub struct GroupReplay {
    pub hard_state: HardState,
    pub configuration: Bytes,
    pub start: Position,
    /// From the one after `start` on, each with the segment it stands in. `None` where the segment is gone: by the end
    /// of the log a purge or a copy must have closed such a gap.
    pub entries: VecDeque<Option<(LogEntry, u64)>>,
}

/// Where reading a segment ended.
pub struct SegmentEnd {
    pub number: u64,
    /// The newest vote slot that a record knows to be synced.
    pub votes_sequence: u64,
    pub is_sealed: bool,
}

impl Replay {
    /// Reads one segment. If `until` is known, all records up to that number were synced; else this is the last segment
    /// and its tail may be torn.
    pub fn read_segment(
        &mut self,
        path: &Path,
        segment_bytes: &[u8],
        until: Option<u64>,
    ) -> Result<SegmentEnd, StorageError> {
        let (header, first_offset) = Header::decode(path, segment_bytes)?;
        let damaged = |at: u64, what: String| StorageError::damaged(path.display().to_string(), at, what);
        self.begin_segment(&header);
        let mut offset = first_offset;
        let mut end =
            SegmentEnd { number: header.previous_number, votes_sequence: header.votes_sequence, is_sealed: false };
        while until != Some(end.number) {
            let number = end.number + 1;
            let stamp = match record::read(segment_bytes, header.sequence, offset, number) {
                Some(Record::Batch { stamp, body }) => {
                    let next = body.end as u64;
                    // A copy, so that what is kept of a batch does not keep the whole segment in memory.
                    let sections = record::decode_batch(Bytes::copy_from_slice(&segment_bytes[body]));
                    sections
                        .and_then(|sections| self.apply(sections, header.sequence))
                        .map_err(|e| damaged(offset, format!("{e} in record {number}")))?;
                    offset = next;
                    end.is_sealed = false;
                    stamp
                }
                Some(Record::Seal { stamp }) => {
                    offset += record::SEAL_BYTES;
                    end.is_sealed = true;
                    stamp
                }
                None => {
                    let was_synced = until.is_some()
                        || number <= header.synced_number
                        || record::was_synced(segment_bytes, header.sequence, offset, number);
                    if was_synced {
                        return Err(damaged(offset, format!("record {number} was synced there, but is not whole")));
                    }
                    break;
                }
            };
            end.number = number;
            end.votes_sequence = end.votes_sequence.max(stamp.votes_sequence);
        }
        Ok(end)
    }

    /// Each group's first missing entry, if there is one.
    pub fn first_gap(&self) -> Option<(GroupId, Index)> {
        self.groups.iter().find_map(|(&group, state)| {
            let gap = state.entries.iter().position(Option::is_none)?;
            Some((group, state.start.index + 1 + gap as u64))
        })
    }

    fn begin_segment(&mut self, header: &Header) {
        for (&group, begun) in &header.groups {
            let state = self.groups.entry(group).or_default();
            state.hard_state = begun.hard_state;
            state.configuration = begun.configuration.clone();
            // The segments that this one replaced may have purged, reset, or cut entries off.
            state.purge(begun.start);
            if state.start.index > begun.start.index {
                state.entries.clear();
            }
            state.start = begun.start;
            state.entries.resize((begun.last - begun.start.index) as usize, None);
        }
    }

    fn apply(&mut self, sections: Vec<Section>, segment: u64) -> Result<(), Malformed> {
        for Section { write, copied } in sections {
            let state = self.groups.entry(write.group).or_default();
            if let Some(hard_state) = write.hard_state {
                state.hard_state = hard_state;
            }
            if let Some(position) = write.reset {
                state.start = position;
                state.entries.clear();
            }
            if let Some(first) = write.entries.first() {
                let at = first.position.index.checked_sub(state.start.index + 1).ok_or(Malformed("first index"))?;
                let at = usize::try_from(at).map_err(|_| Malformed("first index"))?;
                if copied {
                    for (entry, place) in
                        write.entries.into_iter().zip(state.entries.range_mut(at.min(state.entries.len())..))
                    {
                        *place = Some((entry, segment));
                    }
                } else if at <= state.entries.len() {
                    state.entries.truncate(at);
                    state.entries.extend(write.entries.into_iter().map(|entry| Some((entry, segment))));
                } else {
                    return Err(Malformed("first index"));
                }
            }
            if let Some(position) = write.purge_to {
                state.purge(position);
            }
            if let Some(configuration) = write.configuration {
                state.configuration = configuration;
            }
        }
        Ok(())
    }
}

impl GroupReplay {
    /// These entries, if all are there.
    pub fn range(&self, first: Index, last: Index) -> Option<Vec<LogEntry>> {
        let from = usize::try_from(first.checked_sub(self.start.index + 1)?).ok()?;
        let to = usize::try_from(last.checked_sub(self.start.index)?).ok()?;
        if to > self.entries.len() || from > to {
            return None;
        }
        self.entries.range(from..to).map(|entry| entry.as_ref().map(|(entry, _)| entry.clone())).collect()
    }

    pub fn into_recovered(self) -> RecoveredGroup {
        RecoveredGroup {
            hard_state: self.hard_state,
            start: self.start,
            entries: self.entries.into_iter().flatten().map(|(entry, _)| entry).collect(),
            configuration: self.configuration,
        }
    }

    fn purge(&mut self, position: Position) {
        if position.index > self.start.index {
            let gone = (position.index - self.start.index).min(self.entries.len() as u64);
            self.entries.drain(..gone as usize);
            self.start = position;
        }
    }
}
