//! `quorate get`: what a key holds, byte for byte.

use super::{Connect, Done, Failure, Reading, bytes, print_json, text, wait_for};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};

#[derive(clap::Args)]
pub struct Args {
    key: OsString,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let key = bytes(args.key);
        let client = args.connect.client()?.with_level(args.reading.level);
        let found = match args.reading.rev {
            None => client.get(&key).await?,
            Some(revision) => client.get_at(&key, revision).await?,
        };
        let kv = found.ok_or_else(|| Failure::no(format!("there is no key {}", text::short(&key))))?;
        if args.connect.is_json() {
            return print_json(&kv);
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&kv.value)?;
        // Only so that the prompt does not stand behind it.
        if stdout.is_terminal() && !kv.value.ends_with(b"\n") {
            stdout.write_all(b"\n")?;
        }
        Ok(stdout.flush()?)
    })
}
