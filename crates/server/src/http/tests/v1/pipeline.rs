//! Many requests in one, as their clients read the answers.

use super::*;
use crate::watch::End;
use serde_json::Value;

/// What is answered to these lines, in the order of the ids as text.
async fn answers(server: &Server, lines: &str) -> Vec<Value> {
    let answered = server.post("/v1/pipeline", lines).await;
    assert_eq!((answered.status, answered.header("content-type")), (200, Some("application/x-ndjson")));
    let mut answers = parse(&unchunked(&answered.bytes));
    answers.sort_by_key(|answer| answer["id"].to_string());
    answers
}

fn parse(lines: &[u8]) -> Vec<Value> {
    lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect()
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let at = bytes.windows(2).position(|two| two == b"\r\n").expect("the size of a chunk");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        whole.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = &bytes[at + 2 + size + 2..];
        if size == 0 {
            assert_eq!(bytes, b"");
            return whole;
        }
    }
}

fn line(line: Value) -> String {
    format!("{line}\n")
}

#[tokio::test]
async fn a_line_is_answered_as_its_request_would_be() {
    let server = Server::with(&[("a", "1")]);
    let rows = [
        (
            json!({"id": 1, "method": "PUT", "path": "/v1/kv/b%2Fc", "body": "red"}),
            json!({"id": 1, "status": 200, "body": {"revision": 2}}),
        ),
        (
            json!({"id": "x", "method": "GET", "path": "/v1/kv/a?level=none"}),
            json!({"id": "x", "status": 200, "body": {
                "key": "a", "value": "1", "create_revision": 1, "mod_revision": 1, "version": 1, "lease": 0, "revision": 2,
            }}),
        ),
        (json!({"id": 2, "method": "HEAD", "path": "/livez"}), json!({"id": 2, "status": 200, "body": "ok\n"})),
        (
            json!({"id": 3, "method": "PUT", "path": "/v1/kv/a", "headers": {"If-Match": "\"1\""}, "body": {"any": ["json"]}}),
            json!({"id": 3, "status": 200, "body": {"revision": 3}}),
        ),
        (
            json!({"id": 4, "method": "POST", "path": "/v1/txn", "body": {"then": [{"get": {"key": "a"}}]}}),
            json!({"id": 4, "status": 200, "body": {"succeeded": true, "revision": 3, "changed": 0, "results": [{"get": {"kv": {
                "key": "a", "value": "{\"any\":[\"json\"]}", "create_revision": 1, "mod_revision": 3, "version": 2, "lease": 0,
            }}}]}}),
        ),
        (
            json!({"id": 5, "method": "PUT", "path": "/v1/kv/bin", "body_base64": "/wA="}),
            json!({"id": 5, "status": 200, "body": {"revision": 4}}),
        ),
        (
            json!({"id": 6, "method": "GET", "path": "/v1/kv/bin", "headers": {"Accept": "application/octet-stream"}}),
            json!({"id": 6, "status": 200, "body_base64": "/wA="}),
        ),
        (
            json!({"id": 7, "method": "DELETE", "path": "/v1/kv/bin"}),
            json!({"id": 7, "status": 200, "body": {"revision": 5, "deleted": 1}}),
        ),
        (
            json!({"id": 8, "method": "PUT", "path": "/v1/kv/none"}),
            json!({"id": 8, "status": 200, "body": {"revision": 6}}),
        ),
    ];
    for (request, expected) in rows {
        assert_eq!(answers(&server, &line(request.clone())).await, [expected], "{request}");
    }
    // What is no success has its headers, as a client may need them.
    let late = json!({"id": 9, "method": "PUT", "path": "/v1/kv/a", "headers": {"If-Match": "\"1\""}, "body": "2"});
    let answer = answers(&server, &line(late)).await.remove(0);
    assert_eq!((&answer["status"], &answer["body"]["code"]), (&json!(412), &json!("precondition_failed")));
    assert_eq!(answer["headers"]["quorate-revision"], "6");
    let server = server.fail(Failure::Unavailable("no leader".into()));
    let answer = answers(&server, &line(json!({"id": 1, "method": "DELETE", "path": "/v1/kv/a"}))).await.remove(0);
    assert_eq!((&answer["status"], &answer["headers"]), (&json!(503), &json!({"retry-after": "1"})));
}

/// The description is written for people, over many lines.
#[tokio::test]
async fn an_answer_of_many_lines_comes_in_one() {
    let described: Value = serde_json::from_str(crate::http::v1::OPENAPI).unwrap();
    let asked = line(json!({"id": 1, "method": "GET", "path": "/v1/openapi.json"}));
    assert_eq!(answers(&Server::new(), &asked).await, [json!({"id": 1, "status": 200, "body": described})]);
}

#[tokio::test]
async fn lines_may_come_in_any_pieces() {
    let lines: String =
        (0..3).map(|at| line(json!({"id": at, "method": "PUT", "path": "/v1/kv/a", "body": "v"}))).collect();
    // Empty lines say nothing, and the last one need not be ended.
    let lines = format!("\n{}", lines.replace('\n', "\r\n\n").trim_end());
    for size in [1, 2, 7, 50, lines.len()] {
        let server = Server::new();
        let mut request = b"POST /v1/pipeline HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in lines.as_bytes().chunks(size) {
            request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            request.extend_from_slice(&[piece, b"\r\n"].concat());
        }
        request.extend_from_slice(b"0\r\n\r\n");
        let answered = server.send(&request).await;
        let mut ids: Vec<Value> =
            parse(&unchunked(&answered.bytes)).iter().map(|answer| answer["id"].clone()).collect();
        ids.sort_by_key(Value::to_string);
        assert_eq!(ids, [0, 1, 2], "{size}");
    }
}

#[tokio::test]
async fn what_is_not_understood_is_said_and_changes_nothing() {
    let server = Server::new();
    let put = |more: &str| format!(r#"{{"id":1,"method":"PUT","path":"/v1/kv/a","body":"v"{more}}}"#);
    let rows: [(String, Value, u16, &str); 13] = [
        ("hello".into(), Value::Null, 400, "a line is"),
        (r#"["id"]"#.into(), Value::Null, 400, "a line is"),
        (put(r#","bdy":1"#), json!(1), 400, "unknown field `bdy`"),
        (put(r#","body":"w""#), json!(1), 400, "duplicate field"),
        (put(r#","body_base64":"YQ==""#), json!(1), 400, "give one of them"),
        (r#"{"method":"GET","path":"/v1/kv/a"}"#.into(), Value::Null, 400, "missing field `id`"),
        (r#"{"id":{},"method":"GET","path":"/v1/kv/a"}"#.into(), Value::Null, 400, "a number or a string"),
        (format!(r#"{{"id":"{}","method":"GET","path":"/v1/kv/a"}}"#, "x".repeat(200)), Value::Null, 400, "128 bytes"),
        (r#"{"id":1,"method":"PUT","path":"v1/kv/a","body":"v"}"#.into(), json!(1), 400, "/v1/kv/NAME"),
        (r#"{"id":1,"method":"PUT","path":"/v1/kv/a","headers":{"a b":"c"}}"#.into(), json!(1), 400, "no header"),
        (r#"{"id":1,"method":"PATCH","path":"/v1/kv/a"}"#.into(), json!(1), 405, "GET, HEAD, PUT, DELETE"),
        (r#"{"id":1,"method":"POST","path":"/key","body":{"a":"1"}}"#.into(), json!(1), 404, "openapi.json"),
        (r#"{"id":1,"method":"GET","path":"/v1/watch"}"#.into(), json!(1), 400, "a connection of its own"),
    ];
    for (line, id, status, reason) in rows {
        // The next line is none the worse for it.
        let answers = answers(&server, &format!("{line}\n{{\"id\":9,\"method\":\"GET\",\"path\":\"/livez\"}}\n")).await;
        let answer = answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("{line}: {answers:?}"));
        assert_eq!(answer["status"], status, "{line}: {answer}");
        let detail = answer["body"]["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{line}: {detail}");
        assert!(answers.iter().any(|answer| *answer == json!({"id": 9, "status": 200, "body": "ok\n"})), "{answers:?}");
    }
    assert_eq!(server.content(), content(&[]));
}

#[tokio::test]
async fn a_line_without_an_end_is_the_last() {
    let server = Server::new();
    let first = line(json!({"id": 1, "method": "GET", "path": "/livez"}));
    let answers = answers(&server, &format!("{first}{}", "x".repeat(8 << 20))).await;
    assert!(answers.contains(&json!({"id": 1, "status": 200, "body": "ok\n"})), "{answers:?}");
    let error = answers.iter().find_map(|answer| answer.get("error")).expect("why it ends");
    assert_eq!((&error["code"], &error["outcome"]), (&json!("too_large"), &json!("not_applied")));
}

/// Who does not read its answers must not have more and more of them kept for it.
#[tokio::test]
async fn who_does_not_read_is_not_read_from() {
    const REQUESTS: usize = 20_000;
    let server = Server::with(&[("large", &"x".repeat(10_000))]);
    let (client, _serving) = server.open();
    let (mut reader, mut writer) = tokio::io::split(client);
    let lines = line(json!({"id": 1, "method": "GET", "path": "/v1/kv/large"})).repeat(REQUESTS);
    let sending = tokio::spawn(async move {
        writer.write_all(&request("POST", "/v1/pipeline", &[], lines.as_bytes())).await.unwrap();
        writer
    });
    let mut asked = 0;
    loop {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let more = server.asked().len();
        asked += more;
        if more == 0 && asked > 0 {
            break;
        }
    }
    assert!(asked < REQUESTS / 5 && !sending.is_finished(), "{asked}");
    let mut answered = 0;
    let mut bytes = vec![0; 1 << 20];
    while answered < REQUESTS {
        let count = reader.read(&mut bytes).await.unwrap();
        assert!(count > 0);
        answered += bytes[..count].iter().filter(|&&byte| byte == b'{').count();
        answered -= bytes[..count].windows(8).filter(|at| at == b"\"body\":{").count();
    }
    sending.await.unwrap();
}

/// More than a map of headers can count makes it panic, which would take the whole node down.
#[tokio::test]
async fn a_line_with_very_many_headers_is_refused() {
    for (count, status) in [(100, 200), (101, 400), (40_000, 400)] {
        let headers: serde_json::Map<String, Value> = (0..count).map(|at| (format!("x-{at}"), json!(""))).collect();
        let request = json!({"id": 1, "method": "GET", "path": "/livez", "headers": headers});
        let answer = answers(&Server::new(), &line(request)).await.remove(0);
        assert_eq!((&answer["id"], &answer["status"]), (&json!(1), &json!(status)), "{count}");
    }
}

/// An answer that is far longer than what it answers is still not made before there is room for it.
#[tokio::test]
async fn nonsense_is_answered_piece_by_piece() {
    const LINES: usize = 20_000;
    let answered = Server::new().post("/v1/pipeline", &"x\n".repeat(LINES)).await;
    let (mut rest, mut lines, mut largest) = (&answered.bytes[..], 0, 0);
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        lines += rest[at + 2..at + 2 + size].iter().filter(|&&byte| byte == b'\n').count();
        largest = largest.max(size);
        rest = &rest[at + 2 + size + 2..];
    }
    assert_eq!(lines, LINES);
    assert!(largest < 300_000, "{largest} bytes at once");
}

#[tokio::test]
async fn a_node_that_stops_answers_what_it_has_begun_and_ends_its_pipelines() {
    for (end, code) in [(End::Stopping, "node_stopping"), (End::Removed("why".into()), "removed")] {
        let server = Server::new();
        let (mut client, serving) = server.open();
        let head = "POST /v1/pipeline HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let first = line(json!({"id": 1, "method": "GET", "path": "/livez"}));
        client.write_all(format!("{head}{:x}\r\n{first}\r\n", first.len()).as_bytes()).await.unwrap();
        let answered = Answered::read(&mut client).await;
        assert_eq!((answered.header("quorate-node"), answered.header("cache-control")), (Some("me"), Some("no-store")));
        server.cluster().hub.end(end);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        let told = parse(&unchunked(&rest));
        assert_eq!(told[0], json!({"id": 1, "status": 200, "body": "ok\n"}));
        assert_eq!(told[1]["error"]["code"], code);
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn another_leader_is_told_of() {
    let server = Server::new();
    server.cluster().set_status(led_by("first"));
    let (mut client, _serving) = server.open();
    let head = "POST /v1/pipeline HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(Answered::read(&mut client).await.header("quorate-leader"), Some("first"));
    server.cluster().set_status(led_by("second"));
    let live = line(json!({"id": 1, "method": "GET", "path": "/livez"}));
    client.write_all(format!("{:x}\r\n{live}\r\n0\r\n\r\n", live.len()).as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    let told = parse(&unchunked(&rest));
    assert_eq!(told, [json!({"id": 1, "status": 200, "body": "ok\n"}), json!({"leader": "second"})]);
}
