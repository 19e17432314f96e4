//! The port: a gate that strangers can't break, and tiny_http with its workers behind it.
//!
//! tiny_http 0.12 reads heads of any length, waits for ever, has a thread for each connection,
//! stops accepting at the first error, and reserves memory for whatever length is announced. So it
//! gets heads of whole requests, over a few connections of our own, and meets no stranger.

mod backend;
mod connection;
mod gate;
mod handover;
mod head;
mod limits;
mod listen;
mod queue;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Error;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use backend::Service;
use gate::Gate;
use limits::Limits;
pub use listen::{InvalidListen, Listen, is_missing};

/// Workers, and requests that are with them: signatures are checked here, and small hosts have up
/// to 4 cores.
const WORKERS: usize = 4;
/// Stack of a thread, bytes: a request is on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// Nodes that may keep a connection each: as many as a node knows at most.
const PEERS_HINT: usize = 1024;

/// A request as it came.
#[derive(Debug)]
pub struct Request {
    /// Its path: one of those given at the start.
    pub path: String,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// Its body, within the limit.
    pub body: Vec<u8>,
}

/// What it is answered with.
#[derive(Debug, Default)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The header `Dsn-Seal`.
    pub seal: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    /// Who proved itself with the request: the gate keeps such connections.
    pub caller: Option<Caller>,
}

/// A name for who proved with this very request that it is a member and speaks now: the same
/// number for the same node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub u64);

/// What makes answers out of requests.
pub type Handler = Arc<dyn Fn(Request) -> Response + Send + Sync>;

/// Told when a thread of the port ended that should not have: the port is deaf, or soon will be.
pub type OnFault = Arc<dyn Fn(&str) + Send + Sync>;

/// How the port is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// How often tiny_http was started again since the start.
    pub restarted: u64,
    /// What is wrong right now, with what is done about it.
    pub degraded: Option<(Trouble, String)>,
    /// That the host lacks the address that is listened on, if it does.
    pub missing: Option<String>,
}

/// What the port has seen so far, for others to read meanwhile.
#[derive(Debug, Default)]
pub struct Tally {
    accepted: AtomicU64,
    cut: AtomicU64,
    open: AtomicUsize,
}

impl Tally {
    /// Connections that were taken.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Strangers whose connection was cut to make room.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn note_open(&self, open: usize) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.store(open, Ordering::Relaxed);
    }

    fn note_closed(&self, open: usize) {
        self.open.store(open, Ordering::Relaxed);
    }

    fn note_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }
}

/// What can be wrong with the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Strangers hold many connections.
    Strangers,
    /// Nobody can connect.
    Deaf,
    /// The host lacks the address that is listened on.
    NoAddress,
    /// The HTTP server behind the gate failed.
    Backend,
}

/// An open port with its threads.
pub struct Server {
    address: SocketAddr,
    health: Arc<Mutex<Health>>,
    tally: Arc<Tally>,
    gate: Option<JoinHandle<()>>,
    /// Closed to stop the gate.
    stop: Option<UnixStream>,
}

impl Server {
    /// Opens the port (port 0 picks one) and starts the threads. A POST to one of the paths goes
    /// to the handler, unless its body is over the limit.
    pub fn start(
        listen: &Listen,
        paths: &'static [&'static str],
        body_bytes_max: usize,
        handler: Handler,
        on_fault: OnFault,
    ) -> Result<Self, ServerError> {
        let failed = |why| ServerError { listen: listen.clone(), why };
        let listener = listen.open().map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let (health, tally) = <(Arc<Mutex<Health>>, Arc<Tally>)>::default();
        let service = Service { handler, paths, on_fault: Arc::clone(&on_fault) };
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limits = Limits::of(descriptors);
        let seen = (Arc::clone(&health), Arc::clone(&tally));
        let gate = Gate::new(listener, service, body_bytes_max, limits, seen, stopped);
        let gate = gate.map_err(failed)?;
        let thread = spawn("dsn-gate".into(), on_fault, move || gate.run()).map_err(failed)?;
        Ok(Self { address, health, tally, gate: Some(thread), stop: Some(stop) })
    }

    /// The address that it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How the port is doing.
    pub fn health(&self) -> Health {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ip = self.address.ip().to_canonical();
        let missing = is_missing(self.address).then(|| {
            format!(
                "this host does not have the address {ip} that the node listens on: nobody can call it until it has"
            )
        });
        Health { missing, ..health }
    }

    /// Closes the port and all connections, and ends the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop = None;
        if let Some(gate) = self.gate.take() {
            join(gate);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// For the fuzzer: reads the bytes as the head of a request.
#[cfg(fuzzing)]
pub fn fuzz_heads(bytes: &[u8]) {
    if let head::Parsed::Head(head) = head::parse_request(bytes, 1000) {
        assert!(head.bytes <= bytes.len() && head.body_bytes <= 1000);
        let mut inner = String::new();
        head::add_inner_request(&mut inner, &head, 0);
        // The line that the gate adds may make it longer than a stranger's may be.
        if inner.len() <= head::HEAD_BYTES_MAX {
            let again = head::parse_request(inner.as_bytes(), 1000);
            assert!(matches!(again, head::Parsed::Head(it) if it.path == head.path));
        }
    }
}

/// Starts a thread, and tells where it fails.
fn spawn(
    name: String,
    on_fault: OnFault,
    work: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let thread = thread::Builder::new().name(name.clone()).stack_size(STACK_BYTES);
    thread.spawn(move || match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(why)) => on_fault(&format!("the thread {name} ended: {why}")),
        Err(_) => on_fault(&format!("the thread {name} panicked")),
    })
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread of the port had panicked");
    }
}

/// The port could not be opened.
#[derive(Debug)]
pub struct ServerError {
    listen: Listen,
    why: Error,
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, why } = self;
        write!(formatter, "can't listen on {listen}: {why}. ")?;
        match (why.kind(), listen) {
            (std::io::ErrorKind::AddrInUse, _) => write!(
                formatter,
                "Another program has that port: stop it, or name another one with --listen ADDR:PORT"
            ),
            (std::io::ErrorKind::PermissionDenied, _) => write!(
                formatter,
                "Ports below 1024 are for root: name another one with --listen ADDR:PORT"
            ),
            (_, Listen::OnLink(_, zone, _)) => write!(
                formatter,
                "Has this host an interface {zone}, and is it up? `ip address` shows them"
            ),
            (_, Listen::At(address)) if address.is_ipv6() => write!(
                formatter,
                "Where the host has no IPv6, use --listen 0.0.0.0:{}",
                address.port()
            ),
            _ => write!(formatter, "Name another address with --listen ADDR:PORT"),
        }
    }
}

impl std::error::Error for ServerError {}
