//! The protocol against someone who listens, changes and repeats bytes, and against a member who
//! lies. Whatever is refused changes nothing: no state, no pin, no address, no file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dsn::RunningNode;
use dsn::protocol::address::Address;
use dsn::protocol::crypto::{Place, Sha256, Signed, TAG_BYTES, Tag, open, seal};
use dsn::protocol::identity::{NodeId, Session, hex};
use dsn::protocol::report::Refused;
use dsn::protocol::state::Record;
use dsn::protocol::verdict::Reason;
use dsn::protocol::wire::{
    self, Answer, HelloAnswer, Kind, KnownNode, PeersAnswer, Pong, ProgramVersion, Request,
    Version, Want,
};
use support::{Heard, Member, PATIENCE, Place4Nodes, eventually, id, key, post, value};

fn address(node: &RunningNode) -> SocketAddr {
    node.listen().parse().unwrap()
}

/// All that a request could change: states, peers with their addresses and keys, the files.
fn everything(place: &Place4Nodes, node: &RunningNode) -> String {
    let peers: Vec<_> = node
        .peers()
        .into_iter()
        .map(|peer| (peer.node_id, peer.address, peer.keys, peer.timestamp, peer.public_key))
        .collect();
    let states: Vec<_> = node
        .states()
        .into_iter()
        .map(|state| (state.node_id, state.timestamp, state.entries))
        .collect();
    format!("{peers:?} {states:?} {:?}", files(place))
}

/// Every file below the folder of the test, with a hash of what is in it.
fn files(place: &Place4Nodes) -> Vec<(std::path::PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![place.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let hash = Sha256::new(&std::fs::read(&path).unwrap()).finish();
                found.push((path, hex(&hash)));
            }
        }
    }
    found.sort();
    found
}

/// Pinned keys are written a moment later.
fn wait_for_file(place: &Place4Nodes) {
    eventually("the peers are on disk", || place.path().join("credentials/a/known_peers").exists());
}

/// One of each request, as a member sends it.
fn one_of_each(member: &mut Member) -> Vec<(Kind, Vec<u8>)> {
    let record = member.record(2_000_000, &[("k", "v")]);
    let requests = [
        member.hello(),
        member.peers(),
        member.ping(),
        member.data(1, b"data"),
        member.update(vec![record], vec![Want { node_id: id("a"), version: Version::default() }]),
    ];
    let seal = |request: &Request| {
        (request.kind(), member.envelope(request.kind(), &member.payload(request)))
    };
    requests.iter().map(seal).collect()
}

#[test]
fn every_flipped_bit_and_every_cut_of_every_request_is_400_and_changes_nothing() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let requests = one_of_each(&mut member);
    wait_for_file(&place);
    let settled = everything(&place, &node);
    for (kind, envelope) in &requests {
        for bit in 0..envelope.len() * 8 {
            let mut flipped = envelope.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let answer = post(address(&node), kind.path(), &flipped);
            assert_eq!((answer.status, answer.body.len()), (400, 0), "{kind:?} bit {bit}");
            assert_eq!(answer.seal(), None);
        }
        for length in 0..envelope.len() {
            let answer = post(address(&node), kind.path(), &envelope[..length]);
            assert_eq!((answer.status, answer.body.len()), (400, 0), "{kind:?} cut to {length}");
        }
        for other in Kind::ALL.into_iter().filter(|other| other != kind) {
            let answer = post(address(&node), other.path(), envelope);
            assert_eq!((answer.status, answer.body.len()), (400, 0), "{kind:?} at {other:?}");
        }
    }
    assert_eq!(everything(&place, &node), settled);
    assert!(node.receive(Duration::ZERO).is_none());
    // And not because nothing works: as they are, all of them are accepted.
    for (kind, envelope) in &requests {
        let status = member.say_bytes(*kind, kind.path(), envelope).verdict().0;
        assert!(matches!(status, 200 | 204), "{kind:?} {status}");
    }
    node.stop();
}

#[test]
fn bytes_that_were_recorded_are_worth_nothing_again() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let requests = one_of_each(&mut member);
    // The last HELLO of the joining, too.
    let first = member.hello_first();
    member.to = Some((first.node_id, first.session));
    let hello = member.hello();
    let hello = (Kind::Hello, member.envelope(Kind::Hello, &member.payload(&hello)));
    let requests: Vec<_> = requests.into_iter().chain([hello]).collect();
    for (kind, envelope) in &requests {
        let status = member.say_bytes(*kind, kind.path(), envelope).verdict().0;
        assert!(matches!(status, 200 | 204), "{kind:?} {status}");
    }
    assert!(node.receive(Duration::ZERO).is_some());
    node.peers();
    let record = member.record(3_000_000, &[("k", "newer")]);
    assert_eq!(member.say(&member.update(vec![record], vec![])).verdict().0, 204);
    wait_for_file(&place);
    let expect = |kind: Kind, number: usize, again: bool| match (kind, again) {
        (Kind::Update, false) => (406, Reason::Stale.code()),
        (Kind::Update, true) => (401, Reason::WrongSession.code()),
        (Kind::Hello, false) => (406, Reason::ReplayedNumber.code()),
        // Its session is over: it is told who is there, and nothing changes.
        (Kind::Hello, true) => (200, 0),
        (_, false) => (406, Reason::ReplayedNumber.code()),
        (_, true) if number > 0 => (401, Reason::WrongSession.code()),
        _ => (401, Reason::WrongSession.code()),
    };
    let settled = everything(&place, &node);
    for (number, (kind, envelope)) in requests.iter().enumerate() {
        let verdict = member.say_bytes(*kind, kind.path(), envelope).verdict();
        assert_eq!(verdict, expect(*kind, number, false), "{kind:?} at once");
    }
    assert_eq!(everything(&place, &node), settled);
    assert!(node.receive(Duration::ZERO).is_none(), "DATA does not come twice");
    // The sender starts again, and says HELLO: its old bytes stay worthless.
    member.session = Session([9; 16]);
    member.join();
    let settled = everything(&place, &node);
    for (number, (kind, envelope)) in requests.iter().enumerate() {
        let verdict = member.say_bytes(*kind, kind.path(), envelope).verdict();
        assert_eq!(verdict, expect(*kind, number, false), "{kind:?} after the sender's restart");
    }
    assert_eq!(everything(&place, &node), settled);
    // The receiver starts again.
    node.stop();
    let node = place.start("a", &[]);
    member.target = address(&node);
    let settled = everything(&place, &node);
    for (number, (kind, envelope)) in requests.iter().enumerate() {
        let verdict = member.say_bytes(*kind, kind.path(), envelope).verdict();
        assert_eq!(verdict, expect(*kind, number, true), "{kind:?} after the receiver's restart");
    }
    assert_eq!(everything(&place, &node), settled);
    assert!(node.receive(Duration::ZERO).is_none());
    node.stop();
}

#[test]
fn ids_that_are_paths_are_no_ids() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    wait_for_file(&place);
    let settled = everything(&place, &node);
    let ping = member.ping();
    let payload = wire::encode_request(&ping).unwrap();
    for bad in ["../../x", "..", ".", "/etc/x", "a/b", "", "a b", "\u{e4}", "-x", &"a".repeat(65)] {
        assert!(NodeId::new(bad).is_err(), "{bad:?}");
        // The first field is the sender's id; the signature is right.
        let rest = &payload[8 + 1..];
        let mut forged = (bad.len() as u64).to_le_bytes().to_vec();
        forged.extend_from_slice(bad.as_bytes());
        forged.extend_from_slice(rest);
        let signed = Signed::Request { kind: Kind::Ping.byte(), payload: &forged };
        let signature = member.key.sign(signed).unwrap();
        forged.extend_from_slice(&signature);
        let envelope = member.envelope(Kind::Ping, &forged);
        let heard = member.say_bytes(Kind::Ping, "/ping", &envelope);
        assert_eq!(heard.verdict(), (400, Reason::Malformed.code()), "{bad:?}");
    }
    assert_eq!(everything(&place, &node), settled);
    node.stop();
}

#[test]
fn a_member_can_say_nothing_for_others() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let honest = Member::joined("honest", address(&node));
    let record = honest.record(5_000_000, &[("k", "mine")]);
    assert_eq!(honest.say(&honest.update(vec![record], vec![])).verdict().0, 204);
    let mut liar = Member::joined("liar", address(&node));
    eventually("the peers are on disk", || {
        let text = std::fs::read_to_string(place.path().join("credentials/a/known_peers"));
        text.is_ok_and(|text| text.contains("liar") && text.contains("honest"))
    });
    let settled = everything(&place, &node);
    let refused = |heard: Heard, reason: Reason| {
        assert_eq!(heard.verdict(), (reason.status().code(), reason.code()), "{heard:?}");
    };
    // A record of another, signed by the liar; and one with the other's key that nobody signed.
    let forged = liar.record_of(&id("honest"), 6_000_000, &[("k", "forged")]);
    refused(liar.say(&liar.update(vec![forged], vec![])), Reason::OtherKey);
    let unsigned =
        Record::new(id("honest"), honest.key.public_key(), 6_000_000, false, Arc::default());
    unsigned.signature.set([7; 64]).unwrap();
    refused(liar.say(&liar.update(vec![Arc::new(unsigned)], vec![])), Reason::BadSignature);
    // The receiver's own.
    let own = liar.record_of(&id("a"), 6_000_000, &[("k", "forged")]);
    refused(liar.say(&liar.update(vec![own], vec![])), Reason::OwnRecord);
    // A timestamp beyond the end of time, and none.
    for timestamp in [1 << 53, u64::MAX, 0] {
        let record = liar.record(timestamp, &[]);
        refused(liar.say(&liar.update(vec![record], vec![])), Reason::LimitExceeded);
    }
    // Too many keys, and too large a state.
    let many: Vec<(String, String)> = (0..16_385).map(|n| (n.to_string(), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    refused(liar.say(&liar.update(vec![liar.record(7, &many)], vec![])), Reason::LimitExceeded);
    let big = "x".repeat(65_536);
    let keys: Vec<String> = (0..16).map(|number| number.to_string()).collect();
    let large: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), big.as_str())).collect();
    refused(liar.say(&liar.update(vec![liar.record(7, &large)], vec![])), Reason::LimitExceeded);
    // A PING in the name of another.
    let mut ping = liar.ping();
    if let Request::Ping(ping) = &mut ping {
        ping.header.from = id("honest");
    }
    refused(liar.say(&ping), Reason::BadSignature);
    // HELLO with another's id, and with another's key.
    let mut hello = liar.hello();
    if let Request::Hello(hello) = &mut hello {
        hello.from = id("honest");
    }
    refused(liar.say(&hello), Reason::OtherKey);
    if let Request::Hello(hello) = &mut hello {
        hello.public_key = honest.key.public_key();
    }
    refused(liar.say(&hello), Reason::BadSignature);
    let after = everything(&place, &node);
    assert_eq!(after, settled);
    assert_eq!(node.get(&id("honest"), "k"), Some(value("mine")));
    node.stop();
}

/// A member that is called by others: it answers as it likes.
struct Liar {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Lie = dyn Fn(&Member, &Request, &Tag) -> Option<(u16, Answer)> + Send;

/// What a forger does to the bytes of its answers.
type Forge = dyn Fn(Vec<u8>) -> Vec<u8> + Send;

fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_lowercase();
    let path = head.split(' ').nth(1)?.to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    let mut body = vec![0; length.trim().parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    Some((path, body))
}

impl Liar {
    /// Answers each HELLO rightly, and all else as `lie` says.
    fn start(member: Member, lie: Box<Lie>, forge: Box<Forge>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::park_timeout(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                if let Some((path, body)) = read_request(&mut stream) {
                    let answer = Self::answer(&member, &lie, &forge, &path, body);
                    // The node may have gone.
                    let _ = stream.write_all(&answer);
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn answer(member: &Member, lie: &Lie, forge: &Forge, path: &str, body: Vec<u8>) -> Vec<u8> {
        let empty = b"HTTP/1.1 400 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
        let tag: Tag = body[body.len() - TAG_BYTES..].try_into().unwrap();
        let Ok(opened) = open(&member.network, Place::Request { path }, body) else {
            return empty;
        };
        let kind = Kind::of_path(path).unwrap();
        let request = wire::decode_request(kind, opened.payload()).unwrap().message;
        let Some((status, answer)) = lie(member, &request, &tag) else { return empty };
        let mut payload =
            if status == 204 { Vec::new() } else { wire::encode_answer(&answer).unwrap() };
        if kind.is_signed() {
            let signed = Signed::Answer { kind: kind.byte(), request: &tag, payload: &payload };
            let signature = member.key.sign(signed).unwrap();
            payload.extend_from_slice(&signature);
        }
        let place = Place::Answer { path, status, request: &tag };
        let nonce = tag[..16].try_into().unwrap();
        let (envelope, _) = seal(&member.network, 0, nonce, place, kind.byte(), &payload).unwrap();
        let envelope = forge(envelope);
        let close = "Connection: close\r\n\r\n";
        if status == 204 {
            let seal = hex(&envelope);
            return format!("HTTP/1.1 204 x\r\nDsn-Seal: {seal}\r\n{close}").into_bytes();
        }
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{close}", envelope.len());
        [head.into_bytes(), envelope].concat()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The right answer to HELLO, UPDATE and PING.
fn honest(member: &Member, request: &Request) -> Option<(u16, Answer)> {
    match request {
        Request::Hello(hello) if hello.to.is_some() => Some((204, Answer::Data)),
        Request::Hello(_) => {
            let answer = HelloAnswer {
                version: 1,
                node_id: member.node_id.clone(),
                public_key: member.key.public_key(),
                session: member.session,
                program: ProgramVersion::new("liar"),
                advertise: None,
                seen: Address::new("127.0.0.1:5").unwrap(),
            };
            Some((200, Answer::Hello(answer)))
        }
        // A view of its own: so it is asked for its list.
        Request::Ping(_) => Some((200, Answer::Ping(Pong { view: [0x55; 16], twin: None }))),
        Request::Update(_) => Some((204, Answer::Data)),
        Request::Peers(_) => Some((200, Answer::Peers(PeersAnswer { nodes: Vec::new() }))),
        Request::Data(_) => Some((200, Answer::Data)),
    }
}

fn known(node_id: &str, address: &str, timestamp: u64) -> KnownNode {
    let version = Version { timestamp, fingerprint: [timestamp.to_le_bytes()[0]; 16] };
    KnownNode { node_id: id(node_id), address: Address::new(address).ok(), version }
}

#[test]
fn a_list_of_lies_moves_nobody_and_stays_bounded() {
    let place = Place4Nodes::new();
    let hub = place.start("hub", &[]);
    let b = place.start("b", &[hub.listen()]);
    b.set(key("k"), value("true")).unwrap();
    eventually("they know each other", || hub.get(&id("b"), "k") == Some(value("true")));
    let asked = Arc::new(Mutex::new(0_u32));
    let counts = Arc::clone(&asked);
    let lie = move |member: &Member, request: &Request, _: &Tag| match request {
        Request::Peers(_) => {
            let mut asked = counts.lock().unwrap();
            *asked += 1;
            // Our own id, a wrong address of one that lives, newer states that nobody has, and more
            // nodes than there may be.
            let many = if asked.is_multiple_of(2) { 900 } else { 10_000 };
            let crowd = (0..many).map(|n| known(&format!("ghost-{n}"), "127.0.0.1:9", 0));
            let named = [
                known("hub", "127.0.0.1:9", 8_000_000_000_000_000),
                known("b", "127.0.0.1:9", 8_000_000_000_000_000),
                known(member.node_id.as_str(), "127.0.0.1:9", 1),
            ];
            Some((
                200,
                Answer::Peers(PeersAnswer { nodes: named.into_iter().chain(crowd).collect() }),
            ))
        }
        other => honest(member, other),
    };
    let liar = Liar::start(Member::new("liar", address(&hub)), Box::new(lie), Box::new(|it| it));
    let c = place.start("c", &[hub.listen(), &liar.address.to_string()]);
    eventually("the list was asked for, long and longer", || *asked.lock().unwrap() >= 4);
    assert!(c.peers().len() <= 1024);
    b.set(key("k"), value("still true")).unwrap();
    eventually("the truth goes on", || {
        c.get(&id("b"), "k") == Some(value("still true"))
            && hub.get(&id("b"), "k") == Some(value("still true"))
    });
    for node in [&hub, &c] {
        let peers = node.peers();
        let of_b = peers.iter().find(|peer| peer.node_id == id("b")).unwrap();
        assert_eq!(of_b.address.as_ref().unwrap().as_str(), b.listen());
    }
    for node in [hub, b, c] {
        node.stop();
    }
    drop(liar);
}

#[test]
fn answers_that_were_changed_or_swapped_count_as_none() {
    // Each answer of the kind is changed in another place; the others are right.
    let changes: [(&str, Box<Forge>); 4] = [
        (
            "a flipped bit",
            Box::new(|mut envelope| {
                let at = envelope.len() / 2;
                envelope[at] ^= 1;
                envelope
            }),
        ),
        (
            "cut",
            Box::new(|mut envelope| {
                envelope.pop();
                envelope
            }),
        ),
        ("empty", Box::new(|_| Vec::new())),
        ("that of an earlier request", {
            let first = Mutex::new(None::<Vec<u8>>);
            Box::new(move |envelope| first.lock().unwrap().get_or_insert(envelope).clone())
        }),
    ];
    for (name, change) in changes {
        let place = Place4Nodes::new();
        let target = Member::new("liar", "127.0.0.1:1".parse().unwrap());
        let forging = Arc::new(AtomicBool::new(false));
        let forges = Arc::clone(&forging);
        let forge = move |envelope: Vec<u8>| {
            if forges.load(Ordering::Relaxed) { change(envelope) } else { envelope }
        };
        let lie = |member: &Member, request: &Request, _: &Tag| honest(member, request);
        let liar = Liar::start(target, Box::new(lie), Box::new(forge));
        let node = place.start("a", &[&liar.address.to_string()]);
        eventually("the member is met", || node.ping(&id("liar"), PATIENCE).is_ok());
        assert!(
            node.send(&id("liar"), (*b"x").into(), PATIENCE).is_ok(),
            "{name}: as it should be"
        );
        forging.store(true, Ordering::Relaxed);
        let _ = node.ping(&id("liar"), Duration::from_millis(300));
        let refused = node.send(&id("liar"), (*b"x").into(), Duration::from_secs(30));
        assert!(
            matches!(refused, Err(Refused::Unreachable { .. } | Refused::TimedOut { .. })),
            "{name}: {refused:?}"
        );
        assert_eq!(node.states().len(), 1);
        node.stop();
    }
}

#[test]
fn a_full_inbox_refuses_and_loses_nothing() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    for number in 1..=256 {
        let data = member.data(number, number.to_string().as_bytes());
        assert_eq!(member.say(&data).verdict().0, 200);
    }
    let one_more = member.data(257, b"one more");
    assert_eq!(member.say(&one_more).verdict(), (406, Reason::InboxFull.code()));
    assert_eq!(&*node.receive(Duration::ZERO).unwrap().data, b"1");
    let again = member.data(257, b"one more");
    assert_eq!(member.say(&again).verdict().0, 200, "there is room again");
    let rest: Vec<_> = std::iter::from_fn(|| node.receive(Duration::ZERO)).collect();
    assert_eq!(rest.len(), 256);
    assert_eq!(&*rest[255].data, b"one more");
    node.stop();
}
