//! The server's own threads.

use std::fmt::Display;
use std::io;
use std::thread::{self, Builder, JoinHandle};

/// Starts a thread that takes the process with it if it panics: the node can't go on without any of its threads, and
/// one that merely falls silent is worse than one that is gone.
pub fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(|| {
        let _together = Together;
        work();
    })
}

/// Ends the process there and then, with one line that says why.
pub fn end_the_process(what: &str, error: &dyn Display) -> ! {
    tracing::error!("{what}, so this node stops: {error}");
    std::process::exit(1);
}

struct Together;

impl Drop for Together {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
