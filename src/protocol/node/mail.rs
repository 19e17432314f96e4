//! What waits for peers that can call this node and can't be called by it: it goes in the answers
//! to their PINGs. So two that nobody can call hear of each other by whoever both of them call.

use super::answers::Ended;
use super::probing::UNCALLED_TICKS;
use super::{Action, CheckedWord, Node, Now};
use crate::order::{sort, sort_by};
use crate::protocol::doubt::{Accused, Accuser, Favour, Kept};
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::PeerStatus;
use crate::protocol::wire::{
    ASKS_MAX, Ask, Challenge, Mail, SUSPECTS_MAX, Suspected, WORDS_MAX, Word,
};

/// How long mail waits, ticks: who can be called by nobody calls all others at each tick, and one
/// of these calls may get lost.
pub(super) const MAIL_TICKS: u64 = 2;
/// Most words that wait for the call of one peer, and of all: as many as it may ask for at a time
/// of each of a few others.
const KEPT_OF_ONE_MAX: usize = 16;
const KEPT_MAX: usize = 128;
/// How much time the steps of a doubt have where what is asked goes by mail, and what comes of it,
/// too, ticks: to the next call of the other one, and to the next one of this node.
const FAR_STEP_TICKS: u64 = 3;

/// The side that can be called.
impl Node {
    /// Whether what is told to a peer waits for its next call: it calls this node, and the last
    /// call to it came to nothing.
    pub(super) fn takes_mail(&self, node_id: &NodeId, now: Now) -> bool {
        let most_ms = MAIL_TICKS * self.settings.tick_ms;
        let calls = |peer: &Peer| peer.link.has_called_within(most_ms, now.mono_ms);
        self.peers.get(node_id).is_some_and(|peer| peer.contact.is_failing() && calls(peer))
    }

    /// What came of an ask waits for the next call of who asked.
    pub(super) fn keep_word(&mut self, asker: &NodeId, word: Word, now: Now) {
        let of_it = |kept: &&Kept| kept.asker == *asker;
        let count = self.probing.kept.iter().filter(of_it).count();
        if count < KEPT_OF_ONE_MAX && self.probing.kept.len() < KEPT_MAX {
            let until = now.mono_ms + MAIL_TICKS * self.settings.tick_ms;
            self.probing.kept.push(Kept { asker: asker.clone(), word, until, told: 0 });
        }
    }

    /// What waits for a peer that calls, if it can't be called; what was told least comes first.
    /// Nothing of it is taken away: this answer may get lost, and a next one says the same until
    /// that is old.
    pub(super) fn mail_for(&mut self, to: &NodeId, now: Now) -> Option<Mail> {
        if !self.takes_mail(to, now) {
            return None;
        }
        let asked = self.probing.favours.iter().enumerate();
        let asked = asked.filter(|(_, favour)| favour.ask.about == *to);
        let asked = least_told(asked.map(|(at, favour)| (favour.told, at)), ASKS_MAX);
        let kept = self.probing.kept.iter().enumerate().filter(|(_, kept)| kept.asker == *to);
        let kept = least_told(kept.map(|(at, kept)| (kept.told, at)), WORDS_MAX);
        let mut mail = Mail { suspects: self.accusations_for(to, now), ..Mail::default() };
        for at in asked {
            if let Some(favour) = self.probing.favours.get_mut(at) {
                favour.told = favour.told.saturating_add(1);
                mail.asks.push(favour.ask.challenge);
            }
        }
        for at in kept {
            if let Some(kept) = self.probing.kept.get_mut(at) {
                kept.told = kept.told.saturating_add(1);
                mail.words.push(kept.word.clone());
            }
        }
        let is_any = mail != Mail::default();
        self.probing.mails += usize::from(is_any);
        is_any.then_some(mail)
    }

    /// The accusations that a peer hears; others each time, where there are more than fit.
    fn accusations_for(&self, to: &NodeId, now: Now) -> Vec<Suspected> {
        let own = self.peers.get(to).into_iter().map(|peer| (to, peer));
        // Nothing is due to those that rest: they are alive.
        let others = self.peers.awake().filter(|(id, _)| *id != to);
        let all = own.chain(others).filter_map(|(id, peer)| self.accusation(id, peer, to, now));
        let mut all: Vec<Suspected> = all.collect();
        let from = self.probing.mails.saturating_mul(SUSPECTS_MAX).checked_rem(all.len());
        all.rotate_left(from.unwrap_or_default());
        all.truncate(SUSPECTS_MAX);
        sort_by(&mut all, |left, right| left.node_id.cmp(&right.node_id));
        all
    }

    /// A peer can be called again: what waited for its call is brought to it.
    pub(super) fn bring_mail(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let favours = self.probing.favours.iter().filter(|favour| favour.ask.about == *node_id);
        let asks: Vec<Ask> = favours.map(|favour| favour.ask.clone()).collect();
        let kept = std::mem::take(&mut self.probing.kept).into_iter();
        let (brought, kept): (Vec<Kept>, Vec<Kept>) = kept.partition(|kept| kept.asker == *node_id);
        self.probing.kept = kept;
        brought.into_iter().for_each(|kept| self.owe_word(node_id, kept.word));
        asks.into_iter().for_each(|ask| self.owe_ask(node_id, ask));
        self.poke(node_id, now, actions);
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
        favours.find(|favour| favour.ask.about == *about && favour.ask.challenge == *challenge)
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
        let pause_ms = self.settings.tick_ms / 2;
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        let is_due = |at: u64| ended.now.mono_ms.saturating_sub(at) >= pause_ms;
        if mail.asks.is_empty() || !peer.watch.mail_at.is_none_or(is_due) {
            // The same question comes until its answer is there.
            return;
        }
        peer.watch.mail_at = Some(ended.now.mono_ms);
        for challenge in mail.asks {
            // It is signed as it is sealed.
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
        let is_far = self.peers.get(node_id).is_some_and(Peer::can_not_be_called);
        usual_ms.max(if is_far { FAR_STEP_TICKS * tick_ms } else { tick_ms + tick_ms / 3 })
    }
}

/// The places of those that were told least, the first ones of them: how often each was told, and
/// its place, come in.
fn least_told(items: impl Iterator<Item = (u32, usize)>, most: usize) -> Vec<usize> {
    let mut items: Vec<(u32, usize)> = items.collect();
    sort(&mut items);
    items.into_iter().take(most).map(|(_, place)| place).collect()
}
