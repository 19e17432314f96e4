//! Which interfaces a node can be found on, and under which address: pure. What the kernel says of
//! them is read here, too, as bytes (rtnetlink(7)).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::order;

/// Most interfaces that are used; the rest is told.
pub(crate) const LINKS_MAX: usize = 16;

/// Where the own port can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    /// On all addresses: of IPv4, of IPv6, of both.
    All { v4: bool, v6: bool },
    /// On this one; a link-local one on the interface of that number.
    One { ip: IpAddr, link: Option<u32> },
}

impl Serving {
    fn has(self, on: u32, ip: IpAddr) -> bool {
        match self {
            Self::All { v4, v6 } => {
                if ip.is_ipv4() {
                    v4
                } else {
                    v6
                }
            }
            Self::One { ip: one, link } => ip == one && link.is_none_or(|link| link == on),
        }
    }
}

/// An interface, as the kernel shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: Arc<str>,
    flags: u32,
    /// Whether it is a part of another one, such as a bridge.
    is_port: bool,
    /// Its addresses that are settled.
    addresses: Vec<IpAddr>,
}

/// An interface that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number.
    pub(crate) link: u32,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Where others are told to call.
    pub(crate) ip: IpAddr,
    /// Any IPv4 address of it, to speak from, where it has one.
    pub(crate) v4: Option<Ipv4Addr>,
    /// Whether it has IPv6.
    pub(crate) v6: bool,
}

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFF_POINTOPOINT: u32 = 0x10;
const IFF_RUNNING: u32 = 0x40;
const IFF_MULTICAST: u32 = 0x1000;

/// What can be used, and what can't, with the reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) places: Vec<Place>,
    /// For people.
    pub(crate) lacking: Vec<String>,
}

/// Chooses the interfaces that others can be found on. What is down is no fault as long as one is
/// up: it may come.
pub(crate) fn choose(links: &BTreeMap<u32, Link>, serving: Serving) -> Choice {
    let mut choice = Choice::default();
    let (mut down, mut without) = (Vec::new(), Vec::new());
    for (index, link) in links {
        if link.flags & (IFF_LOOPBACK | IFF_POINTOPOINT) != 0 {
            continue;
        }
        if link.flags & (IFF_UP | IFF_RUNNING) != IFF_UP | IFF_RUNNING {
            down.push(&*link.name);
            continue;
        }
        let served = link.addresses.iter().copied().filter(|ip| serving.has(*index, *ip));
        let Some(ip) = served.min_by_key(|ip| (rank(*ip), *ip)) else { continue };
        if link.is_port && rank(ip) == OF_THE_LINK {
            // What is said on the bridge goes there, too.
            continue;
        }
        if link.flags & IFF_MULTICAST == 0 {
            without.push(&*link.name);
            continue;
        }
        let v4 = link.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let v6 = link.addresses.iter().any(IpAddr::is_ipv6);
        choice.places.push(Place { link: *index, name: Arc::clone(&link.name), ip, v4, v6 });
    }
    if !without.is_empty() {
        choice.lacking.push(format!("{} takes no multicast", without.join(", ")));
    }
    // A host of containers has hundreds that have nothing but a link-local address.
    let is_last = |place: &Place| rank(place.ip) == OF_THE_LINK;
    order::sort_by(&mut choice.places, |one, other| is_last(one).cmp(&is_last(other)));
    let more = choice.places.split_off(choice.places.len().min(LINKS_MAX));
    let missed = more.iter().filter(|place| rank(place.ip) < OF_THE_LINK).count();
    if missed > 0 {
        choice
            .lacking
            .push(format!("there are more than {LINKS_MAX} interfaces: {missed} are left out"));
    }
    if choice.places.is_empty() {
        let what = match serving {
            Serving::One { ip, .. } => format!("no interface that is up has the address {ip}"),
            Serving::All { .. } => "no interface is up that has an address to be called at".into(),
        };
        let names = if down.is_empty() { "none".into() } else { down.join(", ") };
        choice.lacking.insert(0, format!("{what} (down: {names})"));
    }
    choice
}

/// Of a link-local address of IPv6.
const OF_THE_LINK: u8 = 3;

/// What others are told first: an address of IPv4, as most have that, and last one that is of this
/// link alone.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) if !ip.is_link_local() => 0,
        IpAddr::V6(ip) if !ip.is_unicast_link_local() => 1,
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => OF_THE_LINK,
    }
}

/// Whether somebody can be called there who was heard on this link.
pub(crate) fn is_callable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // 0.0.0.0/8, loopback, multicast, what is kept for later and broadcast.
            let [first, ..] = ip.octets();
            first != 0 && !ip.is_loopback() && first < 224
        }
        IpAddr::V6(ip) => {
            let is_mapped = ip.to_ipv4_mapped().is_some();
            !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_mapped
        }
    }
}

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const HEADER_BYTES: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// Temporary, failed, deprecated or tentative: an address of IPv6 that is not to be told.
const IFA_F_UNFIT: u32 = 0x01 | 0x08 | 0x20 | 0x40;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The bytes that ask the kernel for all links or all addresses.
pub(crate) fn ask(kind: u16) -> Vec<u8> {
    let mut bytes = 20_u32.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Number, sender, and the head of the question: of any family.
    bytes.extend_from_slice(&[0; 12]);
    bytes
}

/// Takes what the kernel says to that. Gives whether that was all of it; nothing where it says that
/// it does not answer.
pub(crate) fn note(mut bytes: &[u8], links: &mut BTreeMap<u32, Link>) -> Option<bool> {
    while let Some((message, rest)) = split(bytes) {
        bytes = rest;
        match u16_at(message, 4)? {
            NLMSG_DONE => return Some(true),
            NLMSG_ERROR => return None,
            RTM_NEWLINK => note_link(message, links),
            RTM_NEWADDR => note_address(message, links),
            _ => None,
        };
    }
    Some(false)
}

/// The first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    (length >= HEADER_BYTES).then_some(())?;
    let message = bytes.get(..length)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn note_link(message: &[u8], links: &mut BTreeMap<u32, Link>) -> Option<()> {
    let (index, flags) = (u32_at(message, HEADER_BYTES + 4)?, u32_at(message, HEADER_BYTES + 8)?);
    let attributes = message.get(HEADER_BYTES + 16..)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let master = attribute(attributes, IFLA_MASTER).and_then(|bytes| u32_at(bytes, 0));
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into();
    links.insert(
        index,
        Link { name, flags, is_port: master.is_some_and(|it| it > 0), addresses: Vec::new() },
    );
    Some(())
}

fn note_address(message: &[u8], links: &mut BTreeMap<u32, Link>) -> Option<()> {
    let family = *message.get(HEADER_BYTES)?;
    let index = u32_at(message, HEADER_BYTES + 4)?;
    let attributes = message.get(HEADER_BYTES + 8..)?;
    // Where there is another end, IFA_ADDRESS is that (rtnetlink(7)).
    let local = attribute(attributes, IFA_LOCAL).or(attribute(attributes, IFA_ADDRESS));
    let ip: IpAddr = match family {
        AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(local?).ok()?).into(),
        AF_INET6 => {
            let short = u32::from(*message.get(HEADER_BYTES + 2)?);
            let flags = attribute(attributes, IFA_FLAGS).and_then(|bytes| u32_at(bytes, 0));
            if flags.unwrap_or(short) & IFA_F_UNFIT != 0 {
                return None;
            }
            Ipv6Addr::from(<[u8; 16]>::try_from(local?).ok()?).into()
        }
        _ => return None,
    };
    links.get_mut(&index)?.addresses.push(ip);
    Some(())
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        if kind == wanted {
            return bytes.get(4..length);
        }
        // Shorter than its own head: there is no way on.
        (length >= 4).then_some(())?;
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: u32 = IFF_UP | IFF_RUNNING | IFF_MULTICAST;
    const BOTH: Serving = Serving::All { v4: true, v6: true };

    fn links(all: &[(&str, u32, &[&str])]) -> BTreeMap<u32, Link> {
        let link = |(name, flags, addresses): &(&str, u32, &[&str])| Link {
            name: (*name).into(),
            flags: *flags,
            is_port: name.starts_with("port"),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        (1..).zip(all.iter().map(link)).collect()
    }

    fn places(choice: &Choice) -> Vec<String> {
        choice.places.iter().map(|place| format!("{} {}", place.name, place.ip)).collect()
    }

    #[test]
    fn each_link_that_is_up_has_one_address() {
        let all = links(&[
            ("lo", UP | IFF_LOOPBACK, &["127.0.0.1", "::1"]),
            ("eth0", UP, &["fe80::1", "10.0.0.1", "2001:db8::1"]),
            ("eth1", UP, &["fe80::2", "2001:db8::2"]),
            ("eth2", UP, &["fe80::3", "169.254.0.3"]),
            ("eth3", UP, &["fe80::4"]),
            ("eth4", UP, &[]),
            ("port0", UP, &["fe80::5"]),
            ("wg0", UP | IFF_POINTOPOINT, &["10.9.0.1"]),
            ("wlan0", IFF_UP | IFF_MULTICAST, &["10.8.0.1"]),
        ]);
        let choice = choose(&all, BOTH);
        let expected = ["eth0 10.0.0.1", "eth1 2001:db8::2", "eth2 169.254.0.3", "eth3 fe80::4"];
        assert_eq!(places(&choice), expected);
        assert!(choice.lacking.is_empty(), "what is down may come: {:?}", choice.lacking);
        let v4 = choose(&all, Serving::All { v4: true, v6: false });
        assert_eq!(places(&v4), ["eth0 10.0.0.1", "eth2 169.254.0.3"]);
        let one =
            |ip: &str, link| places(&choose(&all, Serving::One { ip: ip.parse().unwrap(), link }));
        assert_eq!(one("2001:db8::1", None), ["eth0 2001:db8::1"]);
        assert_eq!(one("fe80::4", Some(5)), ["eth3 fe80::4"]);
        assert!(one("fe80::4", Some(2)).is_empty());
    }

    #[test]
    fn what_is_lacking_is_said() {
        let said = |all: &[(&str, u32, &[&str])]| choose(&links(all), BOTH).lacking.join("; ");
        assert!(said(&[("wlan0", IFF_UP, &[])]).contains("(down: wlan0)"));
        let mute = said(&[("eth0", UP & !IFF_MULTICAST, &["10.0.0.1"])]);
        assert!(mute.contains("no interface is up") && mute.contains("eth0 takes no multicast"));
        let many: Vec<(&str, u32, &[&str])> = vec![("v", UP, &["10.0.0.1"]); LINKS_MAX + 3];
        assert!(said(&many).contains("3 are left out"));
        assert_eq!(choose(&links(&many), BOTH).places.len(), LINKS_MAX);
        // Those of containers push nobody out.
        let mut many: Vec<(&str, u32, &[&str])> = vec![("v", UP, &["fe80::1"]); 300];
        many.push(("eth0", UP, &["10.0.0.1"]));
        let choice = choose(&links(&many), BOTH);
        assert_eq!((choice.places.len(), choice.lacking.len()), (LINKS_MAX, 0));
        assert_eq!(&*choice.places[0].name, "eth0");
    }

    #[test]
    fn nobody_is_called_where_nobody_can_be() {
        for ip in ["10.0.0.1", "169.254.1.1", "8.8.8.8", "fe80::1", "2001:db8::1", "fd00::1"] {
            assert!(is_callable(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::fb",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_callable(ip.parse().unwrap()), "{ip}");
        }
    }

    /// The bytes of an address as the kernel tells them.
    fn address_bytes(family: u8, parts: &[(u16, &str)]) -> Vec<u8> {
        let mut body = vec![family, 64, 0, 0, 1, 0, 0, 0];
        body[4..8].copy_from_slice(&1_u32.to_ne_bytes());
        for (kind, ip) in parts {
            let ip = match ip.parse().unwrap() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            body.extend_from_slice(&u16::try_from(ip.len() + 4).unwrap().to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(&ip);
        }
        let mut bytes = u32::try_from(HEADER_BYTES + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(&RTM_NEWADDR.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn the_other_end_of_a_link_is_nobody_here() {
        for (family, parts, own) in [
            (
                AF_INET6,
                &[(IFA_ADDRESS, "2001:db8::9"), (IFA_LOCAL, "2001:db8::1")][..],
                "2001:db8::1",
            ),
            (AF_INET6, &[(IFA_ADDRESS, "2001:db8::1")], "2001:db8::1"),
            (AF_INET, &[(IFA_ADDRESS, "10.0.0.9"), (IFA_LOCAL, "10.0.0.1")], "10.0.0.1"),
            (AF_INET, &[(IFA_ADDRESS, "10.0.0.1")], "10.0.0.1"),
        ] {
            let mut all = links(&[("eth0", UP, &[])]);
            assert_eq!(note(&address_bytes(family, parts), &mut all), Some(false));
            assert_eq!(all[&1].addresses, [own.parse::<IpAddr>().unwrap()]);
        }
    }

    #[test]
    fn garbage_of_the_kernel_does_no_harm() {
        let mut links = BTreeMap::new();
        for length in 0..64_u8 {
            let bytes: Vec<u8> = (0..64).map(|at| if at % 4 == 0 { length } else { 0 }).collect();
            let _ = note(&bytes, &mut links);
            let mut bytes = bytes;
            bytes[..6].copy_from_slice(&[64, 0, 0, 0, 16, 0]);
            let _ = note(&bytes, &mut links);
            bytes[4] = 20;
            let _ = note(&bytes, &mut links);
        }
    }
}
