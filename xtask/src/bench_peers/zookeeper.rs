//! ZooKeeper, the part of it that a benchmark needs: its command line and configuration, and create, set, get and sync
//! of its binary protocol (jute), one request at a time on a connection.
//!
//! A write to a key is `setData`; a client that is told that the node is missing creates it, and tries `create` first
//! from then on, until one is there already. So neither filling nor overwriting costs more than one request. A
//! linearizable read is `sync` and then `getData`, sent together as ZooKeeper's own clients do; the server answers them
//! in order. (Its `sync` asks the leader and no quorum, so it is a little less than what we call linearizable.)
//!
//! Not handled: watches, sessions that live on at another member, TLS, authentication.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use client::load::Driver;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIME_LIMIT: Duration = Duration::from_secs(15);
/// Longer than a load is measured, as far as the server allows: no pings are sent.
const SESSION: Duration = Duration::from_secs(40);
const MAX_ANSWER_BYTES: usize = 16 << 20;

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const SYNC: i32 = 9;

const NO_NODE: i32 = -101;
const NODE_EXISTS: i32 = -110;

/// One connection with a session of its own.
pub struct Zookeeper {
    stream: TcpStream,
    /// Numbers the requests, to notice an answer to another one.
    request: i32,
    /// The last key was not there.
    creates: bool,
}

impl Zookeeper {
    pub async fn connect(address: &str) -> Result<Zookeeper, String> {
        let connected = timeout(TIME_LIMIT, async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let mut zookeeper = Zookeeper { stream, request: 0, creates: false };
            zookeeper.send(&connect_request()).await?;
            let mut answer = zookeeper.receive().await?;
            if answer.len() < 8 {
                return Err("malformed answer".to_string());
            }
            // The protocol's version, then the session's time limit; a refused session has none.
            answer.advance(4);
            if answer.get_i32() > 0 { Ok(zookeeper) } else { Err("no session".to_string()) }
        });
        let told = |error| format!("can't reach ZooKeeper at {address}: {error}");
        connected.await.map_err(|_| told("timeout".to_string()))?.map_err(told)
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), String> {
        loop {
            let request = if self.creates { create(key, value) } else { set(key, value) };
            let kind = if self.creates { CREATE } else { SET_DATA };
            match self.call(kind, &request).await?.0 {
                0 => return Ok(()),
                NO_NODE if !self.creates => self.creates = true,
                NODE_EXISTS if self.creates => self.creates = false,
                error => return Err(format!("ZooKeeper error {error}")),
            }
        }
    }

    /// `None` if there is no such key. `is_local` reads what the member has.
    pub async fn get(&mut self, key: &str, is_local: bool) -> Result<Option<Bytes>, String> {
        let mut message = BytesMut::new();
        let mut answers = 0;
        for (kind, request) in [(SYNC, path(key)), (GET_DATA, get(key))] {
            if kind == GET_DATA || !is_local {
                message.unsplit(self.numbered(kind, &request));
                answers += 1;
            }
        }
        let exchanged = timeout(TIME_LIMIT, async {
            self.send(&message).await?;
            let mut last = (0, Bytes::new());
            for behind in (0..answers).rev() {
                last = self.answer_to(self.request - behind).await?;
            }
            Ok::<_, String>(last)
        });
        match exchanged.await.map_err(|_| "timeout")?? {
            (0, mut data) => string(&mut data).map(Some),
            (NO_NODE, _) => Ok(None),
            (error, _) => Err(format!("ZooKeeper error {error}")),
        }
    }

    /// The error of the answer, 0 for none, and what follows.
    async fn call(&mut self, kind: i32, request: &[u8]) -> Result<(i32, Bytes), String> {
        let message = self.numbered(kind, request);
        let exchanged = timeout(TIME_LIMIT, async {
            self.send(&message).await?;
            self.answer_to(self.request).await
        });
        exchanged.await.map_err(|_| "timeout")?
    }

    fn numbered(&mut self, kind: i32, request: &[u8]) -> BytesMut {
        self.request += 1;
        let mut message = BytesMut::with_capacity(12 + request.len());
        message.put_i32(8 + request.len() as i32);
        message.put_i32(self.request);
        message.put_i32(kind);
        message.put_slice(request);
        message
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), String> {
        self.stream.write_all(message).await.map_err(|_| "connection broken".to_string())
    }

    async fn answer_to(&mut self, request: i32) -> Result<(i32, Bytes), String> {
        let mut answer = self.receive().await?;
        // The request's number, the position in the log, the error.
        if answer.len() < 16 || answer.get_i32() != request {
            return Err("malformed answer".to_string());
        }
        answer.advance(8);
        Ok((answer.get_i32(), answer))
    }

    async fn receive(&mut self) -> Result<Bytes, String> {
        let broken = |_| "connection broken".to_string();
        let length = self.stream.read_i32().await.map_err(broken)?;
        let length = usize::try_from(length).ok().filter(|&length| length <= MAX_ANSWER_BYTES);
        let mut answer = vec![0; length.ok_or("malformed answer")?];
        self.stream.read_exact(&mut answer).await.map_err(broken)?;
        Ok(answer.into())
    }
}

/// One client of the load: local reads, or those after a `sync`.
pub struct ZookeeperDriver {
    pub zookeeper: Zookeeper,
    pub reads_are_local: bool,
}

impl Driver for ZookeeperDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.zookeeper.put(key, value).await
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        match self.zookeeper.get(key, self.reads_are_local).await? {
            Some(_) => Ok(()),
            None => Err("key missing".to_string()),
        }
    }
}

/// Whether the member leads. An error if it neither leads nor follows.
pub async fn leads(address: &str) -> Result<bool, String> {
    let asked = timeout(TIME_LIMIT, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"srvr").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    });
    let answer = asked.await.map_err(|_| "timeout")?.map_err(|error| error.to_string())?;
    match answer.lines().find_map(|line| line.strip_prefix("Mode: ")) {
        Some("leader") => Ok(true),
        Some("follower") => Ok(false),
        _ => Err(format!("{address} neither leads nor follows")),
    }
}

/// Where Debian's package puts it. Its manifest names what else it needs.
const CLASS_PATH: &str = "/usr/share/java/zookeeper.jar";

pub fn find_class_path(given: Option<&str>) -> Result<OsString, String> {
    match given {
        Some(class_path) => Ok(class_path.into()),
        None if Path::new(CLASS_PATH).is_file() => Ok(CLASS_PATH.into()),
        None => Err(format!("there is no {CLASS_PATH}: install ZooKeeper, or name its class path with --zookeeper")),
    }
}

/// A member's command line; writes its configuration and number below `folder`. `quorum_ports` are two for each member.
pub fn arguments(
    member: usize,
    port: u16,
    quorum_ports: &[[u16; 2]],
    class_path: &OsString,
    folder: &Path,
) -> Result<Vec<OsString>, String> {
    let data = folder.join(format!("node{}", member + 1));
    let written = std::fs::create_dir_all(&data)
        .and_then(|()| std::fs::write(data.join("myid"), (member + 1).to_string()))
        .and_then(|()| std::fs::write(data.join("zoo.cfg"), configuration(port, quorum_ports, &data)));
    written.map_err(|error| format!("can't write below {}: {error}", data.display()))?;
    Ok(vec![
        // As ZooKeeper's own script starts it.
        "-Xmx1000m".into(),
        "-Dzookeeper.forceSync=yes".into(),
        "-cp".into(),
        class_path.clone(),
        "org.apache.zookeeper.server.quorum.QuorumPeerMain".into(),
        data.join("zoo.cfg").into(),
    ])
}

pub fn find_java() -> Result<PathBuf, String> {
    super::process::find_in_path("java").ok_or_else(|| "ZooKeeper needs `java` in PATH".to_string())
}

/// What its own example says, and no more than needed.
fn configuration(port: u16, quorum_ports: &[[u16; 2]], data: &Path) -> String {
    let mut lines = vec![
        "tickTime=2000".to_string(),
        "initLimit=10".to_string(),
        "syncLimit=5".to_string(),
        format!("dataDir={}", data.display()),
        format!("clientPort={port}"),
        "clientPortAddress=127.0.0.1".to_string(),
        "maxClientCnxns=0".to_string(),
        "admin.enableServer=false".to_string(),
    ];
    for (at, [peers, election]) in quorum_ports.iter().enumerate() {
        lines.push(format!("server.{}=127.0.0.1:{peers}:{election}", at + 1));
    }
    lines.join("\n") + "\n"
}

fn connect_request() -> BytesMut {
    let mut request = BytesMut::new();
    request.put_i32(45);
    // Protocol version, the last position seen, the session's timeout, its id, its password, not read-only.
    request.put_i32(0);
    request.put_i64(0);
    request.put_i32(SESSION.as_millis() as i32);
    request.put_i64(0);
    put_string(&mut request, &[0; 16]);
    request.put_u8(0);
    request
}

fn create(key: &str, value: &str) -> BytesMut {
    let mut request = path(key);
    put_string(&mut request, value.as_bytes());
    // One rule: anyone may do anything. Then: neither ephemeral nor numbered.
    request.put_i32(1);
    request.put_i32(31);
    put_string(&mut request, b"world");
    put_string(&mut request, b"anyone");
    request.put_i32(0);
    request
}

fn set(key: &str, value: &str) -> BytesMut {
    let mut request = path(key);
    put_string(&mut request, value.as_bytes());
    // Whatever its version.
    request.put_i32(-1);
    request
}

fn get(key: &str) -> BytesMut {
    let mut request = path(key);
    // Without a watch.
    request.put_u8(0);
    request
}

fn path(key: &str) -> BytesMut {
    let mut request = BytesMut::with_capacity(5 + key.len());
    request.put_i32(1 + key.len() as i32);
    request.put_u8(b'/');
    request.put_slice(key.as_bytes());
    request
}

fn put_string(request: &mut BytesMut, string: &[u8]) {
    request.put_i32(string.len() as i32);
    request.put_slice(string);
}

fn string(answer: &mut Bytes) -> Result<Bytes, String> {
    let malformed = || "malformed answer".to_string();
    let length = answer.try_get_i32().map_err(|_| malformed())?;
    // -1 is how it says that there is none.
    let length = usize::try_from(length.max(0)).map_err(|_| malformed())?;
    if length > answer.len() { Err(malformed()) } else { Ok(answer.split_to(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Byte for byte what ZooKeeper's own client sends.
    #[test]
    fn requests_on_the_wire() {
        assert_eq!(set("k", "v"), &b"\0\0\0\x02/k\0\0\0\x01v\xff\xff\xff\xff"[..]);
        assert_eq!(get("k"), &b"\0\0\0\x02/k\0"[..]);
        assert_eq!(
            create("k", "v"),
            &b"\0\0\0\x02/k\0\0\0\x01v\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone\0\0\0\0"[..]
        );
        assert_eq!(connect_request().len(), 49);
    }

    #[test]
    fn strings_from_the_wire() {
        assert_eq!(string(&mut Bytes::from_static(b"\0\0\0\x02abc")).unwrap(), "ab");
        assert_eq!(string(&mut Bytes::from_static(b"\xff\xff\xff\xff")).unwrap(), "");
        for malformed in [&b""[..], b"\0\0\0", b"\0\0\0\x02a"] {
            assert!(string(&mut Bytes::from_static(malformed)).is_err());
        }
    }

    /// A member that answers each request with the next of some errors, and a value after `getData`.
    async fn member(errors: &'static [i32]) -> Zookeeper {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 49];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0]).await.unwrap();
            for &error in errors {
                let mut request = vec![0; stream.read_i32().await.unwrap() as usize];
                stream.read_exact(&mut request).await.unwrap();
                let mut answer = BytesMut::new();
                answer.put_slice(&request[..4]);
                answer.put_i64(1);
                answer.put_i32(error);
                if request[7] == GET_DATA as u8 {
                    put_string(&mut answer, b"value");
                }
                stream.write_i32(answer.len() as i32).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Zookeeper::connect(&address).await.unwrap()
    }

    #[tokio::test]
    async fn a_missing_key_is_created_and_the_next_one_at_once() {
        let mut zookeeper = member(&[NO_NODE, 0, 0, NODE_EXISTS, 0]).await;
        for (key, creates) in [("a", true), ("b", true), ("a", false)] {
            zookeeper.put(key, "v").await.unwrap();
            assert_eq!(zookeeper.creates, creates, "{key}");
        }
    }

    #[tokio::test]
    async fn a_read_that_syncs_waits_for_both_answers() {
        let mut zookeeper = member(&[0, 0, 0, 0, NO_NODE, -4]).await;
        assert_eq!(zookeeper.get("a", false).await.unwrap().unwrap(), "value");
        assert_eq!(zookeeper.get("a", true).await.unwrap().unwrap(), "value");
        assert_eq!(zookeeper.get("a", false).await.unwrap(), None);
        assert!(zookeeper.get("a", true).await.unwrap_err().contains("-4"));
    }

    #[test]
    fn a_member_knows_all_others() {
        let folder = tempfile::tempdir().unwrap();
        let line = arguments(1, 20, &[[1, 2], [3, 4]], &"zk.jar".into(), folder.path()).unwrap();
        let data = folder.path().join("node2");
        assert_eq!(line.last().unwrap(), &data.join("zoo.cfg"));
        assert_eq!(std::fs::read_to_string(data.join("myid")).unwrap(), "2");
        let configuration = std::fs::read_to_string(data.join("zoo.cfg")).unwrap();
        assert!(configuration.contains("clientPort=20\n"), "{configuration}");
        assert!(configuration.ends_with("server.1=127.0.0.1:1:2\nserver.2=127.0.0.1:3:4\n"), "{configuration}");
    }
}
