//! Running nodes in this process until they are told to stop.
//!
//! The first SIGTERM or SIGINT makes them hand over and finish what is in flight; a second one ends the process.

use server::{Config, End, Handle, Server};
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::process::{self, ExitCode};
use tokio::runtime::Runtime;

/// Serves until a signal asks to stop, or the node can't go on. An error is a sentence for a person.
pub fn serve(config: Config) -> Result<(), String> {
    serve_beside(config, |_| pending())
}

/// The same, with some other work beside it until then.
pub fn serve_beside<W>(config: Config, work: impl FnOnce(Handle) -> W) -> Result<(), String>
where
    W: Future<Output = Infallible>,
{
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let server = tokio::select! {
            started = Server::start(config) => started.map_err(|error| error.to_string())?,
            signal = signals.next() => {
                tracing::info!("{signal}: stopped before it was up");
                return Ok(());
            }
        };
        tokio::select! {
            asked = wait(&server, &mut signals) => asked?,
            never = work(server.handle()) => match never {},
        }
        signals.at_most_once_more(server.stop()).await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Waits for a signal, or for the node to fail.
async fn wait(server: &Server, signals: &mut Signals) -> Result<(), String> {
    tokio::select! {
        end = server.wait() => match end {
            End::Failed(reason) => return Err(reason),
            End::Removed(reason) => tracing::warn!("{reason}; clients are told so until this program is stopped"),
        },
        signal = signals.next() => {
            tracing::info!("{signal}: handing over and finishing what is in flight");
            return Ok(());
        }
    }
    let signal = signals.next().await;
    tracing::info!("{signal}: stopping");
    Ok(())
}

/// Tells why it did not end well, if so.
pub fn told(program: &str, end: Result<(), String>) -> ExitCode {
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{program}: {reason}");
            ExitCode::FAILURE
        }
    }
}

pub fn runtime() -> Result<Runtime, String> {
    server::runtime().map_err(|error| format!("can't start the threads of the program: {error}"))
}

/// The signals that ask a program to stop.
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    pub fn listen() -> Result<Signals, String> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| format!("can't listen for signals: {error}"));
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    pub fn listen() -> Result<Signals, String> {
        Ok(Signals {})
    }

    #[cfg(unix)]
    pub async fn next(&mut self) -> SignalName {
        tokio::select! {
            _ = self.terminate.recv() => SignalName("SIGTERM"),
            _ = self.interrupt.recv() => SignalName("Ctrl-C"),
        }
    }

    #[cfg(not(unix))]
    pub async fn next(&mut self) -> SignalName {
        if tokio::signal::ctrl_c().await.is_err() {
            // Then only the system can end the process.
            std::future::pending::<()>().await;
        }
        SignalName("Ctrl-C")
    }

    /// Does the work, unless a signal says that it takes too long.
    pub async fn at_most_once_more(&mut self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            signal = self.next() => {
                tracing::warn!("{signal} again: stopped at once, what was in flight has an unknown outcome");
                process::exit(1);
            }
        }
    }
}

pub struct SignalName(&'static str);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
