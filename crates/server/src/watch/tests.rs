//! Watchers over a store of the real kind, without any network. Time is the test's own.

use super::ring::{Found, MAX_BYTES, MAX_REVISIONS, Ring};
use super::*;
use base::Position;
use bytes::Bytes;
use kv::{Action, Command, KeyValue, Operation, RequestId, SessionId, Store};

/// Writes `REVISION:` and for each change ` +KEY` or ` -KEY`, with `(VERSION BEFORE)`, and ends with `;`.
static PLAIN: Encoding = Encoding { name: "plain", encode: plain };

fn plain(revision: u64, changes: &[&Change], before: Before, text: &mut Vec<u8>) {
    text.extend(format!("{revision}:").bytes());
    for change in changes {
        text.extend(if change.now.is_some() { b" +" } else { b" -" });
        text.extend(&change.key[..]);
        if let Some(previous) = &change.previous
            && before == Before::Shown
        {
            text.extend(format!("({})", previous.version).bytes());
        }
    }
    text.push(b';');
}

fn all() -> Wish {
    Wish { keys: KeyRange::all(), only: None, previous: false, encoding: &PLAIN }
}

/// A store that is written to, and its hub.
struct Node {
    store: Store,
    hub: Arc<Hub>,
    number: u64,
}

impl Node {
    fn new() -> Node {
        let mut node = Node { store: Store::in_memory(), hub: Arc::default(), number: 0 };
        let session = SessionId { node: 1, boot: 1 };
        node.store.apply(Position { index: 1, term: 1 }, &Command::Register { session }).unwrap();
        node.publish();
        node
    }

    fn request(&mut self) -> RequestId {
        self.number += 1;
        RequestId { session: SessionId { node: 1, boot: 1 }, number: self.number, low_water: self.number }
    }

    fn position(&self) -> Position {
        Position { index: self.store.applied().index + 1, term: 1 }
    }

    fn write(&mut self, operations: Vec<Operation>) {
        let request = self.request();
        let write = Command::Write { request, accepted_ms: 0, idempotency: None, operations };
        self.store.apply(self.position(), &write).unwrap();
    }

    fn put(&mut self, key: &str) {
        self.put_value(key, Bytes::from_static(b"value"));
    }

    fn put_value(&mut self, key: &str, value: Bytes) {
        self.write(vec![Operation::Put { key: Bytes::copy_from_slice(key.as_bytes()), value }]);
    }

    fn delete(&mut self, key: &str) {
        self.write(vec![Operation::Delete { key: Bytes::copy_from_slice(key.as_bytes()) }]);
    }

    fn compact(&mut self, revision: u64) {
        let request = Some(self.request());
        let action = Action::Compact { revision };
        self.store
            .apply(self.position(), &Command::Act { request, accepted_ms: 0, idempotency: None, action })
            .unwrap();
        assert_eq!(self.store.view().compacted(), revision);
    }

    fn publish(&self) {
        self.hub.publish(self.store.view());
    }

    fn watch(&self, wish: Wish, from: u64) -> Watcher {
        self.hub.watch(wish, from)
    }
}

/// What it tells until it has told everything up to that revision, or ended.
async fn told(watcher: &mut Watcher, upto: u64) -> String {
    let mut text = Vec::new();
    while watcher.cursor() <= upto {
        match watcher.next().await {
            Event::Changes(batch) => text.extend(&batch[..]),
            Event::Progress(_) | Event::Heartbeat => {}
            end => text.extend(format!("{end:?}").bytes()),
        }
        if text.ends_with(b"}") || text.ends_with(b")") {
            break;
        }
    }
    String::from_utf8(text).unwrap()
}

/// `1: +k;2: +k;`, and so on.
fn expected(revisions: impl IntoIterator<Item = u64>) -> String {
    revisions.into_iter().map(|revision| format!("{revision}: +k;")).collect()
}

fn revision(revision: u64, value_bytes: usize) -> Revision {
    let value = Bytes::from(vec![0; value_bytes]);
    let now = KeyValue { value, create_revision: 1, mod_revision: revision, version: revision, lease: 0 };
    Revision { revision, changes: vec![Change { key: Bytes::from_static(b"k"), now: Some(now), previous: None }] }
}

fn revisions(found: Found) -> Vec<u64> {
    match found {
        Found::Here(revisions) => revisions.iter().map(|revision| revision.revision).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ring_begins_behind_what_is_there_and_tells_where_a_cursor_is() {
    let mut ring = Ring::default();
    assert_eq!(ring.from(1, false, 9), Found::Behind(0), "nobody has filled it");
    assert_eq!(ring.go_on(4, false), 5);
    assert_eq!([ring.from(4, false, 9), ring.from(5, false, 9)], [Found::Behind(5), Found::Ahead]);
    assert_eq!(ring.go_on(8, false), 5);
    (5..=8).for_each(|number| ring.push(revision(number, 1)));
    assert_eq!(ring.from(4, false, 9), Found::Behind(5));
    assert_eq!(revisions(ring.from(5, false, 9)), [5, 6, 7, 8]);
    assert_eq!(revisions(ring.from(6, false, 2)), [6, 7]);
    assert_eq!([ring.from(9, false, 9), ring.from(100, false, 9)], [Found::Ahead, Found::Ahead]);
}

#[test]
fn a_ring_knows_from_where_on_it_was_told_what_was_there_before() {
    let mut ring = Ring::default();
    ring.go_on(0, false);
    ring.push(revision(1, 1));
    assert_eq!(ring.from(1, true, 9), Found::Behind(2));
    ring.go_on(1, true);
    ring.push(revision(2, 1));
    assert_eq!(ring.from(1, true, 9), Found::Behind(2));
    assert_eq!(revisions(ring.from(2, true, 9)), [2]);
    // Nobody wants it for a while.
    ring.go_on(2, false);
    ring.push(revision(3, 1));
    ring.go_on(3, true);
    ring.push(revision(4, 1));
    assert_eq!(ring.from(2, true, 9), Found::Behind(4));
    assert_eq!(revisions(ring.from(2, false, 9)), [2, 3, 4]);
}

#[test]
fn a_ring_keeps_nothing_but_what_it_counts_in_memory() {
    let piece = Bytes::from(vec![7; 100_000]);
    for (bytes, is_shared) in [(100, false), (50_000, true)] {
        let mut ring = Ring::default();
        ring.go_on(0, true);
        let mut revision = revision(1, 1);
        let value = piece.slice(..bytes);
        revision.changes[0].now.as_mut().unwrap().value = value.clone();
        revision.changes[0].key = piece.slice(..10);
        ring.push(revision);
        let Found::Here(found) = ring.from(1, false, 1) else { panic!("it is there") };
        let Change { key, now, .. } = &found[0].changes[0];
        let now = &now.as_ref().unwrap().value;
        assert_eq!((now, &key[..]), (&value, &[7; 10][..]));
        assert_eq!(now.as_ptr() == piece.as_ptr(), is_shared);
        assert_ne!(key.as_ptr(), piece.as_ptr());
    }
}

#[test]
fn a_ring_is_bounded_in_revisions_and_in_bytes() {
    let mut ring = Ring::default();
    ring.go_on(0, false);
    for number in 1..=70_000 {
        ring.push(Revision { revision: number, changes: Vec::new() });
    }
    assert_eq!(ring.len(), MAX_REVISIONS);
    assert_eq!(ring.from(70_000 - MAX_REVISIONS as u64, false, 1), Found::Behind(70_001 - MAX_REVISIONS as u64));
    for number in 70_001..=80_000 {
        ring.push(revision(number, 10_000));
        assert!(ring.bytes() <= MAX_BYTES);
    }
    assert!((700..900).contains(&ring.len()), "{}", ring.len());
    // One that is larger than all that may be has it for itself.
    ring.push(revision(80_001, MAX_BYTES));
    assert_eq!(revisions(ring.from(80_001, false, 9)), [80_001]);
    assert_eq!(ring.len(), 1);
    ring.push(revision(80_002, 1));
    assert_eq!(revisions(ring.from(80_002, false, 9)), [80_002]);
    assert!(ring.bytes() < 1000);
    // Far behind, it does not read what could not stay.
    assert_eq!(ring.go_on(1_000_000, false), 1_000_001 - MAX_REVISIONS as u64);
    assert_eq!((ring.len(), ring.bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_tells_history_and_then_what_comes() {
    let mut node = Node::new();
    for _ in 0..1000 {
        node.put("k");
    }
    node.publish();
    let mut watcher = node.watch(all(), 1);
    assert_eq!(told(&mut watcher, 1000).await, expected(1..=1000));
    assert_eq!(watcher.next().await, Event::Progress(1000));
    for _ in 0..100 {
        node.put("k");
    }
    node.publish();
    assert_eq!(told(&mut watcher, 1100).await, expected(1001..=1100));
    // From within.
    let mut watcher = node.watch(all(), 1050);
    assert_eq!(told(&mut watcher, 1100).await, expected(1050..=1100));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_tells_what_it_was_asked_for() {
    let mut node = Node::new();
    let mut live: Vec<Watcher> = Vec::new();
    let prefix = |prefix: &'static str| Wish { keys: KeyRange::prefix(prefix), ..all() };
    let wishes = [
        (all(), "1: +a1 +b1;2: +a1;3: -a1;4: +a2 -b1;5: +a1;"),
        (prefix("a"), "1: +a1;2: +a1;3: -a1;4: +a2;5: +a1;"),
        (prefix("b"), "1: +b1;4: -b1;"),
        (prefix("c"), ""),
        (Wish { keys: KeyRange::single("a1"), ..all() }, "1: +a1;2: +a1;3: -a1;5: +a1;"),
        (Wish { only: Some(Kind::Delete), ..all() }, "3: -a1;4: -b1;"),
        (Wish { only: Some(Kind::Put), ..prefix("a") }, "1: +a1;2: +a1;4: +a2;5: +a1;"),
        (Wish { previous: true, ..all() }, "1: +a1 +b1;2: +a1(1);3: -a1(2);4: +a2 -b1(1);5: +a1;"),
    ];
    for (wish, _) in &wishes {
        let mut watcher = node.watch(wish.clone(), 1);
        assert_eq!(watcher.next().await, Event::Progress(0));
        live.push(watcher);
    }
    let put = |key: &'static str| Operation::Put { key: key.into(), value: Bytes::from_static(b"v") };
    let delete = |key: &'static str| Operation::Delete { key: key.into() };
    node.write(vec![put("a1"), put("b1")]);
    node.put("a1");
    node.publish();
    node.delete("a1");
    node.write(vec![put("a2"), delete("b1")]);
    node.put("a1");
    node.publish();
    for ((wish, expected), mut live) in wishes.into_iter().zip(live) {
        assert_eq!(told(&mut live, 5).await, expected, "{wish:?} as it comes");
        let mut late = node.watch(wish.clone(), 1);
        assert_eq!(told(&mut late, 5).await, expected, "{wish:?} from history");
    }
}

#[tokio::test(start_paused = true)]
async fn while_nothing_comes_a_watcher_lives_and_tells_how_far_it_is() {
    let mut node = Node::new();
    let mut watcher = node.watch(Wish { keys: KeyRange::single("quiet"), ..all() }, 7);
    assert_eq!(watcher.next().await, Event::Progress(6), "from a revision that is still to come");
    assert_eq!([watcher.next().await, watcher.next().await], [Event::Heartbeat, Event::Progress(6)]);
    for _ in 0..20 {
        node.put("other");
    }
    node.publish();
    let began = tokio::time::Instant::now();
    assert_eq!([watcher.next().await, watcher.next().await], [Event::Heartbeat, Event::Progress(20)]);
    assert!(began.elapsed() <= Duration::from_secs(6));
    node.put("quiet");
    node.publish();
    assert_eq!(watcher.next().await, Event::Changes(Bytes::from_static(b"21: +quiet;")));
}

#[tokio::test(start_paused = true)]
async fn watchers_that_want_the_same_share_what_is_encoded() {
    let mut node = Node::new();
    let mut watchers: Vec<Watcher> = (0..20).map(|_| node.watch(all(), 1)).collect();
    for _ in 0..100 {
        node.put("k");
    }
    node.publish();
    let mut batches = Vec::new();
    for watcher in &mut watchers {
        loop {
            if let Event::Changes(batch) = watcher.next().await {
                break batches.push(batch);
            }
        }
    }
    assert_eq!(batches[0], expected(1..=100));
    assert!(batches.iter().all(|batch| batch.as_ptr() == batches[0].as_ptr()));
}

/// It never reads, while everything that can be kept passes several times. It costs nobody anything, and when it reads
/// again it misses nothing.
#[tokio::test(start_paused = true)]
async fn a_stuck_watcher_costs_its_cursor() {
    const REVISIONS: u64 = 100_000;
    let mut node = Node::new();
    let mut stuck = node.watch(all(), 1);
    let reader = |mut watcher: Watcher| {
        let hub = node.hub.clone();
        tokio::spawn(async move {
            let (mut next, mut behind) = (1, 0);
            while next <= REVISIONS {
                if let Event::Changes(batch) = watcher.next().await {
                    for revision in String::from_utf8(batch.to_vec()).unwrap().split_terminator(';') {
                        assert_eq!(revision, format!("{next}: +k"));
                        next += 1;
                    }
                }
                behind = behind.max(hub.counts().slow);
            }
            behind
        })
    };
    let readers = [reader(node.watch(all(), 1)), reader(node.watch(all(), 1))];
    assert_eq!(stuck.next().await, Event::Progress(0));
    let mut most = 0;
    for _ in 0..REVISIONS / 500 {
        for _ in 0..500 {
            node.put("k");
        }
        node.publish();
        sleep(Duration::from_millis(6)).await;
        let counts = node.hub.counts();
        most = most.max(counts.ring_bytes);
        assert!(counts.ring_bytes <= MAX_BYTES && counts.ring_revisions <= MAX_REVISIONS, "{counts:?}");
    }
    assert!(most > MAX_BYTES / 2, "the ring was used: {most}");
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 0, "nobody who reads falls behind");
    }
    assert!(matches!(node.hub.ring().from(stuck.cursor(), false, 1), Found::Behind(_)));
    assert_eq!(stuck.next().await, Event::Changes(expected(1..=255).into()));
    assert_eq!(node.hub.counts().slow, 1);
    assert_eq!(told(&mut stuck, REVISIONS).await, expected(256..=REVISIONS));
    node.put("k");
    node.publish();
    assert_eq!(told(&mut stuck, REVISIONS + 1).await, expected([REVISIONS + 1]));
    assert_eq!(node.hub.counts().slow, 0);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_whose_next_revision_is_compacted_is_told_so() {
    let mut node = Node::new();
    let mut stuck = node.watch(Wish { previous: true, ..all() }, 1);
    assert_eq!(stuck.next().await, Event::Progress(0));
    for _ in 0..10 {
        node.put("k");
    }
    node.compact(5);
    node.publish();
    let mut late = node.watch(all(), 3);
    assert_eq!(late.next().await, Event::Compacted { next: 3, oldest: 5 });
    // It was never in the ring, as it was compacted together with its coming.
    assert_eq!(stuck.next().await, Event::Compacted { next: 1, oldest: 5 });
    let mut watcher = node.watch(all(), 5);
    assert_eq!(told(&mut watcher, 10).await, expected(5..=10));
}

/// As when a snapshot of another node is installed.
#[tokio::test(start_paused = true)]
async fn after_the_state_jumped_a_watcher_reads_on_or_is_told_that_it_can_not() {
    for compacted in [None, Some(2), Some(70_000)] {
        let mut node = Node::new();
        node.put("k");
        node.publish();
        let mut watcher = node.watch(all(), 1);
        assert_eq!(told(&mut watcher, 1).await, expected([1]));
        for _ in 0..80_000 {
            node.put("k");
        }
        compacted.into_iter().for_each(|revision| node.compact(revision));
        node.publish();
        match compacted {
            Some(oldest) if oldest > 2 => {
                assert!(told(&mut watcher, 80_001).await.ends_with("Compacted { next: 2, oldest: 70000 }"));
            }
            _ => assert_eq!(told(&mut watcher, 80_001).await, expected(2..=80_001)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_watcher_is_told_of_the_end() {
    let node = Node::new();
    let mut watcher = node.watch(all(), 1);
    assert_eq!(watcher.next().await, Event::Progress(0));
    let waiting = tokio::spawn(async move { watcher.next().await });
    yield_now().await;
    node.hub.end(End::Removed("why".into()));
    assert_eq!(waiting.await.unwrap(), Event::End(End::Removed("why".into())));
    assert_eq!(node.watch(all(), 1).next().await, Event::End(End::Removed("why".into())));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_when_the_last_watcher_goes_and_the_next_one_misses_nothing() {
    let mut node = Node::new();
    let mut watcher = node.watch(all(), 1);
    node.put("k");
    node.publish();
    assert_eq!(told(&mut watcher, 1).await, expected([1]));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.hub.counts().watchers, 1);
    assert!(node.hub.watchers().filled);
    drop(watcher);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.hub.counts(), Counts::default());
    assert!(!node.hub.watchers().filled);
    node.put("k");
    node.publish();
    let mut watcher = node.watch(all(), 2);
    assert_eq!(told(&mut watcher, 2).await, expected([2]));
    node.put("k");
    node.publish();
    assert_eq!(told(&mut watcher, 3).await, expected([3]));
}
