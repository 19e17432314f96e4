//! Cases in which something is wanted by honest nodes: what they get, and how late.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::Scale;
use super::figures::{bytes, number, time};
use super::network::{A, B, C, Host, Network, let_pass};
use super::port::{Kept, Port, Reply};
use super::quiet::{Den, LARGE_BYTES};
use super::wire::{self, Lie, Versions, greet, greet_again, large, members};
use crate::support::{Member, PATIENCE, eventually, stats};

/// Time between changes whose delay is measured.
const SET_EVERY: Duration = Duration::from_millis(500);
/// How long it is waited for a node to be alive again, or to join.
const LONG_PATIENCE: Duration = Duration::from_secs(180);
/// Time between looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many say HELLO at a time.
const CALLERS: usize = 4;
/// Who speaks for a member, and who for a stranger: the last but one byte of their addresses.
const MEMBER: u8 = 3;
const STRANGER: u8 = 5;

/// Lets a crowd say HELLO to all nodes; gives how many HELLOs were accepted.
fn greet_all(crowd: &mut [Member], nodes: &[SocketAddr], here: &str) -> usize {
    let greet_some = |some: &mut [Member]| {
        let all = nodes.iter().map(|node| {
            some.iter_mut().filter_map(|member| greet(member, *node, here).then_some(())).count()
        });
        all.sum::<usize>()
    };
    std::thread::scope(|scope| {
        let parts = crowd.chunks_mut(crowd.len().div_ceil(CALLERS));
        let threads: Vec<_> = parts.map(|some| scope.spawn(move || greet_some(some))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// How long it takes until it is so; nothing where it is not in that time.
fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > patience {
            return None;
        }
        let_pass(LOOK_EVERY);
    }
    Some(began.elapsed())
}

/// Whether a node calls another one alive and has heard it since.
fn hears(host: &Host, node_id: &str, since: Instant) -> bool {
    let heard_lately = |peer: serde_json::Value| {
        let ago = peer["heard_ms_ago"].as_u64().map(Duration::from_millis);
        peer["status"] == "alive" && ago.is_some_and(|ago| ago < since.elapsed())
    };
    host.peer(node_id).is_some_and(heard_lately)
}

/// Changes of `a` for the time of a window.
fn delays(network: &Network, scale: &Scale) -> String {
    let count = usize::try_from(scale.window.as_millis() / SET_EVERY.as_millis()).unwrap();
    let (delays, rates) = network.during(|| network.delays(count.max(2), SET_EVERY));
    assert!(!scale.is_quick || delays.arrived() > 0, "changes arrive");
    format!("{delays} ({rates})")
}

/// Many ids whose port never answers say HELLO; then changes, a node that hangs, some times,
/// and a newcomer, each behind HELLOs of all of them.
pub fn never_answer(scale: &Scale, count: usize) -> String {
    let mut network = Network::start(scale.tick, &[]);
    let (mute, nodes) = (Port::mute(), network.listens());
    let mut crowd = members("mute", scale.count(count));
    let all = crowd.len() * nodes.len();
    let mut accepted = Vec::new();
    let mut greet_all = || accepted.push(greet_all(&mut crowd, &nodes, &mute.address));
    greet_all();
    let sets = delays(&network, scale);
    assert!(mute.counts.connections() > 0, "the crowd is called");

    let mut hangs = Vec::new();
    for _ in 0..scale.rounds {
        greet_all();
        hangs.push(hang(scale, &network));
    }

    greet_all();
    let seeds: Vec<String> = network.hosts.iter().map(|host| host.public().to_owned()).collect();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let since = Instant::now();
    network.add("newcomer", &seeds, &[]);
    let (newcomer, others) = network.hosts.split_last().expect("it was added");
    let knows = |one: &Host, other: &Host| hears(one, &other.id, since);
    let joined = until(PATIENCE, || {
        others.iter().all(|other| knows(newcomer, other) && knows(other, newcomer))
    });
    let mut joins = time(joined, PATIENCE);
    if joined.is_none() {
        let known = others.iter().filter(|other| knows(newcomer, other)).count();
        let degraded = newcomer.degraded().into_iter().next().unwrap_or_default();
        joins = format!("{joins} ({known} of 3 alive to it; {degraded})");
    }
    format!(
        "{accepted:?} of {all} HELLOs accepted; {sets}; hung {} s, alive again after: {}; \
         newcomer: {joins}",
        scale.hang.as_secs(),
        hangs.join(", ")
    )
}

/// Hangs `c` for a while: how long it takes until it is alive everywhere again. A request that
/// waits at its port is answered at once; where none does, it takes what it takes. So one hang says
/// little.
fn hang(scale: &Scale, network: &Network) -> String {
    let hung = &network.hosts[C];
    hung.process.signal(Signal::STOP);
    let_pass(scale.hang);
    let noticed = [A, B].iter().filter(|at| !network.hosts[**at].calls_alive(&hung.id)).count();
    hung.process.signal(Signal::CONT);
    let since = Instant::now();
    let pairs = [(A, C), (B, C), (C, A), (C, B)];
    let back = until(LONG_PATIENCE, || {
        pairs.iter().all(|(at, of)| hears(&network.hosts[*at], &network.hosts[*of].id, since))
    });
    format!("{} (noticed by {noticed} of 2)", time(back, LONG_PATIENCE))
}

/// Many ids answer HELLO and PING, and hang on UPDATE.
pub fn hang_on_update(scale: &Scale, count: usize) -> String {
    let rounds = (0..scale.rounds).map(|_| hang_on_update_once(scale, count));
    rounds.collect::<Vec<_>>().join(" || ")
}

fn hang_on_update_once(scale: &Scale, count: usize) -> String {
    let network = Network::start(scale.tick, &[]);
    let den = Den::open("hang", scale.count(count), Lie::UpdateHangs);
    let accepted = den.greet(&network);
    eventually("an UPDATE hangs", || den.told() > 0);
    let_pass(scale.settle);
    let all = scale.count(count) * network.hosts.len();
    format!("{accepted} of {all} HELLOs accepted; {}", delays(&network, scale))
}

/// One member fills the inbox of `a` and keeps it full, while a reader takes one message each
/// 50 ms, and `b` sends.
pub fn full_inbox(scale: &Scale) -> String {
    let network = Network::start(scale.tick, &[]);
    let den = Den::open("filler", 1, Lie::None);
    den.greet(&network);
    let (over, taken, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (a, b) = (&network.hosts[A], &network.hosts[B]);
    den.liar.lock().unwrap().greet(a.listen());
    let is_over = || over.load(Ordering::Relaxed);
    let fill = || {
        let mut kept = Kept::connect(MEMBER, a.listen()).unwrap();
        while !is_over() {
            let next = taken.load(Ordering::Relaxed) + 1;
            let data = wire::data(den.liar.lock().unwrap().member(), next, b"small");
            match kept.post(&data) {
                Some(answered) if answered.status == 200 => taken.store(next, Ordering::Relaxed),
                Some(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                None => kept = Kept::connect(MEMBER, a.listen()).unwrap(),
            }
        }
    };
    let read = || {
        let mut node = a.connect();
        while !is_over() {
            let receive = json!({ "op": "recv", "ack": true, "timeout_ms": 1000 });
            if node.call(&receive, PATIENCE).is_ok() {
                node.ask(&json!({ "op": "ack" })).unwrap();
            }
            let_pass(Duration::from_millis(50));
        }
    };
    let sends = scale.count(20);
    let honest = std::thread::scope(|scope| {
        scope.spawn(fill);
        eventually("the inbox is full", || refused.load(Ordering::Relaxed) > 0);
        scope.spawn(read);
        let send = |_: &usize| {
            let_pass(SET_EVERY);
            b.process.ask(&["--timeout", "5s", "send", "a", "honest"]).code == 0
        };
        let honest = (0..sends).filter(send).count();
        over.store(true, Ordering::Relaxed);
        honest
    });
    let [taken, refused] = [&taken, &refused].map(|count| count.load(Ordering::Relaxed));
    format!(
        "{honest} of {sends} honest sends got in; the member: {taken} got in, {refused} refused"
    )
}

/// Bytes that a process had written to disk so far.
fn written_bytes(host: &Host) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", host.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.expect("a count of bytes").parse().unwrap()
}

/// A member tells `a` four times a second that it is somewhere else.
pub fn ever_another_address(scale: &Scale) -> String {
    let network = Network::start(scale.tick, &[]);
    let den = Den::open("mover", 1, Lie::None);
    den.greet(&network);
    let a = &network.hosts[A];
    assert!(written_bytes(a) > 0.0, "TMPDIR is in memory: nothing is written to a disk there");
    assert_eq!(den.liar.lock().unwrap().greet(a.listen()), 1, "the member is let in");
    let_pass(scale.settle);
    let before: Vec<f64> = network.hosts.iter().map(written_bytes).collect();
    let mut accepted = 0;
    let ((said, seconds), rates) = network.during(|| {
        let (began, mut said) = (Instant::now(), 0_u32);
        while began.elapsed() < scale.window {
            let [_, _, high, low] = said.to_be_bytes();
            let here = format!("127.9.{high}.{low}:9");
            accepted += u32::from(greet_again(den.liar.lock().unwrap().member(), &here));
            said += 1;
            let_pass((Duration::from_millis(250) * said).saturating_sub(began.elapsed()));
        }
        (said, began.elapsed().as_secs_f64())
    });
    let row = |(host, before): (&Host, f64)| {
        format!("{} {}", host.id, bytes((written_bytes(host) - before) / seconds))
    };
    let rows: Vec<String> = network.hosts.iter().zip(before).map(row).collect();
    format!("{accepted} of {said} HELLOs accepted; written to disk/s: {}; {rates}", rows.join(", "))
}

/// Many ids say that they are found at the address of one who has nothing to do with them.
pub fn third_party(scale: &Scale, count: usize) -> String {
    let network = Network::start(scale.tick, &[]);
    let third = Port::bind();
    let not_found = b"HTTP/1.1 404 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    third.serve(|_, _| Reply::Last(not_found.to_vec()));
    let (nodes, mut crowd) = (network.listens(), members("named", scale.count(count)));
    let began = Instant::now();
    let accepted = greet_all(&mut crowd, &nodes, &third.address);
    let greeted = third.counts.connections() as f64 / began.elapsed().as_secs_f64();
    assert!(third.counts.connections() > 0, "the third party is called");
    let window = || {
        let before = third.counts.connections();
        let_pass(scale.window);
        number((third.counts.connections() - before) as f64 / scale.window.as_secs_f64())
    };
    let ((first, second), rates) = network.during(|| (window(), window()));
    format!(
        "{accepted} of {} HELLOs accepted; connections/s at the third party: {} while they are said, \
         {first} in the {} s after that, {second} in the next; {rates}",
        crowd.len() * nodes.len(),
        number(greeted),
        scale.window.as_secs()
    )
}

/// A stranger says a PING that it recorded over many connections, and keeps them.
pub fn replayed_ping(scale: &Scale, count: usize) -> String {
    let network = Network::start(scale.tick, &[]);
    let den = Den::open("member", 1, Lie::None);
    let target = network.hosts[A].listen();
    assert_eq!(den.liar.lock().unwrap().greet(target), 1, "the member is let in");
    let recorded = wire::ping(den.liar.lock().unwrap().member());
    let first = Kept::connect(MEMBER, target).unwrap().post(&recorded);
    assert_eq!(first.map(|it| it.status), Some(200), "it was a good PING");
    let count = scale.count(count);
    let mut statuses = BTreeMap::<Option<u16>, usize>::new();
    let mut kept: Vec<Kept> = Vec::new();
    let ((), rates) = network.during(|| {
        for round in 0..4 {
            let began = Instant::now();
            for number in 0..count {
                if round == 0 {
                    // Each says its PING before the next one comes.
                    kept.push(Kept::connect(STRANGER, target).unwrap());
                }
                let answered = kept[number].post(&recorded);
                *statuses.entry(answered.map(|it| it.status)).or_default() += 1;
            }
            let pause = scale.window.min(Duration::from_secs(20)) / 4;
            let_pass(pause.saturating_sub(began.elapsed()));
        }
    });
    let open = kept.iter_mut().filter_map(|it| it.is_open().then_some(())).count();
    format!("{open} of {count} connections stay; answers: {statuses:?}; {rates}")
}

/// A stranger says an UPDATE that it recorded, with a wish for a large state, in a loop.
pub fn replayed_wish(scale: &Scale) -> String {
    let network = Network::start(scale.tick, &[]);
    let den = Den::open("member", 1, Lie::None);
    let a = &network.hosts[A];
    let target = a.listen();
    a.fill(&large(LARGE_BYTES / scale.part, 'x'));
    assert_eq!(den.liar.lock().unwrap().greet(target), 1, "the member is let in");
    let recorded = wire::wish(den.liar.lock().unwrap().member(), "a");
    let first = Kept::connect(MEMBER, target).unwrap().post(&recorded);
    assert_eq!(first.map(|it| it.status), Some(200), "it was a good UPDATE");
    let (out, answers) = (AtomicU64::new(0), AtomicU64::new(0));
    let ask = || {
        let began = Instant::now();
        while began.elapsed() < scale.window {
            let Ok(mut kept) = Kept::connect(STRANGER, target) else { continue };
            while began.elapsed() < scale.window
                && let Some(answered) = kept.post(&recorded)
            {
                out.fetch_add(answered.bytes as u64, Ordering::Relaxed);
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let ask_all = || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(ask);
            }
        });
    };
    let ((), rates) = network.during(ask_all);
    let seconds = scale.window.as_secs_f64();
    let [out, answers] = [out, answers].map(|count| count.into_inner() as f64 / seconds);
    format!("out of a/s: {} in {} answers; {rates}", bytes(out), number(answers))
}

/// One UPDATE with many copies of one patch, over a state whose keys fall into one bucket.
pub fn costly_patches(scale: &Scale, keys: usize, copies: usize) -> String {
    let network = Network::start(scale.tick, &[]);
    let den = Den::open("patcher", 1, Lie::None);
    let a = &network.hosts[A];
    assert_eq!(den.liar.lock().unwrap().greet(a.listen()), 1, "the member is let in");
    let copies = scale.count(copies);
    let [whole, many] = wire::patches(den.liar.lock().unwrap().member(), scale.count(keys), copies);
    let mut kept = Kept::connect(MEMBER, a.listen()).unwrap();
    let first = kept.post(&whole);
    assert_eq!(first.map(|it| it.status), Some(204), "the state is taken");
    let_pass(scale.settle);
    let (cpu_s, rss_mb, began) =
        (stats::cpu_seconds(a.pid()), stats::rss_mb(a.pid()), Instant::now());
    let answered = kept.post(&many).map_or("no answer".into(), |it| it.status.to_string());
    let seconds = began.elapsed().as_secs_f64();
    let cpu_s = stats::cpu_seconds(a.pid()) - cpu_s;
    format!(
        "{copies} copies, {}: {answered} after {seconds:.2} s; CPU {cpu_s:.2} s; RSS {} MB, at most {}, {} after it",
        bytes(many.body.len() as f64),
        number(rss_mb),
        number(stats::peak_mb(a.pid())),
        number(stats::rss_mb(a.pid()))
    )
}

/// Eight connections send many versions of one id, the last one forged, again and again.
pub fn costly_records(scale: &Scale, versions: usize) -> String {
    let network = Network::start(scale.tick, &[]);
    let den = Den::open("forger", 1, Lie::None);
    let (a, b) = (&network.hosts[A], &network.hosts[B]);
    assert_eq!(den.liar.lock().unwrap().greet(a.listen()), 1, "the member is let in");
    let versions = Versions::new(den.liar.lock().unwrap().member(), scale.count(versions));
    let (said, began) = (AtomicU64::new(0), Instant::now());
    let say = || {
        while began.elapsed() < scale.window {
            let Ok(mut kept) = Kept::connect(MEMBER, a.listen()) else { continue };
            while began.elapsed() < scale.window {
                let update = versions.envelope(den.liar.lock().unwrap().member());
                if kept.post(&update).is_none() {
                    break;
                }
                said.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let pings = scale.count(20);
    let ping = || {
        let began = Instant::now();
        let code = b.process.ask(&["--timeout", "5s", "ping", "a"]).code;
        (code == 0).then(|| stats::ms(began.elapsed()))
    };
    let run_all = || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(say);
            }
            let every = scale.window / u32::try_from(pings).unwrap();
            let begin = |number| {
                let_pass((every * number).saturating_sub(began.elapsed()));
                scope.spawn(ping)
            };
            let threads: Vec<_> = (0..).map(begin).take(pings).collect();
            threads.into_iter().filter_map(|it| it.join().unwrap()).collect::<Vec<f64>>()
        })
    };
    let (answered, rates) = network.during(run_all);
    let said = said.into_inner();
    assert!(said > 0, "an UPDATE was answered");
    let slowest = answered.iter().copied().fold(0.0, f64::max);
    format!(
        "{} of {pings} honest pings answered, the slowest after {} ms; {said} UPDATEs; {rates}",
        answered.len(),
        number(slowest)
    )
}
