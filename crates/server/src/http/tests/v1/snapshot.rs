//! Backups as they come over a connection.

use super::*;
use base::ClusterId;

/// The bytes of an answer in chunks, if its last chunk came.
fn unchunked(answer: &Answered) -> Option<Vec<u8>> {
    let (mut rest, mut body) = (&answer.bytes[..], Vec::new());
    loop {
        let at = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        body.extend_from_slice(rest.get(at + 2..at + 2 + length)?);
        rest = &rest[at + 2 + length + 2..];
        if length == 0 {
            return Some(body);
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_the_whole_state_after_a_linearizable_read() {
    let server = Server::with(&[("a", "1"), ("b", &"x".repeat(100_000))]);
    let answer = server.get("/v1/snapshot").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/octet-stream")));
    assert_eq!(answer.header("quorate-revision"), Some("2"));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"quorate-2.backup\""));
    assert_eq!(server.asked(), [Asked::Read(ReadLevel::Linearizable), Asked::Freeze]);
    let expected = crate::backup::tests::file(&server.cluster().store.lock().unwrap().frozen(), ClusterId(0));
    assert_eq!(unchunked(&answer), Some(expected));
    server.get("/v1/snapshot?x=1").await.expect_problem(400, "invalid", "no parameters");
    let server = Server::new().fail(Failure::Unavailable("no leader".into()));
    server.get("/v1/snapshot").await.expect_problem(503, "unavailable", "no leader");
}

#[tokio::test]
async fn only_so_many_are_sent_at_a_time() {
    let big = "x".repeat(1_000_000);
    let server = Server::with(&[("a", &big)]);
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect();
        client.write_all(&request("GET", "/v1/snapshot", &[], b"")).await.unwrap();
        assert_eq!(Answered::read(&mut client).await.status, 200);
        stuck.push(client);
    }
    server.get("/v1/snapshot").await.expect_problem(429, "overloaded", "try again");
    stuck.clear();
    while server.get("/v1/snapshot").await.status != 200 {
        tokio::task::yield_now().await;
    }
}
