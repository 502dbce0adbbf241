//! One shard: its nodes, asked again and again who leads, and requests that are sent there until one is answered.
//!
//! Each node is asked by itself, so that one that hangs delays nobody. Between two questions there is a pause, which
//! ends at once when a request finds out that something has changed. A request waits for a leader, asks it, and tries
//! again as its [`verdict`] says; it gives up waiting for an answer, too, soon after another node took the lead.
//!
//! [`verdict`]: super::verdict

use super::verdict::{Verdict, judge};
use super::view::View;
use client::hraftd::{Error, Pool, Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

pub struct Shard {
    pub number: u16,
    nodes: Vec<Node>,
    view: watch::Sender<View>,
}

struct Node {
    pool: Pool,
    /// To be asked for its status without a pause.
    look_again: Notify,
}

/// Why a request has no answer, with what is known of the shard in words.
#[derive(Debug)]
pub enum Failure {
    /// It surely did not happen.
    NotDone(String),
    /// It may have happened, or may yet happen.
    Unknown(String),
    /// The node is no hraftd. Nothing happened.
    Stranger(String),
}

impl Shard {
    pub fn new(number: u16, addresses: &[String]) -> Shard {
        let node = |address: &String| Node { pool: Pool::new(address), look_again: Notify::new() };
        Shard { number, nodes: addresses.iter().map(node).collect(), view: watch::Sender::new(View::new(addresses)) }
    }

    pub fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.pool.address()).collect::<Vec<_>>().join(", ")
    }

    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Keeps an eye on the nodes as long as these tasks run.
    pub fn watch(self: Arc<Shard>, tasks: &mut JoinSet<()>) {
        for number in 0..self.nodes.len() {
            tasks.spawn(self.clone().poll(number));
        }
        tasks.spawn(self.tell());
    }

    /// The answer of a leader, good or bad.
    pub async fn send(&self, request: &Request, time_limit: Duration) -> Result<Response, Failure> {
        let deadline = Instant::now() + time_limit;
        let mut may_have_happened = false;
        let mut last = "no leader was found".to_string();
        let mut backoff = FIRST_BACKOFF;
        while let Some(leader) = self.leader_before(deadline).await {
            let again = match judge(self.ask(leader, request, deadline).await) {
                Verdict::Answer(response) => return Ok(response),
                Verdict::Again(again) => again,
                Verdict::Stranger(said) if !may_have_happened => {
                    return Err(Failure::Stranger(self.told(leader, &said)));
                }
                Verdict::Stranger(said) => {
                    last = self.told(leader, &said);
                    break;
                }
            };
            may_have_happened |= again.may_have_happened;
            last = self.told(leader, &again.reason);
            if Instant::now() >= deadline {
                break;
            }
            tracing::debug!("shard {}: {last}", self.number);
            self.look_again();
            // A node may ask for a pause that no clock can count.
            let pause = backoff.max(again.pause).min(deadline.saturating_duration_since(Instant::now()));
            // Whoever has taken over need not be spared.
            let _ = timeout(pause, self.another_leads(leader)).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
        let nodes = self.view.borrow().to_string();
        let text = format!("shard {} gave no answer within {time_limit:?}: {last}. Its nodes: {nodes}", self.number);
        Err(if may_have_happened { Failure::Unknown(text) } else { Failure::NotDone(text) })
    }

    async fn leader_before(&self, deadline: Instant) -> Option<usize> {
        if Instant::now() >= deadline {
            return None;
        }
        let mut view = self.view.subscribe();
        let found = timeout_at(deadline, view.wait_for(|view| view.leader().is_some())).await.ok()?.ok()?;
        found.leader()
    }

    async fn ask(&self, leader: usize, request: &Request, deadline: Instant) -> Result<Response, Error> {
        let pool = &self.nodes[leader].pool;
        let mut answer = std::pin::pin!(pool.send(request, deadline.saturating_duration_since(Instant::now())));
        tokio::select! {
            answer = &mut answer => return answer,
            () = self.another_leads(leader) => {}
        }
        // It may have handed over, and has the answer in hand.
        timeout(HANDOVER_PATIENCE, answer).await.unwrap_or_else(|_| {
            let reason = "meanwhile another node leads".to_string();
            Err(Error::Unknown { address: pool.address().to_string(), reason })
        })
    }

    async fn another_leads(&self, than: usize) {
        let mut view = self.view.subscribe();
        // The sender lives as long as the shard.
        let _ = view.wait_for(|view| view.leader().is_some_and(|leader| leader != than)).await;
    }

    /// Asks one node for its status for good.
    async fn poll(self: Arc<Shard>, number: usize) {
        let node = &self.nodes[number];
        loop {
            let began = Instant::now();
            let answer = node.pool.send(&Request::status(), STATUS_LIMIT).await;
            let status = answer.and_then(Response::successful).and_then(|response| response.view());
            self.update(|view| view.heard(number, status));
            let pause = if self.view.borrow().leader().is_some() { POLL_PAUSE } else { SEARCH_PAUSE };
            let _ = timeout(pause, node.look_again.notified()).await;
            sleep_until(began + MIN_POLL_PAUSE).await;
        }
    }

    fn update(&self, change: impl FnOnce(&mut View)) {
        let mut is_leader_gone = false;
        self.view.send_if_modified(|view| {
            let before = view.clone();
            change(view);
            is_leader_gone = before.leader().is_some() && view.leader().is_none();
            *view != before
        });
        if is_leader_gone {
            self.look_again();
        }
    }

    fn look_again(&self) {
        for node in &self.nodes {
            node.look_again.notify_one();
        }
    }

    /// Logs each change of leader, and a shard that is down, once.
    async fn tell(self: Arc<Shard>) {
        let number = self.number;
        let mut view = self.view.subscribe();
        let mut last = None;
        loop {
            let in_time = timeout(DOWN_AFTER, led(&mut view)).await.ok();
            let was_down = in_time.is_none();
            if was_down {
                tracing::warn!("shard {number} is down, nobody leads: {}", self.view());
            }
            let now = match in_time {
                Some(now) => now,
                None => led(&mut view).await,
            };
            let leader = now.leader();
            if let Some(node) = leader.map(|leader| &now.nodes()[leader])
                && (was_down || leader != last)
            {
                let back = if was_down { " is back" } else { "" };
                tracing::info!("shard {number}{back}: {} at {} leads", node.id, node.address);
            }
            last = leader;
            let _ = view.wait_for(|view| view.leader() != last).await;
        }
    }

    fn told(&self, node: usize, what: &str) -> String {
        format!("{} {what}", self.nodes[node].pool.address())
    }
}

/// The view once somebody leads.
async fn led(view: &mut watch::Receiver<View>) -> View {
    view.wait_for(|view| view.leader().is_some()).await.expect("the sender lives as long as the shard").clone()
}

const STATUS_LIMIT: Duration = Duration::from_secs(1);
const POLL_PAUSE: Duration = Duration::from_millis(500);
/// While nobody leads.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);
/// However many requests want to know.
const MIN_POLL_PAUSE: Duration = Duration::from_millis(25);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
const HANDOVER_PATIENCE: Duration = Duration::from_millis(500);
/// An election is no reason to worry.
const DOWN_AFTER: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use client::Level;
    use client::hraftd::{Member, Status};
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Adding it to the clock panicked, and took the program with it.
    #[tokio::test]
    async fn a_node_that_wants_an_endless_pause_costs_the_request_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            let head = format!("HTTP/1.1 429 Too Many Requests\r\nRetry-After: {}\r\n", u64::MAX);
            write!(stream, "{head}Content-Length: 0\r\n\r\n").unwrap();
        });
        let shard = Shard::new(1, &[address]);
        let leader = Member { id: "a".into(), address: String::new() };
        let status = Status { me: leader.clone(), leader, followers: Vec::new() };
        shard.update(|view| view.heard(0, Ok(status)));
        let request = Request::get("key", Level::Default).unwrap();
        let failure = shard.send(&request, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(&failure, Failure::NotDone(why) if why.contains("429")), "{failure:?}");
        node.await.unwrap();
    }
}
