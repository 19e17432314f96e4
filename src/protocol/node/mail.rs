//! What waits for peers that can call this node and can't be called by it: it goes in the answers
//! to their PINGs. So two that nobody can call hear of each other by whoever both of them call.

use super::answers::Ended;
use super::probing::UNCALLED_TICKS;
use super::{Action, CheckedWord, Node, Now};
use crate::protocol::doubt::{Accused, Accuser, Favour};
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::{ASKS_MAX, Challenge, Mail, SUSPECTS_MAX, Suspected, WORDS_MAX, Word};

/// How long mail waits, ticks: who can be called by nobody calls all others at each tick, and one
/// of these calls may get lost.
pub(super) const MAIL_TICKS: u64 = 2;
/// How much time the steps of a doubt have where what is asked goes by mail, and what comes of it,
/// too, ticks: to the next call of the other one, and to the next one of this node.
const FAR_STEP_TICKS: u64 = 3;

/// The side that can be called.
impl Node {
    /// Whether what is told to a peer waits for its next call: it calls this node, and the last
    /// call to it came to nothing.
    pub(super) fn takes_mail(&self, node_id: &NodeId, now: Now) -> bool {
        let enough_ms = MAIL_TICKS * self.settings.tick_ms;
        let calls = |peer: &Peer| {
            let called_at = peer.link.called_at;
            called_at.is_some_and(|at| now.mono_ms.saturating_sub(at) <= enough_ms)
        };
        self.peers.get(node_id).is_some_and(|peer| peer.contact.is_failing() && calls(peer))
    }

    /// What waits for a peer that calls, if it can't be called. Nothing of it is taken away: this
    /// answer may get lost, and the next one says the same until that is old.
    pub(super) fn mail_for(&self, to: &NodeId, now: Now) -> Option<Mail> {
        if !self.takes_mail(to, now) {
            return None;
        }
        let favours = self.probing.favours.iter();
        let is_open = |favour: &&Favour| favour.ask.about == *to && favour.word.is_none();
        let asks = favours.clone().filter(is_open).map(|favour| favour.ask.challenge);
        let asks: Vec<Challenge> = asks.take(ASKS_MAX).collect();
        let words = favours.filter(|favour| favour.ask.asker == *to);
        let words = words.filter_map(|favour| favour.word.clone());
        let words: Vec<Word> = words.take(WORDS_MAX).collect();
        let suspects =
            self.peers.iter().filter_map(|(id, peer)| self.accusation(id, peer, to, now));
        let suspects: Vec<Suspected> = suspects.take(SUSPECTS_MAX).collect();
        let mail = Mail { asks, words, suspects };
        (mail != Mail::default()).then_some(mail)
    }

    /// What a peer that calls hears of an accusation: one against itself, or one against another
    /// node, once that had its time to refute it and is lost here. A node that can only call
    /// refutes too late for those that can only call, too.
    fn accusation(&self, id: &NodeId, peer: &Peer, to: &NodeId, now: Now) -> Option<Suspected> {
        let enough_ms = MAIL_TICKS * self.settings.tick_ms;
        let is_new = |at: u64| now.mono_ms < at.saturating_add(enough_ms);
        // By its call it is there, and nothing stands against it here any more.
        let own = peer.watch.accused_version.filter(|_| peer.watch.accused_at.is_some_and(is_new));
        let counts = |accused: &&Accused| {
            let is_blind = accused.by == Accuser::Silent && self.probing.is_cut_off;
            peer.status == PeerStatus::Lost && is_new(accused.until) && !is_blind
        };
        let others = peer.watch.accused.as_ref().filter(counts).map(|accused| accused.fingerprint);
        let fingerprint = if id == to { own } else { others }?;
        Some(Suspected { node_id: id.clone(), fingerprint })
    }

    /// What was asked of this node under a challenge, for somebody else.
    pub(super) fn favour_under(&self, about: &NodeId, challenge: &Challenge) -> Option<&Favour> {
        let mut favours = self.probing.favours.iter();
        favours.find(|favour| {
            let ask = &favour.ask;
            ask.about == *about && ask.challenge == *challenge && favour.word.is_none()
        })
    }

    /// One that can't be called answered by itself what others asked of it.
    pub(super) fn on_favoured(
        &mut self,
        about: &NodeId,
        challenge: &Challenge,
        word: &CheckedWord,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let CheckedWord::Here(here) = word else { return };
        let ask = self.favour_under(about, challenge).map(|favour| favour.ask.clone());
        if let Some(ask) = ask {
            self.end_favour(&ask, Some(here), now, actions);
        }
    }
}

/// The side that can't.
impl Node {
    /// What a peer could not bring here came with the answer to a PING.
    pub(super) fn on_mail(
        &mut self,
        ended: &Ended<'_>,
        mail: Mail,
        words: Vec<CheckedWord>,
        actions: &mut Vec<Action>,
    ) {
        self.on_words(words, ended.now, actions);
        self.on_suspects(mail.suspects, ended.now, actions);
        for challenge in mail.asks {
            // It is signed as it is sealed. The same question comes until its answer is there.
            let about = self.settings.node_id.clone();
            self.owe_word(ended.node_id, Word { about, challenge, signature: None });
        }
        self.poke(ended.node_id, ended.now, actions);
    }

    /// How long a step of what stands against a peer takes, ms, where it takes so long else: what
    /// comes of it comes by mail if nobody can call this node. Where that peer can't be called
    /// either, and was there all the same, it waits for a call of both.
    pub(super) fn step_ms(&self, node_id: &NodeId, usual_ms: u64, now: Now) -> u64 {
        if !self.is_uncalled(UNCALLED_TICKS, now) {
            return usual_ms;
        }
        let tick_ms = self.settings.tick_ms;
        let is_far = |peer: &Peer| peer.contact.is_failing() && peer.watch.far.is_failing();
        let is_far = self.peers.get(node_id).is_some_and(is_far);
        usual_ms.max(if is_far { FAR_STEP_TICKS * tick_ms } else { tick_ms + tick_ms / 3 })
    }
}
