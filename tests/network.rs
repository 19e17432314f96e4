//! Networks that break: real nodes on hosts of their own (network namespaces), with the tick that
//! users have, and links that are cut, flap or go one way, hosts that move, hang or are gone.
//!
//! It needs root and `ip`; without them each test says `SKIPPED` and passes, unless
//! `DSN_REQUIRE_NAMESPACES=1`; and `nft` where packets get lost (`DSN_REQUIRE_LOSS=1`).
//! `DSN_LONG=1` splits a network for ten minutes instead of one. Each test prints what it measured
//! (`cargo test network:: -- --show-output`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::namespaces::{Layout, Network};
use crate::support::process::Process;
use crate::support::{Place4Nodes, eventually};
use rustix::process::Signal;

/// Longest time that healing may take.
const HEALING_MAX: Duration = Duration::from_secs(60);
/// A change that is pushed is there far sooner than this, the half of it in most rounds; one that
/// waits for the tick (3 s) is not.
const AT_ONCE: Duration = Duration::from_millis(500);
/// One that waits behind a request to somebody who does not answer waits longer than this (5 s).
const HELD_UP: Duration = Duration::from_secs(3);
/// How often it is looked whether all are equal: this is how exact the figures are.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a scenario measured; nothing where it was skipped.
type Figures = Option<String>;
type Scenario = fn() -> Figures;

/// The scenarios wait most of the time, and the test harness runs no more tests at one time than
/// there are cores. So the first test starts the scenarios of all, and each waits for its own.
const SCENARIOS: [(&str, Scenario); 10] = [
    ("halves_go_on_and_become_one_again", halves),
    ("splits_may_overlap", overlapping_splits),
    ("one_way_links_keep_nobody_from_the_state", one_way_links),
    ("state_flows_through_a_bridge", bridge),
    ("a_node_that_moves_while_others_sleep_is_found_again", moving),
    ("all_start_again_at_once", restart_of_all),
    ("the_bootstrap_node_may_be_gone_for_ever", without_bootstrap_node),
    ("a_node_that_hangs_delays_nobody_and_comes_back_by_itself", hanging),
    ("flapping_neither_floods_nor_loses", flapping),
    ("where_packets_get_lost_nobody_is_missed_and_nothing_is_wrong", lossy),
];

type Threads = BTreeMap<&'static str, JoinHandle<Figures>>;

static THREADS: LazyLock<Mutex<Threads>> = LazyLock::new(|| {
    let start = |(name, scenario): &(&'static str, Scenario)| {
        let thread = std::thread::Builder::new().name((*name).to_owned()).spawn(*scenario);
        (*name, thread.unwrap())
    };
    Mutex::new(SCENARIOS.iter().filter(|(name, _)| is_asked_for(name)).map(start).collect())
});

/// Whether the test harness will run the test of this name, by the arguments that it got.
fn is_asked_for(name: &str) -> bool {
    let (mut filters, mut skips, mut exact) = (Vec::new(), Vec::new(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--exact" => exact = true,
            "--skip" => skips.extend(arguments.next()),
            "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => {
                arguments.next();
            }
            option if option.starts_with('-') => {
                skips.extend(option.strip_prefix("--skip=").map(str::to_owned));
            }
            _ => filters.push(argument),
        }
    }
    let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
    let fits = |filter: &String| if exact { name == *filter } else { name.contains(filter) };
    (filters.is_empty() || filters.iter().any(fits)) && !skips.iter().any(fits)
}

/// Waits for the scenario of the test, and fails as it failed.
fn awaits(name: &str) {
    let thread = THREADS.lock().unwrap().remove(name).expect("it was started");
    match thread.join() {
        Ok(Some(figures)) => eprintln!("FIGURES {name}: {figures}"),
        Ok(None) => {}
        Err(fault) => {
            let text = fault.downcast_ref::<String>().cloned();
            let text = text.or_else(|| fault.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            panic!("{}", text.unwrap_or_else(|| "it failed".to_owned()));
        }
    }
}

/// Nodes `n0` to `n…`, one on each host. The nodes end before their hosts are removed.
struct Cluster {
    nodes: BTreeMap<usize, Process>,
    place: Place4Nodes,
    network: Network,
}

impl Cluster {
    /// Starts a node on each host, each but the first with the first as its bootstrap node, and
    /// waits until all know each other.
    fn new(left: usize, right: usize) -> Option<Self> {
        let mut cluster = Self::empty(Layout::OneNetwork { left, right })?;
        cluster.start_all(&cluster.network.everyone());
        Some(cluster)
    }

    /// Hosts on which nothing runs.
    fn empty(layout: Layout) -> Option<Self> {
        let network = Network::new(layout)?;
        Some(Self { nodes: BTreeMap::new(), place: Place4Nodes::new(), network })
    }

    fn start_all(&mut self, hosts: &[usize]) {
        let first = [self.network.address(hosts[0], 0)];
        for host in hosts {
            self.start(*host, if *host == hosts[0] { &[] } else { &first });
        }
        self.equal_within(hosts, HEALING_MAX);
    }

    fn start(&mut self, host: usize, bootstrap: &[String]) {
        self.nodes.insert(host, self.network.start(&self.place, host, bootstrap));
    }

    fn kill(&mut self, host: usize) {
        self.nodes.remove(&host).unwrap().kill();
    }

    fn everyone(&self) -> Vec<usize> {
        self.nodes.keys().copied().collect()
    }

    fn set(&self, host: usize, key: &str, value: &str) {
        self.nodes[&host].told(&["set", key, value]);
    }

    fn get(&self, host: usize, owner: usize, key: &str) -> String {
        self.nodes[&host].told(&["get", &format!("n{owner}"), key])
    }

    fn signal(&self, hosts: &[usize], signal: Signal) {
        hosts.iter().for_each(|host| self.nodes[host].signal(signal));
    }

    fn status(&self, host: usize, other: usize) -> String {
        self.nodes[&host].status_of(&format!("n{other}"))
    }

    /// Waits until all the given hosts hold this of the owner; gives how long that took.
    fn heard(&self, hosts: &[usize], owner: usize, key: &str, value: &str) -> Duration {
        let began = Instant::now();
        for host in hosts {
            let owner = format!("n{owner}");
            self.nodes[host].told(&["--timeout", "60s", "wait", "key", &owner, key, value]);
        }
        began.elapsed()
    }

    /// Changes the state of a host, and gives how long it takes to the given ones.
    fn spreads(&self, hosts: &[usize], owner: usize, key: &str, value: &str) -> Duration {
        let began = Instant::now();
        self.set(owner, key, value);
        self.heard(hosts, owner, key, value);
        began.elapsed()
    }

    /// What the hosts lack to hold the same of each other, and to call each other alive.
    fn lacking(&self, hosts: &[usize], alive: bool) -> Vec<String> {
        let states: Vec<BTreeMap<String, serde_json::Value>> = hosts
            .iter()
            .map(|host| {
                let all = self.nodes[host].json(&["state"]);
                let of = |state: &serde_json::Value| {
                    (state["node_id"].as_str().unwrap().to_owned(), state.clone())
                };
                all.as_array().unwrap().iter().map(of).collect()
            })
            .collect();
        let mut lacking = Vec::new();
        for (host, held) in hosts.iter().zip(&states) {
            for (other, own) in hosts.iter().zip(&states) {
                let name = format!("n{other}");
                let (held, own) = (held.get(&name), &own[&name]);
                let same = held.is_some_and(|held| {
                    held["timestamp"] == own["timestamp"] && held["entries"] == own["entries"]
                });
                if !same || alive && held.is_none_or(|held| held["status"] != "alive") {
                    lacking.push(format!("n{host} holds {held:?}, {name} has {own}"));
                }
            }
        }
        lacking
    }

    fn within(&self, hosts: &[usize], alive: bool, limit: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let lacking = self.lacking(hosts, alive);
            if lacking.is_empty() {
                return began.elapsed();
            }
            let logs = || self.nodes.values().map(Process::log_text).collect::<String>();
            assert!(began.elapsed() < limit, "not equal in {limit:?}: {lacking:#?}\n{}", logs());
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Waits until all the given hosts hold the same and call each other alive.
    fn equal_within(&self, hosts: &[usize], limit: Duration) -> Duration {
        self.within(hosts, true, limit)
    }

    /// Waits until all the given hosts hold the same, whoever can speak to whom.
    fn same_state_within(&self, hosts: &[usize], limit: Duration) -> Duration {
        self.within(hosts, false, limit)
    }

    /// Waits until the node has on disk what it needs to find the others after a start.
    fn peers_are_on_disk(&self, host: usize, others: &[usize]) {
        let path = self.place.path().join(format!("credentials/n{host}/known_peers"));
        eventually("the peers are on disk", || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            others.iter().filter(|other| **other != host).all(|other| {
                let address = self.network.address(*other, 0);
                text.lines()
                    .any(|line| line.contains(&format!("n{other}")) && line.contains(&address))
            })
        });
    }
}

/// Nothing happens for so long; the test has to see that it stays so.
fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn show(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// The times in words; they must be short. One of them may be long where the machine is busy.
fn all_at_once(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    assert!(median < AT_ONCE, "a change waits for the tick: {times:?}");
    assert!(longest < HELD_UP, "a change is held up: {times:?}");
    format!("a change is there in {} (median), {} (longest)", show(median), show(longest))
}

fn both_ways(left: &[usize], right: &[usize]) -> Vec<(usize, usize)> {
    let pairs = left.iter().flat_map(|a| right.iter().flat_map(|b| [(*a, *b), (*b, *a)]));
    pairs.collect()
}

#[test]
fn halves_go_on_and_become_one_again() {
    awaits("halves_go_on_and_become_one_again");
}

fn halves() -> Figures {
    let minutes = if std::env::var("DSN_LONG").is_ok_and(|long| long == "1") { 10 } else { 1 };
    let cluster = Cluster::new(4, 4)?;
    let (left, right) = ([0, 1, 2, 3], [4, 5, 6, 7]);
    cluster.network.set_trunk(false);
    let mut times = Vec::new();
    for round in 0..10 {
        pass(seconds(minutes * 60 / 10));
        let value = round.to_string();
        times.push(cluster.spreads(&left, 1, "left", &value));
        times.push(cluster.spreads(&right, 6, "right", &value));
    }
    for (host, other) in [(0, 7), (4, 0)] {
        assert_eq!(cluster.status(host, other), "lost", "n{other} as n{host} sees it");
    }
    let far = cluster.nodes[&0].ask(&["get", "n6", "right"]);
    assert_eq!(far.code, 1, "the halves are apart: {far:?}");
    cluster.network.set_trunk(true);
    let healed = cluster.equal_within(&cluster.everyone(), HEALING_MAX);
    assert_eq!((cluster.get(0, 6, "right"), cluster.get(5, 1, "left")), ("9".into(), "9".into()));
    Some(format!("split for {minutes} min; {}; whole in {}", all_at_once(times), show(healed)))
}

#[test]
fn splits_may_overlap() {
    awaits("splits_may_overlap");
}

fn overlapping_splits() -> Figures {
    let cluster = Cluster::new(6, 0)?;
    let all = cluster.everyone();
    // A ring: each sees its two neighbours only, so no two hosts see the same part.
    let far = |a: usize, b: usize| ![0, 1, 5].contains(&((a + 6 - b) % 6));
    let pairs = all.iter().flat_map(|a| all.iter().map(|b| (*a, *b)));
    let apart: Vec<_> = pairs.filter(|(a, b)| far(*a, *b)).collect();
    cluster.network.cut(&apart);
    for host in &all {
        cluster.set(*host, "k", "as they are cut");
    }
    let first = cluster.same_state_within(&all, HEALING_MAX);
    pass(seconds(20));
    assert_eq!(cluster.status(0, 3), "lost");
    for host in &all {
        cluster.set(*host, "k", "in a ring");
    }
    let ring = cluster.same_state_within(&all, HEALING_MAX);
    cluster.network.mend(&apart);
    let mended = cluster.equal_within(&all, HEALING_MAX);
    // Two splits at one time, of which one ends before the other.
    let one = both_ways(&[0, 1, 2], &[3, 4, 5]);
    let other = both_ways(&[0, 3], &[1, 2, 4, 5]);
    let (one, other): (BTreeSet<_>, BTreeSet<_>) =
        (one.into_iter().collect(), other.into_iter().collect());
    let both: Vec<_> = one.union(&other).copied().collect();
    cluster.network.cut(&both);
    let mut times = Vec::new();
    for round in 0..10 {
        pass(seconds(2));
        for group in [[1, 2], [4, 5]] {
            times.push(cluster.spreads(&group, group[0], "k", &format!("both {round}")));
        }
    }
    cluster.set(0, "k", "alone");
    cluster.set(3, "k", "alone");
    cluster.network.mend(&one.difference(&other).copied().collect::<Vec<_>>());
    let part = cluster.equal_within(&[0, 3], HEALING_MAX);
    let part = part.max(cluster.equal_within(&[1, 2, 4, 5], HEALING_MAX));
    cluster.network.mend(&other.into_iter().collect::<Vec<_>>());
    let healed = cluster.equal_within(&all, HEALING_MAX);
    let times = all_at_once(times);
    Some(format!(
        "a change is all around a ring of six in {} as it is cut, {} later; whole in {}; in two splits {times}; \
         one split ended: its parts equal in {}; the other one too: whole in {}",
        show(first),
        show(ring),
        show(mended),
        show(part),
        show(healed)
    ))
}

#[test]
fn one_way_links_keep_nobody_from_the_state() {
    awaits("one_way_links_keep_nobody_from_the_state");
}

fn one_way_links() -> Figures {
    let cluster = Cluster::new(5, 0)?;
    let all = cluster.everyone();
    let pairs = [(0, 1), (2, 3), (3, 4), (4, 1)];
    let mut figures = Vec::new();
    for what in ["packets vanish one way", "calls are refused one way"] {
        if what.starts_with("packets") {
            cluster.network.cut(&pairs);
        } else {
            cluster.network.forbid(&pairs);
        }
        for (when, wait) in [("at once", 0), ("after 20 s", 20)] {
            pass(seconds(wait));
            for host in &all {
                cluster.set(*host, what, when);
            }
            let took = cluster.same_state_within(&all, HEALING_MAX);
            figures.push(format!("{what}, {when}: all hold all in {}", show(took)));
        }
        if what.starts_with("packets") {
            cluster.network.mend(&pairs);
        } else {
            cluster.network.allow(&pairs);
        }
        figures.push(format!("whole in {}", show(cluster.equal_within(&all, HEALING_MAX))));
    }
    Some(figures.join("; "))
}

#[test]
fn state_flows_through_a_bridge() {
    awaits("state_flows_through_a_bridge");
}

fn bridge() -> Figures {
    let mut cluster = Cluster::empty(Layout::Bridged { left: 3, right: 3 })?;
    let (left, right, bridge) = ([0, 1, 2], [3, 4, 5], 6);
    cluster.start(bridge, &[]);
    for host in left {
        let bootstrap = cluster.network.address(bridge, 0);
        cluster.start(host, &[bootstrap]);
    }
    for host in right {
        let bootstrap = cluster.network.address(bridge, 1);
        cluster.start(host, &[bootstrap]);
    }
    let all = cluster.everyone();
    let joined = cluster.same_state_within(&all, HEALING_MAX);
    for half in [&left, &right] {
        let half: Vec<usize> = half.iter().copied().chain([bridge]).collect();
        cluster.equal_within(&half, HEALING_MAX);
    }
    assert_ne!(cluster.status(0, 4), "alive", "the halves do not see each other");
    let mut flows = Vec::new();
    for round in 0..5 {
        pass(seconds(2));
        flows.push(cluster.spreads(&right, 0, "k", &round.to_string()));
        flows.push(cluster.spreads(&left, 5, "k", &round.to_string()));
    }
    flows.sort_unstable();
    // The bridge itself is cut from one half, and comes back.
    cluster.network.set_link(bridge, 1, false);
    pass(seconds(30));
    cluster.set(1, "k", "meanwhile");
    cluster.set(4, "k", "meanwhile");
    cluster.heard(&[0, 2, bridge], 1, "k", "meanwhile");
    cluster.heard(&[3, 5], 4, "k", "meanwhile");
    assert_eq!(cluster.nodes[&0].ask(&["get", "n4", "k"]).code, 1, "nothing passes now");
    cluster.network.set_link(bridge, 1, true);
    let healed = cluster.same_state_within(&all, HEALING_MAX);
    Some(format!(
        "all hold all in {}; a change is on the far side in {} (median), {} (longest); the bridge was cut for 30 s: \
         all hold all in {}",
        show(joined),
        show(flows[flows.len() / 2]),
        show(flows[flows.len() - 1]),
        show(healed)
    ))
}

#[test]
fn a_node_that_moves_while_others_sleep_is_found_again() {
    awaits("a_node_that_moves_while_others_sleep_is_found_again");
}

fn moving() -> Figures {
    let mut cluster = Cluster::new(5, 0)?;
    let all = cluster.everyone();
    let mut figures = Vec::new();
    for (round, asleep) in [&[0, 1, 3, 4][..], &[3, 4]].into_iter().enumerate() {
        cluster.signal(asleep, Signal::STOP);
        pass(seconds(5));
        cluster.network.move_host(2, &format!("10.77.9.{}", round + 1));
        cluster.set(2, "moved", &round.to_string());
        pass(seconds(25));
        cluster.signal(asleep, Signal::CONT);
        let whole = cluster.equal_within(&all, HEALING_MAX);
        let address = cluster.network.address(2, 0);
        for host in all.iter().filter(|host| **host != 2) {
            eventually("the new address is known", || {
                let peers = cluster.nodes[host].json(&["peers"]);
                let known = |peer: &serde_json::Value| {
                    peer["node_id"] == "n2" && peer["address"] == *address
                };
                peers.as_array().unwrap().iter().any(known)
            });
        }
        figures.push(format!("{} of 4 asleep: whole in {}", asleep.len(), show(whole)));
    }
    Some(figures.join("; "))
}

#[test]
fn all_start_again_at_once() {
    awaits("all_start_again_at_once");
}

fn restart_of_all() -> Figures {
    let mut cluster = Cluster::new(4, 4)?;
    let all = cluster.everyone();
    for host in &all {
        cluster.set(*host, "k", &format!("kept by n{host}"));
    }
    all.iter().for_each(|host| cluster.kill(*host));
    let began = Instant::now();
    cluster.start_all(&all);
    let whole = began.elapsed();
    for host in &all {
        assert_eq!(cluster.get(*host, (host + 3) % 8, "k"), format!("kept by n{}", (host + 3) % 8));
    }
    Some(format!("eight nodes were killed and started: whole in {}", show(whole)))
}

#[test]
fn the_bootstrap_node_may_be_gone_for_ever() {
    awaits("the_bootstrap_node_may_be_gone_for_ever");
}

fn without_bootstrap_node() -> Figures {
    let mut cluster = Cluster::empty(Layout::OneNetwork { left: 6, right: 0 })?;
    cluster.start_all(&[0, 1, 2, 3, 4]);
    let (rest, newcomer) = ([1, 2, 3, 4], 5);
    // Its address is silent from now on, as that of a host that was taken away.
    cluster.set(0, "k", "left behind");
    cluster.heard(&rest, 0, "k", "left behind");
    cluster.network.set_link(0, 0, false);
    cluster.kill(0);
    let began = Instant::now();
    eventually("it is lost", || rest.iter().all(|host| cluster.status(*host, 0) == "lost"));
    let lost = began.elapsed();
    let mut times = Vec::new();
    for round in 0..5 {
        times.push(cluster.spreads(&rest, 1, "k", &round.to_string()));
    }
    assert_eq!(cluster.get(4, 0, "k"), "left behind");
    // And all others start again, with nobody to ask but each other.
    rest.iter().for_each(|host| cluster.peers_are_on_disk(*host, &rest));
    rest.iter().for_each(|host| cluster.kill(*host));
    let gone = cluster.network.address(0, 0);
    let began = Instant::now();
    rest.iter().for_each(|host| cluster.start(*host, std::slice::from_ref(&gone)));
    cluster.equal_within(&rest, HEALING_MAX);
    let whole = began.elapsed();
    let began = Instant::now();
    cluster.start(newcomer, &[gone, cluster.network.address(3, 0)]);
    cluster.equal_within(&[1, 2, 3, 4, newcomer], HEALING_MAX);
    Some(format!(
        "lost after {}; {}; the others started again: whole in {}; one comes in with another bootstrap node in {}",
        show(lost),
        all_at_once(times),
        show(whole),
        show(began.elapsed())
    ))
}

#[test]
fn a_node_that_hangs_delays_nobody_and_comes_back_by_itself() {
    awaits("a_node_that_hangs_delays_nobody_and_comes_back_by_itself");
}

fn hanging() -> Figures {
    let mut cluster = Cluster::new(5, 0)?;
    let awake = [0, 1, 2, 3];
    let began = Instant::now();
    cluster.signal(&[4], Signal::STOP);
    let mut times = Vec::new();
    for round in 0..20 {
        // The first ones fall into the time in which nobody knows yet that it hangs.
        times.push(cluster.spreads(&awake, round % 4, "round", &round.to_string()));
        cluster.nodes[&1].told(&["ping", "n2"]);
        let next = seconds(3 * (u64::try_from(round).unwrap() + 1));
        pass(next.saturating_sub(began.elapsed()));
    }
    assert_eq!(cluster.status(0, 4), "lost");
    cluster.signal(&[4], Signal::CONT);
    let back = cluster.equal_within(&[0, 1, 2, 3, 4], HEALING_MAX);
    assert!(cluster.nodes.get_mut(&4).unwrap().child.try_wait().unwrap().is_none());
    let uptime = cluster.nodes[&4].json(&["status"])["uptime_s"].as_u64().unwrap();
    assert!(uptime >= 60, "it was not started again: up for {uptime} s");
    Some(format!("{}; it is back {} after it goes on", all_at_once(times), show(back)))
}

/// What a node may send while a link flaps, bytes and packets a second: four times what it does.
const FLAPPING_BYTES_MAX: f64 = 8.0 * 1024.0;
const FLAPPING_PACKETS_MAX: f64 = 40.0;

/// Packets that get lost on their way to each host, %: far more than on a bad radio link, which
/// sends again what was not acknowledged.
const PACKETS_LOST: u32 = 10;

#[test]
fn where_packets_get_lost_nobody_is_missed_and_nothing_is_wrong() {
    awaits("where_packets_get_lost_nobody_is_missed_and_nothing_is_wrong");
}

fn lossy() -> Figures {
    let mut cluster = Cluster::empty(Layout::OneNetwork { left: 8, right: 0 })?;
    let all = cluster.network.everyone();
    if !cluster.network.lose(&all, PACKETS_LOST) {
        return None;
    }
    let began = Instant::now();
    cluster.start_all(&all);
    let met = began.elapsed();
    let mut times = Vec::new();
    for round in 0..10 {
        pass(seconds(3));
        times.push(cluster.spreads(&all, round % all.len(), "round", &round.to_string()));
    }
    times.sort_unstable();
    for (host, node) in &cluster.nodes {
        let log = node.logged(&[" joined"]);
        assert!(!log.lines().any(|line| line.ends_with(" lost")), "n{host} missed one: {log}");
        assert!(!log.contains("(one-way"), "n{host} says that one can't be called: {log}");
    }
    let (median, longest) = (show(times[times.len() / 2]), show(times[times.len() - 1]));
    Some(format!(
        "met in {}; a change is there in {median} (median), {longest} (longest)",
        show(met)
    ))
}

#[test]
fn flapping_neither_floods_nor_loses() {
    awaits("flapping_neither_floods_nor_loses");
}

fn flapping() -> Figures {
    let cluster = Cluster::new(3, 3)?;
    let all = cluster.everyone();
    let (before, began) = (cluster.network.sent(), Instant::now());
    let mut accepted = BTreeSet::new();
    for round in 0..60 {
        cluster.network.set_trunk(round % 2 == 1);
        cluster.set(round % 6, "round", &round.to_string());
        // From one side to the other: what was accepted must not get lost, or come twice.
        let text = round.to_string();
        if cluster.nodes[&0].ask(&["--timeout", "1500ms", "send", "n5", &text]).code == 0 {
            accepted.insert(text);
        }
        let next = seconds(2 * (u64::try_from(round).unwrap() + 1));
        pass(next.saturating_sub(began.elapsed()));
    }
    let (after, elapsed) = (cluster.network.sent(), began.elapsed().as_secs_f64());
    let healed = cluster.equal_within(&all, HEALING_MAX);
    for owner in &all {
        let last = (54 + owner).to_string();
        assert_eq!(cluster.get((owner + 3) % 6, *owner, "round"), last, "nothing is lost");
    }
    let mut received = Vec::new();
    while let said = cluster.nodes[&5].ask(&["--timeout", "0s", "recv"])
        && said.code == 0
    {
        received.push(said.out.trim_end().to_owned());
    }
    let once: BTreeSet<String> = received.iter().cloned().collect();
    assert_eq!(once.len(), received.len(), "no message comes twice: {received:?}");
    assert!(accepted.is_subset(&once), "accepted {accepted:?}, received {received:?}");
    assert!(accepted.len() >= 10, "most that are sent while the link is up arrive: {accepted:?}");
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let a_second = |count: u64| count as f64 / elapsed / all.len() as f64;
    let (bytes, packets) = (a_second(after.0 - before.0), a_second(after.1 - before.1));
    assert!(bytes < FLAPPING_BYTES_MAX, "{bytes:.0} bytes a second and node");
    assert!(packets < FLAPPING_PACKETS_MAX, "{packets:.0} packets a second and node");
    Some(format!(
        "{bytes:.0} bytes and {packets:.1} packets a second and node; {} of 60 messages accepted, all of them there \
         once; whole in {}",
        accepted.len(),
        show(healed)
    ))
}
