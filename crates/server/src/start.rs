//! Bringing a node up, and down again.
//!
//! What happens at a start depends on what the data folder says. An empty one without an address to join founds a
//! cluster of one. With an address to join it draws an incarnation, opens its ports and asks that member to let it in;
//! the node itself runs from the moment a member of the cluster dials it and tells it its id. A folder that belongs to
//! a cluster runs at once, and says where it is now if it was told whom to say it to.
//!
//! Not handled: leaving the cluster when the program ends; a member that is away stays one.

use crate::address::{self, Address};
use crate::background::Background;
use crate::disk::LogThread;
use crate::driver::{Driver, Ended};
use crate::folder::{Folder, Opened};
use crate::handle::{Handle, Identity, Phase};
use crate::http;
use crate::join::{self, Joined};
use crate::listen::{Carries, Reception};
use crate::peer::{Admission, Peers};
use crate::worker;
use base::{ClusterId, FIRST_GROUP, Incarnation, NodeId};
use node::membership::Member;
use node::{Event, Node, Settings};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use storage::StorageError;
use tokio::net::TcpListener;
use tokio::runtime::{self, Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

#[derive(Clone, Debug)]
pub struct Config {
    /// Holds everything that outlives the process. Made if it does not exist.
    pub folder: PathBuf,
    /// What to call the node; `None`: its peer address, or what its folder says.
    pub name: Option<String>,
    pub http_listen: String,
    /// Equal to `http_listen`: one port for both.
    pub raft_listen: String,
    /// Where the peers reach this node, if not where it listens.
    pub advertise: Option<String>,
    /// The HTTP address of a member of the cluster to join. `None`: an empty folder founds a cluster.
    pub join: Option<String>,
    /// Nothing touches the disk, and nothing outlives the process.
    pub in_memory: bool,
    /// How clients are served.
    pub http: http::Settings,
}

impl Config {
    pub fn new(folder: impl Into<PathBuf>) -> Config {
        Config {
            folder: folder.into(),
            name: None,
            http_listen: "localhost:11000".into(),
            raft_listen: "localhost:12000".into(),
            advertise: None,
            join: None,
            in_memory: false,
            http: http::Settings::default(),
        }
    }
}

/// Why a node did not start: one line for the person who started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(String);

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
        for address in config.join.iter().chain(&config.advertise) {
            Address::parse(address).map_err(StartError)?;
        }
        let one_port = config.http_listen == config.raft_listen;

        let (path, in_memory) = (config.folder.clone(), config.in_memory);
        let folder = blocking(move || Folder::open(&path, in_memory)).await?;
        let folder = Arc::new(folder.map_err(|error| StartError(error.to_string()))?);
        let stored = folder.identity();
        check_name(&config, stored.as_ref().map(|stored| stored.name.as_str()))?;
        if let Some(reason) = stored.as_ref().and_then(|stored| stored.removed.as_ref()) {
            return Err(StartError(format!("the data folder {} is of no use: {reason}", config.folder.display())));
        }

        let http_listener = bind(&http_given, &config.http_listen).await?;
        let raft_listener = if one_port { None } else { Some(bind(&raft_given, &config.raft_listen).await?) };
        let http_address = local(&http_listener)?;
        let raft_address = raft_listener.as_ref().map_or(Ok(http_address), local)?;
        let url = format!("http://{}", http_given.with_port(http_address.port()));

        let unclear = config.advertise.is_none() && raft_given.is_on_all_interfaces();
        let here = raft_given.with_port(raft_address.port()).to_string();
        let address = match (&config.advertise, &stored) {
            (Some(given), _) => given.clone(),
            // It listens everywhere, so the host that it was let in with is as good as before.
            (None, Some(stored)) if unclear => with_host_of(&stored.address, raft_address.port()),
            (None, _) => here,
        };
        let named = stored.as_ref().map(|stored| stored.name.clone()).or(config.name.clone());
        let belongs = stored.as_ref().and_then(|stored| stored.cluster);
        let handle = Handle::new(Identity {
            name: named.clone().unwrap_or_else(|| address.clone()),
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
        });
        let ports = Ports {
            reception: Arc::new(Reception::new(peers.clone(), http.clone())),
            http: http_listener,
            raft: raft_listener,
            closing: closing.subscribe(),
        };
        let mut tasks = JoinSet::new();
        match (belongs, config.join) {
            (None, None) if stored.is_some() => {
                return Err(StartError(format!(
                    "the data folder {} belongs to a node that has not joined its cluster yet; start it with the HTTP \
                     address of a member to join, or empty the folder",
                    config.folder.display()
                )));
            }
            (None, None) => {
                blocking(move || rising.found_cluster().and_then(|()| rising.run_node())).await??;
                ports.open(&mut tasks);
                tracing::info!("serving at {url}");
            }
            (None, Some(member)) => {
                let joining = Joining { rising, member, limit: request_limit, url };
                if unclear {
                    tasks.spawn(joining.run_after_finding_the_address(named, ports, admissions));
                } else {
                    ports.open(&mut tasks);
                    tasks.spawn(joining.run(admissions));
                }
            }
            (Some(_), member) => {
                let folder = rising.folder.clone();
                blocking(move || rising.run_node()).await??;
                ports.open(&mut tasks);
                tracing::info!("serving at {url}");
                if let Some(member) = member {
                    let port = unclear.then_some(raft_address.port());
                    tasks.spawn(announce(handle.clone(), folder, member, port, request_limit));
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
struct Rising {
    folder: Arc<Folder>,
    handle: Handle,
    peers: Arc<Peers>,
    threads: Arc<Threads>,
    ended: watch::Sender<Option<End>>,
    runtime: runtime::Handle,
}

impl Rising {
    /// Makes the folder that of a new cluster's only member.
    fn found_cluster(&self) -> Result<(), StartError> {
        let cluster = ClusterId(u128::from(random()?) << 64 | u128::from(random()?));
        let me = self.handle.identity();
        let founder = Member { name: me.name.clone(), address: me.address.clone(), incarnation: me.incarnation };
        let store = node::bootstrap(founder);
        // The identity comes last: with it, the folder is that of a member.
        let written = self.folder.write_checkpoint(FIRST_GROUP, store.applied(), &store.frozen());
        written.map_err(|error| Context { what: "can't found a cluster", error })?;
        self.become_member(cluster, 1)
    }

    /// Remembers durably who this node is.
    fn become_member(&self, cluster: ClusterId, id: NodeId) -> Result<(), StartError> {
        let me = Identity { cluster: Some((cluster, id)), ..(*self.handle.identity()).clone() };
        self.folder.introduce(&me).map_err(|error| Context { what: "can't store this node's identity", error })?;
        self.handle.shared().identity.store(Arc::new(me));
        Ok(())
    }

    /// Opens what is on disk and starts the threads.
    fn run_node(&self) -> Result<(), StartError> {
        let me = self.handle.identity();
        let Some((cluster, id)) = me.cluster else {
            return Err(StartError("a node without a cluster can't run".into()));
        };
        let in_words = |error: StorageError| StartError(error.to_string());
        let boot = self.folder.next_boot(&me).map_err(in_words)?;
        let Opened { store, checkpoints, log, group } = self.folder.open_state().map_err(in_words)?;
        let settings =
            Settings { cluster, node: id, name: me.name.clone(), boot, seed: random()?, ..Settings::default() };
        let node = Node::new(settings, store, checkpoints, group).map_err(StartError)?;

        let thread = |error| Context { what: "can't start a thread", error };
        let shared = self.handle.shared();
        shared.inbox.open();
        let (background, background_thread) =
            Background::start(self.folder.clone(), self.handle.clone()).map_err(thread)?;
        let (log, log_thread) = LogThread::start(log, self.handle.clone(), background.clone()).map_err(thread)?;
        let driver = Driver {
            node,
            handle: self.handle.clone(),
            peers: self.peers.clone(),
            log,
            background,
            runtime: self.runtime.clone(),
        };
        shared.phase.send_replace(Phase::Running);
        let ended = self.ended.clone();
        let node_thread = worker::start("node", move || {
            if let Ended::Removed(reason) = driver.run() {
                ended.send_replace(Some(End::Removed(reason)));
            }
        });
        self.threads.add([background_thread, log_thread, node_thread.map_err(thread)?]);
        Ok(())
    }
}

/// The ports that are bound but not served yet.
struct Ports {
    reception: Arc<Reception>,
    http: TcpListener,
    /// `None`: the other one carries both.
    raft: Option<TcpListener>,
    closing: watch::Receiver<bool>,
}

impl Ports {
    fn open(self, tasks: &mut JoinSet<()>) {
        let Ports { reception, http, raft, closing } = self;
        let carries = if raft.is_some() { Carries::Http } else { Carries::Both };
        tasks.spawn(reception.clone().receive(http, carries, closing.clone()));
        if let Some(raft) = raft {
            tasks.spawn(reception.receive(raft, Carries::Peers, closing));
        }
    }
}

/// A node that has to be let in first.
struct Joining {
    rising: Arc<Rising>,
    /// Whom to ask.
    member: String,
    limit: Duration,
    url: String,
}

impl Joining {
    /// A node that listens everywhere is where its connection to the member begins.
    async fn run_after_finding_the_address(
        self,
        name: Option<String>,
        ports: Ports,
        admissions: mpsc::Receiver<Admission>,
    ) {
        let handle = self.rising.handle.clone();
        let mut me = (*handle.identity()).clone();
        let mut patience = Patience::default();
        let host = loop {
            match join::local_host_towards(&self.member).await {
                Ok(host) => break host,
                Err(error) => {
                    patience.wait(format!("can't reach {} to join its cluster: {error}", self.member)).await;
                }
            }
        };
        me.address = format!("{host}:{}", port_of(&me.address));
        me.name = name.unwrap_or_else(|| me.address.clone());
        handle.shared().identity.store(Arc::new(me));
        let mut served = JoinSet::new();
        ports.open(&mut served);
        self.run(admissions).await;
        while served.join_next().await.is_some() {}
    }

    /// Asks to be let in and waits for the one who does it.
    async fn run(self, admissions: mpsc::Receiver<Admission>) {
        let handle = self.rising.handle.clone();
        let over = handle.wait_for_phase(|phase| !matches!(phase, Phase::Joining | Phase::Running));
        let failed = tokio::select! {
            outcome = self.ask_and_be_admitted(admissions) => outcome.err(),
            _ = over => None,
        };
        if let Some(why) = failed {
            self.rising.ended.send_replace(Some(End::Failed(why)));
        }
    }

    async fn ask_and_be_admitted(&self, admissions: mpsc::Receiver<Admission>) -> Result<(), String> {
        // Its incarnation is what a cluster lets in: it has to be the same after a crash.
        let (folder, me) = (self.rising.folder.clone(), self.rising.handle.identity());
        let stored = blocking(move || folder.introduce(&me)).await.map_err(|error| error.to_string())?;
        stored.map_err(|error| format!("can't store this node's identity: {error}"))?;
        let (mut asking, mut admitting) = (pin!(self.ask_until_answered()), pin!(self.be_admitted(admissions)));
        tokio::select! {
            asked = asking.as_mut() => {
                asked?;
                admitting.await?;
            }
            admitted = admitting.as_mut() => {
                admitted?;
                asking.await?;
            }
        }
        tracing::info!("serving at {}", self.url);
        Ok(())
    }

    async fn ask_until_answered(&self) -> Result<(), String> {
        let handle = &self.rising.handle;
        let mut patience = Patience::default();
        loop {
            let me = handle.identity();
            match join::ask(&self.member, &me.name, &me.address, self.limit).await {
                Joined::Yes => return Ok(()),
                Joined::Refused(why) if handle.phase() == Phase::Joining => return Err(why),
                Joined::Refused(why) | Joined::NotYet(why) => patience.wait(why).await,
            }
        }
    }

    async fn be_admitted(&self, mut admissions: mpsc::Receiver<Admission>) -> Result<(), String> {
        let Some(Admission { cluster, id, done }) = admissions.recv().await else {
            return Err("nobody can let this node in any more".into());
        };
        let rising = self.rising.clone();
        let runs = blocking(move || rising.become_member(cluster, id).and_then(|()| rising.run_node()));
        let runs = runs.await.and_then(|runs| runs).map_err(|error| error.to_string());
        // The caller may have gone; it, or another one, calls again.
        let _ = done.send(runs.clone());
        // Callers that waited meanwhile are judged by what this node has become.
        drop(admissions);
        runs
    }
}

/// Tells the cluster where a member is now, if that is somewhere else than before.
async fn announce(
    handle: Handle,
    folder: Arc<Folder>,
    member: String,
    everywhere_at_port: Option<u16>,
    limit: Duration,
) {
    let Some(known) = address_in_configuration(&handle).await else { return };
    let mut address = handle.identity().address.clone();
    if let Some(port) = everywhere_at_port {
        match join::local_host_towards(&member).await {
            Ok(host) => address = format!("{host}:{port}"),
            Err(error) => return tracing::warn!("can't reach {member} to tell it this node's address: {error}"),
        }
    }
    if address::as_known(address.clone(), &handle.status().configuration).await == known {
        return;
    }
    match join::ask(&member, &handle.identity().name, &address, limit).await {
        Joined::Yes => {
            let me = Arc::new(Identity { address, ..(*handle.identity()).clone() });
            handle.shared().identity.store(me.clone());
            if let Ok(Err(error)) = blocking(move || folder.introduce(&me)).await {
                tracing::warn!("can't store this node's new address: {error}");
            }
        }
        Joined::Refused(why) | Joined::NotYet(why) => {
            tracing::warn!("the cluster does not know yet that this node is at {address} now, not at {known}: {why}");
        }
    }
}

/// Where the cluster thinks this node is. `None` if it stops before it knows.
async fn address_in_configuration(handle: &Handle) -> Option<String> {
    loop {
        let status = handle.status();
        if let Some(member) = status.configuration.members.get(&status.node) {
            return Some(member.address.clone());
        }
        if handle.phase() != Phase::Running {
            return None;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Longer and longer pauses between attempts, which say only once why they are needed.
#[derive(Default)]
struct Patience {
    pauses: u32,
    said: String,
}

impl Patience {
    async fn wait(&mut self, why: String) {
        if self.said != why {
            tracing::warn!("{why}; trying again");
            self.said = why;
        }
        self.pauses += 1;
        sleep(Duration::from_millis(100 << self.pauses.min(4))).await;
    }
}

struct Context<E> {
    what: &'static str,
    error: E,
}

fn check_name(config: &Config, stored: Option<&str>) -> Result<(), StartError> {
    match (stored, &config.name) {
        (Some(stored), Some(given)) if stored != given => Err(StartError(format!(
            "the data folder {} is that of node {stored}, not of {given}; start it as {stored}, or choose another \
             folder",
            config.folder.display()
        ))),
        (_, Some(given)) if given.is_empty() => Err(StartError("a node's id can't be empty".into())),
        _ => Ok(()),
    }
}

async fn bind(address: &Address, given: &str) -> Result<TcpListener, StartError> {
    let bound = address.bind().await;
    bound.map_err(|error| StartError(format!("can't listen at {given}: {error}; choose another address or port")))
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    Ok(listener.local_addr().map_err(|error| Context { what: "can't tell which port this node got", error })?)
}

/// Of the system's randomness, for what has to be unique in the world.
fn random() -> Result<u64, StartError> {
    Ok(getrandom::u64().map_err(|error| Context { what: "no randomness from the system", error })?)
}

fn with_host_of(address: &str, port: u16) -> String {
    let host = address.rsplit_once(':').map_or("localhost", |(host, _)| host);
    format!("{host}:{port}")
}

fn port_of(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |(_, port)| port)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Context { what: "starting was interrupted", error })?)
}

const MAX_WORKERS: usize = 8;
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
