//! tiny_http with its workers, behind the gate.
//!
//! It listens on an abstract Unix socket. The gate connects once, then nobody can connect any more:
//! so tiny_http has one connection and one thread, and sees only heads that were written here. It
//! reads them and deals them to the workers. Bodies and answers go past it: over its connection
//! each byte would be copied twice more, and an answer would wait for all before it.

use std::hash::{BuildHasher, RandomState};
use std::io::Error;
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::connection::SHORT_BYTES_MAX;
use super::handover::{Answer, Handover, Job, Output};
use super::head::CONNECTION;
use super::{Audience, Handler, OnFault, Request, Response, Serves, spawn};

/// How long tiny_http may take to take heads. It does nothing else.
const LINE_TIME_MAX: Duration = Duration::from_secs(1);

/// What the workers need.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) handler: Handler,
    pub(super) serves: Serves,
    pub(super) on_fault: OnFault,
}

/// A tiny_http server with its workers and the connection to it.
pub(super) struct Backend {
    server: Arc<tiny_http::Server>,
    /// Takes heads. tiny_http writes nothing to it: whatever comes is its end.
    pub(super) line: UnixStream,
    ended: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Backend {
    pub(super) fn start(
        service: &Service,
        handover: &Arc<Handover>,
        workers: usize,
    ) -> Result<Self, Error> {
        // Nobody can guess it.
        let name = RandomState::new().hash_one(());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name.to_le_bytes())?;
        let listener = UnixListener::bind_addr(&address)?;
        let line = UnixStream::connect_addr(&address)?;
        line.set_write_timeout(Some(LINE_TIME_MAX))?;
        // From here on it takes the one that waits already, and nobody else.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both)?;
        let server = tiny_http::Server::from_listener(listener, None)
            .map_err(|fault| Error::other(fault.to_string()))?;
        let (server, ended) = (Arc::new(server), Arc::default());
        let mut backend = Self { server, line, ended, workers: Vec::new() };
        for index in 0..workers {
            let (server, ended) = (Arc::clone(&backend.server), Arc::clone(&backend.ended));
            let (own, handover) = (service.clone(), Arc::clone(handover));
            let on_fault = Arc::clone(&service.on_fault);
            let work = move || {
                while !ended.load(Ordering::SeqCst) {
                    // An error is the end of the accept loop, which has done its work.
                    if let Ok(request) = server.recv() {
                        own.serve(request, &handover);
                    }
                }
                Ok(())
            };
            let name = format!("{}-worker-{index}", service.serves.name);
            backend.workers.push(spawn(name, on_fault, work)?);
        }
        Ok(backend)
    }
}

/// Its workers end what they are at.
impl Drop for Backend {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = self.line.shutdown(Shutdown::Both);
        for _ in &self.workers {
            self.server.unblock();
        }
        for worker in self.workers.drain(..) {
            // Who panicked has told it.
            let _ = worker.join();
        }
        // tiny_http's own end asks for the path of its socket, and panics as this one has none. All
        // its threads have ended by now: what stays is one empty queue.
        std::mem::forget(Arc::clone(&self.server));
    }
}

impl Service {
    fn serve(&self, request: tiny_http::Request, handover: &Handover) {
        let header = request.headers().iter().find(|header| header.field.equiv(CONNECTION));
        let token = header.and_then(|it| it.value.as_str().parse().ok());
        // One that is dropped here tiny_http answers with 500, by which the gate knows.
        let Some(token) = token else { return };
        let Some(mut job) = handover.take(token) else { return };
        let direct = job.direct.take();
        let response = self.decide(&request, job);
        let is_direct = direct.is_some();
        let answer = match direct.filter(|_| response.body.len() <= SHORT_BYTES_MAX) {
            Some(stream) => {
                let mut output = Output::new(response, true);
                // Who is gone the gate sees by itself.
                let _ = output.write(&stream);
                Answer::Begun(output)
            }
            None => Answer::Whole(response),
        };
        // The gate counts on it that nothing is left to do.
        let is_urgent = is_direct && !answer.is_written();
        handover.give_back(token, answer, is_urgent);
        // Nothing goes back over the line.
        drop(request.into_writer());
    }

    fn decide(&self, request: &tiny_http::Request, job: Job) -> Response {
        let status = |status| Response { status, ..Response::default() };
        let Serves { paths, methods, .. } = self.serves;
        let (path, query) = match self.serves.audience {
            Audience::Nodes => (request.url(), ""),
            Audience::People => request.url().split_once('?').unwrap_or((request.url(), "")),
        };
        if !paths.contains(&path) {
            return status(404);
        }
        let method = request.method().as_str();
        if !methods.contains(&method) {
            let headers = vec![("Allow", methods.join(", ").into())];
            return Response { status: 405, headers, ..Response::default() };
        }
        let Job { peer, headers, body, .. } = job;
        let (path, query) = (path.to_owned(), query.to_owned());
        let asked = Request { path, query, headers, peer, body };
        let handled = catch_unwind(AssertUnwindSafe(|| (self.handler)(asked)));
        let response = handled.unwrap_or_else(|_| {
            log::error!("BUG: a request to {} from {peer} made us panic", request.url());
            status(500)
        });
        Response { is_bodiless: method == "HEAD", ..response }
    }
}
