//! What is said on the local network and when, and what is made of what is heard there: pure. It
//! keeps nothing of what others say but a count, so nobody can fill its memory.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::dns::{Data, Message, Name, Question, Record, kind};
use super::links::{Place, is_callable};
use crate::protocol::address::Address;
use crate::protocol::crypto::{Announced, LABEL_BYTES, MARK_BYTES, NetworkKeys};
use crate::protocol::identity::{hex, unhex};

/// How long others may believe what is announced, s (RFC 6762, section 10: records with the name
/// of a host).
const TTL_S: u32 = 120;
/// How long a name is used, ms: so long a listener can follow a host by it.
const NAME_MS: std::ops::Range<u64> = 10 * 60 * 1000..20 * 60 * 1000;
/// How often a new name is announced, a second after each other (RFC 6762, section 8.3).
const ANNOUNCEMENTS: u8 = 2;
/// Shortest time between two announcements on one link, and between first questions, ms (RFC 6762,
/// sections 5.2 and 6).
const SECOND_MS: u64 = 1000;
/// How long the first word waits, ms, as all hosts of a room may have got power at once.
const FIRST_MS: std::ops::Range<u64> = 20..120;
/// In how many steps the time between questions doubles, from a second.
const EAGER_STEPS: u32 = 6;
/// How long all nodes together wait from one question to the next, ms: each waits so many times
/// longer as there are. A network that fell apart is whole again about so much after its links.
const ASK_MS: u64 = 30_000;
/// Longest time between two questions of one node, ms (RFC 6762, section 5.2).
const ASK_MAX_MS: u64 = 60 * 60 * 1000;
/// So many members that answer a question are enough for whoever asks: all others are heard of from
/// them. Who waits longer to answer says nothing then.
const ENOUGH: u32 = 8;
/// Who answers waits for a time that chance chooses, up to this, ms (RFC 6762, section 6), …
const ANSWER_MS: std::ops::Range<u64> = 20..120;
/// … and for each peer so much longer, …
const ANSWER_EACH_MS: u64 = 4;
/// … up to this: else a thousand would have answered before the eighth was heard.
const ANSWER_MAX_MS: u64 = 3000;
/// Most services of one message of which it is looked whether they are members. Each is a hash or
/// two.
const SERVICES_MAX: usize = 16;
/// Most messages that are read within a second, of all links. The rest is dropped by the kernel.
pub(crate) const MESSAGES_MAX: u32 = 256;
/// Most addresses that are passed on within a second.
const FOUND_MAX: u32 = 32;

/// What is to be sent, on which link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sending {
    /// The number of the link.
    pub(crate) link: u32,
    /// By IPv4 or by IPv6 alone; nothing means by both, where there are both.
    pub(crate) by: Option<Family>,
    /// The message.
    pub(crate) bytes: Vec<u8>,
}

/// Over which group it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Random bytes; nothing where the system has none at the moment.
pub(crate) type Random<'a> = &'a mut dyn FnMut() -> Option<[u8; LABEL_BYTES]>;

/// What is said on one link.
#[derive(Debug)]
struct Line {
    place: Place,
    label: [u8; LABEL_BYTES],
    /// The one of before: an echo of it may be under way.
    last_label: Option<[u8; LABEL_BYTES]>,
    /// A name that has to be taken back.
    farewell: Option<[u8; LABEL_BYTES]>,
    /// How many announcements are left, and when the next one is due, ms.
    left: u8,
    announce_at: u64,
    /// When it gets another name, ms.
    rename_at: u64,
    /// When somebody is answered, ms, and whether no other answer will do.
    answer: Option<(u64, bool)>,
    said_at: Option<u64>,
    /// How many other members were heard since somebody asked.
    heard: u32,
}

/// All that is said and heard.
#[derive(Debug)]
pub(crate) struct Plan {
    port: u16,
    service: Name,
    all_services: Name,
    lines: Vec<Line>,
    ask_at: u64,
    asked: u32,
    /// What is left of this second: messages and addresses.
    budget: (u32, u32),
    second: u64,
}

/// What is of use of the state of the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now<'a> {
    /// The time, ms.
    pub(crate) ms: u64,
    /// How many peers are alive.
    pub(crate) peers: usize,
    /// The network keys.
    pub(crate) keys: &'a NetworkKeys,
}

fn within(range: &std::ops::Range<u64>, random: Random<'_>) -> u64 {
    let bytes = random().unwrap_or_default();
    let number = bytes.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    range.start + number % (range.end - range.start).max(1)
}

impl Plan {
    pub(crate) fn new(port: u16) -> Self {
        Self {
            port,
            service: Name::new(["_dsn", "_tcp", "local"]),
            all_services: Name::new(["_services", "_dns-sd", "_udp", "local"]),
            lines: Vec::new(),
            ask_at: u64::MAX,
            asked: 0,
            budget: (MESSAGES_MAX, FOUND_MAX),
            second: 0,
        }
    }

    /// Takes the links that there are now. Whatever is new on one is announced, and asked for.
    pub(crate) fn set_places(&mut self, places: &[Place], now_ms: u64, random: Random<'_>) {
        let mut old = std::mem::take(&mut self.lines);
        for place in places {
            let known = old.iter().position(|line| line.place.link == place.link);
            let line = known.map(|at| old.swap_remove(at));
            match line {
                Some(line) if line.place.ip == place.ip => {
                    self.lines.push(Line { place: place.clone(), ..line });
                }
                line => {
                    // A name that went along to another address would tell who moved.
                    let Some(label) = random() else { continue };
                    let first = now_ms + within(&FIRST_MS, random);
                    self.lines.push(Line {
                        place: place.clone(),
                        label,
                        last_label: line.as_ref().map(|line| line.label),
                        farewell: line.map(|line| line.label),
                        left: ANNOUNCEMENTS,
                        announce_at: first,
                        rename_at: now_ms + within(&NAME_MS, random),
                        answer: None,
                        said_at: None,
                        heard: 0,
                    });
                    (self.asked, self.ask_at) = (0, first);
                }
            }
        }
    }

    /// When there is something to do next, ms.
    pub(crate) fn wake_at(&self) -> u64 {
        if self.lines.is_empty() {
            return u64::MAX;
        }
        let times = self.lines.iter().flat_map(|line| {
            let announces = (line.left > 0).then_some(line.announce_at);
            let answers = line.answer.map(|(at, _)| at);
            [Some(line.rename_at), announces, answers].into_iter().flatten()
        });
        times.fold(self.ask_at, u64::min)
    }

    /// Does what is due.
    pub(crate) fn due(&mut self, now: Now<'_>, random: Random<'_>) -> Vec<Sending> {
        let mut sendings = Vec::new();
        for at in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(at) else { break };
            line.rename(now.ms, random);
            line.settle_answer(now.ms);
            let announces = line.left > 0 && now.ms >= line.announce_at;
            let answers = line.answer.is_some_and(|(at, _)| now.ms >= at);
            let farewell = line.farewell.take();
            if announces {
                line.left -= 1;
                line.announce_at = now.ms + SECOND_MS;
            }
            if announces || answers {
                (line.answer, line.said_at) = (None, Some(now.ms));
            }
            let Some(line) = self.lines.get(at) else { break };
            let gone = farewell.and_then(|label| self.words(line, label, 0, now.keys));
            let said = (announces || answers)
                .then(|| self.words(line, line.label, TTL_S, now.keys))
                .flatten();
            let by = Some(Family::of(line.place.ip));
            let link = line.place.link;
            sendings.extend(gone.into_iter().chain(said).map(|bytes| Sending { link, by, bytes }));
        }
        if now.ms >= self.ask_at && !self.lines.is_empty() {
            self.ask_at = now.ms + self.until_asked_again(now.peers, random);
            self.asked = self.asked.saturating_add(1);
            let question = Question { name: self.service.clone(), kind: kind::PTR };
            let bytes = Message { questions: vec![question], ..Message::default() }.write();
            sendings.extend(self.lines.iter().map(|line| {
                let (link, bytes) = (line.place.link, bytes.clone());
                Sending { link, by: None, bytes }
            }));
        }
        sendings
    }

    /// First often, as those who are there may not have heard it; then all nodes together now and
    /// then, so that it makes no difference how many there are.
    fn until_asked_again(&self, peers: usize, random: Random<'_>) -> u64 {
        if self.asked < EAGER_STEPS && peers == 0 {
            return SECOND_MS << self.asked;
        }
        let nodes = u64::try_from(peers).unwrap_or(u64::MAX).saturating_add(1);
        let all = ASK_MS.saturating_mul(nodes).min(ASK_MAX_MS);
        within(&(all / 2..all + all / 2), random).min(ASK_MAX_MS)
    }

    /// Takes back all that is announced: the node ends.
    pub(crate) fn farewell(&self, keys: &NetworkKeys) -> Vec<Sending> {
        let words = |line: &Line| {
            let (link, by) = (line.place.link, Some(Family::of(line.place.ip)));
            Some(Sending { link, by, bytes: self.words(line, line.label, 0, keys)? })
        };
        self.lines.iter().filter_map(words).collect()
    }

    /// All records of a name on a link.
    fn words(
        &self,
        line: &Line,
        label: [u8; LABEL_BYTES],
        ttl: u32,
        keys: &NetworkKeys,
    ) -> Option<Vec<u8>> {
        let ip = line.place.ip;
        let mark = Announced { label, ip, port: self.port }.mark(keys)?;
        let text = hex(&label);
        let instance = Name::new([text.as_str(), "_dsn", "_tcp", "local"]);
        // A name of its own, as that of the host would tell more than is asked.
        let host = Name::new([text.as_str(), "local"]);
        let mark = format!("t={}", hex(&mark));
        let mut texts = vec![u8::try_from(mark.len()).ok()?];
        texts.extend_from_slice(mark.as_bytes());
        let record = |name: &Name, data| Record { name: name.clone(), ttl, data };
        let mut records = vec![
            record(&self.service, Data::Ptr(instance.clone())),
            record(&instance, Data::Srv(self.port, host.clone())),
            record(&instance, Data::Txt(texts)),
            record(&host, Data::Ip(ip)),
        ];
        if ttl > 0 {
            records.push(record(&self.all_services, Data::Ptr(self.service.clone())));
        }
        Some(Message { is_answer: true, questions: Vec::new(), records }.write())
    }

    /// Whether another message may be read in this second.
    pub(crate) fn may_read(&mut self, now_ms: u64) -> bool {
        if now_ms / SECOND_MS != self.second {
            self.second = now_ms / SECOND_MS;
            self.budget = (MESSAGES_MAX, FOUND_MAX);
        }
        self.budget.0 > 0
    }

    /// Somebody said something on a link. Gives where members are that were not known to be this
    /// node.
    pub(crate) fn hear(
        &mut self,
        link: u32,
        bytes: &[u8],
        now: Now<'_>,
        random: Random<'_>,
    ) -> Vec<Address> {
        self.budget.0 = self.budget.0.saturating_sub(1);
        match Message::read(bytes) {
            Some(message) if message.is_answer => self.learn(link, &message, now),
            Some(message) => {
                self.note_question(link, &message, now, random);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn learn(&mut self, link: u32, message: &Message, now: Now<'_>) -> Vec<Address> {
        let mut found = Vec::new();
        for announced in self.members(message, now.keys) {
            let place = SocketAddr::new(announced.ip, announced.port);
            if self.lines.iter().any(|line| line.is(&announced, self.port)) {
                continue;
            }
            if let Some(line) = self.lines.iter_mut().find(|line| line.place.link == link) {
                line.heard = line.heard.saturating_add(1);
            }
            let place = match place {
                SocketAddr::V6(it) if it.ip().is_unicast_link_local() => {
                    SocketAddrV6::new(*it.ip(), it.port(), 0, link).into()
                }
                other => other,
            };
            if self.budget.1 > 0 {
                self.budget.1 -= 1;
                found.push(Address::of_caller(place, place.port()));
            }
        }
        found
    }

    /// The services of a message that holders of the network key announced for just the place that
    /// they are at. All that belongs to one has to stand in one message.
    fn members(&self, message: &Message, keys: &NetworkKeys) -> Vec<Announced> {
        let services = message.records.iter().filter(|it| it.ttl > 0).filter_map(|record| {
            let Data::Srv(port, host) = &record.data else { return None };
            let label = record.name.label_before(&self.service)?;
            let label = unhex(std::str::from_utf8(label).ok()?)?;
            Some((&record.name, label.try_into().ok()?, *port, host))
        });
        let find = |(name, label, port, host): (&Name, _, u16, &Name)| {
            let mark = message.of(name).find_map(|record| mark_of(&record.data))?;
            let ips = message.of(host).filter_map(|record| match record.data {
                Data::Ip(ip) if is_callable(ip) && port > 0 => Some(ip),
                _ => None,
            });
            // A host may have several addresses; the mark is good for one.
            let mut places = ips.take(4).map(|ip| Announced { label, ip, port });
            places.find(|place| place.is_marked(keys, &mark))
        };
        services.take(SERVICES_MAX).filter_map(find).collect()
    }

    /// Somebody asks: for all nodes, or for one of our names.
    fn note_question(&mut self, link: u32, message: &Message, now: Now<'_>, random: Random<'_>) {
        let Some(line) = self.lines.iter_mut().find(|line| line.place.link == link) else { return };
        let text = hex(&line.label);
        let instance = Name::new([text.as_str(), "_dsn", "_tcp", "local"]);
        let host = Name::new([text.as_str(), "local"]);
        let asks = |name: &Name, kinds: &[u16]| {
            let is = |question: &Question| {
                question.name == *name
                    && (question.kind == kind::ANY || kinds.contains(&question.kind))
            };
            message.questions.iter().any(is)
        };
        let is_for_all =
            asks(&self.service, &[kind::PTR]) || asks(&self.all_services, &[kind::PTR]);
        let is_for_us =
            asks(&instance, &[kind::SRV, kind::TXT]) || asks(&host, &[kind::A, kind::AAAA]);
        let knows = |record: &Record| {
            record.ttl >= TTL_S / 2 && matches!(&record.data, Data::Ptr(name) if *name == instance)
        };
        // RFC 6762, section 7.1.
        let is_known = message.records.iter().any(knows);
        if !is_for_us && (!is_for_all || is_known) {
            return;
        }
        let peers = u64::try_from(now.peers).unwrap_or(u64::MAX);
        let longest = ANSWER_MS.end + peers.saturating_mul(ANSWER_EACH_MS).min(ANSWER_MAX_MS);
        let longest = if is_for_us { ANSWER_MS.end } else { longest };
        let soonest = line.said_at.map_or(0, |at| at + SECOND_MS);
        let at = (now.ms + within(&(ANSWER_MS.start..longest), random)).max(soonest);
        line.answer = match line.answer {
            Some((other, must)) => Some((other.min(at), must || is_for_us)),
            None => {
                line.heard = 0;
                Some((at, is_for_us))
            }
        };
    }
}

/// The mark in the texts of a record, `t=` and 32 hex digits (RFC 6763, section 6.4: case of the
/// name makes no difference).
fn mark_of(data: &Data) -> Option<[u8; MARK_BYTES]> {
    let Data::Txt(texts) = data else { return None };
    let mut rest = texts.as_slice();
    while let Some((length, after)) = rest.split_first() {
        let (text, next) = after.split_at_checked(usize::from(*length))?;
        if let Some(mark) = text.strip_prefix(b"t=").or(text.strip_prefix(b"T=")) {
            return unhex(std::str::from_utf8(mark).ok()?)?.try_into().ok();
        }
        rest = next;
    }
    None
}

impl Line {
    /// Whether it is this node that announced that.
    fn is(&self, announced: &Announced, port: u16) -> bool {
        self.label == announced.label
            || self.last_label == Some(announced.label)
            || self.place.ip == announced.ip && port == announced.port
    }

    /// Takes another name where it is time.
    fn rename(&mut self, now_ms: u64, random: Random<'_>) {
        if now_ms < self.rename_at {
            return;
        }
        self.rename_at = now_ms + within(&NAME_MS, random);
        // Where there is no randomness the old name has to do.
        let Some(label) = random() else { return };
        let old = std::mem::replace(&mut self.label, label);
        (self.last_label, self.farewell) = (Some(old), Some(old));
        (self.left, self.announce_at) = (ANNOUNCEMENTS, now_ms);
    }

    /// Where enough others have answered, this one says nothing.
    fn settle_answer(&mut self, now_ms: u64) {
        self.answer.take_if(|(at, must)| now_ms >= *at && !*must && self.heard >= ENOUGH);
    }
}

/// For the fuzzer: takes the bytes as what somebody says, to a node that has just begun.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let key = zeroize::Zeroizing::new([7; 32]);
    let Some(keys) = NetworkKeys::new(&[key]) else { return };
    let ip = IpAddr::from([10, 0, 0, 1]);
    let place = Place { link: 1, name: "eth0".into(), ip, v4: None, v6: false };
    let mut number = 0;
    let mut random = || {
        number += 1;
        Some([number; LABEL_BYTES])
    };
    let mut plan = Plan::new(8000);
    plan.set_places(&[place], 0, &mut random);
    let now = Now { ms: 1, peers: 0, keys: &keys };
    let found = plan.hear(1, bytes, now, &mut random);
    // Nobody but a holder of the key can make a mark, and the fuzzer is none.
    assert!(found.is_empty(), "{found:?}");
    let _ = plan.due(Now { ms: 2_000, ..now }, &mut random);
}

#[cfg(test)]
mod tests;
