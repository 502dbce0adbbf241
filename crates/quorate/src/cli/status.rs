//! `quorate status`: how each node sees its cluster, side by side.

use super::{Connect, Done, Failure, Output, print, print_json, text, wait_for};
use client::{Member, Status};
use serde::Serialize;
use tokio::task::JoinSet;

#[derive(clap::Args)]
#[command(after_help = "The exit code is 1 if a node does not answer, or knows no leader.")]
pub struct Args {
    /// The nodes to ask; if none are named, those of --endpoints
    #[arg(value_name = "URL")]
    addresses: Vec<String>,
    /// The same as -o json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(mut args: Args) -> Done {
    if args.json {
        args.connect.output = Output::Json;
    }
    let endpoints = if args.addresses.is_empty() { args.connect.endpoints.clone() } else { args.addresses };
    wait_for(async {
        let reports = ask_all(&args.connect, endpoints).await?;
        if args.connect.is_json() {
            print_json(&reports)?;
        } else {
            print(table(&reports).trim_end())?;
        }
        let well = |report: &Report| report.status.as_ref().is_some_and(|status| status.leader.is_some());
        if reports.iter().all(well) { Ok(()) } else { Err(Failure::no("")) }
    })
}

#[derive(Serialize)]
struct Report {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// All at once: one node that does not answer must not hold up the others.
async fn ask_all(connect: &Connect, endpoints: Vec<String>) -> Result<Vec<Report>, Failure> {
    let mut asking = JoinSet::new();
    for (at, endpoint) in endpoints.into_iter().enumerate() {
        let client = connect.client_of(std::slice::from_ref(&endpoint))?;
        asking.spawn(async move {
            let (status, members) = tokio::join!(client.status(), client.members());
            let error = status.as_ref().err().map(|error| error.problem().to_string());
            (at, Report { endpoint, status: status.ok(), members: members.unwrap_or_default(), error })
        });
    }
    let mut reports = asking.join_all().await;
    reports.sort_by_key(|(at, _)| *at);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

fn table(reports: &[Report]) -> String {
    let heading = ["ENDPOINT", "NODE", "ROLE", "LEADER", "TERM", "APPLIED", "REVISION", "KEYS", "VOTERS"];
    let mut rows = vec![heading.map(str::to_string)];
    let mut errors = String::new();
    for report in reports {
        match &report.status {
            Some(status) => rows.push(row(report, status)),
            None => rows.push([&report.endpoint, "-", "no answer", "-", "-", "-", "-", "-", "-"].map(str::to_string)),
        }
        if let Some(error) = &report.error {
            errors += &format!("{}: {error}\n", report.endpoint);
        }
    }
    let mut text = text::table(&rows);
    if !errors.is_empty() {
        text += &format!("\n{errors}");
    }
    text
}

fn row(report: &Report, status: &Status) -> [String; 9] {
    let leader = status.leader.as_ref().map_or("none known", |leader| &leader.name);
    let voters = report.members.iter().filter(|member| member.role == "voter");
    let mut voters: Vec<&str> = voters.map(|member| member.name.as_str()).collect();
    voters.sort_unstable();
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_string(), |number| number.to_string());
    let [term, applied, revision, keys] = [Some(status.term), status.applied, status.revision, status.keys].map(known);
    let [endpoint, node, role, leader] =
        [&report.endpoint, &status.node.name, &status.role, leader].map(str::to_string);
    [endpoint, node, role, leader, term, applied, revision, keys, voters.join(", ")]
}
