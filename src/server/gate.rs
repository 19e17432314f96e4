//! The gate: one thread that takes all connections of the port, reads whole requests within limits
//! of length, number and time, and passes their heads to tiny_http, their bodies to its workers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::Health;
use super::backend::{Backend, Service, WORKERS};
use super::connection::{Connection, Progress, State};
use super::head::last_answer;
use super::line::{Line, LineProgress};

/// Most connections of strangers. Whoever joins is one of them for a moment.
const STRANGERS_MAX: usize = 64;
/// Most connections: one of each peer and as many strangers, and as many again for peers that came
/// anew before their old connection was known to be dead.
const CONNECTIONS_MAX: usize = 2 * (super::PEERS_HINT + STRANGERS_MAX);
/// Descriptors that are left to the rest of the node, where there are few.
const DESCRIPTORS_LEFT: usize = 96;
/// Most long bodies of members, and of strangers, that are read at a time: the memory of a small
/// host. Others wait in the kernel.
const PLACES: [usize; 2] = [12, 4];
/// Most connections that are taken in a row, so that the others are served meanwhile.
const ACCEPTS_MAX: usize = 16;
/// Most events that are taken at a time.
const EVENTS_MAX: usize = 128;
/// Time between looks at who took too long.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// How long a stranger may stay until its first good request.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(8);
/// How long a request may take to come in, and its answer to go out: a caller waits 5 s for both.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(6);
/// How long a member's connection is kept without a request: longer than a client keeps it, so
/// that the client is the one who ends it.
const IDLE_TIME_MAX: Duration = Duration::from_secs(20);
/// How long the other side has to read the last answer.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);
/// How long a fault of the port is shown after it was seen last.
const DEGRADED_SHOWN: Duration = Duration::from_secs(60);
/// Least time between lines of the log about the port: an attack must not fill the disk.
const LOG_EVERY: Duration = Duration::from_secs(60);

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const FIRST_LINE: u64 = 2;
const FIRST_CONNECTION: u64 = FIRST_LINE + WORKERS as u64;

pub(super) struct Gate {
    epoll: OwnedFd,
    listener: TcpListener,
    stopped: UnixStream,
    service: Service,
    body_bytes_max: usize,
    health: Arc<Mutex<Health>>,
    /// Before the backend, which waits for its connections to end when it is dropped.
    lines: Vec<Line>,
    backend: Option<Backend>,
    connections: HashMap<u64, Connection>,
    connections_max: usize,
    next: u64,
    /// Whole requests that wait for a worker: those of members come first.
    asked: [VecDeque<u64>; 2],
    /// Long bodies that wait for a place, and how many have one; members, strangers.
    long: [VecDeque<u64>; 2],
    places: [usize; 2],
    /// Connections that no good request came over, by where they come from.
    strangers: BTreeMap<IpAddr, BTreeSet<u64>>,
    accepts: bool,
    swept_at: Instant,
    /// Strangers that were cut to make room since the last sweep.
    cut: usize,
    degraded_at: Option<Instant>,
    logged_at: Option<Instant>,
}

impl Gate {
    pub(super) fn new(
        listener: TcpListener,
        service: Service,
        body_bytes_max: usize,
        health: Arc<Mutex<Health>>,
        stopped: UnixStream,
    ) -> Result<Self, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors =
            descriptors.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX));
        let mut gate = Self {
            epoll,
            listener,
            stopped,
            service,
            body_bytes_max,
            health,
            lines: Vec::new(),
            backend: None,
            connections: HashMap::new(),
            connections_max: CONNECTIONS_MAX
                .min(descriptors.saturating_sub(DESCRIPTORS_LEFT).max(STRANGERS_MAX)),
            next: FIRST_CONNECTION,
            asked: Default::default(),
            long: Default::default(),
            places: [0; 2],
            strangers: BTreeMap::new(),
            accepts: true,
            swept_at: Instant::now(),
            cut: 0,
            degraded_at: None,
            logged_at: None,
        };
        watch(&gate.epoll, &gate.listener, LISTENER, epoll::EventFlags::IN)?;
        watch(&gate.epoll, &gate.stopped, STOP, epoll::EventFlags::IN)?;
        gate.start_backend()?;
        Ok(gate)
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Runs until the other end of `stopped` is closed.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            let is_idle = self.connections.is_empty() && self.accepts && self.backend.is_some();
            let timeout = (!is_idle || self.degraded_at.is_some())
                .then(|| Timespec { tv_sec: 0, tv_nsec: SWEEP_EVERY.subsec_nanos().into() });
            let waited = epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            );
            if let Err(why) = waited
                && why != rustix::io::Errno::INTR
            {
                log::error!("BUG: the gate can't wait: {why}");
                return;
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    STOP => return,
                    token if token < FIRST_CONNECTION => self.on_line(token),
                    token => self.on_connection(token, event.flags),
                }
            }
            self.give_places();
            self.dispatch();
            if self.swept_at.elapsed() >= SWEEP_EVERY {
                self.sweep();
            }
        }
    }

    /// Starts tiny_http, and connects to it.
    fn start_backend(&mut self) -> Result<(), Error> {
        let (backend, streams, bodies) = Backend::start(&self.service)?;
        for ((at, token), stream) in (FIRST_LINE..).enumerate().zip(streams) {
            watch(&self.epoll, &stream, token, epoll::EventFlags::IN)?;
            self.lines.push(Line::new(at, bodies.clone(), stream));
        }
        self.backend = Some(backend);
        Ok(())
    }

    /// A connection to tiny_http ended, which it never does by itself: one of its threads died.
    fn restart_backend(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        for token in lines.iter().filter_map(Line::serves) {
            self.refuse(token, 500);
        }
        drop(lines);
        self.backend = None;
        let text = match self.start_backend() {
            Ok(()) => {
                let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                health.restarted += 1;
                format!(
                    "the HTTP server behind the port had died and was started again (so far {} times)",
                    health.restarted
                )
            }
            Err(why) => {
                self.lines.clear();
                format!(
                    "the HTTP server behind the port can't be started: {why}; it is tried again"
                )
            }
        };
        self.degrade(text);
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(why) if why.kind() == ErrorKind::WouldBlock => return,
                // Whoever came is gone again.
                Err(why)
                    if matches!(
                        why.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                Err(why) => {
                    // No descriptor left: a stranger has to go, or those who come have to wait.
                    if !self.cut_stranger() {
                        let _ = self.listen(false);
                        self.degrade(format!("the port can't take connections right now: {why}"));
                        return;
                    }
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.connections.len() >= self.connections_max && !self.cut_stranger() {
            self.cut_idle();
        }
        let token = self.next;
        self.next += 1;
        if watch(&self.epoll, &stream, token, epoll::EventFlags::IN).is_err() {
            return;
        }
        self.connections.insert(token, Connection::new(stream, peer, Instant::now()));
        self.strangers.entry(origin(peer.ip())).or_default().insert(token);
        if self.strangers.values().map(BTreeSet::len).sum::<usize>() > STRANGERS_MAX {
            self.cut_stranger();
        }
    }

    /// Cuts the oldest stranger of the origin that has most of them: whoever comes from elsewhere
    /// keeps its place. Says whether there was one.
    fn cut_stranger(&mut self) -> bool {
        let crowd = self.strangers.values().max_by_key(|tokens| tokens.len());
        let Some(token) = crowd.and_then(|tokens| tokens.first()).copied() else {
            return false;
        };
        self.cut += 1;
        self.close(token);
        true
    }

    /// Cuts the member's connection that was not used for longest.
    fn cut_idle(&mut self) {
        let oldest = self.connections.iter().min_by_key(|(_, connection)| connection.since);
        if let Some(token) = oldest.map(|(token, _)| *token) {
            self.close(token);
        }
    }

    fn on_connection(&mut self, token: u64, flags: epoll::EventFlags) {
        let (now, body_bytes_max) = (Instant::now(), self.body_bytes_max);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.state {
            State::Reading => {
                let progress = connection.read(body_bytes_max, now);
                self.on_progress(token, progress);
            }
            State::Writing => self.write(token),
            State::Closing => {
                if connection.throw_away() {
                    self.close(token);
                }
            }
            // Nothing is expected of it now: it is gone.
            State::Waiting | State::Asked => {
                if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.close(token);
                } else {
                    // It has more to say already: it is looked at again when its turn comes.
                    self.set_interest(token);
                }
            }
        }
    }

    fn on_progress(&mut self, token: u64, progress: Progress) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let class = usize::from(!connection.trusted);
        match progress {
            Progress::Partial => {}
            Progress::Gone => self.close(token),
            Progress::Bad => self.refuse(token, 400),
            Progress::Long => {
                connection.state = State::Waiting;
                if let Some(queue) = self.long.get_mut(class) {
                    queue.push_back(token);
                }
            }
            Progress::Whole => {
                connection.state = State::Asked;
                if let Some(queue) = self.asked.get_mut(class) {
                    queue.push_back(token);
                }
            }
        }
    }

    /// Lets long bodies come in, as far as there are places.
    fn give_places(&mut self) {
        for class in 0..PLACES.len() {
            while self.places.get(class) < PLACES.get(class) {
                let Some(token) = self.long.get_mut(class).and_then(VecDeque::pop_front) else {
                    break;
                };
                let (now, body_bytes_max) = (Instant::now(), self.body_bytes_max);
                let Some(connection) = self.connections.get_mut(&token) else { continue };
                connection.has_place = true;
                connection.place = class;
                connection.state = State::Reading;
                if let Some(places) = self.places.get_mut(class) {
                    *places += 1;
                }
                let progress = connection.read(body_bytes_max, now);
                self.on_progress(token, progress);
                self.set_interest(token);
            }
        }
    }

    /// Gives whole requests to the connections to tiny_http that are free.
    fn dispatch(&mut self) {
        for at in 0..self.lines.len() {
            while self.lines.get(at).is_some_and(|line| line.serves().is_none()) {
                let [members, strangers] = &mut self.asked;
                let Some(token) = members.pop_front().or_else(|| strangers.pop_front()) else {
                    return;
                };
                let Some(connection) = self.connections.get_mut(&token) else { continue };
                let peer = connection.peer;
                let Some((head, body)) = connection.take_request() else { continue };
                release_place(connection, &mut self.places);
                if let Some(line) = self.lines.get_mut(at) {
                    line.ask(token, &head, peer, body);
                }
                self.advance_line(at);
            }
        }
    }

    fn on_line(&mut self, token: u64) {
        if let Ok(at) = usize::try_from(token - FIRST_LINE) {
            self.advance_line(at);
            self.dispatch();
        }
    }

    fn advance_line(&mut self, at: usize) {
        let Some(line) = self.lines.get_mut(at) else { return };
        match line.advance() {
            LineProgress::Partial => {}
            LineProgress::Answered { token, answer, body } => {
                self.answer(token, &answer, &body);
            }
            LineProgress::Broken => return self.restart_backend(),
        }
        let Some(line) = self.lines.get_mut(at) else { return };
        let wants_room = line.has_more_to_write();
        if wants_room == line.watched_for_room {
            return;
        }
        line.watched_for_room = wants_room;
        let flags = if wants_room {
            epoll::EventFlags::IN | epoll::EventFlags::OUT
        } else {
            epoll::EventFlags::IN
        };
        let token = FIRST_LINE + at as u64;
        let _ = epoll::modify(&self.epoll, line.stream(), epoll::EventData::new_u64(token), flags);
    }

    fn answer(&mut self, token: u64, answer: &super::head::InnerAnswer, body: &[u8]) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if answer.trusted && !connection.trusted {
            connection.trusted = true;
            let from = origin(connection.peer.ip());
            forget_stranger(&mut self.strangers, from, token);
        }
        let keeps = connection.is_kept();
        let bytes = super::head::outer_answer(answer, keeps, body);
        connection.answer(bytes, keeps, Instant::now());
        self.write(token);
    }

    /// A last answer without a body.
    fn refuse(&mut self, token: u64, status: u16) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.answer(last_answer(status), false, Instant::now());
            self.write(token);
        }
    }

    fn write(&mut self, token: u64) {
        let (now, body_bytes_max) = (Instant::now(), self.body_bytes_max);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.write(now) {
            Err(_) => return self.close(token),
            Ok(true) if connection.state == State::Reading && connection.has_begun() => {
                // The next request came behind the last one.
                let progress = connection.read(body_bytes_max, now);
                self.on_progress(token, progress);
            }
            Ok(_) => {}
        }
        self.set_interest(token);
    }

    /// Watches a connection for what it waits for, where that is another thing than before: most
    /// requests come and are answered without a change.
    fn set_interest(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let flags = match connection.state {
            State::Reading | State::Closing => epoll::EventFlags::IN,
            State::Writing => epoll::EventFlags::OUT,
            State::Waiting | State::Asked => epoll::EventFlags::empty(),
        };
        if std::mem::replace(&mut connection.watched_for, flags) == flags {
            return;
        }
        let data = epoll::EventData::new_u64(token);
        let _ = epoll::modify(&self.epoll, &connection.stream, data, flags);
    }

    fn close(&mut self, token: u64) {
        if let Some(mut connection) = self.connections.remove(&token) {
            release_place(&mut connection, &mut self.places);
            forget_stranger(&mut self.strangers, origin(connection.peer.ip()), token);
        }
    }

    /// Cuts who took too long, and mends what could not be mended at once.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.swept_at = now;
        let overdue = |(token, connection): (&u64, &Connection)| {
            is_overdue(connection, now).then_some(*token)
        };
        for token in self.connections.iter().filter_map(overdue).collect::<Vec<_>>() {
            self.close(token);
        }
        for queue in self.asked.iter_mut().chain(&mut self.long) {
            queue.retain(|token| self.connections.contains_key(token));
        }
        if !self.accepts {
            let _ = self.listen(true);
        }
        if self.backend.is_none() {
            self.restart_backend();
        }
        if self.cut > 0 {
            let text = format!(
                "strangers hold many connections to this port: {} were cut to make room",
                std::mem::take(&mut self.cut)
            );
            self.degrade(text);
        }
        if self.degraded_at.is_some_and(|at| at.elapsed() > DEGRADED_SHOWN) {
            self.degraded_at = None;
            self.health.lock().unwrap_or_else(PoisonError::into_inner).degraded = None;
        }
    }

    fn listen(&mut self, accepts: bool) -> Result<(), Error> {
        self.accepts = accepts;
        let flags = if accepts { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        Ok(epoll::modify(&self.epoll, &self.listener, epoll::EventData::new_u64(LISTENER), flags)?)
    }

    /// Shows the fault in `status`, and in the log now and then.
    fn degrade(&mut self, text: String) {
        self.degraded_at = Some(Instant::now());
        if self.logged_at.is_none_or(|at| at.elapsed() > LOG_EVERY) {
            self.logged_at = Some(Instant::now());
            log::warn!("{text}");
        }
        self.health.lock().unwrap_or_else(PoisonError::into_inner).degraded = Some(text);
    }
}

fn watch(
    epoll: &OwnedFd,
    what: &impl AsFd,
    token: u64,
    flags: epoll::EventFlags,
) -> Result<(), Error> {
    Ok(epoll::add(epoll, what, epoll::EventData::new_u64(token), flags)?)
}

/// Who counts as one: an IPv4 address, or an IPv6 network of 64 bits, which one host may own.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
    }
}

fn forget_stranger(strangers: &mut BTreeMap<IpAddr, BTreeSet<u64>>, from: IpAddr, token: u64) {
    if let Some(tokens) = strangers.get_mut(&from) {
        tokens.remove(&token);
        if tokens.is_empty() {
            strangers.remove(&from);
        }
    }
}

fn release_place(connection: &mut Connection, places: &mut [usize; 2]) {
    if std::mem::take(&mut connection.has_place)
        && let Some(places) = places.get_mut(connection.place)
    {
        *places -= 1;
    }
}

/// Whether a connection had its time.
fn is_overdue(connection: &Connection, now: Instant) -> bool {
    let spent = now.saturating_duration_since(connection.since);
    let stayed = now.saturating_duration_since(connection.opened_at);
    match connection.state {
        State::Reading if !connection.trusted && stayed > STRANGER_TIME_MAX => true,
        State::Reading if !connection.has_begun() => spent > IDLE_TIME_MAX,
        State::Reading | State::Waiting | State::Writing => spent > REQUEST_TIME_MAX,
        State::Closing => spent > CLOSING_TIME_MAX,
        // The workers are ours.
        State::Asked => false,
    }
}
