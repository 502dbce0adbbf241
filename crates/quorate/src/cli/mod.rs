//! The commands that talk to a cluster over `/v1`.
//!
//! Each is a module with its arguments and a `run`. What they share: [`Connect`], which endpoints to ask and how to
//! print; [`Failure`], by which a script learns what happened; [`text`], how keys and values look to people.

pub mod compact;
pub mod completions;
pub mod del;
pub mod elect;
pub mod get;
pub mod hold;
pub mod lease;
pub mod lock;
pub mod member;
pub mod put;
pub mod range;
pub mod restore;
pub mod snapshot;
pub mod status;
pub mod text;
pub mod txn;
pub mod verify;
pub mod watch;

use client::{Client, Error, Level};
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:11000";
/// Somebody who mistyped an address need not wait for the whole time limit.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(3);

/// What scripts go by; said in `quorate help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  no: not found, a condition did not hold, the lock is held or lost, the history is not linearizable
  2  the command line or the request makes no sense
  3  unavailable: nothing was changed, try again later
  4  unknown: the change may have happened, or may yet happen
  5  anything else, such as a file that can't be written";

/// How to reach the cluster, and how to print.
#[derive(Clone, Debug, clap::Args)]
pub struct Connect {
    /// Where nodes serve clients; one that answers is enough
    #[arg(short, long, env = "QUORATE_ENDPOINTS", value_delimiter = ',', default_value = DEFAULT_ENDPOINT, value_name = "URL,…")]
    pub endpoints: Vec<String>,

    /// How long one request may take, repeats included
    #[arg(long, default_value = "15", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,

    /// How to print what comes back
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Which keys.
#[derive(Clone, Debug, clap::Args)]
pub struct Keys {
    /// Keys that begin so; all keys if nothing is said
    #[arg(value_name = "PREFIX", conflicts_with_all = ["from", "to"])]
    prefix: Option<OsString>,

    /// Keys from this one on
    #[arg(long, value_name = "KEY")]
    from: Option<OsString>,

    /// Keys before this one
    #[arg(long, value_name = "KEY")]
    to: Option<OsString>,
}

/// What a read may ask for besides.
#[derive(Clone, Debug, clap::Args)]
pub struct Reading {
    /// How fresh: none, weak, linearizable, strong, auto, or default for the node's own choice
    #[arg(long, default_value_t = Level::Default)]
    pub level: Level,

    /// As it was at that revision
    #[arg(long, value_name = "REVISION")]
    pub rev: Option<u64>,
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    /// One of [`EXIT_CODES`], or that of a command which was run.
    pub code: u8,
    /// A sentence; nothing if everything is said already.
    pub text: String,
}

pub type Done = Result<(), Failure>;

impl Connect {
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.endpoints)
    }

    pub fn client_of(&self, endpoints: &[String]) -> Result<Client, Failure> {
        let client = Client::new(endpoints)?.with_time_limit(self.timeout);
        Ok(client.with_unreachable_limit(UNREACHABLE_LIMIT.min(self.timeout)))
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

impl Keys {
    pub fn range(self) -> client::Range {
        use client::Range;
        match (self.prefix, self.from, self.to) {
            (Some(prefix), ..) => Range::prefix(bytes(prefix)),
            (None, None, None) => Range::all(),
            (None, Some(from), None) => Range::from(bytes(from)),
            (None, from, Some(to)) => Range::between(bytes(from.unwrap_or_default()), bytes(to)),
        }
    }

    pub fn is_all(&self) -> bool {
        self.prefix.is_none() && self.from.is_none() && self.to.is_none()
    }
}

impl Failure {
    /// The answer is no.
    pub fn no(text: impl Into<String>) -> Failure {
        Failure { code: 1, text: text.into() }
    }

    pub fn usage(text: impl Into<String>) -> Failure {
        Failure { code: 2, text: text.into() }
    }

    pub fn unavailable(text: impl Into<String>) -> Failure {
        Failure { code: 3, text: text.into() }
    }

    pub fn other(text: impl Into<String>) -> Failure {
        Failure { code: 5, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match &error {
            Error::Unavailable(problem) if problem.code == "lock_held" => 1,
            Error::NotFound(_) | Error::Exists(_) | Error::PreconditionFailed(_) => 1,
            Error::Compacted(_) | Error::LeaseLost(_) => 1,
            Error::Invalid(_) => 2,
            Error::Unavailable(_) => 3,
            Error::Unknown(_) => 4,
            Error::Faulty(_) => 5,
        };
        Failure { code, text: error.to_string() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        // Whoever read our output has seen enough.
        let text = if error.kind() == io::ErrorKind::BrokenPipe { String::new() } else { error.to_string() };
        Failure::other(text)
    }
}

/// Runs a command to its end and says what went wrong, if anything did.
pub fn end(done: Done) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            if !text.is_empty() {
                eprintln!("quorate: {text}");
            }
            ExitCode::from(code)
        }
    }
}

/// For commands that ask one thing after the other: one thread is enough.
pub fn wait_for(work: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::other(format!("can't start: {error}")))?.block_on(work)
}

pub fn print(text: impl std::fmt::Display) -> Done {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

pub fn print_json(value: &impl Serialize) -> Done {
    print(serde_json::to_string(value).map_err(|error| Failure::other(error.to_string()))?)
}

/// A key or value as it was typed: any bytes where the system's arguments are bytes.
pub fn bytes(argument: OsString) -> Vec<u8> {
    argument.into_encoded_bytes()
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.trim_end_matches('s').parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| "give a number of seconds, such as 15 or 0.5".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(seconds("15"), Ok(Duration::from_secs(15)));
        assert_eq!(seconds("0.5s"), Ok(Duration::from_millis(500)));
        for wrong in ["", "-1", "soon", "NaN"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
