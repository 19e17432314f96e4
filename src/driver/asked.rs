//! What people and programs beside the node ask for.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::{DiskJob, Driver, SetJob};
use crate::events::Subscription;
use crate::protocol::identity::NodeId;
use crate::protocol::node::{Action, Node, Now};
use crate::protocol::peers::Ticket;
use crate::protocol::report::{Message, NodeState, PeerInfo, Refused, Status};
use crate::protocol::state::Change;

impl Driver {
    /// What the node says of itself; `listen` is where its port is.
    pub fn status(&self, listen: &str) -> Status {
        let now = self.now();
        let inner = self.lock();
        let mut status = inner.node.status(listen, env!("CARGO_PKG_VERSION"), now);
        status.degraded.extend(inner.disk_faults.iter().flatten().cloned());
        drop(inner);
        status.network_key = self.network_key_names().into_iter().next().unwrap_or_default();
        status
    }

    /// All peers in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let now = self.now();
        self.lock().node.peers(now)
    }

    /// The state of a node, the own one too.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        self.lock().node.state(node_id)
    }

    /// The states of all nodes.
    pub fn states(&self) -> Vec<NodeState> {
        self.lock().node.states()
    }

    /// Changes the own state; returns the timestamp of the version when it is durable.
    pub fn set(&self, change: Change, left: bool) -> Result<u64, Refused> {
        let (reply, answer) = bounded(1);
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        self.disk
            .send(DiskJob::Set(SetJob { change, left, reply }))
            .map_err(|_| Refused::Stopping)?;
        answer.recv().map_err(|_| Refused::Stopping)?
    }

    /// Sends a PING; gives the round-trip time.
    pub fn ping(&self, node_id: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        let elapsed_us =
            self.wait_for(timeout, |node, now| node.ping(node_id, now)).map_err(|refused| {
                match refused {
                    Refused::TimedOut { .. } => Refused::TimedOut {
                        what: format!("{node_id} did not answer within {timeout:?}"),
                    },
                    other => other,
                }
            })?;
        Ok(Duration::from_micros(elapsed_us))
    }

    /// Sends DATA; returns when the other side has accepted it.
    pub fn send(
        &self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        timeout: Duration,
    ) -> Result<(), Refused> {
        self.wait_for(timeout, |node, now| node.send(node_id, data, now)).map(|_| ()).map_err(
            |refused| match refused {
                Refused::TimedOut { what } => Refused::TimedOut {
                    what: format!("{node_id} did not accept the data within {timeout:?}{what}"),
                },
                other => other,
            },
        )
    }

    fn wait_for(
        &self,
        timeout: Duration,
        ask: impl FnOnce(&mut Node, Now) -> Result<(Ticket, Vec<Action>), Refused>,
    ) -> Result<u64, Refused> {
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        let (reply, answer) = bounded(1);
        let mut inner = self.lock();
        let (ticket, actions) = ask(&mut inner.node, self.now())?;
        inner.waiting.insert(ticket, reply);
        let later = inner.settle(actions);
        drop(inner);
        self.perform(later);
        if let Ok(result) = answer.recv_timeout(timeout) {
            return result;
        }
        let mut inner = self.lock();
        inner.waiting.remove(&ticket);
        let doubtful = inner.node.cancel(ticket);
        drop(inner);
        // It may have been settled between the end of the time and the lock.
        answer.try_recv().unwrap_or_else(|_| {
            let what = if doubtful { "; it may have been delivered all the same" } else { "" };
            Err(Refused::TimedOut { what: what.into() })
        })
    }

    /// Takes the oldest message out of the inbox, or waits for one.
    pub fn receive(&self, timeout: Duration) -> Option<Message> {
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            if let Some(message) = inner.node.receive() {
                return Some(message);
            }
            let left = until.checked_duration_since(Instant::now())?;
            if left.is_zero() || self.is_stopping() {
                return None;
            }
            let waited = self.settled.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Puts a message back in front of the inbox.
    pub fn give_back(&self, message: Message) {
        self.lock().node.give_back(message);
        self.settled.notify_all();
    }

    /// Events from now on; nothing where too many listen already.
    pub fn subscribe(&self) -> Option<Subscription> {
        self.lock().hub.subscribe()
    }

    /// Drops all that is known of a node.
    pub fn forget(&self, node_id: &NodeId) -> Result<(), Refused> {
        self.decide(|node, _| match node.forget(node_id) {
            Ok(actions) => (Ok(()), actions),
            Err(refused) => (Err(refused), Vec::new()),
        })
    }

    /// Says goodbye: makes it durable, then waits until all that answer were told, or the time
    /// ran out.
    pub fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.set(Change::new(), true)?;
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        while !inner.node.everybody_knows() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("not all peers could be told that this node leaves");
                break;
            }
            let waited = self.settled.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Refuses what comes from now on, and wakes whoever waits.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let mut inner = self.lock();
        for (_, waiting) in inner.waiting.drain() {
            let _ = waiting.try_send(Err(Refused::Stopping));
        }
        drop(inner);
        self.settled.notify_all();
    }

    /// Whether the node is about to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}
