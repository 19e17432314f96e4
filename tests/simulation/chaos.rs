//! A random history: faults, lies and work for a while, then healing; all of it from one number.

use std::net::IpAddr;

use dsn::protocol::lease::Ttl;

use super::world::{Clock, Faults, World, address_of};

/// What a run came to.
#[derive(Default)]
pub struct Report {
    pub steps: u64,
    /// UPDATEs that carried a partial record, and those that lacked their base.
    pub patches: u64,
    pub baseless: u64,
    pub replays: u64,
    /// How long the network took to be whole after everything was healed, ms.
    pub healed_in_ms: u64,
    /// How long a change took to be everywhere after that, ms.
    pub spread_in_ms: u64,
}

/// Longest time that healing may take, ms: the longest back-off, tries that time out, and ticks.
const HEALING_MAX_MS: u64 = 60_000;
/// Longest time that a change may take in a healed network, ms, whatever liars do.
const SPREADING_MAX_MS: u64 = 1_000;
/// The same where liars may be relays of both rings, which take it and pass nothing on: views that
/// differ find it.
const REPAIR_MAX_MS: u64 = 15_000;
/// How long a network without changes is looked at, ticks.
const QUIET_TICKS: u64 = 24;
/// How long before that what is left of the lies may settle, ms: the wants and wishes of the last
/// exchange, and one longest wait.
const SETTLING_MS: u64 = 60_000;

/// What is told beside that at a tick, while a liar comes and goes: asks, words and accusations.
const TOLD_A_TICK: u64 = 2;

const YEAR_US: i64 = 365 * 24 * 3600 * 1_000_000;

/// Runs the history of the seed; an error says which promise was broken.
pub fn run(seed: u64) -> (World, Result<Report, String>) {
    let count = 2 + (seed % 5) as usize;
    let mut world = World::new(seed, count);
    if world.random.bool() {
        // As in a large network: by relays that pass on to one or two others each.
        let heads = world.random.usize(1..3);
        for host in &mut world.hosts {
            (host.mesh_max, host.relay_heads) = (1, heads);
        }
    }
    for host in world.everyone() {
        let other = world.random.usize(..count);
        if other != host {
            world.hosts[host].seeds.push(address_of(other));
        }
        world.start(host);
    }
    let liars = [0, 0, 1, 1, 2][world.random.usize(..5)];
    for _ in 0..liars {
        let liar = world.add_liar();
        world.redraw_ways(liar);
    }
    let calm = world.random.u64(0..8_000);
    world.run_for(calm);
    let acts = world.random.u64(20..120);
    for _ in 0..acts {
        act(&mut world);
        for liar in 0..world.liars.len() {
            for _ in 0..world.random.u8(0..4) {
                world.liar_acts(liar);
            }
        }
        let pause = match world.random.u8(..) {
            0..=180 => world.random.u64(0..300),
            181..=245 => world.random.u64(0..4_000),
            _ => world.random.u64(0..40_000),
        };
        world.run_for(pause);
    }
    mend(&mut world);
    let report = look(&mut world);
    (world, report)
}

/// What has to come true once the faults are over and nobody changes anything.
fn look(world: &mut World) -> Result<Report, String> {
    let all = world.everyone();
    let healed = world.run_until(HEALING_MAX_MS, |world| world.agree(&all));
    if let Some(what) = world.broken.take() {
        return Err(what);
    }
    let Some(healed_in_ms) = healed else {
        let lacking: Vec<_> = all.iter().flat_map(|host| world.lacking(*host, &all)).collect();
        return Err(format!("convergence: not whole after {HEALING_MAX_MS} ms: {lacking:#?}"));
    };
    let spread_in_ms = spread(world, &all)?;
    world.run_for(SETTLING_MS);
    is_quiet(world)?;
    if let Some(what) = world.broken.take() {
        return Err(what);
    }
    if !world.agree(&all) {
        return Err("convergence: it was whole, and is no more".into());
    }
    Ok(Report {
        steps: world.steps,
        patches: world.patches,
        baseless: world.baseless,
        replays: world.replays,
        healed_in_ms,
        spread_in_ms,
    })
}

/// A change of one host is soon at all others, whatever liars do.
fn spread(world: &mut World, all: &[usize]) -> Result<u64, String> {
    // Tries that were lost before all was healed end first.
    world.run_for(SETTLING_MS);
    let host = world.random.usize(..all.len());
    world.set(host, "last", &world.now_ms.to_string());
    // The disk takes its time before.
    world.run_for(50);
    let own = world.node(host).map(|node| node.own().version());
    let holds = |world: &World, other: usize| {
        let id = &world.hosts[host].node_id;
        let state = world.node(other).and_then(|node| node.state(id));
        state.map(|state| state.timestamp) == own.map(|own| own.timestamp)
    };
    let by_relays = world.hosts.iter().any(|host| host.mesh_max < all.len());
    let limit = if by_relays { REPAIR_MAX_MS } else { SPREADING_MAX_MS };
    let took = world.run_until(limit, |world| all.iter().all(|it| holds(world, *it)));
    let late: Vec<_> = all.iter().filter(|it| !holds(world, **it)).collect();
    let what = || format!("isolation: a change of n{host} is not at {late:?} within {limit} ms");
    took.ok_or_else(what)
}

/// While nothing changes nobody is asked again and again, whatever it answers.
fn is_quiet(world: &mut World) -> Result<(), String> {
    world.traffic.clear();
    world.run_for(QUIET_TICKS * world.tick_ms);
    // The nodes' own ticks are up to a tenth shorter.
    let a_tick = u64::from(dsn::protocol::node::UPKEEP_MAX) + TOLD_A_TICK;
    let most = (QUIET_TICKS * 10 / 9 + 2) * a_tick;
    let loud: Vec<((usize, IpAddr), u64)> = world
        .traffic
        .iter()
        .filter(|(_, traffic)| traffic.requests > most)
        .map(|(pair, traffic)| (*pair, traffic.requests))
        .collect();
    if loud.is_empty() {
        return Ok(());
    }
    Err(format!("quiet: more than {most} requests in {QUIET_TICKS} ticks: {loud:?}"))
}

fn act(world: &mut World) {
    let count = world.hosts.len();
    let (host, other) = (world.random.usize(..count), world.random.usize(..count));
    let key = format!("k{}", world.random.u8(0..12));
    match world.random.u8(0..118) {
        0..=29 if world.is_running(host) => {
            let value = world.random.u32(..).to_string();
            world.set(host, &key, &value);
        }
        // Few values, so that many are only set again.
        102..=117 if world.is_running(host) => {
            let value = world.random.u8(..2).to_string();
            let ttl = Ttl::from_ms(world.random.u64(1_000..20_000)).unwrap();
            let known = Ttl::from_ms(3_000).unwrap();
            let ttl = if world.random.bool() { known } else { ttl };
            world.set_for(host, &key, &value, Some(ttl));
        }
        30..=32 if world.is_running(host) => world.unset(host, &key),
        33..=47 if host != other => world.send(host, other),
        48..=51 => drop(world.receive(host, 10)),
        52 => drop(world.ping(host, other)),
        53 => move_away(world, host),
        54..=58 if world.is_running(host) => world.kill(host),
        59..=62 if world.is_running(host) => world.cut_power(host),
        54..=72 if !world.is_running(host) => start_again(world, host),
        73..=75 => {
            let ms = world.random.u64(0..25_000);
            world.hang(host, ms);
        }
        76..=78 => {
            let (left, right): (Vec<_>, Vec<_>) =
                world.everyone().into_iter().partition(|_| world.random.bool());
            world.split(&left, &right);
        }
        79 => drop(world.faults.cut.insert((host, other))),
        80 => drop(world.faults.forbidden.insert((host, other))),
        81..=83 => world.heal(),
        84..=85 => {
            let mut up_to = |most| world.random.u32(0..most);
            let (loss, slow, copied) = (up_to(300), up_to(200), up_to(200));
            world.faults = Faults { loss, slow, copied, ..world.faults.clone() };
        }
        86..=94 => world.replay(),
        95 if !world.is_running(host) => world.lose_disk(host),
        96 if !world.is_running(host) => world.lose_pins(host),
        97 => {
            let (fails, is_away) = (world.random.bool(), world.random.bool());
            world.disk_fails(host, fails);
            world.hosts[host].disk.is_away(is_away);
        }
        98 if world.is_running(host) => world.leave(host),
        99 => world.hosts[host].clock = Clock::Off(world.random.i64(-YEAR_US..YEAR_US)),
        100..=101 if host != other => {
            let id = world.hosts[other].node_id.clone();
            world.forget(host, &id);
        }
        _ => {}
    }
}

fn start_again(world: &mut World, host: usize) {
    let now_us = 1_767_225_600_000_000;
    world.hosts[host].clock = match world.random.u8(0..8) {
        0 => Clock::SinceBoot,
        1 => Clock::Off(50 * YEAR_US),
        2 => Clock::Off(-YEAR_US),
        3 => Clock::Stopped(now_us),
        _ => Clock::Right,
    };
    if world.random.u8(..) < 30 {
        move_away(world, host);
    }
    world.start(host);
}

/// Ends all faults and starts all that do not run. A host that said goodbye starts again.
fn mend(world: &mut World) {
    let awake = world.hosts.iter().map(|host| host.hung_until).max().unwrap_or_default();
    world.run_for(awake.saturating_sub(world.now_ms) + 100);
    world.heal();
    for host in world.everyone() {
        world.disk_fails(host, false);
        world.hosts[host].disk.is_away(false);
        let left = world.node(host).is_some_and(|node| node.own().head.left);
        if left {
            world.kill(host);
        }
        if !world.is_running(host) {
            world.start(host);
        }
    }
}

/// The host gets another address, whether it runs or not; nobody else has had it. The first host
/// stays where it is: when all move at once, nobody can find anybody.
fn move_away(world: &mut World, host: usize) {
    if host == 0 {
        return;
    }
    world.moves += 1;
    world.move_to(host, 2_000 + world.moves);
}
