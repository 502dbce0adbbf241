//! The container files: what no linter knows of them, as it follows from the programs and from each other.
//!
//! Not handled: building the image, which takes a container engine; `tests/processes` starts what the files describe.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn the_image_is_pinned_and_runs_the_one_program_without_rights() {
    let dockerfile = read("Dockerfile");
    let every = |word: &str| -> Vec<String> {
        dockerfile.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).map(str::to_string).collect()
    };
    let bases = every("FROM");
    let [build, runs] = &bases[..] else { panic!("two stages: {bases:?}") };
    let workspace = read("Cargo.toml");
    let rust = workspace.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    let pinned = build.strip_prefix(&format!("rust:{rust}.")).and_then(|tag| tag.split_once('-'));
    let (patch, debian) = pinned.unwrap_or_else(|| panic!("{build} is not the Rust {rust} of Cargo.toml"));
    assert!(patch.parse::<u8>().is_ok(), "{build} does not name the whole version");
    let same = [("slim-trixie AS build", "gcr.io/distroless/cc-debian13:nonroot")];
    assert!(same.contains(&(debian, runs.as_str())), "not one and the same Debian: {build}, {runs}");

    let program = "/usr/local/bin/raft-kv";
    assert_eq!(every("ENTRYPOINT"), [json!([program]).to_string()]);
    let health = every("HEALTHCHECK").concat();
    let (_, health) = health.split_once(" CMD ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(health).unwrap(), json!([program, "--health"]), "there is no shell");
    assert_eq!(every("ENV"), ["DATA_DIR=/data"]);
    let user = every("USER").concat();
    assert!(!user.is_empty() && !user.starts_with("0") && !user.starts_with("root"), "{user}");
    assert!(every("COPY").contains(&format!("--from=build --chown={user} /data /data")), "volumes belong to the user");
    assert_eq!((every("EXPOSE"), every("STOPSIGNAL")), (vec!["8080".to_string()], vec!["SIGTERM".to_string()]));
}

#[test]
fn three_nodes_with_addresses_and_data_of_their_own_that_only_this_host_reaches() {
    let file: Value = serde_saphyr::from_str(&read("docker-compose.yml")).unwrap();
    let services = file["services"].as_object().unwrap();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["node_1", "node_2", "node_3"]);
    assert_eq!(file["networks"]["raft"]["ipam"]["config"], json!([{ "subnet": "10.1.0.0/24" }]));
    let mut volumes = BTreeSet::new();
    for (number, (name, service)) in (1..).zip(services) {
        let ip = format!("10.1.0.10{number}");
        let begins = if number == 1 { ("BOOTSTRAP", "True") } else { ("JOIN", "10.1.0.101:8080") };
        assert_eq!(service["environment"], json!({ "BIND": format!("{ip}:400{number}"), begins.0: begins.1 }));
        assert_eq!(service["networks"], json!({ "raft": { "ipv4_address": ip } }));
        assert_eq!(service["ports"], json!([format!("127.0.0.1:400{number}:8080")]), "{name}");
        assert_eq!(service["container_name"], format!("raftexample_{name}_1"), "as the README calls it");
        assert_eq!(service["restart"], "unless-stopped");
        assert_eq!(service["build"], ".");
        let mounts = service["volumes"].as_array().unwrap();
        let volume = mounts[0].as_str().unwrap().strip_suffix(":/data").unwrap();
        assert!(mounts.len() == 1 && volumes.insert(volume), "{name} has its data for itself");
    }
    let declared: BTreeSet<&str> = file["volumes"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(volumes, declared);
}

/// The workspace must be all there, or cargo refuses to build any of it.
#[test]
fn the_build_gets_the_workspace_and_nothing_else() {
    let taken: BTreeSet<String> =
        read(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')).map(str::to_string).collect();
    assert!(read(".dockerignore").lines().any(|line| line == "*"));
    let workspace = read("Cargo.toml");
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    let members: Vec<String> = serde_json::from_str(members).unwrap();
    let needed = members.iter().map(|member| member.trim_end_matches("/*").to_string());
    let files = ["Cargo.lock", "Cargo.toml"].map(str::to_string);
    assert_eq!(taken, needed.chain(files).collect());
}

#[test]
fn make_knows_the_words_of_raft_kv() {
    let makefile = read("Makefile");
    let recipe = |target: &str| {
        let mut lines = makefile.lines().skip_while(|line| !line.starts_with(&format!("{target}:"))).skip(1);
        lines.next().unwrap_or_default().trim_start_matches('\t').to_string()
    };
    assert_eq!(recipe("run"), "docker compose up --build");
    assert_eq!(recipe("stop"), "docker compose down");
    assert_eq!(recipe("test"), "cargo test --workspace");
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
