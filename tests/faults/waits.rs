//! What a start waits for, and how it ends: with an answer, in its time, or with a signal.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::eventually;
use crate::support::process::{Said, dsn};

/// In less time a start that waits for a key file says nothing (20 s), nor does one that waits for
/// a file that is held (60 s).
const SOON: Duration = Duration::from_secs(10);

/// What another program does with a file until it is ended; it says `ready`.
const LOCKS: &str = "import fcntl, sys\n\
    file = open(sys.argv[1], 'r+')\n\
    fcntl.flock(file, fcntl.LOCK_EX)\n\
    print('ready', flush=True)\n\
    sys.stdin.readline()\n";
const LEASES: &str = "import fcntl, signal, sys\n\
    signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
    file = open(sys.argv[1], 'r+')\n\
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
    print('ready', flush=True)\n\
    sys.stdin.readline()\n";

/// Somebody who holds a file until this is dropped.
struct Holder(Child);

impl Holder {
    fn new(does: &str, path: &Path) -> Option<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", does]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Self(command.stderr(Stdio::null()).spawn().ok()?);
        let mut said = String::new();
        BufReader::new(holder.0.stdout.take()?).read_line(&mut said).ok()?;
        (said == "ready\n").then_some(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(folder: &Path) -> Command {
    let mut command = dsn();
    command.current_dir(folder).args(["run", "--node-id", "a", "--listen", "127.0.0.1:0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a start said that ends by itself, soon.
fn ended(mut child: Child) -> Said {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > SOON {
            child.kill().unwrap();
            panic!("it goes on: {:?}", Said::from(child.wait_with_output().unwrap()));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap().into()
}

/// The paths below a folder.
fn all_below(folder: &Path) -> Vec<String> {
    let found = Command::new("find").arg(folder).args(["-mindepth", "1"]).output().unwrap();
    let mut all: Vec<String> =
        String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// Without an end such a start took a whole processor, and no signal ended it.
#[test]
fn a_key_file_that_is_a_link_to_nothing_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("credentials");
    std::fs::create_dir_all(keys.join("a")).unwrap();
    for name in ["network.key", "a/node.key"] {
        let link = keys.join(name);
        std::os::unix::fs::symlink("/nowhere/secret", &link).unwrap();
        let said = ended(run(folder.path()).spawn().unwrap());
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains(name), "{}", said.err);
        assert!(
            said.err.contains("is a link to /nowhere/secret, and nothing is there"),
            "{said:?}"
        );
        // The network key that was made meanwhile has gone again.
        let there = all_below(&keys);
        let expected = [keys.join("a"), link.clone()].map(|path| path.display().to_string());
        assert!(there.iter().eq(expected.iter()), "{there:?}");
        std::fs::remove_file(&link).unwrap();
    }
}

/// A key file that is locked, and files that somebody holds and has to let go of.
#[test]
fn a_signal_ends_a_start_that_waits_and_leaves_nothing() {
    let rows = [
        (LOCKS, "credentials/network.key", Signal::TERM),
        (LOCKS, "credentials/a/node.key", Signal::INT),
        (LEASES, "credentials/network.key", Signal::INT),
        (LEASES, "credentials/a/node.key", Signal::TERM),
        (LEASES, "credentials/a/known_peers", Signal::TERM),
        (LEASES, "allowed", Signal::TERM),
        (LEASES, "data/a/lock", Signal::TERM),
        (LEASES, "data/a/state.journal", Signal::TERM),
    ];
    for (does, name, signal) in rows {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        for kind in ["credentials", "data"] {
            std::fs::create_dir_all(folder.path().join(kind).join("a")).unwrap();
        }
        std::fs::write(&path, "").unwrap();
        let Some(_holder) = Holder::new(does, &path) else {
            eprintln!("SKIPPED: needs python3, and a file system with locks and leases");
            continue;
        };
        let before = all_below(&folder.path().join("credentials"));
        let mut command = run(folder.path());
        command.args(["--control", "sock"]);
        if name == "allowed" {
            command.args(["--allow", name]);
        }
        let mut child = command.spawn().unwrap();
        let id = Pid::from_child(&child);
        let handled = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
            let status = status.unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            caught.unwrap_or_default() >> (signal.as_raw() - 1) & 1 == 1
        };
        eventually("signals are heard", handled);
        std::thread::park_timeout(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "{name}: it waits");
        kill_process(id, signal).unwrap();
        let began = Instant::now();
        let said = ended(child);
        assert!(began.elapsed() < Duration::from_secs(2), "{name}: {:?}", began.elapsed());
        assert_eq!((said.code, said.out.as_str()), (0, ""), "{name}: {said:?}");
        assert!(said.err.contains("told to stop") && said.err.contains(name), "{name}: {said:?}");
        assert_eq!(all_below(&folder.path().join("credentials")), before, "{name}");
    }
}

/// The settings are read before signals are heard: they do what they do to any program.
#[test]
fn a_signal_ends_a_start_that_waits_for_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("settings");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = run(folder.path());
    // The end to write to is there, and silent.
    let _idle = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let mut child = command.arg("--config").arg(&pipe).spawn().unwrap();
    std::thread::park_timeout(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut said = String::new();
    let began = Instant::now();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{said}");
    assert_eq!(all_below(folder.path()), [pipe.display().to_string()]);
}
