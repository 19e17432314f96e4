//! Hosts as they are out there: signals, terminals that go away, groups, addresses that come late,
//! links without routers.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use crate::faults::tools::{around, skip};
use crate::support::process::{Process, Said, dsn, install, run_with};
use crate::support::{Place4Nodes, eventually};
use rustix::process::{Signal, getgid, getuid};

fn degraded(node: &Process) -> String {
    node.json(&["status"])["degraded"].to_string()
}

/// A network key of its own, in a file.
fn keygen(place: &Place4Nodes, name: &str) -> String {
    let file = place.path().join(name);
    assert!(dsn().arg("keygen").arg(&file).output().unwrap().status.success());
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn sighup_reads_the_network_keys_and_the_list_of_allowed_nodes_again() {
    let place = Place4Nodes::new();
    let list = place.path().join("allow");
    let line = |node_id: &str| {
        let node = place.spawn_at(node_id, "127.0.0.1:0", &[]);
        let key = node.json(&["status"])["public_key"].as_str().unwrap().to_owned();
        format!("{node_id} {key}\n")
    };
    let lines = ["a", "b", "c"].map(line);
    std::fs::write(&list, lines.concat()).unwrap();
    let mut command = place.run_command("a", &[]);
    command.arg("--allow").arg(&list);
    let mut a = place.spawn(command, "a");
    let b = place.spawn_at("b", "127.0.0.1:0", &[&a.address]);
    let c = place.spawn_at("c", "127.0.0.1:0", &[&a.address]);
    c.told(&["set", "k", "v"]);
    a.told(&["--timeout", "60s", "wait", "key", "c", "k", "v"]);
    a.told(&["--timeout", "60s", "wait", "peers", "2"]);

    // c is taken off the list, and a second network key is put behind the first.
    std::fs::write(&list, lines[..2].concat()).unwrap();
    let key_file = place.path().join("credentials/network.key");
    let first = std::fs::read_to_string(&key_file).unwrap();
    std::fs::write(&key_file, first.clone() + &keygen(&place, "second.key")).unwrap();
    a.signal(Signal::HUP);
    eventually("both are in force", || {
        a.told(&["key", "list"]).lines().count() == 2 && a.status_of("c").is_empty()
    });
    assert_eq!(a.ask(&["get", "c", "k"]).code, 1, "its state went with it");
    a.logged(&["the network keys are now", "c with its key is not in", "dropped"]);
    eventually("c hears why", || degraded(&c).contains("is not in the list"));

    // What can't be used leaves in force what was, and says why.
    std::fs::write(&list, "nonsense\n").unwrap();
    std::fs::write(&key_file, "nonsense\n").unwrap();
    a.signal(Signal::HUP);
    eventually("it says what is wrong", || {
        let log = a.log_text();
        log.contains("reload: the network keys were not changed")
            && log.contains("the list of allowed nodes stays as it is")
            && log.contains("line 1")
    });
    b.told(&["set", "k", "still"]);
    a.told(&["--timeout", "60s", "wait", "key", "b", "k", "still"]);
    assert_eq!(a.told(&["key", "list"]).lines().count(), 2);

    // And c comes back when it is on the list again.
    std::fs::write(&key_file, &first).unwrap();
    std::fs::write(&list, lines.concat()).unwrap();
    a.signal(Signal::HUP);
    a.told(&["--timeout", "60s", "wait", "key", "c", "k", "v"]);
    assert_eq!(a.told(&["key", "list"]).lines().count(), 1);
    a.signal(Signal::TERM);
    assert_eq!(a.wait(), Some(0));
}

#[test]
fn signals_of_other_programs_end_no_node() {
    let place = Place4Nodes::new();
    let mut node = place.spawn_at("a", "127.0.0.1:0", &[]);
    for (signal, name) in [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        node.signal(signal);
        eventually("it says so", || node.log_text().contains(name));
    }
    node.signal(Signal::PIPE);
    node.told(&["status"]);
    node.signal(Signal::INT);
    assert_eq!(node.wait(), Some(0));
}

/// SIGHUP of a terminal that is gone is no wish to reload: nobody could end that node any more.
#[test]
fn a_node_ends_with_the_terminal_that_it_was_started_in() {
    let place = Place4Nodes::new();
    let run = place.run_command("a", &[]);
    let words = std::iter::once(run.get_program()).chain(run.get_args());
    let words: Vec<String> = words.map(|word| word.display().to_string()).collect();
    let mut command = Command::new("script");
    command.args(["-qec", &format!("exec {}", words.join(" ")), "/dev/null"]);
    command.current_dir(place.path()).env("DSN_LISTEN", "127.0.0.1:0");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut terminal) = command.spawn() else { return skip("script (package bsdutils)") };
    let control = place.path().join("data/a/control.sock");
    let answers = || dsn().arg("--control").arg(&control).arg("status").output().unwrap();
    eventually("it runs", || answers().status.success());
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    eventually("it has ended, and cleanly", || !control.exists());
}

#[test]
fn a_reload_is_told_to_the_service_manager() {
    let place = Place4Nodes::new();
    let path = place.path().join("notify.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let heard = || {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = place.run_command("a", &[]);
    command.env("NOTIFY_SOCKET", &path);
    let node = place.spawn(command, "a");
    assert!(heard().starts_with("READY=1"));
    node.signal(Signal::HUP);
    let begins = heard();
    let micros = begins.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(micros.parse::<u64>().unwrap() > 0);
    assert_eq!(heard(), format!("READY=1\nSTATUS=listening on {}", node.address));
    std::fs::remove_file(place.path().join("credentials/network.key")).unwrap();
    node.signal(Signal::HUP);
    assert!(heard().starts_with("RELOADING=1"));
    assert!(heard().starts_with("READY=1\nSTATUS=not all was reloaded: the network keys"));
}

/// The command as a user and a group that are nobody here. Only root can start it.
fn as_other(command: &Command, group: u32) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", "54321", "--regid", &group.to_string(), "--clear-groups", "--"]);
    around(setpriv, command)
}

#[test]
fn a_group_may_be_let_into_the_control_socket() {
    let place = Place4Nodes::new();
    let is_root = getuid().is_root();
    let group = if is_root { 54_322 } else { getgid().as_raw() };
    let control = place.path().join("run/control.sock");
    let start = |group: &str| {
        let mut command = place.run_command("a", &[]);
        command.arg("--control").arg(&control).args(["--control-group", group]);
        let mut node = place.spawn(command, "a");
        node.control.clone_from(&control);
        node
    };
    let passable = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(place.path(), mode).unwrap();
    };
    passable(0o700);
    let node = start(&group.to_string());
    let found = std::fs::metadata(&control).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o660, group));
    let folder = std::fs::metadata(control.parent().unwrap()).unwrap();
    assert_eq!((folder.permissions().mode() & 0o777, folder.gid()), (0o710, group));
    if !is_root {
        return;
    }
    // A folder on the way that is for its owner alone is named.
    let is_named = || node.log_text().contains("can't reach the control socket");
    eventually("the folder in the way is named", is_named);
    passable(0o755);
    let binary = place.path().join("dsn");
    install(&crate::support::process::binary(), &binary);
    let mut status = Command::new(&binary);
    status.arg("--control").arg(&control).arg("status").current_dir("/");
    let ask = |group| Said::from(as_other(&status, group).output().unwrap());
    let said = ask(group);
    assert_eq!(said.code, 0, "{said:?}");
    assert_ne!(ask(group + 1).code, 0);
    // Once all can pass, nothing is said.
    node.kill();
    let before = std::fs::read_to_string(place.path().join("a.log")).unwrap().len();
    let node = start(&group.to_string());
    assert!(!node.log_text()[before..].contains("can't reach"), "{}", node.log_text());
}

#[test]
fn a_group_that_is_none_and_one_that_is_not_the_users_are_named() {
    let place = Place4Nodes::new();
    let mut command = place.run_command("a", &[]);
    let said = run_with(command.args(["--control-group", "no-such-group"]), b"");
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("no-such-group") && said.err.contains("groupadd"), "{}", said.err);
    if !getuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(54_321), Some(54_321)).unwrap();
    let binary = folder.path().join("dsn");
    install(&crate::support::process::binary(), &binary);
    let mut command = Command::new(&binary);
    command.args(["run", "--node-id", "a", "--listen", "127.0.0.1:0", "--control", "a.sock"]);
    command.args(["--control-group", "54399"]).current_dir(folder.path());
    let said = run_with(&mut as_other(&command, 54_321), b"");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("usermod"), "{}", said.err);
    assert!(!folder.path().join("a.sock~").exists());
}

#[test]
fn without_an_address_a_node_listens_on_both_families() {
    let place = Place4Nodes::new();
    let all = place.spawn_at("all", "0", &[]);
    let port = port(&all);
    let four = place.spawn_at("four", "127.0.0.1:0", &[&format!("127.0.0.1:{port}")]);
    four.told(&["--timeout", "60s", "wait", "peers", "1"]);
    // It came in by IPv6, as the kernel sees it, and is shown as what it is.
    assert_eq!(all.json(&["peers"])[0]["address"], four.address.as_str());
    if all.address.starts_with("[::]") && std::net::TcpListener::bind("[::1]:0").is_ok() {
        let six = place.spawn_at("six", "[::1]:0", &[&format!("[::1]:{port}")]);
        six.told(&["--timeout", "60s", "wait", "peers", "2"]);
    }
    assert_eq!(degraded(&all), "[]");
}

/// Two hosts with a cable between them: a network namespace each, that ends with its process.
struct Cable {
    hosts: [std::process::Child; 2],
}

impl Cable {
    /// Nothing where there can be none, which is said.
    fn new() -> Option<Self> {
        let host = |()| {
            let mut command = Command::new("unshare");
            command.args(["-n", "sh", "-c", "ip link set lo up && echo up && exec cat"]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut host = command.spawn().ok()?;
            let mut line = String::new();
            let mut out = std::io::BufReader::new(host.stdout.take()?);
            std::io::BufRead::read_line(&mut out, &mut line).ok()?;
            Some(host)
        };
        let [Some(one), Some(two)] = [(), ()].map(host) else {
            skip("unshare");
            return None;
        };
        let other = two.id();
        let cable = Self { hosts: [one, two] };
        let one = format!(
            "ip link add v0 type veth peer name v1 && ip link set v1 netns {other} && \
             ip link set v0 up && ip address add fe80::1/64 dev v0 nodad"
        );
        let two = "ip link set v1 up && ip address add fe80::2/64 dev v1 nodad";
        if cable.does(0, &one) && cable.does(1, two) {
            return Some(cable);
        }
        skip("hosts of its own with IPv6 (root, ip)");
        None
    }

    fn inside(&self, at: usize, command: &Command) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.hosts[at].id().to_string(), "-n", "--"]);
        around(nsenter, command)
    }

    fn does(&self, at: usize, script: &str) -> bool {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        self.inside(at, &sh).output().is_ok_and(|output| output.status.success())
    }

    fn start(&self, at: usize, place: &Place4Nodes, listen: &str, bootstrap: &[&str]) -> Process {
        let id = format!("n{at}");
        let mut command = place.run_command(&id, bootstrap);
        command.args(["--listen", listen]);
        place.spawn(self.inside(at, &command), &id)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            let _ = host.kill();
            let _ = host.wait();
        }
    }
}

fn port(node: &Process) -> &str {
    node.address.rsplit_once(':').unwrap().1
}

/// Each knows the other by a zone of its own, whose name is another one there.
#[test]
fn nodes_meet_on_a_link_that_has_no_other_addresses() {
    let place = Place4Nodes::new();
    let Some(cable) = Cable::new() else { return };
    for (listen, bootstrap) in [("[fe80::1%v0]:0", "[fe80::2%v1]:0"), ("0", "0")] {
        let zero = cable.start(0, &place, listen, &[]);
        let seed = format!("[fe80::1%v1]:{}", port(&zero));
        let one = cable.start(1, &place, bootstrap, &[&seed]);
        zero.told(&["--timeout", "60s", "wait", "peers", "1"]);
        one.told(&["set", "k", "v"]);
        zero.told(&["--timeout", "60s", "wait", "key", "n1", "k", "v"]);
        zero.told(&["send", "n1", "hello"]);
        assert_eq!(one.told(&["recv"]), "hello");
        assert_eq!((degraded(&zero), degraded(&one)), ("[]".into(), "[]".into()));
        one.told(&["unset", "k"]);
    }
    let mut command = place.run_command("x", &[]);
    let said = run_with(command.args(["--listen", "[fe80::1%no-link]:0"]), b"");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("interface no-link"), "{}", said.err);
}

#[test]
fn an_address_that_comes_late_is_waited_for() {
    let place = Place4Nodes::new();
    let Some(cable) = Cable::new() else { return };
    let late = cable.start(0, &place, "10.77.0.1:0", &[]);
    let text = degraded(&late);
    assert!(text.contains("does not have the address 10.77.0.1"), "{text}");
    assert!(cable.does(0, "ip address add 10.77.0.1/24 dev v0"));
    assert!(cable.does(1, "ip address add 10.77.0.2/24 dev v1"));
    assert_eq!(late.degraded(), "[]");
    let other = cable.start(1, &place, "10.77.0.2:0", &[&late.address]);
    other.told(&["--timeout", "60s", "wait", "peers", "1"]);
    late.told(&["--timeout", "60s", "wait", "peers", "1"]);
}
