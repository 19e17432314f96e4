//! Clocks that believe in 1970, that jump, and that stand still.

use std::path::Path;

use crate::faults::tools::{around, faketime};
use crate::support::Place4Nodes;
use crate::support::process::Process;

/// What the clock of the node shows from now on.
const CLOCKS: [&str; 9] = [
    "+0",
    "1970-01-01 00:00:01", // and stands still
    "-56y",
    "+50y",
    "+0", // set back again
    "2026-01-01 00:00:00",
    "2076-01-01 00:00:00",
    "1970-01-02 00:00:00",
    "+0",
];
const YEAR_US: u64 = 365 * 24 * 3600 * 1_000_000;

struct Clock<'a> {
    place: &'a Place4Nodes,
    library: &'a Path,
}

impl Clock<'_> {
    fn set(&self, time: &str) {
        // In one step: the library reads it all the time.
        let (new, file) = (self.place.path().join("clock.new"), self.place.path().join("clock"));
        std::fs::write(&new, format!("{time}\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// A node under this clock; waiting is done with another clock, which is the true one.
    fn spawn(&self, node_id: &str, bootstrap: &[&str]) -> Process {
        let mut command = self.place.run_command(node_id, bootstrap);
        command.args(["--listen", "127.0.0.1:0"]);
        command.env("LD_PRELOAD", self.library);
        command.env("FAKETIME_TIMESTAMP_FILE", self.place.path().join("clock"));
        command.env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        command.env("TZ", "UTC");
        self.place.spawn(around(std::process::Command::new("env"), &command), node_id)
    }
}

fn timestamp(node: &Process) -> u64 {
    node.json(&["status"])["timestamp"].as_u64().unwrap()
}

/// Changes the state twice, and waits until all others have it, under a later timestamp.
fn wins(node: &Process, others: &[Process], value: &str) {
    for turn in ["a", "b"] {
        let before = timestamp(node);
        let value = format!("{value} {turn}");
        node.told(&["set", "k", &value]);
        for other in others {
            other.told(&["--timeout", "60s", "wait", "key", "clocked", "k", &value]);
        }
        assert!(timestamp(node) > before, "{value}");
        assert!(timestamp(node) < 250 * YEAR_US);
    }
}

#[test]
fn every_later_change_wins_whatever_the_clock_shows() {
    let Some(library) = faketime() else { return };
    let place = Place4Nodes::new();
    let clock = Clock { place: &place, library: &library };
    let first = place.spawn_at("p0", "127.0.0.1:0", &[]);
    let address = first.address.clone();
    let others = [first, place.spawn_at("p1", "127.0.0.1:0", &[&address])];
    // The clock is really another one: a first start in 1970, and a jump by 50 years.
    clock.set("1970-01-01 00:00:05");
    let node = clock.spawn("clocked", &[&address]);
    assert!(timestamp(&node) < YEAR_US, "{}", timestamp(&node));
    wins(&node, &others, "born in 1970");
    for (at, time) in CLOCKS.iter().enumerate() {
        clock.set(time);
        wins(&node, &others, &format!("running {at}: {time}"));
        assert!(at < 3 || timestamp(&node) > 100 * YEAR_US, "it has seen 2076");
    }
    let mut node = node;
    for (at, time) in CLOCKS.iter().enumerate() {
        node.kill();
        clock.set(time);
        node = clock.spawn("clocked", &[&address]);
        wins(&node, &others, &format!("started {at}: {time}"));
        assert_eq!(node.degraded(), "[]");
    }
    // The card with the state is lost too, the clock is in 1970: the others say what they hold.
    node.kill();
    std::fs::remove_dir_all(place.path().join("data/clocked")).unwrap();
    clock.set("1970-01-01 00:00:01");
    let node = clock.spawn("clocked", &[&address]);
    for other in &others {
        // Nothing goes back meanwhile; the empty state comes to be the latest one.
        other.told(&["--timeout", "60s", "wait", "peers", "2"]);
    }
    node.told(&["set", "k", "after the loss"]);
    for other in &others {
        other.told(&["--timeout", "60s", "wait", "key", "clocked", "k", "after the loss"]);
    }
    wins(&node, &others, "and on");
}

/// A clock that is set forward makes nothing go, and one that is set back keeps nothing.
#[test]
fn what_expires_goes_by_a_clock_that_nobody_sets() {
    let Some(library) = faketime() else { return };
    let place = Place4Nodes::new();
    let clock = Clock { place: &place, library: &library };
    clock.set("+0");
    let node = clock.spawn("clocked", &[]);
    node.told(&["set", "--ttl", "60s", "long=1"]);
    node.told(&["set", "--ttl", "2s", "short=1"]);
    clock.set("+50y");
    assert_eq!(node.told(&["get", "self", "long"]), "1");
    clock.set("-56y");
    node.told(&["--timeout", "60s", "wait", "key", "self", "short", "--gone"]);
    let left = node.json(&["get", "self", "long"])["expires_ms"].as_u64().unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
}
