//! What is made of a message that was heard: who in it is a member, and how much of that one link
//! may cause within a second. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::dns::{Data, Message, Name};
use super::links::is_callable;
use crate::protocol::crypto::{Announced, LABEL_BYTES, MARK_BYTES, NetworkKeys};
use crate::protocol::identity::unhex;
use crate::protocol::report::Heard;

/// Shortest time between two announcements on one link, and between first questions, ms (RFC 6762,
/// sections 5.2 and 6); and how long a budget is for.
pub(super) const SECOND_MS: u64 = 1000;
/// Most messages that are read of one link within a second. The rest is dropped by the kernel. To
/// read one costs microseconds; so a flood of one sender keeps nothing from the others.
pub(super) const READ_MAX: u32 = 4096;
/// How long a link rests after a turn in a second in which something was dropped, ms: to wake up
/// for each message of a flood costs several times what it costs to read it. What the kernel holds
/// of one link is more than comes meanwhile.
const REST_MS: u64 = 10;
/// Most of them that are looked at, which may cost hashes.
pub(super) const MESSAGES_MAX: usize = 256;
/// Most senders that are told apart within a second; all others are one.
pub(super) const SENDERS_MAX: usize = 64;
/// Most addresses of one link that are passed on within a second. The same one again is none.
pub(super) const FOUND_MAX: usize = 32;
/// Most services of one message of which it is looked whether they are members. What a program of
/// one host gathers has a few.
pub(super) const SERVICES_MAX: usize = 16;
/// Most addresses of one host that are looked at: it has some, and the mark is good for one.
pub(super) const ADDRESSES_MAX: usize = 16;
/// Most hashes that one message may cost: each address is one for each network key. It is a budget
/// of the message, as one of a second could be used up by strangers.
const HASHES_MAX: usize = 64;

/// What was heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    /// The number of the link.
    pub(crate) link: u32,
    /// The address that it came from.
    pub(crate) from: IpAddr,
    /// The message.
    pub(crate) bytes: &'a [u8],
}

/// Who said something: the address that it came from. Of IPv6 senders speak from that of the link
/// (RFC 6724, section 5, rule 2); as a host can have any number of others, those are one sender.
pub(super) fn sender(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_unicast_link_local() => Ipv6Addr::UNSPECIFIED.into(),
        ip => ip,
    }
}

/// Whether somebody who has so much of what is limited may have more: up to half of what is left.
/// So however many others want all they can get, something is left for who comes next.
fn is_fair(has: usize, left: usize) -> bool {
    has.saturating_mul(2) < left
}

/// What one link may still cause within this second, and what it has caused so far.
#[derive(Debug, Default)]
pub(super) struct Intake {
    second: u64,
    read: u32,
    /// Whether one of these was dropped.
    is_flooded: bool,
    /// Until when none is read, ms.
    rests_until: u64,
    messages: usize,
    /// Of which of the senders how many of these are.
    senders: Vec<(IpAddr, usize)>,
    /// Of all other senders.
    of_others: usize,
    /// What was passed on, and who said it: who repeats one announcement uses up nothing of what
    /// others need.
    found: Vec<(IpAddr, SocketAddr)>,
    counts: Heard,
}

impl Intake {
    /// When another message may be read, ms.
    pub(super) fn reads_at(&mut self, now_ms: u64) -> u64 {
        let second = now_ms / SECOND_MS;
        if second != self.second {
            *self = Self { second, counts: self.counts, ..Self::default() };
        }
        if self.read < READ_MAX { self.rests_until } else { (second + 1) * SECOND_MS }
    }

    /// All that waited was read, or as much as is read in one turn.
    pub(super) fn end_turn(&mut self, now_ms: u64) {
        if self.is_flooded {
            self.rests_until = now_ms + REST_MS;
        }
    }

    /// A message was read. Says whether it is to be looked at.
    pub(super) fn takes_message(&mut self, from: IpAddr) -> bool {
        self.read = self.read.saturating_add(1);
        if self.read == READ_MAX {
            self.counts.full_seconds += 1;
        }
        if self.senders.len() < SENDERS_MAX && !self.senders.iter().any(|(it, _)| *it == from) {
            self.senders.push((from, 0));
        }
        let sender = self.senders.iter_mut().find(|(it, _)| *it == from);
        let has = sender.map_or(&mut self.of_others, |(_, has)| has);
        if !is_fair(*has, MESSAGES_MAX.saturating_sub(self.messages)) {
            self.counts.dropped += 1;
            self.is_flooded = true;
            return false;
        }
        *has += 1;
        self.messages += 1;
        self.counts.messages += 1;
        true
    }

    pub(super) fn note_unreadable(&mut self) {
        self.counts.unreadable += 1;
    }

    pub(super) fn note_strangers(&mut self, count: u64) {
        self.counts.strangers += count;
    }

    /// A member was heard. Says whether its address is to be passed on.
    pub(super) fn takes_member(&mut self, from: IpAddr, place: SocketAddr, now_ms: u64) -> bool {
        self.counts.members += 1;
        self.counts.member_at = Some(now_ms);
        let is_again = |found: &(IpAddr, SocketAddr)| *found == (from, place);
        if self.found.iter().any(is_again) {
            return false;
        }
        let has = self.found.iter().filter(|(it, _)| *it == from).count();
        let takes = is_fair(has, FOUND_MAX.saturating_sub(self.found.len()));
        if takes {
            self.found.push((from, place));
        } else {
            self.counts.passed_over += 1;
        }
        takes
    }

    /// What was heard so far.
    pub(super) fn counts(&self) -> Heard {
        self.counts
    }
}

/// What a message says of services of ours.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Those that holders of the network key announced for just the place that they are at.
    pub(super) members: Vec<Announced>,
    /// How many others there are that have a mark.
    pub(super) strangers: u64,
}

/// Who is a member in a message. All that belongs to one has to stand in one message.
pub(super) fn services(message: &Message, service: &Name, keys: &NetworkKeys) -> Services {
    let (mut names, mut all) = (Vec::new(), Services::default());
    let mut hashes = HASHES_MAX;
    for record in message.records.iter().filter(|it| it.ttl > 0) {
        let Data::Srv(port, host) = &record.data else { continue };
        let Some(label) = label_of(&record.name, service) else { continue };
        if names.contains(&&record.name) {
            // What is said many times is said once.
            continue;
        }
        if names.len() >= SERVICES_MAX {
            break;
        }
        names.push(&record.name);
        let mark = message.of(&record.name).find_map(|record| mark_of(&record.data));
        let Some(mark) = mark.filter(|_| *port > 0) else { continue };
        let mut is_member = |place: &Announced| match hashes.checked_sub(keys.count()) {
            Some(left) => {
                hashes = left;
                place.is_marked(keys, &mark)
            }
            None => false,
        };
        let ips = addresses(message, host).into_iter();
        let mut places = ips.map(|ip| Announced { label, ip, port: *port });
        match places.find(|place| is_member(place)) {
            Some(place) => all.members.push(place),
            None => all.strangers += 1,
        }
    }
    all
}

fn label_of(name: &Name, service: &Name) -> Option<[u8; LABEL_BYTES]> {
    let label = name.label_before(service)?;
    unhex(std::str::from_utf8(label).ok()?)?.try_into().ok()
}

/// Where a host can be called.
fn addresses(message: &Message, host: &Name) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for record in message.of(host) {
        if let Data::Ip(ip) = record.data
            && is_callable(ip)
            && ips.len() < ADDRESSES_MAX
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    }
    ips
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_senders_are_told_apart_and_the_rest_is_one() {
        let mut intake = Intake::default();
        assert!(intake.reads_at(1_000) <= 1_000);
        for number in 0..u32::try_from(4 * SENDERS_MAX).unwrap() {
            intake.takes_message(IpAddr::from(number.to_be_bytes()));
        }
        assert_eq!(intake.senders.len(), SENDERS_MAX);
        assert!(intake.senders.iter().all(|(_, has)| *has == 1));
        let rest = (MESSAGES_MAX - SENDERS_MAX) / 3;
        assert!(intake.of_others.abs_diff(rest) <= 1, "{}", intake.of_others);
        assert!(intake.takes_message(IpAddr::from([0; 4])), "who is known has more");
    }

    #[test]
    fn a_link_rests_between_turns_where_it_is_flooded() {
        let mut intake = Intake::default();
        let from = IpAddr::from([10, 0, 0, 66]);
        intake.takes_message(from);
        intake.end_turn(1_100);
        assert!(intake.reads_at(1_100) <= 1_100, "nothing was dropped");
        while intake.takes_message(from) {}
        intake.end_turn(1_200);
        assert_eq!(intake.reads_at(1_200), 1_200 + REST_MS);
        assert!(intake.reads_at(2_000) <= 2_000, "another second");
        for _ in 0..READ_MAX {
            intake.takes_message(from);
        }
        assert_eq!(intake.reads_at(2_100), 3_000);
    }

    #[test]
    fn of_ipv6_those_of_the_link_are_senders() {
        let of = |ip: &str| sender(ip.parse().unwrap());
        assert_ne!(of("fe80::1"), of("fe80::2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
