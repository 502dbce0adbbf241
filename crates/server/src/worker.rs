//! The server's own threads.

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

struct Together;

impl Drop for Together {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
