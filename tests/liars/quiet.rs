//! Cases in which nothing changes: what is said and used all the same, by whom.

use std::sync::{Arc, Mutex, PoisonError};

use super::Scale;
use super::figures::{bytes, number};
use super::network::{A, B, C, Host, Network, let_pass};
use super::port::Port;
use super::wire::{Liar, Lie, greet, large, members, say_goodbye, send_ghost};
use crate::support::{Place4Nodes, eventually};

/// The largest state of a node, bytes.
pub const LARGE_BYTES: usize = 1 << 20;

/// A port at which members made by hand answer.
pub struct Den {
    pub port: Port,
    pub liar: Arc<Mutex<Liar>>,
}

impl Den {
    pub fn open(name: &str, count: usize, lie: Lie) -> Self {
        let port = Port::bind();
        let liar = Arc::new(Mutex::new(Liar::new(members(name, count), &port.address, lie)));
        let answers = Arc::clone(&liar);
        // What panics is an answer that can't be made; the others go on.
        port.serve(move |path, body| {
            answers.lock().unwrap_or_else(PoisonError::into_inner).answer(path, body)
        });
        Self { port, liar }
    }

    /// Lets all its members say HELLO to all nodes; gives how many HELLOs were accepted.
    pub fn greet(&self, network: &Network) -> usize {
        let greet = |node| self.liar.lock().unwrap().greet(node);
        network.listens().into_iter().map(greet).sum()
    }

    pub fn told(&self) -> u64 {
        self.liar.lock().unwrap().told
    }
}

/// How nodes and a liar meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// It says HELLO to them, and is called back.
    ItCalls,
    /// It is one of their bootstrap addresses.
    ItIsCalled,
}

/// One member that lies to all three nodes.
pub fn one_liar(scale: &Scale, lie: Lie, meeting: Meeting, state_bytes: usize) -> String {
    let den = Den::open("liar", 1, lie);
    let is_called = meeting == Meeting::ItIsCalled;
    let bootstrap: Vec<&str> = is_called.then_some(den.port.address.as_str()).into_iter().collect();
    let network = Network::start(scale.tick, &bootstrap);
    if state_bytes > 0 {
        fill_all(&network, state_bytes);
    }
    if !is_called {
        assert_eq!(den.greet(&network), network.hosts.len(), "the member is let in");
    }
    eventually("the member is called", || den.port.counts.traffic().0 > 0);
    if matches!(lie, Lie::None) {
        for host in &network.hosts {
            eventually("what it answers is right", || is_member(host, "liar-0"));
        }
    } else {
        eventually("a lie is told", || den.told() > 0);
    }
    let_pass(scale.settle);
    let before = den.port.counts.traffic();
    let rates = network.watch(scale.window);
    let after = den.port.counts.traffic();
    let a_second = |count: u64| count as f64 / scale.window.as_secs_f64();
    format!(
        "to the liar/s: {} req {}, {} lies told so far; {rates}",
        number(a_second(after.0 - before.0)),
        bytes(a_second(after.1 - before.1)),
        den.told()
    )
}

/// Whether a node takes the one made by hand for a member, and holds its record.
fn is_member(host: &Host, node_id: &str) -> bool {
    host.peer(node_id).is_some_and(|peer| peer["status"] == "alive" && peer["keys"] == 1)
}

/// Gives each node a state of so many bytes, and waits until all hold all.
fn fill_all(network: &Network, state_bytes: usize) {
    let pairs = large(state_bytes, 'x');
    for host in &network.hosts {
        host.fill(&pairs);
    }
    for host in &network.hosts {
        network.wait_for_keys(&host.id, pairs.len());
    }
}

/// A host that was set up anew: its id is the old one, its key is not.
pub fn set_up_anew(scale: &Scale) -> String {
    let mut network = Network::start(scale.tick, &[]);
    add_one(&mut network, "pi");
    network.settle();
    network.hosts[3].fill(&[("k".into(), "old".into())]);
    network.wait_for_keys("pi", 1);
    let remove_all = |place: &Place4Nodes| {
        for folder in ["data/pi", "credentials/pi"] {
            std::fs::remove_dir_all(place.path().join(folder)).unwrap();
        }
    };
    network.start_again(3, remove_all, &[]);
    for host in &network.hosts {
        eventually("the conflict is named", || names(host, "pi"));
    }
    let_pass(scale.settle);
    network.watch(scale.window).to_string()
}

/// Whether what is wrong with a node has to do with another one.
fn names(host: &Host, node_id: &str) -> bool {
    host.degraded().iter().any(|text| text.contains(node_id))
}

/// One more node that knows the others.
fn add_one(network: &mut Network, node_id: &str) {
    let others: Vec<String> = network.hosts.iter().map(|host| host.public().to_owned()).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    network.add(node_id, &others, &[]);
}

/// One node has a list of those that may be in the network, and a guest is not on it.
pub fn guest_not_on_a_list(scale: &Scale, state_bytes: usize) -> String {
    let mut network = Network::start(scale.tick, &[]);
    let line = |at: usize| {
        let host = &network.hosts[at];
        let status = host.ask(&serde_json::json!({ "op": "status" }));
        format!("{} {}\n", host.id, status["public_key"].as_str().unwrap())
    };
    let list = line(B) + &line(C);
    let write = |place: &Place4Nodes| {
        std::fs::write(place.path().join("allowed"), list).unwrap();
    };
    network.start_again(A, write, &["--allow", "allowed"]);
    network.settle();
    add_one(&mut network, "guest");
    let pairs = large(state_bytes, 'x');
    network.hosts[3].fill(&pairs);
    for at in [B, C] {
        let host = &network.hosts[at];
        eventually("the guest is let in where there is no list", || {
            host.peer("guest").is_some_and(|peer| peer["keys"] == pairs.len())
        });
    }
    eventually("it is refused where there is one", || names(&network.hosts[A], "guest"));
    let_pass(scale.settle);
    network.watch(scale.window).to_string()
}

/// A member sends each node a record of each ghost, all signed with different keys, and leaves.
pub fn ghosts(scale: &Scale, count: usize) -> String {
    let network = Network::start(scale.tick, &[]);
    let nobody_listens = "127.0.0.1:1";
    let mut member = members("teller", 1).remove(0);
    let mut taken = 0;
    for (node, fill) in network.listens().into_iter().zip('a'..) {
        assert!(greet(&mut member, node, nobody_listens), "the member is let in");
        for number in 0..count {
            let ghost = format!("ghost-{number}");
            taken += usize::from(send_ghost(&member, &ghost, LARGE_BYTES / scale.part, fill));
        }
    }
    for (node, number) in network.listens().into_iter().zip(1..) {
        assert!(greet(&mut member, node, nobody_listens), "the member is let in");
        assert!(say_goodbye(&member, number), "its goodbye is accepted");
    }
    let_pass(scale.settle);
    let all = count * network.hosts.len();
    format!("{taken} of {all} records taken; {}", network.watch(scale.window))
}
