//! The nodes of one system on loopback, in child processes that end with the value.
//!
//! Not handled: a member list that changes.

use super::Kind;
use super::etcd::{self, Etcd, EtcdDriver};
use super::metrics;
use super::process::{Process, free_ports, own_cpu_time};
use super::redis::{self, Redis, RedisDriver};
use super::zookeeper::{self, Zookeeper, ZookeeperDriver};
use client::Level;
use client::hraftd::Connection;
use client::load::{Driver, HttpDriver, PipeDriver};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HEALTHY_LIMIT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How many clients share a connection, of etcd and of ours unless each has its own.
const CLIENTS_A_CONNECTION: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum System {
    /// Clients share connections, as etcd's do
    Ours,
    /// Ours, and each client has a connection of its own, which carries one request at a time
    Apart,
    Etcd,
    /// An older etcd, by a program of its own
    EtcdOld,
    Zookeeper,
    /// One node, which syncs every write
    Redis,
}

impl System {
    pub const ALL: [System; 6] =
        [System::Ours, System::Apart, System::Etcd, System::EtcdOld, System::Zookeeper, System::Redis];

    pub fn is_ours(self) -> bool {
        matches!(self, System::Ours | System::Apart)
    }

    /// How many nodes it has.
    pub fn size(self) -> usize {
        if self == System::Redis { 1 } else { 3 }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            System::Ours => "ours",
            System::Apart => "ours, a connection each",
            System::Etcd => "etcd",
            System::EtcdOld => "old etcd",
            System::Zookeeper => "ZooKeeper",
            System::Redis => "Redis (1 node)",
        })
    }
}

/// Where the programs are; of those that are not wanted the path is empty.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    pub ours: PathBuf,
    pub etcd: PathBuf,
    pub etcd_old: PathBuf,
    pub java: PathBuf,
    /// Of ZooKeeper.
    pub class_path: OsString,
    pub redis: PathBuf,
    /// What our nodes are told besides.
    pub more: Vec<OsString>,
}

impl Programs {
    fn of(&self, system: System) -> &Path {
        match system {
            System::Ours | System::Apart => &self.ours,
            System::Etcd => &self.etcd,
            System::EtcdOld => &self.etcd_old,
            System::Zookeeper => &self.java,
            System::Redis => &self.redis,
        }
    }
}

pub struct Cluster {
    system: System,
    program: PathBuf,
    folder: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    /// Where clients go.
    address: String,
    arguments: Vec<OsString>,
    log: PathBuf,
    process: Process,
}

/// What all processes have used up so far.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Of the nodes and of this process, which is the clients.
    pub cpu: Duration,
    /// Of the nodes.
    pub written_bytes: u64,
}

impl Cluster {
    /// Starts it with empty data in `folder/SYSTEM`, and waits until it is healthy.
    pub async fn start(system: System, programs: &Programs, folder: &Path) -> Result<Cluster, String> {
        let folder = folder.join(folder_name(system));
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("can't empty {}: {error}", folder.display()));
        }
        std::fs::create_dir_all(&folder).map_err(|error| format!("can't make {}: {error}", folder.display()))?;

        let mut cluster = Cluster { system, program: programs.of(system).to_path_buf(), folder, nodes: Vec::new() };
        let size = system.size();
        let ports = free_ports(3 * size)?;
        for at in 0..size {
            let arguments = arguments(system, programs, at, &ports, &cluster.folder)?;
            let log = cluster.folder.join(format!("node{}.log", at + 1));
            let process = Process::start(&cluster.program, &arguments, &log)?;
            cluster.nodes.push(Node { address: format!("127.0.0.1:{}", ports[at]), arguments, log, process });
            if system.is_ours() {
                // Each joins a cluster that works; the members of others wait for each other instead.
                cluster.wait_until_healthy().await?;
            }
        }
        cluster.wait_until_healthy().await?;
        Ok(cluster)
    }

    /// One more node of ours starts with empty data, and asks to join.
    pub fn add_node(&mut self, programs: &Programs) -> Result<(), String> {
        let name = format!("node{}", self.size() + 1);
        let ports = free_ports(2)?;
        let join = self.nodes.first().and_then(|node| node.address.rsplit(':').next()?.parse().ok());
        let mut arguments = programs.more.clone();
        arguments.extend(our_arguments(&name, ports[0], ports[1], join, &self.folder));
        let log = self.folder.join(format!("{name}.log"));
        let process = Process::start(&self.program, &arguments, &log)?;
        self.nodes.push(Node { address: format!("127.0.0.1:{}", ports[0]), arguments, log, process });
        Ok(())
    }

    pub fn system(&self) -> System {
        self.system
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where that node keeps its data.
    pub fn data_folder(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node{}", node + 1))
    }

    /// Where that node's clients go.
    pub fn address(&self, node: usize) -> &str {
        &self.nodes[node].address
    }

    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Waits until all members agree on a leader, and on each other, and returns which one leads.
    pub async fn wait_until_healthy(&mut self) -> Result<usize, String> {
        let began = Instant::now();
        loop {
            let doubt = match self.agreed_leader().await {
                Ok(leader) => return Ok(leader),
                Err(doubt) => doubt,
            };
            self.all_are_alive()?;
            if began.elapsed() > HEALTHY_LIMIT {
                let folder = self.folder.display();
                return Err(format!("{} is not healthy after {HEALTHY_LIMIT:?} ({doubt}): see {folder}", self.system));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Whether all members agree, at this moment.
    pub async fn is_healthy(&self) -> bool {
        self.agreed_leader().await.is_ok()
    }

    /// An error that names the log of a node that ended by itself.
    fn all_are_alive(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            if let Some(status) = node.process.ended() {
                return Err(format!("a node of {} ended ({status}): see {}", self.system, node.log.display()));
            }
        }
        Ok(())
    }

    async fn agreed_leader(&self) -> Result<usize, String> {
        let mut members = Vec::new();
        let mut leaders = Vec::new();
        for node in &self.nodes {
            let (member, leader) = match self.system {
                System::Ours | System::Apart => {
                    let mut connection = Connection::open(&node.address).await.map_err(|error| error.to_string())?;
                    let status = connection.status().await.map_err(|error| error.to_string())?;
                    if status.leader.id.is_empty() || status.followers.len() + 1 != self.nodes.len() {
                        return Err(format!("{} does not know all members yet", node.address));
                    }
                    (status.me.id, Some(status.leader.id))
                }
                System::Etcd | System::EtcdOld => {
                    let (member, leader) = Etcd::connect(&node.address).await?.member_and_leader().await?;
                    (member.to_string(), Some(leader.to_string()))
                }
                // A follower says that it follows, and not whom.
                System::Zookeeper => {
                    let leads = zookeeper::leads(&node.address).await?;
                    (node.address.clone(), leads.then(|| node.address.clone()))
                }
                System::Redis => {
                    Redis::connect(&node.address).await?.ping().await?;
                    (node.address.clone(), Some(node.address.clone()))
                }
            };
            members.push(member);
            leaders.extend(leader);
        }
        leaders.dedup();
        match leaders.as_slice() {
            [leader] => members.iter().position(|member| member == leader).ok_or_else(|| "no leader yet".to_string()),
            _ => Err("the members don't agree on a leader".to_string()),
        }
    }

    /// One driver a client: to the leader for writes, over all members for reads.
    pub async fn drivers(&self, kind: Kind, clients: usize) -> Result<Vec<PeerDriver>, String> {
        let addresses: Vec<String> = match kind {
            Kind::Writes => vec![self.nodes[self.agreed_leader().await?].address.clone()],
            Kind::Reads | Kind::Local => self.nodes.iter().map(|node| node.address.clone()).collect(),
        };
        let reads_are_local = kind == Kind::Local;
        let mut drivers = Vec::with_capacity(clients);
        // As many as needed, but no member is left out.
        let connections = clients.div_ceil(CLIENTS_A_CONNECTION).max(addresses.len());
        if matches!(self.system, System::Etcd | System::EtcdOld) {
            let mut etcds = Vec::new();
            for at in 0..connections {
                etcds.push(Etcd::connect(&addresses[at % addresses.len()]).await?);
            }
            for at in 0..clients {
                let etcd = etcds[at % connections].clone();
                drivers.push(PeerDriver::Etcd(EtcdDriver { etcd, reads_are_local }));
            }
            return Ok(drivers);
        }
        let level = if reads_are_local { Level::None } else { Level::Linearizable };
        for at in 0..clients {
            let address = &addresses[at % addresses.len()];
            drivers.push(match self.system {
                System::Zookeeper => {
                    let zookeeper = Zookeeper::connect(address).await?;
                    PeerDriver::Zookeeper(ZookeeperDriver { zookeeper, reads_are_local })
                }
                System::Redis => PeerDriver::Redis(RedisDriver(Redis::connect(address).await?)),
                System::Ours if at >= connections => PeerDriver::shared(&drivers[at - connections]),
                System::Ours => PeerDriver::Ours(PipeDriver::connect(address, level).await?),
                _ => {
                    // One address each, so that no client moves to another member unnoticed.
                    let driver = HttpDriver::connect([address.clone()].into(), 0, level).await;
                    PeerDriver::Apart(driver.map_err(|error| error.to_string())?)
                }
            });
        }
        Ok(drivers)
    }

    /// One write to one member over a new connection.
    pub fn probe(&self, node: usize) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (system, address) = (self.system, self.nodes[node].address.clone());
        async move {
            match system {
                System::Ours | System::Apart => {
                    let mut connection = Connection::open(&address).await.map_err(|error| error.kind())?;
                    connection.put("probe", "v").await.map_err(|error| error.kind())
                }
                System::Etcd | System::EtcdOld => Etcd::connect(&address).await?.put("probe", "v").await,
                System::Zookeeper => Zookeeper::connect(&address).await?.put("probe", "v").await,
                System::Redis => Redis::connect(&address).await?.put("probe", "v").await,
            }
        }
    }

    /// One linearizable read of what [`Cluster::probe`] wrote, from one member over a new connection.
    pub fn probe_read(&self, node: usize) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (system, address) = (self.system, self.nodes[node].address.clone());
        async move {
            let is_there = match system {
                System::Ours | System::Apart => {
                    let mut connection = Connection::open(&address).await.map_err(|error| error.kind())?;
                    let read = connection.get("probe", Level::Linearizable).await.map_err(|error| error.kind())?;
                    read == "v"
                }
                System::Etcd | System::EtcdOld => Etcd::connect(&address).await?.get("probe", false).await?.is_some(),
                System::Zookeeper => Zookeeper::connect(&address).await?.get("probe", false).await?.is_some(),
                System::Redis => Redis::connect(&address).await?.get("probe").await?,
            };
            if is_there { Ok(()) } else { Err("what was acknowledged is gone".to_string()) }
        }
    }

    pub fn kill(&mut self, node: usize) -> Result<(), String> {
        self.nodes[node].process.kill()
    }

    pub fn restart(&mut self, node: usize) -> Result<(), String> {
        let node = &mut self.nodes[node];
        node.process = Process::start(&self.program, &node.arguments, &node.log)?;
        Ok(())
    }

    pub fn cpu_times(&self) -> Result<Vec<Duration>, String> {
        self.processes().map(Process::cpu_time).collect()
    }

    pub fn resident_bytes(&self) -> Result<Vec<u64>, String> {
        self.processes().map(Process::resident_bytes).collect()
    }

    pub fn used(&self) -> Result<Used, String> {
        let nodes: Duration = self.cpu_times()?.into_iter().sum();
        let written: Result<Vec<u64>, String> = self.processes().map(Process::written_bytes).collect();
        Ok(Used { cpu: nodes + own_cpu_time()?, written_bytes: written?.into_iter().sum() })
    }

    /// What flushes and merges have written on all nodes, if the nodes tell.
    pub async fn flushed_and_merged_bytes(&self) -> Option<(f64, f64)> {
        let (mut flushed, mut merged) = (0.0, 0.0);
        for node in self.nodes.iter().filter(|_| self.system.is_ours()) {
            let figures = metrics::of(&node.address).await.ok()?;
            flushed += figures.get(metrics::FLUSHED_BYTES)?;
            merged += figures.get(metrics::MERGED_BYTES)?;
        }
        self.system.is_ours().then_some((flushed, merged))
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.nodes.iter().map(|node| &node.process)
    }
}

pub enum PeerDriver {
    Ours(PipeDriver),
    Apart(HttpDriver),
    Etcd(EtcdDriver),
    Zookeeper(ZookeeperDriver),
    Redis(RedisDriver),
}

impl PeerDriver {
    /// Another client on the same connection.
    fn shared(&self) -> PeerDriver {
        match self {
            PeerDriver::Ours(driver) => PeerDriver::Ours(driver.clone()),
            _ => unreachable!("no other is shared like this"),
        }
    }
}

impl Driver for PeerDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        match self {
            PeerDriver::Ours(driver) => driver.write(key, value).await,
            PeerDriver::Apart(driver) => driver.write(key, value).await,
            PeerDriver::Etcd(driver) => driver.write(key, value).await,
            PeerDriver::Zookeeper(driver) => driver.write(key, value).await,
            PeerDriver::Redis(driver) => driver.write(key, value).await,
        }
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        match self {
            PeerDriver::Ours(driver) => driver.read(key).await,
            PeerDriver::Apart(driver) => driver.read(key).await,
            PeerDriver::Etcd(driver) => driver.read(key).await,
            PeerDriver::Zookeeper(driver) => driver.read(key).await,
            PeerDriver::Redis(driver) => driver.read(key).await,
        }
    }
}

fn folder_name(system: System) -> &'static str {
    match system {
        System::Ours => "ours",
        System::Apart => "ours-apart",
        System::Etcd => "etcd",
        System::EtcdOld => "etcd-old",
        System::Zookeeper => "zookeeper",
        System::Redis => "redis",
    }
}

/// Of node number `at`, counted from 0. Of the ports each node has three: one for clients and up to two for its peers.
fn arguments(
    system: System,
    programs: &Programs,
    at: usize,
    ports: &[u16],
    folder: &Path,
) -> Result<Vec<OsString>, String> {
    let size = system.size();
    let name = |at: usize| format!("node{}", at + 1);
    let (port, peer_port) = (ports[at], ports[size + at]);
    Ok(match system {
        System::Ours | System::Apart => {
            let mut line = our_arguments(&name(at), port, peer_port, (at > 0).then_some(ports[0]), folder);
            line.splice(0..0, programs.more.iter().cloned());
            line
        }
        System::Etcd | System::EtcdOld => {
            let members: Vec<(String, u16)> = (0..size).map(|member| (name(member), ports[size + member])).collect();
            etcd::arguments(&name(at), port, peer_port, &members, folder)
        }
        System::Zookeeper => {
            let quorum: Vec<[u16; 2]> = (0..size).map(|at| [ports[size + at], ports[2 * size + at]]).collect();
            zookeeper::arguments(at, port, &quorum, &programs.class_path, folder)?
        }
        System::Redis => redis::arguments(port, folder)?,
    })
}

fn our_arguments(name: &str, port: u16, peer_port: u16, join: Option<u16>, folder: &Path) -> Vec<OsString> {
    let address = |port: u16| OsString::from(format!("127.0.0.1:{port}"));
    let mut arguments: Vec<OsString> =
        vec!["-id".into(), name.into(), "-haddr".into(), address(port), "-raddr".into(), address(peer_port)];
    if let Some(port) = join {
        arguments.extend(["-join".into(), address(port)]);
    }
    arguments.push(folder.join(name).into());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_command_line_is_hraftds() {
        let line = our_arguments("node2", 11001, 12001, Some(11000), Path::new("data"));
        let line: Vec<String> = line.into_iter().map(|argument| argument.into_string().unwrap()).collect();
        let folder = Path::new("data").join("node2").display().to_string();
        assert_eq!(
            line.join(" "),
            format!("-id node2 -haddr 127.0.0.1:11001 -raddr 127.0.0.1:12001 -join 127.0.0.1:11000 {folder}")
        );
    }

    #[tokio::test]
    async fn a_node_that_does_not_start_is_told_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let no = PathBuf::from("/bin/false");
        let programs = Programs {
            ours: no.clone(),
            etcd: no.clone(),
            etcd_old: no.clone(),
            java: no.clone(),
            redis: no,
            ..Programs::default()
        };
        for system in System::ALL {
            let error = Cluster::start(system, &programs, folder.path()).await.map(drop).unwrap_err();
            // Of those that start together any may be seen first.
            let is_named = (1..=system.size()).any(|node| error.contains(&format!("node{node}.log")));
            assert!(error.contains("ended") && is_named, "{error}");
        }
    }
}
