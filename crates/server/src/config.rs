//! What a node is told when it is started.
//!
//! Not handled: reading any of it from a file or from the environment; that is the programs' affair.

use crate::http;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Config {
    /// Holds everything that outlives the process. Made if it does not exist.
    pub folder: PathBuf,
    pub name: Name,
    pub http_listen: String,
    /// Equal to `http_listen`: one port for both.
    pub raft_listen: String,
    /// Where the peers reach this node, if not where it listens.
    pub advertise: Option<String>,
    pub begin: Begin,
    /// Nothing touches the disk, and nothing outlives the process.
    pub in_memory: bool,
    /// Of what outlives the process, how it is kept.
    pub engine: Engine,
    /// How clients are served.
    pub http: http::Settings,
    pub compaction: Compaction,
}

/// Where a node's state lies while it runs. Each node of a cluster may have another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// In sorted tables on disk, with so much memory for what is on its way there and what is read often. The data may be
    /// larger, and a start need not read it.
    Disk { memory_bytes: usize },
    /// All of it in memory. From time to time all of it is written to a checkpoint, which a start reads.
    Memory,
}

/// As good as more for keys that are spread evenly; more keeps more of the blocks that are read often.
pub const DEFAULT_MEMORY_BYTES: usize = 96 << 20;
/// With less a node would be busy with its tables only.
pub const LEAST_MEMORY_BYTES: usize = 8 << 20;

impl Default for Engine {
    fn default() -> Engine {
        Engine::Disk { memory_bytes: DEFAULT_MEMORY_BYTES }
    }
}

/// How much of the past is kept. Every member should be told the same: it is the leader's that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// What was superseded longer ago goes. Zero: never because of its age.
    pub after: Duration,
    /// What makes the past larger goes, the oldest first. 0: never because of its size.
    pub above_bytes: u64,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { after: Duration::from_secs(3600), above_bytes: 1024 * 1024 * 1024 }
    }
}

impl Config {
    pub fn new(folder: impl Into<PathBuf>) -> Config {
        Config {
            folder: folder.into(),
            name: Name::PeerAddress,
            http_listen: "localhost:11000".into(),
            raft_listen: "localhost:12000".into(),
            advertise: None,
            begin: Begin::Found,
            in_memory: false,
            engine: Engine::default(),
            http: http::Settings::default(),
            compaction: Compaction::default(),
        }
    }
}

/// What to call the node. A folder that was started before has its name already, and keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Another name than the folder's is an error.
    Given(String),
    PeerAddress,
    /// Seven hex digits, drawn once and kept in the file `name` of the folder.
    Drawn,
}

impl Name {
    pub fn given_or_peer_address(given: Option<String>) -> Name {
        given.map_or(Name::PeerAddress, Name::Given)
    }
}

/// How a node begins on a folder that belongs to no cluster yet. One that does goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// As the only member of a new cluster.
    Found,
    /// By asking to be let in. A member that is told to join says where it is, if that is somewhere else than before.
    Join(Join),
    /// By waiting to be let in; somebody else asks for it.
    Wait,
    /// Not at all, for this reason: whoever started it has asked for two things at once.
    Contradictory(String),
}

impl Begin {
    /// As hraftd does.
    pub fn join_or_found(member: Option<String>) -> Begin {
        let join =
            |member| Join { member, words: Words::Hraftd, persistence: Persistence::UntilRefused, learner: false };
        member.map_or(Begin::Found, |member| Begin::Join(join(member)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The HTTP address of a member of the cluster.
    pub member: String,
    pub words: Words,
    pub persistence: Persistence,
    /// Whether it is to stay a learner, which is read from and does not vote, until somebody promotes it.
    pub learner: bool,
}

/// In which words to ask: those of the dialect that the member speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// `POST /join {"id","addr"}`
    Hraftd,
    /// `POST /join {"name","connectionString"}`
    Raftd,
    /// `POST /cluster/join/ {"address"}`; the cluster calls a node by its address.
    RaftKv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Asks again, after longer and longer pauses, until there is an answer; a refusal ends the node.
    UntilRefused,
    /// Asks every second, whatever the answers are.
    ForEver,
}
