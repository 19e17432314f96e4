//! What the gate and the workers hand to each other past tiny_http: bodies, and answers.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, IoSlice, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, eventfd};

use super::head::answer;
use super::{Headers, Response, locked};

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

/// What a worker made of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is to be written.
    Whole(Response),
    /// The worker wrote it, as far as it was taken.
    Begun(Output),
}

impl Answer {
    pub(super) fn is_written(&self) -> bool {
        matches!(self, Self::Begun(output) if output.left() == 0)
    }
}

/// Bytes that go out: a head, and a body.
#[derive(Debug, Default)]
pub(super) struct Output {
    head: Vec<u8>,
    body: Vec<u8>,
    written: usize,
}

impl Output {
    pub(super) fn new(response: Response, keep_alive: bool) -> Self {
        let (head, body) = answer(response, keep_alive);
        Self { head, body, written: 0 }
    }

    /// How many of them are not written.
    pub(super) fn left(&self) -> usize {
        (self.head.len() + self.body.len()).saturating_sub(self.written)
    }

    /// Writes as many as are taken. Gives how many are left.
    pub(super) fn write(&mut self, mut to: &TcpStream) -> Result<usize, Error> {
        while self.left() > 0 {
            let of_body = self.written.saturating_sub(self.head.len());
            let head = self.head.get(self.written..).unwrap_or_default();
            let body = self.body.get(of_body..).unwrap_or_default();
            // In one piece, as it would wait for the other side between two.
            match to.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(self.left())
    }
}

/// Requests that are with workers, by the numbers of their connections, and those that are done.
#[derive(Debug)]
pub(super) struct Handover {
    desk: Mutex<Desk>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Desk {
    jobs: HashMap<u64, Job>,
    done: Vec<(u64, Answer)>,
    /// The gate may sleep, and waits for the next one that is done.
    is_awaited: bool,
}

impl Handover {
    pub(super) fn new() -> Result<Self, Error> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { desk: Mutex::default(), bell })
    }

    /// What wakes the gate: an edge each time that it is rung.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn put(&self, token: u64, job: Job) {
        locked(&self.desk).jobs.insert(token, job);
    }

    pub(super) fn take(&self, token: u64) -> Option<Job> {
        locked(&self.desk).jobs.remove(&token)
    }

    /// Tells the gate, and wakes it where it waits, or has to see to this one at once.
    pub(super) fn give_back(&self, token: u64, answer: Answer, is_urgent: bool) {
        let mut desk = locked(&self.desk);
        desk.done.push((token, answer));
        let rings = std::mem::take(&mut desk.is_awaited) || is_urgent;
        drop(desk);
        if rings {
            // It fails where it was rung more often than 64 bits can count, and no sooner.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Gives all that is done. Where that is nothing, the bell rings for the next one, if it is
    /// awaited.
    pub(super) fn collect(&self, is_awaited: bool) -> Vec<(u64, Answer)> {
        let mut desk = locked(&self.desk);
        desk.is_awaited = is_awaited && desk.done.is_empty();
        std::mem::take(&mut desk.done)
    }
}
