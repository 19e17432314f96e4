//! Seal and open, sign and verify. The only user of `aes`, `ctr` and (but for hashes and for making
//! keys) `ring`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use dsn_keystream::Keystream;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use ring::{hkdf, hmac};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::hash::Sha256;
use super::head::Head;
use super::identity::{NodeId, PUBLIC_KEY_BYTES, PublicKey};
use super::record::Signature;

/// Length of the nonce in front of an envelope, bytes.
pub const NONCE_BYTES: usize = 16;
/// Length of the tag at the end of an envelope, bytes.
pub const TAG_BYTES: usize = 32;
/// What an envelope adds to a payload, bytes: nonce, message type, tag.
pub const ENVELOPE_BYTES: usize = NONCE_BYTES + 1 + TAG_BYTES;

/// The tag of an envelope; that of a request names it in what is sealed or signed in answer.
pub type Tag = [u8; TAG_BYTES];

/// The network keys of a node: the first seals, all open.
pub struct NetworkKeys(Vec<DerivedKeys>);

struct DerivedKeys {
    name: Arc<str>,
    keystream: Keystream,
    authentication: hmac::Key,
    /// For announcements on the local network alone: what strangers see there helps them nowhere
    /// else.
    discovery: hmac::Key,
}

impl NetworkKeys {
    /// How many there are: at least one.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Their names, the one that seals first.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|derived| derived.name.to_string()).collect()
    }

    /// The name of the one at this place, if there is one.
    pub fn name(&self, at: usize) -> Option<&Arc<str>> {
        self.0.get(at).map(|derived| &derived.name)
    }

    /// Takes the network keys, 32 bytes each; nothing where there is none.
    pub fn new(keys: &[Zeroizing<[u8; 32]>]) -> Option<Self> {
        let derived: Vec<_> = keys.iter().map(|key| DerivedKeys::new(key)).collect();
        (!derived.is_empty()).then_some(Self(derived))
    }
}

impl fmt::Debug for NetworkKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} network keys", self.0.len())
    }
}

/// What people call a network key: 8 hex digits that tell nothing of it.
pub fn network_key_name(key: &[u8; 32]) -> String {
    let hash = Sha256::new(b"dsn/1 name of a network key").chain(key);
    super::identity::hex(&hash.finish_short::<4>())
}

impl DerivedKeys {
    /// HKDF-SHA-256 (RFC 5869) with the salt "dsn/1" and a label for each use.
    fn new(key: &[u8; 32]) -> Self {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"dsn/1").extract(key);
        let derive = |label: &[u8]| {
            let mut bytes = Zeroizing::new([0; 32]);
            let info = [label];
            // 32 bytes is one block of SHA-256: the calls only fail above 255 blocks.
            let filled = secret
                .expand(&info, hkdf::HKDF_SHA256)
                .and_then(|material| material.fill(&mut *bytes));
            debug_assert!(filled.is_ok(), "HKDF gives 32 bytes");
            bytes
        };
        let keystream = Keystream::new(&derive(b"encryption"));
        let authentication = hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"authentication"));
        let discovery = hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"discovery"));
        Self { name: network_key_name(key).into(), keystream, authentication, discovery }
    }

    /// HMAC-SHA-256 (RFC 2104) over place, nonce and ciphertext.
    fn tag(&self, place: Place<'_>, covered: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.authentication);
        context.update(&place.label());
        context.update(covered);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// Where an envelope belongs. Its tag covers this, so it can't be moved elsewhere.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// A request to a path.
    Request {
        /// The path, such as `/ping`.
        path: &'a str,
    },
    /// The answer from a path.
    Answer {
        /// The path of the request.
        path: &'a str,
        /// The HTTP status that it travels with.
        status: u16,
        /// The tag of the request that it answers.
        request: &'a Tag,
    },
}

impl Place<'_> {
    /// What the tag covers before nonce and ciphertext.
    fn label(&self) -> Vec<u8> {
        let mut bytes = b"dsn/1 envelope".to_vec();
        let (direction, path) = match self {
            Self::Request { path } => (1, path),
            Self::Answer { path, .. } => (2, path),
        };
        bytes.push(direction);
        // A path is one of five short ones; a longer one is cut, and no envelope matches it.
        bytes.push(u8::try_from(path.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(path.as_bytes());
        if let Self::Answer { status, request, .. } = self {
            bytes.extend_from_slice(&status.to_le_bytes());
            bytes.extend_from_slice(*request);
        }
        bytes
    }
}

/// What the signature of a request covers before type and payload.
const REQUEST_LABEL: &[u8; 13] = b"dsn/1 request";
/// Where it lies in a message: in the place of the nonce, up to the type.
const LABEL_AT: usize = NONCE_BYTES - REQUEST_LABEL.len();

/// A message as it lies in its envelope, but in plain. What the signature of a request covers is
/// one piece of it, so a long one is signed, sealed, opened and checked without a copy.
#[derive(Debug)]
pub struct Plain(Vec<u8>);

impl Plain {
    /// One without a payload yet, and with room for one of so many bytes and for the tag.
    pub fn new(kind: u8, payload_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(payload_bytes + ENVELOPE_BYTES);
        bytes.resize(LABEL_AT, 0);
        bytes.extend_from_slice(REQUEST_LABEL);
        bytes.push(kind);
        Self(bytes)
    }

    /// Adds to the payload.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.0.get(NONCE_BYTES + 1..).unwrap_or_default()
    }

    /// What the signature of a request covers: of the payload so many bytes.
    pub fn signed(&self, payload_bytes: usize) -> Signed<'_> {
        let end = NONCE_BYTES + 1 + payload_bytes;
        Signed::Whole(Labelled(self.0.get(LABEL_AT..end).unwrap_or_default()))
    }

    /// `nonce ‖ AES-256-CTR[nonce](kind ‖ payload) ‖ HMAC-SHA-256(place ‖ nonce ‖ ciphertext)`.
    ///
    /// `key` is the index of a network key (0 for requests). Gives the envelope and its tag.
    pub fn seal(
        self,
        keys: &NetworkKeys,
        key: usize,
        nonce: [u8; NONCE_BYTES],
        place: Place<'_>,
    ) -> Option<(Vec<u8>, Tag)> {
        let keys = keys.0.get(key)?;
        let Self(mut body) = self;
        let (before, text) = body.split_first_chunk_mut()?;
        *before = nonce;
        keys.keystream.apply(&nonce, text);
        let tag = keys.tag(place, &body);
        body.extend_from_slice(&tag);
        Some((body, tag))
    }
}

/// An opened envelope.
#[derive(Debug)]
pub struct Opened {
    /// The message type.
    pub kind: u8,
    /// The tag it came with.
    pub tag: Tag,
    /// Which of the network keys opened it; an answer is sealed with the same one.
    pub key: usize,
    /// Decrypted where it lay.
    plain: Plain,
}

impl Opened {
    /// What stands for an envelope that nobody sealed, with nothing in it.
    pub fn unsealed(kind: u8, tag: Tag) -> Self {
        Self { kind, tag, key: 0, plain: Plain(Vec::new()) }
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.plain.payload()
    }

    /// What the signature of a request covers: of the payload so many bytes.
    pub fn signed(&self, payload_bytes: usize) -> Signed<'_> {
        self.plain.signed(payload_bytes)
    }
}

/// Bytes that no network key opens at this place: cut, changed, of another network, or garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMessage;

/// Seals a payload that lies elsewhere.
pub fn seal(
    keys: &NetworkKeys,
    key: usize,
    nonce: [u8; NONCE_BYTES],
    place: Place<'_>,
    kind: u8,
    payload: &[u8],
) -> Option<(Vec<u8>, Tag)> {
    let mut plain = Plain::new(kind, payload.len());
    plain.push(payload);
    plain.seal(keys, key, nonce, place)
}

/// The other way: checks the tag in constant time before anything is decrypted.
pub fn open(
    keys: &NetworkKeys,
    place: Place<'_>,
    mut body: Vec<u8>,
) -> Result<Opened, NotAMessage> {
    if body.len() < ENVELOPE_BYTES {
        return Err(NotAMessage);
    }
    let (covered, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(NotAMessage)?;
    let tag = *tag;
    let opens = |derived: &DerivedKeys| bool::from(derived.tag(place, covered).ct_eq(&tag));
    let key = keys.0.iter().position(opens).ok_or(NotAMessage)?;
    let derived = keys.0.get(key).ok_or(NotAMessage)?;
    body.truncate(body.len() - TAG_BYTES);
    let (nonce, text) = body.split_first_chunk_mut::<NONCE_BYTES>().ok_or(NotAMessage)?;
    derived.keystream.apply(nonce, text);
    let kind = *text.first().ok_or(NotAMessage)?;
    if let Some(label) = nonce.get_mut(LABEL_AT..) {
        label.copy_from_slice(REQUEST_LABEL);
    }
    Ok(Opened { kind, tag, key, plain: Plain(body) })
}

/// Length of the number that names an announcement on the local network, bytes.
pub const LABEL_BYTES: usize = 16;
/// Length of the tag of an announcement on the local network, bytes: half of a hash.
pub const MARK_BYTES: usize = 16;

/// What a node says of itself on the local network: a number that was never used before, and where
/// it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The number.
    pub label: [u8; LABEL_BYTES],
    /// The address, without the zone of a link-local one.
    pub ip: IpAddr,
    /// The port there.
    pub port: u16,
}

impl Announced {
    fn tag(&self, keys: &DerivedKeys) -> hmac::Tag {
        let ip = match self.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut context = hmac::Context::with_key(&keys.discovery);
        context.update(b"dsn/1 discovery");
        context.update(&self.label);
        context.update(&ip.octets());
        context.update(&self.port.to_le_bytes());
        context.sign()
    }

    /// What holders of the network key know it by: with the key that seals. To all others it is
    /// noise, like no other.
    pub fn mark(&self, keys: &NetworkKeys) -> Option<[u8; MARK_BYTES]> {
        self.tag(keys.0.first()?).as_ref().first_chunk().copied()
    }

    /// Whether a holder of one of the keys made the mark for just this place.
    pub fn is_marked(&self, keys: &NetworkKeys, mark: &[u8; MARK_BYTES]) -> bool {
        let fits = |key: &DerivedKeys| {
            let tag = self.tag(key);
            tag.as_ref().get(..MARK_BYTES).is_some_and(|tag| bool::from(tag.ct_eq(mark)))
        };
        keys.0.iter().any(fits)
    }
}

/// A node's private key. Never printable.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    public: PublicKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the private key of {:?}", self.public)
    }
}

/// The system gave no randomness, or a key is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CryptoFault(&'static str);

impl fmt::Display for CryptoFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for CryptoFault {}

impl PrivateKey {
    /// Takes a P-256 key pair as PKCS#8 (RFC 5958).
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, CryptoFault> {
        let fault = CryptoFault("it is not a P-256 key pair in PKCS#8");
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &random)
            .map_err(|_| fault)?;
        let public: [u8; PUBLIC_KEY_BYTES] =
            pair.public_key().as_ref().try_into().map_err(|_| fault)?;
        Ok(Self { pair, random, public: PublicKey(public) })
    }
}

/// Makes signatures with one private key.
pub trait Signer {
    /// The public half of the key.
    fn public_key(&self) -> PublicKey;

    /// A signature over the bytes that `what` stands for. Fails where the system gives no
    /// randomness.
    fn sign(&self, what: Signed<'_>) -> Result<Signature, CryptoFault>;
}

/// Checks signatures. The simulator has signatures of its own that cost little; in the program
/// there is [`Ecdsa`] alone.
pub trait Verifier {
    /// Whether `signature` over `what` was made with the private half of `key`.
    fn verify(&self, key: &PublicKey, what: Signed<'_>, signature: &Signature) -> bool;
}

impl Signer for PrivateKey {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    /// ECDSA P-256 with SHA-256 (FIPS 186-5).
    fn sign(&self, what: Signed<'_>) -> Result<Signature, CryptoFault> {
        let fault = CryptoFault("the system gave no randomness for a signature");
        let signature = self.pair.sign(&self.random, &what.bytes()).map_err(|_| fault)?;
        signature.as_ref().try_into().map_err(|_| fault)
    }
}

/// ECDSA over P-256 with SHA-256 (FIPS 186-5).
#[derive(Debug, Clone, Copy)]
pub struct Ecdsa;

impl Verifier for Ecdsa {
    fn verify(&self, key: &PublicKey, what: Signed<'_>, signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.0)
            .verify(&what.bytes(), signature)
            .is_ok()
    }
}

/// What a signature can cover; each kind has a label of its own, so none passes for another.
#[derive(Debug, Clone, Copy)]
pub enum Signed<'a> {
    /// A request as it lies in its message.
    Whole(Labelled<'a>),
    /// A request: its type, and its payload without the signature, as carried.
    Request {
        /// The message type.
        kind: u8,
        /// The payload before the signature.
        payload: &'a [u8],
    },
    /// An answer: bound to the request by its tag.
    Answer {
        /// The message type.
        kind: u8,
        /// The tag of the request.
        request: &'a Tag,
        /// The payload before the signature.
        payload: &'a [u8],
    },
    /// A version of the signer's own state.
    Record(&'a Head),
    /// That the signer is there, for somebody who drew the challenge.
    Here {
        /// The signer.
        node_id: &'a NodeId,
        /// What it was asked to sign.
        challenge: &'a [u8; 16],
    },
}

/// Bytes with the label of a request in front: [`Plain`] alone makes them.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a>(&'a [u8]);

impl Signed<'_> {
    /// The bytes that a signature is made and checked over.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        let bytes = match self {
            Self::Whole(labelled) => return labelled.0.into(),
            Self::Request { kind, payload } => [REQUEST_LABEL, &[*kind][..], payload].concat(),
            Self::Answer { kind, request, payload } => {
                [b"dsn/1 answer", &[*kind][..], &request[..], payload].concat()
            }
            Self::Record(head) => [b"dsn/1 record", &head.bytes()[..]].concat(),
            Self::Here { node_id, challenge } => {
                let id = node_id.as_str().as_bytes();
                // A node id has at most 64 bytes.
                let length = u8::try_from(id.len()).unwrap_or(u8::MAX);
                [b"dsn/1 here", &[length][..], id, &challenge[..]].concat()
            }
        };
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the sealed bytes the nonce stands in its place, not the label.
    #[test]
    fn what_a_request_signs_lies_in_one_piece_before_it_is_sealed_and_after_it_was_opened() {
        let keys = NetworkKeys::new(&[Zeroizing::new([1; 32])]).unwrap();
        let place = Place::Request { path: "/data" };
        let wanted = Signed::Request { kind: 5, payload: b"abc" };
        let mut plain = Plain::new(5, 10);
        plain.push(b"abc");
        assert_eq!(plain.signed(3).bytes(), wanted.bytes());
        plain.push(b"-signed");
        let (envelope, tag) = plain.seal(&keys, 0, [7; 16], place).unwrap();
        assert_eq!(envelope[..NONCE_BYTES], [7; 16]);
        assert_eq!(seal(&keys, 0, [7; 16], place, 5, b"abc-signed").unwrap().0, envelope);
        let opened = open(&keys, place, envelope).unwrap();
        assert_eq!((opened.kind, opened.tag, opened.payload()), (5, tag, &b"abc-signed"[..]));
        assert_eq!(opened.signed(3).bytes(), wanted.bytes());
        // More than there is covers nothing, so no signature fits it.
        assert!(opened.signed(11).bytes().is_empty());
    }
}
