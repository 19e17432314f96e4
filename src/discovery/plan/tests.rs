//! What is said and heard, in a time of its own.

mod strangers;

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::super::heard::SECOND_MS;
use super::*;
use crate::protocol::report::Heard;

fn keys(number: u8) -> NetworkKeys {
    NetworkKeys::new(&[Zeroizing::new([number; 32])]).unwrap()
}

fn place(link: u32, ip: &str) -> Place {
    let name = format!("eth{link}").into();
    Place { link, name, ip: ip.parse().unwrap(), v4: None, v6: false }
}

/// A node on the local network, its clock and its chance.
struct Host {
    plan: Plan,
    random: fastrand::Rng,
    keys: NetworkKeys,
    peers: usize,
}

impl Host {
    fn new(number: u8, key: u8) -> Self {
        Self::at(u64::from(number), key, &format!("10.0.0.{number}"))
    }

    fn at(seed: u64, key: u8, ip: &str) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let mut host = Self { plan: Plan::new(8000), random, keys: keys(key), peers: 0 };
        host.set_places(&[place(1, ip)], 0);
        host
    }

    fn set_places(&mut self, places: &[Place], ms: u64) {
        let (random, now) = (&mut self.random, Now { ms, peers: self.peers, keys: &self.keys });
        self.plan.set_places(places, now, &mut || Some(random.u128(..).to_le_bytes()));
    }

    fn due(&mut self, ms: u64) -> Vec<Sending> {
        let (random, now) = (&mut self.random, Now { ms, peers: self.peers, keys: &self.keys });
        self.plan.due(now, &mut || Some(random.u128(..).to_le_bytes()))
    }

    fn hear(&mut self, bytes: &[u8], ms: u64) -> Vec<String> {
        self.hear_on(1, bytes, ms)
    }

    /// Nodes say what they say from where they are.
    fn hear_on(&mut self, link: u32, bytes: &[u8], ms: u64) -> Vec<String> {
        let ips = Message::read(bytes).into_iter().flat_map(|message| message.records);
        let ip = ips.rev().find_map(|record| match record.data {
            Data::Ip(ip) => Some(ip),
            _ => None,
        });
        let from = ip.unwrap_or([10, 0, 0, 250].into());
        self.hear_from(Said { link, from, bytes }, ms)
    }

    fn hear_from(&mut self, said: Said<'_>, ms: u64) -> Vec<String> {
        assert!(self.may_read(said.link, ms), "there is a budget");
        let (random, now) = (&mut self.random, Now { ms, peers: self.peers, keys: &self.keys });
        let found = self.plan.hear(said, now, &mut || Some(random.u128(..).to_le_bytes()));
        found.iter().map(Address::to_string).collect()
    }

    fn may_read(&mut self, link: u32, ms: u64) -> bool {
        self.plan.reads_at(link, ms).is_some_and(|at| at <= ms)
    }

    fn heard(&self) -> Heard {
        self.plan.interfaces()[0].heard
    }

    fn wake_at(&self) -> u64 {
        self.plan.wake_at(self.peers)
    }

    /// What it says up to a moment, and when.
    fn until(&mut self, ms: u64) -> Vec<(u64, Message)> {
        let mut said = Vec::new();
        while self.wake_at() <= ms {
            let at = self.wake_at();
            let sendings = self.due(at);
            said.extend(sendings.iter().map(|it| (at, Message::read(&it.bytes).unwrap())));
        }
        said
    }

    /// The first announcement.
    fn word(&mut self) -> Message {
        let said = self.until(200);
        said.into_iter().find(|(_, message)| message.is_answer).unwrap().1
    }
}

fn question() -> Vec<u8> {
    let name = Name::new(["_dsn", "_tcp", "local"]);
    Message { questions: vec![Question { name, kind: kind::PTR }], ..Message::default() }.write()
}

fn label_of(message: &Message) -> &Name {
    message
        .records
        .iter()
        .find_map(|record| match &record.data {
            Data::Srv(..) => Some(&record.name),
            _ => None,
        })
        .unwrap()
}

#[test]
fn holders_of_one_key_find_each_other_and_nobody_else() {
    let (mut a, mut b, mut other) = (Host::new(1, 1), Host::new(2, 1), Host::new(3, 9));
    let word = a.word().write();
    assert_eq!(b.hear(&word, 300), ["10.0.0.1:8000"]);
    assert!(other.hear(&word, 300).is_empty(), "another key");
    assert!(a.hear(&word, 300).is_empty(), "it hears itself");
    let both = [1, 9].map(|key| Zeroizing::new([key; 32]));
    other.keys = NetworkKeys::new(&[both[1].clone(), both[0].clone()]).unwrap();
    assert_eq!(other.hear(&word, 300), ["10.0.0.1:8000"], "keys that only open count, too");
}

#[test]
fn a_link_local_address_has_the_zone_of_the_link_that_it_was_heard_on() {
    let mut a = Host::at(1, 1, "fe80::1");
    let word = a.word().write();
    let mut b = Host::new(2, 1);
    b.set_places(&[place(1, "10.0.0.2"), place(7, "10.1.0.2")], 0);
    assert_eq!(b.hear_on(7, &word, 300), ["[fe80::1%7]:8000"]);
}

/// Whoever repeats what a member said can't have anybody call another place.
#[test]
fn a_mark_is_good_for_one_place_and_one_name() {
    let word = Host::new(1, 1).word();
    let (mut b, mut ms) = (Host::new(2, 1), 300);
    let mut changed = |change: &dyn Fn(&mut Record)| {
        let mut message = word.clone();
        message.records.iter_mut().for_each(change);
        ms += SECOND_MS;
        b.hear(&message.write(), ms)
    };
    for _ in 0..2 {
        assert_eq!(changed(&|_| {}), ["10.0.0.1:8000"], "the same again is a hint again");
    }
    let ips = ["10.0.0.66", "0.0.0.0", "127.0.0.1", "224.0.0.251", "255.255.255.255", "::1"];
    for ip in ips {
        let moved = |record: &mut Record| {
            if let Data::Ip(at) = &mut record.data {
                *at = ip.parse().unwrap();
            }
        };
        assert!(changed(&moved).is_empty(), "{ip}");
    }
    for port in [0, 80] {
        let moved = |record: &mut Record| {
            if let Data::Srv(at, _) = &mut record.data {
                *at = port;
            }
        };
        assert!(changed(&moved).is_empty(), "{port}");
    }
    let renamed = |record: &mut Record| {
        if matches!(record.data, Data::Srv(..) | Data::Txt(_)) {
            record.name = Name::new(["00".repeat(16).as_str(), "_dsn", "_tcp", "local"]);
        }
    };
    assert!(changed(&renamed).is_empty());
    assert!(changed(&|record| record.ttl = 0).is_empty(), "it was taken back");
}

/// Whatever one byte is changed to: who is found is where the mark says, or nobody is.
#[test]
fn no_wrong_byte_leads_elsewhere() {
    let word = Host::new(1, 1).word().write();
    let mut b = Host::new(2, 1);
    for at in 0..word.len() {
        for bit in 0..8 {
            let mut bytes = word.clone();
            bytes[at] ^= 1 << bit;
            let found = b.hear(&bytes, (at as u64) * 10_000);
            assert!(found.is_empty() || found == ["10.0.0.1:8000"], "{at} {bit}: {found:?}");
            b.hear(&word[..at], (at as u64) * 10_000);
        }
    }
}

#[test]
fn wrong_texts_lead_nowhere() {
    let word = Host::new(1, 1).word();
    let mut b = Host::new(2, 1);
    let mut with = |texts: &[u8]| {
        let mut message = word.clone();
        for record in &mut message.records {
            if let Data::Txt(text) = &mut record.data {
                *text = texts.to_vec();
            }
        }
        b.hear(&message.write(), 300)
    };
    let long = [vec![34], b"t=".to_vec(), vec![b'f'; 32]].concat();
    for texts in [
        &b""[..],
        b"\0",
        b"\x02t=",
        b"\x03t=g",
        b"\xffshort",
        b"\x04t=00",
        b"\x05other",
        &long,
        &[vec![36], b"t=".to_vec(), vec![b'0'; 34]].concat(),
    ] {
        assert!(with(texts).is_empty(), "{texts:?}");
    }
}

#[test]
fn it_tells_no_more_than_it_has_to() {
    let word = Host::new(1, 1).word();
    let kinds: Vec<&str> = word
        .records
        .iter()
        .map(|record| match &record.data {
            Data::Ptr(_) => "ptr",
            Data::Srv(..) => "srv",
            Data::Txt(text) if text.len() == 35 => "mark",
            Data::Txt(_) => "text",
            Data::Ip(_) => "ip",
        })
        .collect();
    assert_eq!(kinds, ["ptr", "srv", "mark", "ip", "ptr"]);
}

/// Neither two nodes of one network nor one node over time have anything in common.
#[test]
fn names_and_marks_are_like_no_other() {
    let mut seen = BTreeSet::new();
    for number in 1..4 {
        for (_, message) in Host::new(number, 1).until(3 * NAME_MS.end) {
            for record in message.records.iter().filter(|record| record.ttl > 0) {
                if let Data::Txt(text) = &record.data {
                    seen.insert((format!("{:?}", label_of(&message)), text.clone()));
                }
            }
        }
    }
    let names: BTreeSet<_> = seen.iter().map(|(name, _)| name).collect();
    let marks: BTreeSet<_> = seen.iter().map(|(_, mark)| mark).collect();
    assert!(seen.len() >= 9, "each had three names: {}", seen.len());
    assert_eq!((names.len(), marks.len()), (seen.len(), seen.len()));
}

#[test]
fn a_name_is_taken_back_when_it_goes() {
    let mut a = Host::new(1, 1);
    let first = a.word();
    let said = a.until(NAME_MS.end);
    let gone: Vec<_> = said
        .iter()
        .filter(|(_, message)| message.records.iter().any(|record| record.ttl == 0))
        .collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(label_of(&gone[0].1), label_of(&first));
    assert!(gone[0].0 >= NAME_MS.start);
    assert!(a.hear(&first.write(), NAME_MS.end).is_empty(), "its own name of before");
    let farewell = a.plan.farewell();
    let farewell = Message::read(&farewell[0].bytes).unwrap();
    assert!(farewell.records.iter().all(|record| record.ttl == 0));
    assert_ne!(label_of(&farewell), label_of(&first));
}

#[test]
fn another_address_is_another_name() {
    let mut a = Host::new(1, 1);
    let first = a.word();
    a.until(4_000);
    a.set_places(&[place(1, "10.0.0.1")], 5_000);
    assert_eq!(a.plan.farewell().len(), 1);
    assert!(a.until(5_500).iter().all(|(_, it)| !it.is_answer), "nothing is new there");
    a.set_places(&[place(1, "10.0.0.9"), place(2, "10.1.0.1")], 6_000);
    let said = a.until(6_200);
    let answers = said.iter().filter(|(_, it)| it.is_answer).count();
    assert_eq!(answers, 2, "each link has a new one, and nobody hears the old one: {said:?}");
    assert!(said.iter().all(|(_, it)| !it.is_answer || label_of(it) != label_of(&first)));
    assert!(a.hear(&first.write(), 6_200).is_empty(), "an echo of before is its own");
    a.set_places(&[], 7_000);
    assert_eq!(a.wake_at(), u64::MAX, "nothing to do without links");
    assert!(a.due(8_000).is_empty());
}

#[test]
fn whoever_asks_is_answered_once_a_second_at_most() {
    let mut a = Host::new(1, 1);
    a.until(5_000);
    let mut answers = 0;
    for ms in (5_000..15_000).step_by(10) {
        a.hear(&question(), ms);
        answers +=
            a.due(ms).iter().filter(|it| Message::read(&it.bytes).unwrap().is_answer).count();
    }
    assert!((8..=11).contains(&answers), "{answers}");
}

#[test]
fn whoever_knows_the_answer_gets_none() {
    let mut a = Host::new(1, 1);
    a.peers = 1_000;
    let word = a.word();
    a.until(5_000);
    let mut asks = Message::read(&question()).unwrap();
    asks.records = word.records.into_iter().take(1).collect();
    a.hear(&asks.write(), 5_000);
    let answers = |said: Vec<(u64, Message)>| said.iter().filter(|(_, it)| it.is_answer).count();
    assert_eq!(answers(a.until(8_000)), 0);
    asks.records[0].ttl = 10;
    a.hear(&asks.write(), 8_000);
    assert_eq!(answers(a.until(12_000)), 1, "it will not know it for long");
}

#[test]
fn all_kinds_of_questions_for_it_are_answered() {
    let mut a = Host::new(1, 1);
    // It asks nobody meanwhile.
    a.peers = 200;
    let word = a.word();
    let instance = label_of(&word).clone();
    let Data::Srv(_, host) = word.records[1].data.clone() else { panic!("it is the second") };
    let all = Name::new(["_services", "_dns-sd", "_udp", "local"]);
    let service = Name::new(["_dsn", "_tcp", "local"]);
    let mut ms = 5_000;
    for (name, kind, is_answered) in [
        (&service, kind::PTR, true),
        (&service, kind::ANY, true),
        (&service, kind::SRV, false),
        (&all, kind::PTR, true),
        (&instance, kind::SRV, true),
        (&instance, kind::TXT, true),
        (&host, kind::A, true),
        (&host, kind::AAAA, true),
        (&Name::new(["_http", "_tcp", "local"]), kind::PTR, false),
    ] {
        a.until(ms);
        let question = Question { name: name.clone(), kind };
        let asks = Message { questions: vec![question], ..Message::default() };
        a.hear(&asks.write(), ms);
        let said = a.until(ms + 2_000);
        assert_eq!(said.iter().any(|(_, it)| it.is_answer), is_answered, "{name:?} {kind}");
        ms += 5_000;
    }
}

/// How long it takes until it asks again, ms.
fn asks_within(host: &mut Host, from: u64) -> u64 {
    host.due(from);
    let mut said = Vec::new();
    let mut end = from;
    while said.is_empty() {
        end += 100;
        said = host.until(end);
        said.retain(|(_, it)| !it.is_answer);
    }
    said[0].0 - from
}

#[test]
fn who_has_lost_all_others_asks_for_them_soon() {
    let mut a = Host::new(1, 1);
    a.peers = 999;
    a.until(10_000);
    a.peers = 0;
    assert!(asks_within(&mut a, 20_000) < SECOND_MS);
    let next = asks_within(&mut a, 20_200);
    assert!(next <= SECOND_MS, "it hopes as one that has just begun: {next}");
    // Fewer are left: they wait as long as so few do.
    let mut a = Host::new(1, 1);
    a.peers = 999;
    a.until(10_000);
    a.peers = 1;
    assert!(asks_within(&mut a, 20_000) < 90_000);
    // One that comes and goes makes no flood.
    let (mut a, mut questions) = (Host::new(1, 1), 0);
    for ms in (5_000..65_000).step_by(50) {
        a.peers = (ms / 50 % 2) as usize;
        questions += a.due(ms).iter().filter(|it| it.by.is_none()).count();
    }
    assert!(questions <= 61, "{questions}");
}

/// All change their key at once, and nothing tells who they are.
#[test]
fn another_network_key_shows_with_the_next_name() {
    let mut a = Host::new(1, 1);
    let mut marks = std::collections::BTreeMap::new();
    let mut said = a.until(5_000);
    let [old, new] = [1, 5].map(|key| Zeroizing::new([key; 32]));
    a.keys = NetworkKeys::new(&[new, old]).unwrap();
    a.hear(&question(), 6_000);
    said.extend(a.until(6_500));
    let early = said.len();
    said.extend(a.until(2 * NAME_MS.end));
    let mut reader = Host::new(2, 5);
    for (at, message) in said.iter().filter(|(_, it)| it.is_answer) {
        let mark = message.records.iter().find(|it| matches!(it.data, Data::Txt(_))).unwrap();
        let mark = format!("{:?}", mark.data);
        let first = marks.entry(format!("{:?}", label_of(message))).or_insert(mark.clone());
        assert_eq!(*first, mark, "{at}: one name has one mark, also where it is taken back");
    }
    assert!(said[..early].iter().all(|(at, it)| reader.hear(&it.write(), *at).is_empty()));
    let (at, last) = said.iter().rfind(|(_, it)| it.is_answer && it.records[0].ttl > 0).unwrap();
    assert_eq!(reader.hear(&last.write(), *at), ["10.0.0.1:8000"]);
}

#[test]
fn without_randomness_nothing_is_announced_and_nothing_breaks() {
    let mut a = Host::new(1, 1);
    a.plan = Plan::new(8000);
    let now = Now { ms: 0, peers: 0, keys: &a.keys };
    a.plan.set_places(&[place(1, "10.0.0.1")], now, &mut || None);
    assert_eq!(a.wake_at(), u64::MAX);
    let mut a = Host::new(1, 1);
    let now = Now { ms: NAME_MS.end, peers: 0, keys: &a.keys };
    assert!(!a.plan.due(now, &mut || None).is_empty());
}

/// All nodes hear all others. Gives how many messages one second has, on average of so many minutes
/// that begin when all have been there for a while, and the most within one.
fn busy(nodes: usize, minutes: u64) -> (f64, usize) {
    let host = |number: usize| {
        let ip = format!("10.0.{}.{}", number / 250, number % 250 + 1);
        Host { peers: nodes - 1, ..Host::at(number as u64, 1, &ip) }
    };
    let mut hosts: Vec<Host> = (0..nodes).map(host).collect();
    let (begin, end) = (NAME_MS.end, NAME_MS.end + minutes * 60_000);
    let mut seconds = std::collections::BTreeMap::<u64, usize>::new();
    let mut times: BTreeSet<(u64, usize)> =
        hosts.iter().enumerate().map(|(at, host)| (host.wake_at(), at)).collect();
    while let Some((ms, from)) = times.pop_first() {
        if ms >= end {
            break;
        }
        for sending in hosts[from].due(ms) {
            if ms >= begin {
                *seconds.entry(ms / 1000).or_default() += 1;
            }
            for (at, host) in hosts.iter_mut().enumerate().filter(|(at, _)| *at != from) {
                times.remove(&(host.wake_at(), at));
                if host.may_read(1, ms) {
                    host.hear(&sending.bytes, ms);
                }
                times.insert((host.wake_at(), at));
            }
        }
        times.insert((hosts[from].wake_at(), from));
    }
    let all: usize = seconds.values().sum();
    (all as f64 / (minutes * 60) as f64, seconds.into_values().max().unwrap_or(0))
}

#[test]
fn many_nodes_say_little_more_than_few() {
    let few = busy(4, 60);
    let many = busy(60, 60);
    println!("messages a second, average and most: of 4 nodes {few:?}, of 60 {many:?}");
    assert!(few.0 < 0.5 && many.0 < 1.0, "{few:?} {many:?}");
    assert!(many.1 <= 60, "{many:?}");
}

/// The figure of docs/discovery.md; it takes minutes.
#[test]
#[ignore = "a figure, not a test"]
fn a_thousand_nodes() {
    println!("messages a second of 1 000 nodes, average and most: {:?}", busy(1_000, 10));
}

/// docs/protocol.md is the reference for other implementations: its example is these bytes.
#[test]
fn an_announcement_has_the_bytes_that_are_documented() {
    let key = Zeroizing::new(std::array::from_fn(|at| u8::try_from(at).unwrap()));
    let keys = NetworkKeys::new(&[key]).unwrap();
    let label = std::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap());
    let mut plan = Plan::new(8000);
    let now = Now { ms: 0, peers: 0, keys: &keys };
    plan.set_places(&[place(1, "10.0.0.2")], now, &mut || Some(label));
    let now = Now { ms: 1_000, ..now };
    let said = plan.due(now, &mut || Some(label));
    let bytes = hex(&said[0].bytes);
    let document: String = include_str!("../../../docs/protocol.md").split_whitespace().collect();
    assert!(document.contains(&bytes), "{bytes}");
    assert!(document.contains(&hex(&said[1].bytes)), "{}", hex(&said[1].bytes));
}
