//! What happened, as a digest that is always kept and as lines for people when someone reads them.
//!
//! The digest covers every event with its time, so two lives of the same seed have equal digests only if they are
//! equal throughout.

use crate::{HostNumber, Micros};
use base::rng::hash;

#[derive(Debug, Default)]
pub struct Trace {
    digest: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(with_lines: bool) -> Trace {
        Trace { digest: 0, lines: with_lines.then(Vec::new) }
    }

    /// `numbers` go into the digest; `line` is made only if someone reads it, and left out if empty.
    pub fn note(&mut self, at: Micros, host: Option<HostNumber>, numbers: &[u64], line: impl FnOnce() -> String) {
        self.digest = hash(&[self.digest, at, host.map_or(u64::MAX, |host| host as u64)]);
        for &number in numbers {
            self.digest = hash(&[self.digest, number]);
        }
        self.line(at, host, line);
    }

    /// For people only.
    pub fn line(&mut self, at: Micros, host: Option<HostNumber>, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let host = host.map_or_else(|| "--".to_owned(), |host| format!("h{host}"));
            let line = line();
            if !line.is_empty() {
                lines.push(format!("{:>4}.{:06} {host} {line}", at / 1_000_000, at % 1_000_000));
            }
        }
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The lines since this was last asked.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
