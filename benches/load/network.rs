//! Networks of real nodes, each a process of its own, with an open control connection to each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::members::VALUE;
use super::meter::Meter;
use crate::support::process::{Process, binary, dsn_of};
use crate::support::{PATIENCE, Place4Nodes, eventually};

/// A kept connection to the control socket of a node.
pub(crate) struct Control {
    lines: BufReader<UnixStream>,
}

impl Control {
    pub(crate) fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        Self { lines: BufReader::new(stream) }
    }

    /// Asks and gives the result.
    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.say(&format!("{request}\n"));
        self.next()
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.lines.get_mut().write_all(line.as_bytes()).unwrap();
    }

    /// The result in the next line.
    pub(crate) fn next(&mut self) -> Value {
        self.next_or_end().expect("the node answers")
    }

    /// The same; nothing where the node is gone.
    pub(crate) fn next_or_end(&mut self) -> Option<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["ok"], true, "{line}");
        Some(answer["result"].take())
    }

    pub(crate) fn wait_peers(&mut self, count: usize) {
        let timeout_ms = u64::try_from(PATIENCE.as_millis()).unwrap();
        self.ask(&json!({"op": "wait_peers", "count": count, "timeout_ms": timeout_ms}));
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.ask(&json!({"op": "set", "entries": {key: value}}));
    }

    /// Sets so many keys of [`VALUE`] bytes in one change.
    pub(crate) fn fill(&mut self, keys: usize) {
        let entries: Map<String, Value> =
            (0..keys).map(|key| (format!("key-{key:05}"), "v".repeat(VALUE).into())).collect();
        self.ask(&json!({"op": "set", "entries": entries}));
    }
}

/// A node of a network.
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) process: Process,
    pub(crate) control: Control,
    pub(crate) meter: Option<Meter>,
}

impl Member {
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }
}

/// Nodes `n0`, `n1` and so on, that know each other.
pub(crate) struct Network {
    pub(crate) nodes: Vec<Member>,
    pub(crate) place: Place4Nodes,
    binary: PathBuf,
    /// The network namespace that they are in, if not in that of this process.
    namespace: Option<String>,
}

impl Network {
    /// Starts so many, with meters in front of them or without.
    pub(crate) fn start(count: usize, metered: bool) -> Self {
        let mut network = Self::spawn(&binary(), count, metered);
        network.settle();
        network
    }

    /// Starts so many of this binary, and does not wait until they know each other.
    pub(crate) fn spawn(binary: &Path, count: usize, metered: bool) -> Self {
        Self::spawn_at(binary, None, count, metered)
    }

    /// The same in a network namespace.
    pub(crate) fn spawn_in(binary: &Path, namespace: &str, count: usize) -> Self {
        Self::spawn_at(binary, Some(namespace.to_owned()), count, false)
    }

    fn spawn_at(binary: &Path, namespace: Option<String>, count: usize, metered: bool) -> Self {
        let (place, binary) = (Place4Nodes::new(), binary.to_owned());
        let mut network = Self { nodes: Vec::new(), place, binary, namespace };
        for number in 0..count {
            network.add(&format!("n{number}"), metered);
        }
        network
    }

    /// Starts one more, which knows the first one.
    pub(crate) fn add(&mut self, id: &str, metered: bool) {
        let meter = metered.then(Meter::bind);
        let mut command = match &self.namespace {
            None => dsn_of(&self.binary),
            Some(namespace) => {
                let mut command = dsn_of(Path::new("ip"));
                command.args(["netns", "exec", namespace]).arg(&self.binary);
                command
            }
        };
        command.current_dir(self.place.path());
        command.args(["run", "--node-id", id, "--listen", "127.0.0.1:0"]);
        if let Some(meter) = &meter {
            command.args(["--advertise", meter.address()]);
        }
        if let Some(first) = self.nodes.first() {
            let meter = first.meter.as_ref().map(Meter::address);
            command.args(["--bootstrap", meter.unwrap_or(&first.process.address)]);
        }
        let process = self.place.spawn(command, id);
        if let Some(meter) = &meter {
            meter.start(&process.address);
        }
        let control = Control::open(&process.control);
        self.nodes.push(Member { id: id.to_owned(), process, control, meter });
    }

    /// Waits until all know all.
    pub(crate) fn settle(&mut self) {
        let others = self.nodes.len() - 1;
        for node in &mut self.nodes {
            node.control.wait_peers(others);
        }
    }

    /// Gives each node so many keys, and waits until all hold them all.
    pub(crate) fn fill(&mut self, keys: usize) {
        for node in &mut self.nodes {
            node.control.fill(keys);
        }
        let others = self.nodes.len() - 1;
        for node in &mut self.nodes {
            eventually("all states are everywhere", || {
                let peers = node.control.ask(&json!({"op": "peers"}));
                let full = |peer: &&Value| peer["keys"] == keys;
                peers.as_array().unwrap().iter().filter(full).count() == others
            });
        }
    }

    /// CPU time of all nodes so far, s.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.nodes.iter().map(|node| super::stats::cpu_seconds(node.pid())).sum()
    }

    /// Requests and bytes that went through all meters so far.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let meters = self.nodes.iter().filter_map(|node| node.meter.as_ref());
        meters.map(Meter::read).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// Lets time pass in which something is measured: there is no condition to wait for.
pub(crate) fn let_pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}
