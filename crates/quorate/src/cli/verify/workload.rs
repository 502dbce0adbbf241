//! Clients that ask without a pause, and what they were told.

use super::super::{Connect, Failure};
use base::rng::Rng;
use client::{Client, Error, Level};
use lincheck::{History, Operation, OperationId, Outcome};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// As many as are judged within a moment.
const REQUESTS_PER_KEY: u64 = 250;
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

pub struct Plan {
    pub clients: u64,
    pub keys: u64,
    pub time: Duration,
    pub level: Level,
    pub endpoints: Connect,
    pub prefix: String,
}

pub struct Run {
    pub history: History,
    pub writes: Vec<Write>,
    pub counts: Counts,
    pub last_error: Option<Failure>,
}

/// A write, for the witness.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: String,
    /// Nothing: a delete.
    pub value: Option<String>,
    /// Only if the key was last changed at this revision.
    pub after: Option<u64>,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It made this revision.
    Done(u64),
    /// It changed nothing.
    Nothing,
    Unknown,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    pub gets: Count,
    pub puts: Count,
    pub conditional: Count,
    pub deletes: Count,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Count {
    pub done: u64,
    /// A condition did not hold.
    pub refused: u64,
    pub unknown: u64,
    /// Nothing was changed.
    pub failed: u64,
}

impl Counts {
    fn all(&self) -> [&Count; 4] {
        [&self.gets, &self.puts, &self.conditional, &self.deletes]
    }

    pub fn completed(&self) -> u64 {
        self.all().iter().map(|count| count.done + count.refused).sum()
    }

    pub fn asked(&self) -> u64 {
        self.completed() + self.all().iter().map(|count| count.unknown + count.failed).sum::<u64>()
    }
}

impl Run {
    pub fn newest_revision(&self) -> u64 {
        let made = |write: &Write| if let End::Done(revision) = write.end { Some(revision) } else { None };
        self.writes.iter().filter_map(made).max().unwrap_or(0)
    }
}

pub fn fresh_prefix() -> Result<String, Failure> {
    let drawn = getrandom::u64().map_err(|error| Failure::other(format!("the system gives no randomness: {error}")))?;
    Ok(format!("quorate-verify/{drawn:016x}/"))
}

/// All clients share this thread, so the order in which they record is the order in which things happened.
struct Shared {
    plan: Plan,
    began: Instant,
    asked: Cell<u64>,
    run: RefCell<Run>,
}

pub async fn run(plan: Plan) -> Result<Run, Failure> {
    let shared = Rc::new(Shared {
        plan,
        began: Instant::now(),
        asked: Cell::new(0),
        run: RefCell::new(Run {
            history: History::new(),
            writes: Vec::new(),
            counts: Counts::default(),
            last_error: None,
        }),
    });
    let seed = getrandom::u64().map_err(|error| Failure::other(format!("the system gives no randomness: {error}")))?;
    let local = LocalSet::new();
    let mut tasks = Vec::new();
    for number in 0..shared.plan.clients {
        // A client of its own for each, so that they ask different nodes.
        let client = shared.plan.endpoints.client()?.with_level(shared.plan.level);
        let worker =
            Worker { shared: shared.clone(), client, number, rng: Rng::new(seed ^ number), last: None, written: 0 };
        tasks.push(local.spawn_local(worker.work()));
    }
    local
        .run_until(async {
            for task in tasks {
                task.await.map_err(|error| Failure::other(error.to_string()))??;
            }
            Ok::<(), Failure>(())
        })
        .await?;
    let shared = Rc::into_inner(shared).ok_or_else(|| Failure::other("a client is still at work"))?;
    Ok(shared.run.into_inner())
}

struct Worker {
    shared: Rc<Shared>,
    client: Client,
    number: u64,
    rng: Rng,
    /// A key and the revision at which it was seen last.
    last: Option<(String, u64)>,
    written: u64,
}

impl Worker {
    async fn work(mut self) -> Result<(), Failure> {
        while self.shared.began.elapsed() < self.shared.plan.time {
            let result = match (self.rng.below(10), self.last.take()) {
                (0, Some((key, revision))) => self.put(key, Some(revision)).await,
                (0..=3, _) => {
                    let key = self.key();
                    self.put(key, None).await
                }
                (4, _) => self.delete().await,
                _ => self.get().await,
            };
            match result {
                Ok(()) => {}
                // Then all that follows would fail as well.
                Err(error @ (Error::Invalid(_) | Error::Faulty(_))) => return Err(error.into()),
                Err(error) => {
                    self.shared.run.borrow_mut().last_error = Some(error.into());
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
        Ok(())
    }

    fn key(&mut self) -> String {
        let Plan { keys, prefix, .. } = &self.shared.plan;
        let asked = self.shared.asked.replace(self.shared.asked.get() + 1);
        format!("{prefix}{}/{}", asked / (keys * REQUESTS_PER_KEY), self.rng.below(*keys))
    }

    fn invoke(&self, operation: Operation) -> OperationId {
        let at = self.now();
        self.shared.run.borrow_mut().history.invoke(self.number, operation, at)
    }

    fn now(&self) -> u64 {
        self.shared.began.elapsed().as_nanos() as u64
    }

    async fn get(&mut self) -> Result<(), Error> {
        let key = self.key();
        let id = self.invoke(Operation::get(key.clone()));
        let result = self.client.get(&key).await;
        let (at, mut run) = (self.now(), self.shared.run.borrow_mut());
        match result {
            Ok(kv) => {
                run.counts.gets.done += 1;
                run.history.complete(id, Outcome::Read(kv.as_ref().map(|kv| kv.value.to_vec())), at);
                self.last = kv.map(|kv| (key, kv.mod_revision));
                Ok(())
            }
            Err(error) => {
                run.counts.gets.failed += 1;
                run.history.failed(id);
                Err(error)
            }
        }
    }

    async fn put(&mut self, key: String, after: Option<u64>) -> Result<(), Error> {
        self.written += 1;
        let value = format!("{}-{}", self.number, self.written);
        let id = self.invoke(Operation::put(key.clone(), value.clone()));
        let mut put = self.client.put(&key, value.clone());
        if let Some(revision) = after {
            put = put.if_match(revision);
        }
        let result = put.await.map(|done| End::Done(done.revision));
        if let Ok(End::Done(revision)) = result {
            self.last = Some((key.clone(), revision));
        }
        self.record(id, Write { key, value: Some(value), after, end: End::Nothing }, result)
    }

    async fn delete(&mut self) -> Result<(), Error> {
        let key = self.key();
        let id = self.invoke(Operation::delete(key.clone()));
        let result = self.client.delete(&key).await;
        // A delete of what was not there makes no revision, but it saw that nothing was there.
        let result = result.map(|done| if done.deleted == 0 { End::Nothing } else { End::Done(done.revision) });
        self.record(id, Write { key, value: None, after: None, end: End::Nothing }, result)
    }

    fn record(&self, id: OperationId, mut write: Write, result: Result<End, Error>) -> Result<(), Error> {
        let at = self.now();
        let run = &mut *self.shared.run.borrow_mut();
        let count = match (&write.value, write.after) {
            (None, _) => &mut run.counts.deletes,
            (_, Some(_)) => &mut run.counts.conditional,
            _ => &mut run.counts.puts,
        };
        let told = match result {
            Ok(end) => {
                count.done += 1;
                run.history.complete(id, Outcome::Done, at);
                write.end = end;
                Ok(())
            }
            Err(Error::PreconditionFailed(_)) => {
                count.refused += 1;
                run.history.failed(id);
                Ok(())
            }
            Err(error @ Error::Unknown(_)) => {
                count.unknown += 1;
                run.history.unknown(id);
                write.end = End::Unknown;
                Err(error)
            }
            Err(error) => {
                count.failed += 1;
                run.history.failed(id);
                Err(error)
            }
        };
        run.writes.push(write);
        told
    }
}
