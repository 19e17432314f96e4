//! In a large network a node keeps links with few: the next ones on the ring, and some further
//! away. Of all others it knows what their records say, and what is said of them.

use super::{Action, Node, Now};
use crate::protocol::hash::Sha256;
use crate::protocol::head::Fingerprint;
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::{Event, PeerStatus};
use crate::protocol::rings::position;
use crate::protocol::wire::KnownNode;

/// How many nodes behind it on the ring a node keeps links with, beside the fingers: where one of
/// them is gone, the next one is watched already.
const SUCCESSORS: usize = 2;
/// Most nodes of one list that are looked into as the other side says something else of them: each
/// costs a few requests.
const DISPUTED_MAX: usize = 4;
/// Most nodes that are called at a time as others know them by another key: whoever names many keys
/// makes nobody call all.
const DISPUTES_MAX: usize = 16;

impl Node {
    /// Whether there are so few peers that everybody keeps a link with everybody. Names alone,
    /// which anybody can make up, do not count.
    pub(super) fn is_mesh(&self) -> bool {
        self.members <= self.settings.mesh_max
    }

    /// Counts those that make the network a large one.
    pub(super) fn count_members(&mut self) {
        self.members = self.peers.iter().filter(|(_, peer)| is_member(peer)).count();
    }

    /// Whether a link is kept with a peer, or is to be made: it is one of the few, it said HELLO
    /// here, or people have a message for it.
    pub(super) fn is_linked(&self, peer: &Peer) -> bool {
        let is_asked_for = !peer.owed.data.is_empty() || !peer.owed.pings.is_empty();
        // Who was only ever called asks back where it is.
        let asks_back = peer.link.called_at.is_some() && !self.knows_its_place();
        let has_begun = peer.link.connected || peer.link.was_introduced || asks_back;
        let is_to_prove = peer.is_disputed && peer.direct_key().is_none();
        self.is_mesh() || peer.is_acquaintance || has_begun || is_asked_for || is_to_prove
    }

    /// Whether there is anything to call a peer for.
    pub(super) fn has_cause(&self, peer: &Peer) -> bool {
        self.is_linked(peer) || !peer.owed.errands.is_empty() || !peer.owed.tell.is_empty()
    }

    /// Chooses those that this node keeps links with, and one of the lost that is looked for.
    pub(super) fn choose_acquaintances(&mut self) {
        if self.is_mesh() {
            return;
        }
        let own = position(&self.settings.node_id);
        let mut ring: Vec<(u64, &NodeId)> = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer.status, PeerStatus::Alive | PeerStatus::Suspect))
            .filter(|(_, peer)| is_member(peer))
            .map(|(node_id, peer)| (peer.ring.wrapping_sub(own), node_id))
            .collect();
        ring.sort_unstable();
        let fingers = (0..usize::BITS).map_while(|power| 1_usize.checked_shl(power));
        let places = (0..SUCCESSORS).chain(fingers.map(|place| place - 1));
        let near = places.take_while(|place| *place < ring.len() + SUCCESSORS);
        let near = near.filter_map(|place| ring.get(place).map(|(_, node_id)| (*node_id).clone()));
        let near: Vec<NodeId> = near.collect();
        let lost = self.peers.iter().filter(|(_, peer)| peer.status == PeerStatus::Lost);
        let lost: Vec<NodeId> = lost.map(|(node_id, _)| node_id.clone()).collect();
        let lost = self.random.choice(lost);
        for (node_id, peer) in self.peers.iter_mut() {
            let is_looked_for = lost.as_ref() == Some(node_id);
            peer.is_acquaintance = near.contains(node_id) || is_looked_for;
            peer.owed.ping |= is_looked_for;
            // What did not prove anything for a tick makes room for others.
            peer.is_disputed = false;
        }
    }

    /// Who says where it lives, and of whom nobody says that it is lost, counts as there: those
    /// next to it on the ring look after it.
    pub(super) fn believe(&mut self, node_id: &NodeId, actions: &mut Vec<Action>) {
        if self.is_mesh() || self.said_lost.contains(node_id) {
            return;
        }
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let lives_somewhere = peer.record.as_ref().is_some_and(|it| it.head.home.address.is_some());
        let is_unmet = peer.status == PeerStatus::Suspect && peer.heard_at.is_none();
        if is_unmet && lives_somewhere && peer.watch.accused.is_none() {
            peer.status = PeerStatus::Alive;
            actions.push(Action::Tell(Event::Joined { node_id: node_id.clone() }));
        }
    }

    /// The same for all, where the network has become a large one; and what of them is in the view.
    pub(super) fn look_at_hearsay(&mut self, actions: &mut Vec<Action>) {
        self.count_members();
        for node_id in self.peers.ids() {
            self.believe(&node_id, actions);
            self.note_in_view(&node_id);
        }
    }

    /// Notes in the view which version is held of a peer; in a large network also that it is lost,
    /// as most nodes learn that from others alone.
    pub(super) fn note_in_view(&mut self, node_id: &NodeId) {
        let peer = self.peers.get(node_id);
        let held = peer.and_then(|peer| Some((peer.record.as_ref()?.fingerprint, peer.status)));
        let is_mesh = self.is_mesh();
        let mark = held.map(|(version, status)| match status {
            PeerStatus::Lost if !is_mesh => lost_mark(version),
            _ => version,
        });
        self.view.note(node_id, mark);
    }

    /// Others know a node by another key than the one that was told here. In a small network it is
    /// met anyway; in a large one it is called now, and proves its own.
    pub(super) fn note_dispute(&mut self, node_id: &NodeId, now: Now) {
        let disputed = self.peers.iter().filter(|(_, peer)| peer.is_disputed);
        if self.is_mesh() || disputed.count() >= DISPUTES_MAX {
            return;
        }
        let told = self.peers.get_mut(node_id).filter(|peer| peer.direct_key().is_none());
        if let Some(peer) = told.filter(|peer| peer.pin.is_some() && !peer.is_disputed) {
            peer.is_disputed = true;
            peer.contact.hurry(now.mono_ms);
        }
    }

    /// Somebody lists what it knows: who is lost there, of those not known here; and where both say
    /// something else of one version, it is looked into. Nobody's word is taken for it.
    pub(super) fn compare_lost(
        &mut self,
        nodes: &[KnownNode],
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let lost = nodes.iter().filter(|known| known.is_lost);
        self.said_lost = lost.map(|known| known.node_id.clone()).collect();
        if self.is_mesh() {
            return;
        }
        let is_disputed = |known: &&KnownNode| {
            let peer = self.peers.get(&known.node_id);
            peer.is_some_and(|peer| {
                let is_lost = peer.status == PeerStatus::Lost;
                let is_there = peer.status == PeerStatus::Alive;
                let is_same = peer.version() == known.version && peer.record.is_some();
                is_same && (is_lost && !known.is_lost || is_there && known.is_lost)
            })
        };
        let disputed = nodes.iter().filter(is_disputed).take(DISPUTED_MAX);
        let disputed: Vec<(NodeId, bool)> =
            disputed.map(|known| (known.node_id.clone(), known.is_lost)).collect();
        for (node_id, is_lost_there) in disputed {
            if is_lost_there {
                self.begin_doubt(&node_id, false, now, actions);
            } else if let Some(peer) = self.peers.get_mut(&node_id) {
                peer.is_acquaintance = true;
                peer.owed.ping = true;
                peer.contact.hurry(now.mono_ms);
                self.poke(&node_id, now, actions);
            }
        }
    }
}

/// Whether it was met, or said something.
fn is_member(peer: &Peer) -> bool {
    peer.record.is_some() || peer.place.proved().is_some()
}

/// Stands in the view for a version whose owner is lost.
fn lost_mark(version: Fingerprint) -> Fingerprint {
    Sha256::new(b"dsn/1 lost").chain(&version).finish_short()
}
