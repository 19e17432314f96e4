//! The path of the driver with two members and somebody who has the network key: the input says
//! who does what next. Requests are made, delivered step by step with other things between the
//! steps, lost, repeated, changed, made up, answered wrongly; the clock goes on; states change and
//! nodes are forgotten. What must always hold is checked after each step.
#![no_main]

#[path = "../../tests/simulation/crypto.rs"]
mod crypto;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crypto::{SimKey, SimVerifier, key_of, network_keys, sign};
use dsn::protocol::PEERS_MAX;
use dsn::protocol::address::Address;
use dsn::protocol::crypto::{NetworkKeys, Place, Signed, Signer, TAG_BYTES, Tag, open, seal};
use dsn::protocol::entries::{Change, Key, Value};
use dsn::protocol::hash::Hash;
use dsn::protocol::identity::{Incarnation, NodeId, Session};
use dsn::protocol::node::{Action, Job, Node, Now, Outcome, Outgoing, Secret, Settings};
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::wire::{
    self, Answer, Header, Hello, HelloAnswer, HelloProof, Kind, Ping, ProgramVersion, Push, Request,
};
use dsn::steps::{self, Arrived, Checked, HttpAnswer, Looked, Read, Returned, Sealed};
use libfuzzer_sys::fuzz_target;

/// Most requests on their way at a time: the oldest is lost where there would be one more.
const FLYING_MAX: usize = 24;
/// Most bodies that were heard and may be said again.
const HEARD_MAX: usize = 24;
/// Whom a made-up request or record is from; none of them is one of the two.
const LIARS: u64 = 4;

/// The input, taken from the front.
struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) + usize::from(self.byte() % 16) * 256;
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// How far a request has come.
enum Stage {
    Sent,
    Arrived(Box<Arrived>),
    Looked(Looked),
    Checked(Box<Checked>),
}

/// Who waits for the answer.
enum Waiting {
    Honest { host: usize, job: Job, outgoing: Outgoing, sent: Sealed },
    Liar { name: usize, to: usize },
    Nobody,
}

/// A request on its way to one of the two.
struct Flying {
    to: usize,
    path: &'static str,
    body: Arc<[u8]>,
    stage: Stage,
    waiting: Waiting,
}

struct Host {
    node: Node,
    key: SimKey,
    jobs: VecDeque<Job>,
    /// Versions of its state that it made: when, and what.
    made: BTreeSet<(u64, Hash)>,
    /// What was delivered to it, by sender.
    delivered: BTreeMap<NodeId, Vec<Vec<u8>>>,
    /// What it holds of the other: rising, until it is dropped.
    last: u64,
}

struct World {
    hosts: [Host; 2],
    flying: Vec<Flying>,
    heard: VecDeque<(usize, &'static str, Arc<[u8]>)>,
    keys: NetworkKeys,
    now_ms: u64,
    nonce: u64,
    sent: u64,
    /// What the two gave each liar to name, and their runs.
    links: BTreeMap<(usize, usize), (Session, Incarnation)>,
    number: u64,
}

fn id(host: usize) -> NodeId {
    NodeId::new(["a", "b"][host]).expect("an id")
}

fn address(host: usize) -> Address {
    Address::new(["10.0.0.1:8000", "10.0.0.2:8000"][host]).expect("an address")
}

fn caller() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 41_000))
}

fn liar(name: usize) -> (NodeId, SimKey) {
    let id = NodeId::new(&format!("liar{name}")).expect("an id");
    (id, key_of(100 + name as u64))
}

fn version_of(record: &Record) -> (u64, Hash) {
    (record.head.timestamp, record.head.digest)
}

fn host(at: usize, now: Now) -> Host {
    let key = key_of(at as u64);
    let settings = Settings {
        discovers: false,
        node_id: id(at),
        public_key: key.0,
        secret: Secret([7 + u8::try_from(at).unwrap_or_default(); 32]),
        port: 8000,
        advertise: None,
        seeds: vec![address(1 - at)],
        tick_ms: 3_000,
        mesh_max: 1,
        relay_heads: 2,
        program: ProgramVersion::new("fuzz"),
        alone: true,
        is_durable: true,
        allow: None,
    };
    let own = Draft::new(id(at), 1_000, false, Arc::default()).at(settings.home());
    let own = sign(own, &key);
    let made = BTreeSet::from([version_of(&own)]);
    let node = Node::new(settings, own, Vec::new(), 7, now);
    let (jobs, delivered) = (VecDeque::new(), BTreeMap::new());
    Host { node, key, jobs, made, delivered, last: 0 }
}

impl World {
    fn new() -> Self {
        let now = Now { wall_us: 1_000_000, mono_ms: 1_000 };
        Self {
            hosts: [host(0, now), host(1, now)],
            flying: Vec::new(),
            heard: VecDeque::new(),
            keys: network_keys(),
            now_ms: 1_000,
            nonce: 0,
            sent: 0,
            links: BTreeMap::new(),
            number: 1,
        }
    }

    fn now(&self) -> Now {
        Now { wall_us: self.now_ms * 1_000, mono_ms: self.now_ms }
    }

    fn next_nonce(&mut self) -> [u8; 16] {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_le_bytes());
        nonce
    }

    fn perform(&mut self, host: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(job) => self.hosts[host].jobs.push_back(job),
                Action::WakeDisk => self.republish(host),
                _ => {}
            }
        }
        assert!(self.hosts[host].jobs.len() <= PEERS_MAX, "one job for each peer and seed at most");
    }

    fn fly(&mut self, flying: Flying) {
        if self.heard.len() == HEARD_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back((flying.to, flying.path, Arc::clone(&flying.body)));
        if self.flying.len() == FLYING_MAX {
            self.lose(0);
        }
        self.flying.push(flying);
    }

    /// A job is taken by a sender. Addresses of nobody lead to nobody.
    fn begin(&mut self, host: usize) {
        let (now, nonce) = (self.now(), self.next_nonce());
        let Some(job) = self.hosts[host].jobs.pop_front() else { return };
        let Some(mut outgoing) = self.hosts[host].node.begin(&job, now) else { return };
        let (own, key) = (id(host), self.hosts[host].key);
        let sent = steps::seal_request(&mut outgoing, &own, &self.keys, &key, nonce);
        let sent = sent.expect("it fits");
        let to = (0..2).find(|to| outgoing.address == address(*to));
        let Some(to) = to else {
            let outcome = Outcome::Failed("nobody is there".into());
            let actions = self.hosts[host].node.on_answer(&job, outcome, 1, now);
            return self.perform(host, actions);
        };
        let (path, body) = (sent.path, sent.body.clone().into());
        let waiting = Waiting::Honest { host, job, outgoing, sent };
        self.fly(Flying { to, path, body, stage: Stage::Sent, waiting });
    }

    /// One step of a request on its way; the last one answers it.
    fn advance(&mut self, at: usize) {
        if at >= self.flying.len() {
            return;
        }
        let now = self.now();
        let mut flying = self.flying.remove(at);
        let to = flying.to;
        let (answering, reply) = match flying.stage {
            Stage::Sent => match steps::read(flying.path, flying.body.to_vec(), &self.keys) {
                Read::Garbage(status) | Read::Foreign(status) => {
                    return self
                        .answer(flying.waiting, HttpAnswer { status, ..Default::default() });
                }
                Read::Refused(answering, verdict) => (answering, verdict.into()),
                Read::Arrived(arrived) => {
                    flying.stage = Stage::Arrived(arrived);
                    return self.flying.push(flying);
                }
            },
            Stage::Arrived(arrived) => {
                flying.stage = Stage::Looked(arrived.look(&self.hosts[to].node));
                return self.flying.push(flying);
            }
            Stage::Looked(Looked::Refused(answering, verdict)) => (answering, verdict.into()),
            Stage::Looked(Looked::ToCheck(to_check)) => {
                flying.stage = Stage::Checked(Box::new(to_check.check(&SimVerifier)));
                return self.flying.push(flying);
            }
            Stage::Checked(checked) => {
                let answering = checked.answering();
                let (reply, actions) = checked.apply(&mut self.hosts[to].node, caller(), now);
                self.perform(to, actions);
                (answering, reply)
            }
        };
        let (key, nonce) = (self.hosts[to].key, self.next_nonce());
        let answer = answering.answer(reply, &self.keys, &key, nonce).expect("it fits");
        let answer = HttpAnswer { status: answer.status, seal: answer.seal, body: answer.body };
        self.answer(flying.waiting, answer);
    }

    fn answer(&mut self, waiting: Waiting, answer: HttpAnswer) {
        match waiting {
            Waiting::Honest { host, job, outgoing, sent } => {
                let now = self.now();
                let own = (id(host), self.hosts[host].key.0);
                let own = (&own.0, &own.1);
                let read =
                    Returned::read(&outgoing, &sent.tag, answer, &self.keys, own, &SimVerifier);
                let outcome = read.look(&self.hosts[host].node).check(&SimVerifier);
                let actions = self.hosts[host].node.on_answer(&job, outcome, 1, now);
                self.perform(host, actions);
            }
            Waiting::Liar { name, to } => self.liar_hears(name, to, answer),
            Waiting::Nobody => {}
        }
    }

    fn lose(&mut self, at: usize) {
        if at >= self.flying.len() {
            return;
        }
        let now = self.now();
        if let Waiting::Honest { host, job, .. } = self.flying.remove(at).waiting {
            let outcome = Outcome::Failed("it was lost".into());
            let actions = self.hosts[host].node.on_answer(&job, outcome, 1, now);
            self.perform(host, actions);
        }
    }

    /// Says again what was heard.
    fn replay(&mut self, at: usize) {
        if let Some((to, path, body)) = self.heard.get(at % HEARD_MAX).cloned() {
            self.fly(Flying { to, path, body, stage: Stage::Sent, waiting: Waiting::Nobody });
        }
    }

    /// A liar says what it likes, signed with its own key.
    fn say(&mut self, to: usize, name: usize, kind: Kind, mut payload: Vec<u8>, signs: bool) {
        if signs {
            let what = Signed::Request { kind: kind.byte(), payload: &payload };
            let signature = liar(name).1.sign(what).expect("it can");
            payload.extend_from_slice(&signature);
        }
        let (nonce, path) = (self.next_nonce(), kind.path());
        let place = Place::Request { path };
        let sealed = seal(&self.keys, 0, nonce, place, kind.byte(), &payload);
        let body = sealed.expect("there is a key").0.into();
        let waiting = Waiting::Liar { name, to };
        self.fly(Flying { to, path, body, stage: Stage::Sent, waiting });
    }

    /// Takes what one of the two sent, changes a byte of it, and says it as its own.
    fn change(&mut self, tape: &mut Tape<'_>) {
        let (at, spot, mask) = (tape.below(HEARD_MAX), tape.byte(), tape.byte());
        let Some((to, path, body)) = self.heard.get(at).cloned() else { return };
        let Ok(opened) = open(&self.keys, Place::Request { path }, body.to_vec()) else { return };
        let Some(kind) = Kind::of_path(path) else { return };
        let mut payload = opened.payload().to_vec();
        if let Some(byte) = payload.get_mut(usize::from(spot) * 3) {
            *byte ^= mask;
        }
        let signs = tape.byte().is_multiple_of(2) && payload.len() > 64;
        if signs {
            payload.truncate(payload.len() - 64);
        }
        self.say(to, tape.below(LIARS as usize), kind, payload, signs);
    }

    fn liar_says(&mut self, tape: &mut Tape<'_>) {
        let (to, name) = (tape.below(2), tape.below(LIARS as usize));
        let (from, key) = liar(name);
        self.number += 1;
        let link = self.links.get(&(name, to)).copied();
        let what = tape.byte() % 5;
        let request = match (what, link) {
            (0, link) => Request::Hello(Hello {
                from,
                public_key: key.0,
                incarnation: Incarnation([tape.byte() % 3; 16]),
                program: ProgramVersion::new("liar"),
                port: 8000,
                advertise: (tape.byte() % 4 == 0).then(|| address(1 - to)),
                proof: link.map(|(session, _)| HelloProof {
                    to: id(to),
                    session,
                    number: self.number,
                    given: Session([9; 16]),
                }),
            }),
            (1, Some((_, incarnation))) => {
                let change = tape.bytes();
                let value = Value::new(change).expect("it is short");
                let entries = [(Key::new("k").expect("a key"), value)].into_iter().collect();
                let draft = Draft::new(
                    from,
                    1 + u64::from(tape.byte()),
                    tape.byte() > 250,
                    Arc::new(entries),
                );
                let records = vec![sign(draft, &key).share()];
                Request::Push(Push { records, ..Push::new(id(to), incarnation) })
            }
            (2, Some((session, _))) => {
                let header = Header {
                    from,
                    to: id(to),
                    incarnation: Incarnation([0; 16]),
                    session,
                    number: self.number,
                };
                Request::Ping(Ping { header, view: [7; 16] })
            }
            // A header that is right, and a rest as the input says.
            (kind, Some((session, _))) => {
                let header = Header {
                    from,
                    to: id(to),
                    incarnation: Incarnation([tape.byte() % 3; 16]),
                    session,
                    number: self.number,
                };
                let ping = Request::Ping(Ping { header, view: [0; 16] });
                let mut header = wire::encode_request(&ping).expect("it fits");
                header.truncate(header.len() - 16);
                let kind = [Kind::Peers, Kind::Data][usize::from(kind) % 2];
                let payload = [&header, tape.bytes()].concat();
                return self.say(to, name, kind, payload, true);
            }
            _ => return,
        };
        let payload = wire::encode_request(&request).expect("it fits");
        self.say(to, name, request.kind(), payload, request.is_signed());
    }

    fn liar_hears(&mut self, name: usize, to: usize, answer: HttpAnswer) {
        // Only the answers to a first HELLO tell a liar something that it needs.
        if answer.status != 200 {
            return;
        }
        let requests = self.heard.iter().rev().filter(|(_, path, _)| *path == "/hello");
        let tags = requests.map(|(_, _, body)| body[body.len() - TAG_BYTES..].try_into());
        for tag in tags.flatten() {
            let tag: Tag = tag;
            let place = Place::Answer { path: "/hello", status: 200, request: &tag };
            let Ok(opened) = open(&self.keys, place, answer.body.clone()) else { continue };
            let decoded = wire::decode_answer(Kind::Hello, opened.payload());
            if let Ok(Answer::Hello(HelloAnswer { session, incarnation, .. })) =
                decoded.map(|decoded| decoded.message)
            {
                self.links.insert((name, to), (session, incarnation));
            }
        }
    }

    /// Somebody else answers in place of the receiver.
    fn lie(&mut self, at: usize, tape: &mut Tape<'_>) {
        if at >= self.flying.len() {
            return;
        }
        let flying = self.flying.remove(at);
        let Some(kind) = Kind::of_path(flying.path) else { return };
        let Ok(tag) = Tag::try_from(&flying.body[flying.body.len().saturating_sub(TAG_BYTES)..])
        else {
            return;
        };
        let status = [200, 204, 400, 401, 406, 500, 503][tape.below(7)];
        let mut payload = tape.bytes().to_vec();
        if kind.is_answer_signed() && status < 300 {
            let what = Signed::Answer { kind: kind.byte(), request: &tag, payload: &payload };
            let signature = liar(tape.below(LIARS as usize)).1.sign(what).expect("it can");
            payload.extend_from_slice(&signature);
        }
        let (nonce, path) = (self.next_nonce(), flying.path);
        let place = Place::Answer { path, status, request: &tag };
        let sealed = seal(&self.keys, 0, nonce, place, kind.byte(), &payload);
        let (envelope, _) = sealed.expect("there is a key");
        let answer = match status {
            204 => HttpAnswer { status, seal: Some(steps::seal_text(&envelope)), body: Vec::new() },
            _ => HttpAnswer { status, seal: None, body: envelope },
        };
        self.answer(flying.waiting, answer);
    }

    fn set(&mut self, host: usize, tape: &mut Tape<'_>) {
        let now = self.now();
        let key = Key::new(&format!("k{}", tape.byte() % 4)).expect("a key");
        let value = Some(Value::new(&[tape.byte()]).expect("a value"));
        let this = &mut self.hosts[host];
        let own = this.node.own();
        let Some(timestamp) = this.node.next_timestamp(now.wall_us, own.head.timestamp) else {
            return;
        };
        let next = own.draft().at(this.node.home().clone()).after(
            &Change::from([(key, value)]),
            false,
            timestamp,
        );
        let Ok(Some(next)) = next else { return };
        let next = sign(next, &this.key);
        this.made.insert(version_of(&next));
        let actions = this.node.on_set(next, now);
        self.perform(host, actions);
    }

    /// The same entries under a later timestamp, where the node wants that.
    fn republish(&mut self, host: usize) {
        let now = self.now();
        let this = &mut self.hosts[host];
        if this.node.take_disk_wishes().republish.is_none() {
            return;
        }
        let own = this.node.own();
        let Some(timestamp) = this.node.next_timestamp(now.wall_us, own.head.timestamp) else {
            return;
        };
        let next = own.draft().again(timestamp).at(this.node.home().clone());
        let next = sign(next, &this.key);
        this.made.insert(version_of(&next));
        let actions = this.node.on_set(next, now);
        self.perform(host, actions);
    }

    fn send(&mut self, host: usize) {
        self.sent += 1;
        let data = [&[u8::try_from(host).unwrap_or_default()], &self.sent.to_le_bytes()[..]];
        let now = self.now();
        let sent = self.hosts[host].node.send(&id(1 - host), data.concat().into(), now);
        if let Ok((_, actions)) = sent {
            self.perform(host, actions);
        }
    }

    fn forget(&mut self, host: usize, tape: &mut Tape<'_>) {
        let name = tape.byte();
        let node_id = if name % 2 == 0 { id(1 - host) } else { liar(usize::from(name) % 4).0 };
        let now = self.now();
        if let Ok(actions) = self.hosts[host].node.forget(&node_id, now) {
            self.hosts[host].last = 0;
            self.perform(host, actions);
        }
    }

    fn receive(&mut self, host: usize) {
        while let Some(message) = self.hosts[host].node.receive() {
            let other = id(1 - host);
            let from = self.hosts[host].delivered.entry(message.from.clone()).or_default();
            let data = message.data.to_vec();
            if message.from == other {
                assert_eq!(usize::from(data[0]), 1 - host, "only its sender sends it");
                assert!(!from.contains(&data), "it is delivered once");
                from.push(data);
            }
        }
    }

    fn check(&mut self) {
        let now = self.now();
        for at in 0..2 {
            let other = &self.hosts[1 - at];
            let made = &other.made;
            let of_other =
                self.hosts[at].node.states().into_iter().find(|it| it.node_id == id(1 - at));
            let peers = self.hosts[at].node.peers(now);
            assert!(peers.len() <= PEERS_MAX);
            // Who was never met may be anybody: the first key that is told is believed for a while.
            let is_met = peers
                .iter()
                .any(|peer| peer.public_key == Some(other.key.0) && peer.node_id == id(1 - at));
            if let Some(state) = of_other.filter(|_| is_met) {
                let version = (state.timestamp, *state.entries.digest());
                assert!(state.timestamp == 0 || made.contains(&version), "ownership: {state:?}");
                assert!(state.timestamp >= self.hosts[at].last, "monotony: {state:?}");
                self.hosts[at].last = state.timestamp;
            }
            let own = self.hosts[at].node.own();
            assert!(self.hosts[at].made.contains(&version_of(own)), "only the owner writes");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut world, mut tape) = (World::new(), Tape(data));
    for host in 0..2 {
        let now = world.now();
        let actions = world.hosts[host].node.on_tick(now).1;
        world.perform(host, actions);
    }
    while !tape.0.is_empty() {
        let op = tape.byte();
        let host = usize::from(op >> 7);
        match op % 16 {
            0 => {
                world.now_ms += 50 * u64::from(tape.byte());
                let now = world.now();
                let actions = world.hosts[host].node.on_tick(now).1;
                world.perform(host, actions);
            }
            1 | 2 => world.begin(host),
            3 | 4 => {
                let at = tape.below(FLYING_MAX);
                world.advance(at);
            }
            // The first one, to its end.
            5 | 6 => (0..4).for_each(|_| {
                let last = world.flying.len().saturating_sub(1);
                world.advance(last);
            }),
            7 => {
                let at = tape.below(FLYING_MAX);
                world.lose(at);
            }
            8 => {
                let at = tape.below(HEARD_MAX);
                world.replay(at);
            }
            9 => world.change(&mut tape),
            10 => {
                let kind = Kind::ALL[tape.below(5)];
                let (name, signs) = (tape.below(4), tape.byte() % 2 == 0);
                let payload = tape.bytes().to_vec();
                world.say(host, name, kind, payload, signs);
            }
            11 => world.liar_says(&mut tape),
            12 => {
                let at = tape.below(FLYING_MAX);
                world.lie(at, &mut tape);
            }
            13 => world.set(host, &mut tape),
            14 => {
                world.send(host);
                world.receive(host);
            }
            _ => world.forget(host, &mut tape),
        }
        world.check();
    }
});
