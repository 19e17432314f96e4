//! Nothing is written while nothing changes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::faults::tools::{calls, has_strace, under_strace};
use crate::support::process::Process;
use crate::support::{Place4Nodes, eventually};

const IDLE: Duration = Duration::from_secs(30);
/// Calls that change something on a disk, or make it write.
const CHANGES: &str = "fsync,fdatasync,sync,syncfs,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,\
    mkdir,mkdirat,link,linkat,truncate,ftruncate,fallocate,utimensat,pwrite64,fchmod,chmod,fchmodat";

/// Everything below a folder: its inode, size and times, of folders too, so that a file that came
/// and went is seen.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, [i64; 6]> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let (inode, size) = (meta.ino() as i64, meta.size() as i64);
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        found.insert(path, [inode, size, times[0], times[1], times[2], times[3]]);
    }
    found
}

/// Bytes that the process made the kernel write to any disk, log included.
fn written(node: &Process) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", node.child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let place = Place4Nodes::new();
    let first = place.spawn_at("i0", "127.0.0.1:0", &[]);
    let second = place.spawn_at("i1", "127.0.0.1:0", &[&first.address]);
    let seen = place.path().join("strace");
    let traced = has_strace();
    let mut command = place.run_command("i2", &[&first.address]);
    command.args(["--listen", "127.0.0.1:0"]);
    if traced {
        command = under_strace(&command, &["-e", &format!("trace={CHANGES}")], &seen);
    }
    let third = place.spawn(command, "i2");
    let nodes = [first, second, third];
    for node in &nodes {
        node.told(&["--timeout", "60s", "wait", "peers", "2"]);
        node.told(&["set", "k", "v"]);
    }
    let trace = || std::fs::metadata(&seen).map_or(0, |meta| meta.len());
    let of_folders = || {
        let folders = ["data", "credentials"].map(|name| snapshot(&place.path().join(name)));
        (folders, nodes.each_ref().map(written), trace())
    };
    let mut before = of_folders();
    let mut since = Instant::now();
    eventually("the joins are written", || {
        let now = of_folders();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(3)
    });
    crate::faults::tools::let_pass(IDLE);
    assert_eq!(of_folders(), before, "something was written");
    for node in &nodes {
        assert_eq!(node.json(&["status"])["peers"]["alive"], 2, "they went on talking");
    }
    // What would have been seen.
    let syncs = calls(&seen, &["fdatasync"]);
    nodes[2].told(&["set", "k", "w"]);
    let after = of_folders();
    assert_ne!(after.0, before.0);
    // A disk in memory does not count them.
    assert!(after.1[2] >= before.1[2]);
    assert!(!traced || calls(&seen, &["fdatasync"]) == syncs + 1);
}
