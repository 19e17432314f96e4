//! What a node tells the people and programs beside it: status, peers, states, events, refusals.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::entries::{Entries, InvalidEntry, Key, Value};
use super::fault::{Fault, Notice};
use super::identity::{NodeId, PublicKey};

/// How a peer is doing, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerStatus {
    /// It answers.
    Alive,
    /// It did not answer of late, or was never reached yet.
    Suspect,
    /// It has not answered for so long that it is counted as gone; it is tried again for ever.
    Lost,
    /// It said goodbye.
    Left,
}

impl PeerStatus {
    /// The word for it in all output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// How long something that is wrong is shown after it was seen last, ms: longer than the longest
/// wait between tries, so that what goes on does not blink.
pub const CONFLICT_SHOWN_MS: u64 = 90_000;

/// How many peers have each status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Peers that answer.
    pub alive: usize,
    /// Peers that did not answer of late.
    pub suspect: usize,
    /// Peers counted as gone.
    pub lost: usize,
    /// Peers that said goodbye.
    pub left: usize,
}

/// What the node says of itself.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its id.
    pub node_id: NodeId,
    /// The address it listens on, as `ADDR:PORT`.
    pub listen: String,
    /// The address of its web page, where it has one; the driver knows it.
    pub http: Option<String>,
    /// The address that it tells others, where one was given or seen.
    pub advertise: Option<Address>,
    /// Version of the program.
    pub version: &'static str,
    /// Version of the protocol.
    pub protocol: u16,
    /// How long it runs.
    pub uptime: Duration,
    /// Its peers by status.
    pub peers: PeerCounts,
    /// Number of keys in its own state.
    pub keys: usize,
    /// Timestamp of its own state, microseconds since 1970.
    pub timestamp: u64,
    /// Its public key.
    pub public_key: PublicKey,
    /// The name of the network key that it seals with; the driver knows it.
    pub network_key: String,
    /// What finding others on the local network does, where that is on; the driver knows it.
    pub discovery: Option<Discovered>,
    /// What is wrong right now; empty when all is well.
    pub degraded: Vec<Fault>,
    /// What happened of late, is over, and is worth to be known, the latest last.
    pub notices: Vec<Notice>,
}

/// What finding others on the local network does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The interfaces on which others can be heard, at most 16.
    pub interfaces: Vec<Interface>,
    /// What became of the addresses where members were heard.
    pub found: FoundCounts,
}

/// An interface on which others are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: Arc<str>,
    /// The address of this node that is announced there.
    pub address: IpAddr,
    /// What was heard there.
    pub heard: Heard,
}

/// What was heard on an interface for as long as it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Messages that were looked at, of all services, the own ones too.
    pub messages: u64,
    /// Those of them that are none.
    pub unreadable: u64,
    /// Messages that were dropped: one second has a limit, and one sender has a part of it.
    pub dropped: u64,
    /// Seconds in which not even the rest was read: what of it the kernel dropped nobody knows.
    pub full_seconds: u64,
    /// How often a member was heard.
    pub members: u64,
    /// How often a node was heard that is none: it has another network key, or what it said was
    /// changed.
    pub strangers: u64,
    /// Members that were heard and not looked for: one second has a limit of new ones, and one
    /// sender has a part of it.
    pub passed_over: u64,
    /// When a member was heard last, ms by the clock for all waiting.
    pub member_at: Option<u64>,
}

/// What became of addresses where members were heard, since the start of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FoundCounts {
    /// How many wait to be called, or are being called.
    pub waiting: usize,
    /// Calls that led to a node which was not there before: a new one, or one that was lost.
    pub met: u64,
    /// Calls that led to a node which was there already, or to this one.
    pub known: u64,
    /// Calls that led to a node which is not let in.
    pub refused: u64,
    /// Addresses where nobody of this network answered.
    pub nobody: u64,
    /// Addresses that were dropped, as too many waited.
    pub dropped: u64,
}

/// How many, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// How many.
    pub count: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What the rules know that is worth to be watched over time.
#[derive(Debug, Clone, Default)]
pub struct NodeMeasures {
    /// Peers by status.
    pub peers: PeerCounts,
    /// Those that are suspect or lost.
    pub down: Vec<(NodeId, PeerStatus)>,
    /// Keys of the own state.
    pub own: Load,
    /// Keys in the states of others, all together.
    pub held: Load,
    /// Messages in the inbox.
    pub inbox: Load,
}

/// What the node knows of one peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Its id.
    pub node_id: NodeId,
    /// Where it is, if known.
    pub address: Option<Address>,
    /// How it is doing.
    pub status: PeerStatus,
    /// How long ago something signed by it came directly from it; nothing if never.
    pub heard_ago: Option<Duration>,
    /// How long it takes to answer; nothing where it was not asked yet.
    pub round_trip: Option<Duration>,
    /// Number of keys in its state.
    pub keys: usize,
    /// Timestamp of its state, microseconds since 1970; 0 where none is held.
    pub timestamp: u64,
    /// Its public key, if known.
    pub public_key: Option<PublicKey>,
    /// The name of the network key that its last request was sealed with, if it made one.
    pub network_key: Option<Arc<str>>,
    /// Why it is not well: why it is not alive, or why it can be heard but not called.
    pub reason: Option<String>,
}

/// The state of one node, as this node holds it.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// Whose state it is.
    pub node_id: NodeId,
    /// How its owner is doing; the own node is always alive.
    pub status: PeerStatus,
    /// Its timestamp, microseconds since 1970, by the clock of its owner.
    pub timestamp: u64,
    /// Since when these entries are held here, ms by the clock for all waiting; nothing where they
    /// are the own ones and an earlier run made them.
    pub held_since: Option<u64>,
    /// The entries.
    pub entries: Arc<Entries>,
    /// Which of them expire, and when, ms by the same clock. Of the own state alone: when a key was
    /// set again without a change, its owner tells nobody.
    pub expires: Arc<BTreeMap<Key, u64>>,
}

/// Who of the peers that answer holds the newest version of the own state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// How many do.
    pub held: usize,
    /// Those that do not, as far as is known here.
    pub lacking: Vec<NodeId>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node became alive: for the first time, or again.
    Joined {
        /// Which.
        node_id: NodeId,
    },
    /// A node stopped answering.
    Suspect {
        /// Which.
        node_id: NodeId,
    },
    /// A node is counted as gone.
    Lost {
        /// Which.
        node_id: NodeId,
    },
    /// A node said goodbye.
    Left {
        /// Which.
        node_id: NodeId,
    },
    /// A key of a node (the own one too) has a new value, or none any more.
    Updated {
        /// Whose.
        node_id: NodeId,
        /// The timestamp of the version; where the node was forgotten, of its last one.
        timestamp: u64,
        /// Which key.
        key: Key,
        /// The value before.
        old: Option<Value>,
        /// The value now.
        new: Option<Value>,
        /// How long it stands unless it is set again, where it is known to expire: of own keys.
        expires_in: Option<Duration>,
    },
    /// DATA arrived. The message itself waits in the inbox until somebody receives it.
    Data {
        /// From whom.
        node_id: NodeId,
        /// What.
        data: Arc<[u8]>,
    },
    /// This reader was too slow: so many events were dropped here.
    Lagged {
        /// How many.
        count: u64,
    },
}

impl Event {
    /// The word for the kind of event in all output.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Joined { .. } => "joined",
            Self::Suspect { .. } => "suspect",
            Self::Lost { .. } => "lost",
            Self::Left { .. } => "left",
            Self::Updated { .. } => "updated",
            Self::Data { .. } => "data",
            Self::Lagged { .. } => "lagged",
        }
    }

    /// The node it is about; nothing for `Lagged`.
    pub fn node_id(&self) -> Option<&NodeId> {
        match self {
            Self::Joined { node_id }
            | Self::Suspect { node_id }
            | Self::Lost { node_id }
            | Self::Left { node_id }
            | Self::Updated { node_id, .. }
            | Self::Data { node_id, .. } => Some(node_id),
            Self::Lagged { .. } => None,
        }
    }
}

/// A message out of the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub from: NodeId,
    /// What was sent.
    pub data: Arc<[u8]>,
}

/// Why something that was asked of the node was not done. Nothing was changed, unless said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// What was asked breaks a limit.
    Invalid(InvalidEntry),
    /// DATA has at most 1 MiB.
    DataTooLong {
        /// How many bytes it had.
        bytes: usize,
    },
    /// No node of that name is known.
    UnknownNode(NodeId),
    /// The named node is this one, which can't do that to itself.
    OwnNode(NodeId),
    /// The node did not answer, or can't be reached: with the address tried and why.
    Unreachable {
        /// Which node.
        node_id: NodeId,
        /// What was tried, and what happened.
        why: String,
    },
    /// The node answered with a refusal.
    ByPeer {
        /// Which node.
        node_id: NodeId,
        /// What it said.
        why: String,
    },
    /// Too much waits to be sent to that node already.
    Busy(NodeId),
    /// The time that was given ran out; what was asked may or may not happen still.
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// The node said goodbye: its state does not change any more.
    Leaving,
    /// The node said goodbye, but could not tell these.
    NotTold {
        /// Which nodes.
        nodes: Vec<NodeId>,
    },
    /// The node broke a rule of its own and stops.
    Broken {
        /// Which.
        why: String,
    },
    /// The own state could not be written to disk.
    NotDurable {
        /// Which file, and what the system said.
        why: String,
    },
    /// The network keys were not changed.
    NetworkKey {
        /// Why.
        why: String,
    },
    /// The node is stopping.
    Stopping,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(fault) => fault.fmt(formatter),
            Self::DataTooLong { bytes } => {
                write!(
                    formatter,
                    "the data has {bytes} bytes, the limit is {}",
                    super::DATA_BYTES_MAX
                )
            }
            Self::UnknownNode(id) => {
                write!(
                    formatter,
                    "no node {id:?} is known here; `dsn peers --all` lists those that are"
                )
            }
            Self::OwnNode(id) => write!(formatter, "{id:?} is this node itself; name another one"),
            Self::Unreachable { node_id, why } => {
                write!(formatter, "{node_id} does not answer: {why}")
            }
            Self::ByPeer { node_id, why } => write!(formatter, "{node_id} refused: {why}"),
            Self::Busy(id) => {
                write!(formatter, "too much waits to be sent to {id} already; try again later")
            }
            Self::TimedOut { what } => write!(formatter, "timed out: {what}"),
            Self::Leaving => {
                write!(
                    formatter,
                    "nothing was changed: the node has said goodbye and is about to stop"
                )
            }
            Self::NotTold { nodes } => {
                let names: Vec<&str> = nodes.iter().take(10).map(NodeId::as_str).collect();
                let more = if nodes.len() > names.len() { ", …" } else { "" };
                write!(
                    formatter,
                    "the node left, but could not tell {}{more}: there it counts as lost until others pass the goodbye on",
                    names.join(", ")
                )
            }
            Self::Broken { why } => write!(formatter, "the node is broken and stops: {why}"),
            Self::NotDurable { why } => {
                write!(formatter, "nothing was changed, as it can't be kept: {why}")
            }
            Self::NetworkKey { why } => {
                write!(formatter, "the network keys were not changed: {why}")
            }
            Self::Stopping => write!(formatter, "the node is stopping"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<InvalidEntry> for Refused {
    fn from(fault: InvalidEntry) -> Self {
        Self::Invalid(fault)
    }
}
