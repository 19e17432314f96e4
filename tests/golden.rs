//! Golden vectors: the bytes of every message, fixed for protocol version 1.
//!
//! Each file in `tests/golden/v1` holds one envelope with all that is needed to make it again.
//! The tests open it, decode it, check its signature, and build the same bytes from what they
//! decoded. `DSN_GOLDEN_WRITE=1 cargo test --test golden` makes new vectors: only for a new
//! version of the protocol, as nodes in the field speak the old one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::crypto::{
    NetworkKeys, Place, PrivateKey, Signed, TAG_BYTES, Tag, open, seal, verify,
};
use dsn::protocol::identity::{NodeId, PublicKey, Session, hex, unhex};
use dsn::protocol::patch::Patch;
use dsn::protocol::state::{Change, Entries, Key, Record, Value};
use dsn::protocol::verdict::Reason;
use dsn::protocol::wire::{self, *};
use zeroize::Zeroizing;

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
            None => verify(&key, Signed::Request { kind: kind.byte(), payload: bytes }, &signature),
            Some(_) => {
                let request = vector.request_tag();
                let signed =
                    Signed::Answer { kind: kind.byte(), request: &request, payload: bytes };
                verify(&key, signed, &signature)
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

/// A member: whatever it puts into a payload is decoded or refused, never more.
#[test]
fn every_cut_and_every_flipped_bit_of_a_payload_is_survived() {
    for (name, vector) in vectors() {
        let (payload, kind) = (vector.bytes("payload"), vector.kind());
        let decodes = |bytes: &[u8]| match vector.status() {
            None => wire::decode_request(kind, bytes).is_ok(),
            Some(200) => wire::decode_answer(kind, bytes).is_ok(),
            Some(204) => bytes.len() == payload.len(),
            Some(_) => wire::decode_refusal(bytes).is_ok(),
        };
        assert!(decodes(&payload), "{name}");
        for length in 0..payload.len() {
            assert!(!decodes(&payload[..length]), "{name}: cut to {length}");
        }
        let mut longer = payload.clone();
        longer.push(0);
        assert!(!decodes(&longer), "{name}: a byte more");
        for bit in 0..payload.len() * 8 {
            let mut changed = payload.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            decodes(&changed);
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
        Maker::new().make_all();
    }
}

struct Maker {
    keys: NetworkKeys,
    alpha: PrivateKey,
    beta: PrivateKey,
    nonce: u8,
}

impl Maker {
    fn new() -> Self {
        let keys = folder().join("keys.txt");
        if !keys.exists() {
            Self::make_keys(&keys);
        }
        let (alpha, beta) = (private_key("alpha"), private_key("beta"));
        Self { keys: network_keys(), alpha, beta, nonce: 0 }
    }

    fn make_keys(file: &Path) {
        let pair = || {
            let random = ring::rand::SystemRandom::new();
            let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
            let document =
                ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            document.as_ref().to_vec()
        };
        let (alpha, beta) = (pair(), pair());
        let network_key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let text = format!(
            "# Keys of the golden vectors; used nowhere else.\nnetwork_key {}\nalpha_pkcs8 {}\nbeta_pkcs8 {}\n",
            hex(&network_key),
            hex(&alpha),
            hex(&beta)
        );
        std::fs::write(file, text).unwrap();
    }

    /// Seals, writes the file, and gives the tag.
    fn write(
        &mut self,
        name: &str,
        kind: Kind,
        answer: Option<(u16, &str, &Tag)>,
        signer: Option<&str>,
        mut payload: Vec<u8>,
    ) -> Tag {
        self.nonce += 1;
        let file = folder().join(format!("{name}.txt"));
        if file.exists() {
            return tag_of(&Vector::read(&file).bytes("envelope"));
        }
        if let Some(signer) = signer {
            let key = if signer == "alpha" { &self.alpha } else { &self.beta };
            let signed = match answer {
                None => Signed::Request { kind: kind.byte(), payload: &payload },
                Some((_, _, request)) => {
                    Signed::Answer { kind: kind.byte(), request, payload: &payload }
                }
            };
            let signature = key.sign(signed).unwrap();
            payload.extend_from_slice(&signature);
        }
        let nonce = [self.nonce; 16];
        let path = kind.path();
        let place = match answer {
            None => Place::Request { path },
            Some((status, _, request)) => Place::Answer { path, status, request },
        };
        let (envelope, tag) = seal(&self.keys, 0, nonce, place, kind.byte(), &payload).unwrap();
        let mut text = format!("path {path}\n");
        if let Some((status, answers, _)) = answer {
            text += &format!("status {status}\nanswers {answers}\n");
        }
        if let Some(signer) = signer {
            text += &format!("signer {signer}\n");
        }
        text += &format!("payload {}\nenvelope {}\n", hex(&payload), hex(&envelope));
        std::fs::write(file, text).unwrap();
        tag
    }

    fn request(&mut self, name: &str, signer: Option<&str>, request: &Request) -> Tag {
        let payload = wire::encode_request(request).unwrap();
        self.write(name, request.kind(), None, signer, payload)
    }

    fn record(&self, timestamp: u64) -> Arc<Record> {
        let entry = |key: &str, value: &[u8]| (Key::new(key).unwrap(), Value::new(value).unwrap());
        let entries = Entries::from([entry("load", b"0.42"), entry("raw", &[0, 255])]);
        let (node_id, key) = (id("alpha"), self.alpha.public_key());
        let record = Record::new(node_id, key, timestamp, false, Arc::new(entries));
        record.signature.set(self.alpha.sign(Signed::Record(&record.head)).unwrap()).unwrap();
        Arc::new(record)
    }

    fn make_all(&mut self) {
        self.make_hello();
        self.make_ping_and_peers();
        self.make_update();
        self.make_data();
        self.make_partial_update();
    }

    fn make_data(&mut self) {
        let data = Data { header: header(1_700_000_000_000_005), id: 7, data: (*b"hello").into() };
        let tag = self.request("data-request", Some("alpha"), &Request::Data(data));
        let answer = Some((200, "data-request", &tag));
        self.write("data-answer", Kind::Data, answer, Some("beta"), Vec::new());
    }

    fn make_hello(&mut self) {
        let mut hello = Hello {
            from: id("alpha"),
            public_key: self.alpha.public_key(),
            session: ALPHA_SESSION,
            program: ProgramVersion::new("0.1.0"),
            port: 8000,
            advertise: None,
            number: 1_700_000_000_000_001,
            to: None,
        };
        let first = Request::Hello(hello.clone());
        let tag = self.request("hello-request-first", Some("alpha"), &first);
        let answer = wire::encode_answer(&Answer::Hello(HelloAnswer {
            version: 1,
            node_id: id("beta"),
            public_key: self.beta.public_key(),
            session: BETA_SESSION,
            program: ProgramVersion::new("0.1.0"),
            advertise: Some(Address::new("beta.local:8000").unwrap()),
            seen: Address::new("10.0.0.1:50000").unwrap(),
        }));
        let to = Some((200, "hello-request-first", &tag));
        self.write("hello-answer", Kind::Hello, to, Some("beta"), answer.unwrap());
        hello.number += 1;
        hello.to = Some((id("beta"), BETA_SESSION));
        let tag = self.request("hello-request-second", Some("alpha"), &Request::Hello(hello));
        let to = Some((204, "hello-request-second", &tag));
        self.write("hello-nothing", Kind::Hello, to, Some("beta"), Vec::new());
    }

    fn make_ping_and_peers(&mut self) {
        let ping = Ping { header: header(1_700_000_000_000_003), view: [0xaa; 16] };
        let tag = self.request("ping-request", Some("alpha"), &Request::Ping(ping));
        let pong =
            wire::encode_answer(&Answer::Ping(Pong { view: [0xbb; 16], twin: None })).unwrap();
        self.write(
            "ping-answer",
            Kind::Ping,
            Some((200, "ping-request", &tag)),
            Some("beta"),
            pong,
        );
        let peers = Peers { header: header(1_700_000_000_000_004) };
        let tag = self.request("peers-request", Some("alpha"), &Request::Peers(peers));
        let record = self.record(1_700_000_000_000_000);
        let version = Version { timestamp: record.head.timestamp, fingerprint: record.fingerprint };
        let node = |name, address: Option<&str>, version| KnownNode {
            node_id: id(name),
            address: address.map(|text| Address::new(text).unwrap()),
            version,
        };
        let nodes = vec![
            node("beta", Some("beta.local:8000"), Version::default()),
            node("alpha", None, version),
        ];
        let answer = wire::encode_answer(&Answer::Peers(PeersAnswer { nodes })).unwrap();
        let to = Some((200, "peers-request", &tag));
        self.write("peers-answer", Kind::Peers, to, Some("beta"), answer);
    }

    /// The version after that of the other vectors: one key has another value, one is gone.
    fn make_partial_update(&mut self) {
        let base = self.record(1_700_000_000_000_000);
        let change = Change::from([
            (Key::new("load").unwrap(), Some(Value::new(b"0.43").unwrap())),
            (Key::new("raw").unwrap(), None),
        ]);
        let record = base.after(&change, false, 1_700_000_000_500_000).unwrap().unwrap();
        let signature = self.alpha.sign(Signed::Record(&record.head)).unwrap();
        let patch = Patch {
            head: record.head,
            public_key: record.public_key,
            base: base.fingerprint,
            change,
            signature: Arc::new(signature.into()),
        };
        let update = Update {
            to: id("beta"),
            session: BETA_SESSION,
            records: Vec::new(),
            patches: vec![Arc::new(patch)],
            wants: Vec::new(),
        };
        let tag = self.request("update-request-partial", None, &Request::Update(update));
        let refusal = Refusal {
            reason: Reason::LacksBase.code(),
            text: "the base is not held".into(),
            held: None,
            number: 0,
        };
        let to = Some((406, "update-request-partial", &tag));
        let payload = wire::encode_refusal(&refusal).unwrap();
        self.write("update-partial-refusal", Kind::Update, to, None, payload);
    }

    fn make_update(&mut self) {
        let record = self.record(1_700_000_000_000_000);
        let update = |record: &Arc<Record>, wants| {
            let records = vec![Arc::clone(record)];
            let patches = Vec::new();
            Request::Update(Update {
                to: id("beta"),
                session: BETA_SESSION,
                records,
                patches,
                wants,
            })
        };
        let tag = self.request("update-request", None, &update(&record, Vec::new()));
        let to = Some((204, "update-request", &tag));
        self.write("update-nothing", Kind::Update, to, None, Vec::new());
        let want = Want { node_id: id("alpha"), version: Version::default() };
        let empty = Update {
            to: id("beta"),
            session: BETA_SESSION,
            records: Vec::new(),
            patches: Vec::new(),
            wants: vec![want],
        };
        let tag = self.request("update-request-wants", None, &Request::Update(empty));
        let answer = wire::encode_answer(&Answer::Update(vec![Arc::clone(&record)])).unwrap();
        let to = Some((200, "update-request-wants", &tag));
        self.write("update-answer", Kind::Update, to, None, answer);
        let old = self.record(1_600_000_000_000_000);
        let tag = self.request("update-request-stale", None, &update(&old, Vec::new()));
        let refusal = Refusal {
            reason: Reason::Stale.code(),
            text: "a newer version is held".into(),
            held: Some(Held {
                node_id: id("alpha"),
                timestamp: record.head.timestamp,
                left: false,
                digest: record.head.digest,
                signature: *record.signature.get().unwrap(),
            }),
            number: 0,
        };
        let to = Some((406, "update-request-stale", &tag));
        let payload = wire::encode_refusal(&refusal).unwrap();
        self.write("update-refusal", Kind::Update, to, None, payload);
    }
}

const ALPHA_SESSION: Session = Session([0x0a; 16]);
const BETA_SESSION: Session = Session([0x0b; 16]);

fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn header(number: u64) -> Header {
    Header {
        from: id("alpha"),
        to: id("beta"),
        from_session: ALPHA_SESSION,
        session: BETA_SESSION,
        number,
    }
}

/// A partial record is told from a whole one by its flags, and makes the version that is signed.
#[test]
fn the_partial_record_of_the_vectors_is_made_of_the_whole_one() {
    let update = |name: &str| {
        let payload = Vector::read(&folder().join(format!("{name}.txt"))).bytes("payload");
        match wire::decode_request(Kind::Update, &payload).unwrap().message {
            Request::Update(update) => update,
            _ => panic!("not an UPDATE"),
        }
    };
    let (base, patch) = (update("update-request"), update("update-request-partial"));
    let made = base.records[0].patched(&patch.patches[0]).unwrap();
    assert_eq!(made.entries.iter().count(), 1);
    let signature = made.signature.get().unwrap();
    assert!(verify(&made.public_key, Signed::Record(&made.head), signature));
}

/// The public keys in the vectors belong to the private keys beside them.
#[test]
fn the_keys_of_the_vectors_fit() {
    let hello = Vector::read(&folder().join("hello-request-first.txt")).bytes("payload");
    let decoded = wire::decode_request(Kind::Hello, &hello).unwrap();
    let Request::Hello(hello) = decoded.message else { panic!("not a HELLO") };
    let expected: PublicKey = private_key("alpha").public_key();
    assert_eq!(hello.public_key, expected);
}
