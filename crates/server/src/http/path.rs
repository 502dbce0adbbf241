//! Paths and queries as they came, decoded once.

use std::borrow::Cow;

/// Percent-decodes one segment or value, once; `+` stays `+`. What follows a `%` must be two hex digits.
pub fn decode(text: &str) -> Result<Cow<'_, [u8]>, String> {
    let bytes = text.as_bytes();
    let Some(first) = bytes.iter().position(|&byte| byte == b'%') else { return Ok(Cow::Borrowed(bytes)) };
    let mut decoded = Vec::with_capacity(bytes.len());
    decoded.extend_from_slice(&bytes[..first]);
    let mut rest = &bytes[first..];
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let (Some(high), Some(low)) = (hex(tail.first()), hex(tail.get(1))) else {
            return Err("a % in a path must be followed by two hex digits; a % itself is written %25".to_string());
        };
        decoded.push(high << 4 | low);
        rest = &tail[2..];
    }
    Ok(Cow::Owned(decoded))
}

/// The first value of that name in a query.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then_some(value)
    })
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    char::from(*digit?).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once() {
        let cases: [(&str, &[u8]); 6] = [
            ("plain", b"plain"),
            ("a%20b", b"a b"),
            ("%2520", b"%20"),
            ("a+b", b"a+b"),
            ("%C3%a9%00", b"\xc3\xa9\0"),
            ("\u{e9}", "\u{e9}".as_bytes()),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn broken_escapes_are_refused() {
        for text in ["%", "a%2", "%zz", "%2g", "%%41", "%+1"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        assert_eq!(parameter(Some("a=1&level=none&level=x"), "level"), Some("none"));
        assert_eq!(parameter(Some("level"), "level"), Some(""));
        assert_eq!(parameter(Some("levels=1"), "level"), None);
        assert_eq!(parameter(None, "level"), None);
    }
}
