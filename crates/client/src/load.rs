//! A closed loop of clients that measures a store: each sends its next request when the last was answered.
//!
//! What is measured is behind [`Driver`], so that two stores can be measured by the same loop. All clients run on one
//! thread, since the machine they run on is often also the store's; a current-thread runtime is enough. Nothing
//! is counted during the warm-up, nor what begins after the end.
//!
//! A closed loop asks a slow store less: a stall shows as one long latency for each client, not as the queue it
//! would have caused (what Gil Tene calls coordinated omission). So compare such figures with each other only.
//!
//! Not handled: open loops at a given rate, several threads, skewed keys.

use crate::hraftd::{Connection, Error};
use crate::net::{Endpoint, Message, Pipe};
use crate::wire::key_path;
use crate::{Client, DEFAULT_TIME_LIMIT, Level};
use base::rng::Rng;
use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::Method;
use hyper::header::HeaderMap;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;
use tokio::time::Instant as Until;

/// One client's way to the store.
pub trait Driver {
    /// Sends a write and waits for its acknowledgement. An error is a short kind to count by.
    fn write(&mut self, key: &str, value: &str) -> impl Future<Output = Result<(), String>>;

    fn read(&mut self, key: &str) -> impl Future<Output = Result<(), String>>;
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub clients: usize,
    pub warm_up: Duration,
    pub measured: Duration,
    pub keys: u64,
    pub key_size_bytes: usize,
    pub value_size_bytes: usize,
    /// 0 to 100; the rest are writes.
    pub read_percent: u8,
    /// Which keys are chosen in which order.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            clients: 64,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(10),
            keys: 10_000,
            key_size_bytes: 16,
            value_size_bytes: 100,
            read_percent: 0,
            seed: 1,
        }
    }
}

/// What was measured. Latencies are in microseconds.
#[derive(Clone, Debug)]
pub struct Report {
    pub elapsed: Duration,
    pub reads: Histogram<u64>,
    pub writes: Histogram<u64>,
    /// How often each kind of error came.
    pub errors: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub count: u64,
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// How it went since the last time it was told.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub is_warm_up: bool,
    /// Since the end of the warm-up.
    pub elapsed: Duration,
    pub per_second: f64,
    pub errors: u64,
}

impl Plan {
    /// Says what is wrong with it, if anything.
    pub fn validate(&self) -> Result<(), String> {
        let digits = self.keys.saturating_sub(1).max(1).ilog10() as usize + 1;
        if self.clients == 0 || self.keys == 0 || self.measured.is_zero() {
            Err("clients, keys and seconds must be at least 1".to_string())
        } else if self.read_percent > 100 {
            Err(format!("{} percent reads is more than all: use 0 to 100", self.read_percent))
        } else if self.key_size_bytes < digits + 1 {
            let needed = digits + 1;
            Err(format!("{} keys need a key size of at least {needed}: use larger or fewer keys", self.keys))
        } else {
            Ok(())
        }
    }

    /// The name of a key: `k`, then its number, of the planned size.
    fn key(&self, number: u64) -> String {
        format!("k{number:0width$}", width = self.key_size_bytes - 1)
    }

    fn value(&self, rng: &mut Rng) -> String {
        (0..self.value_size_bytes).map(|_| *rng.pick(VALUE_ALPHABET) as char).collect()
    }
}

const VALUE_ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
/// So that a store that is down is asked ten times a second by each client, not without pause.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

impl Report {
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        // Both have the same bounds, so it can't fail.
        let _ = all.add(&self.writes);
        all
    }

    pub fn summary(&self, histogram: &Histogram<u64>) -> Summary {
        Summary {
            count: histogram.len(),
            per_second: histogram.len() as f64 / self.elapsed.as_secs_f64(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Writes every planned key once, so that reads find something. Stops at the first error.
pub async fn fill<D: Driver + 'static>(plan: &Plan, drivers: Vec<D>) -> Result<Vec<D>, String> {
    plan.validate()?;
    let next = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let mut tasks = Vec::new();
    for (number, mut driver) in drivers.into_iter().enumerate() {
        let (plan, next) = (plan.clone(), next.clone());
        tasks.push(local.spawn_local(async move {
            let value = plan.value(&mut Rng::new(number as u64));
            while next.get() < plan.keys {
                let key = plan.key(next.replace(next.get() + 1));
                driver.write(&key, &value).await?;
            }
            Ok::<D, String>(driver)
        }));
    }
    local
        .run_until(async {
            let mut drivers = Vec::new();
            for task in tasks {
                drivers.push(task.await.map_err(|error| error.to_string())??);
            }
            Ok(drivers)
        })
        .await
}

struct Shared {
    plan: Plan,
    phase: Cell<Phase>,
    reads: RefCell<Histogram<u64>>,
    writes: RefCell<Histogram<u64>>,
    errors: RefCell<BTreeMap<String, u64>>,
    answered: Cell<u64>,
    failed: Cell<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    WarmUp,
    Measured,
    Over,
}

/// Runs the plan, one client for each driver (`plan.clients` is what the caller made them from), and calls `progress`
/// about once a second.
pub async fn run<D: Driver + 'static>(
    plan: &Plan,
    drivers: Vec<D>,
    mut progress: impl FnMut(Progress),
) -> Result<Report, String> {
    plan.validate()?;
    let shared = Rc::new(Shared {
        plan: plan.clone(),
        phase: Cell::new(Phase::WarmUp),
        reads: RefCell::new(new_histogram()?),
        writes: RefCell::new(new_histogram()?),
        errors: RefCell::new(BTreeMap::new()),
        answered: Cell::new(0),
        failed: Cell::new(0),
    });
    let local = LocalSet::new();
    let mut rng = Rng::new(plan.seed);
    let mut tasks = Vec::new();
    for driver in drivers {
        tasks.push(local.spawn_local(client(shared.clone(), driver, rng.fork())));
    }
    let elapsed = local
        .run_until(async {
            tell_for(plan.warm_up, &shared, &mut progress).await;
            shared.phase.set(Phase::Measured);
            let elapsed = tell_for(plan.measured, &shared, &mut progress).await;
            shared.phase.set(Phase::Over);
            // What is still on its way is not waited for: a store that hangs must not hang the bench.
            tasks.iter().for_each(|task| task.abort());
            elapsed
        })
        .await;
    let report = Report {
        elapsed,
        reads: shared.reads.borrow().clone(),
        writes: shared.writes.borrow().clone(),
        errors: shared.errors.borrow().clone(),
    };
    Ok(report)
}

async fn client<D: Driver>(shared: Rc<Shared>, mut driver: D, mut rng: Rng) {
    let plan = &shared.plan;
    let mut value = plan.value(&mut rng);
    while shared.phase.get() != Phase::Over {
        let key = plan.key(rng.below(plan.keys));
        let is_read = rng.below(100) < u64::from(plan.read_percent);
        let phase = shared.phase.get();
        let began = Instant::now();
        let result = if is_read {
            driver.read(&key).await
        } else {
            // Two letters suffice to make it another value than before.
            if value.len() >= 2 {
                value.replace_range(
                    ..2,
                    std::str::from_utf8(&[*rng.pick(VALUE_ALPHABET), *rng.pick(VALUE_ALPHABET)]).unwrap_or("xx"),
                );
            }
            driver.write(&key, &value).await
        };
        let latency_us = began.elapsed().as_micros() as u64;
        let is_counted = phase == Phase::Measured && shared.phase.get() == Phase::Measured;
        match result {
            Ok(()) => {
                shared.answered.set(shared.answered.get() + 1);
                if is_counted {
                    let histogram = if is_read { &shared.reads } else { &shared.writes };
                    histogram.borrow_mut().saturating_record(latency_us.max(1));
                }
            }
            Err(kind) => {
                shared.failed.set(shared.failed.get() + 1);
                if is_counted {
                    *shared.errors.borrow_mut().entry(kind).or_default() += 1;
                }
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// Waits, telling how it goes. Returns how long it really took.
async fn tell_for(time: Duration, shared: &Shared, progress: &mut impl FnMut(Progress)) -> Duration {
    let began = Instant::now();
    let (mut told_at, mut answered, mut failed) = (began, shared.answered.get(), shared.failed.get());
    loop {
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            return began.elapsed();
        }
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        progress(Progress {
            is_warm_up: shared.phase.get() == Phase::WarmUp,
            elapsed: began.elapsed(),
            per_second: (shared.answered.get() - answered) as f64 / told_at.elapsed().as_secs_f64(),
            errors: shared.failed.get() - failed,
        });
        (told_at, answered, failed) = (Instant::now(), shared.answered.get(), shared.failed.get());
    }
}

fn new_histogram() -> Result<Histogram<u64>, String> {
    const HOUR_US: u64 = 3_600_000_000;
    Histogram::new_with_bounds(1, HOUR_US, 3).map_err(|error| error.to_string())
}

/// Drives anything that speaks hraftd's HTTP, over a connection of its own.
pub struct HttpDriver {
    endpoints: Rc<[String]>,
    /// Where to connect next.
    at: usize,
    level: Level,
    connection: Option<Connection>,
}

impl HttpDriver {
    /// Connects to endpoint number `at`, or to the next that can be reached. The time limit is the connection's.
    pub async fn connect(endpoints: Rc<[String]>, at: usize, level: Level) -> Result<HttpDriver, Error> {
        let mut driver = HttpDriver { endpoints, at, level, connection: None };
        let mut result = Err(Error::NoEndpoints);
        for _ in 0..driver.endpoints.len() {
            result = driver.reconnect().await;
            if result.is_ok() {
                break;
            }
        }
        result.map(|()| driver)
    }

    async fn reconnect(&mut self) -> Result<(), Error> {
        let endpoint = self.endpoints.get(self.at % self.endpoints.len().max(1)).ok_or(Error::NoEndpoints)?;
        let opened = Connection::open(endpoint).await;
        if opened.is_err() {
            self.at += 1;
        }
        self.connection = Some(opened?);
        Ok(())
    }

    async fn connection(&mut self) -> Result<&mut Connection, String> {
        if !self.connection.as_ref().is_some_and(Connection::is_open) {
            self.connection = None;
            self.reconnect().await.map_err(|error| error.kind())?;
        }
        self.connection.as_mut().ok_or_else(|| Error::NoEndpoints.kind())
    }
}

impl Driver for HttpDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.connection().await?.put(key, value).await.map_err(|error| error.kind())
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        let level = self.level;
        self.connection().await?.get(key, level).await.map(drop).map_err(|error| error.kind())
    }
}

/// Drives `/v1` with a [`Client`] of its own: what it repeats by itself is no error, and takes its time.
pub struct ClientDriver {
    client: Client,
}

impl ClientDriver {
    pub fn new(endpoints: &[String], level: Level) -> Result<ClientDriver, crate::Error> {
        Ok(ClientDriver { client: Client::new(endpoints)?.with_level(level) })
    }
}

impl Driver for ClientDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        let put = self.client.put(key, value.to_string()).await;
        put.map(drop).map_err(|error| error.code().to_string())
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        self.client.get(key).await.map(drop).map_err(|error| error.code().to_string())
    }
}

/// Drives `/v1` over a connection that several of them share, and repeats nothing.
#[derive(Clone)]
pub struct PipeDriver {
    pipe: Pipe,
    query: String,
}

impl PipeDriver {
    /// Clones share the connection.
    pub async fn connect(endpoint: &str, level: Level) -> Result<PipeDriver, String> {
        let endpoint = Endpoint::parse(endpoint)?;
        let pipe = endpoint.pipe(Until::now() + DEFAULT_TIME_LIMIT).await;
        let query = if level == Level::Default { String::new() } else { format!("?level={level}") };
        Ok(PipeDriver { pipe: pipe.map_err(|failure| failure.to_string())?, query })
    }

    async fn send(&self, method: Method, path: String, body: Bytes) -> Result<(), String> {
        let message = Message { method, path, headers: HeaderMap::new(), body };
        match self.pipe.exchange(&message, Until::now() + DEFAULT_TIME_LIMIT).await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(format!("status {}", answer.status.as_u16())),
            Err(failure) => Err(failure.to_string()),
        }
    }
}

impl Driver for PipeDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.send(Method::PUT, key_path(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes())).await
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        self.send(Method::GET, format!("{}{}", key_path(key.as_bytes()), self.query), Bytes::new()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_planned_size_and_must_fit_it() {
        let plan = Plan { keys: 1000, key_size_bytes: 4, ..Plan::default() };
        assert_eq!(plan.validate(), Ok(()));
        assert_eq!((plan.key(0), plan.key(999)), ("k000".to_string(), "k999".to_string()));
        let error = Plan { keys: 1001, key_size_bytes: 4, ..Plan::default() }.validate().unwrap_err();
        assert!(error.contains("at least 5"), "{error}");
        assert_eq!(Plan { keys: 1, key_size_bytes: 2, ..Plan::default() }.validate(), Ok(()));
        assert_eq!(Plan::default().key(7).len(), 16);
        assert!(Plan { clients: 0, ..Plan::default() }.validate().is_err());
        assert!(Plan { read_percent: 101, ..Plan::default() }.validate().is_err());
    }

    #[test]
    fn a_summary_counts_and_ranks() {
        let mut report = Report {
            elapsed: Duration::from_secs(2),
            reads: new_histogram().unwrap(),
            writes: new_histogram().unwrap(),
            errors: [("unreachable".to_string(), 2), ("status 503".to_string(), 3)].into(),
        };
        for latency_us in 1..=1000 {
            report.reads.record(latency_us).unwrap();
        }
        report.writes.record(2000).unwrap();
        let summary = report.summary(&report.all());
        assert_eq!((summary.count, summary.per_second), (1001, 500.5));
        assert_eq!((summary.p50_us, summary.p99_us, summary.p999_us), (501, 991, 1000));
        assert!((2000..=2001).contains(&summary.max_us), "{}", summary.max_us);
        assert_eq!(report.error_count(), 5);
        assert_eq!(report.summary(&report.writes).count, 1);
    }

    /// Answers after a millisecond; every tenth request fails.
    struct Slow {
        asked: u64,
    }

    impl Slow {
        async fn answer(&mut self) -> Result<(), String> {
            self.asked += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.asked.is_multiple_of(10) { Err("tenth".to_string()) } else { Ok(()) }
        }
    }

    impl Driver for Slow {
        async fn write(&mut self, _: &str, _: &str) -> Result<(), String> {
            self.answer().await
        }

        async fn read(&mut self, _: &str) -> Result<(), String> {
            self.answer().await
        }
    }

    #[tokio::test]
    async fn a_run_counts_reads_writes_and_errors() {
        let plan = Plan {
            clients: 4,
            warm_up: Duration::from_millis(50),
            measured: Duration::from_millis(400),
            read_percent: 50,
            ..Plan::default()
        };
        let mut told = Vec::new();
        let drivers = (0..4).map(|_| Slow { asked: 0 }).collect();
        let report = run(&plan, drivers, |progress| told.push(progress)).await.unwrap();
        assert!(report.reads.len() > 10 && report.writes.len() > 10, "{report:?}");
        assert!(report.errors["tenth"] > 0 && report.errors.len() == 1, "{:?}", report.errors);
        assert!(report.all().min() >= 900);
        assert!(report.elapsed >= plan.measured);
        assert!(told[0].is_warm_up && !told[1].is_warm_up);
    }

    #[tokio::test]
    async fn filling_writes_each_key_once() {
        struct Recorder(Rc<RefCell<Vec<String>>>);
        impl Driver for Recorder {
            async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
                assert_eq!(value.len(), 100);
                self.0.borrow_mut().push(key.to_string());
                tokio::task::yield_now().await;
                Ok(())
            }
            async fn read(&mut self, _: &str) -> Result<(), String> {
                Err("filling reads nothing".to_string())
            }
        }
        let plan = Plan { keys: 50, ..Plan::default() };
        let keys = Rc::new(RefCell::new(Vec::new()));
        let drivers = (0..3).map(|_| Recorder(keys.clone())).collect();
        assert_eq!(fill(&plan, drivers).await.unwrap().len(), 3);
        let expected: Vec<String> = (0..50).map(|number| plan.key(number)).collect();
        assert_eq!(*keys.borrow(), expected);
    }
}
