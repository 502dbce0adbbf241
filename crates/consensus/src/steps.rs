//! What `raft` says of its own steps, as lines for people.
//!
//! The crate logs through `slog`. Here its records become text in a buffer that [`crate::Group::take_steps`] empties, so
//! nothing is written from within consensus, and the same life says the same. Nobody listening costs next to nothing:
//! no record is made into text then.
//!
//! What the driver tells better is left out: who sends what to whom, and the members with their names.
//!
//! Not handled: telling groups apart.

use slog::{Drain, KV as _, Key, Level, OwnedKVList, Record, Serializer};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much of it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    #[default]
    Silent,
    /// Elections, votes, transfers, snapshots, changes of the configuration.
    Steps,
    /// Also every message and every entry's way.
    Details,
}

/// One thing that `raft` said; never [`Verbosity::Silent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub level: Verbosity,
    pub text: String,
}

/// Where the steps lie until they are taken.
pub(crate) struct Steps(Option<Arc<Buffer>>);

struct Buffer {
    verbosity: Verbosity,
    // `slog` shares its drains with any thread; a group has one.
    steps: Mutex<Vec<Step>>,
}

impl Steps {
    pub(crate) fn new(verbosity: Verbosity) -> (Steps, slog::Logger) {
        if verbosity == Verbosity::Silent {
            return (Steps(None), slog::Logger::root(slog::Discard, slog::o!()));
        }
        let buffer = Arc::new(Buffer { verbosity, steps: Mutex::default() });
        (Steps(Some(buffer.clone())), slog::Logger::root(ToBuffer(buffer), slog::o!()))
    }

    pub(crate) fn take(&self) -> Vec<Step> {
        self.0.as_ref().map_or(Vec::new(), |buffer| std::mem::take(&mut buffer.lock()))
    }
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ToBuffer(Arc<Buffer>);

impl Drain for ToBuffer {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let level = if record.level().is_at_least(Level::Info) { Verbosity::Steps } else { Verbosity::Details };
        if level <= self.0.verbosity {
            let text = text(record);
            if !LEFT_OUT.iter().any(|beginning| text.starts_with(beginning)) {
                self.0.lock().push(Step { level, text });
            }
        }
        Ok(())
    }
}

/// The message, then the values that it does not contain: the crate names some of them twice.
fn text(record: &Record<'_>) -> String {
    let message = record.msg().to_string();
    let mut words: Vec<&str> = message.split(|c: char| !c.is_alphanumeric()).collect();
    let mut values = Values::default();
    let _ = record.kv().serialize(record, &mut values);
    let mut text = message.clone();
    for (key, value) in values.0.iter().rev() {
        match words.iter().position(|word| word == value) {
            Some(at) => drop(words.swap_remove(at)),
            None => text += &format!(", {key}={value}"),
        }
    }
    text
}

#[derive(Default)]
struct Values(Vec<(Key, String)>);

impl Serializer for Values {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let mut text = value.to_string();
        let too_long = text.char_indices().nth(MAX_VALUE_CHARS).map(|(end, _)| end);
        if let Some(end) = text.find(CONTENT).or(too_long) {
            text.truncate(end);
            text.push('…');
        }
        self.0.push((key, text));
        Ok(())
    }
}

const LEFT_OUT: &[&str] = &[
    "switched to configuration",
    "newRaft",
    "RawNode created",
    "broadcasting vote request",
    "received votes response",
    "Sending from",
    "log [committed",
    "restored snapshot",
    "ENTER",
    "EXIT",
];
/// Whole messages are among the values, …
const MAX_VALUE_CHARS: usize = 100;
/// … with what users wrote in their entries, which is nobody's business here.
const CONTENT: &str = " data: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_up_to_the_verbosity_and_tell_each_value_once() {
        let (steps, logger) = Steps::new(Verbosity::Steps);
        slog::info!(logger, "became candidate at term {term}", term = 2; "from" => 2, "log index" => 7);
        slog::debug!(logger, "committing index {index}", index = 7);
        slog::info!(logger, "broadcasting vote request"; "to" => 2);
        let expected = "became candidate at term 2, from=2, log index=7";
        assert_eq!(steps.take(), [Step { level: Verbosity::Steps, text: expected.into() }]);
        assert_eq!(steps.take(), []);

        let (steps, logger) = Steps::new(Verbosity::Details);
        slog::debug!(logger, "sending {} to {to}", "é".repeat(2), to = 3; "message" => "é".repeat(101));
        let expected = format!("sending éé to 3, message={}…", "é".repeat(100));
        assert_eq!(steps.take(), [Step { level: Verbosity::Details, text: expected }]);
        slog::trace!(logger, "appended"; "entries" => "[term: 2 data: \"secret\"]");
        let expected = "appended, entries=[term: 2…";
        assert_eq!(steps.take(), [Step { level: Verbosity::Details, text: expected.into() }]);
    }

    #[test]
    fn by_default_nothing_is_kept() {
        let (steps, logger) = Steps::new(Verbosity::default());
        slog::crit!(logger, "the end");
        assert_eq!(steps.take(), []);
    }
}
