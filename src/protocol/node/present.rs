//! Who is there at this moment, and who holds what this node said last: for those who wait for it.

use super::{Action, Node, Now};
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::{Holders, PeerStatus};

impl Node {
    /// Whether it is this node, or one that it knows of.
    pub fn knows(&self, node_id: &NodeId) -> bool {
        self.is_me(node_id) || self.peers.get(node_id).is_some()
    }

    /// How a node is doing; this one is always alive.
    pub fn status_of(&self, node_id: &NodeId) -> Option<PeerStatus> {
        if self.is_me(node_id) {
            return Some(PeerStatus::Alive);
        }
        self.peers.get(node_id).map(|peer| peer.status)
    }

    /// Who of the peers that are alive holds the newest version of the own state.
    pub fn holders(&self) -> Holders {
        let mut holders = Holders::default();
        let on_the_way = self.on_the_way();
        for (node_id, peer) in self.peers.iter().filter(|(_, it)| it.status == PeerStatus::Alive) {
            if self.is_aware(node_id, peer, &on_the_way) {
                holders.held += 1;
            } else {
                holders.lacking.push(node_id.clone());
            }
        }
        holders
    }

    /// The own state changed: from now on not all hold it, if anybody is there.
    pub(super) fn begin_spread(&mut self, now: Now) {
        let is_alive = |(_, peer): (&NodeId, &Peer)| peer.status == PeerStatus::Alive;
        if self.spreading_since.is_none() && self.peers.iter().any(is_alive) {
            self.spreading_since = Some(now.mono_ms);
        }
    }

    /// How long the own state took to be at all that are alive, ms: said once, when it is. Of
    /// several changes that were under way together the time is that of the first.
    pub fn take_spread(&mut self, now: Now) -> Option<u64> {
        let since = self.spreading_since?;
        let on_the_way = self.on_the_way();
        let is_alive = |peer: &Peer| peer.status == PeerStatus::Alive;
        let lacks = |(node_id, peer): (&NodeId, &Peer)| {
            is_alive(peer) && !self.is_aware(node_id, peer, &on_the_way)
        };
        // Those that are due something do not rest, so the first look is short and mostly enough.
        if self.peers.awake().any(lacks) || self.peers.iter().any(lacks) {
            return None;
        }
        let is_anybody_there = self.peers.iter().any(|(_, peer)| is_alive(peer));
        self.spreading_since = None;
        is_anybody_there.then(|| now.mono_ms.saturating_sub(since))
    }

    /// Asks all that count as alive and were not heard since then whether they still are: each
    /// owes us the answer to one PING, however often that is asked. In a large network most have
    /// to be met for it.
    pub fn ask_the_living(&mut self, since_ms: u64, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_to_ask = |peer: &Peer| {
            let is_silent = peer.heard_at.is_none_or(|at| at < since_ms);
            peer.status == PeerStatus::Alive && is_silent && !peer.owed.is_asked_for
        };
        let asked = self.peers.iter().filter(|(_, peer)| is_to_ask(peer));
        let asked: Vec<NodeId> = asked.map(|(node_id, _)| node_id.clone()).collect();
        for node_id in asked {
            if let Some(peer) = self.peers.get_mut(&node_id) {
                (peer.owed.is_asked_for, peer.owed.ping) = (true, true);
                self.poke(&node_id, now, &mut actions);
            }
        }
        actions
    }

    /// How many peers are alive and were heard since then.
    pub fn heard_since(&self, since_ms: u64) -> usize {
        let was_heard = |peer: &Peer| {
            peer.status == PeerStatus::Alive && peer.heard_at.is_some_and(|at| at >= since_ms)
        };
        self.peers.iter().filter(|(_, peer)| was_heard(peer)).count()
    }
}
