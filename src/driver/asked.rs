//! What people and programs beside the node ask for.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::Driver;
use crate::events::Subscription;
use crate::keeper::SetJob;
use crate::protocol::entries::{Change, Key, Value};
use crate::protocol::flight::Ticket;
use crate::protocol::identity::NodeId;
use crate::protocol::node::{Action, Node, Now};
use crate::protocol::report::{Message, NodeState, PeerInfo, Refused, Status};

impl Driver {
    /// What the node says of itself.
    pub fn status(&self) -> Status {
        let (listen, port_fault) = match &*self.server() {
            Some(server) => (server.local_address().to_string(), server.health().degraded),
            None => (String::new(), None),
        };
        let now = self.now();
        let inner = self.lock();
        let mut status = inner.node.status(&listen, env!("CARGO_PKG_VERSION"), now);
        let disk_faults = [&inner.state_fault, &inner.peers_fault];
        status.degraded.extend(disk_faults.into_iter().flatten().cloned());
        drop(inner);
        status.degraded.extend(port_fault);
        let broken =
            self.broken().map(|why| format!("the node broke a rule of its own and stops: {why}"));
        status.degraded.extend(broken);
        status.network_key = self.network_key_names().into_iter().next().unwrap_or_default();
        status
    }

    /// All peers in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let now = self.now();
        self.lock().node.peers(now)
    }

    /// The value of a key of a node, the own one too.
    pub fn get(&self, node_id: &NodeId, key: &str) -> Option<Value> {
        self.state(node_id)?.entries.get(key).cloned()
    }

    /// The state of a node, the own one too.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        self.lock().node.state(node_id)
    }

    /// The states of all nodes, the own one first.
    pub fn states(&self) -> Vec<NodeState> {
        self.lock().node.states()
    }

    /// Sets a key of the own state; returns the timestamp of the version when it is durable.
    pub fn set(&self, key: Key, value: Value) -> Result<u64, Refused> {
        self.change(Change::from([(key, Some(value))]))
    }

    /// Removes a key of the own state.
    pub fn unset(&self, key: Key) -> Result<u64, Refused> {
        self.change(Change::from([(key, None)]))
    }

    /// Sets and removes several keys in one version; returns its timestamp when it is durable.
    pub fn change(&self, change: Change) -> Result<u64, Refused> {
        self.commit(change, false)
    }

    fn commit(&self, change: Change, left: bool) -> Result<u64, Refused> {
        self.check_broken()?;
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        let (reply, answer) = bounded(1);
        self.sets.send(SetJob { change, left, reply }).map_err(|_| Refused::Stopping)?;
        answer.recv().map_err(|_| Refused::Stopping)?
    }

    /// Sends a PING; gives the round-trip time.
    pub fn ping(&self, node_id: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        let in_vain = |refused| match refused {
            Refused::TimedOut { .. } => {
                Refused::TimedOut { what: format!("{node_id} did not answer within {timeout:?}") }
            }
            other => other,
        };
        let elapsed_us =
            self.wait_for(timeout, |node, now| node.ping(node_id, now)).map_err(in_vain)?;
        Ok(Duration::from_micros(elapsed_us))
    }

    /// Sends DATA; returns when the other side has accepted it.
    pub fn send(
        &self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        timeout: Duration,
    ) -> Result<(), Refused> {
        let in_vain = |refused| match refused {
            Refused::TimedOut { what } => Refused::TimedOut {
                what: format!("{node_id} did not accept the data within {timeout:?}{what}"),
            },
            other => other,
        };
        self.wait_for(timeout, |node, now| node.send(node_id, data, now)).map_err(in_vain)?;
        Ok(())
    }

    fn wait_for(
        &self,
        timeout: Duration,
        ask: impl FnOnce(&mut Node, Now) -> Result<(Ticket, Vec<Action>), Refused>,
    ) -> Result<u64, Refused> {
        self.check_broken()?;
        let (reply, answer) = bounded(1);
        let mut inner = self.lock();
        if inner.is_stopping {
            return Err(Refused::Stopping);
        }
        let now = self.now();
        let (ticket, actions) = ask(&mut inner.node, now)?;
        inner.waiting.insert(ticket, reply);
        let later = inner.settle(actions, now);
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

    /// Takes the oldest DATA out of the inbox, or waits for one.
    pub fn receive(&self, timeout: Duration) -> Option<Message> {
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            if let Some(message) = inner.node.receive() {
                return Some(message);
            }
            let left = until.checked_duration_since(Instant::now())?;
            if left.is_zero() || inner.is_stopping {
                return None;
            }
            let waited = self.settled.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Puts a message back in front of the inbox: its reader went away before it had it.
    pub fn give_back(&self, message: Message) {
        self.lock().node.give_back(message);
        self.settled.notify_all();
    }

    /// Events from now on, over a bounded channel; nothing where too many listen already.
    pub fn subscribe(&self) -> Option<Subscription> {
        self.lock().hub.subscribe()
    }

    /// Drops all that is known of nodes: their keys, addresses and states. They come back by their
    /// own HELLO alone. Where one can't be forgotten, none is.
    pub fn forget(&self, node_ids: &[NodeId]) -> Result<(), Refused> {
        self.decide(|node, now| {
            for node_id in node_ids {
                if let Err(refused) = node.may_forget(node_id) {
                    return (Err(refused), Vec::new());
                }
            }
            let forgets = node_ids.iter().map(|node_id| node.forget(node_id, now));
            let actions = forgets.flatten().flatten().collect();
            (Ok(()), actions)
        })
    }

    /// The same for all that are lost; gives which.
    pub fn forget_lost(&self) -> Vec<NodeId> {
        self.decide(|node, now| {
            let lost = node.lost();
            let forgets = lost.iter().map(|node_id| node.forget(node_id, now));
            let actions = forgets.flatten().flatten().collect();
            (lost, actions)
        })
    }

    /// Says goodbye: makes it durable, then waits until all that answer were told. Where the time
    /// runs out before, the error names those that were not; the goodbye stays.
    pub fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.commit(Change::new(), true)?;
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            let nodes = inner.node.unaware();
            if nodes.is_empty() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || inner.is_stopping {
                return Err(Refused::NotTold { nodes });
            }
            let waited = self.settled.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Refuses what comes from now on, and wakes whoever waits.
    pub fn begin_stop(&self) {
        let mut inner = self.lock();
        inner.is_stopping = true;
        for (_, waiting) in inner.waiting.drain() {
            let _ = waiting.try_send(Err(Refused::Stopping));
        }
        drop(inner);
        self.settled.notify_all();
    }

    /// Whether the node is about to stop.
    pub fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }
}
