//! How fresh a read must be, by the names that every dialect uses.

use std::fmt;
use std::str::FromStr;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Whatever the node does when not told.
    #[default]
    Default,
    /// What this node has, however old.
    None,
    /// What the leader has, unconfirmed.
    Weak,
    /// Nothing acknowledged before the read began is missing.
    Linearizable,
    /// The same, by an entry in the log.
    Strong,
    /// Weak on voters, none on learners.
    Auto,
}

impl Level {
    pub const ALL: [(Level, &str); 6] = [
        (Level::Default, "default"),
        (Level::None, "none"),
        (Level::Weak, "weak"),
        (Level::Linearizable, "linearizable"),
        (Level::Strong, "strong"),
        (Level::Auto, "auto"),
    ];

    pub fn name(self) -> &'static str {
        Level::ALL[self as usize].1
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        let found = Level::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(level, _)| *level).ok_or_else(|| {
            let names: Vec<&str> = Level::ALL.iter().map(|(_, name)| *name).collect();
            format!("there is no read level {text:?}: use one of {}", names.join(", "))
        })
    }
}
