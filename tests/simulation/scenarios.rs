//! Histories that are written down: each shows one promise of membership or repair.

use dsn::protocol::report::PeerStatus;

use super::crypto::key_of;
use super::world::{Clock, World, address_of};

/// Longest time that healing may take, ms.
pub const HEALING_MAX_MS: u64 = 60_000;
const MINUTE_MS: u64 = 60_000;

/// So many hosts that know each other.
pub fn network(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, count);
    for host in world.everyone() {
        world.start(host);
    }
    whole_within(&mut world, 20_000);
    world
}

pub fn whole_within(world: &mut World, limit_ms: u64) -> u64 {
    let all = world.everyone();
    let took = world.run_until(limit_ms, |world| world.agree(&all));
    let lacking: Vec<_> = all.iter().flat_map(|host| world.lacking(*host, &all)).collect();
    let trace: Vec<_> = world.trace.iter().rev().take(40).collect();
    took.unwrap_or_else(|| panic!("{:?}\n{lacking:#?}\n{trace:#?}", world.broken))
}

pub fn holds(world: &World, host: usize, other: usize, key: &str, value: &str) -> bool {
    let entries = world.entries(host, other);
    entries.is_some_and(|all| all.get(key).is_some_and(|it| it.as_bytes() == value.as_bytes()))
}

pub fn unbroken(world: &World) {
    assert_eq!(world.broken, None);
}

#[test]
fn sixteen_nodes_know_each_other_within_seconds() {
    let mut world = World::new(1, 16);
    for host in world.everyone() {
        world.start(host);
    }
    let took = whole_within(&mut world, 10_000);
    assert!(took <= 5_000, "{took} ms");
}

#[test]
fn a_change_is_everywhere_at_once() {
    let mut world = network(2, 10);
    world.run_for(10_000);
    world.set(3, "k", "v");
    let took = world.run_until(1_000, |world| (0..10).all(|host| holds(world, host, 3, "k", "v")));
    assert!(took.is_some(), "without waiting for a tick");
    unbroken(&world);
}

#[test]
fn halves_go_on_and_become_one_again() {
    for minutes in [1, 10] {
        let mut world = network(minutes, 8);
        let (left, right) = ([0, 1, 2, 3], [4, 5, 6, 7]);
        world.split(&left, &right);
        for round in 0..10 {
            world.run_for(minutes * MINUTE_MS / 10);
            world.set(1, "left", &round.to_string());
            world.set(6, "right", &round.to_string());
            let heard = world.run_until(2_000, |world| {
                let value = round.to_string();
                left.iter().all(|host| holds(world, *host, 1, "left", &value))
                    && right.iter().all(|host| holds(world, *host, 6, "right", &value))
            });
            assert!(heard.is_some(), "each half goes on");
        }
        assert_eq!(world.status(0, 7), Some(PeerStatus::Lost));
        assert!(!holds(&world, 0, 6, "right", "9"), "the halves are apart");
        world.heal();
        whole_within(&mut world, HEALING_MAX_MS);
    }
}

#[test]
fn splits_may_overlap() {
    let mut world = network(20, 6);
    let all = world.everyone();
    // A ring: each sees its two neighbours only.
    let far = |a: usize, b: usize| ![0, 1, 5].contains(&((a + 6 - b) % 6));
    let pairs = all.iter().flat_map(|a| all.iter().map(|b| (*a, *b)));
    world.faults.cut.extend(pairs.filter(|(a, b)| far(*a, *b)));
    for (wait_ms, value) in [(0, "as they are cut"), (MINUTE_MS, "in a ring")] {
        world.run_for(wait_ms);
        flows_to_all(&mut world, value);
    }
    assert_eq!(world.status(0, 3), Some(PeerStatus::Lost));
    world.heal();
    whole_within(&mut world, HEALING_MAX_MS);
    // Two splits at one time, of which one ends before the other.
    world.split(&[0, 1, 2], &[3, 4, 5]);
    world.split(&[0, 3], &[1, 2, 4, 5]);
    world.run_for(MINUTE_MS);
    for (host, other) in [(1, 2), (4, 5)] {
        world.set(host, "k", "both");
        let heard = world.run_until(2_000, |world| holds(world, other, host, "k", "both"));
        assert!(heard.is_some(), "each part goes on");
    }
    world.set(0, "k", "alone");
    for (left, right) in [([0], &[3][..]), ([1], &[4, 5]), ([2], &[4, 5])] {
        world.mend(&left, right);
    }
    let parts =
        world.run_until(HEALING_MAX_MS, |world| world.agree(&[0, 3]) && world.agree(&[1, 2, 4, 5]));
    assert!(parts.is_some(), "one split is over");
    assert!(!holds(&world, 1, 0, "k", "alone"), "the other one is not");
    world.heal();
    whole_within(&mut world, HEALING_MAX_MS);
}

/// All change their state; all others hold that soon, whoever can speak to whom.
fn flows_to_all(world: &mut World, value: &str) {
    let all = world.everyone();
    for host in &all {
        world.set(*host, "k", value);
    }
    let flows = world.run_until(HEALING_MAX_MS, |world| {
        all.iter().all(|host| all.iter().all(|other| holds(world, *host, *other, "k", value)))
    });
    assert!(flows.is_some(), "{value}");
    unbroken(world);
}

#[test]
fn state_flows_through_a_bridge() {
    let mut world = network(4, 7);
    // Three and three that do not see each other, and one that both see.
    world.split(&[0, 1, 2], &[4, 5, 6]);
    world.run_for(MINUTE_MS);
    flows_to_all(&mut world, "far");
    // The bridge is cut from one half, and comes back.
    world.split(&[3], &[4, 5, 6]);
    world.run_for(MINUTE_MS);
    world.set(0, "k", "meanwhile");
    world.set(5, "k", "meanwhile");
    world.run_for(MINUTE_MS);
    assert!(!holds(&world, 5, 0, "k", "meanwhile") && !holds(&world, 0, 5, "k", "meanwhile"));
    world.mend(&[3], &[4, 5, 6]);
    let flows = world.run_until(HEALING_MAX_MS, |world| {
        (4..7).all(|host| holds(world, host, 0, "k", "meanwhile"))
            && (0..3).all(|host| holds(world, host, 5, "k", "meanwhile"))
    });
    assert!(flows.is_some(), "through the bridge again");
    world.heal();
    whole_within(&mut world, HEALING_MAX_MS);
}

#[test]
fn one_way_links_keep_nobody_from_the_state() {
    let pairs = [(0, 1), (2, 3), (3, 4), (4, 1)];
    for silent in [true, false] {
        let mut world = network(5, 5);
        // What goes one way vanishes, or nobody may call that way.
        let faults = &mut world.faults;
        if silent { &mut faults.cut } else { &mut faults.forbidden }.extend(pairs);
        flows_to_all(&mut world, "at once");
        world.run_for(MINUTE_MS);
        flows_to_all(&mut world, "later");
        world.heal();
        whole_within(&mut world, HEALING_MAX_MS);
    }
}

#[test]
fn the_dead_are_lost_soon_and_come_back_with_their_state() {
    let mut world = network(6, 10);
    world.set(7, "k", "before");
    world.run_for(20_000);
    for dead in [7, 8, 9] {
        world.kill(dead);
    }
    let lost = |world: &World| {
        (0..7).all(|host| (7..10).all(|dead| world.status(host, dead) == Some(PeerStatus::Lost)))
    };
    let took = world.run_until(20_000, lost).expect("lost within 20 s");
    world.set(0, "k", "meanwhile");
    let heard =
        world.run_until(500, |world| (0..7).all(|host| holds(world, host, 0, "k", "meanwhile")));
    assert!(heard.is_some(), "the dead hold nobody up ({took} ms until they were lost)");
    assert!(holds(&world, 3, 7, "k", "before"), "what they left is still there");
    for dead in [7, 8, 9] {
        world.start(dead);
    }
    whole_within(&mut world, 10_000);
    assert!(holds(&world, 7, 7, "k", "before"));
}

/// Once a hint had led to a node, its back-off never began: the others tried it at every tick for
/// ever, and each try held one of the few senders for those that may not answer.
#[test]
fn the_dead_are_tried_ever_more_rarely() {
    let mut world = network(21, 6);
    world.run_for(MINUTE_MS);
    world.kill(5);
    world.run_for(5 * MINUTE_MS);
    let hellos = |world: &World| world.hosts.iter().map(|host| host.hellos).sum::<u64>();
    let before = hellos(&world);
    world.run_for(10 * MINUTE_MS);
    let per_host = (hellos(&world) - before) / 5;
    assert!(
        (10..=60).contains(&per_host),
        "{per_host} tries in ten minutes, of each of the others"
    );
    world.start(5);
    whole_within(&mut world, HEALING_MAX_MS);
}

#[test]
fn an_idle_network_is_quiet() {
    for count in [8, 32] {
        let mut world = network(7, count);
        world.run_for(MINUTE_MS);
        let before: u64 = world.hosts.iter().map(|host| host.sent).sum();
        world.run_for(10 * MINUTE_MS);
        let sent: u64 = world.hosts.iter().map(|host| host.sent).sum::<u64>() - before;
        let per_second = sent as f64 / 600.0 / count as f64;
        assert!(per_second <= 2.0, "{per_second} requests a second and node at {count} nodes");
        assert!(world.agree(&world.everyone()), "and nobody is suspected");
    }
}

#[test]
fn a_node_that_moves_while_it_runs_is_found_again() {
    let mut world = network(8, 6);
    world.move_to(3, 200);
    world.set(3, "k", "moved");
    whole_within(&mut world, HEALING_MAX_MS);
    // And one that moves while others sleep: two of them, then all.
    for (round, asleep) in [&[4, 5][..], &[0, 1, 3, 4, 5]].into_iter().enumerate() {
        for host in asleep {
            world.hang(*host, 30_000);
        }
        world.run_for(5_000);
        world.move_to(2, 300 + round);
        world.set(2, "k", &format!("moved {round}"));
        world.run_for(25_000);
        whole_within(&mut world, HEALING_MAX_MS);
    }
}

#[test]
fn the_bootstrap_node_may_be_gone_for_ever() {
    let mut world = network(9, 6);
    world.run_for(1_000);
    world.kill(0);
    let rest = [1, 2, 3, 4, 5];
    world.run_for(30_000);
    for host in rest {
        world.kill(host);
    }
    world.run_for(5_000);
    for host in rest {
        world.start(host);
    }
    let whole = world.run_until(HEALING_MAX_MS, |world| world.agree(&rest));
    assert!(whole.is_some(), "they know each other from before");
    unbroken(&world);
}

#[test]
fn all_start_again_at_once() {
    let mut world = network(10, 8);
    world.set(5, "k", "kept");
    world.run_for(5_000);
    for host in world.everyone() {
        world.kill(host);
    }
    for host in world.everyone() {
        world.start(host);
    }
    whole_within(&mut world, 20_000);
    assert!(holds(&world, 1, 5, "k", "kept"));
}

#[test]
fn a_clock_that_believes_in_1970_still_wins() {
    for clock in [Clock::SinceBoot, Clock::Stopped(0), Clock::Off(-50 * 365 * 86_400 * 1_000_000)] {
        let mut world = network(11, 3);
        world.set(1, "k", "right clock");
        world.run_for(5_000);
        world.kill(1);
        world.hosts[1].clock = clock;
        world.start(1);
        world.run_for(5_000);
        world.set(1, "k", "wrong clock");
        let heard = world.run_until(2_000, |world| holds(world, 2, 1, "k", "wrong clock"));
        assert!(heard.is_some(), "{clock:?}");
        // Even when its disk was replaced, peers tell how far it had come.
        world.kill(1);
        world.lose_disk(1);
        world.start(1);
        world.run_for(5_000);
        world.set(1, "k", "new disk");
        let heard = world.run_until(5_000, |world| holds(world, 2, 1, "k", "new disk"));
        assert!(heard.is_some(), "{clock:?}");
        unbroken(&world);
    }
}

#[test]
fn a_node_that_hangs_delays_nobody_and_comes_back_by_itself() {
    let mut world = network(12, 5);
    world.hang(4, 60_000);
    for round in 0..20 {
        world.run_for(3_000);
        world.set(0, "k", &round.to_string());
        let value = round.to_string();
        let heard =
            world.run_until(500, |world| (1..4).all(|host| holds(world, host, 0, "k", &value)));
        assert!(heard.is_some(), "round {round}");
    }
    whole_within(&mut world, HEALING_MAX_MS);
}

#[test]
fn flapping_neither_floods_nor_loses() {
    let mut world = network(13, 6);
    let before: u64 = world.hosts.iter().map(|host| host.sent).sum();
    for round in 0..60 {
        if round % 2 == 0 {
            world.split(&[0, 1, 2], &[3, 4, 5]);
        } else {
            world.heal();
        }
        world.set(round % 6, "round", &round.to_string());
        world.run_for(2_000);
    }
    let sent: u64 = world.hosts.iter().map(|host| host.sent).sum::<u64>() - before;
    world.heal();
    whole_within(&mut world, HEALING_MAX_MS);
    let per_second = sent as f64 / 120.0 / 6.0;
    assert!(per_second < 8.0, "{per_second} requests a second and node");
}

#[test]
fn a_burst_of_changes_costs_each_peer_few_requests() {
    let mut world = network(14, 4);
    world.run_for(30_000);
    let before = world.hosts[0].sent;
    for number in 0..200 {
        world.set(0, "k", &number.to_string());
    }
    world.run_for(1_000);
    let sent = world.hosts[0].sent - before;
    assert!(sent <= 3 * 20, "{sent} requests for 200 changes to three peers");
    unbroken(&world);
}

#[test]
fn a_small_change_of_a_large_state_travels_as_what_changed() {
    let mut world = network(20, 4);
    for number in 0..40 {
        world.set(0, &format!("k{number}"), "some value");
    }
    world.run_for(10_000);
    let before = world.patches;
    world.set(0, "k7", "another");
    let heard =
        world.run_until(1_000, |world| (1..4).all(|host| holds(world, host, 0, "k7", "another")));
    assert!(heard.is_some());
    assert_eq!((world.patches - before, world.baseless), (3, 0), "one to each peer");
    // A peer that missed changes is brought up to date from the version it holds.
    world.hang(3, 700);
    for number in 0..5 {
        world.set(0, "k7", &number.to_string());
        world.run_for(100);
    }
    whole_within(&mut world, HEALING_MAX_MS);
    assert_eq!(world.baseless, 0);
}

/// An answer that is lost, and a receiver that starts again before the next try.
#[test]
fn a_message_in_doubt_is_not_sent_to_the_next_run() {
    for seed in 0..200 {
        let mut world = network(seed, 2);
        world.run_for(3_000);
        world.faults.cut.insert((1, 0));
        world.send(0, 1);
        let pause = world.random.u64(10..1_000);
        world.run_for(pause);
        world.kill(1);
        world.start(1);
        world.heal();
        world.run_for(30_000);
        unbroken(&world);
    }
}

#[test]
fn an_address_that_is_named_twice_is_one() {
    let mut world = World::new(15, 2);
    world.hosts[1].seeds.push(address_of(0));
    for host in world.everyone() {
        world.start(host);
    }
    whole_within(&mut world, 10_000);
}

#[test]
fn what_the_disk_refused_to_republish_is_asked_for_again() {
    let mut world = network(16, 3);
    for round in 0..5 {
        world.set(1, "k", &round.to_string());
        world.run_for(1_000);
    }
    world.kill(1);
    world.lose_disk(1);
    world.hosts[1].clock = Clock::SinceBoot;
    world.start(1);
    world.disk_fails(1, true);
    world.run_for(30_000);
    world.disk_fails(1, false);
    whole_within(&mut world, 20_000);
}

/// A card is not written to for each start, and what the start says is above what others hold:
/// also where the clock was set back, and where the run before made more than it wrote.
#[test]
fn a_restart_writes_nothing_and_is_taken_for_news() {
    for clock in [Clock::Right, Clock::SinceBoot, Clock::Off(-86_400_000_000)] {
        let mut world = network(18, 3);
        world.set(1, "k", "v");
        world.run_for(1_000);
        whole_within(&mut world, 5_000);
        let before = world.hosts[1].disk.content();
        let known = world.degraded(0);
        for _ in 0..5 {
            let run = world.node(1).unwrap().incarnation();
            world.kill(1);
            world.hosts[1].clock = clock;
            world.start(1);
            whole_within(&mut world, 5_000);
            let node = world.node(1).unwrap();
            assert_ne!(node.incarnation(), run);
            assert_eq!(node.own().head.home, *node.home());
            for host in [0, 2] {
                assert!(holds(&world, host, 1, "k", "v"), "{clock:?}");
            }
        }
        assert!(world.hosts[1].disk.content() == before, "{clock:?}");
        let now = world.now(1);
        let status = world.node(1).unwrap().status("", "", now);
        assert!(status.notices.is_empty(), "{clock:?}: {:?}", status.notices);
        assert_eq!(world.degraded(0), known);
        // A change is above all of it.
        world.set(1, "k", "w");
        let took = world.run_until(1_000, |world| holds(world, 0, 1, "k", "w"));
        assert!(took.is_some(), "{clock:?}");
        unbroken(&world);
    }
}

/// A cloned card: one id, one key, two hosts.
#[test]
fn twins_are_named_and_do_not_flap_for_ever() {
    let mut world = World::new(17, 5);
    world.hosts[4].node_id = world.hosts[3].node_id.clone();
    world.hosts[4].key = world.hosts[3].key;
    for host in 0..4 {
        world.start(host);
    }
    world.run_for(20_000);
    world.start(4);
    world.run_for(2 * MINUTE_MS);
    let says = |host: usize| world.degraded(host).join("\n");
    for host in 0..5 {
        assert!(says(host).contains("two nodes run as n3 with one key"), "n{host}: {}", says(host));
    }
    let before: u64 = world.hosts.iter().map(|host| host.sent).sum();
    world.run_for(5 * MINUTE_MS);
    let sent: u64 = world.hosts.iter().map(|host| host.sent).sum::<u64>() - before;
    let per_second = sent as f64 / 300.0 / 5.0;
    assert!(per_second < 4.0, "{per_second} requests a second and node");
    // When one of them goes, the other one is taken back by itself.
    world.kill(3);
    let back = world.run_until(2 * MINUTE_MS, |world| world.agree(&[0, 1, 2, 4]));
    assert!(back.is_some());
    world.run_for(2 * MINUTE_MS);
    assert!(world.degraded(0).is_empty(), "{:?}", world.degraded(0));
    unbroken(&world);
}

#[test]
fn one_id_with_two_keys_is_named_on_all_sides() {
    let mut world = World::new(18, 5);
    world.hosts[4].node_id = world.hosts[3].node_id.clone();
    world.hosts[4].key = key_of(77);
    for host in 0..4 {
        world.start(host);
    }
    world.run_for(20_000);
    world.start(4);
    world.run_for(MINUTE_MS);
    for host in [0, 4] {
        let says = world.degraded(host).join("\n");
        assert!(says.contains("n3") && says.contains("key "), "n{host} says {says:?}");
    }
    assert_eq!(world.status(0, 3), Some(PeerStatus::Alive), "the first one goes on");
}

/// However long it stays until it ends.
#[test]
fn who_says_goodbye_is_known_to_have_left() {
    for stays_ms in [2_000, 20_000] {
        let mut world = network(19, 5);
        world.leave(2);
        let all_know = |world: &World| {
            for host in [0, 1, 3, 4] {
                assert_eq!(world.status(host, 2), Some(PeerStatus::Left), "{stays_ms}");
            }
        };
        world.run_for(stays_ms);
        all_know(&world);
        world.kill(2);
        world.run_for(30_000);
        all_know(&world);
        world.start(2);
        whole_within(&mut world, 20_000);
    }
}
