//! The thread that writes the log.
//!
//! It takes every write that is queued, appends them all, makes them durable with one sync, and reports the last: what
//! queues up during one sync shares the next. If an append or a sync fails, the process ends there and then, since
//! nothing after that could be acknowledged truthfully: the kernel may have dropped what it was given and call it
//! clean. When nothing has come for a moment the log is sealed, so that damage can be told from a torn tail.
//!
//! Segments to come are filled with zeros by a thread beside it, at its own pace.
//!
//! Not handled: bounding the queue; the node has a bounded number of writes under way.

use crate::folder::Folder;
use crate::handle::Handle;
use crate::leisure::{self, Pace};
use crate::worker;
use node::{Event, WriteId};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::StorageError;
use storage::log::{Log, LogWrite, Spare, SpareJob};

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

impl LogThread {
    /// Also the handles of its threads. Either keeps the folder from any other process, as long as it may write there.
    pub fn start(log: Log, handle: Handle, folder: Arc<Folder>) -> std::io::Result<(LogThread, [JoinHandle<()>; 2])> {
        let (orders, queue) = mpsc::channel();
        let (spare_jobs, wanted) = mpsc::channel();
        let back = orders.clone();
        let also_folder = folder.clone();
        let spares = worker::start("spares", move || {
            make_spares(&wanted, &back);
            drop(also_folder);
        })?;
        let log = worker::start("log", move || {
            if let Err(error) = serve(log, &queue, &spare_jobs, &handle) {
                worker::end_the_process("the log can't be written", &error);
            }
            drop(folder);
        })?;
        Ok((LogThread { orders }, [spares, log]))
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

fn make_spares(wanted: &Receiver<SpareJob>, back: &Sender<Order>) {
    leisure::step_back(NICENESS);
    for job in wanted {
        let mut pace = Pace::begin();
        match job.run(|| pace.give_way()) {
            // If the log's thread has ended, the next start of the node removes the spare.
            Ok(spare) => drop(back.send(Order::TakeSpare(spare))),
            Err(error) => tracing::debug!("no spare segment for the log: {error}"),
        }
    }
}

/// About a tenth of a processor that others want as well.
const NICENESS: i32 = 10;

fn serve(
    mut log: Log,
    queue: &Receiver<Order>,
    spare_jobs: &Sender<SpareJob>,
    handle: &Handle,
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
            if let Some(job) = if end { None } else { log.spare_job() } {
                // That thread lives as long as this one.
                let _ = spare_jobs.send(job);
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
    use crate::handle::Identity;
    use crate::inbox::{CanWait, Input};
    use base::{Incarnation, Position};
    use bytes::Bytes;
    use std::path::Path;
    use storage::files::{Files, MemFiles};
    use storage::log::{EntryKind, GroupWrite, LogEntry, LogOptions};

    const FOLDER: &str = "/log";

    struct Bench {
        files: MemFiles,
        handle: Handle,
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
            Bench { files: MemFiles::with_faults(), handle }
        }

        fn open(&self) -> (Log, Vec<LogEntry>) {
            let options = LogOptions { segment_size_bytes: 64 * 1024, ..LogOptions::default() };
            let (log, mut groups) = Log::open(Arc::new(self.files.clone()), Path::new(FOLDER), options).unwrap();
            (log, groups.remove(&0).unwrap_or_default().entries)
        }

        /// Lets the thread's loop see these orders, all queued before it looks.
        fn serve(&self, log: Log, orders: Vec<Order>) -> Result<(), StorageError> {
            let (sender, queue) = mpsc::channel();
            for order in orders {
                sender.send(order).unwrap();
            }
            serve(log, &queue, &mpsc::channel().0, &self.handle)
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

    #[test]
    fn the_next_segment_is_made_beside_it_and_its_threads_end_with_it() {
        let bench = Bench::new();
        let (log, _) = bench.open();
        let folder = Arc::new(Folder::open(Path::new("/data"), true, Engine::Memory).unwrap());
        let (thread, handles) = LogThread::start(log, bench.handle.clone(), folder.clone()).unwrap();
        let is_there = |bench: &Bench| {
            let names = bench.files.list(Path::new(FOLDER)).unwrap();
            names.iter().any(|name| name.starts_with("spare"))
        };
        assert!(!is_there(&bench));
        thread.order(write(1));
        while !is_there(&bench) {
            std::thread::yield_now();
        }
        assert_eq!(Arc::strong_count(&folder), 3);
        drop(thread);
        handles.into_iter().for_each(|handle| handle.join().unwrap());
        assert_eq!(Arc::strong_count(&folder), 1);
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
