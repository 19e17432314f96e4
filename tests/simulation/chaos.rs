//! A random history: faults and work for a while, then healing; all of it from one number.

use dsn::protocol::state::next_timestamp;

use super::world::{Clock, Faults, World, address_of};

/// What a run came to.
pub struct Report {
    pub steps: u64,
    /// UPDATEs that carried a partial record, and those that lacked their base.
    pub patches: u64,
    pub baseless: u64,
    /// How long the network took to be whole after everything was healed, ms.
    pub healed_in_ms: u64,
}

/// Longest time that healing may take, ms: the longest back-off, tries that time out, and ticks.
const HEALING_MAX_MS: u64 = 60_000;

const YEAR_US: i64 = 365 * 24 * 3600 * 1_000_000;

/// Runs the history of the seed; an error says which promise was broken.
pub fn run(seed: u64, rule: fn(u64, u64) -> Option<u64>) -> (World, Result<Report, String>) {
    let count = 2 + (seed % 5) as usize;
    let mut world = World::new(seed, count);
    world.timestamp_rule = rule;
    world.rule_is_wrong =
        !std::ptr::fn_addr_eq(rule, next_timestamp as fn(u64, u64) -> Option<u64>);
    for host in world.everyone() {
        let other = world.random.usize(..count);
        if other != host {
            world.hosts[host].seeds.push(address_of(other));
        }
        world.start(host);
    }
    let calm = world.random.u64(0..8_000);
    world.run_for(calm);
    let acts = world.random.u64(20..120);
    for _ in 0..acts {
        act(&mut world);
        let pause = match world.random.u8(..) {
            0..=180 => world.random.u64(0..300),
            181..=245 => world.random.u64(0..4_000),
            _ => world.random.u64(0..40_000),
        };
        world.run_for(pause);
    }
    mend(&mut world);
    let all = world.everyone();
    let healed = world.run_until(HEALING_MAX_MS, |world| world.agree(&all));
    if let Some(what) = world.broken.take() {
        return (world, Err(what));
    }
    let Some(healed_in_ms) = healed else {
        let lacking: Vec<_> = all.iter().flat_map(|host| world.lacking(*host, &all)).collect();
        let text = format!("convergence: not whole after {HEALING_MAX_MS} ms: {lacking:#?}");
        return (world, Err(text));
    };
    let (steps, patches, baseless) = (world.steps, world.patches, world.baseless);
    (world, Ok(Report { steps, patches, baseless, healed_in_ms }))
}

fn act(world: &mut World) {
    let count = world.hosts.len();
    let (host, other) = (world.random.usize(..count), world.random.usize(..count));
    let key = format!("k{}", world.random.u8(0..12));
    match world.random.u8(0..100) {
        0..=29 if world.is_running(host) => {
            let value = world.random.u32(..).to_string();
            world.set(host, &key, &value);
        }
        30..=32 if world.is_running(host) => world.unset(host, &key),
        33..=47 if host != other => world.send(host, other),
        48..=51 => drop(world.receive(host, 10)),
        52 => drop(world.ping(host, other)),
        53 => move_away(world, host),
        54..=62 if world.is_running(host) => world.kill(host),
        54..=72 if !world.is_running(host) => {
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
            let (loss, slow) = (world.random.u32(0..300), world.random.u32(0..200));
            world.faults = Faults { loss, slow, ..world.faults.clone() };
        }
        86..=94 => world.replay(),
        95 if !world.is_running(host) => world.lose_disk(host),
        96 if !world.is_running(host) => world.lose_pins(host),
        97 => {
            let fails = world.random.bool();
            world.disk_fails(host, fails);
        }
        98 if world.is_running(host) => world.leave(host),
        99 => world.hosts[host].clock = Clock::Off(world.random.i64(-YEAR_US..YEAR_US)),
        _ => {}
    }
}

/// Ends all faults and starts all that do not run. A host that said goodbye starts again.
fn mend(world: &mut World) {
    let awake = world.hosts.iter().map(|host| host.hung_until).max().unwrap_or_default();
    world.run_for(awake.saturating_sub(world.now_ms) + 100);
    world.heal();
    for host in world.everyone() {
        world.disk_fails(host, false);
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
