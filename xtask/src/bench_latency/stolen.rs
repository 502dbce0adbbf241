//! How much of the processors' time the machine's host gave to others.

use std::time::Duration;

/// What Linux counted, each time that it was asked. Elsewhere nothing is known, and nothing counts as stolen.
#[derive(Default)]
pub struct Stolen {
    looks: Vec<Look>,
}

struct Look {
    at: Duration,
    stolen: u64,
    all: u64,
}

impl Stolen {
    pub fn look(&mut self, at: Duration) {
        let counted = std::fs::read_to_string("/proc/stat").ok().and_then(|stat| counted(&stat));
        self.looks.extend(counted.map(|(stolen, all)| Look { at, stolen, all }));
    }

    /// The largest share of all processors' time between two looks that touches these moments.
    pub fn share(&self, from: Duration, to: Duration) -> f64 {
        let between = self.looks.iter().zip(self.looks.iter().skip(1));
        let near = between.filter(|(before, after)| before.at < to && after.at > from);
        let shares = near.map(|(before, after)| {
            after.stolen.saturating_sub(before.stolen) as f64 / after.all.saturating_sub(before.all).max(1) as f64
        });
        shares.fold(0.0, f64::max)
    }
}

/// Ticks that were stolen, and all: of `/proc/stat` (proc(5)), its line of all processors together.
fn counted(stat: &str) -> Option<(u64, u64)> {
    let ticks = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; what follows is within user and nice.
    let ticks: Vec<u64> = ticks.split_whitespace().take(8).map(|ticks| ticks.parse().ok()).collect::<Option<_>>()?;
    Some((*ticks.get(7)?, ticks.iter().sum()))
}

#[cfg(test)]
impl Stolen {
    /// Milliseconds, ticks that were stolen, all ticks.
    pub fn of(looks: &[(u64, u64, u64)]) -> Stolen {
        let look = |&(at, stolen, all)| Look { at: Duration::from_millis(at), stolen, all };
        Stolen { looks: looks.iter().map(look).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_counts_is_read() {
        let stat = "cpu  82 13 14 306 15 0 2 244 7 0\ncpu0 41 6 7 150 8 0 1 120 0 0\n";
        assert_eq!(counted(stat), Some((244, 676)));
        for other in ["", "cpu  1 2 3", "cpu  a b c d e f g h", "intr 1 2 3 4 5 6 7 8"] {
            assert_eq!(counted(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_share_is_of_the_looks_around() {
        let stolen = Stolen::of(&[(0, 100, 1000), (250, 100, 1050), (510, 110, 1100)]);
        let share = |from, to| stolen.share(Duration::from_millis(from), Duration::from_millis(to));
        assert_eq!(share(0, 250), 0.0);
        assert_eq!(share(250, 500), 0.2);
        assert_eq!(share(200, 300), 0.2);
        assert_eq!(share(510, 750), 0.0);
        assert_eq!(Stolen::default().share(Duration::ZERO, Duration::from_secs(1)), 0.0);
    }
}
