//! What one dialect stored, every dialect gives back to the byte, or says that it can't carry it.

use super::*;
use proptest::prelude::*;

/// How a dialect writes a key and reads it, as bytes on the wire.
struct Words {
    /// Whether what it says is JSON, which carries UTF-8 only.
    json_keys: bool,
    json_values: bool,
    write: fn(key: &[u8], value: &[u8]) -> Vec<u8>,
    read: fn(key: &[u8]) -> Vec<u8>,
    /// The value in the answer to a read.
    value: fn(key: &[u8], &Answered) -> Vec<u8>,
}

fn words(dialect: Dialect) -> Words {
    match dialect {
        Dialect::Hraftd => Words {
            json_keys: true,
            json_values: true,
            write: |key, value| {
                request("POST", "/key", &[], &[b"{", &quoted(key)[..], b":", &quoted(value), b"}"].concat())
            },
            read: |key| request("GET", &format!("/key/{}", escaped(key)), &[], b""),
            value: |key, answer| text(&answer.json()[std::str::from_utf8(key).unwrap()]),
        },
        Dialect::Raftd => Words {
            json_keys: false,
            json_values: false,
            write: |key, value| request("POST", &format!("/db/{}", escaped(key)), &[], value),
            read: |key| request("GET", &format!("/db/{}", escaped(key)), &[], b""),
            value: |_, answer| answer.bytes.clone(),
        },
        Dialect::RaftKv => Words {
            json_keys: false,
            json_values: true,
            write: |key, value| {
                let body = [&br#"{"value":"#[..], &quoted(value), b"}"].concat();
                request("POST", &format!("/keys/{}/", escaped(key)), &[], &body)
            },
            read: |key| request("GET", &format!("/keys/{}/", escaped(key)), &[], b""),
            value: |_, answer| text(&answer.json()["value"]),
        },
        Dialect::Distributor => Words {
            json_keys: true,
            json_values: true,
            write: |key, value| {
                let body = [&br#"{"clave":"#[..], &quoted(key), br#","valor":"#, &quoted(value), b"}"].concat();
                request("POST", "/set", &[], &body)
            },
            read: |key| request("GET", &format!("/get?key={}", escaped(key)), &[], b""),
            value: |_, answer| text(&answer.json()["value"]),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_one_dialect_stored_every_dialect_gives_back(key in key(), value in value()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for writer in Dialect::ALL {
            runtime.block_on(write_and_read_everywhere(writer, &key, &value));
        }
    }
}

async fn write_and_read_everywhere(writer: Dialect, key: &[u8], value: &[u8]) {
    let server = Server::new();
    let answer = server.send(&(words(writer).write)(key, value)).await;
    if answer.status != 200 {
        assert!(answer.status == 400 && can_not_carry(writer, key, value), "{writer}: {answer:?}");
        assert_eq!(server.content(), BTreeMap::new(), "{writer} refused it and stored it all the same");
        return;
    }
    let stored = BTreeMap::from([(key.to_vec(), Bytes::copy_from_slice(value))]);
    assert_eq!(server.content(), stored, "as {writer} wrote it");
    for reader in Dialect::ALL {
        let Words { read, value: value_in, .. } = words(reader);
        let answer = server.send(&read(key)).await;
        match answer.status {
            200 => assert_eq!(value_in(key, &answer), value, "written by {writer}, read by {reader}"),
            status => {
                let expected = if can_not_carry(reader, key, b"") { 400 } else { 406 };
                assert!(status == expected && can_not_carry(reader, key, value), "{reader}: {answer:?}");
            }
        }
    }
}

fn can_not_carry(dialect: Dialect, key: &[u8], value: &[u8]) -> bool {
    let Words { json_keys, json_values, .. } = words(dialect);
    json_keys && std::str::from_utf8(key).is_err() || json_values && std::str::from_utf8(value).is_err()
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(vec!["/", "..", "%2F", "a/b", "?level=none", "#", "+", " ", "\"", "\\", "\0", "é"]);
    prop_oneof![
        odd.prop_map(|key| key.as_bytes().to_vec()),
        "\\PC{1,20}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 1..20),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(vec!["", "null", "{\"value\":\"x\"}", "\u{feff}x", "<>&\u{2028}", "\r\n", "%20+"]);
    prop_oneof![
        odd.prop_map(|value| value.as_bytes().to_vec()),
        any::<String>().prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..300),
    ]
}

/// As JSON, if it is UTF-8; if not, the same bytes between the quotes all the same.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' | ..0x20 => format!("\\u{byte:04x}").into_bytes(),
        _ => vec![byte],
    };
    let escaped: Vec<u8> = bytes.iter().flat_map(escape).collect();
    [b"\"", &escaped[..], b"\""].concat()
}

/// As a segment of a path, every byte that could mean something else percent-encoded.
fn escaped(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    bytes.iter().map(escape).collect()
}

fn text(value: &serde_json::Value) -> Vec<u8> {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).as_bytes().to_vec()
}
