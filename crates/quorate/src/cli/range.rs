//! `quorate range`: many keys, in order, all of one revision.

use super::{Connect, Done, Failure, Keys, Reading, print, text, wait_for};
use client::{KeyValue, Pages};
use serde_json::json;
use std::io::Write;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    keys: Keys,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// The last key first
    #[arg(long)]
    reverse: bool,
    /// Without their values
    #[arg(long)]
    keys_only: bool,
    /// Only how many there are
    #[arg(long, conflicts_with_all = ["limit", "reverse", "keys_only", "rev"])]
    count: bool,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let client = args.connect.client()?.with_level(args.reading.level);
        let range = args.keys.range();
        if args.count {
            let count = client.count(range).await?;
            return if args.connect.is_json() { print(json!({ "count": count })) } else { print(count) };
        }
        let mut list = client.list(range);
        if let Some(limit) = args.limit {
            list = list.limit(limit);
        }
        if args.reverse {
            list = list.reverse();
        }
        if args.keys_only {
            list = list.keys_only();
        }
        let pages = match args.reading.rev {
            Some(revision) => list.at(revision),
            None => list.pages(),
        };
        if args.connect.is_json() { print_as_json(pages, args.keys_only).await } else { print_as_table(pages).await }
    })
}

/// One object, written as its rows come.
async fn print_as_json(mut pages: Pages, keys_only: bool) -> Done {
    let mut stdout = std::io::stdout();
    let mut is_first = true;
    let mut revision = 0;
    write!(stdout, "{{\"kvs\":[")?;
    while let Some(page) = pages.next().await? {
        revision = page.revision;
        for kv in &page.kvs {
            let mut row = serde_json::to_value(kv).map_err(|error| Failure::other(error.to_string()))?;
            if keys_only && let Some(row) = row.as_object_mut() {
                row.remove("value");
            }
            write!(stdout, "{}{row}", if is_first { "" } else { "," })?;
            is_first = false;
        }
    }
    writeln!(stdout, "],\"revision\":{revision}}}")?;
    Ok(stdout.flush()?)
}

/// The widths are those of each page: nobody waits for the last row to see the first.
async fn print_as_table(mut pages: Pages) -> Done {
    let mut heading = Some(["KEY", "VALUE", "REVISION", "VERSION", "LEASE"].map(str::to_string));
    while let Some(page) = pages.next().await? {
        if page.kvs.is_empty() {
            continue;
        }
        let rows: Vec<[String; 5]> = heading.take().into_iter().chain(page.kvs.iter().map(row)).collect();
        print(text::table(&rows).trim_end())?;
    }
    Ok(())
}

fn row(kv: &KeyValue) -> [String; 5] {
    let lease = if kv.lease == 0 { "-".to_string() } else { kv.lease.to_string() };
    [text::escaped(&kv.key), text::short(&kv.value), kv.mod_revision.to_string(), kv.version.to_string(), lease]
}
