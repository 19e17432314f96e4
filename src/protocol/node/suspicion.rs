//! A peer gives no answer: it is in doubt, then accused, then lost where nothing shows that it is
//! there.

use super::answers::Ended;
use super::asking::OWED_TELLS_MAX;
use super::{Action, Node, Now, Republish, give_up};
use crate::protocol::doubt::{
    Accused, Accuser, Asked, Doubt, FIRST_ASKED, LAST_ASKED, NEXT_ASKED, Stage,
};
use crate::protocol::flight::CallKind;
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::report::{Event, PeerStatus};
use crate::protocol::wire::{Ask, Suspected};

/// How long, in ticks, one that called and can't be called is left to those that keep links with
/// it: longer than it is tried for that call.
const VISIT_TICKS: u64 = 4;

/// Doubts.
impl Node {
    /// A call to a peer came to nothing.
    pub(super) fn probe_failed(&mut self, ended: &Ended<'_>, actions: &mut Vec<Action>) {
        let (node_id, now) = (ended.node_id, ended.now);
        let is_hidden = self.is_hidden(now);
        let (is_mesh, tick_ms) = (self.is_mesh(), self.settings.tick_ms);
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        // Where it never answered it was not there before either.
        if peer.place.proved() != Some(&ended.address) {
            return;
        }
        // One that could not be called before is in doubt when it is silent, too.
        let is_new = peer.contact.fruitless() <= 1;
        // Whoever calls one that keeps no link with it can be called by nobody, most likely, and
        // calls another one next.
        let has_called = peer.link.has_called_within(VISIT_TICKS * tick_ms, now.mono_ms);
        let is_visitor = !is_mesh && !peer.is_acquaintance && has_called;
        if let Some(doubt) = &mut peer.watch.doubt {
            doubt.was_tried = true;
            self.advance(node_id, now, actions);
        } else if let Some(accused) = &mut peer.watch.accused {
            accused.shown_at = accused.shown_at.min(now.mono_ms);
            self.show_accused(node_id, now, actions);
        } else if is_new && !is_hidden && !is_visitor {
            self.begin_doubt(node_id, true, now, actions);
        }
    }

    /// A peer gives no answer: it is tried again at once, and then others are asked to try it; at
    /// once where it is only silent.
    pub(super) fn begin_doubt(
        &mut self,
        node_id: &NodeId,
        by_call: bool,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let has_left = self.own.head.left;
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        if has_left || !peer.is_doubtable() {
            return;
        }
        peer.owed.ping = true;
        for kind in [CallKind::Hello, CallKind::Ping] {
            if let Some(attempt) = peer.attempts.get_mut(&kind) {
                attempt.at = attempt.at.min(now.mono_ms);
            }
        }
        if by_call {
            let until = now.mono_ms + self.times().answer;
            let Some(peer) = self.peers.get_mut(node_id) else { return };
            peer.watch.doubt = Some(Doubt::new(Stage::Again, until, by_call));
        } else {
            self.ask_first(node_id, by_call, now, actions);
        }
    }

    fn ask_first(&mut self, node_id: &NodeId, by_call: bool, now: Now, actions: &mut Vec<Action>) {
        let until = now.mono_ms + self.step_ms(node_id, self.times().stage, now);
        let asked = match self.helper_of(node_id) {
            Some(via) => self.ask_these(node_id, vec![via], now, actions),
            None => self.ask_others(node_id, FIRST_ASKED, now, actions),
        };
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let was_tried = peer.watch.doubt.as_ref().is_some_and(|doubt| doubt.was_tried);
        let doubt = Doubt { was_tried, asked, ..Doubt::new(Stage::First, until, by_call) };
        peer.watch.doubt = Some(doubt);
    }

    /// Asks so many others to try it. Who was asked in this doubt already is no help.
    pub(super) fn ask_others(
        &mut self,
        about: &NodeId,
        count: usize,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Vec<Asked> {
        let doubt = self.peers.get(about).and_then(|peer| peer.watch.doubt.as_ref());
        // Who suspects it asks anew, others or the same.
        let asked = doubt.map_or(&[][..], |doubt| &doubt.asked);
        let is_new = |helper: &NodeId| asked.iter().all(|asked| asked.helper != *helper);
        let helps = |(helper, peer): &(&NodeId, &Peer)| {
            *helper != about && can_help(peer) && is_new(helper)
        };
        let mut helpers: Vec<NodeId> =
            self.peers.iter().filter(helps).map(|(node_id, _)| node_id.clone()).collect();
        self.random.shuffle(&mut helpers);
        // Whoever came early to a large network has links with all, and can't do them all a favour.
        let is_mesh = self.is_mesh();
        let is_linked = |peer: &Peer| peer.is_acquaintance && !is_mesh;
        let is_close = |id: &NodeId| self.peers.get(id).is_some_and(is_linked);
        let (mut helpers, others): (Vec<_>, Vec<_>) = helpers.into_iter().partition(is_close);
        helpers.extend(others);
        let reached = self.those_that_reach_others();
        let at = helpers.iter().position(|helper| reached.contains(helper));
        if let Some(first) = at.and_then(|at| helpers.get_mut(..=at)) {
            first.rotate_right(1);
        }
        helpers.truncate(count);
        self.ask_these(about, helpers, now, actions)
    }

    pub(super) fn ask_these(
        &mut self,
        about: &NodeId,
        helpers: Vec<NodeId>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Vec<Asked> {
        let asker = self.settings.node_id.clone();
        let mut asked = Vec::with_capacity(helpers.len());
        for helper in helpers {
            self.probing.challenges += 1;
            let drawn = self.probing.challenges.to_le_bytes();
            let challenge = self.derived(b"dsn/1 challenge", &[&drawn]);
            if let Some(peer) = self.peers.get_mut(&helper) {
                let ask = Ask { about: about.clone(), asker: asker.clone(), challenge };
                peer.owed.tell.asks.push(ask);
            }
            self.poke(&helper, now, actions);
            asked.push(Asked { helper, challenge, is_taken: false, is_over: false });
        }
        asked
    }

    /// All whose time is over.
    pub(super) fn advance_all(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.drop_old_favours(now, actions);
        let stands = |peer: &Peer| peer.watch.doubt.is_some() || peer.watch.accused.is_some();
        let watched = self.peers.awake().filter(|(_, peer)| stands(peer));
        let watched: Vec<NodeId> = watched.map(|(node_id, _)| node_id.clone()).collect();
        for node_id in watched {
            self.advance(&node_id, now, actions);
            self.show_accused(&node_id, now, actions);
        }
    }

    /// The next stage of a doubt, where this one is over.
    pub(super) fn advance(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let until = now.mono_ms + self.step_ms(node_id, self.times().stage, now);
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        if peer.status != PeerStatus::Alive {
            peer.watch.doubt = None;
            return;
        }
        let Some(doubt) = &mut peer.watch.doubt else { return };
        let was_asked = !doubt.asked.is_empty();
        if now.mono_ms < doubt.until && !doubt.is_settled() {
            return;
        }
        if doubt.stage == Stage::Again {
            let by_call = doubt.by_call;
            return self.ask_first(node_id, by_call, now, actions);
        }
        if doubt.stage == Stage::First {
            doubt.stage = Stage::Second;
            doubt.until = until;
            // Who reached it last does not now, or does not say so.
            peer.watch.via = None;
            let more = self.ask_others(node_id, NEXT_ASKED, now, actions);
            let is_asked = !more.is_empty();
            let doubt = self.peers.get_mut(node_id).and_then(|peer| peer.watch.doubt.as_mut());
            if let Some(doubt) = doubt {
                doubt.asked.extend(more);
            }
            // Where nobody is left to be asked, the second stage is for who could not be asked at
            // all.
            if is_asked || !was_asked {
                return;
            }
        }
        self.conclude(node_id, now, actions);
    }

    /// All was in vain, or nobody said anything.
    fn conclude(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let times = self.times();
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let Some(doubt) = peer.watch.doubt.take() else { return };
        let is_overdue = self.is_overdue(node_id, now);
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let hears_others = now.mono_ms.saturating_sub(self.probing.word_at) <= times.alone;
        let is_taken = doubt.asked.iter().any(|asked| asked.is_taken);
        let passed_at = peer.watch.accused_at;
        let too_soon = passed_at.is_some_and(|at| now.mono_ms < at + times.window);
        let can_ask = !doubt.asked.is_empty() && !self.calls_nobody(now);
        // Perhaps this node can call nobody, which is known in a moment.
        let is_unclear = !self.is_mesh() && hears_others && self.probing.in_vain_since.is_some();
        if !can_ask && !is_overdue {
            // Nothing is called from here: it is waited for a word of it, or of others about it.
        } else if !can_ask && !is_unclear {
            self.suspect(node_id, Accuser::Silent, Vec::new(), now, actions);
        } else if !hears_others {
            self.count_as_cut_off(now, actions);
        } else if is_taken && !too_soon {
            self.suspect(node_id, Accuser::Own, doubt.asked, now, actions);
            self.spread_suspect(node_id, now, actions);
        } else {
            // Whoever hears of nobody blames itself; and who was accused a moment ago has its time.
            self.ask_first(node_id, doubt.by_call, now, actions);
        }
    }

    /// Nobody is heard: it is this node that is not there for the others. It accuses nobody.
    fn count_as_cut_off(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.probing.is_cut_off = true;
        for node_id in self.peers.ids() {
            if self.peers.get(&node_id).is_some_and(|peer| peer.status == PeerStatus::Alive) {
                self.suspect(&node_id, Accuser::Silent, Vec::new(), now, actions);
            }
        }
    }
}

/// Accusations.
impl Node {
    /// From now on the peer is suspected, and lost soon.
    fn suspect(
        &mut self,
        node_id: &NodeId,
        by: Accuser,
        asked: Vec<Asked>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let times = self.times();
        let is_far = self.peers.get(node_id).is_some_and(Peer::can_not_be_called);
        let grace = match by {
            Accuser::Others if !is_far => times.grace,
            _ => self.step_ms(node_id, times.grace, now),
        };
        let asked = match by {
            // It does not hear of it from here, and its silence says nothing: others see it.
            Accuser::Others if is_far => self.ask_those_that_reach(node_id, now, actions),
            _ => asked,
        };
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let shown_at = match by {
            Accuser::Own | Accuser::Silent => now.mono_ms,
            // Perhaps it answers here, or others reach it.
            Accuser::Others => now.mono_ms + times.answer.max(grace - times.grace),
        };
        let (fingerprint, until) = (peer.version().fingerprint, now.mono_ms + grace);
        peer.watch.doubt = None;
        if by != Accuser::Silent {
            peer.watch.accused_at = Some(now.mono_ms);
            peer.watch.accused_version = Some(fingerprint);
        }
        peer.watch.accused = Some(Accused { fingerprint, until, shown_at, by, asked });
        peer.owed.ping = true;
        self.show_accused(node_id, now, actions);
        self.poke(node_id, now, actions);
    }

    /// Tells all others, and the accused.
    fn spread_suspect(&mut self, accused: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let held = self.peers.get(accused).is_some_and(|peer| peer.record.is_some());
        if held && !self.is_mesh() {
            self.tell_accused(accused, now, actions);
            return self.spread_accusation(accused, now, actions);
        }
        for node_id in self.peers.ids() {
            let Some(peer) = self.peers.get_mut(&node_id).filter(|_| held) else { continue };
            let hears = peer.status == PeerStatus::Alive && peer.link.connected;
            if hears || node_id == *accused {
                peer.owed.tell.suspects.insert(accused.clone());
                self.poke(&node_id, now, actions);
            }
        }
    }

    /// The accused has to hear of it, or it can't show that it is there.
    fn tell_accused(&mut self, accused: &NodeId, now: Now, actions: &mut Vec<Action>) {
        if let Some(peer) = self.peers.get_mut(accused) {
            peer.owed.tell.suspects.insert(accused.clone());
            self.poke(accused, now, actions);
        }
    }

    /// What is said of a peer that others accuse, where it is time.
    fn show_accused(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let Some(accused) = peer.watch.accused.as_ref().filter(|_| peer.is_suspectable()) else {
            return;
        };
        if now.mono_ms >= accused.until {
            lose(node_id, peer, actions);
            self.note_in_view(node_id);
        } else if now.mono_ms >= accused.shown_at && peer.status == PeerStatus::Alive {
            let is_silent = accused.by == Accuser::Silent;
            let is_near = peer.link.connected && !is_silent;
            peer.status = PeerStatus::Suspect;
            actions.push(Action::Tell(Event::Suspect { node_id: node_id.clone() }));
            if is_near {
                let asked = self.ask_others(node_id, LAST_ASKED, now, actions);
                let peer = self.peers.get_mut(node_id);
                if let Some(accused) = peer.and_then(|peer| peer.watch.accused.as_mut()) {
                    accused.asked.extend(asked);
                }
            }
            if !is_silent {
                self.tell_askers(node_id, now, actions);
            }
        }
    }

    /// All that were asked about one that can't be called, and that others accuse, tried it in
    /// vain: nothing more is to be waited for.
    pub(super) fn settle_accused(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let can_not_be_called = peer.can_not_be_called();
        let Some(accused) = &mut peer.watch.accused else { return };
        let all_said = !accused.asked.is_empty() && accused.asked.iter().all(|it| it.is_over);
        if can_not_be_called && accused.by == Accuser::Others && all_said {
            accused.until = accused.until.min(now.mono_ms);
            self.show_accused(node_id, now, actions);
        }
    }

    /// Something shows that a peer is there, be it by the word of others: nothing stands against
    /// it.
    pub(super) fn clear(&mut self, node_id: &NodeId) {
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let doubt = peer.watch.clear();
        if doubt.is_some_and(|doubt| doubt.by_call) {
            // It is there, and gave us no answer.
            self.probing.health.note(true);
        }
    }

    /// Others showed that a peer is there.
    pub(super) fn vouch(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        self.clear(node_id);
        self.wait_for_far(node_id, now);
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        peer.watch.vouched_at = Some(now.mono_ms);
        if matches!(peer.status, PeerStatus::Suspect | PeerStatus::Lost) {
            peer.status = PeerStatus::Alive;
            actions.push(Action::Tell(Event::Joined { node_id: node_id.clone() }));
        }
        self.note_in_view(node_id);
    }

    /// A newer version of a peer was taken: it refutes what stood against an older one. Where all
    /// are called directly who is lost is tried soon instead: what it said before it was lost does
    /// not bring it back.
    pub(super) fn refuted(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let is_mesh = self.is_mesh();
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        let Some(accused) = &peer.watch.accused else { return };
        let is_newer = peer.version().fingerprint != accused.fingerprint;
        let is_gone = peer.status == PeerStatus::Lost && is_mesh;
        if is_newer && !is_gone && peer.status != PeerStatus::Left {
            self.vouch(node_id, now, actions);
        } else if peer.status == PeerStatus::Lost && is_newer && !is_mesh {
            // Most nodes never hear it themselves.
            peer.status = PeerStatus::Suspect;
            self.vouch(node_id, now, actions);
        } else if peer.status == PeerStatus::Lost {
            peer.contact.hurry(now.mono_ms);
            if is_newer {
                self.seek(node_id, None, now, actions);
            }
        }
    }

    /// Others say that somebody does not answer.
    pub(super) fn on_suspects(
        &mut self,
        suspects: Vec<Suspected>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let window = self.times().window;
        for Suspected { node_id, fingerprint } in suspects {
            if self.is_me(&node_id) {
                if fingerprint == self.own.fingerprint {
                    self.refute(now, actions);
                }
                continue;
            }
            let Some(peer) = self.peers.get(&node_id) else { continue };
            let passed_at = peer.watch.accused_at;
            let too_soon = passed_at.is_some_and(|at| now.mono_ms < at + window);
            let is_known = peer.version().fingerprint == fingerprint;
            // A doubt of our own may have come to the same; else it is for them to show it.
            let is_free = peer.status == PeerStatus::Alive && peer.watch.accused.is_none();
            if is_free && is_known && !too_soon {
                self.suspect(&node_id, Accuser::Others, Vec::new(), now, actions);
                let is_known = self.peers.get(&node_id).is_some_and(|peer| peer.link.connected);
                if is_known && !self.is_mesh() {
                    // Who accuses it can't reach it; perhaps we can.
                    self.tell_accused(&node_id, now, actions);
                }
            }
        }
    }

    /// What had to wait is refuted, where no newer version came meanwhile.
    pub(super) fn refute_late(&mut self, now: Now, actions: &mut Vec<Action>) {
        let wait = self.times().refute;
        let is_due = self.probing.refuted_at.is_none_or(|at| now.mono_ms >= at + wait);
        let accused = self.probing.to_refute.take_if(|_| is_due);
        if accused == Some(self.own.fingerprint) {
            self.refute(now, actions);
        }
    }

    /// We are accused: a newer version shows that we are there.
    pub(super) fn refute(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.own.head.left {
            return;
        }
        let wait = self.times().refute;
        if let Some(at) = self.probing.refuted_at.map(|at| at + wait)
            && now.mono_ms < at
        {
            // It may be the version that refuted the last one, and nobody accuses it twice.
            self.probing.to_refute = Some(self.own.fingerprint);
            actions.push(Action::WakeAt(at));
            return;
        }
        self.probing.refuted_at = Some(now.mono_ms);
        self.behind = self.behind.max(Some(Republish::Unwritten));
        actions.push(Action::WakeDisk);
    }
}

/// Whether a peer can be asked to try another one.
pub(super) fn can_help(peer: &Peer) -> bool {
    peer.is_doubtable()
        && peer.link.connected
        && peer.is_reached()
        && peer.owed.tell.asks.len() < OWED_TELLS_MAX
}

/// Nothing showed in time that the peer is there.
pub(super) fn lose(node_id: &NodeId, peer: &mut Peer, actions: &mut Vec<Action>) {
    // Its twin, if it has one, may take its place.
    peer.link.superseded.clear();
    peer.watch.doubt = None;
    // It is sought at once where somebody says that it is there. But where it was not gone, the
    // next such doubt waits longer all the same.
    peer.watch.far.hurry(0);
    peer.watch.via = None;
    peer.owed.is_asked_for = false;
    if let Some(record) = peer.record.as_ref().filter(|_| peer.watch.accused.is_none()) {
        // A later version shows that it is there; what it said before does not.
        peer.watch.accused = Some(Accused::silent(record.fingerprint));
    }
    // The last that is known of it may be that it left, heard from others first.
    let left = peer.record.as_ref().is_some_and(|record| record.head.left);
    let (status, event, why) = if left {
        (PeerStatus::Left, Event::Left { node_id: node_id.clone() }, "it left the network")
    } else {
        (PeerStatus::Lost, Event::Lost { node_id: node_id.clone() }, "it is lost")
    };
    peer.status = status;
    actions.push(Action::Tell(event));
    give_up(node_id, peer, why, actions);
}
