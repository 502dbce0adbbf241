//! Rate and latency against the number of clients, as an SVG: a row for each kind of load, a curve for each system.
//!
//! Both axes are logarithmic: twice as many clients, and twice as fast, are the same step anywhere.

use super::Kind;
use super::cluster::System;
use super::report::{median, with_thousands};
use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// What each round came to, by load and system.
#[derive(Debug, Default)]
pub struct Curves(BTreeMap<(Kind, System, usize), Vec<Measured>>);

#[derive(Clone, Copy, Debug)]
struct Measured {
    per_second: f64,
    p99_ms: f64,
}

/// The medians of one system: how many clients, and what they got.
type Points = Vec<(f64, f64)>;

const PANEL: (u32, u32) = (560, 400);
const TEXT: (&str, u32) = ("sans-serif", 15);
const LABEL: (&str, u32) = ("sans-serif", 13);

impl Curves {
    pub fn add(&mut self, kind: Kind, system: System, clients: usize, per_second: f64, p99_ms: f64) {
        self.0.entry((kind, system, clients)).or_default().push(Measured { per_second, p99_ms });
    }

    /// False if there is nothing that a curve could be drawn through.
    pub fn draw(&self, path: &Path) -> Result<bool, String> {
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|&kind| self.clients(kind).len() > 1).collect();
        if kinds.is_empty() {
            return Ok(false);
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| format!("can't make {}: {error}", folder.display()))?;
        }
        let size = (2 * PANEL.0, PANEL.1 * kinds.len() as u32);
        let drawn = (|| {
            let root = SVGBackend::new(path, size).into_drawing_area();
            root.fill(&WHITE)?;
            for (panels, kind) in root.split_evenly((kinds.len(), 2)).chunks(2).zip(kinds) {
                self.draw_panel(&panels[0], kind, "per second", |measured| measured.per_second)?;
                self.draw_panel(&panels[1], kind, "p99, ms", |measured| measured.p99_ms)?;
            }
            root.present()
        })();
        drawn.map(|()| true).map_err(|error| format!("can't draw {}: {error}", path.display()))
    }

    fn clients(&self, kind: Kind) -> Vec<usize> {
        let mut clients: Vec<usize> =
            self.0.keys().filter(|(of, _, _)| *of == kind).map(|(_, _, clients)| *clients).collect();
        clients.sort();
        clients.dedup();
        clients
    }

    fn curves(&self, kind: Kind, figure: impl Fn(&Measured) -> f64) -> Vec<(System, Points)> {
        let mut curves = Vec::new();
        for system in System::ALL {
            let mut points = Points::new();
            for ((_, _, clients), runs) in self.0.iter().filter(|((k, s, _), _)| (*k, *s) == (kind, system)) {
                let runs: Vec<f64> = runs.iter().map(&figure).collect();
                points.extend(median(&runs).map(|middle| (*clients as f64, middle)));
            }
            if !points.is_empty() {
                curves.push((system, points));
            }
        }
        curves
    }

    fn draw_panel<'a>(
        &self,
        panel: &DrawingArea<SVGBackend<'a>, Shift>,
        kind: Kind,
        unit: &str,
        figure: impl Fn(&Measured) -> f64,
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let clients = self.clients(kind);
        let curves = self.curves(kind, figure);
        let values = || curves.iter().flat_map(|(_, points)| points.iter().map(|point| point.1.max(1e-3)));
        let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
        let (fewest, most) = (clients[0] as f64, clients[clients.len() - 1] as f64);
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("{}: {unit}", kind.name()), ("sans-serif", 18))
            .margin(12)
            .margin_right(120)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (fewest * 0.8..most * 1.25).log_scale().with_key_points(clients.iter().map(|&x| x as f64).collect()),
                (low * 0.7..high * 1.4).log_scale().with_key_points(round_values(low * 0.7, high * 1.4)),
            )?;
        chart
            .configure_mesh()
            .x_desc("clients")
            .x_label_formatter(&|clients| format!("{clients:.0}"))
            .y_label_formatter(&|value| if *value < 10.0 { format!("{value}") } else { with_thousands(*value) })
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .label_style(LABEL)
            .axis_desc_style(TEXT)
            .draw()?;
        let mut ends = Vec::new();
        for (system, points) in &curves {
            let style = ShapeStyle::from(color(*system)).stroke_width(if system.is_ours() { 3 } else { 2 });
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, color(*system).filled())))?;
            let last = points[points.len() - 1];
            ends.push((chart.backend_coord(&last), system, last.1));
        }
        // Each curve has its name and its last figure at its end, moved down where two would overlap.
        ends.sort_by_key(|((_, y), _, _)| *y);
        let (left, top) = panel.get_base_pixel();
        let mut free = i32::MIN;
        for ((x, y), system, value) in ends {
            let y = (y - 7).max(free);
            free = y + 15;
            let value = if value < 100.0 { format!("{value:.1}") } else { with_thousands(value) };
            let color = color(*system);
            let style = TextStyle::from(LABEL.into_font()).color(&color);
            panel.draw(&Text::new(format!("{system} {value}"), (x + 8 - left, y - top), style))?;
        }
        Ok(())
    }
}

/// 1, 2, 5, 10, 20 … within the bounds, which are above 0.
fn round_values(low: f64, high: f64) -> Vec<f64> {
    let powers = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let values = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|first| first * 10_f64.powi(power)));
    values.filter(|value| (low..=high).contains(value)).collect()
}

fn color(system: System) -> RGBColor {
    match system {
        System::Ours => RGBColor(200, 30, 30),
        System::Apart => RGBColor(235, 140, 140),
        System::Etcd => RGBColor(30, 90, 180),
        System::EtcdOld => RGBColor(110, 160, 215),
        System::Zookeeper => RGBColor(30, 130, 60),
        System::Redis => RGBColor(130, 130, 130),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_have_the_medians_and_the_names() {
        let mut curves = Curves::default();
        for (clients, rates) in [(1, [900.0, 1000.0, 5000.0]), (64, [7000.0, 20000.0, 12345.0])] {
            for rate in rates {
                curves.add(Kind::Writes, System::Ours, clients, rate, 2.0);
                curves.add(Kind::Writes, System::Etcd, clients, rate / 10.0, 20.0);
            }
        }
        curves.add(Kind::Local, System::Ours, 64, 1.0, 1.0);
        let points = curves.curves(Kind::Writes, |measured| measured.per_second);
        assert_eq!(points[0], (System::Ours, vec![(1.0, 1000.0), (64.0, 12345.0)]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plots").join("writes.svg");
        assert_eq!(curves.draw(&path), Ok(true));
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["ours 12,345", "etcd 1,234", "etcd 20.0", "writes: p99, ms"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        // One point makes no curve.
        assert!(!svg.contains("local reads"));
    }

    #[test]
    fn axes_have_round_values() {
        assert_eq!(round_values(0.4, 12.0), [0.5, 1.0, 2.0, 5.0, 10.0]);
        assert_eq!(round_values(900.0, 1500.0), [1000.0]);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(Curves::default().draw(Path::new("/no/such/folder/plot.svg")), Ok(false));
    }
}
