//! Reading segments: from the records to what each group holds.

use super::record::{self, Record, Section};
use super::segment::Header;
use super::{HardState, LogEntry, RecoveredGroup};
use crate::StorageError;
use base::codec::Malformed;
use base::{GroupId, Index, Position};
use bytes::Bytes;
use std::collections::BTreeMap;
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
    /// At least `start`.
    pub last: Index,
    /// After `start` and up to `last`, each with the segment it stands in. One is missing where its segment is gone: by
    /// the end of the log a purge or a copy must have closed such a gap.
    pub entries: BTreeMap<Index, (LogEntry, u64)>,
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
            let mut expected = state.start.index + 1..=state.last;
            let mut found = state.entries.keys();
            expected.find(|index| found.next() != Some(index)).map(|index| (group, index))
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
            state.cut(begun.last);
            state.last = begun.last;
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
                state.last = position.index;
                state.entries.clear();
            }
            if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
                let (first, last) = (first.position.index, last.position.index);
                if first <= state.start.index || !copied && first > state.last + 1 {
                    return Err(Malformed("first index"));
                }
                if !copied {
                    state.cut(first - 1);
                    state.last = last;
                }
                let still_there = write.entries.into_iter().take_while(|entry| entry.position.index <= state.last);
                state.entries.extend(still_there.map(|entry| (entry.position.index, (entry, segment))));
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
        (first..=last).map(|index| self.entries.get(&index).map(|(entry, _)| entry.clone())).collect()
    }

    pub fn into_recovered(self) -> RecoveredGroup {
        RecoveredGroup {
            hard_state: self.hard_state,
            start: self.start,
            entries: self.entries.into_values().map(|(entry, _)| entry).collect(),
            configuration: self.configuration,
        }
    }

    fn purge(&mut self, position: Position) {
        if position.index > self.start.index {
            while self.entries.first_entry().is_some_and(|entry| *entry.key() <= position.index) {
                self.entries.pop_first();
            }
            self.start = position;
            self.last = self.last.max(position.index);
        }
    }

    /// Nothing stays behind `last`.
    fn cut(&mut self, last: Index) {
        while self.entries.last_entry().is_some_and(|entry| *entry.key() > last) {
            self.entries.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::segment::GroupHeader;

    fn read(header: Header) -> (Replay, Result<SegmentEnd, StorageError>) {
        let mut segment = Vec::new();
        header.encode(&mut segment);
        let mut replay = Replay::default();
        let end = replay.read_segment(Path::new("segment"), &segment, None);
        (replay, end)
    }

    fn header(last: Index) -> Header {
        let group = GroupHeader {
            hard_state: HardState::default(),
            configuration: Bytes::new(),
            start: Position::default(),
            last,
        };
        Header {
            sequence: 1,
            previous: 0,
            previous_number: 0,
            synced_number: 0,
            votes_sequence: 0,
            groups: BTreeMap::from([(1, group)]),
        }
    }

    /// It made room for each of them, more than there is memory.
    #[test]
    fn entries_that_are_nowhere_take_no_memory() {
        let (replay, end) = read(header(1 << 60));
        assert!(end.is_ok());
        assert_eq!(replay.first_gap(), Some((1, 1)));
    }

    #[test]
    fn numbers_near_the_end_of_their_range_are_damage() {
        for header in [
            header(Index::MAX),
            Header { sequence: u64::MAX, ..header(1) },
            Header { previous_number: u64::MAX - 1, ..header(1) },
        ] {
            let (_, end) = read(header);
            assert!(matches!(end, Err(StorageError::Damaged { .. })));
        }
    }
}
