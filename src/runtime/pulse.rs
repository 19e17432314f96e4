//! Whether a node is well, for a watchdog outside that starts it anew where it is not.

use std::io::{Error, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::RunningNode;
use crate::driver::Driver;
use crate::server::is_missing;

/// How late the tick may be. It needs the lock and no disk, so a second is much on a slow host.
const TICK_LATE_MAX: Duration = Duration::from_secs(10);
/// How long the own port may take to answer: as long as others wait for it.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// What the port is asked: it goes through the gate and tiny_http to a worker, which says 404.
const QUESTION: &[u8] = b"GET / HTTP/1.1\r\nHost: self\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 404 ";

/// Looks from the inside whether a node does its work.
pub struct Pulse {
    driver: Weak<Driver>,
    port: SocketAddr,
    handled: u64,
}

impl RunningNode {
    /// What tells how the node is doing. It does not keep the node alive.
    pub fn pulse(&self) -> Pulse {
        Pulse { driver: Arc::downgrade(&self.driver), port: self.listen, handled: 0 }
    }
}

impl Pulse {
    /// Takes the lock, looks whether the ticker ticks, and asks the own port. Says what is wrong.
    /// Where the lock is never given back, this does not return: that is an answer, too.
    pub fn check(&mut self) -> Result<(), String> {
        let driver = self.driver.upgrade().ok_or("the node has stopped")?;
        if let Some(why) = driver.broken() {
            return Err(why.to_owned());
        }
        let late = driver.tick_late();
        if late > TICK_LATE_MAX {
            return Err(format!("the tick is {} s late", late.as_secs()));
        }
        // Where others are answered, the port is well: it may be too busy for a stranger like us.
        let handled = driver.handled();
        if std::mem::replace(&mut self.handled, handled) != handled {
            return Ok(());
        }
        // Nobody can call it there, and a new start would not change that: `status` says it.
        if is_missing(self.port) {
            return Ok(());
        }
        ask(reachable(self.port))
            .map_err(|why| format!("the own port {} does not answer: {why}", self.port))
    }
}

/// Where a port can be reached from this host. One that takes both families is asked by IPv4, as
/// that works where IPv6 is switched off, too.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut there = listen;
    if there.ip().is_unspecified() {
        there.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    there
}

fn ask(port: SocketAddr) -> Result<(), Error> {
    let mut stream = TcpStream::connect_timeout(&port, ANSWER_TIME)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    stream.write_all(QUESTION)?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer)?;
    if answer == ANSWER {
        return Ok(());
    }
    Err(Error::other(format!("it says {:?}", String::from_utf8_lossy(&answer))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::protocol::identity::NodeId;

    fn node(folder: &std::path::Path) -> RunningNode {
        let mut config = Config::new(NodeId::new("a").unwrap());
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.credentials = folder.join("credentials");
        config.data = None;
        config.control = crate::config::Control::At(folder.join("a.sock"));
        config.tick = Duration::from_millis(100);
        crate::start(config).unwrap()
    }

    #[test]
    fn a_node_that_works_is_well_and_one_that_is_deaf_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut pulse = node.pulse();
        assert_eq!(pulse.check(), Ok(()));
        let server = node.driver.detach().unwrap();
        server.stop();
        let why = pulse.check().unwrap_err();
        assert!(why.contains("does not answer"), "{why}");
        drop(node);
        assert!(pulse.check().unwrap_err().contains("stopped"));
    }

    #[test]
    fn a_node_that_lost_a_thread_stops() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        node.driver.guard("dsn-journal", || panic!("it is wrong"));
        assert!(node.pulse().check().unwrap_err().contains("dsn-journal"));
        assert!(node.wait_for_stop().unwrap_err().contains("dsn-journal"));
    }

    #[test]
    fn a_node_whose_ticker_has_ended_is_not_well_though_its_port_answers() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = node(folder.path());
        let mut pulse = node.pulse();
        // The port has threads of its own.
        node.stop = None;
        let ticker = node.threads.pop().unwrap();
        assert_eq!(ticker.thread().name(), Some("dsn-ticker"));
        ticker.join().unwrap();
        let until = std::time::Instant::now() + 10 * TICK_LATE_MAX;
        let why = loop {
            assert_eq!(ask(node.listen).map_err(|why| why.to_string()), Ok(()));
            match pulse.check() {
                Err(why) => break why,
                Ok(()) => std::thread::park_timeout(Duration::from_millis(200)),
            }
            assert!(std::time::Instant::now() < until, "it is called well without a ticker");
        };
        assert!(why.contains("late"), "{why}");
        node.end(Duration::MAX);
    }
}
