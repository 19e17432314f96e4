//! Makes the vectors.

use std::path::Path;
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::crypto::{Ecdsa, NetworkKeys, Place, PrivateKey, Signed, Signer, Tag, seal};
use dsn::protocol::entries::{Change, Entries, Key, Value};
use dsn::protocol::head::{Home, Version};
use dsn::protocol::identity::{Incarnation, NodeId, Rank, Session, hex};
use dsn::protocol::record::{Draft, Patch, Record};
use dsn::protocol::verdict::Reason;
use dsn::protocol::verified::Verified;
use dsn::protocol::view::View;
use dsn::protocol::wire::{
    self, Answer, Ask, Data, Header, Held, Hello, HelloAnswer, HelloProof, Kind, KnownNode, Mail,
    Peers, PeersAnswer, Ping, Pong, ProgramVersion, Pull, Push, Refusal, RefusedRecord, Request,
    Suspected, Text, Twin, Wish, Word,
};

use super::{Vector, folder, network_keys, private_key, tag_of};

const ALPHA_RUN: Incarnation = Incarnation([0x0a; 16]);
const BETA_RUN: Incarnation = Incarnation([0x0b; 16]);
/// What beta gave alpha to name, and what alpha gave beta.
const OF_BETA: Session = Session([0x1b; 16]);
const OF_ALPHA: Session = Session([0x1a; 16]);

fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn header(number: u64) -> Header {
    Header { from: id("alpha"), to: id("beta"), incarnation: ALPHA_RUN, session: OF_BETA, number }
}

pub struct Maker {
    keys: NetworkKeys,
    alpha: PrivateKey,
    beta: PrivateKey,
    nonce: u8,
}

impl Maker {
    pub fn new() -> Self {
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

    /// Writes the request and its answer, as the status says.
    fn both(&mut self, name: &str, request: &Request, answer: (&str, u16), payload: Vec<u8>) {
        let signer = request.is_signed().then_some("alpha");
        let tag = self.request(name, signer, request);
        let kind = request.kind();
        let is_signed = answer.1 < 300 && kind.is_answer_signed();
        let to = Some((answer.1, name, &tag));
        self.write(answer.0, kind, to, is_signed.then_some("beta"), payload);
    }

    fn draft(timestamp: u64) -> Draft {
        let entry = |key: &str, value: &[u8]| (Key::new(key).unwrap(), Value::new(value).unwrap());
        let entries = Entries::from([entry("load", b"0.42"), entry("raw", &[0, 255])]);
        Draft::new(id("alpha"), timestamp, false, Arc::new(entries)).at(Self::home("10.0.0.1:8000"))
    }

    /// Where alpha lives.
    fn home(address: &str) -> Home {
        Home { incarnation: ALPHA_RUN, address: Some(Address::new(address).unwrap()) }
    }

    fn record(&self, timestamp: u64) -> Arc<Record> {
        Verified::sign(Self::draft(timestamp), &self.alpha).unwrap().share()
    }

    pub fn make_all(&mut self) {
        self.make_hello();
        self.make_ping();
        self.make_peers();
        self.make_push();
        self.make_pull();
        self.make_partial();
        self.make_data();
        self.make_moved();
        self.make_asked();
    }

    fn make_hello(&mut self) {
        let mut hello = Hello {
            from: id("alpha"),
            public_key: self.alpha.public_key(),
            incarnation: ALPHA_RUN,
            program: ProgramVersion::new("0.1.0"),
            port: 8000,
            advertise: None,
            proof: None,
        };
        let answer = Answer::Hello(HelloAnswer {
            version: 1,
            node_id: id("beta"),
            public_key: self.beta.public_key(),
            incarnation: BETA_RUN,
            session: OF_BETA,
            program: ProgramVersion::new("0.1.0"),
            advertise: Some(Address::new("beta.local:8000").unwrap()),
            seen: Address::new("10.0.0.1:50000").unwrap(),
        });
        let (first, answer) =
            (Request::Hello(hello.clone()), wire::encode_answer(&answer).unwrap());
        self.both("hello-request-first", &first, ("hello-answer", 200), answer);
        let number = 1_700_000_000_000_002;
        hello.proof =
            Some(HelloProof { to: id("beta"), session: OF_BETA, number, given: OF_ALPHA });
        let second = Request::Hello(hello);
        self.both("hello-request-second", &second, ("hello-nothing", 204), Vec::new());
    }

    fn make_ping(&mut self) {
        let ping = Request::Ping(Ping { header: header(1_700_000_000_000_003), view: [0xaa; 16] });
        let address = Address::new("10.0.0.9:8000").unwrap();
        let twin = Some(Twin { address, public_key: self.beta.public_key() });
        let words = vec![
            Word { about: id("gamma"), challenge: [0xe2; 16], signature: Some([0xe4; 64]) },
            Word { about: id("delta"), challenge: [0xe3; 16], signature: None },
        ];
        let suspects = vec![Suspected { node_id: id("delta"), fingerprint: [0xf1; 16] }];
        let mail = Some(Mail { asks: vec![[0xe1; 16]], words, suspects });
        let pong = Answer::Ping(Pong { view: [0xbb; 16], twin, mail });
        let pong = wire::encode_answer(&pong).unwrap();
        self.both("ping-request", &ping, ("ping-answer", 200), pong);
    }

    /// Alpha holds its own state and that of delta, and misses gamma; beta holds a state of its own
    /// and that of alpha, nothing of delta, and knows where gamma is.
    fn make_peers(&mut self) {
        let rank = Rank([0xcc; 8]);
        let of_beta = self.beta.public_key().rank_for(&id("beta"));
        let (mut of_alpha, mut of_beta_too) = (View::default(), View::default());
        let record = self.record(1_700_000_000_000_000);
        for view in [&mut of_alpha, &mut of_beta_too] {
            view.note(&id("alpha"), Some(record.fingerprint));
        }
        of_alpha.note(&id("delta"), Some([0xab; 16]));
        let version = Version { timestamp: 1_700_000_000_000_001, fingerprint: [0xdd; 16] };
        of_beta_too.note(&id("beta"), Some(version.fingerprint));
        let buckets = Box::new(of_alpha.buckets_without([id("gamma")].iter()));
        let differing = of_beta_too.differing(&buckets);
        let peers = Request::Peers(Peers { header: header(1_700_000_000_000_004), buckets });
        let known = |name, address: Option<&str>, rank, version| KnownNode {
            node_id: id(name),
            address: address.map(|text| Address::new(text).unwrap()),
            rank,
            version,
            is_lost: false,
        };
        let nodes = vec![
            known("beta", Some("beta.local:8000"), of_beta, version),
            known("delta", None, Rank::default(), Version::default()),
            known("gamma", Some("10.0.0.3:8000"), rank, Version::default()),
        ];
        let answer = Answer::Peers(PeersAnswer { buckets: differing, nodes });
        let answer = wire::encode_answer(&answer).unwrap();
        self.both("peers-request", &peers, ("peers-answer", 200), answer);
    }

    fn push(records: Vec<Arc<Record>>, patches: Vec<Arc<Patch>>) -> Request {
        Request::Push(Push { records, patches, ..Push::new(id("beta"), BETA_RUN) })
    }

    fn make_push(&mut self) {
        let record = self.record(1_700_000_000_000_000);
        let push = Self::push(vec![Arc::clone(&record)], Vec::new());
        self.both("update-request", &push, ("update-nothing", 204), Vec::new());
        let old = self.record(1_600_000_000_000_000);
        let held = Held {
            timestamp: record.head.timestamp,
            left: false,
            digest: record.head.digest,
            home: record.head.home.clone(),
            signature: record.signature,
        };
        let stale =
            RefusedRecord { node_id: id("alpha"), reason: Reason::Stale.code(), held: Some(held) };
        let refusal = Refusal {
            reason: Reason::Stale.code(),
            text: Text::new("a newer version is held"),
            number: 0,
            records: vec![stale],
        };
        let refusal = wire::encode_refusal(&refusal).unwrap();
        let push = Self::push(vec![old], Vec::new());
        self.both("update-request-stale", &push, ("update-refusal", 406), refusal);
    }

    fn make_pull(&mut self) {
        let wish = |name, version| Wish { node_id: id(name), version };
        let version = Version { timestamp: 1_650_000_000_000_000, fingerprint: [0xee; 16] };
        let wishes = vec![wish("alpha", version), wish("gamma", Version::default())];
        let pull = Request::Pull(Pull { header: header(1_700_000_000_000_005), wishes });
        let answer = Answer::Records(vec![self.record(1_700_000_000_000_000)]);
        let answer = wire::encode_answer(&answer).unwrap();
        self.both("update-request-pull", &pull, ("update-answer", 200), answer);
    }

    /// The version after that of the other vectors: one key has another value, one is gone.
    fn make_partial(&mut self) {
        let base = self.record(1_700_000_000_000_000);
        let change = Change::from([
            (Key::new("load").unwrap(), Some(Value::new(b"0.43").unwrap())),
            (Key::new("raw").unwrap(), None),
        ]);
        let next = base.draft().after(&change, false, 1_700_000_000_500_000).unwrap().unwrap();
        let next = Verified::sign(next, &self.alpha).unwrap();
        let push = Self::push(Vec::new(), vec![Self::patch(&base, &next, change)]);
        let refused =
            RefusedRecord { node_id: id("alpha"), reason: Reason::LacksBase.code(), held: None };
        let refusal = Refusal {
            reason: Reason::LacksBase.code(),
            text: Text::new("the base is not held"),
            number: 0,
            records: vec![refused],
        };
        let refusal = wire::encode_refusal(&refusal).unwrap();
        self.both("update-request-partial", &push, ("update-partial-refusal", 406), refusal);
    }

    fn patch(base: &Record, next: &Record, change: Change) -> Arc<Patch> {
        let patch = Patch::new((base.fingerprint, &base.head.home), next, change);
        let patch = Arc::new(patch);
        assert!(Verified::<Patch>::check(Arc::clone(&patch), base, &Ecdsa).is_some());
        patch
    }

    /// The version after that: nothing in it is another, but alpha lives elsewhere.
    fn make_moved(&mut self) {
        let base = self.record(1_700_000_000_000_000);
        let next = base.draft().again(1_700_000_000_000_001).at(Self::home("10.0.0.2:8000"));
        let next = Verified::sign(next, &self.alpha).unwrap();
        let push = Self::push(Vec::new(), vec![Self::patch(&base, &next, Change::new())]);
        self.both("update-request-moved", &push, ("update-moved-nothing", 204), Vec::new());
    }

    /// Alpha asks beta whether it is there, for delta, and to try gamma, for itself; it says that
    /// it tried delta in vain, and accuses gamma.
    fn make_asked(&mut self) {
        let ask =
            |about, asker, byte| Ask { about: id(about), asker: id(asker), challenge: [byte; 16] };
        let word = Word { about: id("delta"), challenge: [0xc3; 16], signature: None };
        let push = Push {
            asks: vec![ask("beta", "delta", 0xc1), ask("gamma", "alpha", 0xc2)],
            words: vec![word],
            suspects: vec![Suspected { node_id: id("gamma"), fingerprint: [0xdd; 16] }],
            ..Push::new(id("beta"), BETA_RUN)
        };
        let what = Signed::Here { node_id: &id("beta"), challenge: &[0xc1; 16] };
        let signature = self.beta.sign(what).unwrap();
        let here = wire::encode_answer(&Answer::Here(signature)).unwrap();
        self.both("update-request-asks", &Request::Push(push), ("update-here", 200), here);
    }

    fn make_data(&mut self) {
        let data = Data { header: header(1_700_000_000_000_006), id: 7, data: (*b"hello").into() };
        self.both("data-request", &Request::Data(data), ("data-answer", 200), Vec::new());
    }
}
