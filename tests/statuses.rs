//! Every status of the protocol, produced with real bytes on a real port; and that what is refused
//! changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    Heard, Member, Place4Nodes, conflicts, exchange, id, key, network_keys, post, value,
};
use dsn::RunningNode;
use dsn::protocol::entries::{Change, Entries, Value};
use dsn::protocol::head::Version;
use dsn::protocol::identity::{Incarnation, Session};
use dsn::protocol::record::{Draft, Patch, Record};
use dsn::protocol::report::PeerStatus;
use dsn::protocol::verdict::Reason;
use dsn::protocol::view::{BUCKETS, BucketSet, Buckets, NO_BUCKET, View};
use dsn::protocol::wire::{Answer, Kind, Request, Wish};

fn address(node: &RunningNode) -> SocketAddr {
    node.listen().parse().unwrap()
}

fn refused(reason: Reason) -> (u16, u16) {
    (reason.status().code(), reason.code())
}

/// All that a request could change: states, pins, addresses, statuses, inbox.
#[derive(Debug)]
struct Everything {
    rest: String,
    statuses: Vec<PeerStatus>,
}

/// Of two, the first one was looked at later. Whoever does not answer becomes suspect and lost by
/// time alone, of which a busy host takes much; nobody becomes alive, or leaves, that way.
impl PartialEq for Everything {
    fn eq(&self, before: &Self) -> bool {
        let by_time = |(now, then): (&PeerStatus, &PeerStatus)| {
            now == then || now > then && *now != PeerStatus::Left
        };
        self.rest == before.rest
            && self.statuses.len() == before.statuses.len()
            && self.statuses.iter().zip(&before.statuses).all(by_time)
    }
}

fn everything(node: &RunningNode) -> Everything {
    let peers: Vec<_> = node
        .peers()
        .into_iter()
        .map(|peer| (peer.node_id, peer.address, peer.public_key, peer.keys, peer.timestamp))
        .collect();
    let inbox = node.receive(Duration::ZERO);
    assert_eq!(inbox, None, "nothing was delivered");
    let states = node.states();
    let statuses = states.iter().map(|state| state.status).collect();
    let states: Vec<_> =
        states.into_iter().map(|state| (state.node_id, state.timestamp, state.entries)).collect();
    Everything { rest: format!("{peers:?} {states:?}"), statuses }
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
    node.forget(&[id("s")]).unwrap();
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
    let first = member.introduce();
    assert_eq!(first.node_id, id("a"));
    assert!(first.seen.as_str().starts_with("127.0.0.1:"), "it names where we came from");
    assert_eq!(node.peers().len(), 0, "the first step changes nothing");
    let hello = member.hello();
    assert_eq!(member.say(&hello).verdict(), (204, 0));
    assert_eq!(node.peers().len(), 1);

    let before = everything(&node);
    assert_eq!(member.say(&hello).verdict(), refused(Reason::ReplayedNumber));
    let mut other_key = Member::new("m", address(&node));
    assert_eq!(other_key.try_join().verdict(), refused(Reason::OtherKey));
    let forged = member.hello();
    assert_eq!(other_key.say(&forged).verdict(), refused(Reason::BadSignature));
    let link = member.link.clone().unwrap();
    member.link.as_mut().unwrap().node_id = id("b");
    let misled = member.hello();
    assert_eq!(member.say(&misled).verdict(), refused(Reason::WrongReceiver));
    member.link = Some(link);
    let mut same_id = Member::new("a", address(&node));
    assert_eq!(same_id.try_join().verdict(), refused(Reason::OtherKey));
    assert_eq!(everything(&node), before);
    assert_eq!(conflicts(&node).len(), 2, "{:?}", conflicts(&node));
    node.stop();
}

/// What somebody else was given to name is worth nothing: the receiver says again what to name.
#[test]
fn a_session_is_given_to_one_caller_with_one_key() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let member = Member::joined("m", address(&node));
    let before = everything(&node);
    for name in ["m", "n"] {
        let mut other = Member::new(name, address(&node));
        other.link.clone_from(&member.link);
        let hello = other.hello();
        assert_eq!(other.say(&hello).verdict(), (200, 0), "{name}");
    }
    assert_eq!(everything(&node), before);
    assert_eq!(conflicts(&node), [], "nobody proved anything");
    node.stop();
}

/// An address with port 0 is none: passed on, it would make a whole list unreadable.
#[test]
fn a_hello_from_port_0_breaks_a_limit() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::new("m", address(&node));
    member.port = 0;
    let hello = member.hello();
    all_refused(&node, &member, vec![(hello, Reason::LimitExceeded)]);
    node.stop();
}

#[test]
fn an_incarnation_that_was_replaced_does_not_come_back() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let old = std::mem::replace(&mut member.incarnation, Incarnation([2; 16]));
    let hello = member.hello();
    assert_eq!(member.say(&hello).verdict(), (204, 0), "a restart");
    member.incarnation = old;
    let requests = [member.hello(), member.ping()];
    for request in requests {
        assert_eq!(member.say(&request).verdict(), refused(Reason::SupersededIncarnation));
    }
    assert!(conflicts(&node)[0].text.contains("one key"), "{:?}", conflicts(&node));
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
            assert_eq!(names, ["a", "m"], "what the caller does not hold, be it its own");
        }
        other => panic!("{other:?}"),
    }
    let mut refusals = vec![(ping, Reason::ReplayedNumber), (peers, Reason::ReplayedNumber)];
    let all: [fn(&mut Member) -> Request; 3] =
        [Member::ping, Member::peers, |it| it.pull(vec![wish("a")])];
    for make in all {
        let link = member.link.clone().unwrap();
        member.link.as_mut().unwrap().session = Session([7; 16]);
        refusals.push((make(&mut member), Reason::WrongSession));
        member.link.as_mut().unwrap().session = link.session;
        member.link.as_mut().unwrap().node_id = id("b");
        refusals.push((make(&mut member), Reason::WrongReceiver));
        member.link = Some(link);
    }
    all_refused(&node, &member, refusals);

    let mut unknown = Member::new("u", address(&node));
    unknown.link.clone_from(&member.link);
    let requests = vec![(unknown.ping(), Reason::UnknownSender)];
    all_refused(&node, &unknown, requests);
    let mut liar = Member::new("m", address(&node));
    liar.link.clone_from(&member.link);
    liar.number = member.number + 100;
    let requests = all.map(|make| (make(&mut liar), Reason::BadSignature));
    all_refused(&node, &liar, requests.into());
    node.stop();
}

fn wish(name: &str) -> Wish {
    Wish { node_id: id(name), version: Version::default() }
}

/// PEERS compares what both hold, bucket by bucket: the answer lists all of those that differ;
/// nothing where both hold the same.
#[test]
fn peers_lists_the_buckets_that_differ() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    node.set(key("k"), value("v")).unwrap();
    let mut member = Member::joined("m", address(&node));
    let other = Member::joined("o", address(&node));
    assert_eq!(other.say(&other.push(vec![other.record(500, &[])])).verdict(), (204, 0));
    let pull = member.pull(vec![wish("a"), wish("m"), wish("o")]);
    let records = match member.say(&pull) {
        Heard::Answer(Answer::Records(records)) => records,
        other => panic!("{other:?}"),
    };
    let mut view = View::default();
    for record in &records {
        view.note(&record.head.node_id, Some(record.fingerprint));
    }
    let mut ask = |buckets: Buckets| {
        let peers = member.peers_with(buckets);
        match member.say(&peers) {
            Heard::Answer(Answer::Peers(answer)) => answer,
            other => panic!("{other:?}"),
        }
    };
    let same = ask(view.buckets_without(std::iter::empty()));
    assert_eq!((same.buckets, same.nodes), (BucketSet(0), Vec::new()));
    let missed = ask(view.buckets_without([id("o")].iter()));
    assert!(missed.buckets.0.is_power_of_two() && missed.buckets.has(&id("o")));
    let of_o = missed.nodes.iter().find(|known| known.node_id == id("o")).unwrap();
    assert!(of_o.address.is_some(), "where it is");
    assert_eq!(of_o.version, other.record(500, &[]).version());
    view.note(&id("a"), None);
    let less = ask(view.buckets_without(std::iter::empty()));
    let of_a = less.nodes.iter().find(|known| known.node_id == id("a")).unwrap();
    assert_eq!(of_a.version, records[0].version());
    assert!(less.nodes.iter().all(|known| less.buckets.has(&known.node_id)));
    // What is known of a node of which nothing is held.
    let all = ask([NO_BUCKET; BUCKETS]);
    let names: Vec<_> = all.nodes.iter().map(|known| known.node_id.as_str()).collect();
    assert_eq!(names, ["a", "m", "o"]);
    assert_eq!(all.nodes[1].version, Version::default());
    node.stop();
}

/// What breaks a rule in one record does not take the others with it, and each has its reason.
#[test]
fn update_takes_newer_records_of_their_owners_only() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    node.set(key("own"), value("1")).unwrap();
    let member = Member::joined("m", address(&node));
    let record = member.record(500, &[("k", "v")]);
    let push = member.push(vec![Arc::clone(&record)]);
    assert_eq!(member.say(&push).verdict(), (204, 0));
    assert_eq!(node.get(&id("m"), "k"), Some(value("v")));
    assert_eq!(member.say(&push).verdict(), (204, 0), "what is held already is fine");

    let stale = member.push(vec![member.record(499, &[("k", "old")])]);
    match member.say(&stale) {
        Heard::Refusal(406, refusal) => {
            let refused = &refusal.records[0];
            let held = refused.held.as_ref().expect("it names what it holds");
            assert_eq!((held.timestamp, &refused.node_id), (500, &id("m")));
            assert_eq!(held.signature, record.signature);
        }
        other => panic!("{other:?}"),
    }
    let forger = Member::joined("f", address(&node));
    let push = |record| forger.push(vec![record]);
    let mut unsigned = (*member.record(900, &[("k", "x")])).clone();
    unsigned.signature = [0; 64];
    let mut misled = Member::new("f", address(&node));
    misled.link.clone_from(&forger.link);
    misled.link.as_mut().unwrap().incarnation = Incarnation([9; 16]);
    let other_run = misled.push(vec![member.record(900, &[])]);
    misled.link.as_mut().unwrap().node_id = id("b");
    let other_node = misled.push(vec![member.record(900, &[])]);
    let requests = vec![
        (stale, Reason::Stale),
        (push(Arc::new(unsigned)), Reason::BadSignature),
        (push(forger.record_of(&id("m"), 900, &[("k", "x")])), Reason::OtherKey),
        (push(forger.record_of(&id("a"), 900, &[("k", "x")])), Reason::OwnRecord),
        (push(forger.record_of(&id("f"), u64::MAX, &[])), Reason::LimitExceeded),
        (push(forger.record_of(&id("f"), 0, &[])), Reason::LimitExceeded),
        (push(too_many_keys(&forger)), Reason::LimitExceeded),
        (other_run, Reason::WrongSession),
        (other_node, Reason::WrongReceiver),
    ];
    all_refused(&node, &forger, requests);

    let mixed = forger.push(vec![
        forger.record_of(&id("a"), 900, &[]),
        forger.record(900, &[("k", "good")]),
        forger.record_of(&id("m"), 900, &[]),
    ]);
    match forger.say(&mixed) {
        Heard::Refusal(406, refusal) => {
            let reasons: Vec<_> =
                refusal.records.iter().map(|it| (it.node_id.as_str(), it.reason)).collect();
            let (own, other) = (Reason::OwnRecord.code(), Reason::OtherKey.code());
            assert_eq!(reasons, [("a", own), ("m", other)]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(node.get(&id("f"), "k"), Some(value("good")), "the good one was taken");
    assert_eq!(node.get(&id("m"), "k"), Some(value("v")));
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
        let next = base.draft().after(&change, false, timestamp).unwrap().unwrap();
        let next = signer.sign(next);
        Patch::new((base.fingerprint, &base.head.home), &next, change)
    };
    let push = |patch: &Patch| member.push_with(Vec::new(), vec![Arc::new(patch.clone())]);
    let good = patch(&member, &base, 600, change());
    all_refused(&node, &member, vec![(push(&good), Reason::LacksBase)]);
    assert_eq!(member.say(&member.push(vec![Arc::clone(&base)])).verdict(), (204, 0));
    // Signed by another, of other content than it says, too large, of another node's record.
    let forger = Member::new("f", address(&node));
    let forged = patch(&forger, &base, 600, change());
    // The fingerprint of a base stands for its key, too.
    let other_key = patch(&forger, &forger.sign(base.draft()), 600, change());
    let lie = Patch { change: Change::from([(key("k"), Some(value("lie")))]), ..good.clone() };
    let big = (0..16).map(|n| (key(&format!("b{n}")), Some(Value::new(&[1; 64 * 1024]).unwrap())));
    let big = Patch { change: big.collect(), ..good.clone() };
    let mut of_own = good.clone();
    of_own.node_id = id("a");
    let requests = vec![
        (push(&forged), Reason::BadSignature),
        (push(&other_key), Reason::LacksBase),
        (push(&lie), Reason::Malformed),
        (push(&big), Reason::LimitExceeded),
        (push(&of_own), Reason::OwnRecord),
    ];
    all_refused(&node, &member, requests);
    assert_eq!(member.say(&push(&good)).verdict(), (204, 0));
    let get = |name: &str| node.get(&id("m"), name);
    assert_eq!(
        (get("k"), get("gone"), get("stays")),
        (Some(value("new")), None, Some(value("here")))
    );
    assert_eq!(member.say(&push(&good)).verdict(), (204, 0), "what is held already is fine");
    let old = patch(&member, &base, 550, change());
    all_refused(&node, &member, vec![(push(&old), Reason::Stale)]);
    node.stop();
}

fn too_many_keys(owner: &Member) -> Arc<Record> {
    let entries: Entries =
        (0..=dsn::protocol::KEYS_MAX).map(|number| (key(&number.to_string()), value(""))).collect();
    owner.sign(Draft::new(owner.node_id.clone(), 1, false, Arc::new(entries)))
}

#[test]
fn update_gives_what_is_wished_for_and_204_where_it_is_held() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    node.set(key("own"), value("1")).unwrap();
    let mut member = Member::joined("m", address(&node));
    let asked = member.pull(vec![wish("a")]);
    let record = match member.say(&asked) {
        Heard::Answer(Answer::Records(mut records)) => records.pop().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(record.entries.get("own"), Some(&value("1")));
    let held = Wish { node_id: id("a"), version: record.version() };
    let again = member.pull(vec![held]);
    assert_eq!(member.say(&again).verdict(), (204, 0));
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

    // One sender has half of what is not kept for others; the others find a place all the same.
    let big = vec![1; dsn::protocol::DATA_BYTES_MAX];
    let mut sent = 1;
    let over = loop {
        sent += 1;
        let data = member.data(sent, &big);
        let heard = member.say(&data);
        if heard.verdict() != (200, 0) {
            break heard;
        }
    };
    assert_eq!(over.verdict(), refused(Reason::InboxFull));
    assert_eq!(sent, 4, "two of them had room");
    let mut other = Member::joined("o", address(&node));
    let data = other.data(1, &big);
    assert_eq!(other.say(&data).verdict(), (200, 0));
    let mut third = Member::joined("p", address(&node));
    let data = third.data(1, &big);
    assert_eq!(third.say(&data).verdict(), refused(Reason::InboxFull));
    let data = third.data(1, b"small");
    assert_eq!(third.say(&data).verdict(), (200, 0));
    assert!(node.receive(Duration::ZERO).is_some() && node.receive(Duration::ZERO).is_some());
    let again = member.data(sent, &big);
    assert_eq!(member.say(&again).verdict(), (200, 0), "there is room again");
    node.stop();
}

/// Whatever was recorded is worthless after a restart of the receiver.
#[test]
fn nothing_recorded_before_a_restart_counts_after_it() {
    let place = Place4Nodes::new();
    let mut config = place.config("a", &[]);
    let node = dsn::start(config.clone()).unwrap();
    config.listen = address(&node).into();
    let mut member = Member::joined("m", address(&node));
    let push = member.push(vec![member.record(500, &[("k", "old")])]);
    let requests = [
        member.hello(),
        member.ping(),
        member.peers(),
        member.pull(vec![wish("a")]),
        member.data(1, b"x"),
        push,
    ];
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
