//! Whole nodes in one process: real sockets on loopback, real files in temporary folders.

use bytes::Bytes;
use node::{Failure, Outcome, ReadLevel, Request, Role};
use server::{Begin, Config, End, Handle, Join, Name, Persistence, Phase, Server, Words};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_secs(20);

fn config(folder: &Path, name: &str) -> Config {
    Config {
        name: Name::Given(name.into()),
        http_listen: "127.0.0.1:0".into(),
        raft_listen: "localhost:0".into(),
        ..Config::new(folder.join(name))
    }
}

fn joining(folder: &Path, name: &str, member: &Server) -> Config {
    Config { begin: Begin::join_or_found(Some(member.http_address().to_string())), ..config(folder, name) }
}

/// The same node again, where it was.
fn again(folder: &Path, name: &str, raft_address: SocketAddr) -> Config {
    Config { raft_listen: format!("localhost:{}", raft_address.port()), ..config(folder, name) }
}

async fn start(config: Config) -> Server {
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let handle = server.handle();
    tokio::select! {
        _ = handle.wait_for_phase(|phase| *phase == Phase::Running) => {}
        end = server.wait() => panic!("{end}"),
        () = sleep(LIMIT) => panic!("it does not run within {LIMIT:?}"),
    }
    server
}

async fn put(handle: &Handle, key: &str, value: &str) -> Outcome {
    let put = kv::Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    handle.request(Request::Write { operations: vec![put], idempotency: None }, LIMIT).await
}

fn assert_written(outcome: Outcome) {
    assert!(matches!(outcome, Outcome::Written { .. }), "{outcome:?}");
}

/// A linearizable read.
async fn get(handle: &Handle, key: &str) -> Option<String> {
    assert_eq!(handle.request(Request::Read(ReadLevel::Linearizable), LIMIT).await, Outcome::Readable);
    local(handle, key)
}

fn local(handle: &Handle, key: &str) -> Option<String> {
    let value = handle.view().and_then(|view| view.get(key.as_bytes()).unwrap())?.value;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// The whole answer to a request without a body.
async fn http(server: &Server, line: &str) -> String {
    let mut stream = TcpStream::connect(server.http_address()).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn three(folder: &Path) -> [Server; 3] {
    let a = start(config(folder, "a")).await;
    let b = start(joining(folder, "b", &a)).await;
    let c = start(joining(folder, "c", &b)).await;
    for server in [&a, &b, &c] {
        let handle = server.handle();
        until("three voters", || handle.status().configuration.voters.voters.len() == 3).await;
    }
    [a, b, c]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_three_loses_one_and_it_catches_up_when_it_is_back() {
    let folder = TempDir::new().unwrap();
    let servers = three(folder.path()).await;
    let handles = servers.each_ref().map(Server::handle);
    for (at, handle) in handles.iter().enumerate() {
        assert_written(put(handle, &format!("k{at}"), &format!("v{at}")).await);
    }
    for handle in &handles {
        for at in 0..3 {
            assert_eq!(get(handle, &format!("k{at}")).await, Some(format!("v{at}")));
        }
    }

    // The leader dies, as a crash would have it.
    let [a, b, c] = servers;
    let was_at = a.raft_address();
    assert_eq!(handles[0].status().role, Role::Leader);
    a.halt().await;
    assert!(matches!(put(&handles[0], "late", "x").await, Outcome::Failed(Failure::Unavailable(_))));
    for at in 0..50 {
        assert_written(put(&handles[1], &format!("meanwhile{at}"), "v").await);
    }
    assert_eq!(get(&handles[2], "meanwhile49").await.as_deref(), Some("v"));

    let a = start(again(folder.path(), "a", was_at)).await;
    let handle = a.handle();
    until("a caught up", || local(&handle, "meanwhile49").is_some()).await;
    assert_eq!(get(&handle, "k1").await.as_deref(), Some("v1"));
    assert_written(put(&handle, "back", "yes").await);
    assert_eq!(get(&handles[1], "back").await.as_deref(), Some("yes"));
    for server in [a, b, c] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_at_another_port_is_found_without_being_told() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    b.stop().await;
    assert_written(put(&a.handle(), "k", "v").await);
    let b = start(config(folder.path(), "b")).await;
    assert_eq!(get(&b.handle(), "k").await.as_deref(), Some("v"));
    for server in [a, b, c] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_at_another_port_and_names_a_member_is_shown_there() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    b.stop().await;
    let b = start(joining(folder.path(), "b", &a)).await;
    let now = format!("localhost:{}", b.raft_address().port());
    let handle = c.handle();
    until("the new address is known", || handle.status().configuration.by_address(&now).is_some()).await;
    assert_eq!(handle.status().configuration.members.len(), 3);
    for server in [a, b, c] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    assert_written(put(&a.handle(), "k", "v").await);
    a.stop().await;
    let began = Instant::now();
    assert_written(put(&b.handle(), "next", "v").await);
    // Far below an election timeout.
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(get(&c.handle(), "k").await.as_deref(), Some("v"));
    for server in [b, c] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_port_carries_clients_and_peers() {
    let folder = TempDir::new().unwrap();
    let one_port = |config: Config| Config { raft_listen: config.http_listen.clone(), ..config };
    let a = start(one_port(config(folder.path(), "a"))).await;
    assert_eq!(a.http_address(), a.raft_address());
    let b = start(one_port(joining(folder.path(), "b", &a))).await;
    assert_written(put(&b.handle(), "k", "v").await);
    let answer = http(&a, "GET /key/k").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"k":"v"}"#), "{answer}");
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_survives_in_memory_and_everything_on_disk() {
    let folder = TempDir::new().unwrap();
    for (in_memory, kept) in [(true, None), (false, Some("v".to_string()))] {
        let config = Config { in_memory, ..config(folder.path(), if in_memory { "m" } else { "d" }) };
        let server = start(config.clone()).await;
        assert_written(put(&server.handle(), "k", "v").await);
        server.stop().await;
        assert_eq!(config.folder.exists(), !in_memory);
        let server = start(config).await;
        assert_eq!(get(&server.handle(), "k").await, kept);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_serves_one_process_and_one_name() {
    let folder = TempDir::new().unwrap();
    let server = start(config(folder.path(), "a")).await;
    let error = Server::start(config(folder.path(), "a")).await.err().unwrap().to_string();
    assert!(error.contains("in use by another process") && !error.contains('\n'), "{error}");
    server.stop().await;
    let other = Config { name: Name::Given("b".into()), ..config(folder.path(), "a") };
    let error = Server::start(other).await.err().unwrap().to_string();
    assert!(error.contains("is that of node a, not of b"), "{error}");
    start(config(folder.path(), "a")).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_settings_are_told_in_one_line() {
    let folder = TempDir::new().unwrap();
    let taken = start(config(folder.path(), "a")).await;
    let config = config(folder.path(), "b");
    for (wrong, told) in [
        (Config { http_listen: "nonsense".into(), ..config.clone() }, "is no address"),
        (Config { begin: Begin::join_or_found(Some("localhost:x".into())), ..config.clone() }, "is no address"),
        (Config { http_listen: taken.http_address().to_string(), ..config.clone() }, "can't listen at"),
        (Config { name: Name::Given(String::new()), ..config.clone() }, "1 to 255 bytes"),
        (Config { name: Name::Given("x".repeat(256)), ..config.clone() }, "1 to 255 bytes"),
    ] {
        let error = Server::start(wrong).await.err().unwrap().to_string();
        assert!(error.contains(told) && !error.contains('\n'), "{error}");
    }
    taken.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_says_so_and_does_not_start_again() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let removed = a.handle().request(Request::Remove { name: "c".into() }, LIMIT).await;
    assert_eq!(removed, Outcome::Done);
    let end = timeout(LIMIT, c.wait()).await.unwrap();
    assert!(matches!(&end, End::Removed(reason) if reason.contains("removed")), "{end:?}");
    assert!(matches!(put(&c.handle(), "k", "v").await, Outcome::Failed(Failure::Removed(_))));
    c.stop().await;
    let error = Server::start(config(folder.path(), "c")).await.err().unwrap().to_string();
    assert!(error.contains("removed"), "{error}");
    for server in [a, b] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_to_join_can_be_stopped_and_started_again() {
    let folder = TempDir::new().unwrap();
    let nobody = Config { begin: Begin::join_or_found(Some("127.0.0.1:1".into())), ..config(folder.path(), "b") };
    let waiting = Server::start(nobody).await.unwrap();
    assert_eq!(waiting.handle().phase(), Phase::Joining);
    assert!(matches!(put(&waiting.handle(), "k", "v").await, Outcome::Failed(Failure::Unavailable(_))));
    assert_eq!(waiting.handle().view().map(|view| view.len()), None);
    let incarnation = waiting.handle().identity().incarnation;
    let stored = folder.path().join("b").join("identity");
    until("its identity is stored", || stored.exists()).await;
    waiting.stop().await;

    let error = Server::start(config(folder.path(), "b")).await.err().unwrap().to_string();
    assert!(error.contains("has not joined its cluster yet"), "{error}");
    let a = start(config(folder.path(), "a")).await;
    let b = start(joining(folder.path(), "b", &a)).await;
    assert_eq!(b.handle().identity().incarnation, incarnation);
    for server in [b, a] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_is_let_in_when_somebody_asks_for_it() {
    let folder = TempDir::new().unwrap();
    let waiting = Config { begin: Begin::Wait, ..config(folder.path(), "b") };
    let b = Server::start(waiting.clone()).await.unwrap();
    assert_eq!(b.handle().phase(), Phase::Waiting);
    let answer = http(&b, "GET /key/k").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("belongs to no cluster yet"), "{answer}");
    // Until then its folder is anybody's.
    b.stop().await;
    let b = Server::start(waiting.clone()).await.unwrap();

    let a = start(config(folder.path(), "a")).await;
    assert_written(put(&a.handle(), "k", "v").await);
    let address = format!("localhost:{}", b.raft_address().port());
    let let_in = Request::Join { name: "b".into(), address, learner: false };
    assert_eq!(a.handle().request(let_in, LIMIT).await, Outcome::Done);
    assert_eq!(get(&b.handle(), "k").await.as_deref(), Some("v"));
    b.stop().await;
    // Now it is that of a member, whatever it is told to begin with.
    for begin in [Begin::Wait, Begin::Found] {
        let b = start(Config { begin, ..waiting.clone() }).await;
        assert_eq!(get(&b.handle(), "k").await.as_deref(), Some("v"));
        assert_eq!(b.handle().status().configuration.members.len(), 2);
        b.stop().await;
    }
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_can_be_told_to_found_a_cluster_after_all() {
    let folder = TempDir::new().unwrap();
    Server::start(Config { begin: Begin::Wait, ..config(folder.path(), "a") }).await.unwrap().stop().await;
    start(config(folder.path(), "a")).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_knows_who_leads_where_its_clients_go_and_when_it_was_last_heard() {
    let folder = TempDir::new().unwrap();
    let a = start(config(folder.path(), "a")).await;
    // Its clients are told the host that its peers know.
    let everywhere =
        Config { http_listen: ":0".into(), raft_listen: "127.0.0.1:0".into(), ..joining(folder.path(), "b", &a) };
    let b = start(everywhere).await;
    let handles = [a.handle(), b.handle()];
    let leads = |server: &Server, handle: &Handle| {
        let url = format!("http://127.0.0.1:{}", server.http_address().port());
        let leader = handle.leader();
        leader.is_some_and(|leader| leader.name == server.handle().identity().name && leader.url == Some(url))
    };
    until("a leads", || handles.iter().all(|handle| leads(&a, handle))).await;
    assert_eq!(handles[0].contact_age(), Some(Duration::ZERO));
    assert!(handles[1].contact_age().unwrap() < LIMIT);

    let handover = Request::Transfer { name: Some("b".into()) };
    assert_eq!(handles[0].request(handover, LIMIT).await, Outcome::Done);
    until("b leads", || handles.iter().all(|handle| leads(&b, handle))).await;
    until("a hears of it", || handles[0].contact_age().unwrap() < Duration::from_millis(200)).await;
    b.halt().await;
    until("a hears nothing any more", || handles[0].contact_age().unwrap() > Duration::from_millis(500)).await;
    assert_eq!(handles[0].leader(), None);
    a.stop().await;
}

/// Answers every question with a refusal, and counts them.
async fn refuse_everybody(listener: TcpListener, asked: Arc<AtomicU64>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") && stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {}
        asked.fetch_add(1, Ordering::Relaxed);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_ends_or_asks_again_as_it_was_told() {
    let folder = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicU64::new(0));
    tokio::spawn(refuse_everybody(listener, asked.clone()));
    let join = |persistence| Join { member: member.clone(), words: Words::Hraftd, persistence, learner: false };

    let begin = Begin::Join(join(Persistence::UntilRefused));
    let server = Server::start(Config { begin, ..config(folder.path(), "a") }).await.unwrap();
    let end = timeout(LIMIT, server.wait()).await.unwrap();
    assert!(matches!(&end, End::Failed(why) if why.contains("refused to let this node join")), "{end:?}");
    assert_eq!(asked.swap(0, Ordering::Relaxed), 1);
    server.stop().await;

    let begin = Begin::Join(join(Persistence::ForEver));
    let server = Server::start(Config { begin, ..config(folder.path(), "b") }).await.unwrap();
    until("it asks a third time", || asked.load(Ordering::Relaxed) >= 3).await;
    assert_eq!(server.handle().phase(), Phase::Joining);
    server.stop().await;
}

/// Its answer may get lost, or somebody else have asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_in_vain_stops_asking_once_it_votes() {
    let folder = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicU64::new(0));
    tokio::spawn(refuse_everybody(listener, asked.clone()));
    let join = Join { member, words: Words::Hraftd, persistence: Persistence::ForEver, learner: false };
    let b = Server::start(Config { begin: Begin::Join(join), ..config(folder.path(), "b") }).await.unwrap();

    let a = start(config(folder.path(), "a")).await;
    let address = format!("localhost:{}", b.raft_address().port());
    assert_eq!(
        a.handle().request(Request::Join { name: "b".into(), address, learner: false }, LIMIT).await,
        Outcome::Done
    );
    assert_written(put(&b.handle(), "k", "v").await);
    let before = asked.load(Ordering::Relaxed);
    sleep(Duration::from_millis(2200)).await;
    // One question may have been on its way.
    assert!(asked.load(Ordering::Relaxed) <= before + 1);
    for server in [b, a] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_draws_its_name_keeps_it() {
    let folder = TempDir::new().unwrap();
    let drawn = Config { name: Name::Drawn, ..config(folder.path(), "a") };
    let mut names = Vec::new();
    for _ in 0..2 {
        let server = start(drawn.clone()).await;
        names.push(server.handle().identity().name.clone());
        server.stop().await;
    }
    assert!(names[0].len() == 7 && names[0].chars().all(|c| c.is_ascii_hexdigit()), "{names:?}");
    assert_eq!(names[0], names[1]);
    assert_eq!(std::fs::read_to_string(drawn.folder.join("name")).unwrap(), names[0]);
}

/// 1,000 byte strings of all kinds, from pure noise to noise behind a right preface, change neither term nor log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_at_the_peer_port_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let server = start(config(folder.path(), "a")).await;
    let handle = server.handle();
    assert_written(put(&handle, "k", "v").await);
    let before = handle.status();
    let mut rng = base::rng::Rng::new(7);
    for round in 0..1000 {
        let mut noise: Vec<u8> = match round % 4 {
            0 => Vec::new(),
            1 => b"\0quorate\x01".to_vec(),
            2 => b"\0quorate".to_vec(),
            _ => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        };
        noise.extend((0..rng.below(200)).map(|_| rng.next_u64() as u8));
        let mut stream = TcpStream::connect(server.raft_address()).await.unwrap();
        // The node may close before it has read everything.
        let _ = stream.write_all(&noise).await;
        let _ = stream.shutdown().await;
        let _ = timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await.expect("it is closed");
    }
    let after = handle.status();
    assert_eq!((before.term, before.commit, &before.configuration), (after.term, after.commit, &after.configuration));
    assert_eq!(get(&handle, "k").await.as_deref(), Some("v"));
    server.stop().await;
}

/// A backup of a running node becomes a cluster of its own, which goes on from where the backup was taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_new_cluster_that_others_join() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let old = start(config(folder, "old")).await;
    for number in 0..200 {
        assert_written(put(&old.handle(), &format!("key{number}"), "before").await);
    }
    let revision = old.handle().view().unwrap().revision();
    let file = folder.join("file.backup");
    // HTTP/1.0 has no chunks: what follows the head is the file.
    let mut stream = TcpStream::connect(old.http_address()).await.unwrap();
    stream.write_all(b"GET /v1/snapshot HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    std::fs::write(&file, &answer[body..]).unwrap();
    assert_written(put(&old.handle(), "key0", "after").await);
    let old_cluster = old.handle().identity().cluster.unwrap().0;
    let raft_address = old.raft_address();
    old.stop().await;

    let address = format!("localhost:{}", raft_address.port());
    let restored = server::restore::restore(&file, &folder.join("new"), "new", &address).unwrap();
    assert_eq!((restored.from, restored.revision, restored.keys), (old_cluster, revision, 200));
    let new = start(again(folder, "new", raft_address)).await;
    assert_eq!(new.handle().identity().cluster.unwrap().0, restored.cluster);
    assert_eq!(get(&new.handle(), "key0").await.as_deref(), Some("before"));
    let Outcome::Written { revision: next, .. } = put(&new.handle(), "key0", "new").await else { panic!() };
    assert_eq!(next, revision + 1);
    let joined = start(joining(folder, "joined", &new)).await;
    assert_eq!(get(&joined.handle(), "key0").await.as_deref(), Some("new"));
    assert_eq!(get(&joined.handle(), "key199").await.as_deref(), Some("before"));
    new.stop().await;
    joined.stop().await;
}
