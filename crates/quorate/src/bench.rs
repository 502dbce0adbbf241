//! `quorate bench`: how fast is this store? Drives anything that speaks hraftd's HTTP, or `/v1`.
//!
//! A closed loop: every client has one connection and one request on its way ([`client::load`] says what such figures
//! are worth). All clients share one thread of this process, and stdout gets the result alone, so that `--json` can
//! be piped on; progress goes to stderr while that is a terminal.
//!
//! Not handled: several load threads; run several benches for a store that outruns one.

use crate::ask;
use crate::cli::{Done, Failure, Output, print};
use client::Level;
use client::load::{self, ClientDriver, Driver, HttpDriver, PipeDriver, Plan, Progress, Report, Summary};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::rc::Rc;
use std::time::Duration;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// HTTP addresses of members; clients are spread over them
    #[arg(
        short,
        long,
        env = "QUORATE_ENDPOINTS",
        value_delimiter = ',',
        default_value = "localhost:11000",
        value_name = "HOST:PORT,…"
    )]
    pub endpoints: Vec<String>,

    /// How many clients ask at the same time
    #[arg(short, long, default_value_t = 64)]
    pub clients: usize,

    /// How long to measure, after a second of warm-up
    #[arg(short, long, default_value_t = 10)]
    pub seconds: u64,

    /// Bytes of each key
    #[arg(long, default_value_t = 16, value_name = "BYTES")]
    pub key_size: usize,

    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    pub value_size: usize,

    /// How many keys there are; each request picks one at random
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,

    /// How many of a hundred requests are reads; all keys are then written once before
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub reads: u8,

    /// How fresh reads must be: none, weak, linearizable, strong, auto, or default for the node's own choice
    #[arg(long, default_value_t = Level::Default)]
    pub level: Level,

    /// So many clients share one connection, a pipeline of /v1; otherwise each has its own
    #[arg(long, default_value_t = 1, value_name = "CLIENTS", conflicts_with = "v1")]
    pub share: usize,

    /// Speak /v1 instead of hraftd's HTTP; what the client repeats is then no error
    #[arg(long)]
    pub v1: bool,

    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,

    /// The same, as other commands have it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

pub fn run(mut args: Args) -> Done {
    args.json |= args.output == Output::Json;
    let plan = args.plan();
    plan.validate().map_err(Failure::usage)?;
    // One thread: the store often shares this machine, and needs the other cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = runtime.map_err(Failure::from)?.block_on(measure(&args, &plan)).map_err(Failure::unavailable)?;
    print(if args.json { to_json(&args, &report) } else { to_text(&args, &report) })?;
    if report.all().is_empty() {
        let text = "no request was answered: look at the errors above, and at the log of the nodes";
        return Err(Failure::unavailable(text));
    }
    Ok(())
}

impl Args {
    fn plan(&self) -> Plan {
        Plan {
            clients: self.clients,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(self.seconds),
            keys: self.keys,
            key_size_bytes: self.key_size,
            value_size_bytes: self.value_size,
            read_percent: self.reads,
            ..Plan::default()
        }
    }
}

async fn measure(args: &Args, plan: &Plan) -> Result<Report, String> {
    // Clients are spread over them.
    let spread = |at: usize| {
        let (first, rest) = args.endpoints.split_at(at % args.endpoints.len().max(1));
        [rest, first].concat()
    };
    if args.v1 {
        let drivers = (0..args.clients).map(|at| ClientDriver::new(&spread(at), args.level));
        let drivers: Result<Vec<_>, _> = drivers.collect();
        return drive(args, plan, drivers.map_err(|error| error.to_string())?).await;
    }
    if args.share > 1 {
        let mut drivers: Vec<PipeDriver> = Vec::new();
        for at in 0..args.clients {
            let driver = match at % args.share {
                0 => PipeDriver::connect(&args.endpoints[at / args.share % args.endpoints.len()], args.level).await?,
                _ => drivers[at - 1].clone(),
            };
            drivers.push(driver);
        }
        return drive(args, plan, drivers).await;
    }
    let endpoints: Rc<[String]> = args.endpoints.iter().map(|endpoint| ask::dialled(endpoint)).collect();
    let mut drivers = Vec::new();
    for at in 0..args.clients {
        let driver = HttpDriver::connect(endpoints.clone(), at, args.level).await;
        drivers.push(driver.map_err(|error| error.to_string())?);
    }
    drive(args, plan, drivers).await
}

async fn drive<D: Driver + 'static>(args: &Args, plan: &Plan, mut drivers: Vec<D>) -> Result<Report, String> {
    let is_shown = std::io::stderr().is_terminal();
    if args.reads > 0 {
        show(is_shown, &format!("writing {} keys to read from", grouped(args.keys)));
        drivers = load::fill(plan, drivers).await.map_err(|kind| format!("can't write the keys to read: {kind}"))?;
    }
    let report = load::run(plan, drivers, |progress| show(is_shown, &progress_line(args, progress))).await;
    show(is_shown, "");
    report
}

/// Replaces the terminal's current line.
fn show(is_shown: bool, line: &str) {
    if is_shown {
        let mut stderr = std::io::stderr().lock();
        // A terminal that went away is no reason to stop.
        let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
    }
}

fn progress_line(args: &Args, progress: Progress) -> String {
    let rate = grouped(progress.per_second.round() as u64);
    let mut line = match progress.is_warm_up {
        true => format!("warm-up   {rate}/s"),
        false => format!("{} of {} s   {rate}/s", progress.elapsed.as_secs_f64().round(), args.seconds),
    };
    if progress.errors > 0 {
        let _ = write!(line, "   {} errors", grouped(progress.errors));
    }
    line
}

fn to_text(args: &Args, report: &Report) -> String {
    let mut text = format!(
        "{}, {}, {:.1} s, {} keys of {} bytes, values of {} bytes\n\n",
        counted(args.clients, "client"),
        counted(args.endpoints.len(), "endpoint"),
        report.elapsed.as_secs_f64(),
        grouped(args.keys),
        args.key_size,
        args.value_size,
    );
    let _ = writeln!(
        text,
        "{:<8}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}",
        "", "per second", "count", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
    );
    for (name, histogram) in [("writes", &report.writes), ("reads", &report.reads)] {
        if histogram.is_empty() {
            continue;
        }
        let Summary { count, per_second, p50_us, p99_us, p999_us, max_us } = report.summary(histogram);
        let _ = write!(text, "{name:<8}{:>12}{:>12}", grouped(per_second.round() as u64), grouped(count));
        for latency_us in [p50_us, p99_us, p999_us, max_us] {
            let _ = write!(text, "{:>10.2}", latency_us as f64 / 1000.0);
        }
        text.push('\n');
    }
    text.push_str("\nerrors: ");
    if report.errors.is_empty() {
        text.push_str("none");
    } else {
        let errors: Vec<String> =
            report.errors.iter().map(|(kind, count)| format!("{} {kind}", grouped(*count))).collect();
        text.push_str(&errors.join(", "));
    }
    text
}

fn to_json(args: &Args, report: &Report) -> String {
    let summary = |histogram| {
        let Summary { count, per_second, p50_us, p99_us, p999_us, max_us } = report.summary(histogram);
        serde_json::json!({
            "count": count, "per_second": per_second,
            "p50_us": p50_us, "p99_us": p99_us, "p999_us": p999_us, "max_us": max_us,
        })
    };
    serde_json::json!({
        "endpoints": args.endpoints,
        "clients": args.clients,
        "seconds": report.elapsed.as_secs_f64(),
        "keys": args.keys,
        "key_size_bytes": args.key_size,
        "value_size_bytes": args.value_size,
        "read_percent": args.reads,
        "level": args.level.name(),
        "writes": summary(&report.writes),
        "reads": summary(&report.reads),
        "errors": report.errors,
    })
    .to_string()
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Program::try_parse_from(line.split(' ')).map(|program| program.args)
    }

    fn report() -> Report {
        let mut reads = hdrhistogram::Histogram::new(3).unwrap();
        for latency_us in 1..=2000 {
            reads.record(latency_us).unwrap();
        }
        Report {
            elapsed: Duration::from_secs(1),
            writes: hdrhistogram::Histogram::new(3).unwrap(),
            reads,
            errors: [("status 503".to_string(), 1200), ("unreachable".to_string(), 1)].into(),
        }
    }

    #[test]
    fn the_defaults_need_no_words() {
        let args = parse("bench").unwrap();
        assert_eq!(args.endpoints, ["localhost:11000"]);
        assert_eq!((args.clients, args.seconds, args.key_size, args.value_size), (64, 10, 16, 100));
        assert_eq!((args.reads, args.level, args.json), (0, Level::Default, false));
        args.plan().validate().unwrap();
    }

    #[test]
    fn every_option_is_heard() {
        let line =
            "bench --endpoints a:1,b:2 -c 7 -s 3 --key-size 20 --value-size 5 --keys 9 --reads 90 --level none --json";
        let args = parse(line).unwrap();
        assert_eq!(args.endpoints, ["a:1", "b:2"]);
        let plan = args.plan();
        assert_eq!((plan.clients, plan.measured.as_secs(), plan.keys), (7, 3, 9));
        assert_eq!((plan.key_size_bytes, plan.value_size_bytes, plan.read_percent), (20, 5, 90));
        assert_eq!((args.level, args.json), (Level::None, true));
        for wrong in ["bench --reads 101", "bench --level sloppy", "bench -c many"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_result_reads_like_this() {
        let args = parse("bench --reads 100").unwrap();
        assert_eq!(
            to_text(&args, &report()),
            "\
64 clients, 1 endpoint, 1.0 s, 10,000 keys of 16 bytes, values of 100 bytes

          per second       count    p50 ms    p99 ms  p99.9 ms    max ms
reads          2,000       2,000      1.00      1.98      2.00      2.00

errors: 1,200 status 503, 1 unreachable"
        );
    }

    #[test]
    fn json_has_the_same_figures() {
        let args = parse("bench --reads 100").unwrap();
        let json: serde_json::Value = serde_json::from_str(&to_json(&args, &report())).unwrap();
        assert_eq!(json["reads"]["count"], 2000);
        assert_eq!(json["reads"]["p50_us"], 1000);
        assert_eq!(json["writes"]["count"], 0);
        assert_eq!(json["errors"]["status 503"], 1200);
    }

    #[test]
    fn a_store_that_is_not_there_is_an_error_with_a_next_step() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut args = parse("bench").unwrap();
        args.endpoints = vec![listener.local_addr().unwrap().to_string()];
        drop(listener);
        let error = run(args).unwrap_err();
        assert_eq!(error.code, 3);
        assert!(error.text.contains("can't reach") && error.text.contains("check"), "{error:?}");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
