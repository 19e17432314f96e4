//! The tick: who has fallen silent, who is asked whether it is there, who is tried again.

use super::compare::is_missed;
use super::suspicion::lose;
use super::{Action, Node, Now, Urgency};
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::PeerStatus;

/// After this many ticks without a word a peer that does not answer is lost.
const LOST_TICKS: u64 = 4;
/// Most peers whose views differed that get a PING at a tick for that: each of them may be the one
/// that holds what is lacking, and what one of them has goes on from here. In a large network,
/// where one list at a time is asked for, it is one for each list instead.
const DIFFERING_MAX: usize = 4;
/// While somebody is missed, one peer is asked at every tick of this number where it is.
const HINTS_TICKS: u64 = 10;
/// The same where somebody was heard of late.
const HINTS_TICKS_FIRST: u64 = 2;
/// How long that is, ms.
const MISSED_MS: u64 = 5 * 60 * 1000;

impl Node {
    /// Does what is due by now: retries, and at each tick the upkeep of the network. Gives when
    /// it wants to be called again, ms.
    pub fn on_tick(&mut self, now: Now) -> (u64, Vec<Action>) {
        let mut actions = Vec::new();
        if now.mono_ms >= self.tick_at {
            self.ticks += 1;
            let jitter = self.random.u64(0..=self.settings.tick_ms / 10);
            // Much is known soon after the start that was not when this one was done.
            let is_first = self.ticks == 1;
            let tick_ms = self.settings.tick_ms / if is_first { 2 } else { 1 };
            self.tick_at = (now.mono_ms + tick_ms).saturating_sub(jitter);
            debug_assert!(self.all_may_rest_that_do(now), "a node rests to which something is due");
            self.peers.change_awake(|_, peer| {
                peer.upkeep = 0;
                peer.drop_old_attempts(now.mono_ms);
            });
            self.age_peers(now, &mut actions);
            self.drop_late_asks(now);
            self.drop_expired(now, &mut actions);
            if self.graves.age(now.mono_ms) {
                self.want_saved(Urgency::Late, &mut actions);
            }
            self.look_at_hearsay(&mut actions);
            self.choose_acquaintances(now);
            self.choose_pings(now);
            self.choose_exchange(now);
            self.choose_hints(now);
            self.grant_tries(now);
            self.conflicts.age(now.mono_ms);
            self.age_notices(now);
            self.drop_old_changes(now);
            self.knock_at_forgotten(now, &mut actions);
            self.let_rest();
            if self.republish().is_some() {
                // The disk did not take it when it was asked first.
                actions.push(Action::WakeDisk);
            }
        }
        if now.mono_ms >= self.compare_at {
            self.choose_exchange(now);
        }
        self.hedge_late(now, &mut actions);
        self.look_around(now, &mut actions);
        self.poke_awake(now, &mut actions);
        self.try_seeds(now, &mut actions);
        self.try_found(now, &mut actions);
        (self.wake_at(now), actions)
    }

    fn wake_at(&self, now: Now) -> u64 {
        // What was due before waits for something else: a sender, or the next tick.
        let attempts = self.peers.awake().flat_map(|(_, peer)| peer.attempts.values());
        let retries = attempts.map(|attempt| attempt.at).filter(|at| *at > now.mono_ms);
        let seeds = self.seeds.iter().filter_map(super::Seed::wake_at);
        let first = self.tick_at.min(self.look_around_at(now));
        let first = first.min(self.hedge_at).min(self.compare_at);
        retries.chain(seeds).chain(self.found.wake_at(now)).fold(first, u64::min)
    }

    /// Who was never heard in this run, or not since it came back, and gives no answer, is lost.
    fn age_peers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let tick_ms = self.settings.tick_ms;
        self.peers.change_awake(|node_id, peer| {
            let is_old = peer.unsure_for(now.mono_ms) > LOST_TICKS * tick_ms;
            if peer.status == PeerStatus::Suspect && peer.watch.accused.is_none() && is_old {
                let unanswered = peer.contact.is_failing() || !peer.unanswered.is_empty();
                let untried = peer.flight.is_none() && !peer.is_reached() && !peer.may_try;
                if unanswered || untried {
                    lose(node_id, peer, actions);
                }
            }
        });
    }

    /// Some of those whose views differed are asked for theirs once more: if it still differs,
    /// lists follow. In a large network that goes on until none is left: what is lacking there in
    /// the end is one record of a thousand, and any request for it may get lost.
    fn choose_exchange(&mut self, now: Now) {
        let has_left = self.own.head.left;
        let differs = |peer: &Peer| {
            !has_left
                && peer.status == PeerStatus::Alive
                && peer.differs(now.mono_ms)
                && self.is_linked(peer)
        };
        let differing = self.peers.awake().filter(|(_, peer)| differs(peer));
        let mut differing: Vec<NodeId> = differing.map(|(node_id, _)| node_id.clone()).collect();
        self.random.shuffle(&mut differing);
        let goes_on = !self.is_mesh() && !differing.is_empty();
        self.compare_at = if goes_on { now.mono_ms + self.list_pause_ms() } else { u64::MAX };
        let most = if self.is_mesh() { DIFFERING_MAX } else { 1 };
        // Whoever is just asked something comes last: it would be no one more.
        let is_free = |id: &NodeId| self.peers.get(id).is_some_and(|it| it.flight.is_none());
        let (mut differing, busy): (Vec<_>, Vec<_>) = differing.into_iter().partition(is_free);
        differing.extend(busy);
        for node_id in differing.iter().take(most) {
            if let Some(peer) = self.peers.get_mut(node_id) {
                peer.owed.ping = true;
            }
        }
    }

    /// Others may know where those are that are missed. Every second one that is asked is one that
    /// reached others for this node that it can't call; or whoever came last, as perhaps they were
    /// lost because that one was gone.
    fn choose_hints(&mut self, now: Now) {
        let missed = self.peers.awake().filter(|(_, peer)| is_missed(peer));
        let Some(silence) = missed.map(|(_, peer)| peer.unsure_for(now.mono_ms)).min() else {
            return;
        };
        let ticks = if silence < MISSED_MS { HINTS_TICKS_FIRST } else { HINTS_TICKS };
        if !self.ticks.is_multiple_of(ticks) {
            return;
        }
        let can_say = |peer: &Peer| peer.status == PeerStatus::Alive && peer.link.connected;
        let alive = || self.peers.iter().filter(|(_, peer)| can_say(peer));
        let chosen = if self.ticks.is_multiple_of(2 * ticks) {
            let reached = self.those_that_reach_others();
            let reaches = alive().filter(|(node_id, _)| reached.contains(node_id));
            let reaches: Vec<NodeId> = reaches.map(|(node_id, _)| node_id.clone()).collect();
            let newest = alive().max_by_key(|(_, peer)| peer.link.run_since);
            let newest = newest.map(|(node_id, _)| node_id.clone());
            self.random.choice(reaches).or(newest)
        } else {
            let alive: Vec<NodeId> = alive().map(|(node_id, _)| node_id.clone()).collect();
            self.random.choice(alive)
        };
        if let Some(peer) = chosen.and_then(|node_id| self.peers.get_mut(&node_id)) {
            peer.owed.hints = true;
        }
    }

    /// Whether nothing is due to those that rest: what the shell of debug builds looks at, so that
    /// the simulator finds whatever makes something due and wakes nobody.
    fn all_may_rest_that_do(&self, now: Now) -> bool {
        let resting = self.peers.iter().filter(|(_, peer)| !peer.is_awake);
        resting
            .map(|(_, peer)| (self.may_rest(peer), self.class_due(peer, now)))
            .all(|(may_rest, due)| may_rest && due.is_none())
    }
}
