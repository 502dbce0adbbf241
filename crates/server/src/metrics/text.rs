//! Metrics as Prometheus reads them: its text format, version 0.0.4.

use super::histogram::{Counted, Histogram};
use std::fmt::Write as _;

/// Writes metrics one after another; all samples of one name together.
#[derive(Default)]
pub struct Text {
    text: String,
}

impl Text {
    pub fn finish(self) -> String {
        self.text
    }

    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [(String::new(), value)]);
    }

    /// Of time that was used up.
    pub fn seconds(&mut self, name: &str, help: &str, value: f64) {
        self.begin(name, help, "counter");
        self.sample(name, "", value);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.begin(name, help, "gauge");
        self.sample(name, "", value.into());
    }

    /// A whole number that no `f64` holds exactly if it is very large; that many digits nobody looks at.
    pub fn number(&mut self, name: &str, help: &str, value: u64) {
        self.gauge(name, help, value as f64);
    }

    /// With labels, as [`labels`] gives them.
    pub fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (String, u64)>) {
        self.begin(name, help, "counter");
        for (labels, value) in values {
            self.sample(name, &labels, value as f64);
        }
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.histograms(name, help, [(String::new(), histogram)]);
    }

    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (String, &'a Histogram)>,
    ) {
        self.begin(name, help, "histogram");
        for (labels, histogram) in histograms {
            let Counted { upto, count, sum_seconds } = histogram.counted();
            let bounds = upto.into_iter().map(|(bound, count)| (bound.to_string(), count));
            for (bound, count) in bounds.chain([("+Inf".to_string(), count)]) {
                let le = format!("le=\"{bound}\"");
                let labels = if labels.is_empty() { le } else { format!("{labels},{le}") };
                self.sample(&format!("{name}_bucket"), &labels, count as f64);
            }
            self.sample(&format!("{name}_sum"), &labels, sum_seconds);
            self.sample(&format!("{name}_count"), &labels, count as f64);
        }
    }

    fn begin(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }
}

/// `name="value"`, one after another.
pub fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn samples_stand_under_their_names() {
        let mut text = Text::default();
        text.counter("a_total", "What a is.", 3);
        text.gauge("b", "What b is.", 0.5);
        text.counters("c_total", "What c is.", [(labels(&[("x", "a\"b\\c\n"), ("y", "2")]), u64::from(u32::MAX))]);
        let expected = "# HELP a_total What a is.\n# TYPE a_total counter\na_total 3\n\
                        # HELP b What b is.\n# TYPE b gauge\nb 0.5\n\
                        # HELP c_total What c is.\n# TYPE c_total counter\nc_total{x=\"a\\\"b\\\\c\\n\",y=\"2\"} 4294967295\n";
        assert_eq!(text.finish(), expected);
        let mut text = Text::default();
        let histogram = Histogram::default();
        histogram.note(Duration::from_millis(1));
        text.histograms("d_seconds", "What d is.", [(labels(&[("x", "1")]), &histogram)]);
        let text = text.finish();
        for line in [
            "d_seconds_bucket{x=\"1\",le=\"0.0005\"} 0",
            "d_seconds_bucket{x=\"1\",le=\"0.001\"} 1",
            "d_seconds_bucket{x=\"1\",le=\"+Inf\"} 1",
            "d_seconds_sum{x=\"1\"} 0.001",
            "d_seconds_count{x=\"1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
