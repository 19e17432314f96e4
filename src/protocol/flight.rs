//! Calls to a peer: of what kind they are, with whom they wait, what is in flight, what is tried
//! again.

use super::address::Address;
use super::doubt::Tell;
use super::errand::Errands;
use super::head::Fingerprint;
use super::identity::{NodeId, Session};

/// A request on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// Names the flight: a job or an answer of another one is ignored.
    pub id: u64,
    /// What is asked; nothing while it waits for a sender.
    pub call: Option<Call>,
    /// Where it was sent.
    pub address: Option<Address>,
    /// Tries made so far, this one included.
    pub tries: u32,
    /// When this one began, ms.
    pub began: u64,
    /// With whom it waits for a sender.
    pub class: Class,
}

/// A call that is to be made again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Tries made so far.
    pub tries: u32,
    /// When the next one is due, ms.
    pub at: u64,
    /// Whether it had its second chance: a HELLO or a higher number, and again.
    pub had_second_chance: bool,
}

/// What kind of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// HELLO.
    Hello,
    /// DATA.
    Data,
    /// PING.
    Ping,
    /// UPDATE that brings records.
    Push,
    /// UPDATE that asks for records.
    Pull,
    /// PEERS.
    Peers,
    /// UPDATE that asks for somebody, answers such a question, or accuses.
    Tell,
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
    /// UPDATE that brings records.
    Push {
        /// The version of our own record that it carries, if it does.
        own: Option<Fingerprint>,
        /// Whether it carries it as a patch.
        partial: bool,
        /// Whether it carries records of others that it lacks and can not ask for.
        gives: bool,
        /// What the peer is asked to pass on, and until when its answer is waited for.
        errands: Errands,
    },
    /// UPDATE that asks for records.
    Pull {
        /// Whose.
        wishes: Vec<NodeId>,
        /// Until when nobody else is asked for them, ms.
        alone_until: u64,
    },
    /// UPDATE without records.
    Tell(Tell),
    /// DATA: the one in front of the queue.
    Data {
        /// Who waits for the answer.
        ticket: Ticket,
        /// The session that it was sent in.
        session: Session,
    },
}

impl Call {
    /// Its kind.
    pub fn kind(&self) -> CallKind {
        match self {
            Self::Hello { .. } => CallKind::Hello,
            Self::Ping { .. } => CallKind::Ping,
            Self::Peers => CallKind::Peers,
            Self::Push { .. } => CallKind::Push,
            Self::Pull { .. } => CallKind::Pull,
            Self::Data { .. } => CallKind::Data,
            Self::Tell(_) => CallKind::Tell,
        }
    }
}

/// With whom a job waits for a sender: those of one class never wait for those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// It answered such a call the last time.
    Healthy,
    /// It answered there once, but not the last such call.
    Returning,
    /// It never answered there.
    Unproved,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Returning, Self::Unproved];
}

/// Names something that somebody waits for.
pub type Ticket = u64;
