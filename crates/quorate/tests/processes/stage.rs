//! The stage for tests with real programs: it starts them, talks to them in raw HTTP, and reads what they log.
//!
//! A test is written in the words of the walkthroughs: `hraftd -id node1 -haddr :11001 … ~/node1`, and
//! `curl -XGET localhost:11001/key/user1`; variables stand before the program, as in `PORT=11001 raft-kv`, and before these
//! may stand how many files it may open, as in `ulimit -n 300; hraftd`. The stage puts a folder of its own in place of `~`, and a free port in place of each port, always the same one for the same
//! number. Nothing waits for time to pass, everything waits for what it needs, up to [`PATIENCE`]. When a test fails,
//! the programs' logs are printed; when it ends, they are killed.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Stage {
    folder: tempfile::TempDir,
    ports: Mutex<BTreeMap<u16, u16>>,
    log: Arc<Log>,
}

impl Stage {
    pub fn new() -> Stage {
        let folder = tempfile::tempdir().expect("a folder for the test");
        Stage { folder, ports: Mutex::default(), log: Arc::default() }
    }

    /// Starts the program of that command line, and does not wait for it.
    pub fn start(&self, line: &str) -> Program {
        let (files, line) = line.rsplit_once("; ").map_or((None, line), |(files, line)| (Some(files), line));
        let line = self.substitute(&with_ports(line));
        let mut words = line.split_whitespace().peekable();
        let variables = std::iter::from_fn(|| words.next_if(|word| word.contains('='))?.split_once('='));
        let variables: Vec<(&str, &str)> = variables.collect();
        let program = match words.next() {
            Some("distributor") => env!("CARGO_BIN_EXE_distributor"),
            Some("hraftd") => env!("CARGO_BIN_EXE_hraftd"),
            Some("quorate") => env!("CARGO_BIN_EXE_quorate"),
            Some("raftd") => env!("CARGO_BIN_EXE_raftd"),
            Some("raft-kv") => env!("CARGO_BIN_EXE_raft-kv"),
            other => panic!("no program of ours: {other:?}"),
        };
        let mut command = match files {
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("{files}; exec \"$0\" \"$@\"")).arg(program);
                shell
            }
            None => Command::new(program),
        };
        for ours in ["RUST_LOG", "BIND", "JOIN", "BOOTSTRAP", "DATA_DIR", "PORT"] {
            command.env_remove(ours);
        }
        let mut child = command
            .args(words)
            .envs(variables)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let number = self.log.open(&line);
        let out: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        let readers = out.map(|out| {
            let log = self.log.clone();
            Some(thread::spawn(move || log.read(number, out)))
        });
        let log = self.log.clone();
        Program { child: Some(child), readers, number, log, http: http_address(&line), a_read: a_read(&line) }
    }

    /// `count` nodes named `node0` and so on, as the walkthroughs start them.
    pub fn cluster(&self, count: usize) -> Vec<Program> {
        let nodes: Vec<Program> = (0..count).map(|number| self.run(&node_line(number))).collect();
        self.until("all vote", || nodes.iter().all(|node| node.status().voters().len() == count).then_some(()));
        nodes
    }

    /// Which of them leads, by its own word.
    pub fn leader(&self, nodes: &[Program]) -> usize {
        let leads = |node: &Program| node.try_status().is_ok_and(|status| status.me == status.leader);
        self.until("one of them leads", || nodes.iter().position(leads))
    }

    /// Starts a node and waits until it votes and serves.
    pub fn run(&self, line: &str) -> Program {
        let mut program = self.start(line);
        self.until_it_serves(&mut program);
        program
    }

    pub fn until_it_serves(&self, program: &mut Program) {
        self.until(&format!("{} serves", program.http), || {
            if let Some(status) = program.has_ended() {
                panic!("the node at {} ended with {status}", program.http);
            }
            (program.said().contains("serving at") && program.try_get(program.a_read).ok()?.status == 200).then_some(())
        });
    }

    /// Runs a command to its end.
    pub fn finish(&self, line: &str) -> Ended {
        self.start(line).ended()
    }

    /// Says what that curl command would say.
    pub fn curl(&self, line: &str) -> Answer {
        let (address, request) = parse_curl(&self.substitute(line));
        exchange(&address, &request).unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }

    /// The free port that stands for this one.
    pub fn port(&self, port: u16) -> u16 {
        *self.ports.lock().unwrap().entry(port).or_insert_with(free_port)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asks again and again, whenever a program says something or a moment has passed, until there is an answer.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < patience, "it did not happen within {PATIENCE:?}: {what}");
            self.log.wait_for_news();
        }
    }

    /// Puts the test's folder in place of `~`, and free ports in place of those of the walkthroughs.
    fn substitute(&self, line: &str) -> String {
        let home = self.folder.path().to_str().expect("a folder with a plain name");
        let mut text = String::new();
        let mut rest = line;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            let (before, from) = rest.split_at(at);
            let end = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
            let (digits, after) = from.split_at(end);
            text += before;
            match digits.parse() {
                Ok(port @ (4_000..4_100 | 8080 | 11_000..13_000)) => text += &self.port(port).to_string(),
                _ => text += digits,
            }
            rest = after;
        }
        text += rest;
        text.replace("~/", &format!("{home}/"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log.all());
        }
    }
}

/// A running program. Killed when it is dropped.
pub struct Program {
    child: Option<Child>,
    readers: [Option<thread::JoinHandle<()>>; 2],
    number: usize,
    log: Arc<Log>,
    /// Where it serves HTTP, if its command line says so.
    pub http: String,
    /// The path of some key.
    a_read: &'static str,
}

/// How a program ended, and everything that it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub said: String,
}

impl Program {
    /// As `kill -9`.
    pub fn kill(mut self) {
        self.end_now();
    }

    /// As `kill`, or Ctrl-C for [`Signal::INT`].
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("our own child can be signalled");
    }

    /// As `kill`, and waits for the end.
    pub fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for the end.
    pub fn ended(mut self) -> Ended {
        let patience = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.has_ended() {
                break status;
            }
            assert!(Instant::now() < patience, "the program did not end within {PATIENCE:?}");
            self.log.wait_for_news();
        };
        self.child = None;
        for reader in self.readers.iter_mut().filter_map(Option::take) {
            reader.join().expect("reading a log does not panic");
        }
        Ended { status, said: self.said() }
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("our own child can be waited for")
    }

    pub fn said(&self) -> String {
        self.log.of(self.number)
    }

    /// Sends these bytes as they are and returns the answer.
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) -> Answer {
        exchange(&self.http, bytes).unwrap_or_else(|error| panic!("{}: {error}", self.http))
    }

    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(&request(method, path, body))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "")
    }

    /// The value of that key as this node answers it.
    #[track_caller]
    pub fn value(&self, key: &str) -> String {
        let answer = self.get(&format!("/key/{key}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()[key].as_str().expect("a string").to_string()
    }

    #[track_caller]
    pub fn put(&self, key: &str, value: &str) {
        let answer = self.call("POST", "/key", &serde_json::json!({ key: value }).to_string());
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    }

    pub fn try_get(&self, path: &str) -> std::io::Result<Answer> {
        exchange(&self.http, &request("GET", path, ""))
    }

    pub fn try_put(&self, key: &str, value: &str) -> std::io::Result<Answer> {
        exchange(&self.http, &request("POST", "/key", serde_json::json!({ key: value }).to_string()))
    }

    /// This node's view of the cluster.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|error| panic!("{}: {error}", self.http))
    }

    pub fn try_status(&self) -> std::io::Result<Status> {
        let status = self.try_get("/status")?.json();
        let name = |member: &serde_json::Value| member["id"].as_str().expect("a name").to_string();
        let mut followers: Vec<String> = status["followers"].as_array().expect("a list").iter().map(name).collect();
        followers.sort();
        Ok(Status { me: name(&status["me"]), leader: name(&status["leader"]), followers })
    }

    fn end_now(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end_now();
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub me: String,
    pub leader: String,
    pub followers: Vec<String>,
}

impl Status {
    pub fn voters(&self) -> Vec<String> {
        let leader = (!self.leader.is_empty()).then(|| self.leader.clone());
        let mut voters: Vec<String> = self.followers.iter().cloned().chain(leader).collect();
        voters.sort();
        voters
    }
}

/// An HTTP answer, as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub bytes: Vec<u8>,
    /// The same as text, with a replacement for what is not UTF-8.
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn parse(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let bytes = bytes[end + 4..].to_vec();
        Some(Answer { status, head, body: String::from_utf8_lossy(&bytes).into_owned(), bytes })
    }
}

/// A request that ends its connection.
pub fn request(method: &str, path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Sends the bytes, says that they are all, and reads to the end.
pub fn exchange(address: &str, bytes: &[u8]) -> std::io::Result<Answer> {
    let answer = send_raw(address, bytes)?;
    Answer::parse(&answer).ok_or_else(|| std::io::Error::other(format!("no answer but {answer:?}")))
}

pub fn send_raw(address: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A server that has heard enough need not listen to the end.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

/// The command line of a node, which joins through the first one.
pub fn node_line(number: usize) -> String {
    let join = if number == 0 { "" } else { "-join localhost:11000 " };
    format!("hraftd -id node{number} -haddr localhost:1100{number} -raddr localhost:1200{number} {join}~/node{number}")
}

/// Says a program's default ports aloud, so that they can be replaced like others.
fn with_ports(line: &str) -> String {
    if line == "distributor" {
        let group = |first: u16| format!("--shard localhost:{first},localhost:{},localhost:{}", first + 1, first + 2);
        return format!("distributor --listen :8080 {} {}", group(11000), group(11100));
    }
    match line.strip_prefix("hraftd ") {
        Some(rest) if !line.contains("haddr") => {
            format!("hraftd -haddr localhost:11000 -raddr localhost:12000 {rest}")
        }
        _ => line.to_string(),
    }
}

/// A read that any node of that program serves.
fn a_read(line: &str) -> &'static str {
    let runs = |program: &str| line.split_whitespace().any(|word| word == program);
    if runs("raftd") {
        "/db/anything"
    } else if runs("raft-kv") {
        "/keys/anything/"
    } else {
        "/key/anything"
    }
}

/// Understands the curl commands of the walkthroughs: `-X`, `-d`, `-H`, `-v` and the URL, in single quotes or none.
fn parse_curl(line: &str) -> (String, Vec<u8>) {
    let words = words(line);
    let mut words = words.iter().map(String::as_str).skip(1);
    let (mut method, mut url, mut body) = (None, "", None);
    while let Some(word) = words.next() {
        match word {
            "-v" => {}
            "-d" => body = words.next(),
            // What the content is said to be makes no difference.
            "-H" => assert!(words.next().is_some_and(|header| header.starts_with("Content-Type: "))),
            "-X" => method = words.next(),
            _ if word.starts_with("-X") => method = Some(&word[2..]),
            _ => url = word.trim_start_matches("http://"),
        }
    }
    let (address, path) = url.split_at(url.find('/').expect("a path"));
    let method = method.unwrap_or(if body.is_some() { "POST" } else { "GET" });
    (address.to_string(), request(method, path, body.unwrap_or("")))
}

/// As a shell splits a line.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    for (at, part) in line.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_string)),
            _ => words.push(part.to_string()),
        }
    }
    words
}

/// `host:port` of the HTTP address on a node's command line.
fn http_address(line: &str) -> String {
    let words: Vec<&str> = line.split([' ', '=']).collect();
    let given = words
        .windows(2)
        .find(|pair| matches!(pair[0].trim_start_matches('-'), "haddr" | "http" | "listen" | "port" | "p" | "PORT"));
    let port = given.map_or("", |pair| pair[1].rsplit(':').next().unwrap_or(""));
    format!("localhost:{port}")
}

/// A port that nobody listens on now, nor on the two above it, and that nobody else is given: a program that is
/// restarted finds its port still free.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = ports_of_this_run();
    loop {
        let port = first + NEXT.fetch_add(3, Ordering::Relaxed) % PORTS_OF_A_RUN;
        let is_free = |port| ["127.0.0.1", "0.0.0.0"].iter().all(|host| TcpListener::bind((*host, port)).is_ok());
        if (port..port + 3).all(is_free) {
            return port;
        }
    }
}

/// The first port of a range that is this process's own, below those that the system gives to outgoing connections. A
/// killed node's port looks free to other runs of these tests on the same machine, so the range is theirs no more while
/// this process holds a socket that stands for it.
fn ports_of_this_run() -> u16 {
    static OWN: OnceLock<(UdpSocket, u16)> = OnceLock::new();
    let range = |number: u16| {
        let stands_for_it = UdpSocket::bind(("127.0.0.1", 12_900 + number)).ok()?;
        Some((stands_for_it, 13_000 + number * PORTS_OF_A_RUN))
    };
    OWN.get_or_init(|| (0..12).find_map(range).expect("fewer than twelve other runs of these tests")).1
}

const PORTS_OF_A_RUN: u16 = 1500;

/// What all programs of a test said, line by line.
#[derive(Default)]
struct Log {
    programs: Mutex<Vec<(String, String)>>,
    news: Condvar,
}

impl Log {
    fn open(&self, line: &str) -> usize {
        let mut programs = self.programs.lock().unwrap();
        programs.push((line.to_string(), String::new()));
        programs.len() - 1
    }

    fn read(&self, number: usize, from: impl Read) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            self.programs.lock().unwrap()[number].1 += &String::from_utf8_lossy(&line);
            self.news.notify_all();
            line.clear();
        }
        self.news.notify_all();
    }

    fn wait_for_news(&self) {
        let programs = self.programs.lock().unwrap();
        drop(self.news.wait_timeout(programs, Duration::from_millis(20)).unwrap());
    }

    fn of(&self, number: usize) -> String {
        self.programs.lock().unwrap()[number].1.clone()
    }

    fn all(&self) -> String {
        let programs = self.programs.lock().unwrap();
        programs.iter().map(|(line, said)| format!("---- {line}\n{said}")).collect()
    }
}
