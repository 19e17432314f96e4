//! The threads that send, some for each class of peers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::STACK_BYTES;
use crate::driver::Driver;
use crate::protocol::node::{Class, Job};

/// How long a sender beyond the first one waits for work before it ends.
const SENDER_IDLE: Duration = Duration::from_secs(3);

/// Most senders of a class. Each peer that hangs holds one until its time is over.
pub const fn senders_max(class: Class) -> usize {
    match class {
        // So many may begin to hang at one time without any delay to the others.
        Class::Healthy => 256,
        // Those that are back are met soon, however many are not.
        Class::Returning => 32,
        // Anybody can name any address.
        Class::Unproved => 8,
    }
}

/// The senders of one class. One always waits for work: the last one that takes a job makes another
/// first. So no job waits behind peers that hang, up to the limit, and an idle node has one.
pub(super) struct Senders {
    driver: Arc<Driver>,
    class: Class,
    jobs: Receiver<Job>,
    stopped: Receiver<()>,
    idle: AtomicUsize,
    names: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Senders {
    pub(super) fn new(
        driver: Arc<Driver>,
        class: Class,
        jobs: Receiver<Job>,
        stopped: Receiver<()>,
    ) -> Arc<Self> {
        let (idle, names) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { driver, class, jobs, stopped, idle, names, threads: Mutex::default() })
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one more, up to the limit.
    pub(super) fn add(self: &Arc<Self>) -> std::io::Result<()> {
        let mut threads = self.threads();
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= senders_max(self.class) {
            return Ok(());
        }
        let kind = match self.class {
            Class::Healthy => "sender",
            Class::Returning => "returning",
            Class::Unproved => "unproved",
        };
        let name = format!("dsn-{kind}-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let senders = Arc::clone(self);
        self.idle.fetch_add(1, Ordering::SeqCst);
        let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES);
        match thread.spawn(move || {
            senders.driver.guard("of a sender", || senders.work());
        }) {
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

    fn work(self: &Arc<Self>) {
        loop {
            let job = select! {
                recv(self.jobs) -> job => match job {
                    Ok(job) => job,
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
            self.driver.run_send(&job);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the unit allows (scripts/systemd), and what all limits together come to.
    #[test]
    fn the_service_has_room_for_all_threads() {
        let unit = include_str!("../../scripts/systemd/dsn.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("TasksMax="));
        let tasks_max: usize = line.unwrap().parse().unwrap();
        let senders: usize = Class::ALL.into_iter().map(senders_max).sum();
        assert!(unit.contains(&format!("Threads: {senders} senders")));
        // A name that is looked up has a thread of its own; 64 are for all that is no sender.
        assert!(2 * senders + 64 <= tasks_max, "{senders} senders, TasksMax={tasks_max}");
    }
}
