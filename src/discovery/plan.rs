//! What is said on the local network and when, and what is made of what is heard there: pure. Of
//! what others say it keeps a few places for a second, so nobody can fill its memory.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use super::dns::{Data, Message, Name, Question, Record, kind};
use super::heard::{Intake, SECOND_MS, Said, sender, services};
use super::links::Place;
use crate::protocol::address::Address;
use crate::protocol::crypto::{Announced, LABEL_BYTES, MARK_BYTES, NetworkKeys};
use crate::protocol::identity::hex;
use crate::protocol::report::Interface;

/// How long others may believe what is announced, s (RFC 6762, section 10: records with the name
/// of a host).
const TTL_S: u32 = 120;
/// How long a name is used, ms: so long a listener can follow a host by it.
const NAME_MS: std::ops::Range<u64> = 10 * 60 * 1000..20 * 60 * 1000;
/// How often a new name is announced, a second after each other (RFC 6762, section 8.3).
const ANNOUNCEMENTS: u8 = 2;
/// How long the first word waits, ms, as all hosts of a room may have got power at once.
const FIRST_MS: std::ops::Range<u64> = 20..120;
/// In how many steps the time between questions doubles, from a second.
const EAGER_STEPS: u32 = 6;
/// How long all nodes together wait from one question to the next, ms: each waits so many times
/// longer as there are. A network that fell apart is whole again about so much after its links.
const ASK_MS: u64 = 30_000;
/// Longest time between two questions of one node, ms (RFC 6762, section 5.2).
const ASK_MAX_MS: u64 = 60 * 60 * 1000;
/// Each time a node waits for another share of that, in thousandths.
const SHARE: std::ops::Range<u64> = 500..1500;
/// So many members that answer a question are enough for whoever asks: all others are heard of from
/// them. Who waits longer to answer says nothing then.
const ENOUGH: usize = 8;
/// Who answers waits for a time that chance chooses, up to this, ms (RFC 6762, section 6), …
const ANSWER_MS: std::ops::Range<u64> = 20..120;
/// … and for each peer so much longer, …
const ANSWER_EACH_MS: u64 = 4;
/// … up to this: else a thousand would have answered before the eighth was heard.
const ANSWER_MAX_MS: u64 = 3000;

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

/// A name on a link, and the mark that it has for as long as it is used: another one beside it
/// would tell who changed the network key.
#[derive(Debug, Clone, Copy)]
struct Own {
    label: [u8; LABEL_BYTES],
    mark: [u8; MARK_BYTES],
}

impl Own {
    fn new(ip: IpAddr, port: u16, keys: &NetworkKeys, random: Random<'_>) -> Option<Self> {
        let label = random()?;
        Some(Self { label, mark: Announced { label, ip, port }.mark(keys)? })
    }
}

/// What is said on one link.
#[derive(Debug)]
struct Line {
    place: Place,
    own: Own,
    /// The one of before: an echo of it may be under way.
    last_label: Option<[u8; LABEL_BYTES]>,
    /// A name that has to be taken back.
    farewell: Option<Own>,
    /// How many announcements are left, and when the next one is due, ms.
    left: u8,
    announce_at: u64,
    /// When it gets another name, ms.
    rename_at: u64,
    /// When somebody is answered, ms, and whether no other answer will do.
    answer: Option<(u64, bool)>,
    said_at: Option<u64>,
    /// Which other members were heard since somebody asked, and who said so: as many as are enough.
    heard: Vec<(IpAddr, SocketAddr)>,
    intake: Intake,
}

/// All that is said and heard.
#[derive(Debug)]
pub(crate) struct Plan {
    port: u16,
    service: Name,
    all_services: Name,
    lines: Vec<Line>,
    /// When it asked last, ms; or where it did not yet, when it is to ask first.
    asked_at: u64,
    asked: u32,
    /// Which share of the usual time it waits this time, by chance, in thousandths. How long that
    /// is depends on how many others there are then.
    share: u64,
    had_peers: bool,
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

/// The name of an instance and that of its host, which is one of its own: the real one would tell
/// more than is asked.
fn names(label: &[u8; LABEL_BYTES]) -> (Name, Name) {
    let text = hex(label);
    let instance = Name::new([text.as_str(), "_dsn", "_tcp", "local"]);
    (instance, Name::new([text.as_str(), "local"]))
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
            asked_at: u64::MAX,
            asked: 0,
            share: SHARE.end,
            had_peers: false,
        }
    }

    /// Takes the links that there are now. Whatever is new on one is announced, and asked for.
    pub(crate) fn set_places(&mut self, places: &[Place], now: Now<'_>, random: Random<'_>) {
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
                    // It is not taken back from there either: it ends by its time.
                    let own = Own::new(place.ip, self.port, now.keys, random);
                    let Some(own) = own else { continue };
                    let first = now.ms + within(&FIRST_MS, random);
                    self.lines.push(Line {
                        place: place.clone(),
                        own,
                        last_label: line.as_ref().map(|line| line.own.label),
                        farewell: None,
                        left: ANNOUNCEMENTS,
                        announce_at: first,
                        rename_at: now.ms + within(&NAME_MS, random),
                        answer: None,
                        said_at: None,
                        heard: Vec::new(),
                        intake: line.map(|line| line.intake).unwrap_or_default(),
                    });
                    (self.asked, self.asked_at) = (0, first);
                }
            }
        }
    }

    /// When there is something to do next, with so many peers, ms.
    pub(crate) fn wake_at(&self, peers: usize) -> u64 {
        if self.lines.is_empty() {
            return u64::MAX;
        }
        let times = self.lines.iter().flat_map(|line| {
            let announces = (line.left > 0).then_some(line.announce_at);
            let answers = line.answer.map(|(at, _)| at);
            [Some(line.rename_at), announces, answers].into_iter().flatten()
        });
        times.fold(self.ask_at(peers), u64::min)
    }

    /// Does what is due.
    pub(crate) fn due(&mut self, now: Now<'_>, random: Random<'_>) -> Vec<Sending> {
        let mut sendings = Vec::new();
        self.note_peers(now, random);
        for at in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(at) else { break };
            line.rename(self.port, now, random);
            line.settle_answer(now.ms);
            let announces = line.left > 0 && now.ms >= line.announce_at;
            let answers = line.answer.is_some_and(|(at, _)| now.ms >= at);
            let farewell = line.farewell.take();
            if announces {
                line.left -= 1;
            }
            if announces || answers {
                (line.answer, line.said_at) = (None, Some(now.ms));
                line.announce_at = line.announce_at.max(now.ms + SECOND_MS);
            }
            let Some(line) = self.lines.get(at) else { break };
            let gone = farewell.and_then(|own| self.words(line.place.ip, own, 0));
            let says = announces || answers;
            let said = says.then(|| self.words(line.place.ip, line.own, TTL_S)).flatten();
            let by = Some(Family::of(line.place.ip));
            let link = line.place.link;
            sendings.extend(gone.into_iter().chain(said).map(|bytes| Sending { link, by, bytes }));
        }
        if now.ms >= self.ask_at(now.peers) && !self.lines.is_empty() {
            (self.asked, self.asked_at) = (self.asked.saturating_add(1), now.ms);
            self.share = within(&SHARE, random);
            let question = Question { name: self.service.clone(), kind: kind::PTR };
            let bytes = Message { questions: vec![question], ..Message::default() }.write();
            for line in &mut self.lines {
                // Whoever asks says as well who it is, and nobody can make that needless. Where it
                // has said nothing yet it is about to, and else has just done so.
                if line.said_at.is_some_and(|at| at < now.ms) {
                    line.answer_at(now.ms + within(&ANSWER_MS, random), true);
                }
                let (link, bytes) = (line.place.link, bytes.clone());
                sendings.push(Sending { link, by: None, bytes });
            }
        }
        sendings
    }

    /// Whose peers are all gone asks as one that has just begun.
    fn note_peers(&mut self, now: Now<'_>, random: Random<'_>) {
        if now.peers == 0 && self.had_peers && self.asked > 0 {
            let soonest = self.asked_at.saturating_add(SECOND_MS);
            let at = now.ms + within(&FIRST_MS, random);
            (self.asked, self.asked_at) = (0, at.max(soonest));
        }
        self.had_peers = now.peers > 0;
    }

    /// When it asks next. First often, as those who are there may not have heard it; then all nodes
    /// together now and then, so that it makes no difference how many there are.
    fn ask_at(&self, peers: usize) -> u64 {
        let Some(before) = self.asked.checked_sub(1) else { return self.asked_at };
        if before < EAGER_STEPS && peers == 0 {
            return self.asked_at.saturating_add(SECOND_MS << before);
        }
        let nodes = u64::try_from(peers).unwrap_or(u64::MAX).saturating_add(1);
        let all = ASK_MS.saturating_mul(nodes).min(ASK_MAX_MS);
        self.asked_at.saturating_add((all * self.share / 1000).min(ASK_MAX_MS))
    }

    /// Takes back all that is announced: the node ends.
    pub(crate) fn farewell(&self) -> Vec<Sending> {
        let words = |line: &Line| {
            let (link, by) = (line.place.link, Some(Family::of(line.place.ip)));
            Some(Sending { link, by, bytes: self.words(line.place.ip, line.own, 0)? })
        };
        self.lines.iter().filter_map(words).collect()
    }

    /// All records of a name at an address.
    fn words(&self, ip: IpAddr, Own { label, mark }: Own, ttl: u32) -> Option<Vec<u8>> {
        let (instance, host) = names(&label);
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

    fn line_mut(&mut self, link: u32) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.place.link == link)
    }

    /// When another message of a link may be read, ms; nothing where there is no such link.
    pub(crate) fn reads_at(&mut self, link: u32, now_ms: u64) -> Option<u64> {
        self.line_mut(link).map(|line| line.intake.reads_at(now_ms))
    }

    /// Others have their turn now.
    pub(crate) fn end_turn(&mut self, link: u32, now_ms: u64) {
        self.line_mut(link).into_iter().for_each(|line| line.intake.end_turn(now_ms));
    }

    /// Somebody said something on a link. Gives where members are that were not known to be this
    /// node.
    pub(crate) fn hear(
        &mut self,
        Said { link, from, bytes }: Said<'_>,
        now: Now<'_>,
        random: Random<'_>,
    ) -> Vec<Address> {
        let from = sender(from);
        let Some(line) = self.line_mut(link) else { return Vec::new() };
        if !line.intake.takes_message(from) {
            return Vec::new();
        }
        match Message::read(bytes) {
            Some(message) if message.is_answer => self.learn((link, from), &message, now),
            Some(message) => {
                self.note_question(link, &message, now, random);
                Vec::new()
            }
            None => {
                line.intake.note_unreadable();
                Vec::new()
            }
        }
    }

    fn learn(
        &mut self,
        (link, from): (u32, IpAddr),
        message: &Message,
        now: Now<'_>,
    ) -> Vec<Address> {
        let mut said = services(message, &self.service, now.keys);
        said.members.retain(|it| !self.lines.iter().any(|line| line.is(it, link, self.port)));
        let Some(line) = self.line_mut(link) else { return Vec::new() };
        line.intake.note_strangers(said.strangers);
        let mut found = Vec::new();
        for Announced { ip, port, .. } in said.members {
            let place = match ip {
                IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                    SocketAddrV6::new(ip, port, 0, link).into()
                }
                ip => SocketAddr::new(ip, port),
            };
            line.note_heard(from, place);
            if line.intake.takes_member(from, place, now.ms) {
                found.push(Address::of_caller(place, port));
            }
        }
        found
    }

    /// The links that are used, and what was heard on each.
    pub(crate) fn interfaces(&self) -> Vec<Interface> {
        let interface = |line: &Line| Interface {
            name: Arc::clone(&line.place.name),
            address: line.place.ip,
            heard: line.intake.counts(),
        };
        self.lines.iter().map(interface).collect()
    }

    /// Somebody asks: for all nodes, or for one of our names.
    fn note_question(&mut self, link: u32, message: &Message, now: Now<'_>, random: Random<'_>) {
        let lines = &mut self.lines;
        let Some(line) = lines.iter_mut().find(|line| line.place.link == link) else { return };
        let (instance, host) = names(&line.own.label);
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
        line.answer_at(now.ms + within(&(ANSWER_MS.start..longest), random), is_for_us);
    }
}

impl Line {
    /// Whether it is this node that announced that, as it was heard on a link. Each link has
    /// addresses of its own that are of a link.
    fn is(&self, announced: &Announced, link: u32, port: u16) -> bool {
        let is_of_link = match announced.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let is_here = !is_of_link || self.place.link == link;
        self.own.label == announced.label
            || self.last_label == Some(announced.label)
            || self.place.ip == announced.ip && port == announced.port && is_here
    }

    /// Takes another name where it is time.
    fn rename(&mut self, port: u16, now: Now<'_>, random: Random<'_>) {
        if now.ms < self.rename_at {
            return;
        }
        self.rename_at = now.ms + within(&NAME_MS, random);
        // Where there is no randomness the old name has to do.
        let Some(own) = Own::new(self.place.ip, port, now.keys, random) else { return };
        let old = std::mem::replace(&mut self.own, own);
        (self.last_label, self.farewell) = (Some(old.label), Some(old));
        (self.left, self.announce_at) = (ANNOUNCEMENTS, now.ms);
    }

    /// Answers then, or sooner where another answer is due; if it must, whoever else answers.
    fn answer_at(&mut self, at: u64, must: bool) {
        let soonest = self.said_at.map_or(0, |at| at + SECOND_MS);
        let at = at.max(soonest);
        self.answer = match self.answer {
            Some((other, musts)) => Some((other.min(at), must || musts)),
            None => {
                self.heard.clear();
                Some((at, must))
            }
        };
    }

    /// A member was heard. Many messages of one are one, and so is all that one sender says: who
    /// repeats what many said keeps nobody from answering.
    fn note_heard(&mut self, from: IpAddr, place: SocketAddr) {
        let is_one = |(said_by, at): &(IpAddr, SocketAddr)| *said_by == from || *at == place;
        if self.heard.len() < ENOUGH && !self.heard.iter().any(is_one) {
            self.heard.push((from, place));
        }
    }

    /// Where enough others have answered, this one says nothing.
    fn settle_answer(&mut self, now_ms: u64) {
        self.answer.take_if(|(at, must)| now_ms >= *at && !*must && self.heard.len() >= ENOUGH);
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
    let now = Now { ms: 1, peers: 0, keys: &keys };
    plan.set_places(&[place], now, &mut random);
    let found = plan.hear(Said { link: 1, from: ip, bytes }, now, &mut random);
    // Nobody but a holder of the key can make a mark, and the fuzzer is none.
    assert!(found.is_empty(), "{found:?}");
    let _ = plan.due(Now { ms: 2_000, ..now }, &mut random);
}

#[cfg(test)]
mod tests;
