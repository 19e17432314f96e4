//! What comes back: answers, refusals and failures of our own requests.

use super::requests::{TWIN_ADVICE, not_allowed};
use super::{
    Action, Conflict, Node, Now, Outcome, RETRY_DELAY_MS, Seed, TRIES, Target, give_up_doubtful,
};
use crate::protocol::address::Address;
use crate::protocol::crypto::key_fingerprint;
use crate::protocol::identity::NodeId;
use crate::protocol::peers::{Call, Retry, Trust};
use crate::protocol::report::{Event, PeerStatus, Refused};
use crate::protocol::verdict::Reason;
use crate::protocol::wire::{Answer, HelloAnswer, KnownNode, PeersAnswer, Refusal, Twin};

/// Longest time between tries of a node that does not answer, ms: within it a healed network is
/// whole again even if nobody calls first.
const BACKOFF_MAX_MS: u64 = 30_000;

/// A number that a peer names in a refusal is believed up to here; beyond it numbers would run out.
const NUMBER_MAX: u64 = u64::MAX / 2;

impl Node {
    /// Takes what became of a flight, and how long its last try took, microseconds.
    pub fn on_answer(
        &mut self,
        target: &Target,
        flight: u64,
        outcome: Outcome,
        elapsed_us: u64,
        now: Now,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        match target {
            Target::Seed(address) => {
                self.on_seed_answer(address, flight, outcome, now, &mut actions);
            }
            Target::Peer(node_id) => {
                self.on_peer_answer(node_id, flight, outcome, elapsed_us, now, &mut actions);
                self.poke(node_id, now, &mut actions);
            }
        }
        actions
    }

    fn on_seed_answer(
        &mut self,
        address: &Address,
        flight: u64,
        outcome: Outcome,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(seed) = self.seeds.iter_mut().find(|seed| seed.address == *address) else {
            return;
        };
        if seed.flight != Some(flight) {
            return;
        }
        seed.flight = None;
        let outcome = other_key_next(outcome, &mut seed.network_key);
        match outcome {
            Outcome::Answered(Answer::Hello(answer)) => {
                seed.tries = 0;
                seed.failures = 0;
                seed.last_fault = None;
                seed.node_id = Some(answer.node_id.clone());
                self.meet(&answer, address, now, actions);
                self.poke(&answer.node_id, now, actions);
                let refused = |peer: &super::Peer| peer.link.refused;
                if self.peers.get(&answer.node_id).is_some_and(refused)
                    && let Some(seed) = self.seeds.iter_mut().find(|seed| seed.address == *address)
                {
                    seed.last_fault = Some("it answers, but refuses this node".into());
                }
            }
            Outcome::Failed(why) if seed.tries < TRIES => {
                seed.attempt_at = now.mono_ms + RETRY_DELAY_MS;
                seed.last_fault = Some(why);
                actions.push(Action::WakeAt(seed.attempt_at));
            }
            Outcome::Failed(why) => self.seed_failed(address, why, now),
            Outcome::Refused { refusal, .. } if refusal.reason == Reason::WrongReceiver.code() => {
                // One list of bootstrap nodes for all hosts names each host itself.
                seed.tries = 0;
                seed.last_fault = None;
                seed.node_id = Some(self.settings.node_id.clone());
            }
            Outcome::Refused { refusal, .. } => {
                let text = format!("the bootstrap node at {address} refused: {}", refusal.text);
                self.seed_failed(address, text.clone(), now);
                self.note_conflict(Conflict::general(text, now), actions);
            }
            _ => self.seed_failed(address, "it gave an answer that makes no sense".into(), now),
        }
    }

    fn seed_failed(&mut self, address: &Address, why: String, now: Now) {
        let tick_ms = self.settings.tick_ms;
        let roll = self.random.f64();
        if let Some(seed) = self.seeds.iter_mut().find(|seed| seed.address == *address) {
            seed.tries = 0;
            seed.failures += 1;
            seed.attempt_at = now.mono_ms + backoff(seed.failures, tick_ms, roll);
            seed.last_fault = Some(why);
        }
    }

    /// Somebody at `address` proved who it is, and that it answers now.
    fn meet(
        &mut self,
        answer: &HelloAnswer,
        address: &Address,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let node_id = &answer.node_id;
        if self.is_me(node_id) {
            if answer.session != self.settings.session {
                let text = format!(
                    "another node runs as {node_id} at {address} with key {} (this one has key {}): give one of them \
                     another id",
                    key_fingerprint(&answer.public_key),
                    key_fingerprint(&self.settings.public_key)
                );
                self.note_conflict(Conflict::about(node_id, text, now), actions);
            }
            return;
        }
        if !self.is_allowed(node_id, &answer.public_key) {
            let text = not_allowed(node_id, &answer.public_key);
            let text = format!("{text}; it is at {address}");
            self.note_conflict(Conflict::about(node_id, text, now), actions);
            return;
        }
        if self.peer_or_new(node_id, Trust::Direct, now, actions).is_none() {
            return;
        }
        if self.pin(node_id, answer.public_key, now, actions).is_none() {
            let pinned = self.peers.get(node_id).and_then(|peer| peer.direct_key());
            let text = format!(
                "the node at {address} says that it is {node_id} with key {}, but key {} is pinned here. If the host was \
                 set up anew, `dsn forget {node_id}`; else give one of them another id",
                key_fingerprint(&answer.public_key),
                pinned.map(|key| key_fingerprint(&key)).unwrap_or_default()
            );
            self.note_conflict(Conflict::about(node_id, text, now), actions);
            return;
        }
        self.seen_at = Address::new(answer.seen.as_str())
            .ok()
            .and_then(|seen| with_port(&seen, self.settings.port));
        if let Some(peer) = self.peers.get_mut(node_id) {
            if peer.begin_session(answer.session) {
                give_up_doubtful(node_id, peer, actions);
            }
            peer.advertise.clone_from(&answer.advertise);
            peer.attempt_at = now.mono_ms;
            if peer.move_to(address.clone()) {
                actions.push(Action::SavePeers);
            }
            // Where it answered is tried first, whatever failed before.
            peer.failures = 0;
        }
        let refused = self.peers.get(node_id).is_some_and(|peer| peer.link.refused);
        if !refused {
            self.heard(node_id, now, actions);
        }
    }

    fn on_peer_answer(
        &mut self,
        node_id: &NodeId,
        flight: u64,
        outcome: Outcome,
        elapsed_us: u64,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        let Some(done) = peer.flight.take_if(|current| current.id == flight) else {
            return;
        };
        let Some(call) = done.call else { return };
        match other_key_next(outcome, &mut peer.network_key) {
            Outcome::Failed(why) => self.on_failure(node_id, &call, done.tries, &why, now, actions),
            Outcome::Refused { refusal, held_is_proved } => {
                self.on_refusal(node_id, &call, done.tries, refusal, held_is_proved, now, actions);
            }
            Outcome::Answered(Answer::Hello(answer)) => {
                let Call::Hello { address } = call else {
                    return;
                };
                self.meet(&answer, &address, now, actions);
                if answer.node_id != *node_id {
                    self.drop_address(node_id, &address, now);
                    self.poke(&answer.node_id, now, actions);
                }
            }
            outcome => self.on_success(node_id, call, outcome, elapsed_us, now, actions),
        }
    }

    fn on_success(
        &mut self,
        node_id: &NodeId,
        call: Call,
        outcome: Outcome,
        elapsed_us: u64,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        peer.failures = 0;
        match (call, outcome) {
            (Call::Hello { address }, Outcome::Nothing) => {
                peer.link.connected = true;
                peer.link.refused = false;
                if peer.move_to(address) {
                    actions.push(Action::SavePeers);
                }
                peer.owed.ping = true;
                peer.owed.want.insert(node_id.clone());
                self.heard(node_id, now, actions);
            }
            (Call::Ping { waiting }, Outcome::Answered(Answer::Ping(pong))) => {
                peer.owed.peers |= pong.view != self.view;
                if let Some(ticket) = waiting.filter(|t| peer.owed.pings.contains(t)) {
                    peer.owed.pings.retain(|other| *other != ticket);
                    actions.push(Action::Finish(ticket, Ok(elapsed_us)));
                }
                self.heard(node_id, now, actions);
                if let Some(twin) = pong.twin {
                    self.note_own_twin(&twin, now, actions);
                }
            }
            (Call::Peers, Outcome::Answered(Answer::Peers(answer))) => {
                self.heard(node_id, now, actions);
                self.compare(node_id, answer, now, actions);
            }
            (Call::Update { own, .. }, Outcome::Nothing) => {
                peer.link.own_held = own.or(peer.link.own_held);
                peer.owed.want.clear();
            }
            (Call::Update { own, .. }, Outcome::Answered(Answer::Update(records))) => {
                peer.link.own_held = own.or(peer.link.own_held);
                let before = peer.owed.want.len();
                for record in &records {
                    peer.owed.want.remove(&record.head.node_id);
                }
                // An answer without anything asked for would be asked for again for ever.
                if peer.owed.want.len() == before {
                    peer.owed.want.clear();
                }
                for record in records {
                    // What is refused here was refused for a reason that is noted already.
                    let _ = self.take_record(record, now, actions);
                }
            }
            (Call::Data { ticket, .. }, Outcome::Answered(Answer::Data)) => {
                peer.owed.data.retain(|data| data.ticket != ticket);
                actions.push(Action::Finish(ticket, Ok(elapsed_us)));
                self.heard(node_id, now, actions);
            }
            (call, _) => {
                let why = "it gave an answer that makes no sense";
                self.on_failure(node_id, &call, TRIES, why, now, actions);
            }
        }
    }

    /// A peer was called by another node with our id, and our key or another one.
    fn note_own_twin(&mut self, twin: &Twin, now: Now, actions: &mut Vec<Action>) {
        let own_id = self.settings.node_id.clone();
        let own_key = key_fingerprint(&self.settings.public_key);
        let address = twin.address.as_str();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let text = if twin.public_key == self.settings.public_key {
            format!(
                "two nodes run as {own_id} with one key, {own_key}: this one, and one that called from {host}; {TWIN_ADVICE}"
            )
        } else {
            format!(
                "two nodes run as {own_id}: this one with key {own_key}, and one with key {} that called from {host} and was \
                 refused; give it another id, or `dsn forget {own_id}` on the others if it is to take the place of this one",
                key_fingerprint(&twin.public_key)
            )
        };
        self.note_conflict(Conflict::about(&own_id, text, now), actions);
    }

    /// No answer, or none that counts: tried again twice, 0.5 s apart, then left to the tick.
    fn on_failure(
        &mut self,
        node_id: &NodeId,
        call: &Call,
        tries: u32,
        why: &str,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let tick_ms = self.settings.tick_ms;
        let roll = self.random.f64();
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        owe_again(peer, call);
        if let Call::Data { ticket, session } = call
            && let Some(data) = peer.owed.data.iter_mut().find(|data| data.ticket == *ticket)
        {
            data.doubtful_in = Some(*session);
        }
        if peer.status == PeerStatus::Alive && peer.silence(now.mono_ms) > SUSPECT_TICKS * tick_ms {
            peer.status = PeerStatus::Suspect;
            actions.push(Action::Tell(Event::Suspect { node_id: node_id.clone() }));
        }
        give_up_doubtful(node_id, peer, actions);
        if tries < TRIES && peer.status != PeerStatus::Lost {
            let at = now.mono_ms + RETRY_DELAY_MS;
            peer.retry = Some(Retry { tries, at });
            actions.push(Action::WakeAt(at));
            return;
        }
        peer.failures += 1;
        peer.link.connected = false;
        if let Call::Hello { address } = call {
            peer.tried_in_vain(address);
        }
        let wait = match peer.status {
            PeerStatus::Lost if !peer.has_new_hint => backoff(peer.failures, tick_ms, roll),
            // The next tick tries again.
            _ => tick_ms / 2,
        };
        peer.attempt_at = now.mono_ms + wait;
        let address = peer.address.as_ref().map_or("an unknown address", |a| a.as_str());
        let why = format!("{address}: {why}");
        self.fail_waiting(node_id, &why, actions);
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are parts of one refused flight")]
    fn on_refusal(
        &mut self,
        node_id: &NodeId,
        call: &Call,
        tries: u32,
        refusal: Refusal,
        held_is_proved: bool,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let text = refusal.text.clone();
        let Some(reason) = Reason::from_code(refusal.reason) else {
            return self.on_failure(node_id, call, TRIES, &text, now, actions);
        };
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        match reason {
            Reason::Internal => self.on_failure(node_id, call, tries, &text, now, actions),
            Reason::UnknownSender | Reason::WrongSession if tries < TRIES => {
                // A HELLO puts this right; then the call is made again.
                owe_again(peer, call);
                peer.link.connected = false;
                peer.attempt_at = now.mono_ms;
                peer.retry = Some(Retry { tries, at: now.mono_ms });
            }
            Reason::ReplayedNumber if tries < TRIES && refusal.number < NUMBER_MAX => {
                owe_again(peer, call);
                peer.link.number_out = peer.link.number_out.max(refusal.number);
                peer.retry = Some(Retry { tries, at: now.mono_ms });
            }
            Reason::LacksBase if matches!(call, Call::Update { partial: true, .. }) => {
                // Next it gets the whole record.
                peer.link.own_held = None;
                peer.failures = 0;
            }
            Reason::Stale
            | Reason::OwnRecord
            | Reason::LimitExceeded
            | Reason::OtherKey
            | Reason::NotAllowed
                if matches!(call, Call::Update { .. }) =>
            {
                // Final for this version, whoever is right; the next one is sent again.
                peer.link.own_held = Some(self.own.fingerprint);
                peer.failures = 0;
                let held = refusal.held.filter(|held| held_is_proved && self.is_me(&held.node_id));
                if let Some(held) = held {
                    self.catch_up(&held.head(), now, actions);
                }
            }
            _ => self.on_verdict(node_id, call, reason, &text, now, actions),
        }
    }

    /// A refusal that is final for this request.
    fn on_verdict(
        &mut self,
        node_id: &NodeId,
        call: &Call,
        reason: Reason,
        text: &str,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        if let Call::Data { ticket, .. } = call {
            let tried = peer.owed.data.iter().find(|data| data.ticket == *ticket);
            let doubtful = tried.is_some_and(|data| data.doubtful_in.is_some());
            let maybe = if doubtful { "; an earlier try may have been delivered" } else { "" };
            peer.owed.data.retain(|data| data.ticket != *ticket);
            let why = format!("{reason}: {text}{maybe}");
            let refused = Refused::ByPeer { node_id: node_id.clone(), why };
            actions.push(Action::Finish(*ticket, Err(refused)));
            return;
        }
        let address = match call {
            Call::Hello { address } => Some(address.clone()),
            _ => peer.address.clone(),
        };
        peer.link.refused |= matches!(call, Call::Hello { .. });
        if reason == Reason::WrongReceiver {
            if let Some(address) = address {
                self.drop_address(node_id, &address, now);
            }
        } else {
            let place = address.as_ref().map_or("an unknown address", |address| address.as_str());
            let text = format!("{node_id} at {place} refused this node ({reason}): {text}");
            self.note_conflict(Conflict::about(node_id, text, now), actions);
        }
        let why = format!("it refused: {reason}: {text}");
        self.on_failure(node_id, call, TRIES, &why, now, actions);
    }

    /// Another node answers at this address: it is tried no more for this one.
    fn drop_address(&mut self, node_id: &NodeId, address: &Address, now: Now) {
        let tick_ms = self.settings.tick_ms;
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        peer.hints.retain(|hint| hint != address);
        // The only address is kept all the same: none is given up without an operator.
        if peer.address.as_ref() == Some(address)
            && let Some(hint) = peer.hints.pop_front()
        {
            peer.address = Some(hint);
        }
        peer.failures += 1;
        peer.link.connected = false;
        peer.attempt_at = now.mono_ms + tick_ms;
    }

    /// Puts what a peer holds beside what is held here: what it lacks is sent, what it has newer
    /// is wanted, and nodes not known here are looked for.
    fn compare(
        &mut self,
        node_id: &NodeId,
        answer: PeersAnswer,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let mut send: std::collections::BTreeSet<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.record.is_some())
            .map(|(other, _)| other.clone())
            .collect();
        let mut want = std::collections::BTreeSet::new();
        send.remove(node_id);
        for known in answer.nodes {
            let held = self.version_held_of(&known.node_id);
            let theirs = known.version;
            if theirs.fingerprint == held.fingerprint || theirs.timestamp > held.timestamp {
                send.remove(&known.node_id);
            }
            if self.is_me(&known.node_id) {
                if let Some(peer) = self.peers.get_mut(node_id) {
                    peer.link.own_held = Some(theirs.fingerprint);
                }
                continue;
            }
            let expired = self.peers.get(&known.node_id).map_or(0, |peer| peer.expired.timestamp);
            let newer = theirs.timestamp >= held.timestamp && theirs.timestamp > expired;
            if theirs.fingerprint != held.fingerprint && newer {
                want.insert(known.node_id.clone());
            }
            self.take_hint(&known, now, actions);
        }
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.owed.send = send;
            peer.owed.want = want;
        }
    }

    fn take_hint(&mut self, known: &KnownNode, now: Now, actions: &mut Vec<Action>) {
        let Some(address) = &known.address else {
            return;
        };
        if let Some(peer) = self.peer_or_new(&known.node_id, Trust::Hearsay, now, actions)
            && peer.status != PeerStatus::Alive
            && peer.add_hint(address)
        {
            peer.try_soon(now.mono_ms);
            self.poke(&known.node_id, now, actions);
        }
    }
}

/// After this many ticks without a word a peer that does not answer is suspected.
pub(super) const SUSPECT_TICKS: u64 = 2;

/// While the network changes its key, some nodes have the new one only, some the old one only: the
/// next try is sealed with another one.
fn other_key_next(outcome: Outcome, network_key: &mut usize) -> Outcome {
    match outcome {
        Outcome::NotOpened(why) => {
            *network_key = network_key.wrapping_add(1);
            Outcome::Failed(why)
        }
        other => other,
    }
}

/// What a call that came to nothing was for is owed again.
fn owe_again(peer: &mut crate::protocol::peers::Peer, call: &Call) {
    match call {
        Call::Hello { .. } | Call::Update { .. } | Call::Data { .. } => {}
        Call::Ping { .. } => peer.owed.ping = true,
        Call::Peers => peer.owed.peers = true,
    }
}

/// Time until the next try after so many failures, ms: twice as long each time up to the limit,
/// and spread by chance, so that a fleet does not knock all at once.
fn backoff(failures: u32, tick_ms: u64, roll: f64) -> u64 {
    let doubled = tick_ms.saturating_mul(1 << failures.min(5));
    let limited = doubled.min(BACKOFF_MAX_MS.max(tick_ms));
    // Between half and all of it.
    limited / 2 + spread(limited / 2, roll)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "at most 30 000, and the roll is from 0 to 1"
)]
fn spread(most_ms: u64, roll: f64) -> u64 {
    (most_ms as f64 * roll) as u64
}

fn with_port(seen: &Address, port: u16) -> Option<Address> {
    let (host, _) = seen.as_str().rsplit_once(':')?;
    Address::new(&format!("{host}:{port}")).ok()
}

impl Seed {
    /// Whether somebody has to be looked for at this address now.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.flight.is_none() && now.mono_ms >= self.attempt_at
    }
}
