//! Who may read: pure. Without a token the caller has to name this host as only somebody on it
//! does, as a page from elsewhere could be made to be called by a name that leads here (DNS
//! rebinding). With one nobody else's page knows the token, whatever name leads here.

use std::fmt;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::{IpAddr, Ipv6Addr};

use subtle::ConstantTimeEq;

use crate::protocol::hash::{Hash, Sha256};
use crate::server::{Caller, Headers};

/// Decides who is answered.
#[derive(Debug)]
pub(super) struct Guard {
    /// The hash of the token that has to be shown: so all that are compared have one length.
    token: Option<Hash>,
    /// What else this host is called.
    hosts: Vec<String>,
    /// Names callers to the gate.
    callers: RandomState,
}

/// Why somebody gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request does not say whom it is for.
    NoHost,
    /// It is for a name that is not known to be of this host.
    Misdirected,
    /// It shows no token, or another one.
    NoToken,
}

/// What a caller showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    guard: &'a Guard,
    is_token_right: bool,
}

impl Shown<'_> {
    /// Whether it may have data.
    pub(super) fn may_read(self) -> bool {
        self.is_token_right || self.guard.token.is_none()
    }

    /// Who it is to the gate, where it showed the token: then strangers keep it from nothing.
    pub(super) fn caller(self, ip: IpAddr) -> Option<Caller> {
        self.is_token_right.then(|| Caller(self.guard.callers.hash_one(ip)))
    }
}

impl Guard {
    pub(super) fn new(token: Option<&str>, hosts: &[String]) -> Self {
        Self {
            token: token.map(|token| Sha256::new(token.as_bytes()).finish()),
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            callers: RandomState::new(),
        }
    }

    /// Looks at what a request says of itself.
    pub(super) fn check(&self, headers: &Headers) -> Result<Shown<'_>, Refusal> {
        let Some(token) = &self.token else {
            let host = headers.host.as_deref().ok_or(Refusal::NoHost)?;
            return match self.is_own(host) {
                true => Ok(Shown { guard: self, is_token_right: false }),
                false => Err(Refusal::Misdirected),
            };
        };
        let shown = headers.authorization.as_ref().and_then(|text| bearer(text));
        let shown = shown.map(|text| Sha256::new(text.as_bytes()).finish());
        let is_token_right = shown.is_some_and(|shown| shown.ct_eq(token).into());
        Ok(Shown { guard: self, is_token_right })
    }

    /// Whether only somebody on this host calls it so, or the operator said that others do. The
    /// port may be another one: that of a tunnel.
    fn is_own(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            // An IPv6 address in brackets has colons of its own.
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, ""),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let is_loopback = match bare {
            Some(ip) => ip.parse().is_ok_and(|ip: Ipv6Addr| ip.to_canonical().is_loopback()),
            None => name.parse().is_ok_and(|ip: IpAddr| ip.is_ipv4() && ip.is_loopback()),
        };
        let name = bare.unwrap_or(name).to_ascii_lowercase();
        is_loopback || name == "localhost" || self.hosts.contains(&name)
    }
}

/// The token behind `Bearer`.
fn bearer(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

impl Refusal {
    /// The HTTP status.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::NoHost => 400,
            Self::Misdirected => 421,
            Self::NoToken => 401,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NoHost => "the request has no header Host",
            Self::Misdirected => {
                "this node is not known by that name: use http://localhost:PORT, start it with --http-host NAME, or with a \
                 token (--http-token FILE)"
            }
            Self::NoToken => "show the token of this node: Authorization: Bearer TOKEN",
        })
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn headers(host: Option<&str>, authorization: Option<&str>) -> Headers {
        Headers {
            host: host.map(str::to_owned),
            authorization: authorization.map(|text| Zeroizing::new(text.to_owned())),
            if_none_match: None,
        }
    }

    #[test]
    fn without_a_token_only_names_of_this_host_are_answered() {
        let guard = Guard::new(None, &["Garden.example".into(), "10.0.0.2".into()]);
        let refusal = |host| guard.check(&headers(host, None)).err();
        for host in [
            "localhost",
            "LocalHost:8001",
            "127.0.0.1:8001",
            "127.1.2.3",
            "[::1]:8001",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
            "garden.EXAMPLE:80",
            "10.0.0.2:9",
        ] {
            assert_eq!(refusal(Some(host)), None, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8001",
            "evil.example:localhost",
            "localhost:80:80",
            "10.0.0.3:8001",
            "[10.0.0.3]",
            "[::2]:8001",
            "::1",
            "2130706433",
            "127.1",
            "localhost.",
            "",
            ":8001",
            "user@localhost",
        ] {
            assert_eq!(refusal(Some(host)), Some(Refusal::Misdirected), "{host}");
        }
        assert_eq!(refusal(None), Some(Refusal::NoHost));
        let shown = guard.check(&headers(Some("localhost"), Some("Bearer x"))).unwrap();
        assert!(shown.may_read());
        assert_eq!(shown.caller([127, 0, 0, 1].into()), None, "nobody proved anything");
    }

    #[test]
    fn with_a_token_it_is_what_counts() {
        let guard = Guard::new(Some("0123456789abcdef"), &[]);
        let may_read = |text| guard.check(&headers(Some("any.example"), text)).unwrap().may_read();
        for right in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef"] {
            assert!(may_read(Some(right)), "{right}");
        }
        for wrong in [
            None,
            Some("0123456789abcdef"),
            Some("Basic 0123456789abcdef"),
            Some("Bearer 0123456789abcde"),
            Some("Bearer 0123456789abcdefg"),
            Some("Bearer 0123456789abcdeF"),
            Some("Bearer "),
            Some(""),
        ] {
            assert!(!may_read(wrong), "{wrong:?}");
        }
        let shown = headers(None, Some("Bearer 0123456789abcdef"));
        let caller = |ip: [u8; 4]| guard.check(&shown).unwrap().caller(ip.into()).unwrap();
        assert_eq!(caller([10, 0, 0, 1]), caller([10, 0, 0, 1]));
        assert_ne!(caller([10, 0, 0, 1]), caller([10, 0, 0, 2]));
    }
}
