//! What a service manager hears of a node: that it serves, that it is well while it is, that it
//! stops.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::support::process::Process;
use crate::support::{Place4Nodes, eventually};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

/// The time that the watchdog of these tests is set to: the node tells thrice in it.
const WATCHDOG: Duration = Duration::from_secs(1);

struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(place: &Place4Nodes) -> Self {
        let socket = UnixDatagram::bind(place.path().join("notify.sock")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket }
    }

    fn start(&self, place: &Place4Nodes) -> Process {
        let mut command = place.run_command("a", &[]);
        command.args(["--listen", "127.0.0.1:0"]);
        command.env("NOTIFY_SOCKET", place.path().join("notify.sock"));
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        command.env_remove("WATCHDOG_PID");
        place.spawn(command, "a")
    }

    /// All that was told since the last look.
    fn heard(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let next = || self.socket.recv(&mut bytes).ok().map(|it| bytes[..it].to_vec());
        std::iter::from_fn(next).map(|it| String::from_utf8(it).unwrap()).collect()
    }

    fn await_watchdog(&self, times: usize) {
        let mut fed = 0;
        eventually("the watchdog is fed", || {
            fed += self.heard().iter().filter(|it| *it == "WATCHDOG=1").count();
            fed >= times
        });
    }
}

#[test]
fn a_node_tells_when_it_serves_and_then_that_it_is_well_and_that_it_stops() {
    let place = Place4Nodes::new();
    let manager = Manager::new(&place);
    let mut node = manager.start(&place);
    let mut heard = Vec::new();
    eventually("it says ready", || {
        heard.extend(manager.heard());
        !heard.is_empty()
    });
    assert!(heard[0].starts_with("READY=1\n"), "{heard:?}");
    assert!(heard[0].contains(&node.address), "{heard:?}");
    // The first one may have come already.
    manager.await_watchdog(3);
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), Some(0));
    assert_eq!(manager.heard().last().map(String::as_str), Some("STOPPING=1"));
}

/// A node that has no descriptor left can take no connection: it is deaf, though all its threads
/// live. It must not say that it is well until it is again.
#[test]
fn a_deaf_node_does_not_feed_its_watchdog() {
    let place = Place4Nodes::new();
    let manager = Manager::new(&place);
    let node = manager.start(&place);
    manager.await_watchdog(2);
    let limit = |current| {
        let pid = Pid::from_child(&node.child);
        let new = Rlimit { current: Some(current), maximum: Some(1024) };
        prlimit(Some(pid), Resource::Nofile, new).unwrap();
    };
    limit(1);
    eventually("it says what is wrong", || node.log_text().contains("watchdog is not fed"));
    manager.heard();
    let until = Instant::now() + 3 * WATCHDOG;
    while Instant::now() < until {
        assert_eq!(manager.heard(), [] as [&str; 0], "a deaf node said that it is well");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    limit(1024);
    manager.await_watchdog(2);
}
