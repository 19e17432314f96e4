//! Where a node may be found: `host:port`, the host a name, an IPv4 or a bracketed IPv6 address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::ADDRESS_BYTES_MAX;

/// A checked `host:port`. A hint only: keys are identity, names are resolved again at each use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Box<str>);

impl Address {
    /// Takes `host:port`, gives the address, or says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, InvalidAddress> {
        let fault = |why| InvalidAddress { text: text.chars().take(80).collect(), why };
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(fault("it is too long"));
        }
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| fault("the port is missing (HOST:PORT)"))?;
        match port.parse::<u16>() {
            Ok(number) if number > 0 && !port.starts_with('+') => {}
            _ => return Err(fault("the port is not a number from 1 to 65535")),
        }
        if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inner.parse::<Ipv6Addr>().map_err(|_| fault("what is in the brackets is not IPv6"))?;
        } else if host.contains(':') {
            return Err(fault("an IPv6 address needs brackets: [::1]:8000"));
        } else if !is_host_name(host) {
            return Err(fault("the host is not a name or an address"));
        }
        Ok(Self(text.into()))
    }

    /// The address of a socket; an IPv4 address that came as IPv6 is written as IPv4.
    pub fn of(ip: IpAddr, port: u16) -> Self {
        Self(SocketAddr::new(ip.to_canonical(), port).to_string().into())
    }

    /// The same port at another address.
    pub fn with_ip(&self, ip: IpAddr) -> Option<Self> {
        let (_, port) = self.0.rsplit_once(':')?;
        Some(Self::of(ip, port.parse().ok()?))
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
            "", "a", ":1", "a:", "a:0", "a:65536", "a:+1", "::1:80", "[x]:1", "a b:1", "a/b:1",
            "user@a:1", "a:1/x", "-a:1",
        ] {
            assert!(Address::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn takes_names_and_both_kinds_of_address() {
        for text in ["pi.local:8000", "10.0.0.1:1", "[::1]:65535", "a_b-c:80"] {
            assert_eq!(Address::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_written_as_ipv4() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(Address::of(mapped, 80).as_str(), "10.0.0.1:80");
    }
}
