//! The control socket, as a script in any language sees it (docs/control.md).

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::support::{PATIENCE, Place4Nodes, eventually, id};
use dsn::RunningNode;
use serde_json::{Value as Json, json};

/// A connection to the socket of a node.
struct Socket {
    lines: BufReader<UnixStream>,
}

impl Socket {
    fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { lines: BufReader::new(stream) }
    }

    fn write(&mut self, line: &str) {
        // A node that has had enough closes; what it said is read all the same.
        let _ = self.lines.get_mut().write_all(format!("{line}\n").as_bytes());
    }

    fn read(&mut self) -> Option<Json> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    fn ask(&mut self, request: Json) -> Json {
        self.write(&request.to_string());
        self.read().expect("an answer")
    }

    fn result(&mut self, request: Json) -> Json {
        let answer = self.ask(request.clone());
        assert_eq!(answer["ok"], true, "{request} gives {answer}");
        answer["result"].clone()
    }
}

fn start(place: &Place4Nodes, node_id: &str, bootstrap: &[&str]) -> (RunningNode, Socket) {
    let config = place.config(node_id, bootstrap);
    let path = config.control_socket().unwrap();
    (dsn::start(config).unwrap(), Socket::open(&path))
}

fn two(place: &Place4Nodes) -> ((RunningNode, Socket), (RunningNode, Socket)) {
    let mut a = start(place, "a", &[]);
    let address = a.0.listen();
    let mut b = start(place, "b", &[&address]);
    for socket in [&mut a.1, &mut b.1] {
        socket.result(json!({ "op": "wait_peers", "count": 1, "timeout_ms": 60_000 }));
    }
    (a, b)
}

#[test]
fn the_socket_is_private() {
    let place = Place4Nodes::new();
    let (node, _socket) = start(&place, "a", &[]);
    let mode = place.folder.path().join("a.sock").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    node.stop();
}

#[test]
fn every_operation_does_what_the_page_says() {
    let place = Place4Nodes::new();
    let ((a, mut at_a), (b, mut at_b)) = two(&place);
    let set =
        at_a.result(json!({ "op": "set", "entries": { "k": "v", "raw": { "base64": "/w==" } } }));
    assert!(set["timestamp"].as_u64().unwrap() > 0);
    let got = at_b.result(
        json!({ "op": "wait_key", "node": "a", "key": "k", "value": "v", "timeout_ms": 60_000 }),
    );
    assert_eq!(got["value"], "v");
    let got = at_b.result(json!({ "op": "get", "node": "a", "key": "raw" }));
    assert_eq!((&got["value"], &got["node_id"]), (&json!({ "base64": "/w==" }), &json!("a")));
    assert_eq!(got["timestamp"], set["timestamp"]);
    assert!(got["held_ms"].is_u64() && got["status"] == "alive", "{got}");
    let all = at_b.result(json!({ "op": "get", "key": "k" }));
    assert_eq!((all.as_array().unwrap().len(), &all[0]["value"]), (1, &json!("v")));
    let own = at_b.result(json!({ "op": "state", "node": "self", "prefix": "" }));
    assert_eq!((&own["node_id"], &own["held_ms"]), (&json!("b"), &Json::Null), "an earlier run");
    let part = at_b.result(json!({ "op": "state", "node": "a", "prefix": "r" }));
    assert_eq!(part["entries"], json!({ "raw": { "base64": "/w==" } }));
    let alive = at_b.result(json!({ "op": "wait_node", "node": "a", "status": ["left", "alive"] }));
    assert_eq!(alive, json!({ "status": "alive" }));
    let held = at_a.result(json!({ "op": "wait_synced", "timeout_ms": 60_000 }));
    assert_eq!(held, json!({ "held": 1 }));
    let state = at_b.result(json!({ "op": "state", "node": "a" }));
    assert_eq!((&state["status"], &state["entries"]["k"]), (&json!("alive"), &json!("v")));
    let states = at_b.result(json!({ "op": "state" }));
    assert_eq!((&states[0]["node_id"], &states[1]["node_id"]), (&json!("b"), &json!("a")));
    let peers = at_b.result(json!({ "op": "peers" }));
    assert_eq!((&peers[0]["node_id"], &peers[0]["keys"]), (&json!("a"), &json!(2)));
    assert_eq!(peers[0]["address"], a.listen());
    assert!(at_b.result(json!({ "op": "ping", "node": "a" }))["ms"].as_f64().unwrap() > 0.0);
    at_b.result(json!({ "op": "send", "node": "a", "data": "hello" }));
    let message = at_a.result(json!({ "op": "recv" }));
    assert_eq!(message, json!({ "from": "b", "data": "hello" }));
    at_a.result(json!({ "op": "unset", "keys": ["k"] }));
    eventually("the key is gone", || b.get(&id("a"), "k").is_none());
    at_b.result(json!({ "op": "leave", "timeout_ms": 10_000 }));
    eventually("it has left", || at_a.result(json!({ "op": "peers" }))[0]["status"] == "left");
    at_a.result(json!({ "op": "forget", "node": "b" }));
    assert_eq!(at_a.result(json!({ "op": "peers" })), json!([]));
    at_a.result(json!({ "op": "stop" }));
    a.wait_for_stop().unwrap();
    a.stop();
    b.stop();
    assert!(at_a.read().is_none(), "the connection ends with the node");
}

#[test]
fn what_makes_no_sense_is_told_and_the_connection_goes_on() {
    let place = Place4Nodes::new();
    let (node, mut socket) = start(&place, "a", &[]);
    for line in [
        "nonsense",
        "[]",
        "7",
        "{}",
        r#"{"op": "fly"}"#,
        r#"{"op": 1}"#,
        r#"{"op": "get"}"#,
        r#"{"op": "get", "node": "../x", "key": "k"}"#,
        r#"{"op": "set"}"#,
        r#"{"op": "set", "entries": {}}"#,
        r#"{"op": "set", "entries": {"k": 1}}"#,
        r#"{"op": "set", "entries": {"k": {"base64": "!"}}}"#,
        r#"{"op": "unset", "keys": []}"#,
        r#"{"op": "send", "node": "a", "data": "to myself"}"#,
        r#"{"op": "ping", "node": "a"}"#,
        r#"{"op": "forget", "node": "a"}"#,
        r#"{"op": "wait_peers", "count": "many"}"#,
        r#"{"op": "wait_node", "node": "a", "status": "dead"}"#,
        r#"{"op": "wait_key", "node": "a", "key": "k", "gone": true, "changed": true}"#,
        r#"{"op": "recv", "follow": "yes"}"#,
        r#"{"op": "recv", "timeout_ms": "5s"}"#,
        r#"{"op": "watch", "node": 7}"#,
        "{\"op\": \"status\"",
        "\u{0}\u{1}",
    ] {
        socket.write(line);
        let answer = socket.read().unwrap();
        assert_eq!((&answer["ok"], &answer["kind"]), (&json!(false), &json!("usage")), "{line}");
        assert!(!answer["error"].as_str().unwrap().is_empty());
    }
    for line in [
        json!({ "op": "get", "node": "a", "key": "none" }),
        json!({ "op": "get", "node": "nobody", "key": "k" }),
        json!({ "op": "ping", "node": "nobody" }),
        json!({ "op": "forget", "node": "nobody" }),
        json!({ "op": "recv", "timeout_ms": 0 }),
        json!({ "op": "wait_peers", "count": 1, "timeout_ms": 1 }),
    ] {
        assert_eq!(socket.ask(line.clone())["kind"], "no", "{line}");
    }
    assert_eq!(socket.result(json!({ "op": "status", "unknown": [1] }))["node_id"], "a");
    // A line without end is cut off with a reason.
    let mut flood = Socket::open(&place.folder.path().join("a.sock"));
    let chunk = vec![b'x'; 1024 * 1024];
    for _ in 0..9 {
        let _ = flood.lines.get_mut().write_all(&chunk);
    }
    let mut said = Vec::new();
    let _ = flood.lines.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    assert!(said.is_empty() || said.contains("at most"), "{said}");
    assert_eq!(socket.result(json!({ "op": "status" }))["node_id"], "a");
    node.stop();
}

/// As many as may stay do, and keep nobody out; one more is told so, and may ask other things.
#[test]
fn those_who_stay_keep_nobody_out() {
    let place = Place4Nodes::new();
    let (node, mut first) = start(&place, "a", &[]);
    let path = place.folder.path().join("a.sock");
    let mut all: Vec<Socket> = (0..64).map(|_| Socket::open(&path)).collect();
    for socket in &mut all {
        assert_eq!(socket.result(json!({ "op": "watch" }))["event"], "watching");
    }
    let wait = json!({ "op": "wait_peers", "count": 1, "timeout_ms": 60_000 });
    let recv = json!({ "op": "recv", "timeout_ms": 60_000 });
    for request in [json!({ "op": "watch" }), json!({ "op": "recv", "follow": true }), wait, recv] {
        let answer = first.ask(request.clone());
        assert_eq!((&answer["ok"], &answer["kind"]), (&json!(false), &json!("no")), "{request}");
        assert!(answer["error"].as_str().unwrap().contains("64"), "{answer}");
    }
    // What is answered at once needs no such place.
    first.result(json!({ "op": "wait_peers", "count": 0 }));
    first.result(json!({ "op": "set", "entries": { "k": "v" } }));
    let mut asks: Vec<Socket> = (0..40).map(|_| Socket::open(&path)).collect();
    for socket in &mut asks {
        socket.result(json!({ "op": "status" }));
    }
    drop(all);
    eventually("there is room again", || first.ask(json!({ "op": "watch" }))["ok"] == true);
    node.stop();
}

/// Programs that keep a connection and ask nothing have to go where somebody asks.
#[test]
fn who_asks_nothing_gives_its_place_to_who_comes() {
    let place = Place4Nodes::new();
    let (node, mut oldest) = start(&place, "a", &[]);
    oldest.result(json!({ "op": "status" }));
    let path = place.folder.path().join("a.sock");
    let mut idle: Vec<Socket> = (0..63).map(|_| Socket::open(&path)).collect();
    for socket in &mut idle {
        socket.result(json!({ "op": "status" }));
    }
    let mut more: Vec<Socket> = (0..10).map(|_| Socket::open(&path)).collect();
    for socket in &mut more {
        socket.result(json!({ "op": "set", "entries": { "k": "v" } }));
    }
    assert!(oldest.read().is_none(), "it was idle for longest");
    node.stop();
}

/// Each that waits for a message has a thread and a place, for as long as it is there.
#[test]
fn who_hung_up_waits_for_nothing_any_more() {
    let place = Place4Nodes::new();
    let (node, mut first) = start(&place, "a", &[]);
    let path = place.folder.path().join("a.sock");
    for follows in [false, true] {
        let asked = json!({ "op": "recv", "follow": follows, "timeout_ms": 86_400_000 });
        let mut waiting: Vec<Socket> = Vec::new();
        eventually("all places are taken", || {
            let mut socket = Socket::open(&path);
            socket.write(&asked.to_string());
            waiting.push(socket);
            waiting.len() >= 64 && Socket::open(&path).ask(json!({ "op": "watch" }))["ok"] == false
        });
        drop(waiting);
        let mut all: Vec<Socket> = Vec::new();
        eventually("there is room again", || {
            let mut socket = Socket::open(&path);
            if socket.ask(json!({ "op": "watch" }))["ok"] == true {
                all.push(socket);
            }
            all.len() == 64
        });
        drop(all);
        eventually("there is room for the next", || {
            Socket::open(&path).ask(json!({ "op": "watch" }))["ok"] == true
        });
    }
    first.result(json!({ "op": "status" }));
    node.stop();
}

/// What a watcher makes of what was there first and of each change is the state itself.
#[test]
fn between_what_is_there_and_what_changes_nothing_is_missed() {
    let place = Place4Nodes::new();
    let (node, mut asks) = start(&place, "a", &[]);
    let path = place.folder.path().join("a.sock");
    let node = std::sync::Arc::new(node);
    let changes = {
        let node = std::sync::Arc::clone(&node);
        std::thread::spawn(move || {
            for number in 0..200 {
                let key = crate::support::key(&format!("k{}", number % 7));
                node.set(key, crate::support::value(&number.to_string())).unwrap();
            }
        })
    };
    let mut watchers: Vec<Socket> = Vec::new();
    while !changes.is_finished() && watchers.len() < 20 {
        let mut socket = Socket::open(&path);
        socket.write(r#"{"op": "watch", "initial": true}"#);
        watchers.push(socket);
    }
    changes.join().unwrap();
    asks.result(json!({ "op": "set", "entries": { "end": "x" } }));
    let state = asks.result(json!({ "op": "state", "node": "self" }));
    for mut watcher in watchers {
        let mut seen = serde_json::Map::new();
        assert_eq!(watcher.read().unwrap()["result"]["event"], "snapshot");
        let mut version = 0;
        while !seen.contains_key("end") {
            let event = watcher.read().unwrap()["result"].clone();
            if event["event"] == "watching" {
                continue;
            }
            assert_eq!(event["event"], "updated");
            let (key, timestamp) = (event["key"].as_str().unwrap(), event["timestamp"].as_u64());
            let before = seen.insert(key.into(), event["value"].clone()).unwrap_or(Json::Null);
            assert_eq!(before, event["old"], "no change of {key} fell between two");
            assert!(timestamp.unwrap() >= version, "versions go on");
            version = timestamp.unwrap();
        }
        assert_eq!(Json::Object(seen), state["entries"]);
    }
    std::sync::Arc::into_inner(node).unwrap().stop();
}

#[test]
fn who_watches_is_told_that_the_node_stops() {
    let place = Place4Nodes::new();
    let (node, _) = start(&place, "a", &[]);
    let path = place.folder.path().join("a.sock");
    let mut all: Vec<Socket> = (0..3).map(|_| Socket::open(&path)).collect();
    all[0].result(json!({ "op": "watch" }));
    all[1].write(r#"{"op": "recv", "follow": true}"#);
    all[2].write(r#"{"op": "wait_peers", "count": 9, "timeout_ms": 60000}"#);
    eventually("all three wait", || {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = threads.filter_map(|it| std::fs::read_to_string(it.path().join("comm")).ok());
        names.filter(|name| name.starts_with("dsn-control-")).count() >= 3
    });
    node.stop();
    let told = all.iter_mut().filter_map(Socket::read).map(|answer| answer["kind"].clone());
    let told: Vec<Json> = told.collect();
    assert!(told.iter().all(|kind| kind == "stopping") && !told.is_empty(), "{told:?}");
}

#[test]
fn a_message_that_is_not_acknowledged_is_not_lost() {
    let place = Place4Nodes::new();
    let ((a, mut at_a), (b, mut at_b)) = two(&place);
    for data in ["one", "two"] {
        at_b.result(json!({ "op": "send", "node": "a", "data": data }));
    }
    let path = place.folder.path().join("a.sock");
    let mut dies = Socket::open(&path);
    assert_eq!(dies.result(json!({ "op": "recv", "ack": true }))["data"], "one");
    drop(dies);
    // It may take a moment until the node knows that the other reader died.
    let mut reads = Socket::open(&path);
    let asked = json!({ "op": "recv", "ack": true, "follow": true, "timeout_ms": 60_000 });
    let mut got = vec![reads.result(asked)["data"].clone()];
    reads.write(r#"{"op": "ack"}"#);
    got.push(reads.read().unwrap()["result"]["data"].clone());
    reads.write(r#"{"op": "ack"}"#);
    got.sort_by_key(Json::to_string);
    assert_eq!(got, ["one", "two"], "each of them once");
    drop(reads);
    assert_eq!(at_a.ask(json!({ "op": "recv", "timeout_ms": 0 }))["kind"], "no");
    a.stop();
    b.stop();
}

#[test]
fn a_watcher_sees_everything_from_its_first_line_on() {
    let place = Place4Nodes::new();
    let (a, mut at_a) = start(&place, "a", &[]);
    let path = place.folder.path().join("a.sock");
    let mut all = Socket::open(&path);
    assert_eq!(all.result(json!({ "op": "watch" }))["event"], "watching");
    let mut some = Socket::open(&path);
    let mistyped = some.ask(json!({ "op": "watch", "node": "b" }));
    assert_eq!(mistyped["kind"], "no", "{mistyped}");
    some.result(json!({ "op": "watch", "node": "b", "key": "te", "unknown": true }));
    at_a.result(json!({ "op": "set", "entries": { "k": "1" } }));
    at_a.result(json!({ "op": "set", "entries": { "k": "2" } }));
    at_a.result(json!({ "op": "unset", "keys": ["k"] }));
    // When it was seen, and in which version, beside what it is.
    let next = |socket: &mut Socket| {
        let mut event = socket.read().unwrap()["result"].clone();
        let time = event.as_object_mut().unwrap().remove("time").unwrap();
        assert_eq!(time.as_str().unwrap().len(), "2026-01-31T23:59:59.999Z".len());
        if event["event"] == "updated" {
            let version = event.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert!(version.as_u64().unwrap() > 0);
        }
        event
    };
    let updated = |value: Json, old: Json| json!({ "event": "updated", "node_id": "a", "key": "k", "value": value, "old": old });
    for (value, old) in
        [(json!("1"), Json::Null), (json!("2"), json!("1")), (Json::Null, json!("2"))]
    {
        assert_eq!(next(&mut all), updated(value, old));
    }
    let b = start(&place, "b", &[&a.listen()]);
    assert_eq!(next(&mut all), json!({ "event": "joined", "node_id": "b" }));
    b.0.set(crate::support::key("other"), crate::support::value("x")).unwrap();
    b.0.set(crate::support::key("temperature"), crate::support::value("y")).unwrap();
    let event = some.read().unwrap()["result"].clone();
    assert_eq!((&event["node_id"], &event["key"]), (&json!("b"), &json!("temperature")));
    b.0.send(&id("a"), b"hi", PATIENCE).unwrap();
    eventually("the watcher sees the data", || {
        next(&mut all) == json!({ "event": "data", "node_id": "b", "data": "hi" })
    });
    b.0.stop();
    let mut seen = Vec::new();
    eventually("the watcher sees it die", || {
        seen.push(all.read().unwrap()["result"]["event"].clone());
        seen.last() == Some(&json!("lost"))
    });
    assert!(seen.contains(&json!("suspect")), "{seen:?}");
    // Those who hang up leave nothing behind.
    drop((all, some));
    a.stop();
}

/// A line has 8 MiB; nine states of 1 MiB each have more.
#[test]
fn an_answer_that_is_too_long_for_a_line_says_so() {
    let place = Place4Nodes::new();
    let (node, mut asks) = start(&place, "a", &[]);
    let target = node.listen().parse().unwrap();
    let text = "\u{1}".repeat(60_000);
    for name in ["m1", "m2"] {
        let member = crate::support::Member::joined(name, target);
        let keys: Vec<String> = (0..16).map(|number| format!("k{number}")).collect();
        let pairs: Vec<_> = keys.iter().map(|key| (key.as_str(), text.as_str())).collect();
        let push = member.push(vec![member.record(1, &pairs)]);
        assert_eq!(member.say(&push).verdict(), (204, 0));
    }
    let answer = asks.ask(json!({ "op": "state" }));
    assert_eq!((&answer["ok"], &answer["kind"]), (&json!(false), &json!("no")));
    let state = asks.result(json!({ "op": "state", "node": "m1" }));
    assert_eq!(state["entries"]["k0"], text.as_str());
    let mut command = crate::support::process::dsn();
    command.arg("--control").arg(place.folder.path().join("a.sock")).args(["--json", "state"]);
    let output = command.output().unwrap();
    let all: Json = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|state| &state["node_id"]).collect();
    assert_eq!(names, ["a", "m1", "m2"]);
    assert_eq!(all[2]["entries"]["k15"], text.as_str());
}

/// A reader that does not read has 10 s for a line; the end of the node does not wait for it.
#[test]
fn a_watcher_that_hangs_does_not_hold_up_the_end() {
    let place = Place4Nodes::new();
    let (node, mut asks) = start(&place, "a", &[]);
    let mut hangs = Socket::open(&place.folder.path().join("a.sock"));
    hangs.result(json!({ "op": "watch" }));
    for number in 0..30 {
        let value = format!("{number} {}", "x".repeat(60_000));
        asks.result(json!({ "op": "set", "entries": { "k": value } }));
    }
    let began = std::time::Instant::now();
    node.stop();
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[test]
fn a_program_that_embeds_a_node_gets_events_and_learns_what_it_missed() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let slow = node.subscribe().unwrap();
    let quick = node.subscribe().unwrap();
    for number in 0..1_100 {
        let text = number.to_string();
        node.set(crate::support::key("k"), crate::support::value(&text)).unwrap();
        let event = quick.next(PATIENCE).unwrap();
        assert_eq!(event.name(), "updated");
    }
    for _ in 0..1_024 {
        assert_eq!(
            slow.next(Duration::ZERO).unwrap().name(),
            "updated",
            "all that there is room for"
        );
    }
    // It learns that without another event.
    let lagged = slow.next(Duration::ZERO).unwrap();
    assert_eq!(lagged, dsn::protocol::report::Event::Lagged { count: 76 });
    assert_eq!(slow.next(Duration::ZERO), None);
    node.set(crate::support::key("k"), crate::support::value("last")).unwrap();
    assert_eq!(slow.next(PATIENCE).unwrap().name(), "updated");
    node.stop();
}
