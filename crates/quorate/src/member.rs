//! `quorate member`: changes to who is in the cluster.

use crate::ask::{self, Answer};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Remove a member for good: its data folder can't come back, an empty one can join under the same name
    Remove {
        /// The member's name, as `quorate status` shows it
        name: String,
        /// HTTP address of any other member
        #[arg(long, default_value = "localhost:11000", value_name = "ADDRESS")]
        ask: String,
    },
}

pub fn run(args: Args) -> Result<(), String> {
    let Command::Remove { name, ask } = args.command;
    let body = serde_json::json!({ "id": name }).to_string();
    ask::ask(&ask, "DELETE", "/remove", &body).and_then(Answer::ok)?;
    println!("{name} is no member any more");
    Ok(())
}
