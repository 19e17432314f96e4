//! tiny_http with its workers, behind the gate.
//!
//! It listens on an abstract Unix socket. The gate connects a few times, then nobody can connect
//! any more: so tiny_http has a fixed number of connections and threads, and sees only heads
//! that were written here.

use std::io::{Cursor, Error};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tiny_http::{Header, Method, StatusCode};

use super::head::{CALLER, LINE, PEER, SEAL};
use super::{Handler, OnFault, Request, Response, join, spawn};

/// Workers, and connections to tiny_http: signatures are checked here, and small hosts have up to
/// 4 cores.
pub(super) const WORKERS: usize = 4;

/// What the workers need.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) handler: Handler,
    pub(super) paths: &'static [&'static str],
    pub(super) on_fault: OnFault,
}

/// Bodies on their way from the gate to the workers, one place for each connection. They go past
/// tiny_http: over its sockets each byte would be copied twice more, and held twice.
#[derive(Clone, Default)]
pub(super) struct Bodies(Arc<[Mutex<Vec<u8>>; WORKERS]>);

impl Bodies {
    /// Leaves the body of the request that is asked over a connection next.
    pub(super) fn put(&self, line: usize, body: Vec<u8>) {
        if let Some(place) = self.0.get(line) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = body;
        }
    }

    fn take(&self, line: usize) -> Option<Vec<u8>> {
        let mut place = self.0.get(line)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *place))
    }
}

/// A tiny_http server with its workers and all connections to it.
pub(super) struct Backend {
    server: Arc<tiny_http::Server>,
    ended: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Backend {
    /// Starts one; gives the connections to it, and the places for bodies.
    pub(super) fn start(service: &Service) -> Result<(Self, Vec<UnixStream>, Bodies), Error> {
        let name: u128 = random_name()?;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name.to_le_bytes())?;
        let listener = UnixListener::bind_addr(&address)?;
        let connect = |_| {
            let stream = UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let streams = (0..WORKERS).map(connect).collect::<Result<Vec<_>, Error>>()?;
        // From here on it takes those that wait already, and nobody else.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both)?;
        let server = tiny_http::Server::from_listener(listener, None)
            .map_err(|fault| Error::other(fault.to_string()))?;
        let bodies = Bodies::default();
        let mut backend =
            Self { server: Arc::new(server), ended: Arc::default(), workers: Vec::new() };
        let on_fault = &service.on_fault;
        for index in 0..WORKERS {
            let (server, ended) = (Arc::clone(&backend.server), Arc::clone(&backend.ended));
            let (service, bodies) = (service.clone(), bodies.clone());
            let work = move || {
                while !ended.load(Ordering::SeqCst) {
                    // An error is the end of the accept loop, which has done its work.
                    if let Ok(request) = server.recv() {
                        service.serve(request, &bodies);
                    }
                }
                Ok(())
            };
            let on_fault = Arc::clone(on_fault);
            backend.workers.push(spawn(format!("dsn-worker-{index}"), on_fault, work)?);
        }
        Ok((backend, streams, bodies))
    }
}

impl Drop for Backend {
    /// Ends the workers; the gate has closed the connections.
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for _ in &self.workers {
            self.server.unblock();
        }
        for worker in self.workers.drain(..) {
            join(worker);
        }
        // tiny_http's own end asks for the path of its socket, and panics as this one has none. All
        // its threads have ended by now: what stays is one empty queue.
        std::mem::forget(Arc::clone(&self.server));
    }
}

fn random_name() -> Result<u128, Error> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u128::from_le_bytes(bytes))
}

impl Service {
    fn serve(&self, request: tiny_http::Request, bodies: &Bodies) {
        let response = self.decide(&request, bodies);
        let seal = response.seal.iter().map(|seal| (SEAL, seal.as_str()));
        let caller = response.caller.map(|caller| caller.0.to_string());
        let caller = caller.iter().map(|caller| (CALLER, caller.as_str()));
        let allow = (response.status == 405).then_some(("Allow", "POST"));
        let headers = seal
            .chain(caller)
            .chain(allow)
            .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
            .collect();
        let (status, length) = (StatusCode(response.status), response.body.len());
        let body = Cursor::new(response.body);
        let http = tiny_http::Response::new(status, headers, body, Some(length), None)
            .with_chunked_threshold(usize::MAX);
        // The gate may have given up.
        let _ = request.respond(http);
    }

    fn decide(&self, request: &tiny_http::Request, bodies: &Bodies) -> Response {
        let status = |status| Response { status, ..Response::default() };
        let header = |name: &'static str| {
            let header = request.headers().iter().find(|header| header.field.equiv(name))?;
            Some(header.value.as_str())
        };
        let peer = header(PEER).and_then(|it| it.parse::<SocketAddr>().ok());
        let body = header(LINE).and_then(|it| bodies.take(it.parse().ok()?));
        let (Some(peer), Some(body)) = (peer, body) else {
            return status(500);
        };
        if !self.paths.contains(&request.url()) {
            return status(404);
        }
        if *request.method() != Method::Post {
            return status(405);
        }
        let path = request.url().to_owned();
        let handled =
            catch_unwind(AssertUnwindSafe(|| (self.handler)(Request { path, peer, body })));
        handled.unwrap_or_else(|_| {
            log::error!("BUG: a request to {} from {peer} made us panic", request.url());
            status(500)
        })
    }
}
