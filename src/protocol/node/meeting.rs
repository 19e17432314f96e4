//! Somebody answered a HELLO: who it is, and whether it is let in.

use super::answers::Ended;
use super::hello::not_allowed;
use super::{Action, Node, Now, give_up_doubtful};
use crate::protocol::address::Address;
use crate::protocol::fault::{Code, Fault};
use crate::protocol::flight::Call;
use crate::protocol::peer::Trust;
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::HelloAnswer;

impl Node {
    /// Somebody answered a HELLO and said who it is. The second step follows.
    pub(super) fn on_introduced(
        &mut self,
        ended: &Ended<'_>,
        answer: &HelloAnswer,
        actions: &mut Vec<Action>,
    ) {
        if self.is_me(&answer.node_id) {
            self.drop_address(ended);
            self.meet(answer, &ended.address, ended.now, actions);
            return;
        }
        if answer.node_id != *ended.node_id {
            // Whoever has another name for each caller is not followed from one to the next.
            self.drop_address(ended);
            return self.take_hint(&answer.node_id, &ended.address, ended.now, actions);
        }
        let hello = Call::Hello { address: ended.address.clone() };
        let again = self.peers.get(ended.node_id).is_some_and(|peer| peer.link.was_introduced);
        if again {
            let why = "it answers each HELLO with another session";
            return self.failed_for_now(ended, &hello, why, actions);
        }
        let link = self.peers.get(ended.node_id).map(|peer| &peer.link);
        if link.is_some_and(|link| link.has_begun_since(ended.began, answer.incarnation)) {
            let why = "it was started again while its answer was on its way";
            return self.failed(ended, &hello, why, actions);
        }
        if !self.meet(answer, &ended.address, ended.now, actions) {
            let why = self.why_not_met(answer);
            return self.failed_for_now(ended, &hello, why, actions);
        }
        if let Some(peer) = self.peers.get_mut(ended.node_id) {
            peer.link.was_introduced = true;
        }
        self.prove_address(ended, actions);
    }

    fn why_not_met(&self, answer: &HelloAnswer) -> &'static str {
        let (node_id, key) = (&answer.node_id, &answer.public_key);
        if !self.is_allowed(node_id, key) {
            "it answers, and is not in the list of allowed nodes with its key"
        } else if self.pinned_for_good(node_id).is_some_and(|pinned| pinned != *key) {
            "it answers with another key than the one that is pinned here"
        } else {
            "an earlier run of it answered"
        }
    }

    /// Somebody at `address` proved who it is, and that it answers now. Says whether it is let in.
    pub(super) fn meet(
        &mut self,
        answer: &HelloAnswer,
        address: &Address,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let node_id = &answer.node_id;
        if self.is_me(node_id) {
            if answer.incarnation != self.incarnation() {
                let text = format!(
                    "another node runs as {node_id} at {address} with key {} (this one has key {})",
                    answer.public_key.fingerprint(),
                    self.settings.public_key.fingerprint()
                );
                let hint = "give one of them another id";
                self.note_own(Fault::new(Code::IdConflict, text, hint).about(node_id), now);
            }
            return false;
        }
        if !self.is_allowed(node_id, &answer.public_key) {
            let place = format!("it is at {address}");
            self.note_own(not_allowed(node_id, &answer.public_key, &place), now);
            return false;
        }
        if let Some(pinned) = self.pinned_for_good(node_id).filter(|key| *key != answer.public_key)
        {
            let text = format!(
                "the node at {address} says that it is {node_id} with key {}, but key {} is pinned here",
                answer.public_key.fingerprint(),
                pinned.fingerprint(),
            );
            let hint = format!(
                "if the host was set up anew, `dsn forget {node_id}`; else give one of them another id"
            );
            self.note_own(Fault::new(Code::IdConflict, text, hint).about(node_id), now);
            return false;
        }
        let known = self.peers.get(node_id);
        if known.is_some_and(|peer| peer.link.superseded.contains(&answer.incarnation)) {
            // It was on its way while the node started again; or a twin lives there.
            return false;
        }
        if self.peer_or_new(node_id, Trust::Direct, now, actions).is_none() {
            return false;
        }
        self.pin(node_id, answer.public_key, now, actions);
        self.note_seen_from(&answer.seen, now, actions);
        let wait = self.wait(now);
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.begin_session(answer.incarnation, answer.session, wait);
            give_up_doubtful(node_id, peer, actions);
            if peer.place.prove(address, answer.advertise.clone()) {
                self.lives_at(node_id, address, actions);
            }
        }
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.contact.hurry(now.mono_ms);
            // It was called for a reason: the second step follows in a large network, too.
            peer.is_acquaintance = true;
            if peer.status == PeerStatus::Left && !peer.link.said_goodbye() {
                // It runs again; whether it lets us in is seen next.
                peer.status = PeerStatus::Suspect;
                peer.known_since = now.mono_ms;
            }
        }
        true
    }

    /// The peer took the second step of our HELLO.
    pub(super) fn on_welcomed(&mut self, ended: &Ended<'_>, actions: &mut Vec<Action>) {
        self.conflicts.lets_in(ended.node_id);
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        peer.link.connected = true;
        peer.link.refused = false;
        peer.link.was_introduced = false;
        peer.last_fault = None;
        peer.link.proved_at = Some(ended.now.mono_ms);
        // Whether it was worth it is seen by what comes next: who takes each HELLO, and then gives
        // no answer to anything, is waited for longer each time.
        peer.contact.hurry(ended.now.mono_ms);
        // Who asked nobody for a list yet lacks what this one holds: its view would say no more.
        let lacks_all = self.listed_at.is_none();
        peer.owed.peers |= lacks_all;
        peer.owed.ping |= !lacks_all;
        self.prove_address(ended, actions);
        self.heard(ended.node_id, ended.now, actions);
    }
}
