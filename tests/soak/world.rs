//! The nodes, and what everybody who works on them shares.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dsn::control::{ControlClient, Failure};
use rustix::process::Signal;
use serde_json::Value as Json;

use crate::soak::anew::Lives;
use crate::soak::ledger::{Mail, Sets};
use crate::soak::net::Net;
use crate::support::process::Process;
use crate::support::{PATIENCE, Place4Nodes};

/// The first nodes are never killed or stopped, so that the memory of a long life is seen.
pub const STEADY: usize = 3;
/// Failures and faults that are kept to be shown.
const KEPT_MAX: usize = 60;

pub struct Node {
    pub id: String,
    pub control: PathBuf,
    pub data: PathBuf,
    pub log: PathBuf,
    /// Rises at each start and each end: odd while the node serves.
    run: AtomicU64,
    pub hangs: AtomicU64,
    pub hung: AtomicBool,
    process: Mutex<Option<Process>>,
    /// The reader of DATA rests while it is asked to, and says so.
    pub reader_must_rest: AtomicBool,
    pub reader_rests: AtomicBool,
    pub writer_is_idle: AtomicBool,
    pub sender_is_idle: AtomicBool,
}

#[derive(Default)]
pub struct Counts {
    pub sets: AtomicU64,
    pub reads: AtomicU64,
    pub events: AtomicU64,
    pub inbox_full: AtomicU64,
    pub strangers: AtomicU64,
    pub replays: AtomicU64,
    pub forgeries: AtomicU64,
    pub lies: AtomicU64,
    pub anew: AtomicU64,
    pub revivals: AtomicU64,
    pub kills: AtomicU64,
    pub ends: AtomicU64,
    pub hangs: AtomicU64,
    pub cuts: AtomicU64,
}

pub struct World {
    pub seed: u64,
    pub began: Instant,
    pub place: Place4Nodes,
    pub net: Arc<Net>,
    pub nodes: Vec<Node>,
    pub sets: Sets,
    pub lives: Lives,
    pub mail: Mail,
    pub counts: Counts,
    pub stopped: AtomicBool,
    /// Writers, senders, strangers and liars rest.
    pub quiet: AtomicBool,
    /// The member that lies says so when it does.
    pub liar_is_idle: AtomicBool,
    /// Nodes that no fault is done to, and since when, for the promise of isolation.
    pub bystanders: Mutex<(Vec<bool>, Instant)>,
    /// Time from the acknowledgement to the arrival, between bystanders, since the last line.
    pub lags: Mutex<Vec<Duration>>,
    /// The newest counter that each node (first index) was told of each owner.
    pub told: Mutex<Vec<Vec<u64>>>,
    failures: Mutex<Vec<String>>,
    faults: Mutex<VecDeque<String>>,
}

/// Waits a moment between two looks or two pieces of work.
pub fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|it| !it.is_zero()) {
        std::thread::park_timeout(left);
    }
}

pub fn is_timeout(failure: &Failure) -> bool {
    matches!(failure, Failure::Late)
}

impl World {
    pub fn new(count: usize, seed: u64) -> Arc<Self> {
        let place = Place4Nodes::new();
        let node = |at: usize| {
            let id = format!("n{at}");
            let data = place.path().join("data").join(&id);
            Node {
                control: data.join("control.sock"),
                log: place.path().join(format!("{id}.log")),
                data,
                id,
                run: AtomicU64::new(0),
                hangs: AtomicU64::new(0),
                hung: AtomicBool::new(false),
                process: Mutex::new(None),
                reader_must_rest: AtomicBool::new(false),
                reader_rests: AtomicBool::new(false),
                writer_is_idle: AtomicBool::new(false),
                sender_is_idle: AtomicBool::new(false),
            }
        };
        Arc::new(Self {
            seed,
            began: Instant::now(),
            net: Net::start(count),
            nodes: (0..count).map(node).collect(),
            sets: Sets::new(count),
            lives: Lives::new(count),
            mail: Mail::default(),
            counts: Counts::default(),
            stopped: AtomicBool::new(false),
            quiet: AtomicBool::new(true),
            liar_is_idle: AtomicBool::new(true),
            bystanders: Mutex::new((vec![false; count], Instant::now())),
            lags: Mutex::default(),
            told: Mutex::new(vec![vec![0; count]; count]),
            failures: Mutex::default(),
            faults: Mutex::default(),
            place,
        })
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::SeqCst)
    }

    /// A promise was broken. The first failures are kept; the run ends at the next look.
    pub fn fail(&self, promise: &str, node: usize, what: &str) {
        let t = self.began.elapsed().as_secs();
        let text = format!("{t} s: {promise} was broken at n{node}: {what}");
        println!("FAILURE {text}");
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < KEPT_MAX {
            failures.push(text);
        }
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    pub fn note_fault(&self, what: String) {
        let mut faults = self.faults.lock().unwrap();
        if faults.len() >= KEPT_MAX {
            faults.pop_front();
        }
        faults.push_back(format!("{:.1} s: {what}", self.began.elapsed().as_secs_f32()));
    }

    pub fn last_faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().iter().cloned().collect()
    }

    /// The number of the run in which the node serves, if it does.
    pub fn serves(&self, node: usize) -> Option<u64> {
        let run = self.nodes[node].run.load(Ordering::SeqCst);
        (run % 2 == 1).then_some(run)
    }

    pub fn run(&self, node: usize) -> u64 {
        self.nodes[node].run.load(Ordering::SeqCst)
    }

    pub fn connect(&self, node: usize) -> Result<ControlClient, Failure> {
        ControlClient::connect(&self.nodes[node].control, PATIENCE)
    }

    /// One question over a connection of its own.
    pub fn ask(&self, node: usize, question: &Json) -> Result<Json, Failure> {
        self.connect(node)?.call(question, PATIENCE)
    }

    pub fn listen(&self, node: usize) -> SocketAddr {
        self.net.listen(node)
    }

    pub fn start(&self, at: usize) {
        let node = &self.nodes[at];
        let mut process = node.process.lock().unwrap();
        if process.is_some() {
            return;
        }
        let seeds = [self.net.addresses[0].to_string(), self.net.addresses[1].to_string()];
        let seeds: Vec<&str> =
            (0..2).filter(|seed| *seed != at && at > 0).map(|it| seeds[it].as_str()).collect();
        let mut command = self.place.run_command(&node.id, &seeds);
        command.args(["--listen", &self.listen(at).to_string()]);
        command.args(["--advertise", &self.net.addresses[at].to_string()]);
        let started = self.place.spawn(command, &node.id);
        self.net.pids[at].store(started.child.id(), Ordering::SeqCst);
        *process = Some(started);
        node.run.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes the process away from those who work on it.
    fn take(&self, at: usize) -> Option<Process> {
        let node = &self.nodes[at];
        let process = node.process.lock().unwrap().take()?;
        node.run.fetch_add(1, Ordering::SeqCst);
        node.hung.store(false, Ordering::SeqCst);
        Some(process)
    }

    fn gone(&self, at: usize) {
        self.net.pids[at].store(0, Ordering::SeqCst);
    }

    pub fn kill(&self, at: usize) {
        if let Some(process) = self.take(at) {
            process.kill();
            self.gone(at);
            self.counts.kills.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `stop` or `leave`; the node has to end by itself, with exit code 0.
    pub fn end(&self, at: usize, op: &str) {
        let Some(mut process) = self.take(at) else { return };
        let answer = self.ask(at, &serde_json::json!({ "op": op, "timeout_ms": 5000 }));
        if let Err(failure) = answer {
            self.fail("stopping", at, &format!("{op}: {failure:?}"));
        }
        let code = process.wait();
        if code != Some(0) {
            self.fail("stopping", at, &format!("{op}: the exit code is {code:?}"));
        }
        self.gone(at);
        self.counts.ends.fetch_add(1, Ordering::Relaxed);
    }

    pub fn signal(&self, at: usize, signal: Signal) {
        let node = &self.nodes[at];
        if let Some(process) = &*node.process.lock().unwrap() {
            if signal == Signal::STOP {
                node.hangs.fetch_add(1, Ordering::SeqCst);
                self.counts.hangs.fetch_add(1, Ordering::Relaxed);
            }
            process.signal(signal);
            node.hung.store(signal == Signal::STOP, Ordering::SeqCst);
        }
    }

    /// Whether a process that should run has ended by itself.
    pub fn look_for_dead(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(process) = &mut *node.process.lock().unwrap()
                && let Ok(Some(status)) = process.child.try_wait()
            {
                self.fail("boundedness", at, &format!("the process ended by itself: {status}"));
            }
        }
    }

    /// Takes all away that the host of a node that does not run had for it.
    pub fn wipe(&self, at: usize) {
        let node = &self.nodes[at];
        for folder in [self.place.path().join("credentials").join(&node.id), node.data.clone()] {
            std::fs::remove_dir_all(&folder).expect("it was there");
        }
    }

    /// What a power cut can leave behind the last sync: a piece of a frame, or noise.
    pub fn tear_journal(&self, at: usize, bytes: &[u8]) {
        let path = self.nodes[at].data.join("state.journal");
        if let Ok(mut file) = std::fs::File::options().append(true).open(path) {
            let _ = file.write_all(bytes);
        }
    }

    pub fn shut(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for at in 0..self.count() {
            self.kill(at);
        }
        self.net.stop();
    }
}
