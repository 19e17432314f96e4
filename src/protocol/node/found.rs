//! Addresses where somebody was heard on the local network who holds the network key: hints, as
//! those from other nodes. Each is tried a few times and then let go; whoever is there announces
//! itself again.
//!
//! Whoever recorded what members said can repeat it. So of what is limited each sender has a share,
//! and those that say little come first.

use std::net::IpAddr;

use super::answers::other_key_next;
use super::seeds::Seed;
use super::{Action, Class, Job, Node, Now, Outcome, TRIES, Target};
use crate::order::ListMap;
use crate::protocol::address::Address;
use crate::protocol::identity::NodeId;
use crate::protocol::pace::WAIT_MAX_MS;
use crate::protocol::peer::Peer;
use crate::protocol::report::{FoundCounts, PeerStatus};
use crate::protocol::wire::HelloAnswer;

/// Most addresses that wait to be tried: more than anybody needs to get into a network, as all
/// others are heard of there.
const WAITING_MAX: usize = 64;
/// Most of them that are tried at a time. One that hangs takes 5 s, so that is less than one a
/// second, whatever is announced.
const AT_ONCE_MAX: usize = 4;
/// Most of these that one sender told of: who repeats many that hang leaves one for the others.
const AT_ONCE_EACH_MAX: usize = AT_ONCE_MAX - 1;
/// Most addresses of which it is remembered how they turned out: one of each node.
const SETTLED_MAX: usize = crate::protocol::PEERS_MAX;
/// How long an address that led to nobody is left alone, ms.
const IN_VAIN_MS: u64 = 10 * 60 * 1000;
/// The same while nobody else is there at all, ms.
const IN_VAIN_ALONE_MS: u64 = 30_000;
/// How long an address that led to a node which is known is not asked again while that is alive,
/// ms.
const MET_MS: u64 = 4 * 60 * 60 * 1000;
/// The same while that node is reached at another address, ms: it may have both, or somebody else
/// may have this one by now.
const ELSEWHERE_MS: u64 = 10 * 60 * 1000;
/// How long an address is not tried again, whatever became of who answered there, ms.
const AGAIN_MS: u64 = 30_000;
/// For each peer that is alive a try waits this much longer at most, ms: by then one of them was
/// quicker, and told all others. So a newcomer is not called by a thousand nodes.
const SPREAD_EACH_MS: u64 = 50;
/// Longest such time, ms.
const SPREAD_MAX_MS: u64 = 60_000;

/// Who is at an address.
#[derive(Debug)]
enum Who {
    Nobody,
    /// Somebody who is not let in.
    Stranger,
    /// A peer, or this node itself.
    Member(NodeId),
}

/// How an address turned out.
#[derive(Debug)]
struct Settled {
    who: Who,
    /// Since when that is known, ms. How long it counts depends on what became of those who are
    /// known, …
    at: u64,
    /// … but not for longer than that, ms.
    until: u64,
}

impl Settled {
    fn new(who: Who, now: Now) -> Self {
        let counts_ms = if matches!(who, Who::Member(_)) { MET_MS } else { IN_VAIN_MS };
        Self { who, at: now.mono_ms, until: now.mono_ms + counts_ms }
    }
}

/// An address that waits to be tried.
#[derive(Debug)]
struct Waiting {
    seed: Seed,
    /// Who told of it.
    said_by: IpAddr,
}

impl Waiting {
    fn is_under_way(&self) -> bool {
        self.seed.flight.is_some()
    }
}

/// What was found on the local network.
#[derive(Debug, Default)]
pub(super) struct Found {
    waiting: Vec<Waiting>,
    settled: ListMap<Address, Settled>,
    counts: FoundCounts,
}

impl Found {
    pub(super) fn has(&self, address: &Address) -> bool {
        self.waiting.iter().any(|it| it.seed.address == *address)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Seed> {
        self.waiting.iter_mut().map(|it| &mut it.seed)
    }

    /// When one of them is to be looked at again before the next tick, ms.
    pub(super) fn wake_at(&self, now: Now) -> Option<u64> {
        let at_once = self.waiting.iter().filter(|it| it.is_under_way()).count();
        let times = self.waiting.iter().filter_map(|it| it.seed.wake_at());
        times.filter(|at| *at > now.mono_ms).min().filter(|_| at_once < AT_ONCE_MAX)
    }

    /// How many that a sender told of wait, and how many are under way.
    fn load_of(&self, said_by: IpAddr) -> (usize, usize) {
        let all = || self.waiting.iter().filter(|it| it.said_by == said_by);
        (all().count(), all().filter(|it| it.is_under_way()).count())
    }

    /// What two say counts as said by the one that says less: else who repeats what somebody says
    /// before it does takes its place away.
    fn note_said_by(&mut self, address: &Address, said_by: IpAddr) {
        let Some(at) = self.waiting.iter().position(|it| it.seed.address == *address) else {
            return;
        };
        let of = |said_by| self.load_of(said_by).0;
        if self.waiting.get(at).is_some_and(|it| of(said_by) + 1 < of(it.said_by))
            && let Some(waiting) = self.waiting.get_mut(at)
        {
            waiting.said_by = said_by;
        }
    }

    /// Which one makes room for another of this sender: one of whoever told of the most, by chance.
    /// What is under way makes no room.
    fn gives_way(&self, said_by: IpAddr, random: &mut fastrand::Rng) -> Option<usize> {
        let idle = |at: &usize| self.waiting.get(*at).is_some_and(|it| !it.is_under_way());
        let load = |at: &usize| self.waiting.get(*at).map(|it| self.load_of(it.said_by).0);
        let idle = (0..self.waiting.len()).filter(idle);
        let loads: Vec<(usize, usize)> = idle.filter_map(|at| Some((load(&at)?, at))).collect();
        let most = loads.iter().map(|(load, _)| *load).max()?;
        if most < self.load_of(said_by).0 {
            return None;
        }
        let of_the_most: Vec<usize> =
            loads.iter().filter(|(load, _)| *load == most).map(|(_, at)| *at).collect();
        of_the_most.get(random.usize(0..of_the_most.len())).copied()
    }

    /// Which one is tried next: one of whoever has the fewest under way, and then of whoever
    /// told of the fewest.
    fn next_due(&self, now: Now) -> Option<&Address> {
        let due = self.waiting.iter().filter(|it| it.seed.is_due(now));
        let load = |it: &&Waiting| {
            let (waiting, under_way) = self.load_of(it.said_by);
            (under_way, waiting)
        };
        let next = due.min_by_key(load)?;
        (self.load_of(next.said_by).1 < AT_ONCE_EACH_MAX).then_some(&next.seed.address)
    }

    /// Others may be let in now: whom that may be is asked again.
    pub(super) fn hope_again(&mut self) {
        self.settled.retain(|_, settled| !matches!(settled.who, Who::Stranger));
    }

    #[cfg(test)]
    pub(super) fn settled(&self) -> usize {
        self.settled.len()
    }

    fn settle(&mut self, address: Address, settled: Settled) {
        if self.settled.len() >= SETTLED_MAX && !self.settled.contains_key(&address) {
            let first = self.settled.iter().min_by_key(|(_, settled)| settled.until);
            if let Some(first) = first.map(|(address, _)| address.clone()) {
                self.settled.remove(&first);
            }
        }
        self.settled.insert(address, settled);
    }
}

impl Node {
    /// Somebody who holds the network key was heard on the local network and says that it listens
    /// there; it came from that sender. The caller has checked that, and that it is not this node.
    pub fn on_found(&mut self, address: Address, said_by: IpAddr, now: Now) -> Vec<Action> {
        self.found.note_said_by(&address, said_by);
        if self.found.has(&address) || self.leads_nowhere_new(&address, now) {
            return Vec::new();
        }
        let is_seed = self.seeds.iter().any(|seed| seed.address == address);
        let is_knock = self.knock.as_ref().is_some_and(|knock| knock.address == address);
        if is_seed || is_knock || self.own.head.left {
            return Vec::new();
        }
        if self.found.waiting.len() >= WAITING_MAX {
            self.found.counts.dropped += 1;
            let Some(at) = self.found.gives_way(said_by, &mut self.random) else {
                return Vec::new();
            };
            self.found.waiting.swap_remove(at);
        }
        let alive = u64::try_from(self.alive()).unwrap_or(u64::MAX);
        let spread = alive.saturating_mul(SPREAD_EACH_MS).min(SPREAD_MAX_MS);
        let at = now.mono_ms + self.random.u64(0..=spread);
        let mut seed = Seed::new(address);
        seed.retry_at = Some(at);
        self.found.waiting.push(Waiting { seed, said_by });
        vec![Action::WakeAt(at)]
    }

    /// What became of the addresses that were found.
    pub fn found_counts(&self) -> FoundCounts {
        FoundCounts { waiting: self.found.waiting.len(), ..self.found.counts }
    }

    /// How many peers are alive.
    pub fn alive(&self) -> usize {
        self.peer_counts().alive
    }

    /// Whether it is known who is there, or that nobody is.
    fn leads_nowhere_new(&self, address: &Address, now: Now) -> bool {
        if let Some(settled) = self.found.settled.get(address)
            && now.mono_ms < settled.until
        {
            let age = now.mono_ms.saturating_sub(settled.at);
            return age < self.counts_ms(&settled.who, address);
        }
        let lives_there = |peer: &Peer| may_be_there(peer.status) && is_at(peer, address);
        self.peers.iter().any(|(_, peer)| lives_there(peer))
    }

    /// How long it counts who was met at an address, as things are now, ms.
    fn counts_ms(&self, who: &Who, address: &Address) -> u64 {
        let node_id = match who {
            Who::Nobody if self.alive() == 0 => return IN_VAIN_ALONE_MS,
            Who::Nobody | Who::Stranger => return IN_VAIN_MS,
            Who::Member(node_id) if self.is_me(node_id) => return MET_MS,
            Who::Member(node_id) => node_id,
        };
        let Some(peer) = self.peers.get(node_id) else { return AGAIN_MS };
        let is_elsewhere = peer.place.proved().is_some() && !is_at(peer, address);
        match peer.status {
            // It has turns of its own.
            _ if peer.link.refused => MET_MS,
            status if !may_be_there(status) => AGAIN_MS,
            _ if is_elsewhere => ELSEWHERE_MS,
            _ => MET_MS,
        }
    }

    /// Whether that run of that node is one of the peers: else it is not allowed, or has another
    /// key than is known of it.
    fn lets_in(&self, answer: &HelloAnswer) -> bool {
        self.peers.get(&answer.node_id).is_some_and(|peer| {
            peer.direct_key() == Some(answer.public_key)
                && peer.link.incarnation == Some(answer.incarnation)
        })
    }

    /// Whether it is another node that is not there, as far as is known.
    fn is_missing(&self, node_id: &NodeId) -> bool {
        let is_there = self.peers.get(node_id).is_some_and(|peer| may_be_there(peer.status));
        !is_there && !self.is_me(node_id)
    }

    pub(super) fn try_found(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.found.settled.retain(|_, settled| now.mono_ms < settled.until);
        let mut at_once = self.found.waiting.iter().filter(|it| it.is_under_way()).count();
        while at_once < AT_ONCE_MAX {
            let Some(address) = self.found.next_due(now).cloned() else { return };
            if self.leads_nowhere_new(&address, now) {
                // Somebody else was quicker.
                self.found.waiting.retain(|it| it.seed.address != address);
                continue;
            }
            let flight = self.next_flight();
            let mut waiting = self.found.iter_mut();
            let Some(seed) = waiting.find(|seed| seed.address == address) else { return };
            (seed.flight, seed.retry_at) = (Some(flight), None);
            at_once += 1;
            let target = Target::Seed(address);
            actions.push(Action::Send(Job { target, flight, class: Class::Unproved }));
        }
    }

    /// What came of a try; says whether it was one of these.
    pub(super) fn on_found_answer(
        &mut self,
        (address, flight): (&Address, u64),
        outcome: &mut Option<Outcome>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let is_it = |it: &Waiting| it.seed.address == *address && it.seed.flight == Some(flight);
        let Some(at) = self.found.waiting.iter().position(is_it) else { return false };
        let Some(outcome) = outcome.take() else { return false };
        let Waiting { mut seed, said_by } = self.found.waiting.swap_remove(at);
        seed.flight = None;
        let who = match other_key_next(outcome, &mut seed.network_key) {
            Outcome::Introduced(answer) => {
                let answer = answer.message();
                let is_new = self.is_missing(&answer.node_id);
                self.meet_at_seed(address, answer, now, actions);
                let is_let_in = self.is_me(&answer.node_id) || self.lets_in(answer);
                let counts = &mut self.found.counts;
                let count = match (is_let_in, is_new) {
                    (true, true) => &mut counts.met,
                    (true, false) => &mut counts.known,
                    (false, _) => &mut counts.refused,
                };
                *count += 1;
                if is_let_in { Who::Member(answer.node_id.clone()) } else { Who::Stranger }
            }
            Outcome::Failed(_) if seed.tries < TRIES => {
                let wait = self.wait(now);
                seed.pace.came_to_nothing(wait, WAIT_MAX_MS);
                self.found.waiting.push(Waiting { seed, said_by });
                return true;
            }
            _ => {
                self.found.counts.nobody += 1;
                Who::Nobody
            }
        };
        self.found.settle(address.clone(), Settled::new(who, now));
        true
    }
}

fn may_be_there(status: PeerStatus) -> bool {
    matches!(status, PeerStatus::Alive | PeerStatus::Suspect)
}

/// Whether it answered there, or says that it does.
fn is_at(peer: &Peer, address: &Address) -> bool {
    [peer.place.proved(), peer.place.address()].contains(&Some(address))
}
