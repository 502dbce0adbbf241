//! What a storage engine costs: one engine a run, one JSON line out.
//!
//! ```text
//! cargo run --release -- lsm-tree --keys 1000000 --folder /some/disk/bench
//! ```
//!
//! The work is what a node's store does to its engine: puts in turns of 64, each of which first reads what was there;
//! then overwrites, random gets and scans. It is done in a child process that ends without closing anything, as
//! `kill -9` ends it, but after all was made durable and all background work is done. Then this process opens the folder
//! and reads a key.
//!
//! Processor time and bytes written are those of the whole process, with its flushes and merges. A Raft log is not part
//! of it: `lsm-tree`, the overlay over `redb` and our own engines have none of their own here; `fjall` has its journal,
//! which it can't do without, and does not sync it.
//!
//! Not handled: readers beside the writer, views of the past, values of other sizes, a page cache that is too small.

mod engines;
mod measure;
mod work;

use clap::Parser;
use engines::Kind;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use work::{Random, Work};

#[derive(Parser)]
#[command(about = "What a storage engine costs: one engine a run, one JSON line out")]
struct Args {
    #[arg(value_enum)]
    engine: Kind,

    /// How many different keys are put; a tenth as many are then overwritten
    #[arg(short, long, default_value_t = 1_000_000)]
    keys: u64,

    /// For memtables and caches, in MiB; two thirds for what is not on disk yet, one third for what is read
    #[arg(short, long, default_value_t = 96)]
    memory: usize,

    /// Emptied first, and removed afterwards
    #[arg(short, long)]
    folder: PathBuf,

    /// The working half: fill the folder, and end without closing it
    #[arg(long, hide = true)]
    child: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = if args.child { fill(&args) } else { run(&args) };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("engines: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Value, String> {
    let cant = |error| format!("{}: {error}", args.folder.display());
    if args.folder.exists() {
        std::fs::remove_dir_all(&args.folder).map_err(cant)?;
    }
    std::fs::create_dir_all(&args.folder).map_err(cant)?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let child =
        Command::new(program).args(std::env::args_os().skip(1)).arg("--child").stderr(Stdio::inherit()).output();
    let output = child.map_err(|error| format!("can't start the working half: {error}"))?;
    if !output.status.success() {
        return Err(format!("the working half ended with {}", output.status));
    }
    let mut line: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    line["folder_mb"] = json!(measure::folder_bytes(&args.folder)? as f64 / 1e6);
    if args.engine.is_durable() {
        line["open"] = open(args)?;
    }
    std::fs::remove_dir_all(&args.folder).map_err(cant)?;
    Ok(line)
}

/// All of the work; the process ends without dropping the engine.
fn fill(args: &Args) -> Result<Value, String> {
    let engine = args.engine.open(&args.folder, args.memory << 20)?;
    let mut work = Work::new(engine, args.keys);
    let line = json!({
        "engine": args.engine.name(),
        "keys": args.keys,
        "memory_mb": args.memory,
        "put": work.puts()?,
        "overwrite": work.overwrites()?,
        "rss_peak_mb": measure::peak_resident_mb()?,
        "rss_written_mb": measure::resident_mb()?,
        "read": work.reads()?,
        "rss_end_mb": measure::resident_mb()?,
    });
    println!("{line}");
    std::process::exit(0)
}

fn open(args: &Args) -> Result<Value, String> {
    let began = Instant::now();
    let engine = args.engine.open(&args.folder, args.memory << 20)?;
    if !engine.get(&work::key(Random::new(7).below(args.keys)))? {
        return Err("a key is gone".to_string());
    }
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    Ok(json!({ "ms": measure::rounded(ms), "rss_mb": measure::resident_mb()? }))
}
