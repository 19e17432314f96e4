//! One connection of the port: what came in of a request, what goes out of its answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::head::{HEAD_BYTES_MAX, Head, Parsed, parse_request};

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Reads a request, or waits for one.
    Reading,
    /// Reads no more of a long body, until there is a place for it.
    Waiting,
    /// A whole request waits for its answer.
    Asked,
    /// The answer is being written.
    Writing,
    /// The last answer is written; what still comes is thrown away until the other side is gone.
    Closing,
}

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

/// Bodies up to this length, bytes, are read without asking for a place.
pub(super) const SHORT_BYTES_MAX: usize = 16 * 1024;
/// How much is thrown away at the end of a connection, bytes, so that the answer is not lost.
const THROWN_AWAY_MAX: usize = 256 * 1024;
/// How much is read at a time, bytes, and so the room that is made for what has not come yet.
const CHUNK_BYTES: usize = 64 * 1024;
/// The same for strangers, of which many may begin bodies that they never end.
const STRANGER_CHUNK_BYTES: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) state: State,
    pub(super) opened_at: Instant,
    /// When the state, or the present request, began.
    pub(super) since: Instant,
    /// Whether one of its requests came from a member.
    pub(super) trusted: bool,
    /// Whether it has a place for a long body.
    pub(super) has_place: bool,
    /// Which kind of place: one of the members' or of the strangers'.
    pub(super) place: usize,
    /// What it is watched for.
    pub(super) watched_for: EventFlags,
    head: Option<Head>,
    /// The beginning of a head; behind a whole head its body, and what came after that.
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    thrown_away: usize,
    keep_alive: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, now: Instant) -> Self {
        Self {
            stream,
            peer,
            state: State::Reading,
            opened_at: now,
            since: now,
            trusted: false,
            has_place: false,
            place: 0,
            watched_for: EventFlags::IN,
            head: None,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            thrown_away: 0,
            keep_alive: true,
        }
    }

    /// Whether a request has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.head.is_some() || !self.input.is_empty()
    }

    /// Reads what is there of one request; what came behind it stays in the buffer.
    pub(super) fn read(&mut self, body_bytes_max: usize, now: Instant) -> Progress {
        loop {
            if let Some(progress) = self.look(body_bytes_max) {
                return progress;
            }
            let most = self.head.as_ref().map_or(HEAD_BYTES_MAX, |head| head.body_bytes);
            let wanted = most.saturating_sub(self.input.len());
            let chunk = if self.trusted { CHUNK_BYTES } else { STRANGER_CHUNK_BYTES };
            let begins = !self.has_begun();
            match read_some(&self.stream, &mut self.input, wanted.min(chunk)) {
                Ok(0) => return Progress::Gone,
                Ok(_) if begins => self.since = now,
                Ok(_) => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Progress::Partial,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Gone,
            }
        }
    }

    /// What the bytes that are there amount to; nothing where more are needed.
    fn look(&mut self, body_bytes_max: usize) -> Option<Progress> {
        if self.head.is_none() && !self.input.is_empty() {
            match parse_request(&self.input, body_bytes_max) {
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
        } else if head.body_bytes > SHORT_BYTES_MAX && !self.has_place {
            Some(Progress::Long)
        } else {
            None
        }
    }

    /// Takes out a whole request: its head and its body. What came behind it stays.
    pub(super) fn take_request(&mut self) -> Option<(Head, Vec<u8>)> {
        let head = self.head.take()?;
        let rest = self.input.split_off(head.body_bytes);
        let body = std::mem::replace(&mut self.input, rest);
        Some((head, body))
    }

    /// Begins to write an answer; the connection ends behind it unless it is kept.
    pub(super) fn answer(&mut self, bytes: Vec<u8>, keep_alive: bool, now: Instant) {
        self.output = bytes;
        self.written = 0;
        self.keep_alive &= keep_alive;
        self.state = State::Writing;
        self.since = now;
    }

    /// Whether the caller wants to keep the connection.
    pub(super) fn is_kept(&self) -> bool {
        self.keep_alive
    }

    /// Writes as much as the other side takes. Gives whether all is written.
    pub(super) fn write(&mut self, now: Instant) -> Result<bool, Gone> {
        if !write_some(&mut self.stream, &self.output, &mut self.written)? {
            return Ok(false);
        }
        self.output = Vec::new();
        self.since = now;
        if self.keep_alive {
            self.state = State::Reading;
        } else {
            // Closed with bytes unread, the answer would be lost on its way (RFC 9112, 9.6).
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
            self.state = State::Closing;
        }
        Ok(true)
    }

    /// Throws away what comes behind the last answer; says whether the connection is over.
    pub(super) fn throw_away(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        while self.thrown_away < THROWN_AWAY_MAX {
            match self.stream.read(&mut chunk) {
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

/// The other side is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// Appends what is there, and makes room for this many bytes before; there may be more.
pub(super) fn read_some(
    from: &impl AsFd,
    to: &mut Vec<u8>,
    room: usize,
) -> Result<usize, std::io::Error> {
    // Grows with what comes, not with what was announced.
    to.reserve(room);
    let (count, _) = rustix::net::recv(
        from,
        rustix::buffer::spare_capacity(to),
        rustix::net::RecvFlags::empty(),
    )?;
    Ok(count)
}

/// Writes as much as is taken of the bytes behind those that are written. Gives whether all is.
pub(super) fn write_some(
    to: &mut impl Write,
    bytes: &[u8],
    written: &mut usize,
) -> Result<bool, Gone> {
    while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Ok(0) => return Err(Gone),
            Ok(count) => *written += count,
            Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Gone),
        }
    }
    Ok(true)
}
