//! What must be true at every step, whatever happens (the promises of docs/architecture.md).

use std::collections::{BTreeMap, HashMap, HashSet};

use dsn::protocol::hash::Hash;
use dsn::protocol::identity::{NodeId, PublicKey};
use dsn::protocol::node::{Node, Now};
use dsn::protocol::record::Record;

/// What became of a DATA message.
#[derive(Default)]
pub struct Sent {
    pub delivered: u32,
    /// It was acknowledged to its sender.
    pub accepted: bool,
    /// Its sender was told for certain that it was not delivered.
    pub refused: bool,
}

/// What the owners of states did, and what others saw of it.
#[derive(Default)]
pub struct History {
    /// Every version that was ever signed: whose, with which key, when, what.
    made: HashSet<(NodeId, PublicKey, u64, Hash)>,
    /// The last acknowledged version of each host.
    acknowledged: HashMap<usize, u64>,
    /// What each run of each host showed last of each node under each key.
    shown: HashMap<(usize, u64), BTreeMap<(NodeId, PublicKey), u64>>,
    pub messages: HashMap<u64, Sent>,
}

impl History {
    pub fn made(&mut self, record: &Record) {
        let head = &record.head;
        self.made.insert((head.node_id.clone(), record.public_key, head.timestamp, head.digest));
    }

    pub fn acknowledged(&mut self, host: usize, timestamp: u64) -> Result<(), String> {
        let last = self.acknowledged.insert(host, timestamp);
        match last.filter(|last| *last > timestamp) {
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
    pub fn look_at(
        &mut self,
        host: usize,
        run: u64,
        node: &Node,
        own_key: PublicKey,
        now: Now,
    ) -> Result<(), String> {
        let keys: HashMap<NodeId, PublicKey> = node
            .peers(now)
            .into_iter()
            .filter_map(|peer| Some((peer.node_id, peer.public_key?)))
            .collect();
        let shown = self.shown.entry((host, run)).or_default();
        for state in node.states() {
            let id = &state.node_id;
            let key = if id == node.node_id() { Some(own_key) } else { keys.get(id).copied() };
            let Some(key) = key else {
                return Err(format!("ownership: n{host} shows a state of {id} without a key"));
            };
            let version = (id.clone(), key, state.timestamp, *state.entries.digest());
            if !self.made.contains(&version) {
                return Err(format!(
                    "ownership: n{host} shows a version {} of {id} that nobody signed with {}",
                    state.timestamp,
                    key.fingerprint()
                ));
            }
            let last = shown.insert((id.clone(), key), state.timestamp).unwrap_or_default();
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
