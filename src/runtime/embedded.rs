//! What people and programs beside the node ask it for.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{RunningNode, Shared, keys};
use crate::control::{KeyChange, Service};
use crate::events::Subscription;
use crate::protocol::identity::NodeId;
use crate::protocol::report::{Message, NodeState, PeerInfo, Refused, Status};
use crate::protocol::state::{Change, Key, Value};

/// What people and programs beside the node ask for; [`Service`] for the control socket has the
/// same.
impl RunningNode {
    /// What the node says of itself.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// All peers in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.driver.peers()
    }

    /// The value of a key of a node, the own one too.
    pub fn get(&self, node_id: &NodeId, key: &str) -> Option<Value> {
        self.shared.driver.state(node_id)?.entries.get(key).cloned()
    }

    /// The state of a node, the own one too.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        self.shared.driver.state(node_id)
    }

    /// The states of all nodes, the own one first.
    pub fn states(&self) -> Vec<NodeState> {
        self.shared.driver.states()
    }

    /// Sets a key of the own state; returns the timestamp of the version when it is durable.
    pub fn set(&self, key: Key, value: Value) -> Result<u64, Refused> {
        self.change(Change::from([(key, Some(value))]))
    }

    /// Removes a key of the own state.
    pub fn unset(&self, key: Key) -> Result<u64, Refused> {
        self.change(Change::from([(key, None)]))
    }

    /// Sets and removes several keys in one version.
    pub fn change(&self, change: Change) -> Result<u64, Refused> {
        self.shared.driver.set(change, false)
    }

    /// Sends a PING; gives the round-trip time.
    pub fn ping(&self, node_id: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        self.shared.driver.ping(node_id, timeout)
    }

    /// Sends DATA; returns when the other side has accepted it.
    pub fn send(
        &self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        timeout: Duration,
    ) -> Result<(), Refused> {
        self.shared.driver.send(node_id, data, timeout)
    }

    /// Takes the oldest DATA out of the inbox, or waits for one.
    pub fn receive(&self, timeout: Duration) -> Option<Message> {
        self.shared.driver.receive(timeout)
    }

    /// Events from now on, over a bounded channel; nothing where too many listen already.
    pub fn subscribe(&self) -> Option<Subscription> {
        self.shared.driver.subscribe()
    }

    /// Drops all that is known of a node: its key, its addresses, its state.
    pub fn forget(&self, node_id: &NodeId) -> Result<(), Refused> {
        self.shared.driver.forget(node_id)
    }

    /// Says goodbye to the network; then stop the node.
    pub fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.shared.driver.leave(timeout)
    }
}

impl Service for Shared {
    fn status(&self) -> Status {
        let mut status = self.driver.status(&self.listen);
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = server.as_ref().and_then(|server| server.health().degraded) {
            status.degraded.push(fault);
        }
        status
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.driver.peers()
    }

    fn state(&self, node: &NodeId) -> Option<NodeState> {
        self.driver.state(node)
    }

    fn states(&self) -> Vec<NodeState> {
        self.driver.states()
    }

    fn set(&self, change: Change) -> Result<u64, Refused> {
        self.driver.set(change, false)
    }

    fn ping(&self, node: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        self.driver.ping(node, timeout)
    }

    fn send(&self, node: &NodeId, data: Arc<[u8]>, timeout: Duration) -> Result<(), Refused> {
        self.driver.send(node, data, timeout)
    }

    fn receive(&self, timeout: Duration) -> Option<Message> {
        self.driver.receive(timeout)
    }

    fn give_back(&self, message: Message) {
        self.driver.give_back(message);
    }

    fn subscribe(&self) -> Option<Subscription> {
        self.driver.subscribe()
    }

    fn network_keys(&self, change: KeyChange) -> Result<Vec<String>, Refused> {
        // Only changes of the same file wait for each other here.
        let _one = self.key_file.changing.lock().unwrap_or_else(PoisonError::into_inner);
        keys::change(&self.driver, &self.key_file.path, change)
    }

    fn forget(&self, node: &NodeId) -> Result<(), Refused> {
        self.driver.forget(node)
    }

    fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.driver.leave(timeout)
    }

    fn request_stop(&self) {
        // One wish to stop is enough.
        let _ = self.stop_asked.try_send(());
    }

    fn is_stopping(&self) -> bool {
        self.driver.is_stopping()
    }
}
