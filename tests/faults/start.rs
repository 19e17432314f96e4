//! A start that fails, a start in the wrong place, and files as they are out there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::faults::tools::{
    OnOwnDisk, around, fat_mount, has_mounts, has_strace, skip, under_strace,
};
use crate::support::process::{Process, Said, dsn, install, run_with};
use crate::support::{Place4Nodes, address_of_nobody, eventually, write_private};

/// Runs `dsn run` in a folder, where it has to fail.
fn fails(folder: &Path, arguments: &[&str]) -> Said {
    let mut command = dsn();
    command.current_dir(folder).arg("run").args(arguments);
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let said: Said = command.stdin(Stdio::null()).output().unwrap().into();
    assert!(matches!(said.code, 1..=3), "{arguments:?}: {said:?}");
    assert!(!said.err.contains("panicked"), "{arguments:?}: {}", said.err);
    said
}

/// Waits for a warning in the log with all of these words: the log is written beside the work.
fn warned(node: &Process, words: &[&str]) {
    eventually(&format!("the log warns of {words:?}"), || {
        let log = node.log_text();
        let mut warnings = log.lines().filter(|line| line.contains("WARN"));
        warnings.any(|line| words.iter().all(|word| line.contains(word)))
    });
}

/// All files below a folder that hold a key.
fn keys_below(folder: &Path) -> Vec<String> {
    let found = Command::new("find").arg(folder).args(["-name", "*.key*"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A port in use, a socket in use, a wrong folder: a key that stays would make the next start
/// believe that this is where the node lives.
#[test]
fn a_start_that_fails_leaves_no_key() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("there", "127.0.0.1:0", &[]);
    let control = node.control.to_str().unwrap();
    std::fs::write(place.path().join("file"), "dear diary").unwrap();
    let rows: [(&str, &[&str]); 9] = [
        ("a port in use", &["--listen", &node.address]),
        ("a socket in use", &["--control", control]),
        ("a file as a socket", &["--control", "../file"]),
        ("a file as data", &["--data", "../file"]),
        ("a file in the way of data", &["--data", "../file/below"]),
        ("a file as credentials", &["--credentials", "../file"]),
        ("no allow-list", &["--allow", "none"]),
        ("a socket that can't be made", &["--control", "/proc/none/dsn.sock"]),
        ("data that can't be made", &["--data", "/proc/none"]),
    ];
    for (what, arguments) in rows {
        let folder = tempfile::tempdir_in(place.path()).unwrap();
        let said = fails(folder.path(), &[&["--node-id", "new"], arguments].concat());
        assert_eq!(keys_below(folder.path()), [""; 0], "{what}: {}", said.err);
        assert!(said.err.contains(arguments[1]), "{what}: {}", said.err);
        assert!(!said.err.contains("made"), "{what}: {}", said.err);
    }
    // Nor is one removed that was there.
    let folder = tempfile::tempdir_in(place.path()).unwrap();
    let mut first = dsn();
    first.current_dir(folder.path()).args(["run", "--node-id", "new", "--listen", "127.0.0.1:0"]);
    place.spawn(first, "first").kill();
    let before = keys_below(folder.path());
    assert_eq!(before.len(), 2, "{before:?}");
    fails(folder.path(), &["--node-id", "new", "--listen", &node.address]);
    fails(folder.path(), &["--node-id", "new", "--control", "/proc/none/dsn.sock"]);
    assert_eq!(keys_below(folder.path()), before);
}

/// `dsn run` typed in another folder: it says which keys it made and where, from the root on.
#[test]
fn a_start_that_makes_keys_says_where() {
    let place = Place4Nodes::new();
    let elsewhere = tempfile::tempdir_in(place.path()).unwrap();
    let run = || {
        let mut command = dsn();
        command.current_dir(elsewhere.path());
        command.args(["run", "--node-id", "kitchen", "--listen", "127.0.0.1:0"]);
        place.spawn(command, "kitchen")
    };
    let node = run();
    let folder = elsewhere.path().canonicalize().unwrap();
    for name in ["credentials/network.key", "credentials/kitchen/node.key"] {
        let path = folder.join(name);
        warned(&node, &[path.to_str().unwrap(), "made", "stop"]);
    }
    let before = node.log_text().matches("made").count();
    node.kill();
    let mut again = run();
    again.signal(rustix::process::Signal::TERM);
    again.wait();
    assert_eq!(again.log_text().matches("made").count(), before, "{}", again.log_text());
}

/// The command in a host of another name.
fn in_host(name: &str, command: &Command) -> Option<Command> {
    let script =
        "hostname \"$0\" 2>/dev/null || echo \"$0\" >/proc/sys/kernel/hostname; exec \"$@\"";
    let mut outer = Command::new("unshare");
    let is_root = rustix::process::getuid().is_root();
    outer.args(if is_root { &["-u"][..] } else { &["-r", "-u"] });
    outer.args(["sh", "-ec", script, name]);
    let mut probe = Command::new("true");
    let works = around(clone(&outer), &probe).stderr(Stdio::null()).status();
    probe = around(outer, command);
    works.is_ok_and(|status| status.success()).then_some(probe)
}

fn clone(command: &Command) -> Command {
    let mut other = Command::new(command.get_program());
    other.args(command.get_args());
    other
}

/// A host whose name changed says how to go on as before.
#[test]
fn a_host_with_a_new_name_says_what_it_was_called() {
    let place = Place4Nodes::new();
    let run = || {
        let mut command = dsn();
        command.current_dir(place.path()).args(["run", "--listen", "127.0.0.1:0"]);
        command
    };
    let Some(command) = in_host("raspberrypi", &run()) else {
        return skip("unshare, or the right to name a host (run as root)");
    };
    let node = place.spawn(command, "raspberrypi");
    node.told(&["set", "kept", "1"]);
    node.kill();
    let node = place.spawn(in_host("pi-kitchen", &run()).unwrap(), "pi-kitchen");
    warned(&node, &["--node-id raspberrypi", "pi-kitchen"]);
    node.kill();
    // It is told once, as it is here from now on; not where the name was given; and not of none.
    let node = place.spawn(in_host("pi-kitchen", &run()).unwrap(), "pi-kitchen");
    let log = node.logged(&["--node-id raspberrypi"]);
    assert_eq!(log.matches("--node-id raspberrypi").count(), 1, "{log}");
    node.kill();
    // Of two nobody can say which one was meant.
    let node = place.spawn(in_host("third", &run()).unwrap(), "third");
    warned(&node, &["of pi-kitchen, raspberrypi", "--node-id ID, the name of before"]);
    node.kill();
    let node = place.spawn_at("given", "127.0.0.1:0", &[]);
    assert!(!node.log_text().contains("--node-id"), "{}", node.log_text());
    node.kill();
    let node = place.spawn_at("raspberrypi", "127.0.0.1:0", &[]);
    assert_eq!(node.told(&["get", "raspberrypi", "kept"]), "1");
    node.kill();
    // What every fresh host is called names nobody.
    for name in ["localhost", "localhost.localdomain"] {
        let said: Said = in_host(name, &run()).unwrap().output().unwrap().into();
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains("--node-id") && said.err.contains(name), "{}", said.err);
    }
}

/// A secret that is mounted for reading only can't be told to have another mode.
#[test]
fn a_secret_on_a_mount_that_can_only_be_read_is_taken() {
    if !has_mounts() {
        return;
    }
    for mode in ["0444", "0755", "0440"] {
        let place = Place4Nodes::new();
        let mut command = place.run_command("ro", &[]);
        command.args(["--listen", "127.0.0.1:0", "--control", "ro.sock"]);
        command.args(["--network-key", "disk/network.key"]);
        let script = format!(
            "mount -t tmpfs tmpfs disk; cp credentials/network.key disk; \
             chmod {mode} disk/network.key; mount -o remount,ro disk"
        );
        let node = OnOwnDisk::start(&place, "ro", &command, &script);
        warned(&node.process, &["network.key", &format!("mode {mode}")]);
        assert_eq!(node.process.ask(&["status"]).code, 0, "{mode}");
    }
}

/// FAT has no links and no modes: keys are made and read there all the same, and a state is kept.
#[test]
fn keys_and_state_live_on_fat() {
    if !has_mounts() {
        return;
    }
    let Some(mount) = fat_mount() else { return };
    let place = Place4Nodes::new();
    let mut command = place.run_command("fat", &[]);
    command.args(["--listen", "127.0.0.1:0", "--control", "fat.sock"]);
    command.args(["--credentials", "disk/credentials", "--data", "disk/data"]);
    let node = OnOwnDisk::start(&place, "fat", &command, mount);
    warned(&node.process, &["network.key", "keeps no modes"]);
    node.process.told(&["set", "kept", "1"]);
    // Never overwritten: the second one is refused.
    let key = node.path("credentials/network.key");
    let before = std::fs::read(&key).unwrap();
    let mut keygen = dsn();
    let said: Said = keygen.arg("keygen").arg(&key).output().unwrap().into();
    assert!(said.code != 0 && said.err.contains("is there already"), "{said:?}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
    let names = |folder: &str| {
        let entries = std::fs::read_dir(node.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("credentials"), ["fat", "network.key"], "nothing else is left");
    let journal = node.path("data/fat/state.journal");
    assert!(std::fs::metadata(journal).unwrap().len() > 4096);
    // The same disk, started again: all is as before.
    let public_key = node.process.json(&["status"])["public_key"].clone();
    // What serves the file system by FUSE ends when nobody is there any more.
    node.run("umount -l \"$1\"");
    node.process.kill();
    eventually("the disk is free", || {
        let loops = Command::new("losetup").arg("-j").arg(place.path().join("fat.img")).output();
        loops.unwrap().stdout.is_empty()
    });
    let (_, again) = mount.split_once("#\n").unwrap();
    let node = OnOwnDisk::start(&place, "fat", &command, again);
    assert_eq!(node.process.told(&["get", "fat", "kept"]), "1");
    assert_eq!(node.process.json(&["status"])["public_key"], public_key);
    node.run("umount -l \"$1\"");
}

/// File systems that lack links, and renames that spare what is there, too.
#[test]
fn keys_are_made_without_links() {
    if !has_strace() {
        return;
    }
    let no_link = "inject=?link,linkat:error=EPERM";
    let no_rename = "inject=renameat2:error=EINVAL";
    for injected in [&[no_link][..], &[no_link, no_rename]] {
        let place = Place4Nodes::new();
        let folder = tempfile::tempdir_in(place.path()).unwrap();
        let seen = folder.path().join("strace");
        let mut command = dsn();
        command.current_dir(folder.path());
        command.args(["run", "--node-id", "new", "--listen", "127.0.0.1:0"]);
        let mut arguments = vec!["-e", "trace=?link,linkat,renameat2"];
        arguments.extend(injected.iter().flat_map(|fault| ["-e", fault]));
        let node = place.spawn(under_strace(&command, &arguments, &seen), "new");
        node.kill();
        let keys = keys_below(&folder.path().join("credentials"));
        assert_eq!(keys.len(), 2, "{keys:?}");
        for key in keys {
            let found = std::fs::metadata(&key).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, 0o600, "{key}");
            assert!(found.len() > 64, "{key}");
        }
    }
}

/// A key file that is a mount of its own, as containers have it, can't be replaced in one step.
#[test]
fn a_key_is_added_to_a_file_that_is_a_mount() {
    if !has_mounts() {
        return;
    }
    let place = Place4Nodes::new();
    let mut command = place.run_command("m", &[]);
    command.args(["--listen", "127.0.0.1:0", "--control", "m.sock"]);
    let script = "cp -p credentials/network.key mounted.key; \
                  mount --bind mounted.key credentials/network.key";
    let node = OnOwnDisk::start(&place, "m", &command, script);
    let mut keygen = dsn();
    keygen.current_dir(place.path()).args(["keygen", "new.key"]);
    let said: Said = keygen.output().unwrap().into();
    assert_eq!(said.code, 0, "{said:?}");
    let new = place.path().join("new.key");
    node.process.told(&["key", "add", new.to_str().unwrap()]);
    let text = std::fs::read_to_string(place.path().join("mounted.key")).unwrap();
    assert_eq!(text.lines().filter(|line| line.len() == 64).count(), 2, "{text}");
    warned(&node.process, &["written in place"]);
    assert!(!place.path().join("credentials/network.key.new").exists());
}

/// The limit of a user is an error like any other, and not the end of the node.
#[test]
fn a_limit_of_file_sizes_refuses_changes() {
    let place = Place4Nodes::new();
    let mut command = place.run_command("small", &[]);
    command.args(["--listen", "127.0.0.1:0"]);
    let mut outer = Command::new("sh");
    // 512 bytes each.
    outer.args(["-ec", "ulimit -f 60; exec \"$@\"", "sh"]);
    let mut node = place.spawn(around(outer, &command), "small");
    node.told(&["set", "kept", "1"]);
    let said = run_with(&mut node.command(&["set", "large", "-"]), &[b'x'; 60_000]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("ulimit -f"), "{}", said.err);
    assert!(node.child.try_wait().unwrap().is_none(), "it lives");
    assert_eq!(node.told(&["get", "small", "kept"]), "1");
    node.told(&["set", "kept", "2"]);
}

/// Threads that the system refuses, the first or a later one: the node says why, and what to do.
#[test]
fn a_refused_thread_is_told_with_what_to_do() {
    if !has_strace() {
        return;
    }
    for (errno, word) in [("EPERM", "clone3"), ("EAGAIN", "ulimit -u")] {
        for number in [1, 2, 9, 16] {
            let place = Place4Nodes::new();
            let folder = tempfile::tempdir_in(place.path()).unwrap();
            let mut command = dsn();
            command.current_dir(folder.path());
            command.args(["run", "--node-id", "few", "--listen", "127.0.0.1:0"]);
            let inject = format!("inject=?clone3,clone:error={errno}:when={number}+");
            let seen = folder.path().join("strace");
            let arguments = ["-e", "trace=?clone3,clone", "-e", &inject];
            let said: Said = under_strace(&command, &arguments, &seen).output().unwrap().into();
            let what = format!("{errno} from thread {number} on: {said:?}");
            assert!(said.code == 1 && said.err.contains(word), "{what}");
            assert!(!said.err.contains("panicked"), "{what}");
            assert_eq!(keys_below(folder.path()), [""; 0], "{what}");
        }
    }
}

/// They take the key that one of them makes, and one that fails takes nothing away from the others.
#[test]
fn nodes_that_start_at_once_in_a_new_folder_share_what_they_make() {
    let can_fail = has_strace();
    for round in 0..4 {
        let place = Place4Nodes::new();
        let folder = tempfile::tempdir_in(place.path()).unwrap();
        let run = |id: &str| {
            let mut command = dsn();
            command.current_dir(folder.path());
            command.args(["run", "--node-id", id, "--listen", "127.0.0.1:0"]);
            command.args(["--data", "new/data", "--credentials", "new/keys"]);
            command
        };
        std::thread::scope(|scope| {
            let nodes = ["a", "b", "c"].map(|id| {
                let command = run(id);
                let place = &place;
                scope.spawn(move || place.spawn(command, id))
            });
            // Its last threads are refused: by then it has made its keys.
            let inject = "inject=?clone3,clone:error=EAGAIN:when=16+";
            let arguments = ["-e", "trace=?clone3,clone", "-e", inject];
            if can_fail {
                let seen = folder.path().join("strace");
                let said = under_strace(&run("fails"), &arguments, &seen).output().unwrap();
                assert_eq!(Said::from(said).code, 1, "round {round}");
            }
            let mut nodes = nodes.map(|node| node.join().unwrap());
            for (node, id) in nodes.iter_mut().zip(["a", "b", "c"]) {
                node.control = folder.path().join(format!("new/data/{id}/control.sock"));
            }
            let keys = keys_below(folder.path());
            assert_eq!(keys.len(), 4, "round {round}: {keys:?}");
            let network = |node: &Process| node.json(&["key", "list"]).to_string();
            let [first, others @ ..] = &nodes;
            assert!(others.iter().all(|node| network(node) == network(first)), "round {round}");
        });
    }
}

/// A card that said too early what it had written leaves empty files: they hold no key, so nothing
/// is lost by a new one, and the node says what it means.
#[test]
fn an_empty_key_file_keeps_no_node_from_starting() {
    let place = Place4Nodes::new();
    let own = place.path().join("credentials/e/node.key");
    let network = place.path().join("credentials/network.key");
    let spawn = || place.spawn_at("e", "127.0.0.1:0", &[]);
    let node = spawn();
    node.told(&["set", "kept", "1"]);
    let first = node.json(&["status"])["public_key"].clone();
    node.kill();
    for bytes in [&b""[..], &[0; 300]] {
        std::fs::write(&own, bytes).unwrap();
        let node = spawn();
        assert_ne!(node.json(&["status"])["public_key"], first);
        assert_eq!(node.told(&["get", "e", "kept"]), "1");
        warned(&node, &["dsn forget e", "node.key"]);
        node.kill();
        std::fs::write(&network, bytes).unwrap();
        let node = spawn();
        assert_eq!(node.told(&["get", "e", "kept"]), "1");
        node.kill();
    }
    // One that is to join has to get it from somebody.
    std::fs::write(&network, "").unwrap();
    let said = fails(place.path(), &["--node-id", "e", "--bootstrap", "10.0.0.1:8000"]);
    assert!(said.err.contains("empty") && said.err.contains("10.0.0.1:8000"), "{}", said.err);
    assert_eq!(std::fs::read(&network).unwrap(), b"", "it stays");
    // One that was changed by somebody is his.
    std::fs::write(&network, "# the key goes here\n").unwrap();
    let said = fails(place.path(), &["--node-id", "e"]);
    assert!(said.err.contains("no key in it"), "{}", said.err);
}

/// Nobody is told to change the rights of what is no key file, or to move it away.
#[test]
fn what_is_no_file_is_named_for_what_it_is() {
    let place = Place4Nodes::new();
    let node = place.spawn_at("n", "127.0.0.1:0", &[]);
    let large = place.path().join("large.key");
    write_private(&large, b"#");
    std::fs::File::options().write(true).open(&large).unwrap().set_len(10 << 30).unwrap();
    let check = |said: Said, words: &[&str]| {
        assert!(matches!(said.code, 1..=3), "{said:?}");
        assert!(!said.err.contains("chmod") && !said.err.contains("right to"), "{}", said.err);
        assert!(!said.err.contains("move that one away"), "{}", said.err);
        for word in words {
            assert!(said.err.contains(word), "{word}: {}", said.err);
        }
    };
    check(node.ask(&["key", "add", "/usr"]), &["/usr is a folder"]);
    check(node.ask(&["key", "add", "/dev/zero"]), &["/dev/zero is a device"]);
    check(node.ask(&["key", "add", large.to_str().unwrap()]), &["large.key", "16384"]);
    for target in ["/dev/null", "/usr"] {
        check(dsn().args(["keygen", target]).output().unwrap().into(), &[target, " is a "]);
    }
    let folder = place.path();
    check(fails(folder, &["--node-id", "x", "--config", "/usr"]), &["/usr is a folder"]);
    check(fails(folder, &["--node-id", "x", "--allow", "/usr"]), &["/usr is a folder"]);
    check(fails(folder, &["--node-id", "x", "--network-key", "/usr"]), &["/usr is a folder"]);
    check(fails(folder, &["--node-id", "x", "--data", "large.key"]), &["large.key is no folder"]);
    check(fails(folder, &["--node-id", "x", "--config", "none.toml"]), &["There is no none.toml"]);
    let deep = "d/".repeat(3) + &"x".repeat(300);
    check(fails(folder, &["--node-id", "x", "--network-key", &deep]), &["shorter"]);
}

/// A file that cannot be locked is no matter of rights.
#[test]
fn a_folder_without_locks_is_named() {
    if !has_strace() {
        return;
    }
    let place = Place4Nodes::new();
    let mut command = place.run_command("nfs", &[]);
    command.args(["--listen", "127.0.0.1:0"]);
    let seen = place.path().join("strace");
    let arguments = ["-e", "trace=flock", "-e", "inject=flock:error=ENOLCK"];
    let said: Said = under_strace(&command, &arguments, &seen).output().unwrap().into();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("no locks") && !said.err.contains("right to"), "{}", said.err);
    assert_eq!(keys_below(&place.path().join("credentials/nfs")), [""; 0]);
}

/// Where rights are what is missing, the message says whose and which.
#[test]
fn missing_rights_are_told_with_their_place() {
    if !rustix::process::getuid().is_root() {
        return skip("the right to be another user (run as root)");
    }
    let place = Place4Nodes::new();
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path(), all).unwrap();
    let mut command = place.run_command("nobody", &[]);
    command.args(["--listen", "127.0.0.1:0"]);
    let mut outer = Command::new("setpriv");
    outer.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    // The binary may stand in a folder that only its owner reads.
    let program = place.path().join("dsn");
    install(Path::new(command.get_program()), &program);
    let mut copied = Command::new(&program);
    copied.current_dir(place.path()).args(command.get_args());
    let said: Said = around(outer, &copied).output().unwrap().into();
    assert!(said.code != 0, "{said:?}");
    for word in ["Give user 65534 the right", "belongs to user 0", "mode 0"] {
        assert!(said.err.contains(word), "{word}: {}", said.err);
    }
}

/// What a damaged journal is told from: the end that a power cut left.
#[test]
fn a_damaged_journal_is_kept_and_named() {
    let place = Place4Nodes::new();
    let journal = place.path().join("data/d/state.journal");
    let start = || place.spawn_at("d", "127.0.0.1:0", &[]);
    let node: Process = start();
    node.told(&["set", "first", "1"]);
    let at = std::fs::metadata(&journal).unwrap().len();
    node.told(&["set", "second", "2"]);
    node.told(&["set", "third", "3"]);
    node.kill();
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[usize::try_from(at).unwrap() + 60] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let node = start();
    assert_eq!(node.told(&["get", "d", "third"]), "3");
    assert_eq!(node.ask(&["get", "d", "second"]).code, 1);
    warned(&node, &["was damaged"]);
    assert_eq!(std::fs::read(place.path().join("data/d/state.damaged-1")).unwrap(), bytes);
}

/// All hosts get one list, in which the node itself may be the first.
#[test]
fn a_missing_network_key_is_to_be_copied_from_another_host() {
    let place = Place4Nodes::new();
    let free = address_of_nobody();
    let folder = tempfile::tempdir_in(place.path()).unwrap();
    let (own, other) = (free.to_string(), "192.0.2.1:8000");
    let list = ["--node-id", "x", "--listen", &own, "--bootstrap", &own, "--bootstrap", other];
    let said = fails(folder.path(), &list);
    assert_eq!(said.code, 2, "{}", said.err);
    let key = folder.path().canonicalize().unwrap().join("credentials/network.key");
    let make = format!("`dsn keygen {}`", key.display());
    assert!(said.err.contains(other) && said.err.contains(&make), "{}", said.err);
    assert!(!said.err.contains(&own), "{}", said.err);
    // A file in place of the folder of states is no matter of the control socket.
    std::fs::write(folder.path().join("afile"), "").unwrap();
    let said = fails(folder.path(), &["--node-id", "x", "--data", "afile"]);
    assert!(said.code == 2 && said.err.contains("the folder afile can't be used"), "{}", said.err);
}
