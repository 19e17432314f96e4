//! The guard: hears whether the port is deaf, opens it again, and cuts bad connections.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::connections::{self, Connection};
use super::exchange::BODY_TIME_MAX;
use super::{Activity, GENERATION_IDLE, Shared};

/// Time between probes of the port. It also keeps the accept loop from running into its timeout.
const PROBE_EVERY: Duration = Duration::from_secs(3);
/// How long a probe waits for its answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between looks at the connections while they are few.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same while they are many.
const LOOK_SOON: Duration = Duration::from_millis(50);
/// From this many connections of strangers on the guard looks often.
const STRANGERS_MANY: usize = 16;
/// Most connections of strangers. Whoever joins is one of them for a moment.
const STRANGERS_MAX: usize = 64;
/// How long a stranger may take until its first good request.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(8);
/// How long a member's connection may be without a request: longer than the timeout of its
/// socket, so this only meets one that sends a byte now and then.
const MEMBER_IDLE_MAX: Duration = Duration::from_secs(20);
/// Most generations: the oldest one is cut to make room.
const GENERATIONS_MAX: usize = 3;
/// How long a fault of the port is shown after it was mended.
const DEGRADED_SHOWN: Duration = Duration::from_secs(60);
/// Descriptors that are held back, so that the guard can work when there are no others left.
const RESERVE: usize = 8;

pub(super) struct Guard {
    shared: Arc<Shared>,
    port: SocketAddr,
    first_seen: HashMap<SocketAddr, Instant>,
    reserve: Vec<File>,
    probe_at: Instant,
    deaf: u32,
    is_blind: bool,
}

impl Guard {
    pub(super) fn new(shared: Arc<Shared>, port: SocketAddr) -> Self {
        let mut guard = Self {
            shared,
            port,
            first_seen: HashMap::new(),
            reserve: Vec::new(),
            probe_at: Instant::now() + PROBE_EVERY,
            deaf: 0,
            is_blind: false,
        };
        guard.hold_reserve();
        guard
    }

    pub(super) fn run(mut self, ended: &Receiver<u64>, stopped: &Receiver<()>) {
        let mut wait = LOOK_EVERY;
        loop {
            select! {
                recv(ended) -> number => {
                    if let Ok(number) = number {
                        self.mend(Some(number), "its accept loop had ended");
                    }
                }
                recv(stopped) -> _ => return,
                default(wait) => {}
            }
            wait = self.look();
            if Instant::now() >= self.probe_at {
                self.probe();
                self.probe_at = Instant::now() + PROBE_EVERY;
            }
            self.retire();
        }
    }

    /// Looks at all connections, cuts those that are no good; gives the time until the next look.
    fn look(&mut self) -> Duration {
        self.reserve.clear();
        let listed = connections::list(self.port);
        self.hold_reserve();
        let Some(connections) = listed else {
            if !self.is_blind {
                self.is_blind = true;
                log::warn!(
                    "this kernel can't show the port's connections (pidfd_getfd): strangers can hold more of them"
                );
            }
            return LOOK_EVERY;
        };
        self.is_blind = false;
        let now = Instant::now();
        let activity = self.forget_closed(&connections, now);
        let mut strangers: Vec<(Instant, SocketAddr)> = Vec::new();
        let mut cut: Vec<SocketAddr> = Vec::new();
        for (peer, seen) in &self.first_seen {
            let known = activity.get(peer);
            if is_overdue(now, *seen, known) {
                cut.push(*peer);
            } else if !known.is_some_and(|known| known.trusted) {
                strangers.push((*seen, *peer));
            }
        }
        strangers.sort_unstable();
        let excess = strangers.len().saturating_sub(STRANGERS_MAX);
        cut.extend(strangers.iter().take(excess).map(|(_, peer)| *peer));
        for connection in connections.iter().filter(|connection| cut.contains(&connection.peer)) {
            connection.cut();
        }
        if excess > 0 {
            let text =
                format!("strangers hold many connections to {}: {excess} were cut", self.port);
            self.degrade(text);
        }
        if strangers.len() >= STRANGERS_MANY { LOOK_SOON } else { LOOK_EVERY }
    }

    /// Keeps the tables to what is open; gives a copy of what open connections did.
    fn forget_closed(
        &mut self,
        connections: &[Connection],
        now: Instant,
    ) -> HashMap<SocketAddr, Activity> {
        let open: HashMap<SocketAddr, ()> = connections.iter().map(|c| (c.peer, ())).collect();
        self.first_seen.retain(|peer, _| open.contains_key(peer));
        for peer in open.keys() {
            self.first_seen.entry(*peer).or_insert(now);
        }
        let mut tables = self.shared.tables();
        tables.activity.retain(|peer, _| open.contains_key(peer));
        tables.activity.clone()
    }

    /// Asks the own port for something, as anybody could. No answer twice means that it is deaf.
    fn probe(&mut self) {
        if self.ask().is_ok() {
            self.deaf = 0;
            let mut tables = self.shared.tables();
            if tables.degraded.as_ref().is_some_and(|(_, at)| at.elapsed() > DEGRADED_SHOWN) {
                tables.degraded = None;
            }
            return;
        }
        self.deaf += 1;
        if self.deaf >= 2 && !self.shared.is_stopping() {
            self.deaf = 0;
            self.mend(None, "it did not answer");
        }
    }

    fn ask(&mut self) -> Result<(), std::io::Error> {
        self.reserve.clear();
        let asked = TcpStream::connect_timeout(&self.loopback(), PROBE_TIMEOUT);
        let asked = asked.and_then(|mut stream| {
            stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
            stream.write_all(b"GET /probe HTTP/1.1\r\nHost: dsn\r\nConnection: close\r\n\r\n")?;
            let mut answer = [0; 8];
            stream.read_exact(&mut answer)
        });
        self.hold_reserve();
        asked
    }

    fn loopback(&self) -> SocketAddr {
        let ip = match self.port.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        SocketAddr::new(ip, self.port.port())
    }

    /// Opens the port again; the generation (the newest, where none is named) accepts no more, but
    /// the connections it has are served on.
    fn mend(&mut self, number: Option<u64>, why: &str) {
        let mut tables = self.shared.tables();
        let newest = tables.generations.last().map(|generation| generation.number);
        let number = number.or(newest);
        let deaf = tables
            .generations
            .iter_mut()
            .find(|generation| Some(generation.number) == number && generation.accepts);
        let Some(deaf) = deaf else { return };
        deaf.accepts = false;
        drop(tables);
        self.reserve.clear();
        let opened = self.shared.open_generation();
        self.hold_reserve();
        match opened {
            Ok(()) => {
                let count = self.shared.reopened.fetch_add(1, Ordering::Relaxed) + 1;
                let text = format!(
                    "the port {} was opened again, as {why} (so far {count} times)",
                    self.port
                );
                self.degrade(text);
            }
            Err(fault) => {
                self.degrade(format!("the port {} can't be opened again: {fault}", self.port));
                // The next probe finds it deaf.
                if let Some(last) = self.shared.tables().generations.last_mut() {
                    last.accepts = true;
                }
            }
        }
    }

    /// Ends generations that accept no more and were not used for a while.
    fn retire(&self) {
        let mut tables = self.shared.tables();
        let excess = tables.generations.len().saturating_sub(GENERATIONS_MAX);
        let mut ended = Vec::new();
        let mut index = 0;
        tables.generations.retain(|generation| {
            let unused = !generation.accepts && generation.used_at.elapsed() > GENERATION_IDLE;
            let ends = unused || index < excess;
            index += 1;
            if ends {
                ended.push(Arc::clone(&generation.server));
            }
            !ends
        });
        tables.workers.retain(|worker| !worker.is_finished());
        drop(tables);
        // The end of a server connects to the port: not under the lock.
        drop(ended);
    }

    /// Shows the fault in `status`, and in the log where it is news.
    fn degrade(&self, text: String) {
        let mut tables = self.shared.tables();
        let is_news = tables.degraded.as_ref().is_none_or(|(_, at)| at.elapsed() > LOG_EVERY);
        if is_news {
            log::warn!("{text}");
            tables.degraded = Some((text, Instant::now()));
        }
    }

    fn hold_reserve(&mut self) {
        while self.reserve.len() < RESERVE {
            match File::open("/dev/null") {
                Ok(file) => self.reserve.push(file),
                Err(_) => return,
            }
        }
    }
}

/// Least time between lines of the log about the port: an attack must not fill the disk.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Whether a connection had its time.
fn is_overdue(now: Instant, seen: Instant, known: Option<&Activity>) -> bool {
    let Some(known) = known else {
        return now - seen > STRANGER_TIME_MAX;
    };
    let reads_too_long = known
        .reading_since
        .is_some_and(|since| now.saturating_duration_since(since) > BODY_TIME_MAX);
    let idle = now.saturating_duration_since(known.complete_at);
    let is_idle = if known.trusted {
        idle > MEMBER_IDLE_MAX
    } else {
        now.saturating_duration_since(seen) > STRANGER_TIME_MAX
    };
    reads_too_long || is_idle
}
