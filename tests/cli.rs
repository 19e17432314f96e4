//! The command line: what each command prints, and what it says when something is wrong.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Place4Nodes;
use crate::support::process::{Said, dsn, run_with};

/// A command in a folder; the service of this host, if it has one, is not meant.
fn say(arguments: &[&str], folder: &std::path::Path) -> Said {
    let mut command = dsn();
    command.current_dir(folder).env("DSN_DATA", "data").args(arguments).output().unwrap().into()
}

#[test]
fn help_and_version_go_to_stdout() {
    let place = Place4Nodes::new();
    for arguments in [&["--help"][..], &["help"], &["run", "--help"], &["set", "--help"]] {
        let said = say(arguments, place.path());
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}");
        assert!(said.out.contains("Usage"), "{}", said.out);
    }
    let said = say(&["--version"], place.path());
    assert!(said.out.starts_with(&format!("dsn {}", env!("CARGO_PKG_VERSION"))), "{}", said.out);
    if let Some(commit) = option_env!("DSN_COMMIT") {
        assert_eq!(said.out.trim(), format!("dsn {commit}"));
    }
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    let place = Place4Nodes::new();
    let cases: [(&[&str], &str); 16] = [
        (&[], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["get", "a"], "KEY"),
        (&["set"], "KEY=VALUE is missing"),
        (&["set", "a"], "KEY=VALUE"),
        (&["set", "a=1", "a=2"], "twice"),
        (&["set", "a", "b", "c"], "KEY=VALUE"),
        (&["wait", "peers", "many"], "many"),
        (&["--timeout", "soon", "status"], "soon"),
        (&["run", "--node-id", "../x"], "../x"),
        (&["run", "--node-id", "a", "--listen", "nowhere"], "nowhere"),
        (&["run", "--node-id", "a", "--bootstrap", "host"], "host"),
        (&["run", "--node-id", "a", "--tick", "1ms"], "100ms"),
        (&["run", "--node-id", "a", "--advertise", "x:0"], "advertise"),
        (&["run", "--node-id", "a", "--config", "none.toml"], "none.toml"),
        (&["run", "extra"], "extra"),
    ];
    for (arguments, names) in cases {
        let said = say(arguments, place.path());
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?}");
        assert!(said.err.contains(names), "{arguments:?} says {:?}", said.err);
    }
}

/// A variable that is not set in a script: nobody should wait for what can't be.
#[test]
fn a_key_that_can_not_be_is_wrong_usage() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let long = "x".repeat(257);
    for key in ["", "a=b", &long] {
        for arguments in [&["get", "a"][..], &["get", "--all"], &["wait", "key", "a"]] {
            let said = node.ask(&[arguments, &[key]].concat());
            assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?} {key:?}");
            assert!(said.err.contains("key"), "{}", said.err);
        }
    }
    let said = node.ask(&["metrics", "--output", ""]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("\"\" is no name of a file"), "{}", said.err);
}

#[test]
fn help_that_nobody_got_is_no_success() {
    for arguments in [&["--help"][..], &["--version"], &["get", "--help"]] {
        let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
        let said: Said = dsn().args(arguments).stdout(full()).output().unwrap().into();
        assert_eq!(said.code, 1, "{arguments:?}");
        assert!(said.err.contains("can't be written"), "{}", said.err);
        // Wrong usage stays that.
        assert_eq!(dsn().arg("nonsense").stderr(full()).output().unwrap().status.code(), Some(2));
    }
}

#[test]
fn without_a_node_it_is_3_and_says_how_to_start_one() {
    let place = Place4Nodes::new();
    // Where a folder or a node is named, that of the service of this host is not meant.
    for (name, value) in [("DSN_DATA", "data"), ("DSN_NODE_ID", "a")] {
        let mut command = dsn();
        command.current_dir(place.path()).arg("status").env(name, value);
        let said = run_with(&mut command, b"");
        assert_eq!(said.code, 3);
        assert!(said.err.contains("dsn run"), "{}", said.err);
    }
    let said = say(&["--control", "nowhere.sock", "get", "a", "b"], place.path());
    assert_eq!(said.code, 3);
    assert!(said.err.contains("nowhere.sock"), "{}", said.err);
}

#[test]
fn a_dead_node_leaves_a_socket_that_is_told_from_a_living_one() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let control = node.control.clone();
    node.kill();
    assert!(control.exists(), "kill -9 leaves it");
    let said = say(&["status"], place.path());
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("dsn run"), "{}", said.err);
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    assert_eq!(say(&["get", "a", "x"], place.path()).code, 1);
    drop(node);
}

#[test]
fn with_several_nodes_under_one_folder_it_lists_them() {
    let place = Place4Nodes::new();
    let a = place.spawn_at("a", "127.0.0.1:0", &[]);
    assert_eq!(say(&["status"], place.path()).code, 0, "the only one is found");
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    let said = say(&["status"], place.path());
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("data/a/control.sock"), "{}", said.err);
    assert!(said.err.contains("data/b/control.sock"), "{}", said.err);
    b.kill();
    assert_eq!(say(&["status"], place.path()).code, 0, "one of them is dead");
    a.kill();
    assert_eq!(say(&["status"], place.path()).code, 3, "both are dead");
}

#[test]
fn what_is_typed_may_be_any_bytes_and_an_empty_variable_is_none() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let bytes = std::ffi::OsStr::from_bytes;
    for words in [[bytes(b"k"), bytes(b"\xff\xfe")], [bytes(b"other=1"), bytes(b"k=\xff\xfe")]] {
        node.told(&["unset", "k"]);
        let said: Said = node.command(&["set"]).args(words).output().unwrap().into();
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(node.json(&["get", "a", "k"])["value"]["base64"], "//4=");
    }
    let said: Said =
        node.command(&["wait", "key", "a", "k"]).arg(bytes(b"\xff\xfe")).output().unwrap().into();
    assert_eq!(said.code, 0, "{said:?}");
    node.told(&["set", "below", "-5"]);
    node.told(&["wait", "key", "a", "below", "-5"]);
    node.told(&["wait", "key", "a", "below", "--timeout", "60s"]);
    let said: Said = node.command(&["set", "x"]).arg("--json").output().unwrap().into();
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("options come first"), "{}", said.err);
    let mut command = dsn();
    command.current_dir(place.path()).env("DSN_CONTROL", "").args(["get", "a", "other"]);
    assert_eq!(run_with(&mut command, b"").out, "1");
}

#[test]
fn keygen_makes_a_private_file_once() {
    let place = Place4Nodes::new();
    let said = say(&["keygen", "new/net.key"], place.path());
    assert_eq!(said.code, 0, "{said:?}");
    let path = place.path().join("new/net.key");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let before = std::fs::read(&path).unwrap();
    let said = say(&["keygen", "new/net.key"], place.path());
    assert_ne!(said.code, 0);
    assert!(said.err.contains("new/net.key"), "{}", said.err);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn keys_and_values_of_all_kinds() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "k", "v"]);
    assert_eq!(node.told(&["get", "a", "k"]), "v");
    node.told(&["set", "one=1", "two=2=zwei", "empty="]);
    assert_eq!(node.told(&["get", "a", "two"]), "2=zwei");
    assert_eq!(node.told(&["get", "a", "empty"]), "");
    node.told(&["set", "minus", "-5"]);
    assert_eq!(node.told(&["get", "a", "minus"]), "-5");
    assert_eq!(run_with(&mut node.command(&["set", "raw", "-"]), &[0xff, 0, 10]).code, 0);
    let said = node.command(&["get", "--raw", "a", "raw"]).output().unwrap();
    assert_eq!(said.stdout, [0xff, 0, 10]);
    assert_eq!(node.json(&["get", "a", "raw"])["value"]["base64"], "/wAK");
    let state = node.told(&["state"]);
    assert!(state.contains("minus"), "{state}");
    node.told(&["unset", "k", "raw"]);
    let said = node.ask(&["get", "a", "k"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("\"k\""), "{}", said.err);
    assert_eq!(node.ask(&["get", "nobody", "k"]).code, 1);
    assert_eq!(node.ask(&["set", "a\nb", "x"]).code, 2);
    let big = vec![b'x'; 64 * 1024 + 1];
    let said = run_with(&mut node.command(&["set", "big", "-"]), &big);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("65536"), "{}", said.err);
}

/// What `script` shows of a command that it runs on a terminal of its own.
fn on_a_terminal(command: &Command) -> Vec<u8> {
    let quote = |part: &std::ffi::OsStr| format!("'{}'", part.to_str().unwrap());
    let line: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        script.current_dir(folder);
    }
    script.output().unwrap().stdout
}

#[test]
fn a_terminal_gets_nothing_that_it_would_act_on() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let evil = "one\ntwo\u{1b}]0;title\u{7}\u{9b}2J\u{202e}x";
    assert_eq!(run_with(&mut node.command(&["set", "k", "-"]), evil.as_bytes()).code, 0);
    assert_eq!(node.ask(&["set", "a\u{202e}b", "x"]).code, 2, "nor are there such keys");
    let of_a_pipe = node.command(&["get", "a", "k"]).output().unwrap().stdout;
    assert_eq!(of_a_pipe, evil.as_bytes(), "a script gets exactly what was set");
    let commands: [&[&str]; 8] = [
        &["get", "a", "k"],
        &["state", "a"],
        &["state"],
        &["--json", "get", "a", "k"],
        &["get", "--all", "k"],
        &["get", "a", "--prefix", "k"],
        &["watch", "--initial", "-n", "1"],
        &["--timeout", "0s", "wait", "key", "a", "k", "other"],
    ];
    for arguments in commands {
        let shown = on_a_terminal(&node.command(arguments));
        let text = String::from_utf8(shown).unwrap();
        assert!(text.contains("two") && text.contains("202e"), "{arguments:?}: {text:?}");
        let acts = |character: char| character == '\u{202e}' || character.is_control();
        let line_ends = text.replace("\r\n", "");
        assert!(!line_ends.contains(acts), "{arguments:?}: {text:?}");
    }
    let raw = on_a_terminal(&node.command(&["get", "--raw", "a", "k"]));
    assert!(String::from_utf8_lossy(&raw).contains('\u{202e}'), "it was asked for");
}

#[test]
fn status_has_the_names_of_the_contract() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let status = node.json(&["status"]);
    for name in [
        "node_id",
        "listen",
        "advertise",
        "version",
        "protocol",
        "uptime_s",
        "peers",
        "keys",
        "timestamp",
        "degraded",
    ] {
        assert!(status.get(name).is_some(), "{name} in {status}");
    }
    assert_eq!(status["listen"], node.address.as_str());
    let text = node.told(&["status"]);
    assert!(text.contains(&node.address), "{text}");
}

#[test]
fn a_pipe_that_closes_is_no_panic() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let pairs: Vec<String> = (0..2000).map(|n| format!("key-{n}={}", "x".repeat(200))).collect();
    let pairs: Vec<&str> = std::iter::once("set").chain(pairs.iter().map(String::as_str)).collect();
    node.told(&pairs);
    let mut child =
        node.command(&["state"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    child.wait().unwrap();
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn a_config_file_has_the_same_names() {
    let place = Place4Nodes::new();
    let path = place.path().join("dsn.toml");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "node-id = \"from-file\"\nlisten = \"127.0.0.1:0\"\ntick = \"1s\"").unwrap();
    let mut command = dsn();
    // What the file says of the address counts here, and no variable.
    command.env_remove("DSN_LISTEN");
    command.current_dir(place.path()).args(["run", "--config", "dsn.toml"]);
    let node = place.spawn(command, "from-file");
    assert_eq!(node.json(&["status"])["node_id"], "from-file");
    let mut command = dsn();
    command.current_dir(place.path()).arg("run").env("DSN_NODE_ID", "from-env");
    let node = place.spawn(command, "from-env");
    assert_eq!(node.json(&["status"])["node_id"], "from-env");
}

/// What a command says that has to end by itself; one that does not is ended.
fn run_to_end(command: &mut Command) -> Said {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + crate::support::PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it runs: {:?}", child.wait_with_output());
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap().into()
}

#[test]
fn what_keeps_a_node_from_starting_is_named() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let fails = |arguments: &[&str]| -> Said {
        let mut command = dsn();
        command.current_dir(place.path()).args(["run", "--listen", "127.0.0.1:0"]).args(arguments);
        let said = run_to_end(&mut command);
        assert!(matches!(said.code, 1 | 2), "{arguments:?}: {said:?}");
        assert!(!said.err.contains("panicked"), "{}", said.err);
        said
    };
    let said = fails(&["--node-id", "a"]);
    assert!(said.err.contains("data/a"), "the same folder: {}", said.err);
    let said: Said = dsn()
        .current_dir(place.path())
        .args(["run", "--node-id", "b", "--listen", &node.address])
        .output()
        .unwrap()
        .into();
    assert!(said.code != 0 && said.err.contains(&node.address), "{said:?}");
    let said = fails(&["--node-id", "c", "--network-key", "none/x.key", "--bootstrap", "h:1"]);
    assert!(said.err.contains("none/x.key") && said.err.contains("h:1"), "{}", said.err);
    std::fs::write(place.path().join("bad.key"), "not a key\n").unwrap();
    let said = fails(&["--node-id", "c", "--network-key", "bad.key"]);
    assert!(said.err.contains("bad.key"), "{}", said.err);
    let open = place.path().join("open.key");
    std::fs::write(&open, "00".repeat(32) + "\n").unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = fails(&["--node-id", "c", "--network-key", "open.key"]);
    assert!(said.err.contains("open.key") && said.err.contains("chmod"), "{}", said.err);
    std::fs::write(place.path().join("file"), "").unwrap();
    let said = fails(&["--node-id", "c", "--data", "file"]);
    assert!(said.err.contains("file"), "{}", said.err);
    std::fs::write(place.path().join("diary"), "dear").unwrap();
    let said = fails(&["--node-id", "c", "--control", "diary"]);
    assert!(said.err.contains("diary") && said.err.contains("--control"), "{}", said.err);
    let kept = std::fs::read(place.path().join("diary")).unwrap();
    assert_eq!(kept, b"dear", "what is no socket is not removed");
}

/// What each exit code stands for (docs/operations.md), as far as it can be tried. `KEY` is a key
/// file, `TAKEN` the address of a node, `RUN` begins the command of another one.
const EXIT_CODES: [(&str, i32); 51] = [
    // Yes, or done.
    ("status", 0),
    ("get self k", 0),
    ("wait peers 0", 0),
    ("key list", 0),
    ("-t 50ms watch", 0),
    ("-t 50ms recv --follow", 0),
    // No, or it could not be done.
    ("get a none", 1),
    ("get --all none", 1),
    ("get nobody k", 1),
    ("state nobody", 1),
    ("watch nobody", 1),
    ("recv --from nobody", 1),
    ("ping nobody", 1),
    ("send nobody x", 1),
    ("forget nobody", 1),
    ("-t 0s recv", 1),
    ("-t 50ms recv -n 1", 1),
    ("-t 50ms watch -n 1", 1),
    ("-t 0s wait peers 1", 1),
    ("key remove 00000000", 1),
    ("key use 00000000", 1),
    ("keygen KEY", 1),
    ("run --node-id a --listen 127.0.0.1:0", 1),
    ("run --node-id b --listen TAKEN", 1),
    // Wrong usage or configuration.
    ("", 2),
    ("fly", 2),
    ("get a", 2),
    ("get --all a k", 2),
    ("get ../x k", 2),
    ("set a\u{1}b x", 2),
    ("wait node a dead", 2),
    ("wait key a k v --gone", 2),
    ("watch -n 0", 2),
    ("-t soon status", 2),
    ("ping a", 2),
    ("ping self", 2),
    ("--control file status", 2),
    ("key add none.key", 2),
    ("keygen file/x.key", 2),
    ("--json run", 2),
    ("keygen --timeout 5s", 2),
    ("--timeout 5s keygen", 2),
    ("RUN --data file", 2),
    ("RUN --credentials file", 2),
    ("RUN --config none.toml", 2),
    ("RUN --control file", 2),
    ("RUN --network-key none.key --bootstrap h:1", 2),
    ("run --node-id self --listen 127.0.0.1:0", 2),
    // No node answers at the socket.
    ("--control none.sock status", 3),
    ("--control none.sock watch", 3),
    ("--control none.sock recv", 3),
];

#[test]
fn exit_codes_are_those_of_the_table() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    node.told(&["set", "k", "v"]);
    std::fs::write(place.path().join("file"), "").unwrap();
    for (line, code) in EXIT_CODES {
        let line = line.replace("RUN", "run --node-id b --listen 127.0.0.1:0");
        let line = line.replace("KEY", "credentials/network.key").replace("TAKEN", &node.address);
        let mut command = dsn();
        command.current_dir(place.path()).args(line.split_whitespace());
        let said = run_to_end(&mut command);
        assert_eq!(said.code, code, "{line}: {said:?}");
        // It says why; an answer is on stdout alone.
        assert_eq!(said.err.is_empty(), code == 0, "{line}: {said:?}");
    }
    assert_eq!(node.ask(&["stop"]).code, 0);
    assert_eq!(say(&["status"], place.path()).code, 3, "nothing is there any more");
}

#[test]
fn a_socket_that_this_user_may_not_open_is_not_called_absent() {
    use std::os::unix::process::CommandExt;
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let open = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(place.path(), 0o755);
    let data = place.path().join("data");
    let asks = |folder: &str, mode: u32| {
        open(&place.path().join(folder), mode);
        let mut command = dsn();
        command.current_dir(place.path()).arg("status");
        if rustix::process::getuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        // A user who may not run the binary can't be tried.
        command.output().ok().map(Said::from)
    };
    for (folder, mode) in [("data", 0o000), ("data", 0o755)] {
        let Some(said) = asks(folder, mode) else {
            eprintln!("SKIPPED: another user can't run the binary");
            return;
        };
        if said.code == 0 && !rustix::process::getuid().is_root() {
            break;
        }
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("may not open") && said.err.contains("sudo"), "{}", said.err);
        assert!(!said.err.contains("dsn run"), "{}", said.err);
    }
    open(&data, 0o755);
    assert_eq!(node.ask(&["status"]).code, 0);
}

/// A node that has more callers than the system lets wait is not called absent.
#[test]
fn a_full_queue_of_callers_is_waited_for() {
    use socket2::{Domain, SockAddr, Socket, Type};
    let place = Place4Nodes::new();
    let path = place.path().join("busy.sock");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let caller = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        caller.set_nonblocking(true).unwrap();
        match caller.connect(&SockAddr::unix(&path).unwrap()) {
            Ok(()) => waiting.push(caller),
            Err(_) => break,
        }
    }
    let mut command = dsn();
    command.args(["-t", "200ms", "--control"]).arg(&path).arg("status");
    let said = run_to_end(&mut command);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("in time") && !said.err.contains("dsn run"), "{}", said.err);
}

#[test]
fn a_value_that_is_typed_on_a_terminal_is_asked_for() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let shown = on_a_terminal(&node.command(&["set", "k", "-"]));
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("Ctrl-D"), "{shown}");
    let quiet = run_with(&mut node.command(&["set", "k", "-"]), b"x");
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""));
}

/// What `dsn --json state` prints can be set again, whatever bytes it has, as one change.
#[test]
fn a_state_that_was_kept_is_set_from_a_file() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    for (key, bytes) in [("raw", &b"\xff\0'\"\n"[..]), ("empty", b""), ("long", &[b'x'; 65_536])] {
        assert_eq!(run_with(&mut node.command(&["set", key, "-"]), bytes).code, 0);
    }
    node.told(&["set", "--ttl", "1h", "reading=1"]);
    let before = node.json(&["state", "self"]);
    let file = place.path().join("state.json");
    let file = file.to_str().unwrap();
    std::fs::write(file, before.to_string()).unwrap();
    node.told(&["set", "raw=another", "new=1"]);
    node.told(&["unset", "long", "reading"]);
    let version = node.json(&["set", "--from", file])["timestamp"].clone();
    let after = node.json(&["state", "self"]);
    assert_eq!(after["timestamp"], version, "one change");
    let mut expected = before["entries"].clone();
    // It would stand for good.
    expected.as_object_mut().unwrap().remove("reading");
    expected["new"] = "1".into();
    assert_eq!(after["entries"], expected);
    let said =
        run_with(&mut node.command(&["set", "--ttl", "1h", "--from", "-"]), br#"{"k": "v"}"#);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(node.json(&["get", "self", "k"])["expires_ms"].as_u64().is_some());

    // Wrong ones change nothing, and are named.
    for (text, why) in [
        (r#"{"a": "1", "b": 2}"#, "b"),
        (r#"{"a": "1", "b=c": "2"}"#, "b=c"),
        (r#"{"a": {"base64": "?"}}"#, "a"),
        ("{}", "no key"),
        ("[]", "no JSON object"),
        ("", "EOF"),
        (r#"{"a": "1", "a": "2"}"#, r#""a" is there twice"#),
        (r#"[{"node_id": "a", "entries": {}}]"#, "name one node"),
    ] {
        let said = run_with(&mut node.command(&["set", "--from", "-"]), text.as_bytes());
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{text}: {}", said.err);
        assert!(said.err.contains(why), "{text}: {}", said.err);
    }
    let many = format!("{{\"a\": \"{}\"}}", "x".repeat(9 << 20));
    let said = run_with(&mut node.command(&["set", "--from", "-"]), many.as_bytes());
    assert_eq!(said.code, 2, "{}", said.err);
    let expire = br#"{"node_id": "a", "entries": {"a": "1"}, "expires_ms": {"a": 5}}"#;
    let said = run_with(&mut node.command(&["set", "--from", "-"]), expire);
    assert!(said.code == 1 && said.err.contains("would have expired"), "{}", said.err);
    let said = node.ask(&["set", "--from", ""]);
    assert!(said.code == 2 && said.err.contains("--from wants"), "{}", said.err);
    let said = node.ask(&["set", "--from", "none.json"]);
    assert!(said.code == 2 && said.err.contains("none.json can't be read"), "{}", said.err);
    assert_eq!(node.ask(&["set", "--from", file, "a=1"]).code, 2, "one or the other");
    assert_eq!(node.ask(&["get", "self", "a"]).code, 1);
}

/// What docs/operations.md says of `while read` loops.
#[test]
fn in_a_loop_of_a_shell_each_line_is_one_value() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    let script =
        r#"while read -r key value; do "$DSN" --control "$SOCKET" set "$key=$value"; done"#;
    let mut shell = Command::new("sh");
    shell.args(["-ec", script]).env("DSN", crate::support::process::binary());
    shell.env("SOCKET", &node.control);
    let said = run_with(&mut shell, b"one -\ntwo x=y\nthree --json\n");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(node.told(&["state", "a"]), "one=-\nthree=--json\ntwo=x=y");
}

#[test]
fn a_key_goes_to_stdout_where_that_is_wanted() {
    let place = Place4Nodes::new();
    let said = say(&["keygen", "-"], place.path());
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    crate::support::write_private(&place.path().join("new.key"), said.out.as_bytes());
    let node = place.spawn_at("a", "127.0.0.1:0", &[]);
    assert_eq!(run_with(&mut node.command(&["key", "add", "-"]), said.out.as_bytes()).code, 0);
    assert_eq!(node.told(&["key", "list"]).lines().count(), 2);
    assert!(!place.path().join("-").exists());
}

#[test]
fn what_means_nothing_to_a_command_is_not_offered() {
    let place = Place4Nodes::new();
    for command in ["run", "keygen"] {
        let help = say(&[command, "--help"], place.path()).out;
        for option in ["--json", "--timeout"] {
            assert!(!help.contains(option), "{command} offers {option}: {help}");
        }
    }
    assert!(say(&["run", "--help"], place.path()).out.contains("--control"));
    assert!(say(&["get", "--help"], place.path()).out.contains("-j, --json"));
}
