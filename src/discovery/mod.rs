//! Finding each other on the local network: multicast DNS service discovery (RFC 6762, 6763), for
//! those who hold the network key. docs/discovery.md says what it does, docs/protocol.md has the
//! bytes.
//!
//! One thread. What it says and makes of what it hears is decided in `plan`, which interfaces are
//! used in `links`; both are pure.

mod dns;
mod heard;
mod links;
mod plan;
mod sockets;

use std::io::Error;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::driver::{Discovering, Driver};
use crate::order::ListMap;
use crate::protocol::crypto::LABEL_BYTES;
use crate::protocol::fault::{Code, Fault};

use heard::{READ_MAX, sender};
use links::{Choice, Place, Serving};
use plan::{Family, Now, Plan, Sending};
use sockets::{Line, Room};

/// How long after a change of the links it is looked what there is, ms: they come in swarms.
const SETTLE_MS: u64 = 300;
/// How often that is looked without a reason, ms: a socket may have failed, or news been lost.
const LOOK_MS: u64 = 60_000;
/// The same while something is lacking, ms.
const LOOK_AGAIN_MS: u64 = 5_000;
/// Longest sleep, ms: who has lost all others asks for them soon.
const SLEEP_MAX_MS: u64 = 10_000;
/// Most messages that are read of one socket before the others have their turn. A flood is read in
/// less than a hundred turns a second.
const READ_AT_ONCE: u32 = READ_MAX / 64;
/// Stack of the thread, bytes.
const STACK_BYTES: usize = 256 * 1024;

const HINT: &str = "it is tried again by itself; nodes that are not found need --bootstrap meanwhile. docs/discovery.md says what it needs";

/// Looks for others until it is dropped or stopped.
pub struct Discovery {
    /// Dropped to stop it.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Discovery {
    /// Starts to announce the node that listens there, and to look for others.
    pub fn start(at: SocketAddr, driver: &Arc<Driver>) -> Result<Self, Error> {
        let (stop, stopped) = UnixStream::pair()?;
        // It is on, though no interface was looked at yet.
        driver.note_discovery(Some(Discovering::default()));
        let mut shell = Shell {
            driver: Arc::clone(driver),
            serving: serving(at),
            plan: Plan::new(at.port()),
            lines: Vec::new(),
            watcher: None,
            look_at: 0,
            silent: ListMap::new(),
            choice: Choice::default(),
            told: None,
            peers: 0,
        };
        let thread = std::thread::Builder::new().name(NAME.into()).stack_size(STACK_BYTES);
        let guard = Arc::clone(driver);
        let thread = thread.spawn(move || guard.guard(NAME, || shell.run(&stopped)))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Takes back what was announced and ends the thread: at once, as nothing in it blocks.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread {NAME} had panicked");
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.stop();
    }
}

const NAME: &str = "dsn-discovery";

fn serving(at: SocketAddr) -> Serving {
    let ip = at.ip().to_canonical();
    match at {
        // `[::]` takes IPv4, too.
        _ if ip.is_unspecified() => Serving::All { v4: true, v6: ip.is_ipv6() },
        SocketAddr::V6(it) if it.ip().is_unicast_link_local() => {
            Serving::One { ip, link: Some(it.scope_id()).filter(|link| *link > 0) }
        }
        _ => Serving::One { ip, link: None },
    }
}

struct Shell {
    driver: Arc<Driver>,
    serving: Serving,
    plan: Plan,
    lines: Vec<Line>,
    /// Tells of changes of the links; nothing where the system does not.
    watcher: Option<OwnedFd>,
    /// When it is to be looked which links there are, ms.
    look_at: u64,
    /// On which links nothing can be said or heard, and why.
    silent: ListMap<(u32, Family), String>,
    choice: Choice,
    /// What the node was told.
    told: Option<Discovering>,
    /// How many peers were alive a moment ago.
    peers: usize,
}

impl Shell {
    fn run(&mut self, stopped: &UnixStream) {
        let mut room = Room::new();
        loop {
            let now_ms = self.driver.now_ms();
            self.peers = self.driver.alive();
            if now_ms >= self.look_at {
                self.look(now_ms);
            }
            let sendings = self.with_now(|plan, now, random| plan.due(now, random));
            self.send_all(&sendings);
            self.tell();
            match self.wait(stopped) {
                Some(readable) => self.read_all(&readable, &mut room),
                None => break,
            }
        }
        let farewell = self.plan.farewell();
        self.send_all(&farewell);
        self.driver.note_discovery(None);
    }

    fn with_now<T>(&mut self, work: impl FnOnce(&mut Plan, Now<'_>, plan::Random<'_>) -> T) -> T {
        let keys = self.driver.network_keys_in_use();
        let now = Now { ms: self.driver.now_ms(), peers: self.peers, keys: &keys };
        let driver = &self.driver;
        let mut random = || driver.random_bytes::<LABEL_BYTES>();
        work(&mut self.plan, now, &mut random)
    }

    /// Looks which links there are, and opens and closes sockets.
    fn look(&mut self, now_ms: u64) {
        if self.watcher.is_none() {
            self.watcher = sockets::watch_links().ok();
        }
        self.choice = match sockets::list_links() {
            Ok(links) => links::choose(&links, self.serving),
            Err(why) => Choice {
                lacking: vec![format!(
                    "the system does not say which interfaces there are: {why} (a service needs AF_NETLINK in \
                     RestrictAddressFamilies)"
                )],
                ..Choice::default()
            },
        };
        let places = self.choice.places.clone();
        let wanted: Vec<(&Place, Family)> = places.iter().flat_map(families).collect();
        self.lines.retain(|line| wanted.iter().any(|(place, by)| line.is_for(place, *by)));
        // What could not be said stays a fault until something can.
        self.silent.retain(|(link, by), _| {
            self.lines.iter().any(|line| line.link == *link && line.family == *by)
        });
        for (place, by) in wanted {
            if self.lines.iter().any(|line| line.is_for(place, by)) {
                continue;
            }
            match Line::open(place, by) {
                Ok(line) => self.lines.push(line),
                Err(why) => self.note_silent((place.link, by), &why),
            }
        }
        // What nobody hears need not be announced.
        let is_open = |place: &Place| self.lines.iter().any(|line| line.link == place.link);
        let places: Vec<Place> = places.into_iter().filter(is_open).collect();
        self.with_now(|plan, now, random| plan.set_places(&places, now, random));
        let is_well = self.choice.lacking.is_empty() && self.silent.is_empty();
        self.look_at = now_ms + if is_well { LOOK_MS } else { LOOK_AGAIN_MS };
    }

    fn note_silent(&mut self, (link, by): (u32, Family), why: &Error) {
        let name = self.choice.places.iter().find(|place| place.link == link);
        let name = name.map_or("an interface", |place| &place.name);
        let family = match by {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let why = match why.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program holds UDP port 5353 and does not share it".to_owned()
            }
            _ => why.to_string(),
        };
        self.silent.insert((link, by), format!("{name} by {family}: {why}"));
    }

    fn send_all(&mut self, sendings: &[Sending]) {
        for Sending { link, by, bytes } in sendings {
            let is_by = |line: &&Line| line.link == *link && Some(line.family) == *by;
            // What is said by a family that does not work here is better said by the other one.
            let is_any = self.lines.iter().all(|line| !is_by(&line));
            let is_it = |line: &&Line| line.link == *link && (is_any || is_by(line));
            let sent = self.lines.iter().filter(is_it).map(|line| (line.family, line.send(bytes)));
            for (family, sent) in sent.collect::<Vec<_>>() {
                match sent {
                    Ok(()) => drop(self.silent.remove(&(*link, family))),
                    Err(why) => {
                        self.note_silent((*link, family), &why);
                        // A link that went away is noticed by that, too.
                        self.look_at = self.look_at.min(self.driver.now_ms() + LOOK_AGAIN_MS);
                    }
                }
            }
        }
    }

    /// Tells the node what was heard and what is wrong, where that is news.
    fn tell(&mut self) {
        let lacking = self.choice.lacking.iter().chain(self.silent.values());
        let lacking: Vec<&str> = lacking.map(String::as_str).collect();
        let fault = (!lacking.is_empty()).then(|| {
            let text = format!("others can't be found everywhere: {}", lacking.join("; "));
            Fault::new(Code::Discovery, text, HINT)
        });
        let now = Some(Discovering { interfaces: self.plan.interfaces(), fault });
        if now != self.told {
            self.told.clone_from(&now);
            self.driver.note_discovery(now);
        }
    }

    /// Waits for something to do. Gives which sockets have something to read; nothing at the end.
    fn wait(&mut self, stopped: &UnixStream) -> Option<Vec<usize>> {
        let now_ms = self.driver.now_ms();
        let mut until = self.look_at.min(self.plan.wake_at(self.peers));
        let mut heard: Vec<(usize, &Line)> = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            match self.plan.reads_at(line.link, now_ms) {
                Some(later) if later > now_ms => until = until.min(later),
                Some(_) => heard.push((at, line)),
                None => {}
            }
        }
        let sleep = Duration::from_millis(until.saturating_sub(now_ms).min(SLEEP_MAX_MS));
        let mut fds = vec![PollFd::new(stopped, PollFlags::IN)];
        let watched = self.watcher.iter().map(|fd| PollFd::new(fd, PollFlags::IN));
        fds.extend(watched);
        let first = fds.len();
        let sockets = heard.iter().map(|(_, line)| line.socket.as_fd());
        fds.extend(sockets.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let sleep = Timespec::try_from(sleep).ok();
        // Interrupted is as good as over.
        let _ = poll(&mut fds, sleep.as_ref());
        let is_told = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if fds.first().is_some_and(is_told) {
            return None;
        }
        let has_news = first > 1 && fds.get(1).is_some_and(is_told);
        let readable = heard.iter().zip(fds.iter().skip(first)).filter(|(_, fd)| is_told(fd));
        let readable = readable.map(|((at, _), _)| *at).collect();
        if has_news {
            self.watcher.iter().for_each(sockets::drain);
            self.look_at = self.look_at.min(self.driver.now_ms() + SETTLE_MS);
        }
        Some(readable)
    }

    fn read_all(&mut self, readable: &[usize], room: &mut Room) {
        for at in readable {
            let Some(link) = self.lines.get(*at).map(|line| line.link) else { continue };
            for _ in 0..READ_AT_ONCE {
                let now_ms = self.driver.now_ms();
                let may_read = self.plan.reads_at(link, now_ms).is_some_and(|at| at <= now_ms);
                let line = self.lines.get(*at).filter(|_| may_read);
                let Some(said) = line.and_then(|line| line.read(room)) else { break };
                let found = self.with_now(|plan, now, random| plan.hear(said, now, random));
                for address in found {
                    self.driver.note_found(address, sender(said.from));
                }
            }
            self.plan.end_turn(link, self.driver.now_ms());
        }
    }
}

/// By what can be spoken on a link.
fn families(place: &Place) -> impl Iterator<Item = (&Place, Family)> {
    let v4 = place.v4.map(|_| (place, Family::V4));
    v4.into_iter().chain(place.v6.then_some((place, Family::V6)))
}

/// For the fuzzer: takes the bytes as what somebody says on the local network.
#[cfg(fuzzing)]
pub fn fuzz_messages(bytes: &[u8]) {
    plan::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_served_where_it_can_be_called() {
        let served = |at: &str| serving(at.parse().unwrap());
        assert_eq!(served("0.0.0.0:8000"), Serving::All { v4: true, v6: false });
        assert_eq!(served("[::]:8000"), Serving::All { v4: true, v6: true }, "it takes both");
        assert_eq!(served("[::ffff:0.0.0.0]:8000"), Serving::All { v4: true, v6: false });
        let one = |ip: &str, link| Serving::One { ip: ip.parse().unwrap(), link };
        assert_eq!(served("10.0.0.1:8000"), one("10.0.0.1", None));
        assert_eq!(served("[::ffff:10.0.0.1]:8000"), one("10.0.0.1", None));
        assert_eq!(served("[fe80::1%3]:8000"), one("fe80::1", Some(3)));
    }
}
