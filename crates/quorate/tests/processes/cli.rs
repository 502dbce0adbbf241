//! The commands that talk to a cluster: what each prints, and its exit code.

use crate::stage::{PATIENCE, Program, Stage};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Instant;

/// One node, and commands for it.
struct Scene {
    stage: Stage,
    nodes: Vec<Program>,
}

/// What a command gave: its exit code, and all of stdout.
#[derive(Debug, PartialEq)]
struct Gave(i32, String);

impl Scene {
    fn new() -> Scene {
        let stage = Stage::new();
        let node = stage.run("quorate serve --id node0 --http localhost:11000 ~/node0");
        Scene { stage, nodes: vec![node] }
    }

    fn three() -> Scene {
        let stage = Stage::new();
        let line = |n: u16| {
            let join = if n == 0 { "" } else { "--join localhost:11000 " };
            format!("quorate serve --id node{n} --http localhost:1100{n} {join}~/node{n}")
        };
        let nodes: Vec<Program> = (0..3).map(|n| stage.run(&line(n))).collect();
        stage.until("all vote", || nodes.iter().all(|node| node.status().voters().len() == 3).then_some(()));
        Scene { stage, nodes }
    }

    fn endpoints(&self) -> String {
        self.nodes.iter().map(|node| format!("http://{}", node.http)).collect::<Vec<_>>().join(",")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(words).env("QUORATE_ENDPOINTS", self.endpoints()).env_remove("RUST_LOG");
        command.current_dir(self.stage.path(".")).stdin(Stdio::null());
        command
    }

    fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the program starts")
    }

    #[track_caller]
    fn gives(&self, line: &str, code: i32, stdout: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.output(&words);
        let gave = Gave(output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(gave, Gave(code, stdout.to_string()), "`{line}` said {stderr}");
        // Who failed says why, once.
        assert!(code == 0 || stderr.lines().count() <= 1, "{stderr}");
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let words: Vec<&str> = line.split_whitespace().chain(["-o", "json"]).collect();
        let output = self.output(&words);
        assert!(output.status.success(), "`{line}`: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("`{line}`: {error}: {output:?}"))
    }

    #[track_caller]
    fn fed(&self, words: &[&str], stdin: &[u8]) -> Output {
        let mut child = self.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    fn start(&self, words: &[&str]) -> Running {
        let mut child = self.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }
}

/// A command that goes on. Killed when it is dropped.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> Gave {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        Gave(self.child.wait().unwrap().code().unwrap_or(-1), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn put_get_and_del() {
    let scene = Scene::new();
    scene.gives("put user1 batman", 0, "revision 1\n");
    scene.gives("get user1", 0, "batman");
    scene.gives("get missing", 1, "");
    assert_eq!(
        scene.json("get user1"),
        json!({"key": "user1", "value": "batman", "create_revision": 1, "mod_revision": 1, "version": 1, "lease": 0})
    );
    scene.gives("put user1 robin --if-absent", 1, "");
    scene.gives("put user1 robin --if-match 7", 1, "");
    scene.gives("put user1 robin --if-match 1 --previous", 0, "revision 2\nprevious batman\n");
    scene.gives("put user1 joker --if-none-match 2", 1, "");
    scene.gives("put new x --if-present", 1, "");
    assert_eq!(scene.json("put new x --if-absent --previous"), json!({"revision": 3, "previous": null}));
    scene.gives("get user1 --rev 1", 0, "batman");
    scene.gives("get user1 --rev 99", 2, "");
    scene.gives("get user1 --level none", 0, "robin");
    scene.gives("del user1 --if-match 1", 1, "");
    scene.gives("del user1 --previous", 0, "deleted 1, revision 4\nprevious robin\n");
    scene.gives("del user1", 1, "");
    scene.gives("put k", 0, "revision 5\n");
    scene.gives("get k", 0, "");
    scene.gives("compact 4", 0, "nothing before revision 4 can be read any more\n");
    scene.gives("get user1 --rev 1", 1, "");

    // Any bytes, from standard input to standard output.
    let value: Vec<u8> = (0..=255).collect();
    for words in [&["put", "bytes"][..], &["put", "bytes", "-"]] {
        assert!(scene.fed(words, &value).status.success());
        assert_eq!(scene.output(&["get", "bytes"]).stdout, value);
    }
}

#[test]
fn what_makes_no_sense_and_who_is_not_there() {
    let scene = Scene::new();
    for line in
        ["put", "get", "del", "del k --all", "get k --level sloppy", "nonsense", "put k v --if-match 1 --if-absent"]
    {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(scene.output(&words).status.code(), Some(2), "{line}");
    }
    let nobody = format!("http://localhost:{}", scene.stage.port(11009));
    let output = scene.output(&["put", "k", "v", "--timeout", "1", "--endpoints", &nobody]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("quorate: nothing was changed: can't reach localhost:")
    );
    assert_eq!(scene.output(&["get", "k", "-e", "https://localhost"]).status.code(), Some(2));
    // The others are asked if one is not there.
    let both = format!("{nobody},{}", scene.endpoints());
    assert!(scene.output(&["put", "k", "v", "-e", &both]).status.success());
}

#[test]
fn ranges_and_deleting_many() {
    let scene = Scene::new();
    for key in ["a/1", "a/2", "b"] {
        assert!(scene.output(&["put", key, key]).status.success());
    }
    scene.fed(&["put", "\u{1}"], b"\xff\n");
    scene.gives(
        "range",
        0,
        "KEY    VALUE   REVISION  VERSION  LEASE\n\\u{1}  \\xff\\n  4         1        -\n\
         a/1    a/1     1         1        -\na/2    a/2     2         1        -\nb      b       3         1        -\n",
    );
    scene.gives(
        "range a/ --keys-only --reverse --limit 1",
        0,
        "KEY  VALUE  REVISION  VERSION  LEASE\na/2         2         1        -\n",
    );
    scene.gives("range --count", 0, "4\n");
    scene.gives("range nothing", 0, "");
    let listed = scene.json("range --from a/2 --to z");
    assert_eq!((listed["kvs"][1]["key"].as_str(), listed["revision"].as_u64()), (Some("b"), Some(4)));
    assert_eq!(scene.json("range --rev 1")["kvs"].as_array().unwrap().len(), 1);
    scene.gives("del --prefix a/", 0, "deleted 2, revision 5\n");
    scene.gives("del --from b --to c", 0, "deleted 1, revision 6\n");
    assert_eq!(scene.json("del --all"), json!({"revision": 7, "deleted": 1}));
    scene.gives("del --all", 0, "deleted 0, revision 7\n");
}

#[test]
fn transactions() {
    let scene = Scene::new();
    let txn = json!({
        "if": [{"key": "k", "exists": false}],
        "then": [{"put": {"key": "k", "value": "v"}}, {"get": {"key": "k"}}],
        "else": [{"range": {"prefix": ""}}],
    });
    std::fs::write(scene.stage.path("txn.json"), txn.to_string()).unwrap();
    scene.gives("txn txn.json", 0, "the conditions held, changed 1, revision 1\n1. put\n2. get k = v\n");
    scene.gives("txn txn.json", 1, "the conditions did not hold, changed 0, revision 1\n1. range, 1 keys\n   k = v\n");
    let output = scene.fed(&["txn", "-o", "json"], br#"{"then": [{"delete": {"key": "k"}}]}"#);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((told["succeeded"].as_bool(), told["results"][0]["delete"]["deleted"].as_u64()), (Some(true), Some(1)));
    assert_eq!(scene.fed(&["txn"], b"no json").status.code(), Some(2));
    assert_eq!(scene.fed(&["txn"], br#"{"perhaps": []}"#).status.code(), Some(2));
    scene.gives("txn missing.json", 5, "");
}

#[test]
fn watches() {
    let scene = Scene::new();
    scene.gives("put a1 v", 0, "revision 1\n");
    scene.gives("put b v", 0, "revision 2\n");
    scene.gives("del a1", 0, "deleted 1, revision 3\n");
    scene.gives("watch a --rev 1 --count 2 --previous", 0, "1 put a1 = v\n3 delete a1 (was v)\n");
    scene.gives("watch --rev 1 --count 1 --only delete", 0, "3 delete a1\n");
    let seen = scene.json("watch --key b --rev 1 --count 1");
    assert_eq!((seen["revision"].as_u64(), seen["changes"][0]["type"].as_str()), (Some(2), Some("put")));
    // It begins with a revision that is yet to come.
    let mut watch = scene.start(&["watch", "a", "--rev", "5"]);
    scene.gives("put a2 missed", 0, "revision 4\n");
    scene.gives("put a2 v", 0, "revision 5\n");
    assert_eq!(watch.line(), "5 put a2 = v");
    scene.gives("compact 4", 0, "nothing before revision 4 can be read any more\n");
    scene.gives("watch --rev 1", 1, "");
}

#[test]
fn leases() {
    let scene = Scene::new();
    let output = scene.output(&["lease", "grant", "60"]);
    let id = String::from_utf8(output.stdout).unwrap().trim_end().to_string();
    assert_eq!(scene.json("lease grant 59.5 --id 77"), json!({"id": 77, "ttl": 60}));
    scene.gives("lease grant 60 --id 77", 1, "");
    scene.gives(&format!("put k v --lease {id}"), 0, "revision 1\n");
    assert_eq!(scene.json("get k")["lease"].to_string(), id);
    let told = scene.json(&format!("lease timetolive {id}"));
    assert_eq!((told["ttl"].as_u64(), told["keys"][0]["key"].as_str()), (Some(60), Some("k")));
    assert_eq!(scene.json("lease list")["leases"].as_array().unwrap().len(), 2);
    scene.gives(&format!("lease keepalive --once {id}"), 0, "lives for 60 s more\n");
    scene.gives(&format!("lease revoke {id}"), 0, "ended, with 1 keys\n");
    scene.gives("get k", 1, "");
    for line in ["keepalive --once", "keepalive", "revoke", "timetolive"] {
        scene.gives(&format!("lease {line} {id}"), 1, "");
    }
    let mut keeping = scene.start(&["lease", "keepalive", "77"]);
    assert_eq!(keeping.line(), "keeping lease 77 alive");
    scene.gives("lease revoke 77", 0, "ended, with 0 keys\n");
    assert_eq!(keeping.ended(), Gave(1, String::new()), "it is told that the lease is lost");
}

#[test]
fn a_lock_is_held_while_a_command_runs() {
    let scene = Scene::new();
    let shell = "echo $QUORATE_LOCK_TOKEN $QUORATE_LOCK_KEY; exit 7";
    let output = scene.output(&["lock", "l", "--", "sh", "-c", shell]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7));
    let first: u64 = said.split(' ').next().unwrap().parse().unwrap();
    assert!(said.split(' ').nth(1).unwrap().starts_with("l/"), "{said}");
    scene.gives("range --count", 0, "0\n");

    let mut holder = scene.start(&["lock", "l"]);
    let token: u64 = holder.line().strip_prefix("token ").unwrap().parse().unwrap();
    assert!(token > first);
    scene.gives("lock l --wait 0 -- echo never", 1, "");
    let mut waiting = scene.start(&["lock", "l", "--", "sh", "-c", "echo in; exec sleep 600"]);
    holder.signal(Signal::TERM);
    assert_eq!(holder.ended(), Gave(0, String::new()));
    assert_eq!(waiting.line(), "in");

    // Its lease ends: the command must end, too.
    let leases = scene.json("lease list");
    scene.gives(&format!("lease revoke {}", leases["leases"][0]["id"]), 0, "ended, with 1 keys\n");
    let began = Instant::now();
    assert_eq!(waiting.ended(), Gave(1, String::new()));
    assert!(began.elapsed() < PATIENCE);
    scene.gives("lock l -- false", 1, "");
    scene.gives("lock l -- /no/such/program", 5, "");
}

#[test]
fn one_is_elected_at_a_time() {
    let scene = Scene::new();
    scene.gives("elect e --leader", 1, "");
    let mut first = scene.start(&["elect", "e", "a:1"]);
    assert!(first.line().starts_with("elected, token "));
    let mut second = scene.start(&["elect", "e", "b:1", "--", "sh", "-c", "echo $QUORATE_ELECTION_TOKEN"]);
    assert_eq!(scene.json("elect e --leader")["leader"]["value"], "a:1");
    let mut observer = scene.start(&["elect", "e", "--observe"]);
    assert!(observer.line().starts_with("a:1 (token "));
    first.signal(Signal::INT);
    assert_eq!(first.ended().0, 0);
    let Gave(code, token) = second.ended();
    assert!(code == 0 && token.trim_end().parse::<u64>().is_ok(), "{token}");
    scene.stage.until("nobody leads", || (observer.line() == "nobody leads").then_some(()));
}

#[test]
fn members_and_status() {
    let scene = Scene::three();
    let listed = scene.json("member list");
    let mut names: Vec<&str> =
        listed["members"].as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["node0", "node1", "node2"]);
    let leads = |name: &str| {
        let status = scene.json("status");
        status.as_array().unwrap().iter().all(|report| report["status"]["leader"]["name"] == name).then_some(())
    };
    let leader = scene.json("status")[0]["status"]["leader"]["name"].as_str().unwrap().to_string();
    let other = if leader == "node1" { "node2" } else { "node1" };
    scene.gives(&format!("member transfer {other}"), 0, "leadership is handed over\n");
    scene.stage.until("the other leads", || leads(other));
    scene.gives("member promote node0", 0, "node0 votes\n");
    scene.gives("member promote nobody", 1, "");
    scene.gives("member remove nobody", 1, "");
    let output = scene.output(&["member", "list"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.starts_with("ID  NAME   ROLE") && table.lines().filter(|line| line.contains(" leader ")).count() == 1
    );
    scene.gives("member remove node0", 0, "node0 is no member any more\n");
    assert_eq!(scene.json(&format!("member list -e {}", scene.nodes[1].http))["members"].as_array().unwrap().len(), 2);
}

#[test]
fn a_snapshot_is_restored_as_a_new_cluster() {
    let scene = Scene::new();
    for n in 1..=20 {
        scene.gives(&format!("put k{n} v{n}"), 0, &format!("revision {n}\n"));
    }
    let saved = scene.json("snapshot save backup");
    assert_eq!(saved["revision"], 20);
    assert_eq!(saved["bytes"], std::fs::metadata(scene.stage.path("backup")).unwrap().len());
    scene.gives("snapshot save backup", 2, "");
    assert!(!scene.stage.path("backup.part").exists());

    let port = scene.stage.port(11001);
    let restored = scene.json(&format!("restore backup new --id other --address localhost:{port}"));
    assert_eq!((restored["revision"].as_u64(), restored["keys"].as_u64()), (Some(20), Some(20)));
    scene.gives("restore backup new", 5, "");
    let new = scene.stage.run("quorate serve --http localhost:11001 ~/new");
    scene.gives(&format!("get k7 -e {}", new.http), 0, "v7");
    scene.gives(&format!("put k7 new -e {}", new.http), 0, "revision 21\n");
    scene.gives("get k7", 0, "v7");
    std::fs::write(scene.stage.path("damaged"), b"no backup").unwrap();
    scene.gives("restore damaged elsewhere", 5, "");
}

#[test]
fn a_shell_learns_to_complete_and_help_is_in_groups() {
    let stage = Stage::new();
    for (shell, expected) in [("bash", "_quorate()"), ("zsh", "#compdef quorate"), ("fish", "complete -c quorate")] {
        let ended = stage.finish(&format!("quorate completions {shell}"));
        assert!(
            ended.status.success() && ended.said.contains(expected) && ended.said.contains("timetolive"),
            "{shell}"
        );
    }
    let help = stage.finish("quorate help").said;
    for line in ["Work with keys:", "  put          Write a key", "  quorate dev ", "  4  unknown: ", "Usage: quorate"]
    {
        assert!(help.contains(line), "{line:?} is missing: {help}");
    }
}

#[test]
fn a_sound_cluster_is_verified_also_when_a_node_is_killed() {
    let mut scene = Scene::three();
    let endpoints = scene.endpoints();
    let mut verify = scene.start(&["verify", "--seconds", "6", "-o", "json", "-e", &endpoints]);
    scene.stage.until("it writes", || {
        let count = scene.output(&["range", "quorate-verify/", "--count"]).stdout;
        (count != b"0\n" && !count.is_empty()).then_some(())
    });
    let leader = scene.stage.leader(&scene.nodes);
    scene.nodes.remove(leader).kill();
    let Gave(code, said) = verify.ended();
    let told: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {code} {said}"));
    assert_eq!((code, &told["violation"]), (0, &Value::Null), "{told}");
    assert!(told["gets"]["done"].as_u64() > Some(100) && told["watched"].as_u64() > Some(100), "{told}");
    scene.gives("range quorate-verify/ --count", 0, "0\n");
}

/// Reads that promise nothing are found out: the check can fail.
#[test]
fn stale_reads_are_found_out() {
    let scene = Scene::three();
    let began = Instant::now();
    let output = loop {
        let output = scene.output(&["verify", "--level", "none", "--seconds", "3", "--clients", "16"]);
        if output.status.code() != Some(0) || began.elapsed() > PATIENCE {
            break output;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("NOT LINEARIZABLE") && said.contains("quorate-verify/"), "{said}");
    // Of a read that found nothing any delete before it may be the reason, so these stay.
    let lines = said.split("NOT LINEARIZABLE").nth(1).unwrap().trim().lines();
    let lines = lines.filter(|line| !line.contains(": delete ")).count();
    assert!(lines < 20, "the explanation is short: {said}");
}

#[test]
fn bench_measures_both_ways_to_speak() {
    let scene = Scene::new();
    for words in
        [&["bench", "-s", "1", "-c", "4", "--json"][..], &["bench", "-s", "1", "-c", "4", "--v1", "-o", "json"]]
    {
        let output = scene.output(&[words, &["--reads", "50", "--keys", "100"]].concat());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert!(told["writes"]["count"].as_u64() > Some(10) && told["errors"] == json!({}), "{told}");
    }
    let nobody = format!("localhost:{}", scene.stage.port(11009));
    assert_eq!(scene.output(&["bench", "--endpoints", &nobody]).status.code(), Some(3));
}
