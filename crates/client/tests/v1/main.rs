//! The client against a small server that speaks /v1, and misbehaves on demand.

mod basics;
mod leases;
mod pipes;
mod retries;
mod stand_in;
mod watches;

use stand_in::StandIn;
use std::time::Duration;

/// How long anything may take on a busy machine before it counts as never.
const PATIENCE: Duration = Duration::from_secs(30);

fn client(nodes: &[&StandIn]) -> client::Client {
    client::Client::new(nodes.iter().map(|node| node.url())).unwrap()
}

/// An address at which nothing listens.
async fn dead_address() -> String {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// What must happen soon.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it did not happen in time")
}
