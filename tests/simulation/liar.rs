//! Members that lie: they have the network key and keys of their own, and say anything that is well
//! formed: in answer to what honest nodes ask, and on their own. What they hear they say again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::crypto::{Place, Signed, Signer, TAG_BYTES, Tag, open, seal};
use dsn::protocol::entries::{Change, Entries, Key, Value};
use dsn::protocol::head::{Home, Version};
use dsn::protocol::identity::{Incarnation, NodeId, PublicKey, Rank, Session, hex};
use dsn::protocol::peer::{Known, Trust};
use dsn::protocol::record::{Draft, Patch, Record};
use dsn::protocol::view::BucketSet;
use dsn::protocol::wire::{
    self, Answer, Ask, Data, Header, Held, Hello, HelloAnswer, HelloProof, Kind, KnownNode, Mail,
    Peers, PeersAnswer, Ping, Pong, ProgramVersion, Pull, Push, Refusal, RefusedRecord, Request,
    Suspected, Text, Twin, Wish, Word,
};
use dsn::steps::HttpAnswer;

use super::crypto::{SimKey, key_of, sign};
use super::host::PORT;
use super::world::{Bytes, ReplyTo, World, address_of, ip_of};

/// Most names of one liar, and most records that it remembers.
const NAMES_MAX: usize = 40;
const HEARD_MAX: usize = 60;

/// How a liar answers one kind of request, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As an honest node would.
    Right,
    /// Not at all: the caller waits for its whole time.
    Silent,
    /// Nobody listens.
    Closed,
    /// 400 without a seal.
    Bare,
    /// A sealed refusal with this reason.
    Refuse(u16),
    /// With something well formed that is not true.
    Lie,
}

/// Which records a liar names when it refuses an UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// None: all of it was refused.
    Nothing,
    /// All that were brought.
    All,
    /// Others each time, whether they were brought or not.
    Any,
}

pub struct Liar {
    pub ip: IpAddr,
    pub names: Vec<(NodeId, SimKey)>,
    /// By kind of request.
    pub ways: [Way; 5],
    /// What it names in refusals.
    pub refused: Names,
    /// What it got from each host for each name.
    links: HashMap<(NodeId, usize), Link>,
    /// Records of others and of itself, signed or forged.
    heard: Vec<Arc<Record>>,
    incarnation: Incarnation,
    number: u64,
    made: u64,
    /// Requests that came to it.
    pub asked: u64,
    pub asked_bytes: u64,
}

#[derive(Clone)]
struct Link {
    to: NodeId,
    session: Session,
    incarnation: Incarnation,
}

/// What a liar asked for.
#[derive(Clone)]
pub struct Purpose {
    name: NodeId,
    host: usize,
    kind: Kind,
    tag: Tag,
}

const REASONS: [u16; 20] =
    [1, 2, 10, 11, 12, 13, 14, 15, 16, 20, 21, 22, 23, 24, 25, 26, 27, 30, 40, 77];

impl Liar {
    pub fn new(number: usize) -> Self {
        let name = (NodeId::new(&format!("liar{number}")).unwrap(), key_of(1000 + number as u64));
        Self {
            ip: ip_of(500 + number),
            names: vec![name],
            ways: [Way::Right; 5],
            refused: Names::Any,
            links: HashMap::new(),
            heard: Vec::new(),
            incarnation: Incarnation([u8::try_from(number).unwrap(); 16]),
            number: 1,
            made: 0,
            asked: 0,
            asked_bytes: 0,
        }
    }

    fn way_of(&self, kind: Kind) -> Way {
        self.ways[usize::from(kind.byte()) - 1]
    }

    fn hear(&mut self, record: Arc<Record>, random: &mut fastrand::Rng) {
        if self.heard.len() == HEARD_MAX {
            let at = random.usize(..HEARD_MAX);
            self.heard.swap_remove(at);
        }
        self.heard.push(record);
    }

    fn key_of(&self, name: &NodeId) -> SimKey {
        let own = self.names.iter().find(|(own, _)| own == name);
        own.map_or(self.names[0].1, |(_, key)| *key)
    }
}

/// Lies are drawn here.
impl World {
    pub fn add_liar(&mut self) -> usize {
        self.liars.push(Liar::new(self.liars.len()));
        self.liars.len() - 1
    }

    /// The liar changes its ways.
    pub fn redraw_ways(&mut self, liar: usize) {
        for at in 0..5 {
            let way = match self.random.u8(0..20) {
                0..=8 => Way::Right,
                9 | 10 => Way::Silent,
                11 => Way::Closed,
                12 => Way::Bare,
                13..=15 => Way::Refuse(REASONS[self.random.usize(..REASONS.len())]),
                _ => Way::Lie,
            };
            self.liars[liar].ways[at] = way;
        }
        self.liars[liar].refused = [Names::Nothing, Names::All, Names::Any][self.random.usize(..3)];
        let ways = self.liars[liar].ways;
        self.say(|| format!("liar {liar} answers {ways:?}"));
    }

    fn any_host(&mut self) -> usize {
        self.random.usize(..self.hosts.len())
    }

    /// An id of a host, of a liar, or of nobody.
    fn any_id(&mut self) -> NodeId {
        match self.random.u8(0..4) {
            0 | 1 => {
                let host = self.any_host();
                self.hosts[host].node_id.clone()
            }
            2 => NodeId::new(&format!("ghost{}", self.random.u8(0..4))).unwrap(),
            _ => {
                let liar = self.random.usize(..self.liars.len());
                let names = &self.liars[liar].names;
                names[self.random.usize(..names.len())].0.clone()
            }
        }
    }

    fn any_key(&mut self) -> PublicKey {
        match self.random.u8(0..3) {
            0 => {
                let host = self.any_host();
                self.hosts[host].key.0
            }
            1 => key_of(2000 + self.random.u64(0..4)).0,
            _ => key_of(1000).0,
        }
    }

    fn any_address(&mut self) -> Address {
        match self.random.u8(0..4) {
            0 => address_of(self.random.usize(..self.hosts.len())),
            1 => address_of(900 + self.random.usize(0..50)),
            _ => {
                let liar = self.random.usize(..self.liars.len());
                Address::of(self.liars[liar].ip, PORT)
            }
        }
    }

    fn any_timestamp(&mut self) -> u64 {
        match self.random.u8(0..3) {
            0 => self.random.u64(1..1_000),
            1 => 1_767_225_600_000_000 + self.random.u64(0..1 << 40),
            _ => (1 << 53) - 1,
        }
    }

    fn any_version(&mut self) -> Version {
        let fingerprint = [self.random.u8(..); 16];
        match self.random.u8(0..4) {
            0 => Version::default(),
            _ => Version { timestamp: self.any_timestamp(), fingerprint },
        }
    }

    /// A version that the liar makes: of one of its names, of a ghost, or of an honest id under its
    /// own key.
    fn made_record(&mut self, liar: usize, owner: NodeId, key: SimKey) -> Arc<Record> {
        self.liars[liar].made += 1;
        let made = self.liars[liar].made;
        let timestamp = match self.random.u8(0..8) {
            0 => self.any_timestamp(),
            1 => made.max(1),
            _ => 1_767_225_600_000_000 + self.now_ms * 1000 + made,
        };
        let keys = self.random.usize(0..5);
        let entry = |number: usize| {
            let value = Value::new(made.to_string().as_bytes()).unwrap();
            (Key::new(&format!("lie{number}")).unwrap(), value)
        };
        let entries: Entries = (0..keys).map(entry).collect();
        let left = self.random.u8(..) < 10;
        let draft = Draft::new(owner, timestamp, left, Arc::new(entries)).at(self.any_home());
        let record = sign(draft, &key);
        self.history.made(&record);
        let record = record.share();
        self.liars[liar].hear(Arc::clone(&record), &mut self.random);
        record
    }

    /// A record to offer: made now, heard before, or forged.
    fn any_record(&mut self, liar: usize) -> Arc<Record> {
        let names = &self.liars[liar].names;
        let (name, key) = names[self.random.usize(..names.len())].clone();
        match self.random.u8(0..8) {
            0..=2 => self.made_record(liar, name, key),
            3 => {
                let ghost = NodeId::new(&format!("ghost{}", self.random.u8(0..4))).unwrap();
                let key = key_of(2000 + self.random.u64(0..4));
                self.made_record(liar, ghost, key)
            }
            4 => {
                // An honest id under a key that is not its own: told of, never proved.
                let host = self.any_host();
                let id = self.hosts[host].node_id.clone();
                self.made_record(liar, id, key)
            }
            _ if self.liars[liar].heard.is_empty() => self.made_record(liar, name, key),
            5 => {
                // What it heard, changed: nobody signed that.
                let heard = &self.liars[liar].heard;
                let mut forged = (*heard[self.random.usize(..heard.len())]).clone();
                match self.random.u8(0..3) {
                    0 => forged.head.timestamp += 1,
                    1 => forged.head.left ^= true,
                    _ => forged.signature[0] ^= 1,
                }
                let draft = forged.draft();
                Arc::new(Record::new(draft, forged.public_key, forged.signature))
            }
            _ => {
                let heard = &self.liars[liar].heard;
                Arc::clone(&heard[self.random.usize(..heard.len())])
            }
        }
    }

    fn any_records(&mut self, liar: usize, most: usize) -> Vec<Arc<Record>> {
        let count = self.random.usize(0..=most);
        let mut records: Vec<_> = (0..count).map(|_| self.any_record(liar)).collect();
        records.sort_by(|left, right| left.head.node_id.cmp(&right.head.node_id));
        records.dedup_by(|left, right| left.head.node_id == right.head.node_id);
        records
    }

    fn any_list(&mut self) -> Vec<(NodeId, Rank, Version)> {
        let count = self.random.usize(0..8);
        let mut list: Vec<_> = (0..count)
            .map(|_| {
                let (id, key) = (self.any_id(), self.any_key());
                let rank = if self.random.bool() { key.rank_for(&id) } else { Rank::default() };
                (id, rank, self.any_version())
            })
            .collect();
        list.sort_by(|left, right| left.0.cmp(&right.0));
        list.dedup_by(|left, right| left.0 == right.0);
        list
    }

    /// Where somebody may live: anywhere, also where an honest host does.
    fn any_home(&mut self) -> Home {
        let incarnation = Incarnation([self.random.u8(..); 16]);
        let address = match self.random.u8(0..3) {
            0 => None,
            1 => Some(Address::new("10.9.9.9:8000").unwrap()),
            _ => {
                let host = self.any_host();
                Some(Address::of(self.hosts[host].ip, PORT))
            }
        };
        Home { incarnation, address }
    }

    fn any_held(&mut self) -> Option<Held> {
        let timestamp = self.any_timestamp();
        self.random.bool().then_some(Held {
            timestamp,
            left: false,
            digest: [3; 32],
            home: Home::default(),
            signature: [4; 64],
        })
    }

    fn any_refusal(&mut self, liar: usize, reason: u16, request: &Request) -> Refusal {
        let number = if self.random.bool() { 0 } else { self.random.u64(..) };
        let mut ids: Vec<NodeId> = match (self.liars[liar].refused, request) {
            (Names::All, Request::Push(push)) => {
                let patch = push.patches.iter().map(|patch| patch.node_id.clone());
                push.records.iter().map(|record| record.head.node_id.clone()).chain(patch).collect()
            }
            (Names::Any, _) => (0..self.random.usize(0..4)).map(|_| self.any_id()).collect(),
            _ => Vec::new(),
        };
        ids.sort();
        ids.dedup();
        let records = ids.into_iter().map(|node_id| {
            let held = self.any_held();
            RefusedRecord { node_id, reason, held }
        });
        let records = records.collect();
        Refusal { reason, text: Text::new("I \u{202e}say no\x1b[2J"), number, records }
    }
}

/// What a liar answers.
impl World {
    pub fn liar_answers(
        &mut self,
        liar: usize,
        caller: SocketAddr,
        bytes: &Bytes,
        reply_to: &ReplyTo,
    ) {
        self.liars[liar].asked += 1;
        self.liars[liar].asked_bytes += bytes.body.len() as u64;
        let tag: Tag = bytes.body[bytes.body.len() - TAG_BYTES..].try_into().unwrap();
        let place = Place::Request { path: bytes.path };
        let Ok(opened) = open(&self.keys, place, bytes.body.to_vec()) else { return };
        let kind = Kind::of_path(bytes.path).unwrap();
        let Ok(decoded) = wire::decode_request(kind, opened.payload()) else { return };
        let request = decoded.message;
        if let Request::Push(push) = &request {
            for record in &push.records {
                self.liars[liar].hear(Arc::clone(record), &mut self.random);
            }
        }
        let delay = self.random.u64(1..20);
        match self.liars[liar].way_of(kind) {
            Way::Silent => {}
            Way::Closed => self.reply(2, reply_to, Err("connection refused".into())),
            Way::Bare => {
                let answer = HttpAnswer { status: 400, ..HttpAnswer::default() };
                self.reply(delay, reply_to, Ok(answer));
            }
            Way::Refuse(reason) => {
                let refusal = self.any_refusal(liar, reason, &request);
                let status = 400 + u16::from(reason > 2) + u16::from(reason > 17) * 5;
                let payload = wire::encode_refusal(&refusal).unwrap();
                self.liar_says(delay, reply_to, kind, status, &tag, payload);
            }
            way => {
                let is_lie = way == Way::Lie;
                let (status, payload) = self.liar_payload(liar, &request, caller, &tag, is_lie);
                self.liar_says(delay, reply_to, kind, status, &tag, payload);
            }
        }
    }

    fn liar_says(
        &mut self,
        delay: u64,
        reply_to: &ReplyTo,
        kind: Kind,
        status: u16,
        tag: &Tag,
        payload: Vec<u8>,
    ) {
        let place = Place::Answer { path: kind.path(), status, request: tag };
        let nonce = self.nonce();
        let (envelope, _) = seal(&self.keys, 0, nonce, place, kind.byte(), &payload).unwrap();
        let answer = match status {
            204 => HttpAnswer { status, seal: Some(hex(&envelope)), body: Vec::new() },
            _ => HttpAnswer { status, seal: None, body: envelope },
        };
        self.reply(delay, reply_to, Ok(answer));
    }

    /// Status and payload of an answer that is right, or one that only looks so.
    fn liar_payload(
        &mut self,
        liar: usize,
        request: &Request,
        caller: SocketAddr,
        tag: &Tag,
        lies: bool,
    ) -> (u16, Vec<u8>) {
        let kind = request.kind();
        let addressed = request.header().map(|header| header.to.clone());
        let proof = match request {
            Request::Hello(hello) => hello.proof.clone(),
            _ => None,
        };
        let name = addressed.or_else(|| proof.as_ref().map(|proof| proof.to.clone()));
        let name = name.unwrap_or_else(|| self.liars[liar].names[0].0.clone());
        let mut key = self.liars[liar].key_of(&name);
        let answer = match request {
            Request::Hello(_) if proof.is_some() && !lies => None,
            Request::Hello(_) => Some(self.liar_introduces(liar, &name, &mut key, caller, lies)),
            Request::Ping(_) => Some(self.liar_pongs(lies)),
            Request::Peers(_) => Some(self.liar_lists(lies)),
            Request::Pull(pull) => {
                let mut records = self.any_records(liar, 5);
                if !lies {
                    records.retain(|record| {
                        pull.wishes.iter().any(|wish| wish.node_id == record.head.node_id)
                    });
                }
                (!records.is_empty()).then_some(Answer::Records(records))
            }
            Request::Push(push) => self.liar_tells(liar, push, lies),
            Request::Data(_) => Some(Answer::Data),
        };
        let mut payload = answer.as_ref().map(wire::encode_answer).transpose().unwrap();
        let is_nothing = payload.is_none();
        let bytes = payload.get_or_insert_default();
        if kind.is_answer_signed() {
            let what = Signed::Answer { kind: kind.byte(), request: tag, payload: bytes };
            let signature = key.sign(what).unwrap();
            bytes.extend_from_slice(&signature);
        }
        (if is_nothing { 204 } else { 200 }, payload.unwrap_or_default())
    }

    /// What it says to an UPDATE: that it is there, where it is asked for; or lies of others.
    fn liar_tells(&mut self, liar: usize, push: &Push, lies: bool) -> Option<Answer> {
        for ask in push.asks.iter().filter(|ask| ask.about != push.to) {
            self.liar_words(liar, ask);
        }
        if lies {
            let signature = [self.random.u8(..); 64];
            let records = self.any_records(liar, 3);
            return Some(if self.random.bool() {
                Answer::Here(signature)
            } else {
                Answer::Records(records)
            });
        }
        let ask = push.self_ask()?;
        let what = Signed::Here { node_id: &push.to, challenge: &ask.challenge };
        let signature = self.liars[liar].key_of(&push.to).sign(what).unwrap();
        Some(Answer::Here(signature))
    }

    /// It was asked for somebody, and tries nobody.
    fn liar_words(&mut self, liar: usize, ask: &Ask) {
        let Some(host) = self.hosts.iter().position(|host| host.node_id == ask.asker) else {
            return;
        };
        let Some(node) = self.node(host) else { return };
        let (to, incarnation) = (node.node_id().clone(), node.incarnation());
        let signature = self.random.bool().then_some([7; 64]);
        let (about, challenge) = (ask.about.clone(), ask.challenge);
        let words = vec![Word { about, challenge, signature }];
        let push = Request::Push(Push { words, ..Push::new(to, incarnation) });
        let (name, key) = self.liars[liar].names[0].clone();
        self.liar_sends(liar, host, &name, key, &push);
    }

    fn liar_introduces(
        &mut self,
        liar: usize,
        name: &NodeId,
        key: &mut SimKey,
        caller: SocketAddr,
        lies: bool,
    ) -> Answer {
        let mut node_id = name.clone();
        let mut incarnation = self.liars[liar].incarnation;
        let mut session = Session([9; 16]);
        if lies {
            match self.random.u8(0..4) {
                0 => session = Session([self.random.u8(..); 16]),
                1 => incarnation = Incarnation([self.random.u8(..); 16]),
                2 => *key = key_of(3000 + self.random.u64(0..50)),
                // A name of nobody: honest names are another's to prove.
                _ => node_id = NodeId::new(&format!("made{}", self.random.u8(0..20))).unwrap(),
            }
        }
        Answer::Hello(HelloAnswer {
            version: 1,
            node_id,
            public_key: key.0,
            incarnation,
            session,
            program: ProgramVersion::new("liar"),
            advertise: None,
            seen: Address::of(caller.ip(), caller.port()),
        })
    }

    fn liar_pongs(&mut self, lies: bool) -> Answer {
        let twin = (lies && self.random.bool()).then(|| {
            let (address, public_key) = (self.any_address(), self.any_key());
            Twin { address, public_key }
        });
        let mut view = [0; 16];
        if lies {
            view = [self.random.u8(..); 16];
        }
        let mail = (lies && self.random.bool()).then(|| self.any_mail());
        Answer::Ping(Pong { view, twin, mail })
    }

    fn liar_lists(&mut self, lies: bool) -> Answer {
        if !lies {
            // All the same as the caller holds.
            let buckets = BucketSet(0);
            return Answer::Peers(PeersAnswer { buckets, nodes: Vec::new() });
        }
        let nodes = self.any_list().into_iter().map(|(node_id, rank, version)| {
            let address = self.random.bool().then(|| self.any_address());
            let is_lost = self.random.bool();
            KnownNode { node_id, address, rank, version, is_lost }
        });
        let nodes = nodes.collect();
        let buckets = match self.random.u8(0..3) {
            0 => u32::MAX,
            1 => self.random.u32(..),
            _ => 0,
        };
        Answer::Peers(PeersAnswer { buckets: BucketSet(buckets), nodes })
    }
}

/// What a liar does on its own.
impl World {
    pub fn liar_acts(&mut self, liar: usize) {
        let host = self.any_host();
        if !self.is_running(host) {
            return;
        }
        if self.random.u8(0..12) == 0 {
            self.redraw_ways(liar);
        }
        let names = &self.liars[liar].names;
        let (name, key) = names[self.random.usize(..names.len())].clone();
        let link = self.liars[liar].links.get(&(name.clone(), host)).cloned();
        let request = match self.random.u8(0..20) {
            0..=2 => self.liar_hello(liar, &name, key, None),
            3..=6 => {
                let Some(link) = &link else { return self.liar_greets(liar, host) };
                self.liar_hello(liar, &name, key, Some(link))
            }
            7 => return self.liar_claims(liar, host),
            8 if self.liars[liar].names.len() < NAMES_MAX => {
                let number = self.random.u64(..);
                let id = NodeId::new(&format!("made{}", number % 1000)).unwrap();
                self.liars[liar].names.push((id, key_of(number)));
                return;
            }
            9..=13 => {
                let Some(link) = &link else { return self.liar_greets(liar, host) };
                self.liar_push(liar, link)
            }
            _ => {
                let Some(link) = &link else { return self.liar_greets(liar, host) };
                self.liar_asks(liar, &name, link)
            }
        };
        self.liar_sends(liar, host, &name, key, &request);
    }

    /// One name says both its HELLOs to a host, as it should.
    pub fn liar_joins(
        &mut self,
        liar: usize,
        host: usize,
        name: &NodeId,
        key: SimKey,
        at: Option<Address>,
    ) {
        for _ in 0..2 {
            let link = self.liars[liar].links.get(&(name.clone(), host)).cloned();
            let Request::Hello(hello) = self.liar_hello(liar, name, key, link.as_ref()) else {
                return;
            };
            let incarnation = self.liars[liar].incarnation;
            let hello = Hello { advertise: at.clone(), incarnation, ..hello };
            self.liar_sends(liar, host, name, key, &Request::Hello(hello));
            self.run_for(30);
        }
    }

    /// All names that a host knows say HELLO there again, at one time.
    pub fn liar_calls(&mut self, liar: usize, host: usize) {
        for (name, key) in self.liars[liar].names.clone() {
            if let Some(link) = self.liars[liar].links.get(&(name.clone(), host)).cloned() {
                let Request::Hello(hello) = self.liar_hello(liar, &name, key, Some(&link)) else {
                    continue;
                };
                let incarnation = self.liars[liar].incarnation;
                let hello = Hello { incarnation, ..hello };
                self.liar_sends(liar, host, &name, key, &Request::Hello(hello));
            }
        }
    }

    /// Records go to a host, as an owner or somebody in between would bring them.
    pub fn liar_pushes(&mut self, liar: usize, host: usize, mut records: Vec<Arc<Record>>) {
        let node = self.node(host).expect("the host runs");
        let (to, incarnation) = (node.node_id().clone(), node.incarnation());
        records.sort_by(|left, right| left.head.node_id.cmp(&right.head.node_id));
        let push = Request::Push(Push { records, ..Push::new(to, incarnation) });
        let (name, key) = self.liars[liar].names[0].clone();
        self.liar_sends(liar, host, &name, key, &push);
        self.run_for(30);
    }

    /// It says to a host that none of these answers, each by the version that it has now.
    pub fn liar_accuses(&mut self, liar: usize, host: usize, accused: &[usize]) {
        let Some(node) = self.node(host) else { return };
        let push = Push::new(node.node_id().clone(), node.incarnation());
        let suspected = |host: &usize| {
            let own = self.node(*host)?.own();
            Some(Suspected { node_id: own.head.node_id.clone(), fingerprint: own.fingerprint })
        };
        let mut suspects: Vec<Suspected> = accused.iter().filter_map(suspected).collect();
        suspects.sort_by(|left, right| left.node_id.cmp(&right.node_id));
        let (name, key) = self.liars[liar].names[0].clone();
        self.liar_sends(liar, host, &name, key, &Request::Push(Push { suspects, ..push }));
    }

    fn liar_greets(&mut self, liar: usize, host: usize) {
        let (name, key) = self.liars[liar].names[0].clone();
        let hello = self.liar_hello(liar, &name, key, None);
        self.liar_sends(liar, host, &name, key, &hello);
    }

    fn next_number(&mut self, liar: usize) -> u64 {
        self.liars[liar].number += 1;
        match self.random.u8(0..40) {
            0 => self.random.u64(..),
            _ => 1_767_225_600_000_000 + self.now_ms * 1000 + self.liars[liar].number,
        }
    }

    fn liar_hello(
        &mut self,
        liar: usize,
        name: &NodeId,
        key: SimKey,
        link: Option<&Link>,
    ) -> Request {
        let incarnation = match self.random.u8(0..10) {
            0 => Incarnation([self.random.u8(..); 16]),
            _ => self.liars[liar].incarnation,
        };
        let proof = link.map(|link| HelloProof {
            to: link.to.clone(),
            session: link.session,
            number: self.next_number(liar),
            given: Session([9; 16]),
        });
        let advertise = (self.random.u8(0..4) == 0).then(|| self.any_address());
        Request::Hello(Hello {
            from: name.clone(),
            public_key: key.0,
            incarnation,
            program: ProgramVersion::new("liar"),
            port: PORT,
            advertise,
            proof,
        })
    }

    /// A HELLO under an honest name with a key of its own. Where that name was proved before it has
    /// to be in vain; where nobody proved it, whoever comes first has it, and that is no lie.
    fn liar_claims(&mut self, liar: usize, host: usize) {
        let victim = self.any_host();
        let (id, key) = (self.hosts[victim].node_id.clone(), self.liars[liar].names[0].1);
        let is_proved = |known: &dsn::protocol::peer::KnownPeer| {
            let direct =
                matches!(&known.known, Known::Pinned { pin, .. } if pin.trust == Trust::Direct);
            known.node_id == id && direct
        };
        let node = self.node(host).unwrap();
        if victim != host && !node.known_peers().iter().any(is_proved) {
            return;
        }
        let link = self.liars[liar].links.get(&(id.clone(), host)).cloned();
        let request = self.liar_hello(liar, &id, key, link.as_ref());
        self.liar_sends(liar, host, &id, key, &request);
    }

    fn liar_push(&mut self, liar: usize, link: &Link) -> Request {
        let records = self.any_records(liar, 6);
        let patch = self
            .random
            .bool()
            .then(|| self.any_patch(liar))
            .filter(|patch| records.iter().all(|record| record.head.node_id != patch.node_id));
        let incarnation = match self.random.u8(0..20) {
            0 => Incarnation([self.random.u8(..); 16]),
            _ => link.incarnation,
        };
        let patches = patch.map(Arc::new).into_iter().collect();
        let suspects = self.any_suspects();
        let asks = (0..self.random.usize(0..3)).map(|_| {
            let (about, asker) = (self.any_id(), self.any_id());
            Ask { about, asker, challenge: [self.random.u8(..); 16] }
        });
        let asks = asks.collect();
        let words = (0..self.random.usize(0..3)).map(|_| self.any_word()).collect();
        let push = Push::new(link.to.clone(), incarnation);
        Request::Push(Push { records, patches, asks, words, suspects, ..push })
    }

    /// Questions of nobody, words that nobody waits for, accusations of anybody.
    fn any_mail(&mut self) -> Mail {
        let asks = (0..self.random.usize(0..3)).map(|_| [self.random.u8(..); 16]).collect();
        let words = (0..self.random.usize(0..3)).map(|_| self.any_word()).collect();
        Mail { asks, words, suspects: self.any_suspects() }
    }

    fn any_suspects(&mut self) -> Vec<Suspected> {
        let mut suspects: Vec<Suspected> = (0..self.random.usize(0..4))
            .map(|_| {
                let node_id = self.any_id();
                let known = self.hosts.iter().find(|host| host.node_id == node_id);
                let node = known.and_then(|host| host.running.as_ref()).map(|it| &it.node);
                let fingerprint = node.map_or([1; 16], |node| node.own().fingerprint);
                Suspected { node_id, fingerprint }
            })
            .collect();
        suspects.sort_by(|left, right| left.node_id.cmp(&right.node_id));
        suspects.dedup_by(|left, right| left.node_id == right.node_id);
        suspects
    }

    fn any_word(&mut self) -> Word {
        let (about, challenge) = (self.any_id(), [self.random.u8(..); 16]);
        Word { about, challenge, signature: self.random.bool().then_some([7; 64]) }
    }

    fn any_patch(&mut self, liar: usize) -> Patch {
        let record = self.any_record(liar);
        let base = self.any_record(liar);
        let fingerprint = match self.random.u8(0..3) {
            0 => [self.random.u8(..); 16],
            _ => base.fingerprint,
        };
        let change = Change::from([(Key::new("lie0").unwrap(), None)]);
        let mut patch = Patch::new((fingerprint, &base.head.home), &record, change);
        if self.random.u8(0..4) == 0 {
            // It says that it has not moved, or that it has.
            patch.home = self.random.bool().then(|| self.any_home());
        }
        patch
    }

    fn liar_asks(&mut self, liar: usize, name: &NodeId, link: &Link) -> Request {
        let header = Header {
            from: name.clone(),
            to: link.to.clone(),
            incarnation: self.liars[liar].incarnation,
            session: link.session,
            number: self.next_number(liar),
        };
        match self.random.u8(0..5) {
            0 => Request::Ping(Ping { header, view: [self.random.u8(..); 16] }),
            1 => {
                let mut any = || [self.random.u8(0..3); 16];
                let buckets = Box::new(std::array::from_fn(|_| any()));
                Request::Peers(Peers { header, buckets })
            }
            2 => {
                let wishes = self.any_list().into_iter();
                let wishes =
                    wishes.map(|(node_id, _, version)| Wish { node_id, version }).collect();
                Request::Pull(Pull { header, wishes })
            }
            _ => {
                let id = self.random.u64(..);
                Request::Data(Data { header, id, data: b"from a liar"[..].into() })
            }
        }
    }

    fn liar_sends(
        &mut self,
        liar: usize,
        host: usize,
        name: &NodeId,
        key: SimKey,
        request: &Request,
    ) {
        let kind = request.kind();
        let mut payload = wire::encode_request(request).unwrap();
        if request.is_signed() {
            let what = Signed::Request { kind: kind.byte(), payload: &payload };
            let signature = key.sign(what).unwrap();
            payload.extend_from_slice(&signature);
        }
        let nonce = self.nonce();
        let place = Place::Request { path: kind.path() };
        let (body, tag) = seal(&self.keys, 0, nonce, place, kind.byte(), &payload).unwrap();
        let bytes = Bytes { path: kind.path(), body: body.into() };
        let (to, caller) =
            (self.hosts[host].address(), SocketAddr::new(self.liars[liar].ip, 41_000));
        let purpose = Purpose { name: name.clone(), host, kind, tag };
        let delay = self.random.u64(1..20);
        self.post(delay, to, caller, bytes, ReplyTo::Liar { liar, purpose });
    }

    /// What comes back is remembered, to be said again.
    pub fn liar_hears(&mut self, liar: usize, purpose: &Purpose, answer: &HttpAnswer) {
        if answer.status != 200 {
            return;
        }
        let path = purpose.kind.path();
        let place = Place::Answer { path, status: 200, request: &purpose.tag };
        let Ok(opened) = open(&self.keys, place, answer.body.clone()) else { return };
        match wire::decode_answer(purpose.kind, opened.payload()).map(|it| it.message) {
            Ok(Answer::Hello(hello)) => {
                let link = Link {
                    to: hello.node_id,
                    session: hello.session,
                    incarnation: hello.incarnation,
                };
                self.liars[liar].links.insert((purpose.name.clone(), purpose.host), link);
            }
            Ok(Answer::Records(records)) => {
                for record in records {
                    self.liars[liar].hear(record, &mut self.random);
                }
            }
            _ => {}
        }
    }
}
