//! All that speaks the wire: what hand-made members say, and what they answer, rightly or not. With
//! `support::Member` this is the one place that a change of the protocol has to be brought to; the
//! rest of the harness knows ids, addresses, paths, statuses and bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::crypto::{Ecdsa, Place, Signed, Signer, TAG_BYTES, Tag, open, seal};
use dsn::protocol::entries::{Change, Entries, Key, Value};
use dsn::protocol::hash::Sha256;
use dsn::protocol::head::Version;
use dsn::protocol::identity::{NodeId, Rank, Session, hex};
use dsn::protocol::record::{Draft, Patch, Record};
use dsn::protocol::verdict::Reason;
use dsn::protocol::verified::Verified;
use dsn::protocol::view::{BucketSet, View};
use dsn::protocol::wire::{
    self, Answer, HelloAnswer, Kind, KnownNode, Peers, PeersAnswer, Pong, ProgramVersion, Pull,
    Push, Refusal, Request, Text, Wish,
};

use super::port::{Reply, exchange};
use crate::support::{GIVEN, Heard, Member, id, key};

/// Bytes of a value of which [`large`] makes a state: the longest there may be.
const VALUE_BYTES: usize = 64 * 1024;
/// What an entry counts beside its value, with a key of a few bytes.
const ENTRY_BYTES: usize = 32;
/// The timestamp of the records that hand-made members have of their own.
const TIMESTAMP: u64 = 5_000_000;

/// How a member deviates from the protocol. All else it answers rightly.
#[derive(Debug, Clone, Copy)]
pub enum Lie {
    /// Not at all.
    None,
    /// A PING gets 401 with reason 13: the session is over.
    PingWrongSession,
    /// A PING gets 401 with reason 10: who are you?
    PingUnknownSender,
    /// A HELLO gets 200 with a session that is new each time.
    HelloSession,
    /// A HELLO gets 200 with a key that is new each time.
    HelloKey,
    /// A HELLO gets 200 with an id that is new each time.
    HelloId,
    /// Wishes get 406 with reason 22: a limit is exceeded.
    UpdateRefused,
    /// The answer to PEERS says that nothing is held, and so does the view.
    PeersNothing,
    /// An UPDATE is never answered.
    UpdateHangs,
}

/// A member with its own record and those that were sent to it.
struct Guise {
    member: Member,
    own: Arc<Record>,
    held: BTreeMap<NodeId, Arc<Record>>,
}

/// One who answers at a port, as one member or as many.
pub struct Liar {
    guises: BTreeMap<NodeId, Guise>,
    here: Address,
    lie: Lie,
    /// Lies told so far.
    pub told: u64,
}

impl Liar {
    /// Answers for these members at this address.
    pub fn new(members: Vec<Member>, here: &str, lie: Lie) -> Self {
        let guise = |member: Member| {
            let own = member.record(TIMESTAMP, &[("who", "a member made by hand")]);
            (member.node_id.clone(), Guise { own, member, held: BTreeMap::new() })
        };
        let here = Address::new(here).unwrap();
        Self { guises: members.into_iter().map(guise).collect(), here, lie, told: 0 }
    }

    /// The answer to the body of a request.
    pub fn answer(&mut self, path: &str, body: Vec<u8>) -> Reply {
        let empty = || Reply::Answer(b"HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n".to_vec());
        let (Some(kind), Some((_, tag))) = (Kind::of_path(path), body.split_last_chunk()) else {
            return empty();
        };
        let tag: Tag = *tag;
        let first = self.guises.keys().next().cloned().expect("somebody who answers");
        let Ok(opened) = open(&self.guises[&first].member.network, Place::Request { path }, body)
        else {
            return empty();
        };
        let request = wire::decode_request(kind, opened.payload()).unwrap().message;
        let asked = addressee(&request).filter(|to| self.guises.contains_key(to)).unwrap_or(first);
        let told = self.lie.tell(&request);
        self.told += u64::from(told.is_some());
        let guise = self.guises.get_mut(&asked).expect("looked up");
        let said = match told {
            None => Some(guise.right(&request, &self.here)),
            Some(told) => guise.wrong(told, &request, self.told, &self.here),
        };
        said.map_or(Reply::Never, |said| guise.sealed(kind, &tag, &said))
    }

    /// Lets each of its members say HELLO to a node; gives how many were accepted.
    pub fn greet(&mut self, node: SocketAddr) -> usize {
        let here = self.here.as_str();
        let members = self.guises.values_mut().map(|guise| &mut guise.member);
        members.filter_map(|member| greet(member, node, here).then_some(())).count()
    }

    /// Its first member, for requests of its own.
    pub fn member(&mut self) -> &mut Member {
        let first = self.guises.values_mut().next().expect("somebody who answers");
        &mut first.member
    }
}

/// What a lie says in the place of the right answer.
#[derive(Debug, Clone, Copy)]
enum Told {
    Never,
    Refusal(Reason),
    NewSession,
    NewKey,
    NewId,
    EmptyList,
    EmptyView,
}

impl Lie {
    /// What is said to a request, if it is one to lie to.
    fn tell(self, request: &Request) -> Option<Told> {
        match (self, request) {
            (Self::PingWrongSession, Request::Ping(_)) => Some(Told::Refusal(Reason::WrongSession)),
            (Self::PingUnknownSender, Request::Ping(_)) => {
                Some(Told::Refusal(Reason::UnknownSender))
            }
            (Self::HelloSession, Request::Hello(_)) => Some(Told::NewSession),
            (Self::HelloKey, Request::Hello(_)) => Some(Told::NewKey),
            (Self::HelloId, Request::Hello(_)) => Some(Told::NewId),
            (Self::UpdateRefused, Request::Pull(_)) => Some(Told::Refusal(Reason::LimitExceeded)),
            (Self::PeersNothing, Request::Peers(_)) => Some(Told::EmptyList),
            (Self::PeersNothing, Request::Ping(_)) => Some(Told::EmptyView),
            (Self::UpdateHangs, Request::Push(_) | Request::Pull(_)) => Some(Told::Never),
            _ => None,
        }
    }
}

/// An answer before it is signed and sealed.
enum Said {
    /// 200.
    Message(Answer),
    /// 204.
    Nothing,
    /// Any other status.
    Refusal(Reason),
}

fn addressee(request: &Request) -> Option<NodeId> {
    match request {
        Request::Hello(hello) => hello.proof.as_ref().map(|proof| proof.to.clone()),
        Request::Push(push) => Some(push.to.clone()),
        other => other.header().map(|header| header.to.clone()),
    }
}

/// All buckets differ, and nothing is held in them, not even of the caller.
fn nothing_held(caller: &NodeId) -> PeersAnswer {
    let (node_id, rank, version) = (caller.clone(), Rank::default(), Version::default());
    let known = KnownNode { node_id, address: None, rank, version, is_lost: false };
    PeersAnswer { buckets: BucketSet(u32::MAX), nodes: vec![known] }
}

/// 16 bytes that no other number gives.
fn unique(number: u64) -> [u8; 16] {
    let hash = Sha256::new(&number.to_le_bytes()).finish();
    hash[..16].try_into().unwrap()
}

impl Guise {
    /// What an honest member answers.
    fn right(&mut self, request: &Request, here: &Address) -> Said {
        match request {
            Request::Hello(hello) if hello.proof.is_some() => Said::Nothing,
            Request::Hello(_) => Said::Message(Answer::Hello(self.hello_answer(here))),
            Request::Ping(_) => Said::Message(Answer::Ping(Pong {
                view: self.view().hash(),
                twin: None,
                mail: None,
            })),
            Request::Peers(peers) => Said::Message(Answer::Peers(self.compared(peers))),
            Request::Data(_) => Said::Message(Answer::Data),
            Request::Push(push) => self.take(push).map_or_else(Said::Refusal, |()| Said::Nothing),
            Request::Pull(pull) => self.given(pull),
        }
    }

    /// A lie, which differs from those before it by its number; nothing where that is silence.
    fn wrong(
        &mut self,
        told: Told,
        request: &Request,
        number: u64,
        here: &Address,
    ) -> Option<Said> {
        let mut hello = self.hello_answer(here);
        let answer = match told {
            Told::Never => return None,
            Told::Refusal(reason) => return Some(Said::Refusal(reason)),
            Told::EmptyList => {
                let Request::Peers(peers) = request else { return None };
                Answer::Peers(nothing_held(&peers.header.from))
            }
            Told::EmptyView => Answer::Ping(Pong { view: [7; 16], twin: None, mail: None }),
            Told::NewSession => {
                hello.session = Session(unique(number));
                Answer::Hello(hello)
            }
            Told::NewId => {
                hello.node_id = id(&format!("liar-{number}"));
                Answer::Hello(hello)
            }
            Told::NewKey => {
                self.member.key = Member::new("x", self.member.target).key;
                hello.public_key = self.member.key.public_key();
                Answer::Hello(hello)
            }
        };
        Some(Said::Message(answer))
    }

    fn hello_answer(&self, here: &Address) -> HelloAnswer {
        HelloAnswer {
            version: dsn::protocol::PROTOCOL_VERSION,
            node_id: self.member.node_id.clone(),
            public_key: self.member.key.public_key(),
            incarnation: self.member.incarnation,
            session: GIVEN,
            program: ProgramVersion::new("liar"),
            advertise: Some(here.clone()),
            seen: Address::new("127.0.0.1:5").unwrap(),
        }
    }

    fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.held.values().chain([&self.own])
    }

    fn view(&self) -> View {
        let mut view = View::default();
        for record in self.records() {
            view.note(&record.head.node_id, Some(record.fingerprint));
        }
        view
    }

    /// What is held here in the buckets that differ.
    fn compared(&self, peers: &Peers) -> PeersAnswer {
        let buckets = self.view().differing(&peers.buckets);
        let known = |record: &Arc<Record>| {
            let node_id = record.head.node_id.clone();
            let (rank, version) = (record.public_key.rank_for(&node_id), record.version());
            KnownNode { node_id, address: None, rank, version, is_lost: false }
        };
        let listed = self.records().filter(|record| buckets.has(&record.head.node_id));
        let mut nodes: Vec<KnownNode> = listed.map(known).collect();
        nodes.sort_by(|one, other| one.node_id.cmp(&other.node_id));
        PeersAnswer { buckets, nodes }
    }

    fn take(&mut self, push: &Push) -> Result<(), Reason> {
        let mut taken = push.records.clone();
        for patch in &push.patches {
            let base = self.held.get(&patch.node_id).ok_or(Reason::LacksBase)?;
            let base = Verified::<Record>::check(Arc::clone(base), &Ecdsa).expect("it was signed");
            let patch = Verified::<Patch>::check(Arc::clone(patch), &base, &Ecdsa);
            let patch = patch.expect("it is signed");
            taken.push(base.patched(&patch)?.share());
        }
        for record in taken.into_iter().filter(|it| it.head.node_id != self.member.node_id) {
            let held = self.held.get(&record.head.node_id);
            if held.is_none_or(|held| record.head.is_newer_than(&held.head)) {
                self.held.insert(record.head.node_id.clone(), record);
            }
        }
        Ok(())
    }

    fn given(&self, pull: &Pull) -> Said {
        let wished = |record: &&Arc<Record>| {
            let wish = pull.wishes.iter().find(|wish| wish.node_id == record.head.node_id);
            wish.is_some_and(|wish| wish.version != record.version())
        };
        let mut records: Vec<Arc<Record>> = self.records().filter(wished).cloned().collect();
        records.sort_by(|one, other| one.head.node_id.cmp(&other.head.node_id));
        match records.is_empty() {
            true => Said::Nothing,
            false => Said::Message(Answer::Records(records)),
        }
    }

    /// An answer as it goes over the connection: signed where it has to be, and sealed.
    fn sealed(&self, kind: Kind, tag: &Tag, said: &Said) -> Reply {
        let (status, mut payload) = match said {
            Said::Message(answer) => (200, wire::encode_answer(answer).unwrap()),
            Said::Nothing => (204, Vec::new()),
            Said::Refusal(reason) => {
                let (text, records) = (Text::new("a lie"), Vec::new());
                let refusal = Refusal { reason: reason.code(), text, number: 0, records };
                (reason.status().code(), wire::encode_refusal(&refusal).unwrap())
            }
        };
        let is_signed = kind.is_answer_signed() && !matches!(said, Said::Refusal(_));
        if is_signed {
            let signed = Signed::Answer { kind: kind.byte(), request: tag, payload: &payload };
            payload.extend_from_slice(&self.member.key.sign(signed).unwrap());
        }
        let place = Place::Answer { path: kind.path(), status, request: tag };
        let nonce = tag[..16].try_into().unwrap();
        let network = &self.member.network;
        let (envelope, _) = seal(network, 0, nonce, place, kind.byte(), &payload).unwrap();
        if status == 204 {
            let head = format!("HTTP/1.1 204 x\r\nDsn-Seal: {}\r\n\r\n", hex(&envelope));
            return Reply::Answer(head.into_bytes());
        }
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", envelope.len());
        Reply::Answer([head.into_bytes(), envelope].concat())
    }
}

/// A request as bytes that can be posted, again and again.
pub struct Envelope {
    pub path: &'static str,
    pub body: Vec<u8>,
}

fn envelope_of(member: &Member, request: &Request) -> Envelope {
    let kind = request.kind();
    Envelope { path: kind.path(), body: member.envelope(kind, &member.payload(request)) }
}

/// Says something over a connection of its own; nothing where no answer comes.
fn say(member: &Member, request: &Request) -> Option<Heard> {
    let envelope = envelope_of(member, request);
    let answer = exchange(member.target, &envelope)?;
    member.heard(request.kind(), &envelope.body, &answer)
}

fn is_accepted(heard: Option<Heard>) -> bool {
    matches!(heard, Some(Heard::Answer(_) | Heard::Nothing))
}

/// Members with ids and keys of their own that have said nothing yet.
pub fn members(name: &str, count: usize) -> Vec<Member> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    (0..count).map(|number| Member::new(&format!("{name}-{number}"), nowhere)).collect()
}

/// Says HELLO to a node in both steps, and that the member is found at `here`; says whether it was
/// accepted.
pub fn greet(member: &mut Member, node: SocketAddr, here: &str) -> bool {
    member.target = node;
    member.link = None;
    let hello = member.hello();
    let Some(Heard::Answer(Answer::Hello(answer))) = say(member, &hello) else { return false };
    member.meet(&answer);
    greet_again(member, here)
}

/// Says HELLO to the node that the member knows, from another place perhaps.
pub fn greet_again(member: &mut Member, here: &str) -> bool {
    let mut hello = member.hello();
    if let Request::Hello(hello) = &mut hello {
        hello.advertise = Some(Address::new(here).unwrap());
    }
    is_accepted(say(member, &hello))
}

/// Text pairs of so many bytes in all, as limits count them.
pub fn large(bytes: usize, fill: char) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut left = bytes;
    while left > 2 * ENTRY_BYTES {
        let length = VALUE_BYTES.min(left - ENTRY_BYTES);
        pairs.push((format!("large-{:02}", pairs.len()), fill.to_string().repeat(length)));
        left -= length + ENTRY_BYTES;
    }
    pairs
}

/// Sends a record of an id that nobody has seen, of so many bytes, signed with a key that is made
/// for it; says whether it was accepted.
pub fn send_ghost(member: &Member, ghost: &str, bytes: usize, fill: char) -> bool {
    let other = Member::new(ghost, member.target);
    let pairs = large(bytes, fill);
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let record = other.record(TIMESTAMP, &pairs);
    is_accepted(say(member, &member.push(vec![record])))
}

/// Says goodbye as a node does, with a last version of the own record; later ones have higher
/// numbers.
pub fn say_goodbye(member: &Member, number: u64) -> bool {
    let draft = Draft::new(member.node_id.clone(), TIMESTAMP + number, true, Arc::default());
    is_accepted(say(member, &member.push(vec![member.sign(draft)])))
}

pub fn ping(member: &mut Member) -> Envelope {
    let ping = member.ping();
    envelope_of(member, &ping)
}

pub fn data(member: &mut Member, number: u64, bytes: &[u8]) -> Envelope {
    let data = member.data(number, bytes);
    envelope_of(member, &data)
}

/// An UPDATE without records that wishes for the state of a node.
pub fn wish(member: &mut Member, node_id: &str) -> Envelope {
    let pull = member.pull(vec![Wish { node_id: id(node_id), version: Version::default() }]);
    envelope_of(member, &pull)
}

/// So many keys that all fall into one bucket of the digest.
fn keys_of_one_bucket(count: usize) -> Vec<Key> {
    let names = (0_u64..).map(|number| format!("{number:x}"));
    let of_bucket = |name: &String| Sha256::new(name.as_bytes()).finish()[0] == 0;
    names.filter(of_bucket).take(count).map(|name| key(&name)).collect()
}

/// An UPDATE with a state whose keys all fall into one bucket of the digest, and one with so many
/// copies of one patch for it.
pub fn patches(member: &Member, keys: usize, copies: usize) -> [Envelope; 2] {
    // Above the record that the member has at its port.
    let first = TIMESTAMP + 10;
    let value = Value::new(b"v").unwrap();
    let keys = keys_of_one_bucket(keys);
    let entries: Entries = keys.iter().map(|key| (key.clone(), value.clone())).collect();
    let base = member.sign(Draft::new(member.node_id.clone(), first, false, Arc::new(entries)));
    let change = Change::from([(keys[0].clone(), Some(Value::new(b"w").unwrap()))]);
    let next = base.draft().after(&change, false, first + 1).unwrap().expect("a change");
    let next = member.sign(next);
    let patch = Patch::new((base.fingerprint, &base.head.home), &next, change);
    let one = wire::encode_request(&member.push_with(Vec::new(), vec![Arc::new(patch)])).unwrap();
    // The form, the receiver, its incarnation; then the count of the records, and the records.
    let head = 1 + 8 + member.linked().node_id.as_str().len() + 16;
    // Behind them is the count of the relays: none.
    let (head, patch, relays) = (&one[..head], &one[head + 8..one.len() - 8], [0; 8]);
    let count = (copies as u64).to_le_bytes();
    let many = [head, &count, &patch.repeat(copies), &relays].concat();
    let kind = Kind::Update;
    let many = Envelope { path: kind.path(), body: member.envelope(kind, &many) };
    [envelope_of(member, &member.push(vec![base])), many]
}

/// Versions of one state, each signed but for the last one, which is forged.
pub struct Versions(Vec<Arc<Record>>);

impl Versions {
    pub fn new(member: &Member, count: usize) -> Self {
        let first = TIMESTAMP + 1;
        let last = first + count as u64;
        let version = |timestamp| {
            let record = member.record(timestamp, &[]);
            if timestamp + 1 < last {
                return record;
            }
            let mut forged = (*record).clone();
            forged.signature[TAG_BYTES] ^= 1;
            Arc::new(forged)
        };
        Self((first..last).map(version).collect())
    }

    /// All of them in one UPDATE, sealed anew.
    pub fn envelope(&self, member: &Member) -> Envelope {
        envelope_of(member, &member.push(self.0.clone()))
    }
}
