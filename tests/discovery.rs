//! Nodes that find each other on a local network, without any bootstrap address: real nodes on
//! hosts of their own (network namespaces) with multicast, strangers who shout, and avahi as a
//! foreign implementation.
//!
//! It needs root and `ip`, some of it avahi and python3; without them a test says `SKIPPED` and
//! passes, unless `DSN_REQUIRE_NAMESPACES=1` or `DSN_REQUIRE_AVAHI=1`.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use dsn::protocol::crypto::{Announced, NetworkKeys};
use dsn::protocol::identity::hex;
use serde_json::json;
use zeroize::Zeroizing;

use crate::support::avahi::{self, Avahi};
use crate::support::namespaces::{Layout, Network, PORT};
use crate::support::process::{Process, dsn};
use crate::support::stats::rss_mb;
use crate::support::{NETWORK_KEY, Place4Nodes, eventually, eventually_within};

const DISCOVER: &[&str] = &["--discover"];

fn one_network(left: usize, right: usize) -> Option<(Network, Place4Nodes)> {
    Some((Network::new(Layout::OneNetwork { left, right })?, Place4Nodes::new()))
}

fn meet(nodes: &[Process]) {
    for node in nodes {
        eventually("all others are alive", || alive(node) == nodes.len() - 1);
    }
}

fn alive(node: &Process) -> usize {
    node.told(&["peers", "--ids", "--status", "alive"]).lines().count()
}

/// The sum of the samples of a metric whose labels have all of these texts.
fn count(node: &Process, metric: &str, labels: &[&str]) -> f64 {
    let text = node.told(&["metrics"]);
    let samples = text
        .lines()
        .filter(|line| line.starts_with(metric) && labels.iter().all(|label| line.contains(label)));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// The fault of this code, as the node shows it.
fn fault(node: &Process, code: &str) -> Option<String> {
    let status = node.json(&["status"]);
    let all = status["degraded"].as_array().unwrap().clone();
    all.iter().find(|fault| fault["code"] == code).map(ToString::to_string)
}

fn threads(node: &Process) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
    let names = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.unwrap().path().join("comm")).ok()?;
        Some(name.trim().to_owned())
    });
    names.collect()
}

#[test]
fn nodes_without_a_bootstrap_address_meet() {
    let Some((network, place)) = one_network(2, 1) else { return };
    let all = network.everyone();
    let nodes: Vec<_> =
        all.iter().map(|host| network.start_with(&place, *host, DISCOVER)).collect();
    meet(&nodes);
    nodes[0].told(&["set", "k=v"]);
    eventually("its state is everywhere", || nodes[2].ask(&["get", "n0", "k"]).out == "v");
    assert!(threads(&nodes[0]).iter().any(|name| name == "dsn-discovery"));
    assert_eq!(fault(&nodes[0], "discovery"), None);
    tells_what_it_does(&nodes, &network);
}

/// What `status`, `metrics` and the page say of it.
fn tells_what_it_does(nodes: &[Process], network: &Network) {
    let of = |node: &Process| node.json(&["status"])["discovery"].clone();
    // Each was met by somebody who had heard of it, or had heard of somebody itself.
    let met = || nodes.iter().map(|node| of(node)["met"].as_u64().unwrap()).sum::<u64>();
    eventually("it is counted who was met", || met() >= 2);
    for (number, node) in nodes.iter().enumerate() {
        eventually("a member was heard", || of(node)["interfaces"][0]["member_ms_ago"].is_u64());
        let place = network.address(number, 0);
        let ip = place.split(':').next().unwrap();
        let interface = of(node)["interfaces"][0].clone();
        assert_eq!((&interface["name"], &interface["address"]), (&"eth0".into(), &ip.into()));
        let text = node.told(&["status"]);
        assert!(text.contains(&format!("discovery    eth0 {ip}: a member heard ")), "{text}");
        let label = format!("address=\"{ip}\"");
        assert_eq!(count(node, "dsn_discovery_interface", &["interface=\"eth0\"", &label]), 1.0);
        assert_eq!(count(node, "dsn_discovery_on", &[]), 1.0);
        assert!(count(node, "dsn_discovery_announcements_total", &["of=\"members\""]) >= 1.0);
        assert!(count(node, "dsn_discovery_heard_seconds", &["eth0"]) < 300.0);
    }
    network.set_link(0, 0, false);
    eventually("an interface that is gone is none", || of(&nodes[0])["interfaces"] == json!([]));
    assert_eq!(count(&nodes[0], "dsn_discovery_interface", &[]), 0.0);
    let text = nodes[0].told(&["status"]);
    assert!(text.contains("discovery    on, and no interface to look on"), "{text}");
}

#[test]
fn two_networks_on_one_link_leave_each_other_alone() {
    let Some((network, place)) = one_network(2, 2) else { return };
    let other = Place4Nodes::new();
    let key = hex(&[7; 32]) + "\n";
    std::fs::write(other.path().join("credentials/network.key"), key).unwrap();
    let places = [&place, &other, &place, &other];
    let nodes: Vec<_> =
        (0..4).map(|host| network.start_with(places[host], host, DISCOVER)).collect();
    for node in &nodes {
        eventually("it finds the other of its network", || alive(node) == 1);
    }
    // Each has heard all others by then, and asked for all again.
    for node in &nodes {
        eventually("a second tick", || count(node, "dsn_uptime_seconds", &[]) > 5.0);
        let strangers = || count(node, "dsn_discovery_announcements_total", &["of=\"strangers\""]);
        eventually("it tells of the others", || strangers() >= 2.0);
        assert_eq!(fault(node, "other-network-key"), None);
        let all = count(node, "dsn_received_requests_total", &[]);
        let good = ["200", "204"].map(|status| {
            let status = format!("status=\"{status}\"");
            count(node, "dsn_received_requests_total", &[&status])
        });
        assert_eq!(all, good.iter().sum::<f64>(), "{}", node.told(&["metrics"]));
    }
}

#[test]
fn a_host_with_five_interfaces_is_found_on_each() {
    let Some(network) = Network::new(Layout::Spokes(5)) else { return };
    let place = Place4Nodes::new();
    let hub = network.start_with(&place, 5, DISCOVER);
    let spokes: Vec<_> = (0..5).map(|host| network.start_with(&place, host, DISCOVER)).collect();
    eventually("the one in the middle has all", || alive(&hub) == 5);
    for spoke in &spokes {
        // No host forwards packets: each can call the one in the middle alone.
        eventually("each has met the one in the middle", || hub_is_alive(spoke));
    }
    // One of the five goes: the rest is no fault.
    network.set_link(5, 3, false);
    eventually("its node is lost", || hub.status_of("n3") == "lost");
    assert_eq!(fault(&hub, "discovery"), None);
}

fn hub_is_alive(node: &Process) -> bool {
    node.status_of("n5") == "alive"
}

#[test]
fn halves_that_were_apart_become_one_network() {
    let Some((network, place)) = one_network(1, 1) else { return };
    network.set_trunk(false);
    let nodes: Vec<_> = (0..2).map(|host| network.start_with(&place, host, DISCOVER)).collect();
    for node in &nodes {
        eventually("it says that it is alone", || {
            fault(node, "alone").is_some_and(|text| text.contains("local network"))
        });
        assert_eq!(fault(node, "discovery"), None, "its own link is well");
    }
    network.set_trunk(true);
    eventually_within(Duration::from_secs(180), "they meet", || alive(&nodes[0]) == 1);
}

#[test]
fn an_interface_may_come_later_and_go() {
    let Some((network, place)) = one_network(2, 0) else { return };
    network.set_link(0, 0, false);
    let nodes: Vec<_> = (0..2).map(|host| network.start_with(&place, host, DISCOVER)).collect();
    let lines = |text: &str| nodes[0].log_text().matches(text).count();
    let says = |times: usize| {
        eventually("it says what is missing", || {
            fault(&nodes[0], "discovery").is_some_and(|text| text.contains("eth0"))
        });
        eventually("the log has it", || lines(" dsn::driver::told] degraded (disc") == times);
    };
    let is_well = |times: usize| {
        eventually("nothing is missing", || fault(&nodes[0], "discovery").is_none());
        eventually("the log has that", || lines("no longer degraded (disc") == times);
    };
    says(1);
    network.set_link(0, 0, true);
    meet(&nodes);
    is_well(1);
    network.set_link(0, 0, false);
    says(2);
    network.set_link(0, 0, true);
    is_well(2);
}

#[test]
fn a_host_without_multicast_says_so_and_recovers() {
    let Some((network, place)) = one_network(2, 0) else { return };
    network.ip(0, "link set eth0 multicast off");
    let nodes: Vec<_> = (0..2).map(|host| network.start_with(&place, host, DISCOVER)).collect();
    eventually("it says what is missing", || {
        fault(&nodes[0], "discovery").is_some_and(|text| text.contains("eth0 takes no multicast"))
    });
    network.ip(0, "link set eth0 multicast on");
    meet(&nodes);
    eventually("nothing is missing", || fault(&nodes[0], "discovery").is_none());
}

#[test]
fn link_local_addresses_of_ipv6_are_enough() {
    let Some((network, place)) = one_network(2, 0) else { return };
    let start = |host: usize| {
        network.ip(host, "addr flush dev eth0");
        network.allow_ipv6(host);
        network.start_with(&place, host, &["--discover", "--listen", &PORT.to_string()])
    };
    meet(&[start(0), start(1)]);
}

#[test]
fn nodes_of_one_host_find_each_other_and_one_address_is_announced_alone() {
    let Some(network) = Network::new(Layout::Spokes(2)) else { return };
    let place = Place4Nodes::new();
    let listen = network.address(2, 1);
    let narrow = network.start_with(&place, 2, &["--discover", "--listen", &listen]);
    let other = network.start_with(&place, 1, DISCOVER);
    eventually("it is found where it serves", || alive(&other) == 1 && alive(&narrow) == 1);
    // On the other link it can't be called, and nobody there hears of it.
    let deaf = network.start_with(&place, 0, DISCOVER);
    eventually("it is alone", || fault(&deaf, "alone").is_some());
    let mut command = network.command(2, dsn().get_program());
    command.current_dir(place.path()).env_remove("DSN_LISTEN");
    command.args(["run", "--node-id", "second", "--listen", "0.0.0.0:0", "--discover"]);
    let second = place.spawn(command, "second");
    eventually("two of one host meet", || second.status_of("n2") == "alive");
}

#[test]
fn what_can_not_be_is_refused_and_what_is_off_costs_nothing() {
    let place = Place4Nodes::new();
    let mut command = place.run_command("a", &[]);
    let said = command.args(["--listen", "127.0.0.1:0", "--discover"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(2), "{text}");
    assert!(text.contains("nobody on the local network can call") && text.contains("--listen"));
    let folder = tempfile::tempdir().unwrap();
    let mut command = dsn();
    command.current_dir(folder.path()).env("DSN_LISTEN", "0.0.0.0:0");
    let said = command.args(["run", "--discover"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(2), "{text}");
    assert!(text.contains("keygen") && text.contains("Copy the file"), "{text}");
    let node = place.spawn_at("b", "127.0.0.1:0", &[]);
    assert!(!threads(&node).iter().any(|name| name.contains("discovery")));
    assert!(node.json(&["status"])["discovery"].is_null());
    assert!(node.told(&["status"]).contains("discovery    off"));
    assert_eq!(count(&node, "dsn_discovery", &[]), 0.0, "dsn_discovery_on, and nothing else");
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).unwrap();
    let inodes: Vec<String> = sockets
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .map(|to| to.to_string_lossy().into_owned())
        .collect();
    let udp = std::fs::read_to_string(format!("/proc/{}/net/udp", node.child.id())).unwrap();
    let is_ours = |line: &&str| {
        let inode = line.split_whitespace().nth(9).unwrap_or("-");
        inodes.contains(&format!("socket:[{inode}]"))
    };
    assert_eq!(udp.lines().skip(1).filter(is_ours).count(), 0);
}

/// What somebody who holds the network key announces for that place.
fn mark(key: [u8; 32], label: u8, place: &str) -> (String, String) {
    let keys = NetworkKeys::new(&[Zeroizing::new(key)]).unwrap();
    let (ip, port) = place.rsplit_once(':').unwrap();
    let ip: IpAddr = ip.parse().unwrap();
    let announced = Announced { label: [label; 16], ip, port: port.parse().unwrap() };
    (hex(&announced.label), format!("t={}", hex(&announced.mark(&keys).unwrap())))
}

#[test]
fn avahi_sees_a_node_and_nothing_of_whose_it_is() {
    let Some((network, place)) = one_network(2, 0) else { return };
    if !avahi::is_here() {
        return;
    }
    let avahi = Avahi::start(&network, 1, place.path());
    let node = network.start_with(&place, 0, DISCOVER);
    let mut found = Vec::new();
    eventually("avahi resolves it", || {
        found = avahi.browse();
        found.len() == 1
    });
    let [_, protocol, name, _, _, host, address, port, text] = found[0].clone().try_into().unwrap();
    assert_eq!((&*protocol, format!("{address}:{port}")), ("IPv4", network.address(0, 0)));
    let is_noise =
        |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_noise(&name) && host == format!("{name}.local"), "{found:?}");
    let mark = text.strip_prefix("\"t=").and_then(|rest| rest.strip_suffix('"'));
    assert!(mark.is_some_and(is_noise), "{found:?}");
    let said = found.concat().join(" ");
    let own_host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for word in ["n0", &own_host, &node.json(&["status"])["network_key"].to_string()] {
        assert!(!said.contains(word), "{word} in {said}");
    }
    // Who stops takes it back, and one that runs beside avahi on one host is seen, too.
    drop(node.ask(&["stop"]));
    eventually("it was taken back", || avahi.browse().is_empty());
    let beside = network.start_with(&place, 1, DISCOVER);
    eventually("avahi sees who is beside it", || avahi.browse().len() == 1);
    drop(beside);
}

#[test]
fn what_avahi_publishes_is_called_where_the_mark_is_right() {
    let Some((network, place)) = one_network(3, 0) else { return };
    if !avahi::is_here() {
        return;
    }
    // Nodes that announce nothing themselves, beside an avahi each.
    let quiet: Vec<_> = (0..2).map(|host| network.start_with(&place, host, &[])).collect();
    let mut avahis: Vec<_> =
        (0..2).map(|host| Avahi::start(&network, host, place.path())).collect();
    let seeker = network.start_with(&place, 2, DISCOVER);
    // Wrong: another key, what was said for another place, and texts that are none.
    let places: Vec<String> = (0..2).map(|host| network.address(host, 0)).collect();
    let (other_key, other_mark) = mark([9; 32], 1, &places[0]);
    avahis[0].publish(&other_key, PORT, &[&other_mark]);
    let (replayed, replayed_mark) = mark(*NETWORK_KEY, 2, &places[1]);
    avahis[0].publish(&replayed, PORT, &[&replayed_mark]);
    let (name, right) = mark(*NETWORK_KEY, 3, &places[0]);
    avahis[0].publish(&name, PORT, &["t=", "t=zz", &right]);
    avahis[0].publish("a name with blanks", PORT, &[&right]);
    avahis[0].publish(&hex(&[4; 16]), PORT, &[&"x".repeat(200), "t"]);
    // Right, from the other host.
    let (name, right) = mark(*NETWORK_KEY, 5, &places[1]);
    avahis[1].publish(&name, PORT, &["v=1", &right]);
    eventually("the right one is called", || quiet[1].status_of("n2") == "alive");
    // By then all wrong ones were heard, as they were announced before; nobody has called there but
    // to bring what the other one knows.
    eventually("the wrong ones are there", || avahis[1].browse().len() >= 6);
    assert_eq!(seeker.told(&["peers", "--ids"]), "n1");
    assert_eq!(count(&quiet[0], "dsn_received_requests_total", &[]), 0.0);
}

/// Shouts to all on the link for so many seconds: garbage, and services that are none.
const SHOUTER: &str = r#"
import os, socket, struct, sys, time
address, seconds = sys.argv[1], float(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
group = ("224.0.0.251", 5353)
name = lambda *labels: b"".join(bytes([len(it)]) + it for it in labels) + b"\0"
service = (b"_dsn", b"_tcp", b"local")
def record(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, 1, 4000000, len(data)) + data
def services(count):
    body = b""
    for _ in range(count):
        label = os.urandom(16).hex().encode()
        instance, host = name(label, *service), name(label, b"local")
        mark = b"t=" + os.urandom(16).hex().encode()
        body += record(name(*service), 12, instance)
        body += record(instance, 33, struct.pack(">HHH", 0, 0, 8000) + host)
        body += record(instance, 16, bytes([len(mark)]) + mark)
        body += record(host, 1, os.urandom(4))
    return struct.pack(">HHHHHH", 0, 0x8400, 0, count * 4, 0, 0) + body
question = struct.pack(">HHHHHH", 0, 0, 1, 0, 0, 0) + name(*service) + struct.pack(">HH", 12, 1)
end, sent = time.monotonic() + seconds, 0
while time.monotonic() < end:
    for bytes_ in (services(1), services(20), os.urandom(1400), question, services(3)[:-7],
                   struct.pack(">HHHHHH", 0, 0x8400, 0, 100, 0, 0) + b"\xc0\x0c" * 600, b""):
        try:
            s.sendto(bytes_, group)
            sent += 1
        except OSError:
            time.sleep(0.001)
print(sent)
"#;

/// Repeats announcements of before, sixteen in each message (one of them sixteen times), until it
/// is told to end.
const REPEATER: &str = r#"
import select, socket, struct, sys
address, marks = sys.argv[1], [sys.argv[at:at + 3] for at in range(2, len(sys.argv), 3)]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
name = lambda *labels: b"".join(bytes([len(it)]) + it for it in labels) + b"\0"
def record(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, 1, 120, len(data)) + data
def service(label, mark, host, times):
    label = label.encode()
    instance, target = name(label, b"_dsn", b"_tcp", b"local"), name(label, b"local")
    srv = record(instance, 33, struct.pack(">HHH", 0, 0, 8000) + target)
    txt = record(instance, 16, bytes([len(mark)]) + mark.encode())
    return srv * times + txt + record(target, 1, socket.inet_aton(host))
def message(marks):
    times = 16 if len(marks) == 1 else 1
    body = b"".join(service(*mark, times) for mark in marks)
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(marks) * (times + 2), 0, 0) + body
all = [message(marks[at:at + 16]) for at in range(0, len(marks), 16)]
sent = 0
while not select.select([sys.stdin], [], [], 0.006 / len(all))[0]:
    s.sendto(all[sent % len(all)], ("224.0.0.251", 5353))
    sent += 1
    if sent == 200:
        print("repeats", flush=True)
"#;

/// One recorded announcement, whatever is done with it, keeps nobody from being found.
#[test]
fn one_announcement_of_before_silences_nobody() {
    meet_while_somebody_repeats(99..100);
}

/// Nor do a hundred, of places where nobody answers: more than a second lets through, more than may
/// wait, and more than are enough to answer a question.
#[test]
fn a_hundred_announcements_of_before_silence_nobody() {
    meet_while_somebody_repeats(100..200);
}

fn meet_while_somebody_repeats(hosts: std::ops::Range<u8>) {
    let Some((network, place)) = one_network(3, 0) else { return };
    let own = network.address(2, 0);
    let mut command = network.command(2, "python3");
    command.args(["-c", REPEATER, own.split(':').next().unwrap()]);
    for host in hosts {
        let ip = format!("10.77.1.{host}");
        let (label, text) = mark(*NETWORK_KEY, host, &format!("{ip}:8000"));
        command.args([label, text, ip]);
    }
    let mut repeater = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(repeater.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "repeats\n");
    let nodes: Vec<_> = (0..2).map(|host| network.start_with(&place, host, DISCOVER)).collect();
    meet(&nodes);
    drop(repeater.stdin.take());
    assert!(repeater.wait().unwrap().success(), "it went on all the time");
}

#[test]
fn a_flood_costs_no_memory_and_no_peer() {
    let Some((network, place)) = one_network(3, 0) else { return };
    let nodes: Vec<_> = (0..2).map(|host| network.start_with(&place, host, DISCOVER)).collect();
    meet(&nodes);
    let before: Vec<f64> = nodes.iter().map(|node| rss_mb(node.child.id())).collect();
    let address = network.address(2, 0);
    let seconds = if std::env::var_os("DSN_LONG").is_some() { "60" } else { "8" };
    let mut command = network.command(2, "python3");
    command.args(["-c", SHOUTER, address.split(':').next().unwrap(), seconds]);
    let shouter = command.stdout(Stdio::piped()).spawn();
    let shouter = shouter.unwrap();
    // In the middle of it all works, and it is told.
    eventually("what was dropped is counted", || {
        count(&nodes[0], "dsn_discovery_messages_total", &["what=\"dropped\""]) > 1_000.0
    });
    nodes[0].told(&["set", "k=v"]);
    eventually("changes travel", || nodes[1].ask(&["get", "n0", "k"]).out == "v");
    let sent = String::from_utf8(shouter.wait_with_output().unwrap().stdout).unwrap();
    let after: Vec<f64> = nodes.iter().map(|node| rss_mb(node.child.id())).collect();
    eprintln!("FIGURES a flood of {} messages: RSS {before:?} to {after:?} MB", sent.trim());
    assert!(sent.trim().parse::<u64>().unwrap() > 1_000, "{sent}");
    for (before, after) in before.iter().zip(&after) {
        assert!(after - before < 4.0, "{before} {after}");
    }
    // Who comes after it is found.
    drop(network.command(2, "true").status());
    let third = network.start_with(&place, 2, DISCOVER);
    eventually("a newcomer is met", || alive(&third) == 2);
    assert_eq!(count(&nodes[0], "dsn_sent_request_failures_total", &["hello"]), 0.0);
}

/// Says who is heard to announce a node on this link.
const LISTENER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("224.0.0.251", 5353))
member = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
s.settimeout(60)
print("listens", flush=True)
while True:
    said, (host, _) = s.recvfrom(9000)
    if said[2] & 0x80 and b"_dsn" in said:
        sys.exit(print(host, flush=True))
"#;

/// A router of two ports may have one address on both.
#[test]
fn who_has_one_address_on_two_links_is_heard_on_both() {
    let Some(network) = Network::new(Layout::Spokes(2)) else { return };
    let place = Place4Nodes::new();
    network.ip(2, "addr flush dev eth1\naddr add 10.77.1.3/24 dev eth1");
    network.ip(1, "addr flush dev eth0\naddr add 10.77.1.2/24 dev eth0");
    let listeners = [(0, "10.77.1.1"), (1, "10.77.1.2")].map(|(host, own)| {
        let mut command = network.command(host, "python3");
        let command = command.args(["-c", LISTENER, own]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert_eq!(line, "listens\n");
        (child, said)
    });
    let node = network.start_with(&place, 2, DISCOVER);
    for (mut child, mut said) in listeners {
        let mut heard = String::new();
        std::io::Read::read_to_string(&mut said, &mut heard).unwrap();
        assert!(child.wait().unwrap().success(), "it was not heard on both");
        assert_eq!(heard, "10.77.1.3\n");
    }
    assert_eq!(fault(&node, "discovery"), None);
}

#[test]
fn a_port_that_is_not_shared_is_named() {
    let Some((network, place)) = one_network(2, 0) else { return };
    let holder = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
                  s.bind((\"\",5353))\nprint(\"held\",flush=True)\nsys.stdin.read()";
    let mut command: Command = network.command(0, "python3");
    command.args(["-c", holder]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut line = String::new();
    let stdout = holder.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let node = network.start_with(&place, 0, DISCOVER);
    eventually("it says who is in the way", || {
        fault(&node, "discovery").is_some_and(|text| text.contains("UDP port 5353"))
    });
    // Who is heard by the other family is found all the same.
    (0..2).for_each(|host| network.allow_ipv6(host));
    let other = network.start_with(&place, 1, DISCOVER);
    eventually("the other family carries it", || alive(&other) == 1);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    eventually("it tries again", || fault(&node, "discovery").is_none());
}
