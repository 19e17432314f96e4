//! Who is there, and who is not: the dead are lost soon, the living never.

use dsn::protocol::address::Address;
use dsn::protocol::identity::NodeId;
use dsn::protocol::report::PeerStatus;
use dsn::protocol::wire::Kind;

use super::host::PORT;
use super::liar::Way;
use super::scenarios::{HEALING_MAX_MS, network, unbroken, whole_within};
use super::world::World;

const MINUTE_MS: u64 = 60_000;

/// How often this was said, of anybody.
fn told(world: &World, what: &str) -> u64 {
    world.told.iter().filter(|((name, ..), _)| *name == what).map(|(_, count)| count).sum()
}

/// How often this was said of one host.
fn told_of(world: &World, what: &str, host: usize) -> u64 {
    let id = &world.hosts[host].node_id;
    world.told.iter().filter(|((name, _, of), _)| *name == what && of == id).map(|it| it.1).sum()
}

fn is_lost_at_all(world: &World, dead: usize) -> bool {
    let others = world.everyone().into_iter().filter(|host| *host != dead);
    others.into_iter().all(|host| world.status(host, dead) == Some(PeerStatus::Lost))
}

/// A network that has been idle for a while, and one of its hosts.
fn idle(seed: u64, count: usize) -> (World, usize) {
    let mut world = network(seed, count);
    let pause = world.random.u64(10_000..16_000);
    world.run_for(pause);
    let one = world.random.usize(..count);
    (world, one)
}

#[test]
fn who_is_killed_is_lost_at_all_within_five_seconds() {
    for count in [8, 16] {
        for seed in 0..10 {
            let (mut world, dead) = idle(700 + seed, count);
            world.kill(dead);
            let took = world.run_until(5_000, |world| is_lost_at_all(world, dead));
            assert!(took.is_some(), "n{dead} of {count}, seed {seed}: {:?}", world.told);
            unbroken(&world);
        }
    }
}

#[test]
fn who_hangs_or_is_cut_off_is_lost_at_all_within_ten_seconds() {
    for count in [8, 16] {
        for seed in 0..10 {
            let (mut world, gone) = idle(720 + seed, count);
            if seed % 2 == 0 {
                world.hang(gone, MINUTE_MS);
            } else {
                let rest: Vec<usize> =
                    world.everyone().into_iter().filter(|host| *host != gone).collect();
                world.split(&[gone], &rest);
            }
            let took = world.run_until(10_000, |world| is_lost_at_all(world, gone));
            assert!(took.is_some(), "n{gone} of {count}, seed {seed}: {:?}", world.told);
            unbroken(&world);
        }
    }
}

/// Whoever hears of nobody blames itself; and so does who did not run for a while.
#[test]
fn who_was_cut_off_or_hung_accuses_nobody_when_it_is_back() {
    for seed in 0..24 {
        let (mut world, gone) = idle(740 + seed, 8);
        let rest: Vec<usize> = world.everyone().into_iter().filter(|host| *host != gone).collect();
        world.told.clear();
        let ms = 1_000 + 700 * seed;
        if seed % 2 == 0 {
            world.hang(gone, ms);
            world.run_for(ms);
        } else {
            world.split(&[gone], &rest);
            world.run_for(ms);
            world.heal();
        }
        world.run_for(HEALING_MAX_MS);
        assert!(world.agree(&world.everyone()), "{seed}");
        // What it thought itself of the others it told nobody.
        let is_wrong = |((what, by, of), _): (&(&str, usize, NodeId), &u64)| {
            *by != gone && *of != world.hosts[gone].node_id && *what != "joined"
        };
        assert!(!world.told.iter().any(is_wrong), "n{gone}, {seed}: {:?}", world.told);
    }
}

#[test]
fn lost_tries_make_nobody_lost() {
    let (mut world, _) = idle(770, 16);
    world.told.clear();
    world.faults.loss = 50;
    world.run_for(30 * MINUTE_MS);
    assert_eq!(told(&world, "lost"), 0, "{:?}", world.told);
    let suspected = told(&world, "suspect");
    assert!(suspected <= 30, "{suspected} in half an hour: {:?}", world.told);
    unbroken(&world);
}

/// One way or both, silent or refused: the others see both.
#[test]
fn whom_one_can_not_reach_and_others_can_is_not_lost() {
    for (seed, both, silent) in
        [(780, false, false), (781, false, true), (782, true, true), (783, true, false)]
    {
        let mut world = network(seed, 6);
        world.run_for(10_000);
        world.told.clear();
        let pairs = if both { vec![(0, 1), (1, 0)] } else { vec![(0, 1)] };
        let faults = &mut world.faults;
        if silent { &mut faults.cut } else { &mut faults.forbidden }.extend(pairs);
        world.run_for(10 * MINUTE_MS);
        assert_eq!(told(&world, "lost"), 0, "{both} {silent}: {:?}", world.told);
        assert_eq!(world.status(0, 1), Some(PeerStatus::Alive));
        let peers = world.node(0).unwrap().peers(world.now(0));
        let reason = peers.iter().find(|it| it.node_id.as_str() == "n1").unwrap().reason.clone();
        if both {
            assert!(reason.as_ref().is_some_and(|why| why.contains("others")), "{reason:?}");
        }
        world.kill(1);
        let took = world.run_until(15_000, |world| is_lost_at_all(world, 1));
        assert!(took.is_some(), "{both} {silent}");
        unbroken(&world);
    }
}

#[test]
fn who_can_not_be_called_calls_often_enough() {
    let mut world = network(790, 12);
    world.run_for(10_000);
    world.told.clear();
    world.faults.forbidden.extend((0..12).filter(|host| *host != 5).map(|host| (host, 5)));
    // When it begins it does not know yet that nobody calls it.
    world.run_for(MINUTE_MS);
    world.told.clear();
    world.run_for(10 * MINUTE_MS);
    assert_eq!(told(&world, "lost") + told(&world, "suspect"), 0, "{:?}", world.told);
    world.heal();
    whole_within(&mut world, HEALING_MAX_MS);
}

/// It says to all, all the time, that nobody answers.
#[test]
fn a_liar_that_accuses_everybody_makes_nobody_lost_and_no_storm() {
    let (mut world, _) = idle(800, 8);
    let liar = world.add_liar();
    world.told.clear();
    let sent = |world: &World| world.hosts.iter().map(|host| host.sent).sum::<u64>();
    let before = sent(&world);
    let all = world.everyone();
    let minutes = 5;
    for _ in 0..minutes * 60 {
        for host in &all {
            world.liar_accuses(liar, *host, &all);
        }
        world.run_for(1_000);
    }
    assert_eq!(told(&world, "lost") + told(&world, "suspect"), 0, "{:?}", world.told);
    let per_second = (sent(&world) - before) as f64 / 60.0 / minutes as f64 / 8.0;
    assert!(per_second < 12.0, "{per_second} requests a second and node");
    unbroken(&world);
}

/// It says that those do not answer, and not to them; or that it tried in vain, and forges words.
#[test]
fn a_liar_among_the_helpers_makes_nobody_lost() {
    for way in [Way::Right, Way::Lie] {
        let (mut world, _) = idle(801, 10);
        let liar = world.add_liar();
        let (name, key) = world.liars[liar].names[0].clone();
        world.liars[liar].ways[usize::from(Kind::Update.byte()) - 1] = way;
        for host in world.everyone() {
            let at = Address::of(world.liars[liar].ip, PORT);
            world.liar_joins(liar, host, &name, key, Some(at));
        }
        world.run_for(5_000);
        world.told.clear();
        world.faults.loss = 50;
        world.run_for(10 * MINUTE_MS);
        let lost: u64 = world.everyone().iter().map(|host| told_of(&world, "lost", *host)).sum();
        assert_eq!(lost, 0, "{:?}", world.told);
        world.faults.loss = 0;
        world.run_for(20_000);
        world.kill(2);
        // One that asks the liar first is told of it by others.
        let took = world.run_until(20_000, |world| is_lost_at_all(world, 2));
        assert!(took.is_some(), "{way:?}: {:?}", world.told);
        unbroken(&world);
    }
}
