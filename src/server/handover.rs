//! What the gate and the workers hand to each other past tiny_http: bodies, and answers.

use std::io::Error;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::{Headers, Response};

/// What a worker needs beside the head, which tiny_http reads.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) peer: SocketAddr,
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
    /// Where a short answer goes, while the gate has nothing else to do: so it sleeps on. It is one
    /// behind which the connection is kept.
    pub(super) direct: Option<Arc<TcpStream>>,
}

/// A request that a worker is done with.
#[derive(Debug)]
pub(super) struct Done {
    /// Its place.
    pub(super) place: usize,
    pub(super) answer: Answer,
}

/// What there is to do for it yet.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is to be written.
    Whole(Response),
    /// Nothing yet: a worker writes it, and says so before anybody can have read it.
    Begun,
    /// A worker wrote it but for these bytes.
    Rest(Vec<u8>),
}

/// A place for each request that is with a worker, and those that are done.
#[derive(Debug)]
pub(super) struct Handover {
    places: Vec<Mutex<Option<Job>>>,
    finished: Mutex<Finished>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Finished {
    all: Vec<Done>,
    /// The gate may sleep, and waits for the next one.
    is_awaited: bool,
}

impl Handover {
    pub(super) fn new(workers: usize) -> Result<Self, Error> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let places = (0..workers).map(|_| Mutex::default()).collect();
        Ok(Self { places, finished: Mutex::default(), bell })
    }

    /// What wakes the gate: an edge each time that it is rung.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn put(&self, place: usize, job: Job) {
        if let Some(place) = self.places.get(place) {
            *locked(place) = Some(job);
        }
    }

    pub(super) fn take(&self, place: usize) -> Option<Job> {
        locked(self.places.get(place)?).take()
    }

    /// Tells the gate, and wakes it where it waits, or has to see to this one at once.
    pub(super) fn give_back(&self, done: Done, is_urgent: bool) {
        let mut finished = locked(&self.finished);
        finished.all.push(done);
        let rings = std::mem::take(&mut finished.is_awaited) || is_urgent;
        drop(finished);
        if rings {
            // It fails where it was rung more often than 64 bits can count, and no sooner.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Gives all that is done. Where that is nothing, the bell rings for the next one, if it is
    /// awaited.
    pub(super) fn collect(&self, is_awaited: bool) -> Vec<Done> {
        let mut finished = locked(&self.finished);
        finished.is_awaited = is_awaited && finished.all.is_empty();
        std::mem::take(&mut finished.all)
    }
}

fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}
