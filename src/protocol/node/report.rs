//! What the node tells those beside it, and what it keeps of what is wrong.

use std::sync::Arc;

use super::{Action, Node, Now};
use crate::protocol::PROTOCOL_VERSION;
use crate::protocol::identity::NodeId;
use crate::protocol::report::{NodeState, PeerCounts, PeerInfo, PeerStatus, Status};

/// Something that an operator has to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The node that it is about.
    pub(super) node_id: Option<NodeId>,
    /// What is wrong, and what to do.
    text: String,
    /// When it was seen last, ms.
    seen_at: u64,
}

/// Most conflicts that are remembered: a stranger can't make the list grow.
const CONFLICTS_MAX: usize = 16;
/// How long a conflict is shown after it was seen last, ms: longer than the longest back-off, so
/// that one that goes on does not blink.
pub(super) const CONFLICT_SHOWN_MS: u64 = 90_000;

/// Most conflicts that are told within [`NOTES_MS`]: a member that claims ids again and again can't
/// fill the log.
const NOTES_MAX: usize = 16;
/// The time that [`NOTES_MAX`] is about, ms.
const NOTES_MS: u64 = 60_000;

impl Conflict {
    pub(super) fn about(node_id: &NodeId, text: String, now: Now) -> Self {
        Self { node_id: Some(node_id.clone()), text, seen_at: now.mono_ms }
    }

    pub(super) fn general(text: String, now: Now) -> Self {
        Self { node_id: None, text, seen_at: now.mono_ms }
    }
}

impl Node {
    /// What the node says of itself. The driver adds what it alone knows: where it listens, and
    /// what is wrong with disk and port.
    pub fn status(&self, listen: &str, version: &'static str, now: Now) -> Status {
        let mut peers = PeerCounts::default();
        for (_, peer) in self.peers.iter() {
            *match peer.status {
                PeerStatus::Alive => &mut peers.alive,
                PeerStatus::Suspect => &mut peers.suspect,
                PeerStatus::Lost => &mut peers.lost,
                PeerStatus::Left => &mut peers.left,
            } += 1;
        }
        Status {
            node_id: self.settings.node_id.clone(),
            listen: listen.into(),
            advertise: self.settings.advertise.clone().or_else(|| self.seen_at.clone()),
            version,
            protocol: PROTOCOL_VERSION,
            uptime_s: now.mono_ms.saturating_sub(self.started_ms) / 1000,
            peers,
            keys: self.own.entries.len(),
            timestamp: self.own.head.timestamp,
            public_key: self.settings.public_key,
            network_key: String::new(),
            degraded: self.degraded(peers),
        }
    }

    fn degraded(&self, peers: PeerCounts) -> Vec<String> {
        let own_id = &self.settings.node_id;
        let mut list: Vec<String> = self.conflicts.iter().map(|c| c.text.clone()).collect();
        let others: Vec<&super::Seed> =
            self.seeds.iter().filter(|seed| seed.node_id.as_ref() != Some(own_id)).collect();
        if peers.alive == 0 && !others.is_empty() {
            let fault = |seed: &super::Seed| {
                let why = seed.last_fault.as_deref().unwrap_or("not tried yet");
                format!("{}: {why}", seed.address)
            };
            let faults: Vec<String> = others.into_iter().map(fault).collect();
            list.push(format!(
                "no bootstrap node is reached ({}); it is tried again",
                faults.join("; ")
            ));
        }
        list
    }

    /// All peers in the order of their ids.
    pub fn peers(&self, now: Now) -> Vec<PeerInfo> {
        let info = |(node_id, peer): (&NodeId, &super::Peer)| PeerInfo {
            node_id: node_id.clone(),
            address: peer.address.as_ref().or_else(|| peer.hints.back()).cloned(),
            status: peer.status,
            heard_ms_ago: peer.heard_at.map(|at| now.mono_ms.saturating_sub(at)),
            keys: peer.record.as_ref().map_or(0, |record| record.entries.len()),
            timestamp: peer.version().timestamp,
            public_key: peer.key.map(|(key, _)| key),
        };
        self.peers.iter().map(info).collect()
    }

    /// The state of a node, the own one too; nothing where no record of it is held.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        let (record, status) = if self.is_me(node_id) {
            (&self.own, PeerStatus::Alive)
        } else {
            let peer = self.peers.get(node_id)?;
            (peer.record.as_ref()?, peer.status)
        };
        Some(NodeState {
            node_id: node_id.clone(),
            status,
            timestamp: record.head.timestamp,
            entries: Arc::clone(&record.entries),
        })
    }

    /// The states of all nodes: the own one first, the others in the order of their ids.
    pub fn states(&self) -> Vec<NodeState> {
        let others = self.peers.iter().map(|(node_id, _)| node_id);
        std::iter::once(&self.settings.node_id)
            .chain(others)
            .filter_map(|node_id| self.state(node_id))
            .collect()
    }

    pub(super) fn note_conflict(&mut self, conflict: Conflict, actions: &mut Vec<Action>) {
        let known = self
            .conflicts
            .iter_mut()
            .find(|known| known.node_id == conflict.node_id && known.text == conflict.text);
        if let Some(known) = known {
            known.seen_at = conflict.seen_at;
            return;
        }
        if self.conflicts.len() == CONFLICTS_MAX {
            self.conflicts.pop_front();
        }
        self.noted_at.retain(|at| conflict.seen_at.saturating_sub(*at) < NOTES_MS);
        if self.noted_at.len() < NOTES_MAX {
            self.noted_at.push(conflict.seen_at);
            actions.push(Action::Note(conflict.text.clone()));
        }
        self.conflicts.push_back(conflict);
    }

    pub(super) fn forget_old_conflicts(&mut self, now: Now) {
        self.conflicts
            .retain(|conflict| now.mono_ms.saturating_sub(conflict.seen_at) < CONFLICT_SHOWN_MS);
    }
}
