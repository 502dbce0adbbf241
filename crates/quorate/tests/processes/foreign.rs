//! A cluster of hraftd as others have it, played by threads: a follower answers a write with 500 and no word, a missing
//! key is an empty value, an `Idempotency-Key` is nothing to it. Who leads is what the test says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub struct Foreign {
    pub addresses: Vec<String>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    leader: usize,
    /// It takes requests and never answers.
    hangs: Option<usize>,
    loses_next_answer: bool,
    holds_writes: bool,
    held: usize,
    values: BTreeMap<String, String>,
    /// Which node carried out which write.
    applied: Vec<(usize, String)>,
}

impl Foreign {
    pub fn cluster(size: usize) -> Foreign {
        let state = Arc::<Mutex<State>>::default();
        let start = |node| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("a bound port").to_string();
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    // It ends with the connection.
                    thread::spawn(move || serve(node, stream, &state));
                }
            });
            address
        };
        Foreign { addresses: (0..size).map(start).collect(), state }
    }

    pub fn lead(&self, node: usize) {
        self.state.lock().unwrap().leader = node;
    }

    pub fn hang(&self, node: usize) {
        self.state.lock().unwrap().hangs = Some(node);
    }

    /// The next write is carried out, and its connection closed without a word.
    pub fn lose_the_next_answer(&self) {
        self.state.lock().unwrap().loses_next_answer = true;
    }

    /// Writes wait at the node.
    pub fn hold_writes(&self) {
        self.state.lock().unwrap().holds_writes = true;
    }

    pub fn holds_a_write(&self) -> bool {
        self.state.lock().unwrap().held > 0
    }

    pub fn release_writes(&self) {
        self.state.lock().unwrap().holds_writes = false;
    }

    /// What was carried out since the last look.
    pub fn applied(&self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.state.lock().unwrap().applied)
    }
}

fn serve(node: usize, stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (method, path, body) = read_request(&mut reader)?;
        if method != "GET" {
            wait_for_release(state);
        }
        let mut state = state.lock().unwrap();
        if state.hangs == Some(node) {
            drop(state);
            // Until the other side has had enough.
            let _ = reader.read_to_end(&mut Vec::new());
            return None;
        }
        let (status, answer) = state.answer(node, &method, &path, &body);
        if method != "GET" && status == "200 OK" && std::mem::take(&mut state.loses_next_answer) {
            return None;
        }
        drop(state);
        let length = answer.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{answer}");
        (&stream).write_all(answer.as_bytes()).ok()?;
    }
}

fn wait_for_release(state: &Mutex<State>) {
    state.lock().unwrap().held += 1;
    while state.lock().unwrap().holds_writes {
        thread::sleep(Duration::from_millis(5));
    }
    state.lock().unwrap().held -= 1;
}

fn read_request(reader: &mut impl BufRead) -> Option<(String, String, String)> {
    let mut length = 0;
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.to_ascii_lowercase().trim().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    Some((words.next()?.to_string(), words.next()?.to_string(), String::from_utf8(body).ok()?))
}

impl State {
    fn answer(&mut self, node: usize, method: &str, path: &str, body: &str) -> (&'static str, String) {
        let member = |node| serde_json::json!({ "id": format!("n{node}"), "address": format!("raft:{node}") });
        match (method, path) {
            ("GET", "/status") => {
                let status = serde_json::json!({"me": member(node), "leader": member(self.leader), "followers": []});
                ("200 OK", status.to_string())
            }
            ("GET", _) => {
                let key = path.trim_start_matches("/key/");
                let value = self.values.get(key).cloned().unwrap_or_default();
                ("200 OK", serde_json::json!({ key: value }).to_string())
            }
            _ if node != self.leader => ("500 Internal Server Error", String::new()),
            ("POST", _) => {
                let pairs: BTreeMap<String, String> = serde_json::from_str(body).expect("an object of strings");
                self.applied.push((node, format!("set {}", pairs.keys().next().expect("one pair"))));
                self.values.extend(pairs);
                ("200 OK", String::new())
            }
            _ => {
                let key = path.trim_start_matches("/key/");
                self.applied.push((node, format!("delete {key}")));
                self.values.remove(key);
                ("200 OK", String::new())
            }
        }
    }
}
