//! Where a node may be found: `host:port`, the host a name, an IPv4 or a bracketed IPv6 address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::ADDRESS_BYTES_MAX;

/// Longest name of an interface, bytes (`IFNAMSIZ` with its end).
const ZONE_BYTES_MAX: usize = 15;

/// A checked `host:port`. A hint only: keys are identity, names are resolved again at each use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Box<str>);

impl Address {
    /// Takes `host:port`, gives the address, or says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, InvalidAddress> {
        match zone_of(text) {
            Some(_) => Err(fault(text, "a zone such as %eth0 means nothing on another host")),
            None => Self::on_this_host(text),
        }
    }

    /// The same for an address that no other host is told: a link-local one has its zone, as in
    /// `[fe80::1%eth0]:8000`.
    pub fn on_this_host(text: &str) -> Result<Self, InvalidAddress> {
        check(text).map_err(|why| fault(text, why))?;
        Ok(Self(text.into()))
    }

    /// The address of a socket, without its zone; an IPv4 address that came as IPv6 is written as
    /// IPv4.
    pub fn of(ip: IpAddr, port: u16) -> Self {
        Self(SocketAddr::new(ip.to_canonical(), port).to_string().into())
    }

    /// Where the host of a caller listens, for this host: a link-local address keeps its zone.
    pub fn of_caller(caller: SocketAddr, port: u16) -> Self {
        match caller {
            SocketAddr::V6(it) if it.ip().is_unicast_link_local() => {
                let there = SocketAddrV6::new(*it.ip(), port, 0, it.scope_id());
                Self(there.to_string().into())
            }
            _ => Self::of(caller.ip(), port),
        }
    }

    /// The same port on the host of a caller.
    pub fn at_caller(&self, caller: SocketAddr) -> Option<Self> {
        let (_, port) = self.0.rsplit_once(':')?;
        Some(Self::of_caller(caller, port.parse().ok()?))
    }

    /// A link-local address and its zone, if it has one.
    pub fn zone(&self) -> Option<(Ipv6Addr, &str)> {
        let (ip, zone) = zone_of(&self.0)?;
        Some((ip.parse().ok()?, zone))
    }

    /// Whether it means something on one link alone, so that it is of no use to others.
    pub fn is_link_local(&self) -> bool {
        let inner = self.0.strip_prefix('[').and_then(|rest| rest.split([']', '%']).next());
        let ip = inner.and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        ip.is_some_and(|ip| ip.is_unicast_link_local())
    }

    /// Whether it means something on one host alone, so that it is of no use to others there.
    pub fn is_loopback(&self) -> bool {
        let host = self.0.rsplit_once(':').map_or("", |(host, _)| host);
        let inner = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || inner.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Another port at the same host.
    pub fn with_port(&self, port: u16) -> Option<Self> {
        let (host, _) = self.0.rsplit_once(':')?;
        (port > 0).then(|| Self(format!("{host}:{port}").into()))
    }

    /// The address as `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn fault(text: &str, why: &'static str) -> InvalidAddress {
    InvalidAddress { text: text.chars().take(80).collect(), why }
}

/// What is in the brackets, in front of and behind the first `%`.
fn zone_of(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('[')?.split_once(']')?.0.split_once('%')
}

fn check(text: &str) -> Result<(), &'static str> {
    if text.len() > ADDRESS_BYTES_MAX {
        return Err("it is too long");
    }
    if text.contains("://") {
        return Err("it is no URL: leave out http:// and what is behind the port (HOST:PORT)");
    }
    if text.contains([' ', ',', '\t', '\n']) {
        return Err("it is one address: there are no blanks or commas in it");
    }
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing (HOST:PORT)")?;
    if text.parse::<Ipv6Addr>().is_ok() || host.starts_with('[') && !host.ends_with(']') {
        return Err("an IPv6 address needs brackets and a port: [::1]:8000");
    }
    match port.parse::<u16>() {
        Ok(number) if number > 0 && !port.starts_with('+') => {}
        _ => return Err("the port is not a number from 1 to 65535"),
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let (ip, zone) = match inner.split_once('%') {
            Some((ip, zone)) => (ip, Some(zone)),
            None => (inner, None),
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| "what is in the brackets is not IPv6")?;
        return match zone {
            Some(_) if !ip.is_unicast_link_local() => {
                Err("only a link-local address (fe80::) has a zone (%eth0)")
            }
            Some(zone) if !is_zone(zone) => Err("the zone behind % is no name of an interface"),
            _ => Ok(()),
        };
    }
    if host.contains(':') {
        return Err("an IPv6 address needs brackets: [::1]:8000");
    }
    if is_host_name(host) { Ok(()) } else { Err("the host is not a name or an address") }
}

/// A name or number of an interface (Linux: 15 bytes, neither slash nor blank).
pub fn is_zone(zone: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%' | b'[' | b']');
    (1..=ZONE_BYTES_MAX).contains(&zone.len()) && zone.bytes().all(allowed)
}

fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && !host.starts_with('-')
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A text that is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidAddress {
    /// The text, cut to 80 characters.
    pub text: String,
    /// Which rule it breaks.
    pub why: &'static str,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} is not an address: {}", self.text, self.why)
    }
}

impl std::error::Error for InvalidAddress {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_what_can_not_be_dialled() {
        for text in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:80",
            "[x]:1",
            "a b:1",
            "a/b:1",
            "user@a:1",
            "a:1/x",
            "-a:1",
            "[fe80::1%eth0]:1",
            "[::1]",
            "::1",
        ] {
            assert!(Address::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_of_use_on_this_host_alone_is_known() {
        for text in ["127.0.0.1:1", "127.9.9.9:80", "[::1]:1", "localhost:8000"] {
            assert!(Address::new(text).unwrap().is_loopback(), "{text}");
        }
        for text in ["10.0.0.1:1", "[::2]:1", "localhost.lan:1", "[2001:db8::1]:1"] {
            assert!(!Address::new(text).unwrap().is_loopback(), "{text}");
        }
    }

    #[test]
    fn takes_names_and_both_kinds_of_address() {
        for text in ["pi.local:8000", "10.0.0.1:1", "[::1]:65535", "a_b-c:80"] {
            assert_eq!(Address::new(text).unwrap().as_str(), text);
        }
    }

    /// Whoever types one of these hears what is wrong with it, and what to type instead.
    #[test]
    fn each_slip_is_named() {
        for (text, named) in [
            ("http://a:8000", "leave out http://"),
            ("https://[::1]:8000/x", "leave out http://"),
            ("a:1 b:2", "no blanks or commas"),
            ("a:1,b:2", "no blanks or commas"),
            ("fe80::1", "brackets and a port"),
            ("[::1", "brackets and a port"),
            ("a", "port is missing"),
            ("[fe80::1%eth0]:1", "nothing on another host"),
        ] {
            let said = Address::new(text).unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
        }
        for (text, named) in [
            ("[2001:db8::1%eth0]:1", "only a link-local"),
            ("[fe80::1%]:1", "no name of an interface"),
            ("[fe80::1%a/b]:1", "no name of an interface"),
            ("[fe80::1%a%b]:1", "no name of an interface"),
        ] {
            let said = Address::on_this_host(text).unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
        }
    }

    #[test]
    fn a_link_local_address_keeps_its_zone_on_this_host() {
        let there = Address::on_this_host("[fe80::1%eth0]:8000").unwrap();
        assert_eq!(there.zone(), Some(("fe80::1".parse().unwrap(), "eth0")));
        assert!(there.is_link_local());
        let caller = "[fe80::2%3]:40000".parse().unwrap();
        assert_eq!(Address::of_caller(caller, 80).as_str(), "[fe80::2%3]:80");
        assert_eq!(there.at_caller(caller).unwrap().as_str(), "[fe80::2%3]:8000");
        // A zone of the kernel's that is none of the address.
        let caller = "[2001:db8::2%3]:40000".parse().unwrap();
        assert_eq!(Address::of_caller(caller, 80).as_str(), "[2001:db8::2]:80");
        let mapped = "[::ffff:10.0.0.1]:40000".parse().unwrap();
        assert_eq!(Address::of_caller(mapped, 80).as_str(), "10.0.0.1:80");
        for other in ["[::1]:8000", "10.0.0.1:8000", "fe80.example:8000"] {
            let other = Address::new(other).unwrap();
            assert!(!other.is_link_local() && other.zone().is_none(), "{other}");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_written_as_ipv4() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(Address::of(mapped, 80).as_str(), "10.0.0.1:80");
    }
}
