// A small server that speaks /v1, for tests and examples: one store in memory, served by one or several nodes, each of
// which can be told to misbehave. It is no model of the store: only what the client's rules need is there.
//
// Included as text by the examples in the documentation, so there is no inner comment or attribute here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One node. Dropping it closes its connections, as the end of its process would.
pub struct StandIn {
    pub store: Store,
    node: Arc<Node>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
pub struct Store {
    data: Arc<Mutex<Data>>,
    /// The store's revision.
    revision: Arc<tokio::sync::watch::Sender<u64>>,
}

struct Node {
    name: String,
    address: String,
    faults: Mutex<VecDeque<(&'static str, Fault)>>,
    seen: Mutex<Vec<Request>>,
    /// What answers say besides.
    headers: Mutex<Vec<(String, String)>>,
    connections: Mutex<Vec<tokio::task::AbortHandle>>,
}

/// What happens to the next request whose `METHOD path` begins like that.
#[derive(Clone)]
#[allow(dead_code)]
pub enum Fault {
    /// The connection is closed, nothing done.
    Drop,
    /// It is done, and then the connection is closed.
    DoAndDrop,
    /// It is never answered.
    Hang,
    /// Status, headers and body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// A watch: so many lines are sent, then the connection is closed.
    Cut(usize),
    /// A watch: it begins, and nothing is heard of it ever after.
    Silence,
}

impl Fault {
    #[allow(dead_code)]
    pub fn problem(status: u16, code: &str, outcome: &str, retryable: bool) -> Fault {
        let body = problem(status, code, json!({ "outcome": outcome, "retryable": retryable }));
        Fault::Answer(status, vec![("content-type", "application/problem+json".to_string())], body)
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    /// Method and path with query, as they came.
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Data {
    revision: u64,
    compacted: u64,
    kvs: BTreeMap<Vec<u8>, Value>,
    /// Revision and changes.
    history: Vec<(u64, Vec<Value>)>,
    leases: BTreeMap<u64, (u64, Instant)>,
    next_lease: u64,
    answered: BTreeMap<String, (u16, String)>,
}

impl StandIn {
    pub async fn start() -> StandIn {
        StandIn::serve("n1", &Store::new()).await
    }

    pub async fn serve(name: &str, store: &Store) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        StandIn::serve_on(listener, name, store)
    }

    pub fn serve_on(listener: TcpListener, name: &str, store: &Store) -> StandIn {
        let node = Arc::new(Node {
            name: name.to_string(),
            address: listener.local_addr().unwrap().to_string(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            headers: Mutex::default(),
            connections: Mutex::default(),
        });
        let (serving, data) = (node.clone(), store.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (node, store) = (serving.clone(), data.clone());
                let connection = tokio::spawn(async move { drop(connection(stream, &node, &store).await) });
                serving.connections.lock().unwrap().push(connection.abort_handle());
            }
        });
        StandIn { store: store.clone(), node, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.node.address)
    }
}

#[allow(dead_code)]
impl StandIn {
    pub fn fault(&self, on: &'static str, fault: Fault) {
        self.node.faults.lock().unwrap().push_back((on, fault));
    }

    pub fn say(&self, header: &str, value: &str) {
        self.node.headers.lock().unwrap().push((header.to_string(), value.to_string()));
    }

    /// All requests that began so, those for the status aside, which are asked beside the calls.
    pub fn seen(&self, on: &str) -> Vec<Request> {
        let seen = self.node.seen.lock().unwrap();
        seen.iter().filter(|r| r.line.starts_with(on) && !r.line.contains("/v1/status")).cloned().collect()
    }

    pub fn connections(&self) -> usize {
        self.node.connections.lock().unwrap().len()
    }

    pub fn open_connections(&self) -> usize {
        self.node.connections.lock().unwrap().iter().filter(|connection| !connection.is_finished()).count()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.accepting.abort();
        self.node.connections.lock().unwrap().iter().for_each(|connection| connection.abort());
    }
}

impl Store {
    pub fn new() -> Store {
        let store = Store { data: Arc::default(), revision: Arc::new(tokio::sync::watch::Sender::new(0)) };
        let expiring = store.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let data = expiring.data.lock().unwrap();
                let ended: Vec<u64> = data.leases.iter().filter(|l| l.1.1 < Instant::now()).map(|l| *l.0).collect();
                drop(data);
                ended.into_iter().for_each(|lease| drop(expiring.end(lease)));
            }
        });
        store
    }

    fn end(&self, lease: u64) -> Option<Value> {
        let mut data = self.data.lock().unwrap();
        data.leases.remove(&lease)?;
        let keys: Vec<Vec<u8>> =
            data.kvs.iter().filter(|kv| kv.1["lease"] == json!(lease)).map(|kv| kv.0.clone()).collect();
        let changes = keys.iter().map(|key| data.delete(key)).collect::<Vec<_>>();
        data.commit(changes);
        self.revision.send_replace(data.revision);
        Some(json!({ "revision": data.revision, "deleted": keys.len() }))
    }

    #[allow(dead_code)]
    pub fn end_lease(&self, lease: u64) {
        self.end(lease).expect("there is such a lease");
    }

    #[allow(dead_code)]
    pub fn leases(&self) -> Vec<u64> {
        self.data.lock().unwrap().leases.keys().copied().collect()
    }

    #[allow(dead_code)]
    pub fn revision(&self) -> u64 {
        self.data.lock().unwrap().revision
    }
}

impl Data {
    fn put(&mut self, key: &[u8], value: &[u8], lease: u64) -> Value {
        let (next, before) = (self.revision + 1, self.kvs.get(key));
        let mut kv = json!({
            "create_revision": before.map_or(json!(next), |kv| kv["create_revision"].clone()), "mod_revision": next,
            "version": before.map_or(1, |kv| kv["version"].as_u64().unwrap() + 1), "lease": lease,
        });
        write(&mut kv, "key", key);
        write(&mut kv, "value", value);
        self.kvs.insert(key.to_vec(), kv.clone());
        kv["type"] = json!("put");
        kv
    }

    fn delete(&mut self, key: &[u8]) -> Value {
        self.kvs.remove(key);
        let mut change = json!({ "type": "delete" });
        write(&mut change, "key", key);
        change
    }

    fn commit(&mut self, changes: Vec<Value>) {
        if !changes.is_empty() {
            self.revision += 1;
            self.history.push((self.revision, changes));
        }
    }

    fn step(&mut self, step: &Value, changes: &mut Vec<Value>) -> Value {
        if let Some(put) = step.get("put") {
            let lease = put.get("lease").and_then(Value::as_u64).unwrap_or(0);
            changes.push(self.put(&bytes(put, "key").unwrap(), &bytes(put, "value").unwrap(), lease));
            json!({ "put": {} })
        } else if let Some(get) = step.get("get") {
            json!({ "get": { "kv": self.kvs.get(&bytes(get, "key").unwrap()) } })
        } else {
            let key = bytes(&step["delete"], "key").unwrap();
            let is_there = self.kvs.contains_key(&key);
            if is_there {
                changes.push(self.delete(&key));
            }
            json!({ "delete": { "deleted": u64::from(is_there) } })
        }
    }

    fn holds(&self, condition: &Value) -> bool {
        let kv = self.kvs.get(&bytes(condition, "key").unwrap());
        if let Some(exists) = condition.get("exists") {
            return *exists == json!(kv.is_some());
        }
        if let Some(value) = bytes(condition, "value") {
            return kv.and_then(|kv| bytes(kv, "value")) == Some(value);
        }
        let name = ["version", "create_revision", "mod_revision"].into_iter().find(|n| condition.get(n).is_some());
        kv.map_or(&json!(0), |kv| &kv[name.unwrap()]) == &condition[name.unwrap()]
    }
}

/// Requests on one connection, until something is wrong.
async fn connection(mut stream: TcpStream, node: &Node, store: &Store) -> std::io::Result<()> {
    loop {
        let request = read_request(&mut stream).await?;
        let fault = node.took(&request);
        let mut cut = usize::MAX;
        match fault {
            None => {}
            Some(Fault::Drop) => return Ok(()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Cut(lines)) => cut = lines,
            Some(Fault::Silence) => {
                stream.write_all(watch_head(0).as_bytes()).await?;
                std::future::pending().await
            }
            Some(Fault::DoAndDrop) => {
                answer(&request, node, store);
                return Ok(());
            }
            Some(Fault::Answer(status, headers, body)) => {
                let headers = headers.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
                write_answer(&mut stream, status, headers, body.as_bytes()).await?;
                continue;
            }
        }
        if request.line == "POST /v1/pipeline" {
            return pipeline(&mut stream, node, store).await;
        }
        if request.line.starts_with("GET /v1/watch") {
            return watch(&mut stream, &request, store, cut).await;
        }
        let (status, mut headers, body) = answer(&request, node, store);
        headers.extend(node.headers.lock().unwrap().clone());
        write_answer(&mut stream, status, headers, &body).await?;
    }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_string();
    let headers: BTreeMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_string())).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Request { line, headers, body })
}

type Headers = Vec<(String, String)>;

async fn write_answer(stream: &mut TcpStream, status: u16, headers: Headers, body: &[u8]) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat()).await
}

fn answer(request: &Request, node: &Node, store: &Store) -> (u16, Headers, Vec<u8>) {
    if let Some(key) = request.headers.get("idempotency-key")
        && let Some((status, body)) = store.data.lock().unwrap().answered.get(key)
    {
        return (*status, Vec::new(), body.clone().into_bytes());
    }
    let (method, target) = request.line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: BTreeMap<String, Vec<u8>> =
        query.split('&').filter_map(|p| p.split_once('=')).map(|(n, v)| (n.to_string(), decoded(v))).collect();
    if let ("GET", Some(key)) = (method, path.strip_prefix("/v1/kv/")) {
        let data = store.data.lock().unwrap();
        let Some(kv) = data.kvs.get(&decoded(key)) else {
            return (404, Vec::new(), problem(404, "key_not_found", json!({})).into_bytes());
        };
        return (200, Vec::new(), kv.to_string().into_bytes());
    }
    if path == "/v1/snapshot" {
        return (200, vec![("Quorate-Revision".to_string(), "7".to_string())], vec![b's'; 100_000]);
    }
    let result = change_or_list(method, path, &query, request, node, store);
    store.revision.send_replace(store.data.lock().unwrap().revision);
    let (status, body) = match result {
        Ok(body) => (200, body.to_string()),
        Err((status, code, extra)) => (status, problem(status, code, extra)),
    };
    if let Some(key) = request.headers.get("idempotency-key") {
        store.data.lock().unwrap().answered.insert(key.clone(), (status, body.clone()));
    }
    (status, Vec::new(), body.into_bytes())
}

fn change_or_list(
    method: &str,
    path: &str,
    query: &BTreeMap<String, Vec<u8>>,
    request: &Request,
    node: &Node,
    store: &Store,
) -> Result<Value, (u16, &'static str, Value)> {
    let number = |name: &str| query.get(name).map(|text| std::str::from_utf8(text).unwrap().parse::<u64>().unwrap());
    let sent = || serde_json::from_slice::<Value>(&request.body).unwrap();
    if method == "DELETE"
        && let Some(lease) = path.strip_prefix("/v1/leases/")
    {
        return store.end(lease.parse().unwrap()).ok_or((404, "lease_not_found", json!({})));
    }
    let mut data = store.data.lock().unwrap();
    if let Some(key) = path.strip_prefix("/v1/kv/") {
        let key = decoded(key);
        let before = data.kvs.get(&key).cloned();
        let revision = before.as_ref().map(|kv| kv["mod_revision"].to_string());
        let fits = |tag: &String| match tag.trim_matches('"') {
            "*" => revision.is_some(),
            tag => revision.as_deref() == Some(tag),
        };
        if !request.headers.get("if-match").is_none_or(fits) || request.headers.get("if-none-match").is_some_and(fits) {
            let extra = before.map_or(json!({}), |kv| json!({ "revision": kv["mod_revision"] }));
            return Err((412, "precondition_failed", extra));
        }
        if method == "PUT" {
            let lease = number("lease").unwrap_or(0);
            if lease != 0 && !data.leases.contains_key(&lease) {
                return Err((404, "lease_not_found", json!({})));
            }
            let change = data.put(&key, &request.body, lease);
            data.commit(vec![change]);
            let before = before.filter(|_| query.contains_key("previous"));
            return Ok(json!({ "revision": data.revision, "previous": before }));
        }
        let changes: Vec<Value> = before.iter().map(|_| data.delete(&key)).collect();
        data.commit(changes);
        let previous: Vec<Value> = before.iter().filter(|_| query.contains_key("previous")).cloned().collect();
        return Ok(json!({ "revision": data.revision, "deleted": u8::from(before.is_some()), "previous": previous }));
    }
    match (method, path) {
        (_, "/v1/kv") => {
            let prefix = query.get("prefix").cloned().unwrap_or_default();
            let next = query.get("continue").map(|token| STANDARD.decode(token).unwrap());
            let start = next.or(query.get("start").cloned()).unwrap_or_default();
            let is_in = |key: &Vec<u8>| {
                key.starts_with(&prefix) && *key >= start && query.get("end").is_none_or(|end| key < end)
            };
            let rows: Vec<(Vec<u8>, Value)> =
                data.kvs.iter().filter(|kv| is_in(kv.0)).map(|(key, kv)| (key.clone(), kv.clone())).collect();
            if method == "DELETE" {
                let changes = rows.iter().map(|row| data.delete(&row.0)).collect();
                data.commit(changes);
                return Ok(json!({ "revision": data.revision, "deleted": rows.len() }));
            }
            // Small pages, so that there are several.
            let limit = number("limit").unwrap_or(3).min(3) as usize;
            let next = rows.get(limit).map(|row| STANDARD.encode(&row.0));
            let kvs: Vec<&Value> = rows.iter().take(limit).map(|row| &row.1).collect();
            let mut page =
                json!({ "revision": data.revision, "kvs": kvs, "more": next.is_some(), "count": rows.len() });
            if let Some(next) = next {
                page["continue"] = json!(next);
            }
            Ok(page)
        }
        ("POST", "/v1/txn") => {
            let txn = sent();
            let succeeded = txn["if"].as_array().unwrap().iter().all(|condition| data.holds(condition));
            let steps = txn[if succeeded { "then" } else { "else" }].as_array().unwrap();
            let mut changes = Vec::new();
            let results: Vec<Value> = steps.iter().map(|step| data.step(step, &mut changes)).collect();
            let changed = changes.len();
            data.commit(changes);
            Ok(json!({ "succeeded": succeeded, "revision": data.revision, "changed": changed, "results": results }))
        }
        ("POST", "/v1/leases") => {
            let ttl = sent()["ttl"].as_u64().unwrap();
            data.next_lease += 1;
            let id = sent().get("id").and_then(Value::as_u64).unwrap_or(data.next_lease);
            if data.leases.contains_key(&id) {
                return Err((409, "lease_exists", json!({})));
            }
            data.leases.insert(id, (ttl, Instant::now() + Duration::from_secs(ttl)));
            Ok(json!({ "id": id, "ttl": ttl }))
        }
        ("GET", "/v1/leases") => {
            let after = number("continue").unwrap_or(0);
            let mut leases = data.leases.iter().filter(|lease| *lease.0 > after);
            let page: Vec<Value> =
                leases.by_ref().take(2).map(|(id, (ttl, _))| json!({ "id": id, "ttl": ttl })).collect();
            let next = page.last().map(|lease| lease["id"].to_string());
            Ok(json!({ "leases": page, "more": leases.next().is_some(), "continue": next }))
        }
        ("POST", "/v1/compact") => {
            let wanted = sent()["revision"].as_u64().unwrap();
            if wanted <= data.compacted {
                return Err((410, "compacted", json!({ "oldest": data.compacted })));
            }
            data.compacted = wanted;
            Ok(json!({ "revision": data.compacted }))
        }
        ("GET", "/v1/status") => Ok(json!({
            "node": { "name": node.name, "address": "h:1", "url": format!("http://{}", node.address), "id": 1 },
            "cluster": "c", "version": "0", "role": "leader", "term": 1, "leader": null, "commit": 1, "applied": 1,
            "revision": data.revision, "compacted": data.compacted, "keys": data.kvs.len(), "past_bytes": 0, "phase": "running",
        })),
        ("GET", "/v1/members") => Ok(json!({
            "members": [{ "id": 1, "name": "n1", "address": "h:1", "role": "voter", "leader": true }],
        })),
        ("DELETE", "/v1/members/gone") => Err((404, "member_not_found", json!({}))),
        ("POST", "/v1/members" | "/v1/leader") => Ok(json!({})),
        (_, path) if path.starts_with("/v1/members/") => Ok(json!({})),
        (_, path) if path.starts_with("/v1/leases/") => {
            let id: u64 = path.split('/').nth(3).unwrap().parse().unwrap();
            let Some((ttl, end)) = data.leases.get_mut(&id) else { return Err((404, "lease_not_found", json!({}))) };
            let ttl = *ttl;
            if method == "POST" {
                *end = Instant::now() + Duration::from_secs(ttl);
                return Ok(json!({ "id": id, "ttl": ttl }));
            }
            let remaining = end.saturating_duration_since(Instant::now()).as_secs_f64();
            let keys: Vec<Value> = data.kvs.values().filter(|kv| kv["lease"] == json!(id)).cloned().collect();
            Ok(json!({ "id": id, "ttl": ttl, "remaining": remaining, "keys": keys, "more": false }))
        }
        _ => Err((404, "not_found", json!({}))),
    }
}

/// Requests in lines, as they come; each chunk is one line or several.
async fn pipeline(stream: &mut TcpStream, node: &Node, store: &Store) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\nQuorate-Node: ").await?;
    stream.write_all(format!("{}\r\n\r\n", node.name).as_bytes()).await?;
    loop {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.push(stream.read_u8().await?);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        if size == 0 {
            return Ok(());
        }
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await?;
        for line in chunk[..size].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_string();
            let headers = line.get("headers").and_then(Value::as_object).into_iter().flatten();
            let body = line.get("body").map(|body| body.as_str().map_or(body.to_string(), String::from).into_bytes());
            let request = Request {
                line: format!("{} {}", text(&line["method"]), text(&line["path"])),
                headers: headers.map(|(name, value)| (name.clone(), text(value))).collect(),
                body: body.or_else(|| bytes(&line, "body")).unwrap_or_default(),
            };
            let fault = node.took(&request);
            let (status, headers, body) = match fault {
                Some(Fault::Drop) => return Ok(()),
                Some(Fault::DoAndDrop) => {
                    answer(&request, node, store);
                    return Ok(());
                }
                Some(Fault::Hang) => continue,
                Some(Fault::Answer(status, headers, body)) => {
                    let headers = headers.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
                    (status, headers, body.into_bytes())
                }
                _ => answer(&request, node, store),
            };
            let headers: BTreeMap<String, String> = headers.into_iter().collect();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let told = json!({ "id": line["id"], "status": status, "headers": headers, "body": body });
            let told = format!("{told}\n");
            stream.write_all(format!("{:x}\r\n{told}\r\n", told.len()).as_bytes()).await?;
        }
    }
}

impl Node {
    /// Notes it, and says what is to happen to it.
    fn took(&self, request: &Request) -> Option<Fault> {
        self.seen.lock().unwrap().push(request.clone());
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(on, _)| request.line.starts_with(on));
        at.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
    }
}

/// Lines until the client goes; `cut` closes the connection after so many.
async fn watch(stream: &mut TcpStream, request: &Request, store: &Store, cut: usize) -> std::io::Result<()> {
    let query = request.line.split_once('?').unwrap().1;
    let query: BTreeMap<&str, Vec<u8>> =
        query.split('&').filter_map(|p| p.split_once('=')).map(|(n, v)| (n, decoded(v))).collect();
    let mut revision = store.revision.subscribe();
    let asked = query.get("revision").map(|text| std::str::from_utf8(text).unwrap().parse::<u64>().unwrap());
    let mut next = asked.unwrap_or(*revision.borrow() + 1);
    let oldest = store.data.lock().unwrap().compacted;
    if next < oldest {
        let body = problem(410, "compacted", json!({ "oldest": oldest }));
        return write_answer(stream, 410, Vec::new(), body.as_bytes()).await;
    }
    stream.write_all(watch_head(next - 1).as_bytes()).await?;
    let is_in = |change: &Value| {
        let key = bytes(change, "key").unwrap();
        let is_wanted = query.get("only").is_none_or(|only| json!(String::from_utf8_lossy(only)) == change["type"]);
        is_wanted
            && query.get("key").is_none_or(|k| *k == key)
            && query.get("prefix").is_none_or(|p| key.starts_with(p))
    };
    let mut sent = 0;
    loop {
        let mut lines = Vec::new();
        let seen = *revision.borrow_and_update();
        for (at, changes) in &store.data.lock().unwrap().history {
            let changes: Vec<&Value> = changes.iter().filter(|change| is_in(change)).collect();
            if *at >= next && !changes.is_empty() {
                lines.push(json!({ "change": { "revision": at, "changes": changes } }));
            }
        }
        // Nothing was promised of a revision to come.
        if seen >= next {
            next = seen + 1;
        }
        lines.push(json!({ "progress": { "revision": next - 1 } }));
        for line in lines.into_iter().take(cut - sent) {
            sent += 1;
            let line = format!("{line}\n");
            stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
        }
        if sent == cut {
            return Ok(());
        }
        tokio::select! {
            changed = revision.changed() => changed.map_err(std::io::Error::other)?,
            // The client goes.
            byte = stream.read_u8() => return byte.map(drop),
        }
    }
}

fn watch_head(revision: u64) -> String {
    format!("HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\nQuorate-Revision: {revision}\r\n\r\n")
}

fn problem(status: u16, code: &str, extra: Value) -> String {
    let mut problem = json!({
        "type": "about:blank", "title": code, "status": status, "code": code, "detail": format!("It is {code}."),
        "retryable": false, "outcome": "not_applied",
    });
    problem.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    problem.to_string()
}

fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

fn bytes(object: &Value, name: &str) -> Option<Vec<u8>> {
    match (object.get(name), object.get(format!("{name}_base64"))) {
        (Some(text), _) => Some(text.as_str()?.as_bytes().to_vec()),
        (_, encoded) => STANDARD.decode(encoded?.as_str()?).ok(),
    }
}

fn write(object: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object[name] = json!(text),
        Err(_) => object[format!("{name}_base64")] = json!(STANDARD.encode(bytes)),
    }
}
