//! Bootstrap addresses: somebody of the network may be there, whoever it is.

use super::answers::other_key_next;
use super::calls::hello_limit_ms;
use super::refusals::REFUSED_ADVICE;
use super::{Action, Class, Job, Node, Now, Outcome, Outgoing, RETRY_DELAY_MS, TRIES, Target};
use crate::protocol::address::Address;
use crate::protocol::fault::{Code, Fault};
use crate::protocol::identity::NodeId;
use crate::protocol::pace::{Pace, WAIT_MAX_MS};
use crate::protocol::report::PeerStatus;
use crate::protocol::verdict::Reason;
use crate::protocol::wire::Refusal;

/// How long a bootstrap address is not asked where the node that answered there is alive, or is
/// this one, ticks. Somebody else may answer there by now: a network that fell apart in islands is
/// one again within a minute. Spread, so that a fleet does not ask all at once.
const ASK_EVERY_TICKS: std::ops::Range<u64> = 8..13;
/// Longest such time, ms.
const ASK_EVERY_MAX_MS: u64 = 40_000;

/// A bootstrap address.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) address: Address,
    /// Who answered there last.
    pub(super) node_id: Option<NodeId>,
    pub(super) flight: Option<u64>,
    pub(super) tries: u32,
    pub(super) pace: Pace,
    /// When the next try is due after one that failed, ms.
    pub(super) retry_at: Option<u64>,
    /// When it is asked again though somebody is known there, ms.
    ask_at: u64,
    pub(super) network_key: usize,
    pub(super) last_fault: Option<String>,
    /// Who answered last has another key than this node.
    pub(super) is_twin: bool,
}

impl Seed {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            node_id: None,
            flight: None,
            tries: 0,
            pace: Pace::default(),
            retry_at: None,
            ask_at: 0,
            network_key: 0,
            last_fault: None,
            is_twin: false,
        }
    }

    /// When it is to be looked at again before the next tick, ms.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.retry_at.filter(|_| self.flight.is_none())
    }

    fn try_again_soon(&mut self, why: String, now: Now, actions: &mut Vec<Action>) {
        let at = now.mono_ms + RETRY_DELAY_MS;
        self.retry_at = Some(at);
        self.last_fault = Some(why);
        actions.push(Action::WakeAt(at));
    }

    pub(super) fn is_due(&self, now: Now) -> bool {
        let waits = self.retry_at.is_some_and(|at| now.mono_ms < at);
        self.flight.is_none() && !waits && self.pace.is_due(now.mono_ms)
    }
}

/// Whether the receiver says that it is itself at fault.
fn is_fault_of(refusal: &Refusal) -> bool {
    refusal.reason == Reason::Internal.code()
}

impl Node {
    pub(super) fn try_seeds(&mut self, now: Now, actions: &mut Vec<Action>) {
        let tick_ms = self.settings.tick_ms.max(1);
        for at in 0..self.seeds.len() {
            let flight = self.next_flight();
            let (peers, own_id) = (&self.peers, &self.settings.node_id);
            let Some(seed) = self.seeds.get_mut(at) else { return };
            let is_reached = seed.node_id.as_ref().is_some_and(|node_id| {
                let peer = peers.get(node_id);
                node_id == own_id || peer.is_some_and(|peer| peer.status == PeerStatus::Alive)
            });
            if is_reached {
                // Only this ends the wait: an answer to a first HELLO alone may come for ever.
                (seed.tries, seed.retry_at) = (0, None);
                seed.pace.succeeded();
            }
            if !seed.is_due(now) || is_reached && now.mono_ms < seed.ask_at {
                continue;
            }
            seed.flight = Some(flight);
            seed.retry_at = None;
            // A first try is expected to succeed; a start should not wait behind dead peers.
            let is_failing = seed.pace.is_failing() || seed.last_fault.is_some();
            let class = if is_failing { Class::Returning } else { Class::Healthy };
            let ticks = ASK_EVERY_TICKS.start * tick_ms..ASK_EVERY_TICKS.end * tick_ms;
            seed.ask_at = now.mono_ms + self.random.u64(ticks).min(ASK_EVERY_MAX_MS);
            let target = Target::Seed(seed.address.clone());
            actions.push(Action::Send(Job { target, flight, class }));
        }
    }

    /// One try where a forgotten node may be: it, or another one in its place, may prove itself.
    pub(super) fn knock_at_forgotten(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.knock.is_some() {
            return;
        }
        let wait = self.wait(now);
        let Some(address) = self.graves.next_knock(wait) else { return };
        if self.seeds.iter().any(|seed| seed.address == address) || self.found.has(&address) {
            return;
        }
        let flight = self.next_flight();
        let mut seed = Seed::new(address.clone());
        seed.flight = Some(flight);
        self.knock = Some(seed);
        let target = Target::Seed(address);
        actions.push(Action::Send(Job { target, flight, class: Class::Unproved }));
    }

    fn seed_mut(&mut self, address: &Address) -> Option<&mut Seed> {
        let seeds = self.seeds.iter_mut().chain(&mut self.knock).chain(self.found.iter_mut());
        seeds.into_iter().find(|seed| seed.address == *address)
    }

    pub(super) fn begin_seed(&mut self, address: &Address, flight: u64) -> Option<Outgoing> {
        let request = self.hello(None);
        let times = self.times();
        // Where a forgotten node may be there is one try.
        let is_only = self.knock.as_ref().is_some_and(|knock| knock.flight == Some(flight));
        let seed = self.seed_mut(address)?;
        if seed.flight != Some(flight) {
            return None;
        }
        // A network of a thousand begins while requests get lost: then one loses the first three.
        let is_given_up = seed.pace.fruitless() > 1;
        let limit_ms = hello_limit_ms(&times, seed.tries, is_only || is_given_up);
        seed.tries += 1;
        let (network_key, address) = (seed.network_key, address.clone());
        Some(Outgoing { address, signer: None, limit_ms, network_key, request })
    }

    pub(super) fn end_seed_flight(&mut self, address: &Address, flight: u64) {
        if let Some(seed) = self.seed_mut(address) {
            seed.flight.take_if(|current| *current == flight);
        }
        self.knock.take_if(|knock| knock.flight.is_none());
    }

    pub(super) fn on_seed_answer(
        &mut self,
        address: &Address,
        flight: u64,
        outcome: Outcome,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if self.is_answered_by_another(&outcome) {
            self.probing.in_vain_since = None;
        }
        if self.knock.take_if(|knock| knock.flight == Some(flight)).is_some() {
            if let Outcome::Introduced(answer) = outcome
                && self.meet(answer.message(), address, now, actions)
            {
                self.poke(&answer.message().node_id, now, actions);
            }
            return;
        }
        let mut outcome = Some(outcome);
        if self.on_found_answer((address, flight), &mut outcome, now, actions) {
            return;
        }
        let Some(outcome) = outcome else { return };
        let (wait, own_key) = (self.wait(now), self.settings.public_key);
        let Some(seed) = self.seed_mut(address) else { return };
        if seed.flight.take_if(|current| *current == flight).is_none() {
            return;
        }
        match other_key_next(outcome, &mut seed.network_key) {
            Outcome::Introduced(answer) => {
                let answer = answer.message();
                seed.tries = 0;
                seed.pace.came_to_nothing(wait, WAIT_MAX_MS);
                seed.last_fault = None;
                seed.node_id = Some(answer.node_id.clone());
                seed.is_twin = answer.public_key != own_key;
                self.meet_at_seed(address, answer, now, actions);
            }
            Outcome::Failed(why) if seed.tries < TRIES => seed.try_again_soon(why, now, actions),
            Outcome::Failed(why) => self.seed_failed(address, why, now),
            Outcome::Refused(refusal, _) if is_fault_of(&refusal) && seed.tries < TRIES => {
                seed.try_again_soon(refusal.text.as_str().to_owned(), now, actions);
            }
            Outcome::Refused(refusal, _) => {
                let text = refusal.text.as_str();
                let sentence = format!("the bootstrap node at {address} refused this node: {text}");
                self.seed_failed(address, format!("it refused: {text}"), now);
                self.note_own(Fault::new(Code::Refused, sentence, REFUSED_ADVICE), now);
            }
            _ => self.seed_failed(address, "it gave an answer that makes no sense".into(), now),
        }
    }

    /// Whether somebody answered, and not this very node, to which an address of the list may lead.
    fn is_answered_by_another(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Failed(_) => false,
            Outcome::Introduced(answer) => {
                let answer = answer.message();
                !self.is_me(&answer.node_id) || answer.incarnation != self.incarnation()
            }
            _ => true,
        }
    }

    pub(super) fn meet_at_seed(
        &mut self,
        address: &Address,
        answer: &crate::protocol::wire::HelloAnswer,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let node_id = &answer.node_id;
        if self.is_met_already(answer) {
            // Its own address stays the better one, where this is another one that leads to it.
            return;
        }
        // A try takes no longer.
        let began = now.mono_ms.saturating_sub(super::TRY_LIMIT_MS);
        let link = self.peers.get(node_id).map(|peer| &peer.link);
        if link.is_some_and(|link| link.has_begun_since(began, answer.incarnation)) {
            return;
        }
        let is_met = self.meet(answer, address, now, actions);
        if is_met {
            self.poke(node_id, now, actions);
        }
        let is_refused = self.peers.get(node_id).is_some_and(|peer| peer.link.refused);
        if (is_refused || !is_met && !self.is_me(node_id))
            && let Some(seed) = self.seed_mut(address)
        {
            seed.last_fault = Some("it answers, but refuses this node".into());
        }
    }

    /// Whether the very run that answers is alive and connected here.
    fn is_met_already(&self, answer: &crate::protocol::wire::HelloAnswer) -> bool {
        self.peers.get(&answer.node_id).is_some_and(|peer| {
            peer.status == PeerStatus::Alive
                && peer.link.connected
                && peer.direct_key() == Some(answer.public_key)
                && peer.link.incarnation == Some(answer.incarnation)
                && peer.link.session == Some(answer.session)
                && peer.is_reached()
        })
    }

    fn seed_failed(&mut self, address: &Address, why: String, now: Now) {
        let wait = self.wait(now);
        if let Some(seed) = self.seed_mut(address) {
            (seed.tries, seed.retry_at) = (0, None);
            seed.pace.came_to_nothing(wait, WAIT_MAX_MS);
            seed.last_fault = Some(why);
        }
    }
}
