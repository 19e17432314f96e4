//! What these tests need from the host: strace, mounts of their own, a clock that can be set.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Place4Nodes;
use crate::support::process::Process;

/// Says that a test can't be run here, or fails where it has to.
pub(crate) fn skip(what: &str) {
    crate::support::skip("DSN_REQUIRE_FAULTS", &format!("this host lacks {what}"));
}

fn say_skipped(what: &str) {
    // Straight to the terminal: the output of a test that passes is not shown.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: this host lacks {what}");
}

pub(crate) fn has_strace() -> bool {
    let found = Command::new("strace").args(["-D", "-o", "/dev/null", "true"]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        skip("strace (apt-get install strace), or the right to use it");
    }
    found
}

/// The command under strace, which stays in the background: the child is the command itself.
pub(crate) fn under_strace(command: &Command, arguments: &[&str], output: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-o"]).arg(output).args(arguments).arg("--");
    around(strace, command)
}

/// Puts a command behind another one that runs it, with its folder and environment.
pub(crate) fn around(mut outer: Command, command: &Command) -> Command {
    outer.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// How often strace saw one of these calls succeed.
pub(crate) fn calls(output: &Path, names: &[&str]) -> usize {
    let text = std::fs::read_to_string(output).unwrap_or_default();
    let is_call = |line: &&str| {
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        names.iter().any(|name| call.starts_with(&format!("{name}(")))
    };
    text.lines().filter(is_call).count()
}

/// `unshare` with the arguments that give a process mounts of its own.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    let is_root = rustix::process::getuid().is_root();
    command.args(if is_root { &["-m"][..] } else { &["-r", "-m"] });
    command
}

pub(crate) fn has_mounts() -> bool {
    let script = "mount -t tmpfs none /mnt && nsenter --version";
    let found = unshare().args(["sh", "-c", script]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        skip("unshare, nsenter, or the right to mount (run as root)");
    }
    found
}

/// A script that makes a FAT file system in `fat.img` and mounts it at `disk`: of the kernel, or by
/// FUSE. Behind the line `#` it is mounted. A kernel that has neither is no fault of this host.
pub(crate) fn fat_mount() -> Option<&'static str> {
    let kinds = [
        "truncate -s 16M fat.img; mkfs.vfat fat.img >&2\n#\nmount -o loop,umask=022 fat.img disk",
        "truncate -s 16M fat.img; mkfs.exfat fat.img >&2\n#\nloop=$(losetup --show -f fat.img)\n\
         mount.exfat-fuse -o umask=022 $loop disk >&2; losetup -d $loop",
    ];
    let works = |script: &&&str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        let script = format!("{script}\ntouch disk/file; umount disk");
        let mut command = unshare();
        command.current_dir(folder.path()).args(["sh", "-ec", &script]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let found = kinds.iter().find(works).copied();
    if found.is_none() {
        say_skipped("a FAT file system (dosfstools and vfat, or exfatprogs and exfat-fuse)");
    }
    found
}

/// A node with a small disk of its own, that no other process sees.
pub(crate) struct OnOwnDisk {
    pub(crate) process: Process,
    folder: PathBuf,
}

impl OnOwnDisk {
    /// Starts a node whose folder `disk` is a new disk, prepared by the script.
    pub(crate) fn start(
        place: &Place4Nodes,
        node_id: &str,
        command: &Command,
        script: &str,
    ) -> Self {
        let folder = place.path().join("disk");
        std::fs::create_dir_all(&folder).unwrap();
        let mut outer = unshare();
        outer.args(["sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
        let mut process = place.spawn(around(outer, command), node_id);
        process.control = place.path().join(format!("{node_id}.sock"));
        Self { process, folder }
    }

    /// A path on its disk, seen from here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.process.child.id());
        PathBuf::from(root).join(self.folder.strip_prefix("/").unwrap()).join(name)
    }

    /// Runs a script that sees the disk; its folder is `$1`.
    pub(crate) fn run(&self, script: &str) {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.process.child.id().to_string(), "-m"]);
        if !rustix::process::getuid().is_root() {
            nsenter.args(["-U", "--preserve-credentials"]);
        }
        let done = nsenter.args(["sh", "-ec", script, "sh"]).arg(&self.folder).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The library that gives a process another clock.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let found = folders
        .chain(["/usr/lib".into(), "/usr/local/lib".into()])
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists());
    if found.is_none() {
        skip("libfaketime (apt-get install faketime)");
    }
    found
}

/// A figure for whoever runs the tests with `--nocapture`, and in the report of a failure.
#[allow(clippy::print_stdout, reason = "figures are what some of these tests are for")]
pub(crate) fn figure(text: &str) {
    println!("{text}");
}

/// Waits that long, whatever wakes this thread meanwhile.
pub(crate) fn let_pass(time: std::time::Duration) {
    let until = std::time::Instant::now() + time;
    while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
        std::thread::park_timeout(left);
    }
}
