//! Anti-entropy: views that differ, and then lists of what differs, put beside each other. Who
//! lacks something pulls it, by its own rules. Nobody is sent what it did not ask for, but by its
//! owner; and where it can't ask.

use std::collections::BTreeMap;

use super::probing::UNCALLED_TICKS;
use super::{Action, Node, Now, place_text};
use crate::order::{self, Gather};
use crate::protocol::address::Address;
use crate::protocol::fault::{Code, Fault};
use crate::protocol::head::{Fingerprint, Version};
use crate::protocol::identity::{NodeId, Rank};
use crate::protocol::pace::{AGAIN_MAX_MS, Wait};
use crate::protocol::peer::{Peer, Pin, Trust};
use crate::protocol::record::Record;
use crate::protocol::report::PeerStatus;
use crate::protocol::view::{Buckets, ViewHash};
use crate::protocol::wire::{KnownNode, Peers, PeersAnswer};

/// How long nothing follows from views that differ, in percent of a tick: a change on its way
/// through the network is there by then.
const GRACE_PERCENT: u64 = 67;
/// A peer that lacks something for so many ticks, and has not called once, can't.
const CALLS_FIRST_TICKS: u64 = 2;
/// One that did call, and for so many ticks did not, can't any more: if it could, it would put its
/// list beside ours by then, or ask whether this node is there.
const CALLS_AGAIN_TICKS: u64 = 10;

/// In a large network a node asks for no more lists in the time of a tick.
const LISTS_A_TICK: u64 = 6;

impl Node {
    /// Compares a peer's view with the own one; says whether they are equal. Where they differ, and
    /// did before, its list is owed to be asked for.
    pub(super) fn note_view(&mut self, node_id: &NodeId, theirs: ViewHash, now: Now) -> bool {
        let are_equal = theirs == self.view.hash();
        // Where many start at once, what differs first is what this node lacks.
        let is_new = self.is_new();
        // Whom nobody can call gets no changes by relays, and calls most others once in a while.
        let is_alone = !self.is_mesh() && self.is_uncalled(UNCALLED_TICKS, now);
        let percent = if is_new || is_alone { 0 } else { GRACE_PERCENT };
        let grace_ms = self.settings.tick_ms * percent / 100;
        // In a large network what one list led to mostly makes the next one needless.
        let last = self.listed_at.filter(|_| !self.is_mesh());
        let next_list = last.map_or(0, |at| at + self.list_pause_ms());
        let Some(peer) = self.peers.get_mut(node_id) else { return are_equal };
        if are_equal {
            peer.grace_until = None;
            peer.lacks_since = None;
            peer.owed.peers = false;
            peer.exchange.succeeded();
        } else {
            if is_new {
                // Whoever had nothing for us a moment ago has learnt something since.
                peer.exchange.hurry(now.mono_ms);
            }
            let until = *peer.grace_until.get_or_insert(now.mono_ms + grace_ms);
            peer.owed.peers |= now.mono_ms >= until.max(next_list);
        }
        are_equal
    }

    /// How long after one list the next one is asked for in a large network, ms.
    pub(super) fn list_pause_ms(&self) -> u64 {
        (self.settings.tick_ms / LISTS_A_TICK).max(1)
    }

    /// What is held, bucket by bucket, but nothing for buckets of nodes that are missed: others may
    /// know where those are.
    pub(super) fn buckets(&mut self) -> Buckets {
        let missed = self.peers.awake().filter(|(_, peer)| is_missed(peer));
        self.view.buckets_without(missed.map(|(node_id, _)| node_id))
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

    /// What a caller hears: all that is known here in those buckets where it holds something else.
    pub(super) fn answer_peers(&mut self, peers: &Peers) -> PeersAnswer {
        let buckets = self.view.differing(&peers.buckets);
        let all = self.peers.iter().map(|(node_id, _)| node_id).chain([&self.settings.node_id]);
        let mut listed: Vec<&NodeId> = all.filter(|node_id| buckets.has(node_id)).collect();
        order::sort(&mut listed);
        let known = |node_id: &NodeId| {
            let (rank, version) = self.listed_of(node_id);
            let address = self.address_for(&peers.header.from, node_id);
            let peer = self.peers.get(node_id);
            let is_lost = peer.is_some_and(|peer| peer.is_lost_to_others(self.is_mesh()));
            KnownNode { node_id: node_id.clone(), address, rank, version, is_lost }
        };
        PeersAnswer { buckets, nodes: listed.into_iter().map(known).collect() }
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

    /// Puts what a peer holds beside what is held here: what it has newer is wanted, and nodes not
    /// known here are looked for. Says whether anything is to be had from it.
    pub(super) fn compare(
        &mut self,
        node_id: &NodeId,
        answer: PeersAnswer,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let wanted: BTreeMap<NodeId, Fingerprint> = answer
            .nodes
            .iter()
            .filter(|known| self.wants(&known.node_id, known.rank, known.version))
            .map(|known| (known.node_id.clone(), known.version.fingerprint))
            .gathered();
        let lacking = self.lacking(node_id, &answer);
        let wait = self.wait(now);
        let is_sought = self.compare_lost(node_id, &answer.nodes, now, actions);
        let mut follows = !wanted.is_empty() || is_sought;
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.owed.want = wanted;
            peer.note_lacking(lacking, wait);
        }
        for known in &answer.nodes {
            if self.is_me(&known.node_id) {
                follows |= self.note_own_at(node_id, known.version);
                self.refute_listed(known, now, actions);
            } else {
                self.note_other_key(node_id, known, now);
                let pin = self.pin_of(&known.node_id);
                let is_other = |pin: Pin| pin.key.rank_for(&known.node_id) != known.rank;
                if known.rank != Rank::default() && pin.is_some_and(is_other) {
                    self.note_dispute(&known.node_id, now);
                }
                if let Some(address) = &known.address {
                    self.take_hint(&known.node_id, address, now, actions);
                }
            }
        }
        follows
    }

    /// What was asked of one peer came, or did not: others that hold it need not be asked for it
    /// any more, or are next.
    pub(super) fn settle_wants(&mut self, now: Now, actions: &mut Vec<Action>) {
        let wanting = self.peers.awake().filter(|(_, peer)| !peer.owed.want.is_empty());
        let wanting: Vec<NodeId> = wanting.map(|(node_id, _)| node_id.clone()).collect();
        for node_id in wanting {
            let Some(peer) = self.peers.get_mut(&node_id) else { continue };
            let mut want = std::mem::take(&mut peer.owed.want);
            let holds = |wanted: &NodeId, version: &Fingerprint| {
                self.record_of(wanted).is_some_and(|held| held.fingerprint == *version)
            };
            want.retain(|wanted, version| !holds(wanted, version));
            let Some(peer) = self.peers.get_mut(&node_id) else { continue };
            if want.is_empty() {
                peer.has_all();
            }
            peer.owed.want = want;
            self.poke(&node_id, now, actions);
        }
    }

    /// The others of which the peer lacks what is held here, by its own word, and what that is.
    fn lacking(&self, node_id: &NodeId, answer: &PeersAnswer) -> BTreeMap<NodeId, Fingerprint> {
        let theirs: BTreeMap<&NodeId, &KnownNode> =
            answer.nodes.iter().map(|known| (&known.node_id, known)).gathered();
        let lacks = |(other, peer): (&NodeId, &Peer)| {
            let held = peer.record.as_ref().filter(|_| answer.buckets.has(other))?;
            let lacks = lacks(held, theirs.get(other).copied());
            lacks.then(|| (other.clone(), held.fingerprint))
        };
        self.peers.iter().filter(|(other, _)| *other != node_id).filter_map(lacks).gathered()
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

impl Peer {
    /// Whether its view differed for longer than a change takes, and its list may be asked for.
    pub(super) fn differs(&self, now_ms: u64) -> bool {
        self.grace_until.is_some_and(|until| now_ms >= until) && self.exchange.is_due(now_ms)
    }

    /// It lacks this of others. It sees from our view that it does, and asks for it; where it can't
    /// call us it is brought it: ever more rarely where it still lacks all that it was brought.
    fn note_lacking(&mut self, lacking: BTreeMap<NodeId, Fingerprint>, wait: Wait) {
        let given = std::mem::take(&mut self.given);
        if !given.is_empty() {
            if given.iter().all(|(other, version)| lacking.get(other) == Some(version)) {
                self.give.came_to_nothing(wait, AGAIN_MAX_MS);
            } else {
                self.give.succeeded();
            }
        }
        self.owed.send.clear();
        if lacking.is_empty() {
            self.lacks_since = None;
            return;
        }
        let ticks_since = |at: u64| wait.now_ms.saturating_sub(at) / wait.tick_ms.max(1);
        let lacks_since = *self.lacks_since.get_or_insert(wait.now_ms);
        let can_call = match self.link.called_at {
            None => ticks_since(lacks_since) < CALLS_FIRST_TICKS,
            Some(at) => ticks_since(at.max(lacks_since)) < CALLS_AGAIN_TICKS,
        };
        if !can_call && self.give.is_due(wait.now_ms) {
            self.owed.send = lacking.into_keys().gathered();
        }
    }
}

/// Whether it would be good to know where a peer is.
pub(super) fn is_missed(peer: &Peer) -> bool {
    matches!(peer.status, PeerStatus::Suspect | PeerStatus::Lost)
}

/// Whether somebody who says this of a node lacks the version that is held here. Who has proved
/// another key, or holds another version with a later time, does not.
fn lacks(held: &Record, theirs: Option<&KnownNode>) -> bool {
    let Some(theirs) = theirs else { return true };
    let (rank, version) = (held.public_key.rank_for(&theirs.node_id), held.version());
    if theirs.rank == rank {
        theirs.version.fingerprint != version.fingerprint
            && theirs.version.timestamp <= version.timestamp
    } else {
        theirs.rank == Rank::default() || rank < theirs.rank
    }
}

/// Whether a node that is known by this pin would be believed under a key of that rank.
fn yields(pin: Pin, rank: Rank, node_id: &NodeId) -> bool {
    pin.trust == Trust::Hearsay && rank < pin.key.rank_for(node_id)
}
