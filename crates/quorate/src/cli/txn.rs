//! `quorate txn`: several steps at one revision, if conditions hold; written as the API writes them.

use super::{Connect, Done, Failure, print, print_json, text, wait_for};
use client::TxnDone;
use client::{KeyValue, StepDone};
use serde_json::Value;
use std::ffi::OsString;
use std::io::Read;

#[derive(clap::Args)]
#[command(after_help = r#"For example, if user1 exists, rename it, or else tell what there is:

  {"if":   [{"key": "user1", "exists": true}],
   "then": [{"put": {"key": "user2", "value": "batman"}}, {"delete": {"key": "user1"}}],
   "else": [{"range": {"prefix": "user"}}]}

Conditions compare "value", "version", "create_revision", "mod_revision" or "lease" by
"is": "=", "!=", "<" or ">". Bytes that are no text are given as "key_base64" and "value_base64".
If the conditions did not hold, the exit code is 1, whatever the steps under "else" did."#)]
pub struct Args {
    /// A file with the transaction as JSON; standard input if absent or -
    file: Option<OsString>,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    let mut json = Vec::new();
    let read = match &args.file {
        Some(file) if file != "-" => std::fs::read(file).map(|bytes| json = bytes),
        _ => std::io::stdin().lock().read_to_end(&mut json).map(drop),
    };
    read.map_err(|error| Failure::other(format!("can't read the transaction: {error}")))?;
    let txn: Value = serde_json::from_slice(&json)
        .map_err(|error| Failure::usage(format!("the transaction is no JSON: {error}; see quorate txn --help")))?;
    wait_for(async {
        let answer = args.connect.client()?.txn_json(&txn).await?;
        let succeeded = answer["succeeded"] == true;
        if args.connect.is_json() {
            print_json(&answer)?;
        } else {
            let done: TxnDone = serde_json::from_value(answer).map_err(|error| Failure::other(error.to_string()))?;
            print(in_words(&done).trim_end())?;
        }
        if succeeded { Ok(()) } else { Err(Failure::no("")) }
    })
}

fn in_words(done: &TxnDone) -> String {
    let held = if done.succeeded { "the conditions held" } else { "the conditions did not hold" };
    let mut text = format!("{held}, changed {}, revision {}\n", done.changed, done.revision);
    match &done.results {
        Some(results) => steps(results, "", &mut text),
        None => text += "it was done before; what its steps gave is not remembered\n",
    }
    text
}

fn steps(results: &[StepDone], indent: &str, text: &mut String) {
    let shown = |kv: &KeyValue| format!("{} = {}", text::escaped(&kv.key), text::short(&kv.value));
    for (at, result) in results.iter().enumerate() {
        let line = match result {
            StepDone::Put { previous: None } => "put".to_string(),
            StepDone::Put { previous: Some(kv) } => format!("put, was {}", shown(kv)),
            StepDone::Get { kv: None } => "get, no such key".to_string(),
            StepDone::Get { kv: Some(kv) } => format!("get {}", shown(kv)),
            StepDone::Range { kvs, count, .. } => {
                format!("range, {} keys", count.unwrap_or(kvs.len() as u64))
            }
            StepDone::Delete { deleted, .. } => format!("delete, {deleted} keys"),
            StepDone::Txn { succeeded, .. } => format!("txn, succeeded: {succeeded}"),
        };
        *text += &format!("{indent}{}. {line}\n", at + 1);
        match result {
            StepDone::Range { kvs, .. } | StepDone::Delete { previous: kvs, .. } => {
                kvs.iter().for_each(|kv| *text += &format!("{indent}   {}\n", shown(kv)));
            }
            StepDone::Txn { results, .. } => steps(results, &format!("{indent}   "), text),
            _ => {}
        }
    }
}
