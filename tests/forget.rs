//! What was forgotten, what left and what was never proved, over real sockets: bytes that were
//! recorded before are worth nothing, a forged record is never shown, goodbye is final.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dsn::RunningNode;
use dsn::protocol::crypto::Signer;
use dsn::protocol::identity::NodeId;
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::report::PeerStatus;
use dsn::protocol::verdict::Reason;
use dsn::protocol::wire::{Kind, Request};

use crate::support::liar::Liar;
use crate::support::process::Process;
use crate::support::{Heard, Member, Place4Nodes, conflicts, eventually, id, post, value};

fn address(node: &RunningNode) -> SocketAddr {
    node.listen().parse().unwrap()
}

fn refused(reason: Reason) -> (u16, u16) {
    (reason.status().code(), reason.code())
}

fn sealed(member: &Member, request: &Request) -> (Kind, Vec<u8>) {
    (request.kind(), member.envelope(request.kind(), &member.payload(request)))
}

/// A member that joins, brings its state and sends DATA; and all that somebody who listens has of
/// it.
fn recorded(node_id: &str, target: SocketAddr) -> (Member, Vec<(Kind, Vec<u8>)>) {
    let mut member = Member::new(node_id, target);
    member.introduce();
    let first = {
        let link = member.link.take();
        let hello = member.hello();
        member.link = link;
        hello
    };
    let second = member.hello();
    let mut all = vec![sealed(&member, &first), sealed(&member, &second)];
    assert_eq!(member.say_bytes(Kind::Hello, "/hello", &all[1].1).verdict(), (204, 0));
    let requests = [
        member.push(vec![member.record(5_000_000, &[("k", "old")])]),
        member.data(1, b"once"),
        member.ping(),
        member.peers(),
    ];
    for request in &requests {
        let (kind, envelope) = sealed(&member, request);
        let status = member.say_bytes(kind, kind.path(), &envelope).verdict().0;
        assert!(matches!(status, 200 | 204), "{kind:?} {status}");
        all.push((kind, envelope));
    }
    (member, all)
}

/// Sends all of it again; nothing of it comes back to life.
fn replay(node: &RunningNode, member: &Member, recording: &[(Kind, Vec<u8>)], what: &str) {
    for round in 0..2 {
        for (kind, envelope) in recording {
            let heard = member.say_bytes(*kind, kind.path(), envelope);
            let status = heard.verdict().0;
            // A HELLO of another session is told who is there.
            let harmless = *kind == Kind::Hello && status == 200;
            assert!(harmless || status >= 400, "{what}, round {round}: {kind:?} got {heard:?}");
        }
    }
    assert_eq!(node.get(&member.node_id, "k"), None, "{what}: the old state");
    assert!(node.receive(Duration::ZERO).is_none(), "{what}: DATA a second time");
    assert!(!is_pinned(node, member), "{what}: the old key");
}

fn is_pinned(node: &RunningNode, member: &Member) -> bool {
    let key = Some(member.key.public_key());
    node.peers().iter().any(|peer| peer.node_id == member.node_id && peer.public_key == key)
}

#[test]
fn what_was_recorded_before_forget_is_worth_nothing_and_the_new_owner_comes_in() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let (old, recording) = recorded("victim", address(&node));
    assert_eq!(node.receive(Duration::ZERO).unwrap().data.as_ref(), b"once");
    node.forget(&[id("victim")]).unwrap();
    replay(&node, &old, &recording, "in the same session");
    // The host is set up anew, with another key.
    let new = Member::joined("victim", address(&node));
    let record = new.record(1_000_000, &[("k", "new")]);
    assert_eq!(new.say(&new.push(vec![record])).verdict(), (204, 0), "with a clock of before");
    for (kind, envelope) in &recording {
        let heard = old.say_bytes(*kind, kind.path(), envelope);
        let harmless = *kind == Kind::Hello && heard.verdict().0 == 200;
        assert!(harmless || heard.verdict().0 >= 400, "{kind:?} got {heard:?}");
    }
    assert_eq!(node.get(&id("victim"), "k"), Some(value("new")));
    assert!(node.receive(Duration::ZERO).is_none());
    // Forgotten again, and after a restart.
    node.forget(&[id("victim")]).unwrap();
    replay(&node, &old, &recording, "after a second time");
    node.stop();
    let node = place.start("a", &[]);
    let mut old = old;
    old.target = address(&node);
    replay(&node, &old, &recording, "after a restart");
    node.stop();
}

#[test]
fn who_was_forgotten_comes_back_as_it_was_by_its_own_hello_alone() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let (mut owner, _) = recorded("victim", address(&node));
    let other = Member::joined("other", address(&node));
    node.forget(&[id("victim")]).unwrap();
    let told = owner.record(9_000_000, &[("k", "told")]);
    let heard = other.say(&other.push(vec![told.clone()]));
    assert_eq!(heard.verdict(), refused(Reason::Forgotten), "by another");
    assert_eq!(owner.say(&owner.push(vec![told.clone()])).verdict(), refused(Reason::Forgotten));
    assert_eq!(node.get(&id("victim"), "k"), None);
    owner.join();
    assert_eq!(owner.say(&owner.push(vec![told])).verdict(), (204, 0));
    assert_eq!(node.get(&id("victim"), "k"), Some(value("told")));
    node.stop();
}

/// The signatures of what is not newer are not looked at: so nothing of it may ever be applied,
/// whatever happens to what is held meanwhile.
#[test]
fn a_forged_record_is_not_shown_though_the_true_one_is_forgotten_meanwhile() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let target = address(&node);
    let mut honest = Member::new("honest", target);
    let liar = Member::joined("liar", target);
    for round in 0..40 {
        let record = honest.record(5_000_000 + round, &[("k", "true")]);
        honest.incarnation.0[0] = u8::try_from(round).unwrap() + 2;
        honest.join();
        assert_eq!(honest.say(&honest.push(vec![record])).verdict(), (204, 0));
        // Older than what is held, with the right key, and not signed; then what takes a while.
        let entries = [("k", "forged")];
        let draft = honest.record(4_000_000, &entries);
        let head = Draft::new(id("honest"), 4_000_000, false, draft.entries.clone());
        let forged = Arc::new(Record::new(head, honest.key.public_key(), [7; 64]));
        let crowd = (0..63).map(|number| {
            let owner = id(&format!("x-{round:02}-{number:02}"));
            liar.record_of(&owner, 7, &[])
        });
        let records = std::iter::once(forged).chain(crowd).collect();
        let push = liar.push(records);
        let envelope = liar.envelope(Kind::Update, &liar.payload(&push));
        std::thread::scope(|scope| {
            scope.spawn(|| post(target, "/update", &envelope));
            // At another moment of its work each time.
            let until = Instant::now() + Duration::from_micros(500 * round);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            // Nobody may have come in meanwhile.
            let _ = node.forget(&[id("honest")]);
            let shown = node.get(&id("honest"), "k");
            assert_ne!(shown, Some(value("forged")), "round {round}");
        });
        assert_ne!(node.get(&id("honest"), "k"), Some(value("forged")), "round {round}");
    }
    node.stop();
}

#[test]
fn a_message_has_at_most_64_records() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let member = Member::joined("m", address(&node));
    let of = |count: usize| -> Vec<_> {
        (0..count).map(|number| member.record_of(&id(&format!("r{number:02}")), 7, &[])).collect()
    };
    assert_eq!(member.say(&member.push(of(64))).verdict(), (204, 0));
    // The first 64 of them are right, so that it is not for what is in them.
    assert_eq!(push_of_any_length(&member, 65).verdict(), refused(Reason::Malformed));
    node.stop();
}

/// An UPDATE with this many records that nobody signed, past the encoder, which keeps the bound.
fn push_of_any_length(member: &Member, count: u64) -> Heard {
    let one = member.payload(&member.push(vec![member.record(7, &[])]));
    let none = member.payload(&member.push(Vec::new()));
    // A list is its length and then its elements; four that are empty stand behind that of records.
    let behind = 4 * 8;
    let at = none.len() - behind - 8;
    assert_eq!(one[..at], none[..at]);
    let record = &one[at + 8..one.len() - behind];
    let mut payload = none[..at].to_vec();
    payload.extend_from_slice(&count.to_le_bytes());
    for _ in 0..count {
        payload.extend_from_slice(record);
    }
    payload.extend_from_slice(&[0; 4 * 8]);
    let envelope = member.envelope(Kind::Update, &payload);
    member.say_bytes(Kind::Update, "/update", &envelope)
}

#[test]
fn the_first_hello_with_another_key_changes_nothing_at_all() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let (member, recording) = recorded("m", address(&node));
    let before = format!("{:?} {:?}", conflicts(&node), node.peers().len());
    let mut other = Member::new("m", address(&node));
    for _ in 0..3 {
        other.introduce();
        let (kind, envelope) = &recording[0];
        assert_eq!(member.say_bytes(*kind, kind.path(), envelope).verdict().0, 200);
    }
    assert_eq!(format!("{:?} {:?}", conflicts(&node), node.peers().len()), before);
    // The second one proves who calls: that is worth a word.
    assert_eq!(other.try_join().verdict(), refused(Reason::OtherKey));
    assert_ne!(conflicts(&node).len(), 0);
    node.stop();
}

fn status_of(node: &RunningNode, node_id: &NodeId) -> Option<PeerStatus> {
    node.peers().into_iter().find(|peer| peer.node_id == *node_id).map(|peer| peer.status)
}

#[test]
fn goodbye_is_final_until_its_owner_comes_back() {
    let place = Place4Nodes::new();
    let node = place.start("a", &[]);
    let mut member = Member::joined("m", address(&node));
    let say_goodbye = |member: &Member, timestamp: u64| {
        let draft = Draft::new(id("m"), timestamp, true, Arc::default());
        assert_eq!(member.say(&member.push(vec![member.sign(draft)])).verdict(), (204, 0));
    };
    say_goodbye(&member, 5_000_000);
    assert_eq!(status_of(&node, &id("m")), Some(PeerStatus::Left));
    // What it had on its way when it left.
    let ping = member.ping();
    assert_eq!(member.say(&ping).verdict(), (200, 0));
    assert_eq!(status_of(&node, &id("m")), Some(PeerStatus::Left), "a PING takes nothing back");
    let wish = member.pull(Vec::new());
    member.say(&wish);
    assert_eq!(status_of(&node, &id("m")), Some(PeerStatus::Left));
    // It starts again.
    member.incarnation.0[0] = 99;
    member.join();
    assert_eq!(
        member.say(&member.push(vec![member.record(6_000_000, &[("k", "back")])])).verdict(),
        (204, 0)
    );
    assert_eq!(status_of(&node, &id("m")), Some(PeerStatus::Alive));
    node.stop();
}

fn ids(node: &Process) -> Vec<String> {
    let peers = node.json(&["peers", "--all"]);
    peers.as_array().unwrap().iter().map(|peer| peer["node_id"].to_string()).collect()
}

#[test]
fn what_all_forgot_one_after_the_other_does_not_come_back() {
    let place = Place4Nodes::new();
    let hub = place.spawn_at("n0", "127.0.0.1:0", &[]);
    let mut others: Vec<Process> = (1..5)
        .map(|number| place.spawn_at(&format!("n{number}"), "127.0.0.1:0", &[&hub.address]))
        .collect();
    for node in others.iter().chain([&hub]) {
        node.told(&["--timeout", "60s", "wait", "peers", "4"]);
    }
    let (third, fourth) = (others.pop().unwrap(), others.pop().unwrap());
    third.told(&["set", "k", "v"]);
    hub.told(&["--timeout", "60s", "wait", "key", "n4", "k", "v"]);
    third.kill();
    fourth.kill();
    let all = [&hub, &others[0], &others[1]];
    for node in all {
        eventually("they are lost", || ["n3", "n4"].iter().all(|it| node.status_of(it) == "lost"));
    }
    let said = all[0].ask(&["forget", "n4", "nobody"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("nobody"), "{}", said.err);
    assert_eq!(all[0].status_of("n4"), "lost", "all of them or none");
    // Four ticks between one and the next, as a person does it; meanwhile the others compare what
    // they hold, which is where it came back from.
    for (number, node) in all.into_iter().enumerate() {
        if number == 0 {
            node.told(&["forget", "n3", "n4"]);
        } else {
            let said = node.told(&["forget", "--lost"]);
            assert_eq!(said, "n3\nn4", "it says whom");
        }
        let marker = format!("{number}");
        // Something of each of them has gone round since.
        for teller in all {
            teller.told(&["set", "marker", &marker]);
        }
        for (teller, name) in all.into_iter().zip(["n0", "n1", "n2"]) {
            for listener in all.into_iter().filter(|it| it.address != teller.address) {
                listener.told(&["--timeout", "60s", "wait", "key", name, "marker", &marker]);
            }
        }
        let ticks = Instant::now() + Duration::from_secs(2);
        while Instant::now() < ticks {
            assert!(!ids(node).iter().any(|it| it == "\"n3\"" || it == "\"n4\""));
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    for node in all {
        assert_eq!(ids(node).len(), 2, "{:?}", ids(node));
        assert_eq!(node.ask(&["get", "n4", "k"]).code, 1);
    }
    // It comes back by itself, with what it had.
    let back = place.spawn_at("n4", "127.0.0.1:0", &[&hub.address]);
    for node in all {
        node.told(&["--timeout", "60s", "wait", "key", "n4", "k", "v"]);
    }
    drop(back);
}

#[test]
fn a_leave_that_could_not_tell_all_says_whom_and_that_it_left() {
    use rustix::process::Signal;
    let place = Place4Nodes::new();
    let hub = place.spawn_at("n0", "127.0.0.1:0", &[]);
    let one = place.spawn_at("n1", "127.0.0.1:0", &[&hub.address]);
    let mut two = place.spawn_at("n2", "127.0.0.1:0", &[&hub.address]);
    for node in [&hub, &one, &two] {
        node.told(&["--timeout", "60s", "wait", "peers", "2"]);
    }
    one.signal(Signal::STOP);
    let said = two.ask(&["--timeout", "1s", "leave"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("could not tell n1") && said.err.contains("has stopped"), "{said:?}");
    assert_eq!(two.wait(), Some(0));
    eventually("it left for those that were told", || hub.status_of("n2") == "left");
    one.signal(Signal::CONT);
    eventually("the others pass it on", || one.status_of("n2") == "left");
}

#[test]
fn nothing_is_set_behind_a_goodbye() {
    use crate::support::liar::honest;
    let place = Place4Nodes::new();
    // One that takes no record keeps the goodbye from being over.
    let slow = Liar::start(
        Member::new("slow", "127.0.0.1:1".parse().unwrap()),
        Box::new(|member, request, _| match request {
            Request::Push(_) => None,
            other => honest(member, other),
        }),
        Box::new(|envelope| envelope),
    );
    let node = place.spawn_at("a", "127.0.0.1:0", &[&slow.address.to_string()]);
    node.told(&["set", "k", "before"]);
    node.told(&["--timeout", "60s", "wait", "peers", "1"]);
    let leaving = node.command(&["--timeout", "3s", "leave"]).spawn().unwrap();
    let mut said = node.ask(&["set", "k", "after"]);
    eventually("it has begun to leave", || {
        said = node.ask(&["set", "k", "after"]);
        said.code != 0
    });
    assert!(said.err.contains("goodbye"), "{}", said.err);
    assert_eq!(leaving.wait_with_output().unwrap().status.code(), Some(1), "slow was not told");
    drop(slow);
}
