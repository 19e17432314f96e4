//! Golden vectors: the bytes of every message, fixed for protocol version 1.
//!
//! Each file in `tests/golden/v1` holds one envelope with all that is needed to make it again.
//! The tests open it, decode it, check its signature, and build the same bytes from what they
//! decoded. `DSN_GOLDEN_WRITE=1 cargo test golden::` makes new vectors: only for a new
//! version of the protocol, as nodes in the field speak the old one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dsn::protocol::crypto::{
    Announced, Ecdsa, NetworkKeys, Place, PrivateKey, Signed, Signer, TAG_BYTES, Tag, Verifier,
    open, seal,
};
use dsn::protocol::identity::{SIGNATURE_BYTES, hex, unhex};
use dsn::protocol::record::{Patch, Record};
use dsn::protocol::verified::Verified;
use dsn::protocol::wire::{self, Kind, Push, Request};
use zeroize::Zeroizing;

mod maker;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// One file: `name value` lines.
#[derive(Debug, Clone)]
struct Vector(BTreeMap<String, String>);

impl Vector {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.map(|line| line.split_once(' ').unwrap()).map(owned).collect())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        unhex(self.text(name)).unwrap()
    }

    fn kind(&self) -> Kind {
        Kind::of_path(self.text("path")).unwrap()
    }

    fn status(&self) -> Option<u16> {
        self.text("status").parse().ok()
    }

    /// The tag of the request that this answers.
    fn request_tag(&self) -> Tag {
        let name = self.text("answers");
        let request = Self::read(&folder().join(format!("{name}.txt"))).bytes("envelope");
        tag_of(&request)
    }

    fn with_place<T>(&self, work: impl FnOnce(Place<'_>) -> T) -> T {
        let path = self.kind().path();
        match self.status() {
            None => work(Place::Request { path }),
            Some(status) => work(Place::Answer { path, status, request: &self.request_tag() }),
        }
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn tag_of(envelope: &[u8]) -> Tag {
    envelope[envelope.len() - TAG_BYTES..].try_into().unwrap()
}

fn vectors() -> Vec<(String, Vector)> {
    let mut all: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap() != "keys.txt")
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), Vector::read(&path)))
        .collect();
    all.sort_by(|left, right| left.0.cmp(&right.0));
    all
}

fn network_keys() -> NetworkKeys {
    let keys = Vector::read(&folder().join("keys.txt"));
    let key: [u8; 32] = keys.bytes("network_key").try_into().unwrap();
    NetworkKeys::new(&[Zeroizing::new(key)]).unwrap()
}

fn private_key(name: &str) -> PrivateKey {
    let keys = Vector::read(&folder().join("keys.txt"));
    PrivateKey::from_pkcs8(&keys.bytes(&format!("{name}_pkcs8"))).unwrap()
}

/// What the payload of a vector says, encoded again; with the part that its signature covers.
fn encode_again(vector: &Vector, payload: &[u8]) -> Vec<u8> {
    let kind = vector.kind();
    match vector.status() {
        None => {
            let decoded = wire::decode_request(kind, payload).unwrap();
            let again = wire::encode_request(&decoded.message).unwrap();
            assert_eq!(hex(&again), hex(decoded.signed));
            again
        }
        Some(200) => {
            let decoded = wire::decode_answer(kind, payload).unwrap();
            let again = wire::encode_answer(&decoded.message).unwrap();
            assert_eq!(hex(&again), hex(decoded.signed));
            again
        }
        Some(204) => Vec::new(),
        Some(_) => wire::encode_refusal(&wire::decode_refusal(payload).unwrap()).unwrap(),
    }
}

#[test]
fn every_vector_opens_decodes_and_is_made_again_to_the_byte() {
    let all = vectors();
    assert!(all.len() >= 14, "the vectors are there");
    for (name, vector) in &all {
        let envelope = vector.bytes("envelope");
        let opened =
            vector.with_place(|place| open(&network_keys(), place, envelope.clone())).unwrap();
        assert_eq!(opened.kind, vector.kind().byte(), "{name}");
        assert_eq!(hex(opened.payload()), vector.text("payload"), "{name}");
        let mut again = encode_again(vector, opened.payload());
        again.extend_from_slice(&opened.payload()[again.len()..]);
        let nonce = envelope[..16].try_into().unwrap();
        let (sealed, _) = vector
            .with_place(|place| seal(&network_keys(), 0, nonce, place, opened.kind, &again))
            .unwrap();
        assert_eq!(hex(&sealed), hex(&envelope), "{name}");
    }
}

#[test]
fn every_signature_in_the_vectors_holds_and_no_flipped_bit_survives() {
    for (name, vector) in vectors() {
        let (payload, kind) = (vector.bytes("payload"), vector.kind());
        let signer = vector.text("signer");
        if signer.is_empty() {
            continue;
        }
        let key = private_key(signer).public_key();
        let (signed, signature) = payload.split_at(payload.len() - 64);
        let signature: [u8; 64] = signature.try_into().unwrap();
        let holds = |bytes: &[u8]| match vector.status() {
            None => Ecdsa.verify(
                &key,
                Signed::Request { kind: kind.byte(), payload: bytes },
                &signature,
            ),
            Some(_) => {
                let request = vector.request_tag();
                let signed =
                    Signed::Answer { kind: kind.byte(), request: &request, payload: bytes };
                Ecdsa.verify(&key, signed, &signature)
            }
        };
        assert!(holds(signed), "{name}");
        for at in 0..signed.len() {
            let mut changed = signed.to_vec();
            changed[at] ^= 1;
            assert!(!holds(&changed), "{name}: byte {at}");
        }
    }
}

/// Someone without the key: no cut and no changed bit of any envelope opens anywhere.
#[test]
fn no_changed_or_cut_envelope_opens() {
    let keys = network_keys();
    for (name, vector) in vectors() {
        let envelope = vector.bytes("envelope");
        for length in 0..envelope.len() {
            let cut = envelope[..length].to_vec();
            assert!(vector.with_place(|place| open(&keys, place, cut)).is_err(), "{name}");
        }
        for bit in 0..envelope.len() * 8 {
            let mut changed = envelope.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let opened = vector.with_place(|place| open(&keys, place, changed));
            assert!(opened.is_err(), "{name}: bit {bit}");
        }
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != vector.kind()) {
            let moved = Place::Request { path: kind.path() };
            assert!(open(&keys, moved, envelope.clone()).is_err(), "{name} at {}", kind.path());
        }
    }
}

/// A member: whatever it puts into a payload is decoded or refused, never more; and there is one
/// way to write each message, so that nobody makes a second one of what was signed.
#[test]
fn every_cut_and_every_flipped_bit_of_a_payload_is_survived() {
    for (name, vector) in vectors() {
        let (payload, kind) = (vector.bytes("payload"), vector.kind());
        let decodes = |bytes: &[u8]| match vector.status() {
            None => wire::decode_request(kind, bytes).is_ok_and(|decoded| {
                // Which versions a caller speaks is not part of what was understood.
                let versions = if kind == Kind::Hello { 4 } else { 0 };
                let again = wire::encode_request(&decoded.message).unwrap();
                again[versions..] == decoded.signed[versions..]
            }),
            Some(200) => wire::decode_answer(kind, bytes).is_ok_and(|decoded| {
                wire::encode_answer(&decoded.message).unwrap() == decoded.signed
            }),
            Some(204) => bytes.len() == payload.len(),
            Some(_) => wire::decode_refusal(bytes)
                .is_ok_and(|refusal| wire::encode_refusal(&refusal).unwrap() == bytes),
        };
        assert!(decodes(&payload), "{name}");
        for length in 0..payload.len() {
            // Nothing but a signature is as long as one; and no seal opens over less than all.
            let is_here = name == "update-answer" && length == SIGNATURE_BYTES;
            assert!(is_here || !decodes(&payload[..length]), "{name}: cut to {length}");
        }
        let mut longer = payload.clone();
        longer.push(0);
        assert!(!decodes(&longer), "{name}: a byte more");
        for bit in 0..payload.len() * 8 {
            let mut changed = payload.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let is_taken = match vector.status() {
                None => wire::decode_request(kind, &changed).is_ok(),
                Some(200) => wire::decode_answer(kind, &changed).is_ok(),
                Some(204) => continue,
                Some(_) => wire::decode_refusal(&changed).is_ok(),
            };
            assert_eq!(is_taken, decodes(&changed), "{name}: bit {bit} is another way to write it");
        }
    }
}

/// docs/protocol.md is the reference for other implementations: its examples are these bytes.
#[test]
fn the_examples_in_the_protocol_document_are_the_vectors() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let text: String =
        std::fs::read_to_string(document).unwrap().split_whitespace().collect::<Vec<_>>().concat();
    for (name, vector) in vectors() {
        assert!(text.contains(&format!("`{name}`")), "{name} is named in docs/protocol.md");
        assert!(text.contains(vector.text("envelope")), "the envelope of {name} is shown");
    }
}

/// Makes the vectors that are missing, where they are asked for; else shows that there is nothing
/// to do. What is there is never written anew: other implementations rely on it.
#[test]
fn vectors_are_only_written_on_demand() {
    if std::env::var_os("DSN_GOLDEN_WRITE").is_some() {
        maker::Maker::new().make_all();
    }
}

/// What the fuzzer begins with for its decoders: a byte that says which one, and the payload.
#[test]
fn the_fuzzer_begins_with_the_vectors() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/wire");
    for (name, vector) in vectors() {
        let what = match vector.status() {
            None => 0,
            Some(status) if status < 300 => 1,
            Some(_) => 2,
        };
        let input = [&[5 * what + vector.kind().byte() - 1], &vector.bytes("payload")[..]].concat();
        if std::env::var_os("DSN_GOLDEN_WRITE").is_some() {
            std::fs::write(corpus.join(&name), &input).unwrap();
        }
        assert_eq!(std::fs::read(corpus.join(&name)).ok(), Some(input), "fuzz/corpus/wire/{name}");
    }
    let files = std::fs::read_dir(corpus).unwrap().count();
    assert_eq!(files, vectors().len(), "no other file is in fuzz/corpus/wire");
}

/// A partial record is told from a whole one by its flags, and makes the version that is signed.
#[test]
fn the_partial_record_of_the_vectors_is_made_of_the_whole_one() {
    let push = |name: &str| -> Push {
        let payload = Vector::read(&folder().join(format!("{name}.txt"))).bytes("payload");
        match wire::decode_request(Kind::Update, &payload).unwrap().message {
            Request::Push(push) => push,
            _ => panic!("no UPDATE that brings records"),
        }
    };
    let base = push("update-request").records.pop().unwrap();
    let base = Verified::<Record>::check(base, &Ecdsa).unwrap();
    for (name, entries, has_moved) in
        [("update-request-partial", 1, false), ("update-request-moved", 2, true)]
    {
        let patch = push(name).patches.pop().unwrap();
        let patch = Verified::<Patch>::check(patch, &base, &Ecdsa).unwrap();
        let made = base.patched(&patch).unwrap();
        assert_eq!(made.entries.iter().count(), entries);
        assert_eq!(made.head.home != base.head.home, has_moved);
        assert!(Verified::<Record>::check(made.share(), &Ecdsa).is_some());
    }
}

/// What a node announces on the local network: other implementations make the same of the key.
#[test]
fn the_mark_of_an_announcement_is_the_one_in_the_protocol_document() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let document = std::fs::read_to_string(document).unwrap();
    let label = std::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap());
    for (ip, mark) in [
        ("10.0.0.2", "1a9d70e72eca6cdd68e99bfda44f1b9f"),
        ("fe80::a", "4ea40f8d0b2a22d3e56a56235b679422"),
    ] {
        let announced = Announced { label, ip: ip.parse().unwrap(), port: 8000 };
        let made = announced.mark(&network_keys()).unwrap();
        assert_eq!(hex(&made), mark);
        assert!(announced.is_marked(&network_keys(), &made) && document.contains(mark));
        for bit in 0..made.len() * 8 {
            let mut changed = made;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!announced.is_marked(&network_keys(), &changed), "bit {bit}");
        }
    }
}

/// The public keys in the vectors belong to the private keys beside them.
#[test]
fn the_keys_of_the_vectors_fit() {
    let hello = Vector::read(&folder().join("hello-request-first.txt")).bytes("payload");
    let decoded = wire::decode_request(Kind::Hello, &hello).unwrap();
    let Request::Hello(hello) = decoded.message else { panic!("not a HELLO") };
    assert_eq!(hello.public_key, private_key("alpha").public_key());
}
