//! HELLO: who calls, and what each has to name from then on.
//!
//! The first step changes nothing. The second one names what this node gave that caller with that
//! key, and a number that only rises: so it is one of now, and whatever is wrong with it is wrong
//! now.

use std::net::SocketAddr;

use super::{Action, Node, Now, Reply, Urgency, Verdict, give_up_doubtful, place_text};
use crate::order::ListMap;
use crate::protocol::address::Address;
use crate::protocol::fault::{Code, Fault};
use crate::protocol::identity::{Incarnation, NodeId, PublicKey, Session};
use crate::protocol::peer::{NUMBER_MAX, Pin, Trust, caller_text, host_of};
use crate::protocol::verdict::Reason;
use crate::protocol::verified::Authentic;
use crate::protocol::wire::{Answer, Hello, HelloAnswer, HelloProof, Refusal, Text, Twin};
use crate::protocol::{PEERS_MAX, PROTOCOL_VERSION};

/// Most callers that are refused for who they are, and of which the last number is remembered.
/// Where there would be one more, all of them get another session.
const CLAIMS_MAX: usize = 64;

/// What an operator does about two nodes with one key.
pub(super) const TWIN_ADVICE: &str =
    "stop one of them, and let it make a key of its own under another id";

/// The last numbers of callers that are refused for who they are: so that a recorded HELLO of such
/// a one does not raise a conflict that is over.
#[derive(Debug, Default)]
pub(super) struct Claims {
    numbers: ListMap<(NodeId, PublicKey), u64>,
    generation: u64,
}

impl Claims {
    fn number(&self, node_id: &NodeId, key: &PublicKey) -> u64 {
        self.numbers.get(&(node_id.clone(), *key)).copied().unwrap_or_default()
    }

    fn note(&mut self, node_id: &NodeId, key: &PublicKey, number: u64) {
        if self.numbers.len() == CLAIMS_MAX {
            self.numbers.clear();
            self.generation += 1;
        }
        self.numbers.insert((node_id.clone(), *key), number);
    }
}

impl Node {
    /// Sixteen bytes that nobody knows before this node says them.
    pub(super) fn derived(&self, label: &[u8], parts: &[&[u8]]) -> [u8; 16] {
        self.settings.secret.derived(label, self.epoch, parts)
    }

    /// What a caller with this id and this key has to name here. It is another one after the node
    /// was taken out of the table, and for each key.
    pub(super) fn session_for(&self, node_id: &NodeId, key: &PublicKey) -> Session {
        let (label, count): (&[u8], u64) = match self.why_refused(node_id, key) {
            None => (b"dsn/1 session", u64::from(self.removals_of(node_id))),
            Some(_) => (b"dsn/1 session of a refused one", self.claims.generation),
        };
        // The id comes last, so that no two callers make the same bytes.
        let parts: [&[u8]; 3] = [&count.to_le_bytes(), &key.0, node_id.as_str().as_bytes()];
        Session(self.derived(label, &parts))
    }

    fn removals_of(&self, node_id: &NodeId) -> u32 {
        match self.peers.get(node_id) {
            Some(peer) => peer.removals,
            None => self.graves.get(node_id).map_or(0, |grave| grave.removals),
        }
    }

    /// Why nobody with this id and this key is let in.
    fn why_refused(&self, node_id: &NodeId, key: &PublicKey) -> Option<Reason> {
        if self.is_me(node_id) {
            let is_own_key = *key == self.settings.public_key;
            return Some(if is_own_key { Reason::SameId } else { Reason::OtherKey });
        }
        if !self.is_allowed(node_id, key) {
            return Some(Reason::NotAllowed);
        }
        let other = self.pinned_for_good(node_id).filter(|pinned| pinned != key);
        other.map(|_| Reason::OtherKey)
    }

    /// The key that the node of that name proved here, even if it is not in the table any more.
    pub(super) fn pinned_for_good(&self, node_id: &NodeId) -> Option<PublicKey> {
        match self.peers.get(node_id) {
            Some(peer) => peer.direct_key(),
            None => {
                let pin = self.graves.get(node_id)?.pin?;
                (pin.trust == Trust::Direct).then_some(pin.key)
            }
        }
    }

    pub(super) fn on_hello(
        &mut self,
        hello: Authentic<Hello>,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let (hello, _) = hello.into_parts();
        let session = self.session_for(&hello.from, &hello.public_key);
        let proof = match &hello.proof {
            Some(proof) if !self.is_me(&proof.to) => {
                return self.wrong_receiver(&proof.to).into();
            }
            Some(proof) if proof.session == session => proof.clone(),
            _ => return Verdict::answer(Answer::Hello(self.introduce(session, caller))).into(),
        };
        if let Some(refusal) = refuse_number(proof.number) {
            return refusal.into();
        }
        if let Some(reason) = self.why_refused(&hello.from, &hello.public_key) {
            return self.refuse_claim(&hello, proof.number, reason, caller, now).into();
        }
        self.on_proved_hello(hello, &proof, caller, now, actions)
    }

    fn introduce(&self, session: Session, caller: SocketAddr) -> HelloAnswer {
        HelloAnswer {
            version: PROTOCOL_VERSION,
            node_id: self.settings.node_id.clone(),
            public_key: self.settings.public_key,
            incarnation: self.incarnation(),
            session,
            program: self.settings.program.clone(),
            advertise: self.settings.advertise.clone(),
            seen: Address::of(caller.ip(), caller.port()),
        }
    }

    /// The HELLO is one of now, and its sender may be in the network.
    fn on_proved_hello(
        &mut self,
        hello: Hello,
        proof: &HelloProof,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Reply {
        self.conflicts.is_ours(&caller_text(caller.ip()));
        let from = &hello.from;
        if let Some(peer) = self.peers.get_mut(from) {
            if proof.number <= peer.link.number_in {
                return replayed(peer.link.number_in).into();
            }
            if peer.direct_key().is_some() {
                peer.link.number_in = proof.number;
                let twin = self.refuse_twin(from, hello.incarnation, caller, now);
                if let Some(refusal) = twin {
                    return refusal.into();
                }
            }
        }
        if self.peer_or_new(from, Trust::Direct, now, actions).is_none() {
            let text = format!("this node knows {PEERS_MAX} nodes already, and all were reached");
            return Verdict::refuse(Reason::LimitExceeded, text).into();
        }
        self.pin(from, hello.public_key, now, actions);
        let claimed = match &hello.advertise {
            Some(address) => address.clone(),
            None => Address::of_caller(caller, hello.port),
        };
        let wait = self.wait(now);
        let knows_its_place = self.knows_its_place();
        if let Some(peer) = self.peers.get_mut(from) {
            peer.link.number_in = proof.number;
            peer.begin_session(hello.incarnation, proof.given, wait);
            give_up_doubtful(from, peer, actions);
            // Who was only ever called asks back where it is.
            peer.link.connected = knows_its_place;
            peer.link.called_at = Some(now.mono_ms);
            // Its own call says nothing of ours; but now is a good time to try.
            peer.contact.hurry(now.mono_ms);
            for attempt in peer.attempts.values_mut() {
                attempt.at = attempt.at.min(now.mono_ms);
            }
            peer.place.claim(claimed, hello.advertise.clone());
        }
        self.heard(from, now, actions);
        self.poke(from, now, actions);
        Reply { verdict: Verdict::Nothing, caller: Some(hello.from) }
    }

    /// A run that a later one replaced is still in use: somebody runs with the same key.
    pub(super) fn refuse_twin(
        &mut self,
        from: &NodeId,
        incarnation: Incarnation,
        caller: SocketAddr,
        now: Now,
    ) -> Option<Verdict> {
        let peer = self.peers.get_mut(from)?;
        if !peer.link.superseded.contains(&incarnation) {
            return None;
        }
        let public_key = peer.direct_key()?;
        let address = Address::of(caller.ip(), caller.port());
        peer.link.twin = Some((Twin { address, public_key }, now.mono_ms));
        let text = format!(
            "two nodes run as {from} with one key, {}: one at {}, one at {}",
            public_key.fingerprint(),
            place_text(peer.place.address()),
            caller_text(caller.ip())
        );
        let fault = Fault::new(Code::Clone, text, TWIN_ADVICE).about(from);
        self.note_seen(fault.clone(), caller, now);
        Some(Verdict::refuse(Reason::SupersededIncarnation, fault.to_string()))
    }

    /// Somebody who may not be in the network under this name, and speaks now.
    fn refuse_claim(
        &mut self,
        hello: &Hello,
        number: u64,
        reason: Reason,
        caller: SocketAddr,
        now: Now,
    ) -> Verdict {
        let (from, key) = (&hello.from, &hello.public_key);
        let last = self.claims.number(from, key);
        if number <= last {
            return replayed(last);
        }
        self.claims.note(from, key, number);
        let host = caller_text(caller.ip());
        if reason == Reason::NotAllowed {
            self.note_seen(not_allowed(from, key, &format!("it called from {host}")), caller, now);
            return Verdict::refuse(reason, not_listed(from, key));
        }
        let place = Address::of(caller.ip(), hello.port);
        let (pinned, at) = if self.is_me(from) {
            (Some(self.settings.public_key), "this node".to_owned())
        } else {
            let at = self.peers.get(from).and_then(|peer| peer.place.address());
            (self.pinned_for_good(from), format!("known at {}", place_text(at)))
        };
        let text = format!(
            "two nodes use the id {from}: key {} ({at}) and key {} at {place}",
            pinned.map(|pinned| pinned.fingerprint()).unwrap_or_default(),
            key.fingerprint(),
        );
        let hint = format!(
            "if the host was set up anew, `dsn forget {from}` on the others; else give one of them another id"
        );
        let fault = Fault::new(Code::IdConflict, text, hint).about(from);
        self.note_seen(fault.clone(), caller, now);
        if let Some(peer) = self.peers.get_mut(from) {
            // Our next answer to the one that is known tells it.
            let twin = Twin { address: place, public_key: *key };
            peer.link.twin = Some((twin, now.mono_ms));
        }
        Verdict::refuse(reason, fault.to_string())
    }

    /// A peer was called by another node with our id, and our key or another one.
    pub(super) fn note_own_twin(&mut self, reporter: &NodeId, twin: &Twin, now: Now) {
        let own_id = self.settings.node_id.clone();
        let own_key = self.settings.public_key.fingerprint();
        let host = host_of(&twin.address);
        let fault = if twin.public_key == self.settings.public_key {
            let text = format!(
                "two nodes run as {own_id} with one key, {own_key}: this one, and one that called from {host}"
            );
            Fault::new(Code::Clone, text, TWIN_ADVICE)
        } else {
            let text = format!(
                "two nodes run as {own_id}: this one with key {own_key}, and one with key {} that called from {host} and \
                 was refused",
                twin.public_key.fingerprint()
            );
            let hint = format!(
                "give it another id, or `dsn forget {own_id}` on the others if it is to take the place of this one"
            );
            Fault::new(Code::IdConflict, text, hint)
        };
        self.note_reported(fault.about(&own_id), reporter, now);
    }

    pub(super) fn wrong_receiver(&self, to: &NodeId) -> Verdict {
        let text = format!("this is {}, not {to}", self.settings.node_id);
        Verdict::refuse(Reason::WrongReceiver, text)
    }

    /// Pins the key that a node proved to us. Where hearsay said another one, what came with it
    /// goes. Says whether it is the pinned one now.
    pub(super) fn pin(
        &mut self,
        node_id: &NodeId,
        key: PublicKey,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(node_id) else { return false };
        match peer.pin {
            Some(pin) if pin.trust == Trust::Direct => return pin.key == key,
            Some(pin) if pin.key != key => {
                self.replace_hearsay(node_id, now, actions);
                let text = format!(
                    "{node_id} proved another key than others had told; what they told of it is dropped"
                );
                let hint = "if it was set up anew that is right; else somebody with the network key lied about it";
                self.notice(Fault::new(Code::KeyReplaced, text, hint).about(node_id), now);
            }
            _ => {}
        }
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.pin = Some(Pin { key, trust: Trust::Direct });
        }
        self.want_saved(Urgency::Soon, actions);
        true
    }
}

impl From<Verdict> for Reply {
    /// A reply to somebody who proved nothing.
    fn from(verdict: Verdict) -> Self {
        Self { verdict, caller: None }
    }
}

/// A node with this key is not in the list; `place` says how it was met.
pub(super) fn not_allowed(node_id: &NodeId, key: &PublicKey, place: &str) -> Fault {
    let text = format!("{} ({place})", not_listed(node_id, key));
    let hint = "add it to the list on all hosts, or find out who it is";
    Fault::new(Code::NotAllowed, text, hint).about(node_id)
}

pub(super) fn not_listed(node_id: &NodeId, key: &PublicKey) -> String {
    format!(
        "{node_id} with key {} is not in the list of nodes that may be in this network",
        key.fingerprint()
    )
}

/// A number has to leave room for higher ones, and above none.
pub(super) fn refuse_number(number: u64) -> Option<Verdict> {
    let is_one = (1..=NUMBER_MAX).contains(&number);
    let refusal = || Verdict::refuse(Reason::LimitExceeded, "the number is 0, or too high");
    (!is_one).then(refusal)
}

pub(super) fn replayed(number: u64) -> Verdict {
    let refusal = Refusal {
        reason: Reason::ReplayedNumber.code(),
        text: Text::new("a request with that number, or a higher one, was here already"),
        number,
        records: Vec::new(),
    };
    Verdict::Refuse(Reason::ReplayedNumber, Box::new(refusal))
}
