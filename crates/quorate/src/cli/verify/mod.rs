//! `quorate verify`: is this cluster linearizable? Asks it many things at once, remembers what it was told, and judges.
//!
//! Two judges look at the same run, neither of which shares code with the store:
//!
//! - [`lincheck`] looks for one order of all gets, puts and deletes that explains every answer. It knows nothing of
//!   conditions; a conditional put that succeeded is a put to it.
//! - A watch over the same keys is the [`witness`]: every acknowledged write must be in it, at the revision that its
//!   answer named, exactly once; a conditional one directly after the revision that it named; and none that failed.
//!
//! A write of unknown outcome may have happened at any time, or never, to both. Keys change every few hundred requests,
//! since the search for an order takes longer the more there is about one key. All are below a prefix of their own,
//! which is deleted at the end, unless something was wrong.
//!
//! Not handled: faults. Kill, suspend or disconnect nodes while it runs; that is what it is for.

mod witness;
mod workload;

use super::{Connect, Done, Failure, print, print_json, wait_for};
use client::Level;
use lincheck::Verdict;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;
use workload::{Counts, Plan};

#[derive(clap::Args)]
#[command(
    after_help = "The exit code is 1 if the cluster was found out. Reads at --level none may well be stale: a way to see that it is."
)]
pub struct Args {
    /// How long to ask
    #[arg(short, long, default_value = "10", value_name = "SECONDS", value_parser = super::seconds)]
    seconds: Duration,
    /// How many clients ask at the same time
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    clients: u64,
    /// How many keys are in use at the same time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    keys: u64,
    /// How fresh reads must be: none, weak, linearizable, strong, auto
    #[arg(long, default_value_t = Level::Linearizable)]
    level: Level,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let client = args.connect.client()?;
        let prefix = workload::fresh_prefix()?;
        let plan = Plan {
            clients: args.clients,
            keys: args.keys,
            time: args.seconds,
            level: args.level,
            endpoints: args.connect.clone(),
            prefix: prefix.clone(),
        };
        // Before anything is written, so that nothing can be missed.
        let watch = client.watch(client::Range::prefix(&prefix)).await?;
        let run = workload::run(plan).await?;
        if run.counts.completed() == 0 {
            let detail = run.last_error.unwrap_or_else(|| Failure::unavailable("there was no time"));
            return Err(Failure { text: format!("no request was answered: {}", detail.text), ..detail });
        }
        let seen = witness::collect(watch, run.newest_revision(), args.connect.timeout).await?;
        let verdict =
            match (lincheck::check(&run.history, lincheck::DEFAULT_BUDGET), witness::judge(&run.writes, &seen)) {
                (Verdict::Violation(violation), _) => Some(violation.to_string()),
                (_, Some(contradiction)) => Some(contradiction),
                (Verdict::Linearizable, None) => None,
                (Verdict::GaveUp, None) => {
                    let text = "no verdict: the history is too large to be judged; use fewer --seconds or --clients";
                    return Err(Failure::other(text));
                }
            };
        let report = Report { counts: &run.counts, watched: seen.len() as u64, prefix: &prefix, violation: verdict };
        if args.connect.is_json() {
            print_json(&report)?
        } else {
            print(report.in_words(args.seconds).trim_end())?
        }
        match report.violation {
            Some(_) => Err(Failure::no(format!("not linearizable; the keys below {prefix} are left as they are"))),
            None => Ok(client.delete_prefix(&prefix).await.map(drop)?),
        }
    })
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    counts: &'a Counts,
    /// Changes that the watch saw.
    watched: u64,
    prefix: &'a str,
    /// Why it is not linearizable.
    violation: Option<String>,
}

impl Report<'_> {
    fn in_words(&self, time: Duration) -> String {
        let c = self.counts;
        let mut text =
            format!("{:.1} s, {} requests, {} changes watched\n", time.as_secs_f64(), c.asked(), self.watched);
        let rows =
            [("gets", &c.gets), ("puts", &c.puts), ("conditional puts", &c.conditional), ("deletes", &c.deletes)];
        for (name, of) in rows {
            let _ = write!(text, "  {:<17} {:>7} done", name, of.done);
            for (count, what) in [(of.refused, "refused"), (of.unknown, "unknown"), (of.failed, "unavailable")] {
                if count > 0 {
                    let _ = write!(text, ", {count} {what}");
                }
            }
            text.push('\n');
        }
        match &self.violation {
            None => text += "linearizable, and every write was watched once, at its revision\n",
            Some(why) => {
                let _ = write!(text, "\nNOT LINEARIZABLE\n{why}\n");
            }
        }
        text
    }
}
