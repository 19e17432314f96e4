//! The recipes of docs/recipes.md, as users run them: with real nodes, and the real counterparts.

mod fleet;
mod logs;
mod mqtt;
mod units;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::faults::tools::{around, has_mounts};
use crate::support::process::{Process, Said, binary, dsn, run_with, wait_for};
use crate::support::{Place4Nodes, skip};

/// What makes a tool that is missing a failure.
const REQUIRED: &str = "DSN_REQUIRE_RECIPES";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/recipes")
}

/// The names of all of them.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| name.ends_with(".sh")).collect();
    assert!(names.len() > 5, "{names:?}");
    names
}

/// Whether all these tools are there. Where one is not, a test has to pass over itself.
fn have(tools: &[(&str, &str)]) -> bool {
    for (tool, package) in tools {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain(["/usr/sbin".into()])
            .any(|folder| folder.join(tool).exists());
        if found {
            continue;
        }
        skip(REQUIRED, &format!("there is no {tool} (apt-get install {package})"));
        return false;
    }
    true
}

/// The shells of Debian and of small boards, each with the tools that it is found with.
#[derive(Clone)]
enum Shell {
    Default,
    /// With a folder of all tools that busybox has.
    Busybox(PathBuf),
}

fn shells(place: &Place4Nodes) -> Vec<Shell> {
    let mut shells = vec![Shell::Default];
    if have(&[("busybox", "busybox")]) {
        let tools = place.path().join("busybox");
        std::fs::create_dir_all(&tools).unwrap();
        let install = Command::new("busybox").args(["--install", "-s"]).arg(&tools).status();
        assert!(install.unwrap().success());
        shells.push(Shell::Busybox(tools));
    }
    shells
}

impl Shell {
    /// A recipe, in the folder of the nodes, that talks to this one.
    fn recipe(&self, place: &Place4Nodes, node: &Process, name: &str) -> Command {
        let script = folder().join(name);
        // Its environment is that of `dsn`: no setting of whoever runs the tests is in it.
        let mut command = match self {
            Self::Default => Command::new(script),
            Self::Busybox(tools) => {
                let mut command = Command::new(tools.join("sh"));
                let rest = std::env::var("PATH").unwrap_or_default();
                command.arg(script).env("PATH", format!("{}:{rest}", tools.display()));
                command
            }
        };
        for (name, value) in dsn().get_envs() {
            if value.is_none() {
                command.env_remove(name);
            }
        }
        command.env("DSN_BIN", binary()).env("DSN_CONTROL", &node.control);
        command.current_dir(place.path()).stdin(Stdio::null());
        command
    }

    fn say(&self, place: &Place4Nodes, node: &Process, name: &str, arguments: &[&str]) -> Said {
        self.recipe(place, node, name).args(arguments).output().unwrap().into()
    }
}

/// A recipe that goes on; it ends with the test, and all that it started.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.process_group(0).stdout(Stdio::null()).spawn().unwrap())
    }

    /// As a service manager ends it; gives its exit code.
    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        wait_for(&mut self.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// A program of a test. Another process writes it: who starts one meanwhile would hold it open, and
/// what is open for writing can't be started.
fn program(path: &Path, text: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(path);
    assert_eq!(run_with(&mut command, text.as_bytes()).code, 0);
}

/// Runs a recipe that replaces the file `full/old` where the disk `full` is full; gives what it
/// said, and what is in that file then. Nothing where the host can't have such a disk.
fn on_a_full_disk(place: &Place4Nodes, command: &Command) -> Option<(Said, String)> {
    if !has_mounts() {
        return None;
    }
    std::fs::create_dir_all(place.path().join("full")).unwrap();
    let script = "mount -t tmpfs -o size=32k,mode=700 tmpfs full; echo old >full/old; cat /dev/zero >full/fill \
                  2>&- || :; code=0; \"$@\" || code=$?; cat full/old; exit $code";
    let mut outer = Command::new("unshare");
    let is_root = rustix::process::getuid().is_root();
    outer.args(if is_root { &["-m"][..] } else { &["-r", "-m"] });
    outer.args(["sh", "-ec", script, "sh"]);
    let mut said: Said = around(outer, command).output().unwrap().into();
    let left = std::mem::take(&mut said.out);
    Some((said, left))
}

/// A node that knows the first one.
fn beside(place: &Place4Nodes, first: &Process, node_id: &str) -> Process {
    let node = place.spawn_at(node_id, "127.0.0.1:0", &[&first.address]);
    node.told(&["wait", "peers", "1", "--timeout", "60s"]);
    node
}

#[test]
fn each_has_a_help_and_names_what_it_does_not_know() {
    for name in names() {
        let say = |argument: &str| -> Said {
            Command::new(folder().join(&name)).arg(argument).output().unwrap().into()
        };
        for help in ["--help", "-h"] {
            let said = say(help);
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{name} {help}");
            assert!(said.out.contains(&format!("  {name}")), "{name} {help}: {}", said.out);
            assert!(said.out.contains("Exit codes: "), "{name} {help}: {}", said.out);
        }
        let said = say("--frobnicate");
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{name}: {}", said.err);
        let begins = said.err.starts_with(&format!("{name}: "));
        assert!(begins && said.err.contains("--frobnicate"), "{name} says {:?}", said.err);
    }
}

/// A user reads what to install, and not what a shell says.
#[test]
fn each_says_what_is_missing() {
    let place = Place4Nodes::new();
    std::fs::write(place.path().join("backup.json"), "[]").unwrap();
    let arguments: [(&str, &[&str]); 8] = [
        ("backup.sh", &["save", "."]),
        ("least-loaded.sh", &[]),
        ("log-changes.sh", &["run", "log.db"]),
        ("mqtt.sh", &[]),
        ("prometheus-targets.sh", &["8001", "targets.json"]),
        ("reading.sh", &[]),
        ("rolling-restart.sh", &["--", "true"]),
        ("watchdog.sh", &["--probe", "true", "--state", "state"]),
    ];
    let mut named: Vec<&str> = arguments.iter().map(|(name, _)| *name).collect();
    let mut all = names();
    all.sort();
    named.sort_unstable();
    assert_eq!(named, all, "each recipe is tried here");
    for (name, arguments) in arguments {
        if name == "log-changes.sh" && !have(&[("sqlite3", "sqlite3")]) {
            continue;
        }
        let mut command = Command::new(folder().join(name));
        command.args(arguments).current_dir(place.path()).env("DSN_BIN", "no-such-dsn");
        let said: Said = command.output().unwrap().into();
        assert_eq!(said.code, 2, "{name}: {}", said.err);
        assert!(said.err.contains("there is no no-such-dsn: install it"), "{name}: {}", said.err);
    }
}

/// A command that is missing is told, and a folder or a device where a file belongs.
#[test]
fn each_says_what_is_odd() {
    let place = Place4Nodes::new();
    for name in ["least-loaded.sh", "rolling-restart.sh", "watchdog.sh"] {
        let mut command = Command::new(folder().join(name));
        let said: Said = command.arg("--").env("DSN_BIN", "false").output().unwrap().into();
        assert_eq!(said.code, 2, "{name}: {}", said.err);
        assert!(said.err.contains("no command behind --"), "{name}: {}", said.err);
    }
    std::fs::create_dir(place.path().join("f")).unwrap();
    std::os::unix::fs::symlink("/dev/null", place.path().join("n")).unwrap();
    let arguments: [(&str, &[&str]); 6] = [
        ("prometheus-targets.sh", &["8001", "n"]),
        ("log-changes.sh", &["csv", "log.db", "n"]),
        ("prometheus-targets.sh", &["8001", "f"]),
        ("log-changes.sh", &["csv", "log.db", "f"]),
        ("log-changes.sh", &["run", "f"]),
        ("watchdog.sh", &["--probe", "true", "--state", "f"]),
    ];
    for (name, arguments) in arguments {
        if name == "log-changes.sh" && !have(&[("sqlite3", "sqlite3")]) {
            continue;
        }
        let mut command = Command::new(folder().join(name));
        command.args(arguments).current_dir(place.path()).env("DSN_BIN", "true");
        let said: Said = command.output().unwrap().into();
        assert_eq!(said.code, 2, "{name}: {}", said.err);
        assert!(said.err.contains(" is no file"), "{name}: {}", said.err);
    }
    assert!(std::fs::symlink_metadata(place.path().join("n")).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(place.path().join("f")).unwrap().count(), 0);
}

/// What a user finds in a page of documentation is what is there, and each is in the page.
#[test]
fn the_page_has_each_recipe() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let page = std::fs::read_to_string(page).unwrap();
    for name in names() {
        assert!(page.contains(&format!("[{name}](#")), "docs/recipes.md lacks {name}");
    }
}
