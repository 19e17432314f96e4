//! What the messages carry.

use std::sync::Arc;

use super::Kind;
use crate::protocol::address::Address;
use crate::protocol::head::{Fingerprint, Head, Home, Version};
use crate::protocol::identity::{Incarnation, NodeId, PublicKey, Rank, Session};
use crate::protocol::record::{Patch, Record, Signature, SignedHead};
use crate::protocol::rings::{Ring, Stretch};
use crate::protocol::view::{BucketSet, Buckets, ViewHash};

/// Longest text of a refusal, bytes.
pub const TEXT_BYTES_MAX: usize = 500;
/// Longest version of a program, bytes.
pub const PROGRAM_BYTES_MAX: usize = 32;

/// Who speaks to whom: in PEERS, PING, DATA and wishes.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Header {
    /// The caller.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The caller's run: tells twins apart that share one key.
    pub incarnation: Incarnation,
    /// What the receiver gave the caller to name.
    pub session: Session,
    /// Higher than in any request before, from this caller in this session.
    pub number: u64,
}

/// HELLO: who I am; and, once I know who you are, proof that I speak now.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Hello {
    /// The caller.
    pub from: NodeId,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its run.
    pub incarnation: Incarnation,
    /// Version of its program, information only.
    pub program: ProgramVersion,
    /// The port it listens on.
    pub port: u16,
    /// The address it wants to be found at, where its operator gave one.
    pub advertise: Option<Address>,
    /// The second step. A HELLO without it changes nothing.
    pub proof: Option<HelloProof>,
}

/// What makes a HELLO one of now, for one receiver.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct HelloProof {
    /// The receiver.
    pub to: NodeId,
    /// What the receiver gave the caller to name.
    pub session: Session,
    /// Higher than in any request before, from this caller in this session.
    pub number: u64,
    /// What the receiver has to name when it calls the caller.
    pub given: Session,
}

/// The answer to a HELLO that does not name the right session.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct HelloAnswer {
    /// The protocol version that both will speak.
    pub version: u16,
    /// The receiver.
    pub node_id: NodeId,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its run.
    pub incarnation: Incarnation,
    /// What the caller has to name from now on.
    pub session: Session,
    /// Version of its program, information only.
    pub program: ProgramVersion,
    /// The address it wants to be found at, where its operator gave one.
    pub advertise: Option<Address>,
    /// From where the caller's connection came.
    pub seen: Address,
}

/// Text without what a terminal would act upon: printable ASCII, cut where it is too long.
fn printable(text: &str, bytes_max: usize) -> String {
    let shown = |character: char| {
        if matches!(character, ' '..='~') { character } else { '?' }
    };
    text.chars().take(bytes_max).map(shown).collect()
}

/// A program version: at most 32 printable characters of ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramVersion(String);

impl ProgramVersion {
    /// Takes a text, cut where it is too long; what is not printable becomes `?`.
    pub fn new(text: &str) -> Self {
        Self(printable(text, PROGRAM_BYTES_MAX))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What one node wants the operator of another to read: at most 500 printable characters of ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Takes a text, cut where it is too long; what is not printable becomes `?`.
    pub fn new(text: &str) -> Self {
        Self(printable(text, TEXT_BYTES_MAX))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// PEERS: what the caller holds, by the hashes of the buckets of its view.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Peers {
    /// Who speaks to whom.
    pub header: Header,
    /// One for each bucket; zeros where the caller would like to hear of it in any case, as it
    /// misses a node in it.
    pub buckets: Box<Buckets>,
}

/// The answer to PEERS: all that the receiver knows in those buckets that differ.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode)]
pub struct PeersAnswer {
    /// Those that differ. What they do not list is not known to the receiver.
    pub buckets: BucketSet,
    /// In the order of the ids, each id once; at most [`super::LISTED_MAX`].
    pub nodes: Vec<KnownNode>,
}

/// What a node says of another: a hint where it is, and which version of its state is held.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct KnownNode {
    /// Which node.
    pub node_id: NodeId,
    /// Where it may be found.
    pub address: Option<Address>,
    /// The key that it is known by; zeros where none is.
    pub rank: Rank,
    /// The version held.
    pub version: Version,
    /// Whether it is lost in the eyes of who says this.
    pub is_lost: bool,
}

/// UPDATE that brings records.
#[derive(Debug, Clone)]
pub struct Push {
    /// The receiver.
    pub to: NodeId,
    /// The receiver's run.
    pub incarnation: Incarnation,
    /// In the order of the ids, each id once; at most [`super::RECORDS_MAX`].
    pub records: Vec<Arc<Record>>,
    /// Partial records, of nodes that are not among the others, in the order of their ids; with the
    /// whole ones at most [`super::PUSHED_MAX`].
    pub patches: Vec<Arc<Patch>>,
    /// Whom the receiver is asked to bring these versions to, in the order of owners and rings,
    /// each once; at most [`super::RELAYS_MAX`].
    pub relays: Vec<Relay>,
    /// Who is asked for; at most [`super::ASKS_MAX`].
    pub asks: Vec<Ask>,
    /// What came of such questions; at most [`super::WORDS_MAX`].
    pub words: Vec<Word>,
    /// Who does not answer, by the word of somebody, in the order of the ids, each id once; at
    /// most [`super::SUSPECTS_MAX`].
    pub suspects: Vec<Suspected>,
}

impl Push {
    /// One that brings nothing yet.
    pub fn new(to: NodeId, incarnation: Incarnation) -> Self {
        let (records, patches, relays) = (Vec::new(), Vec::new(), Vec::new());
        let (asks, words, suspects) = (Vec::new(), Vec::new(), Vec::new());
        Self { to, incarnation, records, patches, relays, asks, words, suspects }
    }

    /// What the receiver itself is asked to sign.
    pub fn self_ask(&self) -> Option<&Ask> {
        self.asks.iter().find(|ask| ask.about == self.to)
    }
}

/// Whom the receiver of a version is asked to bring it to.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Relay {
    /// Whose version.
    pub owner: NodeId,
    /// The ring of which the stretch is a part.
    pub ring: Ring,
    /// All that the receiver knows there.
    pub stretch: Stretch,
}

/// Drawn by who asks: so that a word that answers it is one of now.
pub type Challenge = [u8; 16];

/// Somebody asks whether a node is there, which it can't reach itself.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Ask {
    /// Which node is to be tried; the receiver itself has only to answer.
    pub about: NodeId,
    /// Who wants to know.
    pub asker: NodeId,
    /// What the node has to sign.
    pub challenge: Challenge,
}

/// What came of an ask.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Word {
    /// Which node was tried.
    pub about: NodeId,
    /// The challenge of the ask.
    pub challenge: Challenge,
    /// The signature of that node over it; nothing where it was tried in vain. In a word about the
    /// sender itself it is made as the push is sealed.
    pub signature: Option<Signature>,
}

/// An accusation: the node does not answer. It ends with any version newer than this one.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Suspected {
    /// Which node.
    pub node_id: NodeId,
    /// The version that the accuser holds of it.
    pub fingerprint: Fingerprint,
}

/// That a node is there, as it signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// Which node.
    pub node_id: NodeId,
    /// What it was asked to sign.
    pub challenge: Challenge,
    /// Its signature.
    pub signature: Signature,
}

/// UPDATE that asks for records.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode)]
pub struct Pull {
    /// Who speaks to whom.
    pub header: Header,
    /// In the order of the ids, each id once; at most [`super::RECORDS_MAX`].
    pub wishes: Vec<Wish>,
}

/// A wish for another version than the one held.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Wish {
    /// Whose state.
    pub node_id: NodeId,
    /// The version held.
    pub version: Version,
}

/// PING.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Ping {
    /// Who speaks to whom.
    pub header: Header,
    /// The caller's view.
    pub view: ViewHash,
}

/// The answer to PING: the view of the receiver.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode)]
pub struct Pong {
    /// Equal where both hold the same records.
    pub view: ViewHash,
    /// Another node with the id of the caller that called the receiver lately.
    pub twin: Option<Twin>,
    /// What waits at the receiver for a caller that it can't call.
    pub mail: Option<Mail>,
}

/// What is told to a node that can't be called, in the answer to its PING: what a push would bring
/// to others.
#[derive(Debug, Clone, Default, PartialEq, Eq, bincode::Encode)]
pub struct Mail {
    /// What others want the caller to sign; at most [`super::ASKS_MAX`].
    pub asks: Vec<Challenge>,
    /// What came of asks of the caller; at most [`super::WORDS_MAX`].
    pub words: Vec<Word>,
    /// Who does not answer, by the word of the receiver, in the order of the ids, each id once; at
    /// most [`super::SUSPECTS_MAX`].
    pub suspects: Vec<Suspected>,
}

/// Another node with the same id.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Twin {
    /// From where it called.
    pub address: Address,
    /// Its public key.
    pub public_key: PublicKey,
}

/// DATA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Who speaks to whom.
    pub header: Header,
    /// The same in every try of one message, rising from message to message.
    pub id: u64,
    /// The message.
    pub data: Arc<[u8]>,
}

/// A request, decoded; signatures are not checked yet.
#[derive(Debug, Clone)]
pub enum Request {
    /// Type 1.
    Hello(Hello),
    /// Type 2.
    Peers(Peers),
    /// Type 3, form 0.
    Push(Push),
    /// Type 3, form 1.
    Pull(Pull),
    /// Type 4.
    Ping(Ping),
    /// Type 5.
    Data(Data),
}

impl Request {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Peers(_) => Kind::Peers,
            Self::Push(_) | Self::Pull(_) => Kind::Update,
            Self::Ping(_) => Kind::Ping,
            Self::Data(_) => Kind::Data,
        }
    }

    /// Whether the caller signs it. The records that are pushed carry the signatures of their
    /// owners instead.
    pub fn is_signed(&self) -> bool {
        !matches!(self, Self::Push(_))
    }

    /// Who speaks to whom, in those kinds that have it.
    pub fn header(&self) -> Option<&Header> {
        match self {
            Self::Hello(_) | Self::Push(_) => None,
            Self::Peers(peers) => Some(&peers.header),
            Self::Pull(pull) => Some(&pull.header),
            Self::Ping(ping) => Some(&ping.header),
            Self::Data(data) => Some(&data.header),
        }
    }
}

/// An answer with status 200, decoded; signatures are not checked yet.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To HELLO.
    Hello(HelloAnswer),
    /// To PEERS.
    Peers(PeersAnswer),
    /// To UPDATE with wishes: the records that were wished for, as far as they fit.
    Records(Vec<Arc<Record>>),
    /// To PING.
    Ping(Pong),
    /// To DATA: accepted.
    Data,
    /// To UPDATE that asks for the receiver itself: its signature over the challenge.
    Here(Signature),
}

/// A refusal of a request that opened.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode)]
pub struct Refusal {
    /// The number of the [`super::Reason`]; one that is not known here stays a number.
    pub reason: u16,
    /// What the operator at the other end should read.
    pub text: Text,
    /// For a replayed number: the highest one seen; else 0.
    pub number: u64,
    /// Which of the records that were pushed were refused; at most [`super::REFUSED_MAX`].
    pub records: Vec<RefusedRecord>,
}

/// A record that was refused.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct RefusedRecord {
    /// Whose.
    pub node_id: NodeId,
    /// The number of the reason.
    pub reason: u16,
    /// For a stale record: the version that the receiver holds, with its owner's proof.
    pub held: Option<Held>,
}

/// The head of a record with the owner's signature, beside the node id.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Held {
    /// Its timestamp.
    pub timestamp: u64,
    /// Whether the owner said goodbye with it.
    pub left: bool,
    /// Digest of the entries.
    pub digest: [u8; 32],
    /// Where the owner lives.
    pub home: Home,
    /// The owner's signature.
    pub signature: Signature,
}

impl RefusedRecord {
    /// The head that the receiver holds, with a signature that is not checked yet.
    pub fn signed_head(&self) -> Option<SignedHead> {
        let held = self.held.as_ref()?;
        let head = Head {
            node_id: self.node_id.clone(),
            timestamp: held.timestamp,
            left: held.left,
            digest: held.digest,
            home: held.home.clone(),
        };
        Some(SignedHead { head, signature: held.signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What others say is shown to people: nothing in it may act upon a terminal.
    #[test]
    fn a_text_has_nothing_that_a_terminal_acts_upon() {
        let text = Text::new("a\u{202e}b\x1b[2Jc\u{7f}d\u{9b}e\nf");
        assert_eq!(text.as_str(), "a?b?[2Jc?d?e?f");
        assert_eq!(Text::new(&"é".repeat(1_000)).as_str(), "?".repeat(TEXT_BYTES_MAX));
        assert_eq!(ProgramVersion::new(&"x".repeat(100)).as_str().len(), PROGRAM_BYTES_MAX);
    }
}
