//! A TCP connection for ureq. Its own one looks a name up in a thread for each request, which an IP
//! address needs as well, writes head and body apart, and makes ten system calls around those two.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV6, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

use crate::zone;

/// Each buffer of a connection, bytes: the head of an answer has to fit.
const BUFFER_BYTES: usize = 8 * 1024;
/// By how much a limit of time may be missed, so that the system is not told it anew for each read
/// and write.
const TOLERANCE: Duration = Duration::from_millis(20);
/// The least time for one of several addresses of a name.
const CONNECT_LEAST: Duration = Duration::from_millis(10);

/// Looks nothing up: who connects does, as a kept connection needs none of it.
#[derive(Debug)]
pub(super) struct Later;

impl Resolver for Later {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Connects to one address, whatever the URL says.
#[derive(Debug)]
pub(super) struct Dial(pub(super) String);

impl Dial {
    fn resolve(&self, details: &ConnectionDetails<'_>) -> Result<ResolvedSocketAddrs, Error> {
        let one = if let Some((ip, zone, port)) = zone::split(&self.0) {
            SocketAddrV6::new(ip, port, 0, zone::number(zone)?).into()
        } else if let Ok(address) = self.0.parse() {
            address
        } else {
            let resolver = DefaultResolver::default();
            return resolver.resolve(details.uri, details.config, details.timeout);
        };
        let mut found = details.resolver.empty();
        found.push(one);
        Ok(found)
    }
}

impl Connector for Dial {
    type Out = Connection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Connection>, Error> {
        let late = || Error::Timeout(details.timeout.reason);
        let until = Instant::now().checked_add(*details.timeout.after).ok_or_else(late)?;
        let addresses = self.resolve(details)?;
        let mut failed = Error::HostNotFound;
        for (number, address) in addresses.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            // An address of a name that hangs leaves time for the next.
            let is_last = number + 1 == addresses.len();
            let limit = if is_last { left } else { (left / 2).max(CONNECT_LEAST) };
            match connect(*address, limit) {
                Ok(stream) => return Ok(Some(Connection::new(stream))),
                Err(why) => failed = or_timeout(why, details.timeout.reason),
            }
        }
        Err(failed)
    }
}

fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a read or a write failed of: the system says that time is over as if it would block.
fn or_timeout(why: io::Error, reason: Timeout) -> Error {
    match why.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout(reason),
        _ => why.into(),
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffers: Bytes,
    /// The limits that the system knows of.
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
    /// An answer was read, and nothing was asked of the system since.
    was_read: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let buffers = Bytes::default();
        Self { stream, buffers, read_limit: None, write_limit: None, was_read: false }
    }

    /// Writes all that is to go out.
    fn flush(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        let count = std::mem::take(&mut self.buffers.held);
        if count == 0 {
            return Ok(());
        }
        let limit = limit(timeout.for_write())?;
        renew(&mut self.write_limit, limit, |limit| self.stream.set_write_timeout(Some(limit)))?;
        let bytes = self.buffers.output.get(..count).unwrap_or_default();
        let written = (&self.stream).write_all(bytes);
        written.map_err(|why| or_timeout(why, timeout.reason))
    }

    /// Whether the other end neither closed it nor said anything unasked.
    fn is_quiet(&self) -> bool {
        let looked = recv(&self.stream, &mut [0_u8], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        looked.is_err_and(|why| why == rustix::io::Errno::AGAIN)
    }
}

/// What is left of the time.
fn limit(timeout: NextTimeout) -> Result<Duration, Error> {
    if timeout.after.is_zero() { Err(Error::Timeout(timeout.reason)) } else { Ok(*timeout.after) }
}

/// Tells the system a limit, where it knows another one.
fn renew(
    known: &mut Option<Duration>,
    limit: Duration,
    tell: impl Fn(Duration) -> io::Result<()>,
) -> io::Result<()> {
    if known.is_some_and(|known| known.abs_diff(limit) <= TOLERANCE) {
        return Ok(());
    }
    tell(limit)?;
    *known = Some(limit);
    Ok(())
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    /// Holds the head back until the body is there: what is small goes out in one piece.
    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let is_head = self.buffers.held == 0 && amount <= BUFFER_BYTES / 2;
        self.buffers.held += amount;
        if is_head && !self.buffers.has_begun {
            self.buffers.has_begun = true;
            return Ok(());
        }
        self.flush(timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.flush(timeout)?;
        self.buffers.has_begun = false;
        let until = Instant::now().checked_add(limit(timeout.for_read())?);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.filter(|left| !left.is_zero());
            let left = left.ok_or(Error::Timeout(timeout.reason))?;
            renew(&mut self.read_limit, left, |left| self.stream.set_read_timeout(Some(left)))?;
            match (&self.stream).read(self.buffers.input_append_buf()) {
                Ok(count) => {
                    self.buffers.input_appended(count);
                    self.was_read = true;
                    return Ok(count > 0);
                }
                // A read with a limit is not taken up again by the system.
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(or_timeout(why, timeout.reason)),
            }
        }
    }

    /// It is asked when the connection is put away, and again before it is used.
    fn is_open(&mut self) -> bool {
        if std::mem::take(&mut self.was_read) {
            // Nothing more is under way; many of them lie idle.
            self.buffers = Bytes::default();
            return true;
        }
        self.is_quiet()
    }
}

/// What goes out and what came in. There is memory for it from the first use on.
#[derive(Debug, Default)]
struct Bytes {
    output: Vec<u8>,
    /// How much of the output is to be written.
    held: usize,
    /// The head was held back.
    has_begun: bool,
    input: Vec<u8>,
    filled: usize,
    consumed: usize,
    /// Whether the last look at the input used any of it.
    has_progress: bool,
}

impl Bytes {
    fn free_output(&mut self) -> &mut [u8] {
        self.output.resize(BUFFER_BYTES, 0);
        self.output.get_mut(self.held..).unwrap_or_default()
    }

    fn free_input(&mut self) -> &mut [u8] {
        self.input.resize(BUFFER_BYTES, 0);
        self.input.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        self.consumed = 0;
        self.input.get_mut(self.filled..).unwrap_or_default()
    }
}

impl Buffers for Bytes {
    fn output(&mut self) -> &mut [u8] {
        self.free_output()
    }

    fn input(&self) -> &[u8] {
        self.input.get(self.consumed..self.filled).unwrap_or_default()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.free_input()
    }

    fn input_appended(&mut self, amount: usize) {
        self.filled = (self.filled + amount).min(self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.has_progress = amount > 0;
        self.consumed = (self.consumed + amount).min(self.filled);
    }

    /// Only a body in chunks needs room of its own, and none is sent.
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut [], self.free_output())
    }

    fn can_use_input(&self) -> bool {
        !self.input().is_empty() && self.has_progress
    }
}
