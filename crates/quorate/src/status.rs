//! `quorate status`: how each node sees its cluster, side by side.

use crate::ask;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;
use std::thread;

#[derive(clap::Args)]
pub struct Args {
    /// HTTP addresses of the nodes to ask
    #[arg(default_value = "localhost:11000")]
    addresses: Vec<String>,
    /// Print JSON, one object a node
    #[arg(long)]
    json: bool,
}

/// Succeeds if every node answers and knows a leader.
pub fn run(args: Args) -> ExitCode {
    let reports = ask_all(&args.addresses);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports).expect("strings are always JSON"));
    } else {
        print!("{}", table(&reports));
    }
    let well = |report: &Report| report.status.as_ref().is_some_and(|status| !status.leader.id.is_empty());
    if reports.iter().all(well) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Serialize)]
struct Report {
    http: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Status {
    me: Member,
    leader: Member,
    followers: Vec<Member>,
}

#[derive(Deserialize, Serialize)]
struct Member {
    id: String,
    address: String,
}

/// All at once: one node that does not answer must not hold up the others.
fn ask_all(addresses: &[String]) -> Vec<Report> {
    thread::scope(|scope| {
        let asking: Vec<_> = addresses.iter().map(|address| scope.spawn(|| ask_one(address))).collect();
        asking.into_iter().map(|report| report.join().expect("asking does not panic")).collect()
    })
}

fn ask_one(address: &str) -> Report {
    let http = ask::dialled(address);
    let answered = ask::ask(address, "GET", "/status", "").and_then(ask::Answer::ok).and_then(|body| {
        serde_json::from_str(&body).map_err(|error| format!("{http}: the answer is no status: {error}"))
    });
    match answered {
        Ok(status) => Report { http, status: Some(status), error: None },
        Err(error) => Report { http, status: None, error: Some(error) },
    }
}

fn table(reports: &[Report]) -> String {
    let mut rows = vec![["HTTP", "NODE", "ROLE", "LEADER", "VOTERS"].map(str::to_string)];
    let mut errors = String::new();
    for report in reports {
        match &report.status {
            Some(status) => rows.push(row(&report.http, status)),
            None => rows.push([&report.http, "-", "no answer", "-", "-"].map(str::to_string)),
        }
        if let Some(error) = &report.error {
            errors += &format!("{error}\n");
        }
    }
    let widths: [usize; 4] = std::array::from_fn(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for [http, node, role, leader, voters] in &rows {
        let [w0, w1, w2, w3] = widths;
        text += &format!("{http:w0$}  {node:w1$}  {role:w2$}  {leader:w3$}  {voters}\n");
    }
    if !errors.is_empty() {
        text += &format!("\n{errors}");
    }
    text
}

fn row(http: &str, status: &Status) -> [String; 5] {
    let voters = || status.followers.iter().chain((!status.leader.id.is_empty()).then_some(&status.leader));
    let role = if status.me.id == status.leader.id {
        "leader"
    } else if voters().any(|voter| voter.id == status.me.id) {
        "follower"
    } else {
        "no voter"
    };
    let leader = if status.leader.id.is_empty() { "none known" } else { &status.leader.id };
    let mut names: Vec<&str> = voters().map(|voter| voter.id.as_str()).collect();
    names.sort_unstable();
    [http, &status.me.id, role, leader, &names.join(", ")].map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_who_leads_and_who_does_not_answer() {
        let member = |id: &str| Member { id: id.into(), address: format!("{id}:12000") };
        let status = |me: &str, leader: &str, followers: &[&str]| Report {
            http: format!("{me}:11000"),
            status: Some(Status {
                me: member(me),
                leader: member(leader),
                followers: followers.iter().map(|id| member(id)).collect(),
            }),
            error: None,
        };
        let reports = [
            status("node0", "node0", &["node10", "node1"]),
            status("node10", "node0", &["node10", "node1"]),
            status("node2", "", &["node0"]),
            Report {
                http: "node3:11000".into(),
                status: None,
                error: Some("node3:11000: nothing listens there".into()),
            },
        ];
        let expected = "\
HTTP          NODE    ROLE       LEADER      VOTERS
node0:11000   node0   leader     node0       node0, node1, node10
node10:11000  node10  follower   node0       node0, node1, node10
node2:11000   node2   no voter   none known  node0
node3:11000   -       no answer  -           -

node3:11000: nothing listens there
";
        assert_eq!(table(&reports), expected);
    }
}
