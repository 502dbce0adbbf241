//! Reads: how fresh they must be, and what the answer tells about that.
//!
//! The query's words are rqlite's: `level`, `freshness`, `freshness_strict`, `linearizable_timeout`. Every dialect's
//! reads take them. The answer's headers tell the level that was served, by which node, who leads, and for a level that
//! asks nobody how old the data may be at most as far as the node can tell.
//!
//! Source: rqlite, "Read Consistency".

use super::answer::{Answer, Refusal, header_text};
use super::cluster::Cluster;
use super::member::{LEADER, Member};
use super::path;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use kv::View;
use node::{ReadLevel, Role};
use std::str::FromStr;
use std::time::Duration;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What this node has, however old.
    None,
    /// What the leader has, which may have been deposed a moment ago without knowing it.
    Weak,
    /// At least as new as everything that was acknowledged before the read came.
    #[default]
    Linearizable,
    /// The same, by way of the log.
    Strong,
    /// Weak on a voter; none on a learner, which is there to be read from.
    Auto,
}

impl Level {
    pub const NAMES: &str = "none, weak, linearizable, strong or auto";
    const ALL: [Level; 5] = [Level::None, Level::Weak, Level::Linearizable, Level::Strong, Level::Auto];

    fn name(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Weak => "weak",
            Level::Linearizable => "linearizable",
            Level::Strong => "strong",
            Level::Auto => "auto",
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        let found = Level::ALL.into_iter().find(|level| text.eq_ignore_ascii_case(level.name()));
        found.ok_or_else(|| format!("there is no read level {text:?}; it may be {}", Level::NAMES))
    }
}

/// What a read's query says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    pub level: Option<Level>,
    /// At level none: data may be no older than this.
    pub freshness: Option<Duration>,
    /// Judge by the data's own time too, not only by the last contact with the leader.
    pub strict: bool,
    /// How long a linearizable read may wait, if less than other requests.
    pub timeout: Option<Duration>,
}

impl Wish {
    pub fn parse(query: Option<&str>) -> Result<Wish, Refusal> {
        Wish::of(|name| path::parameter(query, name))
    }

    /// `parameter` gives the query's value of that name.
    pub fn of<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Result<Wish, Refusal> {
        let time = |name: &str| {
            let text = parameter(name);
            text.map(|text| duration(text).ok_or_else(|| wrong_time(name, text))).transpose()
        };
        let strict = match parameter("freshness_strict") {
            None | Some("false" | "0") => false,
            Some("" | "true" | "1") => true,
            Some(other) => {
                return Err(Refusal::invalid(format!(
                    "freshness_strict={other} is not understood; it may be true or false, or stand without a value"
                )));
            }
        };
        Ok(Wish {
            level: parameter("level").map(str::parse).transpose().map_err(Refusal::invalid)?,
            freshness: time("freshness")?.filter(|bound| !bound.is_zero()),
            strict,
            timeout: time("linearizable_timeout")?.filter(|limit| !limit.is_zero()),
        })
    }
}

/// A state that is as fresh as was wished, and what is to be told of it.
pub struct Seen {
    pub view: View,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What was read, and what is to be told of it.
#[derive(Debug)]
pub struct Found {
    pub value: Option<Bytes>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Found {
    /// The answer, with the headers that tell where it comes from.
    pub fn told_in(self, mut answer: Answer) -> Answer {
        answer.headers_mut().extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        answer
    }
}

impl<C: Cluster> Member<C> {
    pub(super) async fn read(&self, key: &[u8], wish: &Wish) -> Result<Found, Refusal> {
        let Seen { view, mut headers } = self.see(wish).await?;
        let value = view.get(key)?.map(|found| found.value);
        if value.is_none() {
            headers.push((FOUND, HeaderValue::from_static("false")));
        }
        Ok(Found { value, headers })
    }

    /// Whatever is read of the view has the level that was wished.
    pub(super) async fn see(&self, wish: &Wish) -> Result<Seen, Refusal> {
        let status = self.cluster.status();
        let level = match wish.level.unwrap_or(self.settings.read_level) {
            Level::Auto if status.role == Role::Learner => Level::None,
            Level::Auto => Level::Weak,
            level => level,
        };
        let limit = self.settings.request_limit;
        let mut age = None;
        let asked = match level {
            Level::None | Level::Auto => {
                age = self.check_freshness(wish)?;
                None
            }
            Level::Weak => Some((ReadLevel::Weak, limit)),
            Level::Linearizable => {
                Some((ReadLevel::Linearizable, wish.timeout.map_or(limit, |timeout| timeout.min(limit))))
            }
            Level::Strong => Some((ReadLevel::Strong, limit)),
        };
        if let Some((level, limit)) = asked {
            self.ask(node::Request::Read(level), limit).await?;
        }
        let view = self.cluster.view()?;
        let mut headers = Vec::with_capacity(5);
        headers.push((LEVEL, HeaderValue::from_static(level.name())));
        headers.push((NODE, header_text(&self.cluster.identity().name)));
        let leader = status.leader.and_then(|id| status.configuration.members.get(&id));
        headers.extend(leader.map(|leader| (LEADER, header_text(&leader.name))));
        headers.extend(age.map(|age| (AGE, header_text(&format!("{:.3}", age.as_secs_f64())))));
        Ok(Seen { view, headers })
    }

    /// The age of this node's data, as far as it can tell, unless the wish is for younger data.
    fn check_freshness(&self, wish: &Wish) -> Result<Option<Duration>, Refusal> {
        let age = self.cluster.age(wish.strict);
        let Some(bound) = wish.freshness else { return Ok(age) };
        let found = match age {
            Some(age) if age <= bound => return Ok(Some(age)),
            Some(age) => format!("this node's data may be {:.3} s old", age.as_secs_f64()),
            None => "this node has not heard of a leader yet, so its data may be of any age".to_string(),
        };
        let text = format!(
            "{found}, and freshness={:.3}s was asked for: ask another node, or read with level=linearizable",
            bound.as_secs_f64()
        );
        Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).to_be_retried())
    }
}

fn wrong_time(name: &str, text: &str) -> Refusal {
    Refusal::invalid(format!("{name}={text} is no duration; write it as 1s, 250ms or 1m30s"))
}

/// A duration as Go writes it: numbers with units, such as `1.5s` or `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |end| digits + end);
        seconds += number
            * match &rest[digits..unit] {
                "ns" => 1e-9,
                "us" | "\u{b5}s" | "\u{3bc}s" | "%C2%B5s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

pub const LEVEL: HeaderName = HeaderName::from_static("quorate-level");
/// Which node answered.
pub const NODE: HeaderName = HeaderName::from_static("quorate-node");
/// In seconds, of data that was read at level none.
pub const AGE: HeaderName = HeaderName::from_static("quorate-age");
/// `false` tells a key that is missing from one whose value is empty, where the dialect does not.
pub const FOUND: HeaderName = HeaderName::from_static("quorate-found");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (text, milliseconds) in [
            ("1s", 1000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("0s", 0),
            ("2h", 7_200_000),
            (".5s", 500),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1 s", "1d", "1e9s", "s1", "..s", "1s2", "9999999999999999999999h", "é"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_query_that_is_not_understood_is_refused_with_what_is_right() {
        let wish = Wish::parse(Some("level=none&freshness=1s&freshness_strict&linearizable_timeout=50ms")).unwrap();
        let expected = Wish {
            level: Some(Level::None),
            freshness: Some(Duration::from_secs(1)),
            strict: true,
            timeout: Some(Duration::from_millis(50)),
        };
        assert_eq!(wish, expected);
        assert_eq!(Wish::parse(None).unwrap(), Wish::default());
        assert_eq!(Wish::parse(Some("freshness_strict=false&freshness=0s")).unwrap(), Wish::default());
        for (query, reason) in [
            ("level=quick", "none"),
            ("freshness=soon", "1s, 250ms"),
            ("linearizable_timeout=", "1s, 250ms"),
            ("freshness_strict=maybe", "true or false"),
        ] {
            let refusal = Wish::parse(Some(query)).unwrap_err();
            let body = String::from_utf8(refusal.body()).unwrap();
            assert!(refusal.status() == 400 && body.contains(reason), "{query}: {body}");
        }
    }
}
