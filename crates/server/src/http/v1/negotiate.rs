//! What a request's headers want: which form of the answer, and under which condition.
//!
//! The ETag of a key is the revision that changed it last, in quotes: `"17"`.

use super::super::answer::{Refusal, header_text};
use super::query::whole_number;
use bytes::Bytes;
use hyper::Request;
use hyper::header::{ACCEPT, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use kv::{Compare, KeyRange, Relation, Target};

/// Whether this type is asked for by its name, and not `other` before it.
pub fn prefers<B>(request: &Request<B>, wanted: &str, other: &str) -> bool {
    let values = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let types = values.flat_map(|value| value.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next()?;
        // Which is the only parameter that takes a type away.
        let refused = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse().ok()).is_some_and(|q: f32| q == 0.0);
        (!parts.any(refused)).then_some(name)
    });
    types.map(str::to_ascii_lowercase).find(|name| name == wanted || name == other).is_some_and(|name| name == wanted)
}

pub fn etag(revision: u64) -> HeaderValue {
    header_text(&format!("\"{revision}\""))
}

#[derive(Debug, PartialEq, Eq)]
pub struct Conditions {
    matches: Option<Tags>,
    matches_none: Option<Tags>,
}

#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    These(Vec<u64>),
}

impl Conditions {
    pub fn of<B>(request: &Request<B>) -> Result<Conditions, Refusal> {
        let matches = tags(request, IF_MATCH)?;
        if let Some(Tags::These(revisions)) = &matches
            && revisions.len() != 1
        {
            return Err(Refusal::invalid("If-Match takes one ETag here, or *; a transaction can say more"));
        }
        Ok(Conditions { matches, matches_none: tags(request, IF_NONE_MATCH)? })
    }

    pub fn are_none(&self) -> bool {
        self.matches.is_none() && self.matches_none.is_none()
    }

    /// The same for a transaction, which judges when it is applied.
    pub fn compares(&self, key: &Bytes) -> Vec<Compare> {
        let compare = |relation, target| Compare { keys: KeyRange::single(key.clone()), relation, target };
        let all = |tags: &Option<Tags>, there: bool, relation| match tags {
            None => Vec::new(),
            Some(Tags::Any) => vec![compare(Relation::Equal, Target::Exists(there))],
            Some(Tags::These(revisions)) => {
                revisions.iter().map(|&revision| compare(relation, Target::ModRevision(revision))).collect()
            }
        };
        let mut compares = all(&self.matches, true, Relation::Equal);
        compares.extend(all(&self.matches_none, false, Relation::NotEqual));
        compares
    }

    /// Whether a read, which found this revision or nothing, is to be answered with what it found.
    pub fn let_match(&self, found: Option<u64>) -> bool {
        self.matches.as_ref().is_none_or(|tags| tags.include(found))
    }

    /// Whether whoever reads has it already.
    pub fn already_known(&self, found: Option<u64>) -> bool {
        self.matches_none.as_ref().is_some_and(|tags| tags.include(found))
    }
}

impl Tags {
    fn include(&self, found: Option<u64>) -> bool {
        match (self, found) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::These(revisions), Some(found)) => revisions.contains(&found),
        }
    }
}

fn tags<B>(request: &Request<B>, header: HeaderName) -> Result<Option<Tags>, Refusal> {
    let mut given = None;
    for value in request.headers().get_all(&header) {
        for tag in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let tag = if tag == b"*" { None } else { Some(revision(tag, &header)?) };
            match (&mut given, tag) {
                (None, None) => given = Some(Tags::Any),
                (None, Some(revision)) => given = Some(Tags::These(vec![revision])),
                (Some(Tags::These(revisions)), Some(revision)) => revisions.push(revision),
                _ => return Err(wrong(&header)),
            }
        }
    }
    Ok(given)
}

fn revision(tag: &[u8], header: &HeaderName) -> Result<u64, Refusal> {
    // A weak one compares as well as a strong one where it is only asked whether there is something else.
    let tag = if *header == IF_NONE_MATCH { tag.strip_prefix(b"W/").unwrap_or(tag) } else { tag };
    let quoted = tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
    quoted.and_then(whole_number).filter(|&revision| revision > 0).ok_or_else(|| wrong(header))
}

fn wrong(header: &HeaderName) -> Refusal {
    let name = if *header == IF_MATCH { "If-Match" } else { "If-None-Match" };
    let (there, not_there) = ("If-Match: * for a key that is there", "If-None-Match: * for one that is not");
    Refusal::invalid(format!(
        "{name} takes the ETag of an earlier answer, which is a revision in quotes as in \"17\"; or say {there}, {not_there}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(HeaderName, &str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        request
    }

    #[test]
    fn the_form_that_is_named_first_counts() {
        let json = |accept: &[&str]| {
            let headers: Vec<_> = accept.iter().map(|&value| (ACCEPT, value)).collect();
            prefers(&request(&headers), "application/json", "application/octet-stream")
        };
        for accept in [
            &["application/json"][..],
            &["text/html, application/json;q=0.5, */*"],
            &["text/html", "Application/JSON; charset=utf-8"],
            &["application/json, application/octet-stream"],
            &["application/octet-stream;q=0, application/json"],
        ] {
            assert!(json(accept), "{accept:?}");
        }
        for accept in
            [&[][..], &["*/*"], &["application/octet-stream, application/json"], &["application/json;q=0"], &["json"]]
        {
            assert!(!json(accept), "{accept:?}");
        }
    }

    #[test]
    fn conditions_are_etags_or_a_star() {
        let read = |header: &HeaderName, values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|&value| (header.clone(), value)).collect();
            Conditions::of(&request(&headers)).map_err(|refusal| refusal.status().as_u16())
        };
        let conditions = |matches, matches_none| Ok(Conditions { matches, matches_none });
        assert_eq!(read(&IF_MATCH, &["\"17\""]), conditions(Some(Tags::These(vec![17])), None));
        assert_eq!(read(&IF_MATCH, &["*"]), conditions(Some(Tags::Any), None));
        assert_eq!(read(&IF_NONE_MATCH, &[" * "]), conditions(None, Some(Tags::Any)));
        assert_eq!(
            read(&IF_NONE_MATCH, &["\"1\",W/\"2\"", "\"3\""]),
            conditions(None, Some(Tags::These(vec![1, 2, 3])))
        );
        assert_eq!(read(&IF_NONE_MATCH, &[]), conditions(None, None));
        for wrong in ["", "17", "\"x\"", "\"0\"", "\"1", "\"1\" \"2\"", "*, \"1\"", "\"1\",", "\"-1\"", "\"\u{e9}\""] {
            for header in [IF_MATCH, IF_NONE_MATCH] {
                assert_eq!(read(&header, &[wrong]), Err(400), "{header}: {wrong}");
            }
        }
        assert_eq!(read(&IF_MATCH, &["\"1\", \"2\""]), Err(400), "which of them would be told by nothing");
        assert_eq!(read(&IF_MATCH, &["W/\"1\""]), Err(400), "a weak one never matches");
    }
}
