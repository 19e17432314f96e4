//! The gate: one thread that takes all connections of the port, reads whole requests within limits
//! of length, number and time, and passes their heads to tiny_http, their bodies to its workers.
//! Who is next, and who has to go, is decided in [`super::queue`].

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::backend::{Backend, Service};
use super::connection::{Connection, Progress, SHORT_BYTES_MAX};
use super::handover::{Answer, Handover, Output};
use super::head::{Rules, add_inner_request};
use super::limits::{Limits, State};
use super::queue::Queue;
use super::{Response, Seen, Trouble, locked};

/// Most connections that are taken in a row, so that the others are served meanwhile.
const ACCEPTS_MAX: usize = 16;
/// Most events that are taken at a time.
const EVENTS_MAX: usize = 128;
/// Time between looks at who took too long.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const LINE: u64 = 2;
const BELL: u64 = 3;
const FIRST_CONNECTION: u64 = 4;

pub(super) struct Gate {
    epoll: OwnedFd,
    listener: TcpListener,
    stopped: UnixStream,
    service: Service,
    rules: Rules,
    seen: Arc<Mutex<Seen>>,
    backend: Option<Backend>,
    handover: Arc<Handover>,
    limits: Limits,
    connections: HashMap<u64, Connection>,
    next: u64,
    queue: Queue,
    accepts: bool,
    swept_at: Instant,
}

impl Gate {
    pub(super) fn new(
        listener: TcpListener,
        service: Service,
        limits: Limits,
        seen: Arc<Mutex<Seen>>,
        stopped: UnixStream,
    ) -> Result<Self, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let serves = service.serves;
        let mut gate = Self {
            epoll,
            listener,
            stopped,
            service,
            rules: Rules::of(serves.audience, serves.body_bytes_max),
            seen,
            backend: None,
            handover: Arc::new(Handover::new()?),
            limits,
            connections: HashMap::new(),
            next: FIRST_CONNECTION,
            queue: Queue::new(&limits),
            accepts: true,
            swept_at: Instant::now(),
        };
        watch(&gate.epoll, &gate.listener, LISTENER, EventFlags::IN)?;
        watch(&gate.epoll, &gate.stopped, STOP, EventFlags::IN)?;
        // An edge: so nobody has to read how often it was rung.
        let rung = EventFlags::IN | EventFlags::ET;
        watch(&gate.epoll, &gate.handover.bell(), BELL, rung)?;
        gate.start_backend()?;
        Ok(gate)
    }

    #[cfg(test)]
    pub(super) fn line(&self) -> &UnixStream {
        &self.backend.as_ref().unwrap().line
    }

    /// Runs until the other end of `stopped` is closed, or until it can't wait any more.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            let is_idle = self.connections.is_empty() && self.accepts && self.backend.is_some();
            let timeout = Timespec { tv_sec: 0, tv_nsec: SWEEP_EVERY.subsec_nanos().into() };
            let timeout = (!is_idle).then_some(&timeout);
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout);
            if let Err(why) = waited
                && why != rustix::io::Errno::INTR
            {
                return Err(why.into());
            }
            // First of all: an event may be that of the next request.
            self.collect();
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    STOP => return Ok(()),
                    LINE => self.restart_backend(),
                    BELL => {}
                    token => self.on_connection(token, event.flags),
                }
            }
            if self.swept_at.elapsed() >= SWEEP_EVERY {
                self.sweep();
            }
            self.hand_out();
            while self.collect() {
                self.hand_out();
            }
        }
    }

    /// Starts tiny_http, and connects to it.
    fn start_backend(&mut self) -> Result<(), Error> {
        let backend = Backend::start(&self.service, &self.handover, self.limits.workers)?;
        watch(&self.epoll, &backend.line, LINE, EventFlags::IN)?;
        self.backend = Some(backend);
        Ok(())
    }

    /// The connection to tiny_http ended, which it never does by itself: its thread died.
    fn restart_backend(&mut self) {
        if let Some(backend) = self.backend.take() {
            let _ = epoll::delete(&self.epoll, &backend.line);
        }
        // Its workers have ended: what none of them had taken is left.
        self.collect();
        for token in self.queue.working().collect::<Vec<_>>() {
            self.handover.take(token);
            self.queue.finish(token);
            self.refuse(token, 500);
        }
        let text = match self.start_backend() {
            Ok(()) => {
                let mut seen = locked(&self.seen);
                seen.restarted += 1;
                format!(
                    "the HTTP server behind the port had died and was started again (so far {} times)",
                    seen.restarted
                )
            }
            Err(why) => {
                format!(
                    "the HTTP server behind the port can't be started: {why}; it is tried again"
                )
            }
        };
        self.degrade(Trouble::Backend, text);
    }

    fn accept(&mut self) {
        for at in 0..ACCEPTS_MAX {
            let why = match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.admit(stream, peer);
                    continue;
                }
                Err(why) => why,
            };
            match why.kind() {
                ErrorKind::WouldBlock => return,
                // Whoever came is gone again.
                ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                // No descriptor is left, and maybe nobody waits: the kernel looks in this order.
                _ if at > 0 => return,
                // A stranger has to go, or those who come have to wait.
                _ => match self.queue.stranger_to_cut() {
                    Some(token) => self.cut(token),
                    None => {
                        let _ = self.listen(false);
                        let text = format!("the port can't take connections right now: {why}");
                        return self.degrade(Trouble::Deaf, text);
                    }
                },
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        // An IPv4 address that came as IPv6 is one all the same, wherever it is compared or shown.
        let peer = match peer.ip().to_canonical() {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), peer.port()),
            IpAddr::V6(_) => peer,
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let token = self.next;
        self.next += 1;
        if watch(&self.epoll, &stream, token, EventFlags::IN).is_err() {
            return;
        }
        self.connections.insert(token, Connection::new(stream, peer, Instant::now()));
        let mut seen = locked(&self.seen);
        seen.tally.accepted += 1;
        seen.tally.open = self.connections.len();
        drop(seen);
        if let Some(token) = self.queue.admit(token, peer.ip()) {
            self.cut(token);
        }
    }

    /// Ends a stranger's connection to make room.
    fn cut(&mut self, token: u64) {
        let mut seen = locked(&self.seen);
        seen.tally.cut += 1;
        let text = format!(
            "strangers hold many connections to this port: so far {} were cut to make room",
            seen.tally.cut
        );
        drop(seen);
        self.degrade(Trouble::Strangers, text);
        self.close(token);
    }

    fn on_connection(&mut self, token: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.state {
            State::Reading => self.read(token),
            State::Writing => self.write(token),
            State::Closing => {
                if connection.throw_away() {
                    self.close(token);
                }
            }
            // Nothing is expected of it now: it is gone.
            State::Waiting | State::Asked | State::Served => {
                if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                    self.close(token);
                } else {
                    // It has more to say already: it is looked at again when its turn comes.
                    self.set_interest(token);
                }
            }
        }
    }

    fn read(&mut self, token: u64) {
        let is_member = self.queue.is_member(token);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.read(&self.rules, is_member, Instant::now()) {
            Progress::Partial => self.set_interest(token),
            Progress::Gone => self.close(token),
            Progress::Bad => self.refuse(token, 400),
            Progress::Long => {
                connection.state = State::Waiting;
                self.queue.wait_for_place(token);
            }
            Progress::Whole => {
                connection.state = State::Asked;
                self.queue.ask(token);
            }
        }
    }

    /// Gives away all workers and places that are free. A worker frees a place, and who has got a
    /// place may have a whole request at once.
    fn hand_out(&mut self) {
        loop {
            self.dispatch();
            let Some(token) = self.queue.next_place() else { return };
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.state = State::Reading;
            }
            self.read(token);
        }
    }

    /// Gives whole requests to tiny_http, as many as there are workers that are free.
    fn dispatch(&mut self) {
        let Some(backend) = &mut self.backend else { return };
        let mut heads = String::new();
        while self.queue.working().count() < self.limits.workers
            && let Some(token) = self.queue.next_request()
        {
            let is_alone = self.queue.working().count() == 1 && !self.queue.has_waiting();
            let may_be_direct = is_alone && self.queue.is_member(token);
            let connection = self.connections.get_mut(&token);
            if let Some((head, job)) = connection.and_then(|it| it.take_request(may_be_direct)) {
                add_inner_request(&mut heads, &head, token);
                self.handover.put(token, job);
            } else {
                self.queue.finish(token);
            }
        }
        if !heads.is_empty() && backend.line.write_all(heads.as_bytes()).is_err() {
            self.restart_backend();
        }
    }

    /// Takes what the workers have done; says whether that is anything. If not, the next one wakes
    /// the gate, unless a worker writes the answer and nobody waits for anything.
    fn collect(&mut self) -> bool {
        let waits = |token| self.connections.get(&token).is_some_and(Connection::awaits_worker);
        let is_awaited = self.queue.has_waiting() || self.queue.working().any(waits);
        let all = self.handover.collect(is_awaited);
        let is_some = !all.is_empty();
        for (token, answer) in all {
            self.queue.finish(token);
            match answer {
                Answer::Whole(response) => self.answer(token, response),
                Answer::Begun(output) => self.send(token, output, true),
            }
        }
        is_some
    }

    fn answer(&mut self, token: u64, response: Response) {
        if let Some(caller) = response.caller
            && let Some(token) = self.queue.prove(token, caller)
        {
            self.close(token);
        }
        let is_member = self.queue.is_member(token);
        let Some(connection) = self.connections.get(&token) else { return };
        let stayed = connection.age(Instant::now()).stayed;
        // One that never pauses is never found between its requests.
        let ends = self.limits.times.has_overstayed(is_member, stayed);
        let keeps = connection.keep_alive && !ends;
        self.send(token, Output::new(response, keeps), keeps);
    }

    /// A last answer without a body.
    fn refuse(&mut self, token: u64, status: u16) {
        let last = Response { status, ..Response::default() };
        self.send(token, Output::new(last, false), false);
    }

    fn send(&mut self, token: u64, output: Output, keeps: bool) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.answer(output, keeps, Instant::now());
        self.write(token);
    }

    fn write(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.write(Instant::now()) {
            Err(_) => return self.close(token),
            Ok(0) => {
                self.queue.take_read(token);
                // The next request may have come behind the last one.
                if connection.has_begun() && connection.state == State::Reading {
                    self.read(token);
                }
            }
            Ok(left) if left > SHORT_BYTES_MAX => {
                if let Some(token) = self.queue.leave_unread(token) {
                    self.close(token);
                }
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
            State::Reading | State::Closing => EventFlags::IN,
            State::Writing => EventFlags::OUT,
            State::Waiting | State::Asked | State::Served => EventFlags::empty(),
        };
        if std::mem::replace(&mut connection.watched_for, flags) == flags {
            return;
        }
        let data = EventData::new_u64(token);
        let _ = epoll::modify(&self.epoll, &connection.stream, data, flags);
    }

    /// Ends a connection, whatever it does.
    fn close(&mut self, token: u64) {
        if let Some(connection) = self.connections.remove(&token)
            && connection.state == State::Served
        {
            // A worker may keep it open for a while.
            let _ = epoll::delete(&self.epoll, &connection.stream);
        }
        locked(&self.seen).tally.open = self.connections.len();
        self.queue.remove(token);
    }

    /// Cuts who took too long, and mends what could not be mended at once.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.swept_at = now;
        let is_over = |(token, connection): (&u64, &Connection)| {
            let is_member = self.queue.is_member(*token);
            self.limits.times.are_over(is_member, connection.age(now)).then_some(*token)
        };
        for token in self.connections.iter().filter_map(is_over).collect::<Vec<_>>() {
            self.close(token);
        }
        if !self.accepts {
            let _ = self.listen(true);
        }
        if self.backend.is_none() {
            self.restart_backend();
        }
    }

    fn listen(&mut self, accepts: bool) -> Result<(), Error> {
        self.accepts = accepts;
        let flags = if accepts { EventFlags::IN } else { EventFlags::empty() };
        Ok(epoll::modify(&self.epoll, &self.listener, EventData::new_u64(LISTENER), flags)?)
    }

    /// Shows the fault in `status`, for a while.
    fn degrade(&self, trouble: Trouble, text: String) {
        locked(&self.seen).degraded = Some((trouble, text, Instant::now()));
    }
}

fn watch(epoll: &OwnedFd, what: &impl AsFd, token: u64, flags: EventFlags) -> Result<(), Error> {
    Ok(epoll::add(epoll, what, EventData::new_u64(token), flags)?)
}
