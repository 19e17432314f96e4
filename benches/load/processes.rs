//! Many nodes on one host, side by side with another binary where `DSN_BASE_BIN` names one: what
//! they take to meet, what they take at rest, and when all have a change.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Scale;
use super::network::{Network, let_pass};
use super::propagate::spread;
use super::rows::{Goal, Rows, save};
use super::stats::{median, ms, percentile, rss_mb, threads};
use crate::support::process::binary;

/// What one network of one binary did.
struct Found {
    /// From the first start until all know all, s; and the CPU of all for it, s.
    meet_s: f64,
    meet_cpu_s: f64,
    threads: f64,
    threads_most: f64,
    rss_mb: f64,
    rss_most_mb: f64,
    /// CPU of a node at rest, % of a core.
    idle_percent: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Sizes, networks of each of them, and changes. `DSN_BENCH_SIZES` names other sizes.
fn plan(scale: &Scale) -> Vec<(usize, usize, usize)> {
    let of = |size: usize| match size {
        ..=32 => (size, 3, 200),
        _ => (size, 1, 40),
    };
    if scale.quick {
        return vec![(3, 1, 10)];
    }
    let named = std::env::var("DSN_BENCH_SIZES").unwrap_or_else(|_| "8,16,32,64,100".into());
    named.split(',').map(|size| of(size.parse().expect("a number of nodes"))).collect()
}

fn measure(binary: &Path, nodes: usize, changes: usize, rest: Duration) -> Found {
    let began = Instant::now();
    let mut network = Network::spawn(binary, nodes, false);
    network.settle();
    let (meet_s, meet_cpu_s) = (ms(began.elapsed()) / 1e3, network.cpu_seconds());
    network.fill(10);
    // The last of the joins, connections and senders that are not needed any more.
    let_pass(rest);
    let all = |read: fn(u32) -> f64| -> Vec<f64> {
        network.nodes.iter().map(|node| read(node.pid())).collect()
    };
    let (threads, rss) = (all(threads), all(rss_mb));
    let (began, before) = (Instant::now(), network.cpu_seconds());
    let_pass(2 * rest);
    let idle = network.cpu_seconds() - before;
    let idle_percent = 100.0 * idle / (began.elapsed().as_secs_f64() * nodes as f64);
    let spread = spread(&mut network, changes);
    Found {
        meet_s,
        meet_cpu_s,
        threads: median(&threads),
        threads_most: percentile(&threads, 100),
        rss_mb: median(&rss),
        rss_most_mb: percentile(&rss, 100),
        idle_percent,
        p50_ms: median(&spread.all_ms),
        p99_ms: percentile(&spread.all_ms, 99),
    }
}

/// A figure of [`Found`]: its name in results and for people, its unit, and its goal by size.
type Figure = (&'static str, &'static str, &'static str, fn(&Found) -> f64, fn(usize) -> Goal);

const FIGURES: [Figure; 9] = [
    ("meet_s", "until all know all", "s", |it| it.meet_s, |_| Goal::None),
    (
        "meet_cpu_s",
        "CPU until all know all",
        "s",
        |it| it.meet_cpu_s,
        |nodes| match nodes {
            64 => Goal::AtMost(6.0),
            100 => Goal::AtMost(12.0),
            _ => Goal::None,
        },
    ),
    ("threads", "threads at rest: p50", "", |it| it.threads, |_| Goal::None),
    ("threads_most", "threads at rest: most", "", |it| it.threads_most, |_| Goal::AtMost(24.0)),
    (
        "rss_mb",
        "memory: p50",
        "MB",
        |it| it.rss_mb,
        |nodes| match nodes {
            64.. => Goal::AtMost(6.0),
            _ => Goal::None,
        },
    ),
    ("rss_most_mb", "memory: most", "MB", |it| it.rss_most_mb, |_| Goal::None),
    ("idle_percent", "idle CPU of a node", "%", |it| it.idle_percent, |_| Goal::AtMost(0.1)),
    ("p50_ms", "set to all: p50", "ms", |it| it.p50_ms, |_| Goal::None),
    ("p99_ms", "set to all: p99", "ms", |it| it.p99_ms, |_| Goal::None),
];

/// The figures of many real nodes.
pub(crate) fn processes(scale: &Scale) {
    let mut rows = Rows::new("processes");
    let mut binaries = vec![("now", binary())];
    if let Some(base) = std::env::var_os("DSN_BASE_BIN").map(PathBuf::from) {
        binaries.insert(0, ("before", base));
    }
    let rest = Duration::from_secs(if scale.quick { 1 } else { 15 });
    let mut points = Vec::new();
    for (nodes, runs, changes) in plan(scale) {
        let mut found: Vec<Vec<Found>> = binaries.iter().map(|_| Vec::new()).collect();
        for _ in 0..runs {
            for ((_, binary), found) in binaries.iter().zip(&mut found) {
                found.push(measure(binary, nodes, changes, rest));
            }
        }
        for ((name, _), found) in binaries.iter().zip(&found) {
            let mut point = json!({"nodes": nodes, "binary": name});
            for (field, what, unit, value, goal) in FIGURES {
                let values: Vec<f64> = found.iter().map(value).collect();
                let goal = if *name == "now" { goal(nodes) } else { Goal::None };
                rows.add(format!("{nodes} processes, {name}: {what}"), median(&values), unit, goal);
                point[field] = median(&values).into();
            }
            points.push(point);
        }
        save("processes-points", &Value::Array(points.clone()));
    }
    rows.save();
}
