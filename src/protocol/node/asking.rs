//! What goes to a peer beside records: whom others are asked to try, what came of it, and who is
//! accused.

use super::answers::Ended;
use super::mail::MAIL_TICKS;
use super::{Action, Node, Now, RETRY_DELAY_MS, TRIES};
use crate::protocol::doubt::{Asked, Favour, Tell};
use crate::protocol::flight::{Attempt, Call, CallKind};
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::peer::Peer;
use crate::protocol::report::PeerStatus;
use crate::protocol::verdict::Reason;
use crate::protocol::verified::Verified;
use crate::protocol::wire::{
    ASKS_MAX, Ask, Challenge, Here, Push, Request, SUSPECTS_MAX, Suspected, WORDS_MAX, Word,
};

/// Most asks of others that are pending here: each costs a request.
const FAVOURS_MAX: usize = 16;
/// Most asks, and most words, that wait to be sent to one peer.
pub(super) const OWED_TELLS_MAX: usize = 32;

/// What came of an ask of ours, checked.
#[derive(Debug)]
pub enum CheckedWord {
    /// The node is there.
    Here(Verified<Here>),
    /// It was tried in vain, under this challenge.
    InVain(NodeId, Challenge),
}

impl Node {
    fn asked_under(&mut self, ask: &Ask) -> Option<&mut Asked> {
        self.peers.get_mut(&ask.about)?.watch.asked_under(&ask.challenge)
    }

    /// The key to check a word with, where we wait for one under its challenge, or do a favour by
    /// it.
    pub fn awaits(&self, word: &Word) -> Option<PublicKey> {
        let peer = self.peers.get(&word.about)?;
        let is_open = peer.watch.asked().any(|asked| asked.challenge == word.challenge);
        let is_favour = self.favour_under(&word.about, &word.challenge).is_some();
        (is_open || is_favour).then_some(peer.pin?.key)
    }

    /// Somebody wants to know whether a third one is there. Gives what is to be signed where that
    /// is us.
    pub(super) fn on_asks(
        &mut self,
        asks: Vec<Ask>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Option<Challenge> {
        let mut challenge = None;
        for ask in asks {
            if self.is_me(&ask.about) {
                challenge.get_or_insert(ask.challenge);
            } else if !self.is_me(&ask.asker) && self.probing.favours.len() < FAVOURS_MAX {
                self.do_favour(ask, now, actions);
            }
        }
        challenge
    }

    fn do_favour(&mut self, ask: Ask, now: Now, actions: &mut Vec<Action>) {
        // Who called in this session may be one that this node never called.
        let is_known = |asker: &Peer| asker.link.connected || asker.link.called_at.is_some();
        if !self.peers.get(&ask.asker).is_some_and(is_known) {
            return;
        }
        let about = ask.about.clone();
        self.note_asker(&about, &ask.asker, now);
        let by_mail = self.takes_mail(&about, now);
        let ticks = if by_mail { MAIL_TICKS } else { 1 };
        let until = now.mono_ms + ticks * self.settings.tick_ms;
        self.probing.favours.push(Favour { ask: ask.clone(), until, told: 0 });
        if by_mail {
            return;
        }
        let peer = self.peers.get_mut(&about).filter(|peer| may_be_told(peer));
        let has_room = |peer: &&mut Peer| peer.owed.tell.asks.len() < OWED_TELLS_MAX;
        let Some(peer) = peer.filter(has_room) else {
            return self.end_favour(&ask, None, now, actions);
        };
        peer.owed.tell.asks.push(ask);
        self.poke(&about, now, actions);
    }

    /// Tells the asker what came of it.
    pub(super) fn end_favour(
        &mut self,
        ask: &Ask,
        here: Option<&Here>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let before = self.probing.favours.len();
        self.probing.favours.retain(|favour| favour.ask != *ask);
        if self.probing.favours.len() == before {
            return;
        }
        let signature = here.map(|here| here.signature);
        let word = Word { about: ask.about.clone(), challenge: ask.challenge, signature };
        if self.takes_mail(&ask.asker, now) {
            return self.keep_word(&ask.asker, word, now);
        }
        self.owe_word(&ask.asker, word);
        self.poke(&ask.asker, now, actions);
    }

    /// A peer is asked something, if there is room for it.
    pub(super) fn owe_ask(&mut self, to: &NodeId, ask: Ask) {
        let Some(peer) = self.peers.get_mut(to) else { return };
        let asks = &mut peer.owed.tell.asks;
        if asks.len() < OWED_TELLS_MAX && !asks.contains(&ask) {
            asks.push(ask);
        }
    }

    /// A peer is told what came of a question, if there is room for it.
    pub(super) fn owe_word(&mut self, to: &NodeId, word: Word) {
        if let Some(peer) = self.peers.get_mut(to) {
            peer.owed.tell.add_word(word, OWED_TELLS_MAX);
        }
    }

    /// What came of asking a peer about itself, for this node or for another one.
    fn end_self_ask(
        &mut self,
        ended: &Ended<'_>,
        ask: &Ask,
        here: Option<&Here>,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_me(&ask.asker) {
            return self.end_favour(ask, here, ended.now, actions);
        }
        if here.is_some() {
            self.give_try_back(&ended.address);
        }
        self.itself_answered(ended.node_id, here.is_some(), ended.now, actions);
    }

    /// A peer answered what others asked of it. As their challenge may be an old one, that proves
    /// nothing here; but where it is lost it is called by ourselves now, as it seems to be there.
    pub(super) fn answers_others(&mut self, ended: &Ended<'_>, actions: &mut Vec<Action>) {
        if self.status_of(ended.node_id) == Some(PeerStatus::Lost) {
            self.give_try_back(&ended.address);
            self.look_for(ended.node_id, ended.now, actions);
        }
    }

    pub(super) fn drop_old_favours(&mut self, now: Now, actions: &mut Vec<Action>) {
        let favours = self.probing.favours.iter();
        let old = favours.filter(|favour| now.mono_ms >= favour.until);
        let old: Vec<Ask> = old.map(|favour| favour.ask.clone()).collect();
        self.probing.kept.retain(|kept| now.mono_ms < kept.until);
        for ask in old {
            if let Some(peer) = self.peers.get_mut(&ask.about) {
                peer.owed.tell.asks.retain(|owed| *owed != ask);
            }
            self.end_favour(&ask, None, now, actions);
        }
    }

    pub(super) fn on_words(
        &mut self,
        words: Vec<CheckedWord>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        for word in words {
            let (about, challenge) = match &word {
                CheckedWord::Here(here) => (here.node_id.clone(), here.challenge),
                CheckedWord::InVain(about, challenge) => (about.clone(), *challenge),
            };
            // It may have been over since the signature was looked at.
            let watch = self.peers.get_mut(&about).map(|peer| &mut peer.watch);
            let asked = watch.and_then(|watch| watch.asked_under(&challenge));
            let Some(asked) = asked else {
                self.on_favoured(&about, &challenge, &word, now, actions);
                continue;
            };
            (asked.is_taken, asked.is_over) = (true, true);
            let helper = asked.helper.clone();
            match word {
                CheckedWord::Here(_) => self.vouched_by(helper, &about, now, actions),
                CheckedWord::InVain(..) => {
                    self.advance(&about, now, actions);
                    self.settle_accused(&about, now, actions);
                }
            }
        }
    }

    /// What is owed to a peer beside records, as far as it fits: one question to the peer itself,
    /// as its answer has one signature.
    pub(super) fn make_tell(&mut self, node_id: &NodeId) -> Option<(Call, Request)> {
        let peer = self.peers.get_mut(node_id)?;
        let incarnation = peer.run()?;
        let owed = std::mem::take(&mut peer.owed.tell);
        let (mut now, mut later) = (Tell::default(), Tell::default());
        for ask in owed.asks {
            let is_full = now.asks.len() == ASKS_MAX;
            let is_second = ask.about == *node_id && now.self_ask(node_id).is_some();
            if is_full || is_second { &mut later } else { &mut now }.asks.push(ask);
        }
        for word in owed.words {
            if now.words.len() == WORDS_MAX { &mut later } else { &mut now }.words.push(word);
        }
        for accused in owed.suspects {
            let is_full = now.suspects.len() == SUSPECTS_MAX;
            if is_full { &mut later } else { &mut now }.suspects.insert(accused);
        }
        peer.owed.tell = later;
        // What was refuted meanwhile, or came to an end, is told to nobody.
        let suspected = |id: &NodeId| {
            let peer = self.peers.get(id)?;
            let returns = id == node_id && peer.is_to_return;
            let accused = peer.watch.accused.as_ref().map(|accused| accused.fingerprint);
            let accused = accused.filter(|_| peer.status == PeerStatus::Suspect);
            let fingerprint = accused.or(returns.then_some(peer.version().fingerprint))?;
            Some(Suspected { node_id: id.clone(), fingerprint })
        };
        let suspects: Vec<Suspected> = now.suspects.iter().filter_map(suspected).collect();
        if now.asks.is_empty() && now.words.is_empty() && suspects.is_empty() {
            return None;
        }
        let (asks, words) = (now.asks.clone(), now.words.clone());
        let push = Push { asks, words, suspects, ..Push::new(node_id.clone(), incarnation) };
        Some((Call::Tell(now), Request::Push(push)))
    }

    /// It was taken. Where the peer was asked to sign and did not, it is as if it gave no answer.
    pub(super) fn on_told(
        &mut self,
        ended: &Ended<'_>,
        tell: &Tell,
        here: Option<&Here>,
        actions: &mut Vec<Action>,
    ) {
        self.took(ended);
        for ask in &tell.asks {
            if ask.about == *ended.node_id {
                self.end_self_ask(ended, ask, here, actions);
            } else if let Some(asked) = self.asked_under(ask) {
                asked.is_taken = true;
            }
        }
    }

    /// It got no answer: tried again twice, as any other call. Nothing else follows from it.
    pub(super) fn tell_in_vain(
        &mut self,
        ended: &Ended<'_>,
        tell: &Tell,
        actions: &mut Vec<Action>,
    ) {
        let again = ended.tries < TRIES && (!tell.words.is_empty() || !tell.suspects.is_empty());
        if let Some(peer) = self.peers.get_mut(ended.node_id) {
            if again {
                let at = ended.now.mono_ms + RETRY_DELAY_MS;
                peer.attempts.change(&CallKind::Tell, |it| (it.tries, it.at) = (ended.tries, at));
                actions.push(Action::WakeAt(at));
            } else {
                peer.attempts.remove(&CallKind::Tell);
            }
        }
        self.tell_failed(ended, tell, again, actions);
    }

    /// It is another run: after a HELLO it is told again, once.
    pub(super) fn tell_refused(
        &mut self,
        ended: &Ended<'_>,
        tell: &Tell,
        reason: Reason,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        let had_chance = peer.attempts.get(&CallKind::Tell).is_some_and(|it| it.had_second_chance);
        let again = reason == Reason::WrongSession && !had_chance;
        if !again {
            peer.attempts.remove(&CallKind::Tell);
            return self.tell_failed(ended, tell, false, actions);
        }
        let attempt =
            Attempt { tries: ended.tries, at: ended.now.mono_ms, had_second_chance: true };
        peer.attempts.insert(CallKind::Tell, attempt);
        // HELLO comes when it may: who refuses each of these is not called the sooner for it.
        peer.link.connected = false;
        // What this node asked of it itself is asked anew over a link.
        let is_own = tell.asks_itself(ended.node_id, &self.settings.node_id);
        peer.owed.is_asked_for |= is_own;
        let others = tell
            .asks
            .iter()
            .filter(|ask| ask.about != *ended.node_id || ask.asker != self.settings.node_id);
        peer.owed.tell.asks.extend(others.cloned());
        peer.owed.tell.suspects.extend(tell.suspects.iter().cloned());
        tell.words.iter().for_each(|word| self.owe_word(ended.node_id, word.clone()));
    }

    /// What can still be told is told again, a question is over.
    fn tell_failed(
        &mut self,
        ended: &Ended<'_>,
        tell: &Tell,
        again: bool,
        actions: &mut Vec<Action>,
    ) {
        for ask in &tell.asks {
            if ask.about == *ended.node_id {
                self.end_self_ask(ended, ask, None, actions);
            } else if let Some(asked) = self.asked_under(ask) {
                asked.is_over = true;
                self.advance(&ask.about, ended.now, actions);
            }
        }
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        if again {
            peer.owed.tell.suspects.extend(tell.suspects.iter().cloned());
        }
        let takes_mail = self.takes_mail(ended.node_id, ended.now);
        for word in &tell.words {
            if again {
                self.owe_word(ended.node_id, word.clone());
            } else if takes_mail {
                self.keep_word(ended.node_id, word.clone(), ended.now);
            }
        }
        let Some(peer) = self.peers.get_mut(ended.node_id) else { return };
        if tell.self_ask(ended.node_id).is_none() {
            // Whether it is there is seen by asking it.
            peer.owed.ping |= peer.is_doubtable();
        }
    }
}

/// Whether what is owed to a peer beside records may go to it, be it connected or not.
pub(super) fn may_be_told(peer: &Peer) -> bool {
    peer.status != PeerStatus::Left && peer.run().is_some()
}
