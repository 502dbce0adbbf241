//! Asking a member of a cluster to let this node in: `POST /join` at the member's HTTP address.
//!
//! Not handled: redirects.

use crate::address;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::timeout;

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
pub async fn ask(member: &str, name: &str, address: &str, limit: Duration) -> Joined {
    let answered = timeout(limit + TRAVEL_LIMIT, post(member, name, address));
    match answered.await {
        Ok(Ok((StatusCode::OK, _))) => Joined::Yes,
        Ok(Ok((status, text))) if status.is_client_error() && !is_temporary(status) => {
            Joined::Refused(format!("{member} refused to let this node join ({status}): {text}"))
        }
        Ok(Ok((status, text))) => Joined::NotYet(format!("{member} could not let this node join ({status}): {text}")),
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

async fn post(member: &str, name: &str, address: &str) -> Result<(StatusCode, String), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let stream = address::connect(member).await.map_err(|error| words(&error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    // Ends with the sender.
    tokio::spawn(connection);
    let host = address::Address::parse(member)?.to_string();
    let body = serde_json::json!({ "id": name, "addr": address }).to_string();
    let request = Request::post("/join")
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| words(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| words(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|error| words(&error))?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).trim().to_string()))
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

const TRAVEL_LIMIT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;
