//! `dsn on`: commands for changes, with real nodes that stop, die and come back.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value as Json;

use crate::support::process::{Process, Said, run_with, wait_for};
use crate::support::{PATIENCE, Place4Nodes, eventually};

/// Appends what it was told to the file `told`, a line for each run.
const TELL: &str = r#"printf '%s %s %s=%s (%s)\n' "$DSN_EVENT" "$DSN_NODE" "${DSN_KEY-}" "${DSN_VALUE-gone}" "${DSN_OLD-none}" >>told"#;

/// A `dsn on` that runs in the folder of its nodes.
struct Hook {
    child: Child,
    folder: PathBuf,
    log: PathBuf,
}

impl Hook {
    /// With a script for `sh`; waits until all that is there was read.
    fn of(place: &Place4Nodes, node: &Process, options: &[&str], script: &str) -> Self {
        let mut command = node.command(&["on"]);
        command.args(options).args(["--", "sh", "-c", script]);
        let hook = Self::start(place, command);
        hook.awaits("all that is there was read");
        hook
    }

    fn start(place: &Place4Nodes, mut command: Command) -> Self {
        let log = tempfile::Builder::new().tempfile_in(place.path()).unwrap();
        let log = log.into_temp_path().keep().unwrap();
        let stderr = std::fs::File::create(&log).unwrap();
        command.current_dir(place.path()).env("RUST_LOG", "debug").stderr(stderr);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self { child, folder: place.path().to_owned(), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn awaits(&self, text: &str) {
        eventually(&format!("the log says {text}"), || self.log().contains(text));
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).unwrap_or_default()
    }

    fn told(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.file("told")).lines().map(str::to_owned).collect()
    }

    /// Waits until so many were told; gives all.
    fn tells(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} are told"), || self.told().len() >= count);
        self.told()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code, when it has ended.
    fn end(&mut self) -> Option<i32> {
        wait_for(&mut self.child)
    }

    /// The process whose id a command wrote there.
    fn process(&self, file: &str) -> Pid {
        eventually("the id of a process is there", || self.file(file).ends_with(b"\n"));
        let text = String::from_utf8(self.file(file)).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // What runs is ended, too, as it is told twice.
        for _ in 0..2 {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Ended, and perhaps not yet taken notice of by whoever is its parent now.
fn is_gone(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    let is_dead = |text: String| text.rsplit(") ").next().unwrap().starts_with('Z');
    test_kill_process(process).is_err() || stat.map_or(true, is_dead)
}

#[test]
fn each_change_is_handed_on_with_what_was_before_it() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "k=0", "other=1"]);
    let script = format!("cat >event; {TELL}");
    let mut hook = Hook::of(&place, &node, &["self", "--key", "k"], &script);
    for (number, change) in [["set", "k=1"], ["set", "k=2"], ["unset", "k"]].iter().enumerate() {
        node.told(change);
        // What was there at the start, what is not meant, and what is only restated.
        node.told(&["set", "other=2"]);
        hook.tells(number + 1);
    }
    let changes = ["a k=1 (0)", "a k=2 (1)", "a k=gone (2)"].map(|it| format!("updated {it}"));
    assert_eq!(hook.told(), changes);
    let event: Json = serde_json::from_slice(&hook.file("event")).unwrap();
    let fields: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["event", "key", "node_id", "old", "time", "timestamp", "value"]);
    assert_eq!((&event["value"], &event["old"]), (&Json::Null, &"2".into()));
    hook.signal(Signal::TERM);
    assert_eq!(hook.end(), Some(0), "{}", hook.log());
}

#[test]
fn the_start_is_handed_on_where_that_is_asked_for() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "k=0", "l=1"]);
    let hook = Hook::of(&place, &node, &["--initial", "--jobs", "1"], TELL);
    assert_eq!(hook.tells(2), ["updated a k=0 (none)", "updated a l=1 (none)"]);
    node.told(&["set", "l=2"]);
    assert_eq!(hook.tells(3)[2], "updated a l=2 (1)");
}

/// No shell but the one that was asked for sees a value, and that one only as it wants to.
#[test]
fn hostile_values_stay_bytes() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let script = "env -0 >env.new; cat >event.new; mv env.new env; mv event.new event";
    let hook = Hook::of(&place, &node, &[], script);
    let long = "$(touch pwned)`touch pwned`'\"\\\n;touch pwned #\u{202e}\u{1b}[2J".repeat(1200);
    let values: [&[u8]; 6] = [
        b"$(touch pwned)",
        b"-e\nDSN_OLD=forged",
        &[0xff, 0xfe, b'x'],
        b"a\0b",
        &long.as_bytes()[..60_000],
        &[0; 65_536],
    ];
    for bytes in values {
        let said = run_with(&mut node.command(&["set", "k", "-"]), bytes);
        assert_eq!(said.code, 0, "{said:?}");
        let json = dsn::control::bytes_to_json(bytes);
        eventually("the value is handed on", || {
            let event: Result<Json, _> = serde_json::from_slice(&hook.file("event"));
            event.is_ok_and(|event| event["value"] == json)
        });
        let variable = |name: &str| {
            let file = hook.file("env");
            let is_it = |line: &&[u8]| line.starts_with(format!("{name}=").as_bytes());
            file.split(|byte| *byte == 0).find(is_it).map(|line| line[name.len() + 1..].to_vec())
        };
        let base64 = bytes.contains(&0).then(|| dsn::control::bytes_to_base64(bytes).into_bytes());
        assert_eq!(variable("DSN_VALUE_BASE64"), base64);
        assert_eq!(variable("DSN_VALUE").as_deref(), Some(bytes).filter(|it| !it.contains(&0)));
    }
    assert!(!place.path().join("pwned").exists());
    assert!(!hook.log().contains("failed"), "{}", hook.log());
}

#[test]
fn a_command_that_reads_nothing_is_no_failure() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let hook = Hook::of(&place, &node, &["--key", "k"], &format!("exec <&-; {TELL}"));
    let mut waits = Hook::of(&place, &node, &["--key", "w"], "echo $$ >w; exec sleep 1000");
    for key in ["k", "w"] {
        // More than a pipe holds, as JSON.
        let said = run_with(&mut node.command(&["set", key, "-"]), &[0x81; 65_536]);
        assert_eq!(said.code, 0);
    }
    hook.tells(1);
    let sleeper = waits.process("w");
    waits.signal(Signal::TERM);
    waits.signal(Signal::TERM);
    assert_eq!(waits.end(), Some(0));
    assert!(is_gone(sleeper), "nothing is left behind");
    assert!(!hook.log().contains("failed"), "{}", hook.log());
}

#[test]
fn the_newest_value_wins_and_a_slow_command_delays_no_other_key() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let script = format!("[ $DSN_KEY != slow ] || until [ -e go ]; do sleep 0.02; done; {TELL}");
    let hook = Hook::of(&place, &node, &["--jobs", "2"], &script);
    for number in 1..20 {
        node.told(&["set", &format!("slow={number}"), &format!("quick={number}")]);
        assert_eq!(hook.tells(number).len(), number, "{:?}", hook.told());
    }
    let is_quick = |line: &String| line.starts_with("updated a quick=");
    assert!(hook.told().iter().all(is_quick), "{:?}", hook.told());
    std::fs::write(place.path().join("go"), "").unwrap();
    let slow: Vec<String> = hook.tells(21).into_iter().filter(|line| !is_quick(line)).collect();
    assert_eq!(slow, ["updated a slow=1 (none)", "updated a slow=19 (1)"]);
}

/// While the node was dead another one changed: that, and nothing else, is handed on.
#[test]
fn what_changed_while_the_node_was_dead_is_handed_on_once() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    b.told(&["set", "same=1", "changed=1", "gone=1"]);
    a.told(&["set", "own=1"]);
    a.told(&["-t", "60s", "wait", "key", "b", "gone"]);
    let hook = Hook::of(&place, &a, &["--event", "updated", "--jobs", "1"], TELL);
    let address = a.address.clone();
    a.kill();
    hook.awaits("waiting for it");
    b.told(&["set", "changed=2"]);
    b.told(&["unset", "gone"]);
    let a = place.spawn_at("a", &address, &[&b.address]);
    let mut told = hook.tells(2);
    told.sort();
    assert_eq!(told, ["updated b changed=2 (1)", "updated b gone=gone (1)"]);
    assert_eq!(hook.log().matches("waiting for it").count(), 1, "{}", hook.log());
    // It goes on as before.
    b.told(&["set", "same=2"]);
    assert_eq!(hook.tells(3)[2], "updated b same=2 (1)");
    drop(a);
}

#[test]
fn a_node_that_is_lost_and_comes_back_is_told_each_time() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    a.told(&["-t", "60s", "wait", "node", "b", "alive"]);
    let hook = Hook::of(&place, &a, &["b", "--event", "joined,lost"], TELL);
    b.kill();
    assert_eq!(hook.tells(1), ["lost b =gone (none)"]);
    let _b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    assert_eq!(hook.tells(2)[1], "joined b =gone (none)");
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_that_it_started() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    // Neither hears the first signal.
    let script = "trap '' TERM; sleep 1000 & echo $! >inner; echo $$ >outer; wait; sleep 1000";
    let hook = Hook::of(&place, &node, &["--timeout", "200ms"], script);
    node.told(&["set", "k=1"]);
    let processes = [hook.process("inner"), hook.process("outer")];
    hook.awaits("not done within 200ms");
    eventually("all of it is ended", || processes.iter().all(|it| is_gone(*it)));
}

/// What a command leaves running is ended with it; what went out of its group does not hold it up.
#[test]
fn what_a_command_leaves_behind_holds_nothing_up() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let script = format!(
        "{TELL}; [ $DSN_VALUE = 1 ] || exit 0; sleep 1000 & echo $! >left; \
         setsid sh -c 'echo $$ >away; exec sleep 1000' & until [ -s away ]; do sleep 0.02; done"
    );
    let hook = Hook::of(&place, &node, &[], &script);
    node.told(&["set", "k=1"]);
    let (left, away) = (hook.process("left"), hook.process("away"));
    node.told(&["set", "k=2"]);
    assert_eq!(hook.tells(2)[1], "updated a k=2 (1)");
    eventually("what it left is ended", || is_gone(left));
    assert!(!is_gone(away), "what made itself free is not ours");
    kill_process(away, Signal::KILL).unwrap();
}

#[test]
fn a_command_that_fails_is_tried_again_and_a_newer_value_takes_its_place() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let hook =
        Hook::of(&place, &node, &["--retry", "20"], &format!("{TELL}; [ -e good ] || exit 3"));
    node.told(&["set", "k=1"]);
    hook.awaits("a k: the command for `updated` failed: exit code 3; it is tried again in 1 s (1)");
    assert_eq!(hook.tells(2)[1], "updated a k=1 (none)", "the same again");
    hook.awaits("(2)");
    node.told(&["set", "k=2"]);
    assert_eq!(hook.tells(3)[2], "updated a k=2 (1)", "at once, and not the old one again");
    std::fs::write(place.path().join("good"), "").unwrap();
    assert_eq!(hook.tells(4)[3], "updated a k=2 (1)");
    node.told(&["set", "k=3"]);
    assert_eq!(hook.tells(5)[4..], ["updated a k=3 (2)"]);
}

#[test]
fn what_a_command_prints_is_logged_line_by_line() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let script = r#"printf 'one\n\033[2Jtwo\r\n'; head -c 5000 /dev/zero | tr '\0' x; echo; printf last >&2"#;
    let hook = Hook::of(&place, &node, &[], script);
    node.told(&["set", "k e y=1"]);
    for text in ["a k e y: one\n", "a k e y: \\u{1b}[2Jtwo\n", "a k e y: last\n"] {
        hook.awaits(text);
    }
    hook.awaits(&format!("a k e y: {}…\n", "x".repeat(1024)));
    assert!(!hook.log().contains(&"x".repeat(1025)));
}

#[test]
fn what_runs_may_end_when_all_is_to_stop() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let script = "echo $$ >begun; until [ -e go ]; do sleep 0.02; done; echo done >>told";
    let mut hook = Hook::of(&place, &node, &[], script);
    node.told(&["set", "k=1"]);
    hook.process("begun");
    hook.signal(Signal::TERM);
    hook.awaits("waiting for them");
    std::fs::write(place.path().join("go"), "").unwrap();
    assert_eq!((hook.end(), hook.told()), (Some(0), vec!["done".to_owned()]));
    // The other is told to end when the time is over, and made to when it does not hear.
    std::fs::remove_file(place.path().join("go")).unwrap();
    std::fs::remove_file(place.path().join("begun")).unwrap();
    let mut hook = Hook::of(&place, &node, &["--initial"], &format!("trap '' TERM; {script}"));
    let process = hook.process("begun");
    hook.signal(Signal::INT);
    assert_eq!(hook.end(), Some(0));
    assert!(is_gone(process), "nothing is left behind");
    assert!(hook.log().contains("ended, as `dsn on` stops"), "{}", hook.log());
}

#[test]
fn a_node_that_is_not_there_yet_is_waited_for() {
    let place = Place4Nodes::new();
    let mut command = crate::support::process::dsn();
    command.args(["on", "--key", "k", "--", "sh", "-c", TELL]);
    let hook = Hook::start(&place, command);
    hook.awaits("waiting for it");
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    hook.awaits("all that is there was read");
    assert_eq!(hook.log().matches("waiting for it").count(), 1, "{}", hook.log());
    // One beside it is another node, also while this one is away.
    let other = place.spawn_at("b", "127.0.0.1:0", &[]);
    node.kill();
    other.told(&["set", "k=b"]);
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "k=a"]);
    assert_eq!(hook.tells(1), ["updated a k=a (none)"]);
}

#[test]
fn what_can_not_work_is_said_at_once() {
    let place = Place4Nodes::new();
    let say = |arguments: &[&str]| -> Said {
        let mut command = crate::support::process::dsn();
        command.current_dir(place.path()).args(arguments).output().unwrap().into()
    };
    for (arguments, why) in [
        (&["on", "--", "no-such-command"][..], "no-such-command can't be run"),
        (&["on", "--", "./credentials"], "directory"),
        (&["on", "--", "credentials/network.key"], "chmod +x credentials/network.key"),
        (&["on", "--", ""], "\"\" can't be run"),
        (&["--timeout", "0s", "on", "--", "true"], "needs some time"),
        (&["on", "a"], "COMMAND"),
        (&["on", "--event", "data", "--", "true"], "data"),
        (&["on", "--jobs", "0", "--", "true"], "jobs"),
        (&["--json", "on", "--", "true"], "--json"),
        (&["--control", "credentials/network.key", "on", "--", "true"], "is no socket"),
        (&["on", "Not A Node", "--", "true"], "Not A Node"),
    ] {
        let said = say(arguments);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(why), "{arguments:?}: {}", said.err);
        assert!(!said.err.contains("waiting"), "{arguments:?}: {}", said.err);
    }
}

/// From the event at a reader beside it to the first word of the command, which is a shell:
/// `cargo test --test suite hooks:: -- --ignored --nocapture`
#[test]
#[ignore = "figures, for a quiet host"]
fn how_long_a_change_takes_to_its_command() {
    use dsn::control::ControlClient;
    use serde_json::json;
    use std::io::BufRead;
    use std::time::Instant;
    const CHANGES: usize = 300;
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let made = Command::new("mkfifo").arg(place.path().join("fifo")).status().unwrap();
    assert!(made.success());
    let _hook = Hook::of(&place, &node, &[], "echo >fifo");
    let open = |writes: bool| {
        let mut options = std::fs::File::options();
        options.read(true).write(writes).open(place.path().join("fifo")).unwrap()
    };
    // One that writes, too, so that there is no end between two commands.
    let mut began = std::io::BufReader::new(open(true));
    let mut reader = ControlClient::connect(&node.control, PATIENCE).unwrap();
    reader.ask(&json!({ "op": "watch" })).unwrap();
    reader.next_result(None).unwrap();
    let mut setter = ControlClient::connect(&node.control, PATIENCE).unwrap();
    let mut times = Vec::new();
    for number in 0..CHANGES {
        setter.ask(&json!({ "op": "set", "entries": { "k": number.to_string() } })).unwrap();
        reader.next_result(None).unwrap();
        let at = Instant::now();
        began.read_line(&mut String::new()).unwrap();
        times.push(at.elapsed().as_secs_f64() * 1000.0);
        setter.next_result(None).unwrap();
    }
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[CHANGES * share / 100];
    println!(
        "from the event to the first word of the command: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms",
        at(50),
        at(90),
        at(99)
    );
}
