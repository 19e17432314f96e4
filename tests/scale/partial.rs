//! Networks in which not everybody can call everybody: firewalls, subnets, links of one way.

use std::collections::HashSet;

use super::crowd::{Crowd, Seen, Traffic};

const SECOND: u64 = 1_000_000;
/// How long a network is left alone before it is looked at.
const SETTLING: u64 = 180 * SECOND;
/// Longest time that anything is waited for.
const PATIENCE: u64 = 120 * SECOND;

/// Who can't call whom. "The one" is a single node that all this is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Everybody can call everybody: what the others are held against.
    Whole,
    /// Half of the others can't call the one, which can call all.
    HalfIn,
    /// Half of the others and the one can't call each other.
    HalfApart,
    /// All can call the one, which can call nobody.
    Mute,
    /// Nobody can call the one, which can call all.
    Hidden,
    /// Nobody can call the one and another one: they hear each other by those that both call.
    Two,
    /// Nobody can call each eighth one, which can call all others.
    Several,
    /// Two can't call each other.
    Pair,
    /// Two halves can't call each other, and the one can call all and be called by all.
    Bridge,
}

impl Shape {
    pub const ALL: [Self; 9] = [
        Self::Whole,
        Self::HalfIn,
        Self::HalfApart,
        Self::Mute,
        Self::Hidden,
        Self::Two,
        Self::Several,
        Self::Pair,
        Self::Bridge,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::HalfIn => "half can't call one",
            Self::HalfApart => "half and one apart",
            Self::Mute => "one can call nobody",
            Self::Hidden => "nobody can call one",
            Self::Two => "nobody can call two",
            Self::Several => "nobody can call an eighth",
            Self::Pair => "a pair apart",
            Self::Bridge => "two halves and a bridge",
        }
    }

    /// The one. All know the first node from the beginning, so it is that one where it has to be
    /// found by others, or can't find them.
    pub fn one(self) -> usize {
        match self {
            Self::Mute | Self::Bridge => 0,
            _ => 2,
        }
    }

    /// Whose requests do not get through to whom, of so many nodes.
    pub fn walls(self, count: usize) -> HashSet<(usize, usize)> {
        let one = self.one();
        let odd = (0..count).filter(|host| host % 2 == 1);
        let others = (0..count).filter(|host| *host != one);
        match self {
            Self::Whole => HashSet::new(),
            Self::HalfIn => odd.map(|host| (host, one)).collect(),
            Self::HalfApart => odd.flat_map(|host| [(host, one), (one, host)]).collect(),
            Self::Mute => others.map(|host| (one, host)).collect(),
            Self::Hidden => others.map(|host| (host, one)).collect(),
            Self::Two => all_to(vec![1, one], count),
            Self::Several => all_to((0..count).filter(|host| host % 8 == one).collect(), count),
            Self::Pair => HashSet::from([(one, 3), (3, one)]),
            Self::Bridge => {
                let even = || (1..count).filter(|host| host % 2 == 0);
                let pairs = odd.flat_map(|a| even().map(move |b| (a, b)));
                pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
            }
        }
    }
}

/// The calls of all others to these.
fn all_to(hidden: Vec<usize>, count: usize) -> HashSet<(usize, usize)> {
    let callers = |to: usize| (0..count).filter(move |from| *from != to);
    hidden.into_iter().flat_map(|to| callers(to).map(move |from| (from, to))).collect()
}

/// A network of that shape, as it is after a while, in which so many requests and answers of a
/// million get lost. Its walls refuse, or meet calls with silence. A fresh one begins with them,
/// and knows the first node alone; else they come to be in one that has met.
pub fn settled(
    shape: Shape,
    count: usize,
    (refuse, is_fresh): (bool, bool),
    loss: u32,
    seed: u64,
) -> Crowd {
    let mut crowd = if is_fresh { Crowd::new(count, seed) } else { Crowd::primed(count, 0, seed) };
    crowd.walls = shape.walls(count);
    crowd.walls_refuse = refuse;
    crowd.loss = loss;
    if is_fresh {
        for host in 0..count {
            crowd.start(host);
        }
    }
    crowd.run_for(SETTLING);
    crowd.forget_counts();
    crowd
}

/// What a network of a shape does in a while in which nothing happens.
#[derive(Debug)]
pub struct Rest {
    pub seconds: u64,
    /// What people are told, by all together.
    pub suspects: u64,
    pub losts: u64,
    /// Of whom, each once.
    pub of: HashSet<usize>,
    /// Versions made as others accused their owner.
    pub refuted: u64,
    pub traffic: Traffic,
    /// Requests a second of all nodes, and of the one that makes most.
    pub requests: f64,
    pub busiest: f64,
    /// Bytes a second and node.
    pub bytes: f64,
    /// Pairs of which one does not see the other as alive, and pairs of which one does not hold the
    /// last version that the other wrote.
    pub unseen: usize,
    pub unheld: usize,
}

pub fn rest(crowd: &mut Crowd, seconds: u64) -> Rest {
    crowd.forget_counts();
    crowd.trace = Some(Vec::new());
    let count = crowd.hosts.len();
    let before = crowd.traffic;
    let sent: Vec<u64> = crowd.hosts.iter().map(|host| host.sent.requests).collect();
    let refuted = |crowd: &Crowd| crowd.hosts.iter().map(|host| host.refuted).sum::<u64>();
    let refuted_before = refuted(crowd);
    crowd.run_for(seconds * SECOND);
    let traffic = crowd.traffic.since(&before);
    let made = crowd.hosts.iter().zip(sent).map(|(host, before)| host.sent.requests - before);
    let each = seconds as f64 * count as f64;
    let trace = crowd.trace.take().unwrap_or_default();
    Rest {
        seconds,
        suspects: crowd.false_suspects,
        losts: crowd.false_losts,
        of: trace.iter().map(|(_, _, of, _)| *of).collect(),
        refuted: refuted(crowd) - refuted_before,
        requests: traffic.requests as f64 / each,
        busiest: made.max().unwrap_or_default() as f64 / seconds as f64,
        bytes: traffic.bytes as f64 / each,
        traffic,
        unseen: unseen(crowd),
        unheld: crowd.unheld(),
    }
}

/// Pairs of which one does not see the other as alive.
pub fn unseen(crowd: &Crowd) -> usize {
    let count = crowd.hosts.len();
    let pairs = (0..count).flat_map(|host| (0..count).map(move |other| (host, other)));
    let runs = |host: usize| crowd.is_running(host);
    let is_unseen = |&(host, other): &(usize, usize)| {
        host != other && runs(host) && runs(other) && crowd.seen(host, other) != Seen::Alive
    };
    pairs.filter(is_unseen).count()
}

/// After how long, ms, a change of a node is at all others that run.
pub fn change(crowd: &mut Crowd, owner: usize) -> f64 {
    let watch = crowd.set(owner);
    let all = (0..crowd.hosts.len()).filter(|host| crowd.is_running(*host)).count() - 1;
    let took = crowd.run_until(PATIENCE, |crowd| crowd.watches[watch].reached.len() >= all);
    crowd.run_for(5 * SECOND);
    took.map_or(f64::INFINITY, |us| us as f64 / 1e3)
}

/// After how long, s, one that is killed, or hangs, is lost at all others; and after how long it is
/// alive at all again when it is back.
pub fn death(crowd: &mut Crowd, victim: usize, hangs: bool) -> (f64, f64) {
    let pause = crowd.random.u64(0..6 * SECOND);
    crowd.run_for(pause);
    if hangs {
        crowd.hang(victim);
    } else {
        crowd.kill(victim);
    }
    let others = (0..crowd.hosts.len()).filter(|host| crowd.is_running(*host)).count();
    let seconds = |us: Option<u64>| us.map_or(f64::INFINITY, |us| us as f64 / 1e6);
    let lost = seconds(crowd.run_until(PATIENCE, |crowd| crowd.lost_by(victim) >= others));
    if hangs {
        crowd.kill(victim);
    }
    crowd.start(victim);
    let back = seconds(crowd.run_until(PATIENCE, |crowd| unseen(crowd) == 0));
    crowd.run_for(20 * SECOND);
    (lost, back)
}

/// The codes of what nodes say is wrong, with how many of them say so, and one sentence of each.
pub fn faults(crowd: &Crowd) -> Vec<(String, usize, String)> {
    let mut found: Vec<(String, usize, String)> = Vec::new();
    let now = crowd.now();
    for node in crowd.hosts.iter().filter_map(|host| host.node.as_ref()) {
        for fault in node.faults(now) {
            let about = fault.node.as_ref().map_or("", |node| node.as_str());
            let what = format!("{} {about}", fault.code.as_str());
            match found.iter_mut().find(|(known, ..)| *known == what) {
                Some((_, count, _)) => *count += 1,
                None => found.push((what, 1, fault.to_string())),
            }
        }
    }
    found
}
