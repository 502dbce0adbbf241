//! Our engine on disk, with a thread for its jobs, as a node has one.

use super::Engine;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use storage::StorageError;
use storage::engine::disk::{DiskEngine, DiskOptions, DiskView, Finished, Job};
use storage::engine::{Batch, Engine as _, Key, Sequence, View as _};
use storage::files::{Files, RealFiles};

pub struct Tables {
    engine: DiskEngine,
    batch: Batch,
    view: DiskView,
    sequence: Sequence,
    jobs: Sender<Job>,
    done: Receiver<Result<Finished, String>>,
    under_way: usize,
}

impl Tables {
    pub fn open(folder: &Path, memory: usize) -> Result<Tables, String> {
        let files: Arc<dyn Files> = Arc::new(RealFiles::new());
        let (options, boundary) = (DiskOptions::within(memory), || Key::new(&[255; 17]));
        let engine = match DiskEngine::open(files.clone(), folder, options, boundary()).map_err(told)? {
            Some((engine, _)) => engine,
            None => DiskEngine::create(files, folder, options, boundary()).map_err(told)?,
        };
        let (jobs, queue) = mpsc::channel();
        let (tell, done) = mpsc::channel();
        thread::spawn(move || work(&queue, &tell));
        let (view, sequence) = (engine.view(), engine.sequence());
        Ok(Tables { engine, batch: Batch::new(), view, sequence, jobs, done, under_way: 0 })
    }

    fn take(&mut self, finished: Result<Finished, String>) -> Result<(), String> {
        self.under_way -= 1;
        self.engine.finish(finished?);
        Ok(())
    }

    fn give_jobs(&mut self) -> Result<(), String> {
        while let Some(job) = self.engine.next_job() {
            self.under_way += 1;
            self.jobs.send(job).map_err(|_| "the thread for jobs is gone".to_string())?;
        }
        Ok(())
    }
}

/// The smallest job goes on first.
fn work(queue: &Receiver<Job>, tell: &Sender<Result<Finished, String>>) {
    let mut jobs: Vec<Job> = Vec::new();
    loop {
        if jobs.is_empty() {
            let Ok(job) = queue.recv() else { return };
            jobs.push(job);
        }
        jobs.extend(queue.try_iter());
        let Some(smallest) = (0..jobs.len()).min_by_key(|&at| jobs[at].size_bytes()) else { continue };
        let finished = match jobs[smallest].step() {
            Ok(None) => continue,
            Ok(Some(finished)) => Ok(finished),
            Err(error) => Err(told(error)),
        };
        drop(jobs.remove(smallest));
        if tell.send(finished).is_err() {
            return;
        }
    }
}

impl Engine for Tables {
    /// Every put is an entry of the log of its own, with its own sequence.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.engine.look(key, |before| std::hint::black_box(before.is_some())).map_err(told)?;
        self.sequence += 1;
        self.batch.put(Key::new(key), Bytes::copy_from_slice(value));
        self.engine.write(self.sequence, std::mem::take(&mut self.batch)).map_err(told)
    }

    /// Nothing of the past is kept, as for the other engines.
    fn end_turn(&mut self) -> Result<(), String> {
        self.view = self.engine.view();
        self.engine.evict_below(self.sequence);
        if self.engine.is_full() {
            self.engine.seal(Bytes::new());
        }
        while let Ok(finished) = self.done.try_recv() {
            self.take(finished)?;
        }
        self.give_jobs()?;
        // At its bound a node refuses writes.
        while self.engine.fill().used_bytes >= self.engine.fill().bound_bytes {
            let finished = self.done.recv().map_err(|_| "the thread for jobs is gone".to_string())?;
            self.take(finished)?;
            self.give_jobs()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        self.engine.seal(Bytes::new());
        self.end_turn()?;
        while self.under_way > 0 {
            let finished = self.done.recv().map_err(|_| "the thread for jobs is gone".to_string())?;
            self.take(finished)?;
            self.view = self.engine.view();
            self.give_jobs()?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<bool, String> {
        Ok(self.view.get(key).map_err(told)?.is_some())
    }

    fn scan(&self, from: &[u8], rows: usize) -> Result<usize, String> {
        let mut found = 0;
        for row in self.view.range(from, None).take(rows) {
            std::hint::black_box(row.map_err(told)?);
            found += 1;
        }
        Ok(found)
    }
}

fn told(error: StorageError) -> String {
    error.to_string()
}
