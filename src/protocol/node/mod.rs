//! The rules: a request, an answer, a local change or a tick comes in; reply and actions come out.
//!
//! Nothing here does what it decides. The driver does, and so does the simulator.

mod actions;
mod allowed;
mod answers;
mod asking;
mod calls;
mod compare;
mod conflicts;
mod far;
mod found;
mod graves;
mod hello;
mod home;
mod inbox;
mod links;
mod load;
mod mail;
mod meeting;
mod present;
mod probing;
mod records;
mod refusals;
mod relay;
mod report;
mod requests;
mod seeds;
mod suspicion;
mod ticking;
mod tries;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::address::Address;
use super::changes::Changes;
use super::fault::{Code, Fault};
use super::flight::{Flight, Ticket};
use super::hash::Hash;
use super::head::{Fingerprint, Home};
use super::identity::NodeId;
use super::pace::Wait;
use super::peer::{Known, KnownPeer, Peer, Trust};
use super::peers::{PeerTable, Room};
use super::record::Record;
use super::report::Refused;
use super::verified::Verified;
use super::view::View;
use super::whereabouts::Whereabouts;
use crate::order::Gather;

pub use super::flight::Class;
pub use actions::{
    Action, DiskWishes, Incoming, Job, Now, Outcome, Outgoing, Reply, Republish, Secret, Settings,
    Target, Urgency, Verdict,
};
pub use allowed::AllowList;
pub use asking::CheckedWord;
pub use calls::UPKEEP_MAX;
use conflicts::Conflicts;
use found::Found;
use graves::Graves;
use hello::Claims;
use home::Seen;
use inbox::Inbox;
use probing::Probing;
pub use records::Judgement;
pub use relay::{MESH_MAX, RELAY_HEADS};
use report::Happened;
pub use requests::{CheckedPush, RefusedPart};
use seeds::Seed;
use tries::Tries;

/// One node of the network: the rules and all that they need to remember.
pub struct Node {
    settings: Settings,
    /// How often this run began anew in the eyes of the others ([`graves`]).
    epoch: u64,
    /// Where it lives: what the next version says.
    home: Home,
    /// From where a peer saw us, for others to use where no address was given.
    seen: Option<Seen>,
    own: Verified<Record>,
    /// When its entries were made, ms; nothing where an earlier run made them.
    own_since: Option<u64>,
    /// Since when not all that are alive hold the own state, ms; nothing while all do.
    spreading_since: Option<u64>,
    /// Digest of the entries that this run began with.
    first_digest: Hash,
    /// What patches for the peers are made of.
    own_changes: Changes,
    /// When the first of those that were asked to pass something on is late, ms.
    hedge_at: u64,
    /// When somebody was asked for its list last, ms.
    listed_at: Option<u64>,
    /// When one of those whose views differ is asked for its view next, ms.
    compare_at: u64,
    /// How many peers were met, or said something.
    members: usize,
    /// The own version that somebody brings to all that we do not know.
    introduced: Option<Fingerprint>,
    /// Who is lost by the last list that came: those that are not known yet do not count as there.
    said_lost: BTreeSet<NodeId>,
    /// The highest timestamp that is proved to have been issued by us, kept here or not.
    timestamp_floor: u64,
    /// Whether a version above that one has to be made, and is not yet.
    behind: Option<Republish>,
    /// How often peers showed us a later version of our own record in this run.
    catch_ups: u32,
    /// Whether it was told that one of them had something else in it.
    is_restored: bool,
    peers: PeerTable,
    graves: Graves,
    claims: Claims,
    seeds: Vec<Seed>,
    /// Where a forgotten node may be, as a bootstrap address for one try.
    knock: Option<Seed>,
    found: Found,
    inbox: Inbox,
    conflicts: Conflicts,
    /// What happened of late.
    notices: VecDeque<Happened>,
    view: View,
    save_peers: Option<Urgency>,
    random: fastrand::Rng,
    /// What tries of addresses that never answered are taken from.
    tries: Tries,
    /// Own probes, and what others asked for.
    probing: Probing,
    /// When those that are lost were hurried last, ms.
    hurried_at: Option<u64>,
    flights: u64,
    tickets: Ticket,
    started_ms: u64,
    tick_at: u64,
    ticks: u64,
}

/// Most messages that wait to be sent to one peer.
pub const OWED_DATA_MAX: usize = 16;
/// How long one try may take, ms: from the name to the last byte of the answer.
pub const TRY_LIMIT_MS: u64 = 5_000;
/// Tries of a request: the first and two more.
pub const TRIES: u32 = 3;
/// Time between tries, ms.
pub const RETRY_DELAY_MS: u64 = 500;

impl Node {
    /// Takes the settings, the own record as it was kept, the peers known from an earlier run, and
    /// a random number.
    pub fn new(
        settings: Settings,
        own: Verified<Record>,
        known: Vec<KnownPeer>,
        random: u64,
        now: Now,
    ) -> Self {
        // An address that is named twice is one target.
        let named: BTreeSet<&Address> = settings.seeds.iter().gathered();
        let seeds = named.into_iter().map(|address| Seed::new(address.clone())).collect();
        let mut view = View::default();
        view.note(&settings.node_id, Some(own.fingerprint));
        let mut node = Self {
            seeds,
            home: settings.home(),
            seen: None,
            settings,
            epoch: 0,
            view,
            timestamp_floor: own.head.timestamp,
            behind: None,
            first_digest: own.head.digest,
            own,
            own_since: None,
            spreading_since: None,
            own_changes: Changes::of_own(),
            hedge_at: u64::MAX,
            introduced: None,
            listed_at: None,
            compare_at: u64::MAX,
            members: 0,
            said_lost: BTreeSet::new(),
            catch_ups: 0,
            is_restored: false,
            peers: PeerTable::default(),
            graves: Graves::default(),
            claims: Claims::default(),
            knock: None,
            found: Found::default(),
            inbox: Inbox::default(),
            conflicts: Conflicts::default(),
            notices: VecDeque::new(),
            save_peers: None,
            random: fastrand::Rng::with_seed(random),
            tries: Tries::default(),
            probing: Probing::new(now.mono_ms),
            hurried_at: None,
            flights: 0,
            tickets: 0,
            started_ms: now.mono_ms,
            tick_at: now.mono_ms,
            ticks: 0,
        };
        for known in known {
            node.remember(known, now);
        }
        node.count_members();
        node
    }

    fn remember(&mut self, known: KnownPeer, now: Now) {
        let KnownPeer { node_id, known } = known;
        if self.is_me(&node_id) {
            return;
        }
        match known {
            Known::Forgotten { address } => {
                self.graves.forget(node_id, address, now.mono_ms);
            }
            // Whoever was taken off the list meanwhile is not known any more.
            Known::Pinned { pin, .. } if !self.is_allowed(&node_id, &pin.key) => {}
            Known::Pinned { pin, address } => {
                if self.peers.room_for(Trust::Hearsay, now.mono_ms) == Some(Room::Free) {
                    let mut peer = Peer::new(now.mono_ms);
                    peer.pin = Some(pin);
                    peer.place = Whereabouts::kept(address);
                    self.peers.insert(node_id, peer);
                }
            }
        }
    }

    /// The own record.
    pub fn own(&self) -> &Verified<Record> {
        &self.own
    }

    /// The own id.
    pub fn node_id(&self) -> &NodeId {
        &self.settings.node_id
    }

    /// The timestamp for the next version of the own record after `last`; nothing when none is
    /// left.
    pub fn next_timestamp(&self, wall_us: u64, last: u64) -> Option<u64> {
        super::head::next_timestamp(wall_us, last.max(self.timestamp_floor))
    }

    /// Takes the next version of the own record, the entries of which are on disk by now, and
    /// pushes it to all connected peers.
    pub fn on_set(&mut self, record: Verified<Record>, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        let old = std::mem::replace(&mut self.own, record);
        self.own_changes.note(&old, &self.own);
        if self.own.head.timestamp > self.timestamp_floor {
            self.timestamp_floor = self.own.head.timestamp;
            self.behind = None;
        }
        self.view.note(&self.settings.node_id, Some(self.own.fingerprint));
        if old.head.digest != self.own.head.digest {
            self.own_since = Some(now.mono_ms);
            self.begin_spread(now);
            actions.push(Action::Changed {
                node_id: self.settings.node_id.clone(),
                timestamp: self.own.head.timestamp,
                old: Arc::clone(&old.entries),
                new: Arc::clone(&self.own.entries),
            });
        }
        if self.is_mesh() {
            self.poke_all(now, &mut actions);
        } else {
            self.spread_own(old.fingerprint, now, &mut actions);
        }
        actions
    }

    /// Drops all that is known of a node: its key, its addresses and its state. It comes back by
    /// its own HELLO alone, and nothing that was recorded of it before is good again.
    pub fn forget(&mut self, node_id: &NodeId, now: Now) -> Result<Vec<Action>, Refused> {
        self.may_forget(node_id)?;
        let mut actions = Vec::new();
        let address = self.peers.get(node_id).and_then(|peer| peer.place.shown().cloned());
        self.bury(node_id, "it was forgotten here", now, &mut actions);
        self.graves.forget(node_id.clone(), address, now.mono_ms);
        self.conflicts.drop_about(node_id);
        self.found.hope_again();
        self.want_saved(Urgency::Now, &mut actions);
        Ok(actions)
    }

    /// Whether a node can be forgotten. One that was forgotten already can be, without harm.
    pub fn may_forget(&self, node_id: &NodeId) -> Result<(), Refused> {
        if self.is_me(node_id) {
            return Err(Refused::OwnNode(node_id.clone()));
        }
        if self.peers.get(node_id).is_none() && !self.graves.is_known(node_id) {
            return Err(Refused::UnknownNode(node_id.clone()));
        }
        Ok(())
    }

    /// The ids of all that are lost.
    pub fn lost(&self) -> Vec<NodeId> {
        let is_lost = |peer: &Peer| peer.status == super::report::PeerStatus::Lost;
        self.peers
            .iter()
            .filter(|(_, peer)| is_lost(peer))
            .map(|(node_id, _)| node_id.clone())
            .collect()
    }

    /// The peers that answer, or did a moment ago, and do not hold the newest version of the own
    /// record yet, and to which no relay that took it brings it.
    pub fn unaware(&self) -> Vec<NodeId> {
        use super::report::PeerStatus::{Alive, Suspect};
        let on_the_way = self.on_the_way();
        let is_unaware = |node_id: &NodeId, peer: &Peer| {
            matches!(peer.status, Alive | Suspect)
                && peer.direct_key().is_some()
                && !self.is_aware(node_id, peer, &on_the_way)
        };
        self.peers
            .iter()
            .filter(|(node_id, peer)| is_unaware(node_id, peer))
            .map(|(node_id, _)| node_id.clone())
            .collect()
    }

    /// The peers to keep on disk.
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        let pinned = self.peers.iter().filter_map(|(node_id, peer)| {
            let address = peer.place.proved().or_else(|| peer.place.address()).cloned();
            let known = Known::Pinned { pin: peer.pin?, address };
            Some(KnownPeer { node_id: node_id.clone(), known })
        });
        let forgotten = self.graves.forgotten().map(|(node_id, grave)| {
            let known = Known::Forgotten { address: grave.address.clone() };
            KnownPeer { node_id: node_id.clone(), known }
        });
        pinned.chain(forgotten).collect()
    }

    /// What the disk has to do; asked once, it is not asked for again.
    pub fn take_disk_wishes(&mut self) -> DiskWishes {
        DiskWishes { republish: self.republish(), save_peers: self.save_peers.take() }
    }

    fn want_saved(&mut self, urgency: Urgency, actions: &mut Vec<Action>) {
        self.save_peers = self.save_peers.max(Some(urgency));
        actions.push(Action::WakeDisk);
    }

    fn is_me(&self, node_id: &NodeId) -> bool {
        *node_id == self.settings.node_id
    }

    fn next_flight(&mut self) -> u64 {
        self.flights += 1;
        self.flights
    }

    fn wait(&mut self, now: Now) -> Wait {
        let roll = self.random.f64();
        Wait { now_ms: now.mono_ms, tick_ms: self.settings.tick_ms, roll }
    }

    /// The peer of that name, made if there is room; `None` where the table is full.
    fn peer_or_new(
        &mut self,
        node_id: &NodeId,
        trust: Trust,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Option<&mut Peer> {
        if self.peers.get(node_id).is_none() {
            if let Room::Instead(goes) = self.peers.room_for(trust, now.mono_ms)? {
                self.bury(&goes, "its place was needed", now, actions);
            }
            let mut peer = Peer::new(now.mono_ms);
            if let Some(grave) = self.graves.take(node_id) {
                peer.removals = grave.removals;
                peer.floor = grave.floor;
                peer.pin = grave.pin;
            }
            self.peers.insert(node_id.clone(), peer);
        }
        self.peers.get_mut(node_id)
    }

    /// Takes a peer out of the table. What it said in this run is never good again.
    fn bury(&mut self, node_id: &NodeId, why: &str, now: Now, actions: &mut Vec<Action>) {
        let Some(mut peer) = self.peers.remove(node_id) else { return };
        self.drop_record(node_id, &mut peer, actions);
        give_up(node_id, &mut peer, why, actions);
        if !self.graves.dig(node_id, &peer) {
            self.begin_epoch(now, actions);
        }
    }

    /// Begins this run anew in the eyes of the others: nothing that was sent to it before is good
    /// any more, so the graves need not be remembered.
    fn begin_epoch(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.epoch += 1;
        self.settle_home(actions);
        self.graves.clear();
        // To all others it is another run that speaks from now on: what they know messages of this
        // one by is over.
        self.peers.change_all(|node_id, peer| {
            for ticket in peer.take_all_doubtful() {
                let why = "this node had to begin anew while the message was on its way; \
                           it may have been delivered all the same";
                let refused = Refused::Unreachable { node_id: node_id.clone(), why: why.into() };
                actions.push(Action::Finish(ticket, Err(refused)));
            }
        });
        self.notice(
            Fault::new(
                Code::BeganAnew,
                "many nodes came and went: all others have to say HELLO here again",
                "somebody with the network key makes up nodes: find out who it is, or use an allow-list",
            ),
            now,
        );
    }

    fn poke_all(&mut self, now: Now, actions: &mut Vec<Action>) {
        for node_id in self.peers.ids() {
            self.poke(&node_id, now, actions);
        }
    }

    /// The same for those to which something may be due as time passes.
    fn poke_awake(&mut self, now: Now, actions: &mut Vec<Action>) {
        let is_due =
            |peer: &Peer| self.waits_for_a_try(peer, now) || self.class_due(peer, now).is_some();
        let due = self.peers.awake().filter(|(_, peer)| is_due(peer));
        let due: Vec<NodeId> = due.map(|(node_id, _)| node_id.clone()).collect();
        for node_id in due {
            self.poke(&node_id, now, actions);
        }
    }

    /// Puts a send on its way where something is due to the peer and nothing is in flight; or where
    /// what is due now need not wait with those that what was due before waits with.
    fn poke(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        self.grant_try(node_id, now);
        let peer = self.peers.get(node_id);
        let Some(class) = peer.and_then(|peer| self.class_due(peer, now)) else { return };
        let flight = self.next_flight();
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        peer.flight = Some(Flight {
            id: flight,
            call: None,
            address: None,
            tries: 0,
            began: now.mono_ms,
            class,
        });
        actions.push(Action::Send(Job { target: Target::Peer(node_id.clone()), flight, class }));
    }
}

/// Tells all that wait for the peer why they wait in vain, and whether DATA may have arrived.
fn give_up(node_id: &NodeId, peer: &mut Peer, why: &str, actions: &mut Vec<Action>) {
    let waiting = peer.take_waiting();
    actions.extend(waiting.into_iter().map(|(ticket, doubtful)| {
        let maybe = if doubtful { "; it may have been delivered all the same" } else { "" };
        let refused =
            Refused::Unreachable { node_id: node_id.clone(), why: format!("{why}{maybe}") };
        Action::Finish(ticket, Err(refused))
    }));
}

/// The peer was started again: a message that may have been delivered before is not sent again.
fn give_up_doubtful(node_id: &NodeId, peer: &mut Peer, actions: &mut Vec<Action>) {
    for ticket in peer.take_doubtful() {
        let why = "it was started again while the message was on its way; \
                   it may have been delivered all the same";
        let refused = Refused::Unreachable { node_id: node_id.clone(), why: why.into() };
        actions.push(Action::Finish(ticket, Err(refused)));
    }
}

/// An address for people.
fn place_text(address: Option<&Address>) -> &str {
    address.map_or("an unknown address", Address::as_str)
}

#[cfg(test)]
mod tests;
