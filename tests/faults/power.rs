//! kill -9 at random moments, a thousand times and more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dsn::control::ControlClient;
use serde_json::{Value as Json, json};

use crate::faults::tools::{has_strace, under_strace};
use crate::support::process::{dsn, run_with};
use crate::support::{PATIENCE, Place4Nodes, eventually};

/// Kills in the normal suite; `DSN_KILLS` asks for another number.
const KILLS: usize = 1000;
/// Programs that change the state of one node at the same time.
const WRITERS: usize = 3;
/// Longest life of a node, ms.
const LIFE_MS: u64 = 60;
/// Far more than a start takes.
const START_MAX: Duration = Duration::from_secs(10);

/// What one writer knows of its key.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Written {
    /// The last number that was acknowledged, and the timestamp of its version.
    acknowledged: u64,
    timestamp: u64,
    /// The last one that was asked for.
    asked: u64,
}

/// A node that is killed again and again.
struct Victim<'a> {
    place: &'a Place4Nodes,
    name: String,
    sync: &'static str,
    bootstrap: Option<&'a str>,
    written: [Written; WRITERS],
    starts: Vec<Duration>,
    random: u64,
}

/// A process that is killed when it goes.
struct Running {
    child: Child,
    control: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(control: &Path, request: &Json) -> Option<Json> {
    ControlClient::connect(control, PATIENCE).ok()?.call(request, PATIENCE).ok()
}

impl Victim<'_> {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift: the moments only have to be many different ones.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    fn spawn(&self) -> Running {
        let mut command: Command = self.place.run_command(&self.name, &[]);
        command.args(["--listen", "127.0.0.1:0", "--sync", self.sync]);
        command.args(self.bootstrap.iter().flat_map(|address| ["--bootstrap", *address]));
        let log = self.place.path().join(format!("{}.log", self.name));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let control = self.place.path().join(format!("data/{}/control.sock", self.name));
        Running { child, control }
    }

    fn log_text(&self) -> String {
        let log = self.place.path().join(format!("{}.log", self.name));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// Starts it and waits until it serves: no start may be refused, whatever was killed before.
    fn start(&mut self) -> Running {
        let began = Instant::now();
        let mut running = self.spawn();
        let mut line = String::new();
        BufReader::new(running.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{}: {}", self.name, self.log_text());
        // The socket is opened before the line is written.
        assert!(ControlClient::connect(&running.control, PATIENCE).is_ok(), "{}", self.log_text());
        self.starts.push(began.elapsed());
        running
    }

    /// Nothing acknowledged is lost, nothing is half there, nothing appears that nobody asked for.
    /// The end of the journal may be torn: Linux ends a write of a killed process between pages.
    fn check(&mut self, running: &Running) {
        let state = ask(&running.control, &json!({ "op": "state", "node": self.name })).unwrap();
        for (at, written) in self.written.iter_mut().enumerate() {
            let number = |key: &str| {
                let text = state["entries"][key].as_str().unwrap_or("0");
                text.split('-').next().unwrap().parse::<u64>().unwrap()
            };
            let (found, twin) = (number(&format!("w{at}")), number(&format!("twin{at}")));
            assert_eq!(found, twin, "{}: one change is there whole", self.name);
            let expected = written.acknowledged..=written.asked;
            assert!(expected.contains(&found), "{}: w{at} is {found}, not {written:?}", self.name);
            assert!(state["timestamp"].as_u64().unwrap() >= written.timestamp, "{}", self.name);
            *written = Written { acknowledged: found, asked: found, ..*written };
        }
    }

    /// Writes with several programs at once until it is killed.
    fn write_until_killed(&mut self, mut running: Running, life: Duration) {
        let control = running.control.clone();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (at, written) in self.written.iter_mut().enumerate() {
                let (control, over) = (&control, &over);
                scope.spawn(move || {
                    let Ok(mut node) = ControlClient::connect(control, PATIENCE) else { return };
                    while !over.load(Ordering::Relaxed) {
                        written.asked += 1;
                        let number = written.asked;
                        // Long ones, so that the journal is often rewritten.
                        let value = format!("{number}-{}", "x".repeat(1000 * at));
                        let entries = BTreeMap::from([
                            (format!("w{at}"), value),
                            (format!("twin{at}"), number.to_string()),
                        ]);
                        let request = json!({ "op": "set", "entries": entries });
                        let Ok(result) = node.call(&request, PATIENCE) else { return };
                        written.acknowledged = number;
                        written.timestamp = result["timestamp"].as_u64().unwrap();
                    }
                });
            }
            crate::faults::tools::let_pass(life);
            running.child.kill().unwrap();
            running.child.wait().unwrap();
            over.store(true, Ordering::Relaxed);
        });
    }

    fn suffer(&mut self, kills: usize) {
        for _ in 0..kills {
            if self.below(5) == 0 {
                // In the middle of a start.
                let running = self.spawn();
                crate::faults::tools::let_pass(Duration::from_micros(self.below(20_000)));
                drop(running);
                continue;
            }
            let running = self.start();
            self.check(&running);
            let life = Duration::from_micros(self.below(LIFE_MS * 1000));
            self.write_until_killed(running, life);
        }
    }
}

#[test]
fn kill_9_at_any_moment_loses_nothing_and_no_start_is_refused() {
    let kills = std::env::var("DSN_KILLS").ok().and_then(|text| text.parse().ok());
    let kills = kills.unwrap_or(KILLS);
    let place = Place4Nodes::new();
    let witness = place.spawn_at("witness", "127.0.0.1:0", &[]);
    // Without a power cut nothing depends on the sync, so `1h` loses nothing either.
    let mut victims: Vec<Victim<'_>> = ["always", "always", "shared", "1h"]
        .into_iter()
        .enumerate()
        .map(|(at, sync)| Victim {
            place: &place,
            name: format!("v{at}"),
            sync,
            bootstrap: Some(&witness.address),
            written: [Written::default(); WRITERS],
            starts: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id()) << 8 ^ at as u64,
        })
        .collect();
    std::thread::scope(|scope| {
        let share = kills.div_ceil(victims.len());
        for victim in &mut victims {
            scope.spawn(move || victim.suffer(share));
        }
    });
    let mut starts: Vec<Duration> = Vec::new();
    let mut changes = 0;
    for victim in &mut victims {
        let running = victim.start();
        victim.check(&running);
        starts.append(&mut victim.starts);
        for (at, written) in victim.written.iter().enumerate() {
            changes += written.acknowledged;
            let (name, key) = (&victim.name, format!("twin{at}"));
            let expected = written.acknowledged.to_string();
            eventually("the witness has the last change", || {
                written.acknowledged == 0
                    || witness.ask(&["get", name, &key]).out.trim_end() == expected
            });
        }
    }
    starts.sort();
    let (half, last) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    crate::faults::tools::figure(&format!(
        "{kills} kills, {changes} changes kept; start: p50 {half:?}, max {last:?}"
    ));
    assert!(last < START_MAX, "{last:?}");
    assert!(changes > kills as u64, "{changes} changes: they were killed before they did anything");
}

/// What a power cut leaves of a write is a part of it: that is no bad disk.
#[test]
fn a_write_that_was_cut_off_is_no_damage() {
    let place = Place4Nodes::new();
    let journal = place.path().join("data/cut/state.journal");
    let start = || {
        let mut command = place.run_command("cut", &[]);
        command.args(["--listen", "127.0.0.1:0", "--sync", "5s"]);
        place.spawn(command, "cut")
    };
    let node = start();
    node.told(&["set", "kept", "1"]);
    let kept = std::fs::read(&journal).unwrap().len();
    node.told(&["set", "cut", &"x".repeat(5000)]);
    node.kill();
    let whole = std::fs::read(&journal).unwrap();
    let zeroed = [&whole[..kept + 2000], &vec![0; whole.len() - kept - 2000]].concat();
    let zeros = [&whole[..kept], &[0; 4096]].concat();
    // What stood on the disk before, in blocks that were not written.
    let old = [&whole[..kept], &[0x5a; 300], &[0; 400], &[0xa5; 200]].concat();
    let mixed = [&whole[..kept + 10], &[0x5a; 3000]].concat();
    let ends = [&whole[..kept + 2000], &whole[..kept + 10], &zeroed, &zeros, &old, &mixed];
    for (at, bytes) in ends.into_iter().enumerate() {
        std::fs::write(&journal, bytes).unwrap();
        let node = start();
        assert_eq!(node.told(&["get", "cut", "kept"]), "1", "{at}");
        assert_eq!(node.ask(&["get", "cut", "cut"]).code, 1, "{at}");
        assert_eq!(node.degraded(), "[]", "{at}");
        let dropped = format!("{} bytes were dropped", bytes.len() - kept);
        eventually("the log says so", || node.log_text().contains(&dropped));
        let log = node.log_text();
        let line = log.lines().find(|line| line.contains(&dropped));
        assert!(line.is_some_and(|line| line.contains("INFO")), "{at}: {log}");
        let mut warnings = log.lines().filter(|line| line.contains("WARN "));
        let is_quiet = warnings.all(|line| !line.contains("journal"));
        assert!(!log.contains("damaged") && is_quiet, "{at}: {log}");
        assert!(!place.path().join("data/cut/state.damaged-1").exists(), "{at}");
        assert_eq!(std::fs::read(&journal).unwrap(), &whole[..kept], "{at}: it was cut off");
        node.told(&["set", "after", &at.to_string()]);
        node.kill();
        let again = start();
        assert_eq!(again.told(&["get", "cut", "after"]), at.to_string());
        again.kill();
    }
}

/// A first start, in the middle of which keys are made.
#[test]
fn kill_9_while_keys_are_made_leaves_a_node_that_starts() {
    let place = Place4Nodes::new();
    for round in 0..60_u64 {
        let folder = place.path().join(format!("r{round}"));
        std::fs::create_dir(&folder).unwrap();
        let run = || {
            let mut command = dsn();
            command.current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.args(["run", "--node-id", "new", "--listen", "127.0.0.1:0"]);
            command.spawn().unwrap()
        };
        let mut first = run();
        crate::faults::tools::let_pass(Duration::from_micros(round * 300));
        first.kill().unwrap();
        first.wait().unwrap();
        let mut second = Running { child: run(), control: folder.join("data/new/control.sock") };
        let mut line = String::new();
        BufReader::new(second.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "round {round}: {line:?}");
        assert!(ask(&second.control, &json!({ "op": "set", "entries": { "k": "v" } })).is_some());
    }
}

/// How strace shows the beginning of the answer to a change.
const ANSWER: &str = r#""{\"ok\":true"#;

/// The names that a line of strace makes, where they have to outlive a power cut: with all their
/// folders, from the folder of the process.
fn new_name(line: &str) -> Option<PathBuf> {
    let call = line.split_whitespace().nth(1)?;
    let is_new = ["mkdir", "link", "rename"].iter().any(|name| call.starts_with(name))
        || call.starts_with("openat(") && line.contains("O_CREAT");
    let name = line.rsplit('"').nth(1)?;
    // A lock, a socket, and a file that gets its own name later are made anew after a start.
    let passes = ["lock", ".sock", ".sock~", ".new"].iter().any(|end| name.ends_with(end));
    (is_new && !passes && !line.contains(" = -1 ")).then(|| name.into())
}

/// A file is only there after a power cut when the folder that holds its name was synced, too: for
/// keys, the journal, and the journal that was rewritten, before the change is acknowledged.
#[test]
fn each_new_name_is_synced_before_a_change_is_acknowledged() {
    if !has_strace() {
        return;
    }
    let place = Place4Nodes::new();
    let seen = place.path().join("strace");
    let mut command = place.run_command("s", &[]);
    command.args(["--listen", "127.0.0.1:0"]);
    // With a question mark: not every processor has these.
    let what = "trace=sendto,fsync,openat,?mkdir,mkdirat,?link,linkat,?rename,?renameat,renameat2";
    let node = place.spawn(under_strace(&command, &["-y", "-e", what], &seen), "s");
    let folder = place.path().canonicalize().unwrap();
    let check = || {
        let text = std::fs::read_to_string(&seen).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mut made = BTreeSet::new();
        for (at, line) in lines.iter().enumerate() {
            let Some(name) = new_name(line) else { continue };
            // Opened again, a file has its name already.
            if !made.insert(name.clone()) && line.contains("openat(") {
                continue;
            }
            let parent = folder.join(&name).parent().unwrap().to_owned();
            let sync = format!("<{}>", parent.display());
            let is_answer = |line: &str| line.contains(ANSWER);
            let is_sync = |line: &str| {
                line.contains(" fsync(") && line.contains(&sync) && !line.contains(" = -1 ")
            };
            let mut before_answer = lines[at..].iter().take_while(|line| !is_answer(line));
            let is_synced = before_answer.any(|line| is_sync(line));
            assert!(is_synced, "{} is not synced: {text}", name.display());
        }
        made
    };
    node.told(&["set", "k", "v"]);
    check();
    // Enough for the journal to be rewritten.
    for number in 0..4 {
        let value = format!("{number}").repeat(60_000);
        let said = run_with(&mut node.command(&["set", "large", "-"]), value.as_bytes());
        assert_eq!(said.code, 0, "{said:?}");
    }
    let made = check();
    let text = std::fs::read_to_string(&seen).unwrap();
    let is_rename = |line: &str| line.contains(" rename") && line.contains("state.journal.new");
    assert!(text.lines().any(is_rename), "it was rewritten");
    assert_eq!(text.matches(ANSWER).count(), 5, "each answer was seen");
    // The network key was there before.
    for name in
        ["credentials/s", "credentials/s/node.key", "data", "data/s", "data/s/state.journal"]
    {
        assert!(made.contains(Path::new(name)), "{name} is not among {made:?}");
    }
    node.kill();
}

/// What a process that was killed had not synced, the next one syncs before it says that it serves:
/// it counts from then on.
#[test]
fn a_start_syncs_what_is_there() {
    if !has_strace() {
        return;
    }
    let place = Place4Nodes::new();
    place.spawn_at("s", "127.0.0.1:0", &[]).kill();
    let seen = place.path().join("strace");
    let mut command = place.run_command("s", &[]);
    command.args(["--listen", "127.0.0.1:0"]);
    let node = place.spawn(under_strace(&command, &["-y", "-e", "trace=fsync,write"], &seen), "s");
    node.kill();
    let text = std::fs::read_to_string(&seen).unwrap();
    let before = text.split("\"listening on").next().unwrap();
    assert_ne!(before.len(), text.len(), "{text}");
    let folder = place.path().canonicalize().unwrap();
    for name in ["credentials", "credentials/s", "data/s", "data/s/state.journal"] {
        let synced = format!("<{}>", folder.join(name).display());
        let is_sync = |line: &str| line.contains(" fsync(") && line.contains(&synced);
        assert!(before.lines().any(is_sync), "{name} is not synced: {text}");
    }
}
