//! Messages to bytes and back. The only user of `bincode`: little-endian, fixed-width integers,
//! lengths of 8 bytes, no byte left over, every allocation bounded by the limit.

mod records;

use std::sync::Arc;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::de::{BorrowDecode, BorrowDecoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};

use super::address::Address;
use super::identity::{NodeId, PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES, Session};
use super::patch::Patch;
use super::state::{Fingerprint, Head, Record, Signature};
use super::verdict::Reason;
use super::{BODY_BYTES_MAX, DATA_BYTES_MAX, PEERS_MAX, PROTOCOL_VERSION};
use records::{RawRecord, typed_records};

/// The five message types; the number is the first sealed byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Exchange of keys, sessions and addresses.
    Hello = 1,
    /// Who is known, and which versions are held.
    Peers = 2,
    /// Records, both ways.
    Update = 3,
    /// Are you there, and do you hold what I hold?
    Ping = 4,
    /// Bytes from one node to another.
    Data = 5,
}

impl Kind {
    /// All five.
    pub const ALL: [Self; 5] = [Self::Hello, Self::Peers, Self::Update, Self::Ping, Self::Data];

    /// The HTTP path of the message.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Hello => "/hello",
            Self::Peers => "/peers",
            Self::Update => "/update",
            Self::Ping => "/ping",
            Self::Data => "/data",
        }
    }

    /// The message of an HTTP path.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }

    /// The number that travels.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// Whether the sender signs requests and answers of this kind. The records in an UPDATE
    /// carry the signatures of their owners instead.
    pub fn is_signed(self) -> bool {
        self != Self::Update
    }
}

/// Who speaks to whom: in PEERS, PING and DATA.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Header {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's session: tells twins apart that share one key.
    pub from_session: Session,
    /// The receiver's session.
    pub session: Session,
    /// Higher than in any request before, from this sender in this session of the receiver.
    pub number: u64,
}

/// HELLO: who I am; and, once I know who you are, proof that I speak now.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Hello {
    /// The sender.
    pub from: NodeId,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its session.
    pub session: Session,
    /// Version of its program, information only.
    pub program: ProgramVersion,
    /// The port it listens on.
    pub port: u16,
    /// The address it wants to be found at, where its operator gave one.
    pub advertise: Option<Address>,
    /// Higher than in any HELLO before, from this sender in this session of the receiver.
    pub number: u64,
    /// The receiver and its session, once known. A HELLO without it changes nothing.
    pub to: Option<(NodeId, Session)>,
}

/// The answer to a HELLO that does not name the receiver's session.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct HelloAnswer {
    /// The protocol version that both will speak.
    pub version: u16,
    /// The receiver.
    pub node_id: NodeId,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its session.
    pub session: Session,
    /// Version of its program, information only.
    pub program: ProgramVersion,
    /// The address it wants to be found at, where its operator gave one.
    pub advertise: Option<Address>,
    /// From where the caller's connection came.
    pub seen: Address,
}

/// A program version: at most 32 bytes of text without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramVersion(String);

impl ProgramVersion {
    /// Takes a text, cut where it is too long, without its control characters.
    pub fn new(text: &str) -> Self {
        Self(text.chars().filter(|character| !character.is_control()).take(8 * 4).collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// PEERS.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Peers {
    /// Who speaks to whom.
    pub header: Header,
}

/// The answer to PEERS: all nodes known, the answering one among them.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct PeersAnswer {
    /// At most one more than [`PEERS_MAX`].
    pub nodes: Vec<KnownNode>,
}

/// What a node says of another: a hint where it is, and which version of its state is held.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct KnownNode {
    /// Which node.
    pub node_id: NodeId,
    /// Where it may be found.
    pub address: Option<Address>,
    /// The version held.
    pub version: Version,
}

/// Which version of a record is held: all zero where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Version {
    /// Its timestamp.
    pub timestamp: u64,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
}

/// UPDATE: records for the receiver, and which records the sender wants in answer.
#[derive(Debug, Clone)]
pub struct Update {
    /// The receiver.
    pub to: NodeId,
    /// The receiver's session.
    pub session: Session,
    /// Records; their signatures are not checked yet.
    pub records: Vec<Arc<Record>>,
    /// Partial records; neither checked nor worked out yet.
    pub patches: Vec<Arc<Patch>>,
    /// Nodes of which the sender wants a newer version than the one named.
    pub wants: Vec<Want>,
}

impl Update {
    /// Puts whole records in the place of the partial ones whose base is held; the others stay. A
    /// patch that does not fit its base is the reason to refuse all of it.
    ///
    /// `base_of` is [`super::node::Node::base_of`]: whoever has a lock holds it in there alone.
    pub fn make_whole(
        &mut self,
        base_of: impl Fn(&Patch) -> Option<Arc<Record>>,
    ) -> Result<(), Reason> {
        for patch in std::mem::take(&mut self.patches) {
            match base_of(&patch) {
                Some(base) => self.records.push(Arc::new(base.patched(&patch)?)),
                None => self.patches.push(patch),
            }
        }
        Ok(())
    }
}

/// A wish for a newer version than the one held.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Want {
    /// Whose state.
    pub node_id: NodeId,
    /// The version held.
    pub version: Version,
}

/// PING, with what the sender's whole view looks like.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Ping {
    /// Who speaks to whom.
    pub header: Header,
    /// The exclusive or of the fingerprints of all records held: equal where the views are.
    pub view: Fingerprint,
}

/// The answer to PING: the view of the receiver.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Pong {
    /// The exclusive or of the fingerprints of all records held.
    pub view: Fingerprint,
    /// Another node with the id of the sender that called lately.
    pub twin: Option<Twin>,
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
    /// Type 3.
    Update(Update),
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
            Self::Update(_) => Kind::Update,
            Self::Ping(_) => Kind::Ping,
            Self::Data(_) => Kind::Data,
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
    /// To UPDATE: the records that were wanted, as far as they fit.
    Update(Vec<Arc<Record>>),
    /// To PING.
    Ping(Pong),
    /// To DATA: accepted.
    Data,
}

/// A refusal of a request that opened.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Refusal {
    /// The number of the [`Reason`]; one that is not known here stays a number.
    pub reason: u16,
    /// What the operator at the other end should read.
    pub text: String,
    /// For a stale record: what the receiver holds, with its owner's proof.
    pub held: Option<Held>,
    /// For a replayed number: the highest one seen; else 0.
    pub number: u64,
}

/// The head of a record with the owner's signature: proof that this version was made.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::BorrowDecode)]
pub struct Held {
    /// Whose record.
    pub node_id: NodeId,
    /// Its timestamp.
    pub timestamp: u64,
    /// Whether the owner said goodbye with it.
    pub left: bool,
    /// Digest of the entries.
    pub digest: [u8; 32],
    /// The owner's signature.
    pub signature: Signature,
}

impl Held {
    /// What the signature covers.
    pub fn head(&self) -> Head {
        Head {
            node_id: self.node_id.clone(),
            timestamp: self.timestamp,
            left: self.left,
            digest: self.digest,
        }
    }
}

/// A message that can't be encoded: it breaks a limit, or a record in it is not signed.
pub type EncodeFault = EncodeError;

/// A decoded payload with the signature that came behind it, for kinds that are signed.
#[derive(Debug)]
pub struct Decoded<'a, T> {
    /// The message.
    pub message: T,
    /// The bytes that the signature covers, as carried.
    pub signed: &'a [u8],
    /// The signature; all zero for kinds that are not signed.
    pub signature: Signature,
}

/// A request as bytes; a signature over them follows where the kind is signed.
///
/// Errors only where a message breaks a limit, which no message that the core makes does.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, EncodeError> {
    match request {
        Request::Hello(hello) => encode(&(PROTOCOL_VERSION, PROTOCOL_VERSION, hello)),
        Request::Peers(peers) => encode(peers),
        Request::Update(update) => encode(update),
        Request::Ping(ping) => encode(ping),
        Request::Data(data) => encode(data),
    }
}

/// An answer as bytes; a signature over them follows where the kind is signed.
pub fn encode_answer(answer: &Answer) -> Result<Vec<u8>, EncodeError> {
    match answer {
        Answer::Hello(hello) => encode(hello),
        Answer::Peers(peers) => encode(peers),
        Answer::Update(records) => encode(records),
        Answer::Ping(pong) => encode(pong),
        Answer::Data => Ok(Vec::new()),
    }
}

/// A refusal as bytes; refusals are not signed.
pub fn encode_refusal(refusal: &Refusal) -> Result<Vec<u8>, EncodeError> {
    encode(refusal)
}

/// Bytes to a request of the kind, or the reason why they are refused.
pub fn decode_request(kind: Kind, payload: &[u8]) -> Result<Decoded<'_, Request>, Reason> {
    if kind == Kind::Hello {
        check_versions(payload)?;
    }
    let (signed, signature) = split_signature(kind, payload)?;
    let message = match kind {
        Kind::Hello => {
            let (_min, _max, hello): (u16, u16, Hello) = decode(signed)?;
            if hello.port == 0 {
                // Nobody listens there, and an address with it is none.
                return Err(Reason::Malformed);
            }
            Request::Hello(hello)
        }
        Kind::Peers => Request::Peers(decode(signed)?),
        Kind::Update => {
            let (to, session, raw, wants) = decode::<(_, _, Vec<RawRecord<'_>>, _)>(signed)?;
            let (records, patches) = typed_records(raw)?;
            Request::Update(Update { to, session, records, patches, wants })
        }
        Kind::Ping => Request::Ping(decode(signed)?),
        Kind::Data => {
            let (header, id, data): (Header, u64, &[u8]) = decode(signed)?;
            if data.len() > DATA_BYTES_MAX {
                return Err(Reason::LimitExceeded);
            }
            Request::Data(Data { header, id, data: data.into() })
        }
    };
    Ok(Decoded { message, signed, signature })
}

/// Bytes of an answer with status 200 to an answer of the kind.
pub fn decode_answer(kind: Kind, payload: &[u8]) -> Result<Decoded<'_, Answer>, Reason> {
    let (signed, signature) = split_signature(kind, payload)?;
    let message = match kind {
        Kind::Hello => Answer::Hello(decode(signed)?),
        Kind::Peers => {
            let answer: PeersAnswer = decode(signed)?;
            if answer.nodes.len() > PEERS_MAX + 1 {
                return Err(Reason::LimitExceeded);
            }
            Answer::Peers(answer)
        }
        Kind::Update => match typed_records(decode(signed)?)? {
            (records, patches) if patches.is_empty() => Answer::Update(records),
            _ => return Err(Reason::Malformed),
        },
        Kind::Ping => Answer::Ping(decode(signed)?),
        Kind::Data if signed.is_empty() => Answer::Data,
        Kind::Data => return Err(Reason::Malformed),
    };
    Ok(Decoded { message, signed, signature })
}

/// Bytes of an answer with a refusing status to a refusal.
pub fn decode_refusal(payload: &[u8]) -> Result<Refusal, Reason> {
    let mut refusal: Refusal = decode(payload)?;
    // It is shown to people: bounded, and without what a terminal would act upon.
    refusal.text =
        refusal.text.chars().filter(|c| !c.is_control()).take(REFUSAL_TEXT_MAX).collect();
    Ok(refusal)
}

/// Longest text of a refusal that is shown, characters.
const REFUSAL_TEXT_MAX: usize = 500;

/// The version comes first, readable whatever follows.
fn check_versions(payload: &[u8]) -> Result<(), Reason> {
    let [min_low, min_high, max_low, max_high, ..] = *payload else {
        return Err(Reason::Malformed);
    };
    let min = u16::from_le_bytes([min_low, min_high]);
    let max = u16::from_le_bytes([max_low, max_high]);
    if min > max {
        return Err(Reason::Malformed);
    }
    if min <= PROTOCOL_VERSION && PROTOCOL_VERSION <= max {
        Ok(())
    } else {
        Err(Reason::NoCommonVersion)
    }
}

fn split_signature(kind: Kind, payload: &[u8]) -> Result<(&[u8], Signature), Reason> {
    if !kind.is_signed() {
        return Ok((payload, [0; SIGNATURE_BYTES]));
    }
    let (signed, signature) =
        payload.split_last_chunk::<SIGNATURE_BYTES>().ok_or(Reason::Malformed)?;
    Ok((signed, *signature))
}

type Config = Configuration<LittleEndian, Fixint, Limit<DECODED_BYTES_MAX>>;

/// What one decode may allocate, bytes: a list in memory is larger than on the wire.
const DECODED_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;

const CONFIG: Config = bincode::config::standard()
    .with_little_endian()
    .with_fixed_int_encoding()
    .with_limit::<DECODED_BYTES_MAX>();

fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, EncodeError> {
    bincode::encode_to_vec(message, CONFIG)
}

fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, Reason> {
    match bincode::borrow_decode_from_slice(bytes, CONFIG) {
        Ok((message, used)) if used == bytes.len() => Ok(message),
        _ => Err(Reason::Malformed),
    }
}

impl Encode for Update {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.to.encode(encoder)?;
        self.session.encode(encoder)?;
        length(self.records.len() + self.patches.len()).encode(encoder)?;
        self.records.iter().try_for_each(|record| record.encode(encoder))?;
        self.patches.iter().try_for_each(|patch| patch.encode(encoder))?;
        self.wants.encode(encoder)
    }
}

impl Encode for Data {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.header.encode(encoder)?;
        self.id.encode(encoder)?;
        self.data.as_ref().encode(encoder)
    }
}

/// A length as it travels.
fn length(length: usize) -> u64 {
    length as u64
}

/// Types with rules of their own travel as the text or the bytes that they are made of.
macro_rules! travels_as {
    ($type:ty, $carrier:ty, $to:expr, $from:expr) => {
        impl Encode for $type {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                let to: fn(&$type) -> $carrier = $to;
                to(self).encode(encoder)
            }
        }

        impl<'de, Context> BorrowDecode<'de, Context> for $type {
            fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(
                decoder: &mut D,
            ) -> Result<Self, DecodeError> {
                let from: fn($carrier) -> Option<Self> = $from;
                let carrier = <$carrier>::borrow_decode(decoder)?;
                from(carrier).ok_or(DecodeError::Other(concat!("not a ", stringify!($type))))
            }
        }
    };
}

travels_as!(NodeId, &str, NodeId::as_str, |text| NodeId::new(text).ok());
travels_as!(Address, &str, Address::as_str, |text| Address::new(text).ok());
travels_as!(ProgramVersion, &str, ProgramVersion::as_str, |text| {
    let version = ProgramVersion::new(text);
    (version.as_str() == text).then_some(version)
});
travels_as!(PublicKey, [u8; PUBLIC_KEY_BYTES], |key| key.0, |bytes| Some(PublicKey(bytes)));
travels_as!(Session, [u8; 16], |session| session.0, |bytes| Some(Session(bytes)));
