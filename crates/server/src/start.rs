//! Bringing a node up, and down again.
//!
//! What happens at a start depends on what the data folder says. One that belongs to no cluster yet begins as
//! [`Begin`] has it: it founds a cluster of one, or draws an incarnation, opens its ports and is let in by a cluster
//! ([`join`]). A folder that belongs to a cluster runs at once, and says where it is now if it was told whom to say it
//! to.
//!
//! Not handled: leaving the cluster when the program ends; a member that is away stays one.

use crate::address::Address;
use crate::background::Background;
use crate::config::{Begin, Compaction, Config, Name, Words};
use crate::disk::LogThread;
use crate::driver::{Driver, Ended};
use crate::folder::{Folder, Opened};
use crate::handle::{Handle, Identity, Phase, ticks};
use crate::http;
use crate::join::{self, Newcomer};
use crate::listen::{Carries, Reception};
use crate::notices;
use crate::peer::Peers;
use crate::upkeep::Upkeep;
use crate::worker;
use base::{ClusterId, FIRST_GROUP, Incarnation, NodeId};
use node::membership::Member;
use node::{Event, Node, Settings};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use storage::StorageError;
use storage::identity::{MAX_NAME_BYTES, is_name};
use tokio::net::TcpListener;
use tokio::runtime::{self, Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Why a node did not start: one line for the person who started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub(crate) String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl<E: std::error::Error> From<Context<E>> for StartError {
    fn from(Context { what, error }: Context<E>) -> StartError {
        StartError(format!("{what}: {error}"))
    }
}

/// Why a node ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is no member any more. It goes on saying so to clients until the server is stopped.
    Removed(String),
    /// It can't go on.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Removed(reason) | End::Failed(reason) => f.write_str(reason),
        }
    }
}

/// A runtime for a server, with few workers: the node has a thread of its own, connections need little, and every
/// worker more is one more to be woken and put to sleep again. On two cores one does half as much again as two.
pub fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (cores / 2).clamp(1, MAX_WORKERS);
    Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

/// A node that serves. Dropping it ends it as a crash would.
pub struct Server {
    handle: Handle,
    http_address: SocketAddr,
    raft_address: SocketAddr,
    http: Arc<http::Front>,
    peers: Arc<Peers>,
    closing: watch::Sender<bool>,
    ended: watch::Receiver<Option<End>>,
    threads: Arc<Threads>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Opens the folder and the ports and starts the node. A node that has to join first is [`Phase::Joining`] when
    /// this returns; it ends with [`End::Failed`] if it is refused.
    pub async fn start(config: Config) -> Result<Server, StartError> {
        let listens = |text: &str| Address::parse(text).map_err(StartError);
        let (http_given, raft_given) = (listens(&config.http_listen)?, listens(&config.raft_listen)?);
        let to_join = if let Begin::Join(join) = &config.begin { Some(&join.member) } else { None };
        for address in to_join.into_iter().chain(&config.advertise) {
            Address::parse(address).map_err(StartError)?;
        }
        let one_port = config.http_listen == config.raft_listen;

        let opened = config.clone();
        let (folder, named) = blocking(move || open_folder(&opened)).await??;
        let folder = Arc::new(folder);
        let stored = folder.identity();

        let http_listener = bind(&http_given, &config.http_listen).await?;
        let raft_listener = if one_port { None } else { Some(bind(&raft_given, &config.raft_listen).await?) };
        let http_address = local(&http_listener)?;
        let raft_address = raft_listener.as_ref().map_or(Ok(http_address), local)?;
        let http_given = http_given.with_port(http_address.port());

        let unclear = config.advertise.is_none() && raft_given.is_on_all_interfaces();
        let here = raft_given.with_port(raft_address.port()).to_string();
        let address = match (&config.advertise, &stored) {
            (Some(given), _) => given.clone(),
            // It listens everywhere, so the host that it was let in with is as good as before.
            (None, Some(stored)) if unclear => with_host_of(&stored.address, raft_address.port()),
            (None, _) => here,
        };
        let belongs = stored.as_ref().and_then(|stored| stored.cluster);
        let handle = Handle::new(Identity {
            name: named.clone().unwrap_or_else(|| address.clone()),
            url: http_given.url(&address),
            address,
            incarnation: match &stored {
                Some(stored) => stored.incarnation,
                None => Incarnation(random()?),
            },
            cluster: belongs,
        });

        let (admit, admissions) = mpsc::channel(1);
        let peers = Peers::new(handle.clone(), admit);
        let request_limit = config.http.request_limit;
        let http = Arc::new(http::Front::new(http::Member::new(handle.clone(), config.http)));
        let closing = watch::Sender::new(false);
        let (tell_end, ended) = watch::channel(None);
        let threads = Arc::new(Threads::default());
        let rising = Arc::new(Rising {
            folder,
            handle: handle.clone(),
            peers: peers.clone(),
            threads: threads.clone(),
            ended: tell_end,
            runtime: runtime::Handle::current(),
            compaction: config.compaction,
        });
        let ports = Ports {
            reception: Arc::new(Reception::new(peers.clone(), http.clone())),
            http: http_listener,
            raft: raft_listener,
            closing: closing.subscribe(),
        };
        let mut tasks = JoinSet::new();
        let newcomer = Newcomer { rising: rising.clone(), limit: request_limit, http: http_given.clone() };
        match (belongs, config.begin) {
            (None, Begin::Found) if stored.is_some() => {
                return Err(StartError(format!(
                    "the data folder {} belongs to a node that has not joined its cluster yet; start it with the HTTP \
                     address of a member to join, or empty the folder",
                    config.folder.display()
                )));
            }
            (None, Begin::Contradictory(why)) => return Err(StartError(why)),
            (None, Begin::Found) => {
                blocking(move || rising.found_cluster().and_then(|()| rising.run_node())).await??;
                ports.open(&mut tasks);
                tracing::info!("serving at {}", handle.identity().url);
            }
            (None, Begin::Join(join)) if unclear => {
                tasks.spawn(newcomer.join_after_finding_the_address(join, named, ports, admissions));
            }
            (None, Begin::Join(join)) => {
                ports.open(&mut tasks);
                tasks.spawn(newcomer.join(join, admissions));
            }
            (None, Begin::Wait) => {
                handle.shared().phase.send_replace(Phase::Waiting);
                ports.open(&mut tasks);
                tasks.spawn(newcomer.wait(admissions));
            }
            (Some(_), begin) => {
                let folder = rising.folder.clone();
                blocking(move || rising.run_node()).await??;
                ports.open(&mut tasks);
                tracing::info!("serving at {}", handle.identity().url);
                if let Begin::Join(join) = begin {
                    if join.words == Words::Raftd {
                        // raftd would not start like this; hraftd's users have the flag in their scripts.
                        let member = &join.member;
                        tracing::warn!("this node is a member of its cluster already, so it need not join {member}");
                    }
                    let port = unclear.then_some(raft_address.port());
                    tasks.spawn(join::announce(handle.clone(), folder, join, port, http_given, request_limit));
                }
            }
        }
        Ok(Server { handle, http_address, raft_address, http, peers, closing, ended, threads, tasks })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where HTTP is served, with the port that the system chose if 0 was asked for.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where peers are served; the same as [`Server::http_address`] if one port carries both.
    pub fn raft_address(&self) -> SocketAddr {
        self.raft_address
    }

    /// Returns when the node ended by itself.
    pub async fn wait(&self) -> End {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        end.unwrap_or_else(|| End::Failed("the node stopped".into()))
    }

    /// Hands leadership over, finishes what is in flight, and closes everything; all of it within a few seconds.
    pub async fn stop(mut self) {
        self.handle.shared().phase.send_if_modified(|phase| {
            let serves = !matches!(phase, Phase::Removed(_));
            if serves {
                *phase = Phase::Stopping;
            }
            serves
        });
        // A watch would never end by itself.
        self.handle.hub().end(crate::watch::End::Stopping);
        self.http.close();
        self.closing.send_replace(true);
        self.handle.shared().inbox.event(Event::Drain);
        if !self.threads.ended(DRAIN_LIMIT).await {
            tracing::warn!("not everything was finished within {} s; stopping anyway", DRAIN_LIMIT.as_secs());
            self.handle.shared().inbox.halt();
            self.threads.ended(DRAIN_LIMIT).await;
        }
        self.peers.close();
        let tasks = &mut self.tasks;
        let _ = timeout(CLOSE_LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
        self.tasks.shutdown().await;
    }

    /// Ends the node as a crash would: without handing over, finishing or sealing anything.
    pub async fn halt(mut self) {
        self.end_at_once();
        self.tasks.shutdown().await;
        self.threads.ended(DRAIN_LIMIT).await;
    }

    fn end_at_once(&mut self) {
        self.peers.close();
        self.tasks.abort_all();
        self.handle.shared().inbox.halt();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_at_once();
    }
}

/// The threads of the node, as they come.
#[derive(Default)]
struct Threads {
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    fn add(&self, threads: impl IntoIterator<Item = JoinHandle<()>>) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).extend(threads);
    }

    /// Waits for all of them; false if some still run after `limit`.
    async fn ended(&self, limit: Duration) -> bool {
        let poll = async {
            loop {
                self.running.lock().unwrap_or_else(PoisonError::into_inner).retain(|thread| !thread.is_finished());
                if self.running.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                    return;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(limit, poll).await.is_ok()
    }
}

/// What it takes to run the node, once it is known who it is.
pub(crate) struct Rising {
    pub folder: Arc<Folder>,
    pub handle: Handle,
    peers: Arc<Peers>,
    threads: Arc<Threads>,
    pub ended: watch::Sender<Option<End>>,
    runtime: runtime::Handle,
    compaction: Compaction,
}

impl Rising {
    /// Makes the folder that of a new cluster's only member.
    fn found_cluster(&self) -> Result<(), StartError> {
        let cluster = ClusterId(u128::from(random()?) << 64 | u128::from(random()?));
        let me = self.handle.identity();
        let founder = Member { name: me.name.clone(), address: me.address.clone(), incarnation: me.incarnation };
        let store = node::bootstrap(founder);
        // The identity comes last: with it, the folder is that of a member.
        let written = self.folder.write_checkpoint(FIRST_GROUP, store.applied(), &store.frozen(), || ());
        written.map_err(|error| Context { what: "can't found a cluster", error })?;
        self.become_member(cluster, 1)
    }

    /// Remembers durably who this node is.
    pub fn become_member(&self, cluster: ClusterId, id: NodeId) -> Result<(), StartError> {
        let me = Identity { cluster: Some((cluster, id)), ..(*self.handle.identity()).clone() };
        self.folder.introduce(&me).map_err(|error| Context { what: "can't store this node's identity", error })?;
        self.handle.shared().identity.store(Arc::new(me));
        Ok(())
    }

    /// Opens what is on disk and starts the threads.
    pub fn run_node(&self) -> Result<(), StartError> {
        let me = self.handle.identity();
        let Some((cluster, id)) = me.cluster else {
            return Err(StartError("a node without a cluster can't run".into()));
        };
        let in_words = |error: StorageError| StartError(error.to_string());
        let boot = self.folder.next_boot(&me).map_err(in_words)?;
        let Opened { store, checkpoints, log, group } = self.folder.open_state().map_err(in_words)?;
        let settings = Settings {
            cluster,
            node: id,
            name: me.name.clone(),
            boot,
            seed: random()?,
            verbosity: notices::verbosity(),
            compact_after_ticks: if self.compaction.after.is_zero() { 0 } else { ticks(self.compaction.after) },
            compact_above_bytes: self.compaction.above_bytes,
            ..Settings::default()
        };
        let node = Node::new(settings, store, checkpoints, group).map_err(StartError)?;

        let thread = |error| Context { what: "can't start a thread", error };
        let shared = self.handle.shared();
        shared.inbox.open();
        let (background, background_thread) =
            Background::start(self.folder.clone(), self.handle.clone()).map_err(thread)?;
        let (upkeep, upkeep_thread) = Upkeep::start(self.handle.clone()).map_err(thread)?;
        let (log, log_threads) = LogThread::start(log, self.handle.clone(), self.folder.clone()).map_err(thread)?;
        let driver = Driver {
            node,
            handle: self.handle.clone(),
            peers: self.peers.clone(),
            log,
            background,
            upkeep,
            runtime: self.runtime.clone(),
        };
        shared.phase.send_replace(Phase::Running);
        let ended = self.ended.clone();
        let node_thread = worker::start("node", move || {
            if let Ended::Removed(reason) = driver.run() {
                ended.send_replace(Some(End::Removed(reason)));
            }
        });
        self.threads.add([background_thread, upkeep_thread, node_thread.map_err(thread)?]);
        self.threads.add(log_threads);
        Ok(())
    }
}

/// The ports that are bound but not served yet.
pub(crate) struct Ports {
    reception: Arc<Reception>,
    http: TcpListener,
    /// `None`: the other one carries both.
    raft: Option<TcpListener>,
    closing: watch::Receiver<bool>,
}

impl Ports {
    pub fn open(self, tasks: &mut JoinSet<()>) {
        let Ports { reception, http, raft, closing } = self;
        let carries = if raft.is_some() { Carries::Http } else { Carries::Both };
        tasks.spawn(reception.clone().receive(http, carries, closing.clone()));
        if let Some(raft) = raft {
            tasks.spawn(reception.receive(raft, Carries::Peers, closing));
        }
    }
}

struct Context<E> {
    what: &'static str,
    error: E,
}

/// Takes the folder, and says what the node is called, unless that follows from its address.
fn open_folder(config: &Config) -> Result<(Folder, Option<String>), StartError> {
    let in_words = |error: StorageError| StartError(error.to_string());
    let folder = Folder::open(&config.folder, config.in_memory, config.engine).map_err(in_words)?;
    let stored = folder.identity();
    if let Some(reason) = stored.as_ref().and_then(|stored| stored.removed.as_ref()) {
        return Err(StartError(format!("the data folder {} is of no use: {reason}", config.folder.display())));
    }
    let stored = stored.map(|stored| stored.name);
    let name = match (&config.name, stored) {
        (Name::Given(given), Some(stored)) if stored != *given => {
            return Err(StartError(format!(
                "the data folder {} is that of node {stored}, not of {given}; start it as {stored}, or choose another \
                 folder",
                config.folder.display()
            )));
        }
        (Name::Given(given), _) => {
            check_name(given)?;
            Some(given.clone())
        }
        (Name::PeerAddress, stored) => stored,
        (Name::Drawn, _) => Some(folder.keep_name(&draw_name()?).map_err(in_words)?),
    };
    Ok((folder, name))
}

pub(crate) fn check_name(name: &str) -> Result<(), StartError> {
    if is_name(name) {
        return Ok(());
    }
    Err(StartError(format!("a node's id has 1 to {MAX_NAME_BYTES} bytes and no control characters: choose another")))
}

/// Seven hex digits.
fn draw_name() -> Result<String, StartError> {
    Ok(format!("{:07x}", random()? >> 36))
}

async fn bind(address: &Address, given: &str) -> Result<TcpListener, StartError> {
    let bound = address.bind().await;
    bound.map_err(|error| StartError(format!("can't listen at {given}: {error}; choose another address or port")))
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    Ok(listener.local_addr().map_err(|error| Context { what: "can't tell which port this node got", error })?)
}

/// Of the system's randomness, for what has to be unique in the world.
pub(crate) fn random() -> Result<u64, StartError> {
    Ok(getrandom::u64().map_err(|error| Context { what: "no randomness from the system", error })?)
}

fn with_host_of(address: &str, port: u16) -> String {
    let host = address.rsplit_once(':').map_or("localhost", |(host, _)| host);
    format!("{host}:{port}")
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Context { what: "starting was interrupted", error })?)
}

const MAX_WORKERS: usize = 8;
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
