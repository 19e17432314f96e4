//! Nodes that are only slow: what they say of each other meanwhile, and what that costs.

use super::crowd::{Costs, Crowd, Traffic};
use super::partial::unseen;

const SECOND: u64 = 1_000_000;
/// Longest time that a network may need to settle.
const PATIENCE: u64 = 600 * SECOND;

/// A time in which each request costs more CPU than there is.
#[derive(Debug)]
pub struct Overload {
    /// Requests a second and node while it lasted, and before.
    pub requests: f64,
    pub idle: f64,
    /// Requests of all that are not PINGs, by what they are.
    pub traffic: Traffic,
    /// What was said by mistake.
    pub suspects: u64,
    pub losts: u64,
    pub refuted: u64,
    /// After how long, s, all see each other as alive and hold what all have when it is over.
    pub settled: f64,
    /// Requests a second and node in the minute after that.
    pub after: f64,
}

/// Requests cost so many times as much for so many seconds, of the own CPU of each host or of a
/// few that all share.
pub fn overload(crowd: &mut Crowd, factor: u64, cores: Option<usize>, seconds: u64) -> Overload {
    let each = |traffic: &Traffic, seconds: u64, crowd: &Crowd| {
        traffic.requests as f64 / seconds as f64 / crowd.hosts.len() as f64
    };
    let run = |crowd: &mut Crowd, seconds: u64| {
        let before = crowd.traffic;
        crowd.run_for(seconds * SECOND);
        crowd.traffic.since(&before)
    };
    let idle = run(crowd, 60);
    crowd.forget_counts();
    let refuted = |crowd: &Crowd| crowd.hosts.iter().map(|host| host.refuted).sum::<u64>();
    let refuted_before = refuted(crowd);
    let normal = crowd.costs;
    let Costs { send, receive, .. } = normal;
    crowd.costs = Costs { send: send * factor, receive: receive * factor, ..normal };
    crowd.cores = cores;
    let traffic = run(crowd, seconds);
    (crowd.costs, crowd.cores) = (normal, None);
    let (suspects, losts) = (crowd.false_suspects, crowd.false_losts);
    let refuted = refuted(crowd) - refuted_before;
    let is_settled = |crowd: &Crowd| unseen(crowd) == 0 && crowd.unheld() == 0;
    let settled = crowd.run_until(PATIENCE, is_settled);
    crowd.run_for(30 * SECOND);
    let after = run(crowd, 60);
    Overload {
        requests: each(&traffic, seconds, crowd),
        idle: each(&idle, 60, crowd),
        traffic,
        suspects,
        losts,
        refuted,
        settled: settled.map_or(f64::INFINITY, |us| us as f64 / 1e6),
        after: each(&after, 60, crowd),
    }
}
