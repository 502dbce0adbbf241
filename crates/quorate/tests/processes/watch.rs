//! A watch through cut connections, changing nodes and dead leaders: every change once, in order.

use crate::stage::{PATIENCE, Program, Stage, exchange, node_line, request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const CUTS: usize = 100;
const CUTS_BETWEEN_KILLS: usize = 20;

#[test]
fn a_watch_that_is_cut_a_hundred_times_tells_every_change_once() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let addresses: Vec<String> = nodes.iter().map(|node| node.http.clone()).collect();
    let writers: Vec<Writer> = (0..3).map(|number| Writer::start(number, addresses.clone())).collect();
    let mut watch = Watch { addresses, next_node: 0, seen: Vec::new() };
    for cut in 0..CUTS {
        if cut % CUTS_BETWEEN_KILLS == CUTS_BETWEEN_KILLS / 2 {
            let leader = stage.leader(&nodes);
            nodes.remove(leader).kill();
            // While it is away.
            watch.read_some(cut);
            nodes.insert(leader, stage.run(&node_line(leader)));
        }
        watch.read_some(cut);
    }
    let acknowledged: Vec<Written> = writers.into_iter().flat_map(Writer::stop).collect();
    let newest = newest_revision(&stage, &nodes);
    watch.read_up_to(newest);

    for (expected, (revision, _)) in (1..).zip(&watch.seen) {
        assert_eq!(*revision, expected, "each once, in order, and none is missing");
    }
    assert_eq!(watch.last(), newest);
    let by_revision: BTreeMap<u64, Value> = watch.seen.into_iter().collect();
    assert!(acknowledged.len() > 300, "too little was written to tell: {}", acknowledged.len());
    for Written { revision, key, value } in acknowledged {
        let change = &by_revision[&revision]["changes"][0];
        assert_eq!((change["key"].as_str(), change["value"].as_str()), (Some(&*key), Some(&*value)));
        assert_eq!(change["mod_revision"], revision);
    }
}

fn newest_revision(stage: &Stage, nodes: &[Program]) -> u64 {
    stage.until("a linearizable read", || {
        let answer = nodes[0].try_get("/v1/kv?limit=1").ok().filter(|answer| answer.status == 200)?;
        answer.json()["revision"].as_u64()
    })
}

/// Reads a stream of events for a while, cuts it, and goes on at the next node.
struct Watch {
    addresses: Vec<String>,
    next_node: usize,
    /// Revisions with their events, as they came.
    seen: Vec<(u64, Value)>,
}

impl Watch {
    /// Cuts the stream after some bytes, wherever that is.
    fn read_some(&mut self, salt: usize) {
        let limit = 500 + (salt * 7919) as u64 % 20_000;
        let before = self.seen.len();
        let patience = Instant::now() + PATIENCE;
        while self.seen.len() == before {
            self.read(limit, u64::MAX);
            assert!(Instant::now() < patience, "no change within {PATIENCE:?}");
        }
    }

    fn read_up_to(&mut self, revision: u64) {
        let patience = Instant::now() + PATIENCE;
        while self.last() < revision {
            self.read(u64::MAX, revision);
            assert!(Instant::now() < patience, "revision {revision} did not come within {PATIENCE:?}");
        }
    }

    fn last(&self) -> u64 {
        self.seen.last().map_or(0, |(revision, _)| *revision)
    }

    /// Up to so many bytes or up to that revision, at the next node. Nothing, if that does not serve.
    fn read(&mut self, limit_bytes: u64, upto: u64) {
        let address = &self.addresses[self.next_node % self.addresses.len()];
        self.next_node += 1;
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // HTTP/1.0 has no chunks, so what comes is the events and nothing else.
        let head = format!("GET /v1/watch?revision=1 HTTP/1.0\r\nLast-Event-ID: {}\r\n\r\n", self.last());
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        let mut lines = BufReader::new(stream.take(limit_bytes)).lines().map_while(Result::ok);
        if !lines.next().is_some_and(|line| line.starts_with("HTTP/1.0 200")) {
            return;
        }
        let (mut event, mut data) = (String::new(), String::new());
        for line in lines.skip_while(|line| !line.is_empty()).skip(1) {
            if let Some(name) = line.strip_prefix("event: ") {
                event = name.to_string();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = text.to_string();
            } else if line.is_empty() {
                match event.as_str() {
                    "change" => {
                        let change: Value = serde_json::from_str(&data).expect("a whole event is JSON");
                        self.seen.push((change["revision"].as_u64().expect("a revision"), change));
                    }
                    "error" => assert!(data.contains("node_stopping"), "{data}"),
                    _ => {}
                }
                event.clear();
                if self.last() >= upto {
                    return;
                }
            }
        }
    }
}

/// An acknowledged write.
struct Written {
    revision: u64,
    key: String,
    value: String,
}

/// Writes its own keys, by whichever node answers.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Written>>,
}

impl Writer {
    fn start(number: usize, addresses: Vec<String>) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut written = Vec::new();
            for (count, address) in addresses.iter().cycle().enumerate() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (key, value) = (format!("writer{number}/{}", count % 10), count.to_string());
                match exchange(address, &request("PUT", &format!("/v1/kv/{key}"), &value)) {
                    Ok(answer) if answer.status == 200 => {
                        let revision = answer.json()["revision"].as_u64().expect("a revision");
                        written.push(Written { revision, key, value });
                    }
                    _ => thread::sleep(Duration::from_millis(10)),
                }
            }
            written
        });
        Writer { stop, thread }
    }

    fn stop(self) -> Vec<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it goes on whatever fails")
    }
}
