//! Figures 5 and 6: what a node asks of its host, and what a durable change costs.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Scale;
use super::network::{Control, Network, let_pass};
use super::rows::{Goal, Rows};
use super::stats::{median, ms, own_mb, percentile, rate, rss_mb, threads};
use crate::support::Place4Nodes;
use crate::support::process::{binary, dsn};

/// Figure 5: time to start and to join.
pub(crate) fn start(scale: &Scale) {
    let mut rows = Rows::new("start");
    let size = std::fs::metadata(binary()).unwrap().len();
    rows.add("the binary", size as f64 / 1e6, "MB", Goal::AtMost(2.5));
    let place = Place4Nodes::new();
    let mut times = Vec::new();
    for _ in 0..if scale.quick { 2 } else { 21 } {
        let mut command = dsn();
        command.current_dir(place.path());
        command.args(["run", "--node-id", "alone", "--listen", "127.0.0.1:0"]);
        let began = Instant::now();
        let process = place.spawn(command, "alone");
        Control::open(&process.control).ask(&json!({"op": "status"}));
        times.push(ms(began.elapsed()));
    }
    // The first start makes keys and files.
    rows.note("the very first start to serving", times[0], "ms");
    rows.add("start to serving: p50", median(&times[1..]), "ms", Goal::AtMost(50.0));
    rows.note("start to serving: most", percentile(&times[1..], 100), "ms");

    let nodes = if scale.quick { 3 } else { 16 };
    let mut network = Network::start(nodes - 1, false);
    network.fill(10);
    let mut times = Vec::new();
    for round in 0..if scale.quick { 1 } else { 9 } {
        let began = Instant::now();
        network.add(&format!("late-{round}"), false);
        let late = network.nodes.last_mut().unwrap();
        late.control.wait_peers(nodes - 1);
        times.push(ms(began.elapsed()));
        late.control.ask(&json!({"op": "leave", "timeout_ms": 10_000}));
        let mut late = network.nodes.pop().unwrap();
        late.process.wait();
    }
    rows.note(format!("start to knowing all of {nodes} nodes: p50"), median(&times), "ms");
    rows.note(
        format!("start to knowing all of {nodes} nodes: most"),
        percentile(&times, 100),
        "ms",
    );
    rows.save();
}

/// Figure 5: memory and threads.
pub(crate) fn memory(scale: &Scale) {
    let mut rows = Rows::new("memory");
    let sizes: &[(usize, usize, f64)] =
        if scale.quick { &[(2, 10, 8.0)] } else { &[(32, 10, 8.0), (100, 100, 16.0)] };
    for (peers, keys, most) in sizes {
        let mut network = Network::start(peers + 1, false);
        network.fill(*keys);
        let all = |read: fn(u32) -> f64| -> Vec<f64> {
            network.nodes.iter().map(|node| read(node.pid())).collect()
        };
        let what = format!("{peers} peers of {keys} keys");
        let rss = all(rss_mb);
        rows.add(format!("memory, {what}: p50"), median(&rss), "MB", Goal::AtMost(*most));
        rows.note(format!("memory, {what}: most"), percentile(&rss, 100), "MB");
        rows.note(format!("of it its own, {what}: p50"), median(&all(own_mb)), "MB");
        rows.note(format!("threads, {what}, just filled: p50"), median(&all(threads)), "");
        // Senders that are not needed any more end after a few seconds.
        let_pass(Duration::from_secs(if scale.quick { 0 } else { 10 }));
        rows.note(format!("threads, {what}, at rest: p50"), median(&all(threads)), "");
        rows.note(format!("memory, {what}, at rest: p50"), median(&all(rss_mb)), "MB");
    }
    rows.save();
}

/// Times of `set` by so many callers at once, ms; and how many a second.
fn sets(network: &Network, callers: usize, time: Duration) -> (Vec<f64>, f64) {
    let path = &network.nodes[0].process.control;
    let began = Instant::now();
    let work = |caller: usize| {
        let mut control = Control::open(path);
        let mut times = Vec::new();
        while began.elapsed() < time {
            let one = Instant::now();
            control.set(&format!("key-{caller}"), &format!("{:0>50}", times.len()));
            times.push(ms(one.elapsed()));
        }
        times
    };
    let times: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..callers).map(|caller| scope.spawn(move || work(caller))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let per_second = rate(times.len(), began.elapsed());
    (times, per_second)
}

/// Times of appending as much to a bare file and syncing it, ms; and how many a second.
fn syncs(network: &Network, time: Duration) -> (Vec<f64>, f64) {
    let mut file = File::create(network.place.path().join("bare")).unwrap();
    // The journal is there already, so this file is to be.
    file.write_all(&[0x5a; 100]).unwrap();
    file.sync_all().unwrap();
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let one = Instant::now();
        file.write_all(&[0x5a; 100]).unwrap();
        file.sync_data().unwrap();
        times.push(ms(one.elapsed()));
    }
    let per_second = rate(times.len(), began.elapsed());
    (times, per_second)
}

/// Figure 6.
pub(crate) fn durable(scale: &Scale) {
    let mut rows = Rows::new("durable");
    let network = Network::start(1, false);
    let [mut bare, mut alone, mut many] = [const { Vec::new() }; 3];
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..scale.runs {
        let runs = [
            syncs(&network, scale.time),
            sets(&network, 1, scale.time),
            sets(&network, 16, scale.time),
        ];
        let all = [&mut bare, &mut alone, &mut many];
        for (at, ((times, per_second), all)) in runs.into_iter().zip(all).enumerate() {
            all.extend(times);
            rates[at].push(per_second);
        }
    }
    for (what, times) in
        [("a bare sync", &bare), ("set, alone", &alone), ("set, 16 at a time", &many)]
    {
        rows.note(format!("{what}: p50"), median(times), "ms");
        rows.note(format!("{what}: p99"), percentile(times, 99), "ms");
    }
    let [bare, alone, many] = &rates;
    rows.note("bare syncs, one after the other", median(bare), "/s");
    rows.note("sets, alone", median(alone), "/s");
    rows.note("sets, 16 at a time", median(many), "/s");
    // Changes that wait together share a sync: then more come through than one by one.
    let gains: Vec<f64> = many.iter().zip(alone).map(|(many, alone)| many / alone).collect();
    rows.add("sets 16 at a time over sets alone", median(&gains), "times", Goal::AtLeast(2.0));
    rows.save();
}
