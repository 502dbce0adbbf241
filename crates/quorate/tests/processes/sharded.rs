//! Two clusters and a distributor in front of them.

use crate::foreign::Foreign;
use crate::stage::{Answer, Program, Stage, exchange, request};
use rustix::process::Signal;
use serde_json::json;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Each line of the README of the sharded fork, with a curl in the place of Postman.
#[test]
fn the_walkthrough_of_the_sharded_fork() {
    let stage = Stage::new();
    let says = |line: &str, body: &str| {
        let answer = stage.curl(line);
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{line}");
    };

    let _node0 = stage.run("hraftd -id node0 -haddr 127.0.0.1:11000 -raddr 127.0.0.1:12000 ~/node0");
    let _node1 =
        stage.run("hraftd -id node1 -haddr 127.0.0.1:11001 -raddr 127.0.0.1:12001 -join 127.0.0.1:11000 ~/node1");
    let _node2 =
        stage.run("hraftd -id node2 -haddr 127.0.0.1:11002 -raddr 127.0.0.1:12002 -join 127.0.0.1:11000 ~/node2");

    let node3 = stage.run("hraftd -id node3 -haddr 127.0.0.1:11100 -raddr 127.0.0.1:12100 ~/node3");
    let _node4 =
        stage.run("hraftd -id node4 -haddr 127.0.0.1:11101 -raddr 127.0.0.1:12101 -join 127.0.0.1:11100 ~/node4");
    let _node5 =
        stage.run("hraftd -id node5 -haddr 127.0.0.1:11102 -raddr 127.0.0.1:12102 -join 127.0.0.1:11100 ~/node5");

    let raft = |id: &str, port: u16| json!({"id": id, "address": format!("127.0.0.1:{}", stage.port(port))});
    assert_eq!(
        stage.curl("curl -XGET localhost:11102/status").json(),
        json!({
            "me": raft("node5", 12102),
            "leader": raft("node3", 12100),
            "followers": [raft("node4", 12101), raft("node5", 12102)],
        })
    );

    let distributor = start(&stage, "distributor");
    says(r#"curl -XPOST localhost:8080/set -d '{"clave": "batman", "valor": "bruce"}'"#, "");
    says(r#"curl -XPOST localhost:8080/set -d '{"key": "user:1000", "value": "dick"}'"#, "");
    says("curl localhost:8080/get?clave=batman", r#"{"clave":"batman","valor":"bruce"}"#);
    says("curl localhost:8080/get/batman", r#"{"clave":"batman","valor":"bruce"}"#);
    says("curl localhost:8080/get?key=user:1000&level=none", r#"{"key":"user:1000","value":"dick"}"#);

    // One of them belongs to the second shard, the other to the first.
    says("curl localhost:11102/key/batman", r#"{"batman":"bruce"}"#);
    says("curl localhost:11002/key/batman", r#"{"batman":""}"#);
    says("curl localhost:11102/key/user:1000", r#"{"user:1000":""}"#);
    says("curl localhost:11002/key/user:1000", r#"{"user:1000":"dick"}"#);

    says("curl -XDELETE localhost:8080/delete?key=user:1000", "");
    assert_eq!(stage.curl("curl localhost:8080/get/user:1000").status, 404);

    let member = |id: &str, port: u16| json!({"id": id, "address": address(&stage, port), "reachable": true});
    assert_eq!(
        stage.until("all have told who they are", || {
            let status = stage.curl("curl localhost:8080/status").json();
            status["shards"][1]["members"][2]["id"].is_string().then_some(status)
        }),
        json!({"shards": [
            {
                "shard": 0,
                "first_slot": 0,
                "last_slot": 8191,
                "leader": {"id": "node0", "address": address(&stage, 11000)},
                "members": [member("node0", 11000), member("node1", 11001), member("node2", 11002)],
            },
            {
                "shard": 1,
                "first_slot": 8192,
                "last_slot": 16383,
                "leader": {"id": "node3", "address": address(&stage, 11100)},
                "members": [member("node3", 11100), member("node4", 11101), member("node5", 11102)],
            },
        ]})
    );

    // Si un líder cae, otro es elegido automáticamente, y las operaciones continúan normalmente.
    node3.kill();
    says(r#"curl -XPOST localhost:8080/set -d '{"clave": "batman", "valor": "wayne"}'"#, "");
    says("curl localhost:8080/get?clave=batman", r#"{"clave":"batman","valor":"wayne"}"#);

    assert!(distributor.said().contains("serving at http://localhost:"), "one line says that it is up, and where");
    for told in ["shard 0: node0 at ", "shard 1: node3 at "] {
        assert!(distributor.said().contains(told), "{}", distributor.said());
    }
}

/// No request fails that had a live majority, and what was acknowledged is there, in its shard and nowhere else.
#[test]
fn a_thousand_keys_while_each_leader_is_killed() {
    const KEYS: usize = 1000;
    let stage = Stage::new();
    let mut groups = [group(&stage, 0), group(&stage, 1)];
    let distributor = start(&stage, "distributor");
    // So that after each kill there is a third of the keys to be written.
    let (acknowledged, allowed) = (AtomicUsize::new(0), AtomicUsize::new(KEYS / 3));
    thread::scope(|scope| {
        for client in 0..4 {
            let (distributor, acknowledged, allowed) = (&distributor, &acknowledged, &allowed);
            scope.spawn(move || {
                for number in (client..KEYS).step_by(4) {
                    while number >= allowed.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(1));
                    }
                    let answer = set(distributor, &format!("key{number}"), &format!("value{number}"));
                    assert_eq!((answer.status, answer.body.as_str()), (200, ""), "key{number}: {answer:?}");
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for (number, nodes) in groups.iter_mut().enumerate() {
            stage.until("a part is written", || {
                (acknowledged.load(Ordering::Relaxed) > number * KEYS / 3 + 50).then_some(())
            });
            nodes.remove(stage.leader(nodes)).kill();
            allowed.fetch_add(KEYS / 3 + 1, Ordering::Relaxed);
        }
    });

    let mut counts = [0, 0];
    for number in 0..KEYS {
        let (key, value) = (format!("key{number}"), format!("value{number}"));
        let answer = distributor.get(&format!("/get?key={key}"));
        assert_eq!(answer.body, json!({"key": key, "value": value}).to_string());
        let shard = usize::from(shards::shard_of(key.as_bytes(), NonZeroU16::new(2).unwrap()));
        assert_eq!(shard_of(&answer), Some(shard));
        assert_eq!(groups[shard][0].value(&key), value);
        assert_eq!(groups[1 - shard][0].value(&key), "", "{key} is in the wrong shard too");
        counts[shard] += 1;
    }
    assert!(counts.iter().all(|&count| count > KEYS * 2 / 5), "{counts:?}");
}

#[test]
fn one_shard_goes_on_without_the_other() {
    let stage = Stage::new();
    let first = group(&stage, 0);
    let second = group(&stage, 1);
    let groups = "--shard localhost:11000,localhost:11001,localhost:11002 --shard localhost:11100,localhost:11101,localhost:11102";
    let distributor = start(&stage, &format!("distributor --listen localhost:8080 --time-limit 1 {groups}"));
    assert_eq!(set(&distributor, "batman", "bruce").status, 200);
    drop(second);

    let began = Instant::now();
    let answer = set(&distributor, "batman", "wayne");
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    assert!(began.elapsed() >= Duration::from_secs(1), "it waits for a leader as long as it may");
    for answer in [set(&distributor, "batman", "wayne"), distributor.get("/get/batman")] {
        assert_eq!((answer.status, shard_of(&answer)), (503, Some(1)), "{answer:?}");
        let error = answer.json()["error"].as_str().unwrap().to_string();
        let node = address(&stage, 11102);
        assert!(error.contains("shard 1") && error.contains(&node), "{error}");
    }
    let status = distributor.get("/status").json();
    assert_eq!(status["shards"][1]["leader"], json!({"id": "", "address": ""}));
    assert_eq!(status["shards"][1]["members"][0]["reachable"], json!(false));
    assert_eq!(status["shards"][0]["members"][0]["reachable"], json!(true));
    for number in 0..20 {
        let key = format!("user:{number}");
        if shards::shard_of(key.as_bytes(), NonZeroU16::new(2).unwrap()) == 0 {
            assert_eq!(set(&distributor, &key, "still there").status, 200);
        }
    }

    stage.until("the log says that it is down", || distributor.said().contains("shard 1 is down").then_some(()));
    let _second: Vec<Program> = (0..3).map(|number| stage.start(&line(1, number))).collect();
    stage.until("it takes writes again", || (set(&distributor, "batman", "returns").status == 200).then_some(()));
    assert_eq!(distributor.get("/get/batman").body, r#"{"clave":"batman","valor":"returns"}"#);
    let said = distributor.said();
    let count = |words: &str| said.matches(words).count();
    assert_eq!((count("shard 1 is down"), count("shard 1 is back")), (1, 1), "{said}");
    drop(first);
}

/// Its connections stand, it takes requests, and answers none; the others have long elected another.
#[test]
fn a_leader_that_hangs_holds_nothing_up_for_long() {
    let stage = Stage::new();
    let nodes = group(&stage, 0);
    let distributor = start(
        &stage,
        "distributor --listen localhost:8080 --time-limit 30 --shard localhost:11000,localhost:11001,localhost:11002",
    );
    assert_eq!(set(&distributor, "k", "v").status, 200);
    let hanging = &nodes[stage.leader(&nodes)];
    hanging.signal(Signal::STOP);
    let answer = set(&distributor, "k", "w");
    hanging.signal(Signal::CONT);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{answer:?}");
    assert_eq!(distributor.get("/get?key=k").body, r#"{"key":"k","value":"w"}"#);
}

/// A client's own key goes with the write, and a node's own refusal comes back.
#[test]
fn a_write_is_applied_once_and_refusals_are_handed_on() {
    let stage = Stage::new();
    let _node = stage.run("hraftd -id node0 -haddr localhost:11000 -raddr localhost:12000 ~/node0");
    let distributor = start(&stage, "distributor --listen localhost:8080 --shard localhost:11000");
    let once = |body: &str| {
        let length = body.len();
        let head = "POST /set HTTP/1.1\r\nHost: x\r\nIdempotency-Key: once\r\nConnection: close";
        distributor.send(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes())
    };
    assert_eq!(once(r#"{"key":"k","value":"first"}"#).status, 200);
    assert_eq!(set(&distributor, "k", "second").status, 200);
    assert_eq!(once(r#"{"clave":"k","valor":"first"}"#).status, 200);
    assert_eq!(distributor.get("/get?key=k").body, r#"{"key":"k","value":"second"}"#, "the retry did not write again");
    let reused = once(r#"{"key":"k","value":"third"}"#);
    assert_eq!((reused.status, shard_of(&reused)), (422, Some(0)), "{reused:?}");
    assert!(reused.json()["error"].as_str().unwrap().contains("Idempotency-Key"), "{reused:?}");

    assert_eq!(set(&distributor, "empty", "").status, 200);
    assert_eq!(
        distributor.get("/get/empty").body,
        r#"{"clave":"empty","valor":""}"#,
        "our nodes tell it from a missing key"
    );
    let odd = "a/b c+d%?é";
    assert_eq!(set(&distributor, odd, "odd").status, 200);
    assert_eq!(distributor.get("/get?key=a/b%20c%2Bd%25?%C3%A9").json(), json!({"key": odd, "value": "odd"}));

    for (method, path, body, status) in [
        ("POST", "/set", r#"{"k":"v"}"#, 400),
        ("POST", "/set", r#"{"clave":"k","valor":7}"#, 400),
        ("GET", "/get", "", 400),
        ("GET", "/get/k?level=quick", "", 400),
        ("GET", "/nothing", "", 404),
        ("GET", "/key/k", "", 404),
        ("PUT", "/set", "{}", 405),
        ("POST", "/status", "{}", 405),
    ] {
        let answer = distributor.call(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty());
    }
    assert_eq!(distributor.call("POST", "/set", &" ".repeat(5 << 20)).status, 413);
}

/// hraftd as others have it: no forwarding, no idempotency keys, and no word on why.
#[test]
fn it_follows_the_leader_of_a_foreign_cluster() {
    let stage = Stage::new();
    let foreign = Foreign::cluster(3);
    let shard = foreign.addresses.join(",");
    let distributor = start(&stage, &format!("distributor --listen localhost:8080 --time-limit 30 --shard {shard}"));
    assert_eq!(set(&distributor, "a", "1").status, 200);
    assert_eq!(foreign.applied(), [(0, "set a".to_string())]);
    assert_eq!(distributor.get("/get/a").body, r#"{"clave":"a","valor":"1"}"#);

    foreign.lead(2);
    assert_eq!(set(&distributor, "b", "2").status, 200);
    assert_eq!(distributor.call("DELETE", "/delete?key=a", "").status, 200);
    assert_eq!(foreign.applied(), [(2, "set b".to_string()), (2, "delete a".to_string())]);
    assert_eq!(distributor.get("/get/a").status, 404);
    assert_eq!(set(&distributor, "empty", "").status, 200);
    assert_eq!(distributor.get("/get/empty").status, 404, "hraftd does not tell an empty value from a missing key");
    foreign.applied();

    foreign.hang(1);
    foreign.lead(0);
    assert_eq!(set(&distributor, "c", "3").status, 200, "one that hangs delays nobody");
    assert_eq!(foreign.applied(), [(0, "set c".to_string())]);
    stage.until("the one that hangs is found out", || {
        (distributor.get("/status").json()["shards"][0]["members"][1]["reachable"] == json!(false)).then_some(())
    });

    foreign.lose_the_next_answer();
    assert_eq!(set(&distributor, "d", "4").status, 200);
    assert_eq!(foreign.applied(), [(0, "set d".to_string()), (0, "set d".to_string())], "the price of such a server");

    // Nobody leads: whoever is asked says that node 1 does, and that one hangs.
    foreign.lead(1);
    let waiting = format!("distributor --listen localhost:11999 --time-limit 1 --shard {shard}");
    let answer = set(&start(&stage, &waiting), "e", "5");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().contains("nothing was changed"), "{answer:?}");
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let stage = Stage::new();
    let foreign = Foreign::cluster(1);
    let line = format!("distributor --listen localhost:8080 --time-limit 60 --shard {}", foreign.addresses[0]);
    let distributor = start(&stage, &line);
    foreign.hold_writes();
    let address = distributor.http.clone();
    let body = r#"{"key":"k","value":"v"}"#;
    let waiting = thread::spawn(move || exchange(&address, &request("POST", "/set", body)));
    stage.until("the write is on its way", || foreign.holds_a_write().then_some(()));
    distributor.signal(Signal::TERM);
    stage.until("the distributor was told", || distributor.said().contains("SIGTERM").then_some(()));
    foreign.release_writes();
    assert_eq!(waiting.join().unwrap().unwrap().status, 200);
    assert!(distributor.ended().status.success());
}

/// Starts a distributor and waits until it listens.
fn start(stage: &Stage, line: &str) -> Program {
    let mut distributor = stage.start(line);
    stage.until("the distributor serves", || {
        assert_eq!(distributor.has_ended(), None, "{}", distributor.said());
        distributor.said().contains("serving at").then_some(())
    });
    distributor
}

/// Three nodes of their own, as the README of the sharded fork starts them.
fn group(stage: &Stage, shard: usize) -> Vec<Program> {
    let nodes: Vec<Program> = (0..3).map(|number| stage.run(&line(shard, number))).collect();
    stage.until("all vote", || nodes.iter().all(|node| node.status().voters().len() == 3).then_some(()));
    nodes
}

fn line(shard: usize, number: usize) -> String {
    let join = if number == 0 { String::new() } else { format!("-join 127.0.0.1:11{shard}00 ") };
    let name = 3 * shard + number;
    format!(
        "hraftd -id node{name} -haddr 127.0.0.1:11{shard}0{number} -raddr 127.0.0.1:12{shard}0{number} {join}~/node{name}"
    )
}

fn set(distributor: &Program, key: &str, value: &str) -> Answer {
    distributor.call("POST", "/set", &json!({"key": key, "value": value}).to_string())
}

/// Which shard the answer says it is about.
fn shard_of(answer: &Answer) -> Option<usize> {
    answer.head.lines().find_map(|line| line.strip_prefix("quorate-shard: ")?.parse().ok())
}

fn address(stage: &Stage, port: u16) -> String {
    format!("localhost:{}", stage.port(port))
}
