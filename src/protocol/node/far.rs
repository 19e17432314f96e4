//! Peers that are there and can't be called from here, as a firewall or a link of one way is in
//! between. Others that can call them are asked instead, ever more rarely: those see soon that they
//! are gone, and say so.

use std::collections::BTreeSet;

use super::mail::MAIL_TICKS;
use super::suspicion::can_help;
use super::{Action, Node, Now};
use crate::order::Gather;
use crate::protocol::doubt::{Asked, Asker, FIRST_ASKED};
use crate::protocol::identity::{Incarnation, NodeId};
use crate::protocol::pace::Wait;
use crate::protocol::peer::{CallFault, Peer};
use crate::protocol::report::PeerStatus;
use crate::protocol::rings::position;
use crate::protocol::wire::KnownNode;

/// The first wait of one that can't be called, until its silence is a doubt again, ticks.
const FAR_TICKS: u64 = 2;
/// Who called in vain alone for so many ticks, and is called, can call nobody.
const MUTE_TICKS: u64 = 2;
/// How long a peer is taken to be silent between two words before that is known, ticks; or for as
/// long as it calls all of so many others in turn.
const GAP_TICKS: u64 = 10;
/// The longest that it is taken to be, ticks; or for twice as long as that takes.
const GAP_TICKS_MAX: u64 = 20;
/// Where more than one in so many can't be called, two parts of a network are apart, and those of
/// each part look after each other.
const FAR_SHARE: usize = 3;
/// The longest such wait, ms. Whoever made others believe that one is there could hide its end for
/// so long from those that can't call it.
const FAR_MAX_MS: u64 = 60_000;
/// After how long a link is tried again with one that could not be called, ms.
const FAR_LINK_MS: u64 = 10 * 60 * 1000;
/// How long a word of those that were asked for one that is sought counts, ticks: where it and this
/// node can only call, each waits for a call of the other.
const SOUGHT_TICKS: u64 = 2 * MAIL_TICKS;
/// Most that asked for somebody, and are told where it is accused: in a small network, which alone
/// needs it, all for all others.
const ASKERS_MAX: usize = 1_024;
/// How long they are remembered, ms: longer than they wait to ask again.
const ASKER_MS: u64 = 2 * FAR_MAX_MS;

const _: () = assert!(super::MESH_MAX * (super::MESH_MAX - 1) <= ASKERS_MAX);

/// How long peers are taken to be silent between two words, ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gaps {
    /// The shortest: whoever had much to say a moment ago calls in turn again from now on.
    least_ms: u64,
    /// As long as nothing is known of it.
    unknown_ms: u64,
    /// The longest.
    most_ms: u64,
}

impl Node {
    /// It was shown that a peer is there. Where it can't be called, the next doubt for silence
    /// waits longer.
    pub(super) fn wait_for_far(&mut self, node_id: &NodeId, now: Now) {
        let wait = self.far_wait(now);
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        if peer.contact.is_failing() {
            peer.watch.far.came_to_nothing(wait, FAR_MAX_MS);
        }
    }

    pub(super) fn far_wait(&mut self, now: Now) -> Wait {
        // The first wait is half of that.
        Wait { tick_ms: 2 * FAR_TICKS * self.settings.tick_ms, ..self.wait(now) }
    }

    /// A helper brought the word of a peer that it is there.
    pub(super) fn vouched_by(
        &mut self,
        helper: NodeId,
        node_id: &NodeId,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        self.vouch(node_id, now, actions);
        let run = self.peers.get(&helper).and_then(Peer::run);
        if let Some(peer) = self.peers.get_mut(node_id).filter(|peer| peer.contact.is_failing()) {
            peer.watch.via = run.map(|run| (helper, run));
        }
    }

    /// Who reached a peer last, if it can be asked again.
    pub(super) fn helper_of(&self, node_id: &NodeId) -> Option<NodeId> {
        let (via, _) = self.peers.get(node_id)?.watch.via.as_ref()?;
        self.peers.get(via).filter(|peer| can_help(peer)).map(|_| via.clone())
    }

    /// Who reached another one for this node that can't be called from here: most likely it reaches
    /// the next one, too.
    pub(super) fn those_that_reach_others(&self) -> BTreeSet<NodeId> {
        let via = |(_, peer): (_, &Peer)| peer.watch.via.as_ref().map(|(via, _)| via.clone());
        self.peers.awake().filter_map(via).gathered()
    }

    /// Whether the silence of a peer is a doubt again: its wait is over, or who reached it last,
    /// and would tell us that it is gone, is lost or has started again since.
    pub(super) fn is_far_due(&self, peer: &Peer, now: Now) -> bool {
        let is_over = |(via, run): &(NodeId, Incarnation)| {
            let helper = self.peers.get(via);
            helper.is_none_or(|it| !it.is_suspectable() || it.run() != Some(*run))
        };
        peer.watch.far.is_due(now.mono_ms) || peer.watch.via.as_ref().is_some_and(is_over)
    }

    /// The next one on the ring, where it can't be called and somebody is known who can: nobody
    /// else may look after it as often.
    pub(super) fn far_successor(&self, now: Now) -> Option<NodeId> {
        let there = || self.peers.awake().filter(|(_, peer)| peer.status == PeerStatus::Alive);
        let far = there().filter(|(_, peer)| peer.contact.is_failing()).count();
        if far * FAR_SHARE > there().count() {
            return None;
        }
        let own = position(&self.settings.node_id);
        let mut behind = self.peers.behind(own);
        let (_, node_id, peer) = behind
            .find(|(_, _, peer)| peer.status == PeerStatus::Alive && peer.record.is_some())?;
        let is_silent = peer.silence(now.mono_ms) > self.settings.tick_ms / 2;
        let is_far = peer.contact.is_failing() && is_silent && peer.is_doubtable();
        (is_far && self.helper_of(node_id).is_some()).then(|| node_id.clone())
    }

    /// Something says that one is there that is lost here, or was never heard: it is called, and
    /// others are asked to try it, and whoever says so. Says whether it was time for that.
    pub(super) fn seek(
        &mut self,
        node_id: &NodeId,
        by: Option<&NodeId>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let wait = self.far_wait(now);
        let is_due = |peer: &Peer| {
            peer.is_unseen() && peer.record.is_some() && peer.watch.far.is_due(now.mono_ms)
        };
        let Some(peer) = self.peers.get_mut(node_id).filter(|peer| is_due(peer)) else {
            return false;
        };
        peer.watch.far.came_to_nothing(wait, FAR_MAX_MS);
        self.look_for(node_id, now, actions);
        self.ask_around(node_id, by, now, actions);
        true
    }

    /// Asks a few others to try one, and the one that most likely reaches it.
    fn ask_a_few(
        &mut self,
        node_id: &NodeId,
        by: Option<&NodeId>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Vec<Asked> {
        let by = by.filter(|by| self.peers.get(by).is_some_and(can_help));
        let by: Vec<NodeId> = by.into_iter().cloned().collect();
        let mut asked = self.ask_others(node_id, FIRST_ASKED, now, actions);
        if asked.iter().all(|asked| !by.contains(&asked.helper)) {
            asked.extend(self.ask_these(node_id, by, now, actions));
        }
        asked
    }

    /// The same, of one that somebody accuses.
    pub(super) fn ask_those_that_reach(
        &mut self,
        node_id: &NodeId,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Vec<Asked> {
        let helper = self.helper_of(node_id);
        self.ask_a_few(node_id, helper.as_ref(), now, actions)
    }

    /// Asks them about one that is sought, and waits for what they say.
    pub(super) fn ask_around(
        &mut self,
        node_id: &NodeId,
        by: Option<&NodeId>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let sought = self.ask_a_few(node_id, by, now, actions);
        let until = now.mono_ms + SOUGHT_TICKS * self.settings.tick_ms;
        if let Some(peer) = self.peers.get_mut(node_id) {
            (peer.watch.sought, peer.watch.sought_until) = (sought, until);
        }
    }

    /// Who was asked about one that is lost had its time.
    pub(super) fn drop_late_asks(&mut self, now: Now) {
        let most_ms = self.settings.tick_ms;
        self.peers.change_awake(|_, peer| peer.watch.drop_late_asks(now.mono_ms, most_ms));
    }

    /// Somebody lists this node as lost, in a large network: perhaps no accusation comes here, as
    /// nobody can call it.
    pub(super) fn refute_listed(&mut self, known: &KnownNode, now: Now, actions: &mut Vec<Action>) {
        let is_ours = known.version.fingerprint == self.own.fingerprint;
        let is_due = self.probing.listed.is_due(now.mono_ms);
        if known.is_lost && is_ours && is_due && !self.is_mesh() {
            let wait = self.far_wait(now);
            self.probing.listed.came_to_nothing(wait, FAR_MAX_MS);
            self.refute(now, actions);
        }
    }

    /// Whether all calls of this node are in vain for a while, and it is called: it can call
    /// nobody, so whoever is silent says nothing.
    pub(super) fn calls_nobody(&self, now: Now) -> bool {
        self.calls_nobody_for(MUTE_TICKS, now)
    }

    /// The same, for so many ticks.
    pub(super) fn calls_nobody_for(&self, ticks: u64, now: Now) -> bool {
        let enough = ticks * self.settings.tick_ms;
        let is_old = |at: u64| now.mono_ms.saturating_sub(at) > enough;
        self.probing.in_vain_since.is_some_and(is_old) && !is_old(self.probing.called_at)
    }

    /// Whether a peer is silent for longer than it uses to be, where this node can call nobody and
    /// has to wait for a word; else it need not be.
    pub(super) fn is_late_word(&self, peer: &Peer, now: Now) -> bool {
        let enough = 2 * peer.usual_gap_ms(self.gaps());
        // Who never called never will, and in a large network few ever do: others tell that one is
        // gone.
        let is_late = peer.heard_at.is_some() && peer.silence(now.mono_ms) > enough;
        is_late && self.is_mesh() || !self.calls_nobody(now)
    }

    /// How long a peer is silent between two words at least, before that is known, and at most. Who
    /// looks after all others calls one each third of a tick, and by every second of these calls
    /// all in turn.
    pub(super) fn gaps(&self) -> Gaps {
        let round_ms = self.peers.len() as u64 * 2 * self.times().probe;
        let tick_ms = self.settings.tick_ms;
        Gaps {
            least_ms: round_ms,
            unknown_ms: round_ms.max(GAP_TICKS * tick_ms),
            most_ms: (2 * round_ms).max(GAP_TICKS_MAX * tick_ms),
        }
    }

    /// The same, of the peer of that name.
    pub(super) fn is_overdue(&self, node_id: &NodeId, now: Now) -> bool {
        self.peers.get(node_id).is_some_and(|peer| self.is_late_word(peer, now))
    }

    /// Whether nobody called for so many ticks, so that most likely nobody can.
    pub(super) fn is_uncalled(&self, ticks: u64, now: Now) -> bool {
        let uncalled = now.mono_ms.saturating_sub(self.probing.called_at);
        uncalled > ticks * self.settings.tick_ms
    }

    /// Those that keep a link with this node, in a large network, as far as it knows them.
    pub(super) fn watchers(&self) -> Vec<NodeId> {
        let own = position(&self.settings.node_id);
        let is_there = |peer: &Peer| peer.status == PeerStatus::Alive && peer.record.is_some();
        let there = || self.peers.behind(own).filter(|(_, _, peer)| is_there(peer));
        let all: Vec<(u64, &NodeId)> =
            there().map(|(place, node_id, _)| (place, node_id)).collect();
        let nearest = all.iter().rev().take(super::links::SUCCESSORS);
        let mut found: Vec<NodeId> = nearest.map(|(_, node_id)| (*node_id).clone()).collect();
        let gap = all.last().map_or(0, |(place, _)| own.wrapping_sub(*place));
        for distance in (0..u64::BITS).map(|power| 1_u64 << power) {
            // Whose place so far on is between the one before us and us.
            let first = own.wrapping_sub(gap).wrapping_sub(distance);
            let behind = self.peers.behind(first);
            let within = behind.take_while(|(place, ..)| place.wrapping_sub(first) <= gap);
            let there = within.filter(|(_, _, peer)| is_there(peer));
            found.extend(there.map(|(_, node_id, _)| node_id.clone()));
        }
        found
    }

    /// Somebody asked to try a third one, in a small network: in a large one all hear of it anyway.
    pub(super) fn note_asker(&mut self, about: &NodeId, asker: &NodeId, now: Now) {
        if !self.is_mesh() || self.peers.get(about).is_none() {
            return;
        }
        let askers = &mut self.probing.askers;
        let is_new = |at: u64| now.mono_ms.saturating_sub(at) < ASKER_MS;
        askers.retain(|it| is_new(it.at) && (it.about != *about || it.asker != *asker));
        if askers.len() == ASKERS_MAX {
            askers.pop_front();
        }
        let (about, asker) = (about.clone(), asker.clone());
        askers.push_back(Asker { about, asker, at: now.mono_ms });
    }

    /// A peer is suspected: those that can't call it, and asked for it, hear that. In a large
    /// network all do.
    pub(super) fn tell_askers(&mut self, about: &NodeId, now: Now, actions: &mut Vec<Action>) {
        if !self.is_mesh() {
            return;
        }
        let asked =
            |it: &&Asker| it.about == *about && now.mono_ms.saturating_sub(it.at) < ASKER_MS;
        let askers: Vec<NodeId> =
            self.probing.askers.iter().filter(asked).map(|it| it.asker.clone()).collect();
        for asker in askers {
            let peer = self.peers.get_mut(&asker).filter(|it| it.link.connected);
            if let Some(peer) = peer {
                peer.owed.tell.suspects.insert(about.clone());
                self.poke(&asker, now, actions);
            }
        }
    }
}

impl Peer {
    /// A word of it came: how long it is silent between two.
    pub(super) fn note_gap(&mut self, now_ms: u64, gaps: Gaps) {
        // The time in which it was lost says nothing of how it speaks.
        let heard_at = self.heard_at.filter(|_| self.status == PeerStatus::Alive);
        if let Some(heard_at) = heard_at {
            let before = self.usual_gap_ms(gaps);
            self.gap_ms = Some((before - before / 8).max(now_ms.saturating_sub(heard_at)));
        }
    }

    /// How long it uses to be silent between two words.
    fn usual_gap_ms(&self, gaps: Gaps) -> u64 {
        self.gap_ms.unwrap_or(gaps.unknown_ms).clamp(gaps.least_ms, gaps.most_ms)
    }

    /// Whether it can't be called, and was shown to be there, or sought, while it could not be.
    pub(super) fn can_not_be_called(&self) -> bool {
        self.contact.is_failing() && self.watch.far.is_failing()
    }

    /// Whether it was shown that it is there though it can't be called: in a large network a link
    /// is kept with another one in its place.
    pub(super) fn is_far(&self, now_ms: u64) -> bool {
        let was_tried = |fault: &CallFault| now_ms.saturating_sub(fault.at) < FAR_LINK_MS;
        let was_tried = self.last_fault.as_ref().is_some_and(was_tried);
        self.can_not_be_called() && was_tried
    }

    /// Whether it is lost here, or was never heard and can't be called.
    pub(super) fn is_unseen(&self) -> bool {
        let is_unheard = self.heard_at.is_none() && self.contact.is_failing();
        self.status == PeerStatus::Lost || self.status == PeerStatus::Suspect && is_unheard
    }

    /// Whether it was heard, or answered where it is called.
    pub(super) fn is_met(&self) -> bool {
        self.heard_at.is_some() || self.place.proved().is_some()
    }
}
