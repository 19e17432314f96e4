//! What one change costs, side by side with another binary where `DSN_BASE_BIN` names one: CPU,
//! time to its caller and to all others, bytes, wakes; and what the nodes take at rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Scale;
use super::floor::Floor;
use super::network::{Control, Network, let_pass};
use super::propagate::{spread_paced, watch_own};
use super::rows::{Goal, Rows, save};
use super::stats::{median, ms, rss_mb, threads};
use crate::support::Place4Nodes;
use crate::support::process::{binary, dsn_of};

/// Time between two changes: all is at rest again, so nothing is shared.
const PAUSE: Duration = Duration::from_millis(20);
/// The same where bytes are counted: longer than an acknowledgement waits to go along with others.
const LONG_PAUSE: Duration = Duration::from_millis(100);
/// Peers of the owner in the network that most is measured in.
const PEERS: f64 = 15.0;

/// How much is done.
struct Plan {
    sizes: &'static [usize],
    /// The size that CPU, threads and memory are looked at.
    main: usize,
    rounds: usize,
    changes: usize,
    rest: Duration,
    /// Requests of the floor's pair, and starts.
    calls: usize,
    starts: usize,
}

const FULL: Plan = Plan {
    sizes: &[2, 8, 16, 32],
    main: 16,
    rounds: 3,
    changes: 200,
    rest: Duration::from_secs(6),
    calls: 2_000,
    starts: 7,
};
const QUICK: Plan = Plan {
    sizes: &[2, 3],
    main: 3,
    rounds: 1,
    changes: 20,
    rest: Duration::from_millis(500),
    calls: 50,
    starts: 2,
};

/// Figures by name, one value a round.
type Figures = BTreeMap<String, Vec<f64>>;

/// CPU (us) and wakes of a kind of thread for a change.
type Profile = BTreeMap<String, (f64, f64)>;

/// One of the binaries, and what was found of it.
struct Side {
    name: &'static str,
    binary: PathBuf,
    figures: Figures,
    profiles: Vec<(Profile, Profile)>,
}

impl Side {
    fn new(name: &'static str, binary: PathBuf) -> Self {
        Self { name, binary, figures: Figures::new(), profiles: Vec::new() }
    }

    fn add(&mut self, name: impl Into<String>, value: f64) {
        self.figures.entry(name.into()).or_default().push(value);
    }

    fn median(&self, name: &str) -> Option<f64> {
        self.figures.get(name).map(|values| median(values))
    }
}

/// Each thread of a process: its name, CPU so far, ns, and how often it began to wait.
fn threads_of(pid: u32) -> BTreeMap<String, (String, f64, f64)> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).ok();
        // One that ended meanwhile has no files.
        let Some(name) = read("comm") else { continue };
        let (Some(times), Some(status)) = (read("schedstat"), read("status")) else { continue };
        let cpu: f64 = times.split_whitespace().next().unwrap().parse().unwrap();
        let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let waits: f64 = waits.unwrap().trim().parse().unwrap();
        let id = task.file_name().into_string().unwrap();
        all.insert(id, (name.trim().to_owned(), cpu, waits));
    }
    all
}

/// What the threads of nodes did between two looks, by the kind of thread, each node's share for
/// each change. What was done by threads that have ended is in the CPU of the process alone.
fn profile(
    before: &[BTreeMap<String, (String, f64, f64)>],
    after: &[BTreeMap<String, (String, f64, f64)>],
    changes: usize,
) -> Profile {
    let mut profile = Profile::new();
    let each = (changes * after.len()) as f64;
    for (before, after) in before.iter().zip(after) {
        for (id, (name, cpu, waits)) in after {
            let (cpu_then, waits_then) = before.get(id).map_or((0.0, 0.0), |it| (it.1, it.2));
            let kind = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
            let sum = profile.entry(kind.to_owned()).or_default();
            sum.0 += (cpu - cpu_then) / 1e3 / each;
            sum.1 += (waits - waits_then) / each;
        }
    }
    profile
}

/// Changes with a pause between them and nobody who watches: until `set` returns, ms; CPU of all
/// nodes for a change, ms; and who used it.
fn paced(network: &mut Network, changes: usize) -> (f64, f64, (Profile, Profile)) {
    let look = |network: &Network| -> Vec<_> {
        network.nodes.iter().map(|node| threads_of(node.pid())).collect()
    };
    let mut set_ms = Vec::new();
    let (before, cpu) = (look(network), network.cpu_seconds());
    for change in 0..changes {
        let began = Instant::now();
        network.nodes[0].control.set("probe", &change.to_string());
        set_ms.push(ms(began.elapsed()));
        let_pass(PAUSE);
    }
    let cpu_ms = (network.cpu_seconds() - cpu) * 1e3 / changes as f64;
    let after = look(network);
    let owner = profile(&before[..1], &after[..1], changes);
    let receivers = profile(&before[1..], &after[1..], changes);
    (median(&set_ms), cpu_ms, (owner, receivers))
}

fn measure(side: &mut Side, plan: &Plan) {
    for nodes in plan.sizes {
        let mut network = Network::spawn(&side.binary, *nodes, false);
        network.settle();
        network.fill(10);
        let_pass(plan.rest);
        let (set_ms, cpu_ms, profiles) = paced(&mut network, plan.changes);
        side.add(format!("set returns, {nodes} nodes"), set_ms);
        if *nodes == plan.main {
            side.add("CPU of a change", cpu_ms);
            side.profiles.push(profiles);
            at_rest(side, &network, plan.rest);
        }
        // Watchers are there from here on: on each of the others, and on the owner.
        let own = watch_own(&network);
        let spread = spread_paced(&mut network, plan.changes / 2, PAUSE);
        side.add(format!("set to all, {nodes} nodes"), median(&spread.all_ms));
        side.add(format!("set returns, watched, {nodes} nodes"), median(&spread.set_ms));
        drop((network, own));
    }
    side.add("start to serving", start_ms(&side.binary, plan.starts));
    if let Some(bytes) = bytes_of_a_change(&side.binary, plan) {
        side.add("bytes of a change", bytes);
    }
}

fn at_rest(side: &mut Side, network: &Network, rest: Duration) {
    // Senders that are not needed any more end.
    let_pass(rest);
    let all = |read: fn(u32) -> f64| -> Vec<f64> {
        network.nodes.iter().map(|node| read(node.pid())).collect()
    };
    // That of the connection over which it is asked is none of a node at rest.
    side.add("threads at rest", median(&all(threads)) - 1.0);
    side.add("memory", median(&all(rss_mb)));
    let (began, cpu) = (Instant::now(), network.cpu_seconds());
    let_pass(2 * rest);
    let each = began.elapsed().as_secs_f64() * network.nodes.len() as f64;
    side.add("idle CPU", 100.0 * (network.cpu_seconds() - cpu) / each);
}

fn start_ms(binary: &Path, starts: usize) -> f64 {
    let place = Place4Nodes::new();
    let times = (0..=starts).map(|_| {
        let mut command = dsn_of(binary);
        command.current_dir(place.path());
        command.args(["run", "--node-id", "alone", "--listen", "127.0.0.1:0"]);
        let began = Instant::now();
        let process = place.spawn(command, "alone");
        Control::open(&process.control).ask(&json!({"op": "status"}));
        ms(began.elapsed())
    });
    // The first start makes keys and files.
    median(&times.skip(1).collect::<Vec<_>>())
}

/// A network of its own, in which nothing else is sent.
struct Namespace(String);

impl Namespace {
    /// Nothing where there can be none.
    fn new() -> Option<Self> {
        let name = format!("dsn-bench-{}", std::process::id());
        let ip = |arguments: &[&str]| {
            Command::new("ip").args(arguments).output().is_ok_and(|said| said.status.success())
        };
        if !ip(&["netns", "add", &name]) {
            println!("SKIPPED: bytes on the wire, which need root, `ip` and network namespaces");
            return None;
        }
        let namespace = Self(name);
        assert!(ip(&["-n", &namespace.0, "link", "set", "lo", "up"]), "it has a loopback");
        Some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Bytes of IP that loopback carried in the network of a process.
fn ip_bytes(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Bytes of a small change for each peer, with the heads of IP and TCP and all acknowledgements.
fn bytes_of_a_change(binary: &Path, plan: &Plan) -> Option<f64> {
    let namespace = Namespace::new()?;
    let peers = 2;
    let mut network = Network::spawn_in(binary, &namespace.0, peers + 1);
    network.settle();
    network.fill(10);
    let_pass(plan.rest);
    let (pid, changes) = (network.nodes[0].pid(), plan.changes / 4);
    let (began, before) = (Instant::now(), ip_bytes(pid));
    for change in 0..changes {
        network.nodes[0].control.set("probe", &format!("{change:05}"));
        let_pass(LONG_PAUSE);
    }
    let (after, elapsed) = (ip_bytes(pid), began.elapsed());
    // What is sent all the time is no part of a change.
    let_pass(elapsed);
    let quiet = ip_bytes(pid) - after;
    Some((after - before - quiet) / (changes * peers) as f64)
}

/// A figure: its name, its unit, what it is to be, and what it is to be of that of before.
type Figure = (String, &'static str, Goal, Goal);

fn figures(plan: &Plan) -> Vec<Figure> {
    let mut all = vec![("CPU of a change".into(), "ms", Goal::None, Goal::AtMost(0.6))];
    for nodes in plan.sizes {
        let goal = if *nodes >= 8 { Goal::AtMost(0.55) } else { Goal::None };
        all.push((format!("set to all, {nodes} nodes"), "ms", Goal::None, goal));
    }
    for what in ["set returns", "set returns, watched"] {
        let of = |nodes: &usize| (format!("{what}, {nodes} nodes"), "ms", Goal::None, Goal::None);
        all.extend(plan.sizes.iter().map(of));
    }
    all.push(("bytes of a change".into(), "", Goal::AtMost(600.0), Goal::None));
    all.push(("threads at rest".into(), "", Goal::AtMost(14.0), Goal::None));
    all.push(("memory".into(), "MB", Goal::None, Goal::None));
    all.push(("idle CPU".into(), "%", Goal::None, Goal::None));
    all.push(("start to serving".into(), "ms", Goal::None, Goal::None));
    all
}

/// The cost of one change.
pub(crate) fn change(scale: &Scale) {
    let plan = if scale.quick { &QUICK } else { &FULL };
    let mut rows = Rows::new("change");
    let mut sides = vec![Side::new("now", binary())];
    if let Some(base) = std::env::var_os("DSN_BASE_BIN") {
        sides.insert(0, Side::new("before", base.into()));
    }
    let mut pairs_us = Vec::new();
    for _ in 0..plan.rounds {
        pairs_us.push(Floor::start().pair_us(plan.calls));
        sides.iter_mut().for_each(|side| measure(side, plan));
    }
    for (name, unit, goal, of_before) in figures(plan) {
        for side in &sides {
            let Some(value) = side.median(&name) else { continue };
            let goal = if side.name == "now" { goal } else { Goal::None };
            rows.add(format!("{name}: {}", side.name), value, unit, goal);
        }
        if let [before, now] = sides.as_slice()
            && let Some((before, now)) = before.figures.get(&name).zip(now.figures.get(&name))
        {
            let ratios: Vec<f64> =
                before.iter().zip(now).map(|(before, now)| now / before).collect();
            rows.add(format!("{name}: now over before"), median(&ratios), "", of_before);
        }
    }
    rows.note("the floor's pair: CPU", median(&pairs_us), "us");
    for side in &sides {
        let is_now = side.name == "now";
        let goal = |most: f64| if is_now { Goal::AtMost(most) } else { Goal::None };
        let cpu = side.figures["CPU of a change"].iter().zip(&pairs_us);
        let over: Vec<f64> = cpu.map(|(cpu, pair)| cpu * 1e3 / (PEERS * pair)).collect();
        if plan.main == FULL.main {
            let what = format!("CPU of a change over 15 of the floor's pairs: {}", side.name);
            rows.add(what, median(&over), "", goal(1.25));
        }
        for what in ["set returns", "set returns, watched"] {
            let times = |nodes: usize| side.figures.get(&format!("{what}, {nodes} nodes"));
            let Some((few, many)) = times(2).zip(times(16)) else { continue };
            let over: Vec<f64> = few.iter().zip(many).map(|(few, many)| many / few).collect();
            rows.add(format!("{what}, 16 over 2: {}", side.name), median(&over), "", goal(1.1));
        }
    }
    tell_profiles(&sides);
    rows.save();
}

/// Prints and keeps who used the CPU: the median round of each kind of thread.
fn tell_profiles(sides: &[Side]) {
    let mut kept = Vec::new();
    println!("\n{:<8} | {:<9} | {:<14} | CPU us | waits", "binary", "node", "threads");
    for side in sides {
        for (node, of) in [("owner", 0), ("receiver", 1)] {
            let rounds: Vec<&Profile> = side
                .profiles
                .iter()
                .map(|(owner, receiver)| if of == 0 { owner } else { receiver })
                .collect();
            let kinds: std::collections::BTreeSet<&String> =
                rounds.iter().flat_map(|profile| profile.keys()).collect();
            for kind in kinds {
                let of = |pick: fn(&(f64, f64)) -> f64| {
                    let values = rounds.iter().filter_map(|profile| profile.get(kind));
                    median(&values.map(pick).collect::<Vec<_>>())
                };
                let (cpu, waits) = (of(|it| it.0), of(|it| it.1));
                if cpu < 1.0 {
                    continue;
                }
                println!("{:<8} | {node:<9} | {kind:<14} | {cpu:>6.0} | {waits:>5.2}", side.name);
                kept.push(json!({
                    "binary": side.name, "node": node, "threads": kind,
                    "cpu_us": cpu, "waits": waits,
                }));
            }
        }
    }
    save("change-profile", &Value::Array(kept));
}
