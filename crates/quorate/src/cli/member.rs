//! `quorate member`: who is in the cluster, and changes to that.

use super::{Connect, Done, print, print_json, text, wait_for};
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Who is in the cluster
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Let a node in that runs with an empty folder; nodes started with --join do it themselves
    Add {
        name: String,
        /// Where its peers reach it
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// It stays a learner, which counts for no majority, until it is promoted
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Make a learner a voter
    Promote {
        name: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Remove a member for good: its data folder can't come back, an empty one can join under the same name
    Remove {
        /// The member's name, as `quorate member list` shows it
        name: String,
        /// HTTP address of any other member; the same as --endpoints
        #[arg(long, hide = true, value_name = "ADDRESS")]
        ask: Option<String>,
        #[command(flatten)]
        connect: Connect,
    },
    /// Hand leadership to a member, or to whichever is best suited
    Transfer {
        name: Option<String>,
        #[command(flatten)]
        connect: Connect,
    },
}

pub fn run(args: Args) -> Done {
    wait_for(async {
        let (connect, told) = match args.command {
            Command::List { connect } => return list(connect).await,
            Command::Add { name, address, learner: true, connect } => {
                connect.client()?.add_learner(&name, &address).await?;
                (connect, format!("{name} is a learner"))
            }
            Command::Add { name, address, learner: false, connect } => {
                connect.client()?.add_member(&name, &address).await?;
                (connect, format!("{name} is a member"))
            }
            Command::Promote { name, connect } => {
                connect.client()?.promote_member(&name).await?;
                (connect, format!("{name} votes"))
            }
            Command::Remove { name, ask, connect } => {
                let endpoints = ask.map_or_else(|| connect.endpoints.clone(), |ask| vec![ask]);
                connect.client_of(&endpoints)?.remove_member(&name).await?;
                (connect, format!("{name} is no member any more"))
            }
            Command::Transfer { name, connect } => {
                connect.client()?.transfer_leadership(name.as_deref()).await?;
                (connect, "leadership is handed over".to_string())
            }
        };
        if connect.is_json() { print(json!({})) } else { print(told) }
    })
}

async fn list(connect: Connect) -> Done {
    let members = connect.client()?.members().await?;
    if connect.is_json() {
        return print_json(&json!({ "members": members }));
    }
    let heading = ["ID", "NAME", "ROLE", "PEERS REACH IT AT", "URL"].map(str::to_string);
    let rows = members.into_iter().map(|member| {
        let role = if member.leader { "leader".to_string() } else { member.role };
        [member.id.to_string(), member.name, role, member.address, member.url.unwrap_or_else(|| "-".to_string())]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    print(text::table(&rows).trim_end())
}
