//! The threads that send to peers that answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::STACK_BYTES;
use crate::driver::Driver;
use crate::protocol::node::Target;

/// Most senders to peers that answer. Each peer that hangs holds one until it is suspected, so
/// this many may hang at one time without any delay to the others.
const SENDERS_MAX: usize = 64;
/// How long a sender beyond the first one waits for work before it ends.
const SENDER_IDLE: Duration = Duration::from_secs(3);

/// The senders to peers that answer. One always waits for work: the last one that takes a job
/// makes another first. So no job waits behind peers that hang, and an idle node has one.
pub(super) struct Senders {
    driver: Arc<Driver>,
    jobs: Receiver<Target>,
    stopped: Receiver<()>,
    idle: AtomicUsize,
    names: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Senders {
    pub(super) fn new(
        driver: Arc<Driver>,
        jobs: Receiver<Target>,
        stopped: Receiver<()>,
    ) -> Arc<Self> {
        let (idle, names) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { driver, jobs, stopped, idle, names, threads: Mutex::default() })
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one more, up to the limit.
    pub(super) fn add(self: &Arc<Self>) -> std::io::Result<()> {
        let mut threads = self.threads();
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= SENDERS_MAX {
            return Ok(());
        }
        let name = format!("dsn-sender-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let senders = Arc::clone(self);
        self.idle.fetch_add(1, Ordering::SeqCst);
        let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES);
        match thread.spawn(move || senders.work()) {
            Ok(thread) => {
                threads.push(thread);
                Ok(())
            }
            Err(fault) => {
                self.idle.fetch_sub(1, Ordering::SeqCst);
                Err(fault)
            }
        }
    }

    fn work(self: Arc<Self>) {
        loop {
            let target = select! {
                recv(self.jobs) -> job => match job {
                    Ok(target) => target,
                    Err(_) => return,
                },
                recv(self.stopped) -> _ => return,
                default(SENDER_IDLE) => {
                    if self.retire() {
                        return;
                    }
                    continue;
                }
            };
            if self.idle.fetch_sub(1, Ordering::SeqCst) == 1
                && let Err(fault) = self.add()
            {
                log::warn!("no thread for another sender: {fault}; sends may wait");
            }
            self.driver.run_send(&target);
            self.idle.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether one that waited in vain may end: another one waits.
    fn retire(&self) -> bool {
        let fewer = |idle: usize| (idle > 1).then(|| idle - 1);
        self.idle.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok()
    }

    pub(super) fn reap(&self) {
        self.threads().retain(|thread| !thread.is_finished());
    }

    pub(super) fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads())
    }
}
