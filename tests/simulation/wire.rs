//! Messages as bytes between simulated nodes: the real encoding and decoding, with signatures that
//! cost little and can only be made by who knows the number of the key.

use std::sync::Arc;

use dsn::protocol::crypto::Sha256;
use dsn::protocol::digest::head_bytes;
use dsn::protocol::identity::{NodeId, PublicKey};
use dsn::protocol::node::{Authentic, Node, Outcome, Outgoing, Reply};
use dsn::protocol::state::{Entries, Head, Record, Signature};
use dsn::protocol::verdict::Reason;
use dsn::protocol::wire::{self, Answer, Kind, Request};

/// What stands for the tag of an envelope: names the request that an answer belongs to.
pub type Tag = u64;

/// A request on the wire.
#[derive(Clone)]
pub struct RequestBytes {
    pub tag: Tag,
    pub kind: Kind,
    pub payload: Arc<[u8]>,
}

/// An answer on the wire.
#[derive(Clone)]
pub struct AnswerBytes {
    pub status: u16,
    pub payload: Vec<u8>,
}

fn sign(key: &PublicKey, label: &[u8], tag: Tag, bytes: &[u8]) -> Signature {
    let hash = Sha256::new(b"only in the simulator")
        .chain(&key.0)
        .chain(label)
        .chain(&tag.to_le_bytes())
        .chain(bytes)
        .finish();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&hash);
    signature
}

fn record_signature(key: &PublicKey, head: &Head) -> Signature {
    sign(key, b"record", 0, &head_bytes(head))
}

/// A version of a node's state with its owner's signature.
pub fn signed_record(
    node_id: &NodeId,
    key: PublicKey,
    timestamp: u64,
    left: bool,
    entries: Arc<Entries>,
) -> Record {
    let record = Record::new(node_id.clone(), key, timestamp, left, entries);
    record.signature.set(record_signature(&key, &record.head)).unwrap();
    record
}

fn is_signed_by_owner(record: &Record) -> bool {
    record.signature.get() == Some(&record_signature(&record.public_key, &record.head))
}

pub fn encode_request(own_key: &PublicKey, tag: Tag, request: &Request) -> RequestBytes {
    let kind = request.kind();
    let mut payload = wire::encode_request(request).unwrap();
    if kind.is_signed() {
        let signature = sign(own_key, b"request", 0, &payload);
        payload.extend_from_slice(&signature);
    }
    RequestBytes { tag, kind, payload: payload.into() }
}

/// What the driver does with the bytes of a request before the rules see it.
pub fn open_request(node: &Node, bytes: &RequestBytes) -> Result<Authentic, Reason> {
    let mut decoded = wire::decode_request(bytes.kind, &bytes.payload)?;
    let key = match &mut decoded.message {
        Request::Hello(hello) => Some(hello.public_key),
        Request::Peers(peers) => node.direct_key_of(&peers.header.from),
        Request::Ping(ping) => node.direct_key_of(&ping.header.from),
        Request::Data(data) => node.direct_key_of(&data.header.from),
        Request::Update(update) => {
            update.make_whole(|patch| node.base_of(patch))?;
            let bad = |record: &&Arc<Record>| node.lacks(record) && !is_signed_by_owner(record);
            if update.records.iter().any(|record| bad(&record)) {
                return Err(Reason::BadSignature);
            }
            None
        }
    };
    match key {
        Some(key) if sign(&key, b"request", 0, decoded.signed) != decoded.signature => {
            Err(Reason::BadSignature)
        }
        _ => Ok(Authentic::new(decoded.message, key)),
    }
}

pub fn encode_reply(own_key: &PublicKey, request: &RequestBytes, reply: Reply) -> AnswerBytes {
    let (status, mut payload) = match reply {
        Reply::Answer(answer) => (200, wire::encode_answer(&answer).unwrap()),
        Reply::Nothing => (204, Vec::new()),
        Reply::Refuse(reason, refusal) => {
            let payload = wire::encode_refusal(&refusal).unwrap();
            return AnswerBytes { status: reason.status().code(), payload };
        }
    };
    if request.kind.is_signed() {
        let signature = sign(own_key, b"answer", request.tag, &payload);
        payload.extend_from_slice(&signature);
    }
    AnswerBytes { status, payload }
}

/// What the driver does with the bytes of an answer before the rules see it.
pub fn open_answer(
    node: &Node,
    own_key: &PublicKey,
    outgoing: &Outgoing,
    tag: Tag,
    answer: &AnswerBytes,
) -> Outcome {
    let kind = outgoing.request.kind();
    let failed = || Outcome::Failed("its answer is not signed".into());
    let fits = |key: PublicKey, signed: &[u8], signature: &[u8]| {
        sign(&key, b"answer", tag, signed) == signature
    };
    match answer.status {
        200 => {
            let Ok(decoded) = wire::decode_answer(kind, &answer.payload) else {
                return failed();
            };
            let signer = match &decoded.message {
                Answer::Hello(hello) => Some(hello.public_key),
                Answer::Update(records) => {
                    let good =
                        |record: &Arc<Record>| !node.lacks(record) || is_signed_by_owner(record);
                    if !records.iter().all(good) {
                        return failed();
                    }
                    None
                }
                _ => outgoing.signer,
            };
            let proved = !kind.is_signed()
                || signer.is_some_and(|key| fits(key, decoded.signed, &decoded.signature));
            if proved { Outcome::Answered(decoded.message) } else { failed() }
        }
        204 => {
            let signer = match &outgoing.request {
                Request::Hello(hello) => {
                    hello.to.as_ref().and_then(|(node_id, _)| node.direct_key_of(node_id))
                }
                _ => None,
            };
            match (kind, signer) {
                (Kind::Update, _) => Outcome::Nothing,
                (_, Some(key)) if fits(key, &[], &answer.payload) => Outcome::Nothing,
                _ => failed(),
            }
        }
        _ => {
            let Ok(refusal) = wire::decode_refusal(&answer.payload) else {
                return failed();
            };
            let held_is_proved = refusal
                .held
                .as_ref()
                .is_some_and(|held| record_signature(own_key, &held.head()) == held.signature);
            Outcome::Refused { refusal, held_is_proved }
        }
    }
}
