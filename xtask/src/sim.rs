//! Lives of simulated clusters: one to read, or many to count.
//!
//! Not handled: making a failing life shorter. Its first violation ends it, and its trace says what came before.

use ::sim::{Plan, Totals, live};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

#[derive(clap::Args)]
pub struct Args {
    /// Show one life: what happened when and where
    #[arg(long, conflicts_with = "lives")]
    seed: Option<u64>,
    /// How many lives to live
    #[arg(long, default_value_t = 300)]
    lives: u64,
    /// The first one's seed
    #[arg(long, default_value_t = 1)]
    from: u64,
}

pub fn run(args: Args) -> Result<(), String> {
    match args.seed {
        Some(seed) => show(seed),
        None => count(args.from, args.lives),
    }
}

fn show(seed: u64) -> Result<(), String> {
    let life = live(&Plan { seed, with_lines: true, ..Plan::default() });
    life.lines.iter().for_each(|line| println!("{line}"));
    println!("\n{}digest {:016x}", life.totals, life.digest);
    if life.violations.is_empty() { Ok(()) } else { Err(life.violations.join("\n")) }
}

fn count(from: u64, lives: u64) -> Result<(), String> {
    let next = AtomicU64::new(from);
    let sum = Mutex::new((Totals::default(), BTreeMap::new()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + lives {
                        return;
                    }
                    let life = live(&Plan { seed, ..Plan::default() });
                    let Ok(mut sum) = sum.lock() else { return };
                    sum.0.add(&life.totals);
                    if !life.violations.is_empty() {
                        sum.1.insert(seed, life.violations.join("\n"));
                    }
                }
            });
        }
    });
    let (totals, failed) = sum.into_inner().map_err(|_| "a thread panicked".to_owned())?;
    print!("{totals}");
    match failed.first_key_value() {
        None => Ok(()),
        Some((seed, what)) => Err(format!(
            "{} of {lives} lives failed (seeds {:?}), first that of seed {seed}:\n{what}\n\
             to see it again: cargo xtask sim --seed {seed}",
            failed.len(),
            failed.keys().take(20).collect::<Vec<_>>()
        )),
    }
}
