//! The tick: who has fallen silent, who is asked whether it is there, who is tried again.

use super::answers::SUSPECT_TICKS;
use super::{Action, Node, Now, Target};
use crate::protocol::identity::NodeId;
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
/// At every tick of this number one peer is asked for its list, whatever its view: addresses
/// spread this way.
const PEERS_TICKS: u64 = 10;
/// The same while somebody is missed: perhaps others know where it is now.
const PEERS_TICKS_MISSED: u64 = 2;
/// How long a node is looked for in this way, ms.
const MISSED_MS: u64 = 5 * 60 * 1000;
/// How long the state of a lost node is kept, ms: a week.
const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;

impl Node {
    /// Does what is due by now: retries, and at each tick the upkeep of the network. Gives when
    /// it wants to be called again, ms.
    pub fn on_tick(&mut self, now: Now) -> (u64, Vec<Action>) {
        let mut actions = Vec::new();
        if now.mono_ms >= self.tick_at {
            self.ticks += 1;
            let jitter = self.random.u64(0..=self.settings.tick_ms / 10);
            self.tick_at = now.mono_ms + self.settings.tick_ms - jitter;
            self.age_peers(now, &mut actions);
            self.drop_expired(now, &mut actions);
            self.choose_pings(now);
            self.choose_exchange(now);
            self.forget_old_conflicts(now);
            if self.own.head.timestamp < self.timestamp_floor {
                // The disk did not take it when it was asked first.
                actions.push(Action::Republish);
            }
        }
        for node_id in self.peer_ids() {
            self.poke(&node_id, now, &mut actions);
        }
        self.drop_retries(now);
        self.try_seeds(now, &mut actions);
        (self.wake_at(), actions)
    }

    fn wake_at(&self) -> u64 {
        let retries = self.peers.iter().filter_map(|(_, peer)| {
            peer.retry.as_ref().filter(|_| peer.flight.is_none()).map(|retry| retry.at)
        });
        let seeds = self.seeds.iter().filter(|seed| seed.tries > 0 && seed.flight.is_none());
        retries.chain(seeds.map(|seed| seed.attempt_at)).fold(self.tick_at, u64::min)
    }

    /// What was to be tried again, and is owed no more: else it would be due for ever.
    fn drop_retries(&mut self, now: Now) {
        for (_, peer) in self.peers.iter_mut() {
            if peer.flight.is_none() {
                peer.retry.take_if(|retry| retry.at <= now.mono_ms);
            }
        }
    }

    fn age_peers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let tick_ms = self.settings.tick_ms;
        let mut lost = Vec::new();
        for (node_id, peer) in self.peers.iter_mut() {
            let silence = peer.silence(now.mono_ms);
            // A network of many speaks to each peer only every few ticks: silence alone does not
            // make a suspect before that, a failed try does.
            if peer.status == PeerStatus::Suspect && silence > LOST_TICKS * tick_ms {
                let unanswered = peer.failures > 0 || peer.retry.is_some();
                let untried = peer.flight.is_none() && peer.address_to_try().is_none();
                if unanswered || untried {
                    peer.status = PeerStatus::Lost;
                    // Its twin, if it has one, may take its place.
                    peer.link.superseded.clear();
                    lost.push(node_id.clone());
                }
            } else if peer.status == PeerStatus::Alive
                && silence > SUSPECT_TICKS * tick_ms
                && (peer.failures > 0 || !peer.link.connected)
            {
                peer.status = PeerStatus::Suspect;
                actions.push(Action::Tell(Event::Suspect { node_id: node_id.clone() }));
            }
        }
        for node_id in lost {
            actions.push(Action::Tell(Event::Lost { node_id: node_id.clone() }));
            self.fail_waiting(&node_id, "it is lost", actions);
        }
    }

    /// What a lost node left behind goes at the end of the retention time. Its key stays, and so
    /// does the name of the version, so that nobody brings it back.
    fn drop_expired(&mut self, now: Now, actions: &mut Vec<Action>) {
        let gone = |status| matches!(status, PeerStatus::Lost | PeerStatus::Left);
        let expired: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                gone(peer.status)
                    && peer.record.is_some()
                    && peer.silence(now.mono_ms) > RETENTION_MS
            })
            .map(|(node_id, _)| node_id.clone())
            .collect();
        for node_id in expired {
            if let Some(mut peer) = self.peers.remove(&node_id) {
                peer.expired = peer.version();
                self.drop_record(&node_id, &mut peer, actions);
                self.peers.insert(node_id, peer);
            }
        }
    }

    /// Suspects, and of the others those that were silent for longest.
    fn choose_pings(&mut self, now: Now) {
        let heard_lately = self.settings.tick_ms * HEARD_PERCENT / 100;
        let mut silent: Vec<(u64, NodeId)> = Vec::new();
        for (node_id, peer) in self.peers.iter_mut() {
            match peer.status {
                PeerStatus::Suspect => peer.owed.ping = true,
                PeerStatus::Alive if peer.silence(now.mono_ms) >= heard_lately => {
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

    fn choose_exchange(&mut self, now: Now) {
        let is_missed = |status| matches!(status, PeerStatus::Suspect | PeerStatus::Lost);
        let missed = self
            .peers
            .iter()
            .any(|(_, peer)| is_missed(peer.status) && peer.silence(now.mono_ms) < MISSED_MS);
        if !self.ticks.is_multiple_of(if missed { PEERS_TICKS_MISSED } else { PEERS_TICKS }) {
            return;
        }
        let random = &mut self.random;
        let alive = self.peers.iter_mut().filter(|(_, peer)| peer.status == PeerStatus::Alive);
        if let Some((_, peer)) = random.choice(alive.collect::<Vec<_>>()) {
            peer.owed.peers = true;
        }
    }

    fn try_seeds(&mut self, now: Now, actions: &mut Vec<Action>) {
        for at in 0..self.seeds.len() {
            let flight = self.next_flight();
            let (peers, own_id) = (&self.peers, &self.settings.node_id);
            let Some(seed) = self.seeds.get_mut(at) else {
                return;
            };
            let reached = seed.node_id.as_ref().is_some_and(|node_id| {
                node_id == own_id
                    || peers.get(node_id).is_some_and(|p| p.status == PeerStatus::Alive)
            });
            if reached {
                // Somebody else led there before the next try.
                seed.tries = 0;
                continue;
            }
            if !seed.is_due(now) {
                continue;
            }
            seed.flight = Some(flight);
            let target = Target::Seed(seed.address.clone());
            // A first try is expected to succeed; a start should not wait behind dead peers.
            actions.push(Action::Send { target, doubtful: seed.failures > 0 });
        }
    }
}
