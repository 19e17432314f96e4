//! Figures 3 and 7, and the quiet of an idle network: what a change costs, and when all have it.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};

use super::Scale;
use super::messages::update_load;
use super::network::{Control, Network, let_pass};
use super::rows::{Goal, Rows, number, save};
use super::stats::{median, ms, own_mb, percentile, rss_mb};
use crate::support::PATIENCE;

/// Times from `set` to all others, ms; and what it took.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(crate) all_ms: Vec<f64>,
    /// Until `set` returned: it is on disk by then.
    pub(crate) set_ms: Vec<f64>,
    /// CPU time of all nodes for a change, ms.
    pub(crate) cpu_ms: f64,
}

/// The first node changes one key again and again, and all others say when they have it.
pub(crate) fn spread(network: &mut Network, changes: usize) -> Spread {
    spread_paced(network, changes, Duration::from_millis(3))
}

/// The same with another pause between two changes.
pub(crate) fn spread_paced(network: &mut Network, changes: usize, pause: Duration) -> Spread {
    let seen = watch(network);
    let others = network.nodes.len() - 1;
    let (mut all_ms, mut set_ms) = (Vec::new(), Vec::new());
    let before = network.cpu_seconds();
    for change in 0..changes {
        let value = change.to_string();
        let began = Instant::now();
        network.nodes[0].control.set("probe", &value);
        set_ms.push(ms(began.elapsed()));
        let mut last = began;
        for _ in 0..others {
            let (what, at) = seen.recv_timeout(PATIENCE).expect("the change arrives");
            assert_eq!(what, value, "no change overtakes another, none is missed");
            last = last.max(at);
        }
        all_ms.push(ms(last - began));
        let_pass(pause);
    }
    let cpu_ms = (network.cpu_seconds() - before) * 1e3 / changes as f64;
    Spread { all_ms, set_ms, cpu_ms }
}

/// Listens on the first node itself, until it ends.
pub(crate) fn watch_own(network: &Network) -> std::thread::JoinHandle<()> {
    let mut control = Control::open(&network.nodes[0].process.control);
    control.say(&format!("{}\n", json!({"op": "watch"})));
    assert_eq!(control.next()["event"], "watching");
    std::thread::spawn(move || while control.next_or_end().is_some() {})
}

/// Listens on all nodes but the first; gives each new value of the probe and when it was read.
fn watch(network: &Network) -> Receiver<(String, Instant)> {
    let (tell, seen) = bounded(1024);
    for node in &network.nodes[1..] {
        let mut control = Control::open(&node.process.control);
        let first = &network.nodes[0].id;
        control.say(&format!("{}\n", json!({"op": "watch", "node": first, "key": "probe"})));
        assert_eq!(control.next()["event"], "watching");
        let tell = tell.clone();
        // It ends with its node.
        std::thread::spawn(move || {
            while let Some(event) = control.next_or_end() {
                let at = Instant::now();
                if event["event"] == "updated" {
                    let value = event["value"].as_str().unwrap().to_owned();
                    if tell.send((value, at)).is_err() {
                        return;
                    }
                }
            }
        });
    }
    seen
}

/// Figure 3.
pub(crate) fn propagation(scale: &Scale) {
    let mut rows = Rows::new("propagation");
    let (sizes, changes): (&[usize], _) =
        if scale.quick { (&[3], 10) } else { (&[3, 8, 16, 32], 300) };
    for nodes in sizes {
        let mut network = Network::start(*nodes, false);
        network.fill(10);
        let spread = spread(&mut network, changes);
        let goal = if *nodes == 8 { Goal::AtMost(10.0) } else { Goal::None };
        rows.add(format!("set to all of {nodes} nodes: p50"), median(&spread.all_ms), "ms", goal);
        rows.note(
            format!("set to all of {nodes} nodes: p99"),
            percentile(&spread.all_ms, 99),
            "ms",
        );
        rows.note(
            format!("of it until set returned, {nodes} nodes: p50"),
            median(&spread.set_ms),
            "ms",
        );
    }
    rows.save();
}

/// Requests and HTTP bytes of all nodes for a change.
fn traffic_of_a_change(nodes: usize, keys: usize, changes: usize) -> (f64, f64) {
    let mut network = Network::start(nodes, true);
    network.fill(keys);
    let began = Instant::now();
    let before = network.traffic();
    spread(&mut network, changes);
    let (after, elapsed) = (network.traffic(), began.elapsed());
    // What goes through all the time is not part of a change.
    let quiet = network.traffic();
    let_pass(elapsed);
    let idle = network.traffic();
    let each = |after: u64, before: u64, idle: u64, quiet: u64| {
        ((after - before) as f64 - (idle - quiet) as f64).max(0.0) / changes as f64
    };
    (each(after.0, before.0, idle.0, quiet.0), each(after.1, before.1, idle.1, quiet.1))
}

/// One point of figure 7.
fn point(scale: &Scale, nodes: usize, keys: usize) -> Value {
    // CPU time is counted in steps of 10 ms for each node.
    let changes = match nodes {
        _ if scale.quick => 50,
        1..=8 => 500,
        _ => 200,
    };
    let mut network = Network::start(nodes, false);
    network.fill(keys);
    let spread = spread(&mut network, changes);
    let last = network.nodes.last().unwrap().pid();
    let (rss, own) = (rss_mb(last), own_mb(last));
    drop(network);
    let (requests, bytes) = traffic_of_a_change(nodes, keys, changes);
    let updates = update_load(keys, nodes - 1, scale.time);
    let point = json!({
        "nodes": nodes, "keys": keys,
        "p50_ms": median(&spread.all_ms), "p99_ms": percentile(&spread.all_ms, 99),
        "updates_s": updates.load.rate(), "update_bytes": updates.bytes,
        "cpu_ms": spread.cpu_ms, "requests": requests, "bytes": bytes,
        "rss_mb": rss, "own_mb": own,
    });
    let cell = |name: &str| number(point[name].as_f64().unwrap());
    println!(
        "{nodes:>5} | {keys:>6} | {:>7} | {:>7} | {:>9} | {:>8} | {:>8} | {:>9} | {:>6} | {:>6}",
        cell("p50_ms"),
        cell("p99_ms"),
        cell("updates_s"),
        cell("cpu_ms"),
        cell("requests"),
        cell("bytes"),
        cell("rss_mb"),
        cell("own_mb"),
    );
    point
}

/// Figure 7: the same at more keys and more nodes.
pub(crate) fn growth(scale: &Scale) {
    let mut rows = Rows::new("growth");
    println!(
        "nodes |   keys |  p50 ms |  p99 ms | UPDATEs/s |   CPU ms | requests |     bytes | RSS MB | own MB"
    );
    let (by_keys, by_nodes): (&[usize], &[usize]) = if scale.quick {
        (&[10, 100], &[2, 3])
    } else {
        (&[10, 100, 1_000, 10_000], &[2, 4, 8, 16, 32, 64])
    };
    let keys: Vec<_> = by_keys.iter().map(|keys| point(scale, 3, *keys)).collect();
    let nodes: Vec<_> = by_nodes.iter().map(|nodes| point(scale, *nodes, 10)).collect();
    for (name, what) in [("bytes", "bytes"), ("cpu_ms", "CPU")] {
        let values: Vec<f64> = keys.iter().map(|point| point[name].as_f64().unwrap()).collect();
        // A quick run may use less than the system counts.
        let least = values.iter().copied().fold(f64::INFINITY, f64::min).max(0.001);
        let most = values.iter().copied().fold(0.0, f64::max);
        let what = format!("{what} of a change: most over least, 10 to 10 000 keys");
        rows.add(what, most / least, "times", Goal::AtMost(2.0));
    }
    save("growth-points", &json!({"keys": keys, "nodes": nodes}));
    rows.save();
}

/// What a network does while nothing changes.
pub(crate) fn idle(scale: &Scale) {
    let mut rows = Rows::new("idle");
    let (nodes, time) = if scale.quick { (3, 2) } else { (32, 40) };
    let mut network = Network::start(nodes, true);
    network.fill(10);
    // The last of the joins: PEERS, HELLOs, and connections that are not needed any more.
    let_pass(Duration::from_secs(if scale.quick { 1 } else { 20 }));
    let (began, before, cpu) = (Instant::now(), network.traffic(), network.cpu_seconds());
    let_pass(Duration::from_secs(time));
    let (after, cpu) = (network.traffic(), network.cpu_seconds() - cpu);
    let each = began.elapsed().as_secs_f64() * nodes as f64;
    let requests = (after.0 - before.0) as f64 / each;
    let kilobytes = (after.1 - before.1) as f64 / each / 1e3;
    rows.add(format!("idle, {nodes} nodes: requests"), requests, "/s a node", Goal::AtMost(2.0));
    rows.add(format!("idle, {nodes} nodes: traffic"), kilobytes, "KB/s a node", Goal::AtMost(2.0));
    rows.add(
        format!("idle, {nodes} nodes: CPU"),
        100.0 * cpu / each,
        "% of a core",
        Goal::AtMost(0.3),
    );
    rows.save();
}
