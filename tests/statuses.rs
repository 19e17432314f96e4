//! Every status of the protocol, produced with real bytes on a real port; and that what is refused
//! changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dsn::RunningNode;
use dsn::protocol::crypto::Signed;
use dsn::protocol::identity::Session;
use dsn::protocol::patch::Patch;
use dsn::protocol::report::PeerStatus;
use dsn::protocol::state::{Change, Entries, Record, Value};
use dsn::protocol::verdict::Reason;
use dsn::protocol::wire::{Answer, Hello, Kind, Request, Update, Version, Want};
use support::{Heard, Member, Place4Nodes, exchange, id, key, network_keys, post, value};

fn address(node: &RunningNode) -> SocketAddr {
    node.listen().parse().unwrap()
}

fn refused(reason: Reason) -> (u16, u16) {
    (reason.status().code(), reason.code())
}

/// All that a request could change: states, pins, addresses, statuses, inbox.
fn everything(node: &RunningNode) -> String {
    let peers: Vec<_> = node
        .peers()
        .into_iter()
        .map(|peer| (peer.node_id, peer.address, peer.public_key, peer.keys, peer.timestamp))
        .collect();
    let inbox = node.receive(Duration::ZERO);
    assert_eq!(inbox, None, "nothing was delivered");
    format!("{peers:?} {:?}", node.states())
}

/// Says each request, expects its verdict, and that nothing has changed after all of them.
fn all_refused(node: &RunningNode, member: &Member, requests: Vec<(Request, Reason)>) {
    let before = everything(node);
    for (request, reason) in requests {
        let heard = member.say(&request);
        assert_eq!(heard.verdict(), refused(reason), "{request:?} got {heard:?}");
    }
    assert_eq!(everything(node), before);
}

#[test]
fn what_is_no_request_of_ours_gets_404_or_405_and_an_empty_body() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    for (line, status) in [
        ("POST / HTTP/1.1", 404),
        ("POST /ping/x HTTP/1.1", 404),
        ("GET /ping HTTP/1.1", 405),
        ("PUT /data HTTP/1.1", 405),
    ] {
        let head = format!("{line}\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let answer = exchange(address(&node), head.as_bytes());
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{line}");
    }
    node.stop();
}

#[test]
fn bytes_that_do_not_open_get_400_and_an_empty_body() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let before = everything(&node);
    let ping = member.ping();
    let good = member.envelope(Kind::Ping, &member.payload(&ping));
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let mut stranger = Member::joined("s", address(&node));
    stranger.network = network_keys([8; 32]);
    let foreign = stranger.envelope(Kind::Ping, &member.payload(&ping));
    let all: [(&str, &[u8]); 7] = [
        ("/ping", b""),
        ("/ping", b"hello"),
        ("/ping", &[0; 5000]),
        ("/ping", &good[..good.len() - 1]),
        ("/ping", &flipped),
        ("/ping", &foreign),
        ("/data", &good),
    ];
    for (path, body) in all {
        let answer = post(address(&node), path, body);
        assert_eq!((answer.status, answer.body.len()), (400, 0), "{path} {}", body.len());
        assert_eq!(answer.seal(), None);
    }
    node.forget(&id("s")).unwrap();
    assert_eq!(everything(&node), before);
    assert_eq!(member.say_bytes(Kind::Ping, "/ping", &good).verdict(), (200, 0));
    node.stop();
}

#[test]
fn a_body_over_the_limit_is_refused_unread() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let head =
        "POST /data HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000000000\r\n\r\n";
    let answer = exchange(address(&node), head.as_bytes());
    assert_eq!((answer.status, answer.body.len()), (400, 0));
    node.stop();
}

#[test]
fn sealed_nonsense_gets_a_sealed_400() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let before = everything(&node);
    let ping = member.ping();
    let payload = member.payload(&ping);
    for kind in Kind::ALL {
        let cut = member.envelope(kind, &payload[..payload.len() - 70]);
        let heard = member.say_bytes(kind, kind.path(), &cut);
        assert_eq!(heard.verdict().0, 400, "{kind:?} {heard:?}");
    }
    // The type byte of one message under the path of another, sealed for that path.
    let place = dsn::protocol::crypto::Place::Request { path: "/data" };
    let (wrong, _) =
        dsn::protocol::crypto::seal(&member.network, 0, [9; 16], place, 4, &payload).unwrap();
    let heard = member.say_bytes(Kind::Data, "/data", &wrong);
    assert_eq!(heard.verdict(), refused(Reason::WrongType));
    assert_eq!(everything(&node), before);
    node.stop();
}

#[test]
fn hello_is_200_then_204_and_each_refusal_has_its_status() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::new("m", address(&node));
    let first = member.hello_first();
    assert_eq!(first.node_id, id("a"));
    assert!(first.seen.as_str().starts_with("127.0.0.1:"), "it names where we came from");
    assert_eq!(node.peers().len(), 0, "the first step changes nothing");
    member.to = Some((first.node_id.clone(), first.session));
    let hello = member.hello();
    assert_eq!(member.say(&hello).verdict(), (204, 0));
    assert_eq!(node.peers().len(), 1);

    let mut twin = Member::new("m", address(&node));
    twin.to.clone_from(&member.to);
    let replayed = hello.clone();
    let before = everything(&node);
    assert_eq!(member.say(&replayed).verdict(), refused(Reason::ReplayedNumber));
    let other_key = twin.hello();
    assert_eq!(twin.say(&other_key).verdict(), refused(Reason::OtherKey));
    let forged = member.hello();
    assert_eq!(twin.say(&forged).verdict(), refused(Reason::BadSignature));
    member.to = Some((id("b"), first.session));
    let misled = member.hello();
    assert_eq!(member.say(&misled).verdict(), refused(Reason::WrongReceiver));
    let mut same_id = Member::new("a", address(&node));
    let hello = same_id.hello();
    assert_eq!(same_id.say(&hello).verdict(), refused(Reason::OtherKey));
    assert_eq!(everything(&node), before);
    assert_eq!(node.status().degraded.len(), 2, "{:?}", node.status().degraded);
    node.stop();
}

/// An address with port 0 is none: passed on, it would make a whole list unreadable.
#[test]
fn a_hello_from_port_0_is_malformed() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::new("m", address(&node));
    let hello = match member.hello() {
        Request::Hello(hello) => Request::Hello(Hello { port: 0, ..hello }),
        other => other,
    };
    all_refused(&node, &member, vec![(hello, Reason::Malformed)]);
    node.stop();
}

#[test]
fn a_session_that_was_replaced_does_not_come_back() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let old = std::mem::replace(&mut member.session, Session([2; 16]));
    let hello = member.hello();
    assert_eq!(member.say(&hello).verdict(), (204, 0), "a restart");
    member.session = old;
    let hello = member.hello();
    assert_eq!(member.say(&hello).verdict(), refused(Reason::SupersededSession));
    assert!(node.status().degraded[0].contains("one key"), "{:?}", node.status().degraded);
    node.stop();
}

#[test]
fn no_common_version_is_505_whatever_follows() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let member = Member::new("m", address(&node));
    for (payload, status) in [
        (vec![2, 0, 3, 0], 505),
        (vec![2, 0, 3, 0, 255, 255, 255], 505),
        (vec![0, 0, 0, 0], 505),
        (vec![3, 0, 2, 0], 400),
        (vec![1, 0, 9, 0], 400),
    ] {
        let envelope = member.envelope(Kind::Hello, &payload);
        let heard = member.say_bytes(Kind::Hello, "/hello", &envelope);
        assert_eq!(heard.verdict().0, status, "{payload:?}");
    }
    node.stop();
}

#[test]
fn ping_and_peers_are_answered_to_members_that_prove_themselves_only() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let ping = member.ping();
    assert_eq!(member.say(&ping).verdict(), (200, 0));
    let peers = member.peers();
    match member.say(&peers) {
        Heard::Answer(Answer::Peers(answer)) => {
            let names: Vec<_> = answer.nodes.iter().map(|node| node.node_id.as_str()).collect();
            assert_eq!(names, ["a", "m"]);
        }
        other => panic!("{other:?}"),
    }
    let mut refusals = vec![(ping, Reason::ReplayedNumber), (peers, Reason::ReplayedNumber)];
    for make in [Member::ping, Member::peers] {
        let (name, session) = member.to.clone().unwrap();
        member.to = Some((name.clone(), Session([9; 16])));
        refusals.push((make(&mut member), Reason::WrongSession));
        member.to = Some((id("b"), session));
        refusals.push((make(&mut member), Reason::WrongReceiver));
        member.to = Some((name, session));
    }
    all_refused(&node, &member, refusals);

    let mut unknown = Member::new("u", address(&node));
    unknown.to.clone_from(&member.to);
    let requests = vec![(unknown.ping(), Reason::UnknownSender)];
    all_refused(&node, &unknown, requests);
    let mut liar = Member::new("m", address(&node));
    liar.to.clone_from(&member.to);
    liar.number = member.number + 100;
    let requests = vec![(liar.ping(), Reason::BadSignature), (liar.peers(), Reason::BadSignature)];
    all_refused(&node, &liar, requests);
    node.stop();
}

#[test]
fn update_takes_newer_records_of_their_owners_only() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    node.set(key("own"), value("1")).unwrap();
    let member = Member::joined("m", address(&node));
    let record = member.record(500, &[("k", "v")]);
    let update = member.update(vec![record.clone()], Vec::new());
    assert_eq!(member.say(&update).verdict(), (204, 0));
    assert_eq!(node.get(&id("m"), "k"), Some(value("v")));
    assert_eq!(member.say(&update).verdict(), (204, 0), "what is held already is fine");

    let stale = member.update(vec![member.record(499, &[("k", "old")])], Vec::new());
    match member.say(&stale) {
        Heard::Refusal(406, refusal) => {
            let held = refusal.held.expect("it names what it holds");
            assert_eq!((held.timestamp, held.node_id), (500, id("m")));
            assert_eq!(Some(&held.signature), record.signature.get());
        }
        other => panic!("{other:?}"),
    }
    let forger = Member::joined("f", address(&node));
    let update = |record| forger.update(vec![record], Vec::new());
    let mut unsigned = (*member.record(900, &[("k", "x")])).clone();
    unsigned.signature = Arc::new([0; 64].into());
    let (name, _) = forger.to.clone().unwrap();
    let mut misled = Member::new("f", address(&node));
    misled.to = Some((name, Session([9; 16])));
    let wrong_session = misled.update(vec![member.record(900, &[])], Vec::new());
    let requests = vec![
        (stale, Reason::Stale),
        (update(Arc::new(unsigned)), Reason::BadSignature),
        (update(forger.record_of(&id("m"), 900, &[("k", "x")])), Reason::OtherKey),
        (update(forger.record_of(&id("a"), 900, &[("k", "x")])), Reason::OwnRecord),
        (update(forger.record_of(&id("f"), u64::MAX, &[])), Reason::LimitExceeded),
        (update(forger.record_of(&id("f"), 0, &[])), Reason::LimitExceeded),
        (update(too_many_keys(&forger)), Reason::LimitExceeded),
        (wrong_session, Reason::WrongSession),
    ];
    all_refused(&node, &forger, requests);
    node.stop();
}

#[test]
fn a_partial_record_is_taken_by_who_holds_its_base_only() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let member = Member::joined("m", address(&node));
    let base = member.record(500, &[("k", "v"), ("gone", "soon"), ("stays", "here")]);
    let change = || Change::from([(key("k"), Some(value("new"))), (key("gone"), None)]);
    let patch = |signer: &Member, base: &Record, timestamp: u64, change: Change| {
        let next = base.after(&change, false, timestamp).unwrap().unwrap();
        let signature = signer.key.sign(Signed::Record(&next.head)).unwrap();
        Patch {
            head: next.head,
            public_key: signer.key.public_key(),
            base: base.fingerprint,
            change,
            signature: Arc::new(signature.into()),
        }
    };
    let update = |patch: &Patch| match member.update(Vec::new(), Vec::new()) {
        Request::Update(update) => {
            Request::Update(Update { patches: vec![Arc::new(patch.clone())], ..update })
        }
        other => other,
    };
    let good = patch(&member, &base, 600, change());
    all_refused(&node, &member, vec![(update(&good), Reason::LacksBase)]);
    assert_eq!(member.say(&member.update(vec![base.clone()], Vec::new())).verdict(), (204, 0));
    // Signed by another, of other content than it says, too large, of another node's record.
    let forger = Member::new("f", address(&node));
    let mut forged = patch(&forger, &base, 600, change());
    let other_key = forged.clone();
    forged.public_key = member.key.public_key();
    let lie = Patch { change: Change::from([(key("k"), Some(value("lie")))]), ..good.clone() };
    let big = (0..16).map(|n| (key(&format!("b{n}")), Some(Value::new(&[1; 64 * 1024]).unwrap())));
    let big = Patch { change: big.collect(), ..good.clone() };
    let mut of_own = good.clone();
    of_own.head.node_id = id("a");
    let requests = vec![
        (update(&forged), Reason::BadSignature),
        (update(&other_key), Reason::OtherKey),
        (update(&lie), Reason::Malformed),
        (update(&big), Reason::LimitExceeded),
        (update(&of_own), Reason::OwnRecord),
    ];
    all_refused(&node, &member, requests);
    assert_eq!(member.say(&update(&good)).verdict(), (204, 0));
    let get = |name: &str| node.get(&id("m"), name);
    assert_eq!(
        (get("k"), get("gone"), get("stays")),
        (Some(value("new")), None, Some(value("here")))
    );
    assert_eq!(member.say(&update(&good)).verdict(), (204, 0), "what is held already is fine");
    let old = patch(&member, &base, 550, change());
    all_refused(&node, &member, vec![(update(&old), Reason::Stale)]);
    node.stop();
}

fn too_many_keys(owner: &Member) -> Arc<Record> {
    let entries: Entries =
        (0..=dsn::protocol::KEYS_MAX).map(|number| (key(&number.to_string()), value(""))).collect();
    let public = owner.key.public_key();
    let record = Record::new(owner.node_id.clone(), public, 1, false, Arc::new(entries));
    let signed = Signed::Record(&record.head);
    record.signature.set(owner.key.sign(signed).unwrap()).unwrap();
    Arc::new(record)
}

#[test]
fn update_gives_what_is_wanted_and_204_where_it_is_held() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    node.set(key("own"), value("1")).unwrap();
    let member = Member::joined("m", address(&node));
    let want = |version| vec![Want { node_id: id("a"), version }];
    let asked = member.update(Vec::new(), want(Version::default()));
    let record = match member.say(&asked) {
        Heard::Answer(Answer::Update(mut records)) => records.pop().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(record.entries.get("own"), Some(&value("1")));
    let held = dsn::protocol::peers::version_of(&record);
    assert_eq!(member.say(&member.update(Vec::new(), want(held))).verdict(), (204, 0));
    node.stop();
}

#[test]
fn data_is_delivered_once_and_refused_when_the_inbox_is_full() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let first = member.data(1, b"one");
    assert_eq!(member.say(&first).verdict(), (200, 0));
    let retry = member.data(1, b"one");
    assert_eq!(member.say(&retry).verdict(), (200, 0), "a retry is accepted");
    assert_eq!(member.say(&first).verdict(), refused(Reason::ReplayedNumber));
    let older = member.data(0, b"zero");
    assert_eq!(member.say(&older).verdict(), refused(Reason::ReplayedNumber));
    let message = node.receive(Duration::ZERO).unwrap();
    assert_eq!((message.from, &*message.data), (id("m"), &b"one"[..]));
    assert_eq!(node.receive(Duration::ZERO), None, "and is not delivered again");

    let big = vec![1; dsn::protocol::DATA_BYTES_MAX];
    for number in 2..6 {
        let data = member.data(number, &big);
        assert_eq!(member.say(&data).verdict(), (200, 0), "{number}");
    }
    let over = member.data(6, b"x");
    assert_eq!(member.say(&over).verdict(), refused(Reason::InboxFull));
    assert!(node.receive(Duration::ZERO).is_some());
    let again = member.data(6, b"x");
    assert_eq!(member.say(&again).verdict(), (200, 0), "there is room again");
    node.stop();
}

/// Whatever was recorded is worthless after a restart of the receiver.
#[test]
fn nothing_recorded_before_a_restart_counts_after_it() {
    let place = Place4Nodes::new();
    let mut config = place.config("a", &[]);
    let node = dsn::start(config.clone()).unwrap();
    config.listen = address(&node);
    let mut member = Member::joined("m", address(&node));
    let update = member.update(vec![member.record(500, &[("k", "old")])], Vec::new());
    let requests = [member.hello(), member.ping(), member.peers(), member.data(1, b"x"), update];
    let recorded: Vec<(Kind, Vec<u8>)> = requests
        .iter()
        .map(|it| (it.kind(), member.envelope(it.kind(), &member.payload(it))))
        .collect();
    let paths = |kind: &Kind| kind.path();
    for (kind, envelope) in &recorded {
        let heard = member.say_bytes(*kind, paths(kind), envelope);
        assert!(heard.verdict().0 < 300, "{kind:?} {heard:?}");
    }
    node.stop();
    let node = dsn::start(config).unwrap();
    let before = everything(&node);
    for (kind, envelope) in &recorded {
        let heard = member.say_bytes(*kind, paths(kind), envelope);
        let expected = if *kind == Kind::Hello { 200 } else { 401 };
        assert_eq!(heard.verdict().0, expected, "{kind:?} {heard:?}");
    }
    assert_eq!(everything(&node), before);
    let status = node.peers().into_iter().next().unwrap().status;
    assert_ne!(status, PeerStatus::Alive, "a recording does not bring a node to life");
    node.stop();
}
