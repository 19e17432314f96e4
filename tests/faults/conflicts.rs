//! Two nodes with one id: cloned cards, names given twice, hosts that were set up anew.

use std::time::{Duration, Instant};

use dsn::protocol::identity::PublicKey;

use crate::support::process::Process;
use crate::support::{Place4Nodes, eventually};

/// How long a conflict is watched: some twenty ticks.
const WATCHED: Duration = Duration::from_secs(10);
/// Most lines that all logs together get meanwhile: one for each of the nodes that learns more.
const LINES_MAX: usize = 12;

fn fingerprint(node: &Process) -> String {
    let status = node.json(&["status"]);
    PublicKey::from_hex(status["public_key"].as_str().unwrap()).unwrap().fingerprint()
}

/// Both in `status` and in the log of each node stands all of this.
fn all_name_it(nodes: &[&Process], words: &[&str]) {
    for node in nodes {
        let mut said = String::new();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let degraded = node.json(&["status"])["degraded"].to_string();
            let log = node.log_text();
            if words.iter().all(|word| degraded.contains(word) && log.contains(word)) {
                break;
            }
            said = if Instant::now() < until { said } else { format!("{degraded}\n{log}") };
            assert!(said.is_empty(), "{words:?} is not in {said}");
            crate::faults::tools::let_pass(Duration::from_millis(20));
        }
    }
}

/// Nothing comes and goes while the conflict lasts: neither in the logs nor in what is degraded.
fn nothing_flaps(nodes: &[&Process]) {
    let lines = || -> usize { nodes.iter().map(|node| node.log_text().lines().count()).sum() };
    let before = lines();
    let until = Instant::now() + WATCHED;
    while Instant::now() < until {
        for node in nodes {
            let status = node.json(&["status"]);
            assert_ne!(status["degraded"].to_string(), "[]", "it is named all the time");
        }
        crate::faults::tools::let_pass(Duration::from_millis(300));
    }
    let more = lines() - before;
    let logs: String = nodes.iter().map(|node| node.log_text() + "\n--\n").collect();
    crate::faults::tools::figure(&format!("{more} lines in all logs in {WATCHED:?}"));
    assert!(more <= LINES_MAX, "{more} more lines: {logs}");
}

fn copy(from: &Place4Nodes, to: &Place4Nodes, node_id: &str) {
    for folder in ["credentials", "data"] {
        let target = to.path().join(folder);
        std::fs::create_dir_all(&target).unwrap();
        let source = from.path().join(folder).join(node_id);
        let copied = std::process::Command::new("cp").arg("-a").arg(source).arg(target).status();
        assert!(copied.unwrap().success());
    }
    let _ = std::fs::remove_file(to.path().join(format!("data/{node_id}/control.sock")));
}

fn port(node: &Process) -> &str {
    node.address.rsplit_once(':').unwrap().1
}

#[test]
fn a_cloned_card_is_named_by_all_and_nothing_flaps() {
    let (place, elsewhere) = (Place4Nodes::new(), Place4Nodes::new());
    let hub = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let one = place.spawn_at("pi", "127.0.0.1:0", &[&hub.address]);
    let third = place.spawn_at("third", "127.0.0.1:0", &[&hub.address]);
    third.told(&["--timeout", "60s", "wait", "peers", "2"]);
    copy(&place, &elsewhere, "pi");
    let two = elsewhere.spawn_at("pi", "127.0.0.2:0", &[&hub.address]);
    let key = fingerprint(&one);
    assert_eq!(key, fingerprint(&two));
    all_name_it(&[&hub, &one, &two], &["two nodes run as pi", &key, "127.0.0."]);
    nothing_flaps(&[&hub, &one, &two]);
    // The others are not disturbed.
    third.told(&["set", "k", "v"]);
    hub.told(&["--timeout", "60s", "wait", "key", "third", "k", "v"]);
    // One of them goes; the operator need not do anything on the others.
    one.kill();
    two.told(&["set", "k", "the one that stays"]);
    for node in [&hub, &third] {
        node.told(&["--timeout", "60s", "wait", "key", "pi", "k", "the one that stays"]);
    }
}

#[test]
fn one_id_with_two_keys_is_named_by_all_and_nothing_flaps() {
    let (place, elsewhere) = (Place4Nodes::new(), Place4Nodes::new());
    let hub = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let one = place.spawn_at("pi", "127.0.0.1:0", &[&hub.address]);
    hub.told(&["--timeout", "60s", "wait", "peers", "1"]);
    let two = elsewhere.spawn_at("pi", "127.0.0.2:0", &[&hub.address]);
    let (old, new) = (fingerprint(&one), fingerprint(&two));
    assert_ne!(old, new);
    let places = [port(&one), port(&two)];
    all_name_it(&[&hub, &two], &["two nodes use the id pi", &old, &new, places[0], places[1]]);
    all_name_it(&[&hub, &two], &["dsn forget pi"]);
    all_name_it(&[&one], &["two nodes run as pi", &old, &new, "127.0.0.1", "on the others"]);
    nothing_flaps(&[&hub, &one, &two]);
    assert_eq!(hub.status_of("pi"), "alive");
    one.told(&["set", "k", "mine"]);
    hub.told(&["--timeout", "60s", "wait", "key", "pi", "k", "mine"]);
}

#[test]
fn a_host_that_was_set_up_anew_is_named_and_let_in_by_forget() {
    let place = Place4Nodes::new();
    let hub = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let third = place.spawn_at("third", "127.0.0.1:0", &[&hub.address]);
    let old = place.spawn_at("pi", "127.0.0.1:0", &[&hub.address]);
    for node in [&hub, &third] {
        node.told(&["--timeout", "60s", "wait", "peers", "2"]);
    }
    let (address, old_key) = (old.address.clone(), fingerprint(&old));
    old.told(&["set", "k", "old"]);
    third.told(&["--timeout", "60s", "wait", "key", "pi", "k", "old"]);
    old.kill();
    for folder in ["data/pi", "credentials/pi"] {
        std::fs::remove_dir_all(place.path().join(folder)).unwrap();
    }
    // All others are named to it, as an operator with one list for all hosts does.
    let new = place.spawn_at("pi", &address, &[&hub.address, &third.address]);
    let new_key = fingerprint(&new);
    assert_ne!(old_key, new_key);
    all_name_it(&[&hub, &third, &new], &[&old_key, &new_key, port(&new), "dsn forget pi"]);
    nothing_flaps(&[&hub, &third, &new]);
    assert_eq!(third.told(&["get", "pi", "k"]), "old", "nobody took its place");
    new.told(&["set", "k", "new"]);
    for node in [&hub, &third] {
        node.told(&["forget", "pi"]);
    }
    for node in [&hub, &third] {
        node.told(&["--timeout", "60s", "wait", "key", "pi", "k", "new"]);
        eventually("all is well", || node.status_of("pi") == "alive");
    }
    hub.told(&["send", "pi", "hello"]);
    assert_eq!(new.told(&["recv"]), "hello");
}
