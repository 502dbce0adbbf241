//! A node whose state is damaged under it says so, and nothing else any more.

use base::{Incarnation, Position};
use bytes::Bytes;
use kv::{Operation, Store};
use node::membership::Member;
use node::{Effect, Event, Node, Outcome, Request, Settings, Ticket};
use storage::engine::{Batch, Engine, Key};
use storage::log::RecoveredGroup;

/// The only voter of its cluster, with something in the place of the key k that no store has written.
fn node() -> Node {
    let founder = Member { name: "a".into(), address: "a:1".into(), incarnation: Incarnation(1) };
    let store = node::bootstrap(founder);
    let start = store.applied();
    let (mut engine, note) = store.apart().unwrap();
    let mut batch = Batch::new();
    batch.put(Key::new(b"\x01k"), Bytes::from_static(b"damage"));
    engine.write(start.index, batch).unwrap();
    let store = Store::open(engine, note).unwrap();
    assert_eq!(start, Position { index: 1, term: 1 });
    let log = RecoveredGroup { start, ..RecoveredGroup::default() };
    Node::new(Settings { node: 1, ..Settings::default() }, store, Vec::new(), Some(log)).unwrap()
}

fn put(node: &mut Node, ticket: Ticket, key: &'static str) {
    let operations = vec![Operation::Put { key: key.into(), value: "v".into() }];
    let request = Request::Write { operations, idempotency: None };
    node.handle(Event::Request { ticket, limit_ticks: 100, request });
}

/// One turn after another, each log write done at once, until nothing is left to do. What each turn asked for.
fn run(node: &mut Node) -> Vec<Vec<Effect>> {
    let mut turns = Vec::new();
    loop {
        let effects = node.turn(0);
        if effects.is_empty() {
            return turns;
        }
        for effect in &effects {
            if let Effect::WriteLog { id, .. } = effect {
                node.handle(Event::LogWritten { id: *id });
            }
        }
        turns.push(effects);
    }
}

fn replies(turns: &[Vec<Effect>]) -> Vec<Ticket> {
    let reply = |effect: &Effect| match effect {
        Effect::Reply { ticket, outcome: Outcome::Written { .. } } => Some(*ticket),
        _ => None,
    };
    turns.iter().flatten().filter_map(reply).collect()
}

#[test]
fn damage_that_an_entry_meets_ends_the_node() {
    let mut node = node();
    put(&mut node, 1, "fine");
    assert_eq!(replies(&run(&mut node)), [1]);
    // Both are applied in one turn, and the first of them is fine.
    put(&mut node, 2, "fine");
    put(&mut node, 3, "k");
    let mut turns = run(&mut node);
    let last = turns.pop().unwrap();
    let [Effect::Failed { reason }] = &last[..] else { panic!("{} effects", last.len()) };
    assert!(reason.contains("row \\x01k is damaged"), "{reason}");
    assert_eq!(replies(&turns), [0; 0], "as if it had died before that turn");

    put(&mut node, 4, "fine");
    node.handle(Event::Tick { unix_ms: 1 });
    node.handle(Event::Drain);
    assert!(node.turn(0).is_empty());
}
