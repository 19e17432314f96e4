//! The tick: who has fallen silent, who is asked whether it is there, who is tried again.

use super::answers::SUSPECT_TICKS;
use super::compare::is_missed;
use super::{Action, Node, Now, Urgency, give_up};
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::{Event, PeerStatus};

/// After this many ticks without a word a peer that does not answer is lost.
const LOST_TICKS: u64 = 4;
/// A peer that was heard within this part of a tick needs no PING, in percent.
const HEARD_PERCENT: u64 = 50;
/// Fewest peers that get a PING at a tick.
const PINGS_MIN: usize = 4;
/// One in so many peers gets a PING at a tick: as the other side pings too, each pair speaks
/// within half as many ticks, whatever the size of the network.
const PINGS_PART: usize = 8;
/// Most peers whose views differed that get a PING at a tick for that: each of them may be the one
/// that holds what is lacking, and what one of them has goes on from here.
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
            self.tick_at = now.mono_ms + self.settings.tick_ms - jitter;
            for (_, peer) in self.peers.iter_mut() {
                peer.upkeep = 0;
                peer.drop_old_attempts(now.mono_ms);
            }
            self.age_peers(now, &mut actions);
            self.drop_expired(now, &mut actions);
            if self.graves.age(now.mono_ms) {
                self.want_saved(Urgency::Late, &mut actions);
            }
            self.choose_pings(now);
            self.choose_exchange(now);
            self.choose_hints(now);
            self.grant_tries(now);
            self.conflicts.age(now.mono_ms);
            self.age_notices(now);
            self.knock_at_forgotten(now, &mut actions);
            if self.is_behind {
                // The disk did not take it when it was asked first.
                actions.push(Action::WakeDisk);
            }
        }
        self.poke_all(now, &mut actions);
        self.try_seeds(now, &mut actions);
        (self.wake_at(now), actions)
    }

    fn wake_at(&self, now: Now) -> u64 {
        // What was due before waits for something else: a sender, or the next tick.
        let attempts = self.peers.iter().flat_map(|(_, peer)| peer.attempts.values());
        let retries = attempts.map(|attempt| attempt.at).filter(|at| *at > now.mono_ms);
        let seeds = self.seeds.iter().filter_map(super::Seed::wake_at);
        retries.chain(seeds).fold(self.tick_at, u64::min)
    }

    fn age_peers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let tick_ms = self.settings.tick_ms;
        for (node_id, peer) in self.peers.iter_mut() {
            let silence = peer.silence(now.mono_ms);
            // A network of many speaks to each peer only every few ticks: silence alone does not
            // make a suspect before that, a failed try does.
            if peer.status == PeerStatus::Suspect && silence > LOST_TICKS * tick_ms {
                let unanswered = peer.contact.is_failing() || !peer.unanswered.is_empty();
                let untried = peer.flight.is_none() && !peer.is_reached() && !peer.may_try;
                if unanswered || untried {
                    // Its twin, if it has one, may take its place.
                    peer.link.superseded.clear();
                    // The last that is known of it may be that it left, heard from others first.
                    let left = peer.record.as_ref().is_some_and(|record| record.head.left);
                    let (status, event, why) = if left {
                        let event = Event::Left { node_id: node_id.clone() };
                        (PeerStatus::Left, event, "it left the network")
                    } else {
                        (PeerStatus::Lost, Event::Lost { node_id: node_id.clone() }, "it is lost")
                    };
                    peer.status = status;
                    actions.push(Action::Tell(event));
                    give_up(node_id, peer, why, actions);
                }
            } else if peer.status == PeerStatus::Alive
                && silence > SUSPECT_TICKS * tick_ms
                && (peer.contact.is_failing() || !peer.link.connected || !peer.is_reached())
            {
                peer.status = PeerStatus::Suspect;
                actions.push(Action::Tell(Event::Suspect { node_id: node_id.clone() }));
            }
        }
    }

    /// Suspects, and of the others that were reached those that were silent for longest. Who was
    /// not waits for a try of its address, and must not take the place of another one here.
    fn choose_pings(&mut self, now: Now) {
        if self.own.head.left {
            // Whoever said goodbye asks nobody whether it is there.
            return;
        }
        let heard_lately = self.settings.tick_ms * HEARD_PERCENT / 100;
        let mut silent: Vec<(u64, NodeId)> = Vec::new();
        for (node_id, peer) in self.peers.iter_mut() {
            match peer.status {
                PeerStatus::Suspect => peer.owed.ping = true,
                PeerStatus::Alive
                    if peer.is_reached() && peer.silence(now.mono_ms) >= heard_lately =>
                {
                    silent.push((peer.silence(now.mono_ms), node_id.clone()));
                }
                _ => {}
            }
        }
        silent.sort_unstable();
        let count = PINGS_MIN.max(self.peers.len().div_ceil(PINGS_PART));
        for (_, node_id) in silent.into_iter().rev().take(count) {
            if let Some(peer) = self.peers.get_mut(&node_id) {
                peer.owed.ping = true;
            }
        }
    }

    /// Some of those whose views differed are asked for theirs once more: if it still differs,
    /// lists follow.
    fn choose_exchange(&mut self, now: Now) {
        let (has_left, random) = (self.own.head.left, &mut self.random);
        let differs = |peer: &Peer| {
            !has_left
                && peer.status == PeerStatus::Alive
                && peer.grace_until.is_some_and(|until| now.mono_ms >= until)
                && peer.exchange.is_due(now.mono_ms)
        };
        let mut differing: Vec<&mut Peer> =
            self.peers.iter_mut().map(|(_, peer)| peer).filter(|peer| differs(peer)).collect();
        random.shuffle(&mut differing);
        for peer in differing.into_iter().take(DIFFERING_MAX) {
            peer.owed.ping = true;
        }
    }

    /// Others may know where those are that are missed.
    fn choose_hints(&mut self, now: Now) {
        let missed = self.peers.iter().filter(|(_, peer)| is_missed(peer));
        let Some(silence) = missed.map(|(_, peer)| peer.silence(now.mono_ms)).min() else { return };
        let ticks = if silence < MISSED_MS { HINTS_TICKS_FIRST } else { HINTS_TICKS };
        if !self.ticks.is_multiple_of(ticks) {
            return;
        }
        let random = &mut self.random;
        let alive = self.peers.iter_mut().filter(|(_, peer)| peer.status == PeerStatus::Alive);
        if let Some((_, peer)) = random.choice(alive.collect::<Vec<_>>()) {
            peer.owed.hints = true;
        }
    }
}
