//! Values that expire, with real nodes: `dsn set --ttl`.

use serde_json::Value as Json;

use crate::support::process::Process;
use crate::support::{PATIENCE, Place4Nodes};

fn version(node: &Process) -> u64 {
    node.json(&["get", "self", "stays"])["timestamp"].as_u64().unwrap()
}

/// How long a key of the node itself stands, ms.
fn left(node: &Process, key: &str) -> Option<u64> {
    node.json(&["get", "self", key])["expires_ms"].as_u64()
}

fn is_there(node: &Process, owner: &str, key: &str) -> bool {
    node.ask(&["get", owner, key]).code == 0
}

#[test]
fn what_is_not_set_again_goes_everywhere() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    a.told(&["set", "stays=1"]);
    a.told(&["set", "--ttl", "4s", "one=1", "two=2"]);
    b.told(&["-t", "60s", "wait", "key", "a", "two", "2"]);
    let state = a.json(&["state", "self"]);
    let keys: Vec<&str> =
        state["expires_ms"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["one", "two"]);
    assert!(left(&a, "one").is_some_and(|ms| ms <= 4_000) && left(&a, "stays").is_none());
    assert_eq!(b.json(&["get", "a", "one"])["expires_ms"], Json::Null, "its owner alone knows");
    for node in [&a, &b] {
        node.told(&["-t", "60s", "wait", "key", "a", "one", "--gone"]);
        assert!(!is_there(node, "a", "two"), "one change");
        assert_eq!(node.told(&["get", "a", "stays"]), "1");
    }
}

#[test]
fn to_set_it_again_is_no_change_and_keeps_it() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "stays=1"]);
    node.told(&["set", "--ttl", "5s", "k=1"]);
    let (before, begun) = (version(&node), std::time::Instant::now());
    let journal = || std::fs::read(place.path().join("data/a/state.journal")).unwrap();
    let written = journal();
    while begun.elapsed().as_secs() < 7 {
        node.told(&["set", "--ttl", "5s", "k=1"]);
        assert!(is_there(&node, "a", "k"), "after {:?}", begun.elapsed());
        std::thread::park_timeout(std::time::Duration::from_millis(500));
    }
    assert_eq!((version(&node), journal() == written), (before, true), "nothing is written");
    // Now it stands for good.
    node.told(&["set", "k=1"]);
    assert_eq!((left(&node, "k"), version(&node) > before), (None, true));
    node.told(&["set", "--ttl", "1s", "l=1"]);
    node.told(&["unset", "l"]);
    node.told(&["set", "l=1"]);
    node.told(&["set", "--ttl", "1s", "m=1"]);
    node.told(&["-t", "60s", "wait", "key", "self", "m", "--gone"]);
    assert!(is_there(&node, "a", "k") && is_there(&node, "a", "l"));
}

#[test]
fn it_goes_after_a_kill_too() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "--ttl", "3s", "k=1"]);
    node.kill();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    assert!(left(&node, "k").is_some_and(|ms| ms <= 3_000), "its whole time, and no more");
    node.told(&["-t", "60s", "wait", "key", "self", "k", "--gone"]);
    node.kill();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    assert!(!is_there(&node, "a", "k"), "that is durable");
}

#[test]
fn events_say_how_long_it_stands_and_that_it_went() {
    use dsn::control::ControlClient;
    use serde_json::json;
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let mut reader = ControlClient::connect(&node.control, PATIENCE).unwrap();
    let mut next = |request: Option<Json>| {
        request.iter().for_each(|request| reader.ask(request).unwrap());
        reader.next_result(Some(PATIENCE)).unwrap().unwrap()
    };
    assert_eq!(next(Some(json!({ "op": "watch" })))["event"], "watching");
    node.told(&["set", "--ttl", "1s", "k=1", "l=1"]);
    let events: Vec<Json> = (0..4).map(|_| next(None)).collect();
    assert!(events[0]["expires_ms"].as_u64().is_some_and(|ms| ms <= 1_000), "{events:?}");
    let gone = |event: &Json| event["value"].is_null() && event.get("expires_ms").is_none();
    assert!(events[2..].iter().all(gone), "{events:?}");
    assert_eq!(events[2]["timestamp"], events[3]["timestamp"], "one change");
    let embedded = place.start("c", &[]);
    let (key, ttl) = ("k".parse().unwrap(), PATIENCE.try_into().unwrap());
    embedded.change_for([(key, Some("1".parse().unwrap()))].into(), ttl).unwrap();
    assert!(embedded.expires_in("k").is_some_and(|left| left <= PATIENCE));
    assert_eq!(embedded.expires_in("none"), None);
}

#[test]
fn times_that_can_not_be_are_said() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    for (arguments, why) in [
        (&["set", "--ttl", "999ms", "k=1"][..], "too short; it takes 1s to 30d"),
        (&["set", "--ttl", "31d", "k=1"], "too long; it takes 1s to 30d"),
        (&["set", "--ttl", "soon", "k=1"], "not a duration"),
        (&["set", "k", "--ttl"], "--ttl"),
    ] {
        let said = node.ask(arguments);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(why), "{arguments:?}: {}", said.err);
    }
    assert!(!is_there(&node, "a", "k"));
    node.told(&["set", "--ttl", "30d", "k", "-5"]);
    assert_eq!(node.told(&["get", "self", "k"]), "-5");
}
