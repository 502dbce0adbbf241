//! Many tasks share one client, and so a pipeline to each node, while leaders die: every write takes effect once.

use crate::stage::{Stage, node_line};
use client::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const TASKS: usize = 32;
const KILLS: u64 = 5;
const WRITES_BETWEEN_KILLS: u64 = 2000;

#[test]
fn writes_that_share_a_connection_take_effect_once_though_leaders_die() {
    let stage = Stage::new();
    let mut nodes = stage.cluster(3);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = Client::new(nodes.iter().map(|node| &node.http)).unwrap();
    let (is_over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..TASKS)
        .map(|task| {
            let (client, is_over, acknowledged) = (client.clone(), is_over.clone(), acknowledged.clone());
            runtime.spawn(async move {
                let mut puts = 0;
                while !is_over.load(Ordering::Relaxed) {
                    puts += 1;
                    // What is lost with a leader is repeated by the client.
                    client
                        .put(format!("task/{task}"), puts.to_string())
                        .await
                        .expect("a put that is repeated succeeds");
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                puts
            })
        })
        .collect();
    for kill in 1..=KILLS {
        stage.until("writes go on", || {
            (acknowledged.load(Ordering::Relaxed) > kill * WRITES_BETWEEN_KILLS).then_some(())
        });
        let leader = stage.leader(&nodes);
        nodes.remove(leader).kill();
        nodes.insert(leader, stage.run(&node_line(leader)));
    }
    is_over.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for (task, writer) in writers.into_iter().enumerate() {
            let puts: u64 = writer.await.unwrap();
            let kv = client.get(format!("task/{task}")).await.unwrap().unwrap();
            assert_eq!((kv.version, kv.value), (puts, puts.to_string().into()), "task {task}: one for each");
        }
    });
}
