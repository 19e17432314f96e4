//! What is measured of a crowd: each figure of docs/benchmarks.md that needs no real hosts.

use super::crowd::{Crowd, Traffic};

const SECOND: u64 = 1_000_000;
/// Longest time that anything is waited for.
const PATIENCE: u64 = 120 * SECOND;
/// How long a change may take before it counts as not arrived.
const CHANGE_MAX: u64 = 10 * SECOND;
/// How long is listened after a change is everywhere: lists that it caused travel then.
const AFTER: u64 = 4 * SECOND;

/// How long is listened to what travels anyway: every tenth tick has lists.
const LISTEN: u64 = 30 * SECOND;

/// The value that so many of a thousand are at or below (nearest rank); nothing of nothing.
pub fn quantile(values: &[f64], per_mille: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// What changes of a few nodes cost, and when the others had them.
#[derive(Default, Debug)]
pub struct Sets {
    /// Milliseconds from the set to each other node that runs; infinite where it did not come.
    pub times: Vec<f64>,
    /// The last node of each change.
    pub last: Vec<f64>,
    /// UPDATEs of the owner, and of all, for a change.
    pub by_owner: Vec<f64>,
    pub pushes: Vec<f64>,
    pub push_bytes: Vec<f64>,
    /// PEERS of all beyond those that travel anyway.
    pub lists: Vec<f64>,
}

impl Sets {
    pub fn share_within(&self, ms: f64) -> f64 {
        let within = self.times.iter().filter(|time| **time <= ms).count();
        100.0 * within as f64 / self.times.len() as f64
    }

    pub fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Nodes that run.
fn running(crowd: &Crowd) -> Vec<usize> {
    (0..crowd.hosts.len()).filter(|host| crowd.is_running(*host)).collect()
}

fn choose(crowd: &mut Crowd) -> usize {
    let running = running(crowd);
    running[crowd.random.usize(..running.len())]
}

/// So many nodes change a key, one after the other, while all goes on as ever.
pub fn sets(crowd: &mut Crowd, count: usize) -> Sets {
    let mut sets = Sets::default();
    let idle = traffic_of(crowd, LISTEN);
    for _ in 0..count {
        let pause = crowd.random.u64(0..3 * SECOND);
        crowd.run_for(pause);
        set(crowd, &mut sets, idle.lists as f64 / LISTEN as f64);
    }
    sets
}

fn set(crowd: &mut Crowd, sets: &mut Sets, lists_idle: f64) {
    let owner = choose(crowd);
    let (before, own) = (crowd.traffic, crowd.hosts[owner].sent);
    let began_us = crowd.now_us;
    let watch = crowd.set(owner);
    let all = running(crowd).len() - 1;
    crowd.run_until(CHANGE_MAX, |crowd| crowd.watches[watch].reached.len() >= all);
    crowd.run_for(AFTER);
    let traffic = crowd.traffic.since(&before);
    let own = crowd.hosts[owner].sent.since(&own);
    sets.by_owner.push(own.pushes as f64);
    sets.pushes.push(traffic.pushes as f64);
    sets.push_bytes.push(traffic.push_bytes as f64);
    sets.lists.push(traffic.lists as f64 - lists_idle * (crowd.now_us - began_us) as f64);
    note(crowd, watch, sets);
}

/// Takes the times of a change.
fn note(crowd: &Crowd, watch: usize, sets: &mut Sets) {
    let watch = &crowd.watches[watch];
    let others = running(crowd).into_iter().filter(|host| *host != watch.owner);
    let time = |host| watch.reached.get(&host).map_or(f64::INFINITY, |us| *us as f64 / 1e3);
    let times: Vec<f64> = others.map(time).collect();
    sets.last.push(times.iter().copied().fold(0.0, f64::max));
    sets.times.extend(times);
}

fn traffic_of(crowd: &mut Crowd, us: u64) -> Traffic {
    let before = crowd.traffic;
    crowd.run_for(us);
    crowd.traffic.since(&before)
}

/// Requests and bytes of a node in a second of which nothing happens.
pub fn idle(crowd: &mut Crowd, seconds: u64) -> (f64, f64) {
    let traffic = idle_traffic(crowd, seconds);
    let each = seconds as f64 * running(crowd).len() as f64;
    (traffic.requests as f64 / each, traffic.bytes as f64 / each)
}

/// What all send in so many seconds of which nothing happens.
pub fn idle_traffic(crowd: &mut Crowd, seconds: u64) -> Traffic {
    traffic_of(crowd, seconds * SECOND)
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ends, and its host refuses its port.
    Killed,
    /// It stops, and says nothing.
    Hung,
    /// Nothing passes to it and from it.
    Cut,
}

/// After how long, s, all others count as lost one node that ends, for each of a few; infinite
/// where some never do. Afterwards it is back.
pub fn detection(crowd: &mut Crowd, end: End, count: usize) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..count {
        let pause = crowd.random.u64(0..3 * SECOND);
        crowd.run_for(pause);
        let victim = choose(crowd);
        let others = running(crowd).len() - 1;
        match end {
            End::Killed => crowd.kill(victim),
            End::Hung => crowd.hang(victim),
            End::Cut => crowd.hosts[victim].side = 1,
        }
        let time = crowd.run_until(PATIENCE, |crowd| crowd.lost_by(victim) >= others);
        times.push(time.map_or(f64::INFINITY, |us| us as f64 / 1e6));
        if end == End::Hung {
            crowd.kill(victim);
        }
        crowd.hosts[victim].side = 0;
        if end != End::Cut {
            crowd.start(victim);
        }
        crowd.run_until(PATIENCE, Crowd::is_whole);
        crowd.run_for(10 * SECOND);
    }
    times
}

/// What was said by mistake of nodes that were there all the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mistakes {
    pub seconds: u64,
    pub suspects: u64,
    pub losts: u64,
    /// The same, counted once however many nodes say it.
    pub suspicions: u64,
    pub losses: u64,
}

/// Runs for so long, and listens.
pub fn mistakes(crowd: &mut Crowd, seconds: u64) -> Mistakes {
    crowd.forget_counts();
    crowd.run_for(seconds * SECOND);
    Mistakes {
        seconds,
        suspects: crowd.false_suspects,
        losts: crowd.false_losts,
        suspicions: crowd.suspicions,
        losses: crowd.losses,
    }
}

fn seconds(us: Option<u64>) -> f64 {
    us.map_or(f64::INFINITY, |us| us as f64 / 1e6)
}

/// All start at once, and know the first one alone: after how long, s, all know all; and what it
/// took. What is lacking is said to `tell` four times a second.
pub fn join(
    count: usize,
    loss: u32,
    seed: u64,
    limit_s: u64,
    tell: impl Fn(&Crowd),
) -> (f64, Traffic, Crowd) {
    let mut crowd = Crowd::new(count, seed);
    crowd.loss = loss;
    for host in 0..count {
        crowd.start(host);
    }
    let began_us = crowd.now_us;
    let mut time = None;
    while time.is_none() && crowd.now_us - began_us < limit_s * SECOND {
        time = crowd.run_until(SECOND / 4, Crowd::is_whole);
        tell(&crowd);
    }
    let traffic = crowd.traffic;
    (seconds(time.map(|_| crowd.now_us - began_us)), traffic, crowd)
}

/// One more starts: after how long, s, it knows all and all know it; and the requests beyond those
/// of an idle network.
pub fn late(crowd: &mut Crowd, host: usize) -> (f64, f64) {
    let idle = traffic_of(crowd, 10 * SECOND);
    let (before, began_us) = (crowd.traffic, crowd.now_us);
    crowd.start(host);
    let time = crowd.run_until(PATIENCE, |crowd| crowd.is_met(host));
    crowd.run_for(SECOND);
    let took = (crowd.now_us - began_us) as f64 / (10 * SECOND) as f64;
    let requests = crowd.traffic.since(&before).requests as f64 - idle.requests as f64 * took;
    (seconds(time), requests)
}

/// So many end at once; at these times after it, ms, one of the others changes a key.
pub fn many_end(crowd: &mut Crowd, end: End, count: usize, sets_at: &[u64]) -> Sets {
    let mut victims = running(crowd);
    crowd.random.shuffle(&mut victims);
    victims.truncate(count);
    for victim in &victims {
        match end {
            End::Killed => crowd.kill(*victim),
            End::Hung => crowd.hang(*victim),
            End::Cut => crowd.hosts[*victim].side = 1,
        }
    }
    let began_us = crowd.now_us;
    let mut watches = Vec::new();
    for at in sets_at {
        crowd.run_for((began_us + at * 1000).saturating_sub(crowd.now_us));
        let owner = choose(crowd);
        watches.push(crowd.set(owner));
    }
    crowd.run_for(CHANGE_MAX);
    let mut sets = Sets::default();
    for watch in watches {
        note(crowd, watch, &mut sets);
    }
    sets
}

/// After how long, s, the two halves are whole again that did not hear each other for a minute and
/// changed meanwhile.
pub fn split(crowd: &mut Crowd) -> f64 {
    let half = crowd.hosts.len() / 2;
    for host in half..crowd.hosts.len() {
        crowd.hosts[host].side = 1;
    }
    for _ in 0..6 {
        crowd.run_for(10 * SECOND);
        for side in [0, 1] {
            let owner = side * half + crowd.random.usize(..half);
            crowd.set(owner);
        }
    }
    for host in &mut crowd.hosts {
        host.side = 0;
    }
    seconds(crowd.run_until(PATIENCE, Crowd::is_whole))
}

/// All nodes end and start again at once: after how long, s, all is whole.
pub fn restart(crowd: &mut Crowd) -> f64 {
    let all = running(crowd);
    for host in &all {
        crowd.kill(*host);
    }
    for host in &all {
        crowd.start(*host);
    }
    seconds(crowd.run_until(PATIENCE, Crowd::is_whole))
}
