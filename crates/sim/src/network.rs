//! The network between the hosts: delays, loss, duplication, reordering, and links that are cut.
//!
//! Links are one way. A message on a cut link is gone; so is one that is under way when it is cut, now and then.
//!
//! Not handled: bandwidth.

use crate::{HostNumber, Micros};
use base::rng::Rng;
use std::collections::BTreeSet;

/// What the network is like between its cuts.
#[derive(Clone, Debug)]
pub struct Weather {
    pub shortest_micros: Micros,
    pub longest_micros: Micros,
    /// Out of a thousand.
    pub lost: u64,
    pub doubled: u64,
    /// So many take up to fifty times as long, and are overtaken.
    pub late: u64,
}

impl Weather {
    pub fn quiet() -> Weather {
        Weather { shortest_micros: 1_000, longest_micros: 1_000, lost: 0, doubled: 0, late: 0 }
    }

    pub fn draw(rng: &mut Rng) -> Weather {
        let shortest_micros = rng.between(50, 2_000);
        let longest_micros = shortest_micros + rng.between(100, 10_000);
        match rng.below(6) {
            0 | 1 => Weather { shortest_micros, longest_micros, lost: 0, doubled: 0, late: 0 },
            2 | 3 => Weather { shortest_micros, longest_micros, lost: 10, doubled: 10, late: 20 },
            4 => Weather { shortest_micros, longest_micros, lost: 50, doubled: 200, late: 100 },
            _ => Weather { shortest_micros, longest_micros, lost: 300, doubled: 500, late: 200 },
        }
    }
}

pub struct Network {
    pub weather: Weather,
    cut: BTreeSet<(HostNumber, HostNumber)>,
    rng: Rng,
}

impl Network {
    pub fn new(weather: Weather, rng: Rng) -> Network {
        Network { weather, cut: BTreeSet::new(), rng }
    }

    /// How long each copy of a message takes; nothing if it is lost.
    pub fn send(&mut self, from: HostNumber, to: HostNumber) -> Vec<Micros> {
        if self.is_cut(from, to) || self.rng.chance(self.weather.lost) {
            return Vec::new();
        }
        let copies = if self.rng.chance(self.weather.doubled) { 2 } else { 1 };
        (0..copies).map(|_| self.delay()).collect()
    }

    pub fn delay(&mut self) -> Micros {
        let usual = self.rng.between(self.weather.shortest_micros, self.weather.longest_micros);
        if self.rng.chance(self.weather.late) { usual * self.rng.between(2, 50) } else { usual }
    }

    pub fn is_cut(&self, from: HostNumber, to: HostNumber) -> bool {
        self.cut.contains(&(from, to))
    }

    pub fn cut(&mut self, from: HostNumber, to: HostNumber) {
        if from != to {
            self.cut.insert((from, to));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// The pairs that can't talk, either way.
    pub fn cuts(&self) -> impl Iterator<Item = (HostNumber, HostNumber)> {
        self.cut.iter().copied()
    }
}
