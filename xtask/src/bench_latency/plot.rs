//! Latency over time with what happened meanwhile, as an SVG: three panels above each other, one time for all.

use super::{Event, Phase, Story, WINDOW, What, Window};
use crate::bench_peers::with_thousands;
use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;
use std::path::Path;

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const SIZE: (u32, u32) = (1200, 760);
const LATENCY_HEIGHT: u32 = 420;
const RATE_HEIGHT: u32 = 150;
const LABEL: (&str, u32) = ("sans-serif", 13);
const P99: RGBColor = RGBColor(200, 30, 30);
const P50: RGBColor = RGBColor(30, 90, 180);
const MAX: RGBColor = RGBColor(200, 200, 200);
const FLUSH: RGBColor = RGBColor(220, 140, 0);
const MERGE: RGBColor = RGBColor(30, 130, 60);
const STOLEN: RGBColor = RGBColor(240, 240, 240);
const JOIN: RGBColor = RGBColor(120, 60, 160);

pub fn draw(story: &Story, path: &Path) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("can't make {}: {error}", folder.display()))?;
    }
    let drawn = (|| {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (latency, rest) = root.split_vertically(LATENCY_HEIGHT);
        let (rate, events) = rest.split_vertically(RATE_HEIGHT);
        draw_latency(story, &latency)?;
        draw_rate(story, &rate)?;
        draw_events(story, &events)?;
        root.present()
    })();
    drawn.map_err(|error| format!("can't draw {}: {error}", path.display()))
}

fn draw_latency(story: &Story, panel: &Panel) -> Drawn {
    let lowest = story.windows.iter().map(|window| window.p50_ms).fold(f64::MAX, f64::min).max(0.05) * 0.7;
    let highest = story.windows.iter().map(|window| window.max_ms).fold(1.0, f64::max) * 1.3;
    let marks = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
    let is_stolen = |window: &Window| window.phase == Phase::Stolen;
    let told = if story.windows.iter().any(is_stolen) { " (grey: the host took processors away)" } else { "" };
    let mut chart = ChartBuilder::on(panel)
        .caption(
            format!("latency of a write, {} a second, windows of 250 ms{told}", with_thousands(story.rate)),
            ("sans-serif", 18),
        )
        .margin(8)
        .margin_right(90)
        .x_label_area_size(22)
        .y_label_area_size(70)
        .build_cartesian_2d(
            0.0..story.end(),
            (lowest..highest).log_scale().with_key_points(marks.into_iter().filter(|mark| *mark <= highest).collect()),
        )?;
    chart
        .configure_mesh()
        .y_desc("ms")
        .x_labels(15)
        .y_label_formatter(&|ms| format!("{ms}"))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(230, 230, 230))
        .label_style(LABEL)
        .draw()?;
    let stolen = story.windows.iter().enumerate().filter(|(_, window)| is_stolen(window));
    chart.draw_series(stolen.map(|(at, _)| {
        let from = WINDOW.as_secs_f64() * at as f64;
        Rectangle::new([(from, lowest), (from + WINDOW.as_secs_f64(), highest)], STOLEN.filled())
    }))?;
    for (name, color, figure) in [
        ("max", MAX, (|window: &Window| window.max_ms) as fn(&Window) -> f64),
        ("p50", P50, |window| window.p50_ms),
        ("p99", P99, |window| window.p99_ms),
    ] {
        let points: Vec<(f64, f64)> = story.points(figure);
        chart.draw_series(LineSeries::new(points.iter().copied(), ShapeStyle::from(color).stroke_width(2)))?;
        if let Some(&last) = points.last() {
            let (x, y) = chart.backend_coord(&last);
            let (left, top) = panel.get_base_pixel();
            panel.draw(&Text::new(
                name,
                (x + 8 - left, y - 7 - top),
                TextStyle::from(LABEL.into_font()).color(&color),
            ))?;
        }
    }
    for event in &story.events {
        let told = match event.what {
            What::Starts => format!("node {} joins", event.node + 1),
            What::HasJoined => "… and has everything".to_string(),
            _ => continue,
        };
        let at = event.at.as_secs_f64();
        chart.draw_series([PathElement::new(vec![(at, lowest), (at, highest)], JOIN)])?;
        let y = if event.what == What::Starts { highest * 0.95 } else { highest * 0.7 };
        chart.draw_series([Text::new(told, (at + story.end() / 300.0, y), LABEL.into_font().color(&JOIN))])?;
    }
    Ok(())
}

fn draw_rate(story: &Story, panel: &Panel) -> Drawn {
    let per_second = |writes: u64| writes as f64 / WINDOW.as_secs_f64();
    let most = story.windows.iter().map(|window| per_second(window.answered)).fold(story.rate, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(panel)
        .margin(8)
        .margin_right(90)
        .x_label_area_size(22)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..story.end(), 0.0..most)?;
    chart
        .configure_mesh()
        .y_desc("answers per second")
        .x_labels(15)
        .y_labels(4)
        .y_label_formatter(&|rate| with_thousands(*rate))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(230, 230, 230))
        .label_style(LABEL)
        .draw()?;
    let points = story.points(|window| window.answered as f64 / WINDOW.as_secs_f64());
    chart.draw_series(LineSeries::new(points, ShapeStyle::from(BLACK).stroke_width(1)))?;
    Ok(())
}

/// A row for each node, with a stroke for each time that it was seen at something.
fn draw_events(story: &Story, panel: &Panel) -> Drawn {
    let nodes = story.events.iter().map(|event| event.node + 1).max().unwrap_or(1).max(3);
    let mut chart = ChartBuilder::on(panel)
        .margin(8)
        .margin_right(90)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..story.end(), (nodes as f64)..0.0)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .x_labels(15)
        .y_labels(0)
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(240, 240, 240))
        .label_style(LABEL)
        .draw()?;
    let (left, top) = panel.get_base_pixel();
    let text = |told: String, (x, y): (i32, i32), color: &RGBColor| {
        panel.draw(&Text::new(told, (x - left, y - top), TextStyle::from(LABEL.into_font()).color(color)))
    };
    for node in 0..nodes {
        let (x, y) = chart.backend_coord(&(0.0, node as f64 + 0.5));
        text(format!("node {}", node + 1), (x - 55, y - 7), &BLACK)?;
    }
    let (x, y) = chart.backend_coord(&(story.end(), 0.0));
    text("flush".to_string(), (x + 8, y + 5), &FLUSH)?;
    text("merge".to_string(), (x + 8, y + 23), &MERGE)?;
    for Event { at, node, what } in &story.events {
        let (color, from, to) = match what {
            What::Flushing | What::Flushed => (FLUSH, 0.1, 0.45),
            What::Merging | What::Merged => (MERGE, 0.55, 0.9),
            What::Starts | What::HasJoined => (JOIN, 0.1, 0.9),
        };
        // While it goes on, as wide as the window; at its end, a line.
        let to_the_left = if matches!(what, What::Flushing | What::Merging) { WINDOW.as_secs_f64() } else { 0.05 };
        let (at, row) = (at.as_secs_f64(), *node as f64);
        let corners = [((at - to_the_left).max(0.0), row + from), (at, row + to)];
        chart.draw_series([Rectangle::new(corners, color.filled())])?;
    }
    Ok(())
}

impl Story {
    /// In seconds.
    fn end(&self) -> f64 {
        WINDOW.as_secs_f64() * self.windows.len() as f64
    }

    /// Of each window in which anything was answered, in its middle.
    fn points(&self, figure: impl Fn(&Window) -> f64) -> Vec<(f64, f64)> {
        let middle = |at: usize| WINDOW.as_secs_f64() * (at as f64 + 0.5);
        let answered = self.windows.iter().enumerate().filter(|(_, window)| window.writes > 0);
        answered.map(|(at, window)| (middle(at), figure(window))).collect()
    }
}
