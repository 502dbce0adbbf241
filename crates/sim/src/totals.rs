//! How much happened in a life, or in many.

use std::fmt;

macro_rules! totals {
    ($($name:ident: $text:literal),* $(,)?) => {
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $(pub $name: u64,)*
        }

        impl Totals {
            pub fn add(&mut self, other: &Totals) {
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for Totals {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{:>12}  {}", self.$name, $text)?;)*
                Ok(())
            }
        }
    };
}

totals! {
    lives: "lives",
    simulated_seconds: "simulated seconds",
    crashes: "crashes of a process",
    power_cuts: "power cuts of the whole cluster",
    failed_syncs: "processes that ended of a failed write or sync",
    drained: "processes that ended in good order",
    pauses: "pauses",
    clock_jumps: "wall clocks set to anything",
    slow_disks: "disks that slowed down or hung",
    partitions: "partitions",
    elections: "elections won",
    transfers: "transfers of leadership asked for",
    snapshots_sent: "snapshots offered",
    snapshots_installed: "snapshots installed",
    checkpoints: "checkpoints written",
    flushes: "flushes",
    merges: "merges, and tables removed",
    members_changed: "changes of the members applied",
    joins: "nodes that joined",
    removals: "nodes that were removed",
    wipes: "folders wiped",
    moves: "nodes that moved to another address",
    messages: "messages delivered",
    messages_lost: "messages lost",
    log_writes: "writes of the log",
    log_syncs: "syncs of the log",
    operations: "client operations",
    operations_ok: "… that succeeded",
    operations_failed: "… that failed, without an effect",
    operations_unknown: "… of unknown outcome",
    retries: "… tried again under the same idempotency key",
    reads_linearizable: "linearizable reads answered",
    reads_strong: "strong reads answered",
    reads_weak: "weak reads answered",
    reads_local: "local reads answered",
    transactions_succeeded: "transactions whose conditions held",
    transactions_failed: "… and whose did not",
    results_seen: "… that were told what each step gave",
    leases_granted: "leases granted",
    leases_kept_alive: "leases kept alive",
    leases_revoked: "leases revoked",
    leases_ended: "leases that ended by themselves",
    lease_times: "answers of how long a lease has",
    actions_refused: "actions refused",
    compactions_asked: "compactions that clients asked for",
    compactions: "… and leaders of themselves",
    past_pages: "pages read at a past revision",
    past_walks: "… of ranges of several pages",
    past_out_of_reach: "reads of revisions that were compacted or to come",
    watched: "changes that watches saw",
    watches_resumed: "watches that went on at another host",
    watches_compacted: "watches told that what they wanted is compacted",
    entries_applied: "entries committed",
    stuck: "lives whose quorum was wiped for good",
    undecided: "histories too hard to judge within the budget",
}
