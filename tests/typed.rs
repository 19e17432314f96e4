//! What somebody meets who types something wrong, or whose streams, files and disks are not what a
//! command wants: it says so, names what was wrong, and leaves nothing half behind.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Place4Nodes;
use crate::support::process::{Process, Said, binary, dsn, run_with};

/// Ends with the test, also with one that fails.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command whose streams a shell sets up, as in `>&-`.
fn through_a_shell(command: &Command, streams: &str) -> Said {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {streams}")]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell.stdin(Stdio::null()).output().unwrap().into()
}

/// All that print, with what each prints.
const PRINTING: [&[&str]; 19] = [
    &["--help"],
    &["--version"],
    &["help", "set"],
    &["keygen", "--help"],
    &["keygen", "-"],
    &["status"],
    &["--json", "status"],
    &["metrics"],
    &["peers"],
    &["state"],
    &["state", "a"],
    &["get", "a", "k"],
    &["--json", "get", "--all", "k"],
    &["top", "--once"],
    &["watch", "--initial", "-n", "1"],
    &["recv"],
    &["key", "list"],
    &["--json", "set", "k", "never"],
    &["ping", "a"],
];

#[test]
fn an_answer_that_can_not_be_said_is_no_success() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "k", "v"]);
    for arguments in PRINTING {
        let said = through_a_shell(&node.command(arguments), ">&-");
        assert_eq!(said.code, 1, "{arguments:?}: {}", said.err);
        assert!(said.err.contains("stdout is closed"), "{arguments:?}: {}", said.err);
        // Nor is there anything to be seen of it where nothing can be said at all.
        assert_eq!(through_a_shell(&node.command(arguments), ">&- 2>&-").code, 1, "{arguments:?}");
    }
    assert_eq!(node.told(&["get", "a", "k"]), "v", "what can't be told is not done");
    let said = through_a_shell(&node.command(&["get", "a", "k"]), "1</dev/null");
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("open for reading alone"), "{}", said.err);
    let said = through_a_shell(&node.command(&["key", "reload"]), ">/dev/full");
    assert_eq!(said.code, 1);
    assert!(said.err.contains("it was done, but the answer can't be written"), "{}", said.err);
    // Those that say nothing need nobody who listens; one that has heard enough is no fault.
    for quiet in [&["set", "k", "w"][..], &["unset", "x"], &["wait", "key", "a", "k", "w"]] {
        assert_eq!(through_a_shell(&node.command(quiet), ">&- 2>&-").code, 0, "{quiet:?}");
    }
    assert_eq!(through_a_shell(&node.command(&["nonsense"]), ">&- 2>&-").code, 2);
    assert_eq!(through_a_shell(&node.command(&["status"]), ">/dev/null").code, 0);
}

#[test]
fn a_node_runs_without_streams() {
    let place = Place4Nodes::new();
    let mut run = place.run_command("a", &[]);
    run.args(["--alone", "--control", "a.sock"]);
    let line = format!("exec {} \"$@\" <&- >&- 2>log", binary().display());
    let mut shell = Command::new("sh");
    shell.current_dir(place.path()).env("DSN_LISTEN", "127.0.0.1:0");
    let mut node = Ends(shell.args(["-c", &line, "sh"]).args(run.get_args()).spawn().unwrap());
    let ask = |arguments: &[&str]| -> Said {
        let mut command = dsn();
        command.current_dir(place.path()).args(["--control", "a.sock"]).args(arguments);
        command.output().unwrap().into()
    };
    crate::support::eventually("it serves", || ask(&["status", "--check"]).code == 0);
    crate::support::eventually("it says that it serves without them", || {
        let log = std::fs::read_to_string(place.path().join("log")).unwrap();
        log.contains("could not be printed, and the node serves")
    });
    assert_eq!(ask(&["stop"]).code, 0);
    assert!(node.0.wait().unwrap().success());
}

/// An empty value is one, and nobody asked for it.
#[test]
fn stdin_that_is_not_there_is_no_value() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    std::fs::write(place.path().join("file"), "").unwrap();
    for (streams, why) in [("<&-", "it is closed"), ("0>file", "open for writing alone")] {
        for arguments in [
            &["set", "k", "-"][..],
            &["set", "--from", "-"],
            &["send", "a", "-"],
            &["key", "add", "-"],
        ] {
            let mut command = node.command(arguments);
            let said = through_a_shell(command.current_dir(place.path()), streams);
            assert_eq!(said.code, 2, "{arguments:?} {streams}: {}", said.err);
            assert!(said.err.contains(why), "{arguments:?}: {}", said.err);
        }
    }
    // By its path it is the same one.
    for arguments in [
        &["set", "--from", "/dev/stdin"][..],
        &["run", "-i", "b", "--config", "/dev/stdin"],
        &["run", "-i", "b", "--config", "/proc/self/fd/0"],
    ] {
        let said = through_a_shell(&node.command(arguments), "<&-");
        assert_eq!(said.code, 2, "{arguments:?}: {}", said.err);
        assert!(said.err.contains("it is closed. Give the bytes"), "{arguments:?}: {}", said.err);
    }
    // A folder is none either, and what the system refuses is no wrong usage.
    let said = through_a_shell(&node.command(&["set", "k", "-"]), "<.");
    assert!(said.code == 2 && said.err.contains("stdin is a folder"), "{}", said.err);
    assert_eq!(node.ask(&["get", "a", "k"]).code, 1);
    assert_eq!(run_with(&mut node.command(&["set", "k", "-"]), b"").code, 0, "that is empty");
}

/// The option or variable, what stood there, what would be taken, and an example.
#[test]
fn numbers_and_durations_that_are_none_are_told_in_our_words() {
    let place = Place4Nodes::new();
    let rows: [(&[&str], &str); 22] = [
        (&["-t", "-5s", "status"], "--timeout: \"-5s\" is negative; it takes 0s to 365d, such as"),
        (&["-t", "5", "status"], "--timeout: \"5\" has no unit; it takes"),
        (&["-t", "", "status"], "--timeout: \"\" is empty; it takes"),
        (&["-t", "99999999999999999999d", "status"], "is too long; it takes"),
        (&["-t", "-j", "status"], "\"-j\" is an option, and a value is expected there"),
        (&["set", "--ttl", "31d", "a", "b"], "--ttl: \"31d\" is too long; it takes 1s to 30d,"),
        (&["set", "--ttl", "-1s", "a", "b"], "--ttl: \"-1s\" is negative; it takes 1s to 30d,"),
        (&["set", "--ttl", "0.5s", "a", "b"], "--ttl: \"0.5s\" is too short; it takes 1s"),
        (&["watch", "-n", "-1"], "--count: \"-1\" is negative; it takes 1 or more, such as 3"),
        (&["watch", "-n", "0"], "--count: \"0\" is too small; it takes 1 or more"),
        (&["recv", "-n", "1.5"], "--count: \"1.5\" is not a whole number in digits"),
        (&["recv", "-n", "5s"], "--count: \"5s\" is not a whole number in digits"),
        (&["recv", "-n", "\u{663}"], "is not a whole number in digits"),
        (&["watch", "-n", "99999999999999999999"], "is too large; it takes 1 or more"),
        (&["wait", "peers", "-1"], "N: \"-1\" is negative; it takes"),
        (&["wait", "synced", ""], "N: \"\" is empty; it takes"),
        (&["on", "--jobs", "65", "--", "true"], "--jobs: \"65\" is too large; it takes 1 to 64,"),
        (&["on", "-r", "x", "--", "true"], "--retry: \"x\" is not a whole number in digits"),
        (&["run", "--tick", "-1s"], "--tick: \"-1s\" is negative"),
        (&["run", "--listen", "70000"], "--listen: \"70000\" is not an address to listen on: the"),
        (&["run", "--http", "[::1]:70000"], "the port is a number from 0 to 65535"),
        (&["run", "--tick", "soon"], "--tick: \"soon\" is not a duration from 100ms to 60s"),
    ];
    for (arguments, told) in rows {
        let mut command = dsn();
        let said = run_with(command.current_dir(place.path()).args(arguments), b"");
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?}");
        assert!(said.err.contains(told) && said.err.starts_with("dsn: "), "{}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
}

#[test]
fn what_came_from_a_variable_or_a_file_is_named_so() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place4Nodes::new();
    let run = |variable: (&str, &[u8]), arguments: &[&str]| -> Said {
        let mut command = dsn();
        command.current_dir(place.path()).arg("run").args(arguments);
        command.env(variable.0, std::ffi::OsStr::from_bytes(variable.1));
        run_with(&mut command, b"")
    };
    for (name, value) in [
        ("DSN_TICK", &b"x"[..]),
        ("DSN_SYNC", b"1"),
        ("DSN_LISTEN", b"70000"),
        ("DSN_HTTP", b"x"),
        ("DSN_HTTP_TOKEN", b"x"),
        ("DSN_BOOTSTRAP", b"x"),
        ("DSN_ADVERTISE", b"x:0"),
        ("DSN_CONTROL_GROUP", b"no such group"),
        ("DSN_NODE_ID", b"a b"),
        ("DSN_NODE_ID", b"\xff"),
        ("DSN_DATA", b"none"),
        ("DSN_ALONE", b"flase"),
        ("DSN_DISCOVER", b"\xff"),
        ("DSN_CONFIG", b"/none"),
    ] {
        let said = run((name, value), &[]);
        assert_eq!(said.code, 2, "{name}: {}", said.err);
        assert!(said.err.starts_with(&format!("dsn: {name}: ")), "{}", said.err);
    }
    std::fs::write(place.path().join("a-file"), "").unwrap();
    for (name, value) in [
        ("DSN_ALLOW", "none/of"),
        ("DSN_CREDENTIALS", "a-file"),
        ("DSN_DATA", "a-file"),
        ("DSN_CONTROL", "a-file"),
    ] {
        let said = run((name, value.as_bytes()), &[]);
        assert!(said.err.contains(&format!("It was given by {name}\n")), "{name}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
    // What is typed counts, and is to blame.
    let said = run(("DSN_TICK", b"3s"), &["--tick", "x"]);
    assert!(said.err.starts_with("dsn: --tick: "), "{}", said.err);
    std::fs::write(place.path().join("c"), "# mine\n\n\"sync\" = \"x\"\ntick = \"3s\"\n").unwrap();
    let said = run(("DSN_CONFIG", b"c"), &[]);
    assert!(said.err.starts_with("dsn: c, line 3: sync: \"x\" is neither"), "{}", said.err);
    // Of a folder and what is in it the latter is to blame, and it was typed.
    std::fs::write(place.path().join("c"), "data = \"e\"\n").unwrap();
    let arguments = ["--config", "c", "--credentials", "e/keys", "--bootstrap", "127.0.0.1:1"];
    let said = run(("DSN_TICK", b"3s"), &arguments);
    assert!(said.err.contains("e/keys/network.key"), "{}", said.err);
    assert!(!said.err.contains("It was given by"), "{}", said.err);
    std::fs::write(place.path().join("c"), "alone = true\nallow = \"none/of\"\n").unwrap();
    let said = run(("DSN_CONFIG", b"c"), &[]);
    assert!(said.err.contains("none/of") && said.err.contains("c, line 2: allow"), "{}", said.err);
    for wrong in ["tick = 5\n", "tick = 5s\n"] {
        std::fs::write(place.path().join("c"), wrong).unwrap();
        let said = run(("DSN_CONFIG", b"c"), &[]);
        assert!(said.err.contains("line 1") && said.err.contains("tick = \"3s\""), "{}", said.err);
    }
}

#[test]
fn a_word_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let word = std::ffi::OsStr::from_bytes(b"\xff\x1b[2J");
    for (arguments, place) in
        [(&["get"][..], "NODE"), (&["wait", "node"], "NODE"), (&["watch", "--key"], "--key")]
    {
        let said: Said = dsn().args(arguments).args([word, word]).output().unwrap().into();
        assert_eq!(said.code, 2);
        assert!(said.err.contains(&format!("dsn: {place}: \"")), "{}", said.err);
        assert!(said.err.contains("is not UTF-8") && !said.err.contains('\x1b'), "{}", said.err);
    }
}

/// A pipe without a writer, a socket and a folder: nobody waits for them.
#[test]
fn whatever_stands_where_a_file_is_named_nobody_waits_for_ever() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let pipe = place.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = |arguments: &[&str]| -> (Said, Duration) {
        let began = Instant::now();
        let mut command = dsn();
        command.current_dir(place.path()).args(["run", "-i", "b"]).args(arguments);
        (run_with(&mut command, b""), began.elapsed())
    };
    // No device: with the defence taken out, root would move that of the host away.
    for what in [".", "pipe", "data/a/control.sock"] {
        for option in ["--config", "--network-key", "--allow"] {
            let (said, time) = run(&[option, what]);
            assert_eq!(said.code, 2, "{option} {what}: {}", said.err);
            assert!(said.err.contains(what) && time < crate::support::PATIENCE, "{}", said.err);
        }
        let said = node.command(&["set", "--from", what]).current_dir(place.path()).output();
        assert_eq!(said.unwrap().status.code(), Some(2), "{what}");
    }
    // Where a node keeps what is its own, too.
    for name in ["credentials/c/known_peers", "data/c/lock", "data/c/state.journal"] {
        let path = place.path().join(name);
        let _ = std::fs::remove_dir_all(place.path().join("data/c"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut command = dsn();
        command.current_dir(place.path()).args(["run", "-i", "c"]);
        let said = run_with(&mut command, b"");
        assert!(said.code == 1 && said.err.contains(name), "{name}: {}", said.err);
        std::fs::remove_file(&path).unwrap();
    }
    // What a shell writes into one is taken.
    let mut command = node.command(&["set", "--from"]);
    let said = through_a_shell(
        command.arg(&pipe).current_dir(place.path()),
        "& \
        printf '{\"piped\": \"1\"}' >pipe; wait $!",
    );
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(node.told(&["get", "a", "piped"]), "1");
}

/// A limit of the size of files stands for a disk that is full from the first byte on.
#[test]
fn what_can_not_be_written_leaves_nothing_behind() {
    let place = Place4Nodes::new();
    let limited = |arguments: &[&str]| -> Said {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -f 0; exec \"$0\" \"$@\" 2>&1 | cat"]).arg(binary());
        shell.env("DSN_LISTEN", "127.0.0.1:0");
        shell.current_dir(place.path()).args(arguments).output().unwrap().into()
    };
    let there = || {
        let list = Command::new("find").arg(place.path()).arg("-mindepth").arg("1").output();
        String::from_utf8(list.unwrap().stdout).unwrap()
    };
    let before = there();
    let said = limited(&["keygen", "new/deep/net.key"]);
    assert!(said.out.contains("net.key") && said.out.contains("ulimit -f"), "{}", said.out);
    assert_eq!(there(), before);
    std::fs::create_dir(place.path().join("mine")).unwrap();
    let said = limited(&["keygen", "mine/net.key"]);
    assert!(said.out.contains("ulimit -f"), "{}", said.out);
    let with_mine = there();
    assert!(with_mine.contains("mine") && !with_mine.contains("net.key"), "{with_mine}");
    let said = limited(&[
        "run",
        "-i",
        "a",
        "--credentials",
        "keys/of",
        "--data",
        "none",
        "--control",
        "s",
    ]);
    assert!(said.out.contains("ulimit -f"), "{}", said.out);
    assert_eq!(there(), with_mine);
}

/// Nobody knows which of two values was meant: the socket and the command say so, and set nothing.
#[test]
fn a_key_that_is_there_twice_is_refused_everywhere() {
    use std::io::{BufRead, BufReader, Write};
    let place = Place4Nodes::new();
    let node: Process = place.spawn_at("a", "127.0.0.1:0", &[]);
    let said = node.ask(&["set", "a=1", "b=2", "a=3"]);
    assert!(said.code == 2 && said.err.contains("\"a\" is given twice"), "{}", said.err);
    let said = run_with(&mut node.command(&["set", "--from", "-"]), br#"{"a": "1", "a": "2"}"#);
    assert!(said.code == 2 && said.err.contains("\"a\" is there twice"), "{}", said.err);
    let mut socket = std::os::unix::net::UnixStream::connect(&node.control).unwrap();
    for line in [
        r#"{"op": "set", "entries": {"a": "1", "a": "2"}}"#,
        r#"{"op": "set", "entries": {"a": {"base64": "AA==", "base64": "AQ=="}}}"#,
        r#"{"op": "set", "op": "unset", "entries": {"a": "1"}, "keys": ["k"]}"#,
    ] {
        writeln!(socket, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(&socket).read_line(&mut answer).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["kind"], "usage", "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("is there twice"), "{answer}");
    }
    assert_eq!(node.told(&["state", "a"]), "");
}

#[test]
fn a_slip_is_told_with_what_was_meant() {
    let place = Place4Nodes::new();
    let long = "n".repeat(65);
    let rows: [(&[&str], &str); 19] = [
        (
            &["set", "t", "=5"],
            "\"t\" has a blank before its =: KEY=VALUE has none, so it is \"t=5\"",
        ),
        (&["set", "t=", "5"], "\"t=\" has a blank behind its ="),
        (&["set", "=5"], "\"=5\" has no key before its ="),
        (&["unset", "t=5"], "KEY: \"t=5\" has a =, and no key has one. Name the key alone: \"t\""),
        (&["get", "self", "t=5"], "KEY: \"t=5\" has a ="),
        (&["get", "--all", "t=5"], "KEY: \"t=5\" has a ="),
        (&["get", "self", "-p", "t="], "--prefix: \"t=\" has a ="),
        (&["wait", "key", "self", "t=5"], "a value, where one goes, is a word of its own"),
        (&["watch", "-k", "t=5"], "--key: \"t=5\" has a ="),
        (&["on", "-k", "t=5", "--", "true"], "--key: \"t=5\" has a ="),
        (&["set", "t", "=", "5"], "\"t\" has a blank before its =: KEY=VALUE has none"),
        (&["set", "=", "5", "6"], "= stands alone"),
        (&["set", "a", "b", "--json"], "options come first"),
        (&["get", "t"], "\"t\" stands where a node is named (`self`"),
        (&["run", "--listen", "10.0.0.1"], "the port is missing, such as 10.0.0.1:8000"),
        (&["run", "--node-id", &long], "has more than 64 characters"),
        (&["kegen"], "did you mean keygen?"),
        (&["set"], "KEY=VALUE is missing; see dsn set --help"),
        (&["unset", "-5"], "put -- before it"),
    ];
    for (arguments, told) in rows {
        let mut command = dsn();
        let said = run_with(command.current_dir(place.path()).args(arguments), b"");
        assert_eq!(said.code, 2, "{arguments:?}: {}", said.err);
        assert!(said.err.contains(told), "{arguments:?}: {}", said.err);
    }
    for (name, told) in [("DSN_DATA", "/none (DSN_DATA)"), ("DSN_CONTROL", "none (DSN_CONTROL)")] {
        let mut command = dsn();
        let command = command.current_dir(place.path()).env(name, "none").arg("status");
        let said = run_with(command, b"");
        assert_eq!(said.code, 3, "{}", said.err);
        assert!(said.err.contains(told), "{}", said.err);
    }
}
