//! The client against a small server that speaks hraftd's dialect, and against some that misbehave.

use bytes::Bytes;
use client::hraftd::{self, Client, Connection, Error, Pool};
use client::load::{Driver, HttpDriver, Plan};
use client::{Level, Method, load};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

#[derive(Clone, Default)]
struct Store {
    values: Arc<Mutex<BTreeMap<String, String>>>,
    /// Method and path of each request, as they came.
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<u64>>,
}

impl Store {
    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *self.connections.lock().unwrap() += 1;
                let store = self.clone();
                let service = service_fn(move |request| {
                    let store = store.clone();
                    async move { Ok::<_, Infallible>(store.answer(request).await) }
                });
                tokio::spawn(
                    async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await },
                );
            }
        });
        address
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path_and_query().unwrap().to_string();
        self.seen.lock().unwrap().push(format!("{} {path}", request.method()));
        let key = request.uri().path().strip_prefix("/key/").unwrap_or_default();
        let key = percent_encoding::percent_decode_str(key).decode_utf8().unwrap().to_string();
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut values = self.values.lock().unwrap();
        let (status, body) = match (method, path.as_str()) {
            (Method::GET, "/status") => (
                200,
                r#"{"me":{"id":"n1","address":"h:1"},"leader":{"id":"n1","address":"h:1"},"followers":[{"id":"n2","address":"h:2"}]}"#
                    .to_string(),
            ),
            (Method::POST, "/key") => {
                values.extend(serde_json::from_slice::<BTreeMap<String, String>>(&body).unwrap());
                (200, String::new())
            }
            (Method::DELETE, _) if key == "protected" => (503, "no leader: try again\n".to_string()),
            (Method::DELETE, _) => {
                values.remove(&key);
                (200, String::new())
            }
            (Method::GET, _) if !key.is_empty() => {
                let value = values.get(&key).cloned().unwrap_or_default();
                (200, serde_json::json!({ key: value }).to_string())
            }
            _ => (404, String::new()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    }
}

/// An address at which nothing listens.
async fn dead_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// Accepts connections, reads a little from each, and closes it without a word.
async fn closing_server() -> (String, Arc<Mutex<u64>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let closed = Arc::new(Mutex::new(0));
    let counted = closed.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if stream.read(&mut [0; 16]).await.is_ok() {
                *counted.lock().unwrap() += 1;
            }
        }
    });
    (address, closed)
}

#[tokio::test]
async fn put_get_delete_and_status_over_one_connection() {
    let store = Store::default();
    let mut connection = Connection::open(&store.clone().serve().await).await.unwrap();
    connection.put("a/b", "one \"two\"\n").await.unwrap();
    connection.put_all(&[("x", "1"), ("y", "2")]).await.unwrap();
    assert_eq!(connection.get("a/b", Level::Default).await.unwrap(), "one \"two\"\n");
    assert_eq!(connection.get("y", Level::None).await.unwrap(), "2");
    connection.delete("y").await.unwrap();
    assert_eq!(connection.get("y", Level::Linearizable).await.unwrap(), "");
    let status = connection.status().await.unwrap();
    assert!(status.is_leader());
    assert_eq!(status.followers[0].address, "h:2");
    assert_eq!(*store.connections.lock().unwrap(), 1);
    assert_eq!(
        *store.seen.lock().unwrap(),
        [
            "POST /key",
            "POST /key",
            "GET /key/a%2Fb",
            "GET /key/y?level=none",
            "DELETE /key/y",
            "GET /key/y?level=linearizable",
            "GET /status",
        ]
    );
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words_and_keeps_the_connection() {
    let mut connection = Connection::open(&Store::default().serve().await).await.unwrap();
    let error = connection.delete("protected").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { status: 503, message, .. } if message == "no leader: try again"));
    assert_eq!(error.kind(), "status 503");
    let response = connection.request(Method::PUT, "/nothing", HeaderMap::new(), "body").await.unwrap();
    assert_eq!(response.status, StatusCode::NOT_FOUND);
    assert!(connection.is_open());
}

#[tokio::test]
async fn a_client_moves_on_to_an_endpoint_that_is_there() {
    let store = Store::default();
    let mut client = Client::new([dead_address().await, store.clone().serve().await]);
    client.put("k", "v").await.unwrap();
    assert_eq!(client.get("k", Level::Default).await.unwrap(), "v");
    assert_eq!(*store.connections.lock().unwrap(), 1, "it stays with the one that answered");

    let error = Client::new([dead_address().await]).put("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let error = Client::new(Vec::<String>::new()).put("k", "v").await.unwrap_err();
    assert_eq!(error, Error::NoEndpoints);
}

/// What broke half-way may have happened: a write is not repeated, a read is.
#[tokio::test]
async fn a_write_that_broke_is_unknown_and_not_sent_again() {
    let (closing, closed) = closing_server().await;
    let store = Store::default();
    let mut client = Client::new([closing, store.clone().serve().await]);
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(error.to_string().contains("outcome unknown"));
    assert_eq!((*closed.lock().unwrap(), store.seen.lock().unwrap().len()), (1, 0));
    assert_eq!(client.get("k", Level::Default).await.unwrap(), "");
}

#[tokio::test]
async fn silence_ends_at_the_time_limit_and_closes_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut connection = Connection::open(&address).await.unwrap().with_time_limit(Duration::from_millis(50));
    let error = connection.put("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(!connection.is_open());
    let error = connection.put("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "nothing is sent on it any more: {error}");
}

#[tokio::test]
async fn a_pool_has_as_many_connections_as_are_in_use_at_once() {
    let store = Store::default();
    let pool = Pool::new(store.clone().serve().await);
    let limit = Duration::from_secs(30);
    let (put, get) = (hraftd::Request::put(&[("k", "v")]).unwrap(), hraftd::Request::get("k", Level::None).unwrap());
    for _ in 0..3 {
        assert_eq!(pool.send(&put, limit).await.unwrap().status, StatusCode::OK);
        assert_eq!(pool.send(&get, limit).await.unwrap().value_of("k").unwrap(), "v");
    }
    assert_eq!(*store.connections.lock().unwrap(), 1);
    let both = tokio::join!(pool.send(&put, limit), pool.send(&get, limit));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(*store.connections.lock().unwrap(), 2);
    let refused = pool.send(&hraftd::Request::delete("protected").unwrap(), limit).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.reason().as_str()), (503, "no leader: try again"));
}

#[tokio::test]
async fn a_pool_waits_no_longer_than_it_may() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let put = hraftd::Request::put(&[("k", "v")]).unwrap();
    let error = Pool::new(silent.local_addr().unwrap().to_string()).send(&put, Duration::from_millis(50)).await;
    assert!(matches!(error, Err(Error::Unknown { .. })), "{error:?}");
    let error = Pool::new(dead_address().await).send(&put, Duration::from_secs(30)).await;
    assert!(matches!(error, Err(Error::Unreachable { .. })), "{error:?}");
}

#[tokio::test]
async fn a_key_never_leaves_its_segment_of_the_path() {
    let store = Store::default();
    let mut client = Client::new([store.clone().serve().await]);
    for key in ["../status", "..", "a?level=none", "%2F"] {
        client.put(key, "v").await.unwrap();
        assert_eq!(client.get(key, Level::Default).await.unwrap(), "v", "{key}");
    }
}

#[tokio::test]
async fn an_answer_in_another_dialect_is_named() {
    // It answers like raft-kv, whatever it is asked.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|_: Request<Incoming>| async {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(br#"{"value":"v"}"#))))
            });
            tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
        }
    });
    let mut connection = Connection::open(&address).await.unwrap();
    for error in [connection.get("k", Level::Default).await.unwrap_err(), connection.status().await.unwrap_err()] {
        assert!(matches!(error, Error::Unintelligible { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_measured_load_reads_what_it_filled_in() {
    let store = Store::default();
    let endpoints: Rc<[String]> = [dead_address().await, store.clone().serve().await].into();
    let plan = Plan {
        clients: 3,
        warm_up: Duration::from_millis(20),
        measured: Duration::from_millis(200),
        keys: 20,
        read_percent: 50,
        ..Plan::default()
    };
    let mut drivers = Vec::new();
    for at in 0..plan.clients {
        drivers.push(HttpDriver::connect(endpoints.clone(), at, Level::None).await.unwrap());
    }
    drivers = load::fill(&plan, drivers).await.unwrap();
    assert_eq!(store.values.lock().unwrap().len(), 20);
    drivers[0].read("k00000000000000").await.unwrap();
    let report = load::run(&plan, drivers, |_| {}).await.unwrap();
    assert_eq!(report.errors, BTreeMap::new());
    assert!(report.reads.len() > 20 && report.writes.len() > 20, "{report:?}");
    assert_eq!(*store.connections.lock().unwrap(), 3);
}
