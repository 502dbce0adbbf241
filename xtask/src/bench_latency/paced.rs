//! Clients that write at a fixed rate, whatever the answers take.
//!
//! Each has a timetable. Who is late when a request is due sends it at once, and its latency counts from when it was
//! due: a stall is paid for by all who had to wait, as it would be by real clients. Who is on time counts from
//! when it really sends, since a timer that rings late is not the store's fault.

use client::load::Driver;
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

pub struct Pace {
    /// Writes per second, of all clients together.
    pub rate: f64,
    pub duration: Duration,
    pub window: Duration,
    pub keys: u64,
}

/// Latencies by when they began to count.
pub struct Windows {
    length: Duration,
    windows: Vec<Latencies>,
}

pub struct Latencies {
    /// In microseconds.
    pub latencies: Histogram<u64>,
    /// Writes that were answered in this window, whenever they began.
    pub answered: u64,
    pub errors: u64,
}

impl Windows {
    pub fn new(duration: Duration, length: Duration) -> Windows {
        let count = duration.as_nanos().div_ceil(length.as_nanos()) as usize;
        let empty =
            || Latencies { latencies: Histogram::new(3).expect("three digits are allowed"), answered: 0, errors: 0 };
        Windows { length, windows: std::iter::repeat_with(empty).take(count).collect() }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Latencies> {
        self.windows.iter()
    }

    /// What began at a time since the beginning.
    pub fn record(&mut self, began: Duration, outcome: Result<Duration, String>) {
        if let Ok(latency) = outcome
            && let Some(window) = self.at(began + latency)
        {
            window.answered += 1;
        }
        let Some(window) = self.at(began) else { return };
        match outcome {
            Ok(latency) => window.latencies.record(latency.as_micros().max(1) as u64).expect("it grows by itself"),
            Err(_) => window.errors += 1,
        }
    }

    fn at(&mut self, time: Duration) -> Option<&mut Latencies> {
        self.windows.get_mut((time.as_nanos() / self.length.as_nanos()) as usize)
    }
}

/// One client for each driver.
pub async fn run<D: Driver + 'static>(pace: &Pace, drivers: Vec<D>, began: Instant) -> Result<Windows, String> {
    let clients = drivers.len();
    if clients == 0 || pace.rate <= 0.0 {
        return Err("there is nobody to write, or nothing".to_string());
    }
    let windows = Rc::new(RefCell::new(Windows::new(pace.duration, pace.window)));
    let local = LocalSet::new();
    let every = Duration::from_secs_f64(clients as f64 / pace.rate);
    let mut tasks = Vec::new();
    for (number, driver) in drivers.into_iter().enumerate() {
        let timetable = Timetable {
            first: began + every.mul_f64(number as f64 / clients as f64),
            every,
            end: began + pace.duration,
        };
        // Each its own keys, in an order that visits all.
        let keys = (0..).map(move |at: u64| (at * clients as u64 + number as u64).wrapping_mul(STRIDE));
        let keys = keys.map({
            let count = pace.keys;
            move |key| format!("k{:015}", key % count)
        });
        tasks.push(local.spawn_local(client(driver, timetable, keys, began, windows.clone())));
    }
    local
        .run_until(async {
            for task in tasks {
                task.await.map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        })
        .await?;
    drop(local);
    Rc::into_inner(windows).map(RefCell::into_inner).ok_or_else(|| "a client did not end".to_string())
}

/// Prime, so that keys that follow each other are far apart.
const STRIDE: u64 = 7_368_787;

struct Timetable {
    first: Instant,
    every: Duration,
    end: Instant,
}

async fn client<D: Driver>(
    mut driver: D,
    timetable: Timetable,
    keys: impl Iterator<Item = String>,
    began: Instant,
    windows: Rc<RefCell<Windows>>,
) {
    let value = "v".repeat(100);
    let mut due = timetable.first;
    for key in keys {
        if due >= timetable.end {
            return;
        }
        let counts_from = if Instant::now() >= due {
            due
        } else {
            tokio::time::sleep_until(due.into()).await;
            Instant::now()
        };
        let written = driver.write(&key, &value).await;
        let outcome = written.map(|()| counts_from.elapsed());
        windows.borrow_mut().record(counts_from.saturating_duration_since(began), outcome);
        due += timetable.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at once, but for one answer that takes a while.
    struct Stalls {
        at: u32,
        stall: Duration,
    }

    impl Driver for Stalls {
        async fn write(&mut self, _: &str, _: &str) -> Result<(), String> {
            self.at += 1;
            if self.at == 10 {
                tokio::time::sleep(self.stall).await;
            }
            Ok(())
        }

        async fn read(&mut self, _: &str) -> Result<(), String> {
            Err("nobody reads".to_string())
        }
    }

    /// A closed loop would count one slow answer; twenty requests were due meanwhile.
    #[tokio::test]
    async fn a_stall_is_paid_for_by_all_that_had_to_wait() {
        let window = Duration::from_millis(100);
        let pace = Pace { rate: 100.0, duration: Duration::from_millis(500), window, keys: 100 };
        let driver = Stalls { at: 0, stall: Duration::from_millis(200) };
        let windows = run(&pace, vec![driver], Instant::now()).await.unwrap();
        let slow: u64 = windows.iter().map(|w| w.latencies.len() - w.latencies.count_between(0, 50_000)).sum();
        let all: u64 = windows.iter().map(|w| w.latencies.len()).sum();
        assert_eq!(all, 50, "all are sent in the end");
        assert!(slow >= 10, "{slow}");
    }

    #[test]
    fn errors_are_counted_where_they_began() {
        let mut windows = Windows::new(Duration::from_secs(1), Duration::from_millis(250));
        windows.record(Duration::from_millis(600), Err("503".to_string()));
        windows.record(Duration::from_secs(9), Err("too late to count".to_string()));
        assert_eq!(windows.iter().map(|w| w.errors).collect::<Vec<_>>(), [0, 0, 1, 0]);
    }
}
