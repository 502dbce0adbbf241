//! One HTTP question to a node, for commands that ask once and end.
//!
//! Not handled: TLS, redirects, and answers that are not short.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A node may work on a request for as long as it takes to elect a leader, and then some.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const MAX_ANSWER_BYTES: u64 = 16 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// `address` is `host:port`, `:port` or `port`, with or without `http://`.
pub fn ask(address: &str, method: &str, path: &str, body: &str) -> Result<Answer, String> {
    let address = dialled(address);
    exchange(&address, method, path, body).map_err(|error| format!("{address}: {}", in_words(&error)))
}

impl Answer {
    /// The body of a 200, or else what the node says is wrong.
    pub fn ok(self) -> Result<String, String> {
        if self.status == 200 {
            return Ok(self.body);
        }
        let told = serde_json::from_str::<serde_json::Value>(&self.body).ok();
        let told = told.as_ref().and_then(|body| body["error"].as_str()).unwrap_or(self.body.trim());
        Err(format!("{told} (HTTP {})", self.status))
    }

    fn parse(bytes: &[u8]) -> Option<Answer> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, body: body.to_string() })
    }
}

/// The address as it is dialled: without a host it is on this one.
pub fn dialled(address: &str) -> String {
    let bare = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    match bare.rsplit_once(':') {
        None if bare.parse::<u16>().is_ok() => format!("localhost:{bare}"),
        Some(("", port)) => format!("localhost:{port}"),
        _ => bare.to_string(),
    }
}

fn exchange(address: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(CONNECT_LIMIT))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Answer::parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for found in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&found, CONNECT_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_string(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_string(),
        io::ErrorKind::InvalidInput => "this is no address; give HOST:PORT, such as localhost:11000".to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_its_host() {
        for (given, expected) in [
            ("node.example:80", "node.example:80"),
            (":11000", "localhost:11000"),
            ("11000", "localhost:11000"),
            ("http://localhost:11000/", "localhost:11000"),
            ("[::1]:11000", "[::1]:11000"),
        ] {
            assert_eq!(dialled(given), expected);
        }
    }

    #[test]
    fn an_error_is_the_nodes_own_sentence() {
        let answer = Answer { status: 400, body: r#"{"error":"no"}"#.into() };
        assert_eq!(answer.ok(), Err("no (HTTP 400)".into()));
        let answer = Answer { status: 500, body: "broken\n".into() };
        assert_eq!(answer.ok(), Err("broken (HTTP 500)".into()));
        let answer = Answer::parse(b"HTTP/1.1 200 OK\r\na: b\r\n\r\nbody").unwrap();
        assert_eq!(answer.ok(), Ok("body".into()));
        assert_eq!(Answer::parse(b"HTTP/1.1 200 OK\r\na: b"), None);
    }

    #[test]
    fn where_nothing_listens_the_error_says_so() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert_eq!(ask(&free, "GET", "/status", ""), Err(format!("{free}: nothing listens there")));
        assert!(ask("nonsense", "GET", "/status", "").unwrap_err().contains("give HOST:PORT"));
    }
}
