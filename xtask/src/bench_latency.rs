//! `cargo xtask bench-latency`: how latency goes over time, while the nodes flush and merge and a new one joins.
//!
//! First a closed loop finds how much the cluster takes; then clients write at a fixed part of that for a minute. At a
//! marked moment a new node joins with an empty folder, and is sent everything. What happens when is read from the
//! nodes' `/metrics`. Latency is told window by window, and drawn.
//!
//! A window is quiet if no node had a flush or a merge under way in it, and the new node was not there yet. The
//! quiet ones are what the others are compared with. Where a hypervisor takes the processors away for a while (Linux counts
//! that as stolen), the window is told apart from both, as it says nothing of the store.
//!
//! Not handled: several joins, reads.

mod paced;
mod plot;
mod stolen;

use crate::bench_peers::cluster::{Cluster, Programs, System};
use crate::bench_peers::metrics::{self, Figures};
use crate::bench_peers::{Kind, build_for_release, interrupted, run_release_build, say, target_folder};
use client::load::{self, Plan};
use hdrhistogram::Histogram;
use paced::{Pace, Windows};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stolen::Stolen;
use tokio::time::MissedTickBehavior;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many clients write
    #[arg(short, long, default_value_t = 64)]
    clients: usize,

    /// How much of what a closed loop of as many clients reaches, in percent
    #[arg(long, default_value_t = 50)]
    percent: u32,

    /// Writes per second, instead of a part of what was measured
    #[arg(long)]
    rate: Option<u32>,

    /// How long
    #[arg(short, long, default_value_t = 60)]
    seconds: u64,

    /// When a new node joins with an empty folder, in seconds; 0: none does
    #[arg(long, default_value_t = 35)]
    join_at: u64,

    /// How many different keys are written; all are written once before
    #[arg(long, default_value_t = 500_000)]
    keys: u64,

    /// Where the drawing goes
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// What the nodes are told besides, one word each
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    ours: Vec<String>,

    /// Where the nodes keep their data and logs; emptied first [default: bench-latency in cargo's target folder]
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,

    /// Our programs are built already
    #[arg(long)]
    no_build: bool,
}

/// All latencies of so long are told together.
const WINDOW: Duration = Duration::from_millis(250);
const CLOSED_LOOP: Duration = Duration::from_secs(5);
/// Of all processors' time in a window, or shortly before: what could not be done then still has to be.
const MOST_STOLEN: f64 = 0.05;
const AFTERMATH: Duration = Duration::from_millis(400);

/// Everything that the drawing shows. Times are since the load began.
struct Story {
    windows: Vec<Window>,
    events: Vec<Event>,
    rate: f64,
}

struct Window {
    writes: u64,
    answered: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    phase: Phase,
}

/// What goes on in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Quiet,
    /// A flush or a merge.
    Upkeep,
    /// The new node started, and does not have everything yet.
    Joining,
    /// As quiet, with a node more on the same processors.
    Joined,
    JoinedUpkeep,
    /// The machine's host had something better to do, whatever went on here.
    Stolen,
}

#[derive(Clone, Debug, PartialEq)]
struct Event {
    at: Duration,
    /// Counted from 0.
    node: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// So it was told the last time it was asked.
    Flushing,
    Flushed,
    Merging,
    Merged,
    Starts,
    /// It is a member, and has everything.
    HasJoined,
}

pub fn run(args: Args) -> Result<(), String> {
    let target = target_folder()?;
    if !args.no_build {
        build_for_release()?;
        if cfg!(debug_assertions) {
            return run_release_build(&target);
        }
    }
    let programs = Programs {
        ours: target.join("release").join(format!("hraftd{}", std::env::consts::EXE_SUFFIX)),
        more: args.ours.iter().map(Into::into).collect(),
        ..Programs::default()
    };
    let folder = args.folder.clone().unwrap_or_else(|| target.join("bench-latency"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (story, all) = runtime.map_err(|error| format!("can't start: {error}"))?.block_on(async {
        tokio::select! {
            measured = measure(&args, &programs, &folder) => measured,
            () = interrupted() => Err("interrupted; the nodes are stopped".to_string()),
        }
    })?;
    println!("{}", story.to_text(&all));
    if let Some(path) = &args.plot {
        plot::draw(&story, path)?;
    }
    Ok(())
}

async fn measure(args: &Args, programs: &Programs, folder: &Path) -> Result<(Story, Windows), String> {
    let mut cluster = Cluster::start(System::Ours, programs, folder).await?;
    let plan = Plan { clients: args.clients, keys: args.keys, measured: CLOSED_LOOP, ..Plan::default() };
    say(&format!("{} keys are written first", args.keys));
    let drivers = load::fill(&plan, cluster.drivers(Kind::Writes, args.clients).await?).await?;
    let rate = match args.rate {
        Some(rate) => f64::from(rate),
        None => {
            let report = load::run(&plan, cluster.drivers(Kind::Writes, args.clients).await?, |_| {}).await?;
            let most = report.summary(&report.writes).per_second;
            say(&format!("a closed loop of {} clients: {most:.0} writes per second", args.clients));
            most * f64::from(args.percent) / 100.0
        }
    };
    say(&format!("now {rate:.0} writes per second for {} s", args.seconds));
    let pace = Pace { rate, duration: Duration::from_secs(args.seconds), window: WINDOW, keys: args.keys };
    let began = Instant::now();
    let join_at = (args.join_at > 0).then(|| Duration::from_secs(args.join_at));
    let (windows, watched) =
        tokio::join!(paced::run(&pace, drivers, began), watch(&mut cluster, programs, began, pace.duration, join_at));
    let (windows, (events, stolen)) = (windows?, watched?);
    Ok((Story::new(&windows, events, &stolen, rate), windows))
}

/// Asks every node a few times a second what it has done, and starts the new one.
async fn watch(
    cluster: &mut Cluster,
    programs: &Programs,
    began: Instant,
    duration: Duration,
    join_at: Option<Duration>,
) -> Result<(Vec<Event>, Stolen), String> {
    let mut events = Vec::new();
    let mut stolen = Stolen::default();
    let mut before: Vec<Figures> = Vec::new();
    let mut ticks = tokio::time::interval(WINDOW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_joined = false;
    let newcomer = cluster.size();
    while began.elapsed() < duration {
        ticks.tick().await;
        stolen.look(began.elapsed());
        if join_at.is_some_and(|at| cluster.size() == newcomer && began.elapsed() >= at) {
            events.push(Event { at: began.elapsed(), node: newcomer, what: What::Starts });
            cluster.add_node(programs)?;
        }
        for node in 0..cluster.size() {
            // A node that only starts can't be asked yet.
            let figures = metrics::of(cluster.address(node)).await.unwrap_or_default();
            let at = began.elapsed();
            events.extend(what_happened(before.get(node), &figures).into_iter().map(|what| Event { at, node, what }));
            before.resize_with(before.len().max(node + 1), Figures::default);
            before[node] = figures;
        }
        if cluster.size() > newcomer && !has_joined && cluster.is_healthy().await {
            has_joined = true;
            events.push(Event { at: began.elapsed(), node: newcomer, what: What::HasJoined });
        }
    }
    if !before.iter().any(|figures| figures.contains_key(metrics::FLUSHES)) {
        say("the nodes tell nothing of flushes: no window can be told from a quiet one by them");
    }
    Ok((events, stolen))
}

fn what_happened(before: Option<&Figures>, now: &Figures) -> Vec<What> {
    let figure = |figures: &Figures, name| figures.get(name).copied().unwrap_or(0.0);
    let grew = |name| before.is_some_and(|before| figure(now, name) > figure(before, name));
    let is = |name| figure(now, name) > 0.0;
    let all = [
        (is(metrics::FLUSHING), What::Flushing),
        (grew(metrics::FLUSHES), What::Flushed),
        (is(metrics::MERGING), What::Merging),
        (grew(metrics::MERGES), What::Merged),
    ];
    all.into_iter().filter(|(happened, _)| *happened).map(|(_, what)| what).collect()
}

impl What {
    fn is_upkeep(self) -> bool {
        !matches!(self, What::Starts | What::HasJoined)
    }
}

impl Story {
    fn new(windows: &Windows, events: Vec<Event>, stolen: &Stolen, rate: f64) -> Story {
        let time_of = |what| events.iter().find(|event| event.what == what).map(|event| event.at);
        let (starts, has_joined) = (time_of(What::Starts), time_of(What::HasJoined));
        let phase = |at: usize| {
            let (from, to) = (WINDOW * at as u32, WINDOW * (at as u32 + 1));
            // What is told at the end of a window was so within it, or within the one before.
            let is_near = |event: &Event| event.at + WINDOW >= from && event.at < to + WINDOW;
            let has_upkeep = events.iter().any(|event| event.what.is_upkeep() && is_near(event));
            match (starts, has_joined) {
                _ if stolen.share(from.saturating_sub(AFTERMATH), to) > MOST_STOLEN => Phase::Stolen,
                (_, Some(joined)) if joined < from && has_upkeep => Phase::JoinedUpkeep,
                (_, Some(joined)) if joined < from => Phase::Joined,
                (Some(starts), _) if starts < to => Phase::Joining,
                _ if has_upkeep => Phase::Upkeep,
                _ => Phase::Quiet,
            }
        };
        let ms = |us: u64| us as f64 / 1000.0;
        let windows = windows.iter().enumerate().map(|(at, window)| Window {
            writes: window.latencies.len(),
            answered: window.answered,
            p50_ms: ms(window.latencies.value_at_quantile(0.5)),
            p99_ms: ms(window.latencies.value_at_quantile(0.99)),
            max_ms: ms(window.latencies.max()),
            phase: phase(at),
        });
        Story { windows: windows.collect(), events, rate }
    }

    fn to_text(&self, all: &Windows) -> String {
        let of = |name: &str, phase: Option<Phase>| {
            let is_wanted = |window: &Window| phase.is_none_or(|phase| window.phase == phase);
            let written = self.windows.iter().filter(|window| is_wanted(window) && window.writes > 0);
            let mut of_windows: Vec<f64> = written.map(|window| window.p99_ms).collect();
            of_windows.sort_by(f64::total_cmp);
            let mut latencies = Histogram::<u64>::new(3).expect("three digits are allowed");
            let wanted = all.iter().zip(&self.windows).filter(|(_, window)| is_wanted(window));
            let (mut count, mut errors) = (0, 0);
            for (window, _) in wanted {
                count += 1;
                errors += window.errors;
                latencies.add(&window.latencies).expect("it grows by itself");
            }
            let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
            format!(
                "| {name} | {count} | {} | {errors} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
                latencies.len(),
                ms(0.5),
                of_windows.get(of_windows.len() / 2).copied().unwrap_or(0.0),
                ms(0.99),
                ms(0.999),
                latencies.max() as f64 / 1000.0
            )
        };
        let count = |what| self.events.iter().filter(|event| event.what == what).count();
        let mut lines = vec![
            format!("{:.0} writes per second, windows of {} ms.", self.rate, WINDOW.as_millis()),
            String::new(),
            "| windows | | writes | errors | p50 ms | p99 ms, median window | p99 ms | p99.9 ms | max ms |".to_string(),
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|".to_string(),
            of("quiet", Some(Phase::Quiet)),
            of("flushes, merges", Some(Phase::Upkeep)),
            of("a node joins", Some(Phase::Joining)),
            of("a node more", Some(Phase::Joined)),
            of("a node more, flushes, merges", Some(Phase::JoinedUpkeep)),
            of("of the host", Some(Phase::Stolen)),
            of("all", None),
            String::new(),
            format!("Flushes: {}. Merges: {}.", count(What::Flushed), count(What::Merged)),
        ];
        for event in &self.events {
            let told = match event.what {
                What::Starts => "starts with an empty folder",
                What::HasJoined => "has joined and has everything",
                _ => continue,
            };
            lines.push(format!("At {:.1} s node {} {told}.", event.at.as_secs_f64(), event.node + 1));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(flushes: f64, flushing: f64) -> Figures {
        [(metrics::FLUSHES.to_string(), flushes), (metrics::FLUSHING.to_string(), flushing)].into()
    }

    #[test]
    fn what_happened_is_what_changed_or_goes_on() {
        assert_eq!(what_happened(None, &figures(3.0, 0.0)), []);
        assert_eq!(what_happened(Some(&figures(3.0, 0.0)), &figures(3.0, 0.0)), []);
        assert_eq!(what_happened(Some(&figures(3.0, 0.0)), &figures(4.0, 1.0)), [What::Flushing, What::Flushed]);
    }

    /// Windows of a quarter of a second, of which each write took as many milliseconds as the window's number.
    fn story() -> (Story, Windows) {
        let mut windows = Windows::new(Duration::from_millis(3_500), WINDOW);
        for at in 0..14 {
            for _ in 0..100 {
                windows.record(WINDOW * at, Ok(Duration::from_millis(u64::from(at) + 1)));
            }
        }
        let event = |ms, node, what| Event { at: Duration::from_millis(ms), node, what };
        let events = vec![
            event(1100, 0, What::Flushed),
            event(2100, 3, What::Starts),
            event(2600, 3, What::HasJoined),
            event(3300, 2, What::Merging),
        ];
        // A tenth of the time of two processors in the sixth window.
        let stolen = Stolen::of(&[(1250, 0, 250), (1500, 5, 300), (1750, 5, 350)]);
        (Story::new(&windows, events, &stolen, 400.0), windows)
    }

    #[test]
    fn windows_near_an_event_or_after_the_join_or_stolen_are_not_quiet() {
        let (story, _) = story();
        let of = |phase| -> Vec<usize> {
            let windows = story.windows.iter().enumerate().filter(|(_, window)| window.phase == phase);
            windows.map(|(at, _)| at).collect()
        };
        assert_eq!(of(Phase::Quiet), [0, 1, 2]);
        assert_eq!(of(Phase::Upkeep), [3, 4]);
        assert_eq!(of(Phase::Stolen), [5, 6, 7]);
        assert_eq!(of(Phase::Joining), [8, 9, 10]);
        assert_eq!(of(Phase::Joined), [11]);
        assert_eq!(of(Phase::JoinedUpkeep), [12, 13]);
    }

    #[test]
    fn quiet_windows_are_told_apart() {
        let (story, windows) = story();
        let text = story.to_text(&windows);
        assert!(text.contains("| quiet | 3 | 300 | 0 | 2.00 | 2.00 | 3.00 | 3.00 | 3.00 |"), "{text}");
        assert!(text.contains("| all | 14 | 1400 | 0 |"), "{text}");
        assert!(text.contains("Flushes: 1. Merges: 0."), "{text}");
        assert!(text.contains("At 2.1 s node 4 starts with an empty folder."), "{text}");
    }

    #[test]
    fn a_story_can_be_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plots").join("latency.svg");
        plot::draw(&story().0, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["p99", "p50", "node 4 joins", "node 1", "grey: the host"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
    }
}
