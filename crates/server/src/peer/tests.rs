//! What a caller can do to a node over a real socket: nothing, unless it is welcome.

use super::*;
use crate::handle::{Identity, Phase};
use crate::inbox::{CanWait, Input};
use node::membership::Member;
use proptest::prelude::*;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const OURS: ClusterId = ClusterId(7);
const MY_LIFE: Incarnation = Incarnation(20);
const URL: &str = "http://127.0.0.1:2";

/// Member 2 of a cluster of 1 and 2, of which 3 was removed; or a node that waits to be let in.
struct Bench {
    peers: Arc<Peers>,
    handle: Handle,
    admissions: mpsc::Receiver<Admission>,
}

impl Bench {
    fn new(cluster: Option<(ClusterId, NodeId)>) -> Bench {
        let me = Identity {
            name: "b".into(),
            address: "127.0.0.1:1".into(),
            url: URL.into(),
            incarnation: MY_LIFE,
            cluster,
        };
        let handle = Handle::new(me);
        let (admit, admissions) = mpsc::channel(1);
        let peers = Peers::new(handle.clone(), admit);
        if cluster.is_some() {
            handle.shared().inbox.open();
            handle.shared().phase.send_replace(Phase::Running);
            let member = |name: &str| Member {
                name: name.into(),
                // Nobody listens there.
                address: "127.0.0.1:1".into(),
                incarnation: Incarnation(10),
            };
            let mut configuration = Configuration::bootstrap(member("a"));
            configuration.members.insert(2, member("b"));
            configuration.next_id = 4;
            peers.set_configuration(&Arc::new(configuration));
        }
        Bench { peers, handle, admissions }
    }

    async fn call(&self) -> (TcpStream, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (caller, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
        let (stream, from) = accepted.unwrap();
        let served = tokio::spawn(self.peers.clone().accept(stream, from));
        (caller.unwrap(), served)
    }

    /// What has come in, as words.
    fn came_in(&self) -> Vec<String> {
        let mut batch = Vec::new();
        self.handle.shared().inbox.take(Instant::now(), CanWait::default(), &mut batch);
        let words = |input| match input {
            Input::Event(Event::Peer { from, message: Message::ReadIndex { id, .. } }) => format!("{from} asks {id}"),
            Input::Event(Event::PeerUp { node }) => format!("{node} up"),
            Input::Event(Event::PeerDown { node }) => format!("{node} down"),
            Input::Event(_) | Input::Request { .. } | Input::Halt => "something else".into(),
        };
        batch.into_iter().map(words).collect()
    }

    async fn until_it_came_in(&self, wanted: &[&str]) {
        let mut seen = Vec::new();
        let all = async {
            while seen.len() < wanted.len() {
                seen.extend(self.came_in());
                tokio::task::yield_now().await;
            }
        };
        let in_time = timeout(Duration::from_secs(10), all).await.is_ok();
        assert!(in_time && seen == wanted, "{seen:?}");
    }
}

fn hello() -> Hello {
    Hello {
        cluster: OURS,
        from: 1,
        from_incarnation: Incarnation(10),
        from_name: "a".into(),
        from_address: "127.0.0.1:1".into(),
        from_url: "http://127.0.0.1:3".into(),
        to: 2,
        to_incarnation: MY_LIFE,
    }
}

async fn answer_to(bench: &Bench, hello: Hello) -> Answer {
    let (mut stream, _served) = bench.call().await;
    call(&mut stream, &Call::Hello(hello)).await.unwrap()
}

fn frames(messages: &[Message]) -> Vec<u8> {
    let mut frames = Frames::default();
    for message in messages {
        frames.push(|w| message.encode(w));
    }
    frames.into_vec()
}

#[tokio::test]
async fn a_welcome_caller_is_heard_in_order_until_it_goes() {
    let bench = Bench::new(Some((OURS, 2)));
    let (mut stream, served) = bench.call().await;
    assert_eq!(call(&mut stream, &Call::Hello(hello())).await.unwrap(), Answer::Welcome(URL.into()));
    let questions: Vec<Message> = (0..3).map(|id| Message::ReadIndex { group: 0, id, weak: false }).collect();
    for byte in frames(&questions) {
        stream.write_all(&[byte]).await.unwrap();
    }
    bench.until_it_came_in(&["1 up", "1 asks 0", "1 asks 1", "1 asks 2"]).await;
    drop(stream);
    served.await.unwrap();
    assert_eq!(bench.came_in(), ["1 down"]);
}

#[tokio::test]
async fn who_is_not_welcome_changes_nothing() {
    let bench = Bench::new(Some((OURS, 2)));
    for (stranger, told) in [
        (Hello { cluster: ClusterId(8), ..hello() }, "another cluster"),
        (Hello { to: 1, ..hello() }, "is member 2"),
        (Hello { from: 2, ..hello() }, "itself"),
    ] {
        let answer = answer_to(&bench, stranger).await;
        assert!(matches!(&answer, Answer::Refused(reason) if reason.contains(told)), "{answer:?}");
    }
    let answer = answer_to(&bench, Hello { from: 3, ..hello() }).await;
    assert!(matches!(&answer, Answer::Removed(reason) if reason.contains("was removed")), "{answer:?}");
    assert_eq!(bench.came_in(), [""; 0]);
}

#[tokio::test]
async fn another_version_is_hung_up_on() {
    let bench = Bench::new(Some((OURS, 2)));
    let (mut stream, served) = bench.call().await;
    stream.write_all(b"\0quorate\x02").await.unwrap();
    served.await.unwrap();
    assert_eq!(bench.came_in(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_dropped() {
    let bench = Bench::new(Some((OURS, 2)));
    let (stream, served) = bench.call().await;
    served.await.unwrap();
    drop(stream);
    assert_eq!(bench.came_in(), [""; 0]);
}

#[tokio::test]
async fn a_member_that_is_removed_is_hung_up_on() {
    let bench = Bench::new(Some((OURS, 2)));
    let (mut stream, served) = bench.call().await;
    assert_eq!(call(&mut stream, &Call::Hello(hello())).await.unwrap(), Answer::Welcome(URL.into()));
    bench.until_it_came_in(&["1 up"]).await;
    let mut without = (*bench.peers.book().configuration).clone();
    without.members.remove(&1);
    bench.peers.set_configuration(&Arc::new(without));
    served.await.unwrap();
    assert!(matches!(answer_to(&bench, hello()).await, Answer::Removed(_)));
}

#[tokio::test]
async fn the_second_call_of_a_member_replaces_its_first() {
    let bench = Bench::new(Some((OURS, 2)));
    let (mut first, served_first) = bench.call().await;
    assert_eq!(call(&mut first, &Call::Hello(hello())).await.unwrap(), Answer::Welcome(URL.into()));
    bench.until_it_came_in(&["1 up"]).await;
    let (mut second, _served) = bench.call().await;
    assert_eq!(call(&mut second, &Call::Hello(hello())).await.unwrap(), Answer::Welcome(URL.into()));
    bench.until_it_came_in(&["1 down", "1 up"]).await;
    // Its end is no news any more.
    served_first.await.unwrap();
    second.write_all(&frames(&[Message::ReadIndex { group: 0, id: 9, weak: false }])).await.unwrap();
    bench.until_it_came_in(&["1 asks 9"]).await;
}

/// Two members dial a new node at the same moment, and the one that came second once waited for ever.
#[tokio::test]
async fn an_empty_folder_is_admitted_by_the_first_caller_and_welcomes_the_second() {
    let mut bench = Bench::new(None);
    let mut admissions = std::mem::replace(&mut bench.admissions, mpsc::channel(1).1);
    let callers = async { tokio::join!(answer_to(&bench, hello()), answer_to(&bench, Hello { from: 3, ..hello() })) };
    let doorkeeper = async {
        let Admission { cluster, id, done } = admissions.recv().await.unwrap();
        assert_eq!((cluster, id), (OURS, 2));
        let me = Identity { cluster: Some((cluster, id)), ..(*bench.handle.identity()).clone() };
        bench.handle.shared().identity.store(Arc::new(me));
        bench.handle.shared().inbox.open();
        done.send(Ok(())).unwrap();
        drop(admissions);
    };
    let (answers, ()) = tokio::join!(callers, doorkeeper);
    assert_eq!(answers, (Answer::Welcome(URL.into()), Answer::Welcome(URL.into())));
    let other = answer_to(&bench, Hello { cluster: ClusterId(8), ..hello() }).await;
    assert!(matches!(other, Answer::Refused(_)), "{other:?}");
}

#[tokio::test]
async fn an_empty_folder_that_does_not_join_refuses() {
    let mut bench = Bench::new(None);
    bench.admissions = mpsc::channel(1).1;
    let answer = answer_to(&bench, hello()).await;
    assert!(matches!(&answer, Answer::Refused(reason) if reason.contains("is not joining")), "{answer:?}");
}

#[tokio::test]
async fn a_greeting_tells_who_is_there() {
    let bench = Bench::new(Some((OURS, 2)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (greeting, ()) = tokio::join!(bench.peers.greet(&address), async {
        let (stream, from) = listener.accept().await.unwrap();
        bench.peers.clone().accept(stream, from).await;
    });
    assert_eq!(greeting, Ok(Greeting { incarnation: MY_LIFE, cluster: Some((OURS, 2)) }));
    drop(listener);
    let nobody = bench.peers.greet(&address).await.unwrap_err();
    assert!(nobody.contains("no node answers at"), "{nobody}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Neither before the handshake nor after it do bytes that are no frames reach the node.
    #[test]
    fn noise_never_reaches_the_node(
        noise in prop::collection::vec(any::<u8>(), 1..300), welcome in any::<bool>(), framed in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new(Some((OURS, 2)));
            let (mut stream, served) = bench.call().await;
            if welcome {
                assert_eq!(call(&mut stream, &Call::Hello(hello())).await.unwrap(), Answer::Welcome(URL.into()));
            }
            let mut bytes = noise.clone();
            if framed {
                let mut frames = Frames::default();
                frames.push(|w| w.raw(&noise));
                bytes = if welcome { frames.into_vec() } else { opened(frames) };
            }
            // It may hang up in the middle.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            served.await.unwrap();
            let is_message = framed && Message::decode(Bytes::from(noise.clone())).is_ok();
            let expected: &[&str] = if welcome { &["1 up", "1 down"] } else { &[] };
            if !is_message {
                assert_eq!(bench.came_in(), expected);
            }
        });
    }
}
