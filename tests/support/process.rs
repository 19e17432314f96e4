//! Real processes of the real binary, ended by their ids when a test ends.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use super::{Place4Nodes, eventually};

/// Whoever ends this run with a signal ends the processes that it started, too.
pub fn end_with_children() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).unwrap();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let children = tasks.filter_map(|task| {
                std::fs::read_to_string(task.ok()?.path().join("children")).ok()
            });
            let ids: Vec<String> = children.collect();
            for id in ids.iter().flat_map(|line| line.split_whitespace()) {
                let pid = rustix::process::Pid::from_raw(id.parse().unwrap());
                // One that has ended meanwhile is what is wanted.
                let _ = rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL);
            }
            std::process::exit(130);
        }
    });
}

/// A `dsn run` of its own.
pub struct Process {
    pub child: Child,
    pub address: String,
    pub control: PathBuf,
    pub log: PathBuf,
    stdout: BufReader<ChildStdout>,
}

/// The binary. `DSN_TEST_BIN` names another one, such as the static one of a release.
pub fn binary() -> PathBuf {
    let other = std::env::var_os("DSN_TEST_BIN");
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_dsn").into()).into()
}

/// Puts a file that can be started at another place. A process of its own writes it: while this one
/// holds a file open to write it, a child of another test may inherit that, and it is "busy".
pub fn install(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "755"]).arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// The binary with an environment that names no node. A node that is told nothing else takes a free
/// port of loopback: the default one belongs to whatever runs on this host.
pub fn dsn() -> Command {
    dsn_of(&binary())
}

/// The same of another binary.
pub fn dsn_of(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars() {
        if name.starts_with("DSN_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("DSN_LISTEN", "127.0.0.1:0");
    command
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the command with this on its stdin.
pub fn run_with(command: &mut Command, stdin: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early does not read it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap().into()
}

/// Waits for a process to end by itself; gives its exit code.
pub fn wait_for(child: &mut Child) -> Option<i32> {
    let mut code = None;
    eventually("the process ends", || {
        let ended = child.try_wait().unwrap();
        code = ended.and_then(|status| status.code());
        ended.is_some()
    });
    code
}

impl Place4Nodes {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The command that runs a node here, with a short tick; arguments may be added.
    pub fn run_command(&self, node_id: &str, bootstrap: &[&str]) -> Command {
        let mut command = dsn();
        command.current_dir(self.path());
        command.args(["run", "--node-id", node_id, "--tick", "500ms"]);
        for address in bootstrap {
            command.args(["--bootstrap", address]);
        }
        command
    }

    /// Starts a node as a process and waits until it serves; `listen` is its address.
    pub fn spawn_at(&self, node_id: &str, listen: &str, bootstrap: &[&str]) -> Process {
        let mut command = self.run_command(node_id, bootstrap);
        command.args(["--listen", listen]);
        self.spawn(command, node_id)
    }

    pub fn spawn(&self, mut command: Command, node_id: &str) -> Process {
        let log = self.path().join(format!("{node_id}.log"));
        let stderr = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").map(str::trim).map(str::to_owned);
        let said = std::fs::read_to_string(&log).unwrap();
        let address = address.unwrap_or_else(|| panic!("{node_id} did not start: {said}"));
        let control = self.path().join(format!("data/{node_id}/control.sock"));
        Process { child, address, control, log, stdout }
    }
}

impl Process {
    /// A command to this node.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = dsn();
        command.arg("--control").arg(&self.control).args(arguments);
        command
    }

    pub fn ask(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// What a command prints that has to succeed, without the last newline.
    pub fn told(&self, arguments: &[&str]) -> String {
        let said = self.ask(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {}{}", said.err, self.log_text());
        said.out.trim_end_matches('\n').to_owned()
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let all: Vec<&str> = std::iter::once("--json").chain(arguments.iter().copied()).collect();
        serde_json::from_str(&self.told(&all)).unwrap()
    }

    /// The status that this node gives a peer.
    pub fn status_of(&self, node_id: &str) -> String {
        let peers = self.json(&["peers", "--all"]);
        let peer = peers.as_array().unwrap().iter().find(|peer| peer["node_id"] == node_id);
        peer.map_or(String::new(), |peer| peer["status"].as_str().unwrap().to_owned())
    }

    /// What is wrong with the node, as JSON; that nobody else is there is left out.
    pub fn degraded(&self) -> String {
        let mut status = self.json(&["status"]);
        let faults = status["degraded"].as_array_mut().unwrap();
        faults.retain(|fault| fault["code"] != "alone");
        status["degraded"].to_string()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The log, once all of these words are in it: it is written beside the work.
    pub fn logged(&self, words: &[&str]) -> String {
        let mut log = String::new();
        super::eventually(&format!("the log of {} has {words:?}", self.log.display()), || {
            log = self.log_text();
            words.iter().all(|word| log.contains(word))
        });
        log
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends the process at once, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end by itself; gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        wait_for(&mut self.child)
    }

    /// What it printed to stdout after the first line; it has ended.
    pub fn rest_of_stdout(&mut self) -> String {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut text).unwrap();
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
