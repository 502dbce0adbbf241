//! `quorate put`: one key, with conditions if wanted.

use super::{Connect, Done, Failure, bytes, print, print_json, text, wait_for};
use serde_json::json;
use std::ffi::OsString;
use std::io::Read;

#[derive(clap::Args)]
pub struct Args {
    key: OsString,
    /// What it shall hold; from standard input if absent or -
    value: Option<OsString>,
    /// The key ends with this lease
    #[arg(long, value_name = "ID")]
    lease: Option<u64>,
    /// Only if there is no such key
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if there is such a key
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if the key was last changed at this revision
    #[arg(long, value_name = "REVISION", group = "condition")]
    if_match: Option<u64>,
    /// Only if the key was not last changed at this revision
    #[arg(long, value_name = "REVISION", group = "condition")]
    if_none_match: Option<u64>,
    /// Print what it held before
    #[arg(long)]
    previous: bool,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    let value = match args.value {
        Some(value) if value != "-" => bytes(value),
        _ => {
            let mut value = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut value);
            read.map_err(|error| Failure::other(format!("can't read the value from standard input: {error}")))?;
            value
        }
    };
    wait_for(async {
        let mut put = args.connect.client()?.put(bytes(args.key), value);
        if let Some(lease) = args.lease {
            put = put.lease(lease);
        }
        if args.if_absent {
            put = put.if_absent();
        }
        if args.if_present {
            put = put.if_present();
        }
        if let Some(revision) = args.if_match {
            put = put.if_match(revision);
        }
        if let Some(revision) = args.if_none_match {
            put = put.if_none_match(revision);
        }
        if args.previous {
            put = put.previous();
        }
        let done = put.await?;
        if args.connect.is_json() {
            let mut told = json!({ "revision": done.revision });
            if args.previous {
                told["previous"] = json!(done.previous);
            }
            return print_json(&told);
        }
        print(format_args!("revision {}", done.revision))?;
        match done.previous {
            Some(kv) => print(format_args!("previous {}", text::escaped(&kv.value))),
            None if args.previous => print("previous: there was no such key"),
            None => Ok(()),
        }
    })
}
