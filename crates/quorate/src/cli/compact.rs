//! `quorate compact`: forgetting the past.

use super::{Connect, Done, print, wait_for};
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    /// Forget what was before it; what is current stays
    revision: u64,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        args.connect.client()?.compact(args.revision).await?;
        if args.connect.is_json() {
            return print(json!({ "revision": args.revision }));
        }
        print(format_args!("nothing before revision {} can be read any more", args.revision))
    })
}
