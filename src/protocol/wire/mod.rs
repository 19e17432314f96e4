//! Messages to bytes and back. The only user of `bincode`.

mod codec;
mod messages;
mod records;

use bincode::enc::{Encode, Encoder};
use bincode::error::EncodeError;

use super::crypto::Plain;
use super::identity::SIGNATURE_BYTES;
use super::record::Signature;
use super::verdict::Reason;
use super::{DATA_BYTES_MAX, PEERS_MAX, PROTOCOL_VERSION};
use codec::{Bounded, decode, plain};
pub use messages::*;
use records::{RawRecord, typed_records, whole_records};

/// Most nodes in a list: all that may be known, and the one that says so.
pub const LISTED_MAX: usize = PEERS_MAX + 1;
/// Most whole records that one UPDATE brings: the signature of each is checked by one worker, a few
/// ms each on a board without fast arithmetic.
pub const RECORDS_MAX: usize = 64;
/// Most wishes in one pull, and most records in its answer: who starts anew in a large network
/// lacks all of them, and each request for some waits behind those of all others who do. A sender
/// checks them, up to the first one that is forged.
pub const PULLED_MAX: usize = 256;
/// Most records in one push: as many whole ones, and a partial one; or more partial
/// ones in their place.
pub const PUSHED_MAX: usize = RECORDS_MAX + 1;
/// Most records that a refusal names: all that can be pushed.
pub const REFUSED_MAX: usize = PUSHED_MAX;
/// Most stretches that a push asks to be passed on to: both rings of half of the records.
pub const RELAYS_MAX: usize = RECORDS_MAX;

/// Most asks in one UPDATE: each of them is a request for who gets it.
pub const ASKS_MAX: usize = 8;
/// Most words in one UPDATE: the signature of each may have to be checked.
pub const WORDS_MAX: usize = 8;
/// Most accusations in one UPDATE.
pub const SUSPECTS_MAX: usize = 64;

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

    /// Whether the receiver signs its answers with status 200. The records in the answer to an
    /// UPDATE carry the signatures of their owners instead.
    pub fn is_answer_signed(self) -> bool {
        self != Self::Update
    }
}

/// The first byte of an UPDATE: it brings records, or it asks for some.
const PUSH: u8 = 0;
const PULL: u8 = 1;

/// A message that can't be encoded: it breaks a limit.
pub type EncodeFault = EncodeError;

/// A decoded payload with the signature that came behind it, for messages that are signed.
#[derive(Debug)]
pub struct Decoded<'a, T> {
    /// The message.
    pub message: T,
    /// The bytes that the signature covers, as carried.
    pub signed: &'a [u8],
    /// The signature; all zero for messages that are not signed.
    pub signature: Signature,
}

/// A request as bytes; a signature over them follows where it is signed.
///
/// Errors only where a message breaks a limit, which no message that the core makes does.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, EncodeError> {
    Ok(plain_request(request)?.payload().to_vec())
}

/// A request where it is to be signed and sealed, with room for the signature.
pub fn plain_request(request: &Request) -> Result<Plain, EncodeError> {
    let kind = request.kind().byte();
    match request {
        Request::Hello(hello) => plain(kind, &(PROTOCOL_VERSION, PROTOCOL_VERSION, hello)),
        Request::Peers(peers) => plain(kind, peers),
        Request::Push(push) => plain(kind, &(PUSH, push)),
        Request::Pull(pull) => plain(kind, &(PULL, pull)),
        Request::Ping(ping) => plain(kind, ping),
        Request::Data(data) => plain(kind, data),
    }
}

/// An answer as bytes; a signature over them follows where the kind is signed.
pub fn encode_answer(answer: &Answer) -> Result<Vec<u8>, EncodeError> {
    // Of whatever kind: that is no part of the payload.
    Ok(plain_answer(Kind::Data, answer)?.payload().to_vec())
}

/// An answer where it is to be sealed.
pub fn plain_answer(kind: Kind, answer: &Answer) -> Result<Plain, EncodeError> {
    let kind = kind.byte();
    match answer {
        Answer::Hello(hello) => plain(kind, hello),
        Answer::Peers(peers) => plain(kind, peers),
        Answer::Records(records) => plain(kind, records),
        Answer::Ping(pong) => plain(kind, pong),
        Answer::Data => plain(kind, &()),
        Answer::Here(signature) => plain(kind, signature),
    }
}

/// A refusal as bytes; refusals are not signed.
pub fn encode_refusal(refusal: &Refusal) -> Result<Vec<u8>, EncodeError> {
    Ok(plain_refusal(Kind::Data, refusal)?.payload().to_vec())
}

/// A refusal where it is to be sealed.
pub fn plain_refusal(kind: Kind, refusal: &Refusal) -> Result<Plain, EncodeError> {
    plain(kind.byte(), refusal)
}

/// Bytes to a request of the kind, or the reason why they are refused.
pub fn decode_request(kind: Kind, payload: &[u8]) -> Result<Decoded<'_, Request>, Reason> {
    if kind == Kind::Hello {
        check_versions(payload)?;
    }
    if kind == Kind::Update {
        return decode_update(payload);
    }
    let (signed, signature) = split_signature(payload)?;
    let message = match kind {
        Kind::Hello => {
            let (_min, _max, hello): (u16, u16, Hello) = decode(signed)?;
            if hello.port == 0 {
                // Nobody listens there, and an address with it is none.
                return Err(Reason::LimitExceeded);
            }
            Request::Hello(hello)
        }
        Kind::Peers => Request::Peers(decode(signed)?),
        Kind::Ping => Request::Ping(decode(signed)?),
        Kind::Data => {
            let (header, id, data): (Header, u64, &[u8]) = decode(signed)?;
            if data.len() > DATA_BYTES_MAX {
                return Err(Reason::LimitExceeded);
            }
            Request::Data(Data { header, id, data: data.into() })
        }
        Kind::Update => return Err(Reason::WrongType),
    };
    Ok(Decoded { message, signed, signature })
}

fn decode_update(payload: &[u8]) -> Result<Decoded<'_, Request>, Reason> {
    match payload.first() {
        Some(&PUSH) => {
            type Raw<'a> = Bounded<RawRecord<'a>, PUSHED_MAX>;
            type Relays = Bounded<Relay, RELAYS_MAX>;
            type Asked = (Bounded<Ask, ASKS_MAX>, Bounded<Word, WORDS_MAX>);
            type Accused = Bounded<Suspected, SUSPECTS_MAX>;
            let (_form, to, incarnation, Bounded(raw), Bounded(relays), asked, Bounded(suspects)) =
                decode::<(u8, _, _, Raw<'_>, Relays, Asked, Accused)>(payload)?;
            let (Bounded(asks), Bounded(words)) = asked;
            check_order(&relays, |relay| (relay.owner.as_str(), relay.ring))?;
            check_order(&suspects, |suspected| suspected.node_id.as_str())?;
            let (records, patches) = typed_records(raw)?;
            let push = Push { to, incarnation, records, patches, relays, asks, words, suspects };
            let message = Request::Push(push);
            Ok(Decoded { message, signed: payload, signature: [0; SIGNATURE_BYTES] })
        }
        Some(&PULL) => {
            let (signed, signature) = split_signature(payload)?;
            let (_form, header, Bounded(wishes)) =
                decode::<(u8, _, Bounded<Wish, PULLED_MAX>)>(signed)?;
            check_order(&wishes, |wish| wish.node_id.as_str())?;
            Ok(Decoded { message: Request::Pull(Pull { header, wishes }), signed, signature })
        }
        _ => Err(Reason::Malformed),
    }
}

/// Bytes of an answer with status 200 to an answer of the kind.
pub fn decode_answer(kind: Kind, payload: &[u8]) -> Result<Decoded<'_, Answer>, Reason> {
    if kind == Kind::Update {
        // A list with something in it is longer.
        if let Ok(signature) = Signature::try_from(payload) {
            let message = Answer::Here(signature);
            return Ok(Decoded { message, signed: payload, signature: [0; SIGNATURE_BYTES] });
        }
        let Bounded(raw) = decode::<Bounded<RawRecord<'_>, PULLED_MAX>>(payload)?;
        let message = Answer::Records(whole_records(raw, PULLED_MAX)?);
        return Ok(Decoded { message, signed: payload, signature: [0; SIGNATURE_BYTES] });
    }
    let (signed, signature) = split_signature(payload)?;
    let message = match kind {
        Kind::Hello => Answer::Hello(decode(signed)?),
        Kind::Peers => {
            let (buckets, Bounded(nodes)) = decode::<(_, Bounded<KnownNode, LISTED_MAX>)>(signed)?;
            check_order(&nodes, |known| known.node_id.as_str())?;
            Answer::Peers(PeersAnswer { buckets, nodes })
        }
        Kind::Ping => {
            type Told = (Bounded<Challenge, ASKS_MAX>, Bounded<Word, WORDS_MAX>);
            let (view, twin, mail): (_, _, Option<(Told, Bounded<Suspected, SUSPECTS_MAX>)>) =
                decode(signed)?;
            let mail = mail.map(|((Bounded(asks), Bounded(words)), Bounded(suspects))| {
                check_order(&suspects, |suspected| suspected.node_id.as_str())?;
                Ok(Mail { asks, words, suspects })
            });
            Answer::Ping(Pong { view, twin, mail: mail.transpose()? })
        }
        Kind::Data if signed.is_empty() => Answer::Data,
        Kind::Data | Kind::Update => return Err(Reason::Malformed),
    };
    Ok(Decoded { message, signed, signature })
}

/// Bytes of an answer with a refusing status to a refusal.
pub fn decode_refusal(payload: &[u8]) -> Result<Refusal, Reason> {
    let (reason, text, number, Bounded(records)) =
        decode::<(_, _, _, Bounded<RefusedRecord, REFUSED_MAX>)>(payload)?;
    Ok(Refusal { reason, text, number, records })
}

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

fn split_signature(payload: &[u8]) -> Result<(&[u8], Signature), Reason> {
    let (signed, signature) =
        payload.split_last_chunk::<SIGNATURE_BYTES>().ok_or(Reason::Malformed)?;
    Ok((signed, *signature))
}

/// One way to write a list: sorted, each name once.
fn check_order<'a, T, N: PartialOrd + 'a>(
    list: &'a [T],
    name: impl Fn(&'a T) -> N,
) -> Result<(), Reason> {
    let is_sorted = list.is_sorted_by(|left, right| name(left) < name(right));
    if is_sorted { Ok(()) } else { Err(Reason::Malformed) }
}

impl Encode for Push {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.to.encode(encoder)?;
        self.incarnation.encode(encoder)?;
        codec::length(self.records.len() + self.patches.len()).encode(encoder)?;
        self.records.iter().try_for_each(|record| record.encode(encoder))?;
        self.patches.iter().try_for_each(|patch| patch.encode(encoder))?;
        (&self.relays, &self.asks, &self.words, &self.suspects).encode(encoder)
    }
}

impl Encode for Data {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.header.encode(encoder)?;
        self.id.encode(encoder)?;
        self.data.as_ref().encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::Version;
    use super::super::identity::{Incarnation, NodeId, Rank, Session};
    use super::super::view::BucketSet;
    use super::*;

    fn header() -> Header {
        Header {
            from: NodeId::new("from").unwrap(),
            to: NodeId::new("to").unwrap(),
            incarnation: Incarnation([1; 16]),
            session: Session([1; 16]),
            number: 1,
        }
    }

    fn refused(kind: Kind, request: &Request) -> Option<Reason> {
        let mut payload = encode_request(request).unwrap();
        payload.extend_from_slice(&[0; SIGNATURE_BYTES]);
        decode_request(kind, &payload).err()
    }

    fn lists(names: impl Iterator<Item = usize>) -> Option<Reason> {
        let nodes = names.map(|number| KnownNode {
            node_id: NodeId::new(&format!("n{number:04}")).unwrap(),
            address: None,
            rank: Rank::default(),
            version: Version::default(),
            is_lost: false,
        });
        let answer = PeersAnswer { buckets: BucketSet(1), nodes: nodes.collect() };
        let mut payload = encode_answer(&Answer::Peers(answer)).unwrap();
        payload.extend_from_slice(&[0; SIGNATURE_BYTES]);
        decode_answer(Kind::Peers, &payload).err()
    }

    fn wishes(names: impl Iterator<Item = usize>) -> Option<Reason> {
        let wishes = names.map(|number| Wish {
            node_id: NodeId::new(&format!("n{number:04}")).unwrap(),
            version: Version::default(),
        });
        refused(Kind::Update, &Request::Pull(Pull { header: header(), wishes: wishes.collect() }))
    }

    /// One request makes a worker compare, or look for, no more than this.
    #[test]
    fn lists_are_bounded() {
        assert_eq!(lists(0..LISTED_MAX), None);
        assert_eq!(lists(0..LISTED_MAX + 1), Some(Reason::Malformed));
        assert_eq!(wishes(0..PULLED_MAX), None);
        assert_eq!(wishes(0..PULLED_MAX + 1), Some(Reason::Malformed));
    }

    fn tells(change: impl FnOnce(&mut Push)) -> Option<Reason> {
        let mut push = Push::new(NodeId::new("to").unwrap(), Incarnation([1; 16]));
        change(&mut push);
        decode_request(Kind::Update, &encode_request(&Request::Push(push)).unwrap()).err()
    }

    fn suspected(number: usize) -> Suspected {
        let node_id = NodeId::new(&format!("n{number:04}")).unwrap();
        Suspected { node_id, fingerprint: [1; 16] }
    }

    /// Each ask is a request for who gets it, each word a signature to check.
    #[test]
    fn asks_words_and_accusations_are_few() {
        let id = || NodeId::new("n").unwrap();
        let ask = || Ask { about: id(), asker: id(), challenge: [1; 16] };
        let word = || Word { about: id(), challenge: [1; 16], signature: Some([1; 64]) };
        for (more, refused) in [(0, None), (1, Some(Reason::Malformed))] {
            let asks = (0..ASKS_MAX + more).map(|_| ask()).collect();
            assert_eq!(tells(|push| push.asks = asks), refused);
            let words = (0..WORDS_MAX + more).map(|_| word()).collect();
            assert_eq!(tells(|push| push.words = words), refused);
            let suspects = (0..SUSPECTS_MAX + more).map(suspected).collect();
            assert_eq!(tells(|push| push.suspects = suspects), refused);
        }
        for names in [[1, 1], [2, 1]] {
            let suspects = names.map(suspected).to_vec();
            assert_eq!(tells(|push| push.suspects = suspects), Some(Reason::Malformed));
        }
    }

    /// 64 bytes are a signature, and no list of records.
    #[test]
    fn an_answer_that_says_here_is_told_from_records() {
        let here = encode_answer(&Answer::Here([7; 64])).unwrap();
        let decoded = decode_answer(Kind::Update, &here).unwrap().message;
        assert!(matches!(decoded, Answer::Here(signature) if signature == [7; 64]));
        let none = encode_answer(&Answer::Records(Vec::new())).unwrap();
        let decoded = decode_answer(Kind::Update, &none).unwrap().message;
        assert!(matches!(decoded, Answer::Records(records) if records.is_empty()));
    }

    #[test]
    fn a_list_has_each_node_once_and_in_its_place() {
        for names in [[1, 1], [2, 1]] {
            assert_eq!(lists(names.into_iter()), Some(Reason::Malformed));
            assert_eq!(wishes(names.into_iter()), Some(Reason::Malformed));
        }
    }
}
