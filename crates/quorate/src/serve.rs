//! `quorate serve`: one node.

use crate::keeping;
use bytesize::ByteSize;
use server::http::{Dialect, Level, MAX_TRANSACTION_OPERATIONS, Settings};
use server::{Begin, Compaction, Config, Engine, Join, Name};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Folder for this node's data, made if it does not exist
    #[arg(value_name = "FOLDER", required_unless_present = "data")]
    folder: Option<PathBuf>,
    /// The same, as an option
    #[arg(long, value_name = "FOLDER", conflicts_with = "folder")]
    data: Option<PathBuf>,
    /// What to call this node; if not given, what its folder says, or its peer address
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Address to serve clients on; :PORT is all interfaces
    #[arg(long, value_name = "ADDRESS", default_value = "localhost:11000")]
    http: String,
    /// Address for the traffic among the nodes; if not given, the same port carries both
    #[arg(long, value_name = "ADDRESS")]
    raft: Option<String>,
    /// HTTP address of a member of the cluster to join; without it an empty folder founds a cluster
    #[arg(long, value_name = "ADDRESS")]
    join: Option<String>,
    /// Join as a learner that stays one: it is read from, and does not vote until `quorate member promote`
    #[arg(long, requires = "join")]
    learner: bool,
    /// Address that the other nodes dial, if it is not the one listened on
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// Keep everything in memory: nothing outlives the process
    #[arg(long)]
    in_memory: bool,
    /// Where the state lies while the node runs: in tables on disk, or in memory with checkpoints
    #[arg(long, value_enum, default_value_t = Kept::Disk)]
    engine: Kept,
    /// How much memory the disk engine has for writes on their way to the disk and for what is read often
    #[arg(long, value_name = "BYTES", default_value = "96MiB", value_parser = keeping::memory_bytes)]
    memory: usize,
    /// Read level of requests without ?level=: none, weak, linearizable, strong or auto
    #[arg(long, value_name = "LEVEL", default_value = "linearizable")]
    read_level: Level,
    /// Whose HTTP to speak, if not everybody's; several with commas between
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    dialect: Vec<Dialect>,
    /// Refuse changes on a node that does not lead, as the originals did, instead of forwarding them
    #[arg(long)]
    no_forward: bool,
    /// Compact what was superseded longer ago, as 30m or 7d; 0s keeps it whatever its age. The leader's counts
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    compact_after: Duration,
    /// Compact the oldest of the past beyond that size, as 256MiB; 0 keeps it whatever its size. The leader's counts
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    compact_above: ByteSize,
    /// How many conditions and steps a transaction may have, nested ones included
    #[arg(long, value_name = "COUNT", default_value_t = 128, value_parser = transaction_operations())]
    max_txn_ops: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Kept {
    Disk,
    Memory,
}

fn transaction_operations() -> impl clap::builder::TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(1..=MAX_TRANSACTION_OPERATIONS as u64)
}

pub fn run(args: Args) -> Result<(), String> {
    let folder = args.folder.or(args.data).ok_or("name the folder for this node's data")?;
    crate::run::serve(Config {
        name: Name::given_or_peer_address(args.id),
        raft_listen: args.raft.unwrap_or_else(|| args.http.clone()),
        http_listen: args.http,
        advertise: args.advertise,
        begin: match Begin::join_or_found(args.join) {
            Begin::Join(join) => Begin::Join(Join { learner: args.learner, ..join }),
            begin => begin,
        },
        in_memory: args.in_memory,
        engine: match args.engine {
            Kept::Disk => Engine::Disk { memory_bytes: args.memory },
            Kept::Memory => Engine::Memory,
        },
        http: Settings {
            read_level: args.read_level,
            forward: !args.no_forward,
            dialects: if args.dialect.is_empty() { Dialect::ALL.to_vec() } else { args.dialect },
            max_transaction_operations: args.max_txn_ops as usize,
            ..Settings::default()
        },
        compaction: Compaction { after: args.compact_after, above_bytes: args.compact_above.as_u64() },
        ..Config::new(folder)
    })
}
