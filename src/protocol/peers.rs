//! The peer table: of each other node the address, the pinned key, the link, what is in flight to
//! it and what is owed to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::PEERS_MAX;
use super::address::Address;
use super::identity::{NodeId, PublicKey, Session};
use super::report::PeerStatus;
use super::state::{Fingerprint, Record};
use super::wire::{Twin, Version};

/// How a public key came to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The node proved it to us in a HELLO. Only an operator changes it.
    Direct,
    /// A record signed with it came through others. A HELLO of the node itself replaces it.
    Hearsay,
}

/// One other node.
#[derive(Debug)]
pub struct Peer {
    /// Its pinned key.
    pub key: Option<(PublicKey, Trust)>,
    /// Where it was last reached, or said that it is.
    pub address: Option<Address>,
    /// The address that its operator gave it, for others to use.
    pub advertise: Option<Address>,
    /// Where others say that it is, the next to be tried last; tried while it does not answer at
    /// `address`.
    pub hints: VecDeque<Address>,
    /// The newest version of its state.
    pub record: Option<Arc<Record>>,
    /// The version that was dropped at the end of the retention time: not taken again.
    pub expired: Version,
    /// How it is doing.
    pub status: PeerStatus,
    /// When something signed by it last came directly from it, ms.
    pub heard_at: Option<u64>,
    /// Since when it is known here, ms.
    pub known_since: u64,
    /// What both know of each other's runs.
    pub link: Link,
    /// The request in flight to it, or queued to be: at most one.
    pub flight: Option<Flight>,
    /// The call to be tried again, after how many tries, and when, ms.
    pub retry: Option<Retry>,
    /// Flights that failed since the last that did not.
    pub failures: u32,
    /// Which of the network keys it opens, counted around.
    pub network_key: usize,
    /// Whether a hint came that was not tried yet.
    pub has_new_hint: bool,
    /// When it is tried next after a failure, ms.
    pub attempt_at: u64,
    /// What is owed to it.
    pub owed: Owed,
}

/// What two nodes know of each other's present runs.
#[derive(Debug, Default)]
pub struct Link {
    /// The peer's session.
    pub session: Option<Session>,
    /// The sessions before it, newest last: one that comes back is a twin with the same key.
    pub superseded: VecDeque<Session>,
    /// Whether the peer has our session and we have its: requests can be sent.
    pub connected: bool,
    /// The highest number that came from the peer.
    pub number_in: u64,
    /// The highest number that went to the peer.
    pub number_out: u64,
    /// The id of the last DATA accepted from the peer.
    pub data_in: u64,
    /// Which version of our own record the peer holds, as far as we know.
    pub own_held: Option<Fingerprint>,
    /// Whether the peer refused our last HELLO: that it answers the first step of each does not
    /// make it one that we can talk to.
    pub refused: bool,
    /// A twin of the peer, and when it called last, ms.
    pub twin: Option<(Twin, u64)>,
}

/// A request on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// Names the flight: an answer to another one is ignored.
    pub id: u64,
    /// What is asked; nothing while it waits for a sender.
    pub call: Option<Call>,
    /// Tries made so far, this one included.
    pub tries: u32,
}

/// A call that failed and is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries made so far.
    pub tries: u32,
    /// When, ms.
    pub at: u64,
}

/// What a flight is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// HELLO to an address.
    Hello {
        /// Where.
        address: Address,
    },
    /// PING.
    Ping {
        /// Who waits for the answer.
        waiting: Option<Ticket>,
    },
    /// PEERS.
    Peers,
    /// UPDATE.
    Update {
        /// The version of our own record that it carries, if it does.
        own: Option<Fingerprint>,
        /// Whether it carries it as a patch.
        partial: bool,
        /// Whether records were asked for.
        wants: bool,
    },
    /// DATA: the one in front of the queue.
    Data {
        /// Who waits for the answer.
        ticket: Ticket,
        /// The session of the peer that it was sent to.
        session: Session,
    },
}

/// Names something that somebody waits for.
pub type Ticket = u64;

/// What is owed to a peer; the newest state is sent, however often it was owed.
#[derive(Debug, Default)]
pub struct Owed {
    /// A PING.
    pub ping: bool,
    /// A PEERS.
    pub peers: bool,
    /// PINGs that somebody waits for.
    pub pings: VecDeque<Ticket>,
    /// DATA in order.
    pub data: VecDeque<OwedData>,
    /// Whether the last call was DATA: then other things go first, so that DATA starves nothing.
    pub data_was_last: bool,
    /// Nodes whose records the peer lacks.
    pub send: BTreeSet<NodeId>,
    /// Nodes whose records the peer has newer.
    pub want: BTreeSet<NodeId>,
}

/// A DATA message that waits to be sent.
#[derive(Debug)]
pub struct OwedData {
    /// Who waits for it.
    pub ticket: Ticket,
    /// The message.
    pub data: Arc<[u8]>,
    /// The id, from the first try on.
    pub id: Option<u64>,
    /// The peer's session at a try whose outcome is not known: in another session the message
    /// is never sent again, as it may have been delivered.
    pub doubtful_in: Option<Session>,
}

impl Peer {
    /// A node of which nothing is known yet.
    pub fn new(now_ms: u64) -> Self {
        Self {
            key: None,
            address: None,
            advertise: None,
            hints: VecDeque::new(),
            record: None,
            expired: Version::default(),
            status: PeerStatus::Suspect,
            heard_at: None,
            known_since: now_ms,
            link: Link::default(),
            flight: None,
            retry: None,
            failures: 0,
            network_key: 0,
            has_new_hint: false,
            attempt_at: 0,
            owed: Owed::default(),
        }
    }

    /// The key that the node proved to us, if it did.
    pub fn direct_key(&self) -> Option<PublicKey> {
        self.key.and_then(|(key, trust)| (trust == Trust::Direct).then_some(key))
    }

    /// The version of its state that is held here.
    pub fn version(&self) -> Version {
        self.record.as_deref().map_or_else(Version::default, version_of)
    }

    /// How long nothing was heard from it, ms.
    pub fn silence(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_at.unwrap_or(self.known_since))
    }

    /// Where to try it now: its address, and after each failure there the hint that was not tried
    /// for longest.
    pub fn address_to_try(&self) -> Option<&Address> {
        let hint = self.hints.back();
        if self.failures.is_multiple_of(2) {
            self.address.as_ref().or(hint)
        } else {
            hint.or(self.address.as_ref())
        }
    }

    /// A new hint is tried soon. That the address is tried every other time stays, so a liar who
    /// goes on naming new places does not keep it from being tried.
    pub fn try_soon(&mut self, at_ms: u64) {
        self.failures &= 1;
        self.attempt_at = self.attempt_at.min(at_ms);
        self.has_new_hint = true;
    }

    /// Nobody answered there: the other hints come first from now on.
    pub fn tried_in_vain(&mut self, address: &Address) {
        if let Some(at) = self.hints.iter().position(|hint| hint == address)
            && let Some(hint) = self.hints.remove(at)
        {
            self.hints.push_front(hint);
            self.has_new_hint = false;
        }
        // A hint that led to the node is its address now, and no hint that waits to be tried.
        self.has_new_hint &= !self.hints.is_empty();
    }

    /// Where others should look for it.
    pub fn address_to_share(&self) -> Option<&Address> {
        self.advertise.as_ref().or(self.address.as_ref()).or_else(|| self.hints.back())
    }

    /// Takes a hint where it may be. The newest ones are kept.
    pub fn add_hint(&mut self, address: &Address) -> bool {
        if self.address.as_ref() == Some(address) || self.hints.contains(address) {
            return false;
        }
        if self.hints.len() == HINTS_MAX {
            self.hints.pop_front();
        }
        self.hints.push_back(address.clone());
        true
    }

    /// Takes the address where it answered or which it claims; the old one stays as a hint.
    /// Says whether that changed anything.
    pub fn move_to(&mut self, address: Address) -> bool {
        if self.address.as_ref() == Some(&address) {
            return false;
        }
        self.hints.retain(|hint| *hint != address);
        if let Some(old) = self.address.replace(address) {
            self.add_hint(&old);
        }
        true
    }

    /// Whether a DATA message may be at the peer already, though no answer says so.
    pub fn is_doubtful(&self, data: &OwedData) -> bool {
        let in_flight = self.flight.as_ref().and_then(|flight| flight.call.as_ref());
        let is_this =
            |call: &Call| matches!(call, Call::Data { ticket, .. } if *ticket == data.ticket);
        data.doubtful_in.is_some() || in_flight.is_some_and(is_this)
    }

    /// Empties the queues of PING and DATA: who waited, and whether it may have been delivered.
    pub fn take_waiting(&mut self) -> Vec<(Ticket, bool)> {
        let data: Vec<_> =
            self.owed.data.iter().map(|data| (data.ticket, self.is_doubtful(data))).collect();
        self.owed.data.clear();
        self.owed.pings.drain(..).map(|ticket| (ticket, false)).chain(data).collect()
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

    /// Takes its session; says whether it is another one than before.
    pub fn begin_session(&mut self, session: Session) -> bool {
        if self.link.session == Some(session) {
            return false;
        }
        if let Some(old) = self.link.session.replace(session) {
            if self.link.superseded.len() == SUPERSEDED_MAX {
                self.link.superseded.pop_front();
            }
            self.link.superseded.push_back(old);
        }
        self.link.connected = false;
        self.link.own_held = None;
        self.link.data_in = 0;
        true
    }

    /// The number for the next request: above all before it and all that the peer has seen.
    pub fn next_number(&mut self, wall_us: u64) -> u64 {
        self.link.number_out = wall_us.max(self.link.number_out.saturating_add(1));
        self.link.number_out
    }
}

/// The version of a record.
pub fn version_of(record: &Record) -> Version {
    Version { timestamp: record.head.timestamp, fingerprint: record.fingerprint }
}

/// All other nodes by id, at most [`PEERS_MAX`].
#[derive(Debug, Default)]
pub struct PeerTable(BTreeMap<NodeId, Peer>);

impl PeerTable {
    /// The peer of that name.
    pub fn get(&self, node_id: &NodeId) -> Option<&Peer> {
        self.0.get(node_id)
    }

    /// The peer of that name, to change.
    pub fn get_mut(&mut self, node_id: &NodeId) -> Option<&mut Peer> {
        self.0.get_mut(node_id)
    }

    /// All of them in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.0.iter()
    }

    /// All of them, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&NodeId, &mut Peer)> {
        self.0.iter_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one more can come in for the given trust, and who has to go for it: nodes known
    /// from hearsay go first, then those lost for the longest time. Hearsay pushes nobody out.
    pub fn room_for(&self, trust: Trust, now_ms: u64) -> Option<Option<NodeId>> {
        if self.0.len() < PEERS_MAX {
            return Some(None);
        }
        if trust == Trust::Hearsay {
            return None;
        }
        let gone = |peer: &Peer| matches!(peer.status, PeerStatus::Lost | PeerStatus::Left);
        let unproven = |peer: &Peer| peer.direct_key().is_none();
        self.0
            .iter()
            .filter(|(_, peer)| gone(peer) || unproven(peer))
            .max_by_key(|(_, peer)| (unproven(peer), peer.silence(now_ms)))
            .map(|(node_id, _)| Some(node_id.clone()))
    }

    /// Takes a new peer; the caller has made room.
    pub fn insert(&mut self, node_id: NodeId, peer: Peer) {
        debug_assert!(self.0.len() < PEERS_MAX, "room was made");
        self.0.insert(node_id, peer);
    }

    /// Drops a peer.
    pub fn remove(&mut self, node_id: &NodeId) -> Option<Peer> {
        self.0.remove(node_id)
    }
}

/// Most addresses that others named for one node: a liar can make us try no more than these.
const HINTS_MAX: usize = 4;
/// Most former sessions that are remembered of one node.
const SUPERSEDED_MAX: usize = 8;
