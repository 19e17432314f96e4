//! What comes back as a refusal: whether the call has a second chance, or is over.

use super::answers::Ended;
use super::{Action, Node, give_up_doubtful};
use crate::protocol::fault::{Code, Fault};
use crate::protocol::flight::{Attempt, Call, Ticket};
use crate::protocol::head::Fingerprint;
use crate::protocol::identity::Session;
use crate::protocol::peer::NUMBER_MAX;
use crate::protocol::record::SignedHead;
use crate::protocol::report::Refused;
use crate::protocol::verdict::Reason;
use crate::protocol::verified::Verified;
use crate::protocol::wire::Refusal;

/// What an operator does where another node does not let this one in.
pub(super) const REFUSED_ADVICE: &str =
    "do there what it says; it is asked again and again, and lets this node in when that is done";

impl Node {
    pub(super) fn refused(
        &mut self,
        ended: &Ended<'_>,
        call: Call,
        refusal: Refusal,
        held: Option<Verified<SignedHead>>,
        actions: &mut Vec<Action>,
    ) {
        let text = refusal.text.as_str();
        let Some(reason) = Reason::from_code(refusal.reason) else {
            return self.failed_for_now(ended, &call, text, actions);
        };
        if let Call::Tell(tell) = &call {
            return self.tell_refused(ended, tell, reason, actions);
        }
        match reason {
            Reason::Internal => self.failed(ended, &call, text, actions),
            Reason::UnknownSender
            | Reason::WrongSession
            | Reason::ReplayedNumber
            | Reason::Forgotten => {
                if let Call::Data { ticket, session } = call {
                    self.data_in_doubt(ended, (ticket, session), reason, text, actions);
                }
                if !self.has_second_chance(ended, &call, reason, refusal.number) {
                    self.failed_for_now(ended, &call, text, actions);
                }
            }
            _ => self.refused_for_good(ended, call, reason, refusal, held, actions),
        }
    }

    fn refused_for_good(
        &mut self,
        ended: &Ended<'_>,
        call: Call,
        reason: Reason,
        refusal: Refusal,
        held: Option<Verified<SignedHead>>,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        peer.attempts.remove(&call.kind());
        let text = refusal.text.as_str();
        if reason == Reason::WrongReceiver {
            // Another node answers there: that says nothing of what the peer would take.
            peer.place.drop_address(&ended.address);
            if let Call::Data { ticket, .. } = call {
                self.data_refused(ended, ticket, reason, text, actions);
            }
            return self.failed_for_now(ended, &call, text, actions);
        }
        match call {
            Call::Push { own, partial, gives, .. } => {
                self.push_refused(ended, (own, partial), gives, &refusal, held, actions);
            }
            Call::Pull { .. } => self.on_pulled(ended, None),
            Call::Peers => self.exchange_came_to_nothing(ended),
            Call::Data { ticket, .. } => {
                self.data_refused(ended, ticket, reason, text, actions);
            }
            Call::Tell(_) => {}
            Call::Hello { .. } | Call::Ping { .. } => {
                self.turned_away(ended, &call, reason, text, actions);
            }
        }
    }

    /// A HELLO, or a higher number, puts this right; then the call is made again. Each call has
    /// this chance once, or two nodes that disagree would go on for ever.
    fn has_second_chance(
        &mut self,
        ended: &Ended<'_>,
        call: &Call,
        reason: Reason,
        number: u64,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return false };
        let had_chance = |it: &mut Attempt| std::mem::replace(&mut it.had_second_chance, true);
        if number > NUMBER_MAX || peer.attempts.change(&call.kind(), had_chance) {
            return false;
        }
        peer.attempts
            .change(&call.kind(), |it| (it.tries, it.at) = (ended.tries, ended.now.mono_ms));
        match call {
            Call::Ping { .. } => peer.owed.ping = true,
            Call::Peers => peer.owed.peers = true,
            Call::Hello { .. }
            | Call::Push { .. }
            | Call::Pull { .. }
            | Call::Data { .. }
            | Call::Tell(_) => {}
        }
        if reason == Reason::ReplayedNumber {
            peer.link.number_out = peer.link.number_out.max(number);
        } else {
            // A HELLO in the same session says whether it is over.
            peer.link.connected = false;
            peer.contact.hurry(ended.now.mono_ms);
        }
        true
    }

    /// Some of what was pushed was refused. That is final for these versions, whoever is right.
    fn push_refused(
        &mut self,
        ended: &Ended<'_>,
        (own, partial): (Option<Fingerprint>, bool),
        gives: bool,
        refusal: &Refusal,
        held: Option<Verified<SignedHead>>,
        actions: &mut Vec<Action>,
    ) {
        let own_id = &self.settings.node_id;
        let of_own = refusal.records.iter().find(|record| record.node_id == *own_id);
        let reason = of_own.map(|record| record.reason);
        // Where none is named, all of it was refused.
        let own_is_taken = own.is_some() && reason.is_none() && !refusal.records.is_empty();
        self.on_taken(ended, own.filter(|_| own_is_taken), gives, actions);
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        if let Some(own) = own.filter(|_| !own_is_taken) {
            // A patch does not name its key: the later version that is held may be that of another
            // node under our name, and then nothing proves that it is ours.
            let is_anothers = reason == Some(Reason::Stale.code()) && held.is_none();
            if partial && (is_anothers || reason == Some(Reason::LacksBase.code())) {
                // Next it gets the whole record.
                peer.link.own.held = None;
            } else {
                peer.link.own.refused = Some(own);
            }
        }
        if let Some(held) = held.filter(|held| self.is_me(&held.head.node_id)) {
            self.catch_up(&held.head, ended.now, actions);
        }
    }

    /// The number was there already, or the session was over though the peer had proved it a moment
    /// ago: somebody who listens may have brought the message before. In the same session the peer
    /// knows it by its id; it is not sent in another one.
    fn data_in_doubt(
        &mut self,
        ended: &Ended<'_>,
        (ticket, session): (Ticket, Session),
        reason: Reason,
        text: &str,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        if reason == Reason::ReplayedNumber {
            peer.note_doubt(ticket, session);
            return give_up_doubtful(ended.node_id, peer, actions);
        }
        peer.owed.data.retain(|data| data.ticket != ticket);
        let why = format!(
            "{text} while the message was on its way; it may have been delivered all the same"
        );
        let refused = Refused::Unreachable { node_id: ended.node_id.clone(), why };
        actions.push(Action::Finish(ticket, Err(refused)));
    }

    fn data_refused(
        &mut self,
        ended: &Ended<'_>,
        ticket: Ticket,
        reason: Reason,
        text: &str,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        let tried = peer.owed.data.iter().find(|data| data.ticket == ticket);
        let doubtful = tried.is_some_and(|data| data.doubtful_in.is_some());
        let maybe = if doubtful { "; an earlier try may have been delivered" } else { "" };
        peer.owed.data.retain(|data| data.ticket != ticket);
        let why = format!("{reason}: {text}{maybe}");
        let refused = Refused::ByPeer { node_id: ended.node_id.clone(), why };
        actions.push(Action::Finish(ticket, Err(refused)));
    }

    /// The peer does not want to have to do with us.
    fn turned_away(
        &mut self,
        ended: &Ended<'_>,
        call: &Call,
        reason: Reason,
        text: &str,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        peer.link.refused |= matches!(call, Call::Hello { .. });
        let sentence = format!("this node was refused ({reason}): {text}");
        let fault = Fault::new(Code::Refused, sentence, REFUSED_ADVICE).about(ended.node_id);
        self.note_answered(fault, ended.node_id, ended.address.as_str(), ended.now);
        let why = format!("it refused: {reason}: {text}");
        self.failed_for_now(ended, call, &why, actions);
    }
}
