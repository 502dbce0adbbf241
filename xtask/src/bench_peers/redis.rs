//! Redis, the part of it that a benchmark needs: its command line, and SET, GET and PING of its protocol (RESP), one
//! request at a time on a connection. One node without replication, which syncs its log before it answers a write: not
//! a peer, but a bar to look up at.
//!
//! Not handled: any other command, TLS, authentication.

use super::process::find_in_path;
use client::load::Driver;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIME_LIMIT: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: usize = 16 << 20;

pub struct Redis {
    stream: BufReader<TcpStream>,
    answer: Vec<u8>,
}

impl Redis {
    pub async fn connect(address: &str) -> Result<Redis, String> {
        let told = |error: std::io::Error| format!("can't reach Redis at {address}: {error}");
        let stream = TcpStream::connect(address).await.map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        Ok(Redis { stream: BufReader::new(stream), answer: Vec::new() })
    }

    pub async fn ping(&mut self) -> Result<(), String> {
        self.call(&["PING"]).await.map(drop)
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.call(&["SET", key, value]).await.map(drop)
    }

    /// Whether the key is there; its value is read.
    pub async fn get(&mut self, key: &str) -> Result<bool, String> {
        self.call(&["GET", key]).await
    }

    /// False for an answer that says "nothing".
    async fn call(&mut self, command: &[&str]) -> Result<bool, String> {
        let message = encode(command);
        let exchanged = timeout(TIME_LIMIT, async {
            let broken = |_| "connection broken".to_string();
            self.stream.write_all(&message).await.map_err(broken)?;
            self.answer.clear();
            self.stream.read_until(b'\n', &mut self.answer).await.map_err(broken)?;
            let line = self.answer.strip_suffix(b"\r\n").ok_or("connection broken")?;
            match parse(line)? {
                Answer::Ok => Ok(true),
                Answer::Nothing => Ok(false),
                Answer::Bytes(length) => {
                    self.answer.resize(length + 2, 0);
                    self.stream.read_exact(&mut self.answer).await.map_err(broken)?;
                    Ok(true)
                }
            }
        });
        exchanged.await.map_err(|_| "timeout")?
    }
}

/// One client of the load. With one node, every read is linearizable.
pub struct RedisDriver(pub Redis);

impl Driver for RedisDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.0.put(key, value).await
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        if self.0.get(key).await? { Ok(()) } else { Err("key missing".to_string()) }
    }
}

pub fn find_program(given: Option<&Path>) -> Result<PathBuf, String> {
    let found = match given {
        Some(path) => Some(path.to_path_buf()).filter(|path| path.is_file()),
        None => find_in_path("redis-server"),
    };
    found.ok_or_else(|| "there is no redis-server: install it, or name its program with --redis".to_string())
}

pub fn arguments(port: u16, folder: &Path) -> Result<Vec<OsString>, String> {
    let data = folder.join("node1");
    std::fs::create_dir_all(&data).map_err(|error| format!("can't make {}: {error}", data.display()))?;
    let mut arguments: Vec<OsString> = Vec::new();
    for (option, value) in [
        ("--bind", "127.0.0.1".into()),
        ("--port", port.to_string().into()),
        ("--dir", data.into_os_string()),
        ("--appendonly", "yes".into()),
        ("--appendfsync", "always".into()),
        ("--save", "".into()),
    ] {
        arguments.extend([option.into(), value]);
    }
    Ok(arguments)
}

enum Answer {
    Ok,
    Nothing,
    /// So many follow, and the end of a line.
    Bytes(usize),
}

fn parse(line: &[u8]) -> Result<Answer, String> {
    let malformed = || "malformed answer".to_string();
    let (kind, rest) = line.split_first().ok_or_else(malformed)?;
    let rest = std::str::from_utf8(rest).map_err(|_| malformed())?;
    match kind {
        b'+' => Ok(Answer::Ok),
        b'-' => Err(format!("Redis: {}", rest.split(' ').next().unwrap_or_default())),
        b'$' if rest == "-1" => Ok(Answer::Nothing),
        b'$' => {
            let length = rest.parse().ok().filter(|&length| length <= MAX_ANSWER_BYTES);
            length.map(Answer::Bytes).ok_or_else(malformed)
        }
        _ => Err(malformed()),
    }
}

fn encode(command: &[&str]) -> Vec<u8> {
    let mut message = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        message.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn commands_on_the_wire() {
        assert_eq!(encode(&["SET", "k", "v1"]), b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nv1\r\n");
    }

    #[tokio::test]
    async fn answers_from_the_wire() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers: [&[u8]; 5] =
                [b"+OK\r\n", b"$2\r\nv1\r\n", b"$-1\r\n", b"-LOADING it takes a while\r\n", b"$99999999999\r\n"];
            for answer in answers {
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer).await.unwrap();
            }
        });
        let mut redis = Redis::connect(&address).await.unwrap();
        assert_eq!(redis.put("k", "v1").await, Ok(()));
        assert_eq!(redis.get("k").await, Ok(true));
        assert_eq!(redis.get("k").await, Ok(false));
        assert_eq!(redis.get("k").await, Err("Redis: LOADING".to_string()));
        assert_eq!(redis.get("k").await, Err("malformed answer".to_string()));
    }
}
