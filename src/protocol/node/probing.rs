//! Whom to ask whether it is there, and when; and how far this node can trust what it sees.

use std::collections::VecDeque;

use super::{Action, Node, Now};
use crate::protocol::doubt::{Accuser, Asker, Favour, Health, Kept, Times};
use crate::protocol::head::Fingerprint;
use crate::protocol::identity::NodeId;
use crate::protocol::pace::Pace;
use crate::protocol::peer::Peer;
use crate::protocol::report::PeerStatus;
use crate::protocol::rings::position;

/// Up to so many peers, one that was heard a moment ago needs no probe.
pub(super) const SMALL_MESH: usize = 4;
/// A peer was not heard for so many ticks, and can't be called: others are asked.
pub(super) const SILENT_TICKS: u64 = 2;
/// A peer that was never met is in doubt after so many ticks of silence: most likely it is this
/// node that can't call it, and whoever can has met it by then.
const UNMET_TICKS: u64 = 10;
/// Who is called by nobody for so many ticks calls all others at each tick, as most likely nobody
/// can call it.
pub(super) const UNCALLED_TICKS: u64 = 2;

/// How many ticks a run is taken for one that joins: half a minute, the time in which a thousand
/// that begin at once meet, whatever gets lost.
const JOINING_TICKS: u64 = 10;

/// What a node remembers of its own probes.
#[derive(Debug)]
pub(super) struct Probing {
    pub(super) health: Health,
    /// When the next probe is due, ms.
    pub(super) at: u64,
    /// Whether the next one goes to the successor on the ring.
    to_successor: bool,
    /// When all this was looked at last, ms.
    looked_at: u64,
    /// When anybody answered or called last, ms.
    pub(super) word_at: u64,
    /// When anybody called last, ms.
    pub(super) called_at: u64,
    /// Since when all calls were in vain, ms; nothing where the last one was answered.
    pub(super) in_vain_since: Option<u64>,
    /// Whether all others count as suspect, as nobody is heard.
    pub(super) is_cut_off: bool,
    /// How many challenges were drawn.
    pub(super) challenges: u64,
    /// When an accusation was refuted last, ms.
    pub(super) refuted_at: Option<u64>,
    /// The own version that was accused a moment after that.
    pub(super) to_refute: Option<Fingerprint>,
    /// When being listed as lost is refuted again.
    pub(super) listed: Pace,
    /// What others asked for.
    pub(super) favours: Vec<Favour>,
    /// What came of it, for those that hear it when they call.
    pub(super) kept: Vec<Kept>,
    /// How many answers had something for those.
    pub(super) mails: usize,
    /// Who asked for whom of late.
    pub(super) askers: VecDeque<Asker>,
}

impl Probing {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            health: Health::default(),
            at: now_ms,
            to_successor: true,
            looked_at: now_ms,
            word_at: now_ms,
            called_at: now_ms,
            in_vain_since: None,
            is_cut_off: false,
            challenges: 0,
            refuted_at: None,
            to_refute: None,
            listed: Pace::default(),
            favours: Vec::new(),
            kept: Vec::new(),
            mails: 0,
            askers: VecDeque::new(),
        }
    }
}

impl Node {
    /// How long each step takes now.
    pub(super) fn times(&self) -> Times {
        Times::of(self.settings.tick_ms, self.probing.health.factor())
    }

    /// Looks who is doubtful, and sends the next probe where it is due. Whoever said goodbye asks
    /// nobody whether it is there.
    pub(super) fn look_around(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.mind_the_gap(now);
        if self.own.head.left {
            return;
        }
        self.doubt_the_late(now, actions);
        self.advance_all(now, actions);
        self.refute_late(now, actions);
        let times = self.times();
        if now.mono_ms >= self.probing.at {
            let jitter = self.random.u64(0..=times.probe / 10);
            self.probing.at = now.mono_ms + (times.probe - jitter).max(1);
            if self.probing.to_successor
                && let Some(far) = self.far_successor(now)
            {
                self.probing.to_successor = false;
                self.begin_doubt(&far, false, now, actions);
            } else if let Some(id) = self.next_probe(now)
                && let Some(peer) = self.peers.get_mut(&id)
            {
                peer.owed.ping = true;
            }
        }
    }

    /// When this is to be looked at again, ms.
    pub(super) fn look_around_at(&self, now: Now) -> u64 {
        let times = self.times();
        let due = |peer: &Peer| {
            let late = peer.is_doubtable().then_some(peer.flight.as_ref()).flatten();
            let late = late.filter(|flight| flight.call.is_some());
            let late = late.map(|flight| flight.began + times.answer);
            let doubt = peer.watch.doubt.as_ref().map(|doubt| doubt.until);
            let accused = peer.watch.accused.as_ref();
            let accused = accused.filter(|_| peer.is_suspectable());
            let shown = accused.map(|accused| accused.shown_at);
            [late, doubt, shown, accused.map(|accused| accused.until)]
        };
        let dues = self.peers.awake().flat_map(|(_, peer)| due(peer)).flatten();
        let refutes = self.probing.to_refute.and(self.probing.refuted_at);
        let refutes = refutes.map(|at| at + times.refute);
        let next = dues.chain(refutes).filter(|at| *at > now.mono_ms);
        let probe = Some(self.probing.at).filter(|at| *at > now.mono_ms);
        next.chain(probe).min().unwrap_or(u64::MAX)
    }

    /// Who did not run for a while has heard nobody in that time: that says nothing of the others.
    fn mind_the_gap(&mut self, now: Now) {
        let gap = now.mono_ms.saturating_sub(self.probing.looked_at);
        self.probing.looked_at = now.mono_ms;
        if gap <= self.settings.tick_ms {
            return;
        }
        self.probing.word_at = now.mono_ms;
        self.probing.called_at = now.mono_ms;
        self.probing.in_vain_since = None;
        self.probing.favours.clear();
        self.probing.kept.clear();
        self.peers.change_awake(|_, peer| {
            peer.watch.doubt = None;
            if let Some(accused) = &mut peer.watch.accused {
                accused.until = accused.until.saturating_add(gap);
                accused.shown_at = accused.shown_at.saturating_add(gap);
            }
            if let Some(flight) = &mut peer.flight {
                flight.began = now.mono_ms;
            }
        });
    }

    /// What is owed at a tick: suspects are asked again, and all of them where nobody calls us.
    pub(super) fn choose_pings(&mut self, now: Now) {
        if self.own.head.left {
            return;
        }
        if self.calls_nobody(now) {
            // No probe of its own can go well, and it goes by what it hears: that others give no
            // answer says soon nothing of itself.
            self.probing.health.note(false);
        }
        let calls_all = self.is_uncalled(UNCALLED_TICKS, now);
        let is_mesh = self.is_mesh();
        let is_linked = |peer: &Peer| is_mesh || peer.is_acquaintance;
        self.peers.change_awake(|_, peer| {
            let is_due = match peer.status {
                PeerStatus::Suspect => true,
                PeerStatus::Alive => calls_all && peer.is_reached() && is_linked(peer),
                PeerStatus::Lost | PeerStatus::Left => false,
            };
            peer.owed.ping |= is_due;
        });
    }

    /// Whether this run has just begun. Where many start at once each finds soon what nobody told
    /// it; later liars could make themselves the only ones that are asked.
    pub(super) fn is_new(&self) -> bool {
        self.ticks <= 2
    }

    /// Whether this run began a moment ago, so that it may lack much that others hold.
    pub(super) fn is_joining(&self) -> bool {
        self.ticks <= JOINING_TICKS
    }

    /// Of those that can be called: by turns the successor on the ring, which nobody else may
    /// probe soon, and one of the others.
    fn next_probe(&mut self, now: Now) -> Option<NodeId> {
        let to_successor = std::mem::replace(&mut self.probing.to_successor, false);
        self.probing.to_successor = !to_successor;
        let own = position(&self.settings.node_id);
        let is_small = self.peers.len() <= SMALL_MESH;
        let enough = self.settings.tick_ms / 2;
        let is_mesh = self.is_mesh();
        let is_new = self.is_new();
        let callable = |peer: &Peer| {
            peer.status == PeerStatus::Alive
                && (is_mesh || peer.is_acquaintance)
                && peer.is_reached()
                && peer.flight.is_none()
                && !(is_small && peer.silence(now.mono_ms) < enough)
        };
        let places = self.peers.awake().filter(|(_, peer)| callable(peer));
        let ring = places.map(|(node_id, peer)| {
            let differs = is_new && peer.differs(now.mono_ms);
            let urgency = (differs, peer.silence(now.mono_ms));
            (urgency, peer.ring.wrapping_sub(own), node_id)
        });
        let chosen = if to_successor {
            ring.min_by_key(|(_, place, node_id)| (*place, *node_id))
        } else {
            // Those that links are kept with, be it all or a few.
            ring.max()
        };
        chosen.map(|(_, _, node_id)| node_id.clone())
    }

    /// Calls without an answer so far, and peers that can't be called and are silent.
    fn doubt_the_late(&mut self, now: Now, actions: &mut Vec<Action>) {
        let is_mesh = self.is_mesh();
        let (times, silent_ms) = (self.times(), SILENT_TICKS * self.settings.tick_ms);
        // Of many peers at each wake: what most of them are not comes first.
        let is_late = |peer: &Peer| {
            let flight = peer.flight.as_ref().filter(|flight| flight.call.is_some());
            flight.is_some_and(|it| now.mono_ms.saturating_sub(it.began) >= times.answer)
                && peer.is_reached()
                && !peer.contact.is_failing()
        };
        let unmet_ms = UNMET_TICKS * self.settings.tick_ms;
        let is_silent = |peer: &Peer| {
            let enough_ms = if peer.is_met() { silent_ms } else { unmet_ms };
            if peer.unsure_for(now.mono_ms) <= enough_ms {
                return false;
            }
            // In a large network most are never called from here, and who never answered anybody
            // can call, and not be called.
            let is_linked = is_mesh || peer.is_acquaintance && peer.place.proved().is_some();
            let is_apart = is_linked && (!peer.link.connected || !peer.is_reached());
            (peer.contact.is_failing() || is_apart)
                && self.is_far_due(peer, now)
                && self.is_late_word(peer, now)
        };
        let doubtful = |peer: &Peer| {
            peer.is_doubtable() && self.watches(peer, now) && (is_late(peer) || is_silent(peer))
        };
        let late = self.peers.awake().filter(|(_, peer)| doubtful(peer));
        let late: Vec<(NodeId, bool)> =
            late.map(|(node_id, peer)| (node_id.clone(), is_late(peer))).collect();
        for (node_id, by_call) in late {
            self.begin_doubt(&node_id, by_call, now, actions);
        }
    }

    /// Whether this node doubts a peer that is silent: in a large network those do that keep links
    /// with it. Whoever else can't call it may be alone with that, and does not hear it.
    fn watches(&self, peer: &Peer, now: Now) -> bool {
        let may_be_hidden = self.is_hidden(now) && peer.contact.is_failing();
        self.is_mesh() || peer.is_acquaintance && !may_be_hidden
    }

    /// Whether, in a large network, nobody calls this node though its own calls are answered: most
    /// likely nobody can. Then it hears none of the others that nobody can call, so a call that
    /// fails tells it nothing.
    pub(super) fn is_hidden(&self, now: Now) -> bool {
        let is_answered = now.mono_ms.saturating_sub(self.probing.word_at) <= self.settings.tick_ms;
        !self.is_mesh() && is_answered && self.is_uncalled(UNCALLED_TICKS, now)
    }

    /// Somebody answered or called: the network is there.
    pub(super) fn note_word(&mut self, now: Now) {
        self.probing.word_at = now.mono_ms;
        if !std::mem::take(&mut self.probing.is_cut_off) {
            return;
        }
        // Those that were suspected as nobody was heard have their time from now on.
        let until = now.mono_ms + self.times().grace;
        self.peers.change_awake(|_, peer| {
            if let Some(accused) = &mut peer.watch.accused
                && peer.status == PeerStatus::Suspect
                && accused.by == Accuser::Silent
            {
                accused.until = until;
                peer.owed.ping = true;
            }
        });
    }

    /// A call was in vain.
    pub(super) fn note_in_vain(&mut self, now: Now) {
        self.probing.in_vain_since.get_or_insert(now.mono_ms);
    }

    /// Somebody answered.
    pub(super) fn note_answer(&mut self, now: Now) {
        self.probing.in_vain_since = None;
        self.note_word(now);
    }

    /// Somebody called.
    pub(super) fn note_call(&mut self, now: Now) {
        self.probing.called_at = now.mono_ms;
        self.note_word(now);
    }
}
