//! What is made of a message that was heard: who in it is a member, and how much of that one link
//! may cause within a second. Pure.

use std::net::{IpAddr, SocketAddr};

use super::dns::{Data, Message, Name};
use super::links::is_callable;
use crate::protocol::crypto::{Announced, LABEL_BYTES, MARK_BYTES, NetworkKeys};
use crate::protocol::identity::unhex;

/// Most messages that are read of one link within a second: a flood on one keeps nothing from the
/// others. The rest is dropped by the kernel.
pub(super) const MESSAGES_MAX: u32 = 256;
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

/// What one link may still cause within this second.
#[derive(Debug, Default)]
pub(super) struct Budget {
    second: u64,
    messages: u32,
    /// What was passed on: who repeats one announcement uses up nothing of what others need.
    found: Vec<SocketAddr>,
}

impl Budget {
    /// Whether another message may be read.
    pub(super) fn may_read(&mut self, second: u64) -> bool {
        if second != self.second {
            *self = Self { second, ..Self::default() };
        }
        self.messages < MESSAGES_MAX
    }

    pub(super) fn note_message(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }

    /// Whether an address is to be passed on.
    pub(super) fn takes(&mut self, place: SocketAddr) -> bool {
        let takes = self.found.len() < FOUND_MAX && !self.found.contains(&place);
        if takes {
            self.found.push(place);
        }
        takes
    }
}

/// The services of a message that holders of the network key announced for just the place that they
/// are at. All that belongs to one has to stand in one message.
pub(super) fn members(message: &Message, service: &Name, keys: &NetworkKeys) -> Vec<Announced> {
    let (mut names, mut members) = (Vec::new(), Vec::new());
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
        members.extend(places.find(|place| is_member(place)));
    }
    members
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
