//! `quorate restore`: a new cluster from a snapshot of an old one.

use super::{Done, Failure, Output, print};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "\
The file is checked first, all of it. The folder then holds the only member of a new cluster: start it with
`quorate serve FOLDER`, and let the others join with empty folders.")]
pub struct Args {
    /// What `quorate snapshot save` wrote
    file: PathBuf,
    /// The data folder to make, which must be empty or not there
    folder: PathBuf,
    /// What to call the node
    #[arg(long, value_name = "NAME", default_value = "node1")]
    id: String,
    /// Address at which other nodes will reach it: of --raft of `quorate serve`, or else of --http
    #[arg(long, value_name = "ADDRESS", default_value = "localhost:11000")]
    address: String,
    /// How to print what was restored
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub fn run(args: Args) -> Done {
    let restored = server::restore::restore(&args.file, &args.folder, &args.id, &args.address);
    let restored = restored.map_err(|error| Failure::other(error.to_string()))?;
    let (revision, keys) = (restored.revision, restored.keys);
    match args.output {
        Output::Json => print(json!({ "revision": revision, "keys": keys, "cluster": restored.cluster.to_string() })),
        Output::Text => {
            let folder = args.folder.display();
            print(format_args!(
                "{keys} keys of revision {revision} are in {folder}: start it with quorate serve {folder}"
            ))
        }
    }
}
