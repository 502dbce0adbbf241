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
use std::time::{Duration, Instant};
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
                worker::end_the_process("the log can't be written", &error);
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
            let began = Instant::now();
            log.sync()?;
            let metrics = handle.metrics();
            metrics.log_sync.note(began.elapsed());
            metrics.log_bytes.set(log.size_bytes());
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

/// After this long without a write the log is sealed.
const QUIET: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Engine;
    use crate::folder::Folder;
    use crate::handle::Identity;
    use crate::inbox::{CanWait, Input};
    use base::{Incarnation, Position};
    use bytes::Bytes;
    use std::path::Path;
    use std::sync::Arc;
    use storage::files::{Files, MemFiles};
    use storage::log::{EntryKind, GroupWrite, LogEntry, LogOptions};

    const FOLDER: &str = "/log";

    struct Bench {
        files: MemFiles,
        handle: Handle,
        background: Background,
    }

    impl Bench {
        fn new() -> Bench {
            let me = Identity {
                name: "a".into(),
                address: "a".into(),
                url: String::new(),
                incarnation: Incarnation(1),
                cluster: None,
            };
            let handle = Handle::new(me);
            handle.shared().inbox.open();
            let folder = Arc::new(Folder::open(Path::new("/data"), true, Engine::Memory).unwrap());
            let (background, _) = Background::start(folder, handle.clone()).unwrap();
            Bench { files: MemFiles::with_faults(), handle, background }
        }

        fn open(&self) -> (Log, Vec<LogEntry>) {
            let options = LogOptions { segment_size_bytes: 64 * 1024, ..LogOptions::default() };
            let (log, mut groups) = Log::open(Arc::new(self.files.clone()), Path::new(FOLDER), options).unwrap();
            (log, groups.remove(&0).unwrap_or_default().entries)
        }

        /// Lets the thread's loop see these orders, all queued before it looks.
        fn serve(&self, log: Log, orders: Vec<Order>) -> Result<(), StorageError> {
            let (back, queue) = mpsc::channel();
            for order in orders {
                back.send(order).unwrap();
            }
            serve(log, &queue, &back, &self.handle, &self.background)
        }

        fn reported(&self) -> Vec<WriteId> {
            let mut batch = Vec::new();
            self.handle.shared().inbox.take(Instant::now(), CanWait::default(), &mut batch);
            let id = |input| match input {
                Input::Event(Event::LogWritten { id }) => Some(id),
                _ => None,
            };
            batch.into_iter().filter_map(id).collect()
        }
    }

    fn write(id: WriteId) -> Order {
        let entry = LogEntry {
            position: Position { index: id, term: 1 },
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"x"),
            context: Bytes::new(),
        };
        let group = GroupWrite { entries: vec![entry], ..GroupWrite::default() };
        Order::Write { id, write: LogWrite { groups: vec![group] } }
    }

    #[test]
    fn what_is_queued_is_one_batch_and_is_on_disk_when_it_is_reported() {
        let bench = Bench::new();
        let (log, _) = bench.open();
        bench.serve(log, vec![write(1), write(2), write(3), Order::End]).unwrap();
        assert_eq!(bench.reported(), [3]);
        bench.files.crash(&mut base::rng::Rng::new(1));
        assert_eq!(bench.open().1.len(), 3);
    }

    #[test]
    fn a_sealed_log_notices_damage_to_its_last_write() {
        let bench = Bench::new();
        let (log, _) = bench.open();
        bench.serve(log, vec![write(1), Order::Seal, Order::End]).unwrap();
        let newest = bench.files.list(Path::new(FOLDER)).unwrap();
        let newest = newest.iter().rfind(|name| name.starts_with("segment")).unwrap();
        // What a seal covers is no torn tail any more: a flip is noticed.
        let bytes = bench.files.read_all(&Path::new(FOLDER).join(newest)).unwrap();
        let entry = bytes.iter().rposition(|&byte| byte == b'x').unwrap();
        bench.files.flip(&Path::new(FOLDER).join(newest), entry as u64, 1).unwrap();
        let opened = Log::open(Arc::new(bench.files.clone()), Path::new(FOLDER), LogOptions::default());
        assert!(matches!(opened, Err(StorageError::Damaged { .. })));
    }

    /// After a failed sync or write nothing may be reported, whatever comes next.
    #[test]
    fn a_failed_sync_or_write_ends_it_and_reports_nothing() {
        for fail in [MemFiles::fail_sync_after, MemFiles::fail_write_after] {
            let bench = Bench::new();
            let (log, _) = bench.open();
            fail(&bench.files, 1);
            bench.serve(log, vec![write(1), write(2), Order::End]).unwrap_err();
            assert_eq!(bench.reported(), [0; 0]);
        }
    }
}
