//! One other node: the pinned key, where it is, the link, what is in flight to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::TIMESTAMP_MAX;
use super::address::Address;
use super::changes::Changes;
use super::doubt::Watch;
use super::flight::{Attempt, Call, CallKind, Class, Flight, Ticket};
use super::floor::Floor;
use super::head::{Fingerprint, Version};
use super::identity::{Incarnation, NodeId, PublicKey, Rank, Session};
use super::link::{Link, OwnAtPeer};
use super::owed::{Owed, OwedData};
use super::pace::{AGAIN_MAX_MS, Pace, Wait};
use super::record::Record;
use super::report::PeerStatus;
use super::rings::Ring;
use super::verified::Verified;
use super::whereabouts::Whereabouts;
use crate::order::ListMap;

/// How a public key came to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The node proved it to us in a HELLO. Only an operator changes it.
    Direct,
    /// A record signed with it came through others. A HELLO of the node itself replaces it.
    Hearsay,
}

/// The key that a node is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The key.
    pub key: PublicKey,
    /// How it came to be believed.
    pub trust: Trust,
}

/// A node as it is kept on disk between runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// Which node.
    pub node_id: NodeId,
    /// What is known of it.
    pub known: Known,
}

/// What is kept of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It was met, or told of.
    Pinned {
        /// Its key.
        pin: Pin,
        /// Where it was reached.
        address: Option<Address>,
    },
    /// An operator had it forgotten: it comes back by its own HELLO alone.
    Forgotten {
        /// Where it was, or may be.
        address: Option<Address>,
    },
}

/// One other node.
#[derive(Debug)]
pub struct Peer {
    /// Its pinned key.
    pub pin: Option<Pin>,
    /// Where it may be.
    pub place: Whereabouts,
    /// The newest version of its state.
    pub record: Option<Verified<Record>>,
    /// Since when its entries are held here, ms.
    pub record_since: Option<u64>,
    /// In which rings that version was passed on by us, and in which that it is accused.
    pub passed: ListMap<(Ring, bool), ()>,
    /// What patches that are passed on are made of, and since when, ms; only where one was of late.
    pub changes: Option<(Box<Changes>, u64)>,
    /// What was dropped of it and may not come back.
    pub floor: Floor,
    /// How it is doing.
    pub status: PeerStatus,
    /// When something signed by it last came directly from it, ms.
    pub heard_at: Option<u64>,
    /// How long it is silent at most between two words, ms: an eighth less with each word, or what
    /// it was before that one. Nothing before its second word.
    pub gap_ms: Option<u64>,
    /// Since when it is known here, ms.
    pub known_since: u64,
    /// Its place on the ring of all nodes.
    pub ring: u64,
    /// Whether something may be due to it: see [`super::peers::PeerTable`].
    pub is_awake: bool,
    /// What stands against it.
    pub watch: Watch,
    /// How often it was taken out of the table before, in this incarnation of ours.
    pub removals: u32,
    /// What both know of each other's runs.
    pub link: Link,
    /// The request in flight to it, or queued to be: at most one.
    pub flight: Option<Flight>,
    /// Calls that are to be made again, by their kind: another kind in between changes nothing.
    pub attempts: ListMap<CallKind, Attempt>,
    /// Kinds of calls of which the last one got no answer.
    pub unanswered: ListMap<CallKind, ()>,
    /// How reaching it goes.
    pub contact: Pace,
    /// How bringing it the own record goes.
    pub push: Pace,
    /// When it may be brought again what was brought to it before.
    pub again: Pace,
    /// How comparing all that is held goes.
    pub exchange: Pace,
    /// Until when nothing follows from it that its view differs, ms: a change may be on its way.
    /// Nothing where the views were equal last.
    pub grace_until: Option<u64>,
    /// Since when its lists say that it lacks what is held here of others, ms.
    pub lacks_since: Option<u64>,
    /// How asking it for records goes.
    pub pull: Pace,
    /// How bringing it records of others goes, which it lacks and can't ask for.
    pub give: Pace,
    /// What it was brought of others since its last list.
    pub given: BTreeMap<NodeId, Fingerprint>,
    /// Whether it was lost and is heard again, so that its next version is to be brought to all.
    pub is_to_return: bool,
    /// Whether a link is kept with it, in a large network.
    pub is_acquaintance: bool,
    /// Whether this node calls it once, as nobody calls this node: perhaps it lists that as lost.
    pub is_visited: bool,
    /// Whether others know it by another key than the one that was told here: then it has to prove
    /// its own.
    pub is_disputed: bool,
    /// Requests since the own last tick that nobody asked for and that came to nothing new.
    pub upkeep: u32,
    /// Whether an address that never answered may be tried for it now.
    pub may_try: bool,
    /// Which of the network keys it opens, counted around.
    pub network_key: usize,
    /// The name of the network key that its last request was sealed with.
    pub sealed_with: Option<Arc<str>>,
    /// How long it took of late to answer a PING, microseconds: each answer counts for an eighth.
    pub round_trip_us: Option<u64>,
    /// Why the last call came to nothing, if it did, for people.
    pub last_fault: Option<CallFault>,
    /// Whether anything came back from the last call, be it a refusal.
    pub was_answered: bool,
    /// What is owed to it.
    pub owed: Owed,
}

/// That calls come to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFault {
    /// Why the last one did.
    pub why: String,
    /// Since when all did, ms.
    pub since: u64,
    /// When the last one did, ms.
    pub at: u64,
    /// How many tries did.
    pub tries: u32,
    /// Whether somebody answered: then the port is open, and why says what is wrong.
    pub was_answered: bool,
}

impl Peer {
    /// A node of which nothing is known yet.
    pub fn new(now_ms: u64) -> Self {
        Self {
            pin: None,
            place: Whereabouts::default(),
            record: None,
            record_since: None,
            passed: ListMap::new(),
            changes: None,
            floor: Floor::default(),
            status: PeerStatus::Suspect,
            heard_at: None,
            gap_ms: None,
            known_since: now_ms,
            ring: 0,
            is_awake: true,
            watch: Watch::default(),
            removals: 0,
            link: Link::default(),
            flight: None,
            attempts: ListMap::new(),
            unanswered: ListMap::new(),
            contact: Pace::default(),
            push: Pace::default(),
            again: Pace::default(),
            exchange: Pace::default(),
            grace_until: Some(now_ms),
            lacks_since: None,
            pull: Pace::default(),
            give: Pace::default(),
            given: BTreeMap::new(),
            is_to_return: false,
            is_acquaintance: false,
            is_visited: false,
            is_disputed: false,
            upkeep: 0,
            may_try: false,
            network_key: 0,
            sealed_with: None,
            round_trip_us: None,
            last_fault: None,
            was_answered: false,
            owed: Owed::default(),
        }
    }

    /// The key that the node proved to us, if it did.
    pub fn direct_key(&self) -> Option<PublicKey> {
        self.pin.filter(|pin| pin.trust == Trust::Direct).map(|pin| pin.key)
    }

    /// A try came to nothing.
    pub fn note_fault(&mut self, why: &str, now_ms: u64) {
        let before = self.last_fault.as_ref();
        let since = before.map_or(now_ms, |fault| fault.since);
        let tries = before.map_or(0, |fault| fault.tries).saturating_add(1);
        let (why, was_answered) = (why.to_owned(), self.was_answered);
        self.last_fault = Some(CallFault { why, since, at: now_ms, tries, was_answered });
    }

    /// A PING was answered after this time.
    pub fn note_round_trip(&mut self, elapsed_us: u64) {
        let before = self.round_trip_us.unwrap_or(elapsed_us);
        self.round_trip_us = Some(before - before / 8 + elapsed_us / 8);
    }

    /// The run of it that is known: from itself, else by its record.
    pub fn run(&self) -> Option<Incarnation> {
        let told = || Some(self.record.as_ref()?.head.home.incarnation);
        self.link.incarnation.or_else(told)
    }

    /// The version of its state that is held here.
    pub fn version(&self) -> Version {
        self.record.as_ref().map_or_else(Version::default, |record| record.version())
    }

    /// What stands for its key in lists.
    pub fn rank(&self, node_id: &NodeId) -> Rank {
        self.pin.map_or_else(Rank::default, |pin| pin.key.rank_for(node_id))
    }

    /// How long nothing was heard from it, ms.
    pub fn silence(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_at.unwrap_or(self.known_since))
    }

    /// Whether nothing is on its way to it, or is to be looked at again as time passes.
    pub fn is_idle(&self) -> bool {
        let Watch { doubt, accused, .. } = &self.watch;
        let is_doubted = doubt.is_some() || accused.is_some() || self.is_disputed;
        let is_called = self.flight.is_some() || !self.attempts.is_empty() || self.may_try;
        let is_counted = self.upkeep > 0 || self.changes.is_some();
        !is_doubted && !is_called && !is_counted && !self.contact.is_failing()
    }

    /// Whether it can come into doubt: it was there, and nothing stands against it yet.
    pub fn is_doubtable(&self) -> bool {
        let Watch { doubt, accused, .. } = &self.watch;
        self.status == PeerStatus::Alive && doubt.is_none() && accused.is_none()
    }

    /// Whether it was called in vain, so that the next call may be the only one for long.
    pub fn is_given_up(&self) -> bool {
        self.status == PeerStatus::Lost || self.contact.is_failing()
    }

    /// Whether an accusation still comes to something.
    pub fn is_suspectable(&self) -> bool {
        matches!(self.status, PeerStatus::Alive | PeerStatus::Suspect)
    }

    /// How long neither it nor others showed that it is there, ms.
    pub fn unsure_for(&self, now_ms: u64) -> u64 {
        let vouched = self.watch.vouched_at.map(|at| now_ms.saturating_sub(at));
        vouched.map_or(u64::MAX, |ago| ago).min(self.silence(now_ms))
    }

    /// Where it is to be called next, if it may be: where it answered, or where it never did.
    pub fn address_wanted(&self) -> Option<&Address> {
        if self.link.connected || self.link.was_introduced {
            // Where it answered the first step, the second one follows.
            self.place.address()
        } else {
            self.place.to_try(self.contact.fruitless())
        }
    }

    /// Where it is called now. Where it never answered it is called if it may be, or if there is no
    /// other place.
    pub fn address_to_try(&self) -> Option<&Address> {
        let wanted = self.address_wanted();
        let may = self.may_try || wanted == self.place.proved() || !self.place.is_proved();
        if may { wanted } else { self.place.address() }
    }

    /// Whether it has answered where it is called now, in this run or an earlier one.
    pub fn is_reached(&self) -> bool {
        self.address_to_try().is_some_and(|to_try| self.place.proved() == Some(to_try))
    }

    /// Drops attempts that were due long ago: the next such call is another one.
    pub fn drop_old_attempts(&mut self, now_ms: u64) {
        self.attempts.retain(|_, attempt| now_ms.saturating_sub(attempt.at) < ATTEMPT_MS);
    }

    /// Whether it did not answer lately whatever it was asked; who only leaves some calls without
    /// an answer was there.
    pub fn was_away(&self) -> bool {
        [CallKind::Hello, CallKind::Ping].iter().any(|it| self.unanswered.contains_key(it))
    }

    /// With whom such a call waits for a sender: what did not answer lately never holds up the
    /// others, and what answers never waits for what does not.
    pub fn class_of(&self, kind: CallKind) -> Class {
        if !self.is_reached() {
            Class::Unproved
        } else if self.status == PeerStatus::Alive
            && self.watch.doubt.is_none()
            && !self.unanswered.contains_key(&kind)
        {
            Class::Healthy
        } else {
            Class::Returning
        }
    }

    /// This version of the own record was brought to it, whether it took it or gave no answer.
    pub fn note_brought(&mut self, own: Fingerprint, wait: Wait) {
        if self.link.own.brought.replace(own) == Some(own) {
            self.again.came_to_nothing(wait, AGAIN_MAX_MS);
        } else {
            self.again.succeeded();
        }
    }

    /// All that its list had newer is here. Whether there is more is seen by its view, after a
    /// grace: it may have asked for something at the same time.
    pub fn has_all(&mut self) {
        self.grace_until = None;
        self.owed.peers = false;
        self.owed.ping = true;
    }

    /// What it was just asked for, so that nobody else has to be.
    pub fn asked_for(&self, now_ms: u64) -> &[NodeId] {
        match self.flight.as_ref().and_then(|flight| flight.call.as_ref()) {
            Some(Call::Pull { wishes, alone_until }) if now_ms < *alone_until => wishes,
            _ => &[],
        }
    }

    /// Whether a DATA message may be at the peer already, though no answer says so.
    pub fn is_doubtful(&self, data: &OwedData) -> bool {
        let in_flight = self.flight.as_ref().and_then(|flight| flight.call.as_ref());
        let is_this =
            |call: &Call| matches!(call, Call::Data { ticket, .. } if *ticket == data.ticket);
        data.doubtful_in.is_some() || in_flight.is_some_and(is_this)
    }

    /// Nobody knows whether a try to send it in this session delivered it.
    pub fn note_doubt(&mut self, ticket: Ticket, session: Session) {
        if let Some(data) = self.owed.data.iter_mut().find(|data| data.ticket == ticket) {
            data.doubtful_in = Some(session);
        }
    }

    /// Empties the queues of PING and DATA: who waited, and whether it may have been delivered.
    pub fn take_waiting(&mut self) -> Vec<(Ticket, bool)> {
        let data: Vec<_> =
            self.owed.data.iter().map(|data| (data.ticket, self.is_doubtful(data))).collect();
        self.owed.data.clear();
        self.owed.pings.drain(..).map(|ticket| (ticket, false)).chain(data).collect()
    }

    /// Takes out the DATA messages that may have been delivered already.
    pub fn take_all_doubtful(&mut self) -> Vec<Ticket> {
        let doubtful = |data: &&OwedData| self.is_doubtful(data);
        let tickets: Vec<Ticket> =
            self.owed.data.iter().filter(doubtful).map(|data| data.ticket).collect();
        self.owed.data.retain(|data| !tickets.contains(&data.ticket));
        tickets
    }

    /// Takes out the DATA messages that may have been delivered to an earlier run of the peer.
    pub fn take_doubtful(&mut self) -> Vec<Ticket> {
        let session = self.link.session;
        let over = |data: &OwedData| data.doubtful_in.is_some() && data.doubtful_in != session;
        let tickets = self.owed.data.iter().filter(|data| over(data)).map(|data| data.ticket);
        let tickets = tickets.collect();
        self.owed.data.retain(|data| !over(data));
        tickets
    }

    /// Whether the peer proved a moment ago that the session is one. DATA is not sent without:
    /// where it is refused because the session is over, somebody who listens may have brought it
    /// to the run, or the time, before.
    pub fn is_session_proved(&self, now_ms: u64) -> bool {
        self.link.proved_at.is_some_and(|at| now_ms.saturating_sub(at) < PROVED_MS)
    }

    /// Takes what the peer gave us to name, and in which of its runs.
    pub fn begin_session(&mut self, incarnation: Incarnation, session: Session, wait: Wait) {
        self.link.proved_at = Some(wait.now_ms);
        if self.link.incarnation != Some(incarnation) {
            self.link.run_since = wait.now_ms;
            if let Some(old) = self.link.incarnation.replace(incarnation) {
                if self.link.superseded.len() == SUPERSEDED_MAX {
                    self.link.superseded.pop_front();
                }
                self.link.superseded.push_back(old);
            }
            self.link.data_in = None;
        }
        if self.link.session.replace(session) != Some(session) {
            // It was started again, or has forgotten us: nobody knows what it holds. But what it
            // took from us is not brought to it at once again and again.
            self.link.connected = false;
            let brought = self.link.own.brought;
            self.link.own = OwnAtPeer { brought, ..OwnAtPeer::default() };
            self.link.called_at = None;
            self.grace_until = Some(wait.now_ms);
        }
    }

    /// The number for the next request: above all before it and all that the peer has seen.
    pub fn next_number(&mut self, wall_us: u64) -> u64 {
        // A clock that is far off uses up no numbers.
        let wall_us = if wall_us <= TIMESTAMP_MAX { wall_us } else { 0 };
        self.link.number_out = wall_us.max(self.link.number_out.saturating_add(1));
        self.link.number_out
    }
}

/// The part of an address that stands for a host.
pub fn host_of(address: &Address) -> &str {
    address.as_str().rsplit_once(':').map_or(address.as_str(), |(host, _)| host)
}

/// From where somebody called, as text.
pub fn caller_text(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

/// A number beyond this is not sent, and not believed in a refusal: numbers would run out.
pub const NUMBER_MAX: u64 = u64::MAX / 2;
/// How long an attempt that is due waits to be made, ms.
const ATTEMPT_MS: u64 = 30_000;
/// How long a session is taken for one after the peer proved it, ms: as long as two tries may take.
const PROVED_MS: u64 = 10_000;
/// Most former runs that are remembered of one node.
const SUPERSEDED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(peer: &mut Peer, incarnation: u8, session: u8) {
        let wait = Wait { now_ms: 0, tick_ms: 1_000, roll: 0.0 };
        peer.begin_session(Incarnation([incarnation; 16]), Session([session; 16]), wait);
    }

    #[test]
    fn a_round_trip_is_that_of_the_last_answers() {
        let mut peer = Peer::new(0);
        peer.note_round_trip(800);
        assert_eq!(peer.round_trip_us, Some(800));
        peer.note_round_trip(1600);
        assert_eq!(peer.round_trip_us, Some(900));
        (0..100).for_each(|_| peer.note_round_trip(80));
        assert!(peer.round_trip_us.is_some_and(|time| (80..100).contains(&time)));
    }

    #[test]
    fn a_new_session_makes_nothing_sure() {
        let mut peer = Peer::new(0);
        begin(&mut peer, 1, 1);
        peer.link.connected = true;
        peer.link.own.held = Some([1; 16]);
        peer.link.data_in = Some(7);
        begin(&mut peer, 1, 1);
        assert!(peer.link.connected && peer.link.own.held.is_some());
        begin(&mut peer, 1, 2);
        assert!(
            !peer.link.connected && peer.link.own.held.is_none() && peer.link.data_in == Some(7)
        );
        for number in 2..20 {
            begin(&mut peer, number, 2);
        }
        assert_eq!((peer.link.superseded.len(), peer.link.data_in), (SUPERSEDED_MAX, None));
        assert_eq!(peer.link.superseded.back(), Some(&Incarnation([18; 16])));
    }
}
