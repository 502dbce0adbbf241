//! What is sent by mistake or malice gets its answer, changes nothing, and kills nobody.

use crate::stage::{Program, Stage, exchange, request, send_raw};

#[test]
fn every_bad_request_is_answered_and_changes_nothing() {
    let stage = Stage::new();
    let node = stage.run("hraftd -id node0 ~/node0");
    node.put("k", "v");
    let before = node.get("/status").body;

    let with_body = |path: &str, body: &str| request("POST", path, body);
    let long_key = "k".repeat(4097);
    let rows: Vec<(u16, Vec<u8>)> = vec![
        (400, with_body("/key", "")),
        (400, with_body("/key", "[]")),
        (400, with_body("/key", r#""k""#)),
        (400, with_body("/key", r#"{"k":"x","l":1}"#)),
        (400, with_body("/key", r#"{"k":"x"} junk"#)),
        (400, with_body("/key", r#"{"":"x","k":"x"}"#)),
        (400, [&b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"[..], b"{\"k\":\"\xff\"}"].concat()),
        (400, request("DELETE", "/key", "")),
        (400, request("DELETE", "/key/k/x", "")),
        (400, request("GET", "/key/", "")),
        (400, request("GET", "/key/%zz", "")),
        (400, request("GET", "/key/k?level=quick", "")),
        (400, with_body("/join", r#"{"id":"x"}"#)),
        (400, with_body("/join", r#"{"ID":"x","addr":"localhost:1"}"#)),
        (400, b"GET /key/k HTTP/1.1\r\n\r\n".to_vec()),
        (400, b"hello\r\n\r\n".to_vec()),
        (404, request("GET", "/", "")),
        (404, request("GET", "//key/k", "")),
        (404, request("POST", "/keyfoo", r#"{"k":"x"}"#)),
        (404, request("GET", "/status/", "")),
        (405, request("PUT", "/key/k", "x")),
        (405, request("PATCH", "/key/k", "x")),
        (405, request("OPTIONS", "/key/k", "")),
        (405, request("POST", "/status", "")),
        (405, request("GET", "/join", "")),
        (413, with_body("/key", &format!(r#"{{"k":"x","{long_key}":"x"}}"#))),
        (413, with_body("/key", &format!(r#"{{"k":"{}"}}"#, "x".repeat(1_600_000)))),
        (413, with_body("/key", &" ".repeat(5_000_000))),
        (413, b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".to_vec()),
        (413, request("GET", &format!("/key/{long_key}"), "")),
        (431, format!("GET /key/k HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000)).into_bytes()),
    ];
    for (status, bytes) in rows {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let answer = node.send(&bytes);
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        assert_eq!(answer.head.contains("\r\nallow: "), status == 405, "{shown}: {answer:?}");
        assert!(answer.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{shown}: {answer:?}");
    }
    assert_eq!(node.value("k"), "v");
    assert_eq!(node.get("/status").body, before);
}

#[test]
fn random_bytes_at_either_port_change_nothing() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    nodes[0].put("k", "v");
    let before: Vec<String> = nodes.iter().map(|node| node.get("/status").body).collect();
    let said = nodes[0].said();
    let peer_port = format!("localhost:{}", stage.port(12000));
    let mut random = Random(1);
    for address in [&nodes[0].http, &peer_port] {
        for _ in 0..1000 {
            let length = random.next() as usize % 500;
            let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            // A connection that was reset is an answer too.
            let _ = send_raw(address, &bytes);
        }
    }
    for (node, before) in nodes.iter_mut().zip(before) {
        assert_eq!(node.has_ended(), None);
        assert_eq!(node.value("k"), "v");
        assert_eq!(node.get("/status").body, before, "same members, same leader");
    }
    let more = nodes[0].said()[said.len()..].to_string();
    assert!(more.len() < 10_000, "strangers fill the log: {more}");
    nodes[2].put("k", "w");
    assert_eq!(nodes[1].value("k"), "w");
}

/// A peer port that is asked in HTTP, and an HTTP port that is spoken to as a peer.
#[test]
fn a_port_that_is_not_what_the_client_thinks_changes_nothing() {
    let stage = Stage::new();
    let node = stage.run("hraftd -id node0 ~/node0");
    let peer_port = format!("localhost:{}", stage.port(12000));
    for _ in 0..10 {
        assert!(exchange(&peer_port, &request("POST", "/key", r#"{"k":"v"}"#)).is_err());
    }
    assert_eq!(node.value("k"), "");
}

/// Many who connect and say nothing, or half a request, do not keep others from being served.
#[test]
fn silent_and_slow_clients_do_not_hold_up_others() {
    let stage = Stage::new();
    let node = stage.run("hraftd -id node0 ~/node0");
    let idle: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(&node.http).unwrap()).collect();
    for stream in &idle[..100] {
        std::io::Write::write_all(&mut &*stream, b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            .unwrap();
    }
    write_and_read(&node);
    drop(idle);
    write_and_read(&node);
}

/// Connections leave files for the log and for tables: without, the first flush ended the node. And a node takes as many as
/// it may have, whatever the shell says at first.
#[test]
fn connections_leave_enough_files_for_the_state() {
    let stage = Stage::new();
    let mut node = stage.run("ulimit -S -n 64; ulimit -H -n 300; hraftd -id node0 ~/node0");
    node.put("k", &"v".repeat(300_000));
    let mut idle: Vec<_> = (0..400).map(|_| std::net::TcpStream::connect(&node.http).unwrap()).collect();
    stage.until("the state is flushed", || {
        assert!(node.has_ended().is_none(), "{}", node.said());
        let tables = std::fs::read_dir(stage.path("node0/state")).ok()?;
        tables.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".table")).then_some(())
    });
    stage.until("the rest is turned away", || {
        idle.retain(|stream| {
            stream.set_nonblocking(true).unwrap();
            !matches!(std::io::Read::read(&mut &*stream, &mut [0]), Ok(0))
        });
        (idle.len() <= 150).then_some(())
    });
    assert!(idle.len() > 100, "only {} of them", idle.len());
    drop(idle);
    stage.until("there is room again", || node.try_get("/key/k").ok());
    write_and_read(&node);
}

fn write_and_read(node: &Program) {
    node.put("k", "v");
    assert_eq!(node.value("k"), "v");
}

/// xorshift: enough to make nonsense, and the same nonsense each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
}
