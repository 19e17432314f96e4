//! A node that broke a rule of its own, one that ends, one whose queues are full.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use zeroize::Zeroizing;

use super::{Driver, Parts, Queues, now_since};
use crate::RunningNode;
use crate::client::Client;
use crate::config::Config;
use crate::keeper::{Core, SetJob};
use crate::protocol::address::Address;
use crate::protocol::crypto::{NetworkKeys, PrivateKey, Signer};
use crate::protocol::entries::{Change, Key, Value};
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::node::{Action, Node, Secret, Settings};
use crate::protocol::peer::{Known, KnownPeer, Pin, Trust};
use crate::protocol::record::Draft;
use crate::protocol::report::Refused;
use crate::protocol::verified::Verified;
use crate::protocol::wire::ProgramVersion;

fn node(folder: &std::path::Path) -> RunningNode {
    let mut config = Config::new(NodeId::new("a").unwrap());
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.credentials = folder.join("credentials");
    config.data = Some(folder.join("data"));
    config.control = crate::config::Control::At(folder.join("a.sock"));
    config.tick = Duration::from_millis(100);
    crate::start(config).unwrap()
}

fn set(node: &RunningNode, key: &str) -> Result<u64, Refused> {
    node.set(Key::new(key).unwrap(), Value::new(b"v").unwrap())
}

#[test]
fn a_panic_under_the_lock_stops_the_node_and_nothing_is_taken_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path());
    assert!(set(&node, "before").is_ok());
    let rule = || node.driver.decide(|_, _| -> ((), Vec<_>) { panic!("a rule that is wrong") });
    assert!(catch_unwind(AssertUnwindSafe(rule)).is_err());
    // Whoever comes next finds it: here the ticker, which nobody has to wake.
    let why = node.wait_for_stop().unwrap_err();
    assert!(why.contains("panicked"), "{why}");
    // The next tick is due by now, and does not come: that hides the end from nobody.
    while node.driver.tick_late().is_zero() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(matches!(set(&node, "after"), Err(Refused::Broken { .. })));
    let waited = node.ping(&NodeId::new("b").unwrap(), Duration::ZERO);
    assert!(matches!(waited, Err(Refused::Broken { .. })), "{waited:?}");
    assert!(node.status().degraded.iter().any(|fault| fault.text.contains("panicked")));
    node.stop();
    // What was acknowledged is there when it is started again.
    let again = self::node(folder.path());
    assert!(again.get(again.node_id(), "before").is_some());
    assert!(again.get(again.node_id(), "after").is_none());
}

#[test]
fn who_comes_after_the_end_does_not_wait_for_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path());
    node.driver.begin_stop();
    let long = Duration::from_secs(3600);
    let (a, b) = (node.node_id().clone(), NodeId::new("b").unwrap());
    for target in [&a, &b] {
        assert!(matches!(node.ping(target, long), Err(Refused::Stopping)));
        let sent = node.send(target, &[1], long);
        assert!(matches!(sent, Err(Refused::Stopping)), "{sent:?}");
    }
    assert!(matches!(set(&node, "k"), Err(Refused::Stopping)));
    assert!(node.receive(long).is_none());
}

fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

/// A driver whose node knows one peer, that is nowhere.
fn driver() -> (Arc<Driver>, Queues) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
    let private_key = PrivateKey::from_pkcs8(pkcs8.unwrap().as_ref()).unwrap();
    let own = Draft::new(id("us"), 1, false, Arc::default());
    let own = Verified::sign(own, &private_key).unwrap();
    let settings = Settings {
        discovers: false,
        node_id: id("us"),
        public_key: private_key.public_key(),
        secret: Secret([1; 32]),
        port: 1,
        advertise: None,
        seeds: Vec::new(),
        tick_ms: 3_000,
        mesh_max: crate::protocol::node::MESH_MAX,
        relay_heads: crate::protocol::node::RELAY_HEADS,
        program: ProgramVersion::new("test"),
        alone: true,
        is_durable: true,
        allow: None,
    };
    let pin = Pin { key: PublicKey([4; 65]), trust: Trust::Direct };
    let address = Some(Address::new("127.0.0.1:1").unwrap());
    let peer = KnownPeer { node_id: id("peer"), known: Known::Pinned { pin, address } };
    let began = Instant::now();
    Driver::new(Parts {
        node: Node::new(settings, own, vec![peer], 1, now_since(began)),
        keys: NetworkKeys::new(&[Zeroizing::new([9; 32])]).unwrap(),
        key_file: PathBuf::from("none"),
        allow_file: None,
        private_key,
        client: Client::new(1_000, 1),
        credentials_folder: PathBuf::from("none"),
        journal: None,
        began,
        notices: Vec::new(),
    })
}

/// What a rule that panicked left behind is not gone on with.
#[test]
fn a_node_whose_rule_panicked_answers_nobody() {
    let (driver, queues) = driver();
    let panics = || driver.decide::<()>(|_, _| panic!("a rule is wrong"));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert!(driver.peers().len() <= 1, "it can still be looked at");
    assert!(driver.broken().is_some());
    assert!(queues.stop_asked.try_recv().is_ok(), "and asks to be stopped");
    let refused = driver.ping(&id("peer"), Duration::from_millis(100));
    assert!(matches!(refused, Err(Refused::Broken { .. })));
    let value = Value::new(b"value").unwrap();
    let refused = driver.set(Key::new("k").unwrap(), value);
    assert!(matches!(refused, Err(Refused::Broken { .. })));
    let peer = "127.0.0.1:1".parse().unwrap();
    let request = crate::server::Request {
        path: "/ping".into(),
        query: String::new(),
        headers: crate::server::Headers::default(),
        peer,
        body: Vec::new(),
    };
    assert_eq!(driver.on_http(request).status, 500);
}

/// The peer is known, and nobody could tell it.
#[test]
fn leave_names_those_that_it_could_not_tell() {
    let (driver, queues) = driver();
    let keeper = std::thread::scope(|scope| {
        let leaver = scope.spawn(|| driver.leave(Duration::from_millis(100)));
        let SetJob { reply, left, .. } = queues.sets.recv().unwrap();
        assert!(left);
        reply.send(Ok(2)).unwrap();
        leaver.join().unwrap()
    });
    assert_eq!(keeper, Err(Refused::NotTold { nodes: vec![id("peer")] }));
}

/// Whoever waits for an answer does not wait for what others are sent.
#[test]
fn the_pushes_of_a_change_begin_when_its_answer_was_passed_on() {
    let (driver, queues) = driver();
    let (_, actions) = driver.lock().node.on_tick(driver.now());
    let job = actions.into_iter().find_map(|action| match action {
        Action::Send(job) => Some(job),
        _ => None,
    });
    driver.held().push(job.expect("the peer is called"));
    let waiting = || queues.sends.iter().map(Receiver::len).sum::<usize>();
    let (result, pushes) = std::thread::scope(|scope| {
        let caller =
            scope.spawn(|| driver.change_within(Change::new(), None, Duration::from_secs(60)));
        let SetJob { reply, .. } = queues.sets.recv().unwrap();
        reply.send(Ok(2)).unwrap();
        driver.told(true);
        caller.join().unwrap()
    });
    assert_eq!((result, waiting()), (Ok(2), 0));
    drop(pushes);
    assert_eq!(waiting(), 1);
    // Where all that waited are gone nobody else would do it.
    driver.held().push(queues.sends.iter().find_map(|jobs| jobs.try_recv().ok()).unwrap());
    driver.told(false);
    assert_eq!(waiting(), 1);
}

/// What can't wait any more goes back to the rules, which make it anew.
#[test]
fn a_job_that_has_no_room_goes_back() {
    let (driver, queues) = driver();
    drop(queues);
    let jobs = || {
        let (_, actions) = driver.lock().node.on_tick(driver.now());
        actions.into_iter().filter_map(|action| match action {
            Action::Send(job) => Some(job),
            _ => None,
        })
    };
    let job = jobs().next().expect("the peer is called");
    assert_eq!(jobs().count(), 0, "its flight is on its way");
    driver.enqueue(job);
    assert_eq!(jobs().count(), 1);
}
