//! Clients that write without a pause and remember what they were told.

use crate::stage::{Program, exchange, request};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    told: Mutex<Told>,
}

/// What the clients were told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Every write that was answered with 200.
    pub acknowledged: BTreeMap<String, String>,
    /// What came instead of a 200.
    pub failures: Vec<String>,
}

impl Load {
    /// Some clients, each with keys of its own, that go around these nodes.
    pub fn start(nodes: &[Program]) -> Load {
        let shared = Arc::new(Shared::default());
        let addresses: Vec<String> = nodes.iter().map(|node| node.http.clone()).collect();
        let clients = (0..4).map(|client| {
            let (shared, addresses) = (shared.clone(), addresses.clone());
            thread::spawn(move || shared.write(client, &addresses))
        });
        Load { clients: clients.collect(), shared }
    }

    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> Told {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        self.shared.told.lock().unwrap().clone()
    }
}

impl Shared {
    fn write(&self, client: usize, addresses: &[String]) {
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            let (key, value) = (format!("client{client}-{number}"), format!("value{number}"));
            let body = serde_json::json!({ &key: &value }).to_string();
            let address = &addresses[(client + number) % addresses.len()];
            let answer = exchange(address, &request("POST", "/key", &body));
            let mut told = self.told.lock().unwrap();
            match answer {
                Ok(answer) if answer.status == 200 => {
                    told.acknowledged.insert(key, value);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) => told.failures.push(format!("{address}: {answer:?}")),
                Err(error) => told.failures.push(format!("{address}: {error}")),
            }
        }
    }
}

impl Told {
    /// Every acknowledged write is there, as these nodes read it.
    #[track_caller]
    pub fn is_kept_by(&self, nodes: &[Program]) {
        for node in nodes {
            for (key, value) in &self.acknowledged {
                assert_eq!(&node.value(key), value, "{key} at {}", node.http);
            }
        }
    }
}
