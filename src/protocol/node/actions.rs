//! What the rules take, and what they say is to be done.

use std::fmt;
use std::sync::Arc;

use super::{AllowList, CheckedPush, CheckedWord};
use crate::protocol::address::Address;
use crate::protocol::entries::Entries;
use crate::protocol::flight::{Class, Ticket};
use crate::protocol::hash::Sha256;
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::record::{Record, SignedHead};
use crate::protocol::report::{Event, Refused};
use crate::protocol::verdict::Reason;
use crate::protocol::verified::{Authentic, Verified};
use crate::protocol::wire::{
    Answer, Challenge, Data, Hello, HelloAnswer, Here, Peers, PeersAnswer, Ping, Pong,
    ProgramVersion, Pull, Refusal, Request, Text,
};

/// What time it is, from both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock, microseconds since 1970; may jump, and is only used for timestamps.
    pub wall_us: u64,
    /// A clock that only goes forward, ms since any point; for all waiting.
    pub mono_ms: u64,
}

/// Drawn at random at each start: what is derived from it can't be known before.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a secret")
    }
}

impl Secret {
    /// Sixteen bytes that nobody knows before this node says them.
    pub(super) fn derived(&self, label: &[u8], epoch: u64, parts: &[&[u8]]) -> [u8; 16] {
        let hash = Sha256::new(label).chain(&self.0).chain(&epoch.to_le_bytes());
        parts.iter().fold(hash, |hash, part| hash.chain(part)).finish_short()
    }
}

/// What a node is told about itself when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its id.
    pub node_id: NodeId,
    /// Its public key.
    pub public_key: PublicKey,
    /// Drawn at random for this run.
    pub secret: Secret,
    /// The port it listens on.
    pub port: u16,
    /// The address its operator gave it.
    pub advertise: Option<Address>,
    /// Bootstrap addresses.
    pub seeds: Vec<Address>,
    /// Whether others are looked for on the local network.
    pub discovers: bool,
    /// Time between ticks, ms.
    pub tick_ms: u64,
    /// Up to so many peers a change goes to each of them by ourselves; beyond, by relays
    /// ([`super::MESH_MAX`]).
    pub mesh_max: usize,
    /// Into how many parts each ring is cut ([`super::RELAY_HEADS`]).
    pub relay_heads: usize,
    /// Version of the program.
    pub program: ProgramVersion,
    /// Whether nobody else is expected: then being alone is no fault.
    pub alone: bool,
    /// Whether the own state is kept over restarts.
    pub is_durable: bool,
    /// The nodes that may be in the network, with their keys; anybody where there is no list.
    pub allow: Option<AllowList>,
}

/// Whom a request goes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A known peer, wherever it is.
    Peer(NodeId),
    /// A bootstrap address, whoever is there.
    Seed(Address),
}

/// A send on its way to a sender. It carries the id of its flight, so it is good for that one
/// alone.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// To whom.
    pub target: Target,
    /// Which flight.
    pub flight: u64,
    /// With whom it waits.
    pub class: Class,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Something is owed to the target: ask [`super::Node::begin`] for it on a sender. Where no
    /// sender can take it, [`super::Node::put_back`] has to have it back.
    Send(Job),
    /// Call [`super::Node::on_tick`] at this time at the latest, ms.
    WakeAt(u64),
    /// There is something for the disk to do: [`super::Node::take_disk_wishes`].
    WakeDisk,
    /// Something happened.
    Tell(Event),
    /// A state changed from one to the other: its keys are to be told as events.
    Changed {
        /// Whose.
        node_id: NodeId,
        /// The timestamp of the version; where a record was dropped, of that one.
        timestamp: u64,
        /// Before.
        old: Arc<Entries>,
        /// Now.
        new: Arc<Entries>,
    },
    /// What somebody waited for is done (with the round-trip time, microseconds) or is not.
    Finish(Ticket, Result<u64, Refused>),
}

/// What the node wants of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskWishes {
    /// Make a new version of the own record, though nobody changed anything.
    pub republish: Option<Republish>,
    /// Keep the peers ([`super::Node::known_peers`]), and how soon.
    pub save_peers: Option<Urgency>,
}

/// Why a version with the same entries is made, and what of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Republish {
    /// The node lives elsewhere, or others hold what it made without writing it: the content on
    /// disk is the same, so nothing is written.
    Unwritten,
    /// Others hold a later version with something else in it: the next run is to be above it, too.
    Written,
}

/// How soon something has to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// An address: it is found again without it, only later.
    Late,
    /// A key: without it, somebody else could take the name.
    Soon,
    /// What an operator decided: it counts from then on, whatever others make the disk do.
    Now,
}

/// What a request gets.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub verdict: Verdict,
    /// Who proved with this very request that it is a member and speaks now.
    pub caller: Option<NodeId>,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Verdict {
    /// 200.
    Answer(Box<Answer>),
    /// 204.
    Nothing,
    /// 200 to an UPDATE that asks for the receiver: its signature over this.
    Here(NodeId, Challenge),
    /// Any other status.
    Refuse(Reason, Box<Refusal>),
}

impl Verdict {
    /// A 200 with what it carries.
    pub fn answer(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }

    /// A refusal with the reason and a text for the operator at the other end.
    pub fn refuse(reason: Reason, text: impl AsRef<str>) -> Self {
        let text = Text::new(text.as_ref());
        let refusal = Refusal { reason: reason.code(), text, number: 0, records: Vec::new() };
        Self::Refuse(reason, Box::new(refusal))
    }
}

/// A request whose speaker is proved, or whose records are.
#[derive(Debug)]
pub enum Incoming {
    /// HELLO, signed with the key in it.
    Hello(Authentic<Hello>),
    /// PEERS.
    Peers(Authentic<Peers>),
    /// UPDATE that asks for records.
    Pull(Authentic<Pull>),
    /// UPDATE that brings records.
    Push(CheckedPush),
    /// PING.
    Ping(Authentic<Ping>),
    /// DATA.
    Data(Authentic<Data>),
}

/// A request to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Where to.
    pub address: Address,
    /// The key that signs the answer; nothing where it is not known yet.
    pub signer: Option<PublicKey>,
    /// How long the answer is waited for, ms.
    pub limit_ms: u64,
    /// Which of the network keys seals it, counted around: 0 unless the target did not open those
    /// before.
    pub network_key: usize,
    /// What.
    pub request: Request,
}

/// How a request turned out.
#[derive(Debug)]
pub enum Outcome {
    /// 200 to a HELLO.
    Introduced(Authentic<HelloAnswer>),
    /// 204 to a HELLO.
    Welcomed(Authentic<()>),
    /// 200 to a PING, with those words in its mail that are waited for.
    Pong(Authentic<Pong>, Vec<CheckedWord>),
    /// 200 to a PEERS.
    Listed(Authentic<PeersAnswer>),
    /// 200 to a DATA.
    Accepted(Authentic<()>),
    /// 200 to wishes: those records that are news here.
    Records(Vec<Verified<Record>>),
    /// 204 to an UPDATE, which nobody signs.
    Nothing,
    /// 200 to an UPDATE that asks for the receiver.
    Here(Verified<Here>),
    /// A sealed refusal, and what it proves to be held of the own record.
    Refused(Refusal, Option<Verified<SignedHead>>),
    /// A refusal of bytes that did not open: it may have another network key than the one used.
    NotOpened(String),
    /// Nothing that counts came back: no connection, no answer in time, or bytes without a seal.
    Failed(String),
}
