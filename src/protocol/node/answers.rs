//! What comes back: what a call that ended means, one function for each kind of call.

use super::{
    Action, Job, Judgement, Node, Now, Outcome, RETRY_DELAY_MS, TRIES, Target, give_up,
    give_up_doubtful, place_text,
};
use crate::protocol::address::Address;
use crate::protocol::errand::Errands;
use crate::protocol::flight::{Call, Flight, Ticket};
use crate::protocol::head::Fingerprint;
use crate::protocol::identity::NodeId;
use crate::protocol::pace::WAIT_MAX_MS;
use crate::protocol::peer::Peer;
use crate::protocol::report::PeerStatus;

/// A call that ended.
pub(super) struct Ended<'a> {
    pub(super) node_id: &'a NodeId,
    /// Tries made so far.
    pub(super) tries: u32,
    /// Where it went.
    pub(super) address: Address,
    /// When it began, ms.
    pub(super) began: u64,
    pub(super) now: Now,
}

impl Node {
    /// Takes what became of a job, and how long its last try took, microseconds.
    pub fn on_answer(
        &mut self,
        job: &Job,
        outcome: Outcome,
        elapsed_us: u64,
        now: Now,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        match &job.target {
            Target::Seed(address) => {
                self.on_seed_answer(address, job.flight, outcome, now, &mut actions);
            }
            Target::Peer(node_id) => {
                self.on_peer_answer(node_id, job.flight, outcome, elapsed_us, now, &mut actions);
                self.poke(node_id, now, &mut actions);
            }
        }
        actions
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
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let Some(done) = peer.flight.take_if(|current| current.id == flight) else { return };
        let Flight { call: Some(mut call), address: Some(address), tries, began, .. } = done else {
            return;
        };
        let was_pull = matches!(call, Call::Pull { .. });
        peer.was_answered = !matches!(outcome, Outcome::Failed(_));
        let outcome = other_key_next(outcome, &mut peer.network_key);
        if matches!(outcome, Outcome::Failed(_)) {
            self.note_in_vain(now);
        } else {
            self.note_answer(now);
        }
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        match outcome {
            Outcome::Failed(_) => peer.unanswered.insert(call.kind(), ()),
            _ => peer.unanswered.remove(&call.kind()),
        };
        let errands = match &mut call {
            Call::Push { errands, .. } => std::mem::take(errands),
            _ => Errands::default(),
        };
        match &outcome {
            Outcome::Nothing => {}
            Outcome::Refused(refusal, _) => {
                self.errands_refused(node_id, errands, refusal, now, actions);
            }
            _ => self.errands_failed(node_id, errands, now, actions),
        }
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let ended = Ended { node_id, tries, address, began, now };
        match outcome {
            Outcome::Failed(why) => self.failed(&ended, &call, &why, actions),
            Outcome::Refused(refusal, held) => {
                self.refused(&ended, call, refusal, held, actions);
            }
            outcome => {
                peer.attempts.remove(&call.kind());
                self.answered(&ended, call, outcome, elapsed_us, actions);
            }
        }
        if was_pull {
            self.settle_wants(now, actions);
        }
    }

    fn answered(
        &mut self,
        ended: &Ended<'_>,
        call: Call,
        outcome: Outcome,
        elapsed_us: u64,
        actions: &mut Vec<Action>,
    ) {
        match (call, outcome) {
            (Call::Hello { .. }, Outcome::Introduced(answer)) => {
                self.on_introduced(ended, answer.message(), actions);
            }
            (Call::Hello { .. }, Outcome::Welcomed(proof))
                if self.key_of(ended.node_id) == Some(proof.signer()) =>
            {
                self.on_welcomed(ended, actions);
            }
            (Call::Ping { waiting }, Outcome::Pong(pong, words))
                if self.is_from(ended, pong.signer()) =>
            {
                self.succeeded(ended, actions);
                let (pong, _) = pong.into_parts();
                self.note_view(ended.node_id, pong.view, ended.now);
                self.probing.health.note(false);
                self.on_pong(ended, waiting, elapsed_us, actions);
                if let Some(twin) = &pong.twin {
                    self.note_own_twin(ended.node_id, twin, ended.now);
                }
                if let Some(mail) = pong.mail {
                    self.on_mail(ended, mail, words, actions);
                }
            }
            (Call::Peers, Outcome::Listed(answer)) if self.is_from(ended, answer.signer()) => {
                self.succeeded(ended, actions);
                let (answer, _) = answer.into_parts();
                if !self.compare(ended.node_id, answer, ended.now, actions) {
                    self.exchange_came_to_nothing(ended);
                }
            }
            (Call::Data { ticket, .. }, Outcome::Accepted(proof))
                if self.is_from(ended, proof.signer()) =>
            {
                self.succeeded(ended, actions);
                if let Some(peer) = self.peers.get_mut(ended.node_id) {
                    peer.owed.data.retain(|data| data.ticket != ticket);
                }
                actions.push(Action::Finish(ticket, Ok(elapsed_us)));
            }
            (Call::Push { own, gives, .. }, Outcome::Nothing) => {
                self.on_taken(ended, own, gives, actions);
            }
            (Call::Pull { .. }, Outcome::Records(records)) => {
                let mut last = None;
                for record in records {
                    let node_id = record.head.node_id.clone();
                    if matches!(self.take(record, ended.now, actions), Judgement::News) {
                        last = last.max(Some(node_id));
                    }
                }
                self.on_pulled(ended, last.as_ref());
            }
            (Call::Pull { .. }, Outcome::Nothing) => self.on_pulled(ended, None),
            (Call::Tell(tell), Outcome::Nothing) => self.on_told(ended, &tell, None, actions),
            (Call::Tell(tell), Outcome::Here(here)) => {
                self.answers_others(ended, actions);
                self.on_told(ended, &tell, Some(&here), actions);
            }
            (call, _) => {
                let why = "it gave an answer that makes no sense";
                self.failed_for_now(ended, &call, why, actions);
            }
        }
    }

    fn is_from(&self, ended: &Ended<'_>, signer: crate::protocol::identity::PublicKey) -> bool {
        self.key_of(ended.node_id) == Some(signer)
    }

    /// A call came back with the peer's signature: it is there, and lets us in.
    fn succeeded(&mut self, ended: &Ended<'_>, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        peer.link.proved_at = Some(ended.now.mono_ms);
        peer.last_fault = None;
        self.prove_address(ended, actions);
        self.heard(ended.node_id, ended.now, actions);
    }

    /// The peer answered there with its signature.
    pub(super) fn prove_address(&mut self, ended: &Ended<'_>, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        if peer.place.prove_address(&ended.address) {
            self.lives_at(ended.node_id, &ended.address, actions);
        }
    }

    /// A node answered where it never did before: the try was not in vain, and whoever answered
    /// there until now has to prove it again, as one address is one node.
    pub(super) fn lives_at(
        &mut self,
        node_id: &NodeId,
        address: &Address,
        actions: &mut Vec<Action>,
    ) {
        let lived = |(other, peer): &(&NodeId, &Peer)| {
            *other != node_id && peer.place.proved() == Some(address)
        };
        let others: Vec<NodeId> =
            self.peers.iter().filter(lived).map(|(other, _)| other.clone()).collect();
        for other in others {
            if let Some(peer) = self.peers.get_mut(&other) {
                peer.place.unprove(address);
            }
        }
        self.give_try_back(address);
        self.want_saved(super::Urgency::Late, actions);
    }

    fn on_pong(
        &mut self,
        ended: &Ended<'_>,
        waiting: Option<Ticket>,
        elapsed_us: u64,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        // This alone says that all is well: what answers other calls, and not the one that comes
        // behind each HELLO, is not called anew at once for ever.
        let had_mail = peer.contact.is_failing();
        peer.contact.succeeded();
        peer.watch.far.succeeded();
        peer.watch.via = None;
        peer.note_round_trip(elapsed_us);
        if let Some(ticket) = waiting.filter(|ticket| peer.owed.pings.contains(ticket)) {
            peer.owed.pings.retain(|other| *other != ticket);
            actions.push(Action::Finish(ticket, Ok(elapsed_us)));
        }
        if had_mail {
            self.bring_mail(ended.node_id, ended.now, actions);
        }
    }

    /// An UPDATE was taken: the peer holds what was in it.
    pub(super) fn on_taken(
        &mut self,
        ended: &Ended<'_>,
        own: Option<Fingerprint>,
        gives: bool,
        actions: &mut Vec<Action>,
    ) {
        let wait = self.wait(ended.now);
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        peer.push.succeeded();
        if let Some(own) = own {
            peer.note_brought(own, wait);
            peer.link.own.held = Some(own);
        }
        let home = peer.record.as_ref().and_then(|record| record.head.home.address.as_ref());
        if home == Some(&ended.address) {
            // Its record says with its signature that it lives there, and somebody of the network
            // answers there as that run of it.
            self.prove_address(ended, actions);
        }
        self.took(ended);
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        // Whether that was all that it lacked is seen by its view.
        peer.owed.ping |= gives && peer.owed.send.is_empty();
    }

    /// Something was taken, or given, where the peer lives. In a large network most are brought
    /// changes and never called, so that nothing else would say that they can be reached again.
    pub(super) fn took(&mut self, ended: &Ended<'_>) {
        if let Some(peer) = self.peers.get_mut(ended.node_id)
            && peer.place.proved() == Some(&ended.address)
        {
            peer.last_fault = None;
        }
    }

    /// Wishes were answered, the last of those that brought something new being this one's. What
    /// was left out before that is not there; what comes behind it may not have fitted.
    pub(super) fn on_pulled(&mut self, ended: &Ended<'_>, last: Option<&NodeId>) {
        let wait = self.wait(ended.now);
        self.took(ended);
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        if let Some(last) = last {
            peer.exchange.succeeded();
            peer.pull.succeeded();
            // It brought something new: that request, and the list before it, were none too many.
            peer.upkeep = peer.upkeep.saturating_sub(2);
            peer.owed.want.retain(|wanted, _| wanted > last);
            if peer.owed.want.is_empty() {
                peer.has_all();
            }
        } else {
            peer.owed.want.clear();
            peer.pull.came_to_nothing(wait, WAIT_MAX_MS);
            self.exchange_came_to_nothing(ended);
        }
    }

    /// The views differ, and nothing follows from it: it is looked at again ever more rarely.
    pub(super) fn exchange_came_to_nothing(&mut self, ended: &Ended<'_>) {
        let wait = self.wait(ended.now);
        if let Some(peer) = self.peers.get_mut(ended.node_id) {
            peer.exchange.came_to_nothing(wait, WAIT_MAX_MS);
            peer.owed.peers = false;
            // Where the list was asked for in its place.
            peer.owed.ping |= peer.round_trip_us.is_none() || peer.contact.is_failing();
        }
    }

    /// No answer: tried again twice, 0.5 s apart, then left to the pace.
    pub(super) fn failed(
        &mut self,
        ended: &Ended<'_>,
        call: &Call,
        why: &str,
        actions: &mut Vec<Action>,
    ) {
        if let Call::Tell(tell) = call {
            return self.tell_in_vain(ended, tell, actions);
        }
        let (node_id, now) = (ended.node_id, ended.now);
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        owe_again(peer, call);
        if let Call::Data { ticket, session } = call {
            peer.note_doubt(*ticket, *session);
        }
        give_up_doubtful(node_id, peer, actions);
        let was_reached = peer.place.proved() == Some(&ended.address);
        let was_in_vain = match call {
            Call::Push { own, gives, .. } => {
                // What of others it lacks its next list says again.
                let gives_only = *gives && own.is_none() && peer.owed.errands.is_empty();
                own.is_some() && peer.push.is_failing() || gives_only
            }
            Call::Pull { .. } => peer.pull.is_failing(),
            Call::Peers => peer.exchange.is_failing(),
            Call::Hello { .. } | Call::Ping { .. } | Call::Data { .. } => {
                peer.status == PeerStatus::Lost
            }
            Call::Tell(_) => true,
        };
        let is_hello = matches!(call, Call::Hello { .. });
        if ended.tries < TRIES
            && !was_in_vain
            && (was_reached || is_hello && self.grant_again(node_id, &ended.address))
            && let Some(peer) = self.peers.get_mut(node_id)
        {
            let at = now.mono_ms + RETRY_DELAY_MS;
            peer.note_fault(why, now.mono_ms);
            peer.attempts.change(&call.kind(), |it| (it.tries, it.at) = (ended.tries, at));
            actions.push(Action::WakeAt(at));
            return self.note_failed(ended, call, actions);
        }
        self.failed_for_now(ended, call, why, actions);
    }

    /// What a call that came to nothing says of the peer: what asks whether it is there brings it
    /// into doubt, and after anything else it is asked.
    fn note_failed(&mut self, ended: &Ended<'_>, call: &Call, actions: &mut Vec<Action>) {
        if matches!(call, Call::Hello { .. } | Call::Ping { .. }) {
            self.probe_failed(ended, actions);
        } else if let Some(peer) = self.peers.get_mut(ended.node_id) {
            peer.owed.ping |= peer.is_doubtable();
        }
    }

    /// The call came to nothing, whatever the reason: the peer is left alone for a while.
    pub(super) fn failed_for_now(
        &mut self,
        ended: &Ended<'_>,
        call: &Call,
        why: &str,
        actions: &mut Vec<Action>,
    ) {
        let wait = self.wait(ended.now);
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        owe_again(peer, call);
        peer.note_fault(why, ended.now.mono_ms);
        peer.attempts.remove(&call.kind());
        peer.link.connected = false;
        peer.link.was_introduced = false;
        let has_new_hint = peer.place.has_new_hint();
        peer.contact.came_to_nothing(wait, WAIT_MAX_MS);
        match call {
            Call::Hello { address } => peer.place.tried_in_vain(address),
            Call::Push { own, gives, .. } => {
                peer.owed.errands = Errands::default();
                // It may be large, and who answers all else would get it again and again.
                if let Some(own) = own {
                    peer.push.came_to_nothing(wait, WAIT_MAX_MS);
                    peer.note_brought(*own, wait);
                }
                if *gives {
                    // Its next list says what it lacks still.
                    peer.owed.send.clear();
                }
            }
            Call::Pull { .. } => peer.pull.came_to_nothing(wait, WAIT_MAX_MS),
            Call::Peers => peer.exchange.came_to_nothing(wait, WAIT_MAX_MS),
            Call::Ping { .. } | Call::Data { .. } | Call::Tell(_) => {}
        }
        if has_new_hint && peer.place.has_new_hint() {
            // Another place is named that was not tried yet.
            peer.contact.hurry(wait.now_ms + wait.tick_ms / 2);
        }
        let why = format!("{}: {why}", place_text(Some(&ended.address)));
        give_up(ended.node_id, peer, &why, actions);
        self.note_failed(ended, call, actions);
    }

    /// Another node answers at this address: it is tried no more for this one.
    pub(super) fn drop_address(&mut self, ended: &Ended<'_>) {
        let wait = self.wait(ended.now);
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        let why = format!("another node answers at {}", ended.address);
        peer.note_fault(&why, ended.now.mono_ms);
        peer.place.drop_address(&ended.address);
        peer.link.connected = false;
        peer.contact.came_to_nothing(wait, WAIT_MAX_MS);
    }
}

/// While the network changes its key, some nodes have the new one only, some the old one only: the
/// next try is sealed with another one.
pub(super) fn other_key_next(outcome: Outcome, network_key: &mut usize) -> Outcome {
    match outcome {
        Outcome::NotOpened(why) => {
            *network_key = network_key.wrapping_add(1);
            Outcome::Failed(why)
        }
        other => other,
    }
}

/// What a call that came to nothing was for is owed again.
fn owe_again(peer: &mut Peer, call: &Call) {
    match call {
        Call::Hello { .. }
        | Call::Push { .. }
        | Call::Pull { .. }
        | Call::Data { .. }
        | Call::Tell(_) => {}
        Call::Ping { .. } => peer.owed.ping = true,
        Call::Peers => peer.owed.peers = true,
    }
}
