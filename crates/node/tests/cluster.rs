//! The node's rules on a small cluster in a perfect world: no delay, no loss, a disk that is done at once.
//!
//! What needs time, order or faults is the simulator's.

mod memory_bound;
mod world;

use kv::{Action, Operation, Step, Transaction};
use node::{Failure, Notice, Outcome, ReadLevel, Request, Role};
use storage::engine::disk::DiskOptions;
use world::World;

fn put(key: &str, value: &str) -> Request {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Request::Write { operations: vec![Operation::Put { key, value }], idempotency: None }
}

fn join(name: &str) -> Request {
    Request::Join { name: name.into(), address: format!("{name}:1"), learner: false }
}

fn join_as_learner(name: &str) -> Request {
    Request::Join { name: name.into(), address: format!("{name}:1"), learner: true }
}

fn promote(name: &str) -> Request {
    Request::Promote { name: name.into() }
}

fn act(action: Action) -> Request {
    Request::Act { action, idempotency: None }
}

/// Puts a key that ends with the lease.
fn put_leased(key: &str, lease: u64) -> Request {
    let put = Step::Put { key: key.to_owned().into(), value: "v".into(), lease, previous: false };
    act(Action::Transaction(Transaction { success: vec![put], ..Transaction::default() }))
}

fn cluster_of(names: &[&str]) -> World {
    grown(World::bootstrap(names[0]), names)
}

/// Three nodes that keep their state in tables.
fn cluster_with_tables() -> World {
    grown(World::with_tables("a", DiskOptions::within(1 << 20)), &["a", "b", "c"])
}

/// The first is there.
fn grown(mut world: World, names: &[&str]) -> World {
    for name in &names[1..] {
        world.start_empty(name);
        assert_eq!(world.ask(names[0], join(name)), Outcome::Done, "{name} joins");
    }
    world
}

#[test]
fn a_single_node_leads_at_once_and_serves() {
    let mut world = World::bootstrap("a");
    assert!(matches!(world.ask("a", put("k", "v")), Outcome::Written { revision: 1, changed: 1 }));
    assert_eq!(world.read("a", "k"), Some("v".into()));
}

#[test]
fn three_nodes_write_and_read_on_any() {
    let mut world = cluster_of(&["a", "b", "c"]);
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        assert!(
            matches!(world.ask(name, put("k", name)), Outcome::Written { revision, .. } if revision == n as u64 + 1)
        );
        for reader in ["a", "b", "c"] {
            assert_eq!(world.read(reader, "k"), Some(name.into()));
        }
    }
    world.assert_equal_states();
}

#[test]
fn the_leader_dies_and_another_takes_over_and_the_old_one_catches_up() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.ask("a", put("k", "1"));
    let leader = world.leader();
    world.kill(&leader);
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|n| *n != leader).collect();
    assert!(matches!(world.ask(others[0], put("k", "2")), Outcome::Written { .. }));
    assert_eq!(world.read(others[1], "k"), Some("2".into()));
    world.restart(&leader);
    assert_eq!(world.read(&leader, "k"), Some("2".into()));
    assert!(matches!(world.ask(&leader, put("k", "3")), Outcome::Written { .. }), "its new session writes");
    world.assert_equal_states();
}

/// The connection to a dead leader breaks, and its followers need not wait for their election timeout.
#[test]
fn a_broken_connection_to_the_leader_starts_an_election_early() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let leader = world.leader();
    world.kill(&leader);
    let before = world.ticks;
    while world.try_leader().is_none() {
        world.tick();
    }
    assert!(world.ticks - before <= 5, "{} ticks", world.ticks - before);
}

/// Nobody is left who led, so nobody waits for an election timeout to pass without a word of him.
#[test]
fn when_all_start_again_a_leader_is_elected_as_soon_as_they_are_connected() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.ask("a", put("k", "1"));
    for _ in 0..5 {
        let term = world.status("a").term;
        ["a", "b", "c"].into_iter().for_each(|name| world.kill(name));
        ["a", "b", "c"].into_iter().for_each(|name| world.restart(name));
        assert!(world.run_until(5, |w| w.try_leader().is_some()));
        assert_eq!(world.status("a").term, term + 1, "the vote was not split");
        assert_eq!(world.read("b", "k"), Some("1".into()));
    }
    world.assert_equal_states();
}

#[test]
fn who_starts_without_a_majority_of_the_voters_waits() {
    let mut world = cluster_of(&["a", "b"]);
    world.start_empty("l");
    assert_eq!(world.ask("a", join_as_learner("l")), Outcome::Done);
    let all = ["a", "b", "l"];
    all.into_iter().for_each(|name| world.kill(name));
    world.restart("a");
    // A learner is no voter.
    world.restart("l");
    world.run(8);
    assert_eq!(world.status("a").role, Role::Follower);
    // The other voter is gone again before it was time to stand.
    world.restart("b");
    world.kill("b");
    world.run(3);
    assert_eq!(world.status("a").role, Role::Follower);
    world.restart("b");
    assert!(world.run_until(5, |w| w.try_leader().is_some()));
}

/// The two that are left elect a leader, though the one whose turn it is first does not come.
#[test]
fn when_most_start_again_a_leader_is_elected_soon() {
    for gone in ["a", "b", "c"] {
        let mut world = cluster_of(&["a", "b", "c"]);
        world.ask("a", put("k", "1"));
        ["a", "b", "c"].into_iter().for_each(|name| world.kill(name));
        ["a", "b", "c"].into_iter().filter(|name| *name != gone).for_each(|name| world.restart(name));
        assert!(world.run_until(5, |w| w.try_leader().is_some()), "without {gone}");
    }
}

#[test]
fn a_restart_under_a_living_leader_begins_no_election() {
    for lost in [None, Some("heartbeat")] {
        let mut world = cluster_of(&["a", "b", "c"]);
        world.ask("a", put("k", "1"));
        let (leader, term) = (world.leader(), world.status("a").term);
        for name in ["a", "b", "c"].into_iter().filter(|name| *name != leader) {
            // Where it hears nothing of its leader it stands, and those who do hear it do not answer.
            if let Some(kind) = lost {
                world.lose_to(name, kind);
            }
            world.kill(name);
            world.restart(name);
            assert_eq!(world.status(name).leader.is_some(), lost.is_none(), "it is told at once");
            world.run(8);
            assert_eq!(world.status(name).role, if lost.is_none() { Role::Follower } else { Role::Candidate });
            world.lose_nothing();
            world.run(8);
            for name in ["a", "b", "c"] {
                let status = world.status(name);
                assert_eq!((status.term, status.leader), (term, world.status(&leader).leader), "{name}");
            }
        }
    }
}

#[test]
fn without_a_majority_a_write_times_out_and_the_error_says_what_is_known() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let leader = world.leader();
    for name in ["a", "b", "c"].into_iter().filter(|n| *n != leader) {
        world.kill(name);
    }
    assert!(matches!(world.ask(&leader, put("k", "1")), Outcome::Failed(Failure::Unknown(_))));
    // It has stepped down by now, so the next one is never sent.
    assert!(matches!(world.ask(&leader, put("k", "2")), Outcome::Failed(Failure::Unavailable(_))));
    assert!(matches!(
        world.ask(&leader, Request::Read(ReadLevel::Linearizable)),
        Outcome::Failed(Failure::Unavailable(_))
    ));
}

#[test]
fn a_weak_read_takes_the_leaders_word_and_asks_no_quorum() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.lose("heartbeat-response");
    world.ask("b", put("k", "1"));
    for name in ["a", "b"] {
        let linearizable = world.send(name, Request::Read(ReadLevel::Linearizable));
        let weak = world.send(name, Request::Read(ReadLevel::Weak));
        assert_eq!(world.answer(weak), Some(Outcome::Readable), "on {name}");
        assert_eq!(world.answer(linearizable), None, "on {name}, with a majority that is not heard");
        assert_eq!(world.peek(name, "k"), Some("1".into()));
    }
    // A leader that was deposed says nothing, and a follower has nobody to ask.
    world.kill("b");
    world.kill("c");
    let without_a_leader = world.ask("a", Request::Read(ReadLevel::Linearizable));
    assert!(matches!(without_a_leader, Outcome::Failed(Failure::Unavailable(_))), "{without_a_leader:?}");
    let weak = world.ask("a", Request::Read(ReadLevel::Weak));
    assert!(matches!(weak, Outcome::Failed(Failure::Unavailable(_))), "{weak:?}");
}

/// It does not know yet what its predecessor committed, so its word is worth nothing (etcd #7331, for weak reads too).
#[test]
fn a_new_leader_without_a_commit_in_its_term_serves_no_weak_read() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.kill("a");
    world.lose("append-response");
    assert!(world.run_until(50, |w| w.try_leader().is_some()));
    let asked: Vec<u64> = ["b", "c"].map(|name| world.send(name, Request::Read(ReadLevel::Weak))).into();
    assert!(asked.iter().all(|&ticket| world.answer(ticket).is_none()));
    world.lose_nothing();
    world.run(10);
    assert!(asked.iter().all(|&ticket| world.answer(ticket) == Some(Outcome::Readable)));
}

#[test]
fn a_strong_read_is_an_entry_of_the_log() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.ask("c", put("k", "1"));
    for name in ["a", "b"] {
        let before = world.applied(name);
        assert_eq!(world.ask(name, Request::Read(ReadLevel::Linearizable)), Outcome::Readable);
        assert_eq!(world.ask(name, Request::Read(ReadLevel::Weak)), Outcome::Readable);
        assert_eq!(world.applied(name), before);
        assert_eq!(world.ask(name, Request::Read(ReadLevel::Strong)), Outcome::Readable);
        assert_eq!(world.applied(name), before + 1, "on {name}");
        assert_eq!(world.peek(name, "k"), Some("1".into()));
    }
    assert!(matches!(world.ask("a", put("k", "2")), Outcome::Written { revision: 2, .. }), "they took no revision");
    world.assert_equal_states();
}

#[test]
fn a_strong_read_that_fails_changed_nothing() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.kill("b");
    world.kill("c");
    for what in ["sent", "never sent"] {
        match world.ask("a", Request::Read(ReadLevel::Strong)) {
            Outcome::Failed(Failure::Unavailable(text)) => assert!(text.contains("nothing was changed"), "{text}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_write_carries_the_time_of_the_node_that_was_asked() {
    let mut world = cluster_of(&["a", "b"]);
    for (name, clock) in [("a", 97_000), ("b", 98_000), ("a", 97_000)] {
        let ticks = world.ticks;
        assert!(matches!(world.ask(name, put("k", name)), Outcome::Written { .. }));
        world.run(5);
        assert_eq!([world.shown("a").0, world.shown("b").0], [clock + ticks; 2]);
    }
    world.kill("b");
    world.restart("b");
    world.run(50);
    assert_eq!(world.shown("b"), world.shown("a"), "it is in the log");
}

/// So that it can tell whether what it shows is all there is, though it is in contact with its leader.
#[test]
fn a_follower_that_is_behind_knows_it() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.lose_to("c", "append");
    world.ask("a", put("k", "1"));
    world.run(5);
    let behind = |world: &World| {
        let ((_, all, committed), (_, applied, known)) = (world.shown("a"), world.shown("c"));
        [all, committed] == [known, known] && applied < known
    };
    assert!(behind(&world), "{:?}, {:?}", world.shown("a"), world.shown("c"));

    // What it learned of that in its last life is forgotten, and learned again with the first heartbeat.
    world.kill("c");
    world.restart("c");
    assert!(!behind(&world), "{:?}", world.shown("c"));
    world.run(5);
    assert!(behind(&world), "{:?}, {:?}", world.shown("a"), world.shown("c"));

    world.lose_nothing();
    world.run(50);
    assert_eq!(world.shown("c"), world.shown("a"));
}

/// Two nodes, and one is killed: whichever stays tells why nothing works, once, and that it works again, once.
#[test]
fn a_lost_majority_is_told_once_and_so_is_its_return() {
    let told = |world: &mut World, name| -> Vec<String> {
        let text = |notice| match notice {
            Notice::Trouble(text) | Notice::Mended(text) => Some(text),
            _ => None,
        };
        world.take_notices(name).into_iter().filter_map(text).collect()
    };
    for (victim, stays, words) in [
        (
            "b",
            "a",
            "this node leads no longer, for no majority of the voters answers it: it hears 1 of 2 voters, itself \
             included, and nothing of b at b:1; until a majority is back, writes and linearizable reads wait, and fail \
             at their time limit",
        ),
        (
            "a",
            "b",
            "no leader is known for 2.4 s: this node hears 1 of 2 voters, itself included, and nothing of a at a:1; \
             until a majority is back, writes and linearizable reads wait, and fail at their time limit",
        ),
    ] {
        let mut world = cluster_of(&["a", "b"]);
        assert_eq!(world.leader(), "a");
        world.run(10);
        assert_eq!(told(&mut world, stays), [] as [&str; 0]);
        world.kill(victim);
        world.run(200);
        assert_eq!(told(&mut world, stays), [words]);
        world.restart(victim);
        world.run(200);
        assert_eq!(world.take_notices(stays).iter().filter(|n| matches!(n, Notice::Mended(_))).count(), 1);
        assert_eq!(told(&mut world, victim), [] as [&str; 0]);
    }
}

#[test]
fn voters_that_are_heard_are_not_called_silent() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.take_notices("b");
    world.kill("a");
    world.lose("vote-response");
    world.run(60);
    let trouble = world.take_notices("b").into_iter().find(|notice| matches!(notice, Notice::Trouble(_)));
    let words = "no leader was elected for 2.4 s, though this node hears 2 of 3 voters, itself included, and nothing of \
                 a at a:1; until one is, writes and linearizable reads wait, and fail at their time limit";
    assert_eq!(trouble, Some(Notice::Trouble(words.into())));
}

/// A new node hears of its leader before it learns anybody's name.
#[test]
fn every_node_tells_who_leads_once_it_knows_the_name() {
    let mut world = cluster_of(&["a", "b"]);
    for name in ["a", "b"] {
        let leads = |notice| match notice {
            Notice::LeaderChanged { leader, me, .. } => Some((leader, me)),
            _ => None,
        };
        let told: Vec<(String, bool)> = world.take_notices(name).into_iter().filter_map(leads).collect();
        assert_eq!(told, [("a".to_owned(), name == "a")], "{name}");
    }
}

#[test]
fn joining_again_changes_nothing_and_a_dead_address_is_refused() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let before = world.status("a").configuration.clone();
    assert_eq!(world.ask("b", join("c")), Outcome::Done);
    assert!(matches!(world.ask("b", join("nobody")), Outcome::Failed(Failure::Unavailable(_))));
    assert_eq!(world.status("a").configuration, before);
}

/// Once committed, it would end every replica, and each of them again whenever it starts.
#[test]
fn a_name_or_address_that_no_member_can_have_is_refused() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let before = world.status("a").configuration.clone();
    let long = "x".repeat(1_100_000);
    for (name, address) in [(&long[..], "c:1"), ("", "c:1"), ("c\n", "c:1"), ("c", &long)] {
        for asked in ["a", "b"] {
            match world.ask(asked, Request::Join { name: name.into(), address: address.into(), learner: false }) {
                Outcome::Failed(Failure::Invalid(text)) => assert!(text.contains("nothing was changed"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(world.status("a").configuration, before);
    assert!(matches!(world.ask("b", put("k", "v")), Outcome::Written { .. }));
}

#[test]
fn a_wiped_node_comes_back_as_another_member() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.ask("a", put("k", "1"));
    let victim = ["a", "b", "c"].into_iter().find(|n| *n != world.leader()).unwrap();
    let old = world.status(victim).node;
    world.kill(victim);
    world.start_empty(victim);
    assert_eq!(world.ask(&world.leader(), join(victim)), Outcome::Done);
    let status = world.status(&world.leader());
    assert_eq!(status.configuration.voters.voters.len(), 3);
    assert!(status.configuration.was_removed(old) && status.configuration.by_name(victim).unwrap().0 == 4);
    assert_eq!(world.read(victim, "k"), Some("1".into()));
}

#[test]
fn a_removed_node_stops_serving_and_says_why() {
    let mut world = cluster_of(&["a", "b", "c"]);
    for victim in ["a", "b"] {
        assert_eq!(world.ask("c", Request::Remove { name: victim.into() }), Outcome::Done, "also the leader itself");
        world.run(40);
        assert!(matches!(
            world.ask(victim, Request::Read(ReadLevel::Linearizable)),
            Outcome::Failed(Failure::Removed(_))
        ));
        assert!(matches!(world.ask("c", put("k", victim)), Outcome::Written { .. }));
    }
    let last = world.ask("c", Request::Remove { name: "c".into() });
    assert!(matches!(last, Outcome::Failed(Failure::Invalid(_))), "{last:?}");
}

/// Names of voters, names of learners.
fn roles(world: &World, asked: &str) -> (Vec<String>, Vec<String>) {
    let configuration = world.status(asked).configuration.clone();
    let names = |ids: &[u64]| ids.iter().map(|id| configuration.members[id].name.clone()).collect();
    (names(&configuration.voters.voters), names(&configuration.voters.learners))
}

fn assert_roles(world: &World, voters: &[&str], learners: &[&str]) {
    let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(roles(world, &world.leader()), (names(voters), names(learners)));
}

#[test]
fn a_learner_stays_one_whoever_leads_and_however_long_it_is_away() {
    let mut world = cluster_of(&["a", "b"]);
    world.start_empty("l");
    assert_eq!(world.ask("b", join_as_learner("l")), Outcome::Done);
    assert_roles(&world, &["a", "b"], &["l"]);
    assert_eq!(world.status("l").role, Role::Learner);
    assert!(matches!(world.ask("l", put("k", "1")), Outcome::Written { .. }));

    // Away for longer than a learner may be that is on its way to vote, over a change of leader, and with all restarted.
    world.kill("l");
    assert_eq!(world.ask("a", Request::Transfer { name: Some("b".into()) }), Outcome::Done);
    world.run(600);
    for name in ["a", "b"] {
        world.kill(name);
    }
    for name in ["a", "b"] {
        world.restart(name);
    }
    world.run(600);
    assert_roles(&world, &["a", "b"], &["l"]);
    world.ask("a", put("k", "2"));
    world.restart("l");
    world.run(600);
    assert_roles(&world, &["a", "b"], &["l"]);
    assert_eq!(world.read("l", "k"), Some("2".into()));
    assert_eq!(world.ask("l", join_as_learner("l")), Outcome::Done, "as it is");
    assert_roles(&world, &["a", "b"], &["l"]);
    world.assert_equal_states();
}

#[test]
fn a_learner_is_in_no_quorum_and_does_not_lead() {
    let mut world = cluster_of(&["a", "b"]);
    for name in ["l", "m"] {
        world.start_empty(name);
        assert_eq!(world.ask("a", join_as_learner(name)), Outcome::Done);
    }
    let refused = world.ask("a", Request::Transfer { name: Some("l".into()) });
    assert!(matches!(refused, Outcome::Failed(Failure::Invalid(_))), "{refused:?}");

    world.kill("l");
    world.kill("m");
    assert!(matches!(world.ask("a", put("k", "both voters")), Outcome::Written { .. }));
    world.restart("l");
    world.restart("m");
    world.run(100);
    world.kill("a");
    world.kill("b");
    world.run(600);
    assert_eq!([world.status("l").role, world.status("m").role], [Role::Learner; 2]);
    world.restart("b");
    world.run(200);
    let unknown = world.ask("b", put("k", "one voter and two learners"));
    assert!(matches!(unknown, Outcome::Failed(_)), "{unknown:?}");
    world.restart("a");
    world.run(100);

    // It may go whatever else is down.
    let leader = world.leader();
    world.kill("m");
    for name in ["l", "m"] {
        assert_eq!(world.ask(&leader, Request::Remove { name: name.into() }), Outcome::Done);
    }
    assert_roles(&world, &["a", "b"], &[]);
}

#[test]
fn a_promoted_learner_counts() {
    for ask in [promote, join] {
        let mut world = cluster_of(&["a", "b"]);
        world.start_empty("l");
        assert_eq!(world.ask("a", join_as_learner("l")), Outcome::Done);
        world.run(300);
        assert_eq!(world.ask("b", ask("l")), Outcome::Done);
        assert_roles(&world, &["a", "b", "l"], &[]);
        assert_eq!(world.ask("l", promote("l")), Outcome::Done, "it votes already");
        assert!(world.status("a").configuration.staying.is_empty());
        world.kill("a");
        assert!(matches!(world.ask("l", put("k", "two of three")), Outcome::Written { .. }));
        world.assert_equal_states();
    }
}

/// It would be a voter that is down.
#[test]
fn a_learner_that_is_away_is_not_promoted_and_stays_one() {
    let mut world = cluster_of(&["a", "b"]);
    world.start_empty("l");
    assert_eq!(world.ask("a", join_as_learner("l")), Outcome::Done);
    world.kill("l");
    world.run(50);
    for asked in ["a", "b"] {
        match world.ask(asked, promote("l")) {
            Outcome::Failed(Failure::Unavailable(text)) => assert!(text.contains("nothing is heard of l"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_roles(&world, &["a", "b"], &["l"]);
    }
    world.restart("l");
    world.run(300);
    assert_roles(&world, &["a", "b"], &["l"]);
    assert_eq!(world.ask("b", promote("l")), Outcome::Done);
    assert_roles(&world, &["a", "b", "l"], &[]);

    let nobody = world.ask("b", promote("nobody"));
    assert!(matches!(nobody, Outcome::Failed(Failure::NotFound(_))), "{nobody:?}");
}

#[test]
fn a_learner_takes_the_place_of_a_learner_of_its_name_but_of_no_voter() {
    let mut world = cluster_of(&["a", "b"]);
    world.start_empty("l");
    assert_eq!(world.ask("a", join_as_learner("l")), Outcome::Done);
    for name in ["l", "b"] {
        world.kill(name);
        world.run(10);
    }
    world.restart("b");
    world.start_empty("l");
    assert_eq!(world.ask("b", join_as_learner("l")), Outcome::Done);
    assert_roles(&world, &["a", "b"], &["l"]);
    assert_eq!(world.status("a").configuration.by_name("l").unwrap().0, 4, "another life, another member");

    let votes = world.ask("a", join_as_learner("b"));
    assert!(matches!(&votes, Outcome::Failed(Failure::Invalid(text)) if text.contains("votes already")), "{votes:?}");
    let address = "l:1".to_owned();
    let taken = world.ask("a", Request::Join { name: "b".into(), address, learner: true });
    assert!(matches!(&taken, Outcome::Failed(Failure::Invalid(text)) if text.contains("has that name")), "{taken:?}");
    assert_roles(&world, &["a", "b"], &["l"]);
}

/// Its disk hangs, so it does not catch up, and meanwhile somebody wants it to stay a learner.
#[test]
fn a_learner_on_its_way_can_be_asked_to_stay() {
    let mut world = cluster_of(&["a", "b"]);
    world.start_empty("l");
    world.hang_disk("l");
    let joining = world.ask("a", join("l"));
    assert!(matches!(joining, Outcome::Failed(Failure::Unavailable(_))), "{joining:?}");
    world.run(20);
    assert_roles(&world, &["a", "b"], &["l"]);
    assert!(world.status("a").configuration.staying.is_empty());
    let staying = world.send("b", join_as_learner("l"));
    world.run(50);
    assert_eq!(world.answer(staying), None, "it has not caught up");
    assert!(world.status("a").configuration.stays(3));
    world.kill("l");
    world.mend_disk("l");
    world.restart("l");
    world.run(100);
    assert_eq!(world.answer(staying), Some(Outcome::Done));
    world.run(600);
    assert_roles(&world, &["a", "b"], &["l"]);
}

/// A leader takes no command from another node that is larger than a command may be.
#[test]
fn a_write_that_is_too_large_is_refused_at_once() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let value = bytes::Bytes::from(vec![0; kv::MAX_VALUE_BYTES]);
    let puts = ["x", "y", "z"].map(|key| Operation::Put { key: key.into(), value: value.clone() });
    for asked in ["a", "b"] {
        let before = world.shown(asked);
        let write = world.send(asked, Request::Write { operations: puts.to_vec(), idempotency: None });
        match world.answer(write) {
            Some(Outcome::Failed(Failure::Invalid(text))) => assert!(text.contains("bytes in all"), "{text}"),
            other => panic!("asked of {asked}: {other:?}"),
        }
        assert_eq!(world.shown(asked), before);
    }
}

/// Before anything is proposed, and with what is wrong.
#[test]
fn a_transaction_that_could_change_a_key_twice_is_refused_at_once() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let put =
        |value: &str| kv::Step::Put { key: "k".into(), value: value.to_string().into(), lease: 0, previous: false };
    let transaction = kv::Transaction { success: vec![put("1"), put("2")], ..kv::Transaction::default() };
    let before = world.shown("b");
    match world.ask("b", Request::Act { action: kv::Action::Transaction(transaction), idempotency: None }) {
        Outcome::Failed(Failure::Invalid(text)) => assert!(text.contains("change a key twice"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.shown("b"), before);
}

fn remove(name: &str) -> Request {
    Request::Remove { name: name.into() }
}

/// All of them have the removal in their logs, and it is committed once they are heard again.
#[test]
fn a_removal_that_was_proposed_may_happen_after_its_time() {
    for asked in ["a", "b"] {
        let mut world = cluster_of(&["a", "b", "c"]);
        assert_eq!(world.leader(), "a");
        world.lose_to("a", "append-response");
        let removal = world.send(asked, remove("c"));
        world.kill("c");
        world.lose_to("a", "heartbeat-response");
        assert!(world.run_until(50, |w| w.status("a").role != Role::Leader));
        let other = if asked == "a" { "b" } else { "a" };
        world.kill(other);
        world.run(300);
        let answer = world.answer(removal);
        assert!(matches!(answer, Some(Outcome::Failed(Failure::Unknown(_)))), "asked of {asked}: {answer:?}");

        world.lose_nothing();
        world.restart(other);
        world.run(100);
        assert_roles(&world, &["a", "b"], &[]);
    }
}

#[test]
fn a_member_whose_addition_was_proposed_may_be_there_after_its_time() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.start_empty("d");
    world.lose_to("a", "append-response");
    let answer = world.ask("a", join_as_learner("d"));
    assert!(matches!(answer, Outcome::Failed(Failure::Unknown(_))), "{answer:?}");
    world.lose_nothing();
    world.run(20);
    assert_roles(&world, &["a", "b", "c"], &["d"]);
}

/// The answer gets lost, so it is asked for again.
#[test]
fn a_removal_is_done_also_when_it_is_asked_for_again() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.lose("admin-reply");
    let removal = world.send("c", remove("b"));
    world.run(5);
    assert_roles(&world, &["a", "c"], &[]);
    assert_eq!(world.answer(removal), None);
    world.lose_nothing();
    world.run(30);
    assert_eq!(world.answer(removal), Some(Outcome::Done));

    let nobody = world.ask("c", remove("b"));
    assert!(matches!(nobody, Outcome::Failed(Failure::Invalid(_))), "{nobody:?}");
}

/// It hears of its removal from others only.
#[test]
fn a_node_that_was_removed_tells_what_became_of_what_it_was_asked() {
    let mut world = cluster_of(&["a", "b", "c", "d"]);
    assert_eq!(world.leader(), "a");
    world.lose("admin-reply");
    let another = world.send("b", remove("c"));
    let itself = world.send("b", remove("b"));
    world.run(60);
    assert_roles(&world, &["a", "d"], &[]);
    assert_eq!(world.answer(itself), Some(Outcome::Done));
    let answer = world.answer(another);
    assert!(matches!(answer, Some(Outcome::Failed(Failure::Unknown(_)))), "{answer:?}");
    let later = world.ask("b", remove("d"));
    assert!(matches!(later, Outcome::Failed(Failure::Removed(_))), "{later:?}");
}

/// Removing what still works before what is dead would end the cluster.
#[test]
fn a_removal_that_would_leave_no_majority_is_refused() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.kill("c");
    world.run(30);
    let before = world.status("a").configuration.clone();
    match world.ask("b", Request::Remove { name: "b".into() }) {
        Outcome::Failed(Failure::Unavailable(text)) => assert!(text.contains("nothing is heard of c at c:1"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.status("a").configuration, before);
    for name in ["c", "b"] {
        assert_eq!(world.ask("a", Request::Remove { name: name.into() }), Outcome::Done);
    }
    assert!(matches!(world.ask("a", put("k", "v")), Outcome::Written { .. }));
}

#[test]
fn leadership_is_handed_over_on_request_and_at_a_drain() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    assert_eq!(world.ask("c", Request::Transfer { name: Some("b".into()) }), Outcome::Done);
    assert_eq!(world.leader(), "b");
    world.drain("b");
    world.run(3);
    assert!(world.drained("b"));
    assert_ne!(world.leader(), "b");
    let refused = world.ask("b", put("k", "v"));
    assert!(matches!(refused, Outcome::Failed(Failure::Unavailable(_))), "{refused:?}");
}

#[test]
fn a_follower_that_was_away_long_gets_a_snapshot() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let away = ["a", "b", "c"].into_iter().find(|n| *n != world.leader()).unwrap();
    world.kill(away);
    let value = "x".repeat(1000);
    for n in 0..300 {
        assert!(matches!(world.ask(&world.leader(), put(&format!("k{n}"), &value)), Outcome::Written { .. }));
    }
    world.restart(away);
    world.run(100);
    assert_eq!(world.read(away, "k299"), Some(value));
    assert!(world.snapshots_installed(away) > 0);
    world.assert_equal_states();
    // And its log starts where the snapshot ends.
    world.kill(away);
    world.restart(away);
    world.run(40);
    world.assert_equal_states();
}

/// With the settings of now. Gives the leader, and another.
fn start_again(world: &mut World) -> (String, &'static str) {
    for name in ["a", "b", "c"] {
        world.kill(name);
        world.restart(name);
    }
    assert!(world.run_until(100, |world| world.try_leader().is_some()));
    let leader = world.leader();
    let other = if leader == "c" { "b" } else { "c" };
    (leader, other)
}

/// All that a follower lacks, in one turn, would hold up everybody else for as long as it takes to read and send it.
#[test]
fn a_follower_that_is_far_behind_is_sent_a_little_at_a_time() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let log = 64 << 20;
    (world.settings.checkpoint_after_bytes, world.settings.log_cache_bytes) = (log, log as usize);
    let (leader, away) = start_again(&mut world);
    world.kill(away);
    for n in 0..30 {
        world.ask(&leader, put(&format!("k{n}"), &"v".repeat(200_000)));
    }
    let installed = world.snapshots_installed(away);
    world.most_appends = 0;
    world.restart(away);
    world.run(100);
    assert_eq!((world.snapshots_installed(away), world.applied(away)), (installed, world.applied(&leader)));
    // Three would be the rest, once it is near.
    assert!((1..=3).contains(&world.most_appends), "{} at once", world.most_appends);
    world.assert_equal_states();
}

fn write_5_kb_each(world: &mut World, leader: &str, count: usize) {
    for n in 0..count {
        world.ask(leader, put(&format!("k{n}"), &"v".repeat(5_000)));
    }
}

/// A leader, a follower that loads a snapshot until [`World::go_on`], and how many it had installed before.
fn one_that_loads(world: &mut World) -> (String, &'static str, usize) {
    let (leader, away) = start_again(world);
    world.kill(away);
    write_5_kb_each(world, &leader, 60);
    let installed = world.snapshots_installed(away);
    world.hold_loading();
    world.restart(away);
    assert!(world.run_until(200, World::is_held));
    (leader, away, installed)
}

/// What was written while a snapshot was on its way is more than a leader keeps otherwise, and goes a little at a time.
#[test]
fn one_snapshot_is_enough_for_a_follower_that_is_far_behind_after_it() {
    let mut world = cluster_of(&["a", "b", "c"]);
    (world.settings.far_behind_bytes, world.settings.log_cache_bytes) = (50_000, 100_000);
    let (leader, away, installed) = one_that_loads(&mut world);
    write_5_kb_each(&mut world, &leader, 60);
    world.lose_to(away, "append");
    world.go_on();
    world.run(2);
    world.lose_nothing();
    assert!(world.run_until(200, |world| world.applied(away) == world.applied(&leader)));
    assert_eq!(world.snapshots_installed(away), installed + 1);
    world.assert_equal_states();
}

/// A receiver that loads for longer than a sender waits is not given up: what was written meanwhile stays for it.
#[test]
fn one_snapshot_is_enough_for_a_follower_that_loads_it_for_long() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.settings.log_cache_bytes = 100_000;
    let (leader, away, installed) = one_that_loads(&mut world);
    for _ in 0..6 {
        write_5_kb_each(&mut world, &leader, 10);
        world.run(70);
    }
    world.go_on();
    assert!(world.run_until(200, |world| world.applied(away) == world.applied(&leader)));
    assert_eq!(world.snapshots_installed(away), installed + 1);
    world.assert_equal_states();
}

/// Whoever a checkpoint was written for is offered it some ticks later. What was written meanwhile was forgotten by then, and
/// the checkpoint of no use.
#[test]
fn one_checkpoint_is_enough_for_a_follower_that_waits_for_it_for_long() {
    let mut world = cluster_with_tables();
    world.settings.log_cache_bytes = 100_000;
    let (leader, away) = start_again(&mut world);
    world.kill(away);
    write_5_kb_each(&mut world, &leader, 60);
    world.hold_writing();
    world.restart(away);
    assert!(world.run_until(200, World::is_held));
    write_5_kb_each(&mut world, &leader, 30);
    let begun = world.checkpoints_begun;
    world.go_on();
    assert!(world.run_until(200, |world| world.applied(away) == world.applied(&leader)));
    assert_eq!(world.checkpoints_begun, begun);
    world.assert_equal_states();
}

/// A full disk was filled with one checkpoint after the other, and had no room for the log.
#[test]
fn a_checkpoint_that_could_not_be_written_is_not_tried_again_at_once() {
    let mut world = cluster_with_tables();
    world.settings.log_cache_bytes = 100_000;
    let (leader, away) = start_again(&mut world);
    world.kill(away);
    write_5_kb_each(&mut world, &leader, 60);
    (world.checkpoints_fail, world.checkpoints_begun) = (true, 0);
    world.restart(away);
    world.run(100);
    assert_eq!(world.checkpoints_begun, 1);
    world.checkpoints_fail = false;
    assert!(world.run_until(400, |world| world.applied(away) == world.applied(&leader)));
    world.assert_equal_states();
}

/// What would wait for the leader's disk in any case waits to be proposed together; not for long, since the followers'
/// disks can commit without it, and not if it is much.
#[test]
fn a_leader_gathers_writes_while_its_disk_works() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let leader = world.leader();
    let follower = if leader == "b" { "c" } else { "b" };
    let before = world.logged(follower);
    world.hang_disk(&leader);
    world.send(&leader, put("k", "1"));
    assert_eq!(world.logged(follower) - before, 1, "nothing was under way: it goes at once");
    world.send(&leader, put("k", "2"));
    assert_eq!(world.logged(follower) - before, 1);
    world.send(&leader, put("k", &"3".repeat(300_000)));
    assert_eq!(world.logged(follower) - before, 3, "it is much");
    world.send(follower, put("k", "4"));
    world.tick();
    assert_eq!(world.logged(follower) - before, 3);
    world.tick();
    assert_eq!(world.logged(follower) - before, 4, "the disk is slow");
}

/// The more is on its way to be committed, the more goes with the next proposal.
#[test]
fn a_leader_gathers_as_much_as_waits_for_a_majority() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let leader = world.leader();
    let follower = if leader == "b" { "c" } else { "b" };
    let before = world.logged(follower);
    world.lose_to(&leader, "append-response");
    let logged: Vec<u64> = (0..10)
        .map(|_| {
            world.send(&leader, put("k", "v"));
            world.logged(follower) - before
        })
        .collect();
    assert_eq!(logged, [1, 2, 2, 4, 4, 4, 4, 8, 8, 8]);
    world.run(3);
    assert_eq!(world.logged(follower) - before, 10, "nothing waits for long");
}

#[test]
fn a_leader_whose_disk_hangs_gives_way() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.hang_disk("a");
    let (first, second) = (world.ask("b", put("k", "1")), world.ask("b", put("k", "2")));
    assert!(matches!(first, Outcome::Written { .. }) && matches!(second, Outcome::Written { .. }));
    assert!(world.run_until(100, |w| w.status("b").leader.is_some() && w.status("b").leader != Some(1)));
    assert!(matches!(world.ask("b", put("k", "3")), Outcome::Written { .. }));
    assert_ne!(world.status("b").role, Role::Candidate);
}

#[test]
fn the_leader_compacts_what_is_old_and_the_next_one_goes_on() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.settings.compact_after_ticks = 200;
    for name in ["c", "b", "a"] {
        world.kill(name);
        world.restart(name);
        world.run(100);
    }
    let leader = world.leader();
    for value in ["1", "2", "3"] {
        world.ask(&leader, put("k", value));
    }
    let (written, entries) = (world.ticks, world.applied(&leader));
    assert!(world.run_until(400, |w| w.view(&leader).compacted() == 3));
    let age = world.ticks - written;
    assert!((200..=230).contains(&age), "after {age} ticks");
    world.run(400);
    assert_eq!(world.applied(&leader), entries + 1, "one entry was enough");

    // Whoever leads next has known all along what is old.
    world.ask(&leader, put("k", "4"));
    let written = world.ticks;
    world.run(150);
    world.kill(&leader);
    let other = ["a", "b", "c"].into_iter().find(|name| *name != leader).unwrap();
    assert!(world.run_until(150, |w| w.view(other).compacted() == 4));
    assert!((200..=230).contains(&(world.ticks - written)), "after {} ticks", world.ticks - written);
    world.restart(&leader);
    world.run(50);
    world.assert_equal_states();
}

#[test]
fn the_leader_compacts_what_is_too_much() {
    let mut world = World::bootstrap("a");
    world.settings.compact_above_bytes = 10_000;
    world.kill("a");
    world.restart("a");
    let mut largest = 0;
    for n in 0..400 {
        assert!(matches!(world.ask("a", put("k", &n.to_string())), Outcome::Written { .. }));
        world.tick();
        largest = largest.max(world.view("a").past_bytes());
    }
    assert!((10_000..15_000).contains(&largest), "{largest} bytes");
    assert!(world.view("a").compacted() > 300);
}

/// A compaction of which nothing came is proposed again, but not at every look.
#[test]
fn a_leader_without_a_majority_does_not_fill_its_log_with_compactions() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.settings.compact_above_bytes = 1_000;
    world.kill("a");
    world.restart("a");
    world.run(100);
    if world.leader() != "a" {
        assert_eq!(world.ask("a", Request::Transfer { name: Some("a".into()) }), Outcome::Done);
    }
    (0..20).for_each(|n| _ = world.send("a", put("k", &n.to_string())));
    assert!(world.view("a").past_bytes() > 1_000, "and the next look at it is some ticks away");
    let before = world.applied("a");
    world.lose("append-response");
    world.run(300);
    assert_eq!((world.leader(), world.applied("a")), ("a".into(), before), "it leads, and nothing is committed");
    world.lose_nothing();
    world.run(30);
    assert!(world.view("a").compacted() > 10);
    let proposed = world.applied("a") - before;
    assert!((2..=4).contains(&proposed), "{proposed} proposals");
}

#[test]
fn a_lease_ends_after_its_time_with_its_keys() {
    let mut world = cluster_of(&["a", "b", "c"]);
    let granted = Outcome::Granted { lease: 7, ttl_seconds: 5 };
    assert_eq!(world.ask("b", act(Action::Grant { lease: 7, ttl_seconds: 5 })), granted);
    assert!(matches!(world.ask("c", put_leased("k", 7)), Outcome::Decided { succeeded: true, changed: 1, .. }));
    world.run(80);
    assert_eq!(world.ask("c", act(Action::KeepAlive { lease: 7 })), granted);
    let kept_alive = world.ticks;
    world.run(40);
    for name in ["a", "b", "c"] {
        let left = world.ask(name, Request::LeaseTime { lease: 7 });
        let Outcome::LeaseTime { remaining_ms: Some(left) } = left else { panic!("{left:?}") };
        assert!((2_950..=3_100).contains(&left), "{left} ms on {name}");
    }
    assert!(world.run_until(100, |w| w.peek("a", "k").is_none()));
    let lasted = world.ticks - kept_alive;
    assert!((100..=105).contains(&lasted), "{lasted} ticks");
    world.run(5);
    for name in ["a", "b", "c"] {
        assert_eq!(world.ask(name, Request::LeaseTime { lease: 7 }), Outcome::LeaseTime { remaining_ms: None });
    }
    assert!(matches!(world.ask("a", act(Action::KeepAlive { lease: 7 })), Outcome::Failed(Failure::NotFound(_))));
    world.assert_equal_states();
}

#[test]
fn a_lease_that_is_kept_alive_outlives_ten_leaders_and_ends_soon_after_when_it_is_not() {
    let mut world = cluster_of(&["a", "b", "c"]);
    world.ask("a", act(Action::Grant { lease: 7, ttl_seconds: 5 }));
    world.ask("a", put_leased("k", 7));
    let mut kept_alive = 0;
    for n in 0..10 {
        let leader = world.leader();
        let other = ["a", "b", "c"].into_iter().find(|name| *name != leader).unwrap();
        kept_alive = world.ticks;
        assert!(matches!(world.ask(other, act(Action::KeepAlive { lease: 7 })), Outcome::Granted { .. }), "{n}");
        world.run(60);
        world.kill(&leader);
        assert!(world.run_until(39, |w| w.try_leader().is_some()));
        assert_eq!(world.peek(other, "k"), Some("v".into()), "before its time, under leader {n}");
        // The last one stays away: what it knew is not needed.
        if n < 9 {
            world.restart(&leader);
        }
    }
    let alive = world.leader();
    assert!(world.run_until(140, |w| w.peek(&alive, "k").is_none()));
    let lasted = world.ticks - kept_alive;
    assert!((100..=140).contains(&lasted), "{lasted} ticks");
}

#[test]
fn a_member_that_was_away_long_learns_of_leases_from_a_snapshot_and_may_lead() {
    let mut world = cluster_of(&["a", "b", "c"]);
    assert_eq!(world.leader(), "a");
    world.kill("c");
    world.ask("a", act(Action::Grant { lease: 7, ttl_seconds: 60 }));
    let value = "x".repeat(1000);
    for n in 0..300 {
        world.ask("a", put(&format!("k{n}"), &value));
    }
    world.restart("c");
    world.run(100);
    assert!(world.snapshots_installed("c") > 0);
    let remaining = |world: &mut World| match world.ask("c", Request::LeaseTime { lease: 7 }) {
        Outcome::LeaseTime { remaining_ms: Some(left) } => left,
        other => panic!("{other:?}"),
    };
    let left = remaining(&mut world);
    assert!((54_000..=59_950).contains(&left), "since it came, not since it was granted: {left} ms");
    assert_eq!(world.ask("a", Request::Transfer { name: Some("c".into()) }), Outcome::Done);
    let left = remaining(&mut world) / 50;
    assert!(world.run_until(left + 10, |w| w.view("a").lease(7).unwrap().is_none()));
    world.assert_equal_states();
}
