//! In a large network a node keeps links with few: the next ones on the ring, and some further
//! away. Of all others it knows what their records say, and what is said of them.

use std::collections::BTreeSet;

use super::probing::{SILENT_TICKS, UNCALLED_TICKS};
use super::{Action, Node, Now};
use crate::order::Gather;
use crate::protocol::hash::Sha256;
use crate::protocol::head::Fingerprint;
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::{Event, PeerStatus};
use crate::protocol::rings::position;
use crate::protocol::wire::KnownNode;

/// How many nodes behind it on the ring a node keeps links with, beside the fingers: where one of
/// them is gone, the next one is watched already.
pub(super) const SUCCESSORS: usize = 2;
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

    /// Counts those that make the network a large one. Where it becomes one, or is one no more, all
    /// is looked at anew.
    pub(super) fn count_members(&mut self) {
        let was_mesh = self.is_mesh();
        let awake = self.peers.awake().filter(|(_, peer)| is_member(peer)).count();
        self.members = self.peers.resting() + awake;
        if self.is_mesh() != was_mesh {
            self.peers.wake_all();
        }
    }

    /// Lays those to rest that nothing is due to, and nothing will be until something comes in.
    pub(super) fn let_rest(&mut self) {
        let resting = self.peers.awake().filter(|(_, peer)| self.may_rest(peer));
        let resting: Vec<NodeId> = resting.map(|(node_id, _)| node_id.clone()).collect();
        self.peers.lay_to_rest(&resting);
    }

    /// In a large network that is most: they are there, no link is kept with them, and nothing is
    /// owed to them.
    pub(super) fn may_rest(&self, peer: &Peer) -> bool {
        let is_linked = self.is_linked(peer);
        let is_in_step = peer.link.connected
            && peer.is_reached()
            && peer.grace_until.is_none()
            && !peer.link.own.lacks(self.own.fingerprint);
        !self.is_mesh()
            && peer.status == PeerStatus::Alive
            && peer.record.is_some()
            && !peer.is_acquaintance
            && !peer.is_visited
            && (!is_linked || is_in_step)
            && peer.owed.is_settled(is_linked)
            && peer.is_idle()
    }

    /// Whether a link is kept with a peer, or is to be made: it is one of the few, it said HELLO
    /// here, or people have a message for it.
    pub(super) fn is_linked(&self, peer: &Peer) -> bool {
        let owed = &peer.owed;
        let is_asked_for = owed.is_asked_for || !owed.data.is_empty() || !owed.pings.is_empty();
        // Who was only ever called asks back where it is.
        let asks_back = peer.link.called_at.is_some() && !self.knows_its_place();
        let has_begun = peer.link.connected || peer.link.was_introduced || asks_back;
        let is_to_prove = peer.is_disputed && peer.direct_key().is_none();
        let is_near = self.is_mesh() || peer.is_acquaintance;
        is_near || peer.is_visited || has_begun || is_asked_for || is_to_prove
    }

    /// Whether there is anything to call a peer for.
    pub(super) fn has_cause(&self, peer: &Peer) -> bool {
        self.is_linked(peer) || !peer.owed.errands.is_empty() || !peer.owed.tell.is_empty()
    }

    /// Chooses those that this node keeps links with, and one of the lost that is looked for.
    pub(super) fn choose_acquaintances(&mut self, now: Now) {
        if self.is_mesh() {
            return;
        }
        let mut near = self.near(now);
        let mut visited = None;
        if self.is_uncalled(UNCALLED_TICKS, now) {
            // Perhaps nobody can call this node: those that would hear it; and by chance another
            // one, as nobody can tell it that it is lost to all others.
            near.extend(self.watchers());
            visited = self.random_one();
        }
        let lost = self.next_lost(now);
        // Whoever is one is awake.
        self.peers.change_awake(|node_id, peer| {
            peer.is_acquaintance = false;
            peer.is_visited = false;
            peer.owed.ping |= lost.as_ref() == Some(node_id);
            // What did not prove anything for a tick makes room for others.
            peer.is_disputed = false;
        });
        for node_id in near.iter().chain(&lost) {
            if let Some(peer) = self.peers.get_mut(node_id) {
                peer.is_acquaintance = true;
            }
        }
        if let Some(peer) = visited.and_then(|node_id| self.peers.get_mut(&node_id)) {
            peer.is_visited = true;
            peer.owed.ping = true;
        }
    }

    /// Anybody that is there, by chance.
    fn random_one(&mut self) -> Option<NodeId> {
        let there = self.peers.iter().filter(|(_, peer)| peer.status == PeerStatus::Alive);
        let there: Vec<NodeId> = there.map(|(node_id, _)| node_id.clone()).collect();
        self.random.choice(there)
    }

    /// Who of those that are lost is looked for next: by turns, as each time in vain counts.
    fn next_lost(&mut self, now: Now) -> Option<NodeId> {
        let is_due =
            |peer: &Peer| peer.status == PeerStatus::Lost && peer.contact.is_due(now.mono_ms);
        let lost = || self.peers.awake().filter(|(_, peer)| is_due(peer));
        let fewest = lost().map(|(_, peer)| peer.contact.fruitless()).min()?;
        let next = lost().filter(|(_, peer)| peer.contact.fruitless() == fewest);
        let next: Vec<NodeId> = next.map(|(node_id, _)| node_id.clone()).collect();
        self.random.choice(next)
    }

    /// The next few that are there, and the first ones behind a half, a quarter, an eighth of the
    /// ring, and so on: what one learns is everywhere after as many steps as the number of nodes
    /// has bits (Stoica et al., "Chord", 2001).
    fn near(&self, now: Now) -> BTreeSet<NodeId> {
        let own = position(&self.settings.node_id);
        let is_there = |peer: &Peer| {
            is_member(peer) && matches!(peer.status, PeerStatus::Alive | PeerStatus::Suspect)
        };
        let there_behind =
            |place: u64| self.peers.behind(place).filter(|(_, _, peer)| is_there(peer));
        let callable_behind =
            |place: u64| there_behind(place).filter(|(_, _, peer)| !peer.is_far(now.mono_ms));
        // The next ones are called again and again, whether they can be called or not.
        let next_ones = there_behind(own).take(SUCCESSORS);
        let next_ones = next_ones.chain(callable_behind(own).take(SUCCESSORS));
        let mut near: BTreeSet<NodeId> =
            next_ones.map(|(_, node_id, _)| node_id.clone()).gathered();
        let next = there_behind(own).next().map_or(0, |(place, ..)| place.wrapping_sub(own));
        for distance in (0..u64::BITS).rev().map(|power| 1_u64 << power) {
            if distance <= next {
                break;
            }
            let place = own.wrapping_add(distance - 1);
            near.extend(callable_behind(place).next().map(|(_, node_id, _)| node_id.clone()));
        }
        near
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
        for node_id in self.peers.awake_ids() {
            self.believe(&node_id, actions);
            self.note_in_view(&node_id);
        }
    }

    /// Notes in the view which version is held of a peer; in a large network also that it is lost,
    /// as most nodes learn that from others alone.
    pub(super) fn note_in_view(&mut self, node_id: &NodeId) {
        let peer = self.peers.get(node_id);
        let held = peer.and_then(|peer| Some((peer, peer.record.as_ref()?.fingerprint)));
        let is_mesh = self.is_mesh();
        let mark = held.map(|(peer, version)| match peer.is_lost_to_others(is_mesh) {
            true if !is_mesh => lost_mark(version),
            _ => version,
        });
        self.view.note(node_id, mark);
    }

    /// Others know a node by another key than the one that was told here. In a small network it is
    /// met anyway; in a large one it is called now, and proves its own.
    pub(super) fn note_dispute(&mut self, node_id: &NodeId, now: Now) {
        let disputed = self.peers.awake().filter(|(_, peer)| peer.is_disputed);
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
        by: &NodeId,
        nodes: &[KnownNode],
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let lost = nodes.iter().filter(|known| known.is_lost);
        self.said_lost = lost.map(|known| known.node_id.clone()).gathered();
        let is_mesh = self.is_mesh();
        let silent_ms = SILENT_TICKS * self.settings.tick_ms;
        let is_disputed = |known: &&KnownNode| {
            let peer = self.peers.get(&known.node_id);
            peer.is_some_and(|peer| {
                let is_lost = peer.is_unseen();
                // In a small network each sees for itself who is lost; and in any what was shown
                // here a moment ago counts for more.
                let is_unsure = peer.unsure_for(now.mono_ms) > silent_ms;
                let is_unsure = is_unsure && self.is_far_due(peer, now);
                let is_there = peer.status == PeerStatus::Alive && !is_mesh && is_unsure;
                let is_same = peer.version() == known.version && peer.record.is_some();
                is_same && (is_lost && !known.is_lost || is_there && known.is_lost)
            })
        };
        let disputed = nodes.iter().filter(is_disputed);
        let waits = |known: &&KnownNode| {
            let peer = self.peers.get(&known.node_id);
            peer.is_some_and(|peer| !peer.watch.far.is_due(now.mono_ms))
        };
        // Those that were sought a moment ago come last.
        let (last, first): (Vec<&KnownNode>, Vec<&KnownNode>) = disputed.partition(waits);
        let disputed = first.into_iter().chain(last).take(DISPUTED_MAX);
        let disputed: Vec<(NodeId, bool)> =
            disputed.map(|known| (known.node_id.clone(), known.is_lost)).collect();
        let mut is_sought = false;
        for (node_id, is_lost_there) in disputed {
            if is_lost_there {
                self.begin_doubt(&node_id, false, now, actions);
            } else {
                is_sought |= self.seek(&node_id, Some(by), now, actions);
            }
        }
        is_sought
    }

    /// Something says that one that is lost here may be there: it is called now.
    pub(super) fn look_for(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        peer.is_acquaintance = true;
        peer.owed.ping = true;
        peer.contact.hurry(now.mono_ms);
        self.poke(node_id, now, actions);
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
