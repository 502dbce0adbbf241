//! What goes wrong on a connection, and what is told about it.

use super::*;

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    let server = Server::new();
    let mut client = server.connect();
    client.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 4194305\r\n\r\n").await.unwrap();
    let answer = Answered::read(&mut client).await;
    answer.expect_error(413, "4194304");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_chunked_body_is_refused_once_it_is_too_large() {
    let server = Server::new();
    let chunk = "x".repeat(65536);
    let mut raw = b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..80 {
        raw.extend_from_slice(format!("10000\r\n{chunk}\r\n").as_bytes());
    }
    server.send(&raw).await.expect_error(413, "4194304");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_head_over_its_limits_is_431_and_names_them() {
    let server = Server::new();
    let header = format!("X-Long: {}\r\n", "x".repeat(MAX_HEAD_BYTES));
    let many: String = (0..=MAX_HEADERS).map(|n| format!("X-{n}: 1\r\n")).collect();
    let endless = "x".repeat(MAX_HEAD_BYTES * 4);
    let rows = [
        format!("GET /key/a HTTP/1.1\r\nHost: x\r\n{header}\r\n"),
        format!("GET /key/a HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        format!("GET /key/{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(MAX_HEAD_BYTES)),
        format!("GET /key/a HTTP/1.1\r\nHost: x\r\nX-Endless: {endless}"),
    ];
    for raw in rows {
        let answer = server.send(raw.as_bytes()).await;
        answer.expect_error(431, &MAX_HEAD_BYTES.to_string());
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn what_is_no_request_is_400_with_a_reason() {
    let server = Server::new();
    let rows: [&[u8]; 8] = [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /key/a\r\n\r\n",
        b"GET /key/a HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /key/a HTTP/1.1\r\nbroken header\r\n\r\n",
        b"GET /key/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET /key/a HTTP/1.1\r\n\r\n",
    ];
    for raw in rows {
        server.send(raw).await.expect_error(400, "");
    }
    server.send(rows[7]).await.expect_error(400, "Host");
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn a_body_cut_short_changes_nothing() {
    let server = Server::new();
    server.send(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"a\":\"1\"}").await;
    server.send(b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"a\":\"1\"}\r\n").await;
    server.send(b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n").await;
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn chunked_bodies_old_clients_and_any_content_type_work() {
    let rows: [&[u8]; 4] = [
        b"POST /key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n5\r\n:\"1\"}\r\n0\r\n\r\n",
        b"POST /key HTTP/1.0\r\nContent-Length: 9\r\n\r\n{\"a\":\"1\"}",
        b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Type: application-type/json\r\nContent-Length: 9\r\n\r\n{\"a\":\"1\"}",
        b"POST http://x/key HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"a\":\"1\"}",
    ];
    for raw in rows {
        let server = Server::new();
        assert_eq!(server.send(raw).await.status, 200);
        assert_eq!(server.content(), content(&[("a", "1")]));
    }
}

#[tokio::test]
async fn who_waits_for_100_continue_gets_it() {
    let server = Server::new();
    let mut client = server.connect();
    let head = b"POST /key HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    client.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"{\"a\":\"1\"}").await.unwrap();
    assert_eq!(Answered::read(&mut client).await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_garbage_after_them_is_400() {
    let server = Server::with(&[("a", "1"), ("b", "2")]);
    let raw = b"GET /key/a HTTP/1.1\r\nHost: x\r\n\r\nGET /key/b HTTP/1.1\r\nHost: x\r\n\r\nGET /key/missing HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut client = server.connect();
    client.write_all(raw).await.unwrap();
    for expected in [r#"{"a":"1"}"#, r#"{"b":"2"}"#, r#"{"missing":""}"#] {
        assert_eq!(Answered::read(&mut client).await.body, expected);
    }
    client.write_all(b"garbage\r\n\r\n").await.unwrap();
    Answered::read(&mut client).await.expect_error(400, "no HTTP/1.1 request");
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_head_slowly_is_told_and_dropped() {
    let server = Server::new();
    let mut client = server.connect();
    client.write_all(b"GET /key/a HTTP/1.1\r\nHos").await.unwrap();
    Answered::read(&mut client).await.expect_error(408, "head");
}

#[tokio::test(start_paused = true)]
async fn who_sends_a_body_slowly_is_told_and_dropped() {
    let server = Server::new();
    let mut client = server.connect();
    client.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{").await.unwrap();
    Answered::read(&mut client).await.expect_error(408, "body");
    assert_eq!(server.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_minutes_and_then_closed() {
    let server = Server::with(&[("k", "v")]);
    let mut client = server.connect();
    for _ in 0..3 {
        tokio::time::sleep(PATROL * (IDLE_ROUNDS - 2)).await;
        client.write_all(&request("GET", "/key/k", &[], b"")).await.unwrap();
        assert_eq!(Answered::read(&mut client).await.body, r#"{"k":"v"}"#);
    }
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn closing_answers_the_request_in_hand_and_ends_every_connection() {
    let server = Server::new();
    let (mut busy, mut idle, mut fresh) = (server.connect(), server.connect(), server.connect());
    idle.write_all(&request("GET", "/key/k", &[], b"")).await.unwrap();
    assert_eq!(Answered::read(&mut idle).await.status, 200);
    busy.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        .await
        .unwrap();
    busy.read_exact(&mut [0; 25]).await.unwrap();

    server.front.close();
    for client in [&mut idle, &mut fresh] {
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
    busy.write_all(b"{\"a\":\"1\"}").await.unwrap();
    assert_eq!(Answered::read(&mut busy).await.status, 200);
    assert_eq!(busy.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(server.content(), content(&[("a", "1")]));
}

#[tokio::test]
async fn a_client_that_never_stops_sending_still_gets_its_answer() {
    let server = Server::new();
    let (mut reader, mut writer) = tokio::io::split(server.connect());
    let sending = tokio::spawn(async move {
        let _ = writer.write_all(b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n").await;
        let megabyte = vec![b'x'; 1 << 20];
        while writer.write_all(&megabyte).await.is_ok() {}
    });
    Answered::read(&mut reader).await.expect_error(413, "limit");
    sending.await.unwrap();
}

#[tokio::test]
async fn a_thousand_random_byte_strings_change_nothing() {
    let server = Server::new();
    let mut rng = Rng::new(20_261_121);
    for round in 0..1000 {
        let length = rng.below(600) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
        if round % 2 == 0 {
            // Half of them begin like a request, so that they get further.
            let begins: [&[u8]; 3] = [b"POST /key HTTP/1.1\r\nHost: x\r\n", b"DELETE /key/", b"POST /join "];
            bytes.splice(0..0, rng.pick(&begins).iter().copied());
        }
        server.send(&bytes).await;
    }
    assert_eq!(server.asked(), []);
    assert_eq!(server.get("/key/a").await.status, 200);
}
