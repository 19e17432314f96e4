//! The scripts and the unit: what they say, and what they take.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::process::{Said, binary, install};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let scripts: Vec<_> = entries.filter(|path| path.extension() == Some("sh".as_ref())).collect();
    assert!(scripts.len() > 10, "{scripts:?}");
    scripts
}

fn say(script: &Path, arguments: &[&str]) -> Said {
    Command::new(script).args(arguments).output().unwrap().into()
}

#[test]
fn each_script_has_a_help_and_names_an_option_that_it_does_not_know() {
    for script in scripts() {
        let name = script.file_name().unwrap().to_str().unwrap();
        for help in ["--help", "-h"] {
            let said = say(&script, &[help]);
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{name} {help}");
            let usage = format!("  scripts/{name}");
            assert!(said.out.contains(&usage), "{name} {help} says {:?}", said.out);
            assert!(!said.out.contains('#'), "{name} {help} says {:?}", said.out);
        }
        let said = say(&script, &["--frobnicate"]);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{name}: {}", said.err);
        let begins = said.err.starts_with(&format!("{name}: "));
        assert!(begins && said.err.contains("--frobnicate"), "{name} says {:?}", said.err);
    }
}

/// What is not dsn for this host, in a file that may be started.
fn not_dsn(folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let file = |name: &str, bytes: &[u8]| {
        let (path, written) = (folder.join(name), folder.join("written"));
        std::fs::write(&written, bytes).unwrap();
        install(&written, &path);
        path
    };
    let own = std::fs::read(binary()).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = own[..4096].to_vec();
        bytes[at] = byte;
        bytes
    };
    vec![
        (file("text", b"kitchen\n"), "not a program"),
        (file("empty", b""), "not a program"),
        (file("object", &with(16, 1)), "no program that can be started"),
        (file("mips", &with(18, 8)), "for a processor"),
        (file("cut", &own[..4096]), "--version says"),
        (PathBuf::from("/bin/true"), "--version says"),
        (folder.join("none"), "there is no binary"),
    ]
}

/// It has to be root: the check of the binary comes before anything is changed.
#[test]
fn the_installer_takes_nothing_but_dsn() {
    if !rustix::process::getuid().is_root() || std::env::consts::ARCH == "arm" {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install.sh");
    for (file, why) in not_dsn(folder.path()) {
        // A root without a user of that name: nothing could be installed there.
        let said = say(&script, &["--binary", file.to_str().unwrap(), "--prefix", "/nonexistent"]);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{}: {}", file.display(), said.err);
        assert!(said.err.contains(why), "{}: {}", file.display(), said.err);
        assert!(said.err.contains("--binary"), "{}: {}", file.display(), said.err);
    }
}

#[test]
fn the_installer_remembers_where_it_put_the_binary() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let users = "dsn:x:990:990::/var/lib/dsn:/usr/sbin/nologin\n";
    std::fs::write(root.path().join("etc/passwd"), users).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install.sh");
    let own = binary();
    let run = |arguments: &[&str]| {
        let place = ["--root", root.path().to_str().unwrap()];
        let said = say(&script, &[&place, arguments].concat());
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}: {}", said.out);
        said.out
    };
    let file = ["--binary", own.to_str().unwrap()];
    let at = |prefix: &str| root.path().join(prefix).join("bin/dsn");
    run(&[&file[..], &["--prefix", "/opt/d"]].concat());
    assert!(at("opt/d").exists());
    assert!(run(&file).contains("/opt/d/bin/dsn is up to date"));
    run(&[&file[..], &["--prefix", "/opt/e"]].concat());
    assert!(at("opt/e").exists() && !at("opt/d").exists(), "it moved");
    assert!(run(&["--uninstall"]).contains("/opt/e/bin/dsn removed"));
    assert!(!at("opt/e").exists());
    assert!(root.path().join("etc/dsn/dsn.toml").exists(), "the configuration stays");
}

/// The settings of a section of the unit.
fn unit() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd/dsn.service");
    settings_in(&std::fs::read_to_string(path).unwrap())
}

fn settings_in(unit: &str) -> Vec<(String, String)> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn of<'a>(unit: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    unit.iter().filter(|(it, _)| it == name).map(|(_, value)| value.as_str()).collect()
}

/// `dsn stop` and `leave` end a node with 0, and it stays ended; all other ends are mended.
#[test]
fn a_node_that_was_stopped_on_purpose_stays_stopped_and_all_else_is_started_anew() {
    let unit = unit();
    assert_eq!(of(&unit, "Restart"), ["on-failure"]);
    assert_eq!(of(&unit, "StartLimitIntervalSec"), ["0"], "for ever");
    // These would take what systemd calls a failure out of the rule.
    assert_eq!(of(&unit, "RestartPreventExitStatus"), [] as [&str; 0]);
    assert_eq!(of(&unit, "SuccessExitStatus"), [] as [&str; 0]);
}

#[test]
fn systemctl_reload_sends_the_signal_that_reloads() {
    let unit = unit();
    assert_eq!(of(&unit, "ExecReload"), ["/bin/sh -c 'kill -HUP $MAINPID'"]);
    // notify-reload, which could send it by itself, is younger than Debian 12.
    assert_eq!(of(&unit, "Type"), ["notify"]);
}

/// The folder of the socket lets the group pass that is said to be able to have it.
#[test]
fn the_group_of_the_service_can_reach_a_socket_that_is_given_to_it() {
    let unit = unit();
    assert_eq!(of(&unit, "RuntimeDirectoryMode"), ["0750"]);
    assert_eq!(of(&unit, "Group"), ["dsn"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd/dsn.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("\n#control-group = \"dsn\"\n"), "{text}");
}

/// Where systemd is at hand, it has nothing to say about the units.
#[test]
fn systemd_understands_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let own = format!("ExecStart={} ", binary().display());
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd");
    for (file, name) in [("dsn.service", "dsn.service"), ("dsn-on@.service", "dsn-on@door.service")]
    {
        let text = std::fs::read_to_string(units.join(file)).unwrap();
        let unit = folder.path().join(name);
        std::fs::write(&unit, text.replace("ExecStart=/usr/bin/dsn ", &own)).unwrap();
        let verify =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
        let Ok(verify) = verify else { return };
        let said: Said = verify.into();
        let ours: Vec<&str> = said.err.lines().filter(|line| line.contains(name)).collect();
        assert_eq!(ours, [] as [&str; 0]);
    }
}

/// Hooks of the service talk to its node, and what they run may end by itself.
#[test]
fn the_unit_of_hooks_fits_that_of_the_node() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd/dsn-on@.service");
    let hooks = settings_in(&std::fs::read_to_string(path).unwrap());
    assert_eq!(of(&hooks, "KillMode"), ["mixed"]);
    assert_eq!(of(&hooks, "User"), of(&unit(), "User"));
    assert!(of(&hooks, "Environment").contains(&"DSN_CONTROL=/run/dsn/control.sock"));
}
