//! What the program tells the person who runs it, on standard error.
//!
//! By default that is little: one line when the node is up, one for each change of leader, and what goes wrong. Asked for
//! more it tells of members, joins and connections among the nodes; then of Raft's steps (events whose target is `raft`)
//! and of clients' connections that break; then of everything.
//!
//! Not handled: files. Whoever starts the program keeps what it says.

use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

/// Sets up the logs of this process. `RUST_LOG` wins over `verbosity`, which counts how often more was asked for.
/// A second call does nothing.
pub fn init_logs(verbosity: u8) {
    let wanted = match verbosity {
        0 => "info",
        1 => "info,server=debug,server::http=info",
        2 => "debug",
        _ => "trace",
    };
    let from_environment = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let tells_modules = from_environment.is_some();
    let filter = match from_environment.map(|filter| EnvFilter::try_new(&filter).map_err(|error| (filter, error))) {
        None => EnvFilter::new(wanted),
        Some(Ok(filter)) => filter,
        Some(Err((filter, error))) => {
            eprintln!("RUST_LOG={filter} is no filter of logs ({error}); it is ignored");
            EnvFilter::new(wanted)
        }
    };
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(colours)
        // For who writes filters; to others it says nothing.
        .with_target(tells_modules)
        .try_init();
}
