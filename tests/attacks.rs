//! The protocol against someone who listens, changes and repeats bytes, and against a member who
//! lies. Whatever is refused changes nothing: no state, no pin, no address, no file.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dsn::RunningNode;
use dsn::protocol::address::Address;
use dsn::protocol::crypto::{Signed, Signer, Tag};
use dsn::protocol::hash::Sha256;
use dsn::protocol::head::Version;
use dsn::protocol::identity::{Incarnation, NodeId, Rank, hex};
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::report::Refused;
use dsn::protocol::verdict::Reason;
use dsn::protocol::view::BucketSet;
use dsn::protocol::wire::{self, Answer, Kind, KnownNode, PeersAnswer, Request, Wish};

use crate::support::liar::{Forge, Liar, honest};
use crate::support::{Heard, Member, PATIENCE, Place4Nodes, eventually, id, key, post, value};

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

/// Where in [`one_of_each`] records are pushed.
const PUSH: usize = 5;

/// One of each request, as a member sends it.
fn one_of_each(member: &mut Member) -> Vec<(Kind, Vec<u8>)> {
    let record = member.record(2_000_000, &[("k", "v")]);
    let requests = [
        member.hello(),
        member.peers(),
        member.ping(),
        member.data(1, b"data"),
        member.pull(vec![Wish { node_id: id("a"), version: Version::default() }]),
        member.push(vec![record]),
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
    member.introduce();
    let hello = member.hello();
    let hello = (Kind::Hello, member.envelope(Kind::Hello, &member.payload(&hello)));
    let requests: Vec<_> = requests.into_iter().chain([hello]).collect();
    for (kind, envelope) in &requests {
        let status = member.say_bytes(*kind, kind.path(), envelope).verdict().0;
        assert!(matches!(status, 200 | 204), "{kind:?} {status}");
    }
    assert!(node.receive(Duration::ZERO).is_some());
    let record = member.record(3_000_000, &[("k", "newer")]);
    assert_eq!(member.say(&member.push(vec![record])).verdict().0, 204);
    wait_for_file(&place);
    // The records that were pushed come last.
    let is_push = |number: usize| number == PUSH;
    let expect = |kind: Kind, number: usize, again: bool| match (kind, again) {
        (Kind::Update, false) if is_push(number) => (406, Reason::Stale.code()),
        // Its session is over: it is told who is there, and nothing changes.
        (Kind::Hello, true) => (200, 0),
        (_, false) => (406, Reason::ReplayedNumber.code()),
        (_, true) => (401, Reason::WrongSession.code()),
    };
    let settled = everything(&place, &node);
    for (number, (kind, envelope)) in requests.iter().enumerate() {
        let verdict = member.say_bytes(*kind, kind.path(), envelope).verdict();
        assert_eq!(verdict, expect(*kind, number, false), "{kind:?} at once");
    }
    assert_eq!(everything(&place, &node), settled);
    assert!(node.receive(Duration::ZERO).is_none(), "DATA does not come twice");
    // The sender starts again, and says HELLO: its old bytes stay worthless.
    member.incarnation = Incarnation([9; 16]);
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
    assert_eq!(honest.say(&honest.push(vec![record])).verdict().0, 204);
    let mut liar = Member::joined("liar", address(&node));
    eventually("the peers are on disk", || {
        let text = std::fs::read_to_string(place.path().join("credentials/a/known_peers"));
        text.is_ok_and(|text| text.contains("liar") && text.contains("honest"))
    });
    let settled = everything(&place, &node);
    let refused = |heard: Heard, reason: Reason| {
        assert_eq!(heard.verdict(), (reason.status().code(), reason.code()), "{heard:?}");
    };
    let push = |record| liar.say(&liar.push(vec![record]));
    // A record of another, signed by the liar; and one with the other's key that nobody signed.
    let forged = liar.record_of(&id("honest"), 6_000_000, &[("k", "forged")]);
    refused(push(forged), Reason::OtherKey);
    let draft = Draft::new(id("honest"), 6_000_000, false, Arc::default());
    let unsigned = Record::new(draft, honest.key.public_key(), [7; 64]);
    refused(push(Arc::new(unsigned)), Reason::BadSignature);
    // The receiver's own.
    refused(push(liar.record_of(&id("a"), 6_000_000, &[("k", "forged")])), Reason::OwnRecord);
    // A timestamp beyond the end of time, and none.
    for timestamp in [1 << 53, u64::MAX, 0] {
        refused(push(liar.record(timestamp, &[])), Reason::LimitExceeded);
    }
    // Too many keys, and too large a state.
    let many: Vec<(String, String)> = (0..16_385).map(|n| (n.to_string(), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    refused(push(liar.record(7, &many)), Reason::LimitExceeded);
    let big = "x".repeat(65_536);
    let keys: Vec<String> = (0..16).map(|number| number.to_string()).collect();
    let large: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), big.as_str())).collect();
    refused(push(liar.record(7, &large)), Reason::LimitExceeded);
    // The same node twice in one list.
    let twice = vec![liar.record(7, &[]), liar.record(8, &[])];
    refused(liar.say(&liar.push(twice)), Reason::Malformed);
    // A PING in the name of another.
    let mut ping = liar.ping();
    if let Request::Ping(ping) = &mut ping {
        ping.header.from = id("honest");
    }
    refused(liar.say(&ping), Reason::BadSignature);
    // HELLO with another's id, and with another's key.
    let honest_id = id("honest");
    let own_id = std::mem::replace(&mut liar.node_id, honest_id);
    refused(liar.try_join(), Reason::OtherKey);
    let mut hello = liar.hello();
    if let Request::Hello(hello) = &mut hello {
        hello.public_key = honest.key.public_key();
    }
    refused(liar.say(&hello), Reason::BadSignature);
    liar.node_id = own_id;
    let after = everything(&place, &node);
    assert_eq!(after, settled);
    assert_eq!(node.get(&id("honest"), "k"), Some(value("mine")));
    node.stop();
}

fn known(node_id: &str, address: &str, timestamp: u64) -> KnownNode {
    let version = Version { timestamp, fingerprint: [timestamp.to_le_bytes()[0]; 16] };
    let (node_id, address) = (id(node_id), Address::new(address).ok());
    KnownNode { node_id, address, rank: Rank([1; 8]), version, is_lost: false }
}

#[test]
fn a_list_of_lies_moves_nobody_and_stays_bounded() {
    let place = Place4Nodes::new();
    let hub = place.start("hub", &[]);
    let b = place.start("b", &[&hub.listen()]);
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
            let mut nodes: Vec<_> = named.into_iter().chain(crowd).collect();
            nodes.sort_by(|one, other| one.node_id.cmp(&other.node_id));
            Some((200, Answer::Peers(PeersAnswer { buckets: BucketSet(u32::MAX), nodes })))
        }
        other => honest(member, other),
    };
    let liar = Liar::start(Member::new("liar", address(&hub)), Box::new(lie), Box::new(|it| it));
    let c = place.start("c", &[&hub.listen(), &liar.address.to_string()]);
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
        assert!(node.send(&id("liar"), b"x", PATIENCE).is_ok(), "{name}: as it should be");
        forging.store(true, Ordering::Relaxed);
        let _ = node.ping(&id("liar"), Duration::from_millis(300));
        let refused = node.send(&id("liar"), b"x", Duration::from_secs(30));
        assert!(
            matches!(refused, Err(Refused::Unreachable { .. } | Refused::TimedOut { .. })),
            "{name}: {refused:?}"
        );
        assert_eq!(node.states().len(), 1);
        node.stop();
    }
}

#[test]
fn a_full_inbox_refuses_and_loses_nothing_and_nobody_is_shut_out() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut hogs: Vec<Member> =
        (0..20).map(|number| Member::joined(&format!("hog-{number}"), address(&node))).collect();
    let mut honest = Member::joined("honest", address(&node));
    let mut accepted = Vec::new();
    // Each sends until it is refused; then a reader takes one out, again and again.
    for round in 0..40 {
        for (number, hog) in hogs.iter_mut().enumerate() {
            loop {
                let text = format!("{round} {number} {}", hog.number);
                let data = hog.data(hog.number, text.as_bytes());
                match hog.say(&data).verdict() {
                    (200, 0) => accepted.push(text),
                    verdict => {
                        assert_eq!(verdict, (406, Reason::InboxFull.code()));
                        break;
                    }
                }
            }
        }
        if round % 10 == 0 {
            let text = format!("honest {round}");
            let data = honest.data(honest.number, text.as_bytes());
            assert_eq!(honest.say(&data).verdict(), (200, 0), "{round}");
            accepted.push(text);
        }
        let taken = node.receive(Duration::ZERO).unwrap();
        assert_eq!(String::from_utf8(taken.data.to_vec()).unwrap(), accepted.remove(0));
        if round % 10 == 9 {
            // The honest one's turn comes, and it sends the next.
            while accepted.iter().any(|text| text.starts_with("honest")) {
                let taken = node.receive(Duration::ZERO).unwrap();
                assert_eq!(String::from_utf8(taken.data.to_vec()).unwrap(), accepted.remove(0));
            }
        }
    }
    let rest: Vec<_> = std::iter::from_fn(|| node.receive(Duration::ZERO))
        .map(|message| String::from_utf8(message.data.to_vec()).unwrap())
        .collect();
    assert_eq!(rest, accepted, "what was accepted is delivered, in order");
    node.stop();
}
