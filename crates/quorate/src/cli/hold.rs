//! Being the owner of a lock or the leader of an election: until a signal, or as long as a command runs.
//!
//! If ownership is lost, the command is told to end (SIGTERM), and killed if it does not.
//!
//! Not handled: what the command has started itself, beyond its own process.

use super::{Done, Failure};
use crate::run::Signals;
use client::Error;
use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};

/// What a command may take to end when it is told to.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Until a signal; an error if it is lost before.
pub async fn until_signal(signals: &mut Signals, lost: impl Future<Output = Error>) -> Done {
    tokio::select! {
        lost = lost => Err(lost.into()),
        _ = signals.next() => Ok(()),
    }
}

/// As long as the command runs; its exit code becomes ours.
pub async fn while_running(
    command: &[OsString],
    variables: &[(&str, String)],
    signals: &mut Signals,
    lost: impl Future<Output = Error>,
) -> Done {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::other(format!("can't run {}: {error}", program.display())))?;
    let mut lost = std::pin::pin!(lost);
    loop {
        tokio::select! {
            status = child.wait() => return ended(status?),
            lost = &mut lost => {
                tell_to_end(&child);
                if tokio::time::timeout(END_LIMIT, child.wait()).await.is_err() {
                    child.kill().await?;
                }
                let Failure { text, .. } = lost.into();
                return Err(Failure::no(format!("the command was ended: {text}")));
            }
            // A terminal sends Ctrl-C to the command, too; asking twice does no harm.
            _ = signals.next() => tell_to_end(&child),
        }
    }
}

#[cfg(unix)]
fn tell_to_end(child: &Child) {
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

#[cfg(not(unix))]
fn tell_to_end(_: &Child) {}

/// As a shell tells it: 128 and the number of the signal, if that was its end.
fn ended(status: ExitStatus) -> Done {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let signal = None;
    match status.code().or(signal).unwrap_or(5) {
        0 => Ok(()),
        code => Err(Failure { code: code as u8, text: String::new() }),
    }
}
