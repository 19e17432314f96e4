//! Figure 4: the Python package distributed_state_network under the same load, in the same run.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use dsn::client::Client;
use dsn::protocol::identity::hex;
use tempfile::TempDir;

use super::Scale;
use super::hammer::{Call, hammer};
use super::messages::update_load;
use super::network::{Network, let_pass};
use super::propagate::spread;
use super::rows::{Goal, Rows};
use super::stats::{cpu_seconds, median, ms, own_mb, percentile, rss_mb};

/// Names the Python that has the package: scripts/bench.sh makes it.
const PYTHON: &str = "DSN_BENCH_PYTHON";
const KEY: [u8; 16] = [7; 16];
const CLIENTS: usize = 4;
/// Starting, and telling all, takes such nodes a while.
const PATIENCE: Duration = Duration::from_secs(120);

fn peer(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/load/peer.py"));
    command
}

/// A port that was free a moment ago: the package takes no port 0.
fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

/// A node of the package: a process that is ended when dropped.
struct Peer {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    port: u16,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    fn start(
        python: &Path,
        folder: &Path,
        id: &str,
        other: Option<u16>,
        saw: Sender<(String, Instant)>,
    ) -> Self {
        let port = free_port();
        let own = folder.join(id);
        std::fs::create_dir(&own).unwrap();
        let log = std::fs::File::create(own.join("log")).unwrap();
        let mut command = peer(python);
        command.args(["node", id, &port.to_string()]).arg(&own).arg(hex(&KEY));
        command.args(other.map(|port| port.to_string()));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (answer, answers) = bounded(1024);
        // It ends with its node.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let at = Instant::now();
                let told = match line.strip_prefix("saw ") {
                    Some(value) => saw.send((value.to_owned(), at)).is_ok(),
                    None => answer.send(line).is_ok(),
                };
                if !told {
                    return;
                }
            }
        });
        let node = Self { child, stdin, answers, port };
        assert_eq!(node.answer(), "ready");
        node
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("the Python node answers")
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.answer()
    }
}

/// What one network was measured to do.
struct Spread {
    all_ms: Vec<f64>,
    rss: f64,
    own: f64,
}

fn python_spread(python: &Path, nodes: usize, changes: usize) -> Spread {
    let folder = tempfile::tempdir().unwrap();
    let (saw, seen) = bounded(1024);
    let mut network: Vec<Peer> = Vec::new();
    for number in 0..nodes {
        let first = network.first().map(|peer| peer.port);
        let id = format!("n{number}");
        network.push(Peer::start(python, folder.path(), &id, first, saw.clone()));
    }
    for node in &mut network {
        assert_eq!(node.ask("fill 10"), "filled");
    }
    let until = Instant::now() + PATIENCE;
    for node in &mut network {
        while node.ask("holds 10") != format!("holds {nodes}") {
            assert!(Instant::now() < until, "the Python nodes don't come to know each other");
            let_pass(Duration::from_millis(100));
        }
    }
    let mut all_ms = Vec::new();
    for change in 0..changes {
        let (began, value) = (Instant::now(), change.to_string());
        network[0].say(&format!("set {value}"));
        let mut last = began;
        for _ in 1..nodes {
            let (what, at) = seen.recv_timeout(PATIENCE).expect("the change arrives");
            assert_eq!(what, value);
            last = last.max(at);
        }
        all_ms.push(ms(last - began));
        assert_eq!(network[0].answer(), "set");
    }
    let pids: Vec<u32> = network.iter().map(|peer| peer.child.id()).collect();
    let all = |read: fn(u32) -> f64| pids.iter().map(|pid| read(*pid)).collect::<Vec<_>>();
    Spread { all_ms, rss: median(&all(rss_mb)), own: median(&all(own_mb)) }
}

/// The packets of each client: a HELLO, then UPDATEs.
fn packets(python: &Path, folder: &TempDir, port: u16, count: usize) -> Vec<Vec<Vec<u8>>> {
    let file = folder.path().join("packets");
    let (clients, number) = (CLIENTS.to_string(), count.to_string());
    let made = peer(python)
        .arg("packets")
        .arg(folder.path())
        .args([&hex(&KEY), &clients, &number, &port.to_string()])
        .arg(&file)
        .status()
        .unwrap();
    assert!(made.success(), "peer.py packets failed");
    let bytes = std::fs::read(file).unwrap();
    let (mut rest, mut all) = (bytes.as_slice(), Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (packet, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        all.push(packet.to_vec());
        rest = behind;
    }
    all.chunks(count + 1).map(<[_]>::to_vec).collect()
}

/// Updates a second that a Python node takes, and its CPU time for one, ms.
fn python_updates(python: &Path, time: Duration) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let (saw, _seen) = bounded(1024);
    let mut node = Peer::start(python, folder.path(), "alone", None, saw);
    // It takes far fewer: whoever runs out ends the load, and its rate counts all the same.
    let count = 1000 * (time.as_millis() as usize) / 1000 / CLIENTS;
    let post = |packets: Vec<Vec<u8>>| -> Call {
        let client = Client::new(1 << 20, 1);
        let address = format!("127.0.0.1:{}", node.port);
        let mut packets = packets.into_iter();
        let hello = packets.next().unwrap();
        assert_eq!(client.post(&address, "/hello", &hello, PATIENCE).unwrap().status, 200);
        Box::new(move || {
            let Some(packet) = packets.next() else { return false };
            let answer = client.post(&address, "/update", &packet, PATIENCE).unwrap();
            // A node that does not take it answers with one empty block: 32 bytes.
            assert!(answer.status == 200 && answer.body.len() > 32, "the update is taken");
            true
        })
    };
    let calls = packets(python, &folder, node.port, count).into_iter().map(post).collect();
    let before = cpu_seconds(node.child.id());
    let load = hammer(calls, time);
    let cpu = cpu_seconds(node.child.id()) - before;
    assert_eq!(node.ask("holds 10"), format!("holds {CLIENTS}"), "it holds all states");
    (load.rate(), cpu * 1e3 / load.count as f64)
}

/// Figure 4.
pub(crate) fn python(scale: &Scale) {
    let Some(python) = std::env::var_os(PYTHON).map(PathBuf::from) else {
        println!(
            "\n== python\nSKIPPED: {PYTHON} names no Python with the package; scripts/bench.sh makes one"
        );
        return;
    };
    let mut rows = Rows::new("python");
    let (nodes, changes) = if scale.quick { (3, 3) } else { (16, 30) };
    let theirs = python_spread(&python, nodes, changes);
    let mut network = Network::start(nodes, false);
    network.fill(10);
    let all_ms = spread(&mut network, 10 * changes).all_ms;
    let ids: Vec<u32> = network.nodes.iter().map(super::network::Member::pid).collect();
    let all = |read: fn(u32) -> f64| ids.iter().map(|pid| read(*pid)).collect::<Vec<_>>();
    let (rss, own) = (median(&all(rss_mb)), median(&all(own_mb)));
    drop(network);
    let what = format!("set to all of {nodes} nodes");
    rows.note(format!("{what}, Python: p50"), median(&theirs.all_ms), "ms");
    rows.note(format!("{what}, Python: p99"), percentile(&theirs.all_ms, 99), "ms");
    rows.note(format!("{what}, dsn: p50"), median(&all_ms), "ms");
    let faster = median(&theirs.all_ms) / median(&all_ms);
    rows.add("propagation: how much faster than Python", faster, "times", Goal::AtLeast(20.0));

    let mut both = Vec::new();
    for _ in 0..scale.runs.min(3) {
        let theirs = python_updates(&python, 2 * scale.time);
        let ours = update_load(10, CLIENTS, scale.time).load.rate();
        both.push((theirs.0, theirs.1, ours, ours / theirs.0));
    }
    let column =
        |at: fn(&(f64, f64, f64, f64)) -> f64| median(&both.iter().map(at).collect::<Vec<_>>());
    rows.note(format!("UPDATEs, {CLIENTS} clients, Python"), column(|it| it.0), "/s");
    rows.note("CPU of the Python node for one", column(|it| it.1), "ms");
    rows.note(format!("UPDATEs, {CLIENTS} clients, dsn"), column(|it| it.2), "/s");
    rows.add("UPDATEs: how many times Python's", column(|it| it.3), "times", Goal::AtLeast(20.0));

    rows.note(format!("memory of {nodes} nodes, Python: p50"), theirs.rss, "MB");
    rows.note(format!("memory of {nodes} nodes, dsn: p50"), rss, "MB");
    rows.add("memory: share of Python's", 100.0 * rss / theirs.rss, "%", Goal::AtMost(10.0));
    rows.note("own memory: share of Python's", 100.0 * own / theirs.own, "%");
    rows.save();
}
