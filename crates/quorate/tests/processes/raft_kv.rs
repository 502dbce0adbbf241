//! raft-kv as its users know it: the walkthrough of its README, and the ways to begin.

use crate::stage::{Program, Stage};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The README line by line. Where it says `make run`, the services of docker-compose.yml start, each with the
/// environment that it has there, but without its container; where it says `docker stop` and `docker start`, the
/// leader is killed and started again.
#[test]
fn the_walkthrough() {
    let stage = Stage::new();
    let says = |line: &str, body: &str| {
        let answer = stage.curl(line);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{line}");
    };

    let services = services();
    let mut nodes: Vec<Program> = services.iter().map(|service| stage.start(service)).collect();
    for node in &mut nodes {
        stage.until_it_serves(node);
    }
    says("curl 'http://127.0.0.1:4001/keys/some-key/'", r#"{"value":""}"#);
    says(
        r#"curl 'http://127.0.0.1:4001/keys/some-key/' -H 'Content-Type: application/json' -d '{"value": "some-value"}'"#,
        r#"{"value":"some-value"}"#,
    );
    says("curl 'http://127.0.0.1:4001/keys/some-key/'", r#"{"value":"some-value"}"#);

    // Its wish list: a write to any node.
    for port in [4001, 4002, 4003] {
        says(
            &format!(r#"curl 'http://127.0.0.1:{port}/keys/last/' -d '{{"value": "by some node"}}'"#),
            r#"{"value":"by some node"}"#,
        );
        says(&format!("curl 'http://127.0.0.1:{port}/keys/some-key/'"), r#"{"value":"some-value"}"#);
    }

    let old = leader(&stage, &nodes);
    nodes.remove(old).kill();
    let new = leader(&stage, &nodes);
    assert_ne!(new, old);
    for port in (1..=3).filter(|number| *number != old + 1).map(|number| 4000 + number) {
        says(&format!("curl 'http://127.0.0.1:{port}/keys/some-key/'"), r#"{"value":"some-value"}"#);
    }
    let port = 4001 + new;
    says(&format!(r#"curl 'http://127.0.0.1:{port}/keys/last/' -d '{{"value": "of two"}}'"#), r#"{"value":"of two"}"#);

    let back = stage.run(&services[old]);
    let follows = format!("[DEBUG] state=Follower leader={}\n", address(&stage, new));
    stage.until("the old leader follows the new one", || back.said().contains(&follows).then_some(()));
    says(&format!("curl 'http://127.0.0.1:{}/keys/last/'", 4001 + old), r#"{"value":"of two"}"#);
    let own = back.get("/keys/last/?level=none");
    assert_eq!(own.json(), json!({ "value": "of two" }), "it has the data itself");
}

/// Its original lost everything.
#[test]
fn the_data_outlives_the_death_of_all_nodes() {
    let stage = Stage::new();
    let services = services();
    for round in 0..3 {
        let mut nodes: Vec<Program> = services.iter().rev().map(|service| stage.start(service)).collect();
        for node in &mut nodes {
            stage.until_it_serves(node);
        }
        for earlier in 0..round {
            assert_eq!(get(&nodes[1], &format!("k{earlier}")), format!("v{earlier}"));
        }
        assert_eq!(set(&nodes[0], &format!("k{round}"), &format!("v{round}")), 200);
        nodes.into_iter().for_each(Program::kill);
    }
}

#[test]
fn a_node_may_start_before_the_one_that_it_joins() {
    let stage = Stage::new();
    let joins = "BIND=127.0.0.1:12002 JOIN=127.0.0.1:11001 DATA_DIR=~/b PORT=11002 raft-kv";
    let mut second = stage.start(joins);
    stage.until("it finds nobody", || second.said().contains("trying again").then_some(()));
    let answer = second.get("/keys/k/");
    assert!(answer.status == 503 && answer.json()["code"] == 503, "{answer:?}");

    let first = stage.run("BIND=127.0.0.1:12001 BOOTSTRAP=1 DATA_DIR=~/a PORT=11001 raft-kv");
    stage.until_it_serves(&mut second);
    assert_eq!(set(&first, "k", "v"), 200);
    assert_eq!(get(&second, "k"), "v");

    // Once a member, it needs nobody to be let in by.
    first.kill();
    second.kill();
    let second = stage.start(joins);
    let _first = stage.run("BIND=127.0.0.1:12001 DATA_DIR=~/a PORT=11001 raft-kv");
    assert_eq!(get(&second, "k"), "v");
}

#[test]
fn a_node_that_is_told_nothing_waits_until_its_address_is_posted() {
    let stage = Stage::new();
    let first = stage.run("raft-kv --bind=127.0.0.1:12001 --bootstrap --datadir=~/a --port=11001");
    let mut second = stage.start("raft-kv --bind 127.0.0.1:12002 --datadir ~/b --port 11002");
    stage.until("it says what it waits for", || second.said().contains("let it in").then_some(()));
    assert_eq!(second.get("/keys/k/").status, 503);

    let body = json!({ "address": address(&stage, 1) }).to_string();
    for path in ["/cluster/join/", "/cluster/join"] {
        let answer = first.call("POST", path, &body);
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"), "a second time nothing changes");
    }
    stage.until_it_serves(&mut second);
    assert_eq!(second.status().voters(), [address(&stage, 0), address(&stage, 1)]);

    let nobody = json!({ "address": address(&stage, 8) }).to_string();
    let answer = first.call("POST", "/cluster/join/", &nobody);
    assert!(answer.status == 503 && answer.json()["error"].is_string(), "{answer:?}");
}

#[test]
fn what_contradicts_itself_is_refused_in_one_line() {
    let stage = Stage::new();
    let node = "BIND=127.0.0.1:12001 DATA_DIR=~/a PORT=11001";
    for (line, code, reason) in [
        (format!("{node} BOOTSTRAP=maybe raft-kv"), 2, "BOOTSTRAP=maybe is no boolean; give True or False"),
        (format!("{node} BOOTSTRAP=True JOIN=127.0.0.1:11002 raft-kv"), 1, "exclude each other"),
        (format!("{node} raft-kv --bootstrap=maybe"), 2, "-bootstrap"),
        (format!("{node} raft-kv --port=http"), 1, "PORT=http"),
        (format!("{node} raft-kv --nope"), 2, "-nope"),
        (format!("{node} raft-kv stray"), 2, "stray"),
        (format!("{node} raft-kv --bind=nonsense"), 1, "HOST:PORT"),
    ] {
        let ended = stage.finish(&line);
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.said.starts_with("raft-kv: ") && ended.said.lines().count() == 1, "{}", ended.said);
        assert!(ended.said.contains(reason), "{}", ended.said);
    }

    // On a folder with data neither means anything.
    stage.run(&format!("{node} BOOTSTRAP=True raft-kv")).kill();
    stage.run(&format!("{node} BOOTSTRAP=True JOIN=127.0.0.1:11002 raft-kv"));
}

#[test]
fn the_state_is_told_whatever_is_logged() {
    let stage = Stage::new();
    let node = stage.start("RUST_LOG=error BIND=127.0.0.1:12001 BOOTSTRAP=t DATA_DIR=~/a PORT=11001 raft-kv");
    let line = format!("[DEBUG] state=Leader leader={}\n", address(&stage, 0));
    stage.until("it says twice that it leads", || (node.said().matches(&line).count() >= 2).then_some(()));
    let other = node.said().lines().find(|line| !line.starts_with("[DEBUG] state=")).map(str::to_string);
    assert_eq!(other, None, "no colours, no other lines");
}

#[test]
fn health_is_being_able_to_read() {
    let stage = Stage::new();
    let health = || stage.finish("PORT=11001 raft-kv --health");
    let ended = health();
    assert!(ended.status.code() == Some(1) && ended.said.contains("nothing listens"), "{ended:?}");

    let waits = stage.start("BIND=127.0.0.1:12001 DATA_DIR=~/a PORT=11001 raft-kv");
    stage.until("it waits", || waits.said().contains("let it in").then_some(()));
    let ended = health();
    assert!(ended.status.code() == Some(1) && ended.said.contains("503"), "{ended:?}");
    waits.kill();

    let node = stage.run("BIND=127.0.0.1:12003 BOOTSTRAP=True DATA_DIR=~/b PORT=11001 raft-kv");
    assert_eq!(health().status.code(), Some(0));
    assert!(node.terminate().status.success());
}

/// Each service of docker-compose.yml as a command line that is the same without a container: where the file has an
/// address on the containers' network, there is one on this host.
fn services() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker-compose.yml");
    let file: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let services = file["services"].as_object().unwrap();
    let in_containers: Vec<(&str, &str)> = services.values().map(|service| (ip(service), published(service))).collect();
    let here = |(name, service): (&String, &Value)| {
        let variables = service["environment"].as_object().unwrap().iter();
        let variables = variables.map(|(name, value)| format!("{name}={}", value.as_str().expect("in quotes")));
        let mut line = variables.collect::<Vec<_>>().join(" ");
        for (ip, published) in &in_containers {
            line = line.replace(&format!("{ip}:8080"), &format!("127.0.0.1:{published}"));
            // Port 4001 is 12001 here: on this host 4001 is where its HTTP is published.
            line = line.replace(&format!("{ip}:4"), "127.0.0.1:12");
        }
        format!("{line} DATA_DIR=~/{name} PORT={} raft-kv", published(service))
    };
    services.iter().map(here).collect()
}

fn ip(service: &Value) -> &str {
    let networks = service["networks"].as_object().unwrap();
    networks.values().next().unwrap()["ipv4_address"].as_str().unwrap()
}

/// The port on this host under which the service's HTTP is known.
fn published(service: &Value) -> &str {
    let published = service["ports"][0].as_str().unwrap().strip_prefix("127.0.0.1:").unwrap();
    published.strip_suffix(":8080").unwrap()
}

/// The Raft address of the node of that number.
fn address(stage: &Stage, number: usize) -> String {
    format!("127.0.0.1:{}", stage.port(12001 + number as u16))
}

/// The number of the node that leads, once all that run say so in the lines that they write every two seconds.
fn leader(stage: &Stage, nodes: &[Program]) -> usize {
    stage.until("all agree on a leader that says so itself", || {
        let states: Option<Vec<(String, String)>> = nodes.iter().map(state).collect();
        let states = states?;
        let leader = states.iter().find(|(state, _)| state == "Leader")?.1.clone();
        let followers = states.iter().filter(|(state, _)| state == "Follower").count();
        let agree = states.iter().all(|(_, named)| *named == leader) && followers + 1 == nodes.len();
        agree.then(|| (0..3).find(|number| address(stage, *number) == leader))?
    })
}

/// What it said last of its state and its leader.
fn state(node: &Program) -> Option<(String, String)> {
    let said = node.said();
    let last = said.lines().filter_map(|line| line.strip_prefix("[DEBUG] state=")).next_back()?;
    let (state, leader) = last.split_once(" leader=").expect("state and leader");
    Some((state.to_string(), leader.to_string()))
}

fn get(node: &Program, key: &str) -> String {
    let answer = node.get(&format!("/keys/{key}/"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["value"].as_str().unwrap().to_string()
}

fn set(node: &Program, key: &str, value: &str) -> u16 {
    node.call("POST", &format!("/keys/{key}/"), &json!({ "value": value }).to_string()).status
}
