//! The end of the socket that asks.

use std::fmt;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::Value as Json;

use super::LINE_BYTES_MAX;

/// How often it is tried again where the queue of those who wait for the node is full.
const CONNECT_AGAIN: Duration = Duration::from_millis(20);

/// How long a node that let a reader go may take to say that it is there.
const STILL_THERE_TIME: Duration = Duration::from_secs(2);

/// A connection to a running node.
#[derive(Debug)]
pub struct ControlClient {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// The process at the other end.
    process: Option<rustix::process::Pid>,
    /// The beginning of a line of which the rest did not come yet.
    partial: Vec<u8>,
}

/// What [`ControlClient::poll_result`] found.
#[derive(Debug)]
pub enum Polled {
    /// The next result.
    Result(Json),
    /// It did not come yet.
    Nothing,
    /// The node ended the row of them.
    Ended,
}

/// For a poll of this and other things: there may be something to read.
impl AsFd for ControlClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens at the socket.
    NoNode(Error),
    /// The node is about to stop, or stopped without an answer.
    Stopped,
    /// The answer did not come in time.
    Late,
    /// The system does not let this process talk to the node.
    Unusable(Error),
    /// The answer is no.
    No(String),
    /// What was asked makes no sense.
    Usage(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNode(why) => write!(formatter, "no node answers: {why}"),
            Self::Stopped => write!(formatter, "the node stopped"),
            Self::Late => write!(formatter, "the node did not answer in time"),
            Self::Unusable(why) => write!(formatter, "the control socket can't be used: {why}"),
            Self::No(text) | Self::Usage(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

/// What ended a wait for the next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// There is something to read: a line, or the end.
    Answer,
    /// The other end of what was looked at beside it is closed.
    Closed,
    /// The time is over.
    Late,
}

impl ControlClient {
    /// Connects to the socket of a node. Where more wait for it than the system lets wait, that is
    /// tried again within the time.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, Failure> {
        let until = Instant::now() + timeout;
        let unusable = |why: Errno| Failure::Unusable(why.into());
        let address = SocketAddrUnix::new(path).map_err(|why| match why {
            Errno::NAMETOOLONG | Errno::INVAL => {
                Failure::NoNode(Error::new(ErrorKind::InvalidInput, "the path is too long"))
            }
            other => unusable(other),
        })?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(unusable)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < until => thread::park_timeout(CONNECT_AGAIN),
                Err(Errno::AGAIN) => return Err(Failure::Late),
                Err(why @ (Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR)) => {
                    return Err(Failure::NoNode(why.into()));
                }
                Err(other) => return Err(unusable(other)),
            }
        }
        let process = rustix::net::sockopt::socket_peercred(&socket).ok().map(|peer| peer.pid);
        let writer = UnixStream::from(socket);
        writer.set_nonblocking(false).map_err(Failure::Unusable)?;
        let reader = writer.try_clone().map_err(Failure::Unusable)?;
        Ok(Self { reader: BufReader::new(reader), writer, process, partial: Vec::new() })
    }

    /// Whether the node behind this connection still serves at that path.
    pub fn is_still_at(&self, path: &Path) -> bool {
        match Self::connect(path, Duration::ZERO) {
            // A process that ends takes callers until its last moment, and answers none.
            Ok(mut again) if again.process == self.process => {
                let answer = again.call(&serde_json::json!({ "op": "status" }), STILL_THERE_TIME);
                matches!(answer, Ok(_) | Err(Failure::Late))
            }
            Ok(_) => false,
            Err(failure) => matches!(failure, Failure::Late),
        }
    }

    /// Asks, without waiting for the answer.
    pub fn ask(&mut self, request: &Json) -> Result<(), Failure> {
        let mut line = request.to_string();
        line.push('\n');
        // A node that has no more to say to us may have said why: that is read next.
        match self.writer.write_all(line.as_bytes()) {
            Err(why) if why.kind() != ErrorKind::BrokenPipe => Err(Failure::Unusable(why)),
            _ => Ok(()),
        }
    }

    /// Waits until there is something to read, or something else is closed, or the time is over.
    pub fn await_line(
        &self,
        beside: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> Result<Woken, Failure> {
        if !self.reader.buffer().is_empty() {
            return Ok(Woken::Answer);
        }
        let until = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            // What is written to shows no more than that nobody reads it.
            let mut ends = [
                PollFd::new(&self.writer, PollFlags::IN),
                PollFd::from_borrowed_fd(beside, PollFlags::empty()),
            ];
            match poll(&mut ends, left.as_ref()) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(why) => return Err(Failure::Unusable(why.into())),
            }
            let [line, other] = &ends;
            let is_over = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
            let closed = other.revents().intersects(is_over);
            return Ok(if closed && line.revents().is_empty() {
                Woken::Closed
            } else {
                Woken::Answer
            });
        }
    }

    /// The next result; `None` where the node ended the row of them.
    pub fn next_result(&mut self, timeout: Option<Duration>) -> Result<Option<Json>, Failure> {
        // A time of nothing would mean none at all.
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        self.writer.set_read_timeout(timeout).map_err(Failure::Unusable)?;
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX);
        match limited.read_until(b'\n', &mut line) {
            Ok(_) => {}
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(Failure::Late);
            }
            Err(why) if why.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(why) => return Err(Failure::Unusable(why)),
        }
        // A line without its end is what a node was saying when it ended.
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        result_of(&line).map(Some)
    }

    /// The next result if it is there whole. This never waits; what was read so far is kept. For
    /// one who waits for several things: not to be mixed with [`Self::next_result`].
    pub fn poll_result(&mut self) -> Result<Polled, Failure> {
        let room = LINE_BYTES_MAX.saturating_sub(self.partial.len() as u64);
        self.writer.set_nonblocking(true).map_err(Failure::Unusable)?;
        match (&mut self.reader).take(room).read_until(b'\n', &mut self.partial) {
            Ok(_) => {}
            Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(Polled::Nothing),
            Err(why) if why.kind() == ErrorKind::ConnectionReset => return Ok(Polled::Ended),
            Err(why) => return Err(Failure::Unusable(why)),
        }
        let mut line = std::mem::take(&mut self.partial);
        if line.pop() != Some(b'\n') {
            return Ok(Polled::Ended);
        }
        result_of(&line).map(Polled::Result)
    }

    /// Asks and waits for one result.
    pub fn call(&mut self, request: &Json, timeout: Duration) -> Result<Json, Failure> {
        self.ask(request)?;
        self.next_result(Some(timeout))?.ok_or(Failure::Stopped)
    }
}

/// The result in an answer, or why there is none.
fn result_of(line: &[u8]) -> Result<Json, Failure> {
    let answer: Json = serde_json::from_slice(line).map_err(|fault| {
        let what = format!("what answers is no node: {fault}");
        Failure::Unusable(Error::new(ErrorKind::InvalidData, what))
    })?;
    if answer.get("ok").and_then(Json::as_bool) == Some(true) {
        return Ok(answer.get("result").cloned().unwrap_or(Json::Null));
    }
    let text = answer.get("error").and_then(Json::as_str).unwrap_or("it gave no reason");
    match answer.get("kind").and_then(Json::as_str) {
        Some("usage") => Err(Failure::Usage(text.to_owned())),
        Some("stopping") => Err(Failure::Stopped),
        _ => Err(Failure::No(text.to_owned())),
    }
}
