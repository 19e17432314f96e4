//! A node that stops leaves nothing behind.

use std::process::Command;

use crate::support::{PATIENCE, Place4Nodes, eventually, id, key, value};

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

/// It counts what the process has, so it has a process for itself.
#[test]
fn a_node_that_stops_leaves_no_thread_and_no_descriptor() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stop::alone_in_its_process", "--ignored"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "the test above runs it"]
fn alone_in_its_process() {
    let place = Place4Nodes::new();
    // What the process opens once and keeps.
    place.start("warm", &[]).stop();
    let (threads, descriptors) = (count("task"), count("fd"));
    for round in 0..2 {
        let a = place.start("a", &[]);
        let b = place.start("b", &[&a.listen()]);
        let events = b.subscribe().unwrap();
        a.set(key("k"), value(&round.to_string())).unwrap();
        eventually("the change arrives", || {
            b.get(&id("a"), "k") == Some(value(&round.to_string()))
        });
        assert!(count("task") > threads);
        b.leave(PATIENCE).unwrap();
        b.stop();
        a.stop();
        drop(events);
        // Threads of tiny_http without work end after 5 s.
        eventually("all threads have ended", || count("task") <= threads);
        eventually("all descriptors are closed", || count("fd") <= descriptors);
    }
}
