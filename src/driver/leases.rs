//! When keys of the own state go, as the journal's thread says it: for those who ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Driver, Inner};
use crate::protocol::entries::{Difference, Entries, Key};
use crate::protocol::identity::NodeId;
use crate::protocol::node::Now;
use crate::protocol::report::{Event, NodeState};

/// The keys that expire, and when, ms by the clock for all waiting.
#[derive(Default)]
pub(super) struct KnownLeases {
    known: Arc<BTreeMap<Key, u64>>,
    /// How often that changed: a lease that is renewed makes no new version of the state.
    changes: u64,
}

impl KnownLeases {
    /// Keys go then, or not any more.
    pub(super) fn note(&mut self, leases: Vec<(Key, Option<u64>)>) {
        let known = Arc::make_mut(&mut self.known);
        for (key, due_ms) in leases {
            let before = match due_ms {
                Some(due_ms) => known.insert(key, due_ms),
                None => known.remove(&key),
            };
            self.changes += u64::from(before != due_ms);
        }
    }
}

impl Driver {
    /// How often it changed when own keys go: that is no version of the own state.
    pub fn lease_changes(&self) -> u64 {
        self.lock().leases.changes
    }
}

impl Inner {
    /// The states of all nodes, the own one first.
    pub(super) fn states(&self) -> Vec<NodeState> {
        self.node.states().into_iter().map(|state| self.with_leases(state)).collect()
    }

    /// A state with when its keys go: of others that is not known.
    pub(super) fn with_leases(&self, state: NodeState) -> NodeState {
        if state.node_id == *self.node.node_id() {
            return NodeState { expires: Arc::clone(&self.leases.known), ..state };
        }
        state
    }

    /// Tells what differs between two versions of a state.
    pub(super) fn tell_changes(
        &mut self,
        node_id: &NodeId,
        timestamp: u64,
        (old, new): (&Entries, &Entries),
        now: Now,
    ) {
        if self.hub.is_empty() {
            return;
        }
        for Difference { key, old, new } in old.differences(new) {
            let expires_in = self.expires_in(node_id, &key, now).filter(|_| new.is_some());
            let node_id = node_id.clone();
            self.hub.publish(&Event::Updated { node_id, timestamp, key, old, new, expires_in });
        }
    }

    /// How long a key stands still; nothing where it stands for good, or nobody here knows.
    fn expires_in(&self, node_id: &NodeId, key: &Key, now: Now) -> Option<Duration> {
        let due_ms = self.leases.known.get(key).filter(|_| node_id == self.node.node_id())?;
        Some(Duration::from_millis(due_ms.saturating_sub(now.mono_ms)))
    }
}
