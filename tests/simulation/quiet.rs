//! Nothing repeats without waiting, and nobody who lies makes others loud or slow: histories that
//! are written down, each of which made a network of an earlier version loud for ever.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::entries::{Entries, Key, Value};
use dsn::protocol::identity::NodeId;
use dsn::protocol::node::UPKEEP_MAX;
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::report::PeerStatus;
use dsn::protocol::wire::Kind;

use super::crypto::{key_of, sign};
use super::host::PORT;
use super::liar::{Names, Way};
use super::scenarios::{HEALING_MAX_MS, holds, network, unbroken, whole_within};
use super::world::{Traffic, World, address_of};

/// How long a network is looked at, ticks.
const TICKS: u64 = 20;
/// What a host may send to one address within a tick while nothing changes, bytes: four requests,
/// of which one or two are lists of a few nodes.
const QUIET_BYTES: u64 = 4 * 600;

/// What was sent in so many ticks.
fn traffic(world: &mut World) -> BTreeMap<(usize, IpAddr), Traffic> {
    world.traffic.clear();
    world.run_for(TICKS * world.tick_ms);
    std::mem::take(&mut world.traffic)
}

fn total(traffic: &BTreeMap<(usize, IpAddr), Traffic>) -> u64 {
    traffic.values().map(|traffic| traffic.requests).sum()
}

/// No host sends another one more than a few small requests a tick.
fn is_quiet(world: &mut World, what: &str) -> BTreeMap<(usize, IpAddr), Traffic> {
    is_quiet_but(world, what, 0)
}

/// The same, and so many bytes more in all.
fn is_quiet_but(world: &mut World, what: &str, more: u64) -> BTreeMap<(usize, IpAddr), Traffic> {
    let traffic = traffic(world);
    // The nodes' own ticks are up to a tenth shorter.
    let ticks = TICKS * 10 / 9 + 2;
    for (pair, sent) in &traffic {
        assert!(sent.requests <= ticks * u64::from(UPKEEP_MAX), "{what}: {pair:?} {sent:?}");
        assert!(sent.bytes <= ticks * QUIET_BYTES + more, "{what}: {pair:?} {sent:?}");
    }
    unbroken(world);
    traffic
}

/// A state of so many bytes, in values of 32 KiB.
fn large(bytes: usize) -> Arc<Entries> {
    let entry = |number: usize| {
        (Key::new(&format!("k{number}")).unwrap(), Value::new(&[b'x'; 32 * 1024]).unwrap())
    };
    Arc::new((0..bytes / 32 / 1024).map(entry).collect())
}

fn fill(world: &mut World, host: usize, bytes: usize) {
    let text = "x".repeat(32 * 1024);
    for number in 0..bytes / text.len() {
        world.set(host, &format!("large{number}"), &text);
    }
}

/// The host loses its key, its peers and its state, and starts again.
fn set_up_anew(world: &mut World, host: usize) {
    world.kill(host);
    world.lose_disk(host);
    world.lose_pins(host);
    world.hosts[host].key = key_of(7_000 + host as u64);
    world.start(host);
}

#[test]
fn a_host_that_was_set_up_anew_is_quiet_and_named_until_somebody_decides() {
    let mut world = network(60, 3);
    fill(&mut world, 0, 512 * 1024);
    world.run_for(10_000);
    let idle = total(&is_quiet(&mut world, "all is well"));
    set_up_anew(&mut world, 2);
    world.run_for(60_000);
    let refused = is_quiet(&mut world, "after it");
    assert!(total(&refused) <= idle * 2, "{} of {idle} when all was well", total(&refused));
    let between = |a: usize, b: usize| {
        let ip = world.hosts[b].ip;
        refused.get(&(a, ip)).map_or(0, |traffic| traffic.requests)
    };
    let (alive, turned_away) = (between(0, 1) + between(1, 0), between(0, 2) + between(2, 0));
    assert!(turned_away <= alive, "{turned_away} requests to be refused, {alive} to be let in");
    for host in world.everyone() {
        let text = world.degraded(host).join("\n");
        assert!(text.contains("n2") && text.contains("dsn forget n2"), "n{host}: {text}");
    }
    let id = world.hosts[2].node_id.clone();
    for host in [0, 1] {
        assert!(world.forget(host, &id));
    }
    whole_within(&mut world, HEALING_MAX_MS);
    unbroken(&world);
}

#[test]
fn a_list_of_allowed_nodes_on_one_node_alone_is_quiet() {
    let mut world = World::new(61, 4);
    let one = |host: &usize| (world.hosts[*host].node_id.clone(), world.hosts[*host].key.0);
    world.hosts[1].allow = Some([0, 2].iter().map(one).collect());
    for host in world.everyone() {
        world.start(host);
    }
    whole_within_of(&mut world, &[0, 1, 2]);
    whole_within_of(&mut world, &[0, 2, 3]);
    // The one that is not in the list has a large state, which the others hold.
    fill(&mut world, 3, 900 * 1024);
    world.run_for(60_000);
    assert!(world.entries(1, 3).is_none_or(|entries| entries.is_empty()), "n1 lets nobody else in");
    assert!(world.entries(2, 3).is_some_and(|entries| entries.len() == 28), "n2 does");
    is_quiet(&mut world, "after it");
    let text = world.degraded(1).join("\n");
    assert!(text.contains("n3") && text.contains("not in the list"), "{text}");
}

fn whole_within_of(world: &mut World, hosts: &[usize]) {
    assert!(world.run_until(20_000, |world| world.agree(hosts)).is_some(), "{hosts:?}");
}

/// A state that is seen among requests that are small.
const STATE_BYTES: usize = 128 * 1024;

/// Each kind of request is answered in each wrong way, for ever.
#[test]
fn whatever_a_member_answers_it_is_asked_a_few_times_a_tick_at_most() {
    let mut ways = vec![Way::Silent, Way::Closed, Way::Bare, Way::Lie];
    ways.extend([1, 10, 11, 12, 13, 14, 15, 16, 20, 22, 23, 26, 27, 30, 40, 99].map(Way::Refuse));
    for (seed, kind) in (0..).zip([Kind::Hello, Kind::Peers, Kind::Update, Kind::Ping]) {
        for (number, way) in (0..).zip(&ways) {
            for names in [Names::Any, Names::All, Names::Nothing] {
                if names != Names::Any && (kind != Kind::Update || !matches!(way, Way::Refuse(_))) {
                    continue;
                }
                answers_for_ever(1_000 * seed + number, kind, *way, names);
            }
        }
    }
}

fn answers_for_ever(seed: u64, kind: Kind, way: Way, names: Names) {
    let mut world = network(seed, 3);
    fill(&mut world, 0, STATE_BYTES);
    let liar = world.add_liar();
    world.liars[liar].ways[usize::from(kind.byte()) - 1] = way;
    world.liars[liar].refused = names;
    join(&mut world, liar, 0, PORT);
    join(&mut world, liar, 1, PORT);
    // What lies are heard at first may have to be told and asked for.
    world.run_for(240_000);
    // Who says that it lacks what it took is brought it again, ever more rarely.
    let what = format!("{kind:?} {way:?} {names:?}");
    is_quiet_but(&mut world, &what, STATE_BYTES as u64 * 22 / 10);
    world.set(1, "still", "here");
    let heard = world.run_until(1_000, |world| holds(world, 2, 1, "still", "here"));
    assert!(heard.is_some(), "{what}");
}

/// A name of a liar says HELLO to a host; it listens at this port.
fn join(world: &mut World, liar: usize, host: usize, port: u16) {
    let at = Address::of(world.liars[liar].ip, port);
    let (name, key) = world.liars[liar].names.last().cloned().unwrap();
    world.liar_joins(liar, host, &name, key, Some(at));
    world.run_for(50);
}

/// The liar takes so many names, and each joins a host from a port of its own.
fn crowd(world: &mut World, liar: usize, host: usize, count: u16, at: impl Fn(u16) -> Address) {
    for number in 0..count {
        let name = NodeId::new(&format!("crowd{number}")).unwrap();
        let key = key_of(10_000 + u64::from(number));
        world.liars[liar].names.push((name.clone(), key));
        world.liar_joins(liar, host, &name, key, Some(at(number)));
    }
    world.run_for(1_000);
}

/// Three hosts are told three keys of a node that nobody ever met, with a large state under each.
#[test]
fn all_choose_the_same_of_many_keys_that_others_told_and_then_are_quiet() {
    let mut world = network(62, 4);
    let liar = world.add_liar();
    join(&mut world, liar, 0, PORT);
    let ghosts: Vec<NodeId> =
        (0..4).map(|number| NodeId::new(&format!("ghost{number}")).unwrap()).collect();
    for host in 0..3 {
        let records: Vec<Arc<Record>> = ghosts
            .iter()
            .map(|ghost| {
                let draft = Draft::new(ghost.clone(), 5, false, large(200 * 1024));
                let record = sign(draft, &key_of(8_000 + host as u64));
                world.history.made(&record);
                record.share()
            })
            .collect();
        world.liar_pushes(liar, host, records);
    }
    // The liar is gone.
    world.liars[liar].ways = [Way::Closed; 5];
    world.run_for(120_000);
    for ghost in &ghosts {
        let keys = [8_000, 8_001, 8_002].map(|number| key_of(number).0);
        let lowest = keys.into_iter().min_by_key(|key| key.rank_for(ghost)).unwrap();
        for host in world.everyone() {
            let peers = world.node(host).unwrap().peers(world.now(host));
            let known = peers.iter().find(|peer| peer.node_id == *ghost).unwrap();
            assert_eq!(known.public_key, Some(lowest), "n{host} {ghost}");
            assert_eq!(known.keys, 6, "with the state that came with it");
        }
    }
    is_quiet(&mut world, "after it");
}

/// The addresses that members name are tried, but not so often that it hurts whoever lives there.
#[test]
fn a_thousand_names_of_one_address_are_a_few_tries() {
    let mut world = network(63, 3);
    let liar = world.add_liar();
    let third = address_of(777);
    world.traffic.clear();
    let began = world.now_ms;
    crowd(&mut world, liar, 0, 1_020, |number| third.with_port(1_000 + number).unwrap());
    world.run_for(TICKS * world.tick_ms);
    let ip = "10.0.3.9".parse().unwrap();
    let tries: u64 = world
        .everyone()
        .iter()
        .filter_map(|host| world.traffic.get(&(*host, ip)))
        .map(|traffic| traffic.requests)
        .sum();
    // Each host has a budget, and a part of it that grows back at each tick.
    let ticks = (world.now_ms - began) / world.tick_ms * 10 / 9 + 1;
    assert!((1..=3 * (32 + 4 * ticks)).contains(&tries), "{tries} in {ticks} ticks");
    world.set(1, "still", "here");
    assert!(world.run_until(1_000, |world| holds(world, 0, 1, "still", "here")).is_some());
    unbroken(&world);
}

/// Members whose ports take a connection and never answer.
#[test]
fn a_change_does_not_wait_behind_those_that_hang() {
    for count in [200, 1_000] {
        let mut world = network(64, 4);
        let liar = world.add_liar();
        world.liars[liar].ways = [Way::Silent; 5];
        let ip = world.liars[liar].ip;
        crowd(&mut world, liar, 0, count, |number| Address::of(ip, 1_000 + number));
        for round in 0..20 {
            let value = format!("{round}");
            // All at once they give it a reason to call them.
            world.liar_calls(liar, 0);
            world.run_for(200);
            world.set(0, "k", &value);
            let all = |world: &World| (1..4).all(|host| holds(world, host, 0, "k", &value));
            assert!(world.run_until(1_000, all).is_some(), "{count} hang, round {round}");
            world.run_for(1_700);
        }
        assert_eq!(
            (1..4).filter(|other| world.status(0, *other) == Some(PeerStatus::Alive)).count(),
            3
        );
        unbroken(&world);
    }
}

/// Members that answer a PING and hang on UPDATE.
#[test]
fn nor_behind_those_that_hang_on_what_they_are_sent() {
    let mut world = network(65, 4);
    let liar = world.add_liar();
    world.liars[liar].ways[usize::from(Kind::Update.byte()) - 1] = Way::Silent;
    let ip = world.liars[liar].ip;
    crowd(&mut world, liar, 0, 150, |number| Address::of(ip, 1_000 + number));
    world.run_for(30_000);
    for round in 0..20 {
        let value = format!("{round}");
        world.set(0, "k", &value);
        let all = |world: &World| (1..4).all(|host| holds(world, host, 0, "k", &value));
        assert!(world.run_until(1_000, all).is_some(), "round {round}");
        world.run_for(1_700);
    }
    unbroken(&world);
}

/// A node that hung for a while is back soon, however many others hang.
#[test]
fn who_was_reached_before_is_tried_before_those_that_never_answered() {
    let mut world = network(66, 4);
    let liar = world.add_liar();
    world.liars[liar].ways = [Way::Silent; 5];
    let ip = world.liars[liar].ip;
    for host in 0..3 {
        crowd(&mut world, liar, host, 200, |number| Address::of(ip, 1_000 + number));
    }
    world.hang(3, 25_000);
    world.run_for(25_000);
    assert_ne!(world.status(0, 3), Some(PeerStatus::Alive));
    whole_within(&mut world, HEALING_MAX_MS);
    unbroken(&world);
}

/// A table full of names that nobody ever reached has room for one that answers.
#[test]
fn a_newcomer_joins_where_a_thousand_made_up_names_are_known() {
    let mut world = World::new(67, 4);
    for host in 0..3 {
        world.start(host);
    }
    whole_within_of(&mut world, &[0, 1, 2]);
    let liar = world.add_liar();
    world.liars[liar].ways = [Way::Silent; 5];
    let ip = world.liars[liar].ip;
    for host in 0..3 {
        crowd(&mut world, liar, host, 1_022, |number| Address::of(ip, 1_000 + number));
    }
    world.hosts[3].seeds = (0..3).map(address_of).collect();
    world.start(3);
    let all = world.everyone();
    let took = world.run_until(15_000, |world| world.agree(&all));
    assert!(took.is_some(), "{:?}", world.lacking(3, &all));
    unbroken(&world);
}

/// An address that changes with each HELLO does not wear out the card.
#[test]
fn the_peers_are_written_now_and_then_whatever_members_do() {
    let mut world = network(68, 2);
    let liar = world.add_liar();
    let ip = world.liars[liar].ip;
    world.run_for(60_000);
    let before = world.hosts[0].saves;
    let minutes = 5;
    for round in 0..minutes * 60 * 4 {
        let (name, key) = world.liars[liar].names[0].clone();
        let at = Address::of(ip, 1_000 + (round % 5_000) as u16);
        world.liar_joins(liar, 0, &name, key, Some(at));
        world.run_for(250);
    }
    let written = world.hosts[0].saves - before;
    assert!((1..=4 + 4 * minutes).contains(&written), "{written} times in {minutes} minutes");
    // A key is written at once all the same.
    let before = world.hosts[0].saves;
    world.run_for(120_000);
    let settled = world.hosts[0].saves;
    assert!(settled - before <= 2, "and not when nothing happens");
    crowd(&mut world, liar, 0, 1, |_| Address::of(ip, 9));
    world.run_for(1_000);
    assert!(world.hosts[0].saves > settled);
    // But not for each of many that are made up.
    let before = world.hosts[0].saves;
    for number in 0..120 {
        let (name, key) = (NodeId::new(&format!("more{number}")).unwrap(), key_of(20_000 + number));
        world.liars[liar].names.push((name.clone(), key));
        world.liar_joins(liar, 0, &name, key, Some(Address::of(ip, 9)));
        world.run_for(500);
    }
    let written = world.hosts[0].saves - before;
    assert!((1..=10).contains(&written), "{written} times in a minute");
    unbroken(&world);
}

/// The same, of what one host of three sends to the liar alone, in so many ticks.
fn sent_to(world: &mut World, liar: usize, ticks: u64) -> Vec<Traffic> {
    let ip = world.liars[liar].ip;
    world.traffic.clear();
    world.run_for(ticks * world.tick_ms);
    let sent = |host: &usize| world.traffic.get(&(*host, ip)).copied().unwrap_or_default();
    world.everyone().iter().map(sent).collect()
}

/// What it says that it lacks is not brought to it again and again, and takes nothing else along
/// before its time.
#[test]
fn lists_of_one_that_takes_nothing_bring_it_no_large_state() {
    for update in [Way::Silent, Way::Closed] {
        let mut world = network(70, 3);
        fill(&mut world, 0, 900 * 1024);
        let liar = world.add_liar();
        world.liars[liar].ways[usize::from(Kind::Peers.byte()) - 1] = Way::Lie;
        world.liars[liar].ways[usize::from(Kind::Update.byte()) - 1] = update;
        for host in [0, 1] {
            join(&mut world, liar, host, PORT);
        }
        world.run_for(1_800_000);
        for sent in sent_to(&mut world, liar, 100) {
            // Twice, within five minutes, where it was a hundred times.
            assert!(sent.bytes < 3 * 900 * 1024, "{update:?}: {sent:?}");
            assert!(sent.requests < 300, "{update:?}: {sent:?}");
        }
    }
}

/// Who is no good costs less than who is: whatever it takes before it gives no answer.
#[test]
fn one_that_takes_each_hello_and_no_ping_is_asked_ever_more_rarely() {
    let mut requests = Vec::new();
    for ping in [Way::Right, Way::Closed, Way::Silent, Way::Bare] {
        let mut world = network(71, 3);
        let liar = world.add_liar();
        for host in [0, 1] {
            join(&mut world, liar, host, PORT);
        }
        world.run_for(10_000);
        world.liars[liar].ways[usize::from(Kind::Ping.byte()) - 1] = ping;
        world.run_for(600_000);
        requests.push(sent_to(&mut world, liar, 100).iter().map(|sent| sent.requests).sum::<u64>());
    }
    let (right, wrong) = requests.split_first().unwrap();
    // Others are asked to try it, too, each time that it is taken for one that is there.
    let most = right * 3 / 2;
    assert!(wrong.iter().all(|wrong| *wrong <= most), "{wrong:?} of {right} where all is right");
}

/// What a node was given is given again to its next run, which has forgotten it.
#[test]
fn a_node_that_may_call_nobody_gets_the_states_of_the_dead_after_each_start() {
    let mut world = network(72, 3);
    world.set(2, "k", "before");
    world.run_for(20_000);
    world.faults.forbidden.extend([(1, 0), (1, 2)]);
    world.kill(2);
    for round in 0..4 {
        world.kill(1);
        world.run_for(1_000);
        world.start(1);
        let told = world.run_until(60_000, |world| holds(world, 1, 2, "k", "before"));
        assert!(told.is_some(), "after start {round}");
    }
    unbroken(&world);
}
