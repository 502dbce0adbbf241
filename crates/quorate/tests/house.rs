//! The house: imports go down only, and each outside thing lives in its own room (docs/architecture.md).

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// Every room and its floor. Rooms on one floor do not import each other.
const FLOORS: &[(&str, u32)] = &[
    ("quorate", 6),
    ("server", 5),
    ("client", 5),
    ("sim", 5),
    ("node", 4),
    ("consensus", 3),
    ("kv", 3),
    ("shards", 3),
    ("storage", 2),
    ("base", 1),
];
/// Beside the house: the checker imports none of ours, the chores may import any.
const ASIDE: &[&str] = &["lincheck", "xtask"];

/// Outside crates that only some rooms may name, because of what they bring: consensus, threads and sockets.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("raft", &["consensus"]),
    ("tokio", &["server", "client", "quorate", "xtask"]),
    ("hyper", &["server", "client", "quorate", "xtask"]),
    ("rand", &[]),
];

#[test]
fn imports_go_down_only() {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    for (room, imports) in rooms() {
        if ASIDE.contains(&room.as_str()) {
            let ours = imports.iter().any(|i| floors.contains_key(i.as_str()));
            assert!(room != "lincheck" || !ours, "lincheck judges the store and shares no code with it");
            continue;
        }
        let floor = floors.get(room.as_str()).unwrap_or_else(|| panic!("{room} has no floor: place it in this test"));
        for import in &imports {
            if let Some(below) = floors.get(import.as_str()) {
                assert!(below < floor, "{room} (floor {floor}) imports {import} (floor {below})");
            }
            assert!(import != "xtask", "{room} imports the chores");
        }
    }
}

#[test]
fn outside_crates_stay_in_their_rooms() {
    for (room, imports) in rooms() {
        for (outside, rooms) in KEPT_TO {
            assert!(
                !imports.iter().any(|i| i == outside) || rooms.contains(&room.as_str()),
                "{room} imports {outside}, which is kept to {rooms:?}"
            );
        }
    }
}

/// Each room of the workspace with what its library or program imports (what only its tests import does not count).
fn rooms() -> Vec<(String, Vec<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let rooms: Vec<_> = (packages.iter())
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let imports = dependencies.iter().filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect();
            (text(&package["name"]), imports)
        })
        .collect();
    assert!(rooms.len() >= FLOORS.len());
    rooms
}
