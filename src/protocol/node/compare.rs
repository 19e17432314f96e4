//! Anti-entropy: lists of what is held, put beside each other. What differs is wished for by the
//! one who lacks it, by its own rules; nobody is sent what it did not ask for, but by its owner.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Node, Now, place_text};
use crate::protocol::address::Address;
use crate::protocol::fault::{Code, Fault};
use crate::protocol::head::Version;
use crate::protocol::identity::{NodeId, Rank};
use crate::protocol::peer::{Pin, Trust};
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::{KnownNode, Listed, Peers, PeersAnswer, RECORDS_MAX};

impl Node {
    /// All versions that are held, and of which nodes it is not known where they are.
    pub(super) fn listed(&self) -> Vec<Listed> {
        let own = (&self.settings.node_id, self.listed_of(&self.settings.node_id));
        let all = self.peers.iter().map(|(node_id, _)| (node_id, self.listed_of(node_id)));
        let mut all: Vec<_> = all.chain([own]).collect();
        all.sort_unstable_by_key(|(node_id, _)| *node_id);
        let listed = |(node_id, (rank, version)): (&NodeId, (Rank, Version))| {
            let is_missed = |status| matches!(status, PeerStatus::Suspect | PeerStatus::Lost);
            let peer = self.peers.get(node_id);
            Listed {
                node_id: node_id.clone(),
                rank,
                version,
                is_missed: peer.is_some_and(|peer| is_missed(peer.status)),
            }
        };
        all.into_iter().map(listed).collect()
    }

    fn listed_of(&self, node_id: &NodeId) -> (Rank, Version) {
        if self.is_me(node_id) {
            return (self.settings.public_key.rank_for(node_id), self.own.version());
        }
        let peer = self.peers.get(node_id);
        peer.map(|peer| (peer.rank(node_id), peer.version())).unwrap_or_default()
    }

    /// Whether a version under a key of this rank, which somebody holds, is wished for here.
    fn wants(&self, node_id: &NodeId, rank: Rank, version: Version) -> bool {
        let is_something = version != Version::default() && rank != Rank::default();
        if !is_something || self.is_me(node_id) || self.graves.is_forgotten(node_id) {
            return false;
        }
        if let Some(list) = &self.settings.allow
            && list.get(node_id).is_none_or(|key| key.rank_for(node_id) != rank)
        {
            return false;
        }
        let pin = self.pin_of(node_id);
        let same_key = pin.is_some_and(|pin| pin.key.rank_for(node_id) == rank);
        if !same_key {
            return pin.is_none_or(|pin| yields(pin, rank, node_id));
        }
        let held = self.peers.get(node_id).and_then(|peer| peer.record.as_ref());
        match held {
            Some(held) => {
                version.timestamp >= held.head.timestamp && version.fingerprint != held.fingerprint
            }
            None => pin.is_some_and(|pin| {
                self.floor_of(node_id).is_none_or(|it| it.lets(&pin.key, version.timestamp))
            }),
        }
    }

    /// What a caller that holds this hears: where something else is held here, where those are that
    /// it misses, and what is wished for.
    pub(super) fn answer_peers(&mut self, peers: Peers) -> PeersAnswer {
        let caller = peers.header.from;
        let theirs: BTreeMap<NodeId, Listed> =
            peers.held.into_iter().map(|listed| (listed.node_id.clone(), listed)).collect();
        let mut wishes: Vec<NodeId> = theirs
            .values()
            .filter(|listed| self.wants(&listed.node_id, listed.rank, listed.version))
            .map(|listed| listed.node_id.clone())
            .collect();
        // What the caller holds of itself comes from itself.
        wishes.retain(|node_id| *node_id != caller);
        wishes.truncate(RECORDS_MAX);
        let mine = self.listed().into_iter().filter(|mine| {
            let their = theirs.get(&mine.node_id);
            their.is_none_or(|their| {
                their.is_missed || (their.rank, their.version) != (mine.rank, mine.version)
            })
        });
        let known = |mine: Listed| {
            let address = self.address_for(&caller, &mine.node_id);
            let Listed { node_id, rank, version, .. } = mine;
            KnownNode { node_id, address, rank, version }
        };
        PeersAnswer { nodes: mine.map(known).collect(), wishes }
    }

    /// Where a node may be found, for another one.
    fn address_for(&self, asks: &NodeId, node_id: &NodeId) -> Option<Address> {
        if self.is_me(node_id) {
            return self.home.address.clone();
        }
        let peer = self.peers.get(node_id).filter(|_| node_id != asks)?;
        // What only the node itself says of an address is not passed on once it is gone.
        let is_good = match peer.status {
            PeerStatus::Alive => true,
            PeerStatus::Suspect | PeerStatus::Lost => peer.place.proved().is_some(),
            PeerStatus::Left => false,
        };
        // What is on our link need not be on theirs, and its zone is a name of this host.
        peer.place.to_share().filter(|at| is_good && !at.is_link_local()).cloned()
    }

    /// Puts what a peer holds beside what is held here: what it has newer is wanted, what it wishes
    /// for is sent, and nodes not known here are looked for. Says whether anything follows from it.
    pub(super) fn compare(
        &mut self,
        node_id: &NodeId,
        answer: PeersAnswer,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let wanted: BTreeSet<NodeId> = answer
            .nodes
            .iter()
            .filter(|known| self.wants(&known.node_id, known.rank, known.version))
            .map(|known| known.node_id.clone())
            .collect();
        let send: BTreeSet<NodeId> = answer
            .wishes
            .into_iter()
            .filter(|wished| self.is_to_be_given(node_id, wished))
            .collect();
        let mut follows = !wanted.is_empty() || !send.is_empty();
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.owed.want = wanted;
            peer.owed.send = send;
        }
        for known in &answer.nodes {
            if self.is_me(&known.node_id) {
                follows |= self.note_own_at(node_id, known.version);
            } else {
                self.note_other_key(node_id, known, now);
                if let Some(address) = &known.address {
                    self.take_hint(&known.node_id, address, now, actions);
                }
            }
        }
        follows
    }

    /// Whether the peer was not given this version of another node yet.
    fn is_to_be_given(&self, node_id: &NodeId, wished: &NodeId) -> bool {
        let held = self.peers.get(wished).and_then(|other| other.record.as_ref());
        let peer = self.peers.get(node_id);
        held.zip(peer).is_some_and(|(held, peer)| {
            wished != node_id && peer.link.given.get(wished) != Some(&held.fingerprint)
        })
    }

    /// Which version of our own record the peer says that it holds, where it is not the present
    /// one. Says whether that was not known before.
    fn note_own_at(&mut self, node_id: &NodeId, theirs: Version) -> bool {
        let own = self.own.version();
        let Some(peer) = self.peers.get_mut(node_id) else { return false };
        if theirs.timestamp > own.timestamp {
            // It will show us that one, with our own signature, when ours comes to it.
            peer.link.own.refused = None;
        }
        peer.link.own.held = Some(theirs.fingerprint);
        peer.link.own.told = None;
        peer.link.own.lacks(own.fingerprint) && peer.link.own.brought != Some(own.fingerprint)
    }

    /// The peer knows a node by another key than the one that the node proved here.
    fn note_other_key(&mut self, reporter: &NodeId, known: &KnownNode, now: Now) {
        let Some(pinned) = self.pinned_for_good(&known.node_id) else { return };
        if known.rank == Rank::default() || pinned.rank_for(&known.node_id) == known.rank {
            return;
        }
        let id = &known.node_id;
        let at = self.peers.get(id).and_then(|peer| peer.place.address());
        let text = format!(
            "others know {id} by another key than this node, which pinned {} ({})",
            pinned.fingerprint(),
            place_text(at)
        );
        let hint = format!(
            "if the host was set up anew, `dsn forget {id}` here; else there are two nodes with that id"
        );
        self.note_reported(Fault::new(Code::IdConflict, text, hint).about(id), reporter, now);
    }

    /// Somebody says where a node may be.
    pub(super) fn take_hint(
        &mut self,
        id: &NodeId,
        address: &Address,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if self.graves.is_forgotten(id) {
            return self.graves.hint(id, address);
        }
        if let Some(list) = &self.settings.allow
            && !list.contains_key(id)
        {
            return;
        }
        if let Some(peer) = self.peer_or_new(id, Trust::Hearsay, now, actions)
            && peer.status != PeerStatus::Alive
            && peer.place.add_hint(address)
        {
            peer.contact.hurry(now.mono_ms);
            self.poke(id, now, actions);
        }
    }
}

/// Whether a node that is known by this pin would be believed under a key of that rank.
fn yields(pin: Pin, rank: Rank, node_id: &NodeId) -> bool {
    pin.trust == Trust::Hearsay && rank < pin.key.rank_for(node_id)
}
