//! What a cluster does when its disks can't keep up with what is written: the memory for writes has a bound. Flushes are
//! held up, and let go again.

use crate::world::World;
use kv::{Action, Operation, Step, Transaction};
use node::{Failure, Outcome, Request};
use storage::engine::disk::DiskOptions;

const ALL: [&str; 3] = ["a", "b", "c"];
const VALUE_BYTES: usize = 1_000;
/// Above the bound by no more than what was under way: a few values.
const OVERSHOOT_BYTES: usize = 8 * VALUE_BYTES;

/// Three nodes with room for some forty values.
fn cluster() -> World {
    let tables = DiskOptions {
        memtable_bytes: 8 << 10,
        block_bytes: 1 << 10,
        table_bytes: 1 << 20,
        ..DiskOptions::within(64 << 10)
    };
    crate::grown(World::with_tables("a", tables), &ALL)
}

fn put(n: u64) -> Request {
    let operations = vec![Operation::Put { key: format!("k{n}").into(), value: vec![b'v'; VALUE_BYTES].into() }];
    Request::Write { operations, idempotency: None }
}

fn percent_full(world: &World, name: &str) -> usize {
    let fill = world.fill(name);
    assert!(fill.used_bytes <= fill.bound_bytes + OVERSHOOT_BYTES, "{name}: {fill:?}");
    fill.used_bytes * 100 / fill.bound_bytes
}

fn is_written(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Written { .. }))
}

fn is_refused(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Failed(Failure::Overloaded(text))) if text.contains("nothing was changed"))
}

#[test]
fn when_no_flush_ends_writes_become_slow_and_are_refused_until_one_does() {
    let mut world = cluster();
    let leader = world.leader();
    ALL.into_iter().for_each(|name| world.hold_upkeep(name));
    let mut keys = 0;
    let mut send = |world: &mut World, name: &str| {
        keys += 1;
        world.send(name, put(keys))
    };
    // As many a tick as come.
    while percent_full(&world, &leader) < 80 {
        let ticket = send(&mut world, &leader);
        assert!(is_written(world.answer(ticket)), "{:?}", world.fill(&leader));
    }
    // The rest of the way one a tick.
    let mut last = 0;
    while percent_full(&world, &leader) < 100 {
        world.tick();
        let (first, second) = (send(&mut world, &leader), send(&mut world, &leader));
        assert!(is_written(world.answer(first)), "{:?}", world.fill(&leader));
        if percent_full(&world, &leader) >= 100 {
            // There is no room left for the other.
            assert!(is_refused(world.answer(second)), "{:?}", world.answer(second));
            last = first;
            break;
        }
        assert!(world.answer(second).is_none(), "{:?}", world.fill(&leader));
        world.tick();
        assert!(is_written(world.answer(second)) || percent_full(&world, &leader) >= 100);
        last = second;
    }
    let (revision, logged) = (world.view(&leader).revision(), world.logged(&leader));
    for name in ALL {
        let ticket = send(&mut world, name);
        assert!(is_refused(world.answer(ticket)), "{name}: {:?}", world.answer(ticket));
        let step = Step::Put { key: "t".into(), value: "v".into(), lease: 0, previous: false };
        let transaction = Action::Transaction(Transaction { success: vec![step], ..Transaction::default() });
        let ticket = world.send(name, Request::Act { action: transaction, idempotency: None });
        assert!(is_refused(world.answer(ticket)), "{name}: {:?}", world.answer(ticket));
    }
    world.run(20);
    assert_eq!((world.view(&leader).revision(), world.logged(&leader)), (revision, logged), "nothing was changed");
    for name in ALL {
        assert_eq!(world.read(name, "k1").map(|value| value.len()), Some(VALUE_BYTES), "{name} reads on");
    }

    ALL.into_iter().for_each(|name| world.go_on_with_upkeep(name));
    world.tick();
    assert!(is_written(world.answer(last)), "what was accepted before goes on");
    for name in ALL {
        assert!(percent_full(&world, name) < 80, "{name}: {:?}", world.fill(name));
        let ticket = send(&mut world, name);
        world.tick();
        assert!(is_written(world.answer(ticket)), "{name}: {:?}", world.answer(ticket));
    }
    world.run(20);
    assert_eq!(world.leader(), leader, "nobody had to be elected");
    world.assert_equal_states();
}

#[test]
fn a_follower_that_is_full_lets_appends_fall_and_catches_up_later() {
    let mut world = cluster();
    let leader = world.leader();
    let [full, other] = ["a", "b", "c"].into_iter().filter(|name| *name != leader).collect::<Vec<_>>()[..] else {
        panic!("two follow")
    };
    world.hold_upkeep(full);
    for n in 0..200 {
        let ticket = world.send(&leader, put(n));
        world.tick();
        assert!(is_written(world.answer(ticket)), "a majority goes on");
        percent_full(&world, full);
    }
    assert!(percent_full(&world, full) >= 100);
    let ticket = world.send(full, put(0));
    assert!(is_refused(world.answer(ticket)), "{:?}", world.answer(ticket));
    let behind = world.applied(&leader) - world.applied(full);
    assert!(behind > 100, "{behind} entries behind");
    assert_eq!(world.applied(other), world.applied(&leader));

    world.go_on_with_upkeep(full);
    world.run(20);
    assert_eq!(world.snapshots_installed(full), 1, "none but the first, when it joined");
    assert_eq!(world.applied(full), world.applied(&leader));
    assert_eq!(world.leader(), leader, "nobody had to be elected");
    world.assert_equal_states();
}

#[test]
fn a_leader_that_is_full_proposes_nothing_and_what_followers_sent_it_comes_again() {
    let mut world = cluster();
    let leader = world.leader();
    let follower = ALL.into_iter().find(|name| *name != leader).expect("two follow");
    world.hold_upkeep(&leader);
    let mut n = 0;
    while percent_full(&world, &leader) < 100 {
        n += 1;
        let ticket = world.send(&leader, put(n));
        world.tick();
        assert!(is_written(world.answer(ticket)));
    }
    let logged = world.logged(&leader);
    let ticket = world.send(follower, put(0));
    world.run(20);
    assert_eq!((world.answer(ticket), world.logged(&leader)), (None, logged));

    world.go_on_with_upkeep(&leader);
    assert!(world.run_until(40, |world| world.answer(ticket).is_some()));
    assert!(is_written(world.answer(ticket)), "{:?}", world.answer(ticket));
    world.run(20);
    world.assert_equal_states();
}
