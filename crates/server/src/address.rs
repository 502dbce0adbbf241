//! Addresses as people give them, and the sockets behind them.
//!
//! `host:port`; without the host (`:11000`, or just `11000`) one listens on all interfaces and dials `localhost`. They
//! are kept and shown as they were given; only comparing resolves them.
//!
//! Not handled: `http://` with a path, and service names for ports.

use node::membership::Configuration;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

/// `host:port`, where an empty host is all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    pub fn parse(text: &str) -> Result<Address, String> {
        let wrong = |what: &str| format!("{text:?} is no address: {what}; give HOST:PORT, such as localhost:11000");
        let bare = text.trim().trim_start_matches("http://").trim_end_matches('/');
        let (host, port) = bare.rsplit_once(':').unwrap_or(("", bare));
        let port = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.contains(|c: char| matches!(c, '/' | '@' | '[' | ']') || c.is_whitespace() || c.is_control()) {
            return Err(wrong("the host has a character that no host name has"));
        }
        let all = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        Ok(Address { host: if all { String::new() } else { host.to_string() }, port })
    }

    pub fn is_on_all_interfaces(&self) -> bool {
        self.host.is_empty()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with the port that a socket really got, where 0 asked for any.
    pub fn with_port(&self, port: u16) -> Address {
        Address { host: self.host.clone(), port }
    }

    /// The URL of HTTP that listens here, on a node that its peers reach at `peer_address`.
    pub fn url(&self, peer_address: &str) -> String {
        match Address::parse(peer_address) {
            Ok(peers) if self.is_on_all_interfaces() => format!("http://{}", peers.with_port(self.port)),
            _ => format!("http://{self}"),
        }
    }

    pub async fn bind(&self) -> io::Result<TcpListener> {
        if self.is_on_all_interfaces() {
            // One socket for both families where the system has IPv6 at all.
            let all: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
            return listen(all.map(|ip| SocketAddr::new(ip, self.port)));
        }
        listen(self.resolve().await?)
    }

    /// Dials, trying each address that the name has.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.resolve().await?[..]).await?;
        tune(&stream)?;
        Ok(stream)
    }

    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let host = if self.host.is_empty() { "localhost" } else { &self.host };
        let mut found: Vec<SocketAddr> = timeout(RESOLVE_LIMIT, lookup_host((host, self.port))).await??.collect();
        // As most programs do: whoever says localhost means 127.0.0.1 first.
        found.sort_by_key(SocketAddr::is_ipv6);
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("the host name {host} has no address")));
        }
        Ok(found)
    }
}

/// As it is dialled.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_str() {
            "" => write!(f, "localhost:{}", self.port),
            host if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

pub async fn connect(text: &str) -> io::Result<TcpStream> {
    let address = Address::parse(text).map_err(|wrong| io::Error::new(io::ErrorKind::InvalidInput, wrong))?;
    address.connect().await
}

/// Settings of every connection: small messages leave at once, and a host that vanished is noticed.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The spelling under which the cluster knows that address already; as it is given, if it knows none.
pub async fn as_known(given: String, configuration: &Configuration) -> String {
    let known = || configuration.members.values().map(|member| &member.address);
    if known().any(|address| *address == given) {
        return given;
    }
    let resolve = async |text: &str| match Address::parse(text) {
        Ok(address) => address.resolve().await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let wanted = resolve(&given).await;
    for address in known() {
        if resolve(address).await.iter().any(|found| wanted.contains(found)) {
            return address.clone();
        }
    }
    given
}

fn listen(candidates: impl IntoIterator<Item = SocketAddr>) -> io::Result<TcpListener> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in candidates {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            // A port that is taken is taken; the other family must not hide that.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restarted program gets its port back at once. On Windows this option means something else.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

const RESOLVE_LIMIT: Duration = Duration::from_secs(3);
const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use base::Incarnation;
    use node::membership::Member;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (given, all, dialled) in [
            ("localhost:11000", false, "localhost:11000"),
            (":11000", true, "localhost:11000"),
            ("11000", true, "localhost:11000"),
            ("0.0.0.0:1", true, "localhost:1"),
            ("[::]:1", true, "localhost:1"),
            ("[::1]:1", false, "[::1]:1"),
            ("10.0.0.7:80", false, "10.0.0.7:80"),
            ("http://node.example:80/", false, "node.example:80"),
        ] {
            let address = Address::parse(given).unwrap();
            assert_eq!((address.is_on_all_interfaces(), address.to_string().as_str()), (all, dialled), "{given}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_in_words() {
        for given in [
            "",
            ":",
            "localhost",
            "localhost:",
            "localhost:x",
            "a:65536",
            "http://a:1/b:2",
            "a b:1",
            "[\ta]:1",
            "[[a]]:1",
        ] {
            let error = Address::parse(given).unwrap_err();
            assert!(error.contains("give HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn http_on_all_interfaces_is_where_the_peers_reach_the_node() {
        for (http, peers, url) in [
            ("10.0.0.7:80", "10.0.0.8:1", "http://10.0.0.7:80"),
            (":80", "10.0.0.8:1", "http://10.0.0.8:80"),
            ("0.0.0.0:80", "[::1]:1", "http://[::1]:80"),
            (":80", ":1", "http://localhost:80"),
            (":80", "what an old folder says", "http://localhost:80"),
        ] {
            assert_eq!(Address::parse(http).unwrap().url(peers), url, "{http} {peers}");
        }
    }

    #[tokio::test]
    async fn another_spelling_of_a_known_address_is_recognized() {
        let founder =
            Member { name: "a".into(), address: "localhost:12000".into(), incarnation: Incarnation::default() };
        let configuration = Configuration::bootstrap(founder);
        for (given, known) in [
            ("localhost:12000", "localhost:12000"),
            ("127.0.0.1:12000", "localhost:12000"),
            ("127.0.0.1:12001", "127.0.0.1:12001"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(as_known(given.into(), &configuration).await, known);
        }
    }

    #[tokio::test]
    async fn a_listener_on_all_interfaces_is_reached_by_localhost() {
        let listener = Address::parse(":0").unwrap().bind().await.unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let (dialled, accepted) = tokio::join!(connect(&address), listener.accept());
        assert_eq!(dialled.unwrap().local_addr().unwrap().port(), accepted.unwrap().1.port());
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = Address::parse("127.0.0.1:0").unwrap().bind().await.unwrap();
        let again = Address::parse(&first.local_addr().unwrap().to_string()).unwrap().bind().await;
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
