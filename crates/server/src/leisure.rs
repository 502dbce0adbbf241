//! A thread for what may wait while there is something better to do, at a lower priority than all others.
//!
//! Only the system knows whether there is a processor to spare, so it is left to the system. On Linux every thread has a
//! priority of its own; elsewhere this is a thread like the others.

use crate::worker;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
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

/// How a thread goes about work that nobody waits for, in pieces: others go first between them, to the processor, and to
/// the disk, which is left to them for as long as the piece took that waited for it.
pub struct Pace {
    since: Instant,
}

impl Pace {
    /// A piece begins.
    pub fn begin() -> Pace {
        Pace { since: Instant::now() }
    }

    /// A piece ends, and the next one begins when this returns.
    pub fn give_way(&mut self) {
        match rest_after(self.since.elapsed()) {
            Duration::ZERO => give_way(),
            rest => std::thread::sleep(rest),
        }
        self.since = Instant::now();
    }
}

/// What takes long waits for the disk.
fn rest_after(took: Duration) -> Duration {
    if took < LONG { Duration::ZERO } else { took.min(LONGEST_REST) }
}

const LONG: Duration = Duration::from_millis(1);
/// A disk that is so slow that a sync takes longer is slow for other reasons.
const LONGEST_REST: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_for_the_disk_leaves_it_to_others_for_as_long() {
        let micros = Duration::from_micros;
        assert_eq!(rest_after(micros(999)), Duration::ZERO);
        assert_eq!(rest_after(micros(4_000)), micros(4_000));
        assert_eq!(rest_after(Duration::from_secs(9)), LONGEST_REST);
        let mut pace = Pace { since: Instant::now() - LONGEST_REST };
        let before = Instant::now();
        pace.give_way();
        assert!(before.elapsed() >= LONGEST_REST && pace.since >= before + LONGEST_REST);
    }

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
