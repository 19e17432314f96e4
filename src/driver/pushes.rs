//! What goes to the senders, and when: the pushes of a change wait for the answer to its caller.

use std::sync::{MutexGuard, PoisonError};

use crossbeam_channel::TrySendError;

use super::Driver;
use crate::protocol::node::{Action, Class, Job};
use crate::protocol::record::Record;
use crate::protocol::verified::Verified;

/// The pushes of a change: they begin when it is dropped, and with the next tick at the latest.
#[must_use = "the change goes to others when it is dropped"]
pub struct Pushes<'a>(pub(super) &'a Driver);

impl Drop for Pushes<'_> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl Driver {
    /// Shows a version here; its pushes are held back.
    pub(super) fn publish_first(&self, record: Verified<Record>) {
        let ((), later) = self.settle(|node, now| ((), node.on_set(record, now)));
        let mut others = Vec::new();
        let mut held = self.held();
        for action in later {
            match action {
                Action::Send(job) => held.push(job),
                other => others.push(other),
            }
        }
        drop(held);
        self.perform(others);
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Vec<Job>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the pushes go that waited for an answer.
    pub(super) fn let_go(&self) {
        let jobs = std::mem::take(&mut *self.held());
        jobs.into_iter().for_each(|job| self.enqueue(job));
    }

    pub(super) fn perform(&self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(job) => self.enqueue(job),
                // A full queue means that the ticker is about to look anyway.
                Action::WakeAt(_) => drop(self.wake.try_send(())),
                Action::WakeDisk => drop(self.wake_disk.try_send(())),
                Action::Tell(_) | Action::Changed { .. } | Action::Finish(..) => {}
            }
        }
    }

    pub(super) fn enqueue(&self, job: Job) {
        let [healthy, returning, unproved] = &self.sends;
        let queue = match job.class {
            Class::Healthy => healthy,
            Class::Returning => returning,
            Class::Unproved => unproved,
        };
        match queue.try_send(job) {
            Ok(()) => self.jobs_wait.get().into_iter().for_each(|look| look()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.lock().node.put_back(&job);
            }
        }
    }

    /// Names what is to be told of each job that waits for a sender.
    pub fn tell_of_jobs(&self, look: impl Fn() + Send + Sync + 'static) {
        // The first one stays: a node has its senders once.
        let _ = self.jobs_wait.set(Box::new(look));
    }
}
