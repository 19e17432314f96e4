//! A node that stops leaves nothing behind. One test alone in its process, as it counts what the
//! process has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use support::{Place4Nodes, eventually, id, key, value};

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

#[test]
fn a_node_that_stops_leaves_no_thread_and_no_descriptor() {
    let place = Place4Nodes::new();
    // What the process opens once and keeps.
    place.start("warm", &[]).stop();
    let (threads, descriptors) = (count("task"), count("fd"));
    for round in 0..2 {
        let a = place.start("a", &[]);
        let b = place.start("b", &[a.listen()]);
        let events = b.subscribe().unwrap();
        a.set(key("k"), value(&round.to_string())).unwrap();
        eventually("the change arrives", || {
            b.get(&id("a"), "k") == Some(value(&round.to_string()))
        });
        assert!(count("task") > threads);
        b.leave(support::PATIENCE).unwrap();
        b.stop();
        a.stop();
        drop(events);
        // Threads of tiny_http without work end after 5 s.
        eventually("all threads have ended", || count("task") <= threads);
        eventually("all descriptors are closed", || count("fd") <= descriptors);
    }
}
