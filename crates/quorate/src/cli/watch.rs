//! `quorate watch`: what happens to keys, as it happens.

use super::{Connect, Done, Keys, bytes, print, print_json, text, wait_for};
use client::{Change, KeyValue, Range, Revision};
use std::ffi::OsString;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    keys: Keys,
    /// This key alone
    #[arg(long, conflicts_with_all = ["prefix", "from", "to"])]
    key: Option<OsString>,
    /// Begin with this revision, past or future; if not given, with the next one
    #[arg(long, value_name = "REVISION")]
    rev: Option<u64>,
    /// Only puts, or only deletes
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Also what the keys held before
    #[arg(long)]
    previous: bool,
    /// End after so many revisions
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Only {
    Put,
    Delete,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let range = match args.key {
            Some(key) => Range::key(bytes(key)),
            None => args.keys.range(),
        };
        let mut request = args.connect.client()?.watch(range);
        if let Some(revision) = args.rev {
            request = request.from(revision);
        }
        if args.previous {
            request = request.previous();
        }
        request = match args.only {
            Some(Only::Put) => request.only_puts(),
            Some(Only::Delete) => request.only_deletes(),
            None => request,
        };
        let mut watch = request.await?;
        let mut left = args.count.unwrap_or(u64::MAX);
        while left > 0 {
            let revision = watch.next().await?;
            left -= 1;
            if args.connect.is_json() {
                print_json(&revision)?;
            } else {
                print(in_words(&revision).trim_end())?;
            }
        }
        Ok(())
    })
}

fn in_words(revision: &Revision) -> String {
    let was = |previous: &Option<KeyValue>| match previous {
        Some(kv) => format!(" (was {})", text::short(&kv.value)),
        None => String::new(),
    };
    let mut lines = String::new();
    for change in &revision.changes {
        let line = match change {
            Change::Put { kv, previous } => {
                format!("put {} = {}{}", text::escaped(&kv.key), text::short(&kv.value), was(previous))
            }
            Change::Delete { key, previous } => format!("delete {}{}", text::escaped(key), was(previous)),
        };
        lines += &format!("{} {line}\n", revision.revision);
    }
    lines
}
