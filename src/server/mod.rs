//! The port: a gate that strangers can't break, and tiny_http with its workers behind it.
//!
//! tiny_http 0.12 reads heads of any length, waits for ever, has a thread for each connection,
//! stops accepting at the first error, and reserves memory for whatever length is announced. So it
//! gets heads of whole requests, over one connection of our own, and meets no stranger.

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

use std::borrow::Cow;
use std::fmt;
use std::io::Error;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use backend::Service;
use gate::Gate;
use limits::Limits;
use zeroize::Zeroizing;

pub use listen::{InvalidListen, Listen, is_missing};

/// Workers of a port for nodes: signatures are checked there, and small hosts have up to 4 cores.
const WORKERS: usize = 4;
/// Stack of a thread, bytes: a request is on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// How long a fault of the port is shown after it was seen last.
const DEGRADED_SHOWN: Duration = Duration::from_secs(60);

/// Whom a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Other nodes: short heads, of which nothing is looked at but the path.
    Nodes,
    /// People with browsers, and their programs.
    People,
}

/// What is served at a port.
#[derive(Debug, Clone, Copy)]
pub struct Serves {
    /// What the names of its threads begin with.
    pub name: &'static str,
    /// The flag that says where it is, for messages.
    pub flag: &'static str,
    /// All paths; any other one is a 404.
    pub paths: &'static [&'static str],
    /// The methods; any other one is a 405.
    pub methods: &'static [&'static str],
    /// The longest body of a request, bytes.
    pub body_bytes_max: usize,
    /// Whom it is for.
    pub audience: Audience,
}

/// Headers of a request that say who asks for what. A port for nodes has none of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// `Host`: how the caller calls this host.
    pub host: Option<String>,
    /// `Authorization`.
    pub authorization: Option<Zeroizing<String>>,
    /// `If-None-Match`: what the caller has already.
    pub if_none_match: Option<String>,
}

/// A request as it came.
#[derive(Debug)]
pub struct Request {
    /// Its path: one of those given at the start.
    pub path: String,
    /// What stands behind `?`, as it came; for nodes that is a part of the path.
    pub query: String,
    /// What its headers say.
    pub headers: Headers,
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
    /// Other headers, of our own words alone.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the body is not sent, and its length alone is said: it was asked for with HEAD.
    pub is_bodiless: bool,
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

/// What the gate tells of the port.
#[derive(Debug, Default)]
struct Seen {
    tally: Tally,
    /// How often tiny_http was started again since the start.
    restarted: u64,
    /// What was wrong last, with what is done about it, and when that was.
    degraded: Option<(Trouble, String, Instant)>,
}

/// What the port has seen so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Connections that were taken.
    pub accepted: u64,
    /// Strangers whose connection was cut to make room.
    pub cut: u64,
    /// Connections that are open.
    pub open: usize,
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
    seen: Arc<Mutex<Seen>>,
    gate: Option<JoinHandle<()>>,
    /// Closed to stop the gate.
    stop: Option<UnixStream>,
}

impl Server {
    /// Opens the port (port 0 picks one) and starts the threads. What asks for one of the paths by
    /// one of the methods goes to the handler, unless its body is over the limit.
    pub fn start(
        listen: &Listen,
        serves: Serves,
        handler: Handler,
        on_fault: OnFault,
    ) -> Result<Self, ServerError> {
        let failed = |why| ServerError { listen: listen.clone(), flag: serves.flag, why };
        let listener = listen.open().map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let seen = Arc::<Mutex<Seen>>::default();
        let service = Service { handler, serves, on_fault: Arc::clone(&on_fault) };
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limits = match serves.audience {
            Audience::Nodes => Limits::of(descriptors),
            Audience::People => Limits::of_people(descriptors),
        };
        let gate = Gate::new(listener, service, limits, Arc::clone(&seen), stopped);
        let gate = gate.map_err(failed)?;
        let name = format!("{}-gate", serves.name);
        let thread = spawn(name, on_fault, move || gate.run()).map_err(failed)?;
        Ok(Self { address, seen, gate: Some(thread), stop: Some(stop) })
    }

    /// The address that it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Tally {
        locked(&self.seen).tally
    }

    /// What is wrong with it right now, with what is done about it.
    pub fn troubles(&self) -> Vec<(Trouble, String)> {
        let ip = self.address.ip().to_canonical();
        let missing = is_missing(self.address).then(|| {
            let text = format!(
                "this host does not have the address {ip} that the node listens on: nobody can call it until it has"
            );
            (Trouble::NoAddress, text)
        });
        let degraded = locked(&self.seen).degraded.clone();
        let shown = degraded.filter(|(.., at)| at.elapsed() <= DEGRADED_SHOWN);
        missing.into_iter().chain(shown.map(|(trouble, text, _)| (trouble, text))).collect()
    }

    /// Closes the port and all connections, and ends the threads, as dropping it does.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(gate) = self.gate.take() {
            // One that panicked has told it.
            let _ = gate.join();
        }
    }
}

/// For the fuzzer: reads the bytes as the head of a request, of a node and of a browser.
#[cfg(fuzzing)]
pub fn fuzz_heads(bytes: &[u8]) {
    for audience in [Audience::Nodes, Audience::People] {
        let rules = head::Rules::of(audience, 1000);
        let head::Parsed::Head(head) = head::parse_request(bytes, &rules) else { continue };
        assert!(head.bytes <= bytes.len() && head.body_bytes <= 1000);
        assert!(audience == Audience::People || head.headers == Headers::default());
        let mut inner = String::new();
        head::add_inner_request(&mut inner, &head, 0);
        // The line that the gate adds may make it longer than a stranger's may be.
        if inner.len() <= rules.head_bytes_max {
            let again = head::parse_request(inner.as_bytes(), &rules);
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

fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The port could not be opened.
#[derive(Debug)]
pub struct ServerError {
    listen: Listen,
    /// The flag that says where.
    flag: &'static str,
    why: Error,
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, flag, why } = self;
        write!(formatter, "can't listen on {listen}: {why}. ")?;
        match (why.kind(), listen) {
            (std::io::ErrorKind::AddrInUse, _) => write!(
                formatter,
                "Another program, maybe a node, has that port: stop it, or name another one with {flag} ADDR:PORT"
            ),
            (std::io::ErrorKind::PermissionDenied, _) => write!(
                formatter,
                "Ports below 1024 are for root: name another one with {flag} ADDR:PORT"
            ),
            (_, Listen::OnLink(_, zone, _)) => write!(
                formatter,
                "Has this host an interface {zone}, and is it up? `ip address` shows them"
            ),
            (_, Listen::At(address)) if address.is_ipv6() => write!(
                formatter,
                "Where the host has no IPv6, use {flag} 0.0.0.0:{}",
                address.port()
            ),
            _ => write!(formatter, "Name another address with {flag} ADDR:PORT"),
        }
    }
}

impl std::error::Error for ServerError {}
