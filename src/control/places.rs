//! Places: for those who ask and go, and others for those who stay. So whoever watches, waits or
//! hangs keeps nobody else out.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most connections at a time of those who do not stay: each has a thread. More of them wait in the
/// queue of the system, in the order in which they came.
pub(super) const SHORT_MAX: usize = 64;
/// Most of those who stay: each has a thread, and most of them events that wait for it.
pub(super) const STAY_MAX: usize = 64;
/// A connection on which nothing was asked for so long is closed where others wait for its place.
const IDLE_TIME: Duration = Duration::from_secs(2);
/// How often it is looked whether one is idle by now.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The connections, so that they can be counted and ended.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
    /// Told whenever a place may be free.
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct Open {
    /// The one that accepts now.
    pub(super) listener: Option<UnixListener>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) closed: bool,
    all: HashMap<u64, Connection>,
    next: u64,
}

struct Connection {
    stream: UnixStream,
    doing: Doing,
}

#[derive(Clone, Copy)]
enum Doing {
    /// It asks nothing, since then.
    Nothing(Instant),
    /// It asked something that is soon answered.
    Short,
    /// It watches, or waits for something.
    Stays,
}

impl Open {
    /// Ends reading, or all, of every connection.
    pub(super) fn shut(&self, how: Shutdown) {
        for connection in self.all.values() {
            // One that is closed already is what is wanted.
            let _ = connection.stream.shutdown(how);
        }
    }

    /// Takes a connection; gives its number.
    pub(super) fn add(&mut self, stream: UnixStream) -> u64 {
        let number = self.next;
        self.next += 1;
        self.all.insert(number, Connection { stream, doing: Doing::Nothing(Instant::now()) });
        number
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.all.remove(&number);
    }

    fn stay(&self) -> usize {
        self.all.values().filter(|connection| matches!(connection.doing, Doing::Stays)).count()
    }

    /// Closes the one that asked nothing for longest. Its end for writing stays open: what came
    /// before is answered still, and what comes later is not taken.
    fn close_idlest(&mut self) {
        let idle = self.all.values_mut().filter_map(|connection| match connection.doing {
            Doing::Nothing(since) if since.elapsed() >= IDLE_TIME => Some((since, connection)),
            _ => None,
        });
        if let Some((_, idlest)) = idle.min_by_key(|(since, _)| *since) {
            let _ = idlest.stream.shutdown(Shutdown::Read);
            idlest.doing = Doing::Short;
        }
    }
}

impl Connections {
    pub(super) fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more may come in; says whether anybody may any more.
    pub(super) fn await_place(&self) -> bool {
        let mut open = self.lock();
        while !open.closed && open.all.len() - open.stay() >= SHORT_MAX {
            open.close_idlest();
            let waited = self.changed.wait_timeout(open, LOOK_EVERY);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !open.closed
    }

    /// Nobody comes in any more.
    pub(super) fn close(&self) -> MutexGuard<'_, Open> {
        let mut open = self.lock();
        open.closed = true;
        self.changed.notify_all();
        open
    }

    /// A connection has ended.
    pub(super) fn leave(&self, number: u64) {
        self.lock().remove(number);
        self.changed.notify_all();
    }
}

/// The place of one connection.
pub(super) struct Place<'a> {
    pub(super) connections: &'a Connections,
    pub(super) number: u64,
}

impl Place<'_> {
    fn does(&self, doing: Doing) {
        if let Some(connection) = self.connections.lock().all.get_mut(&self.number) {
            connection.doing = doing;
        }
        self.connections.changed.notify_all();
    }

    /// It waits for its next question.
    pub(super) fn rests(&self) {
        self.does(Doing::Nothing(Instant::now()));
    }

    /// A question came.
    pub(super) fn asks(&self) {
        self.does(Doing::Short);
    }

    /// The answer will take its time; says whether there is a place for that.
    pub(super) fn stays(&self) -> bool {
        let mut open = self.connections.lock();
        let has_room = open.stay() < STAY_MAX;
        if let Some(connection) = open.all.get_mut(&self.number)
            && has_room
        {
            connection.doing = Doing::Stays;
        }
        drop(open);
        self.connections.changed.notify_all();
        has_room
    }
}
