//! A lease through the deaths of leaders: alive for as long as it is kept alive, never over early, and then over.

use crate::stage::{Program, Stage, exchange, node_line, request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(5);

#[test]
fn a_lease_survives_ten_dead_leaders_and_then_ends_in_its_time() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let granted = nodes[0].call("POST", "/v1/leases", r#"{"ttl":5}"#);
    assert_eq!(granted.status, 201, "{granted:?}");
    let lease = granted.json()["id"].as_u64().expect("a lease has a number");
    let put = nodes[0].call("PUT", &format!("/v1/kv/session?lease={lease}"), "alive");
    assert_eq!(put.status, 200, "{put:?}");

    let keeper = Keeper::start(lease, &nodes);
    for _ in 0..10 {
        let leader = stage.leader(&nodes);
        let line = node_line(leader);
        nodes.remove(leader).kill();
        stage.until("the others have a leader, and the key", || {
            let answer = nodes[0].try_get("/v1/kv/session").ok()?;
            assert_ne!(answer.status, 404, "the lease was kept alive, but its key is gone");
            (answer.status == 200).then_some(())
        });
        nodes.insert(leader, stage.run(&line));
    }
    let last = keeper.stop();

    let gone = stage.until("the lease is over", || {
        let asked = Instant::now();
        let answer = nodes[0].try_get("/v1/kv/session").ok()?;
        (answer.status == 404).then_some(asked.max(Instant::now()))
    });
    assert!(gone - last.asked >= TTL, "over {:?} after the last keep-alive was asked for", gone - last.asked);
    println!("over {:?} after the last keep-alive was answered", gone - last.answered);
    assert_eq!(nodes[1].get(&format!("/v1/leases/{lease}")).status, 404);
    assert_eq!(nodes[1].call("POST", &format!("/v1/leases/{lease}/keepalive"), "").status, 404);
}

/// Keeps a lease alive twice a second, by whichever node answers.
struct Keeper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Kept>,
}

/// The last keep-alive that was a success.
#[derive(Clone, Copy)]
struct Kept {
    asked: Instant,
    answered: Instant,
}

impl Keeper {
    fn start(lease: u64, nodes: &[Program]) -> Keeper {
        let stop = Arc::new(AtomicBool::new(false));
        let addresses: Vec<String> = nodes.iter().map(|node| node.http.clone()).collect();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let path = format!("/v1/leases/{lease}/keepalive");
            let mut last = None;
            for address in addresses.iter().cycle() {
                if stopped.load(Ordering::Relaxed) && last.is_some() {
                    break;
                }
                let asked = Instant::now();
                match exchange(address, &request("POST", &path, "")) {
                    Ok(answer) if answer.status == 200 => {
                        last = Some(Kept { asked, answered: Instant::now() });
                        thread::sleep(Duration::from_millis(500));
                    }
                    // Asked for and not answered, it may count all the same.
                    Ok(answer) => assert_ne!(answer.status, 404, "the lease ended while it was kept alive"),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
            last.expect("the loop ends after a success")
        });
        Keeper { stop, thread }
    }

    fn stop(self) -> Kept {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the lease was there all the time")
    }
}
