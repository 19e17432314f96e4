//! The rules by themselves: one node, and others that are made by hand. Each test here fails where
//! one defence is taken out (tests/mends.txt).

mod answers;
mod calls;
mod compare;
mod far;
mod found;
mod hello;
mod home;
mod mail;
mod partial;
mod records;
mod relay;
mod requests;
mod seeds;
mod suspicion;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{
    Action, CheckedPush, Incoming, Job, Judgement, Node, Now, Outcome, Outgoing, RefusedPart,
    Reply, Secret, Settings, Target, Verdict,
};
use crate::protocol::address::Address;
use crate::protocol::crypto::{CryptoFault, Signed, Signer, Verifier};
use crate::protocol::entries::{Entries, Key, Value};
use crate::protocol::flight::Ticket;
use crate::protocol::identity::{Incarnation, NodeId, PublicKey, Session};
use crate::protocol::peer::{KnownPeer, Peer};
use crate::protocol::record::{Draft, Record, Signature};
use crate::protocol::report::Refused;
use crate::protocol::verdict::Reason;
use crate::protocol::verified::{Authentic, Verified};
use crate::protocol::view::{BUCKETS, BucketSet, NO_BUCKET, ViewHash};
use crate::protocol::wire::{
    Answer, Data, Header, Hello, HelloAnswer, HelloProof, Here, KnownNode, Peers, PeersAnswer,
    Ping, Pong, ProgramVersion, Push, Refusal, Request, Text,
};

/// The time between ticks, ms.
const TICK_MS: u64 = 3_000;
/// When all tests begin, microseconds since 1970.
const WALL_US: u64 = 1_767_225_600_000_000;

fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn key(number: u8) -> PublicKey {
    PublicKey([number; 65])
}

fn address(text: &str) -> Address {
    Address::new(text).unwrap()
}

/// Whoever has a key here can sign with it, and all signatures fit: what the steps before the rules
/// check is not tried here.
struct Gullible(PublicKey);

impl Signer for Gullible {
    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, _: Signed<'_>) -> Result<Signature, CryptoFault> {
        Ok([0; 64])
    }
}

impl Verifier for Gullible {
    fn verify(&self, _: &PublicKey, _: Signed<'_>, _: &Signature) -> bool {
        true
    }
}

fn signed<T>(message: T, key: PublicKey) -> Authentic<T> {
    let what = Signed::Request { kind: 0, payload: &[] };
    Authentic::check(message, key, what, &[0; 64], &Gullible(key)).unwrap()
}

/// Another node, as far as ours gets to know it.
#[derive(Clone)]
struct Other {
    id: NodeId,
    key: PublicKey,
    incarnation: Incarnation,
    /// What ours has to name to it.
    given: Session,
    /// What it has to name to ours.
    session: Session,
    number: u64,
    ip: IpAddr,
}

impl Other {
    fn new(name: &str, number: u8) -> Self {
        Self {
            id: id(name),
            key: key(number),
            incarnation: Incarnation([number; 16]),
            given: Session([number; 16]),
            session: Session([0; 16]),
            number: WALL_US,
            ip: IpAddr::from([10, 0, 0, number]),
        }
    }

    fn place(&self) -> Address {
        Address::of(self.ip, 8000)
    }

    fn caller(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 40_000)
    }

    fn next_number(&mut self) -> u64 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    fn record(&self, timestamp: u64, value: &str) -> Verified<Record> {
        self.record_of(&self.id, timestamp, value)
    }

    fn record_of(&self, owner: &NodeId, timestamp: u64, value: &str) -> Verified<Record> {
        let value = Value::new(value.as_bytes()).unwrap();
        let entries: Entries = [(Key::new("k").unwrap(), value)].into_iter().collect();
        let draft = Draft::new(owner.clone(), timestamp, false, Arc::new(entries));
        Verified::sign(draft, &Gullible(self.key)).unwrap()
    }

    fn goodbye(&self, timestamp: u64) -> Verified<Record> {
        let draft = Draft::new(self.id.clone(), timestamp, true, Arc::default());
        Verified::sign(draft, &Gullible(self.key)).unwrap()
    }

    fn hello(&self, proof: Option<HelloProof>) -> Hello {
        Hello {
            from: self.id.clone(),
            public_key: self.key,
            incarnation: self.incarnation,
            program: ProgramVersion::new("test"),
            port: 8000,
            advertise: None,
            proof,
        }
    }

    fn introduces(&self) -> Outcome {
        let answer = HelloAnswer {
            version: 1,
            node_id: self.id.clone(),
            public_key: self.key,
            incarnation: self.incarnation,
            session: self.given,
            program: ProgramVersion::new("test"),
            advertise: None,
            seen: address("10.0.0.99:40000"),
        };
        Outcome::Introduced(signed(answer, self.key))
    }

    /// What an honest node says to a request, where it holds the same as the caller.
    fn answers(&self, us: &mut Us, request: &Request) -> Outcome {
        match request {
            Request::Hello(hello) if hello.proof.is_some() => {
                Outcome::Welcomed(signed((), self.key))
            }
            Request::Hello(_) => self.introduces(),
            Request::Push(push) => self.is_here(push),
            Request::Pull(_) => Outcome::Nothing,
            Request::Ping(_) => self.pong(us),
            Request::Peers(_) => {
                let answer = PeersAnswer { buckets: BucketSet(0), nodes: Vec::new() };
                Outcome::Listed(signed(answer, self.key))
            }
            Request::Data(_) => Outcome::Accepted(signed((), self.key)),
        }
    }

    fn is_here(&self, push: &Push) -> Outcome {
        let Some(ask) = push.self_ask() else { return Outcome::Nothing };
        let (node_id, challenge) = (ask.about.clone(), ask.challenge);
        let here = Here { node_id, challenge, signature: [0; 64] };
        let here = Verified::<Here>::check(here, &self.key, &Gullible(self.key));
        Outcome::Here(here.unwrap())
    }

    fn pong(&self, us: &mut Us) -> Outcome {
        self.pong_of(us.node.view.hash())
    }

    fn pong_of(&self, view: ViewHash) -> Outcome {
        Outcome::Pong(signed(Pong { view, twin: None, mail: None }, self.key), Vec::new())
    }

    /// It has another view, and lists this in all buckets.
    fn lists(&self, nodes: Vec<KnownNode>) -> Outcome {
        let answer = PeersAnswer { buckets: BucketSet(u32::MAX), nodes };
        Outcome::Listed(signed(answer, self.key))
    }

    /// How it is listed by somebody who holds this version of it.
    fn known(&self, timestamp: u64, value: &str) -> KnownNode {
        let version = self.record(timestamp, value).version();
        let (node_id, rank) = (self.id.clone(), self.key.rank_for(&self.id));
        KnownNode { node_id, address: None, rank, version, is_lost: false }
    }
}

fn refuses(reason: Reason) -> Outcome {
    let text = Text::new("no");
    Outcome::Refused(Refusal { reason: reason.code(), text, number: 0, records: Vec::new() }, None)
}

/// An UPDATE without anything in it, to whom it may concern.
fn nothing() -> CheckedPush {
    CheckedPush::new(id("us"), Incarnation([0; 16]))
}

/// Our node.
struct Us {
    node: Node,
    now: Now,
    jobs: VecDeque<Job>,
    finished: Vec<(Ticket, Result<u64, Refused>)>,
}

const OUR_KEY: u8 = 1;

impl Us {
    fn new() -> Self {
        Self::with(|_| {}, Vec::new())
    }

    fn with(change: impl FnOnce(&mut Settings), known: Vec<KnownPeer>) -> Self {
        let now = Now { wall_us: WALL_US, mono_ms: 1_000 };
        let mut settings = Settings {
            discovers: false,
            node_id: id("us"),
            public_key: key(OUR_KEY),
            secret: Secret([3; 32]),
            port: 8000,
            advertise: None,
            seeds: Vec::new(),
            tick_ms: TICK_MS,
            mesh_max: crate::protocol::node::MESH_MAX,
            relay_heads: crate::protocol::node::RELAY_HEADS,
            program: ProgramVersion::new("test"),
            alone: true,
            is_durable: true,
            allow: None,
        };
        change(&mut settings);
        let own = Other::new("us", OUR_KEY).record(WALL_US, "first");
        let own = Verified::sign(own.draft().at(settings.home()), &Gullible(key(OUR_KEY))).unwrap();
        let node = Node::new(settings, own, known, 7, now);
        Self { node, now, jobs: VecDeque::new(), finished: Vec::new() }
    }

    fn take_actions(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(job) => self.jobs.push_back(job),
                Action::Finish(ticket, result) => self.finished.push((ticket, result)),
                _ => {}
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_us += ms * 1_000;
    }

    fn tick(&mut self) {
        self.goes_on(TICK_MS);
    }

    /// So much time goes by, and the node does what is due then.
    fn goes_on(&mut self, ms: u64) {
        self.wait(ms);
        let (_, actions) = self.node.on_tick(self.now);
        self.take_actions(actions);
    }

    fn peer(&self, other: &Other) -> &Peer {
        self.node.peers.get(&other.id).unwrap()
    }

    /// The value that is shown of a node.
    fn shows(&self, node_id: &NodeId) -> Option<String> {
        let state = self.node.state(node_id)?;
        let value = state.entries.get("k")?;
        Some(String::from_utf8(value.as_bytes().to_vec()).unwrap())
    }

    fn request(&mut self, incoming: Incoming, caller: SocketAddr) -> Reply {
        let (reply, actions) = self.node.on_request(incoming, caller, self.now);
        self.take_actions(actions);
        reply
    }

    /// The first step of a HELLO; gives what has to be named in the second.
    fn is_greeted(&mut self, other: &Other) -> Session {
        let hello = signed(other.hello(None), other.key);
        match self.request(Incoming::Hello(hello), other.caller()).verdict {
            Verdict::Answer(answer) => match *answer {
                Answer::Hello(answer) => answer.session,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// The second step, for what it is worth.
    fn is_shown(&mut self, other: &Other, session: Session, number: u64) -> Reply {
        let to = self.node.node_id().clone();
        let proof = HelloProof { to, session, number, given: other.given };
        let hello = signed(other.hello(Some(proof)), other.key);
        self.request(Incoming::Hello(hello), other.caller())
    }

    /// Both steps.
    fn is_joined_by(&mut self, other: &mut Other) {
        other.session = self.is_greeted(other);
        let number = other.next_number();
        let reply = self.is_shown(other, other.session, number);
        assert!(matches!(reply.verdict, Verdict::Nothing), "{reply:?}");
    }

    /// Both steps, and all that ours has to say to it in turn.
    fn is_connected_with(&mut self, other: &mut Other) {
        self.is_joined_by(other);
        self.serve(other);
        // What meeting takes is over at the next tick.
        self.node.peers.get_mut(&other.id).unwrap().upkeep = 0;
        assert!(self.peer(other).link.connected && self.peer(other).is_reached());
    }

    fn header(&self, other: &mut Other) -> Header {
        let number = other.next_number();
        Header {
            from: other.id.clone(),
            to: self.node.node_id().clone(),
            incarnation: other.incarnation,
            session: other.session,
            number,
        }
    }

    fn is_pinged_by(&mut self, other: &mut Other) -> Reply {
        let view = self.node.view.hash();
        self.is_pinged_with(other, view)
    }

    fn is_pinged_with(&mut self, other: &mut Other, view: ViewHash) -> Reply {
        let header = self.header(other);
        self.request(Incoming::Ping(signed(Ping { header, view }, other.key)), other.caller())
    }

    fn is_sent(&mut self, other: &mut Other, data_id: u64) -> Reply {
        let header = self.header(other);
        let data = Data { header, id: data_id, data: b"data"[..].into() };
        self.request(Incoming::Data(signed(data, other.key)), other.caller())
    }

    /// Records come in as the steps bring them: what is no news is not verified.
    fn is_brought(&mut self, by: &Other, records: &[&Verified<Record>]) -> Reply {
        let (mut news, mut refused) = (Vec::new(), Vec::new());
        for record in records {
            match self.node.judge(&record.head, &record.public_key) {
                Judgement::News => news.push((*record).clone()),
                judgement => refused.extend(RefusedPart::of(&record.head.node_id, judgement)),
            }
        }
        self.is_brought_checked(by, news, refused)
    }

    fn is_brought_checked(
        &mut self,
        by: &Other,
        records: Vec<Verified<Record>>,
        refused: Vec<RefusedPart>,
    ) -> Reply {
        let (to, incarnation) = (self.node.node_id().clone(), self.node.incarnation());
        let push = CheckedPush { records, refused, ..CheckedPush::new(to, incarnation) };
        self.request(Incoming::Push(push), by.caller())
    }

    fn sets(&mut self, value: &str) {
        let timestamp = self.node.next_timestamp(self.now.wall_us, self.node.own().head.timestamp);
        let own = Other::new("us", OUR_KEY).record(timestamp.unwrap(), value);
        let own = own.draft().at(self.node.home().clone());
        let own = Verified::sign(own, &Gullible(key(OUR_KEY))).unwrap();
        let actions = self.node.on_set(own, self.now);
        self.take_actions(actions);
    }

    fn forgets(&mut self, other: &Other) {
        let actions = self.node.forget(&other.id, self.now).unwrap();
        self.take_actions(actions);
    }

    /// What a sender makes of the next job for this peer, if anything is due.
    fn begins_with(&mut self, other: &Other) -> Option<(Job, Outgoing)> {
        let target = Target::Peer(other.id.clone());
        while let Some(at) = self.jobs.iter().position(|job| job.target == target) {
            let job = self.jobs.remove(at)?;
            if let Some(outgoing) = self.node.begin(&job, self.now) {
                return Some((job, outgoing));
            }
        }
        None
    }

    fn is_answered(&mut self, job: &Job, outcome: Outcome) {
        let actions = self.node.on_answer(job, outcome, 1_000, self.now);
        self.take_actions(actions);
    }

    /// The other one answers all that it is asked, as it should; gives how much that was.
    fn serve(&mut self, other: &Other) -> usize {
        let mut count = 0;
        while let Some((job, outgoing)) = self.begins_with(other) {
            let outcome = other.answers(self, &outgoing.request);
            self.is_answered(&job, outcome);
            count += 1;
            assert!(count < 100, "it never ends");
        }
        count
    }

    /// It answers each request in this way while nothing changes; gives how much it was asked
    /// before all had to wait.
    fn answer_all(
        &mut self,
        other: &Other,
        mut way: impl FnMut(&Request) -> Option<Outcome>,
    ) -> usize {
        let mut count = 0;
        while let Some((job, outgoing)) = self.begins_with(other) {
            let outcome =
                way(&outgoing.request).unwrap_or_else(|| other.answers(self, &outgoing.request));
            self.is_answered(&job, outcome);
            count += 1;
            assert!(count < 100, "it never ends");
        }
        count
    }

    /// All that it says to a caller that holds other things in all buckets.
    fn lists(&mut self) -> PeersAnswer {
        let header = self.header(&mut Other::new("asks", 200));
        self.node.answer_peers(&Peers { header, buckets: Box::new([NO_BUCKET; BUCKETS]) })
    }

    /// Whether it would like to have a version that somebody holds.
    fn wishes_for(&mut self, record: &Record) -> bool {
        let node_id = record.head.node_id.clone();
        let (rank, version) = (record.public_key.rank_for(&node_id), record.version());
        let known = KnownNode { node_id, address: None, rank, version, is_lost: false };
        let answer = PeersAnswer { buckets: BucketSet(0), nodes: vec![known] };
        self.node.compare(&id("says"), answer, self.now, &mut Vec::new())
    }

    fn degraded(&self) -> Vec<String> {
        self.node.faults(self.now).iter().map(ToString::to_string).collect()
    }
}

/// Ours, and so many others that it is connected with.
fn connected(count: u8) -> (Us, Vec<Other>) {
    let mut us = Us::new();
    let mut others: Vec<Other> =
        (0..count).map(|number| Other::new(&format!("other{number}"), 2 + number)).collect();
    for other in &mut others {
        us.is_connected_with(other);
    }
    (us, others)
}

fn reason_of(reply: &Reply) -> Option<Reason> {
    match &reply.verdict {
        Verdict::Refuse(reason, _) => Some(*reason),
        _ => None,
    }
}
