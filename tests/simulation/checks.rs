//! What must be true at every step, whatever happens (the promises of docs/architecture.md).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dsn::protocol::identity::NodeId;
use dsn::protocol::node::Node;
use dsn::protocol::state::{Entries, Record};

/// What became of a DATA message.
#[derive(Default)]
pub struct Sent {
    pub delivered: u32,
    /// It was acknowledged to its sender.
    pub accepted: bool,
    /// Its sender was told for certain that it was not delivered.
    pub refused: bool,
}

/// What the owner of a state did, and what others saw of it.
#[derive(Default)]
pub struct History {
    /// Every version that was ever made, by owner and timestamp.
    made: HashMap<(NodeId, u64), Vec<Arc<Entries>>>,
    /// The last acknowledged version of each host.
    acknowledged: HashMap<usize, u64>,
    /// What each run of each host showed last of each node.
    shown: HashMap<(usize, u64), BTreeMap<NodeId, u64>>,
    pub messages: HashMap<u64, Sent>,
}

impl History {
    pub fn made(&mut self, record: &Record) {
        let versions =
            self.made.entry((record.head.node_id.clone(), record.head.timestamp)).or_default();
        versions.push(Arc::clone(&record.entries));
    }

    pub fn acknowledged(&mut self, host: usize, timestamp: u64) -> Result<(), String> {
        let last = self.acknowledged.insert(host, timestamp);
        match last.filter(|last| *last >= timestamp) {
            Some(last) => Err(format!("monotony: n{host} acknowledged {timestamp} after {last}")),
            None => Ok(()),
        }
    }

    /// The disk of the host was destroyed: what was on it may be lost.
    pub fn disk_lost(&mut self, host: usize) {
        self.acknowledged.remove(&host);
    }

    pub fn started(&self, host: usize, timestamp: u64) -> Result<(), String> {
        let acknowledged = self.acknowledged.get(&host).copied().unwrap_or_default();
        if timestamp < acknowledged {
            return Err(format!(
                "durability: n{host} started with version {timestamp}, had acknowledged {acknowledged}"
            ));
        }
        Ok(())
    }

    /// Ownership and monotony of all that a node shows.
    pub fn look_at(&mut self, host: usize, run: u64, node: &Node) -> Result<(), String> {
        let shown = self.shown.entry((host, run)).or_default();
        for state in node.states() {
            let id = &state.node_id;
            let versions = self.made.get(&(id.clone(), state.timestamp));
            if !versions.is_some_and(|all| all.contains(&state.entries)) {
                return Err(format!(
                    "ownership: n{host} shows a version {} of {id} that {id} never made",
                    state.timestamp
                ));
            }
            let last = shown.insert(id.clone(), state.timestamp).unwrap_or_default();
            if state.timestamp < last {
                return Err(format!(
                    "monotony: n{host} shows version {} of {id} after {last}",
                    state.timestamp
                ));
            }
        }
        Ok(())
    }

    pub fn delivered(&mut self, message: u64) -> Result<(), String> {
        let sent = self.messages.entry(message).or_default();
        sent.delivered += 1;
        match (sent.delivered, sent.refused) {
            (1, false) => Ok(()),
            (1, true) => Err(format!("delivery: message {message} came after it was refused")),
            _ => Err(format!("delivery: message {message} came twice")),
        }
    }

    pub fn finished(&mut self, message: u64, accepted: bool, doubtful: bool) -> Result<(), String> {
        let sent = self.messages.entry(message).or_default();
        sent.accepted = accepted;
        sent.refused = !accepted && !doubtful;
        match (accepted, sent.refused, sent.delivered) {
            (true, _, 0) => Err(format!("delivery: message {message} accepted, not delivered")),
            (_, true, 1..) => Err(format!("delivery: message {message} delivered, but refused")),
            _ => Ok(()),
        }
    }
}
