//! Three nodes of one system on loopback, in child processes that end with the value.
//!
//! Not handled: a member list that changes.

use super::Kind;
use super::etcd::{self, Etcd, EtcdDriver};
use super::process::{Process, free_ports};
use client::Level;
use client::hraftd::Connection;
use client::load::{Driver, HttpDriver};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SIZE: usize = 3;
const HEALTHY_LIMIT: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How many of etcd's clients share a connection.
const CLIENTS_A_CONNECTION: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum System {
    Ours,
    Etcd,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            System::Ours => "ours",
            System::Etcd => "etcd",
        })
    }
}

pub struct Programs {
    pub ours: PathBuf,
    pub etcd: PathBuf,
    /// What our nodes are told besides.
    pub more: &'static [&'static str],
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

impl Cluster {
    /// Starts it with empty data in `folder/SYSTEM`, and waits until it is healthy.
    pub async fn start(system: System, programs: &Programs, folder: &Path) -> Result<Cluster, String> {
        let folder = folder.join(system.to_string());
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("can't empty {}: {error}", folder.display()));
        }
        std::fs::create_dir_all(&folder).map_err(|error| format!("can't make {}: {error}", folder.display()))?;

        let program = match system {
            System::Ours => &programs.ours,
            System::Etcd => &programs.etcd,
        };
        let mut cluster = Cluster { system, program: program.clone(), folder, nodes: Vec::new() };
        let ports = free_ports(2 * SIZE)?;
        let (ports, peer_ports) = ports.split_at(SIZE);
        let names: Vec<String> = (1..=SIZE).map(|number| format!("node{number}")).collect();
        let members: Vec<(String, u16)> = names.iter().cloned().zip(peer_ports.iter().copied()).collect();
        for (at, name) in names.iter().enumerate() {
            let arguments = match system {
                System::Ours => {
                    let join = (at > 0).then_some(ports[0]);
                    let mut line = our_arguments(name, ports[at], peer_ports[at], join, &cluster.folder);
                    line.extend(programs.more.iter().map(OsString::from));
                    line
                }
                System::Etcd => etcd::arguments(name, ports[at], peer_ports[at], &members, &cluster.folder),
            };
            let log = cluster.folder.join(format!("{name}.log"));
            let process = Process::start(program, &arguments, &log)?;
            cluster.nodes.push(Node { address: format!("127.0.0.1:{}", ports[at]), arguments, log, process });
            if system == System::Ours {
                // Each joins a cluster that works; etcd's members wait for each other instead.
                cluster.wait_until_healthy().await?;
            }
        }
        cluster.wait_until_healthy().await?;
        Ok(cluster)
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
            for node in &mut self.nodes {
                if let Some(status) = node.process.ended() {
                    return Err(format!("a node of {} ended ({status}): see {}", self.system, node.log.display()));
                }
            }
            if began.elapsed() > HEALTHY_LIMIT {
                let folder = self.folder.display();
                return Err(format!("{} is not healthy after {HEALTHY_LIMIT:?} ({doubt}): see {folder}", self.system));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn agreed_leader(&self) -> Result<usize, String> {
        let mut members = Vec::new();
        let mut leaders = Vec::new();
        for node in &self.nodes {
            let (member, leader) = match self.system {
                System::Ours => {
                    let mut connection = Connection::open(&node.address).await.map_err(|error| error.to_string())?;
                    let status = connection.status().await.map_err(|error| error.to_string())?;
                    if status.leader.id.is_empty() || status.followers.len() + 1 != self.nodes.len() {
                        return Err(format!("{} does not know all members yet", node.address));
                    }
                    (status.me.id, status.leader.id)
                }
                System::Etcd => {
                    let (member, leader) = Etcd::connect(&node.address).await?.member_and_leader().await?;
                    (member.to_string(), leader.to_string())
                }
            };
            members.push(member);
            leaders.push(leader);
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
        let mut drivers = Vec::with_capacity(clients);
        match self.system {
            System::Ours => {
                let level = if kind == Kind::Local { Level::None } else { Level::Linearizable };
                for at in 0..clients {
                    // One address each, so that no client moves to another member unnoticed.
                    let address = [addresses[at % addresses.len()].clone()];
                    let driver = HttpDriver::connect(address.into(), 0, level).await;
                    drivers.push(PeerDriver::Ours(driver.map_err(|error| error.to_string())?));
                }
            }
            System::Etcd => {
                let mut connections = Vec::new();
                // As many as needed, but no member is left out.
                for at in 0..clients.div_ceil(CLIENTS_A_CONNECTION).max(addresses.len()) {
                    connections.push(Etcd::connect(&addresses[at % addresses.len()]).await?);
                }
                for at in 0..clients {
                    let etcd = connections[at % connections.len()].clone();
                    drivers.push(PeerDriver::Etcd(EtcdDriver { etcd, reads_are_local: kind == Kind::Local }));
                }
            }
        }
        Ok(drivers)
    }

    /// One write to one member over a new connection.
    pub fn probe(&self, node: usize) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (system, address) = (self.system, self.nodes[node].address.clone());
        async move {
            match system {
                System::Ours => {
                    let mut connection = Connection::open(&address).await.map_err(|error| error.kind())?;
                    connection.put("probe", "v").await.map_err(|error| error.kind())
                }
                System::Etcd => Etcd::connect(&address).await?.put("probe", "v").await,
            }
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
        self.nodes.iter().map(|node| node.process.cpu_time()).collect()
    }

    pub fn resident_bytes(&self) -> Result<Vec<u64>, String> {
        self.nodes.iter().map(|node| node.process.resident_bytes()).collect()
    }
}

pub enum PeerDriver {
    Ours(HttpDriver),
    Etcd(EtcdDriver),
}

impl Driver for PeerDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        match self {
            PeerDriver::Ours(driver) => driver.write(key, value).await,
            PeerDriver::Etcd(driver) => driver.write(key, value).await,
        }
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        match self {
            PeerDriver::Ours(driver) => driver.read(key).await,
            PeerDriver::Etcd(driver) => driver.read(key).await,
        }
    }
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
        let programs = Programs { ours: "/bin/false".into(), etcd: "/bin/false".into(), more: &[] };
        for system in [System::Ours, System::Etcd] {
            let error = Cluster::start(system, &programs, folder.path()).await.map(drop).unwrap_err();
            assert!(error.contains("ended") && error.contains("node1.log"), "{error}");
        }
    }
}
