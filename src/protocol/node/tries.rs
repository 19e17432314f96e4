//! Tries of addresses that never answered. Anybody can name any address: so all such tries together
//! have one budget, which only grows back where somebody answers, or slowly; and one address is one
//! node, however many claim it.

use std::collections::BTreeMap;

use super::{Node, Now};
use crate::order::{self, ListMap};
use crate::protocol::address::Address;
use crate::protocol::identity::NodeId;
use crate::protocol::pace::Budget;
use crate::protocol::peer::{Peer, host_of};
use crate::protocol::peers::PeerTable;
use crate::protocol::report::PeerStatus;

/// Most tries of addresses that never answered, under way at a time or lately in vain: a network of
/// a thousand is met within seconds, as each answer gives its try back.
const TRIES_MAX: u32 = 32;
/// How many of them grow back at a tick, in vain or not: less than two a second.
const TRIES_A_TICK: u32 = 4;
/// So many of them are left for addresses that were not tried yet.
const TRIES_AGAIN_MIN: u32 = TRIES_MAX / 2;
/// How long an address that was tried in vain is not tried for somebody who did not call meanwhile,
/// ticks.
const ADDRESS_WAIT_TICKS: u64 = 2;

/// What tries of addresses that never answered are taken from.
#[derive(Debug)]
pub(super) struct Tries {
    budget: Budget,
    /// When addresses were tried last, ms; those of the last few ticks.
    tried_at: ListMap<Address, u64>,
}

impl Default for Tries {
    fn default() -> Self {
        Self { budget: Budget::new(TRIES_MAX), tried_at: ListMap::new() }
    }
}

impl Node {
    /// Lets a peer be tried where it never answered, if there is a try left. Those that are due at
    /// a tick were chosen before ([`Self::grant_tries`]).
    pub(super) fn grant_try(&mut self, node_id: &NodeId, now: Now) {
        self.grant_where(node_id, now, PeerTable::is_taken);
    }

    /// The same for an address that does not belong to somebody else. That is asked last: it takes
    /// a look at all names, and a thousand may be made up.
    fn grant_where(
        &mut self,
        node_id: &NodeId,
        now: Now,
        is_taken: impl FnOnce(&PeerTable, &Address) -> bool,
    ) {
        let peer = self.peers.get(node_id).filter(|peer| self.waits_for_a_try(peer, now));
        let Some((peer, address)) = peer.and_then(|peer| Some((peer, peer.address_wanted()?)))
        else {
            return;
        };
        let tried_at = self.tries.tried_at.get(address);
        let called_since = tried_at.is_none_or(|at| peer.heard_at.is_some_and(|heard| heard > *at));
        let is_left = self.tries.budget.left() > 0;
        let may_try = is_left && called_since && !is_taken(&self.peers, address);
        let address = address.clone();
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        if may_try {
            self.tries.budget.take();
            peer.may_try = true;
            self.tries.tried_at.insert(address, now.mono_ms);
        } else {
            // Another place may be free.
            peer.place.is_of_another(&address);
        }
    }

    /// Gives what grew back to those that wait. Who was reached once and is looked for elsewhere
    /// comes first. Then each host has its turn, and of one host who was heard last, so that many
    /// made-up nodes do not stand in the way of one that calls.
    pub(super) fn grant_tries(&mut self, now: Now) {
        self.tries.budget.give(TRIES_A_TICK);
        let wait_ms = ADDRESS_WAIT_TICKS * self.settings.tick_ms;
        self.tries.tried_at.retain(|_, at| now.mono_ms.saturating_sub(*at) < wait_ms);
        let waiting = self.peers.awake().filter(|(_, peer)| self.waits_for_a_try(peer, now));
        let (known, others): (Vec<_>, Vec<_>) =
            waiting.partition(|(_, peer)| peer.place.proved().is_some());
        let known: Vec<NodeId> = known.into_iter().map(|(node_id, _)| node_id.clone()).collect();
        let mut hosts: BTreeMap<&str, Vec<(Option<u64>, NodeId)>> = BTreeMap::new();
        for (node_id, peer) in others {
            if let Some(address) = peer.address_wanted() {
                let of_host = hosts.entry(host_of(address)).or_default();
                of_host.push((peer.heard_at, node_id.clone()));
            }
        }
        let mut turns: Vec<Vec<(Option<u64>, NodeId)>> = hosts.into_values().collect();
        for waiting in &mut turns {
            order::sort(waiting);
        }
        self.random.shuffle(&mut turns);
        if known.is_empty() && turns.is_empty() {
            return;
        }
        // A try that is granted here begins later, and its address is known as tried until then.
        let taken = self.peers.taken();
        for node_id in &known {
            self.grant_where(node_id, now, |_, address| taken.contains(address));
        }
        while self.tries.budget.left() > 0 && !turns.is_empty() {
            turns.retain_mut(|waiting| {
                let Some((_, node_id)) = waiting.pop() else { return false };
                self.grant_where(&node_id, now, |_, address| taken.contains(address));
                true
            });
        }
    }

    /// Lets an address that never answered be tried once more at once, as requests get lost: while
    /// few of all tries came to nothing, and nobody names another place.
    pub(super) fn grant_again(&mut self, node_id: &NodeId, address: &Address) -> bool {
        let Some(peer) = self.peers.get_mut(node_id) else { return false };
        let is_elsewhere = peer.place.has_new_hint_beside(address);
        let is_good = self.tries.budget.left() > TRIES_AGAIN_MIN && !is_elsewhere;
        peer.may_try |= is_good && self.tries.budget.take();
        is_good
    }

    /// An address answered that never did before: the try was not in vain.
    pub(super) fn give_try_back(&mut self, address: &Address) {
        self.tries.budget.give(1);
        self.tries.tried_at.remove(address);
    }

    /// Whether there is anything to call a peer for where it never answered.
    pub(super) fn waits_for_a_try(&self, peer: &Peer, now: Now) -> bool {
        peer.flight.is_none()
            && !peer.may_try
            && peer.status != PeerStatus::Left
            && peer.address_wanted().is_some_and(|wanted| peer.place.proved() != Some(wanted))
            && peer.contact.is_due(now.mono_ms)
            && self.has_cause(peer)
    }
}
