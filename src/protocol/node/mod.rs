//! The rules: a request, an answer, a local change or a tick comes in; reply and actions come out.
//!
//! Nothing here does what it decides. The driver does, and so does the simulator.

mod answers;
mod calls;
mod inbox;
mod report;
mod requests;
mod ticking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::address::Address;
use super::identity::{NodeId, PublicKey, Session};
use super::patch::{Changes, Patch};
use super::peers::{Flight, Link, Peer, PeerTable, Ticket, Trust, version_of};
use super::report::{Event, PeerStatus, Refused};
use super::state::{Entries, Fingerprint, Record};
use super::verdict::Reason;
use super::wire::{Answer, Held, ProgramVersion, Refusal, Request, Version};

use inbox::Inbox;

pub use report::Conflict;

/// What time it is, from both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock, microseconds since 1970; may jump, and is only used for timestamps.
    pub wall_us: u64,
    /// A clock that only goes forward, ms since any point; for all waiting.
    pub mono_ms: u64,
}

/// What a node is told about itself when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its id.
    pub node_id: NodeId,
    /// Its public key.
    pub public_key: PublicKey,
    /// Drawn at random for this run.
    pub session: Session,
    /// The port it listens on.
    pub port: u16,
    /// The address its operator gave it.
    pub advertise: Option<Address>,
    /// Bootstrap addresses.
    pub seeds: Vec<Address>,
    /// Time between ticks, ms.
    pub tick_ms: u64,
    /// Version of the program.
    pub program: ProgramVersion,
    /// The timestamp of the next version from the wall clock and the last one
    /// ([`super::state::next_timestamp`]); the simulator puts a wrong one here to test itself.
    pub timestamp_rule: fn(u64, u64) -> Option<u64>,
    /// The nodes that may be in the network, with their keys; anybody where there is no list.
    pub allow: Option<BTreeMap<NodeId, PublicKey>>,
}

/// Whom a request goes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A known peer, wherever it is.
    Peer(NodeId),
    /// A bootstrap address, whoever is there.
    Seed(Address),
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Something is owed to the target: ask [`Node::begin`] for it on a sender.
    Send {
        /// To whom.
        target: Target,
        /// Whether it may well not answer: such sends must not hold up the others.
        doubtful: bool,
    },
    /// Call [`Node::on_tick`] at this time at the latest, ms.
    WakeAt(u64),
    /// Make a new version of the own record, though nothing changed: peers hold a later one.
    Republish,
    /// Pinned keys or addresses changed: keep them ([`Node::known_peers`]).
    SavePeers,
    /// Something happened.
    Tell(Event),
    /// A state changed from one to the other: its keys are to be told as events.
    Changed {
        /// Whose.
        node_id: NodeId,
        /// Before.
        old: Arc<Entries>,
        /// Now.
        new: Arc<Entries>,
    },
    /// What somebody waited for is done (with the round-trip time, microseconds) or is not.
    Finish(Ticket, Result<u64, Refused>),
    /// The operator should read this.
    Note(String),
}

/// What a request gets.
#[derive(Debug)]
pub enum Reply {
    /// 200.
    Answer(Box<Answer>),
    /// 204.
    Nothing,
    /// Any other status.
    Refuse(Reason, Box<Refusal>),
}

impl Reply {
    /// A 200 with what it carries.
    pub fn answer(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }

    /// A refusal with the reason and a text for the operator at the other end.
    pub fn refuse(reason: Reason, text: impl Into<String>) -> Self {
        let refusal = Refusal { reason: reason.code(), text: text.into(), held: None, number: 0 };
        Self::Refuse(reason, Box::new(refusal))
    }
}

/// A request whose sender is proved.
#[derive(Debug)]
pub struct Authentic {
    request: Request,
    signer: Option<PublicKey>,
}

impl Authentic {
    /// States that `request` was signed by `signer` (nobody, for kinds that are not signed), and
    /// that the records in it are signed by their owners.
    ///
    /// The driver says so after it verified the signatures, the simulator because it knows.
    pub fn new(request: Request, signer: Option<PublicKey>) -> Self {
        Self { request, signer }
    }
}

/// A request to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Names the flight in [`Node::on_answer`].
    pub flight: u64,
    /// Where to.
    pub address: Address,
    /// The key that signs the answer; nothing for HELLO, whose answer carries it.
    pub signer: Option<PublicKey>,
    /// Which of the network keys seals it, counted around: 0 unless the target did not open those
    /// before.
    pub network_key: usize,
    /// What.
    pub request: Request,
}

/// How a request turned out.
#[derive(Debug)]
pub enum Outcome {
    /// 200, with a proved answer.
    Answered(Answer),
    /// 204, proved as far as its kind asks for it.
    Nothing,
    /// A sealed refusal. `held_is_proved` where what it says is held carries the own signature.
    Refused {
        /// What it says.
        refusal: Refusal,
        /// Whether `refusal.held` was checked against the own key.
        held_is_proved: bool,
    },
    /// A refusal of bytes that did not open: it may have another network key than the one used.
    NotOpened(String),
    /// Nothing that counts came back: no connection, no answer in time, or bytes without a seal.
    Failed(String),
}

/// A bootstrap address.
#[derive(Debug)]
struct Seed {
    address: Address,
    /// Who answered there last.
    node_id: Option<NodeId>,
    flight: Option<u64>,
    tries: u32,
    failures: u32,
    network_key: usize,
    attempt_at: u64,
    last_fault: Option<String>,
}

/// A known peer as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Which node.
    pub node_id: NodeId,
    /// Its key.
    pub public_key: PublicKey,
    /// Whether the node proved the key to us.
    pub direct: bool,
    /// Where it was.
    pub address: Option<Address>,
}

/// One node of the network: the rules and all that they need to remember.
pub struct Node {
    settings: Settings,
    own: Arc<Record>,
    /// What patches for the peers are made of.
    own_changes: Changes,
    /// The highest timestamp that is proved to have been issued by us, kept here or not.
    timestamp_floor: u64,
    /// How often peers showed us a later version of our own record in this session.
    catch_ups: u32,
    peers: PeerTable,
    seeds: Vec<Seed>,
    inbox: Inbox,
    conflicts: VecDeque<Conflict>,
    /// When conflicts were told of late, ms.
    noted_at: Vec<u64>,
    /// The exclusive or of the fingerprints of all records held.
    view: Fingerprint,
    /// From where a peer saw us, for others to use where no address was given.
    seen_at: Option<Address>,
    random: fastrand::Rng,
    flights: u64,
    tickets: Ticket,
    started_ms: u64,
    tick_at: u64,
    ticks: u64,
}

/// Most messages that wait to be sent to one peer.
pub const OWED_DATA_MAX: usize = 16;
/// Tries of a request: the first and two more.
pub const TRIES: u32 = 3;
/// Time between tries, ms.
pub const RETRY_DELAY_MS: u64 = 500;

impl Node {
    /// Takes the settings, the own record as it was kept, the peers known from an earlier run, and
    /// a random number.
    pub fn new(settings: Settings, own: Record, pins: Vec<Pin>, random: u64, now: Now) -> Self {
        let seed = |address: &Address| Seed {
            address: address.clone(),
            node_id: None,
            flight: None,
            tries: 0,
            failures: 0,
            network_key: 0,
            attempt_at: 0,
            last_fault: None,
        };
        // An address that is named twice is one target.
        let named: BTreeSet<&Address> = settings.seeds.iter().collect();
        let mut node = Self {
            seeds: named.into_iter().map(seed).collect(),
            settings,
            view: own.fingerprint,
            timestamp_floor: own.head.timestamp,
            own: Arc::new(own),
            own_changes: Changes::default(),
            catch_ups: 0,
            peers: PeerTable::default(),
            inbox: Inbox::default(),
            conflicts: VecDeque::new(),
            noted_at: Vec::new(),
            seen_at: None,
            random: fastrand::Rng::with_seed(random),
            flights: 0,
            tickets: 0,
            started_ms: now.mono_ms,
            tick_at: now.mono_ms,
            ticks: 0,
        };
        for pin in pins {
            let room = node.peers.room_for(Trust::Hearsay, now.mono_ms).is_some();
            if room && pin.node_id != node.settings.node_id {
                let trust = if pin.direct { Trust::Direct } else { Trust::Hearsay };
                let mut peer = Peer::new(now.mono_ms);
                peer.key = Some((pin.public_key, trust));
                peer.address = pin.address;
                node.peers.insert(pin.node_id, peer);
            }
        }
        node
    }

    /// The own record.
    pub fn own(&self) -> &Arc<Record> {
        &self.own
    }

    /// The session of this run.
    pub fn session(&self) -> Session {
        self.settings.session
    }

    /// The timestamp for the next version of the own record; nothing when none is left.
    pub fn next_timestamp(&self, wall_us: u64, last: u64) -> Option<u64> {
        (self.settings.timestamp_rule)(wall_us, last.max(self.timestamp_floor))
    }

    /// Takes the next version of the own record, which is on disk by now, and pushes it to all
    /// connected peers.
    pub fn on_set(&mut self, record: Arc<Record>, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        let old = std::mem::replace(&mut self.own, record);
        self.own_changes.note(&old, &self.own);
        self.timestamp_floor = self.timestamp_floor.max(self.own.head.timestamp);
        xor(&mut self.view, &old.fingerprint);
        xor(&mut self.view, &self.own.fingerprint);
        actions.push(Action::Changed {
            node_id: self.settings.node_id.clone(),
            old: Arc::clone(&old.entries),
            new: Arc::clone(&self.own.entries),
        });
        for node_id in self.peer_ids() {
            self.poke(&node_id, now, &mut actions);
        }
        actions
    }

    /// Drops all that is known of a node: its key, its addresses and its state.
    pub fn forget(&mut self, node_id: &NodeId) -> Result<Vec<Action>, Refused> {
        if *node_id == self.settings.node_id {
            return Err(Refused::OwnNode(node_id.clone()));
        }
        let peer =
            self.peers.remove(node_id).ok_or_else(|| Refused::UnknownNode(node_id.clone()))?;
        let mut actions = vec![Action::SavePeers];
        self.conflicts.retain(|conflict| conflict.node_id.as_ref() != Some(node_id));
        self.bury(node_id, peer, "it was forgotten here", &mut actions);
        Ok(actions)
    }

    /// Whether all peers that can be reached hold the newest version of the own record.
    pub fn everybody_knows(&self) -> bool {
        self.peers.iter().all(|(_, peer)| {
            !peer.link.connected || peer.link.own_held == Some(self.own.fingerprint)
        })
    }

    /// The peers to keep on disk.
    pub fn known_peers(&self) -> Vec<Pin> {
        let pin = |(node_id, peer): (&NodeId, &Peer)| {
            let (public_key, trust) = peer.key?;
            let direct = trust == Trust::Direct;
            Some(Pin {
                node_id: node_id.clone(),
                public_key,
                direct,
                address: peer.address.clone(),
            })
        };
        self.peers.iter().filter_map(pin).collect()
    }

    /// The key that requests of `node_id` have to be signed with.
    pub fn direct_key_of(&self, node_id: &NodeId) -> Option<PublicKey> {
        self.peers.get(node_id)?.direct_key()
    }

    /// Whether a record would be taken: if not, its signature need not be checked.
    pub fn lacks(&self, record: &Record) -> bool {
        if record.head.node_id == self.settings.node_id {
            return record.head.is_newer_than(&self.own.head);
        }
        let held = self.peers.get(&record.head.node_id).and_then(|peer| peer.record.as_ref());
        held.is_none_or(|held| record.head.is_newer_than(&held.head))
    }

    /// The record that a patch is made of, if it is held: the caller works out the new one
    /// ([`super::wire::Update::make_whole`]).
    pub fn base_of(&self, patch: &Patch) -> Option<Arc<Record>> {
        let held = self.peers.get(&patch.head.node_id)?.record.as_ref()?;
        (held.fingerprint == patch.base).then(|| Arc::clone(held))
    }

    fn peer_ids(&self) -> Vec<NodeId> {
        self.peers.iter().map(|(node_id, _)| node_id.clone()).collect()
    }

    fn is_me(&self, node_id: &NodeId) -> bool {
        *node_id == self.settings.node_id
    }

    /// Whether the list, if there is one, has the node with this key.
    fn is_allowed(&self, node_id: &NodeId, key: &PublicKey) -> bool {
        self.settings.allow.as_ref().is_none_or(|list| list.get(node_id) == Some(key))
    }

    fn next_flight(&mut self) -> u64 {
        self.flights += 1;
        self.flights
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
            if let Some(goes) = self.peers.room_for(trust, now.mono_ms)?
                && let Some(peer) = self.peers.remove(&goes)
            {
                self.bury(&goes, peer, "its place was needed", actions);
            }
            self.peers.insert(node_id.clone(), Peer::new(now.mono_ms));
        }
        self.peers.get_mut(node_id)
    }

    /// What follows when a peer is taken out of the table.
    fn bury(&mut self, node_id: &NodeId, mut peer: Peer, why: &str, actions: &mut Vec<Action>) {
        self.drop_record(node_id, &mut peer, actions);
        give_up(node_id, &mut peer, why, actions);
    }

    fn drop_record(&mut self, node_id: &NodeId, peer: &mut Peer, actions: &mut Vec<Action>) {
        if let Some(record) = peer.record.take() {
            xor(&mut self.view, &record.fingerprint);
            actions.push(Action::Changed {
                node_id: node_id.clone(),
                old: Arc::clone(&record.entries),
                new: Arc::default(),
            });
        }
    }

    /// Pins the key that a node proved to us. Where hearsay said another one, what came with it
    /// goes. Says whether it was news; `None` where another proved key is pinned.
    fn pin(
        &mut self,
        node_id: &NodeId,
        key: PublicKey,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Option<bool> {
        match self.peers.get(node_id)?.key {
            Some((pinned, Trust::Direct)) => return (pinned == key).then_some(false),
            Some((claimed, Trust::Hearsay)) if claimed != key => {
                if let Some(mut peer) = self.peers.remove(node_id) {
                    self.drop_record(node_id, &mut peer, actions);
                    peer.link = Link::default();
                    peer.expired = Version::default();
                    peer.known_since = now.mono_ms;
                    self.peers.insert(node_id.clone(), peer);
                }
                actions.push(Action::Note(format!(
                    "{node_id} proved another key than others had told; what they told of it is dropped"
                )));
            }
            _ => {}
        }
        if let Some(peer) = self.peers.get_mut(node_id) {
            peer.key = Some((key, Trust::Direct));
        }
        actions.push(Action::SavePeers);
        Some(true)
    }

    /// Something signed by the peer came directly from it.
    fn heard(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        peer.heard_at = Some(now.mono_ms);
        let was = std::mem::replace(&mut peer.status, PeerStatus::Alive);
        if was == PeerStatus::Alive {
            return;
        }
        actions.push(Action::Tell(Event::Joined { node_id: node_id.clone() }));
        if was == PeerStatus::Lost {
            self.hurry_lost_peers(now);
        }
    }

    /// Where one lost peer is back a partition may have ended: the others are tried soon, spread
    /// over a tick.
    fn hurry_lost_peers(&mut self, now: Now) {
        let tick_ms = self.settings.tick_ms.max(1);
        let random = &mut self.random;
        for (_, peer) in self.peers.iter_mut() {
            if peer.status == PeerStatus::Lost {
                let soon = now.mono_ms + random.u64(0..tick_ms);
                peer.attempt_at = peer.attempt_at.min(soon);
            }
        }
    }

    /// Takes a newer version of another node's record, whose signature was checked.
    fn apply(&mut self, record: Arc<Record>, now: Now, actions: &mut Vec<Action>) {
        let node_id = record.head.node_id.clone();
        let Some(peer) = self.peers.get_mut(&node_id) else {
            return;
        };
        let left = record.head.left;
        let new = Arc::clone(&record.entries);
        xor(&mut self.view, &record.fingerprint);
        let old = peer.record.replace(record);
        if let Some(old) = &old {
            xor(&mut self.view, &old.fingerprint);
        }
        let old = old.map(|old| Arc::clone(&old.entries)).unwrap_or_default();
        actions.push(Action::Changed { node_id: node_id.clone(), old, new });
        if left && peer.status != PeerStatus::Left {
            peer.status = PeerStatus::Left;
            peer.link.connected = false;
            actions.push(Action::Tell(Event::Left { node_id: node_id.clone() }));
            self.fail_waiting(&node_id, "it left the network", actions);
        } else if !left && peer.status == PeerStatus::Left {
            peer.status = PeerStatus::Suspect;
            peer.known_since = now.mono_ms;
            peer.heard_at = None;
            peer.attempt_at = now.mono_ms;
        }
    }

    /// Tells all that wait for this peer that it can't be reached.
    fn fail_waiting(&mut self, node_id: &NodeId, why: &str, actions: &mut Vec<Action>) {
        if let Some(peer) = self.peers.get_mut(node_id) {
            give_up(node_id, peer, why, actions);
        }
    }

    /// Puts a send on its way where something is due to the peer and nothing is in flight.
    fn poke(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        if !self.something_is_due(node_id, now) {
            return;
        }
        let id = self.next_flight();
        let Some(peer) = self.peers.get_mut(node_id) else {
            return;
        };
        let tries = peer.retry.take().map_or(0, |retry| retry.tries);
        peer.flight = Some(Flight { id, call: None, tries });
        let doubtful = peer.status != PeerStatus::Alive || peer.failures > 0 || tries > 0;
        actions.push(Action::Send { target: Target::Peer(node_id.clone()), doubtful });
    }

    fn held_of(record: &Record) -> Option<Held> {
        Some(Held {
            node_id: record.head.node_id.clone(),
            timestamp: record.head.timestamp,
            left: record.head.left,
            digest: record.head.digest,
            signature: *record.signature.get()?,
        })
    }

    fn version_held_of(&self, node_id: &NodeId) -> Version {
        if self.is_me(node_id) {
            return version_of(&self.own);
        }
        self.peers.get(node_id).map_or_else(Version::default, Peer::version)
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

fn xor(view: &mut Fingerprint, fingerprint: &Fingerprint) {
    for (left, right) in view.iter_mut().zip(fingerprint) {
        *left ^= right;
    }
}
