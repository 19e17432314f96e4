//! One host of a crowd: its node, its disk, its CPU and its senders; and what it sends.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::crypto::{CryptoFault, Signed, Signer, Tag, Verifier};
use dsn::protocol::entries::{Entries, Key, Value};
use dsn::protocol::identity::{NodeId, PublicKey, SIGNATURE_BYTES};
use dsn::protocol::node::{Class, Job, Node, Outgoing};
use dsn::protocol::peer::KnownPeer;
use dsn::protocol::record::{Draft, Record, Signature};
use dsn::protocol::wire::{Kind, Request};
use dsn::steps::HttpAnswer;

pub const PORT: u16 = 8000;
/// The time of day when a simulation begins, microseconds since 1970.
pub const EPOCH_US: u64 = 1_767_225_600_000_000;
/// Entries of each node.
pub const KEYS: usize = 10;

/// A signature that costs nothing, and fits all.
pub struct Signs(pub PublicKey);

impl Signer for Signs {
    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, _: Signed<'_>) -> Result<Signature, CryptoFault> {
        Ok([0; SIGNATURE_BYTES])
    }
}

pub struct Believes;

impl Verifier for Believes {
    fn verify(&self, _: &PublicKey, _: Signed<'_>, _: &Signature) -> bool {
        true
    }
}

/// What things take, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// One way through the network: from, and to below.
    pub delay: (u64, u64),
    /// CPU for a request that is sent.
    pub send: u64,
    /// CPU for one that is received.
    pub receive: u64,
}

impl Costs {
    /// Those of the study (docs/benchmarks.md): a LAN with Wi-Fi in it, and small boards.
    pub const REAL: Self = Self { delay: (1_000, 20_000), send: 1_000, receive: 500 };
    /// Nothing costs anything: for what is only to be made, and not measured.
    pub const NONE: Self = Self { delay: (1, 2), send: 0, receive: 0 };
}

/// What was sent.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    /// Of requests and answers.
    pub bytes: u64,
    pub hellos: u64,
    pub lists: u64,
    pub list_bytes: u64,
    /// UPDATEs that bring records.
    pub pushes: u64,
    pub push_bytes: u64,
    pub pulls: u64,
    pub pings: u64,
    /// UPDATEs with something about who is there.
    pub asks: u64,
    pub words: u64,
    pub accusations: u64,
}

impl Traffic {
    /// Counts one request.
    pub fn count(&mut self, request: &Request, bytes: u64) {
        self.requests += 1;
        self.bytes += bytes;
        match request.kind() {
            Kind::Hello => self.hellos += 1,
            Kind::Peers => {
                self.lists += 1;
                self.list_bytes += bytes;
            }
            Kind::Update if request.is_signed() => self.pulls += 1,
            Kind::Update => self.count_push(request, bytes),
            Kind::Ping => self.pings += 1,
            Kind::Data => {}
        }
    }

    fn count_push(&mut self, request: &Request, bytes: u64) {
        let Request::Push(push) = request else { return };
        if brings_records(request) {
            self.pushes += 1;
            self.push_bytes += bytes;
        }
        self.asks += u64::from(!push.asks.is_empty());
        self.words += u64::from(!push.words.is_empty());
        self.accusations += u64::from(!push.suspects.is_empty());
    }

    /// What came to it since.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            bytes: self.bytes - before.bytes,
            hellos: self.hellos - before.hellos,
            lists: self.lists - before.lists,
            list_bytes: self.list_bytes - before.list_bytes,
            pushes: self.pushes - before.pushes,
            push_bytes: self.push_bytes - before.push_bytes,
            pulls: self.pulls - before.pulls,
            pings: self.pings - before.pings,
            asks: self.asks - before.asks,
            words: self.words - before.words,
            accusations: self.accusations - before.accusations,
        }
    }
}

/// Whether it is an UPDATE that carries a version of anybody.
pub fn brings_records(request: &Request) -> bool {
    matches!(request, Request::Push(it) if !it.records.is_empty() || !it.patches.is_empty())
}

/// A request under way.
pub struct Call {
    pub job: Job,
    pub outgoing: Outgoing,
    pub tag: Tag,
    pub began_us: u64,
}

/// A request as it travels.
pub struct Letter {
    pub from: usize,
    pub from_run: u32,
    pub flight: u64,
    pub tag: Tag,
    pub request: Request,
}

/// What comes back.
pub enum Back {
    Http(HttpAnswer),
    /// Records are shared, not copied.
    Records(Vec<Arc<Record>>),
    Failed(&'static str),
}

/// What waits for the CPU of a host.
pub enum Work {
    Send(Job),
    Receive(Box<Letter>),
}

/// What the CPU of a host is busy with.
pub enum Doing {
    Send(u64),
    Receive(Box<Letter>),
}

/// One host with one node.
pub struct Host {
    pub node_id: NodeId,
    pub key: PublicKey,
    /// The own record as it is on disk.
    pub kept: Draft,
    pub known: Vec<KnownPeer>,
    pub node: Option<Node>,
    pub run: u32,
    pub is_hung: bool,
    /// Hosts of different sides do not hear each other.
    pub side: u32,
    pub wake_us: u64,
    pub disk_waits: bool,
    pub work: VecDeque<Work>,
    pub doing: Option<Doing>,
    pub queues: [VecDeque<Job>; Class::ALL.len()],
    pub busy: [usize; Class::ALL.len()],
    pub open: HashMap<u64, Call>,
    pub sent: Traffic,
    /// Versions that it made as others accused it, or as its home is another one.
    pub refuted: u64,
}

pub fn place_of(class: Class) -> usize {
    Class::ALL.iter().position(|other| *other == class).unwrap()
}

impl Host {
    /// A host with something on its disk, on which nothing runs yet.
    pub fn new(number: usize) -> Self {
        let node_id = NodeId::new(&format!("node-{number:04}")).unwrap();
        let timestamp = EPOCH_US - 1_000_000_000 + number as u64;
        let kept = Draft::new(node_id.clone(), timestamp, false, entries_of(number));
        Host {
            node_id,
            key: key_of(number),
            kept,
            known: Vec::new(),
            node: None,
            run: 0,
            is_hung: false,
            side: 0,
            wake_us: 0,
            disk_waits: false,
            work: VecDeque::new(),
            doing: None,
            queues: Default::default(),
            busy: Default::default(),
            open: HashMap::new(),
            sent: Traffic::default(),
            refuted: 0,
        }
    }
}

pub fn ip_of(number: usize) -> IpAddr {
    let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, a, b, c))
}

pub fn address_of(number: usize) -> Address {
    Address::of(ip_of(number), PORT)
}

pub fn number_at(address: &Address) -> Option<usize> {
    let address: SocketAddr = address.as_str().parse().ok()?;
    let IpAddr::V4(ip) = address.ip() else { return None };
    let [_, a, b, c] = ip.octets();
    Some(u32::from_be_bytes([0, a, b, c]) as usize)
}

pub fn key_of(number: usize) -> PublicKey {
    let mut bytes = [7; 65];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    PublicKey(bytes)
}

pub fn entries_of(number: usize) -> Arc<Entries> {
    let entry = |at: usize| {
        let value = Value::new(format!("{number:08}").as_bytes()).unwrap();
        (Key::new(&format!("key-{at:02}")).unwrap(), value)
    };
    Arc::new((0..KEYS).map(entry).collect())
}
