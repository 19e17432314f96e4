//! Zones of link-local addresses: the `eth0` in `fe80::1%eth0`.

use std::io::Error;
use std::net::Ipv6Addr;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// The number of an interface, which system calls take in place of its name.
pub(crate) fn number(zone: &str) -> Result<u32, Error> {
    if let Ok(number) = zone.parse() {
        return Ok(number);
    }
    // Any socket will do to ask with.
    let asks = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(&asks, zone)?)
}

/// The parts of `[fe80::1%eth0]:8000`: only an address of one link has a zone.
pub(crate) fn split(text: &str) -> Option<(Ipv6Addr, &str, u16)> {
    let (inner, port) = text.strip_prefix('[')?.split_once("]:")?;
    let (ip, zone) = inner.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok().filter(Ipv6Addr::is_unicast_link_local)?;
    (!zone.is_empty()).then_some((ip, zone, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_name_or_a_number() {
        assert_eq!(number("lo").unwrap(), 1, "the first interface of each host");
        assert_eq!(number("7").unwrap(), 7);
        assert!(number("no-such-link").is_err());
        let ip = "fe80::1".parse().unwrap();
        assert_eq!(split("[fe80::1%eth0]:80"), Some((ip, "eth0", 80)));
        for text in ["[fe80::1]:80", "[2001:db8::1%eth0]:80", "[fe80::1%]:80", "fe80::1%e:80"] {
            assert_eq!(split(text), None, "{text}");
        }
    }
}
