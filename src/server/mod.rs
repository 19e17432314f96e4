//! The tiny_http leaf: a port, workers, and a guard against strangers.
//!
//! tiny_http has no limits of time or number, and its accept loop ends for good on any error. So
//! the port is ours: tiny_http gets a duplicate of it, and another one when its loop has ended.
//! The guard probes the port at each tick, cuts connections that are no good, and reopens.

mod connections;
mod exchange;
mod guard;

use std::collections::HashMap;
use std::fmt;
use std::io::Error;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use socket2::{Domain, Protocol, Socket, Type};

/// Workers of one generation: signatures are checked here, and small hosts have up to 4 cores.
const WORKERS: usize = 4;
/// Workers that read long bodies. A slow sender holds one for `BODY_TIME_MAX` at the most.
const BULK_WORKERS: usize = 4;
/// Long bodies that wait for a worker; with more, the sender is told to come again.
const BULK_QUEUE_MAX: usize = 64;
/// Stack of a worker, bytes: a request is decoded on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// How long a read or a write on a connection may wait. Longer than a client keeps a connection
/// without use, so that the client is the one who ends it.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections that the kernel holds for us until they are accepted.
const BACKLOG: i32 = 128;
/// How often a worker looks whether its generation is over, when nothing comes in.
const WORKER_LOOKS: Duration = Duration::from_secs(2);
/// How long a generation whose accept loop has ended is kept without a request.
const GENERATION_IDLE: Duration = Duration::from_secs(20);
/// Most bodies that are read to their end after their request was refused, and connections that
/// are remembered, are bounded by this: more peers than a node can have are strangers.
const ACTIVITY_MAX: usize = 4096;

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
    /// Whether the request showed that a member sent it: the guard keeps such connections.
    pub trusted: bool,
}

/// What makes answers out of requests.
pub type Handler = Arc<dyn Fn(Request) -> Response + Send + Sync>;

/// How the port is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// How often the port was reopened since the start.
    pub reopened: u64,
    /// What is wrong right now, with what is done about it.
    pub degraded: Option<String>,
}

/// An open port with its threads.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
    /// Dropped to stop the guard and the bulk workers.
    stop: Option<Sender<()>>,
}

/// What the threads of a server share.
struct Shared {
    handler: Handler,
    paths: &'static [&'static str],
    body_bytes_max: usize,
    listener: TcpListener,
    bulk: Sender<Job>,
    /// Told by a worker when an accept loop has ended.
    ended: Sender<u64>,
    stopping: AtomicBool,
    reopened: AtomicU64,
    tables: Mutex<Tables>,
}

/// A request on its way to a bulk worker.
struct Job {
    request: tiny_http::Request,
    activity: Arc<Shared>,
}

/// What is known of connections, and of the port.
#[derive(Default)]
struct Tables {
    activity: HashMap<SocketAddr, Activity>,
    generations: Vec<Generation>,
    workers: Vec<JoinHandle<()>>,
    degraded: Option<(String, Instant)>,
}

/// What a connection did.
#[derive(Debug, Clone, Copy)]
struct Activity {
    /// When its last request was complete.
    complete_at: Instant,
    /// Whether one of its requests came from a member.
    trusted: bool,
    /// Since when a long body is being read.
    reading_since: Option<Instant>,
}

/// One tiny_http server on the port.
struct Generation {
    number: u64,
    server: Arc<tiny_http::Server>,
    /// Whether its accept loop is believed to run.
    accepts: bool,
    used_at: Instant,
}

impl Server {
    /// Opens the port (port 0 picks one) and starts the threads. A POST to one of the paths goes
    /// to the handler, unless its body is over the limit.
    pub fn start(
        listen: SocketAddr,
        paths: &'static [&'static str],
        body_bytes_max: usize,
        handler: Handler,
    ) -> Result<Self, ServerError> {
        let failed = |why| ServerError { listen, why };
        let listener = open_port(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (bulk, bulk_queue) = bounded(BULK_QUEUE_MAX);
        let (ended, ended_queue) = bounded(WORKERS * 2);
        let (stop, stopped) = bounded(0);
        let shared = Arc::new(Shared {
            handler,
            paths,
            body_bytes_max,
            listener,
            bulk,
            ended,
            stopping: AtomicBool::new(false),
            reopened: AtomicU64::new(0),
            tables: Mutex::default(),
        });
        let mut server = Self { shared, address, threads: Vec::new(), stop: Some(stop) };
        server.shared.open_generation().map_err(failed)?;
        server.spawn_threads(&bulk_queue, ended_queue, &stopped).map_err(failed)?;
        Ok(server)
    }

    fn spawn_threads(
        &mut self,
        bulk: &Receiver<Job>,
        ended: Receiver<u64>,
        stopped: &Receiver<()>,
    ) -> Result<(), Error> {
        for index in 0..BULK_WORKERS {
            let (bulk, stopped) = (bulk.clone(), stopped.clone());
            self.threads.push(spawn(format!("dsn-bulk-{index}"), move || {
                loop {
                    select! {
                        recv(bulk) -> job => match job {
                            Ok(job) => exchange::serve_bulk(&job.activity, job.request),
                            Err(_) => return,
                        },
                        recv(stopped) -> _ => return,
                    }
                }
            })?);
        }
        let guard = guard::Guard::new(Arc::clone(&self.shared), self.address);
        let stopped = stopped.clone();
        self.threads.push(spawn("dsn-guard".into(), move || guard.run(&ended, &stopped))?);
        Ok(())
    }

    /// The address that it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// How the port is doing.
    pub fn health(&self) -> Health {
        let degraded = self.shared.tables().degraded.as_ref().map(|(text, _)| text.clone());
        Health { reopened: self.shared.reopened.load(Ordering::Relaxed), degraded }
    }

    /// Closes the port and all connections, and ends the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(stop) = self.stop.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(stop);
        for thread in self.threads.drain(..) {
            join(thread);
        }
        let (generations, workers) = {
            let mut tables = self.shared.tables();
            (std::mem::take(&mut tables.generations), std::mem::take(&mut tables.workers))
        };
        for generation in &generations {
            for _ in 0..WORKERS {
                generation.server.unblock();
            }
        }
        // Connections that tiny_http's threads wait on are cut, or those threads would stay.
        connections::cut_all(self.address);
        for worker in workers {
            join(worker);
        }
        // The last one to go wakes the accept loop, which ends.
        drop(generations);
        let _ = socket2::SockRef::from(&self.shared.listener).shutdown(std::net::Shutdown::Both);
        connections::cut_all(self.address);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Gives a duplicate of the port to a new tiny_http server, with workers of its own.
    fn open_generation(self: &Arc<Self>) -> Result<(), Error> {
        let listener = self.listener.try_clone()?;
        let server = tiny_http::Server::from_listener(listener, None)
            .map_err(|fault| Error::other(fault.to_string()))?;
        let server = Arc::new(server);
        let mut tables = self.tables();
        let number = tables.generations.last().map_or(0, |last| last.number + 1);
        for index in 0..WORKERS {
            let (shared, server) = (Arc::clone(self), Arc::clone(&server));
            let name = format!("dsn-worker-{number}-{index}");
            tables.workers.push(spawn(name, move || shared.work(&server, number))?);
        }
        tables.workers.retain(|worker| !worker.is_finished());
        let used_at = Instant::now();
        tables.generations.push(Generation { number, server, accepts: true, used_at });
        Ok(())
    }

    fn work(self: Arc<Self>, server: &tiny_http::Server, number: u64) {
        while !self.is_stopping() && self.is_open(number) {
            match server.recv_timeout(WORKER_LOOKS) {
                Ok(Some(request)) => exchange::serve(&self, request, number),
                Ok(None) => {}
                Err(fault) => {
                    log::warn!("the port stopped accepting: {fault}; it is opened again");
                    // A full queue means that the guard was told already.
                    let _ = self.ended.try_send(number);
                }
            }
        }
    }

    fn is_open(&self, number: u64) -> bool {
        self.tables().generations.iter().any(|generation| generation.number == number)
    }

    /// Notes what a connection did, so that the guard knows whom to keep.
    fn note(&self, peer: SocketAddr, trusted: bool, number: Option<u64>) {
        let now = Instant::now();
        let mut tables = self.tables();
        if let Some(generation) =
            tables.generations.iter_mut().find(|generation| Some(generation.number) == number)
        {
            generation.used_at = now;
        }
        if let Some(activity) = tables.activity.get_mut(&peer) {
            activity.complete_at = now;
            activity.trusted |= trusted;
            activity.reading_since = None;
        } else if tables.activity.len() < ACTIVITY_MAX {
            let activity = Activity { complete_at: now, trusted, reading_since: None };
            tables.activity.insert(peer, activity);
        }
    }

    fn note_reading(&self, peer: SocketAddr) {
        let now = Instant::now();
        let mut tables = self.tables();
        if tables.activity.len() < ACTIVITY_MAX {
            let fresh = Activity { complete_at: now, trusted: false, reading_since: None };
            tables.activity.entry(peer).or_insert(fresh).reading_since = Some(now);
        }
    }
}

/// The listening socket. What is set here, the accepted sockets inherit (Linux).
fn open_port(listen: SocketAddr) -> Result<TcpListener, Error> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if listen.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the host's default is.
        socket.set_only_v6(false)?;
    }
    // tiny_http writes head and body apart; without this the second waits 40 ms for the first.
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    socket.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work)
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("a thread of the port had panicked");
    }
}

/// The port could not be opened.
#[derive(Debug)]
pub struct ServerError {
    listen: SocketAddr,
    why: Error,
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, why } = self;
        write!(formatter, "can't listen on {listen}: {why}. ")?;
        match why.kind() {
            std::io::ErrorKind::AddrInUse => write!(
                formatter,
                "Another program has that port: stop it, or name another one with --listen ADDR:PORT"
            ),
            std::io::ErrorKind::AddrNotAvailable => {
                write!(formatter, "This host has no such address: use 0.0.0.0:{}", listen.port())
            }
            _ => write!(formatter, "Name another address with --listen ADDR:PORT"),
        }
    }
}

impl std::error::Error for ServerError {}
