//! Medians side by side.
//!
//! Not handled: whether a difference means anything; the single runs are in the JSON.

use super::cluster::System;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One thing that was measured, as often as it was, on each system.
#[derive(Clone, Debug)]
pub struct Comparison {
    name: String,
    unit: Unit,
    measured: BTreeMap<System, Vec<f64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Ms,
    Megabytes,
    PercentOfCore,
    Count,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "per second",
            Unit::Ms => "ms",
            Unit::Megabytes => "MB",
            Unit::PercentOfCore => "% of a core",
            Unit::Count => "",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond | Unit::Count => format!("{value:.0}"),
            Unit::Megabytes => format!("{value:.1}"),
            Unit::Ms | Unit::PercentOfCore => format!("{value:.2}"),
        }
    }
}

pub fn add(comparisons: &mut Vec<Comparison>, name: &str, unit: Unit, system: System, value: f64) {
    let at = comparisons.iter().position(|comparison| comparison.name == name).unwrap_or_else(|| {
        comparisons.push(Comparison { name: name.to_string(), unit, measured: BTreeMap::new() });
        comparisons.len() - 1
    });
    comparisons[at].measured.entry(system).or_default().push(value);
}

impl Comparison {
    fn median(&self, system: System) -> Option<f64> {
        self.measured.get(&system).and_then(|values| median(values))
    }

    /// Ours over etcd's.
    fn ratio(&self) -> Option<f64> {
        let (ours, etcd) = (self.median(System::Ours)?, self.median(System::Etcd)?);
        (etcd != 0.0).then(|| ours / etcd)
    }
}

pub fn to_text(comparisons: &[Comparison]) -> String {
    let width = comparisons.iter().map(|comparison| comparison.name.len()).max().unwrap_or(0);
    let mut text = format!("{:<width$}{:>12}{:>12}{:>8}", "median", "ours", "etcd", "ratio");
    for comparison in comparisons {
        let shown = |system| comparison.median(system).map_or("-".to_string(), |value| comparison.unit.show(value));
        let ratio = comparison.ratio().map_or("-".to_string(), |ratio| format!("{ratio:.2}"));
        let (ours, etcd) = (shown(System::Ours), shown(System::Etcd));
        let name = &comparison.name;
        let _ = write!(text, "\n{name:<width$}{ours:>12}{etcd:>12}{ratio:>8}  {}", comparison.unit.name());
        text.truncate(text.trim_end().len());
    }
    text
}

pub fn to_json(comparisons: &[Comparison]) -> String {
    let comparisons: Vec<serde_json::Value> = comparisons
        .iter()
        .map(|comparison| {
            serde_json::json!({
                "name": comparison.name,
                "unit": comparison.unit.name(),
                "ours": comparison.median(System::Ours),
                "etcd": comparison.median(System::Etcd),
                "ratio": comparison.ratio(),
                "ours_runs": comparison.measured.get(&System::Ours),
                "etcd_runs": comparison.measured.get(&System::Etcd),
            })
        })
        .collect();
    serde_json::json!({ "medians": comparisons }).to_string()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparisons() -> Vec<Comparison> {
        let mut comparisons = Vec::new();
        for (ours, etcd) in [(2000.0, 900.0), (5000.0, 1000.0), (2500.0, 1100.0)] {
            add(&mut comparisons, "writes, 64 clients", Unit::PerSecond, System::Ours, ours);
            add(&mut comparisons, "writes, 64 clients", Unit::PerSecond, System::Etcd, etcd);
        }
        add(&mut comparisons, "an idle node", Unit::PercentOfCore, System::Etcd, 1.234);
        add(&mut comparisons, "errors", Unit::Count, System::Etcd, 3.0);
        comparisons
    }

    #[test]
    fn medians_stand_side_by_side() {
        assert_eq!(
            to_text(&comparisons()),
            "\
median                    ours        etcd   ratio
writes, 64 clients        2500        1000    2.50  per second
an idle node                 -        1.23       -  % of a core
errors                       -           3       -"
        );
    }

    #[test]
    fn json_has_every_run() {
        let json: serde_json::Value = serde_json::from_str(&to_json(&comparisons())).unwrap();
        assert_eq!(json["medians"][0]["ratio"], 2.5);
        assert_eq!(json["medians"][0]["ours_runs"], serde_json::json!([2000.0, 5000.0, 2500.0]));
        assert_eq!(json["medians"][1]["ours"], serde_json::Value::Null);
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
