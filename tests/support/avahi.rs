//! Avahi, the daemon of multicast DNS that most hosts have, as a foreign implementation. It runs in
//! a host of the test's own, with a bus of its own: the daemon of this machine, if there is one, is
//! neither asked nor touched.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::eventually;
use super::namespaces::Network;

/// Set where the tests must run: without avahi they fail then, else they are skipped.
const REQUIRED: &str = "DSN_REQUIRE_AVAHI";

/// Anybody who reaches the socket, which stands in a folder of the test, may do anything.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=SOCKET</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_type="signal"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"#;

const DAEMON: &str =
    "[server]\nhost-name=foreign\nuse-ipv4=yes\nuse-ipv6=no\n[publish]\npublish-workstation=no\n";

/// Whether all of it is here; that it is not is said aloud, or fails where it has to be.
pub fn is_here() -> bool {
    let missing = ["avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_err());
    let Some(missing) = missing else { return true };
    super::skip(REQUIRED, &format!("there is no {missing}"));
    false
}

/// The daemon on one host, with its bus.
pub struct Avahi<'a> {
    network: &'a Network,
    host: usize,
    socket: PathBuf,
    running: Vec<Child>,
}

impl<'a> Avahi<'a> {
    /// Starts both, and waits until they serve.
    pub fn start(network: &'a Network, host: usize, folder: &Path) -> Self {
        let path = |name: &str| folder.join(format!("{name}-{host}"));
        let (socket, bus, daemon) = (path("bus"), path("bus.conf"), path("avahi.conf"));
        std::fs::write(&bus, BUS.replace("SOCKET", socket.to_str().unwrap())).unwrap();
        std::fs::write(&daemon, DAEMON).unwrap();
        let mut avahi = Self { network, host, socket, running: Vec::new() };
        let mut command = network.command(host, "dbus-daemon");
        command.args(["--nofork", "--nopidfile", "--config-file"]).arg(bus);
        avahi.run(command);
        // A socket is there before somebody listens to it.
        eventually("the bus is there", || UnixStream::connect(&avahi.socket).is_ok());
        // `ip netns exec` gives it mounts of its own: the folder of its pid file is one of them.
        let mut command = avahi.command("sh");
        let script = "mount -t tmpfs none /run && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f \"$1\"";
        command.args(["-c", script, "avahi"]).arg(daemon);
        avahi.run(command);
        eventually("avahi is there", || {
            avahi
                .command("avahi-browse")
                .args(["-t", "_none._tcp"])
                .output()
                .unwrap()
                .status
                .success()
        });
        avahi
    }

    /// A command on the host that talks to the daemon.
    fn command(&self, program: &str) -> Command {
        let mut command = self.network.command(self.host, program);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.socket.display()));
        command
    }

    fn run(&mut self, mut command: Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running.push(command.spawn().unwrap());
    }

    /// What `avahi-browse` finds and resolves: interface, protocol, name, type, domain, host,
    /// address, port and text of each.
    pub fn browse(&self) -> Vec<Vec<String>> {
        let output =
            self.command("avahi-browse").args(["-t", "-r", "-p", "_dsn._tcp"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let resolved = text.lines().filter_map(|line| line.strip_prefix("=;"));
        resolved.map(|line| line.split(';').map(str::to_owned).collect()).collect()
    }

    /// Announces a service until the end of the test.
    pub fn publish(&mut self, name: &str, port: u16, texts: &[&str]) {
        let mut command = self.command("avahi-publish");
        command.args(["-s", name, "_dsn._tcp", &port.to_string()]).args(texts);
        self.run(command);
    }
}

impl Drop for Avahi<'_> {
    fn drop(&mut self) {
        for child in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
