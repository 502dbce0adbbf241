//! `quorate del`: a key, or many at once.

use super::{Connect, Done, Failure, bytes, print, print_json, text, wait_for};
use client::Range;
use serde_json::json;
use std::ffi::OsString;

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["key", "prefix", "from", "to", "all"]))]
pub struct Args {
    #[arg(conflicts_with_all = ["prefix", "from", "to", "all"])]
    key: Option<OsString>,
    /// All keys that begin so
    #[arg(long, conflicts_with_all = ["from", "to", "all"])]
    prefix: Option<OsString>,
    /// Keys from this one on
    #[arg(long, value_name = "KEY", conflicts_with = "all")]
    from: Option<OsString>,
    /// Keys before this one
    #[arg(long, value_name = "KEY", conflicts_with = "all")]
    to: Option<OsString>,
    /// Every key there is
    #[arg(long)]
    all: bool,
    /// Only if the key was last changed at this revision
    #[arg(long, value_name = "REVISION", requires = "key")]
    if_match: Option<u64>,
    /// Print what it held before
    #[arg(long, requires = "key")]
    previous: bool,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let client = args.connect.client()?;
        let (deleted, missing) = match args.key.map(bytes) {
            Some(key) => {
                let mut delete = client.delete(&key);
                if let Some(revision) = args.if_match {
                    delete = delete.if_match(revision);
                }
                if args.previous {
                    delete = delete.previous();
                }
                let deleted = delete.await?;
                let is_missing = deleted.deleted == 0;
                (deleted, is_missing.then(|| Failure::no(format!("there is no key {}", text::short(&key)))))
            }
            None => {
                let range = match (args.prefix, args.from, args.to) {
                    (Some(prefix), ..) => Range::prefix(bytes(prefix)),
                    (None, from, Some(to)) => Range::between(bytes(from.unwrap_or_default()), bytes(to)),
                    (None, Some(from), None) => Range::from(bytes(from)),
                    (None, None, None) => Range::all(),
                };
                (client.delete_range(range).await?, None)
            }
        };
        if args.connect.is_json() {
            let mut told = json!({ "revision": deleted.revision, "deleted": deleted.deleted });
            if args.previous {
                told["previous"] = json!(deleted.previous);
            }
            print_json(&told)?;
        } else if missing.is_none() {
            print(format_args!("deleted {}, revision {}", deleted.deleted, deleted.revision))?;
            deleted.previous.iter().try_for_each(|kv| print(format_args!("previous {}", text::escaped(&kv.value))))?;
        }
        missing.map_or(Ok(()), Err)
    })
}
