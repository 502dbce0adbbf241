//! The thread that writes the log.
//!
//! It takes every write that is queued, appends them all, makes them durable with one sync, and reports the last: what
//! queues up during one sync shares the next. If an append or a sync fails, the process ends there and then, since
//! nothing after that could be acknowledged truthfully: the kernel may have dropped what it was given and call it
//! clean. When nothing has come for a moment the log is sealed, so that damage can be told from a torn tail.
//!
//! Not handled: bounding the queue; the node has a bounded number of writes under way.

use crate::background::{Background, Job};
use crate::handle::Handle;
use crate::worker;
use node::{Event, WriteId};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;
use storage::StorageError;
use storage::log::{Log, LogWrite, Spare};

/// The way to the log's thread, which ends when this is dropped.
pub(crate) struct LogThread {
    orders: Sender<Order>,
}

enum Order {
    Write { id: WriteId, write: LogWrite },
    TakeSpare(Spare),
    Seal,
    End,
}

/// The way back for a spare segment that another thread makes.
pub(crate) struct SpareReturn {
    orders: Sender<Order>,
}

impl LogThread {
    pub fn start(log: Log, handle: Handle, background: Background) -> std::io::Result<(LogThread, JoinHandle<()>)> {
        let (orders, queue) = mpsc::channel();
        let back = orders.clone();
        let thread = worker::start("log", move || {
            if let Err(error) = serve(log, &queue, &back, &handle, &background) {
                stop_the_process(&error);
            }
        })?;
        Ok((LogThread { orders }, thread))
    }

    pub fn write(&self, id: WriteId, write: LogWrite) {
        self.order(Order::Write { id, write });
    }

    /// For a graceful end.
    pub fn seal(&self) {
        self.order(Order::Seal);
    }

    fn order(&self, order: Order) {
        // The thread ends before this only together with the process.
        let _ = self.orders.send(order);
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.order(Order::End);
    }
}

impl SpareReturn {
    pub fn hand_back(self, spare: Spare) {
        // If the log's thread has ended, the next start of the node removes the spare.
        let _ = self.orders.send(Order::TakeSpare(spare));
    }
}

fn serve(
    mut log: Log,
    queue: &Receiver<Order>,
    back: &Sender<Order>,
    handle: &Handle,
    background: &Background,
) -> Result<(), StorageError> {
    loop {
        let first = if log.is_sealed() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(QUIET)
        };
        let first = match first {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => Order::Seal,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let (mut last, mut seal, mut end) = (None, false, false);
        for order in std::iter::once(first).chain(queue.try_iter()) {
            match order {
                Order::Write { id, write } => {
                    log.append(&write)?;
                    last = Some(id);
                }
                Order::TakeSpare(spare) => log.add_spare(spare),
                Order::Seal => seal = true,
                Order::End => end = true,
            }
        }
        if let Some(id) = last {
            log.sync()?;
            handle.shared().inbox.event(Event::LogWritten { id });
            if let Some(job) = log.spare_job() {
                background.ask(Job::MakeSpare { job, back: SpareReturn { orders: back.clone() } });
            }
        }
        if seal {
            log.seal()?;
        }
        if end {
            return Ok(());
        }
    }
}

fn stop_the_process(error: &StorageError) -> ! {
    tracing::error!("the log can't be written, so this node stops: {error}");
    std::process::exit(1);
}

/// After this long without a write the log is sealed.
const QUIET: Duration = Duration::from_millis(500);
