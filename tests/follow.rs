//! Watching, waiting and receiving from a shell: when each ends, and with what.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use crate::support::process::{Process, Said};
use crate::support::{PATIENCE, Place4Nodes, eventually};

/// A command that goes on, and the lines that it prints.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn of(node: &Process, arguments: &[&str]) -> Self {
        Self::start(&mut node.command(arguments))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// The line without its time.
    fn what(&mut self) -> String {
        let line = self.line();
        line.split_once(' ').map_or(line.clone(), |(_, what)| what.to_owned())
    }

    /// What the rest of it said when it ended.
    fn end(mut self) -> Said {
        let mut out = String::new();
        self.lines.read_to_string(&mut out).unwrap();
        let mut said: Said = self.child.wait_with_output().unwrap().into();
        said.out = out;
        said
    }
}

#[test]
fn watch_ends_with_its_reader_though_nothing_happens() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    for arguments in [&["watch"][..], &["recv", "--follow"], &["watch", "--reconnect"]] {
        let mut follower = Follower::of(&node, arguments);
        if arguments[0] == "watch" {
            assert_eq!(follower.what(), "watching");
        }
        drop(follower.lines);
        let mut code = None;
        eventually("it ends with its reader", || {
            code = follower.child.try_wait().unwrap().map(|status| status.code());
            code.is_some()
        });
        assert_eq!(code, Some(Some(0)), "{arguments:?}");
    }
}

/// The shell starts the watcher, waits for its line, and misses nothing from then on.
#[test]
fn what_is_there_comes_first_and_then_every_change() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "old=1", "other=2"]);
    let mut watch = Follower::of(&node, &["watch", "self", "--key", "o", "--initial"]);
    let first: Vec<String> = (0..4).map(|_| watch.what()).collect();
    assert_eq!(first, ["snapshot", "updated a old=1", "updated a other=2", "watching"]);
    for number in 0..20 {
        node.told(&["set", "o", &number.to_string()]);
        assert_eq!(watch.what(), format!("updated a o={number}"));
    }
    let mut watch = Follower::of(&node, &["watch", "-j", "-n", "2"]);
    let json = |watch: &mut Follower| -> serde_json::Value {
        serde_json::from_str(&watch.line()).unwrap()
    };
    assert_eq!(json(&mut watch)["event"], "watching");
    let version = node.json(&["set", "new", "x"])["timestamp"].clone();
    let event = json(&mut watch);
    assert_eq!((&event["key"], &event["timestamp"]), (&"new".into(), &version));
    let time = event["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.contains('T'), "{time}");
    node.told(&["set", "new", "y"]);
    assert_eq!(json(&mut watch)["value"], "y");
    assert_eq!(watch.end().code, 0, "two came");
}

#[test]
fn a_mistyped_node_is_said_and_one_that_comes_later_is_waited_for() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let said = node.ask(&["watch", "b"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("--unknown"), "{}", said.err);
    let mut watch = Follower::of(&node, &["watch", "b", "--unknown", "-n", "1"]);
    assert_eq!(watch.what(), "watching");
    let _b = place.spawn_at("b", "127.0.0.1:0", &[&node.address]);
    assert_eq!(watch.what(), "joined b");
    assert_eq!(watch.end().code, 0);
}

#[test]
fn the_end_of_the_node_is_told_from_the_end_of_the_time() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let said = node.ask(&["-t", "100ms", "watch"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let said = node.ask(&["-t", "100ms", "watch", "-n", "2"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("0 of 2"), "{}", said.err);
    assert_eq!(node.ask(&["-t", "100ms", "recv", "-f"]).code, 0);
    for kills in [false, true] {
        let node = place.spawn_at(if kills { "k" } else { "s" }, "127.0.0.1:0", &[]);
        let mut follows = [&["watch"][..], &["recv", "--follow"]].map(|it| Follower::of(&node, it));
        assert_eq!(follows[0].what(), "watching");
        if kills {
            node.kill();
        } else {
            node.told(&["stop"]);
        }
        let ended = follows.map(Follower::end);
        for said in &ended {
            assert_eq!((said.code, said.out.as_str()), (3, ""), "{said:?}");
            // The one that receives may not have come so far.
            assert!(said.err.contains("stopped") || said.err.contains("no node"), "{}", said.err);
        }
        assert!(ended[0].err.contains("stopped"), "{}", ended[0].err);
    }
}

#[test]
fn a_reader_that_is_let_go_is_told_so() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let mut watch = Follower::of(&node, &["watch"]);
    assert_eq!(watch.what(), "watching");
    // Nobody reads: the pipe fills, then the socket. After 10 s the node has had enough.
    let value = "x".repeat(60_000);
    for number in 0..30 {
        node.told(&["set", "k", &format!("{number}{value}")]);
    }
    eventually("the node lets it go", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
        let names =
            threads.flatten().filter_map(|it| std::fs::read_to_string(it.path().join("comm")).ok());
        !names.into_iter().any(|name| name.starts_with("dsn-control-"))
    });
    let said = watch.end();
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("let this reader go"), "{}", said.err);
    assert_eq!(node.ask(&["status"]).code, 0);
}

#[test]
fn who_reconnects_goes_on_when_the_node_is_back() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "k", "1"]);
    let mut watch = Follower::of(&node, &["watch", "-i", "-r"]);
    let mut receiver = Follower::of(&node, &["recv", "-r", "-s"]);
    let first: Vec<String> = (0..3).map(|_| watch.what()).collect();
    assert_eq!(first, ["snapshot", "updated a k=1", "watching"]);
    node.kill();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let again: Vec<String> = (0..3).map(|_| watch.what()).collect();
    assert_eq!(again, ["snapshot", "updated a k=1", "watching"], "all of it anew");
    node.told(&["set", "k", "2"]);
    assert_eq!(watch.what(), "updated a k=2");
    let other = place.spawn_at("b", "127.0.0.1:0", &[&node.address]);
    other.told(&["wait", "peers", "1", "-t", "60s"]);
    other.told(&["-t", "60s", "send", "a", "hello"]);
    assert_eq!(receiver.line(), "b\thello");
    watch.child.kill().unwrap();
    let said = watch.end();
    assert!(said.err.contains("waiting for it") && said.err.contains("is back"), "{}", said.err);
    receiver.child.kill().unwrap();
    receiver.end();
}

#[test]
fn messages_are_told_apart_and_say_who_sent_them() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    let c = place.spawn_at("c", "127.0.0.1:0", &[&a.address]);
    for node in [&b, &c] {
        node.told(&["wait", "node", "a", "alive", "-t", "60s"]);
    }
    let send = |node: &Process, data: &str| node.told(&["-t", "60s", "send", "a", data]);
    let out = |arguments: &[&str]| a.ask(arguments).out;
    send(&b, "one\ntwo");
    assert_eq!(out(&["recv"]), "one\ntwo", "exactly the bytes");
    send(&b, "1");
    send(&c, "2");
    send(&b, "3");
    assert_eq!(out(&["recv", "--from", "c"]), "2", "those of others stay");
    assert_eq!(out(&["recv", "-n", "2"]), "1\n3\n", "lines");
    send(&b, "x\n");
    send(&b, "");
    assert_eq!(out(&["recv", "-n", "2", "--null", "--sender"]), "b\tx\n\0b\t\0");
    send(&b, "p");
    send(&b, "q");
    assert_eq!(out(&["recv", "-n", "2", "--raw"]), "pq");
    send(&c, "j");
    assert_eq!(out(&["recv", "-j"]), "{\"data\":\"j\",\"from\":\"c\"}\n");
    assert_eq!(a.ask(&["-t", "0s", "recv", "--from", "c"]).code, 1, "nothing is left");
}

#[test]
fn waiting_ends_as_soon_as_it_is_true_or_says_what_it_saw() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let in_vain = |arguments: &[&str], seen: &str| {
        let all: Vec<&str> = ["-t", "50ms", "wait"].iter().chain(arguments).copied().collect();
        let said = node.ask(&all);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{arguments:?}");
        assert!(said.err.contains(&format!("seen last: {seen}")), "{arguments:?}: {}", said.err);
    };
    in_vain(&["peers", "1"], "0 answered, of 0");
    in_vain(&["node", "b", "alive"], "no node b is known here");
    in_vain(&["node", "self", "lost", "left"], "it is alive");
    in_vain(&["key", "a", "k"], "there is none");
    in_vain(&["key", "b", "k"], "no state of a node b");
    in_vain(&["synced"], "no peer is alive");
    node.told(&["set", "k", "1"]);
    in_vain(&["key", "a", "k", "2"], "it is \"1\"");
    in_vain(&["key", "a", "k", "--gone"], "it is \"1\"");
    in_vain(&["key", "a", "k", "--not", "1"], "it is \"1\"");
    in_vain(&["key", "a", "k", "--changed"], "it is \"1\"");
    for arguments in [
        &["peers", "0"][..],
        &["synced", "0"],
        &["node", "self", "alive"],
        &["key", "self", "k"],
        &["key", "a", "k", "1"],
        &["key", "a", "k", "--not", "2"],
        &["key", "a", "none", "--gone"],
    ] {
        let all: Vec<&str> = ["-t", "0s", "wait"].iter().chain(arguments).copied().collect();
        assert_eq!(node.ask(&all).code, 0, "{arguments:?}");
    }
    let waits = |arguments: &[&str]| {
        let key = ["-t", "60s", "wait", "key", "a", "k"];
        Follower::of(&node, &key.iter().chain(arguments).copied().collect::<Vec<_>>())
    };
    let gone = waits(&["--gone"]);
    let mut others = [waits(&["9"]), waits(&["--not", "1"]), waits(&["--changed"])];
    node.told(&["set", "k", "9"]);
    let mut value = 9;
    // Whatever was set before it asked is no change to it.
    eventually("each of them has seen what it waits for", || {
        value = if value == 9 { 8 } else { 9 };
        node.told(&["set", "k", &value.to_string()]);
        others.iter_mut().all(|follower| follower.child.try_wait().unwrap().is_some())
    });
    assert_eq!(others.map(|follower| follower.end().code), [0; 3]);
    node.told(&["unset", "k"]);
    assert_eq!(gone.end().code, 0);
}

#[test]
fn a_fleet_is_waited_for() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    let c = place.spawn_at("c", "127.0.0.1:0", &[&a.address]);
    a.told(&["-t", "60s", "wait", "peers", "2"]);
    a.told(&["set", "k", "v"]);
    a.told(&["-t", "60s", "wait", "synced"]);
    assert_eq!(b.told(&["get", "a", "k"]), "v");
    assert_eq!(c.told(&["get", "a", "k"]), "v");
    assert_eq!(a.json(&["-t", "60s", "wait", "synced", "2"])["held"], 2);
    // One that was killed a moment ago counts as alive still, or on a busy host as suspect; it is
    // asked.
    c.kill();
    assert!(["alive", "suspect"].contains(&a.status_of("c").as_str()));
    let said = a.ask(&["-t", "1s", "wait", "peers", "2"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("1 answered"), "{}", said.err);
    assert_eq!(a.ask(&["-t", "60s", "wait", "peers", "1"]).code, 0);
    a.told(&["-t", "60s", "wait", "node", "c", "lost", "left"]);
    b.told(&["leave"]);
    assert_eq!(a.json(&["-t", "60s", "wait", "node", "b", "left"])["status"], "left");
}

#[test]
fn one_key_of_all_and_keys_that_begin_alike() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    a.told(&["set", "load=0.5", "disk.root=1", "disk.home=2"]);
    b.told(&["set", "load", "0.1\t\\"]);
    a.told(&["-t", "60s", "wait", "key", "b", "load"]);
    assert_eq!(a.told(&["get", "--all", "load"]), "a\talive\t0.5\nb\talive\t0.1\\t\\\\");
    assert_eq!(a.told(&["get", "a", "--prefix", "disk."]), "disk.home=2\ndisk.root=1");
    assert_eq!(a.told(&["get", "--all", "-p", "disk.r"]), "a  alive    disk.root=1");
    let list = a.json(&["get", "--all", "load"]);
    assert_eq!((&list[1]["node_id"], &list[1]["value"]), (&"b".into(), &"0.1\t\\".into()));
    assert!(list[1]["held_ms"].as_u64().is_some_and(|ms| u128::from(ms) < PATIENCE.as_millis()));
    b.kill();
    a.told(&["-t", "60s", "wait", "node", "b", "suspect", "lost"]);
    assert_eq!(a.told(&["get", "--alive", "load"]), "a\talive\t0.5");
    assert_eq!(a.told(&["get", "--all", "load"]).lines().count(), 2, "what is held is shown");
    assert_eq!(a.ask(&["get", "--all", "none"]).code, 1);
    assert_eq!(a.ask(&["get", "a", "--prefix", "none"]).code, 1);
}

#[test]
fn the_node_id_in_the_environment_chooses_the_socket() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    for node in [&a, &b] {
        node.told(&["set", "k", "v"]);
    }
    let asks = |node_id: &str, key: &str| -> Said {
        let mut command = crate::support::process::dsn();
        command
            .current_dir(place.path())
            .env("DSN_NODE_ID", node_id)
            .args(["get", "self", key, "-j"]);
        command.output().unwrap().into()
    };
    for node_id in ["a", "b"] {
        let said = asks(node_id, "k");
        assert!(said.out.contains(&format!("\"node_id\":\"{node_id}\"")), "{said:?}");
    }
    let said = asks("c", "k");
    assert_eq!(said.code, 3);
    assert!(said.err.contains("c (DSN_NODE_ID)"), "{}", said.err);
}

/// More at once than there are places, on a disk that takes its time.
#[test]
fn a_hundred_changes_at_once_are_all_made_while_others_watch() {
    let place = Place4Nodes::new();
    let mut command = place.run_command("a", &[]);
    command.args(["--listen", "127.0.0.1:0", "--sync", "shared"]);
    let node = place.spawn(command, "a");
    let mut watchers: Vec<Follower> =
        (0..40).map(|_| Follower::of(&node, &["watch", "-k", "x"])).collect();
    for watcher in &mut watchers {
        assert_eq!(watcher.what(), "watching");
    }
    let all: Vec<Follower> = (0..100)
        .map(|number| Follower::of(&node, &["-t", "60s", "set", &format!("k{number}"), "v"]))
        .collect();
    for follower in all {
        let said = follower.end();
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert_eq!(node.json(&["status"])["keys"], 100);
    node.told(&["stop"]);
    for watcher in watchers {
        assert_eq!(watcher.end().code, 3);
    }
}

/// Ctrl-C ends all of it, as it ends any program.
#[test]
fn a_signal_ends_who_waits() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let mut watch = Follower::of(&node, &["watch", "-r"]);
    assert_eq!(watch.what(), "watching");
    let pid = rustix::process::Pid::from_child(&watch.child);
    // Whoever runs the tests in the background has SIGINT ignored, by all that they start, too.
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    eventually("it ends", || watch.child.try_wait().unwrap().is_some());
    assert_eq!(watch.end().code, -1, "by the signal");
}
