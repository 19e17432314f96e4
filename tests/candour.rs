//! Candour: who is alone, refused, one-way or losing something is told so, in `status`, in `peers`
//! and once in the log; and nothing that nobody reads stops a node.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::support::process::{Process, dsn};
use crate::support::{Place4Nodes, address_of_nobody, eventually};

/// The codes of what is wrong with a node.
fn codes(node: &Process) -> Vec<String> {
    let status = node.json(&["status"]);
    let code = |fault: &Json| fault["code"].as_str().unwrap().to_owned();
    status["degraded"].as_array().unwrap().iter().map(code).collect()
}

fn fault(node: &Process, code: &str) -> Option<Json> {
    let status = node.json(&["status"]);
    status["degraded"].as_array().unwrap().iter().find(|fault| fault["code"] == code).cloned()
}

/// A port that leads to another one, which may change.
struct Forwarder {
    address: String,
    to: Arc<Mutex<String>>,
}

impl Forwarder {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let to = Arc::<Mutex<String>>::default();
        let shared = Arc::clone(&to);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let to = shared.lock().unwrap().clone();
                std::thread::spawn(move || forward(stream, &to));
            }
        });
        Self { address, to }
    }

    fn lead_to(&self, address: &str) {
        address.clone_into(&mut self.to.lock().unwrap());
    }
}

/// One request a connection, so that the next one goes where the port leads by then.
fn forward(mut from: TcpStream, to: &str) {
    let Ok(mut there) = TcpStream::connect(to) else { return };
    let (mut from_too, mut there_too) = (from.try_clone().unwrap(), there.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = there_too.set_read_timeout(Some(Duration::from_millis(300)));
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = there_too.read(&mut buffer) {
            let _ = from_too.write_all(&buffer[..count]);
        }
        let _ = from_too.shutdown(Shutdown::Both);
        let _ = there_too.shutdown(Shutdown::Both);
    });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if there.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = there.shutdown(Shutdown::Both);
    let _ = back.join();
}

#[test]
fn a_bootstrap_address_that_led_to_the_node_itself_is_asked_again() {
    let place = Place4Nodes::new();
    let door = Forwarder::new();
    let one = place.spawn_at("one", "127.0.0.1:0", &[&door.address]);
    let two = place.spawn_at("two", "127.0.0.1:0", &[]);
    door.lead_to(&one.address);
    eventually("it finds itself there, and says that it is alone", || {
        fault(&one, "alone")
            .is_some_and(|fault| fault["text"].to_string().contains("this node itself"))
    });
    door.lead_to(&two.address);
    one.told(&["--timeout", "60s", "wait", "peers", "1"]);
    eventually("all is well", || codes(&one).is_empty() && codes(&two).is_empty());
    eventually("and that is told", || one.log_text().contains("no longer degraded (alone)"));
}

/// Two islands that both knock at one door merge, whoever answers there.
#[test]
fn islands_that_share_a_bootstrap_address_become_one_network() {
    let place = Place4Nodes::new();
    let door = Forwarder::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[&door.address]);
    door.lead_to(&a.address);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&door.address]);
    b.told(&["--timeout", "60s", "wait", "peers", "1"]);
    let c = place.spawn_at("c", "127.0.0.1:0", &[]);
    let d = place.spawn_at("d", "127.0.0.1:0", &[&c.address]);
    d.told(&["--timeout", "60s", "wait", "peers", "1"]);
    door.lead_to(&c.address);
    for node in [&a, &b, &c, &d] {
        node.told(&["--timeout", "60s", "wait", "peers", "3"]);
    }
}

#[test]
fn alone_is_degraded_unless_that_is_meant() {
    let place = Place4Nodes::new();
    let founder = place.spawn_at("founder", "127.0.0.1:0", &[]);
    eventually("it has nobody", || codes(&founder) == ["alone"]);
    let hint = fault(&founder, "alone").unwrap()["hint"].to_string();
    assert!(hint.contains("--bootstrap") && hint.contains("--alone"), "{hint}");
    assert_eq!(founder.ask(&["status", "--check"]).code, 1);
    let quiet = founder.ask(&["status", "--quiet"]);
    assert_eq!((quiet.code, quiet.out.as_str(), quiet.err.as_str()), (1, "", ""));
    assert_eq!(founder.ask(&["status"]).code, 0, "only --check tells by its exit code");

    let mut command = place.run_command("hermit", &[]);
    command.args(["--listen", "127.0.0.1:0", "--alone"]);
    let hermit = place.spawn(command, "hermit");
    assert_eq!(codes(&hermit), Vec::<String>::new());
    assert_eq!(hermit.ask(&["status", "--check"]).code, 0);
    assert_eq!(hermit.ask(&["--json", "status", "--quiet"]).out, "");

    let second = place.spawn_at("second", "127.0.0.1:0", &[&founder.address]);
    eventually("both are well", || codes(&founder).is_empty() && codes(&second).is_empty());
    second.kill();
    eventually("all others are lost", || {
        fault(&founder, "alone").is_some_and(|fault| fault["text"].to_string().contains("1 lost"))
    });
    // Once when it came, once when it went, once when it came again: and not at each tick.
    eventually("it is in the log", || founder.log_text().matches("degraded (alone)").count() == 3);
}

#[test]
fn a_founder_that_was_set_up_anew_hears_of_those_with_the_other_key() {
    let place = Place4Nodes::new();
    let anew = Place4Nodes::new();
    std::fs::remove_file(anew.path().join("credentials/network.key")).unwrap();
    let kitchen = anew.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = place.spawn_at("garden", "127.0.0.1:0", &[&kitchen.address]);
    eventually("kitchen hears it", || {
        fault(&kitchen, "other-network-key").is_some_and(|fault| {
            fault["text"] == "somebody at 127.0.0.1 calls with another network key"
                && fault["hint"].to_string().contains("network.key")
        })
    });
    eventually("garden says it", || {
        fault(&garden, "alone")
            .is_some_and(|fault| fault["text"].to_string().contains("another network key"))
    });
    for node in [&kitchen, &garden] {
        eventually("both logs have it", || node.log_text().contains("another network key"));
    }
    let others = kitchen.log_text().matches("somebody at 127.0.0.1").count();
    assert_eq!(others, 1, "{}", kitchen.log_text());
}

/// A mapped port without --advertise: it calls, and can't be called.
#[test]
fn who_can_be_heard_but_not_called_is_named_with_the_reason() {
    let place = Place4Nodes::new();
    let hub = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let closed = address_of_nobody().to_string();
    let mut command = place.run_command("shy", &[&hub.address]);
    command.args(["--listen", "127.0.0.1:0", "--advertise", &closed]);
    let shy = place.spawn(command, "shy");
    shy.told(&["--timeout", "60s", "wait", "peers", "1"]);
    let mut said = Json::Null;
    eventually("the hub says so", || {
        said = fault(&hub, "one-way").unwrap_or_default();
        said["node"] == "shy"
    });
    assert!(said["text"].to_string().contains(&format!("not called at {closed}")), "{said}");
    assert!(said["hint"].to_string().contains("--advertise"), "{said}");
    let peers = hub.json(&["peers"]);
    assert_eq!(peers[0]["status"], "alive");
    assert!(peers[0]["reason"].to_string().contains(&closed), "{peers}");
    let shown = hub.told(&["peers"]);
    assert!(shown.contains("can be heard but not called"), "{shown}");
    assert!(!codes(&shy).contains(&"one-way".to_owned()), "it can call the hub");
}

/// A host with an address, and two behind routers: the two hear each other by it alone.
#[test]
fn two_that_nobody_can_call_see_each_other_come_and_go() {
    let place = Place4Nodes::new();
    let hub = place.spawn(on_any_port(&place, "hub", &[]), "hub");
    let closed = address_of_nobody().to_string();
    let start = |name: &str| {
        let mut command = on_any_port(&place, name, &[&hub.address]);
        command.args(["--advertise", &closed]);
        place.spawn(command, name)
    };
    let left = start("left");
    let right = start("right");
    for node in [&left, &right] {
        node.told(&["--timeout", "60s", "wait", "peers", "2"]);
    }
    right.told(&["set", "load=7"]);
    left.told(&["--timeout", "60s", "wait", "key", "right", "load", "7"]);
    right.signal(Signal::KILL);
    eventually("left misses right", || left.status_of("right") == "lost");
    assert_eq!(left.status_of("hub"), "alive");
    drop(right);
    let right = start("right");
    eventually("left knows that it is back", || left.status_of("right") == "alive");
    right.told(&["--timeout", "60s", "wait", "peers", "2"]);
}

fn on_any_port(place: &Place4Nodes, name: &str, bootstrap: &[&str]) -> Command {
    let mut command = place.run_command(name, bootstrap);
    command.args(["--listen", "127.0.0.1:0"]);
    command
}

#[test]
fn peers_are_chosen_by_status_and_named_alone() {
    let place = Place4Nodes::new();
    let hub = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let nobody = hub.ask(&["peers"]);
    assert_eq!((nobody.code, nobody.out.as_str()), (0, ""));
    assert!(nobody.err.contains("nobody is here"), "{}", nobody.err);
    let gone = place.spawn_at("gone", "127.0.0.1:0", &[&hub.address]);
    let stays = place.spawn_at("stays", "127.0.0.1:0", &[&hub.address]);
    hub.told(&["--timeout", "60s", "wait", "peers", "2"]);
    assert_eq!(hub.told(&["peers", "--ids"]), "gone\nstays");
    let key = hub.json(&["status"])["network_key"].clone();
    let peers = hub.json(&["peers"]);
    assert!(peers.as_array().unwrap().iter().all(|peer| peer["network_key"] == key), "{peers}");
    gone.kill();
    eventually("it is lost", || hub.status_of("gone") == "lost");
    assert_eq!(hub.told(&["peers", "--ids"]), "stays");
    assert_eq!(hub.told(&["peers", "--status", "lost", "--ids"]), "gone");
    assert_eq!(hub.told(&["peers", "--status", "lost,alive", "--ids"]), "gone\nstays");
    let lost = hub.json(&["peers", "--status", "lost"]);
    assert!(lost[0]["reason"].to_string().contains("nobody listens there"), "{lost}");
    assert_eq!(hub.ask(&["peers", "--status", "dead"]).code, 2);
    drop(stays);
}

/// So that a key change can be looked at before the old key is removed.
#[test]
fn which_network_key_a_peer_seals_with_is_seen() {
    let place = Place4Nodes::new();
    let own = |name: &str| {
        let key = place.path().join(format!("{name}.key"));
        std::fs::copy(place.path().join("credentials/network.key"), &key).unwrap();
        key
    };
    let node = |name: &str, seeds: &[&str]| {
        let mut command = place.run_command(name, seeds);
        command.args(["--listen", "127.0.0.1:0", "--network-key"]).arg(own(name));
        place.spawn(command, name)
    };
    let a = node("a", &[]);
    let b = node("b", &[&a.address]);
    a.told(&["--timeout", "60s", "wait", "peers", "1"]);
    let new = place.path().join("new.key");
    let made = dsn().arg("keygen").arg(&new).output().unwrap();
    assert!(made.status.success());
    let of_b = || a.json(&["peers"])[0]["network_key"].clone();
    let old = a.json(&["status"])["network_key"].clone();
    for node in [&a, &b] {
        node.told(&["key", "add", new.to_str().unwrap()]);
    }
    assert_eq!(of_b(), old);
    let names = b.told(&["key", "list"]);
    let name = names.lines().last().unwrap().split_whitespace().next().unwrap().to_owned();
    b.told(&["key", "use", &name]);
    eventually("b is heard with the new key", || of_b() == name.as_str());
}

/// A pipe that takes nothing any more: as a terminal after Ctrl-S.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let (read, write) = std::io::pipe().unwrap();
    let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
    let flags = fcntl_getfl(&write).unwrap();
    fcntl_setfl(&write, flags | OFlags::NONBLOCK).unwrap();
    let mut file = std::fs::File::from(write);
    while file.write(&[b'.'; 4096]).is_ok() {}
    while file.write(b".").is_ok() {}
    let write = OwnedFd::from(file);
    fcntl_setfl(&write, flags).unwrap();
    (read, write)
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let place = Place4Nodes::new();
    let hub = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let (_nobody, stderr) = full_pipe();
    let (_nobody_too, stdout) = full_pipe();
    let mut command = place.run_command("mute", &[&hub.address]);
    command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", "debug");
    let mut mute = command.stdout(stdout).stderr(stderr).stdin(Stdio::null()).spawn().unwrap();
    let socket = place.path().join("data/mute/control.sock");
    let ask = |arguments: &[&str]| {
        let mut command = dsn();
        command.arg("--control").arg(&socket).args(arguments).output().unwrap().status.success()
    };
    hub.told(&["--timeout", "60s", "wait", "peers", "1"]);
    eventually("it answers", || ask(&["set", "k", "v"]));
    // More lines than anybody keeps: each refused call is one.
    for _ in 0..5 {
        let stranger = place.spawn_at("stranger", "127.0.0.1:0", &[&hub.address]);
        hub.told(&["--timeout", "60s", "wait", "peers", "2"]);
        stranger.kill();
        eventually("it is forgotten", || hub.ask(&["forget", "stranger"]).code == 0);
    }
    assert_eq!(hub.status_of("mute"), "alive");
    assert!(ask(&["set", "k", "w"]));
    let pid = rustix::process::Pid::from_child(&mute);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let began = Instant::now();
    eventually("SIGTERM ends it", || mute.try_wait().unwrap().is_some());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn the_log_begins_and_ends_with_a_line_and_each_level_shows_its_own() {
    let place = Place4Nodes::new();
    let at = |name: &str, level: &str, seeds: &[&str]| {
        let mut command = place.run_command(name, seeds);
        command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", level);
        place.spawn(command, name)
    };
    let nobody = address_of_nobody().to_string();
    let mut info = at("info", "info", &[]);
    let debug = at("debug", "debug", &[&nobody]);
    let off = at("off", "off", &[]);
    let status = info.json(&["status"]);
    let folder = place.path().join("credentials").display().to_string();
    let names =
        ["dsn", "runs as info", &info.address, &folder, status["network_key"].as_str().unwrap()];
    eventually("it says who it is", || {
        let log = info.log_text();
        log.lines().any(|line| names.iter().all(|name| line.contains(name)))
    });
    eventually("a try in vain is told at debug", || debug.log_text().contains(&nobody));
    for node in [&info, &debug] {
        let log = node.log_text();
        assert!(!log.contains("tiny_http") && !log.contains("ureq"), "{log}");
        assert!(!log.contains("ERROR"), "{log}");
    }
    info.signal(Signal::TERM);
    assert_eq!(info.wait(), Some(0));
    let log = info.log_text();
    assert!(log.contains("SIGTERM came") && log.trim_end().ends_with("stopped"), "{log}");
    assert_eq!(off.log_text(), "");

    let mut command = place.run_command("wrong", &[]);
    let said = command.env("RUST_LOG", "inof").output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.contains("RUST_LOG") && text.contains("inof"), "{text}");
}
