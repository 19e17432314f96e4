//! Whole networks of real processes: join, change, die, come back.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::process::{Process, run_with};
use crate::support::{PATIENCE, Place4Nodes, eventually, eventually_within};
use rustix::process::Signal;

/// Nodes `n0` to `n…`, of which each knows the address of the first.
fn cluster(place: &Place4Nodes, count: usize) -> Vec<Process> {
    let first = place.spawn_at("n0", "127.0.0.1:0", &[]);
    let address = first.address.clone();
    let others = (1..count).map(|at| place.spawn_at(&format!("n{at}"), "127.0.0.1:0", &[&address]));
    std::iter::once(first).chain(others).collect()
}

fn all_know_each_other(nodes: &[Process]) {
    let others = (nodes.len() - 1).to_string();
    for node in nodes {
        node.told(&["--timeout", "60s", "wait", "peers", &others]);
    }
}

fn wait_key(node: &Process, owner: &str, key: &str, value: &str) {
    node.told(&["--timeout", "60s", "wait", "key", owner, key, value]);
}

#[test]
fn ten_nodes_join_share_lose_three_and_take_them_back() {
    let place = Place4Nodes::new();
    let began = Instant::now();
    let mut nodes = cluster(&place, 10);
    all_know_each_other(&nodes);
    let joined = began.elapsed();
    for (at, node) in nodes.iter().enumerate() {
        node.told(&["set", "me", &at.to_string()]);
    }
    for node in &nodes {
        for owner in 0..10 {
            wait_key(node, &format!("n{owner}"), "me", &owner.to_string());
        }
    }
    let dead: Vec<String> = nodes
        .split_off(7)
        .into_iter()
        .map(|node| {
            let address = node.address.clone();
            node.kill();
            address
        })
        .collect();
    // The others are not held up while the dead are found out.
    let began = Instant::now();
    let mut round = 0;
    eventually("the dead are lost", || {
        round += 1;
        nodes[0].told(&["set", "round", &round.to_string()]);
        wait_key(&nodes[6], "n0", "round", &round.to_string());
        nodes.iter().all(|node| (7..10).all(|at| node.status_of(&format!("n{at}")) == "lost"))
    });
    // Ticks of 0.5 s here: the promise of 20 s at ticks of 3 s is 3.4 s; ten times that is allowed.
    assert!(
        began.elapsed() < Duration::from_secs(34),
        "{:?}, joined in {joined:?}",
        began.elapsed()
    );
    assert_eq!(nodes[1].told(&["get", "n8", "me"]), "8", "what they left stays readable");
    let first = nodes[0].address.clone();
    for (at, address) in (7..10).zip(&dead) {
        nodes.push(place.spawn_at(&format!("n{at}"), address, &[&first]));
    }
    all_know_each_other(&nodes);
    assert_eq!(nodes[8].told(&["get", "n8", "me"]), "8", "its own state was kept");
}

#[test]
fn a_change_that_was_acknowledged_survives_kill_9() {
    let place = Place4Nodes::new();
    let witness = place.spawn_at("w", "127.0.0.1:0", &[]);
    for round in 0..5 {
        let node = place.spawn_at("a", "127.0.0.1:0", &[&witness.address]);
        for key in 0..10 {
            node.told(&["set", &format!("k{key}"), &format!("{round}-{key}")]);
        }
        node.kill();
        let node = place.spawn_at("a", "127.0.0.1:0", &[&witness.address]);
        for key in 0..10 {
            assert_eq!(node.told(&["get", "a", &format!("k{key}")]), format!("{round}-{key}"));
        }
        wait_key(&witness, "a", "k9", &format!("{round}-9"));
        node.kill();
    }
}

#[test]
fn half_of_the_network_hangs_and_goes_on() {
    let place = Place4Nodes::new();
    let nodes = cluster(&place, 8);
    all_know_each_other(&nodes);
    let (awake, asleep) = nodes.split_at(4);
    for node in asleep {
        node.signal(Signal::STOP);
    }
    let began = Instant::now();
    for round in 0..20 {
        awake[1].told(&["set", "round", &round.to_string()]);
        for node in awake {
            wait_key(node, "n1", "round", &round.to_string());
        }
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for node in asleep {
        node.signal(Signal::CONT);
    }
    all_know_each_other(&nodes);
    for node in asleep {
        wait_key(node, "n1", "round", "19");
    }
}

#[test]
fn a_node_comes_back_at_another_address() {
    let place = Place4Nodes::new();
    let mut nodes = cluster(&place, 3);
    all_know_each_other(&nodes);
    let old = nodes.remove(2);
    let was = old.address.clone();
    old.kill();
    let first = nodes[0].address.clone();
    let moved = place.spawn_at("n2", "127.0.0.1:0", &[&first]);
    assert_ne!(moved.address, was);
    moved.told(&["set", "moved", "yes"]);
    for node in &nodes {
        wait_key(node, "n2", "moved", "yes");
        let address = || {
            let peers = node.json(&["peers"]);
            let of_it = |peer: &&serde_json::Value| peer["node_id"] == "n2";
            peers.as_array().unwrap().iter().find(of_it).map(|peer| peer["address"].clone())
        };
        eventually("the new address is known", || address() == Some(moved.address.clone().into()));
    }
}

#[test]
fn the_whole_network_starts_again_without_its_bootstrap_node() {
    let place = Place4Nodes::new();
    let nodes = cluster(&place, 4);
    all_know_each_other(&nodes);
    nodes[2].told(&["set", "k", "kept"]);
    let known = |at: usize| place.path().join(format!("credentials/n{at}/known_peers"));
    for at in 1..4 {
        eventually("the peers are on disk", || {
            std::fs::read_to_string(known(at)).is_ok_and(|text| {
                (1..4).filter(|o| *o != at).all(|o| text.contains(&format!("n{o}")))
            })
        });
    }
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    nodes.into_iter().for_each(Process::kill);
    let rest: Vec<Process> = (1..4)
        .map(|at| place.spawn_at(&format!("n{at}"), &addresses[at], &[&addresses[0]]))
        .collect();
    for node in &rest {
        node.told(&["--timeout", "60s", "wait", "peers", "2"]);
        wait_key(node, "n2", "k", "kept");
    }
}

#[test]
fn names_and_ipv6_are_addresses_too() {
    let place = Place4Nodes::new();
    let six = place.spawn_at("six", "[::1]:0", &[]);
    assert!(six.address.starts_with("[::1]:"), "{}", six.address);
    let all = place.spawn_at("all", "[::]:0", &[&six.address]);
    let port = all.address.rsplit_once(':').unwrap().1.to_owned();
    let named = place.spawn_at("named", "127.0.0.1:0", &[&format!("localhost:{port}")]);
    six.told(&["set", "k", "v"]);
    wait_key(&named, "six", "k", "v");
    let status = six.json(&["status"]);
    assert_eq!(status["degraded"], serde_json::json!([]), "{status}");
}

#[test]
fn one_id_on_two_hosts_is_named_on_both_sides() {
    let place = Place4Nodes::new();
    let elsewhere = Place4Nodes::new();
    let first = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let one = place.spawn_at("same", "127.0.0.1:0", &[&first.address]);
    first.told(&["--timeout", "60s", "wait", "peers", "1"]);
    let two = elsewhere.spawn_at("same", "127.0.0.1:0", &[&first.address]);
    let says = |node: &Process| node.json(&["status"])["degraded"].to_string();
    for node in [&first, &two] {
        eventually("the conflict is named", || {
            let says = says(node);
            says.contains("same") && says.contains("key ") && says.contains("dsn forget")
        });
    }
    eventually("the log has it", || first.log_text().contains("two nodes use the id same"));
    // The first one goes on; the operator decides for the other one.
    one.told(&["set", "k", "mine"]);
    wait_key(&first, "same", "k", "mine");
    one.kill();
    first.told(&["forget", "same"]);
    two.told(&["set", "k", "new host"]);
    wait_key(&first, "same", "k", "new host");
}

#[test]
fn a_card_that_was_cloned_is_named_on_all_sides() {
    let place = Place4Nodes::new();
    let clone = Place4Nodes::new();
    let hub = place.spawn_at("hub", "127.0.0.1:0", &[]);
    let one = place.spawn_at("pi", "127.0.0.1:0", &[&hub.address]);
    hub.told(&["--timeout", "60s", "wait", "peers", "1"]);
    for folder in ["credentials", "data"] {
        let to = clone.path().join(folder);
        std::fs::create_dir_all(&to).unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(place.path().join(folder).join("pi"))
            .arg(&to)
            .status();
        assert!(copied.unwrap().success());
    }
    let _ = std::fs::remove_file(clone.path().join("data/pi/control.sock"));
    let two = clone.spawn_at("pi", "127.0.0.1:0", &[&hub.address]);
    for node in [&hub, &one, &two] {
        // Who was refused calls again after 30 s at the latest, one of the two after the other.
        eventually_within(3 * PATIENCE, "the twins are named", || {
            let says = node.json(&["status"])["degraded"].to_string();
            says.contains("two nodes run as pi with one key")
        });
    }
}

#[test]
fn goodbye_is_told_apart_from_death() {
    let place = Place4Nodes::new();
    let nodes = cluster(&place, 3);
    all_know_each_other(&nodes);
    let mut nodes = nodes.into_iter();
    let (first, mut second, third) =
        (nodes.next().unwrap(), nodes.next().unwrap(), nodes.next().unwrap());
    second.told(&["set", "k", "v"]);
    // It waits for the others, who may be slow: the time without an option is for people.
    let said = second.ask(&["--timeout", "60s", "leave"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(second.wait(), Some(0));
    for node in [&first, &third] {
        eventually("it is known to have left", || node.status_of("n1") == "left");
        assert!(!node.told(&["peers"]).contains("n1"), "those that left are not listed");
    }
    assert_eq!(first.ask(&["ping", "n1"]).code, 1);
    let back = place.spawn_at("n1", &second.address, &[&first.address]);
    wait_key(&third, "n1", "k", "v");
    eventually("it is back", || third.status_of("n1") == "alive");
    drop(back);
}

#[test]
fn data_arrives_once_and_in_order_or_is_refused() {
    let place = Place4Nodes::new();
    let nodes = cluster(&place, 2);
    all_know_each_other(&nodes);
    for number in 0..5 {
        nodes[0].told(&["send", "n1", &number.to_string()]);
    }
    assert_eq!(run_with(&mut nodes[0].command(&["send", "n1", "-"]), &[0xfe; 5000]).code, 0);
    for number in 0..5 {
        assert_eq!(nodes[1].told(&["recv"]), number.to_string());
    }
    let raw = nodes[1].command(&["recv", "--raw"]).output().unwrap();
    assert_eq!(raw.stdout, vec![0xfe; 5000]);
    assert_eq!(nodes[1].ask(&["--timeout", "0s", "recv"]).code, 1, "no message is left");
    assert_eq!(nodes[0].ask(&["send", "n0", "me"]).code, 2, "not to itself");
    assert_eq!(nodes[0].ask(&["send", "nobody", "x"]).code, 1);
    // A full inbox is refused, so the sender knows.
    let megabyte = vec![7; 1024 * 1024];
    let fill = |_| run_with(&mut nodes[0].command(&["send", "n1", "-"]), &megabyte);
    // Half of what is not kept for others is for one sender alone.
    let said: Vec<_> = (0..3).map(fill).collect();
    assert!(said[..2].iter().all(|said| said.code == 0), "{said:?}");
    assert_eq!(said[2].code, 1);
    assert!(said[2].err.contains("inbox full"), "{}", said[2].err);
    let huge = run_with(&mut nodes[0].command(&["send", "n1", "-"]), &vec![7; 1024 * 1024 + 1]);
    assert_eq!(huge.code, 2);
    let ping = nodes[0].json(&["ping", "n1"]);
    assert!(ping["ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_reader_that_dies_takes_no_message_with_it() {
    let place = Place4Nodes::new();
    let nodes = cluster(&place, 2);
    all_know_each_other(&nodes);
    let mut reader =
        nodes[1].command(&["--timeout", "60s", "recv"]).stdout(Stdio::piped()).spawn().unwrap();
    reader.kill().unwrap();
    reader.wait().unwrap();
    nodes[0].told(&["send", "n1", "kept"]);
    assert_eq!(nodes[1].told(&["--timeout", "60s", "recv"]), "kept");
}

#[test]
fn signals_end_a_node_soon_and_leave_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place4Nodes::new();
        let mut nodes = cluster(&place, 2);
        all_know_each_other(&nodes);
        // A peer that hangs must not hold up the end.
        nodes[0].signal(Signal::STOP);
        nodes[1].told(&["set", "k", "v"]);
        let began = Instant::now();
        nodes[1].signal(signal);
        assert_eq!(nodes[1].wait(), Some(0));
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "2 s are promised: {:?}",
            began.elapsed()
        );
        assert_eq!(nodes[1].rest_of_stdout(), "");
        assert!(!nodes[1].control.exists(), "the socket is gone");
    }
}

/// `dsn stop` returns when port, folder and socket are free, even where a request hangs.
#[test]
fn a_node_that_was_stopped_starts_again_at_once() {
    let place = Place4Nodes::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = silent.local_addr().unwrap().to_string();
    let mut node = place.spawn_at("a", "127.0.0.1:0", &[&hangs]);
    for _ in 0..2 {
        let (request, _) = silent.accept().unwrap();
        node.told(&["--timeout", "60s", "stop"]);
        let address = node.address.clone();
        let again = place.spawn_at("a", &address, &[&hangs]);
        drop((request, std::mem::replace(&mut node, again)));
    }
}

#[test]
fn the_first_node_makes_the_network_key_and_says_so() {
    let place = Place4Nodes::new();
    std::fs::remove_file(place.path().join("credentials/network.key")).unwrap();
    let node = place.spawn_at("first", "127.0.0.1:0", &[]);
    eventually("the log says so", || node.log_text().contains("made the network key"));
    assert!(place.path().join("credentials/network.key").exists());
    assert!(place.path().join("credentials/first").is_dir());
}

#[test]
fn one_list_of_bootstrap_nodes_may_be_given_to_all() {
    let place = Place4Nodes::new();
    let spare: Vec<std::net::TcpListener> =
        (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> =
        spare.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    drop(spare);
    let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let first = place.spawn_at("first", all[0], &all[..1]);
    eventually("it finds that it is its own bootstrap node", || {
        first.json(&["status"])["degraded"].to_string().contains("it leads to this node itself")
    });
    let second = place.spawn_at("second", all[1], &all);
    for node in [&first, &second] {
        node.told(&["--timeout", "60s", "wait", "peers", "1"]);
        eventually("nothing is wrong", || {
            node.json(&["status"])["degraded"] == serde_json::json!([])
        });
    }
}

/// Calls over loopback come from 127.0.0.1, whatever the caller listens on.
#[test]
fn a_node_on_one_address_is_found_there() {
    let place = Place4Nodes::new();
    let first = place.spawn_at("first", "127.0.0.1:0", &[]);
    let port = first.address.rsplit_once(':').unwrap().1;
    let second = place.spawn_at("second", &format!("127.0.0.2:{port}"), &[&first.address]);
    first.told(&["--timeout", "60s", "wait", "peers", "1"]);
    first.told(&["send", "second", "hello"]);
    assert_eq!(second.told(&["recv"]), "hello");
    assert_eq!(first.json(&["peers"])[0]["address"], second.address.as_str());
}

/// A node with a network key file of its own.
fn with_own_key(place: &Place4Nodes, node_id: &str, bootstrap: &[&str]) -> Process {
    let file = place.path().join(format!("{node_id}.key"));
    if !file.exists() {
        std::fs::copy(place.path().join("credentials/network.key"), &file).unwrap();
    }
    let mut command = place.run_command(node_id, bootstrap);
    command.args(["--listen", "127.0.0.1:0", "--network-key"]).arg(&file);
    place.spawn(command, node_id)
}

#[test]
fn the_network_key_changes_in_a_running_network() {
    let place = Place4Nodes::new();
    let a = with_own_key(&place, "a", &[]);
    let b = with_own_key(&place, "b", &[&a.address]);
    let c = with_own_key(&place, "c", &[&a.address]);
    for node in [&a, &b, &c] {
        node.told(&["--timeout", "60s", "wait", "peers", "2"]);
    }
    // One is off during the change.
    c.kill();
    let old = a.told(&["key", "list"]).split_whitespace().next().unwrap().to_owned();
    let new_file = place.path().join("new.key");
    assert_eq!(
        crate::support::process::dsn().arg("keygen").arg(&new_file).status().unwrap().code(),
        Some(0)
    );
    for node in [&a, &b] {
        node.told(&["key", "add", new_file.to_str().unwrap()]);
        // Again, and from stdin: no harm.
        let text = std::fs::read(&new_file).unwrap();
        assert_eq!(run_with(&mut node.command(&["key", "add", "-"]), &text).code, 0);
    }
    let list = a.told(&["key", "list"]);
    let new = list.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert_eq!(list.lines().count(), 2, "{list}");
    let round = |number: u32| {
        let value = number.to_string();
        a.told(&["set", "round", &value]);
        wait_key(&b, "a", "round", &value);
        b.told(&["send", "a", &value]);
        assert_eq!(a.told(&["recv"]), value);
    };
    a.told(&["key", "use", &new]);
    round(1);
    b.told(&["key", "use", &new]);
    round(2);
    for node in [&a, &b] {
        assert_eq!(node.json(&["status"])["network_key"], new.as_str());
    }
    // The old key is kept, so the one that was off joins, and changes its key too.
    let c = with_own_key(&place, "c", &[&a.address]);
    c.told(&["set", "back", "yes"]);
    wait_key(&a, "c", "back", "yes");
    a.told(&["set", "for", "c"]);
    wait_key(&c, "a", "for", "c");
    assert_eq!(c.json(&["status"])["network_key"], old.as_str());
    c.told(&["key", "add", new_file.to_str().unwrap()]);
    c.told(&["key", "use", &new]);
    assert_eq!(a.ask(&["key", "remove", &new]).code, 1, "it seals");
    assert_eq!(a.ask(&["key", "use", "00000000"]).code, 1, "there is none of that name");
    for node in [&a, &b, &c] {
        node.told(&["key", "remove", &old]);
        let again = node.ask(&["key", "remove", &old]);
        assert_eq!(again.code, 1, "{again:?}");
        assert!(again.err.contains(&new), "it says which there are: {}", again.err);
    }
    round(3);
    wait_key(&c, "a", "round", "3");
    // A node that still has the old one only is left outside, and says why.
    let d = with_own_key(&place, "d", &[&a.address]);
    eventually("it says what is wrong", || {
        d.json(&["status"])["degraded"].to_string().contains("another network key")
    });
    // The file was changed with the node: a restart goes on with it.
    b.kill();
    let b = with_own_key(&place, "b", &[&a.address]);
    assert_eq!(b.json(&["status"])["network_key"], new.as_str());
    wait_key(&b, "a", "round", "3");
}

#[test]
fn only_those_on_the_list_get_in() {
    let place = Place4Nodes::new();
    let elsewhere = Place4Nodes::new();
    let list = place.path().join("allow");
    // The keys are made by a first start, as an operator would collect them.
    let keys: Vec<String> = ["a", "b"]
        .iter()
        .map(|node_id| {
            let node = place.spawn_at(node_id, "127.0.0.1:0", &[]);
            let key = node.json(&["status"])["public_key"].as_str().unwrap().to_owned();
            format!("{node_id} {key}")
        })
        .collect();
    std::fs::write(&list, format!("# who may\n{}\n", keys.join("\n"))).unwrap();
    let start = |node_id: &str, bootstrap: &[&str]| {
        let mut command = place.run_command(node_id, bootstrap);
        command.args(["--listen", "127.0.0.1:0", "--allow"]).arg(&list);
        place.spawn(command, node_id)
    };
    let a = start("a", &[]);
    let b = start("b", &[&a.address]);
    b.told(&["set", "k", "v"]);
    wait_key(&a, "b", "k", "v");
    // Another id, and an id of the list with another key: both have the network key.
    let c = place.spawn_at("c", "127.0.0.1:0", &[&a.address]);
    let false_b = elsewhere.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    for (node, name) in [(&c, "c"), (&false_b, "b")] {
        node.told(&["set", "k", "intruder"]);
        let said = |node: &Process| node.json(&["status"])["degraded"].to_string();
        eventually("both sides name it", || {
            said(node).contains("is not in the list")
                && said(&a).contains(&format!("{name} with key"))
        });
    }
    assert_eq!(a.status_of("c"), "");
    assert_eq!(a.told(&["get", "b", "k"]), "v");
    std::fs::write(&list, "nonsense\n").unwrap();
    let mut command = place.run_command("a2", &[]);
    let said: crate::support::process::Said =
        command.args(["--allow"]).arg(&list).output().unwrap().into();
    assert_eq!(said.code, 2);
    assert!(said.err.contains("line 1"), "{}", said.err);
}

#[test]
fn without_a_data_folder_the_state_is_in_memory() {
    let place = Place4Nodes::new();
    let said: crate::support::process::Said =
        place.run_command("m", &[]).args(["--data", "none"]).output().unwrap().into();
    assert_eq!(said.code, 2);
    assert!(said.err.contains("--control"), "{}", said.err);
    let control = place.path().join("m.sock");
    let start = |bootstrap: &[&str]| {
        let mut command = place.run_command("m", bootstrap);
        command.args(["--data", "none", "--listen", "127.0.0.1:0", "--control"]).arg(&control);
        let mut process = place.spawn(command, "m");
        process.control.clone_from(&control);
        process
    };
    let other = place.spawn_at("o", "127.0.0.1:0", &[]);
    let node = start(&[&other.address]);
    node.told(&["set", "k", "v"]);
    wait_key(&other, "m", "k", "v");
    assert!(!place.path().join("data/m").exists(), "nothing was written");
    node.kill();
    let node = start(&[&other.address]);
    assert_eq!(node.ask(&["get", "m", "k"]).code, 1, "it is gone");
    node.told(&["set", "k", "new"]);
    wait_key(&other, "m", "k", "new");
}

#[test]
fn syncs_that_wait_are_made_at_the_end() {
    let place = Place4Nodes::new();
    let start = || {
        let mut command = place.run_command("s", &[]);
        command.args(["--sync", "1h", "--listen", "127.0.0.1:0"]);
        place.spawn(command, "s")
    };
    let node = start();
    node.told(&["set", "k", "v"]);
    // Without a power cut, nothing is lost by kill -9.
    node.kill();
    let node = start();
    assert_eq!(node.told(&["get", "s", "k"]), "v");
    let said: crate::support::process::Said =
        place.run_command("x", &[]).args(["--sync", "never"]).output().unwrap().into();
    assert_eq!(said.code, 2);
    assert!(said.err.contains("always"), "{}", said.err);
}
