//! One connection of the port: what came in of a request, what goes out of its answer.

use std::io::{Error, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::handover::{Job, Output};
use super::head::{Head, Parsed, Rules, parse_request};
use super::limits::{Age, State};

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The rest has not come yet.
    Partial,
    /// The head is whole, and the body so long that it needs a place.
    Long,
    /// A whole request.
    Whole,
    /// No request, or one that breaks a limit.
    Bad,
    /// The other side is gone.
    Gone,
}

/// Bodies up to this length, bytes, are read without asking for a place, and answers are left for
/// whoever is slow to read them.
pub(super) const SHORT_BYTES_MAX: usize = 16 * 1024;
/// How much is thrown away at the end of a connection, bytes, so that the answer is not lost.
const THROWN_AWAY_MAX: usize = 256 * 1024;
/// How much is read at a time, bytes, and so the room that is made for what has not come yet.
const CHUNK_BYTES: usize = 64 * 1024;
/// The same for strangers, of which many may begin bodies that they never end.
const STRANGER_CHUNK_BYTES: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Connection {
    /// A worker that answers over it has it, too.
    pub(super) stream: Arc<TcpStream>,
    pub(super) peer: SocketAddr,
    pub(super) state: State,
    /// What it is watched for.
    pub(super) watched_for: EventFlags,
    opened_at: Instant,
    /// When the state, or the present request, began.
    since: Instant,
    head: Option<Head>,
    /// The beginning of a head; behind a whole head its body, and what came after that.
    input: Vec<u8>,
    output: Output,
    thrown_away: usize,
    /// Whether the caller wants to keep it.
    pub(super) keep_alive: bool,
    /// Whether the worker that has its request writes a short answer, so that the gate sleeps on.
    is_direct: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, now: Instant) -> Self {
        Self {
            stream: Arc::new(stream),
            peer,
            state: State::Reading,
            watched_for: EventFlags::IN,
            opened_at: now,
            since: now,
            head: None,
            input: Vec::new(),
            output: Output::default(),
            thrown_away: 0,
            keep_alive: true,
            is_direct: false,
        }
    }

    /// Whether a request has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.head.is_some() || !self.input.is_empty()
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        Age {
            state: self.state,
            has_begun: self.has_begun(),
            stayed: now.saturating_duration_since(self.opened_at),
            spent: now.saturating_duration_since(self.since),
        }
    }

    /// Reads what is there of one request; what came behind it stays in the buffer.
    pub(super) fn read(&mut self, rules: &Rules, is_member: bool, now: Instant) -> Progress {
        loop {
            if let Some(progress) = self.look(rules) {
                return progress;
            }
            let most = self.head.as_ref().map_or(rules.head_bytes_max, |head| head.body_bytes);
            let wanted = most.saturating_sub(self.input.len());
            let chunk = if is_member { CHUNK_BYTES } else { STRANGER_CHUNK_BYTES };
            let begins = !self.has_begun();
            // Grows with what comes, not with what was announced.
            self.input.reserve(wanted.min(chunk));
            match recv(&self.stream, spare_capacity(&mut self.input), RecvFlags::empty()) {
                Ok((1.., _)) if begins => self.since = now,
                Ok((1.., _)) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::Partial,
                Ok((0, _)) | Err(_) => return Progress::Gone,
            }
        }
    }

    /// What the bytes that are there amount to; nothing where more are needed. A place is asked for
    /// once, when the head is there.
    fn look(&mut self, rules: &Rules) -> Option<Progress> {
        let is_new = self.head.is_none();
        if is_new && !self.input.is_empty() {
            match parse_request(&self.input, rules) {
                Parsed::Incomplete => {}
                Parsed::Bad => return Some(Progress::Bad),
                Parsed::Head(head) => {
                    self.keep_alive = head.keep_alive;
                    // Little has come behind it yet: now the body needs no copy of its own.
                    self.input.drain(..head.bytes);
                    self.head = Some(head);
                }
            }
        }
        let head = self.head.as_ref()?;
        if self.input.len() >= head.body_bytes {
            Some(Progress::Whole)
        } else {
            (is_new && head.body_bytes > SHORT_BYTES_MAX).then_some(Progress::Long)
        }
    }

    /// Takes out a whole request for a worker, which may write the answer where nothing else is to
    /// be done. What came behind the request stays.
    pub(super) fn take_request(&mut self, may_be_direct: bool) -> Option<(Head, Job)> {
        let mut head = self.head.take()?;
        self.state = State::Served;
        let rest = self.input.split_off(head.body_bytes);
        let body = std::mem::replace(&mut self.input, rest);
        self.is_direct = may_be_direct && self.keep_alive && self.input.is_empty();
        let direct = self.is_direct.then(|| Arc::clone(&self.stream));
        let headers = std::mem::take(&mut head.headers);
        Some((head, Job { peer: self.peer, headers, body, direct }))
    }

    /// Whether the gate has to do something as soon as its worker is done: there is an answer to
    /// write, or what came meanwhile was not looked at.
    pub(super) fn awaits_worker(&self) -> bool {
        !self.is_direct || self.watched_for.is_empty()
    }

    /// Begins to write an answer, or goes on; the connection ends behind it unless it is kept.
    pub(super) fn answer(&mut self, output: Output, keep_alive: bool, now: Instant) {
        self.output = output;
        self.keep_alive &= keep_alive;
        self.state = State::Writing;
        self.since = now;
    }

    /// Writes as much as the other side takes. Gives how many bytes are left.
    pub(super) fn write(&mut self, now: Instant) -> Result<usize, Error> {
        let left = self.output.write(&self.stream)?;
        if left > 0 {
            return Ok(left);
        }
        self.output = Output::default();
        self.since = now;
        if self.keep_alive {
            self.state = State::Reading;
        } else {
            // Closed with bytes unread, the answer would be lost on its way (RFC 9112, 9.6).
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
            self.state = State::Closing;
        }
        Ok(0)
    }

    /// Throws away what comes behind the last answer; says whether the connection is over.
    pub(super) fn throw_away(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        while self.thrown_away < THROWN_AWAY_MAX {
            match (&*self.stream).read(&mut chunk) {
                Ok(0) => return true,
                Ok(count) => self.thrown_away += count,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return false,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;
    use crate::server::Audience;

    /// The room that is made for a body of 60 000 bytes of which three came.
    fn room(is_member: bool) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let mut connection = Connection::new(stream, peer, Instant::now());
        other.write_all(b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\nabc").unwrap();
        // Its end says that all has been read.
        other.shutdown(std::net::Shutdown::Write).unwrap();
        let rules = Rules::of(Audience::Nodes, 100_000);
        assert_eq!(connection.read(&rules, is_member, Instant::now()), Progress::Long);
        assert_eq!(connection.read(&rules, is_member, Instant::now()), Progress::Gone);
        assert_eq!(connection.input, b"abc");
        connection.input.capacity()
    }

    #[test]
    fn little_room_is_made_for_what_a_stranger_announces() {
        assert!((3..=2 * STRANGER_CHUNK_BYTES).contains(&room(false)));
        assert!(room(true) >= 60_000);
    }
}
