//! What was measured, side by side, as a table that a person can read and as JSON.
//!
//! The systems are measured in turn, so what is compared first is one round with the same round: the ratio of two
//! systems is the median of the rounds' ratios. A noisy hour then hurts both alike.
//!
//! Not handled: whether a difference means anything; the single runs are in the JSON.

use super::cluster::System;
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Debug, Default)]
pub struct Comparisons(Vec<Comparison>);

/// One thing that was measured, as often as it was, on each system.
#[derive(Clone, Debug)]
struct Comparison {
    name: String,
    unit: Unit,
    told: Told,
    measured: BTreeMap<System, Vec<f64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Ms,
    Us,
    Megabytes,
    Bytes,
    PercentOfCore,
    Count,
}

/// Which figure stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Measured once a round, by every system in turn.
    ByRound,
    Median,
    Worst,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "per second",
            Unit::Ms => "ms",
            Unit::Us => "us",
            Unit::Megabytes => "MB",
            Unit::Bytes => "bytes",
            Unit::PercentOfCore => "% of a core",
            Unit::Count => "",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond | Unit::Count | Unit::Bytes => with_thousands(value),
            Unit::Megabytes | Unit::Us => format!("{value:.1}"),
            Unit::Ms | Unit::PercentOfCore => format!("{value:.2}"),
        }
    }
}

impl Comparisons {
    pub fn add(&mut self, name: &str, unit: Unit, told: Told, system: System, value: f64) {
        let at = self.0.iter().position(|comparison| comparison.name == name).unwrap_or_else(|| {
            self.0.push(Comparison { name: name.to_string(), unit, told, measured: BTreeMap::new() });
            self.0.len() - 1
        });
        self.0[at].measured.entry(system).or_default().push(value);
    }

    /// A table in Markdown.
    pub fn to_markdown(&self) -> String {
        let systems = self.systems();
        let mut table = String::from("| |");
        for system in &systems {
            let _ = write!(table, " {system} |");
        }
        table.push_str("\n|---|");
        table.push_str(&"---:|".repeat(systems.len()));
        for comparison in &self.0 {
            let _ = write!(table, "\n| {} |", comparison.title());
            for &system in &systems {
                let _ = write!(table, " {} |", comparison.cell(system));
            }
        }
        table.push_str(
            "\n\nIn brackets: ours divided by theirs, the median over the rounds; for each of ours, if there are two.",
        );
        table
    }

    pub fn to_json(&self) -> String {
        let comparisons: Vec<serde_json::Value> = self.0.iter().map(Comparison::to_json).collect();
        serde_json::json!({ "measured": comparisons }).to_string()
    }

    fn systems(&self) -> Vec<System> {
        let has = |&system: &System| self.0.iter().any(|comparison| comparison.measured.contains_key(&system));
        System::ALL.into_iter().filter(has).collect()
    }
}

impl Comparison {
    fn title(&self) -> String {
        let worst = if self.told == Told::Worst { ", worst" } else { "" };
        let unit = self.unit.name();
        if unit.is_empty() { format!("{}{worst}", self.name) } else { format!("{}{worst}, {unit}", self.name) }
    }

    fn cell(&self, system: System) -> String {
        let Some(value) = self.value(system) else { return "-".to_string() };
        let shown = self.unit.show(value);
        if system.is_ours() {
            return shown;
        }
        let ours = System::ALL.into_iter().filter(|system| system.is_ours());
        let ratios: Vec<String> =
            ours.filter_map(|ours| self.ratio(ours, system)).map(|ratio| format!("{ratio:.2}")).collect();
        if ratios.is_empty() { shown } else { format!("{shown} ({})", ratios.join("; ")) }
    }

    fn value(&self, system: System) -> Option<f64> {
        let values = self.measured.get(&system)?;
        match self.told {
            Told::ByRound | Told::Median => median(values),
            Told::Worst => values.iter().copied().max_by(f64::total_cmp),
        }
    }

    /// One of ours over theirs.
    fn ratio(&self, ours: System, other: System) -> Option<f64> {
        if self.told != Told::ByRound {
            let (ours, theirs) = (self.value(ours)?, self.value(other)?);
            return (theirs != 0.0).then(|| ours / theirs);
        }
        let (ours, theirs) = (self.measured.get(&ours)?, self.measured.get(&other)?);
        let rounds = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs != 0.0);
        median(&rounds.map(|(ours, theirs)| ours / theirs).collect::<Vec<f64>>())
    }

    fn to_json(&self) -> serde_json::Value {
        let systems: serde_json::Map<String, serde_json::Value> = self
            .measured
            .iter()
            .map(|(&system, runs)| {
                let ratio = if system.is_ours() { None } else { self.ratio(System::Ours, system) };
                (system.to_string(), serde_json::json!({ "value": self.value(system), "ratio": ratio, "runs": runs }))
            })
            .collect();
        serde_json::json!({ "name": self.title(), "systems": systems })
    }
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// As in 12,345.
pub fn with_thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let left = digits.len() - at;
        if at > 0 && left.is_multiple_of(3) && digit.is_ascii_digit() && !shown.ends_with('-') {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparisons() -> Comparisons {
        let mut comparisons = Comparisons::default();
        for (ours, etcd) in [(20_000.0, 9_000.0), (50_000.0, 10_000.0), (25_000.0, 20_000.0)] {
            comparisons.add("writes, 64 clients", Unit::PerSecond, Told::ByRound, System::Ours, ours);
            comparisons.add("writes, 64 clients", Unit::PerSecond, Told::ByRound, System::Etcd, etcd);
        }
        for ms in [100.0, 300.0, 200.0] {
            comparisons.add("failover", Unit::Ms, Told::Worst, System::Ours, ms);
        }
        comparisons.add("an idle node", Unit::PercentOfCore, Told::Median, System::Redis, 1.234);
        comparisons
    }

    #[test]
    fn systems_stand_side_by_side() {
        assert_eq!(
            comparisons().to_markdown(),
            "\
| | ours | etcd | Redis (1 node) |
|---|---:|---:|---:|
| writes, 64 clients, per second | 25,000 | 10,000 (2.22) | - |
| failover, worst, ms | 300.00 | - | - |
| an idle node, % of a core | - | - | 1.23 |

In brackets: ours divided by theirs, the median over the rounds; for each of ours, if there are two."
        );
    }

    /// The ratio of the medians would be 2.5.
    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let comparisons = comparisons();
        assert_eq!(comparisons.0[0].ratio(System::Ours, System::Etcd), Some(20_000.0 / 9_000.0));
        assert_eq!(comparisons.0[1].ratio(System::Ours, System::Etcd), None);
    }

    #[test]
    fn json_has_every_run() {
        let json: serde_json::Value = serde_json::from_str(&comparisons().to_json()).unwrap();
        let ours = &json["measured"][0]["systems"]["ours"];
        assert_eq!(ours["runs"], serde_json::json!([20_000.0, 50_000.0, 25_000.0]));
        assert_eq!(ours["ratio"], serde_json::Value::Null);
        assert_eq!(json["measured"][1]["name"], "failover, worst, ms");
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn thousands_are_set_apart() {
        let shown: Vec<String> = [0.0, 999.0, 1000.0, -1234567.0, -123.0].into_iter().map(with_thousands).collect();
        assert_eq!(shown, ["0", "999", "1,000", "-1,234,567", "-123"]);
    }
}
