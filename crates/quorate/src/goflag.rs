//! Command lines in the syntax of Go's `flag` package, for the programs that stand in for Go programs.
//!
//! `-name value`, `-name=value`, and both with two dashes; a switch takes its value only behind `=`. Go stops at the
//! first argument that is no flag; here flags may stand anywhere, because people wrote them so in walkthroughs, and
//! `--` ends them. `-h` and `-help` ask for the usage, unless the program has such a flag itself.
//!
//! Not handled: Go's other types of flags.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

/// The flags that a program knows.
#[derive(Default)]
pub struct Flags {
    known: BTreeMap<&'static str, Flag>,
}

struct Flag {
    kind: Kind,
    meaning: &'static str,
}

enum Kind {
    Text { default: &'static str },
    Number { default: u16 },
    Switch,
}

/// What a command line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Line {
    texts: BTreeMap<&'static str, String>,
    numbers: BTreeMap<&'static str, u16>,
    switches: BTreeMap<&'static str, bool>,
    /// The arguments that are no flags.
    pub rest: Vec<String>,
}

/// Why there is no [`Line`].
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The usage was asked for.
    Help,
    /// In Go's words, which users of Go programs have seen before.
    Wrong(String),
}

impl Flags {
    pub fn new() -> Flags {
        Flags::default()
    }

    /// A flag with a value; without a default if that is empty.
    pub fn text(mut self, name: &'static str, default: &'static str, meaning: &'static str) -> Flags {
        self.known.insert(name, Flag { kind: Kind::Text { default }, meaning });
        self
    }

    /// A flag with a number that a port could have.
    pub fn number(mut self, name: &'static str, default: u16, meaning: &'static str) -> Flags {
        self.known.insert(name, Flag { kind: Kind::Number { default }, meaning });
        self
    }

    /// A flag that is off unless it is given.
    pub fn switch(mut self, name: &'static str, meaning: &'static str) -> Flags {
        self.known.insert(name, Flag { kind: Kind::Switch, meaning });
        self
    }

    pub fn parse(&self, arguments: impl IntoIterator<Item = String>) -> Result<Line, Stop> {
        let mut line = Line::default();
        for (&name, flag) in &self.known {
            match flag.kind {
                Kind::Text { default } => {
                    line.texts.insert(name, default.to_string());
                }
                Kind::Number { default } => {
                    line.numbers.insert(name, default);
                }
                Kind::Switch => {}
            }
        }
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                line.rest.extend(arguments);
                break;
            }
            match argument.strip_prefix('-') {
                Some(flag) if !flag.is_empty() => self.parse_flag(&argument, flag, &mut arguments, &mut line)?,
                _ => line.rest.push(argument),
            }
        }
        Ok(line)
    }

    /// As [`Flags::parse`]. Who asks for the usage or makes a mistake is told, and the program ends as Go's do.
    pub fn parse_or_tell(&self, usage: &str, arguments: impl IntoIterator<Item = String>) -> Result<Line, ExitCode> {
        self.parse(arguments).map_err(|stop| match stop {
            Stop::Help => {
                eprint!("{usage}");
                ExitCode::SUCCESS
            }
            Stop::Wrong(reason) => {
                eprint!("{reason}\n{usage}");
                ExitCode::from(2)
            }
        })
    }

    /// `argument` without its first dash is `flag`.
    fn parse_flag(
        &self,
        argument: &str,
        flag: &str,
        arguments: &mut impl Iterator<Item = String>,
        line: &mut Line,
    ) -> Result<(), Stop> {
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(Stop::Wrong(format!("bad flag syntax: {argument}")));
        }
        let Some((&name, known)) = self.known.get_key_value(name) else {
            if matches!(name, "h" | "help") {
                return Err(Stop::Help);
            }
            return Err(Stop::Wrong(format!("flag provided but not defined: -{name}")));
        };
        let mut given = || {
            let value = value.map(str::to_string).or_else(|| arguments.next());
            value.ok_or_else(|| Stop::Wrong(format!("flag needs an argument: -{name}")))
        };
        match known.kind {
            Kind::Text { .. } => {
                line.texts.insert(name, given()?);
            }
            Kind::Number { .. } => {
                let given = given()?;
                let wrong = |_| Stop::Wrong(format!("invalid value {given:?} for flag -{name}: parse error"));
                line.numbers.insert(name, given.parse().map_err(wrong)?);
            }
            Kind::Switch => {
                let on = parse_bool(value.unwrap_or("true")).ok_or_else(|| {
                    let value = value.unwrap_or_default();
                    Stop::Wrong(format!("invalid boolean value {value:?} for -{name}: parse error"))
                })?;
                line.switches.insert(name, on);
            }
        }
        Ok(())
    }
}

/// The flags as Go prints them in a usage, in alphabetical order.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, flag) in &self.known {
            match flag.kind {
                Kind::Text { default: "" } => writeln!(f, "  -{name} string\n    \t{}", flag.meaning)?,
                Kind::Text { default } => {
                    writeln!(f, "  -{name} string\n    \t{} (default {default:?})", flag.meaning)?;
                }
                Kind::Number { default } => {
                    writeln!(f, "  -{name} int\n    \t{} (default {default})", flag.meaning)?;
                }
                Kind::Switch if name.len() == 1 => writeln!(f, "  -{name}\t{}", flag.meaning)?,
                Kind::Switch => writeln!(f, "  -{name}\n    \t{}", flag.meaning)?,
            }
        }
        Ok(())
    }
}

impl Line {
    /// The value of a flag that [`Flags::text`] made known.
    pub fn text(&self, name: &str) -> &str {
        &self.texts[name]
    }

    /// The same, where an empty value means none.
    pub fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|value| !value.is_empty()).map(str::to_string)
    }

    /// The value of a flag that [`Flags::number`] made known.
    pub fn number(&self, name: &str) -> u16 {
        self.numbers[name]
    }

    pub fn switch(&self, name: &str) -> bool {
        self.switches.get(name).copied().unwrap_or(false)
    }
}

/// As Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, Stop> {
        let flags =
            Flags::new().text("id", "", "node ID").text("haddr", "localhost:11000", "HTTP").switch("inmem", "log");
        flags.parse(line.split_whitespace().map(str::to_string))
    }

    #[test]
    fn every_spelling_of_a_value() {
        for line in ["-id x", "-id=x", "--id x", "--id=x"] {
            assert_eq!(parse(line).unwrap().text("id"), "x", "{line}");
        }
        assert_eq!(parse("-id=a=b").unwrap().text("id"), "a=b");
        assert_eq!(parse("-id=").unwrap().text("id"), "");
        assert_eq!(parse("-id -haddr").unwrap().text("id"), "-haddr", "the next argument is the value, whatever it is");
        assert_eq!(parse("-id a -id b").unwrap().text("id"), "b");
    }

    #[test]
    fn a_switch_takes_its_value_only_behind_an_equals_sign() {
        for (line, on, rest) in [
            ("", false, &[][..]),
            ("-inmem", true, &[]),
            ("--inmem", true, &[]),
            ("-inmem=true", true, &[]),
            ("-inmem=T", true, &[]),
            ("-inmem=false", false, &[]),
            ("-inmem=0", false, &[]),
            ("-inmem false", true, &["false"]),
        ] {
            let parsed = parse(line).unwrap();
            assert_eq!(
                (parsed.switch("inmem"), &parsed.rest[..]),
                (on, &rest.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
    }

    #[test]
    fn flags_may_stand_anywhere_until_two_dashes() {
        let parsed = parse("~/node0 -haddr 11001 -id=x - ~/node1").unwrap();
        assert_eq!((parsed.text("haddr"), parsed.text("id")), ("11001", "x"));
        assert_eq!(parsed.rest, ["~/node0", "-", "~/node1"]);
        assert_eq!(parse("-id x -- -inmem --").unwrap().rest, ["-inmem", "--"]);
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let parsed = parse("path").unwrap();
        assert_eq!((parsed.text("haddr"), parsed.optional("id")), ("localhost:11000", None));
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        for (line, words) in [
            ("-nope", "flag provided but not defined: -nope"),
            ("--nope=1", "flag provided but not defined: -nope"),
            ("path -id", "flag needs an argument: -id"),
            ("-inmem=maybe", "invalid boolean value \"maybe\" for -inmem: parse error"),
            ("---id x", "bad flag syntax: ---id"),
            ("-=x", "bad flag syntax: -=x"),
        ] {
            assert_eq!(parse(line), Err(Stop::Wrong(words.to_string())), "{line}");
        }
    }

    #[test]
    fn help_is_no_mistake() {
        for line in ["-h", "--help", "-id x -help path"] {
            assert_eq!(parse(line), Err(Stop::Help), "{line}");
        }
    }

    #[test]
    fn a_program_may_have_a_flag_of_its_own_called_h() {
        let flags = Flags::new().text("h", "localhost", "host name");
        let parse = |line: &str| flags.parse(line.split_whitespace().map(str::to_string));
        assert_eq!(parse("-h db1").unwrap().text("h"), "db1");
        assert_eq!(parse("-h"), Err(Stop::Wrong("flag needs an argument: -h".into())));
        assert_eq!(parse("-help"), Err(Stop::Help));
    }

    #[test]
    fn a_number_is_one_that_a_port_could_have() {
        let flags = Flags::new().number("p", 4001, "port");
        let parse = |line: &str| flags.parse(line.split_whitespace().map(str::to_string));
        assert_eq!(flags.to_string(), "  -p int\n    \tport (default 4001)\n");
        assert_eq!(parse("").unwrap().number("p"), 4001);
        assert_eq!(parse("-p=0").unwrap().number("p"), 0);
        assert_eq!(parse("-p 65535").unwrap().number("p"), 65535);
        for wrong in ["http", "65536", "-1", "1.5"] {
            let words = format!("invalid value {wrong:?} for flag -p: parse error");
            assert_eq!(parse(&format!("-p {wrong}")), Err(Stop::Wrong(words)));
        }
        assert_eq!(parse("-p"), Err(Stop::Wrong("flag needs an argument: -p".into())));
    }

    #[test]
    fn the_usage_is_in_gos_layout() {
        let flags =
            Flags::new().switch("v", "more logs").text("id", "", "node ID").text("haddr", "localhost:11000", "HTTP");
        let expected =
            "  -haddr string\n    \tHTTP (default \"localhost:11000\")\n  -id string\n    \tnode ID\n  -v\tmore logs\n";
        assert_eq!(flags.to_string(), expected);
    }
}
