//! Asking a member of a cluster to let a node in, at the member's HTTP address.
//!
//! Not handled: redirects.

use crate::address::{self, Address};
use crate::config::Words;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Who shall be let in.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub name: &'a str,
    pub address: &'a str,
    /// To stay a learner.
    pub learner: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The node is a member.
    Yes,
    /// Asking again will not help.
    Refused(String),
    /// Ask again.
    NotYet(String),
}

/// Asks once. `limit` is what the member may take to do it.
pub async fn ask(member: &str, words: Words, candidate: Candidate<'_>, limit: Duration) -> Joined {
    let answered = timeout(limit + TRAVEL_LIMIT, post(member, words, candidate));
    match answered.await {
        Ok(Ok((StatusCode::OK, _))) => Joined::Yes,
        Ok(Ok((status, why))) if status.is_client_error() && !is_temporary(status) => {
            Joined::Refused(format!("{member} refused to let this node join ({status}){why}"))
        }
        Ok(Ok((status, why))) => Joined::NotYet(format!("{member} could not let this node join ({status}){why}")),
        Ok(Err(error)) => Joined::NotYet(format!("can't ask {member} to let this node join: {error}")),
        Err(_) => Joined::NotYet(format!("{member} gave no answer to the join within {} s", limit.as_secs())),
    }
}

/// The address of this host on the way to that member, for nodes that listen on all interfaces.
pub async fn local_host_towards(member: &str) -> std::io::Result<String> {
    let ip = address::connect(member).await?.local_addr()?.ip().to_canonical();
    Ok(match ip {
        ip if ip.is_loopback() => "localhost".to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    })
}

async fn post(member: &str, words: Words, candidate: Candidate<'_>) -> Result<(StatusCode, String), String> {
    let stream = address::connect(member).await.map_err(|error| error.to_string())?;
    post_over(stream, member, words, candidate).await
}

pub async fn post_over<S>(
    stream: S,
    member: &str,
    words: Words,
    candidate: Candidate<'_>,
) -> Result<(StatusCode, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |error: &dyn Display| error.to_string();
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    // Ends with the sender.
    tokio::spawn(connection);
    let (path, body) = question(words, candidate);
    let request = Request::post(path)
        .header(HOST, Address::parse(member)?.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| said(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|error| said(&error))?;
    Ok((status, reason(&body.to_bytes())))
}

fn question(words: Words, Candidate { name, address, learner }: Candidate<'_>) -> (&'static str, String) {
    let (path, body) = match words {
        // Only our own programs know of learners, and all of them understand these words.
        _ if learner => ("/join", json!({ "id": name, "addr": address, "learner": true })),
        Words::Hraftd => ("/join", json!({ "id": name, "addr": address })),
        Words::Raftd => ("/join", json!({ "name": name, "connectionString": format!("http://{address}") })),
        Words::RaftKv => ("/cluster/join/", json!({ "address": address })),
    };
    (path, body.to_string())
}

/// What the body of an answer says, to be put behind a sentence: nothing, or `: …`.
fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        error: String,
    }
    let text = match serde_json::from_slice(body) {
        Ok(Body { error }) => error,
        Err(_) => String::from_utf8_lossy(body).trim().to_string(),
    };
    if text.is_empty() { text } else { format!(": {text}") }
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

const TRAVEL_LIMIT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const NODE: Candidate<'_> = Candidate { name: "b", address: "localhost:2", learner: false };

    /// Asks a member that answers just this, and says what the member was asked.
    async fn asked(words: Words, answer: &str) -> (String, Joined) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = listener.local_addr().unwrap().to_string();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let (request, joined) = tokio::join!(answering, ask(&member, words, NODE, Duration::from_secs(10)));
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let line = head.lines().next().unwrap();
        (format!("{line} {body}"), told(joined, &member))
    }

    /// Without the port, which is another one each time.
    fn told(joined: Joined, member: &str) -> Joined {
        let bare = |text: String| text.replace(member, "the member");
        match joined {
            Joined::Yes => Joined::Yes,
            Joined::Refused(why) => Joined::Refused(bare(why)),
            Joined::NotYet(why) => Joined::NotYet(bare(why)),
        }
    }

    #[tokio::test]
    async fn each_dialect_has_its_own_words() {
        for (words, expected) in [
            (Words::Hraftd, r#"POST /join HTTP/1.1 {"addr":"localhost:2","id":"b"}"#),
            (Words::Raftd, r#"POST /join HTTP/1.1 {"connectionString":"http://localhost:2","name":"b"}"#),
            (Words::RaftKv, r#"POST /cluster/join/ HTTP/1.1 {"address":"localhost:2"}"#),
        ] {
            let (question, joined) = asked(words, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
            assert_eq!((question.as_str(), joined), (expected, Joined::Yes));
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_from_a_failure_that_may_pass_and_the_reason_is_given() {
        let refused = |text: &str| Joined::Refused(format!("the member refused to let this node join ({text}"));
        let not_yet = |text: &str| Joined::NotYet(format!("the member could not let this node join ({text}"));
        for (status, body, expected) in [
            ("400 Bad Request", r#"{"error":"it is full"}"#, refused("400 Bad Request): it is full")),
            ("503 Service Unavailable", "{}", not_yet("503 Service Unavailable)")),
            ("500 Internal Server Error", "no leader\n", not_yet("500 Internal Server Error): no leader")),
            ("429 Too Many Requests", "", not_yet("429 Too Many Requests)")),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            assert_eq!(asked(Words::Hraftd, &answer).await.1, expected);
        }
    }
}
