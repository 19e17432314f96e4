//! A change by relays. Its owner cuts each ring of nodes into a few stretches, and brings the
//! version to one node of each, the head, which does the same with its stretch. No tree is kept
//! anywhere: each cuts by its own table. Whatever one ring lets fall the other one brings, and what
//! both let fall is found by views that differ.

use std::collections::BTreeSet;

use super::{Action, Node, Now};
use crate::order::{Gather, ListMap};
use crate::protocol::changes::Changes;
use crate::protocol::doubt::Accuser;
use crate::protocol::errand::{Errand, Errands};
use crate::protocol::flight::Call;
use crate::protocol::head::Fingerprint;
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::record::Record;
use crate::protocol::report::PeerStatus;
use crate::protocol::rings::{Ring, Stretch};
use crate::protocol::verdict::Reason;
use crate::protocol::wire::{Refusal, Relay};

/// Up to so many peers everybody says HELLO to everybody, and brings its changes itself: as many
/// requests as a few heads in two rings would take, and none is passed on.
pub const MESH_MAX: usize = 32;
/// Into how many stretches a ring is cut: with two rings an owner makes twice as many requests.
pub const RELAY_HEADS: usize = 8;
/// What is large, bytes.
const LARGE_BYTES: usize = 16 * 1024;
/// How long an answer of a head is waited for, ms: what takes a healthy one a few. Where a third of
/// all hang at once, two in a row are not rare.
const HEDGE_MS: u64 = 150;
/// How long what patches of others are made of is kept, ms: it is passed on within seconds.
const CHANGES_MS: u64 = 10_000;

/// Most versions that are owed to one peer to be passed on: one that hangs is brought no more.
const ERRANDS_MAX: usize = 256;

/// A version on its way through one ring.
struct Way<'a> {
    owner: &'a NodeId,
    ring: Ring,
    /// What those on the way most likely hold.
    base: Option<Fingerprint>,
    /// Whether it begins here: then a head gets its stretch though nobody else is known in it, as
    /// it may know more.
    is_root: bool,
}

impl Node {
    /// Brings the own version to the heads of all stretches.
    pub(super) fn spread_own(&mut self, base: Fingerprint, now: Now, actions: &mut Vec<Action>) {
        let owner = self.settings.node_id.clone();
        let own = self.own.fingerprint;
        self.introduced = Some(own);
        self.peers.change_all(|_, peer| {
            if can_be_brought(peer) {
                peer.link.own.told = Some(own);
            }
        });
        for ring in rings_for(&self.own) {
            let way = Way { owner: &owner, ring: *ring, base: Some(base), is_root: true };
            self.hand_out(&way, &Stretch::around(&owner), now, actions);
        }
    }

    /// Brings an accusation to all others in both rings; the accused gets it by itself.
    pub(super) fn spread_accusation(
        &mut self,
        accused: &NodeId,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let all = Stretch::around(&self.settings.node_id);
        for ring in Ring::ALL {
            if let Some(peer) = self.peers.get_mut(accused) {
                peer.passed.insert((ring, true), ());
            }
            let way = Way { owner: accused, ring, base: None, is_root: true };
            self.hand_out(&way, &all, now, actions);
        }
    }

    /// The own version, of which nobody knows who is met first: whoever knows more brings it to all
    /// others. Nothing where somebody does already.
    pub(super) fn introduction(&mut self) -> Option<Errand> {
        let own = self.own.fingerprint;
        if self.introduced.replace(own) == Some(own) {
            return None;
        }
        let all = Stretch::around(&self.settings.node_id);
        let stretches = rings_for(&self.own).iter().map(|ring| (*ring, all.clone())).gathered();
        // It is never late: who begins knows few who could bring it in the place of that one.
        Some(Errand { stretches, base: None, hedge_at: u64::MAX })
    }

    /// Whether somebody was asked to bring the own version to all that we do not know.
    fn is_introduction(&self, owner: &NodeId, stretches: &ListMap<Ring, Stretch>) -> bool {
        self.is_me(owner) && stretches.values().any(Stretch::is_all)
    }

    /// In a large network one that was lost to all is heard again: it is told that it is accused,
    /// so that it makes a newer version.
    pub(super) fn bring_back(&mut self, node_id: &NodeId) {
        let is_mesh = self.is_mesh();
        let peer = self.peers.get_mut(node_id).filter(|peer| !is_mesh && peer.record.is_some());
        if let Some(peer) = peer {
            peer.is_to_return = true;
            peer.owed.tell.suspects.insert(node_id.clone());
        }
        self.note_in_view(node_id);
    }

    /// A newer version of one that was lost came: all that this node knows lost it too, and are
    /// brought that.
    pub(super) fn is_brought_back(
        &mut self,
        node_id: &NodeId,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let Some(record) = peer.record.clone().filter(|_| peer.is_to_return) else { return };
        peer.is_to_return = false;
        for ring in rings_for(&record) {
            let (owner, stretch) = (node_id.clone(), Stretch::around(node_id));
            self.pass_on(&Relay { owner, ring: *ring, stretch }, now, actions);
        }
    }

    /// Somebody asks to bring a version that is held here to others. Each is passed on once in each
    /// ring, whoever asks, so nobody makes a storm of it.
    pub(super) fn pass_on(&mut self, relay: &Relay, now: Now, actions: &mut Vec<Action>) {
        let is_here = relay.stretch.has(relay.ring, &self.settings.node_id);
        // Where all know each other, a newcomer meets them by itself.
        let is_needless = relay.stretch.is_all() && self.is_mesh();
        let is_good = is_here && !is_needless;
        let Some(peer) = self.peers.get_mut(&relay.owner).filter(|_| is_good) else { return };
        let is_accused = peer.is_accused();
        if peer.record.is_none() || peer.passed.insert((relay.ring, is_accused), ()).is_some() {
            return;
        }
        let base = peer.changes.as_ref().and_then(|(changes, _)| changes.last_base());
        let way = Way { owner: &relay.owner, ring: relay.ring, base, is_root: false };
        self.hand_out(&way, &relay.stretch, now, actions);
    }

    fn hand_out(&mut self, way: &Way<'_>, stretch: &Stretch, now: Now, actions: &mut Vec<Action>) {
        let few = self.settings.relay_heads.max(1);
        let is_large = self.record_of(way.owner).is_some_and(|record| is_large(record));
        // It goes in one ring alone, so as many requests are made.
        let heads = if is_large { 2 * few } else { few };
        let targets = self.targets(way, stretch, None);
        let me = Some(&self.settings.node_id).filter(|_| !way.is_root);
        for (nodes, part) in share_out(me, way.ring, &targets, stretch, heads) {
            self.choose_head(way, nodes, part, now, actions);
        }
    }

    /// Whom a version is to be brought to, in the order of the ring.
    fn targets(&self, way: &Way<'_>, stretch: &Stretch, late: Option<&NodeId>) -> Vec<NodeId> {
        let is_target = |node_id: &NodeId, peer: &Peer| {
            node_id != way.owner && (can_be_brought(peer) || Some(node_id) == late)
        };
        let reach = self.peers.walk(way.ring, stretch);
        let reach = reach.filter(|(node_id, peer)| is_target(node_id, peer));
        reach.map(|(node_id, _)| node_id.clone()).collect()
    }

    fn choose_head(
        &mut self,
        way: &Way<'_>,
        nodes: &[NodeId],
        part: Stretch,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let is_healthy =
            |node_id: &&NodeId| self.peers.get(node_id).is_some_and(|it| is_healthy(it, now));
        let Some(head) = nodes.iter().find(is_healthy).or(nodes.first()) else { return };
        let passes_on = nodes.len() > 1 || way.is_root;
        let stretches = passes_on.then_some((way.ring, part)).into_iter().gathered();
        let hedge_at = now.mono_ms + HEDGE_MS;
        let errand = Errand { stretches, base: way.base, hedge_at };
        self.give_errand(head, way.owner, errand, actions);
        self.poke(head, now, actions);
    }

    fn give_errand(
        &mut self,
        head: &NodeId,
        owner: &NodeId,
        errand: Errand,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(head) else { return };
        if !errand.stretches.is_empty() {
            self.hedge_at = self.hedge_at.min(errand.hedge_at);
            actions.push(Action::WakeAt(errand.hedge_at));
        }
        let errands = &mut peer.owed.errands;
        if errands.contains(owner) || errands.len() < ERRANDS_MAX {
            errands.give(owner.clone(), errand);
        }
    }

    /// Asks others in the place of heads that did not answer in time; those get the version alone.
    pub(super) fn hedge_late(&mut self, now: Now, actions: &mut Vec<Action>) {
        if now.mono_ms < self.hedge_at {
            return;
        }
        let mut late = Vec::new();
        let mut next = u64::MAX;
        self.peers.change_awake(|head, peer| {
            let in_flight = peer.flight.as_mut().and_then(|flight| match &mut flight.call {
                Some(Call::Push { errands, .. }) => Some(errands),
                _ => None,
            });
            for errands in in_flight.into_iter().chain([&mut peer.owed.errands]) {
                let found = errands.take_late(now.mono_ms).into_iter();
                late.extend(found.map(|(owner, errand)| (head.clone(), owner, errand)));
                next = next.min(errands.hedge_at().unwrap_or(u64::MAX));
            }
        });
        self.hedge_at = next;
        for (head, owner, errand) in late {
            self.go_around(&head, &owner, errand.base, errand.stretches, now, actions);
        }
    }

    /// The stretches of a head without the head go to others: what comes before it, and what comes
    /// behind it.
    fn go_around(
        &mut self,
        head: &NodeId,
        owner: &NodeId,
        base: Option<Fingerprint>,
        stretches: ListMap<Ring, Stretch>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        for (ring, stretch) in stretches {
            let way = Way { owner, ring, base, is_root: false };
            let targets = self.targets(&way, &stretch, Some(head));
            let mut sides = targets.splitn(2, |node_id| node_id == head);
            let (before, behind) =
                (sides.next().unwrap_or_default(), sides.next().unwrap_or_default());
            if let Some(last) = before.last() {
                let part = Stretch { after: stretch.after.clone(), through: last.clone() };
                self.choose_head(&way, before, part, now, actions);
            }
            if !behind.is_empty() {
                let part = Stretch { after: head.clone(), through: stretch.through };
                self.choose_head(&way, behind, part, now, actions);
            }
        }
    }

    /// A push with such errands got no answer, or none that counts: others are asked, and the peer
    /// is owed the versions alone.
    pub(super) fn errands_failed(
        &mut self,
        head: &NodeId,
        errands: Errands,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        for (owner, mut errand) in errands.into_all() {
            let stretches = std::mem::take(&mut errand.stretches);
            if self.is_introduction(&owner, &stretches) {
                // The next push introduces us: the next try of this one, or one to somebody else.
                self.introduced = None;
                errand.hedge_at = u64::MAX;
            }
            self.go_around(head, &owner, errand.base, stretches, now, actions);
            self.give_errand(head, &owner, errand, actions);
        }
    }

    /// A push with such errands was refused, as a whole or in parts.
    pub(super) fn errands_refused(
        &mut self,
        head: &NodeId,
        errands: Errands,
        refusal: &Refusal,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if refusal.records.is_empty() && is_made_again(refusal) {
            return self.errands_failed(head, errands, now, actions);
        }
        let lacks_base: BTreeSet<&NodeId> = refusal
            .records
            .iter()
            .filter(|record| record.reason == Reason::LacksBase.code())
            .map(|record| &record.node_id)
            .gathered();
        for (owner, mut errand) in errands.into_all() {
            let is_refused = refusal.records.is_empty()
                || refusal.records.iter().any(|record| record.node_id == owner);
            // Whoever lacks the base of a whole record lies.
            if lacks_base.contains(&owner) && errand.base.is_some() {
                // Next it gets the whole record, and passes that on.
                errand.base = None;
                errand.hedge_at = now.mono_ms + HEDGE_MS;
                self.give_errand(head, &owner, errand, actions);
            } else if is_refused {
                if self.is_introduction(&owner, &errand.stretches) {
                    self.introduced = None;
                }
                // Whatever it has against the version, it does not pass it on.
                self.go_around(head, &owner, errand.base, errand.stretches, now, actions);
            }
        }
    }

    /// The heads that are still to take the own version, and for whom.
    pub(super) fn on_the_way(&self) -> Vec<(&NodeId, &Errand)> {
        let me = &self.settings.node_id;
        let of = |(head, peer)| -> Vec<(&NodeId, &Errand)> {
            let peer: &Peer = peer;
            let call = peer.flight.as_ref().and_then(|flight| flight.call.as_ref());
            let in_flight = match call {
                Some(Call::Push { errands, .. }) => errands.get(me),
                _ => None,
            };
            let errands = in_flight.into_iter().chain(peer.owed.errands.get(me));
            errands.map(|errand| (head, errand)).collect()
        };
        self.peers.awake().flat_map(of).collect()
    }

    /// Whether a peer holds the own version, or a relay that took it brings it there. That it
    /// took it is all that is known; what it lets fall is found by views that differ.
    pub(super) fn is_aware(
        &self,
        node_id: &NodeId,
        peer: &Peer,
        on_the_way: &[(&NodeId, &Errand)],
    ) -> bool {
        let (own, at_peer) = (Some(self.own.fingerprint), &peer.link.own);
        let is_for = |(head, errand): &(&NodeId, &Errand)| {
            let mut stretches = errand.stretches.iter();
            *head == node_id || stretches.any(|(ring, stretch)| stretch.has(*ring, node_id))
        };
        at_peer.held == own || at_peer.told == own && !on_the_way.iter().any(is_for)
    }

    /// Forgets what patches of others were made of.
    pub(super) fn drop_old_changes(&mut self, now: Now) {
        self.peers.change_awake(|_, peer| {
            peer.changes.take_if(|(_, at)| now.mono_ms.saturating_sub(*at) > CHANGES_MS);
        });
    }
}

impl Peer {
    /// Whether its present version is accused in the eyes of all, not of this node alone.
    pub(super) fn is_accused(&self) -> bool {
        self.watch.accused.as_ref().is_some_and(|accused| {
            accused.by != Accuser::Silent && accused.fingerprint == self.version().fingerprint
        })
    }

    /// Whether it is lost, as most others of a large network see it: it was heard here since, and
    /// made no later version yet. So it learns it from a list, where it can't be called.
    pub(super) fn is_lost_to_others(&self, is_mesh: bool) -> bool {
        self.status == PeerStatus::Lost || self.is_to_return && !is_mesh
    }

    /// Another version of its state takes the place of an older one.
    pub(super) fn note_step(&mut self, old: &Record, new: &Record, now: Now) {
        let (changes, at) =
            self.changes.get_or_insert_with(|| (Box::new(Changes::of_another()), now.mono_ms));
        changes.note(old, new);
        *at = now.mono_ms;
    }
}

/// Whether a version can be brought to a peer: its record, or itself, says which run it is, and
/// where.
fn can_be_brought(peer: &Peer) -> bool {
    matches!(peer.status, PeerStatus::Alive | PeerStatus::Suspect)
        && peer.run().is_some()
        && peer.place.shown().is_some()
}

/// Whether a call that is refused so is made again.
fn is_made_again(refusal: &Refusal) -> bool {
    let again = [
        Reason::Internal,
        Reason::UnknownSender,
        Reason::WrongSession,
        Reason::ReplayedNumber,
        Reason::Forgotten,
    ];
    again.into_iter().any(|reason| reason.code() == refusal.reason)
}

/// Whether a peer most likely answers at once.
fn is_healthy(peer: &Peer, now: Now) -> bool {
    let is_late = peer.flight.as_ref().is_some_and(|flight| {
        flight.call.is_some() && now.mono_ms.saturating_sub(flight.began) >= HEDGE_MS
    });
    let is_well = peer.watch.doubt.is_none() && peer.last_fault.is_none();
    peer.status == PeerStatus::Alive && is_well && peer.unanswered.is_empty() && !is_late
}

/// A large record goes to each node once, a small one twice.
fn rings_for(record: &Record) -> &'static [Ring] {
    if is_large(record) { &[Ring::Names] } else { &Ring::ALL }
}

fn is_large(record: &Record) -> bool {
    record.entries.bytes() > LARGE_BYTES
}

/// Cuts the nodes of a stretch that was given to a node without that node, what comes before it and
/// what comes behind it: whoever gave something away, and gets a part of it back, has passed it on
/// already. Without one the stretch begins here.
pub(super) fn share_out<'a>(
    me: Option<&NodeId>,
    ring: Ring,
    nodes: &'a [NodeId],
    stretch: &Stretch,
    parts: usize,
) -> Vec<(&'a [NodeId], Stretch)> {
    let Some(me) = me else { return cut(nodes, stretch, parts) };
    let to_me = Stretch { after: stretch.after.clone(), through: me.clone() };
    let (before, behind) = nodes.split_at(nodes.partition_point(|id| to_me.has(ring, id)));
    let most = parts.saturating_sub(usize::from(!behind.is_empty())).max(1);
    let for_before = (parts * before.len()).div_ceil(nodes.len().max(1)).min(most);
    let mut all = Vec::new();
    if let Some(last) = before.last() {
        let part = Stretch { after: stretch.after.clone(), through: last.clone() };
        all = cut(before, &part, for_before);
    }
    let part = Stretch { after: me.clone(), through: stretch.through.clone() };
    all.extend(cut(behind, &part, parts.saturating_sub(for_before).max(1)));
    all
}

/// Cuts the nodes of a stretch, in its order, into parts of nearly one size: at most so many.
pub(super) fn cut<'a>(
    nodes: &'a [NodeId],
    stretch: &Stretch,
    parts: usize,
) -> Vec<(&'a [NodeId], Stretch)> {
    let count = parts.min(nodes.len());
    let (mut rest, mut after) = (nodes, &stretch.after);
    let mut all = Vec::with_capacity(count);
    for left in (1..=count).rev() {
        let (part, others) = rest.split_at(rest.len().div_ceil(left));
        let last = if others.is_empty() { Some(&stretch.through) } else { part.last() };
        let Some(through) = last else { break };
        all.push((part, Stretch { after: after.clone(), through: through.clone() }));
        (rest, after) = (others, through);
    }
    all
}
