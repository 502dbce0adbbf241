//! A thread for what may wait while there is something better to do, at a lower priority than all others.
//!
//! Only the system knows whether there is a processor to spare, so it is left to the system. On Linux every thread has a
//! priority of its own; elsewhere this is a thread like the others.

use crate::worker;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Starts its thread when it is first used, and ends it when it is dropped.
#[derive(Default)]
pub struct Leisure {
    running: OnceLock<Option<Running>>,
}

struct Running {
    runtime: Handle,
    /// The thread ends when this goes.
    _end: oneshot::Sender<()>,
}

impl Leisure {
    /// Where to spawn. `None`: there is no such thread to be had.
    pub fn runtime(&self) -> Option<Handle> {
        let running = self.running.get_or_init(|| {
            start().map_err(|error| tracing::debug!("watches share the threads of all requests: {error}")).ok()
        });
        running.as_ref().map(|running| running.runtime.clone())
    }
}

fn start() -> std::io::Result<Running> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel::<()>();
    worker::start("watches", move || {
        step_back(NICENESS);
        // Nobody sends; the other end is dropped.
        let _ = runtime.block_on(ended);
    })?;
    Ok(Running { runtime: handle, _end: end })
}

/// About a tenth of a processor that others want as well.
const NICENESS: i32 = 10;

/// Gives this thread a lower priority, by so many of the system's steps.
#[cfg(target_os = "linux")]
pub fn step_back(niceness: i32) {
    // Of this thread, as Linux has it. It may have a lower priority already.
    let here = rustix::process::getpriority_process(None);
    if let Err(error) = here.and_then(|here| rustix::process::setpriority_process(None, here.max(niceness))) {
        tracing::debug!("a thread keeps its priority: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
pub fn step_back(_niceness: i32) {}

/// Lets those go first who wait for a processor. Whoever has one keeps it for some milliseconds otherwise, whatever the
/// priorities are; so a thread that stepped back says this every tenth of a millisecond or so.
pub fn give_way() {
    std::thread::yield_now();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_spawned_runs_on_its_thread_and_ends_with_it() {
        let leisure = Leisure::default();
        let runtime = leisure.runtime().unwrap();
        let name = runtime.spawn(async { std::thread::current().name().map(String::from) }).await.unwrap();
        assert_eq!(name.as_deref(), Some("watches"));
        #[cfg(target_os = "linux")]
        {
            // Whoever runs this may have stepped back already.
            let here = rustix::process::getpriority_process(None).unwrap();
            let there = runtime.spawn(async { rustix::process::getpriority_process(None) }).await.unwrap().unwrap();
            assert_eq!(there, here.max(10));
            assert!(here < 10 || here == there, "it is this thread's own: {here} and {there}");
        }
        let endless = runtime.spawn(std::future::pending::<()>());
        drop(leisure);
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}
