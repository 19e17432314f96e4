//! Who is there at this moment, and who holds what this node said last: for those who wait for it.

use super::asking::{OWED_TELLS_MAX, may_be_told};
use super::{Action, Node, Now};
use crate::protocol::flight::Call;
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

    /// Asks all that count as alive and did not answer since then whether they still are: each owes
    /// us one answer, however often that is asked. In a large network most are no links: they are
    /// asked to sign that they are there, which is one request. Others are asked about those that
    /// can't be called from here.
    pub fn ask_the_living(&mut self, since_ms: u64, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        let me = self.settings.node_id.clone();
        let is_asked = |node_id: &NodeId, peer: &Peer| {
            let call = peer.flight.as_ref().and_then(|flight| flight.call.as_ref());
            let in_flight = match call {
                Some(Call::Tell(tell)) => tell.asks_itself(node_id, &me),
                _ => false,
            };
            in_flight || peer.owed.is_asked_for || peer.owed.tell.asks_itself(node_id, &me)
        };
        let is_to_ask = |(node_id, peer): &(&NodeId, &Peer)| {
            let is_alive = peer.status == PeerStatus::Alive;
            is_alive && !was_heard(peer, since_ms) && !is_asked(node_id, peer)
        };
        let asked = self.peers.iter().filter(is_to_ask);
        let asked: Vec<(NodeId, bool)> = asked
            .map(|(node_id, peer)| (node_id.clone(), self.is_linked(peer) || !can_be_asked(peer)))
            .collect();
        for node_id in self.out_of_reach(since_ms, now) {
            let helper = self.helper_of(&node_id);
            self.ask_around(&node_id, helper.as_ref(), now, &mut actions);
        }
        for (node_id, is_linked) in asked {
            if is_linked {
                self.ask_over_a_link(&node_id, now, &mut actions);
            } else {
                self.ask_these(&node_id, vec![node_id.clone()], now, &mut actions);
            }
        }
        actions
    }

    /// Those that count as alive and can't be called from here, as far as nobody is just asked
    /// about them.
    fn out_of_reach(&self, since_ms: u64, now: Now) -> Vec<NodeId> {
        let is_due = |(_, peer): &(&NodeId, &Peer)| {
            let is_alive = peer.status == PeerStatus::Alive && !was_heard(peer, since_ms);
            is_alive && peer.contact.is_failing() && now.mono_ms >= peer.watch.sought_until
        };
        self.peers.iter().filter(is_due).map(|(node_id, _)| node_id.clone()).collect()
    }

    /// It is called as those are that links are kept with, and tried again where that fails.
    fn ask_over_a_link(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        if let Some(peer) = self.peers.get_mut(node_id) {
            (peer.owed.is_asked_for, peer.owed.ping) = (true, true);
            self.poke(node_id, now, actions);
        }
    }

    /// What came of asking a peer itself: where it did not sign it is called as a link would be.
    pub(super) fn itself_answered(
        &mut self,
        node_id: &NodeId,
        has_signed: bool,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if !has_signed {
            return self.ask_over_a_link(node_id, now, actions);
        }
        self.vouch(node_id, now, actions);
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.watch.answered_at = Some(now.mono_ms);
        }
    }

    /// How many peers are alive and have shown that since then.
    pub fn heard_since(&self, since_ms: u64) -> usize {
        let is_there = |peer: &Peer| peer.status == PeerStatus::Alive && was_heard(peer, since_ms);
        self.peers.iter().filter(|(_, peer)| is_there(peer)).count()
    }
}

/// Whether it was heard since then, or answered what it was asked itself; or others, where it can't
/// be called from here.
fn was_heard(peer: &Peer, since_ms: u64) -> bool {
    let vouched_at = peer.watch.vouched_at.filter(|_| peer.contact.is_failing());
    peer.heard_at.max(peer.watch.answered_at).max(vouched_at) >= Some(since_ms)
}

/// Whether it can be asked without a link: it is known which run it is, by which key, and where.
fn can_be_asked(peer: &Peer) -> bool {
    let has_room = peer.owed.tell.asks.len() < OWED_TELLS_MAX;
    has_room && may_be_told(peer) && peer.pin.is_some() && peer.place.shown().is_some()
}
