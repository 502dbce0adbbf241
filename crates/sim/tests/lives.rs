//! Many lives, each from its seed; and one twice.

use sim::{Plan, Sabotage, Totals, live};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const LIVES: u64 = 300;

#[test]
fn three_hundred_lives() {
    let next = AtomicU64::new(1);
    let sum = Mutex::new((Totals::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > LIVES {
                        return;
                    }
                    let life = live(&Plan { seed, ..Plan::default() });
                    let mut sum = sum.lock().unwrap();
                    sum.0.add(&life.totals);
                    if !life.violations.is_empty() {
                        sum.1.push((seed, life.violations));
                    }
                }
            });
        }
    });
    let (totals, failed) = sum.into_inner().unwrap();
    print!("{totals}");
    if let Some((seed, violations)) = failed.first() {
        let what = violations.join("\n");
        panic!("{} of {LIVES} lives failed; cargo xtask sim --seed {seed} shows one again:\n{what}", failed.len());
    }
    // What does not happen is not tested.
    for (count, what) in [
        (totals.crashes, "crashes"),
        (totals.power_cuts, "power cuts"),
        (totals.failed_syncs, "failed syncs"),
        (totals.pauses, "pauses"),
        (totals.clock_jumps, "wall clocks that jump"),
        (totals.partitions, "partitions"),
        (totals.elections, "elections"),
        (totals.snapshots_installed, "snapshots"),
        (totals.removals, "removals"),
        (totals.wipes, "wiped folders"),
        (totals.reads_linearizable, "linearizable reads"),
        (totals.reads_strong, "strong reads"),
        (totals.reads_weak, "weak reads"),
        (totals.operations_unknown, "unknown outcomes"),
        (totals.retries, "retries"),
    ] {
        assert!(count >= LIVES / 4, "only {count} {what} in {LIVES} lives");
    }
    assert!(totals.operations >= 500 * LIVES && totals.simulated_seconds >= 60 * LIVES, "{totals}");
    assert!(totals.undecided + totals.stuck <= LIVES / 50, "{totals}");
}

#[test]
fn the_same_seed_gives_the_same_life() {
    for seed in [3, 4] {
        let plan = Plan { seed, with_lines: true, ..Plan::default() };
        let (one, other) = (live(&plan), live(&plan));
        assert_eq!(one.lines, other.lines, "seed {seed}");
        assert_eq!(one.digest, other.digest, "seed {seed}");
        assert_eq!(one.totals, other.totals, "seed {seed}");
        let silent = live(&Plan { with_lines: false, ..plan });
        assert_eq!(silent.digest, one.digest, "reading along changes nothing");
    }
    let digest = |seed| live(&Plan { seed, ..Plan::default() }).digest;
    assert_ne!(digest(3), digest(4));
}

/// Wall clocks go into writes as a number, and nothing else comes of them: without any, all else happens as it did.
#[test]
fn the_time_of_day_touches_nothing() {
    for seed in 5..15 {
        let plan = Plan { seed, ..Plan::default() };
        let (with, without) = (live(&plan), live(&Plan { no_wall_clocks: true, ..plan }));
        assert_ne!(with.digest, without.digest, "the times are in the messages");
        assert_eq!(with.totals, without.totals, "seed {seed}");
    }
}

/// A net that catches nothing would let every life pass. Each bug is put in, and found within a few lives by what
/// looks at logs, states and answers; the checks that look at disks, which would see some at once, are left out.
fn is_found_within(lives: u64, sabotage: Sabotage, by: &[&str]) {
    for seed in 1..=lives {
        let life = live(&Plan { seed, sabotage: Some(sabotage), ..Plan::default() });
        match life.violations.first() {
            Some(found) if by.iter().any(|property| found.starts_with(property)) => return,
            // A node that lost what it promised may also be stuck for good, which proves less.
            Some(found) if found.starts_with("what healed goes on") => {}
            Some(found) => panic!("seed {seed} found something else: {found}"),
            None => {}
        }
    }
    panic!("{lives} lives did not show {sabotage:?}");
}

#[test]
fn a_log_that_does_not_sync_is_found() {
    is_found_within(
        20,
        Sabotage::AcknowledgeWithoutSync,
        &["leader completeness", "state machine safety", "log matching"],
    );
}

#[test]
fn reads_without_a_question_to_a_quorum_are_found() {
    is_found_within(5, Sabotage::ReadWithoutRound, &["linearizability"]);
}

#[test]
fn weak_reads_without_a_question_to_the_leader_are_found() {
    is_found_within(5, Sabotage::WeakReadFromAnyone, &["a weak read"]);
}

#[test]
fn a_write_that_is_applied_twice_is_found() {
    is_found_within(5, Sabotage::ApplyTwice, &["no write takes effect twice"]);
}

/// Rare: two candidates of one term must ask the same voter, before and after its restart.
#[test]
fn a_vote_that_is_forgotten_is_found() {
    is_found_within(100, Sabotage::ForgetVote, &["election safety"]);
}

#[test]
fn an_acknowledgement_before_the_disk_has_it_is_found() {
    is_found_within(100, Sabotage::AcknowledgeBeforeDisk, &["leader completeness", "state machine safety"]);
}
