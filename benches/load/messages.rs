//! Figures 1 and 2: UPDATEs, PINGs and DATA that one node takes, against the limit of its parts.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dsn::Config;
use serde_json::json;

use super::Scale;
use super::floor::Floor;
use super::hammer::{Call, Load, hammer};
use super::members::Caller;
use super::network::Network;
use super::rows::{Goal, Rows};
use super::stats::{cpu_seconds, median};
use crate::support::{Place4Nodes, id};

/// Share of the limit of the parts that is to be reached, percent.
const GOAL: f64 = 70.0;
/// UPDATEs that are made ahead, bytes: they have to be in memory.
const PREPARED_BYTES: usize = 64 << 20;

/// Rates of both sides, and what a request costs the server.
#[derive(Debug, Default)]
struct Pairs {
    ours: Vec<f64>,
    floor: Vec<f64>,
    ours_us: Vec<f64>,
    floor_us: Vec<f64>,
}

impl Pairs {
    fn add(&mut self, ours: (Load, f64), floor: (Load, f64)) {
        self.ours.push(ours.0.rate());
        self.floor.push(floor.0.rate());
        self.ours_us.push(ours.1 * 1e6 / ours.0.count as f64);
        self.floor_us.push(floor.1 * 1e6 / floor.0.count as f64);
    }

    /// Puts rates and the ratio of each pair side by side.
    fn tell(&self, rows: &mut Rows, what: &str) {
        let shares: Vec<f64> =
            self.ours.iter().zip(&self.floor).map(|(ours, floor)| 100.0 * ours / floor).collect();
        rows.note(format!("{what}: the node"), median(&self.ours), "/s");
        rows.note(format!("{what}: the bare handler"), median(&self.floor), "/s");
        rows.add(format!("{what}: share"), median(&shares), "%", Goal::AtLeast(GOAL));
        rows.note(format!("{what}: CPU of the node"), median(&self.ours_us), "us each");
        rows.note(format!("{what}: CPU of the bare handler"), median(&self.floor_us), "us each");
    }

    /// Rate and CPU as shares of those of another build.
    fn tell_beside(&self, rows: &mut Rows, what: &str) {
        let ratio = |ours: &[f64], before: &[f64]| {
            let pairs = ours.iter().zip(before);
            median(&pairs.map(|(ours, before)| ours / before).collect::<Vec<_>>())
        };
        rows.note(format!("{what}: rate over the other build"), ratio(&self.ours, &self.floor), "");
        let cpu = ratio(&self.ours_us, &self.floor_us);
        rows.note(format!("{what}: CPU over the other build"), cpu, "");
    }
}

/// The load, and the CPU time that the server used for it.
fn with_cpu(pid: u32, calls: Vec<Call>, time: Duration) -> (Load, f64) {
    let before = cpu_seconds(pid);
    let load = hammer(calls, time);
    (load, cpu_seconds(pid) - before)
}

/// Figure 1.
pub(crate) fn updates(scale: &Scale) {
    let mut rows = Rows::new("updates");
    for clients in scale.clients {
        let mut pairs = Pairs::default();
        for _ in 0..scale.runs {
            let ours = update_load(10, *clients, scale.time);
            let floor = Floor::start();
            // The same number of bodies of the same lengths.
            let lengths = vec![vec![ours.bytes; ours.prepared]; *clients];
            let calls = floor.verify_calls(&lengths);
            pairs.add((ours.load, ours.cpu), with_cpu(floor.pid(), calls, scale.time));
        }
        pairs.tell(&mut rows, &format!("UPDATEs of 10 keys, {clients} clients"));
    }
    rows.save();
}

/// What the UPDATEs of one run came to.
pub(crate) struct UpdateLoad {
    pub(crate) load: Load,
    /// CPU time of the node, s.
    pub(crate) cpu: f64,
    /// The length of one, and how many each client had.
    pub(crate) bytes: usize,
    prepared: usize,
}

/// Members with so many keys each send one node all that it takes.
pub(crate) fn update_load(keys: usize, clients: usize, time: Duration) -> UpdateLoad {
    let mut network = Network::start(1, false);
    let mut callers = Caller::join(&network.nodes[0].process.address, clients);
    // More than any machine takes, up to what fits in memory.
    let bytes = callers[0].updates(keys, 1)[0].len();
    let most = 20_000 * (time.as_millis() as usize) / 1000 / clients;
    let prepared = most.min(PREPARED_BYTES / clients / bytes).max(2);
    let made: Vec<_> = callers.iter_mut().map(|caller| caller.updates(keys, prepared)).collect();
    let last: Vec<_> = callers.iter().map(Caller::timestamp).collect();
    let taken: Vec<_> = callers.iter().map(|_| std::sync::Arc::new(AtomicUsize::new(0))).collect();
    let calls = callers.into_iter().zip(made).zip(&taken).map(|((caller, made), taken)| {
        let (mut call, taken) = (caller.post_call(made), std::sync::Arc::clone(taken));
        let counted: Call = Box::new(move || {
            let went = call();
            taken.fetch_add(usize::from(went), Ordering::Relaxed);
            went
        });
        counted
    });
    let node = &mut network.nodes[0];
    let (load, cpu) = with_cpu(node.process.child.id(), calls.collect(), time);
    // What it said it took, it holds.
    for (number, (last, taken)) in last.iter().zip(&taken).enumerate() {
        let state = node.control.ask(&json!({"op": "state", "node": format!("caller-{number}")}));
        let newest = last - (prepared - taken.load(Ordering::Relaxed)) as u64;
        assert_eq!(state["timestamp"], newest, "the node holds the last version that it took");
        assert_eq!(state["entries"].as_object().unwrap().len(), keys);
    }
    UpdateLoad { load, cpu, bytes, prepared }
}

/// Figure 2.
pub(crate) fn messages(scale: &Scale) {
    let mut rows = Rows::new("messages");
    message(scale, &mut rows, "PINGs", Caller::ping_call, |caller| {
        let ping = caller.member.ping();
        caller.exchange(&ping)
    });
    for bytes in [1 << 10, 64 << 10] {
        let what = format!("DATA of {} KB", bytes >> 10);
        let call = move |caller: Caller| caller.data_call(bytes);
        let one = |caller: &mut Caller| {
            let data = caller.member.data(1, &vec![0; bytes]);
            caller.exchange(&data)
        };
        message(scale, &mut rows, &what, call, one);
        message(scale, &mut rows, &format!("{what} and back"), call, |caller| {
            let (request, _) = one(caller);
            (request, request)
        });
    }
    rows.save();
}

fn message(
    scale: &Scale,
    rows: &mut Rows,
    what: &str,
    call: impl Fn(Caller) -> Call,
    one: impl Fn(&mut Caller) -> (usize, usize),
) {
    let own = std::env::current_exe().unwrap();
    let base = std::env::var_os("DSN_BASE_BENCH").map(PathBuf::from);
    for clients in scale.clients {
        let (mut pairs, mut beside) = (Pairs::default(), Pairs::default());
        for run in 0..scale.runs {
            let node = |program: &Path| {
                let place = Place4Nodes::new();
                let sink = Sink::start(program, place.path());
                let mut probe = Caller::join(&sink.address, clients + 1);
                let lengths = one(&mut probe.pop().unwrap());
                let calls = probe.into_iter().map(&call).collect();
                let ours = with_cpu(sink.child.id(), calls, scale.time);
                let sent = if what.starts_with("DATA") { ours.0.count + 1 } else { 0 };
                assert_eq!(sink.end(), sent, "all that was accepted was delivered");
                (ours, lengths)
            };
            // Each of the two comes first in every other run.
            let before = base.as_deref().filter(|_| run % 2 == 0).map(node);
            let (ours, (request, answer)) = node(&own);
            let before = before.or_else(|| base.as_deref().map(node));
            if let Some((before, _)) = before {
                beside.add(ours, before);
            }
            let floor = Floor::start();
            let calls = (0..*clients).map(|_| floor.echo_call(request, answer)).collect();
            pairs.add(ours, with_cpu(floor.pid(), calls, scale.time));
        }
        let what = format!("{what}, {clients} clients");
        pairs.tell(rows, &what);
        if base.is_some() {
            beside.tell_beside(rows, &what);
        }
    }
}

/// A process that embeds a node and takes all DATA out of its inbox.
struct Sink {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sink {
    fn start(program: &Path, folder: &Path) -> Self {
        let mut child = Command::new(program)
            .arg("role-sink")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut address = String::new();
        stdout.read_line(&mut address).unwrap();
        Self { child, stdout, address: address.trim().to_owned() }
    }

    /// Ends it; gives how many messages it took.
    fn end(mut self) -> usize {
        drop(self.child.stdin.take());
        let mut count = String::new();
        self.stdout.read_line(&mut count).unwrap();
        count.trim().parse().unwrap()
    }
}

/// What runs in the process of a sink.
pub(crate) fn serve_sink(folder: &Path) {
    let mut config = Config::new(id("sink"));
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.credentials = folder.join("credentials");
    config.data = Some(folder.join("data"));
    config.control = dsn::Control::Nowhere;
    let node = dsn::start(config).unwrap();
    println!("{}", node.listen());
    std::io::stdout().flush().unwrap();
    let count = AtomicUsize::new(0);
    let take = |time| {
        while node.receive(time).is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                take(Duration::from_millis(100));
            }
        });
        let mut nothing = Vec::new();
        std::io::stdin().read_to_end(&mut nothing).unwrap();
        over.store(true, Ordering::Relaxed);
    });
    take(Duration::ZERO);
    println!("{}", count.into_inner());
}
