//! How long a leader waits for more before it proposes.
//!
//! Each proposal costs every node a turn, a message and a sync, whatever is in it, so it should be a large one; and who
//! is alone should wait for nobody. So a leader gathers
//!
//! - while its own disk works, since what is proposed would wait for it all the same;
//! - until as much waits as is on its way to a majority;
//! - after a commit, for those that were just answered: many clients ask again as soon as they are. That *lingering* lasts
//!   at most twice as long as the commit took. Where too few come back, fewer are waited for.
//!
//! All of it ends when much waits, and after some ticks in any case.

use base::Index;
use std::collections::VecDeque;

/// So much is worth a proposal of its own: it keeps disks and network busy at the same time.
const MANY: usize = 128;
const MANY_BYTES: usize = 256 * 1024;
const MAX_LINGER_MICROS: u64 = 3_000;
/// After so many times that enough came back, twice as many are expected again. Where requests come evenly, whoever was
/// answered before, the expected half come in about the time that a commit takes; it is the whole that do not.
const TRIED_AGAIN_AFTER: u32 = 8;

#[derive(Default)]
pub(crate) struct Gathering {
    /// What a monotonic clock showed at the begin of the turn.
    now_micros: u64,
    disk_works: bool,
    /// Since that tick.
    since: Option<u64>,
    /// Proposals that are not known to be committed: the last index of each, and when it was made.
    on_their_way: VecDeque<(Index, u64)>,
    lingering: Option<Lingering>,
    /// So often too few came back: each time half as many are expected. It counts down where enough do.
    in_vain: u32,
    not_in_vain: u32,
}

struct Lingering {
    /// How many waited when it began, and how many are expected beside them.
    had: usize,
    expected: usize,
    until_micros: u64,
}

/// What waits to be proposed.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    pub commands: usize,
    pub bytes: usize,
}

impl Gathering {
    pub(crate) fn begin_turn(&mut self, now_micros: u64, disk_works: bool) {
        (self.now_micros, self.disk_works) = (now_micros, disk_works);
    }

    /// How many more are worth waiting for, where `ahead` entries are on their way to a majority.
    pub(crate) fn lacks(&self, ahead: usize, waiting: Waiting, now: u64) -> usize {
        let long_enough = self.since.is_some_and(|since| since + crate::GATHER_TICKS <= now);
        if long_enough || waiting.bytes >= MANY_BYTES {
            return 0;
        }
        if self.disk_works {
            return usize::MAX;
        }
        let returning = self.lingering().map_or(0, |lingering| lingering.had + lingering.expected);
        ahead.max(returning).min(MANY).saturating_sub(waiting.commands)
    }

    /// When lingering is over, by the clock that [`Gathering::begin_turn`] was told of.
    pub(crate) fn until_micros(&self) -> Option<u64> {
        self.lingering().map(|lingering| lingering.until_micros)
    }

    pub(crate) fn waits(&mut self, now: u64) {
        self.since.get_or_insert(now);
    }

    pub(crate) fn proposed(&mut self, last: Index, commands: usize) {
        self.since = None;
        self.on_their_way.push_back((last, self.now_micros));
        if let Some(lingering) = self.lingering.take() {
            let came = commands.saturating_sub(lingering.had);
            if self.now_micros >= lingering.until_micros && 4 * came < 3 * lingering.expected {
                (self.in_vain, self.not_in_vain) = ((self.in_vain + 1).min(MANY.ilog2()), 0);
            } else {
                self.not_in_vain += 1;
            }
            if self.not_in_vain == TRIED_AGAIN_AFTER {
                (self.in_vain, self.not_in_vain) = (self.in_vain.saturating_sub(1), 0);
            }
        }
    }

    /// Up to there all is committed and applied, and so many requests were answered with it.
    pub(crate) fn committed(&mut self, commit: Index, answered: usize, waiting: Waiting) {
        let mut made = None;
        while let Some((_, at)) = self.on_their_way.pop_front_if(|(last, _)| *last <= commit) {
            made = Some(at);
        }
        // Not quite all: the last ones may be long in coming.
        let most = answered - answered.div_ceil(8);
        let Some(made) = made.filter(|_| most > 0) else { return };
        let expected = (most >> self.in_vain).max(1);
        let took = self.now_micros.saturating_sub(made);
        let until_micros = self.now_micros + took.saturating_mul(2).min(MAX_LINGER_MICROS);
        let (had, already) = self.lingering().map_or((waiting.commands, 0), |now| (now.had, now.expected));
        self.lingering = Some(Lingering { had, expected: already + expected, until_micros });
    }

    /// Another leads.
    pub(crate) fn restart(&mut self) {
        let Gathering { now_micros, disk_works, .. } = *self;
        *self = Gathering { now_micros, disk_works, ..Gathering::default() };
    }

    fn lingering(&self) -> Option<&Lingering> {
        self.lingering.as_ref().filter(|lingering| self.now_micros < lingering.until_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(commands: usize) -> Waiting {
        Waiting { commands, bytes: 100 * commands }
    }

    /// A leader that proposed `commands` commands at 1 ms, which were committed and answered at 2 ms.
    fn after_a_commit_of(commands: usize) -> Gathering {
        let mut gathering = Gathering::default();
        gathering.begin_turn(1_000, false);
        gathering.proposed(10, commands);
        gathering.begin_turn(2_000, false);
        gathering.committed(10, commands, waiting(0));
        gathering
    }

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let gathering = after_a_commit_of(1);
        assert_eq!((gathering.lacks(0, waiting(1), 0), gathering.until_micros()), (0, None));
    }

    #[test]
    fn most_of_those_that_were_answered_are_waited_for() {
        let gathering = after_a_commit_of(64);
        assert_eq!(gathering.lacks(0, waiting(1), 0), 55);
        assert_eq!(gathering.lacks(0, waiting(56), 0), 0);
        assert_eq!(gathering.until_micros(), Some(4_000));
    }

    #[test]
    fn lingering_lasts_twice_as_long_as_the_commit_took_and_never_long() {
        let mut gathering = after_a_commit_of(64);
        gathering.begin_turn(3_999, false);
        assert!(gathering.lacks(0, waiting(1), 0) > 0);
        gathering.begin_turn(4_000, false);
        assert_eq!((gathering.lacks(0, waiting(1), 0), gathering.until_micros()), (0, None));

        gathering.proposed(20, 8);
        gathering.begin_turn(900_000, false);
        gathering.committed(20, 8, waiting(0));
        assert_eq!(gathering.until_micros(), Some(900_000 + MAX_LINGER_MICROS));
    }

    /// Expected after each commit of 64, where of those who are expected so many come back.
    fn expected(came: &[usize]) -> Vec<usize> {
        let mut gathering = after_a_commit_of(64);
        let mut round = |came: usize| {
            let lacks = gathering.lacks(0, waiting(0), 0);
            gathering.begin_turn(gathering.now_micros + 10_000, false);
            gathering.proposed(20, came);
            gathering.begin_turn(gathering.now_micros + 1_000, false);
            gathering.committed(20, 64, waiting(0));
            lacks
        };
        came.iter().map(|&came| round(came)).collect()
    }

    #[test]
    fn where_nobody_comes_back_lingering_is_given_up() {
        assert_eq!(expected(&[0; 8]), [56, 28, 14, 7, 3, 1, 1, 1]);
    }

    #[test]
    fn where_enough_come_back_more_are_expected_again() {
        let came = [&[0, 0][..], &[14; 8], &[28; 8], &[56; 2]].concat();
        assert_eq!(expected(&came), [&[56, 28][..], &[14; 8], &[28; 8], &[56; 2]].concat());
    }

    #[test]
    fn what_waited_before_is_nobody_who_came_back() {
        let mut gathering = after_a_commit_of(1);
        gathering.proposed(20, 32);
        gathering.begin_turn(3_000, false);
        gathering.committed(20, 32, waiting(40));
        assert_eq!(gathering.lacks(0, waiting(40), 0), 28);
        gathering.begin_turn(9_000, false);
        gathering.proposed(30, 41);
        assert_eq!(gathering.in_vain, 1);
    }

    #[test]
    fn what_is_proposed_before_the_time_is_over_was_not_in_vain() {
        let mut gathering = after_a_commit_of(64);
        gathering.proposed(20, 1);
        assert_eq!(gathering.in_vain, 0);
    }

    #[test]
    fn what_was_expected_in_vain_is_expected_no_more() {
        let mut gathering = after_a_commit_of(64);
        // The time is over, and another proposal, made before, is committed.
        gathering.on_their_way.push_back((20, 2_000));
        gathering.begin_turn(5_000, false);
        gathering.committed(20, 8, waiting(3));
        assert_eq!(gathering.lacks(0, waiting(3), 0), 7);
    }

    #[test]
    fn as_much_is_gathered_as_is_on_its_way() {
        let gathering = Gathering::default();
        assert_eq!(gathering.lacks(10, waiting(9), 0), 1);
        assert_eq!(gathering.lacks(10, waiting(10), 0), 0);
        assert_eq!(gathering.lacks(5_000, waiting(MANY), 0), 0, "it is much");
        assert_eq!(gathering.lacks(10, Waiting { commands: 1, bytes: MANY_BYTES }, 0), 0, "it is much");
    }

    #[test]
    fn while_the_disk_works_all_is_gathered_for_some_ticks() {
        let mut gathering = Gathering::default();
        gathering.begin_turn(0, true);
        gathering.waits(7);
        assert_eq!(gathering.lacks(0, waiting(1_000), 7), usize::MAX);
        assert_eq!(gathering.lacks(0, waiting(1_000), 7 + crate::GATHER_TICKS), 0);
    }

    #[test]
    fn another_leader_begins_anew() {
        let mut gathering = after_a_commit_of(64);
        gathering.waits(1);
        gathering.restart();
        assert_eq!((gathering.lacks(0, waiting(1), 9), gathering.until_micros()), (0, None));
    }
}
