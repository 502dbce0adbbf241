//! `quorate snapshot`: the whole store in a file.

use super::{Connect, Done, Failure, print, print_json, wait_for};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Copy the whole store into a file, for `quorate restore`
    Save {
        /// Made anew, and only if the copy is complete
        file: PathBuf,
        #[command(flatten)]
        connect: Connect,
    },
}

pub fn run(args: Args) -> Done {
    let Command::Save { file, connect } = args.command;
    wait_for(async {
        if file.exists() {
            return Err(Failure::usage(format!("{} exists: choose another name", file.display())));
        }
        let client = connect.client()?;
        let beside = beside(&file);
        let in_words = |error: std::io::Error| Failure::other(format!("can't write {}: {error}", beside.display()));
        let mut writer = tokio::fs::File::create(&beside).await.map_err(in_words)?;
        let saved = async {
            let snapshot = client.snapshot(&mut writer).await?;
            writer.sync_all().await.map_err(in_words)?;
            tokio::fs::rename(&beside, &file).await.map_err(in_words)?;
            Ok(snapshot)
        };
        match saved.await {
            Ok(snapshot) if connect.is_json() => {
                print_json(&json!({ "file": file, "revision": snapshot.revision, "bytes": snapshot.bytes }))
            }
            Ok(snapshot) => {
                let (revision, bytes) = (snapshot.revision, snapshot.bytes);
                print(format_args!("revision {revision} is in {}, {bytes} bytes", file.display()))
            }
            Err(failure) => {
                // What is there is of no use, and the failure is what matters.
                let _ = std::fs::remove_file(&beside);
                Err(failure)
            }
        }
    })
}

/// A name in the same folder.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    file.with_file_name(name)
}
