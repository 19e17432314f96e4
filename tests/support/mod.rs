//! What black-box tests share: real nodes on loopback, and a hand-made member that speaks the
//! protocol byte by byte, rightly or wrongly.
#![allow(dead_code, unreachable_pub, reason = "a module that each test file uses a part of")]

pub mod avahi;
pub mod browser;
pub mod liar;
pub mod meter;
pub mod namespaces;
pub mod process;
pub mod stats;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use dsn::protocol::address::Address;
use dsn::protocol::crypto::{
    NetworkKeys, Opened, Place, PrivateKey, Signed, Signer, TAG_BYTES, Tag, open, seal,
};
use dsn::protocol::entries::{Entries, Key, Value};
use dsn::protocol::identity::{Incarnation, NodeId, PublicKey, Session};
use dsn::protocol::record::{Draft, Patch, Record};
use dsn::protocol::view::{BUCKETS, Buckets, NO_BUCKET};
use dsn::protocol::wire::{
    self, Answer, Data, Header, Hello, HelloAnswer, HelloProof, Kind, Peers, Ping, ProgramVersion,
    Pull, Push, Refusal, Request, Wish,
};
use dsn::{Config, RunningNode};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Longest time that anything a test waits for may take: far more than it should.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The network key of this run of the tests. With one that never changes, nodes of runs side by
/// side would be one network as soon as one run gets a port that a dead node of the other one had.
pub static NETWORK_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut key = [0; 32];
    rustix::rand::getrandom(&mut key[..], rustix::rand::GetRandomFlags::empty()).unwrap();
    key
});

pub fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub fn value(text: &str) -> Value {
    Value::new(text.as_bytes()).unwrap()
}

/// Says that a test can't be run here and why, or fails where it has to run: where the variable is
/// set. Past the capture of the test harness, as nobody shall take this for a pass.
pub fn skip(required: &str, why: &str) {
    assert!(std::env::var_os(required).is_none(), "{required} is set, but {why}");
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

/// An address at which nobody listens: somebody did a moment ago, so that it is nobody else's.
pub fn address_of_nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `condition` holds; a test that waits in vain says for what.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, condition);
}

/// The same, for what has several of the longest waits between tries in it.
pub fn eventually_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A folder with the network key in it, for the nodes of one test.
pub struct Place4Nodes {
    pub folder: TempDir,
}

impl Place4Nodes {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("credentials")).unwrap();
        let text = dsn::protocol::identity::hex(&*NETWORK_KEY) + "\n";
        write_private(&folder.path().join("credentials/network.key"), text.as_bytes());
        Self { folder }
    }

    pub fn config(&self, node_id: &str, bootstrap: &[&str]) -> Config {
        let path = self.folder.path();
        let mut config = Config::new(id(node_id));
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.bootstrap = bootstrap.iter().map(|text| Address::new(text).unwrap()).collect();
        config.credentials = path.join("credentials");
        config.data = Some(path.join("data"));
        config.control = dsn::Control::At(path.join(format!("{node_id}.sock")));
        config.tick = Duration::from_millis(300);
        config
    }

    pub fn start(&self, node_id: &str, bootstrap: &[&str]) -> RunningNode {
        dsn::start(self.config(node_id, bootstrap)).unwrap()
    }
}

/// What is wrong with other nodes, as they proved it: who is alone, or can't be called, is so by
/// time alone.
pub fn conflicts(node: &RunningNode) -> Vec<dsn::Fault> {
    let mut faults = node.degraded();
    faults.retain(|fault| !matches!(fault.code, dsn::Code::Alone | dsn::Code::OneWay));
    faults
}

pub fn write_private(path: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// An HTTP answer as it came.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    pub fn seal(&self) -> Option<Vec<u8>> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with("dsn-seal:"))?;
        dsn::steps::read_seal(line.split_once(':')?.1.trim())
    }
}

/// Sends the bytes over a connection of their own, reads until the other side closes it.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> HttpAnswer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Whoever refuses a body before it has read it resets the connection behind its answer.
    let _ = stream.read_to_end(&mut answer);
    parse_answer(&answer).expect("an HTTP answer")
}

/// An answer in the bytes of a connection, if they are one.
pub fn parse_answer(answer: &[u8]) -> Option<HttpAnswer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(HttpAnswer { status, head, body: answer[end + 4..].to_vec() })
}

pub fn post(address: SocketAddr, path: &str, body: &[u8]) -> HttpAnswer {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(address, &[head.as_bytes(), body].concat())
}

/// What a request made of raw bytes came to.
#[derive(Debug)]
pub enum Heard {
    /// 200 with a sealed answer.
    Answer(Answer),
    /// 204 with its seal.
    Nothing,
    /// A sealed refusal.
    Refusal(u16, Refusal),
    /// Nothing sealed: the status, with an empty body.
    Empty(u16),
}

impl Heard {
    /// The status and the number of the reason.
    pub fn verdict(&self) -> (u16, u16) {
        match self {
            Self::Answer(_) => (200, 0),
            Self::Nothing => (204, 0),
            Self::Refusal(status, refusal) => (*status, refusal.reason),
            Self::Empty(status) => (*status, 0),
        }
    }
}

/// Whom a member speaks to, and what it has to name there.
#[derive(Debug, Clone)]
pub struct Link {
    pub node_id: NodeId,
    pub public_key: PublicKey,
    pub incarnation: Incarnation,
    pub session: Session,
}

/// A member of the network that is made by hand.
pub struct Member {
    pub node_id: NodeId,
    pub key: PrivateKey,
    pub network: NetworkKeys,
    pub incarnation: Incarnation,
    pub number: u64,
    pub target: SocketAddr,
    /// The port it says that it listens on.
    pub port: u16,
    /// What it heard in answer to its first HELLO.
    pub link: Option<Link>,
}

static NONCE: AtomicU64 = AtomicU64::new(1);

/// What members want to be named when they are called: they answer to anything.
pub const GIVEN: Session = Session([9; 16]);

fn new_key() -> PrivateKey {
    let [key, _] = one_key_twice();
    key
}

fn one_key_twice() -> [PrivateKey; 2] {
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    [(); 2].map(|()| PrivateKey::from_pkcs8(document.as_ref()).unwrap())
}

pub fn network_keys(key: [u8; 32]) -> NetworkKeys {
    NetworkKeys::new(&[Zeroizing::new(key)]).unwrap()
}

/// One that was never used before in this process, nor by another one.
fn new_nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&NONCE.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    nonce[8..].copy_from_slice(&std::process::id().to_le_bytes().repeat(2));
    nonce
}

impl Member {
    pub fn new(node_id: &str, target: SocketAddr) -> Self {
        Self {
            node_id: id(node_id),
            key: new_key(),
            network: network_keys(*NETWORK_KEY),
            incarnation: Incarnation([1; 16]),
            number: 1000,
            target,
            // Nobody listens there: what the node sends us is refused at once.
            port: 1,
            link: None,
        }
    }

    /// One node in two parts, one to speak and one to answer.
    pub fn pair(node_id: &str, target: SocketAddr) -> [Self; 2] {
        one_key_twice().map(|key| Self { key, ..Self::new(node_id, target) })
    }

    /// One that has said both its HELLOs.
    pub fn joined(node_id: &str, target: SocketAddr) -> Self {
        let mut member = Self::new(node_id, target);
        member.join();
        member
    }

    pub fn join(&mut self) {
        let verdict = self.try_join().verdict();
        assert_eq!(verdict, (204, 0), "the second HELLO is accepted");
    }

    /// Says both HELLOs; what the second one came to.
    pub fn try_join(&mut self) -> Heard {
        self.introduce();
        let hello = self.hello();
        self.say(&hello)
    }

    /// Says the first HELLO, and remembers what it heard.
    pub fn introduce(&mut self) -> HelloAnswer {
        self.link = None;
        let hello = self.hello();
        let answer = match self.say(&hello) {
            Heard::Answer(Answer::Hello(answer)) => answer,
            other => panic!("the first HELLO got {other:?}"),
        };
        self.meet(&answer);
        answer
    }

    /// Takes what the answer to a first HELLO says, for the second.
    pub fn meet(&mut self, answer: &HelloAnswer) {
        self.link = Some(Link {
            node_id: answer.node_id.clone(),
            public_key: answer.public_key,
            incarnation: answer.incarnation,
            session: answer.session,
        });
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The first HELLO where nothing was heard yet, else the second.
    pub fn hello(&mut self) -> Request {
        let number = self.next_number();
        let proof = self.link.clone().map(|link| HelloProof {
            to: link.node_id,
            session: link.session,
            number,
            given: GIVEN,
        });
        Request::Hello(Hello {
            from: self.node_id.clone(),
            public_key: self.key.public_key(),
            incarnation: self.incarnation,
            program: ProgramVersion::new("test"),
            port: self.port,
            advertise: None,
            proof,
        })
    }

    pub fn linked(&self) -> &Link {
        self.link.as_ref().expect("introduced")
    }

    pub fn header(&mut self) -> Header {
        let number = self.next_number();
        let link = self.linked();
        Header {
            from: self.node_id.clone(),
            to: link.node_id.clone(),
            incarnation: self.incarnation,
            session: link.session,
            number,
        }
    }

    pub fn ping(&mut self) -> Request {
        Request::Ping(Ping { header: self.header(), view: [0x55; 16] })
    }

    /// PEERS of one that holds something else in all buckets.
    pub fn peers(&mut self) -> Request {
        self.peers_with([NO_BUCKET; BUCKETS])
    }

    pub fn peers_with(&mut self, buckets: Buckets) -> Request {
        Request::Peers(Peers { header: self.header(), buckets: Box::new(buckets) })
    }

    pub fn data(&mut self, id: u64, data: &[u8]) -> Request {
        Request::Data(Data { header: self.header(), id, data: data.into() })
    }

    pub fn pull(&mut self, wishes: Vec<Wish>) -> Request {
        Request::Pull(Pull { header: self.header(), wishes })
    }

    pub fn push(&self, records: Vec<Arc<Record>>) -> Request {
        self.push_with(records, Vec::new())
    }

    pub fn push_with(&self, records: Vec<Arc<Record>>, patches: Vec<Arc<Patch>>) -> Request {
        let link = self.linked();
        let (to, incarnation) = (link.node_id.clone(), link.incarnation);
        Request::Push(Push { records, patches, ..Push::new(to, incarnation) })
    }

    /// A signed record of this member.
    pub fn record(&self, timestamp: u64, pairs: &[(&str, &str)]) -> Arc<Record> {
        self.record_of(&self.node_id, timestamp, pairs)
    }

    /// A record for any node id, signed with the key of this member.
    pub fn record_of(&self, owner: &NodeId, timestamp: u64, pairs: &[(&str, &str)]) -> Arc<Record> {
        let entries: Entries = pairs.iter().map(|(k, v)| (key(k), value(v))).collect();
        self.sign(Draft::new(owner.clone(), timestamp, false, Arc::new(entries)))
    }

    /// A version of somebody's state, signed with the key of this member, be it right or not.
    pub fn sign(&self, draft: Draft) -> Arc<Record> {
        let signature = self.key.sign(Signed::Record(&draft.head)).unwrap();
        Arc::new(Record::new(draft, self.key.public_key(), signature))
    }

    /// The payload of a request with this member's signature.
    pub fn payload(&self, request: &Request) -> Vec<u8> {
        let kind = request.kind();
        let mut payload = wire::encode_request(request).unwrap();
        if request.is_signed() {
            let signed = Signed::Request { kind: kind.byte(), payload: &payload };
            let signature = self.key.sign(signed).unwrap();
            payload.extend_from_slice(&signature);
        }
        payload
    }

    pub fn envelope(&self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let place = Place::Request { path: kind.path() };
        seal(&self.network, 0, new_nonce(), place, kind.byte(), payload).unwrap().0
    }

    /// A signed request as bytes, made as a node makes it.
    pub fn sealed(&self, request: &Request) -> Vec<u8> {
        let mut plain = wire::plain_request(request).unwrap();
        if request.is_signed() {
            let signature = self.key.sign(plain.signed(plain.payload().len())).unwrap();
            plain.push(&signature);
        }
        let place = Place::Request { path: request.kind().path() };
        plain.seal(&self.network, 0, new_nonce(), place).unwrap().0
    }

    pub fn say(&self, request: &Request) -> Heard {
        let kind = request.kind();
        self.say_bytes(kind, kind.path(), &self.sealed(request))
    }

    /// Posts bytes and reads what comes back as the answer to them.
    pub fn say_bytes(&self, kind: Kind, path: &str, envelope: &[u8]) -> Heard {
        let answer = post(self.target, path, envelope);
        self.read(kind, path, envelope, answer)
    }

    /// What the bytes of a connection say in answer to an envelope; nothing if that is no HTTP.
    pub fn heard(&self, kind: Kind, envelope: &[u8], answer: &[u8]) -> Option<Heard> {
        Some(self.read(kind, kind.path(), envelope, parse_answer(answer)?))
    }

    fn read(&self, kind: Kind, path: &str, envelope: &[u8], answer: HttpAnswer) -> Heard {
        let bytes = match answer.status {
            204 => {
                assert!(answer.body.is_empty(), "a 204 has no body");
                answer.seal().expect("a 204 has a seal")
            }
            status if answer.body.is_empty() => return Heard::Empty(status),
            _ => answer.body.clone(),
        };
        let tag: Tag = envelope[envelope.len() - TAG_BYTES..].try_into().unwrap();
        let place = Place::Answer { path, status: answer.status, request: &tag };
        let opened: Opened = open(&self.network, place, bytes).expect("a sealed answer");
        assert_eq!(Some(opened.kind), Kind::of_path(path).map(Kind::byte));
        match answer.status {
            200 => Heard::Answer(wire::decode_answer(kind, opened.payload()).unwrap().message),
            204 => Heard::Nothing,
            status => Heard::Refusal(status, wire::decode_refusal(opened.payload()).unwrap()),
        }
    }
}
