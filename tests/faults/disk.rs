//! Disks that are full, read-only, gone or bad, under a node that runs or starts.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dsn::control::{ControlClient, Failure};
use serde_json::json;

use crate::faults::tools::{OnOwnDisk, calls, has_mounts, has_strace, under_strace};
use crate::support::process::{Process, run_with};
use crate::support::{PATIENCE, Place4Nodes, eventually};

/// All but changes of the own state goes on in both directions.
fn the_rest_goes_on(node: &Process, other: &Process, round: &str) {
    let names = [node, other].map(|n| n.json(&["status"])["node_id"].as_str().unwrap().to_owned());
    other.told(&["set", "round", round]);
    node.told(&["--timeout", "60s", "wait", "key", &names[1], "round", round]);
    node.told(&["send", &names[1], round]);
    assert_eq!(other.told(&["recv"]), round);
    other.told(&["send", &names[0], round]);
    assert_eq!(node.told(&["recv"]), round);
    assert_eq!(other.told(&["get", &names[0], "kept"]), "1");
    assert_eq!(node.told(&["get", &names[0], "kept"]), "1");
}

fn set_large(node: &Process, key: &str) -> crate::support::process::Said {
    run_with(&mut node.command(&["set", key, "-"]), &[b'x'; 20_000])
}

/// Ends a node; its folder on its disk, which goes with the process, is where it is started next.
fn kill_and_keep(place: &Place4Nodes, node: OnOwnDisk, name: &str) {
    let copied = place.path().join("data").join(name);
    std::fs::create_dir_all(place.path().join("data")).unwrap();
    let copy = Command::new("cp").arg("-a").arg(node.path(name)).arg(copied).status();
    assert!(copy.unwrap().success());
    node.process.kill();
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_room() {
    if !has_mounts() {
        return;
    }
    let place = Place4Nodes::new();
    let other = place.spawn_at("other", "127.0.0.1:0", &[]);
    let mut command = place.run_command("full", &[&other.address]);
    command.args(["--listen", "127.0.0.1:0", "--data", "disk", "--control", "full.sock"]);
    let mount = "mount -t tmpfs -o size=256k,mode=700 tmpfs disk";
    let node = OnOwnDisk::start(&place, "full", &command, mount);
    let own = &node.process;
    own.told(&["set", "kept", "1"]);
    other.told(&["--timeout", "60s", "wait", "key", "full", "kept", "1"]);
    let filled = std::fs::write(node.path("fill"), vec![1; 1024 * 1024]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let said = set_large(own, "large");
    assert_eq!(said.code, 1, "{said:?}");
    for word in ["state.journal", "No space left", "Make room", "nothing was changed"] {
        assert!(said.err.contains(word), "{}", said.err);
    }
    assert!(own.degraded().contains("No space left"));
    the_rest_goes_on(own, &other, "full");
    assert_eq!(own.ask(&["get", "full", "large"]).code, 1, "what was refused is not there");
    std::fs::remove_file(node.path("fill")).unwrap();
    // Nobody changes anything.
    eventually("it finds that there is room", || own.degraded() == "[]");
    eventually("that is told", || own.log_text().contains("no longer degraded (state-disk)"));
    assert_eq!(set_large(own, "large2").code, 0);
    other.told(&["--timeout", "60s", "wait", "key", "full", "large2"]);
    kill_and_keep(&place, node, "full");
    let again = place.spawn_at("full", "127.0.0.1:0", &[&other.address]);
    assert_eq!(again.told(&["get", "full", "kept"]), "1");
    assert_eq!(again.told(&["get", "full", "large2"]).len(), 20_000);
    assert_eq!(again.ask(&["get", "full", "large"]).code, 1);
}

#[test]
fn a_node_whose_disk_can_only_be_read_starts_and_says_so() {
    if !has_mounts() {
        return;
    }
    let place = Place4Nodes::new();
    let other = place.spawn_at("other", "127.0.0.1:0", &[]);
    let mut command = place.run_command("ro", &[&other.address]);
    command.args(["--listen", "127.0.0.1:0", "--data", "disk", "--control", "ro.sock"]);
    let first = OnOwnDisk::start(&place, "ro", &command, "");
    first.process.told(&["set", "kept", "1"]);
    first.process.kill();
    let read_only = "mount --bind disk disk; mount -o remount,bind,ro disk";
    let node = OnOwnDisk::start(&place, "ro", &command, read_only);
    let own = &node.process;
    assert!(own.degraded().contains("Read-only"), "{}", own.degraded());
    let said = own.ask(&["set", "kept", "2"]);
    assert_eq!(said.code, 1);
    for word in ["disk/ro/state.journal", "Read-only", "--data"] {
        assert!(said.err.contains(word), "{}", said.err);
    }
    other.told(&["--timeout", "60s", "wait", "key", "ro", "kept", "1"]);
    the_rest_goes_on(own, &other, "read-only");
    node.run("mount -o remount,bind,rw \"$1\"");
    eventually("it finds that it can write", || own.degraded() == "[]");
    own.told(&["set", "new", "3"]);
    node.process.kill();
    let again = OnOwnDisk::start(&place, "ro", &command, "");
    assert_eq!(again.process.told(&["get", "ro", "new"]), "3");
    again.process.kill();
    // Where there is no state, a start would promise what it can't keep.
    let mut fresh = place.run_command("fresh", &[&other.address]);
    fresh.args(["--listen", "127.0.0.1:0", "--data", "/proc/none", "--control", "fresh.sock"]);
    let said: crate::support::process::Said = fresh.output().unwrap().into();
    assert_eq!(said.code, 2, "nothing can be there, whoever tries: {said:?}");
    assert!(said.err.contains("/proc/none"), "{}", said.err);
}

/// A disk that is mounted at `disk`, and in `store` too, so that it can be mounted again.
const MOUNTED: &str =
    "mkdir store; mount -t tmpfs -o size=1m,mode=700 tmpfs store; mount --bind store disk";

fn on_mounted_disk(place: &Place4Nodes, other: &Process, sync: &str) -> OnOwnDisk {
    let mut command = place.run_command("away", &[&other.address]);
    command.args(["--listen", "127.0.0.1:0", "--data", "disk", "--control", "away.sock"]);
    command.args(["--sync", sync]);
    let node = OnOwnDisk::start(place, "away", &command, MOUNTED);
    node.process.told(&["set", "kept", "1"]);
    other.told(&["--timeout", "60s", "wait", "key", "away", "kept", "1"]);
    node
}

/// Changes are refused, with what to do; all else goes on; nothing is written where the path leads.
fn refuses_and_goes_on(node: &OnOwnDisk, other: &Process, round: &str) {
    let own = &node.process;
    for _ in 0..2 {
        let said = own.ask(&["set", "refused", round]);
        assert_eq!(said.code, 1, "{round}: {said:?}");
        for word in ["the folder disk/away", "mount it again", "start the node again"] {
            assert!(said.err.contains(word), "{round}: {}", said.err);
        }
    }
    assert!(own.degraded().contains("the folder disk/away"), "{round}: {}", own.degraded());
    assert_eq!(own.ask(&["get", "away", "refused"]).code, 1, "{round}");
    the_rest_goes_on(own, other, round);
    let there = std::fs::read_dir(node.path("")).unwrap().count();
    assert_eq!(there, 0, "{round}: it wrote to the other disk");
}

/// The disk goes while nobody looks (`umount -l`, a pulled plug), or another one is mounted over
/// it: a change would be written where nobody finds it after a restart.
#[test]
fn a_disk_that_is_gone_is_named_and_comes_back_with_all_that_was_acknowledged() {
    if !has_mounts() {
        return;
    }
    for sync in ["always", "shared", "5s"] {
        let place = Place4Nodes::new();
        let other = place.spawn_at("other", "127.0.0.1:0", &[]);
        let node = on_mounted_disk(&place, &other, sync);
        let own = &node.process;
        node.run("umount -l \"$1\"");
        refuses_and_goes_on(&node, &other, &format!("unmounted, {sync}"));
        node.run("mount --bind \"$1/../store\" \"$1\"");
        eventually("it finds the disk", || own.degraded() == "[]");
        own.told(&["set", "again", "2"]);
        node.run("mount -t tmpfs tmpfs \"$1\"");
        refuses_and_goes_on(&node, &other, &format!("mounted over, {sync}"));
        node.run("umount \"$1\"");
        eventually("it finds the disk", || own.degraded() == "[]");
        own.told(&["set", "last", "3"]);
        kill_and_keep(&place, node, "away");
        let again = place.spawn_at("away", "127.0.0.1:0", &[&other.address]);
        for (key, value) in [("kept", "1"), ("again", "2"), ("last", "3")] {
            assert_eq!(again.told(&["get", "away", key]), value, "{sync}");
        }
        assert_eq!(again.ask(&["get", "away", "refused"]).code, 1, "{sync}");
    }
}

/// The socket is on the disk, too: people reach the node while that is gone, and when it is back,
/// with the socket of before on it, which nobody serves any more.
#[test]
fn a_node_whose_disk_is_gone_is_reached_and_reached_again() {
    if !has_mounts() {
        return;
    }
    let place = Place4Nodes::new();
    let mut command = place.run_command("away", &[]);
    command.args(["--listen", "127.0.0.1:0", "--data", "disk"]);
    let mut node = OnOwnDisk::start(&place, "away", &command, MOUNTED);
    node.process.control = node.path("away/control.sock");
    let own = &node.process;
    own.told(&["set", "kept", "1"]);
    node.run("umount -l \"$1\"");
    eventually("it is reached", || own.ask(&["status"]).code == 0);
    assert_eq!(own.ask(&["set", "refused", "1"]).code, 1);
    node.run("mount --bind \"$1/../store\" \"$1\"");
    eventually("it is reached again", || own.ask(&["status"]).code == 0);
    eventually("it finds the disk", || own.degraded() == "[]");
    own.told(&["set", "again", "2"]);
    assert_eq!(own.told(&["get", "away", "kept"]), "1");
}

/// A disk that is plugged in again may come back under another number. It is known by its file.
#[test]
fn a_disk_that_comes_back_as_another_one_is_known_again() {
    if !has_mounts() {
        return;
    }
    let place = Place4Nodes::new();
    let other = place.spawn_at("other", "127.0.0.1:0", &[]);
    let node = on_mounted_disk(&place, &other, "always");
    node.run("umount -l \"$1\"");
    refuses_and_goes_on(&node, &other, "unplugged");
    node.run("mount -t tmpfs -o mode=700 tmpfs \"$1\"; cp -a \"$1/../store/.\" \"$1\"");
    eventually("it finds the disk", || node.process.degraded() == "[]");
    node.process.told(&["set", "again", "2"]);
    kill_and_keep(&place, node, "away");
    let again = place.spawn_at("away", "127.0.0.1:0", &[&other.address]);
    assert_eq!(again.told(&["get", "away", "kept"]), "1");
    assert_eq!(again.told(&["get", "away", "again"]), "2");
}

/// What is made anew is made on the disk of the start, or not at all.
#[test]
fn a_folder_that_was_removed_is_not_made_anew_on_another_disk() {
    if !has_mounts() {
        return;
    }
    let place = Place4Nodes::new();
    let other = place.spawn_at("other", "127.0.0.1:0", &[]);
    let node = on_mounted_disk(&place, &other, "always");
    node.run("rm -r \"$1/away\"; umount -l \"$1\"");
    refuses_and_goes_on(&node, &other, "removed and unmounted");
    node.run("mount --bind \"$1/../store\" \"$1\"");
    eventually("it finds the disk", || node.process.degraded() == "[]");
    node.process.told(&["set", "again", "2"]);
    kill_and_keep(&place, node, "away");
    let again = place.spawn_at("away", "127.0.0.1:0", &[&other.address]);
    assert_eq!(again.told(&["get", "away", "kept"]), "1");
    assert_eq!(again.told(&["get", "away", "again"]), "2");
}

#[test]
fn a_folder_that_is_removed_is_named_and_made_anew() {
    let place = Place4Nodes::new();
    let other = place.spawn_at("other", "127.0.0.1:0", &[]);
    let node = place.spawn_at("gone", "127.0.0.1:0", &[&other.address]);
    node.told(&["set", "kept", "1"]);
    other.told(&["--timeout", "60s", "wait", "key", "gone", "kept", "1"]);
    let mut open = ControlClient::connect(&node.control, PATIENCE).unwrap();
    open.call(&json!({ "op": "status" }), PATIENCE).unwrap();
    std::fs::remove_dir_all(place.path().join("data/gone")).unwrap();
    let set = |open: &mut ControlClient, value: &str| {
        open.call(&json!({ "op": "set", "entries": { "k": value } }), PATIENCE)
    };
    match set(&mut open, "refused") {
        Err(Failure::No(why)) => {
            assert!(why.contains("state.journal") && why.contains("removed"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    let status = open.call(&json!({ "op": "status" }), PATIENCE).unwrap();
    assert!(status["degraded"].to_string().contains("removed"), "{status}");
    // The control socket was in there too.
    eventually("the socket is there again", || node.ask(&["status"]).code == 0);
    eventually("the state is there again", || node.degraded() == "[]");
    the_rest_goes_on(&node, &other, "removed");
    node.told(&["set", "k", "new"]);
    node.kill();
    let again = place.spawn_at("gone", "127.0.0.1:0", &[&other.address]);
    assert_eq!(again.told(&["get", "gone", "kept"]), "1");
    assert_eq!(again.told(&["get", "gone", "k"]), "new");
}

/// Sets that were acknowledged, those that were refused, and the value of each key.
fn change_often(node: &Process, bytes: usize) -> (Vec<(String, String)>, usize) {
    let mut kept = Vec::new();
    let mut refused = 0;
    for number in 0..20 {
        let (key, value) = (format!("k{}", number % 3), format!("{number}{}", "x".repeat(bytes)));
        match node.ask(&["set", &key, &value]).code {
            0 => kept.push((key, value)),
            _ => refused += 1,
        }
    }
    (kept, refused)
}

/// Real system calls of a real node fail for a while: what was acknowledged is there after a
/// kill -9, and nothing that was refused is.
#[test]
fn calls_that_fail_cost_nothing_acknowledged() {
    if !has_strace() {
        return;
    }
    let renames = "rename,renameat,renameat2";
    let faults: [(&str, &str, usize); 7] = [
        ("pwrite64", "ENOSPC:when=3..6", 10),
        ("pwrite64", "EROFS:when=2..4", 10),
        ("write", "ENOSPC:when=1..2", 50_000),
        ("fdatasync", "EIO:when=3", 10),
        ("fsync", "EIO:when=1..3", 50_000),
        (renames, "EIO:when=1..3", 50_000),
        ("openat", "EMFILE:when=2..4", 50_000),
    ];
    for (calls, fault, bytes) in faults {
        let place = Place4Nodes::new();
        // Made before the faults begin.
        place.spawn_at("bad", "127.0.0.1:0", &[]).kill();
        let mut command = place.run_command("bad", &[]);
        command.args(["--listen", "127.0.0.1:0"]);
        let journal = place.path().join("data/bad/state.journal");
        let new = place.path().join("data/bad/state.journal.new");
        let inject = format!("inject={calls}:error={fault}");
        let paths = [journal.to_str().unwrap(), new.to_str().unwrap()];
        // The node opens it by the path that it was given.
        let relative = ["data/bad/state.journal", "data/bad/state.journal.new"];
        let trace = format!("trace={calls}");
        let mut arguments = vec!["-e", &trace, "-e", &inject];
        arguments.extend(paths.iter().chain(&relative).flat_map(|path| ["-P", path]));
        let seen = place.path().join("strace");
        let node = place.spawn(under_strace(&command, &arguments, &seen), "bad");
        let (kept, refused) = change_often(&node, bytes);
        let injected = std::fs::read_to_string(&seen).unwrap().matches("(INJECTED)").count();
        assert!(injected > 0, "{calls} {fault}: nothing failed");
        let tells = refused > 0 || node.log_text().contains("could not be made smaller");
        assert!(tells, "{calls} {fault}: {}", node.log_text());
        assert!(kept.len() >= 10, "{calls} {fault}: {} kept, {refused} refused", kept.len());
        eventually("the node is well again", || node.degraded() == "[]");
        node.kill();
        let again = place.spawn_at("bad", "127.0.0.1:0", &[]);
        for key in 0..3 {
            let key = format!("k{key}");
            let last = kept.iter().rev().find(|(known, _)| *known == key).map(|(_, value)| value);
            assert_eq!(Some(&again.told(&["get", "bad", &key])), last, "{calls} {fault}");
        }
        assert!(!again.log_text().contains("damaged"), "{calls} {fault}: {}", again.log_text());
    }
}

/// Where the frames of a journal begin and end; values must not look like one.
fn frames(journal: &[u8]) -> Vec<std::ops::Range<usize>> {
    let is_start = |at: &usize| journal[*at..].starts_with(b"dsnJ");
    let starts: Vec<usize> = (0..journal.len()).filter(is_start).collect();
    let ends = starts.iter().copied().skip(1).chain([journal.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

/// A block of the card can't be read at the start.
#[test]
fn a_block_that_cant_be_read_costs_that_block_alone() {
    if !has_strace() {
        return;
    }
    const KEYS: usize = 14;
    let place = Place4Nodes::new();
    let other = place.spawn_at("other", "127.0.0.1:0", &[]);
    let node = place.spawn_at("bad", "127.0.0.1:0", &[&other.address]);
    other.told(&["--timeout", "60s", "wait", "peers", "1"]);
    let value = "x".repeat(6000);
    for key in 0..KEYS {
        node.told(&["set", &format!("k{key}"), &value]);
    }
    let peers = place.path().join("credentials/bad/known_peers");
    eventually("the peer is on disk", || peers.exists());
    node.kill();
    let journal = std::fs::read(place.path().join("data/bad/state.journal")).unwrap();
    // The second call reads from here on; the first frame is the empty state of the first start.
    let block = 64 * 1024..64 * 1024 + 4096;
    let lost: Vec<usize> = frames(&journal)[1..]
        .iter()
        .enumerate()
        .filter(|(_, frame)| frame.start < block.end && block.start < frame.end)
        .map(|(key, _)| key)
        .collect();
    assert!(!lost.is_empty() && lost.len() < 3, "{lost:?}");
    let mut command = place.run_command("bad", &[&other.address]);
    command.args(["--listen", "127.0.0.1:0"]);
    // The first block of the journal holds a copy of its head alone.
    for (file, aside, call, lost) in [
        ("data/bad/state.journal", "data/bad/state.damaged-1", 1, &[][..]),
        ("data/bad/state.journal", "data/bad/state.damaged-2", 2, &lost[..]),
        ("credentials/bad/known_peers", "credentials/bad/known_peers.damaged-1", 1, &lost[..]),
    ] {
        let path = place.path().join(file);
        if call == 2 {
            // As it was before it was rewritten.
            std::fs::write(&path, &journal).unwrap();
        }
        let before = std::fs::read(&path).unwrap();
        let inject = format!("inject=pread64:error=EIO:when={call}");
        let arguments = ["-e", "trace=pread64", "-e", &inject, "-P", path.to_str().unwrap()];
        let strace = under_strace(&command, &arguments, &place.path().join("strace"));
        let node = place.spawn(strace, "bad");
        node.logged(&[&format!("{file} can't be read"), aside]);
        assert_eq!(std::fs::read(place.path().join(aside)).unwrap(), before, "nothing is lost");
        for key in 0..KEYS {
            let said = node.ask(&["get", "bad", &format!("k{key}")]);
            assert_eq!(said.code == 1, lost.contains(&key), "{file}, {call}: k{key}");
            assert!(said.code == 1 || said.out.trim_end() == value);
        }
        node.told(&["--timeout", "60s", "wait", "peers", "1"]);
        other.told(&["--timeout", "60s", "wait", "key", "bad", "k0"]);
        node.kill();
    }
}

/// A node without peers whose syncs are counted.
fn counted(place: &Place4Nodes, sync: &str, more: &[&str], seen: &Path) -> Process {
    let mut command = place.run_command("s", &[]);
    command.args(["--listen", "127.0.0.1:0", "--sync", sync]);
    let arguments = [&["-e", "trace=fsync,fdatasync"], more].concat();
    place.spawn(under_strace(&command, &arguments, seen), "s")
}

/// Changes that come at fixed times, whether the last one is done or not.
fn at_20_a_second(node: &Process, seconds: u64) {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..seconds * 20 {
            let due = began + Duration::from_millis(number * 50);
            crate::faults::tools::let_pass(due.saturating_duration_since(Instant::now()));
            let path = &node.control;
            scope.spawn(move || {
                let entries = json!({ format!("k{}", number % 7): number.to_string() });
                let mut node = ControlClient::connect(path, PATIENCE).unwrap();
                node.call(&json!({ "op": "set", "entries": entries }), PATIENCE).unwrap();
            });
        }
    });
}

#[test]
fn twenty_changes_a_second_cost_a_few_syncs_a_second() {
    if !has_strace() {
        return;
    }
    const SECONDS: usize = 5;
    let syncs = ["fsync", "fdatasync"];
    for (rule, least, most) in
        [("always", 20, usize::MAX), ("shared", 2, 5 * SECONDS + 5), ("1s", 2, 2 * SECONDS + 5)]
    {
        let place = Place4Nodes::new();
        let seen = place.path().join("strace");
        let node = counted(&place, rule, &[], &seen);
        let before = calls(&seen, &syncs);
        let began = Instant::now();
        at_20_a_second(&node, SECONDS as u64);
        let took = began.elapsed();
        let count = calls(&seen, &syncs) - before;
        crate::faults::tools::figure(&format!(
            "--sync {rule}: {} changes in {took:?}, {count} syncs",
            SECONDS * 20
        ));
        assert!((least..=most).contains(&count), "--sync {rule}: {count} syncs");
        assert_eq!(node.json(&["status"])["keys"], 7);
        node.kill();
    }
}

/// However slow the disk: those that wait together share the next sync.
#[test]
fn changes_that_wait_together_share_a_sync() {
    if !has_strace() {
        return;
    }
    let place = Place4Nodes::new();
    let seen = place.path().join("strace");
    let slow = ["-e", "inject=fdatasync:delay_exit=30000"];
    let node = counted(&place, "always", &slow, &seen);
    let before = calls(&seen, &["fdatasync"]);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &node.control;
            scope.spawn(move || {
                let mut node = ControlClient::connect(path, PATIENCE).unwrap();
                for number in 0..10 {
                    let entries = json!({ format!("w{writer}"): number.to_string() });
                    node.call(&json!({ "op": "set", "entries": entries }), PATIENCE).unwrap();
                }
            });
        }
    });
    let count = calls(&seen, &["fdatasync"]) - before;
    crate::faults::tools::figure(&format!(
        "80 changes of 8 programs on a slow disk: {count} syncs"
    ));
    assert!((10..=40).contains(&count), "{count}");
}
