//! Three honest nodes, `a`, `b` and `c`, each a process with a counting proxy in front of it; and
//! what is read of them: traffic, CPU, memory, disk, and how long a change takes.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use dsn::control::{ControlClient, Failure};
use serde_json::{Map, Value as Json, json};

use super::figures::{Delays, Rates, Sample};
use crate::support::meter::Meter;
use crate::support::process::{Process, dsn};
use crate::support::{PATIENCE, Place4Nodes, eventually, stats};

/// The node that changes are made at, in most cases.
pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;

/// The key of the changes whose delay is measured.
const COUNTER: &str = "count";

/// Lets time pass in which something is measured: there is no condition to wait for.
pub fn let_pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|it| !it.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// A node and the proxy whose address it tells others.
pub struct Host {
    pub id: String,
    pub process: Process,
    meter: Meter,
}

impl Host {
    /// Where it listens itself: members made by hand call here, and are not counted.
    pub fn listen(&self) -> SocketAddr {
        self.process.address.parse().unwrap()
    }

    /// Where other nodes find it.
    pub fn public(&self) -> &str {
        self.meter.address()
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    pub fn connect(&self) -> ControlClient {
        ControlClient::connect(&self.process.control, PATIENCE).expect("a node that serves")
    }

    pub fn try_ask(&self, question: &Json) -> Result<Json, Failure> {
        self.connect().call(question, 2 * PATIENCE)
    }

    pub fn ask(&self, question: &Json) -> Json {
        self.try_ask(question).unwrap_or_else(|why| panic!("{}: {question}: {why:?}", self.id))
    }

    /// Sets these pairs in one change.
    pub fn fill(&self, pairs: &[(String, String)]) {
        let entries: Map<String, Json> =
            pairs.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        self.ask(&json!({ "op": "set", "entries": entries }));
    }

    /// What it says of a peer, if it knows it.
    pub fn peer(&self, node_id: &str) -> Option<Json> {
        let peers = self.ask(&json!({ "op": "peers" }));
        peers.as_array()?.iter().find(|peer| peer["node_id"] == node_id).cloned()
    }

    pub fn calls_alive(&self, node_id: &str) -> bool {
        self.peer(node_id).is_some_and(|peer| peer["status"] == "alive")
    }

    /// What is wrong, as it says itself.
    pub fn degraded(&self) -> Vec<String> {
        let status = self.ask(&json!({ "op": "status" }));
        let texts = status["degraded"].as_array().cloned().unwrap_or_default();
        texts.iter().map(ToString::to_string).collect()
    }

    pub fn sample(&self) -> Sample {
        let (requests, bytes) = self.meter.read();
        let pid = self.pid();
        Sample { requests, bytes, cpu_s: stats::cpu_seconds(pid), at: Instant::now() }
    }
}

/// Nodes that know each other.
pub struct Network {
    // Before the place: processes end before their folder is removed.
    pub hosts: Vec<Host>,
    pub place: Place4Nodes,
    tick: Option<&'static str>,
    counter: Cell<u64>,
}

impl Network {
    /// Starts `a`, `b` and `c`, and waits until each is alive to each. All are told to look for
    /// others at these addresses, too. No tick is the one that a node has by default.
    pub fn start(tick: Option<&'static str>, bootstrap: &[&str]) -> Self {
        let place = Place4Nodes::new();
        let mut network = Self { hosts: Vec::new(), place, tick, counter: Cell::new(0) };
        for node_id in ["a", "b", "c"] {
            let first = network.hosts.first().map(|host| host.public().to_owned());
            let all: Vec<&str> = first.as_deref().into_iter().chain(bootstrap.to_vec()).collect();
            network.add(node_id, &all, &[]);
        }
        network.settle();
        network
    }

    /// Starts one more node.
    pub fn add(&mut self, node_id: &str, bootstrap: &[&str], arguments: &[&str]) {
        let meter = Meter::bind();
        let process = self.spawn(node_id, "127.0.0.1:0", meter.address(), bootstrap, arguments);
        meter.start(&process.address);
        self.hosts.push(Host { id: node_id.to_owned(), process, meter });
    }

    fn spawn(
        &self,
        node_id: &str,
        listen: &str,
        public: &str,
        bootstrap: &[&str],
        arguments: &[&str],
    ) -> Process {
        let mut command = dsn();
        command.current_dir(self.place.path());
        command.args(["run", "--node-id", node_id, "--listen", listen, "--advertise", public]);
        command.args(self.tick.into_iter().flat_map(|tick| ["--tick", tick]));
        command.args(bootstrap.iter().flat_map(|address| ["--bootstrap", address]));
        command.args(arguments);
        self.place.spawn(command, node_id)
    }

    /// Ends a node at once, lets something be done to its files, and starts it at the same place.
    pub fn start_again(
        &mut self,
        at: usize,
        meanwhile: impl FnOnce(&Place4Nodes),
        arguments: &[&str],
    ) {
        let Host { id, process, meter } = self.hosts.remove(at);
        let (listen, mine) = (process.address.clone(), meter.address().to_owned());
        process.kill();
        meanwhile(&self.place);
        let others: Vec<String> = self.hosts.iter().map(|host| host.public().to_owned()).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let process = self.spawn(&id, &listen, &mine, &others, arguments);
        self.hosts.insert(at, Host { id, process, meter });
    }

    /// Waits until each is alive to each.
    pub fn settle(&self) {
        for host in &self.hosts {
            for other in self.hosts.iter().filter(|other| other.id != host.id) {
                let what = format!("{} is alive to {}", other.id, host.id);
                eventually(&what, || host.calls_alive(&other.id));
            }
        }
    }

    /// Waits until all hold as many keys of a node as it has.
    pub fn wait_for_keys(&self, node_id: &str, keys: usize) {
        for host in self.hosts.iter().filter(|host| host.id != node_id) {
            eventually(&format!("{} holds the state of {node_id}", host.id), || {
                host.peer(node_id).is_some_and(|peer| peer["keys"] == keys)
            });
        }
    }

    pub fn listens(&self) -> Vec<SocketAddr> {
        self.hosts.iter().map(Host::listen).collect()
    }

    /// What each node was asked, and used, while time passed.
    pub fn watch(&self, time: Duration) -> Rates {
        self.during(|| let_pass(time)).1
    }

    /// The same while something is done; gives what that came to, too.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Rates) {
        let samples = || self.hosts.iter().map(Host::sample).collect::<Vec<_>>();
        let before = samples();
        let result = work();
        let ids = self.hosts.iter().map(|host| host.id.clone()).collect();
        (result, Rates::new(ids, &before, &samples()))
    }

    /// Changes a key of `a` so often, one change each `every`, and measures from when a change is
    /// asked for until `b` and `c` tell of it or of a later one.
    pub fn delays(&self, count: usize, every: Duration) -> Delays {
        let watchers = [B, C].map(|at| watch_counter(&self.hosts[at]));
        let mut asked = Vec::new();
        let (first, began) = (self.counter.get() + 1, Instant::now());
        let mut node = self.hosts[A].connect();
        for number in 0..count {
            let due = every * u32::try_from(number).unwrap();
            let_pass(due.saturating_sub(began.elapsed()));
            let counter = self.counter.get() + 1;
            self.counter.set(counter);
            asked.push(Instant::now());
            let entries = json!({ COUNTER: counter.to_string() });
            node.call(&json!({ "op": "set", "entries": entries }), PATIENCE).expect("it is set");
        }
        let until = Instant::now() + PATIENCE;
        let heard = watchers.map(|watcher| arrivals(&watcher, self.counter.get(), until));
        let numbered = asked.iter().zip(first..);
        let delay = |heard: &[(Instant, u64)], asked: Instant, number: u64| {
            let arrived = heard.iter().find(|(_, counter)| *counter >= number);
            arrived.map(|(at, _)| at.saturating_duration_since(asked))
        };
        let all = numbered
            .flat_map(|(asked, number)| heard.each_ref().map(|it| delay(it, *asked, number)));
        Delays::new(all.collect(), PATIENCE)
    }
}

/// Counters that a node tells of, with when it did.
fn watch_counter(host: &Host) -> Receiver<(Instant, u64)> {
    let mut node = host.connect();
    node.ask(&json!({ "op": "watch", "node": "a", "key": COUNTER, "unknown": true })).unwrap();
    let watching = node.next_result(Some(PATIENCE)).unwrap().expect("a first line");
    assert_eq!(watching["event"], "watching");
    let (tell, told) = channel();
    // Ends with its node.
    std::thread::spawn(move || {
        while let Ok(Some(event)) = node.next_result(None) {
            let counter = event["value"].as_str().and_then(|text| text.parse().ok());
            let Some(counter) = counter else { continue };
            if tell.send((Instant::now(), counter)).is_err() {
                return;
            }
        }
    });
    told
}

/// What was told until the last counter came, or the time ran out.
fn arrivals(told: &Receiver<(Instant, u64)>, last: u64, until: Instant) -> Vec<(Instant, u64)> {
    let mut all: Vec<(Instant, u64)> = Vec::new();
    while all.last().is_none_or(|(_, counter)| *counter < last) {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(arrival) = told.recv_timeout(left) else { break };
        all.push(arrival);
    }
    all
}
