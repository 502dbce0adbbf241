//! How long something takes, over all times that it happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// In buckets that double, as etcd's do for what it measures on disk and network: up to 125 microseconds, …, up to 8
/// seconds, and more than that. A reader may see a duration counted and not yet summed up.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// How many buckets have an upper bound.
pub const BOUNDS: usize = 17;
const FIRST_BOUND: Duration = Duration::from_micros(125);

/// What a histogram has counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Upper bounds in seconds, and how many durations were no longer than that.
    pub upto: [(f64, u64); BOUNDS],
    pub count: u64,
    pub sum_seconds: f64,
}

impl Histogram {
    pub fn note(&self, took: Duration) {
        let bucket = (0..BOUNDS).find(|&at| took <= FIRST_BOUND * (1 << at)).unwrap_or(BOUNDS);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn counted(&self) -> Counted {
        let mut count = 0;
        let upto = std::array::from_fn(|at| {
            count += self.buckets[at].load(Ordering::Relaxed);
            ((FIRST_BOUND * (1 << at)).as_secs_f64(), count)
        });
        count += self.buckets[BOUNDS].load(Ordering::Relaxed);
        let sum_seconds = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        Counted { upto, count, sum_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_every_bucket_that_they_fit_into() {
        let histogram = Histogram::default();
        for micros in [0, 125, 126, 250, 8_192_000, 9_000_000] {
            histogram.note(Duration::from_micros(micros));
        }
        let Counted { upto, count, sum_seconds } = histogram.counted();
        assert_eq!((upto[0], upto[1], upto[2]), ((0.000_125, 2), (0.000_25, 4), (0.000_5, 4)));
        assert_eq!(upto[BOUNDS - 1], (8.192, 5));
        assert_eq!(count, 6);
        assert!((sum_seconds - 17.192_501).abs() < 1e-9, "{sum_seconds}");
    }
}
